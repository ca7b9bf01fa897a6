//! `rolegate exec`: a Redis command on the nodes of the record, side by side.
//!
//! Its words go to the server as they were typed, never through a shell. Before anything is sent each server is asked what the
//! command is ([`crate::commands`]): what may write goes to the primary only, and there through the read-write port, so that what a
//! stale primary would throw away is refused. All are asked first; where one refusal stands nothing is sent to anybody.

use std::ffi::OsString;
use std::fmt::Write;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use serde_json::json;

use super::fence::Act;
use super::table::{Cell, style, table};
use super::{Gate, Stop, facts, gates, say, say_in_colour};
use crate::commands::{self, Kind};
use crate::exit::CliCode;
use crate::instance;
use crate::pacemaker::Cib;
use crate::record::Record;
use crate::role::Role;
use crate::sentinel::{self, Verdict};
use crate::server::{self, AskError, Credentials, Value};
use crate::settings::{Settings, look_at_credentials, password_in};
use crate::times;
use crate::together::together;

/// The version of what `--json` prints. README.md has its fields; `docs/status.md` says what a new one means.
const SCHEMA: u32 = 1;

/// How long Pacemaker may take to say where the nodes are; then what is on this node's disk has to do.
const PACEMAKER: Duration = Duration::from_secs(2);

/// The arguments.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "rolegate exec [OPTIONS] -- COMMAND...",
    after_help = "For example: rolegate exec --role replica -- CONFIG GET maxmemory"
)]
pub struct Args {
    /// On which nodes, by their role
    #[arg(long, value_name = "ROLE", value_enum, default_value_t = Which::All)]
    role: Which,
    /// On this node (repeatable); what ends or blocks a server needs one
    #[arg(long = "node", value_name = "NODE")]
    nodes: Vec<String>,
    /// Which master name, where there are several
    #[arg(long, value_name = "NAME")]
    master: Option<String>,
    /// How long each node may take
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = times::parse)]
    within: Duration,
    /// Another user than that of rolegate.toml
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// The file with the user's password
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// The command and its arguments, as they are
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// A `--role`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    Primary,
    Replica,
    All,
}

/// A node on which it is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    name: String,
    /// Its role in the cluster.
    role: Option<Role>,
    /// Where its Redis is.
    data: SocketAddr,
}

/// What a node said of itself and of the command.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    /// Its server is primary.
    primary: bool,
    kind: Kind,
}

/// `rolegate exec`.
pub fn run(args: &Args) -> Result<CliCode, Stop> {
    let settings = Settings::load()?;
    let mut credentials = settings.redis.clone();
    if args.user.is_some() || args.password_file.is_some() {
        let password = args.password_file.as_deref().map(password_in).transpose()?;
        credentials = Credentials { user: args.user.clone(), password };
    }
    let words: Vec<Vec<u8>> = args.command.iter().map(|word| word.clone().into_vec()).collect();
    let (cib, gate) = gate_of(args.master.as_deref())?;
    let record = gate.params.record.as_ref().map_err(|error| Stop::refused(error.to_string()))?;
    let targets = choose(record, &cib, &gate.params.attribute, args.role, &args.nodes)?;
    let within = settings.answer_within;

    let told = ask_first(&targets, &credentials, within, &words);
    let writes = told.iter().flatten().any(|told| matches!(told.kind, Kind::MayWrite(_)));
    let named = writes.then(|| {
        let heard = sentinel::ask_all(record, &gate.params.master, &settings.sentinel, within);
        Verdict::of(record, &heard, None)
    });
    let command = shown(&words[0]);
    let refusals = refusals(&targets, &told, named.as_ref(), &command, args.nodes.len());
    if !refusals.is_empty() {
        return Err(Stop::refused(format!("nothing was sent to anybody:\n  {}", refusals.join("\n  "))));
    }
    let jobs = targets.iter().zip(&told).map(|(target, told)| {
        let address = match told {
            // The port that is open on one node at most, and held open by a lease.
            Ok(Told { kind: Kind::MayWrite(_), .. }) => SocketAddr::new(target.data.ip(), gate.params.ports.rw),
            _ => target.data,
        };
        let (words, credentials, told, within) = (words.clone(), credentials.clone(), told.clone(), args.within);
        move || {
            told?;
            let mut replies = server::ask(address, &credentials, within, &[&words[..]])?;
            replies.pop().ok_or(AskError::Silent)
        }
    });
    let replies = together(args.within + Duration::from_millis(500), jobs);
    let answers: Vec<Answer> = targets
        .into_iter()
        .zip(&told)
        .zip(replies)
        .map(|((target, told), reply)| {
            let wrote = matches!(told, Ok(Told { kind: Kind::MayWrite(_), .. }));
            Answer { target, wrote, reply: reply.unwrap_or(Err(AskError::Silent)) }
        })
        .collect();
    let not_sent = |answer: &&Answer| matches!(answer.reply, Err(AskError::Refused | AskError::Denied(_)));
    for answer in answers.iter().filter(|answer| answer.wrote && !not_sent(answer)) {
        // Arguments may be secrets.
        Act::on(&answer.target.name, "exec").note([&gate], &format!("{} was sent", shown(&words[0])));
    }
    if args.json {
        say(json(&words, &gate.params.master, &answers));
    } else {
        say_in_colour(&text(&answers, is_text(&words)));
    }
    Ok(answers.iter().map(Answer::code).max().unwrap_or(CliCode::Ok))
}

/// The gate that is meant, also where Pacemaker says nothing here.
fn gate_of(master: Option<&str>) -> Result<(Cib, Gate), Stop> {
    let seen = facts::cluster(PACEMAKER);
    let Some(cib) = seen.cib else {
        return Err(Stop::unknown(seen.facts.error.unwrap_or_else(|| "Pacemaker does not answer here".to_owned())));
    };
    let (all, bad) = gates(&cib);
    let gate = match (master, all.as_slice()) {
        (None, [gate]) => gate.clone(),
        (Some(master), all) => match all.iter().find(|gate| gate.params.master == master) {
            Some(gate) => gate.clone(),
            None => return Err(super::status::no_such_master(master, all, &bad)),
        },
        (None, []) => {
            let why = bad.first().map(|(resource, error)| format!("gate {}: {error}", resource.id));
            return Err(Stop::refused(why.unwrap_or_else(|| {
                format!("the cluster has no gate (ocf:rolegate:gate). Make one:\n{}", super::CREATE)
            })));
        }
        (None, several) => {
            let known: Vec<&str> = several.iter().map(|gate| gate.params.master.as_str()).collect();
            return Err(Stop::refused(format!("which master name? --master NAME, one of {}", known.join(", "))));
        }
    };
    Ok((cib, gate))
}

/// The nodes that are meant. Pure.
fn choose(record: &Record, cib: &Cib, attribute: &str, role: Which, nodes: &[String]) -> Result<Vec<Target>, Stop> {
    if let Some(stranger) = nodes.iter().find(|name| record.node(name).is_none()) {
        let known: Vec<&str> = record.nodes().iter().map(|node| node.name.as_str()).collect();
        return Err(Stop::refused(format!("the record has no node {stranger}; there is {}", known.join(", "))));
    }
    let is_meant = |name: &str| nodes.is_empty() || nodes.iter().any(|node| node.eq_ignore_ascii_case(name));
    let role_of = |name: &str| cib.node(name).and_then(|node| node.attribute(attribute)?.parse::<Role>().ok());
    let targets: Vec<Target> = record
        .nodes()
        .iter()
        .filter(|node| is_meant(&node.name))
        .map(|node| Target { name: node.name.clone(), role: role_of(&node.name), data: node.address })
        .filter(|target| match role {
            Which::All => true,
            Which::Primary => target.role == Some(Role::Primary),
            Which::Replica => target.role == Some(Role::Replica),
        })
        .collect();
    if targets.is_empty() {
        let role = if role == Which::Primary { Role::Primary } else { Role::Replica };
        return Err(Stop::refused(format!(
            "none of these nodes has the role {role} ({attribute}); rolegate status says why"
        )));
    }
    Ok(targets)
}

/// Asks each server who it is and what the command is.
fn ask_first(
    targets: &[Target],
    credentials: &Credentials,
    within: Duration,
    words: &[Vec<u8>],
) -> Vec<Result<Told, AskError>> {
    let jobs = targets.iter().map(|target| {
        let (address, credentials, words) = (target.data, credentials.clone(), words.to_vec());
        move || -> Result<Told, AskError> {
            let info = instance::QUESTION.map(|command| command.map_words());
            let question = commands::question(&words);
            let mut all: Vec<&[Vec<u8>]> = info.iter().map(Vec::as_slice).collect();
            all.push(&question);
            let mut replies = server::ask(address, &credentials, within, &all)?;
            let of_command = replies.pop().unwrap_or(Value::Nil);
            let kind = commands::judge(&words, &of_command);
            Ok(Told { primary: instance::read(&replies)?.is_primary(), kind })
        }
    });
    let told = together(within + Duration::from_millis(500), jobs);
    told.into_iter().map(|told| told.unwrap_or(Err(AskError::Silent))).collect()
}

/// Words as bytes.
trait Words {
    fn map_words(&self) -> Vec<Vec<u8>>;
}

impl Words for &[&str] {
    fn map_words(&self) -> Vec<Vec<u8>> {
        self.iter().map(|word| word.as_bytes().to_vec()).collect()
    }
}

/// Why the command goes to nobody; so many nodes were named by the operator. Pure.
fn refusals(
    targets: &[Target],
    told: &[Result<Told, AskError>],
    named: Option<&Verdict>,
    command: &str,
    by_name: usize,
) -> Vec<String> {
    let mut why = Vec::new();
    let (mut only_primary, mut only_one) = (false, None);
    for (target, told) in targets.iter().zip(told) {
        let name = &target.name;
        let told = match told {
            Ok(told) => told,
            Err(AskError::Denied(denied)) => {
                why.push(format!("{name}: access denied: {denied}; {}", look_at_credentials("redis")));
                continue;
            }
            // It is shown as silent.
            Err(_) => continue,
        };
        match &told.kind {
            Kind::Anywhere => {}
            Kind::OneOnly(_) if by_name == 1 => {}
            Kind::OneOnly(reason) => only_one = Some(reason),
            Kind::Never(reason) => why.push(format!("{name}: {command} is not for this: {reason}")),
            Kind::Unknown(reason) => why.push(format!("{name}: what {command} does cannot be told: {reason}")),
            Kind::MayWrite(reason) => {
                let is_named = named.and_then(|verdict| verdict.named.as_deref());
                let refusal = if target.role != Some(Role::Primary) {
                    only_primary = true;
                    let role = target.role.map_or("no role", Role::as_str);
                    format!("{reason}, and this node's role is {role}")
                } else if !told.primary {
                    format!("{reason}, and its Redis is a replica")
                } else if !is_named.is_some_and(|is| is.eq_ignore_ascii_case(name)) {
                    let notes = named.map(|verdict| verdict.notes.join("; ")).unwrap_or_default();
                    match is_named {
                        Some(other) => format!("{reason}, and the Sentinels' majority names {other}"),
                        None => format!("{reason}, and no majority of Sentinels names a primary ({notes})"),
                    }
                } else {
                    continue;
                };
                why.push(format!("{name}: {command}: {refusal}"));
            }
        }
    }
    if let Some(reason) = only_one {
        why.push(format!(
            "{command}: {reason}. It goes to one node only, and that by name: rolegate exec --node NODE -- {command} ..."
        ));
    }
    if only_primary {
        why.push(format!("what writes goes to the primary only: rolegate exec --role primary -- {command} ..."));
    }
    why
}

/// What came of it on one node.
struct Answer {
    target: Target,
    /// It may have written.
    wrote: bool,
    reply: Result<Value, AskError>,
}

impl Answer {
    fn code(&self) -> CliCode {
        match &self.reply {
            Ok(Value::ServerError(_)) | Err(AskError::Refused | AskError::Denied(_)) => CliCode::Warning,
            Ok(_) => CliCode::Ok,
            Err(AskError::Silent | AskError::Broken(_)) => CliCode::Unknown,
        }
    }

    /// Why there is no reply.
    fn missing(&self, error: &AskError) -> String {
        match error {
            AskError::Refused if self.wrote => "the read-write port is closed: nothing was written".to_owned(),
            AskError::Silent | AskError::Broken(_) if self.wrote => {
                format!("{error}: whether it was done cannot be told")
            }
            error => error.to_string(),
        }
    }
}

/// Their replies are lines for people, as redis-cli has it (`cliSendCommand` in its source).
fn is_text(words: &[Vec<u8>]) -> bool {
    let word = |n: usize| words.get(n).map(|word| String::from_utf8_lossy(word).to_ascii_uppercase());
    let (first, second) = (word(0).unwrap_or_default(), word(1).unwrap_or_default());
    matches!(
        (first.as_str(), second.as_str()),
        ("INFO" | "LOLWUT", _)
            | ("MEMORY", "MALLOC-STATS" | "DOCTOR")
            | ("LATENCY", "GRAPH" | "DOCTOR")
            | ("CLIENT", "LIST" | "INFO")
            | ("CLUSTER", "NODES" | "INFO")
            | ("DEBUG", "HTSTATS")
    )
}

/// For people: a table where each reply is a line, else one reply below the other.
fn text(answers: &[Answer], as_text: bool) -> String {
    let said: Vec<(Vec<String>, anstyle::Style)> = answers
        .iter()
        .map(|answer| match &answer.reply {
            Ok(Value::BulkString(bytes)) if as_text => (plain_lines(bytes), anstyle::Style::new()),
            Ok(error @ Value::ServerError(_)) => (lines(error), style::BAD),
            Ok(value) => (lines(value), anstyle::Style::new()),
            Err(error) => (vec![answer.missing(error)], style::UNKNOWN),
        })
        .collect();
    let role = |answer: &Answer| answer.target.role.map_or("-", Role::as_str);
    if said.iter().all(|(lines, _)| lines.len() == 1) {
        let rows: Vec<Vec<Cell>> = answers
            .iter()
            .zip(said)
            .map(|(answer, (lines, style))| {
                vec![answer.target.name.as_str().into(), role(answer).into(), Cell::new(lines.concat(), style)]
            })
            .collect();
        return table(&["NODE", "ROLE", "REPLY"], &rows);
    }
    let mut out = String::new();
    for (n, (answer, (lines, style))) in answers.iter().zip(said).enumerate() {
        let gap = if n > 0 { "\n" } else { "" };
        let heading = format!("{} ({}), {}", answer.target.name, role(answer), answer.target.data);
        // Writing to a String cannot fail.
        let _infallible = writeln!(out, "{gap}{}", super::table::styled(heading, style::FAINT));
        for line in lines {
            let _infallible = writeln!(out, "{}", super::table::styled(line, style));
        }
    }
    out
}

/// A reply as redis-cli shows it on a terminal.
fn lines(value: &Value) -> Vec<String> {
    let one = |text: String| vec![text];
    match value {
        Value::Nil => one("(nil)".to_owned()),
        Value::Int(number) => one(format!("(integer) {number}")),
        Value::Double(number) => one(format!("(double) {number}")),
        Value::Boolean(is) => one(format!("({is})")),
        Value::Okay => one("OK".to_owned()),
        Value::SimpleString(text) => one(plain(text.as_bytes())),
        Value::BulkString(bytes) => one(quoted(bytes)),
        Value::VerbatimString { text, .. } => plain_lines(text.as_bytes()),
        Value::ServerError(_) => one(format!("(error) {}", plain(server::shown(value).as_bytes()))),
        Value::Array(list) if list.is_empty() => one("(empty array)".to_owned()),
        Value::Set(list) if list.is_empty() => one("(empty set)".to_owned()),
        Value::Map(pairs) if pairs.is_empty() => one("(empty hash)".to_owned()),
        Value::Array(list) => numbered(list.iter().map(lines).collect(), ')'),
        Value::Set(list) => numbered(list.iter().map(lines).collect(), '~'),
        Value::Map(pairs) => {
            let pair = |(key, value): &(Value, Value)| {
                let key = lines(key).join(" ");
                let mut all = lines(value);
                all[0] = format!("{key} => {}", all[0]);
                all
            };
            numbered(pairs.iter().map(pair).collect(), '#')
        }
        other => one(plain(format!("{other:?}").as_bytes())),
    }
}

/// Each with its number, what has several lines below it.
fn numbered(items: Vec<Vec<String>>, sign: char) -> Vec<String> {
    let width = items.len().to_string().len();
    let mut out = Vec::new();
    for (n, item) in items.into_iter().enumerate() {
        for (line, text) in item.into_iter().enumerate() {
            out.push(match line {
                0 => format!("{:>width$}{sign} {text}", n + 1),
                _ => format!("{:width$}  {text}", ""),
            });
        }
    }
    out
}

/// In quotation marks, with all that is not printable ASCII escaped: as redis-cli does (`sdscatrepr`), and as its own
/// double-quoted arguments are read.
fn quoted(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 2);
    out.push('"');
    for &byte in bytes {
        match byte {
            b'\\' | b'"' => out.extend(['\\', char::from(byte)]),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            7 => out.push_str("\\a"),
            8 => out.push_str("\\b"),
            b' '..=b'~' => out.push(char::from(byte)),
            // Writing to a String cannot fail.
            _ => _ = write!(out, "\\x{byte:02x}"),
        }
    }
    out.push('"');
    out
}

/// Text in which nothing steers a terminal.
fn plain(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}

fn plain_lines(bytes: &[u8]) -> Vec<String> {
    let all: Vec<String> = bytes.split(|byte| *byte == b'\n').map(|line| plain(line.trim_ascii_end())).collect();
    let end = all.iter().rposition(|line| !line.is_empty()).map_or(1, |last| last + 1);
    all.into_iter().take(end).collect()
}

fn shown(word: &[u8]) -> String {
    plain(word).chars().take(60).collect::<String>().to_ascii_uppercase()
}

fn json(words: &[Vec<u8>], master: &str, answers: &[Answer]) -> String {
    let nodes: Vec<serde_json::Value> = answers
        .iter()
        .map(|answer| {
            let mut node = json!({
                "node": answer.target.name,
                "role": answer.target.role.map(Role::as_str),
                "address": answer.target.data.to_string(),
            });
            match &answer.reply {
                Ok(value) => node["reply"] = as_json(value),
                Err(error) => node["missing"] = answer.missing(error).into(),
            }
            node
        })
        .collect();
    let command: Vec<serde_json::Value> = words.iter().map(|word| bytes_as_json(word)).collect();
    format!("{:#}", json!({ "schema": SCHEMA, "master": master, "command": command, "nodes": nodes }))
}

/// Text as a string; what is none as `{"hex": "..."}`, an error as `{"error": "..."}`, a map as `{"map": [[key, value], ...]}`.
fn as_json(value: &Value) -> serde_json::Value {
    let all = |list: &[Value]| serde_json::Value::Array(list.iter().map(as_json).collect());
    match value {
        Value::Nil => serde_json::Value::Null,
        Value::Int(number) => json!(number),
        Value::Double(number) => json!(number),
        Value::Boolean(is) => json!(is),
        Value::Okay => json!("OK"),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => json!(text),
        Value::BulkString(bytes) => bytes_as_json(bytes),
        Value::ServerError(_) => json!({ "error": server::shown(value) }),
        Value::Array(list) | Value::Set(list) => all(list),
        Value::Map(pairs) => {
            let pairs: Vec<_> = pairs.iter().map(|(key, value)| json!([as_json(key), as_json(value)])).collect();
            json!({ "map": pairs })
        }
        other => json!(format!("{other:?}")),
    }
}

fn bytes_as_json(bytes: &[u8]) -> serde_json::Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({ "hex": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pacemaker::cib;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn typed(argv: &[&str]) -> Result<Args, clap::Error> {
        Cli::try_parse_from([&["exec"], argv].concat()).map(|cli| cli.args)
    }

    #[test]
    fn what_follows_the_command_is_its_own() {
        let args = typed(&["--role", "replica", "--", "GET", "--json", "a b"]).unwrap();
        assert_eq!((args.role, args.json), (Which::Replica, false));
        assert_eq!(args.command, ["GET", "--json", "a b"]);
        let args = typed(&["--json", "--node", "node1", "--node", "node2", "SET", "--", "-1", ""]).unwrap();
        assert_eq!((args.nodes.len(), args.json), (2, true));
        assert_eq!(args.command, ["SET", "--", "-1", ""]);
        for wrong in [&["--josn", "PING"][..], &[], &["--"], &["--within", "5", "PING"], &["--role", "fail", "PING"]] {
            assert!(typed(wrong).is_err(), "{wrong:?}");
        }
    }

    fn cluster() -> Cib {
        let node = |n: u8, role: &str| {
            format!(
                "<node id=\"{n}\" uname=\"node{n}\"><instance_attributes id=\"i{n}\">\
                 <nvpair id=\"r{n}\" name=\"redis_role\" value=\"{role}\"/></instance_attributes></node>"
            )
        };
        let nodes = [node(1, "primary"), node(2, "replica"), node(3, "fail")].concat();
        cib::parse(&format!("<cib><configuration><nodes>{nodes}</nodes></configuration></cib>")).unwrap()
    }

    fn chosen(role: Which, nodes: &[&str]) -> Result<Vec<Target>, Stop> {
        let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
        choose(&crate::record::tests::three(), &cluster(), "redis_role", role, &nodes)
    }

    #[test]
    fn nodes_are_chosen_by_role_and_by_name() {
        let names = |role, nodes: &[&str]| -> Vec<String> {
            chosen(role, nodes).unwrap().into_iter().map(|target| target.name).collect()
        };
        assert_eq!(names(Which::All, &[]), ["node1", "node2", "node3"]);
        assert_eq!(names(Which::Primary, &[]), ["node1"]);
        assert_eq!(names(Which::Replica, &[]), ["node2"]);
        assert_eq!(names(Which::All, &["NODE3", "node1"]), ["node1", "node3"]);
        assert!(chosen(Which::All, &["node9"]).unwrap_err().message.contains("no node node9; there is node1, node2"));
        assert!(chosen(Which::Primary, &["node2"]).unwrap_err().message.contains("role primary (redis_role)"));
    }

    fn told(primary: bool, kind: Kind) -> Result<Told, AskError> {
        Ok(Told { primary, kind })
    }

    fn write() -> Kind {
        Kind::MayWrite("it writes".to_owned())
    }

    fn verdict(named: Option<&str>) -> Verdict {
        Verdict {
            named: named.map(str::to_owned),
            notes: vec!["a note".into()],
            ..Verdict::of(&crate::record::tests::three(), &[], None)
        }
    }

    #[test]
    fn a_write_goes_where_role_server_and_majority_agree_and_nowhere_else() {
        let all = chosen(Which::All, &[]).unwrap();
        let primary = &all[..1];
        let ok = verdict(Some("NODE1"));
        assert_eq!(refusals(primary, &[told(true, write())], Some(&ok), "SET", 0), Vec::<String>::new());
        for (is_primary, named, part) in [
            (false, Some("node1"), "its Redis is a replica"),
            (true, Some("node2"), "majority names node2"),
            (true, None, "no majority of Sentinels names a primary (a note)"),
        ] {
            let why = refusals(primary, &[told(is_primary, write())], Some(&verdict(named)), "SET", 0);
            assert!(why.len() == 1 && why[0].contains(part), "{why:?}");
        }
        let everywhere = [told(true, write()), told(false, write()), Err(AskError::Silent)];
        let why = refusals(&all, &everywhere, Some(&ok), "SET", 0);
        assert_eq!(why[0], "node2: SET: it writes, and this node's role is replica");
        assert!(why.len() == 2 && why[1].contains("--role primary -- SET"), "{why:?}");
    }

    #[test]
    fn reads_go_everywhere_and_what_cannot_be_told_nowhere() {
        let all = chosen(Which::All, &[]).unwrap();
        let reads = [told(true, Kind::Anywhere), Err(AskError::Refused), told(false, Kind::Anywhere)];
        assert_eq!(refusals(&all, &reads, None, "GET", 0), Vec::<String>::new());
        let odd = [
            told(true, Kind::Never("it blocks".into())),
            told(false, Kind::Unknown("no flags".into())),
            Err(AskError::Denied("NOPERM".into())),
        ];
        let why = refusals(&all, &odd, None, "X", 0);
        assert!(
            why.len() == 3 && why[0].contains("it blocks") && why[1].contains("cannot be told: no flags"),
            "{why:?}"
        );
        assert!(why[2].contains("NOPERM") && why[2].contains("[redis]"), "{why:?}");
    }

    #[test]
    fn what_ends_a_server_goes_to_one_node_by_name() {
        let all = chosen(Which::All, &[]).unwrap();
        let ends = || told(true, Kind::OneOnly("it ends the server".into()));
        for (targets, by_name) in [(&all[..], 0), (&all[..1], 0), (&all[..2], 2)] {
            let everywhere: Vec<_> = targets.iter().map(|_| ends()).collect();
            let why = refusals(targets, &everywhere, None, "SHUTDOWN", by_name);
            assert!(why.len() == 1 && why[0].contains("rolegate exec --node NODE -- SHUTDOWN"), "{why:?}");
        }
        assert_eq!(refusals(&all[..1], &[ends()], None, "SHUTDOWN", 1), Vec::<String>::new());
    }

    fn bulk(bytes: &[u8]) -> Value {
        Value::BulkString(bytes.to_vec())
    }

    #[test]
    fn replies_look_as_redis_cli_shows_them() {
        // Compared with redis-cli --no-raw of 7.0.15.
        assert_eq!(quoted(b"a \"b\" \\ \n\r\t\x07\x08\x00\x7f\xc3\xa4"), r#""a \"b\" \\ \n\r\t\a\b\x00\x7f\xc3\xa4""#);
        let nested = Value::Array(vec![
            bulk(b"a"),
            Value::Array(vec![Value::Int(1), Value::Nil]),
            Value::Array(vec![]),
            Value::Okay,
        ]);
        assert_eq!(lines(&nested), ["1) \"a\"", "2) 1) (integer) 1", "   2) (nil)", "3) (empty array)", "4) OK"]);
        let ten = Value::Array(vec![Value::Int(0); 10]);
        assert_eq!((lines(&ten)[0].as_str(), lines(&ten)[9].as_str()), (" 1) (integer) 0", "10) (integer) 0"));
        assert_eq!(plain_lines(b"# Server\r\nx:\x1b[31m\r\n\r\n"), ["# Server", "x:\\u{1b}[31m"]);
        assert_eq!(plain_lines(b""), [""]);
    }

    fn answer(n: usize, reply: Result<Value, AskError>) -> Answer {
        Answer { target: chosen(Which::All, &[]).unwrap()[n].clone(), wrote: false, reply }
    }

    #[test]
    fn single_lines_stand_side_by_side_and_the_silent_are_named() {
        let mut answers = [answer(0, Ok(bulk(b"v"))), answer(1, Ok(Value::Nil)), answer(2, Err(AskError::Silent))];
        let shown = anstream::adapter::strip_str(&text(&answers, false)).to_string();
        assert_eq!(
            shown,
            "NODE   ROLE     REPLY\nnode1  primary  \"v\"\nnode2  replica  (nil)\nnode3  fail     no answer\n"
        );
        assert_eq!(answers.iter().map(Answer::code).max(), Some(CliCode::Unknown));
        answers[2].wrote = true;
        assert!(text(&answers, false).contains("no answer: whether it was done cannot be told"));
        let json: serde_json::Value =
            serde_json::from_str(&json(&[b"GET".to_vec(), vec![0xff]], "m", &answers)).unwrap();
        assert_eq!((&json["nodes"][0]["reply"], &json["command"][1]["hex"]), (&json!("v"), &json!("ff")));
        let names = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        // Those of version 1, of which none is ever taken away.
        assert_eq!(
            (&json["schema"], names(&json)),
            (&json!(1), ["command", "master", "nodes", "schema"].map(String::from).into())
        );
        assert_eq!(names(&json["nodes"][0]), ["address", "node", "reply", "role"]);
        assert_eq!(names(&json["nodes"][2]), ["address", "missing", "node", "role"]);
        assert!(json["nodes"][1]["reply"].is_null() && json["nodes"][2].get("reply").is_none());
        let blocks = [answer(0, Ok(bulk(b"a:1\r\nb:2\r\n"))), answer(1, Err(AskError::Refused))];
        let shown = anstream::adapter::strip_str(&text(&blocks, true)).to_string();
        assert_eq!(
            shown,
            "node1 (primary), 10.0.0.1:6379\na:1\nb:2\n\nnode2 (replica), 10.0.0.2:6379\nconnection refused\n"
        );
    }
}
