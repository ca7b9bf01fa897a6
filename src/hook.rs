//! Sentinel's `client-reconfig-script`: makes the role attributes follow what a majority of the
//! recorded Sentinels says now.
//!
//! Its arguments are a hint and nothing more: Sentinel tries a failed call again half a minute
//! later with the arguments of then. It writes only with quorum, and only this node's role; the
//! new primary's also clears `primary` elsewhere. It runs as Sentinel's user in group haclient.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::causes::with_causes;
use crate::exit::HookCode;
use crate::instance::{self, Instance};
use crate::keeper::node_name_of_this_boot;
use crate::keeper::socket::{self, Report, Request};
use crate::layout;
use crate::logging::{Subject, decided};
use crate::pacemaker::{self, Cib, PacemakerError};
use crate::params::Params;
use crate::record::{NodeEntry, Record};
use crate::role::Role;
use crate::roles;
use crate::sentinel::{self, Verdict};
use crate::server::AskError;
use crate::settings::{Settings, SettingsError};
use crate::together::together;

/// How long one run may take until it writes: Sentinel kills it at 60 s.
const BUDGET: Duration = Duration::from_secs(20);

/// No write begins after this: each may take 10 s, and at 60 s Sentinel kills us, but not what we have started.
const LAST_WRITE: Duration = BUDGET;

/// A Redis or a Sentinel gets no more time than this, whatever the settings say.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// A look at the cluster is acted on for so long.
const FRESH: Duration = Duration::from_millis(500);

/// How the lines of `rolegate-hook --check` begin that say what is wrong.
pub const CHECK_FAILED: &str = "wrong: ";

/// How long a server may take to answer a check, for which somebody waits.
const CHECK_ANSWERS: Duration = Duration::from_millis(500);

/// How often it looks again while Sentinels do not yet agree (they tell each other within 2 s),
/// and while Redis is not yet what Sentinel makes of it (about 10 s).
const AGREE_PAUSE: Duration = Duration::from_millis(100);
const SETTLE_PAUSE: Duration = Duration::from_secs(1);

/// What Sentinel says by its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The master name.
    pub master: String,
    /// `leader` or `observer`: who ran the failover.
    pub by: String,
    /// From where to where, as Sentinel puts it.
    pub hint: String,
}

/// Why a run did not end well, and whether the same call may work later.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("{0}")]
    Never(String),
    #[error("{0}")]
    Later(String),
}

impl From<PacemakerError> for Problem {
    fn from(error: PacemakerError) -> Self {
        match &error {
            // Pacemaker may be starting, or restarting.
            PacemakerError::NotRunning(_) => Problem::Later(error.to_string()),
            PacemakerError::Denied(_) | PacemakerError::Unreadable { .. } => Problem::Never(error.to_string()),
            PacemakerError::Tool(crate::command::CommandError::NotFound { .. }) => Problem::Never(error.to_string()),
            PacemakerError::Tool(_) => Problem::Later(error.to_string()),
        }
    }
}

impl From<SettingsError> for Problem {
    fn from(error: SettingsError) -> Self {
        Problem::Never(with_causes(&error))
    }
}

/// What the run saw and did, for its one log line.
#[derive(Default)]
struct Account {
    me: Option<String>,
    named: Option<String>,
    /// The Sentinels' configuration epoch, where they were asked.
    epoch: Option<u64>,
    role: Option<Role>,
    did: Vec<String>,
}

impl Account {
    /// Whom its record is about. Where Pacemaker has not said which node this is, a keeper may have noted it.
    fn subject(&self, master: &str) -> Subject {
        let me = self.me.clone().or_else(node_name_of_this_boot);
        let subject = Subject::of(Some(master), me.as_deref());
        subject.heard(self.epoch);
        subject.has_role(self.role);
        subject
    }

    /// Why roles are written as they are.
    fn reason(&self) -> String {
        let named = self.named.as_ref().map(|node| format!("a majority of Sentinels names {node}"));
        named.unwrap_or_else(|| "no majority seen".to_owned())
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.named {
            Some(node) => write!(f, "a majority names {node}")?,
            None => f.write_str("no majority seen")?,
        }
        if let Some(role) = self.role {
            write!(f, "; this node is {role}")?;
        }
        match self.did.as_slice() {
            [] => f.write_str("; nothing written"),
            did => write!(f, "; {}", did.join(", ")),
        }
    }
}

/// Reads Sentinel's arguments: master name, role, state, from-ip, from-port, to-ip, to-port.
///
/// # Errors
/// What is wrong with them.
pub fn read_call(args: &[String]) -> Result<Call, String> {
    match args {
        [master, by, _state, from, from_port, to, to_port] => {
            Ok(Call { master: master.clone(), by: by.clone(), hint: format!("{from}:{from_port} to {to}:{to_port}") })
        }
        _ => {
            Err(format!("{} arguments instead of 7: this is run by Sentinel as its client-reconfig-script", args.len()))
        }
    }
}

/// Tries all that a run needs, and changes nothing: `rolegate-hook --check`, which `rolegate doctor` runs as Sentinel would. Gives what
/// was tried, and for each what is wrong with it.
pub fn check() -> Vec<(String, Result<(), String>)> {
    let mut tried = Vec::new();
    let mut try_out = |what: String, result: Result<(), String>| tried.push((what, result));
    let settings = Settings::load();
    try_out(
        "its settings and password files".to_owned(),
        settings.as_ref().map(drop).map_err(|error| with_causes(error)),
    );
    let cluster = look();
    try_out(
        "asking Pacemaker (crm_node, cibadmin)".to_owned(),
        cluster.as_ref().map(drop).map_err(ToString::to_string),
    );
    let Ok(cluster) = cluster else { return tried };
    let settings = settings.unwrap_or_default();
    let (guards, _) = layout::guards(&cluster.cib);
    let masters: Vec<String> = guards.into_iter().map(|guard| guard.params.master).collect();
    if masters.is_empty() {
        try_out("the gate in the cluster's configuration".to_owned(), Err("it sees none".to_owned()));
    }
    for master in &masters {
        let found = gate_of(&cluster.cib, master)
            .and_then(|(params, record)| Ok((entry(&params.master, &record, &cluster.me)?.address, params, record)));
        try_out(format!("the record of {master}"), found.as_ref().map(drop).map_err(ToString::to_string));
        let Ok((address, params, record)) = found else { continue };
        let within = settings.answer_within.min(CHECK_ANSWERS);
        let redis = instance::ask(address, &settings.redis, within);
        try_out(format!("asking Redis at {address}"), redis.map(drop).map_err(|error| error.to_string()));
        let heard = sentinel::ask_all(&record, master, &settings.sentinel, within);
        let answers = heard.iter().filter(|heard| heard.answer.is_ok()).count();
        let wrong = heard
            .iter()
            .filter_map(|heard| Some(format!("{}: {}", heard.sentinel.address, heard.answer.as_ref().err()?)));
        let enough = answers >= record.majority();
        let wrong = wrong.collect::<Vec<_>>().join("; ");
        try_out(format!("asking the Sentinels about {master}"), enough.then_some(()).ok_or(wrong));
        let role = pacemaker::permanent_attribute(&cluster.me, &params.attribute);
        try_out(
            format!("reading {} (crm_attribute)", params.attribute),
            role.map(drop).map_err(|error| error.to_string()),
        );
    }
    tried
}

/// Prints a line for each thing that was tried. Succeeds where nothing is wrong.
pub fn print_check() -> ExitCode {
    let tried = check();
    let mut out = std::io::stdout();
    for (what, result) in &tried {
        // That nobody reads it changes nothing.
        let _closed = match result {
            Ok(()) => writeln!(out, "well: {what}"),
            Err(why) => writeln!(out, "{CHECK_FAILED}{what}: {}", why.replace('\n', " ")),
        };
    }
    if tried.iter().all(|(_, result)| result.is_ok()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Does one call.
pub fn run(args: &[String]) -> HookCode {
    let started = Instant::now();
    let call = match read_call(args) {
        Ok(call) => call,
        Err(why) => {
            decided!(error, Subject::of(None, node_name_of_this_boot().as_deref()), why, "{why}");
            return HookCode::Never;
        }
    };
    let request = Request::Failover(call.master.clone());
    if let Some(report) = socket::ask(&request).ok().and_then(|reports| reports.into_iter().next()) {
        let Call { master, by, hint } = &call;
        decided!(
            info,
            of_keeper(master, &report),
            "the keeper follows",
            "{master}: called as {by}, {hint}: the keeper follows"
        );
        return HookCode::Done;
    }
    let mut account = Account::default();
    let result = follow(&call, started, &mut account);
    let ms = started.elapsed().as_millis() as u64;
    let Call { master, by, hint } = &call;
    let subject = account.subject(master);
    match result {
        Ok(()) => {
            let why = account.reason();
            decided!(info, subject, why, ms = ms, "{master}: called as {by}, {hint}: {account}");
            HookCode::Done
        }
        Err(Problem::Later(why)) => {
            let then = "to be tried again";
            decided!(error, subject, why, ms = ms, "{master}: called as {by}, {hint}: {account}; {then}: {why}");
            HookCode::Retry
        }
        Err(Problem::Never(why)) => {
            decided!(error, subject, why, ms = ms, "{master}: called as {by}, {hint}: {account}; given up: {why}");
            HookCode::Never
        }
    }
}

/// Whom a record is about where the keeper of this node has answered. One of an older release does not say all of it.
fn of_keeper(master: &str, report: &Report) -> Subject {
    let node = report.node.clone().or_else(node_name_of_this_boot);
    let subject = Subject::of(Some(master), node.as_deref()).of_gate(&report.gate);
    subject.heard(report.epoch);
    subject.has_role(report.role.as_ref().and_then(|role| role.parse().ok()));
    subject
}

/// Writes what is to be written for `master` when a majority names `named` and Redis here says `local`, as a hook would: for the
/// keeper of the node `me`, which has just heard both, and has no time to hear it from all again. `cib` is what it read on its disk;
/// where that is behind, the cluster is asked. The record of what was written is about `subject`.
///
/// Says whether anything was.
///
/// # Errors
/// Why nothing was written.
pub fn keep(
    subject: &Subject,
    (me, master): (&str, &str),
    cib: &Arc<Cib>,
    named: &str,
    local: &Result<Instance, AskError>,
) -> Result<bool, String> {
    let started = Instant::now();
    let mut account = Account::default();
    let known = || Ok(Cluster { me: me.to_owned(), cib: cib.clone(), quorum: pacemaker::has_quorum()? });
    let mut once =
        |cluster: Result<Cluster, Problem>| keep_once(&cluster?, master, named, local, started, &mut account);
    // Each program that need not run is some hundredths of a second in which nobody takes writes.
    let result = match once(known()) {
        Ok(Step::Missed) => once(look()),
        result => result,
    };
    let result = result.map_err(|problem| problem.to_string());
    if !account.did.is_empty() {
        let ms = started.elapsed().as_millis() as u64;
        decided!(info, subject.as_role(account.role), account.reason(), ms = ms, "{master}: {account}");
    }
    result.map(|_| !account.did.is_empty())
}

fn keep_once(
    cluster: &Cluster,
    master: &str,
    named: &str,
    local: &Result<Instance, AskError>,
    started: Instant,
    account: &mut Account,
) -> Result<Step, Problem> {
    let (params, record) = gate_of(&cluster.cib, master)?;
    account.named = Some(named.to_owned());
    write(cluster, named, local, &params, &record, started, account)
}

/// Looks and writes until a look finds nothing to write, and what stands there lasts.
fn follow(call: &Call, started: Instant, account: &mut Account) -> Result<(), Problem> {
    let mut settings = Settings::load()?;
    settings.answer_within = settings.answer_within.min(ANSWER_LIMIT);
    let mut cluster = look()?;
    account.me = Some(cluster.me.clone());
    loop {
        let looked = Instant::now();
        let (named, params, record) = loop {
            let (params, record) = gate_of(&cluster.cib, &call.master)?;
            match named(&call.master, &record, &settings, &mut account.epoch)? {
                Ok(node) => break (node, params, record),
                Err(why) if started.elapsed() + AGREE_PAUSE > BUDGET => return Err(Problem::Later(why)),
                Err(_) => std::thread::sleep(AGREE_PAUSE),
            }
        };
        // Roles and quorum as they were before a wait say nothing now.
        if looked.elapsed() > FRESH {
            cluster = look()?;
        }
        account.named = Some(named.clone());
        let entry = entry(&params.master, &record, &cluster.me)?;
        let local = instance::ask(entry.address, &settings.redis, settings.answer_within);
        match write(&cluster, &named, &local, &params, &record, started, account)? {
            Step::Settled => return Ok(()),
            // Another hook may have written meanwhile, after a newer failover: the last look decides.
            Step::Wrote | Step::Missed => {}
            Step::Unsettled => {
                if started.elapsed() + SETTLE_PAUSE > BUDGET {
                    let why = "Redis here is still primary, though another node is named".to_owned();
                    return Err(Problem::Later(why));
                }
                std::thread::sleep(SETTLE_PAUSE);
            }
        }
        cluster = look()?;
    }
}

enum Step {
    Settled,
    Wrote,
    /// Something stands there by now that was not there when the cluster was looked at.
    Missed,
    Unsettled,
}

/// The node that a majority names now, or why there is none yet.
fn named(
    master: &str,
    record: &Record,
    settings: &Settings,
    epoch: &mut Option<u64>,
) -> Result<Result<String, String>, Problem> {
    let heard = sentinel::ask_all(record, master, &settings.sentinel, settings.answer_within);
    *epoch = sentinel::highest_epoch(heard.iter().filter_map(|heard| heard.answer.as_deref().ok())).or(*epoch);
    let verdict = Verdict::of(record, &heard, None);
    if let (None, Some(place), None) = (&verdict.named, &verdict.points_at, &verdict.points_at_node) {
        return Err(Problem::Never(format!(
            "Sentinels name {place}, which is no node of the record: run `rolegate init --master {master} --replace` if it should be"
        )));
    }
    let disagree = || format!("no majority of Sentinels agrees ({})", verdict.notes.join("; "));
    Ok(verdict.named.clone().ok_or_else(disagree))
}

/// This node's entry in the record.
fn entry<'r>(master: &str, record: &'r Record, me: &str) -> Result<&'r NodeEntry, Problem> {
    record.node(me).ok_or_else(|| {
        Problem::Never(format!("{me} is not in the record: run `rolegate init --master {master} --replace`"))
    })
}

/// Writes what follows from `named`, if anything does.
fn write(
    cluster: &Cluster,
    named: &str,
    local: &Result<Instance, AskError>,
    params: &Params,
    record: &Record,
    started: Instant,
    account: &mut Account,
) -> Result<Step, Problem> {
    let Cluster { me, cib, quorum } = cluster;
    account.me = Some(me.clone());
    let node = cib.node(me).ok_or_else(|| Problem::Never(format!("the CIB shows no node {me}")))?;
    entry(&params.master, record, me)?;
    let plan = roles::plan(node, named, local, cib, params);
    account.role = Some(plan.role);
    if plan.set.is_none() && plan.clear.is_empty() {
        return Ok(if plan.settled { Step::Settled } else { Step::Unsettled });
    }
    // Last before writing: the tools override quorum, and a minority's edits can win the merge.
    if !quorum {
        return Err(Problem::Later("this partition has no quorum: nothing is written".to_owned()));
    }
    let in_time = || match started.elapsed() > LAST_WRITE {
        true => Err(Problem::Later("Pacemaker is too slow".to_owned())),
        false => Ok(()),
    };
    let attribute = params.attribute.as_str();
    let mut missed = false;
    for other in &plan.clear {
        in_time()?;
        match pacemaker::replace_role(other, attribute, Role::Primary, Role::Replica)? {
            true => account.did.push(format!("{} cleared to replica", other.name)),
            false => missed = true,
        }
    }
    if let Some(role) = plan.set {
        in_time()?;
        let written = match node.permanent(attribute).and_then(|before| before.parse().ok()) {
            Some(before) => pacemaker::replace_role(node, attribute, before, role)?,
            None => pacemaker::set_attribute(me, attribute, role.as_str()).map(|()| true)?,
        };
        match written {
            true => account.did.push(format!("{me} set to {role}")),
            false => missed = true,
        }
    }
    Ok(if missed { Step::Missed } else { Step::Wrote })
}

struct Cluster {
    me: String,
    cib: Arc<Cib>,
    quorum: bool,
}

/// Asks Pacemaker's three questions at once: each is a program of its own.
fn look() -> Result<Cluster, Problem> {
    enum Told {
        Me(Result<String, PacemakerError>),
        Quorum(Result<bool, PacemakerError>),
        Cib(Box<Result<Cib, PacemakerError>>),
    }
    let jobs: [fn() -> Told; 3] = [
        || Told::Me(pacemaker::local_node()),
        || Told::Quorum(pacemaker::has_quorum()),
        || Told::Cib(Box::new(pacemaker::read_cib())),
    ];
    let (mut me, mut quorum, mut cib) = (None, None, None);
    for told in together(Duration::from_secs(12), jobs).into_iter().flatten() {
        match told {
            Told::Me(name) => me = Some(name?),
            Told::Quorum(has) => quorum = Some(has?),
            Told::Cib(read) => cib = Some((*read)?),
        }
    }
    match (me, quorum, cib) {
        (Some(me), Some(quorum), Some(cib)) => Ok(Cluster { me, cib: Arc::new(cib), quorum }),
        _ => Err(Problem::Later("Pacemaker did not answer in time".to_owned())),
    }
}

/// What guards a master name: its parameters and its record.
fn gate_of(cib: &Cib, master: &str) -> Result<(Params, Record), Problem> {
    let (guards, bad) = layout::guards(cib);
    if let Some(guard) = guards.into_iter().find(|guard| guard.params.master == master) {
        let id = &guard.resource.id;
        let record = guard.params.record.clone().map_err(|error| Problem::Never(format!("{id}: {error}")))?;
        return Ok((guard.params, record));
    }
    let wrong = bad.iter().filter(|(resource, _)| layout::master_of(resource) == master).chain(&bad).next();
    let wrong = wrong.map(|(resource, error)| format!("; {}: {error}", resource.id));
    Err(Problem::Never(format!(
        "the cluster has no gate (ocf:rolegate:gate) for the master name {master}{}",
        wrong.unwrap_or_default()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pacemaker::cib;

    fn args(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn reads_sentinels_arguments() {
        let call = read_call(&args("mymaster leader start 10.0.0.1 6379 10.0.0.2 6379")).unwrap();
        assert_eq!((call.master.as_str(), call.by.as_str()), ("mymaster", "leader"));
        assert_eq!(call.hint, "10.0.0.1:6379 to 10.0.0.2:6379");
        for wrong in ["", "mymaster", "mymaster leader start 10.0.0.1 6379 10.0.0.2 6379 more"] {
            assert!(read_call(&args(wrong)).is_err());
        }
    }

    #[test]
    fn the_gate_of_a_master_name_is_found_among_several() {
        let gate = |id: &str, parameters: &str| {
            format!(
                "<primitive id=\"{id}\" class=\"ocf\" provider=\"rolegate\" type=\"gate\"><instance_attributes id=\"{id}-i\">{parameters}</instance_attributes></primitive>"
            )
        };
        let xml = format!(
            "<cib><configuration><resources>{}{}{}</resources></configuration></cib>",
            gate("Broken", "<nvpair id=\"b\" name=\"rw_port\" value=\"none\"/>"),
            gate(
                "Other",
                &[
                    ("master", "other"),
                    ("attribute", "a"),
                    ("ro_port", "7380"),
                    ("rw_port", "7381"),
                    ("redis_port", "7379")
                ]
                .map(|(name, value)| format!("<nvpair id=\"o-{name}\" name=\"{name}\" value=\"{value}\"/>"))
                .concat()
            ),
            gate("RedisGate", ""),
        );
        let cib = cib::parse(&xml).unwrap();
        let no_record = gate_of(&cib, "mymaster").unwrap_err();
        assert!(no_record.to_string().contains("RedisGate") && no_record.to_string().contains("rolegate init"));
        let unknown = gate_of(&cib, "third").unwrap_err();
        assert!(matches!(&unknown, Problem::Never(why) if why.contains("third") && why.contains("Broken")));
        // One that took another's ports is told what it took.
        let cib = cib::parse(&format!(
            "<cib><configuration><resources>{}{}</resources></configuration></cib>",
            gate("RedisGate", ""),
            gate("Other", "<nvpair id=\"o\" name=\"master\" value=\"other\"/>"),
        ));
        let taken = gate_of(&cib.unwrap(), "other").unwrap_err().to_string();
        assert!(taken.contains("Other: attribute=redis_role") && taken.contains("used by RedisGate"), "{taken}");
    }
}
