//! The trials on the shared bed, by what they are about. A new file: its `mod` line and its line in
//! [`all`].

pub mod cli;
pub mod configuration;
pub mod faults;
pub mod itself;
pub mod load;
pub mod moves;
pub mod watch;

use super::OnBed;

/// All trials, each with its file's name in front.
pub fn all() -> Vec<(String, OnBed)> {
    let files: [(&str, &[(&str, OnBed)]); 7] = [
        ("itself", itself::TRIALS),
        ("faults", faults::TRIALS),
        ("load", load::TRIALS),
        ("watch", watch::TRIALS),
        ("moves", moves::TRIALS),
        ("configuration", configuration::TRIALS),
        ("cli", cli::TRIALS),
    ];
    let named = |(file, trials): (&str, &[(&str, OnBed)])| -> Vec<(String, OnBed)> {
        trials.iter().map(|(name, run)| (format!("{file}::{name}"), *run)).collect()
    };
    files.into_iter().flat_map(named).collect()
}
