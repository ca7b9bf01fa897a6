//! This machine: units, processes, files, the firewall, the kernel. Thin: what it means is judged elsewhere.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::rules::{self, Ruleset};
use crate::command::{self, Cmd, CommandError};
use crate::gate::{self, BackendChoice, PortState, Ports};
use crate::settings::Settings;

/// Sentinel's units on Debian.
pub const SENTINEL_UNITS: [&str; 2] = ["redis-sentinel.service", "valkey-sentinel.service"];

/// The keeper's.
pub const KEEPER_UNIT: &str = "rolegate-keeper.service";

/// Redis' units on Debian.
pub const REDIS_UNITS: [&str; 2] = ["redis-server.service", "valkey-server.service"];

/// What `systemctl show` says of a unit.
pub type Unit = BTreeMap<String, String>;

/// How a process runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// Its groups, the first one included.
    pub groups: Vec<u32>,
    /// It is in a user namespace of its own.
    pub own_users: bool,
    /// Its scheduling policy (2 is SCHED_RR) and real-time priority.
    pub policy: (u32, u32),
    /// How soon the kernel ends it when memory is short.
    pub oom_score_adj: i32,
    /// It keeps its memory from being swapped out.
    pub locked: bool,
    /// Its program was replaced on the disk since it was started.
    pub replaced: bool,
}

/// Asks systemd about the units that matter, by name.
///
/// # Errors
/// Why it does not tell.
pub fn units(within: Duration) -> Result<BTreeMap<String, Unit>, String> {
    let all = SENTINEL_UNITS.into_iter().chain(REDIS_UNITS).chain([KEEPER_UNIT]);
    let properties = "Id,LoadState,ActiveState,UnitFileState,MainPID,ExecPaths,NoExecPaths,PrivateUsers,SupplementaryGroups,NeedDaemonReload,Restart,User";
    let show = Cmd::new("systemctl").arg("show").args(all).args(["-p", properties]).deadline(within);
    // Its reason, without the long command line.
    let reason = |error: CommandError| match error.exit() {
        Some((_, said)) => format!("systemctl: {}", said.lines().next().unwrap_or("it failed")),
        None => error.to_string(),
    };
    let text = show.run().map_err(reason)?.text();
    let mut units = BTreeMap::new();
    for block in text.split("\n\n") {
        let unit: Unit =
            block.lines().filter_map(|line| line.split_once('=')).map(|(a, b)| (a.into(), b.into())).collect();
        if let Some(id) = unit.get("Id").cloned() {
            units.insert(id, unit);
        }
    }
    Ok(units)
}

/// Looks at the process `pid`.
///
/// # Errors
/// The file that cannot be read.
pub fn process(pid: i32) -> Result<Process, String> {
    let at = |name: &str| format!("/proc/{pid}/{name}");
    let read = |name: &str| fs::read_to_string(at(name)).map_err(|error| format!("{}: {error}", at(name)));
    let link = |path: String| fs::read_link(&path).map_err(|error| format!("{path}: {error}"));
    let status = read("status")?;
    let numbers = |name: &str| -> Vec<u32> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.into_iter().flat_map(str::split_whitespace).filter_map(|word| word.parse().ok()).collect()
    };
    let mut groups: Vec<u32> = numbers("Gid").into_iter().take(1).collect();
    groups.extend(numbers("Groups"));
    let stat = read("stat")?;
    // Behind the name, which is in parentheses and may hold spaces; see proc(5): 3 is the first of them.
    let fields: Vec<&str> = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
    let field = |number: usize| fields.get(number - 3).and_then(|field| field.parse().ok()).unwrap_or(0);
    Ok(Process {
        pid,
        uid: numbers("Uid").first().copied().unwrap_or(0),
        groups,
        own_users: link(at("ns/user"))? != link("/proc/self/ns/user".to_owned())?,
        policy: (field(41), field(40)),
        oom_score_adj: read("oom_score_adj")?.trim().parse().unwrap_or(0),
        locked: numbers("VmLck").first().is_some_and(|kilobytes| *kilobytes > 0),
        replaced: link(at("exe"))?.to_string_lossy().ends_with(" (deleted)"),
    })
}

/// The process id of an active unit.
pub fn main_pid(unit: &Unit) -> Option<i32> {
    unit.get("MainPID")?.parse().ok().filter(|pid| *pid > 0)
}

/// Runs the hook's check as the process `pid`, Sentinel, would run the hook: in its mount namespace, as its user and groups, without new
/// privileges. Gives its lines.
///
/// # Errors
/// Why it cannot be run so.
pub fn hook(pid: i32, hook: &str, within: Duration) -> Result<Vec<String>, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let run = Cmd::new(own).args(["like", &pid.to_string(), hook, "--check"]).deadline(within);
    match run.run_expecting(&[0, 1]) {
        Ok(output) if output.text().is_empty() => Err(output.stderr.trim().to_owned()),
        Ok(output) => Ok(output.text().lines().map(str::to_owned).collect()),
        Err(error) => Err(error.exit().map_or_else(|| error.to_string(), |(_, said)| said.trim().to_owned())),
    }
}

/// The rules of the whole firewall.
///
/// # Errors
/// Why they cannot be seen.
pub fn ruleset(within: Duration) -> Result<Ruleset, String> {
    let mut all = Ruleset::default();
    let mut read = 0;
    let print = |program: &str, args: &[&str]| {
        command::find(program).ok()?;
        Some(Cmd::new(program).args(args.iter().copied()).deadline(within).run().map(|output| output.text()))
    };
    if let Some(text) = print("nft", &["list", "ruleset"]) {
        rules::read_nft(&text.map_err(|error| error.to_string())?, &mut all);
        read += 1;
    }
    // In this order: a chain of iptables-legacy is another one than that of the same name which nft shows.
    for (family, program, take) in [
        ("ip", "iptables-nft-save", rules::read_saved_by_nft as fn(&str, &str, &mut Ruleset)),
        ("ip6", "ip6tables-nft-save", rules::read_saved_by_nft),
        ("ip", "iptables-legacy-save", rules::read_saved),
        ("ip6", "ip6tables-legacy-save", rules::read_saved),
    ] {
        // A variant that the kernel does not have holds no rules.
        if let Some(Ok(text)) = print(program, &[]) {
            take(family, &text, &mut all);
            read += 1;
        }
    }
    if read == 0 { Err("neither nft nor iptables is installed".to_owned()) } else { Ok(all) }
}

/// The programs that the firewall of these settings needs and that are missing, and which firewall that is.
pub fn backend(choice: BackendChoice) -> (&'static str, Vec<&'static str>) {
    let installed = |program: &&'static str| command::find(program).is_err();
    let missing = |needed: &[&'static str]| needed.iter().copied().filter(|program| installed(program)).collect();
    match choice {
        BackendChoice::Nft => ("nft", missing(&["nft"])),
        BackendChoice::Auto if command::find("nft").is_ok() => ("nft", Vec::new()),
        _ => (
            "iptables",
            missing(&[
                "iptables",
                "iptables-save",
                "iptables-restore",
                "ip6tables",
                "ip6tables-save",
                "ip6tables-restore",
                "ipset",
            ]),
        ),
    }
}

/// How many connections the kernel tracks, and how many it can.
///
/// # Errors
/// The file that cannot be read.
pub fn conntrack() -> Result<(u64, u64), String> {
    let number = |name: &str| {
        let path = format!("/proc/sys/net/netfilter/{name}");
        let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        text.trim().parse().map_err(|_| format!("{path} holds no number"))
    };
    Ok((number("nf_conntrack_count")?, number("nf_conntrack_max")?))
}

/// The least that remains of the lease in some looks, in ms: None where the port is closed in one of them.
///
/// # Errors
/// Why the firewall cannot be seen.
pub fn least_of_lease(ports: Ports, settings: &Settings, looks: u32, pause: Duration) -> Result<Option<u64>, String> {
    let gate =
        gate::Gate::new(ports, settings.firewall, settings.firewall_within).map_err(|error| error.to_string())?;
    let mut least = Some(u64::MAX);
    for look in 0..looks {
        if look > 0 {
            std::thread::sleep(pause);
        }
        let left = match gate.state().map_err(|error| error.to_string())?.rw {
            PortState::Closed => None,
            PortState::Open { remaining } => Some(remaining.as_millis().try_into().unwrap_or(u64::MAX)),
        };
        least = least.zip(left).map(|(least, left)| least.min(left));
    }
    Ok(least)
}

/// A certificate's end, as openssl says it, and how near it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// It is over.
    Past,
    /// Within a month.
    Soon,
    /// Later.
    Later,
}

/// When the first certificate in a file ends.
///
/// # Errors
/// Why that cannot be told.
pub fn certificate(file: &str, within: Duration) -> Result<(Ends, String), String> {
    let ask = |seconds: &str| {
        let args = ["x509", "-noout", "-enddate", "-in", file, "-checkend", seconds];
        let ended = Cmd::new("openssl").args(args).deadline(within).run_expecting(&[0, 1]);
        ended.map_err(|error| error.to_string()).and_then(|output| {
            let end = output.text().lines().find_map(|line| line.strip_prefix("notAfter=").map(str::to_owned));
            end.map(|end| (output.code == 0, end)).ok_or_else(|| format!("{file}: {}", output.stderr.trim()))
        })
    };
    const MONTH: &str = "2592000";
    Ok(match (ask("0")?, ask(MONTH)?) {
        ((false, end), _) => (Ends::Past, end),
        (_, (false, end)) => (Ends::Soon, end),
        (_, (true, end)) => (Ends::Later, end),
    })
}

/// A configuration file with what it includes, comments dropped.
///
/// # Errors
/// The file that cannot be read.
pub fn configuration(path: &str) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    let mut left: Vec<PathBuf> = vec![PathBuf::from(path)];
    let mut most = 32;
    while let Some(path) = left.pop() {
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match line.split_once(char::is_whitespace) {
                Some((word, file)) if word.eq_ignore_ascii_case("include") && most > 0 => {
                    most -= 1;
                    left.push(Path::new(file.trim().trim_matches('"')).to_owned());
                }
                _ => lines.push(line.to_owned()),
            }
        }
    }
    Ok(lines)
}

/// The value of a setting in such lines: the last one counts.
pub fn setting<'a>(lines: &'a [String], name: &str) -> Option<&'a str> {
    lines.iter().rev().find_map(|line| {
        let (word, value) = line.split_once(char::is_whitespace)?;
        word.eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"'))
    })
}

/// The name of the user with this id, and whether it or a process' groups are in the group `haclient`.
pub fn user_name(uid: u32) -> Option<String> {
    nix::unistd::User::from_uid(uid.into()).ok().flatten().map(|user| user.name)
}

/// The id of the group haclient.
pub fn haclient() -> Option<u32> {
    nix::unistd::Group::from_name("haclient").ok().flatten().map(|group| group.gid.as_raw())
}
