//! `rolegate status --watch`: looks again and again, on the terminal's alternate screen, each look painted over the last one in a single
//! write. However it ends (q, Ctrl-C, a signal, a panic, Ctrl-Z for a while), the terminal is left as it was.

use std::io::{self, IsTerminal, Read, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, raise};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};

use super::status::{self, Report};
use super::table::{style, styled};
use super::text::{self, View};
use super::{Stop, fence::utc};
use crate::exit::CliCode;

/// The alternate screen, no cursor, and no line that goes on in the next one.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// What lies between is shown at once, by terminals that know this.
const BEGIN: &str = "\x1b[?2026h\x1b[H";
const END: &str = "\x1b[J\x1b[?2026l";

/// Runs until told to end; the exit code is that of the last look.
pub fn run(every: Duration, json: bool, all: bool, master: Option<String>) -> Result<CliCode, Stop> {
    let look = move || status::look(master.as_deref());
    if json {
        return lines(every, look);
    }
    if !io::stdout().is_terminal() || std::env::var_os("TERM").is_none_or(|term| term == "dumb") {
        return Err(Stop::unknown(
            "--watch needs a terminal that can move its cursor; rolegate status --watch --json prints a line for each look",
        ));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Stop::unknown(format!("no watch: {error}")))?;
    let result = runtime.block_on(watch(every, all, look));
    // A look that goes on ends with us.
    runtime.shutdown_background();
    result.map_err(|error| Stop::unknown(format!("the watch has ended: {error}")))
}

/// One line of JSON for each look, until nobody reads them.
fn lines(every: Duration, look: impl Fn() -> Report) -> Result<CliCode, Stop> {
    loop {
        let begun = std::time::Instant::now();
        let report = look();
        let line = serde_json::to_string(&report).map_err(|error| Stop::unknown(error.to_string()))?;
        let mut out = io::stdout().lock();
        if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
            return Ok(report.exit());
        }
        drop(out);
        std::thread::sleep(every.saturating_sub(begun.elapsed()));
    }
}

async fn watch<F>(every: Duration, all: bool, look: F) -> io::Result<CliCode>
where
    F: Fn() -> Report + Clone + Send + 'static,
{
    let mut ends =
        [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup(), SignalKind::quit()].map(signal);
    let [interrupt, terminate, hangup, quit] = &mut ends;
    let (interrupt, terminate, hangup, quit) = (as_mut(interrupt)?, as_mut(terminate)?, as_mut(hangup)?, as_mut(quit)?);
    let mut resized = signal(SignalKind::window_change())?;
    let mut suspended = signal(SignalKind::from_raw(Signal::SIGTSTP as i32))?;
    let mut keys = keys();
    let screen = Screen::enter()?;
    let mut shown: Option<Report> = None;
    let mut looking = Some(spawn_blocking(look.clone()));
    let mut begun = Instant::now();
    paint(None, every, all)?;
    loop {
        tokio::select! {
            biased;
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = hangup.recv() => break,
            _ = quit.recv() => break,
            Some(key) = keys.recv() => {
                if matches!(key, b'q' | b'Q') {
                    break;
                }
            }
            _ = suspended.recv() => {
                leave();
                raise(Signal::SIGSTOP)?;
                screen.again()?;
                paint(shown.as_ref(), every, all)?;
            }
            _ = resized.recv() => paint(shown.as_ref(), every, all)?,
            done = async { looking.as_mut().expect("only polled where there is one").await }, if looking.is_some() => {
                looking = None;
                shown = Some(done.map_err(io::Error::other)?);
                paint(shown.as_ref(), every, all)?;
            }
            () = sleep_until(begun + every), if looking.is_none() => {
                begun = Instant::now();
                looking = Some(spawn_blocking(look.clone()));
            }
        }
    }
    drop(screen);
    Ok(shown.map_or(CliCode::Unknown, |report| report.exit()))
}

fn as_mut(signal: &mut io::Result<tokio::signal::unix::Signal>) -> io::Result<&mut tokio::signal::unix::Signal> {
    signal.as_mut().map_err(|error| io::Error::new(error.kind(), error.to_string()))
}

/// What is typed. The thread ends with the program: nothing wakes a read of a terminal.
fn keys() -> mpsc::Receiver<u8> {
    let (sender, receiver) = mpsc::channel(16);
    if io::stdin().is_terminal() {
        std::thread::spawn(move || {
            let mut byte = [0];
            while matches!(io::stdin().read(&mut byte), Ok(1)) && sender.blocking_send(byte[0]).is_ok() {}
        });
    }
    receiver
}

/// Puts a look on the screen, or that the first is under way.
fn paint(report: Option<&Report>, every: Duration, all: bool) -> io::Result<()> {
    if !ENTERED.load(Ordering::SeqCst) {
        return Err(io::Error::other("a part of it has a defect: see above"));
    }
    let (width, height) = terminal_size::terminal_size_of(io::stdout())
        .map_or((80, 24), |(width, height)| (usize::from(width.0), usize::from(height.0)));
    let seconds = every.as_secs();
    let mut text = styled(format!("rolegate status every {seconds} s; q ends it"), style::FAINT);
    match report {
        Some(report) => {
            text.push_str(&styled(format!("    {}", utc(report.at)), style::FAINT));
            text.push_str("\n\n");
            text.push_str(&text::render(report, View { all, width: Some(width), breaks_all: true }));
        }
        None => text.push_str("\n\nlooking ...\n"),
    }
    if matches!(anstream::AutoStream::choice(&io::stdout()), anstream::ColorChoice::Never) {
        text = anstream::adapter::strip_str(&text).to_string();
    }
    let mut out = io::stdout().lock();
    out.write_all(frame(&text, height).as_bytes())?;
    out.flush()
}

/// A screen full of `text`: each line is painted over what was there, and what is left of it wiped out behind.
fn frame(text: &str, height: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let fits = height.max(2);
    let mut out = String::from(BEGIN);
    let shown = if lines.len() > fits { &lines[..fits - 1] } else { &lines[..] };
    out.push_str(&shown.iter().map(|line| format!("{line}\x1b[K")).collect::<Vec<_>>().join("\r\n"));
    if shown.len() < lines.len() {
        out.push_str(&format!(
            "\r\n{}\x1b[K",
            styled(format!("... {} more lines", lines.len() - shown.len()), style::FAINT)
        ));
    }
    out.push_str(END);
    out
}

/// Whether the terminal is not as it was, and how it was.
static ENTERED: AtomicBool = AtomicBool::new(false);
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// The screen, from entering it to the end of its life, whatever ends that.
struct Screen;

impl Screen {
    fn enter() -> io::Result<Self> {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // First, so that the message is to be read.
            leave();
            before(panic);
        }));
        let screen = Screen;
        screen.again()?;
        Ok(screen)
    }

    fn again(&self) -> io::Result<()> {
        // What is typed shall not be seen, and not wait for the end of a line. Ctrl-C and Ctrl-Z stay signals.
        if let Ok(before) = tcgetattr(io::stdin()) {
            let mut quiet = before.clone();
            quiet.local_flags.remove(LocalFlags::ECHO | LocalFlags::ICANON);
            if let Ok(mut kept) = BEFORE.lock() {
                *kept = Some(before);
            }
            tcsetattr(io::stdin(), SetArg::TCSANOW, &quiet)?;
        }
        ENTERED.store(true, Ordering::SeqCst);
        let mut out = io::stdout().lock();
        out.write_all(ENTER.as_bytes())?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

/// Leaves the terminal as it was; a second time does nothing.
fn leave() {
    if !ENTERED.swap(false, Ordering::SeqCst) {
        return;
    }
    // Not through stdout's lock, which a panic may hold. A terminal that is gone needs nothing.
    let _gone = nix::unistd::write(io::stdout(), LEAVE.as_bytes());
    if let Some(before) = BEFORE.try_lock().ok().and_then(|mut before| before.take()) {
        let _gone = tcsetattr(io::stdin(), SetArg::TCSANOW, &before);
    }
}

#[cfg(test)]
mod tests {
    use super::super::judge::tests::healthy;
    use super::super::status::tests::report_of;
    use super::*;
    use nix::pty::{OpenptyResult, Winsize, openpty};
    use nix::sys::signal::kill;
    use nix::unistd::Pid;
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::process::{Child, Command, Stdio};
    use std::sync::{Arc, mpsc};

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_frame_fits_its_screen() {
        let text = "one\ntwo\nthree\nfour\n";
        assert_eq!(
            frame(text, 4),
            "\x1b[?2026h\x1b[Hone\x1b[K\r\ntwo\x1b[K\r\nthree\x1b[K\r\nfour\x1b[K\x1b[J\x1b[?2026l"
        );
        let small = anstream::adapter::strip_str(&frame(text, 3)).to_string();
        assert_eq!(small, "one\r\ntwo\r\n... 2 more lines");
    }

    /// Not a test of its own: what the tests below run on a terminal.
    #[test]
    fn on_a_terminal() {
        let Some(mode) = std::env::var_os("ROLEGATE_TEST_WATCH") else { return };
        let panics = mode == "panic";
        // As in the program.
        crate::defect::say_defects(crate::defect::Program::Rolegate);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let looks = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let look = move || {
            let n = looks.fetch_add(1, Ordering::SeqCst);
            assert!(!panics || n < 2, "a defect");
            Report { at: n, ..report_of(healthy()) }
        };
        let ended = runtime.block_on(watch(Duration::from_millis(50), false, look));
        runtime.shutdown_background();
        // Into stderr, as what the test harness prints stands in stdout.
        eprintln!("ended with {ended:?}");
        std::process::exit(7);
    }

    /// A watch on a terminal of its own, as a shell starts it.
    struct Watch {
        child: Child,
        terminal: OpenptyResult,
        output: mpsc::Receiver<Vec<u8>>,
        seen: String,
        before: Termios,
    }

    impl Watch {
        fn start(mode: &str) -> Self {
            let size = Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
            let terminal = openpty(Some(&size), None).unwrap();
            let before = tcgetattr(&terminal.slave).unwrap();
            assert!(before.local_flags.contains(LocalFlags::ECHO | LocalFlags::ICANON));
            let slave = || Stdio::from(terminal.slave.try_clone().unwrap());
            let child = Command::new("setsid")
                .args(["--ctty", "--wait"])
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", "cli::watch::tests::on_a_terminal", "--nocapture", "--test-threads=1"])
                .env("ROLEGATE_TEST_WATCH", mode)
                .env("TERM", "xterm-256color")
                .env_remove("NO_COLOR")
                .stdin(slave())
                .stdout(slave())
                .stderr(slave())
                .spawn()
                .unwrap();
            let (sender, output) = mpsc::channel();
            let mut reader = File::from(terminal.master.try_clone().unwrap());
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count) = reader.read(&mut buffer) {
                    if count == 0 || sender.send(buffer[..count].to_vec()).is_err() {
                        return;
                    }
                }
            });
            Watch { child, terminal, output, seen: String::new(), before }
        }

        /// Reads until the terminal has got `wanted`, and forgets all up to there.
        fn until(&mut self, wanted: &str) -> String {
            loop {
                if let Some(at) = self.seen.find(wanted) {
                    let rest = self.seen.split_off(at + wanted.len());
                    return std::mem::replace(&mut self.seen, rest);
                }
                let more = self.output.recv_timeout(LONG);
                let more = more.unwrap_or_else(|_| panic!("no {wanted:?} in {:?}", self.seen));
                self.seen.push_str(&String::from_utf8_lossy(&more));
            }
        }

        fn type_in(&self, text: &str) {
            File::from(self.terminal.master.try_clone().unwrap()).write_all(text.as_bytes()).unwrap();
        }

        /// The watch itself, a child of setsid.
        fn pid(&self) -> Pid {
            let path = format!("/proc/{0}/task/{0}/children", self.child.id());
            let children = std::fs::read_to_string(path).unwrap();
            // Without --fork setsid becomes the program where it leads no group.
            children
                .split_whitespace()
                .next()
                .map_or(Pid::from_raw(self.child.id() as i32), |pid| Pid::from_raw(pid.parse().unwrap()))
        }

        fn is_as_it_was(&self) {
            let now = tcgetattr(self.terminal.slave.as_fd()).unwrap();
            assert_eq!(now.local_flags, self.before.local_flags);
        }

        /// That it has left the terminal as it was; what came behind that.
        fn left(mut self) -> String {
            self.until("\x1b[?7h\x1b[?25h\x1b[?1049l");
            let after = self.until("ended with");
            self.child.wait().unwrap();
            self.is_as_it_was();
            assert!(!after.contains("\x1b[H"), "painted on: {after:?}");
            after
        }
    }

    /// A test that fails leaves none behind, suspended or not.
    impl Drop for Watch {
        fn drop(&mut self) {
            if let Ok(None) = self.child.try_wait() {
                let _gone = kill(self.pid(), Signal::SIGKILL);
                let _gone = self.child.kill().and_then(|()| self.child.wait());
            }
        }
    }

    /// One that has painted two looks.
    fn painting() -> Watch {
        let mut watch = Watch::start("watch");
        watch.until("\x1b[?1049h\x1b[?25l");
        for at in ["1970-01-01T00:00:00Z", "1970-01-01T00:00:01Z"] {
            watch.until(at);
            let painted = watch.until("\x1b[?2026l");
            assert!(painted.contains("node1 takes writes at 10.0.0.1:6381\x1b[K\r"), "{painted:?}");
            // In place: what was there is never wiped out first.
            assert!(!painted.contains("\x1b[2J"), "{painted:?}");
        }
        let during = tcgetattr(watch.terminal.slave.as_fd()).unwrap();
        assert!(!during.local_flags.intersects(LocalFlags::ECHO | LocalFlags::ICANON));
        watch
    }

    #[test]
    fn a_watch_ends_by_a_key_or_a_signal_and_leaves_the_terminal_as_it_was() {
        for key in ["q", "\x03", "\x1c"] {
            let watch = painting();
            watch.type_in(key);
            watch.left();
        }
        for signal in [Signal::SIGTERM, Signal::SIGHUP] {
            let watch = painting();
            kill(watch.pid(), signal).unwrap();
            watch.left();
        }
    }

    #[test]
    fn a_watch_that_panics_leaves_the_terminal_as_it_was_with_the_message_on_it() {
        let watch = Watch::start("panic");
        let after = watch.left();
        assert!(after.contains("rolegate: this is a defect in rolegate itself (a defect at "), "{after:?}");
    }

    #[test]
    fn a_watch_that_is_suspended_gives_the_terminal_back_meanwhile() {
        let mut watch = painting();
        watch.type_in("\x1a");
        watch.until("\x1b[?7h\x1b[?25h\x1b[?1049l");
        let pid = watch.pid();
        let stopped = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") T ");
        let until = std::time::Instant::now() + LONG;
        while !stopped() {
            assert!(std::time::Instant::now() < until, "it does not stop");
            std::thread::sleep(Duration::from_millis(10));
        }
        watch.is_as_it_was();
        kill(pid, Signal::SIGCONT).unwrap();
        watch.until("\x1b[?1049h");
        watch.until("node1 takes writes");
        watch.type_in("q");
        watch.left();
    }

    #[test]
    fn without_a_terminal_it_says_what_else_there_is() {
        // The tests' stdout may be a terminal; this is about the reason.
        if !io::stdout().is_terminal() {
            let stop = run(Duration::from_secs(1), false, false, None).unwrap_err();
            assert!(stop.code == CliCode::Unknown && stop.message.contains("--json"), "{stop:?}");
        }
    }
}
