//! Which resources of the cluster guard a master name, and what they permit on this node.
//!
//! Two layouts. In the one, a promotable `ocf:rolegate:gate` permits: its agent writes what Pacemaker has asked for, and that is
//! the permission. In the classic one (of ansible-redis-ha), `ocf:rolegate:block` forbids: where it runs, its port is closed.
//! What does not run says nothing at all, and on the primary's node nothing runs; so there the permission is derived:
//!
//! > A port may open where this node's own role in the CIB allows it (read-only: primary or replica; read-write: primary; none
//! > under an operator's fence), and Pacemaker has looked at each block of the master name since this machine booted, and
//! > none of that port runs.
//!
//! That is enough, because it is only the permission: the read-write port opens by the same lease as a gate's, with the
//! majority's proof and everybody else closed. "Has looked" is a file under /run that a probe, a start or a stop leaves. Without it a
//! machine that boots would act on roles and fences as they were when it went down. Where the read-only port may not open, the
//! read-write port may not either.
//!
//! A master name with a gate is its gate's alone: blocks beside it permit nothing and close their ports.

use std::borrow::Cow;

use crate::gate::{Port, Ports};
use crate::pacemaker::Cib;
use crate::pacemaker::cib::{Node, Resource};
use crate::params::{ParamError, Params, read_port};
use crate::permission::{Granted, Store, StoreError};
use crate::record::RecordError;
use crate::role::Role;
use crate::roles;

/// What guards one master name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// The gate; or of several blocks the one that closes for writing, if there is one.
    pub resource: Resource,
    /// The parameters, in which the blocks of a master name agree.
    pub params: Params,
    /// All its blocks with their ports; none where it is a gate.
    pub blocks: Vec<(Port, Resource)>,
}

impl Guard {
    /// The gate's resource, or those of all blocks.
    pub fn resources(&self) -> impl Iterator<Item = &Resource> {
        let gate = self.blocks.is_empty().then_some(&self.resource);
        gate.into_iter().chain(self.blocks.iter().map(|(_, resource)| resource))
    }

    /// Whether it is made of the classic layout's blocks.
    pub fn is_blocks(&self) -> bool {
        !self.blocks.is_empty()
    }

    /// Where its permission on this node is read.
    pub fn permits(&self) -> Permits {
        match self.blocks.as_slice() {
            [] => Permits::Gate(Store::new(&self.resource.id)),
            blocks => Permits::Blocks(
                blocks.iter().map(|(port, resource)| (*port, resource.id.clone(), Store::new(&resource.id))).collect(),
            ),
        }
    }
}

/// Why a resource guards nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// A parameter cannot be.
    #[error(transparent)]
    Parameter(#[from] ParamError),
    /// What it needs for itself is another's.
    #[error(transparent)]
    Shared(#[from] Shared),
}

/// What a gate has in common with another one, and must not: one of them would close, turn or promote what is the other's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: used by {with} (master name {master}) already, each gate needs its own", self.list())]
pub struct Shared {
    /// Its own parameters, with their values.
    pub parameters: Vec<(&'static str, String)>,
    /// The other's resource.
    pub with: String,
    /// The other's master name.
    pub master: String,
}

impl Shared {
    fn list(&self) -> String {
        let one = |(name, value): &(&str, String)| format!("{name}={value}");
        self.parameters.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

/// What `one` has in common with `other`.
fn shared(one: &Guard, other: &Guard) -> Option<Shared> {
    let (a, b) = (&one.params, &other.params);
    let ports = [("ro_port", a.ports.ro), ("rw_port", a.ports.rw), ("redis_port", a.ports.redis)];
    let theirs = [b.ports.ro, b.ports.rw, b.ports.redis];
    let names = [("master", &a.master, &b.master), ("attribute", &a.attribute, &b.attribute)];
    let names = names.into_iter().filter(|(_, a, b)| a == b).map(|(name, value, _)| (name, value.clone()));
    let ports =
        ports.into_iter().filter(|(_, port)| theirs.contains(port)).map(|(name, port)| (name, port.to_string()));
    let parameters: Vec<_> = names.chain(ports).collect();
    let shared = Shared { parameters, with: other.resource.id.clone(), master: b.master.clone() };
    (!shared.parameters.is_empty()).then_some(shared)
}

/// The guards that share nothing with one that goes before them. All nodes must come to the same, and a newcomer must not take
/// down what works: one with a record goes before one without, then the order of the CIB counts, in which gates are before blocks.
fn apart(guards: Vec<Guard>, bad: &mut Vec<(Resource, Unusable)>) -> Vec<Guard> {
    let rank = |guard: &Guard| match guard.params.record {
        Ok(_) => 0,
        Err(RecordError::Missing) => 2,
        Err(_) => 1,
    };
    let mut order: Vec<usize> = (0..guards.len()).collect();
    order.sort_by_key(|n| rank(&guards[*n]));
    let mut kept = Vec::new();
    for n in order {
        match kept.iter().find_map(|before: &usize| shared(&guards[n], &guards[*before])) {
            Some(shared) => bad.extend(guards[n].resources().map(|one| (one.clone(), shared.clone().into()))),
            None => kept.push(n),
        }
    }
    guards.into_iter().enumerate().filter(|(n, _)| kept.contains(n)).map(|(_, guard)| guard).collect()
}

/// The master name of a resource, whatever its other parameters are.
pub fn master_of(resource: &Resource) -> &str {
    let set = resource.parameters.get("master").map(String::as_str).filter(|master| !master.is_empty());
    set.unwrap_or(crate::params::default_of("master"))
}

/// What guards each master name of the cluster, and the resources that cannot.
pub fn guards(cib: &Cib) -> (Vec<Guard>, Vec<(Resource, Unusable)>) {
    let (mut good, mut bad) = (Vec::<Guard>::new(), Vec::new());
    for resource in &cib.gates {
        match Params::read(|name| resource.parameters.get(name).cloned()) {
            Ok(params) => good.push(Guard { resource: resource.clone(), params, blocks: Vec::new() }),
            Err(error) => bad.push((resource.clone(), error.into())),
        }
    }
    for resource in &cib.blocks {
        let get = |name: &str| resource.parameters.get(name).cloned();
        let (port, params) = match (read_port(get), Params::read(get)) {
            (Ok(port), Ok(params)) => (port, params),
            (Err(error), _) | (_, Err(error)) => {
                bad.push((resource.clone(), error.into()));
                continue;
            }
        };
        let Some(guard) = good.iter_mut().find(|guard| guard.params.master == params.master) else {
            good.push(Guard { resource: resource.clone(), params, blocks: vec![(port, resource.clone())] });
            continue;
        };
        if !guard.is_blocks() {
            continue;
        }
        guard.params.record = agreed(&guard.params, &params);
        let with_record = Params { record: guard.params.record.clone(), ..params };
        if with_record != guard.params {
            let expected = format!("the same ports, attribute and times as {}", guard.resource.id);
            let error = ParamError { name: "master", value: guard.params.master.clone(), expected };
            bad.push((resource.clone(), error.into()));
            // Which of them holds nobody can tell: no record, so nothing is opened anew.
            guard.params.record = Err(contradiction());
            continue;
        }
        if port == Port::Rw {
            guard.resource = resource.clone();
        }
        guard.blocks.push((port, resource.clone()));
    }
    let good = apart(good, &mut bad);
    (good, bad)
}

/// The record of two blocks: one that only one of them has is half written.
fn agreed(a: &Params, b: &Params) -> Result<crate::record::Record, RecordError> {
    match (&a.record, &b.record) {
        (a, b) if a == b => a.clone(),
        (Err(RecordError::Missing), _) | (_, Err(RecordError::Missing)) => Err(RecordError::Missing),
        _ => Err(contradiction()),
    }
}

fn contradiction() -> RecordError {
    RecordError::Syntax {
        parameter: "sentinels, nodes",
        entry: "of one block".to_owned(),
        expected: "what the other block of the master name has",
    }
}

/// What is permitted on this node, as read at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    /// What may open.
    pub granted: Option<Granted>,
    /// Why not more.
    pub why: Cow<'static, str>,
}

/// Where a permission on this node is read.
#[derive(Debug, Clone)]
pub enum Permits {
    /// From what the gate's agent wrote.
    Gate(Store),
    /// From this node's role, and what the agents of these blocks wrote.
    Blocks(Vec<(Port, String, Store)>),
}

impl Permits {
    /// Reads it, for these ports and a node that is set so.
    ///
    /// # Errors
    /// [`StoreError`] where it cannot be told.
    pub fn read(&self, ports: Ports, own: Own) -> Result<Permit, StoreError> {
        let read = |store: &Store| -> Result<Option<Granted>, StoreError> {
            Ok(store.read()?.filter(|permission| permission.ports == ports).map(|permission| permission.granted))
        };
        match self {
            // Pacemaker stops the gate for it, but not in maintenance mode, nor where it stands still.
            Permits::Gate(store) if own.fenced => Ok(Permit {
                granted: read(store)?.map(|granted| granted.min(Granted::Stopping)),
                why: "an operator has fenced this node".into(),
            }),
            Permits::Gate(store) => {
                Ok(Permit { granted: read(store)?, why: "Pacemaker has not promoted the gate here".into() })
            }
            Permits::Blocks(blocks) => {
                let mut states = Vec::with_capacity(blocks.len());
                for (port, id, store) in blocks {
                    states.push((*port, id.as_str(), read(store)?));
                }
                Ok(derived(own.role, &states))
            }
        }
    }

    /// Whether it may be another one for a node that is set so.
    pub fn differs(&self, one: Own, other: Own) -> bool {
        match self {
            Permits::Gate(_) => one.fenced != other.fenced,
            Permits::Blocks(_) => one != other,
        }
    }
}

/// What the CIB says of this node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Own {
    /// Its role, where that counts: see [`own_role`].
    pub role: Option<Role>,
    /// An operator keeps its ports closed.
    pub fenced: bool,
}

impl Own {
    /// Of `node`, in the attribute of one master name.
    pub fn of(node: &Node, attribute: &str) -> Self {
        Own { role: own_role(node, attribute), fenced: roles::fenced(node) }
    }
}

/// What this node's role may permit: none where it has no role, or is fenced.
pub fn own_role(node: &Node, attribute: &str) -> Option<Role> {
    if roles::fenced(node) {
        return None;
    }
    node.attribute(attribute)?.parse().ok()
}

/// What a block that does not run leaves to the role.
pub fn left_by(port: Port) -> Granted {
    match port {
        Port::Ro => Granted::Started,
        Port::Rw => Granted::Promoted,
    }
}

/// The rule of the module. Pure.
fn derived(role: Option<Role>, blocks: &[(Port, &str, Option<Granted>)]) -> Permit {
    let nothing = |why: String| Permit { granted: Some(Granted::Stopping), why: why.into() };
    if let Some((_, id, _)) = blocks.iter().find(|(_, _, state)| state.is_none()) {
        return nothing(format!("Pacemaker has not looked at {id} here since boot"));
    }
    let runs = |port: Port| {
        let running = |(of, _, state): &&(Port, &str, Option<Granted>)| *of == port && *state != Some(left_by(port));
        blocks.iter().find(running).map(|(_, id, _)| format!("{id} runs here"))
    };
    let Some(role) = role.filter(|role| *role != Role::Fail) else {
        return nothing("this node's role allows neither port".to_owned());
    };
    match (runs(Port::Ro), runs(Port::Rw)) {
        (Some(why), _) => nothing(why),
        (None, Some(why)) => Permit { granted: Some(Granted::Started), why: why.into() },
        (None, None) if role != Role::Primary => {
            Permit { granted: Some(Granted::Started), why: "this node's role is not primary".into() }
        }
        (None, None) => Permit { granted: Some(Granted::Promoted), why: "".into() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pacemaker::cib;
    use proptest::prelude::*;

    const RO: &str = "RedisLBReadBlock";
    const RW: &str = "RedisLBWriteBlock";

    fn resource(kind: &str, id: &str, parameters: &[(&str, &str)]) -> String {
        let pairs: String = parameters
            .iter()
            .map(|(name, value)| format!("<nvpair id=\"{id}-{name}\" name=\"{name}\" value=\"{value}\"/>"))
            .collect();
        format!(
            "<primitive id=\"{id}\" class=\"ocf\" provider=\"rolegate\" type=\"{kind}\">\
             <instance_attributes id=\"{id}-i\">{pairs}</instance_attributes></primitive>"
        )
    }

    fn read(resources: &[String]) -> (Vec<Guard>, Vec<(Resource, Unusable)>) {
        let xml = format!("<cib><configuration><resources>{}</resources></configuration></cib>", resources.concat());
        guards(&cib::parse(&xml).unwrap())
    }

    #[test]
    fn the_blocks_of_a_master_name_are_one_guard() {
        let record = crate::record::tests::three();
        let (sentinels, nodes) = (record.sentinels_parameter(), record.nodes_parameter());
        let both: [(&str, &str); 2] = [("sentinels", &sentinels), ("nodes", &nodes)];
        let block = |id, port, record: &[(&str, &str)]| resource("block", id, &[&[("port", port)], record].concat());
        let (good, bad) = read(&[block(RO, "ro", &both), block(RW, "rw", &both)]);
        let [guard] = good.as_slice() else { panic!("{good:?}") };
        assert!(bad.is_empty());
        assert_eq!((guard.resource.id.as_str(), guard.params.record.as_ref()), (RW, Ok(&record)));
        assert_eq!(guard.resources().map(|resource| resource.id.as_str()).collect::<Vec<_>>(), [RO, RW]);
        // Half written, and contradicting each other.
        let (good, _) = read(&[block(RO, "ro", &both), block(RW, "rw", &[])]);
        assert_eq!(good[0].params.record, Err(RecordError::Missing));
        let (good, bad) = read(&[block(RO, "ro", &both), block(RW, "rw", &[both[0], both[1], ("rw_port", "7000")])]);
        assert!(good[0].params.record.is_err() && bad.len() == 1 && bad[0].0.id == RW, "{good:?} {bad:?}");
        // The gate alone counts where there is one.
        let (good, _) = read(&[resource("gate", "RedisGate", &both), block(RW, "rw", &both)]);
        assert_eq!((good.len(), good[0].is_blocks()), (1, false));
        let (good, bad) = read(&[block(RW, "write", &both)]);
        assert!(good.is_empty() && bad[0].1.to_string().contains("port=\"write\""), "{bad:?}");
    }

    #[test]
    fn what_shares_a_port_or_the_attribute_with_one_before_it_guards_nothing() {
        let record = crate::record::tests::three();
        let (sentinels, nodes) = (record.sentinels_parameter(), record.nodes_parameter());
        let both: [(&str, &str); 2] = [("sentinels", &sentinels), ("nodes", &nodes)];
        let own = [
            ("master", "other"),
            ("attribute", "other_role"),
            ("ro_port", "7380"),
            ("rw_port", "7381"),
            ("redis_port", "7379"),
        ];
        let working = resource("gate", "RedisGate", &both);
        let with = |name: &str, value: &'static str| {
            let mut set: Vec<(&str, &str)> = own.iter().copied().filter(|(own, _)| *own != name).collect();
            set.extend(
                own.iter().find(|(own, _)| *own == name).filter(|_| !value.is_empty()).map(|(own, _)| (*own, value)),
            );
            set
        };
        let (good, bad) = read(&[working.clone(), resource("gate", "Other", &own)]);
        assert!(good.len() == 2 && bad.is_empty(), "{bad:?}");
        for (name, value, shown) in [
            ("attribute", "", "attribute=redis_role"),
            ("ro_port", "", "ro_port=6380"),
            ("rw_port", "", "rw_port=6381"),
            ("redis_port", "", "redis_port=6379"),
            ("rw_port", "6380", "rw_port=6380"),
            ("redis_port", "6381", "redis_port=6381"),
            ("ro_port", "6379", "ro_port=6379"),
        ] {
            let newcomer = with(name, value);
            // Wherever it stands in the CIB: the one that works has a record.
            for newcomer_first in [true, false] {
                let newcomer = resource("gate", "Other", &newcomer);
                let resources = if newcomer_first { [newcomer, working.clone()] } else { [working.clone(), newcomer] };
                let (good, bad) = read(&resources);
                let [guard] = good.as_slice() else { panic!("{shown}: {good:?}") };
                assert_eq!(guard.resource.id, "RedisGate", "{shown}");
                let [(resource, why)] = bad.as_slice() else { panic!("{shown}: {bad:?}") };
                let why = why.to_string();
                assert!(
                    resource.id == "Other" && why.contains(shown) && why.contains("RedisGate (master name mymaster)"),
                    "{why}"
                );
            }
        }
        // Both with a record: the order of the CIB.
        let recorded = resource("gate", "Other", &[&with("rw_port", ""), &both[..]].concat());
        assert_eq!(read(&[recorded.clone(), working.clone()]).0[0].resource.id, "Other");
        assert_eq!(read(&[working.clone(), recorded]).0[0].resource.id, "RedisGate");
        // A second gate of one master name.
        let second =
            resource("gate", "Second", &[("attribute", "a"), ("ro_port", "1"), ("rw_port", "2"), ("redis_port", "3")]);
        let (good, bad) = read(&[second, working.clone()]);
        assert!(good.len() == 1 && bad[0].1.to_string().contains("master=mymaster"), "{bad:?}");
        // Blocks, all of a master name together, against a gate and against each other.
        let block = |id: &str, port: &'static str, more: &[(&str, &str)]| {
            resource("block", id, &[&[("port", port)], more].concat())
        };
        let named = [("master", "other"), ("attribute", "other_role")];
        let (good, bad) = read(&[working, block("R", "ro", &named), block("W", "rw", &named)]);
        assert_eq!((good.len(), bad.len()), (1, 2), "{bad:?}");
        let (good, bad) =
            read(&[block("R", "ro", &named), block("W", "rw", &named), block(RO, "ro", &both), block(RW, "rw", &both)]);
        assert_eq!((good[0].resource.id.as_str(), bad.len()), (RW, 2), "{good:?} {bad:?}");
    }

    #[test]
    fn a_fence_is_no_role() {
        let node = |attributes: &str| {
            let xml = format!(
                "<cib><configuration><nodes><node id=\"1\" uname=\"node1\"><instance_attributes id=\"n\">{attributes}\
                 </instance_attributes></node></nodes></configuration></cib>"
            );
            own_role(cib::parse(&xml).unwrap().node("node1").unwrap(), "redis_role")
        };
        let primary = "<nvpair id=\"r\" name=\"redis_role\" value=\"primary\"/>";
        assert_eq!(node(primary), Some(Role::Primary));
        assert_eq!(node(&format!("{primary}<nvpair id=\"f\" name=\"redis_fence\" value=\"by root\"/>")), None);
        assert_eq!(node(""), None);
    }

    proptest! {
        #[test]
        fn a_port_opens_by_its_role_and_with_no_block_running(
            role in prop::option::of(prop::sample::select(vec![Role::Primary, Role::Replica, Role::Fail])),
            ro in prop::option::of(prop::sample::select(vec![Granted::Stopping, Granted::Started])),
            rw in prop::option::of(prop::sample::select(vec![Granted::Stopping, Granted::Promoted])),
        ) {
            let permit = derived(role, &[(Port::Ro, RO, ro), (Port::Rw, RW, rw)]);
            let ro_may = matches!(role, Some(Role::Primary | Role::Replica)) && ro == Some(Granted::Started) && rw.is_some();
            let rw_may = role == Some(Role::Primary) && ro_may && rw == Some(Granted::Promoted);
            prop_assert_eq!(permit.granted >= Some(Granted::Started), ro_may);
            prop_assert_eq!(permit.granted == Some(Granted::Promoted), rw_may);
            prop_assert_eq!(permit.why.is_empty(), rw_may);
        }
    }
}
