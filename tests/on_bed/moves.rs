//! That the read-write port follows the primary: on one node at a time, through real failures, with
//! writers that count.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use rolegate::command::Cmd;
use serde_json::Value;

use super::cli::rolegate;
use crate::OnBed;
use crate::bed::gates::{self, configure, open_gates, role};
use crate::bed::load::{Bounds, Load, Report, Writer, WriterReport};
use crate::bed::suite::CONFIRMED_LAST;
use crate::bed::variant::MYMASTER;
use crate::bed::{Bed, CLIENTS, Host, NODES, address, address6, hosts, wait_for};

pub const TRIALS: &[(&str, OnBed)] = &[
    ("each_host_reaches_each_read_only_port_and_one_read_write_port", ports),
    ("writers_go_on_after_the_primary_is_killed", killed),
    ("a_failover_by_hand_moves_the_port", by_hand),
    ("an_isolated_primary_closes_and_the_others_go_on", isolated),
    ("a_node_that_lost_power_comes_back_closed", power_cut),
    ("a_flushed_firewall_is_closed_and_then_repaired", flushed),
    ("a_keeper_that_takes_long_to_be_restarted_costs_nothing", restarted),
    ("what_sentinel_says_by_argv_is_a_hint", hint),
    ("the_hook_writes_nothing_without_quorum", no_quorum),
    ("a_host_firewall_that_drops_lets_the_gate_through_and_nothing_else", drop_policy),
];

/// Whatever `rolegate status` says.
const ANY: i32 = 3;

/// A bed with a gate, whose read-write port is open on the primary's node and nowhere else.
pub(super) fn with_gate(bed: &Bed) -> Result<Host<'_>> {
    let node = bed.host(NODES[0])?;
    if !node.ask("cibadmin", &["-Q", "-o", "resources"])?.contains("type=\"gate\"") {
        configure(bed)?;
    }
    settled(bed)
}

/// Waits until exactly the primary's read-write port is open and all roles are right.
pub(super) fn settled(bed: &Bed) -> Result<Host<'_>> {
    wait_for("one open read-write port, on the primary's node", Duration::from_secs(120), || gates::check(bed, ANY))?;
    bed.primary()
}

/// What a client on `from` gets of a port: the server's role, or None where it is refused.
pub(super) fn role_behind(from: &Host, address: &str, port: u16) -> Result<Option<String>> {
    let output = from
        .cmd("timeout")?
        .args(["3", from.bed().server().cli(), "-h", address, "-p", &port.to_string(), "ROLE"])
        .run_expecting(&[0, 1, 124])?;
    match (output.code, output.text().lines().next()) {
        (0, Some(role)) => Ok(Some(role.to_owned())),
        _ if output.stderr.contains("Connection refused") => Ok(None),
        _ => anyhow::bail!("{} got neither an answer nor a refusal: {}", from.name(), output.stderr),
    }
}

pub(super) fn ports(bed: &Bed) -> Result<()> {
    let primary = with_gate(bed)?.name();
    for from in hosts() {
        let from = bed.host(from)?;
        for to in NODES {
            let right = if to == primary { "master" } else { "slave" };
            let mut places = vec![address(to), address6(to)];
            if from.name() == to {
                places.extend(["127.0.0.1".to_owned(), "::1".to_owned()]);
            }
            for place in places {
                let ro = role_behind(&from, &place, 6380)?;
                ensure!(ro.as_deref() == Some(right), "{}: 6380 of {to} at {place}: {ro:?}", from.name());
                let rw = role_behind(&from, &place, 6381)?;
                let expected = (to == primary).then_some("master");
                ensure!(rw.as_deref() == expected, "{}: 6381 of {to} at {place}: {rw:?}", from.name());
            }
        }
    }
    Ok(())
}

/// Writers through HAProxy on both clients and straight to each node, one of them waiting for a
/// replica; the failure; until all is well again; the count.
pub(super) fn with_writers(
    bed: &Bed,
    fault: impl FnOnce() -> Result<()>,
    end: impl FnOnce() -> Result<()>,
) -> Result<Report> {
    let mut writers = vec![
        Writer::through_haproxy("proxied-1", CLIENTS[0]),
        Writer::through_haproxy("proxied-2", CLIENTS[1]),
        Writer::through_haproxy("waiting", CLIENTS[0]).waiting(),
    ];
    for node in NODES {
        let target = SocketAddr::new(address(node).parse()?, 6381);
        writers.push(Writer::to(&format!("to-{node}"), CLIENTS[1], target));
    }
    let load = Load::start(bed, &writers, Bounds { rate: 200, time: Duration::from_secs(240) })?;
    thread::sleep(Duration::from_secs(2));
    fault()?;
    let survivor = |bed: &Bed| -> Result<()> {
        wait_for("a read-write port to be open", Duration::from_secs(90), || {
            ensure!(!open_gates(bed)?.is_empty(), "none is open");
            Ok(())
        })
    };
    survivor(bed)?;
    end()?;
    settled(bed)?;
    thread::sleep(Duration::from_secs(2));
    let written = load.stop()?;
    let primary = settled(bed)?;
    let report = written.verify(bed, CLIENTS[0], SocketAddr::new(primary.address().parse()?, 6379))?;
    bed.say(&format!("{} acknowledged, {} lost, {} stale", report.acknowledged, report.lost, report.stale));
    for writer in &report.writers {
        bed.say(&format!("  {writer:?}"));
    }
    Ok(report)
}

/// What holds after every failure in which nothing but one server failed: nobody acknowledged
/// behind its successor, and what a replica had confirmed is there, but for its last few writes ([`CONFIRMED_LAST`]).
pub(super) fn nothing_stale(report: &Report) -> Result<()> {
    let waiting = none_stale(report)?;
    ensure!(waiting.lost <= CONFIRMED_LAST, "{} writes that a replica had confirmed are lost", waiting.lost);
    Ok(())
}

/// The first half of that, which holds whatever fails; and what became of the writer that waits.
pub(super) fn none_stale(report: &Report) -> Result<&WriterReport> {
    ensure!(report.acknowledged > 0, "nothing was written");
    ensure!(report.stale == 0, "{} stale acknowledgements", report.stale);
    let waiting = report.writers.iter().find(|writer| writer.name == "waiting").context("the waiting writer")?;
    ensure!(waiting.acknowledged > 0, "the waiting writer wrote nothing: {}", waiting.last_error);
    Ok(waiting)
}

fn killed(bed: &Bed) -> Result<()> {
    let old = with_gate(bed)?;
    let unit = bed.server().unit();
    let start = format!("systemctl unmask --runtime {unit}.service 2>/dev/null; systemctl start {unit}");
    let report = with_writers(
        bed,
        || {
            old.sh(&format!("systemctl mask --runtime {unit}.service 2>/dev/null"))?;
            old.signal(unit, Signal::SIGKILL)?;
            wait_for("another node's port to open", Duration::from_secs(90), || {
                ensure!(open_gates(bed)?.iter().any(|node| *node != old.name()), "none");
                Ok(())
            })
        },
        || old.sh(&start).map(drop),
    );
    old.sh(&start)?;
    let report = report?;
    nothing_stale(&report)?;
    let waiting = report.writers.iter().find(|writer| writer.name == "waiting").context("the waiting writer")?;
    ensure!(waiting.lost == 0, "{} writes that a replica had confirmed are lost", waiting.lost);
    for writer in report.writers.iter().filter(|writer| writer.name.starts_with("proxied")) {
        ensure!(writer.servers.len() >= 2, "{} did not go on: {:?}", writer.name, writer.last_error);
    }
    told(bed, old.name())
}

/// That each node tells the failover from the old primary's closing to the new one's opening, and the journal has both.
fn told(bed: &Bed, old: &str) -> Result<()> {
    let new = settled(bed)?;
    for node in bed.nodes() {
        let said = rolegate(&node, &["history", "--last", "1", "--json"])?;
        let failover = &serde_json::from_str::<Value>(&said.text)?["masters"][0]["failovers"][0];
        let texts: Vec<_> =
            failover["steps"].as_array().into_iter().flatten().filter_map(|step| step["text"].as_str()).collect();
        ensure!(
            said.code == 0 && (failover["from"] == old && failover["to"] == new.name()),
            "{}: {failover:#}",
            node.name()
        );
        ensure!(
            failover["closed"]["node"] == old && failover["opened"]["node"] == new.name(),
            "{}: {failover:#}",
            node.name()
        );
        let at =
            |moment: &str| failover[moment]["at_ms"].as_u64().with_context(|| format!("no {moment}: {failover:#}"));
        let (closed, opened) = (at("closed")?, at("opened")?);
        let place = |part: &str| texts.iter().position(|text| text.contains(part));
        let turned = [place("+try-failover"), place("+switch-master")];
        let (shut, open) = (place(&format!("{old}: closed")), place(&format!("{}: open", new.name())));
        ensure!(turned.iter().chain([&shut, &open]).all(Option::is_some), "{}: {texts:#?}", node.name());
        match failover["closed_for_ms"].as_u64() {
            Some(ms) => {
                bed.say(&format!("{} saw it closed for {ms} ms", node.name()));
                ensure!(ms < 30_000 && ms == opened - closed && shut < open, "{}: {failover:#}", node.name());
                // Up to two looks at marks lie between what two nodes see.
                ensure!(ms >= 200 || node.name() != old, "{}: {failover:#}", node.name());
            }
            // Who closed itself need not see it.
            None => ensure!(node.name() != old && closed > opened && shut > open, "{}: {failover:#}", node.name()),
        }
        ensure!(turned[0] < turned[1] && turned[1] < open, "{}: {texts:#?}", node.name());
    }
    for (node, wanted) in [(bed.host(old)?, "closed"), (new, "open")] {
        let all = journal(&node, &["-t", "rolegate-keeper", "MASTER=mymaster", &format!("NODE={}", node.name())])?;
        let text = format!("6381 is {wanted} for writing");
        let is_it = |record: &&Value| record["MESSAGE"].as_str().is_some_and(|message| message.contains(&text));
        let record =
            all.iter().rev().find(is_it).with_context(|| format!("{}: no {text:?} in {all:#?}", node.name()))?;
        let epoch: u64 = record["EPOCH"].as_str().context("EPOCH")?.parse()?;
        let why = record["REASON"].as_str().unwrap_or_default();
        match wanted {
            "open" => ensure!(record["ROLE"] == "primary" && epoch > 0, "{record:#}"),
            _ => ensure!(
                !why.is_empty() && record["MESSAGE"].as_str().is_some_and(|text| text.ends_with(why)),
                "{record:#}"
            ),
        }
    }
    // A hook may still be at it.
    wait_for("whole records of all programs", Duration::from_secs(20), || whole(bed))
}

/// That all that keeper, agent and hook have decided so far has its fields, each once: what a record has twice is a list there.
fn whole(bed: &Bed) -> Result<()> {
    let mut with_epoch = 0;
    for node in bed.nodes() {
        for program in ["rolegate-keeper", "rolegate-agent", "rolegate-hook"] {
            let all = journal(&node, &["-t", program])?;
            ensure!(!all.is_empty(), "{}: {program} has said nothing", node.name());
            for record in all {
                let has = |field: &str| record[field].is_string();
                let fields = ["MASTER", "NODE", "GATE", "ROLE", "EPOCH", "REASON", "MESSAGE"];
                ensure!(fields.iter().all(|field| record[*field].is_null() || has(field)), "{record:#}");
                ensure!(!has("MASTER") || (has("NODE") && has("REASON")), "{record:#}");
                with_epoch += usize::from(program == "rolegate-agent" && has("EPOCH"));
            }
        }
    }
    ensure!(with_epoch > 0, "the keeper has told the agent of no epoch");
    Ok(())
}

/// The records in the journal of a node that these words choose, the oldest first.
pub(super) fn journal(on: &Host, words: &[&str]) -> Result<Vec<Value>> {
    let text = on.journal(&[&["--output=json"], words].concat())?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// Why this node's keeper has closed its read-write port since then, the oldest first.
pub(super) fn closings(on: &Host, since: SystemTime) -> Result<Vec<String>> {
    let since = format!("@{}", since.duration_since(UNIX_EPOCH)?.as_secs_f64());
    let all = journal(on, &["-t", "rolegate-keeper", "--since", &since])?;
    let closed = all
        .iter()
        .filter(|record| record["MESSAGE"].as_str().is_some_and(|text| text.contains("is closed for writing")));
    Ok(closed.map(|record| record["REASON"].as_str().unwrap_or_default().to_owned()).collect())
}

/// That the journal of the node on which it was typed has what an operator has done: with its fields, and a message that says so.
pub(super) fn recorded(on: &Host, node: Option<&str>, reason: &str, says: &str) -> Result<()> {
    wait_for(&format!("a record of {reason}"), Duration::from_secs(10), || {
        let all = journal(on, &["-t", "rolegate", "MASTER=mymaster"])?;
        let is_it = |record: &Value| {
            record["REASON"] == reason
                && record["NODE"].as_str() == node
                && record["OPERATOR"].as_str().is_some_and(|who| who.contains('@'))
                && record["MESSAGE"].as_str().is_some_and(|message| message.contains(says))
        };
        ensure!(all.iter().any(is_it), "none of these says {says:?} of {node:?}: {all:#?}");
        Ok(())
    })
}

fn by_hand(bed: &Bed) -> Result<()> {
    let old = with_gate(bed)?;
    let report = with_writers(
        bed,
        || {
            old.redis(26379, &["SENTINEL", "FAILOVER", "mymaster"])?;
            wait_for("another node's port to open", Duration::from_secs(90), || {
                ensure!(open_gates(bed)?.iter().any(|node| *node != old.name()), "none");
                Ok(())
            })
        },
        || Ok(()),
    )?;
    nothing_stale(&report)
}

fn isolated(bed: &Bed) -> Result<()> {
    let old = with_gate(bed)?;
    // A Sentinel that still takes the next primary for the one before it, as it may 10 s long after a failover, would turn it around
    // (+convert-to-slave) the moment it reaches it again, before it hears of the new one: then the primary moves once more.
    bed.replicas_known()?;
    // client2 stays with the old primary and sees what it goes on acknowledging.
    bed.isolate(&[old.name(), CLIENTS[1]])?;
    let beside = bed.host(CLIENTS[1])?;
    wait_for("the isolated primary to close", Duration::from_secs(60), || {
        let behind = role_behind(&beside, &old.address(), 6381)?;
        ensure!(behind.is_none(), "still open: {behind:?}");
        Ok(())
    })?;
    wait_for("another node to open", Duration::from_secs(90), || {
        ensure!(open_gates(bed)?.iter().any(|node| *node != old.name()), "none");
        Ok(())
    })?;
    ensure!(role_behind(&beside, &old.address(), 6381)?.is_none(), "open on both sides");
    bed.heal()?;
    let new = settled(bed)?;
    ensure!(new.name() != old.name(), "the old primary is primary again");
    was_down(bed, old.name(), new.name())
}

/// That both others tell why the primary moved away from a node that nobody reached: Sentinels agreed that it was down; or one of their
/// keepers saw that its node is lost and has asked for it, which the other cannot tell from an operator.
fn was_down(bed: &Bed, old: &str, new: &str) -> Result<()> {
    let mut causes = Vec::new();
    for node in bed.nodes().filter(|node| node.name() != old) {
        let said = rolegate(&node, &["history", "--last", "1", "--json"])?;
        let failover = &serde_json::from_str::<Value>(&said.text)?["masters"][0]["failovers"][0];
        ensure!(failover["from"] == old && failover["to"] == new, "{}: {failover:#}", node.name());
        let said = rolegate(&node, &["status", "--json"])?;
        let last = &serde_json::from_str::<Value>(&said.text)?["masters"][0]["last_failover"];
        let (cause, because) = (failover["cause"].as_str(), failover["because"].as_str().unwrap_or_default());
        ensure!(
            last["cause"].as_str() == cause && last["because"] == because,
            "{}: {last:#}, {failover:#}",
            node.name()
        );
        let is_gone = ["the primary's node was lost", "the primary was down"].iter().any(|why| because.contains(why));
        ensure!(cause != Some("keeper") || is_gone, "{}: {failover:#}", node.name());
        causes.push(cause.unwrap_or_default().to_owned());
    }
    bed.say(&format!("the primary moved because: {causes:?}"));
    let any = |cause: &str| causes.iter().any(|one| one == cause);
    let known = causes.iter().all(|one| ["primary_down", "keeper", "requested"].contains(&one.as_str()));
    ensure!(known && (any("keeper") || !any("requested")), "the others say that it was {causes:?}");
    Ok(())
}

fn power_cut(bed: &Bed) -> Result<()> {
    let old = with_gate(bed)?;
    old.power_off()?;
    wait_for("another node to open", Duration::from_secs(90), || {
        ensure!(open_gates(bed)?.iter().any(|node| *node != old.name()), "none");
        Ok(())
    })?;
    // Watched while it boots: its Redis starts as a primary, with data of before.
    thread::scope(|scope| -> Result<()> {
        let boot = scope.spawn(|| old.boot());
        while !boot.is_finished() {
            ensure!(!open_gates(bed)?.contains(&old.name()), "{} opened while it booted", old.name());
            thread::sleep(Duration::from_millis(20));
        }
        boot.join().map_err(|_| anyhow::anyhow!("booting panicked"))?
    })?;
    let new = settled(bed)?;
    ensure!(new.name() != old.name(), "the old primary is primary again");
    was_down(bed, old.name(), new.name())
}

fn flushed(bed: &Bed) -> Result<()> {
    let node = with_gate(bed)?;
    let client = bed.host(CLIENTS[0])?;
    node.sh("nft flush ruleset")?;
    ensure!(role_behind(&client, &node.address(), 6381)?.is_none(), "open without a rule");
    // The keeper is there before a monitor sees it: nothing is restarted for it.
    wait_for("the port to open again", Duration::from_secs(30), || {
        let behind = role_behind(&client, &node.address(), 6381)?;
        ensure!(behind.as_deref() == Some("master"), "{behind:?}");
        Ok(())
    })?;
    let said = node.ask("crm_mon", &["-1", "-f"])?;
    ensure!(!said.contains("RedisGate_monitor"), "a monitor has failed: {said}");
    // Without a keeper the monitor says what happened, and Pacemaker repairs it.
    node.sh("systemctl stop rolegate-keeper; nft flush ruleset")?;
    wait_for("crm_mon to say what happened", Duration::from_secs(60), || {
        let said = node.ask("crm_mon", &["-1", "-f"])?;
        ensure!(said.contains("firewall rules are gone"), "{said}");
        Ok(())
    })?;
    node.sh("systemctl start rolegate-keeper")?;
    settled(bed)?;
    node.ask("crm_resource", &["--cleanup", "-r", "RedisGate"])?;
    Ok(())
}

/// Lines made anew need 1 s until a question counts on them, and after 0.4 s there is no lease left by then.
fn restarted(bed: &Bed) -> Result<()> {
    let node = with_gate(bed)?;
    let dropin = "/run/systemd/system/rolegate-keeper.service.d";
    node.sh(&format!(
        "mkdir -p {dropin}
         printf '[Service]\\nRestartSec=400ms\\nExecStartPre=/bin/sleep 0.1\\n' >{dropin}/slow.conf
         systemctl daemon-reload"
    ))?;
    // Lines of before have settled.
    thread::sleep(Duration::from_secs(3));
    let target = SocketAddr::new(node.address().parse()?, MYMASTER.rw);
    let load = Load::start(
        bed,
        &[Writer::to("stays", CLIENTS[0], target)],
        Bounds { rate: 100, time: Duration::from_secs(60) },
    )?;
    let restart = |how: &str| -> Result<()> {
        let before = node.ask("pidof", &["rolegate-keeper"])?;
        node.sh(how)?;
        wait_for("the next keeper", Duration::from_secs(20), || {
            let now = node.ask("pidof", &["rolegate-keeper"])?;
            ensure!(now != before, "{now}");
            Ok(())
        })?;
        thread::sleep(Duration::from_secs(4));
        Ok(())
    };
    let tried = ["systemctl kill -s KILL rolegate-keeper", "systemctl restart rolegate-keeper"].map(restart);
    let report = load.stop()?.verify(bed, CLIENTS[0], SocketAddr::new(target.ip(), MYMASTER.redis))?;
    node.sh(&format!("rm -r {dropin}; systemctl daemon-reload"))?;
    tried.into_iter().collect::<Result<()>>()?;
    super::variants::undisturbed(&report)
}

/// A command as Sentinel's user, in the groups that the drop-in gives it.
pub fn as_sentinel(node: &Host) -> Result<Cmd> {
    let user = node.bed().server().user();
    let ids = [format!("--reuid={user}"), format!("--regid={user}")];
    Ok(node.cmd("setpriv")?.args(ids).arg("--groups=haclient"))
}

/// Runs the hook as Sentinel would, by hand; its exit code.
pub(super) fn hook(node: &Host, args: &[&str]) -> Result<i32> {
    let codes: Vec<i32> = (0..=255).collect();
    let output = as_sentinel(node)?
        .arg("/usr/lib/rolegate/rolegate-hook")
        .args(args.iter().copied())
        .deadline(Duration::from_secs(58))
        .run_expecting(&codes)?;
    Ok(output.code)
}

fn hint(bed: &Bed) -> Result<()> {
    let primary = with_gate(bed)?;
    let other = bed.nodes().find(|node| node.name() != primary.name()).context("three nodes")?;
    let (p, o) = (primary.address(), other.address());
    // What a retry of an old call says: the other one is primary.
    for node in bed.nodes() {
        ensure!(hook(&node, &["mymaster", "observer", "start", &p, "6379", &o, "6379"])? == 0, "{}", node.name());
    }
    ensure!(settled(bed)?.name() == primary.name(), "the arguments were believed");
    // The keeper does so, and without a keeper the hook itself does.
    other.ask("crm_attribute", &["-l", "forever", "-N", other.name(), "-n", "redis_role", "-v", "primary"])?;
    wait_for("the keeper to clear a wrong role", Duration::from_secs(30), || {
        ensure!(role(&other)? == "replica", "{}", role(&other)?);
        Ok(())
    })?;
    hostile_words(bed, &primary)?;
    for node in bed.nodes() {
        node.sh("systemctl stop rolegate-keeper")?;
    }
    let tried = hint_without_keepers(&primary, &other).and_then(|()| hostile_words(bed, &primary));
    for node in bed.nodes() {
        node.sh("systemctl start rolegate-keeper")?;
    }
    tried?;
    settled(bed).map(drop)
}

/// What a Sentinel that believes anything could call the hook with. Whoever ran one of them, or had a shell read it, would make [`MADE`].
const HOSTILE: [&str; 6] = [
    "$(touch /tmp/hostile)",
    "`touch /tmp/hostile`",
    "\n;touch /tmp/hostile\n",
    "' || touch /tmp/hostile #",
    "--help=../../../etc/shadow",
    "\"/><nvpair name=\"redis_role\" value=\"primary\"/>\r\n\u{7f}\u{202e}",
];
const MADE: &str = "/tmp/hostile";

/// Whatever the hook is called with, it runs nothing and changes nothing.
fn hostile_words(bed: &Bed, primary: &Host) -> Result<()> {
    let configuration = || primary.ask("cibadmin", &["-Q", "-l", "-o", "configuration"]);
    let before = configuration()?;
    let long = "x".repeat(100_000);
    let [a, b, c, d, e, f] = HOSTILE;
    // What is said about a master name that there is, is a hint. One that nobody has is refused for good.
    for (words, code) in [
        (["mymaster", a, b, c, d, e, f], 0),
        (["mymaster", &long, f, e, "", c, &long], 0),
        ([a, b, c, d, e, f, a], 2),
        ([c, "leader", "start", "", "", "", ""], 2),
        ([&long, "leader", "start", a, b, f, d], 2),
    ] {
        let got = hook(primary, &words)?;
        ensure!(got == code, "{words:.40?}: exit code {got} instead of {code}");
    }
    let after = configuration()?;
    ensure!(after == before, "the cluster's configuration has changed: {before} {after}");
    for node in bed.nodes() {
        ensure!(node.sh(&format!("test ! -e {MADE}")).is_ok(), "{}: something was run", node.name());
    }
    Ok(())
}

fn hint_without_keepers(primary: &Host, other: &Host) -> Result<()> {
    let (p, o) = (primary.address(), other.address());
    // A role that is wrong is put right, and clears what is wrong elsewhere.
    other.ask("crm_attribute", &["-l", "forever", "-N", other.name(), "-n", "redis_role", "-v", "primary"])?;
    ensure!(hook(primary, &["mymaster", "leader", "start", &o, "6379", &p, "6379"])? == 0, "the hook failed");
    ensure!(role(other)? == "replica", "the new primary did not clear the old one: {}", role(other)?);
    for (args, code) in
        [(vec!["mymaster"], 2), (vec!["unknown", "leader", "start", &o, "6379", &p, "6379"], 2), (vec![], 2)]
    {
        let got = hook(primary, &args)?;
        ensure!(got == code, "{args:?}: exit code {got} instead of {code}");
    }
    Ok(())
}

fn no_quorum(bed: &Bed) -> Result<()> {
    let primary = with_gate(bed)?;
    let alone = bed.nodes().find(|node| node.name() != primary.name()).context("three nodes")?;
    bed.isolate(&[alone.name()])?;
    wait_for("the loss of quorum", Duration::from_secs(30), || {
        let output = alone.cmd("crm_node")?.arg("-q").run_expecting(&[0, 106])?;
        ensure!(output.text().trim() == "0", "{}", output.text());
        Ok(())
    })?;
    let (p, a) = (primary.address(), alone.address());
    let before = alone.ask("cibadmin", &["-Q", "-l", "-o", "nodes"])?;
    let call = ["mymaster", "observer", "start", &p, "6379", &a, "6379"];
    let code = hook(&alone, &call)?;
    ensure!(code == 0, "exit code {code}: the keeper goes on with it");
    alone.sh("systemctl stop rolegate-keeper")?;
    let code = hook(&alone, &call)?;
    alone.sh("systemctl start rolegate-keeper")?;
    ensure!(code == 1, "exit code {code}: only a retry helps here");
    let after = alone.ask("cibadmin", &["-Q", "-l", "-o", "nodes"])?;
    ensure!(before == after, "a partition without quorum was written to: {before} {after}");
    bed.heal()?;
    settled(bed).map(drop)
}

/// The README's nftables line, under a policy that drops.
fn drop_policy(bed: &Bed) -> Result<()> {
    let node = with_gate(bed)?;
    let client = bed.host(CLIENTS[0])?;
    let nodes = NODES.map(address).join(", ");
    node.sh(&format!(
        "nft add table inet filter
         nft 'add chain inet filter input {{ type filter hook input priority 0; policy drop; }}'
         nft add rule inet filter input iif lo accept
         nft add rule inet filter input meta l4proto '{{ icmp, icmpv6 }}' accept
         nft add rule inet filter input ip saddr '{{ {nodes} }}' accept"
    ))?;
    let tried = || -> Result<()> {
        let connects = |port: u16| role_behind(&client, &node.address(), port);
        // Without the line the redirected packets are dropped, and the client hears nothing.
        ensure!(connects(6381).is_err(), "the policy does not drop: {:?}", connects(6381));
        node.sh("nft add rule inet filter input tcp dport 6379 ct status dnat accept")?;
        ensure!(connects(6381)?.as_deref() == Some("master"), "6381: {:?}", connects(6381));
        ensure!(connects(6380)?.as_deref() == Some("master"), "6380: {:?}", connects(6380));
        ensure!(connects(6379).is_err(), "6379 is open to a client: {:?}", connects(6379));
        Ok(())
    };
    let tried = tried();
    node.sh("nft delete table inet filter")?;
    tried?;
    settled(bed).map(drop)
}
