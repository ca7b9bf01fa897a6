//! Files that are written behind those who keep what stands in them: nothing that a lease needs waits for a disk.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::warn;

/// A file that is appended to is that long, in bytes, and then begun anew; the one before is kept.
pub const LONGEST: u64 = 256 << 10;

/// What waits to be appended to a file, in bytes, at most. What is more is lost: the disk stands still.
const MOST_LINES: usize = 64 << 10;

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
    /// What is to be appended.
    lines: BTreeMap<PathBuf, Lines>,
    /// What was taken from there is being written.
    appending: bool,
    /// Nobody has anything written any more.
    over: bool,
}

#[derive(Debug)]
struct Lines {
    head: String,
    text: String,
}

impl Awaited {
    fn is_empty(&self) -> bool {
        self.files.is_empty() && self.lines.is_empty() && !self.appending
    }
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

    /// Has `line` appended to the file at `path`, which begins with the line `head` when it is new. One that has grown to [`LONGEST`] is
    /// kept under its name with a tilde behind it, in place of the one before. What cannot be written is lost, and logged: it is for people.
    pub fn append(&self, path: &Path, head: &str, line: &str) {
        let mut awaited = self.0.0.lock();
        let new = || Lines { head: head.to_owned(), text: String::new() };
        let lines = awaited.lines.entry(path.to_owned()).or_insert_with(new);
        if lines.text.len() + line.len() < MOST_LINES {
            // In front: what a power cut has torn spoils no other line.
            lines.text.push('\n');
            lines.text.push_str(line);
        }
        drop(awaited);
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
        let result = self.0.0.changed.wait_timeout_while(awaited, at_most, |awaited| !awaited.is_empty());
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
            let lines = std::mem::take(&mut awaited.lines);
            if !lines.is_empty() {
                awaited.appending = true;
                drop(awaited);
                for (path, lines) in lines {
                    if let Err(error) = append(&path, &lines) {
                        warn!(REASON = %error, "cannot write {}: {error}", path.display());
                    }
                }
                awaited = self.lock();
                awaited.appending = false;
            }
            if awaited.is_empty() {
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
            warn!(REASON = %error, "cannot write {}: {error}", path.display());
            let _gone = fs::remove_file(path);
        }
        _ => {}
    }
}

/// The name of the file before the one at `path`.
pub fn before(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    // No master name or resource's id gives a name with one.
    name.push("~");
    name.into()
}

fn append(path: &Path, lines: &Lines) -> io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
    if fs::metadata(path).is_ok_and(|file| file.len() >= LONGEST) {
        fs::rename(path, before(path))?;
    }
    let mut file = fs::File::options().append(true).create(true).open(path)?;
    // One call: two lines of a disk that is full are not mixed.
    let head = if file.metadata()?.len() == 0 { lines.head.as_str() } else { "" };
    file.write_all(format!("{head}{}", lines.text).as_bytes())
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

    #[test]
    fn what_is_appended_is_there_in_its_order_and_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep").join("notes");
        let behind = Behind::begin();
        let line = |n: usize| format!("{n} {}", "x".repeat(1000));
        for n in 0..600 {
            behind.append(&path, "head", &line(n));
            if n % 20 == 0 {
                behind.flush(LONG);
            }
        }
        behind.flush(LONG);
        let mut numbers = Vec::new();
        for file in [before(&path), path] {
            let text = fs::read_to_string(file).unwrap();
            assert!(text.len() as u64 <= LONGEST + 64 * 1024, "{}", text.len());
            let mut lines = text.lines();
            assert_eq!(lines.next(), Some("head"));
            numbers.extend(lines.map(|line| line.split(' ').next().unwrap().parse::<usize>().unwrap()));
        }
        // One file has been thrown away by now, and none between.
        assert!(numbers[0] > 0 && numbers.is_sorted() && numbers.len() == 600 - numbers[0], "{numbers:?}");
    }

    #[test]
    fn lines_that_cannot_be_written_are_few_in_memory() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notes");
        fs::create_dir_all(path.join("in the way")).unwrap();
        let behind = Behind::begin();
        for _ in 0..1000 {
            behind.append(&path, "head", &"x".repeat(1000));
            let awaited = behind.0.0.lock();
            assert!(awaited.lines.values().all(|lines| lines.text.len() <= MOST_LINES));
        }
        behind.flush(LONG);
    }
}
