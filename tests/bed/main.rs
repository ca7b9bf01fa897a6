//! The bed's command line.

#[path = "mod.rs"]
mod bed;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use nix::sys::signal::Signal;

use bed::bench::Part;
use bed::faults::Fault;
use bed::{Bed, Options, Server};

/// Raises a bed on this machine (three cluster nodes and two client hosts, booted Debians), breaks it, and takes it
/// down.
#[derive(Parser)]
#[command(name = "bed")]
struct Cli {
    /// Which bed.
    #[arg(long, short, global = true, default_value = "main")]
    name: String,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Raise a bed and leave it up.
    Up(Up),
    /// Take a bed down, or remove what is left of one.
    Down {
        /// The bed's name; instead of --name.
        bed: Option<String>,
    },
    /// The beds there are.
    List,
    /// Which hosts are on, and what cluster and Sentinels say.
    Status,
    /// Run a command in a host: exec node1 -- crm_mon -1
    Exec {
        /// The host: node1 to node3, client1, client2.
        host: String,
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// A shell in a host.
    Shell {
        /// The host.
        host: String,
    },
    /// Cut hosts off from all others, in both directions; they reach each other.
    Isolate {
        /// The hosts.
        #[arg(required = true)]
        hosts: Vec<String>,
    },
    /// Let the switch drop packets in one direction.
    Drop(Drop),
    /// End every partition and every drop.
    Heal,
    /// Send a signal to a process: kill node1 redis-server
    Kill {
        /// The host.
        host: String,
        /// The program's name.
        process: String,
        /// The signal, e.g. SIGTERM.
        #[arg(long, default_value = "SIGKILL")]
        signal: Signal,
    },
    /// Stop a process (SIGSTOP).
    Stop {
        /// The host.
        host: String,
        /// The program's name.
        process: String,
    },
    /// Let a stopped process go on.
    Cont {
        /// The host.
        host: String,
        /// The program's name.
        process: String,
    },
    /// Stop every process of a host.
    Freeze {
        /// The host.
        host: String,
    },
    /// Let a frozen host go on.
    Thaw {
        /// The host.
        host: String,
    },
    /// Cut a host's power; its disk stays as it is.
    PowerOff {
        /// The host.
        host: String,
    },
    /// Boot a host that is off.
    Boot {
        /// The host.
        host: String,
    },
    /// Shut a host down in good order.
    Shutdown {
        /// The host.
        host: String,
    },
    /// Write logs and state of all hosts into a directory.
    Logs {
        /// The directory.
        dir: PathBuf,
    },
    /// Show a failure on a bed of its own: the gate, writers, the failure, a report.
    Demo {
        /// The failure: one of those that `scripts/faults --list` shows.
        #[arg(long, default_value = "kill", value_parser = Fault::named)]
        fault: &'static Fault,
        /// Leave the bed up afterwards.
        #[arg(long)]
        keep: bool,
    },
    /// Fault after fault under writers: what was lost, how long it took, one line of figures for each run.
    ///
    /// Each run needs a healthy cluster: writers on both client hosts, through HAProxy and to each node's own port, some
    /// of which WAIT for a replica; the fault; until all is well again; then what was acknowledged is looked for. Every
    /// node's firewall and Sentinel is read from outside each 5 to 8 ms meanwhile.
    ///
    /// Exit code: 1 when a write was acknowledged behind its successor, when two gates were open at once, when a single
    /// fault lost what a replica had confirmed to those that WAIT, or when the cluster did not recover.
    #[command(after_long_help = bed::suite::HELP)]
    Faults(bed::suite::Args),
    /// Remove the cached roots and what is left of beds, when none is up.
    Clean,
    /// Measure, both sides in one run, on a bed of its own.
    Bench {
        /// What is measured [default: all but soak].
        #[arg(value_enum)]
        parts: Vec<Part>,
        /// How often the primary is moved in each way.
        #[arg(long, value_name = "N", default_value_t = bed::moving::RUNS)]
        runs: usize,
        /// How long the soak lasts, in seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = bed::cost::SOAK, value_parser = clap::value_parser!(u64).range(10..))]
        time: u64,
        /// Write the figures into this file too, as JSON.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Only build the root of the hosts.
    Root {
        /// The Debian release.
        #[arg(long, default_value = bed::debian::BOOKWORM)]
        release: String,
    },
}

#[derive(Args)]
struct Up {
    /// The bed's name; instead of --name.
    name: Option<String>,
    /// Only cluster and Redis, without rolegate.
    #[arg(long)]
    bare: bool,
    /// Redis and Sentinels ask for passwords.
    #[arg(long)]
    secured: bool,
    /// A second master name, cache.
    #[arg(long)]
    second: bool,
    /// rolegate is not installed, but can be: in each node, dpkg -i /opt/rolegate/rolegate.deb
    #[arg(long)]
    by_hand: bool,
    /// The Debian release of the hosts.
    #[arg(long, default_value = bed::debian::BOOKWORM)]
    release: String,
    /// What the nodes run.
    #[arg(long, value_enum, default_value = "redis")]
    server: Server,
    /// Sentinel's down-after-milliseconds.
    #[arg(long, value_name = "MS")]
    down_after: Option<u64>,
    /// Sentinel's failover-timeout in milliseconds.
    #[arg(long, value_name = "MS")]
    failover_timeout: Option<u64>,
    /// Where rolegate's programs were built [default: beside this program].
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

#[derive(Args)]
struct Drop {
    /// From this host.
    #[arg(long)]
    from: Option<String>,
    /// To this host.
    #[arg(long)]
    to: Option<String>,
    /// Only to this TCP port.
    #[arg(long)]
    dport: Option<u16>,
    /// Only from this TCP port.
    #[arg(long)]
    sport: Option<u16>,
    /// Only that many of a hundred packets.
    #[arg(long)]
    percent: Option<u8>,
}

fn main() -> ExitCode {
    bed::entry();
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // The handler of the signal takes down and ends this program; its exit code counts.
        Err(_) if bed::jail::interrupted() => loop {
            std::thread::park();
        },
        Err(error) => {
            eprintln!("bed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let name = cli.name;
    let attached = || Bed::attach(&name);
    match cli.what {
        What::Up(up) => {
            let mut options = Options::new(up.name.unwrap_or(name));
            options.bare = up.bare;
            (options.secured, options.second, options.by_hand) = (up.secured, up.second, up.by_hand);
            options.release = up.release;
            options.server = up.server;
            options.bin_dir = up.programs;
            options.down_after = up.down_after.map_or(options.down_after, Duration::from_millis);
            options.failover_timeout = up.failover_timeout.map_or(options.failover_timeout, Duration::from_millis);
            let name = options.name.clone();
            Bed::up(options)?.detach()?;
            eprintln!("scripts/bed -n {name} shell node1; scripts/bed -n {name} status; scripts/bed -n {name} down");
            Ok(())
        }
        What::Down { bed } => bed::down(&bed.unwrap_or(name)),
        What::Clean => bed::clean(),
        What::List => {
            for (name, up) in bed::list()? {
                println!("{name} {}", if up { "up" } else { "left over: bed down removes it" });
            }
            Ok(())
        }
        What::Status => status(&attached()?),
        What::Exec { host, command } => {
            attached()?.host(&host)?.exec(&command)?;
            Ok(())
        }
        What::Shell { host } => {
            // script gives it a terminal of the host's own.
            let shell = ["script", "-qc", "bash -l", "/dev/null"].map(str::to_owned);
            attached()?.host(&host)?.exec(&shell)?;
            Ok(())
        }
        What::Isolate { hosts } => attached()?.isolate(&hosts.iter().map(String::as_str).collect::<Vec<_>>()),
        What::Drop(Drop { from, to, dport, sport, percent }) => {
            attached()?.drop_packets(&bed::DropRule { from, to, dport, sport, percent })
        }
        What::Heal => attached()?.heal(),
        What::Kill { host, process, signal } => signalled(&attached()?, &host, &process, signal),
        What::Stop { host, process } => signalled(&attached()?, &host, &process, Signal::SIGSTOP),
        What::Cont { host, process } => signalled(&attached()?, &host, &process, Signal::SIGCONT),
        What::Freeze { host } => attached()?.host(&host)?.freeze(),
        What::Thaw { host } => attached()?.host(&host)?.thaw(),
        What::PowerOff { host } => attached()?.host(&host)?.power_off(),
        What::Boot { host } => attached()?.host(&host)?.boot(),
        What::Shutdown { host } => attached()?.host(&host)?.shutdown(),
        What::Logs { dir } => attached()?.collect_logs(&dir),
        What::Demo { fault, keep } => demo(&name, fault, keep),
        What::Faults(args) => bed::suite::main(&name, &args),
        What::Bench { parts, runs, time, json } => {
            let name = if name == "main" { "bench" } else { &name };
            let all = [Part::Monitor, Part::Throughput, Part::Closing, Part::RoleChange, Part::Moving, Part::Keeper];
            let parts = if parts.is_empty() { &all[..] } else { &parts };
            // What can be missing is asked for first.
            let portblock = if parts.contains(&Part::Monitor) { Some(bed::bench::fetch_portblock()?) } else { None };
            let bed = Bed::up(Options::new(name))?;
            let figures = bed::bench::run(&bed, parts, runs, Duration::from_secs(time), portblock.as_deref())?;
            bed.down()?;
            match json {
                Some(file) => std::fs::write(&file, serde_json::to_vec_pretty(&figures)?)
                    .with_context(|| format!("writing {}", file.display())),
                None => Ok(()),
            }
        }
        What::Root { release } => {
            println!("{}", bed::root::cached(&release)?.display());
            Ok(())
        }
    }
}

fn demo(name: &str, fault: &Fault, keep: bool) -> Result<()> {
    let name = if name == "main" { "demo" } else { name };
    let bed = Bed::up(Options::new(name))?;
    let shown = bed::demo::show(&bed, fault);
    if keep {
        bed.detach()?;
        eprintln!(
            "the bed is up. Look around:\n  scripts/bed -n {name} exec node1 -- rolegate status\n  \
             scripts/bed -n {name} exec node1 -- crm_mon -1Arf\n  scripts/bed -n {name} shell node1\n  \
             scripts/bed -n {name} isolate node1      (then: heal)\n  scripts/bed -n {name} --help\nand end it:\n  \
             scripts/bed -n {name} down"
        );
    } else {
        bed.down()?;
    }
    shown.map(drop)
}

fn signalled(bed: &Bed, host: &str, process: &str, signal: Signal) -> Result<()> {
    let sent = bed.host(host)?.signal(process, signal)?;
    eprintln!("{signal} to {sent} process(es)");
    Ok(())
}

fn status(bed: &Bed) -> Result<()> {
    let mut on = None;
    for host in bed.hosts() {
        let is_on = host.is_on()?;
        println!("{:8} {:12} {}", host.name(), host.address(), if is_on { "on" } else { "off" });
        if is_on && bed::NODES.contains(&host.name()) {
            on = on.or(Some(host));
        }
    }
    let Some(node) = on else { bail!("no node is on") };
    println!("\n{}", node.ask("crm_mon", &["-1A"])?);
    for node in bed.nodes() {
        let named = node.redis(26379, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster"]);
        println!(
            "{}'s Sentinel: {}",
            node.name(),
            named.map_or_else(|e| e.root_cause().to_string(), |a| a.replace('\n', ":"))
        );
    }
    bed.check().context("not all is well")
}
