//! Sets of ports in the kernel's ip_set, read and changed over netlink.
//!
//! Each change is one call of its own; only [`Change::Swap`] replaces a whole set at once. Timeouts are whole seconds.
//! Message format: linux/netfilter/ipset/ip_set.h.

use std::collections::BTreeMap;
use std::io;
use std::time::Instant;

use nix::libc::{EINVAL, ENOENT, EOPNOTSUPP};
use nix::sys::socket::SockProtocol;

use crate::gate::netlink::{Message, Socket, attr, attrs, number, text};

/// NFNL_SUBSYS_IPSET.
const SUBSYSTEM: u8 = 6;
/// The oldest protocol that carries all that is used here; every kernel since 2.6.39 takes it.
const PROTOCOL: u8 = 6;
/// The kind of set that is used here, and its revision since Linux 3.18.
pub const KIND: &str = "bitmap:port";
const REVISION: u8 = 3;

const CREATE: u8 = 2;
const DESTROY: u8 = 3;
const FLUSH: u8 = 4;
const SWAP: u8 = 6;
const LIST: u8 = 7;
const ADD: u8 = 9;
const DELETE: u8 = 10;
const TEST: u8 = 11;

const ATTR_PROTOCOL: u16 = 1;
const ATTR_NAME: u16 = 2;
/// The kind of a set, or the name of the second one.
const ATTR_SECOND: u16 = 3;
const ATTR_REVISION: u16 = 4;
const ATTR_FAMILY: u16 = 5;
const ATTR_FLAGS: u16 = 6;
const ATTR_DATA: u16 = 7;
const ATTR_ELEMENTS: u16 = 8;
const DATA_PORT: u16 = 4;
const DATA_PORT_TO: u16 = 5;
const DATA_TIMEOUT: u16 = 6;
/// ip_set takes numbers of more than one byte only with this bit (NLA_F_NET_BYTEORDER).
const NETWORK_ORDER: u16 = 0x4000;
/// Names, kinds, ranges and timeouts only, without elements.
const FLAG_HEADERS: u32 = 1 << 2;
/// IPSET_ERR_EXIST: what is asked for is not in the set.
const NOT_IN_IT: i32 = 4103;
/// IPSET_ERR_BITMAP_RANGE: nor could it be.
const OUT_OF_RANGE: i32 = 4352;
const NFGENMSG: usize = 4;

/// A set as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Set {
    /// Its kind, such as bitmap:port.
    pub kind: String,
    /// The first and the last port that it can hold.
    pub range: (u16, u16),
    /// The timeout in seconds of elements that state none; None where elements have no timeouts.
    pub timeout: Option<u32>,
    /// The ports in it and how many seconds each has; None or 0: without end.
    pub ports: BTreeMap<u16, Option<u32>>,
}

/// One call that changes sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Makes a set of ports; nothing where the same is there.
    Create {
        /// Its name.
        name: String,
        /// The first and the last port that it can hold.
        range: (u16, u16),
        /// As in [`Set::timeout`].
        timeout: Option<u32>,
    },
    /// Puts a port in, or gives it a new timeout.
    Add(String, u16, Option<u32>),
    /// Takes a port out, if it is in.
    Delete(String, u16),
    /// Empties a set.
    Flush(String),
    /// Gives each of two sets the other's name, and so each rule the other's elements.
    Swap(String, String),
    /// Destroys a set that no rule uses.
    Destroy(String),
}

impl Change {
    fn message(&self) -> Message {
        let word = |message: Message, kind: u16, value: Option<u32>| match value {
            Some(value) => message.attr(kind | NETWORK_ORDER, &value.to_be_bytes()),
            None => message,
        };
        match self {
            Change::Create { name, range, timeout } => begin(CREATE, name)
                .text(ATTR_SECOND, KIND)
                .attr(ATTR_REVISION, &[REVISION])
                .attr(ATTR_FAMILY, &[0])
                .nest(ATTR_DATA, |data| {
                    word(half(half(data, DATA_PORT, range.0), DATA_PORT_TO, range.1), DATA_TIMEOUT, *timeout)
                }),
            Change::Add(name, port, timeout) => {
                begin(ADD, name).nest(ATTR_DATA, |data| word(half(data, DATA_PORT, *port), DATA_TIMEOUT, *timeout))
            }
            Change::Delete(name, port) => begin(DELETE, name).nest(ATTR_DATA, |data| half(data, DATA_PORT, *port)),
            Change::Flush(name) => begin(FLUSH, name),
            Change::Swap(one, other) => begin(SWAP, one).text(ATTR_SECOND, other),
            Change::Destroy(name) => begin(DESTROY, name),
        }
    }
}

fn begin(kind: u8, name: &str) -> Message {
    Message::netfilter(SUBSYSTEM, kind, 0).attr(ATTR_PROTOCOL, &[PROTOCOL]).text(ATTR_NAME, name)
}

fn half(message: Message, kind: u16, value: u16) -> Message {
    message.attr(kind | NETWORK_ORDER, &value.to_be_bytes())
}

/// Makes `changes`, one after the other, up to the first that fails.
///
/// # Errors
/// The kernel's, such as ENOENT for a set that is not there; numbers above 4096 are ip_set's own.
pub fn change(changes: &[Change], until: Instant) -> io::Result<()> {
    let mut socket = Socket::open(SockProtocol::NetlinkNetFilter, until)?;
    changes.iter().try_for_each(|change| change_on(&mut socket, change))
}

/// Makes one change on a socket that is there, until its deadline.
///
/// # Errors
/// As [`change`].
pub fn change_on(socket: &mut Socket, change: &Change) -> io::Result<()> {
    let error = socket.each(vec![change.message()])?.pop();
    error.map_or(Ok(()), |(_, error)| {
        tracing::debug!("{change:?}: {error}");
        Err(error)
    })
}

/// All sets whose names begin with `prefix`; none where the kernel has no ip_set.
///
/// # Errors
/// The kernel's (EPERM without CAP_NET_ADMIN); [`io::ErrorKind::TimedOut`] at the deadline.
pub fn list(prefix: &str, until: Instant) -> io::Result<BTreeMap<String, Set>> {
    list_on(&mut Socket::open(SockProtocol::NetlinkNetFilter, until)?, prefix)
}

/// The same on a socket that is there, until its deadline.
///
/// # Errors
/// As [`list`].
pub fn list_on(socket: &mut Socket, prefix: &str) -> io::Result<BTreeMap<String, Set>> {
    let mut sets = BTreeMap::new();
    // Others' sets can be large: only their headers are asked for.
    for name in headers(socket, prefix)?.into_keys() {
        // None where it is gone meanwhile.
        sets.extend(read(socket, &name)?.map(|set| (name, set)));
    }
    Ok(sets)
}

/// The same sets without what is in them.
///
/// # Errors
/// As [`list`].
pub fn headers(socket: &mut Socket, prefix: &str) -> io::Result<BTreeMap<String, Set>> {
    let mut sets: BTreeMap<String, Set> = BTreeMap::new();
    let dumped = socket.dump(&without_elements(ask()), |body| {
        let name = attr(&body[NFGENMSG..], ATTR_NAME).map(text).unwrap_or_default();
        if name.starts_with(prefix) {
            sets.entry(name).or_default().learn(&body[NFGENMSG..]);
        }
    });
    match dumped {
        Err(error) if matches!(error.raw_os_error(), Some(EINVAL | EOPNOTSUPP)) => Ok(BTreeMap::new()),
        result => result.map(|()| sets),
    }
}

/// The set `name`, if it is there.
///
/// # Errors
/// As [`list`].
pub fn read(socket: &mut Socket, name: &str) -> io::Result<Option<Set>> {
    dump_one(socket, &ask().text(ATTR_NAME, name))
}

/// The same without what is in it.
///
/// # Errors
/// As [`list`].
pub fn header(socket: &mut Socket, name: &str) -> io::Result<Option<Set>> {
    dump_one(socket, &without_elements(ask().text(ATTR_NAME, name)))
}

/// Whether `port` is in the set `name`, and has not run out: to read a set of all ports for that takes the kernel much longer.
///
/// # Errors
/// As [`list`].
pub fn holds(socket: &mut Socket, name: &str, port: u16) -> io::Result<bool> {
    let test = begin(TEST, name).nest(ATTR_DATA, |data| half(data, DATA_PORT, port));
    match socket.each(vec![test])?.pop() {
        None => Ok(true),
        Some((_, error)) if matches!(error.raw_os_error(), Some(NOT_IN_IT | OUT_OF_RANGE | ENOENT)) => Ok(false),
        Some((_, error)) => Err(error),
    }
}

fn dump_one(socket: &mut Socket, message: &Message) -> io::Result<Option<Set>> {
    let mut set = Set::default();
    match socket.dump(message, |body| set.learn(&body[NFGENMSG..])) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(|()| Some(set)),
    }
}

fn ask() -> Message {
    Message::netfilter(SUBSYSTEM, LIST, 0).attr(ATTR_PROTOCOL, &[PROTOCOL])
}

fn without_elements(message: Message) -> Message {
    message.attr(ATTR_FLAGS | NETWORK_ORDER, &FLAG_HEADERS.to_be_bytes())
}

impl Set {
    /// Takes in one message of a set's dump; a long set comes in several.
    fn learn(&mut self, body: &[u8]) {
        if let Some(kind) = attr(body, ATTR_SECOND) {
            self.kind = text(kind);
        }
        if let Some(data) = attr(body, ATTR_DATA) {
            let port = |kind| attr(data, kind).map(number).unwrap_or_default() as u16;
            self.range = (port(DATA_PORT), port(DATA_PORT_TO));
            self.timeout = attr(data, DATA_TIMEOUT).map(|timeout| number(timeout) as u32);
        }
        for (_, element) in attrs(attr(body, ATTR_ELEMENTS).unwrap_or_default()) {
            if let Some(port) = attr(element, DATA_PORT) {
                self.ports.insert(number(port) as u16, attr(element, DATA_TIMEOUT).map(|left| number(left) as u32));
            }
        }
    }
}
