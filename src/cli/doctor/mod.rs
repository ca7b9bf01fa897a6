//! `rolegate doctor`: a table of checks, each with what was found, what is expected, why it matters and how to mend it. It looks at the node on
//! which it runs in depth, and at the others through Redis, Sentinels and Pacemaker. It changes nothing.
//!
//! [`checks`] is the table, [`facts`] collects (with [`servers`], [`machine`], and [`like`] for running the hook as Sentinel would), [`rules`]
//! and [`users`] read firewall and users, [`judge`] decides.

mod checks;
mod facts;
mod judge;
pub mod like;
mod machine;
mod rules;
mod servers;
mod text;
mod users;

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::judge::Severity;
use super::table::columns;
use super::{Stop, say, say_in_colour};
use crate::exit::CliCode;
use checks::{CHECKS, Check};
use judge::{Outcome, Outcomes};

/// The version of what `--json` prints. `docs/doctor.md` says what a new one means.
const SCHEMA: u32 = 1;

/// The arguments.
#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// Show what is well, too: a line for each check
    #[arg(long)]
    all: bool,
    /// All of it, for programs: /usr/share/doc/rolegate/doctor.md has the fields
    #[arg(long)]
    json: bool,
    /// A line for each check there is: its id and what it looks at
    #[arg(long, conflicts_with_all = ["all", "json", "only", "skip"])]
    list: bool,
    /// Only these checks
    #[arg(long, value_name = "ID", value_delimiter = ',', value_parser = id)]
    only: Vec<&'static str>,
    /// Leave these checks out: what you have decided to live with
    #[arg(long, value_name = "ID", value_delimiter = ',', value_parser = id)]
    skip: Vec<&'static str>,
}

fn id(text: &str) -> Result<&'static str, String> {
    let known = || CHECKS.iter().map(|check| check.id).collect::<Vec<_>>().join(", ");
    checks::get(text).map(|check| check.id).ok_or_else(|| format!("there is no such check; there are: {}", known()))
}

/// What came of all checks, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Report {
    schema: u32,
    code: u8,
    at: u64,
    took_ms: u64,
    node: Option<String>,
    checks: Vec<Checked>,
}

/// What came of one.
#[derive(Debug, Serialize)]
struct Checked {
    id: &'static str,
    state: State,
    what: &'static str,
    expected: &'static str,
    why: &'static str,
    here_only: bool,
    found: Vec<String>,
    findings: Vec<Shown>,
}

/// A finding.
#[derive(Debug, Serialize)]
struct Shown {
    severity: Severity,
    nodes: Vec<String>,
    found: String,
    mend: Option<String>,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Critical,
    Unknown,
    Warning,
    Well,
    /// Something else is missing first.
    Skipped,
}

impl Report {
    fn of(outcomes: &Outcomes, node: Option<String>, picks: impl Fn(&str) -> bool) -> Report {
        let checks: Vec<Checked> = CHECKS
            .iter()
            .filter(|check| picks(check.id))
            .filter_map(|check| Some(Checked::of(check, outcomes.get(check.id)?)))
            .collect();
        let has = |state| checks.iter().any(|checked| checked.state == state);
        let states = [
            (State::Critical, CliCode::Critical),
            (State::Unknown, CliCode::Unknown),
            (State::Warning, CliCode::Warning),
        ];
        // Critical before unknown: it was seen.
        let code = states.into_iter().find(|(state, _)| has(*state)).map_or(CliCode::Ok, |(_, code)| code);
        Report { schema: SCHEMA, code: code as u8, at: 0, took_ms: 0, node, checks }
    }

    fn exit(&self) -> CliCode {
        let codes = [CliCode::Ok, CliCode::Warning, CliCode::Critical];
        codes.into_iter().find(|code| *code as u8 == self.code).unwrap_or(CliCode::Unknown)
    }
}

impl Checked {
    fn of(check: &Check, outcome: &Outcome) -> Checked {
        let worst = outcome.findings.iter().map(|finding| finding.severity).min();
        let state = match (worst, &outcome.skipped) {
            (Some(Severity::Critical), _) => State::Critical,
            (Some(Severity::Unknown), _) => State::Unknown,
            (Some(Severity::Warning), _) => State::Warning,
            (None, Some(_)) if outcome.found.is_empty() => State::Skipped,
            (None, _) => State::Well,
        };
        let mut found = outcome.found.clone();
        found.extend(outcome.skipped.clone());
        let shown = |finding: &judge::Finding| Shown {
            severity: finding.severity,
            nodes: finding.nodes.clone(),
            found: finding.found.clone(),
            mend: finding.mend.clone(),
        };
        Checked {
            id: check.id,
            state,
            what: check.what,
            expected: check.expected,
            why: check.why,
            here_only: check.here_only,
            found: if state == State::Well || state == State::Skipped { found } else { Vec::new() },
            findings: outcome.findings.iter().map(shown).collect(),
        }
    }
}

/// Looks, judges, prints.
pub fn run(args: &Args) -> Result<CliCode, Stop> {
    if args.list {
        let row = |check: &Check| [check.id, check.what].map(str::to_owned);
        let heading = ["ID", "LOOKS AT"].map(str::to_owned);
        say(columns(&std::iter::once(heading).chain(CHECKS.iter().map(row)).collect::<Vec<_>>()));
        return Ok(CliCode::Ok);
    }
    let started = Instant::now();
    let facts = facts::collect();
    let picks = |id: &str| (args.only.is_empty() || args.only.contains(&id)) && !args.skip.contains(&id);
    let mut outcomes = judge::judge(&facts);
    let mut servers = facts.masters.iter().flat_map(|master| master.redis.values()).flatten();
    let is_valkey = servers.any(|redis| redis.info.contains_key("valkey_version"));
    let findings = outcomes.values_mut().flat_map(|outcome| &mut outcome.findings);
    for mend in findings.filter_map(|finding| finding.mend.as_mut()) {
        *mend = super::typed_here_for(is_valkey, mend);
    }
    let mut report = Report::of(&outcomes, facts.me.clone(), picks);
    report.at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    report.took_ms = started.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
    if args.json {
        say(serde_json::to_string_pretty(&report).map_err(|error| Stop::unknown(error.to_string()))?);
    } else {
        let width = terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| usize::from(width.0));
        let others: Vec<String> = facts
            .report
            .masters
            .iter()
            .flat_map(|judged| &judged.group.nodes)
            .filter(|node| node.address.is_some() && Some(&node.name) != facts.me.as_ref())
            .map(|node| node.name.clone())
            .collect();
        say_in_colour(&text::render(&report, &others, args.all, width));
    }
    Ok(report.exit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const DOCUMENT: &str = include_str!("../../../docs/doctor.md");

    /// The fields of version 1, of which none is ever taken away.
    const VERSION_1: &str = "schema code at took_ms node checks checks[].id checks[].state checks[].what checks[].expected checks[].why checks[].here_only \
        checks[].found checks[].findings checks[].findings[].severity checks[].findings[].nodes checks[].findings[].found \
        checks[].findings[].mend";

    /// The rows of a table of the document, by their first column.
    fn rows(heading: &str) -> Vec<Vec<&'static str>> {
        let table = DOCUMENT.lines().skip_while(|line| !line.starts_with(heading)).skip(2);
        let rows = table.take_while(|line| line.starts_with('|'));
        rows.map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`')).collect())
            .collect()
    }

    #[test]
    fn the_document_has_the_checks_of_the_code() {
        let rows = rows("| id | sees |");
        let documented: Vec<_> = rows.iter().map(|row| (row[0], row[1] == "here", row[2], row[3])).collect();
        let checks: Vec<_> =
            CHECKS.iter().map(|check| (check.id, check.here_only, check.what, check.expected)).collect();
        assert_eq!(documented, checks);
        let ids: BTreeSet<&str> = CHECKS.iter().map(|check| check.id).collect();
        assert_eq!(ids.len(), CHECKS.len(), "a name is there twice");
    }

    #[test]
    fn the_document_has_the_fields_of_the_json() {
        let mut facts = judge::tests::well();
        facts.machine.conntrack = Some(Ok((999, 1000)));
        let report = Report::of(&judge::judge(&facts), facts.me.clone(), |_| true);
        let value = serde_json::to_value(&report).unwrap();
        let mut found = BTreeSet::new();
        super::super::status::tests::paths(&value, "", &mut found);
        let documented: BTreeSet<String> = rows("| field | is |").iter().map(|row| row[0].to_owned()).collect();
        assert_eq!(found, documented);
        assert_eq!(SCHEMA, 1);
        super::super::status::tests::is_version(&found, VERSION_1);
        assert!(DOCUMENT.contains(&format!("The schema's version is **{SCHEMA}**")));
        assert_eq!((report.code, report.exit()), (2, CliCode::Critical));
    }

    #[test]
    fn trouble_stands_first_with_what_mends_it_and_nothing_is_said_of_what_is_well() {
        let mut facts = judge::tests::well();
        facts.machine.conntrack = Some(Ok((900, 1000)));
        let outcomes = judge::judge(&facts);
        let report = Report::of(&outcomes, facts.me.clone(), |_| true);
        let plain = |all| {
            anstream::adapter::strip_str(&text::render(&report, &["node2".to_owned()], all, Some(80))).to_string()
        };
        let text = plain(false);
        let first = format!("node1: 1 warning, {} well", CHECKS.len() - 1);
        assert!(text.starts_with(&first), "{text}");
        assert!(text.contains("  warning   conntrack: room for tracked connections\n"), "{text}");
        assert!(text.contains("            found: 900 of 1000\n            -> sysctl -w "), "{text}");
        assert!(text.contains("run it on node2, too") && !text.contains("stonith"), "{text}");
        assert!(plain(true).contains("  well      stonith             on, with fence1\n"), "{}", plain(true));
        let without = Report::of(&outcomes, None, |id| id != "conntrack");
        assert_eq!(without.exit(), CliCode::Ok);
    }
}
