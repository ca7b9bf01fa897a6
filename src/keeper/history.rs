//! The last failover of each master name, and why it was: from Sentinels' events, and from what this node's keeper has asked for.
//! For operators; nothing is decided by it.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::behind::Behind;
use super::events::{SentinelEvent, Step};
use super::memory;

/// What led to a failover came within this time before it, in seconds: `failover-timeout` is 180 s by default.
const BEFORE: u64 = 200;

/// So long after the first that says so, others may say it again, in seconds: the leader's `+switch-master` comes when all replicas are
/// turned, or at `failover-timeout`.
const AGAIN: u64 = 200;

/// A failover, as this node's keeper saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failover {
    /// When the first Sentinel said that another server is primary, in seconds since 1970 by this node's clock.
    pub at: u64,
    /// The primary before.
    pub from: SocketAddr,
    /// The primary since.
    pub to: SocketAddr,
    /// Why.
    pub cause: Cause,
}

/// Why a failover was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Sentinels agreed that the primary was down.
    PrimaryDown,
    /// A Sentinel was asked for it, by an operator or another node's keeper.
    Requested,
    /// This node's keeper has asked a Sentinel for it: why.
    Keeper(String),
    /// The keeper was not there, or not heard.
    Unknown,
}

/// How the files' names begin.
const PREFIX: &str = "failover-";

/// The version of what stands in the files.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    master: String,
    last: Failover,
}

/// What is known of one master name.
#[derive(Debug, Default)]
struct Book {
    /// Sentinels agreed that the primary is down.
    down: Option<u64>,
    /// A Sentinel began a failover, while they agreed so or not.
    tried: Option<(u64, bool)>,
    /// This node's keeper asked for one.
    asked: Option<(u64, String)>,
    last: Option<Failover>,
}

impl Book {
    /// Says whether there was a failover that was not known.
    fn heard(&mut self, step: &Step, now: u64) -> bool {
        let recent = |at: u64| now.saturating_sub(at) <= BEFORE;
        match step {
            Step::Down => self.down = Some(now),
            Step::Up => self.down = None,
            Step::Tried => {
                let down = self.down.is_some_and(recent);
                // Several of them may try; one that was asked comes alone.
                let before = self.tried.is_some_and(|(at, down)| down && recent(at));
                self.tried = Some((now, down || before));
            }
            Step::Switched { from, to } => {
                let known =
                    |last: &Failover| (last.from, last.to) == (*from, *to) && now.saturating_sub(last.at) <= AGAIN;
                if from == to || self.last.as_ref().is_some_and(known) {
                    return false;
                }
                let asked = self.asked.take().filter(|(at, _)| recent(*at));
                let cause = match (asked, self.tried.take().filter(|(at, _)| recent(*at))) {
                    (Some((_, why)), _) => Cause::Keeper(why),
                    (None, Some((_, true))) => Cause::PrimaryDown,
                    (None, Some((_, false))) => Cause::Requested,
                    (None, None) => Cause::Unknown,
                };
                self.down = None;
                self.last = Some(Failover { at: now, from: *from, to: *to, cause });
                return true;
            }
        }
        false
    }

    /// The same of what this node's keeper has asked for. A Sentinel may have begun before its answer was read.
    fn asked(&mut self, why: &str, now: u64) -> bool {
        match &mut self.last {
            Some(last) if now.saturating_sub(last.at) <= 2 && last.cause == Cause::Requested => {
                last.cause = Cause::Keeper(why.to_owned());
                true
            }
            _ => {
                self.asked = Some((now, why.to_owned()));
                false
            }
        }
    }
}

/// See the module. Clones share it.
#[derive(Debug, Clone)]
pub struct History {
    directory: PathBuf,
    books: Arc<Mutex<BTreeMap<String, Book>>>,
    files: Behind,
}

impl History {
    /// What the keeper before this one knew, and all from now on.
    pub fn read(files: &Behind) -> Self {
        History::under(Path::new(memory::DIRECTORY), files)
    }

    /// The same from the files in `directory`. Reads all that is there at once: later on, leases would wait for the disk.
    pub fn under(directory: &Path, files: &Behind) -> Self {
        let mut books = BTreeMap::new();
        for file in fs::read_dir(directory).into_iter().flatten().flatten() {
            if !file.file_name().to_string_lossy().starts_with(PREFIX) {
                continue;
            }
            let text = fs::read_to_string(file.path()).unwrap_or_default();
            // A file that a newer version wrote says nothing.
            if let Ok(Written { version: VERSION, master, last }) = serde_json::from_str(&text) {
                books.insert(master, Book { last: Some(last), ..Book::default() });
            }
        }
        History { directory: directory.to_owned(), books: Arc::new(Mutex::new(books)), files: files.clone() }
    }

    /// The last failover of `master`.
    pub fn last(&self, master: &str) -> Option<Failover> {
        self.lock().get(master)?.last.clone()
    }

    /// This node's keeper has asked a Sentinel for a failover.
    pub fn asked(&self, master: &str, why: &str) {
        let mut books = self.lock();
        let book = books.entry(master.to_owned()).or_default();
        let new = book.asked(why, now());
        drop(books);
        if new {
            self.keep(master);
        }
    }

    /// Takes note of a Sentinel's event. Of master names that this node has a gate for: a stranger could name any number of them.
    pub fn heard(&self, event: &SentinelEvent) {
        let Some(step) = &event.step else { return };
        let new = self.lock().entry(event.master.clone()).or_default().heard(step, now());
        if new {
            self.keep(&event.master);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Book>> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the last one of `master` written.
    fn keep(&self, master: &str) {
        let Some(last) = self.last(master) else { return };
        let path = self.directory.join(format!("{PREFIX}{}", memory::file_name(master)));
        let written = Written { version: VERSION, master: master.to_owned(), last };
        if let Ok(text) = serde_json::to_string(&written) {
            self.files.put(&path, Some(text));
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn address(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 6379))
    }

    fn switched(from: u8, to: u8) -> Step {
        Step::Switched { from: address(from), to: address(to) }
    }

    #[test]
    fn a_failover_has_the_cause_that_led_to_it() {
        let cause = |steps: &[(u64, Step)]| {
            let mut book = Book::default();
            let mut new = 0;
            for (at, step) in steps {
                new += usize::from(book.heard(step, *at));
            }
            assert_eq!(new, 1, "{steps:?}");
            let last = book.last.unwrap();
            assert_eq!((last.from, last.to), (address(1), address(2)));
            (last.at, last.cause)
        };
        let down = [(5, Step::Down), (5, Step::Tried), (5, Step::Tried), (6, switched(1, 2)), (60, switched(1, 2))];
        assert_eq!(cause(&down), (6, Cause::PrimaryDown));
        assert_eq!(cause(&[(5, Step::Tried), (6, switched(1, 2))]), (6, Cause::Requested));
        let well_again = [(5, Step::Down), (7, Step::Up), (8, Step::Tried), (9, switched(1, 2))];
        assert_eq!(cause(&well_again), (9, Cause::Requested));
        assert_eq!(cause(&[(9, switched(1, 2))]), (9, Cause::Unknown));
        assert_eq!(cause(&[(5, Step::Tried), (900, switched(1, 2))]), (900, Cause::Unknown));
        assert_eq!(cause(&[(5, switched(1, 1)), (9, switched(1, 2))]), (9, Cause::Unknown));
    }

    #[test]
    fn what_a_keeper_asked_for_is_its_own_whichever_comes_first() {
        let wanted = Some(Cause::Keeper("why".into()));
        let mut book = Book::default();
        assert!(!book.asked("why", 5));
        book.heard(&Step::Tried, 5);
        assert!(book.heard(&switched(1, 2), 6));
        assert_eq!(book.last.as_ref().map(|last| last.cause.clone()), wanted);
        // The next one is another's.
        book.heard(&Step::Tried, 50);
        book.heard(&switched(2, 1), 51);
        assert_eq!(book.last.as_ref().map(|last| last.cause.clone()), Some(Cause::Requested));
        assert!(book.asked("why", 52));
        assert_eq!(book.last.map(|last| last.cause), wanted);
    }

    #[test]
    fn the_next_keeper_knows_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep");
        let files = Behind::begin();
        let history = History::under(&path, &files);
        assert_eq!(history.last("my/master"), None);
        assert!(history.lock().entry("my/master".to_owned()).or_default().heard(&switched(1, 2), 7));
        history.keep("my/master");
        files.flush(Duration::from_secs(20));
        let next = || History::under(&path, &Behind::begin());
        assert_eq!(next().last("my/master"), history.last("my/master"));
        assert_eq!(next().last("other"), None);
        let newer =
            fs::read_to_string(path.join("failover-my%2Fmaster")).unwrap().replace("\"version\":1", "\"version\":2");
        fs::write(path.join("failover-my%2Fmaster"), newer).unwrap();
        fs::write(path.join("failover-other"), "{").unwrap();
        assert_eq!(next().last("my/master"), None);
    }
}
