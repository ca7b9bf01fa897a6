//! The operator's program `rolegate`: one file a subcommand. Each collects facts into a struct,
//! decides by a pure function, and renders text or JSON.
//!
//! It changes the cluster only with quorum, and never says that something is closed, open or done
//! which it has not seen.

mod assign;
mod backup;
mod change;
mod corosync;
mod deinit;
mod doctor;
mod exec;
mod facts;
mod fence;
mod found;
mod history;
mod init;
mod judge;
mod local;
mod metrics;
mod off;
mod open;
mod probe;
mod status;
mod switchover;
mod table;
mod text;
mod watch;

use std::ffi::OsString;
use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::Duration;

use anstream::AutoStream;
use anstream::stream::{AsLockedWrite, RawStream};
use clap::{Parser, Subcommand};

use crate::causes::with_causes;
use crate::command::CommandError;
use crate::exit::CliCode;
use crate::layout::{Guard as Gate, Unusable, guards as gates};
use crate::pacemaker::cib::Resource;
use crate::pacemaker::{self, Cib, PacemakerError};
use crate::settings::SettingsError;
use crate::together::together;

/// Redis and Valkey under Sentinel, safe to write to: who takes writes, and why.
#[derive(Debug, Parser)]
#[command(
    name = "rolegate",
    version,
    disable_help_subcommand = true,
    after_help = "Exit codes: 0 well or done, 1 done, but look, 2 outage or refused, 3 unknown"
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

impl Cli {
    /// What is to be done: without a word, to show how things are.
    fn chosen(self) -> Command {
        self.command.unwrap_or_else(|| Command::Status(status::Args::default()))
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Who takes writes, and what is wrong; also without a command
    Status(status::Args),
    /// Look for what would go wrong, and say how to mend it
    Doctor(doctor::Args),
    /// What status sees, as OpenMetrics text for node exporter
    Metrics(metrics::Args),
    /// The last failovers as this node saw them, step by step
    History(history::Args),
    /// Move the primary to another node, with nothing lost
    Switchover(switchover::Args),
    /// Move the primary away, then close a node's ports until unfence
    Fence(fence::FenceArgs),
    /// Lift a fence: the node's role comes back
    Unfence(fence::UnfenceArgs),
    /// Break the glass: open a node without a majority of Sentinels
    Open(open::Args),
    /// Say that a node is off: no change of the record waits for it
    ConfirmOff(off::Args),
    /// A Redis command on all nodes; what writes, on the primary only
    Exec(exec::Args),
    /// A copy of the data from a replica, checked, into a file here
    Backup(backup::Args),
    /// Become a program as another process would run it
    #[command(hide = true)]
    Like(doctor::like::Args),
    /// Write the manual pages and shell completions of all programs below a directory, where Debian has them
    #[command(hide = true)]
    Generate {
        /// / or the root of a package
        directory: std::path::PathBuf,
    },
    /// Find Sentinels and nodes, and write the record of them
    Init(init::Args),
    /// Take out again what init has put in
    Deinit(deinit::Args),
    /// The help of a command
    #[command(hide = true)]
    Help {
        /// Which
        command: Option<String>,
    },
}

/// Its definition.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Runs the program with `args` (argv, the program's name first).
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version too: clap knows which stream. A closed pipe is nobody's trouble.
            let _closed = error.print();
            // For a monitoring system 2 would be an outage.
            return if error.use_stderr() { CliCode::Unknown } else { CliCode::Ok }.into();
        }
    };
    let result = match cli.chosen() {
        Command::Status(args) => status::run(&args),
        Command::Metrics(args) => metrics::run(&args),
        Command::History(args) => history::run(&args),
        Command::Switchover(args) => switchover::run(&args),
        Command::Fence(args) => fence::fence(&args),
        Command::Unfence(args) => fence::unfence(&args),
        Command::Open(args) => open::run(&args),
        Command::ConfirmOff(args) => off::run(&args),
        Command::Exec(args) => exec::run(&args),
        Command::Backup(args) => backup::run(&args),
        Command::Init(args) => init::run(&args),
        Command::Deinit(args) => deinit::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Help { command } => return run(help(command)),
        Command::Like(args) => doctor::like::run(&args),
        Command::Generate { directory } => match crate::manual::write(&directory) {
            Ok(files) => {
                files.iter().for_each(|file| say(file.to_string_lossy()));
                Ok(CliCode::Ok)
            }
            Err(error) => Err(Stop::refused(format!("{}: {error}", directory.display()))),
        },
    };
    match result {
        Ok(code) => code.into(),
        Err(stop) => {
            let _closed = writeln!(std::io::stderr(), "rolegate: {}", typed_here(&stop.message));
            stop.code.into()
        }
    }
}

/// What `rolegate help COMMAND` means.
fn help(command: Option<String>) -> impl Iterator<Item = OsString> {
    [Some("rolegate".to_owned()), command, Some("--help".to_owned())].into_iter().flatten().map(OsString::from)
}

/// Words as a shell takes them: what is printed to be typed can be pasted.
fn typed<S: AsRef<str>>(words: impl IntoIterator<Item = S>) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:@%+,".contains(c);
    let one = |word: S| match word.as_ref() {
        word if !word.is_empty() && word.chars().all(plain) => word.to_owned(),
        word => format!("'{}'", word.replace('\'', "'\\''")),
    };
    words.into_iter().map(one).collect::<Vec<_>>().join(" ")
}

/// Why a command ends before its end.
#[derive(Debug, PartialEq, Eq)]
struct Stop {
    code: CliCode,
    message: String,
}

impl Stop {
    /// Not done, because it must not or cannot be.
    fn refused(message: impl Into<String>) -> Self {
        Stop { code: CliCode::Critical, message: message.into() }
    }

    /// Could not see enough to act.
    fn unknown(message: impl Into<String>) -> Self {
        Stop { code: CliCode::Unknown, message: message.into() }
    }
}

impl From<PacemakerError> for Stop {
    fn from(error: PacemakerError) -> Self {
        match &error {
            PacemakerError::NotRunning(_) | PacemakerError::Tool(CommandError::Timeout { .. }) => {
                Stop::unknown(format!("{error}; {ASK_PACEMAKER}"))
            }
            PacemakerError::Unreadable { .. } => Stop::unknown(error.to_string()),
            PacemakerError::Denied(_) | PacemakerError::Tool(_) => Stop::refused(error.to_string()),
        }
    }
}

impl From<SettingsError> for Stop {
    fn from(error: SettingsError) -> Self {
        Stop::refused(with_causes(&error))
    }
}

/// What to do where Pacemaker does not answer.
const ASK_PACEMAKER: &str = "systemctl status pacemaker corosync, or ask on another node";

/// How somebody on `node` closes its gates for good, whatever the cluster does.
fn by_hand(node: &str) -> String {
    format!("on {node}: rolegate fence --local")
}

/// Prints one or more lines. That nobody reads them is no reason to stop half-way.
fn say(text: impl AsRef<str>) {
    let _closed = writeln!(std::io::stdout(), "{}", text.as_ref().trim_end());
}

/// A command as it can be typed where it is read, by whoever does not know what the servers are.
fn typed_here(text: &str) -> String {
    typed_here_for(false, text)
}

/// The same by who knows whether they are Valkey.
fn typed_here_for(is_valkey: bool, text: &str) -> String {
    static INSTALLED: LazyLock<[bool; 2]> =
        LazyLock::new(|| [REDIS_CLI, VALKEY_CLI].map(|name| which::which(name).is_ok()));
    text.replace(REDIS_CLI, client(*INSTALLED, is_valkey))
}

const REDIS_CLI: &str = "redis-cli";
const VALKEY_CLI: &str = "valkey-cli";

/// What is to be typed: of `[redis-cli, valkey-cli]` the one that is installed on this machine (Debian's Valkey has no redis-cli), for each of them
/// speaks to both servers. Where that does not decide, the one that comes with the servers. Pure.
fn client(installed: [bool; 2], is_valkey: bool) -> &'static str {
    match installed {
        [true, false] => REDIS_CLI,
        [false, true] => VALKEY_CLI,
        _ if is_valkey => VALKEY_CLI,
        _ => REDIS_CLI,
    }
}

/// Prints text with colours, where the terminal has them (not with NO_COLOR, TERM=dumb, or into a pipe).
fn say_in_colour(text: &str) {
    write_in_colour(std::io::stdout(), text);
}

/// Has a node's name typed before something is done that no proof stands behind. `not_done`: what is said where it is not; `in_a_script`: what says
/// it there.
fn type_name(name: &str, prompt: &str, not_done: &str, in_a_script: &str) -> Result<(), Stop> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Stop::refused(format!(
            "{not_done}: nobody is at a terminal to confirm it. In a script: {in_a_script}"
        )));
    }
    let mut out = std::io::stdout();
    let _closed = write!(out, "{prompt}").and_then(|()| out.flush());
    let mut line = String::new();
    stdin.lock().read_line(&mut line).map_err(|error| Stop::refused(format!("{not_done}: {error}")))?;
    is_name(&line, name, not_done)
}

/// Whether that is the node's name. As everywhere, in capital or small letters.
fn is_name(given: &str, name: &str, not_done: &str) -> Result<(), Stop> {
    let given = given.trim();
    match given.eq_ignore_ascii_case(name) {
        true => Ok(()),
        false => Err(Stop::refused(format!("{not_done}: {given:?} is not {name}"))),
    }
}

fn write_in_colour<S: RawStream + AsLockedWrite>(to: S, text: &str) {
    let _closed = write!(AutoStream::auto(to), "{text}");
}

/// A time in words: 14 s, 5 min, 2 h 5 min, 3 d 4 h.
fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let with_rest = |whole: u64, unit: &str, rest: u64, smaller: &str| match rest {
        0 => format!("{whole} {unit}"),
        rest => format!("{whole} {unit} {rest} {smaller}"),
    };
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{minutes} min"),
        7200..172_800 => with_rest(hours, "h", minutes % 60, "min"),
        _ => with_rest(days, "d", hours % 24, "h"),
    }
}

/// How an operator makes the resource that is missing.
const CREATE: &str = "pcs resource create RedisGate ocf:rolegate:gate promotable promoted-max=1\n\
    or:  crm configure primitive RedisGate ocf:rolegate:gate op monitor interval=5s role=Promoted op monitor interval=6s role=Unpromoted\n\
    \x20    crm configure clone RedisGate-clone RedisGate meta promotable=true promoted-max=1 interleave=true";

/// A resource that guards nothing, and why.
type Bad = (Resource, Unusable);

/// The cluster as this node sees it.
struct Cluster {
    me: String,
    quorum: bool,
    cib: Cib,
}

/// Asks Pacemaker's three questions at once: each is a program of its own.
fn look() -> Result<Cluster, Stop> {
    enum Told {
        Me(Result<String, PacemakerError>),
        Quorum(Result<bool, PacemakerError>),
        Cib(Box<Result<Cib, PacemakerError>>),
    }
    let jobs: [fn() -> Told; 3] = [
        || Told::Me(pacemaker::local_node()),
        || Told::Quorum(pacemaker::has_quorum()),
        || Told::Cib(Box::new(pacemaker::read_cib())),
    ];
    let (mut me, mut quorum, mut cib) = (None, None, None);
    for told in together(Duration::from_secs(12), jobs).into_iter().flatten() {
        match told {
            Told::Me(name) => me = Some(name?),
            Told::Quorum(has) => quorum = Some(has?),
            Told::Cib(read) => cib = Some((*read)?),
        }
    }
    match (me, quorum, cib) {
        (Some(me), Some(quorum), Some(cib)) => Ok(Cluster { me, quorum, cib }),
        _ => Err(Stop::unknown(format!("Pacemaker did not answer in time on this node; {ASK_PACEMAKER}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// Whether no command of Redis or Sentinel stands in what is to be typed without the program that sends it.
    pub(super) fn sent(text: &str) -> bool {
        let by_it = |at: usize| text[..at].rsplit([';', ',']).next().is_some_and(|before| before.contains("redis-cli"));
        ["CONFIG SET", "CONFIG REWRITE", "SENTINEL ", "ACL SETUSER", "REPLICAOF "]
            .iter()
            .all(|word| text.match_indices(word).all(|(at, _)| by_it(at)))
    }

    #[test]
    fn what_is_typed_is_what_is_installed_where_it_is_read() {
        for (installed, of_redis, of_valkey) in [
            ([true, false], REDIS_CLI, REDIS_CLI),
            ([false, true], VALKEY_CLI, VALKEY_CLI),
            ([true, true], REDIS_CLI, VALKEY_CLI),
            ([false, false], REDIS_CLI, VALKEY_CLI),
        ] {
            assert_eq!(
                [false, true].map(|is_valkey| client(installed, is_valkey)),
                [of_redis, of_valkey],
                "{installed:?}"
            );
        }
    }

    #[test]
    fn a_node_is_confirmed_by_its_name_and_nothing_else() {
        for given in ["node1", "NODE1", " Node1 \n"] {
            assert_eq!(is_name(given, "node1", "nothing is done"), Ok(()), "{given:?}");
        }
        for given in ["", "\n", "yes", "node", "node11", "node2", "node1 node1"] {
            let refused = is_name(given, "node1", "nothing is done").unwrap_err();
            assert_eq!(refused.code, CliCode::Critical, "{given:?}");
            let text = format!("nothing is done: {:?} is not node1", given.trim());
            assert_eq!(refused.message, text);
        }
    }

    #[test]
    fn the_arguments_are_well_formed_and_the_help_fits_a_screen() {
        Cli::command().debug_assert();
        let mut all = Cli::command();
        all.build();
        assert!(all.get_subcommands().all(|command| command.get_about().is_some()));
        let names: Vec<Option<String>> =
            all.get_subcommands().map(|command| Some(command.get_name().to_owned())).collect();
        for name in names.into_iter().chain([None]) {
            let help = Cli::command().term_width(80).try_get_matches_from(help(name.clone())).unwrap_err().to_string();
            assert!(help.lines().count() <= 24, "{help}");
            assert!(help.lines().all(|line| line.chars().count() <= 80), "{help}");
            assert!(help.contains(&format!("Usage: rolegate {}", name.unwrap_or_default())), "{help}");
        }
    }

    #[test]
    fn help_is_a_command_too() {
        for argv in [&["help"][..], &["help", "exec"]] {
            let cli = Cli::try_parse_from([&["rolegate"], argv].concat()).unwrap();
            let Some(Command::Help { command }) = cli.command else { panic!("{argv:?}") };
            assert_eq!(command.as_deref(), argv.get(1).copied());
            assert_eq!(help(command).count(), argv.len() + 1);
        }
    }

    #[test]
    fn what_is_to_be_pasted_is_quoted() {
        let words = ["open", "node1", "--for", "10m", "--reason", "it's a b", "", "$HOME;ls"];
        assert_eq!(typed(words), r"open node1 --for 10m --reason 'it'\''s a b' '' '$HOME;ls'");
    }

    #[test]
    fn without_a_word_it_shows_how_things_are() {
        let command = Cli::try_parse_from(["rolegate"]).unwrap().chosen();
        assert!(matches!(command, Command::Status(_)), "{command:?}");
    }

    #[test]
    fn colours_are_for_terminals() {
        use std::fs::File;
        use std::io::{Read, Seek};
        if std::env::var_os("CLICOLOR_FORCE").is_some() {
            return;
        }
        let text = table::styled("closed", table::style::WARN);
        assert!(text.contains('\x1b'), "{text:?}");
        let mut file = tempfile::tempfile().unwrap();
        write_in_colour(file.try_clone().unwrap(), &text);
        file.rewind().unwrap();
        assert_eq!(std::io::read_to_string(&file).unwrap(), "closed");
        let terminal = nix::pty::openpty(None, None).unwrap();
        write_in_colour(File::from(terminal.slave), &text);
        let mut shown = [0; 100];
        let length = File::from(terminal.master).read(&mut shown).unwrap();
        let shown = String::from_utf8_lossy(&shown[..length]).into_owned();
        let variable = |name: &str| std::env::var(name).ok();
        let bare = variable("NO_COLOR").is_some_and(|value| !value.is_empty())
            || variable("CLICOLOR").is_some_and(|value| value == "0")
            || variable("CI").or(variable("CLICOLOR")).is_none() && variable("TERM").is_none_or(|term| term == "dumb");
        assert_eq!(shown, if bare { "closed" } else { text.as_str() });
    }

    #[test]
    fn times_in_words() {
        let said = [
            (0, "0 s"),
            (119, "119 s"),
            (120, "2 min"),
            (7199, "119 min"),
            (7200, "2 h"),
            (7500, "2 h 5 min"),
            (187_200, "2 d 4 h"),
        ];
        for (seconds, wanted) in said {
            assert_eq!(span(seconds), wanted);
        }
    }

    #[test]
    fn a_silent_pacemaker_is_unknown_and_a_forbidden_change_is_refused() {
        let exit = |code| CommandError::Exit { argv: "cibadmin".into(), code, stderr: String::new() };
        let silent = Stop::from(PacemakerError::NotRunning(exit(102)));
        assert!(silent.code == CliCode::Unknown && silent.message.ends_with(ASK_PACEMAKER), "{silent:?}");
        assert_eq!(Stop::from(PacemakerError::Denied(exit(4))).code, CliCode::Critical);
    }
}
