//! Whether what this gate needs for itself is another gate's here. Its agent must then leave that alone: to start or stop would close
//! and turn the ports of a gate that works.
//!
//! Who runs here has its ports. Else the CIB says whose they are, the same on all nodes ([`crate::layout::guards`]).

use std::collections::BTreeMap;

use super::gate::{Failed, failed};
use crate::exit::OcfCode;
use crate::gate::Ports;
use crate::layout::{self, Shared, Unusable};
use crate::pacemaker::Cib;
use crate::pacemaker::cib::Resource;
use crate::permission::{Permission, Store};

/// What is known of others.
#[derive(Debug, Default)]
pub(super) struct Others {
    /// What the CIB gives to another gate.
    shared: Option<Shared>,
    /// Whether this one has been made to work by `rolegate init`.
    has_record: bool,
    /// The ports for which agents of other gates have left something here, and the resource of each.
    held: BTreeMap<u16, String>,
}

impl Others {
    /// What this node's disk tells of others than `mine`, a block or a gate with its parameters as its agent has them. Nothing where
    /// it has no CIB.
    pub(super) fn read(mine: &Resource, is_block: bool) -> Self {
        let Ok(cib) = crate::pacemaker::read_cib_on_disk() else { return Others::default() };
        let stored = |id: &str| Store::new(id).read().ok().flatten();
        Others::among(cib, mine, is_block, stored)
    }

    /// The same from the CIB and what agents have left. Pure.
    fn among(mut cib: Cib, mine: &Resource, is_block: bool, stored: impl Fn(&str) -> Option<Permission>) -> Self {
        // A gate and blocks of one master name are no strangers.
        let ours = |other: &Resource, other_is_block: bool| {
            other.id == mine.id || ((is_block || other_is_block) && layout::master_of(other) == layout::master_of(mine))
        };
        let gates = cib.gates.iter().filter(|other| !ours(other, false));
        let others = gates.chain(cib.blocks.iter().filter(|other| !ours(other, true)));
        let mut held = BTreeMap::new();
        for other in others {
            if let Some(Permission { ports, .. }) = stored(&other.id) {
                held.extend([(ports.ro, other.id.clone()), (ports.rw, other.id.clone())]);
            }
        }
        // What the disk has of this one may be of before. What it does not have is new, and stands behind all others.
        let all = if is_block { &mut cib.blocks } else { &mut cib.gates };
        match all.iter_mut().find(|resource| resource.id == mine.id) {
            Some(known) => known.parameters.clone_from(&mine.parameters),
            None => all.push(mine.clone()),
        }
        let (_, bad) = layout::guards(&cib);
        let shared = bad.into_iter().find_map(|(resource, why)| match why {
            Unusable::Shared(shared) if resource.id == mine.id => Some(shared),
            _ => None,
        });
        let has_record = mine.parameters.get("sentinels").is_some_and(|sentinels| !sentinels.is_empty());
        Others { shared, has_record, held }
    }

    /// Why this gate must not run on `ports`, if so, where `permission` is what Pacemaker has asked of it.
    pub(super) fn refuse(&self, permission: Option<Permission>, ports: Ports) -> Result<(), Failed> {
        let runs = permission.is_some_and(|permission| permission.ports == ports);
        let taken = [ports.rw, ports.ro].into_iter().find_map(|port| Some((port, self.held.get(&port)?)));
        match (&self.shared, taken) {
            // A slip in another gate's parameters must not stop this one.
            (Some(_), None) if runs => Ok(()),
            // Everywhere and for good; but one that once worked is stopped only where another works.
            (Some(shared), _) => {
                let code = if self.has_record { OcfCode::Arguments } else { OcfCode::Configured };
                Err(failed(code, shared.to_string()))
            }
            (None, Some((port, id))) if !runs => {
                Err(failed(OcfCode::Generic, format!("port {port} is still used by {id} here")))
            }
            (None, _) => Ok(()),
        }
    }

    /// Whether `port` is another's to close.
    pub(super) fn keep(&self, port: u16, permission: Option<Permission>) -> bool {
        let mine = permission.is_some_and(|permission| [permission.ports.ro, permission.ports.rw].contains(&port));
        self.held.contains_key(&port) && (self.shared.is_some() || !mine)
    }

    /// Whether the CIB gives to another what this one needs.
    pub(super) fn shares(&self) -> bool {
        self.shared.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permission::Granted;

    fn resource(id: &str, parameters: &[(&str, &str)]) -> Resource {
        let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Resource { id: id.into(), parameters, ..Resource::default() }
    }

    fn working() -> Resource {
        let record = crate::record::tests::three();
        resource("RedisGate", &[("sentinels", &record.sentinels_parameter()), ("nodes", &record.nodes_parameter())])
    }

    fn newcomer() -> Resource {
        resource("Other", &[("master", "other"), ("attribute", "a"), ("ro_port", "7380"), ("redis_port", "7379")])
    }

    const TAKES: Ports = Ports { ro: 7380, rw: 6381, redis: 7379 };

    fn permission(ports: Ports) -> Permission {
        Permission { granted: Granted::Promoted, ports }
    }

    /// With RedisGate's permission or without.
    fn others(mine: &Resource, gates: Vec<Resource>, stored: &[(&str, Ports)]) -> Others {
        let cib = Cib { gates, ..Cib::default() };
        let stored = |id: &str| stored.iter().find(|(of, _)| *of == id).map(|(_, ports)| permission(*ports));
        Others::among(cib, mine, false, stored)
    }

    #[test]
    fn a_newcomer_is_refused_on_each_node_and_closes_nothing_of_the_other() {
        for stored in [&[][..], &[("RedisGate", Ports::default())]] {
            // Also before this node's disk has it.
            for gates in [vec![working()], vec![newcomer(), working()]] {
                let found = others(&newcomer(), gates, stored);
                let Failed { code, reason } = found.refuse(None, TAKES).unwrap_err();
                assert!(code == OcfCode::Configured && reason.contains("rw_port=6381: used by RedisGate"), "{reason}");
                assert_eq!((found.keep(6381, None), found.keep(7380, None)), (!stored.is_empty(), false));
                // Not even what it opened when nobody stopped it.
                assert_eq!(found.keep(6381, Some(permission(TAKES))), !stored.is_empty());
            }
            let found = others(&working(), vec![newcomer(), working()], stored);
            assert_eq!(found.refuse(None, Ports::default()), Ok(()));
            assert!(!found.keep(6381, None) && !found.keep(6381, Some(permission(Ports::default()))));
        }
    }

    #[test]
    fn a_slip_in_anothers_parameters_stops_nobody_who_runs() {
        // The one that goes before has just been given the port of the one that runs.
        let record = working().parameters;
        let mut slipped = newcomer();
        slipped.parameters.extend(record);
        let gates = vec![slipped.clone(), working()];
        let runs = Some(permission(Ports::default()));
        let ours = others(&working(), gates.clone(), &[]);
        assert_eq!(ours.refuse(runs, Ports::default()), Ok(()));
        assert!(ours.refuse(None, Ports::default()).is_err_and(|failed| failed.code == OcfCode::Arguments));
        let theirs = others(&slipped, gates.clone(), &[("RedisGate", Ports::default())]);
        assert_eq!(theirs.refuse(None, TAKES).unwrap_err().code, OcfCode::Generic);
        assert!(theirs.keep(6381, None));
        // Both run: the CIB says who stops.
        let ours = others(&working(), gates, &[("Other", TAKES)]);
        assert!(ours.refuse(runs, Ports::default()).is_err() && ours.keep(6381, runs));
    }

    #[test]
    fn what_is_gone_from_the_cluster_holds_nothing() {
        let found = others(&working(), vec![working()], &[("Gone", TAKES)]);
        assert_eq!(found.refuse(None, Ports::default()), Ok(()));
        assert!(!found.keep(6381, None));
    }

    #[test]
    fn a_gate_and_blocks_of_one_master_name_are_no_strangers() {
        let cib = Cib { gates: vec![working()], ..Cib::default() };
        let block = resource("RedisLBWriteBlock", &[("port", "rw")]);
        let found = Others::among(cib, &block, true, |_| Some(permission(Ports::default())));
        assert_eq!(found.refuse(None, Ports::default()), Ok(()));
        assert!(!found.keep(6381, None) && !found.shares());
    }
}
