//! What a server says of one of its own commands (`COMMAND INFO`), and what follows from that for who may send it where.
//!
//! The server's flags are asked, not a list of ours: they know modules, renamed commands and versions to come. A few names stand here
//! all the same, where no flag tells: 7.0 does not show `may_replicate`, and none says that a command takes the connection over.

use crate::server::{self, Value};

/// Where a command may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// To any server: it changes no data.
    Anywhere,
    /// To the primary only: why.
    MayWrite(String),
    /// To one server only, which somebody has named: why.
    OneOnly(String),
    /// Nowhere: why.
    Never(String),
    /// It cannot be told: why. So it goes nowhere.
    Unknown(String),
}

/// The connection is not a series of questions and answers any more.
const TAKES_OVER: [&str; 13] = [
    "MONITOR",
    "SUBSCRIBE",
    "PSUBSCRIBE",
    "SSUBSCRIBE",
    "UNSUBSCRIBE",
    "PUNSUBSCRIBE",
    "SUNSUBSCRIBE",
    "SYNC",
    "PSYNC",
    "REPLCONF",
    "CLIENT REPLY",
    "CLIENT TRACKING",
    "QUIT",
];

/// They mean something only to the commands that follow on the same connection.
const NEEDS_A_SESSION: [&str; 7] = ["MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH", "RESET", "ASKING"];

/// Flags and categories do not say so in each version.
const BLOCKS: [&str; 3] = ["WAIT", "WAITAOF", "DEBUG SLEEP"];

/// They block only with the option BLOCK.
const MAY_BLOCK: [&str; 2] = ["XREAD", "XREADGROUP"];

/// Who is primary is Sentinel's to say.
const MOVES_THE_PRIMARY: [&str; 3] = ["REPLICAOF", "SLAVEOF", "FAILOVER"];

/// They end the server, or have it answer nobody for as long as they take. No flag says so.
const ENDS: [&str; 8] = [
    "SHUTDOWN",
    "DEBUG SEGFAULT",
    "DEBUG PANIC",
    "DEBUG ASSERT",
    "DEBUG OOM",
    "DEBUG RESTART",
    "DEBUG CRASH-AND-RECOVER",
    "DEBUG CRASH-AND-ABORT",
];

/// See [`ENDS`].
const STANDS_STILL: [&str; 3] = ["SAVE", "DEBUG RELOAD", "DEBUG LOADAOF"];

/// What they do nobody knows; the variants for reading only have the flag `readonly`.
const SCRIPTS: [&str; 3] = ["EVAL", "EVALSHA", "FCALL"];

/// Replicas are told, too.
const REPLICATES: [&str; 2] = ["PUBLISH", "SPUBLISH"];

/// The question whose reply [`judge`] reads, for a command of these words.
pub fn question(words: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let name = words.first().cloned().unwrap_or_default();
    vec![b"COMMAND".to_vec(), b"INFO".to_vec(), name]
}

/// Decides where the command of these words may go, by the reply to [`question`].
pub fn judge(words: &[Vec<u8>], reply: &Value) -> Kind {
    let word = |n: usize| words.get(n).map(|word| String::from_utf8_lossy(word).to_ascii_uppercase());
    let Some(name) = word(0).filter(|name| !name.is_empty()) else {
        return Kind::Never("there is no command".to_owned());
    };
    let with_second = format!("{name} {}", word(1).unwrap_or_default());
    let is_one_of = |list: &[&str]| list.contains(&name.as_str()) || list.contains(&with_second.as_str());
    if let Some(why) = [
        (&TAKES_OVER[..], "it takes the connection over"),
        (&NEEDS_A_SESSION, "it means nothing on a connection of its own"),
        (&BLOCKS, "it blocks"),
        (
            &MOVES_THE_PRIMARY,
            "who is primary is Sentinel's to say: rolegate switchover, or SENTINEL FAILOVER where the primary is gone",
        ),
        (
            &["AUTH", "HELLO"],
            "who we are comes from --user and --password-file: what stands in a command line others can read",
        ),
    ]
    .iter()
    .find_map(|(list, why)| is_one_of(list).then_some(why))
    {
        return Kind::Never((*why).to_owned());
    }
    let entry = match entry(reply, &name) {
        Ok(entry) => entry,
        Err(why) => return Kind::Unknown(why),
    };
    for (list, why) in [
        (&ENDS[..], "it ends the server; of a primary it ends the writes, too: rolegate switchover first"),
        (&STANDS_STILL, "the server answers nobody until it is done; BGSAVE does not stop it"),
    ] {
        if is_one_of(list) {
            return Kind::OneOnly(why.to_owned());
        }
    }
    let entry = match entry.get(9) {
        // Since 7.0 a container's flags are those of its parts.
        Some(Value::Array(parts) | Value::Set(parts)) if !parts.is_empty() => {
            let full = format!("{name}|{}", word(1).unwrap_or_default());
            let part = parts.iter().filter_map(list).find(|part| is_named(part, &full));
            match part {
                Some(part) => part,
                None => return Kind::Unknown(format!("the server knows no {}", with_second.trim_end())),
            }
        }
        _ => entry,
    };
    let (Some(flags), categories) = (entry.get(2).and_then(texts), entry.get(6).and_then(texts).unwrap_or_default())
    else {
        return Kind::Unknown("COMMAND INFO gives no flags".to_owned());
    };
    let has = |flag: &str| flags.iter().any(|has| has == flag);
    if has("blocking") || categories.iter().any(|category| category == "@blocking") {
        let asks = words.iter().skip(1).any(|word| word.eq_ignore_ascii_case(b"BLOCK"));
        if asks || !MAY_BLOCK.contains(&name.as_str()) {
            return Kind::Never("it blocks".to_owned());
        }
    }
    if has("write") {
        return Kind::MayWrite("it writes".to_owned());
    }
    if has("readonly") {
        return Kind::Anywhere;
    }
    if SCRIPTS.contains(&name.as_str()) {
        return Kind::MayWrite("a script may write".to_owned());
    }
    if has("may_replicate") || REPLICATES.contains(&name.as_str()) {
        return Kind::MayWrite("it is passed on to replicas".to_owned());
    }
    Kind::Anywhere
}

/// What is said of the command `name`: name, arity, flags, first, last and step of its keys, categories, hints, keys, parts.
fn entry<'v>(reply: &'v Value, name: &str) -> Result<&'v [Value], String> {
    match list(reply) {
        Some([Value::Nil]) => Err(format!("the server knows no {name}")),
        Some([entry]) => match list(entry) {
            Some(entry) if is_named(entry, name) => Ok(entry),
            _ => Err(format!("COMMAND INFO does not speak of {name}")),
        },
        _ => Err(format!("COMMAND INFO: {}", server::shown(reply))),
    }
}

fn is_named(entry: &[Value], name: &str) -> bool {
    entry.first().and_then(server::text).is_some_and(|is| is.eq_ignore_ascii_case(name))
}

fn list(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(list) | Value::Set(list) => Some(list),
        _ => None,
    }
}

/// All in lower case; none where one is no text.
fn texts(value: &Value) -> Option<Vec<String>> {
    list(value)?.iter().map(|value| Some(server::text(value)?.to_ascii_lowercase())).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::wire::Replies;

    fn words(command: &str) -> Vec<Vec<u8>> {
        command.split(' ').map(|word| word.as_bytes().to_vec()).collect()
    }

    /// An entry with these flags and categories, and its parts.
    fn entry_of(name: &str, flags: &[&str], categories: &[&str], parts: &[String]) -> String {
        let statuses = |list: &[&str]| {
            format!("*{}\r\n{}", list.len(), list.iter().map(|word| format!("+{word}\r\n")).collect::<String>())
        };
        format!(
            "*10\r\n${}\r\n{name}\r\n:-2\r\n{}:1\r\n:1\r\n:1\r\n{}*0\r\n*0\r\n*{}\r\n{}",
            name.len(),
            statuses(flags),
            statuses(categories),
            parts.len(),
            parts.concat()
        )
    }

    fn said(reply: &str) -> Value {
        let mut replies = Replies::default();
        replies.received(reply.as_bytes());
        replies.next_reply().unwrap().unwrap()
    }

    fn kind(command: &str, flags: &[&str], categories: &[&str]) -> Kind {
        let name = command.split(' ').next().unwrap_or_default().to_lowercase();
        judge(&words(command), &said(&format!("*1\r\n{}", entry_of(&name, flags, categories, &[]))))
    }

    fn is_write(kind: &Kind) -> bool {
        matches!(kind, Kind::MayWrite(_))
    }

    fn is_never(kind: &Kind) -> bool {
        matches!(kind, Kind::Never(_))
    }

    #[test]
    fn the_servers_flags_say_what_writes() {
        assert_eq!(kind("GET a", &["readonly", "fast"], &["@read"]), Kind::Anywhere);
        assert_eq!(kind("DBSIZE", &["readonly"], &[]), Kind::Anywhere);
        assert!(is_write(&kind("SET a b", &["write", "denyoom"], &["@write"])));
        assert!(is_write(&kind("getex a", &["write"], &[])));
        // As 6.2 shows it, and as 7.0 does not.
        assert!(is_write(&kind("EVAL x 0", &["noscript", "may_replicate", "movablekeys"], &["@scripting"])));
        for script in ["EVAL x 0", "evalsha x 0", "FCALL f 0", "PUBLISH c m"] {
            assert!(is_write(&kind(script, &["noscript"], &["@scripting"])), "{script}");
        }
        for reads in ["EVAL_RO x 0", "FCALL_RO f 0"] {
            assert_eq!(kind(reads, &["noscript", "readonly"], &["@scripting"]), Kind::Anywhere, "{reads}");
        }
        // 6.2: its own representation changes.
        assert_eq!(kind("PFCOUNT h", &["readonly", "may_replicate"], &[]), Kind::Anywhere);
    }

    #[test]
    fn what_blocks_or_takes_the_connection_over_goes_nowhere() {
        assert!(is_never(&kind("BLPOP a 0", &["write", "noscript", "blocking"], &["@blocking"])));
        assert!(is_never(&kind("BZPOPMIN a 0", &["write", "noscript"], &["@write", "@blocking"])), "6.x has no flag");
        assert!(is_never(&kind("XREAD BLOCK 0 STREAMS s $", &["readonly", "blocking"], &["@blocking"])));
        assert!(is_never(&kind("xread block 0 STREAMS s $", &["readonly", "blocking"], &["@blocking"])));
        assert_eq!(kind("XREAD STREAMS s 0", &["readonly", "blocking"], &["@blocking"]), Kind::Anywhere);
        for never in [
            "monitor",
            "SUBSCRIBE c",
            "PSYNC ? -1",
            "CLIENT REPLY OFF",
            "WAIT 1 0",
            "AUTH secret",
            "REPLICAOF a 1",
            "MULTI",
        ] {
            assert!(is_never(&kind(never, &["admin"], &[])), "{never}");
        }
        assert_eq!(kind("CLIENT LIST", &["admin"], &[]), Kind::Anywhere);
        for moves in ["FAILOVER", "slaveof no one"] {
            let Kind::Never(why) = kind(moves, &["admin"], &[]) else { panic!("{moves}") };
            assert!(why.contains("rolegate switchover") && why.contains("SENTINEL FAILOVER"), "{why}");
        }
    }

    #[test]
    fn what_ends_a_server_or_has_it_stand_still_goes_to_one_that_is_named() {
        for one in ["SHUTDOWN", "shutdown nosave", "SAVE", "DEBUG segfault", "debug RELOAD", "DEBUG PANIC"] {
            let kind = kind(one, &["admin", "noscript"], &["@admin"]);
            assert!(matches!(kind, Kind::OneOnly(_)), "{one}: {kind:?}");
        }
        for all in ["BGSAVE", "DEBUG OBJECT a", "DEBUG HTSTATS 0", "LASTSAVE"] {
            assert_eq!(kind(all, &["admin", "noscript"], &["@admin"]), Kind::Anywhere, "{all}");
        }
        // Renamed away.
        assert!(matches!(judge(&words("SHUTDOWN"), &said("*1\r\n*-1\r\n")), Kind::Unknown(_)));
    }

    #[test]
    fn a_container_has_the_flags_of_its_part() {
        let parts = [entry_of("xgroup|create", &["write"], &[], &[]), entry_of("xgroup|help", &["loading"], &[], &[])];
        let reply = said(&format!("*1\r\n{}", entry_of("xgroup", &[], &[], &parts)));
        assert!(is_write(&judge(&words("XGROUP CREATE s g $"), &reply)));
        assert_eq!(judge(&words("xgroup help"), &reply), Kind::Anywhere);
        for unknown in ["XGROUP", "XGROUP NONE"] {
            let Kind::Unknown(why) = judge(&words(unknown), &reply) else { panic!("{unknown}") };
            assert_eq!(why, format!("the server knows no {unknown}"));
        }
    }

    #[test]
    fn what_cannot_be_told_is_unknown() {
        let get = |reply: &str| judge(&words("GET a"), &said(reply));
        for reply in [
            "*1\r\n*-1\r\n",
            "*0\r\n",
            "-ERR no\r\n",
            "+OK\r\n",
            "*1\r\n*0\r\n",
            "*1\r\n*2\r\n+get\r\n:2\r\n",
            "*1\r\n*3\r\n+get\r\n:2\r\n+write\r\n",
            "*1\r\n*3\r\n+get\r\n:2\r\n*1\r\n*0\r\n",
            // Of another command.
            "*1\r\n*3\r\n+set\r\n:2\r\n*1\r\n+readonly\r\n",
            "*2\r\n*3\r\n+get\r\n:2\r\n*1\r\n+readonly\r\n*0\r\n",
        ] {
            assert!(matches!(get(reply), Kind::Unknown(_)), "{reply:?}: {:?}", get(reply));
        }
        assert_eq!(get("*1\r\n*3\r\n+get\r\n:2\r\n*1\r\n+readonly\r\n"), Kind::Anywhere, "as 2.8 has it");
        assert!(is_never(&judge(&[], &Value::Nil)) && is_never(&judge(&[Vec::new()], &Value::Nil)));
    }
}
