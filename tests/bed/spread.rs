//! What several runs come to.

use anyhow::{Result, ensure};
use serde::Serialize;

/// The spread of one figure.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Spread {
    /// How many runs.
    pub runs: usize,
    /// The smallest.
    pub min: f64,
    /// The median.
    pub median: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// The spread of `values`.
    ///
    /// # Errors
    /// When there are none.
    pub fn of(mut values: Vec<f64>) -> Result<Self> {
        ensure!(!values.is_empty(), "nothing was measured");
        values.sort_by(f64::total_cmp);
        Ok(Spread {
            runs: values.len(),
            min: values[0],
            // Of an even number the middle of the two in the middle.
            median: (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0,
            max: values[values.len() - 1],
        })
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} ({:.2} to {:.2}, {} runs)", self.median, self.min, self.max, self.runs)
    }
}

/// The smallest of `sorted` that at least `percent` of 100 of them do not exceed; None of nothing.
pub fn percentile<T>(sorted: &[T], percent: usize) -> Option<&T> {
    sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1))
}
