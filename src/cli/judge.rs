//! What the facts come to: an exit code, and what is wrong in words, worst first. Pure.

use serde::Serialize;

use super::by_hand;
use super::change::what_to_do;
use super::facts::{
    Ban, ClusterFacts, Failed, Firewall, GateFacts, Group, Keeper, Member, NO_NODE, NodeFacts, SentinelFacts, Server,
};
use super::probe::{Port, Who};
use super::span;
use crate::exit::CliCode;
use crate::local_fence::ITSELF;
use crate::pacemaker::how_to_manage;
use crate::role::Role;
use crate::settings::look_at_credentials;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nobody or more than one node takes writes, or a port is open that must not be.
    Critical,
    /// Too little was seen to tell.
    Unknown,
    /// Redundancy is lost, or something disagrees.
    Warning,
}

impl Severity {
    /// As it is printed.
    pub fn word(self) -> &'static str {
        match self {
            Severity::Critical => "CRITICAL",
            Severity::Unknown => "UNKNOWN",
            Severity::Warning => "warning",
        }
    }
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// How bad.
    pub severity: Severity,
    /// What, in one sentence.
    pub what: String,
    /// The command that ends it, where there is one.
    pub next: Option<String>,
    /// The check of `rolegate doctor` that it belongs to.
    #[serde(skip)]
    pub check: &'static str,
}

/// What the facts about one master name come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// The nodes that take writes on the read-write port.
    pub writers: Vec<String>,
    /// Worst first.
    pub problems: Vec<Problem>,
}

impl Judgement {
    /// The exit code: the worst problem's.
    pub fn code(&self) -> CliCode {
        code(&self.problems)
    }
}

/// The exit code of a list of problems. Critical before unknown: it was seen.
pub fn code(problems: &[Problem]) -> CliCode {
    match problems.iter().map(|problem| problem.severity).min() {
        Some(Severity::Critical) => CliCode::Critical,
        Some(Severity::Unknown) => CliCode::Unknown,
        Some(Severity::Warning) => CliCode::Warning,
        None => CliCode::Ok,
    }
}

/// The list while it grows.
#[derive(Default)]
struct Problems {
    list: Vec<Problem>,
    /// What is looked at just now.
    check: &'static str,
}

impl Problems {
    /// What follows belongs to this check of `rolegate doctor`.
    fn of(&mut self, check: &'static str) -> &mut Self {
        self.check = check;
        self
    }

    fn add(&mut self, severity: Severity, what: impl Into<String>, next: impl Into<String>) {
        let (what, next) = (what.into(), Some(next.into()));
        self.list.push(Problem { severity, what, next, check: self.check });
    }

    fn sorted(mut self) -> Vec<Problem> {
        self.list.sort_by_key(|problem| problem.severity);
        self.list
    }
}

/// What a sentence is about, so that nothing is said twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Topic {
    Fence,
    Member,
    Redis,
    Rules,
    Role,
    Gate,
}

/// What is wrong with the cluster itself, whatever the master name.
pub fn cluster(cluster: &ClusterFacts, has_cib: bool, gates: usize) -> Vec<Problem> {
    let mut problems = Problems::default();
    if let Some(error) = &cluster.error {
        let severity = if has_cib { Severity::Warning } else { Severity::Unknown };
        let what = if cluster.from_disk {
            format!("{error}; the record below is this node's last copy of it")
        } else {
            error.clone()
        };
        problems.of("pacemaker").add(severity, what, super::ASK_PACEMAKER);
    }
    if has_cib && gates == 0 {
        problems.of("gate").add(
            Severity::Critical,
            "the cluster has no gate (ocf:rolegate:gate): nothing opens, so nobody takes writes",
            super::CREATE,
        );
    }
    if cluster.cannot_fence && gates > 0 {
        problems.of("stonith").add(
            Severity::Critical,
            "STONITH is on, as it is by default, and there is no fencing device: Pacemaker starts no gate",
            "crm_attribute -n stonith-enabled -v false, or a device (pcs stonith create ...)",
        );
    }
    if cluster.quorum == Some(false) {
        let what = "this partition of the cluster has no quorum: it runs no gate and changes nothing";
        problems.of("quorum").add(Severity::Warning, what, "corosync-quorumtool -s shows who is missing");
    }
    if cluster.maintenance_mode {
        problems.of("maintenance").add(
            Severity::Warning,
            "the cluster is in maintenance mode: Pacemaker moves nothing",
            "crm_attribute -n maintenance-mode -v false",
        );
    }
    if let Some(what) = cluster.no_quorum_policy.as_deref().and_then(without_quorum).filter(|_| gates > 0) {
        problems.of("quorum-policy").add(Severity::Warning, what, "crm_attribute -n no-quorum-policy -v stop");
    }
    problems.sorted()
}

/// What is wrong with a `no-quorum-policy`. The lease holds with each of them; `suicide` and `fence` are stricter than `stop`.
pub fn without_quorum(policy: &str) -> Option<String> {
    let means = match policy {
        "stop" | "suicide" | "fence" => return None,
        "ignore" => {
            "a partition without quorum goes on, and what it writes into the cluster's configuration can win over the majority's"
        }
        "freeze" => "a partition without quorum promotes nobody, but its gates go on, and can be read",
        "demote" => "the gates of a partition without quorum can still be read, with old data",
        _ => "Pacemaker does not know it",
    };
    Some(format!("no-quorum-policy is {policy}: {means}; stop is what rolegate is made for"))
}

/// What is wrong with one gate.
pub fn group(cluster: &ClusterFacts, group: &Group) -> Judgement {
    let mut problems = Problems::default();
    let writers: Vec<&NodeFacts> =
        group.nodes.iter().filter(|node| node.rw.as_ref().is_some_and(Port::takes_writes)).collect();
    record(group, problems.of("gate"));
    let said = who_writes(group, &writers, cluster.seen_from.as_ref(), problems.of("writers"));
    let said = |node: &NodeFacts, topic| said.as_ref().is_some_and(|said| *said == (node.name.clone(), topic));
    change(group, problems.of("gate"));
    rules(group, problems.of("gate"));
    for sentinel in &group.sentinels {
        one_sentinel(group, sentinel, problems.of("sentinel-agreement"));
    }
    for node in &group.nodes {
        membership(node, said(node, Topic::Member), problems.of("members"));
        fence(node, said(node, Topic::Fence), problems.of("fences"));
        forced(node, problems.of("fences"));
        bans(node, problems.of("bans"));
        if !said(node, Topic::Role) {
            role(group, node, problems.of("roles"));
        }
        if !said(node, Topic::Redis) {
            redis(group, node, problems.of("redis"));
        }
        marks(group, node, problems.of("redis"));
        ports(cluster, group, node, problems.of("ports"));
        keeper(node, problems.of("keeper"));
    }
    denied(group, problems.of("access"));
    failures(group, problems.of("failures"));
    firewall(group, problems.of("firewall"));
    Judgement { writers: writers.into_iter().map(|node| node.name.clone()).collect(), problems: problems.sorted() }
}

/// What is said of each server is said there; here what to do about it.
fn denied(group: &Group, problems: &mut Problems) {
    let kinds = [(group.denied.sentinel, "a Sentinel", "sentinel"), (group.denied.redis, "a Redis", "redis")];
    for (_, who, section) in kinds.into_iter().filter(|(denied, ..)| *denied) {
        let what = format!("{who} denies access to who runs this");
        problems.add(Severity::Warning, what, look_at_credentials(section));
    }
}

/// The node at the place that a majority gives, where a majority was seen.
fn target(group: &Group) -> Option<&NodeFacts> {
    let name = group.verdict.as_ref().filter(|verdict| verdict.majority_seen())?.points_at_node.as_ref()?;
    group.nodes.iter().find(|node| node.name.eq_ignore_ascii_case(name))
}

/// "Sentinels name node2 since 14 s", as far as that is known.
fn sentinels_name(group: &Group, who: &str) -> String {
    let time = group.verdict.as_ref().and_then(|verdict| verdict.points_for_seconds);
    format!("Sentinels name {who}{}", time.map(|time| format!(" since {}", span(time))).unwrap_or_default())
}

fn record(group: &Group, problems: &mut Problems) {
    let Some(error) = &group.record_error else { return };
    let what = format!("gate {} opens nothing, so nobody takes writes: {error}", group.resource);
    problems.add(Severity::Critical, what, format!("rolegate init --master {}", group.master));
}

/// A change of the record that waits, and who was confirmed off.
fn change(group: &Group, problems: &mut Problems) {
    for (node, by) in group.nodes.iter().filter_map(|node| Some((node, node.confirmed_off.as_ref()?))) {
        let name = &node.name;
        let what = format!("{name} was confirmed off {by}: the record changes without it");
        problems.add(Severity::Warning, what, format!("that ends by itself when {name} is back in the cluster"));
    }
    let waits = &group.record_waits_for;
    if group.record_error.is_some() || waits.is_empty() {
        return;
    }
    let of = |name: &&String| group.nodes.iter().find(|node| node.name == **name);
    let words = waits.iter().map(|name| match of(&name).and_then(|node| node.record) {
        None => format!("{name} (its keeper has never said anything)"),
        Some("none") => format!("{name} (stands on none)"),
        Some("moving") => format!("{name} (is going on)"),
        Some("unclear") => format!("{name} (says what cannot be understood)"),
        Some(_) => format!("{name} (stands on another)"),
    });
    let what = format!("a change of the record waits for {}", words.collect::<Vec<_>>().join(", "));
    let is_away = |node: &&NodeFacts| node.member.is_some_and(|member| !member.online);
    let away: Vec<&str> =
        waits.iter().filter_map(|name| of(&name)).filter(is_away).map(|node| node.name.as_str()).collect();
    let next = match away.as_slice() {
        [] => format!("{}    (with --dry-run it only shows what is left of it)", go_on(&group.master)),
        away => what_to_do(away),
    };
    problems.add(Severity::Warning, what, next);
}

/// Who takes writes and who should. Gives the node and the topic with which it explained that
/// nobody does.
fn who_writes(
    group: &Group,
    writers: &[&NodeFacts],
    here: Option<&String>,
    problems: &mut Problems,
) -> Option<(String, Topic)> {
    let rw = group.rw_port;
    if writers.len() > 1 {
        let names: Vec<&str> = writers.iter().map(|node| node.name.as_str()).collect();
        let what = format!(
            "{} all take writes on {rw}: what is written to all but one of them will be lost",
            names.join(" and ")
        );
        let close: Vec<String> = writers.iter().map(|node| by_hand(&node.name)).collect();
        problems.add(Severity::Critical, what, format!("close all but one:\n{}", close.join("\n")));
    }
    let Some(verdict) = &group.verdict else {
        for node in writers {
            let what = format!("{} takes writes on {rw} without a record that allows it", node.name);
            problems.add(Severity::Critical, what, by_hand(&node.name));
        }
        return None;
    };
    let target = target(group);
    if !verdict.majority_seen() {
        let names =
            |nodes: &[&NodeFacts]| nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(" and ");
        let open: Vec<&NodeFacts> =
            group.nodes.iter().filter(|node| node.rw.as_ref().is_some_and(Port::is_open)).collect();
        let unseen = group.nodes.iter().any(|node| node.rw.as_ref().is_some_and(|port| *port != Port::Refused));
        let writer = match (writers, open.as_slice(), unseen) {
            ([], [], false) => format!("{rw} is refused everywhere"),
            ([], [], true) => format!("{rw} is open nowhere, as far as can be seen"),
            ([], open, _) => format!("{rw} is open on {}, and what is behind it does not answer", names(open)),
            (writers, _, _) => format!("{} still takes writes on {rw}", names(writers)),
        };
        let what = format!(
            "{} of {} Sentinels answer here and {} are needed{}: who is primary cannot be told; {writer}",
            verdict.answered,
            verdict.total,
            verdict.needed,
            match set_up_anew(group) {
                0 => String::new(),
                others => format!(" ({others} others answer in their places, set up anew)"),
            }
        );
        let start = start_sentinels(group);
        let next = match writers {
            [] => {
                format!("{start}\nif that cannot be soon, on the node that shall take writes: {}", break_glass(group))
            }
            _ => start,
        };
        problems.add(Severity::Unknown, what, next);
        return None;
    }
    let named = match (&verdict.points_at, target) {
        (_, Some(node)) => sentinels_name(group, &node.name),
        (Some(place), None) => sentinels_name(group, place),
        (None, None) => "no majority of Sentinels names anybody".to_owned(),
    };
    for node in &group.nodes {
        let open = node.rw.as_ref().is_some_and(Port::is_open);
        if open && target.is_none_or(|target| target.name != node.name) {
            let what = format!("{rw} is open on {}, though {named}", node.name);
            problems.add(Severity::Critical, what, by_hand(&node.name));
        }
    }
    match (&verdict.points_at, target) {
        (Some(place), None) => {
            let why =
                group.sentinels.iter().filter(|s| s.names.as_ref() == Some(place)).find_map(|s| s.names_nobody.clone());
            let why = why.unwrap_or_else(|| NO_NODE.to_owned());
            let next = real_address(group, &why);
            problems.add(Severity::Critical, format!("nobody can take writes: Sentinels name {place}, {why}"), next);
            None
        }
        (None, None) => {
            let what =
                format!("nobody can take writes: the {} Sentinels that answer name different places", verdict.answered);
            problems.add(Severity::Critical, what, agree(group));
            None
        }
        (_, Some(target)) if !target.rw.as_ref().is_some_and(Port::takes_writes) => {
            no_writer(group, target, writers, here, problems)
        }
        (_, Some(_)) => None,
    }
}

/// The named node does not take writes: why, and what ends it.
fn no_writer(
    group: &Group,
    target: &NodeFacts,
    writers: &[&NodeFacts],
    here: Option<&String>,
    problems: &mut Problems,
) -> Option<(String, Topic)> {
    let (rw, name) = (group.rw_port, &target.name);
    if let Some(Port::Open { who: Who::Unknown { why } }) = &target.rw {
        let what =
            format!("{rw} is open on {name}, which Sentinels name; whether it takes writes cannot be told: {why}");
        let next = if group.denied.redis { look_at_credentials("redis") } else { server_unit(name) };
        problems.add(Severity::Unknown, what, next);
        return None;
    }
    let who = if writers.is_empty() { nobody(group) } else { "the primary takes no writes" };
    let (topic, why, next) = why_closed(group, target, here);
    let what = format!("{who}: {}, and {why}", sentinels_name(group, name));
    problems.add(Severity::Critical, what, next);
    Some((name.clone(), topic))
}

/// That nobody takes writes, as far as it can be said: a silent host may serve others.
pub fn nobody(group: &Group) -> &'static str {
    let silent = |port: &Port| !matches!(port, Port::Refused | Port::Open { who: Who::Known { .. } });
    if group.nodes.iter().any(|node| node.rw.as_ref().is_some_and(silent)) {
        "nobody is seen to take writes"
    } else {
        "nobody takes writes"
    }
}

/// Why the read-write port of the named node takes no writes, as far as can be told, and the
/// command that ends it.
fn why_closed(group: &Group, node: &NodeFacts, here: Option<&String>) -> (Topic, String, String) {
    let name = &node.name;
    let init = || format!("rolegate init --master {}", group.master);
    if let Some(fence) = &node.fence {
        let next = format!("{}, or a failover: {}", unfence(name, fence), failover(group));
        return (Topic::Fence, format!("it is fenced: {fence}"), next);
    }
    if let Some(member) = node.member.filter(|member| member.word() != "online") {
        let again = online_again(name, member.word());
        let next = match member.word() {
            "standby" => format!("{again}, or a failover: {}", failover(group)),
            "maintenance" | "pending" => again,
            _ => format!("{again}; or a failover: {}", failover(group)),
        };
        return (Topic::Member, format!("it is {} in the cluster", member.word()), next);
    }
    let redis = match &node.redis {
        Some(Server::None { why }) => Some((format!("its Redis gives no answer: {why}"), server_unit(name))),
        Some(Server::Given(server)) if server.loading => {
            Some(("its Redis is loading its data".to_owned(), loading(group, name)))
        }
        Some(Server::Given(server)) if !server.primary => {
            let of = server.of.as_deref().unwrap_or("another");
            let next = format!("if it stays so, a failover: {}", failover(group));
            Some((format!("its Redis is a replica of {of}"), next))
        }
        _ => None,
    };
    if let Some((why, next)) = redis {
        return (Topic::Redis, why, next);
    }
    if !group.rules.by_role {
        return (Topic::Rules, "no location rule promotes the gate by its role".to_owned(), init());
    }
    if !node.says(Role::Primary) {
        let role = node.role.as_deref().map_or("not set".to_owned(), |role| format!("still {role}"));
        let next = match &node.hidden_role {
            Some(_) => format!("crm_attribute -l reboot -N {name} -n {} -D", group.attribute),
            None => init(),
        };
        return (Topic::Role, format!("its {} is {role}", group.attribute), next);
    }
    let reason = node.failures.last().map(|failed| failed.reason.as_str()).filter(|reason| !reason.is_empty());
    // The keeper's is newer; Pacemaker keeps a monitor's first one.
    let keeper = group.keeper.as_ref().filter(|keeper| here == Some(name) && !keeper.open && !keeper.why.is_empty());
    let because = keeper.map(|keeper| keeper.why.as_str()).or(reason).map(|why| format!(": {why}")).unwrap_or_default();
    match &node.gate {
        Some(gate) if gate.role != "Promoted" => {
            (Topic::Gate, format!("its gate is {}, not promoted{because}", gate.word()), start_gate(group, node))
        }
        _ => {
            let port = node.rw.as_ref().map_or("not asked", Port::word);
            (Topic::Gate, format!("its gate keeps {} closed ({port}){because}", group.rw_port), keepers_log(name))
        }
    }
}

/// How an operator makes another node primary.
pub fn failover(group: &Group) -> String {
    // One of the majority, if there is one: another would promote a replica of whom it names.
    let named = group.verdict.as_ref().and_then(|verdict| verdict.points_at.as_ref());
    let well = || group.sentinels.iter().filter(|sentinel| sentinel.error.is_none());
    let sentinel = well().find(|sentinel| sentinel.names.as_ref() == named).or_else(|| well().next());
    let cli = sentinel.map_or("redis-cli -p 26379".to_owned(), |sentinel| redis_cli(&sentinel.address));
    format!("{cli} SENTINEL FAILOVER {}", group.master)
}

/// What sets a setting of the Redis there, also on its disk.
pub fn set(address: &str, setting: &str, value: impl std::fmt::Display) -> String {
    let cli = redis_cli(address);
    format!("{cli} CONFIG SET {setting} {value}; {cli} CONFIG REWRITE")
}

/// redis-cli to who listens there.
pub fn redis_cli(address: &str) -> String {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "26379"));
    format!("redis-cli -h {} -p {port}", host.trim_matches(['[', ']']))
}

/// What goes on with a change of the record that waits, or has stopped half-way. Without `--replace` init refuses what is between two records.
pub fn go_on(master: &str) -> String {
    format!("rolegate init --master {master} --replace")
}

/// How many Sentinels at an address of the record are others than it has there.
fn set_up_anew(group: &Group) -> usize {
    group.sentinels.iter().filter(|sentinel| sentinel.other_id.is_some()).count()
}

/// What writes a record that no single step leads to. Who disables it enables it again, whatever init has to say.
pub fn all_anew(gate: &str, master: &str) -> String {
    disabled(gate, &go_on(master))
}

/// The same by this command of init.
pub fn disabled(gate: &str, init: &str) -> String {
    format!("pcs resource disable {gate} --wait=60 && {{ {init}; pcs resource enable {gate}; }}")
}

/// What starts the Sentinels that give no answer.
fn start_sentinels(group: &Group) -> String {
    let silent = group.sentinels.iter().filter(|sentinel| sentinel.error.is_some());
    let hosts: Vec<&str> = silent.map(|sentinel| host(&sentinel.address)).collect();
    match hosts.as_slice() {
        // More than one at a time is a step only where nobody stands on the record before.
        [] if set_up_anew(group) > 0 => all_anew(&group.resource, &group.master),
        [] => format!("rolegate doctor --only {SENTINELS} says what is wrong with each Sentinel"),
        hosts => format!("on {}: systemctl start redis-sentinel    (or valkey-sentinel)", hosts.join(" and ")),
    }
}

/// The check of `rolegate doctor` about what Sentinels say.
const SENTINELS: &str = "sentinel-agreement";

fn host(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']'])
}

/// What opens a node without a majority of Sentinels: the one whose Redis is a primary, if that is one.
fn break_glass(group: &Group) -> String {
    let primary = |node: &&NodeFacts| node.redis.as_ref().and_then(Server::given).is_some_and(|server| server.primary);
    let primaries: Vec<&NodeFacts> = group.nodes.iter().filter(primary).collect();
    let node = if let [one] = primaries.as_slice() { one.name.as_str() } else { "NODE" };
    format!("rolegate open {node} --force --for 10m")
}

/// What makes Sentinels that differ name the same.
fn agree(group: &Group) -> String {
    format!("if it goes on so, a failover makes them agree: {}", failover(group))
}

/// What makes Sentinels name an address that can be a node's, where what they name cannot: why.
fn real_address(group: &Group, why: &str) -> String {
    let master = &group.master;
    if why == NO_NODE {
        return go_on(master);
    }
    let cli = group.sentinels.first().map_or("redis-cli -p 26379".to_owned(), |sentinel| {
        format!("redis-cli -p {}", sentinel.address.rsplit_once(':').map_or("26379", |(_, port)| port))
    });
    let quorum = group.verdict.as_ref().map_or(2, |verdict| verdict.needed);
    format!(
        "at each Sentinel, with the primary's own ADDRESS and the settings that it has now (SENTINEL MASTER {master}):\n{cli} SENTINEL REMOVE \
         {master}; {cli} SENTINEL MONITOR {master} ADDRESS {} {quorum}",
        group.redis_port
    )
}

/// What has a member of the cluster that is `word` be online again.
pub fn online_again(name: &str, word: &str) -> String {
    match word {
        "standby" => format!("crm_standby -N {name} -D"),
        "maintenance" => format!("crm_attribute -N {name} -n maintenance -D"),
        _ => cluster_units(name),
    }
}

/// Where to look after Pacemaker on a node that is not in the cluster.
fn cluster_units(node: &str) -> String {
    format!("on {node}: systemctl status corosync pacemaker")
}

/// Where the keeper says why it does not open.
fn keepers_log(node: &str) -> String {
    format!("on {node}: journalctl -t rolegate-keeper -n 20")
}

/// Where to see how far a Redis is that loads.
fn loading(group: &Group, node: &str) -> String {
    format!("on {node}: redis-cli -p {} INFO persistence shows how far it is", group.redis_port)
}

/// What has Pacemaker start or promote the gate of a node, or say why it does not.
fn start_gate(group: &Group, node: &NodeFacts) -> String {
    let (name, resource) = (&node.name, &group.resource);
    let gate = node.gate.as_ref();
    if node.fail_count > 0 || gate.is_some_and(|gate| gate.failed || gate.blocked) {
        return format!("crm_resource {} -N {name}", group.cleanup);
    }
    match gate.is_some_and(|gate| gate.role == "Stopped" && !gate.by_blocks) {
        true => format!("crm_resource --why -r {resource} -N {name}"),
        false => format!("crm_simulate -sL | grep {resource} shows by which scores Pacemaker places it"),
    }
}

/// What makes the Redis of a node a replica of the named one, where Sentinel does not.
fn turn(group: &Group, node: &NodeFacts) -> String {
    let to = target(group).and_then(|target| target.address);
    let to = to.map_or("ADDRESS PORT".to_owned(), |address| format!("{} {}", address.ip(), address.port()));
    format!(
        "Sentinel turns it within some 10 s; if not, on {}: redis-cli -p {} REPLICAOF {to}",
        node.name, group.redis_port
    )
}

fn rules(group: &Group, problems: &mut Problems) {
    // init writes both.
    if group.record_error.is_some() {
        return;
    }
    let init = format!("rolegate init --master {}", group.master);
    if !group.rules.by_role {
        let what = format!("no location rule places gate {} by {}", group.resource, group.attribute);
        problems.add(Severity::Warning, what, init);
    } else if !group.rules.by_fence {
        let what = format!("no location rule keeps gate {} off fenced nodes: a fence would not hold", group.resource);
        problems.add(Severity::Warning, what, init);
    }
}

fn one_sentinel(group: &Group, sentinel: &SentinelFacts, problems: &mut Problems) {
    let at = format!("Sentinel {}", sentinel.address);
    let majority = group.verdict.as_ref().and_then(|verdict| verdict.points_at.as_ref());
    if let Some(error) = &sentinel.error {
        let next = format!("on {}: systemctl status redis-sentinel    (or valkey-sentinel)", host(&sentinel.address));
        problems.add(Severity::Warning, format!("{at}: {error}"), next);
    } else if let Some(id) = &sentinel.other_id {
        let what = format!(
            "{at} is another one than that of the record (run id {}, recorded {}): it does not count",
            short(id),
            short(&sentinel.id)
        );
        problems.add(Severity::Warning, what, go_on(&group.master));
    } else if sentinel.stranger {
        let what = format!("{at} does not know the master name {}", group.master);
        problems.add(Severity::Warning, what, monitor(group, sentinel));
    } else if let Some(place) = &sentinel.names {
        match (majority, &sentinel.names_nobody) {
            // Said already, as what the majority says.
            (Some(majority), _) if majority == place => doubts(group, sentinel, problems),
            (_, Some(why)) => {
                problems.add(Severity::Warning, format!("{at} names {place}, {why}"), real_address(group, why));
            }
            _ if group.verdict.as_ref().is_some_and(|verdict| verdict.majority_seen()) => {
                let who = sentinel.names_node.as_ref().unwrap_or(place);
                let time = sentinel.names_for_seconds.map(|time| format!(" since {}", span(time))).unwrap_or_default();
                problems.add(Severity::Warning, format!("{at} names {who}{time}, others do not"), agree(group));
            }
            // Too few answered to say that it stands alone.
            _ => {}
        }
    }
}

/// What makes a Sentinel watch the master name, as the others do.
fn monitor(group: &Group, sentinel: &SentinelFacts) -> String {
    let verdict = group.verdict.as_ref();
    let place = verdict.and_then(|verdict| verdict.points_at.as_ref()?.rsplit_once(':'));
    let place =
        place.map_or("ADDRESS PORT".to_owned(), |(host, port)| format!("{} {port}", host.trim_matches(['[', ']'])));
    let (cli, master) = (redis_cli(&sentinel.address), &group.master);
    let quorum = verdict.map_or(2, |verdict| verdict.needed);
    format!(
        "{cli} SENTINEL MONITOR {master} {place} {quorum}, and SENTINEL SET for what the others have set (SENTINEL MASTER {master})"
    )
}

fn doubts(group: &Group, sentinel: &SentinelFacts, problems: &mut Problems) {
    let at = format!("Sentinel {}", sentinel.address);
    let (cli, master) = (redis_cli(&sentinel.address), &group.master);
    if sentinel.finishing {
        let what =
            format!("{at} has not finished its failover (replicas are being turned): until then it begins no other");
        let next = format!("that ends by itself; {cli} SENTINEL REPLICAS {master} shows which replica it waits for");
        problems.add(Severity::Warning, what, next);
    }
    let doubts: Vec<&str> = sentinel.flags.iter().map(String::as_str).filter(|flag| *flag != "disconnected").collect();
    if !doubts.is_empty() {
        let time = sentinel.down_for_seconds.map(|time| format!(" since {}", span(time))).unwrap_or_default();
        let from = host(&sentinel.address);
        let next = match target(group).and_then(|target| target.address) {
            Some(to) => format!("on {from}: {} PING; and {cli} SENTINEL MASTER {master}", redis_cli(&to.to_string())),
            None => format!("{cli} SENTINEL MASTER {master}"),
        };
        problems.add(Severity::Warning, format!("{at} says {} of the primary{time}", doubts.join(", ")), next);
    }
    let now = target(group).and_then(|node| node.redis.as_ref()?.given());
    if let (Some(said), Some(now)) = (&sentinel.primary_run_id, now) {
        if *said != now.run_id {
            let what = format!(
                "{at} knows the primary as run id {}, its Redis now is {}: restarted",
                short(said),
                short(&now.run_id)
            );
            let next = format!("it asks Redis anew every 10 s; if it goes on so: {cli} SENTINEL MASTER {master}");
            problems.add(Severity::Warning, what, next);
        }
    }
}

fn short(id: &str) -> String {
    id.chars().take(8).collect()
}

fn membership(node: &NodeFacts, said: bool, problems: &mut Problems) {
    let name = &node.name;
    match node.member.map(Member::word) {
        None | Some("online") => {}
        Some(_) if said => {}
        Some(word) => {
            let what = match word {
                "standby" => format!("{name} is in standby: its ports stay closed"),
                word => format!("{name} is {word} in the cluster"),
            };
            problems.add(Severity::Warning, what, online_again(name, word));
        }
    }
}

/// What lifts a fence: where it was set.
pub fn unfence(name: &str, fence: &str) -> String {
    match fence.contains(ITSELF) {
        true => format!("on {name}: rolegate unfence --local"),
        false => format!("rolegate unfence {name}"),
    }
}

/// A port that stands on nobody's word but an operator's.
fn forced(node: &NodeFacts, problems: &mut Problems) {
    let Some(forced) = &node.forced else { return };
    let name = &node.name;
    problems.add(
        Severity::Critical,
        format!("{name}: {forced}; nothing vouches that no other node takes writes"),
        format!("on {name}: rolegate open --cancel {name}; it ends by itself when a majority of Sentinels is back"),
    );
}

fn fence(node: &NodeFacts, said: bool, problems: &mut Problems) {
    let name = &node.name;
    let Some(fence) = &node.fence else { return };
    if !said {
        problems.add(Severity::Warning, format!("{name} is fenced: {fence}"), unfence(name, fence));
    }
    for (which, port) in [("read-only", &node.ro), ("read-write", &node.rw)] {
        if port.as_ref().is_some_and(Port::is_open) {
            problems.add(
                Severity::Critical,
                format!("{name} is fenced, and its {which} port is open"),
                format!("rolegate fence {name}; if it stays open, {}", by_hand(name)),
            );
        }
    }
}

fn bans(node: &NodeFacts, problems: &mut Problems) {
    // One of the record shall be able to take over; what else there is may well be kept out.
    for Ban { constraint, until } in node.bans.iter().filter(|_| node.address.is_some()) {
        let until = until.as_ref().map(|time| format!(" until {time}")).unwrap_or_default();
        problems.add(
            Severity::Warning,
            format!(
                "location constraint {constraint} keeps the gate off {}, or from being promoted there{until}",
                node.name
            ),
            unban(constraint),
        );
    }
}

/// What takes away a location constraint, whoever made it: `crm_resource --clear` finds only those that have the names it gives itself.
pub fn unban(constraint: &str) -> String {
    format!(
        "pcs constraint delete {constraint}    or: cibadmin --delete --xml-text '<rsc_location id=\"{constraint}\"/>'"
    )
}

fn role(group: &Group, node: &NodeFacts, problems: &mut Problems) {
    let (name, attribute) = (&node.name, &group.attribute);
    if let (Some(role), Some(hidden)) = (&node.role, &node.hidden_role) {
        problems.add(
            Severity::Warning,
            format!("{name}: a transient {attribute}={role} hides the lasting {attribute}={hidden}"),
            format!("crm_attribute -l reboot -N {name} -n {attribute} -D"),
        );
    }
    if group.record_error.is_some() || node.address.is_none() {
        return;
    }
    let target = target(group).map(|target| target.name.as_str());
    let is_target = target == Some(name.as_str());
    let set = format!("rolegate init --master {}", group.master);
    match node.role.as_deref() {
        None => problems.add(Severity::Warning, format!("{name} has no {attribute}: its gate opens nothing"), set),
        Some("primary") if !is_target => {
            if let Some(target) = target {
                problems.add(
                    Severity::Warning,
                    format!("{name} still has {attribute}=primary, though {}", sentinels_name(group, target)),
                    set,
                );
            }
        }
        Some("replica") if is_target => {
            problems.add(
                Severity::Warning,
                format!("{name} still has {attribute}=replica, though {}", sentinels_name(group, "it")),
                set,
            );
        }
        Some("fail") if node.fence.is_none() => {
            let what = format!("{name} has {attribute}=fail: its ports stay closed");
            match &node.redis {
                // The keeper writes another role when Redis is what it should be.
                Some(Server::Given(server)) if server.primary && !is_target && target.is_some() => problems.add(
                    Severity::Warning,
                    format!("{what} until Sentinel has made its Redis a replica, some 10 s after a failover"),
                    turn(group, node),
                ),
                Some(Server::Given(server)) if !server.loading => problems.add(Severity::Warning, what, set),
                Some(Server::Given(_)) => problems.add(Severity::Warning, what, loading(group, name)),
                _ => problems.add(Severity::Warning, what, server_unit(name)),
            }
        }
        Some("primary" | "replica" | "fail") => {}
        Some(other) => {
            problems.add(Severity::Warning, format!("{name} has {attribute}={other:?}, which is no role"), set)
        }
    }
}

fn redis(group: &Group, node: &NodeFacts, problems: &mut Problems) {
    let name = &node.name;
    let target = target(group);
    let is_target = target.is_some_and(|target| target.name == *name);
    match &node.redis {
        None => {
            if group.record_error.is_none() && node.address.is_none() {
                let what = format!("{name} is not in the record: its gate opens nothing");
                problems.add(Severity::Warning, what, go_on(&group.master));
            }
        }
        Some(Server::None { .. }) if matches!(node.rw, Some(Port::Silent | Port::Unreachable { .. })) => {
            let what = format!("{name} is silent, its Redis and its ports: what it serves to others cannot be seen");
            let ping = node.address.map_or(String::new(), |address| format!("ping -c 3 {}; ", address.ip()));
            problems.add(Severity::Warning, what, format!("{ping}{}", server_unit(name)));
        }
        Some(Server::None { why }) => {
            problems.add(Severity::Warning, format!("Redis on {name}: {why}"), server_unit(name))
        }
        Some(Server::Given(server)) => {
            if server.loading {
                problems.add(Severity::Warning, format!("Redis on {name} is loading its data"), loading(group, name));
            }
            if let (true, false, Some(target)) = (server.primary, is_target, target) {
                let what =
                    format!("Redis on {name} still says primary, though {}", sentinels_name(group, &target.name));
                problems.add(Severity::Warning, what, turn(group, node));
            }
            let Some(of) = &server.of else { return };
            if !server.link_up {
                let since = server.link_down_seconds.map_or(String::new(), |time| format!(" for {}", span(time)));
                problems.add(
                    Severity::Warning,
                    format!("Redis on {name} has no link to its primary {of}{since}: its data grows old"),
                    link(group, name),
                );
            }
            let wrong =
                target.filter(|_| !is_target).and_then(|target| target.address).map(|address| address.to_string());
            if let Some(right) = wrong.filter(|right| right != of) {
                let what = format!("Redis on {name} replicates from {of}, the primary is {right}");
                problems.add(Severity::Warning, what, turn(group, node));
            }
        }
    }
}

/// Where to see why a Redis has no link to its primary.
pub fn link(group: &Group, node: &str) -> String {
    format!(
        "on {node}: redis-cli -p {} INFO replication; journalctl -u redis-server -n 20    (or valkey-server)",
        group.redis_port
    )
}

/// What a switchover has set, and nobody has put back yet.
fn marks(group: &Group, node: &NodeFacts, problems: &mut Problems) {
    let (name, port) = (&node.name, group.redis_port);
    for mark in &node.marks {
        let (setting, before) = (mark.setting, mark.before);
        let what = format!("a switchover has set {setting} of Redis on {name} to {}; it was {before}", mark.value);
        let whose = match node.keeper {
            Some(Keeper::Lease | Keeper::Closed) => {
                "if none is under way, the keeper there puts it back within 5 s; else"
            }
            _ => "no keeper was seen there that would put it back:",
        };
        let by_hand = format!("redis-cli -p {port} CONFIG SET {setting} {before}; redis-cli -p {port} CONFIG REWRITE");
        problems.add(Severity::Warning, what, format!("{whose} on {name}: {by_hand}"));
    }
}

/// Where to look after a Redis that does not answer.
pub fn server_unit(node: &str) -> String {
    format!("on {node}: systemctl status redis-server    (or valkey-server)")
}

fn ports(cluster: &ClusterFacts, group: &Group, node: &NodeFacts, problems: &mut Problems) {
    let name = &node.name;
    let Some(server) = node.redis.as_ref().and_then(Server::given) else { return };
    for (number, port, severity) in
        [(group.ro_port, &node.ro, Severity::Warning), (group.rw_port, &node.rw, Severity::Critical)]
    {
        if let Some(run_id) = port.as_ref().and_then(Port::run_id).filter(|run_id| *run_id != server.run_id) {
            let what = format!(
                "{number} of {name} leads to another Redis (run id {}) than that of {name} ({})",
                short(run_id),
                short(&server.run_id)
            );
            let (rw, redis) = (group.rw_port, group.redis_port);
            let look = format!("on {name}: ss -ltnp | grep -E ':({number}|{redis})' and rolegate-port state");
            let next = if number == rw { format!("{}\nthen {look}", by_hand(name)) } else { look };
            problems.add(severity, what, next);
        }
    }
    let Some(ro) = &node.ro else { return };
    let shut = node.fence.is_some() || node.says(Role::Fail);
    if ro.is_open() && node.fence.is_none() && node.says(Role::Fail) {
        let what = format!("{} is open on {name}, whose {} is fail", group.ro_port, group.attribute);
        problems.add(Severity::Warning, what, format!("if it stays open, {}", by_hand(name)));
    }
    // Without quorum no gate runs, which is said once.
    let quiet = cluster.maintenance_mode || cluster.quorum == Some(false);
    let expected = group.record_error.is_none() && !shut && node.usable() == Some(true) && node.role.is_some();
    if expected && !quiet && !ro.is_open() {
        let gate = node.gate.as_ref().map_or("unknown", GateFacts::word);
        let reason = node.failures.last().map(|failed| failed.reason.as_str()).filter(|reason| !reason.is_empty());
        let because = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        let what =
            format!("{} is {} on {name}, which could be read; its gate is {gate}{because}", group.ro_port, ro.word());
        let runs = node.gate.as_ref().is_some_and(|gate| gate.role != "Stopped" || gate.by_blocks);
        let next = if runs { format!("on {name}: {AGENTS_LOG}") } else { start_gate(group, node) };
        problems.add(Severity::Warning, what, next);
    }
}

/// Where the gate says why it does not open the read-only port.
const AGENTS_LOG: &str = "journalctl -t rolegate-agent -t rolegate-keeper -n 20";

fn keeper(node: &NodeFacts, problems: &mut Problems) {
    let runs = node.member.is_some_and(|member| member.online && !member.unclean);
    if runs && node.keeper == Some(Keeper::Missing) {
        let what = format!("{}: the Sentinels see no keeper of this node: it can take no writes", node.name);
        problems.add(Severity::Warning, what, format!("on {}: systemctl start rolegate-keeper", node.name));
    }
}

fn failures(group: &Group, problems: &mut Problems) {
    let resource = &group.resource;
    let cleanup = |node: &NodeFacts| format!("crm_resource {} -N {}", group.cleanup, node.name);
    for node in &group.nodes {
        let Some(gate) = &node.gate else { continue };
        if gate.blocked {
            let what = format!("Pacemaker has given up on gate {resource} on {} (blocked)", node.name);
            problems.add(Severity::Warning, what, cleanup(node));
        }
        if gate.unmanaged {
            let what = format!("gate {resource} is unmanaged on {}: Pacemaker leaves it as it is", node.name);
            let (what, next) = match group.left_unmanaged {
                true => (format!("{what}, since a run of rolegate init was killed"), go_on(&group.master)),
                false => (what, how_to_manage(resource)),
            };
            problems.add(Severity::Warning, what, next);
        }
    }
    // The same on several nodes is one line.
    let mut seen: Vec<(&Failed, Vec<&NodeFacts>)> = Vec::new();
    for node in &group.nodes {
        // The last complaint stays in crm_mon when its reason is gone.
        let promoted = node.gate.as_ref().is_some_and(|gate| gate.role == "Promoted");
        let port = if promoted { &node.rw } else { &node.ro };
        let stopped = node.gate.as_ref().is_some_and(|gate| gate.role == "Stopped");
        let well = stopped || port.as_ref().is_some_and(Port::is_open);
        for failed in node.failures.iter().filter(|failed| !(failed.degraded && well)) {
            match seen.iter_mut().find(|(other, _)| *other == failed) {
                Some((_, nodes)) => nodes.push(node),
                None => seen.push((failed, vec![node])),
            }
        }
        if node.fail_count > 0 && node.failures.is_empty() {
            let count = if node.fail_count == u64::MAX { "INFINITY".to_owned() } else { node.fail_count.to_string() };
            let what = format!("gate on {}: fail count {count}", node.name);
            problems.add(Severity::Warning, what, cleanup(node));
        }
    }
    for (failed, nodes) in seen {
        // Said already, with what ends it.
        if group.record_error.as_ref().is_some_and(|error| failed.reason.starts_with(error.as_str())) {
            continue;
        }
        let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        let reason = if failed.reason.is_empty() { "no reason given" } else { &failed.reason };
        // Nothing failed that could be cleaned up.
        if failed.degraded {
            let next = format!("on {}: {AGENTS_LOG}", names.join(" and "));
            problems.add(Severity::Warning, format!("gate on {}: {reason}", names.join(", ")), next);
            continue;
        }
        let what = format!("gate on {}: {} failed: {reason}", names.join(", "), failed.operation);
        let next = match nodes.as_slice() {
            [node] => cleanup(node),
            _ => format!("crm_resource {}", group.cleanup),
        };
        problems.add(Severity::Warning, what, next);
    }
}

fn firewall(group: &Group, problems: &mut Problems) {
    if let Some(Firewall::Seen { listeners, .. }) = &group.firewall {
        for listener in listeners {
            problems.add(Severity::Warning, listener, "let it use another port: ss -ltnp shows it");
        }
    }
    match &group.firewall {
        Some(Firewall::Seen { baseline: Some(what), .. }) => problems.add(
            Severity::Warning,
            format!("this node's firewall: rolegate's own rules are {what}; the keeper puts them right"),
            "systemctl status rolegate-keeper",
        ),
        Some(Firewall::Unseen { why }) => {
            let what = format!("this node's firewall cannot be seen: {why}");
            problems.add(Severity::Warning, what, "as root: rolegate-port state");
        }
        _ => {}
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::facts::{Behind, Denied, MarkFacts, ReplicaFacts, Rules, ServerFacts, VerdictFacts};
    use super::*;

    pub(in super::super) fn healthy_cluster() -> ClusterFacts {
        ClusterFacts {
            seen_from: Some("node1".into()),
            quorum: Some(true),
            stonith: Some(false),
            ..ClusterFacts::default()
        }
    }

    fn open(n: usize, primary: bool) -> Option<Port> {
        Some(Port::Open { who: Who::Known { run_id: format!("run{n}"), primary, loading: false } })
    }

    fn replica(n: usize, acknowledged_seconds: u64) -> ReplicaFacts {
        ReplicaFacts { address: format!("10.0.0.{n}:6379"), acknowledged_seconds }
    }

    fn node(n: usize) -> NodeFacts {
        let primary = n == 1;
        NodeFacts {
            name: format!("node{n}"),
            address: Some(format!("10.0.0.{n}:6379").parse().unwrap()),
            member: Some(Member { online: true, ..Member::default() }),
            role: Some(if primary { "primary" } else { "replica" }.into()),
            gate: Some(GateFacts {
                role: if primary { "Promoted" } else { "Unpromoted" }.into(),
                ..GateFacts::default()
            }),
            redis: Some(Server::Given(ServerFacts {
                run_id: format!("run{n}"),
                version: "7.0.15".into(),
                primary,
                of: (!primary).then(|| "10.0.0.1:6379".into()),
                link_up: true,
                offset: 1000 - n as u64,
                replicas: if primary { vec![replica(2, 0), replica(3, 1)] } else { vec![] },
                ..ServerFacts::default()
            })),
            ro: open(n, primary),
            rw: if primary { open(n, true) } else { Some(Port::Refused) },
            keeper: Some(if primary { Keeper::Lease } else { Keeper::Closed }),
            lease_at_most_ms: primary.then_some(2000),
            behind: (!primary).then(|| Behind { bytes: n as u64 - 1, seconds: Some(n as u64 - 2) }),
            ..NodeFacts::default()
        }
    }

    fn sentinel(n: usize) -> SentinelFacts {
        SentinelFacts {
            address: format!("10.0.0.{n}:26379"),
            id: format!("{n:040x}"),
            names: Some("10.0.0.1:6379".into()),
            names_node: Some("node1".into()),
            epoch: Some(4),
            names_for_seconds: Some(7500),
            primary_run_id: Some("run1".into()),
            ..SentinelFacts::default()
        }
    }

    /// node1 is primary, all is well.
    pub(in super::super) fn healthy() -> Group {
        Group {
            master: "mymaster".into(),
            resource: "RedisGate".into(),
            cleanup: "--cleanup -r RedisGate".into(),
            attribute: "redis_role".into(),
            ro_port: 6380,
            rw_port: 6381,
            redis_port: 6379,
            lease_ms: 2000,
            record_error: None,
            record_waits_for: vec![],
            rules: Rules { by_role: true, by_fence: true },
            nodes: (1..=3).map(node).collect(),
            sentinels: (1..=3).map(sentinel).collect(),
            verdict: Some(VerdictFacts {
                named: Some("node1".into()),
                points_at: Some("10.0.0.1:6379".into()),
                points_at_node: Some("node1".into()),
                points_for_seconds: Some(7500),
                answered: 3,
                needed: 2,
                total: 3,
                notes: vec![],
            }),
            firewall: None,
            denied: Denied::default(),
            keeper: None,
            last_failover: None,
            left_unmanaged: false,
        }
    }

    fn silence(group: &mut Group, n: usize) {
        let sentinel = &mut group.sentinels[n - 1];
        *sentinel = SentinelFacts {
            address: sentinel.address.clone(),
            id: sentinel.id.clone(),
            error: Some("no answer".into()),
            ..SentinelFacts::default()
        };
        let verdict = group.verdict.as_mut().unwrap();
        verdict.answered -= 1;
        if verdict.answered < verdict.needed {
            (verdict.named, verdict.points_at, verdict.points_at_node) = (None, None, None);
        }
    }

    fn dead(group: &mut Group, n: usize) {
        silence(group, n);
        let node = &mut group.nodes[n - 1];
        node.member = Some(Member::default());
        node.gate = Some(GateFacts { role: "Stopped".into(), ..GateFacts::default() });
        node.redis = Some(Server::None { why: "no answer".into() });
        (node.ro, node.rw) = (Some(Port::Silent), Some(Port::Silent));
    }

    fn server(group: &mut Group, n: usize) -> &mut ServerFacts {
        match group.nodes[n - 1].redis.as_mut().unwrap() {
            Server::Given(server) => server,
            Server::None { .. } => panic!("no server"),
        }
    }

    fn all_name(group: &mut Group, place: &str, why: &str) {
        for sentinel in &mut group.sentinels {
            (sentinel.names, sentinel.names_node, sentinel.names_nobody) = (Some(place.into()), None, Some(why.into()));
        }
        let verdict = group.verdict.as_mut().unwrap();
        (verdict.named, verdict.points_at, verdict.points_at_node) = (None, Some(place.into()), None);
        group.nodes[0].rw = Some(Port::Refused);
    }

    /// A name, what is done to a healthy group, the exit code, and what must be said.
    type Case = (&'static str, fn(&mut Group), CliCode, &'static [&'static str]);

    const TABLE: &[Case] = &[
        ("healthy", |_| {}, CliCode::Ok, &[]),
        (
            "one Sentinel is silent",
            |g| silence(g, 3),
            CliCode::Warning,
            &["Sentinel 10.0.0.3:26379: no answer | on 10.0.0.3: systemctl status redis-sentinel"],
        ),
        (
            "two Sentinels are silent",
            |g| {
                silence(g, 3);
                silence(g, 2);
            },
            CliCode::Unknown,
            &[
                "1 of 3 Sentinels answer here and 2 are needed",
                "node1 still takes writes on 6381 | on 10.0.0.2 and 10.0.0.3: systemctl start redis-sentinel",
            ],
        ),
        (
            "two Sentinels are silent, and the lease is over",
            |g| {
                silence(g, 3);
                silence(g, 2);
                g.nodes[0].rw = Some(Port::Refused);
            },
            CliCode::Unknown,
            &[
                "6381 is refused everywhere",
                "on 10.0.0.2 and 10.0.0.3: systemctl start redis-sentinel",
                "if that cannot be soon, on the node that shall take writes: rolegate open node1 --force --for 10m",
            ],
        ),
        (
            "one host is dead",
            |g| dead(g, 3),
            CliCode::Warning,
            &[
                "node3 is offline in the cluster | on node3: systemctl status corosync pacemaker",
                "node3 is silent, its Redis and its ports",
            ],
        ),
        (
            "a node without its keeper",
            |g| g.nodes[2].keeper = Some(Keeper::Missing),
            CliCode::Warning,
            &["node3: the Sentinels see no keeper", "systemctl start rolegate-keeper"],
        ),
        (
            "a switchover has left its marks",
            |g| {
                g.nodes[0].marks =
                    vec![MarkFacts { setting: "min-replicas-to-write", value: 1_239_410_001, before: 1 }];
                g.nodes[2].marks = vec![MarkFacts { setting: "replica-priority", value: 1_238_710_100, before: 100 }];
                g.nodes[2].keeper = Some(Keeper::Missing);
            },
            CliCode::Warning,
            &[
                "a switchover has set min-replicas-to-write of Redis on node1 to 1239410001; it was 1 | if none is under way, the keeper there puts it back within 5 s; else on node1: redis-cli -p 6379 CONFIG SET min-replicas-to-write 1; redis-cli -p 6379 CONFIG REWRITE",
                "a switchover has set replica-priority of Redis on node3 to 1238710100; it was 100 | no keeper was seen there that would put it back: on node3: redis-cli -p 6379 CONFIG SET replica-priority 100",
            ],
        ),
        (
            "two hosts are dead",
            |g| {
                dead(g, 2);
                dead(g, 3);
            },
            CliCode::Unknown,
            &["1 of 3 Sentinels"],
        ),
        (
            "the primary's host is lost and nobody has noticed",
            |g| {
                let node = &mut g.nodes[0];
                node.redis = Some(Server::None { why: "no answer".into() });
                (node.ro, node.rw) = (Some(Port::Silent), Some(Port::Silent));
            },
            CliCode::Critical,
            &["nobody is seen to take writes: Sentinels name node1 since 2 h 5 min, and its Redis gives no answer"],
        ),
        (
            "a replica's link is down",
            |g| {
                server(g, 2).link_up = false;
                server(g, 2).link_down_seconds = Some(7);
            },
            CliCode::Warning,
            &[
                "Redis on node2 has no link to its primary 10.0.0.1:6379 for 7 s",
                "on node2: redis-cli -p 6379 INFO replication",
            ],
        ),
        (
            "a replica follows another",
            |g| server(g, 2).of = Some("10.0.0.3:6379".into()),
            CliCode::Warning,
            &["Redis on node2 replicates from 10.0.0.3:6379, the primary is 10.0.0.1:6379"],
        ),
        (
            "an old primary that restarted",
            |g| {
                server(g, 2).primary = true;
                server(g, 2).of = None;
            },
            CliCode::Warning,
            &[
                "Redis on node2 still says primary, though Sentinels name node1 since 2 h 5 min",
                "on node2: redis-cli -p 6379 REPLICAOF 10.0.0.1 6379",
            ],
        ),
        (
            "two gates are open",
            |g| g.nodes[1].rw = open(2, true),
            CliCode::Critical,
            &[
                "node1 and node2 all take writes",
                "close all but one:\non node1: rolegate fence --local",
                "6381 is open on node2, though Sentinels name node1 since 2 h 5 min",
            ],
        ),
        (
            "two gates are open and nothing else can be told",
            |g| {
                silence(g, 2);
                silence(g, 3);
                g.nodes[1].rw = open(2, true);
            },
            CliCode::Critical,
            &["node1 and node2 all take writes"],
        ),
        (
            "a gate that is not named is open before a replica",
            |g| g.nodes[1].rw = open(2, false),
            CliCode::Critical,
            &["6381 is open on node2, though Sentinels name node1 since 2 h 5 min"],
        ),
        (
            "the primary's gate failed to promote",
            |g| {
                let node = &mut g.nodes[0];
                node.rw = Some(Port::Refused);
                node.gate = Some(GateFacts { role: "Unpromoted".into(), failed: true, ..GateFacts::default() });
                node.fail_count = 1;
                node.failures = vec![Failed {
                    operation: "promote_0".into(),
                    reason: "not promoted in time".into(),
                    degraded: false,
                }];
            },
            CliCode::Critical,
            &[
                "nobody takes writes: Sentinels name node1 since 2 h 5 min, and its gate is Unpromoted, not promoted: not promoted in time",
                "crm_resource --cleanup -r RedisGate -N node1",
            ],
        ),
        (
            "the hook has not run",
            |g| {
                g.nodes[0].rw = Some(Port::Refused);
                g.nodes[0].role = Some("replica".into());
                g.nodes[1].role = Some("primary".into());
            },
            CliCode::Critical,
            &[
                "nobody takes writes: Sentinels name node1 since 2 h 5 min, and its redis_role is still replica",
                "rolegate init --master mymaster",
                "node2 still has redis_role=primary, though Sentinels name node1 since 2 h 5 min",
            ],
        ),
        (
            "the primary is fenced",
            |g| {
                let node = &mut g.nodes[0];
                (node.ro, node.rw, node.role) = (Some(Port::Refused), Some(Port::Refused), Some("fail".into()));
                node.fence = Some("ports closed by operator root@node1".into());
            },
            CliCode::Critical,
            &[
                "nobody takes writes: Sentinels name node1 since 2 h 5 min, and it is fenced",
                "SENTINEL FAILOVER mymaster",
                "rolegate unfence node1",
            ],
        ),
        (
            "the leader has not finished its failover",
            |g| {
                g.sentinels[0].finishing = true;
                g.sentinels[0].primary_run_id = None;
            },
            CliCode::Warning,
            &["Sentinel 10.0.0.1:26379 has not finished its failover"],
        ),
        (
            "a replica is fenced",
            |g| {
                let node = &mut g.nodes[1];
                (node.ro, node.role, node.fence) = (Some(Port::Refused), Some("fail".into()), Some("by root".into()));
            },
            CliCode::Warning,
            &["node2 is fenced: by root"],
        ),
        (
            "a replica is fenced by itself",
            |g| g.nodes[1].fence = Some("ports closed by operator root@node2 (on the node itself) 2026".into()),
            CliCode::Critical,
            &["on node2: rolegate unfence --local"],
        ),
        (
            "the glass is broken",
            |g| {
                silence(g, 2);
                silence(g, 3);
                g.nodes[0].forced = Some("6381 forced open by operator root@node1 until 17:10".into());
            },
            CliCode::Critical,
            &["node1: 6381 forced open by operator root@node1 until 17:10", "rolegate open --cancel node1"],
        ),
        (
            "a fence that does not hold",
            |g| g.nodes[1].fence = Some("by root".into()),
            CliCode::Critical,
            &["node2 is fenced, and its read-only port is open"],
        ),
        (
            "a replica's gate is stopped",
            |g| {
                g.nodes[1].ro = Some(Port::Refused);
                g.nodes[1].gate = Some(GateFacts { role: "Stopped".into(), ..GateFacts::default() });
            },
            CliCode::Warning,
            &[
                "6380 is refused on node2, which could be read; its gate is Stopped",
                "crm_resource --why -r RedisGate -N node2",
            ],
        ),
        (
            "Sentinels monitor loopback",
            |g| all_name(g, "127.0.0.1:6379", "a loopback address"),
            CliCode::Critical,
            &[
                "nobody can take writes: Sentinels name 127.0.0.1:6379, a loopback address",
                "redis-cli -p 26379 SENTINEL MONITOR mymaster ADDRESS 6379 2",
            ],
        ),
        (
            "Sentinels name a node that the record does not have",
            |g| all_name(g, "10.0.0.9:6379", NO_NODE),
            CliCode::Critical,
            &["Sentinels name 10.0.0.9:6379, no node of the record", "rolegate init --master mymaster --replace"],
        ),
        (
            "Sentinels monitor the VIP and a gate is open",
            |g| {
                all_name(g, "10.0.0.100:6379", "an address that moves with the cluster resource vip");
                g.nodes[0].rw = open(1, true);
            },
            CliCode::Critical,
            &[
                "moves with the cluster resource vip",
                "6381 is open on node1, though Sentinels name 10.0.0.100:6379 since 2 h 5 min",
            ],
        ),
        (
            "Sentinels all differ",
            |g| {
                let verdict = g.verdict.as_mut().unwrap();
                (verdict.named, verdict.points_at, verdict.points_at_node) = (None, None, None);
                g.nodes[0].rw = Some(Port::Refused);
            },
            CliCode::Critical,
            &[
                "the 3 Sentinels that answer name different places",
                "a failover makes them agree: redis-cli -h 10.0.0.1 -p 26379 SENTINEL FAILOVER mymaster",
            ],
        ),
        (
            "one Sentinel lags behind",
            |g| {
                g.sentinels[2].names = Some("10.0.0.2:6379".into());
                g.sentinels[2].names_node = Some("node2".into());
            },
            CliCode::Warning,
            &["Sentinel 10.0.0.3:26379 names node2 since 2 h 5 min, others do not"],
        ),
        (
            "a Sentinel was made anew",
            |g| g.sentinels[2].other_id = Some("f".repeat(40)),
            CliCode::Warning,
            &["is another one than that of the record (run id ffffffff"],
        ),
        (
            "all Sentinels were made anew",
            |g| {
                for sentinel in &mut g.sentinels {
                    sentinel.other_id = Some("f".repeat(40));
                }
                (g.verdict.as_mut().unwrap().answered, g.nodes[0].rw) = (0, Some(Port::Refused));
            },
            CliCode::Unknown,
            &[
                "0 of 3 Sentinels answer here and 2 are needed (3 others answer in their places, set up anew): who is primary",
                "| pcs resource disable RedisGate --wait=60 && { rolegate init --master mymaster --replace; pcs resource enable RedisGate; }",
            ],
        ),
        (
            "no record",
            |g| {
                g.record_error = Some("no record of Sentinels and nodes: run `rolegate init`".into());
                g.verdict = None;
                g.sentinels.truncate(1);
                for node in &mut g.nodes {
                    (node.address, node.redis, node.ro, node.rw) = (None, None, None, None);
                }
            },
            CliCode::Critical,
            &["no record", "rolegate init --master mymaster"],
        ),
        (
            "the primary restarted and nobody noticed",
            |g| {
                server(g, 1).run_id = "new".into();
                g.nodes[0].ro = Some(Port::Refused);
                g.nodes[0].rw = Some(Port::Refused);
            },
            CliCode::Critical,
            &["Sentinel 10.0.0.1:26379 knows the primary as run id run1, its Redis now is new"],
        ),
        (
            "the primary's port leads elsewhere",
            |g| g.nodes[0].rw = open(7, true),
            CliCode::Critical,
            &[
                "6381 of node1 leads to another Redis (run id run7)",
                "on node1: rolegate fence --local\nthen on node1: ss",
            ],
        ),
        (
            "the named node has left the cluster",
            |g| {
                g.nodes[0].member = Some(Member::default());
                g.nodes[0].rw = Some(Port::Refused);
            },
            CliCode::Critical,
            &[
                "and it is offline in the cluster | on node1: systemctl status corosync pacemaker",
                "or a failover: redis-cli -h 10.0.0.1 -p 26379 SENTINEL FAILOVER mymaster",
            ],
        ),
        (
            "the named node is unclean",
            |g| {
                g.nodes[0].member = Some(Member { unclean: true, ..Member::default() });
                g.nodes[0].rw = Some(Port::Silent);
            },
            CliCode::Critical,
            &["and it is unclean in the cluster | on node1: systemctl status corosync pacemaker"],
        ),
        (
            "a node is about to join",
            |g| g.nodes[1].member.as_mut().unwrap().pending = true,
            CliCode::Warning,
            &["node2 is pending in the cluster | on node2: systemctl status corosync pacemaker"],
        ),
        (
            "the gate is promoted and keeps closed",
            |g| {
                g.nodes[0].rw = Some(Port::Refused);
                let reason = "no majority".to_owned();
                g.nodes[0].failures = vec![Failed { operation: "monitor_5000".into(), reason, degraded: true }];
            },
            CliCode::Critical,
            &["its gate keeps 6381 closed (refused): no majority | on node1: journalctl -t rolegate-keeper"],
        ),
        (
            "the gate is not promoted and nothing failed",
            |g| {
                g.nodes[0].rw = Some(Port::Refused);
                g.nodes[0].gate.as_mut().unwrap().role = "Unpromoted".into();
            },
            CliCode::Critical,
            &["its gate is Unpromoted, not promoted | crm_simulate -sL | grep RedisGate"],
        ),
        (
            "the named Redis is a replica",
            |g| {
                g.nodes[0].rw = open(1, false);
                let server = server(g, 1);
                (server.primary, server.of) = (false, Some("10.0.0.2:6379".into()));
            },
            CliCode::Critical,
            &["its Redis is a replica of 10.0.0.2:6379 | if it stays so, a failover: redis-cli"],
        ),
        (
            "the named Redis is loading",
            |g| {
                g.nodes[0].rw = Some(Port::Refused);
                server(g, 1).loading = true;
            },
            CliCode::Critical,
            &["its Redis is loading its data | on node1: redis-cli -p 6379 INFO persistence"],
        ),
        (
            "a Sentinel does not know the master name",
            |g| {
                let sentinel = &mut g.sentinels[2];
                (sentinel.stranger, sentinel.names, sentinel.names_node) = (true, None, None);
            },
            CliCode::Warning,
            &[
                "does not know the master name mymaster | redis-cli -h 10.0.0.3 -p 26379 SENTINEL MONITOR mymaster 10.0.0.1 6379 2",
            ],
        ),
        (
            "one Sentinel names a loopback address",
            |g| {
                let sentinel = &mut g.sentinels[2];
                (sentinel.names, sentinel.names_node) = (Some("127.0.0.1:6379".into()), None);
                sentinel.names_nobody = Some("a loopback address".into());
            },
            CliCode::Warning,
            &["names 127.0.0.1:6379, a loopback address", "SENTINEL REMOVE mymaster"],
        ),
        (
            "a Sentinel does not reach the primary",
            |g| g.sentinels[1].flags = vec!["s_down".into()],
            CliCode::Warning,
            &["says s_down of the primary | on 10.0.0.2: redis-cli -h 10.0.0.1 -p 6379 PING"],
        ),
        (
            "a node has no role, another one that is none",
            |g| (g.nodes[1].role, g.nodes[2].role) = (None, Some("boss".into())),
            CliCode::Warning,
            &["node2 has no redis_role", "redis_role=\"boss\", which is no role | rolegate init"],
        ),
        (
            "roles fail, and why",
            |g| {
                g.nodes[1].role = Some("fail".into());
                g.nodes[1].redis = Some(Server::None { why: "connection refused".into() });
                g.nodes[2].role = Some("fail".into());
                server(g, 3).loading = true;
                g.nodes[1].ro = Some(Port::Refused);
            },
            CliCode::Warning,
            &[
                "node2 has redis_role=fail: its ports stay closed | on node2: systemctl status redis-server",
                "6380 is open on node3, whose redis_role is fail | if it stays open, on node3: rolegate fence --local",
                "Redis on node3 is loading its data | on node3: redis-cli -p 6379 INFO persistence",
            ],
        ),
        (
            "a read-only port that leads elsewhere, and one that is closed though the gate runs",
            |g| {
                g.nodes[1].ro = open(7, false);
                g.nodes[2].ro = Some(Port::Refused);
            },
            CliCode::Warning,
            &[
                "6380 of node2 leads to another Redis",
                "its gate is Unpromoted | on node3: journalctl -t rolegate-agent",
            ],
        ),
        (
            "a complaint of the gate, a node outside the record, and a gate that nobody manages",
            |g| {
                let reason = "no majority".to_owned();
                g.nodes[0].failures = vec![Failed { operation: "monitor_5000".into(), reason, degraded: true }];
                g.nodes[0].gate.as_mut().unwrap().unmanaged = true;
                g.nodes[0].rw = Some(Port::Refused);
                let node = &mut g.nodes[2];
                (node.address, node.redis, node.ro, node.rw) = (None, None, None, None);
            },
            CliCode::Critical,
            &[
                "gate on node1: no majority | on node1: journalctl",
                "node3 is not in the record: its gate opens nothing | rolegate init --master mymaster --replace",
                "is unmanaged on node1: Pacemaker leaves it as it is | crm_resource -r RedisGate --meta -d is-managed",
            ],
        ),
        (
            "a run of init was killed",
            |g| {
                g.nodes[1].gate.as_mut().unwrap().unmanaged = true;
                g.left_unmanaged = true;
            },
            CliCode::Warning,
            &["since a run of rolegate init was killed | rolegate init --master mymaster --replace"],
        ),
        (
            "the firewall cannot be seen",
            |g| g.firewall = Some(Firewall::Unseen { why: "not root".into() }),
            CliCode::Warning,
            &["this node's firewall cannot be seen: not root | as root: rolegate-port state"],
        ),
        (
            "we have no password",
            |g| {
                for node in &mut g.nodes {
                    node.redis = Some(Server::None { why: "access denied: NOAUTH".into() });
                }
                g.nodes[0].rw = Some(Port::Open { who: Who::Unknown { why: "access denied: NOAUTH".into() } });
                g.denied.redis = true;
            },
            CliCode::Unknown,
            &["whether it takes writes cannot be told: access denied: NOAUTH", "under [redis] in /etc/rolegate"],
        ),
        (
            "a transient attribute hides the lasting one",
            |g| g.nodes[1].hidden_role = Some("fail".into()),
            CliCode::Warning,
            &[
                "a transient redis_role=replica hides the lasting redis_role=fail",
                "crm_attribute -l reboot -N node2 -n redis_role -D",
            ],
        ),
        ("no rule about fences", |g| g.rules.by_fence = false, CliCode::Warning, &["a fence would not hold"]),
        ("an old failure", |g| g.nodes[2].fail_count = u64::MAX, CliCode::Warning, &["fail count INFINITY"]),
        (
            "a ban",
            |g| g.nodes[2].bans = vec![Ban { constraint: "cli-ban-RedisGate-clone-on-node3".into(), until: None }],
            CliCode::Warning,
            &[
                "cli-ban-RedisGate-clone-on-node3 keeps the gate off node3",
                "pcs constraint delete cli-ban-RedisGate-clone-on-node3",
            ],
        ),
        (
            "a ban with a lifetime",
            |g| {
                let until = Some("2026-11-21 23:40:00Z".into());
                g.nodes[1].bans = vec![Ban { constraint: "cli-ban".into(), until }];
            },
            CliCode::Warning,
            &["cli-ban keeps the gate off node2, or from being promoted there until 2026-11-21 23:40:00Z"],
        ),
        (
            "the old primary, just after a failover",
            |g| {
                g.nodes[2].role = Some("fail".into());
                let server = server(g, 3);
                (server.primary, server.of) = (true, None);
            },
            CliCode::Warning,
            &["node3 has redis_role=fail: its ports stay closed until Sentinel has made its Redis a replica"],
        ),
        (
            "standby",
            |g| g.nodes[2].member.as_mut().unwrap().standby = true,
            CliCode::Warning,
            &["node3 is in standby", "crm_standby -N node3 -D"],
        ),
        (
            "this node's rules were flushed",
            |g| {
                g.firewall = Some(Firewall::Seen {
                    backend: "nft".into(),
                    baseline: Some("missing".into()),
                    ro_open_ms: None,
                    rw_open_ms: None,
                    listeners: vec![],
                })
            },
            CliCode::Warning,
            &["rolegate's own rules are missing"],
        ),
        (
            "a program listens on a port of the gate",
            |g| {
                g.firewall = Some(Firewall::Seen {
                    backend: "nft".into(),
                    baseline: None,
                    ro_open_ms: None,
                    rw_open_ms: None,
                    listeners: vec!["a program listens on [::]:6381 here: port 6381 cannot open".into()],
                })
            },
            CliCode::Warning,
            &["a program listens on [::]:6381"],
        ),
    ];

    #[test]
    fn the_table() {
        for (name, change, code, said) in TABLE {
            let mut facts = healthy();
            change(&mut facts);
            let judgement = group(&healthy_cluster(), &facts);
            let text: String = judgement
                .problems
                .iter()
                .map(|problem| {
                    format!(
                        "{} {} | {}\n",
                        problem.severity.word(),
                        problem.what,
                        problem.next.as_deref().unwrap_or("")
                    )
                })
                .collect();
            assert_eq!(judgement.code(), *code, "{name}:\n{text}");
            for part in *said {
                assert!(text.contains(part), "{name}: no {part:?} in\n{text}");
            }
            assert!(judgement.problems.is_sorted_by_key(|problem| problem.severity), "{name}:\n{text}");
            let without = judgement.problems.iter().find(|problem| problem.next.as_ref().is_none_or(String::is_empty));
            assert_eq!(without, None, "{name}: what is to be done?");
        }
    }

    #[test]
    fn a_change_that_waits_names_whom_it_waits_for_and_what_ends_it() {
        let said = |change: &dyn Fn(&mut Group)| {
            let mut it = healthy();
            it.record_waits_for = vec!["node2".into(), "node3".into()];
            (it.nodes[1].record, it.nodes[2].record) = (Some("other"), Some("moving"));
            change(&mut it);
            let problems = group(&ClusterFacts::default(), &it).problems;
            let waits = problems.into_iter().find(|problem| problem.what.contains("waits for"))?;
            assert_eq!(waits.severity, Severity::Warning);
            Some(format!("{} -> {}", waits.what, waits.next.unwrap()))
        };
        let text = said(&|_| {}).unwrap();
        assert!(text.contains("node2 (stands on another), node3 (is going on) -> rolegate init"), "{text}");
        assert!(text.contains("rolegate init --master mymaster --replace"), "{text}");
        let text = said(&|it| it.nodes[1].member = Some(Member::default())).unwrap();
        assert!(text.contains("rolegate confirm-off node2") && !text.contains("confirm-off node3"), "{text}");
        assert_eq!(said(&|it| it.record_waits_for.clear()), None);
        let mut off = healthy();
        off.nodes[2].confirmed_off = Some("by ann@node1".into());
        let problems = group(&ClusterFacts::default(), &off).problems;
        assert!(problems.iter().any(|problem| problem.what.starts_with("node3 was confirmed off by ann@node1")));
    }

    #[test]
    fn nothing_is_said_twice() {
        let mut facts = healthy();
        let node = &mut facts.nodes[0];
        (node.ro, node.rw, node.role) = (Some(Port::Refused), Some(Port::Refused), Some("fail".into()));
        node.fence = Some("by root".into());
        assert_eq!(group(&healthy_cluster(), &facts).problems.len(), 1);

        let mut facts = healthy();
        facts.verdict = None;
        facts.record_error = Some("no record".into());
        for node in &mut facts.nodes {
            (node.address, node.redis, node.ro, node.rw) = (None, None, None, None);
            node.failures =
                vec![Failed { operation: "monitor_6000".into(), reason: "no record".into(), degraded: true }];
        }
        facts.rules = Rules::default();
        assert_eq!(group(&healthy_cluster(), &facts).problems.len(), 1);
        for node in &mut facts.nodes {
            node.failures[0].reason = "edited".into();
        }
        let problems = group(&healthy_cluster(), &facts).problems;
        assert_eq!(problems[1].what, "gate on node1, node2, node3: edited");
    }

    #[test]
    fn a_complaint_whose_reason_is_gone_is_no_problem() {
        let mut facts = healthy();
        facts.nodes[0].failures =
            vec![Failed { operation: "monitor_5000".into(), reason: "closed: no majority".into(), degraded: true }];
        assert_eq!(group(&healthy_cluster(), &facts).code(), CliCode::Ok);
        facts.nodes[0].rw = Some(Port::Refused);
        let problems = group(&healthy_cluster(), &facts).problems;
        assert!(
            problems[0].what.ends_with("its gate keeps 6381 closed (refused): closed: no majority"),
            "{problems:?}"
        );
    }

    #[test]
    fn a_cluster_that_does_not_answer_is_unknown_unless_its_record_is_on_disk() {
        let mut facts = ClusterFacts { error: Some("Pacemaker does not answer".into()), ..ClusterFacts::default() };
        assert_eq!(code(&cluster(&facts, false, 0)), CliCode::Unknown);
        facts.from_disk = true;
        let problems = cluster(&facts, true, 1);
        assert_eq!(code(&problems), CliCode::Warning);
        assert!(problems[0].what.contains("last copy"));
    }

    #[test]
    fn a_cluster_without_a_gate_says_how_to_make_one() {
        let problems = cluster(&healthy_cluster(), true, 0);
        assert_eq!(code(&problems), CliCode::Critical);
        let next = problems[0].next.as_deref().unwrap();
        assert!(next.contains("pcs resource create") && next.contains("crm configure"));
        assert_eq!(cluster(&healthy_cluster(), true, 1), []);
    }

    #[test]
    fn stonith_that_is_on_without_a_device_is_named() {
        let facts = ClusterFacts { stonith: Some(true), cannot_fence: true, ..healthy_cluster() };
        let problems = cluster(&facts, true, 1);
        assert_eq!((problems.len(), code(&problems)), (1, CliCode::Critical));
        assert!(problems[0].what.contains("there is no fencing device"), "{problems:?}");
        assert_eq!(cluster(&ClusterFacts { cannot_fence: false, ..facts }, true, 1), []);
    }

    #[test]
    fn a_partition_without_quorum_shall_stop() {
        for (policy, wrong) in [
            ("stop", false),
            ("suicide", false),
            ("fence", false),
            ("ignore", true),
            ("freeze", true),
            ("demote", true),
        ] {
            let facts = ClusterFacts { no_quorum_policy: Some(policy.into()), ..healthy_cluster() };
            let problems = cluster(&facts, true, 1);
            assert_eq!(problems.len(), usize::from(wrong), "{policy}: {problems:?}");
            assert!(!wrong || problems[0].what.contains(&format!("no-quorum-policy is {policy}")), "{problems:?}");
        }
    }
}
