//! The agents' metadata, rendered from the tables that the agents themselves read.
//!
//! It keeps to what all validators take (resource-agents' ra-api-1.dtd, OCF's RNG, pcs, crmsh):
//! no unique-group, reloadable, select, and no reload-agent action.

use std::fmt::Write;

use crate::params::{self, BLOCK_PARAMETERS, GATE_PARAMETERS, Parameter};

/// One action as the metadata advises it.
struct Action {
    name: &'static str,
    timeout: &'static str,
    interval: Option<&'static str>,
    role: Option<&'static str>,
}

const fn action(name: &'static str, timeout: &'static str) -> Action {
    Action { name, timeout, interval: None, role: None }
}

/// Timeouts: a start, stop or demote is one firewall transaction and the cutting of connections;
/// promote may wait for Sentinels and Redis. Intervals differ by role because Pacemaker tells
/// recurring monitors apart by them.
const GATE_ACTIONS: [Action; 10] = [
    action("start", "20s"),
    action("stop", "30s"),
    Action { name: "monitor", timeout: "20s", interval: Some("5s"), role: Some("Promoted") },
    Action { name: "monitor", timeout: "20s", interval: Some("6s"), role: Some("Unpromoted") },
    action("promote", "30s"),
    action("demote", "30s"),
    action("notify", "5s"),
    action("validate-all", "10s"),
    action("meta-data", "5s"),
    action("methods", "5s"),
];

/// Nothing of a block waits for anybody.
const BLOCK_ACTIONS: [Action; 6] = [
    action("start", "20s"),
    action("stop", "20s"),
    Action { name: "monitor", timeout: "20s", interval: Some("10s"), role: None },
    action("validate-all", "10s"),
    action("meta-data", "5s"),
    action("methods", "5s"),
];

/// The actions of the gate, one a line, as `methods` lists them.
pub fn gate_methods() -> String {
    methods(&GATE_ACTIONS)
}

/// The same of the block.
pub fn block_methods() -> String {
    methods(&BLOCK_ACTIONS)
}

fn methods(actions: &[Action]) -> String {
    let mut names: Vec<&str> = actions.iter().map(|action| action.name).collect();
    names.dedup();
    names.join("\n")
}

/// The metadata of `ocf:rolegate:gate`.
pub fn gate() -> String {
    render(
        params::GATE,
        "Opens and closes the read-only and the read-write port of Redis or Valkey by role",
        "Guards two ports of a node, both redirected to the local Redis or Valkey: one is read-only (open while this \
         runs), one read-write (open while this is Promoted, a majority of the recorded Sentinels names this node, and \
         its Redis says that it is primary). Everything else is closed, and closing cuts established connections. \
         Promoted means that the port may open: where Sentinels or Redis hold it shut, the monitor says why. \
         After creating the resource run `rolegate init`.",
        &GATE_PARAMETERS,
        &GATE_ACTIONS,
    )
}

/// The metadata of `ocf:rolegate:block`.
pub fn block() -> String {
    render(
        params::BLOCK,
        "Blocks the read-only or the read-write port of Redis or Valkey where it runs",
        "The classic layout, in which what runs blocks: two anonymous clones, one with port=ro and one with port=rw, \
         placed by each node's role. While one runs on a node, that port is closed there and its established \
         connections are cut. Where it does not run, the port may open if the node's own role allows it: the \
         read-only one of a primary or replica, the read-write one of the primary, by the same lease as that of \
         ocf:rolegate:gate. After creating both resources run `rolegate init`.",
        &BLOCK_PARAMETERS,
        &BLOCK_ACTIONS,
    )
}

fn render(name: &str, short: &str, long: &str, parameters: &[Parameter], actions: &[Action]) -> String {
    let mut xml = format!(
        "<?xml version=\"1.0\"?>\n<!DOCTYPE resource-agent SYSTEM \"ra-api-1.dtd\">\n\
         <resource-agent name=\"{name}\" version=\"{}\">\n<version>1.1</version>\n\
         <longdesc lang=\"en\">{}</longdesc>\n<shortdesc lang=\"en\">{}</shortdesc>\n<parameters>\n",
        env!("CARGO_PKG_VERSION"),
        escape(long),
        escape(short),
    );
    for parameter in parameters {
        let default = match parameter.default {
            "" => String::new(),
            value => format!(" default=\"{}\"", escape(value)),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            xml,
            "<parameter name=\"{}\" unique=\"{}\" required=\"{}\">\n<longdesc lang=\"en\">{}</longdesc>\n\
             <shortdesc lang=\"en\">{}</shortdesc>\n<content type=\"{}\"{default}/>\n</parameter>",
            parameter.name,
            u8::from(parameter.unique),
            u8::from(parameter.required),
            escape(parameter.long),
            escape(parameter.short),
            parameter.kind,
        );
    }
    xml.push_str("</parameters>\n<actions>\n");
    for action in actions {
        let _ = write!(xml, "<action name=\"{}\" timeout=\"{}\"", action.name, action.timeout);
        if let Some(interval) = action.interval {
            let _ = write!(xml, " interval=\"{interval}\" depth=\"0\"");
        }
        if let Some(role) = action.role {
            let _ = write!(xml, " role=\"{role}\"");
        }
        xml.push_str("/>\n");
    }
    xml.push_str("</actions>\n</resource-agent>\n");
    xml
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metadata_names_every_parameter_and_action_once() {
        let with_roles = ["start", "stop", "monitor", "promote", "demote", "validate-all", "meta-data"];
        names(&gate(), &GATE_PARAMETERS, &with_roles);
        names(&block(), &BLOCK_PARAMETERS, &["start", "stop", "monitor", "validate-all", "meta-data"]);
    }

    fn names(xml: &str, parameters: &[Parameter], actions: &[&str]) {
        let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
        let document = roxmltree::Document::parse_with_options(xml, options).unwrap();
        let names = |tag: &str| -> Vec<String> {
            let elements = document.descendants().filter(|element| element.has_tag_name(tag));
            elements.filter_map(|element| element.attribute("name").map(str::to_owned)).collect()
        };
        assert!(names("parameter").iter().eq(parameters.iter().map(|parameter| parameter.name)));
        for action in actions {
            assert!(names("action").contains(&action.to_string()), "{action}");
        }
    }
}
