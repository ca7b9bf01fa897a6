//! The command line of `rolegate-port`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::filter::LevelFilter;

use super::{
    Backend, BackendChoice, Baseline, Desired, Gate, GateError, LONGEST, Port, PortState, Ports, State, Want,
    listener_means,
};
use crate::exit::PortCode;
use crate::logging::{self, LogTo};

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "rolegate-port", version, about = ABOUT, max_term_width = 120, after_help = CODES)]
#[command(disable_help_flag = true, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    gate: GateArgs,
    /// Shows this.
    #[arg(short, long, global = true, action = clap::ArgAction::HelpShort)]
    help: Option<bool>,
}

/// Its definition.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

const ABOUT: &str = "Opens and closes the read-only and the read-write port of a Redis on this host. Nothing is open unless opened \
here, and only for the time given";

const CODES: &str = "Exit codes: 0 done, 1 firewall refused, 2 usage, 4 not root, 5 no firewall, 6 port in use, 7 table not ours, \
8 timeout, 9 another gate's port";

#[derive(Debug, Args)]
struct GateArgs {
    /// The read-only port.
    #[arg(long, global = true, default_value_t = Ports::default().ro, value_name = "PORT")]
    ro_port: u16,
    /// The read-write port.
    #[arg(long, global = true, default_value_t = Ports::default().rw, value_name = "PORT")]
    rw_port: u16,
    /// The port on which Redis listens.
    #[arg(long, global = true, default_value_t = Ports::default().redis, value_name = "PORT")]
    redis_port: u16,
    /// auto, nft, iptables, iptables-nft or -legacy.
    #[arg(long, global = true, default_value = "auto", hide_default_value = true, value_name = "NAME")]
    backend: BackendChoice,
    /// How long it may take.
    #[arg(long, global = true, default_value = "10s", value_name = "TIME", value_parser = time)]
    timeout: Duration,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes or repairs what both ports need; opens nothing.
    Baseline,
    /// Opens a port for a time; an open one gets that time from now on.
    Open {
        /// Which port.
        port: Which,
        /// For how long: 500ms, 20s, 5m; at most 1h.
        #[arg(long = "for", value_name = "TIME", value_parser = time)]
        time: Duration,
    },
    /// Closes a port and cuts its connections.
    Close {
        /// Which port.
        port: Which,
    },
    /// Shows what the firewall holds.
    State {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Closes both ports and takes all that is ours out of the firewall.
    Remove {
        /// Of every gate on this host, whatever its ports.
        #[arg(long)]
        all: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    /// The read-only port.
    Ro,
    /// The read-write port.
    Rw,
    /// Both.
    All,
}

impl Which {
    fn wants(self, want: Want) -> Desired {
        match self {
            Which::Ro => Desired::KEEP.with(Port::Ro, want),
            Which::Rw => Desired::KEEP.with(Port::Rw, want),
            Which::All => Desired { ro: want, rw: want },
        }
    }
}

/// Reads `500ms`, `20s`, `5m` or `1h`.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("a number with its unit, such as 500ms, 20s or 5m".to_owned()),
    };
    let time = number.parse::<u64>().ok().and_then(|number| number.checked_mul(milliseconds));
    match time.map(Duration::from_millis) {
        Some(time) if !time.is_zero() && time <= LONGEST => Ok(time),
        _ => Err("more than 0 and at most 1h".to_owned()),
    }
}

/// The whole program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody reads it, then: the code says enough.
            let _unwritable = error.print();
            return if error.use_stderr() { PortCode::Usage } else { PortCode::Ok }.into();
        }
    };
    logging::init("rolegate-port", LogTo::Stderr, LevelFilter::WARN);
    match run(&cli) {
        Ok(text) => {
            // That nobody reads it is no reason to fail: what was asked for is done.
            let _closed = std::io::stdout().write_all(text.as_bytes());
            PortCode::Ok.into()
        }
        Err(error) => {
            let code = error.code();
            let _closed = writeln!(std::io::stderr(), "rolegate-port: {:#}", anyhow::Error::new(error));
            code.into()
        }
    }
}

fn run(cli: &Cli) -> Result<String, GateError> {
    let args = &cli.gate;
    if let Command::Remove { all: true } = cli.command {
        super::remove_all(args.timeout)?;
        return Ok("nothing is left of any gate on this host\n".to_owned());
    }
    let ports = Ports::new(args.ro_port, args.rw_port, args.redis_port)?;
    let gate = Gate::new(ports, args.backend, args.timeout)?.sparing_others();
    let state = match &cli.command {
        Command::Baseline => gate.baseline()?,
        Command::Open { port, time } => gate.set(port.wants(Want::Open(*time)))?,
        Command::Close { port } => gate.set(port.wants(Want::Close))?,
        Command::State { json: false } => gate.state()?,
        Command::State { json: true } => {
            let json = serde_json::json!(gate.state()?);
            return Ok(format!("{json}\n"));
        }
        Command::Remove { .. } => {
            gate.remove()?;
            return Ok(format!("nothing is left of the gate on ports {} and {}\n", ports.ro, ports.rw));
        }
    };
    let mut text = text(&state);
    for (port, at) in gate.listeners().unwrap_or_default() {
        let number = ports.number(port);
        put(&mut text, format_args!("warning: a program listens on {at}: {}", listener_means(state.of(port), number)));
    }
    Ok(text)
}

/// The state for people.
fn text(state: &State) -> String {
    let mut text = String::new();
    let baseline = match &state.baseline {
        Baseline::Intact => "intact".to_owned(),
        Baseline::Missing => "missing".to_owned(),
        Baseline::Edited(difference) => format!("edited: {difference}"),
    };
    put(&mut text, format_args!("{}: {baseline}", state.backend));
    for port in Port::ALL {
        let number = state.ports.number(port);
        match state.of(port) {
            PortState::Closed => put(&mut text, format_args!("{port} {number}: closed")),
            PortState::Open { remaining: Duration::MAX } => {
                put(&mut text, format_args!("{port} {number}: open without end"));
            }
            PortState::Open { remaining } => {
                let redis = state.ports.redis;
                let seconds = remaining.as_secs_f64();
                put(&mut text, format_args!("{port} {number}: open to {redis} for {seconds:.1} s"));
            }
        }
    }
    if let Some(cut) = &state.cut {
        put(&mut text, format_args!("connections cut: {}", cut.connections));
        if let Some(reason) = &cut.incomplete {
            put(&mut text, format_args!("others are blocked but not reset: {reason}"));
        }
    }
    if state.backend != Backend::Nft {
        put(&mut text, format_args!("times are whole seconds on this backend"));
    }
    text
}

fn put(text: &mut String, line: std::fmt::Arguments) {
    // Writing to a String cannot fail.
    let _infallible = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_its_help_fits_a_screen() {
        Cli::command().debug_assert();
        let help = Cli::command().render_help().to_string();
        assert!(help.lines().count() <= 40, "{help}");
    }

    #[test]
    fn times_have_a_unit_and_bounds() {
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(time("20s"), Ok(Duration::from_secs(20)));
        assert_eq!(time("1h"), Ok(LONGEST));
        for wrong in ["", "20", "0s", "0ms", "61m", "2h", "-1s", "1.5s", "s", "1d", "99999999999999999999s"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn open_needs_a_time() {
        assert!(Cli::try_parse_from(["rolegate-port", "open", "rw"]).is_err());
        assert!(Cli::try_parse_from(["rolegate-port", "open", "rw", "--for", "0s"]).is_err());
        assert!(Cli::try_parse_from(["rolegate-port", "open", "rw", "--for", "20s"]).is_ok());
        assert!(Cli::try_parse_from(["rolegate-port", "close", "all", "--rw-port", "7001"]).is_ok());
        // The package's prerm.
        assert!(Cli::try_parse_from(["rolegate-port", "remove", "--all"]).is_ok());
    }

    #[test]
    fn the_text_of_a_state() {
        let state = State {
            backend: Backend::Nft,
            baseline: Baseline::Intact,
            ports: Ports::default(),
            ro: PortState::Open { remaining: Duration::from_millis(19_940) },
            rw: PortState::Closed,
            cut: Some(super::super::Cut { connections: 3, incomplete: None }),
        };
        assert_eq!(
            text(&state),
            "nft: intact\nro 6380: open to 6379 for 19.9 s\nrw 6381: closed\nconnections cut: 3\n"
        );
    }
}
