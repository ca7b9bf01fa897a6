//! What has to be typed before something is done that no proof stands behind: at a real terminal, and without one.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::cli::{healthy, rolegate, wait_status};
use crate::OnBed;
use crate::bed::{Bed, Host, NODES, gates, wait_for};

pub const TRIALS: &[(&str, OnBed)] = &[
    ("open_force_waits_for_the_node_s_name_and_does_nothing_by_another_word", open),
    ("confirm_off_waits_for_the_node_s_name_and_does_nothing_by_another_word", confirm_off),
];

const LONG: Duration = Duration::from_secs(60);

/// What Ctrl-C and Ctrl-D are to a terminal: the line discipline makes SIGINT of the one, the end of what is typed of the other.
const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";

/// The exit code that a shell gives to what SIGINT has ended.
const INTERRUPTED: i32 = 130;

/// `rolegate` at a terminal of its own on a host: that of `script`, which passes on what comes and goes, and the exit code.
struct Terminal {
    child: Child,
    keyboard: ChildStdin,
    screen: Receiver<Vec<u8>>,
    shown: String,
}

impl Terminal {
    fn of(on: &Host<'_>, arguments: &[&str]) -> Result<Self> {
        // As a shell takes it; none of the words has anything in it that means something to one.
        let command = format!("exec rolegate {}", arguments.join(" "));
        let mut child = Command::new("nsenter")
            .args([format!("--target={}", on.leader()?).as_str(), "--all", "--", "env", "SHELL=/bin/sh", "TERM=xterm"])
            .args(["script", "--quiet", "--return", "--command", &command, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        let (keyboard, mut output) = (child.stdin.take().context("stdin")?, child.stdout.take().context("stdout")?);
        let (sender, screen) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Terminal { child, keyboard, screen, shown: String::new() })
    }

    /// Waits for the prompt, types, and waits for the end: the exit code, and all that was to be seen.
    fn answered(mut self, prompt: &str, typed: &str) -> Result<(i32, String)> {
        let until = Instant::now() + LONG;
        let mut answered = false;
        loop {
            if !answered && self.shown.ends_with(prompt) {
                self.keyboard.write_all(typed.as_bytes())?;
                answered = true;
            }
            match self.screen.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(more) => self.shown.push_str(&String::from_utf8_lossy(&more)),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => bail!("it goes on: {:?}", self.shown),
            }
        }
        ensure!(answered, "it never asked {prompt:?}: {:?}", self.shown);
        let code = self.child.wait()?.code().context("script was killed")?;
        Ok((code, std::mem::take(&mut self.shown)))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Ended long ago, but where a trial has failed. script ends with its keyboard, and what it runs with its terminal.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// All that must do nothing: other words, none, Ctrl-C, and no terminal. `refusal` is what is said then, `else_by` the option that a script has, and
/// `untouched` whether nothing was done.
fn refusals(
    on: &Host<'_>,
    arguments: &[&str],
    prompt: &str,
    [refusal, else_by]: [&str; 2],
    untouched: &dyn Fn() -> Result<()>,
) -> Result<()> {
    let answers = [("yes\n", 2, refusal), ("\n", 2, refusal), (CTRL_D, 2, refusal), (CTRL_C, INTERRUPTED, "^C")];
    for (typed, code, says) in answers {
        let (ended, shown) = Terminal::of(on, arguments)?.answered(prompt, typed)?;
        let (_, behind) = shown.rsplit_once(prompt).context("a prompt")?;
        ensure!(ended == code && behind.contains(says), "typed {typed:?}: {ended}, {shown:?}");
        untouched().with_context(|| format!("typed {typed:?}: {shown:?}"))?;
    }
    let refused = rolegate(on, arguments)?;
    ensure!(refused.code == 2 && refused.text.contains(else_by), "without a terminal: {refused:?}");
    ensure!(!refused.text.contains(prompt), "asked where nobody is: {refused:?}");
    untouched().context("without a terminal")
}

fn open(bed: &Bed) -> Result<()> {
    let (primary, _) = healthy(bed)?;
    let node = bed.host(primary)?;
    let sentinel = bed.server().sentinel();
    let others = || bed.nodes().filter(|node| node.name() != primary);
    others().try_for_each(|other| other.ask("systemctl", &["stop", sentinel]).map(drop))?;
    let done = at_the_open_prompt(bed, &node);
    others().try_for_each(|other| other.ask("systemctl", &["start", sentinel]).map(drop))?;
    done?;
    wait_status(&node, 0, "\"code\": 0").map(drop)
}

fn at_the_open_prompt(bed: &Bed, node: &Host<'_>) -> Result<()> {
    let name = node.name();
    let is_closed = || {
        let state: Value = serde_json::from_str(&node.ask("rolegate-port", &["state", "--json"])?)?;
        ensure!(state["rw"]["open"] == false, "{state}");
        Ok(())
    };
    wait_for("the lease to run out", LONG, is_closed)?;
    let untouched = || {
        is_closed()?;
        // Nor is the keeper told of anything.
        node.sh("! ls /run/rolegate/forced-* 2>/dev/null").map(drop).context("a file is left")
    };
    let arguments = ["open", "--force", "--for", "30s", name];
    let prompt = format!("Type the name of this node ({name}) to open it: ");
    refusals(node, &arguments, &prompt, ["nothing is opened", &format!("--confirm {name}")], &untouched)?;
    let (code, shown) = Terminal::of(node, &arguments)?.answered(&prompt, &format!("{}\n", name.to_uppercase()))?;
    ensure!(code == 0 && shown.contains(&format!("{name} takes writes at")), "{code}: {shown:?}");
    ensure!(gates::open_gates(bed)? == [name], "open on {:?}", gates::open_gates(bed)?);
    let said = rolegate(node, &["open", "--cancel", name])?;
    ensure!(said.code == 0, "{said:?}");
    is_closed()
}

fn confirm_off(bed: &Bed) -> Result<()> {
    let (primary, other) = healthy(bed)?;
    let third = NODES.into_iter().find(|name| *name != primary && *name != other).context("three nodes")?;
    let node = bed.host(third)?;
    let says = || node.ask("crm_attribute", &["-N", other, "-n", "redis_record-mymaster", "-G", "-q"]);
    let before = says()?;
    bed.host(other)?.power_off()?;
    wait_status(&node, 1, &format!("{other} is offline"))?;
    let arguments = ["confirm-off", other];
    let prompt = "Type the node's name: ";
    // Until then lines of its keeper can still be there.
    wait_for("it to look off", LONG, || {
        let refused = rolegate(&node, &arguments)?;
        ensure!(refused.text.contains("In a script"), "{refused:?}");
        Ok(())
    })?;
    let untouched = || {
        let now = says()?;
        ensure!(now == before, "{now}, and before {before}");
        Ok(())
    };
    refusals(&node, &arguments, prompt, ["nothing was changed", "--yes"], &untouched)?;
    let (code, shown) = Terminal::of(&node, &arguments)?.answered(prompt, &format!("{}\n", other.to_uppercase()))?;
    ensure!(code == 0 && shown.contains(&format!("{other} is confirmed off, until it shows up")), "{code}: {shown:?}");
    let now = says()?;
    ensure!(now.starts_with("off@") && now.contains(" by "), "{now}");
    bed.mend()?;
    wait_status(&node, 0, "\"code\": 0").map(drop)
}
