//! What `rolegate doctor` prints: how many checks came to what, then trouble, worst first, each with what is expected, why it matters and how
//! to mend it.

use anstyle::Style;

use super::super::judge::Severity;
use super::super::table::{style, styled, wrapped};
use super::{Checked, Report, State};

/// The column at which what belongs to a finding begins.
const INDENT: usize = 12;

/// The report. `others` are the nodes that were seen from outside only.
pub fn render(report: &Report, others: &[String], all: bool, width: Option<usize>) -> String {
    let width = width.unwrap_or(usize::MAX);
    let mut out = headline(report);
    for state in [State::Critical, State::Unknown, State::Warning] {
        report
            .checks
            .iter()
            .filter(|checked| checked.state == state)
            .for_each(|checked| trouble(&mut out, checked, width));
    }
    let skipped: Vec<&Checked> = report.checks.iter().filter(|checked| checked.state == State::Skipped).collect();
    if all {
        out.push('\n');
        for checked in report.checks.iter().filter(|checked| matches!(checked.state, State::Well | State::Skipped)) {
            let word = word(checked.state);
            let line = format!("  {word:<8}  {:<20}{}", checked.id, checked.found.join("; "));
            let line = wrapped(&line, width, INDENT + 20);
            out.push_str(&line.replacen(word, &styled(word, color(checked.state)), 1));
            out.push('\n');
        }
    } else if !skipped.is_empty() {
        out.push_str(&format!("\n{} more checks wait for what is missing (--all shows them)\n", skipped.len()));
    }
    let here = report.checks.iter().filter(|checked| checked.here_only).count();
    if here > 0 && !others.is_empty() {
        let text = format!("\nchecks that look at this node only: {here}; run it on {}, too\n", others.join(", "));
        out.push_str(&styled(wrapped(text.trim_end(), width, 0), style::FAINT));
        out.push('\n');
    }
    out
}

fn headline(report: &Report) -> String {
    let counts = [State::Critical, State::Unknown, State::Warning, State::Well].map(|state| {
        let count = report.checks.iter().filter(|checked| checked.state == state).count();
        (state, count)
    });
    let counts = counts.iter().filter(|(state, count)| *count > 0 || *state == State::Well);
    let counts: Vec<String> =
        counts.map(|(state, count)| format!("{count} {}", styled(summed(*state, *count), color(*state)))).collect();
    let node = report.node.as_deref().unwrap_or("this machine");
    format!("{}: {}\n", styled(node, Style::new().bold()), counts.join(", "))
}

/// As it stands in front of a line.
fn word(state: State) -> &'static str {
    match state {
        State::Critical => Severity::Critical.word(),
        State::Unknown => Severity::Unknown.word(),
        State::Warning => Severity::Warning.word(),
        State::Well => "well",
        State::Skipped => "waits",
    }
}

/// As it stands behind a number.
fn summed(state: State, count: usize) -> &'static str {
    match (state, count) {
        (State::Critical, _) => "critical",
        (State::Unknown, _) => "could not be told",
        (State::Warning, 1) => "warning",
        (State::Warning, _) => "warnings",
        (State::Well | State::Skipped, _) => "well",
    }
}

fn color(state: State) -> Style {
    match state {
        State::Critical => style::BAD,
        State::Unknown => style::UNKNOWN,
        State::Warning => style::WARN,
        State::Well => style::GOOD,
        State::Skipped => style::FAINT,
    }
}

fn trouble(out: &mut String, checked: &Checked, width: usize) {
    let state = word(checked.state);
    let head = format!("  {state:<8}  {}: {}", checked.id, checked.what);
    let head = wrapped(&head, width, INDENT);
    out.push('\n');
    out.push_str(&head.replacen(state, &styled(state, color(checked.state)), 1));
    out.push('\n');
    let indent = " ".repeat(INDENT);
    for finding in &checked.findings {
        let nodes = if finding.nodes.is_empty() { String::new() } else { format!("{}: ", finding.nodes.join(", ")) };
        out.push_str(&wrapped(&format!("{indent}found: {nodes}{}", finding.found), width, INDENT + 2));
        out.push('\n');
        // A command is not broken: it is there to be copied.
        for (n, line) in finding.mend.iter().flat_map(|mend| mend.lines()).enumerate() {
            let arrow = if n == 0 { "->" } else { "  " };
            out.push_str(&format!("{indent}{arrow} {}\n", styled(line, style::NEXT)));
        }
    }
    for (name, text) in [("expected", checked.expected), ("why", checked.why)] {
        let text = wrapped(&format!("{indent}{name}: {text}"), width, INDENT + 2);
        let lines: Vec<String> = text.lines().map(|line| styled(line, style::FAINT)).collect();
        out.push_str(&lines.join("\n"));
        out.push('\n');
    }
}
