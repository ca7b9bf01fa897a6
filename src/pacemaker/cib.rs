//! The parts of the CIB that matter here: quorum, nodes with their attributes, gate and block
//! resources with their parameters, addresses that the cluster manages, location rules.

use std::collections::BTreeMap;
use std::net::IpAddr;

use roxmltree::{Document, Node as Element};

use super::PacemakerError;
use crate::params::{BLOCK, GATE, PROVIDER};

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cib {
    /// `have-quorum`, where shown (an ACL may hide it). May lag behind by a moment.
    pub have_quorum: Option<bool>,
    /// Cluster properties, such as stonith-enabled.
    pub properties: BTreeMap<String, String>,
    /// `admin_epoch` and `epoch`: another one behind each change of the configuration. None of what was read from the disk.
    pub version: Option<(String, String)>,
    /// The nodes, in the CIB's order.
    pub nodes: Vec<Node>,
    /// The resources of agent ocf:rolegate:gate.
    pub gates: Vec<Resource>,
    /// The resources of agent ocf:rolegate:block.
    pub blocks: Vec<Resource>,
    /// The ids of the fencing devices (class `stonith`).
    pub fencing: Vec<String>,
    /// The addresses that some resource of the cluster manages (parameter `ip`), with its id.
    pub managed_addresses: Vec<(String, IpAddr)>,
    /// The location constraints.
    pub locations: Vec<Location>,
}

/// A node and its attributes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// The CIB's id of it.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Permanent attributes: value and nvpair id, the first where there are several.
    permanent: BTreeMap<String, (String, String)>,
    /// The id of the set in which each of them is.
    sets: BTreeMap<String, String>,
    /// Transient attributes, which hide permanent ones of the same name in rules.
    transient: BTreeMap<String, String>,
    /// STONITH has confirmed it off, and nothing was heard of it since: what the controllers last noted of it is that
    /// ([`is_confirmed_off`]). Never so in what was read from the disk.
    pub confirmed_off: bool,
}

impl Node {
    /// The value that location rules see.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.transient(name).or_else(|| self.permanent(name))
    }

    /// The permanent value, which `crm_attribute` writes.
    pub fn permanent(&self, name: &str) -> Option<&str> {
        self.permanent.get(name).map(|(value, _)| value.as_str())
    }

    /// The transient value, which hides the permanent one.
    pub fn transient(&self, name: &str) -> Option<&str> {
        self.transient.get(name).map(String::as_str)
    }

    /// Failures of `resource` here that are remembered: the sum of `fail-count-RESOURCE#...`;
    /// INFINITY counts as `u64::MAX`.
    pub fn fail_count(&self, resource: &str) -> u64 {
        let prefix = format!("fail-count-{resource}#");
        let counts = self.transient.iter().filter(|(name, _)| name.starts_with(&prefix));
        counts
            .map(|(_, value)| if value == "INFINITY" { u64::MAX } else { value.parse().unwrap_or(0) })
            .fold(0, u64::saturating_add)
    }

    /// The id of the set that the permanent attribute is in.
    pub fn attribute_set(&self, name: &str) -> Option<&str> {
        self.sets.get(name).map(String::as_str)
    }

    /// The id of the permanent attribute's nvpair.
    pub fn attribute_id(&self, name: &str) -> Option<&str> {
        self.permanent.get(name).map(|(_, id)| id.as_str())
    }
}

/// A resource of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resource {
    /// The primitive's id, for example RedisGate.
    pub id: String,
    /// The id that constraints name: the clone around it, or its own.
    pub outer_id: String,
    /// The parameters that are set; an agent's defaults are not there.
    pub parameters: BTreeMap<String, String>,
    /// The id of its first set of parameters, where it has one.
    pub parameters_id: Option<String>,
    /// The ids of the nvpairs in that set, by parameter.
    pub parameter_ids: BTreeMap<String, String>,
    /// The meta-attributes that are set for it: on it, its template, the clone around it, or by default for all.
    pub meta: BTreeMap<String, String>,
    /// The id of its own set of meta-attributes, where it has one.
    pub meta_id: Option<String>,
    /// The ids of the nvpairs in that set, by meta-attribute.
    pub meta_ids: BTreeMap<String, String>,
}

impl Resource {
    /// Whether an operator has disabled it (`target-role`).
    pub fn is_disabled(&self) -> bool {
        self.meta.get("target-role").is_some_and(|role| role.eq_ignore_ascii_case("stopped"))
    }
}

/// A location constraint: which resource, and what its rules look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Location {
    /// Its id.
    pub id: String,
    /// The resource that it places.
    pub resource: String,
    /// The node that it names, where it has no rules.
    pub node: Option<String>,
    /// Its score for that node.
    pub score: Option<String>,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// One rule of a location constraint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// `Promoted`, if it is about promotion.
    pub role: Option<String>,
    /// For example INFINITY.
    pub score: Option<String>,
    /// One of its expressions is enough (`boolean-op="or"`).
    pub any: bool,
    /// Its expressions over node attributes: attribute, operation, value.
    pub expressions: Vec<(String, String, Option<String>)>,
    /// Its expressions over time.
    pub dates: Vec<Dates>,
    /// It holds more than that: a rule within it, for example.
    pub more: bool,
}

/// An expression over time, in a rule. The times are as written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dates {
    /// `lt`, `gt`, `in_range` or `date_spec`.
    pub operation: Option<String>,
    /// From when.
    pub start: Option<String>,
    /// Until when.
    pub end: Option<String>,
    /// It has a duration or a pattern of dates within it.
    pub more: bool,
}

/// The time after which a node without quorum has reset itself by its watchdog. Since Pacemaker 3.0.2 it has another name, too.
pub const WATCHDOG: &str = "stonith-watchdog-timeout";

impl Cib {
    /// What can fence: the devices, and [`WATCHDOG`] where nodes do it themselves. Without any Pacemaker starts nothing while STONITH is on.
    pub fn what_fences(&self) -> impl Iterator<Item = &str> {
        let time = self.properties.get("fencing-watchdog-timeout").or(self.properties.get(WATCHDOG));
        let watchdog = time.filter(|time| !["", "0", "0s"].contains(&time.as_str()));
        self.fencing.iter().map(String::as_str).chain(watchdog.map(|_| WATCHDOG))
    }

    /// Whether Pacemaker leaves the resource `id` on `node` as it is: maintenance mode of the cluster, the node or the resource, or
    /// a resource that is not managed.
    pub fn leaves_alone(&self, id: &str, node: &Node) -> bool {
        // As crm_str_to_boolean() of Pacemaker's lib/common/strings.c reads them.
        let is_one_of = |value: Option<&str>, words: [&str; 5]| {
            value.is_some_and(|value| words.iter().any(|word| value.eq_ignore_ascii_case(word)))
        };
        let yes = |value| is_one_of(value, ["true", "on", "yes", "y", "1"]);
        let no = |value| is_one_of(value, ["false", "off", "no", "n", "0"]);
        let property = |name: &str| self.properties.get(name).map(String::as_str);
        let resource = self.gates.iter().chain(&self.blocks).find(|resource| resource.id == id);
        let meta = |name: &str| resource.and_then(|resource| resource.meta.get(name)).map(String::as_str);
        yes(property("maintenance-mode"))
            || yes(node.attribute("maintenance"))
            || yes(meta("maintenance"))
            || no(meta("is-managed").or(property("is-managed-default")))
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name.eq_ignore_ascii_case(name))
    }
}

/// Reads what `cibadmin -Q` prints.
///
/// # Errors
/// [`PacemakerError::Unreadable`] if it is no CIB.
pub fn parse(xml: &str) -> Result<Cib, PacemakerError> {
    let unreadable = |reason: String| PacemakerError::Unreadable { what: "the CIB", reason };
    let document = Document::parse(xml).map_err(|error| unreadable(error.to_string()))?;
    let root = document.root_element();
    if root.tag_name().name() != "cib" {
        return Err(unreadable(format!("its root is <{}>", root.tag_name().name())));
    }
    let configuration = child(root, "configuration").ok_or_else(|| unreadable("no <configuration>".to_owned()))?;
    let mut cib = Cib {
        have_quorum: root.attribute("have-quorum").map(|value| value == "1" || value == "true"),
        version: root.attribute("admin_epoch").zip(root.attribute("epoch")).map(|(a, b)| (a.to_owned(), b.to_owned())),
        ..Cib::default()
    };
    for set in children(configuration, "crm_config").flat_map(|config| children(config, "cluster_property_set")) {
        for (name, value, _) in pairs(set) {
            cib.properties.entry(name).or_insert(value);
        }
    }
    for node in children(configuration, "nodes").flat_map(|nodes| children(nodes, "node")) {
        cib.nodes.push(read_node(root, node));
    }
    for resources in children(configuration, "resources") {
        for top in resources.children().filter(Element::is_element) {
            for primitive in top.descendants().filter(|node| node.has_tag_name("primitive")) {
                read_primitive(&mut cib, resources, top, primitive);
            }
        }
    }
    for resource in cib.gates.iter().chain(&cib.blocks) {
        are_ids(resource).map_err(&unreadable)?;
    }
    for location in children(configuration, "constraints").flat_map(|all| children(all, "rsc_location")) {
        cib.locations.push(Location {
            id: text(location, "id"),
            resource: text(location, "rsc"),
            node: location.attribute("node").map(str::to_owned),
            score: location.attribute("score").map(str::to_owned),
            rules: children(location, "rule").map(read_rule).collect(),
        });
    }
    Ok(cib)
}

/// Whether a resource's ids are ids as XML knows them, which Pacemaker's schema wants: they become parts of XML and XPath.
fn are_ids(resource: &Resource) -> Result<(), String> {
    let Resource { id, outer_id, parameters_id, parameter_ids, meta_id, meta_ids, .. } = resource;
    let all = [id, outer_id].into_iter().chain(parameters_id).chain(meta_id);
    let all = all.chain(parameter_ids.values()).chain(meta_ids.values());
    let is_part = |c: char| c.is_alphanumeric() || ".-_".contains(c);
    match all.into_iter().find(|id| !id.chars().all(is_part)) {
        Some(bad) => Err(format!("{bad:?} is no id: letters, digits, '.', '_' and '-' are (resource {id:?})")),
        None => Ok(()),
    }
}

fn read_node(root: Element, node: Element) -> Node {
    let (id, name) = (text(node, "id"), text(node, "uname"));
    let (mut permanent, mut sets) = (BTreeMap::new(), BTreeMap::new());
    for set in children(node, "instance_attributes") {
        for (name, value, id) in pairs(set) {
            sets.entry(name.clone()).or_insert_with(|| text(set, "id"));
            permanent.entry(name).or_insert((value, id));
        }
    }
    let mut transient = BTreeMap::new();
    let states = children(root, "status").flat_map(|status| children(status, "node_state"));
    for state in states.filter(|state| state.attribute("id") == Some(&id)) {
        let sets = children(state, "transient_attributes").flat_map(|all| children(all, "instance_attributes"));
        for (name, value, _) in sets.flat_map(pairs) {
            transient.entry(name).or_insert(value);
        }
    }
    let states = children(root, "status").flat_map(|status| children(status, "node_state"));
    let confirmed_off = states.filter(|state| state.attribute("id") == Some(&id)).any(is_confirmed_off);
    Node { id, name, permanent, sets, transient, confirmed_off }
}

/// Whether the last that the controllers have noted of a node is that it was fenced.
///
/// Behind a fencing that has succeeded, or that somebody confirmed (`stonith_admin --confirm`), the controller writes join and expected as
/// `down`, and who wrote it (send_stonith_update() of Pacemaker 2.0 and 2.1, update_node_state_after_fencing() of later ones, in
/// controld_fencing.c). A node that leaves in order has `down` there too, but by another writer; and whatever comes later, a node that
/// joins, leaves, or only a cluster that forms anew, writes over it. So could-not-tell is not off.
fn is_confirmed_off(state: Element) -> bool {
    let is = |name: &str, value: &str| state.attribute(name) == Some(value);
    let by = state.attribute("crm-debug-origin").unwrap_or_default();
    // A moment (not 0) where it is a member, since Pacemaker 2.1.7.
    let gone = is("in_ccm", "false") || is("in_ccm", "0");
    let offline = is("crmd", "offline") || is("crmd", "0");
    gone && offline && is("join", "down") && is("expected", "down") && FENCED_BY.contains(&by)
}

/// See [`is_confirmed_off`].
const FENCED_BY: [&str; 2] = ["send_stonith_update", "update_node_state_after_fencing"];

fn read_primitive(cib: &mut Cib, resources: Element, top: Element, primitive: Element) {
    // A primitive may take its agent and parameters from a template.
    let template = primitive
        .attribute("template")
        .and_then(|id| children(resources, "template").find(|template| template.attribute("id") == Some(id)));
    let attribute = |name| primitive.attribute(name).or_else(|| template.and_then(|template| template.attribute(name)));
    let mut parameters = BTreeMap::new();
    for element in [Some(primitive), template].into_iter().flatten() {
        for (name, value, _) in children(element, "instance_attributes").flat_map(pairs) {
            parameters.entry(name).or_insert(value);
        }
    }
    let id = text(primitive, "id");
    if attribute("class") == Some("stonith") {
        cib.fencing.push(id.clone());
    }
    if let Some(address) = parameters.get("ip").and_then(|ip| ip.parse().ok()) {
        cib.managed_addresses.push((id.clone(), address));
    }
    if (attribute("class"), attribute("provider")) != (Some("ocf"), Some(PROVIDER)) {
        return;
    }
    let set = child(primitive, "instance_attributes");
    let defaults = resources.parent().and_then(|configuration| child(configuration, "rsc_defaults"));
    let mut meta = BTreeMap::new();
    for element in [Some(primitive), template, Some(top), defaults].into_iter().flatten() {
        for (name, value, _) in children(element, "meta_attributes").flat_map(pairs) {
            meta.entry(name).or_insert(value);
        }
    }
    let own_meta = child(primitive, "meta_attributes");
    let resource = Resource {
        meta,
        meta_id: own_meta.map(|set| text(set, "id")),
        meta_ids: own_meta.into_iter().flat_map(pairs).map(|(name, _, id)| (name, id)).collect(),
        id,
        outer_id: text(top, "id"),
        parameters,
        parameters_id: set.map(|set| text(set, "id")),
        parameter_ids: set.into_iter().flat_map(pairs).map(|(name, _, id)| (name, id)).collect(),
    };
    match attribute("type") {
        Some(GATE) => cib.gates.push(resource),
        Some(BLOCK) => cib.blocks.push(resource),
        _ => {}
    }
}

fn read_rule(rule: Element) -> Rule {
    Rule {
        role: rule.attribute("role").map(str::to_owned),
        score: rule.attribute("score").map(str::to_owned),
        any: rule.attribute("boolean-op") == Some("or"),
        dates: children(rule, "date_expression")
            .map(|date| Dates {
                operation: date.attribute("operation").map(str::to_owned),
                start: date.attribute("start").map(str::to_owned),
                end: date.attribute("end").map(str::to_owned),
                more: date.has_children(),
            })
            .collect(),
        more: rule.children().any(|inside| {
            inside.is_element() && !["expression", "date_expression"].contains(&inside.tag_name().name())
        }),
        expressions: children(rule, "expression")
            .map(|expression| {
                (
                    text(expression, "attribute"),
                    text(expression, "operation"),
                    expression.attribute("value").map(str::to_owned),
                )
            })
            .collect(),
    }
}

fn child<'a, 'i>(element: Element<'a, 'i>, name: &str) -> Option<Element<'a, 'i>> {
    element.children().find(|child| child.has_tag_name(name))
}

fn children<'a, 'i: 'a>(element: Element<'a, 'i>, name: &'static str) -> impl Iterator<Item = Element<'a, 'i>> {
    element.children().filter(move |child| child.has_tag_name(name))
}

fn text(element: Element, attribute: &str) -> String {
    element.attribute(attribute).unwrap_or_default().to_owned()
}

/// Name, value and id of each nvpair with a value.
fn pairs<'a, 'i: 'a>(set: Element<'a, 'i>) -> impl Iterator<Item = (String, String, String)> {
    children(set, "nvpair")
        .filter(|pair| pair.has_attribute("value"))
        .map(|pair| (text(pair, "name"), text(pair, "value"), text(pair, "id")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_would_be_more_than_ids_are_refused() {
        let cib = |resource: &str, set: &str, pair: &str, meta: &str| {
            parse(&format!(
                "<cib><configuration><resources><clone id=\"c\"><primitive id=\"{resource}\" class=\"ocf\" provider=\"rolegate\" type=\"gate\">\
                 <instance_attributes id=\"{set}\"><nvpair id=\"{pair}\" name=\"lease\" value=\"2s\"/></instance_attributes>\
                 <meta_attributes id=\"{meta}\"/></primitive></clone></resources></configuration></cib>"
            ))
        };
        assert!(cib("Gäte-1", "i.1", "i_1", "m").is_ok());
        for bad in ["it's", "a&quot;b", "a] | //*[b", "a&lt;b", "a b", "$(x)", "a&#10;b"] {
            for read in
                [cib(bad, "i", "p", "m"), cib("g", bad, "p", "m"), cib("g", "i", bad, "m"), cib("g", "i", "p", bad)]
            {
                assert!(read.unwrap_err().to_string().contains("is no id"), "{bad}");
            }
        }
    }

    // Shaped after `cibadmin -Q` of Pacemaker 2.1.5, shortened.
    const CIB: &str = r#"<cib crm_feature_set="3.16.2" have-quorum="1" dc-uuid="1">
      <configuration>
        <crm_config><cluster_property_set id="cib-bootstrap-options">
          <nvpair id="o1" name="stonith-enabled" value="false"/></cluster_property_set></crm_config>
        <nodes>
          <node id="1" uname="node1"><instance_attributes id="nodes-1">
            <nvpair id="nodes-1-redis_role" name="redis_role" value="primary"/></instance_attributes></node>
          <node id="2" uname="node2"/>
        </nodes>
        <resources>
          <template id="t" class="ocf" provider="rolegate" type="gate"><instance_attributes id="ti">
            <nvpair id="ti1" name="master" value="other"/></instance_attributes></template>
          <clone id="RedisGate-clone"><meta_attributes id="m"><nvpair id="m1" name="promotable" value="true"/></meta_attributes>
            <primitive id="RedisGate" class="ocf" provider="rolegate" type="gate">
            <instance_attributes id="RedisGate-instance_attributes">
              <nvpair id="i1" name="nodes" value="node1=10.0.0.1:6379"/></instance_attributes></primitive></clone>
          <clone id="Two-clone"><primitive id="Two" template="t"/></clone>
          <group id="g"><primitive id="vip" class="ocf" provider="heartbeat" type="IPaddr2">
            <instance_attributes id="vi"><nvpair id="vi1" name="ip" value="10.0.0.100"/></instance_attributes></primitive></group>
        </resources>
        <constraints>
          <rsc_location id="l1" rsc="RedisGate-clone"><rule id="r1" role="Promoted" score="INFINITY">
            <expression id="e1" operation="eq" attribute="redis_role" value="primary"/></rule></rsc_location>
        </constraints>
      </configuration>
      <status><node_state id="1" uname="node1"><transient_attributes id="1"><instance_attributes id="status-1">
        <nvpair id="s1" name="redis_role" value="fail"/>
        <nvpair id="s2" name="fail-count-RedisGate#monitor_5000" value="2"/>
        <nvpair id="s3" name="fail-count-RedisGate#promote_0" value="1"/>
        <nvpair id="s4" name="fail-count-RedisGate2#start_0" value="INFINITY"/></instance_attributes></transient_attributes></node_state></status>
    </cib>"#;

    #[test]
    fn off_is_what_was_fenced_and_not_heard_of_since() {
        let state = |attributes: &str| {
            let xml = format!(
                "<cib admin_epoch=\"0\" epoch=\"7\"><configuration><nodes><node id=\"1\" uname=\"node1\"/></nodes></configuration>\
                 <status><node_state id=\"1\" uname=\"node1\" {attributes}/></status></cib>"
            );
            parse(&xml).unwrap().node("node1").unwrap().confirmed_off
        };
        let fenced = |by: &str| {
            format!("in_ccm=\"false\" crmd=\"offline\" join=\"down\" expected=\"down\" crm-debug-origin=\"{by}\"")
        };
        assert!(state(&fenced("send_stonith_update")));
        assert!(state(&fenced("update_node_state_after_fencing").replace("false", "0").replace("offline", "0")));
        // In order, or nobody knows; seen again; a cluster that formed anew.
        assert!(!state(&fenced("peer_update_callback")) && !state(&fenced("post_cache_update")) && !state(""));
        assert!(!state(&fenced("send_stonith_update").replace("false", "true")));
        assert!(!state(&fenced("send_stonith_update").replace("offline", "online")));
        assert!(!state(&fenced("send_stonith_update").replace("join=\"down\"", "join=\"member\"")));
        assert!(!parse(CIB).unwrap().node("node1").unwrap().confirmed_off);
    }

    #[test]
    fn maintenance_is_what_pacemaker_takes_for_it() {
        let of = |property: &str, node: &str, meta: &str| {
            let pair = |text: &str| {
                text.split_once('=').map_or(String::new(), |(name, value)| {
                    format!("<nvpair id=\"i\" name=\"{name}\" value=\"{value}\"/>")
                })
            };
            let cib = parse(&format!(
                "<cib><configuration><crm_config><cluster_property_set id=\"c\">{}</cluster_property_set></crm_config>\
                 <nodes><node id=\"1\" uname=\"node1\"><instance_attributes id=\"n\">{}</instance_attributes></node></nodes>\
                 <resources><primitive id=\"G\" class=\"ocf\" provider=\"rolegate\" type=\"gate\"><meta_attributes id=\"m\">{}</meta_attributes>\
                 </primitive></resources></configuration></cib>",
                pair(property),
                pair(node),
                pair(meta)
            ));
            let cib = cib.unwrap();
            cib.leaves_alone("G", cib.node("node1").unwrap())
        };
        for (property, node, meta) in [
            ("maintenance-mode=yes", "", ""),
            ("maintenance-mode=True", "", ""),
            ("is-managed-default=off", "", ""),
            ("", "maintenance=1", ""),
            ("", "", "maintenance=on"),
            ("", "", "is-managed=0"),
        ] {
            assert!(of(property, node, meta), "{property} {node} {meta}");
        }
        assert!(!of("", "", "") && !of("maintenance-mode=false", "maintenance=no", "is-managed=true"));
        assert!(!of("is-managed-default=false", "", "is-managed=true"));
    }

    #[test]
    fn reads_what_matters() {
        let cib = parse(CIB).unwrap();
        assert_eq!(cib.have_quorum, Some(true));
        assert_eq!(cib.properties["stonith-enabled"], "false");
        let node = cib.node("NODE1").unwrap();
        assert_eq!(node.permanent("redis_role"), Some("primary"));
        assert_eq!(node.attribute("redis_role"), Some("fail"), "a transient value hides the permanent one");
        assert_eq!(node.attribute_id("redis_role"), Some("nodes-1-redis_role"));
        assert_eq!(node.attribute_set("redis_role"), Some("nodes-1"));
        assert_eq!((node.fail_count("RedisGate"), node.fail_count("RedisGate2")), (3, u64::MAX));
        assert_eq!(cib.node("node2").unwrap().attribute("redis_role"), None);
        assert_eq!(cib.managed_addresses, [("vip".to_owned(), "10.0.0.100".parse().unwrap())]);
        let [gate, two] = cib.gates.as_slice() else { panic!("{:?}", cib.gates) };
        assert_eq!((gate.id.as_str(), gate.outer_id.as_str()), ("RedisGate", "RedisGate-clone"));
        assert_eq!(gate.parameters["nodes"], "node1=10.0.0.1:6379");
        assert_eq!((gate.meta["promotable"].as_str(), gate.meta_id.as_deref()), ("true", None));
        assert_eq!(gate.parameters_id.as_deref(), Some("RedisGate-instance_attributes"));
        assert_eq!(gate.parameter_ids["nodes"], "i1");
        assert_eq!(two.parameters["master"], "other", "from the template");
        let rule = &cib.locations[0].rules[0];
        assert_eq!(rule.role.as_deref(), Some("Promoted"));
        assert_eq!(rule.expressions, [("redis_role".into(), "eq".into(), Some("primary".into()))]);
    }

    #[test]
    fn what_is_no_cib_is_refused() {
        for xml in ["", "<cib/>", "<pacemaker-result/>", "<cib><configuration>", "not xml"] {
            assert!(parse(xml).is_err(), "{xml}");
        }
    }
}
