//! Asking several at once, with one deadline for all: who does not answer in time holds up nobody.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Runs each job on a thread of its own and gives the results in the jobs' order; `None` where a
/// job had not ended by `deadline` (its thread is left to end by itself).
pub fn together<T, F>(deadline: Duration, jobs: impl IntoIterator<Item = F>) -> Vec<Option<T>>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let until = Instant::now() + deadline;
    let (sender, receiver) = mpsc::channel();
    let mut results = Vec::new();
    for (index, job) in jobs.into_iter().enumerate() {
        results.push(None);
        let sender = sender.clone();
        thread::spawn(move || {
            // Nobody listens any more once the deadline has passed.
            let _late = sender.send((index, job()));
        });
    }
    drop(sender);
    while let Ok((index, result)) = receiver.recv_timeout(until.saturating_duration_since(Instant::now())) {
        results[index] = Some(result);
    }
    results
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slow_one_does_not_hold_up_the_others() {
        let started = Instant::now();
        let results = together(
            Duration::from_millis(300),
            [0u64, 60_000, 1].map(|pause| {
                move || {
                    thread::sleep(Duration::from_millis(pause));
                    pause
                }
            }),
        );
        assert_eq!(results, [Some(0), None, Some(1)]);
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn ends_when_the_last_job_ends() {
        let started = Instant::now();
        assert_eq!(together(Duration::from_secs(60), [|| 7]), [Some(7)]);
        assert!(started.elapsed() < Duration::from_secs(30));
    }
}
