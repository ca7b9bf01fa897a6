//! A jail: the namespaces in which all of a bed lives, and the processes that hold them.
//!
//! Three processes, each this same program:
//! - the *controller*: a test, the demo, the command line. It works inside the jail with nsenter.
//! - the *warden*: outside the jail, in a session of its own. It ends when the controller's pipe
//!   closes (whatever ended the controller) or on SIGTERM, then removes what the kernel does not:
//!   cgroups and the directory.
//! - *init*: PID 1 of the jail's PID namespace, in a mount and (for a bed) a network namespace of its
//!   own. It reaps orphans and ends when the warden does. With it the kernel ends all processes in
//!   the jail, and with them go its mounts, network namespaces, bridges and cables.
//!
//! The controller makes nothing outside the jail that is to go with it, not even a directory: a
//! thread of it may be at work while the warden removes all.
//!
//! The warden holds a lock on the jail's directory: a directory without a lock is a leftover.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio, exit};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, OFlag, fcntl};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, chdir, setsid};
use rolegate::command::Cmd;

/// argv[1] of a warden and of an init.
const WARDEN: &str = "--rolegate-bed-warden";
const INIT: &str = "--rolegate-bed-init";

/// The warden's and init's process ids, in the jail's directory.
const PIDS: &str = "pids";

/// How long taking a jail down may take: a hundred processes to kill, a few overlays' files to remove.
const END: Duration = Duration::from_secs(60);

/// Set by [`entry`], without which no jail can be started.
static ENTERED: AtomicBool = AtomicBool::new(false);
/// Set when a signal ended this program.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// The wardens that end with this program.
static WARDENS: Mutex<Vec<Warden>> = Mutex::new(Vec::new());

type Warden = Arc<Mutex<Option<Held>>>;

/// A warden that ends with this program.
struct Held {
    child: Child,
    pipe: ChildStdin,
    /// What it wrote to stderr; a file without a name.
    log: File,
}

fn said(log: &mut File) -> String {
    let mut said = String::new();
    let read = log.rewind().and_then(|()| log.read_to_string(&mut said));
    if read.is_ok() { said.trim().to_owned() } else { "the warden left no readable message".to_owned() }
}

/// Which network a jail's processes see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// One of its own, without a way out; /run and /tmp are its own too.
    Own,
    /// The machine's: for building a root.
    Host,
}

impl Network {
    fn as_str(self) -> &'static str {
        match self {
            Network::Own => "own",
            Network::Host => "host",
        }
    }
}

/// Does a warden's or init's work if this process is one; else arranges that SIGINT, SIGTERM and
/// SIGHUP take down what this program raised before they end it. First call of `main`.
pub fn entry() {
    let args: Vec<OsString> = std::env::args_os().collect();
    let part = args.get(1).and_then(|arg| arg.to_str());
    if part == Some(WARDEN) || part == Some(INIT) {
        let network =
            if args.get(3).is_some_and(|arg| arg == Network::Own.as_str()) { Network::Own } else { Network::Host };
        let dir = PathBuf::from(args.get(2).cloned().unwrap_or_default());
        let done = if part == Some(WARDEN) { warden(&dir, network) } else { init(network) };
        if let Err(error) = done {
            eprintln!("{}: {error:#}", part.unwrap_or_default());
            exit(1);
        }
        exit(0);
    }
    if ENTERED.swap(true, Ordering::SeqCst) {
        return;
    }
    // A handler, not a blocked signal: children would inherit the mask.
    let signals = signal_hook::iterator::Signals::new([
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGHUP,
    ]);
    let mut signals = signals.expect("handlers for SIGINT, SIGTERM and SIGHUP");
    thread::spawn(move || {
        let signal = signals.forever().next().unwrap_or(signal_hook::consts::SIGTERM);
        INTERRUPTED.store(true, Ordering::SeqCst);
        let wardens = lock(&WARDENS).clone();
        if !wardens.is_empty() {
            eprintln!("interrupted: taking down");
        }
        for warden in wardens {
            if let Err(error) = end_warden(&warden) {
                eprintln!("{error:#}");
            }
        }
        exit(128 + signal);
    });
}

/// Whether a signal is ending this program. What fails from then on fails because of that.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What it guards stays right when a holder panics: it is only taken or pushed whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Namespaces that live.
pub struct Jail {
    dir: PathBuf,
    init: Pid,
    network: Network,
    /// None when another program raised it, or when it was detached.
    warden: Option<Warden>,
}

impl Jail {
    /// Makes namespaces and the directory `dir` (below [`super::state_dir`]), which goes with them.
    ///
    /// # Errors
    /// When `dir` belongs to a living jail, or something cannot be made. A leftover is removed first.
    pub fn start(dir: &Path, network: Network) -> Result<Jail> {
        if !ENTERED.load(Ordering::SeqCst) {
            bail!("bed::entry() must be the first call of main");
        }
        if is_alive(dir)? {
            bail!("{} is in use by another bed that is up; see `bed list`", dir.display());
        }
        end_any(dir)?;
        fs::create_dir_all(dir.parent().unwrap_or(dir))?;
        let log = tempfile::tempfile()?;
        let mut wardens = lock(&WARDENS);
        let mut child = Command::new("/proc/self/exe")
            .arg0("rolegate-bed")
            .args([WARDEN.as_ref(), dir.as_os_str()])
            .arg(network.as_str())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.try_clone()?)
            .spawn()
            .context("starting the warden")?;
        let pipe = child.stdin.take().context("the warden's stdin")?;
        let answer = child.stdout.take().context("the warden's stdout")?;
        let warden: Warden = Arc::new(Mutex::new(Some(Held { child, pipe, log })));
        wardens.push(warden.clone());
        drop(wardens);
        let mut jail = Jail { dir: dir.to_owned(), init: Pid::from_raw(0), network, warden: Some(warden) };

        // One line from each when it has done its part, in whatever order; fewer when one failed.
        if BufReader::new(answer).lines().map_while(Result::ok).take(2).count() < 2 {
            jail.end()?;
            bail!("the warden of {} ended early", dir.display());
        }
        jail.init = read_pids(dir)?.1;
        Ok(jail)
    }

    /// The living jail in `dir`.
    ///
    /// # Errors
    /// When there is none.
    pub fn attach(dir: &Path) -> Result<Jail> {
        if !is_alive(dir)? {
            bail!("nothing holds {}", dir.display());
        }
        Ok(Jail { dir: dir.to_owned(), init: read_pids(dir)?.1, network: Network::Own, warden: None })
    }

    /// Init's process id on this machine.
    pub fn init(&self) -> Pid {
        self.init
    }

    /// `path` as processes in the jail see it.
    pub fn path(&self, path: &Path) -> PathBuf {
        let mut there = PathBuf::from(format!("/proc/{}/root", self.init));
        there.extend(path.components().skip(1));
        there
    }

    /// A command inside the jail. What it leaves running ends with the jail.
    pub fn cmd(&self, program: &str) -> Cmd {
        let cmd = Cmd::new("nsenter").args([format!("--target={}", self.init).as_str(), "--pid", "--mount"]);
        let cmd = if self.network == Network::Own { cmd.arg("--net") } else { cmd };
        cmd.args(["--", program])
    }

    /// Makes directories, with those above them.
    pub fn make_dirs(&self, dirs: impl IntoIterator<Item = PathBuf>) -> Result<()> {
        self.cmd("mkdir").args(["-p", "--"]).args(dirs).run()?;
        Ok(())
    }

    /// Leaves it alive when this program ends.
    pub fn detach(&mut self) -> Result<()> {
        let Some(warden) = self.warden.take() else { return Ok(()) };
        let Some(mut held) = lock(&warden).take() else { bail!("it is being taken down") };
        forget(&warden);
        // Not waited for: it outlives us.
        held.pipe.write_all(b"d").context("the warden is gone")
    }

    /// Ends all processes in it, waits until they are gone, and removes its directory.
    ///
    /// # Errors
    /// When something stays.
    pub fn end(&mut self) -> Result<()> {
        match self.warden.take() {
            Some(warden) => end_warden(&warden),
            None => Ok(()),
        }
    }
}

impl Drop for Jail {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{error:#}");
        }
    }
}

fn forget(warden: &Warden) {
    lock(&WARDENS).retain(|other| !Arc::ptr_eq(other, warden));
}

fn end_warden(warden: &Warden) -> Result<()> {
    // Held while waiting: a second caller returns only when it is over.
    let mut held = lock(warden);
    let Some(mut ending) = held.take() else { return Ok(()) };
    // Its end is what the warden waits for.
    drop(ending.pipe);
    let status = ending.child.wait()?;
    drop(held);
    forget(warden);
    if !status.success() {
        bail!("{}", said(&mut ending.log));
    }
    Ok(())
}

fn read_pids(dir: &Path) -> Result<(Pid, Pid)> {
    let text = fs::read_to_string(dir.join(PIDS)).context("it is not up yet")?;
    let mut pids = text.split_whitespace().map(|pid| pid.parse().map(Pid::from_raw));
    match (pids.next(), pids.next()) {
        (Some(Ok(warden)), Some(Ok(init))) => Ok((warden, init)),
        _ => bail!("{}/{PIDS} holds {text:?}, not two process ids", dir.display()),
    }
}

/// Locks a jail's directory. None: somebody holds it.
fn lock_dir(dir: &Path) -> Result<Option<Flock<File>>> {
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECTORY.bits()).open(dir)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error).with_context(|| format!("locking {}", dir.display())),
    }
}

/// Whether a warden or an init holds `dir`.
pub fn is_alive(dir: &Path) -> Result<bool> {
    Ok(dir.exists() && lock_dir(dir)?.is_none())
}

/// Ends the jail in `dir` if it lives, and removes what is left of it.
///
/// # Errors
/// When something stays.
pub fn end_any(dir: &Path) -> Result<()> {
    let started = Instant::now();
    let mut told = false;
    while dir.exists() {
        match lock_dir(dir) {
            Ok(Some(_lock)) => return remove(dir),
            Ok(None) => {
                if let (false, Ok((warden, _))) = (told, read_pids(dir)) {
                    // Gone already is as good.
                    let _gone = kill(warden, Signal::SIGTERM);
                    told = true;
                }
            }
            // Removed just now.
            Err(_) if !dir.exists() => break,
            Err(error) => return Err(error),
        }
        if started.elapsed() > END {
            bail!("{} is still held: see its file {PIDS} for the processes that hold it", dir.display());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Where a jail's hosts have their cgroups: one directory in each hierarchy, or one in all (v2).
///
/// Not in cpuset, whose groups take no process until they are configured, and not in version 1's cpu,
/// where a group of its own has no real-time budget, which corosync wants.
pub fn cgroups(dir: &Path) -> Result<Vec<PathBuf>> {
    let name = dir.file_name().context("a jail's directory has a name")?;
    let mut found = Vec::new();
    for line in fs::read_to_string("/proc/mounts")?.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [_, at, kind, options, ..] = fields[..] else { continue };
        let has = |controller: &str| options.split(',').any(|option| option == controller);
        // Read-only where this machine is itself a container that was not given the hierarchy.
        if !has("ro") && (kind == "cgroup2" || kind == "cgroup" && !has("cpuset") && !has("cpu")) {
            found.push(Path::new(at).join("rolegate-bed").join(name));
        }
    }
    Ok(found)
}

/// Removes the cgroups and the directory of a jail that has no process any more.
fn remove(dir: &Path) -> Result<()> {
    let started = Instant::now();
    let mut groups = cgroups(dir)?;
    loop {
        let mut done = Ok(());
        for group in &groups {
            done = done.and(remove_cgroup(group));
        }
        match done.and_then(|()| remove_dir(dir)) {
            Ok(()) => break,
            // The last zombies are being reaped, the last mounts given up.
            Err(_) if started.elapsed() < Duration::from_secs(20) => thread::sleep(Duration::from_millis(50)),
            Err(error) => return Err(error),
        }
    }
    for group in &mut groups {
        // Shared with other beds, whose own stay.
        if group.pop() {
            let _in_use = fs::remove_dir(group);
        }
    }
    Ok(())
}

fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Removes a cgroup with all below it.
pub fn remove_cgroup(group: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(group) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    match fs::remove_dir(group) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing the cgroup {}", group.display()))
        }
        _ => Ok(()),
    }
}

/// Tells the controller, which may be gone: not with println, which panics then.
fn tell(text: &str) {
    let _gone = writeln!(std::io::stdout(), "{text}");
}

/// The warden's work. Its stdin is the controller's pipe.
fn warden(dir: &Path, network: Network) -> Result<()> {
    setsid().context("a session of its own")?;
    chdir("/")?;
    fs::create_dir(dir).with_context(|| format!("making {}", dir.display()))?;
    let lock = lock_dir(dir)?.context("somebody else took the directory")?;
    let held = hold(dir, network, &lock);
    let removed = remove(dir);
    held.and(removed)
}

fn hold(dir: &Path, network: Network, lock: &Flock<File>) -> Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD] {
        signals.add(signal);
    }
    signals.thread_block()?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    // Init keeps the lock too, so that the directory counts as held until both are gone.
    fcntl(lock.as_fd(), FcntlArg::F_SETFD(FdFlag::empty()))?;
    unshare(CloneFlags::CLONE_NEWPID).context("a PID namespace")?;
    let mut init = Command::new("/proc/self/exe")
        .arg0("rolegate-bed-init")
        .args([INIT.as_ref(), dir.as_os_str()])
        .arg(network.as_str())
        .stdin(Stdio::piped())
        .spawn()
        .context("starting init")?;
    let written = fs::write(dir.join("pids.new"), format!("{} {}\n", std::process::id(), init.id()))
        .and_then(|()| fs::rename(dir.join("pids.new"), dir.join(PIDS)));
    let ended = match written {
        Ok(()) => {
            tell("the process ids are written");
            wait_for_the_end(&signals, &mut init)
        }
        Err(error) => Err(error.into()),
    };
    // With it all processes of its namespace; the wait returns when they are gone.
    init.kill().context("killing init")?;
    init.wait().context("waiting for init")?;
    ended
}

fn wait_for_the_end(signals: &SignalFd, init: &mut Child) -> Result<()> {
    let stdin = std::io::stdin();
    let mut detached = false;
    loop {
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if !detached {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        let piped = fds.get(1).is_some_and(|fd| fd.any().unwrap_or(false));
        while let Some(signal) = signals.read_signal()? {
            if signal.ssi_signo != Signal::SIGCHLD as u32 {
                return Ok(());
            }
            if init.try_wait()?.is_some() {
                bail!("init ended");
            }
        }
        if piped {
            let mut byte = [0];
            match stdin.lock().read(&mut byte)? {
                1 if byte == *b"d" => detached = true,
                _ => return Ok(()),
            }
        }
    }
}

/// Init's work. Its stdin is the warden's pipe.
fn init(network: Network) -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.thread_block()?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("making all mounts private")?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none).context("mounting /proc")?;
    if network == Network::Own {
        unshare(CloneFlags::CLONE_NEWNET).context("a network namespace")?;
        // What ip netns and systemd-nspawn leave there stays in the jail. What the jail works with stays visible: a
        // checkout may lie below /tmp.
        let covers = [("/run", "mode=0755"), ("/tmp", "mode=1777")];
        let program = std::env::current_exe().context("this program")?;
        let mut kept = Vec::new();
        for path in
            [super::project().to_owned(), program.parent().map(Path::to_owned).unwrap_or_default(), super::state_dir()]
        {
            if covers.iter().any(|(at, _)| path.starts_with(at)) {
                kept.push((File::open(&path).with_context(|| format!("opening {}", path.display()))?, path));
            }
        }
        for (at, mode) in covers {
            mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(mode))
                .with_context(|| format!("mounting {at}"))?;
        }
        for (open, path) in &kept {
            fs::create_dir_all(path)?;
            let from = format!("/proc/self/fd/{}", open.as_raw_fd());
            mount(Some(from.as_str()), path, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
                .with_context(|| format!("keeping {}", path.display()))?;
        }
    }
    tell("the namespaces are made");
    // The controller's pipe must not stay open in us: it would wait for its end.
    nix::unistd::dup2_stdout(OpenOptions::new().write(true).open("/dev/null")?)?;
    let stdin = std::io::stdin();
    loop {
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN), PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        if fds[1].any().unwrap_or(true) {
            return Ok(());
        }
        while signals.read_signal()?.is_some() {}
        while !matches!(
            waitpid(None, Some(WaitPidFlag::WNOHANG)),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD | Errno::EINTR)
        ) {}
    }
}
