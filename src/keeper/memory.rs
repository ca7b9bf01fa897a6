//! What a keeper that starts must know of the one before it: which lease it held, and under which run of Redis this node held its
//! last one.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::behind::Behind;
use crate::logging::{Subject, decided};

/// Where the files are. They outlast a reboot: a Redis that came back with its machine has restarted, too.
pub const DIRECTORY: &str = "/var/lib/rolegate";

/// The kernel's number for this boot: what was open before it is not any more.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The Redis behind a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Its `run_id`.
    pub run_id: String,
    /// Its `master_replid`: which history of writes its data, and that of its replicas, belongs to.
    pub replication_id: String,
    /// When the lease was last known to be held, in seconds since 1970.
    pub held_at: u64,
    /// The same by the kernel's clock since boot, which nobody steps, in milliseconds; None in another boot.
    #[serde(default)]
    pub held_at_uptime: Option<u64>,
}

impl Run {
    /// Notes that the lease is held now.
    pub fn is_held_now(&mut self) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        (self.held_at, self.held_at_uptime) = (now.map_or(0, |since| since.as_secs()), Some(uptime_ms()));
    }

    /// How long ago it was last known to be held. In another boot that hangs on the host's clock.
    pub fn held_ago(&self) -> Duration {
        match self.held_at_uptime {
            Some(at) => Duration::from_millis(uptime_ms().saturating_sub(at)),
            None => {
                let at = SystemTime::UNIX_EPOCH + Duration::from_secs(self.held_at);
                SystemTime::now().duration_since(at).unwrap_or_default()
            }
        }
    }
}

fn uptime_ms() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    now.as_millis().try_into().unwrap_or(u64::MAX)
}

/// What is remembered of one gate.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// Whether the lease of `last` was held when it was written, in this boot. Only an open element of such a one is renewed.
    pub held: bool,
    /// The run behind the last lease, as long as no other node was named since.
    pub last: Option<Run>,
    /// Whether that was in this boot.
    pub this_boot: bool,
}

/// The version of what stands in the files. Of another one nothing is taken over: what is open is closed, and acquired anew.
const VERSION: u32 = 1;

/// That of files without one.
fn first_version() -> u32 {
    1
}

#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(default = "first_version")]
    version: u32,
    boot: String,
    held: bool,
    last: Run,
}

/// The file of one gate.
#[derive(Debug)]
pub struct Memory {
    subject: Subject,
    path: PathBuf,
    boot: String,
    files: Behind,
}

impl Memory {
    /// The file of the gate resource `instance`.
    pub fn new(subject: Subject, instance: &str, files: &Behind) -> Self {
        Memory { subject, ..Memory::under(Path::new(DIRECTORY), instance, files, &boot_id()) }
    }

    /// The same among the files in `directory`, in the boot `boot`.
    pub fn under(directory: &Path, instance: &str, files: &Behind, boot: &str) -> Self {
        let path = directory.join(format!("lease-{}", file_name(instance)));
        Memory { subject: Subject::default(), path, boot: boot.to_owned(), files: files.clone() }
    }

    /// What stands there; nothing where it cannot be read: then what is open is closed, and acquired anew.
    pub fn read(&self) -> Remembered {
        let text = match self.files.read(&self.path) {
            Ok(Some(text)) => text,
            Ok(None) => return Remembered::default(),
            Err(error) => {
                decided!(warn, self.subject, error, "cannot read {}: {error}", self.path.display());
                return Remembered::default();
            }
        };
        match serde_json::from_str::<Written>(&text) {
            Ok(Written { version, .. }) if version != VERSION => {
                let why = format!("its version is {version}, not {VERSION}");
                decided!(warn, self.subject, why, "cannot understand {}: {why}", self.path.display());
                Remembered::default()
            }
            Ok(written) => {
                let this_boot = written.boot == self.boot && !self.boot.is_empty();
                let held_at_uptime = written.last.held_at_uptime.filter(|_| this_boot);
                let last = Run { held_at_uptime, ..written.last };
                Remembered { held: written.held && this_boot, last: Some(last), this_boot }
            }
            Err(error) => {
                decided!(warn, self.subject, error, "cannot understand {}: {error}", self.path.display());
                Remembered::default()
            }
        }
    }

    /// Has it replaced some time soon. The lease does not need what cannot be written.
    pub fn write(&self, last: Option<&Run>, held: bool) {
        let written = last.map(|run| Written { version: VERSION, boot: self.boot.clone(), held, last: run.clone() });
        self.files.put(&self.path, written.and_then(|written| serde_json::to_string(&written).ok()));
    }
}

/// The kernel's id of this boot; nothing where it cannot be told.
pub(super) fn boot_id() -> String {
    fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned()
}

/// The part of a file's name, or of another one, that a resource's id or a master name gives: no two give the same.
pub(crate) fn file_name(instance: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let escaped = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    instance.bytes().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(id: &str) -> Run {
        Run { run_id: id.to_owned(), replication_id: "a\"b\n".to_owned(), held_at: 7, held_at_uptime: None }
    }

    /// What the next keeper reads, in this boot or another.
    fn then(directory: &Path, boot: &str, write: impl Fn(&Memory)) -> Remembered {
        let files = Behind::begin();
        write(&Memory::under(directory, "Redis/Gate", &files, "this"));
        files.flush(Duration::from_secs(20));
        Memory::under(directory, "Redis/Gate", &Behind::begin(), boot).read()
    }

    #[test]
    fn the_last_run_outlasts_its_lease() {
        let directory = tempfile::tempdir().unwrap();
        let then = |write: &dyn Fn(&Memory)| then(directory.path(), "this", write);
        assert_eq!(then(&|_| {}), Remembered::default());
        let held = |held| Remembered { held, last: Some(run("2")), this_boot: true };
        let both = |memory: &Memory, held| {
            memory.write(Some(&run("1")), true);
            memory.write(Some(&run("2")), held);
        };
        assert_eq!(then(&|memory| both(memory, true)), held(true));
        assert_eq!(then(&|memory| both(memory, false)), held(false));
        assert_eq!(then(&|_| {}), held(false));
        assert_eq!(then(&|memory| memory.write(None, false)), Remembered::default());
    }

    #[test]
    fn a_clock_that_is_stepped_makes_nothing_older_in_this_boot() {
        let directory = tempfile::tempdir().unwrap();
        let mut last = run("1");
        last.is_held_now();
        let stepped = Run { held_at: last.held_at - 3600, ..last.clone() };
        let ago = |boot| {
            let read = then(directory.path(), boot, |memory| memory.write(Some(&stepped), true)).last;
            read.expect("a run").held_ago()
        };
        assert!(ago("this") < Duration::from_secs(60));
        assert!(ago("other") >= Duration::from_secs(3600));
    }

    #[test]
    fn a_lease_of_another_boot_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let then = |boot, write: &dyn Fn(&Memory)| then(directory.path(), boot, write);
        let lost = Remembered { held: false, last: Some(run("1")), this_boot: false };
        assert_eq!(then("other", &|memory| memory.write(Some(&run("1")), true)), lost);
        assert_eq!(then("", &|_| {}), lost);
        let path = directory.path().join("lease-Redis%2FGate");
        let text = fs::read_to_string(&path).unwrap();
        for (version, known) in [("", true), ("\"version\":1,", true), ("\"version\":2,", false)] {
            fs::write(&path, text.replace("\"version\":1,", version)).unwrap();
            assert_eq!(then("this", &|_| {}).last.is_some(), known, "{version}");
        }
        fs::write(&path, "held = ").unwrap();
        assert_eq!(then("this", &|_| {}), Remembered::default());
    }
}
