//! Keeping this node's role attribute true: what a hook did not write, or could not.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, spawn_blocking};
use tracing::warn;

use crate::agent::params::Params;
use crate::hook;
use crate::instance::Instance;
use crate::pacemaker::Cib;
use crate::role::Role;
use crate::roles;
use crate::server::AskError;

/// A Redis that is back within this was not away: no cluster need move for it.
const GRACE: Duration = Duration::from_secs(2);

/// Between two attempts to write: what was written is read back through the cluster.
const PAUSE: Duration = Duration::from_secs(1);

/// After an attempt that failed: without quorum, or without Pacemaker.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(5);

/// See the module.
pub struct Keeper {
    /// What is to be written, and since when.
    wanted: Option<(Instant, Role)>,
    job: Option<JoinHandle<Result<bool, String>>>,
    not_before: Option<Instant>,
    said: String,
}

impl Keeper {
    /// Keeps the role of one master name.
    pub fn new() -> Self {
        Keeper { wanted: None, job: None, not_before: None, said: String::new() }
    }

    /// Writes what is to be written, if anything is. Who writes looks at the cluster again before.
    pub fn keep(
        &mut self,
        me: &str,
        named: Option<&str>,
        local: &Result<Instance, AskError>,
        cib: &Cib,
        params: &Params,
    ) {
        let (Some(named), Some(node)) = (named, cib.node(me)) else { return };
        let plan = roles::plan(node, named, local, cib, params);
        if plan.set.is_none() && plan.clear.is_empty() {
            self.wanted = None;
            return;
        }
        let now = Instant::now();
        let since = match self.wanted {
            Some((since, role)) if role == plan.role => since,
            _ => now,
        };
        self.wanted = Some((since, plan.role));
        let grace = if plan.role == Role::Fail { GRACE } else { Duration::ZERO };
        if now < since + grace || self.job.is_some() || self.not_before.is_some_and(|at| now < at) {
            return;
        }
        self.not_before = Some(now + PAUSE);
        let (master, named, local) = (params.master.clone(), named.to_owned(), local.clone());
        self.job = Some(spawn_blocking(move || hook::keep(&master, &named, &local)));
    }

    /// Takes note of a writing that has ended.
    pub fn poll(&mut self, context: &mut Context<'_>) {
        let Some(job) = &mut self.job else { return };
        let std::task::Poll::Ready(result) = Pin::new(job).poll(context) else { return };
        self.job = None;
        match result {
            Ok(Ok(wrote)) => {
                self.said.clear();
                if !wrote {
                    // What this node's disk shows is behind.
                    self.not_before = Some(Instant::now() + PAUSE_AFTER_FAILURE);
                }
            }
            Ok(Err(why)) => {
                self.not_before = Some(Instant::now() + PAUSE_AFTER_FAILURE);
                // Once, not every few seconds for hours.
                if self.said != why {
                    warn!("the role attribute is not written: {why}");
                    self.said = why;
                }
            }
            Err(_) => self.not_before = Some(Instant::now() + PAUSE_AFTER_FAILURE),
        }
    }
}
