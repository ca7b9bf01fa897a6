//! Running another program: absolute path, given argv, a deadline, nothing inherited that could
//! change its output, and what it wrote to stderr kept for the error.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// The directories in which programs are looked for: those of root on Debian, whatever PATH says.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// How much of stderr an error keeps, in bytes, counted from its end.
const STDERR_TAIL: usize = 2048;

/// How much output a command may write, in bytes: far above a large CIB or ruleset.
const OUTPUT_LIMIT: u64 = 64 << 20;

/// A program to run.
#[derive(Debug, Clone)]
pub struct Cmd {
    program: OsString,
    args: Vec<OsString>,
    stdin: Option<Input>,
    env: Vec<(OsString, OsString)>,
    deadline: Duration,
    own_group: bool,
}

/// What a program reads.
#[derive(Clone)]
enum Input {
    Bytes(Vec<u8>),
    /// Writes it into the pipe, on a thread of its own.
    Written(Arc<Feed>),
}

/// Writes what a program is to read.
type Feed = dyn Fn(&mut dyn Write) + Send + Sync;

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Input::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Input::Written(_) => f.write_str("written"),
        }
    }
}

/// What a command wrote, once it ended with a code that the caller takes as an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The exit code.
    pub code: i32,
    /// All that it wrote to stdout.
    pub stdout: Vec<u8>,
    /// All that it wrote to stderr, invalid UTF-8 replaced.
    pub stderr: String,
}

impl Output {
    /// stdout as text, invalid UTF-8 replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Why a command gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// No such program in root's directories.
    #[error("{program} is not installed (looked in {PATH})")]
    NotFound {
        /// The program's name.
        program: String,
    },
    /// It could not be started, or its output could not be read.
    #[error("cannot run {argv}")]
    Io {
        /// The whole command line.
        argv: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// It ended with another code than those expected.
    #[error("{argv} ended with code {code}{}", said(stderr))]
    Exit {
        /// The whole command line.
        argv: String,
        /// The exit code.
        code: i32,
        /// The end of what it wrote to stderr.
        stderr: String,
    },
    /// A signal ended it.
    #[error("{argv} was ended by signal {signal}{}", said(stderr))]
    Signal {
        /// The whole command line.
        argv: String,
        /// The signal's number.
        signal: i32,
        /// The end of what it wrote to stderr.
        stderr: String,
    },
    /// It was still running at its deadline and has been killed, with all that it started.
    #[error("{argv} did not end within {} ms and was killed{}", deadline.as_millis(), said(stderr))]
    Timeout {
        /// The whole command line.
        argv: String,
        /// How long it had.
        deadline: Duration,
        /// The end of what it wrote to stderr until then.
        stderr: String,
    },
}

impl CommandError {
    /// The exit code and the end of stderr, where the command ended by itself.
    pub fn exit(&self) -> Option<(i32, &str)> {
        match self {
            CommandError::Exit { code, stderr, .. } => Some((*code, stderr)),
            _ => None,
        }
    }
}

fn said(stderr: &str) -> String {
    match stderr.trim() {
        "" => String::new(),
        text => format!(": {text}"),
    }
}

fn tail(bytes: &[u8]) -> String {
    let from = bytes.len().saturating_sub(STDERR_TAIL);
    String::from_utf8_lossy(&bytes[from..]).into_owned()
}

/// Where `program` is: as given if absolute, else the first hit in root's directories.
///
/// # Errors
/// [`CommandError::NotFound`], naming the program.
pub fn find(program: impl AsRef<OsStr>) -> Result<PathBuf, CommandError> {
    let program = program.as_ref();
    which::which_in(program, Some(PATH), Path::new("/"))
        .map_err(|_| CommandError::NotFound { program: program.to_string_lossy().into_owned() })
}

impl Cmd {
    /// `program` (an absolute path, or a name looked up in root's directories) with a deadline of 10 s.
    pub fn new(program: impl Into<OsString>) -> Self {
        Cmd {
            program: program.into(),
            args: Vec::new(),
            stdin: None,
            env: Vec::new(),
            deadline: Duration::from_secs(10),
            own_group: true,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds several arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Gives `text` on stdin; without this stdin is empty.
    #[must_use]
    pub fn stdin(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(Input::Bytes(text.into()));
        self
    }

    /// Gives it on stdin what `feed` writes, which is called on a thread of its own and may outlast the program: for what is too long
    /// to be held in memory.
    #[must_use]
    pub fn fed_by(mut self, feed: impl Fn(&mut dyn Write) + Send + Sync + 'static) -> Self {
        self.stdin = Some(Input::Written(Arc::new(feed)));
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// How long it may take before it is killed with all that it started.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs it in our own process group, so that who kills our group kills it too: a change must not happen after its
    /// caller is gone. At its deadline only itself is killed, so it must be a program that starts no others.
    #[must_use]
    pub fn in_our_group(mut self) -> Self {
        self.own_group = false;
        self
    }

    /// The command line, for messages.
    pub fn argv(&self) -> String {
        let mut argv = self.program.to_string_lossy().into_owned();
        for arg in &self.args {
            let arg = arg.to_string_lossy();
            argv.push(' ');
            if arg.is_empty() || arg.contains(char::is_whitespace) {
                argv.push_str(&format!("{arg:?}"));
            } else {
                argv.push_str(&arg);
            }
        }
        argv
    }

    /// Runs it and expects exit code 0.
    ///
    /// # Errors
    /// Every [`CommandError`].
    pub fn run(&self) -> Result<Output, CommandError> {
        self.run_expecting(&[0])
    }

    /// Runs it and takes each code of `codes` as an answer.
    ///
    /// # Errors
    /// Every [`CommandError`]; [`CommandError::Exit`] for any other code.
    pub fn run_expecting(&self, codes: &[i32]) -> Result<Output, CommandError> {
        let (status, stdout, stderr) = self.execute()?;
        match status.code() {
            Some(code) if codes.contains(&code) => {
                Ok(Output { code, stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() })
            }
            Some(code) => Err(CommandError::Exit { argv: self.argv(), code, stderr: tail(&stderr) }),
            None => Err(CommandError::Signal {
                argv: self.argv(),
                signal: status.signal().unwrap_or(0),
                stderr: tail(&stderr),
            }),
        }
    }

    fn kill(&self, child: &mut Child) {
        // Gone already is as good as killed.
        if self.own_group {
            let _gone = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
        } else {
            let _gone = child.kill();
        }
    }

    fn execute(&self) -> Result<(ExitStatus, Vec<u8>, Vec<u8>), CommandError> {
        let started = Instant::now();
        let io = |source| CommandError::Io { argv: self.argv(), source };
        let mut command = Command::new(find(&self.program)?);
        if self.own_group {
            // So that the deadline reaches what it starts.
            command.process_group(0);
        }
        let mut child = command
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .env("LC_ALL", "C")
            .env("PATH", PATH)
            .current_dir("/")
            .stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(io)?;

        if let (Some(mut pipe), Some(input)) = (child.stdin.take(), self.stdin.clone()) {
            // On a thread: a program that writes before it has read all would block us for ever.
            // A program that does not read its input says why by its exit code.
            thread::spawn(move || match input {
                Input::Bytes(text) => drop(pipe.write_all(&text)),
                Input::Written(feed) => feed(&mut pipe),
            });
        }
        let (done, ends) = mpsc::channel();
        let out = drain(child.stdout.take(), done.clone());
        let err = drain(child.stderr.take(), done);

        // Both pipes closed means that it ended or is about to. Something that it left behind may
        // hold them open, so the deadline covers them too.
        let in_time = (0..2).all(|_| ends.recv_timeout(self.deadline.saturating_sub(started.elapsed())).is_ok())
            && ended_by(&mut child, started + self.deadline).map_err(io)?;
        if !in_time {
            self.kill(&mut child);
            // Killed: this wait is short, and so are the pipes of all in its group.
            child.wait().map_err(io)?;
            let stderr = if err.is_finished() || ends.recv_timeout(Duration::from_millis(100)).is_ok() {
                err.join().unwrap_or_default()
            } else {
                Vec::new()
            };
            return Err(CommandError::Timeout { argv: self.argv(), deadline: self.deadline, stderr: tail(&stderr) });
        }
        let status = child.wait().map_err(io)?;
        Ok((status, out.join().unwrap_or_default(), err.join().unwrap_or_default()))
    }
}

fn drain(pipe: Option<impl Read + Send + 'static>, done: mpsc::Sender<()>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            // What was read until an error is still worth having.
            let _partial = pipe.take(OUTPUT_LIMIT).read_to_end(&mut bytes);
        }
        let _gone = done.send(());
        bytes
    })
}

/// Whether `child` ended before `deadline`. Its pipes are closed already, so this is short as a rule.
fn ended_by(child: &mut Child, deadline: Instant) -> io::Result<bool> {
    let mut pause = Duration::from_micros(50);
    loop {
        if child.try_wait()?.is_some() {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Cmd {
        Cmd::new("sh").args(["-c", script])
    }

    #[test]
    fn gives_both_streams_and_the_code() {
        let output = sh("echo out; echo err >&2; exit 3").run_expecting(&[3]).unwrap();
        assert_eq!((output.code, output.text().as_str(), output.stderr.as_str()), (3, "out\n", "err\n"));
    }

    #[test]
    fn an_unexpected_code_is_an_error_with_stderr() {
        let error = sh("echo broken >&2; exit 4").run().unwrap_err();
        assert_eq!(error.exit(), Some((4, "broken\n")));
        assert!(error.to_string().contains("code 4: broken"), "{error}");
    }

    #[test]
    fn the_deadline_kills_the_whole_group_and_keeps_stderr() {
        let started = Instant::now();
        let error = sh("echo slow >&2; sleep 60 & sleep 60").deadline(Duration::from_millis(200)).run().unwrap_err();
        assert!(matches!(&error, CommandError::Timeout { stderr, .. } if stderr == "slow\n"), "{error:?}");
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_program_in_our_group_dies_with_it() {
        let ours = Cmd::new("sleep").arg("60").in_our_group().deadline(Duration::from_millis(100));
        assert!(matches!(ours.run(), Err(CommandError::Timeout { .. })));
        let script = "ps -o pgid= -p $$";
        let own = sh(script).run().unwrap().text().trim().to_owned();
        let shared = sh(script).in_our_group().run().unwrap().text().trim().to_owned();
        let me = nix::unistd::getpgrp().to_string();
        assert!(shared == me && own != me, "{shared} {own} {me}");
    }

    #[test]
    fn a_child_left_behind_with_our_pipes_does_not_outlast_the_deadline() {
        let started = Instant::now();
        assert!(sh("sleep 60 &").deadline(Duration::from_millis(300)).run().is_err());
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn large_input_and_output_do_not_block() {
        let text = vec![b'x'; 1 << 20];
        assert_eq!(Cmd::new("cat").stdin(text.clone()).run().unwrap().stdout, text);
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Cmd::new("no-such-program-here").run().unwrap_err();
        assert!(matches!(&error, CommandError::NotFound { program } if program == "no-such-program-here"));
    }

    #[test]
    fn a_signal_is_named() {
        assert!(matches!(sh("kill -9 $$").run().unwrap_err(), CommandError::Signal { signal: 9, .. }));
    }
}
