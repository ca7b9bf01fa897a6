//! Leases on nftables: each step is one transaction, which the kernel carries out whole or not at all.
//!
//! Arm: a key that this holder never used before goes into its own set of arms, with timeout A. Swap: delete that key; for
//! a renewal delete the open element, for an acquisition demand that there is none; add the open element with timeout L - A.
//!
//! What that stands on, in net/netfilter/nf_tables_api.c and nft_set_hash.c of Linux 6.1 to 6.18:
//!
//! - An element that has run out is not found by a deletion (ENOENT), whether or not the kernel still has to free it
//!   (`nft_rhash_cmp` passes over it), and it does not keep a new one of the same key from being added, even exclusively.
//! - Whether elements have run out is judged by the clock at which the kernel begins with the transaction, which is after it
//!   was sent (`nft_net_tstamp`; before 6.8 and its stable releases, when it comes to each element).
//! - The new element's time begins when the kernel comes to it, in the same system call.
//!
//! A transaction names the generation of the ruleset for which it was made, so that none is carried out on a table that
//! somebody changed. The holder knows the generation that its own leaves behind, and those of the other holders of its process
//! ([`Generations`]); after one of others it reads the table,
//! and if that is as it should be, sends the same transaction again. That revives nothing: it has the same key.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::libc::{EEXIST, ENOENT, ERESTART};
use nix::sys::socket::SockProtocol;

use super::plan::{Arms, Element, withdraw};
use super::seen;
use super::{READING, Reading, SUBSYSTEM, elements, refused};
use crate::gate::lease::{Armed, Held, Swap, Swapped};
use crate::gate::netlink::{Message, Socket};
use crate::gate::{Baseline, GateError, Ports};

/// What holders of one process, in one network namespace, know of the ruleset's generations: which of them differ by nothing but what
/// they have done to sets of arms and to open elements, and how the table was when one of them last read it. A table that was right in
/// one of these is right in all later ones.
///
/// Without it each transaction of one holder has every other one read the whole table, and so has each of a stranger's.
#[derive(Debug, Clone, Default)]
pub struct Generations(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// The first and the last of them.
    alike: Option<(u32, u32)>,
    seen: Option<Arc<Reading>>,
}

impl Known {
    /// The newest in which what was right in `known` is right yet.
    fn newest(&self, known: u32) -> u32 {
        match self.alike {
            Some((first, last)) if (first..=last).contains(&known) => last,
            _ => known,
        }
    }
}

impl Generations {
    fn newest(&self, known: u32) -> u32 {
        self.lock().newest(known)
    }

    /// A holder's transaction, which the kernel has carried out in `from`, has led to the next one, which this returns.
    fn led(&self, from: u32) -> u32 {
        let to = after(from);
        let mut known = self.lock();
        known.alike = match known.alike {
            Some((first, last)) if last == from && to > from => Some((first, to)),
            _ if to > from => Some((from, to)),
            // It begins anew at 1.
            _ => None,
        };
        to
    }

    /// The table as it was read last, if that was in another generation than `stale`, and the newest in which it is so.
    fn seen(&self, stale: u32) -> Option<(Arc<Reading>, u32)> {
        let known = self.lock();
        let seen = known.seen.as_ref()?;
        let newest = known.newest(seen.generation());
        (newest != stale).then(|| (seen.clone(), newest))
    }

    fn read(&self, seen: &Arc<Reading>) {
        self.lock().seen = Some(seen.clone());
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who may arm and swap.
#[derive(Debug)]
pub struct Holder {
    ports: Ports,
    arms: Arms,
    /// The last key that was used.
    key: u32,
    /// The generation of the ruleset in which our table was last known to be as it should be.
    generation: u32,
    /// The generation that the last extension has left behind.
    extended: Option<u32>,
    generations: Generations,
    /// Kept, for closing a socket waits until the kernel has freed what was deleted.
    socket: Socket,
}

/// What came of a transaction.
enum Outcome {
    Done,
    /// Something that it deletes is not there.
    Missing,
    /// Something that it adds is there.
    There,
    /// The set of arms is gone.
    Withdrawn,
}

impl Holder {
    /// Takes the arms from all holders before, and makes a set for this one, `id`. The baseline must be there.
    ///
    /// # Errors
    /// [`GateError::Foreign`], [`GateError::Mismatch`], [`GateError::Permission`], [`GateError::Timeout`],
    /// [`GateError::Kernel`].
    pub fn begin(ports: Ports, id: u64, generations: Generations, until: Instant) -> Result<Self, GateError> {
        let open = || Socket::open(SockProtocol::NetlinkNetFilter, until);
        let arms = Arms { port: ports.rw, id };
        super::again(until, || {
            let (socket, generations) = (open().map_err(refused)?, generations.clone());
            let mut holder = Holder { ports, arms, key: 0, generation: 0, extended: None, generations, socket };
            let reading = holder.read()?;
            let mut messages: Vec<Message> = withdraw(&reading.seen, ports.rw).map(elements::message).collect();
            messages.push(elements::make(arms));
            holder.socket.transaction(SUBSYSTEM, Some(reading.generation()), &messages).map_err(refused)?;
            holder.generation = holder.generations.led(reading.generation());
            Ok(holder)
        })
    }

    /// What no other holder has.
    pub fn id(&self) -> u64 {
        self.arms.id
    }

    /// Puts a key that was never used into the set of arms.
    ///
    /// # Errors
    /// [`GateError::Withdrawn`], [`GateError::Mismatch`], [`GateError::Permission`], [`GateError::Timeout`],
    /// [`GateError::Kernel`].
    pub fn arm(&mut self, time: Duration, until: Instant) -> Result<u32, GateError> {
        self.key = self.key.wrapping_add(1);
        match self.transact(&[elements::arm(self.arms, self.key, time)], until)? {
            Outcome::Done => Ok(self.key),
            Outcome::Withdrawn => Err(GateError::Withdrawn),
            Outcome::Missing | Outcome::There => {
                Err(GateError::Mismatch(format!("set {} is there and cannot be armed", self.arms)))
            }
        }
    }

    /// Opens the port for what `armed` allows.
    ///
    /// # Errors
    /// As [`Holder::arm`], without [`GateError::Withdrawn`].
    pub fn swap(&mut self, armed: &Armed, kind: Swap, until: Instant) -> Result<Swapped, GateError> {
        if armed.holder != self.id() {
            return Ok(Swapped::Withdrawn);
        }
        let port = self.ports.rw;
        let used = elements::use_arm(self.arms, armed.key);
        let messages = match kind {
            Swap::Acquire => vec![used, elements::open_closed(port, armed.open)],
            Swap::Renew => {
                let [closed, open] = [Element::DeleteOpen(port), Element::AddOpen(port, armed.open)];
                vec![used, elements::message(closed), elements::message(open)]
            }
        };
        Ok(match self.transact(&messages, until)? {
            Outcome::Done => Swapped::Open,
            Outcome::Missing => Swapped::Lapsed,
            Outcome::There => Swapped::AlreadyOpen,
            Outcome::Withdrawn => Swapped::Withdrawn,
        })
    }

    /// Gives the read-only port `time` from now on, if it is open. Says whether it was.
    ///
    /// # Errors
    /// As [`Holder::swap`].
    pub fn extend(&mut self, time: Duration, until: Instant) -> Result<bool, GateError> {
        let port = self.ports.ro;
        let messages = [Element::DeleteOpen(port), Element::AddOpen(port, time)].map(elements::message);
        let extended = matches!(self.transact(&messages, until)?, Outcome::Done);
        self.extended = extended.then_some(self.generation);
        Ok(extended)
    }

    /// Whether only holders of this process have changed the ruleset since this one has extended the read-only port's time.
    ///
    /// # Errors
    /// [`GateError::Permission`], [`GateError::Timeout`], [`GateError::Kernel`].
    pub fn is_untouched(&mut self, until: Instant) -> Result<bool, GateError> {
        self.socket.set_deadline(until).map_err(refused)?;
        let generation = seen::generation(&mut self.socket).map_err(unread)?;
        Ok(self.extended.is_some_and(|extended| generation == self.generations.newest(extended)))
    }

    /// What the table holds for the port.
    ///
    /// # Errors
    /// [`GateError::Permission`], [`GateError::Timeout`], [`GateError::Kernel`].
    pub fn look(&mut self, until: Instant) -> Result<Held, GateError> {
        self.socket.set_deadline(until).map_err(refused)?;
        // While this holder's set is there, no other has one: whoever makes one takes this away.
        if let Some((open, armed)) = seen::held(&mut self.socket, self.ports.rw, self.arms).map_err(unread)? {
            return Ok(Held { open: open.map(|left| left.unwrap_or(Duration::MAX)), armed, withdrawn: false });
        }
        let seen = seen::port(&mut self.socket, self.ports.rw).map_err(unread)?;
        Ok(Held {
            open: seen.open.map(|left| left.unwrap_or(Duration::MAX)),
            armed: seen.arms.values().any(|count| *count > 0),
            withdrawn: !seen.arms.contains_key(&self.arms),
        })
    }

    /// Takes all keys out of the set of arms, in whatever state the table is.
    ///
    /// # Errors
    /// As [`Holder::look`].
    pub fn disarm(&mut self, until: Instant) -> Result<(), GateError> {
        self.socket.set_deadline(until).map_err(refused)?;
        match self.socket.transaction(SUBSYSTEM, None, &[elements::empty(self.arms)]) {
            // Gone, and all that was in it.
            Err(error) if error.raw_os_error() == Some(ENOENT) => Ok(()),
            result => result.map_err(refused),
        }
    }

    /// Makes `messages` one transaction on a table that is as it should be.
    fn transact(&mut self, messages: &[Message], until: Instant) -> Result<Outcome, GateError> {
        self.socket.set_deadline(until).map_err(refused)?;
        let mut tried = None;
        loop {
            let generation = self.generations.newest(self.generation);
            let error = match self.socket.transaction(SUBSYSTEM, Some(generation), messages) {
                Ok(()) => {
                    self.generation = self.generations.led(generation);
                    return Ok(Outcome::Done);
                }
                Err(error) => error,
            };
            match error.raw_os_error() {
                Some(ERESTART) => {}
                Some(EEXIST) => return Ok(Outcome::There),
                // Of the set or of an element in one. A set that is gone does not come back.
                Some(ENOENT) => {
                    let there = seen::is_there(&mut self.socket, self.arms).map_err(unread)?;
                    return Ok(if there { Outcome::Missing } else { Outcome::Withdrawn });
                }
                _ => return Err(refused(error)),
            }
            if Instant::now() >= until {
                return Err(refused(io::ErrorKind::TimedOut.into()));
            }
            if !seen::is_there(&mut self.socket, self.arms).map_err(unread)? {
                return Ok(Outcome::Withdrawn);
            }
            // What another holder has read since is as good, once.
            let known = self.generations.seen(generation).filter(|(_, newest)| tried != Some(*newest));
            self.generation = match known {
                Some((seen, newest)) if self.is_right(&seen).is_ok() => newest,
                _ => self.read()?.generation(),
            };
            tried = Some(self.generation);
        }
    }

    /// The table, if it is as it should be.
    fn read(&mut self) -> Result<Arc<Reading>, GateError> {
        let gone = || GateError::Mismatch("the table is gone".to_owned());
        let seen = seen::read_on(&mut self.socket).map_err(unread)?.ok_or_else(gone)?;
        let reading = Arc::new(Reading::new(seen));
        self.is_right(&reading)?;
        self.generations.read(&reading);
        Ok(reading)
    }

    fn is_right(&self, reading: &Reading) -> Result<(), GateError> {
        match reading.state(self.ports)?.baseline {
            Baseline::Intact => Ok(()),
            Baseline::Edited(difference) => Err(GateError::Mismatch(difference)),
            Baseline::Missing => Err(GateError::Mismatch("the gate's entries are gone".to_owned())),
        }
    }
}

fn unread(error: io::Error) -> GateError {
    GateError::of_kernel(READING, error)
}

/// The generation that a transaction leaves behind. There is no generation 0.
fn after(generation: u32) -> u32 {
    generation.wrapping_add(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::super::Seen;
    use super::*;

    #[test]
    fn what_one_holder_does_spoils_nothing_that_another_knows() {
        let generations = Generations::default();
        let shared = generations.clone();
        assert_eq!(generations.newest(7), 7);
        // The one arms and swaps; the other had read the table when the first began.
        assert_eq!((shared.led(7), shared.led(8)), (8, 9));
        assert_eq!([7, 8, 9].map(|known| generations.newest(known)), [9; 3]);
        // What somebody else has done in 9 is known to who has read it since, and to nobody else.
        assert_eq!(generations.newest(10), 10);
        assert_eq!(generations.led(10), 11);
        assert_eq!([9, 10].map(|known| shared.newest(known)), [9, 11]);
        // There is no generation 0, and nothing is compared across it.
        assert_eq!((generations.led(u32::MAX), generations.newest(u32::MAX)), (1, u32::MAX));
        assert_eq!((generations.led(1), generations.newest(1)), (2, 2));
    }

    #[test]
    fn what_one_holder_has_read_the_others_need_not_read() {
        let generations = Generations::default();
        assert!(generations.seen(7).is_none());
        generations.read(&Arc::new(Reading::new(Seen { generation: 8, ..Seen::default() })));
        let newest = |stale| generations.seen(stale).map(|(_, newest)| newest);
        assert_eq!([newest(7), newest(8)], [Some(8), None]);
        assert_eq!((generations.led(8), newest(7), newest(8), newest(9)), (9, Some(9), Some(9), None));
        // A stranger's, which nobody has read behind.
        assert_eq!((generations.led(10), newest(7), newest(11)), (11, Some(8), Some(8)));
    }
}
