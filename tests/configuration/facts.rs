//! What a CIB says apart from ids and order, to compare two.

use std::collections::BTreeSet;

use roxmltree::{Document, Node};

/// What a CIB's configuration says, without ids that are only names, order, and what is a default.
pub fn facts(cib: &str) -> BTreeSet<String> {
    let document = Document::parse(cib).unwrap();
    let mut facts = BTreeSet::new();
    let get = |node: Node, name: &str, default: &str| node.attribute(name).unwrap_or(default).to_owned();
    let with = |node: Node, names: &[(&str, &str)]| -> String {
        names.iter().map(|(name, default)| format!(" {name}={:?}", get(node, name, default))).collect()
    };
    for element in document.descendants().filter(Node::is_element) {
        let parent = element.parent_element();
        let owner = parent.and_then(|parent| parent.parent_element());
        let fact = match element.tag_name().name() {
            "primitive" => {
                let inside = parent.map(|parent| get(parent, "id", "")).unwrap_or_default();
                format!(
                    "primitive{} in {inside:?}",
                    with(element, &[("id", ""), ("class", ""), ("provider", ""), ("type", "")])
                )
            }
            "clone" => format!("clone {}", get(element, "id", "")),
            "op" => {
                let resource = owner.map(|owner| get(owner, "id", "")).unwrap_or_default();
                let names = [("name", ""), ("interval", ""), ("role", ""), ("timeout", ""), ("on-fail", "")];
                format!("op of {resource}{}", with(element, &names))
            }
            "nvpair" => {
                let set = parent.map(|parent| parent.tag_name().name()).unwrap_or_default();
                let of = owner.map(|owner| get(owner, "id", "")).unwrap_or_default();
                format!("{set} of {of:?}{}", with(element, &[("name", ""), ("value", "")]))
            }
            "rsc_location" => {
                let rules: BTreeSet<String> = element
                    .children()
                    .filter(Node::is_element)
                    .map(|rule| {
                        let expressions: BTreeSet<String> = rule
                            .children()
                            .filter(Node::is_element)
                            .map(|expression| {
                                with(expression, &[("attribute", ""), ("operation", ""), ("value", ""), ("type", "")])
                            })
                            .collect();
                        format!(
                            "{} {expressions:?}",
                            with(rule, &[("role", "Started"), ("score", ""), ("boolean-op", "and")])
                        )
                    })
                    .collect();
                format!("location{} {rules:?}", with(element, &[("rsc", ""), ("node", ""), ("score", "")]))
            }
            "rsc_colocation" => {
                let names = [
                    ("rsc", ""),
                    ("rsc-role", "Started"),
                    ("with-rsc", ""),
                    ("with-rsc-role", "Started"),
                    ("score", ""),
                ];
                format!("colocation{}", with(element, &names))
            }
            "rsc_order" => {
                let names = [
                    ("first", ""),
                    ("first-action", "start"),
                    ("then", ""),
                    ("then-action", "start"),
                    ("kind", "Mandatory"),
                    ("symmetrical", "true"),
                ];
                format!("order{}", with(element, &names))
            }
            "acl_permission" => {
                let role = parent.map(|parent| get(parent, "id", "")).unwrap_or_default();
                format!(
                    "permission of {role}{}",
                    with(element, &[("kind", ""), ("xpath", ""), ("reference", ""), ("object-type", "")])
                )
            }
            "acl_target" => {
                let roles: BTreeSet<String> =
                    element.children().filter(Node::is_element).map(|role| get(role, "id", "")).collect();
                format!("user {} {roles:?}", get(element, "id", ""))
            }
            // Parts of those above, and what holds them.
            "cib"
            | "configuration"
            | "crm_config"
            | "cluster_property_set"
            | "nodes"
            | "node"
            | "resources"
            | "constraints"
            | "status"
            | "node_state"
            | "operations"
            | "instance_attributes"
            | "meta_attributes"
            | "rule"
            | "expression"
            | "acls"
            | "acl_role"
            | "role"
            | "rsc_defaults"
            | "op_defaults" => continue,
            other => panic!("a <{other}>, of which this comparison knows nothing"),
        };
        assert!(facts.insert(fact.clone()), "twice: {fact}");
    }
    facts
}
