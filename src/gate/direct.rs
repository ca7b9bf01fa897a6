//! Who may reach Redis' own port past the gate.
//!
//! Without it anybody who reaches 6379 can write on a stale primary as before, whatever the gate does. `direct` in the settings shuts that
//! port to all but this host, the nodes and Sentinels of the record, and the addresses that it lists. What came through the gate is let in:
//! behind the redirect it has the same port.
//!
//! One table of its own, `inet rolegate-direct`, which nft replaces in one transaction. It has no part in leases: nothing here opens
//! a gate, and where it fails, Redis' port is as reachable as without it. nftables only; it works beside a gate on iptables.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;
use std::time::Instant;

use ipnet::IpNet;

use super::nft::{self, seen};
use super::{GateError, pause};
use crate::command::Cmd;

/// The table's name, in family inet.
pub const TABLE: &str = "rolegate-direct";

const COMMENT: &str =
    "rolegate: who may reach Redis past its gates (direct in the settings). Changes by hand are undone.";

/// How often what others delete or collide with is tried again.
const ATTEMPTS: usize = 5;

/// The port that a chain of that table is about.
pub fn port_of(chain: &str) -> Option<u16> {
    chain.strip_prefix(CHAIN)?.parse().ok()
}

/// What the name of a port's chain begins with.
const CHAIN: &str = "port-";

/// Who may reach which Redis port directly; empty: nothing is shut.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Direct(BTreeMap<u16, BTreeSet<IpNet>>);

impl Direct {
    /// Shuts `port` to all but this host, `members` and those who are in `listed`.
    pub fn shut(&mut self, port: u16, members: impl IntoIterator<Item = IpAddr>, listed: &[IpNet]) {
        let members = members.into_iter().map(|address| IpNet::from(address.to_canonical()));
        self.0.entry(port).or_default().extend(members.chain(listed.iter().map(IpNet::trunc)));
    }

    /// Whether nothing is shut.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ports that are shut.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.0.keys().copied()
    }

    /// nft's text for it: one transaction, whatever was there.
    fn text(&self) -> String {
        let mut text = format!("add table inet {TABLE}\ndelete table inet {TABLE}\n");
        if self.is_empty() {
            return text;
        }
        // Writing to a String cannot fail.
        let mut line = |arguments: std::fmt::Arguments| _ = writeln!(text, "{arguments}");
        line(format_args!("add table inet {TABLE} {{ comment \"{COMMENT}\"; }}"));
        for (port, nets) in &self.0 {
            line(format_args!("add chain inet {TABLE} {CHAIN}{port}"));
            // One inside another is an error to nft.
            let all = IpNet::aggregate(&nets.iter().copied().collect());
            for (family, nets) in [("ip", in_family(&all, IpAddr::is_ipv4)), ("ip6", in_family(&all, IpAddr::is_ipv6))]
            {
                if !nets.is_empty() {
                    let nets = nets.join(", ");
                    line(format_args!("add rule inet {TABLE} {CHAIN}{port} {family} saddr {{ {nets} }} return"));
                }
            }
            // Of a connection that is there, too.
            line(format_args!("add rule inet {TABLE} {CHAIN}{port} meta l4proto tcp reject with tcp reset"));
        }
        // Before the host's own filter, which may drop and not refuse.
        line(format_args!(
            "add chain inet {TABLE} input {{ type filter hook input priority filter - 10; policy accept; }}"
        ));
        for rule in ["iif lo return", "ct status dnat return"] {
            line(format_args!("add rule inet {TABLE} input {rule}"));
        }
        let jumps: Vec<String> = self.ports().map(|port| format!("{port} : jump {CHAIN}{port}")).collect();
        line(format_args!("add rule inet {TABLE} input tcp dport vmap {{ {} }}", jumps.join(", ")));
        text
    }
}

fn in_family(nets: &[IpNet], is: fn(&IpAddr) -> bool) -> Vec<String> {
    nets.iter().filter(|net| is(&net.addr())).map(IpNet::to_string).collect()
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// It was as it should be.
    Nothing,
    /// It was made as asked for the first time, or as it is asked for now.
    Made,
    /// Somebody had changed what was made.
    Mended,
    /// It was taken away.
    Removed,
}

/// Keeps the firewall as asked.
#[derive(Debug, Default)]
pub struct Keeper {
    /// What was asked for last, and what the kernel showed of it then.
    made: Option<(Direct, seen::Rules)>,
}

impl Keeper {
    /// Looks, and makes what is not as asked.
    ///
    /// # Errors
    /// [`GateError::NoFirewall`] without nft, [`GateError::Foreign`] where a table of that name is not ours, and as those of a gate.
    pub fn keep(&mut self, want: &Direct, until: Instant) -> Result<Done, GateError> {
        let found = read(until)?;
        match (&found, &self.made) {
            (None, _) if want.is_empty() => return Ok(Done::Nothing),
            (Some(found), Some((asked, shown))) if asked == want && found == shown => return Ok(Done::Nothing),
            _ => {}
        }
        if let Some(found) = &found {
            found.must_be_ours()?;
        }
        let before = self.made.take();
        change(want, until)?;
        if want.is_empty() {
            return Ok(Done::Removed);
        }
        let shown = read(until)?.ok_or_else(|| GateError::Mismatch(format!("table inet {TABLE} is gone again")))?;
        shown.must_be_ours()?;
        let same = before.is_some_and(|(asked, _)| asked == *want);
        self.made = Some((want.clone(), shown));
        Ok(if same { Done::Mended } else { Done::Made })
    }
}

impl seen::Rules {
    fn must_be_ours(&self) -> Result<(), GateError> {
        match self.comment.as_deref() {
            Some(comment) if comment.starts_with(nft::plan::OWNER) => Ok(()),
            comment => Err(GateError::Foreign(format!(
                "table inet {TABLE} is not rolegate's: its comment is {:?}; rename or delete that table",
                comment.unwrap_or_default()
            ))),
        }
    }
}

/// Takes all of it away, where it is ours.
///
/// # Errors
/// As [`Keeper::keep`].
pub fn remove(until: Instant) -> Result<(), GateError> {
    Keeper::default().keep(&Direct::default(), until).map(drop)
}

/// Whether there is any of it. Reads only.
///
/// # Errors
/// Without CAP_NET_ADMIN, at the deadline, and the kernel's.
pub fn is_there(until: Instant) -> Result<bool, GateError> {
    Ok(read(until)?.is_some_and(|found| found.must_be_ours().is_ok()))
}

fn read(until: Instant) -> Result<Option<seen::Rules>, GateError> {
    seen::rules(TABLE, until).map_err(|error| GateError::of_kernel(&format!("reading table inet {TABLE}"), error))
}

fn change(want: &Direct, until: Instant) -> Result<(), GateError> {
    if !nft::installed() {
        return Err(GateError::NoFirewall("direct in the settings needs nft: apt install nftables".to_owned()));
    }
    let text = want.text();
    let mut attempt = 1;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let nft = Cmd::new("nft").in_our_group().args(["-f", "-"]).stdin(text.as_str()).deadline(left);
        match nft.run() {
            Ok(_) => return Ok(()),
            Err(error) if attempt == ATTEMPTS || Instant::now() >= until => return Err(GateError::of_command(error)),
            Err(error) => tracing::debug!("attempt {attempt}: {error}"),
        }
        attempt += 1;
        std::thread::sleep(pause());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_lets_in_its_own_members_and_who_is_listed() {
        let mut direct = Direct::default();
        assert_eq!(direct.text(), "add table inet rolegate-direct\ndelete table inet rolegate-direct\n");
        let listed: Vec<IpNet> =
            ["192.0.2.7/24", "192.0.2.9/32", "2001:db8::/32"].map(|net| net.parse().unwrap()).into();
        let members: Vec<IpAddr> = ["10.0.0.1", "::ffff:10.0.0.2", "192.0.2.1"].map(|ip| ip.parse().unwrap()).into();
        direct.shut(6379, members.clone(), &listed);
        direct.shut(7379, members, &[]);
        let text = direct.text();
        for rule in [
            "port-6379 ip saddr { 10.0.0.1/32, 10.0.0.2/32, 192.0.2.0/24 } return",
            "port-6379 ip6 saddr { 2001:db8::/32 } return",
            "port-7379 ip saddr { 10.0.0.1/32, 10.0.0.2/32, 192.0.2.1/32 } return",
            "input tcp dport vmap { 6379 : jump port-6379, 7379 : jump port-7379 }",
        ] {
            assert!(text.contains(&format!("add rule inet rolegate-direct {rule}\n")), "no {rule} in\n{text}");
        }
    }
}
