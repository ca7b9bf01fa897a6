//! Commands on all nodes, backups, and taking everything out again.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use rolegate::command::Cmd;
use serde_json::{Value, json};

use super::cli::{Said, healthy, rolegate, wait_status};
use super::moves::recorded;
use crate::OnBed;
use crate::bed::variant::MYMASTER;
use crate::bed::{Bed, Host, gates, project, wait_for};

pub const TRIALS: &[(&str, OnBed)] = &[
    ("exec_runs_a_command_on_all_nodes_and_lets_writes_only_to_the_primary", exec),
    ("a_backup_from_a_replica_is_restored_as_the_document_says", backup_and_restore),
    ("a_backup_is_restored_with_appendonly_as_the_document_says", restore_appendonly),
    ("the_backup_timer_makes_backups_and_one_that_fails_is_a_failed_unit", backup_timer),
    ("the_metrics_timer_writes_the_file_anew_in_one_step", metrics_timer),
    ("deinit_takes_out_what_init_has_put_in_and_nothing_else", deinit),
];

const LONG: Duration = Duration::from_secs(60);

/// `rolegate exec` with words of any bytes.
fn exec_words(on: &Host<'_>, args: &[&str], words: &[&[u8]]) -> Result<Said> {
    let args = args.iter().map(OsString::from).chain(words.iter().map(|word| OsStr::from_bytes(word).to_owned()));
    let output = on.cmd("rolegate")?.arg("exec").args(args).deadline(LONG).run_expecting(&[0, 1, 2, 3])?;
    Ok(Said { code: output.code, text: output.text() + &output.stderr })
}

fn exec(bed: &Bed) -> Result<()> {
    let (primary, other) = healthy(bed)?;
    let node = bed.host(other)?;
    let said = |args: &[&str]| rolegate(&node, &[&["exec"], args].concat());
    let pings = said(&["PING"])?;
    ensure!(pings.code == 0 && pings.text.matches("PONG").count() == 3, "{pings:?}");

    // Words as they are, whatever a shell would make of them.
    let (key, value) = (b"ops k \"1\"".as_slice(), b"a\n$(id); '\xff".as_slice());
    let set = exec_words(&node, &["--role", "primary", "--"], &[b"SET", key, value])?;
    ensure!(set.code == 0 && set.text.contains("OK"), "{set:?}");
    let quoted = r#""a\n$(id); '\xff""#;
    wait_for("the value on all nodes", LONG, || {
        let got = exec_words(&node, &["--"], &[b"GET", key])?;
        ensure!(got.code == 0 && got.text.matches(quoted).count() == 3, "{got:?}");
        Ok(())
    })?;
    let got = exec_words(&node, &["--json", "--node", primary, "--"], &[b"GET", key])?;
    let got: Value = serde_json::from_str(&got.text)?;
    ensure!(got["nodes"][0]["reply"] == json!({"hex": "610a24286964293b2027ff"}), "{got:#}");

    // What is refused reaches nobody.
    for (args, part) in [
        (&["SET", "ops-x", "1"][..], "it writes, and this node's role is replica"),
        (&["--node", other, "SET", "ops-x", "1"], "it writes, and this node's role is replica"),
        (&["EVAL", "return redis.call('SET', 'ops-x', 1)", "0"], "a script may write"),
        (&["XGROUP", "CREATE", "ops-x", "g", "$", "MKSTREAM"], "it writes"),
        (&["BLPOP", "ops-x", "0"], "it blocks"),
        (&["XREAD", "BLOCK", "0", "STREAMS", "ops-x", "$"], "it blocks"),
        (&["SUBSCRIBE", "c"], "takes the connection over"),
        (&["monitor"], "takes the connection over"),
        (&["SAVE"], "to one node only, and that by name"),
        (&["--role", "primary", "DEBUG", "RELOAD"], "to one node only, and that by name"),
        (&["FAILOVER"], "rolegate switchover"),
        (&["NO-SUCH", "x"], "cannot be told: the server knows no NO-SUCH"),
        (&["CONFIG"], "cannot be told"),
        (&["--node", "node9", "PING"], "no node node9"),
    ] {
        let refused = said(args)?;
        ensure!(refused.code == 2 && refused.text.contains(part), "{args:?}: {refused:?}");
    }
    let exists = said(&["EXISTS", "ops-x"])?;
    ensure!(exists.code == 0 && exists.text.matches("(integer) 0").count() == 3, "{exists:?}");
    let script = "return redis.call('STRLEN', KEYS[1])";
    let read = exec_words(&node, &["--role", "replica", "--"], &[b"EVAL_RO", script.as_bytes(), b"1", key])?;
    ensure!(read.code == 0 && read.text.matches("(integer) 11").count() == 2, "{read:?}");
    let error = said(&["--role", "primary", "INCR"])?;
    ensure!(error.code == 1 && error.text.contains("(error) ERR wrong number"), "{error:?}");
    let info = said(&["--node", other, "INFO", "replication"])?;
    ensure!(info.code == 0 && info.text.contains("\nrole:slave\n"), "{info:?}");

    // Could not tell is not no.
    let frozen = bed.host(primary)?;
    let server = bed.server().unit();
    let stopped = || -> Result<()> {
        frozen.signal(server, Signal::SIGSTOP)?;
        let silent = rolegate(&node, &["exec", "--json", "PING"]);
        frozen.signal(server, Signal::SIGCONT)?;
        let silent = silent?;
        let json: Value = serde_json::from_str(&silent.text).with_context(|| format!("{silent:?}"))?;
        for answer in json["nodes"].as_array().context("nodes")? {
            match answer["node"] == primary {
                true => ensure!(answer["missing"] == "no answer" && answer.get("reply").is_none(), "{json:#}"),
                false => ensure!(answer["reply"] == "PONG", "{json:#}"),
            }
        }
        ensure!(silent.code == 3, "{silent:?}");
        Ok(())
    };
    stopped()?;
    exec_words(&node, &["--role", "primary", "--"], &[b"DEL", key])?;
    wait_status(&node, 0, "\"code\": 0").map(drop)
}

/// The commands of docs/backup.md for restoring, one block for each step, with Valkey's names where the bed has that.
fn restoring(bed: &Bed) -> Result<Vec<String>> {
    let text = fs::read_to_string(project().join("docs/backup.md"))?;
    let (_, steps) = text.split_once("## Restoring one").context("docs/backup.md has no such heading")?;
    let mut blocks: Vec<Vec<&str>> = vec![Vec::new()];
    for line in steps.lines() {
        match line.strip_prefix("        ") {
            Some(command) => blocks.last_mut().context("one at least")?.push(command),
            None => blocks.push(Vec::new()),
        }
    }
    let named = |block: Vec<&str>| block.join("\n").replace("redis", bed.server().user());
    Ok(blocks.into_iter().filter(|block| !block.is_empty()).map(named).collect())
}

fn backup_and_restore(bed: &Bed) -> Result<()> {
    let (primary, other) = healthy(bed)?;
    let (writer, node) = (bed.host(primary)?, bed.host(other)?);
    let directory = "/var/backups/rolegate";
    let settings = format!(
        "mkdir -p {directory} /etc/rolegate; cd /etc/rolegate; [ ! -e rolegate.toml ] || mv rolegate.toml kept; echo mine > {directory}/rolegate-mymaster-20200101T000000Z.rdb.gz
         printf '[backup]\\nhook = [\"/bin/cp\", \"-t\", \"/root\"]\\n' > /etc/rolegate/rolegate.toml"
    );
    writer.sh(&settings)?;
    let many = "for n = 1, 2000 do redis.call('SET', 'ops:' .. n, string.rep('x', 1000)) end";
    writer.redis(6379, &["EVAL", many, "0"])?;
    writer.redis(6379, &["SET", "ops-before", "kept"])?;
    wait_for("the replicas to have it", LONG, || {
        for node in bed.nodes() {
            ensure!(node.redis(6379, &["GET", "ops-before"])? == "kept", "{}", node.name());
        }
        Ok(())
    })?;
    let keys = writer.redis(6379, &["DBSIZE"])?;

    let made = rolegate(&writer, &["backup"])?;
    ensure!(made.code == 0 && made.text.contains("replica, ") && made.text.contains("checked by"), "{made:?}");
    ensure!(made.text.contains("/bin/cp has taken it"), "{made:?}");
    let file = made.text.lines().map(str::trim).find(|line| line.starts_with(directory)).context("no path")?.to_owned();
    ensure!(writer.ask("stat", &["-c", "%a %U", &file])? == "600 root", "{file}");
    let copy = file.replace(directory, "/root");
    writer.ask("cmp", &[&file, &copy])?;

    // Not from the primary unless asked; a hook that fails costs the hook only; the newest is kept, and what is another's.
    let refused = rolegate(&node, &["backup", "--from", primary])?;
    ensure!(refused.code == 2 && refused.text.contains("--from-primary"), "{refused:?}");
    // Longer than from one INFO of a Sentinel to the next, in which it sees who replicates; by waits that are long beside what a busy machine
    // adds to each.
    writer.redis(6379, &["CONFIG", "SET", "rdb-key-save-delay", "5500"])?;
    // One that is killed in the middle of it leaves nothing that looks like a backup, and the next one takes it away.
    let files = || -> Result<(usize, usize)> {
        let left = node.ask("ls", &["-A", directory])?;
        let whole = |name: &&str| name.starts_with("rolegate-mymaster-") && name.ends_with(".rdb.gz");
        Ok((left.lines().filter(whole).count(), left.lines().count()))
    };
    let killed = node.sh("timeout --signal=KILL 4 rolegate backup --from-primary || test $? = 137");
    let cut_off = files();
    let from_primary = rolegate(&node, &["backup", "--from-primary"]);
    writer.redis(6379, &["CONFIG", "SET", "rdb-key-save-delay", "0"])?;
    let (killed, from_primary) = (killed?.text(), from_primary?);
    ensure!(
        cut_off? == (0, 2),
        "killed in the middle of it ({killed}), and there is more than the lock and what it had begun"
    );
    ensure!(from_primary.code == 0 && from_primary.text.contains("(primary)"), "{from_primary:?}");
    ensure!(files()? == (1, 2), "{:?}: the lock and one backup", files()?);
    writer.sh("sed -i 's,/bin/cp,/bin/false,' /etc/rolegate/rolegate.toml")?;
    let failed = rolegate(&writer, &["backup", "--from", other, "--keep", "1"])?;
    ensure!(failed.code == 1 && failed.text.contains("the backup is there, but the hook failed"), "{failed:?}");
    ensure!(failed.text.contains(&format!("removed {file}")), "{failed:?}");
    let left = writer.ask("ls", &["-A", directory])?;
    ensure!(left.lines().count() == 3 && left.contains("20200101T000000Z"), "{left}");
    for node in bed.nodes() {
        let known = node.redis(26379, &["SENTINEL", "REPLICAS", "mymaster"])?;
        ensure!(known.lines().filter(|line| *line == "name").count() == 2, "we are taken for a replica: {known}");
    }

    let restored = lose_and_restore(&writer, &node, &copy, &keys, false);
    // Whatever came of it, other trials want a gate.
    let undo = format!(
        "pcs resource enable RedisGate-clone; rm -rf {directory} /root/rolegate-*; cd /etc/rolegate; rm -f rolegate.toml; \
         [ ! -e kept ] || mv kept rolegate.toml"
    );
    writer.sh_within(LONG, &undo)?;
    node.sh(&format!("rm -rf {directory}"))?;
    restored
}

fn restore_appendonly(bed: &Bed) -> Result<()> {
    let (primary, other) = healthy(bed)?;
    let (writer, node) = (bed.host(primary)?, bed.host(other)?);
    let append = |value: &str| -> Result<()> {
        bed.nodes().try_for_each(|node| {
            node.redis(6379, &["CONFIG", "SET", "appendonly", value])?;
            wait_for("what it appends to", LONG, || written_anew(&node))?;
            node.redis(6379, &["CONFIG", "REWRITE"]).map(drop)
        })
    };
    append("yes")?;
    let directory = "/root/ops-appendonly";
    let done = (|| {
        writer.redis(6379, &["SET", "ops-before", "kept"])?;
        wait_for("the replicas to have it", LONG, || {
            ensure!(node.redis(6379, &["GET", "ops-before"])? == "kept", "not yet");
            Ok(())
        })?;
        let keys = writer.redis(6379, &["DBSIZE"])?;
        let made = rolegate(&writer, &["backup", "--from", other, "--directory", directory, "--no-hook"])?;
        ensure!(made.code == 0, "{made:?}");
        let name = writer.ask("ls", &[directory])?;
        // It may have to be put where another node is primary.
        bed.nodes().try_for_each(|node| node.sh(&format!("mkdir -p {directory}")).map(drop))?;
        lose_and_restore(&writer, &node, &format!("{directory}/{name}"), &keys, true)
    })();
    // Whatever came of it, other trials want all to run, and a gate.
    let undone = (|| {
        let (server, sentinel, data) = (bed.server().unit(), bed.server().sentinel(), bed.server().data());
        for node in bed.nodes() {
            node.sh_within(LONG, &format!("systemctl start {server} {sentinel}"))?;
        }
        node.sh_within(LONG, "pcs resource enable RedisGate-clone")?;
        append("no")?;
        let gone = format!("rm -rf {directory} {data}/appendonlydir*");
        bed.nodes().try_for_each(|node| node.sh(&gone).map(drop))
    })();
    done.and(undone)
}

/// Whether a server's append-only file is whole, as far as it has one.
fn written_anew(node: &Host<'_>) -> Result<()> {
    let said = node.redis(6379, &["INFO", "persistence"])?;
    for line in ["aof_rewrite_scheduled:0", "aof_rewrite_in_progress:0", "aof_last_bgrewrite_status:ok"] {
        ensure!(said.lines().any(|there| there.trim_end() == line), "no {line} on {}: {said}", node.name());
    }
    Ok(())
}

/// Destroys all data and restores `copy`, a backup on `writer` with so many keys.
fn lose_and_restore(writer: &Host<'_>, node: &Host<'_>, copy: &str, keys: &str, appendonly: bool) -> Result<()> {
    let bed = writer.bed();
    // Flushed while it runs, and no file of it is left.
    writer.redis(6379, &["FLUSHALL"])?;
    writer.redis(6379, &["SET", "ops-after", "lost"])?;
    let steps = restoring(bed)?;
    let [disable, stop, which, data, start, append, rewrite, look, others, sentinels, enable] = steps.as_slice() else {
        anyhow::bail!("docs/backup.md has other steps than this trial: {steps:#?}")
    };
    let everywhere =
        |step: &str| -> Result<()> { bed.nodes().try_for_each(|node| node.sh_within(LONG, step).map(drop)) };
    node.sh_within(LONG, disable)?;
    wait_for("every gate to stop", LONG, || {
        let open = gates::open_gates(bed)?;
        let said = node.ask("crm_mon", &["-1"])?;
        ensure!(open.is_empty() && !said.contains("romoted: ["), "{open:?}: {said}");
        Ok(())
    })?;
    everywhere(stop)?;
    match appendonly {
        false => everywhere(&format!("rm -rf {}/*", bed.server().data()))?,
        // What stays is the wrong data, which Redis must not read.
        true => everywhere(&format!("test -e {}/appendonlydir/*.manifest", bed.server().data()))?,
    }
    let address = node.sh(which)?.text().split_whitespace().nth(3).context("no address")?.to_owned();
    let named = bed.nodes().find(|node| node.address() == address).context("a node")?;
    if named.name() != writer.name() {
        let bytes = writer.cmd("cat")?.arg(copy).run()?.stdout;
        named.cmd("sh")?.args(["-c", &format!("cat > {copy}")]).stdin(bytes).run()?;
    }
    named.sh_within(LONG, &data.replace("FILE", copy))?;
    named.sh_within(LONG, if appendonly { append } else { start })?;
    if appendonly {
        wait_for("the append-only file", LONG, || written_anew(&named))?;
        named.sh(rewrite)?;
        // This is not in the document: that it starts with the same from now on.
        named.sh_within(LONG, &format!("systemctl restart {}", bed.server().unit()))?;
        let now = named.redis(6379, &["INFO", "persistence"])?;
        ensure!(now.contains("aof_enabled:1"), "{now}");
    }
    wait_for("Redis to have loaded it", LONG, || {
        let said = named.sh(look)?.text();
        ensure!(said.starts_with("master\n") && said.trim_end().ends_with(&format!("\n{keys}")), "{said}");
        Ok(())
    })?;
    for node in bed.nodes().filter(|node| node.name() != named.name()) {
        node.sh_within(LONG, others)?;
    }
    everywhere(sentinels)?;
    // Its exit code is that of a cluster that is not open yet.
    let _opening = node.sh_within(LONG, enable);
    wait_status(node, 0, "\"code\": 0")?;
    ensure!(gates::open_gates(bed)? == [named.name()], "open on {:?}", gates::open_gates(bed)?);
    for node in bed.nodes() {
        let role = gates::role(&node)?;
        ensure!(role == if node.name() == named.name() { "primary" } else { "replica" }, "{} is {role}", node.name());
        ensure!(node.redis(6379, &["DBSIZE"])? == keys, "{}", node.name());
        ensure!(
            node.redis(6379, &["GET", "ops-before"])? == "kept" && node.redis(6379, &["GET", "ops-after"])?.is_empty()
        );
        wait_for("replica-priority to be back", LONG, || {
            let priority = node.redis(6379, &["CONFIG", "GET", "replica-priority"])?;
            ensure!(priority.ends_with("\n100"), "{}: {priority}", node.name());
            Ok(())
        })?;
    }
    named.redis(6379, &["FLUSHALL"]).map(drop)
}

/// Switches a timer on with the line that the document has for it.
fn enable(on: &Host<'_>, timer: &str, document: &str) -> Result<()> {
    let line = format!("systemctl enable --now {timer}");
    let text = fs::read_to_string(project().join(document))?;
    ensure!(text.lines().any(|there| there.trim() == line), "{document} has no line {line:?}");
    on.sh(&line).map(drop)
}

/// A property of a unit.
fn shown(on: &Host<'_>, unit: &str, property: &str) -> Result<String> {
    on.ask("systemctl", &["show", "-P", property, unit])
}

/// Where the trial's hook puts what it gets.
const TAKEN: &str = "/var/lib/ops-taken";

fn backup_timer(bed: &Bed) -> Result<()> {
    let (_, other) = healthy(bed)?;
    let node = bed.host(other)?;
    // A copy in its own place, and which home it has: programs for upload look there.
    let hook =
        format!("#!/bin/sh\nset -eu\n[ \"$1\" = --cold ] && cp -t {TAKEN} \"$2\"\necho \"$HOME\" > {TAKEN}/home\n");
    fs::write(node.root().join("usr/local/sbin/upload-backup"), hook)?;
    node.sh(&format!(
        "chmod 755 /usr/local/sbin/upload-backup; mkdir -p {TAKEN} /etc/rolegate; cd /etc/rolegate; [ ! -e rolegate.toml ] || mv rolegate.toml kept"
    ))?;
    // A replica waits so long for others that want a copy, too: 5 s, for which the trial has no time.
    let delay = |seconds: &str| -> Result<()> {
        bed.nodes()
            .try_for_each(|node| node.redis(6379, &["CONFIG", "SET", "repl-diskless-sync-delay", seconds]).map(drop))
    };
    let usual = node.redis(6379, &["CONFIG", "GET", "repl-diskless-sync-delay"])?;
    delay("0")?;
    let done = backups_by_the_timer(&node);
    // Whatever came of it.
    delay(usual.lines().last().context("its value")?)?;
    let undo = format!(
        "systemctl disable --now rolegate-backup.timer; systemctl stop rolegate-backup.service; \
         rm -rf /etc/systemd/system/rolegate-backup.timer.d {TAKEN} /usr/local/sbin/upload-backup /var/backups/rolegate; \
         systemctl daemon-reload; systemctl reset-failed rolegate-backup.service || true; \
         cd /etc/rolegate; rm -f rolegate.toml ops.password; [ ! -e kept ] || mv kept rolegate.toml"
    );
    node.sh_within(LONG, &undo)?;
    done
}

/// The unit is never started by hand: each backup is the timer's.
fn backups_by_the_timer(node: &Host<'_>) -> Result<()> {
    let (timer, service, directory) = ("rolegate-backup.timer", "rolegate-backup.service", "/var/backups/rolegate");
    let since = format!("@{}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs());
    let journal = || node.journal(&["--output=cat", "--unit", service, "--since", &since]);
    let settings = |lines: &str| -> Result<()> {
        Ok(fs::write(node.root().join("etc/rolegate/rolegate.toml"), format!("[backup]\nkeep = 2\n{lines}"))?)
    };
    let hook = "hook = [\"/usr/local/sbin/upload-backup\", \"--cold\"]\n";
    settings(hook)?;
    enable(node, timer, "docs/backup.md")?;
    let next = shown(node, timer, "NextElapseUSecRealtime")?;
    ensure!(next.contains(" 02:"), "not between two and three: {next:?}");
    ensure!(shown(node, service, "ActiveState")? == "inactive", "switching it on has begun a backup");

    // The same every three seconds instead of each night.
    let often = "[Timer]\nOnCalendar=\nOnCalendar=*:*:0/3\nRandomizedDelaySec=0\nAccuracySec=100ms\n";
    let place = node.root().join("etc/systemd/system/rolegate-backup.timer.d");
    fs::create_dir_all(&place)?;
    fs::write(place.join("often.conf"), often)?;
    node.sh(&format!("systemctl daemon-reload; systemctl restart {timer}"))?;
    let names = |directory: &str| -> Result<Vec<String>> {
        Ok(node.ask("ls", &[directory])?.lines().filter(|name| name.ends_with(".rdb.gz")).map(str::to_owned).collect())
    };
    wait_for("three backups", LONG, || {
        let taken = names(TAKEN)?;
        ensure!(taken.len() >= 3, "{taken:?}: {}", journal()?);
        Ok(())
    })?;
    node.sh(&format!("systemctl stop {timer}"))?;
    let ended = |state: &str, status: &str| -> Result<()> {
        let (is, with) = (shown(node, service, "ActiveState")?, shown(node, service, "ExecMainStatus")?);
        ensure!(is == state && with == status, "{service} is {is} with exit code {with}: {}", journal()?);
        Ok(())
    };
    wait_for("the last one to end", LONG, || ended("inactive", "0"))?;
    let (taken, left, log) = (names(TAKEN)?, names(directory)?, journal()?);
    // Their names are their times.
    let (older, newest) = taken.split_at(taken.len() - 2);
    ensure!(left == newest, "taken {taken:?}, kept {left:?}: {log}");
    ensure!(log.matches("-check-rdb").count() == taken.len(), "{log}");
    ensure!(log.matches("upload-backup has taken it").count() == taken.len(), "{log}");
    for name in older {
        ensure!(log.contains(&format!("removed {directory}/{name}")), "no word of {name}: {log}");
    }
    for name in &left {
        let path = format!("{directory}/{name}");
        node.ask("cmp", &[&path, &format!("{TAKEN}/{name}")])?;
        ensure!(node.ask("stat", &["-c", "%a %U:%G", &path])? == "600 root:root", "{path}");
    }
    ensure!(node.ask("stat", &["-c", "%a %U:%G", directory])? == "700 root:root", "{directory}");
    ensure!(node.ask("cat", &[&format!("{TAKEN}/home")])? == "/root", "the hook has another home");

    // What fails is a failed unit, whose journal says why, and leaves what is there.
    fs::write(node.root().join("etc/rolegate/ops.password"), "wrong\n")?;
    settings("user = \"backup\"\npassword_file = \"/etc/rolegate/ops.password\"\n")?;
    node.sh(&format!("systemctl start {timer}"))?;
    wait_for("a backup to fail", LONG, || ended("failed", "2"))?;
    let failed = node.ask("systemctl", &["list-units", "--failed", "--plain", "--no-legend"])?;
    // It may have begun again.
    ensure!(failed.contains(service) || shown(node, service, "ActiveState")? == "activating", "{failed}");
    let log = journal()?;
    for part in ["mymaster: no backup: ", "WRONGPASS", "look at user and password_file under [backup]"] {
        ensure!(log.contains(part), "no {part:?}: {log}");
    }
    ensure!(names(directory)? == left, "{:?} instead of {left:?}", names(directory)?);
    ensure!(node.ask("ls", &["-A", directory])?.lines().count() == 3, "more than they and the lock");

    settings("hook = [\"/bin/sh\", \"-c\", \"echo no room there >&2; exit 1\"]\n")?;
    wait_for("a hook to fail", LONG, || ended("failed", "1"))?;
    node.sh(&format!("systemctl stop {timer}"))?;
    wait_for("the last one to end", LONG, || ended("failed", "1"))?;
    let (log, now) = (journal()?, names(directory)?);
    ensure!(log.contains("the backup is there, but the hook failed") && log.contains("no room there"), "{log}");
    ensure!(now.len() == 2 && now > left, "{now:?} behind {left:?}");

    settings(hook)?;
    node.sh(&format!("systemctl start {timer}"))?;
    wait_for("the next one to be well", LONG, || ended("inactive", "0"))
}

fn metrics_timer(bed: &Bed) -> Result<()> {
    let (_, other) = healthy(bed)?;
    let node = bed.host(other)?;
    let done = metrics_by_the_timer(&node);
    node.sh_within(
        LONG,
        "systemctl disable --now rolegate-metrics.timer; systemctl stop rolegate-metrics.service; rm -rf /var/lib/prometheus",
    )?;
    done
}

/// As it is shipped: it is often enough for a trial.
fn metrics_by_the_timer(node: &Host<'_>) -> Result<()> {
    let (timer, service) = ("rolegate-metrics.timer", "rolegate-metrics.service");
    let directory = "/var/lib/prometheus/node-exporter";
    enable(node, timer, "docs/status.md")?;
    // Where there is no node exporter nothing is written, and nothing fails.
    wait_for("a run", LONG, || {
        ensure!(!shown(node, service, "ConditionTimestamp")?.is_empty(), "none yet");
        Ok(())
    })?;
    ensure!(shown(node, service, "ConditionResult")? == "no", "there is a {directory}");
    ensure!(shown(node, service, "ActiveState")? == "inactive", "it is no reason to fail");
    ensure!(!node.root().join("var/lib/prometheus").exists(), "it has made {directory}");

    // As Debian's package makes it. The timer goes on meanwhile.
    node.sh(&format!("mkdir -p {directory}"))?;
    let path = node.root().join(directory.trim_start_matches('/')).join("rolegate.prom");
    let whole = |text: &str| -> Result<u64> {
        ensure!(text.starts_with("# TYPE rolegate_status gauge\n") && text.ends_with("\n# EOF\n"), "{text:?}");
        ensure!(text.contains("\nrolegate_status "), "{text}");
        let looked = text.lines().find_map(|line| line.strip_prefix("rolegate_looked_timestamp_seconds "));
        Ok(looked.context("when")?.parse()?)
    };
    let mut first = wait_for("the file", LONG, || Ok(fs::File::open(&path)?))?;
    let (file, mut text) = (first.metadata()?, String::new());
    first.read_to_string(&mut text)?;
    let looked = whole(&text)?;
    ensure!(file.mode() & 0o7777 == 0o644 && file.uid() == 0, "mode {:o}, owner {}", file.mode(), file.uid());

    let began = Instant::now();
    let later = loop {
        // At each moment a reader sees a whole one.
        let now = whole(&fs::read_to_string(&path)?)?;
        if now != looked {
            break now;
        }
        ensure!(began.elapsed() < LONG, "the file is not written anew");
        thread::sleep(Duration::from_millis(2));
    };
    ensure!((10..=40).contains(&(later - looked)), "anew after {} s, not 15", later - looked);
    // Whoever reads the old one just then goes on with that.
    let mut old = String::new();
    first.rewind()?;
    first.read_to_string(&mut old)?;
    ensure!(old == text, "the old file was written over");
    let mode = fs::metadata(&path)?.mode() & 0o7777;
    ensure!(mode == 0o644, "mode {mode:o}");
    wait_for("the run to end", LONG, || {
        let (state, with) = (shown(node, service, "ActiveState")?, shown(node, service, "ExecMainStatus")?);
        ensure!(state == "inactive" && with == "0", "{service} is {state}, with exit code {with}");
        Ok(())
    })?;
    let left = node.ask("ls", &["-A", directory])?;
    ensure!(left == "rolegate.prom", "{left}");
    // Who is to read it says so, too. scripts/test has fetched it.
    let promtool = which::which("promtool").unwrap_or_else(|_| project().join("target/tools/bin/promtool"));
    let checked = Cmd::new(promtool).args(["check", "metrics"]).stdin(text).deadline(LONG).run()?;
    ensure!(checked.text().is_empty() && checked.stderr.is_empty(), "{}{}", checked.text(), checked.stderr);
    Ok(())
}

fn deinit(bed: &Bed) -> Result<()> {
    let (_, other) = healthy(bed)?;
    let node = bed.host(other)?;
    let configuration = || node.ask("cibadmin", &["-Q", "-o", "configuration"]);
    let before = configuration()?;
    for (args, code, part) in [
        (&["deinit"][..], 2, "RedisGate-clone is not disabled"),
        (&["deinit", "--dry-run"], 0, "It would be refused"),
        (&["deinit", "--local"], 2, "the cluster still has the gate RedisGate"),
    ] {
        let said = rolegate(&node, args)?;
        ensure!(said.code == code && said.text.contains(part), "{args:?}: {said:?}");
        ensure!(configuration()? == before, "{args:?} has changed something");
    }
    let dry = rolegate(&node, &["deinit", "--dry-run", "--disable"])?;
    for part in
        ["sentinels, nodes", "location rule RedisGate-closed", "redis_role of node1", "meta failure-timeout=15s"]
    {
        ensure!(dry.code == 0 && dry.text.contains(part), "no {part:?}: {dry:?}");
    }
    ensure!(configuration()? == before, "--dry-run has changed something");

    let own = "<rsc_location id='ops-own' rsc='RedisGate-clone' node='node1' score='1'/>";
    node.ask("cibadmin", &["-C", "-o", "constraints", "-X", own])?;
    node.ask("crm_attribute", &["-N", "node1", "-n", "ops_own", "-v", "1"])?;
    let done = rolegate(&node, &["deinit", "--disable"])?;
    ensure!(done.code == 0 && done.text.contains("Done."), "{done:?}");
    recorded(&node, None, "deinit", "what init has put into the cluster is taken out")?;
    let left = configuration()?;
    for gone in [
        "redis_role",
        "redis_fence",
        "rolegate_version",
        "name=\"sentinels\"",
        "name=\"nodes\"",
        "redis_record-",
        "failure-timeout",
        "migration-threshold",
        "RedisGate-closed",
        "RedisGate-primary",
        "RedisGate-allowed",
    ] {
        ensure!(!left.contains(gone), "{gone} is left: {left}");
    }
    ensure!(left.contains("ops-own") && left.contains("ops_own"), "{left}");
    let left = configured(&node)?;
    ensure!(gates::open_gates(bed)?.is_empty(), "open on {:?}", gates::open_gates(bed)?);
    for node in bed.nodes() {
        let priority = node.redis(6379, &["CONFIG", "GET", "replica-priority"])?;
        ensure!(priority.ends_with("\n100"), "{}: {priority}", node.name());
    }
    let again = rolegate(&node, &["deinit"])?;
    ensure!(again.code == 0 && again.text.contains("Nothing to do"), "{again:?}");

    node.ask("crm_attribute", &["-N", "node1", "-n", "ops_own", "-D"])?;
    node.sh_within(LONG, "pcs resource delete RedisGate")?;
    let again = rolegate(&node, &["deinit"])?;
    ensure!(again.code == 0 && again.text.contains("the cluster has no gate"), "{again:?}");
    for node in bed.nodes() {
        let dry = rolegate(&node, &["deinit", "--local", "--dry-run"])?;
        ensure!(dry.code == 0 && dry.text.contains("entries for the ports 6380, 6381"), "{dry:?}");
        let done = rolegate(&node, &["deinit", "--local"])?;
        ensure!(done.code == 0 && done.text.contains("entries for the ports 6380, 6381"), "{done:?}");
        let tables = node.ask("nft", &["list", "tables"])?;
        ensure!(!tables.contains("rolegate"), "{}: {tables}", node.name());
        let files = node.ask("ls", &["-A", "/var/lib/rolegate"])?;
        ensure!(files.is_empty(), "{}: {files}", node.name());
        let again = rolegate(&node, &["deinit", "--local"])?;
        ensure!(again.code == 0 && again.text.contains("Nothing to do"), "{again:?}");
    }
    gates::create(bed, &MYMASTER)?;
    let bare = configured(&node)?;
    ensure!(left == bare, "deinit has left {left:#?}, and a gate before its init is {bare:#?}");
    ensure!(rolegate(&node, &["init"])?.code == 0, "init");
    let made = configured(&node)?;
    ensure!(made != bare, "init has made nothing that deinit could have left: {made:#?}");
    wait_status(&node, 0, "\"code\": 0").map(drop)
}

/// What stands in the cluster's configuration of resources and constraints, in any order, without what this trial has made itself, that the
/// gate is disabled, and elements that hold nothing.
fn configured(node: &Host<'_>) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for section in ["resources", "constraints"] {
        let text = node.ask("cibadmin", &["-Q", "-o", section])?;
        let lines = text.lines().map(str::trim).filter(|line| {
            let own = line.contains("ops-own") || line.contains("name=\"target-role\"");
            let holds = ["<meta_attributes", "</meta_attributes", "<instance_attributes", "</instance_attributes"];
            let holds = holds.iter().any(|tag| line.starts_with(tag));
            let section = ["<resources", "<constraints", "</constraints"].iter().any(|tag| line.starts_with(tag));
            !own && !holds && !section
        });
        all.extend(lines.map(str::to_owned));
    }
    Ok(all)
}
