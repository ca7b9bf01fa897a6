//! The demo: a cluster as the README installs it, writers through HAProxy, one failure of [`super::faults`], a report.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::faults::{Fault, Scene};
use super::gates::{configure, open_gates};
use super::load::{Bounds, Load, Report, Writer};
use super::{Bed, CLIENTS, Host, wait_for};

/// What `rolegate status` shows on the first node that is well.
#[allow(clippy::print_stdout)]
fn show_status(on: &Host) -> Result<()> {
    let output = on.cmd("rolegate")?.arg("status").deadline(Duration::from_secs(20)).run_expecting(&[0, 1, 2, 3])?;
    println!("\n$ rolegate status     # on {}, exit code {}\n{}", on.name(), output.code, output.text());
    Ok(())
}

/// For how long it shows which ports are open, at least.
const SHOWN: Duration = Duration::from_secs(25);

fn mend(bed: &Bed, fault: &Fault, scene: &Scene) -> Result<()> {
    bed.say("mending the failure");
    (fault.end)(scene)
}

/// Shows it all on a bed that is up, and reports.
///
/// # Errors
/// When the cluster does not do what it should.
#[allow(clippy::print_stdout)] // What it shows is its product.
pub fn show(bed: &Bed, fault: &Fault) -> Result<Report> {
    bed.say("making the gate: pcs resource create, rolegate init");
    configure(bed)?;
    (fault.before)(&Scene::set(bed)?)?;
    let scene = Scene::set(bed)?;
    let (primary, other) = (scene.primary, scene.others[0]);
    show_status(&other)?;

    bed.say("four writers through HAProxy, two on each client host, 500 writes a second each");
    let writers: Vec<Writer> = ["client1", "client1", "client2", "client2"]
        .iter()
        .zip(1..)
        .map(|(client, n)| Writer::through_haproxy(&format!("{client}-{n}"), client))
        .collect();
    let load = Load::start(bed, &writers, Bounds { rate: 500, time: Duration::from_secs(120) })?;
    thread::sleep(Duration::from_secs(5));

    bed.say(&format!("failure: {}", fault.says(&scene)));
    let broken = Instant::now();
    (fault.begin)(&scene)?;
    let mut last = None;
    let mut moved = None;
    let mut mended = false;
    while broken.elapsed() < SHOWN.max(fault.lasts) {
        if !mended && broken.elapsed() >= fault.lasts {
            show_status(&other)?;
            mend(bed, fault, &scene)?;
            mended = true;
        }
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
    if !mended {
        show_status(&other)?;
        mend(bed, fault, &scene)?;
    }
    wait_for("the cluster to be well again", Duration::from_secs(120), || {
        bed.check()?;
        let now = bed.primary()?;
        ensure!(open_gates(bed)? == [now.name()], "6381 answers on {:?}", open_gates(bed)?);
        Ok(())
    })?;
    thread::sleep(Duration::from_secs(3));
    let written = load.stop()?;
    let now = bed.primary()?;
    show_status(&now)?;
    let address = SocketAddr::new(now.address().parse()?, 6379);
    let report = written.verify(bed, CLIENTS[0], address)?;
    (fault.after)(&scene)?;
    println!("failure: {}", fault.says(&scene));
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
