//! The shipped Pacemaker configuration on a live cluster: each form gives a working gate,
//! ocf-tester passes, Sentinel's hook works under the ACL and Debian's hardening, and a gate that
//! gave up comes back.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use rolegate::exit::OcfCode;
use rolegate::pacemaker::CrmMon;
use rolegate::pacemaker::crm_mon::{self, ResourceRole};

use super::moves::as_sentinel;
use crate::OnBed;
use crate::bed::gates::{self, open_gates};
use crate::bed::load::{Bounds, Load, Writer};
use crate::bed::{Bed, CLIENTS, Host, NODES, project, wait_for};
use crate::facts::facts;

pub const TRIALS: &[(&str, OnBed)] = &[
    ("the_pcs_form_gives_a_working_cluster_whose_address_writers_follow", |bed| {
        works(bed, "sh pcs/gate.sh; sh pcs/vip.sh; sh pcs/acl.sh", follows)
    }),
    ("the_crmsh_form_gives_a_working_cluster", |bed| {
        let load = |part: &str| format!("crm -F configure load update crmsh/{part}.crm");
        works(bed, &["gate", "vip", "acl"].map(load).join("; "), |_| Ok(()))
    }),
    ("the_xml_form_gives_a_working_cluster", |bed| {
        works(bed, &format!("{XML}; cibadmin -M --allow-create -x xml/vip.xml"), |_| Ok(()))
    }),
    ("the_tools_of_the_release_make_one_cluster_of_the_three_forms", one_cluster),
    ("the_classic_layout_looks_and_works_as_that_of_ansible_redis_ha", classic),
    ("ocf_tester_passes", ocf_tester),
    ("the_hook_follows_a_failover_from_the_hardened_unit_under_the_acl", hook),
    ("the_hook_of_a_new_primary_clears_an_old_one_that_is_cut_off", hook_clears),
    ("promote_made_to_fail_five_times_the_gate_comes_back_by_itself", comes_back),
];

const XML: &str = "cibadmin -M --allow-create -x xml/gate.xml; cibadmin -M --allow-create -x xml/acl.xml";
const AGENT: &str = "/usr/lib/ocf/resource.d/rolegate/gate";
const BLOCK: &str = "/usr/lib/ocf/resource.d/rolegate/block";

/// The address that follows the primary.
const ADDRESS: &str = "10.77.0.50";

/// Stops the gate or the blocks, if there are any, and takes resources, constraints and node attributes away. Not by
/// `crm_resource --wait`: Pacemaker 3 takes a monitor for pending whose first answer was "degraded", and waits for ever.
const EMPTY: &str = "
    for resource in RedisVIP RedisGate-clone RedisLBReadBlock-clone RedisLBWriteBlock-clone; do
        crm_resource -r $resource -m -p target-role -v Stopped || continue
        while crm_resource -r $resource --locate | grep -q 'is running on'; do sleep 0.2; done
    done
    for part in constraints/* resources/* nodes/node/instance_attributes; do
        cibadmin --delete-all --force --xpath \"/cib/configuration/$part\"
    done";

/// Runs `trial` in a cluster without resources, and puts the cluster's configuration back.
fn emptied(bed: &Bed, trial: impl FnOnce(&Host<'_>) -> Result<()>) -> Result<()> {
    let node = bed.host(NODES[0])?;
    let before = node.ask("cibadmin", &["-Q", "-o", "configuration"])?;
    std::fs::write(node.root().join("root/before.xml"), &before)?;
    let minute = Duration::from_secs(90);
    node.sh_within(minute, EMPTY).context("emptying the cluster")?;
    let done = trial(&node);
    bed.mend()?;
    // Stopped first: a resource that is gone from the configuration has no parameters to stop with.
    node.sh_within(minute, &format!("{EMPTY}\ncibadmin --replace -o configuration -x /root/before.xml"))
        .context("putting the cluster's configuration back")?;
    if before.contains("redis_role") {
        // The primary may be another by now.
        set_roles(bed)?;
    }
    done
}

/// Applies the shipped configuration by `script` to an empty cluster, writes the record, and runs
/// `trial`.
fn configured(bed: &Bed, script: &str, trial: impl FnOnce() -> Result<()>) -> Result<()> {
    emptied(bed, |node| {
        apply(node, script)?;
        Record::read(bed)?.write(node)?;
        trial()
    })
}

/// Runs `script` on a node among the shipped configuration's files.
fn apply(node: &Host<'_>, script: &str) -> Result<()> {
    for form in ["pcs", "crmsh", "xml"] {
        let there = node.root().join("root/ocf").join(form);
        std::fs::create_dir_all(&there)?;
        for file in std::fs::read_dir(project().join("ocf").join(form))? {
            let file = file?;
            std::fs::copy(file.path(), there.join(file.file_name()))?;
        }
    }
    let own = format!("sed -i 's/192\\.0\\.2\\.10/{ADDRESS}/' */vip.*");
    node.sh_within(Duration::from_secs(60), &format!("cd /root/ocf; {own}; {script}")).map(drop)
}

/// What `rolegate init` finds and writes.
struct Record {
    sentinels: String,
    nodes: String,
}

impl Record {
    fn read(bed: &Bed) -> Result<Self> {
        let (mut sentinels, mut nodes) = (Vec::new(), Vec::new());
        for node in bed.nodes() {
            let id = node.redis(26379, &["SENTINEL", "MYID"])?;
            sentinels.push(format!("{id}@{}:26379", node.address()));
            nodes.push(format!("{}={}:6379", node.name(), node.address()));
        }
        Ok(Record { sentinels: sentinels.join(" "), nodes: nodes.join(" ") })
    }

    fn write(&self, node: &Host<'_>) -> Result<()> {
        for (name, value) in [("sentinels", &self.sentinels), ("nodes", &self.nodes)] {
            node.ask("crm_resource", &["-r", "RedisGate", "-p", name, "-v", value])?;
        }
        Ok(())
    }
}

fn set_role(on: &Host<'_>, node: &str, role: &str) -> Result<()> {
    on.ask("crm_attribute", &["-l", "forever", "-N", node, "-n", "redis_role", "-v", role]).map(drop)
}

/// Writes the roles as they are.
fn set_roles(bed: &Bed) -> Result<()> {
    let primary = bed.primary()?;
    for node in NODES {
        set_role(&primary, node, if node == primary.name() { "primary" } else { "replica" })?;
    }
    Ok(())
}

fn look(on: &Host<'_>) -> Result<CrmMon> {
    Ok(crm_mon::parse(&on.ask("crm_mon", &["-1", "--output-as=xml"])?)?)
}

/// The nodes where the gate runs in a role, sorted.
fn in_role(seen: &CrmMon, role: &ResourceRole) -> Vec<String> {
    let gates = seen.resources.iter().filter(|resource| resource.id == "RedisGate" && resource.role == *role);
    let mut nodes: Vec<String> = gates.flat_map(|gate| gate.nodes.clone()).collect();
    nodes.sort();
    nodes
}

/// Waits until the gate runs on all nodes, promoted on the primary's, whose port alone is open.
fn wait_working(bed: &Bed) -> Result<()> {
    wait_for("a gate that follows the primary", Duration::from_secs(60), || {
        let primary = bed.primary()?;
        let seen = look(&primary)?;
        let promoted = in_role(&seen, &ResourceRole::Promoted);
        let unpromoted = in_role(&seen, &ResourceRole::Unpromoted);
        ensure!(promoted == [primary.name()] && unpromoted.len() == 2, "promoted {promoted:?}, others {unpromoted:?}");
        // Before there was a record, a monitor may have said so.
        let degraded = [OcfCode::Degraded as i32, OcfCode::DegradedPromoted as i32];
        let failed: Vec<_> =
            seen.failures.iter().filter(|failed| failed.code.is_none_or(|code| !degraded.contains(&code))).collect();
        ensure!(failed.is_empty(), "failed: {failed:?}");
        ensure!(open_gates(bed)? == [primary.name()], "open on {:?}", open_gates(bed)?);
        Ok(())
    })
}

fn has_address(node: &Host<'_>) -> Result<bool> {
    Ok(node.ask("ip", &["-o", "-4", "addr"])?.contains(&format!(" {ADDRESS}/24 ")))
}

/// Waits until the address is on the primary's node and on no other.
fn wait_address(bed: &Bed) -> Result<()> {
    wait_for("the address to follow the primary", Duration::from_secs(60), || {
        let primary = bed.primary()?;
        for node in bed.nodes() {
            let has = has_address(&node)?;
            ensure!(has == (node.name() == primary.name()), "{} has the address: {has}", node.name());
        }
        Ok(())
    })
}

/// A client that knows nothing but the address writes on after a failover.
fn follows(bed: &Bed) -> Result<()> {
    let old = bed.primary()?;
    let writer = Writer::to("by-address", CLIENTS[0], SocketAddr::new(ADDRESS.parse()?, 6381));
    let load = Load::start(bed, &[writer], Bounds { rate: 100, time: Duration::from_secs(120) })?;
    std::thread::sleep(Duration::from_secs(1));
    old.redis(26379, &["SENTINEL", "FAILOVER", "mymaster"])?;
    let new = wait_for("another node to open, with the address", Duration::from_secs(90), || {
        let open = open_gates(bed)?;
        let [new] = open[..] else { anyhow::bail!("open on {open:?}") };
        ensure!(new != old.name(), "still open on {new}");
        for node in bed.nodes() {
            ensure!(has_address(&node)? == (node.name() == new), "the address is not on {new} alone");
        }
        bed.host(new)
    })?;
    std::thread::sleep(Duration::from_secs(2));
    let redis = SocketAddr::new(new.address().parse()?, 6379);
    let report = load.stop()?.verify(bed, CLIENTS[0], redis)?;
    let writer = report.writers.first().context("its report")?;
    ensure!(writer.servers == [old.name(), new.name()], "it did not go on: {report:?}");
    ensure!(report.stale == 0 && report.lost == 0, "{report:?}");
    Ok(())
}

fn works(bed: &Bed, script: &str, more: impl Fn(&Bed) -> Result<()>) -> Result<()> {
    configured(bed, script, || {
        let node = bed.host(NODES[0])?;
        // Without a role nobody may run for the rules, and the default for that is the cluster's.
        set_roles(bed)?;
        wait_working(bed)?;
        wait_address(bed)?;
        let said = node.cmd("crm_verify")?.args(["-L", "-V"]).run()?;
        ensure!(said.stderr.trim().is_empty(), "crm_verify says: {}", said.stderr);
        // The same roles under the ACL's eyes: Sentinel's user sees the record and nothing else.
        let seen = as_sentinel(&node)?.args(["cibadmin", "-Q", "-l"]).run()?.text();
        ensure!(seen.contains("sentinels") && seen.contains("redis_role"), "Sentinel's user sees too little: {seen}");
        ensure!(!seen.contains("crm_config") && !seen.contains("<acls"), "Sentinel's user sees too much: {seen}");
        ensure!(!seen.contains(ADDRESS), "Sentinel's user sees other resources: {seen}");
        more(bed)
    })
}

/// Each form applied to a file by the release's own pcs, crmsh and cibadmin; Pacemaker's schema and scheduler have
/// nothing to say.
fn one_cluster(bed: &Bed) -> Result<()> {
    let node = bed.host(NODES[0])?;
    apply(
        &node,
        "for form in pcs crmsh xml; do CIB_file=/root/$form.xml cibadmin --empty > /root/$form.xml; done
         for part in gate acl vip; do
             sh pcs/$part.sh -f /root/pcs.xml
             CIB_file=/root/crmsh.xml crm -F configure load update crmsh/$part.crm
             CIB_file=/root/xml.xml cibadmin --modify --allow-create --xml-file xml/$part.xml
         done
         for form in pcs crmsh xml; do
             CIB_file=/root/$form.xml crm_attribute -n stonith-enabled -v false
             said=$(crm_verify -V -x /root/$form.xml 2>&1) && [ -z \"$said\" ] || { echo \"$form: $said\" >&2; exit 1; }
         done",
    )?;
    let read = |form: &str| Ok(facts(&std::fs::read_to_string(node.root().join(format!("root/{form}.xml")))?));
    let forms: Result<Vec<_>> = ["pcs", "crmsh", "xml"].into_iter().map(read).collect();
    let [pcs, crmsh, xml] = &forms?[..] else { anyhow::bail!("three forms") };
    ensure!(xml.len() > 30, "too little was compared: {xml:#?}");
    ensure!(pcs == xml, "pcs and XML: {:#?}", Vec::from_iter(pcs.symmetric_difference(xml)));
    ensure!(crmsh == xml, "crmsh and XML: {:#?}", Vec::from_iter(crmsh.symmetric_difference(xml)));
    Ok(())
}

fn ocf_tester(bed: &Bed) -> Result<()> {
    emptied(bed, |node| {
        let record = Record::read(bed)?;
        // The keepers learn of a gate from the cluster; Pacemaker leaves this one to the tester.
        node.ask(
            "cibadmin",
            &[
                "--create",
                "-o",
                "resources",
                "--xml-text",
                &format!(
                    "<primitive id=\"tester\" class=\"ocf\" provider=\"rolegate\" type=\"gate\"><meta_attributes id=\"tester-m\">\
                     <nvpair id=\"tester-t\" name=\"target-role\" value=\"Stopped\"/></meta_attributes>\
                     <instance_attributes id=\"tester-i\"><nvpair id=\"tester-s\" name=\"sentinels\" value=\"{}\"/>\
                     <nvpair id=\"tester-n\" name=\"nodes\" value=\"{}\"/></instance_attributes></primitive>",
                    record.sentinels, record.nodes
                ),
            ],
        )?;
        // A probe of Pacemaker's that finds the tester's gate running would stop it.
        node.sh_within(Duration::from_secs(60), "crm_resource --wait --timeout=50s")?;
        // On the primary's node promote opens the port; on another it must not.
        for node in bed.nodes() {
            let options = [format!("sentinels={}", record.sentinels), format!("nodes={}", record.nodes)];
            let tester = node.cmd("ocf-tester")?.args(["-n", "tester", "-o", &options[0], "-o", &options[1], AGENT]);
            let said =
                tester.deadline(Duration::from_secs(120)).run().with_context(|| format!("on {}", node.name()))?;
            ensure!(said.text().contains("passed all tests"), "{}", said.text());
            ensure!(open_gates(bed)?.is_empty(), "open after the last stop: {:?}", open_gates(bed)?);
            for port in ["port=ro", "port=rw"] {
                let tester = node.cmd("ocf-tester")?.args(["-n", "tester-block", "-o", port, BLOCK]);
                let said = tester.deadline(Duration::from_secs(120)).run();
                let said = said.with_context(|| format!("{port} on {}", node.name()))?;
                ensure!(said.text().contains("passed all tests"), "{}", said.text());
            }
        }
        Ok(())
    })
}

/// What hooks logged on a node since then.
fn hook_log(on: &Host<'_>, since: SystemTime) -> Result<String> {
    let since = format!("@{}", since.duration_since(UNIX_EPOCH)?.as_secs());
    on.journal(&["--output=cat", "--identifier=rolegate-hook", "--since", &since])
}

fn hook(bed: &Bed) -> Result<()> {
    configured(bed, XML, || {
        // The unit is Debian's, hardened, with nothing but our drop-in.
        for node in bed.nodes() {
            let (name, user) = (bed.server().sentinel(), bed.server().user());
            let unit =
                node.ask("systemctl", &["show", name, "-p", "NoExecPaths", "-p", "DropInPaths", "-p", "User"])?;
            let dropin = format!("DropInPaths=/usr/lib/systemd/system/{name}.service.d/rolegate.conf");
            // /lib is /usr/lib.
            let unit = unit.replace("=/lib/", "=/usr/lib/");
            for line in ["NoExecPaths=/", &format!("User={user}"), &dropin] {
                ensure!(unit.lines().any(|found| found == line), "{}: no {line} in {unit}", node.name());
            }
        }
        let since = SystemTime::now();
        // No role was ever written: the hooks make the attributes.
        bed.replicas_known()?;
        let old = bed.primary()?;
        // Of priorities that were put back just before, Sentinel hears with its next INFO.
        wait_for("Sentinel to know that there is a replica to choose", Duration::from_secs(30), || {
            old.redis(26379, &["SENTINEL", "FAILOVER", "mymaster"])
        })?;
        wait_for("another primary", Duration::from_secs(30), || {
            ensure!(bed.primary()?.name() != old.name());
            Ok(())
        })?;
        wait_working(bed)?;
        for node in bed.nodes() {
            let log = hook_log(&node, since)?;
            ensure!(log.contains("the keeper follows"), "{}: {log}", node.name());
        }
        without_keepers(bed, || hook_writes(bed))?;
        wait_working(bed)
    })
}

/// Without keepers the hooks write by themselves.
fn without_keepers(bed: &Bed, trial: impl FnOnce() -> Result<()>) -> Result<()> {
    for node in bed.nodes() {
        node.sh("systemctl stop rolegate-keeper")?;
    }
    let tried = trial();
    for node in bed.nodes() {
        node.sh("systemctl start rolegate-keeper")?;
    }
    tried
}

/// The last change must be the hook's.
fn written_by_the_hook(node: &Host<'_>) -> Result<()> {
    let cib = node.ask("cibadmin", &["-Q", "-l"])?;
    let user = format!("update-user=\"{}\"", node.bed().server().user());
    ensure!(cib.contains(&user), "it was not written by {user}: {}", &cib[..300]);
    Ok(())
}

fn hook_writes(bed: &Bed) -> Result<()> {
    bed.replicas_known()?;
    let old = bed.primary()?;
    wait_for("Sentinel to know the replicas again", Duration::from_secs(30), || {
        old.redis(26379, &["SENTINEL", "FAILOVER", "mymaster"])
    })?;
    wait_for("the hooks to write the roles", Duration::from_secs(30), || {
        let new = bed.primary()?;
        ensure!(new.name() != old.name(), "{} is still primary", old.name());
        let roles = (gates::role(&old)?, gates::role(&new)?);
        ensure!(roles == ("replica".into(), "primary".into()), "the old and the new one are {roles:?}");
        written_by_the_hook(&new)
    })
}

fn hook_clears(bed: &Bed) -> Result<()> {
    configured(bed, XML, || {
        set_roles(bed)?;
        wait_working(bed)?;
        without_keepers(bed, || cut_off(bed, SystemTime::now()))?;
        bed.wait_ready(Duration::from_secs(120))?;
        wait_working(bed)
    })
}

/// A primary that is cut off cannot clear its own role: the new one's hook does it.
fn cut_off(bed: &Bed, since: SystemTime) -> Result<()> {
    let old = bed.primary()?;
    bed.isolate(&[old.name()])?;
    let new = wait_for("a failover", Duration::from_secs(60), || {
        let others = bed.nodes().filter(|node| node.name() != old.name());
        for node in others {
            if node.redis(6379, &["INFO", "replication"])?.contains("role:master") {
                return Ok(node);
            }
        }
        anyhow::bail!("nobody was promoted")
    })?;
    wait_for("the gate of the new primary to be promoted", Duration::from_secs(30), || {
        let log = hook_log(&new, since)?;
        ensure!(log.contains(&format!("{} cleared to replica", old.name())), "{log}");
        written_by_the_hook(&new)
    })?;
    ensure!(open_gates(bed)?.is_empty(), "open without a keeper: {:?}", open_gates(bed)?);
    bed.heal()
}

fn comes_back(bed: &Bed) -> Result<()> {
    configured(bed, XML, || {
        set_roles(bed)?;
        wait_working(bed)?;
        let primary = bed.primary()?;
        let others: Vec<Host<'_>> = bed.nodes().filter(|node| node.name() != primary.name()).collect();
        // As shipped, but for a promote that has less time to wait in: no majority is there to ask.
        primary.sh("cibadmin -M --xpath \"//op[@id='RedisGate-promote-interval-0s']\" --xml-text '<op id=\"RedisGate-promote-interval-0s\" timeout=\"4s\"/>'")?;
        // Without a majority the keepers leave the roles as they are, too.
        for node in &others {
            node.ask("systemctl", &["stop", bed.server().sentinel()])?;
        }
        wait_for("the lease to run out", Duration::from_secs(20), || {
            ensure!(open_gates(bed)?.is_empty(), "open on {:?}", open_gates(bed)?);
            Ok(())
        })?;
        set_role(&primary, primary.name(), "replica")?;
        wait_for("the demotion", Duration::from_secs(20), || {
            ensure!(in_role(&look(&primary)?, &ResourceRole::Promoted).is_empty());
            Ok(())
        })?;
        set_role(&primary, primary.name(), "primary")?;
        // Each try is a transition of its own, made by something that happens: here an attribute.
        let mut event = 0;
        wait_for("five failures", Duration::from_secs(90), || {
            let seen = look(&primary)?;
            let unpromoted = in_role(&seen, &ResourceRole::Unpromoted);
            if unpromoted.len() == 3 {
                event += 1;
                primary.ask("attrd_updater", &["-n", "trial", "-U", &event.to_string()])?;
            }
            let count =
                format!("//node_state[@uname='{}']//nvpair[@name='fail-count-RedisGate#promote_0']", primary.name());
            let counted = primary.ask("cibadmin", &["-Q", "-l", "--xpath", &count])?;
            ensure!(counted.contains("value=\"5\""), "{counted}");
            let mut reasons = seen.failures.iter().map(|failure| failure.reason.as_str());
            ensure!(
                reasons.any(|why| why.contains("not promoted in time: 1 of 3 Sentinels answered")),
                "{:?}",
                seen.failures
            );
            ensure!(unpromoted.len() == 2 && !unpromoted.contains(&primary.name().to_owned()), "{unpromoted:?}");
            ensure!(open_gates(bed)?.is_empty(), "open on {:?}", open_gates(bed)?);
            Ok(())
        })?;
        primary.ask("attrd_updater", &["-n", "trial", "-D"])?;
        for node in &others {
            node.ask("systemctl", &["start", bed.server().sentinel()])?;
        }
        // By itself: nobody cleans up.
        wait_working_within_failure_timeout(bed)
    })
}

/// failure-timeout, and time for the cluster to act.
fn wait_working_within_failure_timeout(bed: &Bed) -> Result<()> {
    wait_for("the gate to come back", Duration::from_secs(60), || {
        let primary = bed.primary()?;
        let promoted = in_role(&look(&primary)?, &ResourceRole::Promoted);
        ensure!(promoted == [primary.name()], "promoted {promoted:?}");
        ensure!(open_gates(bed)? == [primary.name()], "open on {:?}", open_gates(bed)?);
        Ok(())
    })
}

const CLASSIC: &str = "crm_attribute -n symmetric-cluster -v false
    cibadmin -M --allow-create -x xml/block.xml; cibadmin -M --allow-create -x xml/acl.xml";

/// Where a block runs, sorted.
fn blocked(seen: &CrmMon, id: &str) -> Vec<String> {
    let blocks = seen.resources.iter().filter(|one| one.id == id && one.role == ResourceRole::Started);
    let mut nodes: Vec<String> = blocks.flat_map(|block| block.nodes.clone()).collect();
    nodes.sort();
    nodes
}

/// Waits until the blocks run where the roles want them, and clients get what they leave: the roles are primary, and
/// `failed` on one node.
fn wait_classic(bed: &Bed, failed: Option<&str>) -> Result<String> {
    let mut found = None;
    wait_for("the classic layout to follow the primary", Duration::from_secs(60), || {
        let primary = bed.host(NODES[0])?;
        let seen = look(&primary)?;
        let open = gates::open_on(bed, 6381)?;
        let [writes] = open[..] else { anyhow::bail!("6381 is open on {open:?}") };
        let is = |role: &str| -> Result<Vec<String>> {
            let mut nodes = Vec::new();
            for node in bed.nodes() {
                if gates::role(&node)? == role {
                    nodes.push(node.name().to_owned());
                }
            }
            Ok(nodes)
        };
        let (replicas, fail) = (is("replica")?, is("fail")?);
        ensure!(is("primary")? == [writes], "primary is {:?}, open is {writes}", is("primary")?);
        ensure!(fail == Vec::from_iter(failed), "fail is {fail:?}");
        let mut not_primary = [replicas, fail.clone()].concat();
        not_primary.sort();
        let (ro, rw) = (blocked(&seen, "RedisLBReadBlock"), blocked(&seen, "RedisLBWriteBlock"));
        ensure!(ro == fail && rw == not_primary, "read blocked on {ro:?}, write on {rw:?}");
        ensure!(seen.failures.is_empty(), "failed: {:?}", seen.failures);
        let readable = gates::open_on(bed, 6380)?;
        ensure!(readable.iter().all(|node| Some(*node) != failed), "6380 is open on {readable:?}");
        ensure!(readable.len() == NODES.len() - fail.len(), "6380 is open on {readable:?}");
        found = Some(writes.to_owned());
        Ok(())
    })?;
    found.context("found")
}

fn classic(bed: &Bed) -> Result<()> {
    emptied(bed, |node| {
        apply(node, CLASSIC)?;
        node.cmd("rolegate")?.arg("init").deadline(Duration::from_secs(60)).run().context("rolegate init")?;
        let primary = wait_classic(bed, None)?;
        as_in_the_readme(&node.ask("crm_mon", &["-1", "-AnfroRtc"])?, &primary)?;
        let status = node.cmd("rolegate")?.arg("status").run_expecting(&[0, 1, 2, 3])?;
        ensure!(status.code == 0 && status.text().contains("not blocked"), "{}", status.text());

        node.redis(26379, &["SENTINEL", "FAILOVER", "mymaster"])?;
        wait_for("another primary", Duration::from_secs(30), || {
            ensure!(bed.primary()?.name() != primary);
            Ok(())
        })?;
        let moved = wait_classic(bed, None)?;
        ensure!(moved != primary && moved == bed.primary()?.name(), "{moved} takes writes, {primary} did");

        // Redis down: both ports are blocked there, until it is back.
        let failing = NODES.into_iter().find(|node| *node != moved).context("a replica")?;
        bed.host(failing)?.ask("systemctl", &["stop", bed.server().unit()])?;
        wait_classic(bed, Some(failing))?;
        bed.host(failing)?.ask("systemctl", &["start", bed.server().unit()])?;
        wait_classic(bed, None)?;

        let fenced = node.cmd("rolegate")?.args(["fence", failing]).deadline(Duration::from_secs(60)).run()?;
        ensure!(fenced.text().contains("its ports are closed"), "{}", fenced.text());
        wait_classic(bed, Some(failing))?;
        node.cmd("rolegate")?.args(["unfence", failing]).deadline(Duration::from_secs(60)).run()?;
        wait_classic(bed, None).map(drop)
    })
}

/// Lines with the section and the node or clone under which they stand, in an order of their own: Pacemaker's is that of events.
fn placed(lines: &[String]) -> Vec<String> {
    let (mut section, mut subject) = ("", "");
    let mut placed = Vec::new();
    for line in lines {
        if ["Node List:", "Inactive Resources:", "Node Attributes:", "Operations:"].contains(&line.as_str()) {
            (section, subject) = (line, "");
        } else if ["Node ", "Node: ", "Clone Set: "].iter().any(|start| line.starts_with(start)) {
            subject = line;
        }
        placed.push(format!("{section} {subject} {line}"));
    }
    placed.sort();
    placed
}

/// That `crm_mon -AnfroRtc` shows the resources, states, attributes and operations that the README of ansible-redis-ha shows
/// (there with node1 as primary, and as Pacemaker 2.0.3 writes them).
fn as_in_the_readme(seen: &str, primary: &str) -> Result<()> {
    let mut wanted: Vec<String> = vec!["3 nodes configured".into(), "6 resource instances configured".into()];
    let number = |node: &str| node.trim_start_matches("node").to_owned();
    let replicas = || NODES.into_iter().filter(|node| *node != primary);
    wanted.push("Node List:".into());
    for node in NODES {
        wanted.extend([format!("Node {node} ({}): online", number(node)), "Resources:".into()]);
        if node != primary {
            wanted.push("RedisLBWriteBlock Started".into());
        }
    }
    wanted.extend(["Inactive Resources:".into(), "Clone Set: RedisLBReadBlock-clone [RedisLBReadBlock]:".into()]);
    wanted.extend(NODES.map(|_| "RedisLBReadBlock Stopped".to_owned()));
    wanted.push("Clone Set: RedisLBWriteBlock-clone [RedisLBWriteBlock]:".into());
    wanted.extend(replicas().map(|node| format!("RedisLBWriteBlock Started {node}")));
    wanted.extend(["RedisLBWriteBlock Stopped".into(), "Node Attributes:".into()]);
    for node in NODES {
        let role = if node == primary { "primary" } else { "replica" };
        wanted.extend([format!("Node: {node} ({}):", number(node)), format!("redis_role : {role}")]);
    }
    wanted.push("Operations:".into());
    for node in replicas() {
        wanted.extend([
            format!("Node: {node} ({}):", number(node)),
            "RedisLBWriteBlock: migration-threshold=1000000:".into(),
            "start: rc=0 (ok)".into(),
            "monitor: interval=\"10000ms\" rc=0 (ok)".into(),
        ]);
    }
    let mut shown = Vec::new();
    for line in seen.lines() {
        // Without list marks, the agent's name, numbers of calls, times, and what is newer than that README.
        let words = line.split_whitespace().filter(|word| *word != "*" && !word.starts_with("(ocf:"));
        let line = words.collect::<Vec<_>>().join(" ");
        let line = line.split(", feature set").next().unwrap_or_default();
        let line = match line.split_once(") ").filter(|_| line.contains("rc=")) {
            Some((_call, operation)) => {
                let kept = ["start:", "monitor:", "interval=", "rc=", "(ok)"];
                // "OK" since Pacemaker 3.
                let operation = operation.replace("(OK)", "(ok)");
                let kept = operation.split(' ').filter(|word| kept.iter().any(|start| word.starts_with(start)));
                kept.collect::<Vec<_>>().join(" ")
            }
            None => line.to_owned(),
        };
        let told = [
            "Status of pacemakerd:",
            "Cluster Summary:",
            "Stack:",
            "Current DC:",
            "Last updated:",
            "Last change:",
            // What each node stands on, and its release: that layout's own tools have no such thing.
            "redis_record-",
            "rolegate_version",
        ];
        if !line.is_empty() && !told.iter().any(|start| line.starts_with(start)) {
            shown.push(line);
        }
    }
    ensure!(
        placed(&shown) == placed(&wanted),
        "crm_mon shows\n{}\nand not\n{}\nin\n{seen}",
        shown.join("\n"),
        wanted.join("\n")
    );
    Ok(())
}
