//! What a keeper that starts must know of the one before it: which lease it held, and under which run of Redis this node held its
//! last one.
//!
//! A lease must not wait for a disk: a thread of its own writes, in order.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use serde::{Deserialize, Serialize};
use tracing::warn;

/// Where the files are. They outlast a reboot: a Redis that came back with its machine has restarted, too.
pub(super) const DIRECTORY: &str = "/var/lib/rolegate";

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

#[derive(Serialize, Deserialize)]
struct Written {
    boot: String,
    held: bool,
    last: Run,
}

/// The run behind the last lease and whether that is held; None to forget it.
type Entry = Option<(Run, bool)>;

/// The file of one gate.
#[derive(Debug)]
pub struct Memory {
    file: File,
    writer: Option<(mpsc::Sender<Entry>, thread::JoinHandle<()>)>,
}

#[derive(Debug, Clone)]
struct File {
    path: PathBuf,
    boot: String,
}

impl Memory {
    /// The file of the gate resource `instance`.
    pub fn new(instance: &str) -> Self {
        Memory::under(Path::new(DIRECTORY), instance)
    }

    fn under(directory: &Path, instance: &str) -> Self {
        let boot = fs::read_to_string(BOOT_ID).unwrap_or_default();
        let file =
            File { path: directory.join(format!("lease-{}", file_name(instance))), boot: boot.trim().to_owned() };
        let (sender, receiver) = mpsc::channel::<Entry>();
        let to = file.clone();
        let thread = thread::spawn(move || {
            while let Ok(mut what) = receiver.recv() {
                // Only the last one counts.
                while let Ok(newer) = receiver.try_recv() {
                    what = newer;
                }
                to.write(what.as_ref());
            }
        });
        Memory { file, writer: Some((sender, thread)) }
    }

    /// What stands there; nothing where it cannot be read: then what is open is closed, and acquired anew.
    pub fn read(&self) -> Remembered {
        self.file.read()
    }

    /// Has it replaced, in one step, some time soon. What cannot be written is logged: the lease does not need it.
    pub fn write(&self, last: Option<&Run>, held: bool) {
        if let Some((sender, _)) = &self.writer {
            // The writer ends only with this value.
            let _sent = sender.send(last.map(|run| (run.clone(), held)));
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.writer.take() {
            drop(sender);
            let _ended = thread.join();
        }
    }
}

impl File {
    fn read(&self) -> Remembered {
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
                let this_boot = written.boot == self.boot && !self.boot.is_empty();
                Remembered { held: written.held && this_boot, last: Some(written.last), this_boot }
            }
            Err(error) => {
                warn!("cannot understand {}: {error}", self.path.display());
                Remembered::default()
            }
        }
    }

    fn write(&self, what: Option<&(Run, bool)>) {
        let result = match what {
            None => fs::remove_file(&self.path),
            Some((run, held)) => self.replace(run, *held),
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

    fn replace(&self, run: &Run, held: bool) -> io::Result<()> {
        let text = serde_json::to_string(&Written { boot: self.boot.clone(), held, last: run.clone() })?;
        replace(&self.path, &text)
    }
}

/// The part of a file's name that a resource's id gives.
pub(super) fn file_name(instance: &str) -> String {
    instance.chars().map(|c| if c == '/' || c == '\0' { '_' } else { c }).collect()
}

/// Replaces a file's text in one step, as far as the disk.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
    let mut new = path.to_owned().into_os_string();
    new.push(".new");
    let mut file = fs::File::create(&new)?;
    file.write_all(text.as_bytes())?;
    // Else a power cut could leave an empty file.
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(id: &str) -> Run {
        Run { run_id: id.to_owned(), replication_id: "a\"b\n".to_owned(), held_at: 7 }
    }

    /// What the next keeper reads.
    fn then(directory: &Path, write: impl Fn(&Memory)) -> Remembered {
        let memory = Memory::under(directory, "Redis/Gate");
        write(&memory);
        drop(memory);
        Memory::under(directory, "Redis/Gate").read()
    }

    #[test]
    fn the_last_run_outlasts_its_lease() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("deep");
        assert_eq!(then(&directory, |_| {}), Remembered::default());
        let held = |held| Remembered { held, last: Some(run("2")), this_boot: true };
        let both = |memory: &Memory, held| {
            memory.write(Some(&run("1")), true);
            memory.write(Some(&run("2")), held);
        };
        assert_eq!(then(&directory, |memory| both(memory, true)), held(true));
        assert_eq!(then(&directory, |memory| both(memory, false)), held(false));
        assert_eq!(then(&directory, |_| {}), held(false));
        assert_eq!(then(&directory, |memory| memory.write(None, false)), Remembered::default());
    }

    #[test]
    fn a_lease_of_another_boot_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let file = File { path: directory.path().join("lease"), boot: "this".to_owned() };
        file.write(Some(&(run("1"), true)));
        let other = File { boot: "other".to_owned(), ..file.clone() };
        assert_eq!(other.read(), Remembered { held: false, last: Some(run("1")), this_boot: false });
        fs::write(&file.path, "held = ").unwrap();
        assert_eq!(file.read(), Remembered::default());
    }
}
