//! What our table is, and how to make, repair and change it. Pure: a plan from what was seen and what is wanted.
//!
//! One `table inet rolegate` serves all gates of the node:
//!
//! - `open` is the only place where "open" lives. Its elements always have a timeout; what follows from a port is in the
//!   rules.
//! - `arm-PORT-ID` ([`Arms`]) is there while somebody may hold leases on a port (see [`super::lease`]). No rule reads it.
//! - `redirect_*`: the redirect *is* the gate. Nothing listens on the gate's ports, so without it a client is refused.
//! - `guard_*`, `replies`: NAT outlives the element that let a connection in. So what is for, or comes back through, a port
//!   of ours that is not open ends here: before conntrack, where a packet to us still has the port, and behind source NAT,
//!   where an answer has it again. The RST that `guard_*` or the kernel sends for us is an answer too, and must get out.
//!   Packets to and from other hosts have no local address on that side and pass.
//!
//! One lookup per packet decides for all but the packets of our own ports.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::time::Duration;

use super::seen::{Seen, SetKind};
use crate::gate::{Desired, Port, Ports, Want};

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

/// What each [`Arms`] is made for: keys are packet marks, a type of four bytes that nft can print. What somebody adds to one
/// by hand runs out, too.
pub const ARMS: SetKind = SetKind { flags: 0x10, key: 4, data: 0, timeout: 1000 };

/// The set of arms of one holder of leases on one port. Each holder has one of its own, which is never made again: it goes when
/// the port is closed, and with it all that its holder can open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arms {
    /// The port.
    pub port: u16,
    /// What no other holder has had.
    pub id: u64,
}

impl Arms {
    /// The set whose name is `name`, if it is one of ours.
    pub fn parse(name: &str) -> Option<Self> {
        let (port, id) = name.strip_prefix("arm-")?.split_once('-')?;
        let arms = Arms { port: port.parse().ok()?, id: u64::from_str_radix(id, 16).ok()? };
        (arms.to_string() == name).then_some(arms)
    }
}

impl fmt::Display for Arms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "arm-{}-{:016x}", self.port, self.id)
    }
}

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

/// What one transaction is to do: structure as nft's text, and elements, which need no nft.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Text that makes or repairs the table, its sets and chains. Empty where they are right.
    pub structure: String,
    /// What is done to elements, in this order, behind the structure.
    pub elements: Vec<Element>,
}

/// How a live element gets a new time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// By adding it again. Kernels since 6.12 take the new time; older ones silently keep the old one.
    Add,
    /// By replacing it. Works everywhere, but a deletion makes the closing of any netlink socket wait until the kernel has
    /// freed the old element: 10 to 20 ms that a monitor need not spend.
    Replace,
}

/// What is done to one element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// `port` is one of ours.
    AddGated(u16),
    /// It is not any more.
    DeleteGated(u16),
    /// The first port leads to the second.
    AddTarget(u16, u16),
    /// The port leads nowhere any more.
    DeleteTarget(u16),
    /// The port is open for this long, if it was not open.
    AddOpen(u16, Duration),
    /// The port is closed; there must be an element.
    DeleteOpen(u16),
    /// The set goes with all arms in it; it must be there.
    DeleteArms(Arms),
}

impl Plan {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.structure.is_empty() && self.elements.is_empty()
    }

    /// All of it as nft's text.
    pub fn text(&self) -> String {
        let mut text = self.structure.clone();
        for element in &self.elements {
            element.write(&mut text);
        }
        text
    }
}

impl Element {
    fn write(self, text: &mut String) {
        let (action, set, element) = match self {
            Element::AddGated(port) => ("add", "gated", format!("{port}")),
            Element::DeleteGated(port) => ("delete", "gated", format!("{port}")),
            Element::AddTarget(port, redis) => ("add", "target", format!("{port} : {redis}")),
            Element::DeleteTarget(port) => ("delete", "target", format!("{port}")),
            Element::AddOpen(port, time) => {
                let time = time.as_millis();
                // With the timeout alone, a live element that has the same timeout already is left as it is.
                ("add", "open", format!("{port} timeout {time}ms expires {time}ms"))
            }
            Element::DeleteOpen(port) => ("delete", "open", format!("{port}")),
            Element::DeleteArms(arms) => return line(text, format_args!("delete set inet {TABLE} {arms}")),
        };
        line(text, format_args!("{action} element inet {TABLE} {set} {{ {element} }}"));
    }
}

/// The plan that makes `seen` ours, structure and the entries of `ports`, and then is what is wanted.
///
/// What is open stays open, unless the sets themselves are wrong, or with `anew`: then the table is made anew and all is
/// closed first, for elements that are put back could outlive their time.
///
/// `renewal` says how a live element gets a new time.
pub fn plan(seen: Option<&Seen>, ports: Ports, want: Desired, anew: bool, renewal: Renewal) -> Plan {
    let mut plan = baseline(seen, ports, anew);
    // A table that is made anew has no arms.
    let with_arms = seen.filter(|seen| !made_anew(seen, anew));
    for port in Port::ALL {
        let (number, want) = (ports.number(port), want.of(port));
        match want {
            Want::Open(time) if renewal == Renewal::Add => plan.elements.push(Element::AddOpen(number, time)),
            Want::Open(time) => plan.elements.extend(replace(number, time)),
            Want::Close => {
                let open = seen.is_some_and(|seen| seen.open.contains_key(&number));
                plan.elements.extend(shut(open, with_arms, number));
            }
            Want::Keep => {}
        }
    }
    plan
}

/// Closes `number`, where it is open or has arms: with an arm it may have been opened since.
fn shut(open: bool, with_arms: Option<&Seen>, number: u16) -> Vec<Element> {
    let arms: Vec<Element> = with_arms.into_iter().flat_map(|seen| withdraw(seen, number)).collect();
    let closes = open || !arms.is_empty();
    closes.then(|| close(number)).into_iter().flatten().chain(arms).collect()
}

/// What closes `port` in a table that was seen, and leaves everything else as it is.
pub fn shutting(seen: &Seen, port: u16) -> Vec<Element> {
    shut(seen.open.contains_key(&port), Some(seen), port)
}

/// Whether the table as it was seen cannot be repaired piece by piece, or with `anew` is not to be.
fn made_anew(seen: &Seen, anew: bool) -> bool {
    seen.flags != 0 || seen.sets_differ().is_some() || (anew && seen.structure_differs().is_some())
}

/// Takes all arms of `port` from whoever holds them.
pub fn withdraw(seen: &Seen, port: u16) -> impl Iterator<Item = Element> {
    seen.arms().filter(move |arms| arms.port == port).map(Element::DeleteArms)
}

fn baseline(seen: Option<&Seen>, ports: Ports, anew: bool) -> Plan {
    let own = [(ports.ro, ports.redis), (ports.rw, ports.redis)];
    let Some(seen) = seen else { return create(&BTreeMap::from(own)) };
    if made_anew(seen, anew) {
        let mut gates = seen.target.clone();
        gates.extend(own);
        return recreate(&gates);
    }
    let mut plan = Plan::default();
    if seen.structure_differs().is_some() {
        let text = &mut plan.structure;
        // All are emptied first: one may be the target of a jump from another.
        for name in seen.chains.keys() {
            line(text, format_args!("flush chain inet {TABLE} {name}"));
        }
        for name in seen.chains.keys() {
            line(text, format_args!("delete chain inet {TABLE} {name}"));
        }
        chains(text);
    }
    for (port, redis) in own {
        if !seen.gated.contains(&port) {
            plan.elements.push(Element::AddGated(port));
        }
        match seen.target.get(&port) {
            Some(target) if *target == redis => {}
            other => {
                // An element keeps its data when it is added again.
                plan.elements.extend(other.map(|_| Element::DeleteTarget(port)));
                plan.elements.push(Element::AddTarget(port, redis));
            }
        }
        if seen.open.get(&port) == Some(&None) {
            plan.elements.extend(close(port));
        }
    }
    plan
}

/// A whole table for `gates` (port and the port behind it), all closed.
fn create(gates: &BTreeMap<u16, u16>) -> Plan {
    let mut plan = Plan::default();
    let text = &mut plan.structure;
    line(text, format_args!("add table inet {TABLE} {{ comment \"{COMMENT}\"; }}"));
    line(text, format_args!("add set inet {TABLE} gated {{ type inet_service; }}"));
    line(text, format_args!("add map inet {TABLE} target {{ type inet_service : inet_service; }}"));
    let default = OPEN_DEFAULT.as_millis();
    let kind = format!("type inet_service; flags timeout; timeout {default}ms;");
    line(text, format_args!("add set inet {TABLE} open {{ {kind} }}"));
    chains(text);
    for (port, redis) in gates {
        plan.elements.extend([Element::AddGated(*port), Element::AddTarget(*port, *redis)]);
    }
    plan
}

/// The same in the place of one that is there.
fn recreate(gates: &BTreeMap<u16, u16>) -> Plan {
    let mut plan = create(gates);
    plan.structure.insert_str(0, &format!("delete table inet {TABLE}\n"));
    plan
}

fn chains(text: &mut String) {
    for chain in CHAINS {
        let ChainPlan { name, kind, hook_name, priority, .. } = chain;
        let hook = format!("type {kind} hook {hook_name} priority {priority}; policy accept;");
        line(text, format_args!("add chain inet {TABLE} {name} {{ {hook} }}"));
        line(text, format_args!("add rule inet {TABLE} {name} {}", chain.rule()));
    }
}

/// Opens `port`, or gives a live element a new time on any kernel: a deletion alone fails where there is no element. In
/// one transaction no packet sees the steps.
fn replace(port: u16, time: Duration) -> [Element; 3] {
    [Element::AddOpen(port, time), Element::DeleteOpen(port), Element::AddOpen(port, time)]
}

/// Closes `port`, open or not: what is added here for the deletion to succeed is never seen by a packet.
fn close(port: u16) -> [Element; 2] {
    [Element::AddOpen(port, Duration::from_secs(1)), Element::DeleteOpen(port)]
}

/// The plan that takes the entries of `ports` away; None where the whole table is to go, because no other gate uses it.
pub fn remove(seen: &Seen, ports: Ports) -> Option<Plan> {
    let ours = [ports.ro, ports.rw];
    let mut others = seen.target.clone();
    others.retain(|port, _| !ours.contains(port));
    if others.is_empty() {
        return None;
    }
    if seen.sets_differ().is_some() {
        return Some(recreate(&others));
    }
    let mut plan = Plan::default();
    for port in ours {
        plan.elements.extend(close(port));
        plan.elements.extend(withdraw(seen, port));
        plan.elements.extend(seen.gated.contains(&port).then_some(Element::DeleteGated(port)));
        plan.elements.extend(seen.target.contains_key(&port).then_some(Element::DeleteTarget(port)));
    }
    Some(plan)
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
    const OTHER: Ports = Ports { ro: 7380, rw: 7381, redis: 7379 };

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

    /// The text of the baseline alone.
    fn text(seen: Option<&Seen>, ports: Ports, anew: bool) -> String {
        plan(seen, ports, Desired::KEEP, anew, Renewal::Add).text()
    }

    #[test]
    fn a_missing_table_is_made_closed() {
        assert_eq!(text(None, PORTS, false), include_str!("golden/create.nft"));
        assert_eq!(plan(None, PORTS, Desired::CLOSED, false, Renewal::Add).text(), include_str!("golden/create.nft"));
    }

    #[test]
    fn an_intact_table_needs_nothing() {
        for want in [Desired::KEEP, Desired::CLOSED] {
            assert!(plan(Some(&intact(&[PORTS])), PORTS, want, false, Renewal::Add).is_empty());
            assert!(plan(Some(&intact(&[PORTS])), PORTS, want, true, Renewal::Add).is_empty());
        }
    }

    #[test]
    fn another_gate_adds_only_its_entries() {
        let plan = plan(Some(&intact(&[PORTS])), OTHER, Desired::KEEP, false, Renewal::Add);
        assert_eq!(plan.structure, "");
        assert_eq!(
            plan.text(),
            "add element inet rolegate gated { 7380 }\nadd element inet rolegate target { 7380 : 7379 }\n\
             add element inet rolegate gated { 7381 }\nadd element inet rolegate target { 7381 : 7379 }\n"
        );
    }

    #[test]
    fn wrong_rules_are_replaced_and_the_sets_stay() {
        let mut seen = intact(&[PORTS]);
        seen.chains.get_mut("guard_in").unwrap().rules.clear();
        assert_eq!(text(Some(&seen), PORTS, false), include_str!("golden/repair.nft"));
        assert!(text(Some(&seen), PORTS, true).starts_with("delete table inet rolegate\nadd table "));
    }

    #[test]
    fn wrong_sets_close_everything_and_keep_all_gates() {
        let mut seen = intact(&[PORTS, OTHER]);
        seen.sets.get_mut("open").unwrap().flags = 0;
        seen.open.insert(7381, None);
        let text = text(Some(&seen), PORTS, false);
        assert!(text.starts_with("delete table inet rolegate\nadd table "), "{text}");
        assert!(text.contains("target { 7381 : 7379 }"), "{text}");
        assert!(!text.contains("add element inet rolegate open"), "{text}");
    }

    #[test]
    fn a_wrong_target_is_replaced_and_an_endless_element_is_closed() {
        let mut seen = intact(&[PORTS]);
        seen.target.insert(6381, 22);
        seen.open.insert(6380, None);
        assert_eq!(
            text(Some(&seen), PORTS, false),
            "add element inet rolegate open { 6380 timeout 1000ms expires 1000ms }\ndelete element inet rolegate open { 6380 }\n\
             delete element inet rolegate target { 6381 }\nadd element inet rolegate target { 6381 : 6379 }\n"
        );
    }

    #[test]
    fn a_change_touches_only_the_ports_that_are_not_kept() {
        let mut seen = intact(&[PORTS]);
        seen.open = BTreeMap::from([(6380, Some(Duration::from_secs(5))), (6381, Some(Duration::from_secs(5)))]);
        let want = Desired { ro: Want::Keep, rw: Want::Open(Duration::from_millis(1500)) };
        assert_eq!(
            plan(Some(&seen), PORTS, want, false, Renewal::Replace).text(),
            "add element inet rolegate open { 6381 timeout 1500ms expires 1500ms }\ndelete element inet rolegate open { 6381 }\n\
             add element inet rolegate open { 6381 timeout 1500ms expires 1500ms }\n"
        );
        assert_eq!(
            plan(Some(&seen), PORTS, want, false, Renewal::Add).text(),
            "add element inet rolegate open { 6381 timeout 1500ms expires 1500ms }\n"
        );
        let want = Desired { ro: Want::Close, rw: Want::Keep };
        assert_eq!(
            plan(Some(&seen), PORTS, want, false, Renewal::Replace).text(),
            "add element inet rolegate open { 6380 timeout 1000ms expires 1000ms }\ndelete element inet rolegate open { 6380 }\n"
        );
    }

    /// `seen` with a set of arms of `port`.
    fn armed(mut seen: Seen, port: u16, id: u64) -> Seen {
        seen.sets.insert(Arms { port, id }.to_string(), ARMS);
        seen.holds += 1;
        seen
    }

    #[test]
    fn arms_are_ours_only_by_their_exact_name_and_kind() {
        let seen = armed(intact(&[PORTS]), 6381, 0xab);
        assert_eq!(seen.structure_differs(), None);
        assert!(plan(Some(&seen), PORTS, Desired::KEEP, false, Renewal::Add).is_empty());
        assert_eq!(Arms::parse("arm-6381-00000000000000ab"), Some(Arms { port: 6381, id: 0xab }));
        for name in [
            "arm-6381-ab",
            "arm-6381-00000000000000AB",
            "arm-06381-00000000000000ab",
            "arm-6381",
            "arm-99999-1",
            "open",
        ] {
            assert_eq!(Arms::parse(name), None, "{name}");
        }
        let mut other = intact(&[PORTS]);
        other.sets.insert("arm-6381-ab".to_owned(), ARMS);
        other.holds += 1;
        assert!(other.sets_differ().is_some_and(|difference| difference.contains("is not ours")));
        let mut endless = seen;
        endless.sets.values_mut().for_each(|kind| kind.timeout = if kind.key == 4 { 0 } else { kind.timeout });
        assert!(endless.sets_differ().is_some_and(|difference| difference.contains("was made as")));
    }

    #[test]
    fn closing_takes_the_arms_of_this_port_alone() {
        let seen = armed(armed(armed(intact(&[PORTS, OTHER]), 6381, 1), 6381, 2), 7381, 3);
        let text = |want| plan(Some(&seen), PORTS, want, false, Renewal::Add).text();
        // The port may have been opened with one of them since it was seen closed.
        let gone = "delete element inet rolegate open { 6381 }\ndelete set inet rolegate arm-6381-0000000000000001\n\
                    delete set inet rolegate arm-6381-0000000000000002\n";
        let closed = format!("add element inet rolegate open {{ 6381 timeout 1000ms expires 1000ms }}\n{gone}");
        assert_eq!(text(Desired::CLOSED), closed);
        assert_eq!(text(Desired { ro: Want::Close, rw: Want::Keep }), "");
        let removed = remove(&seen, PORTS).unwrap().text();
        assert!(removed.contains(gone) && !removed.contains("arm-7381"), "{removed}");
        // A table that is made anew has none, so none can be deleted.
        let mut broken = seen.clone();
        broken.flags = 1;
        assert!(!plan(Some(&broken), PORTS, Desired::CLOSED, false, Renewal::Add).text().contains("arm-"));
    }

    #[test]
    fn the_last_gate_takes_the_table_with_it() {
        assert_eq!(remove(&intact(&[PORTS]), PORTS), None);
        let text = remove(&intact(&[PORTS, OTHER]), PORTS).unwrap().text();
        assert!(!text.contains("table") && !text.contains("7381"), "{text}");
        assert!(text.contains("delete element inet rolegate gated { 6381 }"), "{text}");
    }
}
