//! What is seen from outside the nodes, on one clock: which nodes' read-write ports are open in the firewall, and
//! whom each Sentinel names.
//!
//! For each node two threads of this program go into its network namespace, where its firewall and its Sentinel
//! answer whatever is cut, frozen or refused: one reads the firewall each [`EACH`], one asks the Sentinel each
//! [`ASK_EACH`], both before all others. An opening that lies wholly between two looks at a node is not seen, and [`Seen::pauses`] says
//! how long two looks were apart: a few milliseconds 99 of 100 times, more where the machine takes its processors away.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::SockProtocol;
use nix::unistd::Pid;
use redis::{Client, Connection};
use rolegate::command::Cmd;
use rolegate::gate::iptables::{ipset, plan};
use rolegate::gate::netlink::Socket;
use rolegate::gate::nft;

use super::host::leader_in;
use super::spread::percentile;
use super::variant::MYMASTER;
use super::{Bed, NODES, address};

/// The time from one look at a firewall to the next: half of what is wanted ([`WANTED`]), for a look or a processor may be late.
const EACH: Duration = Duration::from_millis(5);

/// The time from one question to a Sentinel to the next.
const ASK_EACH: Duration = Duration::from_millis(8);

/// How those run who look at firewalls, in chrt's words: before keepers (RR 50) and corosync (RR 99), which keeps a processor for a
/// second and more when it starts. A look costs 0.1 ms; what takes more than 1 ms of 5 waits.
const LOOKING: [&str; 6] =
    ["--deadline", "--sched-runtime=1000000", "--sched-deadline=5000000", "--sched-period=5000000", "--pid", "0"];
/// How those run who ask Sentinels.
const ASKING: [&str; 3] = ["--rr", "--pid", "1"];

/// A firewall is to be read that often: 99 of 100 times.
pub const WANTED: Duration = Duration::from_millis(10);

/// The read-write port.
const RW: u16 = MYMASTER.rw;

/// How long a firewall or a Sentinel may take to answer. A Sentinel that does not names nobody.
const ANSWER: Duration = Duration::from_millis(200);

/// A pause that could hide an overlap worth the name: a run with such a one shows nothing.
///
/// What an overlap costs is what the old primary acknowledges in it, and what would make one here leaves room for far more than this:
/// a successor waits for a tenth of lease and question (0.24 s with the default) behind the moment at which the old lease has run
/// out, a renewal comes each 0.4 s, and a node that closes by itself is seen to be closed over the network first. So an overlap that
/// is wholly shorter than this needs an error that always stays this small. It is as short as a machine of two processors
/// allows, whose hypervisor takes them away for 10 ms and more now and then.
pub const BLIND: Duration = Duration::from_millis(50);

/// A time of a firewall's element may be read that late. Renewals are further apart.
const LONGEST_DELAY: Duration = Duration::from_millis(100);

/// How often a node that is off is looked for: it needs seconds to boot.
const LOOK_FOR: Duration = Duration::from_millis(100);

/// Watching.
pub struct Watch {
    begun: Instant,
    stop: Arc<AtomicBool>,
    gates: Vec<JoinHandle<Result<Looks>>>,
    named: Vec<JoinHandle<Result<Named>>>,
    stall: Vec<JoinHandle<Result<Duration>>>,
}

/// What one node's firewall held.
#[derive(Debug, Default)]
struct Looks {
    open: Vec<Span>,
    /// Whether the last look saw it open.
    is_open: bool,
    /// When the last look that saw it closed began.
    was_closed: Option<Instant>,
    /// The times from one look to the next while the node was on: from asking to the next one's answer, which is the longest that
    /// anything can have gone unseen.
    pauses: Vec<Duration>,
    /// The ends that each open port was given, one after the other.
    ends: Vec<Instant>,
}

/// From the first to the last of looks in a row that all saw an open port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    from: Instant,
    to: Instant,
    /// It was closed at some moment behind this one; None: never seen closed before.
    not_before: Option<Instant>,
    /// And at some moment before this one; None: not seen closed since.
    not_behind: Option<Instant>,
}

/// Whom one Sentinel named from when on: the address; None where it did not answer.
type Named = Vec<(Instant, Option<String>)>;

/// What was seen.
#[derive(Debug)]
pub struct Seen {
    /// In the order of [`NODES`].
    gates: Vec<Looks>,
    named: Vec<Named>,
    stalled: Duration,
    begun: Instant,
    ended: Instant,
}

/// How closely was watched.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pauses {
    /// The longest time that anything can have gone unseen.
    pub longest: Duration,
    /// 99 of 100 times between two looks were shorter, or as long.
    pub p99: Duration,
    /// The part of the time, 0 to 1, that passed in pauses of more than [`WANTED`].
    pub part_beyond: f64,
}

impl Pauses {
    fn of(mut all: Vec<Duration>) -> Self {
        all.sort();
        let sum = |pauses: &[Duration]| pauses.iter().sum::<Duration>().as_secs_f64();
        let beyond = &all[all.partition_point(|pause| *pause <= WANTED)..];
        Pauses {
            longest: all.last().copied().unwrap_or_default(),
            p99: percentile(&all, 99).copied().unwrap_or_default(),
            part_beyond: if beyond.is_empty() { 0.0 } else { sum(beyond) / sum(&all) },
        }
    }
}

impl Watch {
    /// Starts watching all nodes.
    pub fn start(bed: &Bed) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut gates, mut named) = (Vec::new(), Vec::new());
        for node in NODES {
            let root = bed.host_dir(node).join("root");
            let (there, stopped) = (root.clone(), Arc::clone(&stop));
            let iptables = bed.options().iptables;
            gates.push(thread::spawn(move || look(Visitor::new(there, &LOOKING)?, iptables, &stopped)));
            let stopped = Arc::clone(&stop);
            named.push(thread::spawn(move || ask(Visitor::new(root, &ASKING)?, &stopped)));
        }
        let stopped = Arc::clone(&stop);
        let stall = vec![thread::spawn(move || Ok(stall(&stopped)))];
        Watch { begun: Instant::now(), stop, gates, named, stall }
    }

    /// Ends it.
    ///
    /// # Errors
    /// When a node could not be watched: then what was seen proves nothing.
    pub fn stop(mut self) -> Result<Seen> {
        let ended = Instant::now();
        self.stop.store(true, Ordering::Relaxed);
        let (gates, named) = (join(&mut self.gates)?, join(&mut self.named)?);
        let stalled = join(&mut self.stall)?.into_iter().max().unwrap_or_default();
        Ok(Seen { gates, named, stalled, begun: self.begun, ended })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn join<T>(threads: &mut Vec<JoinHandle<Result<T>>>) -> Result<Vec<T>> {
    threads.drain(..).map(|thread| thread.join().map_err(|_| anyhow!("a watching thread panicked"))?).collect()
}

/// A thread's way into the network of one node, through the node's power cuts and boots.
struct Visitor {
    root: PathBuf,
    /// The network in which the thread began: it must not keep that of a node that is gone.
    home: File,
    there: Option<(Pid, u64)>,
}

/// What became of a visit.
#[derive(PartialEq, Eq)]
enum Visit {
    /// The thread is where it was before.
    Same,
    /// The thread is in the network of a node that has just booted.
    New,
    /// The node is off.
    Off,
}

/// Has this thread run as `how` says: what is watched keeps all processors busy. Where the machine does not allow it, pauses are
/// longer, and reported.
fn run_as(how: &[&str]) {
    let this = nix::unistd::gettid().to_string();
    let set = |how: &[&str]| Cmd::new("chrt").args(how).arg(&this).run();
    // On another thread: one that runs by deadlines can start no others, and a command has some.
    let done = thread::scope(|scope| scope.spawn(|| set(how).or_else(|_| set(&ASKING))).join());
    if let Ok(Err(error)) = done {
        eprintln!("watching without priority: {error}");
    }
}

impl Visitor {
    fn new(root: PathBuf, how: &[&str]) -> Result<Self> {
        run_as(how);
        Ok(Visitor { root, home: File::open("/proc/thread-self/ns/net")?, there: None })
    }

    fn visit(&mut self) -> Result<Visit> {
        let namespace = |pid: Pid| format!("/proc/{pid}/ns/net");
        if let Some((pid, ino)) = self.there {
            // A zombie has none, and another process of the same id another one.
            if fs::metadata(namespace(pid)).is_ok_and(|meta| meta.ino() == ino) {
                return Ok(Visit::Same);
            }
            self.there = None;
            setns(&self.home, CloneFlags::CLONE_NEWNET)?;
        }
        let Some(pid) = leader_in(&self.root)? else { return Ok(Visit::Off) };
        // Gone between the two.
        let Ok(net) = File::open(namespace(pid)) else { return Ok(Visit::Off) };
        setns(&net, CloneFlags::CLONE_NEWNET).context("entering a node's network")?;
        self.there = Some((pid, net.metadata()?.ino()));
        Ok(Visit::New)
    }
}

/// How long the read-write port is open yet in the firewall of the network in which `socket` was made; None: it is closed. The
/// element alone is asked for, on a socket that is kept: it costs the kernel next to nothing, and waits for nobody who is
/// just changing the rules.
fn open_for(socket: &mut Socket, iptables: bool) -> io::Result<Option<Duration>> {
    socket.set_deadline(Instant::now() + ANSWER)?;
    if iptables {
        let set = ipset::read(socket, &plan::open_set(RW))?;
        let left = set.and_then(|set| set.ports.get(&RW).copied());
        return Ok(left.map(|left| left.map_or(Duration::MAX, |seconds| Duration::from_secs(seconds.into()))));
    }
    Ok(nft::seen::port(socket, RW)?.open.map(|left| left.unwrap_or(Duration::MAX)))
}

fn look(mut visitor: Visitor, iptables: bool, stop: &AtomicBool) -> Result<Looks> {
    let mut looks = Looks::default();
    let mut socket = None;
    let mut last = None;
    let mut stopped = false;
    while !stopped {
        // One more look when told to stop: what was seen reaches to the end.
        stopped = stop.load(Ordering::Relaxed);
        let asked = Instant::now();
        let visit = visitor.visit()?;
        if visit != Visit::Same {
            (socket, last) = (None, None);
        }
        if visit == Visit::Off {
            looks.add(asked, asked, false);
            thread::sleep(LOOK_FOR);
            continue;
        }
        let socket = match &mut socket {
            Some(socket) => socket,
            none => none.insert(Socket::open(SockProtocol::NetlinkNetFilter, asked + ANSWER).context("netlink")?),
        };
        // Where its rules change all the time, the pause grows.
        if let Ok(left) = open_for(socket, iptables) {
            let answered = Instant::now();
            looks.add(asked, answered, left.is_some());
            if let Some(end) = left.and_then(|left| answered.checked_add(left)) {
                looks.renewed(end);
            }
            looks.pauses.extend(last.map(|last| answered - last));
            last = Some(asked);
        }
        thread::sleep(EACH.saturating_sub(asked.elapsed()));
    }
    Ok(looks)
}

impl Looks {
    /// Adds a look. The port was as seen at some moment from `asked` to `answered`, so a span begins with the answer
    /// and ends with the question: what is counted as open was open.
    fn add(&mut self, asked: Instant, answered: Instant, open: bool) {
        match self.open.last_mut() {
            Some(span) if open && self.is_open => span.to = asked,
            Some(span) if self.is_open => span.not_behind = Some(answered),
            _ if open => {
                let not_before = self.was_closed;
                self.open.push(Span { from: answered, to: answered, not_before, not_behind: None });
            }
            _ => {}
        }
        self.is_open = open;
        if !open {
            self.was_closed = Some(asked);
        }
    }
}

impl Looks {
    /// The port is seen to be open until `end`. One that is a little later is the same one, read with a delay.
    fn renewed(&mut self, end: Instant) {
        if self.ends.last().is_none_or(|last| end.saturating_duration_since(*last) > LONGEST_DELAY) {
            self.ends.push(end);
        }
    }
}

/// The longest time for which this thread, which is an ordinary one, did not run.
fn stall(stop: &AtomicBool) -> Duration {
    let mut longest = Duration::ZERO;
    let mut last = (Instant::now(), SystemTime::now());
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(EACH);
        let now = (Instant::now(), SystemTime::now());
        let by_wall = now.1.duration_since(last.1).unwrap_or_else(|back| back.duration());
        longest = longest.max(now.0 - last.0).max(by_wall);
        last = now;
    }
    longest
}

fn ask(mut visitor: Visitor, stop: &AtomicBool) -> Result<Named> {
    let mut named = Named::new();
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let visit = visitor.visit()?;
        if visit != Visit::Same {
            connection = None;
        }
        let answer = if visit == Visit::Off { None } else { name(&mut connection).ok() };
        if named.last().is_none_or(|(_, last)| *last != answer) {
            named.push((Instant::now(), answer));
        }
        thread::sleep(if visit == Visit::Off { LOOK_FOR } else { ASK_EACH.saturating_sub(begun.elapsed()) });
    }
    Ok(named)
}

/// Whom the Sentinel in this thread's network names.
fn name(connection: &mut Option<Connection>) -> Result<String> {
    // Put back only when it has answered.
    let mut asking = match connection.take() {
        Some(connection) => connection,
        None => {
            let connection = Client::open(("127.0.0.1", 26379))?.get_connection_with_timeout(ANSWER)?;
            connection.set_read_timeout(Some(ANSWER))?;
            connection
        }
    };
    let (ip, _port): (String, u16) =
        redis::cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg("mymaster").query(&mut asking)?;
    *connection = Some(asking);
    Ok(ip)
}

/// The times between which a port was seen open.
fn seen(span: &Span) -> (Instant, Instant) {
    (span.from, span.to)
}

impl Seen {
    /// For how long more than one node's read-write port was open. It is at least the time from one look to the next where there was such a
    /// moment: nobody knows how long an overlap was that one look alone saw.
    pub fn two_open(&self) -> Duration {
        let lasted = self.lasting(|open| open > 1);
        if self.meet() { lasted.max(EACH) } else { lasted }
    }

    /// The same if each port was open all the time from the last look that saw it closed to the first that did so again: what it cannot have
    /// been longer, but for openings that no look saw. Where one port opens within a look's time behind another's closing it is not 0.
    pub fn two_open_at_most(&self) -> Duration {
        let outer = |span: &Span| (span.not_before.unwrap_or(self.begun), span.not_behind.unwrap_or(self.ended));
        self.lasting_since(self.begun, outer, |open| open > 1)
    }

    /// Whether there was a moment at which more than one node was seen open.
    fn meet(&self) -> bool {
        let spans: Vec<(usize, &Span)> = self
            .gates
            .iter()
            .enumerate()
            .flat_map(|(node, looks)| looks.open.iter().map(move |span| (node, span)))
            .collect();
        let meets = |&(node, span): &(usize, &Span)| {
            spans.iter().any(|(other, of)| *other != node && span.from <= of.to && of.from <= span.to)
        };
        spans.iter().any(meets)
    }

    /// For how long no node's read-write port was open, from `since` on.
    pub fn none_open(&self, since: Instant) -> Duration {
        let open = self.ended.saturating_duration_since(since.max(self.begun));
        open.saturating_sub(self.lasting_since(since, seen, |open| open > 0))
    }

    /// The times between the renewals of a node's open read-write port.
    pub fn renewals(&self, node: &str) -> Vec<Duration> {
        let place = NODES.iter().position(|name| *name == node);
        let ends = place.map(|place| self.gates[place].ends.as_slice()).unwrap_or_default();
        ends.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    /// The times between two looks at one node's firewall, of all nodes.
    pub fn pauses(&self) -> Pauses {
        Pauses::of(self.gates.iter().flat_map(|looks| looks.pauses.iter().copied()).collect())
    }

    /// The longest time for which an ordinary thread of this machine did not run, or by which the wall clock jumped. From
    /// 2 s on Sentinels stop deciding for 30 s (TILT), and what was measured is the machine.
    pub fn stalled(&self) -> Duration {
        self.stalled
    }

    fn lasting(&self, counts: impl Fn(usize) -> bool) -> Duration {
        self.lasting_since(self.begun, seen, counts)
    }

    /// For how long, from `since` on, the number of open ports was one that `counts`, each open `within` its times.
    fn lasting_since(
        &self,
        since: Instant,
        within: impl Fn(&Span) -> (Instant, Instant),
        counts: impl Fn(usize) -> bool,
    ) -> Duration {
        let nodes: Vec<Vec<_>> = self.gates.iter().map(|looks| looks.open.iter().map(&within).collect()).collect();
        let mut edges: Vec<Instant> = nodes.iter().flatten().flat_map(|(from, to)| [*from, *to]).collect();
        edges.extend([since, self.ended]);
        edges.retain(|edge| (since..=self.ended).contains(edge));
        edges.sort();
        let is_open = |spans: &[(Instant, Instant)], pair: &[Instant]| {
            spans.iter().any(|(from, to)| *from <= pair[0] && pair[1] <= *to)
        };
        let open = |pair: &[Instant]| nodes.iter().filter(|spans| is_open(spans, pair)).count();
        edges.windows(2).filter(|pair| counts(open(pair))).map(|pair| pair[1] - pair[0]).sum()
    }

    /// The first node but `old` that a majority of Sentinels named after `since`, and when.
    pub fn successor(&self, old: &str, since: Instant) -> Option<(&'static str, Instant)> {
        let mut moments: Vec<Instant> = self.named.iter().flatten().map(|(at, _)| *at).collect();
        moments.retain(|at| *at >= since);
        moments.sort();
        let names = |log: &Named, at: Instant, node: &str| {
            let last = log.iter().take_while(|(moment, _)| *moment <= at).last();
            last.is_some_and(|(_, named)| named.as_deref() == Some(&address(node)))
        };
        let majority = |at: Instant, node: &str| self.named.iter().filter(|log| names(log, at, node)).count() > 1;
        let chosen = |at: Instant| NODES.into_iter().find(|node| *node != old && majority(at, node));
        moments.into_iter().find_map(|at| Some((chosen(at)?, at)))
    }

    /// When a node's read-write port opened first after `since`; `since` itself where it was open then.
    pub fn opened(&self, node: &str, since: Instant) -> Option<Instant> {
        let place = NODES.iter().position(|name| *name == node)?;
        let span = self.gates.get(place)?.open.iter().find(|span| span.to >= since)?;
        Some(span.from.max(since))
    }

    /// When a node's read-write port, which was open at `since`, was seen open last before it closed; None where it was closed then, or
    /// never closed. It closed within a look's time behind that.
    pub fn closed(&self, node: &str, since: Instant) -> Option<Instant> {
        let place = NODES.iter().position(|name| *name == node)?;
        let looks = self.gates.get(place)?;
        let span = looks.open.iter().find(|span| (span.from..=span.to).contains(&since))?;
        let is_over = !looks.is_open || looks.open.last().is_some_and(|last| last.from > span.to);
        is_over.then_some(span.to)
    }
}

/// That it counts right, on spans made by hand.
///
/// # Errors
/// When it does not.
pub fn counts_right() -> Result<()> {
    let begun = Instant::now();
    let at = |ms: u64| begun + Duration::from_millis(ms);
    // A look from ASKED to ANSWERED, and what it saw.
    let looks = |all: &[(u64, u64, bool)]| {
        let mut looks = Looks::default();
        all.iter().for_each(|(asked, answered, open)| looks.add(at(*asked), at(*answered), *open));
        looks
    };
    let node = |n: &str| Some(address(n));
    let seen = Seen {
        gates: vec![
            looks(&[(0, 1, true), (10, 11, true), (100, 101, true), (110, 111, false), (300, 301, true)]),
            looks(&[(60, 61, false), (70, 72, true), (190, 191, true), (200, 201, false)]),
            looks(&[(0, 1, false)]),
        ],
        named: vec![
            vec![(at(0), node("node1")), (at(50), node("node2"))],
            vec![(at(0), node("node1")), (at(40), None), (at(65), node("node2"))],
            vec![(at(0), node("node1")), (at(90), node("node2"))],
        ],
        stalled: Duration::ZERO,
        begun,
        ended: at(400),
    };
    let of_gates = |gates| Seen { gates, named: Vec::new(), stalled: Duration::ZERO, begun, ended: at(20) };
    // One look at node2 while node1 is open, and one behind that.
    let one_look = |asked: u64| {
        let gates = vec![
            looks(&[(0, 1, true), (5, 6, true), (10, 11, true), (15, 16, false)]),
            looks(&[(asked - 5, asked - 4, false), (asked, asked, true), (asked + 5, asked + 6, false)]),
        ];
        let seen = of_gates(gates);
        (seen.two_open(), seen.two_open_at_most())
    };
    // Of the second nobody knows: node1 is closed at 16 at the latest, node2 open at 7 at the earliest.
    let found = [one_look(8), one_look(12), one_look(21)];
    let wanted = [(5, 11), (0, 9), (0, 0)].map(|both| (Duration::from_millis(both.0), Duration::from_millis(both.1)));
    ensure!(found == wanted, "{found:?}");
    // The end of one opening and the begin of the next one meet, on one node.
    let alone = of_gates(vec![looks(&[(0, 1, true), (5, 8, false), (10, 11, true)])]);
    ensure!(alone.two_open_at_most().is_zero(), "{:?}", alone.two_open_at_most());
    // node1 from 1 to 100 and a moment at 301, node2 from 72 to 190.
    ensure!(seen.two_open() == Duration::from_millis(28), "{:?}", seen.two_open());
    // node1 from the beginning to 111 and from 110 to the end, node2 from 60 to 201.
    ensure!(seen.two_open_at_most() == Duration::from_millis(141), "{:?}", seen.two_open_at_most());
    ensure!(seen.none_open(begun) == Duration::from_millis(211), "{:?}", seen.none_open(begun));
    ensure!(seen.none_open(at(150)) == Duration::from_millis(210), "{:?}", seen.none_open(at(150)));
    ensure!(seen.successor("node1", at(10)) == Some(("node2", at(65))), "{:?}", seen.successor("node1", at(10)));
    ensure!(seen.successor("node2", at(60)).is_none());
    ensure!(seen.opened("node2", at(65)) == Some(at(72)) && seen.opened("node2", at(80)) == Some(at(80)));
    // node1 is open at the end, and was not at 150; node2 is closed.
    let closed = [("node1", 50), ("node1", 150), ("node1", 301), ("node2", 100), ("node3", 0)];
    let closed = closed.map(|(node, since)| seen.closed(node, at(since)));
    ensure!(closed == [Some(at(100)), None, None, Some(at(190)), None], "{closed:?}");
    let pause = |ms: &u64| Duration::from_millis(*ms);
    let pauses = Pauses::of((0..198).map(|_| 8).chain([9, 407]).map(|ms| pause(&ms)).collect());
    ensure!((pauses.longest, pauses.p99) == (pause(&407), pause(&8)), "{pauses:?}");
    ensure!((pauses.part_beyond - 0.2035).abs() < 1e-9, "{pauses:?}");
    ensure!(Pauses::of(Vec::new()) == Pauses::default());
    ensure!(seen.opened("node1", at(101)) == Some(at(301)) && seen.opened("node3", begun).is_none());
    Ok(())
}
