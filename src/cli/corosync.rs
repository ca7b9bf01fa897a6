//! The addresses under which corosync knows the nodes: corosync.conf's nodelist (corosync.conf(5)).

use std::collections::BTreeMap;

/// Where corosync keeps its configuration.
pub const FILE: &str = "/etc/corosync/corosync.conf";

/// Each node's `ringN_addr` entries by the node's name: addresses, or names to be resolved.
/// A node without a name is left out: corosync then goes by its address alone.
pub fn ring_addresses(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut nodes = BTreeMap::new();
    let mut path: Vec<&str> = Vec::new();
    let (mut name, mut rings) = (None, Vec::new());
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        if let Some(section) = line.strip_suffix('{') {
            path.push(section.trim());
        } else if line == "}" {
            if path == ["nodelist", "node"] {
                if let Some(name) = name.take() {
                    nodes.insert(name, std::mem::take(&mut rings));
                }
                rings.clear();
            }
            path.pop();
        } else if let (["nodelist", "node"], Some((key, value))) = (path.as_slice(), line.split_once(':')) {
            let (key, value) = (key.trim(), value.trim());
            if key == "name" {
                name = Some(value.to_owned());
            } else if key.starts_with("ring") && key.ends_with("_addr") {
                rings.push(value.to_owned());
            }
        }
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_nodelist() {
        let text = "\
totem {
    version: 2
    interface {
        linknumber: 0
    }
}
nodelist {
    # the first
    node {
        ring0_addr: 10.0.0.1
        ring1_addr: fd00::1
        name: node1
        nodeid: 1
    }
    node {
        name: node2
        ring0_addr: node2.example
    }
    node {
        ring0_addr: 10.0.0.3
    }
    node {
        name: node4
        ring0_addr: 10.0.0.4
    }
}
";
        let nodes = ring_addresses(text);
        assert_eq!(nodes.len(), 3);
        assert_eq!(nodes["node1"], ["10.0.0.1", "fd00::1"]);
        assert_eq!(nodes["node2"], ["node2.example"]);
        assert_eq!(nodes["node4"], ["10.0.0.4"]);
    }

    #[test]
    fn anything_else_is_no_node() {
        assert!(ring_addresses("").is_empty());
        assert!(ring_addresses("} } {\nnode {\nname: x\n}\n").is_empty());
    }
}
