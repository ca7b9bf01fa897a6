//! Collecting what the checks look at, all at once where that is possible, within some seconds in all. What cannot be seen is kept with its
//! reason.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use super::super::facts::Group;
use super::super::status::{self, Report};
use super::machine::{self, Ends, Process, Unit};
use super::rules::{self, Found, Ruleset};
use super::servers::{self, Redis, Sentinel};
use super::users::{self, User};
use crate::gate::Ports;
use crate::keeper::timeline::{self, Event, What};
use crate::keeper::{history, memory};
use crate::layout::guards;
use crate::pacemaker::cib::Rule;
use crate::pacemaker::{self, Cib, VERSION_ATTRIBUTE, is_minus_infinity};
use crate::settings::Settings;

/// Something, or why it cannot be told.
pub type Told<T> = Result<T, String>;

/// How long a server, or one of this machine's programs, may take.
const WITHIN: Duration = Duration::from_millis(1200);

/// The hook's check asks Pacemaker and servers.
const HOOK_WITHIN: Duration = Duration::from_millis(2500);

/// How often and how far apart the lease is looked at: about two renewals.
const LOOKS: (u32, Duration) = (9, Duration::from_millis(100));

/// Everything.
#[derive(Debug)]
pub struct Facts {
    /// What `rolegate status` sees.
    pub report: Report,
    /// This node's name in the record.
    pub me: Option<String>,
    /// Run by root.
    pub root: bool,
    /// The cluster's configuration.
    pub cluster: Told<ClusterFacts>,
    /// What Sentinel's user may change there; None where no Sentinel runs here, or there is no cluster.
    pub acl: Option<Told<Acl>>,
    /// For each master name of the report, in its order.
    pub masters: Vec<Master>,
    /// This machine.
    pub machine: Machine,
}

/// What the cluster's configuration says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ClusterFacts {
    /// symmetric-cluster is false, and these gates have no rule that lets them run.
    pub not_allowed: Vec<String>,
    /// symmetric-cluster is false.
    pub opt_in: bool,
    /// `dc-version`.
    pub version: Option<String>,
    /// The feature set of each node, where it is known.
    pub feature_sets: BTreeMap<String, String>,
    /// The release of rolegate of each node, by what its keeper has said last; of none that never said it.
    pub releases: BTreeMap<String, String>,
    /// What can fence: the ids of the devices, and `stonith-watchdog-timeout` where that is set.
    pub fencing: Vec<String>,
}

/// What Sentinel's user may change in the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acl {
    /// The user.
    pub user: String,
    /// `enable-acl`.
    pub enabled: bool,
    /// The role attributes.
    pub role: bool,
    /// The cluster's properties.
    pub property: bool,
    /// An nvpair by the attribute's name outside the nodes, which it could rename then.
    pub elsewhere: bool,
    /// Its own nvpair into another one: Pacemaker has no rule against that.
    pub rename: bool,
}

/// What servers say of one master name.
#[derive(Debug, Default)]
pub struct Master {
    /// Each Redis, by node.
    pub redis: BTreeMap<String, Told<Redis>>,
    /// Each Sentinel of the record, by address.
    pub sentinels: Vec<(String, Told<Sentinel>)>,
    /// The least that was left of the lease in some looks, in ms, where this node is named; None where the port was closed.
    pub least_of_lease: Option<Told<Option<u64>>>,
    /// The lines of this node's redis.conf.
    pub redis_conf: Option<Told<Vec<String>>>,
    /// The highest epoch with which the port was opened here since the last failover.
    pub opened_in: Option<u64>,
}

/// This machine.
#[derive(Debug, Default)]
pub struct Machine {
    /// The units that matter.
    pub units: Option<Told<BTreeMap<String, Unit>>>,
    /// The keeper.
    pub keeper: Option<Told<Process>>,
    /// Sentinel's unit that is active here, and its process.
    pub sentinel: Option<(String, Told<Process>)>,
    /// The id of group haclient.
    pub haclient: Option<u32>,
    /// The lines of the hook's check.
    pub hook: Option<Told<Vec<String>>>,
    /// The lines of this node's sentinel.conf.
    pub sentinel_conf: Option<Told<Vec<String>>>,
    /// What others do to our ports.
    pub rules: Option<Told<Found>>,
    /// The settings say who may reach Redis directly.
    pub direct: bool,
    /// The firewall that is to be used, and the programs that it lacks.
    pub backend: Option<(&'static str, Vec<&'static str>)>,
    /// Tracked connections: how many, and how many at most.
    pub conntrack: Option<Told<(u64, u64)>>,
    /// Certificates that Redis and Sentinel here use.
    pub certificates: Vec<(String, Told<(Ends, String)>)>,
    /// The addresses of this machine's interfaces, loopback apart.
    pub addresses: Vec<IpAddr>,
    /// The kernel's release.
    pub kernel: String,
    /// Our user in Redis, where it has one of its own.
    pub redis_user: Option<String>,
}

/// What the first round brings beside the report.
struct First {
    units: Told<BTreeMap<String, Unit>>,
    ruleset: Told<Ruleset>,
    cib: Told<String>,
}

/// Looks at everything.
pub fn collect() -> Facts {
    let root = nix::unistd::geteuid().is_root();
    let mut settings = Settings::load().unwrap_or_default();
    settings.answer_within = settings.answer_within.min(WITHIN);
    settings.firewall_within = settings.firewall_within.min(WITHIN);
    let (report, first) = thread::scope(|scope| {
        let units = scope.spawn(|| machine::units(WITHIN));
        let ruleset = scope.spawn(|| machine::ruleset(WITHIN));
        let cib = scope.spawn(|| pacemaker::cib_text_within(WITHIN).map_err(|error| error.to_string()));
        let report = status::look(None);
        let first = First { units: joined(units), ruleset: joined(ruleset), cib: joined(cib) };
        (report, first)
    });
    let me = me(&report);
    let cib = first.cib.clone().and_then(|text| pacemaker::cib::parse(&text).map_err(|error| error.to_string()));
    let mut machine = Machine {
        haclient: machine::haclient(),
        backend: Some(machine::backend(settings.firewall)),
        conntrack: Some(machine::conntrack()),
        addresses: addresses(),
        kernel: nix::sys::utsname::uname()
            .map(|name| name.release().to_string_lossy().into_owned())
            .unwrap_or_default(),
        redis_user: settings.redis.user.clone(),
        direct: settings.direct.is_some(),
        ..Machine::default()
    };
    if let Ok(units) = &first.units {
        let process = |name: &str| {
            let pid = units.get(name).and_then(machine::main_pid)?;
            Some(if root { machine::process(pid) } else { Err("it needs root".to_owned()) })
        };
        machine.sentinel = machine::SENTINEL_UNITS.into_iter().find_map(|name| Some((name.to_owned(), process(name)?)));
        machine.keeper = process(machine::KEEPER_UNIT);
    }
    machine.units = Some(first.units);
    let ports: Vec<Ports> = report.masters.iter().map(|judged| judged.group.ports()).collect();
    let ports = if ports.is_empty() { vec![Ports::default()] } else { ports };
    machine.rules = root.then(|| first.ruleset.map(|ruleset| rules::look(&ruleset, &ports)));

    let groups: Vec<Group> = report.masters.iter().map(|judged| judged.group.clone()).collect();
    let sentinel = machine.sentinel.as_ref().and_then(|(_, process)| process.as_ref().ok()).filter(|_| root);
    let (masters, hook, acl) = thread::scope(|scope| {
        let hook = sentinel.map(|process| scope.spawn(|| machine::hook(process.pid, HOOK, HOOK_WITHIN)));
        let acl = sentinel.zip(cib.as_ref().ok()).zip(first.cib.as_ref().ok()).map(|((process, cib), text)| {
            let attribute = groups.first().map_or("redis_role".to_owned(), |group| group.attribute.clone());
            scope.spawn(move || acl(process, cib, text, &attribute))
        });
        let masters: Vec<_> =
            groups.iter().map(|group| scope.spawn(|| master(group, &settings, me.as_deref(), root))).collect();
        let masters: Vec<Master> = masters.into_iter().map(|thread| thread.join().unwrap_or_default()).collect();
        (masters, hook.map(joined), acl.map(joined))
    });
    machine.hook = hook;
    let mut masters = masters;
    if root {
        files(&mut machine, &mut masters, &groups, me.as_deref());
    }
    let cluster = cib.map(|cib| cluster(&cib));
    Facts { report, me, root, cluster, acl, masters, machine }
}

/// Where the hook is.
const HOOK: &str = "/usr/lib/rolegate/rolegate-hook";

/// What a thread brought.
fn joined<T>(thread: thread::ScopedJoinHandle<'_, Told<T>>) -> Told<T> {
    thread.join().unwrap_or_else(|_| Err("looking at it failed".to_owned()))
}

/// This node's name: as Pacemaker has it, or where that does not answer, the machine's, if a record has it.
fn me(report: &Report) -> Option<String> {
    let name = nix::unistd::gethostname().ok().map(|name| name.to_string_lossy().into_owned());
    let known = |name: &String| {
        report.masters.iter().flat_map(|judged| &judged.group.nodes).any(|node| node.name.eq_ignore_ascii_case(name))
    };
    report.cluster.seen_from.clone().or(name.filter(known))
}

fn addresses() -> Vec<IpAddr> {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let addresses = interfaces.filter_map(|interface| interface.address).filter_map(|address| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    // Link-local ones take no clients.
    addresses.filter(|address| crate::record::unusable(*address).is_none()).collect()
}

/// Asks all servers of one master name.
fn master(group: &Group, settings: &Settings, me: Option<&str>, root: bool) -> Master {
    let within = settings.answer_within;
    let named = group.verdict.as_ref().and_then(|verdict| verdict.named.as_deref());
    let here = me.is_some() && named == me;
    thread::scope(|scope| {
        let lease =
            (root && here).then(|| scope.spawn(|| machine::least_of_lease(group.ports(), settings, LOOKS.0, LOOKS.1)));
        let redis: Vec<_> = group
            .nodes
            .iter()
            .filter_map(|node| Some((node.name.clone(), node.address?)))
            .map(|(name, address)| (name, scope.spawn(move || servers::redis(address, &settings.redis, within))))
            .collect();
        let sentinels: Vec<_> = group
            .sentinels
            .iter()
            .map(|sentinel| {
                let address = sentinel.address.clone();
                let ask = move |address: String| {
                    let at: SocketAddr = address.parse().map_err(|_| "no address".to_owned())?;
                    servers::sentinel(at, &group.master, &settings.sentinel, within)
                };
                (sentinel.address.clone(), scope.spawn(move || ask(address)))
            })
            .collect();
        Master {
            redis: redis.into_iter().map(|(name, thread)| (name, joined(thread))).collect(),
            sentinels: sentinels.into_iter().map(|(address, thread)| (address, joined(thread))).collect(),
            least_of_lease: lease.map(joined),
            redis_conf: None,
            opened_in: opened_in(&group.master, group.last_failover.as_ref().map_or(0, |last| last.at)),
        }
    })
}

/// The highest epoch with which the port of `master` was opened here, as this node's keeper has noted it; not before `since`, in seconds.
fn opened_in(master: &str, since: u64) -> Option<u64> {
    let notes = history::texts(Path::new(memory::DIRECTORY)).ok()?;
    let files = notes.into_iter().flatten().filter_map(|notes| timeline::read(&notes.text.ok()?).ok());
    let events = files.filter(|file| file.head.master == master).flat_map(|file| file.events);
    highest_epoch(events, since)
}

/// The highest epoch of an opening, not before `since`: a failover gives all Sentinels a new one, and what was before is history.
fn highest_epoch(events: impl Iterator<Item = Event>, since: u64) -> Option<u64> {
    let openings = events.filter(|event| event.at / 1000 >= since).filter_map(|event| match event.what {
        What::Opened { epoch, .. } => Some(epoch),
        _ => None,
    });
    openings.max()
}

/// The files of this node's servers, which say themselves where these are, and the certificates that they name.
fn files(machine: &mut Machine, masters: &mut [Master], groups: &[Group], me: Option<&str>) {
    let mut certificates: Vec<String> = Vec::new();
    for (master, group) in masters.iter_mut().zip(groups) {
        let Some(node) = group.nodes.iter().find(|node| me.is_some_and(|me| node.name.eq_ignore_ascii_case(me))) else {
            continue;
        };
        if let Some(Ok(redis)) = master.redis.get_mut(&node.name) {
            if let Some(path) = redis.info.get("config_file").filter(|path| !path.is_empty()) {
                let lines = machine::configuration(path);
                // Our user may not ask for users; the files say the same.
                if let (None, Ok(lines)) = (&redis.users, &lines) {
                    redis.users = users_of(lines);
                }
                master.redis_conf = Some(lines);
            }
            let names = ["tls-cert-file", "tls-client-cert-file", "tls-ca-cert-file"];
            certificates.extend(names.iter().filter_map(|name| redis.settings.get(*name)).cloned());
        }
        let ip = node.address.map(|address| address.ip());
        let here = |address: &str| address.parse::<SocketAddr>().ok().map(|address| address.ip()) == ip;
        for (_, sentinel) in master.sentinels.iter().filter(|(address, _)| ip.is_some() && here(address)) {
            let Ok(sentinel) = sentinel else { continue };
            if let Some(path) = sentinel.info.get("config_file").filter(|path| !path.is_empty()) {
                let lines = machine::configuration(path);
                if let Ok(lines) = &lines {
                    let names = ["tls-cert-file", "tls-client-cert-file", "tls-ca-cert-file"];
                    certificates
                        .extend(names.iter().filter_map(|name| machine::setting(lines, name)).map(str::to_owned));
                }
                machine.sentinel_conf = Some(lines);
            }
        }
    }
    certificates.retain(|file| !file.is_empty());
    certificates.sort();
    certificates.dedup();
    machine.certificates =
        certificates.into_iter().map(|file| (file.clone(), machine::certificate(&file, WITHIN))).collect();
}

/// The users that a redis.conf and its ACL file define.
fn users_of(lines: &[String]) -> Option<Vec<User>> {
    let mut text = lines.join("\n");
    if let Some(path) = machine::setting(lines, "aclfile").filter(|path| !path.is_empty()) {
        text = fs::read_to_string(path).ok()?;
    }
    let mut users = users::read(&text);
    if !users.iter().any(|user| user.name == "default") {
        let password = machine::setting(lines, "requirepass").is_some_and(|password| !password.is_empty());
        let words = if password { "user default on ~* &* +@all" } else { "user default on nopass ~* &* +@all" };
        users.extend(users::read(words));
    }
    Some(users)
}

fn cluster(cib: &Cib) -> ClusterFacts {
    let off = |name: &str| {
        cib.properties
            .get(name)
            .is_some_and(|value| ["false", "off", "no", "n", "0"].contains(&value.to_lowercase().as_str()))
    };
    let opt_in = off("symmetric-cluster");
    let allows = |rule: &Rule| {
        rule.role.is_none()
            && rule.score.as_deref().is_none_or(|score| !score.starts_with('-') && !is_minus_infinity(score))
    };
    let (guards, _) = guards(cib);
    let resources = guards.iter().flat_map(|guard| guard.resources());
    let not_allowed = resources
        .filter(|resource| {
            let mut placed = cib
                .locations
                .iter()
                .filter(|location| location.resource == resource.outer_id || location.resource == resource.id);
            !placed.any(|location| {
                let by_name = location.score.as_deref().is_some_and(|score| !score.starts_with('-'));
                by_name || location.rules.iter().any(allows)
            })
        })
        .map(|resource| resource.id.clone());
    ClusterFacts {
        not_allowed: if opt_in { not_allowed.collect() } else { Vec::new() },
        opt_in,
        version: cib.properties.get("dc-version").cloned(),
        feature_sets: cib
            .nodes
            .iter()
            .filter_map(|node| Some((node.name.clone(), node.transient("#feature-set")?.to_owned())))
            .collect(),
        releases: cib
            .nodes
            .iter()
            .filter_map(|node| Some((node.name.clone(), node.permanent(VERSION_ATTRIBUTE)?.to_owned())))
            .collect(),
        fencing: cib.what_fences().map(str::to_owned).collect(),
    }
}

/// A copy of the CIB in a file of its own, for one try.
struct Copy(PathBuf);

impl Copy {
    fn of(text: &str) -> Told<Copy> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Root's alone, as the CIB is.
        let path = PathBuf::from(format!("/run/rolegate-doctor-{}-{number}.xml", std::process::id()));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Copy(path))
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // Whatever is left of it goes with the next boot.
        _ = fs::remove_file(&self.0);
    }
}

/// Tries what Sentinel's user may change, on copies of the CIB: nothing happens in the cluster.
fn acl(process: &Process, cib: &Cib, text: &str, attribute: &str) -> Told<Acl> {
    let user = machine::user_name(process.uid).ok_or_else(|| format!("user {} has no name", process.uid))?;
    let is_on = |value: &String| ["true", "on", "yes", "y", "1"].contains(&value.to_lowercase().as_str());
    let enabled = cib.properties.get("enable-acl").is_some_and(is_on);
    let mut found = Acl { user, enabled, ..Acl::default() };
    let node = cib.nodes.first().ok_or_else(|| "the cluster has no node".to_owned())?;
    if !enabled {
        return Ok(found);
    }
    let set = node.attribute_set(attribute).map_or_else(|| format!("nodes-{}", node.id), str::to_owned);
    let pair = node.attribute_id(attribute).map_or_else(|| format!("nodes-{}-{attribute}", node.id), str::to_owned);
    let of_node = |name: &str, value: &str| {
        format!(
            "<node id=\"{}\"><instance_attributes id=\"{set}\"><nvpair id=\"{pair}\" name=\"{name}\" value=\"{value}\"/></instance_attributes></node>",
            node.id
        )
    };
    let of_properties = |name: &str| {
        format!(
            "<cluster_property_set id=\"cib-bootstrap-options\"><nvpair id=\"rolegate-doctor\" name=\"{name}\" value=\"false\"/></cluster_property_set>"
        )
    };
    let other = if node.permanent(attribute) == Some("fail") { "replica" } else { "fail" };
    let changes = [
        ("nodes", of_node(attribute, other)),
        ("crm_config", of_properties("maintenance-mode")),
        ("crm_config", of_properties(attribute)),
        ("nodes", of_node("standby", "off")),
    ];
    let user = found.user.as_str();
    let tried: Vec<Told<bool>> = thread::scope(|scope| {
        let threads = changes.each_ref().map(|(section, xml)| {
            scope.spawn(move || {
                let copy = Copy::of(text)?;
                pacemaker::may_change(&copy.0, user, section, xml, HOOK_WITHIN).map_err(|error| error.to_string())
            })
        });
        threads.into_iter().map(joined).collect()
    });
    let tried: Vec<bool> = tried.into_iter().collect::<Told<_>>()?;
    if let [role, property, elsewhere, rename] = tried[..] {
        (found.role, found.property, found.elsewhere, found.rename) = (role, property, elsewhere, rename);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pacemaker::cib::WATCHDOG;

    #[test]
    fn an_epoch_of_before_the_last_failover_is_history() {
        let opened = |at, epoch| Event { at, what: What::Opened { node: "node1".into(), epoch } };
        let events = [opened(5_000, 12), opened(9_100, 7), opened(9_900, 3)];
        let highest = |since| highest_epoch(events.iter().cloned(), since);
        assert_eq!((highest(0), highest(9), highest(10)), (Some(12), Some(7), None));
    }

    #[test]
    fn what_can_fence_is_seen() {
        let seen = |properties: &str, resources: &str| {
            let text = format!(
                "<cib><configuration><crm_config><cluster_property_set id=\"o\">{properties}</cluster_property_set></crm_config>\
                 <resources>{resources}</resources></configuration></cib>"
            );
            cluster(&pacemaker::cib::parse(&text).unwrap()).fencing
        };
        let watchdog = |time: &str| format!("<nvpair id=\"w\" name=\"{WATCHDOG}\" value=\"{time}\"/>");
        let device = "<clone id=\"c\"><primitive id=\"f\" class=\"stonith\" type=\"fence_ipmilan\"/></clone>";
        let templated =
            "<template id=\"t\" class=\"stonith\" type=\"fence_ipmilan\"/><primitive id=\"g\" template=\"t\"/>";
        assert_eq!(
            seen(&watchdog("0"), "<primitive id=\"r\" class=\"ocf\" provider=\"heartbeat\" type=\"IPaddr2\"/>"),
            [""; 0]
        );
        assert_eq!(seen(&watchdog("10s"), device), ["f", WATCHDOG]);
        assert_eq!(seen("", templated), ["g"]);
    }
}
