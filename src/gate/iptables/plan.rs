//! What our chains and sets are, and the text that makes and repairs them. Pure: text from what was seen and what is wanted.
//!
//! One set `rolegate-PORT` for each port of a gate is the only place where "open" lives: open, it holds the port and the
//! Redis port behind it, both with a timeout. It is filled aside and swapped in, so that all rules see the change at once; that
//! is how leases work, too, with a set `rolegate-PORT-ID` (see [`super::lease`]). The rules, in chains of our own, the same for
//! IPv4 and IPv6:
//!
//! - nat: the redirect *is* the gate.
//! - raw: what is for a port that is not open is not tracked. So it is not translated either, even if it belongs to an
//!   established connection, and ends at a port on which nothing listens.
//! - filter, input: it is reset, before a host firewall can drop it silently.
//! - filter, output: answers of a connection that came through a port which is not open any more are dropped. Conntrack knows
//!   the port; the packet still has that of Redis, which is why the set holds that one, too.
//!
//! Two sets keep all other traffic out of our chains with one lookup: `rolegate-gated` and `rolegate-redis`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::ipset::{Change, KIND, Set};
use super::seen::Saved;
use crate::gate::Ports;

/// What the names of all our sets begin with.
pub const PREFIX: &str = "rolegate-";
/// The set of all ports of all gates.
const GATED: &str = "rolegate-gated";
/// The set of all Redis ports of all gates.
const REDIS: &str = "rolegate-redis";
/// The timeout in seconds of a port that somebody put into an open set by hand: it opens nothing for long either.
const OPEN_DEFAULT: u32 = 20;

/// Each gate port of the node and the Redis port behind it.
pub type Gates = BTreeMap<u16, u16>;

/// A chain of ours, or one of iptables' own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// raw, nat or filter.
    pub table: &'static str,
    /// The chain's name.
    pub chain: &'static str,
}

const fn place(table: &'static str, chain: &'static str) -> Place {
    Place { table, chain }
}

const RAW: Place = place("raw", "ROLEGATE");
const NAT: Place = place("nat", "ROLEGATE");
const IN: Place = place("filter", "ROLEGATE-IN");
const OUT: Place = place("filter", "ROLEGATE-OUT");

/// Our chains. Guards first: a port must not be redirected before it can be cut.
pub const CHAINS: [Place; 4] = [RAW, IN, OUT, NAT];

const TO_GATE: &str = "-p tcp -m set --match-set rolegate-gated dst -m addrtype --dst-type LOCAL";
/// Of a translated connection's answers all but resets, which are ours.
const FROM_GATE: &str = "-p tcp -m set --match-set rolegate-redis src -m conntrack --ctstate DNAT --ctdir REPLY -m tcp ! --tcp-flags RST RST";

/// From which chains of iptables' own which of ours is reached, and for what.
pub const JUMPS: [(Place, Place, &str); 6] = [
    (place("raw", "PREROUTING"), RAW, TO_GATE),
    (place("raw", "OUTPUT"), RAW, TO_GATE),
    (place("filter", "INPUT"), IN, TO_GATE),
    (place("filter", "OUTPUT"), OUT, FROM_GATE),
    (place("nat", "PREROUTING"), NAT, TO_GATE),
    (place("nat", "OUTPUT"), NAT, TO_GATE),
];

/// A jump as iptables-save shows it behind `-A CHAIN`.
pub fn jump(to: Place, matching: &str) -> String {
    format!("{matching} -j {}", to.chain)
}

/// The rules of `chain` for `gates`, as iptables-save shows them behind `-A CHAIN`.
pub fn rules(chain: Place, gates: &Gates) -> Vec<String> {
    gates.iter().map(|(port, redis)| rule(chain, *port, *redis)).collect()
}

fn rule(chain: Place, port: u16, redis: u16) -> String {
    let set = open_set(port);
    let to_port = format!("-p tcp -m tcp --dport {port} -m set");
    match chain {
        NAT => format!("{to_port} --match-set {set} dst -j REDIRECT --to-ports {redis}"),
        RAW => format!("{to_port} ! --match-set {set} dst -j CT --notrack"),
        IN => format!("{to_port} ! --match-set {set} dst -j REJECT --reject-with tcp-reset"),
        _ => format!(
            "-p tcp -m tcp --sport {redis} -m conntrack --ctorigdstport {port} -m set ! --match-set {set} src -j DROP"
        ),
    }
}

/// The set that says whether `port` is open.
pub fn open_set(port: u16) -> String {
    format!("{PREFIX}{port}")
}

/// The set that the holder `id` of leases arms to swap it in for `port`: as long as the kernel lets a name be. No rule reads it.
pub fn armed_set(port: u16, id: u64) -> String {
    format!("{PREFIX}{port}-{id:016x}")
}

/// The sets in which somebody can arm `port`.
pub fn armed_sets(found: &BTreeMap<String, Set>, port: u16) -> impl Iterator<Item = &str> {
    let id = move |name: &str| {
        let (of, id) = name.strip_prefix(PREFIX)?.split_once('-')?;
        Some((of.parse().ok()?, u64::from_str_radix(id, 16).ok()?))
    };
    let ours = move |name: &str| id(name).is_some_and(|(of, id): (u16, u64)| of == port && armed_set(of, id) == name);
    let sets = found.iter().filter(|(_, set)| set.kind == KIND).map(|(name, _)| name.as_str());
    sets.filter(move |name| ours(name))
}

/// The change that makes a set like that which says whether `port` is open.
pub fn create(name: &str, port: u16, redis: u16) -> Change {
    Change::Create { name: name.to_owned(), range: range(port, redis), timeout: Some(OPEN_DEFAULT) }
}

fn range(port: u16, redis: u16) -> (u16, u16) {
    (port.min(redis), port.max(redis))
}

/// Each set that `gates` need, as it is to be made, with the ports that are always in it.
fn sets(gates: &Gates) -> BTreeMap<String, (Set, BTreeSet<u16>)> {
    let set = |range, timeout| Set { kind: KIND.to_owned(), range, timeout, ports: BTreeMap::new() };
    let mut sets = BTreeMap::from([
        (GATED.to_owned(), (set((0, u16::MAX), None), gates.keys().copied().collect())),
        (REDIS.to_owned(), (set((0, u16::MAX), None), gates.values().copied().collect())),
    ]);
    for (port, redis) in gates {
        let open = (set(range(*port, *redis), Some(OPEN_DEFAULT)), BTreeSet::new());
        sets.insert(open_set(*port), open);
    }
    sets
}

/// The sets that a gate on `ports` needs, as they are to be made, with what is always in them.
pub fn sets_of(ports: Ports) -> BTreeMap<String, (Set, BTreeSet<u16>)> {
    sets(&with(Gates::new(), ports))
}

/// The gates whose sets are there. The ends of an open set's range are its port and the Redis port.
pub fn gates(sets: &BTreeMap<String, Set>) -> Gates {
    let mut gates = Gates::new();
    for (name, set) in sets {
        let (low, high) = set.range;
        match name.strip_prefix(PREFIX).and_then(|port| port.parse().ok()) {
            Some(port) if port == low && set.kind == KIND => gates.insert(port, high),
            Some(port) if port == high && set.kind == KIND => gates.insert(port, low),
            _ => None,
        };
    }
    gates
}

/// `gates` with those of `ports`.
pub fn with(mut gates: Gates, ports: Ports) -> Gates {
    gates.extend([(ports.ro, ports.redis), (ports.rw, ports.redis)]);
    gates
}

/// `gates` without those of `ports`.
pub fn without(mut gates: Gates, ports: Ports) -> Gates {
    gates.retain(|port, _| ![ports.ro, ports.rw].contains(port));
    gates
}

/// A set of a name of ours that is no set of ports, so not ours.
pub fn foreign_set(found: &BTreeMap<String, Set>, ports: Ports) -> Option<String> {
    sets_of(ports).keys().find_map(|name| {
        let kind = &found.get(name)?.kind;
        (kind != KIND).then(|| format!("ipset {name} is not rolegate's: it is a {kind}; rename or destroy it"))
    })
}

/// How the sets of `ports` differ from what they should be, in one line.
pub fn sets_differ(found: &BTreeMap<String, Set>, ports: Ports) -> Option<String> {
    for (name, (wanted, members)) in sets_of(ports) {
        let Some(set) = found.get(&name) else { return Some(format!("ipset {name} is missing")) };
        if (&set.kind, set.range, set.timeout) != (&wanted.kind, wanted.range, wanted.timeout) {
            return Some(format!(
                "ipset {name} was made with range {:?} and timeout {:?}, should be {:?} and {:?}",
                set.range, set.timeout, wanted.range, wanted.timeout
            ));
        }
        if let Some(port) = members.iter().find(|port| !set.ports.contains_key(port)) {
            return Some(format!("ipset {name} lacks port {port}"));
        }
        if wanted.timeout.is_some() && set.ports.values().any(|left| matches!(left, None | Some(0))) {
            return Some(format!("ipset {name} holds a port without end"));
        }
    }
    None
}

/// The changes that make the sets of `gates` right. A set that has to be made anew is empty then: closed. `spare` is the
/// name of a set to make it in, which no other caller uses.
pub fn repair_sets(found: &BTreeMap<String, Set>, gates: &Gates, spare: &str) -> Vec<Change> {
    let mut changes = Vec::new();
    for (name, (wanted, members)) in sets(gates) {
        let create =
            |name: &str| Change::Create { name: name.to_owned(), range: wanted.range, timeout: wanted.timeout };
        let mut there = &BTreeMap::new();
        match found.get(&name) {
            None => changes.push(create(&name)),
            Some(set) if (set.range, set.timeout) != (wanted.range, wanted.timeout) => {
                changes.extend([create(spare), Change::Swap(spare.to_owned(), name.clone())]);
                changes.push(Change::Destroy(spare.to_owned()));
            }
            Some(set) if wanted.timeout.is_some() => {
                for (port, left) in &set.ports {
                    if matches!(left, None | Some(0)) {
                        changes.push(Change::Delete(name.clone(), *port));
                    }
                }
            }
            Some(set) => there = &set.ports,
        }
        for port in members.iter().filter(|port| !there.contains_key(port)) {
            changes.push(Change::Add(name.clone(), *port, None));
        }
    }
    changes
}

/// The changes that open `port` to `redis` for `seconds`. That of Redis goes in first, so that answers end no
/// later than requests.
pub fn open(port: u16, redis: u16, seconds: u32, spare: &str) -> Vec<Change> {
    let mut changes = vec![create(spare, port, redis)];
    changes.extend(fill(spare, port, redis, seconds));
    changes.extend([Change::Swap(spare.to_owned(), open_set(port)), Change::Destroy(spare.to_owned())]);
    changes
}

/// The changes that put `port` and `redis` into the set `name`, in that order for the reason given at [`open`].
pub fn fill(name: &str, port: u16, redis: u16, seconds: u32) -> [Change; 2] {
    [redis, port].map(|port| Change::Add(name.to_owned(), port, Some(seconds)))
}

/// How the rules of one family differ from what they should be for `ports`, in one line, where the node has `gates`.
/// Rules of other gates may be there or not: they come and go with their own sets.
pub fn rules_differ(saved: &Saved, gates: &Gates, ports: Ports) -> Option<String> {
    let own = with(Gates::new(), ports);
    for (from, to, matching) in JUMPS {
        let wanted = jump(to, matching);
        match &saved.jumps(from)[..] {
            [found] if *found == wanted => {}
            [] => return Some(format!("table {}: chain {} has no jump to {}", from.table, from.chain, to.chain)),
            found => {
                let (table, chain) = (from.table, from.chain);
                return Some(format!("table {table}: chain {chain} has {found:?}, should be one `{wanted}`"));
            }
        }
    }
    for chain in CHAINS {
        let Place { table, chain: name } = chain;
        let Some(found) = saved.chain(chain) else { return Some(format!("table {table}: chain {name} is missing")) };
        let (own, all) = (rules(chain, &own), rules(chain, gates));
        if let Some(missing) = own.iter().find(|rule| !found.contains(rule)) {
            return Some(format!("table {table}: chain {name} lacks `{missing}`"));
        }
        if let Some(extra) = found.iter().find(|rule| !all.contains(rule) && !own.contains(rule)) {
            return Some(format!("table {table}: chain {name} has `{extra}`, which is not ours"));
        }
        if found.iter().collect::<BTreeSet<_>>().len() != found.len() {
            return Some(format!("table {table}: chain {name} has a rule twice"));
        }
    }
    None
}

/// The text for iptables-restore that makes the rules of one family right for `gates`; without any, it takes jumps and
/// chains away. Empty where nothing is to be done.
pub fn restore(saved: &Saved, gates: &Gates) -> String {
    let mut text = String::new();
    for table in ["raw", "filter", "nat"] {
        let mut lines = String::new();
        for (from, to, matching) in JUMPS.into_iter().filter(|(from, ..)| from.table == table) {
            let (wanted, found) = (jump(to, matching), saved.jumps(from));
            if !gates.is_empty() && found == [wanted.as_str()] {
                continue;
            }
            for rule in found {
                line(&mut lines, format_args!("-D {} {rule}", from.chain));
            }
            if !gates.is_empty() {
                line(&mut lines, format_args!("-I {} {wanted}", from.chain));
            }
        }
        if gates.is_empty() {
            // Somebody's own jumps would keep our chains from going.
            for (chain, rule) in saved.other_jumps(table) {
                line(&mut lines, format_args!("-D {chain} {rule}"));
            }
        }
        let mut chains = String::new();
        for chain in CHAINS.into_iter().filter(|chain| chain.table == table) {
            let Place { chain: name, .. } = chain;
            let rules = rules(chain, gates);
            match saved.chain(chain) {
                Some(found) if !gates.is_empty() && *found == rules => continue,
                None if gates.is_empty() => continue,
                _ => {}
            }
            // Naming it makes it where it is missing and empties it where it is not.
            line(&mut chains, format_args!(":{name} - [0:0]"));
            for rule in rules {
                line(&mut lines, format_args!("-A {name} {rule}"));
            }
            if gates.is_empty() {
                line(&mut lines, format_args!("-X {name}"));
            }
        }
        if !chains.is_empty() || !lines.is_empty() {
            line(&mut text, format_args!("*{table}\n{chains}{lines}COMMIT"));
        }
    }
    text
}

/// The changes that take the sets of `ports` away once no rule uses them, where `others` stay.
pub fn destroy(found: &BTreeMap<String, Set>, ports: Ports, others: &Gates) -> Vec<Change> {
    let armed = [ports.ro, ports.rw].into_iter().flat_map(|port| armed_sets(found, port));
    let mut changes: Vec<Change> = armed.map(|name| Change::Destroy(name.to_owned())).collect();
    let mut gone: Vec<String> = [ports.ro, ports.rw].map(open_set).to_vec();
    if others.is_empty() {
        gone.extend([GATED.to_owned(), REDIS.to_owned()]);
    } else {
        changes.extend([ports.ro, ports.rw].map(|port| Change::Delete(GATED.to_owned(), port)));
        if !others.values().any(|redis| *redis == ports.redis) {
            changes.push(Change::Delete(REDIS.to_owned(), ports.redis));
        }
    }
    changes.extend(gone.into_iter().filter(|name| found.contains_key(name)).map(Change::Destroy));
    changes
}

fn line(text: &mut String, arguments: std::fmt::Arguments) {
    // Writing to a String cannot fail.
    let _infallible = writeln!(text, "{arguments}");
}
