//! What a rule in the kernel does, in one canonical line.
//!
//! nft, its versions and a ruleset that was saved and loaded again choose registers as they like; the line names what a
//! register holds instead of the register, so that two rules have the same line exactly when they do the same.
//! An expression that this module does not know stays in the line as name and bytes: it equals nothing of ours.
//! Attributes and their numbers: linux/netfilter/nf_tables.h.

use std::collections::HashMap;

use crate::gate::netlink::{attr, attrs, number, text};

const META_L4PROTO: u64 = 16;
const TRANSPORT_HEADER: u64 = 2;
const FIB_ADDRTYPE: u64 = 3;

/// The line of the rule whose list of expressions is `expressions` (NFTA_RULE_EXPRESSIONS).
pub fn canonical(expressions: &[u8]) -> String {
    let mut registers = Registers::default();
    let steps: Vec<String> = attrs(expressions)
        .filter_map(|(_, expression)| {
            let name = attr(expression, 1).map(text).unwrap_or_default();
            registers.step(&name, attr(expression, 2).unwrap_or_default())
        })
        .collect();
    steps.join("; ")
}

/// What each register holds at this point of a rule.
#[derive(Default)]
struct Registers(HashMap<u64, String>);

impl Registers {
    fn read(&self, data: &[u8], kind: u16) -> String {
        attr(data, kind)
            .and_then(|register| self.0.get(&number(register)))
            .cloned()
            .unwrap_or_else(|| "nothing".to_owned())
    }

    fn load(&mut self, data: &[u8], kind: u16, value: String) -> Option<String> {
        match attr(data, kind) {
            Some(register) => {
                self.0.insert(number(register), value);
                None
            }
            None => Some(value),
        }
    }

    /// What the expression does to the packet or the verdict; None where it only fills a register.
    fn step(&mut self, name: &str, data: &[u8]) -> Option<String> {
        let field = |kind| attr(data, kind).map(number);
        let value = |kind| attr(data, kind).and_then(|nested| attr(nested, 1)).map(hex).unwrap_or_default();
        match name {
            "meta" if field(3).is_none() => {
                let key = field(2).unwrap_or_default();
                let held = if key == META_L4PROTO { "l4proto".to_owned() } else { format!("meta {key}") };
                self.load(data, 1, held)
            }
            "payload" if field(5).is_none() => {
                let (base, offset, length) = (field(2), field(3).unwrap_or_default(), field(4).unwrap_or_default());
                let held = match base {
                    Some(TRANSPORT_HEADER) => format!("transport[{offset}+{length}]"),
                    base => format!("header {}[{offset}+{length}]", base.unwrap_or_default()),
                };
                self.load(data, 1, held)
            }
            "fib" => {
                let (result, flags) = (field(2).unwrap_or_default(), field(3).unwrap_or_default());
                let held = match (result, flags) {
                    (FIB_ADDRTYPE, 1) => "type of source".to_owned(),
                    (FIB_ADDRTYPE, 2) => "type of destination".to_owned(),
                    _ => format!("fib {result} by {flags}"),
                };
                self.load(data, 1, held)
            }
            // Operation 0: AND with the mask, XOR with a value.
            "bitwise" if field(6).unwrap_or_default() == 0 => {
                let held = format!("({} & {} ^ {})", self.read(data, 1), value(4), value(5));
                self.load(data, 2, held)
            }
            "cmp" => {
                let operator = match field(2) {
                    Some(0) => "==".to_owned(),
                    Some(1) => "!=".to_owned(),
                    other => format!("cmp {}", other.unwrap_or_default()),
                };
                Some(format!("{} {operator} {}", self.read(data, 1), value(3)))
            }
            "lookup" => {
                let set = attr(data, 1).map(text).unwrap_or_default();
                let key = self.read(data, 2);
                let inverted = field(5).unwrap_or_default() & 1 != 0;
                match (field(3), inverted) {
                    (Some(_), false) => self.load(data, 3, format!("{set}[{key}]")),
                    (Some(_), true) => Some(format!("{key} not in {set} with a result")),
                    (None, false) => Some(format!("{key} in {set}")),
                    (None, true) => Some(format!("{key} not in {set}")),
                }
            }
            "redir" => {
                let low = self.read(data, 1);
                // The kernel shows an absent upper end as equal to the lower.
                let high = if field(2).is_some() { self.read(data, 2) } else { low.clone() };
                // Bit 1 says that ports are given, which the registers show; it is set or not by version.
                let flags = field(3).unwrap_or_default() & !2;
                let range = if high == low { low } else { format!("{low}-{high}") };
                Some(if flags == 0 {
                    format!("redirect to {range}")
                } else {
                    format!("redirect to {range} flags {flags}")
                })
            }
            "reject" => Some(match (field(1).unwrap_or_default(), field(2).unwrap_or_default()) {
                (1, _) => "reject with tcp reset".to_owned(),
                (kind, code) => format!("reject with {kind} {code}"),
            }),
            "immediate" => {
                let verdict = attr(data, 2).and_then(|nested| attr(nested, 2));
                match verdict {
                    Some(verdict) => {
                        let code = attr(verdict, 1).map(number).unwrap_or_default() as u32 as i32;
                        let chain = attr(verdict, 2).map(|name| format!(" {}", text(name))).unwrap_or_default();
                        Some(match code {
                            0 => "drop".to_owned(),
                            1 => "accept".to_owned(),
                            code => format!("verdict {code}{chain}"),
                        })
                    }
                    None => self.load(data, 1, value(2)),
                }
            }
            other => Some(format!("{other} {}", hex(data))),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::netlink::Message;

    fn expression(list: Message, name: &str, data: impl FnOnce(Message) -> Message) -> Message {
        list.nest(1, |one| one.text(1, name).nest(2, data))
    }

    fn be(number: u32) -> [u8; 4] {
        number.to_be_bytes()
    }

    /// `tcp dport @open tcp dport != @gated drop`, its port kept in `register`.
    fn rule(register: u32, inverted: u32) -> String {
        let list = Message::new(0, &[]);
        let list = expression(list, "meta", |data| data.attr(1, &be(1)).attr(2, &be(16)));
        let list =
            expression(list, "cmp", |data| data.attr(1, &be(1)).attr(2, &be(0)).nest(3, |nested| nested.attr(1, &[6])));
        let list = expression(list, "payload", |data| {
            data.attr(1, &be(register)).attr(2, &be(2)).attr(3, &be(2)).attr(4, &be(2))
        });
        let list = expression(list, "lookup", |data| data.text(1, "open").attr(2, &be(register)));
        let list =
            expression(list, "lookup", |data| data.text(1, "gated").attr(2, &be(register)).attr(5, &be(inverted)));
        let list = expression(list, "immediate", |data| {
            data.attr(1, &be(0)).nest(2, |nested| nested.nest(2, |verdict| verdict.attr(1, &be(0))))
        });
        canonical(list.body())
    }

    #[test]
    fn the_choice_of_registers_does_not_matter_and_the_sense_does() {
        let line = "l4proto == 06; transport[2+2] in open; transport[2+2] not in gated; drop";
        assert_eq!(rule(1, 1), line);
        assert_eq!(rule(9, 1), line);
        assert_ne!(rule(1, 0), line);
    }

    #[test]
    fn an_unknown_expression_stays_visible() {
        let list = expression(Message::new(0, &[]), "quota", |data| data.attr(1, &[7]));
        assert_eq!(canonical(list.body()), "quota 0500010007000000");
    }
}
