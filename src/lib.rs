//! rolegate makes Redis and Valkey under Sentinel safe to write to.
//!
//! Which room does what:
//!
//! - [`record`]: which Sentinels count and where each node's Redis is: what every proof stands on.
//! - [`stand`]: which record each node stands on, and when it may go on to the next.
//! - [`sentinel`]: what Sentinels say, and who is named by it.
//! - [`instance`]: what a Redis or Valkey server says of itself.
//! - [`pacemaker`]: the cluster as seen and changed through Pacemaker's own tools.
//! - [`agent`]: the OCF agents, run by Pacemaker.
//! - [`params`]: the parameters of gates and blocks, from which metadata is made and by which the CIB is read.
//! - [`permission`]: what Pacemaker has asked of the gate on this node.
//! - [`local_fence`]: a fence that an operator has set on this node itself.
//! - [`forced`]: a read-write port that an operator has forced open.
//! - [`hook`]: what Sentinel calls; makes the role attributes follow a majority.
//! - [`roles`]: what the role attributes should be.
//! - [`cli`]: the operator's program: status, doctor, switchover, fence, unfence, exec, backup, init, deinit.
//! - [`gate`]: the firewall state of the read-only and the read-write port of this node.
//! - [`layout`]: which resources guard a master name, and what they permit.
//! - [`lease`]: whether this node may open 6381, and keep it open: the rules of the lease.
//! - [`keeper`]: the process that holds the leases.
//! - [`switchover`]: the marks that a switchover leaves in servers' settings.
//! - [`causes`]: an error with all its causes.
//! - [`commands`]: what a server says of one of its commands: whether it writes, blocks or takes the connection over.
//! - [`command`]: running another program with a deadline, keeping what it said.
//! - [`role`]: the role of a node and the attribute that carries it.
//! - [`exit`]: the exit codes of each program.
//! - [`defect`]: what each program says and ends with where it panics.
//! - [`settings`]: what is local to a node.
//! - [`wire`]: commands and replies as bytes, from a stranger.
//! - [`transfer`]: the copy of its data that a server sends to who replicates from it.
//! - [`server`], [`together`]: asking one server, and many at once, with a deadline.
//! - [`times`]: times as an operator types them.
//! - [`manual`]: manual pages and shell completions of all programs.
//! - [`logging`]: one log line per decision, to the journal or to stderr.

pub mod agent;
pub mod causes;
pub mod cli;
pub mod command;
pub mod commands;
pub mod defect;
pub mod exit;
pub mod forced;
pub mod gate;
pub mod hook;
pub mod instance;
pub mod keeper;
pub mod layout;
pub mod lease;
pub mod local_fence;
pub mod logging;
pub mod manual;
pub mod pacemaker;
pub mod params;
pub mod permission;
pub mod record;
pub mod role;
pub mod roles;
pub mod sentinel;
pub mod server;
pub mod settings;
pub mod stand;
pub mod switchover;
pub mod times;
pub mod together;
pub mod transfer;
pub mod wire;
