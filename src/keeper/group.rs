//! The lease of one master name: one state machine, fed by what its connections, the clock and other programs say.
//!
//! Every [`EVERY`] a round begins: arm, ask all Sentinels and the local Redis, and swap as soon as the answers suffice. Rounds go
//! on without permission, too, without an arm; and [`Looks`] all the time, by which all others are known to be closed when this
//! node is promoted. What suffices is decided in [`crate::lease`].

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Interval, MissedTickBehavior, Sleep, interval, sleep};
use tracing::debug;

use super::behind::Behind;
use super::changes::Changes;
use super::chosen::{Another, Chosen, Defence};
use super::connection::{Answer, Connection, Event};
use super::events::SentinelEvent;
use super::history::History;
use super::looks::{self, Look, Looks};
use super::memory::{Memory, Run};
use super::socket::{Forced, Report};
use super::stand::{Do, Outcome, Standing, View, basis, dead_boots};
use super::told::Told;
use super::{cut, hand, handover, mend, restart, roles, veto};
use crate::causes::with_causes;
use crate::forced::Around;
use crate::gate::{
    self, Armed, Baseline, Beside, Desired, Gate, GateError, Held, Leasing, PortState, Reading, State, Swap, Swapped,
    Want,
};
use crate::instance::{self, Instance, ServerRole};
use crate::layout::{Guard, Own, Permit, Permits};
use crate::lease::{self, Evidence, Lengths, Mark, Measure, Moment, Opening, OwnLine, Span, mark};
use crate::local_fence::LocalFence;
use crate::logging::{Subject, decided};
use crate::pacemaker::cib::Resource;
use crate::pacemaker::{self, Cib};
use crate::params::Params;
use crate::permission::{Granted, StoreError};
use crate::record::{Basis, NodeEntry, Record, RecordError, SentinelEntry, canonical};
use crate::role::Role;
use crate::sentinel::{self, About, Heard, LocalServer, Place, Said, Verdict};
use crate::server::{self, AskError};
use crate::settings::Settings;
use crate::switchover;
use crate::wire::{self, Reply};

/// From one round to the next.
pub const EVERY: Duration = Duration::from_millis(400);

/// How old a line's first mark must be before a question on it counts (G).
const SETTLE: Duration = Duration::from_secs(1);

/// From a line's first mark to a round, so that one of those that follow comes just when the line has settled.
const PHASE: Duration = Duration::from_millis((SETTLE.as_millis() % EVERY.as_millis()) as u64 + 2);

/// A Sentinel that takes longer than this to answer is silent, and its line is given up.
const PATIENCE: Duration = Duration::from_secs(1);

/// A Redis may be busy with a script for longer.
const REDIS_PATIENCE: Duration = Duration::from_secs(5);

/// How often it is written down that the lease is still held.
const REMEMBER_EVERY: Duration = Duration::from_secs(10);

/// How often the whole of this gate's rules is looked at.
const TEND_EVERY: Duration = Duration::from_millis(550);

/// For so long a reading of the firewall serves all master names. No fence and no repair waits longer for it than this.
const READ_FOR_ALL: Duration = Duration::from_millis(200);

static READING: Told<Reading> = Told::new();

/// An answer older than this says nothing about now.
const FRESH: Duration = Duration::from_millis(1500);

/// What may be done to the firewall between two events, without holding up the lease.
const AT_ONCE: Duration = Duration::from_millis(300);

/// How often the cluster is asked who is off, while somebody is waited for.
const ASK_WHO_IS_OFF: Duration = Duration::from_millis(500);

/// The cluster's configuration as the cluster had it just now, for all that ask who is off.
static CLUSTER: Told<Option<Arc<Cib>>> = Told::new();

/// Between two events that each begin a round of their own.
const NOT_SOONER: Duration = Duration::from_millis(20);

/// What others tell a group.
#[derive(Debug)]
pub enum Note {
    /// The permission may have changed, or a failover is under way: look now.
    Look,
    /// An event of the Sentinel at this address.
    Event(Box<(SocketAddr, SentinelEvent)>),
    /// The cluster's configuration, as it is now.
    Cluster(Arc<Cib>),
    /// Somebody asks how things stand.
    Report(oneshot::Sender<Report>),
    /// Other blocks, or other parameters, a record among them that is to be gone on to.
    Guard(Box<Guard>),
    /// The master name or the ports have changed. This group ends as soon as it has no permission.
    Outdated,
}

/// What is the same for all groups of a node.
#[derive(Clone)]
pub struct Common {
    /// This node's name.
    pub me: String,
    /// What is local to the node.
    pub settings: Settings,
    /// The beginning of the keeper's time.
    pub epoch: Instant,
    /// What is written to the disk.
    pub files: Behind,
    /// Lines that outlast the keeper.
    pub kept: handover::Lines,
    /// What failovers there were.
    pub history: History,
    /// The looks at all Sentinels.
    pub looks: looks::All,
    /// What gates and their leases share.
    pub beside: Beside,
    /// Of the files in which permissions stand, and what is done by hand.
    pub changes: Changes,
}

/// See the module.
pub struct Group {
    common: Common,
    /// Of which records are, with what is known of it.
    subject: Subject,
    /// The gate resource's id, or that of the block in its place.
    gate_id: String,
    params: Params,
    /// What the CIB gives to stand on.
    wanted: Option<Basis>,
    /// What this node stands on.
    standing: Standing,
    /// The record that this group works by: the one that it stands on, or would stand on.
    record: Record,
    node: NodeEntry,
    /// How long leases are, and who the others are.
    measure: Measure<String>,
    permits: Permits,
    /// By which changes, and what of the cluster's configuration, `granted` is what it is.
    permit_at: Option<(u64, Own)>,
    memory: Memory,
    gate: Gate,
    inbox: mpsc::Receiver<Note>,
    tick: Interval,
    lines: Vec<Line>,
    redis: Connection<()>,
    local: Local,
    cut: cut::Cut,
    cib: Option<Arc<Cib>>,
    leasing: Option<Leasing>,
    /// The one before, which closed.
    shut: Option<Leasing>,
    granted: Option<Granted>,
    /// What Pacemaker permits could not be read.
    unreadable: bool,
    /// Why Pacemaker permits no more.
    not_granted: Cow<'static, str>,
    /// What is open by a lease of ours, or was by one of the keeper before this one.
    lease: Option<Run>,
    /// The run under which this node last held a lease, until another node is named.
    last: Option<Run>,
    opened: Option<Instant>,
    round: Round,
    about: About,
    /// Another node's Redis that is promoted: nothing is opened meanwhile.
    another: Another,
    broken: Broken,
    why: String,
    tended: Option<Instant>,
    /// Until when the read-only port is open at least, if nobody but this process changes the firewall.
    ro_until: Option<Instant>,
    closing: Option<JoinHandle<Result<State, GateError>>>,
    mending: Option<JoinHandle<Result<(), GateError>>>,
    beginning: Option<JoinHandle<Result<Leasing, GateError>>>,
    restarting: Option<JoinHandle<restart::Outcome>>,
    chosen: Chosen,
    defence: Defence,
    /// Since when a Redis that is not that of `last` keeps this node closed, and when the next attempt is due.
    restarted: Option<(Instant, Instant)>,
    /// Whether a Sentinel is in a failover that comes to nothing meanwhile.
    stuck: restart::Stuck,
    /// `last` is of this boot: a Redis that is down is not one that has not started yet.
    last_of_this_boot: bool,
    /// Nothing was read from the firewall yet.
    first_look: bool,
    remembered: Option<Instant>,
    roles: roles::Keeper,
    veto: veto::Keeper,
    mend: mend::Keeper,
    hand: hand::Keeper,
    /// When Redis is asked outside the rounds: a switchover is under way, or it may be cut off.
    soon: Option<Pin<Box<Sleep>>>,
    ending: Option<Instant>,
    outdated: bool,
    /// Boots of other nodes that are over for certain.
    dead: BTreeMap<String, u32>,
    /// The cluster is being asked for those.
    asking: Option<JoinHandle<BTreeMap<String, u32>>>,
    asked: Option<Instant>,
    /// Another round is wanted when this one is over.
    again: bool,
}

/// A line to one Sentinel of the record.
struct Line {
    connection: Connection<Asked>,
    /// The next keeper gets it.
    kept: Option<handover::Kept>,
    /// What it shows, and has shown.
    known: lease::Line<String>,
    looks: Looks,
    /// Looks that were sent before the line was made are none of its.
    looked: Instant,
    heard: Option<(Instant, Heard)>,
    /// Since when it has answered at once.
    prompt: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
enum Asked {
    /// A mark alone.
    Mark,
    /// The question of a round; with a nonce, behind a mark.
    Question { round: u64, marked: bool, looks: bool },
}

/// What stands in the way, by where it stands.
#[derive(Default)]
struct Broken {
    firewall: Option<String>,
    read_only: Option<String>,
    sentinel: Option<String>,
}

/// What the Redis on this node says.
enum Local {
    Unknown(AskError),
    Refused,
    Says(Instant, Box<Instance>),
}

#[derive(Default)]
struct Round {
    number: u64,
    began: Option<Instant>,
    armed: Option<Armed>,
}

enum Happened {
    Tick,
    Note(Option<Note>),
    Line(usize, Event<Asked>),
    Redis(Event<()>),
    Soon,
    Closed(Result<State, GateError>),
    Mended(Result<(), GateError>),
    Begun(Result<Leasing, GateError>),
    Restart(restart::Outcome),
    Defended(Result<u32, String>),
    Stood(Result<Outcome, String>),
    Dead(BTreeMap<String, u32>),
}

impl Line {
    /// A line to be made, or one that the keeper before this one had.
    fn to(sentinel: &SentinelEntry, place: handover::Place<'_>, common: &Common) -> Self {
        let credentials = common.settings.sentinel.clone();
        let (connection, kept) = match common.kept.take(place, sentinel.address) {
            Some((line, kept)) => (Connection::taken_over(sentinel.address, credentials, line), Some(kept)),
            None => (Connection::new(sentinel.address, credentials), None),
        };
        Line {
            connection,
            kept,
            known: lease::Line::default(),
            looks: common.looks.at(sentinel.address, &common.settings.sentinel),
            looked: Instant::now(),
            heard: None,
            prompt: None,
        }
    }

    /// Whether the way to this Sentinel has been free for a while.
    fn is_prompt(&self, now: Instant) -> bool {
        let since = |then: Instant| now.saturating_duration_since(then);
        self.prompt.is_some_and(|then| since(then) >= cut::FOR_A_WHILE)
            && self.connection.waiting_for(now).is_none_or(|waited| waited < cut::AT_ONCE)
            && self.heard.as_ref().is_some_and(|(at, _)| since(*at) < FRESH)
    }
}

/// Where the veto is answered.
fn site(common: &Common, subject: &Subject, gate: &str, params: &Params, own: (&Record, &NodeEntry)) -> veto::Site {
    let (record, node) = own;
    let readers = record.nodes().iter().filter(|other| *other != node);
    veto::Site {
        subject: subject.clone(),
        master: params.master.clone(),
        gate: gate.to_owned(),
        redis: node.address,
        readers: readers.map(|other| SocketAddr::new(other.address.ip(), params.ports.ro)).collect(),
        settings: common.settings.clone(),
        history: common.history.clone(),
    }
}

/// The other nodes' read-write ports.
fn writers(params: &Params, record: &Record, node: &NodeEntry) -> Vec<(String, SocketAddr)> {
    let others = record.nodes().iter().filter(|other| *other != node);
    others.map(|other| (other.name.clone(), SocketAddr::new(other.address.ip(), params.ports.rw))).collect()
}

impl Group {
    /// The group of what `guard` guards. None without a record with this node in it.
    pub fn new(common: Common, cib: &Arc<Cib>, guard: &Guard, inbox: mpsc::Receiver<Note>) -> Option<Self> {
        let (gate_id, params) = (guard.resource.id.as_str(), guard.params.clone());
        let subject = Subject::of(Some(&params.master), Some(&common.me)).of_gate(gate_id);
        let memory = Memory::new(subject.clone(), gate_id, &common.files);
        let remembered = memory.read();
        let wanted = basis(&params);
        if params.record == Err(RecordError::Missing) && !remembered.held {
            // Of a gate that was there before: this one was never told what to stand on.
            super::stand::forget(gate_id, &subject);
        }
        let of = (common.me.as_str(), gate_id, params.master.as_str());
        let held_by = wanted.as_ref().filter(|_| remembered.held);
        let standing = Standing::read(subject.clone(), cib, of, held_by);
        let works_by = [standing.on.as_ref(), wanted.as_ref()].into_iter().flatten().map(|basis| &basis.record);
        let (record, node) =
            works_by.filter_map(|record| Some((record.clone(), record.node(&common.me)?.clone()))).next()?;
        let (firewall, within) = (common.settings.firewall, common.settings.firewall_within);
        let gate = Gate::new(params.ports, firewall, within).ok()?.beside(&common.beside).about(subject.clone());
        let lines = record.sentinels().iter().map(|sentinel| {
            Line::to(sentinel, handover::Place { gate: gate_id, master: &params.master, node: &node.name }, &common)
        });
        let others = writers(&params, &record, &node);
        let hand = hand::Keeper::new(subject.clone(), (&common.me, gate_id), &params, others, common.changes.count());
        let lines = lines.collect();
        let mut tick = interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let veto = veto::Keeper::new(site(&common, &subject, gate_id, &params, (&record, &node)));
        common.history.begin(&params.master, &common.me, &record);
        common.history.roles(&params.master, &params.attribute, cib);
        let mend = mend::Keeper::new(subject.clone(), &params.master, node.address, common.settings.redis.clone());
        let mut group = Group {
            measure: Measure::of(Lengths::of(0, None), 0, micros(SETTLE), Vec::new()),
            lines,
            wanted,
            standing,
            redis: Connection::new(node.address, common.settings.redis.clone()),
            permits: guard.permits(),
            permit_at: None,
            gate_id: gate_id.to_owned(),
            lease: remembered.last.clone().filter(|_| remembered.held),
            last: remembered.last,
            roles: roles::Keeper::new(&common.me, subject.clone()),
            subject,
            veto,
            mend,
            hand,
            soon: None,
            params,
            record,
            node,
            memory,
            gate,
            inbox,
            tick,
            local: Local::Unknown(AskError::Silent),
            cut: cut::Cut::default(),
            cib: Some(cib.clone()),
            leasing: None,
            shut: None,
            granted: None,
            unreadable: false,
            not_granted: Cow::Borrowed("just started"),
            opened: None,
            round: Round::default(),
            about: About::Unknown("not asked yet".to_owned()),
            another: Another::default(),
            broken: Broken::default(),
            why: "just started".to_owned(),
            tended: None,
            ro_until: None,
            closing: None,
            mending: None,
            beginning: None,
            restarting: None,
            chosen: Chosen::default(),
            defence: Defence::default(),
            restarted: None,
            stuck: restart::Stuck::default(),
            last_of_this_boot: remembered.this_boot,
            first_look: true,
            remembered: None,
            ending: None,
            outdated: false,
            dead: BTreeMap::new(),
            asking: None,
            asked: None,
            again: false,
            common,
        };
        group.take_measure();
        group.know_role();
        Some(group)
    }

    /// Of which its records are.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Records have this node's role as the cluster's configuration has it.
    fn know_role(&self) {
        let Own { role, fenced } = self.own();
        self.subject.has_role(if fenced { Some(Role::Fail) } else { role });
    }

    /// Where this node's Redis is.
    pub fn redis_at(&self) -> SocketAddr {
        self.node.address
    }

    /// Keeps the lease until the inbox is closed, and renews it once more then: whoever comes next has all its time to go on.
    pub async fn run(mut self) {
        loop {
            let renewed = |at: Instant| self.round.armed.is_none() || at.elapsed() > self.arm_lasts();
            if self.ending.is_some_and(renewed) && self.closing.is_none() {
                break;
            }
            let closed = self.lease.is_none() && self.closing.is_none();
            if self.outdated && closed && self.granted.is_none_or(|granted| granted < Granted::Promoted) {
                break;
            }
            let happened = poll_fn(|context| self.poll(context)).await;
            match happened {
                Happened::Tick => self.begin_round(),
                Happened::Note(None) => {
                    self.ending = Some(Instant::now());
                    if self.round.armed.is_none() {
                        self.begin_round();
                    }
                }
                Happened::Note(Some(note)) => self.note(note),
                Happened::Line(index, event) => self.line(index, event),
                Happened::Redis(event) => self.redis(event),
                // What Sentinels say is wanted as well.
                Happened::Soon if self.cut.is_looked_at_closely() => self.begin_round_now(),
                Happened::Soon => self.ask_redis(),
                Happened::Closed(result) => self.closed(result),
                Happened::Mended(result) => {
                    let what = result.err().map(|error| with_causes(&error));
                    if let Some(what) = what.as_ref().filter(|what| self.broken.read_only.as_ref() != Some(*what)) {
                        decided!(warn, self.subject, what, "{what}");
                    }
                    self.broken.read_only = what;
                }
                Happened::Begun(result) => self.begun(result),
                Happened::Restart(outcome) => self.restart_answered(outcome),
                Happened::Defended(result) => self.defended(result),
                Happened::Stood(result) => self.stood(result),
                Happened::Dead(dead) => {
                    if dead.iter().any(|(node, boot)| self.dead.insert(node.clone(), *boot) != Some(*boot)) {
                        self.begin_round_now();
                    }
                }
            }
        }
        // The next keeper of a lease that lives has no time to lose.
        if self.lease.is_none() {
            self.veto.end().await;
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Happened> {
        fn done<T: Send + 'static>(job: &mut Option<JoinHandle<T>>, context: &mut Context<'_>) -> Option<T> {
            let Poll::Ready(result) = Pin::new(job.as_mut()?).poll(context) else { return None };
            *job = None;
            // A job that panicked has said so on stderr, and has done nothing.
            result.ok()
        }
        if let Some(result) = done(&mut self.closing, context) {
            return Poll::Ready(Happened::Closed(result));
        }
        if self.tick.poll_tick(context).is_ready() {
            return Poll::Ready(Happened::Tick);
        }
        if self.ending.is_none() {
            if let Poll::Ready(note) = self.inbox.poll_recv(context) {
                return Poll::Ready(Happened::Note(note));
            }
        }
        for (index, line) in self.lines.iter_mut().enumerate() {
            if let Poll::Ready(event) = line.connection.poll_event(context) {
                return Poll::Ready(Happened::Line(index, event));
            }
        }
        if let Poll::Ready(event) = self.redis.poll_event(context) {
            return Poll::Ready(Happened::Redis(event));
        }
        if self.soon.as_mut().is_some_and(|soon| soon.as_mut().poll(context).is_ready()) {
            self.soon = None;
            return Poll::Ready(Happened::Soon);
        }
        if let Some(result) = done(&mut self.mending, context) {
            return Poll::Ready(Happened::Mended(result));
        }
        if let Some(result) = done(&mut self.beginning, context) {
            return Poll::Ready(Happened::Begun(result));
        }
        if let Some(result) = done(&mut self.restarting, context) {
            return Poll::Ready(Happened::Restart(result));
        }
        if let Some(result) = done(self.defence.job(), context) {
            return Poll::Ready(Happened::Defended(result));
        }
        if let Some(result) = done(self.standing.job(), context) {
            return Poll::Ready(Happened::Stood(result));
        }
        if let Some(dead) = done(&mut self.asking, context) {
            return Poll::Ready(Happened::Dead(dead));
        }
        self.roles.poll(context);
        self.veto.poll(context);
        self.mend.poll(context);
        self.hand.poll(context);
        Poll::Pending
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::Look => self.begin_round_now(),
            Note::Event(event) => self.event(event.0, &event.1),
            Note::Cluster(cib) => {
                let before = self.own();
                self.common.history.roles(&self.params.master, &self.params.attribute, &cib);
                self.cib = Some(cib);
                self.know_role();
                self.keep_roles();
                if self.permits.differs(before, self.own()) {
                    self.tended = None;
                    self.begin_round_now();
                }
            }
            Note::Guard(guard) => {
                (self.permits, self.permit_at) = (guard.permits(), None);
                (self.params, self.ro_until) = (guard.params, None);
                self.wanted = basis(&self.params);
                if self.standing.on.is_none() {
                    self.work_by();
                }
                self.begin_round_now();
            }
            Note::Outdated => {
                self.outdated = true;
                self.begin_round_now();
            }
            Note::Report(reply) => {
                // Who asked may have gone.
                let _gone = reply.send(self.report());
            }
        }
    }

    fn event(&mut self, sentinel: SocketAddr, event: &SentinelEvent) {
        // Another master name's Sentinel may monitor this one, too.
        if event.master != self.params.master || !self.record.has_sentinel_at(sentinel) {
            return;
        }
        let (me, now) = (self.node.address, Instant::now());
        let run = self.local_server().map(|local| local.run_id.to_owned());
        if let Some(taken_back) = self.chosen.heard(sentinel, &event.says, me, run.as_deref(), now) {
            self.defence.begin(me, &self.common.settings.redis, taken_back);
        } else if !self.chosen.stands() {
            self.defence.end();
        }
        // What is acknowledged from here on is lost.
        if let Some(why) = self.another.heard(sentinel, &event.says, me, now) {
            if self.lease.is_some() || self.round.armed.is_some() {
                self.close(&why);
            }
            self.judge_force(None);
        }
        self.begin_round_now();
    }

    // --- Rounds.

    /// A round now, or as soon as it may be: one that runs would lose its answers.
    fn begin_round_now(&mut self) {
        let Some(began) = self.round.began else { return };
        let wait = if self.round.armed.is_some() { self.arm_lasts() } else { NOT_SOONER };
        if began.elapsed() >= wait {
            self.begin_round();
        } else if self.round.armed.is_some() {
            self.again = true;
        } else {
            self.tick.reset_at((began + NOT_SOONER).into());
        }
    }

    /// A: for how long answers to a round's question can come in time.
    fn arm_lasts(&self) -> Duration {
        Duration::from_micros(self.measure.terms.arm)
    }

    fn begin_round(&mut self) {
        let now = Instant::now();
        // One that comes just when a line settles is waited for.
        let settled = |line: &Line| line.known.counts(self.moment(now), &self.measure.terms);
        let early = match self.lines.iter().filter(|line| line.connection.is_up()).all(settled) {
            true => early(now.saturating_duration_since(self.common.epoch)),
            false => Duration::ZERO,
        };
        self.tick.reset_after(EVERY - early);
        // Permission, and what is done by hand, are read behind the look at the firewall and the making of a right to arm: who takes permission away
        // closes behind that, and who opens by hand writes it down before.
        let was_open = self.hand.is_open();
        let held = self.look();
        let changes = self.common.changes.count();
        if self.hand.look(changes) {
            self.tended = None;
        }
        self.know_role();
        match self.read_permit(changes) {
            Ok(()) => {}
            Err(error) => {
                (self.unreadable, self.permit_at) = (true, None);
                (self.granted, self.not_granted) = (None, "it cannot be told what Pacemaker permits".into());
                self.broken.firewall = Some(with_causes(&error));
            }
        }
        self.common.history.permission(&self.params.master, self.granted);
        self.judge_firewall(held);
        // What was forced open since that look was not open in it.
        self.judge_force(held.filter(|_| was_open));
        self.keep_record(held);
        self.keep_ro(now);
        for line in &mut self.lines {
            if line.connection.waiting_for(now).is_some_and(|waited| waited > PATIENCE) {
                line.connection.give_up();
            }
        }
        // A Redis that never answers, on a connection that was lost without a word. That is not a no.
        if self.redis.waiting_for(now).is_some_and(|waited| waited > REDIS_PATIENCE) {
            self.redis.give_up();
        }
        self.again = false;
        self.round.number += 1;
        self.round.began = Some(now);
        self.about = self.verdict().about(&self.common.me);
        // What opened nothing is followed by `closed`: two that ask at once would hold each other up.
        let in_vain = self.round.armed.take().is_some() && self.lease.is_none();
        let may = match in_vain {
            true => Err("the last question came to nothing".to_owned()),
            false => self.may_ask(now),
        };
        if let Err(why) = &may {
            self.why.clone_from(why);
            if !in_vain && self.lease.is_none() && self.granted == Some(Granted::Promoted) {
                self.common.history.waits(&self.params.master, why);
            }
        }
        self.round.armed = match may {
            Ok(()) => self.arm(),
            Err(_) => {
                // Nothing was armed since it was looked.
                if held.is_none_or(|held| held.armed) {
                    self.disarm();
                }
                None
            }
        };
        self.ask();
        self.keep_roles();
        self.answer_veto(now);
        self.hand.watch();
        if let Some(node) = self.cib.as_ref().and_then(|cib| cib.node(&self.common.me)) {
            self.hand.show(node);
        }
    }

    /// What Pacemaker permits now. Files that have not changed, by that count, are not read again.
    fn read_permit(&mut self, changes: u64) -> Result<(), StoreError> {
        let at = (changes, self.own());
        if self.permit_at != Some(at) {
            let Permit { granted, why } = self.permits.read(self.params.ports, at.1)?;
            (self.granted, self.not_granted, self.unreadable, self.permit_at) = (granted, why, false, Some(at));
        }
        Ok(())
    }

    /// One reading of open element and arms. Begins the right to arm where there is none.
    fn look(&mut self) -> Option<Held> {
        let held = match self.leasing.as_mut().map(Leasing::look) {
            None => None,
            Some(Ok(held)) => {
                self.broken.firewall = None;
                Some(held)
            }
            Some(Err(error)) => {
                self.say_broken(&error);
                None
            }
        };
        let withdrawn = held.is_some_and(|held| held.withdrawn);
        if withdrawn {
            self.withdrawn();
        }
        // What is open is closed first.
        let closes = self.closing.is_some() || withdrawn && self.lease.is_some();
        if self.leasing.is_none() && self.beginning.is_none() && !closes {
            let gate = self.gate.clone();
            self.beginning = Some(spawn_blocking(move || gate.leasing()));
        }
        held
    }

    /// The right to arm is gone, and maybe more of what this gate has in the firewall.
    fn withdrawn(&mut self) {
        self.shut = self.leasing.take();
        self.tended = None;
    }

    fn begun(&mut self, result: Result<Leasing, GateError>) {
        match result {
            Ok(leasing) => {
                (self.leasing, self.shut) = (Some(leasing.within(AT_ONCE)), None);
                self.begin_round_now();
            }
            Err(error) => self.say_broken(&error),
        }
    }

    fn judge_firewall(&mut self, held: Option<Held>) {
        let Some(held) = held else { return };
        if std::mem::take(&mut self.first_look)
            && held.open.is_some_and(|open| micros(open) > self.measure.terms.length)
        {
            // Longer than a lease of ours can be: somebody opened it by hand when ours was over.
            self.lease = None;
        }
        if self.standing.on.is_none() && self.lease.is_some() {
            return self.close("this node stands on no record");
        }
        match (&self.lease, held.open) {
            (Some(_), None) if held.withdrawn => self.close("it was closed from outside"),
            (Some(_), None) => {
                let last = match &self.about {
                    About::Named => "answers came too late".to_owned(),
                    About::Other(node) => format!("Sentinels name {node}"),
                    About::Refused(why) | About::Unknown(why) => why.clone(),
                };
                self.close(&format!("the lease has run out: {last}"));
            }
            (Some(_), Some(_)) if self.granted != Some(Granted::Promoted) => {
                let why = self.not_granted.clone();
                self.close(&why);
            }
            (None, Some(_)) if self.hand.force().is_some() => {}
            (None, Some(_)) => self.close("the port was open without a lease"),
            _ => {}
        }
    }

    /// Whether what is forced open by hand may stay so.
    fn judge_force(&mut self, held: Option<Held>) {
        if self.hand.force().is_none() {
            return;
        }
        if self.lease.is_some() {
            // It has taken over, once nothing is open for longer any more.
            if held.is_some_and(|held| held.open.is_none_or(|open| micros(open) <= self.measure.terms.length)) {
                self.hand.end();
            }
            return;
        }
        let other = match &self.about {
            About::Other(node) => Some(node.as_str()),
            _ => None,
        };
        let replica_of = match &self.local {
            Local::Says(_, instance) => match &instance.role {
                ServerRole::Replica { of, .. } => Some(of.as_str()),
                _ => None,
            },
            _ => None,
        };
        let promoting = self.another.objects(Instant::now());
        let promoting = promoting.as_deref();
        let open = held.map(|held| held.open.is_some());
        let fenced = self.own().fenced;
        let around = Around { open, fenced, other, promoting, replica_of, open_elsewhere: None };
        if let Some(why) = self.hand.over(around) {
            self.hand.end();
            let rw = self.params.ports.rw;
            decided!(warn, self.subject, why, "{}: {rw} is forced open by hand no more: {why}", self.params.master);
            self.close(&why);
        }
    }

    /// How long what opens now, or is forced open, lasts at most.
    fn lasts(&self) -> Span {
        self.measure.terms.length.max(micros(self.hand.lasts()))
    }

    /// Whether a lease may be asked for in this round, or why not.
    fn may_ask(&mut self, now: Instant) -> Result<(), String> {
        if self.granted != Some(Granted::Promoted) {
            return Err(self.not_granted.clone().into_owned());
        }
        if self.standing.on.is_none() {
            let why = self.standing.why.clone().unwrap_or_else(|| "the cluster is being asked".to_owned());
            return Err(format!("this node has not begun to stand on the record: {why}"));
        }
        if let Some(why) = self.another.objects(now) {
            return Err(why);
        }
        if self.closing.is_some() {
            return Err(format!("closing ({})", self.why.trim_start_matches("closing (").trim_end_matches(')')));
        }
        if self.leasing.is_none() {
            return Err(self.broken.firewall.clone().unwrap_or_else(|| "the firewall is being prepared".to_owned()));
        }
        match &self.about {
            About::Other(node) => return Err(format!("Sentinels name {node}")),
            About::Refused(why) => return Err(why.clone()),
            About::Unknown(what) if self.lease.is_none() => return Err(what.clone()),
            About::Unknown(_) | About::Named => {}
        }
        if let Some(why) = self.local_objects().or_else(|| self.cut_off()) {
            return Err(why);
        }
        if self.lease.is_some() {
            return Ok(());
        }
        match &self.local {
            Local::Says(at, _) if at.elapsed() < FRESH => {}
            Local::Says(..) => return Err("Redis on this node does not answer".to_owned()),
            Local::Unknown(error) => return Err(format!("Redis on this node: {error}")),
            Local::Refused => {}
        }
        // Others must not see a mark that changes as long as nothing can come of it.
        let evidence: Vec<_> =
            self.lines.iter().filter_map(|line| Some(line.known.answered()?.evidence.clone())).collect();
        if lease::acquires(&evidence, self.lines.len(), &self.measure.others) {
            return Ok(());
        }
        self.ask_who_is_off(now);
        Err(self.who_is_waited_for(&evidence))
    }

    /// Asks the cluster whether those for whom an acquisition waits are off: what STONITH has done is not on this node's disk.
    fn ask_who_is_off(&mut self, now: Instant) {
        if self.asking.is_some() || self.asked.is_some_and(|at| now - at < ASK_WHO_IS_OFF) {
            return;
        }
        self.asked = Some(now);
        let master = self.params.master.clone();
        self.asking = Some(spawn_blocking(move || {
            // Whoever is not told waits as long as a lease can last.
            let (_, cib) = CLUSTER.ask(Instant::now(), ASK_WHO_IS_OFF / 2, || pacemaker::read_cib().ok().map(Arc::new));
            cib.map_or_else(BTreeMap::new, |cib| dead_boots(&cib, &master))
        }));
    }

    /// What speaks against a lease in what Redis on this node says. Silence does not.
    fn local_objects(&self) -> Option<String> {
        match &self.local {
            Local::Refused => Some("Redis on this node refuses connections".to_owned()),
            Local::Says(_, instance) => match &instance.role {
                ServerRole::Replica { of, .. } => Some(format!("Redis on this node is a replica of {of}")),
                ServerRole::Primary { .. } if instance.loading => {
                    Some("Redis on this node is loading its data".to_owned())
                }
                ServerRole::Primary { .. } => {
                    let last = self.lease.as_ref().or(self.last.as_ref());
                    let restarted = last.is_some_and(|last| last.run_id != instance.run_id);
                    restarted.then(|| "Redis on this node has restarted".to_owned()).or_else(|| self.mend.objects())
                }
                ServerRole::Unknown => Some("Redis on this node gives no role".to_owned()),
            },
            Local::Unknown(_) => None,
        }
    }

    /// Why what would be written here now is written in vain.
    fn cut_off(&mut self) -> Option<String> {
        let Local::Says(_, instance) = &self.local else { return None };
        let now = Instant::now();
        let heard = self.lines.iter().filter(|line| line.is_prompt(now));
        let heard: Vec<Heard> = heard.filter_map(|line| Some(line.heard.as_ref()?.1.clone())).collect();
        let unreached = sentinel::unreached_for(&self.record, &heard, self.node.address);
        let down_after = heard.iter().filter_map(|heard| Some(heard.answer.as_ref().ok()?.master.as_ref()?.down_after));
        let down_after = down_after.min().unwrap_or_default();
        self.cut.off(now, instance, unreached, down_after)
    }

    fn who_is_waited_for(&self, evidence: &[Evidence<String>]) -> String {
        let naming = evidence.iter().filter(|one| one.counts && one.names_me);
        let mut waited: BTreeSet<&str> = BTreeSet::new();
        let mut count = 0;
        for one in naming {
            count += 1;
            waited.extend(self.measure.others.iter().filter(|node| !one.free.contains(*node)).map(String::as_str));
        }
        let needed = self.record.majority();
        if count < needed {
            return format!(
                "{count} of {} Sentinels name this node on a settled line, {needed} are needed",
                self.lines.len()
            );
        }
        let nodes = waited.into_iter().collect::<Vec<_>>().join(", ");
        format!("waiting until a lease of {nodes} must have run out")
    }

    fn arm(&mut self) -> Option<Armed> {
        let leasing = self.leasing.as_mut()?;
        match leasing
            .arm(Duration::from_micros(self.measure.terms.length), Duration::from_micros(self.measure.terms.arm))
        {
            Ok(armed) => Some(armed),
            Err(GateError::Withdrawn) => {
                self.withdrawn();
                None
            }
            Err(error) => {
                self.say_broken(&error);
                None
            }
        }
    }

    fn disarm(&mut self) {
        if let Some(Err(error)) = self.leasing.as_mut().map(Leasing::disarm) {
            if !matches!(error, GateError::Withdrawn) {
                self.say_broken(&error);
            }
        }
    }

    /// What this round's marked question has been answered so far.
    fn proofs(&self) -> Vec<Evidence<String>> {
        let proof = |line: &Line| {
            let (proof, (_, heard)) = (line.known.answered()?.proof(self.round.number)?, line.heard.as_ref()?);
            // Redis may have said since which run it is.
            Some(Evidence { names_me: proof.names_me && self.names_me(heard), ..proof.clone() })
        };
        self.lines.iter().filter_map(proof).collect()
    }

    /// Whether this answer counts for this node.
    fn names_me(&self, heard: &Heard) -> bool {
        let verdict = Verdict::of(&self.record, [heard], self.local_server());
        verdict.counting.iter().any(|node| node.eq_ignore_ascii_case(&self.common.me))
    }

    /// Sends this round's question to every line that owes no answer.
    fn ask(&mut self) {
        let lasts = self.lasts();
        let held = self.round.armed.is_some().then(|| self.held(lasts));
        // Read again: a mark of `closed` speaks of this moment.
        // Without the right to arm a mark stays as it is: what was closed stays closed.
        let now = if held.is_none() { self.mark_now() } else { None };
        // Who may open looks by itself, on the line; others see enough by the looks that all share.
        let looks = self.lease.is_none() && self.granted == Some(Granted::Promoted);
        let mut question = vec![
            vec!["SENTINEL", "GET-MASTER-ADDR-BY-NAME", &self.params.master],
            vec!["SENTINEL", "MASTER", &self.params.master],
            vec!["SENTINEL", "MYID"],
        ];
        question.extend(looks.then(|| looks::QUESTION.to_vec()));
        for line in &mut self.lines {
            if !line.connection.is_up() || line.connection.waiting_for(Instant::now()).is_some() {
                line.known.forget_answer();
                continue;
            }
            let mark = match held {
                Some(held) => Some(held),
                None => now.filter(|now| line.known.says_less_than(*now)),
            };
            let name = mark.map(|mark| mark::text(&self.params.master, &self.common.me, &mark));
            let set = name.as_ref().map(|name| vec!["CLIENT", "SETNAME", name.as_str()]);
            let commands: Vec<&[&str]> = set.iter().chain(&question).map(Vec::as_slice).collect();
            let asked = Asked::Question { round: self.round.number, marked: mark.is_some(), looks };
            if looks {
                line.connection.limit(wire::LONGEST_REPLY);
            }
            line.connection.ask(asked, &commands);
            mark.into_iter().for_each(|mark| line.known.sends(mark));
        }
        self.ask_redis();
    }

    fn ask_redis(&mut self) {
        if self.redis.is_up() && self.redis.waiting_for(Instant::now()).is_none() {
            self.redis.ask((), &local_question());
        }
    }

    // --- The record.

    /// Goes on to the record that the CIB has, when it may. `held` is what the firewall has.
    fn keep_record(&mut self, held: Option<Held>) {
        // What an operator has forced open, or is about to, is not closed.
        let busy = self.closing.is_some() || self.round.armed.is_some() || self.hand.force().is_some();
        let closed = self.lease.is_none() && !busy;
        let seen_closed = closed && held.is_some_and(|held| held.open.is_none());
        if seen_closed {
            self.standing.unsettled = false;
        }
        let Some(cib) = self.cib.clone() else { return };
        let me = self.common.me.clone();
        let view = View {
            me: &me,
            cib: &cib,
            wanted: self.wanted.as_ref(),
            idle: seen_closed && !self.unreadable && !self.granted.is_some_and(may_read) && self.is_disabled(&cib),
            urgent: self.granted == Some(Granted::Promoted),
        };
        let all = self.standing.last.is_some() && self.standing.all_have_shown(&view);
        if all {
            self.standing.forget_last();
        }
        if self.wanted.is_none() && view.idle {
            self.standing.let_go();
        }
        // Who stands on nothing says so when nothing is open.
        if self.standing.on.is_some() || seen_closed {
            self.standing.keep(&view);
        }
        let placed = self.wanted.as_ref().is_some_and(|wanted| wanted.record.node(&me).is_some());
        // One that the record has not has nothing more to do here.
        self.outdated |= self.standing.on.is_none() && !placed && closed && self.standing.job().is_none();
        if all {
            self.take_measure();
        }
    }

    /// Whether the gate is to stay closed until an operator says otherwise. Without that it may be about to be restarted, and nobody
    /// has said that anything else is right.
    fn is_disabled(&self, cib: &Cib) -> bool {
        let resource = cib.gates.iter().chain(&cib.blocks).find(|resource| resource.id == self.gate_id);
        self.own().fenced || resource.is_some_and(Resource::is_disabled)
    }

    fn stood(&mut self, result: Result<Outcome, String>) {
        match self.standing.done(result) {
            Do::Nothing => {}
            Do::Follow => {
                self.work_by();
                self.begin_round_now();
            }
            Do::Close(why) => {
                self.close(&why);
                self.standing.let_go();
                self.work_by();
            }
        }
    }

    /// By what this node stands on from here on, or is to stand on. The lines to Sentinels that stay are kept, and what was asked on them is
    /// not: evidence of one record is not judged under another.
    fn work_by(&mut self) {
        self.disarm();
        self.round.armed = None;
        let Some(Basis { record, .. }) = self.standing.on.clone().or_else(|| self.wanted.clone()) else { return };
        let Some(node) = record.node(&self.common.me).cloned() else { return };
        let mut old: Vec<(SentinelEntry, Line)> =
            self.record.sentinels().iter().cloned().zip(std::mem::take(&mut self.lines)).collect();
        let place = handover::Place { gate: &self.gate_id, master: &self.params.master, node: &node.name };
        for sentinel in record.sentinels() {
            let same = |(entry, _): &(SentinelEntry, Line)| {
                entry.id == sentinel.id && canonical(entry.address) == canonical(sentinel.address)
            };
            self.lines.push(match old.iter().position(same) {
                Some(at) => {
                    let mut line = old.swap_remove(at).1;
                    line.known.forget_answer();
                    line
                }
                None => Line::to(sentinel, place, &self.common),
            });
        }
        if canonical(node.address) != canonical(self.node.address) {
            let credentials = self.common.settings.redis.clone();
            (self.redis, self.local) =
                (Connection::new(node.address, credentials.clone()), Local::Unknown(AskError::Silent));
            self.mend = mend::Keeper::new(self.subject.clone(), &self.params.master, node.address, credentials);
        }
        self.veto.is_about(site(&self.common, &self.subject, &self.gate_id, &self.params, (&record, &node)));
        self.hand.is_about(writers(&self.params, &record, &node));
        if record.nodes() != self.record.nodes() {
            self.common.history.begin(&self.params.master, &self.common.me, &record);
        }
        (self.record, self.node) = (record, node);
        self.take_measure();
    }

    /// How long leases are, and who the others are, by what this node stands on.
    fn take_measure(&mut self) {
        let lease = self.standing.on.as_ref().or(self.wanted.as_ref()).map_or(self.params.lease, |basis| basis.lease);
        let lengths = Lengths::of(micros(lease), self.standing.last.as_ref().map(|last| micros(last.lease)));
        let before = self.standing.last.iter().flat_map(|last| last.record.nodes());
        let others: BTreeSet<String> = self
            .record
            .nodes()
            .iter()
            .chain(before)
            .filter(|other| !other.name.eq_ignore_ascii_case(&self.common.me))
            .map(|other| other.name.clone())
            .collect();
        if others.iter().any(|other| !self.measure.others.contains(other)) {
            // Of a node that is new nobody has looked at its lines.
            self.lines.iter_mut().for_each(|line| line.known.forget_looks());
        }
        self.measure = Measure::of(lengths, lengths.own / 5, micros(SETTLE), others.into_iter().collect());
    }

    // --- What comes back.

    fn line(&mut self, index: usize, event: Event<Asked>) {
        match event {
            Event::Up | Event::TakenOver => {
                let own = if matches!(event, Event::TakenOver) { OwnLine::taken_over() } else { OwnLine::new() };
                let mark = self.mark_now().unwrap_or_else(|| self.held(self.measure.longest.max(self.lasts())));
                let name = mark::text(&self.params.master, &self.common.me, &mark);
                let line = &mut self.lines[index];
                line.known = lease::Line::connected(own, mark);
                line.looked = Instant::now();
                line.prompt = None;
                line.connection.ask(Asked::Mark, &[&["CLIENT", "SETNAME", &name][..]]);
            }
            Event::Down(error) => {
                let sentinel = self.record.sentinels()[index].clone();
                let line = &mut self.lines[index];
                line.known = lease::Line::default();
                (line.prompt, line.kept) = (None, None);
                line.heard = Some((Instant::now(), Heard { sentinel, answer: Err(error) }));
            }
            Event::Answer(answer) => match answer.tag {
                Asked::Mark => self.marked(index, &answer),
                Asked::Question { round, marked, looks } => self.answered(index, round, (marked, looks), &answer),
            },
        }
    }

    /// What is true of the firewall at this moment; None where that cannot be told.
    fn mark_now(&mut self) -> Option<Mark> {
        // What was shut holds no right, and sees as much.
        let held = self.leasing.as_mut().or(self.shut.as_mut())?.look().ok()?;
        let nothing = held.is_nothing() && self.round.armed.is_none() && self.hand.force().is_none();
        // What somebody opened by hand lasts as long as it lasts; and it is marked so before it is open.
        let open = held.open.map_or(0, micros).min(micros(gate::LONGEST));
        Some(Mark::of((!nothing).then_some(open), self.lasts(), self.standing.boot(), fresh()))
    }

    /// A mark of this boot that no other one was.
    fn held(&self, length: Span) -> Mark {
        Mark::held(length, self.standing.boot(), fresh())
    }

    fn marked(&mut self, index: usize, answer: &Answer<Asked>) {
        let received = self.moment(answer.received);
        let Ok(replies) = answer.replies() else { return self.lines[index].connection.give_up() };
        match replies.first() {
            Some(reply) if reply.is_ok() => {
                self.lines[index].known.acknowledged(received);
                // A round shall come the moment that questions count: a keeper that was restarted has no time to lose.
                let count = |counts: &dyn Fn(&Line) -> bool| self.lines.iter().filter(|line| counts(line)).count();
                let (now, needed) = (self.moment(Instant::now()), self.record.majority());
                if self.lease.is_some() && count(&|line| line.known.is_marked()) >= needed {
                    match count(&|line| line.known.counts(now, &self.measure.terms)) >= needed {
                        true => self.begin_round_now(),
                        false => self.tick.reset_at((answer.received + PHASE).into()),
                    }
                }
            }
            Some(other) => self.refused_mark(index, other),
            None => {}
        }
    }

    fn refused_mark(&mut self, index: usize, reply: &Reply) {
        let at = self.record.sentinels()[index].address;
        let why = format!("Sentinel {at} does not let us set a client name: {}", server::shown(&reply.to_value()));
        if self.broken.sentinel.as_ref() != Some(&why) {
            decided!(warn, self.subject, why, "{why}");
        }
        self.broken.sentinel = Some(why);
        // Its mark is not what was sent.
        self.lines[index].connection.give_up();
    }

    fn answered(&mut self, index: usize, round: u64, (marked, looks): (bool, bool), answer: &Answer<Asked>) {
        let (sent, received) = (self.moment(answer.sent), self.moment(answer.received));
        let Ok(mut replies) = answer.replies() else { return self.lines[index].connection.give_up() };
        let set = marked.then(|| replies.remove(0));
        if let Some(refusal) = set.filter(|reply| !reply.is_ok()) {
            return self.refused_mark(index, &refusal);
        }
        let list = looks.then(|| replies.pop()).flatten();
        let sentinel = self.record.sentinels()[index].clone();
        self.take_looks(index, answer.sent);
        let own_look = list.is_some_and(|list| {
            let shown = looks::read(sentinel.address, &list);
            self.looked(index, &Look { sent: answer.sent, received: answer.received, shown })
        });
        let heard = Heard { sentinel, answer: sentinel::read_answer(replies).map(Arc::new) };
        let names_me = self.names_me(&heard);
        let dead = |node: &String| self.dead.get(&node.to_ascii_lowercase()).copied();
        let line = &mut self.lines[index];
        let at_once = answer.received.saturating_duration_since(answer.sent) < cut::AT_ONCE;
        line.prompt = at_once.then(|| line.prompt.unwrap_or(answer.received));
        let marked_for = marked.then_some(round);
        let said = lease::Answer { sentinel: index, sent, received, marked_for, own_look, names_me };
        let counts = line.known.answer(&said, &self.measure, dead).evidence.counts;
        if let (true, None, Some(socket)) = (counts, &line.kept, line.connection.socket()) {
            let place = handover::Place { gate: &self.gate_id, master: &self.params.master, node: &self.node.name };
            line.kept = self.common.kept.keep(place, heard.sentinel.address, socket);
        }
        line.heard = Some((answer.received, heard));
        let answers = self.lines.iter().filter_map(|line| line.heard.as_ref()?.1.answer.as_deref().ok());
        self.subject.heard(sentinel::highest_epoch(answers));
        self.hear(round, marked);
    }

    /// The looks at this line's Sentinel since the last time that were sent before a question.
    fn take_looks(&mut self, index: usize, before: Instant) {
        for look in self.lines[index].looks.between(self.lines[index].looked, before) {
            self.lines[index].looked = look.sent;
            self.looked(index, &look);
        }
    }

    /// Whether it tells anything.
    fn looked(&mut self, index: usize, look: &Look) -> bool {
        let (sent, received) = (self.moment(look.sent), self.moment(look.received));
        let known = &mut self.lines[index].known;
        match &look.shown {
            Ok(marks) => {
                let seen = marks.of(&self.params.master, &self.measure.others);
                self.common.history.marks(&self.params.master, index, &seen);
                known.look(sent, received, &seen, &self.measure.terms)
            }
            Err(why) => {
                known.forget_looks();
                self.broken.sentinel = Some(why.clone());
                false
            }
        }
    }

    fn redis(&mut self, event: Event<()>) {
        self.local = match event {
            Event::Up | Event::TakenOver => {
                self.redis.ask((), &local_question());
                return;
            }
            Event::Down(AskError::Refused) => Local::Refused,
            // Lost connections are nothing: it is being remade, and what that gives is told next.
            Event::Down(error) => Local::Unknown(error),
            Event::Answer(answer) => {
                let Ok(mut said) = answer.replies() else { return self.redis.give_up() };
                let settings = said.split_off(instance::QUESTION.len().min(said.len()));
                let objected = self.mend.objects().is_some();
                let failing_over = objected && self.is_in_failover();
                self.mend.keep(answer.received, &settings, failing_over);
                self.soon = self.mend.is_under_way().then(|| Box::pin(sleep(mend::SOON)));
                if objected && self.mend.objects().is_none() {
                    // It went back: no time is to be lost.
                    self.begin_round_now();
                }
                match instance::read(said) {
                    Ok(instance) => {
                        self.cut.answered(answer.sent, answer.received, &instance);
                        Local::Says(answer.received, Box::new(instance))
                    }
                    Err(error) => Local::Unknown(error),
                }
            }
        };
        self.close_if(|this| this.local_objects().or_else(|| this.cut_off()));
        if self.soon.is_none() && self.cut.is_looked_at_closely() {
            self.soon = Some(Box::pin(sleep(cut::CLOSELY)));
        }
        self.judge_force(None);
        self.follow_history();
        self.watch_for_restart();
        self.conclude();
    }

    /// Closes what is open where something speaks against it.
    fn close_if(&mut self, objection: impl FnOnce(&mut Self) -> Option<String>) {
        if self.lease.is_some() {
            if let Some(why) = objection(self) {
                self.close(&why);
            }
        }
    }

    /// The history of writes gets another id when all replicas were gone for long.
    fn follow_history(&mut self) {
        let (Local::Says(_, instance), Some(lease)) = (&self.local, &self.lease) else { return };
        if instance.replication_id != lease.replication_id {
            let lease = Run { replication_id: instance.replication_id.clone(), ..lease.clone() };
            (self.lease, self.last) = (Some(lease.clone()), Some(lease));
            self.remember();
        }
    }

    /// What follows from one more answer.
    fn hear(&mut self, round: u64, marked: bool) {
        let about = self.verdict().about(&self.common.me);
        let before = std::mem::replace(&mut self.about, about);
        if let About::Other(node) = &self.about {
            let why = format!("Sentinels name {node}");
            if self.lease.is_some() || self.round.armed.is_some() {
                self.close(&why);
            }
            if self.last.take().is_some() {
                self.remember();
            }
            self.judge_force(None);
        }
        self.close_if(Group::cut_off);
        if before != self.about {
            debug!(GATE = %self.gate_id, "{:?}", self.about);
            self.keep_roles();
        }
        if round == self.round.number && marked {
            self.conclude();
        } else if self.round.armed.is_none() && self.granted == Some(Granted::Promoted) && self.lease.is_none() {
            // Waiting: the moment it can be had, it is asked for. Not where the firewall has just refused an arm.
            if self.broken.firewall.is_none() && self.may_ask(Instant::now()).is_ok() {
                self.begin_round_now();
            }
        }
    }

    /// Opens, or opens again, when this round's answers suffice.
    fn conclude(&mut self) {
        if self.round.armed.is_none() || self.local_objects().is_some() {
            return;
        }
        let (sentinels, others) = (self.lines.len(), &self.measure.others);
        let kind = match lease::concludes(&self.proofs(), sentinels, others, self.lease.is_some()) {
            None => return,
            Some(Opening::Renewal) => Swap::Renew,
            // Redis may have changed since the arming.
            Some(Opening::Acquisition) if !matches!(&self.local, Local::Says(at, _) if Some(*at) >= self.round.began) =>
            {
                return;
            }
            // What is forced open goes on by the lease.
            Some(Opening::Acquisition) if self.hand.is_open() => Swap::Renew,
            Some(Opening::Acquisition) => Swap::Acquire,
        };
        let (Some(armed), Some(leasing)) = (self.round.armed.take(), &mut self.leasing) else { return };
        match leasing.swap(armed, kind) {
            Ok(Swapped::Open) if self.lease.is_none() => {
                self.standing.unsettled = false;
                self.acquired();
            }
            Ok(Swapped::Open) => {
                // What was asked for before was given up when the record changed.
                self.standing.unsettled = false;
                if self.opened.is_none() {
                    self.opened = Some(Instant::now());
                    let why = "the lease of the keeper before this one goes on";
                    let (subject, rw) = (self.subject.as_role(Some(Role::Primary)), self.params.ports.rw);
                    decided!(info, subject, why, "{}: {rw} stays open for writing: {why}", self.params.master);
                }
                if self.remembered.is_none_or(|at| at.elapsed() > REMEMBER_EVERY) {
                    self.remember();
                }
            }
            Ok(Swapped::Withdrawn) => self.withdrawn(),
            // The next look at the firewall says what is so.
            Ok(Swapped::Lapsed | Swapped::AlreadyOpen) => {
                debug!(GATE = %self.gate_id, "too late for this round");
            }
            Err(error) => self.say_broken(&error),
        }
        if self.again {
            self.begin_round_now();
        }
    }

    fn acquired(&mut self) {
        let Local::Says(_, instance) = &self.local else { return };
        let (run_id, replication_id) = (instance.run_id.clone(), instance.replication_id.clone());
        let lease = Run { run_id, replication_id, held_at: 0, held_at_uptime: None };
        self.lease = Some(lease.clone());
        self.last = Some(lease);
        (self.last_of_this_boot, self.restarted, self.stuck) = (true, None, restart::Stuck::default());
        self.opened = Some(Instant::now());
        self.hand.end();
        self.why.clear();
        self.remember();
        let (subject, rw) = (self.subject.as_role(Some(Role::Primary)), self.params.ports.rw);
        self.common.history.opened(&self.params.master, &self.common.me, subject.known().epoch.unwrap_or(0));
        let why = "a majority of Sentinels names this node";
        decided!(info, subject, why, "{}: {rw} is open for writing", self.params.master);
    }

    /// What the Sentinels say together.
    fn verdict(&self) -> Verdict {
        Verdict::of(&self.record, self.fresh(), self.local_server())
    }

    /// What each Sentinel says now: what one said too long ago is no answer.
    fn fresh(&self) -> impl Iterator<Item = Said<'_>> {
        self.lines.iter().zip(self.record.sentinels()).map(|(line, sentinel)| match &line.heard {
            Some((at, heard)) if at.elapsed() < FRESH => Said::from(heard),
            _ => Said { sentinel, answer: Err(&AskError::Silent) },
        })
    }

    /// The same, to be kept.
    fn fresh_answers(&self) -> Vec<Heard> {
        self.lines
            .iter()
            .zip(self.record.sentinels())
            .map(|(line, sentinel)| match &line.heard {
                Some((at, heard)) if at.elapsed() < FRESH => heard.clone(),
                _ => Heard { sentinel: sentinel.clone(), answer: Err(AskError::Silent) },
            })
            .collect()
    }

    fn local_server(&self) -> Option<LocalServer<'_>> {
        match &self.local {
            Local::Says(_, instance) => Some(LocalServer { node: &self.common.me, run_id: &instance.run_id }),
            _ => None,
        }
    }

    // --- Closing.

    /// Closes for writing, and marks it so when it is done.
    fn close(&mut self, why: &str) {
        if self.closing.is_none() {
            // In the kernel at once; connections are cut, and all is seen to, beside the lease.
            if let Some(mut leasing) = self.leasing.take() {
                if let Err(error) = leasing.shut() {
                    self.say_broken(&error);
                }
                self.shut = Some(leasing);
                self.tick.reset_immediately();
            }
            let gate = self.gate.clone();
            self.closing = Some(spawn_blocking(move || gate.set(Desired { ro: Want::Keep, rw: Want::Close })));
        }
        self.round.armed = None;
        self.why = why.to_owned();
        if let Some(lease) = self.lease.take() {
            self.common.history.closed(&self.params.master, &self.common.me, why);
            let for_ms = self.opened.take().map_or(0, |at| at.elapsed().as_millis() as u64);
            decided!(
                info,
                self.subject,
                why,
                run_id = lease.run_id.as_str(),
                for_ms = for_ms,
                "{}: {} is closed for writing: {why}",
                self.params.master,
                self.params.ports.rw
            );
            self.remember();
        }
    }

    fn closed(&mut self, result: Result<State, GateError>) {
        if let Err(error) = result {
            self.say_broken(&error);
        }
        // Its right to arm anew, by which the mark can say `closed`.
        self.look();
    }

    fn say_broken(&mut self, error: &GateError) {
        let what = with_causes(error);
        if self.broken.firewall.as_ref() != Some(&what) {
            decided!(warn, self.subject, what, "{what}");
        }
        self.broken.firewall = Some(what);
    }

    /// The read-only port's time, and a firewall that somebody flushed.
    fn keep_ro(&mut self, now: Instant) {
        // A gate's agent closes it otherwise.
        let fenced = self.own().fenced;
        if !fenced && !self.granted.is_some_and(may_read) || self.mending.is_some() || self.closing.is_some() {
            return;
        }
        if self.tended.is_some_and(|at| now - at < TEND_EVERY) {
            return;
        }
        self.tended = Some(now);
        if !fenced && self.extends_ro(now) {
            self.broken.read_only = None;
            return;
        }
        let (gate, open_for) = (self.gate.clone(), self.params.open_for);
        let (permits, ports, own) = (self.permits.clone(), self.params.ports, self.own());
        let local = LocalFence::default();
        let (master, subject) = (self.params.master.clone(), self.subject.clone());
        let permitted_by = match &self.permits {
            Permits::Gate(_) => "the gate runs here",
            Permits::Blocks(_) => "this node's role allows it",
        };
        self.mending = Some(spawn_blocking(move || {
            let lasts = |state: &State| match state.ro {
                PortState::Open { remaining } => remaining,
                PortState::Closed => Duration::ZERO,
            };
            let tell = |before: &State, after: &State, why: &str| {
                let Some(what) = turned(before.ro, after.ro) else { return };
                decided!(info, subject, why, "{master}: {} is {what} for reading: {why}", ports.ro);
            };
            let is_right = |state: &State| match fenced {
                true => lasts(state).is_zero(),
                false => state.baseline == Baseline::Intact && lasts(state) > open_for * 3 / 4,
            };
            let (_, reading) = READING.ask(Instant::now(), READ_FOR_ALL, || gate.reading());
            if is_right(&gate.state_by(&reading)?) {
                return Ok(());
            }
            let state = gate.state()?;
            if is_right(&state) {
                return Ok(());
            }
            if fenced {
                return gate.set(Desired::CLOSED).map(|after| tell(&state, &after, "an operator has fenced this node"));
            }
            // The agent may be about to take the permission away.
            let permitted = || permits.read(ports, own).is_ok_and(|permit| permit.granted.is_some_and(may_read));
            let allowed = || permitted() && local.at_once().is_none();
            let opened = gate.set_if(Desired { ro: Want::Open(open_for), rw: Want::Keep }, allowed)?;
            if let Some(opened) = &opened {
                let was = match &state.baseline {
                    Baseline::Intact => None,
                    Baseline::Missing => Some("were gone".to_owned()),
                    Baseline::Edited(what) => Some(format!("had been changed ({what})")),
                };
                if let Some(was) = &was {
                    decided!(warn, subject, "firewall", "{master}: the gate's rules {was}; they are put back");
                }
                let why = was.map_or(permitted_by.to_owned(), |was| format!("its rules {was}"));
                tell(&state, opened, &why);
            }
            // The agent waits for a slow firewall only so long, and may have closed in between.
            if !allowed() {
                let closed = gate.set(Desired { ro: Want::Close, rw: Want::Keep })?;
                tell(opened.as_ref().unwrap_or(&state), &closed, "it may not be open any more");
            }
            Ok(())
        }));
    }

    /// Sees to the read-only port's time where nothing else is to be seen to: whether that is so. Nobody's lock is needed for it: what somebody
    /// has closed is not there to be extended.
    fn extends_ro(&mut self, now: Instant) -> bool {
        let open_for = self.params.open_for;
        let Some(leasing) = &mut self.leasing else { return false };
        let fine = match self.ro_until {
            Some(until) if until.saturating_duration_since(now) > open_for * 3 / 4 => leasing.is_untouched(),
            _ => leasing.extend(open_for).inspect(|_| self.ro_until = Some(now + open_for)),
        };
        // What went wrong shows where it is seen to.
        let fine = fine.unwrap_or(false);
        self.ro_until = self.ro_until.filter(|_| fine);
        fine
    }

    // --- A Redis that restarted, and roles.

    /// Where the Redis behind the last lease is gone, though a majority still names this node.
    fn watch_for_restart(&mut self) {
        let Some(last) = &self.last else { return };
        let gone = match &self.local {
            // One that has not started since the machine did says what it has when it has started.
            Local::Refused => self.last_of_this_boot,
            Local::Says(_, instance) => instance.run_id != last.run_id && !instance.loading,
            Local::Unknown(_) => return,
        };
        if !gone {
            (self.restarted, self.stuck) = (None, restart::Stuck::default());
            return;
        }
        let now = Instant::now();
        let (_, due) = *self.restarted.get_or_insert((now, now));
        let heard = self.fresh_answers();
        let mut sentinels = sentinel::free_to_fail_over(&heard, self.node.address);
        // None is free where one is in a failover.
        let beside = match sentinels.is_empty() {
            true => sentinel::in_no_failover(&heard, self.node.address),
            false => Vec::new(),
        };
        sentinels.extend(self.stuck.see(now, beside));
        let verdict = self.verdict();
        let named = verdict.points_at_node.as_deref().is_some_and(|node| node.eq_ignore_ascii_case(&self.common.me));
        if !named || now < due || self.restarting.is_some() || sentinels.is_empty() {
            return;
        }
        if let Some((_, due)) = &mut self.restarted {
            *due = now + restart::PAUSE;
        }
        let others = self.record.nodes().iter().filter(|node| **node != self.node).cloned().collect();
        let case = restart::Case {
            last: last.clone(),
            others,
            sentinels,
            master: self.params.master.clone(),
            settings: self.common.settings.clone(),
        };
        self.restarting = Some(spawn_blocking(move || restart::answer(&case)));
    }

    fn restart_answered(&mut self, outcome: restart::Outcome) {
        let master = &self.params.master;
        let Some((since, due)) = &mut self.restarted else { return };
        let late = since.elapsed() > restart::AT_MOST;
        let why = match outcome {
            restart::Outcome::Asked(sentinel) => {
                decided!(
                    warn,
                    self.subject,
                    "restarted",
                    "{master}: Redis here has restarted or is down while it is named primary; asked Sentinel {sentinel} for a failover"
                );
                self.common.history.asked(master, "its Redis had restarted or was down");
                *due = Instant::now() + restart::FAILOVER_TAKES;
                return;
            }
            restart::Outcome::NobodyElse => "no replica holds the data of its last run".to_owned(),
            restart::Outcome::CouldNotTell if late => "whether a replica holds its data could not be told".to_owned(),
            restart::Outcome::NotAsked(why) if late => format!("no Sentinel began a failover ({why})"),
            restart::Outcome::CouldNotTell => return,
            restart::Outcome::NotAsked(why) => {
                let what = "Redis here has restarted or is down; no failover yet";
                decided!(info, self.subject, why, "{master}: {what}: {why}");
                return;
            }
        };
        if matches!(self.local, Local::Says(..)) {
            let what = "Redis here has restarted, and is let through";
            decided!(warn, self.subject, "restarted", "{master}: {what}: {why}");
            self.last = None;
            self.restarted = None;
            self.remember();
            self.begin_round_now();
        }
    }

    fn defended(&mut self, result: Result<u32, String>) {
        let master = &self.params.master;
        match result {
            // It came before the promotion.
            Ok(0) => {}
            Ok(_) => {
                decided!(
                    warn,
                    self.subject,
                    "taken back",
                    "{master}: a Sentinel promotes this node's Redis, and another made it a replica again (+convert-to-slave); it is promoted again"
                );
                self.begin_round_now();
            }
            Err(why) => {
                decided!(
                    warn,
                    self.subject,
                    why,
                    "{master}: a Sentinel promotes this node's Redis, another made it a replica again (+convert-to-slave), and it is not promoted again: {why}"
                );
            }
        }
    }

    /// Whether a Sentinel is in a failover of the Redis on this node.
    fn is_in_failover(&self) -> bool {
        self.fresh().filter_map(|told| told.answer.ok()?.master.as_ref()).any(|master| {
            let of_this =
                master.place.as_ref().and_then(Place::address).map(canonical) == Some(canonical(self.node.address));
            of_this && master.flags.iter().any(|flag| flag == "failover_in_progress")
        })
    }

    fn keep_roles(&mut self) {
        let Some(cib) = &self.cib else { return };
        let local = match &self.local {
            Local::Says(at, instance) if at.elapsed() < FRESH => Ok((**instance).clone()),
            Local::Says(..) => Err(AskError::Silent),
            Local::Refused => Err(AskError::Refused),
            Local::Unknown(error) => Err(error.clone()),
        };
        let named = match &self.about {
            About::Named => Some(self.common.me.clone()),
            About::Other(node) => Some(node.clone()),
            About::Refused(_) | About::Unknown(_) => None,
        };
        self.roles.keep(named.as_deref(), &local, cib, &self.params);
    }

    /// Where Pacemaker refuses what Sentinels chose, and where Sentinels choose nobody.
    fn answer_veto(&mut self, now: Instant) {
        let Some(cib) = &self.cib else { return };
        let heard = self.fresh_answers();
        let verdict = Verdict::of(&self.record, &heard, self.local_server());
        let named = verdict.points_at_node.as_deref();
        let down = named.and_then(|named| veto::down(&self.record, &heard, named, &self.common.me));
        let may_be_lost = |named: &&str| cib.node(named).is_some_and(|node| !cib.leaves_alone(&self.gate_id, node));
        let lost = named.filter(may_be_lost).and_then(|named| veto::lost(&self.record, &heard, named, &self.common.me));
        let local = match &self.local {
            Local::Says(at, instance) if at.elapsed() < FRESH => Some(&**instance),
            _ => None,
        };
        let turned = named
            .zip(local)
            .map_or_else(Vec::new, |(named, local)| veto::turned(&self.record, &heard, named, &self.common.me, local));
        let Some(me) = cib.node(&self.common.me) else { return };
        let own = self.own();
        let seen = veto::Seen {
            now,
            granted: self.granted,
            role: own.role,
            fenced: own.fenced,
            paused: self.unreadable || cib.leaves_alone(&self.gate_id, me),
            named: self.about == About::Named,
            local,
            free_sentinels: sentinel::free_to_fail_over(&heard, self.node.address),
            down,
            lost,
            turned,
        };
        self.veto.keep(&seen);
    }

    // --- Telling.

    fn remember(&mut self) {
        if self.lease.is_some() {
            if let Some(last) = &mut self.last {
                last.is_held_now();
            }
        }
        self.remembered = Some(Instant::now());
        self.memory.write(self.last.as_ref(), self.lease.is_some());
    }

    fn report(&mut self) -> Report {
        let open = self.lease.is_some();
        let broken = [&self.broken.firewall, &self.broken.sentinel].into_iter().flatten();
        let mut why = if open { String::new() } else { self.why.clone() };
        for broken in broken.filter(|broken| !open && !self.why.contains(broken.as_str())) {
            why.push_str(&format!(" ({broken})"));
        }
        let other = match &self.about {
            About::Other(node) => Some(node.clone()),
            _ => None,
        };
        let (gate, master) = (self.gate_id.clone(), self.params.master.clone());
        let last_failover = self.common.history.last(&master);
        let forced = self.hand.force().map(|force| Forced { text: force.text.clone(), marked: self.all_marked() });
        let (node, known) = (Some(self.common.me.clone()), self.subject.known());
        let role = known.role.map(|role| role.to_string());
        let not_free = self.not_free();
        Report { gate, master, open, why, other, last_failover, forced, not_free, node, role, epoch: known.epoch }
    }

    /// Whether each Sentinel that answers has a mark that lasts as long as what is forced open.
    fn all_marked(&self) -> bool {
        let (now, lasts) = (Instant::now(), micros(self.hand.lasts()));
        let marked = |line: &Line| match line.known.mark() {
            Some(Mark::Held { length, .. }) => {
                line.known.is_marked() && length >= lasts && line.connection.waiting_for(now).is_none()
            }
            _ => false,
        };
        self.lines.iter().filter(|line| line.connection.is_up()).all(marked)
    }

    /// The other nodes that may hold a lease, or take one, as far as the Sentinels that answer show it.
    fn not_free(&self) -> Vec<String> {
        let seen = |line: &&Line| line.connection.is_up() && line.known.answered().is_some();
        let free =
            |node: &String| self.lines.iter().filter(seen).all(|line| line.known.shows_free(node, &self.measure));
        self.measure.others.iter().filter(|node| !free(node)).cloned().collect()
    }

    /// What the cluster's configuration says of this node.
    fn own(&self) -> Own {
        if self.hand.fenced() {
            return Own { role: None, fenced: true };
        }
        let node = self.cib.as_ref().and_then(|cib| cib.node(&self.common.me));
        node.map_or_else(Own::default, |node| Own::of(node, &self.params.attribute))
    }

    fn moment(&self, at: Instant) -> Moment {
        micros(at.saturating_duration_since(self.common.epoch))
    }
}

/// How much sooner than [`EVERY`] a round follows one that began at `now`, a time since the keeper did: those of all master names come to begin
/// together, at multiples of it: a processor that is woken once for all of them has less to do than one that is woken for each.
fn early(now: Duration) -> Duration {
    let late = Duration::from_micros((now.as_micros() % EVERY.as_micros()) as u64);
    late.min(EVERY / 10)
}

/// What the Redis on this node is asked in each round.
fn local_question() -> Vec<&'static [&'static str]> {
    instance::QUESTION.into_iter().chain(switchover::QUESTION).collect()
}

/// What has become of a port, where that is news: a renewal comes all the time.
fn turned(before: PortState, after: PortState) -> Option<&'static str> {
    match (before.is_open(), after.is_open()) {
        (false, true) => Some("open"),
        (true, false) => Some("closed"),
        _ => None,
    }
}

fn may_read(granted: Granted) -> bool {
    granted >= Granted::Started
}

fn micros(time: Duration) -> Span {
    time.as_micros().try_into().unwrap_or(Span::MAX)
}

/// A number for a mark that no other mark had.
fn fresh() -> u32 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(()) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_come_to_begin_together_and_none_much_sooner() {
        for phase in (0..400).step_by(7) {
            let mut now = Duration::from_millis(10_000 + phase);
            for _ in 0..12 {
                let next = EVERY - early(now);
                assert!(next <= EVERY && next >= EVERY * 9 / 10, "{next:?}");
                // Timers are late by up to a millisecond.
                now += next + Duration::from_micros(900);
            }
            let late = now.as_micros() % EVERY.as_micros();
            assert_eq!(late, 900, "{phase}");
        }
    }

    #[test]
    fn a_port_that_turns_is_told_and_a_renewal_is_not() {
        let open = |seconds| PortState::Open { remaining: Duration::from_secs(seconds) };
        assert_eq!(turned(PortState::Closed, open(10)), Some("open"));
        assert_eq!(turned(open(1), PortState::Closed), Some("closed"));
        assert_eq!(turned(open(1), open(10)), None);
        assert_eq!(turned(PortState::Closed, PortState::Closed), None);
    }
}
