//! What a keeper that starts must know of the one before it: which lease it held, and under which run of Redis this node held its
//! last one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::warn;

/// Where the files are. They outlast a reboot: a Redis that came back with its machine has restarted, too.
const DIRECTORY: &str = "/var/lib/rolegate";

/// The kernel's number for this boot: what was open before it is not any more.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The Redis behind a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Its `run_id`.
    pub run_id: String,
    /// Its `master_replid`: which history of writes its data, and that of its replicas, belongs to.
    pub replication_id: String,
}

/// What is remembered of one gate.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// The lease that was held when it was written, in this boot. Only an open element of such a one is renewed.
    pub lease: Option<Lease>,
    /// The last lease, as long as no other node was named since.
    pub last: Option<Lease>,
}

#[derive(Serialize, Deserialize)]
struct Written {
    boot: String,
    held: bool,
    last: Lease,
}

/// The file of one gate.
#[derive(Debug)]
pub struct Memory {
    path: PathBuf,
    boot: String,
}

impl Memory {
    /// The file of the gate resource `instance`.
    pub fn new(instance: &str) -> Self {
        Memory::under(Path::new(DIRECTORY), instance)
    }

    fn under(directory: &Path, instance: &str) -> Self {
        let name: String = instance.chars().map(|c| if c == '/' || c == '\0' { '_' } else { c }).collect();
        let boot = fs::read_to_string(BOOT_ID).unwrap_or_default();
        Memory { path: directory.join(format!("lease-{name}")), boot: boot.trim().to_owned() }
    }

    /// What stands there; nothing where it cannot be read: then what is open is closed, and acquired anew.
    pub fn read(&self) -> Remembered {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    warn!("cannot read {}: {error}", self.path.display());
                }
                return Remembered::default();
            }
        };
        match serde_json::from_str::<Written>(&text) {
            Ok(written) => {
                let held = written.held && written.boot == self.boot && !self.boot.is_empty();
                Remembered { lease: held.then(|| written.last.clone()), last: Some(written.last) }
            }
            Err(error) => {
                warn!("cannot understand {}: {}", self.path.display(), error);
                Remembered::default()
            }
        }
    }

    /// Replaces it, in one step. What cannot be written is logged: the lease does not need it.
    pub fn write(&self, lease: Option<&Lease>, last: Option<&Lease>) {
        let result = match lease.or(last) {
            None => fs::remove_file(&self.path),
            Some(run) => self.replace(run, lease.is_some()),
        };
        match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!("cannot write {}: {error}", self.path.display());
                // An old one would speak of a lease that is not held any more.
                let _gone = fs::remove_file(&self.path);
            }
            _ => {}
        }
    }

    fn replace(&self, run: &Lease, held: bool) -> io::Result<()> {
        let text = serde_json::to_string(&Written { boot: self.boot.clone(), held, last: run.clone() })?;
        fs::create_dir_all(self.path.parent().unwrap_or(Path::new("/")))?;
        let new = self.path.with_extension("new");
        fs::write(&new, text)?;
        fs::rename(&new, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(id: &str) -> Lease {
        Lease { run_id: id.to_owned(), replication_id: "a\"b\n".to_owned() }
    }

    #[test]
    fn the_last_run_outlasts_its_lease() {
        let directory = tempfile::tempdir().unwrap();
        let memory = Memory::under(&directory.path().join("deep"), "Redis/Gate");
        assert_eq!(memory.read(), Remembered::default());
        memory.write(Some(&run("1")), Some(&run("1")));
        assert_eq!(memory.read(), Remembered { lease: Some(run("1")), last: Some(run("1")) });
        memory.write(None, Some(&run("1")));
        assert_eq!(memory.read(), Remembered { lease: None, last: Some(run("1")) });
        memory.write(None, None);
        memory.write(None, None);
        assert_eq!(memory.read(), Remembered::default());
    }

    #[test]
    fn a_lease_of_another_boot_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let memory = Memory::under(directory.path(), "RedisGate");
        memory.write(Some(&run("1")), Some(&run("1")));
        let other = Memory { boot: "other".to_owned(), ..Memory::under(directory.path(), "RedisGate") };
        assert_eq!(other.read(), Remembered { lease: None, last: Some(run("1")) });
        fs::write(&memory.path, "held = ").unwrap();
        assert_eq!(memory.read(), Remembered::default());
    }
}
