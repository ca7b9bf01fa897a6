//! What this node stands on: kept in a file under /run, said in the CIB. When it changes is decided in [`crate::stand`].
//!
//! The file outlasts the keeper and not the machine's boot: behind one, this node stands on nothing. It is written before anything is done by
//! what stands there, and what is said in the CIB covers it at all times.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::task::{JoinHandle, spawn_blocking};

use super::behind;
use super::memory::{boot_id, file_name};
use crate::layout;
use crate::logging::{Subject, decided};
use crate::pacemaker::{self, Cib, Still};
use crate::params::{LEASES, Params};
use crate::permission;
use crate::record::{Basis, Change, Record};
use crate::stand::{self, Next, Own, Peer, Said, Shown, attribute, boot_tag};

/// The form of the file.
const VERSION: u32 = 1;

/// From one attempt to the next: what was written comes back through the cluster.
const PAUSE: Duration = Duration::from_millis(500);

/// While another node is waited for, or after an attempt that failed. What the disk does not show (a node that STONITH has confirmed off) is seen
/// so often.
const PAUSE_WHILE_WAITING: Duration = Duration::from_secs(3);

/// What the parameters give to stand on.
pub fn basis(params: &Params) -> Option<Basis> {
    Some(Basis { record: params.record.clone().ok()?, lease: params.lease })
}

/// What this node stands on, of one gate.
pub struct Standing {
    /// Of which records are.
    subject: Subject,
    gate: String,
    attribute: String,
    path: PathBuf,
    boot: u32,
    /// What it stands on: it opens by nothing else. None: it opens nothing.
    pub on: Option<Basis>,
    /// The one before, until all nodes have shown that they have `on`.
    pub last: Option<Basis>,
    /// A lease by `last` may still be held.
    pub unsettled: bool,
    job: Option<JoinHandle<Result<Outcome, String>>>,
    /// The CIB by which nothing is to be done.
    settled: Option<Arc<Cib>>,
    not_before: Option<Instant>,
    tried: Option<Instant>,
    /// Why it is not on what the CIB has, for an operator.
    pub why: Option<String>,
}

/// What the group knows when it decides.
pub struct View<'a> {
    /// This node's name.
    pub me: &'a str,
    /// The CIB on this node's disk.
    pub cib: &'a Arc<Cib>,
    /// What the CIB gives to stand on.
    pub wanted: Option<&'a Basis>,
    /// It is closed, and an operator wants it so.
    pub idle: bool,
    /// There is no time to lose: Pacemaker waits for the opening.
    pub urgent: bool,
}

/// What came of an attempt.
#[derive(Debug)]
pub struct Outcome {
    next: Next<String>,
    wanted: Basis,
    /// What was to be said is said.
    said: bool,
}

/// What a group has to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Do {
    /// Nothing.
    Nothing,
    /// Work by what it stands on now.
    Follow,
    /// Close, and then stand on nothing ([`Standing::let_go`]).
    Close(String),
}

#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    boot: String,
    on: WrittenBasis,
    last: Option<WrittenBasis>,
}

#[derive(Serialize, Deserialize)]
struct WrittenBasis {
    sentinels: String,
    nodes: String,
    lease_ms: u64,
}

impl From<&Basis> for WrittenBasis {
    fn from(basis: &Basis) -> Self {
        WrittenBasis {
            sentinels: basis.record.sentinels_parameter(),
            nodes: basis.record.nodes_parameter(),
            lease_ms: basis.lease.as_millis() as u64,
        }
    }
}

impl WrittenBasis {
    fn read(&self) -> Option<Basis> {
        let record = Record::parse(&self.sentinels, &self.nodes).ok()?;
        let lease = Some(Duration::from_millis(self.lease_ms)).filter(|lease| LEASES.contains(lease))?;
        Some(Basis { record, lease })
    }
}

impl Standing {
    /// As a keeper of this boot left it. `holds` is the CIB's, where the keeper before this one held a lease: one of a release without the file
    /// held it by that, and has said nothing else.
    pub fn read(subject: Subject, cib: &Cib, (me, gate, master): (&str, &str, &str), holds: Option<&Basis>) -> Self {
        let boot = boot_id();
        let says = own_said(cib, me, &attribute(master), boot_tag(&boot));
        let holds = holds.filter(|basis| says == Shown::Never || says.names(&basis.digest()));
        Standing::under(subject, Path::new(permission::DIRECTORY), &boot, (gate, master), holds.cloned())
    }

    /// The same among the files in `directory`, in the boot `boot`.
    pub fn under(
        subject: Subject,
        directory: &Path,
        boot: &str,
        (gate, master): (&str, &str),
        holds: Option<Basis>,
    ) -> Self {
        let path = directory.join(format!("record-{}", file_name(gate)));
        let written = match fs::read_to_string(&path) {
            Ok(text) => understood(&text, boot).unwrap_or_else(|| {
                let why = "it is not understood";
                decided!(warn, subject, why, "cannot understand {}: this node begins anew", path.display());
                None
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => holds.map(|on| (on, None)),
            Err(error) => {
                decided!(warn, subject, error, "cannot read {}: {error}", path.display());
                None
            }
        };
        let (on, last) = written.map_or((None, None), |(on, last)| (Some(on), last));
        Standing {
            subject,
            gate: gate.to_owned(),
            attribute: attribute(master),
            path,
            boot: boot_tag(boot),
            on,
            unsettled: last.is_some(),
            last,
            job: None,
            settled: None,
            not_before: None,
            tried: None,
            why: None,
        }
    }

    /// The tag of this boot of the machine.
    pub fn boot(&self) -> u32 {
        self.boot
    }

    /// Whether all nodes have shown that they have what this one stands on, by the CIB on its disk. Those that STONITH has confirmed off are
    /// not to be seen there.
    pub fn all_have_shown(&self, view: &View<'_>) -> bool {
        let records = self.records(None);
        let own = Own {
            on: self.on.as_ref().map(Basis::digest),
            also: self.last.as_ref().filter(|_| self.unsettled).map(Basis::digest),
            says: self.own_said(view.cib, view.me),
            idle: view.idle,
            placed: true,
        };
        stand::all_have_shown(&own, &peers(view.cib, &self.attribute, view.me, &records))
    }

    /// All have: the record before is history.
    pub fn forget_last(&mut self) {
        self.last = None;
        if let Err(error) = self.write() {
            decided!(warn, self.subject, error, "{error}");
        }
    }

    /// Closed, it stands on nothing.
    pub fn let_go(&mut self) {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                // What is not written cannot be said.
                decided!(warn, self.subject, error, "cannot remove {}: {error}", self.path.display());
                return;
            }
            _ => {}
        }
        (self.on, self.last, self.unsettled, self.not_before) = (None, None, false, None);
    }

    /// Sees to it that this node stands on what the CIB has, as soon as it may.
    pub fn keep(&mut self, view: &View<'_>) {
        let Some(wanted) = view.wanted else {
            self.why =
                self.on.is_some().then(|| "the cluster's record cannot be used: the one before stays".to_owned());
            return;
        };
        let is_settled = self.settled.as_ref().is_some_and(|cib| Arc::ptr_eq(cib, view.cib));
        if is_settled && self.on.as_ref() == Some(wanted) && self.last.is_none() {
            return;
        }
        let now = Instant::now();
        let decided = decide(&self.question(view, wanted), view.cib);
        match &decided {
            Next::Keep => {
                self.settled = Some(view.cib.clone());
                self.why = None;
                return;
            }
            Next::TooFar => return self.explain(&decided, wanted),
            _ => {}
        }
        let just_tried = self.tried.is_some_and(|at| now - at < PAUSE);
        let hurries = view.urgent && self.on.is_none();
        if self.job.is_some() || just_tried || !hurries && self.not_before.is_some_and(|at| now < at) {
            return;
        }
        self.tried = Some(now);
        let question = self.question(view, wanted);
        self.job = Some(spawn_blocking(move || question.answer()));
    }

    /// The attempt that is under way.
    pub fn job(&mut self) -> &mut Option<JoinHandle<Result<Outcome, String>>> {
        &mut self.job
    }

    /// Takes note of an attempt that has ended.
    pub fn done(&mut self, result: Result<Outcome, String>) -> Do {
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(why) => {
                self.not_before = Some(Instant::now() + PAUSE_WHILE_WAITING);
                if self.why.as_ref() != Some(&why) {
                    decided!(
                        warn,
                        self.subject,
                        why,
                        "it cannot be told in the cluster which record this node stands on: {why}"
                    );
                }
                self.why = Some(why);
                return Do::Nothing;
            }
        };
        let Outcome { next, wanted, said } = outcome;
        match next {
            Next::Say(shown) if said => self.said(&shown, &wanted),
            // Something has changed meanwhile.
            Next::Say(_) | Next::Keep => Do::Nothing,
            Next::LetGo => Do::Close(match self.on.as_ref().map(|on| on.change_to(&wanted)) {
                Some(Change::One(step)) => format!("the record has changed: {step}"),
                _ => "the record has changed".to_owned(),
            }),
            Next::Void => {
                decided!(
                    warn,
                    self.subject,
                    "other nodes stand on another record",
                    "others stand on another record than this node, which was taken for off: it begins anew"
                );
                Do::Close("other nodes stand on another record".to_owned())
            }
            Next::Wait(_) | Next::TooFar => {
                self.not_before = Some(Instant::now() + PAUSE_WHILE_WAITING);
                self.explain(&next, &wanted);
                Do::Nothing
            }
        }
    }

    fn said(&mut self, shown: &Shown<String>, wanted: &Basis) -> Do {
        match shown {
            Shown::On(digest) if self.on.is_none() && *digest == wanted.digest() => {
                (self.on, self.last, self.unsettled) = (Some(wanted.clone()), None, false);
                // Without the file the next keeper begins anew: nothing worse.
                if let Err(error) = self.write() {
                    decided!(warn, self.subject, error, "{error}");
                }
                decided!(info, self.subject, "record", "this node stands on the record {digest}");
                self.why = None;
                Do::Follow
            }
            Shown::Moving(_, to) if self.on.as_ref().is_some_and(|on| on.digest() != *to) && *to == wanted.digest() => {
                let (on, last) = (self.on.replace(wanted.clone()), self.last.take());
                self.last.clone_from(&on);
                if let Err(error) = self.write() {
                    // The next keeper would go on with the old one.
                    decided!(warn, self.subject, error, "the record stays as it was: {error}");
                    (self.on, self.last) = (on, last);
                    self.not_before = Some(Instant::now() + PAUSE_WHILE_WAITING);
                    return Do::Nothing;
                }
                self.unsettled = true;
                if let Some(Change::One(step)) = on.map(|on| on.change_to(wanted)) {
                    decided!(info, self.subject, step, "this node goes on to the record {to}: {step}");
                }
                self.why = None;
                Do::Follow
            }
            _ => Do::Nothing,
        }
    }

    fn explain(&mut self, next: &Next<String>, wanted: &Basis) {
        let why = match (next, &self.on) {
            (Next::Wait(node), Some(_)) => {
                format!(
                    "the record has changed; this node goes on with the one before until {node} has shown that it has that"
                )
            }
            (Next::Wait(node), None) => format!("the record is not yet the one of {node}"),
            (_, on) => {
                let steps = match on.as_ref().map(|on| on.change_to(wanted)) {
                    Some(Change::Several(steps)) => steps.to_string(),
                    _ => "several".to_owned(),
                };
                format!(
                    "the record has changed by {steps} steps at once: this node goes on with the one before (rolegate init --master {} --replace takes one after the other)",
                    self.subject.master().unwrap_or_default()
                )
            }
        };
        if self.why.as_ref() != Some(&why) {
            decided!(warn, self.subject, why, "{why}");
        }
        self.why = Some(why);
    }

    fn write(&self) -> io::Result<()> {
        let Some(on) = &self.on else { return Ok(()) };
        let written = Written {
            version: VERSION,
            boot: boot_id(),
            on: on.into(),
            last: self.last.as_ref().map(WrittenBasis::from),
        };
        let text = serde_json::to_string(&written)?;
        behind::replace(&self.path, &text)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot write {}: {error}", self.path.display())))
    }

    fn records<'a>(&'a self, wanted: Option<&'a Basis>) -> Vec<&'a Record> {
        [self.on.as_ref(), self.last.as_ref(), wanted].into_iter().flatten().map(|basis| &basis.record).collect()
    }

    fn own_said(&self, cib: &Cib, me: &str) -> Shown<String> {
        own_said(cib, me, &self.attribute, self.boot)
    }

    fn question(&self, view: &View<'_>, wanted: &Basis) -> Question {
        Question {
            gate: self.gate.clone(),
            attribute: self.attribute.clone(),
            me: view.me.to_owned(),
            boot: self.boot,
            on: self.on.clone(),
            last: self.last.clone(),
            unsettled: self.unsettled,
            wanted: wanted.clone(),
            idle: view.idle,
        }
    }
}

/// What this node stands on, as its keeper has it written down; None where that cannot be read.
pub fn written(gate: &str) -> Option<Basis> {
    let path = Path::new(permission::DIRECTORY).join(format!("record-{}", file_name(gate)));
    Some(understood(&fs::read_to_string(path).ok()?, &boot_id())??.0)
}

/// The gate is gone, and with it what this node stood on.
pub fn forget(gate: &str, subject: &Subject) {
    let path = Path::new(permission::DIRECTORY).join(format!("record-{}", file_name(gate)));
    if let Err(error) = fs::remove_file(&path) {
        if error.kind() != io::ErrorKind::NotFound {
            decided!(warn, subject, error, "cannot remove {}: {error}", path.display());
        }
    }
}

/// What stands in a file; `Some(None)` of another boot, None where it cannot be understood.
fn understood(text: &str, boot: &str) -> Option<Option<(Basis, Option<Basis>)>> {
    let written: Written = serde_json::from_str(text).ok()?;
    if written.version != VERSION {
        return None;
    }
    if written.boot != boot || boot.is_empty() {
        return Some(None);
    }
    let last = match &written.last {
        Some(last) => Some(last.read()?),
        None => None,
    };
    Some(Some((written.on.read()?, last)))
}

/// What this node says, where it was said in this boot.
fn own_said(cib: &Cib, me: &str, attribute: &str, boot: u32) -> Shown<String> {
    let said = Said::read(cib.node(me).and_then(|node| node.permanent(attribute)));
    match said.shown {
        Shown::On(_) | Shown::Moving(..) if said.boot != Some(boot) => Shown::Unclear,
        shown => shown,
    }
}

/// The other nodes of the cluster, as its CIB shows them. What is not in the cluster any more can be promoted nowhere.
pub fn peers(cib: &Cib, attribute: &str, me: &str, records: &[&Record]) -> Vec<Peer<String>> {
    let others = cib.nodes.iter().filter(|node| !node.name.eq_ignore_ascii_case(me));
    let peer = |node: &pacemaker::cib::Node| Peer {
        name: node.name.clone(),
        says: Said::read(node.permanent(attribute)).shown,
        off: node.confirmed_off,
        recorded: records.iter().any(|record| record.node(&node.name).is_some()),
    };
    others.map(peer).collect()
}

/// The boots of other nodes that are over for certain, by node: those in which they last said something, if STONITH, or a person, has confirmed
/// them off since. That stays true, whatever becomes of the node: of what the cluster had some time ago it is as good.
pub fn dead_boots(cib: &Cib, master: &str) -> BTreeMap<String, u32> {
    let said_in = attribute(master);
    let dead = |node: &pacemaker::cib::Node| {
        let said = Said::read(node.permanent(&said_in));
        Some((node.name.to_ascii_lowercase(), said.boot.filter(|_| node.confirmed_off || said.shown == Shown::Off)?))
    };
    cib.nodes.iter().filter_map(dead).collect()
}

/// Held by the one of this node's master names that says something in the cluster just now.
static SAYS: Mutex<()> = Mutex::new(());

/// All that an attempt needs.
struct Question {
    gate: String,
    attribute: String,
    me: String,
    boot: u32,
    on: Option<Basis>,
    last: Option<Basis>,
    unsettled: bool,
    wanted: Basis,
    idle: bool,
}

fn decide(question: &Question, cib: &Cib) -> Next<String> {
    let Question { attribute, me, boot, on, last, unsettled, wanted, idle, .. } = question;
    let records: Vec<&Record> =
        [on.as_ref(), last.as_ref(), Some(wanted)].into_iter().flatten().map(|basis| &basis.record).collect();
    let own = Own {
        on: on.as_ref().map(Basis::digest),
        also: last.as_ref().filter(|_| *unsettled).map(Basis::digest),
        says: own_said(cib, me, attribute, *boot),
        idle: *idle,
        placed: wanted.record.node(me).is_some(),
    };
    let one_step = on.as_ref().is_some_and(|on| matches!(on.change_to(wanted), Change::One(_)));
    stand::next(&own, &wanted.digest(), one_step, &peers(cib, attribute, me, &records))
}

impl Question {
    /// Decides by what the cluster has now, and says it. Never without quorum: the tools override that.
    fn answer(self) -> Result<Outcome, String> {
        // What is said is said on condition that nobody has changed anything meanwhile: all master names at once would refute each other.
        let _alone = SAYS.lock().unwrap_or_else(PoisonError::into_inner);
        let cause = |error: pacemaker::PacemakerError| error.to_string();
        let quorate = || match pacemaker::has_quorum() {
            Ok(true) => Ok(()),
            Ok(false) => Err("this partition has no quorum".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        quorate()?;
        let cib = pacemaker::read_cib().map_err(cause)?;
        let (guards, _) = layout::guards(&cib);
        let guard = guards.into_iter().find(|guard| guard.resource.id == self.gate);
        let outcome = |next, said| Ok(Outcome { next, wanted: self.wanted.clone(), said });
        if guard.and_then(|guard| basis(&guard.params)).as_ref() != Some(&self.wanted) {
            // The disk is behind.
            return outcome(Next::Keep, false);
        }
        let next = decide(&self, &cib);
        let Next::Say(shown) = &next else { return outcome(next, false) };
        let me = cib.node(&self.me).ok_or_else(|| format!("the cluster has no node {}", self.me))?;
        let value = Said { shown: shown.clone(), boot: Some(self.boot), by: String::new() }.text();
        let mut still = vec![Still::Member(me)];
        still.extend(cib.nodes.iter().filter(|node| node.confirmed_off).map(Still::Fenced));
        if !pacemaker::write_if_unchanged(&cib, &still, me, &self.attribute, &value).map_err(cause)? {
            return outcome(next, false);
        }
        // A partition that was just cut off takes its own writing for the cluster's, until it has noticed. Whoever has had another message go
        // round behind the first, and has quorum then, was none.
        let stands = pacemaker::stands(me, &self.attribute, &value).map_err(cause)?;
        quorate()?;
        outcome(next, stands)
    }
}

/// Has a node that the record has not say that it stands on nothing, if it ever said anything. Where it still stands on something, its group does that.
pub fn say_nothing(me: &str, master: &str) -> Result<(), String> {
    let cause = |error: pacemaker::PacemakerError| error.to_string();
    if !pacemaker::has_quorum().map_err(cause)? {
        return Err("this partition has no quorum".to_owned());
    }
    let cib = pacemaker::read_cib().map_err(cause)?;
    let Some(node) = cib.node(me).filter(|node| node.permanent(&attribute(master)).is_some()) else { return Ok(()) };
    let value = Said { shown: Shown::Nothing, ..Said::default() }.text();
    pacemaker::write_if_unchanged(&cib, &[Still::Member(node)], node, &attribute(master), &value).map_err(cause)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::three;

    fn on(lease: u64) -> Basis {
        Basis { record: three(), lease: Duration::from_secs(lease) }
    }

    fn then(directory: &Path, boot: &str, holds: Option<Basis>) -> Standing {
        Standing::under(Subject::default(), directory, boot, ("Redis/Gate", "mymaster"), holds)
    }

    fn say(shown: Shown<String>, wanted: &Basis) -> Result<Outcome, String> {
        Ok(Outcome { next: Next::Say(shown), wanted: wanted.clone(), said: true })
    }

    #[test]
    fn a_keeper_that_is_restarted_does_not_jump_and_a_machine_that_boots_begins_anew() {
        let directory = tempfile::tempdir().unwrap();
        let boot = boot_id();
        let read = || then(directory.path(), &boot, None);
        assert_eq!(read().on, None);
        // A release without the file.
        assert_eq!(then(directory.path(), &boot, Some(on(2))).on, Some(on(2)));
        let mut standing = read();
        assert_eq!(standing.done(say(Shown::On(on(2).digest()), &on(2))), Do::Follow);
        assert_eq!((read().on, read().last, read().unsettled), (Some(on(2)), None, false));
        assert_eq!(standing.done(say(Shown::Moving(on(2).digest(), on(3).digest()), &on(3))), Do::Follow);
        assert_eq!((read().on, read().last, read().unsettled), (Some(on(3)), Some(on(2)), true));
        assert_eq!(then(directory.path(), "another", Some(on(2))).on, None);
        standing.forget_last();
        assert_eq!((read().on, read().last), (Some(on(3)), None));
        standing.let_go();
        assert_eq!(read().on, None);
        fs::write(directory.path().join("record-Redis%2FGate"), "{\"version\":2}").unwrap();
        assert_eq!(then(directory.path(), &boot, Some(on(2))).on, None);
    }

    #[test]
    fn what_cannot_be_written_down_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let mut standing = then(directory.path(), &boot_id(), None);
        standing.done(say(Shown::On(on(2).digest()), &on(2)));
        // In the way of the new file.
        fs::create_dir(directory.path().join("record-Redis%2FGate.new")).unwrap();
        assert_eq!(standing.done(say(Shown::Moving(on(2).digest(), on(3).digest()), &on(3))), Do::Nothing);
        assert_eq!((standing.on, standing.last), (Some(on(2)), None));
    }

    #[test]
    fn what_was_said_in_another_boot_is_not_said() {
        let digest = on(2).digest();
        let said = |value: String| {
            let cib = pacemaker::cib::parse(&format!(
                "<cib><configuration><nodes><node id=\"1\" uname=\"node1\"><instance_attributes id=\"n\">\
                 <nvpair id=\"i\" name=\"redis_record-m\" value=\"{value}\"/></instance_attributes></node></nodes></configuration></cib>"
            ))
            .unwrap();
            own_said(&cib, "node1", "redis_record-m", 7)
        };
        assert_eq!(said(format!("{digest}@00000007")), Shown::On(digest.clone()));
        assert_eq!(said(format!("{digest}@00000008")), Shown::Unclear);
        assert_eq!(said("none@00000008".to_owned()), Shown::Nothing);
        assert_eq!(said("off by ann".to_owned()), Shown::Off);
    }
}
