//! What a keeper notes down of failovers, each note with its time, and what the notes of a file come to. For operators; nothing is
//! decided by it.
//!
//! All times are of one clock: that of the node whose keeper noted them. What other nodes did it knows from Sentinels' events, from the
//! CIB, and from the marks on their lines, which are looked at every 0.4 s.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::events::Step;
use super::history::{Book, Failover};

/// The version of what stands in the files.
pub const VERSION: u32 = 1;

/// Notes that are farther apart belong to two stories, unless the port has been closed all the time. In milliseconds.
const QUIET: u64 = 60_000;

/// What comes so soon after the opening belongs to it. In milliseconds.
const AFTER: u64 = 3_000;

/// Another node whose mark says closed so soon after it said that it may be open was not open, or not for long: it asked in vain, or its
/// keeper was started anew and had not looked at its firewall yet. In milliseconds.
const IN_VAIN: u64 = 2_500;

/// What is remembered of one story at most: one that goes on for days repeats itself.
const LONGEST: usize = 200;

/// How a file begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// [`VERSION`].
    pub version: u32,
    /// The master name.
    pub master: String,
    /// The node on which it was written.
    pub node: String,
}

/// A note.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in milliseconds since 1970 by this node's clock.
    pub at: u64,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum What {
    /// The keeper began to keep this master name; its nodes.
    Begun {
        /// The nodes of the record, with their Redis.
        nodes: BTreeMap<String, SocketAddr>,
    },
    /// A Sentinel says something.
    Sentinel {
        /// Which.
        sentinel: SocketAddr,
        /// What.
        says: Step,
    },
    /// This node's keeper asked a Sentinel for a failover.
    Asked {
        /// Why.
        why: String,
    },
    /// Pacemaker's permission on this node.
    Permission {
        /// `promoted`, `started`, `stopping` or `none`.
        granted: String,
    },
    /// The keeper of this node waits with the opening.
    Waits {
        /// What for.
        why: String,
    },
    /// The read-write port of this node was closed.
    Closed {
        /// This node.
        node: String,
        /// Why.
        why: String,
    },
    /// The read-write port of this node is open.
    Opened {
        /// This node.
        node: String,
        /// The configuration epoch of the Sentinels.
        epoch: u64,
    },
    /// Another node's mark says closed.
    SeenClosed {
        /// Which node.
        node: String,
    },
    /// Another node's mark says that it may be open.
    SeenOpen {
        /// Which node.
        node: String,
    },
    /// The role attribute of a node, as it stands in the CIB now.
    Role {
        /// Which node.
        node: String,
        /// None where it has none.
        role: Option<String>,
    },
}

impl What {
    /// The node whose read-write port is closed by this.
    fn closes(&self) -> Option<&str> {
        match self {
            What::Closed { node, .. } | What::SeenClosed { node } => Some(node),
            _ => None,
        }
    }

    /// The node whose read-write port is open by this.
    fn opens(&self) -> Option<&str> {
        match self {
            What::Opened { node, .. } | What::SeenOpen { node } => Some(node),
            _ => None,
        }
    }
}

/// A failover, an attempt at one, or a time in which the port was closed without one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Story {
    /// The failovers in it, the first first. None: Sentinels changed nothing.
    pub failovers: Vec<Failover>,
    /// A Sentinel began one.
    pub tried: bool,
    /// When and on which node the port was closed first. Later than `opened` where the old primary's mark was seen late: nobody knows
    /// then when it closed.
    pub closed: Option<(u64, String)>,
    /// When and on which node it was opened last.
    pub opened: Option<(u64, String)>,
    /// All notes, in their order. At most 200: of a longer one those in the middle are left out.
    pub events: Vec<Event>,
    /// How many of them were left out.
    pub left_out: usize,
}

impl Story {
    fn of(event: &Event) -> Self {
        Story {
            failovers: Vec::new(),
            tried: false,
            closed: None,
            opened: None,
            events: vec![event.clone()],
            left_out: 0,
        }
    }

    fn add(&mut self, event: &Event) {
        if self.events.len() >= LONGEST {
            self.events.remove(LONGEST / 2);
            self.left_out += 1;
        }
        self.events.push(event.clone());
    }

    fn last_at(&self) -> u64 {
        self.events.last().map_or(0, |event| event.at)
    }

    /// Whether this is another story: a failover that begins when all is open again is, however soon.
    fn is_over(&self, event: &Event) -> bool {
        let (last, opened) = (self.last_at(), self.opened.as_ref().map(|(at, _)| *at));
        let begins = matches!(event.what, What::Sentinel { says: Step::Tried, .. });
        match (&self.closed, opened) {
            (_, Some(opened)) => begins || event.at.saturating_sub(opened) > AFTER,
            (Some(_), None) => false,
            (None, None) => event.at.saturating_sub(last) > QUIET,
        }
    }

    /// Whether it is worth telling.
    fn counts(&self) -> bool {
        !self.failovers.is_empty() || self.tried || self.closed.is_some()
    }
}

/// What the notes of one master name come to, in the order in which they were made. A clock that was stepped back in between is no reason
/// to put them into another one.
pub fn stories(events: &[Event]) -> Vec<Story> {
    let mut told = Vec::new();
    let mut story: Option<Story> = None;
    let mut book = Book::default();
    let in_vain = in_vain(events);
    // Who is open, as far as that is known; who was before it, and has not been seen closed.
    let mut open: Option<&str> = None;
    let mut unseen: Option<&str> = None;
    for (event, in_vain) in events.iter().zip(in_vain) {
        if story.as_ref().is_some_and(|story| story.is_over(event)) {
            told.extend(story.take().filter(Story::counts));
        }
        let story = match &mut story {
            Some(story) => {
                story.add(event);
                story
            }
            None => story.insert(Story::of(event)),
        };
        let seconds = event.at / 1000;
        let new = match &event.what {
            What::Sentinel { says, .. } => {
                story.tried |= matches!(says, Step::Tried);
                book.heard(says, seconds).then(|| book.last().cloned()).flatten()
            }
            What::Asked { why } => {
                // It may be heard of the failover before it is known who asked for it.
                if book.asked(why, seconds) {
                    if let (Some(last), Some(known)) = (story.failovers.last_mut(), book.last()) {
                        last.clone_from(known);
                    }
                }
                None
            }
            _ if in_vain => None,
            what => {
                // This node closes what was open; others are seen closed again and again.
                let own = matches!(what, What::Closed { .. });
                if let Some(node) = what.closes().filter(|node| own || open == Some(*node)) {
                    open = None;
                    story.opened = None;
                    story.closed.get_or_insert((event.at, node.to_owned()));
                } else if let Some(node) = what.closes().filter(|node| unseen == Some(*node)) {
                    unseen = None;
                    if story.opened.is_some() {
                        story.closed.get_or_insert((event.at, node.to_owned()));
                    }
                }
                if let Some(node) = what.opens() {
                    unseen = open.filter(|before| *before != node);
                    open = Some(node);
                    story.opened = Some((event.at, node.to_owned()));
                }
                None
            }
        };
        story.failovers.extend(new);
    }
    told.extend(story.filter(Story::counts));
    told
}

/// Which of them speak of an opening that came to nothing.
fn in_vain(events: &[Event]) -> Vec<bool> {
    let mut in_vain = vec![false; events.len()];
    let mut opened: BTreeMap<&str, usize> = BTreeMap::new();
    for (n, event) in events.iter().enumerate() {
        match &event.what {
            What::SeenOpen { node } => _ = opened.insert(node, n),
            What::SeenClosed { node } => {
                let soon = |before: &usize| event.at.saturating_sub(events[*before].at) < IN_VAIN;
                if let Some(before) = opened.remove(node.as_str()).filter(soon) {
                    (in_vain[before], in_vain[n]) = (true, true);
                }
            }
            _ => {}
        }
    }
    in_vain
}

/// What stands in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its beginning.
    pub head: Head,
    /// Its notes.
    pub events: Vec<Event>,
    /// How many lines could not be understood: a power cut leaves one behind, a newer version several.
    pub not_understood: usize,
}

/// Reads a file's text. A line that cannot be understood costs itself.
///
/// # Errors
/// What is wrong with its beginning, for an operator.
pub fn read(text: &str) -> Result<File, String> {
    let mut lines = text.lines().filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let head: Head = serde_json::from_str(first).map_err(|_| "no history of rolegate-keeper".to_owned())?;
    if head.version != VERSION {
        return Err(format!("version {} is not understood, only {VERSION}", head.version));
    }
    let mut file = File { head, events: Vec::new(), not_understood: 0 };
    for line in lines {
        match serde_json::from_str(line) {
            Ok(event) => file.events.push(event),
            Err(_) => file.not_understood += 1,
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::super::history::Cause;
    use super::*;

    fn address(n: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], port))
    }

    fn says(n: u8, says: Step) -> What {
        What::Sentinel { sentinel: address(n, 26379), says }
    }

    fn switched(n: u8) -> What {
        says(n, Step::Switched { from: address(1, 6379), to: address(2, 6379) })
    }

    fn opened(node: &str) -> What {
        What::Opened { node: node.to_owned(), epoch: 1 }
    }

    fn closed(node: &str) -> What {
        What::Closed { node: node.to_owned(), why: "why".to_owned() }
    }

    fn events(list: &[(u64, What)]) -> Vec<Event> {
        list.iter().map(|(at, what)| Event { at: *at, what: what.clone() }).collect()
    }

    fn at(ms: u64, node: &str) -> Option<(u64, String)> {
        Some((ms, node.to_owned()))
    }

    #[test]
    fn a_failover_is_told_from_its_first_sign_to_the_opening() {
        let notes = events(&[
            (500, What::SeenOpen { node: "node1".into() }),
            (1_000, What::Role { node: "node3".into(), role: Some("replica".into()) }),
            (90_000, What::SeenClosed { node: "node1".into() }),
            // Down-after is longer than any quiet: the port is closed all the time.
            (190_000, says(1, Step::Silent)),
            (190_100, says(1, Step::Down)),
            (190_200, says(1, Step::Tried)),
            (191_000, switched(1)),
            (191_050, says(2, Step::Switched { from: address(1, 6379), to: address(2, 6379) })),
            (191_300, opened("node2")),
            (191_900, What::Role { node: "node1".into(), role: Some("replica".into()) }),
            // The leader tells it once more when all replicas are turned.
            (250_000, switched(1)),
        ]);
        let told = stories(&notes);
        assert_eq!(told.len(), 1, "{told:?}");
        let story = &told[0];
        assert_eq!((&story.closed, &story.opened), (&at(90_000, "node1"), &at(191_300, "node2")));
        assert_eq!((story.events.len(), story.events[0].at), (8, 90_000));
        let [failover] = story.failovers.as_slice() else { panic!("{story:?}") };
        assert_eq!((failover.from, failover.to, failover.at), (address(1, 6379), address(2, 6379), 191));
        assert_eq!(failover.cause, Cause::PrimaryDown);
    }

    #[test]
    fn a_failover_right_behind_an_opening_is_a_story_of_its_own() {
        let notes = events(&[
            (500, What::SeenOpen { node: "node1".into() }),
            (3_480, says(1, Step::Tried)),
            (3_600, What::SeenClosed { node: "node1".into() }),
            (4_600, switched(1)),
            (5_000, opened("node2")),
        ]);
        let told = stories(&notes);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!((told[0].tried, told[0].events[0].at, &told[0].opened), (true, 3_480, &at(5_000, "node2")));
    }

    #[test]
    fn a_closing_that_is_seen_behind_the_opening_is_no_other_story() {
        let open = |node: &str| What::SeenOpen { node: node.to_owned() };
        let shut = |node: &str| What::SeenClosed { node: node.to_owned() };
        let notes = events(&[
            (500, open("node1")),
            (10_000, says(1, Step::Tried)),
            (10_600, switched(1)),
            (10_900, open("node2")),
            (11_200, shut("node1")),
            // This says nothing new.
            (11_700, shut("node1")),
        ]);
        let told = stories(&notes);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!((&told[0].closed, &told[0].opened), (&at(11_200, "node1"), &at(10_900, "node2")));
    }

    #[test]
    fn what_is_no_failover_is_told_where_the_port_was_closed_or_one_was_tried() {
        let notes = events(&[
            (1_000, closed("node1")),
            (2_000, opened("node1")),
            (100_000, says(1, Step::Tried)),
            (100_500, says(1, Step::Aborted("no-good-slave".into()))),
            (200_000, says(1, Step::Silent)),
            (200_900, says(1, Step::Answers)),
            (300_000, closed("node1")),
        ]);
        let told = stories(&notes);
        let short: Vec<_> =
            told.iter().map(|story| (story.failovers.len(), story.tried, story.closed.clone())).collect();
        assert_eq!(short, [(0, false, at(1_000, "node1")), (0, true, None), (0, false, at(300_000, "node1"))]);
        assert_eq!((&told[0].opened, &told[2].opened), (&at(2_000, "node1"), &None));
    }

    #[test]
    fn an_opening_that_came_to_nothing_is_none() {
        let open = |node: &str| What::SeenOpen { node: node.to_owned() };
        let shut = |node: &str| What::SeenClosed { node: node.to_owned() };
        let notes = events(&[
            (1_000, closed("node1")),
            (1_500, switched(1)),
            (1_800, open("node2")),
            (2_200, shut("node2")),
            (9_000, open("node2")),
        ]);
        let told = stories(&notes);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!((&told[0].closed, &told[0].opened), (&at(1_000, "node1"), &at(9_000, "node2")));
    }

    #[test]
    fn a_keeper_that_is_started_anew_closes_nothing() {
        let open = |node: &str| What::SeenOpen { node: node.to_owned() };
        let shut = |node: &str| What::SeenClosed { node: node.to_owned() };
        let notes = events(&[
            (1_000, open("node1")),
            (50_000, open("node3")),
            (50_400, shut("node3")),
            // It was cut off, and nobody had seen it closed.
            (60_000, switched(2)),
            (60_100, open("node2")),
            (90_000, shut("node1")),
            (95_000, shut("node2")),
        ]);
        let told = stories(&notes);
        let short: Vec<_> = told.iter().map(|story| (story.closed.clone(), story.opened.clone())).collect();
        assert_eq!(short, [(None, at(60_100, "node2")), (at(95_000, "node2"), None)]);
    }

    #[test]
    fn who_asked_is_known_whichever_comes_first() {
        let asked = What::Asked { why: "its Redis had restarted".to_owned() };
        for order in
            [vec![asked.clone(), says(1, Step::Tried), switched(1)], vec![says(1, Step::Tried), switched(1), asked]]
        {
            let notes: Vec<_> = order.into_iter().map(|what| (5_000, what)).collect();
            let told = stories(&events(&notes));
            assert_eq!(told[0].failovers[0].cause, Cause::Keeper("its Redis had restarted".to_owned()));
        }
    }

    #[test]
    fn one_that_does_not_end_is_bounded() {
        let notes: Vec<_> = (0..5_000).map(|n| (1_000 * n, says(1, Step::Tried))).collect();
        let told = stories(&events(&notes));
        assert_eq!((told.len(), told[0].events.len(), told[0].left_out), (1, LONGEST, 5_000 - LONGEST));
        assert_eq!(told[0].events[0].at, 0);
        assert_eq!(told[0].last_at(), 4_999_000);
    }

    #[test]
    fn what_was_written_is_read_and_a_torn_line_costs_itself() {
        let head = Head { version: VERSION, master: "mymaster".into(), node: "node1".into() };
        let notes = events(&[
            (1, What::Begun { nodes: BTreeMap::from([("node1".to_owned(), address(1, 6379))]) }),
            (2, says(1, Step::Promoting(address(2, 6379)))),
            (3, switched(1)),
            (4, What::Permission { granted: "promoted".into() }),
            (5, What::Waits { why: "for node1".into() }),
            (6, closed("node1")),
            (7, What::Role { node: "node1".into(), role: None }),
            (8, says(2, Step::Aborted("not-elected".into()))),
        ]);
        let mut text = serde_json::to_string(&head).unwrap();
        for note in &notes {
            text += &format!("\n{}", serde_json::to_string(note).unwrap());
        }
        let file = read(&format!("{text}\n{{\"at\":9,\"wha\n")).unwrap();
        assert_eq!((file.head, file.events, file.not_understood), (head, notes, 1));
        assert!(read("").is_err() && read("{}").is_err());
        assert!(read(&text.replacen("\"version\":1", "\"version\":2", 1)).unwrap_err().contains('2'));
    }
}
