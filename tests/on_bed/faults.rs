//! That the bed's faults are what they say: a partition cuts both ways, a frozen host does nothing, a
//! power cut keeps the disk and sends no goodbye.

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use rolegate::command::CommandError;

use crate::OnBed;
use crate::bed::{Bed, DropRule, Host, NODES, address, hosts, wait_for};

pub const TRIALS: &[(&str, OnBed)] = &[
    ("a_partition_cuts_both_ways_and_heals", partition),
    ("dropped_packets_go_one_way", one_way),
    ("a_frozen_host_does_nothing_until_it_thaws", freeze),
    ("a_stopped_process_does_nothing_until_it_continues", stop),
    ("a_killed_redis_comes_back_by_its_unit", kill),
    ("a_power_cut_keeps_the_disk_and_says_no_goodbye", power_cut),
    ("a_shutdown_host_boots_again", shutdown),
];

/// Whether a packet from `from` to `to` and one back pass.
fn reaches(from: &Host<'_>, to: &str) -> Result<bool> {
    let output = from.cmd("ping")?.args(["-c1", "-W1", "-n", to]).run_expecting(&[0, 1])?;
    Ok(output.code == 0)
}

fn partition(bed: &Bed) -> Result<()> {
    let apart = ["node1", "client1"];
    for step in ["whole", "cut", "healed"] {
        match step {
            "cut" => bed.isolate(&apart)?,
            "healed" => bed.heal()?,
            _ => {}
        }
        for from in bed.hosts() {
            for to in hosts().filter(|to| *to != from.name()) {
                let same_side = apart.contains(&from.name()) == apart.contains(&to);
                if step == "cut" && !same_side {
                    ensure!(!reaches(&from, to)?, "{} must not reach {to}", from.name());
                    continue;
                }
                // Asking for the other's hardware address may take a second try.
                wait_for("a packet to pass", Duration::from_secs(5), || {
                    ensure!(reaches(&from, to)?, "{step}: {} does not reach {to}", from.name());
                    Ok(())
                })?;
            }
        }
    }
    Ok(())
}

fn one_way(bed: &Bed) -> Result<()> {
    let (node1, node2) = (bed.host("node1")?, bed.host("node2")?);
    let connects = |from: &Host<'_>, to: &str, port: &str| -> Result<bool> {
        Ok(from.cmd("nc")?.args(["-z", "-w1", to, port]).run_expecting(&[0, 1])?.code == 0)
    };
    bed.drop_packets(&DropRule {
        from: Some("node1".into()),
        to: Some("node2".into()),
        dport: Some(26379),
        ..DropRule::default()
    })?;
    ensure!(!connects(&node1, "node2", "26379")?, "node1's packets to node2's Sentinel must be dropped");
    ensure!(connects(&node1, "node2", "6379")?, "other ports must pass");
    ensure!(connects(&node1, "node3", "26379")?, "other hosts must be reached");
    ensure!(connects(&node2, "node1", "26379")?, "the other direction must pass");
    bed.heal()?;
    ensure!(connects(&node1, "node2", "26379")?, "heal must end the drops");
    Ok(())
}

fn freeze(bed: &Bed) -> Result<()> {
    let (node1, node3) = (bed.host("node1")?, bed.host("node3")?);
    let ask = || {
        node1
            .cmd(bed.server().cli())?
            .args(["-h", "node3", "PING"])
            .deadline(Duration::from_secs(2))
            .run()
            .map_err(Into::into)
    };
    let before: Result<_> = ask();
    ensure!(before?.text() == "PONG\n");
    // Forks all the time: none of its children may slip through.
    node3.sh("systemd-run --quiet --unit=forks sh -c 'while :; do (echo > /run/forks); done'")?;
    node3.freeze()?;
    let seen = forked(&node3)?;
    ensure!(matches!(ask(), Err(error) if is_timeout(&error)), "a frozen Redis must not answer");
    ensure!(forked(&node3)? == seen, "a frozen host must not write");
    node3.thaw()?;
    wait_for("the thawed Redis", Duration::from_secs(10), ask)?;
    node3.sh("systemctl stop forks")?;
    Ok(())
}

/// When the unit that forks did so last. Read from outside: a frozen host answers nothing.
fn forked(host: &Host<'_>) -> Result<SystemTime> {
    Ok(std::fs::metadata(format!("/proc/{}/root/run/forks", host.leader()?))?.modified()?)
}

fn is_timeout(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(CommandError::Timeout { .. }))
}

fn stop(bed: &Bed) -> Result<()> {
    let node2 = bed.host("node2")?;
    let ask =
        || -> Result<_> { Ok(node2.cmd(bed.server().cli())?.arg("PING").deadline(Duration::from_secs(1)).run()?) };
    ensure!(node2.signal(bed.server().unit(), Signal::SIGSTOP)? == 1);
    ensure!(matches!(ask(), Err(error) if is_timeout(&error)), "a stopped Redis must not answer");
    ensure!(node2.redis(26379, &["PING"])? == "PONG", "its Sentinel must");
    ensure!(node2.signal(bed.server().unit(), Signal::SIGCONT)? == 1);
    ensure!(ask()?.text() == "PONG\n");
    ensure!(node2.signal("no-such-program", Signal::SIGCONT).is_err());
    Ok(())
}

fn kill(bed: &Bed) -> Result<()> {
    let node2 = bed.host("node2")?;
    let run_id = |info: String| info.lines().find_map(|line| line.strip_prefix("run_id:").map(str::to_owned));
    let before = run_id(node2.redis(6379, &["INFO", "server"])?);
    node2.signal(bed.server().unit(), Signal::SIGKILL)?;
    wait_for("Redis with a new run id", Duration::from_secs(10), || {
        let now = run_id(node2.redis(6379, &["INFO", "server"])?);
        ensure!(now.is_some() && now != before, "run id {now:?}, was {before:?}");
        Ok(())
    })
}

fn power_cut(bed: &Bed) -> Result<()> {
    let (node2, node3) = (bed.host("node2")?, bed.host("node3")?);
    node3.sh("echo kept > /var/lib/kept; nft add table inet gone; mkdir /run/gone")?;
    // An open connection: its other end must not learn that the machine has gone.
    node2.sh("systemd-run --quiet --unit=open sh -c 'sleep 600 | nc node3 6379'")?;
    let open = || node2.ask("ss", &["-Htn", "state", "established", "dst", &format!("{}:6379", address("node3"))]);
    wait_for("the connection", Duration::from_secs(5), || {
        ensure!(!open()?.is_empty(), "none");
        Ok(())
    })?;
    node3.power_off()?;
    ensure!(!open()?.is_empty(), "the connection must look alive: a power cut sends no FIN");
    ensure!(!node3.is_on()? && node3.sh("true").is_err(), "it must be off");
    ensure!(!reaches(&node2, "node3")?);
    node3.boot()?;
    ensure!(node3.ask("cat", &["/var/lib/kept"])? == "kept", "its disk must be as it was");
    ensure!(node3.sh("test ! -e /run/gone").is_ok(), "its memory must be gone");
    ensure!(node3.ask("nft", &["list", "tables"])?.is_empty(), "its firewall must be gone");
    node2.sh("systemctl stop open")?;
    node3.sh("rm /var/lib/kept")?;
    bed.wait_ready(Duration::from_secs(120))
}

fn shutdown(bed: &Bed) -> Result<()> {
    let client2 = bed.host("client2")?;
    client2.shutdown()?;
    ensure!(!client2.is_on()?);
    client2.boot()?;
    ensure!(reaches(&client2, NODES[0])?);
    Ok(())
}
