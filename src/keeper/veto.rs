//! What is done where Sentinel chooses and Pacemaker refuses, and where Sentinel chooses nobody.
//!
//! * A node on which Pacemaker runs no gate (standby, shutdown, a ban, failures, no quorum, a fence), or whose gate it does not promote
//!   though a majority names it, is *refused*. Its Redis gets replica-priority 0, so that Sentinel does not choose it; the value that it
//!   had is kept on disk, and put back.
//! * If a majority names it, its Redis is well and another node could open, a Sentinel is asked for a failover: its ports are closed, so
//!   nothing is written meanwhile.
//! * Where the node of the named Redis is lost to Pacemaker, which so refuses it, and the Sentinels get no answer from that Redis either,
//!   one of them is asked for a failover at once: nothing there could open again before Sentinels have waited for down-after.
//! * Where the named Redis is down and no failover begins (a leader that died or is stuck keeps the others quiet for twice Sentinel's
//!   failover-timeout, which is minutes), a Sentinel that is in none is asked for one.
//! * Where a majority names this node and its Redis is another's replica, nothing can open. That is what two failovers in one epoch leave
//!   behind (asked for on two Sentinels at once): each leader has made the other's choice its replica, they follow each other, and both wait for
//!   failover-timeout. A Sentinel that is in none is asked for a failover: its epoch ends both.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, spawn_blocking};

use super::history::History;
use super::priority::Priority;
use super::steady::Steady;
use super::told::Told;
use crate::causes::with_causes;
use crate::instance::{self, Instance, ServerRole};
use crate::logging::{Subject, decided};
use crate::pacemaker::{self, CrmMon, crm_mon::NodeState};
use crate::permission::Granted;
use crate::record::{Record, canonical};
use crate::role::Role;
use crate::sentinel::{self, Heard, Place};
use crate::server::Credentials;
use crate::settings::Settings;
use crate::together::together;

/// A gate that is back within this was restarted, not refused.
const GRACE: Duration = Duration::from_secs(2);

/// One whose role is `fail` though its Redis is well: where Pacemaker does not run, nobody puts the role right.
const UNSETTLED: Duration = Duration::from_secs(15);

/// What Sentinel reads of a replica it keeps for ten seconds: replica-priority is not changed for a refusal, or a Redis, that is younger.
const SETTLED: Duration = Duration::from_secs(5);

/// Whom Pacemaker has not promoted by then, and has nothing more to do, it does not want to promote.
const BEGUN_WITHIN: Duration = Duration::from_secs(3);

/// Nor by then, where it cannot be asked.
const PROMOTED_WITHIN: Duration = Duration::from_secs(20);

/// A node that was named and not promoted is not chosen again for that long.
const REMEMBERED: Duration = Duration::from_secs(120);

/// From one request for a failover to the next; twice that after the next one, and so on, until this node was promoted: where Pacemaker
/// promotes nobody, the primary must not go round and round.
const DAMPED: Duration = Duration::from_secs(20);

/// How often that doubles: to ten minutes.
const DOUBLES: u32 = 5;

/// After so long without one the next is the first again.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// After one that was not made, because nobody could take over.
const LOOKS_AGAIN: Duration = Duration::from_secs(5);

/// From the moment at which the Sentinels agree that the primary is down: a failover has begun by then.
const BEGINS_WITHIN: Duration = Duration::from_secs(3);

/// And one that has begun has ended by then, or is stuck.
const ENDS_WITHIN: Duration = Duration::from_secs(15);

/// For how long the named Redis is another's replica before that counts: a switch takes a second.
const TURNED: Duration = Duration::from_secs(5);

/// The nodes do not ask at the same time: by then the others have seen what the first one's request did.
const ONE_BY_ONE: Duration = Duration::from_secs(2);

/// For how long a majority of Sentinels reaches a Redis no more before Pacemaker is asked for its node.
const UNREACHED: Duration = Duration::from_secs(2);

/// So long before down-after is over it is left to the Sentinels.
const LEFT_TO_SENTINELS: Duration = Duration::from_millis(600);

/// The host of a Redis that lives, be it busy, takes a new connection within that.
const TAKEN_WITHIN: Duration = Duration::from_millis(300);

/// How often it is asked then.
const ASKED_AGAIN: Duration = Duration::from_millis(500);

/// How long the other nodes and a Sentinel may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_millis(600);

/// For so long an answer of Pacemaker holds for all master names.
const TOLD_TO_ALL: Duration = Duration::from_millis(500);

/// Between two attempts to set replica-priority.
const PAUSE: Duration = Duration::from_secs(2);

/// What a group knows in one round.
pub struct Seen<'a> {
    /// Now.
    pub now: Instant,
    /// What Pacemaker permits on this node.
    pub granted: Option<Granted>,
    /// This node's role in the cluster.
    pub role: Option<Role>,
    /// An operator keeps its ports closed.
    pub fenced: bool,
    /// Pacemaker leaves the gate alone (maintenance mode, unmanaged): nothing new follows from what it does not do.
    pub paused: bool,
    /// A majority names this node.
    pub named: bool,
    /// What Redis on this node said, if it just did.
    pub local: Option<&'a Instance>,
    /// The Sentinels that name this node, where none is in a failover.
    pub free_sentinels: Vec<SocketAddr>,
    /// The named primary is another node's, and down.
    pub down: Option<Down>,
    /// The named primary is another node's, and a majority of Sentinels reaches it no more.
    pub lost: Option<Lost>,
    /// A majority names this node, and its Redis is another's replica: the Sentinels that can be asked for a failover.
    pub turned: Vec<SocketAddr>,
}

/// A primary that a majority of Sentinels reaches no more, and that they do not call down yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Its node.
    node: String,
    /// Where it is.
    redis: SocketAddr,
    /// The Sentinels that can be asked for a failover.
    sentinels: Vec<SocketAddr>,
    /// How many nodes ask before this one.
    rank: usize,
}

/// A primary that the Sentinels agree is down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Down {
    /// A Sentinel is in a failover, and may be stuck in it.
    busy: bool,
    /// Those that are in none.
    sentinels: Vec<SocketAddr>,
    /// How many nodes ask before this one.
    rank: usize,
}

/// Who it is about.
pub struct Site {
    /// This node, of which records are.
    pub subject: Subject,
    /// The master name.
    pub master: String,
    /// The gate resource.
    pub gate: String,
    /// Redis on this node.
    pub redis: SocketAddr,
    /// The other nodes' read-only ports.
    pub readers: Vec<SocketAddr>,
    /// Credentials.
    pub settings: Settings,
    /// What failovers there were.
    pub history: History,
}

/// See the module.
pub struct Keeper {
    site: Site,
    refusal: Refusal,
    /// What Pacemaker last said about itself, and when: whether it has nothing more to do.
    resting: Option<(Instant, Result<bool, String>)>,
    idle: Idle,
    priority: Priority,
    /// From a failover of this node, which Pacemaker refuses, to the next.
    hands_over: Damping,
    /// From one of another node to the next.
    begins: Damping,
    losing: Losing,
    /// Since when the named Redis, of this node, has been another's replica.
    turned: Option<Instant>,
    /// When replica-priority may be looked at again.
    look_after: Option<Instant>,
    /// The run of Redis whose priority was set to 0 last.
    set_in: Option<String>,
    /// A priority waits on the disk to be put back.
    is_kept: bool,
    job: Option<JoinHandle<Done>>,
    /// That job changes the priority.
    sets: bool,
    /// Whether this node is refused as its own primary, and whether the named one's node is lost, as of the last round: a job may wait for
    /// Pacemaker's tools for seconds, and what it was begun for may be over by then.
    refused: Arc<AtomicBool>,
    lost: Arc<AtomicBool>,
    /// What was said last of each kind of trouble.
    said: BTreeMap<&'static str, String>,
}

enum Done {
    Asked(Instant, Result<bool, String>),
    /// And whether a value is kept now.
    Priority(Result<(), String>, bool),
    HandOver(Result<SocketAddr, String>),
    /// None where Pacemaker has not lost the node, or it has been found again meanwhile.
    Lost(Option<Result<SocketAddr, String>>),
    Begun(Result<SocketAddr, String>),
    Turned(Result<SocketAddr, String>),
}

/// Whether Pacemaker refuses this node.
#[derive(Debug, Default)]
struct Refusal {
    /// Since when it looks like that, and whether a gate runs.
    since: Option<(Instant, bool)>,
    refused: Option<(Instant, Refused)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    /// No gate runs here.
    NoGate,
    /// Its gate was not promoted, though the node was named; until then.
    NotPromoted(Instant),
}

impl Refusal {
    /// Since when it is refused, if it is.
    ///
    /// `resting`: when Pacemaker was asked whether it has nothing more to do, and its answer.
    fn see(&mut self, seen: &Seen, resting: Option<&(Instant, Result<bool, String>)>) -> Option<Instant> {
        let (now, granted) = (seen.now, seen.granted);
        let runs = granted.is_some_and(|granted| granted > Granted::Stopping);
        let over = self.refused.is_some_and(|(_, refused)| match refused {
            _ if granted == Some(Granted::Promoted) => true,
            Refused::NoGate => runs,
            Refused::NotPromoted(until) => !seen.named && now >= until,
        });
        if over {
            self.refused = None;
        }
        // Where the role in the cluster is still to be put right, Pacemaker cannot know better.
        let waits = match runs {
            false => seen.fenced || seen.role.is_some(),
            true => seen.named && granted == Some(Granted::Started) && seen.role == Some(Role::Primary),
        };
        if !waits || seen.paused {
            self.since = None;
        } else {
            let since = self.since.filter(|(_, ran)| *ran == runs).map_or(now, |(since, _)| since);
            self.since = Some((since, runs));
            let new = match runs {
                false => {
                    let settled = seen.fenced || seen.role != Some(Role::Fail);
                    let well = seen.local.is_some_and(|local| !local.loading);
                    let grace = if settled { GRACE } else { UNSETTLED };
                    (now >= since + grace && (settled || well)).then_some(Refused::NoGate)
                }
                true => {
                    let not_promoted = match resting.filter(|(asked, _)| *asked >= since + BEGUN_WITHIN) {
                        Some((_, Ok(resting))) => *resting,
                        Some((_, Err(_))) => now >= since + PROMOTED_WITHIN,
                        None => false,
                    };
                    not_promoted.then_some(Refused::NotPromoted(now + REMEMBERED))
                }
            };
            if let Some(new) = new {
                self.refused = Some((self.refused.map_or(now, |(since, _)| since), new));
            }
        }
        self.refused.map(|(since, _)| since)
    }

    /// Whether it hangs on what Pacemaker says of itself.
    fn wants_to_know(&self, now: Instant) -> bool {
        self.refused.is_none() && self.since.is_some_and(|(since, runs)| runs && now >= since + BEGUN_WITHIN)
    }
}

/// How long the named primary has been down without anything coming of it.
#[derive(Debug, Default)]
struct Idle(Steady);

impl Idle {
    /// The Sentinels that may be asked for a failover, when it is time.
    fn see<'d>(&mut self, now: Instant, down: Option<&'d Down>) -> &'d [SocketAddr] {
        let Some(down) = down else {
            self.0 = Steady::default();
            return &[];
        };
        let since = self.0.since(now, &down.sentinels);
        let patience = if down.busy { ENDS_WITHIN } else { BEGINS_WITHIN };
        let due = since + patience + ONE_BY_ONE * u32::try_from(down.rank).unwrap_or(u32::MAX);
        if now >= due { &down.sentinels } else { &[] }
    }
}

/// When the next failover may be asked for.
#[derive(Debug, Default)]
struct Damping {
    not_before: Option<Instant>,
    /// How often one was asked for since this node was promoted.
    asked: u32,
}

impl Damping {
    fn may(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| now >= at)
    }

    /// It is seen whether one is to be asked for.
    fn looks(&mut self, now: Instant) {
        self.not_before = Some(now + LOOKS_AGAIN);
    }

    /// One was asked for.
    fn asked(&mut self, now: Instant) {
        // What is long past was another trouble.
        if self.not_before.is_some_and(|at| now > at + FORGOTTEN) {
            self.asked = 0;
        }
        self.not_before = Some(now + DAMPED * 2_u32.pow(self.asked.min(DOUBLES)));
        self.asked += 1;
    }

    fn promoted(&mut self) {
        self.asked = 0;
    }
}

/// Since when the named primary is lost, and when Pacemaker may be asked for its node.
#[derive(Debug, Default)]
struct Losing(Option<(Instant, Instant)>);

impl Losing {
    /// A primary of whose node Pacemaker is to be asked now.
    fn see<'l>(&mut self, now: Instant, lost: Option<&'l Lost>) -> Option<&'l Lost> {
        let Some(lost) = lost else {
            self.0 = None;
            return None;
        };
        let (since, next) = *self.0.get_or_insert((now, now));
        let due = next.max(since + ONE_BY_ONE * u32::try_from(lost.rank).unwrap_or(u32::MAX));
        (now >= due).then_some(lost)
    }

    /// It is asked.
    fn asks(&mut self, now: Instant) {
        if let Some((_, next)) = &mut self.0 {
            *next = now + ASKED_AGAIN;
        }
    }
}

/// Whether the Sentinels agree that the primary, another node's, is down. Some Sentinel must have found so with the quorum that it was given.
pub fn down(record: &Record, heard: &[Heard], named: &str, me: &str) -> Option<Down> {
    let node = record.node(named).filter(|_| !named.eq_ignore_ascii_case(me))?;
    let flags: Vec<(SocketAddr, &Vec<String>)> = heard
        .iter()
        .filter_map(|heard| {
            let master = heard.answer.as_ref().ok()?.master.as_ref()?;
            let address = master.place.as_ref().and_then(Place::address)?;
            (canonical(address) == canonical(node.address)).then_some((heard.sentinel.address, &master.flags))
        })
        .collect();
    let has = |flags: &[String], flag: &str| flags.iter().any(|one| one == flag);
    let down = flags.iter().filter(|(_, flags)| has(flags, "s_down")).count();
    if down < record.majority() || !flags.iter().any(|(_, flags)| has(flags, "o_down")) {
        return None;
    }
    let free = |flags: &&(SocketAddr, &Vec<String>)| !has(flags.1, "failover_in_progress");
    let others = record.nodes().iter().filter(|node| !node.name.eq_ignore_ascii_case(named));
    Some(Down {
        busy: !flags.iter().all(|flags| free(&flags)),
        sentinels: flags.iter().filter(free).map(|(address, _)| *address).collect(),
        rank: others.take_while(|node| !node.name.eq_ignore_ascii_case(me)).count(),
    })
}

/// Whether a majority of Sentinels reaches the Redis of the named node no more, another one than `me`. Where they agree that it is down they
/// fail over by themselves.
pub fn lost(record: &Record, heard: &[Heard], named: &str, me: &str) -> Option<Lost> {
    let node = record.node(named).filter(|_| !named.eq_ignore_ascii_case(me))?;
    let unreached = sentinel::unreached_for(record, heard, node.address);
    if unreached < UNREACHED {
        return None;
    }
    // By then they begin a failover themselves, and two at once could take one epoch.
    let down_after =
        heard.iter().filter_map(|heard| Some(heard.answer.as_ref().ok()?.master.as_ref()?.down_after)).min()?;
    if unreached >= down_after.saturating_sub(LEFT_TO_SENTINELS) {
        return None;
    }
    let sentinels = sentinel::free_to_fail_over(heard, node.address);
    let others = record.nodes().iter().filter(|node| !node.name.eq_ignore_ascii_case(named));
    let rank = others.take_while(|node| !node.name.eq_ignore_ascii_case(me)).count();
    (!sentinels.is_empty()).then(|| Lost { node: node.name.clone(), redis: node.address, sentinels, rank })
}

/// The Sentinels that can be asked for a failover where a majority names `me` and its Redis is another's replica.
pub fn turned(record: &Record, heard: &[Heard], named: &str, me: &str, local: &Instance) -> Vec<SocketAddr> {
    let node = record.node(named).filter(|_| named.eq_ignore_ascii_case(me));
    let is_replica = matches!(local.role, ServerRole::Replica { .. });
    node.filter(|_| is_replica).map_or_else(Vec::new, |node| sentinel::free_beside_promoted(heard, node.address))
}

/// Whether that has been so for long enough; `since` when.
fn has_turned(since: &mut Option<Instant>, now: Instant, sentinels: &[SocketAddr]) -> bool {
    *since = (!sentinels.is_empty()).then(|| since.unwrap_or(now));
    since.is_some_and(|since| now >= since + TURNED)
}

/// Whether Pacemaker has lost the node, and this node does not reach its host either: behind a short cut Sentinels' connections, and
/// Pacemaker, need some seconds to find that it is over.
fn is_lost(lost: &Lost) -> bool {
    has_lost_node(&lost.node)
        && TcpStream::connect_timeout(&lost.redis, TAKEN_WITHIN)
            .is_err_and(|error| error.kind() != ErrorKind::ConnectionRefused)
}

/// [`has_lost`], asked once for all master names of this node.
fn has_lost_node(node: &str) -> bool {
    let (_, shown) = SHOWN.ask(Instant::now(), ASKED_AGAIN, || pacemaker::read_crm_mon_within(ANSWER_WITHIN).ok());
    shown.is_some_and(|shown| has_lost(&shown, node))
}

/// Who is online, as Pacemaker was asked last.
static SHOWN: Told<Option<CrmMon>> = Told::new();

/// Whether Pacemaker, which has quorum, has lost `node`. One without quorum has lost all others.
fn has_lost(shown: &CrmMon, node: &str) -> bool {
    let is_off = |state: &NodeState| state.name.eq_ignore_ascii_case(node) && !state.online && !state.pending;
    shown.quorum == Some(true) && shown.nodes.iter().any(is_off)
}

impl Keeper {
    /// From now on it is about this one: the record has changed.
    pub fn is_about(&mut self, site: Site) {
        self.site = site;
    }

    /// For one master name.
    pub fn new(site: Site) -> Self {
        let priority = Priority::new(site.subject.clone(), &site.master, &site.gate);
        Keeper {
            is_kept: priority.is_kept(),
            site,
            refusal: Refusal::default(),
            resting: None,
            idle: Idle::default(),
            priority,
            hands_over: Damping::default(),
            begins: Damping::default(),
            losing: Losing::default(),
            turned: None,
            look_after: None,
            set_in: None,
            job: None,
            sets: false,
            refused: Arc::default(),
            lost: Arc::default(),
            said: BTreeMap::new(),
        }
    }

    /// Does what is to be done, if anything is.
    pub fn keep(&mut self, seen: &Seen) {
        let now = seen.now;
        let refused = self.refusal.see(seen, self.resting.as_ref());
        if seen.granted == Some(Granted::Promoted) {
            self.hands_over.promoted();
            self.begins.promoted();
        }
        let idle = self.idle.see(now, seen.down.as_ref());
        let lost = self.losing.see(now, seen.lost.as_ref().filter(|_| !seen.paused));
        let turned = has_turned(&mut self.turned, now, &seen.turned);
        let well = seen.local.is_some_and(|local| local.is_primary() && !local.loading);
        let hands_over = refused.is_some() && seen.named && well && !seen.paused;
        self.refused.store(hands_over, Ordering::Relaxed);
        self.lost.store(seen.lost.is_some() && !seen.paused, Ordering::Relaxed);
        if self.job.is_some() {
            return;
        }
        self.sets = false;
        if self.look_after.is_none_or(|at| now >= at) {
            if let Some((run, zero)) = self.priority_to_set(refused, seen) {
                self.look_after = Some(now + PAUSE);
                self.set_in = zero.then_some(run);
                let (redis, credentials) = (self.site.redis, self.site.settings.redis.clone());
                let priority = self.priority.clone();
                self.sets = true;
                self.job = Some(spawn_blocking(move || {
                    let result = priority.set(redis, &credentials, zero);
                    Done::Priority(result, priority.is_kept())
                }));
                return;
            }
        }
        if self.refusal.wants_to_know(now) && self.resting.as_ref().is_none_or(|(at, _)| now > *at + PAUSE) {
            self.job = Some(spawn_blocking(|| {
                let (at, resting) = RESTING.ask(Instant::now(), TOLD_TO_ALL, pacemaker_is_idle);
                Done::Asked(at, resting)
            }));
            return;
        }
        let settings = &self.site.settings;
        let (master, sentinels) = (self.site.master.clone(), settings.sentinel.clone());
        if hands_over && !seen.free_sentinels.is_empty() && self.hands_over.may(now) {
            self.hands_over.looks(now);
            let (readers, redis) = (self.site.readers.clone(), settings.redis.clone());
            let (free, refused) = (seen.free_sentinels.clone(), self.refused.clone());
            self.job = Some(spawn_blocking(move || {
                Done::HandOver(hand_over(&readers, &redis, &free, &sentinels, &master, &refused))
            }));
        } else if let Some(lost) = lost.filter(|_| self.begins.may(now)) {
            self.losing.asks(now);
            let (lost, yet) = (lost.clone(), self.lost.clone());
            self.job = Some(spawn_blocking(move || {
                let ask = || sentinel::fail_over(&lost.sentinels, &master, &sentinels, ANSWER_WITHIN);
                Done::Lost((is_lost(&lost) && yet.load(Ordering::Relaxed)).then(ask))
            }));
        } else if !idle.is_empty() && self.begins.may(now) {
            self.begins.looks(now);
            let idle = idle.to_vec();
            self.job = Some(spawn_blocking(move || {
                Done::Begun(sentinel::fail_over(&idle, &master, &sentinels, ANSWER_WITHIN))
            }));
        } else if turned && self.begins.may(now) {
            self.begins.looks(now);
            let free = seen.turned.clone();
            self.job = Some(spawn_blocking(move || {
                Done::Turned(sentinel::fail_over(&free, &master, &sentinels, ANSWER_WITHIN))
            }));
        }
    }

    /// Whether replica-priority is to be set to 0, or back, and in which run of Redis. A primary does not say its own.
    fn priority_to_set(&self, refused: Option<Instant>, seen: &Seen) -> Option<(String, bool)> {
        let local = seen.local.filter(|local| !local.loading)?;
        let due = match refused {
            // What a keeper before this one kept stays kept until a gate runs.
            None => self.is_kept && seen.granted.is_some_and(|granted| granted > Granted::Stopping),
            Some(since) if seen.now < since + SETTLED || local.uptime < SETTLED => false,
            Some(_) => self.set_in.as_ref() != Some(&local.run_id) || !local.is_primary() && local.priority != 0,
        };
        due.then(|| (local.run_id.clone(), refused.is_some()))
    }

    /// Ends when no change of the priority is under way: whoever puts it back then is not overtaken.
    pub async fn end(&mut self) {
        if let Some(job) = self.job.take().filter(|_| self.sets) {
            // One that panicked has said so on stderr.
            let _ended = job.await;
        }
    }

    /// Takes note of what has ended.
    pub fn poll(&mut self, context: &mut Context<'_>) {
        let Some(job) = &mut self.job else { return };
        let Poll::Ready(result) = Pin::new(job).poll(context) else { return };
        self.job = None;
        // One that panicked has said so on stderr.
        let Ok(done) = result else { return };
        let master = self.site.master.clone();
        let (what, why) = match done {
            Done::Asked(at, resting) => {
                self.resting = Some((at, resting));
                return;
            }
            Done::Priority(Ok(()), is_kept) => {
                self.is_kept = is_kept;
                return;
            }
            Done::HandOver(Ok(sentinel)) => {
                self.has_asked(|this| &mut this.hands_over);
                self.site.history.asked(&master, "Pacemaker refused the primary's node");
                decided!(
                    warn,
                    self.site.subject,
                    "refused",
                    "{master}: Pacemaker does not let this node be primary though Sentinels name it; asked Sentinel {sentinel} for a failover"
                );
                return;
            }
            Done::Begun(Ok(sentinel)) => {
                self.has_asked(|this| &mut this.begins);
                self.site.history.asked(&master, "the primary was down, and no failover went on");
                decided!(
                    warn,
                    self.site.subject,
                    "no failover",
                    "{master}: the primary is down and no failover goes on; asked Sentinel {sentinel} for one"
                );
                return;
            }
            Done::Turned(Ok(sentinel)) => {
                self.has_asked(|this| &mut this.begins);
                self.site.history.asked(&master, "the named Redis was a replica");
                decided!(
                    warn,
                    self.site.subject,
                    "turned",
                    "{master}: Sentinels name this node, and its Redis is another's replica; asked Sentinel {sentinel} for a failover"
                );
                return;
            }
            Done::Lost(None) => return,
            Done::Lost(Some(Ok(sentinel))) => {
                self.has_asked(|this| &mut this.begins);
                self.site.history.asked(&master, "the primary's node was lost");
                decided!(
                    warn,
                    self.site.subject,
                    "lost",
                    "{master}: Pacemaker has lost the primary's node, and Sentinels have lost its Redis; asked Sentinel {sentinel} for a failover"
                );
                return;
            }
            Done::Lost(Some(Err(why))) => ("the primary's node is lost, and no Sentinel begins a failover", why),
            Done::Priority(Err(why), is_kept) => {
                (self.set_in, self.is_kept) = (None, is_kept);
                ("replica-priority is not set", why)
            }
            Done::HandOver(Err(why)) => {
                ("Pacemaker does not let this node be primary, and no failover is asked for", why)
            }
            Done::Begun(Err(why)) => ("the primary is down, and no Sentinel begins a failover", why),
            Done::Turned(Err(why)) => {
                ("Redis here is a replica though Sentinels name this node, and none begins a failover", why)
            }
        };
        // Once, not every few seconds for hours.
        if self.said.get(what) != Some(&why) {
            decided!(info, self.site.subject, why, "{master}: {what}: {why}");
            self.said.insert(what, why);
        }
    }

    fn has_asked(&mut self, of: impl Fn(&mut Self) -> &mut Damping) {
        self.said.clear();
        of(self).asked(Instant::now());
    }
}

/// Whether Pacemaker has nothing more to do, as it was told last: two programs run for each answer, and on a node that is put into standby
/// every master name wants one.
static RESTING: Told<Result<bool, String>> = Told::new();

fn pacemaker_is_idle() -> Result<bool, String> {
    pacemaker::is_idle().map_err(|error| with_causes(&error))
}

/// What is left behind by a gate that is gone from the cluster: nothing.
///
/// # Errors
/// Why its Redis has still the replica-priority of a refused node.
pub fn leave(priority: &Priority, redis: SocketAddr, settings: &Settings) -> Result<(), String> {
    if priority.is_kept() { priority.set(redis, &settings.redis, false) } else { Ok(()) }
}

/// Asks for a failover where another node could open: its read-only port is open, so its gate runs, and its Redis follows.
fn hand_over(
    readers: &[SocketAddr],
    redis: &Credentials,
    free: &[SocketAddr],
    sentinels: &Credentials,
    master: &str,
    refused: &AtomicBool,
) -> Result<SocketAddr, String> {
    // It may be starting the gate just now. Where it does not answer, it is not.
    if RESTING.ask(Instant::now(), TOLD_TO_ALL, pacemaker_is_idle).1.is_ok_and(|idle| !idle) {
        return Err("Pacemaker is still at work".to_owned());
    }
    let jobs = readers.iter().map(|&reader| {
        let redis = redis.clone();
        move || instance::ask(reader, &redis, ANSWER_WITHIN)
    });
    let answers = together(ANSWER_WITHIN, jobs);
    if !refused.load(Ordering::Relaxed) {
        return Err("that is over by now".to_owned());
    }
    let mut why = Vec::new();
    for (reader, answer) in readers.iter().zip(answers) {
        match answer {
            Some(Ok(instance)) => match can_take_over(&instance) {
                Ok(()) => return sentinel::fail_over(free, master, sentinels, ANSWER_WITHIN),
                Err(not) => why.push(format!("{reader} {not}")),
            },
            Some(Err(error)) => why.push(format!("{reader}: {error}")),
            None => why.push(format!("{reader}: no answer")),
        }
    }
    Err(format!("no other node could take over ({})", why.join("; ")))
}

fn can_take_over(instance: &Instance) -> Result<(), &'static str> {
    match &instance.role {
        _ if instance.loading => Err("is loading its data"),
        _ if instance.priority == 0 => Err("has replica-priority 0"),
        ServerRole::Replica { link_up: true, .. } => Ok(()),
        ServerRole::Replica { .. } => Err("has lost its primary"),
        ServerRole::Primary { .. } | ServerRole::Unknown => Err("is no replica"),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::behind::Behind;
    use super::*;
    use crate::record::{SentinelEntry, tests::three};
    use crate::sentinel::{Answer, Master};

    /// Second, and what Pacemaker said of itself at which second.
    type Look = (f64, Option<(f64, Result<bool, String>)>);

    struct Clock(Instant);

    impl Clock {
        fn at(&self, seconds: f64) -> Instant {
            self.0 + Duration::from_secs_f64(seconds)
        }
    }

    fn keeper(directory: &std::path::Path) -> Keeper {
        Keeper::new(Site {
            subject: Subject::of(Some("m"), Some("node1")),
            master: "m".into(),
            gate: "g".into(),
            redis: SocketAddr::from(([10, 0, 0, 1], 6379)),
            readers: Vec::new(),
            settings: Settings::default(),
            history: History::under(directory, &Behind::begin()),
        })
    }

    #[test]
    fn who_is_promoted_while_pacemaker_is_asked_is_not_handed_over() {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let primary = Instance { role: ServerRole::Primary { replicas: Vec::new() }, ..Instance::default() };
        for (promoted, why) in [(true, "that is over by now"), (false, "no other node could take over ()")] {
            let mut keeper = keeper(directory.path());
            let round = |keeper: &mut Keeper, seconds: u64, granted| {
                let at = Instant::now() + Duration::from_secs(seconds);
                let free_sentinels = vec![SocketAddr::from(([10, 0, 0, 1], 26379))];
                keeper.keep(&Seen { local: Some(&primary), free_sentinels, ..seen(at, granted, true) });
            };
            runtime.block_on(async {
                let (asked, told) = std::sync::mpsc::channel::<()>();
                let pacemaker = spawn_blocking(move || {
                    let answer = || {
                        told.recv().unwrap();
                        Ok(true)
                    };
                    RESTING.ask(Instant::now(), Duration::ZERO, answer).1.unwrap()
                });
                thread::sleep(Duration::from_millis(100));
                round(&mut keeper, 0, None);
                round(&mut keeper, 3, None);
                assert!(keeper.job.is_some(), "it is about to hand over");
                round(&mut keeper, 4, promoted.then_some(Granted::Promoted));
                asked.send(()).unwrap();
                assert!(pacemaker.await.unwrap());
                std::future::poll_fn(|context| {
                    keeper.poll(context);
                    if keeper.job.is_none() { Poll::Ready(()) } else { Poll::Pending }
                })
                .await;
            });
            assert_eq!(keeper.said.values().next().map(String::as_str), Some(why));
        }
    }

    #[test]
    fn who_is_found_again_while_pacemaker_is_asked_is_not_failed_over() {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        // Nobody listens at the one; the other no connection can be made to, and none is refused there.
        let sentinel = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let redis = SocketAddr::from(([255, 255, 255, 255], 6379));
        let lost = Lost { node: "node2".into(), redis, sentinels: vec![sentinel], rank: 0 };
        for (what, still, paused, asks) in [
            ("it is still lost", true, false, true),
            ("it is found", false, false, false),
            ("Pacemaker leaves the gate alone", true, true, false),
        ] {
            let mut keeper = keeper(directory.path());
            let round = |keeper: &mut Keeper, lost: Option<&Lost>, paused| {
                let seen = seen(Instant::now(), Some(Granted::Started), false);
                keeper.keep(&Seen { lost: lost.cloned(), paused, ..seen });
            };
            runtime.block_on(async {
                let (asked, told) = std::sync::mpsc::channel::<()>();
                let pacemaker = spawn_blocking(move || {
                    let off = NodeState { name: "node2".into(), ..NodeState::default() };
                    let shown = CrmMon { quorum: Some(true), nodes: vec![off], ..CrmMon::default() };
                    SHOWN.ask(Instant::now(), Duration::ZERO, || {
                        told.recv().unwrap();
                        Some(shown)
                    })
                });
                thread::sleep(Duration::from_millis(100));
                round(&mut keeper, Some(&lost), false);
                assert!(keeper.job.is_some(), "{what}: Pacemaker is being asked");
                round(&mut keeper, still.then_some(&lost), paused);
                asked.send(()).unwrap();
                pacemaker.await.unwrap();
                std::future::poll_fn(|context| {
                    keeper.poll(context);
                    if keeper.job.is_none() { Poll::Ready(()) } else { Poll::Pending }
                })
                .await;
            });
            let said: Vec<&str> = keeper.said.keys().copied().collect();
            let refused = "the primary's node is lost, and no Sentinel begins a failover";
            assert_eq!(said, if asks { vec![refused] } else { vec![] }, "{what}");
        }
    }

    #[test]
    fn who_puts_the_priority_back_behind_the_end_is_not_overtaken() {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for sets in [true, false] {
            let mut keeper = keeper(directory.path());
            let set = Arc::new(AtomicBool::new(false));
            let done = set.clone();
            runtime.block_on(async {
                keeper.sets = sets;
                keeper.job = Some(spawn_blocking(move || {
                    thread::sleep(Duration::from_millis(300));
                    done.store(true, Ordering::Relaxed);
                    Done::Priority(Ok(()), true)
                }));
                keeper.end().await;
                // No other job is waited for.
                assert_eq!(set.load(Ordering::Relaxed), sets);
            });
        }
    }

    fn seen<'a>(now: Instant, granted: Option<Granted>, named: bool) -> Seen<'a> {
        let role = Some(if named { Role::Primary } else { Role::Replica });
        Seen {
            now,
            granted,
            role,
            fenced: false,
            paused: false,
            named,
            local: None,
            free_sentinels: Vec::new(),
            down: None,
            lost: None,
            turned: Vec::new(),
        }
    }

    #[test]
    fn a_node_without_a_gate_is_refused_until_it_has_one() {
        let clock = Clock(Instant::now());
        for granted in [None, Some(Granted::Stopping)] {
            let mut refusal = Refusal::default();
            let mut see = |seconds, granted, named| refusal.see(&seen(clock.at(seconds), granted, named), None);
            assert_eq!(see(0.0, granted, false), None);
            assert_eq!(see(1.9, granted, false), None, "it may be restarted");
            assert_eq!(see(2.0, granted, false), Some(clock.at(2.0)));
            assert_eq!(see(9.0, granted, false), Some(clock.at(2.0)), "since then");
            assert_eq!(see(9.1, Some(Granted::Started), true), None);
            assert_eq!(see(9.2, granted, false), None, "anew");
        }
    }

    #[test]
    fn waiting_is_no_refusal() {
        let clock = Clock(Instant::now());
        let (mut refusal, mut fenced) = (Refusal::default(), Refusal::default());
        for second in 0..100 {
            let now = clock.at(f64::from(second));
            let seen = |granted, named| seen(now, granted, named);
            let idle = Some((now, Ok(true)));
            let mut see = |seen| refusal.see(&seen, idle.as_ref());
            // Promoted, and closed for want of a lease.
            assert_eq!(see(seen(Some(Granted::Promoted), true)), None);
            assert_eq!(see(seen(Some(Granted::Started), false)), None);
            // In maintenance mode, and while the role in the cluster is still to be put right.
            assert_eq!(see(Seen { paused: true, ..seen(None, true) }), None);
            assert_eq!(see(Seen { role: Some(Role::Replica), ..seen(Some(Granted::Started), true) }), None);
            assert_eq!(see(Seen { role: None, ..seen(None, true) }), None);
            let fail = || Seen { role: Some(Role::Fail), ..seen(None, true) };
            assert_eq!(see(fail()), None, "its Redis may be down");
            assert_eq!(fenced.see(&Seen { fenced: true, ..fail() }, None).is_some(), second >= 2);
        }
    }

    #[test]
    fn a_role_that_nobody_puts_right_is_no_excuse_for_ever() {
        let clock = Clock(Instant::now());
        let well = Instance::default();
        let mut refusal = Refusal::default();
        let mut see = |seconds, local| {
            let fail = Seen { role: Some(Role::Fail), local, ..seen(clock.at(seconds), None, true) };
            refusal.see(&fail, None).is_some()
        };
        assert_eq!(
            [see(0.0, None), see(14.9, Some(&well)), see(60.0, None), see(60.4, Some(&well))],
            [false, false, false, true]
        );
    }

    #[test]
    fn who_is_named_is_refused_when_pacemaker_has_nothing_more_to_do() {
        let clock = Clock(Instant::now());
        let asks = |looks: &[Look]| -> Vec<(bool, bool)> {
            let mut refusal = Refusal::default();
            looks
                .iter()
                .map(|(at, said)| {
                    let said = said.clone().map(|(at, said)| (clock.at(at), said));
                    let refused = refusal.see(&seen(clock.at(*at), Some(Granted::Started), true), said.as_ref());
                    (refused.is_some(), refusal.wants_to_know(clock.at(*at)))
                })
                .collect()
        };
        let (no, unknown, yes) = ((false, false), (false, true), (true, false));
        let resting = |at| Some((at, Ok(true)));
        let busy = |at| Some((at, Ok(false)));
        let silent = |at| Some((at, Err("no".to_owned())));
        assert_eq!(
            asks(&[(0.0, None), (2.9, resting(2.9)), (3.0, resting(2.9)), (3.1, resting(3.0))]),
            [no, no, unknown, yes]
        );
        assert_eq!(asks(&[(0.0, None), (60.0, busy(60.0)), (61.0, resting(61.0))]), [no, unknown, yes]);
        assert_eq!(asks(&[(0.0, None), (19.9, silent(19.0)), (20.0, silent(19.0))]), [no, unknown, yes]);
    }

    #[test]
    fn what_was_named_and_not_promoted_is_not_chosen_again_for_a_while() {
        let clock = Clock(Instant::now());
        let mut refusal = Refusal::default();
        let mut see = |seconds, granted, named| {
            let now = clock.at(seconds);
            refusal.see(&seen(now, Some(granted), named), Some(&(now, Ok(true))))
        };
        use Granted::{Promoted, Started};
        assert_eq!(see(0.0, Started, true), None);
        assert_eq!(see(3.0, Started, true), Some(clock.at(3.0)));
        assert_eq!(see(8.0, Started, false), Some(clock.at(3.0)));
        assert_eq!(see(122.0, Started, false), Some(clock.at(3.0)));
        assert_eq!(see(124.0, Started, false), None);
        // Or until it was promoted.
        assert_eq!(see(130.0, Started, true), None);
        assert_eq!(see(134.0, Started, true), Some(clock.at(134.0)));
        assert_eq!(see(135.0, Promoted, true), None);
        assert_eq!(see(136.0, Started, false), None);
    }

    #[test]
    fn a_failover_that_nobody_begins_is_asked_for_one_node_after_the_other() {
        let clock = Clock(Instant::now());
        let sentinel: SocketAddr = "10.0.0.2:26379".parse().unwrap();
        let down = |busy, rank| Some(Down { busy, sentinels: vec![sentinel], rank });
        let asks = |looks: &[(f64, Option<Down>)]| -> Vec<bool> {
            let mut idle = Idle::default();
            looks.iter().map(|(at, down)| !idle.see(clock.at(*at), down.as_ref()).is_empty()).collect()
        };
        assert_eq!(asks(&[(0.0, down(false, 0)), (2.9, down(false, 0)), (3.0, down(false, 0))]), [false, false, true]);
        assert_eq!(asks(&[(0.0, down(false, 1)), (4.9, down(false, 1)), (5.0, down(false, 1))]), [false, false, true]);
        // It is up again in between.
        assert_eq!(asks(&[(0.0, down(false, 0)), (2.0, None), (3.0, down(false, 0))]), [false, false, false]);
        // Who is in a failover gets his time; then he is stuck. Another one who begins then gets his.
        let all: Vec<SocketAddr> = (1..4).map(|n| format!("10.0.0.{n}:26379").parse().unwrap()).collect();
        let busy = |free: usize| Some(Down { busy: free < 3, sentinels: all[..free].to_vec(), rank: 0 });
        let looks = [
            (0.0, busy(3)),
            (2.0, busy(2)),
            (16.9, busy(2)),
            (17.0, busy(2)),
            (17.4, busy(1)),
            (32.3, busy(1)),
            (32.4, busy(1)),
        ];
        assert_eq!(asks(&looks), [false, false, false, true, false, false, true]);
        // Or he gives up, and nobody else begins.
        let looks = [(0.0, busy(3)), (2.0, busy(2)), (6.0, busy(3)), (8.9, busy(3)), (9.0, busy(3))];
        assert_eq!(asks(&looks), [false, false, false, false, true]);
        let nobody_free = Some(Down { busy: true, sentinels: vec![], rank: 0 });
        assert_eq!(asks(&[(0.0, nobody_free.clone()), (60.0, nobody_free)]), [false, false]);
    }

    #[test]
    fn down_is_what_a_majority_sees_and_one_has_agreed_on() {
        let record = three();
        let says = |n: usize, names: &str, flags: &[&str]| {
            let place = Some(Place { host: names.to_owned(), port: 6379 });
            let master = Master {
                place: place.clone(),
                run_id: String::new(),
                flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
                config_epoch: 1,
                down_after: Duration::from_secs(5),
                quorum: 2,
                ..Master::default()
            };
            let sentinel: SentinelEntry = record.sentinels()[n].clone();
            let answer = Answer { id: sentinel.id.clone(), named: place, master: Some(master) };
            Heard { sentinel, answer: Ok(Arc::new(answer)) }
        };
        let judge = |flags: [&[&str]; 3], me| {
            let heard: Vec<Heard> = flags.iter().enumerate().map(|(n, flags)| says(n, "10.0.0.1", flags)).collect();
            down(&record, &heard, "node1", me)
        };
        let sentinels = |of: &[usize]| of.iter().map(|&n| record.sentinels()[n].address).collect();
        let (s, o, f) =
            (["master", "s_down"], ["master", "s_down", "o_down"], ["s_down", "o_down", "failover_in_progress"]);
        assert_eq!(
            judge([&o, &s, &["master"]], "node2"),
            Some(Down { busy: false, sentinels: sentinels(&[0, 1, 2]), rank: 0 })
        );
        assert_eq!(judge([&f, &s, &[]], "node3"), Some(Down { busy: true, sentinels: sentinels(&[1, 2]), rank: 1 }));
        assert_eq!(judge([&s, &s, &s], "node2"), None, "nobody has found a quorum");
        assert_eq!(judge([&o, &[], &[]], "node2"), None, "one alone");
        assert_eq!(judge([&o, &o, &o], "node1"), None, "its own keeper says so by rule");
        let elsewhere = [says(0, "10.0.0.1", &o), says(1, "10.0.0.2", &o), says(2, "10.0.0.2", &[])];
        assert_eq!(down(&record, &elsewhere, "node1", "node3"), None, "it speaks of another server");
    }

    #[test]
    fn who_is_lost_is_asked_for_by_one_node_after_the_other() {
        let record = three();
        let place = Some(Place { host: "10.0.0.1".to_owned(), port: 6379 });
        let heard = |silent_for: [u64; 3], flags: &[&str]| -> Vec<Heard> {
            let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
            let each = record.sentinels().iter().zip(silent_for);
            each.map(|(sentinel, seconds)| {
                let silent_for = Duration::from_secs(seconds);
                let down_after = Duration::from_secs(5);
                let master =
                    Master { place: place.clone(), flags: flags.clone(), silent_for, down_after, ..Master::default() };
                let answer = Answer { id: sentinel.id.clone(), named: place.clone(), master: Some(master) };
                Heard { sentinel: sentinel.clone(), answer: Ok(Arc::new(answer)) }
            })
            .collect()
        };
        let two = lost(&record, &heard([0, 2, 3], &["master"]), "node1", "node3");
        assert_eq!(
            two.as_ref().map(|lost| (lost.node.as_str(), lost.sentinels.len(), lost.rank)),
            Some(("node1", 3, 1))
        );
        assert_eq!(lost(&record, &heard([0, 1, 3], &["master"]), "node1", "node3"), None);
        assert_eq!(lost(&record, &heard([0, 2, 3], &["master"]), "node1", "node1"), None);
        assert_eq!(lost(&record, &heard([0, 5, 5], &["master"]), "node1", "node3"), None, "Sentinels are about to");
        assert_eq!(lost(&record, &heard([0, 2, 3], &["failover_in_progress"]), "node1", "node2"), None);
        let (mut losing, clock) = (Losing::default(), Clock(Instant::now()));
        let mut asks = |at: f64, lost: Option<&Lost>| {
            let due = losing.see(clock.at(at), lost).is_some();
            if due {
                losing.asks(clock.at(at));
            }
            due
        };
        let two = two.as_ref();
        assert_eq!([0.0, 1.9, 2.0, 2.4, 2.5].map(|at| asks(at, two)), [false, false, true, false, true]);
        // It was reached in between.
        assert!(!asks(9.0, None));
        assert_eq!([9.1, 11.0, 11.1].map(|at| asks(at, two)), [false, false, true]);
    }

    #[test]
    fn a_named_replica_is_seen_by_its_own_node_alone() {
        let record = three();
        let place = |host: &str| Place { host: host.into(), port: 6379 };
        let heard: Vec<Heard> = record
            .sentinels()
            .iter()
            .map(|sentinel| {
                let master =
                    Master { place: Some(place("10.0.0.1")), flags: vec!["master".into()], ..Master::default() };
                let named = Some(place("10.0.0.1"));
                let answer = Ok(Arc::new(Answer { id: sentinel.id.clone(), named, master: Some(master) }));
                Heard { sentinel: sentinel.clone(), answer }
            })
            .collect();
        let as_replica = ServerRole::Replica { of: "10.0.0.3:6379".into(), link_up: false, link_down_for: None };
        let replica = Instance { role: as_replica, ..Instance::default() };
        let asks = |named, me, local| turned(&record, &heard, named, me, local).len();
        assert_eq!(asks("node1", "node1", &replica), 3);
        assert_eq!(asks("node1", "node2", &replica), 0);
        let primary = Instance { role: ServerRole::Primary { replicas: vec![] }, ..Instance::default() };
        assert_eq!(asks("node1", "node1", &primary), 0);

        let clock = Clock(Instant::now());
        let free = [record.sentinels()[1].address];
        let mut since = None;
        let mut see = |seconds, free: &[SocketAddr]| has_turned(&mut since, clock.at(seconds), free);
        assert_eq!([see(0.0, &free), see(4.9, &free), see(5.0, &free), see(6.0, &[])], [false, false, true, false]);
        assert_eq!([see(7.0, &free), see(11.9, &free), see(12.0, &free)], [false, false, true], "anew");
    }

    #[test]
    fn only_a_quorum_has_lost_a_node() {
        let node = |name: &str, online| NodeState { name: name.to_owned(), online, ..NodeState::default() };
        let nodes =
            || vec![node("Node1", false), NodeState { pending: true, ..node("node2", false) }, node("node3", true)];
        let shown = |quorum| CrmMon { quorum, nodes: nodes(), ..CrmMon::default() };
        let lost = |quorum, node| has_lost(&shown(quorum), node);
        assert!(lost(Some(true), "node1"));
        assert!(!lost(Some(false), "node1") && !lost(None, "node1"), "all others are off for one that is alone");
        assert!(!lost(Some(true), "node2"), "it is joining");
        assert!(!lost(Some(true), "node3") && !lost(Some(true), "node4"));
    }

    #[test]
    fn a_failover_of_another_node_holds_up_none_of_this_one() {
        let clock = Clock(Instant::now());
        let (mut hands_over, mut begins) = (Damping::default(), Damping::default());
        begins.asked(clock.at(0.0));
        assert!(!begins.may(clock.at(19.9)) && begins.may(clock.at(20.0)) && hands_over.may(clock.at(0.1)));
        hands_over.looks(clock.at(1.0));
        assert!(!hands_over.may(clock.at(5.9)) && hands_over.may(clock.at(6.0)));
        begins.asked(clock.at(20.0));
        assert!(!begins.may(clock.at(59.9)) && begins.may(clock.at(60.0)));
        begins.promoted();
        begins.asked(clock.at(60.0));
        assert!(begins.may(clock.at(80.0)));
        // Or when it is long past.
        begins.asked(clock.at(80.0));
        assert!(!begins.may(clock.at(119.9)));
        begins.asked(clock.at(800.0));
        assert!(begins.may(clock.at(820.0)));
    }

    #[test]
    fn who_follows_can_take_over() {
        let replica = |link_up| ServerRole::Replica { of: "10.0.0.1:6379".into(), link_up, link_down_for: None };
        let with = |role| Instance { role, priority: 100, ..Instance::default() };
        assert_eq!(can_take_over(&with(replica(true))), Ok(()));
        assert!(can_take_over(&with(replica(false))).is_err());
        assert!(can_take_over(&with(ServerRole::Primary { replicas: vec![] })).is_err());
        assert!(can_take_over(&Instance { priority: 0, ..with(replica(true)) }).is_err());
        assert!(can_take_over(&Instance { loading: true, ..with(replica(true)) }).is_err());
    }
}
