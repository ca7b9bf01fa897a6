//! One log line per decision: to the journal where there is one, to stderr otherwise.
//! Never to stdout, which carries metadata and JSON.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{BorrowedFd, RawFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Where the lines of a program go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogTo {
    /// The journal; stderr only where no journal listens.
    Journal,
    /// stderr, without timestamps: an operator's command, or a program whose stderr is collected.
    Stderr,
}

/// Starts logging for the program `name`. A journal that cannot be reached is never a failure.
pub fn init(name: &str, to: LogTo, level: LevelFilter) {
    let journal = match to {
        LogTo::Journal => journal(),
        LogTo::Stderr => None,
    };
    let stderr = journal.is_none().then(|| {
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false).with_target(false).without_time()
    });
    // Only fails when a logger is set already, as in tests that run several programs' code.
    let _already = tracing_subscriber::registry()
        .with(level)
        .with(journal.map(|layer| layer.with_syslog_identifier(name.to_owned())))
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
