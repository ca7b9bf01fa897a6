//! What is written onto the hosts' disks before they boot: as an operator would, into Debian's own
//! files where there are some, and nothing that the units do not read in real life.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rolegate::command::Cmd;

use super::{Bed, CLIENTS, NODES, Options, Server, address, address6, hosts, project};

/// Where the package has the hook. Sentinel calls it if it is there.
pub(super) const HOOK: &str = "usr/lib/rolegate/rolegate-hook";

/// By which the package has the keeper started at boot.
const KEEPER: &str = "etc/systemd/system/multi-user.target.wants/rolegate-keeper.service";

/// Where the package is on the hosts' disks.
pub(crate) const PACKAGE: &str = "/opt/rolegate/rolegate.deb";

/// Units of a client host.
const CLIENT_UNITS: [&str; 1] = ["haproxy"];

impl Bed {
    /// Mounts each host's disk (the shared root, what was installed onto it for this bed, and what is the host's own)
    /// and writes its configuration.
    pub(super) fn make_disks(&self, root: &Path) -> Result<()> {
        let installed = self.host_dir("installed");
        let disk = self.mount_disk(&installed, &[root])?;
        self.remove_other_servers(&disk)?;
        if !self.options().bare {
            self.install_rolegate(&disk)?;
        }
        self.jail().cmd("umount").arg(&disk).run()?;
        for host in hosts() {
            let disk = self.mount_disk(&self.host_dir(host), &[&installed.join("upper"), root])?;
            self.configure(host, &self.jail().path(&disk)).with_context(|| format!("the disk of {host}"))?;
        }
        Ok(())
    }

    /// A disk that shows `lower`, the first on top, and keeps in `dir` what is written onto it.
    fn mount_disk(&self, dir: &Path, lower: &[&Path]) -> Result<PathBuf> {
        let [upper, work, root] = ["upper", "work", "root"].map(|part| dir.join(part));
        self.jail().make_dirs([upper.clone(), work.clone(), root.clone()])?;
        let lower: Vec<_> = lower.iter().map(|dir| dir.display().to_string()).collect();
        let (lower, upper, work) = (lower.join(":"), upper.display(), work.display());
        self.jail()
            .cmd("mount")
            .args(["-t", "overlay", "overlay", "-o", &format!("lowerdir={lower},upperdir={upper},workdir={work}")])
            .arg(&root)
            .run()
            .context("the overlay of a host (ROLEGATE_BED_DIR must be on a disk file system)")?;
        Ok(root)
    }

    /// Hosts have one server of those that the root holds, as an operator's have: nothing may lean on the other's
    /// programs and users.
    fn remove_other_servers(&self, disk: &Path) -> Result<()> {
        let server = self.server();
        let others = Server::of(&self.options().release).iter().filter(|other| **other != server);
        for other in others {
            // The user and what is left of its files as well.
            let script = "dpkg --purge \"$@\" && { ! getent passwd \"$0\" || deluser --quiet \"$0\"; }";
            self.jail()
                .cmd("chroot")
                .arg(disk)
                .args(["sh", "-euc", script, other.user()])
                .args(other.packages())
                .deadline(Duration::from_secs(120))
                .run()
                .with_context(|| format!("removing {} from the hosts", other.user()))?;
        }
        Ok(())
    }

    /// The units that a cluster node starts at boot.
    pub(super) fn node_units(&self) -> [&'static str; 4] {
        ["corosync", "pacemaker", self.server().unit(), self.server().sentinel()]
    }

    fn install_rolegate(&self, destination: &Path) -> Result<()> {
        let programs = match &self.options().bin_dir {
            Some(dir) => dir.clone(),
            None => beside_this_program()?,
        };
        let built = package(&programs, None, &programs.join("package"))?;
        let package = Path::new(PACKAGE.trim_start_matches('/'));
        let on_disk = self.jail().path(destination).join(package);
        fs::create_dir_all(on_disk.parent().unwrap_or(destination))?;
        fs::copy(&built, &on_disk).with_context(|| on_disk.display().to_string())?;
        if self.options().by_hand {
            return Ok(());
        }
        self.jail()
            .cmd("chroot")
            .arg(destination)
            // Nobody reads this disk after a power cut before it is complete.
            .args(["dpkg", "--force-unsafe-io", "--install", PACKAGE])
            .deadline(Duration::from_secs(60))
            .run()
            .context("installing rolegate on the hosts")?;
        Ok(())
    }

    fn configure(&self, host: &str, root: &Path) -> Result<()> {
        write(root, "etc/hostname", &format!("{host}\n"))?;
        let names: String =
            hosts().map(|host| format!("{} {host}\n{} {host}\n", address(host), address6(host))).collect();
        write(root, "etc/hosts", &format!("127.0.0.1 localhost\n::1 localhost\n{names}"))?;
        if CLIENTS.contains(&host) {
            let haproxy = match self.options() {
                Options { bare: true, usual_haproxy: true, .. } => haproxy_as_usual(),
                Options { bare: true, .. } => haproxy_by_role(),
                _ => haproxy(),
            };
            append(root, "etc/haproxy/haproxy.cfg", &haproxy)?;
            match fs::remove_file(root.join(KEEPER)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).context(KEEPER),
                _ => {}
            }
            return enable(root, &CLIENT_UNITS);
        }
        write(root, "etc/corosync/corosync.conf", &corosync(&self.options().name))?;
        append(root, self.server().config().trim_start_matches('/'), &redis(host, self.options()))?;
        let hook = root.join(HOOK).exists();
        let sentinel_config = self.server().sentinel_config();
        let sentinel_config = sentinel_config.trim_start_matches('/');
        let sentinel = fs::read_to_string(root.join(sentinel_config))?;
        write(root, sentinel_config, &self.sentinel(&sentinel, hook)?)?;
        super::variant::configure(self.options(), host, root)?;
        enable(root, &self.node_units())?;
        Ok(())
    }

    /// Debian's sentinel.conf with what an operator changes in it.
    fn sentinel(&self, debian: &str, hook: bool) -> Result<String> {
        let options = self.options();
        let changes = [
            ("sentinel monitor ", format!("sentinel monitor mymaster {} 6379 2", address(NODES[0]))),
            (
                "sentinel down-after-milliseconds ",
                format!("sentinel down-after-milliseconds mymaster {}", options.down_after.as_millis()),
            ),
            (
                "sentinel failover-timeout ",
                format!("sentinel failover-timeout mymaster {}", options.failover_timeout.as_millis()),
            ),
        ];
        let mut text = String::new();
        let mut changed = 0;
        for line in debian.lines() {
            match changes.iter().find(|(start, _)| line.starts_with(start)) {
                Some((_, new)) => {
                    text += new;
                    changed += 1;
                }
                None => text += line,
            }
            text.push('\n');
        }
        if changed != changes.len() {
            bail!("Debian's sentinel.conf has {changed} of the {} lines to be changed", changes.len());
        }
        if hook {
            text += &format!("sentinel client-reconfig-script mymaster /{HOOK}\n");
        }
        Ok(text)
    }
}

/// Builds the Debian package in the directory `output`, with another version than its own where one is given.
pub(crate) fn package(programs: &Path, version: Option<&str>, output: &Path) -> Result<PathBuf> {
    let said = Cmd::new(project().join("scripts/deb"))
        .arg("--fast")
        .arg("--programs")
        .arg(programs)
        .arg("--output")
        .arg(output)
        .args(version.into_iter().flat_map(|version| ["--version", version]))
        // It builds what builds it, where that is missing.
        .deadline(Duration::from_secs(1500))
        .run()
        .context("building the package: scripts/deb")?
        .text();
    Ok(PathBuf::from(said.lines().last().unwrap_or_default()))
}

/// The programs of the profile with which this program was built: `target/PROFILE`, while it runs
/// from there or from `deps/`.
pub(crate) fn beside_this_program() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let dir = program.parent().context("a program lies in a directory")?;
    Ok(if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir }.to_owned())
}

/// Rewrites a file, which keeps its owner and mode if it exists.
pub(super) fn write(root: &Path, path: &str, text: &str) -> Result<()> {
    fs::write(root.join(path), text).with_context(|| format!("writing {path}"))
}

pub(super) fn append(root: &Path, path: &str, text: &str) -> Result<()> {
    let file = OpenOptions::new().append(true).open(root.join(path));
    file.and_then(|mut file| file.write_all(text.as_bytes())).with_context(|| format!("appending to {path}"))
}

/// What `systemctl enable` does for units with `WantedBy=multi-user.target`.
fn enable(root: &Path, units: &[&str]) -> Result<()> {
    for unit in units {
        let link = format!("etc/systemd/system/multi-user.target.wants/{unit}.service");
        symlink(format!("/lib/systemd/system/{unit}.service"), root.join(&link)).with_context(|| link)?;
    }
    Ok(())
}

fn corosync(name: &str) -> String {
    let mut text = format!(
        "totem {{\n    version: 2\n    cluster_name: {name}\n    transport: knet\n    crypto_cipher: none\n    \
         crypto_hash: none\n    token: 1000\n}}\n\
         logging {{\n    to_logfile: yes\n    logfile: /var/log/corosync/corosync.log\n    to_syslog: yes\n    \
         timestamp: hires\n}}\n\
         quorum {{\n    provider: corosync_votequorum\n}}\n\
         nodelist {{\n"
    );
    for (i, node) in NODES.iter().enumerate() {
        let (id, address) = (i + 1, address(node));
        text += &format!(
            "    node {{\n        name: {node}\n        nodeid: {id}\n        ring0_addr: {address}\n    }}\n"
        );
    }
    text + "}\n"
}

fn redis(host: &str, options: &Options) -> String {
    let mut text =
        "\n# The bed's nodes are alone on their network. DEBUG is for faults.\nbind 0.0.0.0 ::\nprotected-mode no\n\
                    enable-debug-command local\n"
            .to_owned();
    if options.usual_haproxy {
        // The example of Sentinel's document.
        text += "min-replicas-to-write 1\nmin-replicas-max-lag 10\n";
    }
    if host != NODES[0] {
        text += &format!("replicaof {} 6379\n", address(NODES[0]));
    }
    text
}

/// Both ports, on every address of the client host. An open gate accepts the connection and a closed one refuses it:
/// no more check is needed.
fn haproxy() -> String {
    "\n".to_owned() + &listen("redis-rw", 6381, 6381, "") + &listen("redis-ro", 6380, 6380, "")
}

/// Without a gate each server is asked for its role.
fn haproxy_by_role() -> String {
    let role = |role: &str| {
        format!(
            "    option tcp-check\n    tcp-check send info\\ replication\\r\\n\n    tcp-check expect string role:{role}\n"
        )
    };
    "\n".to_owned() + &listen("redis-rw", 6381, 6379, &role("master")) + &listen("redis-ro", 6380, 6379, &role("slave"))
}

/// The check that HAProxy's own blog, and most configurations since, have for Redis, with HAProxy's defaults for all else.
fn haproxy_as_usual() -> String {
    let mut text =
        "\nlisten redis-rw\n    bind :::6381 v4v6\n    mode tcp\n    option tcplog\n    timeout connect 4s\n    \
                    timeout client 30s\n    timeout server 30s\n    option tcp-check\n    tcp-check connect\n    \
                    tcp-check send PING\\r\\n\n    tcp-check expect string +PONG\n    \
                    tcp-check send info\\ replication\\r\\n\n    tcp-check expect string role:master\n    \
                    tcp-check send QUIT\\r\\n\n    tcp-check expect string +OK\n"
            .to_owned();
    for node in NODES {
        text += &format!("    server {node} {}:6379 check inter 1s\n", address(node));
    }
    text
}

fn listen(name: &str, port: u16, behind: u16, check: &str) -> String {
    // Two checks at 300 ms: one lost SYN moves nobody. A closed port is looked at more often, as that is for how long nobody writes.
    // The clients' timeouts are for connections that a cut network leaves behind. No retries: HAProxy would wait a second before each, and a
    // closed gate will not be open then, but another one may.
    let mut text = format!(
        "listen {name}\n    bind :::{port} v4v6\n    mode tcp\n    option tcplog\n    balance roundrobin\n    \
         retries 0\n    timeout connect 1s\n    timeout check 1s\n    timeout client 1h\n    timeout server 1h\n    \
         option clitcpka\n    option srvtcpka\n{check}    \
         default-server check inter 300ms downinter 100ms fall 2 rise 1 on-marked-down shutdown-sessions\n"
    );
    for node in NODES {
        text += &format!("    server {node} {}:{behind}\n", address(node));
    }
    text
}
