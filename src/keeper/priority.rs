//! replica-priority of a Redis that must not be chosen: 0 while that lasts, and what it was before kept on disk.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{behind, memory};
use crate::logging::{Subject, decided};
use crate::server::{self, AskError, Credentials, Value};
use crate::switchover;

const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// The version of what stands in the files. One of another version is not guessed at: what would be put back is not known.
const VERSION: u32 = 1;

/// A file. One of a release before there were versions is the number alone.
#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    priority: u32,
}

/// Where it is kept, for one gate.
#[derive(Debug, Clone)]
pub struct Priority {
    subject: Subject,
    master: String,
    path: PathBuf,
}

impl Priority {
    /// That of the gate resource `instance`, of `master`, on a node.
    pub fn new(subject: Subject, master: &str, instance: &str) -> Self {
        Priority::under(Path::new(memory::DIRECTORY), subject, master, instance)
    }

    /// The same in another directory.
    fn under(directory: &Path, subject: Subject, master: &str, instance: &str) -> Self {
        let path = directory.join(name(instance));
        Priority { subject, master: master.to_owned(), path }
    }

    /// Whether a value waits to be put back.
    pub fn is_kept(&self) -> bool {
        self.path.exists()
    }

    /// Sets 0 where `refused`, else what it was before. A 0 that is not ours stays.
    ///
    /// Sentinel makes settings permanent when it turns a server around (`CONFIG REWRITE`), ours too; so what is put back is
    /// made permanent where there is a configuration file.
    ///
    /// # Errors
    /// What went wrong, for an operator. It is to be tried again.
    pub fn set(&self, redis: SocketAddr, credentials: &Credentials, refused: bool) -> Result<(), String> {
        let ask = |command: &[&str]| {
            let replies = server::ask(redis, credentials, ANSWER_WITHIN, &[command]);
            match replies.map(|replies| replies.into_iter().next()) {
                Ok(Some(Value::ServerError(error))) => {
                    Err(format!("{}: {} {}", command[..2].join(" "), error.code(), error.details().unwrap_or_default()))
                }
                Ok(Some(reply)) => Ok(reply),
                Ok(None) => Err(AskError::Silent.to_string()),
                Err(error) => Err(format!("{}: {error}", command[..2].join(" "))),
            }
        };
        let reply = ask(&["CONFIG", "GET", "replica-priority"])?;
        let now = switchover::number(&reply)
            .ok_or_else(|| format!("not a reply to CONFIG GET: {}", server::shown(&reply)))?;
        // One that a switchover has marked is not what it is to be again.
        match (refused, switchover::before(now)) {
            (true, 0) => Ok(()),
            (true, now) => {
                // First: a keeper that ends in between knows what to put back. Whatever stands there has been put back by somebody.
                self.write(now)?;
                ask(&["CONFIG", "SET", "replica-priority", "0"])?;
                let master = &self.master;
                decided!(
                    info,
                    self.subject,
                    "refused",
                    "{master}: replica-priority is 0 (it was {now}): Pacemaker does not let this node be primary"
                );
                Ok(())
            }
            (false, 0) => {
                let Some(before) = self.read()? else { return Ok(()) };
                let master = &self.master;
                ask(&["CONFIG", "SET", "replica-priority", &before.to_string()])?;
                if let Err(why) = ask(&["CONFIG", "REWRITE"]) {
                    let what = format!("replica-priority {before} is not made permanent");
                    decided!(info, self.subject, why, "{master}: {what}: {why}");
                }
                decided!(info, self.subject, "no longer refused", "{master}: replica-priority is {before} again");
                self.remove()
            }
            (false, _) => self.remove(),
        }
    }

    fn read(&self) -> Result<Option<u32>, String> {
        match fs::read_to_string(&self.path) {
            Ok(text) => understood(&text).map(Some).map_err(|why| {
                format!("cannot understand {}: {why}; set replica-priority of Redis here by hand", self.path.display())
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("cannot read {}: {error}", self.path.display())),
        }
    }

    fn write(&self, value: u32) -> Result<(), String> {
        serde_json::to_string(&Written { version: VERSION, priority: value })
            .map_err(io::Error::from)
            .and_then(|text| behind::replace(&self.path, &text))
            .map_err(|error| format!("cannot write {}: {error}", self.path.display()))
    }

    fn remove(&self) -> Result<(), String> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(format!("cannot remove {}: {error}", self.path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// The file in which that of the gate resource `instance` is kept, on each node.
pub fn kept_at(instance: &str) -> PathBuf {
    Path::new(memory::DIRECTORY).join(name(instance))
}

fn name(instance: &str) -> String {
    format!("priority-{}", memory::file_name(instance))
}

/// What a file says that it was.
///
/// # Errors
/// Why that cannot be told.
pub fn understood(text: &str) -> Result<u32, String> {
    if let Ok(priority) = text.trim().parse() {
        return Ok(priority);
    }
    // First, as what else stands in one of another version may be anything.
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Versioned { version } = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if version != VERSION {
        return Err(format!("its version is {version}, not {VERSION}"));
    }
    serde_json::from_str::<Written>(text).map(|written| written.priority).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn priority(directory: &Path) -> Priority {
        Priority::under(directory, Subject::default(), "mymaster", "Redis/Gate")
    }

    #[test]
    fn what_is_kept_is_read_until_it_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let priority = priority(directory.path());
        assert_eq!((priority.is_kept(), priority.read()), (false, Ok(None)));
        for value in [42, u32::MAX] {
            priority.write(value).unwrap();
            assert_eq!((priority.is_kept(), priority.read()), (true, Ok(Some(value))));
        }
        let text = fs::read_to_string(directory.path().join("priority-Redis%2FGate")).unwrap();
        assert!(text.contains("\"version\":1"), "{text}");
        priority.remove().unwrap();
        priority.remove().unwrap();
        assert_eq!((priority.is_kept(), priority.read()), (false, Ok(None)));
    }

    #[test]
    fn what_an_older_release_kept_is_read_and_nothing_is_guessed() {
        let directory = tempfile::tempdir().unwrap();
        let priority = priority(directory.path());
        for (text, says) in [
            ("42\n", Ok(42)),
            ("42", Ok(42)),
            (r#"{"version":1,"priority":42}"#, Ok(42)),
            (r#"{"version":1,"priority":42,"new":[1]}"#, Ok(42)),
            (r#"{"version":2,"priority":42}"#, Err("its version is 2, not 1")),
            (r#"{"version":2,"was":"42"}"#, Err("its version is 2, not 1")),
            (r#"{"version":1}"#, Err("missing field `priority`")),
            (r#"{"priority":42}"#, Err("missing field `version`")),
            (r#"{"version":1,"priority":-1}"#, Err("invalid value")),
            ("", Err("EOF")),
            ("-1\n", Err("invalid type")),
            ("high", Err("expected value")),
        ] {
            fs::write(&priority.path, text).unwrap();
            assert!(priority.is_kept());
            match (priority.read(), says) {
                (Ok(read), Ok(says)) => assert_eq!(read, Some(says), "{text}"),
                (Err(why), Err(says)) => assert!(
                    why.contains("cannot understand ") && why.contains("priority-Redis%2FGate: ") && why.contains(says),
                    "{text}: {why}"
                ),
                (read, _) => panic!("{text}: {read:?}"),
            }
        }
    }
}
