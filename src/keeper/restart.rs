//! What is done when the Redis behind the last lease is gone while Sentinels still name this node: a failover is asked for at once,
//! before the replicas take over what may be an empty server, if a replica still holds the data.

use std::net::SocketAddr;
use std::time::Duration;

use super::memory::Lease;
use crate::instance::{self, Instance, ServerRole};
use crate::record::{NodeEntry, Record};
use crate::server::{self, AskError, Value};
use crate::settings::Settings;
use crate::together::together;

/// Between two attempts.
pub const PAUSE: Duration = Duration::from_secs(1);

/// How long the others may take to answer: in a second the replicas begin to take over.
const ANSWER_WITHIN: Duration = Duration::from_millis(300);

/// A replica that has been up for less than this longer than the new primary restarted with it.
const TOGETHER: Duration = Duration::from_secs(5);

/// What is known when it happens.
pub struct Case {
    /// The run that held the last lease.
    pub last: Lease,
    /// What runs here now; None where nothing does.
    pub run: Option<Instance>,
    /// The other nodes.
    pub others: Vec<NodeEntry>,
    /// Where the Sentinels are.
    pub record: Record,
    /// The master name.
    pub master: String,
    /// Credentials.
    pub settings: Settings,
}

/// What became of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This Sentinel has begun a failover.
    Asked(SocketAddr),
    /// A replica holds the data, and no Sentinel begins a failover now.
    NotAsked(String),
    /// No replica holds the data of the last run.
    NobodyElse,
}

/// Asks the other nodes' Redis, and a Sentinel for the failover if it is wanted.
pub fn answer(case: &Case) -> Outcome {
    let jobs = case.others.iter().map(|node| {
        let (address, redis) = (node.address, case.settings.redis.clone());
        move || instance::ask(address, &redis, ANSWER_WITHIN)
    });
    let replicas: Vec<_> = together(ANSWER_WITHIN, jobs).into_iter().flatten().collect();
    if !replicas.iter().any(|replica| holds(replica, &case.last, case.run.as_ref())) {
        return Outcome::NobodyElse;
    }
    let mut refusals = Vec::new();
    for sentinel in case.record.sentinels() {
        let command: &[&[&str]] = &[&["SENTINEL", "FAILOVER", &case.master]];
        match server::ask(sentinel.address, &case.settings.sentinel, ANSWER_WITHIN, command).as_deref() {
            Ok([Value::Okay]) => return Outcome::Asked(sentinel.address),
            // One is enough; a second would begin another one.
            Ok([Value::ServerError(error)]) if error.code() == "INPROG" => return Outcome::Asked(sentinel.address),
            Ok(replies) => {
                let shown: Vec<_> = replies.iter().map(server::shown).collect();
                refusals.push(format!("{}: {}", sentinel.address, shown.join(" ")));
            }
            Err(error) => refusals.push(format!("{}: {error}", sentinel.address)),
        }
    }
    Outcome::NotAsked(refusals.join("; "))
}

/// Whether `replica` holds what the last run had, and has not itself restarted with this node.
fn holds(replica: &Result<Instance, AskError>, last: &Lease, run: Option<&Instance>) -> bool {
    let Ok(replica) = replica else { return false };
    let is_replica = matches!(replica.role, ServerRole::Replica { .. });
    let restarted_too = run.is_some_and(|run| replica.uptime < run.uptime + TOGETHER);
    is_replica && replica.replication_id == last.replication_id && !restarted_too && !replica.loading
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(id: &str, uptime: u64) -> Result<Instance, AskError> {
        let role = ServerRole::Replica { of: "10.0.0.1:6379".into(), link_up: false, link_down_for: None };
        let uptime = Duration::from_secs(uptime);
        Ok(Instance { run_id: "r".into(), replication_id: id.into(), uptime, role, ..Instance::default() })
    }

    #[test]
    fn a_replica_holds_the_data_unless_it_took_over_or_restarted() {
        let last = Lease { run_id: "1".into(), replication_id: "old".into() };
        let run = Instance { run_id: "2".into(), uptime: Duration::from_secs(1), ..Instance::default() };
        for (one, run, held) in [
            (replica("old", 100), None, true),
            (replica("old", 100), Some(&run), true),
            (replica("old", 2), Some(&run), false),
            (replica("new", 100), Some(&run), false),
            (Ok(Instance { replication_id: "old".into(), ..Instance::default() }), None, false),
            (Err(AskError::Silent), None, false),
        ] {
            assert_eq!(holds(&one, &last, run), held, "{one:?}");
        }
    }
}
