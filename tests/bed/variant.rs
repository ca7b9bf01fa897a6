//! What a bed may have beyond the usual: passwords and ACL users, a second master name, and rolegate put onto booted hosts as
//! README says. Its [`Options`] say which; here is all that follows from them on the hosts' disks.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::files::{HOOK, append, write};
use super::{Host, NODES, Options, address, project};

/// A master name of a bed, with its ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Master {
    /// Sentinel's name of it.
    pub name: &'static str,
    /// Redis' own port.
    pub redis: u16,
    /// The gate's read-only port.
    pub ro: u16,
    /// The gate's read-write port.
    pub rw: u16,
    /// The role attribute.
    pub attribute: &'static str,
    /// The gate resource.
    pub gate: &'static str,
    /// The primary of a fresh bed.
    pub first: &'static str,
    /// systemd's unit of its Redis.
    pub unit: &'static str,
}

/// The one that every bed has.
pub const MYMASTER: Master = Master {
    name: "mymaster",
    redis: 6379,
    ro: 6380,
    rw: 6381,
    attribute: "redis_role",
    gate: "RedisGate",
    first: NODES[0],
    unit: "redis-server",
};

/// The second, from Debian's template unit.
pub const CACHE: Master = Master {
    name: "cache",
    redis: 6389,
    ro: 6390,
    rw: 6391,
    attribute: "redis_role-cache",
    gate: "CacheGate",
    first: NODES[1],
    unit: "redis-server@cache",
};

/// The password of whoever may do everything, at Redis and at Sentinels: operators, replicas, Sentinels, writers.
pub const PASSWORD: &str = "all-rights-0f3b";

/// rolegate's own passwords, one for each kind of server.
pub const REDIS_SECRET: &str = "gate-at-redis-77c1";
/// See [`REDIS_SECRET`].
pub const SENTINEL_SECRET: &str = "gate-at-sentinel-5ad9";

impl Options {
    /// The bed's master names.
    pub fn masters(&self) -> &'static [Master] {
        if self.second { &[MYMASTER, CACHE] } else { &[MYMASTER] }
    }

    /// The password with which everything may be done at Redis and Sentinels, where one is needed.
    pub fn password(&self) -> Option<&'static str> {
        self.secured.then_some(PASSWORD)
    }
}

/// The line of README that defines rolegate's user for a kind of server (`redis.conf`, `sentinel.conf`), with a password in it.
///
/// # Errors
/// When README has none.
fn user(file: &str, secret: &str) -> Result<String> {
    let readme = fs::read_to_string(project().join("README.md"))?;
    let mut lines = readme.lines().map(str::trim).skip_while(|line| *line != format!("# {file}"));
    let line = lines.find(|line| line.starts_with("user rolegate ")).with_context(|| format!("README: {file}"))?;
    ensure!(line.contains(">SECRET "), "README's line for {file} has no place for the password: {line}");
    Ok(line.replace(">SECRET ", &format!(">{secret} ")))
}

/// Writes what `options` ask for onto the disk of the node `host`, behind what every node has.
pub(super) fn configure(options: &Options, host: &str, root: &Path) -> Result<()> {
    if options.second {
        second(host, root)?;
    }
    if options.iptables {
        fs::create_dir_all(root.join("etc/rolegate"))?;
        write(root, "etc/rolegate/rolegate.toml", "[firewall]\nbackend = \"iptables-nft\"\n")?;
    }
    if options.secured {
        let user = user("redis.conf", REDIS_SECRET)?;
        let redis = format!("requirepass {PASSWORD}\nmasterauth {PASSWORD}\n{user}\n");
        append(root, "etc/redis/redis.conf", &redis)?;
        if options.second {
            append(root, "etc/redis/redis-cache.conf", &redis)?;
        }
        let own: String =
            options.masters().iter().map(|master| format!("sentinel auth-pass {} {PASSWORD}\n", master.name)).collect();
        let user = self::user("sentinel.conf", SENTINEL_SECRET)?;
        let sentinel = format!("requirepass {PASSWORD}\nsentinel sentinel-pass {PASSWORD}\n{own}{user}\n");
        append(root, "etc/redis/sentinel.conf", &sentinel)?;
        settings(root)?;
    }
    Ok(())
}

/// Another Redis from Debian's template unit, watched by the same Sentinels.
fn second(host: &str, root: &Path) -> Result<()> {
    let of = fs::metadata(root.join("etc/redis/redis.conf"))?;
    let Master { name, redis, first, unit, .. } = CACHE;
    let first_ones = fs::read_to_string(root.join("etc/redis/redis.conf"))?;
    let mut text: String =
        first_ones.lines().filter(|line| !line.starts_with("replicaof ")).map(|line| format!("{line}\n")).collect();
    // The last line of a kind counts.
    text += &format!(
        "port {redis}\npidfile /run/redis-{name}/redis-server.pid\nlogfile /var/log/redis/redis-{name}.log\n\
         dbfilename {name}.rdb\n"
    );
    if host != first {
        text += &format!("replicaof {} {redis}\n", address(first));
    }
    let path = format!("etc/redis/redis-{name}.conf");
    write(root, &path, &text)?;
    fs::set_permissions(root.join(&path), fs::Permissions::from_mode(0o640))?;
    chown(root.join(&path), Some(of.uid()), Some(of.gid()))?;
    let link = root.join(format!("etc/systemd/system/multi-user.target.wants/{unit}.service"));
    symlink("/lib/systemd/system/redis-server@.service", &link).with_context(|| link.display().to_string())?;
    let mut sentinel = format!("sentinel monitor {name} {} {redis} 2\n", address(first));
    let debian = fs::read_to_string(root.join("etc/redis/sentinel.conf"))?;
    for line in debian.lines().filter(|line| line.split(' ').nth(2) == Some(MYMASTER.name)) {
        if !line.starts_with("sentinel monitor") {
            sentinel += &format!("{}\n", line.replace(MYMASTER.name, name));
        }
    }
    append(root, "etc/redis/sentinel.conf", &sentinel)
}

/// rolegate's settings, which Sentinel's user reads as well.
fn settings(root: &Path) -> Result<()> {
    let group = fs::metadata(root.join("etc/redis/redis.conf"))?.gid();
    fs::create_dir_all(root.join("etc/rolegate"))?;
    let toml = "[redis]\nuser = \"rolegate\"\npassword_file = \"/etc/rolegate/redis.password\"\n\
                [sentinel]\nuser = \"rolegate\"\npassword_file = \"/etc/rolegate/sentinel.password\"\n";
    write(root, "etc/rolegate/rolegate.toml", toml)?;
    for (file, secret) in [("redis", REDIS_SECRET), ("sentinel", SENTINEL_SECRET)] {
        let path = format!("etc/rolegate/{file}.password");
        write(root, &path, &format!("{secret}\n"))?;
        fs::set_permissions(root.join(&path), fs::Permissions::from_mode(0o640))?;
        chown(root.join(&path), None, Some(group))?;
    }
    Ok(())
}

impl Host<'_> {
    /// README's first step, on the running host: the package at `path` there is installed, or upgraded to, by apt. What that said.
    pub fn install(&self, path: &str) -> Result<String> {
        // The settings that the bed has written stay.
        let apt = "apt-get -q -y -o Dpkg::Options::=--force-confold";
        let script = format!("DEBIAN_FRONTEND=noninteractive {apt} install --reinstall {path} 2>&1");
        Ok(self.sh_within(Duration::from_secs(60), &script)?.text())
    }

    /// README's second step: Sentinel shall call the hook.
    pub fn let_sentinel_call_the_hook(&self, masters: &[Master]) -> Result<()> {
        let lines: String =
            masters.iter().map(|master| format!("sentinel client-reconfig-script {} /{HOOK}\n", master.name)).collect();
        let script = format!(
            "systemctl stop redis-sentinel\nprintf '{lines}' >> /etc/redis/sentinel.conf\nsystemctl daemon-reload\n\
             systemctl restart redis-sentinel"
        );
        self.sh_within(Duration::from_secs(30), &script).map(drop)
    }
}
