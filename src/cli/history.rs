//! `rolegate history`: the failovers that this node's keeper saw, from Sentinel's first word to the port that opened. It reads the
//! keeper's notes on this node's disk and nothing else: it works with no cluster at all.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::facts::because;
use super::fence::utc;
use super::table::{style, styled};
use super::{Stop, say};
use crate::exit::CliCode;
use crate::keeper::events::Step;
use crate::keeper::timeline::{self, Event, Story, What};
use crate::keeper::{history, memory};
use crate::pacemaker;

/// The version of what `--json` prints. `docs/history.md` says what a new one means.
const SCHEMA: u32 = 1;

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this master name
    #[arg(long, value_name = "NAME")]
    master: Option<String>,
    /// So many of each master name, the last ones
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    last: u16,
    /// Those since then: 30m, 2h or 3d ago, or a time as 2026-11-29T16:00Z
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Since>,
    /// For programs: /usr/share/doc/rolegate/history.md has the fields
    #[arg(long)]
    json: bool,
}

/// Since when, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    /// Before now.
    Ago(u64),
    /// Since 1970.
    At(u64),
}

fn since(text: &str) -> Result<Since, String> {
    let wrong = || "as 30m, 2h or 3d (ago), or a time with its zone as 2026-11-29T16:00Z".to_owned();
    if let Some(at) = pacemaker::moment(text) {
        return u64::try_from(at).map(Since::At).map_err(|_| wrong());
    }
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(unit_at);
    let seconds: u64 = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).map(Since::Ago).ok_or_else(wrong)
}

/// All of it, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Report {
    schema: u32,
    masters: Vec<Master>,
    /// What could not be read.
    unreadable: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Master {
    master: String,
    /// The node whose keeper saw it, by whose clock all times are.
    node: String,
    /// In the order in which they were.
    failovers: Vec<Told>,
    /// How many notes could not be understood.
    not_understood: usize,
}

/// A failover, or what was none.
#[derive(Debug, Serialize)]
struct Told {
    /// When it began, in milliseconds since 1970.
    at_ms: u64,
    /// `failover`; `tried`, where no other primary came of it; `closed`, where the port was closed for a while.
    kind: &'static str,
    /// The node that was primary, or its address.
    from: Option<String>,
    /// The one that is since.
    to: Option<String>,
    /// `primary_down`, `requested`, `keeper`, `unknown`; null where it was no failover.
    cause: Option<&'static str>,
    /// In words.
    because: String,
    /// Where the read-write port was closed first.
    closed: Option<Moment>,
    /// Where it was opened last.
    opened: Option<Moment>,
    /// From the one to the other; null where the closing was seen behind the opening.
    closed_for_ms: Option<u64>,
    steps: Vec<Line>,
    /// How many steps in the middle are not shown.
    left_out: usize,
}

#[derive(Debug, Serialize)]
struct Moment {
    at_ms: u64,
    node: String,
}

#[derive(Debug, Serialize)]
struct Line {
    at_ms: u64,
    /// Since the first step, and since the one before.
    after_ms: u64,
    step_ms: u64,
    text: String,
    #[serde(flatten)]
    what: What,
}

/// Reads, tells, prints.
pub fn run(args: &Args) -> Result<CliCode, Stop> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let since = match args.since {
        None => 0,
        Some(Since::At(at)) => at,
        Some(Since::Ago(ago)) => now.saturating_sub(ago),
    };
    let directory = Path::new(memory::DIRECTORY);
    let texts =
        history::texts(directory).map_err(|error| Stop::unknown(format!("{}: {error}", directory.display())))?;
    let mut report = Report { schema: SCHEMA, masters: Vec::new(), unreadable: Vec::new() };
    for files in texts {
        let mut events = Vec::new();
        let (mut head, mut not_understood) = (None, 0);
        for history::Notes { path, text } in files {
            let read = text.map_err(|error| error.to_string()).and_then(|text| timeline::read(&text));
            match read {
                Ok(file) => {
                    events.extend(file.events);
                    not_understood += file.not_understood;
                    head = Some(file.head);
                }
                Err(why) => report.unreadable.push(format!("{}: {why}", path.display())),
            }
        }
        let Some(head) = head else { continue };
        if args.master.as_ref().is_some_and(|master| *master != head.master) {
            continue;
        }
        let mut failovers = told(&events, &head.node);
        failovers.retain(|told| told.at_ms / 1000 >= since);
        failovers.drain(..failovers.len().saturating_sub(args.last.into()));
        report.masters.push(Master { master: head.master, node: head.node, failovers, not_understood });
    }
    if let (Some(master), true) = (&args.master, report.masters.is_empty()) {
        return Err(Stop::unknown(format!(
            "this node's keeper has noted nothing of the master name {master}: rolegate status shows which there are"
        )));
    }
    let code = if report.unreadable.is_empty() { CliCode::Ok } else { CliCode::Unknown };
    if args.json {
        say(serde_json::to_string_pretty(&report).map_err(|error| Stop::unknown(error.to_string()))?);
    } else {
        super::say_in_colour(&text(&report, args.since.is_some()));
    }
    Ok(code)
}

/// What the notes of the keeper of the node `me` come to.
fn told(events: &[Event], me: &str) -> Vec<Told> {
    let mut names = BTreeMap::new();
    for event in events {
        if let What::Begun { nodes } = &event.what {
            names.extend(nodes.iter().map(|(name, address)| (*address, name.as_str())));
        }
    }
    timeline::stories(events).iter().map(|story| tell(story, me, &names)).collect()
}

type Names<'a> = BTreeMap<SocketAddr, &'a str>;

fn named(address: &SocketAddr, names: &Names) -> String {
    names.get(address).map_or_else(|| address.to_string(), |name| (*name).to_owned())
}

fn tell(story: &Story, me: &str, names: &Names) -> Told {
    let began = story.events.first().map_or(0, |event| event.at);
    let (mut steps, mut before) = (Vec::new(), began);
    for event in &story.events {
        steps.push(Line {
            at_ms: event.at,
            after_ms: event.at.saturating_sub(began),
            step_ms: event.at.saturating_sub(before),
            text: words(&event.what, me, names),
            what: event.what.clone(),
        });
        before = event.at;
    }
    let (first, last) = (story.failovers.first(), story.failovers.last());
    let (kind, cause, because) = match (first, story.tried) {
        (Some(first), _) => {
            let (cause, because) = because(&first.cause);
            ("failover", Some(cause), because)
        }
        (None, true) => ("tried", None, "a failover was begun, and no other primary came of it".to_owned()),
        (None, false) => {
            let why = story.events.iter().find_map(|event| match &event.what {
                What::Closed { why, .. } => Some(why.clone()),
                _ => None,
            });
            ("closed", None, why.unwrap_or_else(|| "the reason is known on the node that closed".to_owned()))
        }
    };
    let moment =
        |moment: &Option<(u64, String)>| moment.as_ref().map(|(at, node)| Moment { at_ms: *at, node: node.clone() });
    // A closing that was seen behind the opening tells nothing of the time between.
    let closed_for = story.closed.as_ref().zip(story.opened.as_ref());
    let closed_for_ms = closed_for.and_then(|(closed, opened)| opened.0.checked_sub(closed.0));
    Told {
        at_ms: began,
        kind,
        from: first.map(|failover| named(&failover.from, names)),
        to: last.map(|failover| named(&failover.to, names)),
        cause,
        because,
        closed: moment(&story.closed),
        opened: moment(&story.opened),
        closed_for_ms,
        steps,
        left_out: story.left_out,
    }
}

/// One step in an operator's words.
fn words(what: &What, me: &str, names: &Names) -> String {
    match what {
        What::Begun { .. } => format!("{me}: rolegate-keeper begins to keep it (started anew, or a new record)"),
        What::Sentinel { sentinel, says } => {
            let says = match says {
                Step::Silent => "no answer from the primary (+sdown)".to_owned(),
                Step::Answers => "the primary answers again (-sdown)".to_owned(),
                Step::Down => "a quorum has no answer from it (+odown)".to_owned(),
                Step::Up => "a quorum has answers again (-odown)".to_owned(),
                Step::Tried => "begins a failover (+try-failover)".to_owned(),
                Step::Promoting(address) => {
                    format!("makes {} the primary (+failover-state-send-slaveof-noone)", named(address, names))
                }
                Step::MadeReplica(address) => {
                    format!(
                        "makes {} a replica of the primary that it names (+convert-to-slave)",
                        named(address, names)
                    )
                }
                Step::Aborted(why) => format!("gives its failover up (-failover-abort-{why})"),
                Step::Switched { to, .. } => format!("the primary is {} now (+switch-master)", named(to, names)),
            };
            // Sentinels run on nodes as a rule.
            let on = names.iter().find(|(address, _)| address.ip() == sentinel.ip());
            let on = on.map_or_else(|| sentinel.to_string(), |(_, name)| format!("on {name}"));
            format!("Sentinel {on}: {says}")
        }
        What::Asked { why } => format!("{me}: its keeper asks a Sentinel for a failover: {why}"),
        What::Permission { granted } => {
            let granted = match granted.as_str() {
                "promoted" => "has promoted the gate: it may open",
                "started" => "has the gate started, not promoted",
                "stopping" => "stops the gate",
                _ => "has stopped the gate",
            };
            format!("{me}: Pacemaker {granted}")
        }
        What::Waits { why } => format!("{me}: promoted, and not open yet: {why}"),
        What::Closed { node, why } => format!("{node}: closed for writing: {why}"),
        What::Opened { node, epoch } => format!("{node}: open for writing (epoch {epoch})"),
        What::SeenClosed { node } => format!("{node}: closed, as its mark says"),
        What::SeenOpen { node } => format!("{node}: open or about to be, as its mark says"),
        What::Role { node, role } => {
            format!("{node}: its role in the cluster is {}", role.as_deref().unwrap_or("not set"))
        }
    }
}

fn text(report: &Report, chosen: bool) -> String {
    let mut text = String::new();
    let mut line = |line: String| _ = writeln!(text, "{line}");
    for why in &report.unreadable {
        line(styled(format!("cannot be read: {why}"), style::UNKNOWN));
    }
    if report.masters.is_empty() && report.unreadable.is_empty() {
        line("This node's keeper has noted nothing yet: systemctl status rolegate-keeper".to_owned());
    }
    for master in &report.masters {
        let Master { master: name, node, failovers, not_understood } = master;
        if *not_understood > 0 {
            line(styled(format!("{name}: {not_understood} notes were not understood"), style::UNKNOWN));
        }
        if failovers.is_empty() {
            let since = if chosen { " since then" } else { "" };
            line(format!("{name}: no failover was seen by the keeper of {node}{since}"));
        }
        for told in failovers {
            let from_to = match (&told.from, &told.to) {
                (Some(from), Some(to)) => format!("{from} -> {to}"),
                _ if told.kind == "tried" => "no failover".to_owned(),
                _ => "closed".to_owned(),
            };
            let at = utc(told.at_ms / 1000);
            line(styled(format!("{name}: {from_to}  {at}"), style::GOOD.fg_color(None)));
            line(format!("  why: {}", told.because));
            let seconds = |ms: u64| format!("{}.{:03} s", ms / 1000, ms % 1000);
            match (&told.closed, &told.opened, told.closed_for_ms) {
                (Some(closed), Some(opened), Some(ms)) => line(format!(
                    "  nobody took writes for {}{}: closed on {}, then open on {}",
                    // What marks show comes late.
                    if [closed, opened].into_iter().all(|moment| moment.node == *node) { "" } else { "about " },
                    seconds(ms),
                    closed.node,
                    opened.node
                )),
                (Some(closed), None, _) => {
                    line(styled(format!("  closed on {}, and not seen open since", closed.node), style::WARN));
                }
                (Some(closed), Some(opened), None) => line(format!(
                    "  open on {}; only then {} was seen closed: for how long nobody took writes is known there",
                    opened.node, closed.node
                )),
                (None, Some(opened), _) => line(format!("  open on {}; no closing was seen before", opened.node)),
                _ => {}
            }
            for step in &told.steps {
                line(format!("  {:>10}  {:>+7} ms  {}", seconds(step.after_ms), step.step_ms, step.text));
            }
            if told.left_out > 0 {
                line(format!("  ({} steps in the middle are left out)", told.left_out));
            }
            line(String::new());
        }
    }
    if let Some(master) = report.masters.iter().find(|master| !master.failovers.is_empty()) {
        let note = format!(
            "All times are of {0}'s clock. Marks of other nodes are seen up to 0.4 s late; why they closed, and what Pacemaker did \
             there, {0} does not see: run this there. Clocks of two nodes differ: put their times side by side with care.",
            master.node
        );
        line(styled(note, style::FAINT));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::status::tests as status;
    use super::*;

    fn address(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 6379))
    }

    fn sentinel(n: u8, says: Step) -> What {
        What::Sentinel { sentinel: SocketAddr::from(([10, 0, 0, n], 26379)), says }
    }

    fn report(list: &[(u64, What)]) -> Report {
        let nodes = [1, 2, 3].map(|n| (format!("node{n}"), address(n))).into();
        let begun = (1_000, What::Begun { nodes });
        let events: Vec<_> =
            [begun].iter().chain(list).map(|(at, what)| Event { at: *at, what: what.clone() }).collect();
        let failovers = told(&events, "node2");
        let master = Master { master: "mymaster".into(), node: "node2".into(), failovers, not_understood: 0 };
        Report { schema: SCHEMA, masters: vec![master], unreadable: Vec::new() }
    }

    #[test]
    fn a_failover_in_words() {
        let at = 1_795_971_731_000;
        let said = text(
            &report(&[
                (at - 90_000, What::SeenOpen { node: "node1".into() }),
                (at, What::SeenClosed { node: "node1".into() }),
                (at + 5_020, sentinel(3, Step::Silent)),
                (at + 5_100, sentinel(3, Step::Down)),
                (at + 5_100, sentinel(3, Step::Tried)),
                (at + 5_400, sentinel(3, Step::Switched { from: address(1), to: address(2) })),
                (at + 5_430, What::Role { node: "node2".into(), role: Some("primary".into()) }),
                (at + 5_650, What::Permission { granted: "promoted".into() }),
                (at + 5_700, What::Opened { node: "node2".into(), epoch: 4 }),
            ]),
            false,
        );
        let said = anstream::adapter::strip_str(&said).to_string();
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(
            lines[..5],
            [
                "mymaster: node1 -> node2  2026-11-29T17:02:11Z",
                "  why: Sentinels agreed that the primary was down",
                "  nobody took writes for about 5.700 s: closed on node1, then open on node2",
                "     0.000 s       +0 ms  node1: closed, as its mark says",
                "     5.020 s    +5020 ms  Sentinel on node3: no answer from the primary (+sdown)",
            ]
        );
        assert_eq!(lines[10], "     5.700 s      +50 ms  node2: open for writing (epoch 4)");
        assert!(lines.last().unwrap().contains("node2's clock"), "{said}");
    }

    #[test]
    fn what_is_no_failover_in_words() {
        let said = text(
            &report(&[
                (70_000, What::Closed { node: "node2".into(), why: "Redis on this node has restarted".into() }),
                (71_500, What::Waits { why: "waiting".into() }),
                (200_000, What::Opened { node: "node2".into(), epoch: 4 }),
                (900_000, sentinel(3, Step::Tried)),
                (900_100, sentinel(3, Step::Aborted("no-good-slave".into()))),
            ]),
            false,
        );
        for part in [
            "mymaster: closed  1970-01-01T00:01:10Z",
            "why: Redis on this node has restarted",
            "nobody took writes for 130.000 s: closed on node2, then open on node2",
            "node2: promoted, and not open yet: waiting",
            "mymaster: no failover  1970-01-01T00:15:00Z",
            "gives its failover up (-failover-abort-no-good-slave)",
        ] {
            assert!(said.contains(part), "no {part:?}: {said}");
        }
        assert!(text(&report(&[]), true).contains("no failover was seen by the keeper of node2 since then"));
    }

    /// The fields of version 1, of which none is ever taken away.
    const VERSION_1: &str = "schema masters masters[].master masters[].node masters[].failovers masters[].failovers[].at_ms masters[].failovers[].kind \
        masters[].failovers[].from masters[].failovers[].to masters[].failovers[].cause masters[].failovers[].because \
        masters[].failovers[].closed masters[].failovers[].closed.at_ms masters[].failovers[].closed.node masters[].failovers[].opened \
        masters[].failovers[].opened.at_ms masters[].failovers[].opened.node masters[].failovers[].closed_for_ms \
        masters[].failovers[].steps masters[].failovers[].steps[].at_ms masters[].failovers[].steps[].after_ms \
        masters[].failovers[].steps[].step_ms masters[].failovers[].steps[].text masters[].failovers[].steps[].what \
        masters[].failovers[].steps[].nodes masters[].failovers[].steps[].sentinel masters[].failovers[].steps[].says \
        masters[].failovers[].steps[].why masters[].failovers[].steps[].granted masters[].failovers[].steps[].node \
        masters[].failovers[].steps[].epoch masters[].failovers[].steps[].role masters[].failovers[].left_out masters[].not_understood \
        unreadable";

    #[test]
    fn each_field_of_the_json_stands_in_the_document_under_its_name() {
        let node = || "node1".to_owned();
        let why = || "why".to_owned();
        let moment = || Some(Moment { at_ms: 7, node: node() });
        let steps = [
            What::Begun { nodes: [(node(), address(1))].into() },
            sentinel(1, Step::Switched { from: address(1), to: address(2) }),
            What::Asked { why: why() },
            What::Permission { granted: "promoted".into() },
            What::Waits { why: why() },
            What::Closed { node: node(), why: why() },
            What::Opened { node: node(), epoch: 4 },
            What::SeenClosed { node: node() },
            What::SeenOpen { node: node() },
            What::Role { node: node(), role: None },
        ];
        let step = |what: What| Line { at_ms: 7, after_ms: 0, step_ms: 0, text: why(), what };
        let told = Told {
            at_ms: 7,
            kind: "failover",
            from: None,
            to: None,
            cause: None,
            because: why(),
            closed: moment(),
            opened: moment(),
            closed_for_ms: None,
            steps: steps.map(step).into(),
            left_out: 0,
        };
        let mut report = report(&[]);
        report.masters[0].failovers = vec![told];
        let mut found = std::collections::BTreeSet::new();
        status::paths(&serde_json::to_value(&report).unwrap(), "", &mut found);
        // Names of nodes, and what is of one kind or another.
        let steps = "masters[].failovers[].steps[]";
        found.retain(|path| !["nodes.", "says."].iter().any(|part| path.starts_with(&format!("{steps}.{part}"))));
        let document = include_str!("../../docs/history.md");
        let (of_json, _) = document.split_once("## The journal").unwrap();
        let rows = of_json.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
        let documented: std::collections::BTreeSet<String> = rows.map(|(path, _)| path.to_owned()).collect();
        assert_eq!(found, documented);
        assert!(document.contains(&format!("the schema's version is **{SCHEMA}**")));
        assert_eq!(SCHEMA, 1);
        status::is_version(&found, VERSION_1);
    }

    #[test]
    fn times_are_ago_or_have_a_zone() {
        for (given, wanted) in [
            ("30m", Since::Ago(1800)),
            ("2h", Since::Ago(7200)),
            ("3d", Since::Ago(259_200)),
            ("2026-11-29T16:00Z", Since::At(1_795_968_000)),
            ("2026-11-29 17:00:00 +01:00", Since::At(1_795_968_000)),
        ] {
            assert_eq!(since(given), Ok(wanted), "{given}");
        }
        for wrong in
            ["", "3", "h", "-3h", "2026-11-29T16:00", "2026-11-29", "99999999999999999999d", "1960-01-01T00:00Z"]
        {
            assert!(since(wrong).is_err(), "{wrong}");
        }
    }
}
