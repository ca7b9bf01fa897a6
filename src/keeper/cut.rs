//! Whether the primary on this node is cut off: clients may reach it, and nobody does who would keep what they write.
//!
//! Sentinels call it down and promote another one after down-after, and what it acknowledges until then is lost. So it closes before:
//! where a majority of Sentinels has had no answer from it and no replica of it acknowledges anything, though it does answer here. A
//! Redis that is busy, or stands still, does not answer here either: that is not a failover, and closes nothing.
//!
//! Nothing shows that but silence. Sentinels ask each second and replicas acknowledge each second, so the last sign of life is up to a second
//! old when the network is cut; and what was lost is sent again 0.2, 0.6 and 1.4 s later (TCP). So an interruption of a few tenths of a second
//! closes nothing, and one of a second mostly not; nor does one that holds up this keeper's own questions to the Sentinels.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::instance::{Instance, OnlineReplica, ServerRole};

/// For how long Sentinels have had no answer, at least; a tenth of down-after, where that is longer: whoever has much patience with a server
/// has it here as well.
const UNREACHED: Duration = Duration::from_millis(1300);

/// For how much less no replica has acknowledged anything.
const SOONER: Duration = Duration::from_millis(100);

/// From when on it is looked at more closely.
const SILENT: Duration = Duration::from_millis(600);

/// From when on it may be cut off, and for how long it must have been so. Behind a pause of all, the first answers that come are old.
const SUSPECT: Duration = Duration::from_millis(1000);
const STANDS: Duration = Duration::from_millis(300);

/// A Sentinel that answers later, or has not answered sooner for a second, is itself hard to reach. TCP sends again after 200 ms what
/// was lost.
pub const AT_ONCE: Duration = Duration::from_millis(190);
/// See [`AT_ONCE`].
pub const FOR_A_WHILE: Duration = Duration::from_secs(1);

/// For how long it answers promptly here.
const ANSWERS: Duration = Duration::from_millis(1500);

/// An answer that takes longer, or comes later than this after the one before, tells of a Redis that was busy.
const PROMPT: Duration = Duration::from_millis(900);

/// Who has had no replica for longer is not followed by anybody who could be promoted.
const FOLLOWED: Duration = Duration::from_secs(60);

/// From one look to the next while all are silent.
pub const CLOSELY: Duration = Duration::from_millis(100);

/// What is known of the Redis on this node.
#[derive(Debug, Default)]
pub struct Cut {
    /// Since when it has answered promptly, and its last answer.
    prompt: Option<(Instant, Instant)>,
    /// Its replicas in its last answer.
    replicas: Vec<OnlineReplica>,
    /// How far it was lately.
    offsets: VecDeque<(Instant, u64)>,
    /// When a replica last acknowledged something, or had all there is.
    followed: Option<Instant>,
    /// It is looked at closely.
    closely: bool,
    /// Since when it may be cut off.
    suspected: Option<Instant>,
}

/// How many times are kept at which it was so far. Some seconds.
const OFFSETS: usize = 32;

impl Cut {
    /// It has answered at `received` what was asked at `sent`.
    pub fn answered(&mut self, sent: Instant, received: Instant, said: &Instance) {
        let took = received.saturating_duration_since(sent);
        let since = self.prompt.filter(|(_, last)| received.saturating_duration_since(*last) < PROMPT && took < PROMPT);
        self.prompt = Some((since.map_or(received, |(since, _)| since), received));
        let replicas = match &said.role {
            ServerRole::Primary { replicas } => replicas.as_slice(),
            _ => &[],
        };
        let last = self.offsets.back().map(|(last, _)| *last);
        self.offsets.push_back((received, said.offset));
        if self.offsets.len() > OFFSETS {
            self.offsets.pop_front();
        }
        let followed = |replica: &OnlineReplica| {
            let before = self.replicas.iter().find(|before| before.address == replica.address);
            let Some(before) = before.filter(|_| replica.offset < said.offset) else { return Some(received) };
            if replica.offset > before.offset {
                // Since the answer before, of course: it may be far behind.
                return Some(self.reached(replica.offset).unwrap_or(received).max(last?));
            }
            // That is in whole seconds, and says only when it became less that something came.
            (replica.lag < before.lag).then_some(received)
        };
        self.followed = replicas.iter().filter_map(followed).max().max(self.followed);
        self.replicas = replicas.to_vec();
    }

    /// When it was so far: who has acknowledged that did so then or later, and as a rule at once.
    fn reached(&self, offset: u64) -> Option<Instant> {
        let after = self.offsets.iter().position(|(_, at)| *at >= offset)?;
        let ((earlier, less), (later, more)) = (self.offsets[after.checked_sub(1)?], self.offsets[after]);
        let part = (offset.checked_sub(less)? as f64 / (more - less) as f64).clamp(0.0, 1.0);
        Some(earlier + later.saturating_duration_since(earlier).mul_f64(part))
    }

    /// Why nothing should be written to it, if it is cut off. `unreached`: for how long a majority of Sentinels has had no answer;
    /// `down_after`: for how long they may have none before they call it down.
    pub fn off(&mut self, now: Instant, said: &Instance, unreached: Duration, down_after: Duration) -> Option<String> {
        let unfollowed = self.alone(now).filter(|_| said.is_primary()).unwrap_or_default();
        let silent = unreached.min(unfollowed);
        self.closely = silent >= SILENT;
        if silent < SUSPECT {
            self.suspected = None;
            return None;
        }
        let since = *self.suspected.get_or_insert(now);
        let stands = now.saturating_duration_since(since) >= STANDS;
        let patience = UNREACHED.max(down_after / 10);
        let off = stands && unreached >= patience && unfollowed >= patience - SOONER;
        off.then(|| "cut off: neither the Sentinels nor a replica get anything from Redis on this node".to_owned())
    }

    /// Whether it is to be looked at again after [`CLOSELY`].
    pub fn is_looked_at_closely(&self) -> bool {
        self.closely
    }

    /// For how long no replica has followed it, if it answers here, and whatever it was busy with is over and told.
    fn alone(&self, now: Instant) -> Option<Duration> {
        let since = |then: Instant| now.saturating_duration_since(then);
        let (prompt, last) = self.prompt?;
        let alone = since(self.followed?);
        (since(last) < PROMPT && since(prompt) >= ANSWERS && alone < FOLLOWED).then_some(alone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EACH: Duration = Duration::from_millis(400);

    fn ms(time: u64) -> Duration {
        Duration::from_millis(time)
    }

    /// A primary that has written `offset` bytes, of which each replica has acknowledged so many, so many seconds ago.
    fn primary(offset: u64, replicas: &[(u64, u64)]) -> Instance {
        let replica = |(n, &(offset, lag))| OnlineReplica { address: format!("10.0.0.{n}:6379"), offset, lag };
        let replicas = replicas.iter().enumerate().map(replica).collect();
        Instance { role: ServerRole::Primary { replicas }, offset, ..Instance::default() }
    }

    /// Answers each [`EACH`] up to `then`: what is written is acknowledged.
    fn well(then: Instant, answers: u32) -> Cut {
        let mut cut = Cut::default();
        for n in (0..answers).rev() {
            cut.answered(then - EACH * n, then - EACH * n, &primary(1000, &[(1000, 0), (900, 1)]));
        }
        cut
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(300)
    }

    const FIVE: Duration = Duration::from_secs(5);

    /// When it is found to be cut off, in milliseconds from `begun` on. From then on what the Redis says, when asked each 100 ms, is
    /// `says`, and the Sentinels' silence `unreached`.
    fn closes(
        mut cut: Cut,
        begun: Instant,
        says: impl Fn(u64) -> Option<Instance>,
        unreached: impl Fn(u64) -> u64,
    ) -> Option<u64> {
        let mut last = primary(1000, &[]);
        (1..100).map(|n| n * 100).find(|&at| {
            let now = begun + ms(at);
            if let Some(said) = says(at) {
                cut.answered(now, now, &said);
                last = said;
            }
            cut.off(now, &last, ms(unreached(at)), FIVE).is_some()
        })
    }

    #[test]
    fn who_reaches_nobody_is_cut_off() {
        let now = later();
        let lost = |at: u64| Some(primary(1000 + at, &[(1000, at / 1000), (900, 1 + at / 1000)]));
        // The Sentinels had asked just before, or a while ago.
        assert_eq!(closes(well(now, 9), now, lost, |at| at), Some(1300));
        assert_eq!(closes(well(now, 9), now, lost, |at| at + 900), Some(1300), "it stands for a while");
        assert_eq!(closes(well(now, 9), now, |_| Some(primary(2000, &[])), |at| at), Some(1300), "they are gone");
        assert_eq!(closes(well(now, 9), now, lost, |at| at % 1000), None, "the Sentinels get answers");
        // One look at it may be of before.
        let mut cut = well(now, 9);
        let (said, then) = (lost(2000).unwrap(), now + ms(2000));
        for at in [400, 800, 1200, 1600, 2000] {
            cut.answered(now + ms(at), now + ms(at), &said);
        }
        let mut off = |at: u64, unreached: u64, down_after: u64| {
            let off = cut.off(then + ms(at), &said, ms(unreached), Duration::from_secs(down_after));
            (off.is_some(), cut.is_looked_at_closely())
        };
        assert_eq!(off(0, 2000, 5), (false, true));
        assert_eq!(off(100, 50, 5), (false, false));
        assert_eq!(off(200, 2000, 5), (false, true));
        assert_eq!(off(500, 2300, 30), (false, true), "they have patience for 30 s");
        assert_eq!(off(600, 2400, 5), (true, true));
    }

    #[test]
    fn what_was_acknowledged_was_so_at_once_or_since_the_last_answer() {
        let now = later();
        let mut cut = Cut::default();
        let mut at = |n: u32, offset: u64, confirmed: u64| {
            cut.answered(now + EACH * n, now + EACH * n, &primary(offset, &[(confirmed, 0)]));
            cut.alone(now + EACH * n)
        };
        for n in 0..9 {
            at(n, 1000 * u64::from(n), 0);
        }
        assert_eq!(at(9, 9000, 8750), Some(ms(100)));
        assert_eq!(at(10, 10_000, 9000), Some(EACH), "the last time that it was seen");
        assert_eq!(at(11, 11_000, 9100), Some(EACH), "it is behind, and came after that");
        assert_eq!(at(12, 11_100, 11_100), Some(ms(0)), "it has all");
    }

    #[test]
    fn who_has_a_replica_that_follows_is_not() {
        let now = later();
        // One that acknowledges each second, and is behind; one that has nothing to acknowledge; one that comes anew.
        let behind = |at: u64| Some(primary(1000 + at, &[(at / 1000 * 1000 + 500, 0), (900, 9)]));
        assert_eq!(closes(well(now, 9), now, behind, |at| at), None);
        let stuck = |at: u64| Some(primary(9000 + at, &[(1000, at / 100 % 10 / 5), (900, 9)]));
        assert_eq!(closes(well(now, 9), now, stuck, |at| at), None, "its age becomes less");
        let idle = |at: u64| Some(primary(1000, &[(1000, at / 1000)]));
        assert_eq!(closes(well(now, 9), now, idle, |at| at), None);
        let anew = |at: u64| Some(primary(9000, if at / 500 % 2 == 0 { &[] } else { &[(900, 9)] }));
        assert_eq!(closes(well(now, 9), now, anew, |at| at), None);
        let replica = ServerRole::Replica { of: String::new(), link_up: true, link_down_for: None };
        let replica = |_| Some(Instance { role: replica.clone(), ..Instance::default() });
        assert_eq!(closes(well(now, 9), now, replica, |at| at), None);
    }

    #[test]
    fn who_was_busy_just_now_is_not() {
        let now = later();
        let lost = |at: u64| Some(primary(9000 + at, &[(1000, at / 1000), (900, 9)]));
        assert_eq!(closes(Cut::default(), now, |_| Some(primary(9000, &[])), |at| at), None, "it never had a replica");
        assert_eq!(closes(well(now, 9), now, |_| None, |at| at), None, "it does not answer");
        // A script of 3 s: the Sentinels and replicas hear of it again at once, or never.
        let busy = |at: u64| lost(at).filter(|_| at > 3000);
        assert_eq!(closes(well(now, 9), now, busy, |at| if at > 3300 { at % 1000 } else { at }), None);
        assert_eq!(closes(well(now, 9), now, busy, |at| at), Some(4900));
        // The same while an answer was waited for.
        let mut cut = well(now, 9);
        cut.answered(now, now + ms(3000), &lost(3000).unwrap());
        assert_eq!(closes(cut, now + ms(3000), lost, |at| 3000 + at), Some(1800));
    }

    #[test]
    fn who_has_had_no_replica_for_long_goes_on_without() {
        let now = later();
        let mut cut = well(now - Duration::from_secs(61), 1);
        for n in (0..150).rev() {
            cut.answered(now - EACH * n, now - EACH * n, &primary(1000, &[]));
        }
        assert!(cut.off(now, &primary(1000, &[]), ms(5000), FIVE).is_none() && !cut.is_looked_at_closely());
    }
}
