//! `rolegate deinit`: takes out of the cluster again what `rolegate init` has put in, and nothing else; with `--local`, what a gate leaves
//! on a node: its entries in the firewall, and the files of its keeper.
//!
//! What it takes out is what stands there as init makes it: under init's ids, with init's content. What somebody has changed is his, and is
//! named. Nothing is taken out while a port is or may be open: without a record nobody could say who may write.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::judge::set;
use super::{Gate, Stop, change, fence, gates, init, local, look, say};
use crate::causes::with_causes;
use crate::exit::CliCode;
use crate::gate::{self, GateError};
use crate::keeper::{memory, priority};
use crate::pacemaker::cib::{self, Location, Resource};
use crate::pacemaker::{self, Cib, FENCE_ATTRIBUTE, VERSION_ATTRIBUTE};
use crate::permission;
use crate::role::Role;
use crate::server::{self, Value};
use crate::settings::Settings;
use crate::stand;
use crate::switchover;
use crate::together::together;

const ACT: fence::Act = fence::Act { node: None, role: None, reason: "deinit" };

/// How long Pacemaker may take to stop a gate everywhere.
const STOPS_WITHIN: Duration = Duration::from_secs(60);

/// By then each keeper has seen that there is no record, and has put replica-priority back.
const PUT_BACK_WITHIN: Duration = Duration::from_secs(20);

/// The parameters that are the record.
const RECORD: [&str; 2] = ["sentinels", "nodes"];

/// An operator's own fence of this node ([`crate::local_fence`]), which no automation undoes.
const FENCE: &str = "fence";

/// How the names begin of files in which a keeper has kept replica-priority.
const PRIORITY: &str = "priority-";

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only for this master name
    #[arg(long, value_name = "NAME", conflicts_with = "local")]
    master: Option<String>,
    /// Disable the gate first, where it is not yet
    #[arg(long, conflicts_with = "local")]
    disable: bool,
    /// Show what would be taken out
    #[arg(long)]
    dry_run: bool,
    /// On this node: the firewall's entries and the keeper's files. Only where the cluster has no gate any more
    #[arg(long)]
    local: bool,
}

/// `rolegate deinit`.
pub fn run(args: &Args) -> Result<CliCode, Stop> {
    if args.local {
        return of_node(args.dry_run);
    }
    let settings = Settings::load()?;
    let cluster = look()?;
    let (all, bad) = gates(&cluster.cib);
    let mut code = CliCode::Ok;
    for (resource, error) in &bad {
        say(format!("note: gate {} is left alone: {error}", resource.id));
        code = CliCode::Warning;
    }
    let meant = |gate: &Gate| args.master.as_ref().is_none_or(|master| *master == gate.params.master);
    let (chosen, others): (Vec<Gate>, Vec<Gate>) = all.iter().cloned().partition(meant);
    if let (Some(master), true) = (&args.master, chosen.is_empty()) {
        return Err(super::status::no_such_master(master, &all, &bad));
    }
    if chosen.is_empty() {
        for note in without_a_gate(&cluster.cib) {
            say(format!("note: {note}"));
        }
        say("Nothing to do: the cluster has no gate.");
        return Ok(code);
    }
    // A fence closes the ports of all.
    let is_last = others.is_empty() && bad.is_empty();
    let (removals, notes) = plan(&chosen, &cluster.cib, is_last);
    for note in &notes {
        say(format!("note: {note}"));
        code = CliCode::Warning;
    }
    if removals.is_empty() {
        say("Nothing to do: nothing that init makes is there any more.");
        next_steps(&chosen);
        return Ok(code);
    }
    let running: Vec<&Gate> = chosen.iter().filter(|gate| !gate.is_blocks() && !is_disabled(gate)).collect();
    say(if args.dry_run { "To be taken out:" } else { "Taking out:" });
    for gate in running.iter().filter(|_| args.disable) {
        say(format!("  (first {} is disabled)", gate.resource.outer_id));
    }
    removals.iter().for_each(|removal| say(format!("  {removal}")));
    if args.dry_run {
        for gate in running.iter().filter(|_| !args.disable) {
            say(format!("It would be refused: {}", not_disabled(gate)));
        }
        return Ok(code);
    }
    if let (Some(gate), false) = (running.first(), args.disable) {
        return Err(Stop::refused(format!("nothing is taken out: {}", not_disabled(gate))));
    }
    let quorum = || match pacemaker::has_quorum()? {
        true => Ok(()),
        false => Err(Stop::refused("this partition has no quorum: nothing is written")),
    };
    if !running.is_empty() {
        quorum()?;
        for gate in &running {
            pacemaker::disable(&gate.resource.outer_id)?;
            ACT.note([*gate], &format!("{} is disabled", gate.resource.outer_id));
        }
    }
    let nodes: Vec<String> = cluster.cib.nodes.iter().map(|node| node.name.clone()).collect();
    // One that was disabled long ago is closed at the first looks.
    let patience = if running.is_empty() { Duration::from_secs(3) } else { STOPS_WITHIN };
    for node in &nodes {
        let seen = fence::wait(patience, || fence::closed(node, &fence::look_at(node, &chosen, &settings)));
        if let Err(last) = seen {
            return Err(Stop::refused(format!(
                "nothing is taken out, because the ports of {node} are not known to be closed: {}{}",
                last.why,
                if chosen.iter().any(Gate::is_blocks) {
                    "; blocks: rolegate fence NODE, for each node, first"
                } else {
                    ""
                }
            )));
        }
    }
    // Last: the tools override quorum, and a minority's edits can win the merge.
    quorum()?;
    let taken = removals.iter().try_for_each(Removal::carry_out);
    let what = match &taken {
        Ok(()) => "what init has put into the cluster is taken out".to_owned(),
        Err(stop) => format!("what init has put into the cluster is not all taken out: {}", stop.message),
    };
    ACT.note(&chosen, &what);
    taken?;
    for note in priorities(&chosen, &settings) {
        say(format!("note: {note}"));
        code = CliCode::Warning;
    }
    say("Done.");
    next_steps(&chosen);
    Ok(code)
}

/// What of ours is nobody's when no gate is left: only shown, as another hook may have made it.
fn without_a_gate(cib: &Cib) -> Vec<String> {
    let of_node = |node: &cib::Node| {
        let left = ["redis_role", FENCE_ATTRIBUTE, VERSION_ATTRIBUTE]
            .into_iter()
            .filter(|name| node.permanent(name).is_some());
        left.map(|name| format!("{0} has the attribute {name}: crm_attribute -N {0} -n {name} -D", node.name))
            .collect::<Vec<_>>()
    };
    cib.nodes.iter().flat_map(of_node).collect()
}

fn is_disabled(gate: &Gate) -> bool {
    gate.resource.meta.get("target-role").is_some_and(|role| role.eq_ignore_ascii_case("Stopped"))
}

fn not_disabled(gate: &Gate) -> String {
    let id = &gate.resource.outer_id;
    format!(
        "{id} is not disabled, and would go on with an open port: pcs resource disable {id}, or rolegate deinit --disable"
    )
}

fn next_steps(chosen: &[Gate]) {
    for gate in chosen {
        for resource in gate.resources() {
            say(format!("  -> pcs resource delete {}", resource.id));
        }
    }
    say("  -> then, on each node: rolegate deinit --local");
}

/// Something to take out.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Removal {
    /// Parameters of a resource, with the ids of their nvpairs.
    Parameters(String, Vec<(String, String)>),
    /// A location constraint.
    Constraint(String),
    /// A permanent attribute of a node: name and value.
    Attribute(String, String, String),
    /// A meta-attribute of a resource: name, value and the nvpair's id.
    Meta(String, String, String, String),
}

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Removal::Parameters(resource, pairs) => {
                let names: Vec<&str> = pairs.iter().map(|(name, _)| name.as_str()).collect();
                write!(f, "gate {resource}: {}", names.join(", "))
            }
            Removal::Constraint(id) => write!(f, "location rule {id}"),
            Removal::Attribute(node, name, value) => write!(f, "{name} of {node}: {value}"),
            Removal::Meta(resource, name, value, _) => write!(f, "gate {resource}: meta {name}={value}"),
        }
    }
}

impl Removal {
    /// Which part of the CIB it is. Each says what stands there now: what somebody has just changed stays.
    fn xpath(&self) -> Option<String> {
        Some(match self {
            Removal::Parameters(resource, pairs) => {
                let ids: Vec<String> = pairs.iter().map(|(_, id)| format!("@id='{id}'")).collect();
                format!("//primitive[@id='{resource}']/instance_attributes/nvpair[{}]", ids.join(" or "))
            }
            Removal::Constraint(id) => format!("//constraints/rsc_location[@id='{id}']"),
            Removal::Meta(resource, _, value, id) => {
                format!("//primitive[@id='{resource}']/meta_attributes/nvpair[@id='{id}'][@value='{value}']")
            }
            Removal::Attribute(..) => return None,
        })
    }

    fn carry_out(&self) -> Result<(), Stop> {
        match (self, self.xpath()) {
            (Removal::Attribute(node, name, _), _) => pacemaker::delete_attribute(node, name)?,
            (_, Some(xpath)) => pacemaker::remove(&xpath)?,
            (_, None) => {}
        }
        Ok(())
    }
}

/// What is to be taken out, in that order: the record first, without which nothing opens; fences last. And what stands there, but not as
/// init makes it. `is_last`: no other gate is left. Pure.
fn plan(chosen: &[Gate], cib: &Cib, is_last: bool) -> (Vec<Removal>, Vec<String>) {
    let (mut removals, mut notes) = (Vec::new(), Vec::new());
    for resource in chosen.iter().flat_map(Gate::resources) {
        let id_of = |name: &str| Some((name.to_owned(), resource.parameter_ids.get(name)?.clone()));
        let pairs: Vec<(String, String)> = RECORD.into_iter().filter_map(id_of).collect();
        let elsewhere =
            |name: &&str| resource.parameters.contains_key(*name) && !resource.parameter_ids.contains_key(*name);
        for name in RECORD.into_iter().filter(elsewhere) {
            notes.push(format!(
                "gate {}: {name} is not in the resource's first set of parameters, and stays",
                resource.id
            ));
        }
        if !pairs.is_empty() {
            removals.push(Removal::Parameters(resource.id.clone(), pairs));
        }
    }
    for gate in chosen {
        for made in made_by_init(gate) {
            match cib.locations.iter().find(|location| location.id == made.id) {
                None => {}
                Some(location) if *location == made => removals.push(Removal::Constraint(made.id)),
                Some(_) => notes.push(format!("location rule {} is not as init makes it, and stays", made.id)),
            }
        }
        for node in &cib.nodes {
            let attribute = &gate.params.attribute;
            match node.permanent(attribute) {
                Some(value) if value.parse::<Role>().is_ok() => {
                    removals.push(Removal::Attribute(node.name.clone(), attribute.clone(), value.to_owned()));
                }
                Some(other) => {
                    notes.push(format!("{attribute} of {} is {other:?}, which is no role, and stays", node.name))
                }
                None => {}
            }
            // Behind the record: as long as that is there, keepers say again what they stand on.
            let stands = stand::attribute(&gate.params.master);
            if let Some(value) = node.permanent(&stands) {
                removals.push(Removal::Attribute(node.name.clone(), stands, value.to_owned()));
            }
        }
        for resource in gate.resources() {
            removals.extend(init::META.iter().filter_map(|(name, value)| meta(resource, name, value)));
            if change::is_left_unmanaged(resource) {
                let id = change::unmanaged_id(resource);
                removals.push(Removal::Meta(resource.id.clone(), "is-managed".to_owned(), "false".to_owned(), id));
            }
        }
    }
    // Behind the record, too. Keepers of other gates go on saying it.
    for node in cib.nodes.iter().filter(|_| is_last) {
        if let Some(version) = node.permanent(VERSION_ATTRIBUTE) {
            removals.push(Removal::Attribute(node.name.clone(), VERSION_ATTRIBUTE.to_owned(), version.to_owned()));
        }
    }
    let fenced = cib.nodes.iter().filter_map(|node| Some((node, node.permanent(FENCE_ATTRIBUTE)?)));
    for (node, marker) in fenced {
        match is_last {
            true => removals.push(Removal::Attribute(node.name.clone(), FENCE_ATTRIBUTE.to_owned(), marker.to_owned())),
            false => notes.push(format!("{} is fenced, for the other gates too, and stays so", node.name)),
        }
    }
    (removals, notes)
}

/// A meta-attribute as init sets it, if it is there so.
fn meta(resource: &Resource, name: &str, value: &str) -> Option<Removal> {
    let set = resource.meta_id.as_ref()?;
    let id = resource.meta_ids.get(name).filter(|id| **id == format!("{set}-{name}"))?;
    let is = resource.meta.get(name).is_some_and(|is| is == value);
    is.then(|| Removal::Meta(resource.id.clone(), name.to_owned(), value.to_owned(), id.clone()))
}

/// All location constraints that init makes for a gate, whatever it found.
fn made_by_init(gate: &Gate) -> Vec<Location> {
    let read = |xml: &[String]| -> Vec<Location> {
        let text = format!("<cib><configuration><constraints>{}</constraints></configuration></cib>", xml.concat());
        cib::parse(&text).map(|cib| cib.locations).unwrap_or_default()
    };
    let mut made = read(&init::constraints(gate, &Cib::default()));
    // Where somebody placed it by rules of his own, init adds the one for fences: its location is what is left without the others.
    let own = |location: &Location| Location { id: format!("own-{}", location.id), ..without_fence(location) };
    let with_own = Cib { locations: made.iter().map(own).collect(), ..Cib::default() };
    let added = read(&init::constraints(gate, &with_own));
    made.extend(added);
    made
}

/// The same rules without what they say of fences.
fn without_fence(location: &Location) -> Location {
    let mut location = location.clone();
    for rule in &mut location.rules {
        rule.expressions.retain(|(attribute, ..)| attribute != FENCE_ATTRIBUTE);
    }
    location
}

/// Waits until the keepers have put replica-priority back. What they have not.
fn priorities(chosen: &[Gate], settings: &Settings) -> Vec<String> {
    let servers: Vec<(String, SocketAddr, PathBuf)> = chosen
        .iter()
        .filter_map(|gate| Some((gate, gate.params.record.as_ref().ok()?)))
        .flat_map(|(gate, record)| {
            let kept = priority::kept_at(&gate.resource.id);
            record.nodes().iter().map(move |node| (node.name.clone(), node.address, kept.clone()))
        })
        .collect();
    let until = Instant::now() + PUT_BACK_WITHIN;
    loop {
        let jobs = servers.iter().map(|(_, address, _)| {
            let (address, credentials, within) = (*address, settings.redis.clone(), settings.answer_within);
            move || server::ask(address, &credentials, within, &[&["CONFIG", "GET", "replica-priority"]])
        });
        let answers = together(settings.answer_within + Duration::from_millis(500), jobs);
        let left: Vec<String> = servers
            .iter()
            .zip(answers)
            .filter_map(|((node, address, kept), answer)| {
                let value = answer.and_then(Result::ok).and_then(|replies| replies.first().and_then(number));
                match value {
                    // What it was is on that node's disk.
                    Some(0) => Some(format!(
                        "replica-priority of {node} is 0. Where that is not your own setting: `cat {}` on {node} says what it was; with that for \
                         NUMBER: {}",
                        kept.display(),
                        set(&address.to_string(), "replica-priority", "NUMBER")
                    )),
                    Some(_) => None,
                    None => Some(format!("replica-priority of {node} could not be read; it must not stay 0")),
                }
            })
            .map(|what: String| super::typed_here(&what))
            .collect();
        if left.is_empty() || Instant::now() >= until {
            return left;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn number(reply: &Value) -> Option<u32> {
    switchover::number(reply)
}

/// `rolegate deinit --local`.
fn of_node(dry_run: bool) -> Result<CliCode, Stop> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Stop::refused("the firewall and the keeper's files are root's: run it as root"));
    }
    let settings = Settings::load()?;
    if let Some(gate) = configured()? {
        return Err(Stop::refused(format!(
            "nothing is taken out: the cluster still has the gate {gate}, which would put it back: rolegate deinit, then pcs resource delete {gate}"
        )));
    }
    let (files, waiting) = files(Path::new(memory::DIRECTORY), Path::new(permission::DIRECTORY));
    if Path::new(memory::DIRECTORY).join(FENCE).exists() {
        say("note: this node is fenced by itself, and stays so: rolegate unfence --local");
    }
    let held = gate::held(settings.firewall_within).map_err(|error| of_firewall(&error))?;
    if held.is_none() && files.is_empty() && waiting.is_empty() {
        say("Nothing to do: nothing of a gate is left on this node.");
        return Ok(CliCode::Ok);
    }
    say(if dry_run { "To be taken out:" } else { "Taking out:" });
    if let Some(ports) = &held {
        let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
        say(format!("  the firewall's entries for the ports {}", ports.join(", ")));
    }
    files.iter().for_each(|file| say(format!("  {}", file.display())));
    if !dry_run {
        if held.is_some() {
            gate::remove_all(settings.firewall_within).map_err(|error| of_firewall(&error))?;
        }
        for file in &files {
            match fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Stop::refused(format!("cannot remove {}: {error}", file.display())));
                }
                _ => {}
            }
        }
        local::note(None, "deinit --local", "what a gate left on this node is taken out");
    }
    for file in &waiting {
        let text = fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()));
        say(super::typed_here(&put_back_by_hand(file, text)));
    }
    Ok(if waiting.is_empty() { CliCode::Ok } else { CliCode::Warning })
}

/// What is to be done where a keeper has set replica-priority to 0 and has not put back what `file` says: `text`, or why it cannot be read. Pure.
fn put_back_by_hand(file: &Path, text: Result<String, String>) -> String {
    let file = file.display();
    let before = text.and_then(|text| {
        priority::understood(&text)
            .map_err(|why| format!("cannot understand {file} ({why}), which says {:?}", text.trim()))
    });
    match before {
        Ok(before) => format!(
            "note: replica-priority of a Redis here was {before} before it was set to 0: if it still is 0, redis-cli CONFIG SET \
             replica-priority {before}; redis-cli CONFIG REWRITE; then rm {file}"
        ),
        Err(why) => format!(
            "note: replica-priority of a Redis here was set to 0, and what it was before is not known: {why}. If it still is 0, with what it \
             is to be for NUMBER (Redis' own default is 100): redis-cli CONFIG SET replica-priority NUMBER; redis-cli CONFIG REWRITE; then \
             rm {file}"
        ),
    }
}

fn of_firewall(error: &GateError) -> Stop {
    let text = with_causes(error);
    if matches!(error, GateError::Timeout { .. }) { Stop::unknown(text) } else { Stop::refused(text) }
}

/// A gate or block that the cluster still has, as far as this node knows.
fn configured() -> Result<Option<String>, Stop> {
    let cib = match pacemaker::read_cib() {
        Ok(cib) => cib,
        Err(error) => match pacemaker::read_cib_on_disk() {
            Ok(cib) => cib,
            // Pacemaker was taken away, too.
            Err(_) if !pacemaker::has_cib_on_disk() => return Ok(None),
            Err(_) => return Err(error.into()),
        },
    };
    Ok(cib.gates.iter().chain(&cib.blocks).map(|resource| resource.id.clone()).next())
}

/// Our files in the keeper's directory and in that of the permissions; apart from those, the ones with a replica-priority that nobody
/// has put back.
fn files(state: &Path, run: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let all = |directory: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let regular = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
        let mut paths: Vec<PathBuf> = regular.map(|entry| entry.path()).collect();
        paths.sort();
        paths
    };
    let begins = |path: &Path, prefix: &str| {
        path.file_name().is_some_and(|name| name.to_string_lossy().trim_start_matches('.').starts_with(prefix))
    };
    let (waiting, mut files): (Vec<PathBuf>, Vec<PathBuf>) =
        all(state).into_iter().filter(|path| !path.ends_with(FENCE)).partition(|path| begins(path, PRIORITY));
    // Beside them are the keeper's lock and socket, which it needs for as long as it runs.
    files.extend(all(run).into_iter().filter(|path| begins(path, "permission-")));
    (files, waiting)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout;

    const ROLES: &str = "<nodes><node id=\"1\" uname=\"node1\"><instance_attributes id=\"i1\">\
        <nvpair id=\"r1\" name=\"redis_role\" value=\"primary\"/><nvpair id=\"o1\" name=\"own\" value=\"x\"/>\
        <nvpair id=\"v1\" name=\"rolegate_version\" value=\"0.0.1\"/></instance_attributes></node>\
        <node id=\"2\" uname=\"node2\"><instance_attributes id=\"i2\"><nvpair id=\"r2\" name=\"redis_role\" value=\"fail\"/>\
        <nvpair id=\"f2\" name=\"redis_fence\" value=\"by ann\"/></instance_attributes></node></nodes>";

    /// A gate as init leaves it, with more meta-attributes and constraints.
    fn cib(meta: &str, constraints: &str) -> Cib {
        let record = crate::record::tests::three();
        let pair = |name: &str, value: &str| {
            format!("<nvpair id=\"RedisGate-instance_attributes-{name}\" name=\"{name}\" value=\"{value}\"/>")
        };
        let parameters = [
            pair("sentinels", &record.sentinels_parameter()),
            pair("nodes", &record.nodes_parameter()),
            pair("lease", "3s"),
        ]
        .concat();
        cib::parse(&format!(
            "<cib><configuration>{ROLES}<resources><clone id=\"RedisGate-clone\"><primitive id=\"RedisGate\" class=\"ocf\" \
             provider=\"rolegate\" type=\"gate\"><instance_attributes id=\"RedisGate-instance_attributes\">{parameters}</instance_attributes>\
             <meta_attributes id=\"RedisGate-meta_attributes\">{meta}</meta_attributes></primitive></clone></resources>\
             <constraints>{constraints}</constraints></configuration></cib>"
        ))
        .unwrap()
    }

    fn meta_pair(name: &str, value: &str) -> String {
        format!("<nvpair id=\"RedisGate-meta_attributes-{name}\" name=\"{name}\" value=\"{value}\"/>")
    }

    fn planned(cib: &Cib, is_last: bool) -> (Vec<String>, Vec<String>) {
        let (removals, notes) = plan(&layout::guards(cib).0, cib, is_last);
        (removals.iter().map(ToString::to_string).collect(), notes)
    }

    #[test]
    fn a_priority_that_is_not_understood_is_not_guessed() {
        let says = |text: Result<&str, &str>| {
            put_back_by_hand(Path::new("/d/priority-G"), text.map(str::to_owned).map_err(str::to_owned))
        };
        let known = says(Ok("{\"version\":1,\"priority\":42}"));
        assert!(known.contains("was 42 before") && known.contains("CONFIG SET replica-priority 42; "), "{known}");
        for (text, why) in [
            (
                Ok("{\"version\":2,\"priority\":42}"),
                "cannot understand /d/priority-G (its version is 2, not 1), which says \"{",
            ),
            (Ok("high"), "which says \"high\""),
            (Err("cannot read /d/priority-G: no"), "cannot read /d/priority-G: no."),
        ] {
            let unknown = says(text);
            assert!(unknown.contains(why) && unknown.contains("is not known"), "{unknown}");
            assert!(!unknown.contains("replica-priority 100") && unknown.contains("rm /d/priority-G"), "{unknown}");
        }
    }

    #[test]
    fn all_that_init_makes_is_taken_out_and_nothing_else() {
        let gate = layout::guards(&cib("", "")).0.remove(0);
        let rules = init::constraints(&gate, &Cib::default()).concat();
        let own = "<rsc_location id=\"own\" rsc=\"RedisGate-clone\" node=\"node1\" score=\"50\"/>";
        let meta = [meta_pair("failure-timeout", "15s"), meta_pair("migration-threshold", "7")].concat();
        let (removals, notes) = planned(&cib(&meta, &format!("{rules}{own}")), true);
        assert_eq!(
            removals,
            [
                "gate RedisGate: sentinels, nodes",
                "location rule RedisGate-primary",
                "location rule RedisGate-closed",
                "location rule RedisGate-allowed",
                "redis_role of node1: primary",
                "redis_role of node2: fail",
                "gate RedisGate: meta failure-timeout=15s",
                "rolegate_version of node1: 0.0.1",
                "redis_fence of node2: by ann",
            ]
        );
        assert_eq!(notes, Vec::<String>::new());
        let (removals, notes) = planned(&cib(&meta, ""), false);
        assert!(
            !removals.iter().any(|one| one.contains("redis_fence") || one.contains("rolegate_version"))
                && notes[0].contains("node2 is fenced"),
            "{notes:?}"
        );
    }

    #[test]
    fn what_somebody_changed_is_his() {
        let gate = layout::guards(&cib("", "")).0.remove(0);
        let rules = init::constraints(&gate, &Cib::default()).concat().replace("score=\"INFINITY\"", "score=\"100\"");
        let other_id = "<nvpair id=\"mine\" name=\"failure-timeout\" value=\"15s\"/>";
        let (removals, notes) = planned(&cib(other_id, &rules), true);
        assert!(!removals.iter().any(|one| one.contains("RedisGate-primary") || one.contains("meta")), "{removals:?}");
        assert_eq!(notes, ["location rule RedisGate-primary is not as init makes it, and stays"]);
    }

    #[test]
    fn the_rule_for_fences_alone_is_known_too_and_so_are_those_of_blocks() {
        let gate = layout::guards(&cib("", "")).0.remove(0);
        let ids = |gate: &Gate| made_by_init(gate).into_iter().map(|one| one.id).collect::<Vec<_>>();
        assert_eq!(ids(&gate), ["RedisGate-primary", "RedisGate-closed", "RedisGate-allowed", "RedisGate-fenced"]);
        let block = |id: &str, port: &str| {
            format!(
                "<clone id=\"{id}-clone\"><primitive id=\"{id}\" class=\"ocf\" provider=\"rolegate\" type=\"block\">\
                 <instance_attributes id=\"{id}-i\"><nvpair id=\"{id}-p\" name=\"port\" value=\"{port}\"/></instance_attributes></primitive></clone>"
            )
        };
        let resources = [block("R", "ro"), block("W", "rw")].concat();
        let cib = cib::parse(&format!("<cib><configuration><resources>{resources}</resources></configuration></cib>"))
            .unwrap();
        let blocks = layout::guards(&cib).0.remove(0);
        assert_eq!(
            ids(&blocks),
            ["R-closed", "R-primary", "R-replica", "W-closed", "W-primary", "R-fenced", "W-fenced"]
        );
    }

    #[test]
    fn one_path_takes_one_thing() {
        let removal =
            Removal::Parameters("G".into(), vec![("sentinels".into(), "a".into()), ("nodes".into(), "b".into())]);
        assert_eq!(removal.xpath().unwrap(), "//primitive[@id='G']/instance_attributes/nvpair[@id='a' or @id='b']");
        let meta = Removal::Meta("G".into(), "failure-timeout".into(), "15s".into(), "m-f".into());
        assert_eq!(meta.xpath().unwrap(), "//primitive[@id='G']/meta_attributes/nvpair[@id='m-f'][@value='15s']");
    }

    #[test]
    fn a_priority_that_waits_is_no_file_to_remove() {
        let directory = tempfile::tempdir().unwrap();
        let (state, run) = (directory.path().join("state"), directory.path().join("run"));
        for path in [state.join("deep"), run.clone()] {
            fs::create_dir_all(path).unwrap();
        }
        for path in [
            "state/lease-G",
            "state/failover-m",
            "state/priority-G",
            "state/fence",
            "run/permission-G",
            "run/keeper.lock",
            "run/node",
        ] {
            fs::write(directory.path().join(path), "1").unwrap();
        }
        let (files, waiting) = files(&state, &run);
        assert_eq!(files, [state.join("failover-m"), state.join("lease-G"), run.join("permission-G")]);
        assert_eq!(waiting, [state.join("priority-G")]);
        assert_eq!(super::files(&directory.path().join("none"), &run.join("none")), (vec![], vec![]));
    }
}
