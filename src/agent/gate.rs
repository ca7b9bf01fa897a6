//! The actions of `ocf:rolegate:gate`. What a monitor decides is in [`super::judge`].
//!
//! stop and demote close first and ask no questions: they work with Redis and Sentinels down and
//! with broken parameters or settings.

use std::thread;
use std::time::{Duration, Instant};

use super::environment::Environment;
use super::judge::{Seen, judge};
use super::shared::Others;
use crate::causes::with_causes;
use crate::exit::OcfCode;
use crate::forced::{self, Force};
use crate::gate::{Baseline, Desired, Gate, GateError, Port, Ports, State, Want};
use crate::keeper::socket::{self, Report, Request};
use crate::local_fence::LocalFence;
use crate::logging::{Subject, decided};
use crate::pacemaker;
use crate::pacemaker::cib::Resource;
use crate::params::{BLOCK_PARAMETERS, ParamError, Params};
use crate::permission::{Granted, Permission, Store};
use crate::role::Role;
use crate::settings::Settings;

/// How often a promote that waits reads the firewall, and asks the keeper why.
const LOOK_AGAIN: Duration = Duration::from_millis(15);
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// How long a keeper may take an open port for open that is closed: it looks in each of its rounds.
const KEEPER_SEES_WITHIN: Duration = Duration::from_millis(1500);

/// How long a monitor waits for the keeper to repair a firewall that was flushed.
const REPAIRED_WITHIN: Duration = Duration::from_millis(1500);

/// An action that failed: its code and the reason that crm_mon shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// The exit code.
    pub code: OcfCode,
    /// Shown in crm_mon; Pacemaker keeps 128 bytes.
    pub reason: String,
}

/// The keeper said nothing of this gate.
struct NoReport {
    why: String,
    /// It is there: slow, or about to hear of the gate.
    keeper_runs: bool,
}

/// How an action ended.
pub type Outcome = Result<OcfCode, Failed>;

pub(super) fn failed(code: OcfCode, reason: impl Into<String>) -> Failed {
    Failed { code, reason: reason.into() }
}

impl From<GateError> for Failed {
    fn from(error: GateError) -> Self {
        let code = match &error {
            GateError::Permission { .. } => OcfCode::Permission,
            GateError::NoFirewall { .. } => OcfCode::Installed,
            _ => OcfCode::Generic,
        };
        failed(code, with_causes(&error))
    }
}

impl From<ParamError> for Failed {
    fn from(error: ParamError) -> Self {
        failed(OcfCode::Configured, error.to_string())
    }
}

/// One action with all that it knows.
pub struct Action {
    pub(super) environment: Environment,
    pub(super) params: Result<Params, ParamError>,
    pub(super) store: Store,
    /// Of which its records are. What the keeper says of it is told by these.
    pub(super) subject: Subject,
    /// As the cluster would show it.
    resource: Resource,
    is_block: bool,
    started: Instant,
}

impl Action {
    /// An action of a gate with the environment and parameters given by `get`.
    pub fn new(get: impl Fn(&str) -> Option<String>) -> Self {
        Action::of(false, get)
    }

    /// The same of a block or a gate.
    pub(super) fn of(is_block: bool, get: impl Fn(&str) -> Option<String>) -> Self {
        let environment = Environment::read(&get);
        let store = Store::new(&environment.instance);
        let parameter = |name: &str| get(&format!("OCF_RESKEY_{name}"));
        let params = Params::read(parameter);
        let set = BLOCK_PARAMETERS.iter().filter_map(|one| Some((one.name.to_owned(), parameter(one.name)?)));
        let resource = Resource { id: environment.instance.clone(), parameters: set.collect(), ..Resource::default() };
        let master = params.as_ref().ok().map(|params| params.master.as_str());
        let subject = Subject::of(master, environment.on_node.as_deref()).of_gate(&environment.instance);
        Action { environment, params, store, subject, resource, is_block, started: Instant::now() }
    }

    /// start: closed or read-only, never read-write.
    pub fn start(&self) -> Outcome {
        let params = self.params.clone()?;
        self.others().refuse(self.read_permission()?, params.ports)?;
        let settings = self.settings()?;
        let gate = self.gate(params.ports, &settings)?;
        self.grant(Granted::Started, params.ports)?;
        let ro = match self.may_open(&params) {
            Ok(()) => Want::Open(params.open_for),
            Err(why) => {
                decided!(warn, self.subject.as_role(Some(Role::Replica)), why, "started, and stays closed: {why}");
                Want::Close
            }
        };
        // What an operator has forced open a start does not end.
        let rw = if self.forced().is_some() { Want::Keep } else { Want::Close };
        self.set(&gate, Desired { ro, rw })?;
        decided!(info, self.subject.as_role(Some(Role::Replica)), "Pacemaker starts it here", "started");
        Ok(OcfCode::Success)
    }

    /// promote: gives the keeper its permission, and waits until the keeper holds the lease.
    pub fn promote(&self) -> Outcome {
        let params = self.params.clone()?;
        let permission = self.read_permission()?;
        self.others().refuse(permission, params.ports)?;
        let settings = self.settings()?;
        let gate = self.gate(params.ports, &settings)?;
        if permission.is_none() {
            return Err(failed(OcfCode::NotRunning, "the gate is not started here"));
        }
        self.grant(Granted::Promoted, params.ports)?;
        // Promoted means may open. The monitor goes on saying why it does not.
        if let Err(why) = self.may_open(&params) {
            decided!(warn, self.subject.as_role(Some(Role::Primary)), why, "promoted, and stays closed: {why}");
            gate.set(Desired::CLOSED)?;
            return Ok(OcfCode::Success);
        }
        // Also of what an earlier one left open: it opens by a lease or not at all.
        let ro = Desired { ro: Want::Open(params.open_for), rw: Want::Keep };
        let mut renewed: Option<Instant> = None;
        let mut said = String::new();
        let mut asked: Option<Instant> = None;
        let mut waiting = String::new();
        loop {
            // Only the time for it all may fail a promote. No monitor runs meanwhile: readers keep their port.
            if renewed.is_none_or(|at| at.elapsed() > params.open_for / 4) {
                match self.set(&gate, ro) {
                    Ok(()) => renewed = Some(Instant::now()),
                    Err(error) => waiting = with_causes(&error),
                }
            }
            let open = gate.state().map(|state| state.rw.is_open());
            if let Err(error) = &open {
                waiting = with_causes(error);
            }
            if open.unwrap_or(false) && renewed.is_some() {
                let after_ms = self.started.elapsed().as_millis() as u64;
                let (subject, why) = (self.subject.as_role(Some(Role::Primary)), "Pacemaker promotes it here");
                decided!(info, subject, why, after_ms = after_ms, "promoted, read-write port open");
                return Ok(OcfCode::Success);
            }
            if asked.is_none_or(|at| at.elapsed() > ASK_AGAIN) {
                let first = asked.replace(Instant::now()).is_none();
                match self.lease() {
                    // The next transition demotes here and promotes there; it must not wait for us. The keeper looks because it
                    // is asked: its first answer may be of before.
                    Ok(Report { other: Some(node), .. }) if !first => {
                        let why = format!("Sentinels name {node}");
                        decided!(info, self.subject, why, "promoted, and stays closed: {why}");
                        return Ok(OcfCode::Success);
                    }
                    Ok(report) => waiting = report.why,
                    Err(NoReport { why, .. }) => waiting = why,
                }
            }
            if waiting != said {
                decided!(info, self.subject, waiting, "promote waits: {waiting}");
                said.clone_from(&waiting);
            }
            if self.left() < Duration::from_secs(1) {
                self.grant(Granted::Started, params.ports)?;
                gate.set(Desired { ro: Want::Open(params.open_for), rw: Want::Close })?;
                return Err(failed(OcfCode::Generic, format!("not promoted in time: {waiting}")));
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// demote: the read-write port is closed and its connections are cut when this returns.
    pub fn demote(&self) -> Outcome {
        let permission = self.read_permission_or_none();
        self.withdraw(permission, Granted::Started);
        let ro = if permission.is_some() { Want::Keep } else { Want::Close };
        self.close(permission, Desired { ro, rw: Want::Close }, Desired::CLOSED)?;
        if permission.is_none() {
            return Err(failed(OcfCode::NotRunning, "the gate is not started here"));
        }
        self.tell_keeper();
        let subject = self.subject.as_role(Some(Role::Replica));
        decided!(info, subject, "Pacemaker demotes it here", "demoted, read-write port closed");
        Ok(OcfCode::Success)
    }

    /// stop: both ports are closed and their connections are cut when this returns.
    pub fn stop(&self) -> Outcome {
        let permission = self.read_permission_or_none();
        self.withdraw(permission, Granted::Stopping);
        match self.close(permission, Desired::CLOSED, Desired::CLOSED) {
            // Never started here, and no firewall that could hold anything of ours.
            Err(error) if error.code == OcfCode::Installed && permission.is_none() => {
                decided!(warn, self.subject, error.reason, "{}", error.reason);
            }
            other => other?,
        }
        // Only now: a stop that failed is tried again, and must then know the ports.
        self.store.remove().map_err(|error| failed(OcfCode::Generic, with_causes(&error)))?;
        self.tell_keeper();
        decided!(info, self.subject, "Pacemaker stops it here", "stopped, both ports closed");
        Ok(OcfCode::Success)
    }

    /// monitor: the real state; renews what is open, closes what may not be.
    pub fn monitor(&self) -> Outcome {
        let permission = self.read_permission()?;
        let recurring = self.environment.recurring;
        let params = match (&self.params, permission) {
            (Ok(params), _) => params.clone(),
            // A probe for a resource that was never started here.
            (Err(_), None) if !recurring => return Ok(OcfCode::NotRunning),
            (Err(error), _) => return Err(error.clone().into()),
        };
        match self.others().refuse(permission, params.ports) {
            // What a probe would see is another's.
            Err(_) if !recurring && permission.is_none() => return Ok(OcfCode::NotRunning),
            refused => refused?,
        }
        let settings = match self.settings() {
            Ok(settings) => settings,
            Err(_) if !recurring && permission.is_none() => return Ok(OcfCode::NotRunning),
            Err(error) => return Err(error),
        };
        let gate = self.gate(params.ports, &settings)?;
        let mut state = match gate.state().map_err(Failed::from) {
            Ok(state) => state,
            // No firewall here, so no gate runs here. start says that it is missing.
            Err(error) if error.code == OcfCode::Installed && permission.is_none() => {
                return Ok(OcfCode::NotRunning);
            }
            Err(error) if error.code == OcfCode::Installed => return Err(failed(OcfCode::Generic, error.reason)),
            Err(error) => return Err(error),
        };
        let record = self.may_open(&params);
        let granted = permission.map(|permission| permission.granted);
        let watched = recurring && granted.is_some() && record.is_ok();
        // The keeper repairs it within a second. Only what stays broken is worth a restart.
        let patience = Instant::now() + REPAIRED_WITHIN;
        while watched && state.baseline != Baseline::Intact && Instant::now() < patience && self.lease().is_ok() {
            thread::sleep(ASK_AGAIN);
            state = gate.state()?;
        }
        let mut closed = (watched && granted == Some(Granted::Promoted) && !state.rw.is_open()).then(|| self.lease());
        // Opened since it was read; or the lease has just run out, and the keeper says why when it has seen that. Of monitors with the same
        // result the cluster shows the first one's reason.
        let patience = Instant::now() + KEEPER_SEES_WITHIN;
        while matches!(&closed, Some(Ok(report)) if report.open) {
            state = gate.state()?;
            if state.rw.is_open() || Instant::now() > patience {
                break;
            }
            thread::sleep(ASK_AGAIN);
            closed = Some(self.lease());
        }
        let listeners = if watched { gate.listeners()? } else { Vec::new() };
        let lease = closed.map(|lease| match lease {
            Ok(report) => Ok(report.why),
            Err(NoReport { why, keeper_runs: true }) => Ok(why),
            Err(NoReport { why, keeper_runs: false }) => Err(why),
        });
        let forced = self.forced().map(|force| force.text);
        let seen = Seen { granted, state, record, lease, listeners, recurring, open_for: params.open_for, forced };
        let judgement = judge(&seen);
        if judgement.change != Desired::KEEP {
            self.set(&gate, judgement.change)?;
        }
        match judgement.reason {
            None => Ok(judgement.code),
            Some(reason) => Err(failed(judgement.code, reason)),
        }
    }

    /// validate-all: the parameters; at level 10 this node too.
    pub fn validate(&self) -> Outcome {
        let params = self.params.clone()?;
        if let Err(error @ crate::record::RecordError::Syntax { .. }) = &params.record {
            return Err(failed(OcfCode::Configured, error.to_string()));
        }
        if self.environment.check_level >= 10 {
            let settings = self.settings()?;
            self.gate(params.ports, &settings)?.state()?;
            self.usable_record(&params).map_err(|why| failed(OcfCode::Arguments, why))?;
        }
        Ok(OcfCode::Success)
    }

    /// How the lease stands, from the keeper; or why that cannot be told. The keeper looks at once for being asked.
    fn lease(&self) -> Result<Report, NoReport> {
        let request = Request::Permission(self.environment.instance.clone());
        let reports = socket::ask(&request)
            .map_err(|error| NoReport { why: socket::missing(&error), keeper_runs: !socket::is_missing(&error) })?;
        let report = reports.into_iter().next().ok_or_else(|| NoReport {
            why: "rolegate-keeper has not heard of this gate yet".to_owned(),
            keeper_runs: true,
        })?;
        self.subject.heard(report.epoch);
        self.subject.has_role(report.role.as_ref().and_then(|role| role.parse().ok()));
        Ok(report)
    }

    /// Lets the keeper see that a permission has changed, as it would by itself a moment later.
    pub(super) fn tell_keeper(&self) {
        let _told = self.lease();
    }

    /// Of which the record of a failure is: where no keeper has said what role the node has, the gate has that for which it runs here.
    pub(super) fn subject_of_failure(&self) -> Subject {
        if self.is_block || self.subject.known().role.is_some() {
            return self.subject.clone();
        }
        let runs_as = |permission: Permission| match permission.granted {
            Granted::Promoted => Some(Role::Primary),
            Granted::Started => Some(Role::Replica),
            Granted::Stopping => None,
        };
        self.subject.as_role(self.store.read().ok().flatten().and_then(runs_as))
    }

    pub(super) fn left(&self) -> Duration {
        self.environment.budget().saturating_sub(self.started.elapsed())
    }

    pub(super) fn settings(&self) -> Result<Settings, Failed> {
        Settings::load().map_err(|error| failed(OcfCode::Arguments, with_causes(&error)))
    }

    pub(super) fn gate(&self, ports: Ports, settings: &Settings) -> Result<Gate, Failed> {
        let within = settings.firewall_within.min(self.left());
        Ok(Gate::new(ports, settings.firewall, within)?.about(self.subject.clone()))
    }

    /// A gate for closing, which takes the time that it needs: a stop that fails costs most of all.
    fn closing_gate(&self, ports: Ports, settings: &Settings, part: u32) -> Result<Gate, Failed> {
        Ok(Gate::new(ports, settings.firewall, self.left() / part)?.about(self.subject.clone()))
    }

    /// Whose the ports are, if others' gates may have them.
    pub(super) fn others(&self) -> Others {
        Others::read(&self.resource, self.is_block)
    }

    /// Whether there is a record, and no fence of this node itself; or why the gate stays closed.
    fn may_open(&self, params: &Params) -> Result<(), String> {
        match LocalFence::default().read() {
            Some(fence) if fence.is_empty() => Err("ports closed by operator".to_owned()),
            Some(fence) => Err(fence),
            None => self.usable_record(params),
        }
    }

    /// What an operator has forced open here.
    pub(super) fn forced(&self) -> Option<Force> {
        forced::Store::new(&self.environment.instance).read().filter(|force| force.opened)
    }

    /// Sets the gate, and opens nothing behind the back of an operator who has just fenced this node.
    fn set(&self, gate: &Gate, desired: Desired) -> Result<(), GateError> {
        match gate.set_if(desired, || LocalFence::default().read().is_none())? {
            Some(_) => Ok(()),
            None => gate.set(Desired::CLOSED).map(drop),
        }
    }

    /// Whether there is a record with this node in it, or why the gate stays closed.
    fn usable_record(&self, params: &Params) -> Result<(), String> {
        let record = params.record.as_ref().map_err(ToString::to_string)?;
        let me = self.node_name()?;
        match record.node(&me) {
            Some(_) => Ok(()),
            None => Err(format!(
                "{me} is not in the record's nodes: run `rolegate init --master {} --replace`",
                params.master
            )),
        }
    }

    /// Pacemaker passes the name; by hand and under ocf-tester it is asked for.
    pub(super) fn node_name(&self) -> Result<String, String> {
        if let Some(name) = &self.environment.on_node {
            return Ok(name.clone());
        }
        if let Ok(name) = pacemaker::local_node() {
            return Ok(name);
        }
        let name = nix::unistd::gethostname().map_err(|error| format!("this node's name: {error}"))?;
        Ok(name.to_string_lossy().into_owned())
    }

    pub(super) fn grant(&self, granted: Granted, ports: Ports) -> Result<(), Failed> {
        self.store.write(Permission { granted, ports }).map_err(|error| failed(OcfCode::Generic, with_causes(&error)))
    }

    pub(super) fn read_permission(&self) -> Result<Option<Permission>, Failed> {
        self.store.read().map_err(|error| failed(OcfCode::Generic, with_causes(&error)))
    }

    /// Takes the permission to open for writing away, before closing: who reads it must not open again behind our back.
    fn withdraw(&self, permission: Option<Permission>, to: Granted) {
        let Some(permission) = permission.filter(|permission| permission.granted > to) else { return };
        if let Err(error) = self.store.write(Permission { granted: to, ..permission }).or_else(|_| self.store.remove())
        {
            let why = with_causes(&error);
            decided!(warn, self.subject, why, "{why}");
        }
    }

    /// For stop and demote, which go on whatever is broken.
    pub(super) fn read_permission_or_none(&self) -> Option<Permission> {
        self.store.read().unwrap_or_else(|error| {
            let why = with_causes(&error);
            decided!(warn, self.subject, why, "{why}");
            None
        })
    }

    /// Closes the ports for which permission was given, and by `configured_too` those of the parameters if they
    /// differ: a changed parameter must not leave the old port open. What is another gate's is left alone.
    pub(super) fn close(
        &self,
        permission: Option<Permission>,
        desired: Desired,
        configured_too: Desired,
    ) -> Result<(), Failed> {
        let settings = Settings::load().unwrap_or_else(|error| {
            let why = with_causes(&error);
            decided!(warn, self.subject, why, "using default settings to close: {why}");
            Settings::default()
        });
        let granted = permission.map(|permission| permission.ports);
        let configured = self.params.as_ref().ok().map(|params| params.ports);
        let first = granted.or(configured).unwrap_or_default();
        let second = configured.filter(|ports| *ports != first);
        let part = if second.is_some() { 2 } else { 1 };
        let others = self.others();
        let close = |ports: Ports, desired: Desired| -> Result<State, Failed> {
            let gate = self.closing_gate(ports, &settings, part)?;
            let kept = |port: &Port| others.keep(ports.number(*port), permission);
            let theirs: Vec<Port> = Port::ALL.into_iter().filter(kept).collect();
            if theirs.is_empty() {
                return Ok(gate.set(desired)?);
            }
            let rest = theirs.into_iter().fold(desired, |desired, port| {
                let why = "it is another gate's";
                decided!(warn, self.subject, why, "port {} is left to another gate", ports.number(port));
                desired.with(port, Want::Keep)
            });
            Ok(gate.shut(rest)?)
        };
        // Both, even if the first fails.
        let results = [Some(close(first, desired)), second.map(|ports| close(ports, configured_too))];
        for result in results.into_iter().flatten() {
            result?;
        }
        Ok(())
    }
}
