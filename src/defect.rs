//! A panic: one sentence for whoever reads stderr, and an exit code that whoever runs the program knows. Rust's own is 101.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Display;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::process::ExitCode;

use crate::exit::{CliCode, HookCode, OcfCode, PortCode};

/// A program, each with what its defect means to who runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `rolegate`: how things are is not known.
    Rolegate,
    /// `rolegate-port`: the firewall is not known to be as asked.
    Port,
    /// `rolegate-keeper`: systemd starts it again.
    Keeper,
    /// `rolegate-hook`: to be tried again. What it fell over may be what a server or Pacemaker said just then, and a call that comes late does no
    /// harm: the hook goes by what Sentinels say when it runs.
    Hook,
    /// `rolegate-agent`: failed, so that Pacemaker recovers the resource. Not "not installed" or "not configured", which would ban it.
    Agent,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Program::Rolegate => "rolegate",
            Program::Port => "rolegate-port",
            Program::Keeper => "rolegate-keeper",
            Program::Hook => "rolegate-hook",
            Program::Agent => "rolegate-agent",
        }
    }

    fn code(self) -> ExitCode {
        match self {
            Program::Rolegate => CliCode::Unknown.into(),
            Program::Port => PortCode::Failed.into(),
            Program::Keeper => ExitCode::FAILURE,
            Program::Hook => HookCode::Retry.into(),
            Program::Agent => OcfCode::Generic.into(),
        }
    }
}

/// Runs a program, so that it ends with its own code for a defect where it panics.
pub fn guarded(program: Program, run: impl FnOnce() -> ExitCode) -> ExitCode {
    say_defects(program);
    // Nothing of it is looked at any more. What it has to put back it puts back while it unwinds.
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| program.code())
}

/// From now on a panic is told in one sentence, of whichever thread. The stack is for who asks for it, by RUST_BACKTRACE.
///
/// On stderr alone: under systemd that is the journal, of an agent Pacemaker's log, and a logger may be what has panicked.
pub fn say_defects(program: Program) {
    std::panic::set_hook(Box::new(move |panic| {
        let mut err = io::stderr().lock();
        let _closed = writeln!(err, "{}", sentence(program, message(panic), panic.location()));
        let stack = Backtrace::capture();
        if stack.status() == BacktraceStatus::Captured {
            let _closed = writeln!(err, "{stack}");
        }
    }));
}

fn message<'a>(panic: &'a PanicHookInfo<'_>) -> &'a str {
    let message = panic.payload();
    let text = message.downcast_ref::<String>().map(String::as_str);
    text.or(message.downcast_ref::<&str>().copied()).unwrap_or("it does not say which")
}

/// In one line, whatever the message is.
fn sentence(program: Program, message: &str, place: Option<impl Display>) -> String {
    let name = program.name();
    let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let place = place.map(|place| format!(" at {place}")).unwrap_or_default();
    format!(
        "{name}: this is a defect in rolegate itself ({message}{place}): please report it, with this line and what \
         journalctl --since -10min says"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Output};

    /// Each with its source, and the code of its defect.
    const ALL: [(Program, &str, i32); 5] = [
        (Program::Rolegate, include_str!("bin/rolegate.rs"), 3),
        (Program::Port, include_str!("bin/rolegate-port.rs"), 1),
        (Program::Keeper, include_str!("bin/rolegate-keeper.rs"), 1),
        (Program::Hook, include_str!("bin/rolegate-hook.rs"), 1),
        (Program::Agent, include_str!("bin/rolegate-agent.rs"), 1),
    ];

    #[test]
    fn a_defect_is_one_line() {
        assert_eq!(
            sentence(Program::Hook, "left != right\n  left: 1\n right: 2", Some("src/a.rs:1:2")),
            "rolegate-hook: this is a defect in rolegate itself (left != right left: 1 right: 2 at src/a.rs:1:2): please report \
             it, with this line and what journalctl --since -10min says"
        );
        assert!(sentence(Program::Port, "nowhere", None::<&str>).contains("(nowhere): please report"));
    }

    #[test]
    fn each_program_is_guarded_as_itself_before_it_does_anything() {
        for (program, source, _) in ALL {
            let (_, body) = source.split_once("fn main() -> ").unwrap();
            let first = body.lines().nth(1).unwrap().trim();
            assert!(first.starts_with(&format!("defect::guarded(Program::{program:?}, ")), "{program:?}: {first}");
        }
    }

    const PROGRAM: &str = "defect::tests::a_program";

    #[test]
    #[ignore = "what the tests below run, in a process of its own"]
    fn a_program() {
        let Ok(what) = std::env::var("ROLEGATE_TEST_DEFECT") else { return };
        let (name, how) = what.split_once(' ').unwrap();
        let (program, _, defect) = ALL.into_iter().find(|(program, ..)| program.name() == name).unwrap();
        let code = guarded(program, || match how {
            "none" => ExitCode::from(7),
            "text" => panic!("a text"),
            "thread" => {
                let _panicked = std::thread::spawn(|| panic!("beside it")).join();
                ExitCode::from(7)
            }
            _ => panic!("made\nof {how:?}"),
        });
        // An ExitCode does not say which it is.
        let known = [7, defect as u8].into_iter().find(|known| ExitCode::from(*known) == code);
        std::process::exit(known.map_or(101, i32::from));
    }

    fn run(program: Program, how: &str, backtrace: Option<&str>) -> Output {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", PROGRAM, "--ignored", "--nocapture", "--test-threads=1"]);
        command.env("ROLEGATE_TEST_DEFECT", format!("{} {how}", program.name()));
        command.env_remove("RUST_LIB_BACKTRACE").env_remove("RUST_BACKTRACE");
        command.envs(backtrace.map(|value| ("RUST_BACKTRACE", value))).output().unwrap()
    }

    #[test]
    fn a_panic_is_told_in_one_sentence_and_by_the_programs_own_code() {
        for (program, _, code) in ALL {
            for (how, backtrace, says) in [
                ("text", None, "(a text at "),
                ("words", None, "(made of \"words\" at "),
                ("text", Some("0"), "(a text at "),
            ] {
                let output = run(program, how, backtrace);
                let said = String::from_utf8(output.stderr).unwrap();
                assert_eq!(output.status.code(), Some(code), "{program:?}: {said}");
                assert_eq!(said.lines().count(), 1, "{said}");
                assert!(said.starts_with(&format!("{}: this is a defect", program.name())), "{said}");
                assert!(said.contains(says) && said.contains("src/defect.rs:"), "{said}");
            }
        }
        let output = run(Program::Rolegate, "text", Some("1"));
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.starts_with("rolegate: this is a defect") && said.contains("a_program"), "{said}");
    }

    /// As a keeper's job: who waits for it decides what follows.
    #[test]
    fn a_panic_of_another_thread_is_told_so_and_ends_nothing() {
        let output = run(Program::Keeper, "thread", None);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(7), "{said}");
        assert!(said.starts_with("rolegate-keeper: ") && said.lines().count() == 1, "{said}");
    }

    #[test]
    fn what_does_not_panic_ends_as_it_does() {
        for (program, ..) in ALL {
            let output = run(program, "none", None);
            assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(7), &b""[..]));
        }
    }
}
