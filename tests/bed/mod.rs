//! A bed: three cluster nodes and two client hosts, booted on this machine for tests, demo and
//! benchmarks. Each is a whole Debian with systemd as PID 1, real corosync, Pacemaker, Redis or Valkey,
//! Sentinel and netfilter from Debian's own units, and rolegate as its own package installs it.
//!
//! # Use
//! ```ignore
//! fn main() -> anyhow::Result<()> {
//!     bed::entry();                                  // first of all: a bed re-executes its program
//!     let bed = Bed::up(Options::new("mine"))?;      // ~30 s, once the root is cached
//!     let node1 = bed.host("node1")?;
//!     node1.cmd("crm_mon")?.arg("-1").run()?;         // a crate::command::Cmd inside the node
//!     node1.sh("ls /run | wc -l")?;                  // a shell script, exit code 0 expected
//!     bed.isolate(&["node1"])?;                      // both directions at once
//!     wait_for("a new primary", SECONDS_30, || { ... Ok(()) })?;
//!     bed.heal()?;
//!     Ok(())                                         // dropped: taken down, nothing remains
//! }
//! ```
//! Programs that raise a bed have a `main` of their own (tests: `harness = false`) which calls
//! [`entry`] first. A test trial is `fn(&Bed) -> anyhow::Result<()>`.
//!
//! # What it promises
//! Everything that a bed is made of lives in namespaces held by one process ([`jail`]), so that the
//! kernel removes all of it when that process ends: after [`Bed::down`], an error, a panic, a signal
//! or a SIGKILL of the program that raised it. The host's own network, mounts, processes and
//! firewall are never touched. Several beds exist side by side with the same names and addresses.
//!
//! # Rooms
//! - [`jail`]: the namespaces, who holds them, and how nothing is left over.
//! - [`debian`]: what differs between Debian's releases, and between Redis and Valkey.
//! - [`root`]: the Debian root that all hosts of all beds share, built once.
//! - [`net`]: the switch: cables, partitions, one-way cuts; running code in a host's network.
//! - [`host`]: one machine: boot, power cut, freeze, commands, signals.
//! - [`files`]: what is written onto the machines' disks before they boot.
//! - [`variant`]: what a bed may have beyond the usual: passwords, a second master name, the package installed by hand.
//! - [`cluster`]: waiting until cluster, replication and Sentinels are well; logs.
//! - [`load`]: writers that count what was acknowledged, by whom, and what is still there.
//! - [`watch`]: which gates are open and whom Sentinels name, seen from outside on one clock.
//! - [`bench`]: the benchmark; [`cost`]: what keepers cost, and whether they keep their leases on a busy machine.
//! - [`moving`]: moving the primary by `rolegate switchover` and in other ways, measured.
//! - [`gates`]: the gate made as the README says, and whether it is well.
//! - [`faults`]: every fault, defined once.
//! - [`clock`]: a step of one node's wall clock.
//! - [`power`]: STONITH: a fence agent for the nodes, and who cuts the power that it asks for.
//! - [`suite`]: faults with writers, a watch and an audit, one line of figures for each; [`table`]: what they come to;
//!   [`judge`]: whether that is enough.
//! - [`spread`]: what several runs come to.
//! - [`demo`]: one failure shown.

// Each program that has this module uses a part of it.
#![allow(dead_code, unused_imports)]

pub mod bench;
pub mod clock;
pub mod cluster;
pub mod cost;
pub mod debian;
pub mod demo;
pub mod faults;
pub mod files;
pub mod gates;
pub mod host;
pub mod jail;
pub mod judge;
pub mod load;
pub mod moving;
pub mod net;
pub mod power;
pub mod root;
pub mod spread;
pub mod suite;
pub mod table;
pub mod variant;
pub mod watch;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::inotify::{InitFlags, Inotify};
use serde::{Deserialize, Serialize};

pub use debian::{Base, Server};
pub use host::Host;
pub use jail::entry;
pub use net::Drop as DropRule;

use jail::Jail;

/// The cluster nodes' names; the first is the primary of a fresh bed.
pub const NODES: [&str; 3] = ["node1", "node2", "node3"];
/// The client hosts' names: HAProxy runs on them.
pub const CLIENTS: [&str; 2] = ["client1", "client2"];

/// All hosts' names.
pub fn hosts() -> impl Iterator<Item = &'static str> {
    NODES.into_iter().chain(CLIENTS)
}

/// The last number of a host's addresses, `10.77.0.N` and `fd77::N`: 1 to 3 for nodes, 11 and 12
/// for clients.
pub fn number(host: &str) -> Option<u8> {
    let place = |names: &[&str]| names.iter().position(|name| *name == host);
    place(&NODES).map(|i| i as u8 + 1).or_else(|| place(&CLIENTS).map(|i| i as u8 + 11))
}

/// A host's IPv4 address, e.g. `10.77.0.1` for `node1`.
///
/// # Panics
/// If there is no such host.
pub fn address(host: &str) -> String {
    format!("10.77.0.{}", number(host).expect("a name out of NODES or CLIENTS"))
}

/// A host's IPv6 address, e.g. `fd77::1` for `node1`.
///
/// # Panics
/// If there is no such host.
pub fn address6(host: &str) -> String {
    format!("fd77::{}", number(host).expect("a name out of NODES or CLIENTS"))
}

/// Where beds and cached roots are: `ROLEGATE_BED_DIR`, by default `/var/lib/rolegate-bed`. It must be on a disk file
/// system (an overlay cannot lie on an overlay).
pub fn state_dir() -> PathBuf {
    std::env::var_os("ROLEGATE_BED_DIR").map_or_else(|| "/var/lib/rolegate-bed".into(), PathBuf::from)
}

/// How a bed is to be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Options {
    /// Its name: letters, digits, `-` and `_`, at most 32.
    pub name: String,
    /// The Debian release of all its hosts.
    pub release: String,
    /// What its nodes run, out of [`Server::of`] that release.
    pub server: Server,
    /// Only cluster and Redis; rolegate is not installed.
    pub bare: bool,
    /// With `bare`: HAProxy and `min-replicas-to-write` as they are mostly set up beside Sentinel, instead of HAProxy as it is set up
    /// beside a gate.
    #[serde(default)]
    pub usual_haproxy: bool,
    /// The gate is on iptables-nft, whatever would be chosen by default.
    #[serde(default)]
    pub iptables: bool,
    /// Redis and Sentinels ask for passwords, and rolegate has a user of its own with the rights that README gives it.
    pub secured: bool,
    /// A second master name, `cache`, beside the first: see [`variant::CACHE`].
    pub second: bool,
    /// rolegate is not installed; its package is there: see [`Host::install`].
    pub by_hand: bool,
    /// Sentinel's down-after-milliseconds.
    pub down_after: Duration,
    /// Sentinel's failover-timeout.
    pub failover_timeout: Duration,
    /// How long its hosts may take to boot and to form a healthy cluster.
    pub patience: Duration,
    /// Where rolegate's programs were built; by default beside the running program
    /// (`target/debug` or `target/release`).
    pub bin_dir: Option<PathBuf>,
}

impl Options {
    /// A bed called `name` on another base than by default.
    pub fn on(base: Base, name: impl Into<String>) -> Self {
        Options { release: base.release.into(), server: base.server, ..Options::new(name) }
    }

    /// A bed called `name`, otherwise as by default.
    pub fn new(name: impl Into<String>) -> Self {
        Options {
            name: name.into(),
            release: debian::BOOKWORM.into(),
            server: Server::Redis,
            bare: false,
            usual_haproxy: false,
            iptables: false,
            secured: false,
            second: false,
            by_hand: false,
            down_after: Duration::from_secs(5),
            failover_timeout: Duration::from_secs(60),
            patience: Duration::from_secs(180),
            bin_dir: None,
        }
    }
}

/// A bed that is up.
pub struct Bed {
    options: Options,
    dir: PathBuf,
    jail: Jail,
    started: Instant,
}

impl Bed {
    /// Raises a bed and waits until cluster, replication and Sentinels are well. Dropping it takes it down. Tells on
    /// stderr how far it is.
    ///
    /// # Errors
    /// Whatever went wrong; nothing is left then.
    pub fn up(options: Options) -> Result<Bed> {
        check_name(&options.name)?;
        if !nix::unistd::geteuid().is_root() {
            bail!("a bed needs root: it mounts, makes namespaces and boots machines");
        }
        let (release, server) = (&options.release, options.server);
        if !Server::of(release).contains(&server) {
            bail!("Debian {release} has no {}", server.user());
        }
        if server != Server::Redis && (options.secured || options.second || options.by_hand) {
            bail!("passwords, a second master name and installing by hand are there for Redis only");
        }
        if options.iptables && (options.secured || options.by_hand) {
            bail!("the gate on iptables is there without passwords and installing by hand only");
        }
        let started = Instant::now();
        let root = root::cached(&options.release).context("building the root of the hosts")?;
        let dir = beds().join(&options.name);
        let jail = Jail::start(&dir, jail::Network::Own)?;
        let bed = Bed { options, dir, jail, started };
        fs::write(bed.dir.join("bed.json"), serde_json::to_vec_pretty(&bed.options)?)?;
        bed.say("disks and cables");
        check_inotify()?;
        bed.make_disks(&root)?;
        bed.make_switch()?;
        bed.say("booting 5 hosts");
        for host in hosts() {
            bed.host(host)?.start()?;
        }
        bed.wait_ready(bed.options.patience)?;
        // Without this Pacemaker starts no resource where there is no fence device.
        bed.host(NODES[0])?.ask("crm_attribute", &["-t", "crm_config", "-n", "stonith-enabled", "-v", "false"])?;
        bed.say("ready");
        Ok(bed)
    }

    /// The bed called `name` that another program left up. Dropping this leaves it up.
    ///
    /// # Errors
    /// When it is not up.
    pub fn attach(name: &str) -> Result<Bed> {
        check_name(name)?;
        let dir = beds().join(name);
        let jail = Jail::attach(&dir).with_context(|| format!("no bed {name:?}: see `bed list`, `bed up`"))?;
        let options = fs::read(dir.join("bed.json")).context("the bed is not up yet")?;
        Ok(Bed { options: serde_json::from_slice(&options)?, dir, jail, started: Instant::now() })
    }

    /// Leaves the bed up when this program ends, until `bed down`.
    pub fn detach(mut self) -> Result<()> {
        self.jail.detach()
    }

    /// Takes the bed down and waits until nothing of it is left. [`Drop`] does the same without
    /// telling of errors.
    pub fn down(mut self) -> Result<()> {
        self.jail.end()?;
        // Raised by another program: that program's warden does it.
        jail::end_any(&self.dir)
    }

    /// How it was raised.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// What its nodes run.
    pub fn server(&self) -> Server {
        self.options.server
    }

    /// The namespaces that hold it.
    pub fn jail(&self) -> &Jail {
        &self.jail
    }

    /// One of its hosts.
    ///
    /// # Errors
    /// When there is no host of that name.
    pub fn host(&self, name: &str) -> Result<Host<'_>> {
        match hosts().find(|host| *host == name) {
            Some(name) => Ok(Host::new(self, name)),
            None => bail!("no host {name:?}: there are {}", hosts().collect::<Vec<_>>().join(", ")),
        }
    }

    /// All its cluster nodes.
    pub fn nodes(&self) -> impl Iterator<Item = Host<'_>> {
        NODES.into_iter().map(|name| Host::new(self, name))
    }

    /// All its hosts.
    pub fn hosts(&self) -> impl Iterator<Item = Host<'_>> {
        hosts().map(|name| Host::new(self, name))
    }

    /// Tells on stderr how far it is.
    pub fn say(&self, text: &str) {
        eprintln!("bed {}: {:5.1} s  {text}", self.options.name, self.started.elapsed().as_secs_f64());
    }

    /// Where a host's files are on this machine, outside its mount namespace.
    fn host_dir(&self, host: &str) -> PathBuf {
        self.dir.join(host)
    }
}

/// A bed's hosts need 20 inotify instances. The machine has 128 as a rule; without one systemd hangs while it
/// boots, and says nothing.
fn check_inotify() -> Result<()> {
    let all: Result<Vec<_>, _> = (0..24).map(|_| Inotify::init(InitFlags::IN_CLOEXEC)).collect();
    all.map(drop).context(
        "other beds, containers or desktops use up the machine's inotify instances; take one down, or: sysctl \
         fs.inotify.max_user_instances=512",
    )
}

/// The directory that holds the beds' directories.
fn beds() -> PathBuf {
    state_dir().join("beds")
}

/// Takes down the bed called `name`, whatever state it is in, and waits until nothing of it is left.
///
/// # Errors
/// When there is none, or when something of it stays.
pub fn down(name: &str) -> Result<()> {
    check_name(name)?;
    let dir = beds().join(name);
    if !dir.exists() {
        bail!("no bed {name:?}: see `bed list`");
    }
    jail::end_any(&dir)
}

/// The names of all beds, and whether each is up (else: left over from a program that was killed).
pub fn list() -> Result<Vec<(String, bool)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(beds()).into_iter().flatten() {
        let entry = entry?;
        found.push((entry.file_name().to_string_lossy().into_owned(), jail::is_alive(&entry.path())?));
    }
    found.sort();
    Ok(found)
}

/// Removes the cached roots and what is left of beds.
///
/// # Errors
/// When a bed is up.
pub fn clean() -> Result<()> {
    for (name, up) in list()? {
        if up {
            bail!("bed {name:?} is up: take it down first");
        }
        down(&name)?;
    }
    match fs::remove_dir_all(state_dir()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context("removing the cached roots"),
        _ => Ok(()),
    }
}

fn check_name(name: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 32 || !name.chars().all(fits) {
        bail!("{name:?} is no name for a bed: letters, digits, - and _, at most 32");
    }
    Ok(())
}

/// Asks `condition` again and again until it is met.
///
/// # Errors
/// At `deadline`, with what the condition lacked last.
pub fn wait_for<T>(what: &str, deadline: Duration, condition: impl FnMut() -> Result<T>) -> Result<T> {
    wait_every(Duration::from_millis(100), what, deadline, condition)
}

/// [`wait_for`] with another pause between two looks.
pub fn wait_every<T>(
    pause: Duration,
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Result<T>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        match condition() {
            Ok(answer) => return Ok(answer),
            Err(lacking) if started.elapsed() > deadline || jail::interrupted() => {
                return Err(lacking.context(format!("waited {} s for {what}", deadline.as_secs())));
            }
            Err(_) => thread::sleep(pause),
        }
    }
}

/// The project's directory.
pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
