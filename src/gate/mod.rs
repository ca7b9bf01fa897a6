//! The firewall state of the two ports of a node.
