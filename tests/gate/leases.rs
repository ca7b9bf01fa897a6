//! Leases on real firewalls: arm, ask, swap, and everything that may come in between.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rolegate::gate::{
    Armed, BackendChoice, Baseline, Desired, GateError, Held, Leasing, PortState, Ports, Swap, Swapped, Want,
};

use super::support::{Net, Ns, Redis, Writer, eventually};
use super::{
    Case, IPTABLES_LEGACY, LONG, NFT, Node, backend_name, flush, locked, ruleset, ruleset_of_others, save, without,
};

/// Each case on every backend.
pub const EVERYWHERE: &[Case<BackendChoice>] = &[
    ("an_arm_that_ran_out_opens_nothing", an_arm_that_ran_out_opens_nothing),
    ("a_lapsed_lease_is_not_renewed", a_lapsed_lease_is_not_renewed),
    ("an_open_port_is_not_acquired", an_open_port_is_not_acquired),
    ("whatever_closes_withdraws", whatever_closes_withdraws),
    ("closing_against_renewals_without_pause", closing_against_renewals),
    ("the_next_holder_takes_the_arms_and_leaves_the_port", the_next_holder),
    ("renewals_without_pause_cut_nobody", renewals_cut_nobody),
    ("leases_touch_nothing_else", leases_touch_nothing_else),
    ("a_saved_ruleset_with_arms_opens_nothing", a_saved_ruleset_opens_nothing),
    ("a_broken_firewall_is_not_leased_until_repaired", a_broken_firewall),
    ("what_is_open_for_reading_is_extended_and_nothing_is_opened", extending),
    ("closing_against_extensions_without_pause", closing_against_extensions),
    ("tending_what_does_not_change_needs_no_program", tending_needs_no_program),
    ("random_holders_agree_with_the_model", random_holders),
    ("arming_and_swapping_is_cheap", arming_and_swapping_is_cheap),
];

/// A lease and its question for what is not about time, on a machine however busy.
const LEASE: Duration = Duration::from_secs(60);
const ASK: Duration = Duration::from_secs(30);
/// For what waits for the end of one, but not of the other.
const BRISK: Duration = Duration::from_secs(5);
const BRISK_ASK: Duration = Duration::from_secs(2);
/// For what waits for both.
const SHORT: Duration = Duration::from_secs(3);
const SHORT_ASK: Duration = Duration::from_millis(1200);
/// How much a timeout may be off: the kernel's clock ticks every 4 or 10 ms.
const TICK: Duration = Duration::from_millis(20);

const RW: &str = "10.1.0.1:6381";

impl Node<'_> {
    fn leasing(&self) -> Leasing {
        self.ns.run(|| self.gate.leasing()).expect("the right to lease")
    }

    fn close_rw(&self) {
        self.set(Want::Keep, Want::Close);
    }
}

fn arm(leasing: &mut Leasing) -> Armed {
    leasing.arm(LEASE, ASK).expect("armed")
}

fn lease(leasing: &mut Leasing, kind: Swap) -> Swapped {
    let armed = arm(leasing);
    leasing.swap(armed, kind).expect("swapped or not")
}

fn look(leasing: &mut Leasing) -> Held {
    leasing.look().expect("a look")
}

fn rw() -> SocketAddr {
    RW.parse().expect("an address")
}

fn an_arm_that_ran_out_opens_nothing(choice: BackendChoice) {
    let net = Net::new();
    let _redis = Redis::start(&net.node, 6379);
    let node = Node::new(&net.node, choice);
    let mut leasing = node.leasing();
    assert!(look(&mut leasing).is_nothing());
    // The kernel frees what has run out once a second: before and after that.
    for late in [Duration::from_millis(5), Duration::from_millis(1100)] {
        let armed = leasing.arm(SHORT, SHORT_ASK).expect("armed");
        assert_eq!(look(&mut leasing), Held { open: None, armed: true, withdrawn: false });
        thread::sleep(SHORT_ASK + late);
        assert_eq!(leasing.swap(armed, Swap::Acquire).expect("an answer"), Swapped::Lapsed, "{late:?}");
        assert_eq!(look(&mut leasing).open, None);
        net.client.refused(rw());
    }
    node.is(false, false);

    // In time it opens, and for no longer than was left.
    let begun = Instant::now();
    let armed = leasing.arm(BRISK, BRISK_ASK).expect("armed");
    thread::sleep(BRISK_ASK / 4);
    assert_eq!(leasing.swap(armed, Swap::Acquire).expect("an answer"), Swapped::Open);
    let left = look(&mut leasing).open.expect("open");
    assert!(left <= BRISK - BRISK_ASK + TICK || choice != NFT, "{left:?}");
    let writer = Writer::start(&net.client, rw());
    writer.was_cut(begun + BRISK + TICK);
    net.client.refused(rw());
    assert!(look(&mut leasing).is_nothing());

    // Dropped, it cannot be swapped either, and there is nothing any more.
    let armed = arm(&mut leasing);
    leasing.disarm().expect("disarmed");
    assert!(look(&mut leasing).is_nothing());
    assert_eq!(leasing.swap(armed, Swap::Acquire).expect("an answer"), Swapped::Lapsed);
    net.client.refused(rw());

    if choice != NFT {
        // Stopped between the last look and the swap for as long as the lease: what is swapped in is over.
        let _unused = leasing.arm(SHORT, SHORT_ASK).expect("armed");
        thread::sleep(SHORT + TICK);
        net.node.sh("ipset swap $(ipset list -n | grep rolegate-6381-) rolegate-6381");
        net.client.refused(rw());
    }
}

fn a_lapsed_lease_is_not_renewed(choice: BackendChoice) {
    let net = Net::new();
    let _redis = Redis::start(&net.node, 6379);
    let node = Node::new(&net.node, choice);
    let mut leasing = node.leasing();
    let mut short = |kind, wait| {
        let armed = leasing.arm(SHORT, SHORT_ASK).expect("armed");
        thread::sleep(wait);
        leasing.swap(armed, kind).expect("an answer")
    };
    let now = Duration::ZERO;
    assert_eq!(short(Swap::Renew, now), Swapped::Lapsed, "there is nothing to renew");
    net.client.refused(rw());
    // Each time the element that ran out is still to be freed by the kernel, or may be.
    for _ in 0..3 {
        assert_eq!(short(Swap::Acquire, now), Swapped::Open, "what ran out is in nobody's way");
        assert_eq!(short(Swap::Renew, now), Swapped::Open);
        let open_until = Instant::now() + SHORT;
        let writer = Writer::start(&net.client, rw());
        thread::sleep((open_until + TICK).saturating_duration_since(Instant::now()));
        assert_eq!(short(Swap::Renew, now), Swapped::Lapsed);
        writer.was_cut(open_until + TICK);
        net.client.refused(rw());
    }
    // The lease runs out between the arm and the swap.
    assert_eq!(short(Swap::Acquire, now), Swapped::Open);
    thread::sleep(SHORT - SHORT_ASK / 2);
    assert_eq!(short(Swap::Renew, SHORT_ASK - TICK), Swapped::Lapsed);
    net.client.refused(rw());
    node.is(false, false);
}

fn an_open_port_is_not_acquired(choice: BackendChoice) {
    let ns = Ns::new("node");
    let node = Node::new(&ns, choice);
    let mut leasing = node.leasing();
    node.set(Want::Keep, Want::Open(LONG));
    assert_eq!(lease(&mut leasing, Swap::Acquire), Swapped::AlreadyOpen);
    // What somebody opened by hand for longer becomes a lease, and ends as one.
    let left = look(&mut leasing).open.expect("open");
    assert!(left > LONG - Duration::from_secs(10), "{left:?}");
    assert_eq!(lease(&mut leasing, Swap::Renew), Swapped::Open);
    let left = look(&mut leasing).open.expect("open");
    assert!(left <= LEASE, "{left:?}");
    let one = Duration::from_millis(1);
    for (lease, ask) in [(LEASE, LEASE), (LEASE, one), (one, one), (2 * LONG * 60, ASK), (ASK, LEASE)] {
        assert!(matches!(leasing.arm(lease, ask), Err(GateError::Time { .. })), "{lease:?}, {ask:?}");
    }
}

type Close<'a> = Box<dyn Fn() + 'a>;

fn whatever_closes_withdraws(choice: BackendChoice) {
    let net = Net::new();
    let _redis = Redis::start(&net.node, 6379);
    let node = Node::new(&net.node, choice);
    let auto = Node::new(&net.node, BackendChoice::Auto);
    let program = env!("CARGO_BIN_EXE_rolegate-port");
    let name = backend_name(choice);
    let mut closings: Vec<(&str, Close)> = vec![
        ("a caller", Box::new(|| node.close_rw())),
        ("a caller of any backend", Box::new(|| auto.close_rw())),
        ("a removal", Box::new(|| net.node.run(|| node.gate.remove()).expect("remove"))),
        ("the program", Box::new(|| drop(net.node.sh(&format!("{program} close rw --backend {name}"))))),
        ("without programs", Box::new(|| drop(net.node.sh(&without(super::ALL_PROGRAMS, "close rw"))))),
    ];
    if choice == NFT {
        closings.push(("a flush", Box::new(|| drop(net.node.sh(flush(choice))))));
        closings.push(("a dormant table", {
            let edit = "nft add table inet rolegate '{ flags dormant; }'";
            let node = &node;
            let ns = &net.node;
            Box::new(move || {
                ns.sh(edit);
                node.close_rw();
            })
        }));
    }
    for (closer, close) in closings {
        // Armed to acquire, and to renew; the closing finds nothing open, or something.
        for kind in [Swap::Acquire, Swap::Renew] {
            let mut leasing = node.leasing();
            if kind == Swap::Renew {
                assert_eq!(lease(&mut leasing, Swap::Acquire), Swapped::Open, "{closer}");
            }
            let armed = arm(&mut leasing);
            close();
            net.client.refused(rw());
            assert_eq!(leasing.swap(armed, kind).expect("an answer"), Swapped::Withdrawn, "{closer}, {kind:?}");
            assert!(matches!(leasing.arm(LEASE, ASK), Err(GateError::Withdrawn)), "{closer}");
            assert_eq!(look(&mut leasing), Held { open: None, armed: false, withdrawn: true }, "{closer}");
            leasing.disarm().expect("there is nothing");
            net.client.refused(rw());
            // The right that is given anew gives nothing to the old holder.
            let mut next = node.leasing();
            assert!(matches!(leasing.arm(LEASE, ASK), Err(GateError::Withdrawn)), "{closer}");
            assert_eq!(lease(&mut next, Swap::Acquire), Swapped::Open, "{closer}");
            assert!(net.client.pings(rw()), "{closer}");
            node.close_rw();
        }
    }
    // Nothing of the arms is left, and the read-only port's closing is nobody's loss.
    let left = ruleset(&net.node);
    assert!(!left.contains("arm-") && !left.contains("rolegate-6381-"), "{left}");
    let mut leasing = node.leasing();
    let armed = arm(&mut leasing);
    node.set(Want::Close, Want::Keep);
    node.baseline();
    assert_eq!(leasing.swap(armed, Swap::Acquire).expect("an answer"), Swapped::Open);
}

fn closing_against_renewals(choice: BackendChoice) {
    let net = Net::new();
    let _redis = Redis::start(&net.node, 6379);
    let node = Node::new(&net.node, choice);
    for round in 0..12 {
        let mut leasing = node.leasing();
        assert_eq!(lease(&mut leasing, Swap::Acquire), Swapped::Open);
        let begun = AtomicBool::new(false);
        thread::scope(|scope| {
            let holder = scope.spawn(|| {
                let mut renewals = 0;
                loop {
                    let outcome = match leasing.arm(LEASE, ASK) {
                        Ok(armed) => leasing.swap(armed, Swap::Renew).expect("an answer"),
                        Err(GateError::Withdrawn) => Swapped::Withdrawn,
                        Err(error) => panic!("{error:?}"),
                    };
                    match outcome {
                        Swapped::Open => renewals += 1,
                        Swapped::Withdrawn => return renewals,
                        other => panic!("{other:?}"),
                    }
                    begun.store(renewals > 20, Ordering::Relaxed);
                }
            });
            eventually("renewals", || begun.load(Ordering::Relaxed));
            thread::sleep(Duration::from_micros(700 * round));
            // As a demotion does, or a fence.
            node.set(if round % 2 == 0 { Want::Open(LONG) } else { Want::Close }, Want::Close);
            net.client.refused(rw());
            assert!(!node.state().rw.is_open());
            assert!(holder.join().expect("no panic") > 20);
            net.client.refused(rw());
            assert!(!node.state().rw.is_open());
        });
    }
}

fn the_next_holder(choice: BackendChoice) {
    let net = Net::new();
    let _redis = Redis::start(&net.node, 6379);
    let node = Node::new(&net.node, choice);
    let mut first = node.leasing();
    assert_eq!(lease(&mut first, Swap::Acquire), Swapped::Open);
    let writer = Writer::start(&net.client, rw());
    let armed = arm(&mut first);
    let mut second = node.leasing();
    assert!(look(&mut second).open.is_some(), "a keeper's restart costs nothing");
    assert!(!look(&mut second).armed, "nothing of the first is left");
    assert_eq!(first.swap(armed, Swap::Renew).expect("an answer"), Swapped::Withdrawn);
    assert!(matches!(first.arm(LEASE, ASK), Err(GateError::Withdrawn)));
    assert!(look(&mut first).withdrawn);
    assert_eq!(lease(&mut second, Swap::Renew), Swapped::Open);
    writer.goes_on();

    // An arm is its holder's alone, even where both count alike.
    let mut third = node.leasing();
    let [foreign, own] = [arm(&mut third), arm(&mut third)];
    let mut fourth = node.leasing();
    let _same_count = [arm(&mut fourth), arm(&mut fourth)];
    for armed in [foreign, own] {
        assert_eq!(fourth.swap(armed, Swap::Renew).expect("an answer"), Swapped::Withdrawn);
    }
    // Of a holder's own arms the one asked with counts; on ipset a later one has taken its place.
    let [older, newer] = [arm(&mut fourth), arm(&mut fourth)];
    let older = fourth.swap(older, Swap::Renew).expect("an answer");
    assert_eq!(older, if choice == NFT { Swapped::Open } else { Swapped::Lapsed });
    assert_eq!(fourth.swap(newer, Swap::Renew).expect("an answer"), Swapped::Open);
    writer.goes_on();
}

fn renewals_cut_nobody(choice: BackendChoice) {
    let net = Net::new();
    let _redis = Redis::start(&net.node, 6379);
    let node = Node::new(&net.node, choice);
    let mut leasing = node.leasing();
    assert_eq!(lease(&mut leasing, Swap::Acquire), Swapped::Open);
    let writers: Vec<Writer> =
        net.ways().into_iter().map(|(from, address)| Writer::start(from, SocketAddr::new(address, 6381))).collect();
    let mut asleep = net.client.connect(rw()).expect("open");
    assert!(asleep.pings());
    for _ in 0..200 {
        assert_eq!(lease(&mut leasing, Swap::Renew), Swapped::Open);
    }
    // While others change the firewall all the time, too.
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            for _ in 0..8 {
                net.node.sh(
                    "nft add table ip site; nft delete table ip site; ipset create site hash:ip; ipset destroy site",
                );
            }
        });
        while !other.is_finished() {
            assert_eq!(lease(&mut leasing, Swap::Renew), Swapped::Open);
            thread::sleep(Duration::from_millis(5));
        }
    });
    for writer in &writers {
        writer.goes_on();
    }
    assert!(asleep.pings());
    // The last one lasts as long as it says.
    let armed = leasing.arm(BRISK, BRISK_ASK).expect("armed");
    assert_eq!(leasing.swap(armed, Swap::Renew).expect("an answer"), Swapped::Open);
    let last = Instant::now();
    for writer in &writers {
        writer.was_cut(last + BRISK + TICK);
    }
}

fn leases_touch_nothing_else(choice: BackendChoice) {
    let net = Net::new();
    let _redis = [Redis::start(&net.node, 6379), Redis::start(&net.node, 7379)];
    let node = Node::new(&net.node, choice);
    let other = Node::on(&net.node, choice, Ports::new(7380, 7381, 7379).unwrap());
    net.node.sh("nft 'table inet site { set x { type mark; flags timeout; elements = { 1 }; }; chain y { tcp dport 6381 drop; }; }'; \
                 ipset create site bitmap:port range 6379-6381 timeout 0; ipset add site 6381");
    other.open();
    node.set(Want::Open(LONG), Want::Keep);
    let mut others = other.leasing();
    let kept = [
        Writer::start(&net.client, "10.1.0.1:7381".parse().unwrap()),
        Writer::start(&net.client, "10.1.0.1:6380".parse().unwrap()),
    ];
    let before = ruleset_of_others(&net.node, choice);
    let mut leasing = node.leasing();
    assert_eq!(lease(&mut leasing, Swap::Acquire), Swapped::Open);
    for _ in 0..20 {
        assert_eq!(lease(&mut leasing, Swap::Renew), Swapped::Open);
    }
    let armed = arm(&mut leasing);
    assert_eq!(ruleset_of_others(&net.node, choice), before);
    for gate in [&node, &other] {
        assert_eq!(gate.state().baseline, Baseline::Intact);
    }
    assert_eq!(leasing.swap(armed, Swap::Renew).expect("an answer"), Swapped::Open);
    node.close_rw();
    net.node.run(|| node.gate.remove()).expect("remove");
    assert_eq!(ruleset_of_others(&net.node, choice), before);
    // The other gate's holder has lost nothing.
    assert_eq!(lease(&mut others, Swap::Renew), Swapped::Open);
    other.is(true, true);
    kept[0].goes_on();
    kept[1].was_cut(Instant::now());
    net.node.run(|| other.gate.remove()).expect("remove");
    let left = ruleset(&net.node);
    assert!(!left.contains("arm-") && !left.contains("rolegate"), "{left}");
}

fn a_saved_ruleset_opens_nothing(choice: BackendChoice) {
    let net = Net::new();
    let _redis = Redis::start(&net.node, 6379);
    let node = Node::new(&net.node, choice);
    let mut leasing = node.leasing();
    let _armed = leasing.arm(LONG, LONG / 2).expect("armed");
    let saved = save(&net.node, choice);
    assert!(saved.contains(if choice == NFT { "arm-6381-" } else { "rolegate-6381-" }), "{saved}");
    net.node.sh(flush(choice));
    net.node.sh("ipset list -n | xargs -rn1 ipset destroy");
    net.node.sh(&saved);
    node.is(false, false);
    net.client.refused(rw());
    // It is known for what it is, and goes.
    let mut next = node.leasing();
    assert!(look(&mut next).is_nothing());
    assert_eq!(lease(&mut next, Swap::Acquire), Swapped::Open);
    node.close_rw();
    let left = ruleset(&net.node);
    assert!(!left.contains("arm-") && !left.contains("rolegate-6381-"), "{left}");
}

fn a_broken_firewall(choice: BackendChoice) {
    let net = Net::new();
    let _redis = Redis::start(&net.node, 6379);
    let node = Node::new(&net.node, choice);
    let mut leasing = node.leasing();
    assert_eq!(lease(&mut leasing, Swap::Acquire), Swapped::Open);
    let writer = Writer::start(&net.client, rw());
    if choice != NFT {
        // Rules are seen by who reads them; without its set the port cannot open.
        net.node.sh("iptables-nft -t nat -F; iptables-nft -t raw -F; iptables-nft -F; iptables-legacy -t nat -F; \
                     iptables-legacy -t raw -F; iptables-legacy -F; ip6tables-nft -F; ip6tables-nft -t raw -F; ip6tables-nft -t nat -F; \
                     ip6tables-legacy -F; ip6tables-legacy -t raw -F; ip6tables-legacy -t nat -F; ipset destroy rolegate-6381");
        let armed = arm(&mut leasing);
        assert_ne!(leasing.swap(armed, Swap::Renew).ok(), Some(Swapped::Open));
        return;
    }
    for edit in ["nft flush chain inet rolegate guard_in", "nft delete element inet rolegate gated '{ 6381 }'"] {
        let armed = arm(&mut leasing);
        net.node.sh(edit);
        assert!(matches!(leasing.swap(armed, Swap::Renew), Err(GateError::Mismatch(_))), "{edit}");
        assert!(matches!(leasing.arm(LEASE, ASK), Err(GateError::Mismatch(_))), "{edit}");
        node.baseline();
        assert_eq!(lease(&mut leasing, Swap::Renew), Swapped::Open, "{edit}");
    }
    writer.goes_on();
    // A set that only has a name like ours is seen, and the table made anew.
    net.node.sh("nft add set inet rolegate arm-6381-1 '{ type mark; }'");
    assert!(matches!(node.state().baseline, Baseline::Edited(_)));
    node.baseline();
    assert!(matches!(leasing.arm(LEASE, ASK), Err(GateError::Withdrawn)));
    net.client.refused(rw());
}

fn extends(leasing: &mut Leasing) -> bool {
    leasing.extend(LONG).expect("an answer")
}

fn untouched(leasing: &mut Leasing) -> bool {
    leasing.is_untouched().expect("an answer")
}

/// How an edit is made that only iptables and ipset, or only nft, make.
fn by<'a>(choice: BackendChoice, nft: &'a str, iptables: &'a str) -> &'a str {
    if choice == NFT { nft } else { iptables }
}

fn extending(choice: BackendChoice) {
    let net = Net::new();
    let _redis = Redis::start(&net.node, 6379);
    let node = Node::new(&net.node, choice);
    let ro: SocketAddr = "10.1.0.1:6380".parse().expect("an address");
    let mut leasing = node.leasing();
    assert!(!extends(&mut leasing) && !untouched(&mut leasing));
    node.is(false, false);
    node.set(Want::Open(BRISK), Want::Keep);
    for time in [Duration::ZERO, Duration::from_millis(1), 2 * rolegate::gate::LONGEST] {
        assert!(matches!(leasing.extend(time), Err(GateError::Time { .. })), "{time:?}");
    }
    if choice == IPTABLES_LEGACY {
        assert!(!extends(&mut leasing) && !untouched(&mut leasing), "left to who reads the rules");
        return;
    }
    let reader = Writer::start(&net.client, ro);
    assert!(!untouched(&mut leasing), "not extended yet");
    assert!(extends(&mut leasing) && untouched(&mut leasing));
    let lasts = |node: &Node| match node.state().ro {
        PortState::Open { remaining } => remaining,
        PortState::Closed => Duration::ZERO,
    };
    assert!(lasts(&node) > LONG - BRISK && lasts(&node) <= LONG);
    assert_eq!(lease(&mut leasing, Swap::Acquire), Swapped::Open);
    assert!(untouched(&mut leasing), "a lease is nobody else's change");
    thread::sleep(BRISK + TICK);
    reader.goes_on();

    // A stranger's change is seen, also behind a lease that has found the table right since.
    net.node.sh("nft add table inet stranger");
    assert!(!untouched(&mut leasing));
    assert_eq!(lease(&mut leasing, Swap::Renew), Swapped::Open);
    assert!(!untouched(&mut leasing));
    if choice != NFT {
        assert!(!extends(&mut leasing), "left to who reads the rules");
        let read = || net.node.run(|| node.gate.reading());
        let by = |reading| net.node.run(|| node.gate.state_by(&reading)).expect("state").baseline;
        // What was read before another change says nothing about now.
        let older = read();
        net.node.sh("nft delete table inet stranger");
        assert_eq!(by(older), Baseline::Intact);
        assert!(!extends(&mut leasing));
        assert_eq!(by(read()), Baseline::Intact);
    }
    assert!(extends(&mut leasing) && untouched(&mut leasing));
    reader.goes_on();

    // What is closed stays closed, however it was.
    for close in [
        by(choice, "nft delete element inet rolegate open '{ 6380 }'", "ipset del rolegate-6380 6380"),
        by(choice, "nft flush set inet rolegate open", "ipset flush rolegate-6380"),
    ] {
        net.node.sh(close);
        assert!(!untouched(&mut leasing) && !extends(&mut leasing) && !untouched(&mut leasing), "{close}");
        net.client.refused(ro);
        node.set(Want::Open(LONG), Want::Open(LONG));
        assert!(extends(&mut leasing) && untouched(&mut leasing), "{close}");
    }
    for _ in 0..3 {
        node.set(Want::Close, Want::Keep);
        assert!(!untouched(&mut leasing) && !extends(&mut leasing));
        net.client.refused(ro);
        node.is(false, true);
        // Before the kernel frees what has run out, and after.
        for late in [TICK, Duration::from_millis(1100)] {
            node.set(Want::Open(Duration::from_secs(1)), Want::Keep);
            thread::sleep(Duration::from_secs(1) + late);
            assert!(!extends(&mut leasing));
            net.client.refused(ro);
        }
        node.is(false, true);
        node.set(Want::Open(LONG), Want::Keep);
        assert!(extends(&mut leasing) && untouched(&mut leasing), "opened anew it is extended anew");
    }
    // A shorter time is somebody's change, too.
    node.set(Want::Open(BRISK), Want::Keep);
    assert!(!untouched(&mut leasing) && extends(&mut leasing) && untouched(&mut leasing));

    // Nothing is extended on rules that somebody has edited, or flushed.
    let edits = by(
        choice,
        "nft flush chain inet rolegate guard_in",
        "iptables-nft -F ROLEGATE-IN\nip6tables-nft -t nat -D PREROUTING 1\nipset del rolegate-gated 6380\n\
         ipset del rolegate-redis 6379\nipset flush rolegate-gated\n\
         ipset create other bitmap:port range 6379-6380; ipset add other 6380; ipset add other 6379; \
         ipset swap other rolegate-6380; ipset destroy other\n\
         ipset add rolegate-6380 6380 timeout 0 -exist\nipset add rolegate-6381 6381 timeout 0 -exist\n\
         ipset del rolegate-6380 6379",
    );
    for edit in edits.lines() {
        net.node.sh(edit);
        assert!(!untouched(&mut leasing), "{edit}");
        // What has no rules is seen by its own element's end.
        if !edit.ends_with("del rolegate-6380 6379") {
            assert_ne!(leasing.extend(LONG).ok(), Some(true), "{edit}");
            assert!(!untouched(&mut leasing), "{edit}");
            node.set(Want::Open(LONG), Want::Keep);
        }
        assert!(extends(&mut leasing) && untouched(&mut leasing), "{edit}");
        assert!(net.client.pings(ro), "{edit}");
    }
    net.node.sh(flush(choice));
    assert!(!untouched(&mut leasing) && leasing.extend(LONG).ok() != Some(true));
    net.client.refused(ro);
    node.set(Want::Open(LONG), Want::Keep);

    // The next holder extends what the one before has, and a removal leaves nothing behind.
    let mut leasing = node.leasing();
    assert!(!untouched(&mut leasing) && extends(&mut leasing) && untouched(&mut leasing));
    net.node.run(|| node.gate.remove()).expect("remove");
    assert!(!untouched(&mut leasing) && leasing.extend(LONG).ok() != Some(true));
    let left = ruleset(&net.node);
    assert!(!left.contains("rolegate"), "{left}");
}

fn closing_against_extensions(choice: BackendChoice) {
    if choice == IPTABLES_LEGACY {
        return;
    }
    let net = Net::new();
    let _redis = Redis::start(&net.node, 6379);
    let node = Node::new(&net.node, choice);
    let ro: SocketAddr = "10.1.0.1:6380".parse().expect("an address");
    let mut leasing = node.leasing();
    for round in 0..24 {
        node.set(Want::Open(LONG), Want::Keep);
        let [begun, closed] = [(); 2].map(|()| AtomicBool::new(false));
        thread::scope(|scope| {
            // It goes on trying, as the keeper does: what is closed stays so.
            let extender = scope.spawn(|| {
                let (mut extensions, mut refused) = (0, 0);
                while refused < 20 {
                    let was_closed = closed.load(Ordering::SeqCst);
                    let extended = extends(&mut leasing);
                    assert!(!was_closed || !extended, "round {round}");
                    extensions += u32::from(extended);
                    refused += u32::from(was_closed);
                    begun.store(extensions > 20, Ordering::Relaxed);
                }
            });
            eventually("extensions", || begun.load(Ordering::Relaxed));
            thread::sleep(Duration::from_micros(700 * (round % 12)));
            let shut = Desired { ro: Want::Close, rw: Want::Keep };
            // With the lock and without it.
            match round % 3 {
                0 => node.set(shut.ro, shut.rw),
                1 => net.node.run(|| node.gate.shut(shut)).expect("shut"),
                // Without the lock.
                _ => locked(|| node.set(shut.ro, shut.rw)),
            };
            closed.store(true, Ordering::SeqCst);
            net.client.refused(ro);
            extender.join().expect("no panic");
            net.client.refused(ro);
            node.is(false, false);
        });
    }
}

/// While nothing changes, no program is run.
fn tending_needs_no_program(choice: BackendChoice) {
    let ns = Ns::new("node");
    let node = Node::new(&ns, choice);
    let mut leasing = node.leasing();
    node.set(Want::Open(LONG), Want::Keep);
    assert_eq!(lease(&mut leasing, Swap::Acquire), Swapped::Open);
    ns.sh("for p in nft ipset xtables-nft-multi xtables-legacy-multi; do for d in /usr/sbin /usr/bin /sbin /bin; do \
           [ ! -e $d/$p ] || mount --bind /dev/null $(readlink -f $d/$p); done; done");
    let needs_programs = choice == IPTABLES_LEGACY;
    if choice != NFT {
        ns.run(|| node.gate.state()).expect_err("there is no program");
    }
    for _ in 0..20 {
        assert_eq!(lease(&mut leasing, Swap::Renew), Swapped::Open);
        assert_eq!(extends(&mut leasing), !needs_programs);
        assert_eq!(untouched(&mut leasing), !needs_programs);
    }
}

/// A generator of numbers that depends on nothing but its seed (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % end
    }
}

/// A moment that lies between two that were measured.
#[derive(Debug, Clone, Copy)]
struct Between {
    earliest: Instant,
    latest: Instant,
}

impl Between {
    fn of<T>(step: impl FnOnce() -> T) -> (T, Self) {
        let earliest = Instant::now();
        let result = step();
        (result, Between { earliest, latest: Instant::now() })
    }

    fn plus(self, time: Duration) -> Self {
        Between { earliest: self.earliest + time, latest: self.latest + time }
    }

    /// Whether it may be before `other`, as exactly as the kernel's clock is.
    fn may_precede(self, other: Self) -> bool {
        self.earliest <= other.latest + TICK
    }
}

/// What may be open until when, and who may open it: the rules, without any firewall.
#[derive(Debug, Default)]
struct Model {
    /// The holder that has the right, by its number.
    right: Option<u64>,
    /// When the port closes by itself.
    open: Option<Between>,
}

impl Model {
    fn may_be_open(&self, at: Between) -> bool {
        self.open.is_some_and(|until| at.may_precede(until))
    }

    fn may_be_closed(&self, at: Between) -> bool {
        self.open.is_none_or(|until| until.may_precede(at))
    }
}

/// An arm as the model knows it.
struct Kept {
    armed: Armed,
    at: Between,
    /// Whether the holder armed again since.
    replaced: bool,
}

struct Holder {
    leasing: Leasing,
    number: u64,
    arms: Vec<Kept>,
}

fn random_holders(choice: BackendChoice) {
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock").as_nanos() as u64;
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(seed);
    println!("{}::random_holders: SEED={seed}", backend_name(choice));
    let mut random = Random(seed);
    let ns = Ns::new("model");
    let node = Node::new(&ns, choice);
    // Renewals in time and too late, and arms too.
    let (lease, ask) = if choice == NFT { (500, 200) } else { (1000, 250) };
    let (lease, ask) = (Duration::from_millis(lease), Duration::from_millis(ask));
    let mut model = Model::default();
    let mut holders: [Option<Holder>; 2] = [None, None];
    let (mut opened, mut steps, mut next) = (0, Vec::new(), 0);
    let until = Instant::now() + Duration::from_secs(12);
    while Instant::now() < until {
        let mut which = random.below(2) as usize;
        let step = random.below(100);
        let has_right = |holder: &Option<Holder>| holder.as_ref().is_some_and(|h| model.right == Some(h.number));
        if random.below(4) > 0 {
            which = holders.iter().position(has_right).unwrap_or(which);
        }
        if step < if model.right.is_none() { 30 } else { 2 } {
            let (leasing, _) = Between::of(|| node.leasing());
            next += 1;
            model.right = Some(next);
            holders[which] = Some(Holder { leasing, number: next, arms: Vec::new() });
            steps.push(format!("{which} leases"));
        } else if step < 4 {
            node.close_rw();
            model = Model::default();
            steps.push("close".to_owned());
        } else if step < 30 {
            // Short ones, and some over the end of an arm or a lease.
            let most = if random.below(3) == 0 { lease * 5 / 4 } else { ask };
            let time = Duration::from_micros(random.below(most.as_micros() as u64));
            thread::sleep(time);
            steps.push(format!("sleep {time:?}"));
        } else if let Some(holder) = &mut holders[which] {
            let has_right = model.right == Some(holder.number);
            if step < 65 || holder.arms.is_empty() {
                let (armed, at) = Between::of(|| holder.leasing.arm(lease, ask));
                steps.push(format!("{which} arms: {armed:?}"));
                match armed {
                    Ok(armed) => {
                        assert!(has_right, "{seed}: {steps:#?}");
                        holder.arms.iter_mut().for_each(|kept| kept.replaced = choice != NFT);
                        holder.arms.push(Kept { armed, at, replaced: false });
                    }
                    Err(GateError::Withdrawn) => assert!(!has_right, "{seed}: {steps:#?}"),
                    Err(error) => panic!("{error:?}, {seed}: {steps:#?}"),
                }
            } else {
                let index = random.below(holder.arms.len() as u64) as usize;
                let Kept { armed, at, replaced } = holder.arms.remove(index);
                let sensible = if model.open.is_some_and(|until| until.latest > Instant::now()) { 1 } else { 9 };
                let kind = if random.below(10) < sensible { Swap::Acquire } else { Swap::Renew };
                let (swapped, now) = Between::of(|| holder.leasing.swap(armed, kind).expect("an answer"));
                steps.push(format!("{which} swaps {:?} old, {kind:?}: {swapped:?}", now.earliest - at.earliest));
                let arm_until = at.plus(ask);
                let possible = match swapped {
                    Swapped::Open => {
                        let can = if kind == Swap::Renew { model.may_be_open(now) } else { model.may_be_closed(now) };
                        has_right && !replaced && now.may_precede(arm_until) && can
                    }
                    Swapped::Lapsed => {
                        let gone = kind == Swap::Renew && model.may_be_closed(now);
                        has_right && (replaced || arm_until.may_precede(now) || gone)
                    }
                    Swapped::AlreadyOpen => has_right && kind == Swap::Acquire && model.may_be_open(now),
                    Swapped::Withdrawn => !has_right,
                };
                assert!(possible, "{seed}, {model:?}: {steps:#?}");
                if swapped == Swapped::Open {
                    opened += 1;
                    model.open = Some(if choice == NFT { now.plus(lease - ask) } else { at.plus(lease) });
                }
                // What was not used up may still be there, so it may be used up now.
                if choice != NFT {
                    holder.arms.clear();
                }
            }
        }
        // What the firewall says is possible by the model, and lasts no longer.
        if let Some(holder) = &mut holders[which] {
            let (held, now) = Between::of(|| look(&mut holder.leasing));
            match held.open {
                Some(left) => {
                    assert!(model.may_be_open(now), "open: {held:?}, {seed}, {model:?}: {steps:#?}");
                    let end = model.open.expect("open").latest + TICK;
                    assert!(choice != NFT || now.earliest + left <= end, "{held:?}, {seed}, {model:?}: {steps:#?}");
                }
                None => assert!(model.may_be_closed(now), "closed: {held:?}, {seed}, {model:?}: {steps:#?}"),
            }
            assert_eq!(held.withdrawn, model.right != Some(holder.number), "{seed}: {steps:#?}");
        }
    }
    println!("{}: {} steps opened {opened} times", backend_name(choice), steps.len());
    assert!(opened > 0, "{seed}: {steps:#?}");
}

fn arming_and_swapping_is_cheap(choice: BackendChoice) {
    const ROUNDS: usize = 1000;
    let ns = Ns::new("node");
    let node = Node::new(&ns, choice);
    let started = Instant::now();
    (0..20).for_each(|_| drop(node.leasing()));
    println!("{}: the right to lease is taken in {:?} on average", backend_name(choice), started.elapsed() / 20);
    let mut leasing = node.leasing();
    assert_eq!(lease(&mut leasing, Swap::Acquire), Swapped::Open);
    let [mut arms, mut swaps, mut looks] = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let armed = arm(&mut leasing);
        arms.push(started.elapsed());
        let started = Instant::now();
        assert_eq!(leasing.swap(armed, Swap::Renew).expect("an answer"), Swapped::Open);
        swaps.push(started.elapsed());
        let started = Instant::now();
        look(&mut leasing);
        looks.push(started.elapsed());
    }
    let [arm, swap, look] = [&mut arms, &mut swaps, &mut looks].map(|times| {
        times.sort();
        (times[ROUNDS / 2], times[ROUNDS * 99 / 100], times[ROUNDS - 1])
    });
    println!(
        "{}: of {ROUNDS}, median, 99 % and worst: arm {arm:?}, swap {swap:?}, look {look:?}",
        backend_name(choice)
    );
    assert!(arm.0 + swap.0 < Duration::from_millis(10));
}
