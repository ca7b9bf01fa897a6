//! One caller at a time, as far as waiting is safe.
//!
//! Every change is one transaction and is verified, so the lock only spares callers repeated work. It must
//! never keep a port open: who closes waits a moment, then goes on without it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Of root alone: where others may write, anybody could hold the lock.
const DIRECTORY: &str = "/run/rolegate";
const FILE: &str = "gate.lock";

/// How long it is waited from one try to the next, at first and in the end: it is held for a millisecond as a rule. Dozens that wait at once take
/// no time from who holds it.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

/// Held until dropped.
pub type Lock = Flock<File>;

/// Where the lock is.
pub fn path() -> PathBuf {
    [DIRECTORY, FILE].iter().collect()
}

/// Takes the lock; it is given back when the value is dropped.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] when another still holds it at `until`, and the system's.
pub fn take(until: Instant) -> io::Result<Lock> {
    match DirBuilder::new().mode(0o700).create(DIRECTORY) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path())?;
    let mut pause = SHORTEST_PAUSE;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, Errno::EWOULDBLOCK | Errno::EINTR)) => file,
            Err((_, error)) => return Err(error.into()),
        };
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(pause.min(left));
        pause = LONGEST_PAUSE.min(pause * 3 / 2);
    }
}
