//! Ctrl-C and its like while a switchover is under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, raise};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::say;

/// From here on it is for the switchover to end, until this is dropped. One for all that a command does: each hears every signal.
pub struct Interruption {
    raised: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
}

impl Interruption {
    /// Listens.
    pub fn listen() -> Self {
        let (raised, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (ready, listening) = std::sync::mpsc::channel();
        let (wanted, is_over) = (raised.clone(), over.clone());
        thread::spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
            runtime.block_on(async move {
                let of = |kind| signal(kind);
                let signals = (of(SignalKind::interrupt()), of(SignalKind::terminate()), of(SignalKind::hangup()));
                let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) = signals else { return };
                // Who is suspended goes on with what was true then.
                let Ok(mut suspend) = of(SignalKind::from_raw(Signal::SIGTSTP as i32)) else { return };
                let _ready = ready.send(());
                loop {
                    let ends = tokio::select! {
                        _ = interrupt.recv() => true,
                        _ = terminate.recv() => true,
                        _ = hangup.recv() => true,
                        _ = suspend.recv() => false,
                    };
                    match (ends, is_over.load(Ordering::Relaxed)) {
                        // As if nobody listened.
                        (true, true) => std::process::exit(130),
                        (true, false) => wanted.store(true, Ordering::Relaxed),
                        (false, true) => _ = raise(Signal::SIGSTOP),
                        (false, false) => say("not suspended: it would stand still in the middle (Ctrl-C ends it)"),
                    }
                }
            });
        });
        // Where they cannot be heard it is ended as any program is, and the keepers put back what it leaves.
        let _listens = listening.recv_timeout(Duration::from_secs(1));
        Interruption { raised, over }
    }

    /// Whether somebody wants it to end.
    pub fn raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed)
    }
}

impl Drop for Interruption {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}
