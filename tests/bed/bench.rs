//! The benchmark: each figure with both sides measured in one run, on a bed of its own.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;

use super::gates::{configure, open_gates};
use super::spread::Spread;
use super::{Bed, CLIENTS, Host, NODES, cost, moving, wait_for};

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// The agent's monitor against ocf:heartbeat:portblock's.
    Monitor,
    /// Throughput through 6381 against 6379, with one gate and with 64.
    Throughput,
    /// Closing with 10,000 connections.
    Closing,
    /// From redis_role written to the port open and closed.
    RoleChange,
    /// Moving the primary under writers: rolegate switchover, SENTINEL FAILOVER, and drain, WAIT, failover.
    Moving,
    /// With all processors kept busy: the times between renewals of the lease.
    Soak,
    /// What keepers and Sentinels use, with one master name and with 64. Last: those stay.
    Keeper,
}

/// All figures, in the order in which they were measured: name, unit, spread.
#[derive(Debug, Default, Serialize)]
pub struct Figures(Vec<(String, String, Spread)>);

impl Figures {
    /// Adds one, and prints it.
    ///
    /// # Errors
    /// When nothing was measured.
    #[allow(clippy::print_stdout)] // The benchmark's product.
    pub fn add(&mut self, name: &str, unit: &str, values: Vec<f64>) -> Result<Spread> {
        let spread = Spread::of(values).with_context(|| name.to_owned())?;
        println!("{name:<70} {unit:>8} {spread}");
        self.0.push((name.to_owned(), unit.to_owned(), spread));
        Ok(spread)
    }

    /// Adds how many of `all` it were, and prints it.
    #[allow(clippy::print_stdout)]
    pub fn count(&mut self, name: &str, count: usize, all: usize) {
        let (unit, value) = (format!("of {all}"), count as f64);
        println!("{name:<70} {unit:>8} {count}");
        self.0.push((name.to_owned(), unit, Spread { runs: 1, min: value, median: value, max: value }));
    }

    /// Prints the ratio of two medians.
    #[allow(clippy::print_stdout)]
    pub fn ratio(&self, name: &str, ours: Spread, theirs: Spread) {
        println!("{name:<70} {:>8} {:.3}", "ratio", ours.median / theirs.median);
    }
}

/// The package with ocf:heartbeat:portblock that the comparison is with: that of Debian's next
/// release, because Debian 12's and 13's do not notice that their rule is gone.
///
/// # Errors
/// When it cannot be had.
pub fn fetch_portblock() -> Result<PathBuf> {
    let dir = super::state_dir().join("portblock");
    let found = || -> Option<PathBuf> {
        let mut files = std::fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.path());
        files.find(|path| path.extension().is_some_and(|extension| extension == "deb"))
    };
    if let Some(package) = found() {
        return Ok(package);
    }
    std::fs::create_dir_all(dir.join("lists/partial"))?;
    let mirror = super::root::mirror().context("apt's sources of this machine name no Debian mirror")?;
    let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
    std::fs::write(dir.join("sources.list"), format!("deb [signed-by={keys}] {mirror} forky main\n"))?;
    let script = "cd \"$1\"
        apt() { apt-get -qq -o Dir::Etc::SourceList=\"$PWD/sources.list\" -o Dir::Etc::SourceParts=- \\
            -o Dir::State::Lists=\"$PWD/lists\" -o APT::Sandbox::User=root \"$@\"; }
        apt update; apt download resource-agents; rm -rf lists";
    rolegate::command::Cmd::new("sh")
        .args(["-euc", script, "sh"])
        .arg(&dir)
        .deadline(Duration::from_secs(180))
        .run()
        .context("resource-agents of Debian's next release")?;
    found().context("apt-get download left no package")
}

/// Measures everything on a bed that is up and has no gate yet; the primary is moved `runs` times in each way, and the soak lasts `soak`.
///
/// # Errors
/// When something cannot be measured.
pub fn run(bed: &Bed, parts: &[Part], runs: usize, soak: Duration, portblock: Option<&Path>) -> Result<Figures> {
    let mut figures = Figures::default();
    configure(bed)?;
    for part in parts {
        match part {
            Part::Monitor => monitor(bed, &mut figures, portblock.context("portblock's package")?)?,
            Part::Throughput => throughput(bed, &mut figures)?,
            Part::Closing => closing(bed, &mut figures)?,
            Part::RoleChange => role_change(bed, &mut figures)?,
            Part::Moving => moving::measure(bed, &mut figures, runs)?,
            Part::Soak => cost::soak(bed, &mut figures, soak)?,
            Part::Keeper => cost::keeper(bed, &mut figures)?,
        }
    }
    Ok(figures)
}

/// How long one run of each of two commands takes, in turns; the commands are `env` assignments
/// and a program with its argument. Written in Python, which every node has: it measures each child's
/// own time with wait4.
const PAIRS: &str = r#"
import os, sys, time, json
def once(words):
    env = dict(os.environ); argv = []
    for word in words:
        name, sep, value = word.partition("=")
        if sep and not argv: env[name] = value
        else: argv.append(word)
    null = os.open(os.devnull, os.O_RDWR)
    start = time.perf_counter()
    pid = os.posix_spawn(argv[0], argv, env, file_actions=[(os.POSIX_SPAWN_DUP2, null, 1), (os.POSIX_SPAWN_DUP2, null, 2)])
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - start
    os.close(null)
    return [os.waitstatus_to_exitcode(status), wall * 1e3, (usage.ru_utime + usage.ru_stime) * 1e3]
split = sys.argv.index("--")
ours, theirs, runs = sys.argv[2:split], sys.argv[split + 1:], int(sys.argv[1])
once(ours); once(theirs)
print(json.dumps([[once(ours), once(theirs)] for _ in range(runs)]))
"#;

/// The agent's monitor of a promoted gate against ocf:heartbeat:portblock's of a blocked port.
fn monitor(bed: &Bed, figures: &mut Figures, portblock: &Path) -> Result<()> {
    const RUNS: usize = 40;
    bed.say("the agent's monitor against ocf:heartbeat:portblock's");
    let node = bed.host(NODES[0])?;
    let cib = node.ask("cibadmin", &["-Q", "-o", "resources"])?;
    let parameter = |name: &str| -> Result<String> {
        let at = cib.find(&format!("name=\"{name}\" value=\"")).with_context(|| format!("no parameter {name}"))?;
        Ok(cib[at..].split('"').nth(3).unwrap_or_default().to_owned())
    };
    let ours = [
        "OCF_ROOT=/usr/lib/ocf".to_owned(),
        "OCF_RESOURCE_INSTANCE=RedisGate".to_owned(),
        "OCF_RESKEY_CRM_meta_on_node=node1".to_owned(),
        "OCF_RESKEY_CRM_meta_interval=5000".to_owned(),
        "OCF_RESKEY_CRM_meta_timeout=20000".to_owned(),
        format!("OCF_RESKEY_sentinels={}", parameter("sentinels")?),
        format!("OCF_RESKEY_nodes={}", parameter("nodes")?),
        "/usr/lib/ocf/resource.d/rolegate/gate".to_owned(),
        "monitor".to_owned(),
    ];
    let there = node.root().join("opt/portblock");
    std::fs::create_dir_all(&there)?;
    rolegate::command::Cmd::new("dpkg-deb").arg("-x").arg(portblock).arg(&there).run()?;
    let agent = "/opt/portblock/usr/lib/ocf/resource.d/heartbeat/portblock";
    let theirs = [
        "OCF_ROOT=/opt/portblock/usr/lib/ocf",
        "OCF_RESOURCE_INSTANCE=block",
        "OCF_RESKEY_CRM_meta_interval=5000",
        "OCF_RESKEY_CRM_meta_timeout=20000",
        "OCF_RESKEY_protocol=tcp",
        "OCF_RESKEY_portno=7381",
        "OCF_RESKEY_action=block",
        "OCF_RESKEY_ip=10.77.0.1",
        // The same firewall as ours.
        "OCF_RESKEY_firewall=nft",
        agent,
        "monitor",
    ];
    let act = |action: &str| -> Result<i32> {
        let mut words = theirs.to_vec();
        *words.last_mut().context("words")? = action;
        let codes: Vec<i32> = (0..=255).collect();
        Ok(node.cmd("env")?.args(words).run_expecting(&codes)?.code)
    };
    ensure!(act("start")? == 0, "portblock does not start");
    ensure!(act("monitor")? == 0, "portblock's monitor does not see its rule");
    let output = node
        .cmd("python3")?
        .args(["-c", PAIRS, &RUNS.to_string()])
        .args(ours)
        .arg("--")
        .args(theirs)
        .deadline(Duration::from_secs(120))
        .run()?;
    // It must be a version that notices when its rule is gone, or it is no match.
    node.sh("nft flush table inet portblock")?;
    let blind = act("monitor")? == 0;
    ensure!(!blind, "this portblock does not notice that its rule is gone");
    act("stop")?;
    let pairs: Vec<[(i32, f64, f64); 2]> = serde_json::from_slice(&output.stdout)?;
    for [ours, theirs] in &pairs {
        ensure!(ours.0 == 8, "our monitor ended with code {} instead of 8", ours.0);
        ensure!(theirs.0 == 0, "portblock's monitor ended with code {} instead of 0", theirs.0);
    }
    for (what, part) in [("wall", 1usize), ("CPU", 2)] {
        let pick = |side: usize| -> Vec<f64> {
            pairs.iter().map(|pair| if part == 1 { pair[side].1 } else { pair[side].2 }).collect()
        };
        let ours = figures.add(&format!("monitor, ocf:rolegate:gate (promoted), {what}"), "ms", pick(0))?;
        let theirs = figures.add(&format!("monitor, ocf:heartbeat:portblock, {what}"), "ms", pick(1))?;
        figures.ratio(&format!("monitor, {what}"), ours, theirs);
    }
    Ok(())
}

/// redis-benchmark through 6381 and to 6379, in turns, with one gate and with 64.
fn throughput(bed: &Bed, figures: &mut Figures) -> Result<()> {
    let node = bed.host(NODES[0])?;
    let client = bed.host(CLIENTS[0])?;
    let once = |port: u16, kind: &[&str]| -> Result<f64> {
        let output = client
            .cmd("redis-benchmark")?
            .args(["-h", &node.address(), "-p", &port.to_string(), "-t", "set", "--csv", "-d", "64"])
            .args(kind.iter().copied())
            .deadline(Duration::from_secs(60))
            .run()?;
        // "test","rps",... and "SET","12345.67",...
        let text = output.text();
        let line = text.lines().find(|line| line.starts_with("\"SET\"")).with_context(|| text.clone())?;
        Ok(line.split(',').nth(1).unwrap_or_default().trim_matches('"').parse()?)
    };
    let kinds: [(&str, &[&str]); 3] = [
        ("no pipeline, 50 connections", &["-n", "100000", "-c", "50"]),
        ("pipeline of 16, 50 connections", &["-n", "1000000", "-c", "50", "-P", "16"]),
        ("a connection for each request", &["-n", "2000", "-c", "20", "-k", "0"]),
    ];
    for gates in [1, 64] {
        bed.say(&format!("throughput with {gates} gate(s) on the node"));
        if gates > 1 {
            let script: String = (1..gates)
                .map(|n| {
                    let (ro, rw, redis) = (10_000 + n, 11_000 + n, 12_000 + n);
                    format!("rolegate-port --ro-port {ro} --rw-port {rw} --redis-port {redis} open all --for 3000s\n")
                })
                .collect();
            node.sh_within(Duration::from_secs(60), &script)?;
        }
        for (name, kind) in kinds {
            let (mut through, mut direct) = (Vec::new(), Vec::new());
            for _ in 0..5 {
                direct.push(once(6379, kind)?);
                through.push(once(6381, kind)?);
            }
            let through = figures.add(&format!("{name}, {gates} gate(s), 6381"), "1/s", through)?;
            let direct = figures.add(&format!("{name}, {gates} gate(s), 6379"), "1/s", direct)?;
            figures.ratio(&format!("{name}, {gates} gate(s)"), through, direct);
        }
    }
    Ok(())
}

/// Closing the read-write port with 10,000 established connections, half of them writing.
fn closing(bed: &Bed, figures: &mut Figures) -> Result<()> {
    const CONNECTIONS: usize = 10_000;
    bed.say("closing with 10,000 established connections");
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(hard > CONNECTIONS as u64 + 1000, "this process may open {hard} files only");
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536), hard)?;
    let node = bed.primary()?;
    node.redis(6379, &["CONFIG", "SET", "maxclients", "15000"])?;
    let target = SocketAddr::new(node.address().parse()?, 6381);
    let (mut last_ack, mut last_reset, mut command) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..5 {
        wait_for("the read-write port to be open", Duration::from_secs(60), || {
            ensure!(open_gates(bed)? == [node.name()], "open on {:?}", open_gates(bed)?);
            Ok(())
        })?;
        let clients = bed.in_net(CLIENTS[0], || connect_many(target, CONNECTIONS))??;
        let close = thread::scope(|scope| -> Result<_> {
            let closer = scope.spawn(|| -> Result<_> {
                thread::sleep(Duration::from_millis(500));
                let called = Instant::now();
                node.cmd("rolegate-port")?.args(["close", "rw"]).deadline(Duration::from_secs(60)).run()?;
                Ok((called, called.elapsed()))
            });
            let seen = watch(clients, Duration::from_secs(30))?;
            let (called, took) = closer.join().map_err(|_| anyhow::anyhow!("the closer panicked"))??;
            Ok((called, took, seen))
        })?;
        let (called, took, seen) = close;
        ensure!(seen.open == 0, "{} connections were not reset", seen.open);
        let after = |moment: Option<Instant>| {
            moment.map_or(0.0, |moment| moment.saturating_duration_since(called).as_secs_f64() * 1e3)
        };
        last_ack.push(after(seen.last_ack));
        last_reset.push(after(seen.last_reset));
        command.push(took.as_secs_f64() * 1e3);
    }
    figures.add("closing 10,000 connections: to the last acknowledgement", "ms", last_ack)?;
    figures.add("closing 10,000 connections: to the last reset", "ms", last_reset)?;
    figures.add("closing 10,000 connections: the command", "ms", command)?;
    Ok(())
}

fn connect_many(target: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    let mut clients = Vec::with_capacity(count);
    for n in 0..count {
        let stream = TcpStream::connect_timeout(&target, Duration::from_secs(5))
            .with_context(|| format!("connection {n} of {count}"))?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        clients.push(stream);
    }
    Ok(clients)
}

#[derive(Default)]
struct Seen {
    last_ack: Option<Instant>,
    last_reset: Option<Instant>,
    open: usize,
}

const SET: &[u8] = b"*3\r\n$3\r\nSET\r\n$5\r\nbench\r\n$1\r\n1\r\n";

/// Lets every second connection write, one request after the other, and watches until all are
/// reset.
fn watch(clients: Vec<TcpStream>, deadline: Duration) -> Result<Seen> {
    let begun = Instant::now();
    let mut seen = Seen::default();
    let mut alive: BTreeMap<usize, TcpStream> = clients.into_iter().enumerate().collect();
    for (_, stream) in alive.iter_mut().filter(|(n, _)| *n % 2 == 0) {
        stream.write_all(SET)?;
    }
    while !alive.is_empty() && begun.elapsed() < deadline {
        let ready: Vec<usize> = {
            let mut polled: Vec<PollFd> =
                alive.values().map(|stream| PollFd::new(stream.as_fd(), PollFlags::POLLIN)).collect();
            poll(&mut polled, PollTimeout::from(100u8))?;
            let hit = |fd: &PollFd| fd.any().unwrap_or(false);
            alive.keys().zip(&polled).filter(|(_, fd)| hit(fd)).map(|(n, _)| *n).collect()
        };
        for n in ready {
            let Some(stream) = alive.get_mut(&n) else { continue };
            let mut reply = [0; 512];
            let gone = match stream.read(&mut reply) {
                Ok(0) => true,
                Ok(_) => {
                    seen.last_ack = Some(Instant::now());
                    // A reset that has come meanwhile shows at the next read.
                    let _reset = stream.write_all(SET);
                    false
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => false,
                Err(_) => true,
            };
            if gone {
                seen.last_reset = Some(Instant::now());
                alive.remove(&n);
            }
        }
    }
    seen.open = alive.len();
    Ok(seen)
}

/// From `redis_role` written to the port open, and closed on the old node, by the keepers' own logs (one clock for all): nothing outside
/// sees the one without asking Pacemaker all the time.
fn role_change(bed: &Bed, figures: &mut Figures) -> Result<()> {
    const RUNS: usize = 10;
    bed.say("from redis_role written to the port open on the new node");
    let (mut opened, mut closed) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        wait_for("the cluster to be well", Duration::from_secs(120), || {
            bed.check()?;
            ensure!(open_gates(bed)?.len() == 1, "open on {:?}", open_gates(bed)?);
            Ok(())
        })?;
        // A failover that follows too soon on another is undone by other Sentinels (+convert-to-slave): they ask replicas for
        // their role each 10 s.
        thread::sleep(Duration::from_secs(15));
        let old = bed.primary()?;
        let begun = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64();
        old.redis(26379, &["SENTINEL", "FAILOVER", "mymaster"])?;
        let took = wait_for("another node to open", Duration::from_secs(60), || {
            let open = open_gates(bed)?;
            let new = bed.nodes().find(|node| open.contains(&node.name()) && node.name() != old.name());
            let new = new.with_context(|| format!("open on {open:?}"))?;
            let since = format!("@{begun:.6}");
            let when = |node: &Host, what: &str| -> Result<f64> {
                let unit = ["-q", "--no-pager", "-o", "short-unix", "-t", "rolegate-keeper", "-S", &since];
                let log = node.ask("journalctl", &unit)?;
                let line = log.lines().find(|line| line.contains(what));
                let time = line.and_then(|line| line.split(' ').next()?.parse().ok());
                time.with_context(|| format!("{}: no {what:?} in {log}", node.name()))
            };
            let written = when(&new, &format!("{} set to primary", new.name()))?;
            let [opened, closed] = [(&new, "is open for writing"), (&old, "is closed for writing")]
                .map(|(node, what)| when(node, what).map(|at| (at - written) * 1e3));
            Ok((opened?, closed?))
        })?;
        opened.push(took.0);
        closed.push(took.1);
    }
    figures.add("from redis_role written to 6381 open on the new node", "ms", opened)?;
    figures.add("from redis_role written to 6381 closed on the old node (less than 0: before)", "ms", closed)?;
    Ok(())
}
