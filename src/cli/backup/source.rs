//! From which node a backup is taken. Pure.

use std::cmp::Reverse;

use crate::instance::{Instance, ServerRole};
use crate::server::AskError;

/// The node that is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its name.
    pub node: String,
    /// Its server is primary.
    pub primary: bool,
    /// How many bytes it is behind the primary that Sentinels name, where that can be told.
    pub behind: Option<u64>,
    /// How many bytes it has had.
    offset: u64,
}

/// Why none is.
#[derive(Debug, PartialEq, Eq)]
pub enum NoSource {
    /// Not this one, or none of these.
    Refused(String),
    /// Nobody answers.
    Unknown(String),
}

/// What is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted<'a> {
    /// This node.
    pub from: Option<&'a str>,
    /// The primary is good enough.
    pub from_primary: bool,
    /// Where two are as good, this node.
    pub me: Option<&'a str>,
}

/// Chooses among `servers`, what each node's Redis says. `named`: the node that a majority of Sentinels points at.
pub fn choose(
    servers: &[(String, Result<Instance, AskError>)],
    named: Option<&str>,
    wanted: Wanted,
) -> Result<Source, NoSource> {
    let is = |name: &str, other: Option<&str>| other.is_some_and(|other| other.eq_ignore_ascii_case(name));
    let primary = servers.iter().find(|(name, _)| is(name, named)).and_then(|(_, server)| server.as_ref().ok());
    let source = |name: &str, server: &Instance| Source {
        node: name.to_owned(),
        primary: server.is_primary(),
        behind: primary.map(|primary| primary.offset.saturating_sub(server.offset)),
        offset: server.offset,
    };
    let judged: Vec<(&str, Result<Source, String>)> = servers
        .iter()
        .map(|(name, server)| {
            let judged = match server {
                Err(error) => Err(error.to_string()),
                Ok(server) => fit(server, primary, wanted.from_primary).map(|()| source(name, server)),
            };
            (name.as_str(), judged)
        })
        .collect();
    if let Some(from) = wanted.from {
        return match judged.into_iter().find(|(name, _)| is(name, Some(from))) {
            Some((_, Ok(source))) => Ok(source),
            Some((name, Err(why))) => Err(NoSource::Refused(format!("{name}: {why}"))),
            None => {
                let known: Vec<&str> = servers.iter().map(|(name, _)| name.as_str()).collect();
                Err(NoSource::Refused(format!("the record has no node {from}; there is {}", known.join(", "))))
            }
        };
    }
    let mut good: Vec<Source> = judged.iter().filter_map(|(_, judged)| judged.clone().ok()).collect();
    if wanted.from_primary && wanted.from.is_none() {
        good.retain(|source| source.primary && named.is_none_or(|named| named.eq_ignore_ascii_case(&source.node)));
    }
    // The first of equals is the record's first.
    let best = good.iter().min_by_key(|source| (Reverse(source.offset), !is(&source.node, wanted.me)));
    match best {
        Some(best) => Ok(best.clone()),
        None => {
            let why: Vec<String> = judged
                .iter()
                .map(|(name, judged)| match judged {
                    Ok(_) => format!("{name}: it is not the primary that Sentinels name"),
                    Err(why) => format!("{name}: {why}"),
                })
                .collect();
            let why = why.join("; ");
            match servers.iter().all(|(_, server)| server.is_err()) {
                true => Err(NoSource::Unknown(format!("no server to take it from: {why}"))),
                false => Err(NoSource::Refused(format!("no server to take it from: {why}"))),
            }
        }
    }
}

/// Whether a copy of this server's data is one to keep.
fn fit(server: &Instance, primary: Option<&Instance>, from_primary: bool) -> Result<(), String> {
    if server.loading {
        return Err("it is loading its data".to_owned());
    }
    match &server.role {
        ServerRole::Primary { .. } if from_primary => Ok(()),
        ServerRole::Primary { .. } => {
            Err("it is primary, and making the copy costs it time and memory (--from-primary takes it all the same)"
                .to_owned())
        }
        // It refuses it, too: NOMASTERLINK.
        ServerRole::Replica { link_up: false, link_down_for, .. } => Err(match link_down_for {
            Some(time) => format!("its link to its primary has been down for {} s", time.as_secs()),
            None => "its link to its primary is down".to_owned(),
        }),
        ServerRole::Replica { .. } => match primary {
            Some(primary) if primary.replication_id != server.replication_id => {
                Err("it follows another primary than the one that Sentinels name".to_owned())
            }
            _ => Ok(()),
        },
        ServerRole::Unknown => Err("it does not say what it is".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    type Servers = Vec<(String, Result<Instance, AskError>)>;

    fn primary(offset: u64) -> Result<Instance, AskError> {
        let role = ServerRole::Primary { replicas: vec![] };
        Ok(Instance { role, offset, replication_id: "a".into(), ..Instance::default() })
    }

    fn replica(offset: u64) -> Result<Instance, AskError> {
        let role = ServerRole::Replica { of: "10.0.0.1:6379".into(), link_up: true, link_down_for: None };
        Ok(Instance { role, offset, replication_id: "a".into(), ..Instance::default() })
    }

    fn with(change: impl Fn(&mut Instance)) -> Result<Instance, AskError> {
        replica(90).map(|mut server| {
            change(&mut server);
            server
        })
    }

    fn three(servers: [Result<Instance, AskError>; 3]) -> Servers {
        servers.into_iter().enumerate().map(|(n, server)| (format!("node{}", n + 1), server)).collect()
    }

    fn chosen(servers: &Servers, wanted: Wanted) -> Result<(String, Option<u64>), NoSource> {
        choose(servers, Some("node1"), wanted).map(|source| (source.node, source.behind))
    }

    #[test]
    fn the_replica_that_is_least_behind_is_taken_and_never_the_primary_unasked() {
        let servers = three([primary(100), replica(80), replica(95)]);
        assert_eq!(chosen(&servers, Wanted::default()), Ok(("node3".into(), Some(5))));
        assert_eq!(
            chosen(&servers, Wanted { from: Some("NODE2"), ..Wanted::default() }),
            Ok(("node2".into(), Some(20)))
        );
        let from_primary = Wanted { from_primary: true, ..Wanted::default() };
        assert_eq!(chosen(&servers, from_primary), Ok(("node1".into(), Some(0))));
        assert_eq!(chosen(&servers, Wanted { from: Some("node2"), ..from_primary }), Ok(("node2".into(), Some(20))));
        let refused = chosen(&servers, Wanted { from: Some("node1"), ..Wanted::default() });
        assert!(matches!(&refused, Err(NoSource::Refused(why)) if why.contains("--from-primary")), "{refused:?}");
        let equal = three([primary(100), replica(90), replica(90)]);
        assert_eq!(chosen(&equal, Wanted { me: Some("node3"), ..Wanted::default() }), Ok(("node3".into(), Some(10))));
        let unknown = chosen(&servers, Wanted { from: Some("node9"), ..Wanted::default() });
        assert!(matches!(&unknown, Err(NoSource::Refused(why)) if why.contains("there is node1, node2, node3")));
    }

    #[test]
    fn a_replica_that_is_not_well_is_not_taken() {
        let down = Some(Duration::from_secs(7));
        for (bad, part) in [
            (with(|server| server.loading = true), "loading"),
            (
                with(|server| {
                    server.role = ServerRole::Replica { of: "x".into(), link_up: false, link_down_for: down }
                }),
                "down for 7 s",
            ),
            (with(|server| server.replication_id = "b".into()), "follows another primary"),
            (with(|server| server.role = ServerRole::Unknown), "does not say"),
            (Err(AskError::Silent), "no answer"),
        ] {
            let servers = three([primary(100), bad.clone(), replica(1)]);
            assert_eq!(chosen(&servers, Wanted::default()).unwrap().0, "node3", "{part}");
            let alone = three([primary(100), bad.clone(), bad]);
            let refused = chosen(&alone, Wanted::default());
            assert!(
                matches!(&refused, Err(NoSource::Refused(why)) if why.contains(part) && why.contains("--from-primary")),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn that_nobody_answers_is_not_that_there_is_nobody() {
        let silent = || Err(AskError::Silent);
        let nobody = chosen(&three([silent(), silent(), silent()]), Wanted::default());
        assert!(matches!(nobody, Err(NoSource::Unknown(_))));
        // Without its primary a replica that is linked to one is good, and how far behind it is cannot be told.
        let servers = three([silent(), replica(80), replica(90)]);
        let wanted = Wanted { me: Some("node2"), ..Wanted::default() };
        assert_eq!(chosen(&servers, wanted), Ok(("node3".into(), None)));
    }
}
