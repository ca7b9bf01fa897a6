//! The trials on shared beds, by what they are about. A new file: its `mod` line and its line in
//! [`trials`].

pub mod cli;
pub mod configuration;
pub mod doctor;
pub mod faults;
pub mod firewalls;
pub mod forged;
pub mod hand;
pub mod itself;
pub mod keeper;
pub mod load;
pub mod moves;
pub mod ops;
pub mod prompts;
pub mod record;
pub mod switchover;
pub mod variants;
pub mod watch;

use super::OnBed;
use crate::bed::debian::TRIXIE;
use crate::bed::{Base, Options, Server};

/// Which bed a trial wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// As it is by default.
    Usual,
    /// With passwords, with two master names, and rolegate not yet installed.
    Variant,
    /// The usual one whose gates are on iptables and ipset.
    Iptables,
    /// The usual one on another base.
    On(Base),
}

impl Kind {
    /// Such a bed.
    pub fn options(self, name: String) -> Options {
        match self {
            Kind::Usual => Options::new(name),
            Kind::Variant => Options { secured: true, second: true, by_hand: true, ..Options::new(name) },
            Kind::Iptables => Options { iptables: true, ..Options::new(name) },
            Kind::On(base) => Options::on(base, name),
        }
    }
}

/// A trial with its place.
pub struct Placed {
    /// Its name: its file's in front, and before that the base, where it is another.
    pub name: String,
    /// On which bed it runs.
    pub kind: Kind,
    /// Only when asked for (`-- --include-ignored FILTER`).
    pub ignored: bool,
    /// What it does.
    pub run: OnBed,
}

/// On the usual bed's release `tests/configuration.rs` does this without one.
const ONE_CLUSTER: &str = "configuration::the_tools_of_the_release_make_one_cluster_of_the_three_forms";

/// What runs of all trials of the usual bed on Debian 13 with Valkey. The others can.
const TRIXIE_VALKEY: &[&str] = &[
    "itself::each_host_runs_debian_s_own_units",
    "moves::writers_go_on_after_the_primary_is_killed",
    "moves::a_failover_by_hand_moves_the_port",
    ONE_CLUSTER,
    "configuration::the_hook_follows_a_failover_from_the_hardened_unit_under_the_acl",
    "cli::fencing_the_primary_closes_it_before_the_command_returns",
    // Pacemaker 3.
    "ops::deinit_takes_out_what_init_has_put_in_and_nothing_else",
];

/// And with Redis 8.
const TRIXIE_REDIS: &[&str] = &["moves::a_failover_by_hand_moves_the_port"];

/// What runs of all trials of the usual bed with the gates on iptables and ipset. The others can; which firewall a gate is on is else
/// [`firewalls`]' matter.
const IPTABLES: &[&str] = &[
    "watch::two_gates_opened_by_hand_are_seen_for_as_long_as_they_are_open",
    "keeper::a_flushed_firewall_is_made_anew_at_once",
    "hand::a_port_forced_open_is_marked_and_shown_and_gives_way_to_the_sentinels",
    "hand::a_port_forced_open_while_the_others_are_dead_ends_by_itself",
];

/// All trials, those of one kind of bed together: each change of the kind is another bed.
///
/// # Panics
/// If a trial is chosen that there is not.
pub fn all() -> Vec<Placed> {
    let usual = trials();
    let mut placed: Vec<Placed> = usual
        .iter()
        .map(|(name, run)| Placed { name: name.clone(), kind: Kind::Usual, ignored: name == ONE_CLUSTER, run: *run })
        .collect();
    placed.extend(variants::TRIALS.iter().map(|(name, run)| Placed {
        name: format!("variants::{name}"),
        kind: Kind::Variant,
        ignored: false,
        run: *run,
    }));
    let trixie = |server| Kind::On(Base { release: TRIXIE, server });
    for (prefix, kind, chosen) in [
        ("iptables", Kind::Iptables, IPTABLES),
        ("trixie-valkey", trixie(Server::Valkey), TRIXIE_VALKEY),
        ("trixie-redis", trixie(Server::Redis), TRIXIE_REDIS),
    ] {
        for name in chosen {
            assert!(usual.iter().any(|(there, _)| there == name), "there is no trial {name}");
        }
        placed.extend(usual.iter().map(|(name, run)| Placed {
            name: format!("{prefix}::{name}"),
            kind,
            ignored: !chosen.contains(&name.as_str()),
            run: *run,
        }));
    }
    placed
}

/// The trials of the usual bed, each with its file's name in front.
fn trials() -> Vec<(String, OnBed)> {
    let files: &[(&str, &[(&str, OnBed)])] = &[
        ("itself", itself::TRIALS),
        ("faults", faults::TRIALS),
        ("forged", forged::TRIALS),
        ("load", load::TRIALS),
        ("watch", watch::TRIALS),
        ("moves", moves::TRIALS),
        ("record", record::TRIALS),
        ("configuration", configuration::TRIALS),
        ("cli", cli::TRIALS),
        ("keeper", keeper::TRIALS),
        ("hand", hand::TRIALS),
        ("doctor", doctor::TRIALS),
        ("firewalls", firewalls::TRIALS),
        ("switchover", switchover::TRIALS),
        ("ops", ops::TRIALS),
        ("prompts", prompts::TRIALS),
    ];
    let named = |(file, trials): &(&str, &[(&str, OnBed)])| -> Vec<(String, OnBed)> {
        trials.iter().map(|(name, run)| (format!("{file}::{name}"), *run)).collect()
    };
    files.iter().flat_map(named).collect()
}
