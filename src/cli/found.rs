//! Finding the record: asking the first Sentinel for the others and all of them for the data
//! addresses, and saying which node each address is. What cannot stand in a record is refused
//! with its reason; nothing is guessed.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use super::corosync;
use super::facts::nobody;
use super::judge::redis_cli;
use super::typed;
use crate::pacemaker::Cib;
use crate::record::{NodeEntry, Record, SentinelEntry, canonical, unusable};
use crate::sentinel::{self, Heard, Place, Survey, Verdict};
use crate::server::{AskError, Credentials};
use crate::together::together;

/// More Sentinels than anybody has for one master name.
const MOST: usize = 64;

/// What came of asking at one address.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Where.
    pub at: SocketAddr,
    /// Its answer, or why there is none.
    pub survey: Result<Survey, AskError>,
}

/// Asks the Sentinel at `first`, then all that it knows, then all that these know.
pub fn discover(first: SocketAddr, master: &str, credentials: &Credentials, within: Duration) -> Vec<Asked> {
    let mut all: Vec<Asked> = Vec::new();
    let mut next = vec![first];
    while !next.is_empty() {
        let jobs: Vec<_> = next
            .iter()
            .map(|&at| {
                let (master, credentials) = (master.to_owned(), credentials.clone());
                move || sentinel::survey(at, &master, &credentials, within)
            })
            .collect();
        let answers = together(within + Duration::from_millis(500), jobs);
        all.extend(
            next.drain(..)
                .zip(answers)
                .map(|(at, survey)| Asked { at, survey: survey.unwrap_or(Err(AskError::Silent)) }),
        );
        next = not_asked(&all);
    }
    all
}

/// Those that these know, and that were not asked yet: of all together no more than [`MOST`], for each takes a thread.
fn not_asked(all: &[Asked]) -> Vec<SocketAddr> {
    let mut next = Vec::new();
    for (_, place) in all.iter().filter_map(|asked| asked.survey.as_ref().ok()).flat_map(|survey| &survey.peers) {
        if all.len() + next.len() >= MOST {
            break;
        }
        let Some(at) = place.address().filter(|at| unusable(at.ip()).is_none()) else { continue };
        if !next.contains(&at) && !all.iter().any(|asked| asked.at == at) {
            next.push(at);
        }
    }
    next
}

/// The addresses by which nodes are known here: corosync's rings and the nodes' own names,
/// resolved now and never again.
pub fn addresses_of(nodes: &[String]) -> BTreeMap<String, Vec<IpAddr>> {
    // No corosync.conf, or none that we may read: the names alone have to do.
    let rings = corosync::ring_addresses(&std::fs::read_to_string(corosync::FILE).unwrap_or_default());
    let jobs: Vec<_> = nodes
        .iter()
        .map(|node| {
            let mut names = rings.get(node).cloned().unwrap_or_default();
            names.push(node.clone());
            move || names.iter().flat_map(|name| resolve(name)).collect::<Vec<_>>()
        })
        .collect();
    let found = together(Duration::from_secs(5), jobs);
    nodes.iter().cloned().zip(found.into_iter().map(Option::unwrap_or_default)).collect()
}

fn resolve(name: &str) -> Vec<IpAddr> {
    let found = (name, 0).to_socket_addrs().map(|all| all.map(|address| address.ip().to_canonical()).collect());
    // A name that is unknown gives no address; that no node fits is said where it matters.
    found.unwrap_or_default()
}

/// A record as it was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// The record.
    pub record: Record,
    /// What its Sentinels said.
    pub heard: Vec<Heard>,
    /// What is odd about it and no hindrance.
    pub notes: Vec<String>,
}

impl Found {
    /// What the Sentinels' answers come to by `record`, which may be an older one.
    pub fn verdict(&self, record: &Record) -> Verdict {
        let heard: Vec<Heard> = record
            .sentinels()
            .iter()
            .map(|entry| Heard {
                sentinel: entry.clone(),
                answer: self
                    .heard
                    .iter()
                    .find(|heard| heard.sentinel == *entry)
                    .map_or(Err(AskError::Silent), |heard| heard.answer.clone()),
            })
            .collect();
        Verdict::of(record, &heard, None)
    }
}

/// What the operator and the cluster say about the nodes.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// The master name.
    pub master: &'a str,
    /// `--node`.
    pub nodes: &'a [NodeEntry],
    /// The nodes of the record that there is, but for those that are to leave it.
    pub recorded: &'a [NodeEntry],
    /// The addresses by which each node is known.
    pub known: &'a BTreeMap<String, Vec<IpAddr>>,
    /// The cluster.
    pub cib: &'a Cib,
    /// The port to which the gate redirects.
    pub redis_port: u16,
}

/// Makes a record of the answers, or says all that stands in its way.
///
/// # Errors
/// One sentence for each hindrance.
pub fn find(asked: &[Asked], given: Given) -> Result<Found, Vec<String>> {
    let (mut wrong, mut notes) = (Vec::new(), Vec::new());
    for named in asked.iter().filter_map(|asked| asked.survey.as_ref().ok()?.answer.named.as_ref()) {
        if let Some(why) = nobody(named, None, &given.cib.managed_addresses) {
            let sentence = format!("Sentinels name {named} as the primary, {why}");
            if !wrong.contains(&sentence) {
                wrong.push(sentence);
            }
        }
    }
    let sentinels = sentinels(asked, given.master, &mut wrong, &mut notes);
    let needed = sentinels.len() / 2 + 1;
    let heard: Vec<Heard> = sentinels
        .iter()
        .map(|entry| Heard {
            sentinel: entry.clone(),
            answer: answer_of(asked, &entry.id)
                .map_or(Err(AskError::Silent), |survey| Ok(Arc::new(survey.answer.clone()))),
        })
        .collect();
    for heard in &heard {
        if let Err(error) = &heard.answer {
            let others = sentinels.iter().filter(|other| other.address != heard.sentinel.address);
            let reset: Vec<String> = others.map(|other| forgets(other.address, given.master)).collect();
            notes.push(format!(
                "Sentinel {} is known to the others and gives: {error}. If it is gone for good, first: {}",
                heard.sentinel.address,
                reset.join("; ")
            ));
        }
    }
    let Some(primary) = primary(&heard, needed, &mut wrong) else { return Err(wrong) };
    let nodes = nodes(asked, &primary, given, &mut wrong, &mut notes);
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let record = Record::new(sentinels, nodes).map_err(|error| vec![error.to_string()])?;
    Ok(Found { record, heard, notes })
}

fn answer_of<'a>(asked: &'a [Asked], id: &str) -> Option<&'a Survey> {
    asked.iter().filter_map(|asked| asked.survey.as_ref().ok()).find(|survey| survey.answer.id.eq_ignore_ascii_case(id))
}

/// What has the Sentinel there forget replicas and Sentinels that are gone.
pub fn forgets(sentinel: SocketAddr, master: &str) -> String {
    format!("{} SENTINEL RESET {}", redis_cli(&sentinel.to_string()), typed([master]))
}

/// The Sentinels, each once, under an address that every node reaches.
fn sentinels(asked: &[Asked], master: &str, wrong: &mut Vec<String>, notes: &mut Vec<String>) -> Vec<SentinelEntry> {
    let mut found: Vec<SentinelEntry> = Vec::new();
    let answered = || asked.iter().filter_map(|asked| Some((asked.at, asked.survey.as_ref().ok()?)));
    for (_, survey) in answered() {
        let id = survey.answer.id.to_ascii_lowercase();
        if found.iter().any(|entry| entry.id == id) {
            continue;
        }
        // The first one may have been asked at 127.0.0.1, and again at the address by which the
        // others know it.
        let places = answered().filter(|(_, other)| other.answer.id.eq_ignore_ascii_case(&id)).map(|(at, _)| at);
        match places.clone().find(|at| unusable(at.ip()).is_none()) {
            Some(address) => found.push(SentinelEntry { id, address }),
            None => {
                let at: Vec<String> = places.map(|at| at.to_string()).collect();
                wrong.push(format!(
                    "the Sentinel at {} is known to no other one, so its real address is unknown: give it with --sentinel ADDRESS:PORT",
                    at.join(", ")
                ));
            }
        }
    }
    for (at, survey) in answered() {
        for (id, place) in &survey.peers {
            if found.iter().any(|entry| entry.id.eq_ignore_ascii_case(id)) {
                continue;
            }
            let Some(address) = place.address() else {
                wrong.push(format!(
                    "the Sentinel at {at} knows another one as {place}, a host name: Sentinels must announce addresses (sentinel announce-hostnames no)"
                ));
                continue;
            };
            if let Some(kind) = unusable(address.ip()) {
                wrong.push(format!(
                    "the Sentinel at {at} knows another one as {address}, {kind}: it must announce its real address (sentinel announce-ip)"
                ));
            } else if found.iter().any(|entry| canonical(entry.address) == canonical(address)) {
                notes.push(format!(
                    "the Sentinel at {at} still knows an earlier Sentinel at {address}, which this ends: {}",
                    forgets(at, master)
                ));
            } else if id.len() == 40 {
                found.push(SentinelEntry { id: id.to_ascii_lowercase(), address });
            } else {
                wrong.push(format!("the Sentinel at {address} gives no answer, and nobody knows its run id"));
            }
        }
    }
    wrong.dedup();
    found.sort_by_key(|entry| entry.address);
    found
}

/// The place that a majority names.
fn primary(heard: &[Heard], needed: usize, wrong: &mut Vec<String>) -> Option<Place> {
    let places: Vec<&Place> = heard.iter().filter_map(|heard| heard.answer.as_ref().ok()?.named.as_ref()).collect();
    let agreed = places.iter().find(|place| places.iter().filter(|other| other == place).count() >= needed);
    // Nobody left to ask: why was said.
    if agreed.is_none() && !heard.is_empty() {
        let said: Vec<String> = heard
            .iter()
            .map(|heard| {
                let what = match &heard.answer {
                    Ok(answer) => {
                        answer.named.as_ref().map_or("no such master name".to_owned(), |place| format!("{place}"))
                    }
                    Err(error) => error.to_string(),
                };
                format!("{}: {what}", heard.sentinel.address)
            })
            .collect();
        wrong.push(format!(
            "no majority of {needed} of {} Sentinels names the same primary ({})",
            heard.len(),
            said.join("; ")
        ));
    }
    agreed.map(|place| (*place).clone())
}

/// The nodes and their data addresses.
fn nodes(
    asked: &[Asked],
    primary: &Place,
    given: Given,
    wrong: &mut Vec<String>,
    notes: &mut Vec<String>,
) -> Vec<NodeEntry> {
    let mut entries: Vec<NodeEntry> = Vec::new();
    for entry in given.nodes {
        match given.cib.node(&entry.name) {
            Some(node) => entries.push(NodeEntry { name: node.name.clone(), address: entry.address }),
            None => wrong.push(format!("--node {entry}: the cluster has no node {}", entry.name)),
        }
    }
    let mut places: Vec<(Place, bool)> = vec![(primary.clone(), true)];
    for survey in asked.iter().filter_map(|asked| asked.survey.as_ref().ok()) {
        // Those that follow another primary know other replicas.
        for replica in survey.replicas.iter().filter(|_| survey.answer.named.as_ref() == Some(primary)) {
            let counts = !replica.down && replica.priority > 0;
            match places.iter_mut().find(|(place, _)| *place == replica.place) {
                Some((_, may_be_chosen)) => *may_be_chosen |= counts,
                None => places.push((replica.place.clone(), counts)),
            }
        }
    }
    for (place, may_be_chosen) in &places {
        let what = if place == primary { "the primary" } else { "a replica" };
        if let Some(why) = nobody(place, None, &given.cib.managed_addresses) {
            let sentence = format!("Sentinels know {what} as {place}, {why}");
            match *may_be_chosen {
                // Said already, as what Sentinels name.
                true if place == primary => {}
                true => wrong.push(sentence),
                false => notes.push(sentence),
            }
            continue;
        }
        let Some(address) = place.address() else { continue };
        if entries.iter().any(|entry| canonical(entry.address) == canonical(address)) {
            continue;
        }
        let is_known = |known: &Vec<IpAddr>| known.contains(&address.ip().to_canonical());
        let fit: Vec<&String> = given.known.iter().filter(|(_, known)| is_known(known)).map(|(name, _)| name).collect();
        match fit.as_slice() {
            [name] if entries.iter().any(|entry| entry.name == **name) => {
                wrong.push(format!("Sentinels know {what} as {address}, which is {name}'s, but {name} has another address too: say which with --node {name}=ADDRESS:PORT"));
            }
            [name] => entries.push(NodeEntry { name: (*name).clone(), address }),
            [] if *may_be_chosen => wrong.push(format!(
                "Sentinels know {what} as {address}, which is no address by which corosync or the resolver knows a node: say --node NAME={address}, or, if it is on no node of this cluster, set its replica-priority to 0"
            )),
            [] => notes.push(format!("{address} is on no node of this cluster and cannot become primary: left out")),
            several => wrong.push(format!("{address} fits several nodes ({several:?}): say --node NAME={address}")),
        }
    }
    for old in given.recorded {
        let is_there = |entry: &NodeEntry| {
            entry.name.eq_ignore_ascii_case(&old.name) || canonical(entry.address) == canonical(old.address)
        };
        // Behind a SENTINEL RESET replicas are unknown for some seconds: no reason to take a node's right to open away.
        if given.cib.node(&old.name).is_some() && !entries.iter().any(is_there) {
            notes.push(format!(
                "Sentinels know no Redis of {0} now: it stays in the record (rolegate init --master {1} --replace --without {0} takes it out)",
                old.name, given.master
            ));
            entries.push(old.clone());
        }
    }
    for entry in &entries {
        if entry.address.port() != given.redis_port {
            wrong.push(format!(
                "Redis on {} is at port {}, but the gate redirects to redis_port {}: set that parameter of the gate",
                entry.name,
                entry.address.port(),
                given.redis_port
            ));
        }
        if let Some((resource, _)) =
            given.cib.managed_addresses.iter().find(|(_, ip)| ip.to_canonical() == entry.address.ip().to_canonical())
        {
            let sentence = format!("{entry}: that address moves with the cluster resource {resource}");
            if !wrong.iter().any(|other| other.contains(&entry.address.to_string())) {
                wrong.push(sentence);
            }
        }
    }
    for node in &given.cib.nodes {
        if wrong.is_empty() && !entries.iter().any(|entry| entry.name == node.name) {
            notes.push(format!(
                "{} has no Redis that Sentinels know: its gate will open nothing (--node {}=ADDRESS:PORT adds it)",
                node.name, node.name
            ));
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::pacemaker::cib;
    use crate::sentinel::{Answer, Known};

    pub(in super::super) fn id(n: usize) -> String {
        format!("{n:040x}")
    }

    fn place(text: &str) -> Place {
        let (host, port) = text.rsplit_once(':').unwrap();
        Place { host: host.to_owned(), port: port.parse().unwrap() }
    }

    /// The Sentinel number `n` of three, asked at `at`; all is well.
    fn survey(n: usize, at: &str) -> Asked {
        Asked {
            at: at.parse().unwrap(),
            survey: Ok(Survey {
                answer: Answer { id: id(n), named: Some(place("10.0.0.1:6379")), master: None },
                peers: (1..=3)
                    .filter(|&other| other != n)
                    .map(|other| (id(other), place(&format!("10.0.0.{other}:26379"))))
                    .collect(),
                replicas: (2..=3)
                    .map(|n| Known {
                        place: place(&format!("10.0.0.{n}:6379")),
                        down: false,
                        linked: true,
                        is_replica: true,
                        priority: 100,
                        info_age: None,
                    })
                    .collect(),
            }),
        }
    }

    pub(in super::super) fn three() -> Vec<Asked> {
        let mut all = vec![survey(1, "127.0.0.1:26379")];
        all.extend((1..=3).map(|n| survey(n, &format!("10.0.0.{n}:26379"))));
        all
    }

    pub(in super::super) fn cluster() -> Cib {
        let vip = "<resources><primitive id=\"vip\" class=\"ocf\" provider=\"heartbeat\" type=\"IPaddr2\"><instance_attributes id=\"v\"><nvpair id=\"v1\" name=\"ip\" value=\"10.0.0.100\"/></instance_attributes></primitive></resources>";
        let nodes: String = (1..=3).map(|n| format!("<node id=\"{n}\" uname=\"node{n}\"/>")).collect();
        cib::parse(&format!("<cib><configuration><nodes>{nodes}</nodes>{vip}</configuration></cib>")).unwrap()
    }

    #[test]
    fn one_that_knows_any_number_of_others_has_some_of_them_asked() {
        let mut all = three();
        let next = not_asked(&all[..1]);
        assert_eq!(next.iter().map(SocketAddr::to_string).collect::<Vec<_>>(), ["10.0.0.2:26379", "10.0.0.3:26379"]);
        assert!(not_asked(&all).is_empty());
        let Ok(survey) = &mut all[2].survey else { panic!("all is well") };
        survey.peers.extend((1..=300).map(|n| (id(n), place(&format!("10.0.1.1:{n}")))));
        assert_eq!(not_asked(&all).len(), MOST - all.len());
    }

    fn known() -> BTreeMap<String, Vec<IpAddr>> {
        (1..=3).map(|n| (format!("node{n}"), vec![format!("10.0.0.{n}").parse().unwrap()])).collect()
    }

    fn found(asked: &[Asked], nodes: &[&str]) -> Result<Found, Vec<String>> {
        let nodes: Vec<NodeEntry> = nodes
            .iter()
            .map(|entry| {
                let (name, address) = entry.split_once('=').unwrap();
                NodeEntry { name: name.into(), address: address.parse().unwrap() }
            })
            .collect();
        find(
            asked,
            Given {
                master: "mymaster",
                nodes: &nodes,
                recorded: &[],
                known: &known(),
                cib: &cluster(),
                redis_port: 6379,
            },
        )
    }

    fn change(asked: &mut [Asked], change: impl Fn(&mut Survey)) {
        asked.iter_mut().for_each(|asked| change(asked.survey.as_mut().unwrap()));
    }

    #[test]
    fn finds_three_sentinels_through_one_at_loopback() {
        let found = found(&three(), &[]).unwrap();
        assert_eq!(found.record, crate::record::tests::three());
        assert_eq!(found.notes, Vec::<String>::new());
        assert_eq!(found.verdict(&found.record).named.as_deref(), Some("node1"));
    }

    #[test]
    fn a_node_whose_replica_is_unknown_stays_as_long_as_the_cluster_has_it() {
        let mut asked = three();
        change(&mut asked, |survey| survey.replicas.clear());
        let mut recorded = crate::record::tests::three().nodes().to_vec();
        recorded.push(NodeEntry { name: "gone".into(), address: "10.0.0.8:6379".parse().unwrap() });
        let given = |recorded: &[NodeEntry]| {
            find(
                &asked,
                Given { master: "mymaster", nodes: &[], recorded, known: &known(), cib: &cluster(), redis_port: 6379 },
            )
            .unwrap()
        };
        let found = given(&recorded);
        assert_eq!(found.record, crate::record::tests::three());
        assert!(found.notes.len() == 2 && found.notes[0].contains("--without node2"), "{:?}", found.notes);
        // One that is given another address is known.
        recorded[0].address = "10.0.0.9:6379".parse().unwrap();
        assert_eq!(given(&recorded).record, crate::record::tests::three());
        assert_eq!(given(&[]).record.nodes().len(), 1);
    }

    #[test]
    fn a_silent_sentinel_stands_in_the_record_all_the_same() {
        let mut asked = three();
        asked[3].survey = Err(AskError::Silent);
        let found = found(&asked, &[]).unwrap();
        assert_eq!(found.record, crate::record::tests::three());
        assert!(
            found.notes[0].contains("10.0.0.3:26379") && found.notes[0].contains("SENTINEL RESET"),
            "{:?}",
            found.notes
        );
    }

    #[test]
    fn nodes_on_another_network_are_given_by_hand() {
        let mut asked = three();
        change(&mut asked, |survey| {
            survey.answer.named = Some(place("192.168.1.1:6379"));
            survey
                .replicas
                .iter_mut()
                .for_each(|known| known.place.host = known.place.host.replace("10.0.0", "192.168.1"));
        });
        let wrong = found(&asked, &["node1=192.168.1.1:6379"]).unwrap_err();
        assert!(wrong.len() == 2 && wrong[0].contains("--node NAME=192.168.1.2:6379"), "{wrong:?}");
        let all = ["node1=192.168.1.1:6379", "NODE2=192.168.1.2:6379", "node3=192.168.1.3:6379"];
        assert_eq!(
            found(&asked, &all).unwrap().record.nodes_parameter(),
            "node1=192.168.1.1:6379 node2=192.168.1.2:6379 node3=192.168.1.3:6379"
        );
    }

    /// What is done to a healthy answer, and what must be said against it.
    type Refusal = (fn(&mut Vec<Asked>), &'static str);

    const REFUSED: &[Refusal] = &[
        (
            |all| change(all, |s| s.answer.named = Some(place("127.0.0.1:6379"))),
            "name 127.0.0.1:6379 as the primary, a loopback address",
        ),
        (|all| change(all, |s| s.answer.named = Some(place("redis1:6379"))), "redis1:6379 as the primary, a host name"),
        (|all| change(all, |s| s.answer.named = Some(place("10.0.0.100:6379"))), "moves with the cluster resource vip"),
        (|all| change(all, |s| s.answer.named = Some(place("169.254.1.1:6379"))), "a link-local address"),
        (|all| change(all, |s| s.answer.named = Some(place("10.0.0.1:6390"))), "redirects to redis_port 6379"),
        (|all| change(all, |s| s.replicas[0].place = place("10.0.0.9:6379")), "--node NAME=10.0.0.9:6379"),
        (
            |all| {
                all.truncate(2);
                change(all, |s| s.peers[0].1 = place("sentinel2:26379"));
            },
            "sentinel announce-hostnames no",
        ),
        (
            |all| {
                all.truncate(1);
                change(all, |s| s.peers.clear());
            },
            "its real address is unknown: give it with --sentinel",
        ),
        (
            |all| {
                all[2].survey = Err(AskError::Silent);
                all[3].survey = Err(AskError::Refused);
            },
            "no majority of 2 of 3 Sentinels",
        ),
    ];

    #[test]
    fn what_cannot_stand_in_a_record_is_refused() {
        for (index, (change, said)) in REFUSED.iter().enumerate() {
            let mut asked = three();
            change(&mut asked);
            let wrong = found(&asked, &[]).unwrap_err().join("\n");
            assert!(wrong.contains(said), "case {index}: no {said:?} in\n{wrong}");
        }
    }

    #[test]
    fn the_majority_decides_whom_the_record_starts_with() {
        let mut asked = three();
        change(&mut asked[2..], |survey| survey.answer.named = Some(place("10.0.0.2:6379")));
        let found = found(&asked, &["node1=10.0.0.1:6379"]).unwrap();
        assert_eq!(found.verdict(&found.record).named.as_deref(), Some("node2"));
    }

    #[test]
    fn a_replica_outside_that_cannot_be_chosen_is_left_out() {
        let mut asked = three();
        change(&mut asked, |survey| {
            let known = survey.replicas[0].clone();
            survey.replicas.push(Known { place: place("10.9.9.9:6379"), priority: 0, ..known });
        });
        let found = found(&asked, &[]).unwrap();
        assert_eq!(found.record, crate::record::tests::three());
        assert!(found.notes[0].contains("10.9.9.9:6379"));
    }

    #[test]
    fn a_node_that_the_cluster_does_not_have_is_refused() {
        let wrong = found(&three(), &["node9=10.0.0.9:6379"]).unwrap_err();
        assert!(wrong[0].contains("no node node9"), "{wrong:?}");
    }
}
