//! `rolegate doctor`: something is broken, exactly the checks that are about it turn, it is mended, and they turn back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::cli;
use crate::OnBed;
use crate::bed::{Bed, Host, NODES, clock, wait_for};

pub const TRIALS: &[(&str, OnBed)] = &[
    ("a_healthy_bed_has_what_it_deserves_and_nothing_else", healthy),
    ("what_is_wrong_in_the_cluster_turns_its_checks", cluster),
    ("what_is_wrong_with_servers_turns_their_checks", servers),
    ("what_is_wrong_on_the_node_turns_its_checks", here),
    ("with_half_the_cluster_gone_it_says_what_it_sees_in_time", half),
    ("a_sentinel_that_names_another_node_is_cured_as_it_says", disagreement),
    // Last.
    ("each_check_was_made_to_turn", each_turned),
];

/// The checks that have said what they were to say, in all trials so far.
static TURNED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// How many trials that make checks turn have come to their end.
static ENDED: AtomicUsize = AtomicUsize::new(0);

/// And how many there are.
const TURNING: usize = 5;

const LONG: Duration = Duration::from_secs(60);

/// What the bed deserves: no STONITH, no ACL, no password, no replica needed for writes, 6379 open to all. A container's services keep the OOM
/// score that the container has.
const DESERVED: [&str; 7] =
    ["stonith", "keeper-unit", "direct", "cluster-acl", "min-replicas", "hello", "protected-mode"];

/// The findings of each check that has any: how bad, where, what.
type Findings = BTreeMap<String, BTreeSet<String>>;

/// What `rolegate doctor` says on a host, run by this shell line.
fn look_by(on: &Host<'_>, line: &str) -> Result<(i32, Value)> {
    let script = format!("{line}; exit $?");
    let output = on.cmd("sh")?.args(["-c", &script]).deadline(LONG).run_expecting(&[0, 1, 2, 3])?;
    let text = output.text();
    Ok((output.code, serde_json::from_str(&text).with_context(|| format!("{text:?} {}", output.stderr))?))
}

fn findings(report: &Value) -> Findings {
    let all = report["checks"].as_array().into_iter().flatten();
    let of = |check: &Value| {
        let all = check["findings"].as_array().into_iter().flatten();
        all.map(|one| format!("{} {} {}", one["severity"], one["nodes"], one["found"])).collect::<BTreeSet<_>>()
    };
    let found = all.map(|check| (check["id"].as_str().unwrap_or_default().to_owned(), of(check)));
    found.filter(|(_, all)| !all.is_empty()).collect()
}

fn look(on: &Host<'_>) -> Result<Findings> {
    Ok(findings(&look_by(on, "rolegate doctor --json")?.1))
}

/// Something to break.
struct Case {
    /// The check.
    id: &'static str,
    /// What it says then; or, behind a `-`, what it says no more.
    says: &'static str,
    /// Breaks it, on the node on which it is looked.
    harm: String,
    /// Mends it.
    mend: String,
}

fn case(id: &'static str, says: &'static str, harm: impl Into<String>, mend: impl Into<String>) -> Case {
    Case { id, says, harm: harm.into(), mend: mend.into() }
}

/// Whether a check says so.
fn says(found: &Findings, id: &str, text: &str) -> bool {
    let has = |text: &str| found.get(id).is_some_and(|all| all.iter().any(|one| one.contains(text)));
    if let Some(gone) = text.strip_prefix('-') {
        // By what is gone no check has shown that it turns.
        return !has(gone);
    }
    let says = has(text);
    if says {
        TURNED.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned());
    }
    says
}

/// Where all of the others have run: that no check is without a case.
fn each_turned(bed: &Bed) -> Result<()> {
    let ended = ENDED.load(Ordering::Relaxed);
    // Only where some trials were chosen by hand; never in scripts/test.
    ensure!(
        ended >= TURNING || std::env::var_os("ROLEGATE_TEST_ALL").is_none(),
        "{ended} of {TURNING} have come to their end"
    );
    if ended < TURNING {
        bed.say(&format!("{ended} of {TURNING} trials that make checks turn have come to their end: nothing to tell"));
        return Ok(());
    }
    let (_, report) = look_by(&bed.host(NODES[0])?, "rolegate doctor --json")?;
    let all = report["checks"].as_array().context("checks")?;
    let ids: BTreeSet<String> = all.iter().filter_map(|check| check["id"].as_str()).map(str::to_owned).collect();
    let turned = TURNED.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let never: Vec<&String> = ids.difference(&turned).collect();
    ensure!(!ids.is_empty() && never.is_empty(), "no case makes these turn: {never:?}");
    Ok(())
}

/// A trial that makes checks turn has come to its end.
fn ended() {
    ENDED.fetch_add(1, Ordering::Relaxed);
}

/// Breaks all of the cases, waits until their checks say so and no other does, mends them in the opposite order, and waits until all is as before.
fn turn(on: &Host<'_>, cases: &[Case], others: &[&str]) -> Result<()> {
    let before = look(on)?;
    let mut done = Ok(());
    for case in cases {
        ensure!(!says(&before, case.id, case.says), "{} says {:?} before: {before:#?}", case.id, case.says);
        done = done.and_then(|()| on.sh_within(LONG, &case.harm).map(drop).context(case.id));
    }
    let turned = done.and_then(|()| {
        wait_for("the checks to turn", Duration::from_secs(40), || {
            let now = look(on)?;
            for case in cases {
                ensure!(says(&now, case.id, case.says), "{} does not say {:?}: {now:#?}", case.id, case.says);
            }
            let ids = before.keys().chain(now.keys()).filter(|id| before.get(*id) != now.get(*id));
            let meant = |id: &&String| cases.iter().any(|case| case.id == id.as_str()) || others.contains(&id.as_str());
            let more: BTreeSet<&String> = ids.filter(|id| !meant(id)).collect();
            ensure!(more.is_empty(), "{more:?} turned, too: {now:#?}");
            Ok(())
        })
    });
    let mended: Vec<Result<()>> =
        cases.iter().rev().map(|case| on.sh_within(LONG, &case.mend).map(drop).context(case.id)).collect();
    turned?;
    mended.into_iter().collect::<Result<()>>()?;
    wait_for("all to be as it was", LONG, || {
        let now = look(on)?;
        ensure!(now == before, "{now:#?}\nbefore: {before:#?}");
        Ok(())
    })
}

/// A healthy cluster: its primary, and the two others.
fn three(bed: &Bed) -> Result<[Host<'_>; 3]> {
    let (primary, one) = cli::healthy(bed)?;
    // What stood still, in the trial before, is a finding of its own.
    bed.nodes().try_for_each(|node| clock::settle(&node))?;
    let other = NODES.into_iter().find(|name| *name != primary && *name != one).context("three nodes")?;
    Ok([bed.host(primary)?, bed.host(one)?, bed.host(other)?])
}

fn healthy(bed: &Bed) -> Result<()> {
    for node in three(bed)? {
        wait_for("nothing but what the bed deserves", LONG, || {
            let started = Instant::now();
            let (code, report) = look_by(&node, "rolegate doctor --json")?;
            ensure!(started.elapsed() < Duration::from_secs(8), "it took {:?}", started.elapsed());
            let found = findings(&report);
            let ids: BTreeSet<&str> = found.keys().map(String::as_str).collect();
            ensure!(code == 1 && ids == DESERVED.into_iter().collect(), "{}: {found:#?}", node.name());
            for check in report["checks"].as_array().context("checks")? {
                ensure!(check["state"] != "skipped" || check["id"] == "last-proof", "{}: {check:#}", node.name());
                // Each knows the release of all.
                let all = NODES.map(|name| format!("{name} {}", env!("CARGO_PKG_VERSION"))).join(", ");
                let told = check["found"].to_string().contains(&format!("rolegate: {all}"));
                ensure!(check["id"] != "versions" || told, "{}: {check:#}", node.name());
            }
            Ok(())
        })?;
    }
    let skipped = cli::rolegate(&bed.host("node1")?, &["doctor", "--skip", &DESERVED.join(",")])?;
    // One more where the node has held a lease.
    let all_well = skipped.text.lines().next().is_some_and(|line| ["node1: 37 well", "node1: 38 well"].contains(&line));
    ensure!(skipped.code == 0 && all_well, "{skipped:?}");
    Ok(())
}

/// What stands in the cluster's configuration below an element of this id.
fn element(on: &Host<'_>, id: &str) -> Result<String> {
    Ok(on.ask("cibadmin", &["-Q", "--xpath", &format!("//rsc_location[@id='{id}']")])?.replace('\n', " "))
}

fn cluster(bed: &Bed) -> Result<()> {
    let [_, node, third] = three(bed)?;
    let (here, other) = (node.name(), third.name());
    let property = |name: &str, value: &str| format!("crm_attribute -n {name} -v {value}");
    let gone = |name: &str| format!("crm_attribute -n {name} -D");
    let add = |xml: &str| format!("cibadmin --create -o constraints --xml-text '{xml}'");
    let delete = |id: &str| format!("cibadmin --delete --xml-text '<rsc_location id=\"{id}\"/>'");
    let closed = element(&node, "RedisGate-closed")?;
    let ban = format!("<rsc_location id=\"doctor\" rsc=\"RedisGate-clone\" node=\"{other}\" score=\"-INFINITY\"/>");
    let transient = |name: &str| format!("attrd_updater -n '{name}' -N {other}");
    // In maintenance mode none of the others moves anything.
    turn(
        &node,
        &[
            case("maintenance", "maintenance mode", property("maintenance-mode", "true"), gone("maintenance-mode")),
            case("quorum-policy", "freeze", property("no-quorum-policy", "freeze"), gone("no-quorum-policy")),
            case("gate", "a fence would not hold", delete("RedisGate-closed"), add(&closed)),
            case("bans", "location constraint doctor", add(&ban), delete("doctor")),
            case(
                "roles",
                "hides the lasting",
                format!("crm_attribute -l reboot -N {here} -n redis_role -v odd"),
                format!("crm_attribute -l reboot -N {here} -n redis_role -D"),
            ),
            case(
                "fences",
                "by the doctor's trial",
                format!("crm_attribute -l forever -N {other} -n redis_fence -v \"by the doctor's trial\""),
                format!("crm_attribute -l forever -N {other} -n redis_fence -D"),
            ),
            case(
                "failures",
                "fail count 3",
                format!("{} -U 3", transient("fail-count-RedisGate#monitor_6000")),
                format!("{} -D", transient("fail-count-RedisGate#monitor_6000")),
            ),
        ],
        &["ports"],
    )?;

    // On a copy, where nothing can come of it.
    let copy = "/run/doctor.xml";
    let changed = format!(
        "cibadmin -Q > {copy}; export CIB_file={copy}; {}; {}; {} >/dev/null; \
         sed -i '/name=\"sentinels\"/s/value=\"\\([^ \"]* [^ \"]*\\) [^\"]*\"/value=\"\\1\"/' {copy}; sed -i '/\"#feature-set\"/{{s/value=\"[^\"]*\"/value=\"3.99.0\"/;:a;n;ba}}' {copy}; rolegate doctor --json",
        property("stonith-enabled", "true"),
        property("symmetric-cluster", "false"),
        delete("RedisGate-allowed")
    );
    let seen = findings(&look_by(&node, &changed)?.1);
    for (id, text) in [
        ("stonith", "there is no fencing device"),
        ("symmetric", "no rule lets RedisGate run"),
        ("versions", "different Pacemakers"),
        ("sentinel-count", "mymaster has 2 Sentinels: it cannot lose one"),
    ] {
        ensure!(says(&seen, id, text), "{id} does not say {text:?}: {seen:#?}");
    }

    // Keepers put a role right within a second.
    let keepers = |signal: &str| {
        bed.nodes().try_for_each(|node| node.sh(&format!("kill -{signal} $(pidof rolegate-keeper)")).map(drop))
    };
    keepers("STOP")?;
    let seen = node
        .sh(&format!("crm_attribute -l forever -N {other} -n redis_role -v primary"))
        .and_then(|_| look_by(&node, "rolegate doctor --json --only roles"));
    keepers("CONT")?;
    let seen = findings(&seen?.1);
    ensure!(says(&seen, "roles", &format!("{other} still has redis_role=primary")), "{seen:#?}");
    three(bed)?;

    // A node's keeper says again which release it is when it starts.
    third.ask("systemctl", &["stop", "rolegate-keeper"])?;
    node.sh(&format!("crm_attribute -l forever -N {other} -n rolegate_version -v 99.10.0"))?;
    let seen = findings(&look_by(&node, "rolegate doctor --json --only versions")?.1);
    third.ask("systemctl", &["start", "rolegate-keeper"])?;
    for text in ["different rolegates", &format!("{other} 99.10.0")] {
        ensure!(says(&seen, "versions", text), "no {text:?}: {seen:#?}");
    }
    wait_for("all to be of one release", LONG, || {
        let (_, report) = look_by(&node, "rolegate doctor --json --only versions,keeper")?;
        ensure!(findings(&report).is_empty(), "{report:#}");
        Ok(())
    })?;

    // Pacemaker's manual has this form of the xpath; the second is that of ocf/pcs/acl.sh.
    let role = |xpath: &str| {
        format!(
            "cibadmin --modify --allow-create -o acls --xml-text \"<acls><acl_role id=\\\"doctor\\\">\
             <acl_permission id=\\\"doctor-r\\\" kind=\\\"read\\\" xpath=\\\"/cib\\\"/>\
             <acl_permission id=\\\"doctor-w\\\" kind=\\\"write\\\" xpath=\\\"{xpath}\\\"/></acl_role>\
             <acl_target id=\\\"{}\\\"><role id=\\\"doctor\\\"/></acl_target></acls>\"",
            bed.server().user()
        )
    };
    let without = format!(
        "cibadmin --delete --xml-text '<acl_target id=\"{}\"/>'; cibadmin --delete --xml-text '<acl_role id=\"doctor\"/>'",
        bed.server().user()
    );
    let (hole, right) = (
        role("//nvpair[@name='redis_role']"),
        role("/cib/configuration/nodes/node/instance_attributes/nvpair[@name='redis_role']"),
    );
    let on = property("enable-acl", "true");
    let off = format!("{}; {without}", gone("enable-acl"));
    turn(&node, &[case("cluster-acl", "rename it there", format!("{hole}; {on}"), off.clone())], &[])?;
    // The right one has no finding, and says what even that lets through: it was tried.
    let before = look(&node)?;
    let said = node.sh_within(LONG, &format!("{right}; {on}")).and_then(|_| {
        wait_for("the right rules to be seen", LONG, || {
            let (_, report) = look_by(&node, "rolegate doctor --json --only cluster-acl")?;
            let check = &report["checks"][0];
            let found = check["found"].to_string();
            let says = found.contains("its own attribute it may rename") && check["id"] == "cluster-acl";
            ensure!(findings(&report).is_empty() && says, "{report:#}");
            Ok(())
        })
    });
    node.sh_within(LONG, &off)?;
    said?;
    wait_for("all to be as it was", LONG, || {
        let now = look(&node)?;
        ensure!(now == before, "{now:#?}\nbefore: {before:#?}");
        Ok(())
    })?;
    ended();
    Ok(())
}

fn servers(bed: &Bed) -> Result<()> {
    let [primary, node, third] = three(bed)?;
    let (cli, config) = (bed.server().cli(), bed.server().config());
    let set = |setting: &str, value: &str| format!("{cli} CONFIG SET {setting} '{value}'");
    let certificate = "openssl req -x509 -newkey rsa:2048 -nodes -keyout /run/doctor.key -out /run/doctor.pem -days 1 -subj /CN=doctor 2>/dev/null; chmod 644 /run/doctor.*";
    turn(
        &node,
        &[
            case(
                "min-replicas",
                "as primary it takes no writes",
                set("min-replicas-to-write", "9"),
                set("min-replicas-to-write", "0"),
            ),
            case(
                "announce",
                "announces 10.77.0.99",
                set("replica-announce-ip", "10.77.0.99"),
                set("replica-announce-ip", ""),
            ),
            case("persistence", "keeps nothing", set("save", ""), set("save", "3600 1 300 100 60 10000")),
            case("bind", "without", set("bind", "0.0.0.0"), set("bind", "0.0.0.0 ::")),
            case(
                "hello",
                "user default, doctor may",
                format!("{cli} ACL SETUSER doctor on nopass '&*' +publish"),
                format!("{cli} ACL DELUSER doctor"),
            ),
            case(
                "restart-as-primary",
                "has no replicaof",
                format!("cp -p {config} /run/doctor.conf; sed -i '/^replicaof/d' {config}"),
                format!("cp -p /run/doctor.conf {config}"),
            ),
            case(
                "certificates",
                "/run/doctor.pem ends",
                format!("{certificate}; {}", set("tls-cert-file", "/run/doctor.pem")),
                set("tls-cert-file", ""),
            ),
        ],
        &[],
    )?;
    // Nobody from another address sees this server then.
    node.sh(&set("protected-mode", "yes"))?;
    let seen = look_by(&node, "rolegate doctor --json --only protected-mode");
    node.sh(&set("protected-mode", "no"))?;
    let seen = findings(&seen?.1);
    ensure!(says(&seen, "protected-mode", "protected mode is on"), "{seen:#?}");

    let sentinel =
        |on: &Host<'_>, what: &str| format!("{cli} -h {} -p 26379 SENTINEL SET mymaster {what}", on.address());
    let extra = format!(
        "port 26390\\ndaemonize yes\\npidfile /run/doctor.pid\\ndir /run\\nsentinel monitor mymaster {} 6379 2\\n",
        primary.address()
    );
    let reset: Vec<String> = NODES
        .iter()
        .map(|name| Ok(format!("{cli} -h {} -p 26379 SENTINEL RESET mymaster", bed.host(name)?.address())))
        .collect::<Result<_>>()?;
    turn(
        &node,
        &[
            case("sentinel-quorum", "has quorum 1", sentinel(&primary, "quorum 1"), sentinel(&primary, "quorum 2")),
            case(
                "down-after",
                "6000 ms",
                sentinel(&third, "down-after-milliseconds 6000"),
                sentinel(&third, "down-after-milliseconds 5000"),
            ),
            case(
                "reboot-down-after",
                "has 3000",
                sentinel(&node, "master-reboot-down-after-period 3000"),
                sentinel(&node, "master-reboot-down-after-period 0"),
            ),
            case(
                "sentinel-count",
                "knows 3 others",
                format!(
                    "printf '{extra}' > /run/doctor-sentinel.conf; {} /run/doctor-sentinel.conf",
                    bed.server().sentinel()
                ),
                format!("kill $(cat /run/doctor.pid); sleep 0.5; {}", reset.join("; ")),
            ),
        ],
        &[],
    )?;
    turn(
        &node,
        &[case(
            "down-after",
            "1500 ms for mymaster, the lease is 2000 ms",
            sentinel(&third, "down-after-milliseconds 1500"),
            sentinel(&third, "down-after-milliseconds 5000"),
        )],
        &[],
    )?;
    let (unit, file) = (bed.server().sentinel(), bed.server().sentinel_config());
    turn(
        &node,
        &[case(
            "scripts",
            "calls no script",
            format!(
                "systemctl stop {unit}; cp -p {file} /run/doctor.conf; sed -i /client-reconfig-script/d {file}; systemctl start {unit}"
            ),
            format!("systemctl stop {unit}; cp -p /run/doctor.conf {file}; systemctl start {unit}"),
        )],
        &["sentinel-count"],
    )?;

    // A user with fewer rights, for this run alone.
    let user = |rules: &str, port: u16| {
        let on = |name: &&str| Ok(format!("{cli} -h {} -p {port} ACL {rules}", bed.host(name)?.address()));
        NODES.iter().map(on).collect::<Result<Vec<_>>>().map(|all| all.join("; "))
    };
    node.sh(&user("SETUSER doctor on '>secret' -@all +info '+config|get'", 6379)?)?;
    node.sh(&user("SETUSER doctor on '>secret' allchannels +@all '-client|list' '-client|setname'", 26379)?)?;
    let with = |password: &str| {
        let toml = "[redis]\\nuser = \"doctor\"\\npassword_file = \"/run/doctor.secret\"\\n[sentinel]\\nuser = \"doctor\"\\npassword_file = \"/run/doctor.secret\"\\n";
        format!("printf {password} > /run/doctor.secret; {}", private(toml, "rolegate doctor --json"))
    };
    let (fewer, wrong) = (look_by(&node, &with("secret")), look_by(&node, &with("wrong")));
    node.sh(&format!("{}; {}", user("DELUSER doctor", 6379)?, user("DELUSER doctor", 26379)?))?;
    let (fewer, wrong) = (findings(&fewer?.1), wrong?.1);
    ensure!(!wrong.to_string().contains("secret\""), "{wrong:#}");
    let wrong = findings(&wrong);
    for (found, (id, text)) in [
        (&fewer, ("sentinel-rights", "CLIENT LIST")),
        (&fewer, ("sentinel-rights", "CLIENT SETNAME")),
        (&fewer, ("redis-rights", "denies our user CONFIG SET")),
        (&wrong, ("access", "a Redis denies access")),
    ] {
        ensure!(says(found, id, text), "{id} does not say {text:?}: {found:#?}");
    }
    ensure!(!fewer.contains_key("access"), "{fewer:#?}");
    hook_fails(bed, &node)?;
    ended();
    Ok(())
}

/// A hook that fails at a failover is called again after 30 s.
fn hook_fails(bed: &Bed, node: &Host<'_>) -> Result<()> {
    let hook = "/usr/lib/rolegate/rolegate-hook";
    three(bed)?;
    bed.replicas_known()?;
    // No script: Sentinel's unit forbids to execute the shell.
    node.sh(&format!("mv {hook} /run/doctor.hook; cp /bin/false {hook}"))?;
    let failed = node.redis(26379, &["SENTINEL", "FAILOVER", "mymaster"]).and_then(|_| {
        wait_for("the hook to have failed", LONG, || {
            let seen = findings(&look_by(node, "rolegate doctor --json --only scripts")?.1);
            ensure!(says(&seen, "scripts", "the hook has failed at Sentinel"), "{seen:#?}");
            Ok(())
        })
    });
    node.sh(&format!("mv /run/doctor.hook {hook}"))?;
    failed?;
    wait_for("the hook to be called again", 2 * LONG, || {
        let seen = findings(&look_by(node, "rolegate doctor --json --only scripts")?.1);
        ensure!(seen.is_empty(), "{seen:#?}");
        Ok(())
    })?;
    three(bed).map(drop)
}

/// A shell line that runs another one with these settings, which nobody else sees.
fn private(toml: &str, line: &str) -> String {
    format!(
        "mkdir -p /etc/rolegate; printf '{toml}' > /run/doctor.toml; unshare --mount --propagation private sh -c 'mount -t tmpfs none /etc/rolegate; \
         cp /run/doctor.toml /etc/rolegate/rolegate.toml; {line}'"
    )
}

fn here(bed: &Bed) -> Result<()> {
    let [primary, node, _] = three(bed)?;
    let unit = bed.server().sentinel();
    let dropin = format!("/usr/lib/systemd/system/{unit}.service.d/rolegate.conf");
    turn(
        &node,
        &[
            case(
                "hook",
                "forbids to execute",
                format!("mv {dropin} /run/doctor.dropin; systemctl daemon-reload; systemctl restart {unit}"),
                format!("mv /run/doctor.dropin {dropin}; systemctl daemon-reload; systemctl restart {unit}"),
            ),
            case("hook", "is not in group haclient", "true", "true"),
            case("hook", "has PrivateUsers=yes", "true", "true"),
            // And it was tried.
            case("hook", "run as Sentinel runs it, it fails at", "true", "true"),
            case(
                "foreign-rules",
                "tcp dport 6381 notrack",
                "nft 'table inet doctor { chain none { tcp dport 6381 notrack; }; \
                 chain in { type filter hook input priority 0; ip saddr != 10.77.0.0/24 tcp dport 6379 ct status != dnat drop; \
                 tcp dport 6381 drop; }; }'",
                "nft delete table inet doctor",
            ),
            case("foreign-rules", "takes what comes to a port of the gate: inet doctor in", "true", "true"),
            // Here it accepts all; by what it says it need not.
            case(
                "foreign-rules",
                "inet doctor-drops in drops what no rule accepts",
                "nft 'table inet doctor-drops { chain in { type filter hook input priority 0; policy drop; accept; }; }'",
                "nft delete table inet doctor-drops",
            ),
            case("direct", "-past the gate", "true", "true"),
        ],
        &["sentinel-count"],
    )?;
    // nft shows a rule of iptables-nft, too: it is told of once, with the command that takes it away.
    node.sh("iptables-nft -A INPUT -p tcp --dport 6381 -j DROP")?;
    let told = || -> Result<Vec<(String, String)>> {
        let report = look_by(&node, "rolegate doctor --json --only foreign-rules")?.1;
        let all = report["checks"].as_array().into_iter().flatten();
        let found = all.flat_map(|check| check["findings"].as_array().into_iter().flatten().cloned());
        let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        let told = found.map(|finding| (text(&finding, "found"), text(&finding, "mend")));
        Ok(told.filter(|(found, _)| found.contains("6381")).collect())
    };
    let before = told()?;
    for (_, mend) in &before {
        node.sh(mend)?;
    }
    let after = told()?;
    node.sh("nft delete table ip filter")?;
    ensure!(before.len() == 1 && after.is_empty(), "{before:?}, then {after:?}");
    turn(
        &node,
        &[
            case("keeper", "see no keeper", "systemctl stop rolegate-keeper", "systemctl start rolegate-keeper"),
            case("keeper-unit", "it is inactive", "true", "true"),
        ],
        &["ports"],
    )?;
    // The keeper makes them anew within a second.
    let pid = node.ask("pidof", &["rolegate-keeper"])?;
    let turned = wait_for("the firewall to be seen before the keeper sees it", LONG, || {
        node.sh(&format!("kill -STOP {pid}; nft delete table inet rolegate"))?;
        let seen = look_by(&node, "rolegate doctor --json --only firewall,ports");
        node.sh(&format!("kill -CONT {pid}"))?;
        let seen = findings(&seen?.1);
        for (id, text) in [("firewall", "missing"), ("ports", "6380 is refused")] {
            ensure!(says(&seen, id, text), "{id} does not say {text:?}: {seen:#?}");
        }
        Ok(())
    });
    turned?;
    let pid = primary.ask("pidof", &["rolegate-keeper"])?;
    primary.sh(&format!("kill -STOP {pid}"))?;
    thread::sleep(Duration::from_millis(500));
    let late = look_by(&primary, "rolegate doctor --json --only last-proof");
    primary.sh(&format!("kill -CONT {pid}"))?;
    let late = findings(&late?.1);
    // By the time of the look it has run out, or nearly.
    let is_late = ["no lease was held all the time here", "the oldest proof was"];
    ensure!(is_late.iter().any(|text| says(&late, "last-proof", text)), "{late:#?}");

    // Of this process alone, so that nobody else is disturbed.
    let line = "rolegate doctor --json";
    let mounted = |from: &str, to: &str| {
        format!("unshare --mount --propagation private sh -c 'mount --bind {from} {to}; {line}'")
    };
    let full = "echo 250000 > /run/doctor.count; sysctl -n net.netfilter.nf_conntrack_max >/dev/null";
    for ((id, text), line) in [
        (("settings", "unknown field"), private("wrong = 1\\n", line)),
        (("direct", "is not in force"), private("[firewall]\\ndirect = []\\n", line)),
        (
            ("conntrack", "250000 of"),
            format!("{full}; {}", mounted("/run/doctor.count", "/proc/sys/net/netfilter/nf_conntrack_count")),
        ),
        (
            ("firewall-backend", "ipset is not installed"),
            private(
                "[firewall]\\nbackend = \"iptables\"\\n",
                &format!("mount --bind /dev/null /usr/sbin/ipset; {line}"),
            ),
        ),
        (("pacemaker", "Permission denied"), format!("setpriv --reuid=nobody --regid=nogroup --clear-groups {line}")),
        (("hook", "needs root"), format!("setpriv --reuid=nobody --regid=nogroup --clear-groups {line}")),
    ] {
        let seen = findings(&look_by(&node, &line)?.1);
        ensure!(says(&seen, id, text), "{id} does not say {text:?}: {seen:#?}");
    }
    three(bed)?;
    ended();
    Ok(())
}

fn half(bed: &Bed) -> Result<()> {
    let [_, node, _] = three(bed)?;
    bed.isolate(&[node.name()])?;
    let seen = wait_for("the node to know that it is alone", LONG, || {
        let started = Instant::now();
        let (code, report) = look_by(&node, "rolegate doctor --json")?;
        let took = started.elapsed();
        let seen = findings(&report);
        ensure!(says(&seen, "quorum", "no quorum"), "{seen:#?}");
        // It is unknown whether the others take writes; what is wrong here may well be critical.
        ensure!(code == 2 || code == 3, "code {code}");
        ensure!(took < Duration::from_secs(8), "it took {took:?}");
        Ok(seen)
    });
    bed.heal()?;
    let seen = seen?;
    for (id, text) in [
        ("writers", "1 of 3 Sentinels answer here"),
        ("members", "in the cluster"),
        ("redis", "silent"),
        ("sentinel-agreement", "no answer"),
    ] {
        ensure!(says(&seen, id, text), "{id} does not say {text:?}: {seen:#?}");
    }
    bed.wait_ready(3 * LONG)?;
    three(bed)?;
    ended();
    Ok(())
}

fn disagreement(bed: &Bed) -> Result<()> {
    let [primary, node, third] = three(bed)?;
    bed.replicas_known()?;
    let (unit, file) = (bed.server().sentinel(), bed.server().sentinel_config());
    let edited = |on: &Host<'_>, edit: &str| {
        on.sh_within(LONG, &format!("systemctl stop {unit}; sed -i '{edit}' {file}; systemctl start {unit}")).map(drop)
    };
    // At the same epoch the others' hellos change nothing.
    let (old, wrong) = (primary.address(), third.address());
    edited(
        &third,
        &format!(
            "s/^sentinel monitor mymaster {old} /sentinel monitor mymaster {wrong} /; /known-replica mymaster {wrong} /d"
        ),
    )?;
    let name = primary.name();
    let cure = wait_for("the Sentinel that stands alone", LONG, || {
        let (_, report) = look_by(&node, "rolegate doctor --json --only sentinel-agreement")?;
        let finding = &report["checks"][0]["findings"][0];
        let (found, mend) =
            (finding["found"].as_str().unwrap_or_default(), finding["mend"].as_str().unwrap_or_default());
        ensure!(found.contains(&format!("names {}", third.name())) && found.contains("others do not"), "{report:#}");
        let (_, command) = mend.split_once(": ").context("a command")?;
        Ok(command.to_owned())
    })?;
    ensure!(cure.contains("SENTINEL FAILOVER mymaster") && !cure.contains(&wrong), "{cure}");
    thread::sleep(Duration::from_secs(1));
    node.sh(&cure)?;
    wait_for("all to agree on another node", 2 * LONG, || {
        let now = bed.primary()?.name();
        ensure!(now != name, "it is {now}");
        let found = look(&node)?;
        ensure!(found.keys().all(|id| DESERVED.contains(&id.as_str())), "{found:#?}");
        Ok(())
    })?;

    // All of them set up anew, as far as epochs go: the keepers have seen the failover.
    let epoch = |value: &str| {
        let all = bed.nodes().map(|on| {
            edited(&on, &format!("s/^sentinel config-epoch mymaster .*/sentinel config-epoch mymaster {value}/"))
        });
        all.collect::<Result<()>>()
    };
    let before = node.sh(&format!("sed -n 's/^sentinel config-epoch mymaster //p' {file}"))?.text();
    let stop = format!(
        "systemctl stop {unit}; sed -i 's/^sentinel config-epoch mymaster .*/sentinel config-epoch mymaster 0/' {file}"
    );
    bed.nodes().try_for_each(|on| on.sh_within(LONG, &stop).map(drop))?;
    bed.nodes().try_for_each(|on| on.ask("systemctl", &["start", unit]).map(drop))?;
    let seen = wait_for("the epochs to be missed", LONG, || {
        let found = findings(&look_by(&node, "rolegate doctor --json --only sentinel-epochs")?.1);
        ensure!(says(&found, "sentinel-epochs", "have epoch 0"), "{found:#?}");
        Ok(())
    });
    // One that is lower than it was would be seen, too.
    epoch(before.trim())?;
    seen?;
    three(bed)?;
    ended();
    Ok(())
}
