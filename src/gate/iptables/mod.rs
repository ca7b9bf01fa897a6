//! The gate on iptables with ipset, for IPv4 and IPv6, on either variant of iptables.
//!
//! Times are whole seconds here, rounded down: never longer than asked. Rules change in one step per table and family, and
//! a port opens and closes for both families with one swap or flush of its set.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::SockProtocol;

use super::netlink::Socket;
use super::{Backend, Baseline, Desired, GateError, Port, PortState, Ports, State, Variant, Want, pause, verify};
use crate::command::{Cmd, find};
use crate::gate::nft;
use crate::logging::{Subject, decided};

pub mod ipset;
pub mod lease;
pub mod plan;
pub mod seen;

use ipset::{Change, Set};
use seen::Saved;

/// How often a change is planned anew when something else changed in between.
const ATTEMPTS: usize = 10;

/// The set in which another is filled before it is swapped in. Only who has the lock uses it.
const SPARE: &str = "rolegate-new";

const READING: &str = "reading ipsets";

/// IPSET_ERR_FIND_TYPE: the kernel does not know this kind of set.
const UNKNOWN_KIND: i32 = 4098;

const NOT_FOUND: &str = "neither iptables-nft nor iptables-legacy is installed";

/// Which variant to use: the one that holds our chains, else the one that the command `iptables` stands for.
///
/// # Errors
/// [`GateError::NoFirewall`] where neither is installed.
pub fn variant(until: Instant) -> Result<Variant, GateError> {
    let installed = |variant: &Variant| find(program("iptables", *variant, "restore")).is_ok();
    let mut variants: Vec<Variant> = [Variant::Nft, Variant::Legacy].into_iter().filter(installed).collect();
    let legacy = Cmd::new("iptables").arg("-V").run().is_ok_and(|said| said.text().contains("legacy"));
    if legacy {
        variants.reverse();
    }
    let first = *variants.first().ok_or_else(|| GateError::NoFirewall(NOT_FOUND.to_owned()))?;
    if variants.len() == 1 || !present(until)? {
        return Ok(first);
    }
    for variant in variants {
        if read(variant, until)?.families.iter().any(|(_, saved)| !saved.is_empty()) {
            return Ok(variant);
        }
    }
    Ok(first)
}

/// Whether iptables of either variant is installed.
pub fn installed() -> bool {
    [Variant::Nft, Variant::Legacy].into_iter().any(|variant| find(program("iptables", variant, "restore")).is_ok())
}

/// Whether any set of ours is there. Without one, no rule of ours can be.
///
/// # Errors
/// Without CAP_NET_ADMIN, at the deadline, and the kernel's.
pub fn present(until: Instant) -> Result<bool, GateError> {
    Ok(!plan::gates(&sets(until)?).is_empty())
}

fn sets(until: Instant) -> Result<BTreeMap<String, Set>, GateError> {
    ipset::list(plan::PREFIX, until).map_err(unread)
}

fn unread(error: io::Error) -> GateError {
    GateError::of_kernel(READING, error)
}

fn change(changes: &[Change], until: Instant) -> Result<(), GateError> {
    ipset::change(changes, until).map_err(|error| match error.raw_os_error() {
        Some(nix::libc::EINVAL | nix::libc::EOPNOTSUPP | UNKNOWN_KIND) => {
            GateError::NoFirewall(format!("iptables can carry a gate only with ipset ({} sets): {error}", ipset::KIND))
        }
        _ => GateError::of_kernel("changing ipsets", error),
    })
}

/// iptables-nft-save, ip6tables-legacy-restore and so on.
fn program(family: &str, variant: Variant, action: &str) -> String {
    let variant = match variant {
        Variant::Nft => "nft",
        Variant::Legacy => "legacy",
    };
    format!("{family}-{variant}-{action}")
}

/// The families that this host speaks.
fn families() -> impl Iterator<Item = &'static str> {
    let six = Path::new("/proc/net/if_inet6").exists();
    ["iptables"].into_iter().chain(six.then_some("ip6tables"))
}

/// When the rules were as they were, by what tells that without a program: nf_tables counts all changes, and none of ipset is among them.
/// Of the rules of iptables-legacy nothing tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    generation: u32,
    families: usize,
}

impl Moment {
    /// The present one, if nf_tables tells.
    ///
    /// # Errors
    /// The kernel's; [`io::ErrorKind::TimedOut`] at the socket's deadline.
    pub fn now(socket: &mut Socket) -> io::Result<Option<Self>> {
        let generation = match nft::seen::generation(socket) {
            Err(error) if matches!(error.raw_os_error(), Some(nix::libc::EINVAL | nix::libc::EOPNOTSUPP)) => 0,
            generation => generation?,
        };
        Ok((generation > 0).then(|| Moment { generation, families: families().count() }))
    }
}

/// When each gate's rules were last read as they should be. Reading them needs programs, and while nothing has changed nobody reads them
/// again. Of one process, in one network namespace.
#[derive(Debug, Clone, Default)]
pub struct Known(Arc<Mutex<HashMap<Ports, Moment>>>);

impl Known {
    /// When the rules of `ports` were as they should be, if that is known.
    pub fn of(&self, ports: Ports) -> Option<Moment> {
        self.lock().get(&ports).copied()
    }

    /// What was read in `moment`, or some time behind it: so whoever finds that moment yet finds the same rules.
    fn read(&self, moment: Option<Moment>, state: &State) {
        match moment.filter(|_| state.baseline == Baseline::Intact) {
            Some(moment) => self.lock().insert(state.ports, moment),
            None => self.lock().remove(&state.ports),
        };
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Ports, Moment>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All that is ours, on one variant.
#[derive(Debug)]
pub struct Seen {
    variant: Variant,
    /// From before anything of it was read.
    moment: Option<Moment>,
    families: Vec<(&'static str, Saved)>,
    sets: BTreeMap<String, Set>,
}

/// Reads what all gates have on `variant`.
///
/// # Errors
/// As [`state`], without [`GateError::Foreign`].
pub fn read(variant: Variant, until: Instant) -> Result<Seen, GateError> {
    let mut socket = Socket::open(SockProtocol::NetlinkNetFilter, until).map_err(unread)?;
    let moment = match variant {
        Variant::Nft => Moment::now(&mut socket).map_err(unread)?,
        Variant::Legacy => None,
    };
    let sets = ipset::list_on(&mut socket, plan::PREFIX).map_err(unread)?;
    let mut seen = Seen { variant, moment, families: Vec::new(), sets };
    for family in families() {
        let left = until.saturating_duration_since(Instant::now());
        let save = Cmd::new(program(family, variant, "save")).deadline(left);
        let text = save.run().map_err(GateError::of_command)?.text();
        seen.families.push((family, Saved::parse(&text)));
    }
    Ok(seen)
}

impl Seen {
    fn foreign(&self, ports: Ports) -> Option<String> {
        let chain = |(family, saved): &(&str, Saved)| Some(format!("{family}: {}", saved.foreign_chain()?.1));
        plan::foreign_set(&self.sets, ports).or_else(|| self.families.iter().find_map(chain))
    }

    /// Whether what is not ours can send a connection elsewhere.
    fn foreign_translates(&self) -> bool {
        self.families.iter().any(|(_, saved)| saved.foreign_chain().is_some_and(|(table, _)| table == "nat"))
    }

    /// The state of one gate, which `known` learns.
    ///
    /// # Errors
    /// [`GateError::Foreign`].
    pub fn state_of(&self, ports: Ports, known: &Known) -> Result<State, GateError> {
        match self.foreign(ports) {
            Some(foreign) => Err(GateError::Foreign(foreign)),
            None => Ok(self.state(ports, known)),
        }
    }

    fn state(&self, ports: Ports, known: &Known) -> State {
        let gates = plan::gates(&self.sets);
        let rules_differ = || {
            self.families
                .iter()
                .find_map(|(family, saved)| Some(format!("{family}: {}", plan::rules_differ(saved, &gates, ports)?)))
        };
        let nothing = self.families.iter().all(|(_, saved)| saved.is_empty()) && gates.is_empty();
        let baseline = if nothing {
            Baseline::Missing
        } else {
            let difference = self.foreign(ports).or_else(|| plan::sets_differ(&self.sets, ports)).or_else(rules_differ);
            difference.map_or(Baseline::Intact, Baseline::Edited)
        };
        let state = state_by(self.variant, &self.sets, ports, baseline);
        known.read(self.moment, &state);
        state
    }
}

/// The state as far as the sets tell.
fn state_by(variant: Variant, sets: &BTreeMap<String, Set>, ports: Ports, baseline: Baseline) -> State {
    let port = |port: Port| {
        let left = sets.get(&plan::open_set(ports.number(port))).and_then(time_left);
        left.map_or(PortState::Closed, |remaining| PortState::Open { remaining })
    };
    let (ro, rw) = (port(Port::Ro), port(Port::Rw));
    State { backend: Backend::Iptables(variant), baseline, ports, ro, rw, cut: None }
}

/// How long the longest is in `set`, if anything is; [`Duration::MAX`]: without end.
fn time_left(set: &Set) -> Option<Duration> {
    let time = |left: &Option<u32>| match left {
        None | Some(0) => Duration::MAX,
        Some(seconds) => Duration::from_secs((*seconds).into()),
    };
    set.ports.values().map(time).max()
}

/// The state of one gate.
///
/// # Errors
/// Without CAP_NET_ADMIN, without the programs, at the deadline, and the kernel's; [`GateError::Foreign`].
pub fn state(variant: Variant, ports: Ports, known: &Known, until: Instant) -> Result<State, GateError> {
    read(variant, until)?.state_of(ports, known)
}

/// Empties the sets that hold `ports` open, which closes them on both variants, and takes the arms from whoever holds them.
/// Needs no programs.
///
/// # Errors
/// Without CAP_NET_ADMIN, at the deadline, and the kernel's.
pub fn shut(ports: Ports, want: Desired, until: Instant) -> Result<(), GateError> {
    let closing = || want.closing().map(|port| ports.number(port));
    let mut socket = Socket::open(SockProtocol::NetlinkNetFilter, until).map_err(unread)?;
    let mut found = ipset::headers(&mut socket, plan::PREFIX).map_err(unread)?;
    loop {
        // First, for what is swapped in until then is emptied below, and nothing is later.
        let withdrawn = closing().try_for_each(|port| lease::withdraw_from(&found, port, until));
        let flushes: Vec<Change> = closing()
            .map(plan::open_set)
            // What was empty then may have been swapped since.
            .filter(|name| found.get(name).is_some_and(|set| set.kind == ipset::KIND))
            .map(Change::Flush)
            .collect();
        change(&flushes, until)?;
        withdrawn?;
        // One that was made meanwhile may be about to be swapped in, for it was made before that port was emptied. One that is made from
        // now on comes too late: its maker finds the port closed.
        found = ipset::headers(&mut socket, plan::PREFIX).map_err(unread)?;
        let mut left = closing().any(|port| plan::armed_sets(&found, port).next().is_some());
        // Nor is there one that another closer has destroyed just behind its swap.
        for port in closing() {
            let name = plan::open_set(port);
            let is_ours = found.get(&name).is_some_and(|set| set.kind == ipset::KIND);
            left |= is_ours && ipset::holds(&mut socket, &name, port).map_err(unread)?;
        }
        if !left {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(unread(io::ErrorKind::TimedOut.into()));
        }
    }
}

/// Where each port leads to whose set is there.
///
/// # Errors
/// Without CAP_NET_ADMIN, at the deadline, and the kernel's.
pub fn targets(until: Instant) -> Result<plan::Gates, GateError> {
    Ok(plan::gates(&sets(until)?))
}

/// Makes baseline and change, reads back and verifies.
///
/// # Errors
/// Every one but [`GateError::PortInUse`].
pub fn apply(
    subject: &Subject,
    variant: Variant,
    ports: Ports,
    want: Desired,
    known: &Known,
    until: Instant,
) -> Result<State, GateError> {
    if !want.closes() {
        return attempts(variant, ports, want, known, until);
    }
    // At once, whatever becomes of the rest: without an element there is no redirect, and guards that are there cut.
    shut(ports, want, until)?;
    let left = until.saturating_duration_since(Instant::now());
    match attempts(variant, ports, want, known, until - left / 4) {
        Err(error) if !want.opens() && !matches!(error, GateError::Foreign(_) | GateError::Permission { .. }) => {
            // Of a caller with an older permission, for whose lock this one did not wait.
            shut(ports, want, until)?;
            let found = sets(until)?;
            let state = state_by(variant, &found, ports, Baseline::Edited(error.to_string()));
            if want.closing().any(|port| state.of(port).is_open()) {
                return Err(error);
            }
            decided!(error, subject, error, "closed, but the rules could not be repaired: {error}");
            Ok(state)
        }
        result => result,
    }
}

fn attempts(variant: Variant, ports: Ports, want: Desired, known: &Known, until: Instant) -> Result<State, GateError> {
    let mut attempt = 1;
    loop {
        match attempt_once(variant, ports, want, known, until) {
            Err(error @ (GateError::Command(_) | GateError::Mismatch(_) | GateError::Kernel { .. }))
                if attempt < ATTEMPTS && Instant::now() < until =>
            {
                tracing::debug!("attempt {attempt}: {error}");
                attempt += 1;
                thread::sleep(pause());
                // Somebody may have opened what is to be closed: who closes does not wait for the lock for ever.
                shut(ports, want, until)?;
            }
            result => return result,
        }
    }
}

fn attempt_once(
    variant: Variant,
    ports: Ports,
    want: Desired,
    known: &Known,
    until: Instant,
) -> Result<State, GateError> {
    let seen = read(variant, until)?;
    if let Some(foreign) = seen.foreign(ports) {
        // What was ours is shut. But another's chain of our name that translates may be what opens the port.
        return if want.opens() || !want.closes() || seen.foreign_translates() {
            Err(GateError::Foreign(foreign))
        } else {
            Ok(seen.state(ports, known))
        };
    }
    let gates = plan::with(plan::gates(&seen.sets), ports);
    let mut changes = Vec::new();
    if seen.sets.contains_key(SPARE) {
        // Of a caller that was killed.
        changes.push(Change::Destroy(SPARE.to_owned()));
    }
    changes.extend(plan::repair_sets(&seen.sets, &gates, SPARE));
    change(&changes, until)?;
    for (family, saved) in &seen.families {
        restore(family, variant, &plan::restore(saved, &gates), until)?;
    }
    let started = Instant::now();
    for port in Port::ALL {
        if let Want::Open(time) = want.of(port) {
            let seconds = time.as_secs() as u32;
            change(&plan::open(ports.number(port), ports.redis, seconds, SPARE), until)?;
        }
    }
    let seen = read(variant, until)?;
    let state = seen.state(ports, known);
    verify(&state, want, started.elapsed())?;
    Ok(state)
}

/// Gives `text` to iptables-restore, which makes one step of each table in it.
fn restore(family: &str, variant: Variant, text: &str, until: Instant) -> Result<(), GateError> {
    if text.is_empty() {
        return Ok(());
    }
    let left = until.saturating_duration_since(Instant::now());
    Cmd::new(program(family, variant, "restore"))
        .in_our_group()
        .args(["--noflush", "-w", &left.as_secs().max(1).to_string()])
        .stdin(text)
        .deadline(left)
        .run()
        .map(drop)
        .map_err(GateError::of_command)
}

/// Takes rules and sets of this gate away on both variants, and the chains with those of the last gate.
///
/// # Errors
/// Every one but [`GateError::PortInUse`].
pub fn remove(ports: Ports, until: Instant) -> Result<(), GateError> {
    let mut found = sets(until)?;
    for variant in [Variant::Nft, Variant::Legacy] {
        if find(program("iptables", variant, "restore")).is_err() {
            continue;
        }
        let seen = read(variant, until)?;
        if let Some(foreign) = seen.foreign(ports) {
            return Err(GateError::Foreign(foreign));
        }
        let others = plan::without(plan::gates(&seen.sets), ports);
        for (family, saved) in &seen.families {
            if !saved.is_empty() {
                restore(family, variant, &plan::restore(saved, &others), until)?;
            }
        }
        found = seen.sets;
    }
    let others = plan::without(plan::gates(&found), ports);
    change(&plan::destroy(&found, ports, &others), until)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_were_read_as_they_should_be_are_known_until_they_are_not() {
        let known = Known::default();
        let (shared, ports) = (known.clone(), Ports::default());
        let moment = |generation| Some(Moment { generation, families: 2 });
        let state = |baseline| state_by(Variant::Nft, &BTreeMap::new(), ports, baseline);
        assert_eq!(known.of(ports), None);
        shared.read(moment(7), &state(Baseline::Intact));
        assert_eq!((known.of(ports), known.of(Ports { rw: 7381, ..ports })), (moment(7), None));
        known.read(moment(8), &state(Baseline::Intact));
        assert_eq!(shared.of(ports), moment(8));
        for baseline in [Baseline::Missing, Baseline::Edited("a rule is gone".to_owned())] {
            known.read(moment(9), &state(Baseline::Intact));
            known.read(moment(9), &state(baseline));
            assert_eq!(known.of(ports), None);
        }
        // Of iptables-legacy nothing tells that the rules are yet as they were.
        known.read(moment(10), &state(Baseline::Intact));
        known.read(None, &state(Baseline::Intact));
        assert_eq!(known.of(ports), None);
    }
}
