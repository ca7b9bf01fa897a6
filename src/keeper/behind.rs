//! Files that are written behind those who keep what stands in them: nothing that a lease needs waits for a disk.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::warn;

/// See the module. Clones share the one thread that writes; it ends with the last of them, when all is written.
#[derive(Debug, Clone)]
pub struct Behind(Arc<Owners>);

/// Those who have something written.
#[derive(Debug)]
struct Owners(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<Awaited>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Awaited {
    /// What is not written yet, the one that is being written among them: the newest of each file, None to remove it.
    files: BTreeMap<PathBuf, Option<String>>,
    /// Nobody has anything written any more.
    over: bool,
}

impl Behind {
    /// With a thread of its own.
    pub fn begin() -> Self {
        let shared = Arc::new(Shared::default());
        let writer = shared.clone();
        thread::spawn(move || writer.write_all());
        Behind(Arc::new(Owners(shared)))
    }

    /// Has the file at `path` replaced by `text` in one step, or removed, some time soon. What cannot be replaced is removed, and logged:
    /// what stood there is wrong.
    pub fn put(&self, path: &Path, text: Option<String>) {
        self.0.0.lock().files.insert(path.to_owned(), text);
        self.0.0.changed.notify_all();
    }

    /// What stands in the file, or will when it is written; None where there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, path: &Path) -> io::Result<Option<String>> {
        if let Some(text) = self.0.0.lock().files.get(path) {
            return Ok(text.clone());
        }
        match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            result => result.map(Some),
        }
    }

    /// Waits until all is written, at most that long.
    pub fn flush(&self, at_most: Duration) {
        let awaited = self.0.0.lock();
        let result = self.0.0.changed.wait_timeout_while(awaited, at_most, |awaited| !awaited.files.is_empty());
        drop(result);
    }
}

impl Drop for Owners {
    fn drop(&mut self) {
        self.0.lock().over = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Awaited> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self) {
        let mut awaited = self.lock();
        loop {
            // They take turns: one that changes all the time keeps no other waiting.
            let all = awaited.files.clone();
            for (path, text) in all {
                drop(awaited);
                write(&path, text.as_deref());
                awaited = self.lock();
                if awaited.files.get(&path) == Some(&text) {
                    awaited.files.remove(&path);
                }
            }
            if awaited.files.is_empty() {
                self.changed.notify_all();
                if awaited.over {
                    return;
                }
                awaited = self.changed.wait(awaited).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

fn write(path: &Path, text: Option<&str>) {
    let result = match text {
        Some(text) => replace(path, text),
        None => fs::remove_file(path),
    };
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            warn!("cannot write {}: {error}", path.display());
            let _gone = fs::remove_file(path);
        }
        _ => {}
    }
}

/// Replaces a file's text in one step, as far as the disk.
///
/// # Errors
/// When it cannot be written; what stood there stands.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
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

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn the_last_of_each_file_stands_there_in_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join("deep").join(name);
        let behind = Behind::begin();
        assert_eq!(behind.read(&path("a")).unwrap(), None);
        for n in 0..200 {
            behind.put(&path("a"), Some(n.to_string()));
            behind.put(&path("b"), Some("b".to_owned()));
            // Whether it is written by now or not.
            assert_eq!(behind.read(&path("a")).unwrap(), Some(n.to_string()));
        }
        behind.flush(LONG);
        assert_eq!(fs::read_to_string(path("a")).unwrap(), "199");
        behind.put(&path("b"), None);
        assert_eq!(behind.read(&path("b")).unwrap(), None);
        behind.flush(LONG);
        assert!(!path("b").exists() && path("a").exists());
    }

    #[test]
    fn what_cannot_be_replaced_does_not_stay() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let behind = Behind::begin();
        behind.put(&path, Some("old".to_owned()));
        behind.flush(LONG);
        // In the way of the new text.
        fs::create_dir_all(directory.path().join("a.new")).unwrap();
        behind.put(&path, Some("new".to_owned()));
        behind.flush(LONG);
        assert!(!path.exists());
    }
}
