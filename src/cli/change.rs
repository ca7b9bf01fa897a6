//! `rolegate init` where there is a record already: one step after the other, each when all nodes have shown that they have the one before.
//!
//! It is the keepers that see to it that nothing opens by two records that are not neighbours ([`crate::stand`]). Here it is seen to that
//! they can follow, that Pacemaker does not restart the gate for its changed parameters, and that somebody is told who is waited for.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use super::fence::Act;
use super::judge;
use super::switchover::Interruption;
use super::{Gate, Stop, gates, init, say};
use crate::exit::CliCode;
use crate::keeper::stand::{basis, peers, written};
use crate::pacemaker::cib::Resource;
use crate::pacemaker::{self, Cib};
use crate::record::{Basis, Change, Step};
use crate::stand::{Peer, Shown, attribute};

/// After that it is said who is waited for.
const SOON: Duration = Duration::from_secs(4);

const PAUSE: Duration = Duration::from_millis(300);

/// The nodes that have not shown that they have the record of the CIB: the next step waits for them.
pub fn waits_for(gate: &Gate, cib: &Cib) -> Vec<Peer<String>> {
    let Some(now) = basis(&gate.params) else { return Vec::new() };
    let digest = now.digest();
    let all = peers(cib, &attribute(&gate.params.master), "", &[&now.record]);
    all.into_iter().filter(|peer| !peer.has_shown(&digest)).collect()
}

/// What the next step is one from: the CIB's record, where nodes have that or are about to; else what this node's keeper has, if it is what
/// all have.
fn base(gate: &Gate, cib: &Cib, again: &str) -> Result<Basis, Stop> {
    let now = basis(&gate.params).ok_or_else(|| Stop::unknown("the record cannot be used any more"))?;
    let digest = now.digest();
    let nodes = peers(cib, &attribute(&gate.params.master), "", &[&now.record]);
    if nodes.iter().any(|peer| peer.says.names(&digest)) || nodes.iter().all(|peer| peer.has_shown(&digest)) {
        return Ok(now);
    }
    match written(&gate.resource.id) {
        // It is waited for somebody before it is taken.
        Some(here) if matches!(here.change_to(&now), Change::One(_)) => Ok(now),
        Some(here) if nodes.iter().all(|peer| peer.has_shown(&here.digest())) => Ok(here),
        _ => Err(Stop::refused(format!(
            "the nodes do not stand on the record that the cluster has, and what they stand on is not known here: {}. Run this on a node \
             whose keeper has it, or change it with all nodes online and the gate disabled:\n{}",
            list(&nodes),
            at_once(gate, again)
        ))),
    }
}

/// What a node says, in words.
pub fn word(says: &Shown<String>) -> &'static str {
    match says {
        Shown::Never => "says nothing: its keeper does not run, or is of an older release",
        Shown::Nothing => "stands on none",
        Shown::On(_) => "stands on another",
        Shown::Moving(..) => "is going on",
        Shown::Off => "confirmed off",
        Shown::Unclear => "says what cannot be understood",
    }
}

/// Nodes, and what each says.
pub fn list(nodes: &[Peer<String>]) -> String {
    nodes.iter().map(|peer| format!("{} ({})", peer.name, word(&peer.says))).collect::<Vec<_>>().join(", ")
}

/// What ends the waiting for these nodes.
pub fn what_to_do(names: &[&str]) -> String {
    let off: Vec<String> = names.iter().map(|name| format!("rolegate confirm-off {name}")).collect();
    format!(
        "bring {} back, with Pacemaker and rolegate-keeper running; if it is off for certain: {}",
        names.join(" and "),
        off.join("; ")
    )
}

/// What has init, by the command `again`, write the record whatever was there before: while the gate is disabled nobody stands on any.
pub fn at_once(gate: &Gate, again: &str) -> String {
    match gate.is_blocks() {
        true => format!("rolegate fence NODE for each node; {again}; rolegate unfence NODE for each node"),
        false => judge::disabled(&gate.resource.outer_id, again),
    }
}

/// Where the change begins, and the records from there to `goal`.
fn way(gate: &Gate, cib: &Cib, goal: &Basis, again: &str) -> Result<(Basis, Vec<Basis>), Stop> {
    let at = base(gate, cib, again)?;
    let way = at.way_to(goal).ok_or_else(|| {
        Stop::refused(format!(
            "no single steps lead from the record to that one: change it with all nodes online and the gate disabled:\n{}",
            at_once(gate, again)
        ))
    })?;
    Ok((at, way))
}

/// The steps to `goal`, one after the other. `again` is the command that takes them.
pub fn steps(gate: &Gate, cib: &Cib, goal: &Basis, again: &str) -> Result<Vec<Step>, Stop> {
    let (mut at, way) = way(gate, cib, goal, again)?;
    let mut steps = Vec::new();
    for next in way {
        if let Change::One(step) = at.change_to(&next) {
            steps.push(step);
        }
        at = next;
    }
    Ok(steps)
}

/// Has the record become `goal`, step by step. All nodes may take so long to follow each. `again` is the command that goes on with it.
pub fn step_by_step(id: &str, goal: &Basis, within: Duration, again: &str) -> Result<CliCode, Stop> {
    let interruption = Interruption::listen();
    let (gate, cib) = look(id)?;
    let (mut at, way) = way(&gate, &cib, goal, again)?;
    if basis(&gate.params).as_ref() == Some(&at) {
        followed(id, within, &interruption, again)?;
    }
    let steps = way.len();
    for (n, next) in (1..).zip(way) {
        let change = at.change_to(&next);
        if let Change::One(step) = &change {
            say(format!("step {n} of {steps}: {step}"));
        }
        write(id, &next, again)?;
        if let Change::One(step) = &change {
            let act = Act { reason: "init --replace", ..Act::default() };
            act.note([&gate], &format!("the record is changed, step {n} of {steps}: {step}"));
        }
        followed(id, within, &interruption, again)?;
        at = next;
    }
    say("\nDone: all nodes stand on it.");
    Ok(CliCode::Ok)
}

/// Waits until no node stands on another record than the one that was written with the gate disabled: who is not told before it is enabled goes on
/// with the old one. Who stands on none takes the new one in a moment.
pub fn taken(id: &str, within: Duration, again: &str) -> Result<(), Stop> {
    followed(id, within, &Interruption::listen(), again)
}

fn look(id: &str) -> Result<(Gate, Cib), Stop> {
    let cib = pacemaker::read_cib()?;
    let gate = gates(&cib).0.into_iter().find(|gate| gate.resource.id == id);
    Ok((gate.ok_or_else(|| Stop::refused(format!("gate {id} is gone from the cluster")))?, cib))
}

/// Waits until all nodes have shown that they have the record.
fn followed(id: &str, within: Duration, interruption: &Interruption, again: &str) -> Result<(), Stop> {
    let began = Instant::now();
    let mut said = BTreeSet::new();
    loop {
        let (gate, cib) = look(id)?;
        let waits = waits_for(&gate, &cib);
        if waits.is_empty() {
            return Ok(());
        }
        let now: BTreeSet<String> = waits.iter().map(|peer| peer.name.clone()).collect();
        if began.elapsed() > SOON && now != said {
            say(format!("  waiting for {}", list(&waits)));
            said = now;
        }
        let stop = match (interruption.raised(), began.elapsed() > within) {
            (true, _) => "interrupted".to_owned(),
            (false, true) => format!("not all nodes have followed within {} s", within.as_secs()),
            (false, false) => {
                thread::sleep(PAUSE);
                continue;
            }
        };
        return Err(waits_still(&stop, &waits, again));
    }
}

/// It ends with the change half-way: why, whom that waits for, and what goes on.
pub fn waits_still(why: &str, waits: &[Peer<String>], again: &str) -> Stop {
    let names: Vec<&str> = waits.iter().map(|peer| peer.name.as_str()).collect();
    let message = format!(
        "{why}: the change waits for {}. Nothing is broken by that. To go on, {}; then: {again}",
        list(waits),
        what_to_do(&names)
    );
    Stop { code: CliCode::Warning, message }
}

/// Writes one step. Pacemaker would restart a gate for its changed parameters, and so close it: it is told to leave it alone meanwhile, and
/// to look anew at what runs; by that, these are the parameters with which it runs.
fn write(id: &str, next: &Basis, again: &str) -> Result<(), Stop> {
    if !pacemaker::has_quorum()? {
        return Err(Stop::refused("this partition has no quorum: nothing is written"));
    }
    for _ in 0..TRIES {
        let (gate, cib) = look(id)?;
        if gate.is_blocks() {
            // Where a block runs its port is closed, and stays so when it is started anew. Where none runs there is nothing to restart.
            for resource in gate.resources() {
                pacemaker::modify("resources", &init::record_xml(resource, &next.record, None))?;
            }
            return Ok(());
        }
        let resource = &gate.resource;
        let alone = !resource.meta.contains_key("is-managed") || is_left_unmanaged(resource);
        let xml = init::record_xml(resource, &next.record, alone.then_some("false"));
        let path = format!("/configuration/resources//primitive[@id='{}']", resource.id);
        if !pacemaker::modify_if_unchanged(&cib, &[], &path, &xml)? {
            continue;
        }
        if alone {
            manage(&resource.id)?;
        }
        return Ok(());
    }
    Err(Stop::refused(format!(
        "the cluster's configuration is being changed by somebody else all the time; again: {again}"
    )))
}

/// The id of the `is-managed` that [`write`] sets: by it a later run knows whose it is. Pacemaker's tools take another one.
pub fn unmanaged_id(resource: &Resource) -> String {
    format!("{}-rolegate-is-managed", resource.id)
}

/// Whether a run that was killed has left the gate so that Pacemaker leaves it alone.
pub fn is_left_unmanaged(resource: &Resource) -> bool {
    let set = resource.meta.get("is-managed").is_some_and(|is| is == "false");
    set && resource.meta_ids.get("is-managed").is_some_and(|id| *id == unmanaged_id(resource))
}

/// Has Pacemaker look anew at what runs of a gate that it leaves alone, and manage it then.
pub fn manage(id: &str) -> Result<(), Stop> {
    let looked = pacemaker::refresh(id);
    let until = Instant::now() + LOOKED_WITHIN;
    while !pacemaker::is_idle().unwrap_or(false) && Instant::now() < until {
        thread::sleep(PAUSE);
    }
    pacemaker::manage(id).map_err(|error| {
        let Stop { code, message } = Stop::from(error);
        Stop {
            code,
            message: format!("Pacemaker leaves gate {id} alone still: {message}\n{}", pacemaker::how_to_manage(id)),
        }
    })?;
    if let Err(error) = looked {
        say(format!("  note: Pacemaker may restart the gate: {error}"));
    }
    Ok(())
}

/// How long Pacemaker may take until it has looked at all nodes.
const LOOKED_WITHIN: Duration = Duration::from_secs(10);

/// Others write, too.
const TRIES: u32 = 5;
