//! What a line to one Sentinel has brought, and what the answers of a round come to.

use std::collections::BTreeSet;

use super::{Evidence, Lengths, Mark, Moment, OwnLine, Seen, Span, Terms, Watch, acquires, renews};

/// By what questions are judged. It stays the same from the arming of a round to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measure<N> {
    /// This node's lease, and its looks.
    pub terms: Terms,
    /// The longest lease that another node may have.
    pub longest: Span,
    /// All other nodes of the record and, until all have shown that they have it, of the one before.
    pub others: Vec<N>,
}

impl<N> Measure<N> {
    /// For leases of these lengths, with an arm A and a settling G.
    pub fn of(lengths: Lengths, arm: Span, settle: Span, others: Vec<N>) -> Self {
        Measure { terms: Terms { length: lengths.own, arm, settle }, longest: lengths.longest, others }
    }
}

/// An answer to a question of this node, on a line of its own: all of it but what its look showed, which is told to the line first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Which Sentinel of the record answers: 0, 1, ...
    pub sentinel: usize,
    /// When the question was sent.
    pub sent: Moment,
    /// When the last of the answer had arrived.
    pub received: Moment,
    /// The round whose question it was, if a fresh mark went before it.
    pub marked_for: Option<u64>,
    /// Whether the last look ([`Line::look`]) is the question's own, from behind its mark, and told something.
    pub own_look: bool,
    /// As in [`Evidence::names_me`].
    pub names_me: bool,
}

/// What an answer comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered<N> {
    /// What it shows.
    pub evidence: Evidence<N>,
    /// The round that it proves something for, if any.
    pub proves: Option<u64>,
}

/// This node's line to one Sentinel: what others see of this node by it, and this node of them.
///
/// What is not a line yet, or no more, is one without a mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line<N: Ord> {
    own: OwnLine,
    watch: Watch<N>,
    mark: Option<Mark>,
    answered: Option<Answered<N>>,
}

impl<N: Ord + Clone> Default for Line<N> {
    fn default() -> Self {
        Line { own: OwnLine::new(), watch: Watch::new(), mark: None, answered: None }
    }
}

impl<N: Ord + Clone> Line<N> {
    /// A line that was just connected, or taken over, and is sent its first mark. Nothing is known of what was before.
    pub fn connected(own: OwnLine, mark: Mark) -> Self {
        Line { own, mark: Some(mark), ..Self::default() }
    }

    /// A mark alone was acknowledged: `received` is when its reply arrived.
    pub fn acknowledged(&mut self, received: Moment) {
        self.own.marked(received);
    }

    /// Whether a mark was acknowledged.
    pub fn is_marked(&self) -> bool {
        self.own.is_marked()
    }

    /// Whether a question that is sent at `sent` counts.
    pub fn counts(&self, sent: Moment, terms: &Terms) -> bool {
        self.own.counts(sent, terms)
    }

    /// What its mark says, once sent.
    pub fn mark(&self) -> Option<Mark> {
        self.mark
    }

    /// Whether a mark is to be sent where no question needs one: who reads the one that stands must not take more for closed, or wait for
    /// less, than there is. It says no less than a new one otherwise, and one that changes makes others wait.
    pub fn says_less_than(&self, now: Mark) -> bool {
        match (self.mark, now) {
            (Some(Mark::Closed), now) => now != Mark::Closed,
            (_, Mark::Closed) => true,
            (Some(Mark::Held { length: was, .. }), Mark::Held { length: now, .. }) => now > was,
            (None, Mark::Held { .. }) => true,
        }
    }

    /// A mark is sent.
    pub fn sends(&mut self, mark: Mark) {
        self.mark = Some(mark);
    }

    /// What was answered is of no use: another record is stood on, or the next question cannot be asked here.
    pub fn forget_answer(&mut self) {
        self.answered = None;
    }

    /// What was seen is of no use: a look showed nothing, or it left out a node that counts now.
    pub fn forget_looks(&mut self) {
        self.watch = Watch::new();
    }

    /// A look at its Sentinel, as in [`Watch::look`], on whatever connection; sent after this line was made. Whether it tells anything.
    pub fn look(&mut self, sent: Moment, received: Moment, lines: &[Seen<N>], terms: &Terms) -> bool {
        self.watch.look(sent, received, lines, terms)
    }

    /// Whether the node is free by the looks here: [`Watch::free`].
    pub fn shows_free(&self, node: &N, measure: &Measure<N>) -> bool {
        self.watch.free(node, measure.longest, &measure.terms)
    }

    /// A question was answered, and what it looked at has been told. `dead` is which boot of a node is over for certain, if any.
    pub fn answer(&mut self, answer: &Answer, measure: &Measure<N>, dead: impl Fn(&N) -> Option<u32>) -> &Answered<N> {
        let Measure { terms, longest, others } = measure;
        if answer.marked_for.is_some() {
            self.own.marked(answer.received);
        }
        // An acquisition wants the look that is the question's own, behind its mark: another connection's may be from before it.
        let free = match answer.marked_for.is_some() && !answer.own_look {
            true => BTreeSet::new(),
            false => {
                let gone = |node: &N| dead(node).is_some_and(|boot| self.watch.gone(node, boot, *longest, terms));
                let free = |node: &&N| self.shows_free(node, measure) || gone(node);
                others.iter().filter(free).cloned().collect()
            }
        };
        let counts = self.own.counts(answer.sent, terms);
        let evidence = Evidence { sentinel: answer.sentinel, counts, names_me: answer.names_me, free };
        self.answered.insert(Answered { evidence, proves: answer.marked_for })
    }

    /// What the last answer comes to, if there is one that is of use.
    pub fn answered(&self) -> Option<&Answered<N>> {
        self.answered.as_ref()
    }
}

impl<N> Answered<N> {
    /// What it proves for a round's arm. Answers to questions of before prove nothing for it, nor do those without a mark of their own.
    pub fn proof(&self, round: u64) -> Option<&Evidence<N>> {
        Some(&self.evidence).filter(|_| self.proves == Some(round))
    }
}

/// What the proofs of a round suffice for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Opening {
    /// What is open goes on.
    Renewal,
    /// What is closed opens.
    Acquisition,
}

/// What a check right before a swap comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Checked {
    /// The swap may come.
    May,
    /// There is nothing to acquire: it is open.
    AlreadyOpen,
    /// The arm is too old, or what was to go on is over.
    Lapsed,
}

/// Whether the swap may come that is wanted for `wanted`, where no firewall sees to the half that is its own ([`concludes`]): `is_open` and the `age` of
/// the arm, which may be `arm` at most, are read when all answers are there, and right before the swap. Times are in any one unit.
pub fn check<T: PartialOrd>(wanted: Opening, is_open: bool, age: T, arm: T) -> Checked {
    match (wanted, is_open) {
        (Opening::Acquisition, true) => Checked::AlreadyOpen,
        (Opening::Renewal, false) => Checked::Lapsed,
        _ if age > arm => Checked::Lapsed,
        _ => Checked::May,
    }
}

/// What a round's arm may be swapped in for, by what proves something for it ([`Answered::proof`]); None as long as it is not enough.
/// The firewall adds its half: the arm lives and, for a renewal, so does the open element.
pub fn concludes<N: Ord>(proofs: &[Evidence<N>], sentinels: usize, others: &[N], has_lease: bool) -> Option<Opening> {
    match has_lease {
        true => renews(proofs, sentinels).then_some(Opening::Renewal),
        false => acquires(proofs, sentinels, others).then_some(Opening::Acquisition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms { length: 20, arm: 4, settle: 10 };
    const HELD: Mark = Mark::Held { length: 20, nonce: 1 };

    fn measure() -> Measure<char> {
        Measure { terms: TERMS, longest: 20, others: vec!['b'] }
    }

    /// A line that was marked at 0, and whose looks have shown `seen` for longer than W since then.
    fn looked(seen: &[Seen<char>]) -> Line<char> {
        let mut line = Line::connected(OwnLine::new(), Mark::Closed);
        line.acknowledged(0);
        for at in [0, 8, 16, 24, 32] {
            assert!(line.look(at, at, seen, &TERMS));
        }
        line
    }

    #[test]
    fn a_swap_that_no_firewall_checks_comes_with_a_young_arm_and_on_what_is_as_it_was_taken_for() {
        use Opening::{Acquisition, Renewal};
        for (wanted, is_open, age, comes_to) in [
            (Renewal, true, 4, Checked::May),
            (Renewal, true, 5, Checked::Lapsed),
            (Renewal, false, 0, Checked::Lapsed),
            (Acquisition, false, 4, Checked::May),
            (Acquisition, false, 5, Checked::Lapsed),
            (Acquisition, true, 5, Checked::AlreadyOpen),
        ] {
            assert_eq!(check(wanted, is_open, age, 4), comes_to, "{wanted:?} {is_open} {age}");
        }
    }

    fn at(sent: Moment) -> Answer {
        Answer { sentinel: 1, sent, received: sent + 1, marked_for: Some(7), own_look: true, names_me: true }
    }

    fn free(line: &Line<char>, answer: &Answer, dead: Option<u32>) -> bool {
        let mut line = line.clone();
        line.answer(answer, &measure(), |_| dead).evidence.free.contains(&'b')
    }

    #[test]
    fn a_marked_question_wants_a_look_of_its_own() {
        let line = looked(&[]);
        assert!(free(&line, &at(32), None));
        assert!(!free(&line, &Answer { own_look: false, ..at(32) }, None), "the look may be from before its mark");
        let unmarked = Answer { own_look: false, marked_for: None, ..at(32) };
        assert!(free(&line, &unmarked, None), "without a mark it proves nothing, and tells who is waited for");
    }

    #[test]
    fn who_is_off_is_free_by_the_marks_of_the_boot_that_is_over() {
        let mark = |fresh| Some(Mark::held(20, 3, fresh));
        let mut line = looked(&[Seen { line: 1, node: 'b', mark: mark(1) }]);
        line.look(33, 33, &[Seen { line: 1, node: 'b', mark: mark(2) }], &TERMS);
        for (dead, is_free) in [(None, false), (Some(3), true), (Some(4), false)] {
            assert_eq!(free(&line, &at(33), dead), is_free, "{dead:?}");
        }
    }

    #[test]
    fn an_answer_counts_by_the_age_of_the_first_mark() {
        for (marked, counts) in [(Some(10), true), (Some(11), false), (None, false)] {
            let mut line: Line<char> = Line::connected(OwnLine::new(), Mark::Closed);
            marked.iter().for_each(|at| line.acknowledged(*at));
            assert_eq!(line.answer(&at(20), &measure(), |_| None).evidence.counts, counts, "{marked:?}");
            assert!(line.is_marked(), "its own mark was acknowledged");
        }
        let mut line: Line<char> = Line::connected(OwnLine::taken_over(), Mark::Closed);
        assert!(!line.is_marked());
        line.acknowledged(20);
        assert!(line.answer(&at(20), &measure(), |_| None).evidence.counts);
    }

    #[test]
    fn an_answer_proves_something_for_its_own_round_only() {
        let mut line = looked(&[]);
        let answered = line.answer(&at(32), &measure(), |_| None);
        assert_eq!(answered.proof(7), Some(&answered.evidence));
        assert_eq!((answered.proof(6), answered.proof(8)), (None, None));
        let unmarked = Answer { marked_for: None, ..at(32) };
        assert_eq!(line.answer(&unmarked, &measure(), |_| None).proof(7), None);
        line.forget_answer();
        assert_eq!(line.answered(), None);
    }

    #[test]
    fn what_was_seen_before_is_of_no_use_where_it_is_forgotten() {
        let mut line = looked(&[]);
        line.forget_looks();
        assert!(!line.shows_free(&'b', &measure()));
        assert!(line.counts(32, &TERMS), "its own mark is there all the same");
    }

    #[test]
    fn a_mark_is_sent_where_the_one_that_stands_says_less() {
        let longer = Mark::Held { length: 21, nonce: 1 };
        let other = Mark::Held { length: 20, nonce: 2 };
        for (was, now, sent) in [
            (Mark::Closed, Mark::Closed, false),
            (Mark::Closed, HELD, true),
            (HELD, Mark::Closed, true),
            (HELD, other, false),
            (HELD, longer, true),
            (longer, HELD, false),
        ] {
            assert_eq!(Line::<char>::connected(OwnLine::new(), was).says_less_than(now), sent, "{was:?} {now:?}");
        }
        let mut none = Line::<char>::default();
        assert!(none.says_less_than(Mark::Closed) && none.says_less_than(HELD));
        none.sends(HELD);
        assert_eq!(none.mark(), Some(HELD));
    }

    #[test]
    fn a_lease_that_is_held_needs_no_look_at_others_and_another_one_does() {
        let proofs = |free: &[char]| {
            let one =
                |sentinel| Evidence { sentinel, counts: true, names_me: true, free: free.iter().copied().collect() };
            [one(0), one(1)]
        };
        let concluded = |free: &[char], has_lease| concludes(&proofs(free), 3, &['b'], has_lease);
        assert_eq!(concluded(&[], true), Some(Opening::Renewal));
        assert_eq!(concluded(&[], false), None);
        assert_eq!(concluded(&['b'], false), Some(Opening::Acquisition));
        assert_eq!(concludes(&proofs(&['b'])[..1], 3, &['b'], true), None);
    }
}
