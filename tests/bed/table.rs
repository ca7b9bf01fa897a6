//! Lines of figures as a Markdown table.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::faults::{FAULTS, Fault};
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
        .map(|Versions { redis, pacemaker, kernel }| format!("Redis {redis}, Pacemaker {pacemaker}, kernel {kernel}"))
        .collect();
    let figures = || lines.iter().filter_map(|line| line.figures.as_ref());
    let ours = || lines.iter().filter(|line| line.system.is_rolegate()).filter_map(|line| line.figures.as_ref());
    format!(
        "{} runs, medians with the least and the most; {}; commits (runs) {}; a node's firewall was read at least each {:.0} ms \
         ({:.2} % of the time less often than each 10 ms); the machine stood still for up to {:.0} ms. In the {} measured runs of rolegate {} stale acknowledgements, and {} ms with two \
         gates.\n",
        lines.len(),
        versions.join("; "),
        commits.join(", "),
        figures().map(|figures| figures.longest_pause_ms).fold(0.0, f64::max),
        figures().filter_map(|figures| figures.paused_percent).fold(0.0, f64::max),
        figures().map(|figures| figures.stalled_ms).fold(0.0, f64::max),
        ours().count(),
        ours().map(|figures| figures.stale).sum::<usize>(),
        ours().filter_map(|figures| figures.two_gates_ms).sum::<f64>(),
    )
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
            connections_cut: Some(3),
            unanswered: Some(0),
            two_gates_ms: gates,
            no_gate_ms: gates,
            outage_haproxy_ms: 1500.0 + lost as f64,
            outage_direct_ms: 700.0,
            named_to_open_ms: gates.map(|_| 250.0),
            moved: true,
            expected: "moves".into(),
            as_expected: gates.map(|time| time == 0.0),
            cut: Vec::new(),
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
        "| gone | rolegate | 1 | 0 | 1000 | 0 | 0 | 0 | 1.50 | 0.70 | 0.25 | all |".to_owned(),
    ];
    ensure!(rows == expected, "{table}");
    ensure!(table.contains("commits (runs) abc (8), def (1)") && table.contains("50 stale"), "{table}");
    Ok(())
}
