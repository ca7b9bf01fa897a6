//! Sentinel's client-reconfig-script. Run by Sentinel, as user redis or valkey in group haclient.

use std::process::ExitCode;

use rolegate::defect::{self, Program};
use rolegate::{hook, logging, manual};

fn main() -> ExitCode {
    defect::guarded(Program::Hook, || {
        if manual::answers(manual::hook(), std::env::args_os()) {
            return ExitCode::SUCCESS;
        }
        if std::env::args_os().nth(1).is_some_and(|first| first == "--check") {
            return hook::print_check();
        }
        logging::init("rolegate-hook", logging::LogTo::Journal, tracing_subscriber::filter::LevelFilter::INFO);
        let args: Vec<String> = std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
        hook::run(&args).into()
    })
}
