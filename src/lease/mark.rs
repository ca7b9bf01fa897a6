//! Marks: the client names by which nodes see of each other, in Sentinel's `CLIENT LIST`, who may hold a lease.
//!
//! `rolegate:MASTER:NODE:closed`, or `rolegate:MASTER:NODE:L:NONCE` with L in whole milliseconds and NONCE in
//! hexadecimal. `CLIENT SETNAME` takes the bytes `!` to `~` only (`validateClientName` in networking.c): others, the
//! colon and the percent sign are percent-encoded in names.
//!
//! Spans of marks are microseconds here, the keeper's unit.

use std::collections::HashMap;
use std::fmt::Write;

use super::{Mark, Seen, Span};
use crate::gate::LONGEST;

const PREFIX: &str = "rolegate:";
const CLOSED: &str = "closed";
const MICROS_PER_MILLI: Span = 1000;

/// The client name that says `mark` for a node.
pub fn text(master: &str, node: &str, mark: &Mark) -> String {
    let (master, node) = (encoded(master), encoded(node));
    match mark {
        Mark::Closed => format!("{PREFIX}{master}:{node}:{CLOSED}"),
        // Rounded up: others wait for what stands there.
        Mark::Held { length, nonce } => {
            format!("{PREFIX}{master}:{node}:{}:{nonce:x}", length.div_ceil(MICROS_PER_MILLI))
        }
    }
}

/// The marks in a `CLIENT LIST`, by master name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Marks(HashMap<Vec<u8>, Vec<Listed>>);

/// A keeper's line, as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listed {
    /// The client id, if that can be read.
    line: Option<u64>,
    node: Vec<u8>,
    mark: Option<Mark>,
}

impl Marks {
    /// Reads a list. Each line is `id=.. addr=.. .. name=.. ..`; which other fields there are differs with servers and releases.
    pub fn read(text: &str) -> Self {
        let mut marks = Marks::default();
        // A Sentinel has thousands of other clients.
        for client in text.lines().filter(|client| client.contains("name=rolegate:")) {
            let fields = || client.split_ascii_whitespace();
            let line = fields().find_map(|field| field.strip_prefix("id=")).and_then(|id| id.parse().ok());
            for name in fields().filter_map(|field| field.strip_prefix("name=")) {
                marks.add(line, name);
            }
        }
        marks
    }

    fn add(&mut self, line: Option<u64>, name: &str) -> Option<()> {
        let (whose, rest) = name.strip_prefix(PREFIX)?.split_once(':')?;
        let (node, says) = rest.split_once(':').unwrap_or((rest, ""));
        let (whose, node) = (decoded(whose)?, decoded(node)?);
        // Without its id, it cannot be known for the same line in the next look.
        let mark = line.and_then(|_| understood(says));
        self.0.entry(whose).or_default().push(Listed { line, node, mark });
        Some(())
    }

    /// What they say of some nodes, for one master name. Nodes are given as in the record, and come back so;
    /// they are compared without regard to case, as Pacemaker does. Marks of other nodes are left out.
    ///
    /// What is a mark of such a node, but cannot be understood, is kept as one that never makes it free.
    pub fn of(&self, master: &str, nodes: &[String]) -> Vec<Seen<String>> {
        let listed = self.0.get(master.as_bytes()).into_iter().flatten();
        listed
            .filter_map(|listed| {
                let node = nodes.iter().find(|known| known.as_bytes().eq_ignore_ascii_case(&listed.node))?;
                Some(Seen { line: listed.line.unwrap_or_default(), node: node.clone(), mark: listed.mark })
            })
            .collect()
    }
}

fn understood(says: &str) -> Option<Mark> {
    if says == CLOSED {
        return Some(Mark::Closed);
    }
    let (length, nonce) = says.split_once(':')?;
    // parse() and from_str_radix() would take a sign.
    if !length.bytes().all(|b| b.is_ascii_digit()) || !nonce.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let length = length.parse::<Span>().ok()?.checked_mul(MICROS_PER_MILLI)?;
    // Nothing can be open for longer: not a keeper's mark.
    if u128::from(length) > LONGEST.as_micros() {
        return None;
    }
    Some(Mark::Held { length, nonce: u64::from_str_radix(nonce, 16).ok()? })
}

fn encoded(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b':' | b'%' => _ = write!(text, "%{byte:02X}"),
            b'!'..=b'~' => text.push(byte.into()),
            _ => _ = write!(text, "%{byte:02X}"),
        }
    }
    text
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut name = Vec::with_capacity(text.len());
    let digit = |bytes: &mut std::str::Bytes<'_>| char::from(bytes.next()?).to_digit(16);
    while let Some(byte) = bytes.next() {
        name.push(match byte {
            b'%' => u8::try_from(digit(&mut bytes)? * 16 + digit(&mut bytes)?).ok()?,
            byte => byte,
        });
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Span = 1_000_000;

    fn nodes(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn one(name: &str) -> Vec<Option<Mark>> {
        let text = format!("id=7 addr=10.0.0.2:40000 name={name} age=1 flags=N\n");
        Marks::read(&text).of("mymaster", &nodes(&["node2", "node3"])).into_iter().map(|seen| seen.mark).collect()
    }

    #[test]
    fn marks_are_written_as_the_design_has_them() {
        assert_eq!(text("mymaster", "node1", &Mark::Closed), "rolegate:mymaster:node1:closed");
        let held = Mark::Held { length: 2 * SECOND, nonce: 0xab };
        assert_eq!(text("mymaster", "node1", &held), "rolegate:mymaster:node1:2000:ab");
        assert_eq!(text("a:b", "x y%\n", &Mark::Closed), "rolegate:a%3Ab:x%20y%25%0A:closed");
        assert_eq!(text("m", "n", &Mark::Held { length: 1, nonce: 0 }), "rolegate:m:n:1:0");
    }

    #[test]
    fn a_client_list_is_read_whatever_fields_it_has() {
        // Redis 7.0, then Valkey 8, then a stranger that only mentions a mark.
        let text = "id=3 addr=10.0.0.1:5000 laddr=10.0.0.9:26379 fd=9 name=rolegate:mymaster:Node2:closed age=4 idle=0 flags=N db=0 cmd=sentinel|myid user=default redir=-1 resp=2\n\
            id=4 addr=10.0.0.2:5000 laddr=10.0.0.9:26379 fd=10 name=rolegate:mymaster:node3:2000:1F age=4 capa= flags=N lib-name=x lib-ver= tot-net-in=9\r\n\
            id=5 addr=10.0.0.2:5000 name=rolegate:other:node3:closed age=4\n\
            id=6 addr=10.0.0.3:5000 name= age=4 lib-name=rolegate:mymaster:node3:closed\n";
        let lines = Marks::read(text).of("mymaster", &nodes(&["node2", "NODE3"]));
        let held = Mark::Held { length: 2 * SECOND, nonce: 0x1f };
        assert_eq!(
            lines,
            [
                Seen { line: 3, node: "node2".to_owned(), mark: Some(Mark::Closed) },
                Seen { line: 4, node: "NODE3".to_owned(), mark: Some(held) },
            ]
        );
        assert_eq!(Marks::read(text).of("other", &nodes(&["node3"])).len(), 1);
    }

    #[test]
    fn what_cannot_be_understood_frees_nobody() {
        for says in [
            "",
            ":",
            ":closed:",
            ":Closed",
            ":2000",
            ":2000:",
            ":+2000:1",
            ":2000:+1",
            ":2000:xyz",
            ":2000:1:2",
            "::1",
            ":99999999999999999999:1",
            ":3600001:1",
            ":2000:11112222333344445",
        ] {
            assert_eq!(one(&format!("rolegate:mymaster:node2{says}")), [None], "{says}");
        }
        assert_eq!(one("rolegate:mymaster:node2:3600000:1").len(), 1);
        // Neither does a line without an id.
        let lines = "addr=x name=rolegate:mymaster:node2:closed\nid=x name=rolegate:mymaster:node2:closed\n";
        let lines = Marks::read(lines).of("mymaster", &nodes(&["node2"]));
        assert_eq!(lines.iter().map(|seen| seen.mark).collect::<Vec<_>>(), [None, None]);
    }

    #[test]
    fn strangers_are_left_out() {
        for name in [
            "rolegate:mymaster:node9:closed",
            "rolegate:mymaster",
            "rolegate:MYMASTER:node2:closed",
            "x:y",
            "rolegate:mymaster:node2%:closed",
            "rolegate:mymaster:node2%zz:closed",
            "rolegate:my%6:node2:closed",
        ] {
            assert_eq!(one(name), [], "{name}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            master in "\\PC{0,9}", node in ".{0,9}", millis in 0..=3_600_000u64, nonce: u64, closed: bool, line: u64,
        ) {
            let mark = if closed { Mark::Closed } else { Mark::Held { length: millis * 1000, nonce } };
            let name = text(&master, &node, &mark);
            prop_assert!(name.bytes().all(|b| (b'!'..=b'~').contains(&b)), "{}", name);
            let list = format!("id={line} addr=1.2.3.4:5 fd=8 name={name} age=0\n");
            let lines = Marks::read(&list).of(&master, &nodes(&[&node]));
            prop_assert_eq!(lines, [Seen { line, node, mark: Some(mark) }]);
        }

        #[test]
        fn any_text_is_survived(text in "(id=|name=|rolegate:|m:|n:|closed|:|%|[0-9]| |\n|\\PC){0,40}", any in ".*") {
            for text in [&text, &any] {
                _ = Marks::read(text).of("m", &nodes(&["n"]));
            }
        }
    }
}
