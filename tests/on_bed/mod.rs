//! The trials on shared beds, by what they are about. A new file: its `mod` line and its line in
//! [`all`].

pub mod cli;
pub mod configuration;
pub mod faults;
pub mod itself;
pub mod load;
pub mod moves;
pub mod variants;
pub mod watch;

use super::OnBed;
use crate::bed::Options;

/// Which bed a trial wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// As it is by default.
    Usual,
    /// With passwords, with two master names, and rolegate not yet installed.
    Variant,
}

impl Kind {
    /// Such a bed.
    pub fn options(self, name: String) -> Options {
        let variant = self == Kind::Variant;
        Options { secured: variant, second: variant, by_hand: variant, ..Options::new(name) }
    }
}

/// All trials, each with its file's name in front.
pub fn all() -> Vec<(String, Kind, OnBed)> {
    // Those of one kind together: each change of the kind is another bed.
    let files: [(&str, &[(&str, OnBed)]); 8] = [
        ("itself", itself::TRIALS),
        ("faults", faults::TRIALS),
        ("load", load::TRIALS),
        ("watch", watch::TRIALS),
        ("moves", moves::TRIALS),
        ("configuration", configuration::TRIALS),
        ("cli", cli::TRIALS),
        ("variants", variants::TRIALS),
    ];
    let named = |(file, trials): (&str, &[(&str, OnBed)])| -> Vec<(String, Kind, OnBed)> {
        let kind = if file == "variants" { Kind::Variant } else { Kind::Usual };
        trials.iter().map(|(name, run)| (format!("{file}::{name}"), kind, *run)).collect()
    };
    files.into_iter().flat_map(named).collect()
}
