//! Waiting until cluster, replication and Sentinels are well, and collecting logs.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::variant::{MYMASTER, Master};
use super::{Bed, CLIENTS, Host, NODES, wait_for};

impl Bed {
    /// Waits until all three nodes are well: quorate with a controller, replicating, and watched by
    /// three Sentinels that know each other; and both clients' HAProxy runs.
    ///
    /// # Errors
    /// At the deadline, with what was lacking.
    pub fn wait_ready(&self, deadline: Duration) -> Result<()> {
        for host in self.hosts() {
            host.wait_booted(deadline)?;
        }
        self.say("all hosts have booted; waiting for the cluster");
        for master in self.options().masters() {
            wait_for("replication", deadline, || self.check_replication(master))?;
            wait_for("Sentinels", deadline, || self.check_sentinels(master))?;
        }
        self.say("Redis and Sentinels are well");
        wait_for("a quorate cluster", deadline, || self.check_cluster())
    }

    /// Ends every fault, boots what is off, and waits until all is well again. What a trial changed in the cluster's or
    /// Redis' configuration it puts back itself.
    pub fn mend(&self) -> Result<()> {
        let unwell = self.check().is_err();
        self.heal()?;
        for host in self.hosts() {
            if host.is_on()? {
                host.thaw()?;
            } else {
                host.boot()?;
            }
        }
        if unwell {
            for node in self.nodes() {
                // What was killed too often for systemd to start it again by itself.
                let others = self.options().masters().iter().skip(1).map(|master| master.unit);
                let units: Vec<&str> = self.node_units().into_iter().chain(others).collect();
                node.sh(&format!("systemctl reset-failed; systemctl start {}", units.join(" ")))?;
            }
            self.wait_ready(Duration::from_secs(150)).context("the bed does not recover")?;
        }
        Ok(())
    }

    /// Whether all is well now.
    pub fn check(&self) -> Result<()> {
        self.check_cluster()?;
        for master in self.options().masters() {
            self.check_replication(master)?;
            self.check_sentinels(master)?;
        }
        Ok(())
    }

    /// Waits until every Sentinel has been told by the replicas that they are. One that still takes a replica for the primary that it was makes
    /// it a replica again in the middle of its promotion (+convert-to-slave): they ask each 10 s.
    pub fn replicas_known(&self) -> Result<()> {
        wait_for("the Sentinels to know who is a replica", Duration::from_secs(60), || {
            for node in self.nodes() {
                let said = node.redis(26379, &["SENTINEL", "REPLICAS", "mymaster"])?;
                let roles = said.split("role-reported\n").skip(1).filter_map(|rest| rest.lines().next());
                let slaves = roles.clone().filter(|role| *role == "slave").count();
                ensure!(slaves == 2 && roles.count() == 2, "{}: {said}", node.name());
            }
            Ok(())
        })
    }

    fn check_cluster(&self) -> Result<()> {
        for node in self.nodes() {
            let seen = node.ask("crm_mon", &["-1", "--include=none,dc,nodes"])?;
            ensure!(seen.contains("partition with quorum"), "{} has no quorum: {seen}", node.name());
            let online = seen.lines().find(|line| line.contains("Online:")).unwrap_or_default();
            ensure!(NODES.iter().all(|name| online.contains(name)), "{} sees {seen}", node.name());
        }
        Ok(())
    }

    fn check_replication(&self, master: &Master) -> Result<()> {
        let primary = self.primary_of(master)?;
        for node in self.nodes() {
            let info = node.redis(master.redis, &["INFO", "replication"])?;
            if node.name() == primary.name() {
                let online = info.lines().filter(|line| line.starts_with("slave") && line.contains("state=online"));
                ensure!(online.count() == NODES.len() - 1, "{} does not feed both replicas: {info}", node.name());
            } else {
                ensure!(info.contains(&format!("master_host:{}", primary.address())), "{}: {info}", node.name());
                ensure!(info.contains("master_link_status:up"), "{} is not linked to its primary", node.name());
            }
        }
        Ok(())
    }

    fn check_sentinels(&self, master: &Master) -> Result<()> {
        let primary = self.primary_of(master)?;
        for node in self.nodes() {
            let known = node.redis(26379, &["SENTINEL", "MASTER", master.name])?;
            let known: Vec<&str> = known.lines().collect();
            let value = |key: &str| known.chunks(2).find(|pair| pair[0] == key).map_or("", |pair| pair[1]);
            for (key, right) in [
                ("ip", primary.address().as_str()),
                ("flags", "master"),
                ("num-other-sentinels", "2"),
                ("num-slaves", "2"),
            ] {
                ensure!(value(key) == right, "{}'s Sentinel: {key} is {}, not {right}", node.name(), value(key));
            }
        }
        Ok(())
    }

    /// The node whose Redis is master, if exactly one is.
    ///
    /// # Errors
    /// When none or several are, or a Redis does not answer.
    pub fn primary(&self) -> Result<Host<'_>> {
        self.primary_of(&MYMASTER)
    }

    /// The same of another master name.
    ///
    /// # Errors
    /// As [`Bed::primary`].
    pub fn primary_of(&self, master: &Master) -> Result<Host<'_>> {
        let mut masters = Vec::new();
        for node in self.nodes() {
            if node.redis(master.redis, &["INFO", "replication"])?.contains("role:master") {
                masters.push(node);
            }
        }
        match masters[..] {
            [one] => Ok(one),
            _ => bail!("{} of the Redis servers are master", masters.len()),
        }
    }

    /// Writes into `dir` what helps to understand what happened: journals, logs, configuration and state of each host,
    /// of hosts that are off as far as their disks tell.
    pub fn collect_logs(&self, dir: &Path) -> Result<()> {
        let (cli, server) = (self.server().cli(), self.server());
        let state = [
            ("crm_mon", "crm_mon -1rfnA".to_owned()),
            ("cib.xml", "cibadmin -Q".to_owned()),
            ("quorum", "corosync-quorumtool -s; corosync-cfgtool -s".to_owned()),
            ("nft", "nft list ruleset".to_owned()),
            ("iptables", "iptables-save; ip6tables-save".to_owned()),
            ("redis-info", format!("{cli} INFO; {cli} CLIENT LIST")),
            ("sentinel-info", format!("{cli} -p 26379 SENTINEL MASTERS; {cli} -p 26379 SENTINEL SENTINELS mymaster")),
            ("redis.conf", format!("grep -v '^#' {} | grep .", server.config())),
            ("sentinel.conf", format!("cat {}", server.sentinel_config())),
            ("network", "ip addr; ss -tanp".to_owned()),
            ("processes", "ps -efwwH".to_owned()),
            ("units", "systemctl --failed; systemctl list-units".to_owned()),
            ("history", "rolegate history --last 10; cat /var/lib/rolegate/*history*".to_owned()),
        ];
        for host in self.hosts() {
            let there = dir.join(host.name());
            fs::create_dir_all(&there)?;
            let root = self.dir.join(host.name()).join("root");
            let journal = self
                .jail()
                .cmd("journalctl")
                .args(["--no-pager", "--output=short-precise", "--directory"])
                .arg(root.join("var/log/journal"))
                .deadline(Duration::from_secs(60))
                .run()
                .with_context(|| format!("the journal of {}", host.name()))?;
            fs::write(there.join("journal"), journal.stdout)?;
            for log in [server.user(), "pacemaker", "corosync"] {
                for file in fs::read_dir(host.root().join("var/log").join(log)).into_iter().flatten().flatten() {
                    if file.file_type()?.is_file() {
                        fs::copy(file.path(), there.join(file.file_name()))?;
                    }
                }
            }
            let _no_console = fs::copy(self.dir.join(host.name()).join("console.log"), there.join("console"));
            if !host.is_on()? {
                continue;
            }
            for (name, script) in &state {
                if CLIENTS.contains(&host.name()) && !matches!(*name, "network" | "processes" | "units") {
                    continue;
                }
                // A host in trouble is why we are here: what its commands do not tell is not an error.
                let said = match host.cmd("sh")?.args(["-c", &format!("{script} 2>&1; true")]).run() {
                    Ok(output) => output.text(),
                    Err(error) => error.to_string(),
                };
                fs::write(there.join(name), said)?;
            }
        }
        Ok(())
    }
}

impl Host<'_> {
    /// What Redis (6379), Sentinel (26379) or a gate of this node answers to a command.
    ///
    /// # Errors
    /// When it does not answer, or answers with an error.
    pub fn redis(&self, port: u16, command: &[&str]) -> Result<String> {
        let cli = self.bed().server().cli();
        let mut client = self.cmd(cli)?.args(["-e", "-p", &port.to_string()]);
        if let Some(password) = self.bed().options().password() {
            client = client.args(["--no-auth-warning", "-a", password]);
        }
        let output = client.args(command.iter().copied()).run();
        Ok(output.with_context(|| format!("{cli} on {}", self.name()))?.text().replace('\r', "").trim_end().to_owned())
    }
}
