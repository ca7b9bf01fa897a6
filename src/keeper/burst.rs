//! Many answers that come one by one within milliseconds are read a few at a time: rounds of all master names begin together, and each waking of a
//! processor costs as much as the reading of several answers.
//!
//! What comes after a while without anything is read at once.

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

/// Who was woken again so soon is in a burst, and waits that long before the next look: it is so late at most.
const SOON: Duration = Duration::from_millis(1);

thread_local! {
    static WAITS_SINCE: Cell<Option<Instant>> = const { Cell::new(None) };
    static IN_BURST: Cell<bool> = const { Cell::new(false) };
}

/// The thread has nothing to do, and is about to wait until something comes.
pub fn about_to_wait() {
    if IN_BURST.get() {
        thread::sleep(SOON);
    }
    WAITS_SINCE.set(Some(Instant::now()));
}

/// Something has come.
pub fn woken() {
    IN_BURST.set(WAITS_SINCE.get().is_some_and(|since| since.elapsed() < SOON));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_comes_behind_something_else_is_waited_for() {
        // Nothing has come yet, and then something after a while.
        about_to_wait();
        assert!(!IN_BURST.get());
        thread::sleep(2 * SOON);
        woken();
        assert!(!IN_BURST.get());
        // A busy machine may make much of one of these: one of some is soon.
        let soon = (0..100).any(|_| {
            about_to_wait();
            woken();
            IN_BURST.get()
        });
        assert!(soon);
        let begun = Instant::now();
        about_to_wait();
        assert!(begun.elapsed() >= SOON);
        thread::sleep(2 * SOON);
        woken();
        assert!(!IN_BURST.get(), "the burst is over");
    }
}
