//! Lines that outlast the keeper: systemd keeps a second descriptor of each, and gives it to the keeper after this one (sd_notify(3),
//! FDSTORE).
//!
//! A new line must settle for G before a question on it counts, and of a lease that was renewed just before its keeper ended that leaves
//! little. On a line that has settled the next keeper's first question counts: it is the same line to all who look at it, with the
//! mark of the keeper before until the next one is set.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tracing::warn;

use super::memory::file_name;

/// What a descriptor's name may be long, for systemd.
const LONGEST_NAME: usize = 255;

/// What a line is for: whoever looks at it goes by all of that. To others, one of another master name or node is not there.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The gate resource.
    pub gate: &'a str,
    /// The master name.
    pub master: &'a str,
    /// This node.
    pub node: &'a str,
}

/// The lines of a keeper, by the gates and Sentinels that they are for. Clones share them.
#[derive(Debug, Clone)]
pub struct Lines(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The lines of the keeper before this one that nobody has taken yet.
    left: BTreeMap<String, TcpStream>,
    /// systemd may be slow to listen: a thread that no lease waits for tells it. None when the keeper ends.
    teller: Option<(Sender<Tell>, JoinHandle<()>)>,
}

/// As long as there is this, systemd keeps the line.
#[derive(Debug)]
pub struct Kept {
    name: String,
    lines: Lines,
}

/// systemd is being told the last.
#[derive(Debug)]
#[must_use]
pub struct Telling(Option<JoinHandle<()>>);

impl Telling {
    /// Waits until it has been told, at most that long: a line that it does not know of is made anew.
    pub async fn wait(self, at_most: Duration) {
        let until = Instant::now() + at_most;
        while self.0.as_ref().is_some_and(|thread| !thread.is_finished()) && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

enum Tell {
    Keep(String, OwnedFd),
    Forget(String),
}

impl Lines {
    /// Takes over what the keeper before this one has left, if systemd has started this one. Once in a process, and by the one
    /// that holds the keepers' lock: two on one line would read each other's answers.
    pub fn take_over() -> Self {
        let (sender, told) = mpsc::channel();
        let thread = thread::spawn(move || told.into_iter().for_each(|what: Tell| what.tell()));
        let left = inherited().into_iter().collect();
        Lines(Arc::new(Mutex::new(State { left, teller: Some((sender, thread)) })))
    }

    /// The line to this Sentinel that the keeper before this one had in the same place, if it is still there.
    pub fn take(&self, place: Place, sentinel: SocketAddr) -> Option<(TcpStream, Kept)> {
        let name = name(place, sentinel)?;
        let stream = self.lock().left.remove(&name)?;
        let kept = Kept { name, lines: self.clone() };
        // It is what its name says, or nothing.
        (stream.peer_addr().ok()? == sentinel).then_some((stream, kept))
    }

    /// Nobody wants the others: their gates or Sentinels are gone.
    pub fn forget_the_rest(&self) {
        let mut state = self.lock();
        for (name, _) in std::mem::take(&mut state.left) {
            state.tell(Tell::Forget(name));
        }
    }

    /// Has a line kept on which questions count.
    pub fn keep(&self, place: Place, sentinel: SocketAddr, line: &impl AsFd) -> Option<Kept> {
        let name = name(place, sentinel)?;
        let second = line.as_fd().try_clone_to_owned().ok()?;
        self.lock().tell(Tell::Keep(name.clone(), second));
        Some(Kept { name, lines: self.clone() })
    }

    /// What is kept now is the next keeper's. systemd may not have been told of all yet.
    pub fn hand_over(&self) -> Telling {
        // The thread ends when its sender is gone, and all is told.
        Telling(self.lock().teller.take().map(|(_, thread)| thread))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn tell(&self, what: Tell) {
        if let Some((sender, _)) = &self.teller {
            // The thread ends only with the sender.
            let _told = sender.send(what);
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.lines.lock().tell(Tell::Forget(std::mem::take(&mut self.name)));
    }
}

impl Tell {
    fn tell(self) {
        // Without systemd there is nobody to be told, which is no error.
        let result = match &self {
            Tell::Keep(name, fd) => {
                sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(name)], &[fd.as_fd()])
            }
            Tell::Forget(name) => sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]),
        };
        if let Err(error) = result {
            warn!(REASON = %error, "systemd keeps no line for the next keeper: {error}");
        }
    }
}

/// ASCII without a colon, as systemd wants it.
fn name(place: Place, sentinel: SocketAddr) -> Option<String> {
    let Place { gate, master, node } = place;
    let name = format!("line-{}", file_name(&format!("{gate} {master} {node} {sentinel}")));
    (name.len() <= LONGEST_NAME).then_some(name)
}

fn inherited() -> Vec<(String, TcpStream)> {
    match sd_notify::listen_fds_with_names() {
        Ok(given) => given
            .map(|(fd, name)| {
                // SAFETY: systemd has opened this descriptor for this process alone, nothing else here owns it, and the
                // caller comes here once.
                #[allow(unsafe_code)]
                let owned = unsafe { OwnedFd::from_raw_fd(fd) };
                (name, TcpStream::from(owned))
            })
            .collect(),
        Err(error) => {
            warn!(REASON = %error, "what systemd kept of the keeper before this one cannot be taken: {error}");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place<'a>(gate: &'a str, master: &'a str) -> Place<'a> {
        Place { gate, master, node: "node1" }
    }

    #[test]
    fn each_line_has_a_name_of_its_own_that_systemd_takes() {
        let sentinel = |text: &str| text.parse::<SocketAddr>().unwrap();
        let here = sentinel("10.0.0.1:26379");
        let names = [
            name(place("Gate", "m"), here),
            name(place("Gate", "m"), sentinel("10.0.0.1:26378")),
            name(place("Gate", "m"), sentinel("[fd00::1]:26379")),
            name(place("Gäte", "m"), here),
            name(place("Gate", "other"), here),
            name(Place { node: "node2", ..place("Gate", "m") }, here),
        ];
        assert_eq!(names[0].as_deref(), Some("line-Gate%20m%20node1%2010.0.0.1%3A26379"));
        for name in names.iter().flatten() {
            assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':'), "{name}");
        }
        assert_eq!(names.iter().flatten().collect::<std::collections::BTreeSet<_>>().len(), names.len());
        assert_eq!(name(place(&"g".repeat(250), "m"), here), None);
    }

    #[test]
    fn only_a_line_to_that_sentinel_is_taken() {
        let here = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = here.local_addr().unwrap();
        let elsewhere = SocketAddr::from(([127, 0, 0, 1], 1));
        let left = || TcpStream::connect(address).unwrap();
        let gate = place("Gate", "m");
        let left = [(name(gate, address).unwrap(), left()), (name(gate, elsewhere).unwrap(), left())];
        let lines = Lines(Arc::new(Mutex::new(State { left: left.into_iter().collect(), teller: None })));
        assert!(lines.take(place("Gate", "other"), address).is_none());
        assert!(lines.take(gate, elsewhere).is_none(), "it leads elsewhere");
        assert!(lines.take(gate, address).is_some());
        assert!(lines.take(gate, address).is_none(), "once");
    }
}
