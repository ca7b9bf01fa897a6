//! Pacemaker as seen and changed through its own tools: the CIB, `crm_mon`, node attributes,
//! quorum. Reading is pure (`parse`); the commands are thin.

pub mod cib;
pub mod crm_mon;
mod rules;
pub(crate) use rules::moment;

use std::path::Path;
use std::time::Duration;

use crate::command::{Cmd, CommandError};
use crate::role::Role;

pub use cib::Cib;
pub use crm_mon::CrmMon;
pub use rules::is_minus_infinity;

/// The node attribute by which an operator keeps a node's ports closed. Its presence is what
/// counts (a location rule bans the gate by it); its value says who did it, when and why.
pub const FENCE_ATTRIBUTE: &str = "redis_fence";

/// The node attribute in which the keeper of a node says which release of rolegate it is. Nothing is decided by it.
pub const VERSION_ATTRIBUTE: &str = "rolegate_version";

/// Where Pacemaker keeps the CIB between its runs.
const CIB_ON_DISK: &str = "/var/lib/pacemaker/cib/cib.xml";

/// How long one of Pacemaker's tools may take. They wait up to 120 s for a reply by themselves.
const TOOL_DEADLINE: Duration = Duration::from_secs(10);

/// Why Pacemaker could not be asked or changed.
#[derive(Debug, thiserror::Error)]
pub enum PacemakerError {
    /// Not running on this node, or we are not allowed to talk to it (group haclient).
    #[error("Pacemaker does not answer on this node: {0}")]
    NotRunning(CommandError),
    /// Its access control lists forbid this.
    #[error("Pacemaker's ACL forbids it: {0}")]
    Denied(CommandError),
    /// A tool failed.
    #[error(transparent)]
    Tool(#[from] CommandError),
    /// What a tool printed is not what it should print.
    #[error("cannot read {what}: {reason}")]
    Unreadable {
        /// The tool's output.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// Pacemaker's exit codes that mean something to us (include/crm/common/results.h).
const CRM_EX_INSUFFICIENT_PRIV: i32 = 4;
const CRM_EX_DISCONNECT: i32 = 102;
const CRM_EX_NOSUCH: i32 = 105;
const CRM_EX_QUORUM: i32 = 106;

fn run(cmd: &Cmd) -> Result<String, PacemakerError> {
    run_expecting(cmd, &[0]).map(|(_, text)| text)
}

fn run_expecting(cmd: &Cmd, codes: &[i32]) -> Result<(i32, String), PacemakerError> {
    match cmd.run_expecting(codes) {
        Ok(output) => Ok((output.code, output.text())),
        Err(error) => Err(match error.exit() {
            Some((CRM_EX_DISCONNECT, _)) => PacemakerError::NotRunning(error),
            Some((CRM_EX_INSUFFICIENT_PRIV, _)) => PacemakerError::Denied(error),
            _ => PacemakerError::Tool(error),
        }),
    }
}

fn tool(name: &str) -> Cmd {
    Cmd::new(name).in_our_group().deadline(TOOL_DEADLINE)
}

/// Has a change made that is one step of the CIB, and says whether there was what it is a change of.
fn made(change: &Cmd) -> Result<bool, PacemakerError> {
    run_expecting(change, &[0, CRM_EX_NOSUCH]).map(|(code, _)| code == 0)
}

/// `text` as an attribute's value in XML, between quotation marks. What the CIB calls an id may be anything.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => quoted.push_str("&amp;"),
            '<' => quoted.push_str("&lt;"),
            '>' => quoted.push_str("&gt;"),
            '"' => quoted.push_str("&quot;"),
            '\'' => quoted.push_str("&apos;"),
            // Else read as a space.
            '\t' | '\n' | '\r' => quoted.push_str(&format!("&#{};", u32::from(c))),
            _ => quoted.push(c),
        }
    }
    quoted
}

/// `text` as a literal in XPath, which knows no escapes: one with both kinds of quotation marks is put together.
fn literal(text: &str) -> String {
    if !text.contains('\'') {
        return format!("'{text}'");
    }
    let parts: Vec<String> = text.split('\'').map(|part| format!("'{part}'")).collect();
    format!("concat({})", parts.join(",\"'\","))
}

/// The CIB as this node has it.
///
/// # Errors
/// [`PacemakerError`].
pub fn read_cib() -> Result<Cib, PacemakerError> {
    read_cib_within(TOOL_DEADLINE)
}

/// The same, within `deadline`.
///
/// # Errors
/// [`PacemakerError`].
pub fn read_cib_within(deadline: Duration) -> Result<Cib, PacemakerError> {
    cib::parse(&cib_text_within(deadline)?)
}

/// The same as text. It can hold passwords of resources.
///
/// # Errors
/// [`PacemakerError`].
pub fn cib_text_within(deadline: Duration) -> Result<String, PacemakerError> {
    // -l: the local copy. Without it a partition that has no DC would not answer.
    run(&tool("cibadmin").args(["-Q", "-l"]).deadline(deadline))
}

/// Whether Pacemaker's ACL lets `user` make this change of `section`: tried on the copy of the CIB in `file`, which nobody else
/// uses, so nothing happens in the cluster. For root.
///
/// # Errors
/// [`PacemakerError`]: it could not be tried.
pub fn may_change(
    file: &Path,
    user: &str,
    section: &str,
    xml: &str,
    deadline: Duration,
) -> Result<bool, PacemakerError> {
    let change = tool("cibadmin").env("CIB_file", file).args(["-U", user, "--modify", "--allow-create", "-o", section]);
    let (code, _) =
        run_expecting(&change.args(["--xml-text", xml]).deadline(deadline), &[0, CRM_EX_INSUFFICIENT_PRIV])?;
    Ok(code == 0)
}

/// The copy of the CIB that this node keeps on its disk. For the time when Pacemaker does not
/// run here; it may be old, and shows no transient attributes.
///
/// # Errors
/// [`PacemakerError`].
pub fn read_cib_on_disk() -> Result<Cib, PacemakerError> {
    let text = std::fs::read_to_string(CIB_ON_DISK).map_err(|error| PacemakerError::Unreadable {
        what: "the CIB on this node's disk",
        reason: format!("{CIB_ON_DISK}: {error}"),
    })?;
    // Whose other parts have changed is the same to those who compare.
    cib::parse(&text).map(|cib| Cib { version: None, ..cib })
}

/// Whether there is such a copy, be it readable or not: where Pacemaker has never run there is none.
pub fn has_cib_on_disk() -> bool {
    std::fs::symlink_metadata(CIB_ON_DISK).is_ok()
}

/// Whether that copy can be read here.
pub fn can_read_cib_on_disk() -> bool {
    std::fs::File::open(CIB_ON_DISK).is_ok()
}

/// The cluster's state as this node sees it.
///
/// # Errors
/// [`PacemakerError`].
pub fn read_crm_mon() -> Result<CrmMon, PacemakerError> {
    read_crm_mon_within(TOOL_DEADLINE)
}

/// The same, within `deadline`.
///
/// # Errors
/// [`PacemakerError`].
pub fn read_crm_mon_within(deadline: Duration) -> Result<CrmMon, PacemakerError> {
    crm_mon::parse(&run(&tool("crm_mon").args(["-1", "--output-as=xml"]).deadline(deadline))?)
}

/// This node's name in the cluster.
///
/// # Errors
/// [`PacemakerError`].
pub fn local_node() -> Result<String, PacemakerError> {
    local_node_within(TOOL_DEADLINE)
}

/// The same, within `deadline`.
///
/// # Errors
/// [`PacemakerError`].
pub fn local_node_within(deadline: Duration) -> Result<String, PacemakerError> {
    let name = run(&tool("crm_node").arg("-n").deadline(deadline))?.trim().to_owned();
    if name.is_empty() || name == "(null)" {
        return Err(PacemakerError::Unreadable {
            what: "crm_node -n",
            reason: "it gives no name for this node".to_owned(),
        });
    }
    Ok(name)
}

/// Whether this node's partition has quorum, whatever no-quorum-policy says.
///
/// # Errors
/// [`PacemakerError`].
pub fn has_quorum() -> Result<bool, PacemakerError> {
    // Without quorum it says so by its code too.
    let (_, text) = run_expecting(&tool("crm_node").arg("-q"), &[0, CRM_EX_QUORUM])?;
    match text.trim() {
        "1" => Ok(true),
        "0" => Ok(false),
        other => {
            Err(PacemakerError::Unreadable { what: "crm_node -q", reason: format!("{other:?} is neither 0 nor 1") })
        }
    }
}

/// Whether Pacemaker has done all that it means to do: its designated controller has nothing under way (`S_IDLE`).
///
/// # Errors
/// [`PacemakerError`]: there is no such controller now, for example.
pub fn is_idle() -> Result<bool, PacemakerError> {
    let ask = |arguments: &[&str]| run(&tool("crmadmin").args(arguments).arg("--output-as=xml"));
    let controller = crmadmin(&ask(&["-D"])?, "dc", "node_name")?;
    Ok(crmadmin(&ask(&["-S", &controller])?, "crmd", "state")? == "S_IDLE")
}

/// An attribute of what `crmadmin --output-as=xml` says (its api-result schemas: crmadmin-2.4.rng and later).
fn crmadmin(xml: &str, element: &str, attribute: &str) -> Result<String, PacemakerError> {
    let unreadable = |reason: String| PacemakerError::Unreadable { what: "crmadmin's output", reason };
    let document = roxmltree::Document::parse(xml).map_err(|error| unreadable(error.to_string()))?;
    let found = document.descendants().find(|node| node.has_tag_name(element));
    let value = found.and_then(|found| found.attribute(attribute)).filter(|value| !value.is_empty());
    value.map(str::to_owned).ok_or_else(|| unreadable(format!("it gives no {attribute} of a {element}")))
}

/// Writes the permanent node attribute `name`. The caller has made sure of quorum: the tool
/// overrides it.
///
/// # Errors
/// [`PacemakerError`].
pub fn set_attribute(node: &str, name: &str, value: &str) -> Result<(), PacemakerError> {
    run(&attribute_set(node, name, value)).map(drop)
}

fn attribute_set(node: &str, name: &str, value: &str) -> Cmd {
    // -l forever: without -N or -l this would write a cluster property.
    tool("crm_attribute").args(["-l", "forever", "-N", node, "-n", name, "-v", value])
}

/// The permanent node attribute `name`; empty if there is none.
///
/// # Errors
/// [`PacemakerError`].
pub fn permanent_attribute(node: &str, name: &str) -> Result<String, PacemakerError> {
    let ask = tool("crm_attribute").args(["-l", "forever", "-N", node, "-n", name, "-G", "-q", "-d", ""]);
    run(&ask).map(|value| value.trim().to_owned())
}

/// Removes the permanent node attribute `name`; done if there is none.
///
/// # Errors
/// [`PacemakerError`].
pub fn delete_attribute(node: &str, name: &str) -> Result<(), PacemakerError> {
    run(&tool("crm_attribute").args(["-l", "forever", "-N", node, "-n", name, "-D"])).map(drop)
}

/// Writes the transient node attribute `name`, which is gone when the node leaves the cluster. Without quorum it is written, too.
///
/// # Errors
/// [`PacemakerError`]. That there is none says that it is queued.
pub fn set_passing(node: &str, name: &str, value: &str) -> Result<(), PacemakerError> {
    run(&tool("crm_attribute").args(["-l", "reboot", "-N", node, "-n", name, "-v", value])).map(drop)
}

/// Removes the transient node attribute `name`; done if there is none.
///
/// # Errors
/// [`PacemakerError`].
pub fn delete_passing(node: &str, name: &str) -> Result<(), PacemakerError> {
    run(&tool("crm_attribute").args(["-l", "reboot", "-N", node, "-n", name, "-D"])).map(drop)
}

/// Changes or adds what `xml` holds in `section` of the CIB's configuration, all of it or
/// nothing. The caller has made sure of quorum: the tool overrides it.
///
/// # Errors
/// [`PacemakerError`].
pub fn modify(section: &str, xml: &str) -> Result<(), PacemakerError> {
    run(&tool("cibadmin").args(["--modify", "--allow-create", "-o", section, "--xml-pipe"]).stdin(xml)).map(drop)
}

/// How long Pacemaker may take to look anew at what runs.
const REFRESHED_WITHIN: Duration = Duration::from_secs(30);

/// Has Pacemaker forget what it knows of a resource, and look what runs. Returns when it has.
///
/// # Errors
/// [`PacemakerError`].
pub fn refresh(resource: &str) -> Result<(), PacemakerError> {
    run(&tool("crm_resource").args(["--refresh", "-r", resource]).deadline(REFRESHED_WITHIN)).map(drop)
}

/// Has Pacemaker manage a resource that has its own `is-managed`.
///
/// # Errors
/// [`PacemakerError`].
pub fn manage(resource: &str) -> Result<(), PacemakerError> {
    run(&tool("crm_resource").args(["-r", resource, "--meta", "-d", "is-managed"])).map(drop)
}

/// The same, for an operator.
pub fn how_to_manage(resource: &str) -> String {
    format!("crm_resource -r {resource} --meta -d is-managed")
}

/// Removes all that `xpath` finds in the CIB's configuration; done if there is none. The caller has made sure of quorum: the tool overrides it.
///
/// # Errors
/// [`PacemakerError`].
pub fn remove(xpath: &str) -> Result<(), PacemakerError> {
    let delete = tool("cibadmin").args(["--delete-all", "--force", "--xpath", xpath]);
    run_expecting(&delete, &[0, CRM_EX_NOSUCH]).map(drop)
}

/// Has the resource stopped everywhere, and kept so (`target-role`). The caller has made sure of quorum.
///
/// # Errors
/// [`PacemakerError`].
pub fn disable(resource: &str) -> Result<(), PacemakerError> {
    let set = ["--meta", "--set-parameter", "target-role", "--parameter-value", "Stopped"];
    run(&tool("crm_resource").args(["--resource", resource]).args(set)).map(drop)
}

/// Turns the role attribute of `node` into `to` if it is `from` at that moment, in one step of
/// the CIB: somebody who has just written another value is not overruled. Says whether it was.
///
/// # Errors
/// [`PacemakerError`].
pub fn replace_role(node: &cib::Node, attribute: &str, from: Role, to: Role) -> Result<bool, PacemakerError> {
    role_change(node, attribute, from, to).map_or(Ok(false), |change| made(&change))
}

/// None where the node has no such attribute.
fn role_change(node: &cib::Node, attribute: &str, from: Role, to: Role) -> Option<Cmd> {
    let id = node.attribute_id(attribute)?;
    let xpath = format!(
        "/cib/configuration/nodes/node[@id={}]/instance_attributes/nvpair[@id={}][@value='{from}']",
        literal(&node.id),
        literal(id)
    );
    let nvpair = nvpair(id, attribute, to.as_str());
    // Not --replace: behind one in this section the controllers elect a new DC, which costs a second (do_cib_replaced() in
    // controld_cib.c of Pacemaker 2.1).
    Some(tool("cibadmin").args(["--modify", "--xpath", &xpath, "--xml-text", &nvpair]))
}

fn nvpair(id: &str, name: &str, value: &str) -> String {
    format!("<nvpair id=\"{}\" name=\"{}\" value=\"{}\"/>", quoted(id), quoted(name), quoted(value))
}

/// An nvpair in a node's set.
fn in_node(node: &str, set: &str, nvpair: &str) -> String {
    format!(
        "<node id=\"{}\"><instance_attributes id=\"{}\">{nvpair}</instance_attributes></node>",
        quoted(node),
        quoted(set)
    )
}

/// Turns `from` into a replica and `to` into the primary, if they are primary and replica at that moment, in one step of the CIB. Says whether
/// they were. The caller has made sure of quorum.
///
/// # Errors
/// [`PacemakerError`].
pub fn move_primary(from: &cib::Node, to: &cib::Node, attribute: &str) -> Result<bool, PacemakerError> {
    primary_move(from, to, attribute).map_or(Ok(false), |change| made(&change))
}

/// None where one of them has no such attribute.
fn primary_move(from: &cib::Node, to: &cib::Node, attribute: &str) -> Option<Cmd> {
    let mut xpath = "/cib/configuration/nodes".to_owned();
    let mut nodes = String::new();
    for (node, was, is) in [(from, Role::Primary, Role::Replica), (to, Role::Replica, Role::Primary)] {
        let (id, set) = (node.attribute_id(attribute)?, node.attribute_set(attribute)?);
        let (of, own) = (literal(&node.id), literal(id));
        xpath += &format!("[node[@id={of}]/instance_attributes/nvpair[@id={own}][@value='{was}']]");
        nodes += &in_node(&node.id, set, &nvpair(id, attribute, is.as_str()));
    }
    let nodes = format!("<nodes>{nodes}</nodes>");
    Some(tool("cibadmin").args(["--modify", "--xpath", &xpath, "--xml-text", &nodes]))
}

/// What must still be so when something is written by [`write_if_unchanged`].
#[derive(Debug, Clone, Copy)]
pub enum Still<'a> {
    /// This node takes part in the cluster.
    Member(&'a cib::Node),
    /// This one does not.
    Away(&'a cib::Node),
    /// STONITH has confirmed this one off, and it has not come back.
    Fenced(&'a cib::Node),
}

impl Still<'_> {
    fn condition(self) -> String {
        let (Still::Member(node) | Still::Away(node) | Still::Fenced(node)) = self;
        let state = format!("status/node_state[@id={}]", literal(&node.id));
        match self {
            Still::Member(_) => format!("[{state}[@join='member']]"),
            Still::Away(_) => format!("[not({state}[@join='member'][@crmd!='offline'][@crmd!='0'])]"),
            Still::Fenced(_) => format!("[{state}[@join='down'][@expected='down']]"),
        }
    }
}

/// Writes the permanent attribute `name` of `node` if the configuration is still what `cib` has, and `still` holds, in one step of the CIB. Says
/// whether it was. The caller has made sure of quorum.
///
/// # Errors
/// [`PacemakerError`].
pub fn write_if_unchanged(
    cib: &Cib,
    still: &[Still<'_>],
    node: &cib::Node,
    name: &str,
    value: &str,
) -> Result<bool, PacemakerError> {
    modify_if_unchanged(cib, still, "/configuration/nodes", &attribute_xml(node, name, value))
}

fn attribute_xml(node: &cib::Node, name: &str, value: &str) -> String {
    let (set, id) = ids(node, name);
    format!("<nodes>{}</nodes>", in_node(&node.id, &set, &nvpair(&id, name, value)))
}

/// The set and the nvpair of the permanent attribute `name` of `node`: those that it has, or as crm_attribute makes them.
fn ids(node: &cib::Node, name: &str) -> (String, String) {
    let set = node.attribute_set(name).map_or_else(|| format!("nodes-{}", node.id), str::to_owned);
    let id = node.attribute_id(name).map_or_else(|| format!("{set}-{name}"), str::to_owned);
    (set, id)
}

/// Whether the permanent attribute `name` of `node` has that value: asked of the whole cluster, by writing it again where it has.
///
/// # Errors
/// [`PacemakerError`].
pub fn stands(node: &cib::Node, name: &str, value: &str) -> Result<bool, PacemakerError> {
    made(&same_again(node, name, value))
}

fn same_again(node: &cib::Node, name: &str, value: &str) -> Cmd {
    let (_, id) = ids(node, name);
    let (of, own, now) = (literal(&node.id), literal(&id), literal(value));
    let xpath = format!("/cib/configuration/nodes/node[@id={of}]/instance_attributes/nvpair[@id={own}][@value={now}]");
    tool("cibadmin").args(["--modify", "--xpath", &xpath, "--xml-text", &nvpair(&id, name, value)])
}

/// Changes what is at `path` (an XPath from the CIB's root) under the same conditions.
///
/// # Errors
/// [`PacemakerError`].
pub fn modify_if_unchanged(cib: &Cib, still: &[Still<'_>], path: &str, xml: &str) -> Result<bool, PacemakerError> {
    made(&if_unchanged(cib, still, path, xml)?)
}

fn if_unchanged(cib: &Cib, still: &[Still<'_>], path: &str, xml: &str) -> Result<Cmd, PacemakerError> {
    let Some((admin_epoch, epoch)) = &cib.version else {
        return Err(PacemakerError::Unreadable { what: "the CIB", reason: "it has no epoch".to_owned() });
    };
    let still: String = still.iter().map(|still| still.condition()).collect();
    let (admin_epoch, epoch) = (literal(admin_epoch), literal(epoch));
    let xpath = format!("/cib[@admin_epoch={admin_epoch}][@epoch={epoch}]{still}{path}");
    Ok(tool("cibadmin").args(["--modify", "--xpath", &xpath, "--xml-text", xml]))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;

    /// A name that would be more than a name to a shell, to XML, to XPath, or to who reads options. Without line breaks, which Pacemaker itself does
    /// not keep.
    const HOSTILE: &str = "-D it's \"2\"'] | //*[ $(touch x) `touch x`; <&>";

    /// A CIB in a file, for Pacemaker's own tools. A node's id, its name and an attribute's value may be anything by its schema.
    fn hostile_cib(directory: &Path) -> PathBuf {
        let node = |id: &str, name: &str, set: &str, role: &str| {
            in_node(id, set, &nvpair(&format!("{set}-redis_role"), "redis_role", role)).replacen(
                "<node ",
                &format!("<node uname=\"{}\" ", quoted(name)),
                1,
            )
        };
        let nodes = [node("1", "node1", "nodes-1", "primary"), node(HOSTILE, HOSTILE, "nodes-2", "replica")].concat();
        let text = format!(
            "<cib crm_feature_set=\"3.16.1\" validate-with=\"pacemaker-3.0\" epoch=\"7\" num_updates=\"0\" admin_epoch=\"0\"><configuration>\
             <crm_config/><nodes>{nodes}</nodes><resources/><constraints/></configuration><status/></cib>"
        );
        let path = directory.join("cib.xml");
        std::fs::write(&path, text).unwrap();
        path
    }

    fn roles(path: &Path) -> (Cib, [Option<String>; 2]) {
        let cib = cib::parse(&std::fs::read_to_string(path).unwrap()).unwrap();
        let roles = [0, 1].map(|place| cib.nodes[place].permanent("redis_role").map(str::to_owned));
        (cib, roles)
    }

    #[test]
    fn names_from_the_cib_are_names_to_pacemaker_s_tools_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = hostile_cib(directory.path());
        let on_file = |change: Cmd| made(&change.env("CIB_file", &path)).unwrap();
        let (cib, _) = roles(&path);
        let [one, other] = [&cib.nodes[0], &cib.nodes[1]];
        assert_eq!((other.id.as_str(), other.name.as_str()), (HOSTILE, HOSTILE));

        assert!(!on_file(role_change(other, "redis_role", Role::Primary, Role::Fail).unwrap()), "it is a replica");
        assert!(on_file(role_change(other, "redis_role", Role::Replica, Role::Fail).unwrap()));
        assert_eq!(roles(&path).1, [Some("primary".to_owned()), Some("fail".to_owned())]);
        assert!(on_file(role_change(other, "redis_role", Role::Fail, Role::Replica).unwrap()));
        assert!(on_file(primary_move(one, other, "redis_role").unwrap()));
        assert_eq!(roles(&path).1, [Some("replica".to_owned()), Some("primary".to_owned())]);

        let (cib, _) = roles(&path);
        let write = |still: &[Still<'_>]| {
            if_unchanged(&cib, still, "/configuration/nodes", &attribute_xml(&cib.nodes[0], "note", HOSTILE)).unwrap()
        };
        assert!(!on_file(write(&[Still::Member(&cib.nodes[1])])), "nobody is a member in a file");
        assert!(!on_file(write(&[Still::Fenced(&cib.nodes[1])])));
        assert!(on_file(write(&[Still::Away(&cib.nodes[1])])));
        assert!(!on_file(write(&[])), "the epoch is another one now");
        let (cib, _) = roles(&path);
        assert_eq!(cib.nodes[0].permanent("note"), Some(HOSTILE));
        assert!(on_file(same_again(&cib.nodes[0], "note", HOSTILE)));
        assert!(!on_file(same_again(&cib.nodes[0], "note", "another")));

        run(&attribute_set("node1", "redis_fence", HOSTILE).env("CIB_file", &path)).unwrap();
        run(&attribute_set("node1", "redis_fence", "-D").env("CIB_file", &path)).unwrap();
        let (cib, _) = roles(&path);
        assert_eq!(cib.nodes[0].permanent("redis_fence"), Some("-D"));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "a shell has made a file");
    }

    proptest! {
        #[test]
        fn what_is_quoted_is_read_as_it_was(text in "[ -~\\t\\n\\räß€'\"<>&]{0,40}") {
            let xml = nvpair(&text, &text, &text);
            let document = roxmltree::Document::parse(&xml).unwrap();
            let read: Vec<&str> = document.root_element().attributes().map(|attribute| attribute.value()).collect();
            prop_assert_eq!(read, [text.as_str(); 3]);
            // No part of a literal has the mark that ends it.
            let literal = literal(&text);
            let inside = literal.strip_prefix("concat(").and_then(|rest| rest.strip_suffix(')')).unwrap_or(&literal);
            let put_together: String = inside.split(",\"'\",").map(|part| &part[1..part.len() - 1]).collect::<Vec<_>>().join("'");
            prop_assert_eq!(put_together, text);
        }
    }

    #[test]
    fn what_crmadmin_says_is_read() {
        // Of Pacemaker 2.1.5.
        let controller = r#"<pacemaker-result api-version="2.25" request="crmadmin -D --output-as=xml"><dc node_name="node1"/>
            <status code="0" message="OK"/></pacemaker-result>"#;
        assert_eq!(crmadmin(controller, "dc", "node_name").unwrap(), "node1");
        let state = r#"<pacemaker-result api-version="2.25" request="crmadmin -S node1 --output-as=xml">
            <crmd node_name="node1" state="S_IDLE" result="ok"/><status code="0" message="OK"/></pacemaker-result>"#;
        assert_eq!(crmadmin(state, "crmd", "state").unwrap(), "S_IDLE");
        for bad in ["", "<dc/>", "<dc node_name=\"\"/>", "Designated Controller is: node1"] {
            assert!(crmadmin(bad, "dc", "node_name").is_err(), "{bad}");
        }
    }
}
