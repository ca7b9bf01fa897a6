//! Leases on iptables: a set that no rule reads is filled, and swapped with the open set when the answers are there.
//!
//! Each holder has one set of its own, of a name that is never used again. Arm: port and Redis port go into it with the
//! whole L. Swap: it takes the place of the open set, with whatever time it has left; then what it got in return is flushed. The
//! kernel sees to two things by itself. A port is never open more than L after it was armed, which is before the question is
//! sent, for that is the timeout, whenever it is swapped in. And a set that was destroyed can neither be filled nor swapped, which is how closing withdraws: it
//! destroys all sets of the port's holders first and flushes the open set then, so that a swap in between is undone and none
//! comes later.
//!
//! Two more things a swap cannot check: that no more than A has passed since the arm, and, to renew, that the open set still
//! holds the port. Both are read right before it; call that moment R. The process may be stopped between R and the swap, and the
//! old lease may run out meanwhile. The swap then opens the port again, without a look at others, until L after the arm at the
//! latest. That does no harm, for what the rule needs of both is about the time before R, when the answers were there:
//!
//! - A bounds how far apart the messages of one question reach the Sentinels. All had been answered at R, and R is at
//!   most A after the arm, which came before all of them.
//! - Each renewal is to be asked less than L after the one before it. The lease before it was open at R, so R is less than L after
//!   the arm of that one, and the new question was answered before R.
//! - Who acquires elsewhere looks at a Sentinel that this question was sent to, or at one of a renewal before it. A look behind
//!   the question sees its mark change, for W > L; or it comes W after the question, and that is more than L after the arm, when
//!   this port is closed whenever it was swapped in. A look before the question is what the chain of renewals is for.
//!
//! The read-only port's time is extended the same way, by another set of this holder's, `rolegate-PORT-ID` with that port, which closing it
//! destroys, too. No lock is taken: a process that is stopped with it would hold up whoever closes, or, where that one does not wait, open
//! behind it. Nor is the port's own element given a new time: where it has just been taken out, that would put it in. Instead:
//!
//! - The set is made first, if it is not there, and then it is looked whether the port is open. Who closes destroys what sets there are, empties the
//!   open set, and looks whether there are new ones, until there are none ([`super::shut`]). One that was made behind that look finds the port
//!   closed; all others are gone before the closing has returned, with what they may have opened.
//! - Where the process is stopped between the look and the swap, the port may run out meanwhile, and is opened again for the rest of `time` since
//!   the set was filled: no longer than if it had not been stopped.
//!
//! That the rules are as they should be is known from who read them last, with the programs of iptables, and from nf_tables' count of changes, which has not moved
//! since before that reading ([`Moment`]). A change between that look and the swap is found by the next one. Nothing tells so much of the rules of
//! iptables-legacy: there all is left to who reads them.
//!
//! So L and A hold here as on nftables, and `tests/model.rs` explores it; only times are whole seconds, L rounded down.
//! What is said of the kernel is in net/netfilter/ipset/ip_set_core.c (`ip_set_swap`, `ip_set_destroy`) and
//! ip_set_bitmap_gen.h: what has run out matches nothing and is not listed.

use std::collections::BTreeMap;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use nix::libc::{EBUSY, ENOENT};
use nix::sys::socket::SockProtocol;

use super::ipset::{self, Change, Set};
use super::{Known, Moment, plan, unread};
use crate::gate::lease::{Armed, Held, Swap, Swapped};
use crate::gate::netlink::Socket;
use crate::gate::{GateError, Ports, ROUNDING, pause};
use crate::lease::{Checked, Opening, check};

/// How long a set that somebody is just listing is waited for.
const BUSY: Duration = Duration::from_millis(500);

/// Who may arm and swap.
#[derive(Debug)]
pub struct Holder {
    ports: Ports,
    id: u64,
    /// The name of its set.
    set: String,
    /// The arm that is in the set, if any is.
    key: u32,
    known: Known,
    /// Until when the read-only port is open at least, by the last extension.
    extended: Option<Instant>,
    socket: Socket,
}

impl Holder {
    /// Takes the arms from all holders before, and makes a set for this one, `id`. The baseline must be there.
    ///
    /// # Errors
    /// [`GateError::Permission`], [`GateError::Timeout`], [`GateError::Kernel`].
    pub fn begin(ports: Ports, id: u64, known: Known, until: Instant) -> Result<Self, GateError> {
        let mut socket = Socket::open(SockProtocol::NetlinkNetFilter, until).map_err(refused)?;
        let found = ipset::headers(&mut socket, plan::PREFIX).map_err(unread)?;
        [ports.rw, ports.ro].into_iter().try_for_each(|port| withdraw_from(&found, port, until))?;
        let set = plan::armed_set(ports.rw, id);
        let mut holder = Holder { ports, id, set, key: 0, known, extended: None, socket };
        let create = plan::create(&holder.set, ports.rw, ports.redis);
        ipset::change_on(&mut holder.socket, &create).map_err(refused)?;
        Ok(holder)
    }

    /// What no other holder has.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Puts the port into the holder's set for `lease`.
    ///
    /// # Errors
    /// [`GateError::Withdrawn`], [`GateError::Permission`], [`GateError::Timeout`], [`GateError::Kernel`].
    pub fn arm(&mut self, lease: Duration, until: Instant) -> Result<u32, GateError> {
        self.socket.set_deadline(until).map_err(refused)?;
        self.key = self.key.wrapping_add(1);
        for change in plan::fill(&self.set, self.ports.rw, self.ports.redis, lease.as_secs() as u32) {
            ipset::change_on(&mut self.socket, &change).map_err(|error| match error.raw_os_error() {
                Some(ENOENT) => GateError::Withdrawn,
                _ => refused(error),
            })?;
        }
        Ok(self.key)
    }

    /// Opens the port for what `armed` allows.
    ///
    /// # Errors
    /// [`GateError::Permission`], [`GateError::Timeout`], [`GateError::Kernel`].
    pub fn swap(&mut self, armed: &Armed, kind: Swap, until: Instant) -> Result<Swapped, GateError> {
        if armed.holder != self.id {
            return Ok(Swapped::Withdrawn);
        }
        self.socket.set_deadline(until).map_err(refused)?;
        let open = self.open()?.is_some();
        let wanted = match kind {
            Swap::Acquire => Opening::Acquisition,
            Swap::Renew => Opening::Renewal,
        };
        // This is the moment R. Nothing above may move below.
        match check(wanted, open, armed.since.elapsed(), armed.ask) {
            Checked::AlreadyOpen => return self.nothing(Swapped::AlreadyOpen),
            Checked::Lapsed => return self.nothing(Swapped::Lapsed),
            Checked::May if armed.key != self.key => return self.nothing(Swapped::Lapsed),
            Checked::May => {}
        }
        let swap = Change::Swap(self.set.clone(), plan::open_set(self.ports.rw));
        match patient(&mut self.socket, &swap, |error| error == EBUSY) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(ENOENT) => return Ok(Swapped::Withdrawn),
            Err(error) => return Err(refused(error)),
        }
        self.disarm(until)?;
        // What was swapped in may have run out before, or been closed since.
        if self.open()?.is_some() { Ok(Swapped::Open) } else { self.nothing(Swapped::Lapsed) }
    }

    /// Gives the read-only port `time` from now on, if it is open and the rules are as they should be. Says whether that was so.
    ///
    /// # Errors
    /// As [`Holder::swap`].
    pub fn extend(&mut self, time: Duration, until: Instant) -> Result<bool, GateError> {
        self.extended = None;
        self.socket.set_deadline(until).map_err(refused)?;
        let Ports { ro, redis, .. } = self.ports;
        if !self.right()?.is_some_and(|open| open.ports.contains_key(&ro)) {
            return Ok(false);
        }
        let set = plan::armed_set(ro, self.id);
        ipset::change_on(&mut self.socket, &plan::create(&set, ro, redis)).map_err(refused)?;
        // Behind that, for the reason given above. It may not move.
        if !self.is_open(ro)? {
            return Ok(false);
        }
        let since = Instant::now();
        let fill = plan::fill(&set, ro, redis, time.as_secs() as u32);
        let swap = Change::Swap(set.clone(), plan::open_set(ro));
        for change in fill.into_iter().chain([swap, Change::Flush(set)]) {
            match patient(&mut self.socket, &change, |error| error == EBUSY) {
                Ok(()) => {}
                // Closed.
                Err(error) if error.raw_os_error() == Some(ENOENT) => return Ok(false),
                Err(error) => return Err(refused(error)),
            }
        }
        // What was swapped in may have run out before, or been closed since.
        let open = self.is_open(ro)?;
        self.extended = open.then(|| since + Duration::from_secs(time.as_secs()));
        Ok(open)
    }

    /// Whether nobody has changed rules or sets since this one has extended the read-only port's time.
    ///
    /// # Errors
    /// [`GateError::Permission`], [`GateError::Timeout`], [`GateError::Kernel`].
    pub fn is_untouched(&mut self, until: Instant) -> Result<bool, GateError> {
        let Some(extended) = self.extended else { return Ok(false) };
        self.socket.set_deadline(until).map_err(refused)?;
        let Some(open) = self.right()? else { return Ok(false) };
        let expected = extended.saturating_duration_since(Instant::now());
        // Of requests and of answers.
        let lasts = |port| open.ports.get(&port).and_then(|left| *left).is_some_and(|left| lasts(left) >= expected);
        Ok(lasts(self.ports.ro) && lasts(self.ports.redis))
    }

    /// The read-only port's open set, if the gate's rules and sets are as they should be, as far as that can be told without a program.
    fn right(&mut self) -> Result<Option<Set>, GateError> {
        // While this holder's set is there, the right to lease is its own.
        if ipset::header(&mut self.socket, &self.set).map_err(unread)?.is_none() {
            return Ok(None);
        }
        let known = self.known.of(self.ports);
        if known.is_none() || Moment::now(&mut self.socket).map_err(unread)? != known {
            return Ok(None);
        }
        let mut found = BTreeMap::new();
        for (name, (wanted, members)) in plan::sets_of(self.ports) {
            let set = match wanted.timeout {
                Some(_) => ipset::read(&mut self.socket, &name),
                None => ipset::header(&mut self.socket, &name),
            };
            let Some(mut set) = set.map_err(unread)? else { return Ok(None) };
            for port in members {
                if ipset::holds(&mut self.socket, &name, port).map_err(unread)? {
                    set.ports.insert(port, None);
                }
            }
            found.insert(name, set);
        }
        let differ = plan::sets_differ(&found, self.ports).is_some();
        Ok(found.remove(&plan::open_set(self.ports.ro)).filter(|_| !differ))
    }

    /// What the sets hold of the port.
    ///
    /// # Errors
    /// [`GateError::Permission`], [`GateError::Timeout`], [`GateError::Kernel`].
    pub fn look(&mut self, until: Instant) -> Result<Held, GateError> {
        self.socket.set_deadline(until).map_err(refused)?;
        // The armed first: what is swapped in between the two is seen in both places, never in none. While this holder's set is there, no
        // other has one: whoever makes one takes this away.
        let (armed, withdrawn) = match ipset::read(&mut self.socket, &self.set).map_err(unread)? {
            Some(set) => (!set.ports.is_empty(), false),
            None => {
                let found = ipset::list_on(&mut self.socket, plan::PREFIX).map_err(unread)?;
                (plan::armed_sets(&found, self.ports.rw).any(|name| !found[name].ports.is_empty()), true)
            }
        };
        Ok(Held { open: self.open()?, armed, withdrawn })
    }

    /// Empties the holder's set.
    ///
    /// # Errors
    /// As [`Holder::look`].
    pub fn disarm(&mut self, until: Instant) -> Result<(), GateError> {
        self.socket.set_deadline(until).map_err(refused)?;
        self.key = self.key.wrapping_add(1);
        match ipset::change_on(&mut self.socket, &Change::Flush(self.set.clone())) {
            // Gone, and all that was in it.
            Err(error) if error.raw_os_error() == Some(ENOENT) => Ok(()),
            result => result.map_err(refused),
        }
    }

    /// How long the port is open yet, if it is.
    fn open(&mut self) -> Result<Option<Duration>, GateError> {
        let name = plan::open_set(self.ports.rw);
        let set = ipset::read(&mut self.socket, &name).map_err(unread)?;
        Ok(set.as_ref().and_then(super::time_left))
    }

    fn is_open(&mut self, port: u16) -> Result<bool, GateError> {
        ipset::holds(&mut self.socket, &plan::open_set(port), port).map_err(unread)
    }

    /// What came of a swap that opened nothing: `outcome`, or that the set is gone.
    fn nothing(&mut self, outcome: Swapped) -> Result<Swapped, GateError> {
        let there = ipset::read(&mut self.socket, &self.set).map_err(unread)?;
        Ok(if there.is_some() { outcome } else { Swapped::Withdrawn })
    }
}

/// Destroys the sets in `found` that holders of leases on `port` have.
///
/// # Errors
/// Without CAP_NET_ADMIN, at the deadline, and the kernel's: where a set could not be destroyed it is empty at least.
pub fn withdraw_from(found: &BTreeMap<String, Set>, port: u16, until: Instant) -> Result<(), GateError> {
    let mut armed = plan::armed_sets(found, port).peekable();
    if armed.peek().is_none() {
        return Ok(());
    }
    let mut socket = Socket::open(SockProtocol::NetlinkNetFilter, until).map_err(refused)?;
    let mut outcome = Ok(());
    for name in armed {
        match patient(&mut socket, &Change::Destroy(name.to_owned()), |error| error != ENOENT) {
            Err(error) if error.raw_os_error() != Some(ENOENT) => {
                let _worse_than_destroyed = ipset::change_on(&mut socket, &Change::Flush(name.to_owned()));
                outcome = Err(refused(error));
            }
            _ => {}
        }
    }
    outcome
}

/// Makes `change`, and again for a while where it fails for a reason that passes.
fn patient(socket: &mut Socket, change: &Change, passes: impl Fn(i32) -> bool) -> io::Result<()> {
    let until = socket.deadline().min(Instant::now() + BUSY);
    loop {
        match ipset::change_on(socket, change) {
            Err(error) if error.raw_os_error().is_some_and(&passes) && Instant::now() < until => thread::sleep(pause()),
            result => return result,
        }
    }
}

/// How long what the kernel shows as `seconds` may last: it shows whole ones, rounded down.
fn lasts(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds) + 1) + ROUNDING
}

fn refused(error: io::Error) -> GateError {
    GateError::of_kernel("changing ipsets", error)
}
