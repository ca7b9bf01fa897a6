//! Writers that count: what was acknowledged, by which server, when, and whether it is still there.
//!
//! A writer runs in the network of one host and knows one address: HAProxy on that host, or a
//! port of a node. It adds numbers to a set of its own, at a bounded rate, keeps its connection as
//! long as it lasts, and remembers for each acknowledgement which server gave it (asked once per
//! connection) and when. Afterwards [`Written::verify`] reads the sets from the primary.
//!
//! Writers are threads of this program: a host that is frozen or without power does not stop the
//! writers in its network, it only takes their network away.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};
use redis::{Client, Connection, IntoConnectionInfo, Pipeline, RedisConnectionInfo};
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
    at: Instant,
    by: Arc<Reign>,
}

/// What one writer got.
#[derive(Debug)]
struct Log {
    writer: Writer,
    acks: Vec<Ack>,
    errors: u64,
    last_error: String,
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
    /// Sent after the first acknowledgement by a later primary had come in, and acknowledged by an earlier one all the
    /// same: two primaries took writes at once.
    pub stale: usize,
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
    /// Failed attempts.
    pub errors: u64,
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
    let mut log = Log { writer, acks: Vec::new(), errors: 0, last_error: String::new() };
    let mut connected: Option<(Connection, Arc<Reign>)> = None;
    let mut number = 0;
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) && begun.elapsed() < bounds.time {
        let result = match &mut connected {
            None => connect(log.writer.target, password).map(|made| connected = Some(made)),
            Some((connection, by)) => {
                number += 1;
                let sent = Instant::now();
                attempt(connection, key, number, log.writer.wait)
                    .map(|()| log.acks.push(Ack { number, sent, at: Instant::now(), by: Arc::clone(by) }))
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
            Some(pause) => thread::sleep(pause),
            // Behind: no burst to catch up.
            None => next = Instant::now(),
        }
    }
    Ok(log)
}

fn connect(target: SocketAddr, password: Option<&str>) -> Result<(Connection, Arc<Reign>)> {
    let client = client(target, password)?;
    let mut connection = client.get_connection_with_timeout(ATTEMPT)?;
    connection.set_read_timeout(Some(ATTEMPT))?;
    connection.set_write_timeout(Some(ATTEMPT))?;
    let mut questions = Pipeline::new();
    questions.cmd("INFO").arg("server").cmd("INFO").arg("replication").cmd("CLIENT").arg("INFO");
    let (server, replication, connected): (String, String, String) = questions.query(&mut connection)?;
    // One that is promoted after this was asked has another replication id then.
    anyhow::ensure!(replication.contains("role:master"), "it is a replica");
    let local = connected.split_whitespace().find_map(|word| word.strip_prefix("laddr="));
    let local: SocketAddr = local.context("CLIENT INFO without laddr")?.parse()?;
    let node =
        super::hosts().find(|host| [super::address(host), super::address6(host)].contains(&local.ip().to_string()));
    let reign = Reign {
        node: node.map_or_else(|| local.to_string(), str::to_owned),
        run_id: field(&server, "run_id:")?,
        replication_id: field(&replication, "master_replid:")?,
    };
    Ok((connection, Arc::new(reign)))
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

fn attempt(connection: &mut Connection, key: &str, number: u64, wait: bool) -> Result<()> {
    let mut pipeline = Pipeline::new();
    pipeline.cmd("SADD").arg(key).arg(number);
    if wait {
        pipeline.cmd("WAIT").arg(1).arg(ATTEMPT.as_millis() as u64 / 2);
        let (_, replicas): (u64, u64) = pipeline.query(connection)?;
        anyhow::ensure!(replicas >= 1, "no replica has it");
    } else {
        let (_,): (u64,) = pipeline.query(connection)?;
    }
    Ok(())
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

    /// The report, given the run id of the primary and what it has of each writer's set.
    fn judge(&self, run_id: &str, sets: &[HashSet<u64>]) -> Report {
        let ranks = self.ranks(run_id);
        let writers: Vec<WriterReport> =
            self.logs.iter().zip(sets).map(|(log, kept)| self.report(log, kept, &ranks)).collect();
        let sum = |part: fn(&WriterReport) -> usize| writers.iter().map(part).sum();
        Report { acknowledged: sum(|w| w.acknowledged), lost: sum(|w| w.lost), stale: sum(|w| w.stale), writers }
    }

    fn report(&self, log: &Log, kept: &HashSet<u64>, ranks: &HashMap<Arc<Reign>, Rank>) -> WriterReport {
        let succeeded = |ack: &&Ack| {
            let mut later =
                ranks.iter().filter(|(reign, rank)| reign.run_id != ack.by.run_id && **rank > ranks[&ack.by]);
            later.any(|(_, rank)| rank.first < ack.sent)
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
        let writer = Writer::through_haproxy(name, host);
        Log { writer, acks: acks.collect(), errors: 0, last_error: String::new() }
    };
    let written = Written {
        logs: vec![
            log("moved", "client1", &[(0, 10, &first), (100, 110, &second), (300, 310, &third), (400, 410, &third)]),
            // Sent before and after the second's first acknowledgement at 110.
            log("stayed", "client3", &[(350, 360, &later), (440, 450, &later)]),
            // Primary for itself alone, while node1 is.
            log("astray", "client3", &[(410, 420, &rival), (430, 440, &rival)]),
            log("cut off", "client2", &[(0, 10, &first), (105, 120, &first), (115, 125, &first)]),
        ],
        prefix: String::new(),
        begun,
        ended: begun + Duration::from_millis(500),
    };
    let report = written
        .judge("node1", &[HashSet::from([1, 2, 3, 4]), HashSet::from([1, 2]), HashSet::new(), HashSet::from([1])]);
    let counted: Vec<_> = report.writers.iter().map(|w| (w.acknowledged, w.lost, w.stale, w.longest_gap_ms)).collect();
    anyhow::ensure!(counted == [(4, 0, 0, 200), (2, 0, 0, 360), (2, 2, 2, 420), (3, 2, 1, 375)], "{counted:?}");
    anyhow::ensure!((report.acknowledged, report.lost, report.stale) == (11, 4, 3), "{report:?}");
    anyhow::ensure!(report.writers[0].servers == ["node1", "node2", "node1"], "{report:?}");
    let two = |writer: &Writer| writer.host != "client3";
    let outage = |since: u64| written.outage(begun + Duration::from_millis(since), two).as_millis();
    anyhow::ensure!((outage(0), outage(200), outage(330)) == (185, 185, 100), "{:?}", (outage(0), outage(200)));
    Ok(())
}
