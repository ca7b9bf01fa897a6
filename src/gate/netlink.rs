//! Raw netlink: messages made and read by hand, one socket at a time, each with a deadline.
//!
//! Owns the framing of linux/netlink.h and linux/netfilter/nfnetlink.h and nothing of what the messages mean.
//! A socket speaks to the kernel of the network namespace of the thread that opened it.

use std::cell::Cell;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, send, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

/// It is a request (NLM_F_REQUEST).
const REQUEST: u16 = 0x01;
/// An acknowledgement is wanted (NLM_F_ACK).
const ACK: u16 = 0x04;
/// All entries are wanted (NLM_F_ROOT | NLM_F_MATCH).
const DUMP: u16 = 0x300;
/// The kernel's flag for a dump during which what was dumped changed (NLM_F_DUMP_INTR).
const DUMP_INTERRUPTED: u16 = 0x10;

/// Messages below this type are netlink's own: 2 is an error or acknowledgement, 3 the end of a dump.
const FIRST_OWN_TYPE: u16 = 0x10;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Around the messages of a transaction (NFNL_MSG_BATCH_*), and the generation that it expects.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const BATCH_GENERATION: u16 = 1;

/// The type bits of an attribute; the others say that it is nested or in network byte order.
const ATTR_TYPE: u16 = 0x3fff;
const NESTED: u16 = 0x8000;

const HEADER: usize = 16;

/// The kernel never makes a larger piece of a dump (it caps them at 32 KiB).
const LARGEST: usize = 64 << 10;

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What answers are received into: one for all sockets of a thread, for each is done with an answer before the next one asks. What no answer has
/// taken of it yet was never written: the keeper has two sockets for each master name, and many threads now and then, and its memory is locked.
struct Buffer(Vec<u8>);

impl Buffer {
    fn take() -> Self {
        let mut buffer = BUFFER.take();
        buffer.clear();
        buffer.reserve_exact(LARGEST);
        Buffer(buffer)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let buffer = mem::take(&mut self.0);
        // A thread that ends has none any more.
        let _ending = BUFFER.try_with(|place| place.set(buffer));
    }
}

/// A message under construction. Lengths are filled in when attributes and message are done.
#[derive(Debug, Clone)]
pub struct Message {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Message {
    /// A message of type `kind` that begins with the fixed part `head`.
    pub fn new(kind: u16, head: &[u8]) -> Self {
        Message { kind, flags: 0, body: head.to_vec() }
    }

    /// A message of netfilter's subsystem `subsystem` about the address family `family`.
    pub fn netfilter(subsystem: u8, kind: u8, family: u8) -> Self {
        Message::new(u16::from(subsystem) << 8 | u16::from(kind), &[family, 0, 0, 0])
    }

    /// With the flags `flags` (NLM_F_*).
    #[must_use]
    pub fn flags(mut self, flags: u16) -> Self {
        self.flags |= flags;
        self
    }

    /// Adds an attribute.
    #[must_use]
    pub fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        self.push(kind, value);
        self
    }

    /// Adds a string attribute.
    #[must_use]
    pub fn text(mut self, kind: u16, value: &str) -> Self {
        let mut value = value.as_bytes().to_vec();
        value.push(0);
        self.push(kind, &value);
        self
    }

    /// Adds an attribute that holds the attributes which `fill` adds.
    #[must_use]
    pub fn nest(mut self, kind: u16, fill: impl FnOnce(Message) -> Message) -> Self {
        let inner = fill(Message::new(0, &[]));
        self.push(kind | NESTED, &inner.body);
        self
    }

    /// The fixed part and the attributes, without netlink's header.
    #[cfg(test)]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    fn push(&mut self, kind: u16, value: &[u8]) {
        let length = (4 + value.len()) as u16;
        self.body.extend(length.to_ne_bytes());
        self.body.extend(kind.to_ne_bytes());
        self.body.extend(value);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
    }

    fn write(&self, flags: u16, sequence: u32, to: &mut Vec<u8>) {
        to.extend(((HEADER + self.body.len()) as u32).to_ne_bytes());
        to.extend(self.kind.to_ne_bytes());
        to.extend((self.flags | flags | REQUEST).to_ne_bytes());
        to.extend(sequence.to_ne_bytes());
        to.extend(0u32.to_ne_bytes());
        to.extend(&self.body);
    }
}

/// The attributes in `bytes`, as (type, value). Ends at the first that does not fit.
pub fn attrs(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]));
        let kind = u16::from_ne_bytes([*bytes.get(2)?, *bytes.get(3)?]) & ATTR_TYPE;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The attribute of type `kind` in `bytes`.
pub fn attr(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attrs(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

/// A big-endian number of at most eight bytes, as netfilter's attributes carry them.
pub fn number(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// A string attribute.
pub fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// One message from the kernel: its type and what follows netlink's header.
struct Received<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let word = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
        let half = |at: usize| bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes);
        let length = word(0)? as usize;
        let (kind, flags, sequence) = (half(4)?, half(6)?, word(8)?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Received { kind, flags, sequence, body })
    })
}

/// The error that a message of type ERROR or DONE carries; None is success.
fn error_of(body: &[u8]) -> Option<io::Error> {
    let code = i32::from_ne_bytes(body.get(..4)?.try_into().ok()?);
    (code != 0).then(|| io::Error::from_raw_os_error(-code))
}

/// A netlink socket.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    deadline: Instant,
    /// For how long the kernel makes a receiver wait at most.
    waits: Duration,
}

/// A receiver may give up that much sooner than it might: so the same wait serves one question after the other, each with as much time.
const SOONER: Duration = Duration::from_millis(5);

impl Socket {
    /// A socket to the kernel's `protocol`; nothing on it takes longer than until `deadline`.
    ///
    /// # Errors
    /// The system's, such as EPROTONOSUPPORT where the kernel lacks it.
    pub fn open(protocol: SockProtocol, deadline: Instant) -> io::Result<Self> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        let mut socket = Socket { fd, sequence: 0, deadline, waits: Duration::MAX };
        socket.set_deadline(deadline)?;
        Ok(socket)
    }

    /// Gives what follows time until `deadline`.
    ///
    /// # Errors
    /// The system's.
    pub fn set_deadline(&mut self, deadline: Instant) -> io::Result<()> {
        // The kernel answers at once or never. Zero would mean for ever.
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        if !(left.saturating_sub(SOONER)..=left).contains(&self.waits) {
            // Not a wait of none, which would be one for ever.
            let waits = left.saturating_sub(SOONER / 2).max(Duration::from_millis(1));
            setsockopt(&self.fd, ReceiveTimeout, &TimeVal::microseconds(waits.as_micros() as i64))?;
            self.waits = waits;
        }
        self.deadline = deadline;
        Ok(())
    }

    /// Until when what follows has time.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Sends `message` as a question for all entries and gives each answer's body to `each`.
    ///
    /// # Errors
    /// The kernel's; [`io::ErrorKind::Interrupted`] when what was asked for changed meanwhile (ask again);
    /// [`io::ErrorKind::TimedOut`] at the deadline.
    pub fn dump(&mut self, message: &Message, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let sequence = self.send(&[message], DUMP)?;
        let mut interrupted = false;
        self.receive(|message| {
            if message.sequence != sequence {
                return None;
            }
            interrupted |= message.flags & DUMP_INTERRUPTED != 0;
            match message.kind {
                ERROR | DONE => match error_of(message.body) {
                    Some(error) => return Some(Err(error)),
                    None if interrupted => return Some(Err(io::ErrorKind::Interrupted.into())),
                    None => return Some(Ok(())),
                },
                kind if kind >= FIRST_OWN_TYPE => each(message.body),
                _ => {}
            }
            None
        })
    }

    /// Sends `message` as a question for one entry; None when there is none (ENOENT).
    ///
    /// # Errors
    /// The kernel's; [`io::ErrorKind::TimedOut`] at the deadline.
    pub fn get(&mut self, message: &Message) -> io::Result<Option<Vec<u8>>> {
        let sequence = self.send(&[message], 0)?;
        self.receive(|message| match message.kind {
            _ if message.sequence != sequence => None,
            ERROR => match error_of(message.body) {
                Some(error) if error.kind() == io::ErrorKind::NotFound => Some(Ok(None)),
                Some(error) => Some(Err(error)),
                None => Some(Ok(None)),
            },
            kind if kind >= FIRST_OWN_TYPE => Some(Ok(Some(message.body.to_vec()))),
            _ => None,
        })
    }

    /// Sends all `messages` at once, each to be carried out by itself, and gives what failed: its place and the error.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] at the deadline, and the system's.
    pub fn each(&mut self, mut messages: Vec<Message>) -> io::Result<Vec<(usize, io::Error)>> {
        // Only errors are told of, but for the last one: what comes before it is done by then.
        if let Some(last) = messages.last_mut() {
            last.flags |= ACK;
        }
        let first = self.send(&messages.iter().collect::<Vec<_>>(), 0)?;
        let mut failed = Vec::new();
        if !messages.is_empty() {
            self.receive(|message| {
                let index = message.sequence.wrapping_sub(first) as usize;
                if message.kind != ERROR || index >= messages.len() {
                    return None;
                }
                failed.extend(error_of(message.body).map(|error| (index, error)));
                (index + 1 == messages.len()).then_some(Ok(()))
            })?;
        }
        Ok(failed)
    }

    /// Makes `messages` one transaction of netfilter's subsystem `subsystem`: all of them happen, or none. With a generation
    /// it fails with ERESTART where the subsystem's is not that any more.
    ///
    /// # Errors
    /// The kernel's first; [`io::ErrorKind::TimedOut`] at the deadline.
    pub fn transaction(&mut self, subsystem: u8, generation: Option<u32>, messages: &[Message]) -> io::Result<()> {
        let mark = |kind| Message::new(kind, &[0, 0, 0, subsystem]);
        let mut begin = mark(BATCH_BEGIN);
        if let Some(generation) = generation {
            begin.push(BATCH_GENERATION, &generation.to_be_bytes());
        }
        let end = mark(BATCH_END);
        // Not all kernels acknowledge the marks, so only an error of the first is waited for.
        let asking: Vec<Message> = messages.iter().map(|message| message.clone().flags(ACK)).collect();
        let batch: Vec<&Message> = [&begin].into_iter().chain(&asking).chain([&end]).collect();
        let first = self.send(&batch, 0)?;

        let mut waiting = vec![true; messages.len()];
        if messages.is_empty() {
            return Ok(());
        }
        self.receive(|message| {
            let index = message.sequence.wrapping_sub(first) as usize;
            if message.kind != ERROR || index >= batch.len() {
                return None;
            }
            if let Some(error) = error_of(message.body) {
                return Some(Err(error));
            }
            if let Some(waiting) = index.checked_sub(1).and_then(|index| waiting.get_mut(index)) {
                *waiting = false;
            }
            (!waiting.contains(&true)).then_some(Ok(()))
        })
    }

    /// Sends `messages` in one datagram with running sequence numbers, of which it returns the first.
    fn send(&mut self, messages: &[&Message], flags: u16) -> io::Result<u32> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for message in messages {
            self.sequence = self.sequence.wrapping_add(1);
            message.write(flags, self.sequence, &mut bytes);
        }
        send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty())?;
        Ok(first)
    }

    /// Gives each message that comes to `read`, until that gives something.
    fn receive<T>(&mut self, mut read: impl FnMut(Received<'_>) -> Option<io::Result<T>>) -> io::Result<T> {
        let mut buffer = Buffer::take();
        loop {
            buffer.0.clear();
            match recv(&self.fd, spare_capacity(&mut buffer.0), RecvFlags::TRUNC) {
                // With MSG_TRUNC the kernel gives the length that the datagram had.
                Ok((_, length)) if length > buffer.0.len() => return Err(io::ErrorKind::InvalidData.into()),
                Ok(_) if Instant::now() >= self.deadline => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => {
                    if let Some(done) = messages(&buffer.0).find_map(&mut read) {
                        return done;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_read_back_as_they_were_written() {
        let message = Message::new(1, &[]).attr(3, &[1, 2, 3]).text(4, "open").nest(5, |inner| inner.attr(1, &[9]));
        let read: Vec<_> = attrs(&message.body).map(|(kind, value)| (kind, value.to_vec())).collect();
        assert_eq!(read[0], (3, vec![1, 2, 3]));
        assert_eq!((read[1].0, text(&read[1].1)), (4, "open".to_owned()));
        assert_eq!((read[2].0, attr(&read[2].1, 1)), (5, Some(&[9u8][..])));
        assert_eq!(read.len(), 3);
    }

    #[test]
    fn sockets_of_a_thread_take_turns_with_one_buffer() {
        let at = |buffer: &Buffer| buffer.0.as_ptr();
        let first = Buffer::take();
        let (place, within) = (at(&first), Buffer::take());
        assert_ne!(at(&within), place);
        drop((within, first));
        assert_eq!(at(&Buffer::take()), place);
    }

    #[test]
    fn garbage_ends_the_reading() {
        assert_eq!(attrs(&[1, 0, 1, 0]).count(), 0);
        assert_eq!(attrs(&[200, 0, 1, 0, 0]).count(), 0);
        assert_eq!(attrs(&[4]).count(), 0);
        assert_eq!(messages(&[0; 16]).count(), 0);
        assert_eq!(messages(&[255; 40]).count(), 0);
    }

    #[test]
    fn numbers_are_big_endian() {
        assert_eq!(number(&[0, 0, 1, 2]), 258);
        assert_eq!(number(&[]), 0);
    }
}
