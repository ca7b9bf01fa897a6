//! A read-write port that an operator has forced open on this node, though no majority of Sentinels can say who is primary: the
//! glass is broken.
//!
//! The kernel ends it, by the timeout of the open element. Who forces it leaves a file under /run first, so that the keeper marks the
//! gate at all Sentinels with the time that it will have, before it is open; and so that neither the keeper nor the agent closes it as one that is
//! open without a lease. What ends it early is decided in [`over`]. A reboot ends it, and forgets the file.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::permission::{DIRECTORY, file_of, replace};

/// How long the command that forces a port may take from asking for it to opening it.
pub const PREPARES: Duration = Duration::from_secs(20);

/// The version of what stands in the files; the first, of which one is that says none. Of another one nothing is forced.
const VERSION: u32 = 1;

fn first() -> u32 {
    1
}

/// A file. Fields that a later release adds are no reason to end what is open.
#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(default = "first")]
    version: u32,
    #[serde(flatten)]
    force: Force,
}

/// One that was asked for, or is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Force {
    /// Who did it, until when, and why.
    pub text: String,
    /// Whether the port has been opened.
    pub opened: bool,
    /// By when it is closed again, in milliseconds of the kernel's monotonic clock.
    pub until_ms: u64,
    /// By when it is opened, or is not any more.
    pub opens_until_ms: u64,
}

impl Force {
    /// How long it may be open yet, at most.
    pub fn remaining(&self, now_ms: u64) -> Duration {
        Duration::from_millis(self.until_ms.saturating_sub(now_ms))
    }
}

/// The kernel's monotonic clock, in milliseconds: the same for all programs of one boot.
pub fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    now.as_millis().try_into().unwrap_or(u64::MAX)
}

/// The node attribute that shows it in the cluster while it lasts; transient. `role` is the one that carries the role.
pub fn attribute(role: &str) -> String {
    format!("{role}_forced")
}

/// The file of one gate resource.
#[derive(Debug, Clone)]
pub struct Store {
    path: PathBuf,
}

impl Store {
    /// Of the gate resource `instance`.
    pub fn new(instance: &str) -> Self {
        Store::under(Path::new(DIRECTORY), instance)
    }

    /// The same in another directory.
    pub fn under(directory: &Path, instance: &str) -> Self {
        Store { path: file_of(directory, "forced", instance) }
    }

    /// What stands there, unless its time is over. A file that cannot be understood forces nothing.
    pub fn read(&self) -> Option<Force> {
        let Written { version, force } = serde_json::from_slice(&fs::read(&self.path).ok()?).ok()?;
        (version == VERSION && force.until_ms > now_ms()).then_some(force)
    }

    /// Replaces it.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, force: &Force) -> io::Result<()> {
        replace(&self.path, &serde_json::to_string(&Written { version: VERSION, force: force.clone() })?)
    }

    /// Takes it away; done if there is none. The port is as it was.
    ///
    /// # Errors
    /// The system's.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// What is known around a force.
#[derive(Debug, Clone, Copy, Default)]
pub struct Around<'a> {
    /// Whether the port is open; None where that cannot be told.
    pub open: Option<bool>,
    /// An operator has fenced this node.
    pub fenced: bool,
    /// The other node that a majority of Sentinels names.
    pub other: Option<&'a str>,
    /// Another node whose read-write port is seen open.
    pub open_elsewhere: Option<&'a str>,
    /// A Sentinel is promoting another server: it says so.
    pub promoting: Option<&'a str>,
    /// The primary of which Redis on this node is a replica.
    pub replica_of: Option<&'a str>,
}

/// Why a force is over: the port is to be closed, if it is not yet. Pure.
///
/// That Redis on this node does not answer, or has restarted, is no reason: who forced it open knows of no better one. Neither is that a majority is
/// back and names this node: the lease then takes over what is open.
pub fn over(force: &Force, now_ms: u64, around: Around) -> Option<String> {
    let Around { open, fenced, other, open_elsewhere, promoting, replica_of } = around;
    if fenced {
        return Some("an operator has fenced this node".to_owned());
    }
    if let Some(node) = other {
        return Some(format!("Sentinels name {node}"));
    }
    if let Some(node) = open_elsewhere {
        return Some(format!("{node} is open for writing"));
    }
    if let Some(why) = promoting {
        return Some(why.to_owned());
    }
    if let Some(of) = replica_of {
        return Some(format!("Redis on this node is a replica of {of}"));
    }
    match force.opened {
        true if open == Some(false) => Some("its time is over, or it was closed by hand".to_owned()),
        _ if now_ms >= force.until_ms => Some("its time is over".to_owned()),
        false if now_ms >= force.opens_until_ms => Some("it was asked for, and not opened in time".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn force(opened: bool) -> Force {
        Force { text: "by ann".into(), opened, until_ms: 100, opens_until_ms: 20 }
    }

    #[test]
    fn what_ends_a_force() {
        let open = Around { open: Some(true), ..Around::default() };
        let none = |now, force: &Force, around| assert_eq!(over(force, now, around), None);
        none(99, &force(true), open);
        none(99, &force(true), Around { open: None, ..open });
        none(19, &force(false), Around { open: Some(false), ..open });
        for (force, now, around, why) in [
            (force(true), 5, Around { fenced: true, ..open }, "fenced"),
            (force(true), 5, Around { other: Some("node2"), ..open }, "Sentinels name node2"),
            (force(false), 5, Around { other: Some("node2"), ..open }, "Sentinels name node2"),
            (force(true), 5, Around { open_elsewhere: Some("node2"), ..open }, "node2 is open"),
            (force(true), 5, Around { promoting: Some("a Sentinel promotes x"), ..open }, "promotes x"),
            (force(true), 5, Around { replica_of: Some("x:1"), ..open }, "a replica of x:1"),
            (force(true), 5, Around { open: Some(false), ..open }, "closed by hand"),
            (force(true), 100, open, "its time is over"),
            (force(false), 20, Around { open: Some(false), ..open }, "not opened in time"),
        ] {
            let said = over(&force, now, around).unwrap();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn what_is_written_is_read_until_its_time_is_over() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::under(directory.path(), "Redis/Gate");
        assert_eq!(store.read(), None);
        let force = Force { until_ms: now_ms() + 60_000, ..force(false) };
        store.write(&force).unwrap();
        assert_eq!(store.read(), Some(force.clone()));
        assert!(force.remaining(now_ms()) > Duration::from_secs(50));
        store.write(&Force { until_ms: now_ms(), ..force }).unwrap();
        assert_eq!(store.read(), None);
        store.remove().unwrap();
        store.remove().unwrap();
        for text in ["", "{", "{\"text\":\"\"}", "null"] {
            fs::write(&store.path, text).unwrap();
            assert_eq!(store.read(), None, "{text}");
        }
    }

    #[test]
    fn an_upgrade_does_not_end_what_is_open() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::under(directory.path(), "RedisGate");
        let until_ms = now_ms() + 60_000;
        let force = Force { until_ms, ..force(true) };
        let fields = format!(r#""text":"by ann","opened":true,"until_ms":{until_ms},"opens_until_ms":20"#);
        for (more, read) in [("", true), ("\"version\":1,\"new\":[1],", true), ("\"version\":2,", false)] {
            fs::write(&store.path, format!("{{{more}{fields}}}")).unwrap();
            assert_eq!(store.read(), read.then(|| force.clone()), "{more}");
        }
        store.write(&force).unwrap();
        assert!(fs::read_to_string(&store.path).unwrap().contains("\"version\":1"));
    }

    proptest! {
        #[test]
        fn none_outlasts_its_time(opened: bool, until_ms in 0..50u64, opens_until_ms in 0..50u64, now in 0..99u64) {
            let force = Force { text: String::new(), opened, until_ms, opens_until_ms };
            let open = Around { open: Some(true), ..Around::default() };
            prop_assert!(now < until_ms || over(&force, now, open).is_some());
        }
    }
}
