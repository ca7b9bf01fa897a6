//! Who is named: the decision over the Sentinels' answers. Pure.
//!
//! A Sentinel's answer counts for a node only if it comes from a Sentinel of the record under its
//! own run id, gives exactly that node's address of the record, and does not doubt that address
//! itself (s_down, o_down, failover_in_progress, or another run id than the local server's).

use std::net::SocketAddr;
use std::time::Duration;

use super::{Answer, Heard, Place};
use crate::record::{Record, SentinelEntry, canonical, unusable};
use crate::server::AskError;

/// The server of this node, when its run id is known: an answer that gives another run id for
/// the same address speaks of an earlier process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalServer<'a> {
    /// This node's name.
    pub node: &'a str,
    /// The run id that its Redis gives now.
    pub run_id: &'a str,
}

/// What came of asking one Sentinel of the record, wherever that is kept.
#[derive(Debug, Clone, Copy)]
pub struct Said<'a> {
    /// Which one.
    pub sentinel: &'a SentinelEntry,
    /// Its answer, or why there is none.
    pub answer: Result<&'a Answer, &'a AskError>,
}

impl<'a> From<&'a Heard> for Said<'a> {
    fn from(heard: &'a Heard) -> Self {
        Said { sentinel: &heard.sentinel, answer: heard.answer.as_deref() }
    }
}

/// What the answers of the record's Sentinels come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The node named by a majority of answers that count.
    pub named: Option<String>,
    /// The place that a majority gives as the primary's, counting doubts too.
    pub points_at: Option<Place>,
    /// The node of the record at that place.
    pub points_at_node: Option<String>,
    /// For each answer that counts, the node for which it does.
    pub counting: Vec<String>,
    /// How many Sentinels of the record answered under their own run id.
    pub answered: usize,
    /// How many did not.
    pub silent: usize,
    /// How many are needed.
    pub needed: usize,
    /// One line per Sentinel whose answer does not count, and why.
    pub notes: Vec<String>,
}

/// What a verdict means for one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    /// A majority names it.
    Named,
    /// A majority gives the address of another node.
    Other(String),
    /// A majority answered, and does not name it: the reason.
    Refused(String),
    /// Too few answered to tell: what is missing.
    Unknown(String),
}

const DOUBTS: [&str; 3] = ["s_down", "o_down", "failover_in_progress"];

impl Verdict {
    /// Decides. `local` is the server of the node on which this runs, where it is known.
    pub fn of<'a, T: Into<Said<'a>>>(
        record: &Record,
        told: impl IntoIterator<Item = T>,
        local: Option<LocalServer>,
    ) -> Verdict {
        let mut answered: Vec<&str> = Vec::new();
        let mut counting: Vec<&str> = Vec::new();
        let mut pointing: Vec<&Place> = Vec::new();
        let mut notes = Vec::new();
        for told in told {
            let Said { sentinel, answer } = told.into();
            let at = sentinel.address;
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    notes.push(format!("Sentinel {at}: {error}"));
                    continue;
                }
            };
            if !answer.id.eq_ignore_ascii_case(&sentinel.id) {
                notes.push(format!(
                    "Sentinel {at} has run id {}, the record says {}",
                    short(&answer.id),
                    short(&sentinel.id)
                ));
                continue;
            }
            // One Sentinel counts once, whatever it is asked through.
            if answered.contains(&sentinel.id.as_str()) {
                continue;
            }
            answered.push(&sentinel.id);
            let Some(place) = &answer.named else {
                notes.push(format!("Sentinel {at} does not know this master name"));
                continue;
            };
            pointing.push(place);
            match counts_for(record, answer, place, local) {
                Ok(node) => counting.push(node),
                Err(why) => notes.push(format!("Sentinel {at} {why}")),
            }
        }
        let needed = record.majority();
        let named = most(&counting, needed).map(|&node| node.to_owned());
        let points_at = most(&pointing, needed).map(|&place| place.clone());
        let points_at_node = points_at
            .as_ref()
            .and_then(Place::address)
            .and_then(|address| record.node_at(address))
            .map(|n| n.name.clone());
        Verdict {
            named,
            points_at,
            points_at_node,
            counting: counting.into_iter().map(str::to_owned).collect(),
            answered: answered.len(),
            silent: record.sentinels().len() - answered.len(),
            needed,
            notes,
        }
    }

    /// What this means for the node `me`.
    pub fn about(&self, me: &str) -> About {
        if self.named.as_deref().is_some_and(|named| named.eq_ignore_ascii_case(me)) {
            return About::Named;
        }
        if let Some(other) = self.points_at_node.as_ref().filter(|node| !node.eq_ignore_ascii_case(me)) {
            return About::Other(other.clone());
        }
        let notes = self.notes.join("; ");
        // Those that are silent might name it: then this is no refusal.
        let for_me = self.counting.iter().filter(|node| node.eq_ignore_ascii_case(me)).count();
        if for_me + self.silent >= self.needed {
            let total = self.answered + self.silent;
            return About::Unknown(format!(
                "{} of {total} Sentinels answered, {for_me} name this node, {} are needed ({notes})",
                self.answered, self.needed
            ));
        }
        match &self.points_at {
            Some(place) if self.points_at_node.is_none() => {
                About::Refused(format!("Sentinels name {place}, which is no node of the record"))
            }
            Some(_) => About::Refused(format!("Sentinels name this node with doubts ({notes})")),
            None if notes.is_empty() => About::Refused("Sentinels disagree about the primary".to_owned()),
            None => About::Refused(format!("no majority of Sentinels agrees on a primary ({notes})")),
        }
    }
}

/// For how long a majority of the record's Sentinels has had no answer from the Redis at `node`, which they monitor, as far as they say.
pub fn unreached_for(record: &Record, heard: &[Heard], node: SocketAddr) -> Duration {
    let silent = heard.iter().filter_map(|heard| {
        let answer = heard.answer.as_ref().ok()?;
        let master = answer.master.as_ref()?;
        let is_it = master.place.as_ref().and_then(Place::address).map(canonical) == Some(canonical(node));
        (answer.id.eq_ignore_ascii_case(&heard.sentinel.id) && is_it).then_some(master.silent_for)
    });
    let mut silent: Vec<Duration> = silent.collect();
    silent.sort_by(|one, other| other.cmp(one));
    silent.get(record.majority() - 1).copied().unwrap_or_default()
}

/// The Sentinels that can be asked to turn the primary at `node` into a replica: they name it, and are in no failover. None where one
/// is in a failover of that primary: a second would take the same epoch.
///
/// A leader that has promoted `node` and waits for a slow replica (up to failover-timeout) still shows the failover, of the
/// primary before it: that one forbids nothing, and begins none itself.
pub fn free_to_fail_over(heard: &[Heard], node: SocketAddr) -> Vec<SocketAddr> {
    let node = canonical(node);
    let is_node = |place: Option<&Place>| place.and_then(Place::address).map(canonical) == Some(node);
    let mut free = Vec::new();
    for heard in heard {
        let Ok(answer) = &heard.answer else { continue };
        let flags = answer.master.iter().flat_map(|master| &master.flags);
        let in_failover = flags.into_iter().any(|flag| flag == "failover_in_progress");
        let names_it = is_node(answer.named.as_ref());
        match (in_failover, names_it) {
            (false, true) => free.push(heard.sentinel.address),
            (false, false) => {}
            (true, true) if !is_node(answer.master.as_ref().and_then(|master| master.place.as_ref())) => {}
            (true, _) => return Vec::new(),
        }
    }
    free
}

/// The Sentinels that name the server at `node` and are in no failover, whatever the others are in: for where a leader is stuck.
pub fn in_no_failover(heard: &[Heard], node: SocketAddr) -> Vec<SocketAddr> {
    let at = |place: Option<&Place>| place.and_then(Place::address).map(canonical);
    let is_free = |heard: &&Heard| {
        let Ok(answer) = &heard.answer else { return false };
        let in_failover =
            answer.master.iter().flat_map(|master| &master.flags).any(|flag| flag == "failover_in_progress");
        at(answer.named.as_ref()) == Some(canonical(node)) && !in_failover
    };
    heard.iter().filter(is_free).map(|heard| heard.sentinel.address).collect()
}

/// The Sentinels that can be asked for a failover of the server at `node`, though others may be in one: they name it and are in none. None where
/// a leader has not promoted yet: a second failover would take its epoch. One that has promoted has told its epoch, and the next one ends
/// what it still waits for.
pub fn free_beside_promoted(heard: &[Heard], node: SocketAddr) -> Vec<SocketAddr> {
    let at = |place: Option<&Place>| place.and_then(Place::address).map(canonical);
    let mut free = Vec::new();
    for heard in heard {
        let Ok(answer) = &heard.answer else { continue };
        let named = at(answer.named.as_ref());
        let Some(master) = &answer.master else { continue };
        if !master.flags.iter().any(|flag| flag == "failover_in_progress") {
            free.extend((named == Some(canonical(node))).then_some(heard.sentinel.address));
        } else if named.is_none() || named == at(master.place.as_ref()) {
            return Vec::new();
        }
    }
    free
}

/// The node for which an answer counts, or why it counts for none.
fn counts_for<'r>(
    record: &'r Record,
    answer: &Answer,
    place: &Place,
    local: Option<LocalServer>,
) -> Result<&'r str, String> {
    let address = place.address().ok_or_else(|| format!("names {place}, a host name: it must announce addresses"))?;
    if let Some(kind) = unusable(address.ip()) {
        return Err(format!("names {place}, {kind}: no node can be told by it"));
    }
    let node = record.node_at(address).ok_or_else(|| format!("names {place}, which is no node of the record"))?;
    // A master at another address is the old primary on the leader of a failover that has
    // promoted: its flags do not speak of the node that is named.
    let Some(master) = answer
        .master
        .as_ref()
        .filter(|master| master.place.as_ref().and_then(Place::address).map(canonical) == Some(canonical(address)))
    else {
        return Ok(&node.name);
    };
    if let Some(doubt) = master.flags.iter().find(|flag| DOUBTS.contains(&flag.as_str())) {
        return Err(format!("names {} but says {doubt}", node.name));
    }
    if let Some(local) = local.filter(|local| local.node.eq_ignore_ascii_case(&node.name)) {
        if !master.run_id.is_empty() && master.run_id != local.run_id {
            return Err(format!(
                "names {} with run id {}, its Redis now is {}",
                node.name,
                short(&master.run_id),
                short(local.run_id)
            ));
        }
    }
    Ok(&node.name)
}

/// The value that stands at least `needed` times in `votes`.
fn most<T: PartialEq>(votes: &[T], needed: usize) -> Option<&T> {
    votes.iter().find(|vote| votes.iter().filter(|other| other == vote).count() >= needed)
}

fn short(id: &str) -> String {
    id.chars().take(8).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::Master;
    use super::*;
    use crate::record::tests::{id, three};
    use crate::server::AskError;
    use proptest::prelude::*;

    fn place(host: &str) -> Place {
        Place { host: host.to_owned(), port: 6379 }
    }

    fn names(host: &str) -> Answer {
        let master = Master { place: Some(place(host)), flags: vec!["master".into()], ..Master::default() };
        Answer { id: String::new(), named: Some(place(host)), master: Some(master) }
    }

    fn flagged(host: &str, flag: &str) -> Answer {
        let mut answer = names(host);
        answer.master.as_mut().unwrap().flags.push(flag.to_owned());
        answer
    }

    /// The Sentinels 1, 2 and 3 answer thus, each under its own run id.
    fn decide(answers: [Result<Answer, AskError>; 3], local: Option<LocalServer>) -> Verdict {
        let record = three();
        let heard: Vec<Heard> = answers
            .into_iter()
            .zip(record.sentinels())
            .map(|(answer, sentinel)| Heard {
                sentinel: sentinel.clone(),
                answer: answer.map(|answer| {
                    let is_anybody = answer.id.is_empty();
                    Arc::new(if is_anybody { Answer { id: sentinel.id.clone(), ..answer } } else { answer })
                }),
            })
            .collect();
        Verdict::of(&record, &heard, local)
    }

    #[test]
    fn a_majority_names() {
        let verdict = decide([Ok(names("10.0.0.1")), Ok(names("10.0.0.1")), Err(AskError::Silent)], None);
        assert_eq!(verdict.about("node1"), About::Named);
        assert_eq!(verdict.about("node2"), About::Other("node1".into()));
    }

    #[test]
    fn one_of_three_is_no_majority() {
        let verdict = decide([Ok(names("10.0.0.1")), Err(AskError::Silent), Err(AskError::Refused)], None);
        assert!(matches!(verdict.about("node1"), About::Unknown(_)));
        assert!(matches!(verdict.about("node2"), About::Unknown(_)));
    }

    #[test]
    fn a_silent_one_that_could_decide_makes_it_unknown() {
        let verdict = decide([Ok(names("10.0.0.1")), Ok(flagged("10.0.0.1", "s_down")), Err(AskError::Silent)], None);
        assert!(matches!(verdict.about("node1"), About::Unknown(_)));
    }

    #[test]
    fn disagreement_names_nobody() {
        let verdict = decide([Ok(names("10.0.0.1")), Ok(names("10.0.0.2")), Ok(names("10.0.0.3"))], None);
        assert!(matches!(verdict.about("node1"), About::Refused(_)));
    }

    #[test]
    fn another_run_id_does_not_count() {
        let stranger = Answer { id: id(9), ..names("10.0.0.1") };
        let verdict = decide([Ok(names("10.0.0.1")), Ok(stranger), Err(AskError::Silent)], None);
        assert!(matches!(verdict.about("node1"), About::Unknown(why) if why.contains("the record says")));
    }

    #[test]
    fn doubts_take_the_name_away_but_do_not_name_another() {
        for doubt in DOUBTS {
            let doubting = || Ok(flagged("10.0.0.1", doubt));
            let verdict = decide([doubting(), doubting(), Err(AskError::Silent)], None);
            assert!(matches!(verdict.about("node1"), About::Refused(why) if why.contains(doubt)));
            assert_eq!(verdict.about("node2"), About::Other("node1".into()));
        }
        let verdict =
            decide([Ok(flagged("10.0.0.1", "disconnected")), Ok(names("10.0.0.1")), Err(AskError::Silent)], None);
        assert_eq!(verdict.about("node1"), About::Named);
    }

    #[test]
    fn the_leader_counts_for_the_new_primary() {
        let mut leader = flagged("10.0.0.1", "failover_in_progress");
        leader.named = Some(place("10.0.0.2"));
        let verdict = decide([Err(AskError::Silent), Ok(leader), Ok(names("10.0.0.2"))], None);
        assert_eq!(verdict.about("node2"), About::Named);
        assert_eq!(verdict.about("node1"), About::Other("node2".into()));
    }

    #[test]
    fn a_majority_that_monitors_it_must_have_lost_it() {
        let three = three();
        let lost = |answers: [(&str, u64, u8); 3]| {
            let heard: Vec<Heard> = three
                .sentinels()
                .iter()
                .zip(answers)
                .map(|(sentinel, (host, millis, id_of))| {
                    let mut answer = names(host);
                    answer.id = id(id_of.into());
                    answer.master.as_mut().unwrap().silent_for = Duration::from_millis(millis);
                    Heard { sentinel: sentinel.clone(), answer: Ok(Arc::new(answer)) }
                })
                .collect();
            unreached_for(&three, &heard, "10.0.0.1:6379".parse().unwrap()).as_millis()
        };
        assert_eq!(lost([("10.0.0.1", 9, 1), ("10.0.0.1", 1500, 2), ("10.0.0.1", 9000, 3)]), 1500);
        assert_eq!(lost([("10.0.0.1", 9000, 1), ("10.0.0.1", 1499, 2), ("10.0.0.1", 9, 3)]), 1499);
        assert_eq!(lost([("10.0.0.1", 9, 1), ("10.0.0.2", 9000, 2), ("10.0.0.1", 9000, 3)]), 9, "of another server");
        assert_eq!(lost([("10.0.0.1", 9, 1), ("10.0.0.1", 9000, 9), ("10.0.0.1", 9000, 3)]), 9, "a stranger");
        assert_eq!(lost([("10.0.0.2", 9, 1), ("10.0.0.2", 9000, 2), ("10.0.0.1", 9000, 3)]), 0);
    }

    #[test]
    fn a_leader_behind_its_promotion_holds_up_nobody() {
        let three = three();
        let node = "10.0.0.2:6379".parse().unwrap();
        let heard = |answers: [Result<Answer, AskError>; 3]| -> Vec<Heard> {
            let answers = three.sentinels().iter().zip(answers);
            answers
                .map(|(sentinel, answer)| Heard { sentinel: sentinel.clone(), answer: answer.map(Arc::new) })
                .collect()
        };
        let free = |answers| free_to_fail_over(&heard(answers), node).len();
        let behind = || Ok(Answer { named: Some(place("10.0.0.2")), ..flagged("10.0.0.1", "failover_in_progress") });
        let before = || Ok(flagged("10.0.0.2", "failover_in_progress"));
        let names_it = || Ok(names("10.0.0.2"));
        assert_eq!(free([names_it(), names_it(), Err(AskError::Silent)]), 2);
        assert_eq!(free([behind(), names_it(), names_it()]), 2);
        assert_eq!(free([before(), names_it(), names_it()]), 0, "another failover of it is under way");
        assert_eq!(
            free([Ok(flagged("10.0.0.1", "failover_in_progress")), names_it(), names_it()]),
            0,
            "not promoted yet"
        );
        assert_eq!(free([Ok(names("10.0.0.1")), names_it(), names_it()]), 2);

        let stuck = [before(), names_it(), Ok(names("10.0.0.1"))];
        assert_eq!(in_no_failover(&heard(stuck), node), [three.sentinels()[1].address]);

        let beside = |answers| free_beside_promoted(&heard(answers), node);
        // Of 10.0.0.1; the one has chosen 10.0.0.3, the other 10.0.0.2.
        let other = || Ok(Answer { named: Some(place("10.0.0.3")), ..flagged("10.0.0.1", "failover_in_progress") });
        let third = vec![three.sentinels()[2].address];
        assert_eq!(beside([other(), behind(), names_it()]), third);
        assert_eq!(beside([Err(AskError::Silent), behind(), Ok(flagged("10.0.0.2", "s_down"))]), third);
        for not_promoted in [before(), Ok(flagged("10.0.0.1", "failover_in_progress"))] {
            assert!(beside([not_promoted, behind(), names_it()]).is_empty());
        }
        assert!(beside([other(), behind(), Ok(names("10.0.0.3"))]).is_empty(), "it names another");
    }

    #[test]
    fn an_earlier_process_is_not_the_local_server() {
        let mut old = names("10.0.0.1");
        old.master.as_mut().unwrap().run_id = "old".into();
        let local = LocalServer { node: "node1", run_id: "new" };
        let verdict = decide([Ok(old.clone()), Ok(old.clone()), Ok(names("10.0.0.1"))], Some(local));
        assert!(matches!(verdict.about("node1"), About::Refused(_)));
        // An empty run id is no objection.
        let verdict = decide([Ok(names("10.0.0.1")), Ok(names("10.0.0.1")), Ok(old)], Some(local));
        assert_eq!(verdict.about("node1"), About::Named);
    }

    #[test]
    fn loopback_names_and_strangers_name_nobody() {
        for (host, part) in
            [("127.0.0.1", "no node"), ("redis1", "no node"), ("10.0.0.99", "no node"), ("::1", "no node")]
        {
            let verdict = decide([Ok(names(host)), Ok(names(host)), Ok(names(host))], None);
            assert_eq!(verdict.named, None);
            for node in ["node1", "node2", "node3"] {
                assert!(matches!(verdict.about(node), About::Refused(why) if why.contains(part)), "{host}");
            }
        }
    }

    #[test]
    fn another_port_is_another_server() {
        let mut answer = names("10.0.0.1");
        answer.named.as_mut().unwrap().port = 6399;
        let verdict = decide([Ok(answer.clone()), Ok(answer.clone()), Ok(answer)], None);
        assert_eq!(verdict.named, None);
    }

    fn any_answer() -> impl Strategy<Value = Result<Answer, AskError>> {
        prop_oneof![
            1 => Just(Err(AskError::Silent)),
            6 => (1usize..5, prop::option::of(0usize..DOUBTS.len()), prop::option::of(1usize..5)).prop_map(|(host, doubt, id_of)| {
                let host = format!("10.0.0.{host}");
                let mut answer = doubt.map_or_else(|| names(&host), |doubt| flagged(&host, DOUBTS[doubt]));
                if let Some(n) = id_of { answer.id = id(n); }
                Ok(answer)
            }),
        ]
    }

    proptest! {
        #[test]
        fn at_most_one_node_is_named_and_never_without_a_majority(
            first in any_answer(), second in any_answer(), third in any_answer(),
        ) {
            let verdict = decide([first, second, third], None);
            let named = ["node1", "node2", "node3"].iter().filter(|node| verdict.about(node) == About::Named).count();
            prop_assert!(named <= 1);
            if named == 1 { prop_assert!(verdict.answered >= 2); }
        }
    }
}
