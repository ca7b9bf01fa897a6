//! The demo: a cluster as the README installs it, writers through HAProxy, one failure, a report.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use nix::sys::signal::Signal;

use super::load::{Bounds, Load, Report, Writer};
use super::{Bed, Host, NODES, wait_for};

/// The failure to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// Redis of the primary is killed and kept down.
    Kill,
    /// Redis of the primary is killed; systemd restarts it at once.
    Restart,
    /// The primary's node loses power.
    PowerCut,
    /// The primary's node and one client are cut off from the rest.
    Isolate,
    /// Every process of the primary's node stands still.
    Freeze,
    /// SENTINEL FAILOVER by hand; nothing is broken.
    Failover,
}

impl Fault {
    fn says(self, primary: &str) -> String {
        match self {
            Fault::Kill => format!("Redis on {primary} is killed, and stays down"),
            Fault::Restart => format!("Redis on {primary} is killed; systemd restarts it at once"),
            Fault::PowerCut => format!("{primary} loses power"),
            Fault::Isolate => format!("{primary} and client2 are cut off from the other hosts"),
            Fault::Freeze => format!("every process on {primary} stands still"),
            Fault::Failover => "SENTINEL FAILOVER by hand; nothing is broken".to_owned(),
        }
    }

    fn begin(self, bed: &Bed, primary: &Host) -> Result<()> {
        match self {
            Fault::Kill => {
                // Masked while it runs, so that systemd does not start it again.
                primary.sh("systemctl mask --runtime redis-server.service 2>/dev/null")?;
                primary.signal("redis-server", Signal::SIGKILL).map(drop)
            }
            Fault::Restart => primary.signal("redis-server", Signal::SIGKILL).map(drop),
            Fault::PowerCut => primary.power_off(),
            Fault::Isolate => bed.isolate(&[primary.name(), "client2"]),
            Fault::Freeze => primary.freeze(),
            Fault::Failover => primary.redis(26379, &["SENTINEL", "FAILOVER", "mymaster"]).map(drop),
        }
    }

    fn end(self, bed: &Bed, primary: &Host) -> Result<()> {
        match self {
            Fault::Kill => primary
                .sh("systemctl unmask --runtime redis-server.service; systemctl start redis-server.service")
                .map(drop),
            Fault::PowerCut => primary.boot(),
            Fault::Isolate => bed.heal(),
            Fault::Freeze => primary.thaw(),
            Fault::Restart | Fault::Failover => Ok(()),
        }
    }
}

/// Makes the gate as the README says: one resource, and `rolegate init`. Waits until the
/// primary's read-write port is open.
pub fn configure(bed: &Bed) -> Result<()> {
    let node = bed.host(NODES[0])?;
    node.sh_within(
        Duration::from_secs(60),
        "pcs property set stonith-enabled=false
         pcs resource create RedisGate ocf:rolegate:gate promotable promoted-max=1",
    )?;
    node.cmd("rolegate")?.args(["init"]).deadline(Duration::from_secs(60)).run().context("rolegate init")?;
    wait_for("the read-write port of the primary to open", Duration::from_secs(60), || {
        let primary = bed.primary()?;
        ensure!(open_gates(bed)? == [primary.name()], "open on {:?}", open_gates(bed)?);
        Ok(())
    })
}

/// The nodes whose read-write port answers the first client.
pub fn open_gates(bed: &Bed) -> Result<Vec<&'static str>> {
    let mut open = Vec::new();
    for node in NODES {
        let address = SocketAddr::new(super::address(node).parse()?, 6381);
        let answers = bed.in_net(super::CLIENTS[0], || {
            std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300)).is_ok()
        })?;
        if answers {
            open.push(node);
        }
    }
    Ok(open)
}

/// What `rolegate status` shows on the first node that is well.
#[allow(clippy::print_stdout)]
fn show_status(bed: &Bed, on: &Host) -> Result<()> {
    let output = on.cmd("rolegate")?.arg("status").deadline(Duration::from_secs(20)).run_expecting(&[0, 1, 2, 3])?;
    println!("\n$ rolegate status     # on {}, exit code {}\n{}", on.name(), output.code, output.text());
    let _ = bed;
    Ok(())
}

/// Shows it all on a bed that is up, and reports.
///
/// # Errors
/// When the cluster does not do what it should.
#[allow(clippy::print_stdout)] // What it shows is its product.
pub fn show(bed: &Bed, fault: Fault) -> Result<Report> {
    bed.say("making the gate: pcs resource create, rolegate init");
    configure(bed)?;
    let primary = bed.primary()?;
    let other = bed.nodes().find(|node| node.name() != primary.name()).context("three nodes")?;
    show_status(bed, &other)?;

    bed.say("four writers through HAProxy, two on each client host, 500 writes a second each");
    let writers: Vec<Writer> = ["client1", "client1", "client2", "client2"]
        .iter()
        .zip(1..)
        .map(|(client, n)| Writer::through_haproxy(&format!("{client}-{n}"), client))
        .collect();
    let load = Load::start(bed, &writers, Bounds { rate: 500, time: Duration::from_secs(120) })?;
    thread::sleep(Duration::from_secs(5));

    bed.say(&format!("failure: {}", fault.says(primary.name())));
    let broken = Instant::now();
    fault.begin(bed, &primary)?;
    let mut last = None;
    let mut moved = None;
    while broken.elapsed() < Duration::from_secs(25) {
        let open = open_gates(bed)?;
        if last.as_ref() != Some(&open) {
            bed.say(&format!(
                "{:6.2} s after the failure: 6381 answers client1 on {}",
                broken.elapsed().as_secs_f64(),
                if open.is_empty() { "no node".to_owned() } else { open.join(", ") }
            ));
        }
        if moved.is_none() && open.len() == 1 && open[0] != primary.name() {
            moved = Some(broken.elapsed());
        }
        last = Some(open);
        thread::sleep(Duration::from_millis(50));
    }
    show_status(bed, &other)?;
    bed.say("mending the failure");
    fault.end(bed, &primary)?;
    wait_for("the cluster to be well again", Duration::from_secs(120), || {
        bed.check()?;
        let now = bed.primary()?;
        ensure!(open_gates(bed)? == [now.name()], "6381 answers on {:?}", open_gates(bed)?);
        Ok(())
    })?;
    thread::sleep(Duration::from_secs(3));
    let written = load.stop()?;
    let now = bed.primary()?;
    show_status(bed, &now)?;
    let address = SocketAddr::new(now.address().parse()?, 6379);
    let report = written.verify(bed, super::CLIENTS[0], address)?;
    println!("failure: {}", fault.says(primary.name()));
    match moved {
        Some(after) => println!(
            "the read-write port moved from {} to another node {:.2} s after the failure; primary now: {}",
            primary.name(),
            after.as_secs_f64(),
            now.name()
        ),
        None => println!("the read-write port did not move"),
    }
    println!("{:<12} {:>12} {:>8} {:>8} {:>18}", "writer", "acknowledged", "lost", "stale", "longest gap (ms)");
    for writer in &report.writers {
        println!(
            "{:<12} {:>12} {:>8} {:>8} {:>18}",
            writer.name, writer.acknowledged, writer.lost, writer.stale, writer.longest_gap_ms
        );
    }
    println!("{:<12} {:>12} {:>8} {:>8}", "all", report.acknowledged, report.lost, report.stale);
    println!(
        "lost: acknowledged writes that the primary does not have in the end. stale: acknowledged by the old primary\n\
         after the new one's first acknowledgement."
    );
    Ok(report)
}
