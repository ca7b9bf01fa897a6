//! The keeper as a process, and what it puts right by itself.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};

use super::firewalls::flush_iptables;
use super::moves::{closings, journal, none_stale, settled, with_gate, with_writers};
use super::switchover::watched;
use crate::OnBed;
use crate::bed::gates::{open_gates, role};
use crate::bed::{Bed, CLIENTS, Host, NODES, address, wait_every, wait_for};

pub const TRIALS: &[(&str, OnBed)] = &[
    ("it_stays_in_memory_and_runs_as_corosync_does", as_corosync),
    ("a_flushed_firewall_is_made_anew_at_once", flushed),
    ("direct_shuts_redis_to_strangers_and_to_nobody_else", direct),
    ("roles_follow_where_no_hook_runs_and_the_new_primary_s_sentinel_is_dead", without_hooks),
    ("a_promotion_that_another_sentinel_takes_back_is_repeated", taken_back),
    ("a_majority_that_names_another_node_closes_at_once", named_another),
];

const LONG: Duration = Duration::from_secs(60);

/// How a process of `unit` is scheduled, and what it weighs when memory runs out; and how much of its memory is locked, in KiB.
fn run_of(node: &Host, unit: &str) -> Result<(String, u64)> {
    let script = format!(
        "pid=$(systemctl show -P MainPID {unit})
         chrt -p $pid | sed \"s/pid $pid's//; s/|SCHED_RESET_ON_FORK//\"
         cat /proc/$pid/oom_score_adj
         grep VmLck /proc/$pid/status"
    );
    let said = node.sh(&script)?.text();
    let (run, locked) = said.split_once("VmLck:").with_context(|| said.clone())?;
    let locked = locked.split_whitespace().next().and_then(|kib| kib.parse().ok()).with_context(|| said.clone())?;
    Ok((run.to_owned(), locked))
}

fn as_corosync(bed: &Bed) -> Result<()> {
    for node in bed.nodes() {
        let ((ours, locked), (theirs, _)) = (run_of(&node, "rolegate-keeper")?, run_of(&node, "corosync")?);
        bed.say(&format!(
            "{}: {} {locked} KiB are locked",
            node.name(),
            ours.split_whitespace().collect::<Vec<_>>().join(" ")
        ));
        ensure!(ours == theirs, "{}: the keeper is {ours}, corosync {theirs}", node.name());
        ensure!(ours.contains("SCHED_RR"), "{}: {ours}", node.name());
        // Some machines let nobody have less than 0, not even corosync.
        let wanted = node.ask("systemctl", &["show", "-P", "OOMScoreAdjust", "rolegate-keeper"])?;
        ensure!(wanted == "-1000", "{}: OOMScoreAdjust is {wanted}", node.name());
        // All that it uses, and more: what it has not touched yet, too.
        let resident = node.sh("grep VmRSS /proc/$(systemctl show -P MainPID rolegate-keeper)/status")?.text();
        let resident: u64 = resident.split_whitespace().nth(1).unwrap_or_default().parse()?;
        ensure!(locked >= resident && resident > 0, "{}: of {resident} KiB {locked} are locked", node.name());
    }
    Ok(())
}

/// Three times in a row: from before the flush until the ports that the node had open before answer again, in milliseconds.
pub(super) fn made_anew(bed: &Bed, node: &Host, flush: &str, ports: &[u16]) -> Result<Vec<u128>> {
    let mut times = Vec::new();
    let mut refused = 0;
    for _ in 0..3 {
        let begun = Instant::now();
        node.sh(flush)?;
        wait_every(Duration::from_millis(10), "the flushed rules to be made anew", LONG, || {
            for port in ports {
                let target = SocketAddr::new(address(node.name()).parse()?, *port);
                let answers =
                    bed.in_net(CLIENTS[0], || TcpStream::connect_timeout(&target, Duration::from_secs(1)).is_ok())?;
                refused += usize::from(!answers);
                ensure!(answers, "{port} is closed");
            }
            Ok(())
        })?;
        times.push(begun.elapsed().as_millis());
    }
    // One of them may have been made anew before it was looked at.
    ensure!(refused > 0, "{flush} on {} closes nothing", node.name());
    bed.say(&format!("{}: made anew {times:?} ms behind: {flush}", node.name()));
    Ok(times)
}

/// Within how many milliseconds a flushed firewall is made anew: that is promised. Other programs on this machine slow each time down, and none makes
/// one quicker, so the quickest of them says what it takes.
const MADE_ANEW_MS: u128 = 1000;
/// The same as a rule: the median, on a machine that has more to do than a cluster's.
const AS_A_RULE_MS: u128 = 2000;

fn flushed(bed: &Bed) -> Result<()> {
    let primary = with_gate(bed)?;
    let replica = bed.nodes().find(|node| node.name() != primary.name()).context("three nodes")?;
    // That of nft takes out what iptables-nft has made, too.
    let mut flushes = vec!["nft flush ruleset".to_owned()];
    if bed.options().iptables {
        flushes.push(flush_iptables("nft"));
    }
    for flush in flushes {
        let mut all = Vec::new();
        for (node, ports) in [(&replica, &[6380][..]), (&primary, &[6380, 6381])] {
            let times = made_anew(bed, node, &flush, ports)?;
            let quickest = times.iter().min().copied().unwrap_or(u128::MAX);
            ensure!(quickest < MADE_ANEW_MS, "{}: made anew after {times:?} ms: {flush}", node.name());
            all.extend(times);
        }
        all.sort_unstable();
        let median = all[all.len() / 2];
        ensure!(
            median < AS_A_RULE_MS,
            "made anew after {median} ms (median of {all:?}), {AS_A_RULE_MS} at most: {flush}"
        );
    }
    ensure!(settled(bed)?.name() == primary.name(), "the primary has moved");
    Ok(())
}

/// Waits until a client reaches each node's own Redis port, or is refused there.
fn reached(bed: &Bed, reached: bool) -> Result<()> {
    wait_for(&format!("Redis' own port to be {}", if reached { "reached" } else { "shut" }), LONG, || {
        for node in bed.nodes() {
            let target = SocketAddr::new(address(node.name()).parse()?, 6379);
            let result = bed.in_net(CLIENTS[0], || TcpStream::connect_timeout(&target, Duration::from_secs(1)))?;
            let refused = result.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
            ensure!(if reached { result.is_ok() } else { refused }, "{target}: {result:?}");
        }
        Ok(())
    })
}

fn direct(bed: &Bed) -> Result<()> {
    let primary = with_gate(bed)?;
    let file = "/etc/rolegate/rolegate.toml";
    let doctor = |finds: &str| -> Result<()> {
        let said = super::cli::rolegate(&primary, &["doctor", "--all", "--only", "direct"])?.text;
        ensure!(said.contains(finds), "{finds:?}: {said}");
        Ok(())
    };
    let restart = |script: &str| -> Result<()> {
        bed.nodes().try_for_each(|node| node.sh(&format!("{script}; systemctl restart rolegate-keeper")).map(drop))
    };
    reached(bed, true)?;
    let tried = (|| {
        // In the file that the package brings, which has the section.
        restart(&format!(
            "cp {file} /root/kept; sed -i 's/^#direct = .*/direct = []/' {file}; grep -q '^direct = ' {file}"
        ))?;
        reached(bed, false)?;
        // Replicas, Sentinels, keepers and clients of the gate need no more than that.
        let open = settled(bed)?;
        ensure!(open.name() == primary.name(), "the primary has moved");
        // A Sentinel that takes a replica for a primary yet, behind a failover just before, would turn the promoted one back.
        bed.replicas_known()?;
        primary.redis(26379, &["SENTINEL", "FAILOVER", "mymaster"])?;
        wait_for("another node to be primary", LONG, || {
            let open = open_gates(bed)?;
            ensure!(open.len() == 1 && open != [primary.name()], "open on {open:?}");
            Ok(())
        })?;
        settled(bed)?;
        doctor("only nodes, Sentinels")?;
        for node in bed.nodes() {
            node.sh("nft flush ruleset")?;
        }
        reached(bed, false)
    })();
    restart(&format!("mv -f /root/kept {file}"))?;
    tried?;
    reached(bed, true)?;
    doctor("past the gate")?;
    settled(bed).map(drop)
}

const HOOK: &str = "/usr/lib/rolegate/rolegate-hook";

/// Has Sentinels call something that does nothing, until [`hooks_back`].
fn hooks_away(bed: &Bed) -> Result<()> {
    bed.nodes().try_for_each(|node| node.sh(&format!("mv {HOOK} {HOOK}.kept; cp /bin/false {HOOK}")).map(drop))
}

fn hooks_back(bed: &Bed) -> Result<()> {
    bed.nodes().try_for_each(|node| node.sh(&format!("mv -f {HOOK}.kept {HOOK}")).map(drop))
}

fn without_hooks(bed: &Bed) -> Result<()> {
    let old = with_gate(bed)?;
    let [new, other] = {
        let mut others = bed.nodes().filter(|node| node.name() != old.name());
        [others.next().context("three nodes")?, others.next().context("three nodes")?]
    };
    let sentinel = bed.server().sentinel();
    hooks_away(bed)?;
    let tried = (|| {
        // Only one node can be chosen, and nothing on it hears of the failover.
        other.redis(6379, &["CONFIG", "SET", "replica-priority", "200"])?;
        new.sh(&format!("systemctl stop {sentinel}"))?;
        wait_for("the Sentinels to know whom to choose", LONG, || {
            for node in [old, other] {
                let said = node.redis(26379, &["SENTINEL", "REPLICAS", "mymaster"])?;
                ensure!(said.contains("slave-priority\n200"), "{}: {said}", node.name());
            }
            Ok(())
        })?;
        old.redis(26379, &["SENTINEL", "FAILOVER", "mymaster"])?;
        wait_for("the keepers to write the roles, and the new primary to open", LONG, || {
            let roles = [role(&new)?, role(&old)?];
            ensure!(roles == ["primary", "replica"], "{roles:?}");
            let open = open_gates(bed)?;
            ensure!(open == [new.name()], "open on {open:?}");
            Ok(())
        })
    })();
    hooks_back(bed)?;
    new.sh(&format!("systemctl start {sentinel}"))?;
    other.redis(6379, &["CONFIG", "SET", "replica-priority", "100"])?;
    // The failover has made the other value permanent.
    other.redis(6379, &["CONFIG", "REWRITE"])?;
    tried?;
    ensure!(settled(bed)?.name() == new.name(), "the primary has moved again");
    Ok(())
}

/// How often Sentinel reads a replica's role, and what is left of that when the second failover is asked for: the leader sees its promotion
/// a second after it is asked for, and has it carried out in a quarter of that.
const READ_EVERY: Duration = Duration::from_secs(10);
const LEFT: Duration = Duration::from_millis(550);

/// Two failovers of which the second turns the first one back, so soon that one Sentinel knows the old primary as a primary yet.
fn taken_back(bed: &Bed) -> Result<()> {
    // When a Sentinel reads a role is its own affair: it is hit as a rule.
    for _ in 0..4 {
        if is_taken_back(bed)? {
            return Ok(());
        }
    }
    bail!("no Sentinel has taken a promotion back")
}

/// How often each node's Sentinel has made that server a replica.
fn turned(bed: &Bed, address: &str) -> Result<Vec<usize>> {
    let log = bed.server().sentinel_log();
    let count = format!("grep -c '+convert-to-slave slave {address}:6379 ' {log} || :");
    bed.nodes().map(|node| Ok(node.sh(&count)?.text().trim().parse()?)).collect()
}

fn is_taken_back(bed: &Bed) -> Result<bool> {
    let old = with_gate(bed)?;
    bed.replicas_known()?;
    let [new, other] = {
        let mut others = bed.nodes().filter(|node| node.name() != old.name());
        [others.next().context("three nodes")?, others.next().context("three nodes")?]
    };
    let repeated = || -> Result<usize> { Ok(journal(&old, &["-t", "rolegate-keeper", "REASON=taken back"])?.len()) };
    let repeated_before = repeated()?;
    let tried = (|| {
        other.redis(6379, &["CONFIG", "SET", "replica-priority", "200"])?;
        wait_for("the Sentinels to know whom to choose", LONG, || {
            for node in bed.nodes() {
                let said = node.redis(26379, &["SENTINEL", "REPLICAS", "mymaster"])?;
                ensure!(said.contains("slave-priority\n200"), "{}: {said}", node.name());
            }
            Ok(())
        })?;
        let before = turned(bed, &old.address())?;
        old.redis(26379, &["SENTINEL", "FAILOVER", "mymaster"])?;
        let mut by = None;
        wait_every(Duration::from_millis(20), "the old primary to be made a replica", LONG, || {
            let now = turned(bed, &old.address())?;
            by = now.iter().zip(&before).position(|(now, before)| now > before);
            by.context("no Sentinel has").map(drop)
        })?;
        let at = Instant::now();
        let by = by.context("no Sentinel")?;
        wait_for("the new primary to be open", LONG, || {
            let open = open_gates(bed)?;
            ensure!(open == [new.name()], "open on {open:?}");
            Ok(())
        })?;
        let before = turned(bed, &old.address())?;
        std::thread::sleep((READ_EVERY - LEFT).saturating_sub(at.elapsed()));
        let asked = bed.nodes().enumerate().find(|(n, _)| *n != by).context("another node")?.1;
        asked.redis(26379, &["SENTINEL", "FAILOVER", "mymaster"])?;
        let asked_at = Instant::now();
        wait_for("the old primary to be primary again", LONG, || {
            let open = open_gates(bed)?;
            ensure!(open == [old.name()], "open on {open:?}");
            Ok(())
        })?;
        let took = asked_at.elapsed();
        let again = turned(bed, &old.address())?;
        let repeated = repeated()? - repeated_before;
        bed.say(&format!(
            "open {} ms after the second failover was asked for; made a replica {before:?} times before it, {again:?} after it; {repeated} promotions repeated",
            took.as_millis()
        ));
        // Where nothing is repeated, the Sentinel that leads it waits for a minute.
        ensure!(repeated == 0 || took < Duration::from_secs(15), "it took {took:?}");
        // Who made it a replica has written that into its file, and would have it one again when it has restarted.
        let line = old.sh(&format!("grep ^replicaof {} || :", bed.server().config()))?.text();
        ensure!(line.is_empty(), "the primary's file has {line}");
        Ok(repeated > 0)
    })();
    other.redis(6379, &["CONFIG", "SET", "replica-priority", "100"])?;
    other.redis(6379, &["CONFIG", "REWRITE"])?;
    let is_it = tried?;
    settled(bed)?;
    Ok(is_it)
}

/// Within what time of a majority naming another node the old one closes: two rounds and an answer, on a machine that has more to do than a
/// cluster's. A lease that is not renewed ends some 1.6 s behind it.
const CLOSES_WITHIN: Duration = Duration::from_millis(1300);

/// Neither Sentinels' events nor Pacemaker close it here, and no hook has the keeper ask: as a rule they are sooner.
fn named_another(bed: &Bed) -> Result<()> {
    let old = with_gate(bed)?;
    bed.replicas_known()?;
    let since = SystemTime::now();
    let listening = || -> Result<usize> {
        let count = |node: Host| Ok(node.redis(26379, &["CLIENT", "LIST", "TYPE", "pubsub"])?.lines().count());
        bed.nodes().map(count).sum()
    };
    let maintenance = |on: &str| old.ask("crm_attribute", &["-n", "maintenance-mode", "-v", on]).map(drop);
    let failed_over = || {
        let begun = Instant::now();
        old.redis(26379, &["SENTINEL", "FAILOVER", "mymaster"])?;
        wait_every(Duration::from_millis(20), "the old primary's port to close", LONG, || {
            let open = open_gates(bed)?;
            ensure!(open.is_empty(), "open on {open:?}");
            Ok(())
        })?;
        maintenance("false")?;
        wait_for("another node's port to open", LONG, || {
            let open = open_gates(bed)?;
            ensure!(open.len() == 1 && open != [old.name()], "open on {open:?}");
            Ok(begun)
        })
    };
    hooks_away(bed)?;
    let tried = (|| {
        for node in bed.nodes() {
            // Only keepers listen there.
            node.redis(26379, &["ACL", "SETUSER", "default", "-psubscribe"])?;
            node.redis(26379, &["CLIENT", "KILL", "TYPE", "pubsub"])?;
        }
        maintenance("true")?;
        let mut begun = None;
        let (report, seen) = watched(bed, || {
            with_writers(
                bed,
                || {
                    begun = Some(failed_over()?);
                    Ok(())
                },
                || Ok(()),
            )
        })?;
        let heard = listening()?;
        ensure!(heard == 0, "{heard} connections hear the Sentinels' events");
        Ok((begun.context("a failover")?, report, seen))
    })();
    maintenance("false")?;
    hooks_back(bed)?;
    for node in bed.nodes() {
        node.redis(26379, &["ACL", "SETUSER", "default", "+@all"])?;
        // The failover had it write its users down, and so it would be deaf again when it is next restarted.
        node.redis(26379, &["SENTINEL", "FLUSHCONFIG"])?;
    }
    let (begun, report, seen) = tried?;
    // What is acknowledged between the promotion and its being named is lost, also where the other replica has confirmed it: that follows the
    // promoted one later, and throws it away.
    none_stale(&report)?;
    let new = settled(bed)?;
    let (named, at) = seen.successor(old.name(), begun).context("no majority named another node")?;
    ensure!(named == new.name(), "{named} was named, {} is the primary", new.name());
    let closed = seen.closed(old.name(), begun).context("the old primary's port was never seen to close")?;
    let why = closings(&old, since)?;
    // Not before it, but for the time between two looks.
    let took = closed.saturating_duration_since(at);
    bed.say(&format!(
        "a majority named {named} {} ms after the failover was asked for; {} closed {} ms later: {why:?}",
        (at - begun).as_millis(),
        old.name(),
        took.as_millis()
    ));
    ensure!(why == [format!("Sentinels name {named}")], "{} closed for another reason: {why:?}", old.name());
    ensure!(took < CLOSES_WITHIN, "{} closed {took:?} after a majority named {named}", old.name());
    wait_for("the keepers to hear the Sentinels again", LONG, || {
        let heard = listening()?;
        // Each keeper each Sentinel.
        ensure!(heard == NODES.len() * NODES.len(), "{heard} connections do");
        Ok(())
    })
}
