//! What each Redis and each Sentinel says of its settings, and what it lets our user do. Nothing is changed: where a right to change
//! something is tried, what is asked for does not exist.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::users::{self, User};
use crate::sentinel;
use crate::server::{self, Credentials, Value};
use crate::wire::Reply;

/// The settings of a Redis that are looked at. None of them is a secret.
const SETTINGS: [&str; 17] = [
    "min-replicas-to-write",
    "min-replicas-max-lag",
    "replica-announce-ip",
    "replica-announce-port",
    "save",
    "appendonly",
    "bind",
    "protected-mode",
    "masteruser",
    "aclfile",
    "tls-cert-file",
    "tls-client-cert-file",
    "tls-ca-cert-file",
    "stop-writes-on-bgsave-error",
    "replica-serve-stale-data",
    "replica-read-only",
    "port",
];

/// Sentinel starts the scripts that it is to run every 0.1 s, 16 at once at most (sentinelTimer, SENTINEL_SCRIPT_MAX_RUNNING in sentinel.c): so much later
/// none of before waits any more, unless dozens of master names fail over just then.
const STARTED_WITHIN: Duration = Duration::from_millis(400);

/// A name that no server, setting or master has.
const NOTHING: &str = "rolegate-doctor-asks-only";

/// A Redis.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Redis {
    /// Its settings.
    pub settings: BTreeMap<String, String>,
    /// What INFO says.
    pub info: BTreeMap<String, String>,
    /// Its users, where they were asked for and shown.
    pub users: Option<Vec<User>>,
    /// What it denied us.
    pub denied: Vec<String>,
}

/// A Sentinel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sentinel {
    /// What it says of the master name.
    pub master: BTreeMap<String, String>,
    /// What INFO says.
    pub info: BTreeMap<String, String>,
    /// The scripts that wait to be tried again: path, and how often each was tried. None where they were not shown.
    pub pending: Option<Vec<(String, u64)>>,
    /// What it denied us.
    pub denied: Vec<String>,
}

impl Sentinel {
    /// How many scripts wait and are not run.
    pub fn waiting(&self) -> u64 {
        let number = |field: &str| self.info.get(field).and_then(|value| value.parse::<u64>().ok()).unwrap_or(0);
        number("sentinel_scripts_queue_length").saturating_sub(number("sentinel_running_scripts"))
    }
}

/// Asks the Redis at `address`.
///
/// # Errors
/// Why there is no answer.
pub fn redis(address: SocketAddr, credentials: &Credentials, within: Duration) -> Result<Redis, String> {
    let mut commands: Vec<Vec<&str>> = vec![vec!["INFO"], vec!["CONFIG", "SET", NOTHING, "1"]];
    commands.extend(SETTINGS.map(|name| vec!["CONFIG", "GET", name]));
    // A user of its own has no right to it, and the server would log that it tried.
    let asks_users = credentials.user.is_none();
    commands.extend(asks_users.then(|| vec!["ACL", "LIST"]));
    let commands: Vec<&[&str]> = commands.iter().map(Vec::as_slice).collect();
    let replies = server::ask_each(address, credentials, within, &commands);
    let replies = replies.map_err(|error| refusal(address, within).unwrap_or_else(|| error.to_string()))?;
    let mut redis = Redis { denied: denied(&commands, &replies), ..Redis::default() };
    let mut replies = replies.iter();
    redis.info = replies.next().and_then(server::text).map(|text| info(&text)).unwrap_or_default();
    _ = replies.next();
    for name in SETTINGS {
        let Some(Value::Array(pair)) = replies.next() else { continue };
        if let [_, value] = pair.as_slice() {
            redis.settings.extend(server::text(value).map(|value| (name.to_owned(), value)));
        }
    }
    if let (true, Some(Value::Array(lines))) = (asks_users, replies.next()) {
        redis.users = Some(lines.iter().filter_map(server::text).flat_map(|line| users::read(&line)).collect());
    }
    Ok(redis)
}

/// Asks the Sentinel at `address` about `master`.
///
/// # Errors
/// Why there is no answer.
pub fn sentinel(
    address: SocketAddr,
    master: &str,
    credentials: &Credentials,
    within: Duration,
) -> Result<Sentinel, String> {
    let mut commands: Vec<&[&str]> = vec![&["INFO"]];
    let of_master = ["SENTINEL", "MASTER", master];
    let with_name = ["GET-MASTER-ADDR-BY-NAME", "SENTINELS", "REPLICAS"].map(|of| ["SENTINEL", of, master]);
    commands.push(&of_master);
    commands.extend(with_name.iter().map(|command| command.as_slice()));
    // All that keeper and switchover ask for. A failover of a master name that there is not is none.
    commands.extend([
        &["SENTINEL", "MYID"][..],
        &["SENTINEL", "FAILOVER", NOTHING],
        &["CLIENT", "SETNAME", NOTHING],
        &["CLIENT", "LIST", "TYPE", "master"],
        &["PING"],
    ]);
    let asks_pending = credentials.user.is_none();
    if asks_pending {
        commands.push(&["SENTINEL", "PENDING-SCRIPTS"]);
    }
    // Last: nothing else may be asked behind it.
    commands.push(&["PSUBSCRIBE", "+switch-master"]);
    let replies = server::ask_each(address, credentials, within, &commands).map_err(|error| error.to_string())?;
    let pending = asks_pending.then(|| replies.get(commands.len() - 2)).flatten();
    let fields = |value: Option<&Value>| -> BTreeMap<String, String> {
        let Some(Reply::List(list)) = value.map(Reply::from) else { return BTreeMap::new() };
        sentinel::fields(&list).map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
    };
    let mut sentinel = Sentinel {
        denied: denied(&commands, &replies),
        info: replies.first().and_then(server::text).map(|text| info(&text)).unwrap_or_default(),
        master: fields(replies.get(1)),
        pending: match pending {
            Some(Value::Array(scripts)) => Some(scripts.iter().filter_map(script).collect()),
            _ => None,
        },
    };
    if sentinel.waiting() > 0 {
        std::thread::sleep(STARTED_WITHIN);
        let again = server::ask(address, credentials, within, &[&["INFO", "sentinel"]]);
        let again = again.ok().and_then(|replies| server::text(replies.first()?));
        sentinel.info.extend(again.map(|text| info(&text)).unwrap_or_default());
    }
    Ok(sentinel)
}

/// What a server says to a client before it closes the connection, as protected mode does: who sends first may never read it.
fn refusal(address: SocketAddr, within: Duration) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, within).ok()?;
    stream.set_read_timeout(Some(within.min(Duration::from_millis(300)))).ok()?;
    let mut said = [0; 512];
    let length = stream.read(&mut said).ok()?;
    let text = String::from_utf8_lossy(&said[..length]).into_owned();
    text.strip_prefix('-').map(|reason| reason.split(". ").next().unwrap_or(reason).trim_end().to_owned())
}

/// An entry of `SENTINEL PENDING-SCRIPTS` (sentinelPendingScriptsCommand in sentinel.c).
fn script(entry: &Value) -> Option<(String, u64)> {
    let Value::Array(list) = entry else { return None };
    let get = |name: &str| list.chunks_exact(2).find(|pair| server::text(&pair[0]).as_deref() == Some(name));
    let path = match get("argv")?.get(1)? {
        Value::Array(argv) => argv.first().and_then(server::text)?,
        _ => return None,
    };
    let tried = get("retry-num").and_then(|pair| server::text(&pair[1])?.parse().ok()).unwrap_or(0);
    Some((path, tried))
}

/// The commands that were denied, in words.
fn denied(commands: &[&[&str]], replies: &[Value]) -> Vec<String> {
    let mut all = Vec::new();
    for (command, reply) in commands.iter().zip(replies) {
        if server::denial(reply).is_none() {
            continue;
        }
        let words = if ["CONFIG", "CLIENT", "SENTINEL", "ACL"].contains(&command[0]) { 2 } else { 1 };
        let name = command[..words.min(command.len())].join(" ");
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

/// The lines of INFO.
fn info(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.trim_end().split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(words: &str) -> Value {
        Value::BulkString(words.as_bytes().to_vec())
    }

    #[test]
    fn a_pending_script_is_read() {
        // As Redis 7.0 gives it.
        let entry = Value::Array(vec![
            text("argv"),
            Value::Array(vec![text("/usr/lib/rolegate/rolegate-hook"), text("mymaster")]),
            text("flags"),
            text("scheduled"),
            text("pid"),
            text("0"),
            text("run-delay"),
            text("29000"),
            text("retry-num"),
            text("2"),
        ]);
        assert_eq!(script(&entry), Some(("/usr/lib/rolegate/rolegate-hook".into(), 2)));
        assert_eq!(script(&Value::Array(vec![text("argv"), text("x")])), None);
    }

    #[test]
    fn a_script_that_runs_does_not_wait() {
        let of = |text: &str| Sentinel { info: info(text), ..Sentinel::default() }.waiting();
        assert_eq!(of("sentinel_running_scripts:2\r\nsentinel_scripts_queue_length:3\r\n"), 1);
        assert_eq!(of("sentinel_running_scripts:1\r\nsentinel_scripts_queue_length:1\r\n"), 0);
        assert_eq!(of("redis_version:7.0.15\r\n"), 0);
    }

    #[test]
    fn what_was_denied_is_named_once_and_without_its_arguments() {
        let error = redis::parse_redis_value(b"-NOPERM this user has no permissions\r\n").unwrap();
        let commands: [&[&str]; 4] =
            [&["CONFIG", "GET", "save"], &["CONFIG", "GET", "bind"], &["PSUBSCRIBE", "+switch-master"], &["INFO"]];
        let replies = [error.clone(), error.clone(), error, Value::Nil];
        assert_eq!(denied(&commands, &replies), ["CONFIG GET", "PSUBSCRIBE"]);
    }
}
