//! What the kernel holds under the name of our table, read over netlink, and how that differs from what should be there.
//!
//! Reads only. The reading is of one moment: nf_tables counts its changes, and a change in between means reading again.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

use nix::libc::{EINVAL, EOPNOTSUPP};
use nix::sys::socket::SockProtocol;

use super::plan::{ARMS, Arms, CHAINS, OWNER, SETS, TABLE};
use super::rules::canonical;
use super::{INET, SUBSYSTEM};
use crate::gate::Ports;
use crate::gate::netlink::{Message, Socket, attr, attrs, number, text};

const GET_TABLE: u8 = 1;
const GET_CHAIN: u8 = 4;
const GET_RULE: u8 = 7;
const GET_SET: u8 = 10;
const GET_ELEMENTS: u8 = 13;
const GET_GENERATION: u8 = 16;
/// nfgenmsg in front of the attributes.
const NFGENMSG: usize = 4;

/// A chain as the kernel has it. A chain that is not hooked in has no hook.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chain {
    /// filter, nat or route.
    pub kind: String,
    /// Hook number and priority.
    pub hook: Option<(u32, i32)>,
    /// The verdict at its end: 0 drop, 1 accept.
    pub policy: u32,
    /// Each rule's canonical line.
    pub rules: Vec<String>,
}

/// What a set or map is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetKind {
    /// NFT_SET_*: 8 is a map, 0x10 has timeouts.
    pub flags: u32,
    /// Length of a key in bytes.
    pub key: u32,
    /// Length of a map's data in bytes.
    pub data: u32,
    /// The timeout of elements that state none, in ms.
    pub timeout: u64,
}

/// The table, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// The generation of the whole ruleset in which it was read.
    pub generation: u32,
    /// The table's comment, by which its owner is known.
    pub comment: Option<String>,
    /// NFT_TABLE_F_*: 1 is dormant (none of its chains is consulted).
    pub flags: u32,
    /// How many chains, sets, objects and flowtables it holds, by the kernel's count.
    pub holds: u32,
    /// Its chains by name.
    pub chains: BTreeMap<String, Chain>,
    /// Its sets and maps by name.
    pub sets: BTreeMap<String, SetKind>,
    /// The elements of `gated`.
    pub gated: BTreeSet<u16>,
    /// The elements of `target`.
    pub target: BTreeMap<u16, u16>,
    /// The live elements of `open` and how long each has; None: without end.
    pub open: BTreeMap<u16, Option<Duration>>,
}

impl Seen {
    /// Whether the table is rolegate's, by its comment.
    pub fn is_ours(&self) -> bool {
        self.comment.as_deref().is_some_and(|comment| comment.starts_with(OWNER))
    }

    /// Whether any chain of it can send a connection elsewhere.
    pub fn translates(&self) -> bool {
        self.chains.values().any(|chain| chain.kind == "nat")
    }

    /// Whether it has any entry for `port`.
    pub fn mentions(&self, port: u16) -> bool {
        let armed = self.arms().any(|arms| arms.port == port);
        self.gated.contains(&port) || self.target.contains_key(&port) || self.open.contains_key(&port) || armed
    }

    /// The sets of arms in it.
    pub fn arms(&self) -> impl Iterator<Item = Arms> {
        arms(&self.sets)
    }

    /// How the table's structure differs from ours, in one line: chains, rules and sets, not their elements.
    pub fn structure_differs(&self) -> Option<String> {
        if self.flags != 0 {
            return Some(format!("the table's flags are {:#x}, should be none", self.flags));
        }
        self.sets_differ().or_else(|| self.chains_differ())
    }

    /// How sets, and all that is neither set nor chain, differ from ours.
    pub fn sets_differ(&self) -> Option<String> {
        for (name, kind) in SETS {
            match self.sets.get(name) {
                None => return Some(format!("set {name} is missing")),
                Some(found) if *found != kind => {
                    return Some(format!("set {name} was made as {found:?}, should be {kind:?}"));
                }
                Some(_) => {}
            }
        }
        for (name, found) in self.sets.iter().filter(|(name, _)| SETS.iter().all(|(ours, _)| ours != name)) {
            match Arms::parse(name) {
                None => return Some(format!("set {name} is not ours")),
                Some(_) if *found != ARMS => {
                    return Some(format!("set {name} was made as {found:?}, should be {ARMS:?}"));
                }
                Some(_) => {}
            }
        }
        let known = self.chains.len() + self.sets.len();
        (self.holds as usize != known).then(|| {
            format!("the table holds {} things, {known} of them chains and sets: the others are not ours", self.holds)
        })
    }

    fn chains_differ(&self) -> Option<String> {
        for wanted in CHAINS {
            let name = wanted.name;
            let Some(found) = self.chains.get(name) else { return Some(format!("chain {name} is missing")) };
            let (hook, kind) = (Some((wanted.hook, wanted.priority)), wanted.kind);
            if found.kind != kind || found.hook != hook || found.policy != 1 {
                return Some(format!(
                    "chain {name} is {} at {:?} with policy {}, should be {kind} at {hook:?} with policy 1",
                    found.kind, found.hook, found.policy
                ));
            }
            match &found.rules[..] {
                [rule] if *rule == wanted.canonical() => {}
                [rule] => {
                    return Some(format!("the rule of chain {name} is `{rule}`, should be `{}`", wanted.canonical()));
                }
                rules => return Some(format!("chain {name} has {} rules, should have 1", rules.len())),
            }
        }
        let foreign = self.chains.keys().find(|name| CHAINS.iter().all(|ours| ours.name != **name));
        foreign.map(|name| format!("chain {name} is not ours"))
    }

    /// How this gate's own entries differ from what should be there, in one line.
    pub fn entries_differ(&self, ports: Ports) -> Option<String> {
        for port in [ports.ro, ports.rw] {
            if !self.gated.contains(&port) {
                return Some(format!("set gated lacks port {port}"));
            }
            if self.target.get(&port) != Some(&ports.redis) {
                return Some(format!(
                    "map target sends port {port} to {}, should be {}",
                    self.target.get(&port).map_or("nowhere".to_owned(), u16::to_string),
                    ports.redis
                ));
            }
            if let Some(None) = self.open.get(&port) {
                return Some(format!("port {port} is open without end"));
            }
        }
        None
    }
}

/// Reads the table; None where there is none, or where the kernel has no nf_tables.
///
/// # Errors
/// The kernel's (EPERM without CAP_NET_ADMIN); [`io::ErrorKind::TimedOut`] when it kept changing until `deadline`.
pub fn read(deadline: Instant) -> io::Result<Option<Seen>> {
    read_on(&mut Socket::open(SockProtocol::NetlinkNetFilter, deadline)?)
}

/// The same on a socket that is there, until its deadline.
///
/// # Errors
/// As [`read`].
pub fn read_on(socket: &mut Socket) -> io::Result<Option<Seen>> {
    match of_one_moment(socket, read_once) {
        Err(error) if matches!(error.raw_os_error(), Some(EINVAL | EOPNOTSUPP)) => Ok(None),
        result => result.map(|(generation, seen)| seen.map(|seen| Seen { generation, ..seen })),
    }
}

/// What `read` gives, read while nothing changed, and the generation in which that was.
fn of_one_moment<T>(socket: &mut Socket, mut read: impl FnMut(&mut Socket) -> io::Result<T>) -> io::Result<(u32, T)> {
    loop {
        let before = generation(socket)?;
        match read(socket) {
            Ok(read) if generation(socket)? == before => return Ok((before, read)),
            Ok(_) => {}
            // A set that went away while it was asked for, or a dump that another change interrupted.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        if Instant::now() >= socket.deadline() {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// What one port has in the table, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PortSeen {
    /// How long it is open yet; None: without end. Outer None: it is closed.
    pub open: Option<Option<Duration>>,
    /// Each set of arms that it has, and how many arms are listed in it. One that is listed may have run out.
    pub arms: BTreeMap<Arms, usize>,
}

/// Reads what the table holds for `port`, whoever made that table.
///
/// # Errors
/// As [`read`].
pub fn port(socket: &mut Socket, port: u16) -> io::Result<PortSeen> {
    let read = |socket: &mut Socket| {
        let mut seen = PortSeen::default();
        if socket.get(&Message::netfilter(SUBSYSTEM, GET_TABLE, INET).text(1, TABLE))?.is_none() {
            return Ok(seen);
        }
        let sets = sets(socket)?;
        ports_in(socket, &sets, "open", |found, element| {
            if found == port {
                seen.open = left(element);
            }
        })?;
        for arms in arms(&sets).filter(|arms| arms.port == port) {
            let mut count = 0;
            elements(socket, &arms.to_string(), |_, _| count += 1)?;
            seen.arms.insert(arms, count);
        }
        Ok(seen)
    };
    of_one_moment(socket, read).map(|(_, seen)| seen)
}

/// How long `port` is open yet, as in [`PortSeen`], and whether any arm is listed in the set `arms`, for whom alone arms; None: the set is
/// gone. What it does not show was not there when it read whether the port is open. Costs the same however many ports the table has.
///
/// # Errors
/// As [`read`].
pub fn held(socket: &mut Socket, port: u16, arms: Arms) -> io::Result<Option<(Option<Option<Duration>>, bool)>> {
    let mut armed = false;
    loop {
        match elements(socket, &arms.to_string(), |_, _| armed = true) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // A stranger's transaction came in between.
            Err(error) if error.kind() == io::ErrorKind::Interrupted && Instant::now() < socket.deadline() => {}
            result => break result?,
        }
    }
    let answer = socket.get(&super::elements::get("open", &port.to_be_bytes()))?;
    let list = answer.as_ref().and_then(|answer| attr(answer.get(NFGENMSG..)?, 3));
    let element = list.and_then(|list| attrs(list).next());
    Ok(Some((element.and_then(|(_, element)| left(element)), armed)))
}

/// Whether the set `arms` is there.
///
/// # Errors
/// As [`read`].
pub fn is_there(socket: &mut Socket, arms: Arms) -> io::Result<bool> {
    let ask = Message::netfilter(SUBSYSTEM, GET_SET, INET).text(1, TABLE).text(2, &arms.to_string());
    Ok(socket.get(&ask)?.is_some())
}

fn arms(sets: &BTreeMap<String, SetKind>) -> impl Iterator<Item = Arms> {
    sets.keys().filter_map(|name| Arms::parse(name))
}

/// The generation of the whole ruleset.
pub fn generation(socket: &mut Socket) -> io::Result<u32> {
    let answer = socket.get(&Message::netfilter(SUBSYSTEM, GET_GENERATION, 0))?.unwrap_or_default();
    Ok(attr(answer.get(NFGENMSG..).unwrap_or_default(), 1).map(number).unwrap_or_default() as u32)
}

fn read_once(socket: &mut Socket) -> io::Result<Option<Seen>> {
    let Some(rules) = rules_once(socket, TABLE)? else { return Ok(None) };
    let Rules { comment, flags, holds, chains } = rules;
    let mut seen = Seen { comment, flags, holds, chains, ..Seen::default() };
    seen.sets = sets(socket)?;
    ports_in(socket, &seen.sets, "gated", |port, _| {
        seen.gated.insert(port);
    })?;
    ports_in(socket, &seen.sets, "target", |port, element| {
        let data = attr(element, 2).and_then(|data| attr(data, 1)).unwrap_or_default();
        seen.target.insert(port, number(data) as u16);
    })?;
    ports_in(socket, &seen.sets, "open", |port, element| {
        seen.open.extend(left(element).map(|left| (port, left)));
    })?;
    Ok(Some(seen))
}

/// A table without what is in its sets, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// Its comment, by which its owner is known.
    pub comment: Option<String>,
    /// NFT_TABLE_F_*.
    pub flags: u32,
    /// How many chains, sets, objects and flowtables it holds.
    pub holds: u32,
    /// Its chains by name.
    pub chains: BTreeMap<String, Chain>,
}

/// Reads the table `name` of family inet; None where there is none, or where the kernel has no nf_tables.
///
/// # Errors
/// As [`read`].
pub fn rules(name: &str, deadline: Instant) -> io::Result<Option<Rules>> {
    let mut socket = Socket::open(SockProtocol::NetlinkNetFilter, deadline)?;
    match of_one_moment(&mut socket, |socket| rules_once(socket, name)) {
        Err(error) if matches!(error.raw_os_error(), Some(EINVAL | EOPNOTSUPP)) => Ok(None),
        result => result.map(|(_, rules)| rules),
    }
}

fn rules_once(socket: &mut Socket, name: &str) -> io::Result<Option<Rules>> {
    let ask = |kind| Message::netfilter(SUBSYSTEM, kind, INET);
    let Some(table) = socket.get(&ask(GET_TABLE).text(1, name))? else { return Ok(None) };
    let table = table.get(NFGENMSG..).unwrap_or_default();
    let mut rules = Rules {
        comment: attr(table, 6).and_then(comment),
        flags: attr(table, 2).map(number).unwrap_or_default() as u32,
        holds: attr(table, 3).map(number).unwrap_or_default() as u32,
        chains: BTreeMap::new(),
    };
    dump(socket, name, &ask(GET_CHAIN), |chain| {
        let hook = attr(chain, 4).map(|hook| {
            let field = |kind| attr(hook, kind).map(number).unwrap_or_default() as u32;
            (field(1), field(2) as i32)
        });
        rules.chains.insert(
            attr(chain, 3).map(text).unwrap_or_default(),
            Chain {
                kind: attr(chain, 7).map(text).unwrap_or_default(),
                hook,
                policy: attr(chain, 5).map(number).unwrap_or_default() as u32,
                rules: Vec::new(),
            },
        );
    })?;
    dump(socket, name, &ask(GET_RULE).text(1, name), |rule| {
        let chain = attr(rule, 2).map(text).unwrap_or_default();
        rules.chains.entry(chain).or_default().rules.push(canonical(attr(rule, 4).unwrap_or_default()));
    })?;
    Ok(Some(rules))
}

fn sets(socket: &mut Socket) -> io::Result<BTreeMap<String, SetKind>> {
    let mut sets = BTreeMap::new();
    dump(socket, TABLE, &Message::netfilter(SUBSYSTEM, GET_SET, INET).text(1, TABLE), |set| {
        let field = |kind| attr(set, kind).map(number).unwrap_or_default();
        sets.insert(
            attr(set, 2).map(text).unwrap_or_default(),
            SetKind { flags: field(3) as u32, key: field(5) as u32, data: field(7) as u32, timeout: field(11) },
        );
    })?;
    Ok(sets)
}

/// How long an element has; outer None: it has run out, inner None: without end.
fn left(element: &[u8]) -> Option<Option<Duration>> {
    match attr(element, 5).map(number) {
        Some(0) => None,
        left => Some(left.map(Duration::from_millis)),
    }
}

/// Asks for all of something and gives `each` the attributes of those that belong to `table`.
fn dump(socket: &mut Socket, table: &str, ask: &Message, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    socket.dump(ask, |body| {
        let body = body.get(NFGENMSG..).unwrap_or_default();
        if attr(body, 1).map(text).as_deref() == Some(table) {
            each(body);
        }
    })
}

/// Gives `each` the elements of the set `name`, where it has ports as keys; there are none in another.
fn ports_in(
    socket: &mut Socket,
    sets: &BTreeMap<String, SetKind>,
    name: &str,
    mut each: impl FnMut(u16, &[u8]),
) -> io::Result<()> {
    if sets.get(name).is_none_or(|set| set.key != 2) {
        return Ok(());
    }
    elements(socket, name, |key, element| each(number(key) as u16, element))
}

/// Gives `each` the key and the attributes of each element of the set `name`.
fn elements(socket: &mut Socket, name: &str, mut each: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
    let ask = Message::netfilter(SUBSYSTEM, GET_ELEMENTS, INET).text(1, TABLE).text(2, name);
    dump(socket, TABLE, &ask, |list| {
        for (_, element) in attrs(attr(list, 3).unwrap_or_default()) {
            if let Some(key) = attr(element, 1).and_then(|key| attr(key, 1)) {
                each(key, element);
            }
        }
    })
}

/// The comment in a table's user data: nft keeps a list of (type, length, value), type 0 being the comment.
fn comment(mut user_data: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = user_data {
        let value = rest.get(..usize::from(*length))?;
        if *kind == 0 {
            return Some(text(value));
        }
        user_data = &rest[usize::from(*length)..];
    }
    None
}
