//! What `rolegate status` prints: the answer first, then what is wrong and the command that ends it, then what was seen.

use std::net::SocketAddr;

use anstyle::Style;

use super::facts::{ClusterFacts, FailoverFacts, Firewall, Group, Keeper, Member, NodeFacts, Server};
use super::fence::utc;
use super::judge::{self, Problem, Severity};
use super::probe::Port;
use super::span;
use super::status::{Judged, Report};
use super::table::{Cell, style, styled, table, wrapped};

/// How it is shown.
#[derive(Debug, Clone, Copy, Default)]
pub struct View {
    /// All of every master name, where there are several.
    pub all: bool,
    /// How wide lines may be; None where nobody says.
    pub width: Option<usize>,
}

/// The whole report, with colours.
pub fn render(report: &Report, view: View) -> String {
    let mut out = String::new();
    if let Some(error) = &report.error {
        return format!("{}: {error}\n", styled(word(report.code), of_code(report.code)));
    }
    let several = report.masters.len() > 1;
    if report.masters.is_empty() {
        out.push_str(&format!("{}\n", styled(word(report.code), of_code(report.code))));
    }
    if several && !view.all {
        out.push_str(&tally(report));
        print_problems(&mut out, &report.problems, view);
        for judged in report.masters.iter().filter(|judged| judged.code != 0) {
            out.push_str(&headline(judged, &[]));
            print_problems(&mut out, &judged.judgement.problems, view);
        }
        out.push('\n');
        out.push_str(&overview(report));
        out.push_str(&styled("all of it: rolegate status --all, or --master NAME\n", style::FAINT));
        out.push_str(&footer(report));
        return out;
    }
    report.masters.iter().for_each(|judged| out.push_str(&headline(judged, &report.problems)));
    print_problems(&mut out, &report.problems, view);
    for judged in &report.masters {
        if several {
            out.push_str(&format!("\n== {}, gate {}\n", judged.group.master, judged.group.resource));
        }
        print_problems(&mut out, &judged.judgement.problems, view);
        out.push('\n');
        out.push_str(&tables(&report.cluster, &judged.group));
        out.push_str(&format!("\nlast failover: {}\n", failover(&judged.group)));
    }
    if report.masters.is_empty() {
        out.push('\n');
    }
    out.push_str(&footer(report));
    out
}

/// An exit code in a word.
pub fn word(code: u8) -> &'static str {
    match code {
        0 => "HEALTHY",
        1 => "WARNING",
        2 => "CRITICAL",
        _ => "UNKNOWN",
    }
}

fn of_code(code: u8) -> Style {
    match code {
        0 => style::GOOD,
        1 => style::WARN,
        2 => style::BAD,
        _ => style::UNKNOWN,
    }
}

/// "64 master names: 1 CRITICAL, 63 HEALTHY".
fn tally(report: &Report) -> String {
    let counts = [2, 3, 1, 0].map(|code| (code, report.masters.iter().filter(|judged| judged.code == code).count()));
    let counts = counts.iter().filter(|(_, count)| *count > 0);
    let counts: Vec<String> =
        counts.map(|(code, count)| format!("{count} {}", styled(word(*code), of_code(*code)))).collect();
    format!("{} master names: {}\n", report.masters.len(), counts.join(", "))
}

fn headline(judged: &Judged, of_cluster: &[Problem]) -> String {
    let group = &judged.group;
    let problems: Vec<Problem> = of_cluster.iter().chain(&judged.judgement.problems).cloned().collect();
    let who = match judged.judgement.writers.as_slice() {
        [] => judge::nobody(group).to_owned(),
        [one] => {
            let node = group.nodes.iter().find(|node| node.name == *one).and_then(|node| node.address);
            let at =
                node.map_or(String::new(), |address| format!(" at {}", SocketAddr::new(address.ip(), group.rw_port)));
            format!("{one} takes writes{at}")
        }
        several => styled(format!("{} ALL TAKE WRITES", several.join(" and ")), style::BAD),
    };
    let code = judge::code(&problems) as u8;
    format!("{}: {}: {who}\n", styled(&group.master, Style::new().bold()), styled(word(code), of_code(code)))
}

fn print_problems(out: &mut String, problems: &[Problem], view: View) {
    let width = view.width.unwrap_or(usize::MAX);
    for problem in problems {
        let color = match problem.severity {
            Severity::Critical => style::BAD,
            Severity::Unknown => style::UNKNOWN,
            Severity::Warning => style::WARN,
        };
        let severity = format!("{:<8}", problem.severity.word());
        let line = wrapped(&format!("  {severity}  {}", problem.what), width, 12);
        out.push_str(&line.replacen(&severity, &styled(&severity, color), 1));
        out.push('\n');
        if let Some(next) = &problem.next {
            // Continued lines stand under the first. A command is not broken: it is there to be copied.
            for (n, line) in next.lines().enumerate() {
                let arrow = if n == 0 { "->" } else { "  " };
                out.push_str(&format!("            {arrow} {}\n", styled(line, style::NEXT)));
            }
        }
    }
}

/// A line for each master name.
fn overview(report: &Report) -> String {
    let rows: Vec<Vec<Cell>> = report
        .masters
        .iter()
        .map(|judged| {
            let group = &judged.group;
            let writers = judged.judgement.writers.join(" ");
            let verdict = group.verdict.as_ref();
            let sentinels = verdict.map_or("-".to_owned(), |v| format!("{} of {}", v.answered, v.total));
            let epoch = group.sentinels.iter().filter_map(|sentinel| sentinel.epoch).max();
            let lag = group.nodes.iter().filter_map(|node| node.behind).map(|behind| behind.bytes).max();
            let failover = group.last_failover.as_ref().map_or("-".to_owned(), |last| span(last.seconds_ago));
            vec![
                group.master.as_str().into(),
                Cell::new(word(judged.code), of_code(judged.code)),
                if writers.is_empty() { Cell::new("nobody", style::BAD) } else { writers.into() },
                sentinels.into(),
                verdict.and_then(|v| v.points_for_seconds).map_or("-".to_owned(), span).into(),
                epoch.map_or("-".to_owned(), |epoch| epoch.to_string()).into(),
                lag.map_or("-".to_owned(), bytes).into(),
                failover.into(),
            ]
        })
        .collect();
    table(&["MASTER", "STATE", "WRITES", "SENTINELS", "NAMED SINCE", "EPOCH", "MOST BEHIND", "FAILOVER AGO"], &rows)
}

fn tables(cluster: &ClusterFacts, group: &Group) -> String {
    let named = group.verdict.as_ref().and_then(|verdict| verdict.points_at_node.as_deref());
    let (ro, rw) = (group.ro_port.to_string(), group.rw_port.to_string());
    let rows: Vec<Vec<Cell>> = group
        .nodes
        .iter()
        .map(|node| {
            let here = cluster.seen_from.as_deref() == Some(&node.name);
            let is_named = named == Some(node.name.as_str());
            vec![
                format!("{}{}", node.name, if here { "*" } else { "" }).into(),
                member(node),
                match (&node.role, &node.fence) {
                    (_, Some(_)) => Cell::new("FENCED", style::WARN),
                    (Some(role), None) if role == "fail" => Cell::new("fail", style::WARN),
                    (Some(role), None) => role.as_str().into(),
                    (None, None) => "-".into(),
                },
                gate(node),
                lease(node, group, here),
                redis(node, is_named),
                behind(node).into(),
                port(&node.ro, false),
                port(&node.rw, is_named),
            ]
        })
        .collect();
    let mut out = table(&["NODE", "CLUSTER", "ROLE", "GATE", "LEASE", "REDIS", "BEHIND", &ro, &rw], &rows);
    let rows: Vec<Vec<Cell>> = group
        .sentinels
        .iter()
        .map(|sentinel| {
            let names = match (&sentinel.names_node, &sentinel.names) {
                (Some(node), _) => node.clone(),
                (None, Some(place)) => place.clone(),
                (None, None) => "-".to_owned(),
            };
            let says = match &sentinel.error {
                Some(error) => Cell::new(error, style::WARN),
                None if sentinel.stranger => Cell::new("does not know this master name", style::WARN),
                None if sentinel.other_id.is_some() => Cell::new("not the Sentinel of the record", style::WARN),
                None if sentinel.finishing => "finishing its failover".into(),
                None if sentinel.flags.is_empty() => "well".into(),
                None => Cell::new(sentinel.flags.join(", "), style::WARN),
            };
            let or_dash = |text: Option<String>| Cell::from(text.unwrap_or_else(|| "-".to_owned()));
            vec![
                sentinel.address.as_str().into(),
                names.into(),
                or_dash(sentinel.names_for_seconds.map(span)),
                or_dash(sentinel.epoch.map(|epoch| epoch.to_string())),
                says,
            ]
        })
        .collect();
    out.push('\n');
    out.push_str(&table(&["SENTINEL", "NAMES", "SINCE", "EPOCH", "SAYS"], &rows));
    if let Some(Firewall::Seen { backend, baseline, ro_open_ms, rw_open_ms, listeners: _ }) = &group.firewall {
        let state = |port: u16, open: &Option<u64>| match open {
            Some(ms) => format!("{port} open for {}", span(ms / 1000)),
            None => format!("{port} closed"),
        };
        out.push_str(&format!(
            "\nfirewall here: {backend}, rules {}, {}, {}\n",
            baseline.as_deref().unwrap_or("intact"),
            state(group.ro_port, ro_open_ms),
            match rw_open_ms {
                Some(ms) if *ms > group.lease_ms => format!("{} OPEN BY HAND for {}", group.rw_port, span(ms / 1000)),
                Some(_) => format!("{} held open by the lease", group.rw_port),
                None => state(group.rw_port, rw_open_ms),
            }
        ));
    }
    out
}

fn member(node: &NodeFacts) -> Cell {
    match node.member.map(Member::word) {
        None => "?".into(),
        Some("online") => "online".into(),
        Some(word) => Cell::new(word, style::WARN),
    }
}

fn gate(node: &NodeFacts) -> Cell {
    let lost = node.member.is_some_and(|member| !member.online || member.unclean);
    let Some(gate) = node.gate.as_ref().filter(|_| !lost) else { return "?".into() };
    let mut text = gate.word().to_owned();
    let flags = [(gate.failed, "failed"), (gate.blocked, "blocked"), (gate.unmanaged, "unmanaged")];
    for (_, word) in flags.iter().filter(|(is, _)| *is) {
        text.push_str(&format!(", {word}"));
    }
    let plain = !flags.iter().any(|(is, _)| *is);
    Cell::new(text, if plain { Style::new() } else { style::WARN })
}

/// What remains of it, which only its own node's kernel knows; of another node how long it can last at most.
fn lease(node: &NodeFacts, group: &Group, here: bool) -> Cell {
    let seconds = |ms: u64| format!("{}.{} s", ms / 1000, ms % 1000 / 100);
    let own = match &group.firewall {
        Some(Firewall::Seen { rw_open_ms, .. }) if here => *rw_open_ms,
        _ => None,
    };
    match (node.keeper, own, node.lease_at_most_ms) {
        (Some(Keeper::Missing), None, _) => Cell::new("no keeper", style::WARN),
        (_, Some(ms), _) => seconds(ms).into(),
        (Some(Keeper::Lease), _, Some(ms)) => format!("<= {}", seconds(ms)).into(),
        (Some(Keeper::Lease), _, None) => "held".into(),
        (Some(_), ..) => "-".into(),
        (None, ..) => "?".into(),
    }
}

fn redis(node: &NodeFacts, named: bool) -> Cell {
    match &node.redis {
        None => "-".into(),
        Some(Server::None { why }) => Cell::new(why.chars().take(40).collect::<String>(), style::WARN),
        Some(Server::Given(server)) if server.loading => Cell::new("loading", style::WARN),
        Some(Server::Given(server)) if server.primary => {
            Cell::new("primary", if named { Style::new() } else { style::WARN })
        }
        Some(Server::Given(server)) if !server.link_up => Cell::new("replica, link DOWN", style::WARN),
        Some(Server::Given(_)) => "replica".into(),
    }
}

fn behind(node: &NodeFacts) -> String {
    node.behind.map_or("-".to_owned(), |behind| {
        let seconds = behind.seconds.map_or(String::new(), |seconds| format!(", {}", span(seconds)));
        format!("{}{seconds}", bytes(behind.bytes))
    })
}

/// Bytes in a unit that is easy to read.
pub(super) fn bytes(count: u64) -> String {
    let of = |unit: u64, name: &str| format!("{:.1} {name}", count as f64 / unit as f64);
    match count {
        0..1_000 => format!("{count} B"),
        1_000..1_000_000 => of(1_000, "kB"),
        1_000_000..1_000_000_000 => of(1_000_000, "MB"),
        _ => of(1_000_000_000, "GB"),
    }
}

fn port(port: &Option<Port>, should_be_open: bool) -> Cell {
    match port {
        None => "-".into(),
        Some(port) if port.is_open() && should_be_open => Cell::new(port.word(), style::GOOD),
        Some(Port::Refused) if should_be_open => Cell::new("refused", style::BAD),
        Some(port @ (Port::Silent | Port::Unreachable { .. })) => Cell::new(port.word(), style::WARN),
        Some(port) => port.word().into(),
    }
}

fn failover(group: &Group) -> String {
    let Some(FailoverFacts { at, seconds_ago, or_earlier, from, to, because, .. }) = &group.last_failover else {
        let set_up = |epoch: Option<u64>| epoch == Some(0);
        let none = !group.sentinels.is_empty() && group.sentinels.iter().all(|sentinel| set_up(sentinel.epoch));
        return if none { "none since the Sentinels were set up" } else { "unknown" }.to_owned();
    };
    let to = to.as_deref().unwrap_or("?");
    let way = from.as_ref().map_or(format!("to {to}"), |from| format!("{from} -> {to}"));
    let least = if *or_earlier { "at least " } else { "" };
    format!("{way}, {least}{} ago ({}): {because}", span(*seconds_ago), utc(*at))
}

fn footer(report: &Report) -> String {
    let cluster = &report.cluster;
    let yes = |value: Option<bool>| match value {
        Some(true) => "yes",
        Some(false) => "NO",
        None => "unknown",
    };
    let stonith = match cluster.stonith {
        Some(true) => "on",
        Some(false) => "off",
        None => "unknown",
    };
    let gates: Vec<&str> = report.masters.iter().map(|judged| judged.group.resource.as_str()).collect();
    let gates = match gates.as_slice() {
        [] => "gate none".to_owned(),
        several if several.len() > 4 => format!("{} gates", several.len()),
        some => format!("gate {}", some.join(", ")),
    };
    format!(
        "seen from {} in {} ms; quorum {}, STONITH {stonith}, {gates}\n",
        cluster.seen_from.as_deref().unwrap_or("here"),
        report.took_ms,
        yes(cluster.quorum)
    )
}

#[cfg(test)]
mod tests {
    use super::super::judge::tests::healthy;
    use super::super::status::tests::{full, report_of, several};
    use super::*;

    fn plain(report: &Report, view: View) -> String {
        anstream::adapter::strip_str(&render(report, view)).to_string()
    }

    #[test]
    fn a_healthy_cluster_in_a_few_lines() {
        assert_eq!(
            plain(&report_of(healthy()), View::default()),
            "\
mymaster: HEALTHY: node1 takes writes at 10.0.0.1:6381

NODE    CLUSTER  ROLE     GATE        LEASE     REDIS    BEHIND    6380  6381
node1*  online   primary  Promoted    <= 2.0 s  primary  -         open  open
node2   online   replica  Unpromoted  -         replica  1 B, 0 s  open  refused
node3   online   replica  Unpromoted  -         replica  2 B, 1 s  open  refused

SENTINEL        NAMES  SINCE    EPOCH  SAYS
10.0.0.1:26379  node1  2 h 5 min  4      well
10.0.0.2:26379  node1  2 h 5 min  4      well
10.0.0.3:26379  node1  2 h 5 min  4      well

last failover: unknown
seen from node1 in 0 ms; quorum yes, STONITH off, gate RedisGate
"
            .replace("SINCE    EPOCH", "SINCE      EPOCH")
        );
    }

    #[test]
    fn trouble_stands_first_with_the_command_that_ends_it() {
        let mut group = healthy();
        group.nodes[0].rw = Some(Port::Refused);
        group.nodes[0].role = Some("replica".into());
        let text = plain(&report_of(group), View::default());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "mymaster: CRITICAL: nobody takes writes");
        assert!(
            lines[1].starts_with("  CRITICAL  nobody takes writes: Sentinels name node1 since 2 h 5 min"),
            "{text}"
        );
        assert_eq!(lines[2], "            -> rolegate init --master mymaster");
    }

    #[test]
    fn a_narrow_screen_loses_nothing() {
        let mut group = healthy();
        group.record_error = Some("one two three four five six seven eight nine ten".into());
        let report = report_of(group);
        let words = |text: String| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let narrow = plain(&report, View { width: Some(50), ..View::default() });
        assert!(narrow.lines().skip(1).take(2).all(|line| line.chars().count() <= 50), "{narrow}");
        assert_eq!(words(narrow), words(plain(&report, View::default())));
    }

    #[test]
    fn the_last_failover_in_words() {
        let mut group = healthy();
        let last = full().masters[0].group.last_failover.clone().unwrap();
        group.last_failover = Some(last.clone());
        assert_eq!(failover(&group), "node2 -> node1, 14 s ago (2026-11-21T23:30:00Z): why");
        group.last_failover = Some(FailoverFacts { or_earlier: true, from: None, ..last });
        assert_eq!(failover(&group), "to node1, at least 14 s ago (2026-11-21T23:30:00Z): why");
        group.last_failover = None;
        group.sentinels.iter_mut().for_each(|sentinel| sentinel.epoch = Some(0));
        assert_eq!(failover(&group), "none since the Sentinels were set up");
    }

    #[test]
    fn many_master_names_fit_a_screen() {
        let report = several(12);
        let short = plain(&report, View::default());
        assert!(
            short.starts_with("12 master names: 1 CRITICAL, 11 HEALTHY\nm3: CRITICAL: nobody takes writes\n"),
            "{short}"
        );
        assert!(short.lines().count() <= 24, "{short}");
        assert_eq!(short.lines().filter(|line| line.contains("HEALTHY   node1")).count(), 11, "{short}");
        let all = plain(&report, View { all: true, width: None });
        assert_eq!(all.matches("\nNODE ").count(), 12, "{all}");
    }

    #[test]
    fn bytes_are_easy_to_read() {
        let said = [(0, "0 B"), (999, "999 B"), (1_500, "1.5 kB"), (2_000_000, "2.0 MB"), (7_340_000_000, "7.3 GB")];
        for (count, wanted) in said {
            assert_eq!(bytes(count), wanted);
        }
    }
}
