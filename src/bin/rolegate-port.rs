//! Opens and closes the ports of a gate by hand.

use rolegate::defect::{self, Program};

fn main() -> std::process::ExitCode {
    defect::guarded(Program::Port, rolegate::gate::cli::main)
}
