//! Keeps who may reach Redis' own port as the settings and the record say: a task of its own, for nothing that it does is urgent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::spawn_blocking;

use crate::causes::with_causes;
use crate::gate::direct::{Direct, Done, Keeper};
use crate::layout;
use crate::logging::{Subject, decided};
use crate::pacemaker::Cib;
use crate::record::RecordError;
use crate::settings::Settings;

/// How often it is looked whether somebody has flushed it.
const LOOKS_EVERY: Duration = Duration::from_secs(1);

/// And where it could not be made.
const AFTER_FAILURE: Duration = Duration::from_secs(10);

/// What is wanted, once that is known.
pub type Wanted = watch::Sender<Option<Arc<Want>>>;

/// What is to be so, and for whom it is told.
#[derive(Debug, PartialEq, Eq)]
pub struct Want {
    direct: Direct,
    /// This node, where its name is known.
    me: Option<String>,
    masters: Vec<String>,
}

impl Want {
    /// Tells it by `record`, once for each master name.
    fn tell(&self, record: impl Fn(Subject)) {
        let me = self.me.as_deref();
        match self.masters.as_slice() {
            [] => record(Subject::of(None, me)),
            masters => masters.iter().for_each(|master| record(Subject::of(Some(master), me))),
        }
    }
}

/// Begins to keep what it is told; nothing before that.
pub fn begin(within: Duration) -> Wanted {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(keep(receiver, within));
    sender
}

/// Tells what follows from the cluster's configuration.
pub fn follow(wanted: &Wanted, me: Option<&str>, cib: &Cib, settings: &Settings) {
    let Some(direct) = of(cib, settings) else { return };
    let masters = layout::guards(cib).0.into_iter().map(|guard| guard.params.master).collect();
    let want = Some(Arc::new(Want { direct, me: me.map(str::to_owned), masters }));
    wanted.send_if_modified(|last| {
        let changed = *last != want;
        *last = want;
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

async fn keep(mut wanted: watch::Receiver<Option<Arc<Want>>>, within: Duration) {
    let mut keeper = Keeper::default();
    let mut said = None;
    loop {
        let want = wanted.borrow_and_update().clone();
        let mut pause = LOOKS_EVERY;
        if let Some(want) = want {
            let asked = want.clone();
            let look = move || {
                let result = keeper.keep(&asked.direct, Instant::now() + within);
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
                    want.tell(|of| {
                        decided!(warn, of, why, "who may reach Redis directly is not as the settings say: {why}");
                    });
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

fn say(want: &Want, done: Done) {
    let ports: Vec<String> = want.direct.ports().map(|port| port.to_string()).collect();
    let ports = ports.join(", ");
    want.tell(|of| match done {
        Done::Nothing => {}
        Done::Made => {
            decided!(
                info,
                of,
                "direct in the settings",
                "direct: only nodes, Sentinels and what is listed reach {ports} past the gate"
            );
        }
        Done::Mended => {
            decided!(warn, of, "firewall", "direct: its rules were changed by somebody; made anew");
        }
        Done::Removed => {
            decided!(info, of, "nothing is to be shut", "direct: what kept others off Redis' own port is taken away");
        }
    });
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

    #[test]
    fn it_is_told_once_for_each_master_name() {
        let told = |masters: &[&str]| {
            let masters = masters.iter().map(|master| (*master).to_owned()).collect();
            let told = std::cell::RefCell::new(Vec::new());
            let want = Want { direct: Direct::default(), me: Some("node1".to_owned()), masters };
            want.tell(|of| told.borrow_mut().push((of.master().map(str::to_owned), of.node() == Some("node1"))));
            told.into_inner()
        };
        let of = |master: &str| (Some(master.to_owned()), true);
        assert_eq!(told(&["cache", "mymaster"]), [of("cache"), of("mymaster")]);
        assert_eq!(told(&[]), [(None, true)], "the gates are gone");
    }
}
