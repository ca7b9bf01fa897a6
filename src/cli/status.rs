//! `rolegate status`: who takes writes and what is wrong, from any node, within 2 s.

use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::facts::{self, Answers, ClusterFacts, Group};
use super::judge::{self, Judgement, Problem, Severity};
pub(super) use super::table::columns;
use super::text::{self, View};
use super::{Gate, Stop, gates, say, watch};
use crate::exit::CliCode;
use crate::keeper::socket::{self, Request};
use crate::layout::master_of;
use crate::pacemaker;
use crate::pacemaker::cib::Resource;
use crate::params::Params;
use crate::settings::Settings;

/// How long all of it may take, so that it ends within 2 s.
const BUDGET: Duration = Duration::from_millis(1850);

/// How long Pacemaker may take of that. Its programs do on a busy machine.
const PACEMAKER: Duration = Duration::from_millis(1500);

/// And where whom to ask is known only then.
const PACEMAKER_FIRST: Duration = Duration::from_millis(800);

/// For threads to start and end.
const SLACK: Duration = Duration::from_millis(100);

/// The version of what `--json` prints. `docs/status.md` says what a new one means.
const SCHEMA: u32 = 1;

/// The arguments.
#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// All that was seen, for programs: /usr/share/doc/rolegate/status.md has the fields
    #[arg(long)]
    json: bool,
    /// Only this master name
    #[arg(long, value_name = "NAME")]
    master: Option<String>,
    /// All of every master name, where there are several
    #[arg(long, conflicts_with = "master")]
    all: bool,
    /// Look again and again, every second or this often; q or Ctrl-C ends it. With --json a line for each look
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "1",
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
}

/// All of it, as `--json` shows it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The exit code.
    pub code: u8,
    /// When, in seconds since 1970.
    pub at: u64,
    /// How long it took.
    pub took_ms: u64,
    /// Why nothing was seen at all.
    pub error: Option<String>,
    /// The cluster.
    pub cluster: ClusterFacts,
    /// What is wrong with the cluster itself.
    pub problems: Vec<Problem>,
    /// The master names.
    pub masters: Vec<Judged>,
}

/// A master name, and what it comes to.
#[derive(Debug, Serialize)]
pub struct Judged {
    /// The exit code.
    pub code: u8,
    /// What it comes to.
    #[serde(flatten)]
    pub judgement: Judgement,
    /// What was seen.
    #[serde(flatten)]
    pub group: Group,
}

/// Looks, judges, prints. Its own trouble is never the cluster's: that is unknown then.
pub fn run(args: &Args) -> Result<CliCode, Stop> {
    if let Some(seconds) = args.watch {
        return watch::run(Duration::from_secs(seconds), args.json, args.all, args.master.clone());
    }
    let report = look(args.master.as_deref());
    match &report.error {
        _ if args.json => say(json(&report)?),
        Some(error) => return Err(Stop::unknown(error.clone())),
        None => {
            let width = terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| usize::from(width.0));
            super::say_in_colour(&text::render(&report, View { all: args.all, width, breaks_all: false }));
        }
    }
    Ok(report.exit())
}

/// As `--json` prints it.
fn json(report: &Report) -> Result<String, Stop> {
    serde_json::to_string_pretty(report).map_err(|error| Stop::unknown(error.to_string()))
}

/// Looks once. What hinders it is in the report.
pub fn look(master: Option<&str>) -> Report {
    let started = Instant::now();
    let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let seen = Settings::load().map_err(Stop::from).and_then(|settings| see(master, &settings, started + BUDGET, at));
    let mut report = seen.unwrap_or_else(|stop| Report {
        code: CliCode::Unknown as u8,
        error: Some(stop.message),
        ..Report::empty(at)
    });
    let all =
        report.problems.iter_mut().chain(report.masters.iter_mut().flat_map(|master| &mut master.judgement.problems));
    for next in all.filter_map(|problem| problem.next.as_mut()) {
        *next = super::typed_here(next);
    }
    report.took_ms = started.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
    report
}

impl Report {
    fn empty(at: u64) -> Self {
        Report {
            schema: SCHEMA,
            code: 0,
            at,
            took_ms: 0,
            error: None,
            cluster: ClusterFacts::default(),
            problems: Vec::new(),
            masters: Vec::new(),
        }
    }

    /// The exit code.
    pub fn exit(&self) -> CliCode {
        [CliCode::Ok, CliCode::Warning, CliCode::Critical]
            .into_iter()
            .find(|code| *code as u8 == self.code)
            .unwrap_or(CliCode::Unknown)
    }
}

/// Questions that are under way.
struct Asking {
    params: Params,
    answers: Receiver<Answers>,
}

impl Asking {
    fn begin(params: &Params, settings: &Settings, until: Instant) -> Self {
        let (sender, answers) = mpsc::channel();
        let (of, settings) = (params.clone(), settings.clone());
        // Nobody listens where there was no time.
        thread::spawn(move || _ = sender.send(facts::ask(&of, &settings, until)));
        Asking { params: params.clone(), answers }
    }
}

fn see(master: Option<&str>, settings: &Settings, until: Instant, now: u64) -> Result<Report, Stop> {
    let wanted = |gate: &Gate| master.is_none_or(|master| gate.params.master == master);
    // What Pacemaker's programs say of whom to ask stands on this node's disk, too, for root; where it is the same, the answers are there by
    // then, and they may take their time.
    let pacemaker = if pacemaker::can_read_cib_on_disk() { PACEMAKER } else { PACEMAKER_FIRST };
    let pacemaker = pacemaker.min(until.saturating_duration_since(Instant::now()));
    let (sender, cluster) = mpsc::channel();
    thread::spawn(move || _ = sender.send(facts::cluster(pacemaker)));
    let (sender, keeper) = mpsc::channel();
    thread::spawn(move || _ = sender.send(socket::ask(&Request::Report)));
    let on_disk = pacemaker::read_cib_on_disk().map(|cib| gates(&cib).0).unwrap_or_default();
    let mut asking: Vec<Asking> =
        on_disk.iter().filter(|gate| wanted(gate)).map(|gate| Asking::begin(&gate.params, settings, until)).collect();

    let seen = cluster.recv().map_err(|_| Stop::unknown("Pacemaker could not be asked"))?;
    let (mut all, bad) = seen.cib.as_ref().map(gates).unwrap_or_default();
    let mut problems = judge::cluster(&seen.facts, seen.cib.is_some(), all.len() + bad.len());
    for (resource, error) in &bad {
        let what = format!("gate {}: {error}: nothing is opened anew for it", resource.id);
        let next = Some(set_right(resource));
        problems.push(Problem { severity: Severity::Critical, what, next, check: "gate" });
    }
    if let Some(master) = master {
        if seen.cib.is_some() && !all.iter().any(|gate| gate.params.master == master) {
            return Err(no_such_master(master, &all, &bad));
        }
        all.retain(wanted);
    }
    let asked: Vec<(Gate, Asking)> = all
        .into_iter()
        .map(|gate| {
            let early = asking.iter().position(|asking| asking.params == gate.params);
            let asking = early.map(|at| asking.swap_remove(at));
            let asking = asking.unwrap_or_else(|| Asking::begin(&gate.params, settings, until));
            (gate, asking)
        })
        .collect();
    let mut report = Report::empty(now);
    let left = || (until + SLACK).saturating_duration_since(Instant::now());
    let mut late = false;
    let mut groups = Vec::new();
    for (gate, asking) in asked {
        match (asking.answers.recv_timeout(left()), &seen.cib) {
            (Ok(answers), Some(cib)) => {
                groups.push((facts::compose(&gate, cib, seen.mon.as_ref(), answers), gate));
            }
            _ => late = true,
        }
    }
    let told = keeper.recv_timeout(left().min(SLACK)).ok().and_then(Result::ok).unwrap_or_default();
    for (mut group, gate) in groups {
        let told = told.iter().find(|report| report.master == group.master);
        facts::add_hand(&mut group, seen.facts.seen_from.as_deref());
        facts::add_keeper(&mut group, gate.params.record.as_ref().ok(), told, now);
        let judgement = judge::group(&seen.facts, &group);
        report.masters.push(Judged { code: judgement.code() as u8, judgement, group });
    }
    if late {
        let what = "there was no time to look at all master names".to_owned();
        let next = Some("rolegate status --master NAME".to_owned());
        problems.push(Problem { severity: Severity::Unknown, what, next, check: "writers" });
    }
    let of_masters = report.masters.iter().flat_map(|judged| &judged.judgement.problems);
    let everything: Vec<Problem> = problems.iter().chain(of_masters).cloned().collect();
    report.code = judge::code(&everything) as u8;
    (report.cluster, report.problems) = (seen.facts, problems);
    Ok(report)
}

/// What mends a gate of which a parameter cannot be: its error names it.
pub fn set_right(resource: &Resource) -> String {
    format!("crm_resource -r {} -p PARAMETER -v VALUE, for what is named", resource.id)
}

/// No gate has that master name.
pub fn no_such_master(master: &str, all: &[super::Gate], bad: &[super::Bad]) -> Stop {
    if let Some((resource, error)) = bad.iter().find(|(resource, _)| master_of(resource) == master) {
        return Stop::refused(format!("gate {}: {error}; {}", resource.id, set_right(resource)));
    }
    let known: Vec<&str> = all.iter().map(|gate| gate.params.master.as_str()).collect();
    match known.as_slice() {
        [] => Stop::refused(format!("the cluster has no gate (ocf:rolegate:gate). Make one:\n{}", super::CREATE)),
        known => Stop::refused(format!("no gate has the master name {master}; there is {}", known.join(", "))),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::judge::tests::{healthy, healthy_cluster};
    use super::*;

    fn judged(group: Group) -> Judged {
        let judgement = judge::group(&healthy_cluster(), &group);
        Judged { code: judgement.code() as u8, judgement, group }
    }

    pub(in super::super) fn report_of(group: Group) -> Report {
        let judged = judged(group);
        Report { code: judged.code, cluster: healthy_cluster(), masters: vec![judged], ..Report::empty(0) }
    }

    /// So many master names, of which the third is in trouble.
    pub(in super::super) fn several(count: usize) -> Report {
        let masters = (1..=count).map(|n| {
            let mut group = Group { master: format!("m{n}"), resource: format!("G{n}"), ..healthy() };
            if n == 3 {
                group.nodes[0].rw = Some(super::super::probe::Port::Refused);
            }
            judged(group)
        });
        Report { code: 2, cluster: healthy_cluster(), masters: masters.collect(), ..Report::empty(0) }
    }

    #[test]
    fn json_says_the_same() {
        let report = report_of(healthy());
        let json: serde_json::Value = serde_json::from_str(&json(&report).unwrap()).unwrap();
        assert_eq!(json["code"], 0);
        let master = &json["masters"][0];
        assert_eq!(master["writers"][0], "node1");
        assert_eq!(master["nodes"][0]["rw"]["port"], "open");
        assert_eq!(master["nodes"][1]["rw"]["port"], "refused");
        assert_eq!(master["nodes"][1]["redis"]["answer"], "given");
        assert_eq!(master["verdict"]["named"], "node1");
    }

    /// A report in which every field is there.
    pub(in super::super) fn full() -> Report {
        use super::super::facts::{Ban, Failed, FailoverFacts, Firewall, KeeperFacts, MarkFacts, Server};
        use super::super::probe::{Port, Who};
        let mut group = healthy();
        group.firewall = Some(Firewall::Seen {
            backend: "nft".into(),
            baseline: Some("missing".into()),
            ro_open_ms: Some(9_000),
            rw_open_ms: Some(1_400),
            listeners: vec!["a program listens".into()],
        });
        group.keeper = Some(KeeperFacts { open: true, why: String::new() });
        group.last_failover = Some(FailoverFacts {
            at: 1_795_303_800,
            seconds_ago: 14,
            or_earlier: false,
            from: Some("node2".into()),
            to: Some("node1".into()),
            cause: "requested",
            because: "why".into(),
        });
        let node = &mut group.nodes[1];
        node.bans = vec![Ban { constraint: "ban".into(), until: None }];
        node.failures = vec![Failed { operation: "promote_0".into(), reason: "why".into(), degraded: false }];
        node.rw = Some(Port::Open { who: Who::Unknown { why: "no answer".into() } });
        let priority = MarkFacts { setting: "replica-priority", value: 1_238_710_100, before: 100 };
        group.nodes[2].marks = vec![priority];
        group.nodes[2].ro = Some(Port::Unreachable { why: "no route".into() });
        let mut other = Group { master: "cache".into(), ..healthy() };
        other.firewall = Some(Firewall::Unseen { why: "not root".into() });
        other.nodes[1].redis = Some(Server::None { why: "no answer".into() });
        let problems = vec![Problem { severity: Severity::Warning, what: "wrong".into(), next: None, check: "" }];
        let masters = vec![judged(group), judged(other)];
        Report { code: 2, cluster: healthy_cluster(), problems, masters, ..Report::empty(0) }
    }

    /// The fields of version 1. One is added when the document gets it; none is ever taken away or renamed: that is another version.
    const VERSION_1: &str = "schema code at took_ms error cluster cluster.seen_from cluster.error cluster.from_disk cluster.quorum cluster.maintenance_mode \
        cluster.stonith cluster.no_quorum_policy problems problems[].severity problems[].what problems[].next masters masters[].code \
        masters[].writers masters[].problems masters[].problems[].severity masters[].problems[].what masters[].problems[].next \
        masters[].master masters[].resource masters[].attribute masters[].ro_port masters[].rw_port masters[].redis_port \
        masters[].lease_ms masters[].record_error masters[].record_waits_for masters[].rules masters[].rules.by_role \
        masters[].rules.by_fence masters[].nodes masters[].nodes[].name masters[].nodes[].address masters[].nodes[].member \
        masters[].nodes[].member.online masters[].nodes[].member.standby masters[].nodes[].member.maintenance \
        masters[].nodes[].member.unclean masters[].nodes[].member.pending masters[].nodes[].role masters[].nodes[].hidden_role \
        masters[].nodes[].fence masters[].nodes[].forced masters[].nodes[].record masters[].nodes[].confirmed_off masters[].nodes[].bans \
        masters[].nodes[].bans[].constraint masters[].nodes[].bans[].until masters[].nodes[].gate masters[].nodes[].gate.role \
        masters[].nodes[].gate.by_blocks masters[].nodes[].gate.failed masters[].nodes[].gate.blocked masters[].nodes[].gate.unmanaged \
        masters[].nodes[].fail_count masters[].nodes[].failures masters[].nodes[].failures[].operation \
        masters[].nodes[].failures[].reason masters[].nodes[].failures[].degraded masters[].nodes[].redis masters[].nodes[].redis.answer \
        masters[].nodes[].redis.why masters[].nodes[].redis.run_id masters[].nodes[].redis.version masters[].nodes[].redis.primary \
        masters[].nodes[].redis.loading masters[].nodes[].redis.offset masters[].nodes[].redis.replicas \
        masters[].nodes[].redis.replicas[].address masters[].nodes[].redis.replicas[].acknowledged_seconds masters[].nodes[].redis.of \
        masters[].nodes[].redis.link_up masters[].nodes[].redis.link_down_seconds masters[].nodes[].marks \
        masters[].nodes[].marks[].setting masters[].nodes[].marks[].value masters[].nodes[].marks[].before masters[].nodes[].keeper \
        masters[].nodes[].lease_at_most_ms masters[].nodes[].behind masters[].nodes[].behind.bytes masters[].nodes[].behind.seconds \
        masters[].nodes[].ro masters[].nodes[].ro.port masters[].nodes[].ro.server masters[].nodes[].ro.run_id \
        masters[].nodes[].ro.primary masters[].nodes[].ro.loading masters[].nodes[].ro.why masters[].nodes[].rw \
        masters[].nodes[].rw.port masters[].nodes[].rw.server masters[].nodes[].rw.run_id masters[].nodes[].rw.primary \
        masters[].nodes[].rw.loading masters[].nodes[].rw.why masters[].sentinels masters[].sentinels[].address masters[].sentinels[].id \
        masters[].sentinels[].error masters[].sentinels[].other_id masters[].sentinels[].stranger masters[].sentinels[].names \
        masters[].sentinels[].names_node masters[].sentinels[].names_nobody masters[].sentinels[].names_for_seconds \
        masters[].sentinels[].down_for_seconds masters[].sentinels[].epoch masters[].sentinels[].flags \
        masters[].sentinels[].primary_run_id masters[].sentinels[].finishing masters[].verdict masters[].verdict.named \
        masters[].verdict.points_at masters[].verdict.points_at_node masters[].verdict.points_for_seconds masters[].verdict.answered \
        masters[].verdict.needed masters[].verdict.total masters[].verdict.notes masters[].firewall masters[].firewall.firewall \
        masters[].firewall.why masters[].firewall.backend masters[].firewall.baseline masters[].firewall.ro_open_ms \
        masters[].firewall.rw_open_ms masters[].firewall.listeners masters[].denied masters[].denied.redis masters[].denied.sentinel \
        masters[].keeper masters[].keeper.open masters[].keeper.why masters[].last_failover masters[].last_failover.at \
        masters[].last_failover.seconds_ago masters[].last_failover.or_earlier masters[].last_failover.from masters[].last_failover.to \
        masters[].last_failover.cause masters[].last_failover.because";

    /// That what was found are the fields of a version, no fewer and no more.
    pub(in super::super) fn is_version(found: &std::collections::BTreeSet<String>, fields: &str) {
        let fields: std::collections::BTreeSet<String> = fields.split_whitespace().map(str::to_owned).collect();
        let gone: Vec<&String> = fields.difference(found).collect();
        assert!(gone.is_empty(), "gone, which a program may read, so that it takes another version: {gone:#?}");
        let new: Vec<&String> = found.difference(&fields).collect();
        assert!(new.is_empty(), "new, and to be listed from now on: {new:#?}");
    }

    /// Where each value of a document is: `masters[].nodes[].name`.
    pub(in super::super) fn paths(value: &serde_json::Value, at: &str, found: &mut std::collections::BTreeSet<String>) {
        match value {
            serde_json::Value::Object(fields) => {
                for (name, value) in fields {
                    let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                    found.insert(at.clone());
                    paths(value, &at, found);
                }
            }
            serde_json::Value::Array(items) => items.iter().for_each(|item| paths(item, &format!("{at}[]"), found)),
            _ => {}
        }
    }

    #[test]
    fn each_field_of_the_json_stands_in_the_document_under_its_name() {
        let document = include_str!("../../docs/status.md");
        let documented = document.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
        let documented: Vec<&str> =
            documented.map(|(path, _)| path).filter(|path| !path.starts_with("rolegate_")).collect();
        let value = serde_json::to_value(full()).unwrap();
        let mut found = std::collections::BTreeSet::new();
        paths(&value, "", &mut found);
        let missing: Vec<&String> = found.iter().filter(|path| !documented.contains(&path.as_str())).collect();
        let gone: Vec<&&str> = documented.iter().filter(|path| !found.contains(**path)).collect();
        assert!(
            missing.is_empty() && gone.is_empty(),
            "not documented: {missing:#?}\ndocumented, and not there: {gone:#?}"
        );
        assert!(document.contains(&format!("The schema's version is **{SCHEMA}**")));
        assert_eq!(SCHEMA, 1);
        is_version(&found, VERSION_1);
    }

    #[test]
    fn what_cannot_be_looked_at_has_the_same_shape() {
        let stop = Report { code: 3, error: Some("no".into()), ..Report::empty(0) };
        let value = serde_json::to_value(&stop).unwrap();
        let names = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&value), names(&serde_json::to_value(full()).unwrap()));
        assert_eq!(
            (value["code"].as_u64(), value["error"].as_str(), stop.exit()),
            (Some(3), Some("no"), CliCode::Unknown)
        );
    }
}
