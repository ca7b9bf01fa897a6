//! The actions of `ocf:rolegate:block`: started means blocked. What a block that does not run permits is decided in
//! [`crate::layout`].
//!
//! start closes before it asks anything. stop opens nothing by itself: it leaves the port to this node's role, and where that does
//! not allow it, or cannot be told, the port is closed, which is logged.

use std::thread;
use std::time::{Duration, Instant};

use super::gate::{Action, Failed, Outcome, failed};
use crate::exit::OcfCode;
use crate::gate::{Baseline, Desired, Port, Want};
use crate::layout::{left_by, own_role};
use crate::logging::decided;
use crate::pacemaker;
use crate::params::{ParamError, read_port};
use crate::permission::{Granted, Permission};
use crate::role::Role;

/// How long a stop waits for Pacemaker to say this node's role.
const ASK_WITHIN: Duration = Duration::from_secs(3);

/// How long a monitor waits for the keeper to repair a firewall that was flushed, and between two looks.
const REPAIRED_WITHIN: Duration = Duration::from_millis(1500);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// One action of a block.
pub struct Block {
    pub(super) action: Action,
    port: Result<Port, ParamError>,
}

impl Block {
    /// An action with the environment and parameters given by `get`.
    pub fn new(get: impl Fn(&str) -> Option<String>) -> Self {
        let port = read_port(|name| get(&format!("OCF_RESKEY_{name}")));
        Block { action: Action::of(true, get), port }
    }

    /// start: the port is closed and its connections are cut when this returns.
    pub fn start(&self) -> Outcome {
        let port = self.port.clone()?;
        let permission = self.action.read_permission_or_none();
        if let Ok(params) = &self.action.params {
            self.action.others().refuse(permission, params.ports)?;
        }
        // First: who reads it must not open again behind our back. Closed all the same where it cannot be written.
        let noted = self.note(Granted::Stopping, permission);
        self.close(port, permission)?;
        noted?;
        // Closed, and only now: with wrong parameters nobody could tell what this blocks.
        self.action.params.clone()?;
        self.action.tell_keeper();
        decided!(info, self.action.subject, "Pacemaker starts it here", "started, {port} is blocked");
        Ok(OcfCode::Success)
    }

    /// stop: leaves the port to this node's role.
    pub fn stop(&self) -> Outcome {
        let permission = self.action.read_permission_or_none();
        let port = self.port.as_ref().ok().filter(|_| !self.action.others().shares());
        let Some(&port) = port else {
            // No longer a block that anybody could name, or none with ports of its own: nothing opens without its file.
            self.action.close(permission, Desired::CLOSED, Desired::CLOSED)?;
            return self
                .action
                .store
                .remove()
                .map(|()| OcfCode::Success)
                .map_err(|error| failed(OcfCode::Generic, crate::causes::with_causes(&error)));
        };
        match self.role() {
            Ok(role) if allows(role, port) => {
                let subject = self.action.subject.as_role(role);
                decided!(info, subject, "its role allows it", "stopped, {port} is left to this node's role");
            }
            refused => {
                let role = refused.as_ref().ok().copied().flatten();
                let why = match refused {
                    Ok(Some(role)) => format!("this node's role is {role}"),
                    Ok(None) => "this node has no role, or is fenced".to_owned(),
                    Err(why) => why,
                };
                let subject = self.action.subject.as_role(role);
                decided!(warn, subject, why, "stopped, and {port} stays closed: {why}");
                match self.close(port, permission) {
                    // Never started here, and no firewall that could hold anything of ours.
                    Err(error) if error.code == OcfCode::Installed && permission.is_none() => {
                        decided!(warn, subject, error.reason, "{}", error.reason);
                    }
                    closed => closed?,
                }
            }
        }
        self.note(left_by(port), permission)?;
        self.action.tell_keeper();
        Ok(OcfCode::Success)
    }

    /// monitor: whether the port is blocked here for real.
    pub fn monitor(&self) -> Outcome {
        let permission = self.action.read_permission()?;
        let recurring = self.action.environment.recurring;
        if let Ok(params) = &self.action.params {
            match self.action.others().refuse(permission, params.ports) {
                // It leaves nothing to the role: the ports are another's.
                Err(_) if !recurring && permission.is_none() => return Ok(OcfCode::NotRunning),
                refused => refused?,
            }
        }
        if permission.is_none_or(|permission| permission.granted != Granted::Stopping) {
            if let (None, Ok(port), false) = (permission, &self.port, recurring) {
                // Pacemaker has looked. Where that cannot be noted, nothing opens.
                if let Err(Failed { reason, .. }) = self.note(left_by(*port), None) {
                    decided!(warn, self.action.subject, reason, "{reason}");
                }
            }
            return Ok(OcfCode::NotRunning);
        }
        let port = self.port.clone()?;
        let params = self.action.params.clone()?;
        let gate = self.action.gate(params.ports, &self.action.settings()?).map_err(|error| match error.code {
            // It runs here, so this is no missing installation.
            OcfCode::Installed => failed(OcfCode::Generic, error.reason),
            _ => error,
        })?;
        let mut state = gate.state()?;
        let patience = Instant::now() + REPAIRED_WITHIN;
        while recurring && state.baseline != Baseline::Intact && Instant::now() < patience {
            thread::sleep(LOOK_AGAIN);
            state = gate.state()?;
        }
        let number = params.ports.number(port);
        match (state.of(port).is_open(), &state.baseline) {
            (true, Baseline::Intact) if port == Port::Rw && self.action.forced().is_some() => {
                let text = self.action.forced().map(|force| force.text).unwrap_or_default();
                Err(failed(OcfCode::Degraded, text))
            }
            (true, _) if recurring => {
                gate.set(Desired::KEEP.with(port, Want::Close))?;
                Err(failed(OcfCode::Generic, format!("port {number} was open though it is blocked: closed")))
            }
            (true, _) => Err(failed(OcfCode::Generic, format!("port {number} is open though it is blocked"))),
            (false, Baseline::Intact) => Ok(OcfCode::Success),
            (false, Baseline::Missing) => {
                Err(failed(OcfCode::Generic, "the firewall rules are gone (flushed or reloaded)"))
            }
            (false, Baseline::Edited(what)) => {
                Err(failed(OcfCode::Generic, format!("the firewall rules were changed: {what}")))
            }
        }
    }

    /// validate-all: the parameters; at level 10 this node too.
    pub fn validate(&self) -> Outcome {
        self.port.clone()?;
        self.action.validate()
    }

    /// Writes what this block leaves to the role, with the ports for which that holds: the parameters' if they can be read.
    fn note(&self, granted: Granted, before: Option<Permission>) -> Result<(), Failed> {
        let configured = self.action.params.as_ref().ok().map(|params| params.ports);
        let ports = configured.or(before.map(|permission| permission.ports)).unwrap_or_default();
        self.action.grant(granted, ports)
    }

    fn close(&self, port: Port, permission: Option<Permission>) -> Result<(), Failed> {
        let this = Desired::KEEP.with(port, Want::Close);
        self.action.close(permission, this, this)
    }

    /// This node's role, or why it cannot be told.
    fn role(&self) -> Result<Option<Role>, String> {
        let params = self.action.params.as_ref().map_err(ToString::to_string)?;
        let me = self.action.node_name()?;
        let within = ASK_WITHIN.min(self.action.left() / 4);
        let cib = pacemaker::read_cib_within(within).map_err(|error| error.to_string())?;
        let node = cib.node(&me).ok_or_else(|| format!("the CIB shows no node {me}"))?;
        Ok(own_role(node, &params.attribute))
    }
}

/// Whether a role allows a port to be open.
fn allows(role: Option<Role>, port: Port) -> bool {
    match port {
        Port::Ro => matches!(role, Some(Role::Primary | Role::Replica)),
        Port::Rw => role == Some(Role::Primary),
    }
}
