//! Whether this node may take writes now: what a majority of Sentinels and the local Redis say.

use std::time::Duration;

use crate::instance::{self, Instance, ServerRole};
use crate::record::Record;
use crate::sentinel::{self, About, Heard, LocalServer, Verdict};
use crate::server::AskError;
use crate::settings::Settings;
use crate::together::together;

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// A majority names this node, and its Redis is primary.
    Yes,
    /// A majority gives another node's address.
    Other(String),
    /// A definite no, with its reason.
    No(String),
    /// Could not tell, with what is missing.
    Unknown(String),
}

/// Asks the record's Sentinels and this node's Redis, all at once, and decides.
pub fn take(record: &Record, master: &str, me: &str, settings: &Settings) -> Proof {
    let Some(node) = record.node(me) else {
        return Proof::No(format!("{me} is not in the record's nodes: run `rolegate init`"));
    };
    enum Asked {
        Redis(Result<Instance, AskError>),
        Sentinels(Vec<Heard>),
    }
    let within = settings.answer_within;
    let (address, redis) = (node.address, settings.redis.clone());
    let (record_, master, sentinel) = (record.clone(), master.to_owned(), settings.sentinel.clone());
    let jobs: [Box<dyn FnOnce() -> Asked + Send>; 2] = [
        Box::new(move || Asked::Redis(instance::ask(address, &redis, within))),
        Box::new(move || Asked::Sentinels(sentinel::ask_all(&record_, &master, &sentinel, within))),
    ];
    let mut local = Err(AskError::Silent);
    let mut heard = Vec::new();
    // Each question keeps the deadline by itself; the rest is for the threads to start.
    for asked in together(within + Duration::from_millis(500), jobs).into_iter().flatten() {
        match asked {
            Asked::Redis(answer) => local = answer,
            Asked::Sentinels(answers) => heard = answers,
        }
    }
    decide(record, me, &local, &heard)
}

/// The decision, without the questions.
pub fn decide(record: &Record, me: &str, local: &Result<Instance, AskError>, heard: &[Heard]) -> Proof {
    let server =
        local.as_ref().ok().map(|instance| LocalServer { node: me.to_owned(), run_id: instance.run_id.clone() });
    let about = Verdict::of(record, heard, server.as_ref()).about(me);
    if let About::Other(node) = about {
        return Proof::Other(node);
    }
    let doubt = match local {
        Err(AskError::Refused) => return Proof::No("Redis on this node refuses connections".to_owned()),
        Err(error) => Some(format!("Redis on this node: {error}")),
        Ok(instance) => match &instance.role {
            ServerRole::Replica { of, .. } => return Proof::No(format!("Redis on this node is a replica of {of}")),
            ServerRole::Primary { .. } if instance.loading => {
                return Proof::No("Redis on this node is loading its data".to_owned());
            }
            ServerRole::Primary { .. } => None,
            ServerRole::Unknown => Some("Redis on this node gives no role".to_owned()),
        },
    };
    match (about, doubt) {
        (About::Other(node), _) => Proof::Other(node),
        (About::Refused(why), _) => Proof::No(why),
        (About::Unknown(what), None) => Proof::Unknown(what),
        (About::Unknown(what), Some(doubt)) => Proof::Unknown(format!("{doubt}; {what}")),
        (About::Named, Some(doubt)) => Proof::Unknown(doubt),
        (About::Named, None) => Proof::Yes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::three;
    use crate::sentinel::{Answer, Place};

    fn heard(hosts: [Option<&str>; 3]) -> Vec<Heard> {
        hosts
            .into_iter()
            .zip(three().sentinels())
            .map(|(host, sentinel)| Heard {
                sentinel: sentinel.clone(),
                answer: host.ok_or(AskError::Silent).map(|host| Answer {
                    id: sentinel.id.clone(),
                    named: Some(Place { host: host.to_owned(), port: 6379 }),
                    master: None,
                }),
            })
            .collect()
    }

    fn primary() -> Instance {
        Instance { run_id: "1".into(), role: ServerRole::Primary { replicas: vec![] }, ..Instance::default() }
    }

    fn replica() -> Instance {
        let role = ServerRole::Replica { of: "10.0.0.2:6379".into(), link_up: true, link_down_for: None };
        Instance { role, ..primary() }
    }

    const ONE: Option<&str> = Some("10.0.0.1");
    const TWO: Option<&str> = Some("10.0.0.2");

    fn proof(local: Result<Instance, AskError>, hosts: [Option<&str>; 3]) -> Proof {
        decide(&three(), "node1", &local, &heard(hosts))
    }

    #[test]
    fn both_must_agree() {
        assert_eq!(proof(Ok(primary()), [ONE, ONE, TWO]), Proof::Yes);
        assert_eq!(proof(Ok(primary()), [TWO, TWO, ONE]), Proof::Other("node2".into()));
        assert!(matches!(proof(Ok(replica()), [ONE, ONE, ONE]), Proof::No(_)));
        assert!(matches!(proof(Ok(primary()), [ONE, TWO, Some("10.0.0.3")]), Proof::No(_)));
        assert!(matches!(proof(Ok(Instance { loading: true, ..primary() }), [ONE, ONE, ONE]), Proof::No(_)));
    }

    #[test]
    fn silence_is_not_a_no_and_a_refused_connection_is() {
        assert!(matches!(proof(Err(AskError::Silent), [ONE, ONE, ONE]), Proof::Unknown(_)));
        assert!(matches!(proof(Err(AskError::Broken("reset".into())), [ONE, ONE, ONE]), Proof::Unknown(_)));
        assert!(matches!(proof(Err(AskError::Refused), [ONE, ONE, ONE]), Proof::No(_)));
        assert!(matches!(proof(Err(AskError::Refused), [None, None, None]), Proof::No(_)));
        assert!(matches!(proof(Ok(primary()), [ONE, None, None]), Proof::Unknown(_)));
        assert_eq!(proof(Err(AskError::Silent), [TWO, TWO, None]), Proof::Other("node2".into()));
    }
}
