//! `rolegate fence` and `unfence`: an operator's closing of a node's ports, which no automation
//! undoes. The node keeps running; this is not STONITH.
//!
//! A fence is the attribute [`FENCE_ATTRIBUTE`], by which a location rule keeps the gate off the
//! node, and the role `fail`. fence returns when the ports have been seen closed, or says that
//! they have not. Without a cluster there is [`super::local`].

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::facts::{self, Member};
use super::judge::{self, failover};
use super::probe::{self, Port};
use super::switchover::{self, Away, Interruption};
use super::{Cluster, Gate, Stop, assign, by_hand, gates, local, look, say};
use crate::causes::with_causes;
use crate::exit::CliCode;
use crate::gate::{self, Desired};
use crate::local_fence::{ITSELF, LocalFence};
use crate::logging::{Subject, decided};
use crate::pacemaker::cib::Node;
use crate::pacemaker::{self, CrmMon, FENCE_ATTRIBUTE};
use crate::role::Role;
use crate::roles;
use crate::sentinel::{self, Verdict};
use crate::settings::Settings;
use crate::together::together;

/// How long Pacemaker may take to stop or start a gate before we say that it has not.
const WAIT: Duration = Duration::from_secs(20);

/// How long it may take until another node takes writes.
const HANDED_OVER: Duration = Duration::from_secs(25);

/// How long Redis may still be primary after another one was named: Sentinel makes it a replica
/// about 10 s after a failover.
const SETTLE: Duration = Duration::from_secs(15);

/// By when a Sentinel has been asked to move a primary away first; later it is fenced without.
const SWITCHED_OVER: Duration = Duration::from_secs(25);

const PAUSE: Duration = Duration::from_millis(150);

const CLOSED_BY: &str = "ports closed by operator";

/// How long the marker may be, in characters.
const MARKER: usize = 240;

/// The arguments of fence.
#[derive(Debug, clap::Args)]
pub struct FenceArgs {
    /// The node, by its name in the cluster
    #[arg(required_unless_present = "local")]
    node: Option<String>,
    /// This node, now, and with no cluster at all; no switchover first
    #[arg(long, conflicts_with = "node")]
    local: bool,
    /// Why; the next operator reads it in rolegate status and in crm_mon -A
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Close at once: do not move the primary away first
    #[arg(long)]
    no_switchover: bool,
}

/// The arguments of unfence.
#[derive(Debug, clap::Args)]
pub struct UnfenceArgs {
    /// The node, by its name in the cluster
    #[arg(required_unless_present = "local")]
    node: Option<String>,
    /// Lift what fence --local has set on this node
    #[arg(long, conflicts_with = "node")]
    local: bool,
}

/// Where everything starts: the cluster with quorum, its gates and the node.
struct Scene {
    cluster: Cluster,
    gates: Vec<Gate>,
    node: Node,
    settings: Settings,
}

fn scene(name: &str, otherwise: &str) -> Result<Scene, Stop> {
    let settings = Settings::load()?;
    let cluster = look().map_err(|mut stop| {
        stop.message = format!("{}. {otherwise}", stop.message);
        stop
    })?;
    let (gates, bad) = gates(&cluster.cib);
    for (resource, error) in bad {
        say(format!("gate {} is left alone: {error}", resource.id));
    }
    if gates.is_empty() {
        return Err(Stop::refused(format!(
            "the cluster has no gate (ocf:rolegate:gate). Make one:\n{}",
            super::CREATE
        )));
    }
    let Some(node) = cluster.cib.node(name).cloned() else {
        let known: Vec<&str> = cluster.cib.nodes.iter().map(|node| node.name.as_str()).collect();
        return Err(Stop::refused(format!("the cluster has no node {name}; there is {}", known.join(", "))));
    };
    // Last: the tools override quorum, and a minority's edits can win the merge.
    if !cluster.quorum {
        return Err(Stop::refused(format!("this partition has no quorum, so nothing is written. {otherwise}")));
    }
    Ok(Scene { cluster, gates, node, settings })
}

/// `rolegate fence NODE`.
pub fn fence(args: &FenceArgs) -> Result<CliCode, Stop> {
    let Some(name) = args.node.as_deref().filter(|_| !args.local) else { return local::fence(args.reason.as_deref()) };
    let hint = format!("To close its ports all the same, {}", by_hand(name));
    let scene = scene(name, &hint)?;
    let Scene { cluster, gates, node, settings } = &scene;
    let name = node.name.as_str();
    for gate in gates.iter().filter(|gate| !facts::rules(gate, &cluster.cib).by_fence) {
        say(format!(
            "warning: no location rule keeps gate {} off fenced nodes, so a failover can undo this: run rolegate init --master {}",
            gate.resource.id, gate.params.master
        ));
    }
    if !args.no_switchover && node.permanent(FENCE_ATTRIBUTE).is_none() {
        switch_over_first(gates, settings, node, &hint)?;
    }
    match node.permanent(FENCE_ATTRIBUTE) {
        Some(marker) => say(format!("{name} is fenced already: {marker}")),
        None => {
            let marker = marker(CLOSED_BY, &operator(), SystemTime::now(), args.reason.as_deref());
            pacemaker::set_attribute(name, FENCE_ATTRIBUTE, &marker)?;
            let act = Act { role: Some(Role::Fail), ..Act::on(name, args.reason.as_deref().unwrap_or("fence")) };
            act.note(gates, &format!("{name} is fenced: {marker}"));
        }
    }
    for gate in gates {
        let attribute = &gate.params.attribute;
        if node.permanent(attribute) != Some(Role::Fail.as_str()) {
            pacemaker::set_attribute(name, attribute, Role::Fail.as_str())?;
        }
    }
    // Here there is no need to wait for Pacemaker, which may be slow or have given up.
    if name.eq_ignore_ascii_case(&cluster.me) && nix::unistd::geteuid().is_root() {
        for gate in gates {
            if let Err(error) = close(name, gate, settings) {
                say(format!("warning: gate {}: {}", gate.resource.id, with_causes(&error)));
            }
        }
    }
    let seen = wait(WAIT, || closed(name, &look_at(name, gates, settings)));
    match &seen {
        Ok(()) => say(format!("{name} is fenced: its ports are closed, and stay so until rolegate unfence {name}")),
        Err(last) => {
            say(format!(
                "{name} is marked as fenced, but its ports were not seen closed within {} s: {}",
                WAIT.as_secs(),
                last.why
            ));
            say(format!("To close them all the same, {}", by_hand(name)));
            say("Where nobody reaches it: cut its power.");
        }
    }
    let who = who_takes_writes(settings, Some(name), if seen.is_ok() { HANDED_OVER } else { Duration::ZERO });
    Ok(match seen {
        Ok(()) => who,
        Err(last) if last.open => CliCode::Critical,
        Err(_) => CliCode::Unknown,
    })
}

/// Moves each primary on `node` away, where that can be.
fn switch_over_first(gates: &[Gate], settings: &Settings, node: &Node, hint: &str) -> Result<(), Stop> {
    let name = node.name.as_str();
    let is_primary = |gate: &&Gate| node.permanent(&gate.params.attribute) == Some(Role::Primary.as_str());
    let here: Vec<&Gate> = gates.iter().filter(is_primary).collect();
    if here.is_empty() {
        return Ok(());
    }
    let interruption = Interruption::listen();
    for gate in here {
        match switchover::away(gate, settings, name, &interruption, Instant::now() + SWITCHED_OVER) {
            Away::Moved => {}
            Away::Not(why) => say(format!("{}: no switchover first: {why}", gate.params.master)),
            Away::Interrupted => {}
        }
        if interruption.raised() {
            return Err(Stop::refused(format!("interrupted: {name} is not fenced")));
        }
    }
    // It took its time.
    match pacemaker::has_quorum()? {
        true => Ok(()),
        false => Err(Stop::refused(format!("this partition has lost quorum, so nothing is written. {hint}"))),
    }
}

/// `rolegate unfence NODE`.
pub fn unfence(args: &UnfenceArgs) -> Result<CliCode, Stop> {
    match args.node.as_deref().filter(|_| !args.local) {
        Some(name) => unfence_in_cluster(name, false),
        None => local::unfence(),
    }
}

/// Lifts the fence that the cluster knows of. `lifted`: one has been lifted already.
pub(super) fn unfence_in_cluster(name: &str, lifted: bool) -> Result<CliCode, Stop> {
    let scene = scene(name, "Run it in the partition that has quorum.")?;
    let Scene { cluster, gates, node, settings } = &scene;
    let name = node.name.as_str();
    let marker = node.permanent(FENCE_ATTRIBUTE);
    let here = name.eq_ignore_ascii_case(&cluster.me);
    if here && !lifted && LocalFence::default().read().is_some() {
        return Err(Stop::refused("it was fenced on this node itself: rolegate unfence --local"));
    }
    let was = marker.is_some() || lifted;
    if marker.is_some() {
        pacemaker::delete_attribute(name, FENCE_ATTRIBUTE)?;
        Act::on(name, "unfence").note(gates, &format!("{name} is no longer fenced"));
        say(format!("{name} is no longer fenced"));
    }
    if !here && marker.is_some_and(|marker| marker.contains(ITSELF)) {
        say(format!(
            "It was fenced on {name} itself. Where that fence still stands, it holds: on {name}: rolegate unfence --local"
        ));
        return Ok(CliCode::Warning);
    }
    let mut code = CliCode::Ok;
    let mut open = Vec::new();
    for gate in gates {
        match lift(name, gate, settings)? {
            Lifted::Role { role, changed } => {
                if changed {
                    say(format!("{}: {name} is {role}", gate.params.master));
                }
                open.push((gate.clone(), role));
            }
            Lifted::Not(why) => {
                say(format!("{}: {why}", gate.params.master));
                code = CliCode::Warning;
            }
        }
    }
    if !was && code == CliCode::Ok {
        say(format!("{name} was not fenced"));
    }
    let online = pacemaker::read_crm_mon()?;
    if member(&online, name).is_none_or(|member| member.word() != "online") {
        say(format!("{name} is not online in the cluster: its ports open when it is"));
        return Ok(CliCode::Warning);
    }
    for (gate, role) in open {
        code = code.max(opened(name, &gate, role, settings));
    }
    Ok(code)
}

/// What came of giving a node its role.
enum Lifted {
    /// It has this one.
    Role { role: Role, changed: bool },
    /// It has not: why.
    Not(String),
}

/// Gives the node the role that a majority of Sentinels gives it.
fn lift(name: &str, gate: &Gate, settings: &Settings) -> Result<Lifted, Stop> {
    let record = match &gate.params.record {
        Ok(record) => record,
        Err(error) => return Ok(Lifted::Not(format!("the role of {name} is left as it is: {error}"))),
    };
    if record.node(name).is_none() {
        return Ok(Lifted::Not(format!(
            "{name} is not in the record: its gate opens nothing ({})",
            judge::go_on(&gate.params.master)
        )));
    }
    let until = Instant::now() + SETTLE;
    let mut changed = false;
    loop {
        let cib = pacemaker::read_cib()?;
        let node = cib.node(name).ok_or_else(|| Stop::refused(format!("{name} is no longer in the cluster")))?;
        if roles::fenced(node) {
            return Ok(Lifted::Not(format!(
                "{name} is fenced by a transient attribute: crm_attribute -l reboot -N {name} -n {FENCE_ATTRIBUTE} -D"
            )));
        }
        let heard = sentinel::ask_all(record, &gate.params.master, &settings.sentinel, settings.answer_within);
        let verdict = Verdict::of(record, &heard, None);
        let role_now = node.permanent(&gate.params.attribute).unwrap_or("not set");
        let Some(named) = verdict.named else {
            return Ok(Lifted::Not(format!(
                "the role of {name} stays {role_now}, because no majority of Sentinels names a primary ({}); when one does, its keeper writes the role",
                verdict.notes.join("; ")
            )));
        };
        let servers = assign::servers(record, &[name.to_owned()], settings);
        let (changes, unsettled) = assign::changes(&cib, &gate.params, &named, &servers);
        if !changes.is_empty() && !pacemaker::has_quorum()? {
            return Err(Stop::refused("this partition has lost quorum: nothing more is written"));
        }
        assign::write(&cib, gate, &changes)?;
        changed |= !changes.is_empty();
        if unsettled.is_empty() {
            let role = if named.eq_ignore_ascii_case(name) { Role::Primary } else { Role::Replica };
            return Ok(Lifted::Role { role, changed });
        }
        if Instant::now() > until {
            return Ok(Lifted::Not(format!(
                "the role of {name} stays fail while its Redis is a primary, because Sentinels name {named}; when it is a replica, its keeper writes the role"
            )));
        }
        std::thread::sleep(PAUSE);
    }
}

/// Waits until the port that belongs to the role is open.
fn opened(name: &str, gate: &Gate, role: Role, settings: &Settings) -> CliCode {
    let Some(data) = gate.params.record.as_ref().ok().and_then(|record| record.node(name)) else { return CliCode::Ok };
    let number = if role == Role::Primary { gate.params.ports.rw } else { gate.params.ports.ro };
    let address = SocketAddr::new(data.address.ip(), number);
    let seen = wait(WAIT, || match probe::port(address, &settings.redis, settings.answer_within) {
        port if port.is_open() => Ok(()),
        port => Err(NotYet { why: port.word().to_owned(), open: false }),
    });
    match &seen {
        Ok(()) => {
            let what = if role == Role::Primary { "takes writes" } else { "can be read" };
            say(format!("{name} {what} at {address}"));
            CliCode::Ok
        }
        Err(last) => {
            say(format!("{address} is still {} after {} s: rolegate status says why", last.why, WAIT.as_secs()));
            CliCode::Warning
        }
    }
}

/// What was last seen where something has not come to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotYet {
    pub(super) why: String,
    /// A port was seen open.
    open: bool,
}

/// Looks again and again until it is so, twice in a row: between two actions of Pacemaker
/// things can look as they should for a moment.
pub(super) fn wait(within: Duration, mut look: impl FnMut() -> Result<(), NotYet>) -> Result<(), NotYet> {
    let until = Instant::now() + within;
    let mut before = false;
    loop {
        match look() {
            Ok(()) if before => return Ok(()),
            Ok(()) => before = true,
            Err(not_yet) if Instant::now() > until => return Err(not_yet),
            Err(_) => before = false,
        }
        std::thread::sleep(PAUSE);
    }
}

/// What is seen of a node that is to be closed.
pub(super) struct Sight {
    mon: Result<CrmMon, String>,
    gates: Vec<Gate>,
    ports: Vec<(SocketAddr, Port)>,
}

pub(super) fn look_at(name: &str, gates: &[Gate], settings: &Settings) -> Sight {
    let within = settings.answer_within;
    let addresses: Vec<SocketAddr> = gates
        .iter()
        .filter_map(|gate| Some((gate.params.record.as_ref().ok()?.node(name)?.address, gate.params.ports)))
        .flat_map(|(data, ports)| [ports.ro, ports.rw].map(|port| SocketAddr::new(data.ip(), port)))
        .collect();
    let jobs: Vec<_> = addresses
        .iter()
        .map(|&address| {
            let credentials = settings.redis.clone();
            move || probe::port(address, &credentials, within)
        })
        .collect();
    let mon = pacemaker::read_crm_mon().map_err(|error| error.to_string());
    let ports = together(within + Duration::from_millis(300), jobs);
    Sight {
        mon,
        gates: gates.to_vec(),
        ports: addresses.into_iter().zip(ports.into_iter().map(|port| port.unwrap_or(Port::Silent))).collect(),
    }
}

fn member(mon: &CrmMon, name: &str) -> Option<Member> {
    let state = mon.nodes.iter().find(|node| node.name.eq_ignore_ascii_case(name))?;
    Some(Member {
        online: state.online,
        standby: state.standby,
        maintenance: state.maintenance,
        unclean: state.unclean,
        pending: state.pending,
    })
}

/// Whether the ports of `name` are closed for certain, by what was seen.
pub(super) fn closed(name: &str, sight: &Sight) -> Result<(), NotYet> {
    if let Some((address, _)) = sight.ports.iter().find(|(_, port)| port.is_open()) {
        return Err(NotYet { why: format!("{address} is open"), open: true });
    }
    let not_yet = |why: String| Err(NotYet { why, open: false });
    let mon = match &sight.mon {
        Ok(mon) => mon,
        Err(error) => return not_yet(error.clone()),
    };
    let running =
        sight.gates.iter().map(|gate| (gate, facts::gate_on(mon, gate, name))).find(|(_, gate)| gate.role != "Stopped");
    if let Some((gate_of, gate)) = running {
        let (id, role) = (&gate_of.resource.id, gate.word());
        return not_yet(match (gate.blocked, gate.unmanaged || mon.maintenance_mode) {
            (true, _) => format!("gate {id} is {role} there, and Pacemaker has given up on it (blocked)"),
            (_, true) => format!("gate {id} is {role} there, and Pacemaker does not manage it"),
            _ => format!("gate {id} is {role} there"),
        });
    }
    // A firewall that drops what it does not know is silent about a closed port. So is a lost
    // host, of which nothing is known: it may be open to others.
    let online = member(mon, name).is_some_and(|member| member.online && !member.unclean);
    match sight.ports.iter().find(|(_, port)| *port != Port::Refused) {
        Some((address, port)) if !online => {
            not_yet(format!("{address} is {}, and {name} is not online in the cluster", port.word()))
        }
        // Nothing to connect to, and nobody who would tell.
        None if !online && sight.ports.is_empty() => not_yet(format!("{name} is not online in the cluster")),
        _ => Ok(()),
    }
}

fn close(me: &str, gate: &Gate, settings: &Settings) -> Result<(), gate::GateError> {
    let firewall = gate::Gate::new(gate.params.ports, settings.firewall, settings.firewall_within)?;
    firewall.about(subject(me, gate)).set(Desired::CLOSED).map(drop)
}

/// Says who takes writes, or that nobody does and which command comes next. Waits for that long until somebody does: where the primary was
/// fenced its keeper asks for a failover.
fn who_takes_writes(settings: &Settings, fenced: Option<&str>, patience: Duration) -> CliCode {
    let until = Instant::now() + patience;
    let mut waits_for: Option<Vec<String>> = None;
    let groups = loop {
        let seen = facts::cluster(Duration::from_secs(2));
        let Some(cib) = &seen.cib else {
            if Instant::now() >= until {
                return CliCode::Unknown;
            }
            continue;
        };
        let groups: Vec<_> = gates(cib)
            .0
            .iter()
            .map(|gate| {
                let deadline = Instant::now() + Duration::from_secs(2);
                let group = facts::group(gate, cib, seen.mon.as_ref(), settings, deadline);
                let writers = judge::group(&seen.facts, &group).writers;
                (group, writers)
            })
            .collect();
        // Of others nobody knows whether they ever will.
        let first = waits_for.is_none();
        let waits_for = waits_for.get_or_insert_with(|| {
            let was_its =
                |group: &facts::Group| group.verdict.as_ref().and_then(|v| v.points_at_node.as_deref()) == fenced;
            let closed = groups.iter().filter(|(group, writers)| writers.is_empty() && was_its(group));
            closed.map(|(group, _)| group.master.clone()).collect()
        });
        let waits = |group: &facts::Group, writers: &[String]| writers.is_empty() && waits_for.contains(&group.master);
        if !groups.iter().any(|(group, writers)| waits(group, writers)) || Instant::now() >= until {
            break groups;
        }
        if first {
            say("waiting for another node to take over");
        }
        thread::sleep(Duration::from_millis(200));
    };
    let mut code = CliCode::Ok;
    for (group, writers) in groups {
        let master = &group.master;
        if !writers.is_empty() {
            say(format!("{master}: {} takes writes", writers.join(" and ")));
            continue;
        }
        code = CliCode::Warning;
        let named = group.verdict.as_ref().and_then(|verdict| verdict.points_at_node.clone());
        match named {
            Some(node) => say(format!("{master}: nobody takes writes now: Sentinels name {node}")),
            None => say(format!("{master}: nobody takes writes now")),
        }
        if let Some(node) = fenced {
            say(format!("   -> make another node primary: {}", super::typed_here(&failover(&group))));
            say(format!("   -> or take it back: rolegate unfence {node}"));
        }
    }
    code
}

/// Who runs this: USER@HOST, the person behind sudo where there is one.
pub(super) fn operator() -> String {
    let sudo = std::env::var("SUDO_USER").ok().filter(|user| !user.is_empty());
    let user = sudo.or_else(|| {
        let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten();
        user.map(|user| user.name)
    });
    let host = nix::unistd::gethostname().map(|host| host.to_string_lossy().into_owned());
    format!("{}@{}", user.unwrap_or_else(|| "unknown".to_owned()), host.unwrap_or_else(|_| "unknown".to_owned()))
}

/// Of which the records of a gate's firewall on the node `me` are.
pub(super) fn subject(me: &str, gate: &Gate) -> Subject {
    Subject::of(Some(&gate.params.master), Some(me)).of_gate(&gate.resource.id)
}

/// What an operator has done, for the journal ([`crate::logging`]).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Act<'a> {
    /// The node that it is about, where it is about one.
    pub(super) node: Option<&'a str>,
    /// What the node is by that.
    pub(super) role: Option<Role>,
    /// Why: as the operator says, else the command.
    pub(super) reason: &'a str,
}

impl<'a> Act<'a> {
    /// On one node.
    pub(super) fn on(node: &'a str, reason: &'a str) -> Self {
        Act { node: Some(node), role: None, reason }
    }

    /// One record for each of `gates`, so that each is found by its MASTER; without any, one that has none.
    pub(super) fn note<'b>(&self, gates: impl IntoIterator<Item = &'b Gate>, what: &str) {
        let mut masters = gates.into_iter().map(|gate| gate.params.master.as_str()).peekable();
        if masters.peek().is_none() {
            self.write(None, what);
        }
        masters.for_each(|master| self.write(Some(master), &format!("{master}: {what}")));
    }

    fn write(&self, master: Option<&str>, what: &str) {
        let Act { node, role, reason } = *self;
        decided!(info, Subject::of(master, node).as_role(role), reason, OPERATOR = operator(), "{what}");
    }
}

/// What was done, by whom, when and why: for a fence the value of [`FENCE_ATTRIBUTE`]. Others print it: nothing in it may end a line or a quotation.
pub(super) fn marker(what: &str, operator: &str, now: SystemTime, reason: Option<&str>) -> String {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let reason =
        reason.map(str::trim).filter(|reason| !reason.is_empty()).map_or(String::new(), |reason| format!(": {reason}"));
    format!("{what} {operator} {}{reason}", utc(seconds))
        .chars()
        .map(|c| if c.is_control() || "\"'`<>&\\$".contains(c) { ' ' } else { c })
        .take(MARKER)
        .collect::<String>()
        .trim_end()
        .to_owned()
}

/// Seconds since 1970 as date and time (Howard Hinnant's civil_from_days, for the years to come).
pub(super) fn utc(seconds: u64) -> String {
    let (days, of_day) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pacemaker::cib::Resource;
    use crate::pacemaker::crm_mon::{NodeState, ResourceRole, ResourceState};
    use crate::params::Params;
    use proptest::prelude::*;

    fn sight(online: bool, role: ResourceRole, ports: [Port; 2]) -> Sight {
        let stopped = role == ResourceRole::Stopped;
        let mon = CrmMon {
            nodes: vec![NodeState { name: "node1".into(), online, ..NodeState::default() }],
            resources: vec![ResourceState {
                id: "RedisGate".into(),
                role,
                managed: true,
                nodes: if stopped { vec![] } else { vec!["node1".into()] },
                ..ResourceState::default()
            }],
            ..CrmMon::default()
        };
        let resource = Resource { id: "RedisGate".into(), ..Resource::default() };
        let guard = Gate { resource, params: Params::read(|_| None).unwrap(), blocks: vec![] };
        let addresses = ["10.0.0.1:6380", "10.0.0.1:6381"].map(|address| address.parse().unwrap());
        Sight { mon: Ok(mon), gates: vec![guard], ports: addresses.into_iter().zip(ports).collect() }
    }

    fn open() -> Port {
        Port::Open { who: probe::Who::Unknown { why: "no answer".into() } }
    }

    #[test]
    fn closed_is_what_was_seen_closed() {
        use ResourceRole::{Promoted, Stopped, Unpromoted};
        let refused = || [Port::Refused, Port::Refused];
        let silent = || [Port::Silent, Port::Silent];
        let ok = |sight: Sight| closed("NODE1", &sight);
        assert_eq!(ok(sight(true, Stopped, refused())), Ok(()));
        assert_eq!(ok(sight(false, Stopped, refused())), Ok(()), "the host answers, and refuses");
        assert_eq!(ok(sight(true, Stopped, silent())), Ok(()), "a firewall that drops");
        assert!(!ok(sight(false, Stopped, silent())).unwrap_err().open, "a lost host may be open to others");
        assert!(ok(sight(true, Stopped, [Port::Refused, open()])).unwrap_err().open);
        assert!(ok(sight(true, Unpromoted, refused())).unwrap_err().why.contains("Unpromoted"));
        assert!(ok(sight(true, Promoted, refused())).is_err());
        let mut blind = sight(true, Stopped, refused());
        blind.mon = Err("no answer".into());
        assert!(ok(blind).is_err());
        let mut nothing_to_ask = sight(false, Stopped, refused());
        nothing_to_ask.ports.clear();
        assert!(ok(nothing_to_ask).is_err());
    }

    #[test]
    fn waits_until_it_is_so_twice() {
        let mut answers = [true, false, true, true].into_iter();
        let look = || if answers.next().unwrap() { Ok(()) } else { Err(NotYet { why: String::new(), open: false }) };
        assert_eq!(wait(Duration::from_secs(60), look), Ok(()));
        assert_eq!(answers.next(), None);
    }

    #[test]
    fn a_marker_says_who_when_and_why() {
        let at = UNIX_EPOCH + Duration::from_secs(1_709_210_096);
        assert_eq!(
            marker(CLOSED_BY, "ann@node1", at, Some("disk failing")),
            "ports closed by operator ann@node1 2024-02-29T12:34:56Z: disk failing"
        );
        assert_eq!(
            marker(CLOSED_BY, "ann@node1", at, Some(" ")),
            "ports closed by operator ann@node1 2024-02-29T12:34:56Z"
        );
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(4_102_444_799), "2099-12-31T23:59:59Z");
    }

    proptest! {
        #[test]
        fn nothing_in_a_marker_ends_a_line_or_a_quotation(reason in any::<String>()) {
            let marker = marker(CLOSED_BY, "ann@node1", UNIX_EPOCH, Some(&reason));
            prop_assert!(!marker.chars().any(|c| c.is_control() || "\"'`<>&\\$".contains(c)));
            prop_assert!(marker.chars().count() <= MARKER && marker.starts_with("ports closed by operator"));
        }
    }
}
