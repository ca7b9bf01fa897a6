//! Whether the primary on this node is cut off: clients may reach it, and nobody does who would keep what they write.
//!
//! Sentinels call it down and promote another one after down-after, and what it acknowledges until then is lost. So it closes before:
//! where a majority of Sentinels has had no answer from it and no replica of it acknowledges anything, though it does answer here. A
//! Redis that is busy, or stands still, does not answer here either: that is not a failover, and closes nothing.

use std::time::{Duration, Instant};

use crate::instance::{Instance, ServerRole};

/// For how long Sentinels, which ask each second, have had no answer.
pub const UNREACHED: Duration = Duration::from_millis(1500);

/// For how many whole seconds replicas, which acknowledge each second, have not.
const LAG: u64 = 2;

/// For how long all that must be so. Behind a pause of all, the first answers that come are old.
const STANDS: Duration = Duration::from_millis(300);

/// An answer that takes longer, or comes later than this after the one before, tells of a Redis that was busy.
const PROMPT: Duration = Duration::from_millis(900);

/// Who has had no replica for longer is not followed by anybody who could be promoted.
const FOLLOWED: Duration = Duration::from_secs(60);

/// What is known of the Redis on this node.
#[derive(Debug, Default)]
pub struct Cut {
    /// Since when it has answered promptly, and its last answer.
    prompt: Option<(Instant, Instant)>,
    /// When a replica of it acknowledged last.
    followed: Option<Instant>,
    /// Since when it looks cut off.
    since: Option<Instant>,
}

impl Cut {
    /// It has answered at `received` what was asked at `sent`.
    pub fn answered(&mut self, sent: Instant, received: Instant, said: &Instance) {
        let took = received.saturating_duration_since(sent);
        let since = self.prompt.filter(|(_, last)| received.saturating_duration_since(*last) < PROMPT && took < PROMPT);
        self.prompt = Some((since.map_or(received, |(since, _)| since), received));
        if is_followed(said) {
            self.followed = Some(received);
        }
    }

    /// Whether it hangs on what Sentinels say: it answers here, whatever it was busy with is over and told, and no replica follows it any more.
    pub fn wants_to_know(&self, now: Instant, said: &Instance) -> bool {
        let within = |then: Instant, time: Duration| now.saturating_duration_since(then) < time;
        let prompt = self.prompt.is_some_and(|(since, last)| within(last, PROMPT) && !within(since, UNREACHED));
        let was_followed = self.followed.is_some_and(|then| within(then, FOLLOWED));
        said.is_primary() && prompt && was_followed && !is_followed(said)
    }

    /// Why nothing should be written to it, if it is cut off; `silent`: that is to be known, and a majority of Sentinels has had no answer
    /// for [`UNREACHED`].
    pub fn off(&mut self, now: Instant, silent: bool) -> Option<String> {
        if !silent {
            self.since = None;
            return None;
        }
        let since = *self.since.get_or_insert(now);
        let stands = now.saturating_duration_since(since) >= STANDS;
        stands.then(|| "cut off: neither the Sentinels nor a replica get anything from Redis on this node".to_owned())
    }
}

fn is_followed(said: &Instance) -> bool {
    matches!(&said.role, ServerRole::Primary { replicas } if replicas.iter().any(|replica| replica.lag < LAG))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::OnlineReplica;

    const EACH: Duration = Duration::from_millis(400);

    fn primary(lags: &[u64]) -> Instance {
        let replica = |&lag| OnlineReplica { address: String::new(), offset: 0, lag };
        Instance { role: ServerRole::Primary { replicas: lags.iter().map(replica).collect() }, ..Instance::default() }
    }

    /// Prompt answers of a primary with replicas up to `then`.
    fn well(then: Instant, answers: u32) -> Cut {
        let mut cut = Cut::default();
        for n in (0..answers).rev() {
            cut.answered(then - EACH * n, then - EACH * n, &primary(&[0, 1]));
        }
        cut
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(300)
    }

    #[test]
    fn who_reaches_nobody_is_cut_off() {
        let now = later();
        let mut cut = well(now, 5);
        assert!(cut.wants_to_know(now, &primary(&[2, 3])) && cut.wants_to_know(now, &primary(&[])));
        assert!(!cut.wants_to_know(now, &primary(&[1, 3])), "a replica has what is written");
        let replica = ServerRole::Replica { of: String::new(), link_up: true, link_down_for: None };
        assert!(!cut.wants_to_know(now, &Instance { role: replica, ..Instance::default() }));
        let off = |cut: &mut Cut, at: u64, silent| cut.off(now + Duration::from_millis(at), silent).is_some();
        assert!(!off(&mut cut, 0, true), "one look at it may be of before");
        assert!(off(&mut cut, 400, true) && !off(&mut cut, 500, false) && !off(&mut cut, 600, true));
    }

    #[test]
    fn who_was_busy_just_now_is_not() {
        let now = later();
        let lost = primary(&[3, 3]);
        assert!(!Cut::default().wants_to_know(now, &lost));
        assert!(!well(now, 3).wants_to_know(now, &lost), "it answers again since 0.8 s");
        assert!(!well(now - Duration::from_secs(1), 9).wants_to_know(now, &lost), "it does not answer now");
        // A script of 3 s, between two answers or while one was waited for.
        for took in [Duration::from_secs(3), Duration::ZERO] {
            let mut cut = well(now - EACH * 2 - Duration::from_secs(3), 9);
            cut.answered(now - EACH - took, now - EACH, &lost);
            cut.answered(now, now, &lost);
            assert!(!cut.wants_to_know(now, &lost));
        }
    }

    #[test]
    fn who_has_had_no_replica_for_long_goes_on_without() {
        let now = later();
        let mut cut = well(now - Duration::from_secs(61), 1);
        for n in (0..150).rev() {
            cut.answered(now - EACH * n, now - EACH * n, &primary(&[]));
        }
        assert!(!cut.wants_to_know(now, &primary(&[])));
    }
}
