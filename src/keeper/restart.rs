//! What is done when the Redis behind the last lease is gone while a majority of Sentinels still names this node: a failover is asked
//! for at once, before the replicas take over what may be an empty server, if a replica still holds the data.

use std::net::SocketAddr;
use std::time::Duration;

use super::memory::Run;
use crate::instance::{self, Instance, ServerRole};
use crate::record::NodeEntry;
use crate::sentinel;
use crate::server::AskError;
use crate::settings::Settings;
use crate::together::together;

/// Between two attempts.
pub const PAUSE: Duration = Duration::from_secs(1);

/// How long a failover that was asked for may take until it is asked for again.
pub const FAILOVER_TAKES: Duration = Duration::from_secs(10);

/// For so long a restarted Redis is not let through for want of knowledge, or of a Sentinel that begins a failover. Writes
/// resume in every case.
pub const AT_MOST: Duration = Duration::from_secs(15);

/// How long the others may take to answer: in a second the replicas begin to take over.
const ANSWER_WITHIN: Duration = Duration::from_millis(400);

/// What is known when it happens.
pub struct Case {
    /// The run that held the last lease.
    pub last: Run,
    /// The other nodes.
    pub others: Vec<NodeEntry>,
    /// The Sentinels that name this node now, where none is in a failover.
    pub sentinels: Vec<SocketAddr>,
    /// The master name.
    pub master: String,
    /// Credentials.
    pub settings: Settings,
}

/// What became of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This Sentinel was asked for a failover, and has begun one or not answered.
    Asked(SocketAddr),
    /// A replica holds the data, and the Sentinel begins no failover now.
    NotAsked(String),
    /// Whether a replica holds the data cannot be told now.
    CouldNotTell,
    /// No replica holds the data of the last run.
    NobodyElse,
}

/// What the other nodes come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Others {
    Hold,
    CouldNotTell,
    DoNotHold,
}

/// Asks the other nodes' Redis, and the Sentinel for the failover if it is wanted.
pub fn answer(case: &Case) -> Outcome {
    let jobs = case.others.iter().map(|node| {
        let (address, redis) = (node.address, case.settings.redis.clone());
        move || instance::ask(address, &redis, ANSWER_WITHIN)
    });
    let replicas: Vec<_> =
        together(ANSWER_WITHIN, jobs).into_iter().map(|answer| answer.unwrap_or(Err(AskError::Silent))).collect();
    match judge(&replicas, &case.last, case.last.held_ago()) {
        Others::DoNotHold => return Outcome::NobodyElse,
        Others::CouldNotTell => return Outcome::CouldNotTell,
        Others::Hold => {}
    }
    match sentinel::fail_over(&case.sentinels, &case.master, &case.settings.sentinel, ANSWER_WITHIN) {
        Ok(sentinel) => Outcome::Asked(sentinel),
        Err(why) => Outcome::NotAsked(why),
    }
}

/// Whether a replica holds what the last run had, and has run since it had it: one that restarted, too, may have loaded something
/// older from its disk.
fn judge(replicas: &[Result<Instance, AskError>], last: &Run, held_ago: Duration) -> Others {
    let holds = |replica: &Instance| {
        matches!(replica.role, ServerRole::Replica { .. })
            && replica.replication_id == last.replication_id
            && replica.uptime > held_ago
            && !replica.loading
    };
    if replicas.iter().flatten().any(holds) {
        return Others::Hold;
    }
    let unclear = |answer: &Result<Instance, AskError>| match answer {
        // Somebody was promoted: Sentinels will say so.
        Ok(instance) => instance.is_primary(),
        // Nothing runs there, so it holds nothing that a failover could use.
        Err(AskError::Refused) => false,
        Err(_) => true,
    };
    if replicas.iter().any(unclear) { Others::CouldNotTell } else { Others::DoNotHold }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(id: &str, uptime: u64) -> Result<Instance, AskError> {
        let role = ServerRole::Replica { of: "10.0.0.1:6379".into(), link_up: false, link_down_for: None };
        let uptime = Duration::from_secs(uptime);
        Ok(Instance { run_id: "r".into(), replication_id: id.into(), uptime, role, ..Instance::default() })
    }

    fn primary() -> Result<Instance, AskError> {
        Ok(Instance { role: ServerRole::Primary { replicas: vec![] }, ..replica("old", 100).unwrap() })
    }

    #[test]
    fn a_replica_holds_the_data_unless_it_took_over_or_restarted() {
        let last = Run { run_id: "1".into(), replication_id: "old".into(), held_at: 0, held_at_uptime: None };
        let silent = || Err(AskError::Silent);
        let refused = || Err(AskError::Refused);
        for (others, says) in [
            ([replica("old", 100), silent()], Others::Hold),
            ([silent(), replica("old", 100)], Others::Hold),
            // Restarted since: with the old id from its disk, and data of when that was written.
            ([replica("old", 10), refused()], Others::DoNotHold),
            ([replica("new", 100), replica("new", 100)], Others::DoNotHold),
            ([refused(), refused()], Others::DoNotHold),
            // Could not tell is not no.
            ([replica("new", 100), silent()], Others::CouldNotTell),
            ([primary(), replica("new", 100)], Others::CouldNotTell),
        ] {
            assert_eq!(judge(&others, &last, Duration::from_secs(20)), says, "{others:?}");
        }
    }
}
