//! Whether what stands in a directory may have changed: said by the kernel, so that what is the same in nearly every round need not be read
//! in each.
//!
//! The kernel queues its notice within the call that changes a file (fsnotify_move behind vfs_rename): whoever has changed one, and has
//! returned from that, is seen by each reading of the queue that begins later. As with a file that is read itself.

use std::path::Path;
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
    /// None: anything may have changed at any time.
    inotify: Option<Inotify>,
    count: u64,
}

impl Changes {
    /// Those in `directory`.
    pub fn of(directory: &Path) -> Self {
        let watch = || -> nix::Result<Inotify> {
            let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
            inotify.add_watch(directory, CHANGES)?;
            Ok(inotify)
        };
        let inotify = watch()
            .inspect_err(|error| warn!("{} is not watched, but read again and again: {error}", directory.display()));
        Changes(Arc::new(Mutex::new(Seen { inotify: inotify.ok(), count: 0 })))
    }

    /// As long as this is the same, nothing there has changed.
    pub fn count(&self) -> u64 {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match seen.inotify.as_ref().map(Inotify::read_events) {
                Some(Err(Errno::EAGAIN)) => return seen.count,
                Some(Err(Errno::EINTR)) => continue,
                Some(Ok(events)) if !events.iter().any(|event| event.mask.intersects(IT_IS_GONE)) => {}
                _ => seen.inotify = None,
            }
            seen.count += 1;
            if seen.inotify.is_none() {
                return seen.count;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

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
        let changes = Changes::of(&inner);
        assert_eq!(changes.count(), changes.count());
        fs::rename(&inner, directory.path().join("other")).unwrap();
        fs::create_dir(&inner).unwrap();
        assert_ne!(changes.count(), changes.count(), "what is watched is not there any more");
    }
}
