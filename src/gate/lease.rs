//! Holding the read-write port open by leases that the kernel ends: arm, ask, swap (design rule 7).
//!
//! A lease counts from before the question on which it stands was sent, whatever stops the process in between: the kernel
//! itself must refuse what comes too late. So it is made in two steps. [`Leasing::arm`], before the question, leaves something
//! in the firewall that opens nothing and runs out. [`Leasing::swap`], after the answers, opens the port with it, or fails.
//! For a lease of length L whose question may take A:
//!
//! - Answers that came more than A after the arm open nothing, and a port is never open more than L after it. The arm counts
//!   from when the kernel made it, which is before [`Leasing::arm`] returns and so before the question.
//! - A renewal opens nothing unless the port was still open when the answers were there: a lease that has run out is not
//!   revived.
//! - Closing by whatever way, and [`Gate::leasing`](super::Gate::leasing) by another, takes the arms away for good: a process
//!   that was stopped between the two steps opens nothing after it. Who wants to go on needs a new [`Leasing`], and reads its
//!   permission after it has that.
//!
//! Nothing can tell a ruleset that somebody saved and loaded again from one that was there all the time: arms and open elements
//! in it have the time that they had when it was saved. So a ruleset must not be loaded while its keeper runs that was saved
//! since the keeper began. Arms that are loaded at boot open nothing, for nobody holds them any more.
//!
//! How each firewall does this is in the `lease` modules of [`super::nft`] and [`super::iptables`]. None of it runs a program.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use super::{Desired, GateError, LONGEST, Ports, Want, iptables, nft};

/// Below this the timeouts of a lease would be rounded by a large part of them: clocks tick every 10 ms at worst.
const SHORTEST_PART: Duration = Duration::from_millis(10);

const SHORTEST_ON_IPTABLES: Duration = Duration::from_secs(1);

/// The right to arm and swap on the read-write port of one gate, until that port is closed or another takes the right.
///
/// It stays on the network namespace in which it was made. Dropping it leaves arms and open port to run out.
#[derive(Debug)]
pub struct Leasing {
    ports: Ports,
    holder: Holder,
    deadline: Duration,
}

/// What gates and their leases share, so that each costs no more than it would alone: what was read of the firewall, and when. Of one
/// process, in one network namespace.
#[derive(Debug, Clone, Default)]
pub struct Beside {
    generations: nft::lease::Generations,
    pub(super) known: iptables::Known,
}

#[derive(Debug)]
enum Holder {
    Nft(nft::lease::Holder),
    Iptables(iptables::lease::Holder),
}

/// What [`Leasing::arm`] left in the firewall. Good for one swap.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "an arm that is not swapped in opens nothing"]
pub struct Armed {
    /// Whose it is.
    pub(super) holder: u64,
    /// Which of the holder's it is.
    pub(super) key: u32,
    /// From before it was put into the firewall.
    pub(super) since: Instant,
    /// A: how long after that a swap may come.
    pub(super) ask: Duration,
    /// L - A: how long the port is open after the swap, where the firewall counts so.
    pub(super) open: Duration,
}

/// What a swap is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swap {
    /// To open a port that is closed. Needs a look at all others.
    Acquire,
    /// To keep a port open that is open.
    Renew,
}

/// What came of a swap. Only the first opens anything; after the others the port is as it was, and the arm is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swapped {
    /// The port is open.
    Open,
    /// Too late: the arm had run out or was replaced by a later one, or the lease to be renewed had.
    Lapsed,
    /// There was nothing to acquire: the port is open.
    AlreadyOpen,
    /// Somebody closed the port, or took the right to lease it: [`Gate::leasing`](super::Gate::leasing), then permission.
    Withdrawn,
}

/// What the firewall holds of one read-write port. What it does not show was not there at one moment while it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// How long it is open yet, if it is; [`Duration::MAX`] where somebody edited the timeout away.
    pub open: Option<Duration>,
    /// Whether any arm is there, run out or not: this holder's, or where it has lost the right, of whomever.
    pub armed: bool,
    /// Whether the right to lease is gone.
    pub withdrawn: bool,
}

impl Held {
    /// Whether nothing is there that is open or could still open.
    pub fn is_nothing(self) -> bool {
        self.open.is_none() && !self.armed
    }
}

impl Leasing {
    pub(super) fn on_nft(ports: Ports, beside: &Beside, deadline: Duration, until: Instant) -> Result<Self, GateError> {
        let holder = nft::lease::Holder::begin(ports, fresh(), beside.generations.clone(), until)?;
        Ok(Leasing { ports, holder: Holder::Nft(holder), deadline })
    }

    pub(super) fn on_iptables(
        ports: Ports,
        beside: &Beside,
        deadline: Duration,
        until: Instant,
    ) -> Result<Self, GateError> {
        let holder = iptables::lease::Holder::begin(ports, fresh(), beside.known.clone(), until)?;
        Ok(Leasing { ports, holder: Holder::Iptables(holder), deadline })
    }

    /// The same right, whose calls take no longer than `deadline` each: for a caller that must not wait.
    #[must_use]
    pub fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Prepares a lease of length `lease` (L), which counts from now, whose question may take `ask` (A).
    ///
    /// On iptables a lease has whole seconds, rounded down, an arm replaces the one before it, and the rules are not looked at:
    /// somebody has to, now and then ([`Leasing::is_untouched`], [`Gate::baseline`](super::Gate::baseline)).
    ///
    /// # Errors
    /// [`GateError::Withdrawn`]; [`GateError::Time`] for a lease that cannot be, [`GateError::Mismatch`] where the table is not
    /// as it should be any more ([`Gate::baseline`](super::Gate::baseline) repairs it), [`GateError::Permission`],
    /// [`GateError::Timeout`], [`GateError::Kernel`]. After the last two it may be armed or not.
    pub fn arm(&mut self, lease: Duration, ask: Duration) -> Result<Armed, GateError> {
        let open = lease.saturating_sub(ask);
        let refused = |asked, shortest| Err(GateError::Time { asked, shortest });
        match self.holder {
            _ if lease > LONGEST => return refused(lease, SHORTEST_PART),
            _ if ask.min(open) < SHORTEST_PART => return refused(ask.min(open), SHORTEST_PART),
            Holder::Iptables(_) if lease < SHORTEST_ON_IPTABLES => return refused(lease, SHORTEST_ON_IPTABLES),
            Holder::Nft(_) | Holder::Iptables(_) => {}
        }
        let since = Instant::now();
        let until = since + self.deadline;
        let (holder, key) = match &mut self.holder {
            Holder::Nft(holder) => (holder.id(), holder.arm(ask, until)?),
            Holder::Iptables(holder) => (holder.id(), holder.arm(lease, until)?),
        };
        Ok(Armed { holder, key, since, ask, open })
    }

    /// Opens the port with `armed`, all or nothing. To be called when the answers are there.
    ///
    /// # Errors
    /// [`GateError::Mismatch`] where table or sets are not as they should be any more, [`GateError::Permission`],
    /// [`GateError::Timeout`], [`GateError::Kernel`]. After the last two the port may be open or not: see [`Leasing::look`].
    pub fn swap(&mut self, armed: Armed, kind: Swap) -> Result<Swapped, GateError> {
        let until = Instant::now() + self.deadline;
        match &mut self.holder {
            Holder::Nft(holder) => holder.swap(&armed, kind, until),
            Holder::Iptables(holder) => holder.swap(&armed, kind, until),
        }
    }

    /// Gives the read-only port `time` from now on, where it is open and the gate's rules are as they should be; opens nothing. Says whether
    /// that was so. Where it was not, or cannot be told without programs, [`Gate::set`](super::Gate::set) finds out what is to be done.
    ///
    /// Programs are needed on iptables-legacy always; on iptables-nft where the rules have changed since this gate, a clone of it or one
    /// [beside](super::Gate::beside) it read them last. Times are whole seconds there, rounded down.
    ///
    /// # Errors
    /// [`GateError::Time`], and as [`Leasing::swap`].
    pub fn extend(&mut self, time: Duration) -> Result<bool, GateError> {
        let shortest = match self.holder {
            Holder::Nft(_) => SHORTEST_PART,
            Holder::Iptables(_) => SHORTEST_ON_IPTABLES,
        };
        if time < shortest || time > LONGEST {
            return Err(GateError::Time { asked: time, shortest });
        }
        let until = Instant::now() + self.deadline;
        match &mut self.holder {
            Holder::Nft(holder) => holder.extend(time, until),
            Holder::Iptables(holder) => holder.extend(time, until),
        }
    }

    /// Whether nobody but the leases of this process has changed the firewall since [`Leasing::extend`] last said yes, which it has on
    /// iptables-legacy never.
    ///
    /// # Errors
    /// As [`Leasing::look`].
    pub fn is_untouched(&mut self) -> Result<bool, GateError> {
        let until = Instant::now() + self.deadline;
        match &mut self.holder {
            Holder::Nft(holder) => holder.is_untouched(until),
            Holder::Iptables(holder) => holder.is_untouched(until),
        }
    }

    /// What the firewall holds. Reads only; nothing is armed meanwhile, for this takes the value for itself.
    ///
    /// # Errors
    /// [`GateError::Permission`], [`GateError::Timeout`], [`GateError::Kernel`].
    pub fn look(&mut self) -> Result<Held, GateError> {
        let until = Instant::now() + self.deadline;
        match &mut self.holder {
            Holder::Nft(holder) => holder.look(until),
            Holder::Iptables(holder) => holder.look(until),
        }
    }

    /// Closes the port, and takes this and all other rights to lease it away; [`Leasing::look`] goes on showing what there is. Established
    /// connections are blocked by that, but not cut, and nobody is waited for: [`Gate::set`](super::Gate::set) sees to the rest.
    ///
    /// # Errors
    /// As [`Leasing::look`].
    pub fn shut(&mut self) -> Result<(), GateError> {
        let until = Instant::now() + self.deadline;
        match &mut self.holder {
            Holder::Nft(_) => nft::shut(&[self.ports.rw], until),
            Holder::Iptables(_) => iptables::shut(self.ports, Desired { ro: Want::Keep, rw: Want::Close }, until),
        }
    }

    /// Drops all arms of this value; what is open stays so.
    ///
    /// # Errors
    /// As [`Leasing::look`].
    pub fn disarm(&mut self) -> Result<(), GateError> {
        let until = Instant::now() + self.deadline;
        match &mut self.holder {
            Holder::Nft(holder) => holder.disarm(until),
            Holder::Iptables(holder) => holder.disarm(until),
        }
    }
}

/// A number that no other holder had: the standard library's hash keys come from the system's random numbers.
fn fresh() -> u64 {
    RandomState::new().hash_one(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_holders_differ() {
        assert_ne!(fresh(), fresh());
    }
}
