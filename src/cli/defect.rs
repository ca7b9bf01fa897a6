//! A panic: one sentence for whoever reads stderr, and an exit code that a monitoring system knows. Rust's own is 101.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Display;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::process::ExitCode;

use crate::exit::CliCode;

/// Runs a program; where it panics, how things are is not known.
pub fn guarded(program: impl FnOnce() -> ExitCode) -> ExitCode {
    say_defects();
    // Nothing of it is looked at any more. What it has to put back it puts back while it unwinds.
    catch_unwind(AssertUnwindSafe(program)).unwrap_or_else(|_| CliCode::Unknown.into())
}

/// From now on a panic is told in one sentence, of whichever thread. The stack is for who asks for it, by RUST_BACKTRACE.
pub(super) fn say_defects() {
    std::panic::set_hook(Box::new(|panic| {
        let mut err = io::stderr().lock();
        let _closed = writeln!(err, "{}", sentence(message(panic), panic.location()));
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
fn sentence(message: &str, place: Option<impl Display>) -> String {
    let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let place = place.map(|place| format!(" at {place}")).unwrap_or_default();
    format!(
        "rolegate: this is a defect in rolegate itself ({message}{place}): please report it, with this line and what \
         journalctl --since -10min says"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Output};

    #[test]
    fn a_defect_is_one_line() {
        assert_eq!(
            sentence("left != right\n  left: 1\n right: 2", Some("src/a.rs:1:2")),
            "rolegate: this is a defect in rolegate itself (left != right left: 1 right: 2 at src/a.rs:1:2): please report it, \
             with this line and what journalctl --since -10min says"
        );
        assert!(sentence("nowhere", None::<&str>).contains("(nowhere): please report"));
    }

    /// Not a test of its own: what the one below runs.
    #[test]
    fn in_a_program() {
        let Some(how) = std::env::var_os("ROLEGATE_TEST_DEFECT") else { return };
        let code = guarded(|| match how.to_str() {
            Some("none") => CliCode::Warning.into(),
            Some("text") => panic!("a text"),
            _ => panic!("made\nof {how:?}"),
        });
        let known = [CliCode::Warning, CliCode::Unknown].into_iter().find(|known| ExitCode::from(*known) == code);
        std::process::exit(known.map_or(101, |known| known as i32));
    }

    fn program(how: &str, backtrace: Option<&str>) -> Output {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "cli::defect::tests::in_a_program", "--nocapture", "--test-threads=1"]);
        command.env("ROLEGATE_TEST_DEFECT", how).env_remove("RUST_LIB_BACKTRACE").env_remove("RUST_BACKTRACE");
        command.envs(backtrace.map(|value| ("RUST_BACKTRACE", value))).output().unwrap()
    }

    #[test]
    fn a_panic_is_told_in_one_sentence_and_by_the_exit_code_of_what_is_unknown() {
        for (how, backtrace, says) in [
            ("text", None, "(a text at "),
            ("words", None, "(made of \"words\" at "),
            ("text", Some("0"), "(a text at "),
        ] {
            let output = program(how, backtrace);
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(3), "{said}");
            assert_eq!(said.lines().count(), 1, "{said}");
            assert!(said.contains(says) && said.contains("src/cli/defect.rs:"), "{said}");
        }
        let output = program("text", Some("1"));
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.starts_with("rolegate: this is a defect") && said.contains("in_a_program"), "{said}");
    }

    #[test]
    fn what_does_not_panic_ends_as_it_does() {
        let output = program("none", None);
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(1), &b""[..]));
    }
}
