//! That a bed leaves nothing, however it ends, and that two do not know of each other.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rolegate::command::Cmd;

use crate::OnBed;
use crate::bed::{self, Bed, Options, wait_for};

/// A trial that raises beds of its own.
type Alone = fn() -> Result<()>;

/// Those trials.
pub const ALONE: &[(&str, Alone)] = &[
    ("load::a_report_counts_right", bed::load::counts_right),
    ("faults::definitions_are_whole", bed::faults::are_whole),
    ("judge::lines_are_judged_by_what_is_wanted", bed::judge::judges_right),
    ("judge::no_recorded_run_has_what_must_never_be", bed::judge::never_in_the_file),
    ("judge::the_recorded_runs_show_all_that_is_wanted", bed::judge::met_in_the_file),
    ("table::lines_become_a_table", bed::table::reads_right),
    ("table::documents_have_the_tables_of_the_file", bed::table::documents_are_made),
    ("watch::what_was_seen_is_counted_right", bed::watch::counts_right),
    ("itself::an_up_that_fails_leaves_nothing", failed_up),
    ("itself::a_root_that_cannot_be_built_leaves_nothing", failed_root),
    ("itself::an_interrupt_at_any_moment_leaves_nothing", interrupts),
    ("itself::a_killed_controller_leaves_nothing", killed_controller),
    ("itself::a_killed_warden_leaves_only_a_directory", killed_warden),
];

/// Trials on the shared bed.
pub const TRIALS: &[(&str, OnBed)] = &[("two_beds_at_once", two_beds), ("each_host_runs_debian_s_own_units", units)];

/// argv[1] with which this program raises a bed and holds it until it is ended.
const RAISE: &str = "--raise";

/// Raises a bed in this process if it was started for that.
pub fn controller() -> Option<ExitCode> {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() != Some(RAISE) {
        return None;
    }
    match Bed::up(Options::new(args.next().unwrap_or_default())) {
        Ok(_bed) => {
            println!("up");
            loop {
                thread::park();
            }
        }
        Err(_) if bed::jail::interrupted() => loop {
            thread::park();
        },
        Err(error) => {
            eprintln!("{error:#}");
            Some(ExitCode::FAILURE)
        }
    }
}

fn raise(name: &str) -> Result<Child> {
    let program = std::env::current_exe()?;
    Ok(Command::new(program).args([RAISE, name]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?)
}

fn dir(name: &str) -> PathBuf {
    bed::state_dir().join("beds").join(name)
}

/// A name that no other bed has.
fn own_name(what: &str) -> String {
    format!("{what}-{}", std::process::id())
}

/// What there is on this machine of the bed `name`.
fn remains(name: &str) -> Result<BTreeSet<String>> {
    let dir = dir(name);
    let at = dir.to_string_lossy().into_owned();
    let group = format!("/rolegate-bed/{name}/");
    let mut found = BTreeSet::new();
    for process in fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = process.file_name().to_string_lossy().parse::<i32>() else { continue };
        let read = |file: &str| fs::read(process.path().join(file)).unwrap_or_default();
        let text = |file: &str| String::from_utf8_lossy(&read(file)).into_owned();
        let line = text("cmdline").replace('\0', " ");
        if line.contains(&at) || text("cgroup").contains(&group) {
            found.insert(format!("process {pid}: {line} {}", text("comm").trim()));
        }
        // In any mount namespace, not only in ours.
        if text("mountinfo").contains(&at) {
            found.insert(format!("a mount below {at}, seen by process {pid}"));
        }
    }
    for group in bed::jail::cgroups(&dir)? {
        if group.exists() {
            found.insert(format!("cgroup {}", group.display()));
        }
    }
    if dir.exists() {
        found.insert(format!("directory {at}"));
    }
    Ok(found)
}

/// What a bed might leave on the machine's own network and file systems.
fn surroundings() -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let links = Cmd::new("ip").args(["-o", "link"]).run()?.text();
    for link in links.lines().filter_map(|line| line.split(": ").nth(1)) {
        if link.starts_with("p-") || link.starts_with("br") || link.starts_with("veth") {
            found.insert(format!("link {link}"));
        }
    }
    for name in Cmd::new("ip").args(["netns", "list"]).run()?.text().lines() {
        if bed::hosts().any(|host| name.starts_with(host)) {
            found.insert(format!("netns {name}"));
        }
    }
    for place in ["/tmp", "/run", "/run/systemd", "/var/lib/machines"] {
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.contains("nspawn") {
                found.insert(format!("{place}/{name}"));
            }
        }
    }
    Ok(found)
}

/// Expects that nothing is left of `name` now.
fn expect_nothing(name: &str, before: &BTreeSet<String>) -> Result<()> {
    let left = remains(name)?;
    ensure!(left.is_empty(), "left of {name}: {left:#?}");
    let new: Vec<_> = surroundings()?.difference(before).cloned().collect();
    ensure!(new.is_empty(), "left by {name}: {new:?}");
    Ok(())
}

fn two_beds(first: &Bed) -> Result<()> {
    let before = surroundings()?;
    let name = own_name("second");
    let second = Bed::up(Options { name: name.clone(), ..first.options().clone() })?;
    for bed in [first, &second] {
        bed.primary()?.redis(6379, &["SET", "bed", &bed.options().name])?;
    }
    second.isolate(&["node1"])?;
    for bed in [first, &second] {
        ensure!(bed.primary()?.redis(6379, &["GET", "bed"])? == bed.options().name);
    }
    first.check().context("a partition in one bed reached the other")?;
    ensure!(bed::list()?.contains(&(name.clone(), true)));
    let taken = Bed::up(second.options().clone());
    ensure!(taken.is_err_and(|error| error.to_string().contains("in use")), "a name must not be taken twice");
    ensure!(!remains(&name)?.is_empty(), "what is looked for below must be seen while the bed is up");
    second.down()?;
    expect_nothing(&name, &before)?;
    first.check().context("taking down one bed reached the other")
}

fn units(bed: &Bed) -> Result<()> {
    for node in bed.nodes() {
        for unit in ["corosync", "pacemaker", bed.server().unit(), bed.server().sentinel()] {
            ensure!(node.ask("systemctl", &["is-active", unit])? == "active");
            let path = node.ask("systemctl", &["show", "-P", "FragmentPath", unit])?;
            // /usr/lib since Debian 13; the same directory.
            ensure!(
                path.trim_start_matches("/usr").starts_with("/lib/systemd/system/"),
                "{unit} is {path}, not Debian's"
            );
        }
        // The unit's hardening is in force: what is not below /usr/lib cannot be executed.
        let sentinel = node.ask("pidof", &[bed.server().sentinel()])?;
        let within = node.cmd("nsenter")?.args(["-t", &sentinel, "-m", "/usr/bin/true"]).run_expecting(&[0, 126])?;
        ensure!(within.code == 126, "a program outside /usr/lib must not start in Sentinel's unit");
        ensure!(node.sh("nft list ruleset && crm_mon -1 && ipset list").is_ok());
    }
    for name in bed::CLIENTS {
        let client = bed.host(name)?;
        ensure!(client.ask("systemctl", &["is-active", "haproxy"])? == "active");
        ensure!(client.cmd("systemctl")?.args(["is-active", bed.server().unit()]).run_expecting(&[3]).is_ok());
    }
    Ok(())
}

fn failed_up() -> Result<()> {
    let before = surroundings()?;
    let name = own_name("failed");
    let mut options = Options::new(&name);
    // Too short for any cluster: it fails when all hosts run.
    options.patience = Duration::from_secs(4);
    ensure!(Bed::up(options).is_err(), "no cluster can be ready in 4 s");
    expect_nothing(&name, &before)
}

fn failed_root() -> Result<()> {
    let roots = || -> Result<BTreeSet<_>> {
        fs::create_dir_all(bed::state_dir().join("roots"))?;
        let found = fs::read_dir(bed::state_dir().join("roots"))?.flatten().map(|entry| entry.file_name());
        Ok(found.filter(|name| name != "lock").collect())
    };
    let before = roots()?;
    let mut options = Options::new(own_name("rootless"));
    options.release = "no-such-release".into();
    ensure!(Bed::up(options).is_err());
    let after = roots()?;
    ensure!(after == before, "{before:?} became {after:?}");
    Ok(())
}

fn interrupts() -> Result<()> {
    let before = surroundings()?;
    let name = own_name("interrupted");
    // Over the making of namespaces, disks and cables (the first tenths), the boot and the wait.
    let moments = [0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.5, 3.0, 9.0];
    let signals = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
    for (moment, signal) in moments.into_iter().zip(signals.into_iter().cycle()) {
        // Anywhere around it: the moments of one run are not those of the next.
        let moment = Duration::from_secs_f64(moment * (0.5 + fraction()));
        let mut controller = raise(&name)?;
        thread::sleep(moment);
        kill(Pid::from_raw(controller.id() as i32), signal)?;
        let status = controller.wait()?;
        let early = moment < Duration::from_millis(100);
        ensure!(
            status.code() == Some(128 + signal as i32) || early && !status.success(),
            "{signal} after {moment:?}: {status}"
        );
        // Before its handlers stand it dies at once, and its warden cleans up behind it.
        let left = || expect_nothing(&name, &before).with_context(|| format!("{signal} after {moment:?}"));
        if early { wait_for("the warden", Duration::from_secs(10), left)? } else { left()? }
    }
    Ok(())
}

/// Something between 0 and 1, another each time.
fn fraction() -> f64 {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    f64::from(now.subsec_nanos() % 1_000_000) / 1e6
}

fn killed_controller() -> Result<()> {
    let before = surroundings()?;
    let name = own_name("orphaned");
    for moment in [0.1, 0.4, 4.0] {
        let mut controller = raise(&name)?;
        thread::sleep(Duration::from_secs_f64(moment));
        controller.kill()?;
        controller.wait()?;
        // The warden learns of it at once and needs as long as an ordinary down.
        wait_for("the warden", Duration::from_secs(20), || expect_nothing(&name, &before))
            .with_context(|| format!("SIGKILL after {moment} s"))?;
    }
    Ok(())
}

fn killed_warden() -> Result<()> {
    let before = surroundings()?;
    let name = own_name("unwatched");
    let mut controller = raise(&name)?;
    let pids = dir(&name).join("pids");
    wait_for("the hosts", Duration::from_secs(20), || {
        ensure!(remains(&name)?.iter().filter(|line| line.contains("redis")).count() > 3);
        Ok(())
    })?;
    let warden: i32 = fs::read_to_string(pids)?.split_whitespace().next().context("the warden's pid")?.parse()?;
    kill(Pid::from_raw(warden), Signal::SIGKILL)?;
    controller.kill()?;
    controller.wait()?;
    wait_for("the kernel", Duration::from_secs(20), || {
        let left: Vec<_> = remains(&name)?
            .into_iter()
            .filter(|line| line.starts_with("process") || line.starts_with("a mount"))
            .collect();
        ensure!(left.is_empty(), "{left:#?}");
        Ok(())
    })?;
    ensure!(dir(&name).exists(), "nobody could remove the directory yet");
    ensure!(bed::list()?.contains(&(name.clone(), false)));
    bed::down(&name)?;
    expect_nothing(&name, &before)
}
