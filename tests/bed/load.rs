//! Writers that count: what was acknowledged, by which server, when, and whether it is still there.
//!
//! A writer runs in the network of one host and knows one address: HAProxy on that host, or a
//! port of a node. It adds numbers to a set of its own, at a bounded rate, keeps its connection as
//! long as it lasts, and remembers for each acknowledgement which server gave it (asked once per
//! connection) and when. Afterwards [`Written::verify`] reads the sets from the primary.
//!
//! Writers are threads of this program: a host that is frozen or without power does not stop the
//! writers in its network, it only takes their network away.
//!
//! When an acknowledgement came is what the kernel says: it stamps a packet when the packet enters the writer's network
//! (SO_TIMESTAMPNS), however long the writer waits for a processor to read it. What comes through HAProxy has waited for HAProxy as
//! well, which is an ordinary process: nobody says for how long, but for no longer than the ordinary threads of this program,
//! whose sleeps tell how late they were woken at most ([`Written::late`]).

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, ErrorKind, IoSliceMut, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use nix::cmsg_space;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::sockopt::ReceiveTimestampns;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt};
use nix::sys::time::TimeSpec;
use redis::{Client, IntoConnectionInfo, RedisConnectionInfo, Value};
use rolegate::wire::{self, Replies};
use serde::Serialize;

use super::Bed;

/// One writer.
#[derive(Debug, Clone, Serialize)]
pub struct Writer {
    /// Its name, which also names its set.
    pub name: String,
    /// The host in whose network it runs.
    pub host: String,
    /// Where it writes.
    pub target: SocketAddr,
    /// Counts a write only when one replica has it (`WAIT 1`).
    pub wait: bool,
}

impl Writer {
    /// A writer through the HAProxy of `host` to its read-write port.
    pub fn through_haproxy(name: &str, host: &str) -> Self {
        let target = SocketAddr::from(([127, 0, 0, 1], 6381));
        Writer { name: name.to_owned(), host: host.to_owned(), target, wait: false }
    }

    /// A writer from `host` straight to a port.
    pub fn to(name: &str, host: &str, target: SocketAddr) -> Self {
        Writer { name: name.to_owned(), host: host.to_owned(), target, wait: false }
    }

    /// The same, counting only what one replica has.
    pub fn waiting(self) -> Self {
        Writer { wait: true, ..self }
    }
}

/// How much is written at most.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Writes per second of each writer.
    pub rate: u32,
    /// It stops by itself after this.
    pub time: Duration,
}

/// A primary from its promotion to its end. A server that is promoted a second time is another: it
/// has another replication id then (Redis makes one at each promotion), or another run id. One whose replicas are all
/// new gets another replication id too (syncCommand in Redis' replication.c), so two of one run id are never each
/// other's successors.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Reign {
    node: String,
    run_id: String,
    replication_id: String,
}

/// Which of two primaries succeeds the other: the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// It is the primary in the end.
    is_last: bool,
    /// Its first acknowledgement.
    first: Instant,
}

/// One acknowledged write.
#[derive(Debug, Clone)]
struct Ack {
    number: u64,
    sent: Instant,
    /// When it came, by the kernel.
    at: Instant,
    by: Arc<Reign>,
}

impl Ack {
    /// Whether it was given behind the moment `first`, although what brings it to the writer may have held it up for `held_up`.
    fn is_behind(&self, first: Instant, held_up: Duration) -> bool {
        first < self.sent || first + held_up < self.at
    }
}

/// What one writer got.
#[derive(Debug)]
struct Log {
    writer: Writer,
    acks: Vec<Ack>,
    errors: u64,
    cut: u64,
    unanswered: u64,
    unconfirmed: u64,
    last_error: String,
    /// How late it was woken at most.
    late: Duration,
}

/// Writers at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    begun: Instant,
    prefix: String,
    threads: Vec<JoinHandle<Result<Log>>>,
}

/// What all writers got.
#[derive(Debug)]
pub struct Written {
    logs: Vec<Log>,
    prefix: String,
    begun: Instant,
    ended: Instant,
}

/// What became of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Writes acknowledged.
    pub acknowledged: usize,
    /// Acknowledged writes that the primary does not have in the end.
    pub lost: usize,
    /// Acknowledged by a primary behind the first acknowledgement of its successor: two primaries took writes at once. Straight to
    /// a node to the microsecond; through HAProxy only what was sent behind it, or came later than HAProxy can have held it up.
    pub stale: usize,
    /// Established connections of writers that the other side cut.
    pub cut: u64,
    /// Attempts on an established connection that nobody answered in time.
    pub unanswered: u64,
    /// Each writer's part.
    pub writers: Vec<WriterReport>,
}

/// One writer's part of a [`Report`].
#[derive(Debug, Clone, Serialize)]
pub struct WriterReport {
    /// Its name.
    pub name: String,
    /// Whether it counted only what one replica had.
    pub wait: bool,
    /// Writes acknowledged to it.
    pub acknowledged: usize,
    /// Of these, those that are not there in the end.
    pub lost: usize,
    /// Of these, the stale ones.
    pub stale: usize,
    /// Its longest time without an acknowledgement, in milliseconds.
    pub longest_gap_ms: u64,
    /// Failed attempts, also to connect.
    pub errors: u64,
    /// Of these, established connections that the other side cut.
    pub cut: u64,
    /// Of these, attempts on an established connection that nobody answered in time.
    pub unanswered: u64,
    /// Of these, writes that the server has, and no replica confirmed in time.
    pub unconfirmed: u64,
    /// The last failure's text.
    pub last_error: String,
    /// The nodes that acknowledged, one entry for each change.
    pub servers: Vec<String>,
}

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_millis(1000);

/// How long a writer waits after a failed attempt.
const BACKOFF: Duration = Duration::from_millis(20);

impl Load {
    /// Starts the writers.
    ///
    /// # Errors
    /// When a writer's host is off.
    pub fn start(bed: &Bed, writers: &[Writer], bounds: Bounds) -> Result<Load> {
        let stop = Arc::new(AtomicBool::new(false));
        let begun = Instant::now();
        // Sets of its own, also where the writers of an earlier load had the same names.
        let prefix = format!("w:{}", UNIX_EPOCH.elapsed()?.as_nanos());
        let mut threads = Vec::new();
        for writer in writers {
            let (writer, stop) = (writer.clone(), Arc::clone(&stop));
            let net = bed.host(&writer.host)?.net()?;
            let key = key(&prefix, &writer);
            let password = bed.options().password();
            threads.push(thread::spawn(move || write(writer, &key, &net, password, bounds, begun, &stop)));
        }
        Ok(Load { stop, begun, prefix, threads })
    }

    /// Stops them and collects what they got.
    ///
    /// # Errors
    /// When a writer could not work at all.
    pub fn stop(mut self) -> Result<Written> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = Instant::now();
        let mut logs = Vec::new();
        for thread in self.threads.drain(..) {
            logs.push(thread.join().map_err(|_| anyhow!("a writer panicked"))??);
        }
        Ok(Written { logs, prefix: std::mem::take(&mut self.prefix), begun: self.begun, ended })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The set of one writer.
fn key(prefix: &str, writer: &Writer) -> String {
    format!("{prefix}:{}", writer.name)
}

fn write(
    writer: Writer,
    key: &str,
    net: &File,
    password: Option<&str>,
    bounds: Bounds,
    begun: Instant,
    stop: &AtomicBool,
) -> Result<Log> {
    setns(net, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering the network of {}", writer.host))?;
    let interval = Duration::from_secs(1) / bounds.rate;
    let mut log = Log {
        writer,
        acks: Vec::new(),
        errors: 0,
        cut: 0,
        unanswered: 0,
        unconfirmed: 0,
        last_error: String::new(),
        late: Duration::ZERO,
    };
    let mut connected: Option<(Talk, Arc<Reign>)> = None;
    let mut number = 0;
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) && begun.elapsed() < bounds.time {
        let result = match &mut connected {
            None => connect(log.writer.target, password).map(|made| connected = Some(made)),
            Some((talk, by)) => {
                number += 1;
                let sent = Instant::now();
                let attempted = attempt(talk, key, number, log.writer.wait);
                match attempted {
                    Err(Trouble::Cut(_)) => log.cut += 1,
                    Err(Trouble::Silent) => log.unanswered += 1,
                    Err(Trouble::Unconfirmed) => log.unconfirmed += 1,
                    Ok(_) | Err(Trouble::Refused(_)) => {}
                }
                attempted
                    .map(|at| log.acks.push(Ack { number, sent, at: at.max(sent), by: Arc::clone(by) }))
                    .map_err(anyhow::Error::from)
            }
        };
        if let Err(error) = result {
            connected = None;
            log.errors += 1;
            log.last_error = error.to_string();
            thread::sleep(BACKOFF);
            next = Instant::now();
            continue;
        }
        next += interval;
        match next.checked_duration_since(Instant::now()) {
            Some(pause) => {
                thread::sleep(pause);
                log.late = log.late.max(next.elapsed());
            }
            // Behind: no burst to catch up.
            None => next = Instant::now(),
        }
    }
    Ok(log)
}

/// Why there is no acknowledgement.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    /// The other side ended the connection, or the network said that it is gone.
    #[error("the connection was cut: {0}")]
    Cut(io::Error),
    #[error("no answer within {} ms", ATTEMPT.as_millis())]
    Silent,
    /// The server said no.
    #[error("{0}")]
    Refused(String),
    #[error("no replica has it")]
    Unconfirmed,
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Trouble::Silent,
            _ => Trouble::Cut(error),
        }
    }
}

/// A conversation with a server, which knows when each answer came.
struct Talk {
    stream: TcpStream,
    replies: Replies,
}

impl Talk {
    fn with(target: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&target, ATTEMPT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ATTEMPT))?;
        stream.set_write_timeout(Some(ATTEMPT))?;
        setsockopt(&stream, ReceiveTimestampns, &true)?;
        Ok(Talk { stream, replies: Replies::default() })
    }

    /// What is answered to all `commands`, and when the last answer came.
    fn ask(&mut self, commands: &[&[&str]]) -> Result<(Vec<Value>, Instant), Trouble> {
        self.stream.write_all(&wire::pack(commands))?;
        let mut answers = Vec::new();
        let mut at = Instant::now();
        while answers.len() < commands.len() {
            match self.replies.next_reply() {
                Ok(Some(Value::ServerError(error))) => {
                    let details = error.details().unwrap_or_default();
                    return Err(Trouble::Refused(format!("{} {details}", error.code())));
                }
                Ok(Some(answer)) => answers.push(answer),
                Ok(None) => at = self.receive()?,
                Err(error) => return Err(Trouble::Refused(error.to_string())),
            }
        }
        Ok((answers, at))
    }

    /// Waits for bytes. When they came.
    fn receive(&mut self) -> io::Result<Instant> {
        let mut buffer = [0; 16 << 10];
        let mut room = cmsg_space!(TimeSpec);
        let (length, stamp) = {
            let mut into = [IoSliceMut::new(&mut buffer)];
            let received = recvmsg::<()>(self.stream.as_raw_fd(), &mut into, Some(&mut room), MsgFlags::empty())?;
            let stamp = received.cmsgs()?.find_map(|message| match message {
                ControlMessageOwned::ScmTimestampns(at) => Some(UNIX_EPOCH + Duration::from(at)),
                _ => None,
            });
            (received.bytes, stamp)
        };
        let (now, by_wall) = (Instant::now(), SystemTime::now());
        if length == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.replies.received(&buffer[..length]);
        // The stamp is of the wall clock. One that makes no sense was before a step of that.
        let ago = stamp.and_then(|stamp| by_wall.duration_since(stamp).ok()).filter(|ago| *ago < ATTEMPT);
        Ok(ago.and_then(|ago| now.checked_sub(ago)).unwrap_or(now))
    }
}

fn connect(target: SocketAddr, password: Option<&str>) -> Result<(Talk, Arc<Reign>)> {
    let mut talk = Talk::with(target)?;
    if let Some(password) = password {
        talk.ask(&[&["AUTH", password]])?;
    }
    let (answers, _) = talk.ask(&[&["INFO", "server"], &["INFO", "replication"], &["CLIENT", "INFO"]])?;
    let texts: Vec<String> = answers.iter().map(redis::from_redis_value_ref).collect::<Result<_, _>>()?;
    let [server, replication, connected] = &texts[..] else { return Err(anyhow!("{} answers to three", texts.len())) };
    // One that is promoted after this was asked has another replication id then.
    anyhow::ensure!(replication.contains("role:master"), "it is a replica");
    let local = connected.split_whitespace().find_map(|word| word.strip_prefix("laddr="));
    let local: SocketAddr = local.context("CLIENT INFO without laddr")?.parse()?;
    let node =
        super::hosts().find(|host| [super::address(host), super::address6(host)].contains(&local.ip().to_string()));
    let reign = Reign {
        node: node.map_or_else(|| local.to_string(), str::to_owned),
        run_id: field(server, "run_id:")?,
        replication_id: field(replication, "master_replid:")?,
    };
    Ok((talk, Arc::new(reign)))
}

/// A client of the server at `target`.
fn client(target: SocketAddr, password: Option<&str>) -> Result<Client> {
    let mut server = (target.ip().to_string(), target.port()).into_connection_info()?;
    if let Some(password) = password {
        server = server.set_redis_settings(RedisConnectionInfo::default().set_password(password));
    }
    Ok(Client::open(server)?)
}

/// The rest of the line of INFO that starts with `key`.
fn field(info: &str, key: &str) -> Result<String> {
    let value = info.lines().find_map(|line| line.strip_prefix(key));
    Ok(value.with_context(|| format!("no {key} in {info:?}"))?.trim().to_owned())
}

/// Adds `number` to the set `key`. When that was acknowledged.
fn attempt(talk: &mut Talk, key: &str, number: u64, wait: bool) -> Result<Instant, Trouble> {
    let (number, patience) = (number.to_string(), (ATTEMPT.as_millis() / 2).to_string());
    let commands: [&[&str]; 2] = [&["SADD", key, &number], &["WAIT", "1", &patience]];
    let (answers, at) = talk.ask(&commands[..if wait { 2 } else { 1 }])?;
    match answers.get(1) {
        Some(Value::Int(replicas)) if *replicas < 1 => Err(Trouble::Unconfirmed),
        _ => Ok(at),
    }
}

impl Written {
    /// For how long at most, from `since` on, none of the writers that `picks` chooses got an acknowledgement.
    pub fn outage(&self, since: Instant, picks: impl Fn(&Writer) -> bool) -> Duration {
        let acks = self.logs.iter().filter(|log| picks(&log.writer)).flat_map(|log| &log.acks);
        // What was acknowledged before tells when the gap began in which `since` lies.
        let mut moments: Vec<Instant> = acks.map(|ack| ack.at).collect();
        moments.extend([self.begun, self.ended]);
        moments.sort();
        let from = moments.partition_point(|at| *at <= since).saturating_sub(1);
        moments[from..].windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// For how long an ordinary thread of this machine waited for a processor at most, as far as its writers know.
    fn late(&self) -> Duration {
        self.logs.iter().map(|log| log.late).max().unwrap_or_default()
    }

    /// The first acknowledgement of each primary. Who succeeds whom: the later the later, but the one that is primary in
    /// the end succeeds all others, also one that came between (an old primary that boots and takes writes).
    fn ranks(&self, run_id: &str) -> HashMap<Arc<Reign>, Rank> {
        let mut ranks: HashMap<Arc<Reign>, Rank> = HashMap::new();
        for ack in self.logs.iter().flat_map(|log| &log.acks) {
            let rank = ranks.entry(Arc::clone(&ack.by)).or_insert(Rank { is_last: false, first: ack.at });
            rank.first = rank.first.min(ack.at);
        }
        let of_survivor = ranks.iter_mut().filter(|(reign, _)| reign.run_id == run_id);
        if let Some((_, rank)) = of_survivor.max_by_key(|(_, rank)| rank.first) {
            rank.is_last = true;
        }
        ranks
    }

    /// Reads the sets from the server at `primary` in the network of `host` and counts.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn verify(&self, bed: &Bed, host: &str, primary: SocketAddr) -> Result<Report> {
        let keys: Vec<String> = self.logs.iter().map(|log| key(&self.prefix, &log.writer)).collect();
        let (run_id, sets) = bed.in_net(host, || -> Result<_> {
            let client = client(primary, bed.options().password())?;
            let mut connection = client.get_connection_with_timeout(Duration::from_secs(5))?;
            connection.set_read_timeout(Some(Duration::from_secs(30)))?;
            let info: String = redis::cmd("INFO").arg("server").query(&mut connection)?;
            let sets: Result<Vec<HashSet<u64>>, _> =
                keys.iter().map(|key| redis::cmd("SMEMBERS").arg(key).query(&mut connection)).collect();
            Ok((field(&info, "run_id:")?, sets?))
        })??;
        Ok(self.judge(&run_id, &sets))
    }

    /// Removes the sets from the server at `primary` in the network of `host`.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn forget(&self, bed: &Bed, host: &str, primary: SocketAddr) -> Result<()> {
        let keys: Vec<String> = self.logs.iter().map(|log| key(&self.prefix, &log.writer)).collect();
        bed.in_net(host, || -> Result<()> {
            let client = client(primary, bed.options().password())?;
            let mut connection = client.get_connection_with_timeout(Duration::from_secs(5))?;
            Ok(redis::cmd("UNLINK").arg(keys).query(&mut connection)?)
        })?
    }

    /// The report, given the run id of the primary and what it has of each writer's set.
    fn judge(&self, run_id: &str, sets: &[HashSet<u64>]) -> Report {
        let ranks = self.ranks(run_id);
        let writers: Vec<WriterReport> =
            self.logs.iter().zip(sets).map(|(log, kept)| self.report(log, kept, &ranks)).collect();
        let sum = |part: fn(&WriterReport) -> usize| writers.iter().map(part).sum();
        Report {
            acknowledged: sum(|w| w.acknowledged),
            lost: sum(|w| w.lost),
            stale: sum(|w| w.stale),
            cut: writers.iter().map(|w| w.cut).sum(),
            unanswered: writers.iter().map(|w| w.unanswered).sum(),
            writers,
        }
    }

    fn report(&self, log: &Log, kept: &HashSet<u64>, ranks: &HashMap<Arc<Reign>, Rank>) -> WriterReport {
        let held_up = if log.writer.target.ip().is_loopback() { self.late() } else { Duration::ZERO };
        let succeeded = |ack: &&Ack| {
            let mut later =
                ranks.iter().filter(|(reign, rank)| reign.run_id != ack.by.run_id && **rank > ranks[&ack.by]);
            later.any(|(_, rank)| ack.is_behind(rank.first, held_up))
        };
        let mut servers: Vec<String> = log.acks.iter().map(|ack| ack.by.node.clone()).collect();
        servers.dedup();
        WriterReport {
            name: log.writer.name.clone(),
            wait: log.writer.wait,
            acknowledged: log.acks.len(),
            lost: log.acks.iter().filter(|ack| !kept.contains(&ack.number)).count(),
            stale: log.acks.iter().filter(succeeded).count(),
            longest_gap_ms: self.outage(self.begun, |writer| writer.name == log.writer.name).as_millis() as u64,
            errors: log.errors,
            cut: log.cut,
            unanswered: log.unanswered,
            unconfirmed: log.unconfirmed,
            last_error: log.last_error.clone(),
            servers,
        }
    }
}

/// That the report counts right, on a history made by hand.
///
/// # Errors
/// When it does not.
pub fn counts_right() -> Result<()> {
    let begun = Instant::now();
    let reign = |node: &str, replication_id: &str| {
        Arc::new(Reign { node: node.into(), run_id: node.into(), replication_id: replication_id.into() })
    };
    // node1 is primary, then node2, then node1 again, whose first replica comes later.
    let (first, second, third) = (reign("node1", "a"), reign("node2", "b"), reign("node1", "c"));
    let (later, rival) = (reign("node1", "d"), reign("node3", "e"));
    let log = |name: &str, host: &str, acks: &[(u64, u64, &Arc<Reign>)]| {
        let at = |ms: u64| begun + Duration::from_millis(ms);
        let acks = acks.iter().zip(1..).map(|(&(sent, acked, by), number)| Ack {
            number,
            sent: at(sent),
            at: at(acked),
            by: Arc::clone(by),
        });
        let acks = acks.collect();
        let late = Duration::from_millis(6);
        let writer = match name {
            "straight" => Writer::to(name, host, SocketAddr::from(([10, 77, 0, 1], 6381))),
            _ => Writer::through_haproxy(name, host),
        };
        Log { writer, acks, errors: 9, cut: 2, unanswered: 1, unconfirmed: 0, last_error: String::new(), late }
    };
    let written = Written {
        logs: vec![
            log("moved", "client1", &[(0, 10, &first), (100, 110, &second), (300, 310, &third), (400, 410, &third)]),
            // Sent before and after the second's first acknowledgement at 110.
            log("stayed", "client3", &[(350, 360, &later), (440, 450, &later)]),
            // Primary for itself alone, while node1 is.
            log("astray", "client3", &[(410, 420, &rival), (430, 440, &rival)]),
            // The second came too late for HAProxy to have held it up for 6 ms, the third was sent too late.
            log("cut off", "client2", &[(0, 10, &first), (105, 115, &first), (106, 117, &first), (112, 113, &first)]),
            log("straight", "client2", &[(0, 10, &first), (105, 110, &first), (106, 111, &first)]),
        ],
        prefix: String::new(),
        begun,
        ended: begun + Duration::from_millis(500),
    };
    let kept = [
        HashSet::from([1, 2, 3, 4]),
        HashSet::from([1, 2]),
        HashSet::new(),
        HashSet::from([1]),
        HashSet::from([1, 2, 3]),
    ];
    let report = written.judge("node1", &kept);
    let counted: Vec<_> = report.writers.iter().map(|w| (w.acknowledged, w.lost, w.stale, w.longest_gap_ms)).collect();
    let wanted = [(4, 0, 0, 200), (2, 0, 0, 360), (2, 2, 2, 420), (4, 3, 2, 383), (3, 0, 1, 389)];
    anyhow::ensure!(counted == wanted, "{counted:?}");
    anyhow::ensure!((report.acknowledged, report.lost, report.stale) == (15, 5, 5), "{report:?}");
    anyhow::ensure!((report.cut, report.unanswered) == (10, 5), "{report:?}");
    anyhow::ensure!(report.writers[0].servers == ["node1", "node2", "node1"], "{report:?}");
    let two = |writer: &Writer| writer.host != "client3";
    let outage = |since: u64| written.outage(begun + Duration::from_millis(since), two).as_millis();
    anyhow::ensure!((outage(0), outage(200), outage(330)) == (193, 193, 100), "{:?}", (outage(0), outage(200)));
    Ok(())
}
