//! One log line per decision: to the journal where there is one, to stderr otherwise.
//! Never to stdout, which carries metadata and JSON.
//!
//! In the journal the fields of a line are fields of the record: `journalctl MASTER=mymaster NODE=node1`. They are
//! MASTER, NODE (which the decision is about), ROLE (`primary`, `replica` or `fail`), EPOCH (the Sentinels' configuration epoch), REASON, OPERATOR and
//! GATE (the resource), each where it applies. On stderr they stand behind the text.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{BorrowedFd, RawFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tracing::{Level, Metadata};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

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
        layer.with_target(false).without_time().with_filter(only)
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
