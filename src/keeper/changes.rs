//! Whether what stands in a directory may have changed: said by the kernel, so that what is the same in nearly every round need not be read
//! in each.
//!
//! The kernel queues its notice within the call that changes a file (fsnotify_move behind vfs_rename): whoever has changed one, and has
//! returned from that, is seen by each reading of the queue that begins later. As with a file that is read itself.
//!
//! It says nothing of a directory that was removed while a file in it is open, as the keeper's lock is: so that is looked at, too.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tracing::warn;

/// All that makes a file another one, or another file; not that somebody locks one.
const CHANGES: AddWatchFlags = AddWatchFlags::IN_MODIFY
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVE)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF);

/// With these the directory is another one, and nothing is told of it.
const IT_IS_GONE: AddWatchFlags = AddWatchFlags::IN_IGNORED
    .union(AddWatchFlags::IN_UNMOUNT)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF);

/// See the module. Clones share it.
#[derive(Debug, Clone)]
pub struct Changes(Arc<Mutex<Seen>>);

#[derive(Debug)]
struct Seen {
    directory: PathBuf,
    /// None: anything may have changed at any time.
    watched: Option<Watched>,
    count: u64,
}

#[derive(Debug)]
struct Watched {
    inotify: Inotify,
    /// What is watched. The path may lead elsewhere by now.
    directory: (u64, u64),
}

impl Changes {
    /// Those in `directory`.
    pub fn of(directory: &Path) -> Self {
        let watched = Watched::begin(directory).inspect_err(
            |error| warn!(REASON = %error, "{} is not watched, but read again and again: {error}", directory.display()),
        );
        Changes(Arc::new(Mutex::new(Seen { directory: directory.to_owned(), watched: watched.ok(), count: 0 })))
    }

    /// As long as this is the same, nothing there has changed.
    pub fn count(&self) -> u64 {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = match &seen.watched {
            Some(watched) => watched.changed(&seen.directory),
            // What is watched from here on may have changed since it was read.
            None => Err(Errno::ENOENT),
        };
        seen.count += u64::from(changed != Ok(false));
        if changed.is_err() {
            seen.watched = Watched::begin(&seen.directory).ok();
        }
        seen.count
    }
}

impl Watched {
    fn begin(directory: &Path) -> nix::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        // In this order: what is made in between is taken for another one, and watched then. A number is not used again as long as it is watched.
        let number = which(directory)?;
        inotify.add_watch(directory, CHANGES)?;
        Ok(Watched { inotify, directory: number })
    }

    /// Whether something has changed there since the last time. An error where this is not what is to be watched any more.
    fn changed(&self, directory: &Path) -> nix::Result<bool> {
        if which(directory)? != self.directory {
            return Err(Errno::ENOENT);
        }
        let mut changed = false;
        loop {
            match self.inotify.read_events() {
                Err(Errno::EAGAIN) => return Ok(changed),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
                Ok(events) if events.iter().any(|event| event.mask.intersects(IT_IS_GONE)) => {
                    return Err(Errno::ENOENT);
                }
                Ok(_) => changed = true,
            }
        }
    }
}

/// The device and the number of the directory to which that path leads.
fn which(directory: &Path) -> nix::Result<(u64, u64)> {
    let is = fs::metadata(directory).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))?;
    Ok((is.dev(), is.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permission::replace;

    #[test]
    fn each_change_is_seen_as_soon_as_it_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("permission");
        let changes = Changes::of(directory.path());
        let shared = changes.clone();
        let mut last = changes.count();
        let mut differs = || {
            let before = std::mem::replace(&mut last, shared.count());
            before != last
        };
        assert!(!differs());
        for _ in 0..1000 {
            replace(&path, "a").unwrap();
            assert!(differs());
            fs::write(&path, "b").unwrap();
            assert!(differs());
            fs::remove_file(&path).unwrap();
            assert!(differs() && !differs());
        }
        // More than the kernel queues.
        let most =
            fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse::<usize>().unwrap();
        for n in 0..most.min(100_000) {
            fs::write(directory.path().join((n % 2).to_string()), n.to_string()).unwrap();
        }
        assert!(differs() && !differs());
        // Who only looks, or locks, changes nothing.
        fs::write(&path, "c").unwrap();
        assert!(differs());
        fs::read(&path).unwrap();
        drop(fs::OpenOptions::new().write(true).open(&path).unwrap());
        assert!(!differs());
        assert_eq!(changes.count(), shared.count());
    }

    #[test]
    fn where_nothing_is_told_anything_may_have_changed() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("inner");
        let none = Changes::of(&inner);
        assert_ne!(none.count(), none.count());
        fs::create_dir(&inner).unwrap();
        let before = none.count();
        assert_eq!(none.count(), before, "from when it is there");
        let changes = Changes::of(&inner);
        assert_eq!(changes.count(), changes.count());
        fs::rename(&inner, directory.path().join("other")).unwrap();
        assert_ne!(changes.count(), changes.count(), "what is watched is not there any more");
        assert_ne!(none.count(), none.count());
    }

    #[test]
    fn a_directory_that_was_removed_and_made_again_is_another_one() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("inner");
        fs::create_dir(&inner).unwrap();
        // Nothing is told of the removal as long as this is open.
        let _lock = fs::File::create(inner.join("lock")).unwrap();
        let changes = Changes::of(&inner);
        for _ in 0..3 {
            let before = changes.count();
            fs::remove_dir_all(&inner).unwrap();
            fs::create_dir(&inner).unwrap();
            let made = changes.count();
            assert_ne!(before, made);
            fs::write(inner.join("permission"), "a").unwrap();
            let written = changes.count();
            assert_ne!(made, written);
            assert_eq!(changes.count(), written, "it is watched again");
        }
    }
}
