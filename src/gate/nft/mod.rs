//! The gate on nftables: reading, changing in one transaction, verifying.

use std::thread;
use std::time::{Duration, Instant};

use super::{Backend, Baseline, Desired, GateError, PortState, Ports, State, pause, verify};
use crate::command::{Cmd, find};

pub mod plan;
pub mod rules;
pub mod seen;

use seen::Seen;

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
    seen::read(until).map_err(|error| GateError::of_kernel("reading table inet rolegate", error))
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

fn state_in(seen: Option<&Seen>, ports: Ports) -> State {
    let baseline = match seen {
        None => Baseline::Missing,
        Some(seen) if !seen.is_ours() => Baseline::Edited(foreign(seen)),
        Some(seen) => {
            seen.structure_differs().or_else(|| seen.entries_differ(ports)).map_or(Baseline::Intact, Baseline::Edited)
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

/// Makes baseline and change in one transaction, reads back and verifies.
///
/// # Errors
/// Every one but [`GateError::PortInUse`].
pub fn apply(ports: Ports, want: Desired, until: Instant) -> Result<State, GateError> {
    if !want.closes() {
        return attempts(ports, want, until);
    }
    // A last resort needs time, too.
    let left = until.saturating_duration_since(Instant::now());
    let error = match attempts(ports, want, until - left / 4) {
        Err(error) if !matches!(error, GateError::Foreign(_) | GateError::Permission { .. }) => error,
        result => return result,
    };
    // Without the table there is no redirect, so everything is closed.
    tracing::error!("closing by deleting table inet {}, for changing it failed: {error}", plan::TABLE);
    run(&format!("delete table inet {}\n", plan::TABLE), until)?;
    if want.opens() { Err(error) } else { Ok(state_in(read(until)?.as_ref(), ports)) }
}

fn attempts(ports: Ports, want: Desired, until: Instant) -> Result<State, GateError> {
    let mut attempt = 1;
    loop {
        match attempt_once(ports, want, until, attempt >= MAKE_ANEW) {
            Err(error @ (GateError::Command(_) | GateError::Mismatch(_)))
                if attempt < ATTEMPTS && Instant::now() < until =>
            {
                tracing::debug!("attempt {attempt}: {error}");
                attempt += 1;
                thread::sleep(pause());
            }
            result => return result,
        }
    }
}

fn attempt_once(ports: Ports, want: Desired, until: Instant, anew: bool) -> Result<State, GateError> {
    let seen = read(until)?;
    if let Some(seen) = seen.as_ref().filter(|seen| !seen.is_ours()) {
        // Nothing of ours is there, so there is nothing to close. But a table of our name that sends connections
        // elsewhere may be what opens the port.
        return if want.opens() || !want.closes() || seen.translates() {
            Err(GateError::Foreign(foreign(seen)))
        } else {
            Ok(state_in(Some(seen), ports))
        };
    }
    let text = plan::baseline(seen.as_ref(), ports, anew) + &plan::change(ports, want);
    let started = Instant::now();
    if !text.is_empty() {
        run(&text, until)?;
    }
    let state = state_in(read(until)?.as_ref(), ports);
    verify(&state, want, started.elapsed())?;
    Ok(state)
}

/// Takes this gate's entries away, and the table with those of the last gate.
///
/// # Errors
/// Every one but [`GateError::PortInUse`].
pub fn remove(ports: Ports, until: Instant) -> Result<(), GateError> {
    let mut attempt = 1;
    loop {
        let Some(seen) = read(until)? else { return Ok(()) };
        if !seen.is_ours() {
            return Err(GateError::Foreign(foreign(&seen)));
        }
        if !seen.target.is_empty() && ![ports.ro, ports.rw].iter().any(|port| seen.mentions(*port)) {
            return Ok(());
        }
        match run(&plan::remove(&seen, ports), until) {
            Err(error) if !matches!(error, GateError::Command(_)) || attempt == ATTEMPTS => return Err(error),
            Err(error) => {
                tracing::debug!("attempt {attempt}: {error}");
                thread::sleep(pause());
            }
            Ok(()) if attempt == ATTEMPTS => return Err(GateError::Mismatch("entries keep coming back".to_owned())),
            // Read again: only that shows that it worked.
            Ok(()) => {}
        }
        attempt += 1;
    }
}

/// Gives `text` to nft, which makes one transaction of it.
fn run(text: &str, until: Instant) -> Result<(), GateError> {
    let deadline = until.saturating_duration_since(Instant::now());
    match Cmd::new("nft").args(["-f", "-"]).stdin(text).deadline(deadline).run() {
        Ok(_) => Ok(()),
        Err(error) => Err(GateError::of_command(error)),
    }
}
