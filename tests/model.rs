//! The lease, model-checked: two gates are never open at once, whatever Sentinels answer.
//!
//! The model's keepers decide by the functions of [`rolegate::lease`]: what an answer comes to and for which round it proves
//! something, who is free by the looks on its line, what a round's answers suffice for, what is seen to right before a swap on `ipset`,
//! what a mark says and when it is sent without a question; and of [`rolegate::stand`]: when a record is gone on to, and until when the one before
//! counts. The model is what surrounds them: the kernels of the nodes (arms and open elements that run out), Sentinels with their clients' names, lines between them that break
//! at either end, processes that stop between any two steps, time.
//!
//! # What is explored
//! Time is in ticks, and everything that is remembered of it is an age, which counts no further than the longest
//! window. So there are finitely many states, and a search ends by itself, without a bound on time or on the number of
//! steps. What is bounded: three Sentinels; leases of two to four ticks, an arm of one, G of two; how often a single line
//! breaks while its keeper and its Sentinel live (twice at most), and how many connections arrive late (one); that a node
//! has at most two connections at one Sentinel; that a node loses its power once, at most; and not all of it at once, but as [`main`]'s scenarios have it. Each
//! prints how many states it has. Sentinels and keepers restart as often as they like, where they do. Each fault that is
//! seeded is found in a scenario that holds without it.
//! (stateright tells states apart by 64 bits of hash: some 10^7 states miss one with a chance of one in 10^5.)
//!
//! Steps happen in any order, at any moment, or never: a keeper that is stopped, a message that is lost or late and
//! a partition all are steps that do not happen in time.
//!
//! # What is left out, and why nothing is lost by it
//! Two gates open at once begin with one node, here the *acquirer*, that opens by an acquisition while another, a
//! *holder*, is open. (Which is which is only a name: where a holder opens while the acquirer is open, change them.)
//!
//! - **The acquirer asks two Sentinels**, the majority of that acquisition. Whatever it does at others can only keep
//!   nodes from opening. So those have no state: they give every holder whatever evidence it likes. (Two holders may so
//!   be open at once. That is no finding: one of them and the acquirer is what is looked for.)
//! - **Two nodes are enough**, as long as the record does not change: whether one node is free for another depends on the
//!   lines of these two alone, and to need a third one to be free as well only keeps nodes from opening. So in any story of
//!   three nodes, leave out what the third one does, and the others can still do the same. One scenario has three nodes all the
//!   same, with lines that do not break; holders do not look at each other there, and so open more easily.
//! - **Sentinels name whoever asks.** Evidence that does not name a node is worth less than evidence that does
//!   ([`lease::concludes`] counts the latter), and nothing else that a Sentinel answers is used.
//! - **A question is sent, processed and answered at one moment**, and armed for at the first. An earlier sending or
//!   arming makes lines younger, windows and leases shorter; a later reply makes gaps longer. A reply that never comes
//!   is a line that is given up. A question that is processed after its line was given up changes a mark, which makes
//!   nobody free.
//! - **Keepers look in each tick, once at a moment of their own**, as long as they have a line. A look that is left
//!   out only restarts windows; a further one only shows more changes.
//! - **A Sentinel that restarts** ends all lines at one moment, those that nobody has accepted yet and those of the looks
//!   as well, and what was seen there before is of no use.
//! - **A keeper that restarts** loses its question and its arm, and keeps the open element. Either it gives up its lines, or
//!   it hands over those on which questions count. What it had still sent there is processed before anything that the next
//!   one sends, and so is the same as if it had come in time; to it, nothing is answered. The next one even goes on with
//!   what it had seen: to begin anew only restarts windows.
//! - **A node loses its power**, is confirmed off and boots, all in one step: to boot later is to do nothing until then, and to be
//!   confirmed later makes nobody free earlier. What was open there is closed, and its lines stay listed for as long as they like. That a
//!   boot is over stays known when the next one asks. The acquirer loses its power before anything else ([`Begin::Booted`]): in a boot that is
//!   over it opens nothing any more.
//! - **On `ipset`** no swap sees to it that the open element lives and that the arm is young. Both are read before it, with the
//!   answers ([`What::Check`]), and the swap then comes at any moment, or never, and gives the port what the arm has left of a
//!   whole lease. So a renewal can open a port that has closed. (Again of two that are open at once, the acquirer is the one that took
//!   its lease later, by that reading. A swap of the other that comes while the acquirer is open could as well have come when
//!   that opened.)
//! - **Clocks are perfect**, so the numbers are the sharp ones that perfect clocks allow: looks less than G apart, and
//!   W just above L + A. (The tenths that the code adds are less than a [`TICK`].) Expiry is as late as it can be: an arm still works, and a gate still is open, at the very moment
//!   of its deadline.
//! - **Thrifty scenarios** leave out what others make superfluous: a question that comes to nothing (without it, marks are
//!   older and more often closed); an answer that its question does not need; what the acquirer does before its one
//!   question (its lines are old, marked closed, and it has seen the others' for long); what comes after its lease.
//!   The scenario "every step" does without this, and without breaking lines.
//!
//! - **The record changes** by whoever writes it, at any time, and be it too early. What each node stands on then is decided by
//!   [`rolegate::stand`], in one step of the CIB, and done in another. That by this all nodes together stand on one record, or on two
//!   neighbours, whoever loses his power, is confirmed off or comes back, is explored by itself, without leases: [`Standing`].
//!
//! Not modelled: the keeper's lock, addresses that move, `ipset`'s whole seconds, clocks that run
//! apart (the tenths in [`Terms`] are for them). Nor is when a question is worth asking, and what else the keeper does not open for.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rolegate::lease::{
    self, Answer, Answered, Checked, Evidence, Lengths, Mark, Measure, Moment, Opening, OwnLine, Seen, Span, Terms,
};
use rolegate::record::{Basis, Change, NodeEntry, Record as Entries, SentinelEntry};
use rolegate::stand::{self, Next, Own, Peer, Shown};
use stateright::{Checker, HasDiscoveries, Model as _, Property};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::time::Instant;

/// A node. The acquirer is 0.
type NodeId = u8;
/// One of the two Sentinels that have a state.
type SentinelId = usize;
type Ticks = u8;

const ACQUIRER: NodeId = 0;
/// How long an arm lives.
const ARM: Ticks = 1;
/// G.
const SETTLE: Ticks = 2;
/// What a tick is in the code's numbers.
const TICK: Span = 10;
/// Now, where ages become moments.
const NOW: Moment = 100 * TICK;
/// The round of the question that a node has, and one of before.
const ROUND: u64 = 2;
const EARLIER_ROUND: u64 = 1;
/// Connections of one node at one Sentinel: the one it uses, and one that it has given up.
const CONNECTIONS: usize = 2;

/// A seeded fault: a rule that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    NoWindow,
    WindowWithoutArm,
    NoArm,
    MajorityOfOne,
    RenewsTheDead,
    MarkedBeforeClosing,
    ClosedOfAnEarlierLook,
    NewestLineOnly,
    VanishedIgnored,
    LooksApart,
    AgeIgnored,
    LookBeforeMark,
    /// A question is judged by the looks before it, without its own.
    WithoutItsOwnLook,
    /// Answers to an earlier question count for a later arm.
    AnswersOfAnEarlierRound,
    /// With three nodes: one other that is free is enough.
    OneIsFree,
    /// A line that a keeper takes over counts though it had not settled.
    TakenOverUnsettled,
    /// Answers to the keeper before count for an arm of this one.
    AnswersOfBefore,
    /// On `ipset`: whether the open element lives, and the arm is young, is read before the answers are there.
    CheckedEarly,
    /// On `ipset`: nobody reads whether the arm is young.
    ArmOfAnyAge,
    /// On `ipset`: what is swapped in gets its whole time by that.
    TimeFromTheSwap,
    /// A node takes a longer lease as soon as its own record says so.
    LongerAtOnce,
    /// A node shows that it has a record while it has a lease that was asked for under the one before.
    ShownTooSoon,
    /// A question is judged by the lengths that are known when an answer comes, not by those of its arming.
    LengthsOfNow,
    /// That a node is confirmed off counts for its next boot.
    ConfirmedForLater,
    /// Of a boot that is over nobody looks for long.
    ConfirmedAtOnce,
    /// Where a boot is over, a closed mark is taken for one of it.
    ClosedIsOfTheDead,
    /// Where a line of a boot that is over is listed, nobody looks at the node's others.
    OneLineOfTheDead,
    /// The record changes by two steps at once, and nobody checks.
    InOneStep,
    /// A second step is taken before all have shown the first.
    SecondTooEarly,
}

/// What is explored.
#[derive(Debug, Clone)]
struct Model<const N: usize> {
    fault: Option<Fault>,
    /// How often a line that its keeper uses breaks, at either end.
    breaks: u8,
    /// Whether lines are given up, still listed then, and made anew; else those that break vanish for good.
    remade: bool,
    /// How many connections arrive after they were given up.
    late: u8,
    /// How often holders lose their power, and are confirmed off.
    power: u8,
    /// Whether `closed` takes time to arrive.
    delays: bool,
    begin: Begin,
    /// Whether looks have a connection of their own, which does not break: what a node has seen outlives its line.
    own_looks: bool,
    /// Whether Sentinels restart, as often as they like: all lines there end at once.
    sentinels_restart: bool,
    /// Whether keepers restart, as often as they like.
    keepers_restart: Option<Restart>,
    /// Whether leases are held by `ipset`.
    ipset: bool,
    /// Without steps that others make superfluous: see the module.
    thrifty: bool,
    /// The records that follow each other.
    records: &'static [Record],
}

/// What becomes of a keeper's lines when it restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Restart {
    /// They are given up, and still listed.
    Loses,
    /// The next keeper takes over those on which questions counted.
    HandsOver,
}

/// How it begins. Everybody is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    /// Every line is old, marked closed, and has been looked at for long.
    Marked,
    /// The same, but holders have no line at the second Sentinel.
    OneLacks,
    /// Nobody has a line.
    Bare,
    /// These nodes have just booted, one bit each, and their boots before are confirmed to be over. The lines of those are still listed, each with
    /// the mark of a lease; those of holders at the first Sentinel.
    Booted(u8),
}

/// Which Sentinels count, and how long a lease is.
#[derive(Debug, Clone, Copy)]
struct Record {
    /// Whether each of the two Sentinels that have a state is one.
    counts: [bool; 2],
    /// How many others are.
    others: usize,
    length: Ticks,
}

/// Three Sentinels, the shortest lease.
const THREE: Record = Record { counts: [true, true], others: 1, length: 2 };

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct State<const N: usize> {
    nodes: [Node; N],
    sentinels: [Sentinel<N>; 2],
    /// The record in the CIB.
    record: u8,
    breaks: u8,
    late: u8,
    power: u8,
}

/// A node: its kernel and its keeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Node {
    /// What is left of the arm.
    arm: Option<Ticks>,
    /// What is left of the open element.
    open: Option<Ticks>,
    /// Under which record that was asked for.
    asked_by: u8,
    /// The question that is being asked.
    question: Option<Question>,
    /// The record that the keeper stands on, or would stand on.
    record: u8,
    /// What it says in the CIB.
    says: Shown<u8>,
    /// It has opened, and the thrifty acquirer does so once.
    done: bool,
    /// How often it has lost its power. It is known that the boots before are over.
    boot: u8,
}

impl Default for Node {
    fn default() -> Self {
        Node { arm: None, open: None, asked_by: 0, question: None, record: 0, says: Shown::On(0), done: false, boot: 0 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Question {
    /// Of the lease asked for.
    length: Ticks,
    /// The longest lease that others can have, as of the arming.
    longest: Ticks,
    /// On `ipset`: what the swap needs was there, though it need not be at the swap.
    checked: bool,
    asked: [Asked; 2],
}

/// What a question has brought from one Sentinel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
struct Asked {
    answered: bool,
    /// The nodes that are free, one bit each.
    free: u8,
    /// With [`Fault::LookBeforeMark`]: it has looked.
    looked: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Sentinel<const N: usize> {
    /// Those not accepted yet first, then by node and client id.
    connections: List<Connection, 6>,
    /// What each node's line has seen of each other node: [watcher][watched].
    watches: [[Option<Past>; N]; N],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
struct Connection {
    // What they are sorted by comes first.
    node: NodeId,
    /// 0: the server has not accepted it yet.
    id: u8,
    mark: Sign,
    /// Whose end is there: for how long the mark has been acknowledged, if the keeper uses it.
    used: Option<Ticks>,
    /// `closed` has been sent and not arrived.
    closing: bool,
}

/// A mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
enum Sign {
    #[default]
    Closed,
    /// Nonces only differ or not: see [`State::canonical`].
    Held { length: Ticks, nonce: u8, boot: u8 },
}

/// What looks have shown of one node's lines, as far as a later look can depend on it: [`Past::at`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
struct Past {
    /// The age of the last look.
    last: Ticks,
    /// The age of the first look since which there have been these lines.
    first: Ticks,
    lines: List<Line, 3>,
    /// The one boot of which all its marks were, and the age of the first look since which that is so, where it matters.
    boot: Option<(u8, Ticks)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
struct Line {
    id: u8,
    mark: Sign,
    /// The age of the first look since which it has borne this mark, if it is one of an open node.
    since: Ticks,
}

/// A few things, in order. The items beyond `len` are defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct List<T, const C: usize> {
    len: u8,
    items: [T; C],
}

impl<T: Hash, const C: usize> Hash for List<T, C> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self[..].hash(state);
    }
}

impl<T: Copy + Default, const C: usize> Default for List<T, C> {
    fn default() -> Self {
        List { len: 0, items: [T::default(); C] }
    }
}

impl<T: Copy + Default, const C: usize> List<T, C> {
    fn push(&mut self, item: T) {
        self.items[usize::from(self.len)] = item;
        self.len += 1;
    }

    fn remove(&mut self, at: usize) -> T {
        let len = usize::from(self.len);
        let item = self[at];
        self.items.copy_within(at + 1..len, at);
        self.items[len - 1] = T::default();
        self.len -= 1;
        item
    }
}

impl<T, const C: usize> std::ops::Deref for List<T, C> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.items[..usize::from(self.len)]
    }
}

impl<T, const C: usize> std::ops::DerefMut for List<T, C> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.items[..usize::from(self.len)]
    }
}

/// One step of anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    what: What,
    /// The nodes that look, at the Sentinel where something changes, just before it does: one bit each.
    looking: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// A tick passes. At its end everybody looks who has not, except those: one bit for each node and Sentinel.
    Tick {
        without: u8,
    },
    /// A keeper arms, for a new question.
    Arm(NodeId),
    /// A keeper asks a Sentinel: its mark, and its look.
    Ask(NodeId, SentinelId),
    /// The look of [`Fault::LookBeforeMark`].
    LookToAsk(NodeId, SentinelId),
    /// Arm for a new question, and its first step.
    ArmAndAsk(NodeId, SentinelId),
    ArmAndLook(NodeId, SentinelId),
    /// On `ipset`: what the swap needs is there.
    Check(NodeId),
    /// The arm becomes an open element.
    Swap(NodeId),
    /// Element and arm are deleted.
    Close(NodeId),
    /// A keeper says that it is closed.
    SayClosed(NodeId, SentinelId),
    /// That arrives.
    Arrive(SentinelId, usize),
    /// A keeper gives up its line; the Sentinel still lists it.
    GiveUp(NodeId, SentinelId),
    /// A connection ends at the Sentinel.
    Vanish(SentinelId, usize),
    /// A Sentinel restarts.
    RestartSentinel(SentinelId),
    /// A keeper restarts.
    RestartKeeper(NodeId),
    /// A node loses its power, is confirmed off, and boots.
    LosesPower(NodeId),
    /// A new line with its first mark.
    Connect(NodeId, SentinelId),
    /// A new line with its first mark, given up before the Sentinel accepts it.
    ConnectLate(NodeId, SentinelId),
    /// The Sentinel accepts that.
    Accept(SentinelId, usize),
    /// The next record is written.
    Write,
    /// A keeper says what it stands on, or may.
    Say(NodeId),
    /// It goes on to the record that it has said.
    Take(NodeId),
}

/// All that an answer is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Judged {
    /// The first mark was acknowledged then.
    marked: Moment,
    seen: List<Watched, 2>,
    own_look: bool,
    terms: Terms,
    longest: Span,
}

/// What was seen before of a node, and what the question's own look shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
struct Watched {
    node: NodeId,
    past: Option<Past>,
    now: List<Line, 3>,
    /// Which boot of it is over for certain.
    dead: Option<u8>,
}

/// What an answer comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Comes {
    counts: bool,
    /// The nodes that are free, one bit each.
    free: u8,
}

thread_local! {
    /// Most answers have been judged before.
    static JUDGED: RefCell<HashMap<Judged, Comes>> = RefCell::default();
    static ONE_STEP: RefCell<HashMap<(usize, u8, u8), bool>> = RefCell::default();
}

fn span(ticks: Ticks) -> Span {
    TICK * Span::from(ticks)
}

/// Whole ticks: until what lasts for `span` is over.
fn ticks(span: Span) -> Ticks {
    span.div_ceil(TICK) as Ticks
}

/// The moment that was `age` ago.
fn ago(age: Ticks) -> Moment {
    NOW - span(age)
}

impl<const N: usize> Model<N> {
    fn is(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn terms(&self, length: Ticks) -> Terms {
        Terms { length: span(length), arm: span(ARM), settle: span(SETTLE) }
    }

    /// By what the keeper of `node` judges, where leases have these lengths.
    fn measure(&self, lengths: Lengths, others: Vec<NodeId>) -> Measure<NodeId> {
        let settle = if self.is(Fault::LooksApart) { SETTLE + 1 } else { SETTLE };
        let arm = if self.is(Fault::WindowWithoutArm) { 0 } else { ARM };
        Measure::of(lengths, span(arm), span(settle), others)
    }

    /// Looks that are as far apart come too late.
    fn gap(&self) -> Span {
        self.measure(Lengths::of(0, None), Vec::new()).terms.look_gap()
    }

    fn lengths(&self, state: &State<N>, node: NodeId) -> Lengths {
        let have = state.nodes[usize::from(node)].record;
        let length = |record: u8| span(self.records[usize::from(record)].length);
        let counts = have > 0 && !stand::all_have_shown(&self.own(state, node), &self.peers(state, node));
        let last = counts.then(|| length(have - 1));
        let lengths = Lengths::of(length(have), last);
        if self.is(Fault::LongerAtOnce) {
            return Lengths { own: length(have), ..lengths };
        }
        lengths
    }

    /// A node as the others see it in the CIB.
    fn peer(&self, state: &State<N>, node: NodeId) -> Peer<u8> {
        let node = &state.nodes[usize::from(node)];
        Peer { name: String::new(), says: node.says, off: false, recorded: true }
    }

    /// The others in the CIB.
    fn peers(&self, state: &State<N>, node: NodeId) -> Vec<Peer<u8>> {
        (0..N as NodeId).filter(|&other| other != node).map(|other| self.peer(state, other)).collect()
    }

    /// What the keeper of `node` knows of itself.
    fn own(&self, state: &State<N>, node: NodeId) -> Own<u8> {
        let me = &state.nodes[usize::from(node)];
        let before = me.open.map(|_| me.asked_by).filter(|asked_by| *asked_by != me.record);
        Own {
            on: Some(me.record),
            also: before.filter(|_| !self.is(Fault::ShownTooSoon)),
            says: me.says,
            idle: false,
            placed: true,
        }
    }

    /// What the keeper of `node` is to do about the record in the CIB.
    fn next(&self, state: &State<N>, node: NodeId) -> Next<u8> {
        let me = &state.nodes[usize::from(node)];
        let own = self.own(state, node);
        let peers = if self.is(Fault::SecondTooEarly) { Vec::new() } else { self.peers(state, node) };
        let one_step = self.is(Fault::InOneStep) || one_step(self.records, me.record, state.record);
        stand::next(&own, &state.record, one_step, &peers)
    }

    fn record(&self, node: &Node) -> Record {
        self.records[usize::from(node.record)]
    }

    /// What a question of `node` comes to that is asked at `at` now, by its looks until now and the question's own.
    fn answer(&self, state: &State<N>, node: NodeId, at: SentinelId) -> Comes {
        let sentinel = &state.sentinels[at];
        let Some(line) = sentinel.line(node) else { return Comes { counts: false, free: 0 } };
        let question = state.nodes[usize::from(node)].question.filter(|_| !self.is(Fault::LengthsOfNow));
        let lengths = question.map_or_else(
            || self.lengths(state, node),
            |question| Lengths { own: span(question.length), longest: span(question.longest) },
        );
        let mut seen = List::default();
        for other in (0..N as NodeId).filter(|&other| watches(node, other)) {
            let past = sentinel.watches[usize::from(node)][usize::from(other)];
            let (now, dead) = (self.shown(state, at, node, other), self.dead(state, other));
            seen.push(self.altered(Watched { node: other, past, now, dead }));
        }
        let marked = match sentinel.connections[line].used.unwrap_or_default() {
            _ if self.is(Fault::AgeIgnored) => 0,
            // G is longer for the looks alone.
            age if self.is(Fault::LooksApart) => ago(age + 1),
            age => ago(age),
        };
        let Measure { terms, longest, .. } = self.measure(lengths, Vec::new());
        let judged = Judged { marked, seen, own_look: !self.is(Fault::WithoutItsOwnLook), terms, longest };
        let comes = JUDGED.with_borrow_mut(|all| *all.entry(judged).or_insert_with(|| judged.comes()));
        let unwatched = (0..N as NodeId).filter(|&other| other != node && !watches(node, other));
        Comes { free: unwatched.fold(comes.free, |free, other| free | 1 << other), ..comes }
    }

    /// What some faults make of what is seen.
    fn altered(&self, mut watched: Watched) -> Watched {
        let newest = watched.now.last().copied().filter(|line| line.mark == Sign::Closed);
        match (self.fault, newest) {
            (Some(Fault::NoWindow), _) => watched.past = Some(Past::standing(watched.now, self.old())),
            (Some(Fault::ConfirmedAtOnce), _) => {
                let of_the_dead = |line: &Line| watched.dead.is_some_and(|dead| line.mark.boot() == Some(dead));
                if watched.now.iter().any(of_the_dead) && watched.now.iter().all(of_the_dead) {
                    watched.past = Some(Past::standing(watched.now, self.old()));
                }
            }
            (Some(Fault::NewestLineOnly), Some(newest)) => {
                watched.now = List::default();
                watched.now.push(newest);
                watched.past = Some(Past::standing(watched.now, self.old()));
            }
            (Some(Fault::ClosedOfAnEarlierLook), _) => {
                let before = watched.past.unwrap_or_default().lines;
                let closed = |line: &Line| before.iter().any(|was| was.id == line.id && was.mark == Sign::Closed);
                watched.now.iter_mut().filter(|line| closed(line)).for_each(|line| line.mark = Sign::Closed);
            }
            _ => {}
        }
        watched
    }

    /// Whether a boot can be over.
    fn boots_matter(&self) -> bool {
        self.power > 0 || matches!(self.begin, Begin::Booted(_))
    }

    /// Which boot of this node is known to be over.
    fn dead(&self, state: &State<N>, node: NodeId) -> Option<u8> {
        let boot = state.nodes[usize::from(node)].boot;
        let over = boot.checked_sub(1);
        if self.is(Fault::ConfirmedForLater) { over.map(|_| boot) } else { over }
    }

    /// The lines of `other` that a look of `node` shows.
    fn shown(&self, state: &State<N>, at: SentinelId, node: NodeId, other: NodeId) -> List<Line, 3> {
        let sentinel = &state.sentinels[at];
        let mut lines = List::default();
        if self.is(Fault::VanishedIgnored) {
            let past = sentinel.watches[usize::from(node)][usize::from(other)].unwrap_or_default();
            for line in past.lines.iter().filter(|line| sentinel.listed(other, line.id).is_none()) {
                lines.push(Line { since: 0, ..*line });
            }
        }
        for connection in sentinel.connections.iter().filter(|c| c.node == other && c.id != 0) {
            if usize::from(lines.len) < 3 {
                lines.push(Line { id: connection.id, mark: connection.mark, since: 0 });
            }
        }
        let dead = self.dead(state, other);
        let of_the_dead = lines.iter().find(|line| dead.is_some() && line.mark.boot() == dead).copied();
        if let Some(line) = of_the_dead.filter(|_| self.is(Fault::OneLineOfTheDead)) {
            lines = List::default();
            lines.push(line);
        }
        if let Some(boot) = dead.filter(|_| self.is(Fault::ClosedIsOfTheDead)) {
            for line in lines.iter_mut().filter(|line| line.mark == Sign::Closed) {
                line.mark = Sign::Held { length: 0, nonce: 0, boot };
            }
        }
        lines
    }

    /// A look of `node` at `at`.
    fn look(&self, state: &mut State<N>, node: NodeId, at: SentinelId) {
        let gap = self.gap();
        for other in (0..N as NodeId).filter(|&other| watches(node, other)) {
            let now = self.shown(state, at, node, other);
            let boots_matter = self.boots_matter();
            let past = &mut state.sentinels[at].watches[usize::from(node)][usize::from(other)];
            *past = Some(match past.filter(|past| span(past.last) < gap) {
                Some(past) => past.and(now),
                None => {
                    let before = past.and_then(|past| past.boot);
                    Past { lines: now, boot: boot_of(&now, before.map(|(boot, _)| (boot, 0))), ..Past::default() }
                }
            });
            if let Some(past) = past.as_mut().filter(|_| !boots_matter) {
                past.boot = None;
            }
        }
    }

    /// What the question of `node` has brought for its arm, and how many Sentinels its record has.
    fn proofs(&self, node: NodeId, state: &State<N>) -> (Vec<Evidence<NodeId>>, usize) {
        let record = self.record(&state.nodes[usize::from(node)]);
        let mut proofs = Vec::new();
        let mut index = 0;
        let asked = state.nodes[usize::from(node)].question.map(|question| question.asked).unwrap_or_default();
        let mut add = |asked: &Asked, sentinel| {
            let brought = asked.brought::<N>(sentinel, ROUND);
            proofs.extend(brought.filter(|brought| brought.proof(ROUND).is_some()).map(|brought| brought.evidence));
        };
        for (asked, _) in asked.iter().zip(record.counts).filter(|(_, counts)| *counts) {
            add(asked, index);
            index += 1;
        }
        for _ in 0..record.others {
            if node != ACQUIRER {
                add(&Asked { answered: true, free: !0, looked: false }, index);
            }
            index += 1;
        }
        (proofs, index)
    }

    /// Whether the swap of `node` succeeds now.
    fn may_swap(&self, state: &State<N>, node: NodeId) -> bool {
        let me = &state.nodes[usize::from(node)];
        if self.ipset {
            // A set that has run out can be swapped in as well, and opens nothing.
            return me.arm.is_some() && me.question.is_some_and(|question| question.checked) && self.early(state, node);
        }
        (me.arm.is_some() || self.is(Fault::NoArm)) && self.suffices(state, node)
    }

    /// On `ipset`: whether the keeper of `node` goes on to the swap. It may be stopped before that.
    fn may_check(&self, state: &State<N>, node: NodeId) -> bool {
        let me = &state.nodes[usize::from(node)];
        let Some(question) = me.question.filter(|question| self.ipset && !question.checked) else { return false };
        let Some(left) = me.arm else { return false };
        let age = if self.is(Fault::ArmOfAnyAge) { 0 } else { question.length - left };
        let early = self.is(Fault::CheckedEarly) && me.open.is_some();
        let wanted = if early { Some(Opening::Renewal) } else { self.suffices_for(state, node) };
        wanted.is_some_and(|wanted| lease::check(wanted, me.open.is_some(), age, ARM) == Checked::May)
    }

    /// With [`Fault::CheckedEarly`], answers are still waited for.
    fn early(&self, state: &State<N>, node: NodeId) -> bool {
        let (proofs, sentinels) = self.proofs(node, state);
        !self.is(Fault::CheckedEarly) || lease::concludes(&proofs, sentinels, &[], true).is_some()
    }

    /// Whether the answers that `node` has suffice for what it has.
    fn suffices(&self, state: &State<N>, node: NodeId) -> bool {
        self.suffices_for(state, node).is_some()
    }

    /// What the answers suffice for that `node` has.
    fn suffices_for(&self, state: &State<N>, node: NodeId) -> Option<Opening> {
        let me = &state.nodes[usize::from(node)];
        me.question?;
        let (proofs, sentinels) = self.proofs(node, state);
        let others: Vec<NodeId> = (0..N as NodeId).filter(|&other| other != node).collect();
        let has_lease = me.open.is_some() || self.is(Fault::RenewsTheDead);
        let enough = |proofs: &[Evidence<NodeId>], sentinels| {
            let enough = |others: &[NodeId]| lease::concludes(proofs, sentinels, others, has_lease);
            let one = || others.iter().filter(|_| self.is(Fault::OneIsFree)).find_map(|other| enough(&[*other]));
            enough(&others).or_else(one)
        };
        if self.is(Fault::MajorityOfOne) {
            return proofs.into_iter().find_map(|proof| enough(&[Evidence { sentinel: 0, ..proof }], 1));
        }
        enough(&proofs, sentinels)
    }
}

impl Judged {
    /// By the code: a line that has seen this.
    fn comes(&self) -> Comes {
        let mut line = lease::Line::connected(OwnLine::new(), Mark::Closed);
        line.acknowledged(self.marked);
        let pasts = || self.seen.iter().filter_map(|watched| watched.past);
        // A look in each tick.
        let ages = pasts().map(|past| past.last).min().zip(pasts().map(|past| past.longest()).max());
        if let Some((_, first)) = ages {
            // Of a node that has no line since then, only a look that was too long before tells of which boot its last one was.
            let before = |watched: &Watched| {
                let past = watched.past.filter(|past| past.lines.is_empty())?;
                Some(seen(watched.node, ANOTHER, Sign::of_before(Some(past.boot?.0))))
            };
            let lines: Vec<_> = self.seen.iter().filter_map(before).collect();
            if !lines.is_empty() {
                let at = ago(first + ticks(self.terms.look_gap()));
                line.look(at, at, &lines, &self.terms);
            }
        }
        for age in ages.into_iter().flat_map(|(last, first)| (last..=first).rev()) {
            let shown = |watched: &Watched| watched.past.map(|past| past.at(watched.node, age)).unwrap_or_default();
            let lines: Vec<_> = self.seen.iter().flat_map(shown).collect();
            line.look(ago(age), ago(age), &lines, &self.terms);
        }
        if self.own_look {
            let shown = |watched: &Watched| Past::standing(watched.now, 0).at(watched.node, 0);
            let lines: Vec<_> = self.seen.iter().flat_map(shown).collect();
            line.look(NOW, NOW, &lines, &self.terms);
        }
        let others = self.seen.iter().map(|watched| watched.node).collect();
        let measure = Measure { terms: self.terms, longest: self.longest, others };
        let answer =
            Answer { sentinel: 0, sent: NOW, received: NOW, marked_for: Some(ROUND), own_look: true, names_me: true };
        let Answered { evidence, .. } = line.answer(&answer, &measure, |other| {
            let watched = self.seen.iter().find(|watched| watched.node == *other)?;
            watched.dead.map(u32::from)
        });
        Comes { counts: evidence.counts, free: evidence.free.iter().fold(0, |free, other| free | 1 << other) }
    }
}

impl Asked {
    /// The answer to a question of this round, as the code has it.
    fn brought<const N: usize>(&self, sentinel: usize, round: u64) -> Option<Answered<NodeId>> {
        let free = (0..N as NodeId).filter(|other| self.free & 1 << other != 0).collect();
        let evidence = Evidence { sentinel, counts: true, names_me: true, free };
        self.answered.then_some(Answered { evidence, proves: Some(round) })
    }

    /// What is left of it for the next arm.
    fn when_armed_anew(self, round: u64) -> Asked {
        let of_use = self.brought::<0>(0, EARLIER_ROUND).is_some_and(|brought| brought.proof(round).is_some());
        if of_use { self } else { Asked::default() }
    }
}

/// Whether it matters what `node` sees of `other`: of two nodes that are open at once, one is the acquirer.
fn watches(node: NodeId, other: NodeId) -> bool {
    node != other && (node == ACQUIRER || other == ACQUIRER)
}

fn seen(node: NodeId, id: u8, mark: Sign) -> Seen<NodeId> {
    Seen { line: id.into(), node, mark: Some(mark.into()) }
}

impl From<Sign> for Mark {
    fn from(sign: Sign) -> Mark {
        match sign {
            Sign::Closed => Mark::Closed,
            Sign::Held { length, nonce, boot } => Mark::held(span(length), boot.into(), nonce.into()),
        }
    }
}

impl From<Mark> for Sign {
    fn from(mark: Mark) -> Sign {
        match mark {
            Mark::Closed => Sign::Closed,
            Mark::Held { length, nonce } => {
                Sign::Held { length: ticks(length), nonce: nonce as u8, boot: mark.boot().unwrap_or_default() as u8 }
            }
        }
    }
}

impl Sign {
    fn boot(self) -> Option<u8> {
        match self {
            Sign::Closed => None,
            Sign::Held { boot, .. } => Some(boot),
        }
    }

    /// A mark that no line bears any more: of this boot, or else closed.
    fn of_before(boot: Option<u8>) -> Self {
        boot.map_or(Sign::Closed, |boot| Sign::Held { length: 0, nonce: GONE, boot })
    }
}

/// The one boot of which all marks are, with the look that shows these and those before.
fn boot_of(now: &[Line], before: Option<(u8, Ticks)>) -> Option<(u8, Ticks)> {
    let Some(first) = now.first() else { return before };
    let boot = first.mark.boot().filter(|boot| now.iter().all(|line| line.mark.boot() == Some(*boot)))?;
    before.filter(|before| before.0 == boot).or(Some((boot, 0)))
}

/// Whether the code takes a change from one of these records to another for one step.
fn one_step(records: &'static [Record], from: u8, to: u8) -> bool {
    let of = |record: u8| {
        let Record { counts, others, length } = records[usize::from(record)];
        let counted = [0, 1].into_iter().filter(|n| counts[*n]).chain(2..2 + others);
        let sentinel =
            |n: usize| SentinelEntry { id: format!("{n:040x}"), address: ([10, 0, 0, n as u8 + 1], 26379).into() };
        let node = NodeEntry { name: "a".to_owned(), address: ([10, 0, 0, 1], 6379).into() };
        let record = Entries::new(counted.map(sentinel).collect(), vec![node]).expect("a record");
        Basis { record, lease: std::time::Duration::from_secs(length.into()) }
    };
    let known = (records.as_ptr() as usize, from, to);
    ONE_STEP.with_borrow_mut(|all| {
        *all.entry(known).or_insert_with(|| matches!(of(from).change_to(&of(to)), Change::One(_)))
    })
}

impl Past {
    /// These lines, and no others, in each look for long.
    fn standing(mut lines: List<Line, 3>, long: Ticks) -> Past {
        lines.iter_mut().filter(|line| line.mark != Sign::Closed).for_each(|line| line.since = long);
        let boot = boot_of(&lines, None).map(|(boot, _)| (boot, long));
        Past { last: 0, first: long, lines, boot }
    }

    /// What a look `age` ago has shown. What matters is the first one and the last.
    fn at(&self, node: NodeId, age: Ticks) -> Vec<Seen<NodeId>> {
        let before = Sign::of_before(self.boot.filter(|(_, since)| age <= *since).map(|(boot, _)| boot));
        if age > self.first {
            return vec![seen(node, ANOTHER, before)];
        }
        let shown = |line: &Line| match line.mark {
            Sign::Held { .. } if line.since < age => seen(node, line.id, before),
            mark => seen(node, line.id, mark),
        };
        self.lines.iter().map(shown).collect()
    }

    /// The age of the first look that matters.
    fn longest(&self) -> Ticks {
        self.first.max(self.boot.map_or(0, |(_, since)| since))
    }

    /// With one more look, now, that shows these lines.
    fn and(self, mut now: List<Line, 3>) -> Past {
        let same = self.lines.iter().map(|line| line.id).eq(now.iter().map(|line| line.id));
        for line in now.iter_mut() {
            let before = self.lines.iter().find(|before| before.id == line.id && before.mark == line.mark);
            line.since = match line.mark {
                Sign::Closed => 0,
                Sign::Held { .. } => before.map_or(0, |before| before.since),
            };
        }
        Past { last: 0, first: if same { self.first } else { 0 }, lines: now, boot: boot_of(&now, self.boot) }
    }
}

impl<const N: usize> Sentinel<N> {
    /// The connection that `node` uses.
    fn line(&self, node: NodeId) -> Option<usize> {
        self.connections.iter().position(|connection| connection.node == node && connection.used.is_some())
    }

    /// The connection of `node` that has this id.
    fn listed(&self, node: NodeId, id: u8) -> Option<&Connection> {
        self.connections.iter().find(|connection| connection.node == node && connection.id == id)
    }

    /// Gives a connection the highest id of its node's. (All have ids of one row, but nobody compares those of two nodes.)
    fn accept(&mut self, connection: Connection) {
        let node = connection.node;
        let ids = self.connections.iter().filter(|c| c.node == node).map(|c| c.id);
        let past = self.watches.iter().filter_map(|watches| watches[usize::from(node)].as_ref());
        let known = past.flat_map(|past| past.lines.iter().map(|line| line.id));
        let id = ids.chain(known).filter(|&id| id != GONE).max().unwrap_or(0) + 1;
        self.connections.push(Connection { id, ..connection });
        self.sort();
    }

    fn sort(&mut self) {
        self.connections.sort_unstable_by_key(|connection| (connection.id != 0, *connection));
    }

    /// What `node` has seen is of no use without its line.
    fn forget(&mut self, node: NodeId) {
        self.watches[usize::from(node)] = [None; N];
    }
}

impl Node {
    fn is_closed(&self) -> bool {
        self.arm.is_none() && self.open.is_none()
    }

    /// The mark that is true of it, where its leases have this length.
    fn mark(&self, length: Span) -> Mark {
        let held = (!self.is_closed()).then(|| self.open.map_or(0, span));
        Mark::of(held, length, self.boot.into(), FRESH.into())
    }
}

/// A nonce that nobody has seen.
const FRESH: u8 = 2;
/// A line that is no more.
const GONE: u8 = 255;
/// A line of before those that are remembered.
const ANOTHER: u8 = 254;

impl<const N: usize> State<N> {
    /// The same state, without differences that make none.
    fn canonical(mut self, symmetric: bool, keep_gone: bool) -> Self {
        for sentinel in &mut self.sentinels {
            sentinel.canonical(keep_gone);
        }
        if N == 3 {
            self = self.min(self.with_holders_changed());
        }
        if symmetric {
            let mut other = self;
            other.sentinels.swap(0, 1);
            for question in other.nodes.iter_mut().filter_map(|node| node.question.as_mut()) {
                question.asked.swap(0, 1);
            }
            if N == 3 {
                other = other.min(other.with_holders_changed());
            }
            self = self.min(other);
        }
        self
    }

    /// The same with three nodes, where the second is the third and the third the second.
    fn with_holders_changed(mut self) -> Self {
        let change = |node: NodeId| if node == ACQUIRER { ACQUIRER } else { 3 - node };
        self.nodes.swap(1, 2);
        for asked in self.nodes.iter_mut().filter_map(|node| node.question.as_mut()).flat_map(|q| &mut q.asked) {
            asked.free =
                (0..3).filter(|node| asked.free & 1 << node != 0).fold(0, |free, node| free | 1 << change(node));
        }
        for sentinel in &mut self.sentinels {
            sentinel.watches.swap(1, 2);
            sentinel.watches.iter_mut().for_each(|watches| watches.swap(1, 2));
            sentinel.connections.iter_mut().for_each(|connection| connection.node = change(connection.node));
            sentinel.sort();
        }
        self
    }
}

impl<const N: usize> Sentinel<N> {
    fn canonical(&mut self, keep_gone: bool) {
        let Sentinel { connections, watches } = self;
        for (other, past) in watches.iter_mut().flat_map(|of_one| of_one.iter_mut().enumerate()) {
            let Some(past) = past else { continue };
            let listed = |id| connections.iter().find(|c| usize::from(c.node) == other && c.id == id);
            // A line that has gone does not come back: the next look will show others, and start anew.
            if !keep_gone && past.lines.iter().any(|line| listed(line.id).is_none()) {
                *past = Past { first: 0, lines: List::default(), ..*past };
                let mark = Sign::of_before(past.boot.map(|(boot, _)| boot));
                past.lines.push(Line { id: GONE, mark, since: 0 });
                continue;
            }
            for line in past.lines.iter_mut() {
                // Neither does a mark: nonces are fresh.
                if let Sign::Held { length, boot, .. } = line.mark {
                    match listed(line.id) {
                        Some(connection) if connection.mark == line.mark => {
                            line.mark = Sign::Held { length, nonce: 0, boot };
                        }
                        Some(_) => *line = Line { mark: Sign::Held { length, nonce: 1, boot }, since: 0, ..*line },
                        None => line.mark = Sign::Held { length, nonce: 1, boot },
                    }
                }
            }
        }
        for connection in connections.iter_mut() {
            if let Sign::Held { nonce, .. } = &mut connection.mark {
                *nonce = 0;
            }
        }
        for node in 0..N {
            let mut ids = 0u32;
            let mut each = |what: &mut dyn FnMut(&mut u8)| {
                let connections = connections.iter_mut().filter(|c| usize::from(c.node) == node).map(|c| &mut c.id);
                let past = watches.iter_mut().filter_map(|watches| watches[node].as_mut());
                let known = past.flat_map(|past| past.lines.iter_mut().map(|line| &mut line.id));
                connections.chain(known).filter(|id| **id != 0 && **id != GONE).for_each(what);
            };
            each(&mut |id| ids |= 1 << *id);
            each(&mut |id| *id = (ids & ((2 << *id) - 1)).count_ones() as u8);
        }
        self.sort();
    }
}

impl<const N: usize> Model<N> {
    /// As far as ages count: from there on a window is over.
    fn old(&self) -> Ticks {
        let longest = self.records.iter().map(|record| record.length).max().unwrap_or_default();
        ticks(self.terms(longest).window(span(longest)))
    }

    /// The nodes that have a line at `at` and have not looked in this tick.
    fn to_look(&self, state: &State<N>, at: SentinelId) -> impl Iterator<Item = (NodeId, Option<Past>)> {
        let sentinel = state.sentinels[at];
        let own = self.own_looks;
        (0..N as NodeId)
            .filter(move |&node| own || sentinel.line(node).is_some())
            .map(move |node| (node, sentinel.watches[usize::from(node)].iter().copied().flatten().next()))
            .filter(|(_, past)| past.is_none_or(|past| past.last != 0))
    }

    fn others_look(&self, state: &State<N>, node: NodeId, at: SentinelId) -> Vec<u8> {
        let mut masks = vec![0];
        for (watcher, _) in self.to_look(state, at).filter(|(watcher, _)| *watcher != node) {
            for i in 0..masks.len() {
                masks.push(masks[i] | 1 << watcher);
            }
        }
        masks
    }

    fn steps(&self, state: &State<N>, steps: &mut Vec<Step>) {
        let mut quiet = Vec::new();
        // A tick, without looks where the rules let one wait.
        let gap = self.gap();
        let mut masks = vec![0];
        for at in 0..2 {
            for (watcher, past) in self.to_look(state, at) {
                if past.is_some_and(|past| span(past.last + 1) < gap) {
                    for i in 0..masks.len() {
                        masks.push(masks[i] | 1 << (usize::from(watcher) * 2 + at));
                    }
                }
            }
        }
        if !self.thrifty || !state.nodes.iter().any(|node| self.comes_to_nothing(node)) {
            quiet.extend(masks.into_iter().map(|without| What::Tick { without }));
        }
        if usize::from(state.record) + 1 < self.records.len() {
            quiet.push(What::Write);
        }
        for node in 0..N as NodeId {
            let me = &state.nodes[usize::from(node)];
            let record = self.record(me);
            let late_answers = record.others > 1 || self.is(Fault::CheckedEarly);
            if node != ACQUIRER && late_answers && self.wants_to_ask(state, node, true) {
                quiet.push(What::Arm(node));
            }
            if self.is(Fault::AnswersOfAnEarlierRound) && me.question.is_some() {
                quiet.push(What::Arm(node));
            }
            if self.may_check(state, node) {
                quiet.push(What::Check(node));
            }
            if self.may_swap(state, node) {
                quiet.push(What::Swap(node));
            }
            if state.power > 0 && node != ACQUIRER && self.has_something(state, node) {
                quiet.push(What::LosesPower(node));
            }
            if self.keepers_restart.is_some() && self.may_restart(state, node) {
                quiet.push(What::RestartKeeper(node));
            }
            let something = if self.thrifty {
                node != ACQUIRER && me.question.is_none() && me.open.is_some()
            } else {
                !me.is_closed() || me.question.is_some()
            };
            if something {
                quiet.push(What::Close(node));
            }
            if self.records.len() > 1 {
                // Who has said where it goes need not say that it stays: it could as well have said nothing.
                if matches!(me.says, Shown::Moving(from, _) if from == me.record) {
                    quiet.push(What::Take(node));
                } else if matches!(self.next(state, node), Next::Say(_)) {
                    quiet.push(What::Say(node));
                }
            }
        }
        for at in 0..2 {
            let sentinel = &state.sentinels[at];
            if self.sentinels_restart && sentinel.connections.len > 0 {
                quiet.push(What::RestartSentinel(at));
            }
            let mut loud = |node, what| {
                steps.extend(self.others_look(state, node, at).into_iter().map(|looking| Step { what, looking }));
            };
            for node in (0..N as NodeId).filter(|&node| self.record(&state.nodes[usize::from(node)]).counts[at]) {
                let me = &state.nodes[usize::from(node)];
                let Some(line) = sentinel.line(node) else {
                    if self.remade && sentinel.connections.iter().filter(|c| c.node == node).count() < CONNECTIONS {
                        loud(node, What::Connect(node, at));
                        if state.late > 0 {
                            quiet.push(What::ConnectLate(node, at));
                        }
                    }
                    continue;
                };
                let line = &sentinel.connections[line];
                if self.remade && state.breaks > 0 && !self.stays(node) {
                    quiet.push(What::GiveUp(node, at));
                }
                if !line.closing && self.says_closed(me, line.mark) {
                    loud(node, What::SayClosed(node, at));
                }
                if me.question.is_some_and(|question| question.asked[at].answered) && self.thrifty {
                    continue;
                }
                let comes = self.answer(state, node, at);
                if !comes.counts || !self.useful(state, node, at, comes.free) {
                    continue;
                }
                let asked = me.question.map(|question| question.asked[at]);
                let anew = self.wants_to_ask(state, node, true);
                if self.is(Fault::LookBeforeMark) {
                    if anew {
                        loud(node, What::ArmAndLook(node, at));
                    }
                    if asked.is_some_and(|asked| !asked.looked) {
                        loud(node, What::LookToAsk(node, at));
                    }
                } else if anew {
                    loud(node, What::ArmAndAsk(node, at));
                }
                if self.wants_to_ask(state, node, false)
                    && asked.is_some_and(|asked| !asked.answered && (asked.looked || !self.is(Fault::LookBeforeMark)))
                {
                    loud(node, What::Ask(node, at));
                }
            }
            for (i, connection) in sentinel.connections.iter().enumerate() {
                if connection.closing {
                    loud(connection.node, What::Arrive(at, i));
                }
                if connection.id == 0 {
                    loud(connection.node, What::Accept(at, i));
                } else if connection.used.is_none() || state.breaks > 0 && !self.stays(connection.node) {
                    loud(connection.node, What::Vanish(at, i));
                }
            }
        }
        steps.extend(quiet.into_iter().map(|what| Step { what, looking: 0 }));
    }

    /// Whether this node says that it is closed, without a question, where its mark is this one.
    fn says_closed(&self, node: &Node, mark: Sign) -> bool {
        let truth = if self.is(Fault::MarkedBeforeClosing) { Mark::Closed } else { node.mark(0) };
        truth == Mark::Closed && lease::Line::<NodeId>::connected(OwnLine::new(), mark.into()).says_less_than(truth)
    }

    /// Whether the question of this node comes to nothing with the next tick.
    fn comes_to_nothing(&self, node: &Node) -> bool {
        let Some(question) = node.question.filter(|_| self.ipset) else {
            return node.arm == Some(0) && !self.is(Fault::NoArm);
        };
        let young = node.arm.is_some_and(|left| question.length - left < ARM);
        node.arm == Some(0) || !(young || question.checked || self.is(Fault::ArmOfAnyAge))
    }

    /// Whether the loss of its power costs this node anything.
    fn has_something(&self, state: &State<N>, node: NodeId) -> bool {
        !state.nodes[usize::from(node)].is_closed() || state.sentinels.iter().any(|at| at.line(node).is_some())
    }

    /// Whether a restart of the keeper of `node` changes anything.
    fn may_restart(&self, state: &State<N>, node: NodeId) -> bool {
        // A question that is lost comes to nothing.
        let superfluous = self.thrifty && !self.is(Fault::AnswersOfBefore);
        let changes = match state.nodes[usize::from(node)].question {
            Some(_) => !superfluous,
            None => state.sentinels.iter().any(|sentinel| self.unsettled(sentinel, node) || self.loses(sentinel, node)),
        };
        !self.stays(node) && changes && self.lost_with(state, node) <= state.breaks
    }

    /// Whether `node` has a line at this Sentinel that has not settled.
    fn unsettled(&self, sentinel: &Sentinel<N>, node: NodeId) -> bool {
        sentinel.line(node).is_some_and(|line| sentinel.connections[line].used < Some(SETTLE))
    }

    /// Whether a restart of its keeper costs `node` its line at this Sentinel.
    fn loses(&self, sentinel: &Sentinel<N>, node: NodeId) -> bool {
        match self.keepers_restart {
            Some(Restart::HandsOver) => self.unsettled(sentinel, node) && !self.is(Fault::TakenOverUnsettled),
            Some(Restart::Loses) => sentinel.line(node).is_some(),
            None => false,
        }
    }

    /// How many breaking lines a restart is.
    fn lost_with(&self, state: &State<N>, node: NodeId) -> u8 {
        match self.keepers_restart {
            Some(Restart::HandsOver) => state.sentinels.iter().map(|at| u8::from(self.loses(at, node))).sum(),
            _ => 0,
        }
    }

    /// Whether another question, or more of this one, can be of use to `node`.
    fn wants_to_ask(&self, state: &State<N>, node: NodeId, anew: bool) -> bool {
        let me = &state.nodes[usize::from(node)];
        !self.thrifty || !me.done && if anew { me.question.is_none() } else { !self.has_enough(state, node) }
    }

    fn has_enough(&self, state: &State<N>, node: NodeId) -> bool {
        let checked = state.nodes[usize::from(node)].question.is_some_and(|question| question.checked);
        if checked { self.early(state, node) } else { self.suffices(state, node) }
    }

    /// Whether an answer of `at` that shows these free can be of use to `node`.
    fn useful(&self, state: &State<N>, node: NodeId, at: SentinelId, free: u8) -> bool {
        let me = &state.nodes[usize::from(node)];
        let waited_for = me.question.is_some_and(|question| question.asked[at].looked || question.checked);
        !self.thrifty
            || waited_for
            || node != ACQUIRER && (me.open.is_some() || self.is(Fault::RenewsTheDead))
            || free.count_ones() as usize == N - 1
            || self.is(Fault::OneIsFree) && free != 0
    }

    /// Whether the lines of `node` never break.
    fn stays(&self, node: NodeId) -> bool {
        self.thrifty && node == ACQUIRER
    }

    fn tick(&self, state: &mut State<N>, without: u8) {
        let before = *state;
        for at in 0..2 {
            for (watcher, _) in self.to_look(&before, at) {
                if without & 1 << (usize::from(watcher) * 2 + at) == 0 {
                    self.look(state, watcher, at);
                }
            }
        }
        let old = self.old();
        let gap = self.gap();
        let older = |age: &mut Ticks| *age = old.min(*age + 1);
        for sentinel in &mut state.sentinels {
            for past in sentinel.watches.iter_mut().flatten() {
                if let Some(seen) = past {
                    older(&mut seen.last);
                    older(&mut seen.first);
                    if let Some((_, since)) = &mut seen.boot {
                        older(since);
                    }
                    for line in seen.lines.iter_mut().filter(|line| line.mark != Sign::Closed) {
                        older(&mut line.since);
                    }
                    // Any later look comes too late.
                    if span(seen.last) >= gap {
                        let last = ticks(gap);
                        *past = seen.boot.map(|(boot, _)| Past { last, boot: Some((boot, last)), ..Past::default() });
                    }
                }
            }
            for age in sentinel.connections.iter_mut().filter_map(|connection| connection.used.as_mut()) {
                *age = SETTLE.min(*age + 1);
            }
        }
        for node in &mut state.nodes {
            node.arm = node.arm.and_then(|left| left.checked_sub(1));
            node.open = node.open.and_then(|left| left.checked_sub(1));
            if node.arm.is_none() && !self.is(Fault::NoArm) {
                node.question = None;
            }
            let of_use = |question: &Question| {
                let young = node.arm.is_some_and(|left| question.length - left <= ARM);
                young || question.checked || self.is(Fault::ArmOfAnyAge)
            };
            node.question = node.question.filter(|question| !self.ipset || of_use(question));
            if node.open.is_none() {
                node.asked_by = 0;
            }
        }
    }

    fn step(&self, state: &mut State<N>, step: Step) {
        let here = match step.what {
            What::Ask(_, at) | What::ArmAndAsk(_, at) | What::LookToAsk(_, at) | What::ArmAndLook(_, at) => at,
            What::SayClosed(_, at) | What::GiveUp(_, at) | What::Connect(_, at) | What::ConnectLate(_, at) => at,
            What::Arrive(at, _) | What::Vanish(at, _) | What::Accept(at, _) => at,
            _ => 0,
        };
        for watcher in (0..N as NodeId).filter(|watcher| step.looking & 1 << watcher != 0) {
            self.look(state, watcher, here);
        }
        let arm = |state: &mut State<N>, node: NodeId| {
            let lengths = self.lengths(state, node);
            let me = &mut state.nodes[usize::from(node)];
            let (length, longest) = (ticks(lengths.own), ticks(lengths.longest));
            me.arm = Some(if self.ipset { length } else { ARM });
            let round = if self.is(Fault::AnswersOfAnEarlierRound) { EARLIER_ROUND } else { ROUND };
            let before = me.question.map(|question| question.asked).unwrap_or_default();
            let asked = before.map(|asked| asked.when_armed_anew(round));
            me.question = Some(Question { length, longest, checked: false, asked });
        };
        match step.what {
            What::Tick { without } => self.tick(state, without),
            What::Arm(node) => arm(state, node),
            What::ArmAndAsk(node, at) => {
                arm(state, node);
                self.ask(state, node, at);
            }
            What::Ask(node, at) => self.ask(state, node, at),
            What::ArmAndLook(node, at) => {
                arm(state, node);
                self.look_to_ask(state, node, at);
            }
            What::LookToAsk(node, at) => self.look_to_ask(state, node, at),
            What::Check(node) => {
                let question = state.nodes[usize::from(node)].question.as_mut().expect("a question");
                question.checked = true;
            }
            What::Swap(node) => {
                let me = &mut state.nodes[usize::from(node)];
                if let Some(question) = me.question.take() {
                    let whole = self.is(Fault::NoArm) || self.is(Fault::TimeFromTheSwap);
                    me.asked_by = me.record;
                    me.open = match me.arm {
                        _ if whole => Some(question.length),
                        left if self.ipset => left,
                        _ => Some(ticks(self.terms(question.length).open())),
                    };
                    me.done = self.thrifty && node == ACQUIRER;
                    me.arm = None;
                }
            }
            What::Close(node) => {
                let me = &mut state.nodes[usize::from(node)];
                (me.arm, me.open, me.question, me.asked_by) = (None, None, None, 0);
            }
            What::SayClosed(node, at) => {
                let line = state.sentinels[at].line(node).expect("a line");
                let line = &mut state.sentinels[at].connections[line];
                if self.delays {
                    line.closing = true;
                } else {
                    line.mark = Sign::Closed;
                }
            }
            What::Arrive(at, i) => {
                let line = &mut state.sentinels[at].connections[i];
                (line.mark, line.closing) = (Sign::Closed, false);
            }
            What::GiveUp(node, at) => {
                state.breaks -= 1;
                self.give_up(state, node, at);
            }
            What::Vanish(at, i) => {
                let line = state.sentinels[at].connections.remove(i);
                if line.used.is_some() {
                    state.breaks -= 1;
                    if !self.own_looks {
                        state.sentinels[at].forget(line.node);
                    }
                }
            }
            What::RestartSentinel(at) => {
                let sentinel = &mut state.sentinels[at];
                sentinel.connections = List::default();
                if !self.is(Fault::VanishedIgnored) {
                    sentinel.watches = [[None; N]; N];
                }
            }
            What::RestartKeeper(node) => self.restart_keeper(state, node),
            What::LosesPower(node) => {
                state.power -= 1;
                let me = &mut state.nodes[usize::from(node)];
                (me.arm, me.open, me.question, me.asked_by) = (None, None, None, 0);
                me.boot += 1;
                (0..2).for_each(|at| self.give_up(state, node, at));
            }
            What::Connect(node, at) => {
                let mark = state.nodes[usize::from(node)].mark(self.lengths(state, node).own).into();
                state.sentinels[at].accept(Connection { node, mark, used: Some(0), ..Connection::default() });
            }
            What::ConnectLate(node, at) => {
                state.late -= 1;
                let mark = state.nodes[usize::from(node)].mark(self.lengths(state, node).own).into();
                state.sentinels[at].connections.push(Connection { node, mark, ..Connection::default() });
            }
            What::Accept(at, i) => {
                let connection = state.sentinels[at].connections.remove(i);
                state.sentinels[at].accept(connection);
            }
            What::Write => state.record += 1,
            What::Say(node) => {
                if let Next::Say(shown) = self.next(state, node) {
                    state.nodes[usize::from(node)].says = shown;
                }
            }
            What::Take(node) => {
                if let Shown::Moving(_, to) = state.nodes[usize::from(node)].says {
                    self.take(state, node, to);
                }
            }
        }
    }

    /// What it asks and arms is lost with it, and so are its lines to Sentinels that count no more.
    fn take(&self, state: &mut State<N>, node: NodeId, record: u8) {
        let me = &mut state.nodes[usize::from(node)];
        me.record = record;
        (me.arm, me.question) = (None, None);
        let counts = self.record(me).counts;
        for at in (0..2).filter(|&at| !counts[at]) {
            self.give_up(state, node, at);
        }
    }

    /// What was seen of boots is of no use where none of those is over or can be.
    fn forget_boots(&self, state: &mut State<N>) {
        if !self.boots_matter() {
            return;
        }
        let before = *state;
        for past in state.sentinels.iter_mut().flat_map(|sentinel| &mut sentinel.watches) {
            for (other, past) in past.iter_mut().enumerate() {
                let Some(seen) = past else { continue };
                let node = other as NodeId;
                let alive = before.nodes[other].boot;
                let can_be_over = |boot: u8| {
                    self.dead(&before, node) == Some(boot) || before.power > 0 && node != ACQUIRER && boot == alive
                };
                seen.boot = seen.boot.filter(|(boot, _)| can_be_over(*boot));
                if seen.boot.is_none() && span(seen.last) >= self.gap() {
                    *past = None;
                }
            }
        }
    }

    fn give_up(&self, state: &mut State<N>, node: NodeId, at: SentinelId) {
        let sentinel = &mut state.sentinels[at];
        if let Some(line) = sentinel.line(node) {
            sentinel.connections[line].used = None;
            if !self.own_looks {
                sentinel.forget(node);
            }
        }
    }

    /// Its arms are deleted, what is open stays. What it had seen and what was answered to it is lost.
    fn restart_keeper(&self, state: &mut State<N>, node: NodeId) {
        let me = &mut state.nodes[usize::from(node)];
        if self.is(Fault::AnswersOfBefore) {
            me.arm = me.question.map(|_| ARM);
        } else {
            (me.arm, me.question) = (None, None);
        }
        state.breaks -= self.lost_with(state, node);
        for at in 0..2 {
            if self.loses(&state.sentinels[at], node) {
                self.give_up(state, node, at);
            } else if let Some(line) = state.sentinels[at].line(node) {
                state.sentinels[at].connections[line].used = Some(SETTLE);
            }
        }
    }

    fn ask(&self, state: &mut State<N>, node: NodeId, at: SentinelId) {
        let comes = self.answer(state, node, at);
        self.look(state, node, at);
        let line = state.sentinels[at].line(node).expect("a line");
        let boot = state.nodes[usize::from(node)].boot;
        let question = state.nodes[usize::from(node)].question.as_mut().expect("a question");
        let asked = &mut question.asked[at];
        if !asked.looked {
            asked.free = comes.free;
        }
        asked.answered = comes.counts;
        let line = &mut state.sentinels[at].connections[line];
        (line.mark, line.closing) = (Sign::Held { length: question.length, nonce: FRESH, boot }, false);
    }

    fn look_to_ask(&self, state: &mut State<N>, node: NodeId, at: SentinelId) {
        let free = self.answer(state, node, at).free;
        self.look(state, node, at);
        let question = state.nodes[usize::from(node)].question.as_mut().expect("a question");
        question.asked[at] = Asked { looked: true, free, answered: false };
    }
}

impl<const N: usize> stateright::Model for Model<N> {
    type State = State<N>;
    type Action = Step;

    fn init_states(&self) -> Vec<State<N>> {
        let mut state = State {
            nodes: [Node::default(); N],
            sentinels: [Sentinel { connections: List::default(), watches: [[None; N]; N] }; 2],
            record: 0,
            breaks: self.breaks,
            late: self.late,
            power: self.power,
        };
        let booted = |node: NodeId| matches!(self.begin, Begin::Booted(nodes) if nodes & 1 << node != 0);
        for (node, booting) in state.nodes.iter_mut().enumerate() {
            booting.boot = u8::from(booted(node as NodeId));
        }
        let of_before = Sign::Held { length: self.records[0].length, nonce: 0, boot: 0 };
        let old = self.old();
        for (at, sentinel) in state.sentinels.iter_mut().enumerate() {
            if self.begin == Begin::Bare || !self.records[0].counts[at] {
                continue;
            }
            let lacks = at == 1 && (self.begin == Begin::OneLacks || (1..N as NodeId).any(booted));
            for node in (0..N as NodeId).filter(|&node| node == ACQUIRER || !lacks) {
                sentinel.accept(match booted(node) {
                    true => Connection { node, mark: of_before, ..Connection::default() },
                    false => Connection { node, used: Some(SETTLE), ..Connection::default() },
                });
            }
            for (node, seen) in sentinel.watches.iter_mut().enumerate() {
                for (other, watch) in
                    seen.iter_mut().enumerate().filter(|(other, _)| watches(node as NodeId, *other as NodeId))
                {
                    let mut lines = List::default();
                    if other as NodeId == ACQUIRER || !lacks {
                        let mark = if booted(other as NodeId) { of_before } else { Sign::Closed };
                        lines.push(Line { id: 1, mark, since: 0 });
                    }
                    *watch = Some(Past::standing(lines, old)).filter(|_| !booted(node as NodeId));
                }
            }
        }
        vec![state]
    }

    fn actions(&self, state: &State<N>, steps: &mut Vec<Step>) {
        self.steps(state, steps);
    }

    fn next_state(&self, last: &State<N>, step: Step) -> Option<State<N>> {
        let mut state = *last;
        self.step(&mut state, step);
        self.forget_boots(&mut state);
        let symmetric = self.records.iter().all(|record| record.counts == [true, true]);
        Some(state.canonical(symmetric, self.is(Fault::VanishedIgnored)))
    }

    fn within_boundary(&self, state: &State<N>) -> bool {
        let acquirer = &state.nodes[usize::from(ACQUIRER)];
        !(acquirer.done && acquirer.open.is_none())
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn open<const N: usize>(state: &State<N>, node: usize) -> bool {
            state.nodes[node].open.is_some()
        }
        vec![
            Property::always("one gate", |_, state: &State<N>| {
                !(open(state, 0) && (1..N).any(|node| open(state, node)))
            }),
            Property::sometimes("the acquirer opens", |_, state| open(state, 0)),
            Property::sometimes("a holder opens", |_, state| open(state, 1)),
        ]
    }
}

/// What happens to the lines of a node, for [`what_is_remembered_is_enough`].
#[derive(Debug, Clone, Copy)]
enum Happens {
    Tick,
    Look,
    /// So many ticks, each with a look at its end.
    Passes(u8),
    Comes,
    ComesOpen,
    Goes(usize),
    Asks(usize),
    /// With a mark of the boot that is over.
    AsksOfBefore(usize),
    Closes(usize),
    LosesPower,
}

/// A line made from what the model keeps of past looks judges as one that has really seen them.
fn what_is_remembered_is_enough() -> Result<(), libtest_mimic::Failed> {
    let happens = prop_oneof![
        3 => Just(Happens::Tick),
        4 => Just(Happens::Look),
        8 => (1..5u8).prop_map(Happens::Passes),
        1 => Just(Happens::Comes),
        1 => Just(Happens::ComesOpen),
        1 => (0..2usize).prop_map(Happens::Goes),
        1 => (0..2usize).prop_map(Happens::Asks),
        1 => (0..2usize).prop_map(Happens::AsksOfBefore),
        1 => (0..2usize).prop_map(Happens::Closes),
        1 => Just(Happens::LosesPower),
    ];
    let mut runner = TestRunner::new(Config { cases: 3000, failure_persistence: None, ..Config::default() });
    let (freed, gone) = (Cell::new(0), Cell::new(0));
    let model = Model { power: 1, ..WHOLE };
    let tried = runner.run(&proptest::collection::vec(happens, 0..40), |story| {
        let mut state = model.init_states()[0];
        let measure = model.measure(Lengths::of(span(2), None), vec![1]);
        let (mut line, mut now, mut fresh) = (lease::Line::connected(OwnLine::new(), Mark::Closed), 0, 1u32);
        let mut real = vec![(u64::from(fresh), Mark::Closed)];
        state.sentinels[0].watches = [[None; 2]; 2];
        let each = |happens| match happens {
            Happens::Passes(ticks) => [Happens::Tick, Happens::Look].repeat(ticks.into()),
            happens => vec![happens],
        };
        for happens in story.into_iter().flat_map(each) {
            fresh += 1;
            let of = |state: &State<2>, n: usize| {
                let mut lines = state.sentinels[0].connections.iter().enumerate().filter(|(_, c)| c.node == 1);
                lines.nth(n).map(|(i, _)| i)
            };
            let lines = |real: &[(u64, Mark)]| -> Vec<Seen<NodeId>> {
                real.iter().map(|&(line, mark)| Seen { line, node: 1, mark: Some(mark) }).collect()
            };
            match happens {
                Happens::Tick => {
                    model.tick(&mut state, !0);
                    now += TICK;
                }
                Happens::Look => {
                    let judged = model.answer(&state, 0, 0).free != 0;
                    model.look(&mut state, 0, 0);
                    line.look(now, now, &lines(&real), &measure.terms);
                    let answer = Answer {
                        sentinel: 0,
                        sent: now,
                        received: now,
                        marked_for: Some(ROUND),
                        own_look: true,
                        names_me: true,
                    };
                    let dead = state.nodes[1].boot.checked_sub(1).map(u32::from);
                    let is_free = line.answer(&answer, &measure, |_| dead).evidence.free.contains(&1);
                    proptest::prop_assert_eq!(judged, is_free);
                    freed.set(freed.get() + usize::from(judged && now > 0));
                    gone.set(gone.get() + usize::from(judged && !line.shows_free(&1, &measure)));
                }
                Happens::Comes | Happens::ComesOpen if real.len() < CONNECTIONS => {
                    let boot = state.nodes[1].boot;
                    let (mark, sign) = match happens {
                        Happens::Comes => (Mark::Closed, Sign::Closed),
                        _ => (Mark::held(span(2), boot.into(), fresh), Sign::Held { length: 2, nonce: FRESH, boot }),
                    };
                    real.push((fresh.into(), mark));
                    state.sentinels[0].accept(Connection { node: 1, mark: sign, ..Connection::default() });
                }
                Happens::Goes(n) if n < real.len() => {
                    real.remove(n);
                    let at = of(&state, n).expect("the same lines");
                    state.sentinels[0].connections.remove(at);
                }
                Happens::LosesPower => state.nodes[1].boot = 3.min(state.nodes[1].boot + 1),
                Happens::Asks(n) | Happens::AsksOfBefore(n) if n < real.len() => {
                    let boot = match happens {
                        Happens::Asks(_) => state.nodes[1].boot,
                        _ => state.nodes[1].boot.saturating_sub(1),
                    };
                    real[n].1 = Mark::held(span(2), boot.into(), fresh);
                    let at = of(&state, n).expect("the same lines");
                    state.sentinels[0].connections[at].mark = Sign::Held { length: 2, nonce: FRESH, boot };
                }
                Happens::Closes(n) if n < real.len() => {
                    real[n].1 = Mark::Closed;
                    let at = of(&state, n).expect("the same lines");
                    state.sentinels[0].connections[at].mark = Sign::Closed;
                }
                _ => {}
            }
            model.forget_boots(&mut state);
            state.sentinels[0].canonical(false);
        }
        Ok(())
    });
    tried.map_err(|error| error.to_string())?;
    match (freed.get(), gone.get()) {
        (100.., 100..) => Ok(()),
        (freed, gone) => {
            Err(format!("only {freed} looks found somebody free, {gone} by the end of a boot alone").into())
        }
    }
}

/// Which records the nodes stand on, without leases and time: three nodes, whose power is cut as often as one likes, whom STONITH and a
/// person confirm off (the person only who is), and any record written at any time.
#[derive(Debug, Clone)]
struct Standing {
    /// Whether a rule is broken.
    fault: Option<Broken>,
}

/// What is broken in [`Standing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    /// A second step is taken before all have shown the first.
    SecondTooEarly,
    /// Two steps are one.
    InOneStep,
    /// That a node was confirmed off counts though it has come back since.
    ConfirmedBefore,
    /// A machine that boots goes on with what is on its disk.
    GoesOn,
}

/// Four records: 0 and 1, 1 and 2, 2 and 3 are neighbours, and so are 0 and 3.
const RECORDS: u8 = 4;

fn are_neighbours(a: u8, b: u8) -> bool {
    a == b || a.abs_diff(b) == 1 || a.abs_diff(b) == RECORDS - 1
}

/// One node of [`Standing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Stands {
    on: Option<u8>,
    /// It may hold a lease by this one, too.
    also: Option<u8>,
    says: Shown<u8>,
    off: bool,
    confirmed: bool,
}

/// What happens to one of them, or to the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Event {
    Writes(u8),
    Goes(usize),
    Settles(usize),
    LosesPower(usize),
    Stonith(usize),
    Person(usize),
    Boots(usize),
}

impl stateright::Model for Standing {
    type State = ([Stands; 3], u8);
    type Action = Event;

    fn init_states(&self) -> Vec<Self::State> {
        vec![([Stands::default(); 3], 0)]
    }

    fn actions(&self, (nodes, record): &Self::State, events: &mut Vec<Event>) {
        events.extend((0..RECORDS).filter(|other| other != record).map(Event::Writes));
        for (n, node) in nodes.iter().enumerate() {
            if node.off {
                events.push(Event::Boots(n));
                if !node.confirmed {
                    events.push(Event::Stonith(n));
                }
                if node.says != Shown::Off {
                    events.push(Event::Person(n));
                }
            } else {
                events.extend([Event::Goes(n), Event::LosesPower(n)]);
                if node.also.is_some() {
                    events.push(Event::Settles(n));
                }
            }
        }
    }

    fn next_state(&self, (nodes, record): &Self::State, event: Event) -> Option<Self::State> {
        let (mut nodes, mut record) = (*nodes, *record);
        let is = |fault| self.fault == Some(fault);
        match event {
            Event::Writes(other) => record = other,
            Event::Settles(n) => nodes[n].also = None,
            Event::LosesPower(n) => {
                let kept = nodes[n].on.filter(|_| is(Broken::GoesOn));
                nodes[n] = Stands { on: kept, says: nodes[n].says, off: true, ..nodes[n] };
                nodes[n].also = None;
            }
            Event::Stonith(n) => nodes[n].confirmed = true,
            Event::Person(n) => nodes[n].says = Shown::Off,
            Event::Boots(n) => {
                nodes[n].off = false;
                nodes[n].confirmed &= is(Broken::ConfirmedBefore);
            }
            Event::Goes(n) => {
                let peer =
                    |node: &Stands| Peer { name: String::new(), says: node.says, off: node.confirmed, recorded: true };
                let others = (0..3).filter(|other| *other != n && !is(Broken::SecondTooEarly));
                let peers: Vec<Peer<u8>> = others.map(|other| peer(&nodes[other])).collect();
                let me = &mut nodes[n];
                let own = Own { on: me.on, also: me.also, says: me.says, idle: false, placed: true };
                let one_step = me.on.is_some_and(|on| are_neighbours(on, record)) || is(Broken::InOneStep);
                match stand::next(&own, &record, one_step, &peers) {
                    Next::Say(shown) => {
                        me.says = shown;
                        match shown {
                            Shown::On(on) => (me.on, me.also) = (Some(on), None),
                            // It goes on at once; the lease by the one before lasts until it settles.
                            Shown::Moving(from, to) => (me.on, me.also) = (Some(to), Some(from)),
                            _ => (me.on, me.also) = (None, None),
                        }
                    }
                    Next::Void | Next::LetGo => (me.on, me.also) = (None, None),
                    Next::Keep | Next::Wait(_) | Next::TooFar => return None,
                }
            }
        }
        Some((nodes, record))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn all(nodes: &[Stands; 3]) -> Vec<u8> {
            let on = nodes.iter().filter(|node| !node.off).flat_map(|node| node.on.into_iter().chain(node.also));
            on.collect()
        }
        vec![
            Property::always("neighbours", |_, (nodes, _): &Self::State| {
                let all = all(nodes);
                all.iter().all(|a| all.iter().all(|b| are_neighbours(*a, *b)))
            }),
            Property::sometimes("all have moved", |_, (nodes, _): &Self::State| {
                nodes.iter().all(|node| node.on == Some(2))
            }),
        ]
    }
}

fn explore_standing(fault: Option<Broken>) -> Result<(), libtest_mimic::Failed> {
    let checker = Standing { fault }.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    println!("which records nodes stand on: {} states", checker.unique_state_count());
    match (checker.discovery("neighbours"), fault) {
        (Some(_), Some(_)) => Ok(()),
        (None, Some(_)) => Err("the seeded fault was not found".into()),
        (Some(path), None) => Err(format!("they stand on two that are none behind {:#?}", path.into_actions()).into()),
        (None, None) if checker.discovery("all have moved").is_none() => Err("nobody ever moves".into()),
        (None, None) => Ok(()),
    }
}

impl<const N: usize> Model<N> {
    const WHOLE: Self = Model {
        fault: None,
        breaks: 0,
        remade: true,
        late: 0,
        power: 0,
        delays: false,
        begin: Begin::Marked,
        own_looks: false,
        sentinels_restart: false,
        keepers_restart: None,
        ipset: false,
        thrifty: true,
        records: &[THREE],
    };
}

const WHOLE: Model<2> = Model::WHOLE;
const THREE_NODES: Model<3> = Model::WHOLE;
const HANDED: Model<2> =
    Model { keepers_restart: Some(Restart::HandsOver), breaks: 1, begin: Begin::OneLacks, records: LONG, ..WHOLE };
const POWER: Model<2> = Model { power: 1, ..WHOLE };
const BOOTED: Model<2> = Model { begin: Begin::Booted(1 << ACQUIRER), ..WHOLE };
const HOLDER_BOOTED: Model<2> = Model { begin: Begin::Booted(1 << 1), breaks: 1, ..WHOLE };
const IPSET: Model<2> = Model { ipset: true, ..WHOLE };

/// A longer lease: more fits between two questions.
const LONG: &[Record] = &[Record { length: 3, ..THREE }];
/// Sentinels 1, 2, 3; then 1, 2; then 1, 2, 4. The acquirer opens by 2 and 4.
const REPLACED: [Record; 3] = [
    Record { counts: [true, false], others: 2, length: 2 },
    Record { counts: [true, false], others: 1, length: 2 },
    Record { counts: [true, true], others: 1, length: 2 },
];
/// The same, for one that opens by 2 and 3.
const TAKEN_AWAY: [Record; 3] = [
    Record { counts: [true, true], others: 1, length: 2 },
    Record { counts: [true, false], others: 1, length: 2 },
    Record { counts: [true, false], others: 2, length: 2 },
];
/// Both by two steps at once.
const REPLACED_AT_ONCE: &[Record] = &[REPLACED[0], REPLACED[2]];
const TAKEN_AWAY_AT_ONCE: &[Record] = &[TAKEN_AWAY[0], TAKEN_AWAY[2]];
const LONGER: &[Record] = &[THREE, Record { length: 4, ..THREE }];
const SHORTER: &[Record] = &[Record { length: 4, ..THREE }, THREE];

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    let scenario = |name: &str, model: Model<2>| (name.to_owned(), model);
    let lines = Model { breaks: 2, ..WHOLE };
    let scenarios = [
        scenario("lines break", lines.clone()),
        scenario("a connection arrives late", Model { breaks: 1, late: 1, ..WHOLE }),
        scenario("closed arrives late", Model { breaks: 1, delays: true, ..WHOLE }),
        scenario("from nothing", Model { begin: Begin::Bare, ..WHOLE }),
        scenario("looks of their own", Model { breaks: 1, own_looks: true, ..WHOLE }),
        scenario("Sentinels restart", Model { sentinels_restart: true, ..WHOLE }),
        scenario("keepers restart", Model { keepers_restart: Some(Restart::Loses), ..WHOLE }),
        scenario("keepers hand over, a longer lease", HANDED.clone()),
        scenario("holders lose their power", POWER),
        scenario("the acquirer has lost its power", BOOTED),
        scenario("a holder has lost its power, and lines break", HOLDER_BOOTED),
        scenario("ipset", IPSET),
        scenario("ipset, a longer lease", Model { records: LONG, ..IPSET }),
        scenario("ipset, lines break", Model { breaks: 1, ..IPSET }),
        scenario("ipset, every step", Model { thrifty: false, ..IPSET }),
        scenario("every step", Model { thrifty: false, keepers_restart: Some(Restart::HandsOver), ..WHOLE }),
        scenario("a Sentinel replaced", Model { records: &REPLACED, ..WHOLE }),
        scenario("a Sentinel taken away", Model { records: &TAKEN_AWAY, ..WHOLE }),
        scenario(
            "a Sentinel taken away by two steps at once, which nobody follows",
            Model { records: TAKEN_AWAY_AT_ONCE, ..WHOLE },
        ),
        scenario("the lease becomes longer", Model { records: LONGER, breaks: 1, remade: false, ..WHOLE }),
        scenario("the lease becomes shorter", Model { records: SHORTER, breaks: 1, remade: false, ..WHOLE }),
    ];
    let mut trials: Vec<libtest_mimic::Trial> = Vec::new();
    for (name, model) in scenarios {
        trials
            .push(libtest_mimic::Trial::test(format!("holds: {name}"), move || explore(&name, model, Expects::Holds)));
    }
    // By the record that there is it could ask one of three Sentinels: only who goes on at once opens.
    let replaced = Model { records: REPLACED_AT_ONCE, ..WHOLE };
    let name = "a Sentinel replaced by two steps at once, which nobody follows";
    trials.push(libtest_mimic::Trial::test(format!("holds: {name}"), move || {
        explore(name, replaced, Expects::StaysShut)
    }));
    trials
        .push(libtest_mimic::Trial::test("holds: three nodes", || explore("three nodes", THREE_NODES, Expects::Holds)));
    trials.push(libtest_mimic::Trial::test("what is remembered is enough", what_is_remembered_is_enough));
    trials.push(libtest_mimic::Trial::test("holds: which records nodes stand on", || explore_standing(None)));
    for (name, fault) in [
        ("a second step before all have shown the first, without leases", Broken::SecondTooEarly),
        ("two steps at once, without leases", Broken::InOneStep),
        ("a confirmed-off of before the last membership", Broken::ConfirmedBefore),
        ("a machine that boots goes on", Broken::GoesOn),
    ] {
        trials.push(libtest_mimic::Trial::test(format!("finds: {name}"), move || explore_standing(Some(fault))));
    }
    let seeded = [
        ("no window", Fault::NoWindow, WHOLE),
        ("a window of L without A", Fault::WindowWithoutArm, WHOLE),
        ("no arm", Fault::NoArm, WHOLE),
        ("a majority of one", Fault::MajorityOfOne, WHOLE),
        ("a renewal without a live element", Fault::RenewsTheDead, WHOLE),
        ("closed marked before closing", Fault::MarkedBeforeClosing, WHOLE),
        ("closed of an earlier look", Fault::ClosedOfAnEarlierLook, WHOLE),
        ("the newest line only", Fault::NewestLineOnly, Model { breaks: 1, late: 1, ..WHOLE }),
        ("lines that vanish are ignored", Fault::VanishedIgnored, Model { breaks: 1, ..WHOLE }),
        ("looks G apart", Fault::LooksApart, Model { breaks: 1, begin: Begin::OneLacks, records: LONG, ..WHOLE }),
        (
            "the age of a line ignored",
            Fault::AgeIgnored,
            Model { breaks: 1, begin: Begin::OneLacks, records: LONG, ..WHOLE },
        ),
        ("a look before the own mark", Fault::LookBeforeMark, WHOLE),
        ("a shared look instead of the question's own", Fault::WithoutItsOwnLook, WHOLE),
        ("answers of an earlier round", Fault::AnswersOfAnEarlierRound, WHOLE),
        (
            "lines that vanish with their Sentinel are ignored",
            Fault::VanishedIgnored,
            Model { sentinels_restart: true, ..WHOLE },
        ),
        ("a line taken over that had not settled", Fault::TakenOverUnsettled, HANDED),
        ("answers of before", Fault::AnswersOfBefore, Model { keepers_restart: Some(Restart::HandsOver), ..WHOLE }),
        ("ipset, checked before the answers", Fault::CheckedEarly, IPSET),
        ("ipset, an arm of any age", Fault::ArmOfAnyAge, IPSET),
        ("ipset, time from the swap", Fault::TimeFromTheSwap, IPSET),
        ("ipset, a window of L without A", Fault::WindowWithoutArm, IPSET),
        ("a confirmed-off that counts for the next boot", Fault::ConfirmedForLater, POWER),
        ("a boot that is over, not looked at for long", Fault::ConfirmedAtOnce, HOLDER_BOOTED),
        ("a closed mark taken for one of a boot that is over", Fault::ClosedIsOfTheDead, HOLDER_BOOTED),
        ("one line of a boot that is over, and the others not looked at", Fault::OneLineOfTheDead, BOOTED),
        ("a Sentinel replaced in one step", Fault::InOneStep, Model { records: REPLACED_AT_ONCE, ..WHOLE }),
        ("a Sentinel taken away in one step", Fault::InOneStep, Model { records: TAKEN_AWAY_AT_ONCE, ..WHOLE }),
        ("a second step before all have shown the first", Fault::SecondTooEarly, Model { records: &REPLACED, ..WHOLE }),
        ("a longer lease at once", Fault::LongerAtOnce, Model { records: LONGER, breaks: 1, remade: false, ..WHOLE }),
        (
            "lengths of the answer's moment",
            Fault::LengthsOfNow,
            Model { records: SHORTER, breaks: 1, remade: false, ..WHOLE },
        ),
        ("a record shown too soon", Fault::ShownTooSoon, Model { records: SHORTER, breaks: 1, remade: false, ..WHOLE }),
    ];
    for (name, fault, model) in seeded {
        trials.push(finds(name, fault, model));
    }
    trials.push(finds("three nodes, one that is free is enough", Fault::OneIsFree, THREE_NODES));
    trials.push(finds("three nodes, a window of L without A", Fault::WindowWithoutArm, THREE_NODES));
    trials.push(finds("three nodes, a look before the own mark", Fault::LookBeforeMark, THREE_NODES));
    trials.push(finds("three nodes, no arm", Fault::NoArm, THREE_NODES));
    libtest_mimic::run(&arguments, trials).exit();
}

fn finds<const N: usize>(name: &'static str, fault: Fault, model: Model<N>) -> libtest_mimic::Trial {
    let model = Model { fault: Some(fault), ..model };
    libtest_mimic::Trial::test(format!("finds: {name}"), move || explore(name, model, Expects::Finds))
}

/// What is expected of a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expects {
    /// Two gates are never open at once, and each opens.
    Holds,
    /// The acquirer never opens, and a holder does.
    StaysShut,
    /// The fault that is seeded opens two gates at once.
    Finds,
}

fn explore<const N: usize>(name: &str, model: Model<N>, expects: Expects) -> Result<(), libtest_mimic::Failed> {
    let start = Instant::now();
    let checker = model.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let found = checker.discovery("one gate");
    println!(
        "{name}: {} states, {} steps between them, {:.1} s{}",
        checker.unique_state_count(),
        checker.state_count(),
        start.elapsed().as_secs_f64(),
        found
            .as_ref()
            .map_or(String::new(), |path| format!("; two gates after {} steps", path.clone().into_actions().len())),
    );
    let opens = |whose| checker.discovery(whose).is_some();
    match (found, expects) {
        (Some(_), Expects::Finds) => Ok(()),
        (None, Expects::Finds) => Err("the seeded fault was not found".into()),
        (Some(path), _) => Err(format!("two gates are open after {:#?}", path.into_actions()).into()),
        // An empty space holds every property.
        (None, _) if !opens("a holder opens") => Err("no holder ever opens".into()),
        (None, Expects::Holds) if !opens("the acquirer opens") => Err("the acquirer never opens".into()),
        (None, Expects::StaysShut) if opens("the acquirer opens") => Err("the acquirer opens".into()),
        (None, _) => Ok(()),
    }
}
