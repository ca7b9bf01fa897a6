//! The gate on real firewalls: real Redis servers, real TCP, in network namespaces of the test's own. Needs root.
//!
//! Each case runs on every backend that it is for.

#[path = "gate/leases.rs"]
mod leases;
mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rolegate::exit::PortCode;
use rolegate::gate::direct::{self, Direct, Done};
use rolegate::gate::{BackendChoice, Baseline, Desired, Gate, GateError, Port, PortState, Ports, State, Variant, Want};
use support::{Net, Ns, Redis, SOON, Writer, eventually, local, sh};

const NFT: BackendChoice = BackendChoice::Nft;
const IPTABLES_NFT: BackendChoice = BackendChoice::Iptables(Some(Variant::Nft));
const IPTABLES_LEGACY: BackendChoice = BackendChoice::Iptables(Some(Variant::Legacy));
const BACKENDS: [(&str, BackendChoice); 3] =
    [("nft", NFT), ("iptables-nft", IPTABLES_NFT), ("iptables-legacy", IPTABLES_LEGACY)];

const DEADLINE: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(300);

/// Its name and what it does.
type Case<T> = (&'static str, fn(T));

fn main() {
    let arguments = Arguments::from_args();
    if !arguments.list {
        support::isolate();
    }
    let everywhere: &[Case<BackendChoice>] = &[
        ("closed_refuses_everyone", closed_refuses_everyone),
        ("open_serves_everyone", open_serves_everyone),
        ("closing_cuts_this_port_and_no_other", closing_cuts_this_port_and_no_other),
        ("expiry_cuts_without_anybodys_help", expiry_cuts_without_anybodys_help),
        ("renewing_disturbs_nobody", renewing_disturbs_nobody),
        ("a_load_balancer_here_reaches_other_nodes", a_load_balancer_here_reaches_other_nodes),
        ("forwarded_traffic_passes", forwarded_traffic_passes),
        ("several_gates_do_not_disturb_each_other", several_gates_do_not_disturb_each_other),
        ("a_flushed_firewall_acknowledges_nothing_on_a_closed_port", a_flushed_firewall),
        ("doing_it_again_changes_nothing", doing_it_again_changes_nothing),
        ("many_callers_at_once", many_callers_at_once),
        ("nothing_else_in_the_firewall_changes", nothing_else_in_the_firewall_changes),
        ("behind_a_host_firewall_that_drops", behind_a_host_firewall_that_drops),
        ("a_listener_is_refused_and_keeps_nothing_open", a_listener_is_refused),
        ("a_stuck_caller_keeps_nothing_open", a_stuck_caller_keeps_nothing_open),
        ("what_is_opened_behind_a_closing_is_closed", what_is_opened_behind_a_closing_is_closed),
        ("random_sequences_agree_with_the_model", random_sequences),
        ("a_saved_ruleset_expires_when_loaded", a_saved_ruleset_expires),
        ("every_edit_is_seen_and_repaired", every_edit_is_seen_and_repaired),
        ("what_is_not_ours_is_not_touched", what_is_not_ours_is_not_touched),
        ("another_gates_port_is_not_turned", another_gates_port_is_not_turned),
        ("without_root", without_root),
        ("the_program_opens_and_closes", the_program),
    ];
    let once: &[(&str, fn())] = &[
        ("without_any_firewall_program", without_any_firewall_program),
        ("without_nft_iptables_serves", without_nft_iptables_serves),
        ("closing_closes_wherever_something_is_open", closing_closes_everywhere),
        ("ten_thousand_connections", ten_thousand_connections),
        ("looking_and_renewing_is_cheap", looking_and_renewing_is_cheap),
        ("direct_access_is_shut_to_strangers_alone", direct_access),
    ];
    let mut trials = Vec::new();
    for (name, case) in everywhere.iter().chain(leases::EVERYWHERE) {
        for (backend, choice) in BACKENDS {
            trials.push(trial(format!("{backend}::{name}"), move || case(choice)));
        }
    }
    for (name, case) in once {
        trials.push(trial((*name).to_owned(), *case));
    }
    libtest_mimic::run(&arguments, trials).exit();
}

fn trial(name: String, case: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, move || {
        support::apart(case);
        Ok(())
    })
}

/// The node's gate, worked from within its namespace.
struct Node<'a> {
    ns: &'a Ns,
    gate: Gate,
}

impl<'a> Node<'a> {
    fn new(ns: &'a Ns, choice: BackendChoice) -> Self {
        Node::on(ns, choice, Ports::default())
    }

    fn on(ns: &'a Ns, choice: BackendChoice, ports: Ports) -> Self {
        Node { ns, gate: Gate::new(ports, choice, DEADLINE).expect("ports") }
    }

    fn try_set(&self, ro: Want, rw: Want) -> Result<State, GateError> {
        self.ns.run(|| self.gate.set(Desired { ro, rw }))
    }

    fn set(&self, ro: Want, rw: Want) -> State {
        self.try_set(ro, rw).unwrap_or_else(|error| panic!("{ro:?}, {rw:?}: {error:?}"))
    }

    fn open(&self) -> State {
        self.set(Want::Open(LONG), Want::Open(LONG))
    }

    fn close(&self) -> State {
        let state = self.set(Want::Close, Want::Close);
        assert_eq!(state.cut.as_ref().expect("it closed").incomplete, None);
        state
    }

    fn state(&self) -> State {
        self.ns.run(|| self.gate.state()).expect("state")
    }

    fn baseline(&self) -> State {
        self.ns.run(|| self.gate.baseline()).expect("baseline")
    }

    /// Asserts an intact baseline and which ports are open.
    fn is(&self, ro: bool, rw: bool) {
        let state = self.state();
        assert_eq!(state.baseline, Baseline::Intact);
        assert_eq!((state.ro.is_open(), state.rw.is_open()), (ro, rw), "{state:?}");
    }
}

fn closed_refuses_everyone(choice: BackendChoice) {
    let net = Net::new();
    let _redis = Redis::start(&net.node, 6379);
    let node = Node::new(&net.node, choice);
    let all_refused = || {
        for (from, address) in net.ways() {
            from.refused(SocketAddr::new(address, 6380));
            from.refused(SocketAddr::new(address, 6381));
            assert!(from.pings(SocketAddr::new(address, 6379)), "{address}");
        }
    };
    assert_eq!(node.state().baseline, Baseline::Missing);
    all_refused();
    let state = node.baseline();
    assert_eq!((state.baseline, state.ro, state.rw), (Baseline::Intact, PortState::Closed, PortState::Closed));
    all_refused();
    node.open();
    node.close();
    all_refused();
    node.ns.run(|| node.gate.remove()).expect("remove");
    assert_eq!(node.state().baseline, Baseline::Missing);
    all_refused();
}

fn open_serves_everyone(choice: BackendChoice) {
    let net = Net::new();
    let _redis = Redis::start(&net.node, 6379);
    let node = Node::new(&net.node, choice);
    let forwarding = "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/all/route_localnet";
    assert_eq!(net.node.sh(forwarding), "0\n0\n", "the gate must work without");
    for port in Port::ALL {
        let want = Desired::CLOSED.with(port, Want::Open(LONG));
        let state = node.set(want.ro, want.rw);
        match state.of(port) {
            PortState::Open { remaining } => assert!(remaining > LONG - SOON && remaining <= LONG, "{remaining:?}"),
            PortState::Closed => panic!("{state:?}"),
        }
        for (from, address) in net.ways() {
            assert!(from.pings(SocketAddr::new(address, node.gate.ports().number(port))), "{port} {address}");
            let other = if port == Port::Ro { 6381 } else { 6380 };
            from.refused(SocketAddr::new(address, other));
        }
    }
    assert_eq!(net.node.sh(forwarding), "0\n0\n", "the gate must not change it");
}

fn closing_cuts_this_port_and_no_other(choice: BackendChoice) {
    let net = Net::new();
    let _redis = Redis::start(&net.node, 6379);
    let node = Node::new(&net.node, choice);
    for (port, closed_port, other_port) in [(Port::Rw, 6381, 6380), (Port::Ro, 6380, 6381)] {
        node.open();
        let (mut writers, mut idle, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for (from, address) in net.ways() {
            let to = |port| SocketAddr::new(address, port);
            writers.push(Writer::start(from, to(closed_port)));
            let mut asleep = from.connect(to(closed_port)).expect("open");
            assert!(asleep.pings());
            let mut subscriber = from.connect(to(closed_port)).expect("open");
            subscriber.subscribe();
            idle.extend([asleep, subscriber]);
            others.extend([Writer::start(from, to(other_port)), Writer::start(from, to(6379))]);
        }

        let want = Desired::KEEP.with(port, Want::Close);
        let state = node.set(want.ro, want.rw);
        let closed = Instant::now();

        let cut = state.cut.clone().expect("it closed");
        assert_eq!((cut.connections, cut.incomplete), (writers.len() + idle.len(), None));
        // What was idle gets its reset without saying anything; the closing sent it before it returned.
        for client in &mut idle {
            client.is_reset(Duration::from_secs(2));
        }
        for writer in &writers {
            writer.was_cut(closed);
        }
        for writer in &others {
            writer.goes_on();
        }
        node.is(port != Port::Ro, port != Port::Rw);
    }
}

fn expiry_cuts_without_anybodys_help(choice: BackendChoice) {
    let net = Net::new();
    let _redis = Redis::start(&net.node, 6379);
    let node = Node::new(&net.node, choice);
    let time = Duration::from_secs(4);
    let earliest = Instant::now() + time;
    let state = node.set(Want::Open(LONG), Want::Open(time));
    let latest = Instant::now() + time + Duration::from_millis(20);
    assert!(state.rw.is_open());
    let (mut writers, mut asleep) = (Vec::new(), Vec::new());
    for (from, address) in net.ways() {
        writers.push(Writer::start(from, SocketAddr::new(address, 6381)));
        let mut client = from.connect(SocketAddr::new(address, 6381)).expect("open");
        assert!(client.pings());
        asleep.push(client);
    }
    let mut subscribers = Vec::new();
    for (from, address) in net.ways() {
        let mut subscriber = from.connect(SocketAddr::new(address, 6381)).expect("open");
        subscriber.subscribe();
        subscribers.push(subscriber);
    }
    for writer in &writers {
        writer.was_cut(latest);
    }
    // A client that asks nothing is told nothing either.
    assert_eq!(net.node.sh("redis-cli -p 6379 publish nothing secret"), format!("{}\n", subscribers.len()));
    for subscriber in &mut subscribers {
        subscriber.hears_nothing(Duration::from_millis(300));
    }
    assert!(writers.iter().all(|writer| writer.seen().ended.is_some_and(|(at, _)| at >= earliest)), "before its time");
    for client in &mut asleep {
        assert_eq!(client.ask("PING").expect_err("expired").kind(), ErrorKind::ConnectionReset);
    }
    for (from, address) in net.ways() {
        from.refused(SocketAddr::new(address, 6381));
        assert!(from.pings(SocketAddr::new(address, 6380)));
    }
    node.is(true, false);
}

fn renewing_disturbs_nobody(choice: BackendChoice) {
    let net = Net::new();
    let _redis = Redis::start(&net.node, 6379);
    let node = Node::new(&net.node, choice);
    let time = Duration::from_secs(2);
    node.set(Want::Close, Want::Open(time));
    let writer = Writer::start(&net.client, "10.1.0.1:6381".parse().unwrap());
    let started = Instant::now();
    while started.elapsed() < 2 * time {
        let state = node.set(Want::Keep, Want::Open(time));
        assert!(state.rw.is_open());
    }
    writer.goes_on();
    // A shorter time holds, too.
    node.set(Want::Keep, Want::Open(LONG));
    let state = node.set(Want::Keep, Want::Open(time));
    assert!(matches!(state.rw, PortState::Open { remaining } if remaining <= time + Duration::from_millis(20)));
    writer.goes_on();
}

/// Answers each connection's bytes with the same bytes.
fn echo(ns: &Ns, address: &str) -> TcpListener {
    let listener = ns.run(|| TcpListener::bind(address)).expect("listen");
    let accepting = listener.try_clone().expect("a second handle");
    thread::spawn(move || {
        for stream in accepting.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                let mut bytes = [0; 64];
                while let Ok(length @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    listener
}

fn a_load_balancer_here_reaches_other_nodes(choice: BackendChoice) {
    let net = Net::new();
    let _redis = Redis::start(&net.node, 6379);
    let _far = [echo(&net.other, "0.0.0.0:6381"), echo(&net.other, "[::]:6380")];
    let node = Node::new(&net.node, choice);
    let far: Vec<SocketAddr> = ["10.2.0.2:6381", "[fd02::2]:6380"].map(|text| text.parse().unwrap()).to_vec();
    let reaches =
        || far.iter().all(|to| net.node.connect(*to).is_ok_and(|mut c| c.ask("hello").is_ok_and(|a| a == "hello")));
    eventually("the other node answers before there is a gate", reaches);
    node.open();
    assert!(reaches(), "with the gate open");
    let mut kept: Vec<_> = far.iter().map(|to| net.node.connect(*to).expect("reached")).collect();
    node.close();
    assert!(reaches(), "with the gate closed");
    for client in &mut kept {
        assert_eq!(client.ask("still").expect("not cut"), "still");
    }
}

fn forwarded_traffic_passes(choice: BackendChoice) {
    let net = Net::new();
    let _redis = Redis::start(&net.node, 6379);
    net.node.sh("echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding");
    let _far = [
        echo(&net.other, "0.0.0.0:6381"),
        echo(&net.other, "[::]:6380"),
        echo(&net.client, "0.0.0.0:6380"),
        echo(&net.client, "[::]:6381"),
    ];
    let node = Node::new(&net.node, choice);
    let pairs: Vec<(&Ns, SocketAddr)> = vec![
        (&net.client, "10.2.0.2:6381".parse().unwrap()),
        (&net.client, "[fd02::2]:6380".parse().unwrap()),
        (&net.other, "10.1.0.2:6380".parse().unwrap()),
        (&net.other, "[fd01::2]:6381".parse().unwrap()),
    ];
    let passes = || {
        pairs.iter().all(|(from, to)| from.connect(*to).is_ok_and(|mut c| c.ask("hello").is_ok_and(|a| a == "hello")))
    };
    eventually("forwarding works before there is a gate", passes);
    node.open();
    assert!(passes(), "with the gate open");
    let mut kept: Vec<_> = pairs.iter().map(|(from, to)| from.connect(*to).expect("passed")).collect();
    node.close();
    assert!(passes(), "with the gate closed");
    for client in &mut kept {
        assert_eq!(client.ask("still").expect("not cut"), "still");
    }
}

fn several_gates_do_not_disturb_each_other(choice: BackendChoice) {
    let net = Net::new();
    let first = Node::new(&net.node, choice);
    let second = Node::on(&net.node, choice, Ports::new(7380, 7381, 7379).unwrap());
    let _redis = [Redis::start(&net.node, 6379), Redis::start(&net.node, 7379)];
    let ask = |port: u16| {
        let mut client = net.client.connect(SocketAddr::new("10.1.0.1".parse().unwrap(), port))?;
        client.ask("GET who").and_then(|_| client.line())
    };
    net.node.sh("redis-cli -p 6379 set who first; redis-cli -p 7379 set who second");
    first.open();
    second.open();
    first.is(true, true);
    assert_eq!((ask(6381).unwrap(), ask(7381).unwrap()), ("first".to_owned(), "second".to_owned()));

    let kept = Writer::start(&net.client, "10.1.0.1:7381".parse().unwrap());
    let lost = Writer::start(&net.client, "10.1.0.1:6381".parse().unwrap());
    first.close();
    lost.was_cut(Instant::now());
    kept.goes_on();
    second.is(true, true);
    net.node.run(|| first.gate.remove()).expect("remove");
    kept.goes_on();
    second.is(true, true);
    assert!(matches!(first.state().baseline, Baseline::Edited(_)), "{:?}", first.state());
    first.baseline();
    second.is(true, true);
    kept.goes_on();
    for gate in [&first, &second] {
        net.node.run(|| gate.gate.remove()).expect("remove");
    }
    assert_eq!(second.state().baseline, Baseline::Missing);
}

/// What an operator's or a distribution's script does to a backend's whole ruleset.
fn flush(choice: BackendChoice) -> &'static str {
    match choice {
        BackendChoice::Iptables(Some(Variant::Legacy)) => {
            "for t in nat raw mangle filter; do for c in iptables-legacy ip6tables-legacy; do $c -t $t -F; $c -t $t -X; done; done"
        }
        _ => "nft flush ruleset",
    }
}

fn a_flushed_firewall(choice: BackendChoice) {
    let net = Net::new();
    let _redis = Redis::start(&net.node, 6379);
    let node = Node::new(&net.node, choice);
    let to = "10.1.0.1:6381".parse().unwrap();
    // Another's NAT keeps the translation of established connections alive when ours goes.
    let others = "nft 'table ip others { chain nat { type nat hook prerouting priority 0; }; }'; \
                  nft 'table ip6 others { chain nat { type nat hook prerouting priority 0; }; }'";
    net.node.sh(others);
    let flush = format!("{}; {others}", flush(choice));

    // Flushed while closed: closed.
    node.close();
    net.node.sh(&flush);
    net.client.refused(to);

    // Flushed while open, then closed: nothing gets through what is left of it.
    node.open();
    let writer = Writer::start(&net.client, to);
    net.node.sh(&flush);
    assert_ne!(node.state().baseline, Baseline::Intact);
    node.close();
    writer.was_cut(Instant::now());
    net.client.refused(to);
    node.is(false, false);

    // Flushed while open, then repaired: nobody said that it may be open.
    node.open();
    let writer = Writer::start(&net.client, to);
    net.node.sh(&flush);
    node.baseline();
    let repaired = Instant::now();
    if !node.state().rw.is_open() {
        writer.was_cut(repaired);
        net.client.refused(to);
    }

    // Flushed while open, then opened.
    node.open();
    net.node.sh(&flush);
    node.open();
    assert!(net.client.pings(to));
    node.is(true, true);
}

/// What a script does that saves a backend's whole ruleset, and a script that loads what it saved.
fn save(ns: &Ns, choice: BackendChoice) -> String {
    let Some((_, name)) = backend_name(choice).split_once('-') else {
        return format!("nft -f - <<'END'\n{}\nEND", ns.sh("nft list ruleset"));
    };
    let saved = |command: &str| ns.sh(command);
    format!(
        "ipset restore <<'END'\n{}\nEND\niptables-{name}-restore <<'END'\n{}\nEND\nip6tables-{name}-restore <<'END'\n{}\nEND\n",
        saved("ipset save"),
        saved(&format!("iptables-{name}-save")),
        saved(&format!("ip6tables-{name}-save")),
    )
}

fn a_saved_ruleset_expires(choice: BackendChoice) {
    let net = Net::new();
    let _redis = Redis::start(&net.node, 6379);
    let node = Node::new(&net.node, choice);
    let to = "10.1.0.1:6381".parse().unwrap();
    let time = Duration::from_secs(5);
    node.set(Want::Open(time), Want::Open(time));
    let saved = save(&net.node, choice);
    net.node.sh(flush(choice));
    net.node.sh("ipset list -n | xargs -rn1 ipset destroy");
    assert_eq!(node.state().baseline, Baseline::Missing);
    // As at boot, where it is loaded whenever that is.
    net.node.sh(&saved);
    let loaded = Instant::now();
    node.is(true, true);
    let writer = Writer::start(&net.client, to);
    writer.was_cut(loaded + time);
    net.client.refused(to);
    node.is(false, false);

    // What somebody opens by hand without a time runs out, too.
    net.node.sh(match choice {
        NFT => "nft add element inet rolegate open '{ 6381 }'",
        _ => "ipset add rolegate-6381 6381; ipset add rolegate-6381 6379",
    });
    assert!(matches!(node.state().rw, PortState::Open { remaining } if remaining <= Duration::from_secs(20)));
    assert!(net.client.pings(to));
}

fn doing_it_again_changes_nothing(choice: BackendChoice) {
    let net = Net::new();
    let node = Node::new(&net.node, choice);
    node.baseline();
    let before = ruleset(&net.node);
    for _ in 0..3 {
        node.baseline();
        node.state();
        node.close();
    }
    assert_eq!(ruleset(&net.node), before);
    node.open();
    node.open();
    node.is(true, true);
    node.close();
    assert_eq!(ruleset(&net.node), before);
    for _ in 0..2 {
        net.node.run(|| node.gate.remove()).expect("remove");
        assert_eq!(node.state().baseline, Baseline::Missing);
    }
}

/// Every rule and set of every kind, handles included.
fn ruleset(ns: &Ns) -> String {
    let text = ns.sh("nft -a list ruleset 2>/dev/null; iptables-legacy-save; ip6tables-legacy-save; ipset save");
    // Behind a chain's name come counters.
    let name = |line: &str| {
        if line.starts_with(':') { line.split('[').next().unwrap_or_default().to_owned() } else { line.to_owned() }
    };
    text.lines().filter(|line| !line.starts_with('#')).map(|line| name(line) + "\n").collect()
}

/// The same without what is the gate's: its table, its chains, the jumps to them, its sets, and the empty chains of
/// iptables' own that a jump from them makes.
fn ruleset_of_others(ns: &Ns, choice: BackendChoice) -> String {
    let mut text = ns.sh("nft -a list ruleset 2>/dev/null");
    let mut cut = |from: &str| {
        if let Some(from) = text.find(from) {
            let length = text[from..].find("\n}\n").expect("the table's end") + 3;
            text.replace_range(from..from + length, "");
        }
    };
    cut("table inet rolegate");
    if choice == IPTABLES_NFT {
        for table in ["raw", "nat", "filter"] {
            cut(&format!("table ip {table} "));
            cut(&format!("table ip6 {table} "));
        }
    }
    text += &ns.sh("iptables-nft-save; ip6tables-nft-save; iptables-legacy-save; ip6tables-legacy-save; ipset save");
    let noise = |line: &str| line.starts_with(['#', ':', '*']) || line == "COMMIT" || line.is_empty();
    let ours = |line: &str| line.contains("ROLEGATE") || line.contains("rolegate-");
    text.lines().filter(|line| !noise(line) && !ours(line)).map(|line| format!("{line}\n")).collect()
}

fn nothing_else_in_the_firewall_changes(choice: BackendChoice) {
    let net = Net::new();
    let node = Node::new(&net.node, choice);
    net.node.sh(
        "nft -f - <<'END'
table inet site {
	set admins { type ipv4_addr; flags interval; elements = { 192.0.2.0/24, 198.51.100.7 } }
	map ports { type inet_service : verdict; elements = { 22 : accept, 6381 : drop } }
	counter seen { packets 5 bytes 300 }
	chain input { type filter hook input priority 0; policy accept; ct state established accept; tcp dport vmap @ports; ip saddr @admins counter name seen; }
	chain nat { type nat hook prerouting priority dstnat; tcp dport 8080 redirect to :80; }
}
table ip rolegate { chain x { tcp dport 1 drop; }; }
table bridge filter { chain x { ether type ip accept; }; }
END
iptables-nft -t nat -A PREROUTING -p tcp --dport 81 -j REDIRECT --to-ports 82
iptables-legacy -N site; iptables-legacy -A INPUT -j site; iptables-legacy -A site -p tcp --dport 6381 -j ACCEPT
ip6tables-legacy -t raw -A PREROUTING -p udp -j NOTRACK
ipset create site bitmap:port range 1-100 timeout 0; ipset add site 80
ipset create rolegate hash:ip; ipset add rolegate 192.0.2.1",
    );
    let before = ruleset_of_others(&net.node, choice);
    assert!(before.contains("admins") && before.contains("NOTRACK") && before.contains("site 80"), "{before}");
    let check = |what: &str| assert_eq!(ruleset_of_others(&net.node, choice), before, "after {what}");
    node.baseline();
    check("baseline");
    node.open();
    check("open");
    node.set(Want::Keep, Want::Close);
    check("close rw");
    node.close();
    check("close");
    net.node.run(|| node.gate.remove()).expect("remove");
    check("remove");
    let left = ruleset(&net.node);
    assert!(!left.contains("ROLEGATE") && !left.contains("rolegate-") && !left.contains("inet rolegate"), "{left}");
}

fn behind_a_host_firewall_that_drops(choice: BackendChoice) {
    let net = Net::new();
    let _redis = Redis::start(&net.node, 6379);
    let node = Node::new(&net.node, choice);
    net.node.sh("nft -f - <<'END'
table inet host {
	chain input {
		type filter hook input priority filter; policy drop;
		iif lo accept
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept
		ct state established,related accept
		tcp dport 6379 ct status dnat accept
	}
}
END");
    node.open();
    for address in ["10.1.0.1", "fd01::1"] {
        let to = |port| SocketAddr::new(address.parse().unwrap(), port);
        eventually("served behind the host firewall", || net.client.pings(to(6381)));
        let direct = net.client.connect(to(6379)).err().expect("direct access stays shut");
        assert_eq!(direct.kind(), ErrorKind::TimedOut);
    }
    let writer = Writer::start(&net.client, "10.1.0.1:6381".parse().unwrap());
    node.close();
    writer.was_cut(Instant::now());
    net.client.refused("[fd01::1]:6381".parse().unwrap());
}

/// What `direct` in the settings does, with a gate beside it.
fn direct_access() {
    let net = Net::new();
    let _redis = Redis::start(&net.node, 6379);
    let node = Node::new(&net.node, NFT);
    node.open();
    let mut keeper = direct::Keeper::default();
    let mut keep = |want: &Direct| net.node.run(|| keeper.keep(want, Instant::now() + DEADLINE)).expect("direct");
    let to = |address: &str, port| SocketAddr::new(address.parse().unwrap(), port);
    let reaches = |from: &Ns, address: &str| {
        let reaches = from.pings(to(address, 6379));
        if !reaches {
            from.refused(to(address, 6379));
        }
        reaches
    };
    assert_eq!(keep(&Direct::default()), Done::Nothing);
    let before = Writer::start(&net.client, to("10.1.0.1", 6379));
    let through = Writer::start(&net.client, to("10.1.0.1", 6381));

    let mut want = Direct::default();
    want.shut(6379, ["192.0.2.1".parse().unwrap()], &[]);
    assert_eq!(keep(&want), Done::Made);
    before.was_cut(Instant::now());
    for address in ["10.1.0.1", "fd01::1"] {
        assert!(!reaches(&net.client, address), "{address} is open to strangers");
        assert!(reaches(&net.node, address), "{address}: this host itself");
        for port in [6380, 6381] {
            assert!(net.client.pings(to(address, port)), "{address} {port}");
        }
    }
    assert!(net.node.pings(to("127.0.0.1", 6379)));
    through.goes_on();
    assert_eq!(keep(&want), Done::Nothing);

    // Others' changes are undone.
    for change in [
        "nft delete table inet rolegate-direct",
        "nft flush chain inet rolegate-direct port-6379",
        "nft insert rule inet rolegate-direct input accept",
        "nft add chain inet rolegate-direct other",
        "nft add table inet rolegate-direct '{ flags dormant; }'",
    ] {
        net.node.sh(change);
        assert_eq!(keep(&want), Done::Mended, "{change}");
        assert!(!reaches(&net.client, "10.1.0.1"), "{change}");
    }

    // An address of one family lets in nobody of the other.
    let mut wider = Direct::default();
    wider.shut(6379, ["10.1.0.2".parse().unwrap()], &["10.1.0.0/24".parse().unwrap()]);
    wider.shut(7379, [], &[]);
    assert_eq!(keep(&wider), Done::Made);
    assert!(reaches(&net.client, "10.1.0.1") && !reaches(&net.client, "fd01::1"));
    through.goes_on();

    assert_eq!(keep(&Direct::default()), Done::Removed);
    assert!(reaches(&net.client, "fd01::1"));
    assert_eq!(net.node.sh("nft list tables"), "table inet rolegate\n");

    // One of that name that is not ours is left alone.
    net.node.sh("nft add table inet rolegate-direct");
    let error = net.node.run(|| keeper.keep(&want, Instant::now() + DEADLINE)).unwrap_err();
    assert!(matches!(error, GateError::Foreign(_)), "{error}");
    through.goes_on();
}

fn a_listener_is_refused(choice: BackendChoice) {
    let net = Net::new();
    let _redis = Redis::start(&net.node, 6379);
    let node = Node::new(&net.node, choice);
    for (address, port) in [("10.1.0.1:6380", 6380), ("[::]:6380", 6380), ("127.0.0.1:6381", 6381)] {
        // One that appears later takes no client of an open port, which goes on.
        node.open();
        let writer = Writer::start(&net.client, "10.1.0.1:6381".parse().unwrap());
        let listener = net.node.run(|| TcpListener::bind(address)).expect("listen");
        node.open();
        writer.goes_on();
        for port in [6380, 6381] {
            assert!(net.client.pings(SocketAddr::new("10.1.0.1".parse().unwrap(), port)), "{address}: {port}");
        }
        let found = net.node.run(|| node.gate.listeners()).expect("the listeners");
        let found: Vec<_> = found.into_iter().map(|(which, at)| (node.gate.ports().number(which), at)).collect();
        assert_eq!(found, [(port, listener.local_addr().unwrap())]);
        // But what is closed does not open any more.
        node.close();
        match node.try_set(Want::Open(LONG), Want::Open(LONG)) {
            Err(error @ GateError::PortInUse { port: named, listener: at }) => {
                assert_eq!((named, at), (port, listener.local_addr().unwrap()));
                assert_eq!(error.code(), PortCode::PortInUse);
            }
            other => panic!("{address}: {other:?}"),
        }
        drop(listener);
        // A child that another case is just making may have it for a moment yet.
        eventually("nobody listens", || net.node.run(|| node.gate.listeners()).expect("the listeners").is_empty());
    }
    // The refusal of one port must not keep the other open.
    node.try_set(Want::Close, Want::Open(LONG)).expect("no listener");
    let _listener = net.node.run(|| TcpListener::bind("0.0.0.0:6380")).expect("listen");
    let writer = Writer::start(&net.client, "10.1.0.1:6381".parse().unwrap());
    assert!(matches!(node.try_set(Want::Open(LONG), Want::Close), Err(GateError::PortInUse { port: 6380, .. })));
    writer.was_cut(Instant::now());
    assert!(!node.state().rw.is_open());
    node.close();
}

fn another_gates_port_is_not_turned(choice: BackendChoice) {
    let net = Net::new();
    let _redis = [6379, 7379].map(|port| Redis::start(&net.node, port));
    let node = Node::new(&net.node, choice);
    node.open();
    let writer = Writer::start(&net.client, "10.1.0.1:6381".parse().unwrap());
    let (program, backend) = (env!("CARGO_BIN_EXE_rolegate-port"), backend_name(choice));
    let call = |arguments: &str| {
        let script = format!("code=0; {program} --backend {backend} {arguments} 2>&1 || code=$?; echo $code");
        let said = net.node.sh(&script);
        let (said, code) = said.trim_end().rsplit_once('\n').expect("output and code");
        (code.parse::<i32>().expect("a code"), said.to_owned())
    };
    for ports in ["--ro-port 7380", "--rw-port 6380 --ro-port 7380", "--rw-port 7381", ""] {
        for action in ["baseline", "open rw --for 5s", "open all --for 5s", "remove"] {
            let (code, said) = call(&format!("{action} {ports} --redis-port 7379"));
            assert_eq!(code, PortCode::Owned as i32, "{action} {ports}: {said}");
            assert!(said.contains("is another gate's: it leads to 6379, not to 7379"), "{said}");
            node.is(true, true);
        }
        writer.goes_on();
    }
    // Whoever asks: it can be closed, connections and all, and still is the gate that it was.
    let (code, said) = call("close rw --ro-port 7380 --redis-port 7379");
    assert!(code == 0 && said.contains("connections cut: 1"), "{said}");
    writer.was_cut(Instant::now());
    node.is(true, false);
    let (code, said) = call("close all --redis-port 7379");
    assert_eq!(code, 0, "{said}");
    node.is(false, false);
    // What is taken away is free.
    let (code, said) = call("remove");
    assert_eq!(code, 0, "{said}");
    let (code, said) = call("open rw --ro-port 7380 --redis-port 7379 --for 60s");
    assert!(code == 0 && said.contains("open to 7379"), "{said}");
    node.close();
}

fn a_stuck_caller_keeps_nothing_open(choice: BackendChoice) {
    let net = Net::new();
    let _redis = Redis::start(&net.node, 6379);
    let node = Node::new(&net.node, choice);
    node.open();
    locked(|| {
        let started = Instant::now();
        node.close();
        let took = started.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
        let impatient = Gate::new(Ports::default(), choice, Duration::from_secs(1)).expect("ports");
        let opened = net.node.run(|| impatient.set(Desired { ro: Want::Keep, rw: Want::Open(LONG) }));
        assert!(matches!(opened, Err(GateError::Timeout { .. })), "{opened:?}");
    });
    node.is(false, false);
}

/// Does `what` while another caller has the lock, and does not give it back.
fn locked<T>(what: impl FnOnce() -> T) -> T {
    fn children(holder: &Child) -> String {
        format!("cat /proc/{0}/task/{0}/children", holder.id())
    }
    struct Holder(Child);
    impl Drop for Holder {
        fn drop(&mut self) {
            // flock's sleep keeps the lock: end both.
            sh(&format!("kill $({}) {}", children(&self.0), self.0.id()));
            self.0.wait().expect("reaped");
        }
    }
    let holder = Command::new("flock").args(["/run/rolegate/gate.lock", "sleep", "600"]).spawn().expect("flock");
    let holder = Holder(holder);
    eventually("the lock is held", || !sh(&children(&holder.0)).is_empty());
    what()
}

/// By a caller with an older permission, who has the lock: who closes has not waited for it, and looks again.
fn what_is_opened_behind_a_closing_is_closed(choice: BackendChoice) {
    let net = Net::new();
    let _redis = Redis::start(&net.node, 6379);
    let node = Node::new(&net.node, choice);
    node.open();
    let opens = match choice {
        NFT => "nft add element inet rolegate open '{ 6381 timeout 60s }'",
        _ => "ipset -exist add rolegate-6381 6381 timeout 60; ipset -exist add rolegate-6381 6379 timeout 60",
    };
    let closed = AtomicBool::new(false);
    locked(|| {
        let begun = Instant::now();
        thread::scope(|scope| {
            let opener = scope.spawn(|| {
                let mut times = 0;
                // Closing begins half a second after it was asked for.
                while !closed.load(Ordering::SeqCst) && begun.elapsed() < Duration::from_millis(900) {
                    net.node.sh(opens);
                    times += 1;
                }
                times
            });
            let state = node.set(Want::Keep, Want::Close);
            closed.store(true, Ordering::SeqCst);
            let times = opener.join().expect("no panic");
            assert!(!state.rw.is_open() && times > 2, "{state:?}, opened {times} times");
        });
    });
    // What came last may have come behind it all.
    node.set(Want::Keep, Want::Close);
    node.is(true, false);
}

fn many_callers_at_once(choice: BackendChoice) {
    let net = Net::new();
    let _redis = Redis::start(&net.node, 6379);
    let until = Instant::now() + Duration::from_secs(4);
    let program = env!("CARGO_BIN_EXE_rolegate-port");
    let name = backend_name(choice);
    thread::scope(|scope| {
        for caller in 0..6u16 {
            let node = &net.node;
            scope.spawn(move || {
                // Three gates, each with two callers of its own, one of them a process per call.
                let base = 6380 + caller / 2 * 1000;
                let ports = Ports::new(base, base + 1, base - 1).unwrap();
                let gate = Node::on(node, choice, ports);
                let mut round = caller;
                while Instant::now() < until {
                    round += 1;
                    if caller % 2 == 0 {
                        match round % 4 {
                            0 => drop(gate.open()),
                            1 => drop(gate.state()),
                            2 => drop(gate.set(Want::Close, Want::Close)),
                            _ => drop(gate.baseline()),
                        }
                    } else {
                        let action =
                            ["open rw --for 5m", "close all", "state --json", "baseline"][usize::from(round % 4)];
                        let ports = format!("--ro-port {base} --rw-port {} --redis-port {}", base + 1, base - 1);
                        node.sh(&format!("{program} {action} {ports} --backend {name}"));
                    }
                }
                gate.close();
                gate.open();
            });
        }
    });
    for base in [6380, 7380, 8380] {
        let gate = Node::on(&net.node, choice, Ports::new(base, base + 1, base - 1).unwrap());
        gate.is(true, true);
        gate.close();
        gate.is(false, false);
    }
    net.client.refused("10.1.0.1:6381".parse().unwrap());
}

fn backend_name(choice: BackendChoice) -> &'static str {
    BACKENDS.iter().find(|(_, other)| *other == choice).expect("a backend").0
}

/// One step of a random sequence.
#[derive(Debug, Clone)]
enum Step {
    Set(usize, Desired),
    Baseline(usize),
    Remove(usize),
    Flush,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let want = prop_oneof![Just(Want::Open(LONG)), Just(Want::Close), Just(Want::Keep)];
    let desired = (want.clone(), want).prop_map(|(ro, rw)| Desired { ro, rw });
    let step = prop_oneof![
        8 => (0..2usize, desired).prop_map(|(gate, want)| Step::Set(gate, want)),
        2 => (0..2usize).prop_map(Step::Baseline),
        1 => (0..2usize).prop_map(Step::Remove),
        1 => Just(Step::Flush),
    ];
    prop::collection::vec(step, 1..12)
}

fn random_sequences(choice: BackendChoice) {
    let mut runner =
        TestRunner::new(Config { cases: 24, max_shrink_iters: 60, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&steps(), |steps| {
        let ns = Ns::new("model");
        let ports = [Ports::default(), Ports::new(7380, 7381, 7379).unwrap()];
        let gates = ports.map(|ports| Node::on(&ns, choice, ports));
        // The model: for each gate whether it is there and which of its ports are open.
        let mut model = [(false, [false, false]); 2];
        for step in steps {
            match step {
                Step::Set(gate, want) => {
                    gates[gate].set(want.ro, want.rw);
                    for (open, want) in model[gate].1.iter_mut().zip([want.ro, want.rw]) {
                        *open = matches!(want, Want::Open(_)) || (*open && want == Want::Keep);
                    }
                    model[gate].0 = true;
                }
                Step::Baseline(gate) => {
                    gates[gate].baseline();
                    model[gate].0 = true;
                }
                Step::Remove(gate) => {
                    ns.run(|| gates[gate].gate.remove()).expect("remove");
                    model[gate] = (false, [false, false]);
                }
                Step::Flush => {
                    for gate in &gates {
                        ns.run(|| gate.gate.remove()).expect("remove");
                    }
                    ns.sh(flush(choice));
                    model = [(false, [false, false]); 2];
                }
            }
            for (gate, (there, open)) in gates.iter().zip(model) {
                let state = gate.state();
                prop_assert_eq!(state.baseline == Baseline::Intact, there, "{:?}", state);
                prop_assert_eq!([state.ro.is_open(), state.rw.is_open()], open);
            }
        }
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

/// Each edit of an nft table, and whether what is open can be kept.
fn edits_of_nft() -> Vec<(String, bool)> {
    let handle =
        |chain: &str| format!("$(nft -a list chain inet rolegate {chain} | sed -n 's/.*# handle //p' | tail -1)");
    vec![
        (format!("nft delete rule inet rolegate guard_in handle {}", handle("guard_in")), true),
        ("nft flush chain inet rolegate replies".to_owned(), true),
        ("nft insert rule inet rolegate guard_local accept".to_owned(), true),
        (format!("nft replace rule inet rolegate redirect_in handle {} tcp dport @gated fib daddr type local redirect to :tcp dport map @target", handle("redirect_in")), true),
        (format!("nft replace rule inet rolegate redirect_in handle {} meta l4proto tcp tcp dport @open fib daddr type local redirect to :6379", handle("redirect_in")), true),
        (format!("nft replace rule inet rolegate guard_in handle {} tcp dport @gated tcp dport != @open fib daddr type local drop", handle("guard_in")), true),
        (format!("nft replace rule inet rolegate guard_in handle {} tcp dport @gated tcp dport @open fib daddr type local reject with tcp reset", handle("guard_in")), true),
        (format!("nft replace rule inet rolegate guard_in handle {} udp dport @gated udp dport != @open fib daddr type local drop", handle("guard_in")), true),
        ("nft add chain inet rolegate more '{ type filter hook input priority 0; policy drop; }'".to_owned(), true),
        ("nft add chain inet rolegate more; nft add chain inet rolegate last; nft add rule inet rolegate more jump last; nft add rule inet rolegate guard_in jump more".to_owned(), true),
        ("nft flush chain inet rolegate replies; nft delete chain inet rolegate replies".to_owned(), true),
        ("nft flush chain inet rolegate replies; nft delete chain inet rolegate replies; nft add chain inet rolegate replies '{ type filter hook postrouting priority 0; }'; nft add rule inet rolegate replies tcp sport @gated tcp sport != @open fib saddr type local tcp flags '& rst == 0' drop".to_owned(), true),
        ("nft chain inet rolegate guard_in '{ policy drop; }'".to_owned(), true),
        ("nft delete element inet rolegate gated '{ 6381 }'".to_owned(), true),
        ("nft delete element inet rolegate target '{ 6380 }'".to_owned(), true),
        ("nft delete element inet rolegate target '{ 6381 }'; nft add element inet rolegate target '{ 6381 : 7379 }'".to_owned(), true),
        ("nft flush set inet rolegate gated; nft flush map inet rolegate target".to_owned(), true),
        ("nft add table inet rolegate '{ flags dormant; }'".to_owned(), false),
        ("nft add set inet rolegate more '{ type ipv4_addr; }'".to_owned(), false),
        ("nft add counter inet rolegate more".to_owned(), false),
        ("nft add chain inet rolegate last; nft add map inet rolegate more '{ type inet_service : verdict; }'; nft add element inet rolegate more '{ 1 : jump last }'".to_owned(), false),
        ("nft flush table inet rolegate; nft delete set inet rolegate open; nft add set inet rolegate open '{ type inet_service; elements = { 6380, 6381 }; }'".to_owned(), false),
    ]
}

/// The same of iptables.
fn edits_of_iptables(variant: &str) -> Vec<(String, bool)> {
    let gate = "-t nat -R ROLEGATE 2 -p tcp --dport 6381 -m set --match-set rolegate-6381 dst -j REDIRECT --to-ports";
    let edits = [
        "iptables -t nat -F ROLEGATE",
        "ip6tables -t nat -D ROLEGATE 2",
        "iptables -t raw -D PREROUTING 1",
        "ip6tables -t raw -F",
        "iptables -D INPUT 1",
        "ip6tables -D OUTPUT 1",
        "iptables -t nat -I ROLEGATE -j ACCEPT",
        "iptables -t nat -A ROLEGATE -p tcp --dport 6381 -j REDIRECT --to-ports 6379",
        "iptables -t nat -A PREROUTING -p tcp -j ROLEGATE",
        "iptables -F ROLEGATE-OUT",
        "iptables -F; iptables -X",
        "ip6tables -t nat -F; ip6tables -t nat -X",
    ];
    let named = |edit: &str| edit.replace("tables ", &format!("tables-{variant} "));
    let mut edits: Vec<(String, bool)> = edits.into_iter().map(|edit| (named(edit), true)).collect();
    edits.push((named(&format!("iptables {gate} 22")), true));
    for edit in ["ipset del rolegate-gated 6381", "ipset flush rolegate-redis"] {
        edits.push((edit.to_owned(), true));
    }
    let anew =
        "ipset create x bitmap:port range 6379-6381; ipset add x 6381; ipset swap x rolegate-6381; ipset destroy x";
    let endless = "ipset add -exist rolegate-6381 6381 timeout 0; ipset add -exist rolegate-6381 6379 timeout 0";
    edits.extend([(endless.to_owned(), false), (anew.to_owned(), false)]);
    edits
}

fn every_edit_is_seen_and_repaired(choice: BackendChoice) {
    let net = Net::new();
    let _redis = Redis::start(&net.node, 6379);
    let node = Node::new(&net.node, choice);
    let other = Node::on(&net.node, choice, Ports::new(7380, 7381, 7379).unwrap());
    let edits = match backend_name(choice).split_once('-') {
        Some((_, variant)) => edits_of_iptables(variant),
        None => edits_of_nft(),
    };
    for (edit, keeps) in edits {
        node.open();
        other.open();
        net.node.sh(&edit);
        let state = node.state();
        assert!(matches!(state.baseline, Baseline::Edited(_)), "not seen: {edit}");
        let state = node.baseline();
        assert_eq!(state.baseline, Baseline::Intact, "{edit}");
        assert_eq!(state.rw.is_open(), keeps, "{edit}");
        // On nft all gates share one set, so where it has to be made anew all are closed.
        let others = keeps || choice != NFT;
        assert_eq!(other.state().rw.is_open(), others, "{edit}");
        other.baseline();
        other.is(others, others);
        // Closing alone repairs, too.
        node.open();
        let writer = Writer::start(&net.client, "10.1.0.1:6381".parse().unwrap());
        net.node.sh(&edit);
        node.close();
        writer.was_cut(Instant::now());
        node.is(false, false);
        net.client.refused("10.1.0.1:6381".parse().unwrap());
        let kept = other.baseline().rw.is_open();
        net.node.run(|| node.gate.remove()).expect("remove");
        other.is(kept, kept);
    }
}

fn what_is_not_ours_is_not_touched(choice: BackendChoice) {
    let net = Net::new();
    let _redis = Redis::start(&net.node, 6379);
    let node = Node::new(&net.node, choice);
    let (program, name) = (env!("CARGO_BIN_EXE_rolegate-port"), backend_name(choice));
    let exit =
        |arguments: &str| net.node.sh(&format!("{program} {arguments} --backend {name} >/dev/null 2>&1 || echo $?"));
    // Each with how to end it, and how closing ends. Where nothing of ours is there, closing has nothing to do, unless what
    // is there in its place may send the port somewhere.
    let variant = name.split_once('-').map_or("", |(_, variant)| variant);
    let chain = |table: &str, chain: &str| {
        let begin = format!("iptables-{variant} -t {table}");
        (
            format!("{begin} -N {chain}; {begin} -A {chain} -p tcp --dport 1 -j ACCEPT"),
            format!("{begin} -F {chain}; {begin} -X {chain}"),
        )
    };
    let foreign = if choice == NFT {
        let input = "chain input { type filter hook input priority 0; tcp dport 1 drop; }";
        let nat = "chain nat { type nat hook prerouting priority dstnat; tcp dport 6381 redirect to :6379; }";
        [(input, ""), (nat, "7\n")].map(|(content, close)| {
            let make = format!("nft 'table inet rolegate {{ {content}; }}'");
            (make, "nft delete table inet rolegate".to_owned(), close)
        })
    } else {
        [(chain("filter", "ROLEGATE-IN"), ""), (chain("nat", "ROLEGATE"), "7\n")]
            .map(|((make, end), close)| (make, end, close))
    };
    for (make, end, close) in foreign {
        net.node.sh(&make);
        let before = ruleset(&net.node);
        for arguments in ["open rw --for 5s", "baseline", "state"] {
            assert_eq!(exit(arguments), "7\n", "{arguments}: {make}");
        }
        assert!(matches!(node.try_set(Want::Keep, Want::Open(LONG)), Err(GateError::Foreign(_))));
        assert_eq!(exit("close all"), close, "{make}");
        exit("remove");
        assert_eq!(ruleset(&net.node), before);
        net.node.sh(&end);
    }
    if choice != NFT {
        net.node.sh("ipset create rolegate-6381 hash:ip; ipset add rolegate-6381 192.0.2.1");
        let before = ruleset(&net.node);
        for arguments in ["open rw --for 5s", "baseline", "state"] {
            assert_eq!(exit(arguments), "7\n", "{arguments}");
        }
        for arguments in ["close all", "remove"] {
            assert_eq!(exit(arguments), "", "nothing of ours is there: {arguments}");
        }
        assert_eq!(ruleset(&net.node), before);
        // What cannot hold the port keeps nobody from closing.
        net.node.sh("ipset destroy rolegate-6381; ipset create rolegate-6381 bitmap:port range 1-100 timeout 0");
        assert_eq!(exit("close all"), "", "a set of other ports");
    }
}

fn without_root(choice: BackendChoice) {
    let net = Net::new();
    let node = Node::new(&net.node, choice);
    node.open();
    // Copied, for a user of nothing may not look into a home directory.
    let directory = tempfile::tempdir().expect("a directory");
    let program = directory.path().join("rolegate-port");
    std::fs::copy(env!("CARGO_BIN_EXE_rolegate-port"), &program).expect("a copy");
    sh(&format!("chmod 755 {} {}", directory.path().display(), program.display()));
    for arguments in ["state", "baseline", "open rw --for 5s", "close all", "remove"] {
        let script = format!(
            "setpriv --reuid 65534 --regid 65534 --clear-groups {} {arguments} --backend {} 2>&1 || echo $?",
            program.display(),
            backend_name(choice)
        );
        let said = net.node.sh(&script);
        assert!(said.ends_with("\n4\n") && said.contains("root"), "{arguments}: {said}");
    }
    node.is(true, true);
}

/// A script that runs the program where none of `programs` is installed; prints what it says and its exit code.
fn without(programs: &str, arguments: &str) -> String {
    let program = env!("CARGO_BIN_EXE_rolegate-port");
    let hide = format!(
        "for p in {programs}; do for d in /usr/sbin /usr/bin /sbin /bin; do \
         [ ! -e $d/$p ] || mount --bind /dev/null $(readlink -f $d/$p); done; done"
    );
    format!("unshare -m sh -ec '{hide}; {program} {arguments} 2>&1 || echo $?'")
}

const ALL_PROGRAMS: &str = "nft ipset xtables-nft-multi xtables-legacy-multi";

fn without_any_firewall_program() {
    let net = Net::new();
    for arguments in ["state", "baseline", "open rw --for 5s"] {
        let said = net.node.sh(&without(ALL_PROGRAMS, arguments));
        assert!(said.ends_with("\n5\n") && said.contains("nft"), "{arguments}: {said}");
    }
    assert!(net.node.sh(&without(ALL_PROGRAMS, "close all")).contains("rw 6381: closed"));

    // What is open can be closed all the same, on every backend, and even if the rules are not as they should be.
    let _redis = Redis::start(&net.node, 6379);
    let to = "10.1.0.1:6381".parse().unwrap();
    for (name, choice) in BACKENDS {
        for edit in
            ["true", "nft flush chain inet rolegate guard_in; iptables-nft -t raw -F; iptables-legacy -t raw -F"]
        {
            Node::new(&net.node, choice).open();
            let writer = Writer::start(&net.client, to);
            net.node.sh(&format!("({edit}) 2>/dev/null || true"));
            for backend in ["auto", name] {
                let said = net.node.sh(&without(ALL_PROGRAMS, &format!("close all --backend {backend}")));
                assert!(said.contains("\nrw 6381: closed\n"), "{name}, {edit}: {said}");
                writer.was_cut(Instant::now());
                net.client.refused(to);
            }
            net.node.run(|| Node::new(&net.node, choice).gate.remove()).expect("remove");
        }
    }
}

fn without_nft_iptables_serves() {
    let net = Net::new();
    let _redis = Redis::start(&net.node, 6379);
    let said = net.node.sh(&without("nft", "open all --for 5m"));
    assert!(said.starts_with("iptables-nft: intact\n"), "{said}");
    assert!(net.client.pings("10.1.0.1:6381".parse().unwrap()));
    let said = net.node.sh(&without("nft", "state"));
    assert!(said.contains("rw 6381: open"), "{said}");
    // With nft installed later, what is there is still found.
    let auto = Node::new(&net.node, BackendChoice::Auto);
    auto.is(true, true);
    auto.close();
    net.client.refused("10.1.0.1:6381".parse().unwrap());
}

/// Whatever the choice: it may have been another one when the port opened.
fn closing_closes_everywhere() {
    let net = Net::new();
    let _redis = Redis::start(&net.node, 6379);
    let to = "10.1.0.1:6381".parse().unwrap();
    let auto = Node::new(&net.node, BackendChoice::Auto);
    let backends = BACKENDS.map(|(_, choice)| Node::new(&net.node, choice));
    for used in [vec![0], vec![1], vec![2], vec![0, 1], vec![0, 2], vec![1, 2], vec![0, 1, 2]] {
        for closer in [&auto, &backends[0], &backends[1], &backends[2]] {
            for backend in &used {
                backends[*backend].open();
            }
            let writer = Writer::start(&net.client, to);
            closer.close();
            writer.was_cut(Instant::now());
            net.client.refused(to);
            for backend in &used {
                assert!(!backends[*backend].state().rw.is_open(), "{used:?}: {backend}");
            }
            net.node.run(|| auto.gate.remove()).expect("remove");
            let left = ruleset(&net.node);
            assert!(!left.contains("ROLEGATE") && !left.contains("rolegate"), "{used:?}: {left}");
        }
    }
}

fn the_program(choice: BackendChoice) {
    let net = Net::new();
    let _redis = Redis::start(&net.node, 6379);
    let program = env!("CARGO_BIN_EXE_rolegate-port");
    let name = backend_name(choice);
    let run = |arguments: &str| net.node.sh(&format!("{program} {arguments} --backend {name} 2>&1 || echo exit $?"));
    assert!(run("baseline").starts_with(&format!("{name}: intact\nro 6380: closed\nrw 6381: closed\n")));
    assert!(run("open rw --for 5m").contains("rw 6381: open to 6379 for "));
    assert!(net.node.pings(local(6381)));
    let json: serde_json::Value = serde_json::from_str(&run("state --json")).expect("JSON");
    assert_eq!((&json["backend"], &json["baseline"]), (&name.into(), &"intact".into()));
    assert_eq!((&json["rw"]["open"], &json["ro"]["open"]), (&true.into(), &false.into()));
    let subscriber = &mut net.node.connect(local(6381)).expect("open");
    subscriber.subscribe();
    assert!(run("close rw").contains("\nconnections cut: 1\n"));
    subscriber.is_reset(Duration::from_secs(2));
    for wrong in ["open rw", "open rw --for 0s", "open rw --for 2h", "open --for 5s", "close all --rw-port 6380", "fly"]
    {
        assert!(run(wrong).ends_with("exit 2\n"), "{wrong}: {}", run(wrong));
    }
    run("remove");
    assert!(run("state").starts_with(&format!("{name}: missing\n")));
}

fn ten_thousand_connections() {
    const COUNT: usize = 10_000;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("as many files as may be");
    let net = Net::new();
    let _redis = Redis::start(&net.node, 6379);
    let node = Node::new(&net.node, NFT);
    node.open();
    let to: SocketAddr = "10.1.0.1:6381".parse().unwrap();
    let mut clients = net
        .client
        .run(|| (0..COUNT).map(|_| std::net::TcpStream::connect_timeout(&to, SOON).expect("open")).collect::<Vec<_>>());
    let other = Writer::start(&net.client, "10.1.0.1:6380".parse().unwrap());
    let writer = Writer::start(&net.client, to);
    let started = Instant::now();
    let state = node.set(Want::Keep, Want::Close);
    let took = started.elapsed();
    writer.was_cut(started + took);
    let last = writer.seen().last_acknowledged.expect("it wrote").saturating_duration_since(started);
    assert_eq!(state.cut.expect("it closed").connections, COUNT + 1);
    for client in &mut clients {
        client.set_read_timeout(Some(SOON)).expect("a timeout");
        assert_eq!(client.read(&mut [0]).expect_err("reset").kind(), ErrorKind::ConnectionReset);
    }
    other.goes_on();
    println!("{COUNT} connections: last acknowledgement after {last:?}, all reset after {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

fn looking_and_renewing_is_cheap() {
    const ROUNDS: u32 = 200;
    let net = Net::new();
    let node = Node::new(&net.node, BackendChoice::Auto);
    let [mut look, mut renew] = [Vec::new(), Vec::new()];
    node.open();
    net.node.run(|| {
        for _ in 0..ROUNDS {
            let started = Instant::now();
            node.gate.state().expect("state");
            look.push(started.elapsed());
            let started = Instant::now();
            node.gate.set(Desired { ro: Want::Open(LONG), rw: Want::Open(LONG) }).expect("renewed");
            renew.push(started.elapsed());
            // As a monitor does, and not against what the kernel still has to free from the last time.
            thread::sleep(Duration::from_millis(5));
        }
    });
    let median = |times: &mut Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let (look, renew) = (median(&mut look), median(&mut renew));
    println!("median of {ROUNDS}: state {look:?}, renewal {renew:?}");
    // An nft process takes longer than both.
    assert!(look + renew < Duration::from_millis(10), "{look:?}, {renew:?}");
}
