//! `rolegate` on a real cluster: what it says of it, and that what it says is so.

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::moves::{closings, recorded};
use super::variants::keeper_log;
use crate::OnBed;
use crate::bed::watch::Watch;
use crate::bed::{Bed, Host, NODES, address, gates, wait_for};

pub const TRIALS: &[(&str, OnBed)] = &[
    ("init_makes_a_bare_gate_work_and_a_second_run_changes_nothing", init),
    ("status_says_what_is_wrong_and_by_its_exit_code_how_bad_it_is", status),
    ("status_says_who_is_banned_when_and_why_the_primary_moved_and_what_remains_of_the_lease", says_more),
    ("status_answers_a_healthy_cluster_at_once", at_once),
    ("status_answers_within_two_seconds_with_two_hosts_frozen", frozen),
    ("status_waits_for_a_pacemaker_that_takes_its_time_and_not_for_one_that_stands_still", slow_pacemaker),
    ("fencing_the_primary_closes_it_before_the_command_returns", fence),
    ("a_fence_closes_the_primary_soon_after_it_is_asked_for_and_before_another_opens", fence_closes),
    ("a_fence_holds_against_hook_and_failover_until_unfenced", fence_holds),
    ("a_fence_closes_both_ports_where_pacemaker_does_nothing", fence_in_maintenance),
    ("a_gate_with_the_ports_of_another_is_refused_and_harms_nothing", newcomer),
    ("without_quorum_nothing_is_written", minority),
    ("sentinels_that_name_a_loopback_a_host_name_or_a_vip_open_no_gate", names_nobody),
];

/// Succeeds where the cluster has a gate.
const HAS_GATE: &str = "cibadmin -Q --xpath \"//primitive[@id='RedisGate']\" >/dev/null 2>&1";

const LONG: Duration = Duration::from_secs(60);

/// What keeps the CIB, and answers Pacemaker's programs.
const BASED: &str = "pacemaker-based";

/// What `rolegate` said: stdout, then stderr.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) code: i32,
    pub(super) text: String,
}

/// Runs `rolegate` on a host.
pub(super) fn rolegate(on: &Host<'_>, args: &[&str]) -> Result<Said> {
    let output = on.cmd("rolegate")?.args(args.iter().copied()).deadline(LONG).run_expecting(&[0, 1, 2, 3])?;
    Ok(Said { code: output.code, text: output.text() + &output.stderr })
}

/// `rolegate status --json` on a host, once its exit code is `code` and its text holds `said`.
pub(super) fn wait_status(on: &Host<'_>, code: i32, said: &str) -> Result<Value> {
    wait_status_for(LONG, on, code, said)
}

fn wait_status_for(time: Duration, on: &Host<'_>, code: i32, said: &str) -> Result<Value> {
    wait_for(&format!("status {code} with {said:?} on {}", on.name()), time, || {
        let output = rolegate(on, &["status", "--json"])?;
        let text = output.text;
        ensure!(output.code == code && text.contains(said), "code {}:\n{text}", output.code);
        serde_json::from_str(&text).context("--json is JSON")
    })
}

/// A cluster with a gate that is well; the name of the primary and of another node.
pub(super) fn healthy(bed: &Bed) -> Result<(&'static str, &'static str)> {
    let node = bed.host(NODES[0])?;
    if node.sh(HAS_GATE).is_err() {
        gates::configure(bed)?;
    }
    // What an earlier trial has left behind.
    for name in NODES {
        bed.host(name)?
            .sh_within(LONG, "test ! -e /var/lib/rolegate/fence || rolegate unfence --local || test $? = 1")?;
        node.cmd("rolegate")?.args(["unfence", name]).deadline(LONG).run_expecting(&[0, 1])?;
    }
    wait_status(&node, 0, "\"code\": 0")?;
    let primary = bed.primary()?.name();
    let primary = NODES.into_iter().find(|name| *name == primary).context("the primary is a node")?;
    let other = NODES.into_iter().find(|name| *name != primary).context("three nodes")?;
    Ok((primary, other))
}

/// The CIB's configuration as text, without what changes by itself.
fn configuration(on: &Host<'_>) -> Result<String> {
    on.ask("cibadmin", &["-Q", "-o", "configuration"])
}

/// The cluster without its gate.
pub(super) fn forget(on: &Host<'_>) -> Result<()> {
    on.sh_within(
        LONG,
        &format!(
            "{HAS_GATE} && pcs resource delete RedisGate; \
         for n in node1 node2 node3; do crm_attribute -N $n -n redis_role -D; done; true"
        ),
    )
    .map(drop)
}

fn init(bed: &Bed) -> Result<()> {
    let node = bed.host("node2")?;
    forget(&node)?;
    let none = rolegate(&node, &["init"])?;
    ensure!(none.code == 2 && none.text.contains("pcs resource create"), "{none:?}");
    node.sh_within(LONG, "pcs resource create RedisGate ocf:rolegate:gate promotable promoted-max=1")?;
    wait_status(&node, 2, "rolegate init")?;
    // Each keeper says that it stands on nothing: one after the other, and into the configuration.
    wait_for("each keeper to say so", LONG, || {
        let said = rolegate(&node, &["status", "--json"])?.text;
        ensure!(said.matches("\"record\": \"none\"").count() == NODES.len(), "{said}");
        Ok(())
    })?;

    let before = configuration(&node)?;
    let dry = rolegate(&node, &["init", "--dry-run"])?;
    ensure!(dry.code == 0 && dry.text.contains("To be written"), "{dry:?}");
    let after = configuration(&node)?;
    let is_new = |line: &&str| !before.lines().any(|other| other == *line);
    ensure!(
        after == before,
        "--dry-run must write nothing; new: {:#?}",
        after.lines().filter(is_new).collect::<Vec<_>>()
    );

    let primary = bed.primary()?.name().to_owned();
    let done = rolegate(&node, &["init"])?;
    ensure!(done.code == 0 && done.text.contains(&format!("Done: {primary} takes writes")), "{done:?}");
    recorded(&node, None, "init", "the record of RedisGate was written")?;
    ensure!(gates::open_gates(bed)? == [primary.as_str()], "open on {:?}", gates::open_gates(bed)?);
    wait_status(&node, 0, "\"code\": 0")?;

    let written = configuration(&node)?;
    let again = rolegate(&bed.host("node3")?, &["init"])?;
    ensure!(again.code == 0 && again.text.contains("Nothing to do"), "{again:?}");
    ensure!(configuration(&node)? == written, "a second run must write nothing");
    let other = rolegate(&node, &["init", "--node", "node1=10.99.0.1:6379"])?;
    ensure!(other.code == 2, "another record must be refused without --replace: {other:?}");
    ensure!(configuration(&node)? == written);
    Ok(())
}

fn status(bed: &Bed) -> Result<()> {
    let (primary, other) = healthy(bed)?;
    let third = NODES.into_iter().find(|name| *name != primary && *name != other).context("three nodes")?;
    let (writer, replica, last) = (bed.host(primary)?, bed.host(other)?, bed.host(third)?);
    let report = wait_status(&replica, 0, "\"code\": 0")?;
    let group = &report["masters"][0];
    ensure!(group["writers"] == serde_json::json!([primary]), "{group:#}");
    // Without a word it says the same, and without colours where no terminal is.
    let bare = rolegate(&replica, &[])?;
    let is_status = bare.text.starts_with(&format!("mymaster: HEALTHY: {primary} takes writes"));
    ensure!(bare.code == 0 && is_status && !bare.text.contains('\x1b'), "{bare:?}");

    let (server, sentinel) = (bed.server().unit(), bed.server().sentinel());
    replica.ask("systemctl", &["stop", server])?;
    wait_status(&writer, 1, &format!("Redis on {other}: connection refused"))?;
    replica.ask("systemctl", &["start", server])?;
    wait_status(&writer, 0, "\"code\": 0")?;

    replica.ask("systemctl", &["stop", sentinel])?;
    wait_status(&writer, 1, "26379: connection refused")?;
    last.ask("systemctl", &["stop", sentinel])?;
    wait_status(&writer, 3, "1 of 3 Sentinels answer here and 2 are needed")?;
    replica.ask("systemctl", &["start", sentinel])?;
    last.ask("systemctl", &["start", sentinel])?;
    wait_status(&writer, 0, "\"code\": 0")?;

    // A port that is open where Sentinels name another node.
    let wrong = format!("6381 is open on {other}, though Sentinels name {primary}");
    wait_for("status to see it before the keeper closes it", LONG, || {
        replica.ask("rolegate-port", &["open", "rw", "--for", "30s"])?;
        let said = rolegate(&writer, &["status"])?;
        ensure!(said.code == 2 && said.text.contains(&wrong), "{said:?}");
        Ok(())
    })?;
    replica.ask("rolegate-port", &["close", "all"])?;
    wait_status(&writer, 0, "\"code\": 0")?;
    Ok(())
}

fn says_more(bed: &Bed) -> Result<()> {
    let (primary, other) = healthy(bed)?;
    let node = bed.host(primary)?;
    // One that ends by itself is a rule with a date.
    node.sh(&format!("crm_resource --ban -r RedisGate-clone -N {other} --lifetime PT10M"))?;
    let banned = wait_status(&node, 1, &format!("keeps the gate off {other}, or from being promoted there until 20"));
    node.sh(&format!("crm_resource --clear -r RedisGate-clone -N {other}"))?;
    banned?;
    node.ask("crm_attribute", &["-n", "no-quorum-policy", "-v", "freeze"])?;
    let noted = wait_status(&node, 1, "no-quorum-policy is freeze").and_then(|_| rolegate(&node, &["init"]));
    node.ask("crm_attribute", &["-n", "no-quorum-policy", "-D"])?;
    // What runs goes on: it is the next failover that comes to nothing.
    node.ask("crm_attribute", &["-n", "stonith-enabled", "-v", "true"])?;
    let without_device = wait_status(&node, 2, "there is no fencing device");
    node.ask("crm_attribute", &["-n", "stonith-enabled", "-v", "false"])?;
    without_device?;
    let noted = noted?;
    ensure!(noted.code == 1 && noted.text.contains("note: no-quorum-policy is freeze"), "{noted:?}");
    wait_status(&node, 0, "\"code\": 0")?;

    node.redis(26379, &["SENTINEL", "FAILOVER", "mymaster"])?;
    wait_for("the primary to move", LONG, || {
        let now = bed.primary()?.name().to_owned();
        ensure!(now != primary, "it is {now}");
        Ok(())
    })?;
    // Where its designated controller moves just then, Pacemaker 2.1.5 waits 80 s for an answer that it has lost.
    wait_status_for(3 * LONG, &node, 0, "\"code\": 0")?;
    let writer = bed.primary()?.name().to_owned();
    let mut best = u64::MAX;
    for looks in NODES {
        let report = wait_status(&bed.host(looks)?, 0, "\"code\": 0")?;
        let group = &report["masters"][0];
        let last = &group["last_failover"];
        let said = [&last["cause"], &last["from"], &last["to"]].map(|field| field.as_str().unwrap_or_default());
        ensure!(said == ["requested", primary, writer.as_str()], "{looks}: {last:#}");
        let ago = last["seconds_ago"].as_u64().context("seconds_ago")?;
        ensure!(last["or_earlier"] == false && ago < 240, "{looks}: {last:#}");
        let named_for = group["verdict"]["points_for_seconds"].as_u64().context("points_for_seconds")?;
        ensure!(
            named_for <= ago + 2,
            "{looks}: Sentinels have named it for {named_for} s, the failover was {ago} s ago"
        );
        // What remains only its own kernel knows.
        let nodes = group["nodes"].as_array().context("nodes")?;
        let marked = |name: &str| nodes.iter().find(|node| node["name"] == name).map(|node| &node["lease_at_most_ms"]);
        ensure!(marked(&writer).is_some_and(|most| *most == 2000), "{looks}: {nodes:#?}");
        ensure!(marked(primary).is_some_and(Value::is_null), "{looks}: {nodes:#?}");
        let remains = group["firewall"]["rw_open_ms"].as_u64();
        ensure!(remains.is_some() == (looks == writer) && remains.unwrap_or(0) <= 2000, "{looks}: {group:#}");
        for _ in 0..5 {
            let report: Value = serde_json::from_str(&rolegate(&bed.host(looks)?, &["status", "--json"])?.text)?;
            best = best.min(report["took_ms"].as_u64().context("took_ms")?);
        }
    }
    // The others share this machine: the best says what it takes.
    bed.say(&format!("status took {best} ms at best"));
    ensure!(best < 300, "status took {best} ms at best");

    let file = "/run/rolegate.prom";
    let said = rolegate(&node, &["metrics", "--out", file])?;
    let text = node.ask("cat", &[file])?;
    let wanted =
        ["rolegate_status 0".to_owned(), format!("rolegate_takes_writes{{master=\"mymaster\",node=\"{writer}\"}} 1")];
    ensure!(said.code == 0 && wanted.iter().all(|line| text.lines().any(|there| there == line)), "{said:?}: {text}");
    Ok(())
}

/// How long `rolegate status` takes on a host, from its start to its end, so many times; ascending. All but a few must end with that code: on a
/// busy machine Pacemaker's programs can take longer than status waits for them.
fn looks(on: &Host<'_>, times: usize, code: i32, says: &str) -> Result<Vec<Duration>> {
    let (mut took, mut cut_short) = (Vec::new(), 0);
    while took.len() < times {
        let started = Instant::now();
        let said = rolegate(on, &["status"])?;
        let time = started.elapsed();
        if said.code == code && said.text.contains(says) {
            took.push(time);
            continue;
        }
        cut_short += 1;
        ensure!(said.text.contains("did not end within") && cut_short < times, "{said:?}");
    }
    took.sort();
    let [first, .., last] = took[..] else { bail!("{times} are too few") };
    let [first, median, last] = [first, took[times / 2], last].map(|time| time.as_millis());
    on.bed().say(&format!(
        "status took {median} ms (median of {times}; {first} to {last}); Pacemaker was too slow {cut_short} times"
    ));
    Ok(took)
}

fn at_once(bed: &Bed) -> Result<()> {
    let (_, other) = healthy(bed)?;
    let took = looks(&bed.host(other)?, 20, 0, "HEALTHY")?;
    // 300 ms are meant. Other programs on this machine slow each look down, and none makes one quicker.
    ensure!(took[0] < Duration::from_millis(300), "the quickest took {:?}", took[0]);
    ensure!(took[10] < Duration::from_secs(1), "the median is {:?}", took[10]);
    Ok(())
}

fn frozen(bed: &Bed) -> Result<()> {
    let (primary, other) = healthy(bed)?;
    let third = NODES.into_iter().find(|name| *name != primary && *name != other).context("three nodes")?;
    let node = bed.host(other)?;
    bed.host(third)?.freeze()?;
    bed.host(primary)?.freeze()?;
    // At once, and when the cluster has noticed.
    for pause in [0, 10] {
        thread::sleep(Duration::from_secs(pause));
        let (mut unknown, mut cut_short) = (0, 0);
        while unknown < 5 {
            let started = Instant::now();
            let said = rolegate(&node, &["status", "--json"])?;
            let wall = started.elapsed();
            let report: Value = serde_json::from_str(&said.text).with_context(|| format!("{said:?}"))?;
            let took = report["took_ms"].as_u64().context("took_ms")?;
            bed.say(&format!("status took {took} ms, from its start to its end {} ms", wall.as_millis()));
            // On a busy machine Pacemaker's programs can take longer than status waits for them: no longer, either.
            if said.code == 3 && said.text.contains("1 of 3 Sentinels answer here") {
                unknown += 1;
            } else {
                cut_short += 1;
                ensure!(said.text.contains("did not end within") && cut_short < 5, "{said:?}");
            }
            ensure!(took < 2000, "status took {took} ms: {said:?}");
            // Its start, and this trial's own part.
            ensure!(wall < Duration::from_secs(3), "from its start to its end status took {wall:?}");
        }
    }
    bed.host(primary)?.thaw()?;
    bed.host(third)?.thaw()?;
    wait_status(&node, 0, "\"code\": 0").map(drop)
}

fn slow_pacemaker(bed: &Bed) -> Result<()> {
    let (_, other) = healthy(bed)?;
    let node = bed.host(other)?;
    // For how long, and what status comes to.
    for (stands, code, says) in [(1100, 0, "HEALTHY"), (4000, 1, "did not end within")] {
        let mut took = Vec::new();
        // The first of them is the machine's, where it is busy.
        for _ in 0..3 {
            node.signal(BASED, Signal::SIGSTOP)?;
            let started = Instant::now();
            let said = thread::scope(|scope| {
                let goes_on = scope.spawn(|| {
                    thread::sleep(Duration::from_millis(stands));
                    node.signal(BASED, Signal::SIGCONT).map(drop)
                });
                let said = rolegate(&node, &["status"]).map(|said| (said, started.elapsed()));
                goes_on.join().map_err(|_| anyhow!("a thread has panicked"))??;
                said
            });
            let (said, time) = said?;
            if said.code == code && said.text.contains(says) {
                took.push(time);
            }
            wait_status(&node, 0, "\"code\": 0")?;
        }
        bed.say(&format!("Pacemaker stood still for {stands} ms, and status took {took:?}"));
        let quickest = took.iter().min().with_context(|| format!("none said {says:?}"))?;
        ensure!(*quickest < Duration::from_secs(2), "{took:?}");
    }
    Ok(())
}

fn fence(bed: &Bed) -> Result<()> {
    let (primary, other) = healthy(bed)?;
    let third = NODES.into_iter().find(|name| *name != primary && *name != other).context("three nodes")?;
    let node = bed.host(other)?;
    let closed = |name: &str| {
        let state = bed.host(name)?.ask("rolegate-port", &["state", "--json"])?;
        let state: Value = serde_json::from_str(&state)?;
        ensure!(state["ro"]["open"] == false && state["rw"]["open"] == false, "{name}: {state}");
        Ok(())
    };
    let said = rolegate(&node, &["fence", primary, "--reason", "a \"trial\""])?;
    closed(primary)?;
    // Its keeper has handed over.
    let open = gates::open_gates(bed)?;
    let [writer] = open.as_slice() else { bail!("6381 is open on {open:?}: {said:?}") };
    ensure!(said.code == 0 && said.text.contains(&format!("mymaster: {writer} takes writes")), "{said:?}");
    recorded(&node, Some(primary), "a \"trial\"", &format!("{primary} is fenced: ports closed by operator"))?;
    wait_status(&node, 1, "ports closed by operator")?;

    // The others may not be chosen: nobody can take over.
    let (writer, last) = if *writer == other { (other, third) } else { (third, other) };
    bed.host(last)?.redis(6379, &["CONFIG", "SET", "replica-priority", "0"])?;
    let said = rolegate(&bed.host(last)?, &["fence", writer])?;
    // What stands now must have stood when it returned.
    let open = gates::open_gates(bed)?;
    ensure!(open.is_empty(), "fence returned, and 6381 is open on {open:?}");
    closed(writer)?;
    ensure!(said.code == 1, "nobody takes writes: {said:?}");
    let text = &said.text;
    ensure!(text.contains("nobody takes writes now") && text.contains("SENTINEL FAILOVER mymaster"), "{text}");
    let report = wait_status(&node, 2, &format!("nobody takes writes: Sentinels name {writer} since "))?.to_string();
    ensure!(report.contains(", and it is fenced: ports closed by operator"), "{report}");

    let again = rolegate(&bed.host(last)?, &["fence", writer])?;
    ensure!(again.code == 1 && again.text.contains("is fenced already"), "{again:?}");

    let lifted = rolegate(&node, &["unfence", writer])?;
    ensure!(lifted.code == 0 && lifted.text.contains(&format!("{writer} takes writes")), "{lifted:?}");
    ensure!(gates::open_gates(bed)? == [writer]);
    recorded(&node, Some(writer), "unfence", "is no longer fenced")?;
    let again = rolegate(&node, &["unfence", writer])?;
    ensure!(again.code == 0 && again.text.contains("was not fenced"), "{again:?}");
    rolegate(&node, &["unfence", primary])?;
    bed.host(last)?.redis(6379, &["CONFIG", "SET", "replica-priority", "100"])?;
    wait_status(&node, 0, "\"code\": 0").map(drop)
}

/// From the command to the closed port, as a firewall's reader outside the nodes sees it.
fn fence_closes(bed: &Bed) -> Result<()> {
    // The keeper sees the fence first, or that Pacemaker, or the command itself, has closed.
    let by_fence = &["an operator has fenced this node", "it was closed from outside"][..];
    // For how long it may be open yet: far more than any of the three needs, for this machine is busy. A lease that runs out could be as soon: so the
    // keeper is to say why it was closed.
    for (args, is_local, most, reasons) in [
        (&["fence", "--no-switchover"][..], false, Duration::from_secs(3), by_fence),
        (&["fence", "--local"], true, Duration::from_secs(3), by_fence),
        (&["fence"], false, Duration::from_secs(20), &["a switchover has stopped writes"]),
    ] {
        let (primary, other) = healthy(bed)?;
        bed.replicas_known()?;
        let (on, args) = if is_local { (primary, args.to_vec()) } else { (other, [args, &[primary]].concat()) };
        let node = bed.host(on)?;
        let watch = Watch::start(bed);
        thread::sleep(Duration::from_millis(300));
        let (begun, since) = (Instant::now(), SystemTime::now());
        let said = rolegate(&node, &args)?;
        let returned = Instant::now();
        wait_for("another node's 6381 to open", LONG, || {
            let open = gates::open_gates(bed)?;
            ensure!(open.iter().any(|name| *name != primary), "open on {open:?}");
            Ok(())
        })?;
        thread::sleep(Duration::from_millis(300));
        let seen = watch.stop()?;
        let what = format!("{} on {on}", args.join(" "));
        let closed =
            seen.closed(primary, begun).with_context(|| format!("{what}: 6381 of {primary} is open: {said:?}"))?;
        let took = closed - begun;
        let opened =
            NODES.into_iter().filter(|name| *name != primary).filter_map(|name| seen.opened(name, begun)).min();
        let opened = opened.context("no other 6381 was seen open")?;
        bed.say(&format!(
            "{what}: 6381 of {primary} closed after {} ms, the command took {} ms, another opened after {} ms",
            took.as_millis(),
            (returned - begun).as_millis(),
            (opened - begun).as_millis()
        ));
        ensure!(took < most, "{what}: 6381 of {primary} closed after {took:?}, {most:?} at most");
        ensure!(closed < returned, "{what} returned before 6381 of {primary} was closed: {said:?}");
        ensure!(closed < opened && seen.two_open().is_zero(), "{what}: another opened before: {:?}", seen.two_open());
        let why = closings(&bed.host(primary)?, since)?;
        bed.say(&format!("{primary} closed: {}", why.join("; ")));
        let is_right = why.len() == 1 && reasons.contains(&why[0].as_str());
        ensure!(is_right, "{what}: {primary} closed for {why:?}, not for {reasons:?}");
        let again = seen.opened(primary, closed + Duration::from_millis(1));
        ensure!(again.is_none(), "{what}: 6381 of {primary} opened again");
    }
    healthy(bed).map(drop)
}

fn fence_in_maintenance(bed: &Bed) -> Result<()> {
    let (primary, other) = healthy(bed)?;
    let node = bed.host(other)?;
    let maintenance = |on: &str| node.ask("crm_attribute", &["-n", "maintenance-mode", "-v", on]).map(drop);
    maintenance("true")?;
    let tried = || -> Result<()> {
        rolegate(&node, &["fence", primary])?;
        let state: Value = serde_json::from_str(&bed.host(primary)?.ask("rolegate-port", &["state", "--json"])?)?;
        ensure!(state["ro"]["open"] == false && state["rw"]["open"] == false, "{primary}: {state}");
        // A keeper that has just started knows as much.
        let fenced = bed.host(primary)?;
        fenced.sh("systemctl restart rolegate-keeper")?;
        let until = Instant::now() + Duration::from_secs(4);
        while Instant::now() < until {
            let state: Value = serde_json::from_str(&fenced.ask("rolegate-port", &["state", "--json"])?)?;
            ensure!(state["ro"]["open"] == false && state["rw"]["open"] == false, "{primary}: {state}");
        }
        let lifted = rolegate(&node, &["unfence", primary])?;
        ensure!(lifted.text.contains(&format!("{primary} takes writes at")), "{lifted:?}");
        ensure!(gates::open_gates(bed)? == [primary]);
        Ok(())
    };
    let tried = tried();
    maintenance("false")?;
    tried?;
    wait_status(&node, 0, "\"code\": 0").map(drop)
}

/// The priority of the replica at `ip` in what SENTINEL REPLICAS says: names and values, a line each.
fn priority<'k>(known: &'k str, ip: &str) -> Option<&'k str> {
    let lines: Vec<&str> = known.lines().collect();
    let pairs = || lines.chunks_exact(2);
    let at = pairs().position(|pair| pair == ["ip", ip])?;
    pairs().skip(at).find(|pair| pair[0] == "slave-priority").map(|pair| pair[1])
}

fn fence_holds(bed: &Bed) -> Result<()> {
    let (primary, other) = healthy(bed)?;
    let third = NODES.into_iter().find(|name| *name != primary && *name != other).context("three nodes")?;
    let (node, fenced) = (bed.host(primary)?, bed.host(other)?);
    // The others may not be chosen, so that the failover goes to the fenced node, and nobody can take over from it.
    let last = bed.host(third)?;
    last.redis(6379, &["CONFIG", "SET", "replica-priority", "0"])?;
    node.redis(6379, &["CONFIG", "SET", "replica-priority", "0"])?;
    // Its keeper would see to it that it is not chosen, either.
    fenced.sh("systemctl stop rolegate-keeper")?;
    wait_for("Sentinels to know who may be chosen", LONG, || {
        for name in NODES {
            let known = bed.host(name)?.redis(26379, &["SENTINEL", "REPLICAS", "mymaster"])?;
            ensure!(priority(&known, &address(third)) == Some("0"), "{name}: {known}");
            ensure!(priority(&known, &address(other)) == Some("100"), "{name}: {known}");
        }
        Ok(())
    })?;
    let said = rolegate(&fenced, &["fence", other])?;
    ensure!(said.code == 0 && said.text.contains(&format!("{primary} takes writes")), "{said:?}");
    node.redis(26379, &["SENTINEL", "FAILOVER", "mymaster"])?;
    fenced.sh("systemctl start rolegate-keeper")?;
    let report = wait_status(&node, 2, &format!("nobody takes writes: Sentinels name {other} since "))?.to_string();
    ensure!(report.contains(", and it is fenced"), "{report}");
    // A hook that has looked before the fence writes primary after it: the location rule holds.
    let until = Instant::now() + Duration::from_secs(8);
    while Instant::now() < until {
        node.ask("crm_attribute", &["-N", other, "-n", "redis_role", "-v", "primary"])?;
        let open = gates::open_gates(bed)?;
        ensure!(!open.contains(&other), "6381 is open on {open:?}, {other} is fenced");
        thread::sleep(Duration::from_millis(250));
    }
    let lifted = rolegate(&node, &["unfence", other])?;
    ensure!(lifted.code == 0 && gates::open_gates(bed)? == [other], "{lifted:?}");
    last.redis(6379, &["CONFIG", "SET", "replica-priority", "100"])?;
    node.redis(6379, &["CONFIG", "SET", "replica-priority", "100"])?;
    wait_status(&node, 0, "\"code\": 0").map(drop)
}

/// What an operator does who follows the README for a second master name, and forgets its ports.
fn newcomer(bed: &Bed) -> Result<()> {
    let (_, other) = healthy(bed)?;
    let node = bed.host(other)?;
    let since = SystemTime::now();
    let roles = || NODES.map(|name| bed.host(name).and_then(|node| gates::role(&node)).unwrap_or_default());
    let before = roles();
    let used = "used by RedisGate (master name mymaster) already";
    // Through some monitors of both gates.
    let untouched = || -> Result<()> {
        let until = Instant::now() + Duration::from_secs(12);
        while Instant::now() < until {
            for node in bed.nodes() {
                let state: Value = serde_json::from_str(&node.ask("rolegate-port", &["state", "--json"])?)?;
                ensure!(state["baseline"] == "intact", "{}: {state}", node.name());
            }
        }
        Ok(())
    };
    node.sh_within(
        LONG,
        "pcs resource create OtherGate ocf:rolegate:gate master=other attribute=redis_role-other redis_port=7379 \
         promotable promoted-max=1",
    )?;
    let tried = || -> Result<()> {
        wait_status(&node, 2, &format!("gate OtherGate: ro_port=6380, rw_port=6381: {used}"))?;
        wait_for("crm_mon to say why it does not start", LONG, || {
            let said = node.ask("crm_mon", &["-1", "-rf"])?;
            ensure!(said.contains("'not configured' (ro_port=6380, rw_port=6381: used by RedisGate"), "{said}");
            Ok(())
        })?;
        let refused = rolegate(&node, &["init", "--master", "other"])?;
        ensure!(refused.code == 2 && refused.text.contains(used), "{refused:?}");
        untouched()?;
        // With the other's attribute, too.
        node.sh_within(LONG, "pcs resource update OtherGate attribute= ro_port=7380 rw_port=7381")?;
        let refused = rolegate(&node, &["init", "--master", "other"])?;
        ensure!(refused.code == 2 && refused.text.contains("attribute=redis_role: used by RedisGate"), "{refused:?}");
        untouched()?;
        wait_status(&node, 2, "attribute=redis_role: used by RedisGate").map(drop)
    };
    let tried = tried();
    node.sh_within(LONG, "pcs resource delete OtherGate")?;
    tried?;
    wait_status(&node, 0, "\"code\": 0")?;
    ensure!(roles() == before, "roles were {before:?} and are {:?}", roles());
    // A lease may run out on a busy machine; but nobody takes it away.
    for node in bed.nodes() {
        let log = keeper_log(&node, since)?;
        ensure!(!log.contains("closed from outside") && !log.contains("without a lease"), "{}: {log}", node.name());
    }
    Ok(())
}

fn minority(bed: &Bed) -> Result<()> {
    let (_, other) = healthy(bed)?;
    let node = bed.host(other)?;
    let before = configuration(&node)?;
    bed.isolate(&[other])?;
    wait_status(&node, 3, "has no quorum")?;
    for args in [&["fence", "node1"][..], &["unfence", "node1"]] {
        let said = rolegate(&node, args)?;
        ensure!(said.code == 2 && said.text.contains("no quorum"), "{args:?}: {said:?}");
    }
    ensure!(rolegate(&node, &["init"])?.code >= 2);
    ensure!(configuration(&node)? == before, "the minority must write nothing");
    bed.heal()?;
    wait_status(&node, 0, "\"code\": 0").map(drop)
}

fn names_nobody(bed: &Bed) -> Result<()> {
    let (_, other) = healthy(bed)?;
    let node = bed.host(other)?;
    let (sentinel, config) = (bed.server().sentinel(), bed.server().sentinel_config());
    node.sh_within(LONG, "pcs resource create Address ocf:heartbeat:IPaddr2 ip=10.77.0.200 --disabled")?;
    let by_name = "sentinel resolve-hostnames yes\\nsentinel announce-hostnames yes\\n";
    for (monitored, with, says) in [
        // What an operator does who follows a guide for one machine: each Sentinel watches its own host.
        ("127.0.0.1", "", "127.0.0.1:6379, a loopback address"),
        ("node1", by_name, "node1:6379, a host name"),
        ("10.77.0.200", "", "10.77.0.200:6379, an address that moves with the cluster resource Address"),
    ] {
        // All at once: who watches 127.0.0.1 says that it is there itself, and one that watches the cluster would believe it.
        let all = |line: &str| bed.nodes().try_for_each(|node| node.sh(line).map(drop));
        all(&format!("systemctl stop {sentinel}"))?;
        all(&format!(
            "cp -p {config} {config}.kept &&
             sed -i -e '/^sentinel [a-z]*-hostnames/Id' -e 's/^sentinel monitor mymaster .*/{with}sentinel monitor mymaster {monitored} 6379 2/' \
                 -e '/^sentinel known-/d' {config} && systemctl start {sentinel}"
        ))?;
        wait_status(&node, 2, &format!("nobody can take writes: Sentinels name {says}"))?;
        wait_for("every gate to close", LONG, || {
            let open = gates::open_gates(bed)?;
            ensure!(open.is_empty(), "Sentinels name {monitored}: open on {open:?}");
            Ok(())
        })?;
        let refused = rolegate(&node, &["init", "--replace"])?;
        let why = says.split_once(", ").map_or(says, |(_, why)| why);
        ensure!(refused.code == 2 && refused.text.contains(why), "{refused:?}");
        all(&format!("systemctl stop {sentinel}"))?;
        all(&format!("mv {config}.kept {config} && systemctl start {sentinel}"))?;
        wait_status(&node, 0, "\"code\": 0")?;
    }
    node.sh_within(LONG, "pcs resource delete Address").map(drop)
}
