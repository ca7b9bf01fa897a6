//! `ocf:rolegate:gate` and `ocf:rolegate:block`. Run by Pacemaker, as root.

use std::process::ExitCode;

use rolegate::defect::{self, Program};
use rolegate::{agent, logging, manual};

fn main() -> ExitCode {
    defect::guarded(Program::Agent, || {
        if manual::answers(manual::agent(), std::env::args_os()) {
            return ExitCode::SUCCESS;
        }
        logging::init("rolegate-agent", logging::LogTo::Journal, tracing_subscriber::filter::LevelFilter::INFO);
        let mut args = std::env::args_os();
        let program = args.next().unwrap_or_default();
        let action = args.next().map(|action| action.to_string_lossy().into_owned());
        agent::run(&program, action.as_deref()).into()
    })
}
