//! Whether the primary on this node is cut off: clients may reach it, and nobody does who would keep what they write.
//!
//! Sentinels call it down and promote another one after down-after, and what it acknowledges until then is lost. So it closes before:
//! where a majority of Sentinels has had no answer from it and no replica of it acknowledges anything, though it does answer here. A
//! Redis that is busy, or stands still, does not answer here either: that is not a failover, and closes nothing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::instance::{Instance, ServerRole};
use crate::record::Record;
use crate::sentinel::{Heard, reach_it_no_more};

/// For how long Sentinels, which ask each second, have had no answer.
const UNREACHED: Duration = Duration::from_millis(1500);

/// For how many whole seconds replicas, which acknowledge each second, have not.
const LAG: u64 = 2;

/// An answer that takes longer, or comes later than this after the one before, tells of a Redis that was busy.
const PROMPT: Duration = Duration::from_millis(900);

/// For how long the Redis on this node has answered promptly.
#[derive(Debug, Default)]
pub struct Responsive {
    /// Since when, and its last answer.
    prompt: Option<(Instant, Instant)>,
}

impl Responsive {
    /// It has answered at `received` what was asked at `sent`.
    pub fn answered(&mut self, sent: Instant, received: Instant) {
        let took = received.saturating_duration_since(sent);
        let since = self.prompt.filter(|(_, last)| received.saturating_duration_since(*last) < PROMPT && took < PROMPT);
        self.prompt = Some((since.map_or(received, |(since, _)| since), received));
    }

    /// Whether it has for so long, up to now.
    fn lasts(&self, now: Instant, for_so_long: Duration) -> bool {
        self.prompt.is_some_and(|(since, last)| {
            now.saturating_duration_since(last) < PROMPT && now.saturating_duration_since(since) >= for_so_long
        })
    }
}

/// Why nothing should be written to the Redis on this node, at `node`, if it is cut off.
pub fn off(
    now: Instant,
    record: &Record,
    heard: impl FnOnce() -> Vec<Heard>,
    node: SocketAddr,
    local: &Instance,
    responsive: &Responsive,
) -> Option<String> {
    let ServerRole::Primary { replicas } = &local.role else { return None };
    let followed = replicas.iter().any(|replica| replica.lag < LAG);
    // Whatever it was busy with before, answers that waited for it are there by then.
    let is_off = !followed && responsive.lasts(now, UNREACHED) && reach_it_no_more(record, &heard(), node, UNREACHED);
    is_off.then(|| "cut off: neither the Sentinels nor a replica get anything from Redis on this node".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::OnlineReplica;
    use crate::record::tests::three;
    use crate::sentinel::{Answer, Master, Place};

    const EACH: Duration = Duration::from_millis(400);

    fn primary(lags: &[u64]) -> Instance {
        let replica = |&lag| OnlineReplica { address: String::new(), offset: 0, lag };
        Instance { role: ServerRole::Primary { replicas: lags.iter().map(replica).collect() }, ..Instance::default() }
    }

    /// Prompt answers for that long.
    fn prompt(now: Instant, answers: u32) -> Responsive {
        let mut responsive = Responsive::default();
        for n in (0..answers).rev() {
            responsive.answered(now - EACH * n, now - EACH * n);
        }
        responsive
    }

    fn judge(silent_for: [u64; 3], local: &Instance, responsive: impl Fn(Instant) -> Responsive) -> bool {
        let (record, now) = (three(), Instant::now() + Duration::from_secs(60));
        let each = record.sentinels().iter().zip(silent_for);
        let heard: Vec<Heard> = each
            .map(|(sentinel, millis)| {
                let place = Some(Place { host: "10.0.0.1".into(), port: 6379 });
                let silent_for = Duration::from_millis(millis);
                let master = Some(Master { place: place.clone(), silent_for, ..Master::default() });
                Heard {
                    sentinel: sentinel.clone(),
                    answer: Ok(Answer { id: sentinel.id.clone(), named: place, master }),
                }
            })
            .collect();
        off(now, &record, || heard, "10.0.0.1:6379".parse().unwrap(), local, &responsive(now)).is_some()
    }

    #[test]
    fn who_reaches_nobody_is_cut_off() {
        let well = |now| prompt(now, 5);
        assert!(judge([0, 1500, 1700], &primary(&[2, 3]), well));
        assert!(judge([0, 1500, 1700], &primary(&[]), well));
        assert!(!judge([0, 1400, 1700], &primary(&[2, 3]), well), "one Sentinel is half of the other nodes");
        assert!(!judge([0, 1500, 1700], &primary(&[1, 3]), well), "a replica has what is written");
        let replica = ServerRole::Replica { of: String::new(), link_up: true, link_down_for: None };
        assert!(!judge([0, 1500, 1700], &Instance { role: replica, ..Instance::default() }, well));
    }

    #[test]
    fn who_was_busy_just_now_is_not() {
        let lost = |responsive: fn(Instant) -> Responsive| judge([3000, 3000, 3000], &primary(&[3, 3]), responsive);
        assert!(!lost(|_| Responsive::default()));
        assert!(!lost(|now| prompt(now, 3)), "it answers again since 0.8 s");
        assert!(!lost(|now| prompt(now - Duration::from_secs(1), 9)), "it does not answer now");
        // A script of 3 s, between two answers or while one was waited for.
        let behind = |took: Duration| {
            move |now: Instant| {
                let mut responsive = prompt(now - EACH * 2 - Duration::from_secs(3), 9);
                responsive.answered(now - EACH - took, now - EACH);
                responsive.answered(now, now);
                responsive
            }
        };
        assert!(!judge([3000, 3000, 3000], &primary(&[3, 3]), behind(Duration::from_secs(3))));
        assert!(!judge([3000, 3000, 3000], &primary(&[3, 3]), behind(Duration::ZERO)));
    }
}
