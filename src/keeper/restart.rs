//! What is done when the Redis behind the last lease is gone while a majority of Sentinels still names this node: a failover is asked
//! for at once, before the replicas take over what may be an empty server, if a replica still holds the data.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::memory::Run;
use super::steady::Steady;
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

/// How long a Sentinel has been in a failover of this Redis without an end: it may wait for what does not come.
#[derive(Debug, Default)]
pub struct Stuck(Steady);

impl Stuck {
    /// With the Sentinels that are in none beside it, none where nobody is in one: those that may be asked for another one. Not sooner: of one that
    /// has just begun they do not know the epoch, and would take the same.
    pub fn see(&mut self, now: Instant, beside: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let since = self.0.since(now, &beside);
        if now > since + AT_MOST { beside } else { Vec::new() }
    }
}

/// What is known when it happens.
pub struct Case {
    /// The run that held the last lease.
    pub last: Run,
    /// The other nodes.
    pub others: Vec<NodeEntry>,
    /// The Sentinels that name this node now and are in no failover, where none is in one, or has been for too long.
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
/// older from its disk. That hangs on the clock of its host, by which Redis counts how long it has run.
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
    fn another_sentinel_is_asked_where_one_has_been_in_its_failover_for_long_however_long_the_redis_has_been_gone() {
        let (mut stuck, began) = (Stuck::default(), Instant::now());
        let at = |n: u8| SocketAddr::from(([10, 0, 0, n], 26379));
        let mut see =
            |seconds: u64, beside: &[SocketAddr]| stuck.see(began + Duration::from_secs(seconds), beside.to_vec());
        let others = [at(2), at(3)];
        assert_eq!(see(0, &[]), []);
        assert_eq!(see(40, &[]), [], "nobody is in one");
        assert_eq!(see(41, &others), [], "one has just begun");
        assert_eq!(see(56, &others), []);
        assert_eq!(see(57, &others), others);
        // The one that was asked is in one, too, and has its time.
        assert_eq!(see(58, &others[1..]), []);
        assert_eq!(see(73, &others[1..]), []);
        assert_eq!(see(74, &others[1..]), others[1..]);
        assert_eq!(see(75, &[]), []);
        assert_eq!(see(76, &others), []);
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
