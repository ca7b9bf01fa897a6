//! `rolegate open --force`: breaking the glass. Opens the read-write port of this node for a time though no majority of Sentinels can say
//! who is primary, when an operator knows better than anything here can: the other nodes are gone, or seen closed.
//!
//! It runs on that node itself: without a majority of anything no request reaches it. The keeper marks the gate at all Sentinels that answer with
//! the time that it will have before it is open ([`crate::forced`]); then the others are looked at once more, so that of two
//! who open at once over one Sentinel, one sees the other.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::facts::{self, ClusterFacts, Group, Member, NodeFacts, Server};
use super::fence::{Act, marker, operator, subject, utc};
use super::judge;
use super::probe::{self, Port};
use super::status::no_such_master;
use super::{Gate, Stop, gates, is_name, say, type_name, typed};
use crate::causes::with_causes;
use crate::exit::CliCode;
use crate::forced::{Force, PREPARES, Store, now_ms};
use crate::gate::{self, Desired, Want};
use crate::keeper::socket::{self, Report, Request};
use crate::local_fence::LocalFence;
use crate::role::Role;
use crate::settings::Settings;

/// How long a look may take.
const LOOK: Duration = Duration::from_secs(2);

/// How long a lease of another node may still have to run out, and the keeper to mark.
const PATIENCE: Duration = Duration::from_secs(8);

const PAUSE: Duration = Duration::from_millis(300);

/// What the shortest time is that all firewalls can count.
const SHORTEST: Duration = Duration::from_secs(1);

/// The arguments.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "rolegate open NODE --force --for TIME [--reason TEXT] [OPTIONS]\n       rolegate open NODE --cancel"
)]
pub struct Args {
    /// This node, by its name in the cluster: it is run there
    node: String,
    /// Open for writing without a majority of Sentinels
    #[arg(long, required_unless_present = "cancel", conflicts_with = "cancel", requires = "time")]
    force: bool,
    /// For how long: 30s, 10m; at most 1h. The kernel ends it
    #[arg(long = "for", value_name = "TIME", value_parser = gate::cli::time)]
    time: Option<Duration>,
    /// Close what was forced open before its time is over
    #[arg(long)]
    cancel: bool,
    /// Nodes that cannot be reached are off, and stay so: you have seen to it
    #[arg(long)]
    peers_are_dead: bool,
    /// Why; the next operator reads it in rolegate status and in crm_mon -A
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// The node's name once more, instead of typing it when asked
    #[arg(long, value_name = "NODE")]
    confirm: Option<String>,
    /// This master name, where there are several
    #[arg(long, value_name = "NAME")]
    master: Option<String>,
}

/// Something that speaks against it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Objection {
    what: String,
    next: Option<String>,
    /// It may be gone in some seconds.
    passes: bool,
}

/// What was seen at one moment.
struct Sight {
    me: String,
    cluster: ClusterFacts,
    group: Group,
    fence: Option<String>,
    keeper: Result<Report, String>,
}

/// `rolegate open`.
pub fn run(args: &Args) -> Result<CliCode, Stop> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Stop::refused("rolegate open changes this node's firewall: run it as root"));
    }
    if args.cancel {
        return cancel(args);
    }
    let time = args.time.unwrap_or_default();
    if time < SHORTEST {
        return Err(Stop::refused("--for: at least 1s"));
    }
    let settings = Settings::load()?;
    let gate = the_gate(args)?;
    let seen = settle(args, &gate, &settings)?;
    confirm(args, &seen, time)?;
    force(args, &gate, &settings, time)
}

/// The one gate that is meant, by what stands on this node's disk or what the cluster says.
fn the_gate(args: &Args) -> Result<Gate, Stop> {
    let seen = facts::cluster(LOOK);
    let Some(cib) = &seen.cib else {
        let why = seen.facts.error.unwrap_or_default();
        return Err(Stop::unknown(format!("this node knows no gate: {why}, and it has no copy of the configuration")));
    };
    let (mut good, bad) = gates(cib);
    if let Some(master) = &args.master {
        if !good.iter().any(|gate| gate.params.master == *master) {
            return Err(no_such_master(master, &good, &bad));
        }
        good.retain(|gate| gate.params.master == *master);
    }
    let names: Vec<String> = good.iter().map(|gate| gate.params.master.clone()).collect();
    match (good.pop(), names.len()) {
        (Some(gate), 1) => Ok(gate),
        (None, _) => Err(no_such_master("", &good, &bad)),
        (Some(_), _) => {
            Err(Stop::refused(format!("several master names ({}): choose with --master", names.join(", "))))
        }
    }
}

/// This node's name, which has to be the one that was given: nobody shall open the wrong node in the wrong window.
fn this_node(seen: &facts::Seen, args: &Args) -> Result<String, Stop> {
    let host = || Some(nix::unistd::gethostname().ok()?.to_string_lossy().into_owned());
    let me = seen.facts.seen_from.clone().or_else(host).unwrap_or_default();
    if me.eq_ignore_ascii_case(&args.node) {
        return Ok(me);
    }
    let again = typed(std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()));
    Err(Stop::refused(format!("this is {me}. Run it on {}: rolegate {again}", args.node)))
}

fn look(args: &Args, gate: &Gate, settings: &Settings) -> Result<Sight, Stop> {
    let until = Instant::now() + LOOK;
    let (id, params) = (gate.resource.id.clone(), gate.params.clone());
    let (params_too, settings_too) = (params.clone(), settings.clone());
    // Pacemaker's programs take their time.
    let answers = thread::spawn(move || facts::ask(&params_too, &settings_too, until));
    let seen = facts::cluster(LOOK);
    let me = this_node(&seen, args)?;
    let answers = answers.join().map_err(|_| Stop::unknown("nobody could be asked"))?;
    let Some(cib) = &seen.cib else {
        let why = seen.facts.error.unwrap_or_default();
        let what = format!("the cluster's configuration cannot be read any more ({why})");
        return Err(Stop::unknown(format!("{what}: systemctl status pacemaker corosync, and run it again")));
    };
    let mut group = facts::compose(gate, cib, seen.mon.as_ref(), answers);
    facts::add_hand(&mut group, Some(&me));
    let keeper = match socket::ask(&Request::Report) {
        Ok(reports) => {
            let mine = reports.into_iter().find(|report| report.gate == id);
            mine.ok_or_else(|| format!("rolegate-keeper has not heard of gate {id}: systemctl restart rolegate-keeper"))
        }
        Err(error) => Err(socket::missing(&error)),
    };
    Ok(Sight { me, cluster: seen.facts, group, fence: LocalFence::default().read(), keeper })
}

/// Looks until nothing speaks against it but what lasts.
fn settle(args: &Args, gate: &Gate, settings: &Settings) -> Result<Sight, Stop> {
    let until = Instant::now() + PATIENCE;
    loop {
        let seen = look(args, gate, settings)?;
        let objections = judge_it(&seen, args.peers_are_dead);
        if objections.is_empty() {
            return Ok(seen);
        }
        if !objections.iter().all(|one| one.passes) || Instant::now() > until {
            return Err(refused(&seen, &objections));
        }
        thread::sleep(PAUSE);
    }
}

fn refused(seen: &Sight, objections: &[Objection]) -> Stop {
    let mut text = format!("{} is not opened:", seen.me);
    for Objection { what, next, .. } in objections {
        text.push_str(&format!("\n   {what}"));
        if let Some(next) = next {
            text.push_str(&format!("\n   -> {next}"));
        }
    }
    Stop::refused(text)
}

/// What speaks against opening. Pure.
fn judge_it(seen: &Sight, peers_are_dead: bool) -> Vec<Objection> {
    let Sight { me, cluster, group, fence, keeper } = seen;
    let mut found = Vec::new();
    let mut object = |what: String, next: Option<String>| found.push(Objection { what, next, passes: false });
    let rw = group.rw_port;
    let Some(verdict) = &group.verdict else {
        let next = format!("rolegate init --master {}", group.master);
        object("there is no record: who else could be open is not known".to_owned(), Some(next));
        return found;
    };
    let Some(node) = group.nodes.iter().find(|node| node.name.eq_ignore_ascii_case(me)) else {
        object(format!("{me} is not in the record"), Some(judge::go_on(&group.master)));
        return found;
    };
    if let Some(fence) = fence {
        object(format!("it is fenced: {fence}"), Some("rolegate unfence --local".to_owned()));
    } else if let Some(fence) = &node.fence {
        object(format!("it is fenced: {fence}"), Some(format!("rolegate unfence {me}")));
    }
    if let Some(place) = verdict.points_at.as_ref().filter(|_| verdict.majority_seen()) {
        let (who, next) = match &verdict.points_at_node {
            Some(named) if named.eq_ignore_ascii_case(me) => {
                ("this node".to_owned(), "rolegate status says why it is closed, and what opens it".to_owned())
            }
            Some(named) => (named.clone(), format!("rolegate switchover --to {me}, or {}", judge::failover(group))),
            None => (place.clone(), "rolegate status".to_owned()),
        };
        let answer = format!("{} of {} Sentinels", verdict.answered, verdict.total);
        object(format!("{answer} answer, and a majority names {who}: the usual way works"), Some(next));
    }
    local_redis(node, &mut object);
    if let Some(gate) = node.gate.as_ref().filter(|gate| gate.by_blocks && gate.role != "Promoted") {
        object(format!("Pacemaker runs a block here ({}), which would close it again", gate.word()), None);
    }
    if let Err(why) = keeper {
        object(format!("nobody would see that it is open: {why}"), None);
    }
    for other in group.nodes.iter().filter(|other| other.address.is_some() && other.name != node.name) {
        another(cluster, group, other, peers_are_dead, &mut object);
    }
    if keeper.as_ref().is_ok_and(|report| report.open) {
        // Without a majority it runs out, and the keeper sees that at its next look.
        let what = format!("{rw} is open here already, by a lease");
        found.push(Objection { what, next: None, passes: true });
    }
    let not_free = keeper.as_ref().map(|report| report.not_free.as_slice()).unwrap_or_default();
    if !not_free.is_empty() {
        let what = format!(
            "{} may hold a lease, by what its keeper says on the Sentinels that answer; that takes some seconds to be over",
            not_free.join(" and ")
        );
        found.push(Objection { what, next: None, passes: true });
    }
    found
}

/// What Redis on this node has to be.
fn local_redis(node: &NodeFacts, object: &mut impl FnMut(String, Option<String>)) {
    match &node.redis {
        Some(Server::Given(server)) if server.loading => {
            object("Redis here is loading its data".to_owned(), Some("wait, and try again".to_owned()));
        }
        Some(Server::Given(server)) if !server.primary => {
            let of = server.of.as_deref().unwrap_or("another");
            let port = node.address.map_or(6379, |address| address.port());
            object(
                format!("Redis here is a replica of {of}, at offset {}", server.offset),
                Some(format!(
                    "if {of} is gone for good, and no other replica has a higher offset: redis-cli -p {port} REPLICAOF NO ONE, then again"
                )),
            );
        }
        Some(Server::Given(_)) => {}
        Some(Server::None { why }) => {
            object(format!("Redis here gives no answer: {why}"), Some("systemctl status redis-server".to_owned()));
        }
        None => object("Redis here was not asked".to_owned(), None),
    }
}

/// Whether another node's gate is or may be open.
fn another(
    cluster: &ClusterFacts,
    group: &Group,
    other: &NodeFacts,
    peers_are_dead: bool,
    object: &mut impl FnMut(String, Option<String>),
) {
    let (name, rw) = (&other.name, group.rw_port);
    let quorate = cluster.quorum == Some(true);
    match &other.rw {
        Some(Port::Open { .. }) => {
            object(
                format!("{rw} is open on {name}"),
                Some(format!("use that one; or on {name}: rolegate fence --local")),
            );
            return;
        }
        Some(Port::Refused) => {}
        port => {
            let off = |member: Member| !member.online && !member.unclean;
            // Pacemaker has had it switched off, and would have it switched off again.
            let confirmed = quorate && cluster.stonith == Some(true) && other.member.is_some_and(off);
            if !peers_are_dead && !confirmed {
                let word = port.as_ref().map_or("not asked", Port::word);
                object(
                    format!("{name} may be open to others: from here its {rw} is {word}"),
                    Some(format!(
                        "cut its power, see to it that it stays off, and add --peers-are-dead; or on {name}: rolegate fence --local, and make it reachable"
                    )),
                );
            }
            return;
        }
    }
    let promoted = other.gate.as_ref().is_some_and(|gate| gate.role == "Promoted" && !gate.by_blocks);
    if quorate && promoted {
        object(
            format!("Pacemaker has promoted the gate on {name}: it may open at any moment"),
            Some(format!("rolegate fence {name} --no-switchover")),
        );
    }
}

/// Says what it means, and has the node's name typed.
fn confirm(args: &Args, seen: &Sight, time: Duration) -> Result<(), Stop> {
    let (me, group) = (&seen.me, &seen.group);
    let rw = group.rw_port;
    let at = |node: &NodeFacts| node.rw.as_ref().map_or("not asked", Port::word).to_owned();
    let others: Vec<String> = group
        .nodes
        .iter()
        .filter(|node| node.address.is_some() && node.name != *me)
        .map(|node| format!("{} ({rw} {})", node.name, at(node)))
        .collect();
    let answered = group.verdict.as_ref().map_or(String::new(), |verdict| {
        format!("{} of {} Sentinels answer here, {} are needed. ", verdict.answered, verdict.total, verdict.needed)
    });
    say(format!(
        "{answered}{rw} of {me} is to be open for writing for {}, with nothing that proves it the only one.\n\
         Others: {}.\n\
         If one of them takes writes, too, or is made primary later, what is written to one of the two is lost.\n\
         It ends by the kernel after that time; at once where a majority of Sentinels names another node, or Redis here becomes a replica.\n\
         For about that time no other node can take over where the Sentinels saw it.",
        super::span(time.as_secs()),
        if others.is_empty() { "none".to_owned() } else { others.join(", ") },
    ));
    let not_done = "nothing is opened";
    match &args.confirm {
        Some(name) => is_name(name, me, not_done),
        None => {
            let prompt = format!("Type the name of this node ({me}) to open it: ");
            type_name(me, &prompt, not_done, &format!("--confirm {me}"))
        }
    }
}

/// Has it marked, looks again, opens.
fn force(args: &Args, gate: &Gate, settings: &Settings, time: Duration) -> Result<CliCode, Stop> {
    let store = Store::new(&gate.resource.id);
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let rw = gate.params.ports.rw;
    let now = SystemTime::now();
    let end = (now + time).duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let what = format!("{rw} forced open until {} by operator", utc(end));
    let text = marker(&what, &operator(), now, args.reason.as_deref());
    let asked = now_ms();
    let mut force = Force {
        text,
        opened: false,
        until_ms: asked + millis(PREPARES) + millis(time),
        opens_until_ms: asked + millis(PREPARES),
    };
    let before = store.read();
    store.write(&force).map_err(|error| Stop::refused(format!("the keeper cannot be told: {error}")))?;
    let opened = prepare_and_open(args, gate, settings, time, &store, &force);
    if let Err(stop) = opened {
        // What was forced open before goes on.
        let back = match before {
            Some(before) => store.write(&before),
            None => store.remove(),
        };
        if let Err(error) = back {
            say(format!("warning: {error}"));
        }
        look_at_once(gate);
        return Err(stop);
    }
    let act = Act::on(&args.node, args.reason.as_deref().unwrap_or("open --force"));
    Act { role: Some(Role::Primary), ..act }.note([gate], &force.text);
    (force.opened, force.until_ms) = (true, now_ms() + millis(time));
    if let Err(error) = store.write(&force) {
        say(format!("warning: {error}: the keeper closes it in {} s", PREPARES.as_secs()));
    }
    look_at_once(gate);
    let address = gate.params.record.as_ref().ok().and_then(|record| record.node(&args.node));
    let address = address.map(|node| SocketAddr::new(node.address.ip(), rw));
    let port = address.map(|address| probe::port(address, &settings.redis, settings.answer_within));
    let ends = format!("rolegate open --cancel {} ends it before", args.node);
    match (port, address) {
        (Some(port), Some(address)) if port.takes_writes() => {
            say(format!("{} takes writes at {address} until {}; {ends}", args.node, utc(end)));
            Ok(CliCode::Ok)
        }
        (port, _) => {
            let word = port.as_ref().map_or("not asked", Port::word);
            say(format!("{rw} of {} is {word}, until {}: rolegate status says more; {ends}", args.node, utc(end)));
            Ok(CliCode::Warning)
        }
    }
}

fn look_at_once(gate: &Gate) {
    let _told = socket::ask(&Request::Permission(gate.resource.id.clone()));
}

fn prepare_and_open(
    args: &Args,
    gate: &Gate,
    settings: &Settings,
    time: Duration,
    store: &Store,
    force: &Force,
) -> Result<(), Stop> {
    look_at_once(gate);
    let until = Instant::now() + PATIENCE;
    let marked = || {
        let reports = socket::ask(&Request::Report).unwrap_or_default();
        let mine = reports.into_iter().find(|report| report.gate == gate.resource.id);
        mine.and_then(|report| report.forced).is_some_and(|forced| forced.marked && forced.text == force.text)
    };
    while !marked() {
        if Instant::now() > until {
            return Err(Stop::refused("the keeper has not told the Sentinels in time: journalctl -t rolegate-keeper"));
        }
        thread::sleep(Duration::from_millis(50));
    }
    // Behind the marks: who opens now has seen them, or is seen.
    let seen = settle(args, gate, settings)?;
    if now_ms() >= force.opens_until_ms {
        return Err(Stop::refused(format!("{}: that took too long; try again", seen.me)));
    }
    let ours = || store.read().as_ref() == Some(force) && LocalFence::default().read().is_none();
    let port = gate::Gate::new(gate.params.ports, settings.firewall, settings.firewall_within).and_then(|port| {
        port.about(subject(&seen.me, gate)).set_if(Desired { ro: Want::Keep, rw: Want::Open(time) }, ours)
    });
    match port {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(Stop::refused("the keeper has ended it: journalctl -t rolegate-keeper says why")),
        Err(error) => Err(Stop::refused(with_causes(&error))),
    }
}

/// Closes what is forced open on this node.
fn cancel(args: &Args) -> Result<CliCode, Stop> {
    let settings = Settings::load().unwrap_or_default();
    let seen = facts::cluster(LOOK);
    let me = this_node(&seen, args)?;
    let all = seen.cib.as_ref().map(|cib| gates(cib).0).unwrap_or_default();
    let meant = all.iter().filter(|gate| args.master.as_ref().is_none_or(|master| gate.params.master == *master));
    let mut code = CliCode::Ok;
    let mut closed = 0;
    for gate in meant {
        let (store, rw) = (Store::new(&gate.resource.id), gate.params.ports.rw);
        if store.read().is_none() {
            continue;
        }
        // First: the keeper then closes it, too.
        store.remove().map_err(|error| Stop::refused(error.to_string()))?;
        let port = gate::Gate::new(gate.params.ports, settings.firewall, settings.firewall_within)
            .and_then(|port| port.about(subject(&me, gate)).set(Desired { ro: Want::Keep, rw: Want::Close }));
        look_at_once(gate);
        let seen = if port.is_ok() { "is closed" } else { "was not seen closed" };
        let act = Act::on(&me, args.reason.as_deref().unwrap_or("open --cancel"));
        act.note([gate], &format!("{rw} of {me} is forced open by hand no more, and {seen}"));
        match port {
            Ok(_) => {
                closed += 1;
                say(format!("{rw} of {me} is closed"));
            }
            Err(error) => {
                say(format!("{rw} of {me} was not seen closed: {}\n   -> rolegate fence --local", with_causes(&error)));
                code = CliCode::Critical;
            }
        }
    }
    if closed == 0 && code == CliCode::Ok {
        say(format!("nothing is forced open on {me}"));
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::super::facts::{GateFacts, ServerFacts, VerdictFacts};
    use super::super::judge::tests::{healthy, healthy_cluster};
    use super::*;

    /// node1 is primary, two Sentinels are gone, all others are seen closed.
    fn sight() -> Sight {
        let mut group = healthy();
        group.nodes[0].rw = Some(Port::Refused);
        group.verdict = Some(VerdictFacts { answered: 1, needed: 2, total: 3, ..VerdictFacts::default() });
        let report = Report {
            gate: "RedisGate".into(),
            master: "mymaster".into(),
            open: false,
            why: String::new(),
            other: None,
            last_failover: None,
            forced: None,
            not_free: vec![],
            node: None,
            role: None,
            epoch: None,
        };
        Sight { me: "node1".into(), cluster: healthy_cluster(), group, fence: None, keeper: Ok(report) }
    }

    fn server(seen: &mut Sight) -> &mut ServerFacts {
        match &mut seen.group.nodes[0].redis {
            Some(Server::Given(server)) => server,
            other => panic!("{other:?}"),
        }
    }

    fn named(seen: &mut Sight, node: &str) {
        let verdict = seen.group.verdict.as_mut().unwrap();
        (verdict.answered, verdict.points_at_node) = (2, Some(node.into()));
        verdict.points_at = Some("10.0.0.2:6379".into());
    }

    /// What is done to the sight, whether --peers-are-dead, and what must be said; nothing where it may open.
    type Case = (fn(&mut Sight), bool, &'static [&'static str]);

    const TABLE: &[Case] = &[
        (|_| {}, false, &[]),
        (|s| s.group.verdict = None, true, &["no record", "rolegate init"]),
        (|s| s.me = "node9".into(), true, &["node9 is not in the record", "rolegate init --master mymaster --replace"]),
        (|s| s.fence = Some("by ann".into()), true, &["it is fenced: by ann", "rolegate unfence --local"]),
        (|s| s.group.nodes[0].fence = Some("by ann".into()), true, &["rolegate unfence node1"]),
        (|s| named(s, "node1"), true, &["a majority names this node", "rolegate status says why"]),
        (|s| named(s, "node2"), true, &["a majority names node2", "rolegate switchover --to node1"]),
        // They answer, and agree on nobody.
        (|s| s.group.verdict.as_mut().unwrap().answered = 2, false, &[]),
        (|s| server(s).loading = true, true, &["loading"]),
        (
            |s| {
                let server = server(s);
                (server.primary, server.of) = (false, Some("10.0.0.2:6379".into()));
            },
            true,
            &["a replica of 10.0.0.2:6379", "REPLICAOF NO ONE"],
        ),
        (|s| s.group.nodes[0].redis = Some(Server::None { why: "refused".into() }), true, &["no answer: refused"]),
        (|s| s.keeper = Err("rolegate-keeper does not run here".into()), true, &["rolegate-keeper does not run here"]),
        (|s| s.keeper.as_mut().unwrap().open = true, true, &["open here already"]),
        (|s| s.keeper.as_mut().unwrap().not_free = vec!["node3".into()], true, &["node3 may hold a lease"]),
        (
            |s| s.group.nodes[2].rw = Some(Port::Open { who: probe::Who::Unknown { why: "?".into() } }),
            true,
            &["6381 is open on node3", "on node3: rolegate fence --local"],
        ),
        (|s| s.group.nodes[2].rw = Some(Port::Silent), false, &["node3 may be open to others", "--peers-are-dead"]),
        (|s| s.group.nodes[2].rw = None, false, &["node3 may be open to others"]),
        (|s| s.group.nodes[2].rw = Some(Port::Silent), true, &[]),
        (
            |s| {
                s.cluster.stonith = Some(true);
                s.group.nodes[2].member = Some(Member::default());
                s.group.nodes[2].rw = Some(Port::Silent);
            },
            false,
            &[],
        ),
        (
            |s| {
                s.cluster.stonith = Some(true);
                s.group.nodes[2].member = Some(Member { unclean: true, ..Member::default() });
                s.group.nodes[2].rw = Some(Port::Silent);
            },
            false,
            &["node3 may be open"],
        ),
        (
            |s| s.group.nodes[1].gate = Some(GateFacts { role: "Promoted".into(), ..GateFacts::default() }),
            true,
            &["Pacemaker has promoted the gate on node2", "rolegate fence node2"],
        ),
        (
            |s| {
                s.cluster.quorum = Some(false);
                s.group.nodes[1].gate = Some(GateFacts { role: "Promoted".into(), ..GateFacts::default() });
            },
            true,
            &[],
        ),
    ];

    #[test]
    fn what_speaks_against_it() {
        for (n, (change, peers_are_dead, said)) in TABLE.iter().enumerate() {
            let mut seen = sight();
            change(&mut seen);
            let objections = judge_it(&seen, *peers_are_dead);
            let text = refused(&seen, &objections).message;
            assert_eq!(objections.is_empty(), said.is_empty(), "{n}: {text}");
            for part in *said {
                assert!(text.contains(part), "{n}: no {part:?} in\n{text}");
            }
        }
    }

    #[test]
    fn only_a_lease_passes_by_itself() {
        let mut seen = sight();
        seen.keeper.as_mut().unwrap().open = true;
        assert!(judge_it(&seen, true).iter().all(|one| one.passes));
        seen.keeper.as_mut().unwrap().not_free = vec!["node3".into()];
        assert!(judge_it(&seen, true).iter().all(|one| one.passes));
        seen.fence = Some("by ann".into());
        assert!(!judge_it(&seen, true).iter().all(|one| one.passes));
    }
}
