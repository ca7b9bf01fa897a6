//! Sentinels' events: a connection to each Sentinel that only listens. What it says makes a keeper look sooner; it decides nothing.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::logging::{Subject, decided};
use crate::record::canonical;
use crate::server::{self, Credentials, Value};
use crate::wire::{self, Replies};

/// How long a step of making the connection may take, and the pause after a failure.
const WITHIN: Duration = Duration::from_secs(1);

/// After so long without an event the Sentinel is asked for a sign of life.
const QUIET: Duration = Duration::from_secs(4);

/// The longest event that is read, in bytes. Sentinel's have a few hundred.
const LONGEST_EVENT: usize = 64 << 10;

/// The events that a keeper wants: whatever may change who is named.
const CHANNELS: [&str; 14] = [
    "+switch-master",
    "+config-update-from",
    "+sdown",
    "-sdown",
    "+odown",
    "-odown",
    "+try-failover",
    "+promoted-slave",
    "+failover-end",
    "+failover-state-send-slaveof-noone",
    "+failover-state-wait-promotion",
    "-failover-abort-*",
    "+reset-master",
    "+convert-to-slave",
];

/// One event of one Sentinel about one master name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentinelEvent {
    /// The master name.
    pub master: String,
    /// What happened.
    pub says: Says,
    /// What it says of a failover's way, for the history.
    pub step: Option<Step>,
}

/// A step of a failover, as any Sentinel tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// It has no answer from the primary.
    Silent,
    /// It has again.
    Answers,
    /// They agree that the primary is down.
    Down,
    /// They do not any more.
    Up,
    /// A Sentinel begins a failover.
    Tried,
    /// It promotes this server.
    Promoting(SocketAddr),
    /// It takes this server for a primary of before, and makes it a replica.
    MadeReplica(SocketAddr),
    /// It gives the failover up: why, in its own word.
    Aborted(String),
    /// Another server is the primary.
    Switched {
        /// The one before.
        from: SocketAddr,
        /// The one since.
        to: SocketAddr,
    },
}

/// What an event comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Says {
    /// A Sentinel is about to tell this server to become primary, in its next step some 0.1 s later, or just has.
    Promoting {
        /// Which.
        server: SocketAddr,
        /// It has told it.
        told: bool,
    },
    /// A failover ends without a promotion.
    Aborted,
    /// A Sentinel has told this server, which it takes for a primary of before, to be a replica.
    MadeReplica {
        /// Which.
        server: SocketAddr,
        /// Whose.
        of: SocketAddr,
    },
    /// Something else: worth a look.
    Other,
}

/// Listens to the Sentinel at `address` for ever, tells each event at once, and remakes the connection when it is lost. What was
/// missed meanwhile the next round finds out. Records are about `of`, a node: all master names share it.
pub async fn listen(of: Subject, address: SocketAddr, credentials: Credentials, tell: impl Fn(SentinelEvent)) {
    let mut said = None;
    loop {
        match listen_once(address, &credentials, &tell).await {
            Err(Lost::Refused(why)) => {
                if said.as_ref() != Some(&why) {
                    decided!(warn, of, why, "Sentinel {address} sends no events: {why}");
                }
                said = Some(why);
            }
            // What else went wrong shows on the lines to the same Sentinel.
            Err(Lost::Broken) => said = None,
        }
        sleep(WITHIN).await;
    }
}

/// Why no more events come.
enum Lost {
    /// The Sentinel denies them.
    Refused(String),
    /// The connection is lost, or could not be made.
    Broken,
}

impl<E: std::error::Error> From<E> for Lost {
    fn from(_: E) -> Self {
        Lost::Broken
    }
}

async fn listen_once(
    address: SocketAddr,
    credentials: &Credentials,
    tell: &impl Fn(SentinelEvent),
) -> Result<Infallible, Lost> {
    let mut stream = timeout(WITHIN, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    let login = credentials.login();
    let subscribe: Vec<String> = ["PSUBSCRIBE"].iter().chain(&CHANNELS).map(|&word| word.to_owned()).collect();
    let commands: Vec<&[String]> = login.iter().map(Vec::as_slice).chain([&subscribe[..]]).collect();
    timeout(WITHIN, stream.write_all(&wire::pack(&commands))).await??;
    let mut replies = Replies::of_at_most(LONGEST_EVENT);
    let mut buffer = vec![0; 4096];
    loop {
        // A Sentinel whose host is gone says nothing for ever. One that lives answers this.
        let read = match timeout(QUIET, stream.read(&mut buffer)).await {
            Ok(read) => read?,
            Err(_) => {
                timeout(WITHIN, stream.write_all(&wire::pack(&[&["PING"]]))).await??;
                timeout(WITHIN, stream.read(&mut buffer)).await??
            }
        };
        if read == 0 {
            return Err(Lost::Broken);
        }
        replies.received(&buffer[..read]);
        while let Some(reply) = replies.next_reply()? {
            if let Some(denial) = server::denial(&reply) {
                return Err(Lost::Refused(denial.to_string()));
            }
            if let Some(event) = understood(&reply) {
                tell(event);
            }
        }
    }
}

/// `pmessage PATTERN CHANNEL TEXT`, the text as Sentinel's documentation has it: `<type> <name> <ip> <port> [@ <master> <ip> <port>]`,
/// and for +switch-master `<master> <old ip> <old port> <new ip> <new port>`.
/// None for what is no event of use.
pub fn understood(reply: &Value) -> Option<SentinelEvent> {
    let parts = match reply {
        Value::Array(parts) => parts.iter().filter_map(server::text).collect::<Vec<_>>(),
        Value::Push { data, .. } => data.iter().filter_map(server::text).collect(),
        _ => return None,
    };
    let (channel, text) = match parts.as_slice() {
        [kind, _, channel, text] if kind == "pmessage" => (channel.as_str(), text),
        // RESP3 takes the kind away.
        [_, channel, text] if matches!(reply, Value::Push { .. }) => (channel.as_str(), text),
        _ => return None,
    };
    let words: Vec<&str> = text.split(' ').collect();
    let master = match (words.iter().position(|&word| word == "@"), words.as_slice()) {
        (Some(at), words) => words.get(at + 1)?,
        (None, ["master", name, ..]) => name,
        (None, [name, _, _, _, _]) if channel == "+switch-master" => name,
        _ => return None,
    };
    let says = match (channel, words.as_slice()) {
        // Behind the latter a replica that is not promoted may confirm writes for a few milliseconds yet, to those that WAIT.
        ("+failover-state-send-slaveof-noone" | "+failover-state-wait-promotion", [_, _, ip, port, ..]) => {
            Says::Promoting { server: address(ip, port)?, told: channel == "+failover-state-wait-promotion" }
        }
        ("+convert-to-slave", [_, _, ip, port, "@", _, of_ip, of_port]) => {
            Says::MadeReplica { server: address(ip, port)?, of: address(of_ip, of_port)? }
        }
        (channel, _) if channel.starts_with("-failover-abort-") => Says::Aborted,
        _ => Says::Other,
    };
    Some(SentinelEvent { master: (*master).to_owned(), says, step: step(channel, &words) })
}

fn address(ip: &str, port: &str) -> Option<SocketAddr> {
    Some(canonical(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?)))
}

fn step(channel: &str, words: &[&str]) -> Option<Step> {
    match (channel, words) {
        ("+sdown", ["master", ..]) => Some(Step::Silent),
        ("-sdown", ["master", ..]) => Some(Step::Answers),
        ("+odown", ["master", ..]) => Some(Step::Down),
        ("-odown", ["master", ..]) => Some(Step::Up),
        ("+try-failover", ["master", ..]) => Some(Step::Tried),
        ("+failover-state-send-slaveof-noone", ["slave", _, ip, port, ..]) => Some(Step::Promoting(address(ip, port)?)),
        ("+convert-to-slave", [_, _, ip, port, ..]) => Some(Step::MadeReplica(address(ip, port)?)),
        ("+switch-master", [_, old_ip, old_port, ip, port]) => {
            Some(Step::Switched { from: address(old_ip, old_port)?, to: address(ip, port)? })
        }
        // The leader's, some seconds before its +switch-master.
        ("+promoted-slave", ["slave", _, ip, port, "@", _, old_ip, old_port]) => {
            Some(Step::Switched { from: address(old_ip, old_port)?, to: address(ip, port)? })
        }
        (channel, _) => {
            let why = channel.strip_prefix("-failover-abort-")?;
            // A word of a stranger's.
            Some(Step::Aborted(why.chars().take(40).collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(channel: &str, text: &str) -> Option<SentinelEvent> {
        let words = ["pmessage", "x", channel, text];
        understood(&Value::Array(words.iter().map(|word| Value::BulkString(word.as_bytes().to_vec())).collect()))
    }

    #[test]
    fn who_is_made_a_replica_again_is_told() {
        let address: SocketAddr = "10.0.0.2:6379".parse().unwrap();
        let told = event("+convert-to-slave", "slave 10.0.0.2:6379 10.0.0.2 6379 @ mymaster 10.0.0.1 6379").unwrap();
        assert!(CHANNELS.contains(&"+convert-to-slave"));
        let says = Says::MadeReplica { server: address, of: "10.0.0.1:6379".parse().unwrap() };
        assert_eq!((told.master.as_str(), told.says), ("mymaster", says));
        assert_eq!(told.step, Some(Step::MadeReplica(address)));
    }

    #[test]
    fn events_tell_whose_they_are() {
        for channel in ["+failover-state-send-slaveof-noone", "+failover-state-wait-promotion"] {
            assert!(CHANNELS.contains(&channel));
            assert_eq!(
                event(channel, "slave 10.0.0.2:6379 10.0.0.2 6379 @ mymaster 10.0.0.1 6379"),
                Some(SentinelEvent {
                    master: "mymaster".to_owned(),
                    says: Says::Promoting {
                        server: "10.0.0.2:6379".parse().unwrap(),
                        told: channel == "+failover-state-wait-promotion"
                    },
                    step: (channel == "+failover-state-send-slaveof-noone")
                        .then(|| Step::Promoting("10.0.0.2:6379".parse().unwrap())),
                })
            );
        }
        let of = |channel, text| event(channel, text).map(|event| (event.master, event.says));
        let other = Some(("mymaster".to_owned(), Says::Other));
        assert_eq!(of("+switch-master", "mymaster 10.0.0.1 6379 10.0.0.2 6379"), other);
        assert_eq!(of("+sdown", "master mymaster 10.0.0.1 6379"), other);
        assert_eq!(
            of("-failover-abort-no-good-slave", "master mymaster 10.0.0.1 6379"),
            Some(("mymaster".to_owned(), Says::Aborted))
        );
        let step = |channel, text| event(channel, text).and_then(|event| event.step);
        assert_eq!(step("+odown", "master mymaster 10.0.0.1 6379 #quorum 2/2"), Some(Step::Down));
        assert_eq!(step("-odown", "master mymaster 10.0.0.1 6379"), Some(Step::Up));
        assert_eq!(step("+sdown", "slave 10.0.0.2:6379 10.0.0.2 6379 @ mymaster 10.0.0.1 6379"), None);
        assert_eq!(step("+sdown", "master mymaster 10.0.0.1 6379"), Some(Step::Silent));
        assert_eq!(step("-sdown", "master mymaster 10.0.0.1 6379"), Some(Step::Answers));
        assert_eq!(step("+try-failover", "master mymaster 10.0.0.1 6379"), Some(Step::Tried));
        assert_eq!(
            step("-failover-abort-not-elected", "master mymaster 10.0.0.1 6379"),
            Some(Step::Aborted("not-elected".to_owned()))
        );
        let switched =
            Some(Step::Switched { from: "10.0.0.1:6379".parse().unwrap(), to: "10.0.0.2:6379".parse().unwrap() });
        assert_eq!(step("+switch-master", "mymaster 10.0.0.1 6379 10.0.0.2 6379"), switched);
        assert_eq!(step("+promoted-slave", "slave 10.0.0.2:6379 10.0.0.2 6379 @ mymaster 10.0.0.1 6379"), switched);
        assert_eq!(step("+switch-master", "mymaster redis1 6379 10.0.0.2 6379"), None);
        for text in ["", "@", "slave x 10.0.0.2 none @ mymaster"] {
            assert_eq!(of("+failover-state-wait-promotion", text), None, "{text}");
        }
    }
}
