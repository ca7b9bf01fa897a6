//! What Sentinels say: asking them, and reading their replies. What follows from the replies is
//! decided in [`verdict`].

mod verdict;

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::record::{Record, SentinelEntry};
use crate::server::{self, AskError, Credentials, Value};
use crate::together::together;
use crate::wire::Reply;

pub use verdict::{
    About, LocalServer, Said, Verdict, free_beside_promoted, free_to_fail_over, in_no_failover, unreached_for,
};

/// One Sentinel's view of a master name, taken in one pass of its event loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// `SENTINEL MYID`.
    pub id: String,
    /// `SENTINEL GET-MASTER-ADDR-BY-NAME`: whom it names. `None` where it does not know the name.
    pub named: Option<Place>,
    /// `SENTINEL MASTER`. On the leader of a failover that has promoted already this still is
    /// the old primary, while `named` is the new one.
    pub master: Option<Master>,
}

/// A host and a port as a Sentinel writes them. The host is a name where the Sentinel announces
/// host names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// An address, or a host name.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Place {
    /// The address, if it is one. A name is never resolved.
    pub fn address(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.host.parse::<IpAddr>().ok()?, self.port))
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.address() {
            Some(address) => address.fmt(f),
            None => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// The fields of `SENTINEL MASTER` that somebody here looks at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Master {
    /// `ip` and `port`.
    pub place: Option<Place>,
    /// `runid`; empty for up to 10 s after a switch or RESET.
    pub run_id: String,
    /// `flags`, for example master, s_down, o_down, failover_in_progress.
    pub flags: Vec<String>,
    /// `config-epoch`.
    pub config_epoch: u64,
    /// `down-after-milliseconds`.
    pub down_after: Duration,
    /// `quorum`.
    pub quorum: u64,
    /// `role-reported-time`, where `role-reported` is master: how long this Sentinel has known it as the primary, without a break. Begins
    /// anew when the Sentinel restarts or is reset (sentinelResetMaster of sentinel.c), so it is at least that.
    pub known_for: Option<Duration>,
    /// `s-down-time`: how long it has not answered this Sentinel.
    pub down_for: Option<Duration>,
    /// `last-ok-ping-reply`: for how long it has not answered this Sentinel, in what Sentinel takes for an answer. They ask each second.
    pub silent_for: Duration,
}

/// What came of asking one Sentinel of the record.
#[derive(Debug, Clone)]
pub struct Heard {
    /// Which one.
    pub sentinel: SentinelEntry,
    /// Its answer, or why there is none. Shared: a keeper judges each several times.
    pub answer: Result<Arc<Answer>, AskError>,
}

/// The configuration epoch that Sentinels have, the highest; None where none of these knows the master name.
pub fn highest_epoch<'a>(answers: impl IntoIterator<Item = &'a Answer>) -> Option<u64> {
    answers.into_iter().filter_map(|answer| Some(answer.master.as_ref()?.config_epoch)).max()
}

/// Asks the Sentinel at `address` about `master`.
///
/// # Errors
/// [`AskError`], in any case within `deadline`.
pub fn ask(
    address: SocketAddr,
    master: &str,
    credentials: &Credentials,
    deadline: Duration,
) -> Result<Answer, AskError> {
    let replies = server::ask(
        address,
        credentials,
        deadline,
        &[&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", master], &["SENTINEL", "MASTER", master], &["SENTINEL", "MYID"]],
    )?;
    read_answer(&replies)
}

/// A Sentinel and all that it knows of the others: what `rolegate init` finds the record from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// Its view of the master name.
    pub answer: Answer,
    /// `SENTINEL SENTINELS`: the other Sentinels, run id and place.
    pub peers: Vec<(String, Place)>,
    /// `SENTINEL REPLICAS`.
    pub replicas: Vec<Known>,
}

/// A replica as a Sentinel knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Where.
    pub place: Place,
    /// It does not answer this Sentinel (`s_down`).
    pub down: bool,
    /// This Sentinel has a connection to it (not `disconnected`); without one it chooses another.
    pub linked: bool,
    /// It says that it is a replica (`role-reported`). One that this Sentinel still takes for the primary that it was is made a replica
    /// again where it is promoted (`+convert-to-slave`).
    pub is_replica: bool,
    /// `slave-priority`; 0 is never chosen.
    pub priority: u32,
    /// `info-refresh`: how old its last answer to INFO is, by which alone this Sentinel knows of its role and priority.
    pub info_age: Option<Duration>,
}

/// Asks the Sentinel at `address` for all that it knows about `master`.
///
/// # Errors
/// [`AskError`], in any case within `deadline`.
pub fn survey(
    address: SocketAddr,
    master: &str,
    credentials: &Credentials,
    deadline: Duration,
) -> Result<Survey, AskError> {
    let replies = server::ask(
        address,
        credentials,
        deadline,
        &[
            &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", master],
            &["SENTINEL", "MASTER", master],
            &["SENTINEL", "MYID"],
            &["SENTINEL", "SENTINELS", master],
            &["SENTINEL", "REPLICAS", master],
        ],
    )?;
    read_survey(&replies)
}

/// Reads the replies to the five questions of [`survey`].
///
/// # Errors
/// [`AskError::Broken`] where they are none.
pub fn read_survey<'a, R: Into<Reply<'a>>>(replies: impl IntoIterator<Item = R>) -> Result<Survey, AskError> {
    let mut replies = replies.into_iter().map(Into::into).collect::<Vec<Reply>>();
    let [sentinels, replicas] = match replies.len() {
        5 => replies.split_off(3).try_into().unwrap_or([Reply::Nil, Reply::Nil]),
        count => return Err(AskError::Broken(format!("{count} replies to 5 questions"))),
    };
    let answer = read_answer(replies)?;
    let list = |question, reply: &Reply| match reply {
        Reply::List(items) => items.iter().map(|item| instance(item).ok_or_else(|| not_a(question, item))).collect(),
        // "No such master with that name".
        other if other.is_error() && answer.named.is_none() => Ok(Vec::new()),
        other => Err(not_a(question, other)),
    };
    let sentinels: Vec<Instance> = list("SENTINEL SENTINELS", &sentinels)?;
    let replicas: Vec<Instance> = list("SENTINEL REPLICAS", &replicas)?;
    Ok(Survey {
        answer,
        peers: sentinels.into_iter().map(|sentinel| (sentinel.run_id, sentinel.place)).collect(),
        replicas: replicas
            .into_iter()
            .map(|replica| Known {
                place: replica.place,
                down: replica.down,
                linked: replica.linked,
                is_replica: replica.is_replica,
                priority: replica.priority,
                info_age: replica.info_age,
            })
            .collect(),
    })
}

/// An element of the lists that Sentinel gives.
struct Instance {
    run_id: String,
    place: Place,
    down: bool,
    linked: bool,
    is_replica: bool,
    priority: u32,
    info_age: Option<Duration>,
}

fn instance(item: &Reply) -> Option<Instance> {
    let Reply::List(flat) = item else { return None };
    let named: Vec<_> = fields(flat).collect();
    let get = |name: &str| named.iter().find(|(field, _)| field == name).map(|(_, value)| &**value);
    let flag = |flag: &str| get("flags").is_some_and(|flags| flags.split(',').any(|one| one == flag));
    Some(Instance {
        run_id: get("runid").unwrap_or_default().to_owned(),
        place: Place { host: get("ip")?.to_owned(), port: get("port")?.parse().ok()? },
        down: flag("s_down") || flag("o_down"),
        linked: !flag("disconnected"),
        is_replica: get("role-reported").is_none_or(|role| role == "slave"),
        priority: get("slave-priority").and_then(|value| value.parse().ok()).unwrap_or(100),
        info_age: get("info-refresh").and_then(|value| value.parse().ok()).map(Duration::from_millis),
    })
}

/// Asks all Sentinels of `record` at once.
pub fn ask_all(record: &Record, master: &str, credentials: &Credentials, deadline: Duration) -> Vec<Heard> {
    let jobs = record.sentinels().iter().map(|sentinel| {
        let (address, master, credentials) = (sentinel.address, master.to_owned(), credentials.clone());
        move || ask(address, &master, &credentials, deadline)
    });
    together(deadline, jobs)
        .into_iter()
        .zip(record.sentinels())
        .map(|(answer, sentinel)| Heard {
            sentinel: sentinel.clone(),
            answer: answer.unwrap_or(Err(AskError::Silent)).map(Arc::new),
        })
        .collect()
}

/// Asks the Sentinels at `addresses`, one after the other, for a failover (`SENTINEL FAILOVER`: without asking the others whether the
/// primary is down) until one begins it: a second would begin a second failover. One in TILT would begin it and do nothing
/// until TILT is over, 30 s; it is passed over (INFO's `sentinel_tilt`).
///
/// Gives the one that was asked.
///
/// # Errors
/// Why none has begun one. Silence behind the request is no error: a failover may have begun.
pub fn fail_over(
    addresses: &[SocketAddr],
    master: &str,
    credentials: &Credentials,
    deadline: Duration,
) -> Result<SocketAddr, String> {
    let mut why = Vec::new();
    for &address in addresses {
        let ask = |command: &[&str]| server::ask(address, credentials, deadline, &[command]);
        match ask(&["INFO", "sentinel"]) {
            Ok(info) if info.first().and_then(server::text).is_some_and(|info| info.contains("sentinel_tilt:1")) => {
                why.push(format!("{address} is in TILT"));
                continue;
            }
            // Whose rights do not go that far is asked all the same.
            Ok(_) | Err(AskError::Denied(_)) => {}
            Err(error) => {
                why.push(format!("{address}: {error}"));
                continue;
            }
        }
        match begin_failover(address, master, credentials, deadline) {
            Begun::Yes | Begun::Perhaps => return Ok(address),
            Begun::No(refusal) => why.push(format!("{address}: {refusal}")),
        }
    }
    Err(why.join("; "))
}

/// What came of asking a Sentinel for a failover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// It is in one now.
    Yes,
    /// It may be: it did not answer.
    Perhaps,
    /// It is not: why.
    No(String),
}

/// Asks the Sentinel at `address` for a failover, and nothing before.
pub fn begin_failover(address: SocketAddr, master: &str, credentials: &Credentials, deadline: Duration) -> Begun {
    match server::ask(address, credentials, deadline, &[&["SENTINEL", "FAILOVER", master]]).as_deref() {
        Ok([Value::Okay]) => Begun::Yes,
        Ok([Value::ServerError(error)]) if error.code() == "INPROG" => Begun::Yes,
        Err(AskError::Silent | AskError::Broken(_)) => Begun::Perhaps,
        Ok(replies) => Begun::No(replies.iter().map(server::shown).collect::<Vec<_>>().join(" ")),
        Err(error) => Begun::No(error.to_string()),
    }
}

/// Reads the replies to the three questions of [`ask`].
///
/// # Errors
/// [`AskError::Broken`] where they are none.
pub fn read_answer<'a, R: Into<Reply<'a>>>(replies: impl IntoIterator<Item = R>) -> Result<Answer, AskError> {
    let replies = replies.into_iter().map(Into::into).collect::<Vec<Reply>>();
    let [named, master, id] = replies.as_slice() else {
        return Err(AskError::Broken(format!("{} replies to 3 questions", replies.len())));
    };
    let id = id.text().ok_or_else(|| not_a("SENTINEL MYID", id))?.into_owned();
    let named = match named {
        Reply::Nil => None,
        Reply::List(parts) => Some(place(parts).ok_or_else(|| not_a("GET-MASTER-ADDR-BY-NAME", named))?),
        other => return Err(not_a("GET-MASTER-ADDR-BY-NAME", other)),
    };
    let master = match master {
        Reply::List(fields) => Some(read_master(fields)),
        // "No such master with that name".
        other if other.is_error() && named.is_none() => None,
        other => return Err(not_a("SENTINEL MASTER", other)),
    };
    Ok(Answer { id, named, master })
}

fn not_a(question: &str, reply: &Reply) -> AskError {
    AskError::Broken(format!("not a reply to {question}: {}", server::shown(&reply.to_value())))
}

fn place(parts: &[Reply]) -> Option<Place> {
    let [host, port] = parts else { return None };
    Some(Place { host: host.text()?.into_owned(), port: port.text()?.parse().ok()? })
}

/// Reads a flat list of names and values, as Sentinel writes its instances.
pub(crate) fn fields<'a>(list: &[Reply<'a>]) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> {
    list.chunks_exact(2).filter_map(|pair| Some((pair[0].text()?, pair[1].text()?)))
}

fn read_master(list: &[Reply]) -> Master {
    let mut master = Master::default();
    let (mut host, mut port) = (None, None);
    let (mut role, mut role_for) = (None, None);
    let time = |value: &str| value.parse().ok().map(Duration::from_millis);
    for (name, value) in fields(list) {
        match &*name {
            "ip" => host = Some(value.into_owned()),
            "port" => port = value.parse().ok(),
            "runid" => master.run_id = value.into_owned(),
            "flags" => master.flags = value.split(',').map(str::to_owned).collect(),
            "config-epoch" => master.config_epoch = value.parse().unwrap_or(0),
            "down-after-milliseconds" => master.down_after = Duration::from_millis(value.parse().unwrap_or(0)),
            "quorum" => master.quorum = value.parse().unwrap_or(0),
            "s-down-time" => master.down_for = time(&value),
            "role-reported" => role = Some(value),
            "role-reported-time" => role_for = time(&value),
            "last-ok-ping-reply" => master.silent_for = Duration::from_millis(value.parse().unwrap_or(0)),
            _ => {}
        }
    }
    master.known_for = role_for.filter(|_| role.as_deref() == Some("master"));
    master.place = host.zip(port).map(|(host, port)| Place { host, port });
    master
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn list(words: &[&str]) -> Value {
        Value::Array(words.iter().map(|word| bulk(word)).collect())
    }

    fn error() -> Value {
        Value::ServerError(redis::parse_redis_value(b"-ERR No such master with that name\r\n").map_or_else(
            |_| panic!("an error reply is a value"),
            |value| match value {
                Value::ServerError(error) => error,
                other => panic!("{other:?}"),
            },
        ))
    }

    #[test]
    fn reads_an_answer() {
        let answer = read_answer(&[
            list(&["10.0.0.1", "6379"]),
            list(&[
                "name",
                "mymaster",
                "ip",
                "10.0.0.1",
                "port",
                "6379",
                "runid",
                "ab",
                "flags",
                "master,s_down",
                "config-epoch",
                "7",
                "down-after-milliseconds",
                "5000",
                "quorum",
                "2",
                "s-down-time",
                "7000",
                "role-reported-time",
                "14000",
                "role-reported",
                "master",
            ]),
            bulk("me"),
        ])
        .unwrap();
        assert_eq!(answer.id, "me");
        assert_eq!(answer.named.unwrap().address(), Some("10.0.0.1:6379".parse().unwrap()));
        let master = answer.master.unwrap();
        assert_eq!((master.config_epoch, master.quorum, master.run_id.as_str()), (7, 2, "ab"));
        assert_eq!(master.down_after, Duration::from_secs(5));
        assert_eq!(master.flags, ["master", "s_down"]);
        assert_eq!((master.known_for, master.down_for), (Some(Duration::from_secs(14)), Some(Duration::from_secs(7))));
        let slave = list(&["role-reported-time", "14000", "role-reported", "slave"]);
        let answer = read_answer(&[list(&["10.0.0.1", "6379"]), slave, bulk("me")]).unwrap();
        assert_eq!(answer.master.unwrap().known_for, None);
    }

    #[test]
    fn an_unknown_master_name_is_an_answer() {
        let answer = read_answer(&[Value::Nil, error(), bulk("me")]).unwrap();
        assert_eq!((answer.named, answer.master), (None, None));
    }

    #[test]
    fn what_is_no_answer_is_broken() {
        for replies in [
            vec![],
            vec![Value::Nil, error()],
            vec![Value::Nil, error(), Value::Nil],
            vec![list(&["10.0.0.1"]), list(&[]), bulk("me")],
            vec![list(&["10.0.0.1", "port"]), list(&[]), bulk("me")],
            vec![list(&["10.0.0.1", "6379"]), error(), bulk("me")],
            vec![Value::Int(1), list(&[]), bulk("me")],
        ] {
            assert!(matches!(read_answer(&replies), Err(AskError::Broken(_))), "{replies:?}");
        }
    }

    #[test]
    fn reads_a_survey() {
        let replies = [
            list(&["10.0.0.1", "6379"]),
            list(&["ip", "10.0.0.1", "port", "6379"]),
            bulk("me"),
            Value::Array(vec![list(&["name", "you", "ip", "10.0.0.2", "port", "26379", "runid", "you"])]),
            Value::Array(vec![
                list(&[
                    "ip",
                    "10.0.0.2",
                    "port",
                    "6379",
                    "flags",
                    "slave,s_down,disconnected",
                    "role-reported",
                    "master",
                    "slave-priority",
                    "0",
                ]),
                list(&[
                    "ip",
                    "redis3",
                    "port",
                    "6379",
                    "flags",
                    "slave",
                    "info-refresh",
                    "612",
                    "slave-priority",
                    "100",
                ]),
            ]),
        ];
        let survey = read_survey(&replies).unwrap();
        assert_eq!(survey.peers, [("you".to_owned(), Place { host: "10.0.0.2".into(), port: 26379 })]);
        let replicas: Vec<_> =
            survey.replicas.iter().map(|known| (known.place.host.as_str(), known.down, known.priority)).collect();
        assert_eq!(replicas, [("10.0.0.2", true, 0), ("redis3", false, 100)]);
        assert_eq!(survey.replicas[1].info_age, Some(Duration::from_millis(612)));
        let known: Vec<_> = survey.replicas.iter().map(|known| (known.linked, known.is_replica)).collect();
        assert_eq!(known, [(false, false), (true, true)]);
        let strange = read_survey(&[Value::Nil, error(), bulk("me"), error(), error()]).unwrap();
        assert_eq!((strange.answer.named, strange.peers.len(), strange.replicas.len()), (None, 0, 0));
        assert!(read_survey(&replies[..4]).is_err());
        let broken = [&replies[..3], &[Value::Array(vec![Value::Int(1)]), Value::Array(vec![])]].concat();
        assert!(read_survey(&broken).is_err());
    }

    #[test]
    fn a_host_name_is_no_address() {
        assert_eq!(Place { host: "redis1".into(), port: 6379 }.address(), None);
        assert_eq!(Place { host: "fd00::1".into(), port: 1 }.to_string(), "[fd00::1]:1");
    }
}
