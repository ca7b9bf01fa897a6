//! The gate on each firewall that it can live on: one cluster whose nodes have three different ones.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::cli::forget;
use super::keeper::made_anew;
use super::moves::{nothing_stale, ports, role_behind, settled, with_writers};
use crate::OnBed;
use crate::bed::gates::{self, open_gates};
use crate::bed::{Bed, CLIENTS, Host, NODES, address6, wait_for};

pub const TRIALS: &[(&str, OnBed)] =
    &[("three_nodes_with_three_firewalls_fail_over_and_what_is_flushed_is_repaired", three)];

const LONG: Duration = Duration::from_secs(60);

/// Makes everything of the gate anew on each node, on the backend that the settings file is to name; without one, on that which is
/// chosen by default.
fn on_backends(bed: &Bed, backends: [Option<&str>; 3]) -> Result<()> {
    forget(&bed.host(NODES[0])?)?;
    for (node, backend) in bed.nodes().zip(backends) {
        node.sh("systemctl stop rolegate-keeper && rolegate-port remove")?;
        node.sh(&match backend {
            Some(backend) => {
                format!("mkdir -p /etc/rolegate; printf '[firewall]\\nbackend = \"{backend}\"\\n' > /etc/rolegate/rolegate.toml")
            }
            None => "rm -f /etc/rolegate/rolegate.toml".to_owned(),
        })?;
        node.sh("systemctl start rolegate-keeper")?;
    }
    Ok(())
}

/// Takes out every rule and chain of iptables' backend, whoever made it. Not each chain: a keeper may make its own anew in between, so that one is
/// in use, or gone when it is to be deleted.
pub(super) fn flush_iptables(backend: &str) -> String {
    let rules = |family: &str| {
        format!("for t in raw filter nat; do {family}-{backend} -t $t -F; {family}-{backend} -t $t -X || :; done; ")
    };
    rules("iptables") + &rules("ip6tables")
}

fn three(bed: &Bed) -> Result<()> {
    // The failovers go from iptables-nft to iptables-legacy to nft.
    let first = bed.primary()?;
    let mut others = bed.nodes().filter(|node| node.name() != first.name());
    let (second, third) = (others.next().context("three nodes")?, others.next().context("three nodes")?);
    let chain = [(first, "iptables-nft"), (second, "iptables-legacy"), (third, "nft")];
    let backends = NODES.map(|name| chain.iter().find(|(node, _)| node.name() == name).map(|(_, backend)| *backend));
    on_backends(bed, backends)?;
    let tried = on_three(bed, &chain);
    for node in bed.nodes() {
        node.redis(6379, &["CONFIG", "SET", "replica-priority", "100"])?;
    }
    on_backends(bed, [None; 3])?;
    tried
}

fn on_three(bed: &Bed, chain: &[(Host, &str); 3]) -> Result<()> {
    gates::configure(bed)?;
    let [(first, _), (second, _), (third, _)] = chain;
    for (node, backend) in chain {
        let state: serde_json::Value = serde_json::from_str(&node.ask("rolegate-port", &["state", "--json"])?)?;
        ensure!(state["backend"] == *backend && state["baseline"] == "intact", "{}: {state}", node.name());
    }
    ports(bed)?;
    ensure!(settled(bed)?.name() == first.name(), "the primary moved by itself");
    keepers_run_no_program(chain)?;
    let report = with_writers(bed, || failover(bed, first, second, third), || Ok(()))?;
    nothing_stale(&report)?;
    for writer in report.writers.iter().filter(|writer| writer.name.starts_with("proxied")) {
        ensure!(writer.servers.len() >= 2, "{} did not go on: {:?}", writer.name, writer.last_error);
    }
    ports(bed)?;

    // What a reload of the host's own rules does.
    let client = bed.host(CLIENTS[0])?;
    made_anew(bed, first, &flush_iptables("nft"), &[6380])?;
    made_anew(bed, second, &flush_iptables("legacy"), &[6380, 6381])?;
    for place in [second.address(), address6(second.name())] {
        wait_for("the flushed rules to be made anew", LONG, || {
            for port in [6380, 6381] {
                let behind = role_behind(&client, &place, port)?;
                ensure!(behind.as_deref() == Some("master"), "{port} at {place}: {behind:?}");
            }
            Ok(())
        })?;
    }
    let said = second.ask("crm_mon", &["-1", "-f"])?;
    ensure!(!said.contains("RedisGate_monitor"), "a monitor has failed: {said}");
    ports(bed)?;

    failover(bed, second, third, first)?;
    settled(bed)?;
    ports(bed)
}

/// While nothing changes a keeper runs no program; but on iptables-legacy, of whose rules nothing else tells.
fn keepers_run_no_program(chain: &[(Host, &str); 3]) -> Result<()> {
    // cminflt of proc_pid_stat(5), behind the name, which may hold spaces: what its children have needed until they ended.
    let needed = "set -- $(sed 's/.*) //' /proc/$(systemctl show -P MainPID rolegate-keeper)/stat); echo $9";
    for (node, backend) in chain {
        wait_for("a keeper to have nothing to do", LONG, || {
            let before = node.sh(needed)?.text();
            thread::sleep(Duration::from_secs(5));
            let ran = node.sh(needed)?.text() != before;
            ensure!(ran == (*backend == "iptables-legacy"), "{} on {backend} ran programs: {ran}", node.name());
            Ok(())
        })?;
    }
    Ok(())
}

/// A failover by hand that can go to one node only, until that one takes writes.
fn failover(bed: &Bed, from: &Host, to: &Host, never: &Host) -> Result<()> {
    for (node, priority) in [(to, "100"), (never, "0")] {
        node.redis(6379, &["CONFIG", "SET", "replica-priority", priority])?;
    }
    let known = |host: &Host| -> Result<bool> {
        let told = host.redis(26379, &["SENTINEL", "REPLICAS", "mymaster"])?;
        // Each replica's fields in lines, name and value by turns.
        let mut lines = told.lines();
        let mut priorities = Vec::new();
        let mut at = String::new();
        while let (Some(name), Some(value)) = (lines.next(), lines.next()) {
            match name {
                "ip" => value.clone_into(&mut at),
                "slave-priority" => priorities.push((at.clone(), value.to_owned())),
                _ => {}
            }
        }
        let right = |node: &Host, wanted: &str| priorities.contains(&(node.address(), wanted.to_owned()));
        Ok(right(to, "100") && right(never, "0"))
    };
    wait_for("Sentinels to know which replica may be chosen", LONG, || {
        for node in bed.nodes() {
            ensure!(known(&node)?, "{} does not", node.name());
        }
        Ok(())
    })?;
    wait_for("a Sentinel to begin the failover", LONG, || {
        let said = from.redis(26379, &["SENTINEL", "FAILOVER", "mymaster"])?;
        ensure!(said == "OK", "{said}");
        Ok(())
    })?;
    wait_for("the other node's port to open", LONG, || {
        let open = open_gates(bed)?;
        ensure!(open == [to.name()], "open on {open:?}");
        Ok(())
    })
}
