//! A cluster on paper: the shipped configuration applied to a CIB of three nodes, and what Pacemaker's scheduler makes
//! of it.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use roxmltree::Document;

use super::tools::Machine;

/// The forms in which the configuration is shipped.
#[derive(Debug, Clone, Copy)]
pub enum Form {
    Pcs,
    Crmsh,
    Xml,
}

impl Form {
    pub const ALL: [Form; 3] = [Form::Pcs, Form::Crmsh, Form::Xml];
}

fn shipped(form: &str, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("ocf").join(form).join(name)
}

/// The CIB after applying one form to an empty cluster of three nodes, all online and quorate.
pub fn apply(machine: &Machine, form: Form, symmetric: bool, address: bool) -> String {
    let parts: &[&str] = if address { &["gate", "acl", "vip"] } else { &["gate", "acl"] };
    apply_parts(machine, form, symmetric, parts)
}

/// The same with any of the shipped files.
pub fn apply_parts(machine: &Machine, form: Form, symmetric: bool, parts: &[&str]) -> String {
    let mut nodes = String::new();
    let mut states = String::new();
    for n in 1..=3 {
        // Writing to a String cannot fail.
        let _ = write!(nodes, "<node id=\"{n}\" uname=\"node{n}\"/>");
        let _ = write!(
            states,
            "<node_state id=\"{n}\" uname=\"node{n}\" in_ccm=\"true\" crmd=\"online\" join=\"member\" expected=\"member\"/>"
        );
    }
    // no-quorum-policy and the like are the operator's. Without STONITH, as where it hurts most.
    let cib = format!(
        "<cib crm_feature_set=\"3.15.0\" validate-with=\"pacemaker-3.9\" epoch=\"1\" num_updates=\"0\" admin_epoch=\"0\" \
         have-quorum=\"1\"><configuration><crm_config><cluster_property_set id=\"cib-bootstrap-options\">\
         <nvpair id=\"cib-bootstrap-options-stonith-enabled\" name=\"stonith-enabled\" value=\"false\"/>\
         <nvpair id=\"cib-bootstrap-options-symmetric-cluster\" name=\"symmetric-cluster\" value=\"{symmetric}\"/>\
         </cluster_property_set></crm_config><nodes>{nodes}</nodes><resources/><constraints/></configuration>\
         <status>{states}</status></cib>"
    );
    let path = machine.file(&format!("{form:?}.xml"));
    std::fs::write(&path, cib).unwrap();
    for part in parts {
        let mut command = match form {
            Form::Pcs => {
                let script = shipped("pcs", &format!("{part}.sh"));
                machine.command(&["sh".as_ref(), script.as_os_str(), "-f".as_ref(), path.as_os_str()])
            }
            Form::Crmsh => {
                let file = shipped("crmsh", &format!("{part}.crm"));
                let argv = ["crm", "-F", "configure", "load", "update"].map(AsRef::as_ref);
                machine.command(&[&argv[..], &[file.as_os_str()]].concat())
            }
            Form::Xml => {
                let file = shipped("xml", &format!("{part}.xml"));
                let argv = ["cibadmin", "--modify", "--allow-create", "--xml-file"].map(AsRef::as_ref);
                machine.command(&[&argv[..], &[file.as_os_str()]].concat())
            }
        };
        // pcs gets the file as an argument and refuses this variable.
        if !matches!(form, Form::Pcs) {
            command.env("CIB_file", &path);
        }
        Machine::run(&mut command);
    }
    std::fs::read_to_string(path).unwrap()
}

/// A cluster in Pacemaker's scheduler.
pub struct Sim<'m> {
    machine: &'m Machine,
    cib: String,
    since_failure: Duration,
    clone: Vec<(String, String, bool)>,
    active: BTreeSet<(String, String)>,
}

impl<'m> Sim<'m> {
    pub fn new(machine: &'m Machine, cib: &str) -> Self {
        Sim { machine, cib: cib.to_owned(), since_failure: Duration::ZERO, clone: Vec::new(), active: BTreeSet::new() }
    }

    /// Writes a permanent node attribute.
    pub fn attribute(&mut self, node: &str, name: &str, value: &str) {
        let path = self.save();
        let argv = ["crm_attribute", "-l", "forever", "-N", node, "-n", name, "-v", value];
        Machine::run(self.machine.command(&argv).env("CIB_file", &path));
        self.cib = std::fs::read_to_string(path).unwrap();
    }

    /// Writes a node's role.
    pub fn role(&mut self, node: &str, role: &str) {
        self.attribute(node, "redis_role", role);
    }

    /// Makes it as long ago as this that a promote failed last.
    pub fn since_failure(&mut self, time: Duration) {
        self.since_failure = time;
    }

    /// The scheduler's time, in seconds since the epoch. `crm_simulate` stamps failures with this machine's clock, so
    /// they are what it is counted from: a slow machine must make no difference.
    fn now(&self) -> u64 {
        let failed = Document::parse(&self.cib).unwrap().descendants().find_map(|pair| {
            let failure = pair.attribute("name") == Some("last-failure-RedisGate#promote_0");
            failure.then(|| pair.attribute("value").unwrap().parse::<u64>().unwrap())
        });
        match failed {
            Some(failed) => failed + self.since_failure.as_secs(),
            None => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs(),
        }
    }

    /// One transition: what was done, in its order, as "resource action node".
    pub fn step(&mut self) -> Vec<String> {
        self.step_failing(&[])
    }

    /// One transition in which the given actions fail (`RESOURCE_ACTION_INTERVAL@NODE=CODE`).
    pub fn step_failing(&mut self, failing: &[&str]) -> Vec<String> {
        let path = self.save();
        let now = self.now();
        let next = self.machine.file("next.xml");
        let mut command = self.machine.command(&["crm_simulate", "--simulate", "--output-as=xml"]);
        // Seconds since the epoch, in the form that it reads.
        let time = Machine::run(std::process::Command::new("date").args(["-u", "-d", &format!("@{now}"), "+%F %TZ"]));
        command.arg("--set-datetime").arg(time.trim()).arg("--xml-file").arg(&path).arg("--save-output").arg(&next);
        for action in failing {
            command.args(["--op-fail", action]);
        }
        let text = Machine::run(&mut command);
        self.cib = std::fs::read_to_string(next).unwrap();
        let document = Document::parse(&text).unwrap();
        let named = |name: &'static str| document.descendants().find(move |node| node.has_tag_name(name));
        let after = named("revised_cluster_status").unwrap();
        let instances = after.descendants().filter(|node| node.attribute("id") == Some("RedisGate"));
        self.clone = instances
            .filter(|instance| instance.attribute("active") == Some("true"))
            .flat_map(|instance| {
                let role = instance.attribute("role").unwrap().to_owned();
                let failed = instance.attribute("failed") == Some("true");
                instance
                    .children()
                    .filter_map(|node| node.attribute("name"))
                    .map(move |node| (node.to_owned(), role.clone(), failed))
                    .collect::<Vec<_>>()
            })
            .collect();
        self.active = after
            .descendants()
            .filter(|node| node.has_tag_name("resource") && node.attribute("active") == Some("true"))
            .flat_map(|resource| {
                let id = resource.attribute("id").unwrap_or_default().to_owned();
                let nodes = resource.children().filter_map(|node| node.attribute("name"));
                nodes.map(move |node| (id.clone(), node.to_owned())).collect::<Vec<_>>()
            })
            .collect();
        named("transition")
            .unwrap()
            .children()
            .filter(|action| action.has_tag_name("rsc_action"))
            .map(|action| ["resource", "op", "node"].map(|name| action.attribute(name).unwrap_or_default()).join(" "))
            .collect()
    }

    /// The actions of the next transition that wait for `action` (`RESOURCE_ACTION_INTERVAL NODE`).
    pub fn waits_for(&self, action: &str) -> Vec<String> {
        let dot = self.machine.file("graph.dot");
        let path = self.save();
        let mut command = self.machine.command(&["crm_simulate", "--run", "--save-dotfile"]);
        Machine::run(command.arg(&dot).arg("--xml-file").arg(path));
        let graph = std::fs::read_to_string(dot).unwrap();
        assert!(graph.contains(&format!("{action:?} [")), "no {action} in {graph}");
        let edges = graph.lines().filter_map(|line| line.trim().split_once(" -> "));
        edges
            .filter(|(first, _)| *first == format!("{action:?}"))
            .map(|(_, then)| then.split('"').nth(1).unwrap_or_default().to_owned())
            .collect()
    }

    /// Transitions until nothing is left to do.
    pub fn settle(&mut self) {
        for _ in 0..10 {
            if self.step().is_empty() {
                return;
            }
        }
        panic!("the cluster does not come to rest");
    }

    /// The nodes where the gate is promoted, after the last step.
    pub fn promoted(&self) -> Vec<String> {
        self.clone.iter().filter(|(_, role, _)| role == "Promoted").map(|(node, ..)| node.clone()).collect()
    }

    /// Those of them where it has not failed.
    pub fn promoted_and_well(&self) -> Vec<String> {
        let well = self.clone.iter().filter(|(_, role, failed)| role == "Promoted" && !failed);
        well.map(|(node, ..)| node.clone()).collect()
    }

    /// On how many nodes the gate runs.
    pub fn running(&self) -> usize {
        self.clone.len()
    }

    /// The nodes where a resource runs, after the last step.
    pub fn active(&self, resource: &str) -> Vec<String> {
        self.active.iter().filter(|(id, _)| id == resource).map(|(_, node)| node.clone()).collect()
    }

    /// Makes the last Promoted monitor of a node one that has just failed. `crm_simulate` cannot:
    /// what it injects expects 0, where a Promoted monitor expects 8.
    pub fn fail_promoted_monitor(&mut self, node: &str, code: u8) {
        let id = &node[4..];
        let state = self.cib.find(&format!("<node_state id=\"{id}\"")).unwrap();
        let at = state + self.cib[state..].find("id=\"RedisGate_monitor_5000\"").unwrap();
        let start = self.cib[..at].rfind("<lrm_rsc_op").unwrap();
        let end = at + self.cib[at..].find("/>").unwrap() + 2;
        let well = self.cib[start..end].to_owned();
        let failed =
            well.replace("rc-code=\"8\"", &format!("rc-code=\"{code}\"")).replace("\"0:8;", &format!("\"0:{code};"));
        assert!(well.contains(":8:") && failed != well, "{well}");
        let record = failed.replace("id=\"RedisGate_monitor_5000\"", "id=\"RedisGate_last_failure_0\"");
        self.cib.replace_range(start..end, &format!("{failed}{record}"));
    }

    fn save(&self) -> PathBuf {
        let path = self.machine.file("sim.xml");
        std::fs::write(&path, &self.cib).unwrap();
        path
    }
}
