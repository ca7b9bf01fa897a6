//! What differs between the Debian releases that hosts run, and between the servers that they carry. But for
//! [`super::variant`], which is there for Redis only, nothing else names a unit, a user or a path of theirs.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The release of a bed unless told otherwise.
pub const BOOKWORM: &str = "bookworm";
/// Debian 13.
pub const TRIXIE: &str = "trixie";

/// What a bed's hosts are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// The release.
    pub release: &'static str,
    /// What its nodes run.
    pub server: Server,
}

/// Whose server and Sentinel the nodes run. Debian packages both alike, each under its own name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Server {
    /// Redis.
    Redis,
    /// Valkey.
    Valkey,
}

impl Server {
    /// Those that a release has. Its root holds them all; a bed's hosts keep one.
    pub fn of(release: &str) -> &'static [Server] {
        if release == BOOKWORM { &[Server::Redis] } else { &[Server::Valkey, Server::Redis] }
    }

    /// Debian's packages.
    pub fn packages(self) -> [&'static str; 3] {
        match self {
            Server::Redis => ["redis-server", "redis-sentinel", "redis-tools"],
            Server::Valkey => ["valkey-server", "valkey-sentinel", "valkey-tools"],
        }
    }

    /// The server's unit, without `.service`, which is its program's and its process' name too.
    pub fn unit(self) -> &'static str {
        self.packages()[0]
    }

    /// Likewise Sentinel's.
    pub fn sentinel(self) -> &'static str {
        self.packages()[1]
    }

    /// The user and the group of both units; their directories are called so too.
    pub fn user(self) -> &'static str {
        match self {
            Server::Redis => "redis",
            Server::Valkey => "valkey",
        }
    }

    /// The command line client.
    pub fn cli(self) -> &'static str {
        match self {
            Server::Redis => "redis-cli",
            Server::Valkey => "valkey-cli",
        }
    }

    /// The server's configuration.
    pub fn config(self) -> String {
        format!("/etc/{0}/{0}.conf", self.user())
    }

    /// Sentinel's.
    pub fn sentinel_config(self) -> String {
        format!("/etc/{}/sentinel.conf", self.user())
    }

    /// Sentinel's log.
    pub fn sentinel_log(self) -> String {
        format!("/var/log/{}/{}.log", self.user(), self.sentinel())
    }

    /// Where the server keeps its data.
    pub fn data(self) -> String {
        format!("/var/lib/{}", self.user())
    }
}
