//! What our table is, and the nft text that makes, repairs and changes it. Pure: text from what was seen and what is wanted.
//!
//! One `table inet rolegate` serves all gates of the node:
//!
//! - `open` is the only place where "open" lives. Its elements always have a timeout; what follows from a port is in the
//!   rules. A lease will renew an element of it by deleting and adding it in one transaction, behind the deletion of an
//!   element from an armed set that no rule reads; such a set joins [`SETS`].
//! - `redirect_*`: the redirect *is* the gate. Nothing listens on the gate's ports, so without it a client is refused.
//! - `guard_*`, `replies`: NAT outlives the element that let a connection in. So what is for, or comes back through, a port
//!   of ours that is not open ends here: before conntrack, where a packet to us still has the port, and behind source NAT,
//!   where an answer has it again. The RST that `guard_*` or the kernel sends for us is an answer too, and must get out.
//!   Packets to and from other hosts have no local address on that side and pass.
//!
//! One lookup per packet decides for all but the packets of our own ports.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use super::seen::{Seen, SetKind};
use crate::gate::{Desired, Ports, Want};

/// The table's name, in family inet.
pub const TABLE: &str = "rolegate";
/// What the comment of a table of ours begins with.
pub const OWNER: &str = "rolegate:";
/// The comment that we write.
const COMMENT: &str = "rolegate: ports of Redis gates, kept by rolegate-port. Changes by hand are undone.";
/// The timeout of an element of `open` that somebody added by hand without one: it opens nothing for long either.
pub const OPEN_DEFAULT: Duration = Duration::from_secs(20);

/// The sets and what each is made for.
pub const SETS: [(&str, SetKind); 3] = [
    ("gated", SetKind { flags: 0, key: 2, data: 0, timeout: 0 }),
    ("target", SetKind { flags: 0x8, key: 2, data: 2, timeout: 0 }),
    ("open", SetKind { flags: 0x10, key: 2, data: 0, timeout: OPEN_DEFAULT.as_millis() as u64 }),
];

/// One chain of ours with its one rule.
#[derive(Debug, Clone, Copy)]
pub struct ChainPlan {
    /// Its name.
    pub name: &'static str,
    /// nat or filter.
    pub kind: &'static str,
    /// Where it is hooked in, for nft.
    hook_name: &'static str,
    /// The same as the kernel numbers it.
    pub hook: u32,
    /// Chains of lower priority come first.
    pub priority: i32,
    job: Job,
}

#[derive(Debug, Clone, Copy)]
enum Job {
    Redirect,
    Reject,
    DropReplies,
}

/// Before conntrack and before the raw tables of others (-300).
const BEFORE_CONNTRACK: i32 = -310;
const DSTNAT: i32 = -100;
/// Behind source NAT (100).
const BEHIND_SRCNAT: i32 = 110;

/// The chains.
pub const CHAINS: [ChainPlan; 5] = [
    chain("redirect_in", "nat", ("prerouting", 0), DSTNAT, Job::Redirect),
    chain("redirect_local", "nat", ("output", 3), DSTNAT, Job::Redirect),
    chain("guard_in", "filter", ("prerouting", 0), BEFORE_CONNTRACK, Job::Reject),
    chain("guard_local", "filter", ("output", 3), BEFORE_CONNTRACK, Job::Reject),
    chain("replies", "filter", ("postrouting", 4), BEHIND_SRCNAT, Job::DropReplies),
];

const fn chain(
    name: &'static str,
    kind: &'static str,
    (hook_name, hook): (&'static str, u32),
    priority: i32,
    job: Job,
) -> ChainPlan {
    ChainPlan { name, kind, hook_name, hook, priority, job }
}

impl ChainPlan {
    /// Its rule for nft.
    fn rule(&self) -> &'static str {
        match self.job {
            // nft refuses the map without a transport protocol named before.
            Job::Redirect => "meta l4proto tcp tcp dport @open fib daddr type local redirect to :tcp dport map @target",
            Job::Reject => "tcp dport @gated tcp dport != @open fib daddr type local reject with tcp reset",
            Job::DropReplies => "tcp sport @gated tcp sport != @open fib saddr type local tcp flags & rst == 0 drop",
        }
    }

    /// Its rule as [`super::rules::canonical`] reads it from the kernel. Type 2 is RTN_LOCAL.
    pub fn canonical(&self) -> &'static str {
        match self.job {
            Job::Redirect => {
                "l4proto == 06; transport[2+2] in open; type of destination == 02000000; \
                 redirect to target[transport[2+2]]"
            }
            Job::Reject => {
                "l4proto == 06; transport[2+2] in gated; transport[2+2] not in open; \
                 type of destination == 02000000; reject with tcp reset"
            }
            Job::DropReplies => {
                "l4proto == 06; transport[0+2] in gated; transport[0+2] not in open; \
                 type of source == 02000000; (transport[13+1] & 04 ^ 00) == 00; drop"
            }
        }
    }
}

/// The text that makes `seen` ours: structure and the entries of `ports`. Empty where nothing is to be done.
/// What is open stays open, unless the sets themselves are wrong, or with `anew`: then the table is made
/// anew and all is closed, for elements that are put back could outlive their time.
pub fn baseline(seen: Option<&Seen>, ports: Ports, anew: bool) -> String {
    let own = [(ports.ro, ports.redis), (ports.rw, ports.redis)];
    let Some(seen) = seen else { return create(&BTreeMap::from(own)) };
    if seen.flags != 0 || seen.sets_differ().is_some() || (anew && seen.structure_differs().is_some()) {
        let mut gates = seen.target.clone();
        gates.extend(own);
        return format!("delete table inet {TABLE}\n{}", create(&gates));
    }
    let mut text = String::new();
    if seen.structure_differs().is_some() {
        // All are emptied first: one may be the target of a jump from another.
        for name in seen.chains.keys() {
            line(&mut text, format_args!("flush chain inet {TABLE} {name}"));
        }
        for name in seen.chains.keys() {
            line(&mut text, format_args!("delete chain inet {TABLE} {name}"));
        }
        chains(&mut text);
    }
    for port in [ports.ro, ports.rw] {
        if !seen.gated.contains(&port) {
            line(&mut text, format_args!("add element inet {TABLE} gated {{ {port} }}"));
        }
        match seen.target.get(&port) {
            Some(target) if *target == ports.redis => {}
            other => {
                if other.is_some() {
                    line(&mut text, format_args!("delete element inet {TABLE} target {{ {port} }}"));
                }
                line(&mut text, format_args!("add element inet {TABLE} target {{ {port} : {} }}", ports.redis));
            }
        }
        if seen.open.get(&port) == Some(&None) {
            text.push_str(&close(port));
        }
    }
    text
}

/// The text of a whole table for `gates` (port and the port behind it), all closed.
fn create(gates: &BTreeMap<u16, u16>) -> String {
    let mut text = String::new();
    line(&mut text, format_args!("add table inet {TABLE} {{ comment \"{COMMENT}\"; }}"));
    line(&mut text, format_args!("add set inet {TABLE} gated {{ type inet_service; }}"));
    line(&mut text, format_args!("add map inet {TABLE} target {{ type inet_service : inet_service; }}"));
    let default = OPEN_DEFAULT.as_millis();
    line(
        &mut text,
        format_args!("add set inet {TABLE} open {{ type inet_service; flags timeout; timeout {default}ms; }}"),
    );
    chains(&mut text);
    let gated: Vec<_> = gates.keys().map(u16::to_string).collect();
    line(&mut text, format_args!("add element inet {TABLE} gated {{ {} }}", gated.join(", ")));
    let target: Vec<_> = gates.iter().map(|(port, redis)| format!("{port} : {redis}")).collect();
    line(&mut text, format_args!("add element inet {TABLE} target {{ {} }}", target.join(", ")));
    text
}

fn chains(text: &mut String) {
    for chain in CHAINS {
        let ChainPlan { name, kind, hook_name, priority, .. } = chain;
        line(
            text,
            format_args!(
                "add chain inet {TABLE} {name} {{ type {kind} hook {hook_name} priority {priority}; policy accept; }}"
            ),
        );
        line(text, format_args!("add rule inet {TABLE} {name} {}", chain.rule()));
    }
}

/// The text that opens and closes as wanted.
pub fn change(ports: Ports, want: Desired) -> String {
    [(ports.ro, want.ro), (ports.rw, want.rw)]
        .into_iter()
        .map(|(port, want)| match want {
            Want::Open(duration) => open(port, duration),
            Want::Close => close(port),
            Want::Keep => String::new(),
        })
        .collect()
}

/// Opens `port`, or gives a live element a new timeout. Adding alone leaves a live element's timeout as it is on some
/// kernels, and a deletion alone fails where there is none; in one transaction no packet sees the steps.
fn open(port: u16, duration: Duration) -> String {
    let add = format!("add element inet {TABLE} open {{ {port} timeout {}ms }}\n", duration.as_millis());
    format!("{add}delete element inet {TABLE} open {{ {port} }}\n{add}")
}

/// Closes `port`, open or not: what is added here for the deletion to succeed is never seen by a packet.
fn close(port: u16) -> String {
    format!("add element inet {TABLE} open {{ {port} timeout 1s }}\ndelete element inet {TABLE} open {{ {port} }}\n")
}

/// The text that takes the entries of `ports` away, and the table with the last gate.
pub fn remove(seen: &Seen, ports: Ports) -> String {
    let ours = [ports.ro, ports.rw];
    let mut others = seen.target.clone();
    others.retain(|port, _| !ours.contains(port));
    if others.is_empty() || seen.sets_differ().is_some() {
        let anew = if others.is_empty() { String::new() } else { create(&others) };
        return format!("delete table inet {TABLE}\n{anew}");
    }
    let mut text = String::new();
    for port in ours {
        text.push_str(&close(port));
        if seen.gated.contains(&port) {
            line(&mut text, format_args!("delete element inet {TABLE} gated {{ {port} }}"));
        }
        if seen.target.contains_key(&port) {
            line(&mut text, format_args!("delete element inet {TABLE} target {{ {port} }}"));
        }
    }
    text
}

fn line(text: &mut String, arguments: std::fmt::Arguments) {
    // Writing to a String cannot fail.
    let _infallible = writeln!(text, "{arguments}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::nft::seen::Chain;

    const PORTS: Ports = Ports { ro: 6380, rw: 6381, redis: 6379 };

    /// What the kernel shows of an intact table with the entries of `gates`.
    fn intact(gates: &[Ports]) -> Seen {
        let mut seen = Seen { comment: Some(COMMENT.to_owned()), ..Seen::default() };
        for chain in CHAINS {
            let found = Chain {
                kind: chain.kind.to_owned(),
                hook: Some((chain.hook, chain.priority)),
                policy: 1,
                rules: vec![chain.canonical().to_owned()],
            };
            seen.chains.insert(chain.name.to_owned(), found);
        }
        seen.sets = SETS.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect();
        seen.holds = (CHAINS.len() + SETS.len()) as u32;
        for gate in gates {
            seen.gated.extend([gate.ro, gate.rw]);
            seen.target.extend([(gate.ro, gate.redis), (gate.rw, gate.redis)]);
        }
        seen
    }

    #[test]
    fn a_missing_table_is_made_closed() {
        assert_eq!(baseline(None, PORTS, false), include_str!("golden/create.nft"));
    }

    #[test]
    fn an_intact_table_needs_nothing() {
        assert_eq!(baseline(Some(&intact(&[PORTS])), PORTS, false), "");
        assert_eq!(baseline(Some(&intact(&[PORTS])), PORTS, true), "");
    }

    #[test]
    fn another_gate_adds_only_its_entries() {
        let text = baseline(Some(&intact(&[PORTS])), Ports { ro: 7380, rw: 7381, redis: 7379 }, false);
        assert_eq!(
            text,
            "add element inet rolegate gated { 7380 }\nadd element inet rolegate target { 7380 : 7379 }\n\
             add element inet rolegate gated { 7381 }\nadd element inet rolegate target { 7381 : 7379 }\n"
        );
    }

    #[test]
    fn wrong_rules_are_replaced_and_the_sets_stay() {
        let mut seen = intact(&[PORTS]);
        seen.chains.get_mut("guard_in").unwrap().rules.clear();
        let text = baseline(Some(&seen), PORTS, false);
        assert_eq!(text, include_str!("golden/repair.nft"));
        assert!(baseline(Some(&seen), PORTS, true).starts_with("delete table inet rolegate\nadd table "));
    }

    #[test]
    fn wrong_sets_close_everything_and_keep_all_gates() {
        let other = Ports { ro: 7380, rw: 7381, redis: 7379 };
        let mut seen = intact(&[PORTS, other]);
        seen.sets.get_mut("open").unwrap().flags = 0;
        seen.open.insert(7381, None);
        let text = baseline(Some(&seen), PORTS, false);
        assert!(text.starts_with("delete table inet rolegate\nadd table "), "{text}");
        assert!(text.contains("target { 6380 : 6379, 6381 : 6379, 7380 : 7379, 7381 : 7379 }"), "{text}");
        assert!(!text.contains("add element inet rolegate open"), "{text}");
    }

    #[test]
    fn a_wrong_target_is_replaced_and_an_endless_element_is_closed() {
        let mut seen = intact(&[PORTS]);
        seen.target.insert(6381, 22);
        seen.open.insert(6380, None);
        assert_eq!(
            baseline(Some(&seen), PORTS, false),
            "add element inet rolegate open { 6380 timeout 1s }\ndelete element inet rolegate open { 6380 }\n\
             delete element inet rolegate target { 6381 }\nadd element inet rolegate target { 6381 : 6379 }\n"
        );
    }

    #[test]
    fn a_change_touches_only_the_ports_that_are_not_kept() {
        let want = Desired { ro: Want::Keep, rw: Want::Open(Duration::from_millis(1500)) };
        assert_eq!(
            change(PORTS, want),
            "add element inet rolegate open { 6381 timeout 1500ms }\ndelete element inet rolegate open { 6381 }\n\
             add element inet rolegate open { 6381 timeout 1500ms }\n"
        );
        let want = Desired { ro: Want::Close, rw: Want::Keep };
        assert_eq!(
            change(PORTS, want),
            "add element inet rolegate open { 6380 timeout 1s }\ndelete element inet rolegate open { 6380 }\n"
        );
    }

    #[test]
    fn the_last_gate_takes_the_table_with_it() {
        let other = Ports { ro: 7380, rw: 7381, redis: 7379 };
        assert_eq!(remove(&intact(&[PORTS]), PORTS), "delete table inet rolegate\n");
        let text = remove(&intact(&[PORTS, other]), PORTS);
        assert!(!text.contains("table") && !text.contains("7381"), "{text}");
        assert!(text.contains("delete element inet rolegate gated { 6381 }"), "{text}");
    }
}
