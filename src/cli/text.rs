//! What `rolegate status` prints: the answer first, then what is wrong and the command that ends it, then what was seen.

use std::net::SocketAddr;

use anstyle::Style;

use super::facts::{ClusterFacts, FailoverFacts, Firewall, Group, Keeper, Member, NodeFacts, Server};
use super::fence::utc;
use super::judge::{self, Problem, Severity};
use super::probe::Port;
use super::span;
use super::status::{Judged, Report};
use super::table::{Cell, Less, cut, fitted, style, styled, wrapped};

/// How it is shown.
#[derive(Debug, Clone, Copy, Default)]
pub struct View {
    /// All of every master name, where there are several.
    pub all: bool,
    /// How wide lines may be; None where nobody says.
    pub width: Option<usize>,
    /// The terminal breaks no lines: commands are broken here, too.
    pub breaks_all: bool,
}

impl View {
    /// `text` in lines that fit.
    fn wrapped(self, text: &str, indent: usize) -> String {
        wrapped(text, self.width.unwrap_or(usize::MAX), indent)
    }
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
            out.push_str(&headline(judged, &[], view));
            print_problems(&mut out, &judged.judgement.problems, view);
        }
        out.push('\n');
        out.push_str(&overview(report, view));
        out.push_str(&styled("all of it: rolegate status --all, or --master NAME\n", style::FAINT));
        out.push_str(&footer(report, view));
        return out;
    }
    report.masters.iter().for_each(|judged| out.push_str(&headline(judged, &report.problems, view)));
    print_problems(&mut out, &report.problems, view);
    for judged in &report.masters {
        if several {
            out.push_str(&format!("\n== {}, gate {}\n", judged.group.master, judged.group.resource));
        }
        print_problems(&mut out, &judged.judgement.problems, view);
        out.push('\n');
        out.push_str(&tables(&report.cluster, &judged.group, view));
        let last = format!("last failover: {}", failover(&judged.group));
        out.push_str(&format!("\n{}\n", view.wrapped(&last, 4)));
    }
    if report.masters.is_empty() {
        out.push('\n');
    }
    out.push_str(&footer(report, view));
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

fn headline(judged: &Judged, of_cluster: &[Problem], view: View) -> String {
    let group = &judged.group;
    let problems: Vec<Problem> = of_cluster.iter().chain(&judged.judgement.problems).cloned().collect();
    let mut tint = Style::new();
    let who = match judged.judgement.writers.as_slice() {
        [] => judge::nobody(group).to_owned(),
        [one] => {
            let node = group.nodes.iter().find(|node| node.name == *one).and_then(|node| node.address);
            let at =
                node.map_or(String::new(), |address| format!(" at {}", SocketAddr::new(address.ip(), group.rw_port)));
            format!("{one} takes writes{at}")
        }
        several => {
            tint = style::BAD;
            format!("{} ALL TAKE WRITES", several.join(" and "))
        }
    };
    let code = judge::code(&problems) as u8;
    let (master, code, tone) = (&group.master, word(code), of_code(code));
    let line = view.wrapped(&format!("{master}: {code}: {who}"), 4);
    match line.strip_prefix(&format!("{master}: {code}: ")) {
        Some(who) => {
            format!("{}: {}: {}\n", styled(master, Style::new().bold()), styled(code, tone), styled(who, tint))
        }
        None => format!("{line}\n"),
    }
}

fn print_problems(out: &mut String, problems: &[Problem], view: View) {
    for problem in problems {
        let color = match problem.severity {
            Severity::Critical => style::BAD,
            Severity::Unknown => style::UNKNOWN,
            Severity::Warning => style::WARN,
        };
        let severity = format!("{:<8}", problem.severity.word());
        let line = view.wrapped(&format!("  {severity}  {}", problem.what), 12);
        out.push_str(&line.replacen(&severity, &styled(&severity, color), 1));
        out.push('\n');
        if let Some(next) = &problem.next {
            // Continued lines stand under the first. A command is not broken: it is there to be copied.
            for (n, line) in next.lines().enumerate() {
                let before = if n == 0 { "            -> " } else { "               " };
                let line = format!("{before}{line}");
                let line = if view.breaks_all { view.wrapped(&line, before.len()) } else { line };
                out.push_str(&format!("{before}{}\n", styled(&line[before.len()..], style::NEXT)));
            }
        }
    }
}

/// A line for each master name.
fn overview(report: &Report, view: View) -> String {
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
    let heading = ["MASTER", "STATE", "WRITES", "SENTINELS", "NAMED SINCE", "EPOCH", "MOST BEHIND", "FAILOVER AGO"];
    let less = [
        Less::Without("EPOCH"),
        Less::Without("NAMED SINCE"),
        Less::Without("FAILOVER AGO"),
        Less::Without("MOST BEHIND"),
        Less::Cut("WRITES"),
        Less::Cut("MASTER"),
    ];
    let (text, missed) = fitted(&heading, &rows, view.width, &less);
    text + &no_room(&missed, view)
}

/// That columns are missing.
fn no_room(missed: &[String], view: View) -> String {
    if missed.is_empty() {
        return String::new();
    }
    let text = format!("no room for {}: rolegate status --json has it, or a wider terminal", missed.join(", "));
    format!("{}\n", styled(view.wrapped(&text, 4), style::FAINT))
}

/// A node's name without the domain that it has in common with all others.
fn without_domain<'a>(name: &'a str, nodes: &[NodeFacts]) -> &'a str {
    let Some((host, domain)) = name.split_once('.') else { return name };
    let same = nodes.iter().all(|node| node.name.split_once('.').is_some_and(|(_, other)| other == domain));
    if same { host } else { name }
}

fn tables(cluster: &ClusterFacts, group: &Group, view: View) -> String {
    let named = group.verdict.as_ref().and_then(|verdict| verdict.points_at_node.as_deref());
    let (ro, rw) = (group.ro_port.to_string(), group.rw_port.to_string());
    let rows: Vec<Vec<Cell>> = group
        .nodes
        .iter()
        .map(|node| {
            let here = cluster.seen_from.as_deref() == Some(&node.name);
            let is_named = named == Some(node.name.as_str());
            let star = if here { "*" } else { "" };
            // What matters most stands first.
            vec![
                Cell::from(format!("{}{star}", node.name))
                    .or(format!("{}{star}", without_domain(&node.name, &group.nodes))),
                port(&node.rw, is_named),
                port(&node.ro, false),
                match (&node.role, &node.fence) {
                    (_, Some(_)) => Cell::new("FENCED", style::WARN),
                    (Some(role), None) if role == "fail" => Cell::new("fail", style::WARN),
                    (Some(role), None) => role.as_str().into(),
                    (None, None) => "-".into(),
                },
                redis(node, is_named),
                behind(node),
                lease(node, group, here),
                gate(node),
                member(node),
            ]
        })
        .collect();
    let less = [
        Less::Usual("CLUSTER", "online"),
        Less::Short("BEHIND"),
        Less::Short("REDIS"),
        Less::Short("GATE"),
        Less::Short("NODE"),
        Less::Short(&ro),
        Less::Short(&rw),
        Less::Without("LEASE"),
        Less::Without("CLUSTER"),
        Less::Without("GATE"),
        Less::Without("ROLE"),
        Less::Cut("NODE"),
        Less::Without("BEHIND"),
    ];
    let heading = ["NODE", &rw, &ro, "ROLE", "REDIS", "BEHIND", "LEASE", "GATE", "CLUSTER"];
    let (mut out, mut missed) = fitted(&heading, &rows, view.width, &less);
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
            let host = without_domain(&names, &group.nodes).to_owned();
            vec![
                sentinel.address.as_str().into(),
                Cell::from(names).or(host),
                or_dash(sentinel.names_for_seconds.map(span)),
                or_dash(sentinel.epoch.map(|epoch| epoch.to_string())),
                says,
            ]
        })
        .collect();
    out.push('\n');
    let less = [
        Less::Short("NAMES"),
        Less::Without("EPOCH"),
        Less::Cut("SAYS"),
        Less::Without("SINCE"),
        Less::Cut("NAMES"),
        Less::Cut("SENTINEL"),
    ];
    let (sentinels, too) = fitted(&["SENTINEL", "NAMES", "SINCE", "EPOCH", "SAYS"], &rows, view.width, &less);
    out.push_str(&sentinels);
    missed.extend(too);
    out.push_str(&no_room(&missed, view));
    if let Some(Firewall::Seen { backend, baseline, ro_open_ms, rw_open_ms, listeners: _ }) = &group.firewall {
        let state = |port: u16, open: &Option<u64>| match open {
            Some(ms) => format!("{port} open for {}", span(ms / 1000)),
            None => format!("{port} closed"),
        };
        let line = format!(
            "firewall here: {backend}, rules {}, {}, {}",
            baseline.as_deref().unwrap_or("intact"),
            state(group.ro_port, ro_open_ms),
            match rw_open_ms {
                Some(ms) if *ms > group.lease_ms => format!("{} OPEN BY HAND for {}", group.rw_port, span(ms / 1000)),
                Some(_) => format!("{} held open by the lease", group.rw_port),
                None => state(group.rw_port, rw_open_ms),
            }
        );
        out.push_str(&format!("\n{}\n", view.wrapped(&line, 4)));
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
    let flags = [(gate.failed, "failed"), (gate.blocked, "blocked"), (gate.unmanaged, "unmanaged")];
    let words: Vec<&str> = flags.iter().filter(|(is, _)| *is).map(|(_, word)| *word).collect();
    match words.as_slice() {
        [] => gate.word().into(),
        words => Cell::new(format!("{}, {}", gate.word(), words.join(", ")), style::WARN).or(words[0]),
    }
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
        Some(Server::None { why }) => {
            let why = why.chars().take(40).collect::<String>();
            let short = match why.as_str() {
                "connection refused" => "refused".to_owned(),
                why => cut(why.split(':').next().unwrap_or(why), 13),
            };
            Cell::new(why, style::WARN).or(short)
        }
        Some(Server::Given(server)) if server.loading => Cell::new("loading", style::WARN),
        Some(Server::Given(server)) if server.primary => {
            Cell::new("primary", if named { Style::new() } else { style::WARN })
        }
        Some(Server::Given(server)) if !server.link_up => Cell::new("replica, link DOWN", style::WARN).or("link DOWN"),
        Some(Server::Given(_)) => "replica".into(),
    }
}

fn behind(node: &NodeFacts) -> Cell {
    let Some(behind) = node.behind else { return "-".into() };
    let seconds = behind.seconds.map_or(String::new(), |seconds| format!(", {}", span(seconds)));
    Cell::from(format!("{}{seconds}", bytes(behind.bytes))).or(bytes(behind.bytes))
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
        Some(Port::Unreachable { .. }) => Cell::new("unreachable", style::WARN).or("no way"),
        Some(port @ Port::Silent) => Cell::new(port.word(), style::WARN),
        Some(port @ Port::Open { .. }) => Cell::from(port.word()).or(port.word().replace("no answer", "?")),
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

fn footer(report: &Report, view: View) -> String {
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
    let text = format!(
        "seen from {} in {} ms; quorum {}, STONITH {stonith}, {gates}",
        cluster.seen_from.as_deref().unwrap_or("here"),
        report.took_ms,
        yes(cluster.quorum)
    );
    format!("{}\n", view.wrapped(&text, 4))
}

#[cfg(test)]
mod tests {
    use super::super::facts::Behind;
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

NODE    6381     6380  ROLE     REDIS    BEHIND    LEASE     GATE        CLUSTER
node1*  open     open  primary  primary  -         <= 2.0 s  Promoted    online
node2   refused  open  replica  replica  1 B, 0 s  -         Unpromoted  online
node3   refused  open  replica  replica  2 B, 1 s  -         Unpromoted  online

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

    /// What stands in a node's cell of that column.
    fn cell<'t>(text: &'t str, node: &str, column: &str) -> &'t str {
        let heading = text.lines().find(|line| line.starts_with("NODE")).unwrap();
        let at = heading.find(column).unwrap();
        let line = text.lines().find(|line| line.starts_with(node)).unwrap();
        line[at..].split("  ").next().unwrap()
    }

    #[test]
    fn what_remains_of_a_lease_is_shown_where_its_kernel_is() {
        let with = |ro_open_ms, rw_open_ms, baseline: Option<&str>| {
            let mut group = healthy();
            group.firewall = Some(Firewall::Seen {
                backend: "nftables".into(),
                baseline: baseline.map(str::to_owned),
                ro_open_ms,
                rw_open_ms,
                listeners: vec![],
            });
            plain(&report_of(group), View::default())
        };
        // Seen from node1.
        let text = with(Some(3600), Some(1640), None);
        assert_eq!((cell(&text, "node1*", "LEASE"), cell(&text, "node2", "LEASE")), ("1.6 s", "-"), "{text}");
        let line = "firewall here: nftables, rules intact, 6380 open for 3 s, 6381 held open by the lease\n";
        assert!(text.contains(line), "{text}");
        // More than a lease can be.
        let text = with(None, Some(60_000), Some("changed"));
        assert_eq!(cell(&text, "node1*", "LEASE"), "60.0 s", "{text}");
        let line = "firewall here: nftables, rules changed, 6380 closed, 6381 OPEN BY HAND for 60 s\n";
        assert!(text.contains(line), "{text}");
        // The Sentinels say that it may hold one, and the kernel has none.
        let text = with(Some(0), None, None);
        assert_eq!(cell(&text, "node1*", "LEASE"), "<= 2.0 s", "{text}");
        assert!(text.contains("6380 open for 0 s, 6381 closed\n"), "{text}");
        assert!(!plain(&report_of(healthy()), View::default()).contains("firewall here"));
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
        // Of what is wrong; the tables shed columns.
        let words = |text: String| {
            let first = text.split("\n\n").next().unwrap_or_default();
            first.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        let narrow = plain(&report, View { width: Some(50), ..View::default() });
        assert!(narrow.lines().skip(1).take(2).all(|line| line.chars().count() <= 50), "{narrow}");
        assert_eq!(words(narrow), words(plain(&report, View::default())));
    }

    /// Names, lags and states as they are on real hosts.
    fn real(name: impl Fn(usize) -> String) -> Group {
        let mut group = healthy();
        for (n, node) in (1..).zip(&mut group.nodes) {
            node.name = name(n);
        }
        let named = Some(name(1));
        group.sentinels.iter_mut().for_each(|sentinel| sentinel.names_node = named.clone());
        let verdict = group.verdict.as_mut().unwrap();
        (verdict.named, verdict.points_at_node) = (named.clone(), named);
        group.nodes[1].behind = Some(Behind { bytes: 1_234, seconds: Some(1) });
        group.nodes[2].behind = Some(Behind { bytes: 12_345_678, seconds: Some(119) });
        group.last_failover = full().masters[0].group.last_failover.clone();
        group
    }

    fn at_80(group: Group) -> String {
        plain(&report_of(group), View { width: Some(80), ..View::default() })
    }

    fn fits(text: &str) {
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn a_usual_status_has_no_line_of_more_than_80_columns() {
        let names: [fn(usize) -> String; 4] = [
            |n| format!("node{n}"),
            |n| format!("redis-prod-{n}"),
            |n| format!("redis-production-fra1-0{n}"),
            |n| format!("redis0{n}.eu-central-1.example.com"),
        ];
        for name in names {
            let text = at_80(real(name));
            fits(&text);
            assert!(text.contains("6381") && text.contains("1.2 kB"), "{text}");
            let mut down = real(name);
            if let Some(Server::Given(server)) = &mut down.nodes[1].redis {
                (server.link_up, server.link_down_seconds) = (false, Some(7200));
            }
            down.nodes[2].member = Some(Member::default());
            down.nodes[2].redis = Some(Server::None { why: "no answer".into() });
            (down.nodes[2].ro, down.nodes[2].rw) = (Some(Port::Silent), Some(Port::Silent));
            down.sentinels[2].error = Some("no answer".into());
            let text = at_80(down);
            let of_commands = |line: &&str| line.starts_with("            -> ");
            let others: Vec<&str> = text.lines().filter(|line| !of_commands(line)).collect();
            fits(&others.join("\n"));
            assert!(text.contains("link DOWN"), "{text}");
        }
        fits(&plain(&several(12), View { width: Some(80), ..View::default() }));
    }

    #[test]
    fn at_80_columns_a_table_keeps_what_matters() {
        let text = at_80(real(|n| format!("redis-prod-{n}")));
        let table: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("NODE")).take(4).collect();
        assert_eq!(
            table,
            [
                "NODE          6381     6380  ROLE     REDIS    BEHIND   LEASE     GATE",
                "redis-prod-1  open     open  primary  primary  -        <= 2.0 s  Promoted",
                "redis-prod-2  refused  open  replica  replica  1.2 kB   -         Unpromoted",
                "redis-prod-3  refused  open  replica  replica  12.3 MB  -         Unpromoted",
            ]
        );
        assert!(!text.contains("no room"), "{text}");
        let mut long = real(|n| format!("redis0{n}.eu-central-1.example.com"));
        long.nodes[2].member = Some(Member::default());
        let text = at_80(long);
        assert!(text.contains("redis02  refused") && text.contains("offline"), "{text}");
    }

    #[test]
    fn where_the_terminal_breaks_nothing_commands_are_broken_here() {
        let mut group = real(|n| format!("redis-production-fra1-0{n}"));
        group.nodes[0].rw = Some(Port::Refused);
        group.nodes[0].member = Some(Member::default());
        let view = View { width: Some(80), breaks_all: true, ..View::default() };
        fits(&plain(&report_of(group), view));
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
        let all = plain(&report, View { all: true, ..View::default() });
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
