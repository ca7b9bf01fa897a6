//! `rolegate init`: finds the Sentinels and the nodes' data addresses, shows what it found, and
//! writes the record, the location rules and the first roles. A second run changes nothing.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use super::fence::{Act, operator};
use super::found::{self, Found, Given};
use super::judge::without_quorum;
use super::probe;
use super::status::{columns, set_right};
use super::{Cluster, Gate, Stop, assign, change, facts, gates, look, say, typed};
use crate::exit::CliCode;
use crate::gate::Port;
use crate::layout::master_of;
use crate::logging::{Subject, decided};
use crate::pacemaker::cib::Resource;
use crate::pacemaker::{self, CrmMon, FENCE_ATTRIBUTE};
use crate::record::{Basis, NodeEntry, Record, RecordError};
use crate::roles;
use crate::sentinel::Place;
use crate::server::AskError;
use crate::settings::{Settings, look_at_credentials};
use std::time::Instant;

/// How long the first opening may take before we say that it has not come.
const WAIT: Duration = Duration::from_secs(25);

/// How long all nodes may take to follow a step, in seconds.
const WAIT_FOR_NODES: u64 = 60;

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The master name, where there are several gates
    #[arg(long, value_name = "NAME")]
    master: Option<String>,
    /// The gate resource, where there are several
    #[arg(long, value_name = "ID")]
    resource: Option<String>,
    /// The first Sentinel to ask, instead of the one on this node
    #[arg(long, value_name = "IP:PORT")]
    sentinel: Option<SocketAddr>,
    /// A node's data address, where it is another than its own (repeatable)
    #[arg(long = "node", value_name = "NAME=IP:PORT")]
    nodes: Vec<Node>,
    /// A node of the record that is to leave it (repeatable)
    #[arg(long = "without", value_name = "NAME")]
    without: Vec<String>,
    /// Replace a record that says something else: step by step, or at once with the gate disabled
    #[arg(long)]
    replace: bool,
    /// How long all nodes may take to follow each step, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = WAIT_FOR_NODES)]
    wait: u64,
    /// Show what would be written, and in which steps
    #[arg(long)]
    dry_run: bool,
}

/// A `--node`.
#[derive(Debug, Clone)]
struct Node(NodeEntry);

impl FromStr for Node {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, address) = text.split_once('=').ok_or("NAME=ADDRESS:PORT is wanted")?;
        let address = address.parse().map_err(|_| format!("{address:?} is not an address and a port"))?;
        Ok(Node(NodeEntry { name: name.to_owned(), address }))
    }
}

/// What is to be written.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// The record, if it is to be written.
    record: Option<Record>,
    /// Location constraints that are missing, as XML.
    constraints: Vec<String>,
    /// Meta-attributes that are missing: resource, name and value.
    meta: Vec<(Resource, &'static str, &'static str)>,
    /// What stands there and differs, but is left.
    notes: Vec<String>,
}

/// Without these a promote that failed would be tried again when something else happens in the cluster, or after the
/// recheck interval of 15 minutes. The shipped configuration's values, with its reasons.
pub(super) const META: [(&str, &str); 2] = [("failure-timeout", "15s"), ("migration-threshold", "5")];

/// Finds, shows, writes.
pub fn run(args: &Args) -> Result<CliCode, Stop> {
    let settings = Settings::load()?;
    let cluster = look()?;
    let gate = choose(&cluster, args)?;
    let first = args.sentinel.unwrap_or(settings.first_sentinel);
    let asked = found::discover(first, &gate.params.master, &settings.sentinel, settings.answer_within);
    if let Some(Err(error)) = asked.first().map(|asked| &asked.survey) {
        let next = match error {
            AskError::Denied(_) => look_at_credentials("sentinel"),
            _ => "give another one with --sentinel ADDRESS:PORT".to_owned(),
        };
        return Err(Stop::unknown(format!("the Sentinel at {first}: {error}; {next}")));
    }
    let known = found::addresses_of(&cluster.cib.nodes.iter().map(|node| node.name.clone()).collect::<Vec<_>>());
    let recorded = recorded(&gate, &args.without)?;
    let given = Given {
        master: &gate.params.master,
        recorded: &recorded,
        nodes: &args.nodes.iter().map(|node| node.0.clone()).collect::<Vec<_>>(),
        known: &known,
        cib: &cluster.cib,
        redis_port: gate.params.ports.redis,
    };
    let found = found::find(&asked, given)
        .map_err(|wrong| Stop::refused(format!("no record is written:\n  {}", wrong.join("\n  "))))?;
    if let Some(name) = args.without.iter().find(|name| found.record.node(name).is_some()) {
        let reset = found.heard.iter().map(|heard| found::forgets(heard.sentinel.address, &gate.params.master));
        let reset: Vec<String> = reset.collect();
        return Err(Stop::refused(format!(
            "--without {name}: Sentinels know its Redis, and may choose it: stop it there, then {}",
            reset.join("; ")
        )));
    }
    say(show(&found, &gate));
    // A step that was taken before: here it is seen to its end.
    let waits = change::waits_for(&gate, &cluster.cib);
    let again = again(args, &gate);
    let mut plan = plan(&found, &gate, &cluster.cib, args.replace)?;
    let record = &plan.record.clone().unwrap_or(match &gate.params.record {
        Ok(record) => record.clone(),
        Err(_) => found.record.clone(),
    });
    let verdict = found.verdict(record);
    let mut code = if found.notes.is_empty() && plan.notes.is_empty() { CliCode::Ok } else { CliCode::Warning };
    for note in found.notes.iter().chain(&plan.notes) {
        say(format!("note: {note}"));
    }
    if let Some(what) = without_quorum(&facts::no_quorum_policy(&cluster.cib)) {
        say(format!("note: {what}: crm_attribute -n no-quorum-policy -v stop"));
        code = CliCode::Warning;
    }
    let Some(named) = verdict.named else {
        return Err(Stop::unknown(format!(
            "no majority of the Sentinels names a primary without doubt ({}); nothing is written",
            verdict.notes.join("; ")
        )));
    };
    let names: Vec<String> = record.nodes().iter().map(|node| node.name.clone()).collect();
    let servers = assign::servers(record, &names, &settings);
    let (changes, unsettled) = assign::changes(&cluster.cib, &gate.params, &named, &servers);
    for node in &unsettled {
        say(format!(
            "note: Redis on {node} is a primary too, so it gets fail; run rolegate init again when it is a replica"
        ));
        code = CliCode::Warning;
    }
    let left = change::is_left_unmanaged(&gate.resource);
    let goal = Basis { record: record.clone(), lease: gate.params.lease };
    if plan.record.is_none() && plan.constraints.is_empty() && plan.meta.is_empty() && changes.is_empty() && !left {
        match (waits.is_empty(), args.dry_run) {
            (true, _) => {}
            (false, true) => {
                say(format!("Nothing to be written: a change of the record waits for {}.", change::list(&waits)));
                return Ok(code);
            }
            (false, false) => {
                return change::step_by_step(&gate.resource.id, &goal, Duration::from_secs(args.wait), &again)
                    .map(|done| code.max(done));
            }
        }
        say("Nothing to do: record, location rules and roles are as they should be.");
        return Ok(code);
    }
    say(format!("\n{}:", if args.dry_run { "To be written" } else { "Writing" }));
    let replaces = plan.record.is_some() && gate.params.record.is_ok();
    let at_once = replaces && all_closed(&pacemaker::read_crm_mon()?, &cluster.cib, &gate);
    if let Some(record) = &plan.record {
        shown(&gate, record).iter().for_each(say);
    }
    match (replaces, at_once) {
        (false, _) => {}
        (true, true) => say("  at once: no gate runs, and all nodes are seen"),
        (true, false) => {
            let steps = change::steps(&gate, &cluster.cib, &goal, &again)?;
            if !waits.is_empty() {
                say(format!("  first the step before is seen to its end, which waits for {}", change::list(&waits)));
            }
            say(
                "  one step after the other, each when all nodes have followed the one before; what is open stays open:",
            );
            (1..).zip(&steps).for_each(|(n, step)| say(format!("    {n}. {step}")));
        }
    }
    if left {
        say(format!(
            "  gate {}: managed by Pacemaker again, which a run of init that was killed has not done",
            gate.resource.id
        ));
    }
    for (resource, name, value) in &plan.meta {
        say(format!("  gate {}: meta {name}={value}", resource.id));
    }
    for constraint in &plan.constraints {
        say(format!("  {constraint}"));
    }
    for change in &changes {
        say(format!("  {} of {change}", gate.params.attribute));
    }
    if args.dry_run {
        return Ok(code);
    }
    let steps = if replaces && !at_once { plan.record.take() } else { None };
    // Last: the tools override quorum, and a minority's edits can win the merge.
    if !pacemaker::has_quorum()? {
        return Err(Stop::refused("this partition has no quorum: nothing is written"));
    }
    if left {
        change::manage(&gate.resource.id)?;
    }
    for (resource, name, value) in &plan.meta {
        pacemaker::modify("resources", &meta_xml(resource, name, value))?;
    }
    if let Some(record) = &plan.record {
        // Of two blocks one after the other: as long as only one has it, nothing opens.
        for resource in gate.resources() {
            pacemaker::modify("resources", &record_xml(resource, record, None))?;
        }
        let master = &gate.params.master;
        let (subject, who) = (Subject::of(Some(master), None).of_gate(&gate.resource.id), operator());
        decided!(info, subject, "init", OPERATOR = who, "{master}: the record of {} was written", gate.resource.id);
    }
    if !plan.constraints.is_empty() {
        pacemaker::modify("constraints", &format!("<constraints>{}</constraints>", plan.constraints.concat()))?;
    }
    if !(plan.constraints.is_empty() && plan.meta.is_empty()) {
        let act = Act { reason: "init", ..Act::default() };
        act.note([&gate], &format!("location rules or meta-attributes of {} were written", gate.resource.id));
    }
    assign::write(&cluster.cib, &gate, &changes)?;
    if steps.is_some() || !waits.is_empty() && !replaces {
        return change::step_by_step(&gate.resource.id, &goal, Duration::from_secs(args.wait), &again)
            .map(|done| code.max(done));
    }
    if replaces {
        change::taken(&gate.resource.id, Duration::from_secs(args.wait), &again)?;
        say(match gate.is_blocks() {
            true => "\nWritten. Lift the fences again: rolegate unfence NODE".to_owned(),
            false => format!("\nWritten. Enable the gate again: pcs resource enable {}", gate.resource.outer_id),
        });
        return Ok(code);
    }
    Ok(code.max(opened(&gate, record, &named, &settings)))
}

/// The nodes of the record that there is, but for these.
fn recorded(gate: &Gate, without: &[String]) -> Result<Vec<NodeEntry>, Stop> {
    let nodes = gate.params.record.as_ref().map_or(&[][..], |record| record.nodes());
    let is = |node: &NodeEntry, name: &String| node.name.eq_ignore_ascii_case(name);
    if let Some(name) = without.iter().find(|name| !nodes.iter().any(|node| is(node, name))) {
        let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        return Err(Stop::refused(format!(
            "--without {name}: no such node is in the record, which has {}",
            names.join(", ")
        )));
    }
    Ok(nodes.iter().filter(|node| !without.iter().any(|name| is(node, name))).cloned().collect())
}

/// This command once more.
fn again(args: &Args, gate: &Gate) -> String {
    let mut words = vec!["rolegate".to_owned(), "init".to_owned(), "--master".to_owned(), gate.params.master.clone()];
    let mut with = |option: &str, value: Option<String>| {
        words.extend(value.map(|value| [option.to_owned(), value]).into_iter().flatten());
    };
    with("--resource", args.resource.clone());
    with("--sentinel", args.sentinel.map(|address| address.to_string()));
    args.nodes.iter().for_each(|node| with("--node", Some(node.0.to_string())));
    args.without.iter().for_each(|node| with("--without", Some(node.clone())));
    with("--wait", Some(args.wait).filter(|wait| *wait != WAIT_FOR_NODES).map(|wait| wait.to_string()));
    words.extend(args.replace.then(|| "--replace".to_owned()));
    typed(words)
}

/// What a record that is written changes, a line each. Pure.
fn shown(gate: &Gate, new: &Record) -> Vec<String> {
    let lines = |resource: &Resource, sign: &str, values: [(&str, Option<String>); 2]| -> Vec<String> {
        let there = values.into_iter().filter_map(|(name, value)| Some((name, value?)));
        there.map(|(name, value)| format!("  {sign}gate {}: {name}=\"{value}\"", resource.id)).collect()
    };
    let parameters = [("sentinels", Some(new.sentinels_parameter())), ("nodes", Some(new.nodes_parameter()))];
    let old = match &gate.params.record {
        Ok(old) => old,
        Err(RecordError::Missing) => {
            return gate.resources().flat_map(|resource| lines(resource, "", parameters.clone())).collect();
        }
        // What stands there cannot be understood: it is shown as it is.
        Err(_) => {
            let both = |resource: &Resource| {
                let old = ["sentinels", "nodes"].map(|name| (name, resource.parameters.get(name).cloned()));
                [lines(resource, "- ", old), lines(resource, "+ ", parameters.clone())].concat()
            };
            return gate.resources().flat_map(both).collect();
        }
    };
    let ids: Vec<&str> = gate.resources().map(|resource| resource.id.as_str()).collect();
    let (gone, new) = differences(old, new);
    let mut all = vec![format!("  gate {}: the record (- as it is, + as it will be):", ids.join(", "))];
    all.extend(gone.iter().map(|entry| format!("    - {entry}")));
    all.extend(new.iter().map(|entry| format!("    + {entry}")));
    all
}

/// Whether the record may change by any number of steps: with the gate disabled, or all nodes fenced, and all known to be closed, nobody
/// stands on it any more.
fn all_closed(mon: &CrmMon, cib: &pacemaker::Cib, gate: &Gate) -> bool {
    let disabled = gate.resource.is_disabled() || cib.nodes.iter().all(roles::fenced);
    disabled
        && mon
            .nodes
            .iter()
            .all(|node| node.online && !node.unclean && facts::gate_on(mon, gate, &node.name).role == "Stopped")
}

/// The gate that is meant.
fn choose(cluster: &Cluster, args: &Args) -> Result<Gate, Stop> {
    let (all, bad) = gates(&cluster.cib);
    let meant = |resource: &Resource| {
        args.resource.as_ref().is_none_or(|id| *id == resource.id || *id == resource.outer_id)
            && args.master.as_ref().is_none_or(|master| *master == master_of(resource))
    };
    if let Some((resource, error)) = bad.iter().find(|(resource, _)| meant(resource)) {
        if all.is_empty() || args.resource.is_some() || args.master.is_some() {
            return Err(Stop::refused(format!("gate {}: {error}; {}", resource.id, set_right(resource))));
        }
    }
    let fits = |gate: &&Gate| {
        args.master.as_ref().is_none_or(|master| *master == gate.params.master)
            && args.resource.as_ref().is_none_or(|id| gate.resources().any(|one| *id == one.id || *id == one.outer_id))
    };
    let fitting: Vec<&Gate> = all.iter().filter(fits).collect();
    match fitting.as_slice() {
        [gate] => Ok((*gate).clone()),
        [] if all.is_empty() => {
            Err(Stop::refused(format!("the cluster has no gate (ocf:rolegate:gate). Make one:\n{}", super::CREATE)))
        }
        fitting => {
            let list = |gates: &[&Gate]| {
                let one = |gate: &&Gate| format!("{} (master name {})", gate.resource.id, gate.params.master);
                gates.iter().map(one).collect::<Vec<_>>().join(", ")
            };
            Err(Stop::refused(match fitting {
                [] => format!("no gate fits; there is {}", list(&all.iter().collect::<Vec<_>>())),
                several => format!("several gates fit: {}; choose with --resource ID or --master NAME", list(several)),
            }))
        }
    }
}

/// What was found, as tables.
fn show(found: &Found, gate: &Gate) -> String {
    let verdict = found.verdict(&found.record);
    let place = |place: &Option<Place>| place.as_ref().map_or("-".to_owned(), ToString::to_string);
    let mut rows = vec![["SENTINEL", "RUN ID", "NAMES", "EPOCH"].map(str::to_owned)];
    for heard in &found.heard {
        let (names, epoch) = match &heard.answer {
            Ok(answer) => (
                place(&answer.named),
                answer.master.as_ref().map_or("-".to_owned(), |master| master.config_epoch.to_string()),
            ),
            Err(error) => (error.to_string(), "-".to_owned()),
        };
        rows.push([heard.sentinel.address.to_string(), heard.sentinel.id.clone(), names, epoch]);
    }
    let mut text = format!("{} (gate {}):\n\n{}\n", gate.params.master, gate.resource.id, columns(&rows));
    let mut rows = vec![["NODE", "DATA ADDRESS", ""].map(str::to_owned)];
    for node in found.record.nodes() {
        let primary = verdict.points_at_node.as_ref() == Some(&node.name);
        rows.push([node.name.clone(), node.address.to_string(), if primary { "primary" } else { "" }.to_owned()]);
    }
    text.push_str(&columns(&rows));
    text
}

/// What is to be written of record and location rules. Pure.
fn plan(found: &Found, gate: &Gate, cib: &pacemaker::Cib, replace: bool) -> Result<Plan, Stop> {
    let meta = gate.resources().flat_map(|resource| {
        // A block that fails is tried again and again: nothing else closes its port.
        let wanted = META.into_iter().filter(|(name, _)| !gate.is_blocks() || *name == "failure-timeout");
        let missing = wanted.filter(|(name, _)| !resource.meta.contains_key(*name));
        missing.map(|(name, value)| (resource.clone(), name, value))
    });
    let mut plan = Plan { constraints: constraints(gate, cib), meta: meta.collect(), ..Plan::default() };
    match &gate.params.record {
        Err(RecordError::Missing) => plan.record = Some(found.record.clone()),
        Ok(old) if same(old, &found.record) => {}
        Ok(old) => {
            let (gone, new) = differences(old, &found.record);
            if replace {
                plan.record = Some(found.record.clone());
            } else if new.is_empty() {
                // What is down is not gone.
                plan.notes.push(format!("recorded, and not found now: {} (--replace forgets it)", gone.join(", ")));
            } else {
                return Err(differs(&gone, &new));
            }
        }
        Err(error) => {
            if !replace {
                return Err(Stop::refused(format!(
                    "there is a record that cannot be used: {error}; --replace writes it anew"
                )));
            }
            plan.record = Some(found.record.clone());
        }
    }
    Ok(plan)
}

fn differs(gone: &[String], new: &[String]) -> Stop {
    let lines =
        |sign: char, entries: &[String]| entries.iter().map(|entry| format!("\n  {sign} {entry}")).collect::<String>();
    Stop::refused(format!(
        "there is a record that says something else (- recorded, + found):{}{}\n--replace writes what was found",
        lines('-', gone),
        lines('+', new)
    ))
}

fn same(a: &Record, b: &Record) -> bool {
    let (gone, new) = differences(a, b);
    gone.is_empty() && new.is_empty()
}

/// Entries only in `old`, and only in `new`, whatever their order.
fn differences(old: &Record, new: &Record) -> (Vec<String>, Vec<String>) {
    let entries = |record: &Record| -> BTreeSet<String> {
        let sentinels = record.sentinels().iter().map(|entry| format!("sentinel {entry}"));
        let nodes = record.nodes().iter().map(|entry| format!("node {entry}"));
        sentinels.chain(nodes).collect()
    };
    let (old, new) = (entries(old), entries(new));
    (old.difference(&new).cloned().collect(), new.difference(&old).cloned().collect())
}

/// The location rules of the shipped configuration, under the same ids, that the gate does not
/// have. Whoever places the gate by its role attribute already has his own; the ban by a fence
/// nobody may lack.
pub(super) fn constraints(gate: &Gate, cib: &pacemaker::Cib) -> Vec<String> {
    let role = &gate.params.attribute;
    let location = |resource: &Resource, name: &str, rule: &str, expressions: &[String]| {
        let (id, clone) = (format!("{}-{name}", resource.id), &resource.outer_id);
        let expressions: String = expressions
            .iter()
            .zip(["", "-1", "-2"])
            .map(|(expression, number)| format!("<expression id=\"{id}-rule-expr{number}\" {expression}/>"))
            .collect();
        format!(
            "<rsc_location id=\"{id}\" rsc=\"{clone}\"><rule id=\"{id}-rule\" {rule}>{expressions}</rule></rsc_location>"
        )
    };
    let is = |value: &str| format!("attribute=\"{role}\" operation=\"eq\" value=\"{value}\"");
    let defined = |name: &str| format!("attribute=\"{name}\" operation=\"defined\"");
    if gate.is_blocks() {
        let unfenced = format!("attribute=\"{FENCE_ATTRIBUTE}\" operation=\"not_defined\"");
        let mut missing = Vec::new();
        for (port, resource) in &gate.blocks {
            let rules = facts::rules_of(resource, role, "INFINITY", cib);
            let (closed, open): (&[&str], &[&str]) = match port {
                Port::Ro => (&["fail"], &["primary", "replica"]),
                Port::Rw => (&["fail", "replica"], &["primary"]),
            };
            if !rules.by_role {
                let mut where_closed: Vec<String> = closed.iter().map(|value| is(value)).collect();
                where_closed.push(defined(FENCE_ATTRIBUTE));
                missing.push(location(resource, "closed", "boolean-op=\"or\" score=\"INFINITY\"", &where_closed));
                // Needed where symmetric-cluster is true; changes nothing else.
                for value in open {
                    let rule = "boolean-op=\"and\" score=\"-INFINITY\"";
                    missing.push(location(resource, value, rule, &[is(value), unfenced.clone()]));
                }
            } else if !rules.by_fence {
                missing.push(location(resource, "fenced", "score=\"INFINITY\"", &[defined(FENCE_ATTRIBUTE)]));
            }
        }
        return missing;
    }
    let (rules, resource) = (facts::rules(gate, cib), &gate.resource);
    if !rules.by_role {
        vec![
            location(resource, "primary", "role=\"Promoted\" score=\"INFINITY\"", &[is("primary")]),
            location(
                resource,
                "closed",
                "boolean-op=\"or\" score=\"-INFINITY\"",
                &[is("fail"), defined(FENCE_ATTRIBUTE)],
            ),
            // Needed where symmetric-cluster is false; changes nothing else.
            location(resource, "allowed", "score=\"0\"", &[defined(role)]),
        ]
    } else if !rules.by_fence {
        vec![location(resource, "fenced", "score=\"-INFINITY\"", &[defined(FENCE_ATTRIBUTE)])]
    } else {
        Vec::new()
    }
}

fn meta_xml(resource: &Resource, name: &str, value: &str) -> String {
    let id = &resource.id;
    let set = resource.meta_id.clone().unwrap_or_else(|| format!("{id}-meta_attributes"));
    let nvpair = format!("<nvpair id=\"{set}-{name}\" name=\"{name}\" value=\"{value}\"/>");
    format!("<primitive id=\"{id}\"><meta_attributes id=\"{set}\">{nvpair}</meta_attributes></primitive>")
}

/// Both parameters in one change: no node ever sees half a record. With whether Pacemaker manages it, where that is to be written.
pub(super) fn record_xml(resource: &Resource, record: &Record, managed: Option<&str>) -> String {
    let id = &resource.id;
    let set = resource.parameters_id.clone().unwrap_or_else(|| format!("{id}-instance_attributes"));
    let meta = managed.map_or(String::new(), |managed| {
        let set = resource.meta_id.clone().unwrap_or_else(|| format!("{id}-meta_attributes"));
        let own = change::unmanaged_id(resource);
        let nvpair = format!("<nvpair id=\"{own}\" name=\"is-managed\" value=\"{managed}\"/>");
        format!("<meta_attributes id=\"{set}\">{nvpair}</meta_attributes>")
    });
    let nvpair = |name: &str, value: String| {
        let own = resource.parameter_ids.get(name).cloned().unwrap_or_else(|| format!("{set}-{name}"));
        // Run ids, addresses and node names: nothing in them ends an attribute's value.
        format!("<nvpair id=\"{own}\" name=\"{name}\" value=\"{value}\"/>")
    };
    format!(
        "<primitive id=\"{id}\"><instance_attributes id=\"{set}\">{}{}</instance_attributes>{meta}</primitive>",
        nvpair("sentinels", record.sentinels_parameter()),
        nvpair("nodes", record.nodes_parameter())
    )
}

/// Waits until the named node takes writes.
fn opened(gate: &Gate, record: &Record, named: &str, settings: &Settings) -> CliCode {
    let Some(node) = record.node(named) else { return CliCode::Warning };
    let address = SocketAddr::new(node.address.ip(), gate.params.ports.rw);
    let until = Instant::now() + WAIT;
    loop {
        let port = probe::port(address, &settings.redis, settings.answer_within);
        if port.takes_writes() {
            say(format!("\nDone: {named} takes writes at {address}."));
            return CliCode::Ok;
        }
        if Instant::now() > until {
            say(format!(
                "\nWritten, but {named} takes no writes at {address} after {} s ({}): rolegate status says why.",
                WAIT.as_secs(),
                port.word()
            ));
            return CliCode::Warning;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[cfg(test)]
mod tests {
    use super::super::found::tests as answers;
    use super::*;
    use crate::pacemaker::cib;
    use crate::params::Params;

    fn found() -> Found {
        let nodes: Vec<NodeEntry> = crate::record::tests::three().nodes().to_vec();
        let given = Given {
            master: "mymaster",
            nodes: &nodes,
            recorded: &[],
            known: &Default::default(),
            cib: &answers::cluster(),
            redis_port: 6379,
        };
        found::find(&answers::three(), given).unwrap()
    }

    fn gate(record: Option<Record>) -> Gate {
        let mut resource =
            Resource { id: "RedisGate".into(), outer_id: "RedisGate-clone".into(), ..Resource::default() };
        if let Some(record) = record {
            resource.parameters.insert("sentinels".into(), record.sentinels_parameter());
            resource.parameters.insert("nodes".into(), record.nodes_parameter());
            // As init leaves it.
            resource.meta = META.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        }
        let params = Params::read(|name| resource.parameters.get(name).cloned()).unwrap();
        Gate { resource, params, blocks: vec![] }
    }

    fn cib(properties: &str, constraints: &str) -> pacemaker::Cib {
        cib::parse(&format!(
            "<cib><configuration><crm_config><cluster_property_set id=\"o\">{properties}</cluster_property_set></crm_config><constraints>{constraints}</constraints></configuration></cib>"
        ))
        .unwrap()
    }

    #[test]
    fn a_record_is_replaced_at_once_only_where_every_gate_is_disabled_and_closed() {
        let seen = |online: bool, role: &str| {
            let gate = if role == "Stopped" {
                String::new()
            } else {
                format!(
                    "<clone id=\"RedisGate-clone\" multi_state=\"true\"><resource id=\"RedisGate\" role=\"{role}\" active=\"true\" \
                     orphaned=\"false\" blocked=\"false\" managed=\"true\" failed=\"false\"><node name=\"node1\" id=\"1\" cached=\"true\"/>\
                     </resource></clone>"
                )
            };
            let text = format!(
                "<pacemaker-result api-version=\"2.25\"><nodes><node name=\"node1\" id=\"1\" online=\"{online}\" standby=\"false\" \
                 maintenance=\"false\" pending=\"false\" unclean=\"false\"/></nodes><resources>{gate}</resources><status code=\"0\" message=\"OK\"/></pacemaker-result>"
            );
            pacemaker::crm_mon::parse(&text).unwrap()
        };
        let one_node =
            cib::parse("<cib><configuration><nodes><node id=\"1\" uname=\"node1\"/></nodes></configuration></cib>")
                .unwrap();
        let mut disabled = gate(None);
        disabled.resource.meta.insert("target-role".into(), "Stopped".into());
        assert!(all_closed(&seen(true, "Stopped"), &one_node, &disabled));
        for (online, role) in [(true, "Unpromoted"), (true, "Promoted"), (false, "Stopped")] {
            assert!(!all_closed(&seen(online, role), &one_node, &disabled), "{online} {role}");
        }
        assert!(!all_closed(&seen(true, "Stopped"), &one_node, &gate(None)), "it may be about to start");
    }

    #[test]
    fn a_bare_gate_gets_record_and_rules_and_then_nothing_more() {
        let first = plan(&found(), &gate(None), &cib("", ""), false).unwrap();
        assert_eq!(first.record, Some(found().record));
        assert_eq!(first.constraints.len(), 3, "{:?}", first.constraints);
        let second = plan(&found(), &gate(first.record), &cib("", &first.constraints.concat()), false).unwrap();
        assert_eq!(second, Plan::default());
    }

    #[test]
    fn the_rules_promote_ban_and_fence() {
        let text = constraints(&gate(None), &cib("", "")).concat();
        let read = cib("", &text);
        let rules: Vec<_> = read.locations.iter().flat_map(|location| &location.rules).collect();
        assert_eq!((rules[0].role.as_deref(), rules[0].score.as_deref()), (Some("Promoted"), Some("INFINITY")));
        assert_eq!(rules[0].expressions, [("redis_role".into(), "eq".into(), Some("primary".into()))]);
        assert_eq!(rules[1].score.as_deref(), Some("-INFINITY"));
        assert_eq!(
            rules[1].expressions,
            [("redis_role".into(), "eq".into(), Some("fail".into())), ("redis_fence".into(), "defined".into(), None)]
        );
        assert_eq!(rules[2].score.as_deref(), Some("0"));
        assert_eq!(rules[2].expressions, [("redis_role".into(), "defined".into(), None)]);
    }

    /// As pcs and the shipped configuration make them.
    fn blocks(record: Option<&Record>) -> Gate {
        let block = |id: &str, port: &str| {
            let mut resource = Resource { id: id.into(), outer_id: format!("{id}-clone"), ..Resource::default() };
            resource.parameters.insert("port".into(), port.into());
            if let Some(record) = record {
                resource.parameters.insert("sentinels".into(), record.sentinels_parameter());
                resource.parameters.insert("nodes".into(), record.nodes_parameter());
                resource.meta.insert("failure-timeout".into(), "15s".into());
            }
            resource
        };
        let blocks = vec![block("RedisLBReadBlock", "ro"), block("RedisLBWriteBlock", "rw")];
        let cib = pacemaker::Cib { blocks, ..pacemaker::Cib::default() };
        crate::layout::guards(&cib).0.remove(0)
    }

    #[test]
    fn both_blocks_get_the_record_and_then_nothing_more() {
        let first = plan(&found(), &blocks(None), &cib("", ""), false).unwrap();
        assert_eq!((first.record.as_ref(), first.constraints.len()), (Some(&found().record), 5));
        assert_eq!(
            first.meta.iter().map(|(resource, ..)| resource.id.as_str()).collect::<Vec<_>>(),
            ["RedisLBReadBlock", "RedisLBWriteBlock"]
        );
        let with_rules = cib("", &first.constraints.concat());
        let second = plan(&found(), &blocks(first.record.as_ref()), &with_rules, false).unwrap();
        assert_eq!(second, Plan::default());
        // As ansible-redis-ha places them.
        let own: String = ["Read", "Write"]
            .map(|which| {
                format!(
                    "<rsc_location id=\"{which}\" rsc=\"RedisLB{which}Block-clone\"><rule id=\"{which}-r\" score=\"INFINITY\">\
                     <expression id=\"{which}-e\" attribute=\"redis_role\" operation=\"eq\" value=\"fail\"/></rule></rsc_location>"
                )
            })
            .concat();
        let added = constraints(&blocks(None), &cib("", &own));
        assert!(added.len() == 2 && added.iter().all(|one| one.contains("redis_fence")), "{added:?}");
    }

    #[test]
    fn the_rules_are_those_of_the_shipped_configuration() {
        rules_are_shipped(&gate(None), concat!(env!("CARGO_MANIFEST_DIR"), "/ocf/xml/gate.xml"));
        rules_are_shipped(&blocks(None), concat!(env!("CARGO_MANIFEST_DIR"), "/ocf/xml/block.xml"));
    }

    fn rules_are_shipped(gate: &Gate, path: &str) {
        let shipped = std::fs::read_to_string(path).unwrap();
        let shipped = roxmltree::Document::parse(&shipped).unwrap();
        let ours = format!("<c>{}</c>", constraints(gate, &cib("", "")).concat());
        let ours = roxmltree::Document::parse(&ours).unwrap();
        let rules = |document: &roxmltree::Document| -> Vec<BTreeSet<(String, String)>> {
            document
                .descendants()
                .filter(|element| element.is_element() && element.ancestors().any(|e| e.has_tag_name("rsc_location")))
                .map(|element| element.attributes().map(|a| (a.name().to_owned(), a.value().to_owned())).collect())
                .collect()
        };
        assert_eq!(rules(&ours), rules(&shipped));
    }

    #[test]
    fn rules_of_ones_own_get_only_the_ban_by_a_fence() {
        let own = "<rsc_location id=\"l\" rsc=\"RedisGate-clone\"><rule id=\"r\" role=\"Promoted\" score=\"100\"><expression id=\"e\" attribute=\"redis_role\" operation=\"eq\" value=\"primary\"/></rule></rsc_location>";
        let missing = constraints(&gate(None), &cib("", own));
        assert!(
            missing.len() == 1 && missing[0].contains("redis_fence") && !missing[0].contains("redis_role"),
            "{missing:?}"
        );
    }

    #[test]
    fn a_record_that_says_something_else_is_replaced_only_when_asked() {
        let other = Record::parse(&crate::record::tests::three().sentinels_parameter(), "node1=10.0.0.7:6379").unwrap();
        let refused = plan(&found(), &gate(Some(other.clone())), &cib("", ""), false).unwrap_err();
        assert!(refused.message.contains("- node node1=10.0.0.7:6379"), "{}", refused.message);
        assert!(refused.message.contains("+ node node1=10.0.0.1:6379"), "{}", refused.message);
        assert!(plan(&found(), &gate(Some(other)), &cib("", ""), true).unwrap().record.is_some());
    }

    /// Three Sentinels, the third of which has been made anew since.
    fn before() -> Record {
        let now = crate::record::tests::three();
        let sentinels = now.sentinels_parameter().replace(&answers::id(3), &answers::id(4));
        Record::parse(&sentinels, &now.nodes_parameter()).unwrap()
    }

    fn halfway() -> Gate {
        let basis = |record| Basis { record, lease: Duration::from_secs(2) };
        let way = basis(before()).way_to(&basis(found().record)).unwrap();
        assert_eq!(way.len(), 2);
        gate(Some(way[0].record.clone()))
    }

    fn parsed(command: &str) -> Args {
        use clap::Parser;
        let cli = super::super::Cli::try_parse_from(command.split(' ')).unwrap();
        let Some(super::super::Command::Init(args)) = cli.command else { panic!("{command}") };
        args
    }

    #[test]
    fn what_is_printed_half_way_through_a_change_works_there() {
        let halfway = halfway();
        let refused = plan(&found(), &halfway, &cib("", ""), false).unwrap_err();
        assert!(refused.message.contains("--replace"), "{}", refused.message);
        let first = parsed("rolegate init --node node1=10.0.0.1:6379 --wait 5 --replace");
        let waits =
            crate::stand::Peer { name: "node2".into(), says: crate::stand::Shown::Never, off: false, recorded: true };
        let stop = change::waits_still("interrupted", &[waits], &again(&first, &halfway)).message;
        let (_, typed) = stop.rsplit_once("; then: ").unwrap();
        assert_eq!(typed, "rolegate init --master mymaster --node node1=10.0.0.1:6379 --wait 5 --replace");
        for command in [typed, &super::super::judge::go_on("mymaster")] {
            let args = parsed(command);
            let plan = plan(&found(), &halfway, &cib("", ""), args.replace).unwrap();
            assert_eq!(plan.record, Some(found().record), "{command}");
        }
    }

    #[test]
    fn where_no_single_steps_lead_to_it_the_gate_is_disabled_for_this_command() {
        let gate = gate(Some(before()));
        let again = again(&parsed("rolegate init --without node3 --replace"), &gate);
        assert_eq!(
            change::at_once(&gate, &again),
            "pcs resource disable RedisGate-clone --wait=60 && { rolegate init --master mymaster --without node3 --replace; \
             pcs resource enable RedisGate-clone; }"
        );
    }

    #[test]
    fn what_is_replaced_is_shown_old_and_new() {
        let lines = shown(&gate(Some(before())), &found().record);
        assert_eq!(
            lines,
            [
                "  gate RedisGate: the record (- as it is, + as it will be):".to_owned(),
                format!("    - sentinel {}@10.0.0.3:26379", answers::id(4)),
                format!("    + sentinel {}@10.0.0.3:26379", answers::id(3)),
            ]
        );
        let first = shown(&gate(None), &found().record);
        assert!(first.len() == 2 && first[0].starts_with("  gate RedisGate: sentinels=\""), "{first:?}");
        let mut broken = gate(None);
        broken.resource.parameters.insert("sentinels".into(), "x".into());
        broken.params = Params::read(|name| broken.resource.parameters.get(name).cloned()).unwrap();
        let lines = shown(&broken, &found().record);
        assert_eq!((lines.len(), lines[0].as_str()), (3, "  - gate RedisGate: sentinels=\"x\""), "{lines:?}");
    }

    #[test]
    fn a_gate_that_a_killed_run_has_left_unmanaged_is_known_by_its_mark() {
        let read = |primitive: &str| {
            let primitive =
                primitive.replace("<primitive ", "<primitive class=\"ocf\" provider=\"rolegate\" type=\"gate\" ");
            let text = format!("<cib><configuration><resources>{primitive}</resources></configuration></cib>");
            cib::parse(&text).unwrap().gates.remove(0)
        };
        let record = found().record;
        let ours = record_xml(&gate(None).resource, &record, Some("false"));
        assert!(change::is_left_unmanaged(&read(&ours)), "{ours}");
        assert!(!change::is_left_unmanaged(&read(&record_xml(&gate(None).resource, &record, None))));
        // As crm_resource and pcs write it.
        let id = change::unmanaged_id(&gate(None).resource);
        let operators = ours.replace(&id, "RedisGate-meta_attributes-is-managed");
        assert!(operators.contains("is-managed") && !change::is_left_unmanaged(&read(&operators)), "{operators}");
    }

    #[test]
    fn what_is_down_is_not_forgotten() {
        let record = crate::record::tests::three();
        let more = format!("{} {}@10.0.0.4:26379", record.sentinels_parameter(), answers::id(4));
        let old = Record::parse(&more, &record.nodes_parameter()).unwrap();
        let plan = plan(&found(), &gate(Some(old)), &cib("", ""), false).unwrap();
        assert_eq!(plan.record, None);
        assert!(plan.notes[0].contains("10.0.0.4:26379"), "{:?}", plan.notes);
    }

    #[test]
    fn a_record_that_cannot_be_read_is_no_reason_to_overwrite_it() {
        let mut broken = gate(None);
        broken.resource.parameters.insert("sentinels".into(), "x".into());
        broken.params = Params::read(|name| broken.resource.parameters.get(name).cloned()).unwrap();
        assert!(plan(&found(), &broken, &cib("", ""), false).is_err());
        assert!(plan(&found(), &broken, &cib("", ""), true).unwrap().record.is_some());
    }

    #[test]
    fn an_operators_own_thresholds_stay() {
        let mut own = gate(None);
        own.resource.meta.insert("failure-timeout".into(), "1h".into());
        own.resource.meta_id = Some("mine".into());
        let plan = plan(&found(), &own, &cib("", ""), false).unwrap();
        let [(resource, name, value)] = plan.meta.as_slice() else { panic!("{:?}", plan.meta) };
        assert_eq!((*name, *value), ("migration-threshold", "5"));
        let xml = meta_xml(resource, name, value);
        assert!(xml.contains("<meta_attributes id=\"mine\"><nvpair id=\"mine-migration-threshold\""), "{xml}");
    }

    #[test]
    fn the_record_goes_where_the_parameters_are() {
        let mut gate = gate(None);
        assert!(
            record_xml(&gate.resource, &found().record, None)
                .contains("<instance_attributes id=\"RedisGate-instance_attributes\">")
        );
        gate.resource.parameters_id = Some("mine".into());
        gate.resource.parameter_ids.insert("nodes".into(), "my-nodes".into());
        let xml = record_xml(&gate.resource, &found().record, None);
        assert!(
            xml.contains("<instance_attributes id=\"mine\">") && xml.contains("<nvpair id=\"my-nodes\" name=\"nodes\""),
            "{xml}"
        );
    }
}
