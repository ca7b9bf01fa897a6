//! What is done where a Sentinel promotes this node's Redis and another one takes that back.
//!
//! A Sentinel reads a replica's role every 10 s. Until it has read that a former primary is a replica, it takes the one that is promoted for the
//! primary of before that is not turned around yet, and makes it a replica of the old primary (`+convert-to-slave`; `sentinel.c`,
//! `sentinelRefreshInstanceInfo`). The one that promotes has sent its command once: it waits for failover-timeout, which is minutes, and
//! nobody is primary; where the old primary has restarted empty, its replicas take that over meanwhile.
//!
//! So the command is repeated, as long as the failover's leader waits for nothing else, and the old primary's keeper, which has heard of
//! the promotion as this one has, keeps its port closed. It opens nothing: that takes a majority that names this node.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, spawn_blocking};

use super::events::Says;
use crate::instance::{self, Instance, ServerRole};
use crate::record::canonical;
use crate::server::{self, Credentials, Value};

/// So long a choice is defended. Less than the old primary's port stays closed for it.
const STANDS_FOR: Duration = Duration::from_millis(2500);

/// One that was made a replica so shortly before may carry that out behind the promotion.
const CROSSED: Duration = Duration::from_millis(500);

/// Both commands come from other connections: which of them is carried out last is looked at for so long.
const WATCHED_FOR: Duration = Duration::from_millis(600);

/// And so often.
const LOOKS: Duration = Duration::from_millis(30);

/// What Redis on this node may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// What Sentinels' events say of this node.
#[derive(Debug, Default)]
pub struct Chosen {
    /// One of them promotes it: until when that stands.
    until: Option<Instant>,
    /// One of them made it a replica: when last.
    turned: Option<Instant>,
}

impl Chosen {
    /// Takes what a Sentinel says, on the node whose Redis is at `me`: until when its promotion is to be defended, where it was taken back.
    pub fn heard(&mut self, says: &Says, me: SocketAddr, now: Instant) -> Option<Instant> {
        let me = canonical(me);
        match says {
            Says::Promoting(address) if *address == me => {
                self.until = Some(now + STANDS_FOR);
                let crossed = self.turned.take().is_some_and(|at| now < at + CROSSED);
                self.until.filter(|_| crossed)
            }
            // Two failovers at once are Sentinels' to settle.
            Says::Promoting(_) | Says::Aborted => {
                self.until = None;
                None
            }
            Says::MadeReplica(address) if *address == me => {
                self.turned = Some(now);
                self.until.filter(|until| now < *until)
            }
            Says::MadeReplica(_) | Says::Other => None,
        }
    }
}

/// The repeating, and what comes of it.
#[derive(Debug, Default)]
pub struct Defence(Option<JoinHandle<Result<u32, String>>>);

impl Defence {
    /// Begins, unless it is under way.
    pub fn begin(&mut self, redis: SocketAddr, credentials: &Credentials, until: Instant) {
        if self.0.is_none() {
            let credentials = credentials.clone();
            self.0 = Some(spawn_blocking(move || defend(redis, &credentials, until)));
        }
    }

    /// What runs.
    pub fn job(&mut self) -> &mut Option<JoinHandle<Result<u32, String>>> {
        &mut self.0
    }
}

/// Promotes as often as it is taken back; says how often that was.
fn defend(redis: SocketAddr, credentials: &Credentials, until: Instant) -> Result<u32, String> {
    let mut repeated = 0;
    let watched = Instant::now() + WATCHED_FOR;
    while Instant::now() < until.min(watched) {
        let instance = instance::ask(redis, credentials, ANSWER_WITHIN).map_err(|error| error.to_string())?;
        if is_taken_back(&instance) {
            let replies = server::ask(redis, credentials, ANSWER_WITHIN, &[&["REPLICAOF", "NO", "ONE"]]);
            match replies.map_err(|error| format!("REPLICAOF NO ONE: {error}"))?.first() {
                Some(Value::Okay) => repeated += 1,
                other => return Err(format!("REPLICAOF NO ONE: {}", other.map_or_else(String::new, server::shown))),
            }
        }
        sleep(LOOKS);
    }
    Ok(repeated)
}

/// A replica whose data is still what it was: one that has taken over another's, or is about to, is no better than that other.
fn is_taken_back(instance: &Instance) -> bool {
    !instance.loading && matches!(instance.role, ServerRole::Replica { link_up: false, .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 6379))
    }

    #[test]
    fn a_promotion_is_defended_where_it_is_taken_back_and_while_it_stands() {
        let began = Instant::now();
        let ms = |ms: u64| began + Duration::from_millis(ms);
        let (mine, others) = (Says::Promoting(at(1)), Says::Promoting(at(2)));
        let (turned, another) = (Says::MadeReplica(at(1)), Says::MadeReplica(at(2)));
        // What was heard last, and when: whether it is defended then, and until when.
        type Case<'s> = (&'s [(u64, &'s Says)], Option<u64>);
        let cases: [Case; 9] = [
            (&[(0, &mine), (700, &turned)], Some(2500)),
            (&[(0, &mine), (700, &another)], None),
            (&[(0, &mine), (2600, &turned)], None),
            (&[(0, &turned), (100, &mine)], Some(2600)),
            (&[(0, &turned), (600, &mine)], None),
            (&[(0, &mine), (100, &Says::Other)], None),
            (&[(0, &mine), (100, &Says::Aborted), (200, &turned)], None),
            (&[(0, &mine), (100, &others), (200, &turned)], None),
            (&[(0, &turned)], None),
        ];
        for (heard, until) in cases {
            let mut chosen = Chosen::default();
            let last = heard.iter().map(|(at_ms, says)| chosen.heard(says, at(1), ms(*at_ms))).last().flatten();
            assert_eq!(last, until.map(ms), "{heard:?}");
        }
    }

    #[test]
    fn one_that_has_the_data_of_another_is_not_promoted() {
        let replica = |link_up: bool, loading: bool| Instance {
            role: ServerRole::Replica { of: "10.0.0.2:6379".into(), link_up, link_down_for: None },
            loading,
            ..Instance::default()
        };
        let primary = Instance { role: ServerRole::Primary { replicas: vec![] }, ..Instance::default() };
        assert!(is_taken_back(&replica(false, false)));
        assert!(![replica(true, false), replica(false, true), primary].iter().any(is_taken_back));
    }
}
