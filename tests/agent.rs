//! The gate agent and the keeper with a real firewall, a real Redis and three real Sentinels, in network namespaces of the test's
//! own, and a CIB on disk in place of a running Pacemaker: its exit code, its permission, the firewall and what a client gets always agree. Needs root.

#[allow(dead_code)] // Shared with tests/gate.rs, which uses all of it.
mod support;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use libtest_mimic::{Arguments, Trial};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rolegate::exit::OcfCode;
use rolegate::gate::{Backend, BackendChoice, Baseline, Desired, Gate, Port, Ports, State, Variant, Want};
use rolegate::keeper::socket::{Report, Request};
use rolegate::permission::{Granted, Permission, Store};
use rolegate::settings::Settings;
use support::{Ns, SOON, eventually, sh};

const NODE: &str = "10.9.0.1";
const OTHER: &str = "10.9.0.2";
const SENTINELS: [u16; 3] = [26379, 26380, 26381];

/// The argument with which this program asks the keeper, as whoever it runs as, and says what came of it.
const ASK: &str = "ask-the-keeper";

fn main() {
    if std::env::args().nth(1).as_deref() == Some(ASK) {
        match rolegate::keeper::socket::ask(&Request::Report) {
            Ok(reports) => println!("{} reports", reports.len()),
            Err(error) => println!("{:?}", error.kind()),
        }
        return;
    }
    let arguments = Arguments::from_args();
    if !arguments.list {
        support::isolate();
    }
    let trials: [(&str, fn()); 17] = [
        ("callers_that_say_nothing_hold_up_no_agent", silent_callers),
        ("the_keeper_serves_root_and_group_haclient_and_nobody_else", whom_the_keeper_serves),
        ("a_second_keeper_is_refused_and_the_first_keeps_its_connections", second_keeper),
        ("without_a_usable_firewall_the_agent_says_so", without_a_usable_firewall),
        ("a_firewall_that_is_busy_at_first_fails_no_promote", busy_firewall),
        ("a_record_of_which_nobody_can_be_told_is_not_followed", a_record_of_which_nobody_can_be_told_is_not_followed),
        ("another_gates_ports_are_left_alone", another_gates_ports),
        ("a_port_that_opens_while_the_keeper_is_asked_is_seen", opens_while_asked),
        ("a_program_on_a_port_is_said_and_stops_nothing", listener),
        ("without_a_journal_decisions_are_on_stderr_with_their_fields", decisions_on_stderr),
        ("a_refused_node_is_not_to_be_chosen", a_refused_node_is_not_to_be_chosen),
        ("a_block_that_does_not_run_leaves_its_port_to_the_role", blocks),
        (
            "a_lease_outlasts_its_keeper_by_its_length_and_no_more",
            a_lease_outlasts_its_keeper_by_its_length_and_no_more,
        ),
        ("nft::random_sequences_of_actions_and_faults_agree", || random_sequences(BackendChoice::Nft)),
        ("iptables-nft::random_sequences_of_actions_and_faults_agree", || {
            random_sequences(BackendChoice::Iptables(Some(Variant::Nft)));
        }),
        ("stop_and_demote_work_with_everything_broken", stop_and_demote_work_with_everything_broken),
        (
            "the_keeper_closes_what_is_not_named_and_opens_what_is",
            the_keeper_closes_what_is_not_named_and_opens_what_is,
        ),
    ];
    let trials = trials.map(|(name, run)| {
        Trial::test(name, move || {
            support::apart(run);
            Ok(())
        })
    });
    libtest_mimic::run(&arguments, trials.into()).exit();
}

/// A server in the node's namespace, which ends with this value.
struct Server {
    child: Child,
    _directory: tempfile::TempDir,
}

impl Server {
    fn start(ns: &Ns, configuration: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("server.conf");
        std::fs::write(&file, format!("{configuration}\ndir {}\n", directory.path().display())).unwrap();
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", ns.name()));
        command.args(["setpriv", "--pdeathsig", "KILL", "redis-server"]).arg(&file);
        if configuration.contains("sentinel monitor") {
            command.arg("--sentinel");
        }
        let child = command.stdout(Stdio::null()).spawn().unwrap();
        Server { child, _directory: directory }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop_keeper(Signal::SIGKILL);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Gives this case's agents and keeper a settings file of their own.
fn settle(backend: BackendChoice) {
    let name = match backend {
        BackendChoice::Iptables(Some(variant)) => Backend::Iptables(variant).to_string(),
        _ => Backend::Nft.to_string(),
    };
    // Over the machine's /etc, in this case's mounts: as little as the file's directory may be there.
    sh("mkdir -p /run/rolegate/etc /run/rolegate/etc-work
        mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/rolegate/etc,workdir=/run/rolegate/etc-work /etc");
    std::fs::create_dir_all("/etc/rolegate").unwrap();
    std::fs::write(rolegate::settings::FILE, format!("[firewall]\nbackend = \"{name}\"\n")).unwrap();
}

/// One node with its Redis and all three Sentinels, and a client.
struct World {
    node: Ns,
    client: Ns,
    backend: BackendChoice,
    instance: String,
    record: [(String, String); 3],
    redis: Option<Server>,
    keeper: Option<Child>,
    sentinels: Vec<Server>,
    /// How many Sentinels are stopped.
    stopped: usize,
    /// Whether Sentinels name another node.
    other_named: bool,
    /// What the last agent's stderr was.
    agent_said: RefCell<String>,
}

/// What Sentinels and Redis say together, as the world was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Truth {
    Yes,
    Other,
    No,
    Unknown,
}

impl World {
    fn new() -> Self {
        World::on(BackendChoice::Nft, "2s")
    }

    fn on(backend: BackendChoice, lease: &str) -> Self {
        if backend != BackendChoice::Nft {
            settle(backend);
        }
        let (node, client) = (Ns::new("agent-node"), Ns::new("agent-client"));
        let (n, c) = (node.name(), client.name());
        sh(&format!(
            "ip link add lan netns {n} type veth peer name lan netns {c}
             ip -n {n} addr add {NODE}/24 dev lan; ip -n {c} addr add {OTHER}/24 dev lan
             ip -n {n} link set lan up; ip -n {c} link set lan up"
        ));
        // Redis' death must not be seen by Sentinels as anything else than silence: there is nobody to fail over to.
        let sentinels: Vec<Server> = SENTINELS
            .iter()
            .map(|port| {
                let configuration = format!(
                    "port {port}\nbind {NODE}\nprotected-mode no\nsentinel monitor mymaster {NODE} 6379 2\n\
                     sentinel down-after-milliseconds mymaster 3600000"
                );
                Server::start(&node, &configuration)
            })
            .collect();
        let mut world = World {
            instance: node.name().to_owned(),
            node,
            client,
            backend,
            record: Default::default(),
            redis: None,
            keeper: None,
            sentinels,
            stopped: 0,
            other_named: false,
            agent_said: RefCell::default(),
        };
        let ids = SENTINELS.map(|port| {
            eventually("a Sentinel answers", || world.redis_cli(port, "PING").is_some_and(|said| said == "PONG"));
            format!("{}@{NODE}:{port}", world.redis_cli(port, "SENTINEL MYID").unwrap())
        });
        world.record = [
            ("sentinels".to_owned(), ids.join(" ")),
            ("nodes".to_owned(), format!("node1={NODE}:6379 node2={OTHER}:6379")),
            ("lease".to_owned(), lease.to_owned()),
        ];
        world.start_redis();
        world.write_cib();
        world.start_keeper();
        world
    }

    /// As Pacemaker leaves it on a node's disk.
    fn write_cib(&self) {
        self.write_cib_with(&self.resource(&self.instance, "gate", &[]), &[]);
    }

    fn resource(&self, id: &str, kind: &str, more: &[(&str, &str)]) -> String {
        let record = self.record.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let parameters: String = record
            .chain(more.iter().copied())
            .map(|(name, value)| format!("<nvpair id=\"{id}-{name}\" name=\"{name}\" value=\"{value}\"/>"))
            .collect();
        format!(
            "<clone id=\"{id}-c\"><primitive id=\"{id}\" class=\"ocf\" provider=\"rolegate\" type=\"{kind}\">\
             <instance_attributes id=\"{id}-i\">{parameters}</instance_attributes></primitive></clone>"
        )
    }

    /// With these resources, and these attributes of this node.
    fn write_cib_with(&self, resources: &str, attributes: &[(&str, &str)]) {
        let attributes: String = attributes
            .iter()
            .map(|(name, value)| format!("<nvpair id=\"n-{name}\" name=\"{name}\" value=\"{value}\"/>"))
            .collect();
        let text = format!(
            "<cib><configuration><nodes><node id=\"1\" uname=\"node1\"><instance_attributes id=\"n\">{attributes}</instance_attributes>\
             </node><node id=\"2\" uname=\"node2\"/></nodes><resources>{resources}</resources></configuration></cib>"
        );
        self.stand_on_the_record(resources);
        std::fs::create_dir_all("/var/lib/pacemaker/cib").unwrap();
        std::fs::write("/var/lib/pacemaker/cib/cib.xml", text).unwrap();
    }

    /// Has this node stand on the record, as a keeper before this one left it: without a cluster nobody can begin to, since the others
    /// could not be told. What a keeper has begun to stand on stays.
    fn stand_on_the_record(&self, resources: &str) {
        let [(_, sentinels), (_, nodes), (_, lease)] = &self.record;
        let seconds: u64 = lease.trim_end_matches('s').parse().unwrap();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let text = format!(
            "{{\"version\":1,\"boot\":\"{}\",\"on\":{{\"sentinels\":\"{sentinels}\",\"nodes\":\"{nodes}\",\"lease_ms\":{}}},\"last\":null}}",
            boot.trim(),
            seconds * 1000
        );
        let ids = resources.split("<primitive id=\"").skip(1).filter_map(|rest| rest.split('"').next());
        for path in ids.map(|id| format!("/run/rolegate/record-{id}")) {
            if !std::path::Path::new(&path).exists() {
                std::fs::write(path, &text).unwrap();
            }
        }
    }

    fn start_keeper(&mut self) {
        self.start_keeper_saying_to(Stdio::inherit());
    }

    /// A keeper, not started.
    fn keeper(&self) -> Command {
        // Without Pacemaker it takes the host's name for the node's.
        let mut command = Command::new("unshare");
        command.args(["--uts", "setpriv", "--pdeathsig", "KILL", "sh", "-c"]);
        command.arg(format!(
            "hostname node1; exec nsenter --net=/run/netns/{} {}",
            self.node.name(),
            env!("CARGO_BIN_EXE_rolegate-keeper")
        ));
        command.stdin(Stdio::null());
        command
    }

    fn start_keeper_saying_to(&mut self, stderr: Stdio) {
        self.keeper = Some(self.keeper().stderr(stderr).spawn().unwrap());
        eventually("the keeper keeps this gate", || {
            rolegate::keeper::socket::ask(&Request::Report).is_ok_and(|reports| !reports.is_empty())
        });
    }

    fn stop_keeper(&mut self, signal: Signal) {
        if let Some(mut keeper) = self.keeper.take() {
            kill(Pid::from_raw(keeper.id().try_into().unwrap()), signal).unwrap();
            keeper.wait().unwrap();
        }
    }

    fn redis_cli(&self, port: u16, command: &str) -> Option<String> {
        let words = command.split(' ');
        let output = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.node.name()))
            .args(["timeout", "5", "redis-cli", "-e", "-h", NODE, "-p", &port.to_string()])
            .args(words)
            .output()
            .unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }

    fn start_redis(&mut self) {
        if self.redis.is_none() {
            let configuration = format!("port 6379\nbind {NODE} 127.0.0.1\nprotected-mode no\nsave \"\"");
            self.redis = Some(Server::start(&self.node, &configuration));
            eventually("Redis answers", || self.redis_cli(6379, "PING").is_some_and(|said| said == "PONG"));
            self.monitor_anew();
        }
    }

    /// Makes the Sentinels that run monitor the named server as one they never saw: else they keep the run id of a
    /// dead Redis for up to 10 s, and for all that time it is right to refuse the new one.
    fn monitor_anew(&self) {
        let host = if self.other_named { OTHER } else { NODE };
        for port in SENTINELS.iter().skip(self.stopped) {
            for command in [
                "SENTINEL REMOVE mymaster".to_owned(),
                format!("SENTINEL MONITOR mymaster {host} 6379 2"),
                "SENTINEL SET mymaster down-after-milliseconds 3600000".to_owned(),
            ] {
                assert_eq!(self.redis_cli(*port, &command).as_deref(), Some("OK"), "{command}");
            }
        }
    }

    fn stop_sentinels(&mut self, count: usize) {
        self.continue_sentinels();
        for sentinel in &self.sentinels[..count] {
            sentinel.signal(Signal::SIGSTOP);
        }
        self.stopped = count;
        if SENTINELS.len() - count < 2 {
            // What they said just before is an answer for a while yet.
            eventually("the keeper's answers are too old", || {
                let reports = rolegate::keeper::socket::ask(&Request::Report).unwrap_or_default();
                reports.iter().all(|report| report.other.is_none())
            });
        }
    }

    fn continue_sentinels(&mut self) {
        for sentinel in &self.sentinels[..self.stopped] {
            sentinel.signal(Signal::SIGCONT);
        }
        let were_stopped = std::mem::take(&mut self.stopped);
        if were_stopped > 0 {
            self.monitor_anew();
        }
    }

    fn name(&mut self, other: bool) {
        if self.other_named != other {
            self.continue_sentinels();
            self.other_named = other;
            self.monitor_anew();
        }
    }

    fn truth(&self) -> Truth {
        let majority = SENTINELS.len() - self.stopped >= 2;
        match (majority, self.redis.is_some()) {
            (true, _) if self.other_named => Truth::Other,
            (_, false) => Truth::No,
            (true, true) => Truth::Yes,
            (false, true) => Truth::Unknown,
        }
    }

    /// Runs the agent as Pacemaker does.
    fn agent(&self, action: &str, recurring: bool, parameters: &[(&str, &str)]) -> i32 {
        self.agent_of("gate", &self.instance, action, recurring, parameters)
    }

    fn agent_of(&self, kind: &str, instance: &str, action: &str, recurring: bool, parameters: &[(&str, &str)]) -> i32 {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.node.name())).arg(env!("CARGO_BIN_EXE_rolegate-agent"));
        command.arg(action).env_clear().env("PATH", std::env::var("PATH").unwrap());
        // What can come true gets the time that it needs on a busy machine.
        let timeout = if matches!(self.truth(), Truth::Yes | Truth::Other) { "20000" } else { "3000" };
        let meta = [
            ("OCF_ROOT", "/usr/lib/ocf"),
            ("OCF_RESOURCE_TYPE", kind),
            ("OCF_RESOURCE_INSTANCE", instance),
            ("OCF_RESKEY_CRM_meta_on_node", "node1"),
            ("OCF_RESKEY_CRM_meta_timeout", timeout),
        ];
        command.envs(meta);
        if recurring {
            command.env("OCF_RESKEY_CRM_meta_interval", "5000");
        }
        let record = self.record.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in record.chain(parameters.iter().copied()) {
            command.env(format!("OCF_RESKEY_{name}"), value);
        }
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        self.agent_said.replace(said.clone().into_owned());
        let code = output.status.code().unwrap_or_else(|| panic!("{action}: {}: {said}", output.status));
        let quiet = [OcfCode::Success, OcfCode::NotRunning, OcfCode::RunningPromoted].map(|code| code as i32);
        assert!(
            quiet.contains(&code) || said.contains("ocf-exit-reason:"),
            "{action}: {code} without a reason: {said}"
        );
        code
    }

    fn state(&self) -> State {
        let gate = Gate::new(Ports::default(), self.backend, Duration::from_secs(10)).unwrap();
        self.node.run(|| gate.state()).unwrap()
    }

    /// As a reload of the host's own rules.
    fn flush(&self) {
        self.node.sh("nft flush ruleset");
    }

    /// Takes the gate's own rules away, and leaves what they hang on.
    fn edit(&self) {
        self.node.sh(match self.backend {
            BackendChoice::Nft => "! nft list table inet rolegate || nft flush table inet rolegate",
            _ => "for t in raw filter nat; do for c in $(iptables-nft -t $t -S | sed -n 's/^-N \\(ROLEGATE.*\\)/\\1/p'); do iptables-nft -t $t -F $c; done; done",
        });
    }

    fn granted(&self) -> Option<Granted> {
        Store::new(&self.instance).read().unwrap().map(|permission| permission.granted)
    }

    fn serves(&self, port: u16) -> bool {
        self.client.pings(SocketAddr::new(NODE.parse().unwrap(), port))
    }

    /// As before the first step.
    fn reset(&mut self) {
        self.continue_sentinels();
        self.name(false);
        self.start_redis();
        assert_eq!(self.agent("stop", false, &[]), 0);
        self.flush();
    }

    /// That firewall and client agree.
    fn agree(&self, step: &str) -> State {
        // An open port may run out between two looks: what both say counts.
        for _ in 0..10 {
            let before = self.state();
            let served = [6380, 6381].map(|port| self.serves(port));
            let after = self.state();
            let open = |state: &State| [state.ro.is_open(), state.rw.is_open()];
            if open(&before) == open(&after) {
                let right = open(&after).map(|open| open && self.redis.is_some());
                let what = format!("after {step}: a client is served {served:?} (ro, rw); {after:?}");
                match (&before.baseline, &after.baseline) {
                    (Baseline::Intact, Baseline::Intact) => assert_eq!(served, right, "{what}"),
                    // Without its rules an open element opens nothing; the keeper may have just repaired them.
                    _ => assert!(served.iter().zip(right).all(|(served, open)| open || !served), "{what}"),
                }
                return after;
            }
        }
        panic!("after {step}: the firewall does not stay as it is");
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Start,
    Stop,
    Probe,
    Monitor,
    Promote,
    Demote,
    Flush,
    Edit,
    KillRedis,
    StartRedis,
    StopSentinels(usize),
    ContinueSentinels,
    NameOther,
    NameThis,
}

/// What the agent's action must give: exit code and permission. The rest is read from the firewall.
fn expected(step: Step, before: &State, granted: Option<Granted>, truth: Truth) -> (OcfCode, Option<Granted>) {
    let broken = before.baseline != Baseline::Intact;
    let started = Some(Granted::Started);
    match (step, granted) {
        (Step::Start, _) => (OcfCode::Success, started),
        (Step::Stop, _) => (OcfCode::Success, None),
        (Step::Demote | Step::Promote, None) => (OcfCode::NotRunning, None),
        (Step::Demote, _) => (OcfCode::Success, started),
        (Step::Promote, _) if matches!(truth, Truth::Yes | Truth::Other) => (OcfCode::Success, Some(Granted::Promoted)),
        (Step::Promote, _) => (OcfCode::Generic, started),
        (Step::Probe | Step::Monitor, None) => (OcfCode::NotRunning, None),
        // What is broken the keeper repairs, and a monitor gives it the time.
        (Step::Probe, Some(Granted::Started)) if broken => (OcfCode::Generic, granted),
        (Step::Probe | Step::Monitor, Some(Granted::Started)) => (OcfCode::Success, granted),
        (Step::Probe, _) if broken => (OcfCode::FailedPromoted, granted),
        (Step::Probe, _) => (OcfCode::RunningPromoted, granted),
        (Step::Monitor, _) => match truth {
            Truth::Yes => (OcfCode::RunningPromoted, granted),
            _ => (OcfCode::DegradedPromoted, granted),
        },
        _ => unreachable!("{step:?} is no action"),
    }
}

fn take(world: &mut World, step: Step) {
    let (before, granted) = (world.state(), world.granted());
    let action = match step {
        Step::Start => "start",
        Step::Stop => "stop",
        Step::Probe | Step::Monitor => "monitor",
        Step::Promote => "promote",
        Step::Demote => "demote",
        fault => {
            match fault {
                Step::Flush => world.flush(),
                Step::Edit => world.edit(),
                Step::KillRedis => world.redis = None,
                Step::StartRedis => world.start_redis(),
                Step::StopSentinels(count) => world.stop_sentinels(count),
                Step::ContinueSentinels => world.continue_sentinels(),
                Step::NameOther => world.name(true),
                _ => world.name(false),
            }
            let after = world.agree(&format!("{step:?}"));
            let may = granted == Some(Granted::Promoted) && world.truth() == Truth::Yes;
            assert!(!after.rw.is_open() || before.rw.is_open() || may, "{step:?} opened the read-write port");
            return;
        }
    };
    let truth = world.truth();
    let what = format!("{step:?} with {granted:?}, {truth:?}, {before:?}");
    let (mut right_code, mut right_granted) = expected(step, &before, granted, truth);
    let recurring = matches!(step, Step::Monitor);
    let mut code = world.agent(action, recurring, &[]);
    // A lease that lives is as good as one that is had: promote has nothing to wait for.
    if step == Step::Promote && before.rw.is_open() && code == OcfCode::Success as i32 {
        (right_code, right_granted) = (OcfCode::Success, Some(Granted::Promoted));
    }
    // A lease takes its time to be had, and to run out: what a monitor says must come true then.
    let started = std::time::Instant::now();
    while recurring && granted == Some(Granted::Promoted) && code != right_code as i32 && started.elapsed() < SOON {
        let soft = [OcfCode::RunningPromoted as i32, OcfCode::DegradedPromoted as i32];
        assert!(soft.contains(&code), "{what}: {code} on the way to {right_code:?}");
        std::thread::sleep(Duration::from_millis(100));
        code = world.agent(action, recurring, &[]);
    }
    // What Sentinels name by hand the keeper hears in its next round.
    let closes = matches!(step, Step::Promote | Step::Monitor) && truth != Truth::Yes;
    if closes && right_granted == Some(Granted::Promoted) {
        eventually("the keeper closes", || !world.state().rw.is_open());
    }
    let after = world.agree(&what);
    // The keeper may have repaired what a probe was to see.
    let repaired = step == Step::Probe && before.baseline != Baseline::Intact;
    let repaired = repaired && [OcfCode::Success as i32, OcfCode::RunningPromoted as i32].contains(&code);
    assert!(code == right_code as i32 || repaired, "{what}: {code}, not {right_code:?}");
    assert_eq!(world.granted(), right_granted, "{what}: permission");
    match right_granted {
        None | Some(Granted::Stopping) => {
            assert!(!after.ro.is_open() && !after.rw.is_open(), "{what}: open without permission: {after:?}");
        }
        Some(Granted::Started) => assert!(!after.rw.is_open(), "{what}: read-write open, not promoted"),
        Some(Granted::Promoted) => {}
    }
    // A promote of what was never started changes nothing.
    let acted = !matches!((step, granted), (Step::Probe | Step::Monitor, _) | (Step::Promote, None));
    if acted {
        assert_eq!(after.baseline, Baseline::Intact, "{what}: its rules");
    }
    if matches!(step, Step::Start | Step::Promote | Step::Monitor)
        && right_granted.is_some()
        && after.baseline == Baseline::Intact
    {
        assert!(after.ro.is_open(), "{what}: the read-only port: {after:?}");
    }
    if matches!(step, Step::Promote | Step::Monitor)
        && right_granted == Some(Granted::Promoted)
        && after.baseline == Baseline::Intact
    {
        match truth {
            Truth::Yes => assert!(after.rw.is_open(), "{what}: named, promoted and closed"),
            _ => assert!(!after.rw.is_open(), "{what}: open and not named"),
        }
    }
    assert!(
        !after.rw.is_open() || before.rw.is_open() || truth == Truth::Yes,
        "{what}: the read-write port was opened without proof"
    );
}

fn random_sequences(backend: BackendChoice) {
    let step = prop_oneof![
        2 => Just(Step::Start),
        1 => Just(Step::Stop),
        1 => Just(Step::Probe),
        4 => Just(Step::Monitor),
        4 => Just(Step::Promote),
        2 => Just(Step::Demote),
        2 => Just(Step::Flush),
        2 => Just(Step::Edit),
        2 => Just(Step::KillRedis),
        2 => Just(Step::StartRedis),
        1 => (1..=2_usize).prop_map(Step::StopSentinels),
        1 => Just(Step::ContinueSentinels),
        2 => Just(Step::NameOther),
        2 => Just(Step::NameThis),
    ];
    let mut runner =
        TestRunner::new(Config { cases: 5, max_shrink_iters: 20, failure_persistence: None, ..Config::default() });
    let world = RefCell::new(World::on(backend, "2s"));
    let sequences = prop::collection::vec(step, 10..20);
    runner
        .run(&sequences, |steps| {
            let mut world = world.borrow_mut();
            world.reset();
            // Most faults matter to a gate that is open.
            for step in [Step::Start, Step::Promote].into_iter().chain(steps) {
                // Twice: every action is idempotent.
                take(&mut world, step);
                take(&mut world, step);
            }
            Ok(())
        })
        .unwrap();
}

/// What agent and keeper do is to be found by its fields there, and each turn of a port once.
fn decisions_on_stderr() {
    let journal = std::path::Path::new("/run/systemd/journal/socket");
    assert!(!journal.exists(), "the tests have a /run of their own");
    let mut world = World::new();
    world.stop_keeper(Signal::SIGKILL);
    let log = "/run/rolegate/keeper.stderr";
    world.start_keeper_saying_to(std::fs::File::create(log).unwrap().into());
    let lines = |text: &str| -> Vec<String> {
        let said = std::fs::read_to_string(log).unwrap();
        said.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    };
    let has = |line: &str, fields: &[&str]| {
        for field in fields {
            assert!(line.contains(field), "no {field}: {line}");
        }
    };
    // So that it is renewed each two seconds, and does not run out where this machine is slow.
    let short: &[(&str, &str)] = &[("open_for", "8s")];
    world.reset();
    let cib = |fence: &[(&str, &str)]| world.write_cib_with(&world.resource(&world.instance, "gate", short), fence);
    cib(&[]);
    assert_eq!(world.agent("start", false, short), 0);
    let said = world.agent_said.borrow().clone();
    let started: Vec<&str> = said.lines().filter(|line| line.contains(" started ")).collect();
    let [started] = started[..] else { panic!("not one line: {said}") };
    let gate = format!("GATE=\"{}\"", world.instance);
    let whose = ["MASTER=\"mymaster\"", "NODE=\"node1\"", &gate];
    has(started, &["INFO", "ROLE=\"replica\"", "REASON=\""]);
    has(started, &whose);
    // The agent has opened it, or the keeper, which sees the permission first on a busy machine; and renewals are none of its openings.
    std::thread::sleep(Duration::from_secs(1));
    let by_keeper = lines("6380 is ").len();
    assert!(by_keeper <= 1, "{:?}", lines("6380 is "));
    std::thread::sleep(Duration::from_secs(4));
    assert!(world.agree("renewals").ro.is_open());
    assert_eq!(lines("6380 is ").len(), by_keeper);
    let fence = [(rolegate::pacemaker::FENCE_ATTRIBUTE, "by ann")];
    let turns: [(&str, &dyn Fn(), &str, &str); 3] = [
        ("fenced", &|| cib(&fence), "closed", "an operator has fenced this node"),
        ("not fenced any more", &|| cib(&[]), "open", "the gate runs here"),
        ("flushed", &|| world.flush(), "open", "its rules were gone"),
    ];
    for (n, (what, turn, becomes, why)) in (by_keeper..).zip(turns) {
        turn();
        eventually(what, || lines("6380 is ").len() > n);
        assert_eq!(world.agree(what).ro.is_open(), becomes == "open", "{what}");
        std::thread::sleep(Duration::from_secs(4));
        let all = lines("6380 is ");
        assert_eq!(all.len(), n + 1, "{what}: {all:?}");
        let (text, reason) = (format!("mymaster: 6380 is {becomes} for reading: {why}"), format!("REASON=\"{why}\""));
        has(&all[n], &[&text, &reason, "EPOCH="]);
        has(&all[n], &whose);
        // It has no role here but the one by its fence.
        assert_eq!(all[n].contains("ROLE=\"fail\""), what == "fenced", "{}", all[n]);
    }
    assert_eq!(world.agent("promote", false, short), 0);
    // The kernel shows it before the keeper says it.
    let opened = || lines("mymaster: 6381 is open for writing");
    eventually("the keeper to say so", || !opened().is_empty());
    let opened = opened();
    assert_eq!(opened.len(), 1, "{opened:?}");
    has(&opened[0], &["ROLE=\"primary\"", "EPOCH=", "REASON=\"a majority of Sentinels"]);
    has(&opened[0], &whose);
    // What fails has them, too, and what the keeper has told: here that no record is left.
    let of_agent = |text: &str| -> String {
        let said = world.agent_said.borrow();
        let line = said.lines().find(|line| line.contains(text) && line.contains("MASTER="));
        line.unwrap_or_else(|| panic!("no {text}: {said}")).to_owned()
    };
    let without = [short, &[("sentinels", ""), ("nodes", "")]].concat();
    assert_eq!(world.agent("monitor", true, &without), OcfCode::DegradedPromoted as i32);
    for (action, level, text, role) in [
        ("", "WARN", "monitor: ", "ROLE=\"primary\""),
        ("demote", "INFO", "demoted, read-write port closed", "ROLE=\"replica\" EPOCH="),
        ("stop", "INFO", "stopped, both ports closed", " EPOCH="),
        ("promote", "WARN", "promote: the gate is not started here", "REASON=\"the gate is not started here\""),
    ] {
        if !action.is_empty() {
            world.agent(action, false, short);
        }
        let line = of_agent(text);
        has(&line, &[level, role, "REASON=\""]);
        has(&line, &whose);
    }
}

/// Its Redis' replica-priority is 0 while no gate runs here, and then what it was before.
fn a_refused_node_is_not_to_be_chosen() {
    let mut world = World::new();
    world.write_cib_with(&world.resource(&world.instance, "gate", &[]), &[("redis_role", "primary")]);
    world.reset();
    let priority = |world: &World| {
        let said = world.redis_cli(6379, "CONFIG GET replica-priority").unwrap();
        said.lines().last().unwrap().to_owned()
    };
    let becomes = |world: &World, wanted: &str| {
        // It takes 7 s by rule.
        let until = std::time::Instant::now() + 4 * SOON;
        while priority(world) != wanted {
            assert!(std::time::Instant::now() < until, "replica-priority {}, not {wanted}", priority(world));
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    assert_eq!(world.agent("start", false, &[]), 0);
    world.redis_cli(6379, "CONFIG SET replica-priority 42").unwrap();
    std::thread::sleep(Duration::from_secs(9));
    assert_eq!(priority(&world), "42", "a gate runs");
    assert_eq!(world.agent("stop", false, &[]), 0);
    becomes(&world, "0");
    // What Sentinel makes permanent when it turns a server around.
    world.redis_cli(6379, "CONFIG REWRITE").unwrap();
    // The next keeper knows what to put back.
    world.stop_keeper(Signal::SIGKILL);
    world.start_keeper();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(priority(&world), "0", "no gate runs yet");
    assert_eq!(world.agent("start", false, &[]), 0);
    becomes(&world, "42");
    // Nor does it stay when the gate is gone for good.
    assert_eq!(world.agent("stop", false, &[]), 0);
    becomes(&world, "0");
    world.write_cib_with("", &[("redis_role", "primary")]);
    becomes(&world, "42");
    world.write_cib_with(&world.resource(&world.instance, "gate", &[]), &[("redis_role", "primary")]);
    assert_eq!(world.agent("start", false, &[]), 0);
    std::thread::sleep(Duration::from_secs(3));
    world.redis_cli(6379, "CONFIG SET replica-priority 0").unwrap();
    assert_eq!(world.agent("stop", false, &[]), 0);
    std::thread::sleep(Duration::from_secs(9));
    assert_eq!(world.agent("start", false, &[]), 0);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(priority(&world), "0", "an operator's own");
    let kept = format!("/var/lib/rolegate/priority-{}", world.instance);
    assert!(!std::path::Path::new(&kept).exists(), "nothing is to be put back");
}

/// Writes the settings of the machine on which the programs believe to be, for this trial alone.
fn settings(text: &str) {
    let [upper, work] = ["upper", "work"].map(|name| format!("/run/rolegate/etc-{name}"));
    if !std::path::Path::new(&upper).exists() {
        for directory in [&upper, &work] {
            std::fs::create_dir(directory).expect("a directory");
        }
        let options = format!("lowerdir=/etc,upperdir={upper},workdir={work}");
        mount(Some("overlay"), "/etc", Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .expect("an /etc of our own");
    }
    std::fs::create_dir_all("/etc/rolegate").expect("a directory");
    std::fs::write("/etc/rolegate/rolegate.toml", text).expect("settings");
}

fn stop_and_demote_work_with_everything_broken() {
    let mut world = World::new();
    let broken = [("rw_port", "none"), ("sentinels", "nobody"), ("open_for", "-1")];
    for action in ["demote", "stop"] {
        settings("");
        world.reset();
        assert_eq!((world.agent("start", false, &[]), world.agent("promote", false, &[])), (0, 0));
        assert!(world.agree("promote").rw.is_open());
        world.redis = None;
        world.stop_sentinels(3);
        settings("what = [");
        assert_eq!(world.agent(action, false, &broken), 0, "{action}");
        let after = world.agree(action);
        assert!(!after.rw.is_open(), "{action}: {after:?}");
        assert_eq!(after.ro.is_open(), action == "demote", "{after:?}");
    }
}

fn the_keeper_closes_what_is_not_named_and_opens_what_is() {
    // Long, and its keeper says why it closes: else a lease that nobody renews would end it as well.
    let mut world = World::on(BackendChoice::Nft, "5s");
    world.stop_keeper(Signal::SIGKILL);
    let log = "/run/rolegate/keeper.stderr";
    world.start_keeper_saying_to(std::fs::File::create(log).unwrap().into());
    let closings = || -> Vec<String> {
        let said = std::fs::read_to_string(log).unwrap();
        let why = said.lines().filter_map(|line| line.split_once("6381 is closed for writing: ").map(|(_, why)| why));
        why.map(str::to_owned).collect()
    };
    world.reset();
    world.name(true);
    for action in ["start", "promote"] {
        assert_eq!(world.agent(action, false, &[]), 0, "{action}");
    }
    assert_eq!(world.agent("monitor", true, &[]), OcfCode::DegradedPromoted as i32);
    let after = world.agree("monitor");
    assert!(after.ro.is_open() && !after.rw.is_open(), "{after:?}");
    // Named again: the keeper opens it. And what it opened it closes when that is over.
    for (named, why) in [(false, "Sentinels name node2"), (true, "Redis on this node refuses connections")] {
        world.name(false);
        world.start_redis();
        eventually("the port opens", || world.agree("a monitor").rw.is_open());
        assert_eq!(world.agent("monitor", true, &[]), OcfCode::RunningPromoted as i32);
        let before = closings().len();
        if named {
            world.redis = None;
        } else {
            world.name(true);
        }
        eventually("the port closes", || !world.agree("a monitor").rw.is_open());
        // The kernel shows it before the keeper says it.
        eventually("the keeper says so", || closings().len() > before);
        let said = closings().split_off(before);
        assert!(said.len() == 1 && said[0].starts_with(why), "{said:?}, not {why:?}");
        assert_eq!(world.agent("monitor", true, &[]), OcfCode::DegradedPromoted as i32);
        let after = world.agree("a monitor after the loss");
        assert!(after.ro.is_open() && !after.rw.is_open(), "{after:?}");
    }
}

/// Others could stand on the record that there was: they must be told first, and here is no cluster to do that by.
fn a_record_of_which_nobody_can_be_told_is_not_followed() {
    let mut world = World::new();
    world.reset();
    for action in ["start", "promote"] {
        assert_eq!(world.agent(action, false, &[]), 0, "{action}");
    }
    // A Sentinel's name more, that nobody has: with it two of four are no majority.
    let sentinels = world.record[0].1.clone();
    world.record[0].1 = format!("{sentinels} {}@{NODE}:1", "f".repeat(40));
    world.write_cib();
    // The keeper has read it by then; the lease goes on as it was.
    std::thread::sleep(Duration::from_secs(6));
    world.stop_sentinels(1);
    std::thread::sleep(Duration::from_secs(3));
    assert!(world.state().rw.is_open(), "two of three still are a majority");
    for action in ["stop", "start", "promote"] {
        assert_eq!(world.agent(action, false, &[]), 0, "{action}: with a new permission, too");
    }
    // The next keeper knows what this node stands on.
    assert_eq!(world.agent("stop", false, &[]), 0);
    world.stop_keeper(Signal::SIGKILL);
    world.start_keeper();
    assert_eq!(world.agent("start", false, &[]), 0);
    eventually("two of three to do for the next keeper", || {
        world.agent("promote", false, &[]) == 0 && world.state().rw.is_open()
    });
    world.stop_sentinels(2);
    eventually("one of three to be none", || !world.state().rw.is_open());
}

/// The kernel ends what nobody renews, and a keeper that comes back goes on with what still lives.
fn a_lease_outlasts_its_keeper_by_its_length_and_no_more() {
    // Long enough for a restart on a busy machine.
    let mut world = World::on(BackendChoice::Nft, "5s");
    world.reset();
    for action in ["start", "promote"] {
        assert_eq!(world.agent(action, false, &[]), 0, "{action}");
    }
    let [mut client, mut idle] =
        [(); 2].map(|()| world.client.connect(SocketAddr::new(NODE.parse().unwrap(), 6381)).unwrap());
    for _ in 0..3 {
        world.stop_keeper(Signal::SIGTERM);
        world.start_keeper();
        let started = std::time::Instant::now();
        while started.elapsed() < Duration::from_secs(1) {
            assert!(client.pings(), "a keeper that is restarted cuts nobody");
        }
    }
    world.stop_keeper(Signal::SIGKILL);
    std::thread::sleep(Duration::from_secs(5));
    let state = world.state();
    assert!(!state.rw.is_open() && state.ro.is_open(), "{state:?}");
    assert!(!client.pings(), "and is answered nothing");
    assert_eq!(world.agent("monitor", true, &[]), OcfCode::DegradedPromoted as i32);
    idle.is_reset(SOON);
    world.start_keeper();
    eventually("the port opens again", || world.state().rw.is_open());
}

/// The resource of another master name, of which somebody forgot to give the ports.
fn another_gates_ports() {
    let mut world = World::new();
    world.reset();
    for action in ["start", "promote"] {
        assert_eq!(world.agent(action, false, &[]), 0, "{action}");
    }
    let mut client = world.client.connect(SocketAddr::new(NODE.parse().unwrap(), 6381)).unwrap();
    let id = format!("Other-{}", world.instance);
    let without_record = [("sentinels", ""), ("nodes", "")];
    let not_running = OcfCode::NotRunning as i32;
    for (kind, shares) in [
        ("gate", &[("redis_port", "7379"), ("attribute", "redis_role-other")][..]),
        ("gate", &[("redis_port", "7379"), ("ro_port", "7380"), ("attribute", "redis_role-other")]),
        ("gate", &[("redis_port", "7379"), ("ro_port", "7380"), ("rw_port", "7381")]),
        ("block", &[("redis_port", "7379"), ("attribute", "redis_role-other"), ("port", "rw")]),
    ] {
        let newcomer = [&[("master", "other")], shares].concat();
        let ours = world.resource(&world.instance, "gate", &[]);
        let theirs = world.resource(&id, kind, &newcomer);
        world.write_cib_with(&format!("{ours}{theirs}"), &[]);
        for (record, code) in [(&without_record[..], OcfCode::Configured), (&[], OcfCode::Arguments)] {
            let parameters = [&newcomer, record].concat();
            let mut act = |action: &str, recurring: bool, code: i32| {
                assert_eq!(
                    world.agent_of(kind, &id, action, recurring, &parameters),
                    code,
                    "{kind} {action} {parameters:?}"
                );
                let state = world.state();
                assert!(state.ro.is_open() && state.rw.is_open(), "{kind} {action} {parameters:?}: {state:?}");
                assert_eq!(state.baseline, Baseline::Intact, "{kind} {action} {parameters:?}");
                assert!(client.pings(), "{kind} {action} {parameters:?} has cut a client");
            };
            act("monitor", false, not_running);
            act("start", false, code as i32);
            act("monitor", true, code as i32);
            if kind == "gate" {
                act("promote", false, code as i32);
                act("demote", false, not_running);
            }
            act("stop", false, 0);
            // It runs here since before anybody minded.
            let permission = Permission { granted: Granted::Promoted, ports: Ports::new(7380, 6381, 7379).unwrap() };
            Store::new(&id).write(permission).unwrap();
            act("stop", false, 0);
            assert_eq!(Store::new(&id).read().unwrap(), None);
        }
    }
    // With parameters that nobody can read, and none that it ever had: the defaults are another's.
    assert_eq!(world.agent_of("gate", &id, "stop", false, &[("master", "other"), ("rw_port", "none")]), 0);
    assert!(world.state().rw.is_open() && client.pings());
    // A slip in the parameters of a gate that goes before: who runs goes on.
    let slipped = [("master", "other"), ("attribute", "redis_role-other"), ("ro_port", "7380"), ("redis_port", "7379")];
    let theirs = world.resource(&id, "gate", &slipped);
    world.write_cib_with(&format!("{theirs}{}", world.resource(&world.instance, "gate", &[])), &[]);
    // By then the keeper has read it.
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(world.agent("monitor", true, &[]), OcfCode::RunningPromoted as i32);
    assert_eq!(world.agent_of("gate", &id, "start", false, &slipped), OcfCode::Generic as i32);
    let state = world.state();
    assert!(state.rw.is_open() && state.baseline == Baseline::Intact && client.pings(), "{state:?}");
    let kept = rolegate::keeper::socket::ask(&Request::Report).unwrap();
    assert!(kept.len() == 1 && kept[0].master == "mymaster", "{kept:?}");
    world.write_cib();
    // What works goes on through all of its own actions.
    assert_eq!(world.agent("monitor", true, &[]), OcfCode::RunningPromoted as i32);
    for action in ["stop", "start", "promote"] {
        assert_eq!(world.agent(action, false, &[]), 0, "{action}");
    }
    assert!(world.agree("promote").rw.is_open());
}

/// In place of the keeper somebody who opens at just that moment; and one who takes the port for open for a moment longer than it is.
fn opens_while_asked() {
    let mut world = World::new();
    world.reset();
    for action in ["start", "promote"] {
        assert_eq!(world.agent(action, false, &[]), 0, "{action}");
    }
    world.stop_keeper(Signal::SIGTERM);
    eventually("the lease runs out", || !world.state().rw.is_open());
    let report = |why: &str| Report {
        gate: world.instance.clone(),
        master: "mymaster".into(),
        open: why.is_empty(),
        why: why.to_owned(),
        other: None,
        last_failover: None,
        forced: None,
        not_free: Vec::new(),
        node: None,
        role: None,
        epoch: None,
    };
    let answering = |answers: Vec<(Report, Want)>| {
        let path = rolegate::keeper::socket::PATH;
        let _left = std::fs::remove_file(path);
        let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
        let node = world.node.clone();
        std::thread::spawn(move || {
            for (report, rw) in answers {
                let (mut stream, _) = listener.accept().unwrap();
                std::io::Read::read_to_end(&mut stream, &mut Vec::new()).unwrap();
                let firewall = Gate::new(Ports::default(), BackendChoice::Nft, Duration::from_secs(10)).unwrap();
                node.run(|| firewall.set(Desired::KEEP.with(Port::Rw, rw))).unwrap();
                serde_json::to_writer(&mut stream, &[report]).unwrap();
            }
        })
    };
    let late =
        answering(vec![(report(""), Want::Keep), (report(""), Want::Keep), (report("nobody knows"), Want::Keep)]);
    assert_eq!(world.agent("monitor", true, &[]), OcfCode::DegradedPromoted as i32);
    let said = world.agent_said.borrow().clone();
    assert!(said.contains("closed: nobody knows"), "{said}");
    late.join().unwrap();
    let keeper = answering(vec![(report(""), Want::Open(Duration::from_secs(60)))]);
    assert_eq!(world.agent("monitor", true, &[]), OcfCode::RunningPromoted as i32);
    keeper.join().unwrap();
}

/// Somebody else changes gates for longer than one change of the agent may wait.
fn busy_firewall() {
    let mut world = World::new();
    world.reset();
    assert_eq!(world.agent("start", false, &[]), 0);
    let file = std::fs::File::options().write(true).open("/run/rolegate/gate.lock").unwrap();
    let held = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).unwrap();
    let other = std::thread::spawn(move || {
        std::thread::sleep(Settings::default().firewall_within + Duration::from_secs(2));
        drop(held);
    });
    assert_eq!(world.agent("promote", false, &[]), 0);
    assert!(other.is_finished(), "it was promoted while another held the lock");
    other.join().unwrap();
    let state = world.agree("a promote that had to wait");
    assert!(state.ro.is_open() && state.rw.is_open(), "{state:?}");
}

/// What comes of asking the keeper as who setpriv makes of this program.
fn asked_as(who: &[&str]) -> String {
    // Copied, for a user of nothing may not look into a home directory.
    let program = "/run/rolegate/ask";
    if !std::path::Path::new(program).exists() {
        std::fs::copy(std::env::current_exe().unwrap(), program).unwrap();
    }
    let output = Command::new("setpriv").args(who).args([program, ASK]).output().unwrap();
    assert!(output.status.success(), "{who:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn whom_the_keeper_serves() {
    let _world = World::new();
    let nobody = ["--reuid", "nobody", "--regid", "nogroup"];
    let as_nobody = |groups: &[&str]| asked_as(&[&nobody[..], groups].concat());
    assert_eq!(asked_as(&["--clear-groups"]), "1 reports", "root");
    assert_eq!(as_nobody(&["--clear-groups"]), "PermissionDenied");
    assert_eq!(as_nobody(&["--groups", "daemon"]), "PermissionDenied");
    assert_eq!(as_nobody(&["--groups", "haclient"]), "1 reports", "as Sentinel's user");
    assert_eq!(asked_as(&["--reuid", "nobody", "--regid", "haclient", "--clear-groups"]), "1 reports");
}

/// Two would take each other's right to arm away, and with their lines confuse other nodes.
fn second_keeper() {
    let mut world = World::new();
    world.reset();
    for action in ["start", "promote"] {
        assert_eq!(world.agent(action, false, &[]), 0, "{action}");
    }
    let mut client = world.client.connect(SocketAddr::new(NODE.parse().unwrap(), 6381)).unwrap();
    let [redis, sentinels @ ..] =
        [6379, SENTINELS[0], SENTINELS[1], SENTINELS[2]].map(|port| connections(&world, port));
    let second = world.keeper().stderr(Stdio::piped()).spawn().unwrap();
    let second = second.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(
        !second.status.success() && said.contains("another rolegate-keeper runs on this node"),
        "{}: {said}",
        second.status
    );
    // The first one goes on, by the connections that it had: longer than a lease, and than many a round.
    let until = std::time::Instant::now() + Duration::from_secs(4);
    while std::time::Instant::now() < until {
        assert!(client.pings() && world.state().rw.is_open());
        let now = connections(&world, 6379);
        assert!(redis.iter().any(|id| now.contains(id)), "its connections to Redis were {redis:?}, and are {now:?}");
        for (port, before) in SENTINELS.iter().zip(&sentinels) {
            assert_eq!(connections(&world, *port), *before, "its connections to the Sentinel at {port}");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The ids of the keeper's connections to the server at `port`: at a Sentinel those with its mark.
fn connections(world: &World, port: u16) -> Vec<String> {
    let listed = world.redis_cli(port, "CLIENT LIST TYPE normal").unwrap();
    // Who asks here is one of them, and so are Sentinels.
    let is_keeper = |line: &&str| match port {
        6379 => !line.contains(" cmd=client") && !line.contains(" name=sentinel-"),
        _ => line.contains(" name=rolegate:mymaster:node1:"),
    };
    let id = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    listed.lines().filter(is_keeper).map(id).collect()
}

/// Whoever is in group haclient can take all places of the keeper's socket, and those behind them.
fn silent_callers() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let mut world = World::new();
    world.reset();
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..48 {
            scope.spawn(|| {
                while !end.load(Ordering::Relaxed) {
                    let stream = std::os::unix::net::UnixStream::connect(rolegate::keeper::socket::PATH);
                    // Until the keeper has had enough of it; then the next one.
                    let _ended = stream.and_then(|mut stream| std::io::Read::read(&mut stream, &mut [0]));
                }
            });
        }
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            std::thread::sleep(Duration::from_secs(1));
            let denied = rolegate::keeper::socket::ask(&Request::Report);
            assert!(denied.is_err(), "all places are taken: {denied:?}");
            for _ in 0..2 {
                for (action, recurring, right) in [
                    ("start", false, OcfCode::Success),
                    ("monitor", true, OcfCode::Success),
                    ("promote", false, OcfCode::Success),
                    ("monitor", true, OcfCode::RunningPromoted),
                    ("demote", false, OcfCode::Success),
                    ("stop", false, OcfCode::Success),
                ] {
                    let began = std::time::Instant::now();
                    assert_eq!(world.agent(action, recurring, &[]), right as i32, "{action}");
                    assert!(began.elapsed() < SOON, "{action} took {:?}", began.elapsed());
                    let open = action == "promote" || right == OcfCode::RunningPromoted;
                    assert_eq!(world.state().rw.is_open(), open, "{action}");
                }
            }
        }));
        end.store(true, Ordering::Relaxed);
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    eventually("the keeper answers", || rolegate::keeper::socket::ask(&Request::Report).is_ok());
}

/// What a machine lacks.
#[derive(Debug, Clone, Copy)]
enum Lacks {
    Programs(&'static str),
    /// The kernel refuses the sockets through which nft and ipset speak to it.
    Netfilter,
}

/// What the agent says and its exit code on such a machine.
fn agent_without(node: &Ns, lacks: Lacks, action: &str) -> (i32, String) {
    let hide = match lacks {
        Lacks::Programs(programs) => format!(
            "for p in {programs}; do for d in /usr/sbin /usr/bin /sbin /bin; do \
             [ ! -e $d/$p ] || mount --bind /dev/null $(readlink -f $d/$p); done; done"
        ),
        Lacks::Netfilter => "true".to_owned(),
    };
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-ec", &format!("{hide}; exec {} {action}", env!("CARGO_BIN_EXE_rolegate-agent"))]);
    command.env_clear().env("PATH", std::env::var("PATH").unwrap()).envs([
        ("OCF_ROOT", "/usr/lib/ocf".to_owned()),
        ("OCF_CHECK_LEVEL", "10".to_owned()),
        ("OCF_RESOURCE_TYPE", "gate".to_owned()),
        ("OCF_RESOURCE_INSTANCE", "RedisGate".to_owned()),
        ("OCF_RESKEY_CRM_meta_on_node", "node1".to_owned()),
        ("OCF_RESKEY_CRM_meta_timeout", "20000".to_owned()),
        ("OCF_RESKEY_sentinels", SENTINELS.map(|port| format!("{port:040}@{NODE}:{port}")).join(" ")),
        ("OCF_RESKEY_nodes", format!("node1={NODE}:6379 node2={OTHER}:6379")),
    ]);
    let output = node.run(|| {
        if matches!(lacks, Lacks::Netfilter) {
            refuse_netfilter();
        }
        command.output().unwrap()
    });
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Has the kernel refuse NETLINK_NETFILTER to this thread and to what it starts, as one that is built without it.
fn refuse_netfilter() {
    use nix::libc;
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, SeccompCondition, SeccompFilter,
        SeccompRule,
    };
    let is = |argument: u8, value: libc::c_int| SeccompCondition::new(argument, Dword, Eq, value as u64).unwrap();
    let rule = SeccompRule::new(vec![is(0, libc::AF_NETLINK), is(2, libc::NETLINK_NETFILTER)]).unwrap();
    let filter = SeccompFilter::new(
        [(libc::SYS_socket, vec![rule])].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPROTONOSUPPORT as u32),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

fn without_a_usable_firewall() {
    let node = Ns::new("agent-node");
    let [installed, not_running] = [OcfCode::Installed, OcfCode::NotRunning].map(|code| code as i32);
    let cases = [
        (
            "auto",
            Lacks::Programs("nft ipset xtables-nft-multi xtables-legacy-multi"),
            "neither nft nor iptables is installed",
        ),
        ("nft", Lacks::Programs("nft"), "nft is not installed"),
        (
            "iptables",
            Lacks::Programs("xtables-nft-multi xtables-legacy-multi"),
            "neither iptables-nft nor iptables-legacy is installed",
        ),
        ("auto", Lacks::Netfilter, "this kernel has no nfnetlink"),
        ("nft", Lacks::Netfilter, "this kernel has no nfnetlink"),
        ("iptables-legacy", Lacks::Netfilter, "this kernel has no nfnetlink"),
    ];
    for (backend, lacks, why) in cases {
        settings(&format!("[firewall]\nbackend = \"{backend}\"\n"));
        let act = |action: &str, right: i32| {
            let (code, said) = agent_without(&node, lacks, action);
            let what = format!("{backend}, {lacks:?}, {action}: {code}, {said}");
            assert_eq!(code, right, "{what}");
            assert!(
                right != installed
                    || said.contains("ocf-exit-reason:no firewall can be used here: ") && said.contains(why),
                "{what}"
            );
        };
        // It is said where it is looked for, and stops nothing from stopping.
        act("validate-all", installed);
        act("monitor", not_running);
        act("start", installed);
        act("stop", 0);
        act("monitor", not_running);
    }
    // With all that it needs, the same starts.
    settings("");
    let all = Lacks::Programs("");
    for (action, right) in [("validate-all", 0), ("start", 0), ("monitor", 0), ("stop", 0)] {
        let (code, said) = agent_without(&node, all, action);
        assert_eq!(code, right, "{action}: {said}");
    }
}

fn listener() {
    let mut world = World::new();
    world.reset();
    for action in ["start", "promote"] {
        assert_eq!(world.agent(action, false, &[]), 0, "{action}");
    }
    assert_eq!(world.agent("monitor", true, &[]), OcfCode::RunningPromoted as i32);
    for port in [6380, 6381] {
        let listener = world.node.run(|| std::net::TcpListener::bind((NODE, port))).unwrap();
        for _ in 0..2 {
            assert_eq!(world.agent("monitor", true, &[]), OcfCode::DegradedPromoted as i32, "{port}");
            let state = world.agree("a monitor beside a program that listens");
            assert!(state.ro.is_open() && state.rw.is_open(), "{state:?}");
        }
        drop(listener);
        eventually("nothing to be said any more", || {
            world.agent("monitor", true, &[]) == OcfCode::RunningPromoted as i32
        });
    }
    // A closed one cannot open beside it, and that harms the writers least of all.
    let gate = Gate::new(Ports::default(), BackendChoice::Nft, Duration::from_secs(10)).unwrap();
    let _listener = world.node.run(|| std::net::TcpListener::bind((NODE, 6380))).unwrap();
    world.node.run(|| gate.set(Desired::KEEP.with(Port::Ro, Want::Close))).unwrap();
    assert_eq!(world.agent("monitor", true, &[]), OcfCode::DegradedPromoted as i32);
    let state = world.state();
    assert!(!state.ro.is_open() && state.rw.is_open(), "{state:?}");
}

fn blocks() {
    let world = World::new();
    let ids = ["Read", "Write"].map(|which| format!("{which}-{}", world.instance));
    let [read, write] = [(ids[0].as_str(), "ro"), (ids[1].as_str(), "rw")];
    let resources = [read, write].map(|(id, port)| world.resource(id, "block", &[("port", port)])).concat();
    let act = |(id, port): (&str, &str), action: &str, recurring: bool| {
        world.agent_of("block", id, action, recurring, &[("port", port)])
    };
    let serve = |wanted: [bool; 2]| {
        eventually(&format!("6380 and 6381 serve: {wanted:?}"), || {
            [6380, 6381].map(|port| world.serves(port)) == wanted
        });
    };
    let says = |why: &str| {
        eventually(&format!("the keeper says: {why}"), || {
            let reports = rolegate::keeper::socket::ask(&Request::Report).unwrap_or_default();
            reports.iter().any(|report| report.gate == write.0 && report.why.contains(why))
        });
    };
    let not_running = OcfCode::NotRunning as i32;
    world.write_cib_with(&resources, &[("redis_role", "primary")]);
    // As after boot: a role of before it is not enough.
    says("has not looked");
    assert!(!world.agree("boot").ro.is_open());
    for block in [read, write] {
        assert_eq!((act(block, "monitor", false), act(block, "monitor", false)), (not_running, not_running));
    }
    serve([true, true]);

    for _ in 0..2 {
        assert_eq!(act(write, "start", false), 0);
        assert!(!world.serves(6381), "closed when start returns");
        assert_eq!((act(write, "monitor", true), act(write, "monitor", false)), (0, 0));
    }
    serve([true, false]);
    // Here is no Pacemaker to ask for the role: closed, and then left to the role that the keeper knows.
    assert_eq!((act(write, "stop", false), act(write, "stop", false)), (0, 0));
    serve([true, true]);
    world.write_cib_with(&resources, &[("redis_role", "replica")]);
    serve([true, false]);
    assert_eq!(act(write, "stop", false), 0);
    says("role is not primary");
    world.write_cib_with(&resources, &[("redis_role", "primary"), ("redis_fence", "by root")]);
    says("allows neither");
    world.write_cib_with(&resources, &[("redis_role", "primary")]);
    serve([true, true]);

    // A primary whose readers are blocked takes no writes either.
    assert_eq!(act(read, "start", false), 0);
    assert!(!world.serves(6380), "closed when start returns");
    serve([false, false]);
    let gate = Gate::new(Ports::default(), BackendChoice::Nft, Duration::from_secs(10)).unwrap();
    let open = Desired { ro: Want::Open(Duration::from_secs(60)), rw: Want::Keep };
    world.node.run(|| gate.set(open)).unwrap();
    assert_eq!(act(read, "monitor", false), OcfCode::Generic as i32);
    assert!(world.agree("a probe").ro.is_open(), "a probe changes nothing");
    assert_eq!((act(read, "monitor", true), act(read, "monitor", true)), (OcfCode::Generic as i32, 0));
    assert!(!world.agree("monitor").ro.is_open());
    // The keeper repairs what was flushed; nothing is restarted for it.
    world.node.sh("nft flush ruleset");
    assert_eq!(act(read, "monitor", true), 0);

    // Blocks that are gone have closed nothing: the keeper does.
    assert_eq!(act(read, "stop", false), 0);
    serve([true, true]);
    world.write_cib_with("", &[("redis_role", "primary")]);
    serve([false, false]);
    world.write_cib_with(&resources, &[("redis_role", "primary")]);
    serve([true, true]);
    // Whatever is broken: closed.
    let broken = [("port", "none"), ("rw_port", "none")];
    assert_eq!(world.agent_of("block", write.0, "stop", false, &broken), 0);
    serve([false, false]);
    says("has not looked");
}
