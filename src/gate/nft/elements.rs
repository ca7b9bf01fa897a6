//! Changes that need no nft: of elements in one transaction, and the removal of the whole table.
//!
//! Message formats: linux/netfilter/nf_tables.h.

use std::io;
use std::time::Instant;

use nix::sys::socket::SockProtocol;

use super::plan::{Element, TABLE};
use super::{INET, SUBSYSTEM};
use crate::gate::netlink::{Message, Socket};

const DELETE_TABLE: u8 = 2;
const ADD_ELEMENTS: u8 = 12;
const DELETE_ELEMENTS: u8 = 14;
/// NLM_F_CREATE.
const CREATE: u16 = 0x400;

/// Does `elements` in one transaction, if the ruleset is still of `generation`.
///
/// # Errors
/// The kernel's: ERESTART where somebody changed the ruleset meanwhile; [`io::ErrorKind::TimedOut`] at the deadline.
pub fn change(elements: &[Element], generation: u32, until: Instant) -> io::Result<()> {
    let messages: Vec<Message> = elements.iter().map(|element| message(*element)).collect();
    Socket::open(SockProtocol::NetlinkNetFilter, until)?.transaction(SUBSYSTEM, generation, &messages)
}

/// Deletes the table with all that is in it, if the ruleset is still of `generation`.
///
/// # Errors
/// As [`change`].
pub fn delete_table(generation: u32, until: Instant) -> io::Result<()> {
    let message = Message::netfilter(SUBSYSTEM, DELETE_TABLE, INET).text(1, TABLE);
    Socket::open(SockProtocol::NetlinkNetFilter, until)?.transaction(SUBSYSTEM, generation, &[message])
}

fn message(element: Element) -> Message {
    let (kind, set, port) = match element {
        Element::AddGated(port) => (ADD_ELEMENTS, "gated", port),
        Element::DeleteGated(port) => (DELETE_ELEMENTS, "gated", port),
        Element::AddTarget(port, _) => (ADD_ELEMENTS, "target", port),
        Element::DeleteTarget(port) => (DELETE_ELEMENTS, "target", port),
        Element::AddOpen(port, _) => (ADD_ELEMENTS, "open", port),
        Element::DeleteOpen(port) => (DELETE_ELEMENTS, "open", port),
    };
    let value = |message: Message, kind: u16, port: u16| message.nest(kind, |data| data.attr(1, &port.to_be_bytes()));
    let fields = |one: Message| {
        let one = value(one, 1, port);
        match element {
            Element::AddTarget(_, redis) => value(one, 2, redis),
            Element::AddOpen(_, time) => {
                let time = (time.as_millis() as u64).to_be_bytes();
                one.attr(4, &time).attr(5, &time)
            }
            _ => one,
        }
    };
    Message::netfilter(SUBSYSTEM, kind, INET)
        .flags(if kind == ADD_ELEMENTS { CREATE } else { 0 })
        .text(1, TABLE)
        .text(2, set)
        .nest(3, |list| list.nest(1, fields))
}
