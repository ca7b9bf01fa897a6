//! What all master names of a node want to know of the cluster at the same time: one of them asks, and the others take its answer. Each
//! answer costs programs that run, and dozens that ask at once make a cluster too slow for all of them.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// An answer, and when it was asked for.
pub struct Told<T>(Mutex<Option<(Instant, T)>>);

impl<T: Clone> Told<T> {
    /// Nothing was asked yet.
    pub const fn new() -> Self {
        Told(Mutex::new(None))
    }

    /// An answer that was asked for at `now`, or not longer before than `within`; of several that want one at once, one asks. For threads
    /// that may wait.
    pub fn ask(&self, now: Instant, within: Duration, ask: impl FnOnce() -> T) -> (Instant, T) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last.as_ref().filter(|(at, _)| *at + within > now) {
            return last.clone();
        }
        let at = Instant::now();
        last.insert((at, ask())).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_that_ask_at_once_one_does() {
        const WITHIN: Duration = Duration::from_millis(500);
        let (told, now) = (Told::new(), Instant::now());
        let mut asked = 0;
        let mut ask = |at: Instant, answer: bool| {
            told.ask(at, WITHIN, || {
                asked += 1;
                answer
            })
        };
        let (first, said) = ask(now, false);
        assert!(first >= now && !said);
        for _ in 0..64 {
            assert_eq!(ask(first + WITHIN / 2, true), (first, false));
        }
        let (second, said) = ask(first + WITHIN, true);
        assert!(second >= first && said);
        assert_eq!(asked, 2);
    }
}
