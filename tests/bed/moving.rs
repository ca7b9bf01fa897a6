//! Moving the primary under writers, in turns: `rolegate switchover`, a plain `SENTINEL FAILOVER`, and the steps of the failover script of
//! github.com/Quiq/ha-valkey (drain HAProxy, WAIT, `SENTINEL FAILOVER`, open HAProxy again). For all three on one cluster with its gate.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redis::Connection;

use super::bench::Figures;
use super::gates::open_gates;
use super::load::{Bounds, Load, Writer};
use super::{Bed, CLIENTS, Host, NODES, address, jail, wait_for};

/// How often each is done, where nothing else is wanted.
pub const RUNS: usize = 3;

/// Writers before and after.
const AROUND: Duration = Duration::from_secs(2);

const LONG: Duration = Duration::from_secs(120);

/// For so long at most nobody may write while rolegate moves the primary, at the median.
const WANTED: f64 = 1000.0;

/// The part of HAProxy that leads to the primary.
const PROXY: &str = "redis-rw";

/// A way to move it.
struct Way {
    name: &'static str,
    go: fn(&Bed, &Host<'_>) -> Result<()>,
}

const WAYS: [Way; 3] = [
    Way { name: "rolegate switchover", go: switchover },
    Way { name: "SENTINEL FAILOVER", go: failover },
    Way { name: "drain, WAIT, SENTINEL FAILOVER", go: drained },
];

/// What one way came to.
#[derive(Default)]
struct Runs {
    gaps: Vec<f64>,
    lost: Vec<f64>,
    failed: usize,
}

/// Measures on a bed with its gate. A run in which a way does not move the primary, or after which the cluster is not well, is printed and
/// counted, and the next one begins when all is well again.
///
/// # Errors
/// When a way did not move the primary in any run, or ours took too long.
pub fn measure(bed: &Bed, figures: &mut Figures, runs: usize) -> Result<()> {
    let mut all = WAYS.map(|_| Runs::default());
    for run in 1..=runs {
        for (way, so_far) in WAYS.iter().zip(&mut all) {
            if jail::interrupted() {
                break;
            }
            bed.say(&format!("moving the primary, {run} of {runs}: {}", way.name));
            match once(bed, way) {
                Ok((gap, gone)) => {
                    so_far.gaps.push(gap.as_secs_f64() * 1e3);
                    so_far.lost.push(gone as f64);
                }
                Err(_) if jail::interrupted() => break,
                Err(error) => {
                    so_far.failed += 1;
                    bed.say(&format!("moving the primary, {run} of {runs}: {} FAILED: {error:#}", way.name));
                    if let Err(error) = whole(bed) {
                        bed.say(&format!("not all is well yet: {error:#}"));
                    }
                }
            }
        }
    }
    let mut medians = Vec::new();
    let mut never = Vec::new();
    for (way, Runs { gaps, lost, failed }) in WAYS.iter().zip(all) {
        figures.count(&format!("moving the primary by {}: failed runs", way.name), failed, failed + gaps.len());
        if gaps.is_empty() {
            never.push(way.name);
            continue;
        }
        medians.push(figures.add(&format!("moving the primary by {}: no write", way.name), "ms", gaps)?);
        figures.add(&format!("moving the primary by {}: lost", way.name), "writes", lost)?;
    }
    if let [ours, plain, drained] = medians[..] {
        figures.ratio("no write: rolegate switchover to SENTINEL FAILOVER", ours, plain);
        figures.ratio("no write: rolegate switchover to drain, WAIT, SENTINEL FAILOVER", ours, drained);
    }
    if let (Some(ours), false) = (medians.first(), never.contains(&WAYS[0].name)) {
        ensure!(ours.median < WANTED, "{}: no write for {:.0} ms at the median", WAYS[0].name, ours.median);
    }
    ensure!(never.is_empty(), "in none of {runs} runs the primary was moved by {}", never.join(", nor by "));
    Ok(())
}

/// Ends what a failed run has left: a closed HAProxy keeps writers out of all that follow.
fn whole(bed: &Bed) -> Result<()> {
    for name in CLIENTS {
        // It says so where it was open.
        let _said = tell(&bed.host(name)?, &format!("enable frontend {PROXY}"));
    }
    bed.mend()
}

/// For how long no writer behind HAProxy got through, and how many acknowledged writes are lost.
fn once(bed: &Bed, way: &Way) -> Result<(Duration, usize)> {
    let well = || -> Result<()> {
        bed.check()?;
        let (open, primary) = (open_gates(bed)?, bed.primary()?);
        ensure!(open == [primary.name()], "open on {open:?}, primary {}", primary.name());
        Ok(())
    };
    wait_for("the cluster to be well", LONG, well)?;
    bed.replicas_known()?;
    let old = bed.primary()?;
    let writers: Vec<Writer> = (0..4)
        .map(|n| Writer::through_haproxy(&format!("{}-{n}", CLIENTS[n % CLIENTS.len()]), CLIENTS[n % CLIENTS.len()]))
        .collect();
    let load = Load::start(bed, &writers, Bounds { rate: 200, time: LONG * 2 })?;
    thread::sleep(AROUND);
    let begun = Instant::now();
    (way.go)(bed, &old)?;
    wait_for("another node to take writes", LONG, || {
        let open = open_gates(bed)?;
        ensure!(open.iter().any(|node| *node != old.name()), "open on {open:?}");
        Ok(())
    })?;
    thread::sleep(AROUND);
    let written = load.stop()?;
    wait_for("the cluster to be well", LONG, well)?;
    let primary = SocketAddr::new(bed.primary()?.address().parse()?, 6379);
    let report = written.verify(bed, CLIENTS[0], primary)?;
    ensure!(report.acknowledged > 0, "nothing was written: {report:?}");
    // The last of many runs is to find no more data than the first.
    written.forget(bed, CLIENTS[0], primary)?;
    Ok((written.outage(begun, |_| true), report.lost))
}

fn switchover(bed: &Bed, old: &Host<'_>) -> Result<()> {
    let from = bed.nodes().find(|node| node.name() != old.name()).context("three nodes")?;
    // 1: it says what was not as it should be, and another node takes writes.
    let ended = from.cmd("rolegate")?.arg("switchover").deadline(LONG).run_expecting(&[0, 1, 2, 3])?;
    let said = ended.text();
    ensure!(ended.code < 2, "exit code {}: {said}{}", ended.code, ended.stderr);
    bed.say(said.lines().find(|line| line.starts_with("Done")).unwrap_or(&said));
    Ok(())
}

fn failover(_: &Bed, old: &Host<'_>) -> Result<()> {
    old.redis(26379, &["SENTINEL", "FAILOVER", "mymaster"]).map(drop)
}

/// In its script's order: both HAProxies let nobody in and end all sessions, what is written has to be at all replicas, the failover, and
/// at the first Sentinel's word the HAProxies lead to the new one.
fn drained(bed: &Bed, old: &Host<'_>) -> Result<()> {
    let proxies = CLIENTS.iter().map(|name| bed.host(name)).collect::<Result<Vec<_>>>()?;
    let target = SocketAddr::new(old.address().parse()?, 6379);
    let sentinels: Vec<SocketAddr> =
        NODES.iter().map(|node| Ok(SocketAddr::new(address(node).parse()?, 26379))).collect::<Result<_>>()?;
    let (name, master) = (old.name(), old.address());
    bed.in_net(CLIENTS[0], || -> Result<()> {
        let mut primary = connect(target)?;
        let mut asked = sentinels.iter().map(|at| connect(*at)).collect::<Result<Vec<_>>>()?;
        at_all(&mut primary, 1000)?;
        for proxy in &proxies {
            tell(proxy, &format!("disable frontend {PROXY}"))?;
            tell(proxy, &format!("shutdown sessions server {PROXY}/{name}"))?;
        }
        let _killed: u64 =
            redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("NORMAL").arg("TYPE").arg("PUBSUB").query(&mut primary)?;
        at_all(&mut primary, 5000)?;
        let _ok: String = redis::cmd("SENTINEL").arg("FAILOVER").arg("mymaster").query(&mut asked[0])?;
        let begun = Instant::now();
        let new = loop {
            ensure!(begun.elapsed() < LONG, "no Sentinel names another node");
            let mut named = None;
            for sentinel in &mut asked {
                let (host, _): (String, String) =
                    redis::cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg("mymaster").query(sentinel)?;
                named = named.or((host != master).then_some(host));
            }
            if let Some(named) = named {
                break NODES.into_iter().find(|node| address(node) == named).context("a node")?;
            }
            thread::sleep(Duration::from_millis(2));
        };
        for proxy in &proxies {
            tell(proxy, &format!("set server {PROXY}/{new} health up"))?;
            tell(proxy, &format!("set server {PROXY}/{name} health down"))?;
            tell(proxy, &format!("enable frontend {PROXY}"))?;
        }
        Ok(())
    })?
}

/// What is written now comes to both replicas.
fn at_all(primary: &mut Connection, milliseconds: u64) -> Result<()> {
    let mut written = redis::Pipeline::new();
    written.cmd("SET").arg("moving").arg("1").cmd("WAIT").arg(2).arg(milliseconds);
    let (_, replicas): (String, u64) = written.query(primary)?;
    ensure!(replicas == 2, "{replicas} replicas have it");
    Ok(())
}

fn connect(to: SocketAddr) -> Result<Connection> {
    Ok(redis::Client::open(format!("redis://{to}"))?.get_connection_with_timeout(Duration::from_secs(3))?)
}

/// Tells the HAProxy of a host something, as its administrator.
fn tell(proxy: &Host<'_>, what: &str) -> Result<()> {
    // Through the host's own view of its files.
    let mut stream = UnixStream::connect(format!("/proc/{}/root/run/haproxy/admin.sock", proxy.leader()?))?;
    writeln!(stream, "{what}")?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    ensure!(said.trim().is_empty(), "{what}: {said}");
    Ok(())
}
