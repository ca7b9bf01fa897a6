//! For how long the same Sentinels have been free to begin a failover. Whoever begins one or gives one up changes that, and gets his time.

use std::net::SocketAddr;
use std::time::Instant;

/// See the module.
#[derive(Debug, Default)]
pub struct Steady(Option<(Instant, Vec<SocketAddr>)>);

impl Steady {
    /// Since when it has been these.
    pub fn since(&mut self, now: Instant, sentinels: &[SocketAddr]) -> Instant {
        match &self.0 {
            Some((since, before)) if before == sentinels => *since,
            _ => {
                self.0 = Some((now, sentinels.to_vec()));
                now
            }
        }
    }
}
