//! The last failover of each master name, and why it was: from Sentinels' events, and from what this node's keeper has asked for; and
//! notes of all that belongs to failovers, for `rolegate history` ([`super::timeline`]). For operators; nothing is decided by it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::behind::{self, Behind};
use super::events::{SentinelEvent, Step};
use super::memory;
use super::timeline::{self, Event, Head, What};
use crate::lease::{Mark, Seen};
use crate::pacemaker::Cib;
use crate::permission::Granted;
use crate::record::Record;

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

/// And those of the notes.
const NOTES: &str = "history-";

/// What a Sentinel showed of a node's mark longer ago says nothing now: its looks come every 0.4 s, and it may be away. A failover takes
/// little longer than this: a closing that is seen later is seen behind the opening.
const SHOWN_FOR: Duration = Duration::from_secs(1);

/// Notes that come sooner after each other have the time between them by the clock that nobody sets.
const ONE_CLOCK: Duration = Duration::from_secs(60);

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
pub(super) struct Book {
    /// Sentinels agreed that the primary is down.
    down: Option<u64>,
    /// A Sentinel began a failover, while they agreed so or not.
    tried: Option<(u64, bool)>,
    /// This node's keeper asked for one.
    asked: Option<(u64, String)>,
    /// A Sentinel has begun to promote this server since the last one. Once in each failover: what follows is no repetition, also where
    /// the way back was not heard, as this node was off.
    promoting: Option<SocketAddr>,
    last: Option<Failover>,
    noted: Noted,
}

/// What was noted last, so that nothing is noted twice.
#[derive(Debug, Default)]
struct Noted {
    clock: Option<Clock>,
    /// The files' beginning.
    head: String,
    roles: Option<BTreeMap<String, Option<String>>>,
    permission: Option<&'static str>,
    waits: String,
    marks: BTreeMap<String, Shown>,
}

/// What Sentinels show of a node's marks.
#[derive(Debug, Default)]
struct Shown {
    /// By each Sentinel: when, and whether it may be open.
    by: BTreeMap<usize, (Instant, bool)>,
    may_be_open: Option<bool>,
}

/// The clock of notes that come one soon after the other.
#[derive(Debug)]
struct Clock {
    began: (Instant, u64),
    last: Instant,
}

impl Clock {
    /// What to write for `now`, when the clock on the wall shows `wall`, in milliseconds. A clock that is stepped changes no time between
    /// two notes of one failover.
    fn read(this: &mut Option<Clock>, now: Instant, wall: u64) -> u64 {
        let clock = match this {
            Some(clock) if now.saturating_duration_since(clock.last) < ONE_CLOCK => clock,
            _ => this.insert(Clock { began: (now, wall), last: now }),
        };
        clock.last = now;
        let since = now.saturating_duration_since(clock.began.0).as_millis();
        clock.began.1.saturating_add(since.try_into().unwrap_or(u64::MAX))
    }
}

impl Shown {
    /// Takes what one Sentinel shows (None: no line of the node), and says whether that changes what all of them come to. Of the first
    /// that is so where it may be open: that nobody is, is known without.
    fn take(&mut self, sentinel: usize, may_be_open: Option<bool>, now: Instant) -> bool {
        match may_be_open {
            Some(may_be_open) => _ = self.by.insert(sentinel, (now, may_be_open)),
            None => _ = self.by.remove(&sentinel),
        }
        self.by.retain(|_, (at, _)| now.saturating_duration_since(*at) < SHOWN_FOR);
        if self.by.is_empty() {
            return false;
        }
        let all = self.by.values().any(|(_, may_be_open)| *may_be_open);
        self.may_be_open.replace(all).map_or(all, |before| before != all)
    }
}

impl Book {
    /// The last failover.
    pub(super) fn last(&self) -> Option<&Failover> {
        self.last.as_ref()
    }

    /// Says whether there was a failover that was not known.
    pub(super) fn heard(&mut self, step: &Step, now: u64) -> bool {
        let recent = |at: u64| now.saturating_sub(at) <= BEFORE;
        match step {
            Step::Silent | Step::Answers | Step::MadeReplica(_) | Step::Aborted(_) => {}
            Step::Promoting(address) => self.promoting = Some(*address),
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
                let is_another = self.promoting.take_if(|promoting| promoting == to).is_some();
                if from == to || !is_another && self.last.as_ref().is_some_and(known) {
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
    pub(super) fn asked(&mut self, why: &str, now: u64) -> bool {
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
        self.note(master, book, What::Asked { why: why.to_owned() });
        drop(books);
        if new {
            self.keep(master);
        }
    }

    /// Takes note of a Sentinel's event. Of master names that this node has a gate for: a stranger could name any number of them.
    pub fn heard(&self, sentinel: SocketAddr, event: &SentinelEvent) {
        let Some(step) = &event.step else { return };
        let mut books = self.lock();
        let book = books.entry(event.master.clone()).or_default();
        let new = book.heard(step, now());
        self.note(&event.master, book, What::Sentinel { sentinel, says: step.clone() });
        drop(books);
        if new {
            self.keep(&event.master);
        }
    }

    // --- Notes.

    /// The keeper of the node `me` keeps `master` from now on.
    pub fn begin(&self, master: &str, me: &str, record: &Record) {
        let nodes = record.nodes().iter().map(|node| (node.name.clone(), node.address)).collect();
        let head = Head { version: timeline::VERSION, master: master.to_owned(), node: me.to_owned() };
        self.with(master, |book| {
            book.noted = Noted { clock: book.noted.clock.take(), ..Noted::default() };
            let begun = What::Begun { nodes };
            let event = Event { at: book.now(), what: begun.clone() };
            // A file that is begun anew shall know the nodes.
            let lines = [serde_json::to_string(&head), serde_json::to_string(&event)];
            book.noted.head = lines.into_iter().flatten().collect::<Vec<_>>().join("\n");
            Some(begun)
        });
    }

    /// What Pacemaker permits on this node.
    pub fn permission(&self, master: &str, granted: Option<Granted>) {
        let granted = match granted {
            None => "none",
            Some(Granted::Stopping) => "stopping",
            Some(Granted::Started) => "started",
            Some(Granted::Promoted) => "promoted",
        };
        self.with(master, |book| {
            let before = book.noted.permission.replace(granted);
            let new = before.is_some_and(|before| before != granted);
            new.then(|| What::Permission { granted: granted.to_owned() })
        });
    }

    /// Why this node's port is not opened yet, where it may be.
    pub fn waits(&self, master: &str, why: &str) {
        self.with(master, |book| {
            let new = book.noted.waits != why;
            new.then(|| {
                why.clone_into(&mut book.noted.waits);
                What::Waits { why: why.to_owned() }
            })
        });
    }

    /// This node's port was closed.
    pub fn closed(&self, master: &str, node: &str, why: &str) {
        self.with(master, |_| Some(What::Closed { node: node.to_owned(), why: why.to_owned() }));
    }

    /// This node's port is open.
    pub fn opened(&self, master: &str, node: &str, epoch: u64) {
        self.with(master, |book| {
            book.noted.waits.clear();
            Some(What::Opened { node: node.to_owned(), epoch })
        });
    }

    /// What the cluster's configuration says of the nodes' roles.
    pub fn roles(&self, master: &str, attribute: &str, cib: &Cib) {
        let role =
            |node: &crate::pacemaker::cib::Node| (node.name.clone(), node.permanent(attribute).map(str::to_owned));
        let roles: BTreeMap<_, _> = cib.nodes.iter().map(role).collect();
        let mut books = self.lock();
        let book = books.entry(master.to_owned()).or_default();
        let Some(before) = book.noted.roles.replace(roles.clone()) else { return };
        for (node, role) in roles.into_iter().filter(|(node, role)| before.get(node) != Some(role)) {
            self.note(master, book, What::Role { node, role });
        }
    }

    /// What the Sentinel with this number shows of the other nodes' marks.
    pub fn marks(&self, master: &str, sentinel: usize, seen: &[Seen<String>]) {
        let now = Instant::now();
        let mut books = self.lock();
        let Some(book) = books.get_mut(master) else { return };
        // A node has several lines while one of them is remade.
        let mut newest: BTreeMap<&str, (u64, bool)> = BTreeMap::new();
        for one in seen {
            let Some(mark) = one.mark else { continue };
            let of = newest.entry(&one.node).or_default();
            if one.line >= of.0 {
                *of = (one.line, mark != Mark::Closed);
            }
        }
        for node in newest.keys() {
            if !book.noted.marks.contains_key(*node) {
                book.noted.marks.insert((*node).to_owned(), Shown::default());
            }
        }
        let mut changed = Vec::new();
        for (node, shown) in &mut book.noted.marks {
            let may_be_open = newest.get(node.as_str()).map(|(_, may_be_open)| *may_be_open);
            if shown.take(sentinel, may_be_open, now) {
                let (node, open) = (node.clone(), shown.may_be_open == Some(true));
                changed.push(if open { What::SeenOpen { node } } else { What::SeenClosed { node } });
            }
        }
        for what in changed {
            self.note(master, book, what);
        }
    }

    fn with(&self, master: &str, what: impl FnOnce(&mut Book) -> Option<What>) {
        let mut books = self.lock();
        if !books.contains_key(master) {
            books.insert(master.to_owned(), Book::default());
        }
        let Some(book) = books.get_mut(master) else { return };
        if let Some(what) = what(book) {
            self.note(master, book, what);
        }
    }

    /// Nothing is noted of a master name that no group keeps.
    fn note(&self, master: &str, book: &mut Book, what: What) {
        if book.noted.head.is_empty() {
            return;
        }
        let event = Event { at: book.now(), what };
        if let Ok(line) = serde_json::to_string(&event) {
            self.files.append(&notes(&self.directory, master), &book.noted.head, &line);
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

impl Book {
    /// In milliseconds since 1970.
    fn now(&mut self) -> u64 {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
        Clock::read(&mut self.noted.clock, Instant::now(), wall.try_into().unwrap_or(u64::MAX))
    }
}

/// The file of notes of `master`.
fn notes(directory: &Path, master: &str) -> PathBuf {
    directory.join(format!("{NOTES}{}", memory::file_name(master)))
}

/// A file of notes.
#[derive(Debug)]
pub struct Notes {
    /// Where it is.
    pub path: PathBuf,
    /// What stands there, or why it cannot be read.
    pub text: io::Result<String>,
}

/// The files of notes in `directory`, those of each master name together, the older one first. The names are in the texts.
///
/// # Errors
/// The directory cannot be read: other than by a keeper that was never there.
pub fn texts(directory: &Path) -> io::Result<Vec<Vec<Notes>>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    let is_one = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(NOTES) && !name.ends_with('~')
    };
    paths.retain(is_one);
    paths.sort();
    let read = |path: PathBuf| {
        let text = fs::File::open(&path).and_then(|file| {
            let mut bytes = Vec::new();
            // Bounded by who writes it; a file of somebody else's need not be.
            file.take(2 * behind::LONGEST).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        });
        Notes { path, text }
    };
    let of_one = |path: PathBuf| {
        let older = behind::before(&path);
        let older = older.exists().then(|| read(older));
        older.into_iter().chain([read(path)]).collect()
    };
    Ok(paths.into_iter().map(of_one).collect())
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
    fn the_same_way_again_is_another_failover_though_the_way_back_was_not_heard() {
        let mut book = Book::default();
        let steps = [
            (10, Step::Promoting(address(2))),
            // Of the leader, the others, and the leader when all replicas are turned.
            (10, switched(1, 2)),
            (10, switched(1, 2)),
            (12, switched(1, 2)),
            (90, Step::Promoting(address(2))),
            (91, switched(1, 2)),
            (91, switched(1, 2)),
            // One that came to nothing says nothing of another server.
            (120, Step::Promoting(address(1))),
            (121, switched(1, 2)),
            (400, switched(1, 2)),
        ];
        let new: Vec<u64> = steps.iter().filter(|(at, step)| book.heard(step, *at)).map(|(at, _)| *at).collect();
        assert_eq!(new, [10, 91, 400]);
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

    #[test]
    fn nothing_is_noted_twice() {
        let directory = tempfile::tempdir().unwrap();
        let files = Behind::begin();
        let history = History::under(directory.path(), &files);
        let record =
            Record::parse(&format!("{}@10.0.0.1:26379", "a".repeat(40)), "node1=10.0.0.1:6379 node2=10.0.0.2:6379");
        let seen = |marks: &[(u64, Mark)]| -> Vec<Seen<String>> {
            let one = |(line, mark): &(u64, Mark)| Seen { line: *line, node: "node2".to_owned(), mark: Some(*mark) };
            marks.iter().map(one).collect()
        };
        let held = |nonce| Mark::Held { length: 2_000_000, nonce };
        let cib = |role: &str| {
            crate::pacemaker::cib::parse(&format!(
                "<cib><configuration><nodes><node id=\"1\" uname=\"node1\"><instance_attributes id=\"i\"><nvpair id=\"n\" \
                 name=\"redis_role\" value=\"{role}\"/></instance_attributes></node></nodes></configuration></cib>"
            ))
            .unwrap()
        };
        // Of a master name that nobody keeps.
        history.closed("m", "node1", "why");
        history.begin("m", "node1", &record.unwrap());
        for granted in [Some(Granted::Promoted), Some(Granted::Promoted), None, None] {
            history.permission("m", granted);
        }
        for why in ["a", "a", "b"] {
            history.waits("m", why);
        }
        for role in ["primary", "primary", "replica"] {
            history.roles("m", "redis_role", &cib(role));
        }
        history.marks("m", 0, &seen(&[(1, held(1))]));
        history.marks("m", 1, &seen(&[(1, held(1))]));
        // The new line counts, not the one that it replaces.
        history.marks("m", 0, &seen(&[(2, Mark::Closed), (1, held(1))]));
        // One at which the node has no line any more does not speak for it.
        history.marks("m", 1, &seen(&[]));
        history.marks("m", 1, &seen(&[(2, Mark::Closed)]));
        history.marks("m", 0, &seen(&[(2, held(2))]));
        history.marks("m", 0, &seen(&[(2, held(3))]));
        history.opened("m", "node1", 7);
        history.waits("m", "b");
        files.flush(Duration::from_secs(20));
        let texts = texts(directory.path()).unwrap();
        let [Notes { text: Ok(text), .. }] = texts[0].as_slice() else { panic!("{texts:?}") };
        let file = timeline::read(text).unwrap();
        assert_eq!((texts.len(), file.head.master.as_str(), file.not_understood), (1, "m", 0));
        let node2 = || "node2".to_owned();
        let rest: Vec<What> = file.events.into_iter().map(|event| event.what).collect();
        let waits = |why: &str| What::Waits { why: why.to_owned() };
        assert_eq!(
            rest[2..],
            [
                What::Permission { granted: "none".into() },
                waits("a"),
                waits("b"),
                What::Role { node: "node1".into(), role: Some("replica".into()) },
                What::SeenOpen { node: node2() },
                What::SeenClosed { node: node2() },
                What::SeenOpen { node: node2() },
                What::Opened { node: "node1".into(), epoch: 7 },
                waits("b"),
            ]
        );
    }

    #[test]
    fn a_stepped_clock_changes_no_time_between_two_notes() {
        let began = Instant::now();
        let at = |ms: u64| began + Duration::from_millis(ms);
        let mut clock = None;
        let read = [(0, 5_000_000), (700, 1_000), (60_000, 9_000), (120_500, 77_000)]
            .map(|(ms, wall)| Clock::read(&mut clock, at(ms), wall));
        assert_eq!(read, [5_000_000, 5_000_700, 5_060_000, 77_000]);
    }
}
