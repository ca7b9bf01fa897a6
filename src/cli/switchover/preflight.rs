//! Whether a switchover may begin, and to whom. Pure: each refusal says what is in the way, and what would mend it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::course::Known;
use crate::cli::ASK_PACEMAKER;
use crate::cli::facts::{ClusterFacts, Group, Keeper, NodeFacts, Server};
use crate::cli::judge::{go_on, link, online_again, redis_cli, server_unit, set, unban, unfence};
use crate::record::canonical;
use crate::sentinel::{self, Place, Survey};
use crate::switchover::{self, Mark};

/// How far behind the target may be: what is left comes within the pause.
const BEHIND: u64 = 4 << 20;

/// And how long ago it may have acknowledged something, in seconds.
const SILENT_FOR: u64 = 2;

/// Where to see which of a node's servers does not tell what is asked, and why.
const SETTINGS: &str = "rolegate doctor --only access,redis,redis-rights";

/// Where to see that a Sentinel is in TILT.
const TILT: &str = "rolegate doctor --only sentinel-agreement";

/// What is set in the Redis of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// `min-replicas-to-write`
    pub min_replicas: u32,
    /// `min-replicas-max-lag`; with 0 the former means nothing.
    pub max_lag: u32,
    /// `replica-priority`
    pub priority: u32,
}

/// What a Sentinel says.
#[derive(Debug, Clone)]
pub struct Told {
    /// Where it is.
    pub sentinel: SocketAddr,
    /// All that it knows, or why it does not tell.
    pub survey: Result<Survey, String>,
    /// It is in TILT: it accepts a failover and does nothing for half a minute.
    pub tilt: bool,
}

/// All that is looked at before.
#[derive(Debug)]
pub struct Scene {
    /// The cluster.
    pub cluster: ClusterFacts,
    /// The master name.
    pub group: Group,
    /// Whether Pacemaker has nothing under way.
    pub idle: Result<bool, String>,
    /// What is set on each node, by its name.
    pub settings: BTreeMap<String, Result<Settings, String>>,
    /// What each Sentinel of the record says.
    pub told: Vec<Told>,
}

/// A server that takes part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Party {
    /// Its node, or its address where it is no node's.
    pub name: String,
    /// Its data address.
    pub address: SocketAddr,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The primary.
    pub old: Party,
    /// The run of its Redis.
    pub run_id: String,
    /// Its `min-replicas-to-write`.
    pub min_replicas: u32,
    /// Its `replica-priority`, which is marked while the switchover lasts.
    pub priority: u32,
    /// Who is to be primary.
    pub target: Party,
    /// The replicas that Sentinel could choose instead.
    pub others: Vec<Party>,
    /// Those of them that it would choose, with their priorities. They are put behind the target for the while.
    pub behind: Vec<(Party, u32)>,
    /// The Sentinels that can be asked.
    pub sentinels: Vec<SocketAddr>,
    /// The Sentinels' configuration epoch, the highest.
    pub epoch: Option<u64>,
}

/// What comes of the look.
#[derive(Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It may begin.
    Go(Box<Plan>),
    /// This node is primary, and takes writes.
    Already(String),
    /// It may not: why.
    No(Vec<String>),
}

/// Whether it may begin; `to` the node of that name, or the best one.
pub fn judge(scene: &Scene, to: Option<&str>) -> Judgement {
    let mut why = Vec::new();
    let group = &scene.group;
    cluster(scene, &mut why);
    let named = group.verdict.as_ref().and_then(|verdict| verdict.named.as_deref());
    let Some(old) = named.and_then(|named| node(group, named)) else {
        let notes = group.verdict.as_ref().map(|verdict| verdict.notes.join("; ")).unwrap_or_default();
        why.push(match &group.record_error {
            Some(error) => format!("{error}: rolegate status"),
            None => format!("no majority of Sentinels names a primary without doubt ({notes}): rolegate status"),
        });
        return Judgement::No(why);
    };
    sentinels(scene, old, &mut why);
    primary(group, old, &mut why);
    let Some(asked) = to else {
        let mut candidates: Vec<(&NodeFacts, Vec<String>)> = group
            .nodes
            .iter()
            .filter(|node| node.address.is_some() && node.name != old.name)
            .map(|node| (node, target(scene, old, node)))
            .collect();
        // As Sentinel would choose.
        candidates.sort_by_key(|(node, _)| {
            let priority = setting(scene, node).map_or(u32::MAX, |settings| settings.priority);
            (priority, std::cmp::Reverse(given(node).map_or(0, |server| server.offset)), node.name.clone())
        });
        return match candidates.iter().find(|(_, why)| why.is_empty()) {
            Some((target, _)) => plan(scene, old, target, why),
            None => {
                why.extend(candidates.into_iter().flat_map(|(_, why)| why));
                if why.is_empty() {
                    why.push(format!(
                        "there is no other node than {} to be primary: give another one a Redis that follows it, then {}",
                        old.name,
                        go_on(&group.master)
                    ));
                }
                Judgement::No(why)
            }
        };
    };
    let Some(to) = node(group, asked).filter(|node| node.address.is_some()) else {
        let known: Vec<&str> =
            group.nodes.iter().filter(|node| node.address.is_some()).map(|node| node.name.as_str()).collect();
        why.push(format!(
            "the record has no node {asked}; there is {}. Where it is new: {}",
            known.join(", "),
            go_on(&group.master)
        ));
        return Judgement::No(why);
    };
    if to.name == old.name {
        return if why.is_empty() { Judgement::Already(old.name.clone()) } else { Judgement::No(why) };
    }
    why.extend(target(scene, old, to));
    plan(scene, old, to, why)
}

fn node<'g>(group: &'g Group, name: &str) -> Option<&'g NodeFacts> {
    group.nodes.iter().find(|node| node.name.eq_ignore_ascii_case(name))
}

fn given(node: &NodeFacts) -> Option<&crate::cli::facts::ServerFacts> {
    node.redis.as_ref().and_then(Server::given)
}

fn setting(scene: &Scene, node: &NodeFacts) -> Option<Settings> {
    scene.settings.get(&node.name)?.as_ref().ok().copied()
}

/// Where its Redis is.
fn at(node: &NodeFacts) -> String {
    node.address.map(|address| address.to_string()).unwrap_or_default()
}

/// That a setting cannot be marked.
fn too_great(setting: &str, node: &NodeFacts, value: u32, usual: u32) -> String {
    let mend = set(&at(node), setting, usual);
    format!("{setting} of {} is {value}: at most 9999 can be put back afterwards: {mend}", node.name)
}

fn cluster(scene: &Scene, why: &mut Vec<String>) {
    let cluster = &scene.cluster;
    if let Some(error) = &cluster.error {
        why.push(format!("Pacemaker cannot be seen from here ({error}): {ASK_PACEMAKER}"));
    }
    if cluster.quorum == Some(false) {
        why.push(
            "this partition of the cluster has no quorum: run it in the one that has; corosync-quorumtool -s shows who is missing"
                .to_owned(),
        );
    }
    if cluster.maintenance_mode {
        why.push(
            "the cluster is in maintenance mode, so Pacemaker would promote nobody: crm_attribute -n maintenance-mode -v false"
                .to_owned(),
        );
    }
    match &scene.idle {
        Ok(true) => {}
        Ok(false) => why.push("Pacemaker is at work: try again when crm_mon -1 shows nothing under way".to_owned()),
        Err(error) => why.push(format!("whether Pacemaker is idle cannot be told ({error}): {ASK_PACEMAKER}")),
    }
}

fn sentinels(scene: &Scene, old: &NodeFacts, why: &mut Vec<String>) {
    for facts in &scene.group.sentinels {
        let at = &facts.address;
        if facts.error.is_some() {
            continue;
        }
        if facts.names_node.as_deref() != Some(old.name.as_str()) {
            let names = facts.names.as_deref().unwrap_or("nobody");
            why.push(format!("Sentinel {at} names {names}, the majority {}: rolegate status", old.name));
        } else if facts.finishing || facts.flags.iter().any(|flag| flag == "failover_in_progress") {
            why.push(format!("Sentinel {at} is in a failover: try again when rolegate status shows that it is over"));
        } else if let Some(flag) = facts.flags.iter().find(|flag| *flag == "s_down" || *flag == "o_down") {
            why.push(format!("Sentinel {at} takes the primary for down ({flag}): rolegate status"));
        }
    }
    for told in scene.told.iter().filter(|told| told.tilt) {
        why.push(format!(
            "Sentinel {} is in TILT: try again in half a minute; {TILT} shows whether it is over",
            told.sentinel
        ));
    }
    if !scene.told.iter().any(|told| told.survey.is_ok() && !told.tilt) {
        why.push("no Sentinel tells what it knows of the replicas: rolegate status".to_owned());
    }
}

fn primary(group: &Group, old: &NodeFacts, why: &mut Vec<String>) {
    let name = &old.name;
    let writers: Vec<&str> = group
        .nodes
        .iter()
        .filter(|node| node.rw.as_ref().is_some_and(|port| port.takes_writes()))
        .map(|node| node.name.as_str())
        .collect();
    if writers != [name.as_str()] {
        let who = if writers.is_empty() { "nobody".to_owned() } else { writers.join(" and ") };
        why.push(format!("{name} is primary, and {who} takes writes: rolegate status"));
    }
    if given(old).is_none() {
        why.push(format!("Redis on {name} does not answer: rolegate status"));
    }
    // It closes the port, and puts back what is left.
    if old.keeper != Some(Keeper::Lease) {
        why.push(format!("{name} has no keeper that the Sentinels know: rolegate status"));
    }
}

/// What speaks against `node`.
fn target(scene: &Scene, old: &NodeFacts, node: &NodeFacts) -> Vec<String> {
    let mut why = Vec::new();
    let name = &node.name;
    let mut say = |what: String| why.push(format!("{name} {what}"));
    if let Some(fence) = &node.fence {
        say(format!("is fenced ({fence}): {}", unfence(name, fence)));
    }
    match node.member {
        Some(member) if member.word() == "online" => {}
        Some(member) => {
            let word = member.word();
            say(format!("is {word} in the cluster: {}", online_again(name, word)));
        }
        None => say(format!("is no member of the cluster: {}", online_again(name, "no member"))),
    }
    for ban in &node.bans {
        say(format!("is banned by {0}: {1}", ban.constraint, unban(&ban.constraint)));
    }
    match &node.gate {
        Some(gate) if gate.blocked || gate.unmanaged => {
            // A failed stop blocks it; unmanaged by a setting, which no cleanup ends.
            let next = match gate.blocked {
                true => format!("crm_resource {}", scene.group.cleanup),
                false => "rolegate status".to_owned(),
            };
            say(format!("has a gate that Pacemaker does not manage ({}): {next}", gate.word()));
        }
        Some(gate) if gate.role == "Unpromoted" => {}
        Some(gate) => say(format!("has a gate that is {}: rolegate status", gate.word())),
        None => say("has no gate that Pacemaker shows: rolegate status".to_owned()),
    }
    if node.keeper != Some(Keeper::Closed) {
        say(format!("has no keeper that the Sentinels know: on {name}: systemctl start rolegate-keeper"));
    }
    if !node.ro.as_ref().is_some_and(|port| port.is_open()) {
        say(format!("is closed for reading ({}): rolegate status", scene.group.ro_port));
    }
    let server = match &node.redis {
        Some(Server::Given(server)) => server,
        Some(Server::None { why: error }) => {
            say(format!("has a Redis that does not answer: {error}: {}", server_unit(name)));
            return why;
        }
        None => {
            say(format!("is not in the record: {}", go_on(&scene.group.master)));
            return why;
        }
    };
    let of_old = |of: &String| of.parse().ok().map(canonical) == old.address.map(canonical);
    match &server.of {
        Some(of) if of_old(of) && server.link_up && !server.loading => {}
        Some(of) if of_old(of) => {
            say("is not linked to its primary: wait until rolegate status shows it linked".to_owned());
        }
        Some(of) => say(format!("follows {of}, and not {}: rolegate status", old.name)),
        None => say("is no replica: rolegate status".to_owned()),
    }
    if let Some(primary) = given(old) {
        let behind = primary.offset.saturating_sub(server.offset);
        if behind > BEHIND {
            say(format!(
                "is {behind} bytes behind, at most {BEHIND} can be waited for: try again when rolegate status shows less"
            ));
        }
        let same = |address: &str| address.parse().ok().map(canonical) == node.address.map(canonical);
        let silent = primary.replicas.iter().find(|replica| same(&replica.address));
        match silent {
            Some(replica) if replica.acknowledged_seconds > SILENT_FOR => {
                say(format!(
                    "has acknowledged nothing for {} s: {}",
                    replica.acknowledged_seconds,
                    link(&scene.group, name)
                ));
            }
            _ => {}
        }
    }
    for told in &scene.told {
        let Ok(survey) = &told.survey else { continue };
        let known = survey.replicas.iter().find(|known| {
            known.place.address().map(canonical) == node.address.map(canonical) && node.address.is_some()
        });
        match known {
            None => say(format!("is no replica that Sentinel {} knows: rolegate status", told.sentinel)),
            Some(known) if known.down => say(format!("is down for Sentinel {}: rolegate status", told.sentinel)),
            Some(known) if !known.linked => {
                say(format!(
                    "is out of reach of Sentinel {} (disconnected): try again in some seconds; if it goes on so: rolegate status",
                    told.sentinel
                ));
            }
            Some(_) => {}
        }
    }
    let usual = || set(&at(node), "replica-priority", 100);
    match scene.settings.get(name) {
        Some(Ok(settings)) if settings.priority >= switchover::FIRST => {
            say(format!("has replica-priority {}, behind which nobody can be put: {}", settings.priority, usual()))
        }
        Some(Ok(settings)) if settings.priority == 0 => say(format!(
            "has replica-priority 0, so that Sentinel never chooses it: {}    (or choose another node)",
            usual()
        )),
        Some(Ok(_)) => {}
        Some(Err(error)) => say(format!("does not tell its settings ({error}): {SETTINGS}")),
        None => say(format!("does not tell its settings: {SETTINGS}")),
    }
    why
}

fn plan(scene: &Scene, old: &NodeFacts, to: &NodeFacts, mut why: Vec<String>) -> Judgement {
    for (name, settings) in &scene.settings {
        let marked = |value: u32| Mark::of(value).is_some();
        if settings.as_ref().is_ok_and(|settings| marked(settings.min_replicas) || marked(settings.priority)) {
            why.push(format!(
                "a switchover is under way, or one was broken off a moment ago ({name} has its marks): try again in 5 s; if it goes on so: rolegate status"
            ));
        }
    }
    let of_old = match scene.settings.get(&old.name) {
        Some(Ok(settings)) => *settings,
        Some(Err(error)) => {
            why.push(format!("{} does not tell its settings ({error}): {SETTINGS}", old.name));
            return Judgement::No(why);
        }
        None => {
            why.push(format!("{} does not tell its settings: {SETTINGS}", old.name));
            return Judgement::No(why);
        }
    };
    if of_old.max_lag == 0 {
        why.push(format!(
            "{} has min-replicas-max-lag 0, with which writes cannot be stopped: {}",
            old.name,
            set(&at(old), "min-replicas-max-lag", 10)
        ));
    }
    for (setting, value, usual) in
        [("min-replicas-to-write", of_old.min_replicas, 1), ("replica-priority", of_old.priority, 100)]
    {
        if Mark::of(value).is_none() && Mark::new(value, 0).is_none() {
            why.push(too_great(setting, old, value, usual));
        }
    }
    let (others, behind) = others(scene, old, to, &mut why);
    let run_id = given(old).map(|server| server.run_id.clone()).unwrap_or_default();
    let (Some(old_address), Some(address), true) = (old.address, to.address, why.is_empty()) else {
        return Judgement::No(why);
    };
    Judgement::Go(Box::new(Plan {
        old: Party { name: old.name.clone(), address: old_address },
        run_id,
        min_replicas: of_old.min_replicas,
        priority: of_old.priority,
        target: Party { name: to.name.clone(), address },
        others,
        behind,
        sentinels: scene
            .told
            .iter()
            .filter(|told| told.survey.is_ok() && !told.tilt)
            .map(|told| told.sentinel)
            .collect(),
        epoch: sentinel::highest_epoch(
            scene.told.iter().filter_map(|told| told.survey.as_ref().ok()).map(|survey| &survey.answer),
        ),
    }))
}

/// The replicas other than `to` that a Sentinel could choose, and those that must be put behind it. What is promoted instead must lack
/// nothing, and what is marked must be put back: so they are to be as well as the target.
fn others(scene: &Scene, old: &NodeFacts, to: &NodeFacts, why: &mut Vec<String>) -> (Vec<Party>, Vec<(Party, u32)>) {
    let priority = setting(scene, to).map_or(0, |settings| settings.priority);
    let (mut others, mut behind): (Vec<Party>, Vec<(Party, u32)>) = (Vec::new(), Vec::new());
    let (old_at, to_at) = (old.address.map(canonical), to.address.map(canonical));
    let replicas = scene.told.iter().filter_map(|told| told.survey.as_ref().ok()).flat_map(|survey| &survey.replicas);
    let mut seen = Vec::new();
    for replica in replicas.filter(|replica| !replica.down && replica.priority != 0) {
        let Some(address) = replica.place.address() else {
            why.push(format!(
                "Sentinels know a replica by the host name {}: it must announce its address: rolegate doctor --only announce",
                replica.place
            ));
            continue;
        };
        let at = Some(canonical(address));
        if at == old_at || at == to_at || seen.contains(&at) {
            continue;
        }
        seen.push(at);
        let Some(node) = scene.group.nodes.iter().find(|node| node.address.map(canonical) == at) else {
            why.push(format!(
                "Sentinels could choose {address}, which is not in the record: {}, or {} CONFIG SET replica-priority 0",
                go_on(&scene.group.master),
                redis_cli(&address.to_string())
            ));
            continue;
        };
        let name = &node.name;
        let party = Party { name: name.clone(), address };
        let own = match scene.settings.get(name) {
            Some(Ok(settings)) if settings.priority == 0 => continue,
            Some(Ok(settings)) => settings.priority,
            Some(Err(error)) => {
                why.push(format!(
                    "{name} does not tell its settings ({error}), and Sentinel could choose it: {SETTINGS}"
                ));
                continue;
            }
            None => {
                why.push(format!("{name} does not tell its settings, and Sentinel could choose it: {SETTINGS}"));
                continue;
            }
        };
        let lacks = match given(node) {
            _ if node.keeper != Some(Keeper::Closed) => Some("has no keeper that the Sentinels know".to_owned()),
            None => Some("has a Redis that does not answer".to_owned()),
            Some(server) => {
                let of_old = |of: &String| of.parse().ok().map(canonical) == old_at;
                let follows = server.of.as_ref().is_some_and(of_old) && server.link_up && !server.loading;
                let behind = given(old).map_or(0, |primary| primary.offset.saturating_sub(server.offset));
                match follows {
                    false => Some(format!("is not linked to {}", old.name)),
                    true => (behind > BEHIND).then(|| format!("is {behind} bytes behind")),
                }
            }
        };
        if let Some(lacks) = lacks {
            why.push(format!(
                "{name} {lacks}, and Sentinel could choose it: rolegate status, or {} CONFIG SET replica-priority 0 and try again in 10 s",
                redis_cli(&address.to_string())
            ));
            continue;
        }
        if own <= priority {
            if Mark::of(own).is_none() && Mark::new(own, 0).is_none() {
                why.push(too_great("replica-priority", node, own, 100));
            }
            behind.push((party.clone(), own));
        }
        others.push(party);
    }
    (others, behind)
}

/// What a Sentinel knows that matters now: whether it would choose `target`, and how old its answer of that one is.
pub fn known(survey: &Survey, old: SocketAddr, target: SocketAddr) -> Option<Known> {
    let at = |place: &Place| place.address().map(canonical);
    let named = survey.answer.named.as_ref().and_then(at) == Some(canonical(old));
    let flags = survey.answer.master.as_ref().map(|master| master.flags.as_slice()).unwrap_or_default();
    let free = !flags.iter().any(|flag| matches!(flag.as_str(), "failover_in_progress" | "s_down" | "o_down"));
    let mut its = None;
    let mut others = Vec::new();
    for replica in survey.replicas.iter() {
        if at(&replica.place) == Some(canonical(target)) {
            its = Some(replica);
        } else if !replica.down && replica.priority != 0 {
            others.push(replica.priority);
        }
    }
    let its = its?;
    let can = its.priority != 0 && !its.down && its.linked && its.is_replica;
    let first = can && others.iter().all(|other| *other > its.priority);
    Some(Known {
        chooses_target: named && free && first,
        knows_roles: survey.replicas.iter().all(|replica| replica.is_replica || replica.down),
        age: its.info_age.unwrap_or(Duration::MAX / 4),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::facts::{Ban, GateFacts, Member, ReplicaFacts, SentinelFacts, ServerFacts, VerdictFacts};
    use crate::cli::probe::{Port, Who};
    use crate::cli::tests::sent;
    use crate::local_fence::ITSELF;
    use crate::sentinel::{Answer, Master};

    fn address(n: usize) -> SocketAddr {
        format!("10.0.0.{n}:6379").parse().unwrap()
    }

    fn place(n: usize) -> Place {
        Place { host: format!("10.0.0.{n}"), port: 6379 }
    }

    /// What a Sentinel knows, node1 being the primary: each replica's priority and the age of its last answer.
    fn survey(replicas: &[(usize, u32, u64)]) -> Survey {
        let master = Master { place: Some(place(1)), flags: vec!["master".into()], ..Master::default() };
        Survey {
            answer: Answer { id: "s".into(), named: Some(place(1)), master: Some(master) },
            peers: vec![],
            replicas: replicas
                .iter()
                .map(|&(n, priority, age)| sentinel::Known {
                    place: place(n),
                    down: false,
                    linked: true,
                    is_replica: true,
                    priority,
                    info_age: Some(Duration::from_millis(age)),
                })
                .collect(),
        }
    }

    fn node_n(n: usize) -> NodeFacts {
        let primary = n == 1;
        let server = ServerFacts {
            run_id: format!("run{n}"),
            primary,
            offset: if primary { 1000 } else { 990 + n as u64 },
            replicas: if primary {
                [2, 3].map(|n| ReplicaFacts { address: address(n).to_string(), acknowledged_seconds: 1 }).to_vec()
            } else {
                vec![]
            },
            of: (!primary).then(|| "10.0.0.1:6379".to_owned()),
            link_up: !primary,
            ..ServerFacts::default()
        };
        let open = || Some(Port::Open { who: Who::Known { run_id: format!("run{n}"), primary, loading: false } });
        NodeFacts {
            name: format!("node{n}"),
            address: Some(address(n)),
            member: Some(Member { online: true, ..Member::default() }),
            gate: Some(GateFacts {
                role: if primary { "Promoted" } else { "Unpromoted" }.to_owned(),
                ..GateFacts::default()
            }),
            redis: Some(Server::Given(server)),
            keeper: Some(if primary { Keeper::Lease } else { Keeper::Closed }),
            ro: open(),
            rw: if primary { open() } else { Some(Port::Refused) },
            ..NodeFacts::default()
        }
    }

    /// Three nodes that are well, node1 the primary.
    fn well() -> Scene {
        let sentinels = (1..=3).map(|n| SentinelFacts {
            address: format!("10.0.0.{n}:26379"),
            names: Some("10.0.0.1:6379".into()),
            names_node: Some("node1".into()),
            ..SentinelFacts::default()
        });
        let group = Group {
            master: "mymaster".into(),
            resource: "RedisGate".into(),
            nodes: (1..=3).map(node_n).collect(),
            sentinels: sentinels.collect(),
            verdict: Some(VerdictFacts { named: Some("node1".into()), ..VerdictFacts::default() }),
            ..Group::default()
        };
        let settings = Settings { min_replicas: 1, max_lag: 10, priority: 100 };
        let told = |n| Told {
            sentinel: format!("10.0.0.{n}:26379").parse().unwrap(),
            survey: Ok(survey(&[(2, 100, 10), (3, 100, 10)])),
            tilt: false,
        };
        Scene {
            cluster: ClusterFacts { quorum: Some(true), ..ClusterFacts::default() },
            group,
            idle: Ok(true),
            settings: (1..=3).map(|n| (format!("node{n}"), Ok(settings))).collect(),
            told: (1..=3).map(told).collect(),
        }
    }

    fn go(scene: &Scene, to: Option<&str>) -> Plan {
        match judge(scene, to) {
            Judgement::Go(plan) => *plan,
            other => panic!("{other:?}"),
        }
    }

    fn set(scene: &mut Scene, node: usize, change: impl FnOnce(&mut Settings)) {
        change(scene.settings.get_mut(&format!("node{node}")).unwrap().as_mut().unwrap());
    }

    fn server(scene: &mut Scene, node: usize) -> &mut ServerFacts {
        match &mut scene.group.nodes[node - 1].redis {
            Some(Server::Given(server)) => server,
            other => panic!("{other:?}"),
        }
    }

    fn replica(scene: &mut Scene, sentinel: usize, n: usize) -> &mut sentinel::Known {
        &mut scene.told[sentinel].survey.as_mut().unwrap().replicas[n]
    }

    #[test]
    fn it_goes_where_it_is_told_or_to_the_best() {
        let mut scene = well();
        let plan = go(&scene, Some("NODE2"));
        assert_eq!(
            (plan.old.name.as_str(), plan.target.name.as_str(), plan.run_id.as_str()),
            ("node1", "node2", "run1")
        );
        assert_eq!((plan.min_replicas, plan.sentinels.len(), plan.epoch), (1, 3, Some(0)));
        let behind: Vec<_> = plan.behind.iter().map(|(party, before)| (party.name.as_str(), *before)).collect();
        assert_eq!((behind, plan.others.len(), plan.priority), (vec![("node3", 100)], 1, 100));
        // The further one; but priority goes before.
        assert_eq!(go(&scene, None).target.name, "node3");
        set(&mut scene, 2, |settings| settings.priority = 50);
        let plan = go(&scene, None);
        assert_eq!((plan.target.name.as_str(), plan.behind.len()), ("node2", 0), "Sentinel would choose it by itself");
        assert_eq!(plan.others.len(), 1, "where it cannot, it would choose the other");
        // A great one is not touched where it need not be.
        set(&mut scene, 3, |settings| settings.priority = 2_000_000_000);
        assert_eq!(go(&scene, None).behind, []);
        set(&mut scene, 3, |settings| settings.priority = 100);
        scene.group.nodes[1].fence = Some("by root".into());
        assert_eq!(go(&scene, None).target.name, "node3", "the best that can be");
        assert_eq!(judge(&well(), Some("node1")), Judgement::Already("node1".into()));
        // One Sentinel may have missed a failover, and another may not answer.
        let mut scene = well();
        scene.told[1].survey.as_mut().unwrap().answer.master.as_mut().unwrap().config_epoch = 7;
        scene.told[2].survey = Err("no answer".into());
        assert_eq!(go(&scene, None).epoch, Some(7));
        // Whoever cannot be chosen may be as he likes.
        let mut scene = well();
        set(&mut scene, 3, |settings| settings.priority = 0);
        scene.group.nodes[2].redis = None;
        scene.group.nodes[2].keeper = Some(Keeper::Missing);
        assert_eq!(go(&scene, Some("node2")).others, []);
    }

    #[test]
    fn whatever_is_in_the_way_is_named() {
        type Change = fn(&mut Scene);
        let cases: [(Change, &str); 44] = [
            (|s| s.cluster.quorum = Some(false), "no quorum"),
            (|s| s.cluster.maintenance_mode = true, "maintenance mode"),
            (|s| s.cluster.error = Some("gone".into()), "cannot be seen from here"),
            (|s| s.idle = Ok(false), "Pacemaker is at work"),
            (|s| s.idle = Err("no DC".into()), "no DC"),
            (|s| s.group.verdict = None, "no majority"),
            (|s| s.group.nodes[0].redis = Some(Server::None { why: "refused".into() }), "Redis on node1 does not"),
            (|s| s.group.sentinels[1].names_node = Some("node3".into()), "Sentinel 10.0.0.2:26379 names"),
            (|s| s.group.sentinels[1].finishing = true, "is in a failover"),
            (|s| s.group.sentinels[2].flags = vec!["failover_in_progress".into()], "is in a failover"),
            (|s| s.group.sentinels[2].flags = vec!["s_down".into()], "takes the primary for down"),
            (|s| s.told[0].tilt = true, "in TILT"),
            (|s| s.told.iter_mut().for_each(|told| told.survey = Err("no".into())), "no Sentinel tells"),
            (|s| s.group.nodes[0].rw = Some(Port::Refused), "node1 is primary, and nobody takes writes"),
            (|s| s.group.nodes[1].fence = Some("by root".into()), "node2 is fenced (by root): rolegate unfence node2"),
            (|s| s.group.nodes[1].member = None, "no member"),
            (
                |s| s.group.nodes[1].member.as_mut().unwrap().standby = true,
                "node2 is standby in the cluster: crm_standby -N node2 -D",
            ),
            (
                |s| s.group.nodes[1].member.as_mut().unwrap().online = false,
                "node2 is offline in the cluster: on node2: systemctl status corosync pacemaker",
            ),
            (|s| s.group.nodes[1].fence = Some(format!("by root {ITSELF}")), "on node2: rolegate unfence --local"),
            (|s| s.group.nodes[1].redis = None, "is not in the record: rolegate init --master mymaster --replace"),
            (
                |s| {
                    let ban = |constraint: &str| Ban { constraint: constraint.into(), until: None };
                    s.group.nodes[1].bans = vec![ban("cli-ban-RedisGate-clone-on-node2")];
                },
                "banned by cli-ban-RedisGate-clone-on-node2: pcs constraint delete cli-ban-RedisGate-clone-on-node2    or: cibadmin --delete",
            ),
            (|s| s.group.nodes[1].gate.as_mut().unwrap().role = "Stopped".into(), "gate that is Stopped"),
            (|s| s.group.nodes[1].gate.as_mut().unwrap().unmanaged = true, "does not manage"),
            (|s| s.group.nodes[1].keeper = Some(Keeper::Missing), "node2 has no keeper"),
            (|s| s.group.nodes[0].keeper = None, "node1 has no keeper"),
            (|s| s.group.nodes[1].ro = Some(Port::Silent), "closed for reading"),
            (|s| s.group.nodes[1].redis = Some(Server::None { why: "refused".into() }), "does not answer: refused"),
            (|s| server(s, 2).link_up = false, "not linked"),
            (|s| server(s, 2).of = Some("10.0.0.3:6379".into()), "follows 10.0.0.3:6379"),
            (|s| [1, 3].into_iter().for_each(|n| server(s, n).offset = BEHIND + 2000), "node2 is 4195312 bytes behind"),
            (|s| server(s, 1).replicas[0].acknowledged_seconds = 9, "acknowledged nothing for 9 s"),
            (|s| set(s, 2, |settings| settings.priority = 0), "replica-priority 0"),
            (|s| set(s, 1, |settings| settings.max_lag = 0), "min-replicas-max-lag 0"),
            (|s| set(s, 1, |settings| settings.min_replicas = 10_000), "at most 9999"),
            (|s| set(s, 1, |settings| settings.priority = 1_000_000_000), "at most 9999"),
            (|s| set(s, 2, |settings| settings.priority = 1_000_000_000), "behind which nobody"),
            (|s| replica(s, 0, 0).down = true, "node2 is down for Sentinel 10.0.0.1:26379"),
            (|s| replica(s, 1, 0).linked = false, "node2 is out of reach of Sentinel 10.0.0.2:26379"),
            (|s| drop(s.told[2].survey.as_mut().unwrap().replicas.remove(0)), "node2 is no replica that Sentinel"),
            // The other one could be chosen instead.
            (|s| server(s, 3).link_up = false, "node3 is not linked to node1"),
            (|s| server(s, 3).of = Some("10.0.0.2:6379".into()), "node3 is not linked to node1"),
            (|s| s.group.nodes[2].keeper = Some(Keeper::Missing), "node3 has no keeper"),
            (|s| drop(s.settings.insert("node3".into(), Err("no".into()))), "node3 does not tell"),
            (|s| replica(s, 0, 1).place = place(4), "10.0.0.4:6379, which is not in the record"),
        ];
        for (change, says) in cases {
            let mut scene = well();
            change(&mut scene);
            let Judgement::No(why) = judge(&scene, Some("node2")) else { panic!("{says}: it would go") };
            assert!(why.len() == 1 && why[0].contains(says), "{says}: {why:?}");
            assert!(why.iter().all(|why| has_command(why)), "nothing to type: {why:?}");
        }
        let mut scene = well();
        set(&mut scene, 3, |settings| settings.priority = Mark::new(100, 1).unwrap().value());
        let Judgement::No(why) = judge(&scene, Some("node2")) else { panic!("a second one at a time") };
        assert!(why[0].contains("is under way") && has_command(&why[0]), "{why:?}");
        let Judgement::No(why) = judge(&well(), Some("node9")) else { panic!("no such node") };
        assert!(why[0].contains("there is node1, node2, node3") && has_command(&why[0]), "{why:?}");
        let mut alone = well();
        alone.group.nodes.truncate(1);
        let Judgement::No(why) = judge(&alone, None) else { panic!("to whom?") };
        assert!(has_command(&why[0]), "{why:?}");
    }

    /// Whether there is something that can be typed as it stands.
    fn has_command(text: &str) -> bool {
        let typed = ["rolegate ", "redis-cli ", "crm_", "corosync-quorumtool ", "systemctl ", "pcs "];
        typed.iter().any(|program| text.contains(program)) && sent(text)
    }

    #[test]
    fn a_sentinel_chooses_by_what_it_has_heard_so_far() {
        let raised = Mark::new(100, 3).unwrap().value();
        let chooses = |replicas: &[(usize, u32, u64)], target| {
            known(&survey(replicas), address(1), address(target))
                .map(|known| (known.chooses_target, known.age.as_millis()))
        };
        assert_eq!(chooses(&[(2, 100, 600), (3, raised, 20)], 2), Some((true, 600)));
        assert_eq!(chooses(&[(2, 100, 600), (3, 100, 9000)], 2), Some((false, 600)), "not heard yet");
        assert_eq!(chooses(&[(2, 100, 600), (3, 0, 9000)], 2), Some((true, 600)));
        assert_eq!(chooses(&[(2, 0, 600)], 2), Some((false, 600)));
        assert_eq!(chooses(&[(3, 100, 600)], 2), None);
        let mut busy = survey(&[(2, 100, 600)]);
        busy.answer.master.as_mut().unwrap().flags.push("failover_in_progress".into());
        assert!(!known(&busy, address(1), address(2)).unwrap().chooses_target);
        let mut down = survey(&[(2, 100, 600), (3, 100, 1)]);
        down.replicas[1].down = true;
        assert!(known(&down, address(1), address(2)).unwrap().chooses_target, "it cannot be chosen");
        type Change = fn(&mut sentinel::Known);
        let changes: [Change; 2] = [|known| known.linked = false, |known| known.is_replica = false];
        for change in changes {
            let mut strange = survey(&[(2, 100, 600), (3, 0, 600)]);
            change(&mut strange.replicas[0]);
            assert!(!known(&strange, address(1), address(2)).unwrap().chooses_target);
        }
        let mut stale = survey(&[(2, 100, 600), (3, 0, 600)]);
        assert!(known(&stale, address(1), address(2)).unwrap().knows_roles);
        stale.replicas[1].is_replica = false;
        assert!(!known(&stale, address(1), address(2)).unwrap().knows_roles);
        assert!(!known(&down, address(9), address(2)).unwrap().chooses_target, "another primary");
    }
}
