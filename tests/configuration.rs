//! The shipped Pacemaker configuration, offline: what the agent says of itself passes all
//! validators; the three forms (pcs, crmsh, CIB XML) give one and the same cluster; and that
//! cluster, put before Pacemaker's own scheduler, does what the gate needs.
//!
//! Needs root, for a private mount namespace in which the agent is installed: this machine stays
//! as it is.

#[path = "configuration/cluster.rs"]
mod cluster;
#[path = "configuration/facts.rs"]
mod facts;
#[path = "configuration/tools.rs"]
mod tools;

use std::time::Duration;

use cluster::{Form, Sim};
use facts::facts;
use tools::{Machine, SHARE_DTD};

/// Each form for a cluster that is symmetric or not, with the address or without.
const CASES: [(bool, bool); 4] = [(true, false), (true, true), (false, false), (false, true)];

#[test]
fn the_metadata_passes_resource_agents_dtd() {
    let machine = Machine::new();
    for (_, metadata) in machine.metadata() {
        let dtd = format!("xmllint --noout --dtdvalid {SHARE_DTD} {}", metadata.display());
        machine.ok(&["sh", "-c", &dtd]);
    }
}

#[test]
fn the_metadata_passes_both_schemas() {
    let machine = Machine::new();
    for (_, metadata) in machine.metadata() {
        for schema in tools::schemas() {
            machine.ok(&["xmllint", "--noout", "--nonet", "--relaxng", &schema, metadata.to_str().unwrap()]);
        }
    }
}

#[test]
fn the_metadata_is_there_for_anybody() {
    // As ocf-tester asks for it: no environment, no privilege.
    let machine = Machine::new();
    for (name, metadata) in machine.metadata() {
        let agent = tools::agent(name);
        let text = machine.ok(&["setpriv", "--reuid=65534", "--clear-groups", "env", "-i", &agent, "meta-data"]);
        assert!(text.contains(&format!("<resource-agent name=\"{name}\"")), "{text}");
        assert_eq!(text, std::fs::read_to_string(metadata).unwrap());
    }
}

/// No program panics for it, as Rust's own print does.
#[test]
fn who_reads_nothing_meets_no_defect() {
    for (program, action, code) in [
        (env!("CARGO_BIN_EXE_rolegate-agent"), "meta-data", 1),
        (env!("CARGO_BIN_EXE_rolegate-agent"), "methods", 1),
        (env!("CARGO_BIN_EXE_rolegate-agent"), "no-action", 3),
        (env!("CARGO_BIN_EXE_rolegate-port"), "no-command", 2),
        (env!("CARGO_BIN_EXE_rolegate-port"), "--help", 0),
        (env!("CARGO_BIN_EXE_rolegate"), "no-command", 3),
        (env!("CARGO_BIN_EXE_rolegate"), "--help", 0),
        (env!("CARGO_BIN_EXE_rolegate-hook"), "no-call", 2),
        (env!("CARGO_BIN_EXE_rolegate-keeper"), "--help", 0),
    ] {
        let run = || {
            let mut command = std::process::Command::new(program);
            command.arg(action).stdout(std::fs::File::options().write(true).open("/dev/full").unwrap());
            command
        };
        let output = run().output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(code) && !said.contains("defect"), "{program} {action}: {output:?}");
        let stderr = std::fs::File::options().write(true).open("/dev/full").unwrap();
        assert_eq!(run().stderr(stderr).status().unwrap().code(), Some(code), "{program} {action}");
    }
}

#[test]
fn pcs_and_crmsh_describe_the_agent() {
    let machine = Machine::new();
    for (name, own) in [("gate", "interval=5s"), ("block", "port (required")] {
        let agent = format!("ocf:rolegate:{name}");
        for tool in [&["pcs", "resource", "describe", &agent][..], &["crm", "ra", "info", &agent]] {
            // crmsh marks what is required by an asterisk.
            let text = machine.ok(tool).replace("port* ", "port (required) ");
            for word in ["open_for", "sentinels", "redis_role", "rolegate init", own] {
                assert!(text.contains(word), "{tool:?} does not say {word}:\n{text}");
            }
        }
    }
}

#[test]
fn the_three_forms_give_the_same_cluster() {
    let machine = Machine::new();
    for (symmetric, address) in CASES {
        let [pcs, crmsh, xml] = Form::ALL.map(|form| {
            let cib = cluster::apply(&machine, form, symmetric, address);
            machine.verify(&cib);
            facts(&cib)
        });
        let count = if address { 33 } else { 24 };
        assert!(xml.len() >= count, "too little was compared: {xml:#?}");
        assert_eq!(pcs, xml, "pcs and XML, symmetric {symmetric}, address {address}");
        assert_eq!(crmsh, xml, "crmsh and XML, symmetric {symmetric}, address {address}");
    }
}

#[test]
fn the_three_forms_of_the_classic_layout_give_the_same_cluster() {
    let machine = Machine::new();
    for symmetric in [true, false] {
        let [pcs, crmsh, xml] = Form::ALL.map(|form| {
            let cib = cluster::apply_parts(&machine, form, symmetric, &["block", "acl"]);
            machine.verify(&cib);
            facts(&cib)
        });
        assert!(xml.len() >= 24, "too little was compared: {xml:#?}");
        assert_eq!(pcs, xml, "pcs and XML, symmetric {symmetric}");
        assert_eq!(crmsh, xml, "crmsh and XML, symmetric {symmetric}");
    }
}

#[test]
fn blocks_run_where_the_role_wants_them() {
    let machine = Machine::new();
    for symmetric in [true, false] {
        let mut sim = Sim::new(&machine, &cluster::apply_parts(&machine, Form::Xml, symmetric, &["block", "acl"]));
        sim.role("node1", "primary");
        sim.role("node2", "replica");
        sim.role("node3", "fail");
        sim.settle();
        assert_eq!(sim.active("RedisLBReadBlock"), ["node3"], "symmetric {symmetric}");
        assert_eq!(sim.active("RedisLBWriteBlock"), ["node2", "node3"], "symmetric {symmetric}");
        sim.role("node1", "replica");
        sim.role("node2", "primary");
        sim.attribute("node3", rolegate::pacemaker::FENCE_ATTRIBUTE, "by root: disk");
        sim.role("node3", "replica");
        sim.settle();
        assert_eq!(sim.active("RedisLBReadBlock"), ["node3"], "a fence closes both, symmetric {symmetric}");
        assert_eq!(sim.active("RedisLBWriteBlock"), ["node1", "node3"], "symmetric {symmetric}");
    }
}

/// A cluster in which node1 is promoted, as the scheduler makes it.
fn running(machine: &Machine, symmetric: bool, address: bool) -> Sim<'_> {
    let mut sim = Sim::new(machine, &cluster::apply(machine, Form::Xml, symmetric, address));
    sim.role("node1", "primary");
    sim.role("node2", "replica");
    sim.role("node3", "replica");
    sim.step();
    assert_eq!((sim.promoted(), sim.running()), (vec!["node1".into()], 3));
    sim
}

#[test]
fn a_moved_role_demotes_before_it_promotes_in_one_transition() {
    let machine = Machine::new();
    for (symmetric, address) in CASES {
        let mut sim = running(&machine, symmetric, address);
        sim.role("node1", "replica");
        sim.role("node2", "primary");
        let done = sim.step();
        let at =
            |what: &str| done.iter().position(|action| action == what).unwrap_or_else(|| panic!("{what}: {done:?}"));
        assert!(at("RedisGate demote node1") < at("RedisGate promote node2"), "{done:?}");
        assert_eq!((sim.promoted(), sim.running()), (vec!["node2".into()], 3));
        if address {
            assert!(at("RedisGate promote node2") < at("RedisVIP start node2"), "{done:?}");
            assert!(at("RedisVIP stop node1") < at("RedisVIP start node2"), "{done:?}");
        }
    }
}

#[test]
fn a_demotion_does_not_wait_for_the_address() {
    let machine = Machine::new();
    let mut sim = running(&machine, true, true);
    sim.role("node1", "replica");
    sim.role("node2", "primary");
    assert_eq!(sim.waits_for("RedisVIP_stop_0 node1"), ["RedisVIP_start_0 node2"]);
    // Nor for one that cannot be stopped: without STONITH it stays where it is.
    sim.step_failing(&["RedisVIP_stop_0@node1=1"]);
    sim.step();
    assert_eq!((sim.promoted(), sim.running()), (vec!["node2".into()], 3));
}

#[test]
fn a_node_that_fails_or_is_fenced_has_no_gate() {
    let machine = Machine::new();
    for (symmetric, address) in CASES {
        for attribute in [("redis_role", "fail"), (rolegate::pacemaker::FENCE_ATTRIBUTE, "by root: disk")] {
            let mut sim = running(&machine, symmetric, address);
            sim.attribute("node1", attribute.0, attribute.1);
            let done = sim.step();
            assert!(done.contains(&"RedisGate stop node1".into()), "{attribute:?}: {done:?}");
            assert_eq!((sim.promoted(), sim.running()), (vec![], 2), "{attribute:?}");
        }
    }
}

#[test]
fn where_nobody_is_primary_nobody_is_promoted() {
    let machine = Machine::new();
    for (symmetric, address) in CASES {
        let mut sim = running(&machine, symmetric, address);
        sim.role("node1", "replica");
        let done = sim.step();
        assert!(done.contains(&"RedisGate demote node1".into()), "{done:?}");
        assert_eq!((sim.promoted(), sim.running()), (vec![], 3));
    }
}

#[test]
fn a_failed_promoted_monitor_leaves_readers_alone() {
    let machine = Machine::new();
    for code in [1, 9] {
        let mut sim = running(&machine, true, false);
        sim.fail_promoted_monitor("node1", code);
        let done = sim.step();
        assert!(done.contains(&"RedisGate demote node1".into()), "{code}: {done:?}");
        assert!(done.contains(&"RedisGate promote node1".into()), "{code}: {done:?}");
        assert!(!done.contains(&"RedisGate stop node1".into()), "{code}: {done:?}");
    }
}

#[test]
fn a_gate_whose_promote_failed_five_times_comes_back_by_itself() {
    let machine = Machine::new();
    let mut sim = running(&machine, true, false);
    sim.role("node1", "replica");
    sim.role("node2", "primary");
    let mut tries = 0;
    // Each failed promote is followed by a demote of its own.
    for _ in 0..14 {
        let done = sim.step_failing(&["RedisGate_promote_0@node2=1"]);
        tries += done.iter().filter(|action| *action == "RedisGate promote node2").count();
        assert_eq!(sim.promoted_and_well(), Vec::<String>::new());
    }
    assert_eq!(tries, 5, "it must neither give up earlier nor try without end");
    assert_eq!(sim.running(), 2, "the gate of node2 is stopped meanwhile");
    sim.since_failure(Duration::from_secs(13));
    sim.step();
    assert_eq!((sim.promoted(), sim.running()), (vec![], 2), "it came back before its time");
    sim.since_failure(Duration::from_secs(17));
    sim.settle();
    assert_eq!((sim.promoted(), sim.running()), (vec!["node2".into()], 3));
}
