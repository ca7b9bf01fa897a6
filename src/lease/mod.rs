//! The lease: whether this node may keep 6381 open, or open it. Pure decisions, no clock, no socket.
//!
//! Sentinels say who may hold the lease. That nobody else holds it is shown by the marks which the nodes leave there:
//! whatever Sentinels answer can close a gate, and never opens two.
//!
//! Moments and spans are numbers of a unit that the caller chooses: the keeper's are microseconds of its monotonic
//! clock, the model's (`tests/model.rs`) are ticks, and both call the functions of this module.
//!
//! - A question counts if its line had been marked long enough: [`OwnLine`].
//! - What an answer comes to, and for which round it proves something: [`Line`], [`Answered`].
//! - A majority of answers that count and name this node renews: [`renews`].
//! - To open, on each Sentinel of that majority every other node is free, too: [`Watch`], [`acquires`].
//! - What a round comes to by that: [`concludes`]; what is seen to right before the swap, where the firewall does not: [`check`].
//! - [`mark`]: what marks look like.

use std::collections::BTreeSet;

mod line;
pub mod mark;
mod watch;

pub use line::{Answer, Answered, Checked, Line, Measure, Opening, check, concludes};
pub use watch::Watch;

/// A point of time on the caller's monotonic clock.
pub type Moment = u64;
/// A time between two moments, in the same unit.
pub type Span = u64;

/// The times of one lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Terms {
    /// L: how long a lease lasts, counted from the arming, which is before the questions were sent.
    pub length: Span,
    /// A: how long an arm lives. Shorter than `length`.
    pub arm: Span,
    /// G: how long a line's first mark must have been acknowledged before a question on it counts.
    pub settle: Span,
}

impl Terms {
    /// X = L - A: the timeout of the open element. The swap that sets it comes at most A after the arming.
    pub fn open(&self) -> Span {
        self.length.saturating_sub(self.arm)
    }

    /// 0.9 G, rounded down: looks that are so far apart, from the sending of one to the reply of the next, can have
    /// missed a line that a question came through. The tenth is for clocks that run apart.
    pub fn look_gap(&self) -> Span {
        // The same as settle * 9 / 10, without the overflow.
        self.settle - self.settle.div_ceil(10)
    }

    /// W = 1.1 (L + A), rounded up and more than L + A in any case, where L is the `longest` lease that the other node
    /// can have, and A is this node's own: its questions reach the Sentinels up to A apart.
    pub fn window(&self, longest: Span) -> Span {
        let least = longest.saturating_add(self.arm);
        least.saturating_add(least.div_ceil(10).max(1))
    }
}

/// The lease's lengths while a record follows another one.
///
/// As long as a node is not known to have the new record, it may look at this node with the old one's window, and
/// hold a lease of the old one's length.
///
/// A node shows that it has a record when it holds no lease that was asked for under another one. A question is judged
/// by the lengths known at its arming: if the other node's showing comes between two of its looks, the shorter window
/// of the second one reaches back to longer leases. (`tests/model.rs` finds two open gates without either.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lengths {
    /// How long a lease this node takes: the shorter one. A longer one would outlast the window of a node that does not
    /// know of it: the mark that tells of it can vanish with its line before that node's next look.
    pub own: Span,
    /// How long a lease others may have: the longer one.
    pub longest: Span,
}

impl Lengths {
    /// `last` is the length in the record before, until every node has shown that it has this one.
    pub fn of(record: Span, last: Option<Span>) -> Self {
        let last = last.unwrap_or(record);
        Lengths { own: record.min(last), longest: record.max(last) }
    }
}

/// What a line's client name says of its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mark {
    /// When this was sent, the firewall held neither an open element nor an arm.
    Closed,
    /// The node may hold, or be about to take, a lease.
    Held {
        /// How long the lease is.
        length: Span,
        /// Another one for each question.
        nonce: u64,
    },
}

impl Mark {
    /// The mark of a new question. The upper half of a nonce says in which boot of its machine it was set ([`crate::stand::boot_tag`]), the lower
    /// one is another for each question.
    pub fn held(length: Span, boot: u32, fresh: u32) -> Self {
        Mark::Held { length, nonce: u64::from(boot) << 32 | u64::from(fresh) }
    }

    /// What is true of a node that has `held`: None where there is neither an open element nor an arm, and neither is about to be; else for
    /// how long, at most, what is open stays so. What it opens next lasts for `lasts`.
    pub fn of(held: Option<Span>, lasts: Span, boot: u32, fresh: u32) -> Self {
        held.map_or(Mark::Closed, |open| Mark::held(lasts.max(open), boot, fresh))
    }

    /// In which boot it was set; none of a closed one, which may be of any.
    pub fn boot(&self) -> Option<u32> {
        match self {
            Mark::Closed => None,
            Mark::Held { nonce, .. } => Some((nonce >> 32) as u32),
        }
    }
}

/// A line that a look at one Sentinel has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen<N> {
    /// Sentinel's client id: it grows within one process of Sentinel.
    pub line: u64,
    /// Whose line it is.
    pub node: N,
    /// Its mark; none if the name cannot be understood, which never makes its node free.
    pub mark: Option<Mark>,
}

/// Since when a line of this node bears a mark.
///
/// Between the looks of others at this Sentinel there is less than G: each of them has seen a line that is older than
/// that before a question comes through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct OwnLine {
    marked: Option<Moment>,
    settled: bool,
}

impl OwnLine {
    /// A line that was just connected.
    pub fn new() -> Self {
        Self::default()
    }

    /// A line of this node's keeper before this one, on which questions counted, as the others saw it all the time.
    pub fn taken_over() -> Self {
        OwnLine { marked: None, settled: true }
    }

    /// A mark was acknowledged: `received` is when its reply arrived. The first one counts.
    pub fn marked(&mut self, received: Moment) {
        self.marked.get_or_insert(received);
    }

    /// Whether a mark was acknowledged.
    pub fn is_marked(&self) -> bool {
        self.marked.is_some()
    }

    /// Whether a question that was sent at `sent` counts.
    pub fn counts(&self, sent: Moment, terms: &Terms) -> bool {
        let age = self.marked.and_then(|marked| sent.checked_sub(marked));
        age.is_some_and(|age| self.settled || age >= terms.settle)
    }
}

/// What one Sentinel's answer to a question comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence<N> {
    /// Which Sentinel of the record under which it was asked: 0, 1, ...
    pub sentinel: usize,
    /// Its mark was acknowledged on a line that had been marked long enough ([`OwnLine::counts`]).
    pub counts: bool,
    /// It names this node, and its run id is the record's.
    pub names_me: bool,
    /// The other nodes that are free there, by a watch whose last look is this question's own ([`Watch::free`], or [`Watch::gone`]).
    pub free: BTreeSet<N>,
}

/// Whether a lease may be renewed. The firewall adds the other half: the swap fails unless the open element lives.
///
/// `sentinels` is how many the record has; evidence of one record is not judged under another.
pub fn renews<N: Ord>(evidence: &[Evidence<N>], sentinels: usize) -> bool {
    majority(evidence, sentinels, |_| true)
}

/// Whether a lease may be taken: on each Sentinel of a majority that names this node, each of the `others` is free.
///
/// `others` are all other nodes of this record and, until every node has shown that it has this one, of the last.
pub fn acquires<N: Ord>(evidence: &[Evidence<N>], sentinels: usize, others: &[N]) -> bool {
    majority(evidence, sentinels, |answer| others.iter().all(|node| answer.free.contains(node)))
}

/// Each Sentinel once, whatever it was asked through.
fn majority<N>(evidence: &[Evidence<N>], sentinels: usize, good: impl Fn(&Evidence<N>) -> bool) -> bool {
    let votes: BTreeSet<usize> = evidence
        .iter()
        .filter(|answer| answer.sentinel < sentinels && answer.counts && answer.names_me && good(answer))
        .map(|answer| answer.sentinel)
        .collect();
    votes.len() > sentinels / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TERMS: Terms = Terms { length: 2_000_000, arm: 400_000, settle: 1_000_000 };

    #[test]
    fn the_times_of_the_default_lease() {
        assert_eq!(TERMS.open(), 1_600_000);
        assert_eq!(TERMS.look_gap(), 900_000);
        assert_eq!(TERMS.window(TERMS.length), 2_640_000);
    }

    #[test]
    fn a_window_is_longer_than_the_lease_and_the_arm() {
        let ticks = Terms { length: 2, arm: 1, settle: 3 };
        assert_eq!((ticks.window(2), ticks.window(3), ticks.look_gap()), (4, 5, 2));
        assert_eq!(Terms { arm: 0, ..ticks }.window(0), 1);
        assert_eq!(ticks.window(u64::MAX), u64::MAX);
    }

    #[test]
    fn a_changing_length_is_taken_short_and_waited_for_long() {
        for (record, last) in [(2, Some(5)), (5, Some(2))] {
            assert_eq!(Lengths::of(record, last), Lengths { own: 2, longest: 5 });
        }
        assert_eq!(Lengths::of(3, None), Lengths { own: 3, longest: 3 });
    }

    #[test]
    fn a_line_counts_when_its_first_mark_is_old_enough() {
        let mut line = OwnLine::new();
        assert!(!line.counts(9_000_000, &TERMS));
        line.marked(5_000_000);
        line.marked(6_500_000);
        assert!(!line.counts(5_999_999, &TERMS));
        assert!(line.counts(6_000_000, &TERMS));
        assert!(!line.counts(4_000_000, &TERMS));
    }

    #[test]
    fn who_holds_nothing_is_marked_closed_and_others_for_as_long_as_they_may_be_open() {
        assert_eq!(Mark::of(None, 20, 1, 2), Mark::Closed);
        assert_eq!(Mark::of(Some(0), 20, 1, 2), Mark::held(20, 1, 2), "an arm, for example");
        assert_eq!(Mark::of(Some(19), 20, 1, 2), Mark::held(20, 1, 2));
        assert_eq!(Mark::of(Some(21), 20, 1, 2), Mark::held(21, 1, 2), "opened by hand");
    }

    fn yes(sentinel: usize, free: &[&'static str]) -> Evidence<&'static str> {
        Evidence { sentinel, counts: true, names_me: true, free: free.iter().copied().collect() }
    }

    #[test]
    fn a_majority_renews_whoever_else_is_there() {
        assert!(renews(&[yes(0, &[]), yes(2, &[])], 3));
        assert!(!renews(&[yes(0, &[]), yes(0, &[])], 3), "one Sentinel, asked twice");
        assert!(!renews(&[yes(0, &[]), yes(3, &[])], 3), "no Sentinel of the record");
        assert!(!renews(&[yes(0, &[]), Evidence { counts: false, ..yes(1, &[]) }], 3));
        assert!(!renews(&[yes(0, &[]), Evidence { names_me: false, ..yes(1, &[]) }], 3));
        assert!(!renews(&[yes(0, &[]), yes(1, &[])], 4), "half is no majority");
        assert!(!renews::<&str>(&[], 0), "no Sentinels prove nothing");
    }

    #[test]
    fn all_others_are_free_at_each_sentinel_of_the_majority() {
        let others = ["b", "c"];
        assert!(acquires(&[yes(0, &["b", "c"]), yes(1, &["b", "c"])], 3, &others));
        assert!(!acquires(&[yes(0, &["b", "c"]), yes(1, &["b"]), yes(2, &["c"])], 3, &others));
        // The named ones and the free ones must be the same.
        let unnamed = Evidence { names_me: false, ..yes(1, &["b", "c"]) };
        assert!(!acquires(&[yes(0, &["b", "c"]), unnamed, yes(2, &[])], 3, &others));
    }

    proptest! {
        #[test]
        fn the_bounds_hold_for_any_numbers(longest: u64, arm: u64, settle: u64) {
            let terms = Terms { length: longest, arm, settle };
            let least = u128::from(longest) + u128::from(arm);
            if least < u128::from(u64::MAX) {
                prop_assert!(u128::from(terms.window(longest)) > least);
            }
            if least * 11 / 10 < u128::from(u64::MAX) {
                prop_assert!(u128::from(terms.window(longest)) * 10 >= least * 11);
            }
            prop_assert_eq!(u128::from(terms.look_gap()), u128::from(settle) * 9 / 10);
        }

        #[test]
        fn what_acquires_renews(free in proptest::collection::vec((0..4usize, any::<bool>(), any::<bool>(), any::<bool>()), 0..6)) {
            let evidence: Vec<Evidence<u8>> = free
                .into_iter()
                .map(|(sentinel, counts, names_me, free)| Evidence {
                    sentinel, counts, names_me, free: free.then_some(1).into_iter().collect(),
                })
                .collect();
            prop_assert!(!acquires(&evidence, 3, &[1]) || renews(&evidence, 3));
        }
    }
}
