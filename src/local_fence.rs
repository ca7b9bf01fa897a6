//! A fence that an operator has set on this node itself: it holds without a cluster, and after a reboot.
//!
//! It is a file, whose presence is what counts: whatever another release has written into it is a fence. Its first line is the text, its second the
//! version, by which a release that knows of more can tell what there is to be read. There are two of them: one that lasts, and one under /run,
//! which the keeper goes by in each round of a lease: nothing that a lease needs waits for a disk. Who sets a fence writes first and closes
//! then, and who opens looks under the firewall's lock: what was about to open finds the file, or is closed behind its back.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::permission::{DIRECTORY, replace};

/// Where it lasts.
const LASTING: &str = "/var/lib/rolegate";

const NAME: &str = "fence";

/// Stands in a fence's text in the cluster, so that others see where it is lifted.
pub const ITSELF: &str = "(on the node itself)";

/// What stands in the second line. Releases before there was one read the first alone, as all do.
const VERSION: &str = "version 1";

/// How much of a file is read.
const LONGEST: usize = 240;

/// The two files.
#[derive(Debug, Clone)]
pub struct LocalFence {
    volatile: PathBuf,
    lasting: PathBuf,
}

impl Default for LocalFence {
    fn default() -> Self {
        LocalFence::under(Path::new(DIRECTORY), Path::new(LASTING))
    }
}

impl LocalFence {
    /// The same in other directories.
    pub fn under(volatile: &Path, lasting: &Path) -> Self {
        LocalFence { volatile: volatile.join(NAME), lasting: lasting.join(NAME) }
    }

    /// Who fenced this node, when and why; from memory only. A file that cannot be read is a fence.
    pub fn at_once(&self) -> Option<String> {
        read(&self.volatile)
    }

    /// The same, for those who can wait for a disk: before the keeper of this boot has begun, too.
    pub fn read(&self) -> Option<String> {
        self.at_once().or_else(|| read(&self.lasting))
    }

    /// After a boot: what lasts is there at once again.
    ///
    /// # Errors
    /// The system's: the keeper would not see it.
    pub fn restore(&self) -> io::Result<()> {
        match read(&self.lasting) {
            Some(text) if self.at_once().is_none() => replace(&self.volatile, &written(&text)),
            _ => Ok(()),
        }
    }

    /// Sets it. What comes back is why it does not last, where it does not.
    ///
    /// # Errors
    /// The system's: nothing holds.
    pub fn set(&self, text: &str) -> io::Result<Option<io::Error>> {
        let written = written(text);
        replace(&self.volatile, &written)?;
        let lasts = replace(&self.lasting, &written).and_then(|()| {
            File::open(&self.lasting)?.sync_all()?;
            File::open(self.lasting.parent().unwrap_or(Path::new("/")))?.sync_all()
        });
        Ok(lasts.err())
    }

    /// Lifts it; done if there is none.
    ///
    /// # Errors
    /// The system's; then it may still stand.
    pub fn lift(&self) -> io::Result<()> {
        // What lasts first: else it would come back with the next boot.
        for path in [&self.lasting, &self.volatile] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// What stands in the files. One line of text: the next is the version's.
fn written(text: &str) -> String {
    format!("{}\n{VERSION}\n", text.lines().next().unwrap_or_default())
}

fn read(path: &Path) -> Option<String> {
    match fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let line = text.lines().next().unwrap_or_default();
            Some(line.chars().filter(|c| !c.is_control()).take(LONGEST).collect())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => Some(format!("ports closed: {}: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directories() -> (tempfile::TempDir, LocalFence) {
        let directory = tempfile::tempdir().unwrap();
        let fence = LocalFence::under(&directory.path().join("run"), &directory.path().join("lib"));
        (directory, fence)
    }

    #[test]
    fn a_fence_outlasts_a_boot_and_is_lifted_for_good() {
        let (directory, fence) = directories();
        assert_eq!((fence.read(), fence.at_once()), (None, None));
        fence.restore().unwrap();
        assert!(fence.set("by ann\nmore").unwrap().is_none());
        assert_eq!(fence.at_once().as_deref(), Some("by ann"));
        // A boot: /run is empty.
        fs::remove_dir_all(directory.path().join("run")).unwrap();
        assert_eq!((fence.at_once(), fence.read().as_deref()), (None, Some("by ann")));
        fence.restore().unwrap();
        assert_eq!(fence.at_once().as_deref(), Some("by ann"));
        for place in ["run/fence", "lib/fence"] {
            let written = fs::read_to_string(directory.path().join(place)).unwrap();
            assert_eq!(written.lines().collect::<Vec<_>>(), ["by ann", VERSION], "{place}");
        }
        fence.lift().unwrap();
        fence.lift().unwrap();
        fence.restore().unwrap();
        assert_eq!(fence.read(), None);
    }

    #[test]
    fn one_that_does_not_last_holds_and_says_so() {
        let (directory, fence) = directories();
        fs::write(directory.path().join("lib"), "in the way").unwrap();
        assert!(fence.set("by ann").unwrap().is_some());
        assert_eq!(fence.at_once().as_deref(), Some("by ann"));
    }

    #[test]
    fn what_cannot_be_read_is_a_fence_and_what_is_in_it_harms_nobody() {
        let (directory, fence) = directories();
        fs::create_dir_all(directory.path().join("run/fence")).unwrap();
        assert!(fence.at_once().unwrap().starts_with("ports closed: "));
        fs::remove_dir(directory.path().join("run/fence")).unwrap();
        fs::write(directory.path().join("run/fence"), b"by \xff\x1b[31m ann\nmore").unwrap();
        assert_eq!(fence.at_once().as_deref(), Some("by \u{fffd}[31m ann"));
        fs::write(directory.path().join("run/fence"), "").unwrap();
        assert_eq!(fence.at_once().as_deref(), Some(""), "its presence is what counts");
        for of_another_release in ["by ann", "by ann\nversion 7\nuntil=tomorrow\n"] {
            fs::write(directory.path().join("run/fence"), of_another_release).unwrap();
            assert_eq!(fence.at_once().as_deref(), Some("by ann"));
        }
    }
}
