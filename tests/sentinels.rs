//! What the lease's model (tests/model.rs) and the keeper assume of Sentinel, asked of real ones: of Redis, and of Valkey where the
//! bed's Debian 13 has been made; under scripts/test, which makes it, they fail where it has not. Needs root.
//!
//! Two nodes, each on a wire of its own to the Sentinel's host. A line is cut as a network cuts it: its packets are dropped, and its
//! owner may give it up or end without anybody hearing of it.

#[allow(dead_code)] // Shared with tests/gate.rs, which uses all of it.
mod support;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Barrier, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rolegate::lease::mark::{self, Marks};
use rolegate::lease::{Mark, Seen};
use rolegate::server::Value;
use rolegate::wire::{self, Replies};
use support::{Ns, SOON, eventually, sh};

const MASTER: &str = "mymaster";
const PORT: u16 = 26379;
/// How long something is watched that must not change.
const WHILE: Duration = Duration::from_secs(3);

/// Where the bed keeps what it makes its hosts from.
const ROOTS: &str = "/var/lib/rolegate-bed/roots";

/// Set where all that a trial needs is to be there: scripts/test sets it.
const ALL: &str = "ROLEGATE_TEST_ALL";

/// A trial with a Sentinel of its own.
type Case = fn(&World);

fn main() {
    let arguments = Arguments::from_args();
    let valkey = valkey_root();
    if !arguments.list {
        support::isolate();
    }
    let all: [(&str, Case); 8] = [
        ("a_mark_that_is_acknowledged_is_seen_at_once", seen_at_once),
        ("behind_its_own_mark_one_of_two_sees_the_other", one_of_two_sees_the_other),
        ("a_line_whose_host_is_cut_off_stays_with_its_mark", half_open_stays),
        ("a_mark_that_was_given_up_arrives_late_and_counts", late_mark),
        ("a_connection_that_was_given_up_arrives_late_and_counts", late_connection),
        ("ids_grow_and_begin_anew_with_the_process", ids),
        ("a_restart_ends_all_lines_also_those_that_nobody_has_accepted", restart),
        ("a_ping_is_answered_with_its_word_behind_all_else", ping),
    ];
    let mut trials = Vec::new();
    let needs_all = std::env::var_os(ALL).is_some();
    for (server, root, there) in [("redis", None, true), ("valkey", valkey.clone(), valkey.is_some())] {
        for (name, run) in all {
            let root = root.clone();
            let trial = Trial::test(format!("{server}::{name}"), move || {
                if !there {
                    return Err(format!("no Debian with Valkey in {ROOTS}: cargo test --test bed makes one").into());
                }
                run(&World::new(root.as_deref()));
                Ok(())
            });
            trials.push(trial.with_ignored_flag(!there && !needs_all));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// The root of a Debian with Valkey, if the bed has made one.
fn valkey_root() -> Option<PathBuf> {
    let roots = std::fs::read_dir(ROOTS).ok()?;
    roots.flatten().map(|entry| entry.path()).find(|root| root.join("usr/bin/valkey-server").exists())
}

/// A Sentinel, and two nodes that are wired to it.
struct World {
    host: Ns,
    nodes: [Ns; 2],
    /// What the Sentinel's program is started with, in the host's network.
    program: Vec<String>,
    sentinel: Mutex<Option<Child>>,
}

impl World {
    fn new(root: Option<&Path>) -> Self {
        let world = World {
            host: Ns::new("sentinel"),
            nodes: [Ns::new("node-a"), Ns::new("node-b")],
            program: match root {
                None => vec!["redis-server".to_owned()],
                Some(root) => vec!["chroot".to_owned(), overlay(root), "/usr/bin/valkey-server".to_owned()],
            },
            sentinel: Mutex::new(None),
        };
        let host = world.host.name();
        for (index, node) in world.nodes.iter().enumerate() {
            let node = node.name();
            sh(&format!(
                "ip link add to-{index} netns {host} type veth peer name lan netns {node}
                 ip -n {host} addr add 10.8.{index}.1/24 dev to-{index}; ip -n {node} addr add 10.8.{index}.2/24 dev lan
                 ip -n {host} link set to-{index} up; ip -n {node} link set lan up"
            ));
        }
        world.start();
        world
    }

    /// Starts the Sentinel. It monitors nobody who answers: that is no part of this.
    fn start(&self) {
        let name = format!("/run/{}.conf", self.host.name());
        let down_after = format!("sentinel down-after-milliseconds {MASTER} 3600000");
        let configuration = format!(
            "port {PORT}\nprotected-mode no\nbind 0.0.0.0\nsentinel monitor {MASTER} 10.8.0.2 6379 2\n{down_after}\n"
        );
        std::fs::write(self.root().join(&name[1..]), configuration).unwrap();
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.host.name())).args(["setpriv", "--pdeathsig", "KILL"]);
        command.args(&self.program).args([&name, "--sentinel", "--dir", "/run"]);
        *self.sentinel.lock().unwrap() = Some(command.stdout(Stdio::null()).spawn().unwrap());
        eventually("the Sentinel answers", || self.host.pings(SocketAddr::from(([127, 0, 0, 1], PORT))));
    }

    /// What the Sentinel takes for the root.
    fn root(&self) -> PathBuf {
        if self.program.len() == 1 { "/".into() } else { self.program[1].clone().into() }
    }

    fn stop(&self) {
        if let Some(mut sentinel) = self.sentinel.lock().unwrap().take() {
            sentinel.kill().unwrap();
            sentinel.wait().unwrap();
        }
    }

    fn signal(&self, signal: Signal) {
        let sentinel = self.sentinel.lock().unwrap();
        kill(Pid::from_raw(sentinel.as_ref().unwrap().id().try_into().unwrap()), signal).unwrap();
    }

    /// A connection from node `index`.
    fn connect(&self, index: usize) -> Line {
        let address = SocketAddr::from(([10, 8, index as u8, 1], PORT));
        let stream = self.nodes[index].run(|| TcpStream::connect_timeout(&address, SOON)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        Line { stream, replies: Replies::default() }
    }

    /// A connection from node `index` with a mark that is acknowledged.
    fn line(&self, index: usize, mark: Mark) -> Line {
        let mut line = self.connect(index);
        assert_eq!(line.ask(&[&set(index, mark)]), [Value::Okay]);
        line
    }

    /// Drops every packet between node `index` and the Sentinel.
    fn cut(&self, index: usize) {
        let rule = |hook: &str, way: &str| {
            format!(
                "nft add chain inet cut {hook}-{index} '{{ type filter hook {hook} priority -400; }}'
                 nft add rule inet cut {hook}-{index} {way} to-{index} drop"
            )
        };
        self.host.sh(&format!("nft add table inet cut\n{}\n{}", rule("input", "iifname"), rule("output", "oifname")));
    }

    fn mend(&self) {
        self.host.sh("nft delete table inet cut");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A root to write in, over one that stays as it is. It goes with this process' mounts.
fn overlay(root: &Path) -> String {
    static MADE: OnceLock<String> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        sh(&format!(
            "mkdir -p /run/valkey/upper /run/valkey/work /run/valkey/root
             mount -t overlay overlay -o lowerdir={},upperdir=/run/valkey/upper,workdir=/run/valkey/work /run/valkey/root
             mount -t proc proc /run/valkey/root/proc; mount --bind /dev /run/valkey/root/dev",
            root.display()
        ));
        "/run/valkey/root".to_owned()
    });
    made.clone()
}

const NODES: [&str; 2] = ["a", "b"];

fn held(nonce: u64) -> Mark {
    Mark::Held { length: 2_000_000, nonce }
}

/// CLIENT SETNAME as the keeper of node `index` sends it.
fn set(index: usize, mark: Mark) -> [String; 3] {
    ["CLIENT".to_owned(), "SETNAME".to_owned(), mark::text(MASTER, NODES[index], &mark)]
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn list() -> Vec<String> {
    words(["CLIENT", "LIST", "TYPE", "normal"])
}

/// A connection to the Sentinel.
struct Line {
    stream: TcpStream,
    replies: Replies,
}

impl Line {
    fn send<W: AsRef<[String]>>(&mut self, commands: &[W]) {
        let commands: Vec<&[String]> = commands.iter().map(AsRef::as_ref).collect();
        self.stream.write_all(&wire::pack(&commands)).unwrap();
    }

    fn reply(&mut self) -> Value {
        loop {
            if let Some(reply) = self.replies.next_reply().unwrap() {
                return reply;
            }
            let mut buffer = [0; 16 << 10];
            match self.stream.read(&mut buffer) {
                Ok(0) => panic!("the connection was closed"),
                Ok(read) => self.replies.received(&buffer[..read]),
                Err(error) => panic!("no reply: {error}"),
            }
        }
    }

    fn ask<W: AsRef<[String]>>(&mut self, commands: &[W]) -> Vec<Value> {
        self.send(commands);
        commands.iter().map(|_| self.reply()).collect()
    }

    /// The marks of node `index` by their lines' ids, as a keeper sees them.
    fn look(&mut self, index: usize) -> BTreeMap<u64, Option<Mark>> {
        let replies = self.ask(&[list()]);
        marks(&replies[0], index)
    }

    fn says_nothing(&mut self) {
        self.stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let read = self.stream.read(&mut [0; 64]);
        assert!(read.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "{read:?}");
    }

    /// Without a word before.
    fn is_ended(&mut self) {
        self.stream.set_read_timeout(Some(SOON)).unwrap();
        let read = self.stream.read(&mut [0; 64]);
        let reset = read.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset);
        assert!(reset || matches!(read, Ok(0)), "{read:?}");
    }
}

fn marks(reply: &Value, index: usize) -> BTreeMap<u64, Option<Mark>> {
    let Value::BulkString(text) = reply else { panic!("no list of clients: {reply:?}") };
    let seen = Marks::read(std::str::from_utf8(text).unwrap()).of(MASTER, &NODES.map(str::to_owned));
    seen.into_iter()
        .filter(|seen: &Seen<String>| seen.node == NODES[index])
        .map(|seen| (seen.line, seen.mark))
        .collect()
}

/// The one line there is.
fn only(seen: &BTreeMap<u64, Option<Mark>>) -> (u64, Option<Mark>) {
    assert_eq!(seen.len(), 1, "{seen:?}");
    seen.iter().next().map(|(line, mark)| (*line, *mark)).unwrap()
}

fn seen_at_once(world: &World) {
    // Other clients make no difference.
    let _others: Vec<Line> = (0..200).map(|_| world.connect(0)).collect();
    let mut line = world.line(0, Mark::Closed);
    let mut other = world.connect(1);
    let (id, mark) = only(&other.look(0));
    assert_eq!(mark, Some(Mark::Closed));
    for nonce in 0..1000 {
        let mark = if nonce % 3 == 0 { Mark::Closed } else { held(nonce) };
        assert_eq!(line.ask(&[set(0, mark)]), [Value::Okay]);
        assert_eq!(only(&other.look(0)), (id, Some(mark)), "after {nonce} marks");
    }
    drop(line);
    eventually("a line whose end was heard of goes", || other.look(0).is_empty());
}

/// Two keepers ask at the same moment, each by one write: SETNAME, the questions, LIST. A reply of LIST shows at least all
/// marks whose questions were answered, and its own; so not both miss the other's, and whoever is missed had not asked.
fn one_of_two_sees_the_other(world: &World) {
    const ROUNDS: u64 = 2000;
    let barrier = Barrier::new(2);
    let ask = |index: usize| -> Vec<bool> {
        let mut line = world.line(index, Mark::Closed);
        let other = 1 - index;
        let mut saw = Vec::new();
        for round in 1..=ROUNDS {
            barrier.wait();
            let replies = line.ask(&[
                set(index, held(round)).to_vec(),
                words(["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]),
                words(["SENTINEL", "MASTER", MASTER]),
                words(["SENTINEL", "MYID"]),
                list(),
            ]);
            assert_eq!(replies[0], Value::Okay);
            assert_eq!(only(&marks(&replies[4], index)).1, Some(held(round)), "its own mark, behind which it looks");
            let (_, theirs) = only(&marks(&replies[4], other));
            let before = if round == 1 { Mark::Closed } else { held(round - 1) };
            assert!(theirs == Some(held(round)) || theirs == Some(before), "{round}: {theirs:?}");
            saw.push(theirs == Some(held(round)));
            barrier.wait();
        }
        saw
    };
    let (ours, theirs) = thread::scope(|scope| {
        let other = scope.spawn(|| ask(1));
        (ask(0), other.join().unwrap())
    });
    let mut first = [0, 0, 0];
    for (round, both) in ours.iter().zip(&theirs).enumerate() {
        match both {
            (false, false) => panic!("round {round}: neither saw the other"),
            (true, false) => first[0] += 1,
            (false, true) => first[1] += 1,
            (true, true) => first[2] += 1,
        }
    }
    println!("of {ROUNDS}: the second saw the first {first:?} (b first, a first, each the other)");
    assert!(first[0] + first[1] > 0, "they never met: {first:?}");
}

fn half_open_stays(world: &World) {
    let line = world.line(0, held(7));
    let killed = world.line(0, held(8));
    let mut other = world.connect(1);
    let before = other.look(0);
    assert_eq!(before.values().copied().collect::<Vec<_>>(), [Some(held(7)), Some(held(8))]);
    world.cut(0);
    // The one's host is gone. The other's process is reset, which is said once, and nobody hears it.
    let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    nix::sys::socket::setsockopt(&killed.stream, nix::sys::socket::sockopt::Linger, &at_once).unwrap();
    drop(killed);
    let watch = |other: &mut Line, what: &str| {
        let until = Instant::now() + WHILE;
        while Instant::now() < until {
            assert_eq!(other.look(0), before, "{what}");
            thread::sleep(Duration::from_millis(50));
        }
    };
    watch(&mut other, "cut off");
    // Its network is back. A new line stands beside the old ones, and says nothing of them.
    world.mend();
    let _new = world.line(0, Mark::Closed);
    let seen = other.look(0);
    assert_eq!(seen.len(), 3, "{seen:?}");
    let (newest, mark) = seen.iter().next_back().unwrap();
    assert!(mark == &Some(Mark::Closed) && before.keys().all(|old| old < newest), "{seen:?}");
    drop(line);
    let there = |other: &mut Line, nonce: u64| other.look(0).values().any(|mark| *mark == Some(held(nonce)));
    eventually("a line goes whose end is heard of", || !there(&mut other, 7));
    assert!(there(&mut other, 8), "{:?}", other.look(0));
}

fn late_mark(world: &World) {
    for gives_up in [false, true] {
        let mut line = world.line(0, held(1));
        let mut other = world.connect(1);
        let (id, _) = only(&other.look(0));
        world.cut(0);
        line.send(&[set(0, held(2))]);
        line.says_nothing();
        if gives_up {
            // What its kernel has taken it goes on sending, and the end behind it.
            line.stream.shutdown(Shutdown::Both).unwrap();
        }
        assert_eq!(only(&other.look(0)), (id, Some(held(1))), "not there yet");
        world.mend();
        // Sent again after 0.2 s, then twice that, and so on.
        let until = Instant::now() + 3 * SOON;
        loop {
            let seen = other.look(0);
            match seen.get(&id) {
                Some(Some(mark)) if *mark == held(2) && !gives_up => break,
                // Its mark and its end come together.
                None if gives_up => break,
                Some(Some(mark)) => assert!(*mark == held(1) || *mark == held(2), "{seen:?}"),
                _ => panic!("the line is gone: {seen:?}"),
            }
            assert!(Instant::now() < until, "what was sent before does not come: {seen:?}");
        }
        if !gives_up {
            assert_eq!(line.reply(), Value::Okay, "acknowledged when nobody waits for it any more");
        }
        drop(line);
        eventually("it is gone", || other.look(0).is_empty());
    }
}

/// Made while the Sentinel stands still, and given up before it goes on; the host is cut off before its end is heard of.
fn late_connection(world: &World) {
    let _first = world.line(0, held(1));
    let mut other = world.connect(1);
    let (first, _) = only(&other.look(0));
    world.signal(Signal::SIGSTOP);
    let mut late = world.connect(0);
    late.send(&[set(0, Mark::Closed)]);
    late.says_nothing();
    world.cut(0);
    drop(late);
    // Meanwhile its owner has opened by its other line.
    world.signal(Signal::SIGCONT);
    eventually("the connection that was given up counts", || {
        let seen = other.look(0);
        seen.len() == 2 && seen.iter().next_back().is_some_and(|(id, mark)| *id > first && *mark == Some(Mark::Closed))
    });
    let seen = other.look(0);
    assert_eq!(seen.get(&first), Some(&Some(held(1))), "the older line stays as it was");
    let until = Instant::now() + WHILE;
    while Instant::now() < until {
        assert_eq!(other.look(0), seen, "half-open, with its mark");
        thread::sleep(Duration::from_millis(50));
    }
    world.mend();
}

fn ids(world: &World) {
    let ids = |world: &World| -> Vec<u64> {
        let mut other = world.connect(1);
        let mut ids = Vec::new();
        for nonce in 0..30 {
            // Some go at once: no id comes twice.
            let line = world.line(0, held(nonce));
            let seen = other.look(0);
            let (id, _) = seen.iter().find(|(_, mark)| **mark == Some(held(nonce))).unwrap();
            ids.push(*id);
            if nonce % 2 == 0 {
                drop(line);
            } else {
                std::mem::forget(line);
            }
        }
        ids
    };
    let before = ids(world);
    assert!(before.is_sorted_by(|one, next| one < next), "{before:?}");
    world.stop();
    world.start();
    let mut other = world.connect(1);
    assert_eq!(other.look(0), BTreeMap::new(), "nothing is left of the process before");
    let after = ids(world);
    assert!(after.is_sorted_by(|one, next| one < next), "{after:?}");
    assert!(after[0] <= before[0] + 3, "they begin anew: {before:?}, {after:?}");
    assert!(after.iter().any(|id| before.contains(id)), "what was another's: {before:?}, {after:?}");
}

/// The kernel takes connections and marks for a Sentinel that stands still. They are that process', not the next one's at its port.
fn restart(world: &World) {
    let mut accepted = world.line(0, held(1));
    world.signal(Signal::SIGSTOP);
    let mut waiting = world.connect(0);
    waiting.send(&[set(0, held(2))]);
    waiting.says_nothing();
    let from = waiting.stream.local_addr().unwrap();
    let unread = world.host.sh(&format!("ss -Htn state established dst {from} | awk '{{ print $1 }}'"));
    let mark = wire::pack(&[&set(0, held(2))[..]]).len();
    assert_eq!(unread.trim(), mark.to_string(), "the mark waits to be read");
    world.stop();
    world.start();
    let mut other = world.connect(1);
    let Value::BulkString(text) = other.ask(&[list()]).remove(0) else { panic!("no list of clients") };
    let text = String::from_utf8(text).unwrap();
    assert!(!text.contains(" addr=10.8.0.2:"), "a line of the process before: {text}");
    accepted.is_ended();
    waiting.is_ended();
}

/// A keeper takes over the line of the one before it, which may have left questions on it.
fn ping(world: &World) {
    let mut line = world.line(0, held(1));
    let mut other = world.connect(1);
    let before = only(&other.look(0));
    let left = [words(["SENTINEL", "MASTER", MASTER]), list(), set(0, held(2)).to_vec(), words(["SENTINEL", "MYID"])];
    line.send(&left);
    let word = "0123456789abcdef0123456789abcdef";
    let mut taken = Line { stream: line.stream.try_clone().unwrap(), replies: Replies::default() };
    taken.send(&[words(["PING", word]), words(["PING", ""])]);
    drop(line);
    for _ in left {
        assert_ne!(taken.reply(), Value::BulkString(word.into()));
    }
    assert_eq!(taken.reply(), Value::BulkString(word.into()));
    assert_eq!(taken.reply(), Value::BulkString(Vec::new()));
    assert_eq!(only(&other.look(0)), (before.0, Some(held(2))), "the same line");
    // Byte by byte as it is looked for.
    taken.send(&[words(["PING", word])]);
    let mut raw = vec![0; word.len() + 7];
    taken.stream.read_exact(&mut raw).unwrap();
    assert_eq!(String::from_utf8(raw).unwrap(), format!("$32\r\n{word}\r\n"));
}
