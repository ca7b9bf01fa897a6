//! The switch: a bridge in the jail's own network namespace with one port for each host, and a
//! second bridge to which ports are moved by a partition. Faults of the network are made here and
//! never in a host, where `flush ruleset` would end them.

use std::fs::File;
use std::path::PathBuf;
use std::thread;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

use super::{Bed, Host, hosts, number};

/// Packets that the switch drops, in one direction.
#[derive(Debug, Clone, Default)]
pub struct Drop {
    /// From this host; all if None.
    pub from: Option<String>,
    /// To this host; all if None.
    pub to: Option<String>,
    /// Only to this TCP port.
    pub dport: Option<u16>,
    /// Only from this TCP port.
    pub sport: Option<u16>,
    /// Only that many of a hundred packets, at random; all if None.
    pub percent: Option<u8>,
}

fn port(host: &str) -> String {
    format!("p-{host}")
}

impl Bed {
    /// Both bridges, and each host's network.
    pub(super) fn make_switch(&self) -> Result<()> {
        let mut batch = String::from("link set lo up\n");
        for bridge in ["br0", "br1"] {
            batch += &format!("link add {bridge} type bridge stp_state 0 mcast_snooping 0\nlink set {bridge} up\n");
        }
        self.ip(&batch)?;
        hosts().try_for_each(|host| self.plug(host))
    }

    /// A network namespace for `host`, and a cable from it to the switch.
    pub(super) fn plug(&self, host: &str) -> Result<()> {
        let n = number(host).context("no such host")?;
        let port = port(host);
        // The same hardware address after each boot, as a real card has.
        self.ip(&format!(
            "netns add {host}\n\
             link add {port} type veth peer name eth0 netns {host} address 02:00:0a:4d:00:{n:02x}\n\
             link set {port} master br0 up\n"
        ))?;
        self.jail()
            .cmd("ip")
            .args(["-n", host, "-batch", "-"])
            .stdin(format!(
                "link set lo up\n\
                 addr add 10.77.0.{n}/24 dev eth0\n\
                 addr add fd77::{n}/64 dev eth0 nodad\n\
                 link set eth0 up\n"
            ))
            .run()?;
        // As systemd sets it on a machine, but not in a container: how many log messages wait for a journald that does not read.
        let queue = ["netns", "exec", host, "sysctl", "-q", "-w", "net.unix.max_dgram_qlen=512"];
        self.jail().cmd("ip").args(queue).run()?;
        Ok(())
    }

    /// Pulls the cable at the switch's end: from here on nothing leaves or reaches `host`.
    pub(super) fn pull(&self, host: &str) -> Result<()> {
        self.ip(&format!("link set {} down\n", port(host)))
    }

    /// Removes the cable and the network namespace of a host that is off.
    pub(super) fn unplug(&self, host: &str) -> Result<()> {
        self.ip(&format!("link del {}\nnetns del {host}\n", port(host)))
    }

    fn ip(&self, batch: &str) -> Result<()> {
        self.jail().cmd("ip").args(["-batch", "-"]).stdin(batch).run().context("the switch")?;
        Ok(())
    }

    /// Cuts `apart` off from all other hosts, in both directions; they reach each other. Ends an earlier partition.
    pub fn isolate(&self, apart: &[&str]) -> Result<()> {
        for host in apart {
            self.host(host)?;
        }
        let mut batch = String::new();
        for host in hosts() {
            let bridge = if apart.contains(&host) { "br1" } else { "br0" };
            if self.host(host)?.is_on()? {
                batch += &format!("link set {} master {bridge}\n", port(host));
            }
        }
        self.ip(&batch)
    }

    /// Adds packets that the switch drops, to those that it drops already.
    pub fn drop_packets(&self, rule: &Drop) -> Result<()> {
        let mut matches = String::new();
        if let Some(host) = &rule.from {
            matches += &format!("iifname {} ", port(self.host(host)?.name()));
        }
        if let Some(host) = &rule.to {
            matches += &format!("oifname {} ", port(self.host(host)?.name()));
        }
        if let Some(dport) = rule.dport {
            matches += &format!("tcp dport {dport} ");
        }
        if let Some(sport) = rule.sport {
            matches += &format!("tcp sport {sport} ");
        }
        match rule.percent {
            Some(percent) if percent > 100 => bail!("{percent} of 100 packets cannot be dropped"),
            Some(percent) => matches += &format!("numgen random mod 100 < {percent} "),
            None => {}
        }
        let script = format!(
            "add table bridge faults\n\
             add chain bridge faults forward {{ type filter hook forward priority 0; }}\n\
             add rule bridge faults forward {matches}counter drop\n"
        );
        self.jail().cmd("nft").args(["-f", "-"]).stdin(script).run()?;
        Ok(())
    }

    /// Ends every partition and every [`Drop`].
    pub fn heal(&self) -> Result<()> {
        self.isolate(&[])?;
        self.jail().cmd("nft").args(["flush", "ruleset"]).run()?;
        Ok(())
    }

    /// Runs `work` in the network of `host`: its sockets are that host's. Not its files.
    pub fn in_net<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
        let net = self.host(host)?.net()?;
        thread::scope(|scope| {
            // A thread of its own: the namespace is the thread's, and ends with it.
            let inside = scope.spawn(move || setns(net, CloneFlags::CLONE_NEWNET).map(|()| work()));
            match inside.join() {
                Ok(done) => done.with_context(|| format!("entering the network of {host}")),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl Host<'_> {
    /// Its network namespace, for [`setns`]. It lives as long as the file is open.
    pub fn net(&self) -> Result<File> {
        let path = PathBuf::from(format!("/proc/{}/ns/net", self.leader()?));
        File::open(&path).with_context(|| format!("{} is off", self.name()))
    }
}
