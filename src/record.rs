//! The record: what every proof stands on. Which Sentinels count, and where each node's Redis is.
//!
//! It lives in one place for the whole cluster, the gate resource's parameters `sentinels` and
//! `nodes` in the CIB, written by `rolegate init`. Nothing local overrides it. The lease's length
//! joins it when the lease does.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

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

    /// The value of the parameter `sentinels`.
    pub fn sentinels_parameter(&self) -> String {
        self.sentinels.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    /// The value of the parameter `nodes`.
    pub fn nodes_parameter(&self) -> String {
        self.nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
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
}
