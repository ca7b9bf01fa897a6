//! One machine of a bed: a Debian under systemd-nspawn, on an overlay that survives its power cuts.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rolegate::command::{Cmd, Output};

use super::jail::{cgroups, remove_cgroup};
use super::{Bed, wait_every, wait_for};

/// How long an ordinary shutdown may take; systemd's own limit for a unit that hangs is 90 s.
const SHUTDOWN: Duration = Duration::from_secs(120);

/// A host of a bed, by name.
#[derive(Clone, Copy)]
pub struct Host<'b> {
    bed: &'b Bed,
    name: &'static str,
}

/// A process of this machine, as /proc shows it.
struct Process {
    pid: i32,
    parent: i32,
    name: String,
    state: char,
}

/// All processes of this machine.
fn processes() -> Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Gone in between: not a process any more.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let (Some(open), Some(close)) = (stat.find('('), stat.rfind(')')) else { continue };
        let mut rest = stat[close + 1..].split_whitespace();
        let (Some(state), Some(parent)) = (rest.next(), rest.next()) else { continue };
        let (Some(state), Ok(parent)) = (state.chars().next(), parent.parse()) else { continue };
        found.push(Process { pid, parent, name: stat[open + 1..close].to_owned(), state });
    }
    Ok(found)
}

/// systemd-nspawn's process of the host whose file system is `root`.
fn nspawn(root: &Path, processes: &[Process]) -> Option<i32> {
    let directory = format!("--directory={}", root.display());
    let spawned = processes.iter().filter(|process| process.name == "systemd-nspawn").map(|process| process.pid);
    spawned.into_iter().find(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|arg| arg == directory.as_bytes())
    })
}

/// PID 1 of the host whose file system is `root`, as this machine numbers it; None while it is off.
pub(super) fn leader_in(root: &Path) -> Result<Option<Pid>> {
    let processes = processes()?;
    let Some(nspawn) = nspawn(root, &processes) else { return Ok(None) };
    let mut below = vec![nspawn];
    while let Some(parent) = below.pop() {
        for process in processes.iter().filter(|process| process.parent == parent) {
            // nspawn's own first child comes between.
            if process.name == "systemd" && process.state != 'Z' {
                return Ok(Some(Pid::from_raw(process.pid)));
            }
            if process.name.starts_with("systemd-nspawn") || process.name.starts_with("(sd-") {
                below.push(process.pid);
            }
        }
    }
    Ok(None)
}

impl<'b> Host<'b> {
    pub(super) fn new(bed: &'b Bed, name: &'static str) -> Self {
        Host { bed, name }
    }

    /// The bed that it is part of.
    pub fn bed(&self) -> &'b Bed {
        self.bed
    }

    /// Its name, e.g. `node1`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its IPv4 address.
    pub fn address(&self) -> String {
        super::address(self.name)
    }

    /// Its file system as this program can open it. Take care with absolute symbolic links in it: they lead to this
    /// machine's files.
    pub fn root(&self) -> PathBuf {
        self.bed.jail().path(&self.bed.host_dir(self.name).join("root"))
    }

    /// The process id, on this machine, of its PID 1.
    ///
    /// # Errors
    /// When it is off.
    pub fn leader(&self) -> Result<Pid> {
        leader_in(&self.bed.host_dir(self.name).join("root"))?.with_context(|| format!("{} is off", self.name))
    }

    /// Whether it runs, or boots or shuts down.
    pub fn is_on(&self) -> Result<bool> {
        Ok(nspawn(&self.bed.host_dir(self.name).join("root"), &processes()?).is_some())
    }

    /// A command inside the host, as root, in all its namespaces; 10 s unless told otherwise.
    ///
    /// # Errors
    /// When it is off.
    pub fn cmd(&self, program: &str) -> Result<Cmd> {
        Ok(Cmd::new("nsenter").args([format!("--target={}", self.leader()?).as_str(), "--all", "--", program]))
    }

    /// Runs a shell script in it and expects exit code 0.
    pub fn sh(&self, script: &str) -> Result<Output> {
        self.sh_within(Duration::from_secs(10), script)
    }

    /// [`Host::sh`] with another deadline.
    pub fn sh_within(&self, deadline: Duration, script: &str) -> Result<Output> {
        self.cmd("sh")?.args(["-euc", script]).deadline(deadline).run().with_context(|| format!("on {}", self.name))
    }

    /// What a command in it wrote to stdout, without the newline at its end; exit code 0 expected.
    pub fn ask(&self, program: &str, args: &[&str]) -> Result<String> {
        let output = self.cmd(program)?.args(args).run().with_context(|| format!("on {}", self.name))?;
        Ok(output.text().trim_end().to_owned())
    }

    /// What `journalctl` prints with these options: of all that was said before, for journald takes it in behind whoever said it.
    pub fn journal(&self, options: &[&str]) -> Result<String> {
        self.ask("journalctl", &["--sync"])?;
        self.ask("journalctl", &[&["--quiet", "--no-pager"], options].concat())
    }

    /// Replaces this process by a command in the host, on this terminal.
    ///
    /// # Errors
    /// Returns only when that fails.
    pub fn exec(&self, command: &[String]) -> Result<std::convert::Infallible> {
        let error = Command::new("nsenter")
            .arg(format!("--target={}", self.leader()?))
            .args(["--all", "--"])
            .args(command)
            .current_dir("/")
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .exec();
        Err(anyhow!(error).context("nsenter"))
    }

    /// Starts it and returns at once.
    pub(super) fn start(&self) -> Result<()> {
        let dir = self.bed.host_dir(self.name);
        let mut groups = Vec::new();
        for group in cgroups(&self.bed.dir)? {
            let group = group.join(self.name);
            // Of its last boot.
            remove_cgroup(&group)?;
            groups.push(group);
        }
        self.bed.jail().make_dirs(groups.clone())?;
        // Its parent ends at once, so that the jail's init inherits it: it must not be our child, which
        // could not be waited for once we are gone.
        let script = r#"console=$1 dir=$2 name=$3; shift 3
            (for group; do echo 0 > "$group/cgroup.procs"; done
             exec setsid systemd-nspawn --quiet --directory="$dir" --boot --register=no --keep-unit \
                --network-namespace-path="/run/netns/$name" --machine="$name" --console=pipe --capability=all \
                --settings=no --link-journal=no --resolv-conf=off --timezone=off \
                < /dev/null >> "$console" 2>&1) &"#;
        self.bed
            .jail()
            .cmd("sh")
            .args(["-euc", script, "sh"])
            .args([dir.join("console.log"), dir.join("root"), self.name.into()])
            .args(groups)
            .run()?;
        Ok(())
    }

    /// What its console showed, to its last line.
    pub fn console(&self) -> String {
        let text = fs::read(self.bed.host_dir(self.name).join("console.log")).unwrap_or_default();
        String::from_utf8_lossy(&text).trim_end().lines().last().unwrap_or_default().to_owned()
    }

    /// Waits until systemd has started everything. A failed unit is an error that names it.
    pub fn wait_booted(&self, deadline: Duration) -> Result<()> {
        wait_for(&format!("{} to boot", self.name), deadline, || {
            let state = self.cmd("systemctl")?.arg("is-system-running").run_expecting(&[0, 1])?;
            match state.text().trim() {
                "running" => Ok(()),
                "degraded" => {
                    bail!("failed units: {}", self.ask("systemctl", &["--failed", "--plain", "--no-legend"])?)
                }
                other => bail!("systemd is {other}; console: {}", self.console()),
            }
        })
    }

    /// Boots it, with its disk as it was left. Returns when systemd has started everything; the cluster may take
    /// longer.
    pub fn boot(&self) -> Result<()> {
        if self.is_on()? {
            bail!("{} is on already", self.name);
        }
        self.bed.plug(self.name)?;
        self.start()?;
        self.wait_booted(Duration::from_secs(90))
    }

    /// Cuts its power: no packet leaves it any more, nothing in it ends by itself, and what was on its disk stays.
    pub fn power_off(&self) -> Result<()> {
        let leader = self.leader()?;
        self.bed.pull(self.name)?;
        kill(leader, Signal::SIGKILL)?;
        self.wait_off(Duration::from_secs(30))
    }

    /// Shuts it down as an operator does.
    pub fn shutdown(&self) -> Result<()> {
        // SIGRTMIN+3, systemd's "poweroff" to PID 1, is outside nix's signals.
        let leader = self.leader()?;
        Cmd::new("kill").args(["-s", "RTMIN+3", &leader.to_string()]).run()?;
        self.wait_off(SHUTDOWN)
    }

    fn wait_off(&self, deadline: Duration) -> Result<()> {
        wait_for(&format!("{} to be off", self.name), deadline, || match self.is_on()? {
            true => Err(anyhow!("still there; console: {}", self.console())),
            false => Ok(()),
        })?;
        self.bed.unplug(self.name)
    }

    /// Its processes: all in the PID namespace of its PID 1.
    fn processes(&self) -> Result<Vec<Process>> {
        let namespace = |pid: i32| fs::metadata(format!("/proc/{pid}/ns/pid")).map(|meta| meta.ino());
        let own = namespace(self.leader()?.as_raw()).with_context(|| format!("{} is off", self.name))?;
        Ok(processes()?.into_iter().filter(|process| namespace(process.pid).is_ok_and(|ino| ino == own)).collect())
    }

    /// Sends `signal` to all its processes called `name` (the program's file name, e.g. `redis-sentinel`). Returns how
    /// many there were.
    ///
    /// # Errors
    /// When there is none.
    pub fn signal(&self, name: &str, signal: Signal) -> Result<usize> {
        // The kernel keeps 15 characters.
        let short: String = name.chars().take(15).collect();
        let mut sent = 0;
        for process in self.processes()?.iter().filter(|process| process.name == short) {
            kill(Pid::from_raw(process.pid), signal)?;
            sent += 1;
        }
        if sent == 0 {
            bail!("no process {name} on {}", self.name);
        }
        Ok(sent)
    }

    /// Stops every process in it, as one that waits for a dead disk or a starved virtual machine. Its kernel goes on:
    /// packets are acknowledged, timers of the firewall run.
    pub fn freeze(&self) -> Result<()> {
        self.all(Signal::SIGSTOP, "freeze", |state| matches!(state, 'T' | 't' | 'Z' | 'X'))
    }

    /// Lets a frozen host go on.
    pub fn thaw(&self) -> Result<()> {
        self.all(Signal::SIGCONT, "thaw", |state| state != 'T')
    }

    fn all(&self, signal: Signal, what: &str, done: impl Fn(char) -> bool) -> Result<()> {
        // Again until a pass finds none: a process may fork between our look and our signal.
        wait_every(Duration::from_millis(5), &format!("{} to {what}", self.name), Duration::from_secs(20), || {
            let open: Vec<_> = self.processes()?.into_iter().filter(|process| !done(process.state)).collect();
            for process in &open {
                // Gone in between is as good.
                let _gone = kill(Pid::from_raw(process.pid), signal);
            }
            match open.first() {
                Some(process) => Err(anyhow!("{} of its processes, among them {}", open.len(), process.name)),
                None => Ok(()),
            }
        })
    }
}
