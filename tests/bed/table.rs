//! Lines of figures as Markdown tables: one that has all, for who has just run faults, and those of README.md and docs/lease.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::faults::{Expects, FAULTS, Fault};
use super::judge::{is_as_expected, measured, newest};
use super::project;
use super::spread::Spread;
use super::suite::{Figures, Line, STALLED_MS, System, Versions};

/// The lines in `file`.
///
/// # Errors
/// When it cannot be read, or holds something else.
pub fn read(file: &Path) -> Result<Vec<Line>> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let place = |number: usize| format!("{}:{}", file.display(), number + 1);
    let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty());
    lines.map(|(number, line)| serde_json::from_str(line).with_context(|| place(number))).collect()
}

const HEAD: &str = "\
| fault | system | runs | lost | of acknowledged | lost of those that WAIT 1 | stale (worst) | two gates (worst, ms) | outage \
through HAProxy (s) | outage direct (s) | named to open (s) | as expected |
|---|---|---|---|---|---|---|---|---|---|---|---|
";

/// The table: a row for each fault and system, medians with the least and the most in brackets.
pub fn markdown(lines: &[Line]) -> String {
    let place = |line: &&Line| FAULTS.iter().position(|fault| fault.name == line.fault).unwrap_or(FAULTS.len());
    let rows: BTreeSet<(usize, &str, System)> =
        lines.iter().map(|line| (place(&line), line.fault.as_str(), line.system)).collect();
    let mut text = HEAD.to_owned();
    let mut last = "";
    for (_, fault, system) in rows {
        let of: Vec<&Line> = lines.iter().filter(|line| line.fault == fault && line.system == system).collect();
        // What it is, once.
        let says = FAULTS.iter().find(|known| known.name == fault && last != fault).map(Fault::says_of_any);
        text += &row(&says.map_or_else(|| fault.to_owned(), |says| format!("{fault}: {says}")), system, &of);
        last = fault;
    }
    text + "\n" + &ran(lines)
}

/// How many runs, and which of them count for less or nothing.
fn runs(lines: &[&Line]) -> String {
    let count = |picks: fn(&Line) -> bool, what: &str| match lines.iter().filter(|line| picks(line)).count() {
        0 => None,
        some => Some(format!("{some} {what}")),
    };
    let apart: Vec<String> = [
        count(|line| line.figures.is_none() && !line.blind, "failed"),
        count(|line| line.blind, "not measured"),
        count(
            |line| line.figures.as_ref().is_some_and(|figures| figures.stalled_ms >= STALLED_MS),
            "on a machine that stood still",
        ),
    ]
    .into_iter()
    .flatten()
    .collect();
    if apart.is_empty() { lines.len().to_string() } else { format!("{} ({})", lines.len(), apart.join(", ")) }
}

fn row(fault: &str, system: System, lines: &[&Line]) -> String {
    let figures: Vec<&Figures> = lines.iter().filter_map(|line| line.figures.as_ref()).collect();
    let spread = |decimals: usize, figure: &dyn Fn(&Figures) -> Option<f64>| {
        let values: Vec<f64> = figures.iter().filter_map(|figures| figure(figures)).collect();
        match Spread::of(values) {
            Err(_) => "-".to_owned(),
            Ok(Spread { min, median, max, .. }) if min == max => format!("{median:.decimals$}"),
            Ok(Spread { min, median, max, .. }) => {
                format!("{median:.decimals$} ({min:.decimals$} to {max:.decimals$})")
            }
        }
    };
    let count = |figure: fn(&Figures) -> usize| spread(0, &move |figures| Some(figure(figures) as f64));
    let seconds = |figure: fn(&Figures) -> Option<f64>| spread(2, &move |figures| Some(figure(figures)? / 1e3));
    let worst = |figure: fn(&Figures) -> Option<f64>| {
        let all: Vec<f64> = figures.iter().filter_map(|figures| figure(figures)).collect();
        let runs = all.iter().filter(|value| **value > 0.0).count();
        match all.into_iter().max_by(f64::total_cmp) {
            None => "-".to_owned(),
            // In full: a fraction of a millisecond is not zero.
            Some(worst) if runs > 0 && figures.len() > 1 => format!("{worst} (in {runs} of {})", figures.len()),
            Some(worst) => worst.to_string(),
        }
    };
    let judged: Vec<bool> = figures.iter().filter_map(|figures| figures.as_expected).collect();
    let expected = match judged.iter().filter(|expected| **expected).count() {
        _ if judged.is_empty() => "-".to_owned(),
        all if all == judged.len() => "all".to_owned(),
        some => format!("{some} of {}", judged.len()),
    };
    format!(
        "| {fault} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {expected} |\n",
        system.word(),
        runs(lines),
        count(|figures| figures.lost),
        count(|figures| figures.acknowledged),
        count(|figures| figures.wait_lost),
        worst(|figures| Some(figures.stale as f64)),
        worst(|figures| figures.two_gates_ms),
        seconds(|figures| Some(figures.outage_haproxy_ms)),
        seconds(|figures| Some(figures.outage_direct_ms)),
        seconds(|figures| figures.named_to_open_ms),
    )
}

/// What ran, and how closely it was watched.
fn ran(lines: &[Line]) -> String {
    let mut commits: BTreeMap<&str, usize> = BTreeMap::new();
    for line in lines {
        *commits.entry(&line.commit).or_default() += 1;
    }
    let commits: Vec<String> = commits.iter().map(|(commit, runs)| format!("{commit} ({runs})")).collect();
    let versions: BTreeSet<&Versions> = lines.iter().map(|line| &line.versions).collect();
    let versions: Vec<String> = versions
        .into_iter()
        .map(|Versions { redis, pacemaker, kernel }| {
            let kernel = kernel.split_once('-').map_or(kernel.as_str(), |(version, _)| version);
            format!("Redis {redis}, Pacemaker {pacemaker}, kernel {kernel}")
        })
        .collect();
    let ours = || lines.iter().filter(|line| line.system.is_rolegate());
    let seen = |figure: fn(&Figures) -> Option<f64>| {
        let values = ours().filter_map(|line| figure(measured(line)?)).collect();
        Spread::of(values).map_or_else(
            |_| "-".to_owned(),
            |Spread { median, max, .. }| format!("{median:.1} ms (at most {max:.1} ms in a run)"),
        )
    };
    let figures = || ours().filter_map(|line| line.figures.as_ref());
    let stalled = lines.iter().filter_map(|line| line.figures.as_ref()).map(|figures| figures.stalled_ms);
    format!(
        "{} runs, medians with the least and the most; {}; commits (runs) {}. In the {} runs of rolegate with figures {} stale acknowledgements, and {} ms \
         with two gates. Between two looks at a node's firewall 99 of 100 times passed no more than {}, the longest time in a run was {}; {:.1} % of the time at \
         most passed in pauses of more than 10 ms. The machine stood still for up to {:.0} ms.\n",
        lines.len(),
        versions.join("; "),
        commits.join(", "),
        figures().count(),
        figures().map(|figures| figures.stale).sum::<usize>(),
        figures().filter_map(|figures| figures.two_gates_ms).sum::<f64>(),
        seen(|figures| figures.pause_p99_ms),
        seen(|figures| Some(figures.longest_pause_ms)),
        ours().filter_map(|line| measured(line)?.paused_percent).fold(0.0, f64::max),
        stalled.fold(0.0, f64::max),
    )
}

/// A document that has a table made from a file of lines.
struct Document {
    /// Where it is in the project.
    path: &'static str,
    table: fn(&[Line]) -> String,
}

/// The documents, and the file.
const DOCUMENTS: [Document; 2] =
    [Document { path: "README.md", table: beside_plain }, Document { path: "docs/lease.md", table: costs }];
const FILE: &str = "docs/faults.jsonl";

/// What stands around a table in a document.
const BEGIN: &str = "<!-- by scripts/faults --paste docs/faults.jsonl";
const END: &str = "<!-- end of that -->";

/// The lines of the project's file.
///
/// # Errors
/// When it cannot be read.
pub(super) fn file() -> Result<Vec<Line>> {
    read(&project().join(FILE))
}

/// Each document's name, and its table as it is to stand there.
pub fn of_documents(lines: &[Line], commit: Option<&str>) -> String {
    let each = DOCUMENTS.iter().map(|document| format!("{}:\n\n{}\n", document.path, block(document, lines, commit)));
    each.collect::<Vec<_>>().join("\n")
}

/// Puts the tables into the documents.
///
/// # Errors
/// When a document has no place for its table, or cannot be written.
pub fn paste(lines: &[Line], commit: Option<&str>) -> Result<()> {
    for document in &DOCUMENTS {
        let path = project().join(document.path);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let (before, old, after) = parts(&text).with_context(|| path.display().to_string())?;
        let new = block(document, lines, commit);
        if new != old {
            fs::write(&path, [before, &new, after].concat()).with_context(|| format!("writing {}", path.display()))?;
        }
    }
    Ok(())
}

/// That the documents have the tables that the file makes: those of the commit that they name, where they name one.
///
/// # Errors
/// When not.
pub fn documents_are_made() -> Result<()> {
    let lines = file()?;
    for document in &DOCUMENTS {
        let text = fs::read_to_string(project().join(document.path))?;
        let (_, old, _) = parts(&text).context(document.path)?;
        let commit = old.lines().next().and_then(|begin| begin.strip_prefix(BEGIN)?.strip_prefix(" --commit "));
        let commit = commit.and_then(|rest| rest.split(' ').next());
        let mut lines = lines.clone();
        lines.retain(|line| commit.is_none_or(|commit| line.commit.starts_with(commit)));
        let new = block(document, &lines, commit);
        let options = commit.map_or(String::new(), |commit| format!(" --commit {commit}"));
        ensure!(
            old == new,
            "{} has not the table that {FILE} makes: run scripts/faults --paste {FILE}{options}\n{new}",
            document.path
        );
    }
    Ok(())
}

fn block(document: &Document, lines: &[Line], commit: Option<&str>) -> String {
    let options = commit.map_or(String::new(), |commit| format!(" --commit {commit}"));
    format!("{BEGIN}{options} -->\n{}{END}", (document.table)(lines))
}

/// What stands before the table of a document, the table, and what stands behind it.
fn parts(text: &str) -> Result<(&str, &str, &str)> {
    let (Some(begin), Some(end)) = (text.find(BEGIN), text.find(END)) else {
        bail!("it has no line {BEGIN:?}, or none {END:?} below it");
    };
    let end = end + END.len();
    ensure!(begin < end, "it has {END:?} above {BEGIN:?}");
    Ok((&text[..begin], &text[begin..end], &text[end..]))
}

/// The faults that plain Sentinel has met, too. Where it has as it is mostly set up, that is a row of its own.
fn beside_plain(all: &[Line]) -> String {
    let lines = &newest(all)[..];
    let mut text = "| fault | runs | lost of acknowledged | stale / two gates | outage (s) | named to open (s) | plain Sentinel: runs | lost of \
                    acknowledged | stale | outage (s) |\n|---|---|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for fault in faults(lines) {
        let ours = of(lines, fault, System::Rolegate);
        if ours.is_empty() {
            continue;
        }
        let mut own = format!(
            "{} | {} | {} | {} | {}",
            runs(&ours),
            lost(&ours),
            never(&ours),
            outage(&ours),
            spread(&ours, 2, |figures| Some(figures.named_to_open_ms? / 1e3)),
        );
        for system in [System::Plain, System::Usual] {
            let plain = of(lines, fault, system);
            if plain.is_empty() {
                continue;
            }
            let against = match system {
                System::Usual => format!("`{fault}`, against {}", system.word()),
                _ => what(fault),
            };
            text += &format!(
                "| {against} | {own} | {} | {} | {} | {} |\n",
                runs(&plain),
                lost(&plain),
                spread(&plain, 0, |figures| Some(figures.stale as f64)),
                outage(&plain),
            );
            // Once.
            own = "| | | |".to_owned();
        }
    }
    text + "\n" + &ran(all) + &older(all.len() - lines.len())
}

/// What older lines still count for.
fn older(lines: usize) -> String {
    if lines == 0 {
        return String::new();
    }
    format!(
        "The tables are of the newest runs: {lines} older ones of faults that were recorded anew since are in the file, too, and count for stale \
         acknowledgements and two gates alone.\n"
    )
}

/// All faults and operations, with rolegate.
fn costs(all: &[Line]) -> String {
    let lines = &newest(all)[..];
    let mut text = "| fault or operation | runs | outage (s) | 6381 closed (s) | lost of acknowledged | of `WAIT 1` | stale / two gates | named to open \
                    (s) | as expected |\n|---|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for fault in faults(lines) {
        let systems: BTreeSet<System> =
            lines.iter().map(|line| line.system).filter(|system| system.is_rolegate()).collect();
        for system in systems {
            let of = of(lines, fault, system);
            let met: Vec<bool> = of.iter().filter_map(|line| Some(is_as_expected(line, measured(line)?))).collect();
            let expected = match met.iter().filter(|met| **met).count() {
                all if all == met.len() => "all".to_owned(),
                some => format!("{some} of {}", met.len()),
            };
            if of.is_empty() {
                continue;
            }
            let on = if system == System::Rolegate { String::new() } else { format!(" ({})", system.word()) };
            text += &format!(
                "| {}{on} | {} | {} | {} | {} | {} | {} | {} | {expected} |\n",
                what(fault),
                runs(&of),
                outage(&of),
                spread(&of, 1, |figures| Some(figures.no_gate_ms? / 1e3)),
                lost(&of),
                spread(&of, 0, |figures| Some(figures.wait_lost as f64)),
                never(&of),
                spread(&of, 2, |figures| Some(figures.named_to_open_ms? / 1e3)),
            );
        }
    }
    text
}

/// The faults in these lines, in the order of their definitions.
fn faults(lines: &[Line]) -> Vec<&str> {
    let place = |name: &str| FAULTS.iter().position(|fault| fault.name == name).unwrap_or(FAULTS.len());
    let all: BTreeSet<(usize, &str)> = lines.iter().map(|line| (place(&line.fault), line.fault.as_str())).collect();
    all.into_iter().map(|(_, fault)| fault).collect()
}

fn of<'l>(lines: &'l [Line], fault: &str, system: System) -> Vec<&'l Line> {
    lines.iter().filter(|line| line.fault == fault && line.system == system).collect()
}

fn what(fault: &str) -> String {
    let says = FAULTS.iter().find(|known| known.name == fault).map(Fault::says_of_any);
    says.map_or_else(|| format!("`{fault}`"), |says| format!("`{fault}`: {says}"))
}

/// The median of the measured runs, with the least and the most where they are others as written.
fn spread(lines: &[&Line], decimals: usize, figure: impl Fn(&Figures) -> Option<f64>) -> String {
    let values = lines.iter().filter_map(|line| figure(measured(line)?)).collect();
    let write = |value: f64| grouped(&format!("{value:.decimals$}"));
    match Spread::of(values).map(|Spread { min, median, max, .. }| [min, median, max].map(write)) {
        Err(_) => "-".to_owned(),
        Ok([min, median, max]) if min == max => median,
        Ok([min, median, max]) => format!("{median} ({min} to {max})"),
    }
}

fn outage(lines: &[&Line]) -> String {
    spread(lines, 1, |figures| Some(figures.outage_haproxy_ms / 1e3))
}

fn lost(lines: &[&Line]) -> String {
    let acknowledged = Spread::of(lines.iter().filter_map(|line| Some(measured(line)?.acknowledged as f64)).collect());
    let of = acknowledged.map_or_else(|_| "-".to_owned(), |spread| grouped(&format!("{:.0}", spread.median)));
    format!("{} of {of}", spread(lines, 0, |figures| Some(figures.lost as f64)))
}

/// What must never be: the worst of all runs with figures, however well they were seen.
fn never(lines: &[&Line]) -> String {
    let figures = || lines.iter().filter_map(|line| line.figures.as_ref());
    let stale = figures().map(|figures| figures.stale).max().unwrap_or_default();
    // In full: a fraction of a millisecond is not zero.
    let gates = figures().filter_map(|figures| figures.two_gates_ms).fold(0.0, f64::max);
    format!("{stale} / {gates} ms")
}

/// A number with a comma before each three of its digits.
fn grouped(number: &str) -> String {
    let (whole, rest) =
        number.split_once('.').map_or((number, String::new()), |(whole, rest)| (whole, format!(".{rest}")));
    let mut text = String::new();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text + &rest
}

/// A line such as a run could have left.
pub fn example(fault: &str, system: System, lost: usize, gates: Option<f64>) -> Line {
    Line {
        at: 1,
        commit: "abc".into(),
        versions: Versions { redis: "7".into(), pacemaker: "2".into(), kernel: "6".into() },
        down_after_ms: 5000,
        seed: 7,
        fault: fault.into(),
        system,
        figures: Some(Figures {
            acknowledged: 1000,
            lost,
            wait_acknowledged: 10,
            wait_lost: 0,
            stale: lost / 2,
            connections_cut: Some(0),
            unanswered: Some(0),
            refused: Some(0),
            two_gates_ms: gates,
            two_gates_at_most_ms: gates,
            no_gate_ms: gates,
            outage_haproxy_ms: 1500.0 + lost as f64,
            outage_direct_ms: 700.0,
            named_to_open_ms: gates.map(|_| 250.0),
            moved: Fault::named(fault).is_ok_and(|fault| fault.expects == Expects::Moves),
            expected: "moves".into(),
            as_expected: gates.map(|time| time == 0.0),
            cut: Vec::new(),
            epochs: Vec::new(),
            recovered_ms: 1.0,
            longest_pause_ms: 12.0,
            pause_p99_ms: Some(8.5),
            paused_percent: Some(0.2),
            stalled_ms: 20.0,
        }),
        trouble: None,
        blind: false,
    }
}

/// That lines survive the file, and that the table counts right.
///
/// # Errors
/// When not.
pub fn reads_right() -> Result<()> {
    let mut lines = vec![
        example("isolate", System::Plain, 500, None),
        example("isolate", System::Rolegate, 30, Some(0.0)),
        example("isolate", System::Rolegate, 10, Some(0.4)),
        example("isolate", System::Rolegate, 20, Some(0.0)),
        example("kill", System::Rolegate, 0, Some(0.0)),
    ];
    lines.push(Line { figures: None, trouble: Some("not well".into()), ..lines[4].clone() });
    lines.push(Line { blind: true, ..lines[5].clone() });
    lines.push(Line { commit: "def".into(), ..example("isolate", System::Rolegate, 40, Some(0.0)) });
    // A fault that is called otherwise now.
    lines.push(example("gone", System::Rolegate, 0, Some(0.0)));
    lines.push(example("isolate", System::Usual, 700, None));
    let file = tempfile::NamedTempFile::new()?;
    let mut written = lines.iter().map(serde_json::to_string).collect::<Result<Vec<String>, _>>()?;
    // As lines were before these two were counted.
    written[4] = written[4].replace(",\"blind\":false", "").replace(",\"cut\":[]", "");
    fs::write(file.path(), written.join("\n"))?;
    let table = markdown(&read(file.path())?);
    let rows: Vec<&str> = table.lines().filter(|row| row.contains("rolegate |") || row.contains("plain")).collect();
    let says = |name: &str| FAULTS.iter().find(|fault| fault.name == name).map_or(String::new(), Fault::says_of_any);
    let expected = [
        format!(
            "| kill: {} | rolegate | 3 (1 failed, 1 not measured) | 0 | 1000 | 0 | 0 | 0 | 1.50 | 0.70 | 0.25 | all |",
            says("kill")
        ),
        format!(
            "| isolate: {} | rolegate | 4 | 25 (10 to 40) | 1000 | 0 | 20 (in 4 of 4) | 0.4 (in 1 of 4) | 1.52 (1.51 to 1.54) | 0.70 \
             | 0.25 | 3 of 4 |",
            says("isolate")
        ),
        "| isolate | plain Sentinel | 1 | 500 | 1000 | 0 | 250 | - | 2.00 | 0.70 | - | - |".to_owned(),
        "| isolate | plain Sentinel, usual HAProxy | 1 | 700 | 1000 | 0 | 350 | - | 2.20 | 0.70 | - | - |".to_owned(),
        "| gone | rolegate | 1 | 0 | 1000 | 0 | 0 | 0 | 1.50 | 0.70 | 0.25 | all |".to_owned(),
    ];
    ensure!(rows == expected, "{table}");
    ensure!(table.contains("commits (runs) abc (9), def (1)") && table.contains("50 stale"), "{table}");

    let lines = read(file.path())?;
    let rows: Vec<String> =
        beside_plain(&lines).lines().filter(|row| row.contains("isolate")).map(str::to_owned).collect();
    let expected = [
        format!(
            "| `isolate`: {} | 4 | 25 (10 to 40) of 1,000 | 20 / 0.4 ms | 1.5 | 0.25 | 1 | 500 of 1,000 | 250 | 2.0 |",
            says("isolate")
        ),
        "| `isolate`, against plain Sentinel, usual HAProxy | | | | | | 1 | 700 of 1,000 | 350 | 2.2 |".to_owned(),
    ];
    ensure!(rows == expected, "{rows:?}");
    let costs = costs(&lines);
    let rows: Vec<&str> = costs.lines().skip(2).collect();
    let expected = [
        format!(
            "| `kill`: {} | 3 (1 failed, 1 not measured) | 1.5 | 0.0 | 0 of 1,000 | 0 | 0 / 0 ms | 0.25 | all |",
            says("kill")
        ),
        format!(
            "| `isolate`: {} | 4 | 1.5 | 0.0 | 25 (10 to 40) of 1,000 | 0 | 20 / 0.4 ms | 0.25 | 3 of 4 |",
            says("isolate")
        ),
        "| `gone` | 1 | 1.5 | 0.0 | 0 of 1,000 | 0 | 0 / 0 ms | 0.25 | all |".to_owned(),
    ];
    ensure!(rows == expected, "{costs}");
    ensure!(["7", "700", "7000.5", "1234567"].map(grouped) == ["7", "700", "7,000.5", "1,234,567"]);
    let text = format!("before\n{BEGIN} -->\nold\n{END}\nbehind");
    let (before, old, behind) = parts(&text)?;
    ensure!((before, behind) == ("before\n", "\nbehind") && old.contains("old"), "{old}");
    ensure!(parts("nothing").is_err() && parts(&format!("{END}{BEGIN}")).is_err());
    Ok(())
}
