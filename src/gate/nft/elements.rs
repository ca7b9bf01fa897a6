//! Changes that need no nft: of elements in one transaction, of sets of arms, and the removal of the whole table.
//!
//! Message formats: linux/netfilter/nf_tables.h.

use std::io;
use std::time::{Duration, Instant};

use nix::sys::socket::SockProtocol;

use super::plan::{ARMS, Arms, Element, TABLE};
use super::{INET, SUBSYSTEM};
use crate::gate::netlink::{Message, Socket};

const DELETE_TABLE: u8 = 2;
const NEW_SET: u8 = 9;
const DELETE_SET: u8 = 11;
const ADD_ELEMENTS: u8 = 12;
const GET_ELEMENTS: u8 = 13;
const DELETE_ELEMENTS: u8 = 14;
/// NLM_F_CREATE.
const CREATE: u16 = 0x400;
/// NLM_F_EXCL.
const EXCLUSIVE: u16 = 0x200;
/// nft's number for the type "mark" (TYPE_MARK of its datatype.h), by which it prints keys.
const TYPE_MARK: u32 = 19;

/// Does `elements` in one transaction, with a generation only if the ruleset is still of that one.
///
/// # Errors
/// The kernel's: ERESTART where somebody changed the ruleset meanwhile; [`io::ErrorKind::TimedOut`] at the deadline.
pub fn change(elements: &[Element], generation: Option<u32>, until: Instant) -> io::Result<()> {
    let messages: Vec<Message> = elements.iter().map(|element| message(*element)).collect();
    Socket::open(SockProtocol::NetlinkNetFilter, until)?.transaction(SUBSYSTEM, generation, &messages)
}

/// Deletes the table with all that is in it, if the ruleset is still of `generation`.
///
/// # Errors
/// As [`change`].
pub fn delete_table(generation: u32, until: Instant) -> io::Result<()> {
    let message = Message::netfilter(SUBSYSTEM, DELETE_TABLE, INET).text(1, TABLE);
    Socket::open(SockProtocol::NetlinkNetFilter, until)?.transaction(SUBSYSTEM, Some(generation), &[message])
}

/// The message that does `element`.
pub fn message(element: Element) -> Message {
    match element {
        Element::AddGated(port) => add("gated", &port.to_be_bytes(), |one| one),
        Element::DeleteGated(port) => delete("gated", &port.to_be_bytes()),
        Element::AddTarget(port, redis) => {
            add("target", &port.to_be_bytes(), |one| one.nest(2, |data| data.attr(1, &redis.to_be_bytes())))
        }
        Element::DeleteTarget(port) => delete("target", &port.to_be_bytes()),
        Element::AddOpen(port, time) => add("open", &port.to_be_bytes(), lasting(time)),
        Element::DeleteOpen(port) => delete("open", &port.to_be_bytes()),
        Element::DeleteArms(arms) => on(DELETE_SET, &arms.to_string()),
    }
}

/// Opens `port` for `time`; fails with EEXIST where it is open. An element that has run out does not count, whether
/// or not the kernel still has to free it.
pub fn open_closed(port: u16, time: Duration) -> Message {
    message(Element::AddOpen(port, time)).flags(EXCLUSIVE)
}

/// Makes the set `arms`; fails with EEXIST where it is there.
pub fn make(arms: Arms) -> Message {
    let word = |value: u32| value.to_be_bytes();
    on(NEW_SET, &arms.to_string())
        .flags(CREATE | EXCLUSIVE)
        .attr(3, &word(ARMS.flags))
        .attr(4, &word(TYPE_MARK))
        .attr(5, &word(ARMS.key))
        // An id by which other messages of the transaction could name it.
        .attr(10, &word(1))
        .attr(11, &ARMS.timeout.to_be_bytes())
}

/// Puts `key` into `arms` for `time`; fails with ENOENT where the set is gone.
pub fn arm(arms: Arms, key: u32, time: Duration) -> Message {
    // A mark is a number of the host's own byte order.
    add(&arms.to_string(), &key.to_ne_bytes(), lasting(time)).flags(EXCLUSIVE)
}

/// Takes `key` out of `arms`; fails with ENOENT where it has run out, even if it is still listed, or the set is gone.
pub fn use_arm(arms: Arms, key: u32) -> Message {
    delete(&arms.to_string(), &key.to_ne_bytes())
}

/// Takes all keys out of `arms`; fails with ENOENT where the set is gone.
pub fn empty(arms: Arms) -> Message {
    on(DELETE_ELEMENTS, &arms.to_string())
}

/// Asks for the element `key` of `set`; answered with ENOENT where there is none, or it has run out, or there is no such set.
pub fn get(set: &str, key: &[u8]) -> Message {
    one(GET_ELEMENTS, set, key)
}

fn on(kind: u8, set: &str) -> Message {
    Message::netfilter(SUBSYSTEM, kind, INET).text(1, TABLE).text(2, set)
}

fn add(set: &str, key: &[u8], more: impl FnOnce(Message) -> Message) -> Message {
    let fields = |one: Message| more(one.nest(1, |data| data.attr(1, key)));
    on(ADD_ELEMENTS, set).flags(CREATE).nest(3, |list| list.nest(1, fields))
}

fn delete(set: &str, key: &[u8]) -> Message {
    one(DELETE_ELEMENTS, set, key)
}

fn one(kind: u8, set: &str, key: &[u8]) -> Message {
    on(kind, set).nest(3, |list| list.nest(1, |one| one.nest(1, |data| data.attr(1, key))))
}

/// The timeout of an element, and that all of it is left.
fn lasting(time: Duration) -> impl FnOnce(Message) -> Message {
    let time = (time.as_millis() as u64).to_be_bytes();
    move |one| one.attr(4, &time).attr(5, &time)
}
