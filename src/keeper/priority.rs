//! replica-priority of a Redis that must not be chosen: 0 while that lasts, and what it was before kept on disk.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::info;

use super::{behind, memory};
use crate::server::{self, AskError, Credentials, Value};
use crate::switchover;

const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Where it is kept, for one gate: the number alone.
#[derive(Debug, Clone)]
pub struct Priority {
    me: String,
    master: String,
    path: PathBuf,
}

impl Priority {
    /// That of the gate resource `instance`, of `master`, on the node `me`.
    pub fn new(me: &str, master: &str, instance: &str) -> Self {
        let path = Path::new(memory::DIRECTORY).join(format!("priority-{}", memory::file_name(instance)));
        Priority { me: me.to_owned(), master: master.to_owned(), path }
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
        match (refused, switchover::before(now), self.read()?) {
            (true, 0, _) => Ok(()),
            (true, now, _) => {
                // First: a keeper that ends in between knows what to put back.
                self.write(now)?;
                ask(&["CONFIG", "SET", "replica-priority", "0"])?;
                let (master, me) = (&self.master, &self.me);
                info!(MASTER = %master, NODE = %me, REASON = "refused", "{master}: replica-priority is 0 (it was {now}): Pacemaker does not let this node be primary");
                Ok(())
            }
            (false, 0, Some(before)) => {
                let (master, me) = (&self.master, &self.me);
                ask(&["CONFIG", "SET", "replica-priority", &before.to_string()])?;
                if let Err(why) = ask(&["CONFIG", "REWRITE"]) {
                    info!(MASTER = %master, NODE = %me, REASON = %why, "{master}: replica-priority {before} is not made permanent: {why}");
                }
                info!(MASTER = %master, NODE = %me, REASON = "no longer refused", "{master}: replica-priority is {before} again");
                self.remove()
            }
            (false, _, _) => self.remove(),
        }
    }

    fn read(&self) -> Result<Option<u32>, String> {
        match fs::read_to_string(&self.path) {
            // One that cannot be understood is Redis' default.
            Ok(text) => Ok(Some(text.trim().parse().unwrap_or(100))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("cannot read {}: {error}", self.path.display())),
        }
    }

    fn write(&self, value: u32) -> Result<(), String> {
        behind::replace(&self.path, &format!("{value}\n"))
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
