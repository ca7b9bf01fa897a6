//! Which release of rolegate this node runs: said in the CIB by its keeper, where `rolegate doctor` on any node compares all of them.
//!
//! It stands in a lasting attribute of the node. That is also in the CIB on this node's disk, so that Pacemaker is only asked to write where
//! what stands there is another one: once behind an upgrade.

use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, spawn_blocking};
use tracing::debug;

use crate::layout;
use crate::pacemaker::{self, Cib, VERSION_ATTRIBUTE};

/// The one that runs.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// From one attempt to the next: what was written comes back by the disk.
const PAUSE: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Default)]
pub struct Release {
    job: Option<JoinHandle<()>>,
    tried: Option<Instant>,
}

impl Release {
    /// Says it, where `cib`, the one on this node's disk, does not yet. Nothing waits for it, and without quorum it is said later.
    pub fn show(&mut self, me: &str, cib: &Cib) {
        let busy = self.job.as_ref().is_some_and(|job| !job.is_finished());
        if busy || self.tried.is_some_and(|at| at.elapsed() < PAUSE) || !is_to_be_said(me, cib) {
            return;
        }
        self.tried = Some(Instant::now());
        let me = me.to_owned();
        self.job = Some(spawn_blocking(move || {
            // The tools override quorum.
            let said = match pacemaker::has_quorum() {
                Ok(true) => {
                    pacemaker::set_attribute(&me, VERSION_ATTRIBUTE, VERSION).map_err(|error| error.to_string())
                }
                Ok(false) => Err("this partition has no quorum".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            if let Err(why) = said {
                debug!(NODE = %me, REASON = %why, "the cluster is not told that this node runs rolegate {VERSION}: {why}");
            }
        }));
    }
}

/// Whether the cluster is to be told: where a record has this node, and something else stands there. Behind `rolegate deinit` none has.
fn is_to_be_said(me: &str, cib: &Cib) -> bool {
    let is_known = cib.node(me).is_some_and(|node| node.permanent(VERSION_ATTRIBUTE) == Some(VERSION));
    let has_me = |guard: &layout::Guard| guard.params.record.as_ref().is_ok_and(|record| record.node(me).is_some());
    !is_known && layout::guards(cib).0.iter().any(has_me)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cluster whose node1 says that version, with a record or without.
    fn cib(said: Option<&str>, has_record: bool) -> Cib {
        let record = crate::record::tests::three();
        let pair = |name: &str, value: &str| format!("<nvpair id=\"{name}\" name=\"{name}\" value=\"{value}\"/>");
        let said = said.map_or(String::new(), |said| pair(VERSION_ATTRIBUTE, said));
        let record = match has_record {
            true => pair("sentinels", &record.sentinels_parameter()) + &pair("nodes", &record.nodes_parameter()),
            false => String::new(),
        };
        pacemaker::cib::parse(&format!(
            "<cib><configuration><nodes><node id=\"1\" uname=\"node1\"><instance_attributes id=\"n\">{said}</instance_attributes></node>\
             <node id=\"9\" uname=\"node9\"/></nodes><resources><primitive id=\"G\" class=\"ocf\" provider=\"rolegate\" type=\"gate\">\
             <instance_attributes id=\"i\">{record}</instance_attributes></primitive></resources></configuration></cib>"
        ))
        .unwrap()
    }

    #[test]
    fn it_is_said_once_behind_an_upgrade_and_never_without_a_place() {
        assert!(is_to_be_said("node1", &cib(None, true)));
        assert!(is_to_be_said("node1", &cib(Some("0.0.1"), true)));
        assert!(!is_to_be_said("node1", &cib(Some(VERSION), true)));
        assert!(!is_to_be_said("node1", &cib(None, false)), "deinit has taken it out");
        assert!(!is_to_be_said("node9", &cib(None, true)), "the record has not this node");
    }
}
