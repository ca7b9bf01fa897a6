//! Keeps who may reach Redis' own port as the settings and the record say: a task of its own, for nothing that it does is urgent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use crate::causes::with_causes;
use crate::gate::direct::{Direct, Done, Keeper};
use crate::layout;
use crate::pacemaker::Cib;
use crate::record::RecordError;
use crate::settings::Settings;

/// How often it is looked whether somebody has flushed it.
const LOOKS_EVERY: Duration = Duration::from_secs(1);

/// And where it could not be made.
const AFTER_FAILURE: Duration = Duration::from_secs(10);

/// What is wanted, once that is known.
pub type Wanted = watch::Sender<Option<Arc<Direct>>>;

/// Begins to keep what it is told; nothing before that.
pub fn begin(within: Duration) -> Wanted {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(keep(receiver, within));
    sender
}

/// Tells what follows from the cluster's configuration.
pub fn follow(wanted: &Wanted, cib: &Cib, settings: &Settings) {
    let Some(direct) = of(cib, settings) else { return };
    let direct = Some(Arc::new(direct));
    wanted.send_if_modified(|last| {
        let changed = *last != direct;
        *last = direct;
        changed
    });
}

/// Which ports are to be shut, and to whom not; None where that cannot be told: a slip of the pen in a gate's parameters must change nothing. Pure.
fn of(cib: &Cib, settings: &Settings) -> Option<Direct> {
    let mut direct = Direct::default();
    let Some(listed) = &settings.direct else { return Some(direct) };
    let (guards, bad) = layout::guards(cib);
    if !bad.is_empty() {
        return None;
    }
    for guard in guards {
        let record = match &guard.params.record {
            Ok(record) => record,
            Err(RecordError::Missing) => continue,
            Err(_) => return None,
        };
        let members = record.nodes().iter().map(|node| node.address);
        let members = members.chain(record.sentinels().iter().map(|sentinel| sentinel.address));
        direct.shut(guard.params.ports.redis, members.map(|address| address.ip()), listed);
    }
    Some(direct)
}

async fn keep(mut wanted: watch::Receiver<Option<Arc<Direct>>>, within: Duration) {
    let mut keeper = Keeper::default();
    let mut said = None;
    loop {
        let want = wanted.borrow_and_update().clone();
        let mut pause = LOOKS_EVERY;
        if let Some(want) = want {
            let asked = want.clone();
            let look = move || {
                let result = keeper.keep(&asked, Instant::now() + within);
                (keeper, result)
            };
            let Ok((kept, result)) = spawn_blocking(look).await else { return };
            keeper = kept;
            let trouble = result.as_ref().err().map(|error| with_causes(error));
            match result {
                Ok(done) => say(&want, done),
                Err(_) => pause = AFTER_FAILURE,
            }
            if trouble != said {
                if let Some(why) = &trouble {
                    warn!("who may reach Redis directly is not as the settings say: {why}");
                }
                said = trouble;
            }
        }
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn say(want: &Direct, done: Done) {
    let ports: Vec<String> = want.ports().map(|port| port.to_string()).collect();
    let ports = ports.join(", ");
    match done {
        Done::Nothing => {}
        Done::Made => info!("direct: only nodes, Sentinels and what is listed reach {ports} past the gate"),
        Done::Mended => warn!("direct: its rules were changed by somebody; made anew"),
        Done::Removed => info!("direct: what kept others off Redis' own port is taken away"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_shut_unless_asked_for_and_known_to_whom() {
        let xml = |sentinels: &str| {
            let nvpair = |name: &str, value: &str| format!("<nvpair id='{name}' name='{name}' value='{value}'/>");
            format!(
                "<cib><configuration><nodes/><resources><clone id='c'><primitive id='RedisGate' class='ocf' provider='rolegate' type='gate'>\
                 <instance_attributes id='i'>{}{}</instance_attributes></primitive></clone></resources></configuration></cib>",
                nvpair("sentinels", sentinels),
                nvpair("nodes", "node1=10.0.0.1:6379 node2=10.0.0.2:6379 node3=10.0.0.3:6379")
            )
        };
        let id = |n: usize| format!("{n:040x}");
        let three = format!("{}@10.0.0.1:26379 {}@10.0.0.2:26379 {}@10.0.0.9:26379", id(1), id(2), id(3));
        let cib = crate::pacemaker::cib::parse(&xml(&three)).unwrap();
        assert_eq!(of(&cib, &Settings::default()), Some(Direct::default()));
        let settings = Settings { direct: Some(vec!["192.0.2.0/24".parse().unwrap()]), ..Settings::default() };
        let mut expected = Direct::default();
        let members = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.9"].map(|ip| ip.parse().unwrap());
        expected.shut(6379, members, settings.direct.as_ref().unwrap());
        assert_eq!(of(&cib, &settings), Some(expected));
        let cib = crate::pacemaker::cib::parse(&xml("")).unwrap();
        assert_eq!(of(&cib, &settings), Some(Direct::default()));
        let cib = crate::pacemaker::cib::parse(&xml("slip")).unwrap();
        assert_eq!(of(&cib, &settings), None);
    }
}
