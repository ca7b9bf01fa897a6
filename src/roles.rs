//! What the role attributes should be, given what a majority of Sentinels says. Pure.

use crate::instance::{Instance, ServerRole};
use crate::pacemaker::cib::Node;
use crate::pacemaker::{Cib, FENCE_ATTRIBUTE};
use crate::params::Params;
use crate::role::Role;
use crate::server::AskError;

/// What is to be written, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Other nodes that still say primary, to be turned into replica first: with two primaries
    /// Pacemaker would keep the old one.
    pub clear: Vec<Node>,
    /// This node's role, where it is not that already.
    pub set: Option<Role>,
    /// What the role is then.
    pub role: Role,
    /// Whether this lasts. It does not while this node's Redis still is primary though another
    /// one is named: Sentinel turns it into a replica about 10 s after the failover.
    pub settled: bool,
}

/// Decides what the node `me` writes when a majority names the node `named`.
pub fn plan(me: &Node, named: &str, local: &Result<Instance, AskError>, cib: &Cib, params: &Params) -> Plan {
    let attribute = params.attribute.as_str();
    let is_named = me.name.eq_ignore_ascii_case(named);
    let says_primary =
        |node: &Node| node.permanent(attribute).and_then(|value| value.parse().ok()) == Some(Role::Primary);
    let stale_primary =
        matches!(local, Ok(instance) if matches!(instance.role, ServerRole::Primary { .. })) && !is_named;
    let role = match local {
        _ if fenced(me) || stale_primary => Role::Fail,
        Err(AskError::Refused) => Role::Fail,
        Ok(instance) if instance.loading => Role::Fail,
        _ if is_named => Role::Primary,
        Ok(Instance { role: ServerRole::Replica { link_down_for: Some(down), .. }, .. })
            if params.ro_max_stale.is_some_and(|most| *down > most) =>
        {
            Role::Fail
        }
        // Could not tell is not no, and not yes either.
        Err(_) if me.permanent(attribute) == Some(Role::Fail.as_str()) => Role::Fail,
        _ => Role::Replica,
    };
    let clear = if is_named {
        cib.nodes.iter().filter(|node| node.id != me.id && says_primary(node)).cloned().collect()
    } else {
        Vec::new()
    };
    let set = (me.permanent(attribute) != Some(role.as_str())).then_some(role);
    Plan { clear, set, role, settled: fenced(me) || !stale_primary }
}

/// Whether an operator keeps this node's ports closed.
pub fn fenced(node: &Node) -> bool {
    node.attribute(FENCE_ATTRIBUTE).is_some()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pacemaker::cib;

    fn cluster(roles: [Option<&str>; 3], fenced: bool) -> Cib {
        let nodes: String = roles
            .iter()
            .zip(1..)
            .map(|(role, n)| {
                let role = role.map_or(String::new(), |role| {
                    format!("<nvpair id=\"n{n}-r\" name=\"redis_role\" value=\"{role}\"/>")
                });
                let fence = if fenced && n == 1 {
                    "<nvpair id=\"n1-f\" name=\"redis_fence\" value=\"by root\"/>"
                } else {
                    ""
                };
                format!("<node id=\"{n}\" uname=\"node{n}\"><instance_attributes id=\"n{n}\">{role}{fence}</instance_attributes></node>")
            })
            .collect();
        cib::parse(&format!("<cib><configuration><nodes>{nodes}</nodes></configuration></cib>")).unwrap()
    }

    fn says(role: ServerRole) -> Result<Instance, AskError> {
        Ok(Instance { run_id: "1".into(), role, ..Instance::default() })
    }

    fn primary() -> Result<Instance, AskError> {
        says(ServerRole::Primary { replicas: vec![] })
    }

    fn replica() -> Result<Instance, AskError> {
        says(ServerRole::Replica { of: "10.0.0.2:6379".into(), link_up: true, link_down_for: None })
    }

    fn of_node1(cib: &Cib, named: &str, local: &Result<Instance, AskError>) -> Plan {
        plan(cib.node("node1").unwrap(), named, local, cib, &Params::read(|_| None).unwrap())
    }

    #[test]
    fn the_new_primary_clears_the_old_one() {
        let cib = cluster([Some("replica"), Some("primary"), Some("replica")], false);
        let plan = of_node1(&cib, "node1", &primary());
        assert_eq!(plan.set, Some(Role::Primary));
        assert_eq!(plan.clear.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["node2"]);
        assert!(plan.settled);
    }

    #[test]
    fn the_old_primary_fails_until_its_redis_is_a_replica() {
        let cib = cluster([Some("primary"), Some("replica"), None], false);
        let plan = of_node1(&cib, "node2", &primary());
        assert_eq!((plan.set, plan.settled, plan.clear.len()), (Some(Role::Fail), false, 0));
        let cib = cluster([Some("fail"), Some("primary"), None], false);
        let plan = of_node1(&cib, "node2", &replica());
        assert_eq!((plan.set, plan.settled), (Some(Role::Replica), true));
    }

    #[test]
    fn what_is_right_is_not_written_again() {
        let cib = cluster([Some("replica"), Some("primary"), Some("replica")], false);
        let plan = of_node1(&cib, "node2", &replica());
        assert_eq!((plan.set, plan.clear.len(), plan.role), (None, 0, Role::Replica));
    }

    #[test]
    fn a_fence_is_never_lifted() {
        let cib = cluster([Some("fail"), Some("primary"), None], true);
        for named in ["node1", "node2"] {
            let plan = of_node1(&cib, named, &primary());
            assert_eq!((plan.role, plan.set, plan.settled), (Role::Fail, None, true));
        }
    }

    #[test]
    fn a_redis_that_is_down_or_loading_fails_and_comes_back() {
        let loading = Ok(Instance { loading: true, ..replica().unwrap() });
        for named in ["node1", "node2"] {
            let cib = cluster([Some("replica"), None, None], false);
            assert_eq!(of_node1(&cib, named, &Err(AskError::Refused)).set, Some(Role::Fail));
            assert_eq!(of_node1(&cib, named, &loading).set, Some(Role::Fail));
        }
        let cib = cluster([Some("fail"), None, None], false);
        assert_eq!(of_node1(&cib, "node2", &replica()).set, Some(Role::Replica));
    }

    #[test]
    fn could_not_tell_changes_nothing() {
        for (was, set) in [(Some("fail"), None), (Some("replica"), None), (None, Some(Role::Replica))] {
            let cib = cluster([was, None, None], false);
            assert_eq!(of_node1(&cib, "node2", &Err(AskError::Silent)).set, set);
        }
    }

    #[test]
    fn a_replica_without_its_primary_fails_after_a_while() {
        let cib = cluster([None, None, None], false);
        let down = |seconds| {
            let down = Some(Duration::from_secs(seconds));
            says(ServerRole::Replica { of: "10.0.0.2:6379".into(), link_up: false, link_down_for: down })
        };
        assert_eq!(of_node1(&cib, "node2", &down(60)).role, Role::Replica);
        assert_eq!(of_node1(&cib, "node2", &down(61)).role, Role::Fail);
        let params = Params::read(|name| (name == "ro_max_stale").then(|| "0".to_owned())).unwrap();
        let for_ever = plan(cib.node("node1").unwrap(), "node2", &down(6000), &cib, &params);
        assert_eq!(for_ever.role, Role::Replica);
    }
}
