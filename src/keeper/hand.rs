//! What an operator's hand does on this node without asking the cluster: a fence of the node itself, and a port forced open. The keeper
//! goes by it in each round, and makes it known to the cluster: what is forced at once, a fence when there is quorum.

use std::fs;
use std::future::Future;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, spawn_blocking};

use crate::forced::{self, Around, Force, Store};
use crate::gate::LONGEST;
use crate::local_fence::LocalFence;
use crate::logging::{Subject, decided};
use crate::pacemaker::{self, FENCE_ATTRIBUTE, PacemakerError, cib::Node};
use crate::params::Params;
use crate::permission::{DIRECTORY, file_of, replace};
use crate::role::Role;

/// From one attempt to tell the cluster to the next.
const PAUSE: Duration = Duration::from_secs(5);

/// So often the cluster is told what is forced.
const SHOWN_AGAIN: Duration = Duration::from_secs(20);

/// How often the others' ports are looked at while one is forced open here.
const WATCH_EVERY: Duration = Duration::from_secs(1);

const CONNECTS_WITHIN: Duration = Duration::from_millis(300);

/// See the module.
pub struct Keeper {
    subject: Subject,
    me: String,
    master: String,
    /// The attribute that shows a force.
    attribute: String,
    local: LocalFence,
    store: Store,
    /// Stands there as long as the attribute may: the attribute's text, and nothing that a release could read otherwise.
    shown_file: PathBuf,
    shown_at: Option<Instant>,
    fence: Option<String>,
    force: Option<Force>,
    /// When there was neither.
    nothing_at: Option<u64>,
    /// What the attribute may say.
    shown: Option<String>,
    /// The others' read-write ports, and one that was seen open.
    others: Vec<(String, SocketAddr)>,
    open_elsewhere: Option<String>,
    watching: Option<JoinHandle<Option<String>>>,
    watched: Option<Instant>,
    job: Option<JoinHandle<Result<Told, String>>>,
    not_before: Option<Instant>,
    said: String,
}

/// What the cluster has been told.
enum Told {
    Fence(String),
    Force(String),
    /// That it is over.
    NoForce,
}

impl Keeper {
    /// Of the gate resource `gate` with these parameters, on the node `me`, of whom records are; `others` are the other nodes' read-write ports.
    pub fn new(
        subject: Subject,
        (me, gate): (&str, &str),
        params: &Params,
        others: Vec<(String, SocketAddr)>,
        count: u64,
    ) -> Self {
        let shown_file = file_of(Path::new(DIRECTORY), "shown", gate);
        let mut keeper = Keeper {
            subject,
            me: me.to_owned(),
            master: params.master.clone(),
            attribute: forced::attribute(&params.attribute),
            local: LocalFence::default(),
            store: Store::new(gate),
            shown: fs::read_to_string(&shown_file).ok(),
            shown_file,
            shown_at: None,
            fence: None,
            force: None,
            nothing_at: None,
            others,
            open_elsewhere: None,
            watching: None,
            watched: None,
            job: None,
            not_before: None,
            said: String::new(),
        };
        keeper.look(count);
        keeper
    }

    /// From here on these are the others' read-write ports.
    pub fn is_about(&mut self, others: Vec<(String, SocketAddr)>) {
        self.others = others;
    }

    /// Reads what stands there, from memory; `count` of the [`super::changes::Changes`] there. Says whether there is a fence that was not there
    /// before.
    pub fn look(&mut self, count: u64) -> bool {
        if self.nothing_at == Some(count) {
            return false;
        }
        let before = self.fence.is_some();
        self.fence = self.local.at_once();
        self.force = self.store.read();
        // One that cannot be read is a fence, too, and may be read the next time.
        self.nothing_at = (self.fence.is_none() && self.force.is_none()).then_some(count);
        self.fence.is_some() && !before
    }

    /// Whether the node is fenced by itself.
    pub fn fenced(&self) -> bool {
        self.fence.is_some()
    }

    /// What is forced, or about to be.
    pub fn force(&self) -> Option<&Force> {
        self.force.as_ref()
    }

    /// Whether the port has been forced open.
    pub fn is_open(&self) -> bool {
        self.force.as_ref().is_some_and(|force| force.opened)
    }

    /// How long what is forced may be open yet; zero where nothing is. Marks have no more.
    pub fn lasts(&self) -> Duration {
        self.force.as_ref().map_or(Duration::ZERO, |force| force.remaining(forced::now_ms())).min(LONGEST)
    }

    /// Why the force is over, if there is one.
    pub fn over(&self, around: Around) -> Option<String> {
        let around = Around { open_elsewhere: self.open_elsewhere.as_deref(), ..around };
        forced::over(self.force.as_ref()?, forced::now_ms(), around)
    }

    /// Looks at the other nodes' ports while one is forced open here: what opens there has a proof.
    pub fn watch(&mut self) {
        if !self.is_open() || self.watching.is_some() || self.watched.is_some_and(|at| at.elapsed() < WATCH_EVERY) {
            return;
        }
        self.watched = Some(Instant::now());
        let others = self.others.clone();
        let open = |(_, port): &(String, SocketAddr)| TcpStream::connect_timeout(port, CONNECTS_WITHIN).is_ok();
        self.watching = Some(spawn_blocking(move || others.into_iter().find(open).map(|(node, _)| node)));
    }

    /// It is over.
    pub fn end(&mut self) {
        (self.force, self.open_elsewhere) = (None, None);
        if let Err(error) = self.store.remove() {
            decided!(warn, self.subject, error, "{error}");
            self.nothing_at = None;
        }
    }

    /// Tells the cluster what it does not know; `node` is this node as it stands there.
    pub fn show(&mut self, node: &Node) {
        if self.job.is_some() || self.not_before.is_some_and(|at| Instant::now() < at) {
            return;
        }
        let force = self.force.as_ref().filter(|force| force.opened).map(|force| force.text.clone());
        let (me, attribute, file) = (self.me.clone(), self.attribute.clone(), self.shown_file.clone());
        let fence = self.fence.clone().filter(|_| node.permanent(FENCE_ATTRIBUTE).is_none());
        // What passes can be lost when Pacemaker restarts, or partitions meet.
        let again = force.is_some() && self.shown_at.is_none_or(|at| at.elapsed() > SHOWN_AGAIN);
        let changed = force != self.shown || again;
        if fence.is_none() && !changed {
            return;
        }
        let tell = move || -> Result<Told, String> {
            if let Some(fence) = fence {
                // A fence lasts, so it is for those who have quorum to write it: the tools override that, and what a minority writes into
                // the configuration can win when the partitions meet.
                if pacemaker::has_quorum().map_err(text)? {
                    let fence = if fence.is_empty() { "ports closed by operator" } else { &fence };
                    pacemaker::set_attribute(&me, FENCE_ATTRIBUTE, fence).map_err(text)?;
                    return Ok(Told::Fence(fence.to_owned()));
                }
                if !changed {
                    return Err("this partition has no quorum".to_owned());
                }
            }
            // Glass is broken where quorum is gone, as a rule, and a passing attribute changes nothing but what is seen: it stands in no
            // configuration, and of those about itself a node's own word holds when partitions meet.
            match force {
                Some(force) => {
                    // First: whoever comes after this keeper takes it away again.
                    replace(&file, &force).map_err(|error| error.to_string())?;
                    pacemaker::set_passing(&me, &attribute, &force).map(|()| Told::Force(force)).map_err(text)
                }
                None => {
                    pacemaker::delete_passing(&me, &attribute).map_err(text)?;
                    match fs::remove_file(&file) {
                        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.to_string()),
                        _ => Ok(Told::NoForce),
                    }
                }
            }
        };
        self.job = Some(spawn_blocking(tell));
    }

    /// Takes note of what the cluster has been told.
    pub fn poll(&mut self, context: &mut Context<'_>) {
        if let Some(Poll::Ready(seen)) = self.watching.as_mut().map(|job| Pin::new(job).poll(context)) {
            self.watching = None;
            self.open_elsewhere = seen.ok().flatten().filter(|_| self.is_open());
        }
        let Some(job) = &mut self.job else { return };
        let Poll::Ready(result) = Pin::new(job).poll(context) else { return };
        self.job = None;
        let result = result.unwrap_or_else(|error| Err(error.to_string()));
        match result {
            Ok(told) => {
                self.said.clear();
                match told {
                    Told::Fence(fence) => {
                        let subject = self.subject.as_role(Some(Role::Fail));
                        decided!(info, subject, fence, "{}: the cluster knows that this node is fenced", self.master);
                        // What stands on the disk is read again some time later.
                        self.not_before = Some(Instant::now() + PAUSE);
                    }
                    Told::Force(text) => (self.shown, self.shown_at) = (Some(text), Some(Instant::now())),
                    Told::NoForce => self.shown = None,
                }
            }
            Err(why) => {
                self.not_before = Some(Instant::now() + PAUSE);
                // The cluster may have been told all the same: that is to be taken away again.
                if self.shown.is_none() && self.shown_file.exists() {
                    self.shown = Some(String::new());
                }
                if self.said != why {
                    decided!(
                        warn,
                        self.subject,
                        why,
                        "what was done by hand on this node is not shown in the cluster yet: {why}"
                    );
                    self.said = why;
                }
            }
        }
    }
}

fn text(error: PacemakerError) -> String {
    error.to_string()
}
