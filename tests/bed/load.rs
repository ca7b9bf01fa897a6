//! Writers that count: what was acknowledged, by which server, when, and whether it is still there.
//!
//! A writer runs in the network of one host and knows one address: HAProxy on that host, or a
//! port of a node. It adds numbers to a set of its own, at a bounded rate, keeps its connection as
//! long as it lasts, and remembers for each acknowledgement the server's run id (asked once per
//! connection) and the moment. Afterwards [`Written::verify`] reads the sets from the primary.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};
use redis::{Client, Connection, Pipeline};
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

/// One acknowledged write.
#[derive(Debug, Clone)]
struct Ack {
    number: u64,
    at: Instant,
    by: Arc<str>,
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
    threads: Vec<JoinHandle<Result<Log>>>,
}

/// What all writers got.
#[derive(Debug)]
pub struct Written {
    logs: Vec<Log>,
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
    /// Acknowledged by a server after the first acknowledgement by its successor.
    pub stale: usize,
    /// Each writer's part.
    pub writers: Vec<WriterReport>,
}

/// One writer's part of a [`Report`].
#[derive(Debug, Clone, Serialize)]
pub struct WriterReport {
    /// Its name.
    pub name: String,
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
    /// The servers that acknowledged, by run id, in the order of their first acknowledgement.
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
        let mut threads = Vec::new();
        for writer in writers {
            let (writer, stop) = (writer.clone(), Arc::clone(&stop));
            let net = bed.host(&writer.host)?.net()?;
            threads.push(thread::spawn(move || write(writer, &net, bounds, begun, &stop)));
        }
        Ok(Load { stop, begun, threads })
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
        Ok(Written { logs, begun: self.begun, ended })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn write(writer: Writer, net: &File, bounds: Bounds, begun: Instant, stop: &AtomicBool) -> Result<Log> {
    setns(net, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering the network of {}", writer.host))?;
    let key = format!("w:{}", writer.name);
    let interval = Duration::from_secs(1) / bounds.rate;
    let mut log = Log { writer, acks: Vec::new(), errors: 0, last_error: String::new() };
    let mut connected: Option<(Connection, Arc<str>)> = None;
    let mut number = 0;
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) && begun.elapsed() < bounds.time {
        let result = match &mut connected {
            None => connect(log.writer.target).map(|made| connected = Some(made)),
            Some((connection, by)) => {
                number += 1;
                attempt(connection, &key, number, log.writer.wait)
                    .map(|()| log.acks.push(Ack { number, at: Instant::now(), by: Arc::clone(by) }))
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

fn connect(target: SocketAddr) -> Result<(Connection, Arc<str>)> {
    let client = Client::open((target.ip().to_string(), target.port()))?;
    let mut connection = client.get_connection_with_timeout(ATTEMPT)?;
    connection.set_read_timeout(Some(ATTEMPT))?;
    connection.set_write_timeout(Some(ATTEMPT))?;
    let info: String = redis::cmd("INFO").arg("server").query(&mut connection)?;
    let id = info.lines().find_map(|line| line.strip_prefix("run_id:")).context("INFO without run_id")?;
    Ok((connection, id.trim().into()))
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
    /// How many acknowledgements there were since `since`, for each writer by name.
    pub fn since(&self, since: Instant) -> BTreeMap<&str, usize> {
        let after = |log: &Log| log.acks.iter().filter(|ack| ack.at >= since).count();
        self.logs.iter().map(|log| (log.writer.name.as_str(), after(log))).collect()
    }

    /// The first acknowledgement of each server, by run id.
    fn first_acks(&self) -> HashMap<Arc<str>, Instant> {
        let mut first: HashMap<Arc<str>, Instant> = HashMap::new();
        for ack in self.logs.iter().flat_map(|log| &log.acks) {
            let at = first.entry(Arc::clone(&ack.by)).or_insert(ack.at);
            *at = (*at).min(ack.at);
        }
        first
    }

    /// Reads the sets from the server at `primary` in the network of `host` and counts.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn verify(&self, bed: &Bed, host: &str, primary: SocketAddr) -> Result<Report> {
        let keys: Vec<String> = self.logs.iter().map(|log| format!("w:{}", log.writer.name)).collect();
        let sets: Vec<HashSet<u64>> = bed.in_net(host, || -> Result<_> {
            let client = Client::open((primary.ip().to_string(), primary.port()))?;
            let mut connection = client.get_connection_with_timeout(Duration::from_secs(5))?;
            connection.set_read_timeout(Some(Duration::from_secs(30)))?;
            keys.iter().map(|key| Ok(redis::cmd("SMEMBERS").arg(key).query(&mut connection)?)).collect()
        })??;
        let first = self.first_acks();
        let writers: Vec<WriterReport> =
            self.logs.iter().zip(&sets).map(|(log, kept)| self.report(log, kept, &first)).collect();
        let sum = |part: fn(&WriterReport) -> usize| writers.iter().map(part).sum();
        Ok(Report { acknowledged: sum(|w| w.acknowledged), lost: sum(|w| w.lost), stale: sum(|w| w.stale), writers })
    }

    fn report(&self, log: &Log, kept: &HashSet<u64>, first: &HashMap<Arc<str>, Instant>) -> WriterReport {
        let succeeded = |ack: &Ack| first.iter().any(|(by, &at)| *by != ack.by && at > first[&ack.by] && at < ack.at);
        let mut moments = vec![self.begun];
        moments.extend(log.acks.iter().map(|ack| ack.at));
        moments.push(self.ended.max(*moments.last().unwrap_or(&self.begun)));
        let gap = moments.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
        let mut servers: Vec<String> = Vec::new();
        for ack in &log.acks {
            if servers.last().map(String::as_str) != Some(&*ack.by) {
                servers.push(ack.by.to_string());
            }
        }
        WriterReport {
            name: log.writer.name.clone(),
            acknowledged: log.acks.len(),
            lost: log.acks.iter().filter(|ack| !kept.contains(&ack.number)).count(),
            stale: log.acks.iter().filter(|ack| succeeded(ack)).count(),
            longest_gap_ms: gap.as_millis() as u64,
            errors: log.errors,
            last_error: log.last_error.clone(),
            servers,
        }
    }
}
