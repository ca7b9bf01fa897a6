//! The OCF agents `ocf:rolegate:gate` and `ocf:rolegate:block`: one program under two names,
//! run by Pacemaker as root. It does its action and ends; it starts nothing that stays.

mod block;
mod environment;
mod gate;
mod judge;
mod metadata;
mod shared;

use std::ffi::OsStr;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::exit::OcfCode;
use crate::logging::decided;
use crate::params::{BLOCK, GATE};
use block::Block;
use gate::{Action, Failed, Outcome};

/// Pacemaker keeps this much of a reason, in bytes.
const REASON_LIMIT: usize = 128;

/// Does the action `action` as the agent that `program` (argv 0) is a name of.
///
/// Metadata goes to stdout and the reason to stderr, as OCF wants it.
pub fn run(program: &OsStr, action: Option<&str>) -> OcfCode {
    let get = |name: &str| std::env::var(name).ok();
    let name = Path::new(program).file_name().and_then(OsStr::to_str).unwrap_or_default().to_owned();
    let agent = match name.as_str() {
        GATE | BLOCK => name,
        // Called by its own name: the type says which agent is meant.
        _ => get("OCF_RESOURCE_TYPE").unwrap_or_else(|| GATE.to_owned()),
    };
    let block = match agent.as_str() {
        GATE => false,
        BLOCK => true,
        _ => {
            let _closed = writeln!(io::stderr(), "ocf-exit-reason:no such agent: {agent}");
            return OcfCode::Installed;
        }
    };
    // These work for anybody, with any environment.
    match action {
        Some("meta-data") => {
            return written(if block { metadata::block() } else { metadata::gate() });
        }
        Some("methods") => {
            let methods = if block { metadata::block_methods() } else { metadata::gate_methods() };
            return written(format!("{methods}\n"));
        }
        // Failures of notify are ignored by Pacemaker; there is nothing to do in it.
        Some("notify") => return OcfCode::Success,
        _ => {}
    }
    let prefix = environment::reason_prefix(get);
    let agent = if block { Agent::Block(Block::new(get)) } else { Agent::Gate(Action::new(get)) };
    let act = || match &agent {
        Agent::Block(block) => of_block(block, action),
        Agent::Gate(gate) => of_gate(gate, action),
    };
    // Rust's own exit code after a panic, 101, would mean nothing to Pacemaker.
    let outcome = catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|_| {
        Err(Failed { code: OcfCode::Generic, reason: "the agent has a defect: see the log".to_owned() })
    });
    match outcome {
        Ok(code) => code,
        Err(Failed { code, reason }) => {
            let action = action.unwrap_or_default();
            let subject = agent.action().subject_of_failure();
            match code {
                OcfCode::Degraded | OcfCode::DegradedPromoted | OcfCode::NotRunning => {
                    decided!(warn, subject, reason, "{action}: {reason}");
                }
                _ => decided!(error, subject, reason, "{action}: {reason}"),
            }
            let _closed = writeln!(io::stderr(), "{prefix}{}", shortened(&reason));
            code
        }
    }
}

/// To stdout. Who asked and does not get all of it must not take it for that.
fn written(text: impl AsRef<str>) -> OcfCode {
    match io::stdout().write_all(text.as_ref().as_bytes()).and_then(|()| io::stdout().flush()) {
        Ok(()) => OcfCode::Success,
        Err(_) => OcfCode::Generic,
    }
}

/// Which of the two it is.
enum Agent {
    Gate(Action),
    Block(Block),
}

impl Agent {
    fn action(&self) -> &Action {
        match self {
            Agent::Gate(gate) => gate,
            Agent::Block(block) => &block.action,
        }
    }
}

fn of_gate(gate: &Action, action: Option<&str>) -> Outcome {
    match action {
        Some("start") => gate.start(),
        Some("stop") => gate.stop(),
        Some("monitor") => gate.monitor(),
        Some("promote") => gate.promote(),
        Some("demote") => gate.demote(),
        Some("validate-all") => gate.validate(),
        other => Err(no_such_action(other, &metadata::gate_methods())),
    }
}

fn of_block(block: &Block, action: Option<&str>) -> Outcome {
    match action {
        Some("start") => block.start(),
        Some("stop") => block.stop(),
        Some("monitor") => block.monitor(),
        Some("validate-all") => block.validate(),
        other => Err(no_such_action(other, &metadata::block_methods())),
    }
}

fn no_such_action(action: Option<&str>, methods: &str) -> Failed {
    let reason = match action {
        Some(action) => format!("no such action: {}", action.escape_debug()),
        None => format!("no action given; one of: {}", methods.replace('\n', " ")),
    };
    Failed { code: OcfCode::Unimplemented, reason }
}

/// One line of at most [`REASON_LIMIT`] bytes.
fn shortened(reason: &str) -> String {
    let mut line = String::new();
    for c in reason.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if line.len() + c.len_utf8() > REASON_LIMIT {
            break;
        }
        line.push(c);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_short_line() {
        assert_eq!(shortened("a\nb"), "a b");
        let long = shortened(&"ü".repeat(100));
        assert!(long.len() <= REASON_LIMIT && long.starts_with("üü"));
    }
}
