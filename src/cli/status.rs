//! `rolegate status`: who takes writes and what is wrong, from any node, within 2 s.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::facts::{self, ClusterFacts, Firewall, Group, Keeper, NodeFacts, Server};
use super::judge::{self, Judgement, Problem, Severity};
use super::probe::Port;
use super::{Stop, gates, say};
use crate::exit::CliCode;
use crate::layout::master_of;
use crate::settings::Settings;
use crate::together::together;

/// How long all of it may take, so that it ends within 2 s.
const BUDGET: Duration = Duration::from_millis(1850);

/// How long Pacemaker may take of that.
const PACEMAKER: Duration = Duration::from_millis(800);

/// The arguments.
#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// All that was seen, for programs
    #[arg(long)]
    json: bool,
    /// Only this master name
    #[arg(long, value_name = "NAME")]
    master: Option<String>,
}

/// All of it, as `--json` shows it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The exit code.
    code: u8,
    cluster: ClusterFacts,
    /// What is wrong with the cluster itself.
    problems: Vec<Problem>,
    masters: Vec<Judged>,
}

#[derive(Debug, Serialize)]
struct Judged {
    code: u8,
    #[serde(flatten)]
    judgement: Judgement,
    #[serde(flatten)]
    group: Group,
}

/// Looks, judges, prints. Its own trouble is never the cluster's: that is unknown then.
pub fn run(args: &Args) -> Result<CliCode, Stop> {
    match look(args) {
        Err(stop) if args.json => {
            let code = CliCode::Unknown;
            say(serde_json::json!({ "code": code as u8, "error": stop.message }).to_string());
            Ok(code)
        }
        result => result.map_err(|stop| Stop::unknown(stop.message)),
    }
}

fn look(args: &Args) -> Result<CliCode, Stop> {
    let until = Instant::now() + BUDGET;
    let settings = Settings::load()?;
    let (report, code) = report(args.master.as_deref(), &settings, until)?;
    say(if args.json {
        serde_json::to_string_pretty(&report).map_err(|error| Stop::unknown(error.to_string()))?
    } else {
        render(&report)
    });
    Ok(code)
}

fn report(master: Option<&str>, settings: &Settings, until: Instant) -> Result<(Report, CliCode), Stop> {
    let seen = facts::cluster(PACEMAKER.min(until.saturating_duration_since(Instant::now())));
    let (mut all, bad) = seen.cib.as_ref().map(gates).unwrap_or_default();
    let mut problems = judge::cluster(&seen.facts, seen.cib.is_some(), all.len() + bad.len());
    for (resource, error) in &bad {
        let what = format!("gate {}: {error}: nothing is opened anew for it", resource.id);
        problems.push(Problem { severity: Severity::Critical, what, next: None });
    }
    if let Some(master) = master {
        if seen.cib.is_some() && !all.iter().any(|gate| gate.params.master == master) {
            return Err(no_such_master(master, &all, &bad));
        }
        all.retain(|gate| gate.params.master == master);
    }
    let jobs: Vec<_> = all
        .into_iter()
        .filter_map(|gate| {
            let (cib, mon, settings) = (seen.cib.clone()?, seen.mon.clone(), settings.clone());
            Some(move || facts::group(&gate, &cib, mon.as_ref(), &settings, until))
        })
        .collect();
    // Each keeps `until` by itself; the rest is for its threads to start and end.
    let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(100);
    let mut masters = Vec::new();
    for group in together(left, jobs) {
        match group {
            Some(group) => {
                let judgement = judge::group(&seen.facts, &group);
                masters.push(Judged { code: judgement.code() as u8, judgement, group });
            }
            None => problems.push(Problem {
                severity: Severity::Unknown,
                what: "there was no time to look at all master names; ask with --master".to_owned(),
                next: None,
            }),
        }
    }
    let everything: Vec<Problem> =
        problems.iter().chain(masters.iter().flat_map(|judged| &judged.judgement.problems)).cloned().collect();
    let code = judge::code(&everything);
    Ok((Report { code: code as u8, cluster: seen.facts, problems, masters }, code))
}

/// No gate has that master name.
pub fn no_such_master(master: &str, all: &[super::Gate], bad: &[super::Bad]) -> Stop {
    if let Some((resource, error)) = bad.iter().find(|(resource, _)| master_of(resource) == master) {
        return Stop::refused(format!("gate {}: {error}", resource.id));
    }
    let known: Vec<&str> = all.iter().map(|gate| gate.params.master.as_str()).collect();
    match known.as_slice() {
        [] => Stop::refused(format!("the cluster has no gate (ocf:rolegate:gate). Make one:\n{}", super::CREATE)),
        known => Stop::refused(format!("no gate has the master name {master}; there is {}", known.join(", "))),
    }
}

/// The whole report as text: the answer first, then what is wrong, then what was seen.
fn render(report: &Report) -> String {
    let mut out = String::new();
    if report.masters.is_empty() {
        out.push_str(&format!("{}\n", word(report.code)));
    }
    report.masters.iter().for_each(|judged| out.push_str(&headline(judged, &report.problems)));
    print_problems(&mut out, &report.problems);
    for judged in &report.masters {
        if report.masters.len() > 1 {
            out.push_str(&format!("\n== {}, gate {}\n", judged.group.master, judged.group.resource));
        }
        print_problems(&mut out, &judged.judgement.problems);
        out.push('\n');
        out.push_str(&table(&report.cluster, &judged.group));
    }
    out.push('\n');
    out.push_str(&footer(report));
    out
}

fn word(code: u8) -> &'static str {
    match code {
        0 => "HEALTHY",
        1 => "WARNING",
        2 => "CRITICAL",
        _ => "UNKNOWN",
    }
}

fn headline(judged: &Judged, of_cluster: &[Problem]) -> String {
    let group = &judged.group;
    let problems: Vec<Problem> = of_cluster.iter().chain(&judged.judgement.problems).cloned().collect();
    let who = match judged.judgement.writers.as_slice() {
        [] => judge::nobody(group).to_owned(),
        [one] => {
            let node = group.nodes.iter().find(|node| node.name == *one).and_then(|node| node.address);
            let at = node.map_or(String::new(), |address| {
                format!(" at {}", std::net::SocketAddr::new(address.ip(), group.rw_port))
            });
            format!("{one} takes writes{at}")
        }
        several => format!("{} ALL TAKE WRITES", several.join(" and ")),
    };
    format!("{}: {}: {who}\n", group.master, word(judge::code(&problems) as u8))
}

fn print_problems(out: &mut String, problems: &[Problem]) {
    for problem in problems {
        out.push_str(&format!("  {:<8}  {}\n", problem.severity.word(), problem.what));
        if let Some(next) = &problem.next {
            // Continued lines stand under the first.
            out.push_str(&format!("            -> {}\n", next.replace('\n', "\n               ")));
        }
    }
}

fn table(cluster: &ClusterFacts, group: &Group) -> String {
    let named = group.verdict.as_ref().and_then(|verdict| verdict.points_at_node.as_deref());
    let (ro, rw) = (group.ro_port.to_string(), group.rw_port.to_string());
    let mut rows = vec![["NODE", "CLUSTER", "ROLE", "GATE", "LEASE", "REDIS", &ro, &rw].map(str::to_owned)];
    for node in &group.nodes {
        let port = |port: &Option<Port>| port.as_ref().map_or("-", Port::word).to_owned();
        let here = if cluster.seen_from.as_deref() == Some(&node.name) { "*" } else { "" };
        rows.push([
            format!("{}{here}", node.name),
            node.member.map_or("?", facts::Member::word).to_owned(),
            match (&node.role, &node.fence) {
                (_, Some(_)) => "FENCED".to_owned(),
                (Some(role), None) => role.clone(),
                (None, None) => "-".to_owned(),
            },
            gate(node),
            match node.keeper {
                Some(Keeper::Lease) => "held",
                Some(Keeper::Closed) => "-",
                Some(Keeper::Missing) => "no keeper",
                None => "?",
            }
            .to_owned(),
            redis(node, group, named),
            port(&node.ro),
            port(&node.rw),
        ]);
    }
    let mut out = columns(&rows);
    let mut rows = vec![["SENTINEL", "NAMES", "EPOCH", "SAYS"].map(str::to_owned)];
    for sentinel in &group.sentinels {
        let names = match (&sentinel.names_node, &sentinel.names) {
            (Some(node), _) => node.clone(),
            (None, Some(place)) => place.clone(),
            (None, None) => "-".to_owned(),
        };
        let says = match &sentinel.error {
            Some(error) => error.clone(),
            None if sentinel.stranger => "does not know this master name".to_owned(),
            None if sentinel.other_id.is_some() => "not the Sentinel of the record".to_owned(),
            None if sentinel.finishing => "finishing its failover".to_owned(),
            None if sentinel.flags.is_empty() => "well".to_owned(),
            None => sentinel.flags.join(", "),
        };
        let epoch = sentinel.epoch.map_or("-".to_owned(), |epoch| epoch.to_string());
        rows.push([sentinel.address.clone(), names, epoch, says]);
    }
    out.push('\n');
    out.push_str(&columns(&rows));
    if let Some(Firewall::Seen { backend, baseline, ro_open_seconds, rw_open_seconds, listeners: _ }) = &group.firewall
    {
        let state = |port: u16, open: &Option<u64>| match open {
            Some(seconds) => format!("{port} open for {seconds} s"),
            None => format!("{port} closed"),
        };
        out.push_str(&format!(
            "\nfirewall here: {backend}, rules {}, {}, {}\n",
            baseline.as_deref().unwrap_or("intact"),
            state(group.ro_port, ro_open_seconds),
            match rw_open_seconds {
                Some(_) => format!("{} held open by the lease", group.rw_port),
                None => state(group.rw_port, rw_open_seconds),
            }
        ));
    }
    out
}

fn gate(node: &NodeFacts) -> String {
    let lost = node.member.is_some_and(|member| !member.online || member.unclean);
    let Some(gate) = node.gate.as_ref().filter(|_| !lost) else { return "?".to_owned() };
    let mut text = gate.word().to_owned();
    for (flag, word) in [(gate.failed, "failed"), (gate.blocked, "blocked"), (gate.unmanaged, "unmanaged")] {
        if flag {
            text.push_str(&format!(", {word}"));
        }
    }
    text
}

fn redis(node: &NodeFacts, group: &Group, named: Option<&str>) -> String {
    match &node.redis {
        None => "-".to_owned(),
        Some(Server::None { why }) => why.chars().take(40).collect(),
        Some(Server::Given(server)) if server.loading => "loading".to_owned(),
        Some(Server::Given(server)) if server.primary => {
            let s = if server.replicas.len() == 1 { "" } else { "s" };
            format!("primary, {} replica{s} online", server.replicas.len())
        }
        Some(Server::Given(server)) if !server.link_up => "replica, link DOWN".to_owned(),
        Some(Server::Given(server)) => {
            let primary = named
                .and_then(|name| group.nodes.iter().find(|node| node.name == name))
                .and_then(|node| node.redis.as_ref()?.given());
            let behind = primary.map_or(String::new(), |primary| {
                format!(", {} bytes behind", primary.offset.saturating_sub(server.offset))
            });
            let address = node.address.map(|address| address.to_string()).unwrap_or_default();
            let lag = primary
                .and_then(|primary| primary.replicas.iter().find(|(replica, _)| *replica == address))
                .map_or(String::new(), |(_, lag)| format!(", lag {lag} s"));
            format!("replica, link up{behind}{lag}")
        }
    }
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
    let gates = if gates.is_empty() { "none".to_owned() } else { gates.join(", ") };
    format!(
        "seen from {}; quorum {}, STONITH {stonith}, gate {gates}\n",
        cluster.seen_from.as_deref().unwrap_or("here"),
        yes(cluster.quorum)
    )
}

/// Columns as wide as their widest cell.
pub(super) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let line: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out.push_str(line.join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::judge::tests::{healthy, healthy_cluster};
    use super::*;

    fn report_of(group: Group) -> Report {
        let cluster = healthy_cluster();
        let judgement = judge::group(&cluster, &group);
        let code = judgement.code() as u8;
        Report { code, cluster, problems: vec![], masters: vec![Judged { code, judgement, group }] }
    }

    #[test]
    fn a_healthy_cluster_in_a_few_lines() {
        let text = render(&report_of(healthy()));
        assert_eq!(
            text,
            "\
mymaster: HEALTHY: node1 takes writes at 10.0.0.1:6381

NODE    CLUSTER  ROLE     GATE        LEASE  REDIS                                      6380  6381
node1*  online   primary  Promoted    held   primary, 2 replicas online                 open  open
node2   online   replica  Unpromoted  -      replica, link up, 1 bytes behind, lag 0 s  open  refused
node3   online   replica  Unpromoted  -      replica, link up, 2 bytes behind, lag 1 s  open  refused

SENTINEL        NAMES  EPOCH  SAYS
10.0.0.1:26379  node1  4      well
10.0.0.2:26379  node1  4      well
10.0.0.3:26379  node1  4      well

seen from node1; quorum yes, STONITH off, gate RedisGate
"
        );
    }

    #[test]
    fn trouble_stands_first_with_the_command_that_ends_it() {
        let mut group = healthy();
        group.nodes[0].rw = Some(Port::Refused);
        group.nodes[0].role = Some("replica".into());
        let text = render(&report_of(group));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "mymaster: CRITICAL: nobody takes writes");
        assert!(lines[1].starts_with("  CRITICAL  nobody takes writes: Sentinels name node1"), "{text}");
        assert_eq!(lines[2], "            -> rolegate init --master mymaster");
    }

    #[test]
    fn json_says_the_same() {
        let report = report_of(healthy());
        let json: serde_json::Value = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(json["code"], 0);
        let master = &json["masters"][0];
        assert_eq!(master["writers"][0], "node1");
        assert_eq!(master["nodes"][0]["rw"]["port"], "open");
        assert_eq!(master["nodes"][1]["rw"]["port"], "refused");
        assert_eq!(master["nodes"][1]["redis"]["answer"], "given");
        assert_eq!(master["verdict"]["named"], "node1");
    }
}
