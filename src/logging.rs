//! One log line per decision: to the journal where there is one, to stderr otherwise.
//! Never to stdout, which carries metadata and JSON.
//!
//! In the journal the fields of a line are fields of the record: `journalctl MASTER=mymaster NODE=node1`. On stderr they stand behind the
//! text. Each record of a decision is written by `decided!`, and so has
//!
//! - MASTER: Sentinel's master name. Not where an agent's parameters cannot be read, not where ports are changed by number alone
//!   (`rolegate-port`, the firewall's lines of `rolegate fence --local`), and not what is about a node or a Sentinel of all master names.
//! - NODE: the node that the decision is about. Not what is about a whole cluster: `rolegate init`.
//! - GATE: the resource, in what keeper and agent decide, and what the firewall says of their ports.
//! - ROLE: `primary`, `replica` or `fail`: what the decision makes of the node; else what it is in the cluster, by its attribute, as far as
//!   whoever decides has seen that; `fail` where an operator has fenced it. None where it has none.
//! - EPOCH: the Sentinels' configuration epoch, the highest that they have said: where Sentinels were asked. The keeper has it from its first
//!   answer on; the hook where it has asked them itself (it goes by no argument, and has none where it cannot come that far), or the keeper
//!   tells it; the agent where the keeper has told it in the same action; `rolegate switchover`.
//! - REASON: why.
//! - OPERATOR: who typed it, of `rolegate` alone.
//!
//! Who may reach Redis' own port (`direct`) is kept by a task of its own, whose records have MASTER, NODE and REASON.
//!
//! What is no decision about a master name (a program begins, memory cannot be locked) has what of this is known.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tracing::{Level, Metadata};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::role::Role;

/// Writes the one record of a decision: its level, the [`Subject`], why, fields of its own, and the text. Fields that are not known it has not.
macro_rules! decided {
    ($level:ident, $subject:expr, $reason:expr, $($name:ident = $value:expr,)* $text:literal $(, $arg:expr)* $(,)?) => {{
        let subject: &$crate::logging::Subject = &$subject;
        let reason = $reason.to_string();
        let $crate::logging::Known { role, epoch } = subject.known();
        tracing::$level!(
            MASTER = subject.master(),
            NODE = subject.node(),
            GATE = subject.gate(),
            ROLE = role.map($crate::role::Role::as_str),
            EPOCH = epoch,
            REASON = reason.as_str(),
            $($name = $value,)*
            $text $(, $arg)*
        )
    }};
}
pub(crate) use decided;

/// What records are about. Clones share what is known, so that each part of a program that decides says what another one has heard.
#[derive(Debug, Clone, Default)]
pub struct Subject {
    names: Arc<Names>,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Clone, Default)]
struct Names {
    master: Option<String>,
    node: Option<String>,
    gate: Option<String>,
}

/// What changes while a program runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    /// The node's role.
    pub role: Option<Role>,
    /// The Sentinels' configuration epoch.
    pub epoch: Option<u64>,
}

impl Subject {
    /// A master name on a node, as far as these are known.
    pub fn of(master: Option<&str>, node: Option<&str>) -> Self {
        let names = Names { master: master.map(str::to_owned), node: node.map(str::to_owned), gate: None };
        Subject { names: Arc::new(names), known: Arc::default() }
    }

    /// The same, of this resource.
    #[must_use]
    pub fn of_gate(self, gate: &str) -> Self {
        let names = Names { gate: Some(gate.to_owned()), ..(*self.names).clone() };
        Subject { names: Arc::new(names), ..self }
    }

    /// The same for one record alone, which makes that of the node.
    #[must_use]
    pub fn as_role(&self, role: Option<Role>) -> Self {
        let known = Known { role, ..self.known() };
        Subject { names: self.names.clone(), known: Arc::new(Mutex::new(known)) }
    }

    /// From now on the node has this role.
    pub fn has_role(&self, role: Option<Role>) {
        self.lock().role = role;
    }

    /// From now on Sentinels have this epoch. That none was heard changes nothing.
    pub fn heard(&self, epoch: Option<u64>) {
        let mut known = self.lock();
        known.epoch = epoch.or(known.epoch);
    }

    /// What is known now.
    pub fn known(&self) -> Known {
        *self.lock()
    }

    /// The master name.
    pub fn master(&self) -> Option<&str> {
        self.names.master.as_deref()
    }

    /// The node.
    pub fn node(&self) -> Option<&str> {
        self.names.node.as_deref()
    }

    /// The resource.
    pub fn gate(&self) -> Option<&str> {
        self.names.gate.as_deref()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the lines of a program go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogTo {
    /// The journal; stderr only where no journal listens.
    Journal,
    /// stderr, without timestamps: a program whose stderr is collected.
    Stderr,
    /// An operator's command: what is wrong to stderr, and what it has done to the journal. Its words go to stdout.
    Operator,
}

/// Starts logging for the program `name`. A journal that cannot be reached is never a failure.
pub fn init(name: &str, to: LogTo, level: LevelFilter) {
    let journal = match to {
        LogTo::Journal | LogTo::Operator => journal(),
        LogTo::Stderr => None,
    };
    let operator = to == LogTo::Operator;
    let stderr = (operator || journal.is_none()).then(|| {
        let only = if operator { LevelFilter::WARN } else { LevelFilter::TRACE };
        let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
        // A stderr that takes nothing would have it print that there, and panic.
        layer.with_target(false).without_time().log_internal_errors(false).with_filter(only)
    });
    // Under systemd its stderr is in the journal already.
    let goes_to_journal = move |line: &Metadata<'_>| !operator || *line.level() == Level::INFO;
    // Only fails when a logger is set already, as in tests that run several programs' code.
    let _already = tracing_subscriber::registry()
        .with(level)
        .with(journal.map(|layer| {
            // Without a prefix fields are named as they are here.
            let layer = layer.with_syslog_identifier(name.to_owned()).with_field_prefix(None);
            layer.with_filter(filter_fn(goes_to_journal))
        }))
        .with(stderr)
        .try_init();
}

/// The journal, for which nobody waits: while it stands still (its disk may), lines are lost, and not leases.
fn journal() -> Option<tracing_journald::Layer> {
    let before = sockets();
    let layer = tracing_journald::layer().ok()?;
    for fd in sockets().difference(&before) {
        // SAFETY: the layer has just opened it, and has it until this function returns.
        #[allow(unsafe_code)]
        let socket = unsafe { BorrowedFd::borrow_raw(*fd) };
        // It works without, less well.
        let _blocking = fcntl(socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
    }
    Some(layer)
}

/// The open sockets of this process. Programs call this before they have other threads.
fn sockets() -> BTreeSet<RawFd> {
    let is_socket = |entry: &fs::DirEntry| {
        fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
    };
    let open = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten().filter(is_socket);
    open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};

    use super::*;

    #[derive(Clone, Default)]
    struct Said(Arc<Mutex<Vec<u8>>>);

    impl Write for Said {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines on stderr of what `decides`.
    fn said(decides: impl FnOnce()) -> String {
        let said = Said::default();
        let writer = said.clone();
        let layer = tracing_subscriber::fmt::layer().with_writer(move || writer.clone()).with_ansi(false);
        let layer = layer.with_target(false).without_time();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), decides);
        let said = said.0.lock().unwrap();
        String::from_utf8(said.clone()).unwrap()
    }

    #[test]
    fn a_record_has_what_is_known_and_nothing_else() {
        let subject = Subject::of(Some("cache"), Some("node1")).of_gate("Gate");
        let (reason, number) = ("a \"reason\"", 7);
        assert_eq!(
            said(|| decided!(info, subject, reason, ms = 3, "text of {number} {}", reason)),
            " INFO text of 7 a \"reason\" MASTER=\"cache\" NODE=\"node1\" GATE=\"Gate\" REASON=\"a \\\"reason\\\"\" ms=3\n"
        );
        // By one of its clones.
        let clone = subject.clone();
        clone.has_role(Some(Role::Replica));
        clone.heard(Some(12));
        subject.heard(None);
        assert!(said(|| decided!(warn, subject, "why", "text")).contains("ROLE=\"replica\" EPOCH=12 REASON=\"why\""));
        let promoted = subject.as_role(Some(Role::Primary));
        assert!(said(|| decided!(warn, promoted, "why", "text")).contains("ROLE=\"primary\" EPOCH=12 "));
        assert_eq!(subject.known(), Known { role: Some(Role::Replica), epoch: Some(12) });
        assert_eq!(said(|| decided!(error, Subject::default(), "why", "text")), "ERROR text REASON=\"why\"\n");
    }

    /// Records that are written without `decided!`: where, a part of the text, and why they need not have all fields.
    const NO_DECISIONS: [(&str, &str, &str); 13] = [
        ("bin/rolegate-keeper.rs", "{error:#}", "it does not start, for any master name"),
        ("keeper/behind.rs", "cannot write {}", "files of all gates: its name has the gate"),
        ("keeper/behind.rs", "cannot write {}", "the same"),
        ("keeper/changes.rs", "is not watched", "nothing is decided otherwise, only read more often"),
        ("keeper/handover.rs", "systemd keeps no line", "a line to a Sentinel, of the next keeper"),
        ("keeper/handover.rs", "what systemd kept", "before any master name is known"),
        ("keeper/mod.rs", "cannot write {NODE_NAME}", "the next keeper asks Pacemaker"),
        ("keeper/mod.rs", "is not watched, only read", "nothing is decided otherwise, only read more often"),
        ("keeper/mod.rs", "memory is not locked", "it starts, for all master names"),
        ("keeper/mod.rs", "started", "it starts, for all master names"),
        ("keeper/mod.rs", "this node is {me}", "it starts, for all master names"),
        ("keeper/mod.rs", "ending; what is open", "it ends, for all master names"),
        ("keeper/mod.rs", "systemd is not told", "it runs all the same"),
    ];

    /// The places in a source at which a record is written, each with its arguments; comments and tests are left out.
    fn records(source: &str) -> Vec<(&str, String)> {
        let source = source.split("#[cfg(test)]").next().unwrap();
        let code: Vec<&str> = source.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let code = code.join("\n");
        let mut found = Vec::new();
        for name in ["info", "warn", "error", "event", "decided"] {
            for (at, call) in code.match_indices(&format!("{name}!(")) {
                if code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_') {
                    continue;
                }
                let mut depth = 0;
                let ends = |c: char| {
                    depth += i32::from(c == '(') - i32::from(c == ')');
                    depth < 0
                };
                let arguments = &code[at + call.len()..];
                let end = arguments.find(ends).unwrap_or(arguments.len());
                found.push((name, arguments[..end].to_owned()));
            }
        }
        found
    }

    fn sources(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
        let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
    }

    #[test]
    fn each_decision_has_its_fields() {
        let src = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut exceptions = NO_DECISIONS.to_vec();
        let (mut complete, mut incomplete) = (0, Vec::new());
        for path in sources(&src) {
            let file = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
            // The macro itself.
            for (name, arguments) in
                records(&fs::read_to_string(&path).unwrap()).into_iter().filter(|_| file != "logging.rs")
            {
                let excepted = |(place, text, _): &(&str, &str, &str)| *place == file && arguments.contains(text);
                let fields = ["MASTER = ", "NODE = ", "REASON = "];
                if name == "decided" || fields.iter().all(|field| arguments.contains(field)) {
                    complete += 1;
                } else if let Some(n) = exceptions.iter().position(excepted) {
                    exceptions.remove(n);
                } else {
                    incomplete.push(format!("{file}: {name}!({arguments})"));
                }
            }
        }
        assert!(incomplete.is_empty(), "write them by decided!, or say above why not: {incomplete:#?}");
        assert!(exceptions.is_empty(), "these are there no more: {exceptions:#?}");
        assert!(complete > 60, "{complete} found");
    }

    #[test]
    fn a_record_is_found_in_a_source() {
        let source = "// info!(\"a comment\")\nfn a() {\n    tracing::warn!(\n        A = (1),\n        \"b\"\n    );\n    debug_info!(1);\n}\n\
                      #[cfg(test)]\nmod tests { info!(2) }";
        assert_eq!(records(source), [("warn", "\n        A = (1),\n        \"b\"\n    ".to_owned())]);
    }
}
