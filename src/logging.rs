//! One log line per decision: to the journal where there is one, to stderr otherwise.
//! Never to stdout, which carries metadata and JSON.

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Where the lines of a program go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogTo {
    /// The journal; stderr only where no journal listens.
    Journal,
    /// stderr, without timestamps: an operator's command, or a program whose stderr is collected.
    Stderr,
}

/// Starts logging for the program `name`. A journal that cannot be reached is never a failure.
pub fn init(name: &str, to: LogTo, level: LevelFilter) {
    let journal = match to {
        LogTo::Journal => tracing_journald::layer().ok(),
        LogTo::Stderr => None,
    };
    let stderr = journal.is_none().then(|| {
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false).with_target(false).without_time()
    });
    // Only fails when a logger is set already, as in tests that run several programs' code.
    let _already = tracing_subscriber::registry()
        .with(level)
        .with(journal.map(|layer| layer.with_syslog_identifier(name.to_owned())))
        .with(stderr)
        .try_init();
}
