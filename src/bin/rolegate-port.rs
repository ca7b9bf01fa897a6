//! Opens and closes the ports of a gate by hand.

fn main() -> std::process::ExitCode {
    rolegate::gate::cli::main()
}
