//! The Debian root that all hosts of all beds share, read-only below their overlays: built once,
//! kept in `roots/` of [`super::state_dir`] under a name that changes when its contents would.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use rolegate::command::Cmd;

use super::debian::Server;
use super::jail::{Jail, Network, end_any, is_alive};

/// What is installed beyond Debian's minimal variant and the release's servers.
const PACKAGES: [&str; 24] = [
    "systemd",
    "systemd-sysv",
    "dbus",
    "corosync",
    "pacemaker",
    "pacemaker-cli-utils",
    "pcs",
    "crmsh",
    // With ocf-tester on bookworm.
    "resource-agents",
    "haproxy",
    "nftables",
    "iptables",
    "ipset",
    "conntrack",
    "iproute2",
    "iputils-ping",
    "netcat-openbsd",
    "socat",
    "tcpdump",
    "libxml2-utils",
    "procps",
    "psmisc",
    "less",
    "zstd",
];

/// Units that do nothing for a bed but take time, write at odd moments, reach for the machine's kernel, or use
/// inotify instances, of which a machine has few.
const MASKED: [&str; 16] = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty.target",
    "console-getty.service",
    "systemd-pstore.service",
    "dev-hugepages.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-logind.service",
    "systemd-modules-load.service",
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
];

/// Units that each host enables for itself ([`super::files`]).
const DISABLED: [&str; 5] = ["corosync", "pacemaker", "haproxy", "pcsd", "pcsd-ruby"];

/// Where a root keeps the packages of Pacemaker and corosync that it was made of: an upgrade installs them again.
pub const UPGRADE: &str = "/srv/upgrade";

/// Fetches those, from outside, where apt reaches its mirror.
const KEEP_FOR_UPGRADE: &str = "--customize-hook=mkdir \"$1/srv/upgrade\" && cd \"$1/srv/upgrade\" && \
    APT_CONFIG=\"$MMDEBSTRAP_APT_CONFIG\" apt-get -q download \
    $(chroot \"$1\" dpkg-query -W -f '${source:Package} ${Package}\\n' | sed -nE 's/^(pacemaker|corosync) //p')";

/// All packages of a root, and all units that are disabled in it.
fn contents(release: &str) -> (Vec<&'static str>, Vec<&'static str>) {
    let (mut packages, mut disabled) = (PACKAGES.to_vec(), DISABLED.to_vec());
    for server in Server::of(release) {
        packages.extend(server.packages());
        disabled.extend([server.unit(), server.sentinel()]);
    }
    (packages, disabled)
}

/// The root of `release`, built now if it is not there yet (a minute, and Debian's mirror).
///
/// # Errors
/// When it cannot be built. Nothing is left of it then.
pub fn cached(release: &str) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    (contents(release), MASKED, KEEP_FOR_UPGRADE).hash(&mut hasher);
    let roots = super::state_dir().join("roots");
    fs::create_dir_all(&roots)?;
    let root = roots.join(format!("{release}-{:016x}", hasher.finish()));
    if root.exists() {
        return Ok(root);
    }
    let lock = File::create(roots.join("lock"))?;
    let lock = match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((lock, _)) => {
            eprintln!("waiting for another bed that builds the root");
            Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error)?
        }
    };
    if !root.exists() {
        eprintln!("building a Debian {release} for the hosts (once; a minute or two)");
        telling(&format!("building Debian {release}"), || build(release, &roots.join("building"), &root))?;
    }
    drop(lock);
    Ok(root)
}

/// Says every ten seconds that something long still goes on.
fn telling<T>(what: &str, long: impl FnOnce() -> T) -> T {
    let (done, waits) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            let started = Instant::now();
            while waits.recv_timeout(Duration::from_secs(10)) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{what}: {} s", started.elapsed().as_secs());
            }
        });
        let outcome = long();
        drop(done);
        outcome
    })
}

fn build(release: &str, dir: &Path, root: &Path) -> Result<()> {
    let mut jail = Jail::start(dir, Network::Host)?;
    let new = dir.join("root");
    let (packages, disabled) = contents(release);
    let chroot = |command: &str| format!("--customize-hook=chroot \"$1\" {command}");
    let built = jail
        .cmd("mmdebstrap")
        .args(["--mode=root", "--variant=minbase"])
        .arg(format!("--include={}", packages.join(",")))
        .args([
            chroot(&format!("systemctl disable {}", disabled.join(" "))),
            chroot(&format!("systemctl mask {}", MASKED.join(" "))),
            KEEP_FOR_UPGRADE.into(),
            // Names are in /etc/hosts; asking a name server of the machine would only wait.
            "--customize-hook=: > \"$1/etc/resolv.conf\"".into(),
            "--customize-hook=rm -rf \"$1\"/var/lib/apt/lists/* \"$1\"/var/cache/apt/archives/*.deb".into(),
        ])
        .arg(release)
        .arg(&new)
        // Without one mmdebstrap takes its own default.
        .args(mirror())
        .deadline(Duration::from_secs(900))
        .run()
        .context("mmdebstrap")?;
    drop(built);
    fs::rename(&new, root)?;
    jail.end()
}

/// The machine's own Debian mirror.
pub(super) fn mirror() -> Option<String> {
    let sources = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path());
    sources.chain([PathBuf::from("/etc/apt/sources.list")]).find_map(|path| {
        let text = fs::read_to_string(path).ok()?;
        let mut words = text.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace);
        words
            .find(|word| word.starts_with("http") && word.trim_end_matches('/').ends_with("/debian"))
            .map(str::to_owned)
    })
}
