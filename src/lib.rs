//! rolegate makes Redis and Valkey under Sentinel safe to write to.
//!
//! Which room does what:
//!
//! - [`gate`]: the firewall state of the read-only and the read-write port of this node.
//! - [`command`]: running another program with a deadline, keeping what it said.
//! - [`role`]: the role of a node and the attribute that carries it.
//! - [`exit`]: the exit codes of each program.
//! - [`logging`]: one log line per decision, to the journal or to stderr.

pub mod command;
pub mod exit;
pub mod gate;
pub mod logging;
pub mod role;
