//! The bar: what a file of lines must show before anybody is promised anything, and whether it does.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rolegate::params::Params;

use super::faults::{FAULTS, Fault, Power};
use super::spread::Spread;
use super::suite::{Figures, ISOLATED_WRITERS, Line, RATE, STALLED_MS, System, ensure_right};
use super::table::{self, example};
use super::watch::{BLIND, WANTED};

/// How often each fault is to have been measured.
const RUNS: usize = 10;

/// The median time from a majority naming the new node to its 6381 open, in milliseconds, and in which faults.
const TO_OPEN_MS: f64 = 500.0;
const OPENING: [&str; 4] = ["kill", "power-cut", "isolate", "failover"];

/// In which faults each run loses at most a tenth of what plain Sentinel loses.
const LOSING: [&str; 6] = ["isolate", "isolate-frozen", "cut-redis", "failover", "restart", "restart-empty"];

/// In which faults a primary is isolated with writers, and loses what it acknowledges in its last lease, or a little longer: what had not
/// reached a replica when it was cut off.
const ISOLATED: [&str; 6] =
    ["isolate", "isolate-frozen", "isolate-stop", "isolate-demote", "isolate-freeze", "isolate-ignore"];
const A_LITTLE: Duration = Duration::from_millis(200);

/// In which faults writers through HAProxy wait no longer than with plain Sentinel.
const WAITING: [&str; 2] = ["kill", "power-cut"];

/// On what else each chief fault is to have been measured at least once.
const BESIDE: [System; 5] = [System::Classic, System::Iptables, System::Stonith, System::Plain, System::Usual];

/// One thing that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Criterion {
    /// Of what.
    pub of: String,
    /// What is wanted of it.
    pub wanted: String,
    /// What the lines show.
    pub found: String,
    /// Whether that is it.
    pub met: bool,
}

impl Criterion {
    fn new(of: impl Into<String>, wanted: impl Into<String>, found: impl Into<String>, met: bool) -> Self {
        Criterion { of: of.into(), wanted: wanted.into(), found: found.into(), met }
    }
}

/// What was measured in a line that counts: one that was seen closely, where there is a gate to be seen, on a machine that ran.
pub(super) fn measured(line: &Line) -> Option<&Figures> {
    let counts = |figures: &&Figures| {
        let is_seen = !line.system.is_rolegate() || figures.longest_pause_ms < BLIND.as_secs_f64() * 1e3;
        is_seen && figures.stalled_ms < STALLED_MS && !line.blind
    };
    line.figures.as_ref().filter(counts)
}

/// Whether a run came as expected: by what was expected when it ran, and by what is expected now, which may be more.
pub(super) fn is_as_expected(line: &Line, figures: &Figures) -> bool {
    let now = Fault::named(&line.fault).map_or(true, |fault| match line.system {
        System::Stonith => fault.met_with_stonith(&figures.came(), &figures.cut),
        _ => fault.met(&figures.came()),
    });
    figures.as_expected == Some(true) && now
}

/// The lines that tell how things are now. Where a fault has been measured often enough on a system since, older lines of it tell how they were:
/// they count for what must never be, and for nothing else.
pub(super) fn newest(lines: &[Line]) -> Vec<Line> {
    let is_of = |one: &Line, other: &Line| (&one.fault, one.system) == (&other.fault, other.system);
    let is_new = |line: &&Line| {
        let same = || lines.iter().filter(|other| is_of(other, line));
        let begun = |commit: &str| same().filter(|other| other.commit == commit).map(|other| other.at).min();
        let since = same().filter(|other| begun(&other.commit) > begun(&line.commit)).filter_map(measured).count();
        let enough = if [System::Rolegate, System::Plain].contains(&line.system) { RUNS } else { 1 };
        since < enough
    };
    lines.iter().filter(is_new).cloned().collect()
}

/// What must not be in any line of rolegate, however old.
fn of_every_line(lines: &[Line]) -> [Criterion; 3] {
    let every = || lines.iter().filter(|line| line.system.is_rolegate());
    // Older lines do not say it.
    let says = |line: &&Line| line.figures.as_ref().is_some_and(|figures| figures.two_gates_at_most_ms.is_some());
    [
        never("stale acknowledgements", every(), |figures| figures.stale as f64),
        never("time with two open gates (ms)", every(), |figures| figures.two_gates_ms.unwrap_or(f64::INFINITY)),
        never("the same at most, between two looks at a firewall too (ms)", every().filter(says), |figures| {
            figures.two_gates_at_most_ms.unwrap_or(f64::INFINITY)
        }),
    ]
}

/// All that is wanted, in the order in which it is shown.
///
/// # Errors
/// When the default lease cannot be read.
pub fn judge(lines: &[Line]) -> Result<Vec<Criterion>> {
    let mut all = of_every_line(lines).to_vec();
    let lines = &newest(lines)[..];
    let ours = || lines.iter().filter(|line| line.system.is_rolegate());
    all.extend([
        never(
            "lost of what WAIT 1 confirmed, in single faults",
            ours().filter(|line| Fault::named(&line.fault).is_ok_and(|fault| fault.is_single)),
            |figures| figures.wait_lost as f64,
        ),
        none("runs that failed", ours().filter(|line| line.figures.is_none() && !line.blind)),
        none(
            "runs that did not come as expected",
            ours().filter(|line| measured(line).is_some_and(|figures| !is_as_expected(line, figures))),
        ),
        each(
            "99 of 100 times between two looks at a firewall (ms)",
            WANTED.as_secs_f64() * 1e3,
            "in each measured run",
            ours(),
            |figures| figures.pause_p99_ms.unwrap_or(f64::INFINITY),
        ),
        isolated(ours())?,
        runs("measured runs", System::Rolegate, RUNS, FAULTS.iter().map(|fault| fault.name), lines),
        runs("measured runs of plain Sentinel", System::Plain, RUNS, LOSING.into_iter().chain(WAITING), lines),
    ]);
    all.extend(BESIDE.map(|system| {
        runs(&format!("measured runs of the chief faults: {}", system.word()), system, 1, chief(), lines)
    }));
    all.extend(OPENING.map(|fault| {
        let times = values(&of(lines, fault, System::Rolegate, None), |figures| figures.named_to_open_ms);
        let wanted = format!("median at most {TO_OPEN_MS} ms");
        let title = format!("{fault}: named to open");
        match Spread::of(times) {
            Ok(spread) => Criterion::new(title, wanted, spread.to_string(), spread.median <= TO_OPEN_MS),
            Err(_) => Criterion::new(title, wanted, "none", false),
        }
    }));
    for fault in LOSING {
        all.extend(against_plain(lines, fault, "lost", |figures| figures.lost as f64, 0.1, |spread| spread.max));
    }
    for fault in WAITING {
        let outage = |figures: &Figures| figures.outage_haproxy_ms;
        all.extend(against_plain(lines, fault, "outage through HAProxy (ms)", outage, 1.0, |spread| spread.median));
    }
    Ok(all)
}

/// That a figure is zero in every line that has figures, however well it was seen.
fn never<'l>(of: &str, lines: impl Iterator<Item = &'l Line>, figure: fn(&Figures) -> f64) -> Criterion {
    let counted: Vec<&Line> = lines.filter(|line| line.figures.is_some()).collect();
    let value = |line: &&Line| line.figures.as_ref().map_or(0.0, figure);
    let bad: Vec<&Line> = counted.iter().copied().filter(|line| value(line) > 0.0).collect();
    let worst = bad.iter().map(value).fold(0.0, f64::max);
    let found = match bad.is_empty() {
        true => format!("0 in {} runs", counted.len()),
        false => format!("up to {worst} in {} of {} runs: {}", bad.len(), counted.len(), names(&bad)),
    };
    Criterion::new(of, "0 in every run", found, bad.is_empty() && !counted.is_empty())
}

/// That there is none of them.
fn none<'l>(of: &str, lines: impl Iterator<Item = &'l Line>) -> Criterion {
    let bad: Vec<&Line> = lines.collect();
    let found = if bad.is_empty() { "0".to_owned() } else { format!("{}: {}", bad.len(), names(&bad)) };
    Criterion::new(of, "0", found, bad.is_empty())
}

fn names(lines: &[&Line]) -> String {
    let all: Vec<String> =
        lines.iter().map(|line| format!("{} ({}, seed {})", line.fault, line.system.word(), line.seed)).collect();
    all.join(", ")
}

/// That a figure is at most `most` in every measured line.
fn each<'l>(
    of: &str,
    most: f64,
    why: &str,
    lines: impl Iterator<Item = &'l Line>,
    figure: fn(&Figures) -> f64,
) -> Criterion {
    let values: Vec<(&Line, f64)> = lines.filter_map(|line| Some((line, figure(measured(line)?)))).collect();
    let bad: Vec<&Line> = values.iter().filter(|(_, value)| *value > most).map(|(line, _)| *line).collect();
    let mut found = Spread::of(values.iter().map(|(_, value)| *value).collect())
        .map_or_else(|_| "none".to_owned(), |spread| spread.to_string());
    if !bad.is_empty() {
        found += &format!("; more in {}: {}", bad.len(), names(&bad));
    }
    Criterion::new(of, format!("at most {most:.0} {why}"), found, bad.is_empty() && !values.is_empty())
}

/// That what an isolated primary loses is what its writers can have got acknowledged in its last lease.
fn isolated<'l>(lines: impl Iterator<Item = &'l Line>) -> Result<Criterion> {
    let lease = Params::read(|_| None).context("the default lease")?.lease;
    let most = (lease + A_LITTLE).as_secs_f64() * f64::from(ISOLATED_WRITERS * RATE);
    let why = format!(
        "in each measured run ({ISOLATED_WRITERS} writers, {RATE}/s each, a lease of {} s and {} s)",
        lease.as_secs_f64(),
        A_LITTLE.as_secs_f64()
    );
    let lines = lines.filter(|line| ISOLATED.contains(&line.fault.as_str()));
    Ok(each("lost in isolation, bounded by the lease", most, &why, lines, |figures| figures.lost as f64))
}

/// The names of the chief faults.
fn chief() -> impl Iterator<Item = &'static str> {
    FAULTS.iter().filter(|fault| fault.is_chief).map(|fault| fault.name)
}

/// That each of these faults was measured at least that often on a system; else which were not.
fn runs<'f>(
    of: &str,
    system: System,
    least: usize,
    faults: impl Iterator<Item = &'f str>,
    lines: &[Line],
) -> Criterion {
    let counted = |fault: &str| self::of(lines, fault, system, None).len();
    let (enough, lacking): (Vec<_>, Vec<_>) =
        faults.map(|fault| (fault, counted(fault))).partition(|(_, counted)| *counted >= least);
    let lacks: Vec<String> = lacking.iter().map(|(fault, counted)| format!("{fault} ({counted})")).collect();
    let found = match lacks.is_empty() {
        true => format!("all {} have", enough.len()),
        false => format!("{} have; {} lack some: {}", enough.len(), lacks.len(), lacks.join(", ")),
    };
    Criterion::new(of, format!("at least {least} of each fault"), found, lacks.is_empty())
}

/// The figures of a system in one fault, of one commit or of all.
fn of<'l>(lines: &'l [Line], fault: &str, system: System, commit: Option<&str>) -> Vec<&'l Figures> {
    let of = lines.iter().filter(|line| line.fault == fault && line.system == system);
    of.filter(|line| commit.is_none_or(|commit| line.commit == commit)).filter_map(measured).collect()
}

fn values(figures: &[&Figures], figure: impl Fn(&Figures) -> Option<f64>) -> Vec<f64> {
    figures.iter().filter_map(|figures| figure(figures)).collect()
}

/// That what `ours` makes of a figure is at most `part` of plain Sentinel's median, for each commit of which both ran.
fn against_plain(
    lines: &[Line],
    fault: &str,
    what: &str,
    figure: fn(&Figures) -> f64,
    part: f64,
    ours: fn(Spread) -> f64,
) -> Vec<Criterion> {
    let commits: BTreeSet<&str> = lines.iter().map(|line| line.commit.as_str()).collect();
    let mut all = Vec::new();
    for commit in commits {
        let spread =
            |system| Spread::of(values(&of(lines, fault, system, Some(commit)), |figures| Some(figure(figures)))).ok();
        let (Some(rolegate), Some(plain)) = (spread(System::Rolegate), spread(System::Plain)) else { continue };
        let most = part * plain.median;
        all.push(Criterion::new(
            format!("{fault}: {what}, {commit}"),
            format!(
                "at most {most:.0} ({})",
                if part < 1.0 { "each run; a tenth of plain's median" } else { "median; plain's" }
            ),
            rolegate.to_string(),
            ours(rolegate) <= most,
        ));
    }
    if all.is_empty() {
        let title = format!("{fault}: {what}");
        all.push(Criterion::new(title, "measured runs, and plain Sentinel's of the same commit", "none", false));
    }
    all
}

/// As a Markdown table.
pub fn markdown(criteria: &[Criterion]) -> String {
    let mut text = "| criterion | wanted | found | verdict |\n|---|---|---|---|\n".to_owned();
    for Criterion { of, wanted, found, met } in criteria {
        let verdict = if *met { "met" } else { "MISSED" };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {of} | {wanted} | {found} | {verdict} |");
    }
    text
}

/// That all is met.
///
/// # Errors
/// How much is not.
pub fn ensure_met(criteria: &[Criterion]) -> Result<()> {
    let missed = criteria.iter().filter(|criterion| !criterion.met).count();
    ensure!(missed == 0, "{missed} of {} criteria are missed", criteria.len());
    Ok(())
}

/// That what must never be is in no line of the project's file.
///
/// # Errors
/// Where it is.
pub fn never_in_the_file() -> Result<()> {
    all_met(&of_every_line(&table::file()?))
}

/// That the project's file shows all that is wanted.
///
/// # Errors
/// What it does not show.
pub fn met_in_the_file() -> Result<()> {
    all_met(&judge(&table::file()?)?)
}

fn all_met(criteria: &[Criterion]) -> Result<()> {
    let missed: Vec<Criterion> = criteria.iter().filter(|criterion| !criterion.met).cloned().collect();
    ensure!(missed.is_empty(), "{}", markdown(&missed));
    Ok(())
}

/// That it judges right, on lines made by hand.
///
/// # Errors
/// When not.
pub fn judges_right() -> Result<()> {
    let once = |fault: &str, system: System| {
        let mut line = example(fault, system, 0, system.is_rolegate().then_some(0.0));
        let is_cut = Fault::named(fault).is_ok_and(|fault| fault.power == Power::IsCut);
        if let Some(figures) = line.figures.as_mut().filter(|_| system == System::Stonith && is_cut) {
            figures.cut = vec!["node1".to_owned()];
        }
        line
    };
    let good = || -> Vec<Line> {
        let each =
            FAULTS.iter().flat_map(|fault| (0..RUNS).map(|_| example(fault.name, System::Rolegate, 0, Some(0.0))));
        let plain = LOSING.iter().chain(&WAITING);
        let plain = plain.flat_map(|fault| (0..RUNS).map(|_| example(fault, System::Plain, 500, None)));
        let plain: Vec<Line> = plain.collect();
        let beside = BESIDE.iter().flat_map(|&system| chief().map(move |fault| once(fault, system)));
        let is_new = |line: &Line| line.system != System::Plain || plain.iter().all(|other| other.fault != line.fault);
        let beside: Vec<Line> = beside.filter(is_new).collect();
        each.chain(plain).chain(beside).collect()
    };
    let missed = |lines: &[Line]| -> Result<Vec<String>> {
        let criteria = judge(lines)?.into_iter();
        Ok(criteria.filter(|criterion| !criterion.met).map(|criterion| criterion.of).collect())
    };
    ensure!(missed(&good())?.is_empty(), "{}", markdown(&judge(&good())?));
    ensure!(ensure_met(&judge(&good())?).is_ok() && ensure_met(&judge(&[])?).is_err());
    // The first of a fault's lines is changed; what is missed then.
    let check = |fault: &str, change: &dyn Fn(&mut Line, &mut Figures), wanted: &[&str]| -> Result<()> {
        let mut lines = good();
        let line = lines.iter_mut().find(|line| line.fault == fault).expect("a line of each fault");
        let mut figures = line.figures.take().expect("figures in each line");
        change(line, &mut figures);
        line.figures = Some(figures).filter(|_| line.trouble.is_none());
        let found = missed(&lines)?;
        ensure!(found == wanted, "{fault}: {found:?}, wanted {wanted:?}\n{}", markdown(&judge(&lines)?));
        Ok(())
    };
    // A run by itself is judged by what must never be.
    let comes = |fault: &str, change: &dyn Fn(&mut Figures)| -> bool {
        let mut line = example(fault, System::Rolegate, 0, Some(0.0));
        change(line.figures.as_mut().expect("figures"));
        ensure_right(&[line]).is_ok()
    };
    ensure!(comes("restart", &|_| {}) && comes("restart", &|figures| figures.wait_lost = 8));
    ensure!(!comes("restart", &|figures| figures.wait_lost = 9), "what a replica had confirmed was lost");
    ensure!(comes("power-cut-all", &|figures| figures.wait_lost = 9), "no single fault");
    // Slower than on a machine with little to do, and what no machine explains.
    ensure!(
        comes("failover", &|figures| figures.no_gate_ms = Some(15_000.0))
            && !comes("failover", &|figures| figures.no_gate_ms = Some(15_001.0)),
        "three times 5 s"
    );
    ensure!(
        !comes("restart", &|figures| figures.stale = 1)
            && !comes("restart", &|figures| figures.two_gates_ms = Some(0.1))
    );
    check("reset", &|_, figures| figures.stale = 1, &["stale acknowledgements"])?;
    check("reset", &|_, figures| figures.two_gates_ms = Some(0.1), &["time with two open gates (ms)"])?;
    check(
        "reset",
        &|_, figures| figures.two_gates_at_most_ms = Some(0.1),
        &["the same at most, between two looks at a firewall too (ms)"],
    )?;
    check("reset", &|_, figures| figures.two_gates_at_most_ms = None, &[])?;
    check("reset", &|_, figures| figures.wait_lost = 1, &["lost of what WAIT 1 confirmed, in single faults"])?;
    check("power-cut-all", &|_, figures| figures.wait_lost = 1, &[])?;
    check("reset", &|_, figures| figures.as_expected = Some(false), &["runs that did not come as expected"])?;
    check("reset", &|line, _| line.trouble = Some("not well".into()), &["runs that failed", "measured runs"])?;
    let blind = |line: &mut Line, _: &mut Figures| (line.blind, line.trouble) = (true, Some("busy".into()));
    check("reset", &blind, &["measured runs"])?;
    // What is expected now, whatever was when it ran.
    check("reset", &|_, figures| figures.unanswered = Some(1), &["runs that did not come as expected"])?;
    check("reset", &|_, figures| figures.refused = Some(1), &["runs that did not come as expected"])?;
    check("flush", &|_, figures| figures.no_gate_ms = Some(999.0), &[])?;
    check("flush", &|_, figures| figures.no_gate_ms = Some(1001.0), &["runs that did not come as expected"])?;
    let looks = ["99 of 100 times between two looks at a firewall (ms)"];
    check("reset", &|_, figures| figures.pause_p99_ms = Some(10.1), &looks)?;
    check("reset", &|_, figures| figures.pause_p99_ms = None, &looks)?;
    check("isolate-stop", &|_, figures| figures.lost = 880, &[])?;
    check("isolate-stop", &|_, figures| figures.lost = 881, &["lost in isolation, bounded by the lease"])?;
    // Before runs were called blind for that.
    check("reset", &|_, figures| figures.longest_pause_ms = 60.0, &["measured runs"])?;
    check("reset", &|_, figures| figures.stalled_ms = 2500.0, &["measured runs"])?;
    // What must never be counts all the same.
    let unseen = |_: &mut Line, figures: &mut Figures| (figures.stalled_ms, figures.stale) = (2500.0, 1);
    check("reset", &unseen, &["stale acknowledgements", "measured runs"])?;
    check("kill", &|_, figures| figures.named_to_open_ms = Some(900.0), &[])?;
    check("isolate", &|_, figures| figures.lost = 51, &["isolate: lost, abc"])?;
    check("isolate", &|_, figures| figures.lost = 50, &[])?;
    check("kill", &|_, figures| figures.lost = 51, &[])?;
    check("kill", &|_, figures| figures.outage_haproxy_ms = 9e3, &[])?;
    check("reset", &|line, _| line.system = System::Stonith, &["measured runs"])?;
    check("reset", &|line, _| line.commit = "other".into(), &[])?;

    // Another system's lines, as they were measured there.
    for (system, fault, change, wanted) in [
        (
            System::Stonith,
            "freeze",
            (|figures| figures.cut.clear()) as fn(&mut Figures),
            "runs that did not come as expected",
        ),
        (
            System::Stonith,
            "kill",
            |figures| figures.cut = vec!["node1".to_owned()],
            "runs that did not come as expected",
        ),
        (System::Classic, "kill", |figures| figures.stale = 1, "stale acknowledgements"),
        (
            System::Usual,
            "kill",
            |figures| figures.stalled_ms = 2500.0,
            "measured runs of the chief faults: plain Sentinel, usual HAProxy",
        ),
    ] {
        let mut lines = good();
        let line = lines.iter_mut().find(|line| (line.system, line.fault.as_str()) == (system, fault));
        change(line.and_then(|line| line.figures.as_mut()).context("each system's lines")?);
        ensure!(missed(&lines)? == [wanted], "{fault} on {system:?}: {:?}", missed(&lines)?);
    }

    let mut slow = good();
    for line in slow.iter_mut().filter(|line| line.system == System::Rolegate && line.fault == "kill") {
        let figures = line.figures.as_mut().expect("figures in each line");
        (figures.named_to_open_ms, figures.outage_haproxy_ms) = (Some(501.0), 2001.0);
    }
    let wanted = ["kill: named to open", "kill: outage through HAProxy (ms), abc"];
    ensure!(missed(&slow)? == wanted, "{:?}", missed(&slow)?);
    // Plain Sentinel's runs of another commit are no measure, and one run less is too few.
    for line in slow.iter_mut().filter(|line| line.system == System::Plain) {
        line.commit = "other".into();
    }
    let alone = missed(&slow)?;
    ensure!(alone.len() == 1 + LOSING.len() + WAITING.len() && alone[0] == "kill: named to open", "{alone:?}");
    let mut few = good();
    let place = few.iter().position(|line| line.system == System::Plain).context("plain Sentinel's lines")?;
    few.remove(place);
    ensure!(missed(&few)? == ["measured runs of plain Sentinel"], "{:?}", missed(&few)?);
    let said = markdown(&judge(&few)?);
    ensure!(said.contains(&format!("{} (9)", LOSING[0])), "{said}");

    // What was recorded before ten runs of a later commit counts for what must never be alone.
    let before = |runs: usize, change: &dyn Fn(&mut Figures)| -> Result<Vec<String>> {
        let mut lines = good();
        let mut old = Line { commit: "before".into(), at: 0, ..example("reset", System::Rolegate, 0, Some(0.0)) };
        change(old.figures.as_mut().context("figures")?);
        lines.push(old);
        let mut left = runs;
        lines.retain(|line| {
            line.fault != "reset" || line.at == 0 || left.checked_sub(1).map(|less| left = less).is_some()
        });
        missed(&lines)
    };
    let odd: &dyn Fn(&mut Figures) = &|figures| (figures.as_expected, figures.wait_lost) = (Some(false), 1);
    ensure!(before(RUNS, odd)?.is_empty() && before(RUNS - 1, odd)?.len() == 2);
    ensure!(before(RUNS, &|figures| figures.stale = 1)? == ["stale acknowledgements"]);
    ensure!(before(RUNS, &|figures| figures.two_gates_ms = Some(5.0))? == ["time with two open gates (ms)"]);
    Ok(())
}
