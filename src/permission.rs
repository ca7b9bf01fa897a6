//! What Pacemaker has asked of the gate on this node: nothing, started, promoted.
//!
//! Kept in a file under /run, so that a reboot forgets it. It never opens anything by itself:
//! Promoted means *may open*. It also keeps the ports, so that stop and demote close the right
//! ones when the configuration is broken or has changed. The keeper reads it to learn which
//! leases it may hold.
//!
//! A block of the classic layout keeps one, too: what it leaves to the node's role ([`crate::layout`]).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::gate::Ports;

/// Where the files are.
pub const DIRECTORY: &str = "/run/rolegate";

/// The version of what stands in the files. Another one grants nothing: its meaning is not known.
const VERSION: u32 = 1;

/// That of files without one.
fn first_version() -> u32 {
    1
}

/// What Pacemaker has asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Granted {
    /// A stop has begun: nothing may open, and the ports are known until it has ended. Of a block: it runs.
    Stopping,
    /// Unpromoted: the read-only port may open.
    Started,
    /// Promoted: both ports may open.
    Promoted,
}

/// A permission and the ports for which it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permission {
    /// What may open.
    pub granted: Granted,
    /// Which ports.
    pub ports: Ports,
}

/// The permission of one gate resource.
#[derive(Debug, Clone)]
pub struct Store {
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(default = "first_version")]
    version: u32,
    granted: Granted,
    ro_port: u16,
    rw_port: u16,
    redis_port: u16,
}

/// The file could not be read, written or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct StoreError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Store {
    /// The store of the gate resource `instance`, for example RedisGate.
    pub fn new(instance: &str) -> Self {
        Store::under(Path::new(DIRECTORY), instance)
    }

    /// The same in another directory.
    pub fn under(directory: &Path, instance: &str) -> Self {
        Store { path: file_of(directory, "permission", instance) }
    }

    /// The permission, if there is one. A file that cannot be understood grants nothing.
    ///
    /// # Errors
    /// [`StoreError`] where it cannot be told.
    pub fn read(&self) -> Result<Option<Permission>, StoreError> {
        let text = match fs::read(&self.path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.error("read", source)),
        };
        let written = toml::from_str::<Written>(&text).ok().filter(|written| written.version == VERSION);
        Ok(written.and_then(|written| {
            let ports = Ports::new(written.ro_port, written.rw_port, written.redis_port).ok()?;
            Some(Permission { granted: written.granted, ports })
        }))
    }

    /// Replaces the permission, in one step.
    ///
    /// # Errors
    /// [`StoreError`]; then the old one stands.
    pub fn write(&self, permission: Permission) -> Result<(), StoreError> {
        let text = format!(
            "version = {VERSION}\ngranted = \"{}\"\nro_port = {}\nrw_port = {}\nredis_port = {}\n",
            match permission.granted {
                Granted::Stopping => "stopping",
                Granted::Started => "started",
                Granted::Promoted => "promoted",
            },
            permission.ports.ro,
            permission.ports.rw,
            permission.ports.redis
        );
        replace(&self.path, &text).map_err(|source| self.error("write", source))
    }

    /// Takes the permission away; done if there is none.
    ///
    /// # Errors
    /// [`StoreError`]; then it may still stand.
    pub fn remove(&self) -> Result<(), StoreError> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.error("remove", error)),
            _ => Ok(()),
        }
    }

    fn error(&self, action: &'static str, source: io::Error) -> StoreError {
        StoreError { action, path: self.path.clone(), source }
    }
}

/// All permissions of this node.
pub fn all() -> Vec<Permission> {
    all_under(Path::new(DIRECTORY))
}

fn all_under(directory: &Path) -> Vec<Permission> {
    let names = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let stores = names.filter_map(|name| Some(Store::under(directory, name.to_str()?.strip_prefix("permission-")?)));
    stores.filter_map(|store| store.read().ok().flatten()).collect()
}

/// Replaces a file in one step, and makes its directory if need be.
pub(crate) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    // No id begins with a dot, and two writers of one file do not share it.
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let new = directory.join(format!(".{name}.{}", std::process::id()));
    fs::create_dir_all(directory)
        .and_then(|()| fs::write(&new, text))
        .and_then(|()| fs::rename(&new, path))
        .inspect_err(|_| {
            // On a full disk each try would leave one.
            let _none = fs::remove_file(&new);
        })
}

/// The file in which something of a gate is kept below a directory.
pub fn file_of(directory: &Path, what: &str, instance: &str) -> PathBuf {
    // Resource ids are XML ids, which hold no slash; anything else must not leave the directory.
    let name: String = instance.chars().map(|c| if c == '/' || c == '\0' { '_' } else { c }).collect();
    directory.join(format!("{what}-{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_wrote_and_forgets_what_it_removed() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::under(&directory.path().join("deep"), "RedisGate");
        assert_eq!(store.read().unwrap(), None);
        for granted in [Granted::Stopping, Granted::Started, Granted::Promoted] {
            let permission = Permission { granted, ports: Ports::new(1, 2, 3).unwrap() };
            store.write(permission).unwrap();
            assert_eq!(store.read().unwrap(), Some(permission));
        }
        store.remove().unwrap();
        store.remove().unwrap();
        assert_eq!(store.read().unwrap(), None);
    }

    #[test]
    fn all_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let permission = Permission { granted: Granted::Stopping, ports: Ports::new(1, 2, 3).unwrap() };
        assert_eq!(all_under(&directory.path().join("none")), []);
        Store::under(directory.path(), "RedisGate").write(permission).unwrap();
        fs::write(directory.path().join("permission-bad"), "x").unwrap();
        fs::write(directory.path().join("node"), "node1").unwrap();
        assert_eq!(all_under(directory.path()), [permission]);
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::under(directory.path(), "RedisGate");
        fs::create_dir_all(store.path.join("in the way")).unwrap();
        let permission = Permission { granted: Granted::Promoted, ports: Ports::new(1, 2, 3).unwrap() };
        store.write(permission).unwrap_err();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_understood_grants_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::under(directory.path(), "../../etc/RedisGate");
        let newer = "version = 2\ngranted = \"promoted\"\nro_port = 1\nrw_port = 2\nredis_port = 3\n";
        for text in ["", newer, "granted = \"promoted\"", "granted = 1", "\u{0}"] {
            fs::write(&store.path, text).unwrap();
            assert_eq!(store.read().unwrap(), None, "{text:?}");
        }
        assert_eq!(store.path.parent(), Some(directory.path()));
    }
}
