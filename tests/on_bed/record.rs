//! The record changes one step at a time, under writers, and with a node that is away.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::cli::{healthy, rolegate, wait_status};
use super::moves::{journal, recorded};
use super::variants::undisturbed;
use crate::OnBed;
use crate::bed::load::{Bounds, Load, Writer};
use crate::bed::variant::MYMASTER;
use crate::bed::{Bed, CLIENTS, Host, NODES, gates, wait_for};

pub const TRIALS: &[(&str, OnBed)] = &[
    ("a_sentinel_with_a_new_run_id_is_replaced_in_two_steps_and_the_gate_stays_open", replaced),
    ("an_init_that_is_killed_at_any_step_is_ended_by_the_next_one_and_the_gate_stays_open", killed),
    ("sentinels_set_up_anew_are_written_at_once_while_the_gate_is_disabled", anew),
    ("more_than_one_step_by_hand_is_not_followed", by_hand),
    ("roles_follow_sentinels_outside_the_cluster_to_a_node_without_one", outside),
    ("a_node_that_is_down_holds_the_change_up_until_it_is_confirmed_off", down),
];

const LONG: Duration = Duration::from_secs(60);

/// What a node says that it stands on, without the boot.
fn says(of: &Host<'_>, on: &Host<'_>) -> Result<String> {
    let value = on.ask("crm_attribute", &["-N", of.name(), "-n", "redis_record-mymaster", "-G", "-q"])?;
    Ok(value.split('@').next().unwrap_or_default().to_owned())
}

/// The record's Sentinels, as the gate has them.
fn sentinels(on: &Host<'_>) -> Result<String> {
    on.ask("crm_resource", &["-r", "RedisGate", "-g", "sentinels"])
}

/// Has the Sentinel of this node begin anew, with a run id that the record has not; gives that.
fn renewed(bed: &Bed, changed: &Host<'_>) -> Result<String> {
    let (sentinel, config) = (bed.server().sentinel(), bed.server().sentinel_config());
    changed.sh(&format!(
        "systemctl stop {sentinel} && sed -i '/^sentinel myid /d' {config} && systemctl start {sentinel}"
    ))?;
    let id = wait_for("a new run id", LONG, || {
        let id = changed.redis(26379, &["SENTINEL", "MYID"])?;
        ensure!(id.len() == 40, "{id}");
        Ok(id)
    })?;
    // The others still know the one that was there.
    for node in bed.nodes() {
        node.redis(26379, &["SENTINEL", "RESET", "mymaster"])?;
    }
    wait_for("the Sentinels to know each other", LONG, || bed.check())?;
    wait_status(changed, 1, "is another one than that of the record")?;
    Ok(id)
}

fn replaced(bed: &Bed) -> Result<()> {
    let (primary, other) = healthy(bed)?;
    let (node, changed) = (bed.host(primary)?, bed.host(other)?);
    let id = renewed(bed, &changed)?;
    let before = sentinels(&node)?;
    ensure!(!before.contains(&id));

    let target = SocketAddr::new(node.address().parse()?, MYMASTER.rw);
    let writer = Writer::to("stays", CLIENTS[0], target);
    let load = Load::start(bed, &[writer], Bounds { rate: 100, time: Duration::from_secs(120) })?;
    let refused = rolegate(&node, &["init"])?;
    ensure!(refused.code == 2 && refused.text.contains("--replace") && refused.text.contains(&id), "{refused:?}");
    let dry = rolegate(&node, &["init", "--replace", "--dry-run"])?;
    let shown = ["    - sentinel ", &format!("    + sentinel {id}@"), "    1. Sentinel ", "    2. Sentinel "];
    ensure!(shown.iter().all(|line| dry.text.contains(line)), "{dry:?}");
    ensure!(sentinels(&node)? == before, "nothing is written without --replace, or with --dry-run");
    let said = rolegate(&node, &["init", "--replace"])?;
    let steps = ["step 1 of 2", "is removed", "step 2 of 2", "is added", "all nodes stand on it"];
    ensure!(said.code == 0 && steps.iter().all(|step| said.text.contains(step)), "{said:?}");
    recorded(&node, None, "init --replace", "step 2 of 2")?;
    ensure!(sentinels(&node)?.contains(&id));
    let on = says(&node, &node)?;
    for of in bed.nodes() {
        ensure!(says(&of, &node)? == on, "{} stands on {}, not on {on}", of.name(), says(&of, &node)?);
    }
    // Longer than a lease, and than Pacemaker would take to restart the gate.
    thread::sleep(Duration::from_secs(5));
    let report = load.stop()?.verify(bed, CLIENTS[0], SocketAddr::new(target.ip(), MYMASTER.redis))?;
    undisturbed(&report)?;
    ensure!(!is_left_alone(&node)?, "Pacemaker still leaves the gate alone");
    wait_status(&node, 0, "\"code\": 0").map(drop)
}

/// Whether Pacemaker is told to leave the gate alone.
fn is_left_alone(on: &Host<'_>) -> Result<bool> {
    Ok(on.ask("cibadmin", &["-Q", "-o", "resources"])?.contains("is-managed"))
}

fn killed(bed: &Bed) -> Result<()> {
    let (primary, other) = healthy(bed)?;
    let (node, changed) = (bed.host(primary)?, bed.host(other)?);
    let id = renewed(bed, &changed)?;
    let before = sentinels(&node)?;
    let old = before.split(' ').find(|one| one.contains(&changed.address())).context("the old one")?;
    let target = SocketAddr::new(node.address().parse()?, MYMASTER.rw);
    let writer = Writer::to("stays", CLIENTS[0], target);
    let load = Load::start(bed, &[writer], Bounds { rate: 100, time: Duration::from_secs(180) })?;
    // It is killed when the first of these holds, and begun again: within the first step, between the two, within the second.
    let (left, removed, added) = (
        "grep -q is-managed".to_owned(),
        format!("{{ ! grep -qe is-managed -e '{old}'; }}"),
        format!("tr -d '\\n' | grep -q 'is-managed.*{id}\\|{id}.*is-managed'"),
    );
    for (when, condition, alone) in [
        ("within the first step", left, true),
        ("between the steps", removed, false),
        ("within the second", added, true),
    ] {
        let out = node.sh_within(
            LONG,
            &format!(
                "setsid rolegate init --replace > /tmp/init 2>&1 &
                 pid=$!
                 until cib=$(cibadmin -Q -o resources) && echo \"$cib\" | {condition}; do
                     kill -0 $pid || {{ echo over; break; }}
                 done
                 kill -9 -$pid && echo killed
                 wait $pid || echo $?
                 cat /tmp/init"
            ),
        )?;
        let text = out.text();
        ensure!(text.starts_with("killed\n137\n"), "{when}: it came to its end: {text}");
        if alone {
            ensure!(is_left_alone(&node)?, "{when}: {text}");
            let told = wait_status(&node, 1, "since a run of rolegate init was killed")?.to_string();
            ensure!(told.contains("rolegate init --master mymaster --replace"), "{told}");
        }
        ensure!(gates::open_gates(bed)? == [primary], "{when}: open on {:?}", gates::open_gates(bed)?);
    }
    let said = rolegate(&node, &["init", "--replace"])?;
    ensure!(said.code == 0, "{said:?}");
    let again = rolegate(&node, &["init", "--replace"])?;
    ensure!(again.code == 0 && again.text.contains("Nothing to do"), "{again:?}");
    let after = sentinels(&node)?;
    ensure!(after.contains(&id) && !after.contains(old) && after.split(' ').count() == NODES.len(), "{after}");
    ensure!(!is_left_alone(&node)?, "Pacemaker still leaves the gate alone");
    // Longer than a lease, and than Pacemaker would take to restart the gate.
    thread::sleep(Duration::from_secs(5));
    let report = load.stop()?.verify(bed, CLIENTS[0], SocketAddr::new(target.ip(), MYMASTER.redis))?;
    undisturbed(&report)?;
    wait_status(&node, 0, "\"code\": 0").map(drop)
}

/// Stops all Sentinels, and starts them with files in which there is only what an operator writes: what they knew is gone, run ids, epochs
/// and each other. The new run ids, of which `before` has none.
fn emptied(bed: &Bed, before: &str) -> Result<Vec<String>> {
    let (sentinel, config) = (bed.server().sentinel(), bed.server().sentinel_config());
    for node in bed.nodes() {
        node.ask("systemctl", &["stop", sentinel])?;
    }
    for node in bed.nodes() {
        node.sh(&format!(
            "sed -i -E '/^sentinel (myid|current-epoch|config-epoch|leader-epoch|known-[a-z]+) /d' {config}
             systemctl start {sentinel}"
        ))?;
    }
    wait_for("the Sentinels to know each other and the replicas", LONG, || bed.check())?;
    let mut ids = Vec::new();
    for node in bed.nodes() {
        let said = node.redis(26379, &["SENTINEL", "MASTER", "mymaster"])?;
        ensure!(said.contains("config-epoch\n0\n"), "{} has an epoch of before: {said}", node.name());
        ids.push(node.redis(26379, &["SENTINEL", "MYID"])?);
    }
    ensure!(ids.iter().all(|id| id.len() == 40 && !before.contains(id)), "{ids:?} are not all new: {before}");
    Ok(ids)
}

/// W of the default lease, 2 s, with an arm of 0.4 s: for so long others are looked at before a port opens.
const WINDOW: Duration = Duration::from_millis(2640);

/// Lines, marks and looks need no permission: while the gate is disabled all keepers say that they are closed, and see that of each other. So who is
/// promoted then opens without looking for as long as that anew.
fn marked_while_disabled(bed: &Bed, node: &Host<'_>) -> Result<()> {
    let name = |of: &str| format!(" name=rolegate:mymaster:{of}:closed ");
    wait_for("all nine lines to say closed", LONG, || {
        for at in bed.nodes() {
            let listed = at.redis(26379, &["CLIENT", "LIST", "TYPE", "normal"])?;
            // A line of a machine that has lost its power since stays listed for minutes, and stands still.
            let speaks = |line: &&str| line.split(' ').any(|word| ["idle=0", "idle=1", "idle=2"].contains(&word));
            let marks = listed.lines().filter(|line| line.contains(" name=rolegate:mymaster:"));
            let marks: Vec<&str> = marks.filter(speaks).collect();
            let all = NODES.iter().all(|of| marks.iter().filter(|line| line.contains(&name(of))).count() == 1);
            ensure!(all && marks.len() == NODES.len(), "{}: {marks:#?}", at.name());
        }
        Ok(())
    })?;
    thread::sleep(WINDOW);
    let since = SystemTime::now();
    node.sh_within(LONG, "pcs resource enable RedisGate-clone --wait=50")?;
    gates::opened(bed, &MYMASTER)?;
    // From when the agent has given its permission to when the keeper has opened, both by this machine's clock.
    let given = node.ask("stat", &["-c", "%.6Y", "/run/rolegate/permission-RedisGate"])?;
    let given = Duration::from_secs_f64(given.parse().with_context(|| given.clone())?);
    let since = format!("@{}", since.duration_since(UNIX_EPOCH)?.as_secs_f64());
    let all = journal(node, &["-t", "rolegate-keeper", "--since", &since])?;
    let opened = all
        .iter()
        .find(|record| record["MESSAGE"].as_str().is_some_and(|text| text.contains("6381 is open for writing")));
    let opened =
        opened.and_then(|record| record["__REALTIME_TIMESTAMP"].as_str()).with_context(|| format!("{all:#?}"))?;
    let took = Duration::from_micros(opened.parse()?).saturating_sub(given);
    bed.say(&format!("open {} ms after it was promoted", took.as_millis()));
    ensure!(took < WINDOW, "open {took:?} after it was promoted");
    wait_status(node, 0, "\"code\": 0").map(drop)
}

fn anew(bed: &Bed) -> Result<()> {
    let (primary, other) = healthy(bed)?;
    bed.replicas_known()?;
    let node = bed.host(primary)?;
    let (before, on) = (sentinels(&node)?, says(&node, &node)?);
    let gate = |what: &str| node.sh_within(LONG, &format!("pcs resource {what} RedisGate-clone --wait=50"));
    gate("disable")?;
    marked_while_disabled(bed, &node)?;
    gate("disable")?;
    let ids = emptied(bed, &before)?;
    // None of them counts, so who is primary cannot be told.
    wait_status(&node, 3, "is another one than that of the record")?;
    let refused = rolegate(&node, &["init"])?;
    ensure!(refused.code == 2 && refused.text.contains("--replace"), "{refused:?}");
    let dry = rolegate(&node, &["init", "--replace", "--dry-run"])?;
    let at_once = "at once: no gate runs";
    ensure!(dry.code == 0 && dry.text.contains(at_once) && sentinels(&node)? == before, "{dry:?}");
    let begun = Instant::now();
    let said = rolegate(&node, &["init", "--replace"])?;
    let took = begun.elapsed();
    bed.say(&format!("the record of new Sentinels was written in {} ms", took.as_millis()));
    ensure!(said.code == 0 && said.text.contains(at_once) && !said.text.contains("step 1"), "{said:?}");
    let enable = "pcs resource enable RedisGate-clone";
    ensure!(said.text.contains(&format!("Enable the gate again: {enable}")), "{said:?}");
    let after = sentinels(&node)?;
    ensure!(ids.iter().all(|id| after.contains(id)) && after.split(' ').count() == ids.len(), "{after}");
    // Nobody has the old one any more; it is a moment until all have said that they have the new one.
    let now = bed.nodes().map(|of| says(&of, &node)).collect::<Result<Vec<_>>>()?;
    ensure!(!now.contains(&on), "the nodes stand on {now:?}, as before on {on}");
    wait_for("all nodes to stand on the new record", LONG, || {
        let now = bed.nodes().map(|of| says(&of, &node)).collect::<Result<Vec<_>>>()?;
        let new = now.iter().all(|says| says.len() == on.len() && *says == now[0]);
        ensure!(new, "they stand on {now:?}");
        Ok(())
    })?;
    ensure!(gates::open_gates(bed)?.is_empty(), "open while it is disabled");
    gate("enable")?;
    gates::opened(bed, &MYMASTER)?;
    wait_status(&node, 0, "\"code\": 0")?;
    ensure!(gates::open_gates(bed)? == [primary], "open on {:?}", gates::open_gates(bed)?);

    // Once more, and now as status says, word for word.
    emptied(bed, &after)?;
    let line = wait_for("status to say what is to be done", LONG, || {
        let told: Value = serde_json::from_str(&rolegate(&node, &["status", "--json"])?.text)?;
        let problems = told["masters"][0]["problems"].as_array().context("problems")?;
        let mut next = problems.iter().filter_map(|problem| problem["next"].as_str()?.lines().next());
        Ok(next.find(|next| next.starts_with("pcs resource disable")).context(format!("{told:#}"))?.to_owned())
    })?;
    bed.say(&line);
    node.sh_within(2 * LONG, &line)?;
    gates::opened(bed, &MYMASTER)?;
    wait_status(&node, 0, "\"code\": 0")?;

    // Their epochs have begun at 0 again: a failover goes as ever.
    bed.replicas_known()?;
    let node = bed.host(other)?;
    // While the gate was disabled nobody was to be chosen, and Sentinels ask for that each 10 s.
    wait_for("a Sentinel to begin a failover", LONG, || {
        let said = node.redis(26379, &["SENTINEL", "FAILOVER", "mymaster"])?;
        ensure!(said == "OK", "{said}");
        Ok(())
    })?;
    wait_for("another node's port to open", LONG, || {
        let open = gates::open_gates(bed)?;
        ensure!(open.len() == 1 && open != [primary], "open on {open:?}");
        Ok(())
    })?;
    wait_status(&node, 0, "\"code\": 0").map(drop)
}

/// Waits until each of these Sentinels has that many others.
fn know_each_other(hosts: &[Host<'_>], others: usize) -> Result<()> {
    wait_for("the Sentinels to know each other", LONG, || {
        for host in hosts {
            let said = host.redis(26379, &["SENTINEL", "MASTER", "mymaster"])?;
            ensure!(said.contains(&format!("num-other-sentinels\n{others}\n")), "{}: {said}", host.name());
        }
        Ok(())
    })
}

/// Waits until each of these Sentinels knows two replicas again.
fn known(hosts: &[Host<'_>]) -> Result<()> {
    wait_for("the Sentinels to know the replicas", LONG, || {
        for host in hosts {
            let said = host.redis(26379, &["SENTINEL", "MASTER", "mymaster"])?;
            ensure!(said.contains("num-slaves\n2\n"), "{}: {said}", host.name());
        }
        Ok(())
    })
}

/// Forgets Sentinels that are gone, on those that are there.
fn reset(hosts: &[Host<'_>]) -> Result<()> {
    hosts.iter().try_for_each(|host| host.redis(26379, &["SENTINEL", "RESET", "mymaster"]).map(drop))
}

/// Two of three Sentinels are on hosts that Pacemaker does not know, so the new primary's node has neither Sentinel nor hook.
fn outside(bed: &Bed) -> Result<()> {
    let (primary, _) = healthy(bed)?;
    let node = bed.host(primary)?;
    let others: Vec<Host<'_>> = bed.nodes().filter(|node| node.name() != primary).collect();
    let clients = CLIENTS.map(|name| bed.host(name)).into_iter().collect::<Result<Vec<_>>>()?;
    let (sentinel, user) = (bed.server().sentinel(), bed.server().user());
    let down_after = bed.options().down_after.as_millis();
    for client in &clients {
        client.sh(&format!(
            "install -d -o {user} /run/outside
             printf '%s\\n' 'port 26379' 'protected-mode no' 'dir /run/outside' 'sentinel monitor mymaster {} 6379 2' \\
                'sentinel down-after-milliseconds mymaster {down_after}' > /run/outside/sentinel.conf
             chown {user} /run/outside/sentinel.conf
             systemd-run -q --unit=outside --uid={user} {sentinel} /run/outside/sentinel.conf",
            node.address()
        ))?;
    }
    let three = [clients[0], clients[1], node];
    let five: Vec<Host<'_>> = three.into_iter().chain(others.iter().copied()).collect();
    // Those that come first, then without those that go: a majority answers all the time.
    let init = || -> Result<()> {
        let said = rolegate(&node, &["init", "--replace"])?;
        ensure!(said.code == 0, "{said:?}");
        ensure!(gates::open_gates(bed)?.len() == 1, "open on {:?}", gates::open_gates(bed)?);
        Ok(())
    };
    let tried = (|| {
        know_each_other(&five, 4)?;
        init()?;
        for other in &others {
            other.ask("systemctl", &["stop", sentinel])?;
        }
        reset(&three)?;
        know_each_other(&three, 2)?;
        known(&three)?;
        init()?;
        clients[0].redis(26379, &["SENTINEL", "FAILOVER", "mymaster"])?;
        wait_for("roles and gate to follow", LONG, || {
            let open = gates::open_gates(bed)?;
            ensure!(open.len() == 1 && open != [primary], "open on {open:?}");
            for node in bed.nodes() {
                let role = gates::role(&node)?;
                ensure!(role == if open == [node.name()] { "primary" } else { "replica" }, "{} is {role}", node.name());
            }
            let said = node.redis(6379, &["ROLE"])?;
            ensure!(said.starts_with("slave"), "{primary}: {said}");
            Ok(())
        })
    })();
    for other in &others {
        other.ask("systemctl", &["start", sentinel])?;
    }
    let back = know_each_other(&five, 4).and_then(|()| init());
    for client in &clients {
        client.sh("systemctl stop outside; rm -rf /run/outside")?;
    }
    let inside: Vec<Host<'_>> = bed.nodes().collect();
    reset(&inside)?;
    know_each_other(&inside, 2)?;
    tried?;
    back?;
    known(&inside)?;
    init()?;
    wait_status(&node, 0, "\"code\": 0").map(drop)
}

fn by_hand(bed: &Bed) -> Result<()> {
    let (primary, _) = healthy(bed)?;
    let node = bed.host(primary)?;
    let (right, on) = (sentinels(&node)?, says(&node, &node)?);
    let one = right.split(' ').next().context("a Sentinel")?;
    // Pacemaker restarts the gate; it opens again by what the nodes stand on.
    node.sh_within(LONG, &format!("pcs resource update RedisGate sentinels='{one}'"))?;
    wait_status(&node, 1, "a change of the record waits for")?;
    gates::opened(bed, &MYMASTER)?;
    for of in bed.nodes() {
        ensure!(says(&of, &node)? == on, "{} has followed", of.name());
    }
    // Nor does a keeper that is restarted.
    node.ask("systemctl", &["restart", "rolegate-keeper"])?;
    thread::sleep(Duration::from_secs(4));
    ensure!(gates::open_gates(bed)? == [primary] && says(&node, &node)? == on, "the new keeper has followed");
    node.sh_within(LONG, &format!("pcs resource update RedisGate sentinels='{right}'"))?;
    wait_status(&node, 0, "\"code\": 0").map(drop)
}

fn down(bed: &Bed) -> Result<()> {
    let (primary, other) = healthy(bed)?;
    let (node, lost) = (bed.host(primary)?, bed.host(other)?);
    let refused = rolegate(&node, &["confirm-off", other, "--yes"])?;
    ensure!(refused.code == 2 && refused.text.contains("is a member of the cluster"), "{refused:?}");
    lost.power_off()?;
    wait_status(&node, 1, &format!("{other} is offline"))?;
    let lease = |seconds: &str| node.sh_within(LONG, &format!("pcs resource update RedisGate lease={seconds}"));
    let all_on = |but: &str, other_than: &str| {
        wait_for("the others to follow", LONG, || {
            let on = says(&node, &node)?;
            ensure!(!on.contains('>'), "on the way: {on}");
            let others = NODES.iter().filter(|name| **name != but);
            for name in others {
                ensure!(says(&bed.host(name)?, &node)? == on && on != other_than, "{name} does not stand on {on}");
            }
            Ok(on)
        })
    };
    let old = says(&node, &node)?;
    lease("3s")?;
    let first = all_on(other, &old)?;
    ensure!(says(&lost, &node)? == old);
    // The next one waits.
    lease("4s")?;
    let waits = "a change of the record waits for";
    wait_status(&node, 1, waits)?;
    wait_status(&node, 1, &format!("rolegate confirm-off {other}"))?;
    let said = rolegate(&node, &["init", "--wait", "6"])?;
    ensure!(said.code == 1 && said.text.contains("waiting for") && said.text.contains(other), "{said:?}");
    ensure!(says(&node, &node)? == first, "the second step was taken before {other} had shown the first");
    ensure!(gates::open_gates(bed)? == [primary], "open on {:?}", gates::open_gates(bed)?);
    let no = rolegate(&node, &["confirm-off", other])?;
    ensure!(no.code == 2 && no.text.contains("--yes"), "{no:?}");
    let yes = rolegate(&node, &["confirm-off", other, "--yes"])?;
    ensure!(yes.code == 0 && yes.text.contains("two nodes may take writes"), "{yes:?}");
    recorded(&node, Some(other), "confirm-off", "is confirmed off")?;
    let second = all_on(other, &first)?;
    ensure!(second != first);
    wait_status(&node, 1, &format!("{other} was confirmed off by"))?;
    lost.boot()?;
    wait_for("it to end when the node is back", Duration::from_secs(120), || {
        let now = says(&lost, &node)?;
        ensure!(now == second, "{other} says {now}");
        Ok(())
    })?;
    node.sh_within(LONG, "pcs resource update RedisGate lease=")?;
    all_on("nobody", &second)?;
    bed.mend()?;
    wait_status(&node, 0, "\"code\": 0").map(drop)
}
