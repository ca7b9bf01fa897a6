//! Commands on all nodes, backups, and taking everything out again.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::cli::{Said, healthy, rolegate, wait_status};
use super::moves::recorded;
use crate::OnBed;
use crate::bed::{Bed, Host, gates, project, wait_for};

pub const TRIALS: &[(&str, OnBed)] = &[
    ("exec_runs_a_command_on_all_nodes_and_lets_writes_only_to_the_primary", exec),
    ("a_backup_from_a_replica_is_restored_as_the_document_says", backup_and_restore),
    ("a_backup_is_restored_with_appendonly_as_the_document_says", restore_appendonly),
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
    let from_primary = rolegate(&node, &["backup", "--from-primary"]);
    writer.redis(6379, &["CONFIG", "SET", "rdb-key-save-delay", "0"])?;
    let from_primary = from_primary?;
    ensure!(from_primary.code == 0 && from_primary.text.contains("(primary)"), "{from_primary:?}");
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
        "failure-timeout",
        "RedisGate-closed",
    ] {
        ensure!(!left.contains(gone), "{gone} is left: {left}");
    }
    ensure!(left.contains("ops-own") && left.contains("ops_own"), "{left}");
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
    gates::configure(bed)?;
    wait_status(&node, 0, "\"code\": 0").map(drop)
}
