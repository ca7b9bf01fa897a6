//! `rolegate confirm-off`: a person says that a node is off, where STONITH cannot.
//!
//! What the node says it stands on is replaced by that ([`crate::stand::Shown::Off`]); its keeper replaces it again when it is back.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use super::facts::lively;
use super::fence::{Act, marker, operator};
use super::probe::{self, Port};
use super::{Gate, Stop, gates, look, say, type_name};
use crate::exit::CliCode;
use crate::lease::mark::Marks;
use crate::pacemaker::{self, Still};
use crate::server;
use crate::settings::Settings;
use crate::stand::{Said, Shown, attribute};
use crate::together::together;

/// Others write, too.
const TRIES: u32 = 5;

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The node, by its name in the cluster
    node: String,
    /// Do not ask for the node's name again: for scripts
    #[arg(long)]
    yes: bool,
    /// Why; the next operator reads it in rolegate status
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// `rolegate confirm-off NODE`.
pub fn run(args: &Args) -> Result<CliCode, Stop> {
    let settings = Settings::load()?;
    let cluster = look()?;
    let Some(node) = cluster.cib.node(&args.node) else {
        let known: Vec<&str> = cluster.cib.nodes.iter().map(|node| node.name.as_str()).collect();
        return Err(Stop::refused(format!("the cluster has no node {}; there is {}", args.node, known.join(", "))));
    };
    let name = node.name.as_str();
    if !cluster.quorum {
        return Err(Stop::refused("this partition has no quorum, so nothing is written: run it in the one that has"));
    }
    let (all, _) = gates(&cluster.cib);
    if all.is_empty() {
        return Err(Stop::refused("the cluster has no gate: nothing waits for a node"));
    }
    let mon = pacemaker::read_crm_mon()?;
    match mon.nodes.iter().find(|state| state.name.eq_ignore_ascii_case(name)) {
        Some(state) if state.online || state.pending => {
            return Err(Stop::refused(format!("{name} is a member of the cluster: it is not off")));
        }
        Some(_) => {}
        None => return Err(Stop::unknown(format!("Pacemaker does not show {name}"))),
    }
    let signs: Vec<Sign> = all.iter().flat_map(|gate| signs(gate, name, &settings)).collect();
    judge(name, &signs)?;
    say(format!(
        "This says that {name} is off: its power is cut, or its machine is shut down. A change of the record waits for it no more. If it runs \
         all the same, and is only cut off from here, two nodes may take writes then, and what one of them acknowledges is lost. It ends by \
         itself when {name} is back in the cluster."
    ));
    if !args.yes {
        type_name(name, "Type the node's name: ", "nothing was changed", "--yes")?;
    }
    for gate in &all {
        let attribute = attribute(&gate.params.master);
        let before = Said::read(node.permanent(&attribute));
        let by = marker("by", &operator(), SystemTime::now(), args.reason.as_deref());
        write(name, &attribute, &Said { shown: Shown::Off, boot: before.boot, by }.text())?;
        Act::on(name, "confirm-off").note([gate], &format!("{name} is confirmed off"));
    }
    say(format!("{name} is confirmed off, until it shows up"));
    Ok(CliCode::Ok)
}

fn write(name: &str, attribute: &str, value: &str) -> Result<(), Stop> {
    for _ in 0..TRIES {
        let cib = pacemaker::read_cib()?;
        let node = cib.node(name).ok_or_else(|| Stop::refused(format!("{name} is no longer in the cluster")))?;
        if pacemaker::write_if_unchanged(&cib, &[Still::Away(node)], node, attribute, value)? {
            return Ok(());
        }
    }
    Err(Stop::refused(format!(
        "{name} is not confirmed off: it is back in the cluster, or others write there all the time"
    )))
}

/// What was looked at, and what was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Sign {
    /// Whether a keeper of the node talks to a Sentinel; None where that could not be asked.
    Sentinel(SocketAddr, Option<bool>),
    /// An address of the node.
    Port(SocketAddr, Port),
}

/// Whether all that was seen can be of a node that is off. That too little was seen is another answer.
fn judge(name: &str, signs: &[Sign]) -> Result<(), Stop> {
    let (mut asked, mut answered) = (0, 0);
    for sign in signs {
        match sign {
            Sign::Sentinel(address, Some(true)) => {
                return Err(Stop::refused(format!("the keeper of {name} talks to Sentinel {address}: it is not off")));
            }
            Sign::Port(address, port @ (Port::Open { .. } | Port::Refused)) => {
                let word = port.word();
                return Err(Stop::refused(format!("the host of {name} answers at {address} ({word}): it is not off")));
            }
            Sign::Sentinel(_, seen) => {
                asked += 1;
                answered += usize::from(seen.is_some());
            }
            Sign::Port(..) => {}
        }
    }
    if asked > 0 && answered <= asked / 2 {
        return Err(Stop::unknown(format!(
            "only {answered} of {asked} Sentinels tell here whether the keeper of {name} lives: run it where more of them answer"
        )));
    }
    Ok(())
}

fn signs(gate: &Gate, name: &str, settings: &Settings) -> Vec<Sign> {
    let Ok(record) = &gate.params.record else { return Vec::new() };
    let within = settings.answer_within;
    let mut jobs: Vec<Box<dyn FnOnce() -> Sign + Send>> = Vec::new();
    let mut signs: Vec<Sign> = Vec::new();
    for sentinel in record.sentinels() {
        let (address, credentials) = (sentinel.address, settings.sentinel.clone());
        let (master, node) = (gate.params.master.clone(), name.to_owned());
        // What does not come back in time tells nothing.
        signs.push(Sign::Sentinel(address, None));
        jobs.push(Box::new(move || {
            let answer = server::ask(address, &credentials, within, &[&["CLIENT", "LIST", "TYPE", "normal"]]);
            let list = answer.ok().and_then(|replies| server::text(replies.first()?));
            Sign::Sentinel(address, list.map(|list| talks(&list, &master, &node)))
        }));
    }
    if let Some(node) = record.node(name) {
        let ports = gate.params.ports;
        for address in [node.address.port(), ports.ro, ports.rw].map(|port| SocketAddr::new(node.address.ip(), port)) {
            let credentials = settings.redis.clone();
            signs.push(Sign::Port(address, Port::Silent));
            jobs.push(Box::new(move || Sign::Port(address, probe::port(address, &credentials, within))));
        }
    }
    let seen = together(within + Duration::from_millis(300), jobs);
    signs.into_iter().zip(seen).map(|(unseen, seen)| seen.unwrap_or(unseen)).collect()
}

/// Whether a line of the node's keeper in this `CLIENT LIST` has been used just now.
fn talks(list: &str, master: &str, node: &str) -> bool {
    !Marks::read(&lively(list)).of(master, &[node.to_owned()]).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_is_what_shows_no_sign_of_life() {
        let at: SocketAddr = "10.0.0.3:6379".parse().unwrap();
        let sentinel = |seen| Sign::Sentinel(at, seen);
        let quiet = [sentinel(Some(false)), sentinel(Some(false)), sentinel(None), Sign::Port(at, Port::Silent)];
        assert_eq!(judge("node3", &quiet), Ok(()));
        let open = Port::Open { who: probe::Who::Unknown { why: "no answer".into() } };
        for sign in [sentinel(Some(true)), Sign::Port(at, Port::Refused), Sign::Port(at, open)] {
            let signs = [&quiet[..], &[sign]].concat();
            assert_eq!(judge("node3", &signs).unwrap_err().code, CliCode::Critical);
        }
        let blind = [sentinel(None), sentinel(None), sentinel(Some(false))];
        assert_eq!(judge("node3", &blind).unwrap_err().code, CliCode::Unknown);
    }

    #[test]
    fn a_line_that_is_used_is_a_sign_of_life() {
        let line =
            |idle: &str| format!("id=7 addr=1.2.3.4:5 name=rolegate:mymaster:node3:closed age=9{idle} flags=N\n");
        let talks = |list: &str| talks(list, "mymaster", "node3");
        assert!(talks(&line(" idle=0")) && talks(&line(" idle=5")) && talks(&line("")));
        assert!(!talks(&line(" idle=6")));
        assert!(talks(&format!("{}{}", line(" idle=600"), line(" idle=1"))));
        assert!(!talks("id=1 name=rolegate:mymaster:node2:closed idle=0\n"));
    }
}
