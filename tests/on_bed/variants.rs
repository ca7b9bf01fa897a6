//! What the usual bed does not have: rolegate's package installed on running hosts, Redis and Sentinels with
//! passwords and ACL users, and a second master name.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, ensure};

use super::cli::rolegate;
use super::moves::{hook, nothing_stale, with_writers};
use crate::OnBed;
use crate::bed::files::{PACKAGE, beside_this_program, package};
use crate::bed::gates::{self, open_on, role};
use crate::bed::load::{Bounds, Load, Report, Writer};
use crate::bed::variant::{CACHE, MYMASTER, Master, PASSWORD};
use crate::bed::{Bed, CLIENTS, Host, NODES, wait_for};

pub const TRIALS: &[(&str, OnBed)] = &[
    ("the_package_works_on_running_hosts_and_its_purge_leaves_nothing", install),
    ("upgrading_the_package_under_a_writer_cuts_nothing_and_an_older_node_takes_over_from_a_newer_one", upgrade),
    ("with_the_least_rights_writers_go_on_and_another_master_name_is_left_alone", least_rights),
    ("the_hook_reads_the_passwords_as_sentinel_s_user", hook_reads),
    ("a_wrong_password_is_named_and_never_shown", wrong_password),
    ("a_fence_closes_the_ports_of_all_master_names", fence),
];

const LONG: Duration = Duration::from_secs(60);

/// A bed on which README's steps have been done up to a gate for each master name, all of them open on their primaries.
fn prepared(bed: &Bed) -> Result<()> {
    for node in bed.nodes() {
        if node.sh("test -e /usr/sbin/rolegate").is_err() {
            node.install(PACKAGE)?;
        }
        if node.sh("grep -q client-reconfig-script.*cache /etc/redis/sentinel.conf").is_err() {
            node.let_sentinel_call_the_hook(bed.options().masters())?;
        }
    }
    wait_for("the Sentinels", LONG, || bed.check())?;
    let node = bed.host(NODES[0])?;
    for master in bed.options().masters() {
        if node.ask("cibadmin", &["-Q", "-o", "resources"])?.contains(&format!("\"{}\"", master.gate)) {
            continue;
        }
        gates::create(bed, master)?;
        let said = rolegate(&node, &["init", "--master", master.name])?;
        ensure!(said.code == 0 && said.text.contains("takes writes at"), "init of {}: {said:?}", master.name);
    }
    bed.options().masters().iter().try_for_each(|master| well(bed, master))
}

/// Waits until `rolegate status` finds nothing wrong with a master name, whose port is open on its primary only.
fn well(bed: &Bed, master: &Master) -> Result<()> {
    gates::opened(bed, master)?;
    let node = bed.primary_of(master)?;
    wait_for("a status without trouble", LONG, || {
        let said = rolegate(&node, &["status", "--master", master.name])?;
        let first =
            format!("{}: HEALTHY: {} takes writes at {}:{}", master.name, node.name(), node.address(), master.rw);
        ensure!(said.code == 0 && said.text.starts_with(&first), "{said:?}");
        let other = bed.options().masters().iter().find(|other| *other != master).context("two master names")?;
        ensure!(!said.text.contains(other.name), "--master {}: {}", master.name, said.text);
        Ok(())
    })
}

/// The keeper's log on a node since then.
pub(super) fn keeper_log(on: &Host<'_>, since: SystemTime) -> Result<String> {
    let since = format!("@{}", since.duration_since(UNIX_EPOCH)?.as_secs());
    on.journal(&["--output=cat", "--identifier=rolegate-keeper", "--since", &since])
}

/// What a node has outside of logs, caches and what its services write all the time.
fn files(on: &Host<'_>) -> Result<BTreeSet<String>> {
    let script = "find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /var/log -o -path /var/cache \
                  -o -path /var/lib/dpkg -o -path /var/lib/apt -o -path /var/lib/pacemaker -o -path /var/lib/corosync -o -path /var/lib/redis \
                  -o -path /var/lib/systemd -o -path /run/systemd -o -path /run/log \\) -prune -o -print; \
                  find /run/rolegate /var/lib/systemd/deb-systemd-helper* 2>/dev/null || true; nft list tables";
    Ok(on.sh_within(LONG, script)?.text().lines().map(str::to_owned).collect())
}

fn install(bed: &Bed) -> Result<()> {
    let last = bed.host(NODES[2])?;
    if last.sh("test -e /usr/sbin/rolegate").is_err() {
        let (before, settings) = (files(&last)?, "/etc/rolegate/rolegate.toml");
        last.sh(&format!("cp -p {settings} /tmp"))?;
        last.install(PACKAGE)?;
        // The second gate's ports are not the usual ones.
        let Master { redis, ro, rw, .. } = CACHE;
        let second = format!("rolegate-port --redis-port {redis} --ro-port {ro} --rw-port {rw} baseline");
        last.sh(&format!(
            "systemctl enable --now rolegate-metrics.timer rolegate-backup.timer && rolegate-port baseline && \
             rolegate-port open ro --for 20s && {second}"
        ))?;
        last.sh("ls /etc/rolegate/rolegate.toml /usr/share/man/man8/rolegate-history.8.gz")?;
        wait_for("the keeper's files", LONG, || {
            last.sh("test -e /run/rolegate/keeper.sock && test -d /var/lib/rolegate")
        })?;
        ensure!(files(&last)?.len() > before.len() + 40, "nothing was installed");
        // A Sentinel that names a hook which is gone does not start: whoever forgets that is told. The one that runs does not read it.
        let line = "sentinel client-reconfig-script mymaster /usr/lib/rolegate/rolegate-hook";
        last.sh(&format!("echo '{line}' >> /etc/redis/sentinel.conf"))?;
        let said = last.sh_within(LONG, "DEBIAN_FRONTEND=noninteractive apt-get -q -y purge rolegate 2>&1")?.text();
        ensure!(said.contains("out of /etc/redis/sentinel.conf"), "{said}");
        last.sh("sed -i '/^sentinel client-reconfig-script .*rolegate-hook/d' /etc/redis/sentinel.conf")?;
        let after = files(&last)?;
        let (left, gone): (Vec<_>, Vec<_>) = (after.difference(&before).collect(), before.difference(&after).collect());
        // The settings are the package's since it was installed; the passwords are not.
        ensure!(left.is_empty() && gone == [settings], "purge has left {left:?} and taken {gone:?}");
        last.sh(&format!("cp -p /tmp/rolegate.toml {settings}"))?;
        ensure!(last.sh("pidof rolegate-keeper").is_err(), "the keeper runs on");
        let timers = "systemctl is-active rolegate-metrics.timer rolegate-backup.timer";
        ensure!(last.sh(timers).is_err(), "a timer runs on");
    }
    for node in bed.nodes() {
        let fresh = node.sh("test -e /usr/sbin/rolegate").is_err();
        let said = node.install(PACKAGE)?;
        // Sentinel runs with what its unit said before.
        ensure!(!fresh || said.contains("systemctl restart redis-sentinel"), "{}: {said:?}", node.name());
        for (property, wanted) in [("ActiveState", "active"), ("UnitFileState", "enabled"), ("NeedDaemonReload", "no")]
        {
            let value = node.ask("systemctl", &["show", "-P", property, "rolegate-keeper"])?;
            ensure!(value == wanted, "{}: {property} of rolegate-keeper is {value}", node.name());
        }
        for unit in ["redis-sentinel", "pacemaker"] {
            let dropin = node.ask("systemctl", &["show", "-P", "DropInPaths", unit])?;
            ensure!(dropin.contains(&format!("{unit}.service.d/rolegate.conf")), "{}: {dropin:?}", node.name());
        }
        // At a halt Pacemaker stops first, and so hands over while Redis and Sentinel still run.
        let after = node.ask("systemctl", &["show", "-P", "After", "pacemaker"])?;
        let before = ["redis-server.service", "redis-sentinel.service", "rolegate-keeper.service"];
        ensure!(before.iter().all(|unit| after.contains(unit)), "{}: Pacemaker is after {after}", node.name());
    }
    prepared(bed)
}

/// Names the package from which is upgraded, on a bed of this trial's own. Without it the older release is this one under another number.
const OLDER: &str = "ROLEGATE_TEST_OLDER_DEB";

fn upgrade(bed: &Bed) -> Result<()> {
    if let Some(older) = std::env::var_os(OLDER) {
        for node in bed.nodes() {
            ensure!(node.sh("test -e /usr/sbin/rolegate").is_err(), "{OLDER}: this trial alone, please");
            fs::copy(&older, node.root().join(PACKAGE.trim_start_matches('/')))
                .with_context(|| format!("{older:?}"))?;
        }
    }
    prepared(bed)?;
    let newer =
        package(&beside_this_program()?, Some("0.1.0-1+trial"), &std::env::temp_dir().join(&bed.options().name))?;
    let primary = bed.primary()?;
    let [first, last] = {
        let others: Vec<Host> = bed.nodes().filter(|node| node.name() != primary.name()).collect();
        <[Host; 2]>::try_from(others).map_err(|_| anyhow!("three nodes"))?
    };
    upgraded(bed, &newer, &[&first, &primary])?;
    // From a newer node to the older one, and the port opens there.
    let moved = || {
        let said = rolegate(&primary, &["switchover", "--master", MYMASTER.name, "--to", last.name()])?;
        ensure!(said.code == 0 && said.text.contains(&format!("{} takes writes", last.name())), "{said:?}");
        Ok(())
    };
    let report = with_writers(bed, moved, || Ok(()))?;
    nothing_stale(&report)?;
    ensure!(report.lost == 0, "{report:?}");
    well(bed, &MYMASTER)?;
    upgraded(bed, &newer, &[&last])?;
    fs::remove_dir_all(newer.parent().context("a directory of its own")?)?;
    // As long as Pacemaker needs the agents they stay, and all goes on.
    let refused = last.sh("! dpkg --remove rolegate 2>&1")?.text();
    ensure!(refused.contains("pcs cluster stop"), "{refused}");
    thread::sleep(Duration::from_secs(3));
    bed.options().masters().iter().try_for_each(|master| well(bed, master))
}

/// Installs `newer` on these nodes, one after the other. A writer at the primary's own port notices nothing, and the leases that there are there are
/// taken over.
fn upgraded(bed: &Bed, newer: &Path, nodes: &[&Host]) -> Result<()> {
    let (primary, bystander) = (bed.primary()?, bed.primary_of(&CACHE)?);
    let target = SocketAddr::new(primary.address().parse()?, MYMASTER.rw);
    let writer = Writer::to("stays", CLIENTS[0], target);
    let since = SystemTime::now();
    let load = Load::start(bed, &[writer], Bounds { rate: 100, time: Duration::from_secs(90) })?;
    for node in nodes {
        let there = "opt/rolegate/newer.deb";
        fs::copy(newer, node.root().join(there))?;
        let keeper = node.ask("pidof", &["rolegate-keeper"])?;
        let said = node.install(&format!("/{there}"))?;
        ensure!(!said.contains("systemctl restart"), "Sentinel runs as it should: {said:?}");
        let version = node.ask("dpkg-query", &["-W", "-f", "${Version}", "rolegate"])?;
        ensure!(version == "0.1.0-1+trial", "{}: {version}", node.name());
        let now = node.ask("pidof", &["rolegate-keeper"])?;
        ensure!(now != keeper, "{}: the keeper that was there goes on with the old program", node.name());
        thread::sleep(Duration::from_secs(3));
    }
    let redis = SocketAddr::new(target.ip(), MYMASTER.redis);
    undisturbed(&load.stop()?.verify(bed, CLIENTS[0], redis)?)?;
    for (node, master) in [(&primary, &MYMASTER), (&bystander, &CACHE)] {
        let log = keeper_log(node, since)?;
        let port = format!("{}: {}", master.name, master.rw);
        let taken_over = log.contains(&format!("{port} stays open for writing"));
        ensure!(taken_over == nodes.iter().any(|upgraded| upgraded.name() == node.name()), "{}: {log}", node.name());
        ensure!(!log.contains(&format!("{port} is closed")), "the lease was lost: {log}");
    }
    Ok(())
}

/// What `ACL LOG`, with these words behind it, answers on each node.
fn acl_log(bed: &Bed, port: u16, more: &[&str]) -> Result<String> {
    let command = [&["ACL", "LOG"], more].concat();
    bed.nodes().map(|node| Ok(format!("{} {port}: {}\n", node.name(), node.redis(port, &command)?))).collect()
}

fn least_rights(bed: &Bed) -> Result<()> {
    prepared(bed)?;
    apart(bed)?;
    let ports = [MYMASTER.redis, CACHE.redis, 26379];
    for port in ports {
        acl_log(bed, port, &["RESET"])?;
    }
    let since = SystemTime::now();
    let node = bed.host(NODES[0])?;
    for master in bed.options().masters() {
        let said = rolegate(&node, &["init", "--master", master.name])?;
        ensure!(said.code == 0 && said.text.contains("Nothing to do"), "{said:?}");
    }
    let bystander = bed.primary_of(&CACHE)?;
    let cache = |port| Ok::<_, anyhow::Error>(SocketAddr::new(bystander.address().parse()?, port));
    let writer = Writer::to(CACHE.name, CLIENTS[0], cache(CACHE.rw)?);
    let load = Load::start(bed, &[writer], Bounds { rate: 100, time: Duration::from_secs(240) })?;
    // A primary that restarts: the keeper asks a Sentinel for the failover.
    let old = bed.primary()?;
    let killed = || {
        let pid = old.ask("systemctl", &["show", "-P", "MainPID", MYMASTER.unit])?;
        old.ask("kill", &["-KILL", &pid])?;
        wait_for("another node's port to open", LONG, || {
            let open = open_on(bed, MYMASTER.rw)?;
            ensure!(open.iter().any(|node| *node != old.name()), "open on {open:?}");
            Ok(())
        })
    };
    let report = with_writers(bed, killed, || Ok(()))?;
    nothing_stale(&report)?;
    for writer in report.writers.iter().filter(|writer| writer.name.starts_with("proxied")) {
        ensure!(writer.servers.len() >= 2, "{} did not go on: {:?}", writer.name, writer.last_error);
    }
    let log = keeper_log(&old, since)?;
    ensure!(log.contains("asked Sentinel"), "{}'s keeper asked for no failover: {log}", old.name());
    well(bed, &MYMASTER)?;
    ensure!(bed.primary_of(&CACHE)?.name() == bystander.name(), "the other master name moved, too");
    undisturbed(&load.stop()?.verify(bed, CLIENTS[0], cache(CACHE.redis)?)?)?;
    let log = keeper_log(&bystander, since)?;
    ensure!(!log.contains(&format!("{}: {} is closed", CACHE.name, CACHE.rw)), "its lease was given up: {log}");
    for port in ports {
        let refused = acl_log(bed, port, &[])?;
        ensure!(!refused.contains("rolegate"), "README's rights lack something: {refused}");
    }
    // What nobody may read: in logs, in the cluster's configuration, in any program's arguments.
    for node in bed.nodes() {
        for file in ["redis", "sentinel"] {
            let script = format!(
                "cd /etc/rolegate; for text in 'journalctl --no-pager' 'cat /var/log/redis/* /var/log/pacemaker/*' \
                 'cibadmin -Q' 'cat /proc/[0-9]*/cmdline'; do \
                 if $text 2>/dev/null | grep -aFf {file}.password; then echo \"$text\"; fi; done"
            );
            let found = node.sh_within(LONG, &script)?.text();
            ensure!(found.is_empty(), "{}: rolegate's password is in {found}", node.name());
        }
    }
    Ok(())
}

fn hook_reads(bed: &Bed) -> Result<()> {
    prepared(bed)?;
    let primary = bed.primary()?;
    let other = bed.nodes().find(|node| node.name() != primary.name()).context("three nodes")?;
    let (p, o) = (primary.address(), other.address());
    for node in bed.nodes() {
        node.sh("systemctl stop rolegate-keeper")?;
    }
    let tried = || -> Result<()> {
        other
            .ask("crm_attribute", &["-l", "forever", "-N", other.name(), "-n", MYMASTER.attribute, "-v", "primary"])?;
        let code = hook(&primary, &[MYMASTER.name, "leader", "start", &o, "6379", &p, "6379"])?;
        ensure!(code == 0 && role(&other)? == "replica", "exit code {code}, {} is {}", other.name(), role(&other)?);
        // Not readable for Sentinel's user: it says so.
        primary.sh("chgrp root /etc/rolegate/*.password")?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let code = hook(&primary, &[MYMASTER.name, "leader", "start", &o, "6379", &p, "6379"]);
        primary.sh("chgrp redis /etc/rolegate/*.password")?;
        let since = format!("@{since}");
        let log = primary.journal(&["--output=cat", "-t", "rolegate-hook", "--since", &since])?;
        ensure!(code? == 2 && log.contains("cannot read /etc/rolegate/redis.password"), "{log}");
        Ok(())
    };
    let tried = tried();
    for node in bed.nodes() {
        node.sh("systemctl start rolegate-keeper")?;
    }
    tried?;
    well(bed, &MYMASTER)
}

/// Waits until `rolegate status` of the node `on` ends with `code` and says each of `status`, and the monitor there gives `reason`.
fn says(on: &Host<'_>, code: i32, status: &[&str], reason: &str) -> Result<()> {
    wait_for(&format!("a monitor's reason with {reason:?}"), LONG, || {
        let said = rolegate(on, &["status", "--master", MYMASTER.name])?;
        ensure!(said.code == code, "{said:?}");
        for part in status {
            ensure!(said.text.contains(part), "no {part:?}: {}", said.text);
        }
        let shown = on.ask("crm_mon", &["-1", "-rf"])?;
        let failed = |line: &&str| line.contains("RedisGate 5s-interval monitor") && line.contains(on.name());
        ensure!(shown.lines().filter(failed).any(|line| line.contains(reason)), "no {reason:?}: {shown}");
        for text in [said.text, shown, keeper_log(on, UNIX_EPOCH)?] {
            ensure!(!text.contains(WRONG), "the password is shown: {text}");
        }
        Ok(())
    })
}

/// A password that fits nowhere.
const WRONG: &str = "not-the-one-91d2";

fn wrong_password(bed: &Bed) -> Result<()> {
    prepared(bed)?;
    let node = bed.primary()?;
    let restart = "systemctl restart rolegate-keeper";
    let with_wrong = |file: &str, then: &dyn Fn() -> Result<()>| -> Result<()> {
        // Of monitors that give the same result Pacemaker keeps the first one's reason.
        node.ask("crm_resource", &["--cleanup", "-r", MYMASTER.gate])?;
        node.sh_within(LONG, "crm_resource --wait --timeout=50s")?;
        node.sh(&format!("cd /etc/rolegate; cp -p {file}.password kept; echo {WRONG} > {file}.password; {restart}"))?;
        let tried = then();
        node.sh(&format!("cd /etc/rolegate; mv kept {file}.password; {restart}"))?;
        tried?;
        well(bed, &MYMASTER)
    };
    with_wrong("sentinel", &|| {
        let denied = format!("Sentinel {}:26379: access denied: WRONGPASS", node.address());
        let hint = "under [sentinel] in /etc/rolegate/rolegate.toml";
        says(&node, 3, &[&denied, hint], "Sentinel 10.77.0.1:26379: access denied: WRONGPASS")?;
        let said = rolegate(&node, &["init", "--master", MYMASTER.name])?;
        ensure!(said.code == 3 && said.text.contains("WRONGPASS") && said.text.contains(hint), "{said:?}");
        Ok(())
    })?;
    with_wrong("redis", &|| {
        // What is open stays so: could not tell is not no. So it is closed by hand.
        node.ask("rolegate-port", &["close", "rw"])?;
        let denied = "its Redis gives no answer: access denied: WRONGPASS";
        let hint = "under [redis] in /etc/rolegate/rolegate.toml";
        says(&node, 2, &[denied, hint], "Redis on this node: access denied: WRONGPASS")
    })?;
    // Without a user it is the default user's password.
    node.sh("cd /etc/rolegate; cp -p rolegate.toml kept; sed -i '/^user/d' rolegate.toml")?;
    let unknown = rolegate(&node, &["status", "--master", MYMASTER.name]);
    node.sh(&format!("cd /etc/rolegate; for f in *.password; do cp -p $f $f.kept; echo {PASSWORD} >$f; done"))?;
    let known = rolegate(&node, &["status", "--master", MYMASTER.name]);
    node.sh("cd /etc/rolegate; mv kept rolegate.toml; for f in *.password; do mv $f.kept $f; done")?;
    let codes = (unknown?.code, known?.code);
    ensure!(codes == (3, 0), "status with the default user's wrong password and with the right one: {codes:?}");
    // A right that is missing is said, too: without events a failover is noticed late.
    let since = SystemTime::now();
    node.redis(26379, &["ACL", "SETUSER", "rolegate", "-psubscribe"])?;
    node.sh(restart)?;
    let tried = wait_for("the keeper to say what it may not", LONG, || {
        let log = keeper_log(&node, since)?;
        ensure!(
            log.contains(&format!("Sentinel {}:26379 sends no events: access denied: NOPERM", node.address())),
            "{log}"
        );
        Ok(())
    });
    node.redis(26379, &["ACL", "SETUSER", "rolegate", "+psubscribe"])?;
    node.sh(restart)?;
    tried?;
    well(bed, &MYMASTER)
}

/// Primaries of the two master names on two nodes.
fn apart(bed: &Bed) -> Result<()> {
    for _ in 0..3 {
        let (one, other) = (bed.primary_of(&MYMASTER)?, bed.primary_of(&CACHE)?);
        if one.name() != other.name() {
            return Ok(());
        }
        fail_over(bed, &CACHE)?;
    }
    anyhow::bail!("Sentinels put both primaries on one node again and again")
}

/// A failover by hand; waits until all is well again.
fn fail_over(bed: &Bed, master: &Master) -> Result<()> {
    let old = bed.primary_of(master)?;
    old.redis(26379, &["SENTINEL", "FAILOVER", master.name])?;
    wait_for("another node's port to open", LONG, || {
        let open = open_on(bed, master.rw)?;
        ensure!(!open.is_empty() && !open.contains(&old.name()), "open on {open:?}");
        Ok(())
    })?;
    wait_for("the old primary to follow", LONG, || bed.check())?;
    well(bed, master)
}

/// That one writer kept its connection all the time.
pub(super) fn undisturbed(report: &Report) -> Result<()> {
    let writer = report.writers.first().context("its report")?;
    ensure!(writer.errors == 0 && writer.acknowledged > 100 && report.lost == 0, "it was disturbed: {report:?}");
    Ok(())
}

fn fence(bed: &Bed) -> Result<()> {
    prepared(bed)?;
    let fenced = bed.primary_of(&CACHE)?;
    let on = bed.nodes().find(|node| node.name() != fenced.name()).context("three nodes")?;
    let said = rolegate(&on, &["fence", fenced.name()])?;
    let mut open = Vec::new();
    for port in [MYMASTER.ro, MYMASTER.rw, CACHE.ro, CACHE.rw] {
        if open_on(bed, port)?.contains(&fenced.name()) {
            open.push(port);
        }
    }
    ensure!(open.is_empty(), "{open:?} are open on the fenced {}: {said:?}", fenced.name());
    // Where it was the primary its keeper has handed over.
    for master in bed.options().masters() {
        let open = open_on(bed, master.rw)?;
        let part = format!("{}: {} takes writes", master.name, open.join(" and "));
        ensure!(said.code == 0 && open.len() == 1 && said.text.contains(&part), "no {part:?}: {said:?}");
    }
    let lifted = rolegate(&on, &["unfence", fenced.name()])?;
    ensure!(lifted.code == 0, "{lifted:?}");
    well(bed, &MYMASTER)?;
    well(bed, &CACHE)
}
