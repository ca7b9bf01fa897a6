//! What `rolegate status` looks at: collected all at once, within a deadline, and judged
//! elsewhere. What could not be seen is kept as such.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::probe::{self, Port};
use super::{Gate, change};
use crate::causes::with_causes;
use crate::exit::OcfCode;
use crate::forced;
use crate::gate::{self, Baseline, PortState, Ports};
use crate::instance::{self, Instance, OnlineReplica, ServerRole};
use crate::keeper::history::{Cause, Failover};
use crate::keeper::known_node_name;
use crate::keeper::socket;
use crate::keeper::stand::basis;
use crate::lease::mark::Marks;
use crate::lease::{self, Mark};
use crate::local_fence::LocalFence;
use crate::pacemaker::cib::{Location, Node, Resource, Rule};
use crate::pacemaker::crm_mon::{NodeState, ResourceRole};
use crate::pacemaker::{self, Cib, CrmMon, FENCE_ATTRIBUTE, PacemakerError, is_minus_infinity};
use crate::params::Params;
use crate::record::{Record, unusable};
use crate::role::Role;
use crate::sentinel::{self, Heard, LocalServer, Place, Verdict};
use crate::server::{self, AskError};
use crate::settings::Settings;
use crate::stand::{Said, Shown, attribute as said_in};
use crate::switchover::{self, Setting};
use crate::together::together;

/// The cluster as Pacemaker on this node sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ClusterFacts {
    /// This node's name.
    pub seen_from: Option<String>,
    /// Why Pacemaker gave no answer here, or not all of it.
    pub error: Option<String>,
    /// The record was read from this node's disk, because Pacemaker does not answer.
    pub from_disk: bool,
    /// Whether this partition has quorum.
    pub quorum: Option<bool>,
    /// `maintenance-mode`: Pacemaker leaves everything alone.
    pub maintenance_mode: bool,
    /// `stonith-enabled`.
    pub stonith: Option<bool>,
    /// STONITH is on, and there is nothing to do it with.
    #[serde(skip)]
    pub cannot_fence: bool,
    /// `no-quorum-policy`; Pacemaker's default where none is set.
    pub no_quorum_policy: Option<String>,
}

/// All about one master name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Group {
    /// Sentinel's name of it.
    pub master: String,
    /// The gate resource's id.
    pub resource: String,
    /// What `crm_resource` takes to clean up: the resource, or everything where there are several.
    #[serde(skip)]
    pub cleanup: String,
    /// The role attribute.
    pub attribute: String,
    /// The read-only port.
    pub ro_port: u16,
    /// The read-write port.
    pub rw_port: u16,
    /// The port behind both.
    pub redis_port: u16,
    /// How long a lease lasts.
    pub lease_ms: u64,
    /// Why there is no record to stand on.
    pub record_error: Option<String>,
    /// The nodes that have not shown that they have the record: its next change waits for them.
    pub record_waits_for: Vec<String>,
    /// A run of init that was killed has left the gate so that Pacemaker leaves it alone.
    #[serde(skip)]
    pub left_unmanaged: bool,
    /// Which location rules the gate has.
    pub rules: Rules,
    /// The nodes of the cluster and of the record.
    pub nodes: Vec<NodeFacts>,
    /// The record's Sentinels; without a record the first one, as the settings name it.
    pub sentinels: Vec<SentinelFacts>,
    /// What the record's Sentinels come to; `None` without a record.
    pub verdict: Option<VerdictFacts>,
    /// This node's firewall, where we may look at it.
    pub firewall: Option<Firewall>,
    /// Who does not let us in, or not do what we do.
    pub denied: Denied,
    /// What this node's keeper says.
    pub keeper: Option<KeeperFacts>,
    /// The last failover, as far as it is known.
    pub last_failover: Option<FailoverFacts>,
}

/// What this node's keeper says of the lease.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct KeeperFacts {
    /// The read-write port is open here by a lease.
    pub open: bool,
    /// Why it is not.
    pub why: String,
}

/// A failover.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FailoverFacts {
    /// When it was, in seconds since 1970; or, where no keeper's record tells, not after that.
    pub at: u64,
    /// How long ago that is.
    pub seconds_ago: u64,
    /// It may have been earlier: known only from how long Sentinels have known the primary.
    pub or_earlier: bool,
    /// The node, or address, of the primary before.
    pub from: Option<String>,
    /// The node, or address, of the primary since.
    pub to: Option<String>,
    /// primary_down, requested, keeper or unknown.
    pub cause: &'static str,
    /// In words.
    pub because: String,
}

/// Which kinds of server denied us something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Denied {
    /// A Redis.
    pub redis: bool,
    /// A Sentinel.
    pub sentinel: bool,
}

/// Location rules of the gate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Rules {
    /// Something places or promotes the gate by the role attribute.
    pub by_role: bool,
    /// Something keeps the gate off fenced nodes.
    pub by_fence: bool,
}

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Its data address, by the record.
    pub address: Option<SocketAddr>,
    /// Its membership; `None` where Pacemaker does not tell.
    pub member: Option<Member>,
    /// The role that location rules see.
    pub role: Option<String>,
    /// The lasting value, where a transient one hides it.
    pub hidden_role: Option<String>,
    /// Who fenced it, when and why.
    pub fence: Option<String>,
    /// Who has forced its read-write port open, until when and why.
    pub forced: Option<String>,
    /// What it stands on, by what its keeper has said in the cluster: this, other, moving, none, off or unclear; `None` if it never
    /// said anything.
    pub record: Option<&'static str>,
    /// By whom and when it was confirmed off.
    pub confirmed_off: Option<String>,
    /// The location constraints that keep its gate off it, or from being promoted there.
    pub bans: Vec<Ban>,
    /// The gate there.
    pub gate: Option<GateFacts>,
    /// Failures that Pacemaker remembers.
    pub fail_count: u64,
    /// Their operations and reasons.
    pub failures: Vec<Failed>,
    /// Its Redis, asked at its data address.
    pub redis: Option<Server>,
    /// What a switchover has set in it.
    pub marks: Vec<MarkFacts>,
    /// What its keeper's lines to the Sentinels say; `None` where too few Sentinels showed theirs.
    pub keeper: Option<Keeper>,
    /// How long the lease of its marks can last at most.
    pub lease_at_most_ms: Option<u64>,
    /// How far it is behind the primary, where it is a replica of it.
    pub behind: Option<Behind>,
    /// What a client gets on the read-only port.
    pub ro: Option<Port>,
    /// What a client gets on the read-write port.
    pub rw: Option<Port>,
}

/// How far a replica is behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Behind {
    /// In bytes of the stream of writes.
    pub bytes: u64,
    /// Seconds since the primary last heard from it; it hears once a second.
    pub seconds: Option<u64>,
}

/// A setting as a switchover has marked it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MarkFacts {
    /// Its name.
    pub setting: &'static str,
    /// Its value now.
    pub value: u32,
    /// What it was before.
    pub before: u32,
}

/// A location constraint that keeps the gate off a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Ban {
    /// Its id.
    pub constraint: String,
    /// When it ends by itself, as the cluster has it written.
    pub until: Option<String>,
}

/// A node's keeper, by its lines to the Sentinels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Keeper {
    /// It holds a lease, or is about to take one.
    Lease,
    /// It says that the read-write port is closed.
    Closed,
    /// It has no line to any Sentinel.
    Missing,
}

/// A node's membership.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Member {
    /// See [`NodeState`].
    pub online: bool,
    /// See [`NodeState`].
    pub standby: bool,
    /// See [`NodeState`].
    pub maintenance: bool,
    /// See [`NodeState`].
    pub unclean: bool,
    /// See [`NodeState`].
    pub pending: bool,
}

impl Member {
    /// In one word.
    pub fn word(self) -> &'static str {
        match self {
            Member { unclean: true, .. } => "unclean",
            Member { online: false, .. } => "offline",
            Member { pending: true, .. } => "pending",
            Member { standby: true, .. } => "standby",
            Member { maintenance: true, .. } => "maintenance",
            _ => "online",
        }
    }
}

/// The gate resource on a node, or the blocks in its place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GateFacts {
    /// Promoted, Unpromoted, Stopped, or what Pacemaker calls it. Of blocks: what the role may open with those that run.
    pub role: String,
    /// It is made of blocks.
    pub by_blocks: bool,
    /// Its last action failed.
    pub failed: bool,
    /// Pacemaker does nothing about it any more.
    pub blocked: bool,
    /// Pacemaker leaves it alone.
    pub unmanaged: bool,
}

impl GateFacts {
    /// In a word or two.
    pub fn word(&self) -> &str {
        match (self.by_blocks, self.role.as_str()) {
            (true, "Promoted") => "not blocked",
            (true, "Unpromoted") => "rw blocked",
            (true, "Stopped") => "blocked",
            (_, role) => role,
        }
    }
}

/// A failed action.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Failed {
    /// For example monitor_5000.
    pub operation: String,
    /// The agent's reason.
    pub reason: String,
    /// It was a monitor that said only that the gate works less well than it should: Pacemaker
    /// shows the last one for ever.
    pub degraded: bool,
}

/// A Redis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "answer")]
pub enum Server {
    /// It answered.
    Given(ServerFacts),
    /// It did not.
    None {
        /// Why.
        why: String,
    },
}

impl Server {
    /// What it said.
    pub fn given(&self) -> Option<&ServerFacts> {
        match self {
            Server::Given(facts) => Some(facts),
            Server::None { .. } => None,
        }
    }
}

/// What a Redis says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ServerFacts {
    /// Its run id.
    pub run_id: String,
    /// Its version.
    pub version: String,
    /// It is a primary, as far as its role goes.
    pub primary: bool,
    /// It is loading its data.
    pub loading: bool,
    /// Its offset in the stream of writes, in bytes.
    pub offset: u64,
    /// A primary's replicas that are online.
    pub replicas: Vec<ReplicaFacts>,
    /// A replica's primary, as configured.
    pub of: Option<String>,
    /// A replica's link is up.
    pub link_up: bool,
    /// How long it has been down, in seconds.
    pub link_down_seconds: Option<u64>,
}

/// A replica as its primary sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ReplicaFacts {
    /// Its address, as the primary knows it.
    pub address: String,
    /// Seconds since its last acknowledgement.
    pub acknowledged_seconds: u64,
}

impl From<Instance> for ServerFacts {
    fn from(instance: Instance) -> Self {
        let mut facts = ServerFacts {
            primary: instance.is_primary(),
            run_id: instance.run_id,
            version: instance.version,
            loading: instance.loading,
            offset: instance.offset,
            ..ServerFacts::default()
        };
        match instance.role {
            ServerRole::Primary { replicas } => {
                let seen = |replica: OnlineReplica| ReplicaFacts {
                    address: replica.address,
                    acknowledged_seconds: replica.lag,
                };
                facts.replicas = replicas.into_iter().map(seen).collect();
            }
            ServerRole::Replica { of, link_up, link_down_for } => {
                facts.of = Some(of);
                facts.link_up = link_up;
                facts.link_down_seconds = link_down_for.map(|time| time.as_secs());
            }
            ServerRole::Unknown => {}
        }
        facts
    }
}

/// A Sentinel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SentinelFacts {
    /// Where it was asked.
    pub address: String,
    /// Its run id of the record.
    pub id: String,
    /// Why there is no answer.
    pub error: Option<String>,
    /// The run id that it gave, where it is not that of the record.
    pub other_id: Option<String>,
    /// It does not know the master name.
    pub stranger: bool,
    /// The place that it names.
    pub names: Option<String>,
    /// The record's node at that place.
    pub names_node: Option<String>,
    /// Why that place can be no node's.
    pub names_nobody: Option<String>,
    /// `config-epoch`.
    pub epoch: Option<u64>,
    /// How long it has known that primary, at least: counted anew when the Sentinel restarts or is reset.
    pub names_for_seconds: Option<u64>,
    /// How long that primary has not answered it.
    pub down_for_seconds: Option<u64>,
    /// Flags of the place that it names, other than `master`.
    pub flags: Vec<String>,
    /// The run id that it gives for the server at that place.
    pub primary_run_id: Option<String>,
    /// It leads a failover that has promoted and is not over: it still watches the old primary.
    pub finishing: bool,
}

/// What the Sentinels come to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VerdictFacts {
    /// The node that a majority names without doubt.
    pub named: Option<String>,
    /// The place that a majority gives, doubts or not.
    pub points_at: Option<String>,
    /// The record's node at that place.
    pub points_at_node: Option<String>,
    /// How long a majority has known it, at least.
    pub points_for_seconds: Option<u64>,
    /// How many answered.
    pub answered: usize,
    /// How many are needed.
    pub needed: usize,
    /// How many there are.
    pub total: usize,
    /// Why answers do not count.
    pub notes: Vec<String>,
}

impl VerdictFacts {
    /// Whether enough answered to tell.
    pub fn majority_seen(&self) -> bool {
        self.answered >= self.needed
    }
}

/// This node's firewall.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "firewall")]
pub enum Firewall {
    /// As it is.
    Seen {
        /// nft or which iptables.
        backend: String,
        /// What is wrong with the rules that everything stands on.
        baseline: Option<String>,
        /// How long the read-only port stays open; `None` if it is closed.
        ro_open_ms: Option<u64>,
        /// How long the read-write port stays open: what remains of the lease; `None` if it is closed.
        rw_open_ms: Option<u64>,
        /// The programs that listen on its ports, and what that means.
        listeners: Vec<String>,
    },
    /// It could not be seen.
    Unseen {
        /// Why.
        why: String,
    },
}

/// All that Pacemaker told.
pub struct Seen {
    /// As it is shown.
    pub facts: ClusterFacts,
    /// The CIB.
    pub cib: Option<Cib>,
    /// The state.
    pub mon: Option<CrmMon>,
}

/// Asks Pacemaker, all at once, within `deadline`.
pub fn cluster(deadline: Duration) -> Seen {
    enum Told {
        Me(Result<String, PacemakerError>),
        Cib(Box<Result<Cib, PacemakerError>>),
        Mon(Box<Result<CrmMon, PacemakerError>>),
    }
    let jobs: [Box<dyn FnOnce() -> Told + Send>; 3] = [
        Box::new(move || Told::Me(pacemaker::local_node_within(deadline))),
        Box::new(move || Told::Cib(Box::new(pacemaker::read_cib_within(deadline)))),
        Box::new(move || Told::Mon(Box::new(pacemaker::read_crm_mon_within(deadline)))),
    ];
    let mut seen = Seen { facts: ClusterFacts::default(), cib: None, mon: None };
    let mut errors = Vec::new();
    // Each command keeps the deadline by itself; the rest is for killing it.
    for told in together(deadline + Duration::from_millis(150), jobs) {
        let error = match told {
            Some(Told::Me(Ok(name))) => {
                seen.facts.seen_from = Some(name);
                continue;
            }
            Some(Told::Cib(cib)) => match *cib {
                Ok(cib) => {
                    seen.cib = Some(cib);
                    continue;
                }
                Err(error) => error.to_string(),
            },
            Some(Told::Mon(mon)) => match *mon {
                Ok(mon) => {
                    seen.mon = Some(mon);
                    continue;
                }
                Err(error) => error.to_string(),
            },
            Some(Told::Me(Err(error))) => error.to_string(),
            None => "Pacemaker does not answer on this node in time".to_owned(),
        };
        errors.push(error);
    }
    seen.facts.error = errors.into_iter().next();
    if seen.cib.is_none() {
        seen.cib = pacemaker::read_cib_on_disk().ok();
        seen.facts.from_disk = seen.cib.is_some();
    }
    if seen.facts.seen_from.is_none() {
        seen.facts.seen_from = seen.cib.as_ref().and_then(known_node_name);
    }
    if let Some(mon) = &seen.mon {
        seen.facts.quorum = mon.quorum;
        seen.facts.maintenance_mode = mon.maintenance_mode;
    }
    if let Some(cib) = &seen.cib {
        // fencing-enabled since Pacemaker 3.0.2; on unless said otherwise.
        let value = cib.properties.get("fencing-enabled").or(cib.properties.get("stonith-enabled"));
        seen.facts.stonith = Some(!value.is_some_and(|value| matches!(value.as_str(), "false" | "no" | "off" | "0")));
        seen.facts.cannot_fence = seen.facts.stonith == Some(true) && cib.what_fences().next().is_none();
        seen.facts.no_quorum_policy = Some(no_quorum_policy(cib));
    }
    seen
}

/// What Pacemaker does in a partition without quorum.
pub fn no_quorum_policy(cib: &Cib) -> String {
    cib.properties.get("no-quorum-policy").cloned().unwrap_or_else(|| "stop".to_owned())
}

/// What the jobs of [`ask`] bring.
enum Asked {
    Sentinels(Vec<Heard>),
    First(Result<sentinel::Answer, AskError>),
    Redis(String, Result<Instance, AskError>),
    Settings(String, Vec<(Setting, switchover::Mark)>),
    Ro(String, Port),
    Rw(String, Port),
    Firewall(Firewall),
    Marks(Option<Vec<lease::Seen<String>>>),
}

/// What the Sentinels, servers and ports of one gate have answered; what has not is missing.
#[derive(Debug, Default)]
pub struct Answers {
    /// The record's Sentinels.
    heard: Vec<Heard>,
    /// Without a record, the Sentinel that the settings name.
    first: Option<(SocketAddr, Result<sentinel::Answer, AskError>)>,
    /// By node.
    redis: BTreeMap<String, Result<Instance, AskError>>,
    settings: BTreeMap<String, Vec<(Setting, switchover::Mark)>>,
    ro: BTreeMap<String, Port>,
    rw: BTreeMap<String, Port>,
    firewall: Option<Firewall>,
    /// None where too few Sentinels showed theirs.
    marks: Option<Vec<lease::Seen<String>>>,
}

/// Asks the Sentinels, servers and ports of one gate, all at once, until `until`. Needs nothing of the cluster but the parameters.
pub fn ask(params: &Params, settings: &Settings, until: Instant) -> Answers {
    let left = until.saturating_duration_since(Instant::now());
    let within = settings.answer_within.min(left);
    let mut jobs: Vec<Box<dyn FnOnce() -> Asked + Send>> = Vec::new();
    let mut answers = Answers::default();
    match &params.record {
        Ok(record) => {
            let (all, master, credentials) = (record.clone(), params.master.clone(), settings.sentinel.clone());
            jobs.push(Box::new(move || Asked::Sentinels(sentinel::ask_all(&all, &master, &credentials, within))));
            let (all, master, local) = (record.clone(), params.master.clone(), settings.clone());
            jobs.push(Box::new(move || Asked::Marks(marks(&all, &master, &local, within))));
            for node in record.nodes() {
                let at = |port| SocketAddr::new(node.address.ip(), port);
                let (data, ro, rw) = (node.address, at(params.ports.ro), at(params.ports.rw));
                let (name, credentials) = (node.name.clone(), settings.redis.clone());
                jobs.push(Box::new(move || Asked::Redis(name, instance::ask(data, &credentials, within))));
                let (name, credentials) = (node.name.clone(), settings.redis.clone());
                jobs.push(Box::new(move || Asked::Settings(name, switchover::marks_of(data, &credentials, within))));
                let (name, credentials) = (node.name.clone(), settings.redis.clone());
                jobs.push(Box::new(move || Asked::Ro(name, probe::port(ro, &credentials, within))));
                let (name, credentials) = (node.name.clone(), settings.redis.clone());
                jobs.push(Box::new(move || Asked::Rw(name, probe::port(rw, &credentials, within))));
            }
        }
        Err(_) => {
            let (address, master, credentials) =
                (settings.first_sentinel, params.master.clone(), settings.sentinel.clone());
            answers.first = Some((address, Err(AskError::Silent)));
            jobs.push(Box::new(move || Asked::First(sentinel::ask(address, &master, &credentials, within))));
        }
    }
    if nix::unistd::geteuid().is_root() {
        let (ports, settings) = (params.ports, settings.clone());
        jobs.push(Box::new(move || Asked::Firewall(firewall(ports, &settings, within))));
    }
    for asked in together(left, jobs).into_iter().flatten() {
        match asked {
            Asked::Sentinels(heard) => answers.heard = heard,
            Asked::First(answer) => answers.first = answers.first.map(|(address, _)| (address, answer)),
            Asked::Redis(node, answer) => _ = answers.redis.insert(node, answer),
            Asked::Settings(node, marks) => _ = answers.settings.insert(node, marks),
            Asked::Ro(node, port) => _ = answers.ro.insert(node, port),
            Asked::Rw(node, port) => _ = answers.rw.insert(node, port),
            Asked::Firewall(state) => answers.firewall = Some(state),
            Asked::Marks(marks) => answers.marks = marks,
        }
    }
    answers
}

/// All about one gate: asks, and puts it together.
pub fn group(gate: &Gate, cib: &Cib, mon: Option<&CrmMon>, settings: &Settings, until: Instant) -> Group {
    compose(gate, cib, mon, ask(&gate.params, settings, until))
}

/// Puts what was answered and what the cluster says together.
pub fn compose(gate: &Gate, cib: &Cib, mon: Option<&CrmMon>, answers: Answers) -> Group {
    let params = &gate.params;
    let record = params.record.as_ref().ok();
    let mut group = Group {
        master: params.master.clone(),
        resource: gate.resource.id.clone(),
        cleanup: if gate.is_blocks() { "--cleanup".to_owned() } else { format!("--cleanup -r {}", gate.resource.id) },
        attribute: params.attribute.clone(),
        ro_port: params.ports.ro,
        rw_port: params.ports.rw,
        redis_port: params.ports.redis,
        lease_ms: millis(params.lease),
        record_error: params.record.as_ref().err().map(ToString::to_string),
        record_waits_for: record_waits_for(gate, cib),
        left_unmanaged: change::is_left_unmanaged(&gate.resource),
        rules: rules(gate, cib),
        nodes: nodes(gate, cib, mon),
        firewall: answers.firewall,
        ..Group::default()
    };
    let denied = |error: &AskError| matches!(error, AskError::Denied(_));
    group.denied.redis = answers.redis.values().any(|answer| answer.as_ref().is_err_and(denied));
    group.denied.sentinel = answers.heard.iter().any(|heard| heard.answer.as_ref().is_err_and(denied));
    for node in group.nodes.iter_mut().filter(|node| node.address.is_some()) {
        // The record's name of it, as it was asked.
        let Some(name) = record.and_then(|record| record.node(&node.name)).map(|entry| &entry.name) else { continue };
        node.redis = Some(match answers.redis.get(name) {
            Some(Ok(instance)) => Server::Given(instance.clone().into()),
            Some(Err(error)) => Server::None { why: error.to_string() },
            None => Server::None { why: AskError::Silent.to_string() },
        });
        let marks = answers.settings.get(name).into_iter().flatten();
        node.marks = marks
            .map(|(setting, mark)| MarkFacts { setting: setting.name(), value: mark.value(), before: mark.before() })
            .collect();
        node.ro = Some(answers.ro.get(name).cloned().unwrap_or(Port::Silent));
        node.rw = Some(answers.rw.get(name).cloned().unwrap_or(Port::Silent));
        let Some(seen) = &answers.marks else { continue };
        let marks: Vec<_> =
            seen.iter().filter(|seen| seen.node.eq_ignore_ascii_case(name)).map(|seen| seen.mark).collect();
        node.keeper = Some(match marks.as_slice() {
            [] => Keeper::Missing,
            all if all.iter().all(|mark| *mark == Some(Mark::Closed)) => Keeper::Closed,
            _ => Keeper::Lease,
        });
        let lengths = marks.iter().filter_map(|mark| match mark {
            Some(Mark::Held { length, .. }) => Some(*length / 1000),
            _ => None,
        });
        node.lease_at_most_ms = lengths.max();
    }
    match (record, answers.first) {
        (Some(record), _) => {
            group.verdict = Some(verdict(record, &answers.heard, &group.nodes));
            group.sentinels = sentinels(record, &answers.heard, &cib.managed_addresses);
            named_for(&mut group);
        }
        (None, Some((address, answer))) => {
            let mut facts = SentinelFacts { address: address.to_string(), ..SentinelFacts::default() };
            group.denied.sentinel = answer.as_ref().is_err_and(denied);
            match answer {
                Ok(answer) => answered(&mut facts, &answer, |place| nobody(place, None, &cib.managed_addresses)),
                Err(error) => facts.error = Some(error.to_string()),
            }
            group.sentinels.push(facts);
        }
        (None, None) => {}
    }
    behind(&mut group);
    group
}

/// Whom the next change of the record waits for. Where nobody has ever said what it stands on, nobody is behind.
fn record_waits_for(gate: &Gate, cib: &Cib) -> Vec<String> {
    let attribute = said_in(&gate.params.master);
    let silent = cib.nodes.iter().all(|node| node.permanent(&attribute).is_none());
    if silent { Vec::new() } else { change::waits_for(gate, cib).into_iter().map(|peer| peer.name).collect() }
}

/// How long the majority has been one.
fn named_for(group: &mut Group) {
    let Some(verdict) = &mut group.verdict else { return };
    let same = |sentinel: &&SentinelFacts| sentinel.names.is_some() && sentinel.names == verdict.points_at;
    let mut times: Vec<u64> =
        group.sentinels.iter().filter(same).filter_map(|sentinel| sentinel.names_for_seconds).collect();
    times.sort_unstable_by(|a, b| b.cmp(a));
    verdict.points_for_seconds = times.get(verdict.needed.saturating_sub(1)).copied();
}

/// How far each replica of the named primary is behind it.
fn behind(group: &mut Group) {
    let named = group.verdict.as_ref().and_then(|verdict| verdict.points_at_node.clone());
    let primary = group.nodes.iter().find(|node| Some(&node.name) == named.as_ref());
    let Some((from, primary)) = primary.and_then(|node| Some((node.address?, node.redis.as_ref()?.given()?.clone())))
    else {
        return;
    };
    for node in group.nodes.iter_mut().filter(|node| Some(&node.name) != named.as_ref()) {
        let Some(server) = node.redis.as_ref().and_then(Server::given) else { continue };
        let address = node.address.map(|address| address.to_string());
        if server.of.as_deref() != Some(from.to_string().as_str()) {
            continue;
        }
        let heard = primary.replicas.iter().find(|replica| Some(&replica.address) == address.as_ref());
        node.behind = Some(Behind {
            // The two were asked at the same time, not at the same moment.
            bytes: primary.offset.saturating_sub(server.offset),
            seconds: heard.map(|replica| replica.acknowledged_seconds),
        });
    }
}

/// Adds what was done by hand on this node, whether the cluster knows it or not.
pub fn add_hand(group: &mut Group, here: Option<&str>) {
    let here = group.nodes.iter_mut().find(|node| here.is_some_and(|here| node.name.eq_ignore_ascii_case(here)));
    let Some(node) = here else { return };
    if let Some(fence) = LocalFence::default().at_once() {
        node.fence.get_or_insert(fence);
    }
    let forced = forced::Store::new(&group.resource).read().filter(|force| force.opened);
    node.forced = forced.map(|force| force.text);
}

/// Why a failover was, in a word for programs and in words.
pub(super) fn because(cause: &Cause) -> (&'static str, String) {
    match cause {
        Cause::PrimaryDown => ("primary_down", "Sentinels agreed that the primary was down".to_owned()),
        Cause::Requested => {
            ("requested", "a Sentinel was asked for it, by an operator or another node's keeper".to_owned())
        }
        Cause::Keeper(why) => ("keeper", format!("this node's keeper asked a Sentinel for it: {why}")),
        Cause::Unknown => ("unknown", "this node's keeper saw no cause".to_owned()),
    }
}

/// Adds what this node's keeper says, `now` being the time in seconds since 1970.
pub fn add_keeper(group: &mut Group, record: Option<&Record>, told: Option<&socket::Report>, now: u64) {
    group.keeper = told.map(|report| KeeperFacts { open: report.open, why: report.why.clone() });
    let points_at = group.verdict.as_ref().and_then(|verdict| verdict.points_at.clone());
    let name = |address: SocketAddr| {
        let node = record.and_then(|record| record.node_at(address));
        Some(node.map_or_else(|| address.to_string(), |node| node.name.clone()))
    };
    let told = told.and_then(|report| report.last_failover.as_ref());
    // One that was missed makes those before it history.
    let still = |last: &&Failover| points_at.as_ref().is_none_or(|place| *place == last.to.to_string());
    if let Some(last) = told.filter(still) {
        let (cause, because) = because(&last.cause);
        group.last_failover = Some(FailoverFacts {
            at: last.at,
            seconds_ago: now.saturating_sub(last.at),
            or_earlier: false,
            from: name(last.from),
            to: name(last.to),
            cause,
            because,
        });
        return;
    }
    let Some(verdict) = &group.verdict else { return };
    // An epoch of 0 is that of a master name whose primary has never been changed.
    let moved = group.sentinels.iter().any(|sentinel| sentinel.epoch.is_some_and(|epoch| epoch > 0));
    if let Some(ago) = verdict.points_for_seconds.filter(|_| moved) {
        group.last_failover = Some(FailoverFacts {
            at: now.saturating_sub(ago),
            seconds_ago: ago,
            or_earlier: true,
            from: None,
            to: verdict.points_at_node.clone().or(points_at),
            cause: "unknown",
            because: "this node's keeper did not see it".to_owned(),
        });
    }
}

fn millis(time: Duration) -> u64 {
    time.as_millis().try_into().unwrap_or(u64::MAX)
}

/// What the location constraints of the gate look at.
pub fn rules(gate: &Gate, cib: &Cib) -> Rules {
    // A ban keeps a gate off; a block must run there.
    let by_fence = if gate.is_blocks() { "INFINITY" } else { "-INFINITY" };
    let all = gate.resources().map(|resource| rules_of(resource, &gate.params.attribute, by_fence, cib));
    all.reduce(|a, b| Rules { by_role: a.by_role && b.by_role, by_fence: a.by_fence && b.by_fence }).unwrap_or_default()
}

/// The same of one resource, with the score that a fence has.
pub fn rules_of(resource: &Resource, attribute: &str, fenced: &str, cib: &Cib) -> Rules {
    let of_gate = |placed: &str| placed == resource.outer_id || placed == resource.id;
    let all: Vec<&Rule> = cib
        .locations
        .iter()
        .filter(|location| of_gate(&location.resource))
        .flat_map(|location| &location.rules)
        .collect();
    let uses = |name: &str| all.iter().any(|rule| rule.expressions.iter().any(|(attribute, _, _)| attribute == name));
    Rules {
        by_role: uses(attribute),
        by_fence: all.iter().any(|rule| {
            rule.score.as_deref() == Some(fenced)
                && rule.expressions.iter().any(|(name, operation, _)| name == FENCE_ATTRIBUTE && operation == "defined")
        }),
    }
}

/// The location constraints by which no instance of the gate, or no promoted one, may be on `node` at `now` (seconds since 1970): by
/// the node's name, or by a rule that holds for it, the gate's own rules apart.
fn bans(gate: &Gate, cib: &Cib, node: &Node, now: i64) -> Vec<Ban> {
    let of_gate = |placed: &str| gate.resources().any(|resource| placed == resource.outer_id || placed == resource.id);
    let by_name = |location: &Location| {
        location.node.as_ref().is_some_and(|name| name.eq_ignore_ascii_case(&node.name))
            && location.score.as_deref().is_some_and(is_minus_infinity)
    };
    let own = [gate.params.attribute.as_str(), FENCE_ATTRIBUTE];
    let by_rule = |rule: &&Rule| {
        rule.forbids()
            && !rule.looks_at(&own)
            && match rule.holds(node, now) {
                Some(holds) => holds,
                // A time that cannot be read; the node is certain.
                None => {
                    rule.looks_at(&["#uname"])
                        && Rule { dates: Vec::new(), ..(*rule).clone() }.holds(node, now) == Some(true)
                }
            }
    };
    let placed = cib.locations.iter().filter(|location| of_gate(&location.resource));
    placed
        .filter_map(|location| {
            let rule = location.rules.iter().find(by_rule);
            (rule.is_some() || by_name(location))
                .then(|| Ban { constraint: location.id.clone(), until: rule.and_then(Rule::until).map(str::to_owned) })
        })
        .collect()
}

fn nodes(gate: &Gate, cib: &Cib, mon: Option<&CrmMon>) -> Vec<NodeFacts> {
    let record = gate.params.record.as_ref().ok();
    let now =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs().try_into().unwrap_or(i64::MAX));
    let digest = basis(&gate.params).map(|basis| basis.digest());
    let attribute = said_in(&gate.params.master);
    let mut nodes: Vec<NodeFacts> = Vec::new();
    for node in &cib.nodes {
        let said = Said::read(node.permanent(&attribute));
        let attribute = &gate.params.attribute;
        let (lasting, passing) = (node.permanent(attribute), node.transient(attribute));
        nodes.push(NodeFacts {
            name: node.name.clone(),
            role: node.attribute(attribute).map(str::to_owned),
            hidden_role: passing.filter(|value| Some(*value) != lasting).and(lasting).map(str::to_owned),
            fence: node.attribute(FENCE_ATTRIBUTE).map(str::to_owned),
            forced: node.transient(&forced::attribute(attribute)).map(str::to_owned),
            record: match &said.shown {
                Shown::Never => None,
                Shown::Nothing => Some("none"),
                Shown::On(on) if Some(on) == digest.as_ref() => Some("this"),
                Shown::On(_) => Some("other"),
                Shown::Moving(..) => Some("moving"),
                Shown::Off => Some("off"),
                Shown::Unclear => Some("unclear"),
            },
            confirmed_off: (said.shown == Shown::Off).then_some(said.by),
            bans: bans(gate, cib, node, now),
            fail_count: gate.resources().map(|resource| node.fail_count(&resource.id)).fold(0, u64::saturating_add),
            ..NodeFacts::default()
        });
    }
    for entry in record.map(Record::nodes).unwrap_or_default() {
        if !nodes.iter().any(|node| node.name.eq_ignore_ascii_case(&entry.name)) {
            nodes.push(NodeFacts { name: entry.name.clone(), ..NodeFacts::default() });
        }
    }
    for node in &mut nodes {
        node.address = record.and_then(|record| record.node(&node.name)).map(|entry| entry.address);
        let Some(mon) = mon else { continue };
        let state = mon.nodes.iter().find(|state| state.name.eq_ignore_ascii_case(&node.name));
        node.member = state.map(|state| {
            let NodeState { online, standby, maintenance, unclean, pending, .. } = *state;
            Member { online, standby, maintenance, unclean, pending }
        });
        node.gate = Some(gate_on(mon, gate, &node.name));
        node.failures = mon
            .failures
            .iter()
            .filter(|failure| failure.node.eq_ignore_ascii_case(&node.name))
            .filter_map(|failure| {
                let operation = gate.resources().find_map(|resource| {
                    let operation = failure.operation.strip_prefix(&resource.id)?.strip_prefix('_')?;
                    Some(if gate.is_blocks() { failure.operation.clone() } else { operation.to_owned() })
                })?;
                let degraded = [OcfCode::Degraded, OcfCode::DegradedPromoted].map(|code| code as i32);
                let degraded = failure.code.is_some_and(|code| degraded.contains(&code));
                Some(Failed { operation, reason: failure.reason.clone(), degraded })
            })
            .collect();
    }
    nodes
}

/// The gate on `node`.
pub fn gate_on(mon: &CrmMon, gate: &Gate, node: &str) -> GateFacts {
    if !gate.is_blocks() {
        return resource_on(mon, &gate.resource.id, node);
    }
    let online = mon.nodes.iter().any(|state| state.name.eq_ignore_ascii_case(node) && state.online);
    let blocks: Vec<(gate::Port, GateFacts)> =
        gate.blocks.iter().map(|(port, resource)| (*port, resource_on(mon, &resource.id, node))).collect();
    let runs = |port| blocks.iter().any(|(of, facts)| *of == port && facts.role != "Stopped");
    let role = match (online, runs(gate::Port::Ro), runs(gate::Port::Rw)) {
        (false, ..) | (_, true, _) => "Stopped",
        (_, _, true) => "Unpromoted",
        _ => "Promoted",
    };
    let any = |is: fn(&GateFacts) -> bool| blocks.iter().any(|(_, facts)| is(facts));
    GateFacts {
        role: role.to_owned(),
        by_blocks: true,
        failed: any(|facts| facts.failed),
        blocked: any(|facts| facts.blocked),
        unmanaged: any(|facts| facts.unmanaged),
    }
}

fn resource_on(mon: &CrmMon, resource: &str, node: &str) -> GateFacts {
    let here = mon.resources.iter().find(|instance| {
        // An instance of a unique clone, or of one with orphans, has a number behind its id.
        instance.id.split(':').next() == Some(resource)
            && instance.nodes.iter().any(|name| name.eq_ignore_ascii_case(node))
    });
    match here {
        None => GateFacts { role: "Stopped".to_owned(), ..GateFacts::default() },
        Some(instance) => GateFacts {
            role: match &instance.role {
                ResourceRole::Promoted => "Promoted".to_owned(),
                ResourceRole::Unpromoted => "Unpromoted".to_owned(),
                ResourceRole::Started => "Started".to_owned(),
                ResourceRole::Stopped => "Stopped".to_owned(),
                ResourceRole::Other(role) => role.clone(),
            },
            by_blocks: false,
            failed: instance.failed,
            blocked: instance.blocked,
            unmanaged: !instance.managed,
        },
    }
}

fn verdict(record: &Record, heard: &[Heard], nodes: &[NodeFacts]) -> VerdictFacts {
    let first = Verdict::of(record, heard, None);
    // The named node's own run id, as the gate there holds it against the Sentinels' answers.
    let server = first.points_at_node.as_deref().and_then(|named| {
        let node = nodes.iter().find(|node| node.name.eq_ignore_ascii_case(named))?;
        Some(LocalServer { node: &node.name, run_id: &node.redis.as_ref()?.given()?.run_id })
    });
    let verdict = if server.is_some() { Verdict::of(record, heard, server) } else { first };
    VerdictFacts {
        named: verdict.named,
        points_at: verdict.points_at.map(|place| place.to_string()),
        points_at_node: verdict.points_at_node,
        points_for_seconds: None,
        answered: verdict.answered,
        needed: verdict.needed,
        total: verdict.answered + verdict.silent,
        notes: verdict.notes,
    }
}

fn sentinels(record: &Record, heard: &[Heard], managed: &[(String, std::net::IpAddr)]) -> Vec<SentinelFacts> {
    let silent = || Err(AskError::Silent);
    record
        .sentinels()
        .iter()
        .map(|entry| {
            let answer =
                heard.iter().find(|heard| heard.sentinel == *entry).map_or_else(silent, |heard| heard.answer.clone());
            let mut facts =
                SentinelFacts { address: entry.address.to_string(), id: entry.id.clone(), ..SentinelFacts::default() };
            match answer {
                Err(error) => facts.error = Some(error.to_string()),
                Ok(answer) => {
                    let address = answer.named.as_ref().and_then(Place::address);
                    facts.names_node =
                        address.and_then(|address| record.node_at(address)).map(|node| node.name.clone());
                    answered(&mut facts, &answer, |place| nobody(place, Some(record), managed));
                }
            }
            facts
        })
        .collect()
}

fn answered(facts: &mut SentinelFacts, answer: &sentinel::Answer, nobody: impl Fn(&Place) -> Option<String>) {
    if facts.id.is_empty() {
        facts.id.clone_from(&answer.id);
    }
    facts.other_id = (!answer.id.eq_ignore_ascii_case(&facts.id)).then(|| answer.id.clone());
    facts.stranger = answer.named.is_none();
    facts.names_nobody = answer.named.as_ref().and_then(nobody);
    facts.names = answer.named.as_ref().map(Place::to_string);
    if let Some(master) = &answer.master {
        facts.epoch = Some(master.config_epoch);
        // Its flags and run id then speak of the old primary.
        facts.finishing = answer.named.is_some() && master.place.is_some() && master.place != answer.named;
        if facts.finishing {
            return;
        }
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs());
        facts.names_for_seconds = seconds(master.known_for);
        facts.down_for_seconds = seconds(master.down_for);
        facts.flags = master.flags.iter().filter(|flag| *flag != "master").cloned().collect();
        facts.primary_run_id = Some(master.run_id.clone()).filter(|id| !id.is_empty());
    }
}

/// What is wrong with a place that can be a node's, and is none's of the record.
pub const NO_NODE: &str = "no node of the record";

/// Why a place that a Sentinel names can be no node's.
pub fn nobody(place: &Place, record: Option<&Record>, managed: &[(String, std::net::IpAddr)]) -> Option<String> {
    let Some(address) = place.address() else {
        return Some("a host name: Sentinels must announce addresses (sentinel announce-hostnames no)".to_owned());
    };
    if let Some(kind) = unusable(address.ip()) {
        return Some(format!("{kind}, which means another host on each host: monitor the primary by its real address"));
    }
    let canonical = address.ip().to_canonical();
    if let Some((resource, _)) = managed.iter().find(|(_, ip)| ip.to_canonical() == canonical) {
        return Some(format!(
            "an address that moves with the cluster resource {resource}: monitor the primary by its node's own address"
        ));
    }
    match record {
        Some(record) if record.node_at(address).is_none() => Some(NO_NODE.to_owned()),
        _ => None,
    }
}

/// The marks that the record's Sentinels show; None where fewer than a majority do.
fn marks(record: &Record, master: &str, settings: &Settings, within: Duration) -> Option<Vec<lease::Seen<String>>> {
    let nodes: Vec<String> = record.nodes().iter().map(|node| node.name.clone()).collect();
    let jobs = record.sentinels().iter().map(|sentinel| {
        let (address, credentials) = (sentinel.address, settings.sentinel.clone());
        move || server::ask(address, &credentials, within, &[&["CLIENT", "LIST", "TYPE", "normal"]])
    });
    let answers = together(within, jobs).into_iter().flatten();
    let lists: Vec<String> = answers.filter_map(|answer| server::text(answer.ok()?.first()?)).collect();
    (lists.len() >= record.majority())
        .then(|| lists.iter().flat_map(|list| Marks::read(&lively(list)).of(master, &nodes)).collect())
}

fn firewall(ports: gate::Ports, settings: &Settings, within: Duration) -> Firewall {
    let seen = gate::Gate::new(ports, settings.firewall, settings.firewall_within.min(within))
        .and_then(|gate| Ok((gate.state()?, gate.listeners()?)));
    let open = |state| match state {
        PortState::Closed => None,
        PortState::Open { remaining } => Some(millis(remaining)),
    };
    match seen {
        Err(error) => Firewall::Unseen { why: with_causes(&error) },
        Ok((state, listeners)) => Firewall::Seen {
            backend: state.backend.to_string(),
            baseline: match state.baseline {
                Baseline::Intact => None,
                Baseline::Missing => Some("missing".to_owned()),
                Baseline::Edited(ref what) => Some(format!("edited: {what}")),
            },
            ro_open_ms: open(state.ro),
            rw_open_ms: open(state.rw),
            listeners: listeners
                .into_iter()
                .map(|(port, at)| {
                    let means = gate::listener_means(state.of(port), ports.number(port));
                    format!("a program listens on {at} here: {means}")
                })
                .collect(),
        },
    }
}

impl NodeFacts {
    /// Whether its role attribute says `role`.
    pub fn says(&self, role: Role) -> bool {
        self.role.as_deref() == Some(role.as_str())
    }

    /// Whether it is a member that may run resources; `None` where Pacemaker does not tell.
    pub fn usable(&self) -> Option<bool> {
        self.member.map(|member| member.word() == "online")
    }
}

impl Group {
    /// The ports of its gate.
    pub fn ports(&self) -> Ports {
        Ports { ro: self.ro_port, rw: self.rw_port, redis: self.redis_port }
    }
}

/// A keeper asks each Sentinel several times a second: a line that was silent for longer, in seconds, is one that a host without power has left.
const QUIET: u64 = 5;

/// A `CLIENT LIST` without the lines of whoever is gone without a word: Sentinel lists these for minutes.
pub fn lively(list: &str) -> String {
    let quiet = |client: &&str| {
        let idle = client.split_ascii_whitespace().find_map(|field| field.strip_prefix("idle="));
        idle.and_then(|idle| idle.parse::<u64>().ok()).is_some_and(|idle| idle > QUIET)
    };
    list.lines().filter(|client| !quiet(client)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pacemaker::cib;
    use crate::params::Params;

    /// What keeps the gate off node1 and off node2, where this is among the constraints of a usual cluster.
    fn banned(constraint: &str) -> [Vec<Ban>; 2] {
        let node = |n: usize| {
            format!(
                "<node id=\"{n}\" uname=\"node{n}\"><instance_attributes id=\"n{n}\"><nvpair id=\"r{n}\" name=\"redis_role\" value=\"replica\"/>\
                 </instance_attributes></node>"
            )
        };
        let cib = cib::parse(&format!(
            "<cib><configuration><nodes>{}{}</nodes><resources><clone id=\"RedisGate-clone\"><primitive id=\"RedisGate\" class=\"ocf\" \
             provider=\"rolegate\" type=\"gate\"/></clone></resources><constraints>\
             <rsc_location id=\"own\" rsc=\"RedisGate-clone\"><rule id=\"o\" score=\"-INFINITY\"><expression id=\"oe\" attribute=\"redis_role\" \
             operation=\"eq\" value=\"replica\"/></rule></rsc_location>{constraint}</constraints></configuration></cib>",
            node(1),
            node(2)
        ))
        .unwrap();
        let resource = cib.gates[0].clone();
        let gate = Gate { resource, params: Params::read(|_| None).unwrap(), blocks: Vec::new() };
        [0, 1].map(|n| bans(&gate, &cib, &cib.nodes[n], 1_795_303_800))
    }

    #[test]
    fn bans_are_seen_by_name_by_rule_and_with_a_lifetime() {
        let ban = |until: Option<&str>| vec![Ban { constraint: "b".into(), until: until.map(str::to_owned) }];
        assert_eq!(banned(""), [vec![], vec![]]);
        let plain = |rsc: &str, score: &str| {
            banned(&format!(
                "<rsc_location id=\"b\" rsc=\"{rsc}\" role=\"Promoted\" node=\"NODE1\" score=\"{score}\"/>"
            ))
        };
        assert_eq!(plain("RedisGate-clone", "-INFINITY"), [ban(None), vec![]]);
        assert_eq!(plain("RedisGate-clone", "-1000"), [vec![], vec![]]);
        assert_eq!(plain("other", "-INFINITY"), [vec![], vec![]]);
        let rule = |inside: &str| {
            banned(&format!(
                "<rsc_location id=\"b\" rsc=\"RedisGate-clone\"><rule id=\"r\" score=\"-INFINITY\">{inside}</rule></rsc_location>"
            ))
        };
        let on_node1 = "<expression id=\"e\" attribute=\"#uname\" operation=\"eq\" value=\"node1\"/>";
        assert_eq!(rule(on_node1), [ban(None), vec![]]);
        assert_eq!(rule(&on_node1.replace("\"eq\"", "\"ne\"")), [vec![], ban(None)]);
        for (end, holds) in [("2026-11-21 23:31:00Z", true), ("2026-11-21 23:29:00Z", false), ("tomorrow", true)] {
            let found = rule(&format!("{on_node1}<date_expression id=\"d\" operation=\"lt\" end=\"{end}\"/>"));
            assert_eq!(found, [if holds { ban(Some(end)) } else { vec![] }, vec![]], "{end}");
        }
        // The cluster's own attribute, which says nothing of a node.
        assert_eq!(
            rule("<expression id=\"e\" attribute=\"#kind\" operation=\"eq\" value=\"remote\"/>"),
            [vec![], vec![]]
        );
        // Of an operator's attribute.
        assert_eq!(rule("<expression id=\"e\" attribute=\"rack\" operation=\"not_defined\"/>"), [ban(None), ban(None)]);
    }

    /// A node of which the Redis has answered INFO with this text.
    fn node(n: u8, info: &str) -> NodeFacts {
        let reply = crate::server::Value::BulkString(info.as_bytes().to_vec());
        NodeFacts {
            name: format!("node{n}"),
            address: Some(SocketAddr::from(([10, 0, 0, n], 6379))),
            redis: Some(Server::Given(instance::read(&[reply]).unwrap().into())),
            ..NodeFacts::default()
        }
    }

    /// A replica's INFO, of Redis 7.0.15; `link` is what there is of that.
    fn replica(of: &str, offset: u64, link: &str) -> String {
        format!(
            "run_id:7\r\n# Replication\r\nrole:slave\r\nmaster_host:{of}\r\nmaster_port:6379\r\n{link}slave_read_repl_offset:{offset}\r\n\
             slave_repl_offset:{offset}\r\nslave_priority:100\r\nslave_read_only:1\r\nreplica_announced:1\r\nconnected_slaves:0\r\n\
             master_failover_state:no-failover\r\nmaster_replid:8371b4fb1155b71f4a04d3e1bc3e18c4a990aeeb\r\nmaster_repl_offset:{offset}\r\n"
        )
    }

    #[test]
    fn a_replica_is_behind_the_named_primary_and_never_less_than_nothing() {
        let primary = "run_id:1\r\n# Replication\r\nrole:master\r\nconnected_slaves:3\r\n\
             slave0:ip=10.0.0.2,port=6379,state=online,offset=8812,lag=0\r\n\
             slave1:ip=10.0.0.3,port=6379,state=online,offset=9000,lag=1\r\n\
             slave2:ip=10.0.0.5,port=6379,state=wait_bgsave,offset=0,lag=0\r\n\
             master_failover_state:no-failover\r\nmaster_replid:8371b4fb1155b71f4a04d3e1bc3e18c4a990aeeb\r\nmaster_repl_offset:9000\r\n";
        let up = "master_link_status:up\r\nmaster_last_io_seconds_ago:0\r\nmaster_sync_in_progress:0\r\n";
        let down = "master_link_status:down\r\nmaster_last_io_seconds_ago:-1\r\nmaster_sync_in_progress:0\r\n\
                    master_link_down_since_seconds:41\r\n";
        let mut group = Group {
            verdict: Some(VerdictFacts { points_at_node: Some("node1".to_owned()), ..VerdictFacts::default() }),
            nodes: vec![
                node(1, primary),
                node(2, &replica("10.0.0.1", 8812, up)),
                // Asked a moment later, in which more was written.
                node(3, &replica("10.0.0.1", 9450, up)),
                // The primary has given its line up.
                node(4, &replica("10.0.0.1", 5000, down)),
                // Not online yet.
                node(5, &replica("10.0.0.1", 0, down)),
                node(6, &replica("10.0.0.4", 8812, up)),
                NodeFacts { redis: Some(Server::None { why: "silent".to_owned() }), ..node(7, primary) },
            ],
            ..Group::default()
        };
        behind(&mut group);
        let found: Vec<Option<(u64, Option<u64>)>> =
            group.nodes.iter().map(|node| node.behind.map(|behind| (behind.bytes, behind.seconds))).collect();
        let [one, two, three, four, five, six, seven] = found[..] else { panic!("{found:?}") };
        assert_eq!(one, None, "the primary itself");
        assert_eq!(two, Some((188, Some(0))));
        assert_eq!(three, Some((0, Some(1))), "further than the primary was when it was asked");
        assert_eq!(four, Some((4000, None)), "the primary does not hear from it");
        assert_eq!(five, Some((9000, None)), "it has nothing yet");
        assert_eq!(six, None, "of a replica");
        assert_eq!(seven, None, "who is silent has no offset");
        for named in [None, Some("node7")] {
            group.nodes.iter_mut().for_each(|node| node.behind = None);
            group.verdict.as_mut().unwrap().points_at_node = named.map(str::to_owned);
            behind(&mut group);
            assert!(group.nodes.iter().all(|node| node.behind.is_none()), "behind whom is not known: {named:?}");
        }
    }
}
