//! Keeping this node's role attribute true: what a hook did not write, or could not.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, spawn_blocking};

use crate::hook;
use crate::instance::Instance;
use crate::logging::{Subject, decided};
use crate::pacemaker::Cib;
use crate::params::Params;
use crate::role::Role;
use crate::roles;
use crate::server::AskError;

/// A Redis that is back within this was not away: no cluster need move for it.
const GRACE: Duration = Duration::from_secs(2);

/// A switchover has Pacemaker move the gate a moment before Sentinels name the new primary. Roles that somebody else has written while it is the
/// same node that is named are left alone for so long.
const MOVED: Duration = Duration::from_secs(2);

/// Between two attempts to write: what was written is read back through the cluster.
const PAUSE: Duration = Duration::from_secs(1);

/// After an attempt that failed: without quorum, or without Pacemaker.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(5);

/// See the module.
pub struct Keeper {
    subject: Subject,
    me: String,
    /// What is to be written, and since when.
    wanted: Option<(Instant, Role)>,
    /// Who was named when last all was written as it should be, and this node's role then.
    settled: Option<(String, Role)>,
    job: Option<JoinHandle<Result<bool, String>>>,
    not_before: Option<Instant>,
    said: String,
}

impl Keeper {
    /// Keeps the role that the node `me` has by one master name.
    pub fn new(me: &str, subject: Subject) -> Self {
        let me = me.to_owned();
        Keeper { subject, me, wanted: None, settled: None, job: None, not_before: None, said: String::new() }
    }

    /// Writes what is to be written, if anything is. What somebody else has written meanwhile is not overruled.
    pub fn keep(&mut self, named: Option<&str>, local: &Result<Instance, AskError>, cib: &Arc<Cib>, params: &Params) {
        let (Some(named), Some(node)) = (named, cib.node(&self.me)) else { return };
        let plan = roles::plan(node, named, local, cib, params);
        if plan.set.is_none() && plan.clear.is_empty() {
            self.wanted = None;
            self.settled = Some((named.to_owned(), plan.role));
            return;
        }
        let now = Instant::now();
        let since = match self.wanted {
            Some((since, role)) if role == plan.role => since,
            _ => now,
        };
        self.wanted = Some((since, plan.role));
        let grace = grace(plan.role, named, self.settled.as_ref());
        if now < since + grace || self.job.is_some() || self.not_before.is_some_and(|at| now < at) {
            return;
        }
        self.not_before = Some(now + PAUSE);
        let (me, subject, named) = (self.me.clone(), self.subject.clone(), named.to_owned());
        let (cib, local, master) = (cib.clone(), local.clone(), params.master.clone());
        self.job = Some(spawn_blocking(move || hook::keep(&subject, (&me, &master), &cib, &named, &local)));
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
                    let subject = self.subject.as_role(self.wanted.map(|(_, role)| role));
                    decided!(warn, subject, why, "the role attribute is not written: {why}");
                    self.said = why;
                }
            }
            Err(_) => self.not_before = Some(Instant::now() + PAUSE_AFTER_FAILURE),
        }
    }
}

/// How long `role` waits until it is written.
fn grace(role: Role, named: &str, settled: Option<&(String, Role)>) -> Duration {
    match role {
        Role::Fail => GRACE,
        // It was so, and nothing has changed but what is written.
        _ if settled.is_some_and(|(node, was)| node == named && *was == role) => MOVED,
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_else_wrote_stands_for_a_moment_and_news_are_written_at_once() {
        let settled = |node: &str, role| Some((node.to_owned(), role));
        for (role, named, was, waits) in [
            (Role::Primary, "node1", None, Duration::ZERO),
            (Role::Primary, "node1", settled("node2", Role::Replica), Duration::ZERO),
            (Role::Replica, "node1", settled("node1", Role::Fail), Duration::ZERO),
            (Role::Primary, "node1", settled("node1", Role::Primary), MOVED),
            (Role::Replica, "node1", settled("node1", Role::Replica), MOVED),
            (Role::Fail, "node1", None, GRACE),
        ] {
            assert_eq!(grace(role, named, was.as_ref()), waits, "{role} of {named}, {was:?}");
        }
    }
}
