//! The record: what every proof stands on. Which Sentinels count, and where each node's Redis is.
//!
//! It lives in one place for the whole cluster, the gate resource's parameters `sentinels` and
//! `nodes` in the CIB, written by `rolegate init`. Nothing local overrides it. With the lease's length, the parameter `lease`,
//! it is a [`Basis`].
//!
//! Nodes that stand on two records may both be open only if any two majorities share a Sentinel, and each knows of the other. So it changes
//! by one [`Step`] at a time; when the next may be taken is for [`crate::stand`] to say.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// One Sentinel: its run id (`SENTINEL MYID`: it survives restarts and is what makes two answers
/// two) and where it listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SentinelEntry {
    /// 40 hexadecimal digits.
    pub id: String,
    /// Where every node reaches it.
    pub address: SocketAddr,
}

/// One cluster node and the address under which Sentinels know its Redis.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeEntry {
    /// Pacemaker's name of the node.
    pub name: String,
    /// The address that Sentinels give when they name this node.
    pub address: SocketAddr,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    sentinels: Vec<SentinelEntry>,
    nodes: Vec<NodeEntry>,
}

/// All that a proof stands on: the record, and how long a lease by it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Basis {
    /// The record.
    pub record: Record,
    /// L.
    pub lease: Duration,
}

/// One thing in which a basis differs from the one before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A Sentinel counts no more.
    SentinelRemoved(SentinelEntry),
    /// A Sentinel counts from now on.
    SentinelAdded(SentinelEntry),
    /// A Sentinel under the same run id is elsewhere.
    SentinelMoved(SentinelEntry),
    /// A node is no more.
    NodeRemoved(NodeEntry),
    /// A node is new.
    NodeAdded(NodeEntry),
    /// A node's Redis has another address.
    NodeMoved(NodeEntry),
    /// Leases have another length.
    Lease(Duration),
}

/// What a change from one basis to another is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// None.
    Nothing,
    /// One step: nodes that stand on either may meet.
    One(Step),
    /// So many steps.
    Several(usize),
}

/// Why there is no usable record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// None was ever written.
    #[error("no record of Sentinels and nodes: run `rolegate init`")]
    Missing,
    /// An entry cannot be read.
    #[error("{parameter}: {entry:?} is not {expected}")]
    Syntax {
        /// The gate's parameter.
        parameter: &'static str,
        /// The entry as written.
        entry: String,
        /// What would be right.
        expected: &'static str,
    },
    /// An address that cannot say which node or Sentinel is meant.
    #[error("{parameter}: {address} of {whose} is {kind}; it must be an address that every node reaches")]
    Address {
        /// The gate's parameter.
        parameter: &'static str,
        /// The address.
        address: SocketAddr,
        /// The node's name or the Sentinel's run id.
        whose: String,
        /// What is wrong with it.
        kind: &'static str,
    },
    /// The same name, run id or address twice.
    #[error("{parameter}: {what} stands there twice")]
    Twice {
        /// The gate's parameter.
        parameter: &'static str,
        /// The name, run id or address.
        what: String,
    },
}

const NODE: &str = "NODE=ADDRESS:PORT, for example node1=10.0.0.1:6379";
const SENTINEL: &str = "RUNID@ADDRESS:PORT, with the 40 digits of SENTINEL MYID";

/// What makes an address useless as somebody's: it means another host on each host, or none.
pub fn unusable(address: IpAddr) -> Option<&'static str> {
    // ::ffff:127.0.0.1 is 127.0.0.1 in disguise.
    match address.to_canonical() {
        ip if ip.is_loopback() => Some("a loopback address"),
        ip if ip.is_unspecified() => Some("the unspecified address"),
        ip if ip.is_multicast() => Some("a multicast address"),
        IpAddr::V4(ip) if ip.is_link_local() => Some("a link-local address"),
        IpAddr::V4(ip) if ip.is_broadcast() => Some("the broadcast address"),
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Some("a link-local address"),
        _ => None,
    }
}

impl Record {
    /// Reads the parameters `sentinels` and `nodes` (entries separated by spaces or commas).
    ///
    /// # Errors
    /// [`RecordError`], naming the parameter and the entry.
    pub fn parse(sentinels: &str, nodes: &str) -> Result<Self, RecordError> {
        let sentinels = entries(sentinels).map(sentinel).collect::<Result<Vec<_>, _>>()?;
        let nodes = entries(nodes).map(node).collect::<Result<Vec<_>, _>>()?;
        Record::new(sentinels, nodes)
    }

    /// Checks what [`Record::parse`] checks.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn new(sentinels: Vec<SentinelEntry>, nodes: Vec<NodeEntry>) -> Result<Self, RecordError> {
        if sentinels.is_empty() || nodes.is_empty() {
            return Err(RecordError::Missing);
        }
        for entry in &sentinels {
            usable("sentinels", entry.address, &entry.id)?;
        }
        for entry in &nodes {
            usable("nodes", entry.address, &entry.name)?;
        }
        once("sentinels", sentinels.iter().map(|entry| entry.id.clone()))?;
        once("sentinels", sentinels.iter().map(|entry| canonical(entry.address).to_string()))?;
        once("nodes", nodes.iter().map(|entry| entry.name.to_ascii_lowercase()))?;
        once("nodes", nodes.iter().map(|entry| canonical(entry.address).to_string()))?;
        Ok(Record { sentinels, nodes })
    }

    /// The Sentinels that count.
    pub fn sentinels(&self) -> &[SentinelEntry] {
        &self.sentinels
    }

    /// The nodes and their data addresses.
    pub fn nodes(&self) -> &[NodeEntry] {
        &self.nodes
    }

    /// How many Sentinels are a majority.
    pub fn majority(&self) -> usize {
        self.sentinels.len() / 2 + 1
    }

    /// The node of that name (Pacemaker compares names without regard to case).
    pub fn node(&self, name: &str) -> Option<&NodeEntry> {
        self.nodes.iter().find(|entry| entry.name.eq_ignore_ascii_case(name))
    }

    /// The node whose data address is `address`.
    pub fn node_at(&self, address: SocketAddr) -> Option<&NodeEntry> {
        self.nodes.iter().find(|entry| canonical(entry.address) == canonical(address))
    }

    /// Whether a Sentinel of the record is at `address`.
    pub fn has_sentinel_at(&self, address: SocketAddr) -> bool {
        self.sentinels.iter().any(|entry| canonical(entry.address) == canonical(address))
    }

    /// The value of the parameter `sentinels`.
    pub fn sentinels_parameter(&self) -> String {
        self.sentinels.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    /// The value of the parameter `nodes`.
    pub fn nodes_parameter(&self) -> String {
        self.nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }
}

impl Basis {
    /// What [`Change`] it is from here to `next`.
    pub fn change_to(&self, next: &Basis) -> Change {
        let mut steps = self.steps_to(next);
        match (steps.pop(), steps.len()) {
            (None, _) => Change::Nothing,
            (Some(step), 0) => Change::One(step),
            (Some(_), others) => Change::Several(others + 1),
        }
    }

    /// All in which `next` differs. A Sentinel with another run id, or a node with another name, is another one: removed, and added.
    fn steps_to(&self, next: &Basis) -> Vec<Step> {
        let (old, new) = (&self.record, &next.record);
        let mut steps = Vec::new();
        for entry in &old.sentinels {
            match new.sentinels.iter().find(|other| other.id == entry.id) {
                None => steps.push(Step::SentinelRemoved(entry.clone())),
                Some(other) if canonical(other.address) != canonical(entry.address) => {
                    steps.push(Step::SentinelMoved(other.clone()));
                }
                Some(_) => {}
            }
        }
        for entry in &old.nodes {
            match new.node(&entry.name) {
                None => steps.push(Step::NodeRemoved(entry.clone())),
                Some(other) if canonical(other.address) != canonical(entry.address) => {
                    steps.push(Step::NodeMoved(other.clone()));
                }
                Some(_) => {}
            }
        }
        let is_new = |entry: &&SentinelEntry| old.sentinels.iter().all(|other| other.id != entry.id);
        steps.extend(new.sentinels.iter().filter(is_new).cloned().map(Step::SentinelAdded));
        steps.extend(new.nodes.iter().filter(|entry| old.node(&entry.name).is_none()).cloned().map(Step::NodeAdded));
        if self.lease != next.lease {
            steps.push(Step::Lease(next.lease));
        }
        steps
    }

    /// The bases between here and `goal`, one step after the other, `goal` the last; nothing if it is this one. None where there is no
    /// such way: of a record that has one Sentinel or node only, which gets another at the same address.
    ///
    /// What is removed goes first, one at a time, and then something is added in its place: so an address is free before another
    /// has it, and the number of Sentinels stays about what it is.
    pub fn way_to(&self, goal: &Basis) -> Option<Vec<Basis>> {
        let (mut at, mut way) = (self.clone(), Vec::new());
        let mut removed = false;
        loop {
            let steps = at.steps_to(goal);
            let Some(count) = std::num::NonZeroUsize::new(steps.len()) else { return Some(way) };
            let is_removal = |step: &&Step| matches!(step, Step::SentinelRemoved(_) | Step::NodeRemoved(_));
            // Of two ways to go on, the one that was not taken last.
            let (mut removals, mut rest): (Vec<&Step>, Vec<&Step>) = steps.iter().partition(is_removal);
            rest.sort_by_key(|step| !matches!(step, Step::SentinelAdded(_) | Step::NodeAdded(_)));
            let order: Vec<&Step> = match removed {
                true => rest.drain(..).chain(removals.drain(..)).collect(),
                false => removals.drain(..).chain(rest.drain(..)).collect(),
            };
            let (next, step) = order.into_iter().find_map(|step| Some((at.after(step)?, step)))?;
            removed = is_removal(&step);
            debug_assert!(next.steps_to(goal).len() < count.get());
            way.push(next.clone());
            at = next;
        }
    }

    /// This one with one step taken; None where no record would come of it.
    fn after(&self, step: &Step) -> Option<Basis> {
        let Basis { record: Record { mut sentinels, mut nodes }, mut lease } = self.clone();
        match step {
            Step::SentinelRemoved(gone) => sentinels.retain(|entry| entry.id != gone.id),
            Step::SentinelAdded(new) => sentinels.push(new.clone()),
            Step::SentinelMoved(moved) => {
                sentinels.iter_mut().filter(|entry| entry.id == moved.id).for_each(|entry| *entry = moved.clone());
            }
            Step::NodeRemoved(gone) => nodes.retain(|entry| entry.name != gone.name),
            Step::NodeAdded(new) => nodes.push(new.clone()),
            Step::NodeMoved(moved) => {
                let same = |entry: &&mut NodeEntry| entry.name.eq_ignore_ascii_case(&moved.name);
                nodes.iter_mut().filter(same).for_each(|entry| *entry = moved.clone());
            }
            Step::Lease(length) => lease = *length,
        }
        Some(Basis { record: Record::new(sentinels, nodes).ok()?, lease })
    }

    /// A short name for it: the same for the same entries, in whatever order and however they are written.
    pub fn digest(&self) -> String {
        let sentinels = self.record.sentinels.iter().map(|entry| format!("{}@{}", entry.id, canonical(entry.address)));
        let name = |entry: &NodeEntry| format!("{}={}", entry.name.to_ascii_lowercase(), canonical(entry.address));
        let mut entries: Vec<String> = sentinels.chain(self.record.nodes.iter().map(name)).collect();
        entries.sort_unstable();
        entries.push(self.lease.as_millis().to_string());
        // FNV-1a, 64 bits. Nobody who may write the record gains by two that have the same.
        let bytes = entries.join(" ").into_bytes();
        let hash = bytes
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        format!("{hash:016x}")
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::SentinelRemoved(entry) => write!(f, "Sentinel {entry} is removed"),
            Step::SentinelAdded(entry) => write!(f, "Sentinel {entry} is added"),
            Step::SentinelMoved(entry) => write!(f, "Sentinel {} is at {} now", entry.id, entry.address),
            Step::NodeRemoved(entry) => write!(f, "node {} is removed", entry.name),
            Step::NodeAdded(entry) => write!(f, "node {entry} is added"),
            Step::NodeMoved(entry) => write!(f, "the Redis of {} is at {} now", entry.name, entry.address),
            Step::Lease(length) => write!(f, "the lease is {} ms", length.as_millis()),
        }
    }
}

impl fmt::Display for SentinelEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.id, self.address)
    }
}

impl fmt::Display for NodeEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.address)
    }
}

/// The address with an IPv4 one written as IPv6 turned back into IPv4.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn entries(text: &str) -> impl Iterator<Item = &str> {
    text.split([' ', ',', '\t', '\n']).filter(|entry| !entry.is_empty())
}

fn address(text: &str) -> Option<SocketAddr> {
    text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0)
}

fn sentinel(entry: &str) -> Result<SentinelEntry, RecordError> {
    let syntax = || RecordError::Syntax { parameter: "sentinels", entry: entry.to_owned(), expected: SENTINEL };
    let (id, place) = entry.split_once('@').ok_or_else(syntax)?;
    if id.len() != 40 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(syntax());
    }
    Ok(SentinelEntry { id: id.to_ascii_lowercase(), address: address(place).ok_or_else(syntax)? })
}

fn node(entry: &str) -> Result<NodeEntry, RecordError> {
    let syntax = || RecordError::Syntax { parameter: "nodes", entry: entry.to_owned(), expected: NODE };
    let (name, place) = entry.split_once('=').ok_or_else(syntax)?;
    if name.is_empty() {
        return Err(syntax());
    }
    Ok(NodeEntry { name: name.to_owned(), address: address(place).ok_or_else(syntax)? })
}

fn usable(parameter: &'static str, address: SocketAddr, whose: &str) -> Result<(), RecordError> {
    match unusable(address.ip()) {
        Some(kind) => Err(RecordError::Address { parameter, address, whose: whose.to_owned(), kind }),
        None => Ok(()),
    }
}

fn once(parameter: &'static str, what: impl Iterator<Item = String>) -> Result<(), RecordError> {
    let mut seen = Vec::new();
    for what in what {
        if seen.contains(&what) {
            return Err(RecordError::Twice { parameter, what });
        }
        seen.push(what);
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The run id of the Sentinel number `n` in tests.
    pub(crate) fn id(n: usize) -> String {
        format!("{n:040x}")
    }

    /// Three Sentinels on three nodes, `node1` at 10.0.0.1 and so on.
    pub(crate) fn three() -> Record {
        let sentinels: Vec<String> = (1..=3).map(|n| format!("{}@10.0.0.{n}:26379", id(n))).collect();
        let nodes: Vec<String> = (1..=3).map(|n| format!("node{n}=10.0.0.{n}:6379")).collect();
        Record::parse(&sentinels.join(" "), &nodes.join(" ")).unwrap()
    }

    #[test]
    fn reads_what_it_writes() {
        let record = three();
        assert_eq!(Record::parse(&record.sentinels_parameter(), &record.nodes_parameter()).unwrap(), record);
        assert_eq!(record.majority(), 2);
        assert_eq!(record.node("NODE2").unwrap().address, "10.0.0.2:6379".parse().unwrap());
        assert_eq!(record.node_at("[::ffff:10.0.0.3]:6379".parse().unwrap()).unwrap().name, "node3");
        assert!(record.node_at("10.0.0.3:6380".parse().unwrap()).is_none());
        let has = |address: &str| record.has_sentinel_at(address.parse().unwrap());
        assert!(has("[::ffff:10.0.0.3]:26379") && !has("10.0.0.4:26379") && !has("10.0.0.3:6379"));
    }

    #[test]
    fn an_empty_record_says_what_to_do() {
        let missing = Record::parse("", "").unwrap_err();
        assert_eq!(missing, RecordError::Missing);
        assert!(missing.to_string().contains("rolegate init"));
        assert_eq!(Record::parse("", "node1=10.0.0.1:6379"), Err(RecordError::Missing));
    }

    #[test]
    fn bad_entries_are_named() {
        let sentinel = format!("{}@10.0.0.1:26379", id(1));
        for (sentinels, nodes, part) in [
            (sentinel.as_str(), "node1=redis1:6379", "redis1:6379"),
            (&sentinel, "node1=10.0.0.1", "node1=10.0.0.1"),
            (&sentinel, "node1=10.0.0.1:0", "node1=10.0.0.1:0"),
            (&sentinel, "=10.0.0.1:6379", "NODE=ADDRESS:PORT"),
            (&sentinel, "node1=127.0.0.1:6379", "a loopback address"),
            (&sentinel, "node1=[::1]:6379", "a loopback address"),
            (&sentinel, "node1=[::ffff:127.0.0.1]:6379", "a loopback address"),
            (&sentinel, "node1=0.0.0.0:6379", "the unspecified address"),
            (&sentinel, "node1=169.254.1.1:6379", "a link-local address"),
            (&sentinel, "node1=[fe80::1]:6379", "a link-local address"),
            (&sentinel, "node1=10.0.0.1:6379 node2=10.0.0.1:6379", "twice"),
            (&sentinel, "node1=10.0.0.1:6379 node2=[::ffff:10.0.0.1]:6379", "twice"),
            (&sentinel, "node1=10.0.0.1:6379 NODE1=10.0.0.2:6379", "twice"),
            ("abc@10.0.0.1:26379", "node1=10.0.0.1:6379", "abc@10.0.0.1:26379"),
            ("10.0.0.1:26379", "node1=10.0.0.1:6379", "RUNID@ADDRESS:PORT"),
            (&format!("{sentinel},{sentinel}"), "node1=10.0.0.1:6379", "twice"),
            (&format!("{sentinel} {}@10.0.0.1:26379", id(2)), "node1=10.0.0.1:6379", "twice"),
        ] {
            let error = Record::parse(sentinels, nodes).unwrap_err().to_string();
            assert!(error.contains(part), "{nodes}: {error} does not name {part}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(sentinels in ".{0,200}", nodes in ".{0,200}") {
            if let Ok(record) = Record::parse(&sentinels, &nodes) {
                prop_assert!(record.majority() > record.sentinels().len() / 2);
            }
        }
    }

    const LEASE: Duration = Duration::from_secs(2);

    /// Any record of up to seven Sentinels and four nodes, most addresses of which move.
    fn any_basis() -> impl Strategy<Value = Basis> {
        let sentinels = proptest::collection::btree_map(1..9usize, 1..9u8, 1..8);
        let nodes = proptest::collection::btree_map(1..6usize, 1..6u8, 1..5);
        (sentinels, nodes, 1..3u64).prop_filter_map("addresses are each one's own", |(sentinels, nodes, lease)| {
            let sentinels = sentinels
                .into_iter()
                .map(|(n, host)| SentinelEntry { id: id(n), address: SocketAddr::from(([10, 0, 0, host], 26379)) });
            let nodes = nodes.into_iter().map(|(n, host)| NodeEntry {
                name: format!("node{n}"),
                address: SocketAddr::from(([10, 0, 0, host], 6379)),
            });
            let record = Record::new(sentinels.collect(), nodes.collect()).ok()?;
            Some(Basis { record, lease: Duration::from_secs(lease) })
        })
    }

    fn basis(sentinels: &[(usize, u8)], nodes: &[(&str, u8)]) -> Basis {
        let sentinel = |(n, host): &(usize, u8)| SentinelEntry {
            id: id(*n),
            address: SocketAddr::from(([10, 0, 0, *host], 26379)),
        };
        let node = |(name, host): &(&str, u8)| NodeEntry {
            name: (*name).to_owned(),
            address: SocketAddr::from(([10, 0, 0, *host], 6379)),
        };
        let record = Record::new(sentinels.iter().map(sentinel).collect(), nodes.iter().map(node).collect());
        Basis { record: record.unwrap(), lease: LEASE }
    }

    #[test]
    fn a_step_is_one_thing() {
        let old = basis(&[(1, 1), (2, 2), (3, 3)], &[("a", 1), ("b", 2)]);
        let is = |new: &Basis| old.change_to(new);
        assert_eq!(is(&basis(&[(3, 3), (2, 2), (1, 1)], &[("B", 2), ("a", 1)])), Change::Nothing);
        let one = |new: Basis| matches!(is(&new), Change::One(_));
        assert!(one(basis(&[(1, 1), (2, 2)], &[("a", 1), ("b", 2)])));
        assert!(one(basis(&[(1, 1), (2, 2), (3, 3), (4, 4)], &[("a", 1), ("b", 2)])));
        assert!(one(basis(&[(1, 1), (2, 2), (3, 4)], &[("a", 1), ("b", 2)])));
        assert!(one(basis(&[(1, 1), (2, 2), (3, 3)], &[("a", 1)])));
        assert!(one(basis(&[(1, 1), (2, 2), (3, 3)], &[("a", 1), ("b", 2), ("c", 3)])));
        assert!(one(basis(&[(1, 1), (2, 2), (3, 3)], &[("a", 1), ("b", 3)])));
        for lease in [1, 3] {
            assert!(one(Basis { lease: Duration::from_secs(lease), ..old.clone() }));
        }
        // A new run id at the same address; an address that another node gives up; two lengths.
        assert_eq!(is(&basis(&[(1, 1), (2, 2), (4, 3)], &[("a", 1), ("b", 2)])), Change::Several(2));
        assert_eq!(is(&basis(&[(1, 1), (2, 2), (3, 3)], &[("b", 1)])), Change::Several(2));
        assert_eq!(is(&basis(&[(1, 1), (2, 2), (3, 3)], &[("a", 2), ("b", 1)])), Change::Several(2));
        assert_eq!(is(&basis(&[(4, 4), (5, 5), (6, 6)], &[("a", 1), ("b", 2)])), Change::Several(6));
    }

    #[test]
    fn a_replaced_sentinel_is_removed_and_then_added() {
        let old = basis(&[(1, 1), (2, 2), (3, 3)], &[("a", 1)]);
        let new = basis(&[(1, 1), (2, 2), (4, 3)], &[("a", 1)]);
        let way = old.way_to(&new).unwrap();
        assert_eq!(way, [basis(&[(1, 1), (2, 2)], &[("a", 1)]), new]);
        // All of them: never fewer than two.
        let all = basis(&[(4, 1), (5, 2), (6, 3)], &[("a", 1)]);
        let way = old.way_to(&all).unwrap();
        assert_eq!(way.iter().map(|at| at.record.sentinels().len()).collect::<Vec<_>>(), [2, 3, 2, 3, 2, 3]);
        // The only one, at the same address: not with the gate open. At another, it is added first.
        let only = basis(&[(1, 1)], &[("a", 1)]);
        assert_eq!(only.way_to(&basis(&[(2, 1)], &[("a", 1)])), None);
        assert_eq!(only.way_to(&basis(&[(2, 2)], &[("a", 1)])).unwrap()[0].record.sentinels().len(), 2);
    }

    #[test]
    fn a_digest_is_that_of_what_is_meant() {
        let old = basis(&[(1, 1), (2, 2)], &[("a", 1), ("b", 2)]);
        assert_eq!(old.digest(), basis(&[(2, 2), (1, 1)], &[("B", 2), ("A", 1)]).digest());
        assert_eq!(old.digest().len(), 16);
        // It must not change with a release: nodes of two compare theirs.
        assert_eq!(old.digest(), "8c2e1e637d580833");
    }

    /// The heart of it: nodes on two neighbouring records are named by two majorities that meet.
    #[test]
    fn any_two_majorities_of_neighbours_share_a_sentinel() {
        let record = |set: u32| {
            let entries: Vec<(usize, u8)> =
                (1..=8).filter(|n| set & 1 << n != 0).map(|n| (n as usize, n as u8)).collect();
            basis(&entries, &[("a", 1)])
        };
        let sets =
            |within: u32, most: u32| (0..512u32).filter(move |set| set & !within == 0 && set.count_ones() <= most);
        let all = 0b1_1111_1110;
        for set in sets(all, 7).filter(|set| *set != 0) {
            let old = record(set);
            for step in 1..=8 {
                let other = set ^ 1 << step;
                if other == 0 || other.count_ones() > 8 {
                    continue;
                }
                let new = record(other);
                assert!(matches!(old.change_to(&new), Change::One(_)));
                let majorities =
                    |set: u32, needed: usize| sets(set, 8).filter(move |some| some.count_ones() as usize == needed);
                for some in majorities(set, old.record.majority()) {
                    for others in majorities(other, new.record.majority()) {
                        assert!(some & others != 0, "{set:b} {other:b}: {some:b} and {others:b}");
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn each_step_of_a_way_is_one(old in any_basis(), new in any_basis()) {
            prop_assert_eq!(old.change_to(&old), Change::Nothing);
            let Some(way) = old.way_to(&new) else {
                // Each waits for the other to give up its address.
                let taken = |node: &NodeEntry| old.record.node_at(node.address).is_some_and(|had| had.name != node.name);
                let moved = |one: &SentinelEntry| {
                    old.record.sentinels().iter().any(|had| had.address == one.address && had.id != one.id)
                };
                prop_assert!(new.record.nodes().iter().any(taken) || new.record.sentinels().iter().any(moved));
                return Ok(());
            };
            prop_assert_eq!(way.is_empty(), old.change_to(&new) == Change::Nothing);
            let mut at = &old;
            for next in &way {
                prop_assert!(matches!(at.change_to(next), Change::One(_)), "{:?} {:?}", at, next);
                prop_assert_ne!(at.digest(), next.digest());
                // Nobody gets what another has.
                for node in next.record.nodes() {
                    let had = at.record.node_at(node.address);
                    prop_assert!(had.is_none_or(|had| had.name == node.name));
                }
                at = next;
            }
            prop_assert!(at.change_to(&new) == Change::Nothing);
        }
    }
}
