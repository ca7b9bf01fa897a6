//! Holds the leases of this node. Run by systemd, as root, from boot to halt.

use std::process::ExitCode;

use rolegate::defect::{self, Program};
use rolegate::{keeper, logging, manual, settings::Settings};

fn main() -> ExitCode {
    defect::guarded(Program::Keeper, || {
        let _no_arguments = manual::keeper().get_matches();
        let level = Settings::load().map_or(tracing_subscriber::filter::LevelFilter::INFO, |settings| settings.level());
        logging::init("rolegate-keeper", logging::LogTo::Journal, level);
        match keeper::run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let node = keeper::node_name_of_this_boot();
                tracing::error!(NODE = node, REASON = format!("{error:#}"), "{error:#}");
                ExitCode::FAILURE
            }
        }
    })
}
