//! Which record each node stands on, and when it may go on to the next. Pure.
//!
//! Two nodes may hold leases by two records only if these are one step apart ([`crate::record::Step`]): then any two majorities of theirs
//! share a Sentinel, where the nodes see each other. So each node's keeper says in the CIB what it stands on ([`Shown`], an attribute of
//! its own node), and before it stands on anything else, what it may stand on next. It holds at all times that
//!
//! > what all nodes say names at most two records, and these are one step apart.
//!
//! Each change of what a node says is one step of the CIB, which fails if anything has been changed since it was decided on; and it is
//! decided on by [`next`]. A node whose record is no longer the CIB's, but whose next step is not due, or is more than one, goes on with
//! what it has: whoever changed the parameters by hand closes nothing, and opens nothing.
//!
//! - A node that has booted stands on nothing, whatever its disk says. It opens nothing until it has said anew what it stands on, and may
//!   only begin where all others are. So one that was off, confirmed so by STONITH or by a person, need not be waited for.
//! - A node that the record has not, stands on nothing either.
//!
//! The records themselves are not in the CIB, only their digests: `D` is one. The model (`tests/model.rs`) calls these functions.

/// The node attribute in which the keeper of a node says what it stands on, for one master name.
pub fn attribute(master: &str) -> String {
    format!("redis_record-{master}")
}

/// What a node says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Shown<D> {
    /// Nothing was ever said. Its keeper may be of a release that says nothing, and follows the CIB.
    #[default]
    Never,
    /// It stands on nothing: it holds no lease, and takes none before it has said something else.
    Nothing,
    /// All leases that it holds or takes are by this record.
    On(D),
    /// It may hold leases by the first, and by the second.
    Moving(D, D),
    /// Not it: a person says that it is off.
    Off,
    /// What stands there cannot be understood.
    Unclear,
}

impl<D: PartialEq> Shown<D> {
    /// Whether it may hold a lease by that record, by what it says.
    pub fn names(&self, record: &D) -> bool {
        match self {
            Shown::On(on) => on == record,
            Shown::Moving(from, to) => from == record || to == record,
            _ => false,
        }
    }
}

/// Another node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer<D> {
    /// Its name.
    pub name: String,
    /// What it says.
    pub says: Shown<D>,
    /// STONITH has confirmed it off since it was last a member ([`crate::pacemaker::cib::Node::confirmed_off`]).
    pub off: bool,
    /// One of the records that matter here has it. Of another that never said anything there is nothing to be known.
    pub recorded: bool,
}

impl<D: PartialEq> Peer<D> {
    /// Whether it holds no lease by another record than `record`, and takes none: the next step may be taken when all have shown the last.
    pub fn has_shown(&self, record: &D) -> bool {
        self.fits(std::slice::from_ref(record), false)
    }

    /// Whether it holds leases by `records` at most.
    fn fits(&self, records: &[D], beginning: bool) -> bool {
        self.off
            || match &self.says {
                Shown::Nothing | Shown::Off => true,
                Shown::On(on) => records.contains(on),
                Shown::Moving(from, to) => records.contains(from) && records.contains(to),
                Shown::Never => beginning || !self.recorded,
                Shown::Unclear => false,
            }
    }
}

/// What a node's keeper knows of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own<D> {
    /// What it stands on.
    pub on: Option<D>,
    /// The record before, as long as it may hold a lease by that.
    pub also: Option<D>,
    /// What it says.
    pub says: Shown<D>,
    /// It is closed, and an operator wants it so (the gate is disabled, or the node fenced).
    pub idle: bool,
    /// The CIB's record has it.
    pub placed: bool,
}

/// Whether all nodes have shown that they have what this one stands on, and hold leases by nothing else. From then on the record before is history:
/// until then the length of its leases counts ([`crate::lease::Lengths`]), and so do its nodes.
pub fn all_have_shown<D: PartialEq>(own: &Own<D>, peers: &[Peer<D>]) -> bool {
    let Some(on) = &own.on else { return false };
    let has_shown = own.also.is_none() && matches!(&own.says, Shown::On(said) if said == on);
    has_shown && peers.iter().all(|peer| peer.has_shown(on))
}

/// What a node is to do about the record that the CIB has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next<D> {
    /// Nothing.
    Keep,
    /// Say that, and then stand on it: on the last record that it names.
    Say(Shown<D>),
    /// Stand on nothing any more, closed, and then say that.
    LetGo,
    /// It stands on what nobody knows of, and others have gone on: close, and stand on nothing.
    Void,
    /// Wait for this node, which has not shown the record before.
    Wait(String),
    /// More than one step: go on with the record that there is.
    TooFar,
}

/// See the module. `one_step` is whether it is one from `own.on` to `wanted`.
pub fn next<D: Clone + PartialEq>(own: &Own<D>, wanted: &D, one_step: bool, peers: &[Peer<D>]) -> Next<D> {
    let in_the_way = |records: &[D], beginning| peers.iter().find(|peer| !peer.fits(records, beginning));
    let Some(on) = &own.on else {
        let waits_for = in_the_way(std::slice::from_ref(wanted), true);
        return match waits_for {
            None if own.placed => Next::Say(Shown::On(wanted.clone())),
            // It holds up nobody.
            _ if !matches!(own.says, Shown::Nothing) => Next::Say(Shown::Nothing),
            None => Next::Keep,
            Some(peer) => Next::Wait(peer.name.clone()),
        };
    };
    let mine = match &own.also {
        Some(also) => Shown::Moving(also.clone(), on.clone()),
        None => Shown::On(on.clone()),
    };
    if !own.says.names(on) || own.also.as_ref().is_some_and(|also| !own.says.names(also)) {
        // Somebody else has written there, or what this one wrote was lost.
        let records: Vec<D> = own.also.iter().chain([on]).cloned().collect();
        return match in_the_way(&records, true) {
            None => Next::Say(mine),
            Some(_) => Next::Void,
        };
    }
    match own.says {
        // To say less needs nobody.
        Shown::Moving(..) if own.also.is_none() => return Next::Say(mine),
        Shown::Moving(..) => return Next::Keep,
        _ if wanted == on => return Next::Keep,
        _ => {}
    }
    match (one_step, in_the_way(&[on.clone(), wanted.clone()], false)) {
        (true, _) if !own.placed => Next::LetGo,
        (true, None) => Next::Say(Shown::Moving(on.clone(), wanted.clone())),
        (true, Some(peer)) => Next::Wait(peer.name.clone()),
        (false, _) if own.idle => Next::LetGo,
        (false, _) => Next::TooFar,
    }
}

/// What a node says, as its attribute has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Said {
    /// What.
    pub shown: Shown<String>,
    /// In which boot of the machine ([`boot_tag`]). Of one that is off: which it was.
    pub boot: Option<u32>,
    /// By whom and when it was confirmed off.
    pub by: String,
}

const NOTHING: &str = "none";
const OFF: &str = "off";

impl Said {
    /// As the attribute has it: nothing, `none`, `DIGEST@BOOT`, `DIGEST>DIGEST@BOOT`, or `off@BOOT by WHOM`.
    pub fn read(value: Option<&str>) -> Self {
        let said = |shown, boot: Option<u32>| Said { shown, boot, by: String::new() };
        let Some(value) = value.filter(|value| !value.is_empty()) else { return Said::default() };
        let (word, by) = value.split_once(' ').unwrap_or((value, ""));
        let (what, boot) = match word.split_once('@') {
            Some((what, boot)) => (what, u32::from_str_radix(boot, 16).ok()),
            None => (word, None),
        };
        let is_digest = |text: &str| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match what.split_once('>') {
            _ if what == OFF => Said { by: by.to_owned(), ..said(Shown::Off, boot) },
            _ if !by.is_empty() => said(Shown::Unclear, None),
            None if what == NOTHING => said(Shown::Nothing, boot),
            None if is_digest(what) => said(Shown::On(what.to_owned()), boot),
            Some((from, to)) if is_digest(from) && is_digest(to) => {
                said(Shown::Moving(from.to_owned(), to.to_owned()), boot)
            }
            _ => said(Shown::Unclear, None),
        }
    }

    /// The attribute's value.
    pub fn text(&self) -> String {
        let boot = self.boot.map_or(String::new(), |boot| format!("@{boot:08x}"));
        match &self.shown {
            Shown::Never | Shown::Unclear => String::new(),
            Shown::Nothing => format!("{NOTHING}{boot}"),
            Shown::On(on) => format!("{on}{boot}"),
            Shown::Moving(from, to) => format!("{from}>{to}{boot}"),
            Shown::Off => format!("{OFF}{boot} {}", self.by).trim_end().to_owned(),
        }
    }
}

/// A short name for one boot of a machine, from the kernel's id of it.
pub fn boot_tag(boot_id: &str) -> u32 {
    boot_id.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Says = Shown<char>;

    fn peer(says: Says) -> Peer<char> {
        Peer { name: "b".into(), says, off: false, recorded: true }
    }

    fn own(on: Option<char>, says: Says) -> Own<char> {
        Own { on, also: None, says, idle: false, placed: true }
    }

    #[test]
    fn the_next_step_waits_until_all_have_shown_the_last() {
        let on_a = own(Some('a'), Shown::On('a'));
        let then = |peer: Peer<char>| next(&on_a, &'b', true, &[peer]);
        let goes_on = Next::Say(Shown::Moving('a', 'b'));
        for says in [Shown::On('a'), Shown::On('b'), Shown::Moving('a', 'b'), Shown::Nothing, Shown::Off] {
            assert_eq!(then(peer(says)), goes_on, "{says:?}");
        }
        for says in [Shown::On('0'), Shown::Moving('0', 'a'), Shown::Moving('a', 'c'), Shown::Never, Shown::Unclear] {
            assert_eq!(then(peer(says)), Next::Wait("b".into()), "{says:?}");
            assert_eq!(then(Peer { off: true, ..peer(says) }), goes_on, "confirmed off, {says:?}");
        }
        assert_eq!(then(Peer { recorded: false, ..peer(Shown::Never) }), goes_on);
        assert_eq!(next(&on_a, &'b', false, &[]), Next::TooFar);
        assert_eq!(next(&Own { idle: true, ..on_a.clone() }, &'b', false, &[]), Next::LetGo);
        assert_eq!(next(&Own { placed: false, ..on_a.clone() }, &'b', true, &[]), Next::LetGo);
        assert_eq!(next(&on_a, &'a', false, &[peer(Shown::On('0'))]), Next::Keep);
    }

    #[test]
    fn the_record_before_counts_until_this_node_and_all_others_have_shown_the_new_one() {
        let on_b = own(Some('b'), Shown::On('b'));
        let shown = |own: &Own<char>, says| all_have_shown(own, &[peer(Shown::On('b')), peer(says)]);
        for says in [Shown::On('b'), Shown::Nothing, Shown::Off] {
            assert!(shown(&on_b, says), "{says:?}");
        }
        for says in [Shown::On('a'), Shown::Moving('a', 'b'), Shown::Moving('b', 'c'), Shown::Never, Shown::Unclear] {
            assert!(!shown(&on_b, says), "{says:?}");
        }
        for own in [
            own(None, Shown::Nothing),
            own(Some('b'), Shown::Moving('a', 'b')),
            own(Some('b'), Shown::On('a')),
            Own { also: Some('a'), ..on_b },
        ] {
            assert!(!shown(&own, Shown::On('b')), "{own:?}");
        }
    }

    #[test]
    fn a_step_ends_when_no_lease_is_by_the_last_record() {
        let moving = own(Some('b'), Shown::Moving('a', 'b'));
        let holds = Own { also: Some('a'), ..moving.clone() };
        assert_eq!(next(&holds, &'b', false, &[]), Next::Keep);
        assert_eq!(next(&moving, &'b', false, &[peer(Shown::On('a'))]), Next::Say(Shown::On('b')));
        // Not yet begun with, and the CIB has the old one again.
        assert_eq!(next(&own(Some('a'), Shown::Moving('a', 'b')), &'a', false, &[]), Next::Say(Shown::On('a')));
    }

    #[test]
    fn who_has_booted_begins_where_all_others_are() {
        let booted = own(None, Shown::On('0'));
        let then = |says| next(&booted, &'b', false, &[peer(says)]);
        for says in [Shown::On('b'), Shown::Nothing, Shown::Off, Shown::Never] {
            assert_eq!(then(says), Next::Say(Shown::On('b')), "{says:?}");
        }
        for says in [Shown::On('a'), Shown::Moving('a', 'b'), Shown::Unclear] {
            assert_eq!(then(says), Next::Say(Shown::Nothing), "{says:?}");
            let again = own(None, Shown::Nothing);
            assert_eq!(next(&again, &'b', false, &[peer(says)]), Next::Wait("b".into()));
        }
        let stranger = Own { placed: false, ..own(None, Shown::Nothing) };
        assert_eq!(next(&stranger, &'b', false, &[]), Next::Keep);
    }

    #[test]
    fn what_was_lost_is_said_again_or_is_void() {
        for says in [Shown::Never, Shown::Off, Shown::Nothing, Shown::On('0')] {
            let lost = own(Some('a'), says);
            assert_eq!(next(&lost, &'a', false, &[peer(Shown::On('a'))]), Next::Say(Shown::On('a')));
            assert_eq!(next(&lost, &'a', false, &[peer(Shown::On('c'))]), Next::Void);
        }
        let holds = Own { also: Some('0'), ..own(Some('a'), Shown::On('a')) };
        assert_eq!(next(&holds, &'a', false, &[]), Next::Say(Shown::Moving('0', 'a')));
    }

    /// What one of the nodes of [`at_most_two_records_that_are_neighbours`] does.
    #[derive(Debug, Clone)]
    enum Does {
        /// What it is to do.
        Goes(usize),
        /// Its lease by the record before is over.
        Settles(usize),
        /// The machine boots, confirmed off by STONITH or not, and is a member again.
        Boots(usize, bool),
        /// A person, who is right, says so; it is off until it boots.
        IsOff(usize),
        /// Somebody writes any record.
        Writes(u8),
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn at_most_two_records_that_are_neighbours(
            story in proptest::collection::vec(prop_oneof![
                8 => (0..3usize).prop_map(Does::Goes),
                4 => (0..3usize).prop_map(Does::Settles),
                1 => (0..3usize, any::<bool>()).prop_map(|(node, off)| Does::Boots(node, off)),
                1 => (0..3usize).prop_map(Does::IsOff),
                3 => (0..6u8).prop_map(Does::Writes),
            ], 0..80),
        ) {
            // Records are numbers; neighbours are one apart, or 0 and 3, so that ways fork.
            let neighbours = |a: u8, b: u8| a.abs_diff(b) == 1 || a.abs_diff(b) == 3;
            #[derive(Clone, Default)]
            struct Node { on: Option<u8>, also: Option<u8>, says: Shown<u8>, off: bool, stonith: bool }
            let mut nodes: [Node; 3] = Default::default();
            let mut wanted = 0;
            for does in story {
                match does {
                    Does::Writes(record) => wanted = record,
                    Does::Settles(n) => nodes[n].also = None,
                    Does::Boots(n, stonith) => {
                        nodes[n] = Node { says: nodes[n].says, off: stonith, stonith, ..Node::default() };
                    }
                    Does::IsOff(n) => nodes[n] = Node { says: Shown::Off, off: true, ..Node::default() },
                    Does::Goes(n) => {
                        // It is a member again.
                        (nodes[n].off, nodes[n].stonith) = (false, false);
                        let peers: Vec<_> = (0..3).filter(|other| *other != n).map(|other| Peer {
                            name: other.to_string(), says: nodes[other].says, off: nodes[other].stonith, recorded: true,
                        }).collect();
                        let me = &mut nodes[n];
                        let own = Own { on: me.on, also: me.also, says: me.says, idle: false, placed: true };
                        let one = me.on.is_some_and(|on| neighbours(on, wanted));
                        match next(&own, &wanted, one, &peers) {
                            Next::Say(shown) => {
                                me.says = shown;
                                match shown {
                                    Shown::On(on) => (me.on, me.also) = (Some(on), None),
                                    Shown::Moving(from, to) => (me.on, me.also) = (Some(to), Some(from)),
                                    _ => (me.on, me.also) = (None, None),
                                }
                            }
                            Next::LetGo | Next::Void => (me.on, me.also) = (None, None),
                            Next::Keep | Next::Wait(_) | Next::TooFar => {}
                        }
                    }
                }
                let mut all: Vec<u8> = nodes.iter().flat_map(|node| node.on.into_iter().chain(node.also)).collect();
                all.sort_unstable();
                all.dedup();
                let fine = match all[..] {
                    [] | [_] => true,
                    [a, b] => neighbours(a, b),
                    _ => false,
                };
                prop_assert!(fine, "they stand on {:?}", all);
            }
        }

        #[test]
        fn what_is_said_is_read(a in "[0-9a-f]{16}", b in "[0-9a-f]{16}", boot: Option<u32>, by in "[a-z@ ]{0,20}") {
            let by = by.trim().to_owned();
            for shown in [Shown::Nothing, Shown::On(a.clone()), Shown::Moving(a, b), Shown::Off] {
                let by = if shown == Shown::Off { by.clone() } else { String::new() };
                let said = Said { shown, boot, by };
                prop_assert_eq!(Said::read(Some(&said.text())), said);
            }
        }

        #[test]
        fn any_value_is_survived(value in any::<String>()) {
            let said = Said::read(Some(&value));
            prop_assert!(value.is_empty() || said.shown != Shown::Never);
        }
    }
}
