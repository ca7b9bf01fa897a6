//! The operator's program. Run by a person or a monitoring system, on any node of the cluster:
//! as root, or as a user in group haclient (who does not see this node's firewall).

use std::process::ExitCode;

use rolegate::defect::{self, Program};
use rolegate::{cli, logging};

fn main() -> ExitCode {
    defect::guarded(Program::Rolegate, || {
        logging::init("rolegate", logging::LogTo::Operator, tracing_subscriber::filter::LevelFilter::INFO);
        cli::run(std::env::args_os())
    })
}
