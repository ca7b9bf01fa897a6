//! A step of one node's wall clock: of its corosync, Pacemaker, Redis, Sentinel and keeper, and what Pacemaker runs.
//!
//! They are given a library that lies between them and libc's clock (`clock.c`): all nodes share the kernel's.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use rolegate::command::Cmd;

use super::{Host, gates, project, wait_for};

/// Where it lies on a node: the hardened units of Debian let programs be loaded from there.
const LIBRARY: &str = "usr/lib/bed-clock.so";

/// Where the step stands, as `clock.c` reads it.
const STEP: &str = "run/bed-clock";

/// The name of the drop-in, in the units that are given the library.
const DROP_IN: &str = "bed-clock.conf";

/// For how long a Sentinel that sees its clock jump takes no decision (sentinel.c, `sentinel_tilt_period`).
const TILT: Duration = Duration::from_secs(30);

/// Gives the programs of `node` a clock that can be stepped, and makes it the primary's node: its Redis has to be started anew for that, and
/// a primary that restarts is none.
///
/// # Errors
/// When there is no C compiler, or when the primary does not move there.
pub fn prepare(node: &Host, other: &Host) -> Result<()> {
    let bed = node.bed();
    fs::copy(compiled()?, node.root().join(LIBRARY)).context("the library of the clock")?;
    set(node, 0)?;
    // The other one is not chosen. Sentinels ask each 10 s: they are told before all restarts.
    other.redis(6379, &["CONFIG", "SET", "replica-priority", "200"])?;
    restart(node, &format!("printf '[Service]\\nEnvironment=LD_PRELOAD=/{LIBRARY}\\n' > $dropped/{DROP_IN}"))?;
    let units = units(node);
    node.sh(&format!("for unit in {units}; do grep -q /{LIBRARY} /proc/$(systemctl show -P MainPID $unit)/maps; done"))
        .context("a program has not the library of the clock")?;
    wait_for("the node with the other clock to be well", Duration::from_secs(90), || is_well(node))?;
    wait_for("the Sentinels to know whom to choose", Duration::from_secs(30), || {
        for each in bed.nodes() {
            let said = each.redis(26379, &["SENTINEL", "REPLICAS", "mymaster"])?;
            ensure!(said.contains("slave-priority\n200"), "{}: {said}", each.name());
        }
        Ok(())
    })?;
    bed.replicas_known()?;
    node.redis(26379, &["SENTINEL", "FAILOVER", "mymaster"])?;
    wait_for("the primary to be on the node with the other clock", Duration::from_secs(60), || {
        ensure!(bed.primary()?.name() == node.name(), "{} is primary", bed.primary()?.name());
        is_well(node)
    })?;
    // Sentinel has made the other value permanent when it turned that server around, and the next run may be on its node.
    other.redis(6379, &["CONFIG", "SET", "replica-priority", "100"])?;
    other.redis(6379, &["CONFIG", "REWRITE"]).map(drop)
}

/// Steps the clock of `node` by `hours`. Its Sentinel sees that, and takes no decision from then on; the others go on.
///
/// # Errors
/// When it does not come so.
pub fn step(node: &Host, hours: i32) -> Result<()> {
    ensure!(offset(node)?.abs() < 60, "the clock of {} is {} s off", node.name(), offset(node)?);
    set(node, hours * 3600)?;
    let off = offset(node)?;
    ensure!((off - i64::from(hours) * 3600).abs() < 60, "{}'s Redis is {off} s off", node.name());
    wait_for("its Sentinel to see its clock jump", Duration::from_secs(5), || match in_tilt(node)? {
        true => Ok(()),
        false => bail!("it is not in TILT"),
    })?;
    for other in node.bed().nodes().filter(|other| other.name() != node.name()) {
        ensure!(!in_tilt(&other)?, "the Sentinel of {} is in TILT as well", other.name());
    }
    node.bed().say(&format!("  {}'s Redis is {off} s off, and its Sentinel in TILT", node.name()));
    Ok(())
}

/// Waits until its Sentinel takes decisions again. Whether there were any is not asked here.
///
/// # Errors
/// When it does not.
pub fn settle(node: &Host) -> Result<()> {
    wait_for("its Sentinel to come out of TILT", TILT * 2, || match in_tilt(node)? {
        true => bail!("it is in TILT"),
        false => Ok(()),
    })
}

/// Gives the programs of `node` the machine's clock again. Its Redis restarts.
///
/// # Errors
/// When they do not start.
pub fn undo(node: &Host) -> Result<()> {
    restart(node, &format!("rm -f $dropped/{DROP_IN}"))?;
    node.sh(&format!("rm -f /{STEP} /{LIBRARY}"))?;
    wait_for("the node to be well again", Duration::from_secs(90), || is_well(node))
}

/// Whether all is well, of whatever there is.
fn is_well(node: &Host) -> Result<()> {
    let bed = node.bed();
    if bed.options().bare { bed.check() } else { gates::check(bed, 1) }
}

/// The units whose clock is another one.
fn units(node: &Host) -> String {
    let (bed, server) = (node.bed(), node.bed().server());
    let keeper = if bed.options().bare { "" } else { "rolegate-keeper" };
    ["corosync", "pacemaker", server.unit(), server.sentinel(), keeper].join(" ")
}

/// Changes the drop-ins of the units by a script that finds their directory in `$dropped`, and restarts them.
fn restart(node: &Host, change: &str) -> Result<()> {
    let units = units(node);
    let script = format!(
        "for unit in {units}; do
             dropped=/run/systemd/system/$unit.service.d
             mkdir -p $dropped
             {change}
         done
         systemctl daemon-reload
         systemctl restart {units}"
    );
    node.sh_within(Duration::from_secs(60), &script).map(drop)
}

/// Writes how far the clock of `node` is to be off, in seconds. In place: it is mapped.
fn set(node: &Host, seconds: i32) -> Result<()> {
    let path = PathBuf::from(format!("/proc/{}/root", node.leader()?)).join(STEP);
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let written = file.and_then(|file| file.write_all_at(&seconds.to_ne_bytes(), 0));
    written.with_context(|| format!("writing {}", path.display()))
}

/// By how many seconds its Redis is before this machine.
fn offset(node: &Host) -> Result<i64> {
    let said = node.redis(6379, &["TIME"])?;
    let there: i64 = said.lines().next().unwrap_or_default().parse().with_context(|| said.clone())?;
    let here = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    Ok(there - here)
}

fn in_tilt(node: &Host) -> Result<bool> {
    Ok(node.redis(26379, &["INFO", "sentinel"])?.contains("sentinel_tilt:1"))
}

/// The library, compiled now. Without what a newer libc than the nodes' would ask for.
fn compiled() -> Result<PathBuf> {
    let library = super::state_dir().join("clock.so");
    // Another program may be compiling it, too.
    let new = library.with_extension(format!("{}.so", std::process::id()));
    Cmd::new("cc")
        .args(["-std=c11", "-O2", "-shared", "-fPIC", "-nostdlib", "-o"])
        .arg(&new)
        .arg(project().join("tests/bed/clock.c"))
        .deadline(Duration::from_secs(60))
        .run()
        .context("compiling tests/bed/clock.c; where there is no compiler: apt-get install gcc libc6-dev")?;
    fs::rename(&new, &library)?;
    Ok(library)
}
