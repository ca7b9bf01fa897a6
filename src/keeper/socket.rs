//! The keeper's socket: the agent and the operator's program ask how leases stand, the hook says that a failover is under way. It gives
//! nobody a right: whoever may speak to it can make the keeper look, and read what it says.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::history::Failover;

/// Where it is. Group haclient may speak to it: Sentinel's hook is in it.
pub const PATH: &str = "/run/rolegate/keeper.sock";

/// The longest request, in bytes.
pub const LONGEST: u64 = 64 << 10;

/// The longest reply, in bytes: a report of a master name has some hundred.
const LONGEST_REPLY: u64 = 4 << 20;

/// How long one conversation may take.
const WITHIN: Duration = Duration::from_secs(1);

/// How many may speak at once; more wait.
const AT_ONCE: usize = 16;

/// What can be asked. Whatever it is, the keeper looks at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// How do all leases stand?
    Report,
    /// The permission of this gate resource has changed.
    Permission(String),
    /// Sentinel says that this master name has another primary. Taken over if the answer has a report of it.
    Failover(String),
}

/// How the lease of one master name stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The gate resource.
    pub gate: String,
    /// The master name.
    pub master: String,
    /// Whether the read-write port is open by a lease.
    pub open: bool,
    /// Why it is not.
    pub why: String,
    /// The other node that a majority of Sentinels names, where they do.
    pub other: Option<String>,
    /// The last failover that this node's keeper knows of.
    #[serde(default)]
    pub last_failover: Option<Failover>,
    /// The port is forced open by hand, or about to be.
    #[serde(default)]
    pub forced: Option<Forced>,
    /// The other nodes that may hold a lease, or take one, by their marks on the Sentinels that answer.
    #[serde(default)]
    pub not_free: Vec<String>,
    /// The node whose keeper this is, its role and the Sentinels' configuration epoch, as its own records have them.
    #[serde(default)]
    pub node: Option<String>,
    /// See above; a text, for another release may have more of them.
    #[serde(default)]
    pub role: Option<String>,
    /// See above.
    #[serde(default)]
    pub epoch: Option<u64>,
}

/// How a port that is forced open by hand stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forced {
    /// Who did it, until when, and why.
    pub text: String,
    /// All Sentinels that answer have the mark that says so.
    pub marked: bool,
}

/// A request with the way back.
pub type Asked = (Request, oneshot::Sender<Vec<Report>>);

/// Asks the keeper of this node.
///
/// # Errors
/// The system's: no keeper runs here, or it does not answer.
pub fn ask(request: &Request) -> io::Result<Vec<Report>> {
    ask_at(Path::new(PATH), request)
}

fn ask_at(path: &Path, request: &Request) -> io::Result<Vec<Report>> {
    let mut stream = connect(path)?;
    stream.set_read_timeout(Some(WITHIN))?;
    stream.write_all(serde_json::to_string(request)?.as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut text = String::new();
    stream.take(LONGEST_REPLY).read_to_string(&mut text)?;
    Ok(serde_json::from_str(&text)?)
}

/// As [`UnixStream::connect`], but for no longer than [`WITHIN`], writing too: a keeper that stands still accepts nobody, and many may wait for it.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::microseconds(WITHIN.as_micros() as i64))?;
    nix::sys::socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixStream::from(socket))
}

/// Why there is no answer from the keeper, in the words of an operator.
pub fn missing(error: &io::Error) -> String {
    if is_missing(error) {
        "rolegate-keeper does not run here: systemctl start rolegate-keeper".to_owned()
    } else {
        format!("rolegate-keeper: {error}")
    }
}

/// Whether no keeper runs here, as this error of asking it says.
pub fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Makes the socket in place of one that a keeper before this one left. Who may use it: root, and group haclient where there is one.
///
/// # Errors
/// The system's.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    let group = nix::unistd::Group::from_name("haclient").ok().flatten();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    if let Some(group) = group {
        std::os::unix::fs::chown(path, None, Some(group.gid.as_raw()))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    }
    Ok(listener)
}

/// Serves for ever.
pub async fn serve(listener: UnixListener, asked: mpsc::Sender<Asked>) {
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let asked = asked.clone();
                tokio::spawn(async move {
                    // A caller that goes away or speaks nonsense gets nothing.
                    let _over = timeout(WITHIN, converse(stream, &asked)).await;
                    drop(place);
                });
            }
            // Out of file descriptors: others will be closed.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn converse(mut stream: tokio::net::UnixStream, asked: &mpsc::Sender<Asked>) -> io::Result<()> {
    let mut text = Vec::new();
    (&mut stream).take(LONGEST + 1).read_to_end(&mut text).await?;
    if text.len() as u64 > LONGEST {
        // What was read of it could be a whole request, followed by what is none.
        return Err(io::ErrorKind::InvalidData.into());
    }
    let request: Request = serde_json::from_slice(&text)?;
    let (sender, receiver) = oneshot::channel();
    asked.send((request, sender)).await.map_err(io::Error::other)?;
    let reports = receiver.await.map_err(io::Error::other)?;
    stream.write_all(serde_json::to_string(&reports)?.as_bytes()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Not even to be accepted.
    #[test]
    fn a_keeper_that_stands_still_holds_up_nobody() {
        use nix::sys::socket::{Backlog, bind, listen};
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keeper.sock");
        let listener = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let (sender, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            // The first is taken by the kernel, and waits in vain; the next ones do not come that far.
            let results = [(); 3].map(|()| ask_at(&path, &Request::Report).unwrap_err().kind());
            sender.send(results).unwrap();
        });
        let results = told.recv_timeout(Duration::from_secs(20)).expect("they wait for ever");
        assert_eq!(results, [io::ErrorKind::WouldBlock; 3]);
        drop(listener);
    }

    #[test]
    fn what_is_asked_is_answered_and_nonsense_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keeper.sock");
        assert!(missing(&ask_at(&path, &Request::Report).unwrap_err()).contains("systemctl"));
        let report = Report {
            gate: "RedisGate".into(),
            master: "mymaster".into(),
            open: false,
            why: "no".into(),
            other: Some("node2".into()),
            last_failover: None,
            forced: Some(Forced { text: "by ann".into(), marked: true }),
            not_free: vec!["node3".into()],
            node: Some("node1".into()),
            role: Some("primary".into()),
            epoch: Some(7),
        };
        let (told, at) = (report.clone(), path.clone());
        let (ready, listening) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let (sender, mut receiver) = mpsc::channel::<Asked>(1);
                tokio::spawn(serve(listen(&at).unwrap(), sender));
                ready.send(()).unwrap();
                while let Some((request, reply)) = receiver.recv().await {
                    assert_eq!(request, Request::Permission("RedisGate".into()));
                    reply.send(vec![told.clone()]).unwrap();
                }
            });
        });
        listening.recv().unwrap();
        for nonsense in ["", "{", "{\"open\":1}", "\"Report\"", "[1,2]"] {
            let mut stream = UnixStream::connect(&path).unwrap();
            stream.write_all(nonsense.as_bytes()).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            assert_eq!(text, "", "{nonsense}");
        }
        assert_eq!(ask_at(&path, &Request::Permission("RedisGate".into())).unwrap(), [report]);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert!(mode == 0o600 || mode == 0o660, "{mode:o}");
    }
}
