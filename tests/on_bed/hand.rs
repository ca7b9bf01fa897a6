//! What an operator does by hand when the cluster cannot help: a node fenced by itself, and the glass broken.

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::cli::{healthy, rolegate, wait_status};
use super::moves::recorded;
use super::variants::keeper_log;
use crate::OnBed;
use crate::bed::{Bed, Host, NODES, gates, wait_for};

pub const TRIALS: &[(&str, OnBed)] = &[
    ("a_node_fenced_by_itself_stays_closed_without_a_cluster_and_after_a_reboot", fenced_by_itself),
    ("a_port_forced_open_is_marked_and_shown_and_gives_way_to_the_sentinels", gives_way),
    ("a_port_forced_open_while_the_others_are_dead_ends_by_itself", ends_by_itself),
];

const LONG: Duration = Duration::from_secs(60);

/// What the firewall of a node holds.
fn state(on: &Host<'_>) -> Result<Value> {
    Ok(serde_json::from_str(&on.ask("rolegate-port", &["state", "--json"])?)?)
}

/// The gate is on the firewall that the bed has asked for.
fn on_its_firewall(on: &Host<'_>) -> Result<()> {
    let (state, wanted) = (state(on)?, if on.bed().options().iptables { "iptables-nft" } else { "nft" });
    ensure!(state["backend"] == wanted, "{}: not on {wanted}: {state}", on.name());
    Ok(())
}

/// Both ports are closed for that long.
fn stays_closed(on: &Host<'_>, time: Duration) -> Result<()> {
    let until = Instant::now() + time;
    while Instant::now() < until {
        let state = state(on)?;
        ensure!(state["ro"]["open"] == false && state["rw"]["open"] == false, "{}: {state}", on.name());
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn others(of: &str) -> [&'static str; 2] {
    let mut all = NODES.into_iter().filter(|name| *name != of);
    [all.next().unwrap_or_default(), all.next().unwrap_or_default()]
}

/// It asks nobody: no corosync, Pacemaker, Sentinel or Redis runs on the node, it reaches no other, and its settings cannot be read.
fn by_itself_alone(bed: &Bed, node: &Host<'_>) -> Result<()> {
    let server = bed.server();
    let (units, settings) = ([server.unit(), server.sentinel()].join(" "), "/etc/rolegate/rolegate.toml");
    bed.isolate(&[node.name()])?;
    let said = node.sh_within(
        LONG,
        &format!(
            "set +e
             systemctl stop pacemaker corosync {units}
             mkdir -p /etc/rolegate
             if test -e {settings}; then mv {settings} /tmp/settings; fi
             echo '= [' > {settings}
             rolegate status > /dev/null 2>&1; echo status $?
             rolegate fence --local; echo fence $?
             rolegate-port state --json | grep '\"open\": *true' || :
             rolegate fence --local
             rolegate unfence --local 2>&1; echo unfence $?
             rm {settings}; if test -e /tmp/settings; then mv /tmp/settings {settings}; fi
             systemctl start corosync pacemaker {units}"
        ),
    );
    bed.heal()?;
    let text = said?.text();
    let says = ["status 3", "fence 0", "is fenced already", "is no longer fenced by itself", "unfence 1"];
    ensure!(says.iter().all(|part| text.contains(part)) && !text.contains("\"open\""), "{text}");
    wait_for("the node to be well again", LONG * 2, || healthy(bed).map(drop))
}

fn fenced_by_itself(bed: &Bed) -> Result<()> {
    let (primary, name) = healthy(bed)?;
    let (writer, node) = (bed.host(primary)?, bed.host(name)?);
    let sentinel = bed.server().sentinel();
    let maintenance = |on: &str| writer.ask("crm_attribute", &["-n", "maintenance-mode", "-v", on]).map(drop);
    by_itself_alone(bed, &node)?;
    maintenance("true")?;
    // Now nobody but its keeper opens anything there.
    node.sh_within(LONG, "systemctl stop pacemaker")?;
    let stopped = bed.nodes().try_for_each(|node| node.ask("systemctl", &["stop", sentinel]).map(drop));
    let closed = stopped.and_then(|()| {
        ensure!(state(&node)?["ro"]["open"] == true, "6380 is closed before: {}", state(&node)?);
        let began = Instant::now();
        let said = rolegate(&node, &["fence", "--local", "--reason", "a trial"])?;
        bed.say(&format!("fence --local took {} ms", began.elapsed().as_millis()));
        let state = state(&node)?;
        ensure!(state["ro"]["open"] == false && state["rw"]["open"] == false, "{state}");
        ensure!(said.code == 0 && said.text.contains("rolegate unfence --local"), "{said:?}");
        recorded(&node, Some(name), "a trial", "this node is fenced by itself")?;
        node.sh("systemctl restart rolegate-keeper")?;
        stays_closed(&node, Duration::from_secs(3))?;
        let again = rolegate(&node, &["fence", "--local"])?;
        ensure!(again.code == 0 && again.text.contains("is fenced already: ports closed by operator"), "{again:?}");
        let said = rolegate(&node, &["status"])?;
        ensure!(said.text.contains(&format!("{name} is fenced: ports closed by operator")), "{said:?}");
        ensure!(said.text.contains(&format!("on {name}: rolegate unfence --local")), "{said:?}");
        Ok(())
    });
    bed.nodes().try_for_each(|node| node.ask("systemctl", &["start", sentinel]).map(drop))?;
    maintenance("false")?;
    closed?;
    node.power_off()?;
    node.boot()?;
    // Its keeper has told the cluster by then, and Pacemaker would have started its gate.
    let shown = wait_status(&writer, 1, &format!("on {name}: rolegate unfence --local"))?.to_string();
    ensure!(shown.contains("a trial"), "{shown}");
    ensure!(writer.ask("crm_mon", &["-1A"])?.contains("ports closed by operator"), "not in crm_mon");
    stays_closed(&node, Duration::from_secs(2))?;
    let elsewhere = rolegate(&writer, &["unfence", name])?;
    ensure!(elsewhere.code == 1 && elsewhere.text.contains("rolegate unfence --local"), "{elsewhere:?}");
    stays_closed(&node, Duration::from_secs(1))?;
    let lifted = rolegate(&node, &["unfence", "--local"])?;
    ensure!(lifted.text.contains("no longer fenced by itself"), "{lifted:?}");
    recorded(&node, Some(name), "unfence --local", "no longer fenced by itself")?;
    wait_status(&writer, 0, "\"code\": 0")?;
    let again = rolegate(&node, &["unfence", "--local"])?;
    ensure!(again.code == 0 && again.text.contains("was not fenced"), "{again:?}");
    Ok(())
}

/// Waits until the read-write port of a node is closed, at most that long.
fn wait_closed(on: &Host<'_>, time: Duration) -> Result<()> {
    wait_for(&format!("6381 of {} to close", on.name()), time, || {
        let state = state(on)?;
        ensure!(state["rw"]["open"] == false, "{state}");
        Ok(())
    })
}

/// `rolegate open --force` on a node, confirmed.
fn force(on: &Host<'_>, time: &str, more: &[&str]) -> Result<super::cli::Said> {
    rolegate(on, &[&["open", "--force", "--for", time, "--confirm", on.name(), on.name()], more].concat())
}

/// How long the mark of this node on its own Sentinel says that it may be open; 0 closed.
fn marked(on: &Host<'_>) -> Result<u64> {
    let list = on.redis(26379, &["CLIENT", "LIST", "TYPE", "normal"])?;
    let name = format!("name=rolegate:mymaster:{}:", on.name());
    let mark = list.split_ascii_whitespace().find_map(|field| field.strip_prefix(&name)).context("no mark")?;
    Ok(mark.split(':').next().and_then(|length| length.parse().ok()).unwrap_or(0))
}

fn gives_way(bed: &Bed) -> Result<()> {
    let (primary, _) = healthy(bed)?;
    let node = bed.host(primary)?;
    on_its_firewall(&node)?;
    let [one, two] = others(primary).map(|name| bed.host(name));
    let (one, two) = (one?, two?);
    let sentinel = bed.server().sentinel();
    let without_majority = |yes: bool| -> Result<()> {
        let action = if yes { "stop" } else { "start" };
        [&one, &two].into_iter().try_for_each(|host| host.ask("systemctl", &[action, sentinel]).map(drop))
    };
    let refused = force(&node, "30s", &[])?;
    ensure!(
        refused.code == 2 && refused.text.contains("a majority names this node: the usual way works"),
        "{refused:?}"
    );

    without_majority(true)?;
    wait_closed(&node, Duration::from_secs(20))?;
    let wrong = rolegate(&one, &["open", "--force", "--for", "30s", "--confirm", primary, primary])?;
    ensure!(wrong.code == 2 && wrong.text.contains(&format!("Run it on {primary}")), "{wrong:?}");
    for more in [&[][..], &["--confirm", "node9"]] {
        let refused = rolegate(&node, &[&["open", "--force", "--for", "30s", primary], more].concat())?;
        ensure!(refused.code == 2 && state(&node)?["rw"]["open"] == false, "{more:?}: {refused:?}");
    }
    let refused = force(&one, "30s", &[])?;
    ensure!(refused.code == 2 && refused.text.contains("REPLICAOF NO ONE"), "{refused:?}");

    let said = force(&node, "55s", &["--reason", "a trial"])?;
    ensure!(said.code == 0 && said.text.contains(&format!("{primary} takes writes at")), "{said:?}");
    ensure!(gates::open_gates(bed)? == [primary], "open on {:?}", gates::open_gates(bed)?);
    let mark = marked(&node)?;
    ensure!((55_000..80_000).contains(&mark), "it is marked {mark}");
    recorded(&node, Some(primary), "a trial", "6381 forced open until")?;
    let report = wait_status(&one, 2, "forced open until")?.to_string();
    ensure!(report.contains("a trial"), "{report}");
    ensure!(one.ask("crm_mon", &["-1A"])?.contains("redis_role_forced"), "not in crm_mon");
    let metrics = rolegate(&node, &["metrics"])?.text;
    let metric = format!("rolegate_forced_open{{master=\"mymaster\",node=\"{primary}\"}} 1");
    ensure!(metrics.contains(&metric), "{metrics}");
    // One that is restarted goes on marking, and closes nothing.
    node.sh("systemctl restart rolegate-keeper")?;
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        ensure!(state(&node)?["rw"]["open"] == true, "closed behind a restart of the keeper");
    }
    let mark = marked(&node)?;
    ensure!((30_000..80_000).contains(&mark), "it is marked {mark} after a restart of the keeper");

    // They come back and name it: the lease takes over what is open.
    without_majority(false)?;
    let began = Instant::now();
    wait_for("the lease to take over", LONG, || {
        let state = state(&node)?;
        ensure!(state["rw"]["open"] == true || began.elapsed() > Duration::from_secs(45), "it was closed: {state}");
        let left = state["rw"]["remaining_ms"].as_u64().unwrap_or(u64::MAX);
        ensure!(left <= 2000, "{left} ms are left");
        Ok(())
    })?;
    bed.say(&format!("the lease took over {:.1} s after the Sentinels were started", began.elapsed().as_secs_f64()));
    ensure!(began.elapsed() < Duration::from_secs(45), "it ended by itself");
    wait_status(&one, 0, "\"code\": 0")?;
    ensure!(!one.ask("crm_mon", &["-1A"])?.contains("redis_role_forced"), "crm_mon still shows it");

    // A failover that the one Sentinel makes: what is written here would be lost.
    bed.replicas_known()?;
    without_majority(true)?;
    wait_closed(&node, Duration::from_secs(20))?;
    let since = SystemTime::now();
    let said = force(&node, "40s", &[])?;
    ensure!(said.code == 0, "{said:?}");
    node.redis(26379, &["SENTINEL", "FAILOVER", "mymaster"])?;
    let began = Instant::now();
    wait_closed(&node, Duration::from_secs(20))?;
    bed.say(&format!("closed {} ms after the failover was asked for", began.elapsed().as_millis()));
    without_majority(false)?;
    let log = keeper_log(&node, since)?;
    ensure!(log.contains("is forced open by hand no more: "), "{log}");
    wait_status(&node, 0, "\"code\": 0")?;
    ensure!(!gates::open_gates(bed)?.contains(&primary), "{primary} is open again");
    Ok(())
}

/// Waits until Pacemaker's own view there says that a port is forced open, or no longer does.
fn shows(on: &Host<'_>, forced: bool) -> Result<()> {
    wait_for(if forced { "crm_mon to show it" } else { "crm_mon to show it no more" }, LONG, || {
        let shown = on.ask("crm_mon", &["-1A"])?;
        ensure!(shown.contains("redis_role_forced") == forced, "{shown}");
        Ok(())
    })
}

fn ends_by_itself(bed: &Bed) -> Result<()> {
    let (primary, _) = healthy(bed)?;
    let node = bed.host(primary)?;
    on_its_firewall(&node)?;
    for other in others(primary) {
        bed.host(other)?.power_off()?;
    }
    wait_for("its gate to be stopped for want of quorum", LONG, || {
        let told: Value = serde_json::from_str(&rolegate(&node, &["status", "--json"])?.text)?;
        ensure!(told["cluster"]["quorum"] == false, "{}", told["cluster"]);
        let nodes = told["masters"][0]["nodes"].as_array().context("nodes")?;
        let gate = nodes.iter().find(|one| one["name"] == primary).map(|one| &one["gate"]["role"]);
        ensure!(gate.is_some_and(|role| role == "Stopped") && state(&node)?["rw"]["open"] == false, "{gate:?}");
        Ok(())
    })?;
    let refused = force(&node, "6s", &[])?;
    ensure!(refused.code == 2 && refused.text.contains("--peers-are-dead"), "{refused:?}");
    let dead = &["--peers-are-dead"];
    let said = force(&node, "6s", dead)?;
    let opened = Instant::now();
    ensure!(said.code == 0 && said.text.contains("takes writes at"), "{said:?}");
    ensure!(node.redis(6381, &["SET", "forced", "1"])? == "OK", "no write");
    let told: Value = serde_json::from_str(&rolegate(&node, &["status", "--json"])?.text)?;
    ensure!(told["code"] == 2, "forced open, and not critical: {told:#}");
    // Two of three hosts are dead, and this machine is busy.
    let took = told["took_ms"].as_u64().context("took_ms")?;
    ensure!(took < 3000, "status took {took} ms");
    bed.say(&format!("status took {took} ms with two hosts dead"));
    wait_closed(&node, Duration::from_secs(30))?;
    let lasted = opened.elapsed();
    bed.say(&format!("forced open for 6 s: closed {:.1} s after the command returned", lasted.as_secs_f64()));
    ensure!(lasted > Duration::from_secs(3) && lasted < Duration::from_secs(8), "it lasted {lasted:?}");
    shows(&node, false)?;
    // It is the kernel that ends it: nobody else can. systemd ends a keeper that stands still, and a new one would close it, too, but later.
    let said = force(&node, "2s", dead)?;
    ensure!(said.code == 0, "{said:?}");
    let (keeper, opened) = (node.ask("pidof", &["rolegate-keeper"])?, Instant::now());
    node.ask("kill", &["-STOP", &keeper])?;
    wait_closed(&node, Duration::from_secs(4))?;
    bed.say(&format!(
        "forced open for 2 s: closed {:.1} s after the keeper was stopped",
        opened.elapsed().as_secs_f64()
    ));
    ensure!(node.ask("pidof", &["rolegate-keeper"])? == keeper, "another keeper runs {:?} later", opened.elapsed());
    node.ask("kill", &["-CONT", &keeper])?;
    let said = force(&node, "60s", dead)?;
    ensure!(said.code == 0, "{said:?}");
    shows(&node, true)?;
    for text in [format!("6381 of {primary} is closed"), format!("nothing is forced open on {primary}")] {
        let said = rolegate(&node, &["open", "--cancel", primary])?;
        ensure!(said.code == 0 && said.text.contains(&text) && state(&node)?["rw"]["open"] == false, "{said:?}");
    }
    recorded(&node, Some(primary), "open --cancel", "is forced open by hand no more, and is closed")?;
    shows(&node, false)?;
    let said = force(&node, "60s", dead)?;
    ensure!(said.code == 0, "{said:?}");
    shows(&node, true)?;
    let said = rolegate(&node, &["fence", "--local"])?;
    ensure!(said.code == 0 && state(&node)?["rw"]["open"] == false, "{said:?}");
    // The fence itself waits for quorum.
    shows(&node, false)?;
    let refused = force(&node, "60s", dead)?;
    ensure!(refused.code == 2 && refused.text.contains("it is fenced"), "{refused:?}");
    rolegate(&node, &["unfence", "--local"])?;
    ensure!(state(&node)?["rw"]["open"] == false, "a lifted fence opens what was forced");
    bed.mend()?;
    wait_status(&node, 0, "\"code\": 0")?;
    bed.nodes().try_for_each(|each| shows(&each, false))
}
