//! The gate on the bed: made as the README says, and looked at from outside.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rolegate::gate::{BackendChoice, Gate, Ports};

use super::variant::{MYMASTER, Master};
use super::{Bed, CLIENTS, Host, NODES, address, project, wait_for};

/// Makes the gate as the README says: one resource, and `rolegate init`. Waits until the
/// primary's read-write port is open.
pub fn configure(bed: &Bed) -> Result<()> {
    create(bed, &MYMASTER)?;
    let node = bed.host(NODES[0])?;
    node.cmd("rolegate")?.args(["init"]).deadline(Duration::from_secs(60)).run().context("rolegate init")?;
    opened(bed, &MYMASTER)
}

/// Makes the classic layout instead, as its script says.
pub fn configure_classic(bed: &Bed) -> Result<()> {
    let node = bed.host(NODES[0])?;
    let script = fs::read_to_string(project().join("ocf/pcs/block.sh"))?;
    let file = "/root/classic.xml";
    node.cmd("pcs")?.args(["cluster", "cib", file]).deadline(Duration::from_secs(30)).run()?;
    let made = node.cmd("sh")?.args(["-s", "--", "-f", file]).stdin(script).deadline(Duration::from_secs(120)).run();
    made.context("ocf/pcs/block.sh")?;
    node.cmd("pcs")?.args(["cluster", "cib-push", file]).deadline(Duration::from_secs(60)).run()?;
    node.cmd("rolegate")?.args(["init"]).deadline(Duration::from_secs(60)).run().context("rolegate init")?;
    opened(bed, &MYMASTER)
}

/// Makes the resource of a master name.
pub fn create(bed: &Bed, master: &Master) -> Result<()> {
    let Master { name, redis, ro, rw, attribute, gate, .. } = *master;
    let own = match *master == MYMASTER {
        true => String::new(),
        false => format!("master={name} attribute={attribute} ro_port={ro} rw_port={rw} redis_port={redis}"),
    };
    let script = format!(
        "pcs property set stonith-enabled=false
         pcs resource create {gate} ocf:rolegate:gate {own} promotable promoted-max=1"
    );
    bed.host(NODES[0])?.sh_within(Duration::from_secs(60), &script).map(drop)
}

/// Waits until exactly the primary's read-write port of a master name is open.
pub fn opened(bed: &Bed, master: &Master) -> Result<()> {
    wait_for("the read-write port of the primary to open", Duration::from_secs(60), || {
        let (primary, open) = (bed.primary_of(master)?, open_on(bed, master.rw)?);
        ensure!(open == [primary.name()], "{}: open on {open:?}, primary {}", master.name, primary.name());
        Ok(())
    })
}

/// The nodes whose read-write port answers the first client.
pub fn open_gates(bed: &Bed) -> Result<Vec<&'static str>> {
    open_on(bed, 6381)
}

/// The nodes whose `port` answers the first client.
pub fn open_on(bed: &Bed, port: u16) -> Result<Vec<&'static str>> {
    let mut open = Vec::new();
    for node in NODES {
        let address = SocketAddr::new(address(node).parse()?, port);
        let answers =
            bed.in_net(CLIENTS[0], || TcpStream::connect_timeout(&address, Duration::from_millis(300)).is_ok())?;
        if answers {
            open.push(node);
        }
    }
    Ok(open)
}

/// Whether cluster, Redis, Sentinels and the gate are well now: 6381 is open in the primary's firewall and in no
/// other, it answers the first client, each node's role is right, and `rolegate status` finds nothing worse than
/// `worst` (its exit code).
///
/// # Errors
/// What is not well.
pub fn check(bed: &Bed, worst: i32) -> Result<()> {
    bed.check()?;
    let primary = bed.primary()?;
    for node in bed.nodes() {
        let is_primary = node.name() == primary.name();
        let open = in_firewall(bed, &node)?;
        ensure!(open == is_primary, "6381 is {} in {}'s firewall", if open { "open" } else { "closed" }, node.name());
        let role = role(&node)?;
        ensure!(role == if is_primary { "primary" } else { "replica" }, "{} is {role}", node.name());
    }
    ensure!(open_gates(bed)? == [primary.name()], "6381 answers on {:?}", open_gates(bed)?);
    let status = primary.cmd("rolegate")?.arg("status").run_expecting(&[0, 1, 2, 3])?;
    ensure!(status.code <= worst, "rolegate status: {}", status.text());
    Ok(())
}

/// Whether the firewall of `node` has 6381 open.
fn in_firewall(bed: &Bed, node: &Host) -> Result<bool> {
    let gate = Gate::new(Ports::default(), BackendChoice::Auto, Duration::from_secs(5))?;
    Ok(bed.in_net(node.name(), || gate.state())??.rw.is_open())
}

/// The role that the cluster has for `node`.
///
/// # Errors
/// When there is none.
pub fn role(node: &Host) -> Result<String> {
    node.ask("crm_attribute", &["-l", "forever", "-N", node.name(), "-n", "redis_role", "-G", "-q"])
}
