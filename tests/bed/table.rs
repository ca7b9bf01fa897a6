//! Lines of figures as a Markdown table.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::faults::{FAULTS, Fault};
use super::spread::Spread;
use super::suite::{Figures, Line, System, Versions};

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
| fault | system | runs | acknowledged | lost | lost of those that WAIT 1 | stale (worst) | two gates (worst, ms) | \
outage through HAProxy (s) | outage direct (s) | named to open (s) | as expected |
|---|---|---|---|---|---|---|---|---|---|---|---|
";

/// The table: a row for each fault and system, medians with the least and the most in brackets.
pub fn markdown(lines: &[Line]) -> String {
    let place = |line: &&Line| FAULTS.iter().position(|fault| fault.name == line.fault).unwrap_or(FAULTS.len());
    let rows: BTreeSet<(usize, &str, System)> =
        lines.iter().map(|line| (place(&line), line.fault.as_str(), line.system)).collect();
    let mut text = HEAD.to_owned();
    for (_, fault, system) in rows {
        let of: Vec<&Line> = lines.iter().filter(|line| line.fault == fault && line.system == system).collect();
        text += &row(fault, system, &of);
    }
    text + "\n" + &ran(lines)
}

fn row(fault: &str, system: System, lines: &[&Line]) -> String {
    let figures: Vec<&Figures> = lines.iter().filter_map(|line| line.figures.as_ref()).collect();
    let failed = match lines.len() - figures.len() {
        0 => String::new(),
        failed => format!(" ({failed} failed)"),
    };
    let says = FAULTS.iter().find(|known| known.name == fault).map_or(String::new(), Fault::says_of_any);
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
        let worst = figures.iter().filter_map(|figures| figure(figures)).max_by(f64::total_cmp);
        // In full: a fraction of a millisecond is not zero.
        worst.map_or("-".to_owned(), |worst| worst.to_string())
    };
    let judged: Vec<bool> = figures.iter().filter_map(|figures| figures.as_expected).collect();
    let expected = match judged.iter().filter(|expected| **expected).count() {
        _ if judged.is_empty() => "-".to_owned(),
        all if all == judged.len() => "all".to_owned(),
        some => format!("{some} of {}", judged.len()),
    };
    format!(
        "| {fault}: {says} | {} | {}{failed} | {} | {} | {} | {} | {} | {} | {} | {} | {expected} |\n",
        system.word(),
        lines.len(),
        count(|figures| figures.acknowledged),
        count(|figures| figures.lost),
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
    let commits: BTreeSet<&str> = lines.iter().map(|line| line.commit.as_str()).collect();
    let versions: BTreeSet<&Versions> = lines.iter().map(|line| &line.versions).collect();
    let versions: Vec<String> = versions
        .into_iter()
        .map(|Versions { redis, pacemaker, kernel }| format!("Redis {redis}, Pacemaker {pacemaker}, kernel {kernel}"))
        .collect();
    let figures = || lines.iter().filter_map(|line| line.figures.as_ref());
    format!(
        "{} runs; {}; commits {}; a node's firewall was read at least each {:.0} ms; the machine stood still for up to {:.0} ms.\n",
        lines.len(),
        versions.join("; "),
        commits.into_iter().collect::<Vec<_>>().join(", "),
        figures().map(|figures| figures.longest_pause_ms).fold(0.0, f64::max),
        figures().map(|figures| figures.stalled_ms).fold(0.0, f64::max),
    )
}

/// That lines survive the file, and that the table counts right.
///
/// # Errors
/// When not.
pub fn reads_right() -> Result<()> {
    let line = |fault: &str, system: System, lost: usize, gates: Option<f64>| Line {
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
            two_gates_ms: gates,
            no_gate_ms: gates,
            outage_haproxy_ms: 1500.0 + lost as f64,
            outage_direct_ms: 700.0,
            named_to_open_ms: gates.map(|_| 250.0),
            moved: true,
            expected: "moves".into(),
            as_expected: gates.map(|time| time == 0.0),
            recovered_ms: 1.0,
            longest_pause_ms: 12.0,
            stalled_ms: 20.0,
        }),
        trouble: None,
    };
    let mut lines = vec![
        line("isolate", System::Plain, 500, None),
        line("isolate", System::Rolegate, 30, Some(0.0)),
        line("isolate", System::Rolegate, 10, Some(0.4)),
        line("isolate", System::Rolegate, 20, Some(0.0)),
        line("kill", System::Rolegate, 0, Some(0.0)),
    ];
    lines.push(Line { figures: None, trouble: Some("not well".into()), ..lines[4].clone() });
    let file = tempfile::NamedTempFile::new()?;
    let written: Result<Vec<String>, _> = lines.iter().map(serde_json::to_string).collect();
    fs::write(file.path(), written?.join("\n"))?;
    let table = markdown(&read(file.path())?);
    let rows: Vec<&str> = table.lines().filter(|row| row.contains("rolegate |") || row.contains("plain")).collect();
    let says = |name: &str| FAULTS.iter().find(|fault| fault.name == name).map_or(String::new(), Fault::says_of_any);
    let expected = [
        format!(
            "| kill: {} | rolegate | 2 (1 failed) | 1000 | 0 | 0 | 0 | 0 | 1.50 | 0.70 | 0.25 | all |",
            says("kill")
        ),
        format!(
            "| isolate: {} | rolegate | 3 | 1000 | 20 (10 to 30) | 0 | 15 | 0.4 | 1.52 (1.51 to 1.53) | 0.70 | 0.25 | 2 of 3 |",
            says("isolate")
        ),
        format!(
            "| isolate: {} | plain Sentinel | 1 | 1000 | 500 | 0 | 250 | - | 2.00 | 0.70 | - | - |",
            says("isolate")
        ),
    ];
    ensure!(rows == expected, "{table}");
    Ok(())
}
