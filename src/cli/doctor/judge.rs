//! What the facts come to: for each check whether all is well, and if not, what was found and how to mend it. Pure.

use std::collections::BTreeMap;

use super::super::facts::{Group, Keeper, NodeFacts, Server};
use super::super::judge::{self, Severity, failover, go_on};
use super::checks::CHECKS;
use super::facts::{Facts, Master};
use super::machine::{self, Ends, Unit};
use super::rules;
use super::servers::{Redis, Sentinel};
use crate::gate::Ports;
use crate::hook::CHECK_FAILED;
use crate::record::{canonical, unusable};

/// Something that is not as expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// On which nodes, where it is about nodes.
    pub nodes: Vec<String>,
    /// What was found.
    pub found: String,
    /// How to mend it, commands first.
    pub mend: Option<String>,
}

/// What came of one check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What was found where all is well.
    pub found: Vec<String>,
    /// What is not as expected, worst first.
    pub findings: Vec<Finding>,
    /// Why it was not looked at: something else is missing.
    pub skipped: Option<String>,
}

/// The outcome of each check.
pub type Outcomes = BTreeMap<&'static str, Outcome>;

/// While it grows.
#[derive(Default)]
struct Book(Outcomes);

impl Book {
    fn of(&mut self, id: &'static str) -> &mut Outcome {
        debug_assert!(CHECKS.iter().any(|check| check.id == id), "no check is called {id}");
        self.0.entry(id).or_default()
    }

    fn well(&mut self, id: &'static str, found: impl Into<String>) {
        self.of(id).found.push(found.into());
    }

    fn bad(&mut self, id: &'static str, severity: Severity, found: impl Into<String>, mend: impl Into<String>) {
        self.add(id, severity, None, found.into(), mend.into());
    }

    /// The same of a node. What is found on several is one finding.
    fn bad_on(
        &mut self,
        id: &'static str,
        node: &str,
        severity: Severity,
        found: impl Into<String>,
        mend: impl Into<String>,
    ) {
        self.add(id, severity, Some(node), found.into(), mend.into());
    }

    fn warn_on(&mut self, id: &'static str, node: &str, found: impl Into<String>, mend: impl Into<String>) {
        self.add(id, Severity::Warning, Some(node), found.into(), mend.into());
    }

    fn add(&mut self, id: &'static str, severity: Severity, node: Option<&str>, found: String, mend: String) {
        let mend = Some(mend).filter(|mend| !mend.is_empty());
        let findings = &mut self.of(id).findings;
        let same = findings.iter_mut().find(|other| other.severity == severity && other.found == found);
        let Some(same) = same.filter(|same| node.is_some() || same.mend == mend) else {
            let nodes = node.map(str::to_owned).into_iter().collect();
            return findings.push(Finding { severity, nodes, found, mend });
        };
        same.nodes.extend(node.map(str::to_owned));
        // A command for each of them.
        match (&mut same.mend, mend) {
            (Some(all), Some(one)) if !all.lines().any(|line| line == one) => *all = format!("{all}\n{one}"),
            (none @ None, one) => *none = one,
            _ => {}
        }
    }

    fn warn(&mut self, id: &'static str, found: impl Into<String>, mend: impl Into<String>) {
        self.bad(id, Severity::Warning, found, mend);
    }

    /// It could not be told.
    fn unknown(&mut self, id: &'static str, why: impl AsRef<str>, mend: impl Into<String>) {
        self.bad(id, Severity::Unknown, format!("could not be told: {}", why.as_ref()), mend);
    }

    fn skip(&mut self, id: &'static str, why: impl Into<String>) {
        self.of(id).skipped = Some(why.into());
    }
}

/// What `rolegate status` finds, by the checks that it belongs to, whose names are in [`super::super::judge`].
const OF_STATUS: [&str; 17] = [
    "pacemaker",
    "gate",
    "quorum",
    "quorum-policy",
    "maintenance",
    "writers",
    "members",
    "fences",
    "bans",
    "roles",
    "failures",
    "ports",
    "keeper",
    "firewall",
    "sentinel-agreement",
    "access",
    "redis",
];

/// Those of them that need no master name.
const OF_CLUSTER: [&str; 5] = ["pacemaker", "gate", "quorum", "quorum-policy", "maintenance"];

const AS_ROOT: &str = "run it as root";

/// What brings a file of the package back that somebody has taken away.
const AGAIN: &str = "apt install --reinstall ./rolegate_*.deb    (the file from which it was installed)";

const PROTECTED: &str =
    "protected mode is on and the default user needs no password: who comes from another host is refused";

/// Judges all of it.
pub fn judge(facts: &Facts) -> Outcomes {
    let mut book = Book::default();
    status(facts, &mut book);
    cluster(facts, &mut book);
    for (judged, master) in facts.report.masters.iter().zip(&facts.masters) {
        let group = &judged.group;
        sentinels(group, master, &mut book);
        sentinel_settings(group, master, facts, &mut book);
        rights(group, master, facts, &mut book);
        redis(facts, group, master, &mut book);
        local_redis(facts, group, master, &mut book);
        last_proof(facts, group, master, &mut book);
    }
    sentinel_here(facts, &mut book);
    acl(facts, &mut book);
    keeper_unit(facts, &mut book);
    firewall(facts, &mut book);
    kernel(facts, &mut book);
    certificates(facts, &mut book);
    versions(facts, &mut book);
    let Book(mut outcomes) = book;
    for check in CHECKS {
        let outcome = outcomes.entry(check.id).or_default();
        outcome.findings.sort_by_key(|finding| finding.severity);
        if outcome.findings.is_empty() && outcome.found.is_empty() && outcome.skipped.is_none() {
            outcome.skipped = Some(missing(facts).to_owned());
        }
    }
    outcomes
}

/// What a check that has seen nothing waits for.
fn missing(facts: &Facts) -> &'static str {
    match (&facts.report.error, facts.report.masters.as_slice()) {
        (Some(_), _) => "the settings are broken",
        (_, []) => "there is no gate",
        (_, masters) if masters.iter().all(|judged| judged.group.record_error.is_some()) => "there is no record",
        _ => "nothing answers that could tell",
    }
}

fn status(facts: &Facts, book: &mut Book) {
    let report = &facts.report;
    if let Some(error) = &report.error {
        return book.bad("settings", Severity::Critical, error, format!("edit {}", crate::settings::FILE));
    }
    book.well("settings", "they can be used");
    let of_masters = report.masters.iter().flat_map(|judged| &judged.judgement.problems);
    for problem in report.problems.iter().chain(of_masters) {
        let next = problem.next.clone().unwrap_or_default();
        book.bad(problem.check, problem.severity, &problem.what, next);
    }
    for id in OF_STATUS {
        if !book.of(id).findings.is_empty() {
            continue;
        }
        let cluster = &report.cluster;
        let found = match id {
            "pacemaker" => Some("it answers".to_owned()),
            _ if report.masters.is_empty() && !OF_CLUSTER.contains(&id) => None,
            "gate" if report.masters.is_empty() => None,
            "gate" => Some(listed(report.masters.iter().map(|judged| judged.group.resource.as_str()))),
            "quorum" => cluster.quorum.map(|_| "yes".to_owned()),
            "maintenance" => cluster.quorum.map(|_| "off".to_owned()),
            "quorum-policy" => cluster.no_quorum_policy.clone(),
            "writers" => {
                Some(listed(report.masters.iter().flat_map(|judged| &judged.judgement.writers).map(String::as_str)))
            }
            "firewall" if report.masters.iter().all(|judged| judged.group.firewall.is_none()) => {
                book.unknown("firewall", "it needs root", AS_ROOT);
                None
            }
            _ if report.masters.iter().all(|judged| judged.group.record_error.is_some()) => None,
            _ => Some("as expected".to_owned()),
        };
        if let Some(found) = found {
            book.well(id, found);
        }
    }
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

fn cluster(facts: &Facts, book: &mut Book) {
    match facts.report.cluster.stonith {
        Some(true) => match &facts.cluster {
            Ok(cluster) if cluster.fencing.is_empty() => book.warn(
                "stonith",
                "stonith-enabled is true, and there is no fencing device: Pacemaker starts nothing",
                "pcs stonith create ...; then, when a node may go down: pcs stonith fence NODE",
            ),
            Ok(cluster) => book.well("stonith", format!("on, with {}", cluster.fencing.join(", "))),
            Err(why) => book.skip("stonith", why),
        },
        Some(false) => book.warn(
            "stonith",
            "stonith-enabled is false",
            "pcs stonith create ...; pcs property set stonith-enabled=true    (/usr/share/doc/rolegate/lease.md says what the lease covers without it)",
        ),
        None => {}
    }
    let Ok(cluster) = &facts.cluster else { return };
    match (cluster.opt_in, cluster.not_allowed.as_slice()) {
        (false, _) => book.well("symmetric", "symmetric-cluster is true"),
        (true, []) => book.well("symmetric", "symmetric-cluster is false, and a rule allows each gate"),
        (true, gates) => {
            let clone = facts.report.masters.first().map_or("RedisGate", |judged| judged.group.resource.as_str());
            let attribute = facts.report.masters.first().map_or("redis_role", |judged| judged.group.attribute.as_str());
            book.bad(
                "symmetric",
                Severity::Critical,
                format!("symmetric-cluster is false, and no rule lets {} run anywhere", gates.join(", ")),
                format!(
                    "pcs constraint location {clone}-clone rule score=0 defined {attribute}    (as in /usr/share/doc/rolegate/pcs/gate.sh)"
                ),
            );
        }
    }
}

/// An address as `redis-cli` takes it.
fn at(address: &str) -> String {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "26379"));
    format!("-h {} -p {port}", host.trim_matches(['[', ']']))
}

/// Of one Sentinel by itself and of all together.
fn sentinels(group: &Group, master: &Master, book: &mut Book) {
    if group.record_error.is_some() {
        return;
    }
    let (name, count) = (&group.master, group.sentinels.len());
    let majority = count / 2 + 1;
    // Each one more is one step of the record, with the port open.
    let more = |how_many: usize| format!("set up {how_many} more, each on a host of its own, then: {}", go_on(name));
    if count < 3 {
        book.warn("sentinel-count", format!("{name} has {count} Sentinels: it cannot lose one"), more(3 - count));
    } else if count % 2 == 0 {
        let what = format!("{name} has {count} Sentinels: it can lose no more of them than {} could", count - 1);
        book.warn("sentinel-count", what, more(1));
    }
    let host = |address: &str| address.rsplit_once(':').map_or(address.to_owned(), |(host, _)| host.to_owned());
    for (n, one) in group.sentinels.iter().enumerate() {
        if group.sentinels[..n].iter().any(|other| host(&other.address) == host(&one.address)) {
            let what = format!("two Sentinels of {name} are on {}", host(&one.address));
            book.warn("sentinel-count", what, format!("move one to a host of its own, then: {}", go_on(name)));
        }
    }
    let mut seen = Vec::new();
    for (address, sentinel) in &master.sentinels {
        let Ok(sentinel) = sentinel else { continue };
        seen.push(address.as_str());
        let cli = format!("redis-cli {}", at(address));
        let number = |field: &str| sentinel.master.get(field).and_then(|value| value.parse::<usize>().ok());
        if let Some(others) = number("num-other-sentinels").filter(|others| others + 1 != count) {
            book.warn(
                "sentinel-count",
                format!("Sentinel {address} knows {others} others, the record has {}", count - 1),
                format!("{cli} SENTINEL RESET {name}    (one Sentinel at a time, half a minute apart)"),
            );
        }
        if let Some(quorum) = number("quorum").filter(|quorum| *quorum != majority) {
            let (severity, means) = if quorum > count {
                (Severity::Critical, "more than there are: it never begins a failover")
            } else if quorum > majority {
                (Severity::Warning, "more than a majority: fewer may die than could")
            } else {
                (Severity::Warning, "less than a majority: few bad lines are enough for a failover")
            };
            let what = format!("Sentinel {address} has quorum {quorum} for {name}, {means}");
            book.bad("sentinel-quorum", severity, what, format!("{cli} SENTINEL SET {name} quorum {majority}"));
        }
        if sentinel.info.get("sentinel_tilt").is_some_and(|tilt| tilt == "1") {
            let what = format!("Sentinel {address} is in TILT: it acts on nothing for half a minute");
            book.warn("sentinel-agreement", what, "see what stopped it, or its clock");
        }
    }
    if seen.is_empty() {
        return;
    }
    book.well("sentinel-count", format!("{name}: {count}, which know each other"));
    book.well("sentinel-quorum", format!("{name}: {majority}"));
    epochs(group, master, book);
}

fn epochs(group: &Group, master: &Master, book: &mut Book) {
    let known = group.sentinels.iter().filter(|sentinel| !sentinel.finishing && !sentinel.stranger);
    let epochs: Vec<(&str, u64)> = known.filter_map(|one| Some((one.address.as_str(), one.epoch?))).collect();
    let Some(highest) = epochs.iter().map(|(_, epoch)| *epoch).max() else { return };
    let busy =
        group.sentinels.iter().any(|one| one.finishing || one.flags.iter().any(|flag| flag.contains("failover")));
    let name = &group.master;
    let cure = format!("{}    (a failover gives all of them a new one)", failover(group));
    for (address, epoch) in epochs.iter().filter(|(_, epoch)| *epoch < highest && !busy) {
        let what = format!("Sentinel {address} has epoch {epoch} of {name}, another has {highest}");
        book.warn("sentinel-epochs", what, &cure);
    }
    // Of a minority it can be that it alone is behind.
    let most = epochs.len() * 2 > group.sentinels.len();
    // The keeper has seen a failover to whom they name; none leaves the epoch at 0.
    let seen = group.last_failover.as_ref().filter(|last| !last.or_earlier);
    if let (0, Some(last)) = (highest, seen) {
        let what = format!(
            "all Sentinels have epoch 0 of {name}, though its primary has moved to {} before: they were set up anew, or lost what they knew",
            last.to.as_deref().unwrap_or("this one")
        );
        book.warn("sentinel-epochs", what, &cure);
    } else if let Some(epoch) = master.opened_in.filter(|epoch| *epoch > highest && most) {
        let what = format!(
            "the Sentinels have epoch {highest} of {name}, and had {epoch} when the port was opened here: they were set up anew, or lost what they knew"
        );
        book.warn("sentinel-epochs", what, cure);
    }
    book.well("sentinel-epochs", format!("{name}: {highest}"));
}

/// Settings that each Sentinel has for the master name.
fn sentinel_settings(group: &Group, master: &Master, facts: &Facts, book: &mut Book) {
    let name = &group.master;
    let mut times = Vec::new();
    for (address, sentinel) in &master.sentinels {
        let Ok(sentinel) = sentinel else { continue };
        if sentinel.master.is_empty() {
            continue;
        }
        if let Some(ms) = sentinel.master.get("down-after-milliseconds").and_then(|value| value.parse::<u64>().ok()) {
            times.push((address, ms));
        }
        scripts(name, address, sentinel, book);
    }
    let usual = times.iter().map(|(_, ms)| *ms).max();
    for (address, ms) in &times {
        let set = |to: u64| format!("redis-cli {} SENTINEL SET {name} down-after-milliseconds {to}", at(address));
        if *ms <= group.lease_ms {
            let what = format!("Sentinel {address}: {ms} ms for {name}, the lease is {} ms", group.lease_ms);
            book.warn("down-after", what, set(usual.filter(|usual| *usual > group.lease_ms).unwrap_or(5000)));
        } else if Some(*ms) != usual {
            let usual = usual.unwrap_or(5000);
            book.warn(
                "down-after",
                format!("Sentinel {address}: {ms} ms for {name}, another has {usual} ms"),
                set(usual),
            );
        }
    }
    if let Some(usual) = usual {
        book.well("down-after", format!("{name}: {usual} ms, the lease is {} ms", group.lease_ms));
    }
    match &facts.machine.sentinel_conf {
        None => {}
        Some(Err(why)) => book.unknown("reboot-down-after", why, AS_ROOT),
        Some(Ok(lines)) => {
            let value = lines.iter().rev().find_map(|line| {
                let mut words = line.split_whitespace();
                let is = words.next() == Some("sentinel")
                    && words.next() == Some("master-reboot-down-after-period")
                    && words.next() == Some(name);
                is.then(|| words.next().unwrap_or_default().to_owned())
            });
            match value.filter(|value| value != "0") {
                None => book.well("reboot-down-after", format!("{name}: 0")),
                Some(value) => book.warn(
                    "reboot-down-after",
                    format!("the Sentinel here has {value} for {name}"),
                    format!("redis-cli -p 26379 SENTINEL SET {name} master-reboot-down-after-period 0"),
                ),
            }
        }
    }
}

fn scripts(name: &str, address: &str, sentinel: &Sentinel, book: &mut Book) {
    let line = format!("sentinel client-reconfig-script {name} /usr/lib/rolegate/rolegate-hook");
    let mend = format!("on its host: stop Sentinel, put this line into its sentinel.conf, start it:\n{line}");
    match sentinel.master.get("client-reconfig-script") {
        None => book.warn("scripts", format!("Sentinel {address} calls no script for {name}"), mend),
        Some(path) if !path.ends_with("/rolegate-hook") => {
            book.warn("scripts", format!("Sentinel {address} calls {path} for {name}, which is not rolegate's"), mend);
        }
        Some(path) => book.well("scripts", format!("{name} at {address}: {path}")),
    }
    let look = format!("redis-cli {} SENTINEL PENDING-SCRIPTS; on its host: journalctl -t rolegate-hook", at(address));
    let failed =
        sentinel.pending.iter().flatten().filter(|(path, tried)| *tried > 1 && path.ends_with("/rolegate-hook"));
    match (failed.count(), sentinel.waiting()) {
        (0, 0) => {}
        (0, waiting) => book.warn("scripts", format!("{waiting} scripts wait at Sentinel {address}"), look),
        (failed, _) => {
            book.warn(
                "scripts",
                format!("the hook has failed at Sentinel {address}: {failed} calls wait to be tried again"),
                look,
            );
        }
    }
}

/// What gives our user its rights.
fn give(cli: &str, file: &str) -> String {
    format!(
        "{cli} ACL SETUSER USER RIGHT ..., and in {file}: /usr/share/doc/rolegate/README.md, \"Passwords\", has the rights"
    )
}

/// What our users may do.
fn rights(group: &Group, master: &Master, facts: &Facts, book: &mut Book) {
    for (address, sentinel) in &master.sentinels {
        let Ok(sentinel) = sentinel else { continue };
        let denied: Vec<&str> =
            sentinel.denied.iter().map(String::as_str).filter(|what| *what != "SENTINEL PENDING-SCRIPTS").collect();
        match denied.as_slice() {
            [] => book.well("sentinel-rights", format!("{address}: all")),
            denied => {
                let lease = denied.iter().any(|what| what.starts_with("CLIENT "));
                let severity = if lease { Severity::Critical } else { Severity::Warning };
                let what = format!("Sentinel {address} denies our user {}", denied.join(", "));
                let cli = format!("redis-cli {}", at(address));
                book.bad("sentinel-rights", severity, what, give(&cli, "sentinel.conf"));
            }
        }
    }
    for (node, redis) in &master.redis {
        let Ok(redis) = redis else { continue };
        let mut denied: Vec<&str> =
            redis.denied.iter().map(String::as_str).filter(|what| *what != "ACL LIST").collect();
        let own = facts.machine.redis_user.as_deref().unwrap_or("default");
        let user = redis.users.iter().flatten().find(|user| user.name == own);
        // Tried, they would do something.
        if user.is_some_and(|user| !user.may_rewrite()) {
            denied.push("CONFIG REWRITE");
        }
        if user.is_some_and(|user| !user.may_promote()) {
            denied.push("REPLICAOF");
        }
        let rest = match user {
            None => " (whether CONFIG REWRITE and REPLICAOF are allowed cannot be told from here)",
            Some(_) => "",
        };
        match denied.as_slice() {
            [] => book.well("redis-rights", format!("{node}: all{rest}")),
            denied => book.warn_on(
                "redis-rights",
                node,
                format!("Redis denies our user {}", denied.join(", ")),
                give(&format!("on {node}: redis-cli -p {}", group.redis_port), "redis.conf"),
            ),
        }
    }
}

/// The Redis servers' settings.
fn redis(facts: &Facts, group: &Group, master: &Master, book: &mut Book) {
    let servers: Vec<(&NodeFacts, &Redis)> =
        group.nodes.iter().filter_map(|node| Some((node, master.redis.get(&node.name)?.as_ref().ok()?))).collect();
    for (node, told) in &master.redis {
        if told.as_ref().is_err_and(|why| why.starts_with("DENIED")) {
            let mend = format!(
                "on {node}: redis-cli -p {} CONFIG SET protected-mode no, or a password (/usr/share/doc/rolegate/README.md, \"Passwords\")",
                group.redis_port
            );
            book.bad_on("protected-mode", node, Severity::Critical, PROTECTED, mend);
        }
    }
    let replicas = group.nodes.iter().filter(|node| node.address.is_some()).count().saturating_sub(1);
    for (node, redis) in &servers {
        let name = node.name.as_str();
        let get = |setting: &str| redis.settings.get(setting).map(String::as_str);
        let number = |setting: &str| get(setting).and_then(|value| value.parse::<u64>().ok());
        let address = node.address.map_or_else(|| format!("127.0.0.1:{}", group.redis_port), |at| at.to_string());
        let set = |setting: &str, value: &str| judge::set(&address, setting, value);

        match number("min-replicas-to-write") {
            Some(0) => book.warn_on("min-replicas", name, "min-replicas-to-write is 0", set("min-replicas-to-write", "1")),
            // What a switchover has set says of itself what was there before.
            Some(least @ 1..=9999) if least as usize > replicas => book.bad_on(
                "min-replicas",
                name,
                Severity::Critical,
                format!("min-replicas-to-write is {least}, and it can have {replicas} replicas: as primary it takes no writes"),
                set("min-replicas-to-write", "1"),
            ),
            Some(least @ 2..=9999) if least as usize == replicas => book.warn_on(
                "min-replicas",
                name,
                format!("min-replicas-to-write is {least}, and it can have {replicas} replicas: as primary it takes no writes without one of them"),
                set("min-replicas-to-write", "1"),
            ),
            Some(least) => match number("min-replicas-max-lag") {
                Some(lag) if lag > 10 || lag == 0 => {
                    let what = format!("min-replicas-max-lag is {lag} s");
                    book.warn_on("min-replicas", name, what, set("min-replicas-max-lag", "10"));
                }
                lag => book.well("min-replicas", format!("{name}: {least} within {} s", lag.unwrap_or_default())),
            },
            None => {}
        }

        announced(group, node, redis, book, &set);
        persistence(group, node, redis, book, &set);
        listens(facts, node, redis, book, &set);
        users(facts, node, redis, book, &judge::redis_cli(&address));
    }
}

fn announced(group: &Group, node: &NodeFacts, redis: &Redis, book: &mut Book, set: &impl Fn(&str, &str) -> String) {
    let Some(address) = node.address else { return };
    let (name, ip) = (&node.name, address.ip().to_string());
    let get = |setting: &str| redis.settings.get(setting).map(String::as_str).unwrap_or_default();
    let (announced, port) = (get("replica-announce-ip"), get("replica-announce-port"));
    if !announced.is_empty() && announced.parse() != Ok(address.ip()) {
        let what = format!("it announces {announced}, the record has {ip}");
        return book.bad_on("announce", name, Severity::Critical, what, set("replica-announce-ip", &ip));
    }
    if !["", "0"].contains(&port) && port != address.port().to_string() {
        let what = format!("it announces port {port}, the record has {}", address.port());
        return book.bad_on(
            "announce",
            name,
            Severity::Critical,
            what,
            set("replica-announce-port", &address.port().to_string()),
        );
    }
    // What the primary says of a replica is what Sentinels learn.
    let primary = group.verdict.as_ref().and_then(|verdict| verdict.points_at_node.as_ref());
    let primary = group.nodes.iter().find(|node| Some(&node.name) == primary);
    let known = primary.and_then(|primary| Some(&primary.redis.as_ref()?.given()?.replicas));
    let follows = node.redis.as_ref().and_then(Server::given).is_some_and(|server| server.link_up && !server.primary);
    let seen = |address| {
        known.is_some_and(|known| {
            known.iter().any(|replica| replica.address.parse().ok().map(canonical) == Some(canonical(address)))
        })
    };
    if follows && known.is_some() && !seen(address) {
        let what = format!("the primary knows no replica at its address of the record, {address}");
        return book.bad_on("announce", name, Severity::Critical, what, set("replica-announce-ip", &ip));
    }
    book.well("announce", format!("{name}: {address}"));
}

fn persistence(group: &Group, node: &NodeFacts, redis: &Redis, book: &mut Book, set: &impl Fn(&str, &str) -> String) {
    let (name, info) = (&node.name, |field: &str| redis.info.get(field).map(String::as_str));
    let get = |setting: &str| redis.settings.get(setting).map(String::as_str);
    let (Some(save), Some(aof)) = (get("save"), get("appendonly")) else { return };
    if save.is_empty() && aof != "yes" {
        book.warn_on(
            "persistence",
            name,
            "it keeps nothing on its disk: restarted, it is empty",
            set("appendonly", "yes"),
        );
    }
    let stops = get("stop-writes-on-bgsave-error") == Some("yes") && !save.is_empty();
    if info("rdb_last_bgsave_status") == Some("err") {
        let primary = node.redis.as_ref().and_then(Server::given).is_some_and(|server| server.primary);
        let (severity, means) = if stops && primary {
            (Severity::Critical, ": it refuses writes, and Sentinels take it for dead")
        } else {
            (Severity::Warning, "")
        };
        let what = format!("the last save to disk failed{means}");
        book.bad_on(
            "persistence",
            name,
            severity,
            what,
            format!("on {name}: df -h; tail the server's log; then redis-cli -p {} BGSAVE", group.redis_port),
        );
    }
    if aof == "yes" && info("aof_last_write_status").is_some_and(|status| status != "ok") {
        let what = "writing the AOF fails: it refuses writes";
        book.bad_on("persistence", name, Severity::Critical, what, format!("on {name}: df -h; tail the server's log"));
    }
    let kind = match (save.is_empty(), aof == "yes") {
        (false, true) => "RDB and AOF",
        (true, true) => "AOF",
        (false, false) => "RDB",
        (true, false) => "nothing",
    };
    book.well("persistence", format!("{name}: {kind}"));
}

/// Where it listens.
fn listens(facts: &Facts, node: &NodeFacts, redis: &Redis, book: &mut Book, set: &impl Fn(&str, &str) -> String) {
    let (name, Some(bind)) = (&node.name, redis.settings.get("bind")) else { return };
    let words: Vec<&str> = bind.split_whitespace().map(|word| word.trim_start_matches('-')).collect();
    let any4 = words.is_empty() || words.iter().any(|word| ["*", "0.0.0.0"].contains(word));
    let any6 = words.is_empty() || words.iter().any(|word| ["*", "::", "::*"].contains(word));
    let here = facts.me.as_deref() == Some(name);
    let mut wanted: Vec<_> = node.address.map(|address| address.ip()).into_iter().collect();
    wanted.extend(facts.machine.addresses.iter().filter(|_| here));
    let missing = wanted.into_iter().filter(|ip| {
        let any = if ip.is_ipv4() { any4 } else { any6 };
        unusable(*ip).is_none() && !any && !words.iter().any(|word| word.parse() == Ok(*ip))
    });
    let mut missing: Vec<String> = missing.map(|ip| ip.to_string()).collect();
    missing.dedup();
    if missing.is_empty() {
        let rest = if here || any4 { "" } else { " (its other addresses cannot be told from here)" };
        return book.well("bind", format!("{name}: {bind}{rest}"));
    }
    let what =
        format!("bind is {bind}, without {}: who comes there by a port of the gate is refused", missing.join(", "));
    book.warn_on("bind", name, what, set("bind", "\"* -::*\""));
}

fn users(facts: &Facts, node: &NodeFacts, redis: &Redis, book: &mut Book, cli: &str) {
    let name = &node.name;
    let Some(users) = &redis.users else {
        for id in ["hello", "protected-mode"] {
            match facts.me.as_deref() == Some(name) {
                true => book.unknown(
                    id,
                    format!("Redis on {name} shows its users neither to our user nor in its files"),
                    AS_ROOT,
                ),
                // What a node's files say is seen there.
                false => book.skip(id, format!("{name} does not show its users to our user: run it there, too")),
            }
        }
        return;
    };
    let default = users.iter().find(|user| user.name == "default");
    let open = default.is_some_and(|user| user.on && user.nopass);
    let protected = redis.settings.get("protected-mode").is_some_and(|value| value == "yes");
    match (open, protected) {
        (true, true) => book.bad_on(
            "protected-mode",
            name,
            Severity::Critical,
            PROTECTED,
            format!("{cli} CONFIG SET protected-mode no, or a password (requirepass and masterauth on all nodes, auth-pass in the Sentinels)"),
        ),
        (true, false) => book.warn_on(
            "protected-mode",
            name,
            "the default user needs no password",
            "requirepass and masterauth on all nodes, sentinel auth-pass in the Sentinels; /usr/share/doc/rolegate/README.md, \"Passwords\"",
        ),
        (false, _) => book.well("protected-mode", format!("{name}: the default user needs a password, or is off")),
    }
    // Sentinel's own, and the one by which replicas log in.
    let mut own: Vec<&str> = Vec::new();
    if let Some(Ok(lines)) = &facts.machine.sentinel_conf {
        own.extend(lines.iter().filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (words.first() == Some(&"sentinel") && words.get(1) == Some(&"auth-user")).then(|| words.get(3).copied())?
        }));
    }
    if own.is_empty() && !open {
        own.push("default");
    }
    let may: Vec<&str> = users.iter().filter(|user| user.may_forge()).map(|user| user.name.as_str()).collect();
    let may: Vec<&str> = may.into_iter().filter(|user| !own.contains(user)).collect();
    match may.as_slice() {
        [] => book.well("hello", format!("{name}: nobody but Sentinel's user")),
        may => {
            let first = may[0];
            let who = if open && may == ["default"] {
                "anybody (the default user, without a password)".to_owned()
            } else {
                format!("user {}", may.join(", "))
            };
            let mend = if first == "default" {
                format!(
                    "give Sentinel a user of its own (sentinel auth-user) and applications others, then: {cli} ACL SETUSER default resetchannels"
                )
            } else {
                format!(
                    "{cli} ACL SETUSER {first} resetchannels    (then the channels that it needs; and in its configuration)"
                )
            };
            book.warn_on("hello", name, format!("{who} may tell Sentinels who is primary"), mend);
        }
    }
}

/// What the files of this node's Redis say.
fn local_redis(facts: &Facts, group: &Group, master: &Master, book: &mut Book) {
    let node = group.nodes.iter().find(|node| facts.me.as_deref() == Some(node.name.as_str()));
    let Some(server) = node.and_then(|node| node.redis.as_ref()?.given()) else { return };
    let lines = match &master.redis_conf {
        None if !facts.root => return book.unknown("restart-as-primary", "it needs root", AS_ROOT),
        None => {
            return book.unknown(
                "restart-as-primary",
                "Redis runs without a configuration file, or does not say which",
                "start it with one",
            );
        }
        Some(Err(why)) => return book.unknown("restart-as-primary", why, AS_ROOT),
        Some(Ok(lines)) => lines,
    };
    let follows = machine::setting(lines, "replicaof").or_else(|| machine::setting(lines, "slaveof"));
    match (server.primary, follows, &server.of) {
        (true, ..) => book.well("restart-as-primary", "it is the primary"),
        (false, Some(_), _) => book.well("restart-as-primary", "it starts as a replica"),
        (false, None, of) => {
            let (host, port) = of.as_deref().and_then(|of| of.rsplit_once(':')).unwrap_or(("PRIMARY", "6379"));
            book.warn(
                "restart-as-primary",
                "this node's Redis is a replica, and its configuration file has no replicaof",
                format!("redis-cli -p {} CONFIG REWRITE    (or the line: replicaof {host} {port})", group.redis_port),
            );
        }
    }
}

fn last_proof(facts: &Facts, group: &Group, master: &Master, book: &mut Book) {
    let name = &group.master;
    match &master.least_of_lease {
        None => {
            let named = group.verdict.as_ref().and_then(|verdict| verdict.named.as_deref());
            let where_to = named.map_or(String::new(), |named| format!(": run it on {named}, too"));
            let here = named.is_some() && named == facts.me.as_deref();
            if here {
                book.unknown("last-proof", "it needs root", AS_ROOT);
            } else {
                book.skip("last-proof", format!("{name} is written to elsewhere{where_to}"));
            }
        }
        Some(Err(why)) => book.unknown("last-proof", why, AS_ROOT),
        Some(Ok(None)) => book.warn(
            "last-proof",
            format!("{name}: no lease was held all the time here"),
            "rolegate status; journalctl -t rolegate-keeper",
        ),
        Some(Ok(Some(least))) => {
            let since = group.lease_ms.saturating_sub(*least);
            let said = format!(
                "{name}: the oldest proof was {}.{} s old, {}.{} s before the lease's end",
                since / 1000,
                since % 1000 / 100,
                least / 1000,
                least % 1000 / 100
            );
            if *least < group.lease_ms / 4 {
                book.warn(
                    "last-proof",
                    said,
                    "journalctl -t rolegate-keeper; rolegate doctor shows the keeper's priority as keeper-unit",
                );
            } else {
                book.well("last-proof", said);
            }
        }
    }
}

/// Whether a unit was changed on disk, and which property has what value.
fn property<'a>(unit: &'a Unit, name: &str) -> &'a str {
    unit.get(name).map_or("", String::as_str)
}

fn sentinel_here(facts: &Facts, book: &mut Book) {
    let machine = &facts.machine;
    let Some((unit, process)) = &machine.sentinel else {
        let why = match &machine.units {
            Some(Err(why)) => {
                return book.unknown("hook", why, "systemctl status redis-sentinel    (or valkey-sentinel)");
            }
            _ => "neither redis-sentinel.service nor valkey-sentinel.service runs on this node",
        };
        return book.skip("hook", why);
    };
    if !facts.root {
        return book.unknown("hook", "running it needs root", AS_ROOT);
    }
    let properties = machine.units.as_ref().and_then(|units| units.as_ref().ok()).and_then(|units| units.get(unit));
    let dropin = format!(
        "the package has it ({unit}.d/rolegate.conf below /usr/lib/systemd/system): {AGAIN}; then systemctl daemon-reload; systemctl restart {unit}"
    );
    let restart =
        format!("systemctl daemon-reload; systemctl restart {unit}    (with the drop-in in place it starts rightly)");
    if let Some(unit_now) = properties {
        let (exec, none) = (property(unit_now, "ExecPaths"), property(unit_now, "NoExecPaths"));
        let allowed: Vec<&str> = exec.split_whitespace().collect();
        let needed =
            ["/usr/sbin/crm_node", "/usr/sbin/crm_attribute", "/usr/sbin/cibadmin", "/usr/lib/rolegate/rolegate-hook"];
        let covered = |program: &str| {
            allowed
                .iter()
                .any(|path| program == *path || program.starts_with(&format!("{}/", path.trim_end_matches('/'))))
        };
        let missing: Vec<&str> = needed.into_iter().filter(|program| !covered(program)).collect();
        if none.split_whitespace().any(|path| path == "/") && !missing.is_empty() {
            book.warn("hook", format!("{unit} forbids to execute {}", missing.join(", ")), &dropin);
        }
        if property(unit_now, "PrivateUsers") == "yes" {
            book.warn("hook", format!("{unit} has PrivateUsers=yes: Pacemaker's tools refuse to work in it"), &dropin);
        }
        if property(unit_now, "NeedDaemonReload") == "yes" {
            book.warn("hook", format!("{unit} was changed on the disk, and systemd has not read it"), &restart);
        }
    }
    match process {
        Err(why) => book.unknown("hook", why, AS_ROOT),
        Ok(process) => {
            if machine.haclient.is_none_or(|group| !process.groups.contains(&group)) {
                let what = format!("{unit}'s process is not in group haclient: the hook cannot talk to Pacemaker");
                book.warn("hook", what, format!("the drop-in has SupplementaryGroups=haclient; {restart}"));
            }
            if process.own_users {
                book.warn("hook", format!("{unit}'s process is in a user namespace of its own"), &restart);
            }
        }
    }
    match &machine.hook {
        None => book.unknown("hook", "running it needs root", AS_ROOT),
        Some(Err(why)) => book.warn("hook", format!("Sentinel cannot run it: {why}"), &dropin),
        Some(Ok(lines)) => {
            for line in lines.iter().filter_map(|line| line.strip_prefix(CHECK_FAILED)) {
                let mend = if line.starts_with("its settings") {
                    "chgrp redis (or valkey) and chmod 0640 for the password files".to_owned()
                } else if line.starts_with("asking Pacemaker") {
                    dropin.clone()
                } else {
                    "rolegate status; as Sentinel's user: /usr/lib/rolegate/rolegate-hook --check".to_owned()
                };
                book.warn("hook", format!("run as Sentinel runs it, it fails at {line}"), mend);
            }
            book.well("hook", format!("{} things were tried as {unit} would, and work", lines.len()));
        }
    }
}

fn acl(facts: &Facts, book: &mut Book) {
    let acl = match &facts.acl {
        None if !facts.root => return book.unknown("cluster-acl", "trying it needs root", AS_ROOT),
        None => return book.skip("cluster-acl", "no Sentinel runs on this node, or there is no cluster"),
        Some(Err(why)) => return book.unknown("cluster-acl", why, "cibadmin -Q -U redis --show-access=text"),
        Some(Ok(acl)) => acl,
    };
    let user = &acl.user;
    let recipe = "sh /usr/share/doc/rolegate/pcs/acl.sh    (or crmsh/acl.crm, xml/acl.xml there)";
    if !acl.enabled {
        let what =
            format!("enable-acl is not set: who takes over {user}, Sentinel's account, may change the whole cluster");
        return book.warn("cluster-acl", what, recipe);
    }
    if !acl.role {
        let what = format!("user {user} may not write the role attribute: the hook cannot work without the keeper");
        book.warn("cluster-acl", what, recipe);
    }
    if acl.property {
        book.warn("cluster-acl", format!("user {user} may change the cluster's properties"), recipe);
    } else if acl.elsewhere {
        let what = format!(
            "user {user} may make its attribute among the cluster's properties, and rename it there to any other"
        );
        book.warn("cluster-acl", what, format!("spell the xpath from the root, not //nvpair[...]: {recipe}"));
    }
    let rename = if acl.rename {
        "; its own attribute it may rename, to standby for example: Pacemaker cannot prevent that"
    } else {
        ""
    };
    book.well("cluster-acl", format!("user {user} may write the role attribute{rename}"));
}

fn keeper_unit(facts: &Facts, book: &mut Book) {
    let id = "keeper-unit";
    let unit = match &facts.machine.units {
        Some(Err(why)) => return book.unknown(id, why, "systemctl status rolegate-keeper"),
        units => units.as_ref().and_then(|units| units.as_ref().ok()).and_then(|units| units.get(machine::KEEPER_UNIT)),
    };
    let Some(unit) = unit.filter(|unit| property(unit, "LoadState") == "loaded") else {
        return book.bad(id, Severity::Critical, "rolegate-keeper.service is not installed on this node", AGAIN);
    };
    let restart = "systemctl restart rolegate-keeper    (costs nothing)";
    if property(unit, "UnitFileState") != "enabled" {
        let what = format!("it does not start at boot ({})", property(unit, "UnitFileState"));
        book.warn(id, what, "systemctl enable rolegate-keeper");
    }
    if property(unit, "NeedDaemonReload") == "yes" {
        book.warn(
            id,
            "it was changed on the disk, and systemd has not read it",
            format!("systemctl daemon-reload; {restart}"),
        );
    }
    let process = match &facts.machine.keeper {
        None => {
            return book.bad(
                id,
                Severity::Critical,
                format!("it is {}", property(unit, "ActiveState")),
                "systemctl start rolegate-keeper",
            );
        }
        Some(Err(why)) => return book.unknown(id, why, AS_ROOT),
        Some(Ok(process)) => process,
    };
    // SCHED_RR of sched.h; the reset-on-fork flag is not shown there.
    if process.policy != (2, 99) {
        let what = format!(
            "it is scheduled as any program (policy {}, priority {}): a busy machine can cost a lease",
            process.policy.0, process.policy.1
        );
        book.warn(
            id,
            what,
            format!(
                "chrt --rr --reset-on-fork --pid 99 {}; look for LimitRTPRIO or a container that forbids it",
                process.pid
            ),
        );
    }
    if process.oom_score_adj > -900 {
        let what = format!("its OOM score is {}: the kernel may end it when memory is short", process.oom_score_adj);
        book.warn(id, what, format!("OOMScoreAdjust=-1000 in its unit, unless a container forbids it; {restart}"));
    }
    if !process.locked {
        book.warn(
            id,
            "its memory is not locked: it can be swapped out",
            format!("LimitMEMLOCK=infinity in its unit; {restart}"),
        );
    }
    if process.replaced {
        book.warn(id, "its program was replaced on the disk since it was started", restart);
    }
    book.well(id, "active, enabled, SCHED_RR 99, not to be swapped out or ended");
}

fn firewall(facts: &Facts, book: &mut Book) {
    if let Some((backend, missing)) = &facts.machine.backend {
        match missing.as_slice() {
            [] => book.well("firewall-backend", *backend),
            missing => book.bad(
                "firewall-backend",
                Severity::Critical,
                format!("{backend} is to be used, and {} is not installed", missing.join(", ")),
                if *backend == "nft" { "apt install nftables" } else { "apt install iptables ipset, or nftables" },
            ),
        }
    }
    let found = match &facts.machine.rules {
        None => {
            book.unknown("foreign-rules", "it needs root", AS_ROOT);
            return book.unknown("direct", "it needs root", AS_ROOT);
        }
        Some(Err(why)) => {
            book.unknown("foreign-rules", why, "nft list ruleset");
            return book.unknown("direct", why, "nft list ruleset");
        }
        Some(Ok(found)) => found,
    };
    for rule in &found.untracked {
        let what = format!("connections of the ports are not tracked, so there is no redirect: {rule}");
        book.bad(
            "foreign-rules",
            Severity::Critical,
            what,
            format!("{}    (or let it spare these ports)", rules::delete(rule)),
        );
    }
    for rule in &found.taken {
        let what = format!("somebody else's rule takes what comes to a port of the gate: {rule}");
        book.warn("foreign-rules", what, rules::delete(rule));
    }
    if let Some(chain) = &found.shut {
        let what = format!(
            "{chain} drops what no rule accepts, and none is seen that accepts redirected connections: clients would hang"
        );
        let mut ports: Vec<u16> = facts.report.masters.iter().map(|judged| judged.group.redis_port).collect();
        if ports.is_empty() {
            // By which the rules were judged.
            ports.push(Ports::default().redis);
        }
        let mend = format!(
            "{}    (/usr/share/doc/rolegate/README.md has the lines of other firewalls, and how they last)",
            rules::let_in(chain, &ports)
        );
        book.warn("foreign-rules", what, mend);
    }
    book.well("foreign-rules", "none that matters");
    let Some(port) = facts.report.masters.first().map(|judged| judged.group.redis_port) else { return };
    if facts.machine.direct && !found.by_direct {
        let what = format!("direct in {} is not in force: {port} is as reachable as without it", crate::settings::FILE);
        book.warn("direct", what, "systemctl restart rolegate-keeper, then journalctl -u rolegate-keeper -n 20");
    } else if found.by_direct {
        book.well("direct", format!("only nodes, Sentinels and what direct lists reach {port}"));
    } else if found.direct_shut {
        book.well("direct", format!("a rule keeps strangers off {port}"));
    } else {
        book.warn(
            "direct",
            format!("no rule keeps clients off {port}: they can write past the gate"),
            format!(
                "direct = [] under [firewall] in {}, with the addresses of others that need {port}; then systemctl restart rolegate-keeper",
                crate::settings::FILE
            ),
        );
    }
}

fn kernel(facts: &Facts, book: &mut Book) {
    match &facts.machine.conntrack {
        None => {}
        Some(Err(why)) => book.unknown("conntrack", why, "modprobe nf_conntrack"),
        Some(Ok((count, most))) => {
            let said = format!("{count} of {most}");
            let more = format!("sysctl -w net.netfilter.nf_conntrack_max={}    (and in /etc/sysctl.d)", most * 2);
            match (count * 100).checked_div(*most).unwrap_or(0) {
                0..80 => book.well("conntrack", said),
                80..95 => book.warn("conntrack", said, more),
                _ => book.bad("conntrack", Severity::Critical, said, more),
            }
        }
    }
}

fn certificates(facts: &Facts, book: &mut Book) {
    let id = "certificates";
    let looked =
        facts.masters.iter().any(|master| master.redis_conf.is_some()) || facts.machine.sentinel_conf.is_some();
    if facts.machine.certificates.is_empty() {
        return if looked {
            book.well(id, "Redis and Sentinel here use none")
        } else {
            book.skip(id, "no Redis or Sentinel is seen on this node")
        };
    }
    for (file, end) in &facts.machine.certificates {
        let port = facts.report.masters.first().map_or(6379, |judged| judged.group.redis_port);
        let renew = format!(
            "renew {file}, then redis-cli -p {port} CONFIG SET tls-cert-file {file} (or restart): servers read it when they start"
        );
        match end {
            Err(why) => book.unknown(id, why, format!("openssl x509 -noout -enddate -in {file}")),
            Ok((Ends::Past, date)) => book.bad(id, Severity::Critical, format!("{file} ended {date}"), renew),
            Ok((Ends::Soon, date)) => book.warn(id, format!("{file} ends {date}"), renew),
            Ok((Ends::Later, date)) => book.well(id, format!("{file} ends {date}")),
        }
    }
}

/// The first two numbers of a version.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split('.').map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

fn versions(facts: &Facts, book: &mut Book) {
    let id = "versions";
    for (judged, master) in facts.report.masters.iter().zip(&facts.masters) {
        let group = &judged.group;
        let server = |node: &NodeFacts| Some((node.name.clone(), node.redis.as_ref()?.given()?.version.clone()));
        let named = group.verdict.as_ref().and_then(|verdict| verdict.points_at_node.clone());
        let servers: Vec<(String, String)> = group.nodes.iter().filter_map(server).collect();
        let primary = servers.iter().find(|(node, _)| Some(node) == named.as_ref());
        if let Some((on, newer)) = primary {
            for (node, older) in servers.iter().filter(|(_, older)| version(older) < version(newer)) {
                let what = format!("Redis on {node} is {older}, older than the primary's {newer} on {on}");
                book.warn(id, what, "upgrade replicas first, the primary last");
            }
        }
        if !servers.is_empty() {
            let servers: Vec<String> = servers.iter().map(|(node, version)| format!("{node} {version}")).collect();
            book.well(id, format!("Redis: {}", servers.join(", ")));
        }
        for (address, sentinel) in &master.sentinels {
            let Ok(sentinel) = sentinel else { continue };
            let Some(is) = sentinel.info.get("valkey_version").or(sentinel.info.get("redis_version")) else { continue };
            if version(is).is_some_and(|version| version < (6, 2)) {
                let what = format!("Sentinel {address} is {is}: it stops running scripts after sixteen failures");
                book.warn(id, what, "upgrade it to 6.2 or later");
            }
            book.well(id, format!("Sentinel {address}: {is}"));
        }
    }
    if let Ok(cluster) = &facts.cluster {
        let mut sets: Vec<&String> = cluster.feature_sets.values().collect();
        sets.sort();
        sets.dedup();
        if sets.len() > 1 {
            let all: Vec<String> = cluster.feature_sets.iter().map(|(node, set)| format!("{node} {set}")).collect();
            book.warn(
                id,
                format!("the nodes run different Pacemakers (feature sets: {})", all.join(", ")),
                "upgrade the others soon",
            );
        }
        if let Some(version) = &cluster.version {
            book.well(id, format!("Pacemaker: {version}"));
        }
    }
    releases(facts, book);
    if !facts.machine.kernel.is_empty() {
        book.well(id, format!("kernel here: {}", facts.machine.kernel));
    }
}

/// All numbers of a version, as they count. What stands behind a `-` or `+` does not.
fn numbers(version: &str) -> Vec<u64> {
    let numbers = version.split(['-', '+']).next().unwrap_or_default();
    numbers.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

/// The releases of rolegate, by what the nodes' keepers have said.
fn releases(facts: &Facts, book: &mut Book) {
    let (id, here) = ("versions", env!("CARGO_PKG_VERSION"));
    let Ok(cluster) = &facts.cluster else { return book.well(id, format!("rolegate here: {here}")) };
    let nodes = facts.report.masters.iter().flat_map(|judged| &judged.group.nodes);
    // The same of each master name.
    let nodes: BTreeMap<&str, &NodeFacts> =
        nodes.filter(|node| node.address.is_some()).map(|node| (node.name.as_str(), node)).collect();
    let mut said: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, node) in nodes {
        match cluster.releases.get(name) {
            Some(release) => _ = said.insert(name, release),
            // That a keeper does not run is another check's.
            None if matches!(node.keeper, Some(Keeper::Lease | Keeper::Closed)) => book.warn_on(
                id,
                name,
                "its keeper has not said which rolegate it is: it may be an older one",
                format!("on {name}: rolegate --version; journalctl -u rolegate-keeper"),
            ),
            None => {}
        }
    }
    let newest = said.values().chain([&here]).max_by_key(|release| numbers(release)).copied().unwrap_or(here);
    let older: Vec<&str> = said.iter().filter(|(_, release)| **release != newest).map(|(node, _)| *node).collect();
    let all: Vec<String> = said.iter().map(|(node, release)| format!("{node} {release}")).collect();
    if !older.is_empty() {
        let what = match newest == here && !said.values().any(|release| *release == newest) {
            true => format!("the nodes run other rolegates ({}) than this one, {here}", all.join(", ")),
            false => format!("the nodes run different rolegates ({})", all.join(", ")),
        };
        let mend = format!("on {}: apt install ./rolegate_{newest}*.deb    (replicas' nodes first)", older.join(", "));
        book.warn(id, what, mend);
    }
    book.well(
        id,
        if all.is_empty() { format!("rolegate here: {here}") } else { format!("rolegate: {}", all.join(", ")) },
    );
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::super::judge::tests::healthy;
    use super::super::super::status::tests::report_of;
    use super::super::super::tests::sent;
    use super::super::facts::{Acl, ClusterFacts, Machine};
    use super::super::machine::Process;
    use super::super::rules::Found;
    use super::super::users;
    use super::*;

    fn pairs(all: &[(&str, &str)]) -> BTreeMap<String, String> {
        all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn a_redis() -> Redis {
        Redis {
            settings: pairs(&[
                ("min-replicas-to-write", "1"),
                ("min-replicas-max-lag", "10"),
                ("replica-announce-ip", ""),
                ("replica-announce-port", "0"),
                ("save", "3600 1"),
                ("appendonly", "no"),
                ("bind", "0.0.0.0 ::"),
                ("protected-mode", "no"),
                ("stop-writes-on-bgsave-error", "yes"),
            ]),
            info: pairs(&[("rdb_last_bgsave_status", "ok"), ("config_file", "/etc/redis/redis.conf")]),
            users: Some(users::read("user default on #x ~* &* +@all")),
            denied: Vec::new(),
        }
    }

    fn a_sentinel() -> Sentinel {
        Sentinel {
            master: pairs(&[
                ("quorum", "2"),
                ("num-other-sentinels", "2"),
                ("down-after-milliseconds", "5000"),
                ("client-reconfig-script", "/usr/lib/rolegate/rolegate-hook"),
            ]),
            info: pairs(&[("redis_version", "7.0.15"), ("sentinel_tilt", "0"), ("sentinel_scripts_queue_length", "0")]),
            pending: Some(Vec::new()),
            denied: Vec::new(),
        }
    }

    fn unit(name: &str, more: &[(&str, &str)]) -> (String, Unit) {
        let mut unit = pairs(&[("LoadState", "loaded"), ("ActiveState", "active"), ("UnitFileState", "enabled")]);
        unit.extend(pairs(more));
        (name.to_owned(), unit)
    }

    /// All is well, on the primary's node.
    pub(in super::super) fn well() -> Facts {
        let group = healthy();
        let master = Master {
            redis: group.nodes.iter().map(|node| (node.name.clone(), Ok(a_redis()))).collect(),
            sentinels: group.sentinels.iter().map(|one| (one.address.clone(), Ok(a_sentinel()))).collect(),
            least_of_lease: Some(Ok(Some(1300))),
            opened_in: Some(3),
            redis_conf: Some(Ok(vec!["port 6379".into()])),
        };
        let exec = "/usr/bin/redis-sentinel /usr/lib /usr/sbin/crm_node /usr/sbin/crm_attribute /usr/sbin/cibadmin";
        let process = Process { pid: 7, uid: 101, groups: vec![103, 105], ..Process::default() };
        let keeper = Process { policy: (2, 99), oom_score_adj: -1000, locked: true, ..Process::default() };
        let machine = Machine {
            units: Some(Ok([
                unit("redis-sentinel.service", &[("NoExecPaths", "/"), ("ExecPaths", exec), ("PrivateUsers", "no")]),
                unit(machine::KEEPER_UNIT, &[]),
            ]
            .into())),
            keeper: Some(Ok(keeper)),
            sentinel: Some(("redis-sentinel.service".into(), Ok(process))),
            haclient: Some(105),
            hook: Some(Ok(vec!["well: asking".into()])),
            sentinel_conf: Some(Ok(vec!["port 26379".into()])),
            rules: Some(Ok(Found { direct_shut: true, ..Found::default() })),
            backend: Some(("nft", Vec::new())),
            conntrack: Some(Ok((10, 1000))),
            kernel: "6.12".into(),
            ..Machine::default()
        };
        let acl = Acl { user: "redis".into(), enabled: true, role: true, rename: true, ..Acl::default() };
        let mut report = report_of(group);
        report.cluster.stonith = Some(true);
        report.cluster.no_quorum_policy = Some("stop".into());
        report.masters[0].group.firewall = Some(super::super::super::facts::Firewall::Seen {
            backend: "nft".into(),
            baseline: None,
            ro_open_ms: Some(1),
            rw_open_ms: Some(1),
            listeners: Vec::new(),
        });
        Facts {
            report,
            me: Some("node1".into()),
            root: true,
            cluster: Ok(ClusterFacts {
                fencing: vec!["fence1".into()],
                releases: ["node1", "node2", "node3"]
                    .map(|node| (node.into(), env!("CARGO_PKG_VERSION").into()))
                    .into(),
                ..ClusterFacts::default()
            }),
            acl: Some(Ok(acl)),
            masters: vec![master],
            machine,
        }
    }

    fn redis_of<'f>(facts: &'f mut Facts, node: &str) -> &'f mut Redis {
        facts.masters[0].redis.get_mut(node).unwrap().as_mut().unwrap()
    }

    fn set(facts: &mut Facts, node: &str, setting: &str, value: &str) {
        redis_of(facts, node).settings.insert(setting.into(), value.into());
    }

    fn sentinel_of(facts: &mut Facts, n: usize) -> &mut Sentinel {
        facts.masters[0].sentinels[n].1.as_mut().unwrap()
    }

    /// These of the three, as the record and each of them has them.
    fn keep_sentinels(facts: &mut Facts, which: &[usize]) {
        let (known, asked) = (group(facts).sentinels.clone(), facts.masters[0].sentinels.clone());
        group(facts).sentinels = which.iter().map(|n| known[*n].clone()).collect();
        facts.masters[0].sentinels = which.iter().map(|n| asked[*n].clone()).collect();
        for n in 0..which.len() {
            let address = format!("10.0.0.{}:26379", n + 1);
            group(facts).sentinels[n].address.clone_from(&address);
            facts.masters[0].sentinels[n].0 = address;
            say(facts, n, "num-other-sentinels", &(which.len() - 1).to_string());
            say(facts, n, "quorum", &(which.len() / 2 + 1).to_string());
        }
    }

    /// So many scripts wait there, and none runs; PENDING-SCRIPTS says this, where it may be asked.
    fn wait_at(facts: &mut Facts, n: usize, pending: Option<Vec<(String, u64)>>, waiting: u64) {
        let sentinel = sentinel_of(facts, n);
        sentinel.pending = pending;
        sentinel.info.insert("sentinel_scripts_queue_length".into(), waiting.to_string());
        sentinel.info.insert("sentinel_running_scripts".into(), "0".into());
    }

    fn say(facts: &mut Facts, n: usize, field: &str, value: &str) {
        sentinel_of(facts, n).master.insert(field.into(), value.into());
    }

    fn unit_of<'f>(facts: &'f mut Facts, name: &str) -> &'f mut Unit {
        facts.machine.units.as_mut().unwrap().as_mut().unwrap().get_mut(name).unwrap()
    }

    fn keeper(facts: &mut Facts) -> &mut Process {
        facts.machine.keeper.as_mut().unwrap().as_mut().unwrap()
    }

    fn acl_of(facts: &mut Facts) -> &mut Acl {
        facts.acl.as_mut().unwrap().as_mut().unwrap()
    }

    fn cluster_of(facts: &mut Facts) -> &mut ClusterFacts {
        facts.cluster.as_mut().unwrap()
    }

    fn found(facts: &mut Facts) -> &mut Found {
        facts.machine.rules.as_mut().unwrap().as_mut().unwrap()
    }

    fn release_of(facts: &mut Facts, node: &str, release: &str) {
        cluster_of(facts).releases.insert(node.into(), release.into());
    }

    fn group(facts: &mut Facts) -> &mut Group {
        &mut facts.report.masters[0].group
    }

    /// What is done to facts of which all is well, the only check that it turns, how bad, and what is said.
    type Case = (fn(&mut Facts), &'static str, Severity, &'static str);

    const TABLE: &[Case] = &[
        (|f| f.report.cluster.stonith = Some(false), "stonith", Severity::Warning, "is false"),
        (|f| cluster_of(f).fencing.clear(), "stonith", Severity::Warning, "there is no fencing device"),
        (
            |f| (cluster_of(f).opt_in, cluster_of(f).not_allowed) = (true, vec!["RedisGate".to_owned()]),
            "symmetric",
            Severity::Critical,
            "no rule lets RedisGate run",
        ),
        (|f| say(f, 1, "quorum", "1"), "sentinel-quorum", Severity::Warning, "SENTINEL SET mymaster quorum 2"),
        (|f| say(f, 1, "quorum", "4"), "sentinel-quorum", Severity::Critical, "it never begins a failover"),
        (
            |f| keep_sentinels(f, &[0, 1]),
            "sentinel-count",
            Severity::Warning,
            "has 2 Sentinels: it cannot lose one | set up 1 more, each on a host of its own, then: rolegate init --master mymaster --replace",
        ),
        (
            |f| keep_sentinels(f, &[0, 1, 2, 2]),
            "sentinel-count",
            Severity::Warning,
            "has 4 Sentinels: it can lose no more of them than 3 could | set up 1 more, each on a host of its own, then: rolegate init --master mymaster --replace",
        ),
        (|f| say(f, 0, "num-other-sentinels", "5"), "sentinel-count", Severity::Warning, "knows 5 others"),
        (
            |f| {
                let first = group(f).sentinels[0].address.clone();
                group(f).sentinels[1].address = first.replace(":26379", ":26380");
            },
            "sentinel-count",
            Severity::Warning,
            "two Sentinels of mymaster are on 10.0.0.1",
        ),
        (
            |f| _ = sentinel_of(f, 2).info.insert("sentinel_tilt".into(), "1".into()),
            "sentinel-agreement",
            Severity::Warning,
            "TILT",
        ),
        (|f| group(f).sentinels[2].epoch = Some(1), "sentinel-epochs", Severity::Warning, "SENTINEL FAILOVER mymaster"),
        (|f| f.masters[0].opened_in = Some(9), "sentinel-epochs", Severity::Warning, "had 9 when the port was"),
        (|f| say(f, 0, "down-after-milliseconds", "6000"), "down-after", Severity::Warning, "another has 6000 ms"),
        (
            |f| (0..3).for_each(|n| say(f, n, "down-after-milliseconds", "1000")),
            "down-after",
            Severity::Warning,
            "the lease is 2000 ms",
        ),
        (
            |f| f.machine.sentinel_conf = Some(Ok(vec!["sentinel master-reboot-down-after-period mymaster 5".into()])),
            "reboot-down-after",
            Severity::Warning,
            "has 5 for mymaster",
        ),
        (
            |f| _ = sentinel_of(f, 0).master.remove("client-reconfig-script"),
            "scripts",
            Severity::Warning,
            "calls no script",
        ),
        (
            |f| sentinel_of(f, 0).pending = Some(vec![("/usr/lib/rolegate/rolegate-hook".into(), 3)]),
            "scripts",
            Severity::Warning,
            "has failed",
        ),
        (
            |f| say(f, 0, "client-reconfig-script", "/usr/local/bin/notify"),
            "scripts",
            Severity::Warning,
            "calls /usr/local/bin/notify for mymaster, which is not rolegate's",
        ),
        // What waits has not failed, and is not run either.
        (
            |f| wait_at(f, 0, Some(vec![("/usr/lib/rolegate/rolegate-hook".into(), 1)]), 1),
            "scripts",
            Severity::Warning,
            "1 scripts wait at Sentinel 10.0.0.1:26379",
        ),
        (|f| wait_at(f, 0, None, 2), "scripts", Severity::Warning, "2 scripts wait at Sentinel 10.0.0.1:26379"),
        (
            |f| f.machine.hook = Some(Err("Permission denied".into())),
            "hook",
            Severity::Warning,
            "systemctl daemon-reload; systemctl restart redis-sentinel.service",
        ),
        (
            |f| f.machine.hook = Some(Ok(vec!["wrong: its settings and password files: no".into()])),
            "hook",
            Severity::Warning,
            "chgrp redis",
        ),
        (|f| f.machine.haclient = Some(999), "hook", Severity::Warning, "not in group haclient"),
        (
            |f| _ = unit_of(f, "redis-sentinel.service").insert("ExecPaths".into(), "/usr/lib".into()),
            "hook",
            Severity::Warning,
            "forbids to execute /usr/sbin/crm_node, /usr/sbin/crm_attribute, /usr/sbin/cibadmin",
        ),
        (|f| acl_of(f).enabled = false, "cluster-acl", Severity::Warning, "enable-acl is not set"),
        (|f| acl_of(f).role = false, "cluster-acl", Severity::Warning, "may not write the role"),
        (|f| acl_of(f).elsewhere = true, "cluster-acl", Severity::Warning, "spell the xpath from the root"),
        (|f| acl_of(f).property = true, "cluster-acl", Severity::Warning, "cluster's properties"),
        (
            |f| sentinel_of(f, 0).denied = vec!["CLIENT LIST".into()],
            "sentinel-rights",
            Severity::Critical,
            "denies our user CLIENT LIST",
        ),
        (
            |f| redis_of(f, "node2").denied = vec!["CONFIG SET".into()],
            "redis-rights",
            Severity::Warning,
            "node2: Redis denies our user CONFIG SET",
        ),
        (
            |f| {
                redis_of(f, "node2").users = Some(users::read("user default on #x -@all +info +config|get +config|set"))
            },
            "redis-rights",
            Severity::Warning,
            "CONFIG REWRITE, REPLICAOF",
        ),
        (
            |f| ["node1", "node2"].iter().for_each(|node| set(f, node, "min-replicas-to-write", "0")),
            "min-replicas",
            Severity::Warning,
            "node1, node2: min-replicas-to-write is 0",
        ),
        (
            |f| set(f, "node1", "min-replicas-to-write", "3"),
            "min-replicas",
            Severity::Critical,
            "it can have 2 replicas",
        ),
        (
            |f| set(f, "node1", "min-replicas-to-write", "2"),
            "min-replicas",
            Severity::Warning,
            "takes no writes without one of them",
        ),
        (|f| set(f, "node2", "replica-announce-ip", "10.9.9.9"), "announce", Severity::Critical, "announces 10.9.9.9"),
        (
            |f| {
                let Some(Server::Given(primary)) = &mut group(f).nodes[0].redis else { panic!("no server") };
                primary.replicas[0].address = "172.17.0.1:6379".into();
            },
            "announce",
            Severity::Critical,
            "node2: the primary knows no replica at its address",
        ),
        (|f| f.me = Some("node2".into()), "restart-as-primary", Severity::Warning, "replicaof 10.0.0.1 6379"),
        (|f| set(f, "node3", "save", ""), "persistence", Severity::Warning, "node3: it keeps nothing"),
        (
            |f| _ = redis_of(f, "node1").info.insert("rdb_last_bgsave_status".into(), "err".into()),
            "persistence",
            Severity::Critical,
            "it refuses writes",
        ),
        (
            |f| {
                redis_of(f, "node1").users =
                    Some(users::read("user default on #x ~* &* +@all\nuser app on #y ~* &* +@all"))
            },
            "hello",
            Severity::Warning,
            "user app may tell",
        ),
        (|f| set(f, "node2", "bind", "10.0.0.9 127.0.0.1"), "bind", Severity::Warning, "without 10.0.0.2"),
        (
            |f| {
                f.machine.addresses = vec!["10.0.0.1".parse().unwrap(), "192.168.0.1".parse().unwrap()];
                set(f, "node1", "bind", "10.0.0.1 127.0.0.1");
            },
            "bind",
            Severity::Warning,
            "without 192.168.0.1",
        ),
        (
            |f| _ = f.masters[0].redis.insert("node3".into(), Err("DENIED Redis is running in protected mode".into())),
            "protected-mode",
            Severity::Critical,
            "node3: protected mode is on",
        ),
        (|f| f.machine.backend = Some(("iptables", vec!["ipset"])), "firewall-backend", Severity::Critical, "ipset"),
        (|f| found(f).untracked.push("a rule".into()), "foreign-rules", Severity::Critical, "not tracked"),
        (
            |f| found(f).taken.push("inet filter input: tcp dport 6381 drop".into()),
            "foreign-rules",
            Severity::Warning,
            "takes what comes to a port of the gate: inet filter input: tcp dport 6381 drop | nft -a list chain inet filter input",
        ),
        (
            |f| found(f).shut = Some("ip filter INPUT".into()),
            "foreign-rules",
            Severity::Warning,
            "clients would hang | iptables -I INPUT -p tcp --dport 6379 -m conntrack --ctstate DNAT -j ACCEPT",
        ),
        (
            |f| {
                found(f).shut = Some("inet mine in".into());
                group(f).redis_port = 7379;
            },
            "foreign-rules",
            Severity::Warning,
            "clients would hang | nft insert rule inet mine in tcp dport 7379 ct status dnat accept",
        ),
        (|f| found(f).direct_shut = false, "direct", Severity::Warning, "past the gate"),
        (|f| f.machine.direct = true, "direct", Severity::Warning, "is not in force"),
        (|f| f.machine.conntrack = Some(Ok((900, 1000))), "conntrack", Severity::Warning, "900 of 1000"),
        (|f| f.machine.conntrack = Some(Err("no file".into())), "conntrack", Severity::Unknown, "no file"),
        (
            |f| f.machine.certificates = vec![("/x.pem".into(), Ok((Ends::Past, "yesterday".into())))],
            "certificates",
            Severity::Critical,
            "/x.pem ended yesterday",
        ),
        (|f| f.masters[0].least_of_lease = Some(Ok(Some(400))), "last-proof", Severity::Warning, "1.6 s old"),
        (
            |f| {
                let Some(Server::Given(server)) = &mut group(f).nodes[2].redis else { panic!("no server") };
                server.version = "6.2.1".into();
            },
            "versions",
            Severity::Warning,
            "Redis on node3 is 6.2.1",
        ),
        (
            |f| _ = sentinel_of(f, 0).info.insert("redis_version".into(), "5.0.3".into()),
            "versions",
            Severity::Warning,
            "upgrade it to 6.2",
        ),
        (|f| release_of(f, "node2", "0.0.9"), "versions", Severity::Warning, "on node2: apt install"),
        (
            |f| release_of(f, "node3", "9.10.0"),
            "versions",
            Severity::Warning,
            "on node1, node2: apt install ./rolegate_9.10.0",
        ),
        (
            |f| ["node1", "node2", "node3"].into_iter().for_each(|node| release_of(f, node, "0.0.9")),
            "versions",
            Severity::Warning,
            "than this one",
        ),
        (
            |f| _ = cluster_of(f).releases.remove("node3"),
            "versions",
            Severity::Warning,
            "node3: its keeper has not said",
        ),
        (|f| f.machine.keeper = None, "keeper-unit", Severity::Critical, "systemctl start rolegate-keeper"),
        (
            |f| _ = unit_of(f, machine::KEEPER_UNIT).insert("UnitFileState".into(), "disabled".into()),
            "keeper-unit",
            Severity::Warning,
            "systemctl enable rolegate-keeper",
        ),
        (|f| keeper(f).policy = (0, 0), "keeper-unit", Severity::Warning, "chrt --rr"),
        (|f| keeper(f).replaced = true, "keeper-unit", Severity::Warning, "was replaced"),
    ];

    #[test]
    fn each_check_turns_by_what_it_is_about_and_by_nothing_else() {
        let healthy = judge(&well());
        let wrong: Vec<_> =
            healthy.iter().filter(|(_, outcome)| !outcome.findings.is_empty() || outcome.skipped.is_some()).collect();
        assert!(wrong.is_empty() && healthy.len() == CHECKS.len(), "{wrong:#?}");
        for (change, id, severity, text) in TABLE {
            let mut facts = well();
            change(&mut facts);
            let outcomes = judge(&facts);
            let turned: Vec<_> = outcomes.iter().filter(|(_, outcome)| !outcome.findings.is_empty()).collect();
            let [(turned, outcome)] = turned[..] else { panic!("{id}: {turned:#?}") };
            let worst = &outcome.findings[0];
            let said =
                format!("{}: {} | {}", worst.nodes.join(", "), worst.found, worst.mend.as_deref().unwrap_or_default());
            assert_eq!((*turned, worst.severity), (*id, *severity), "{said}");
            assert!(said.contains(text), "{id}: {said} should say {text:?}");
            for finding in &outcome.findings {
                let mend = finding.mend.as_deref().unwrap_or_else(|| panic!("{id}: what now? {finding:?}"));
                assert!(sent(mend), "{id}: it cannot be typed as it stands: {mend}");
            }
        }
    }

    #[test]
    fn releases_are_compared_by_their_numbers() {
        assert!(numbers("0.10.0") > numbers("0.9.7") && numbers("1.0.0") > numbers("0.10.0"));
        assert_eq!(numbers("0.1.0-1"), numbers("0.1.0"));
    }

    #[test]
    fn what_status_finds_is_under_the_check_that_it_belongs_to() {
        use super::super::super::judge::{self as status, Problem};
        let mut facts = well();
        let mut cluster = facts.report.cluster.clone();
        cluster.maintenance_mode = true;
        cluster.quorum = Some(false);
        cluster.no_quorum_policy = Some("ignore".into());
        cluster.error = Some("no answer".into());
        facts.report.problems = [status::cluster(&cluster, true, 0), status::cluster(&cluster, true, 1)].concat();
        let group = group(&mut facts);
        group.nodes[2].keeper = Some(super::super::super::facts::Keeper::Missing);
        group.nodes[1].fence = Some("by root".into());
        group.nodes[1].role = None;
        group.nodes[2].member = Some(super::super::super::facts::Member::default());
        let judgement = status::group(&cluster, &facts.report.masters[0].group);
        facts.report.masters[0].judgement = judgement;
        let all: Vec<&Problem> =
            facts.report.problems.iter().chain(&facts.report.masters[0].judgement.problems).collect();
        assert!(all.len() > 6 && all.iter().all(|problem| OF_STATUS.contains(&problem.check)), "{all:#?}");
        let outcomes = judge(&facts);
        for id in ["pacemaker", "gate", "quorum", "quorum-policy", "maintenance", "fences", "members"] {
            assert!(!outcomes[id].findings.is_empty(), "{id}");
        }
    }

    #[test]
    fn a_machine_without_a_cluster_is_told_what_is_missing() {
        let mut facts = well();
        (facts.report.masters, facts.masters, facts.me, facts.acl) = (Vec::new(), Vec::new(), None, None);
        facts.report.cluster = Default::default();
        facts.report.cluster.error = Some("crm_node is not installed".into());
        facts.report.problems = super::super::super::judge::cluster(&facts.report.cluster, false, 0);
        facts.machine =
            Machine { units: Some(Ok(BTreeMap::new())), backend: Some(("nft", vec![])), ..Machine::default() };
        facts.cluster = Err("crm_node is not installed".into());
        let outcomes = judge(&facts);
        assert_eq!(outcomes["pacemaker"].findings[0].found, "crm_node is not installed");
        assert_eq!(outcomes["keeper-unit"].findings[0].mend.as_deref(), Some(AGAIN));
        for id in ["gate", "writers", "sentinel-count", "min-replicas", "versions"] {
            assert!(outcomes[id].findings.is_empty(), "{id}: {:#?}", outcomes[id]);
        }
        assert_eq!(outcomes["sentinel-count"].skipped.as_deref(), Some("there is no gate"));
    }
}
