//! Network namespaces with real Redis servers and real TCP clients, for tests of the gate.
//!
//! Everything lives in a mount namespace of the test process and in network namespaces that only it knows: when
//! the process ends, however it ends, nothing is left on the host.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// How long anything that should happen soon may take on a loaded machine.
pub const SOON: Duration = Duration::from_secs(10);

/// Takes the process out of the host's sight: mounts and named namespaces made from here on are its own.
/// To be called before the first thread.
pub fn isolate() {
    assert!(nix::unistd::geteuid().is_root(), "these tests make network namespaces: run them as root");
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    let none = None::<&Path>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private mounts");
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).expect("a /run of our own");
}

/// Runs `case` with a /run/rolegate and a /var/lib of its own, and so with a lock that no other case takes.
pub fn apart(case: impl FnOnce() + Send) {
    let outcome = thread::scope(|scope| {
        scope
            .spawn(|| {
                let directory = Path::new("/run/rolegate");
                std::fs::create_dir_all(directory).expect("a directory");
                unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
                let none = None::<&Path>;
                // What a node keeps: permissions and locks, leases, the CIB.
                for directory in [directory, Path::new("/var/lib")] {
                    mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), none).expect("a mount");
                }
                case();
            })
            .join()
    });
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Runs a shell script and gives its stdout; panics where it fails.
pub fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().expect("sh");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A network namespace.
#[derive(Clone)]
pub struct Ns {
    name: String,
    file: Arc<File>,
}

impl Ns {
    /// A new one with its loopback up.
    pub fn new(purpose: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("{purpose}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        sh(&format!("ip netns add {name} && ip -n {name} link set lo up"));
        let file = Arc::new(File::open(format!("/run/netns/{name}")).expect("the namespace"));
        Ns { name, file }
    }

    /// Its name for `ip -n`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `f` in it, on a thread of its own.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let outcome = thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&self.file, CloneFlags::CLONE_NEWNET).expect("setns");
                    f()
                })
                .join()
        });
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a shell script in it.
    pub fn sh(&self, script: &str) -> String {
        self.run(|| sh(script))
    }

    /// Connects from it.
    pub fn connect(&self, to: SocketAddr) -> io::Result<Client> {
        let stream = self.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(2)))?;
        stream.set_read_timeout(Some(SOON))?;
        stream.set_nodelay(true)?;
        Ok(Client { stream: BufReader::new(stream) })
    }

    /// Whether PING from it is answered.
    pub fn pings(&self, to: SocketAddr) -> bool {
        self.connect(to).is_ok_and(|mut client| client.pings())
    }

    /// Asserts that a connection from it is refused.
    pub fn refused(&self, to: SocketAddr) {
        match self.connect(to) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => panic!("{to}: {error}, should be refused"),
            Ok(_) => panic!("{to}: accepted, should be refused"),
        }
    }
}

impl Drop for Ns {
    fn drop(&mut self) {
        if Arc::strong_count(&self.file) == 1 {
            // The process's end would do it, too.
            let _gone = Command::new("ip").args(["netns", "del", &self.name]).status();
        }
    }
}

/// A Redis server that ends with this value.
pub struct Redis {
    child: Child,
    _directory: tempfile::TempDir,
}

impl Redis {
    /// Starts one on `port` of all addresses in `ns` and waits until it answers.
    pub fn start(ns: &Ns, port: u16) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        // The signal comes when this thread ends, so the thread of Ns::run must not be the one.
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", ns.name()))
            .args(["setpriv", "--pdeathsig", "KILL", "redis-server", "--save", "", "--protected-mode", "no"])
            .args(["--bind", "0.0.0.0", "::", "--port", &port.to_string(), "--maxclients", "20000", "--dir"])
            .arg(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server");
        let redis = Redis { child, _directory: directory };
        eventually("redis-server answers", || ns.pings(local(port)));
        redis
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// `port` on 127.0.0.1.
pub fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// Polls until `holds`.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < until, "not within {SOON:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Three hosts: a client, the node, and another node behind it.
///
/// client 10.1.0.2 -- 10.1.0.1 node 10.2.0.1 -- 10.2.0.2 other, and fd01::/64, fd02::/64 alike.
pub struct Net {
    pub client: Ns,
    pub node: Ns,
    pub other: Ns,
}

impl Net {
    pub fn new() -> Self {
        let net = Net { client: Ns::new("client"), node: Ns::new("node"), other: Ns::new("other") };
        let link = |left: &Ns, right: &Ns, subnet: u8| {
            let (l, r) = (left.name(), right.name());
            let ends = [(l, format!("to-{subnet}"), 2), (r, format!("at-{subnet}"), 1)];
            sh(&format!("ip link add to-{subnet} netns {l} type veth peer name at-{subnet} netns {r}"));
            for (ns, link, host) in ends {
                let host = if subnet == 2 { 3 - host } else { host };
                sh(&format!(
                    "ip -n {ns} addr add 10.{subnet}.0.{host}/24 dev {link}; \
                     ip -n {ns} addr add fd0{subnet}::{host}/64 dev {link} nodad; ip -n {ns} link set {link} up"
                ));
            }
        };
        link(&net.client, &net.node, 1);
        link(&net.node, &net.other, 2);
        net.client.sh("ip route add default via 10.1.0.1; ip -6 route add default via fd01::1");
        net.other.sh("ip route add default via 10.2.0.1; ip -6 route add default via fd02::1");
        // The kernel takes its time until a new link speaks IPv6.
        for (from, to) in [(&net.client, "[fd01::1]:1"), (&net.node, "[fd02::2]:1"), (&net.other, "[fd02::1]:1")] {
            let to = to.parse().expect("an address");
            let refuses =
                || from.connect(to).err().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
            eventually("IPv6 works", refuses);
        }
        net
    }

    /// Each host that a client of the node can be on with each address by which it can reach the node.
    pub fn ways(&self) -> Vec<(&Ns, IpAddr)> {
        let ways = [
            (&self.client, "10.1.0.1"),
            (&self.client, "fd01::1"),
            (&self.node, "127.0.0.1"),
            (&self.node, "::1"),
            (&self.node, "10.1.0.1"),
            (&self.node, "fd01::1"),
        ];
        ways.into_iter().map(|(ns, address)| (ns, address.parse().expect("an address"))).collect()
    }
}

/// A connection to a Redis server.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// One command, and the first line of its answer.
    pub fn ask(&mut self, command: &str) -> io::Result<String> {
        self.stream.get_mut().write_all(format!("{command}\r\n").as_bytes())?;
        self.line()
    }

    /// The next line of an answer.
    pub fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    pub fn pings(&mut self) -> bool {
        self.ask("PING").is_ok_and(|answer| answer == "+PONG")
    }

    /// Subscribes to a channel that nobody publishes on, and reads the confirmation.
    pub fn subscribe(&mut self) {
        assert_eq!(self.ask("SUBSCRIBE nothing").expect("SUBSCRIBE"), "*3");
        let mut rest = [0; "$9\r\nsubscribe\r\n$7\r\nnothing\r\n:1\r\n".len()];
        self.stream.read_exact(&mut rest).expect("the confirmation");
    }

    /// Asserts that nothing arrives within `time`.
    pub fn hears_nothing(&mut self, time: Duration) {
        self.stream.get_ref().set_read_timeout(Some(time)).expect("a timeout");
        match self.stream.read(&mut [0; 64]) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionReset) => {}
            other => panic!("a connection through a closed port gave {other:?}"),
        }
    }

    /// Waits, saying nothing, until the connection ends, and asserts that it ends by a reset within `within`.
    pub fn is_reset(&mut self, within: Duration) {
        self.stream.get_ref().set_read_timeout(Some(within)).expect("a timeout");
        match self.stream.read(&mut [0; 64]) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            other => panic!("a connection that should be reset within {within:?} gave {other:?}"),
        }
    }
}

/// A client that writes without pause, one command after the other.
pub struct Writer {
    end: Arc<AtomicBool>,
    seen: Arc<Mutex<Written>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// What a [`Writer`] saw.
#[derive(Debug, Clone, Default)]
pub struct Written {
    /// How many writes were acknowledged.
    pub acknowledged: u64,
    /// When the last of them had been sent.
    pub last_sent: Option<Instant>,
    /// When its acknowledgement was read.
    pub last_acknowledged: Option<Instant>,
    /// What ended it, and when.
    pub ended: Option<(Instant, io::ErrorKind)>,
}

impl Writer {
    /// Connects from `ns` and starts to write.
    pub fn start(ns: &Ns, to: SocketAddr) -> Self {
        let mut client = ns.connect(to).unwrap_or_else(|error| panic!("{to}: {error}"));
        let (end, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Written::default())));
        let thread = thread::spawn({
            let (end, seen) = (end.clone(), seen.clone());
            move || {
                while !end.load(Ordering::Relaxed) {
                    let sent = Instant::now();
                    let answer = client.ask("INCR counter");
                    let mut seen = seen.lock().expect("no panic");
                    match answer {
                        Ok(_) => {
                            seen.acknowledged += 1;
                            seen.last_sent = Some(sent);
                            seen.last_acknowledged = Some(Instant::now());
                        }
                        Err(error) => {
                            seen.ended = Some((Instant::now(), error.kind()));
                            return;
                        }
                    }
                }
            }
        });
        let writer = Writer { end, seen, thread: Some(thread) };
        eventually("a write is acknowledged", || writer.seen().acknowledged > 0);
        writer
    }

    pub fn seen(&self) -> Written {
        self.seen.lock().expect("no panic").clone()
    }

    /// Asserts that it was reset, and that nothing which it sent after `closed` was acknowledged.
    pub fn was_cut(&self, closed: Instant) {
        eventually("a writer ends", || self.seen().ended.is_some());
        let seen = self.seen();
        let (_, kind) = seen.ended.expect("it ended");
        assert_eq!(kind, io::ErrorKind::ConnectionReset, "{seen:?}");
        let last = seen.last_sent.expect("it wrote");
        assert!(last < closed, "acknowledged a write that was sent {:?} after the closing", last - closed);
    }

    /// Asserts that it goes on.
    pub fn goes_on(&self) {
        let before = self.seen().acknowledged;
        eventually("a writer goes on", || self.seen().acknowledged > before || self.seen().ended.is_some());
        assert!(self.seen().ended.is_none(), "it should go on: {:?}", self.seen());
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panicked_already = thread.join();
        }
    }
}
