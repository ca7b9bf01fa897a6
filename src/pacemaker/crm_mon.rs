//! What `crm_mon --output-as=xml` says of nodes and resources. Fields of Pacemaker 2.0 to 3.x;
//! what it does not show stays unknown and is never taken for a no.

use std::collections::BTreeMap;

use roxmltree::{Document, Node as Element};

use super::PacemakerError;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CrmMon {
    /// Whether the partition has quorum; `None` while there is no DC.
    pub quorum: Option<bool>,
    /// The nodes.
    pub nodes: Vec<NodeState>,
    /// All resources and where they run, instances of clones one by one.
    pub resources: Vec<ResourceState>,
    /// Failed actions that are remembered.
    pub failures: Vec<Failure>,
    /// `maintenance-mode` of the cluster.
    pub maintenance_mode: bool,
}

/// A node as the cluster sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeState {
    /// Its name.
    pub name: String,
    /// It is a member and runs resources.
    pub online: bool,
    /// The cluster does not know what it runs.
    pub unclean: bool,
    /// It may run nothing.
    pub standby: bool,
    /// Its resources are left alone.
    pub maintenance: bool,
    /// It is joining.
    pub pending: bool,
    /// Its attributes as `crm_mon -A` shows them.
    pub attributes: BTreeMap<String, String>,
}

/// An instance of a resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourceState {
    /// The primitive's id.
    pub id: String,
    /// The clone around it.
    pub clone: Option<String>,
    /// For example ocf:rolegate:gate.
    pub agent: String,
    /// Its role.
    pub role: ResourceRole,
    /// Pacemaker does nothing about it any more (a stop failed).
    pub blocked: bool,
    /// Its last action failed.
    pub failed: bool,
    /// Pacemaker manages it.
    pub managed: bool,
    /// The nodes on which it runs.
    pub nodes: Vec<String>,
}

/// The role of an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ResourceRole {
    /// Promoted (Master before Pacemaker 2.1).
    Promoted,
    /// Unpromoted (Slave before Pacemaker 2.1).
    Unpromoted,
    /// Started, not promotable.
    Started,
    /// Stopped.
    #[default]
    Stopped,
    /// Anything else, as written.
    Other(String),
}

/// A failed action.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failure {
    /// For example RedisGate_promote_0.
    pub operation: String,
    /// The node.
    pub node: String,
    /// The agent's reason.
    pub reason: String,
    /// The agent's exit code.
    pub code: Option<i32>,
}

/// Reads what `crm_mon -1 --output-as=xml` prints.
///
/// # Errors
/// [`PacemakerError::Unreadable`] if it is something else, shows no nodes, or reports an error.
pub fn parse(xml: &str) -> Result<CrmMon, PacemakerError> {
    let unreadable = |reason: String| PacemakerError::Unreadable { what: "crm_mon's output", reason };
    let document = Document::parse(xml).map_err(|error| unreadable(error.to_string()))?;
    let root = document.root_element();
    // Its exit code alone says nothing: with a missing CIB file it is 0.
    let status = find(root, "status").and_then(|status| status.attribute("code"));
    let errors: Vec<_> = root.descendants().filter(|e| e.has_tag_name("error")).filter_map(|e| e.text()).collect();
    if status != Some("0") || !errors.is_empty() {
        return Err(unreadable(format!("status {}: {}", status.unwrap_or("missing"), errors.join("; "))));
    }
    let nodes = find(root, "nodes").ok_or_else(|| unreadable("it shows no nodes".to_owned()))?;
    let attributes = attributes(root);
    let summary = find(root, "summary");
    let option =
        |name| summary.and_then(|summary| find(summary, "cluster_options")).and_then(|options| options.attribute(name));
    Ok(CrmMon {
        quorum: summary
            .and_then(|summary| find(summary, "current_dc"))
            .and_then(|dc| dc.attribute("with_quorum"))
            .map(|value| value == "true"),
        nodes: nodes
            .children()
            .filter(|node| node.has_tag_name("node"))
            .map(|node| NodeState {
                name: text(node, "name"),
                online: flag(node, "online"),
                unclean: flag(node, "unclean"),
                standby: flag(node, "standby"),
                maintenance: flag(node, "maintenance"),
                pending: flag(node, "pending"),
                attributes: attributes.get(&text(node, "name")).cloned().unwrap_or_default(),
            })
            .collect(),
        resources: find(root, "resources").map(resources).unwrap_or_default(),
        failures: find(root, "failures").map(failures).unwrap_or_default(),
        maintenance_mode: option("maintenance-mode") == Some("true"),
    })
}

fn attributes(root: Element) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    let Some(section) = find(root, "node_attributes") else { return all };
    for node in section.children().filter(|node| node.has_tag_name("node")) {
        let values = node.children().filter(|e| e.has_tag_name("attribute"));
        all.insert(text(node, "name"), values.map(|e| (text(e, "name"), text(e, "value"))).collect());
    }
    all
}

fn resources(section: Element) -> Vec<ResourceState> {
    section
        .descendants()
        .filter(|element| element.has_tag_name("resource"))
        .map(|resource| ResourceState {
            id: text(resource, "id"),
            clone: resource.ancestors().find(|e| e.has_tag_name("clone")).map(|clone| text(clone, "id")),
            agent: text(resource, "resource_agent"),
            role: match resource.attribute("role") {
                Some("Promoted" | "Master") => ResourceRole::Promoted,
                Some("Unpromoted" | "Slave") => ResourceRole::Unpromoted,
                Some("Started") => ResourceRole::Started,
                Some("Stopped") => ResourceRole::Stopped,
                other => ResourceRole::Other(other.unwrap_or_default().to_owned()),
            },
            blocked: flag(resource, "blocked"),
            failed: flag(resource, "failed"),
            managed: flag(resource, "managed"),
            nodes: resource.children().filter(|e| e.has_tag_name("node")).map(|e| text(e, "name")).collect(),
        })
        .collect()
}

fn failures(section: Element) -> Vec<Failure> {
    section
        .children()
        .filter(|element| element.has_tag_name("failure"))
        .map(|failure| Failure {
            operation: text(failure, "op_key"),
            node: text(failure, "node"),
            reason: text(failure, "exitreason"),
            code: failure.attribute("exitcode").and_then(|code| code.parse().ok()),
        })
        .collect()
}

fn find<'a, 'i>(element: Element<'a, 'i>, name: &str) -> Option<Element<'a, 'i>> {
    element.children().find(|child| child.has_tag_name(name))
}

fn text(element: Element, attribute: &str) -> String {
    element.attribute(attribute).unwrap_or_default().to_owned()
}

fn flag(element: Element, attribute: &str) -> bool {
    element.attribute(attribute) == Some("true")
}

#[cfg(test)]
mod tests {
    use super::*;

    // crm_mon of Pacemaker 2.1.5, shortened.
    const MON: &str = r#"<pacemaker-result api-version="2.25" request="crm_mon -1 --output-as=xml">
      <summary><current_dc present="true" name="node1" with_quorum="true"/>
        <cluster_options maintenance-mode="false"/></summary>
      <nodes>
        <node name="node1" id="1" online="true" standby="false" maintenance="false" pending="false" unclean="false"/>
        <node name="node2" id="2" online="false" standby="false" maintenance="false" pending="false" unclean="true"/>
      </nodes>
      <resources><clone id="RedisGate-clone" multi_state="true">
        <resource id="RedisGate" resource_agent="ocf:rolegate:gate" role="Promoted" active="true" blocked="false" managed="true" failed="true"><node name="node1" id="1"/></resource>
        <resource id="RedisGate" resource_agent="ocf:rolegate:gate" role="Stopped" active="false" blocked="false" managed="true" failed="false"/>
      </clone></resources>
      <node_attributes><node name="node1"><attribute name="redis_role" value="primary"/></node></node_attributes>
      <failures><failure op_key="RedisGate_monitor_5000" node="node1" exitstatus="promoted (degraded)" exitreason="not named" exitcode="191"/></failures>
      <status code="0" message="OK"/></pacemaker-result>"#;

    #[test]
    fn reads_nodes_roles_and_failures() {
        let mon = parse(MON).unwrap();
        assert_eq!(mon.quorum, Some(true));
        assert_eq!(mon.nodes[0].attributes["redis_role"], "primary");
        assert!(mon.nodes[0].online && mon.nodes[1].unclean && !mon.nodes[1].online);
        let gate = &mon.resources[0];
        assert_eq!((&gate.role, gate.nodes.as_slice()), (&ResourceRole::Promoted, &["node1".to_owned()][..]));
        assert_eq!(gate.clone.as_deref(), Some("RedisGate-clone"));
        assert!(gate.failed && gate.managed && !gate.blocked);
        assert_eq!((mon.failures[0].reason.as_str(), mon.failures[0].code), ("not named", Some(191)));
    }

    #[test]
    fn an_error_is_never_an_empty_cluster() {
        for xml in [
            r#"<pacemaker-result><status code="102" message="Not connected"><errors><error>no</error></errors></status></pacemaker-result>"#,
            r#"<pacemaker-result><status code="0" message="OK"/></pacemaker-result>"#,
            r#"<pacemaker-result><nodes/><status code="0"><errors><error>no CIB</error></errors></status></pacemaker-result>"#,
            "<pacemaker-result><nodes/></pacemaker-result>",
            "",
        ] {
            assert!(parse(xml).is_err(), "{xml}");
        }
    }

    #[test]
    fn the_old_role_names_are_read() {
        let mon = parse(&MON.replace(r#"role="Promoted""#, r#"role="Master""#)).unwrap();
        assert_eq!(mon.resources[0].role, ResourceRole::Promoted);
    }
}
