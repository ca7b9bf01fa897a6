//! What a monitor finds and what follows from it: the exit code, the reason, what is to change.
//! Pure.

use std::net::SocketAddr;
use std::time::Duration;

use crate::exit::OcfCode;
use crate::gate::{Baseline, Desired, Port, PortState, State, Want, listener_means};
use crate::permission::Granted;

/// By how much more than was asked for what is open may seem to have: iptables counts in whole seconds. What somebody opened for longer gets
/// what a monitor gives.
const ROUNDING: Duration = Duration::from_secs(2);

/// What is known when a monitor decides.
#[derive(Debug, Clone)]
pub struct Seen {
    /// What Pacemaker has asked for.
    pub granted: Option<Granted>,
    /// What the firewall has.
    pub state: State,
    /// Whether there is a record with this node in it; else the reason.
    pub record: Result<(), String>,
    /// Why the keeper holds no lease, or why it cannot be asked; in a recurring monitor of a promoted gate that is closed for
    /// writing.
    pub lease: Option<Result<String, String>>,
    /// The programs that listen on its ports; in a recurring monitor of a gate that may be open.
    pub listeners: Vec<(Port, SocketAddr)>,
    /// Whether this is a recurring monitor. A probe changes nothing.
    pub recurring: bool,
    /// How long an opening lasts.
    pub open_for: Duration,
    /// What an operator has forced the read-write port open with: who, until when, why.
    pub forced: Option<String>,
}

/// What a monitor says and does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The exit code.
    pub code: OcfCode,
    /// The reason, where the code wants one.
    pub reason: Option<String>,
    /// What is to change in the firewall, before the code is true.
    pub change: Desired,
}

/// Decides.
pub fn judge(seen: &Seen) -> Judgement {
    if seen.recurring { recurring(seen) } else { probe(seen) }
}

/// A probe tells what the firewall does, whoever did it: Pacemaker adopts or stops it.
fn probe(seen: &Seen) -> Judgement {
    // A port that an operator has forced open is nothing that Pacemaker should adopt or stop.
    let (ro, rw) = (seen.state.ro.is_open(), seen.state.rw.is_open() && seen.forced.is_none());
    let broken = broken(&seen.state.baseline);
    let (code, reason) = match seen.granted {
        None if rw => (OcfCode::RunningPromoted, None),
        None if ro => (OcfCode::Success, None),
        None => (OcfCode::NotRunning, None),
        Some(Granted::Stopping | Granted::Started) if rw => (OcfCode::RunningPromoted, None),
        Some(Granted::Stopping) if ro => (OcfCode::Success, None),
        Some(Granted::Stopping) => (OcfCode::NotRunning, None),
        Some(Granted::Started) if broken.is_some() => (OcfCode::Generic, broken),
        Some(Granted::Started) => (OcfCode::Success, None),
        Some(Granted::Promoted) if broken.is_some() => (OcfCode::FailedPromoted, broken),
        Some(Granted::Promoted) => (OcfCode::RunningPromoted, None),
    };
    Judgement { code, reason, change: Desired::KEEP }
}

fn recurring(seen: &Seen) -> Judgement {
    let (ro, rw) = (seen.state.ro.is_open(), seen.state.rw.is_open());
    let forced = seen.forced.as_ref().filter(|_| rw);
    let left = match seen.state.ro {
        PortState::Open { remaining } => remaining,
        PortState::Closed => Duration::ZERO,
    };
    let renew = match seen.listeners.iter().any(|(port, _)| *port == Port::Ro) {
        true if !ro => Want::Keep,
        // Who comes first renews, as a rule the keeper: behind each change the leases of all master names look at the whole firewall.
        _ if left > seen.open_for * 7 / 10 && left <= seen.open_for + ROUNDING => Want::Keep,
        _ => Want::Open(seen.open_for),
    };
    let say = |code, reason: String, change| Judgement { code, reason: Some(reason), change };
    let broken = broken(&seen.state.baseline);
    match seen.granted {
        // Its permission is gone, so nothing renews what is open: stopped, and made true.
        None | Some(Granted::Stopping) if forced.is_some() => {
            let change = if ro { Desired { ro: Want::Close, rw: Want::Keep } } else { Desired::KEEP };
            Judgement { code: OcfCode::NotRunning, reason: None, change }
        }
        None | Some(Granted::Stopping) if ro || rw => {
            say(OcfCode::NotRunning, "a port was open without permission: closed".to_owned(), Desired::CLOSED)
        }
        None | Some(Granted::Stopping) => Judgement { code: OcfCode::NotRunning, reason: None, change: Desired::KEEP },
        Some(Granted::Started) => match (broken, &seen.record) {
            _ if rw && forced.is_none() => say(
                OcfCode::Generic,
                "the read-write port was open without promotion: closed".to_owned(),
                Desired { ro: Want::Keep, rw: Want::Close },
            ),
            (Some(why), _) => say(OcfCode::Generic, why, Desired::KEEP),
            (None, Err(why)) => say(OcfCode::Degraded, why.clone(), if ro { Desired::CLOSED } else { Desired::KEEP }),
            (None, Ok(())) if forced.is_some() => {
                let text = forced.cloned().unwrap_or_default();
                say(OcfCode::Degraded, text, Desired { ro: renew, rw: Want::Keep })
            }
            (None, Ok(())) => {
                let code = if seen.listeners.is_empty() { OcfCode::Success } else { OcfCode::Degraded };
                Judgement { code, reason: listening(seen), change: Desired { ro: renew, rw: Want::Keep } }
            }
        },
        Some(Granted::Promoted) => match (broken, &seen.record) {
            (Some(why), _) => say(OcfCode::FailedPromoted, why, Desired::KEEP),
            (None, Err(why)) => {
                say(OcfCode::DegradedPromoted, why.clone(), if ro || rw { Desired::CLOSED } else { Desired::KEEP })
            }
            (None, Ok(())) => promoted(seen, rw, renew),
        },
    }
}

fn promoted(seen: &Seen, rw: bool, renew: Want) -> Judgement {
    let as_it_is = Desired { ro: renew, rw: Want::Keep };
    if let Some(text) = seen.forced.as_ref().filter(|_| rw) {
        return Judgement { code: OcfCode::DegradedPromoted, reason: Some(text.clone()), change: as_it_is };
    }
    if rw {
        let code = if seen.listeners.is_empty() { OcfCode::RunningPromoted } else { OcfCode::DegradedPromoted };
        return Judgement { code, reason: listening(seen), change: as_it_is };
    }
    let (why, change) = match &seen.lease {
        Some(Ok(why)) if why.is_empty() => ("the keeper is opening or closing it", as_it_is),
        Some(Ok(why)) => (why.as_str(), as_it_is),
        // Nobody else cuts clients that wait for something: when the time is over, they are only not answered any more.
        Some(Err(why)) => (why.as_str(), Desired { ro: renew, rw: Want::Close }),
        None => ("no lease", as_it_is),
    };
    Judgement { code: OcfCode::DegradedPromoted, reason: Some(format!("closed: {why}")), change }
}

/// What a program that listens on one of the ports means.
fn listening(seen: &Seen) -> Option<String> {
    let (port, at) = seen.listeners.first()?;
    let means = listener_means(seen.state.of(*port), seen.state.ports.number(*port));
    Some(format!("a program listens on {at}: {means}"))
}

fn broken(baseline: &Baseline) -> Option<String> {
    match baseline {
        Baseline::Intact => None,
        Baseline::Missing => Some("the gate's firewall rules are gone (flushed or reloaded)".to_owned()),
        Baseline::Edited(what) => Some(format!("the gate's firewall rules were changed: {what}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::{Backend, Ports};
    use proptest::prelude::*;

    const FOR: Duration = Duration::from_secs(20);

    fn seen(granted: Option<Granted>, ro: bool, rw: bool) -> Seen {
        let port = |open| if open { PortState::Open { remaining: FOR / 2 } } else { PortState::Closed };
        Seen {
            granted,
            state: State {
                backend: Backend::Nft,
                baseline: Baseline::Intact,
                ports: Ports::default(),
                ro: port(ro),
                rw: port(rw),
                cut: None,
            },
            record: Ok(()),
            lease: None,
            listeners: Vec::new(),
            recurring: true,
            open_for: FOR,
            forced: None,
        }
    }

    const STARTED: Option<Granted> = Some(Granted::Started);
    const PROMOTED: Option<Granted> = Some(Granted::Promoted);

    #[test]
    fn a_gate_as_it_should_be_is_renewed() {
        let judgement = judge(&seen(STARTED, true, false));
        assert_eq!(judgement.code, OcfCode::Success);
        assert_eq!(judgement.change, Desired { ro: Want::Open(FOR), rw: Want::Keep });
        let judgement = judge(&seen(PROMOTED, true, true));
        assert_eq!(judgement.code, OcfCode::RunningPromoted);
        assert_eq!(judgement.change, Desired { ro: Want::Open(FOR), rw: Want::Keep });
        assert_eq!(judge(&seen(None, false, false)).code, OcfCode::NotRunning);
    }

    #[test]
    fn what_was_renewed_just_now_is_left_as_it_is() {
        let change = |tenths: u32| {
            let mut seen = seen(STARTED, true, false);
            seen.state.ro = PortState::Open { remaining: FOR * tenths / 10 };
            judge(&seen).change
        };
        let renewed = Desired { ro: Want::Open(FOR), rw: Want::Keep };
        assert_eq!([7, 8, 10, 12].map(change), [renewed, Desired::KEEP, Desired::KEEP, renewed], "in tenths");
    }

    #[test]
    fn a_promoted_gate_without_a_lease_says_why_and_is_not_restarted() {
        for (lease, rw) in
            [(Ok("Sentinels name node2".to_owned()), Want::Keep), (Err("no keeper".to_owned()), Want::Close)]
        {
            let what = lease.clone().unwrap_or_else(|why| why);
            let judgement = judge(&Seen { lease: Some(lease), ..seen(PROMOTED, true, false) });
            assert_eq!(judgement.code, OcfCode::DegradedPromoted);
            assert_eq!(judgement.change, Desired { ro: Want::Open(FOR), rw });
            assert!(judgement.reason.unwrap().contains(&what));
        }
    }

    #[test]
    fn a_lease_that_came_while_it_was_asked_for_has_a_reason_too() {
        let judgement = judge(&Seen { lease: Some(Ok(String::new())), ..seen(PROMOTED, true, false) });
        assert_eq!(judgement.code, OcfCode::DegradedPromoted);
        assert!(judgement.reason.is_some_and(|reason| reason.len() > "closed: ".len()));
    }

    #[test]
    fn a_program_on_a_port_is_said_and_takes_nothing_from_who_is_served() {
        for (granted, code) in [(STARTED, OcfCode::Degraded), (PROMOTED, OcfCode::DegradedPromoted)] {
            for ro in [true, false] {
                let listeners = vec![(Port::Ro, "10.0.0.1:6380".parse().unwrap())];
                let judgement = judge(&Seen { listeners, ..seen(granted, ro, granted == PROMOTED) });
                assert_eq!(judgement.code, code);
                // To open what is closed would be refused, and a monitor that fails takes the writers down.
                assert_eq!(judgement.change.ro, if ro { Want::Open(FOR) } else { Want::Keep });
                assert!(judgement.reason.unwrap().contains("a program listens on 10.0.0.1:6380"));
            }
        }
    }

    #[test]
    fn a_flushed_firewall_is_noticed_in_either_role() {
        for (granted, code) in [(STARTED, OcfCode::Generic), (PROMOTED, OcfCode::FailedPromoted)] {
            for recurring in [true, false] {
                let mut seen = Seen { recurring, ..seen(granted, false, false) };
                seen.state.baseline = Baseline::Missing;
                assert_eq!(judge(&seen).code, code);
                seen.state.baseline = Baseline::Edited("rule 3".into());
                assert!(judge(&seen).reason.unwrap().contains("rule 3"));
            }
        }
    }

    #[test]
    fn without_a_record_nothing_is_open_and_nothing_restarts() {
        for (granted, code) in [(STARTED, OcfCode::Degraded), (PROMOTED, OcfCode::DegradedPromoted)] {
            let judgement = judge(&Seen { record: Err("run init".into()), ..seen(granted, true, false) });
            assert_eq!((judgement.code, judgement.change), (code, Desired::CLOSED));
        }
    }

    #[test]
    fn what_an_operator_has_forced_open_is_said_and_left_open() {
        let forced = |granted, recurring| {
            judge(&Seen { forced: Some("by ann".into()), recurring, ..seen(granted, false, true) })
        };
        for (granted, code) in [(STARTED, OcfCode::Degraded), (PROMOTED, OcfCode::DegradedPromoted)] {
            let judgement = forced(granted, true);
            assert_eq!((judgement.code, judgement.reason.as_deref()), (code, Some("by ann")));
            assert_eq!(judgement.change, Desired { ro: Want::Open(FOR), rw: Want::Keep });
        }
        // Pacemaker has asked for nothing here, and is told so.
        for recurring in [true, false] {
            let judgement = forced(None, recurring);
            assert_eq!((judgement.code, judgement.change), (OcfCode::NotRunning, Desired::KEEP));
        }
        assert_eq!(forced(STARTED, false).code, OcfCode::Success);
        // A fence of the node itself goes before it.
        let fenced = Seen { record: Err("fenced".into()), forced: Some("by ann".into()), ..seen(PROMOTED, true, true) };
        assert_eq!(judge(&fenced).change, Desired::CLOSED);
    }

    #[test]
    fn a_probe_tells_what_the_firewall_does() {
        for (granted, ro, rw, code) in [
            (None, false, true, OcfCode::RunningPromoted),
            (None, true, false, OcfCode::Success),
            (STARTED, true, true, OcfCode::RunningPromoted),
            (PROMOTED, true, false, OcfCode::RunningPromoted),
        ] {
            let judgement = judge(&Seen { recurring: false, ..seen(granted, ro, rw) });
            assert_eq!((judgement.code, judgement.change), (code, Desired::KEEP));
        }
    }

    fn any_seen() -> impl Strategy<Value = Seen> {
        let granted = prop_oneof![Just(None), Just(STARTED), Just(PROMOTED)];
        let baseline =
            prop_oneof![Just(Baseline::Intact), Just(Baseline::Missing), Just(Baseline::Edited("x".to_owned()))];
        let lease = prop_oneof![Just(None), Just(Some(Ok("no".to_owned()))), Just(Some(Err("no".to_owned())))];
        let forced = prop_oneof![2 => Just(None), 1 => Just(Some("by ann".to_owned()))];
        (granted, any::<bool>(), any::<bool>(), baseline, lease, any::<bool>(), any::<bool>(), forced).prop_map(
            |(granted, ro, rw, baseline, lease, record, recurring, forced)| {
                let record = if record { Ok(()) } else { Err("none".to_owned()) };
                let mut seen = Seen { record, lease, recurring, forced, ..seen(granted, ro, rw) };
                seen.state.baseline = baseline;
                seen
            },
        )
    }

    proptest! {
        #[test]
        fn the_read_write_port_is_opened_by_leases_only(seen in any_seen()) {
            let judgement = judge(&seen);
            prop_assert!(!matches!(judgement.change.rw, Want::Open(_)));
            if matches!(judgement.change.ro, Want::Open(_)) {
                prop_assert!(seen.granted.is_some() && seen.recurring && seen.record.is_ok());
            }
            if judgement.code == OcfCode::RunningPromoted && seen.recurring {
                prop_assert_eq!(seen.granted, PROMOTED);
            }
            // Whatever is not plainly well has a reason for crm_mon.
            if seen.recurring && !matches!(judgement.code, OcfCode::Success | OcfCode::RunningPromoted | OcfCode::NotRunning) {
                prop_assert!(judgement.reason.is_some());
            }
        }
    }
}
