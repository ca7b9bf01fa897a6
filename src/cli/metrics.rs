//! `rolegate metrics`: what status sees, as OpenMetrics text, for node exporter's textfile collector. Only gauges: that collector reads the
//! older Prometheus text format, in which other types are written differently. What is not known is left out, never 0.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::backup::files;
use super::facts::{Firewall, Keeper, Member, NodeFacts, Server};
use super::judge::Severity;
use super::probe::{Port, Who};
use super::status::{self, Judged, Report};
use super::{Stop, say};
use crate::exit::CliCode;
use crate::role::Role;
use crate::settings::Settings;

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write into this file, in one step, readable for all; without it to stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Only this master name
    #[arg(long, value_name = "NAME")]
    master: Option<String>,
}

/// Looks and writes. What is wrong with the cluster stands in the metrics, not in the exit code.
pub fn run(args: &Args) -> Result<CliCode, Stop> {
    let report = status::look(args.master.as_deref());
    // Settings that cannot be read are told by status.
    let directory = Settings::load().ok().map(|settings| settings.backup.directory);
    let text = render(&report, |master| files::newest(directory.as_deref()?, master));
    match &args.out {
        None => say(text),
        Some(path) => replace(path, &text)
            .map_err(|error| Stop::unknown(format!("{}: {error}; the file is as it was", path.display())))?,
    }
    Ok(CliCode::Ok)
}

/// Replaces the file in one step: who reads it sees the old text or the new one.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let name = path.file_name().ok_or_else(|| io::Error::other("no file's name"))?.to_string_lossy();
    // The collector reads *.prom only.
    let new = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&new).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        // Whatever the umask is: node exporter is another user.
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        fs::rename(&new, path)
    });
    if written.is_err() {
        let _gone = fs::remove_file(&new);
    }
    written
}

/// All metrics: name, and what it is. `docs/status.md` has the same.
const METRICS: &[(&str, &str)] = &[
    ("rolegate_status", "What rolegate status comes to: 0 healthy, 1 warning, 2 critical, 3 unknown."),
    ("rolegate_looked_timestamp_seconds", "When this was seen."),
    ("rolegate_look_seconds", "How long looking took."),
    ("rolegate_pacemaker_up", "Whether Pacemaker on this node answered."),
    ("rolegate_quorum", "Whether this node's partition has quorum."),
    ("rolegate_maintenance_mode", "Whether the cluster is in maintenance mode."),
    ("rolegate_stonith_enabled", "Whether STONITH is on."),
    ("rolegate_master_status", "The same as rolegate_status for one master name."),
    ("rolegate_problems", "How many problems of a severity there are."),
    ("rolegate_record_usable", "Whether there is a record to stand on."),
    ("rolegate_writers", "How many nodes take writes on the read-write port: 1 is right."),
    ("rolegate_takes_writes", "Whether this node takes writes on its read-write port."),
    ("rolegate_port_open", "Whether a client can connect to the port (ro or rw)."),
    ("rolegate_sentinels", "How many Sentinels the record has."),
    ("rolegate_sentinels_answering", "How many of them answer this node."),
    ("rolegate_sentinels_needed", "How many are a majority."),
    ("rolegate_sentinel_up", "Whether this Sentinel answers this node."),
    ("rolegate_config_epoch", "The epoch that this Sentinel has."),
    ("rolegate_named", "Whether a majority of Sentinels names this node."),
    ("rolegate_named_seconds", "How long a majority has known the primary, at least."),
    ("rolegate_node_online", "Whether this node is an online member that may run resources."),
    ("rolegate_node_fenced", "Whether an operator has fenced this node."),
    ("rolegate_forced_open", "Whether an operator has forced this node's read-write port open."),
    ("rolegate_role", "Whether the role attribute has this value."),
    ("rolegate_gate_promoted", "Whether Pacemaker has promoted the gate on this node."),
    ("rolegate_lease_seconds", "How long a lease lasts."),
    ("rolegate_lease_marked", "Whether this node's keeper says that it may hold a lease."),
    ("rolegate_keeper_seen", "Whether the Sentinels see a keeper of this node."),
    ("rolegate_lease_remaining_seconds", "What remains of the lease on the node that looks, by its kernel; 0 closed."),
    ("rolegate_redis_up", "Whether Redis on this node answers."),
    ("rolegate_redis_primary", "Whether Redis on this node says that it is a primary."),
    ("rolegate_replication_link_up", "Whether the link of the replica on this node is up."),
    ("rolegate_replication_lag_bytes", "How far the replica on this node is behind the primary."),
    ("rolegate_replication_lag_seconds", "How long ago the primary last heard from the replica on this node."),
    ("rolegate_last_failover_timestamp_seconds", "When the last failover was that this node knows of."),
    ("rolegate_newest_backup_timestamp_seconds", "When the newest backup was made that is on this node."),
];

/// Samples by name, in the order of [`METRICS`].
struct Samples(Vec<String>);

impl Samples {
    /// A sample of `name` with these labels.
    fn add(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let Some(at) = METRICS.iter().position(|(known, _)| *known == name) else {
            debug_assert!(false, "{name} is not among the metrics");
            return;
        };
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        _ = writeln!(self.0[at], "{name}{labels} {value}");
    }

    fn flag(&mut self, name: &str, labels: &[(&str, &str)], value: bool) {
        self.add(name, labels, u8::from(value));
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// The whole text. `newest_backup`: when that of a master name was made.
fn render(report: &Report, newest_backup: impl Fn(&str) -> Option<u64>) -> String {
    let mut samples = Samples(vec![String::new(); METRICS.len()]);
    samples.add("rolegate_status", &[], report.code);
    samples.add("rolegate_looked_timestamp_seconds", &[], report.at);
    samples.add("rolegate_look_seconds", &[], seconds(report.took_ms));
    if report.error.is_none() {
        let cluster = &report.cluster;
        samples.flag("rolegate_pacemaker_up", &[], cluster.error.is_none());
        if let Some(quorum) = cluster.quorum {
            samples.flag("rolegate_quorum", &[], quorum);
            samples.flag("rolegate_maintenance_mode", &[], cluster.maintenance_mode);
        }
        if let Some(stonith) = cluster.stonith {
            samples.flag("rolegate_stonith_enabled", &[], stonith);
        }
    }
    for judged in &report.masters {
        of_master(&mut samples, judged, report.cluster.seen_from.as_deref());
        let master = judged.group.master.as_str();
        if let Some(at) = newest_backup(master) {
            samples.add("rolegate_newest_backup_timestamp_seconds", &[("master", master)], at);
        }
    }
    // They are the cluster's, and the same for each master name.
    for node in report.masters.first().map(|judged| judged.group.nodes.as_slice()).unwrap_or_default() {
        if let Some(member) = node.member {
            samples.flag("rolegate_node_online", &[("node", &node.name)], Member::word(member) == "online");
            samples.flag("rolegate_node_fenced", &[("node", &node.name)], node.fence.is_some());
        }
    }
    let mut text = String::new();
    for ((name, help), lines) in METRICS.iter().zip(&samples.0) {
        if !lines.is_empty() {
            _ = write!(text, "# TYPE {name} gauge\n# HELP {name} {help}\n{lines}");
        }
    }
    text.push_str("# EOF\n");
    text
}

fn of_master(samples: &mut Samples, judged: &Judged, here: Option<&str>) {
    let group = &judged.group;
    let master = group.master.as_str();
    let of = [("master", master)];
    samples.add("rolegate_master_status", &of, judged.code);
    for (word, severity) in
        [("critical", Severity::Critical), ("unknown", Severity::Unknown), ("warning", Severity::Warning)]
    {
        let count = judged.judgement.problems.iter().filter(|problem| problem.severity == severity).count();
        samples.add("rolegate_problems", &[of[0], ("severity", word)], count);
    }
    samples.flag("rolegate_record_usable", &of, group.record_error.is_none());
    if let Some(writers) = writers(judged) {
        samples.add("rolegate_writers", &of, writers);
    }
    samples.add("rolegate_lease_seconds", &of, seconds(group.lease_ms));
    if let Some(verdict) = &group.verdict {
        samples.add("rolegate_sentinels", &of, verdict.total);
        samples.add("rolegate_sentinels_answering", &of, verdict.answered);
        samples.add("rolegate_sentinels_needed", &of, verdict.needed);
        if let Some(time) = verdict.points_for_seconds {
            samples.add("rolegate_named_seconds", &of, time);
        }
    }
    for sentinel in &group.sentinels {
        let labels = [of[0], ("sentinel", sentinel.address.as_str())];
        samples.flag("rolegate_sentinel_up", &labels, sentinel.error.is_none());
        if let Some(epoch) = sentinel.epoch {
            samples.add("rolegate_config_epoch", &labels, epoch);
        }
    }
    for node in &group.nodes {
        of_node(samples, judged, node);
    }
    if let (Some(Firewall::Seen { rw_open_ms, .. }), Some(here)) = (&group.firewall, here) {
        let labels = [of[0], ("node", here)];
        samples.add("rolegate_lease_remaining_seconds", &labels, seconds(rw_open_ms.unwrap_or(0)));
    }
    // What only may have been the last one is none that can be counted.
    if let Some(last) = group.last_failover.as_ref().filter(|last| !last.or_earlier) {
        samples.add("rolegate_last_failover_timestamp_seconds", &of, last.at);
    }
}

/// How many nodes take writes; None where there may be one that was not seen.
fn writers(judged: &Judged) -> Option<usize> {
    let verdict = judged.group.verdict.as_ref().filter(|verdict| verdict.majority_seen());
    let named = |node: &NodeFacts| verdict.is_none_or(|verdict| verdict.points_at_node.as_ref() == Some(&node.name));
    let unseen = |node: &NodeFacts| named(node) && takes_writes(node).is_none();
    match judged.judgement.writers.len() {
        0 if judged.group.nodes.iter().any(unseen) => None,
        seen => Some(seen),
    }
}

/// Whether a client can write there; None where that cannot be told.
fn takes_writes(node: &NodeFacts) -> Option<bool> {
    match node.rw.as_ref()? {
        port @ (Port::Open { who: Who::Known { .. } } | Port::Refused) => Some(port.takes_writes()),
        Port::Open { who: Who::Unknown { .. } } | Port::Silent | Port::Unreachable { .. } => None,
    }
}

fn of_node(samples: &mut Samples, judged: &Judged, node: &NodeFacts) {
    let group = &judged.group;
    let labels = [("master", group.master.as_str()), ("node", node.name.as_str())];
    let with = |name, value| [labels[0], labels[1], (name, value)];
    for (word, port) in [("ro", &node.ro), ("rw", &node.rw)] {
        // A host that is silent may serve others.
        if let Some(port @ (Port::Open { .. } | Port::Refused)) = port {
            samples.flag("rolegate_port_open", &with("port", word), port.is_open());
        }
    }
    if node.member.is_some() || node.forced.is_some() {
        samples.flag("rolegate_forced_open", &labels, node.forced.is_some());
    }
    if let Some(takes) = takes_writes(node) {
        samples.flag("rolegate_takes_writes", &labels, takes);
    }
    if let Some(verdict) = group.verdict.as_ref().filter(|verdict| verdict.majority_seen()) {
        samples.flag("rolegate_named", &labels, verdict.points_at_node.as_ref() == Some(&node.name));
    }
    for role in [Role::Primary, Role::Replica, Role::Fail] {
        samples.flag("rolegate_role", &with("role", role.as_str()), node.says(role));
    }
    if let Some(gate) = &node.gate {
        samples.flag("rolegate_gate_promoted", &labels, gate.role == "Promoted");
    }
    if let Some(keeper) = node.keeper {
        samples.flag("rolegate_keeper_seen", &labels, keeper != Keeper::Missing);
        samples.flag("rolegate_lease_marked", &labels, keeper == Keeper::Lease);
    }
    if let Some(server) = &node.redis {
        samples.flag("rolegate_redis_up", &labels, server.given().is_some_and(|server| !server.loading));
        if let Server::Given(server) = server {
            samples.flag("rolegate_redis_primary", &labels, server.primary);
            if !server.primary {
                samples.flag("rolegate_replication_link_up", &labels, server.link_up);
            }
        }
    }
    if let Some(behind) = node.behind {
        samples.add("rolegate_replication_lag_bytes", &labels, behind.bytes);
        if let Some(seconds) = behind.seconds {
            samples.add("rolegate_replication_lag_seconds", &labels, seconds);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::judge::tests::healthy;
    use super::super::status::tests::{full, report_of};
    use super::*;
    use std::collections::BTreeSet;

    const RULES: &str = include_str!("../../contrib/prometheus/rolegate.rules.yml");
    const RULE_TESTS: &str = include_str!("../../tests/prometheus/rolegate.rules.test.yml");
    const DOCUMENT: &str = include_str!("../../docs/status.md");

    fn backup(master: &str) -> Option<u64> {
        (master == "mymaster").then_some(1_795_970_700)
    }

    /// The words of a text that can be a metric's name.
    fn names(text: &str) -> BTreeSet<&str> {
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .filter(|word| word.starts_with("rolegate_"))
            .collect()
    }

    #[test]
    fn a_healthy_cluster_in_numbers() {
        let text = render(&report_of(healthy()), backup);
        for line in [
            "rolegate_status 0",
            "rolegate_quorum 1",
            "rolegate_master_status{master=\"mymaster\"} 0",
            "rolegate_writers{master=\"mymaster\"} 1",
            "rolegate_takes_writes{master=\"mymaster\",node=\"node1\"} 1",
            "rolegate_port_open{master=\"mymaster\",node=\"node2\",port=\"rw\"} 0",
            "rolegate_role{master=\"mymaster\",node=\"node2\",role=\"replica\"} 1",
            "rolegate_config_epoch{master=\"mymaster\",sentinel=\"10.0.0.1:26379\"} 4",
            "rolegate_replication_lag_bytes{master=\"mymaster\",node=\"node3\"} 2",
            "rolegate_node_online{node=\"node3\"} 1",
            "rolegate_lease_seconds{master=\"mymaster\"} 2",
            "rolegate_newest_backup_timestamp_seconds{master=\"mymaster\"} 1795970700",
        ] {
            assert!(text.lines().any(|there| there == line), "no {line} in\n{text}");
        }
        assert!(text.ends_with("\n# EOF\n"));
    }

    /// The grammar of OpenMetrics 1.0, as far as gauges go: each family once, TYPE and HELP before its samples.
    #[test]
    fn the_text_is_open_metrics() {
        let text = render(&full(), backup);
        let mut family = "";
        let mut seen = BTreeSet::new();
        for line in text.lines().take_while(|line| *line != "# EOF") {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                family = rest.strip_suffix(" gauge").expect("only gauges");
                assert!(seen.insert(family), "{family} twice");
                // Suffixes that mean another type.
                for suffix in ["_total", "_created", "_count", "_sum", "_bucket", "_info"] {
                    assert!(!family.ends_with(suffix), "{family}");
                }
            } else if let Some(rest) = line.strip_prefix("# HELP ") {
                assert!(rest.starts_with(&format!("{family} ")), "{line}");
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap();
                assert_eq!(series.split('{').next(), Some(family), "{line}");
                value.parse::<f64>().unwrap();
                assert!(series == family || series.ends_with('}'), "{line}");
            }
        }
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let series: BTreeSet<&str> = samples.iter().map(|line| line.rsplit_once(' ').unwrap().0).collect();
        assert_eq!(samples.len(), series.len(), "a series twice:\n{text}");
    }

    #[test]
    fn each_metric_is_there_and_documented_and_rules_use_no_other() {
        let known: BTreeSet<&str> = METRICS.iter().map(|(name, _)| *name).collect();
        let text = render(&full(), backup);
        let types: BTreeSet<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" gauge")).collect();
        assert_eq!(types, known);
        let documented = DOCUMENT.lines().filter_map(|line| line.strip_prefix("| `rolegate_")?.split_once(['`', '{']));
        let documented: BTreeSet<String> = documented.map(|(name, _)| format!("rolegate_{name}")).collect();
        assert_eq!(documented.iter().map(String::as_str).collect::<BTreeSet<_>>(), known);
        let expressions: String = RULES.lines().filter(|line| line.contains("rolegate_")).collect();
        let used = names(&expressions);
        assert!(used.len() > 5 && used.is_subset(&known), "{:?}", used.difference(&known));
        let series: String = RULE_TESTS.lines().filter(|line| line.trim().starts_with("- series: ")).collect();
        assert_eq!(names(&series), used, "the rules' tests feed what no rule looks at, or not all that they look at");
    }

    /// What promtool does not ask for.
    #[test]
    fn each_alert_is_seen_to_fire_and_not_to_fire_by_the_rules_tests() {
        let alerts: BTreeSet<&str> = RULES.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
        let (mut fire, mut quiet) = (BTreeSet::new(), BTreeSet::new());
        let mut lines = RULE_TESTS.lines().map(str::trim);
        while let Some(line) = lines.next() {
            let Some(alert) = line.strip_prefix("alertname: ") else { continue };
            let seen = if lines.next() == Some("exp_alerts: []") { &mut quiet } else { &mut fire };
            seen.insert(alert);
        }
        assert!(!alerts.is_empty());
        assert_eq!((&fire, &quiet), (&alerts, &alerts));
    }

    #[test]
    fn what_could_not_be_looked_at_is_unknown_and_nothing_more() {
        let stop = Report { code: 3, error: Some("no".into()), masters: Vec::new(), ..full() };
        let text = render(&stop, backup);
        assert!(text.contains("\nrolegate_status 3\n") && !text.contains("rolegate_pacemaker_up"), "{text}");
        let mut group = healthy();
        group.nodes[1].rw = Some(Port::Silent);
        let text = render(&report_of(group), backup);
        assert!(!text.contains("node=\"node2\",port=\"rw\""), "{text}");
        let with = |node: usize, rw: Port| {
            let mut group = healthy();
            group.nodes[node].rw = Some(rw);
            let text = render(&report_of(group), backup);
            let of = |name: &str| {
                let line = text.lines().find(|line| line.starts_with(name));
                line.map(|line| line.rsplit_once(' ').unwrap().1.to_owned())
            };
            let takes = format!("rolegate_takes_writes{{master=\"mymaster\",node=\"node{}\"}}", node + 1);
            (of("rolegate_writers"), of(&takes))
        };
        let is = |count: &str| Some(count.to_owned());
        let no_answer = || Port::Open { who: Who::Unknown { why: "no answer".into() } };
        for rw in [Port::Silent, no_answer()] {
            assert_eq!(with(0, rw.clone()), (None, None), "the primary may take writes: {rw:?}");
            assert_eq!(with(1, rw), (is("1"), None));
        }
        assert_eq!(with(0, Port::Refused), (is("0"), is("0")));
    }

    #[test]
    fn a_failover_that_may_have_been_earlier_has_no_time() {
        let mut report = full();
        let time = "rolegate_last_failover_timestamp_seconds{";
        assert!(render(&report, backup).contains(time));
        if let Some(last) = &mut report.masters[0].group.last_failover {
            last.or_earlier = true;
        }
        assert!(!render(&report, backup).contains(time));
    }

    #[test]
    fn labels_are_escaped() {
        let mut group = healthy();
        group.master = "a\"b\\c\nd".into();
        assert!(render(&report_of(group), backup).contains("rolegate_writers{master=\"a\\\"b\\\\c\\nd\"} 1"));
    }

    #[test]
    fn a_file_is_replaced_in_one_step_and_can_be_read_by_others() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rolegate.prom");
        replace(&path, "old").unwrap();
        let before = fs::metadata(&path).unwrap().ino();
        replace(&path, "new").unwrap();
        let after = fs::metadata(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert!(after.ino() != before && after.permissions().mode() & 0o777 == 0o644);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        // What cannot be put in its place is not left beside it.
        let taken = directory.path().join("taken");
        fs::create_dir_all(taken.join("full")).unwrap();
        replace(&taken, "new").unwrap_err();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}
