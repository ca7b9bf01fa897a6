//! `rolegate switchover` under writers: to each replica in turn, and broken off at each step in each way. Afterwards writers go on, nothing that
//! was acknowledged is lost, and every setting is what it was, in Redis and on its disk.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::cli::rolegate;
use super::moves::{nothing_stale, settled, with_writers};
use crate::OnBed;
use crate::bed::gates::configure;
use crate::bed::{Bed, Host, NODES, wait_for};

pub const TRIALS: &[(&str, OnBed)] = &[
    ("a_switchover_to_each_replica_in_turn_loses_nothing", in_turn),
    ("a_switchover_that_is_killed_at_any_step_leaves_nothing", killed),
    ("a_switchover_goes_on_without_its_sentinel_or_its_keeper", without_parts),
    ("a_switchover_that_cannot_be_is_refused_and_changes_nothing", refused),
    ("of_two_switchovers_at_once_one_at_most_goes_on_and_nothing_is_lost", two),
    ("fencing_the_primary_moves_it_first_and_loses_nothing", fenced),
];

const LONG: Duration = Duration::from_secs(90);

/// By when the keepers have put back what was left.
const MENDED: Duration = Duration::from_secs(8);

const SETTINGS: [&str; 2] = ["min-replicas-to-write", "replica-priority"];

/// What the command says when a step is done, in their order.
const STEPS: [&str; 5] =
    ["is put behind", "takes no more writes", "6381 is closed", "was asked for the failover", "is primary"];

/// A bed whose primary's port is open, and the nodes: the primary, and the two others.
fn prepared(bed: &Bed) -> Result<[Host<'_>; 3]> {
    let node = bed.host(NODES[0])?;
    if !node.ask("cibadmin", &["-Q", "-o", "resources"])?.contains("type=\"gate\"") {
        configure(bed)?;
    }
    let primary = settled(bed)?;
    bed.replicas_known()?;
    let mut others = bed.nodes().filter(|node| node.name() != primary.name());
    let (one, two) = (others.next().context("three nodes")?, others.next().context("three nodes")?);
    Ok([primary, one, two])
}

/// Each node's settings, as Redis has them and as its configuration file says (a line for each that is there).
fn settings(bed: &Bed) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for node in bed.nodes() {
        for name in SETTINGS {
            all.push(format!("{}: {}", node.name(), node.redis(6379, &["CONFIG", "GET", name])?.replace('\n', " ")));
        }
        let config = bed.server().config();
        let lines = node
            .sh(&format!("grep -Ei '^(min-(replicas|slaves)-to-write|(replica|slave)-priority)' {config} || true"))?;
        // What is not there is the default, which Redis may write down at any time.
        let written = lines.text();
        let written = written.lines().filter(|line| !line.ends_with(" 100") && !line.ends_with(" 0"));
        all.push(format!("{}: on disk {:?}", node.name(), written.collect::<Vec<_>>()));
    }
    Ok(all)
}

/// Waits until all is as it was.
fn as_before(bed: &Bed, before: &[String], within: Duration) -> Result<()> {
    wait_for("every setting to be what it was", within, || {
        let now = settings(bed)?;
        ensure!(now == before, "{now:?}, and was {before:?}");
        for node in bed.nodes() {
            let attributes = node.ask("crm_mon", &["-1", "-A"])?;
            ensure!(!attributes.contains("redis_fence"), "{attributes}");
        }
        Ok(())
    })
}

/// Runs a switchover on a host, and does something when it says `at`, knowing its process and the line. Gives all that it said, and its exit code
/// where it was not killed.
fn broken_off(
    on: &Host<'_>,
    to: &str,
    at: &str,
    act: impl FnOnce(Pid, &str) -> Result<()>,
) -> Result<(String, Option<i32>)> {
    let mut child = Command::new("nsenter")
        .args([format!("--target={}", on.leader()?).as_str(), "--all", "--", "sh", "-c"])
        .args(["exec rolegate switchover --to \"$0\" 2>&1", to])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = String::new();
    let (mut act, mut process) = (Some(act), None);
    for line in BufReader::new(child.stdout.take().context("its output")?).lines() {
        let line = line?;
        // nsenter's child. Looked for at the first line: later there is no time.
        let process = *process.get_or_insert_with(|| below(child.id()));
        if line.contains(at) {
            if let Some(act) = act.take() {
                act(process.context("it runs")?, &line)?;
            }
        }
        said.push_str(&line);
        said.push('\n');
    }
    let code = child.wait()?.code();
    ensure!(act.is_none(), "it never said {at:?}: {said}");
    Ok((said, code))
}

/// The child of a process.
fn below(process: u32) -> Option<Pid> {
    let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok().map(Pid::from_raw)
}

/// What the command says of the time in which nobody could write, in milliseconds.
fn pause(said: &str) -> Option<u64> {
    let seconds = said.split("nobody could write for ").nth(1)?.split(' ').next()?;
    seconds.parse::<f64>().ok().map(|seconds| (seconds * 1000.0) as u64)
}

fn in_turn(bed: &Bed) -> Result<()> {
    let before = settings(bed)?;
    let [old, one, two] = prepared(bed)?;
    let mut pauses = Vec::new();
    let report = with_writers(
        bed,
        || {
            // From nodes that have no part in it.
            for (from, to) in [(&two, &one), (&old, &two)] {
                let dry = rolegate(from, &["switchover", "--to", to.name(), "--dry-run"])?;
                ensure!(dry.code == 0 && dry.text.contains("Nothing was changed"), "{dry:?}");
                let said = rolegate(from, &["switchover", "--to", to.name()])?;
                bed.say(&said.text);
                ensure!(said.code == 0 && said.text.contains(&format!("Done: {} takes writes", to.name())), "{said:?}");
                pauses.extend(pause(&said.text));
                as_before(bed, &before, Duration::from_secs(3))?;
                settled(bed)?;
                bed.replicas_known()?;
            }
            let already = rolegate(&one, &["switchover", "--to", two.name()])?;
            ensure!(already.code == 0 && already.text.contains("nothing to do"), "{already:?}");
            Ok(())
        },
        || Ok(()),
    )?;
    as_before(bed, &before, MENDED)?;
    bed.say(&format!("nobody could write for {pauses:?} ms"));
    for writer in &report.writers {
        bed.say(&format!(
            "{}: longest gap {} ms, {} errors, last: {}",
            writer.name, writer.longest_gap_ms, writer.errors, writer.last_error
        ));
    }
    nothing_stale(&report)?;
    ensure!(pauses.len() == 2 && report.lost == 0, "{} acknowledged writes are lost; pauses {pauses:?}", report.lost);
    Ok(())
}

/// Does `fault` when a switchover to another node has come to `at`; until writers go on and nothing is left.
fn faulty(
    bed: &Bed,
    at: &str,
    fault: impl Fn(&Host, Pid, &str) -> Result<()>,
    after: impl Fn() -> Result<()>,
) -> Result<()> {
    let before = settings(bed)?;
    let [old, to, from] = prepared(bed)?;
    let begun = Instant::now();
    let (said, code) = broken_off(&from, to.name(), at, |process, line| fault(&old, process, line))?;
    bed.say(&format!("at {at:?}: code {code:?} after {:.1} s\n{said}", begun.elapsed().as_secs_f64()));
    as_before(bed, &before, MENDED).with_context(|| format!("broken off at {at:?}: {said}"))?;
    after()?;
    wait_for("a node to take writes", Duration::from_secs(20), || {
        ensure!(!crate::bed::gates::open_gates(bed)?.is_empty(), "none does");
        Ok(())
    })?;
    settled(bed)?;
    as_before(bed, &before, MENDED)
}

fn killed(bed: &Bed) -> Result<()> {
    prepared(bed)?;
    let report = with_writers(
        bed,
        || {
            for step in STEPS {
                faulty(bed, step, |_, process, _| Ok(kill(process, Signal::SIGKILL)?), || Ok(()))?;
            }
            // And with it the keeper that would put back what it left.
            let both = |old: &Host, process: Pid, _: &str| {
                kill(process, Signal::SIGKILL)?;
                old.signal("rolegate-keeper", Signal::SIGKILL).map(drop)
            };
            faulty(bed, STEPS[1], both, || Ok(()))?;
            // Ctrl-C: back, or on.
            faulty(bed, STEPS[1], |_, process, _| Ok(kill(process, Signal::SIGINT)?), || Ok(()))?;
            interrupted(bed)
        },
        || Ok(()),
    )?;
    nothing_stale(&report)?;
    ensure!(report.lost == 0, "{} acknowledged writes are lost", report.lost);
    Ok(())
}

/// Ctrl-Z does nothing, and Ctrl-C before the pause changes nothing.
fn interrupted(bed: &Bed) -> Result<()> {
    let before = settings(bed)?;
    let [old, to, from] = prepared(bed)?;
    let both = |process: Pid, _: &str| {
        kill(process, Signal::SIGTSTP)?;
        std::thread::sleep(Duration::from_millis(100));
        Ok(kill(process, Signal::SIGINT)?)
    };
    let (said, code) = broken_off(&from, to.name(), "waiting for the moment", both)?;
    bed.say(&said);
    let says = [
        "not suspended".to_owned(),
        "interrupted: going back".to_owned(),
        "Went back: interrupted.".to_owned(),
        format!("{} is primary and takes writes.", old.name()),
    ];
    let lacking: Vec<&String> = says.iter().filter(|text| !said.contains(text.as_str())).collect();
    ensure!(code == Some(2) && lacking.is_empty(), "code {code:?}, not said: {lacking:?}: {said}");
    // It has put them back itself.
    let now = settings(bed)?;
    ensure!(now == before, "{now:?}, and was {before:?}");
    Ok(())
}

fn without_parts(bed: &Bed) -> Result<()> {
    prepared(bed)?;
    let sentinel = bed.server().sentinel();
    let report = with_writers(
        bed,
        || {
            faulty(bed, STEPS[1], |old, _, _| old.signal("rolegate-keeper", Signal::SIGKILL).map(drop), || Ok(()))?;
            // The Sentinel that was asked stands still before it has promoted anybody. It comes back in TILT.
            let stopped = std::cell::Cell::new(None);
            let stop = |_: &Host, _: Pid, line: &str| {
                let asked =
                    bed.nodes().find(|node| line.contains(&format!("{}:", node.address()))).context("its host")?;
                asked.signal(sentinel, Signal::SIGSTOP)?;
                stopped.set(Some(asked.name()));
                Ok(())
            };
            let go_on = || {
                let host = bed.host(stopped.take().context("it was stopped")?)?;
                host.signal(sentinel, Signal::SIGCONT).map(drop)
            };
            faulty(bed, STEPS[3], stop, go_on)
        },
        || Ok(()),
    )?;
    nothing_stale(&report)?;
    ensure!(report.lost == 0, "{} acknowledged writes are lost", report.lost);
    Ok(())
}

fn refused(bed: &Bed) -> Result<()> {
    let before = settings(bed)?;
    let [old, to, other] = prepared(bed)?;
    let refuses = |args: &[&str], why: &str| {
        let said = rolegate(&other, &[&["switchover"], args].concat())?;
        ensure!(said.code == 2 && said.text.contains(why), "{args:?}: {said:?}");
        ensure!(settings(bed)? == before, "{args:?}: {:?}", settings(bed)?);
        Ok(())
    };
    refuses(&["--to", "node9"], "the record has no node node9")?;
    to.ask("pcs", &["node", "standby", to.name()])?;
    let standby = wait_for("the refusal", LONG, || refuses(&["--to", to.name()], "is standby in the cluster"));
    to.ask("pcs", &["node", "unstandby", to.name()])?;
    standby?;
    settled(bed)?;
    to.redis(6379, &["REPLICAOF", "10.77.0.99", "6379"])?;
    let strange =
        refuses(&["--to", to.name()], "follows 10.77.0.99:6379").or_else(|_| refuses(&["--to", to.name()], "follows"));
    to.redis(6379, &["REPLICAOF", &old.address(), "6379"])?;
    strange?;
    settled(bed).map(drop)
}

/// To different nodes, from different nodes.
fn two(bed: &Bed) -> Result<()> {
    let before = settings(bed)?;
    let [old, one, other] = prepared(bed)?;
    let mut said = Vec::new();
    let report = with_writers(
        bed,
        || {
            said = std::thread::scope(|scope| -> Result<_> {
                let both = [(&one, &other), (&other, &one)]
                    .map(|(from, to)| scope.spawn(move || rolegate(from, &["switchover", "--to", to.name()])));
                let mut said = Vec::new();
                for thread in both {
                    said.push(thread.join().map_err(|_| anyhow::anyhow!("it panicked"))??);
                }
                Ok(said)
            })?;
            Ok(())
        },
        || Ok(()),
    )?;
    said.iter().for_each(|said| bed.say(&said.text));
    as_before(bed, &before, MENDED)?;
    nothing_stale(&report)?;
    ensure!(report.lost == 0, "{} acknowledged writes are lost: {said:?}", report.lost);
    let done = said.iter().filter(|said| said.code == 0).count();
    let refused = said.iter().filter(|said| said.code == 2 && said.text.contains("switchover is under way"));
    ensure!(done <= 1 && done + refused.count() >= 1, "{said:?}");
    let moved = bed.primary()?.name() != old.name();
    ensure!(moved == (done == 1), "the primary has {}moved: {said:?}", if moved { "" } else { "not " });
    Ok(())
}

fn fenced(bed: &Bed) -> Result<()> {
    let before = settings(bed)?;
    let [old, one, _] = prepared(bed)?;
    let report = with_writers(
        bed,
        || {
            let said = rolegate(&one, &["fence", old.name()])?;
            bed.say(&said.text);
            let first = said.text.contains(&format!("first from {} to ", old.name())) && said.text.contains("Done: ");
            let fenced = said.text.contains(&format!("{} is fenced: its ports are closed", old.name()));
            ensure!(said.code == 0 && first && fenced, "{said:?}");
            rolegate(&one, &["unfence", old.name()]).map(drop)
        },
        || Ok(()),
    )?;
    nothing_stale(&report)?;
    ensure!(report.lost == 0, "{} acknowledged writes are lost", report.lost);
    as_before(bed, &before, Duration::from_secs(30))?;

    let [old, one, _] = prepared(bed)?;
    let begun = Instant::now();
    let said = rolegate(&one, &["fence", old.name(), "--no-switchover"])?;
    bed.say(&format!("{} ({:.1} s)", said.text, begun.elapsed().as_secs_f64()));
    ensure!(said.code == 0 && !said.text.contains("first from"), "{said:?}");
    rolegate(&one, &["unfence", old.name()])?;
    settled(bed)?;
    as_before(bed, &before, Duration::from_secs(30))
}
