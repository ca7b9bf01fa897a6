//! The course of a switchover: what to do next, given what was seen so far. Pure; the doing is in [`super`].
//!
//! Up to the request for the failover everything leads back to the old primary; from then on it goes on to whoever is promoted. Only where
//! the failover comes to nothing it leads back again.

use std::time::Duration;

use crate::switchover::BELONGS_FOR;

/// How long a Sentinel that would choose the target may take to come to the moment at which it sees a promotion at once, since the first one would
/// choose it. It asks each replica every 10 s. Then it is asked all the same, and the pause is longer.
pub const ALIGNED_WITHIN: Duration = Duration::from_secs(10);

/// How long until a Sentinel knows the replicas' priorities and roles: one round of its questions, and a little.
pub const KNOWN_WITHIN: Duration = Duration::from_secs(13);

/// One look may come to nothing, and a moment that is near is waited for.
const LOOKS_AGAIN: Duration = Duration::from_secs(2);

/// All of that.
pub const WAITS_AT_MOST: Duration = KNOWN_WITHIN.saturating_add(ALIGNED_WITHIN).saturating_add(LOOKS_AGAIN);

/// The moment: a Sentinel that was asked for a failover looks at the replicas again when it has known nothing new of them for one second. Its steps are
/// 50 to 100 ms apart (its timer's hz is 10 to 19), and in the third one it promotes: the second one is to be within that second. Its answer of
/// the target is so old when writes are stopped,
const STOP_FROM: Duration = Duration::from_millis(580);
const STOP_UNTIL: Duration = Duration::from_millis(660);

/// not younger, and not older when it is asked; else it is too late for this time. From the stop to the closed port and the last byte it takes 20 to
/// 90 ms.
const ASK_FROM: Duration = Duration::from_millis(690);
const ASK_UNTIL: Duration = Duration::from_millis(780);

/// Where that was too slow, so much sooner the next time: on two sites, say, or on a busy machine.
const SOONER: Duration = Duration::from_millis(200);

/// How often a moment may pass because somebody was too slow. The last time it goes on without it.
const ATTEMPTS: u32 = 2;

/// From the stop until all have every byte and the port is closed, where no moment is waited for.
const READY_WITHIN: Duration = Duration::from_millis(900);

/// Who asks for a failover has changed his mark not longer ago.
pub const ASKS_WITHIN: Duration = Duration::from_millis(1400);

/// A Sentinel that has promoted nobody by then may have died or stand still: another one is asked, too. It promotes the same one, and where the
/// first comes back it finds a newer epoch.
const PROMOTES_WITHIN: Duration = Duration::from_millis(1200);

/// From the last request to the promotion. Then it is looked whether the failover has come to nothing.
const PROMOTED_WITHIN: Duration = Duration::from_secs(3);

/// And by then that is decided, whatever can be seen.
pub const SETTLED_WITHIN: Duration = Duration::from_secs(10);

/// From the promotion to the open port. Nothing is undone then, only no longer waited for.
pub const OPEN_WITHIN: Duration = Duration::from_secs(20);

/// Marks are made new so often. Those that stand still the keepers put back.
const BEAT: Duration = Duration::from_millis(800);

/// Then somebody may have put them back already.
const STOOD_STILL: Duration = Duration::from_millis(2200);

/// Between two looks at the Sentinels, at most and at least.
const LOOK_AT_MOST: Duration = Duration::from_millis(400);
const LOOK_AT_LEAST: Duration = Duration::from_millis(25);

/// Between two looks at the target.
const STEP: Duration = Duration::from_millis(4);
const WATCH: Duration = Duration::from_millis(15);

/// How often each setting is tried to be put back.
const TRIES: u32 = 3;

// What must be in this order for marks to stand when they have to.
const _: () = {
    const fn ms(time: Duration) -> u128 {
        time.as_millis()
    }
    assert!(ms(STOP_FROM) < ms(STOP_UNTIL) && ms(STOP_UNTIL) < ms(ASK_FROM) && ms(ASK_FROM) < ms(ASK_UNTIL));
    assert!(ms(ASK_UNTIL) + ms(SOONER) - ms(STOP_FROM) < ms(READY_WITHIN) && ms(READY_WITHIN) < ms(ASKS_WITHIN));
    assert!(ms(SOONER) * (ATTEMPTS as u128 - 1) < ms(STOP_FROM));
    // From a beat before the window to its end.
    assert!(ms(LOOK_AT_MOST) + ms(STOP_UNTIL) - ms(STOP_FROM) + 2 * ms(super::QUICK) < ms(ASKS_WITHIN));
    // Whoever asks is heard of again before his mark is put back: a beat, and a question that gets no answer.
    assert!(ms(ASKS_WITHIN) + ms(BEAT) < ms(STOOD_STILL) + 1 && ms(STOOD_STILL) < ms(BELONGS_FOR));
    assert!(ms(BEAT) + ms(LOOK_AT_MOST) + 2 * ms(super::QUICK) < ms(STOOD_STILL));
    assert!(ms(PROMOTES_WITHIN) < ms(PROMOTED_WITHIN) && ms(PROMOTED_WITHIN) < ms(SETTLED_WITHIN));
};

/// What one Sentinel knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// It would choose the target, and is in no failover.
    pub chooses_target: bool,
    /// It takes no replica for a primary.
    pub knows_roles: bool,
    /// How old its last answer of the target is.
    pub age: Duration,
}

/// Where a replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// It still follows the old primary.
    pub follows: bool,
    /// How far it is.
    pub offset: u64,
}

/// How things stand at the nodes while writes are stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The old primary's read-write port is closed, and a majority of Sentinels shows it marked so.
    pub closed: bool,
    /// Each replica that could be chosen, the target first, and where it is; None where that cannot be told.
    pub replicas: Vec<(String, Option<Position>)>,
}

impl Standing {
    /// What is still waited for before a failover loses nothing. `goal`: how far the old primary is.
    pub fn waits_for(&self, goal: u64, old: &str) -> Option<String> {
        let there = |position: &Option<Position>| position.is_some_and(|at| at.follows && at.offset >= goal);
        let lacking = self.replicas.iter().find(|(_, position)| !there(position));
        match lacking {
            // Whoever is chosen instead would lack it.
            Some((name, _)) => Some(format!("{name} has not every byte")),
            None if self.replicas.is_empty() => Some("no replica".to_owned()),
            None => (!self.closed).then(|| format!("the read-write port of {old} is not closed")),
        }
    }
}

/// Whom a majority of Sentinels names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Named {
    /// It cannot be told.
    #[default]
    Unknown,
    /// Still the old primary.
    Old,
    /// This node.
    Other(String),
}

/// Who is promoted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watched {
    /// The node, other than the old primary, whose server is primary or that a majority of Sentinels names.
    pub promoted: Option<String>,
    /// Whom the Sentinels name.
    pub named: Named,
    /// The promoted one takes writes.
    pub open: bool,
    /// The target's server has answered.
    pub target_answers: bool,
    /// Whoever was asked says that it is in no failover, and names the old primary; or has promoted nobody, and has no process any more.
    pub over: bool,
}

/// What came of the last act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// There was none.
    Nothing,
    /// Of one that has no answer but that it was done, or why not.
    Done(Result<(), String>),
    /// The marks were made new, or why not: somebody else has put them back, for example.
    Beaten(Result<(), String>),
    /// What each Sentinel knows; None where that cannot be told.
    Sentinels(Vec<Option<Known>>),
    /// The old primary takes no more writes, and was so far; or why that cannot be told.
    Stopped(Result<u64, String>),
    /// How things stand.
    Standing(Standing),
    /// The Sentinel was asked, or was not or has refused: why.
    Asked(Result<(), String>),
    /// Who is promoted.
    Watched(Watched),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Mark the priority of the old primary and of the replicas that are put behind.
    Prefer,
    /// Ask the Sentinels what they know.
    Survey,
    /// Make the marks new.
    Beat,
    /// Stop writes at the old primary.
    Stop,
    /// Ask how things stand.
    Locate,
    /// Ask the Sentinel of that number for the failover, if the stop still stands (not the first one that is asked: if it would still choose
    /// the target), and have Pacemaker move the gate meanwhile.
    FailOver(usize),
    /// Look who is promoted, and whether it takes writes.
    Watch,
    /// Have Pacemaker move the gate back.
    Return,
    /// Let the old primary take writes, as far as this setting goes.
    Lift,
    /// Put the priorities back.
    Forget,
    /// Nothing more.
    End(End),
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Where it led.
    pub to: To,
    /// A setting was not seen put back: the keepers do it.
    pub left: bool,
}

/// Where it led.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    /// Back to the old primary: why.
    Back(String),
    /// To this node, which takes writes.
    Forward(String),
    /// To this node, which was not seen to take writes.
    Closed(String),
    /// Back to the old primary, though a Sentinel was asked and may still do it.
    Open(String),
}

/// See the module.
#[derive(Debug)]
pub struct Course {
    /// The old primary.
    old: String,
    state: State,
    stopped: bool,
    marked: bool,
    beaten: Duration,
    /// Since when it waits for a moment: from the first time.
    aligning: Option<Duration>,
    /// Since when a Sentinel would choose the target.
    choosable: Option<Duration>,
    /// No moment is waited for from then on.
    hurries: Option<Duration>,
    /// The Sentinel that can be asked where the first one does nothing. One, and once: of several some would find the failover over, and begin the next.
    spare: Option<usize>,
    /// When one was asked last: it may do it at any moment.
    asked: Option<Duration>,
    promoted: Option<(Duration, String)>,
    /// The priorities were tried to be put back before the end.
    forgotten: bool,
    attempts: u32,
    tries: u32,
    left: bool,
    /// What ended it.
    to: To,
}

/// Writes are stopped since then; by the Sentinel of that number, whose answer of the target is of that moment, if one is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stop {
    since: Duration,
    sentinel: usize,
    /// When that one is to be asked, from and until.
    asks: Option<(Duration, Duration)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Begin,
    Preferring,
    Aligning,
    Stopping(Stop),
    CatchingUp(Stop, u64),
    /// The moment has passed.
    Retreating,
    Asking,
    Promoting,
    Returning,
    Lifting,
    Forgetting,
    Ended,
}

/// When, and what.
pub type Next = (Duration, Act);

const AT_ONCE: Duration = Duration::ZERO;

impl Course {
    /// From its beginning, away from the node `old`.
    pub fn new(old: &str) -> Self {
        Course {
            old: old.to_owned(),
            state: State::Begin,
            stopped: false,
            marked: false,
            beaten: Duration::ZERO,
            aligning: None,
            choosable: None,
            hurries: None,
            spare: None,
            asked: None,
            promoted: None,
            forgotten: false,
            attempts: 0,
            tries: 0,
            left: false,
            to: To::Back("not begun".to_owned()),
        }
    }

    /// No moment is waited for from then on, since the beginning.
    pub fn hurrying(self, from: Duration) -> Self {
        Course { hurries: Some(from), ..self }
    }

    /// What is to be done next, and after which pause. `now`: since the beginning. `ends`: why it should end, where somebody wants that.
    pub fn next(&mut self, now: Duration, ends: Option<&str>, seen: Seen) -> Next {
        match (self.state.clone(), seen) {
            (State::Preferring, Seen::Done(Err(why))) => self.back(why),
            (State::Aligning | State::CatchingUp(..), Seen::Beaten(Err(why))) => self.back(why),
            (State::Stopping(_), Seen::Stopped(Err(why))) => self.back(why),
            (State::Begin | State::Preferring | State::Aligning | State::Stopping(_) | State::CatchingUp(..), _)
                if ends.is_some() =>
            {
                self.back(ends.unwrap_or_default().to_owned())
            }
            (State::Begin, _) => {
                self.state = State::Preferring;
                self.marked = true;
                self.beaten = now;
                (AT_ONCE, Act::Prefer)
            }
            (State::Preferring, _) => self.align(now),
            (State::Aligning, Seen::Sentinels(known)) => self.align_with(now, &known),
            (State::Aligning, _) => (AT_ONCE, Act::Survey),
            (State::Stopping(stop), Seen::Stopped(Ok(goal))) => {
                self.state = State::CatchingUp(stop, goal);
                (AT_ONCE, Act::Locate)
            }
            (State::CatchingUp(stop, goal), Seen::Standing(standing)) => self.catch_up(now, stop, goal, &standing),
            (State::CatchingUp(..), Seen::Beaten(Ok(()))) => (AT_ONCE, Act::Locate),
            (State::Retreating, Seen::Done(Ok(()))) => {
                self.stopped = false;
                self.align(now)
            }
            (State::Retreating, _) => self.back("writes were not let through again".to_owned()),
            (State::Asking, Seen::Asked(Err(why))) if self.asked.is_none() => self.back(why),
            (State::Asking, seen) => {
                // From here on it is in Sentinel's hands.
                if seen == Seen::Asked(Ok(())) {
                    self.asked = Some(now);
                }
                self.state = State::Promoting;
                (AT_ONCE, Act::Watch)
            }
            (State::Promoting, seen) => self.promoting(now, seen),
            (State::Returning | State::Lifting | State::Forgetting, seen) => self.ending(seen),
            // Nothing that fits: a defect of the caller. Whatever is set is put back.
            (state, seen) => self.back(format!("a defect: {seen:?} in {state:?}")),
        }
    }

    fn fail_over(&mut self, pause: Duration, sentinel: usize) -> Next {
        self.state = State::Asking;
        (pause, Act::FailOver(sentinel))
    }

    fn align(&mut self, now: Duration) -> Next {
        self.aligning.get_or_insert(now);
        self.state = State::Aligning;
        (AT_ONCE, Act::Survey)
    }

    fn align_with(&mut self, now: Duration, known: &[Option<Known>]) -> Next {
        let since = self.aligning.unwrap_or(now);
        if now > self.beaten + STOOD_STILL {
            return self.back("this process stood still for too long".to_owned());
        }
        // One that takes a replica for a primary would turn it around when it is promoted.
        let roles_known = known.iter().flatten().all(|known| known.knows_roles);
        let all = || known.iter().enumerate().filter_map(|(n, known)| Some((n, (*known)?)));
        let choosing = || all().filter(|(_, known)| known.chooses_target && roles_known);
        let sooner = SOONER * self.attempts;
        let (from, until) = (STOP_FROM.saturating_sub(sooner), STOP_UNTIL.saturating_sub(sooner));
        let comes = choosing().filter(|(_, known)| known.age < from).map(|(_, known)| from - known.age).min();
        // Not just when the moment is there.
        let soon = comes.is_some_and(|comes| comes <= LOOK_AT_MOST) && now >= self.beaten + BEAT / 2;
        if now >= self.beaten + BEAT || soon {
            self.beaten = now;
            return (AT_ONCE, Act::Beat);
        }
        let in_time = |known: &Known| (from..=until).contains(&known.age);
        // The youngest: it has most time.
        let ready = choosing().filter(|(_, known)| in_time(known)).min_by_key(|(_, known)| known.age);
        if choosing().next().is_some() {
            self.choosable.get_or_insert(now);
        }
        let hurries = self.hurries.is_some_and(|from| now >= from);
        let is_late = hurries || comes.is_none() && self.choosable.is_some_and(|since| now > since + ALIGNED_WITHIN);
        let late = || choosing().min_by_key(|(_, known)| known.age).filter(|_| is_late);
        // As if told now: an answer is older when it comes, never younger.
        let at = |known: Known, age: Duration| now + age.saturating_sub(known.age);
        let ready = ready.map(|(n, known)| (n, Some((at(known, ASK_FROM), at(known, ASK_UNTIL)))));
        if let Some((sentinel, asks)) = ready.or_else(|| late().map(|(n, _)| (n, None))) {
            self.spare = choosing().filter(|(n, _)| *n != sentinel).map(|(n, _)| n).next();
            self.state = State::Stopping(Stop { since: now, sentinel, asks });
            self.stopped = true;
            return (AT_ONCE, Act::Stop);
        }
        let patient = self.choosable.map_or(Duration::ZERO, |since| since + ALIGNED_WITHIN + LOOKS_AGAIN);
        if now > patient.max(since + KNOWN_WITHIN) {
            let why = match (roles_known, self.choosable) {
                (false, _) => "a Sentinel takes a replica for a primary",
                (true, None) => "no Sentinel would choose the target",
                (true, Some(_)) => "no Sentinel that would choose the target could be asked",
            };
            return self.back(format!("{why} within {} s: try again", (now - since).as_secs()));
        }
        (comes.unwrap_or(LOOK_AT_MOST).clamp(LOOK_AT_LEAST, LOOK_AT_MOST), Act::Survey)
    }

    fn catch_up(&mut self, now: Duration, stop: Stop, goal: u64, standing: &Standing) -> Next {
        let lacks = standing.waits_for(goal, &self.old);
        let until = stop.asks.map_or(stop.since + READY_WITHIN, |(_, until)| until);
        match lacks {
            None if now <= until => {
                let from = stop.asks.map_or(now, |(from, _)| from);
                self.fail_over(from.saturating_sub(now), stop.sentinel)
            }
            Some(_) if now <= until && now >= self.beaten + BEAT => {
                self.beaten = now;
                (AT_ONCE, Act::Beat)
            }
            Some(_) if now <= until => (STEP, Act::Locate),
            _ if stop.asks.is_some() => {
                self.attempts += 1;
                if self.attempts < ATTEMPTS {
                    self.state = State::Retreating;
                    return (AT_ONCE, Act::Lift);
                }
                // A longer pause is less than another one.
                let stop = Stop { asks: None, ..stop };
                self.state = State::CatchingUp(stop, goal);
                self.catch_up(now, stop, goal, standing)
            }
            lacks => {
                let lacks = lacks.unwrap_or_else(|| "this machine or the servers were too slow".to_owned());
                self.back(format!("{lacks} within {} ms", READY_WITHIN.as_millis()))
            }
        }
    }

    fn promoting(&mut self, now: Duration, seen: Seen) -> Next {
        let asked = self.asked.unwrap_or(now);
        if let Seen::Watched(Watched { promoted: Some(node), .. }) = &seen {
            let since = self.promoted.as_ref().map_or(now, |(since, _)| *since);
            self.promoted = Some((since, node.clone()));
        }
        // Of the priorities: else once more at the end.
        if seen == Seen::Done(Ok(())) {
            self.marked = false;
        }
        let Seen::Watched(watched) = seen else { return (AT_ONCE, Act::Watch) };
        let others_named = matches!(watched.named, Named::Other(_));
        match &self.promoted {
            Some((_, node)) if watched.open => return self.end(To::Forward(node.clone())),
            // Not before: until then another Sentinel may have to choose the same.
            Some(_) if others_named && self.marked && !self.forgotten => {
                self.forgotten = true;
                return (AT_ONCE, Act::Forget);
            }
            _ => {}
        }
        // It may have died, or have promoted one and died before it told the others. They can do it again. Not where it is the target that
        // has died: a Sentinel that has chosen it waits for it for failover-timeout, and a majority of such ones lets nobody take writes.
        let silent_since = self.promoted.as_ref().map_or(asked, |(since, _)| *since);
        if !others_named && now > silent_since + PROMOTES_WITHIN && watched.target_answers {
            if let Some(sentinel) = self.spare.take() {
                return self.fail_over(AT_ONCE, sentinel);
            }
        }
        let named = watched.named;
        match &self.promoted {
            // Who promoted it has died before it told the others, and has forgotten it; no other one would do it again. Sentinels make it a replica.
            Some((since, node)) if named == Named::Old && watched.over && now > asked.max(*since) + PROMOTED_WITHIN => {
                let why = format!("{node} was promoted by a Sentinel that has forgotten it since, and none names it");
                return self.end(To::Back(why));
            }
            Some((since, node)) if now > *since + OPEN_WITHIN => {
                let node = node.clone();
                return match named {
                    Named::Other(node) => self.end(To::Closed(node)),
                    Named::Unknown => self.end(To::Closed(node)),
                    Named::Old => {
                        self.end(To::Open(format!("{node} was promoted, and the Sentinels go on naming {}", self.old)))
                    }
                };
            }
            None if now > asked + PROMOTED_WITHIN && watched.over => {
                return self.end(To::Back("the failover came to nothing".to_owned()));
            }
            None if now > asked + SETTLED_WITHIN => {
                return self.end(To::Open(format!("nobody was promoted within {} s", SETTLED_WITHIN.as_secs())));
            }
            _ => {}
        }
        if now >= self.beaten + BEAT {
            self.beaten = now;
            return (AT_ONCE, Act::Beat);
        }
        (WATCH, Act::Watch)
    }

    fn back(&mut self, why: String) -> Next {
        self.end(To::Back(why))
    }

    fn end(&mut self, to: To) -> Next {
        let back = matches!(to, To::Back(_) | To::Open(_));
        self.to = to;
        self.tries = 0;
        self.state = State::Returning;
        if back && self.asked.is_some() { (AT_ONCE, Act::Return) } else { self.lift() }
    }

    fn lift(&mut self) -> Next {
        self.tries = 0;
        self.state = State::Lifting;
        if self.stopped { (AT_ONCE, Act::Lift) } else { self.forget() }
    }

    fn forget(&mut self) -> Next {
        self.tries = 0;
        self.state = State::Forgetting;
        if self.marked { (AT_ONCE, Act::Forget) } else { self.ended() }
    }

    fn ending(&mut self, seen: Seen) -> Next {
        let failed = !matches!(seen, Seen::Done(Ok(())));
        self.tries += 1;
        let act = match self.state {
            // The keepers do it as well.
            State::Returning => return self.lift(),
            State::Lifting => Act::Lift,
            _ => Act::Forget,
        };
        match (failed, self.tries < TRIES) {
            (true, true) => return (LOOK_AT_LEAST, act),
            (true, false) => self.left = true,
            _ => {}
        }
        if act == Act::Lift { self.forget() } else { self.ended() }
    }

    fn ended(&mut self) -> Next {
        self.state = State::Ended;
        (AT_ONCE, Act::End(End { to: self.to.clone(), left: self.left }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A cluster as far as a switchover sees and changes it.
    #[derive(Debug, Default)]
    struct World {
        now: Duration,
        moved: bool,
        fenced: bool,
        raised: bool,
        goal: u64,
        caught_up: bool,
        asked: Option<Duration>,
        last_asked: Option<Duration>,
        promoted: Option<Duration>,
        named: bool,
        open: bool,
    }

    /// What goes how.
    #[derive(Debug, Clone)]
    struct Lot {
        takes: Duration,
        fails: bool,
        /// The act was done all the same.
        silent: bool,
    }

    fn lot() -> impl Strategy<Value = Lot> {
        let takes = prop_oneof![8 => 0..40_u64, 2 => 40..400_u64, 1 => 400..6000_u64];
        (takes, prop::bool::weighted(0.1), any::<bool>()).prop_map(|(takes, fails, silent)| Lot {
            takes: Duration::from_millis(takes),
            fails,
            silent,
        })
    }

    fn because() -> Result<(), String> {
        Err("no answer".to_owned())
    }

    fn known(age: Duration, chooses_target: bool) -> Option<Known> {
        Some(Known { chooses_target, knows_roles: true, age })
    }

    fn standing(closed: bool, offset: u64) -> Standing {
        let position = Some(Position { follows: true, offset });
        Standing { closed, replicas: vec![("node2".to_owned(), position), ("node3".to_owned(), position)] }
    }

    impl World {
        fn act(&mut self, act: &Act, lot: &Lot, follows: bool, promotes: Option<Duration>) -> Seen {
            let happens = !lot.fails || lot.silent;
            let begun = self.now;
            self.now += lot.takes;
            if self.asked.zip(promotes).is_some_and(|(asked, after)| self.now >= asked + after) {
                self.promoted.get_or_insert(self.now);
            }
            match act {
                Act::Prefer => {
                    self.raised = happens;
                    Seen::Done(if lot.fails { because() } else { Ok(()) })
                }
                Act::Beat => Seen::Beaten(if lot.fails { because() } else { Ok(()) }),
                Act::Survey if lot.fails => Seen::Sentinels(vec![None]),
                Act::Survey => {
                    let age = Duration::from_millis((self.now.as_millis() % 10_000) as u64);
                    let old = known(Duration::from_secs(9), follows && lot.silent);
                    Seen::Sentinels(vec![None, known(age, follows), old])
                }
                Act::Stop => {
                    self.fenced = happens;
                    self.goal = self.now.as_millis() as u64;
                    Seen::Stopped(if lot.fails { Err("no answer".to_owned()) } else { Ok(self.goal) })
                }
                Act::Locate => {
                    let offset = if lot.silent { self.goal } else { self.goal.saturating_sub(1) };
                    let mut standing = standing(!lot.fails, offset);
                    if !follows {
                        standing.replicas[1].1 = None;
                    }
                    self.caught_up = standing.waits_for(self.goal, "node1").is_none();
                    Seen::Standing(standing)
                }
                Act::FailOver(sentinel) => {
                    assert!(
                        *sentinel == 1
                            || self.asked.is_some() && *sentinel == 2
                            || *sentinel == 2 && begun > ALIGNED_WITHIN,
                        "one that would choose the target"
                    );
                    assert!(self.fenced && self.caught_up, "what is acknowledged now would be lost");
                    if happens {
                        self.asked.get_or_insert(begun);
                        self.last_asked = Some(self.now);
                    }
                    // Silence behind the request is no refusal.
                    let refused = lot.fails && !lot.silent;
                    self.moved |= !refused;
                    Seen::Asked(if refused { because() } else { Ok(()) })
                }
                Act::Watch => {
                    let promoted = self.promoted.filter(|_| !lot.fails).map(|_| "node2".to_owned());
                    self.open |= self.named && lot.silent;
                    self.named |= promoted.is_some() && lot.silent;
                    let named = match (self.named, lot.fails) {
                        (_, true) => Named::Unknown,
                        (true, _) => Named::Other("node2".to_owned()),
                        (false, _) => Named::Old,
                    };
                    let over = promotes.is_none() && !lot.fails && lot.silent;
                    let target_answers = !lot.fails;
                    Seen::Watched(Watched {
                        open: promoted.is_some() && self.open,
                        named,
                        promoted,
                        target_answers,
                        over,
                    })
                }
                Act::Return => {
                    assert!(self.fenced, "first the gate, then the writes");
                    self.moved = false;
                    Seen::Done(if lot.fails { because() } else { Ok(()) })
                }
                Act::Lift => {
                    self.fenced &= !happens;
                    Seen::Done(if lot.fails { because() } else { Ok(()) })
                }
                Act::Forget => {
                    self.raised &= !happens;
                    Seen::Done(if lot.fails { because() } else { Ok(()) })
                }
                Act::End(_) => unreachable!("nothing is done after the end"),
            }
        }
    }

    proptest! {
        #[test]
        fn wherever_it_is_interrupted_it_ends_at_one_of_two_and_leaves_nothing(
            lots in prop::collection::vec(lot(), 40..120),
            interrupted in prop::option::of(0..40_000_u64),
            follows in prop::bool::weighted(0.9),
            promotes in prop::option::weighted(0.8, (50..4000_u64).prop_map(Duration::from_millis)),
        ) {
            let mut course = Course::new("node1");
            let mut world = World::default();
            let mut seen = Seen::Nothing;
            let mut fenced_at = None;
            let mut lots = lots.iter().cycle();
            for step in 0.. {
                prop_assert!(step < 100_000, "it never ends: {course:?}");
                let ends = interrupted.filter(|at| world.now >= Duration::from_millis(*at)).map(|_| "interrupted");
                let (pause, act) = course.next(world.now, ends, seen);
                prop_assert!(pause <= LOOK_AT_MOST);
                world.now += pause;
                if let Act::End(End { to, left }) = &act {
                    prop_assert!(*left || !world.fenced && !world.raised, "left without a word: {to:?}");
                    match to {
                        // Nobody was asked, or it has been seen that nothing comes of it.
                        To::Back(_) => prop_assert!(world.asked.is_none() && !world.moved || promotes.is_none(), "asked, and back without a doubt"),
                        To::Open(_) => prop_assert!(world.asked.is_some() && !world.moved),
                        To::Forward(node) => prop_assert!(node == "node2" && world.promoted.is_some() && world.open),
                        To::Closed(_) => prop_assert!(world.promoted.is_some()),
                    }
                    prop_assert!(world.now < Duration::from_secs(150), "{:?}", world.now);
                    break;
                }
                if ends.is_some() && world.asked.is_none() {
                    prop_assert!(!matches!(act, Act::Prefer | Act::Stop | Act::FailOver(_)), "interrupted, and {act:?}");
                }
                if act == Act::Stop {
                    fenced_at = Some(world.now);
                }
                if let (Act::FailOver(_), None, Some(at)) = (&act, world.asked, fenced_at) {
                    prop_assert!(world.now <= at + READY_WITHIN, "{at:?} {:?}: a long pause", world.now);
                }
                // The old primary is let go only where it has not been asked for, or has come to something, or surely to nothing.
                if act == Act::Lift && world.asked.is_some() {
                    let late = |after| world.last_asked.is_some_and(|at| world.now > at + after);
                    prop_assert!(world.promoted.is_some() || late(SETTLED_WITHIN) || promotes.is_none() && late(PROMOTED_WITHIN));
                }
                let lot = lots.next().unwrap();
                seen = world.act(&act, lot, follows, promotes);
            }
        }
    }

    /// The acts of a switchover in which each answer is what `answers` says.
    fn acts(answer: impl FnMut(&Act, Duration) -> (u64, Seen)) -> Vec<Act> {
        acts_of(Course::new("node1"), answer)
    }

    fn acts_of(mut course: Course, mut answer: impl FnMut(&Act, Duration) -> (u64, Seen)) -> Vec<Act> {
        let (mut now, mut seen, mut acts) = (Duration::ZERO, Seen::Nothing, Vec::new());
        loop {
            let (pause, act) = course.next(now, None, seen);
            if acts.last() != Some(&act) {
                acts.push(act.clone());
            }
            if matches!(act, Act::End(_)) {
                return acts;
            }
            now += pause;
            let (took, saw) = answer(&act, now);
            now += Duration::from_millis(took);
            seen = saw;
        }
    }

    /// Where all goes well, but for what a test says.
    fn usual(act: &Act) -> (u64, Seen) {
        match act {
            Act::Survey => (
                2,
                Seen::Sentinels(vec![
                    None,
                    known(Duration::from_secs(9), true),
                    known(STOP_FROM + Duration::from_millis(20), true),
                ]),
            ),
            Act::Stop => (1, Seen::Stopped(Ok(100))),
            Act::Locate => (1, Seen::Standing(standing(true, 100))),
            Act::FailOver(_) => (3, Seen::Asked(Ok(()))),
            Act::Watch => (1, Seen::Watched(Watched { target_answers: true, ..Watched::default() })),
            Act::Beat => (1, Seen::Beaten(Ok(()))),
            _ => (1, Seen::Done(Ok(()))),
        }
    }

    fn without_looks(acts: Vec<Act>) -> Vec<Act> {
        acts.into_iter().filter(|act| !matches!(act, Act::Watch | Act::Beat)).collect()
    }

    fn node2() -> Option<String> {
        Some("node2".to_owned())
    }

    use Act::{Beat, End as Ends, FailOver, Forget, Lift, Locate, Prefer, Return, Stop, Survey, Watch};

    #[test]
    fn in_the_right_order_where_all_is_well() {
        let mut watched = 0;
        let went = acts(|act, now| match act {
            Survey => (2, Seen::Sentinels(vec![known(now + Duration::from_millis(500), true)])),
            Watch => {
                watched += 1;
                let named = if watched > 5 { Named::Other("node2".to_owned()) } else { Named::Old };
                (
                    1,
                    Seen::Watched(Watched {
                        promoted: node2().filter(|_| watched > 3),
                        named,
                        open: watched > 9,
                        target_answers: true,
                        over: false,
                    }),
                )
            }
            act => usual(act),
        });
        let end = End { to: To::Forward("node2".to_owned()), left: false };
        assert_eq!(went, [Prefer, Survey, Stop, Locate, FailOver(0), Watch, Forget, Watch, Lift, Ends(end)]);
    }

    #[test]
    fn who_is_asked_has_known_the_target_for_a_certain_time() {
        // The second time the moment is there already when it begins.
        for older in [7000, STOP_FROM.as_millis() + 10] {
            let (mut stopped, mut asked) = (Duration::ZERO, Duration::ZERO);
            acts(|act, now| {
                let age = Duration::from_millis(((now.as_millis() + older) % 10_000) as u64);
                match act {
                    Survey => return (2, Seen::Sentinels(vec![known(age, true)])),
                    Stop => stopped = age,
                    FailOver(_) => asked = age,
                    _ => {}
                }
                usual(act)
            });
            assert!((STOP_FROM..=STOP_UNTIL).contains(&stopped), "{older}: {stopped:?}");
            assert!((ASK_FROM..=ASK_UNTIL).contains(&asked), "{older}: {asked:?}");
        }
        // Where that never comes it is not waited for for ever.
        let mut asked = Duration::ZERO;
        let went = acts(|act, now| {
            match act {
                Survey => return (2, Seen::Sentinels(vec![known(Duration::from_secs(5), true)])),
                FailOver(_) => asked = now,
                _ => {}
            }
            usual(act)
        });
        assert!(went.contains(&FailOver(0)) && asked > ALIGNED_WITHIN, "{went:?}");
        assert!(asked < ALIGNED_WITHIN + Duration::from_secs(2), "{asked:?}");
    }

    #[test]
    fn who_hurries_waits_for_no_moment() {
        let from = Duration::from_secs(2);
        let mut asked = Duration::ZERO;
        acts_of(Course::new("node1").hurrying(from), |act, now| {
            match act {
                Survey => return (2, Seen::Sentinels(vec![known(Duration::from_secs(5), true)])),
                FailOver(_) => asked = now,
                _ => {}
            }
            usual(act)
        });
        assert!(asked >= from && asked < from + Duration::from_secs(1), "{asked:?}");
    }

    #[test]
    fn a_sentinel_that_is_not_heard_once_is_not_given_up() {
        // From 4 s on it would choose the target; each moment passes while it is not heard, and so does the last look in time.
        let mut asked = Duration::ZERO;
        acts(|act, now| {
            match act {
                Survey => {
                    let (chooses, last) = (now >= Duration::from_secs(4), now > Duration::from_secs(13));
                    let heard = !(last && now < Duration::from_millis(14_500));
                    return (2, Seen::Sentinels(vec![known(Duration::from_secs(5), chooses).filter(|_| heard)]));
                }
                FailOver(_) => asked = now,
                _ => {}
            }
            usual(act)
        });
        assert!(asked > Duration::from_secs(14) && asked < Duration::from_secs(16), "{asked:?}");
    }

    #[test]
    fn who_was_too_slow_stops_sooner_the_next_time() {
        let mut stopped = Vec::new();
        let mut began = Duration::ZERO;
        let went = acts(|act, now| {
            let age = Duration::from_millis((now.as_millis() % 10_000) as u64);
            match act {
                Survey => return (2, Seen::Sentinels(vec![known(age, true)])),
                Stop => {
                    stopped.push(age);
                    began = now;
                }
                Locate => return (1, Seen::Standing(standing(now > began + Duration::from_millis(250), 100))),
                _ => {}
            }
            usual(act)
        });
        let [first, second] = stopped[..] else { panic!("{stopped:?}") };
        assert!(first >= STOP_FROM && second <= STOP_UNTIL - SOONER, "{stopped:?}");
        assert!(went.contains(&FailOver(0)), "{went:?}");
    }

    #[test]
    fn nobody_is_asked_while_a_sentinel_takes_a_replica_for_a_primary() {
        let went = acts(|act, _| match act {
            Survey => {
                let stale = Known { knows_roles: false, ..known(Duration::ZERO, false).unwrap() };
                (2, Seen::Sentinels(vec![known(STOP_FROM + Duration::from_millis(20), true), Some(stale)]))
            }
            act => usual(act),
        });
        let Some(Ends(End { to: To::Back(why), left: false })) = went.last() else { panic!("{went:?}") };
        assert!(why.contains("takes a replica for a primary") && !went.contains(&Stop), "{why} {went:?}");
    }

    #[test]
    fn where_the_asked_sentinel_does_nothing_another_one_is_asked_and_then_it_goes_back() {
        for over in [false, true] {
            let (mut last, mut lifted) = (Duration::ZERO, Duration::ZERO);
            let mut went = without_looks(acts(|act, now| {
                match act {
                    FailOver(_) => last = now,
                    Lift => lifted = now,
                    Watch => {
                        let watched = Watched { named: Named::Old, target_answers: true, over, ..Watched::default() };
                        return (1, Seen::Watched(watched));
                    }
                    _ => {}
                }
                usual(act)
            }));
            let end = went.pop();
            assert_eq!(went, [Prefer, Survey, Stop, Locate, FailOver(2), FailOver(1), Return, Lift, Forget]);
            match (over, end) {
                (true, Some(Ends(End { to: To::Back(_), left: false }))) => {
                    assert!(lifted < last + SETTLED_WITHIN);
                }
                // It may still be done.
                (false, Some(Ends(End { to: To::Open(_), left: false }))) => {
                    assert!(lifted > last + SETTLED_WITHIN);
                }
                (over, end) => panic!("{over}: {end:?}"),
            }
        }
    }

    #[test]
    fn where_the_target_is_what_has_died_no_other_sentinel_is_asked() {
        // Its Sentinel waits for it; the others go on naming the old primary, which takes writes again.
        let (mut asked, mut lifted) = (Duration::ZERO, Duration::ZERO);
        let mut went = without_looks(acts(|act, now| {
            match act {
                FailOver(_) => asked = now,
                Lift => lifted = now,
                Watch => return (1, Seen::Watched(Watched { named: Named::Old, ..Watched::default() })),
                _ => {}
            }
            usual(act)
        }));
        let end = went.pop();
        assert_eq!(went, [Prefer, Survey, Stop, Locate, FailOver(2), Return, Lift, Forget]);
        assert!(matches!(end, Some(Ends(End { to: To::Open(_), left: false }))), "{end:?}");
        assert!(lifted < asked + SETTLED_WITHIN + Duration::from_secs(1), "{lifted:?}");
    }

    #[test]
    fn where_a_sentinel_promotes_and_tells_nobody_another_one_does_it_again() {
        let mut asked = 0;
        let went = without_looks(acts(|act, _| match act {
            FailOver(_) => {
                asked += 1;
                usual(act)
            }
            Watch => {
                let named = if asked > 1 { Named::Other("node2".to_owned()) } else { Named::Old };
                let watched = Watched { promoted: node2(), named, open: asked > 1, target_answers: true, over: false };
                (1, Seen::Watched(watched))
            }
            act => usual(act),
        }));
        let end = Ends(End { to: To::Forward("node2".to_owned()), left: false });
        assert_eq!(went, [Prefer, Survey, Stop, Locate, FailOver(2), FailOver(1), Lift, Forget, end]);
    }

    #[test]
    fn a_promotion_that_every_sentinel_has_forgotten_leads_back() {
        for over in [false, true] {
            let (mut last, mut lifted) = (Duration::ZERO, Duration::ZERO);
            let went = without_looks(acts(|act, now| match act {
                FailOver(_) => {
                    last = now;
                    usual(act)
                }
                Lift => {
                    lifted = now;
                    usual(act)
                }
                Watch => {
                    let watched =
                        Watched { promoted: node2(), named: Named::Old, target_answers: true, over, open: false };
                    (1, Seen::Watched(watched))
                }
                act => usual(act),
            }));
            let within = lifted - last;
            match (over, went.last()) {
                (true, Some(Ends(End { to: To::Back(_), left: false }))) => {
                    assert!(
                        within > PROMOTED_WITHIN && within < PROMOTED_WITHIN + Duration::from_secs(1),
                        "{within:?}"
                    );
                }
                // One that has not forgotten it may still tell the others.
                (false, Some(Ends(End { to: To::Open(_), left: false }))) => {
                    assert!(within > SETTLED_WITHIN, "{within:?}")
                }
                (over, end) => panic!("{over}: {end:?}"),
            }
        }
    }

    #[test]
    fn in_the_end_it_is_who_the_sentinels_name() {
        let ends = |named: Named| {
            let went = acts(|act, _| match act {
                Watch => (1, Seen::Watched(Watched { promoted: node2(), named: named.clone(), ..Watched::default() })),
                act => usual(act),
            });
            match went.last() {
                Some(Ends(end)) => end.to.clone(),
                other => panic!("{other:?}"),
            }
        };
        assert!(matches!(ends(Named::Old), To::Open(_)));
        assert_eq!(ends(Named::Unknown), To::Closed("node2".to_owned()));
        assert_eq!(ends(Named::Other("node3".to_owned())), To::Closed("node3".to_owned()));
    }

    #[test]
    fn a_replica_that_is_behind_or_a_port_that_is_open_is_waited_for_and_then_it_goes_back() {
        let mut behind = standing(true, 100);
        behind.replicas[1].1 = Some(Position { follows: true, offset: 99 });
        let mut strange = standing(true, 100);
        strange.replicas[1].1 = Some(Position { follows: false, offset: 100 });
        for (standing, says) in [
            (standing(false, 100), "the read-write port of node1 is not closed"),
            (standing(true, 99), "node2 has not every byte"),
            (behind, "node3 has not every byte"),
            (strange, "node3 has not every byte"),
        ] {
            let mut stops = 0;
            let went = acts(|act, now| match act {
                Survey => {
                    (2, Seen::Sentinels(vec![known(Duration::from_millis((now.as_millis() % 10_000) as u64), true)]))
                }
                Stop => {
                    stops += 1;
                    usual(act)
                }
                Locate => (1, Seen::Standing(standing.clone())),
                act => usual(act),
            });
            assert_eq!(stops, ATTEMPTS);
            assert!(!went.iter().any(|act| matches!(act, FailOver(_))), "{went:?}");
            let Some(Ends(End { to: To::Back(why), left: false })) = went.last() else { panic!("{went:?}") };
            assert!(why.contains(says), "{why}");
        }
    }

    #[test]
    fn whose_mark_is_gone_goes_back() {
        for when in [Survey, Locate] {
            let went = acts(|act, now| match act {
                Beat if now > Duration::from_millis(1) => (1, Seen::Beaten(because())),
                Survey if when == Survey => (500, Seen::Sentinels(vec![None])),
                Locate => (300, Seen::Standing(standing(false, 0))),
                act => usual(act),
            });
            let last = went.last();
            assert!(
                matches!(last, Some(Ends(End { to: To::Back(why), .. })) if why == "no answer"),
                "{when:?}: {went:?}"
            );
        }
    }
}
