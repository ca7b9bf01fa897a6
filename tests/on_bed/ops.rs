//! Commands on all nodes.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::cli::{Said, healthy, rolegate, wait_status};
use crate::OnBed;
use crate::bed::{Bed, Host, wait_for};

pub const TRIALS: &[(&str, OnBed)] = &[("exec_runs_a_command_on_all_nodes_and_lets_writes_only_to_the_primary", exec)];

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
