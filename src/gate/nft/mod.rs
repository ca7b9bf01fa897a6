//! The gate on nftables: reading, changing in one transaction, verifying.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use super::{Backend, Baseline, Desired, GateError, PortState, Ports, State, pause, verify};
use crate::command::{Cmd, find};
use crate::logging::{Subject, decided};

mod elements;
pub mod lease;
pub mod plan;
pub mod rules;
pub mod seen;

use plan::Renewal;
use seen::Seen;

/// NFNL_SUBSYS_NFTABLES of linux/netfilter/nfnetlink.h.
const SUBSYSTEM: u8 = 10;
/// NFPROTO_INET: IPv4 and IPv6 in one table.
const INET: u8 = 1;

const READING: &str = "reading table inet rolegate";

/// How often a change is planned anew when the kernel refused it or did not end up as asked: transactions of others collide
/// with ours, and what was read can have changed.
const ATTEMPTS: usize = 20;

/// From this attempt on a table that could not be repaired piece by piece is made anew.
const MAKE_ANEW: usize = 3;

/// Whether nft is installed.
pub fn installed() -> bool {
    find("nft").is_ok()
}

/// Reads our table; None where there is none, or where the kernel has no nf_tables.
///
/// # Errors
/// Without CAP_NET_ADMIN, at the deadline, and the kernel's.
pub fn read(until: Instant) -> Result<Option<Seen>, GateError> {
    seen::read(until).map_err(|error| GateError::of_kernel(READING, error))
}

/// The state of one gate in `seen`.
///
/// # Errors
/// [`GateError::Foreign`].
pub fn state(seen: Option<&Seen>, ports: Ports) -> Result<State, GateError> {
    match seen {
        Some(seen) if !seen.is_ours() => Err(GateError::Foreign(foreign(seen))),
        seen => Ok(state_in(seen, ports)),
    }
}

/// What was read for several gates: what is the same for all of them is found out once.
#[derive(Debug)]
pub struct Reading {
    seen: Seen,
    structure_differs: Option<String>,
}

impl Reading {
    /// Of what was read.
    pub fn new(seen: Seen) -> Self {
        Reading { structure_differs: seen.structure_differs(), seen }
    }

    /// [`state`] of one of them.
    ///
    /// # Errors
    /// [`GateError::Foreign`].
    pub fn state(&self, ports: Ports) -> Result<State, GateError> {
        match self.seen.is_ours() {
            true => Ok(state_with(Some(&self.seen), self.structure_differs.clone(), ports)),
            false => Err(GateError::Foreign(foreign(&self.seen))),
        }
    }

    /// The generation of the ruleset in which it was read.
    pub fn generation(&self) -> u32 {
        self.seen.generation
    }
}

fn state_in(seen: Option<&Seen>, ports: Ports) -> State {
    state_with(seen, seen.and_then(Seen::structure_differs), ports)
}

fn state_with(seen: Option<&Seen>, structure_differs: Option<String>, ports: Ports) -> State {
    let baseline = match seen {
        None => Baseline::Missing,
        Some(seen) if !seen.is_ours() => Baseline::Edited(foreign(seen)),
        Some(seen) => {
            structure_differs.or_else(|| seen.entries_differ(ports)).map_or(Baseline::Intact, Baseline::Edited)
        }
    };
    let port = |port| match seen.filter(|seen| seen.is_ours()).and_then(|seen| seen.open.get(&port)) {
        Some(left) => PortState::Open { remaining: left.unwrap_or(Duration::MAX) },
        None => PortState::Closed,
    };
    State { backend: Backend::Nft, baseline, ports, ro: port(ports.ro), rw: port(ports.rw), cut: None }
}

fn foreign(seen: &Seen) -> String {
    format!(
        "table inet {} is not rolegate's: its comment is {:?} and should begin with {:?}; rename or delete that table",
        plan::TABLE,
        seen.comment.as_deref().unwrap_or_default(),
        plan::OWNER
    )
}

/// Makes baseline and change in one transaction, reads back and verifies. `first` is what was just read, if anything was.
///
/// # Errors
/// Every one but [`GateError::PortInUse`].
pub fn apply(
    subject: &Subject,
    ports: Ports,
    want: Desired,
    first: Option<Seen>,
    until: Instant,
) -> Result<State, GateError> {
    if !want.closes() {
        return attempts(ports, want, first, until);
    }
    // A last resort needs time, too.
    let left = until.saturating_duration_since(Instant::now());
    let error = match attempts(ports, want, first, until - left / 4) {
        Err(error) if !matches!(error, GateError::Foreign(_) | GateError::Permission { .. }) => error,
        result => return result,
    };
    // What is to open keeps nothing else open; and once arms are gone it may well succeed.
    if want.opens() && attempts(ports, want.only_closing(), None, until - left / 8).is_ok() {
        return attempts(ports, want, None, until);
    }
    // Without the table there is no redirect, so everything is closed.
    decided!(error, subject, error, "closing by deleting table inet {}, for changing it failed: {error}", plan::TABLE);
    let state = again(until, || match read(until)? {
        Some(seen) if !seen.is_ours() => Err(GateError::Foreign(foreign(&seen))),
        Some(seen) => {
            elements::delete_table(seen.generation, until).map_err(refused)?;
            Ok(state_in(None, ports))
        }
        None => Ok(state_in(None, ports)),
    })?;
    if want.opens() { Err(error) } else { Ok(state) }
}

fn attempts(ports: Ports, want: Desired, first: Option<Seen>, until: Instant) -> Result<State, GateError> {
    // Where elements alone change, the transaction itself finds out whether the reading still holds. nft's does not.
    let mut first = first.filter(|seen| seen.is_ours() && seen.structure_differs().is_none());
    let mut attempt = 0;
    again(until, || {
        attempt += 1;
        let seen = match first.take() {
            Some(seen) => Some(seen),
            None => read(until)?,
        };
        let renewal = if attempt == 1 && adding_renews() { Renewal::Add } else { Renewal::Replace };
        attempt_once(seen, ports, want, until, attempt >= MAKE_ANEW, renewal)
    })
}

/// Whether this kernel gives an element that is added again its new time: since 6.12. Verified after each change.
fn adding_renews() -> bool {
    let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    release.is_ok_and(|release| is_at_least(&release, (6, 12)))
}

fn is_at_least(release: &str, version: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= version,
        _ => false,
    }
}

/// Repeats what failed because of others, or seems to have.
fn again<T>(until: Instant, mut attempt_once: impl FnMut() -> Result<T, GateError>) -> Result<T, GateError> {
    for attempt in 1..ATTEMPTS {
        match attempt_once() {
            Err(error @ (GateError::Command(_) | GateError::Mismatch(_) | GateError::Kernel { .. })) => {
                tracing::debug!("attempt {attempt}: {error}");
                if Instant::now() >= until {
                    return Err(error);
                }
                thread::sleep(pause());
            }
            result => return result,
        }
    }
    attempt_once()
}

fn attempt_once(
    seen: Option<Seen>,
    ports: Ports,
    want: Desired,
    until: Instant,
    anew: bool,
    renewal: Renewal,
) -> Result<State, GateError> {
    if let Some(seen) = seen.as_ref().filter(|seen| !seen.is_ours()) {
        // Nothing of ours is there, so there is nothing to close. But a table of our name that sends connections
        // elsewhere may be what opens the port.
        return if want.opens() || !want.closes() || seen.translates() {
            Err(GateError::Foreign(foreign(seen)))
        } else {
            Ok(state_in(Some(seen), ports))
        };
    }
    let plan = plan::plan(seen.as_ref(), ports, want, anew, renewal);
    if plan.is_empty() {
        return Ok(state_in(seen.as_ref(), ports));
    }
    let started = Instant::now();
    // What closes cannot wait for a moment in which nobody changes anything: whether all is intact is seen afterwards.
    let bound = if want.closes() && !want.opens() { Bound::ToNothing } else { Bound::ToReading };
    carry_out(&plan, seen.as_ref(), bound, until)?;
    let state = state_in(read(until)?.as_ref(), ports);
    verify(&state, want, started.elapsed())?;
    Ok(state)
}

/// Takes this gate's entries away, and the table with those of the last gate.
///
/// # Errors
/// Every one but [`GateError::PortInUse`].
pub fn remove(ports: Ports, until: Instant) -> Result<(), GateError> {
    again(until, || {
        let Some(seen) = read(until)? else { return Ok(()) };
        if !seen.is_ours() {
            return Err(GateError::Foreign(foreign(&seen)));
        }
        match plan::remove(&seen, ports) {
            None => elements::delete_table(seen.generation, until).map_err(refused)?,
            Some(plan) => carry_out(&plan, Some(&seen), Bound::ToReading, until)?,
        }
        match read(until)? {
            Some(seen) if [ports.ro, ports.rw].into_iter().any(|port| seen.mentions(port)) => {
                Err(GateError::Mismatch("this gate's entries are still there".to_owned()))
            }
            _ => Ok(()),
        }
    })
}

/// What a transaction of elements depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    /// It fails if anything in the ruleset has changed since it was read; so what was intact still is.
    ToReading,
    /// It fails only if something that it deletes is not there.
    ToNothing,
}

/// Makes one transaction of `plan`. Where only elements change, no program is needed, and it is bound as said.
fn carry_out(plan: &plan::Plan, seen: Option<&Seen>, bound: Bound, until: Instant) -> Result<(), GateError> {
    match seen {
        Some(seen) if plan.structure.is_empty() => {
            let generation = (bound == Bound::ToReading).then_some(seen.generation);
            elements::change(&plan.elements, generation, until).map_err(refused)
        }
        _ => {
            let deadline = until.saturating_duration_since(Instant::now());
            let nft = Cmd::new("nft").in_our_group().args(["-f", "-"]).stdin(plan.text()).deadline(deadline);
            nft.run().map(drop).map_err(GateError::of_command)
        }
    }
}

/// Closes `ports` and takes their arms, in whatever state the table is; nothing else is changed.
///
/// # Errors
/// [`GateError::Permission`], [`GateError::Timeout`], [`GateError::Kernel`].
pub fn shut(ports: &[u16], until: Instant) -> Result<(), GateError> {
    again(until, || {
        let Some(seen) = read(until)?.filter(Seen::is_ours) else { return Ok(()) };
        let closed: Vec<plan::Element> = ports.iter().flat_map(|port| plan::shutting(&seen, *port)).collect();
        if closed.is_empty() { Ok(()) } else { elements::change(&closed, None, until).map_err(refused) }
    })
}

fn refused(error: io::Error) -> GateError {
    GateError::of_kernel("changing table inet rolegate", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_compare_by_number() {
        for release in ["6.12.0", "6.18.44-fc-v595", "7.0.1", "6.100-rc1"] {
            assert!(is_at_least(release, (6, 12)), "{release}");
        }
        for release in ["6.1.0-28-amd64", "5.14.0-503.el9", "6.11.9", "", "unknown"] {
            assert!(!is_at_least(release, (6, 12)), "{release}");
        }
    }
}
