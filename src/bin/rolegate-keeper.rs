//! Holds the leases of this node. Run by systemd, as root, from boot to halt.

use std::process::ExitCode;

use clap::Parser;
use rolegate::{keeper, logging, settings::Settings};

/// Holds the write leases of this node's Redis gates. Run by systemd; takes its settings from /etc/rolegate/rolegate.toml and
/// everything else from the cluster.
#[derive(Parser)]
#[command(name = "rolegate-keeper", version)]
struct Cli {}

fn main() -> ExitCode {
    let Cli {} = Cli::parse();
    let level = Settings::load().map_or(tracing_subscriber::filter::LevelFilter::INFO, |settings| settings.level());
    logging::init("rolegate-keeper", logging::LogTo::Journal, level);
    match keeper::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
