//! `rolegate switchover` under writers: to each replica in turn, and broken off at each step in each way. Afterwards writers go on, nothing that
//! was acknowledged is lost, and every setting is what it was, in Redis and on its disk.

use std::cell::{Cell, RefCell};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rolegate::switchover::Mark;

use super::cli::rolegate;
use super::moves::{journal, nothing_stale, settled, with_writers};
use crate::OnBed;
use crate::bed::clock;
use crate::bed::gates::configure;
use crate::bed::load::Report;
use crate::bed::watch::{Seen, Watch};
use crate::bed::{Bed, Host, NODES, wait_for};

pub const TRIALS: &[(&str, OnBed)] = &[
    ("a_switchover_to_each_replica_in_turn_loses_nothing", in_turn),
    ("whatever_is_killed_at_any_step_of_a_switchover_nothing_is_left", killed),
    ("what_a_killed_switchover_has_made_permanent_is_undone_on_disk_too", permanent),
    ("a_switchover_that_is_interrupted_or_loses_its_sentinel_ends_well", broken),
    ("a_switchover_that_cannot_be_is_refused_and_changes_nothing", refused),
    ("of_two_switchovers_at_once_one_at_most_goes_on_and_nothing_is_lost", two),
    ("fencing_the_primary_moves_it_first_and_loses_nothing", fenced),
];

const LONG: Duration = Duration::from_secs(90);

/// By when the keepers have put back what was left: from the moment when the command was gone, by their own records in the journal.
const MENDED: Duration = Duration::from_secs(5);

/// What a machine whose two processors carry a cluster of three may add to that, beside what it was seen to stand still.
const SLACK: Duration = Duration::from_secs(1);

/// A Sentinel that stands still, or dies, between promoting a replica and telling the others may go on with that. The command, which lives, gives it up
/// 20 s later and lets the old primary take writes.
const GIVEN_UP: Duration = Duration::from_secs(23);

/// How long nobody can write where nothing is killed: on a machine that is not busy, in one of them at least, and in each.
const SHORT: Duration = Duration::from_secs(1);
const AT_MOST: Duration = Duration::from_secs(2);

const SETTINGS: [&str; 2] = ["min-replicas-to-write", "replica-priority"];

/// What the command says when a step is done, in their order.
const STEPS: [&str; 5] =
    ["is put behind", "takes no more writes", "6381 is closed", "was asked for the failover", "is primary"];

/// And in between and behind them: nothing is asked yet, and the port is open while writes at the old primary are still stopped.
const HAS_ALL: &str = "every replica has every byte";
const WRITES: &str = "takes writes";

/// A bed whose primary's port is open, and the nodes: the primary, and the two others.
fn prepared(bed: &Bed) -> Result<[Host<'_>; 3]> {
    let node = bed.host(NODES[0])?;
    if !node.ask("cibadmin", &["-Q", "-o", "resources"])?.contains("type=\"gate\"") {
        configure(bed)?;
    }
    settled(bed)?;
    parties(bed)
}

/// The same, where all is settled.
fn parties(bed: &Bed) -> Result<[Host<'_>; 3]> {
    bed.replicas_known()?;
    // One that stood still, in the trial before, takes no decisions for half a minute.
    bed.nodes().try_for_each(|node| clock::settle(&node))?;
    let primary = bed.primary()?;
    let mut others = bed.nodes().filter(|node| node.name() != primary.name());
    let (one, two) = (others.next().context("three nodes")?, others.next().context("three nodes")?);
    Ok([primary, one, two])
}

/// Each node's settings, as Redis has them and as its configuration file says (a line for each that is there).
fn settings(bed: &Bed) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for node in bed.nodes() {
        let (cli, questions) = (bed.server().cli(), SETTINGS.map(|name| format!("CONFIG GET {name}\\n")).concat());
        // All in one: what is left stands for a moment only.
        let said = node.sh(&format!("printf '{questions}' | {cli} -e -p 6379; {}", on_disk(bed)))?.text();
        let (set, written): (Vec<&str>, Vec<&str>) = said.lines().partition(|line| !line.contains(' '));
        // What is not there is the default, which Redis may write down at any time.
        let written: Vec<&str> =
            written.into_iter().filter(|line| !line.ends_with(" 100") && !line.ends_with(" 0")).collect();
        all.push(format!("{}: {}, on disk {written:?}", node.name(), set.join(" ")));
    }
    Ok(all)
}

/// What shows both settings in a server's configuration file.
fn on_disk(bed: &Bed) -> String {
    format!("grep -Ei '^(min-(replicas|slaves)-to-write|(replica|slave)-priority) ' {} || true", bed.server().config())
}

/// Waits until all is as it was.
fn as_before(bed: &Bed, before: &[String], within: Duration) -> Result<()> {
    wait_for("every setting to be what it was", within, || {
        let now = settings(bed)?;
        ensure!(now == before, "{now:?}, and was {before:?}");
        let attributes = bed.host(NODES[0])?.ask("crm_mon", &["-1", "-A"])?;
        ensure!(!attributes.contains("redis_fence"), "{attributes}");
        Ok(())
    })
}

/// Does `what` under writers: nothing that was acknowledged is lost.
fn lossless(bed: &Bed, what: impl FnOnce() -> Result<()>) -> Result<Report> {
    let report = with_writers(bed, what, || Ok(()))?;
    nothing_stale(&report)?;
    ensure!(report.lost == 0, "{} acknowledged writes are lost", report.lost);
    Ok(report)
}

/// Does `what` with a look at every gate each few milliseconds: two are never open.
pub(super) fn watched<T>(bed: &Bed, what: impl FnOnce() -> Result<T>) -> Result<(T, Seen)> {
    let watch = Watch::start(bed);
    let done = what();
    let seen = watch.stop()?;
    let (two, unseen) = (seen.two_open(), seen.pauses().longest);
    bed.say(&format!("two gates were open for {two:?}; longest time between two looks at one: {unseen:?}"));
    ensure!(two.is_zero(), "two gates were open for {two:?}");
    Ok((done?, seen))
}

/// Both.
fn safely(bed: &Bed, what: impl FnOnce() -> Result<()>) -> Result<(Report, Seen)> {
    watched(bed, || lossless(bed, what))
}

/// Runs a switchover on a host, and does something when it says `at`, knowing its process and all that it has said. Gives all that it said, and its
/// exit code where it was not killed.
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
        said.push_str(&line);
        said.push('\n');
        if line.contains(at) {
            if let Some(act) = act.take() {
                act(process.context("it runs")?, &said)?;
            }
        }
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
    let (report, seen) = safely(bed, || {
        // From nodes that have no part in it.
        for (from, to) in [(&two, &one), (&old, &two)] {
            let dry = rolegate(from, &["switchover", "--to", to.name(), "--dry-run"])?;
            let would = [
                format!("behind {} in Sentinel's choice", to.name()),
                "would wait until a Sentinel knows that".to_owned(),
                format!("would stop writes at {}", bed.primary()?.name()),
                "would ask that Sentinel for a failover".to_owned(),
                "Nothing was changed".to_owned(),
            ];
            ensure!(dry.code == 0 && would.iter().all(|line| dry.text.contains(line)), "{dry:?}");
            ensure!(settings(bed)? == before, "--dry-run has changed {:?}", settings(bed)?);
            let said = rolegate(from, &["switchover", "--to", to.name()])?;
            bed.say(&said.text);
            ensure!(said.code == 0 && said.text.contains(&format!("Done: {} takes writes", to.name())), "{said:?}");
            pauses.extend(pause(&said.text));
            as_before(bed, &before, Duration::from_secs(3))?;
            with_its_epoch(from, to)?;
            settled(bed)?;
            bed.replicas_known()?;
        }
        let already = rolegate(&one, &["switchover", "--to", two.name()])?;
        ensure!(already.code == 0 && already.text.contains("nothing to do"), "{already:?}");
        Ok(())
    })?;
    as_before(bed, &before, MENDED)?;
    bed.say(&format!("nobody could write for {pauses:?} ms"));
    for writer in &report.writers {
        bed.say(&format!(
            "{}: longest gap {} ms, {} errors, last: {}",
            writer.name, writer.longest_gap_ms, writer.errors, writer.last_error
        ));
    }
    let times: Vec<Duration> = pauses.iter().map(|ms| Duration::from_millis(*ms)).collect();
    let [one, two] = times[..] else { bail!("pauses {pauses:?}") };
    let (least, most, slack) = (one.min(two), one.max(two), seen.stalled());
    ensure!(least < SHORT, "nobody could write for {least:?} at least");
    ensure!(most < AT_MOST + slack, "nobody could write for {most:?}, {AT_MOST:?} and {slack:?} at most");
    Ok(())
}

/// That the journal of the node on which it was typed says in which epoch `to` has become primary.
fn with_its_epoch(from: &Host, to: &Host) -> Result<()> {
    let known = to.redis(26379, &["SENTINEL", "MASTER", "mymaster"])?;
    let epoch = known.split("config-epoch\n").nth(1).and_then(|rest| rest.lines().next()).context("config-epoch")?;
    wait_for("the record of the switchover", Duration::from_secs(10), || {
        let all = journal(from, &["-t", "rolegate", "MASTER=mymaster", "REASON=switchover"])?;
        let last = all.last().context("none")?;
        ensure!(last["NODE"] == to.name() && last["EPOCH"] == epoch, "not of {} in epoch {epoch}: {last:#}", to.name());
        Ok(())
    })
}

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Command,
    OldKeeper,
    NewKeeper,
    /// Of the node that is put behind the new primary.
    BehindKeeper,
    /// The one that was asked for the failover; before that it is not known, and it is the old primary's.
    SentinelAsked,
    OtherSentinel,
}

impl Victim {
    const ALL: [Victim; 6] = [
        Victim::Command,
        Victim::OldKeeper,
        Victim::NewKeeper,
        Victim::BehindKeeper,
        Victim::SentinelAsked,
        Victim::OtherSentinel,
    ];

    /// When it is killed.
    fn steps(self) -> Vec<&'static str> {
        match self {
            Victim::Command => [&STEPS[..], &[HAS_ALL, WRITES]].concat(),
            // It has nothing to do but to keep its mark, and to lift it.
            Victim::BehindKeeper => vec![STEPS[0], STEPS[3]],
            _ => STEPS.to_vec(),
        }
    }

    /// Kills it while a switchover from `old` to `to` has this process and has `said` that.
    fn kill(self, old: &Host, to: &Host, command: Pid, said: &str) -> Result<()> {
        let bed = old.bed();
        let keeper = |node: &Host| node.signal("rolegate-keeper", Signal::SIGKILL).map(drop);
        let asked = asked(bed, said).map_or(old.name(), |node| node.name());
        let sentinel = |is_it: &dyn Fn(&Host) -> bool| {
            let node = bed.nodes().find(is_it).context("three nodes")?;
            node.signal(bed.server().sentinel(), Signal::SIGKILL).map(drop)
        };
        match self {
            Victim::Command => Ok(kill(command, Signal::SIGKILL)?),
            Victim::OldKeeper => keeper(old),
            Victim::NewKeeper => keeper(to),
            Victim::BehindKeeper => {
                let third = bed.nodes().find(|node| ![old.name(), to.name()].contains(&node.name()));
                keeper(&third.context("three nodes")?)
            }
            Victim::SentinelAsked => sentinel(&|node| node.name() == asked),
            Victim::OtherSentinel => sentinel(&|node| node.name() != asked),
        }
    }
}

/// The node whose Sentinel was asked for the failover.
fn asked<'b>(bed: &'b Bed, said: &str) -> Option<Host<'b>> {
    let line = said.lines().find(|line| line.contains(STEPS[3]))?;
    bed.nodes().find(|node| line.contains(&format!("{}:26379", node.address())))
}

/// How a command that was not killed says that it has ended.
struct End {
    /// Who is primary.
    node: String,
    /// It has said itself that another one may become it yet.
    may_move: bool,
}

impl End {
    /// Exactly one end, and with the code that belongs to it.
    fn said(said: &str, code: i32) -> Result<End> {
        let lines: Vec<&str> = said.lines().collect();
        let first = |text: &str| text.split([' ', ':']).next().unwrap_or_default().to_owned();
        let after = |part: &str| lines.iter().find_map(|line| line.strip_prefix(part)).map(first);
        let before = |part: &str| lines.iter().find(|line| line.contains(part)).map(|line| first(line));
        let ends = [
            (after("Done: "), 0),
            (after("Done, but Sentinel chose "), 1),
            (before(" is primary, and was not seen to take writes"), 2),
            // Its last line says who it is.
            (
                after("Went back: ")
                    .and_then(|_| before(" is primary and takes writes").or_else(|| before(" was primary; its"))),
                2,
            ),
        ];
        let ends: Vec<(String, i32)> = ends.into_iter().filter_map(|(node, code)| Some((node?, code))).collect();
        let [(node, fits)] = ends.as_slice() else { bail!("not one end, but {ends:?}: {said}") };
        // It has said what else there is to look at.
        let more = ["was not seen put back", "was let take writes again"].iter().any(|part| said.contains(part));
        let fits = if more { (*fits).max(1) } else { *fits };
        ensure!(code == fits, "exit code {code}, which is to be {fits}: {said}");
        Ok(End { node: node.clone(), may_move: said.contains("may still do it") })
    }
}

/// What a broken switchover came to.
struct Broken {
    /// All that it said.
    said: String,
    /// The node from which it was to move the primary, and the one that had no part in it but that it was typed there.
    old: &'static str,
    from: &'static str,
    /// When `fault` began.
    at: SystemTime,
    /// How many things keepers said that they have put back since.
    mended: usize,
}

/// Where all is settled: does `fault` when a switchover to another node has come to `at`, knowing the old primary's node, the new one's, the process and what it has said;
/// until writers go on and nothing is left. Two gates are never open, nobody is kept from writing for longer than `pause` from then on, and where
/// keepers have put something back they did so in time.
fn faulty(
    bed: &Bed,
    at: &str,
    pause: Duration,
    fault: impl Fn(&Host, &Host, Pid, &str) -> Result<()>,
    after: impl Fn() -> Result<()>,
) -> Result<Broken> {
    let before = settings(bed)?;
    let [old, to, from] = parties(bed)?;
    let begun = Instant::now();
    let done = Cell::new((begun, SystemTime::now()));
    let (said, seen) = watched(bed, || {
        let (said, code) = broken_off(&from, to.name(), at, |process, said| {
            done.set((Instant::now(), SystemTime::now()));
            fault(&old, &to, process, said)
        })?;
        bed.say(&format!("at {at:?}: code {code:?} after {:.1} s\n{said}", begun.elapsed().as_secs_f64()));
        let end = code.map(|code| End::said(&said, code)).transpose()?;
        if let Some(End { node, .. }) = &end {
            let info = bed.host(node)?.redis(6379, &["INFO", "replication"])?;
            ensure!(info.contains("role:master"), "{node} is not primary: {said}{info}");
        }
        as_before(bed, &before, LONG).with_context(|| format!("broken off at {at:?}: {said}"))?;
        after()?;
        wait_for("a node to take writes", Duration::from_secs(20), || {
            ensure!(!crate::bed::gates::open_gates(bed)?.is_empty(), "none does");
            Ok(())
        })?;
        let primary = settled(bed)?.name();
        let is_it = |end: &End| end.node == primary || end.may_move;
        ensure!(end.as_ref().is_none_or(is_it), "{primary} is primary: {said}");
        as_before(bed, &before, MENDED)?;
        Ok(said)
    })?;
    let (since, by_wall) = done.get();
    let slack = SLACK + seen.stalled();
    let closed = seen.none_open(since);
    let mended = mended(bed, by_wall)?;
    let last = mended.iter().map(|(at, _)| *at).max().unwrap_or_default();
    bed.say(&format!(
        "at {at:?}: nobody could write for {closed:?} from then on; the keepers mended {} things within {last:?}; stalled for {:?}",
        mended.len(),
        seen.stalled()
    ));
    ensure!(closed < pause + slack, "nobody could write for {closed:?}, {pause:?} and {slack:?} at most");
    ensure!(last < MENDED + slack, "mended after {last:?}, {MENDED:?} and {slack:?} at most: {mended:#?}");
    Ok(Broken { said, old: old.name(), from: from.name(), at: by_wall, mended: mended.len() })
}

/// What keepers say that they have put back since then, and how long after that.
fn mended(bed: &Bed, since: SystemTime) -> Result<Vec<(Duration, String)>> {
    let from = format!("@{:.6}", since.duration_since(UNIX_EPOCH)?.as_secs_f64());
    let mut all = Vec::new();
    for node in bed.nodes() {
        for record in journal(&node, &["-t", "rolegate-keeper", "REASON=switchover", "-S", &from])? {
            let message = record["MESSAGE"].as_str().unwrap_or_default();
            let at: u64 = record["__REALTIME_TIMESTAMP"].as_str().context("its time")?.parse()?;
            let after = (UNIX_EPOCH + Duration::from_micros(at)).duration_since(since).unwrap_or_default();
            if [PUT_BACK, REWRITTEN].iter().any(|part| message.contains(part)) {
                all.push((after, format!("{}: {message}", node.name())));
            }
        }
    }
    Ok(all)
}

/// What a keeper says when it has put back a setting, and a file.
const PUT_BACK: &str = "a switchover that did not end had left";
const REWRITTEN: &str = "is written anew: it held what a switchover sets";

fn killed(bed: &Bed) -> Result<()> {
    prepared(bed)?;
    let done = Victim::ALL.into_iter().try_for_each(|victim| {
        let each = || victim.steps().into_iter().try_for_each(|step| killed_at(bed, victim, step));
        lossless(bed, each).with_context(|| format!("{victim:?}")).map(drop)
    });
    done.and(pace(bed, INFO.1, PUBLISH.1))
}

fn killed_at(bed: &Bed, victim: Victim, step: &str) -> Result<()> {
    // Most of a switchover's time is waiting until the Sentinels have asked the replicas. All else is as it always is.
    pace(bed, INFO.0, PUBLISH.1)?;
    let begun = Instant::now();
    let kill = |old: &Host, to: &Host, process: Pid, said: &str| victim.kill(old, to, process, said);
    // And the old primary becomes a replica when a Sentinel has waited for four of its periods.
    let after = || pace(bed, INFO.0, PUBLISH.0);
    let broken = faulty(bed, step, MENDED, kill, after).with_context(|| format!("{victim:?} killed at {step:?}"))?;
    // A command that is dead puts nothing back. Where no keeper says that it did, nothing was timed. When the port is open the command has
    // only some milliseconds left to do it itself.
    let itself = step == WRITES && broken.said.contains("min-replicas-to-write of");
    ensure!(victim != Victim::Command || broken.mended > 0 || itself, "no keeper's word at {step:?}: {}", broken.said);
    bed.say(&format!("{victim:?} killed at {step:?}: {:.1} s", begun.elapsed().as_secs_f64()));
    Ok(())
}

/// How often Sentinels ask replicas, and how often they tell each other, in milliseconds: in haste, and by default.
const INFO: (u32, u32) = (1000, 10_000);
const PUBLISH: (u32, u32) = (500, 2000);

/// Has every Sentinel do so until it restarts.
fn pace(bed: &Bed, info: u32, publish: u32) -> Result<()> {
    let (info, publish) = (info.to_string(), publish.to_string());
    let times = ["SENTINEL", "DEBUG", "INFO-PERIOD", &info, "PUBLISH-PERIOD", &publish];
    for node in bed.nodes() {
        wait_for("the Sentinel to answer", Duration::from_secs(20), || node.redis(26379, &times))?;
    }
    Ok(())
}

/// Has a server write its settings down, and says how many marks its file has then.
fn made_permanent(bed: &Bed, node: &Host) -> Result<usize> {
    let said = node.sh(&format!("{} -e -p 6379 CONFIG REWRITE; {}", bed.server().cli(), on_disk(bed)))?.text();
    let value = |line: &str| line.split_whitespace().nth(1)?.parse().ok();
    Ok(said.lines().filter_map(value).filter(|value| Mark::of(*value).is_some()).count())
}

/// `CONFIG REWRITE`, which Sentinel sends too, while the marks of a command stand that was killed.
fn permanent(bed: &Bed) -> Result<()> {
    prepared(bed)?;
    lossless(bed, || {
        for step in [STEPS[0], STEPS[1]] {
            let (nodes, held) = (bed.nodes().collect::<Vec<_>>(), RefCell::new(Vec::new()));
            let rewrite = |_: &Host, _: &Host, process: Pid, _: &str| {
                kill(process, Signal::SIGKILL)?;
                // Its marks go on standing for a moment.
                *held.borrow_mut() = thread::scope(|scope| -> Result<_> {
                    let asked = nodes.iter().map(|node| scope.spawn(|| made_permanent(bed, node)));
                    let mut held = Vec::new();
                    for (thread, node) in asked.collect::<Vec<_>>().into_iter().zip(&nodes) {
                        held.push((node.name(), thread.join().map_err(|_| anyhow::anyhow!("it panicked"))??));
                    }
                    Ok(held)
                })?;
                Ok(())
            };
            let Broken { said, old, from, at, .. } = faulty(bed, step, MENDED, rewrite, || Ok(()))?;
            for (node, held) in held.into_inner() {
                // The primary's own priority is the lock.
                let marks = if node == old && step == STEPS[1] { 2 } else { usize::from([old, from].contains(&node)) };
                ensure!(held == marks, "at {step:?} {held} marks were on the disk of {node}, not {marks}: {said}");
            }
            let mended = mended(bed, at)?;
            for node in [old, from] {
                let anew = mended.iter().any(|(_, text)| text.starts_with(node) && text.contains(REWRITTEN));
                ensure!(anew, "no word of the file of {node}: {mended:#?}");
            }
        }
        Ok(())
    })
    .map(drop)
}

fn broken(bed: &Bed) -> Result<()> {
    prepared(bed)?;
    lossless(bed, || {
        // With the command the keeper that would put back what it left.
        let both = |old: &Host, _: &Host, process: Pid, _: &str| {
            kill(process, Signal::SIGKILL)?;
            old.signal("rolegate-keeper", Signal::SIGKILL).map(drop)
        };
        faulty(bed, STEPS[1], MENDED, both, || Ok(()))?;
        // Ctrl-C: back, or on.
        faulty(bed, STEPS[1], MENDED, |_, _, process, _| Ok(kill(process, Signal::SIGINT)?), || Ok(()))?;
        let on = faulty(bed, STEPS[3], MENDED, |_, _, process, _| Ok(kill(process, Signal::SIGINT)?), || Ok(()))?;
        ensure!(bed.primary()?.name() != on.old, "asked for, and it went back: {}", on.said);
        watched(bed, || interrupted(bed))?;
        dead_sentinel(bed)?;
        silent_sentinel(bed)
    })
    .map(drop)
}

/// Ctrl-Z does nothing, and Ctrl-C before the pause changes nothing.
fn interrupted(bed: &Bed) -> Result<()> {
    let before = settings(bed)?;
    let [old, to, from] = prepared(bed)?;
    let both = |process: Pid, _: &str| {
        kill(process, Signal::SIGTSTP)?;
        thread::sleep(Duration::from_millis(100));
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

/// The Sentinel that was asked is killed, just then and when it has promoted the target, and stays dead.
fn dead_sentinel(bed: &Bed) -> Result<()> {
    let sentinel = bed.server().sentinel();
    // Where it has promoted one and no other can do it again, it may go on with that when it is started again.
    for (step, pause) in [(STEPS[3], MENDED), (STEPS[4], GIVEN_UP)] {
        let dead = Cell::new(None);
        let kill = |_: &Host, _: &Host, _: Pid, said: &str| {
            let asked = asked(bed, said).context("its host")?;
            // First: 0.2 s behind the request it promotes the target. Then, before its unit has started it again or just after.
            asked.signal(sentinel, Signal::SIGKILL)?;
            dead.set(Some(asked.name()));
            asked.ask("systemctl", &["stop", sentinel])?;
            Ok(())
        };
        let revive = || {
            let host = bed.host(dead.take().context("it was killed")?)?;
            host.ask("systemctl", &["start", sentinel]).map(drop)
        };
        faulty(bed, step, pause, kill, revive).with_context(|| format!("dead at {step:?}"))?;
    }
    Ok(())
}

/// The Sentinel that was asked stands still before it has promoted anybody. It comes back in TILT.
fn silent_sentinel(bed: &Bed) -> Result<()> {
    let sentinel = bed.server().sentinel();
    let stopped = Cell::new(None);
    let stop = |_: &Host, _: &Host, _: Pid, said: &str| {
        let asked = asked(bed, said).context("its host")?;
        asked.signal(sentinel, Signal::SIGSTOP)?;
        stopped.set(Some(asked.name()));
        Ok(())
    };
    let go_on = || {
        let host = bed.host(stopped.take().context("it was stopped")?)?;
        host.signal(sentinel, Signal::SIGCONT).map(drop)
    };
    faulty(bed, STEPS[3], GIVEN_UP, stop, go_on).map(drop)
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
    let safe = safely(bed, || {
        said = thread::scope(|scope| -> Result<_> {
            let both = [(&one, &other), (&other, &one)]
                .map(|(from, to)| scope.spawn(move || rolegate(from, &["switchover", "--to", to.name()])));
            let mut said = Vec::new();
            for thread in both {
                said.push(thread.join().map_err(|_| anyhow::anyhow!("it panicked"))??);
            }
            Ok(said)
        })?;
        Ok(())
    });
    said.iter().for_each(|said| bed.say(&said.text));
    safe?;
    as_before(bed, &before, MENDED)?;
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
    safely(bed, || {
        let said = rolegate(&one, &["fence", old.name()])?;
        bed.say(&said.text);
        let first = said.text.contains(&format!("first from {} to ", old.name())) && said.text.contains("Done: ");
        let fenced = said.text.contains(&format!("{} is fenced: its ports are closed", old.name()));
        ensure!(said.code == 0 && first && fenced, "{said:?}");
        rolegate(&one, &["unfence", old.name()]).map(drop)
    })?;
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
