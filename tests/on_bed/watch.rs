//! That watching from outside sees what it is there for: two open gates at once.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::OnBed;
use crate::bed::watch::Watch;
use crate::bed::{Bed, Host, NODES, wait_for};

pub const TRIALS: &[(&str, OnBed)] = &[
    ("two_gates_opened_by_hand_are_seen_for_as_long_as_they_are_open", overlap),
    ("a_node_that_loses_power_is_closed_and_is_watched_again_when_it_boots", power_cut),
];

/// `rolegate-port`, which has no settings, on the firewall that this bed's gates are on.
fn port(bed: &Bed) -> &'static str {
    if bed.options().iptables { "rolegate-port --backend iptables-nft" } else { "rolegate-port" }
}

/// As long as neither Pacemaker nor a keeper closes what is opened by hand.
fn without_a_gate(bed: &Bed, trial: impl FnOnce() -> Result<()>) -> Result<()> {
    let node = bed.host(NODES[0])?;
    let has_gate = node.ask("cibadmin", &["-Q", "-o", "resources"])?.contains("type=\"gate\"");
    if has_gate {
        node.sh_within(Duration::from_secs(60), "pcs resource disable RedisGate --wait=50")?;
    }
    for node in bed.nodes() {
        node.sh("systemctl stop rolegate-keeper")?;
    }
    let tried = trial();
    for node in bed.nodes() {
        node.sh(&format!("{} close all; systemctl start rolegate-keeper", port(bed)))?;
    }
    if has_gate {
        node.sh_within(Duration::from_secs(60), "pcs resource enable RedisGate")?;
    }
    tried
}

fn overlap(bed: &Bed) -> Result<()> {
    without_a_gate(bed, || {
        let (node1, node2) = (bed.host("node1")?, bed.host("node2")?);
        let act = |node: &Host, what: &str| node.sh(&format!("{} {what}", port(bed)));
        for node in [&node1, &node2] {
            act(node, "baseline")?;
        }
        let watch = Watch::start(bed);
        thread::sleep(Duration::from_millis(200));
        let begun = Instant::now();
        act(&node1, "open rw --for 10s")?;
        thread::sleep(Duration::from_millis(500));
        // The element's own time ends it, so that how long it is open is known. On iptables that has whole seconds.
        let ms = if bed.options().iptables { 1000 } else { 600 };
        act(&node2, &format!("open rw --for {ms}ms"))?;
        thread::sleep(Duration::from_millis(ms + 400));
        act(&node1, "close rw")?;
        let seen = watch.stop()?;
        let two = seen.two_open();
        let wanted = u128::from(ms - 100)..=u128::from(ms + 10);
        ensure!(wanted.contains(&two.as_millis()), "two gates were open for {ms} ms, seen: {two:?}");
        let most = seen.two_open_at_most();
        ensure!(two < most && most < two + Duration::from_millis(100), "{two:?}, at most {most:?}");
        ensure!(seen.opened("node3", begun).is_none(), "node3 was never open");
        let first = seen.opened("node1", begun).context("node1 was open")?;
        let second = seen.opened("node2", begun).context("node2 was open")?;
        ensure!(second - first > Duration::from_millis(500), "{:?}", second - first);
        bed.say(&format!("{ms} ms of two open gates, seen: {two:?}; {:?}", seen.pauses()));
        Ok(())
    })
}

fn power_cut(bed: &Bed) -> Result<()> {
    without_a_gate(bed, || {
        let (node1, node2) = (bed.host("node1")?, bed.host("node2")?);
        node1.sh("rolegate-port open rw --for 60s")?;
        node2.sh("rolegate-port open rw --for 300s")?;
        let watch = Watch::start(bed);
        thread::sleep(Duration::from_millis(300));
        node2.power_off()?;
        let off = Instant::now();
        thread::sleep(Duration::from_secs(1));
        node2.boot()?;
        let booted = Instant::now();
        node2.sh("systemctl stop rolegate-keeper; rolegate-port open rw --for 300ms")?;
        thread::sleep(Duration::from_millis(500));
        let seen = watch.stop()?;
        let two = seen.two_open();
        // Before the power cut, and after the boot; not in between, where only the kernel still knew of the element.
        ensure!((400..=800).contains(&two.as_millis()), "seen: {two:?}");
        ensure!(seen.opened("node2", off).is_some_and(|at| at > booted), "open while it was off");
        wait_for("the cluster to be well", Duration::from_secs(120), || bed.check())
    })
}
