//! Holds the leases of this node. Run by systemd, as root, from boot to halt.

use std::process::ExitCode;

use rolegate::{keeper, logging, manual, settings::Settings};

fn main() -> ExitCode {
    let _no_arguments = manual::keeper().get_matches();
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
