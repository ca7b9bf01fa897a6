//! `rolegate fence --local` and `unfence --local`: on this node, whatever has become of the cluster. See [`crate::local_fence`].

use std::time::SystemTime;

use super::fence::{Act, marker, operator, unfence_in_cluster};
use super::{Cluster, Stop, gates, look, say};
use crate::causes::with_causes;
use crate::exit::CliCode;
use crate::gate::{Desired, Gate, Ports};
use crate::keeper::known_node_name;
use crate::keeper::socket::{self, Request};
use crate::local_fence::{ITSELF, LocalFence};
use crate::pacemaker::{self, FENCE_ATTRIBUTE};
use crate::permission;
use crate::role::Role;
use crate::settings::Settings;

/// The ports of the gates of this node, by what stands on its disk and what Pacemaker has permitted; the usual ones where nothing does.
fn ports() -> Vec<Ports> {
    let on_disk = pacemaker::read_cib_on_disk().map(|cib| gates(&cib).0).unwrap_or_default();
    let mut ports: Vec<Ports> = on_disk.iter().map(|gate| gate.params.ports).collect();
    ports.extend(permission::all().iter().map(|permission| permission.ports));
    ports.sort_unstable_by_key(|ports| (ports.rw, ports.ro, ports.redis));
    ports.dedup();
    if ports.is_empty() { vec![Ports::default()] } else { ports }
}

/// Notes in the journal what was done on this node, by what stands on its disk.
pub(super) fn note(role: Option<Role>, reason: &str, what: &str) {
    let cib = pacemaker::read_cib_on_disk().ok();
    let host = || Some(nix::unistd::gethostname().ok()?.to_string_lossy().into_owned());
    let me = cib.as_ref().and_then(known_node_name).or_else(host);
    let gates = cib.as_ref().map(|cib| gates(cib).0).unwrap_or_default();
    Act { node: me.as_deref(), role, reason }.note(&gates, what);
}

/// What closes a node's ports where no fence can be set: while they run, a monitor or the keeper would open what may be open.
fn last_resort(ports: &[Ports]) -> String {
    let close = |ports: &Ports| {
        let Ports { ro, rw, redis } = ports;
        format!("rolegate-port --ro-port {ro} --rw-port {rw} --redis-port {redis} close all")
    };
    let close: Vec<String> = ports.iter().map(close).collect();
    format!("systemctl stop pacemaker rolegate-keeper; {}", close.join("; "))
}

fn root(command: &str) -> Result<(), Stop> {
    match nix::unistd::geteuid().is_root() {
        true => Ok(()),
        false => Err(Stop::refused(format!("{command} changes this node's firewall: run it as root"))),
    }
}

/// Closes the ports of this node, and keeps them closed.
pub fn fence(reason: Option<&str>) -> Result<CliCode, Stop> {
    root("rolegate fence --local")?;
    let settings = Settings::load().unwrap_or_else(|error| {
        // Closing needs none.
        say(format!("warning: {}", with_causes(&error)));
        Settings::default()
    });
    let (local, ports) = (LocalFence::default(), ports());
    let before = local.read();
    let text = before.clone().unwrap_or_else(|| {
        let who = format!("{} {ITSELF}", operator());
        marker("ports closed by operator", &who, SystemTime::now(), reason)
    });
    if let Some(before) = &before {
        say(format!("this node is fenced already: {before}"));
    }
    let set = local.set(&text);
    let mut failed = false;
    for ports in &ports {
        let closed = Gate::new(*ports, settings.firewall, settings.firewall_within)
            .and_then(|gate| gate.sparing_others().set(Desired::CLOSED));
        match closed {
            Ok(_) => say(format!("{} and {} are closed on this node", ports.ro, ports.rw)),
            Err(error) => {
                failed = true;
                say(format!("{} and {} were not seen closed: {}", ports.ro, ports.rw, with_causes(&error)));
            }
        }
    }
    let what = match (&set, failed) {
        (Err(error), _) => format!("no fence can be set on this node: {error}"),
        (Ok(_), false) => format!("this node is fenced by itself: {text}"),
        (Ok(_), true) => format!("this node is fenced by itself, and not all ports were seen closed: {text}"),
    };
    note(Some(Role::Fail), reason.unwrap_or("fence --local"), &what);
    let lasts = set.map_err(|error| {
        let then = last_resort(&ports);
        Stop::refused(format!("no fence can be set ({error}): what may open opens again. To keep it closed: {then}"))
    })?;
    let keeper = socket::ask(&Request::Report).is_ok();
    if failed {
        say(format!("Try again; or: {}", last_resort(&ports)));
        return Ok(CliCode::Critical);
    }
    let cluster = match keeper {
        true => "rolegate-keeper tells the cluster when this node has quorum, and has the primary moved from here",
        false => "rolegate-keeper does not run here; when it does, it goes by the fence and tells the cluster",
    };
    match lasts {
        None => {
            say(format!("They stay closed, after a reboot too, until: rolegate unfence --local\n{cluster}"));
            Ok(CliCode::Ok)
        }
        Some(error) => {
            say(format!(
                "They stay closed until: rolegate unfence --local\n{cluster}\nwarning: after a reboot they do not: the fence could not be written to the disk ({error})"
            ));
            Ok(CliCode::Warning)
        }
    }
}

/// Lifts it. What the cluster was told is lifted, too.
pub fn unfence() -> Result<CliCode, Stop> {
    root("rolegate unfence --local")?;
    let was = LocalFence::default().read();
    LocalFence::default().lift().map_err(|error| Stop::refused(format!("the fence stands: {error}")))?;
    if was.is_some() {
        note(None, "unfence --local", "this node is no longer fenced by itself");
    }
    say(if was.is_some() { "this node is no longer fenced by itself" } else { "this node was not fenced by itself" });
    let not_asked = |why: &str| {
        say(format!(
            "{why}. If the cluster was told of the fence (redis_fence in crm_mon -A): rolegate unfence NODE, later"
        ));
        Ok(if was.is_some() { CliCode::Warning } else { CliCode::Ok })
    };
    let Cluster { me, quorum, cib } = match look() {
        Ok(cluster) => cluster,
        Err(stop) => return not_asked(&stop.message),
    };
    if !quorum {
        return not_asked("this partition has no quorum");
    }
    match cib.node(&me).and_then(|node| node.permanent(FENCE_ATTRIBUTE)) {
        Some(other) if !other.contains(ITSELF) => {
            say(format!("{me} is still fenced in the cluster: {other}\n   -> rolegate unfence {me}"));
            Ok(CliCode::Warning)
        }
        None if was.is_none() => Ok(CliCode::Ok),
        _ => unfence_in_cluster(&me, true),
    }
}
