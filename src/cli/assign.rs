//! Setting role attributes by hand of an operator: from what a majority of Sentinels says, old
//! before new. What the roles should be is decided in [`crate::roles`].

use std::collections::BTreeMap;
use std::time::Duration;

use super::fence::operator;
use super::{Gate, Stop};
use crate::instance::{self, Instance};
use crate::logging::{Subject, decided};
use crate::pacemaker::{self, Cib};
use crate::params::Params;
use crate::record::Record;
use crate::role::Role;
use crate::roles;
use crate::server::AskError;
use crate::settings::Settings;
use crate::together::together;

/// What each node's Redis says, by the node's name.
pub type Servers = BTreeMap<String, Result<Instance, AskError>>;

/// A role attribute to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The node.
    pub node: String,
    /// Its lasting value now.
    pub from: Option<String>,
    /// What it becomes.
    pub to: Role,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} -> {}", self.node, self.from.as_deref().unwrap_or("not set"), self.to)
    }
}

/// Asks the servers of `nodes` at once.
pub fn servers(record: &Record, nodes: &[String], settings: &Settings) -> Servers {
    let entries: Vec<_> = nodes.iter().filter_map(|name| record.node(name)).cloned().collect();
    let within = settings.answer_within;
    let jobs: Vec<_> = entries
        .iter()
        .map(|entry| {
            let (address, credentials) = (entry.address, settings.redis.clone());
            move || instance::ask(address, &credentials, within)
        })
        .collect();
    let answers = together(within + Duration::from_millis(500), jobs);
    entries
        .into_iter()
        .map(|entry| entry.name)
        .zip(answers.into_iter().map(|it| it.unwrap_or(Err(AskError::Silent))))
        .collect()
}

/// What is to be written for the nodes whose servers are given when a majority names `named`, in
/// that order; and the nodes for which it will not last.
pub fn changes(cib: &Cib, params: &Params, named: &str, servers: &Servers) -> (Vec<Change>, Vec<String>) {
    let (mut changes, mut unsettled) = (Vec::<Change>::new(), Vec::new());
    let is_named = |name: &str| name.eq_ignore_ascii_case(named);
    let (last, first): (Vec<_>, Vec<_>) = servers.iter().partition(|(name, _)| is_named(name));
    for (name, server) in first.into_iter().chain(last) {
        let Some(node) = cib.node(name) else { continue };
        let plan = roles::plan(node, named, server, cib, params);
        let mut add = |node: &pacemaker::cib::Node, to| {
            if !changes.iter().any(|change| change.node == node.name) {
                let from = node.permanent(&params.attribute).map(str::to_owned);
                changes.push(Change { node: node.name.clone(), from, to });
            }
        };
        plan.clear.iter().for_each(|other| add(other, Role::Replica));
        if let Some(role) = plan.set {
            add(node, role);
        }
        if !plan.settled {
            unsettled.push(node.name.clone());
        }
    }
    (changes, unsettled)
}

/// Whether somebody else has written it meanwhile: the node's keeper sees what we see.
fn is_so(change: &Change, attribute: &str) -> Result<bool, Stop> {
    let cib = pacemaker::read_cib()?;
    Ok(cib.node(&change.node).and_then(|node| node.permanent(attribute)) == Some(change.to.as_str()))
}

/// Writes `changes`. The caller has made sure of quorum.
pub fn write(cib: &Cib, gate: &Gate, changes: &[Change]) -> Result<(), Stop> {
    let attribute = &gate.params.attribute;
    for change in changes {
        let from = change.from.as_deref().and_then(|from| from.parse::<Role>().ok());
        match (cib.node(&change.node), from) {
            // Somebody may have written in between, who saw something newer.
            (Some(node), Some(from)) => {
                if !pacemaker::replace_role(node, attribute, from, change.to)? && !is_so(change, attribute)? {
                    return Err(Stop::refused(format!(
                        "{attribute} of {} changed while this ran; look at rolegate status and run it again",
                        change.node
                    )));
                }
            }
            _ => pacemaker::set_attribute(&change.node, attribute, change.to.as_str())?,
        }
        let master = &gate.params.master;
        let subject = Subject::of(Some(master), Some(&change.node)).as_role(Some(change.to));
        decided!(info, subject, "what Sentinels name", OPERATOR = operator(), "{master}: {change}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::ServerRole;
    use crate::pacemaker::cib;

    fn cluster(nodes: &[(&str, Option<&str>, bool)]) -> Cib {
        let nodes: String = nodes
            .iter()
            .map(|(name, role, fenced)| {
                let role = role.map_or(String::new(), |role| {
                    format!("<nvpair id=\"{name}-r\" name=\"redis_role\" value=\"{role}\"/>")
                });
                let fence = if *fenced { format!("<nvpair id=\"{name}-f\" name=\"redis_fence\" value=\"x\"/>") } else { String::new() };
                format!("<node id=\"{name}\" uname=\"{name}\"><instance_attributes id=\"i-{name}\">{role}{fence}</instance_attributes></node>")
            })
            .collect();
        cib::parse(&format!("<cib><configuration><nodes>{nodes}</nodes></configuration></cib>")).unwrap()
    }

    fn replica() -> Result<Instance, AskError> {
        let role = ServerRole::Replica { of: "10.0.0.2:6379".into(), link_up: true, link_down_for: None };
        Ok(Instance { role, ..Instance::default() })
    }

    fn primary() -> Result<Instance, AskError> {
        Ok(Instance { role: ServerRole::Primary { replicas: vec![] }, ..Instance::default() })
    }

    fn written(cib: &Cib, servers: [(&str, Result<Instance, AskError>); 3]) -> (Vec<String>, Vec<String>) {
        let servers = servers.into_iter().map(|(name, server)| (name.to_owned(), server)).collect();
        let (changes, unsettled) = changes(cib, &Params::read(|_| None).unwrap(), "node2", &servers);
        (changes.iter().map(ToString::to_string).collect(), unsettled)
    }

    #[test]
    fn the_first_roles_name_the_primary_last() {
        let cib = cluster(&[("node1", None, false), ("node2", None, false), ("node3", None, false)]);
        let (changes, unsettled) =
            written(&cib, [("node1", replica()), ("node2", primary()), ("node3", Err(AskError::Silent))]);
        assert_eq!(changes, ["node1: not set -> replica", "node3: not set -> replica", "node2: not set -> primary"]);
        assert_eq!(unsettled, Vec::<String>::new());
    }

    #[test]
    fn what_is_right_is_left_alone_and_a_fence_stands() {
        let cib = cluster(&[
            ("node1", Some("replica"), false),
            ("node2", Some("primary"), false),
            ("node3", Some("fail"), true),
        ]);
        let (changes, _) = written(&cib, [("node1", replica()), ("node2", primary()), ("node3", replica())]);
        assert_eq!(changes, Vec::<String>::new());
    }

    #[test]
    fn an_old_primary_is_cleared_before_the_new_one_is_set() {
        let cib = cluster(&[
            ("node1", Some("primary"), false),
            ("node2", Some("replica"), false),
            ("gone", Some("primary"), false),
        ]);
        let (changes, unsettled) = written(&cib, [("node1", primary()), ("node2", primary()), ("node3", replica())]);
        assert_eq!(changes, ["node1: primary -> fail", "gone: primary -> replica", "node2: replica -> primary"]);
        assert_eq!(unsettled, ["node1"]);
    }
}
