//! Every fault, defined once: what it does to a bed that is well, how long it lasts, how it ends, and what
//! rolegate is expected to make of it.

use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use super::files::HOOK;
use super::root::UPGRADE;
use super::{Bed, CLIENTS, DropRule, Host, clock, gates, wait_for};

/// A fault. One that is new: its definition in [`FAULTS`].
#[derive(Debug)]
pub struct Fault {
    /// Its name on the command line and in figures.
    pub name: &'static str,
    /// What happens, in a few words; `{primary}` and `{other}` are nodes.
    pub says: &'static str,
    /// From its begin to its end.
    pub lasts: Duration,
    /// What rolegate is expected to make of it.
    pub expects: Expects,
    /// For how long in all the gate is expected to be closed on every node, at most. For a machine with little to do it is generous.
    pub closed: Duration,
    /// It cuts connections of clients itself.
    pub cuts: bool,
    /// It keeps Redis itself from answering for a while.
    pub silences: bool,
    /// Two Sentinels are to be reset in failovers of one epoch by it.
    pub is_of_one_epoch: bool,
    /// One thing fails, or is done. What a replica has confirmed to a writer is there afterwards.
    pub is_single: bool,
    /// One of the eight that are run where there is little time.
    pub is_chief: bool,
    /// What a bed must have for it.
    pub needs: Needs,
    /// What becomes of the power of the primary's node where there is STONITH.
    pub power: Power,
    /// It ends only when writers have stopped and what they wrote was looked for: nothing comes back.
    pub outlasts_writers: bool,
    /// Sets the bed up for it, without writers. The bed must be well afterwards; another node may be primary by then.
    pub before: Step,
    /// Lets it happen.
    pub begin: Step,
    /// Ends it as an operator would.
    pub end: Step,
    /// Undoes `before`.
    pub after: Step,
}

/// One step of a fault.
pub type Step = fn(&Scene) -> Result<()>;

/// What becomes of the primary, and of the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expects {
    /// Another node is primary in the end.
    Moves,
    /// The same node is primary in the end; its gate may have been closed for a while.
    Stays,
    /// The same node is primary in the end, its gate was open all the time, no connection of a writer was cut, and each write was answered.
    Untouched,
    /// Either way is right.
    Either,
}

/// What came of a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Came {
    /// Another node is primary in the end.
    pub moved: bool,
    /// For how long no gate was open.
    pub closed: Duration,
    /// How many established connections of writers the other side ended.
    pub cut: u64,
    /// How many writes on such a connection nobody answered within a second.
    pub unanswered: u64,
    /// How many other attempts failed of those who write to the primary: a connection was refused, or a write.
    pub refused: u64,
}

/// Whether STONITH cuts the power of the primary's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// The cluster does not lose the node: its power stays on, and all comes as without STONITH.
    Stays,
    /// The others lose the node.
    IsCut,
    /// Either way is right.
    Either,
}

/// What a fault cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Redis and Sentinel.
    Sentinel,
    /// A keeper and Pacemaker, in whatever layout.
    Rolegate,
    /// The gate resource.
    Gate,
}

/// On whom a fault falls.
pub struct Scene<'b> {
    /// The bed.
    pub bed: &'b Bed,
    /// The primary's node when it begins.
    pub primary: Host<'b>,
    /// The other nodes.
    pub others: [Host<'b>; 2],
    /// The epochs of the failovers in which it has reset Sentinels.
    epochs: Mutex<Vec<u64>>,
}

/// For how long the gate may be closed where STONITH cuts the power of its node: the cluster decides first, and a fence agent takes its time.
pub const FENCED: Duration = Duration::from_secs(30);

/// The client host that a partition leaves with the old primary.
pub const BESIDE: &str = CLIENTS[1];
/// The client host on the side of the majority.
pub const BEYOND: &str = CLIENTS[0];

impl<'b> Scene<'b> {
    /// On the bed as it is now.
    ///
    /// # Errors
    /// When it has not one primary.
    pub fn set(bed: &'b Bed) -> Result<Self> {
        let primary = bed.primary()?;
        let mut others = bed.nodes().filter(|node| node.name() != primary.name());
        let others = [others.next().context("three nodes")?, others.next().context("three nodes")?];
        Ok(Scene { bed, primary, others, epochs: Mutex::default() })
    }

    /// The epochs of the failovers in which it has reset Sentinels.
    pub fn epochs(&self) -> Vec<u64> {
        self.epochs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Fault {
    /// The fault called `name`.
    ///
    /// # Errors
    /// The names there are, where there is none of that name.
    pub fn named(name: &str) -> Result<&'static Fault, String> {
        FAULTS.iter().find(|fault| fault.name == name).ok_or_else(|| {
            let names: Vec<&str> = FAULTS.iter().map(|fault| fault.name).collect();
            format!("there are {}", names.join(", "))
        })
    }

    /// What happens.
    pub fn says(&self, scene: &Scene) -> String {
        self.with_nodes(scene.primary.name(), scene.others[0].name())
    }

    /// What happens, whoever is primary.
    pub fn says_of_any(&self) -> String {
        self.with_nodes("the primary's node", "another node")
    }

    fn with_nodes(&self, primary: &str, other: &str) -> String {
        self.says.replace("{primary}", primary).replace("{other}", other)
    }

    /// Whether that is what was expected of it.
    pub fn met(&self, came: &Came) -> bool {
        // A server that runs a script for too long says no.
        let untouched = (came.cut == 0 || self.cuts) && (came.unanswered + came.refused == 0 || self.silences);
        let right = match self.expects {
            Expects::Moves => came.moved,
            Expects::Stays => !came.moved,
            Expects::Untouched => !came.moved && untouched,
            Expects::Either => true,
        };
        right && came.closed <= self.may_be_closed()
    }

    /// The same where there is STONITH, which has cut the power of the nodes `cut`. One that is cut is never the primary in the end: nobody boots
    /// it before.
    pub fn met_with_stonith(&self, came: &Came, cut: &[String]) -> bool {
        match (self.power, cut) {
            (Power::Stays | Power::Either, []) => self.met(came),
            (Power::IsCut, [_]) => came.moved && came.closed <= FENCED,
            (Power::Either, _) => came.closed <= FENCED,
            (Power::Stays | Power::IsCut, _) => false,
        }
    }

    /// What is expected there, in a few words.
    pub fn expected_with_stonith(&self) -> String {
        let cut = format!("a power cut, closed for {} s at most", FENCED.as_secs());
        match self.power {
            Power::Stays => self.expected(),
            Power::IsCut => cut,
            Power::Either => format!("{}; or {cut}", self.expected()),
        }
    }

    /// Why what happened was not this fault, given the epochs of the failovers in which Sentinels were reset.
    pub fn missed(&self, epochs: &[u64]) -> Option<String> {
        let is_missed = self.is_of_one_epoch && !matches!(epochs, [one, other] if one == other);
        is_missed.then(|| format!("Sentinels were reset in failovers of the epochs {epochs:?}, not two in one epoch"))
    }

    /// What is expected, in a few words.
    pub fn expected(&self) -> String {
        let word = match self.expects {
            Expects::Moves => "moves",
            Expects::Stays => "stays",
            Expects::Untouched => return "untouched".to_owned(),
            Expects::Either => "either",
        };
        format!("{word}, closed for {} s at most", self.closed.as_secs())
    }

    fn may_be_closed(&self) -> Duration {
        if self.expects == Expects::Untouched { Duration::ZERO } else { self.closed }
    }
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn nothing(_: &Scene) -> Result<()> {
    Ok(())
}

/// What a definition does not say.
const FAULT: Fault = Fault {
    name: "",
    says: "",
    // Over as soon as it has begun. Nobody asks how all is before another 5 s: more than down-after in all.
    lasts: seconds(3),
    expects: Expects::Either,
    // A failover that nobody asks for begins after down-after, 5 s.
    closed: seconds(12),
    cuts: false,
    silences: false,
    is_of_one_epoch: false,
    is_single: true,
    is_chief: false,
    needs: Needs::Sentinel,
    power: Power::Stays,
    outlasts_writers: false,
    before: nothing,
    begin: nothing,
    end: nothing,
    after: nothing,
};

/// All of them.
pub const FAULTS: &[Fault] = &[
    // Redis ends.
    Fault {
        name: "kill",
        says: "Redis on {primary} is killed and kept down",
        lasts: seconds(8),
        expects: Expects::Moves,
        is_chief: true,
        outlasts_writers: true,
        begin: kill_for_good,
        end: start_redis,
        ..FAULT
    },
    Fault {
        name: "kill-20",
        says: "Redis on {primary} is killed and started again after 20 s",
        lasts: seconds(20),
        expects: Expects::Moves,
        begin: kill_for_good,
        end: start_redis,
        ..FAULT
    },
    Fault {
        name: "kill-20-empty",
        says: "Redis on {primary} is killed, and started again after 20 s with nothing on its disk",
        lasts: seconds(20),
        expects: Expects::Moves,
        before: |scene| persist(scene, "no", ""),
        begin: |scene| {
            kill_for_good(scene)?;
            scene.primary.sh(&format!("rm -f {}/dump.rdb", scene.bed.server().data())).map(drop)
        },
        end: start_redis,
        after: |scene| persist(scene, "no", SNAPSHOTS),
        ..FAULT
    },
    Fault {
        name: "restart",
        says: "Redis on {primary} is killed; systemd restarts it at once (Debian's default: snapshots, no AOF)",
        expects: Expects::Moves,
        is_chief: true,
        begin: kill_redis,
        ..FAULT
    },
    Fault {
        name: "restart-aof",
        says: "Redis on {primary} is killed; systemd restarts it at once, from its AOF",
        expects: Expects::Moves,
        before: |scene| persist(scene, "yes", SNAPSHOTS),
        begin: kill_redis,
        after: |scene| persist(scene, "no", SNAPSHOTS),
        ..FAULT
    },
    Fault {
        name: "restart-empty",
        says: "Redis on {primary} is killed; systemd restarts it at once, with nothing on its disk",
        expects: Expects::Moves,
        before: |scene| persist(scene, "no", ""),
        begin: |scene| {
            scene.primary.sh(&format!("rm -f {}/dump.rdb", scene.bed.server().data()))?;
            kill_redis(scene)
        },
        after: |scene| persist(scene, "no", SNAPSHOTS),
        ..FAULT
    },
    // Redis stands still.
    Fault {
        name: "stop-3",
        says: "Redis on {primary} stands still for 3 s",
        lasts: seconds(3),
        expects: Expects::Untouched,
        silences: true,
        begin: stop_redis,
        end: continue_redis,
        ..FAULT
    },
    Fault {
        name: "stop-8",
        says: "Redis on {primary} stands still for 8 s",
        lasts: seconds(8),
        expects: Expects::Moves,
        begin: stop_redis,
        end: continue_redis,
        ..FAULT
    },
    Fault {
        name: "stop-20",
        says: "Redis on {primary} stands still for 20 s",
        lasts: seconds(20),
        expects: Expects::Moves,
        begin: stop_redis,
        end: continue_redis,
        ..FAULT
    },
    Fault {
        name: "busy-script",
        says: "a script keeps Redis on {primary} busy for 3 s",
        expects: Expects::Untouched,
        silences: true,
        begin: |scene| scene.primary.redis(6379, &["EVAL", BUSY, "0"]).map(drop),
        ..FAULT
    },
    Fault {
        name: "busy-script-long",
        says: "a script keeps Redis on {primary} busy for 9 s, with a down-after of 30 s (it answers BUSY after 5 s)",
        lasts: seconds(12),
        expects: Expects::Untouched,
        silences: true,
        before: |scene| down_after(scene, seconds(30)),
        begin: |scene| takes_long(&scene.primary, &["EVAL", &BUSY.replace("+ 3", "+ 9"), "0"]),
        after: |scene| down_after(scene, scene.bed.options().down_after),
        ..FAULT
    },
    Fault {
        name: "debug-sleep",
        says: "DEBUG SLEEP 9 on {primary}, with a down-after of 30 s",
        lasts: seconds(12),
        expects: Expects::Untouched,
        silences: true,
        before: |scene| down_after(scene, seconds(30)),
        begin: |scene| takes_long(&scene.primary, &["DEBUG", "SLEEP", "9"]),
        after: |scene| down_after(scene, scene.bed.options().down_after),
        ..FAULT
    },
    // The network.
    Fault {
        name: "isolate",
        says: "{primary} and client2 are cut off from the other hosts",
        lasts: seconds(20),
        expects: Expects::Moves,
        is_chief: true,
        power: Power::IsCut,
        begin: isolate,
        end: heal,
        ..FAULT
    },
    Fault {
        name: "isolate-frozen",
        says: "{primary} and client2 are cut off, and Pacemaker and corosync stand still on {primary}",
        lasts: seconds(20),
        expects: Expects::Moves,
        is_chief: true,
        power: Power::IsCut,
        begin: |scene| {
            signal_all(scene, &PACEMAKER, Signal::SIGSTOP)?;
            signal_all(scene, &["corosync"], Signal::SIGSTOP)?;
            isolate(scene)
        },
        end: |scene| {
            signal_all(scene, &["corosync"], Signal::SIGCONT)?;
            signal_all(scene, &PACEMAKER, Signal::SIGCONT)?;
            heal(scene)
        },
        ..FAULT
    },
    Fault {
        name: "isolate-stop",
        says: "{primary} and client2 are cut off, with no-quorum-policy=stop",
        lasts: seconds(12),
        expects: Expects::Moves,
        needs: Needs::Rolegate,
        power: Power::IsCut,
        before: |scene| pcs(&scene.others[0], &["property", "set", "no-quorum-policy=stop"]),
        begin: isolate,
        end: heal,
        after: |scene| pcs(&scene.others[0], &["property", "unset", "no-quorum-policy"]),
        ..FAULT
    },
    Fault {
        name: "isolate-demote",
        says: "{primary} and client2 are cut off, with no-quorum-policy=demote",
        lasts: seconds(12),
        expects: Expects::Moves,
        needs: Needs::Rolegate,
        power: Power::IsCut,
        before: |scene| pcs(&scene.others[0], &["property", "set", "no-quorum-policy=demote"]),
        begin: isolate,
        end: heal,
        after: |scene| pcs(&scene.others[0], &["property", "unset", "no-quorum-policy"]),
        ..FAULT
    },
    Fault {
        name: "isolate-freeze",
        says: "{primary} and client2 are cut off, with no-quorum-policy=freeze",
        lasts: seconds(12),
        expects: Expects::Moves,
        needs: Needs::Rolegate,
        power: Power::IsCut,
        before: |scene| pcs(&scene.others[0], &["property", "set", "no-quorum-policy=freeze"]),
        begin: isolate,
        end: heal,
        after: |scene| pcs(&scene.others[0], &["property", "unset", "no-quorum-policy"]),
        ..FAULT
    },
    Fault {
        name: "isolate-ignore",
        says: "{primary} and client2 are cut off, with no-quorum-policy=ignore",
        lasts: seconds(12),
        expects: Expects::Moves,
        needs: Needs::Rolegate,
        power: Power::Either,
        before: |scene| pcs(&scene.others[0], &["property", "set", "no-quorum-policy=ignore"]),
        begin: isolate,
        end: heal,
        after: |scene| pcs(&scene.others[0], &["property", "unset", "no-quorum-policy"]),
        ..FAULT
    },
    Fault {
        name: "blip",
        says: "{primary} and client2 are cut off for 3 s",
        // Connections between Sentinels and Redis need as long again to find that it is over.
        closed: seconds(10),
        lasts: seconds(3),
        expects: Expects::Stays,
        power: Power::Either,
        begin: isolate,
        end: heal,
        ..FAULT
    },
    Fault {
        name: "cut-redis",
        says: "the other nodes cannot reach port 6379 of {primary}; clients can",
        lasts: seconds(20),
        expects: Expects::Moves,
        is_chief: true,
        begin: |scene| scene.others.iter().try_for_each(|other| cut(scene, Some(other), &scene.primary, 6379)),
        end: heal,
        ..FAULT
    },
    Fault {
        name: "cut-redis-blip",
        says: "the other nodes cannot reach port 6379 of {primary} for 0.4 s; clients can",
        expects: Expects::Untouched,
        begin: |scene| {
            scene.others.iter().try_for_each(|other| cut(scene, Some(other), &scene.primary, 6379))?;
            thread::sleep(Duration::from_millis(400));
            heal(scene)
        },
        ..FAULT
    },
    Fault {
        name: "cut-redis-half",
        says: "{other} cannot reach port 6379 of {primary}; all others can",
        lasts: seconds(12),
        // The other one's Sentinel and replica get through.
        expects: Expects::Untouched,
        begin: |scene| cut(scene, Some(&scene.others[0]), &scene.primary, 6379),
        end: heal,
        ..FAULT
    },
    Fault {
        name: "cut-sentinel",
        says: "{primary} and the other nodes cannot reach each other's port 26379; all else they can",
        // A lease less than it lasts, and then new lines and their window: some 15 s.
        closed: seconds(20),
        lasts: seconds(12),
        begin: |scene| {
            scene.others.iter().try_for_each(|other| {
                cut(scene, Some(other), &scene.primary, 26379)?;
                cut(scene, Some(&scene.primary), other, 26379)
            })
        },
        end: heal,
        ..FAULT
    },
    // Sentinels.
    Fault {
        name: "sentinel-blackhole",
        says: "no packet reaches port 26379 of {other}",
        lasts: seconds(12),
        expects: Expects::Untouched,
        begin: |scene| cut(scene, None, &scene.others[0], 26379),
        end: heal,
        ..FAULT
    },
    Fault {
        name: "sentinels-in-turn",
        says: "each Sentinel is restarted, 2 s apart",
        expects: Expects::Untouched,
        begin: |scene| {
            for node in scene.bed.nodes() {
                sentinel(&node, "restart")?;
                thread::sleep(seconds(2));
            }
            Ok(())
        },
        ..FAULT
    },
    Fault {
        name: "sentinels-at-once",
        says: "all Sentinels are restarted at once",
        closed: seconds(5),
        expects: Expects::Stays,
        begin: |scene| on_all(scene, |node| sentinel(node, "restart")),
        ..FAULT
    },
    Fault {
        name: "sentinels-lost",
        says: "two Sentinels are stopped for 20 s",
        closed: seconds(25),
        lasts: seconds(20),
        expects: Expects::Stays,
        begin: |scene| scene.others.iter().try_for_each(|node| sentinel(node, "stop")),
        end: |scene| scene.others.iter().try_for_each(|node| sentinel(node, "start")),
        ..FAULT
    },
    Fault {
        name: "reset",
        says: "SENTINEL RESET on all three",
        expects: Expects::Untouched,
        begin: |scene| on_all(scene, |node| node.redis(26379, &["SENTINEL", "RESET", "*"]).map(drop)),
        ..FAULT
    },
    Fault {
        name: "sentinels-anew",
        says: "SENTINEL REMOVE and MONITOR on all three: configuration epoch 0, and they know neither replicas nor each other",
        expects: Expects::Untouched,
        begin: |scene| on_all(scene, |node| monitor_anew(node, &scene.primary)),
        // Sentinel lets nobody set a script while it runs.
        end: |scene| scene.bed.nodes().try_for_each(|node| hook_anew(&node)),
        ..FAULT
    },
    Fault {
        name: "client-kill",
        says: "CLIENT KILL of all connections to Redis on {primary} and to all Sentinels",
        expects: Expects::Untouched,
        cuts: true,
        begin: |scene| {
            for kind in ["normal", "pubsub", "replica"] {
                scene.primary.redis(6379, &["CLIENT", "KILL", "TYPE", kind])?;
            }
            on_all(scene, |node| {
                for kind in ["normal", "pubsub"] {
                    node.redis(26379, &["CLIENT", "KILL", "TYPE", kind])?;
                }
                Ok(())
            })
        },
        ..FAULT
    },
    Fault {
        name: "failover",
        says: "SENTINEL FAILOVER by hand; nothing is broken",
        closed: seconds(5),
        expects: Expects::Moves,
        is_chief: true,
        begin: |scene| scene.primary.redis(26379, FAILOVER).map(drop),
        ..FAULT
    },
    Fault {
        name: "failover-other",
        says: "SENTINEL FAILOVER by hand, on the Sentinel of {other}",
        closed: seconds(5),
        expects: Expects::Moves,
        begin: |scene| scene.others[0].redis(26379, FAILOVER).map(drop),
        ..FAULT
    },
    Fault {
        name: "failover-two",
        says: "SENTINEL FAILOVER by hand on two Sentinels at once",
        lasts: seconds(12),
        expects: Expects::Moves,
        is_single: false,
        begin: |scene| {
            let [first, second] = scene.others;
            let (first, second) = thread::scope(|scope| {
                let first = scope.spawn(move || first.redis(26379, FAILOVER));
                (first.join(), second.redis(26379, FAILOVER))
            });
            let first = first.map_err(|_| anyhow::anyhow!("a thread panicked"))?;
            // One may have heard of the other's already.
            first.or(second).map(drop)
        },
        ..FAULT
    },
    Fault {
        name: "failover-two-reset",
        says: "SENTINEL FAILOVER by hand on two Sentinels at once, and RESET on each as soon as it has seen its promotion",
        lasts: seconds(12),
        closed: seconds(30),
        is_single: false,
        is_of_one_epoch: true,
        begin: |scene| {
            let [first, second] = &scene.others;
            let resets = thread::scope(|scope| {
                let resets = [first, second].map(|node| scope.spawn(|| reset_in_failover(scene, node)));
                resets.map(|reset| reset.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked"))))
            });
            for (node, reset) in scene.others.iter().zip(&resets) {
                scene.bed.say(&match reset {
                    Ok(epoch) => format!("  {} is reset in its failover of epoch {epoch}", node.name()),
                    Err(error) => format!("  {} is not: {error:#}", node.name()),
                });
            }
            let epochs = resets.into_iter().flatten();
            scene.epochs.lock().unwrap_or_else(PoisonError::into_inner).extend(epochs);
            Ok(())
        },
        // They may disagree for ever now, about one epoch: a new one ends that.
        end: |scene| {
            if scene.bed.check().is_ok() {
                return Ok(());
            }
            let refused = |node: &Host| node.redis(26379, FAILOVER).err();
            wait_for("a failover that ends the disagreement", seconds(60), || {
                match scene.bed.check().and_then(|()| scene.bed.primary().map(drop)) {
                    Ok(()) => Ok(()),
                    Err(error) => match scene.bed.nodes().find_map(|node| refused(&node).is_none().then_some(())) {
                        Some(()) => Ok(()),
                        None => Err(error),
                    },
                }
            })
        },
        ..FAULT
    },
    Fault {
        name: "failover-twice",
        says: "SENTINEL FAILOVER by hand, and again as soon as Sentinel allows",
        closed: seconds(12),
        lasts: seconds(12),
        is_single: false,
        begin: |scene| {
            scene.primary.redis(26379, FAILOVER)?;
            wait_for("a second failover to begin", seconds(30), || scene.primary.redis(26379, FAILOVER).map(drop))
        },
        ..FAULT
    },
    Fault {
        name: "leader-freeze",
        says: "Redis on {primary} stands still, and so does the first Sentinel that begins a failover, for 30 s",
        lasts: seconds(30),
        expects: Expects::Moves,
        is_single: false,
        begin: |scene| {
            let server = scene.bed.server();
            let count = format!("grep -c +try-failover {} || :", server.sentinel_log());
            let tries = |node: &Host| node.sh(&count).map(|output| output.text());
            let before: Vec<String> = scene.bed.nodes().map(|node| tries(&node)).collect::<Result<_>>()?;
            stop_redis(scene)?;
            wait_for("a Sentinel to begin a failover", seconds(30), || {
                for (node, before) in scene.bed.nodes().zip(&before) {
                    if tries(&node)? != *before {
                        return node.signal(server.sentinel(), Signal::SIGSTOP).map(drop);
                    }
                }
                bail!("none has")
            })
        },
        end: |scene| {
            on_all(scene, |node| node.signal(scene.bed.server().sentinel(), Signal::SIGCONT).map(drop))?;
            continue_redis(scene)
        },
        ..FAULT
    },
    // The node.
    Fault {
        name: "freeze",
        says: "every process on {primary} stands still",
        lasts: seconds(20),
        expects: Expects::Moves,
        is_chief: true,
        power: Power::IsCut,
        begin: |scene| scene.primary.freeze(),
        end: |scene| scene.primary.thaw(),
        ..FAULT
    },
    Fault {
        name: "power-cut",
        says: "{primary} loses power, and boots again after 15 s",
        lasts: seconds(15),
        expects: Expects::Moves,
        is_chief: true,
        power: Power::IsCut,
        begin: |scene| scene.primary.power_off(),
        end: |scene| scene.primary.boot(),
        ..FAULT
    },
    Fault {
        name: "reboot",
        says: "{primary} is shut down in good order, and boots again after 15 s",
        lasts: seconds(15),
        expects: Expects::Moves,
        begin: |scene| scene.primary.shutdown(),
        end: |scene| scene.primary.boot(),
        ..FAULT
    },
    Fault {
        name: "power-cut-all",
        says: "all nodes lose power, and boot again after 5 s",
        closed: seconds(60),
        lasts: seconds(5),
        is_single: false,
        power: Power::Either,
        begin: |scene| on_all(scene, |node| node.power_off()),
        end: |scene| on_all(scene, |node| node.boot()),
        ..FAULT
    },
    Fault {
        name: "clock-forward",
        says: "the clock of corosync, Pacemaker, Redis, Sentinel and keeper on {primary} is an hour ahead from now on; that Sentinel is in TILT for 30 s",
        lasts: seconds(35),
        expects: Expects::Untouched,
        before: |scene| clock::prepare(&scene.others[0], &scene.others[1]),
        begin: |scene| clock::step(&scene.primary, 1),
        end: |scene| clock::settle(&scene.primary),
        after: |scene| clock::undo(&scene.primary),
        ..FAULT
    },
    Fault {
        name: "clock-back",
        says: "the clock of corosync, Pacemaker, Redis, Sentinel and keeper on {primary} is an hour behind from now on; that Sentinel is in TILT for 30 s",
        lasts: seconds(35),
        expects: Expects::Untouched,
        before: |scene| clock::prepare(&scene.others[0], &scene.others[1]),
        begin: |scene| clock::step(&scene.primary, -1),
        end: |scene| clock::settle(&scene.primary),
        after: |scene| clock::undo(&scene.primary),
        ..FAULT
    },
    // The keeper.
    Fault {
        name: "keeper-kill",
        says: "the keeper on {primary} is killed; systemd restarts it",
        expects: Expects::Untouched,
        needs: Needs::Rolegate,
        begin: |scene| scene.primary.signal(KEEPER, Signal::SIGKILL).map(drop),
        ..FAULT
    },
    Fault {
        name: "keeper-restart",
        says: "the keeper on {primary} is restarted, as an upgrade does",
        expects: Expects::Untouched,
        needs: Needs::Rolegate,
        begin: |scene| scene.primary.sh("systemctl restart rolegate-keeper").map(drop),
        ..FAULT
    },
    Fault {
        name: "keeper-restart-other",
        says: "the keeper on {other} is restarted, as an upgrade does",
        expects: Expects::Untouched,
        needs: Needs::Rolegate,
        begin: |scene| scene.others[0].sh("systemctl restart rolegate-keeper").map(drop),
        ..FAULT
    },
    Fault {
        name: "keeper-freeze",
        says: "the keeper on {primary} stands still for 12 s",
        closed: seconds(12),
        lasts: seconds(12),
        expects: Expects::Stays,
        needs: Needs::Rolegate,
        begin: |scene| scene.primary.signal(KEEPER, Signal::SIGSTOP).map(drop),
        // Its watchdog may have replaced it.
        end: |scene| scene.primary.signal(KEEPER, Signal::SIGCONT).map(drop),
        ..FAULT
    },
    Fault {
        name: "keeper-stop",
        says: "the keeper on {primary} is stopped for 10 s",
        closed: seconds(15),
        lasts: seconds(10),
        expects: Expects::Stays,
        needs: Needs::Rolegate,
        begin: |scene| scene.primary.sh("systemctl stop rolegate-keeper").map(drop),
        end: |scene| scene.primary.sh("systemctl start rolegate-keeper").map(drop),
        ..FAULT
    },
    Fault {
        name: "keepers-kill-failover",
        says: "SENTINEL FAILOVER by hand, and all keepers are killed 0.2 s later",
        expects: Expects::Moves,
        needs: Needs::Rolegate,
        is_single: false,
        begin: |scene| {
            scene.primary.redis(26379, FAILOVER)?;
            thread::sleep(Duration::from_millis(200));
            on_all(scene, |node| node.signal(KEEPER, Signal::SIGKILL).map(drop))
        },
        ..FAULT
    },
    Fault {
        name: "full",
        says: "/run and rolegate's state directory are full on {primary}, and 8 s later SENTINEL FAILOVER by hand",
        lasts: seconds(18),
        expects: Expects::Moves,
        needs: Needs::Rolegate,
        begin: |scene| {
            fill(&scene.primary)?;
            // Time for monitors and renewals.
            thread::sleep(seconds(8));
            scene.primary.redis(26379, FAILOVER).map(drop)
        },
        end: |scene| empty(&scene.primary),
        ..FAULT
    },
    Fault {
        name: "full-successor",
        says: "/run and rolegate's state directory are full on {other}, whose Redis alone may be chosen, and SENTINEL FAILOVER by hand",
        lasts: seconds(25),
        closed: seconds(20),
        needs: Needs::Rolegate,
        begin: |scene| {
            fill(&scene.others[0])?;
            scene.others[1].redis(6379, &["CONFIG", "SET", "replica-priority", "200"])?;
            // Sentinels ask each 10 s.
            thread::sleep(seconds(11));
            scene.primary.redis(26379, FAILOVER).map(drop)
        },
        end: |scene| {
            scene.others[1].redis(6379, &["CONFIG", "SET", "replica-priority", "100"])?;
            empty(&scene.others[0])
        },
        ..FAULT
    },
    Fault {
        name: "journald-freeze",
        says: "journald stands still on all nodes, and 2 s later SENTINEL FAILOVER by hand",
        closed: seconds(5),
        lasts: seconds(15),
        expects: Expects::Moves,
        begin: |scene| {
            on_all(scene, |node| node.signal(JOURNALD, Signal::SIGSTOP).map(drop))?;
            thread::sleep(seconds(2));
            scene.primary.redis(26379, FAILOVER).map(drop)
        },
        end: |scene| on_all(scene, |node| node.signal(JOURNALD, Signal::SIGCONT).map(drop)),
        ..FAULT
    },
    // The cluster.
    Fault {
        name: "pacemaker-kill",
        says: "Pacemaker on {primary} is killed",
        lasts: seconds(15),
        expects: Expects::Untouched,
        needs: Needs::Rolegate,
        // systemd starts it again after a second; the others may have decided by then, or not.
        power: Power::Either,
        begin: |scene| signal_all(scene, &PACEMAKER, Signal::SIGKILL),
        end: |scene| scene.primary.sh("systemctl reset-failed pacemaker; systemctl start pacemaker").map(drop),
        ..FAULT
    },
    Fault {
        name: "pacemaker-freeze",
        says: "Pacemaker on {primary} stands still for 12 s",
        lasts: seconds(12),
        expects: Expects::Untouched,
        needs: Needs::Rolegate,
        begin: |scene| signal_all(scene, &PACEMAKER, Signal::SIGSTOP),
        end: |scene| signal_all(scene, &PACEMAKER, Signal::SIGCONT),
        ..FAULT
    },
    Fault {
        name: "corosync-kill",
        says: "corosync on {primary} is killed",
        lasts: seconds(15),
        expects: Expects::Untouched,
        needs: Needs::Rolegate,
        power: Power::IsCut,
        begin: |scene| signal_all(scene, &["corosync"], Signal::SIGKILL),
        end: |scene| {
            scene.primary.sh_within(
                seconds(60),
                "systemctl reset-failed corosync pacemaker; systemctl start corosync; systemctl start pacemaker",
            )?;
            Ok(())
        },
        ..FAULT
    },
    Fault {
        name: "corosync-freeze",
        says: "corosync on {primary} stands still for 20 s",
        lasts: seconds(20),
        expects: Expects::Untouched,
        needs: Needs::Rolegate,
        power: Power::IsCut,
        begin: |scene| signal_all(scene, &["corosync"], Signal::SIGSTOP),
        end: |scene| signal_all(scene, &["corosync"], Signal::SIGCONT),
        ..FAULT
    },
    Fault {
        name: "flush",
        says: "nft flush ruleset on {primary}",
        closed: seconds(1),
        expects: Expects::Stays,
        needs: Needs::Rolegate,
        begin: |scene| scene.primary.sh("nft flush ruleset").map(drop),
        ..FAULT
    },
    Fault {
        name: "ruleset-reload",
        says: "the ruleset of {primary} is saved, flushed and loaded again",
        closed: seconds(1),
        expects: Expects::Stays,
        needs: Needs::Rolegate,
        begin: |scene| {
            let script = "nft list ruleset > /run/saved.nft; nft flush ruleset; sleep 0.5; nft -f /run/saved.nft";
            scene.primary.sh(script).map(drop)
        },
        ..FAULT
    },
    Fault {
        name: "nftables-reload",
        says: "systemctl reload nftables on {primary}: Debian's /etc/nftables.conf, which begins with flush ruleset",
        closed: seconds(1),
        expects: Expects::Stays,
        needs: Needs::Rolegate,
        // Starting and stopping it flush the ruleset as well.
        before: |scene| nftables(scene, "start"),
        begin: |scene| scene.primary.sh("systemctl reload nftables").map(drop),
        after: |scene| nftables(scene, "stop"),
        ..FAULT
    },
    // Operations.
    Fault {
        name: "standby",
        says: "{primary} is put into standby for 12 s",
        closed: seconds(12),
        lasts: seconds(12),
        expects: Expects::Moves,
        needs: Needs::Gate,
        begin: |scene| pcs(&scene.others[0], &["node", "standby", scene.primary.name()]),
        end: |scene| pcs(&scene.others[0], &["node", "unstandby", scene.primary.name()]),
        ..FAULT
    },
    Fault {
        name: "cluster-stop",
        says: "pcs cluster stop on {primary}, and start after 12 s",
        closed: seconds(12),
        lasts: seconds(12),
        expects: Expects::Moves,
        needs: Needs::Gate,
        begin: |scene| scene.primary.sh_within(seconds(60), "pcs cluster stop").map(drop),
        end: |scene| scene.primary.sh_within(seconds(60), "pcs cluster start").map(drop),
        ..FAULT
    },
    Fault {
        name: "ban",
        says: "the promoted gate is banned from {primary} for 12 s",
        closed: seconds(12),
        lasts: seconds(12),
        expects: Expects::Moves,
        needs: Needs::Gate,
        begin: |scene| ban(scene, "--ban"),
        end: |scene| ban(scene, "--clear"),
        ..FAULT
    },
    Fault {
        name: "move",
        says: "crm_resource --move of the promoted gate to {other}, cleared after 12 s",
        lasts: seconds(12),
        // Pacemaker may want that, but it leaves a promoted gate where it is as long as its role says so.
        expects: Expects::Untouched,
        needs: Needs::Gate,
        begin: |scene| {
            let to = scene.others[0].name();
            scene.others[0].ask("crm_resource", &["--move", "-r", "RedisGate-clone", "--promoted", "-N", to]).map(drop)
        },
        end: |scene| scene.others[0].ask("crm_resource", &["--clear", "-r", "RedisGate-clone"]).map(drop),
        ..FAULT
    },
    Fault {
        name: "failcount",
        says: "the gate fails on {primary}, with migration-threshold=1, and is cleaned up after 12 s",
        lasts: seconds(12),
        expects: Expects::Moves,
        needs: Needs::Gate,
        before: |scene| pcs(&scene.others[0], &["resource", "meta", "RedisGate", "migration-threshold=1"]),
        begin: |scene| {
            let node = scene.primary.name();
            scene.others[0].ask("crm_resource", &["--fail", "-r", "RedisGate", "-N", node]).map(drop)
        },
        end: |scene| scene.others[0].ask("crm_resource", &["--cleanup", "-r", "RedisGate"]).map(drop),
        after: |scene| pcs(&scene.others[0], &["resource", "meta", "RedisGate", "migration-threshold="]),
        ..FAULT
    },
    Fault {
        name: "parameter",
        says: "the gate's parameter ro_max_stale is changed, and changed back after 10 s: Pacemaker restarts the gate twice",
        lasts: seconds(10),
        expects: Expects::Stays,
        closed: seconds(10),
        needs: Needs::Gate,
        begin: |scene| pcs(&scene.others[0], &["resource", "update", "RedisGate", "ro_max_stale=120s"]),
        end: |scene| pcs(&scene.others[0], &["resource", "update", "RedisGate", "ro_max_stale="]),
        ..FAULT
    },
    Fault {
        name: "disable",
        says: "the gate is disabled for 10 s",
        closed: seconds(15),
        lasts: seconds(10),
        expects: Expects::Stays,
        needs: Needs::Gate,
        begin: |scene| pcs(&scene.others[0], &["resource", "disable", "RedisGate"]),
        end: |scene| pcs(&scene.others[0], &["resource", "enable", "RedisGate"]),
        ..FAULT
    },
    Fault {
        name: "refresh",
        says: "crm_resource --refresh of the gate",
        expects: Expects::Untouched,
        needs: Needs::Gate,
        begin: |scene| scene.others[0].ask("crm_resource", &["--refresh", "-r", "RedisGate"]).map(drop),
        ..FAULT
    },
    Fault {
        name: "cleanup",
        says: "crm_resource --cleanup of the gate",
        expects: Expects::Untouched,
        needs: Needs::Gate,
        begin: |scene| scene.others[0].ask("crm_resource", &["--cleanup", "-r", "RedisGate"]).map(drop),
        ..FAULT
    },
    Fault {
        name: "maintenance-failover",
        says: "SENTINEL FAILOVER by hand while Pacemaker is in maintenance mode for 12 s",
        closed: seconds(20),
        lasts: seconds(12),
        expects: Expects::Moves,
        needs: Needs::Rolegate,
        begin: |scene| {
            pcs(&scene.others[0], &["property", "set", "maintenance-mode=true"])?;
            thread::sleep(seconds(2));
            scene.primary.redis(26379, FAILOVER).map(drop)
        },
        end: |scene| pcs(&scene.others[0], &["property", "set", "maintenance-mode=false"]),
        ..FAULT
    },
    Fault {
        name: "maintenance-upgrade",
        says: "in maintenance mode Pacemaker and corosync are stopped on all nodes, their packages installed again, and both started",
        lasts: seconds(10),
        expects: Expects::Untouched,
        needs: Needs::Rolegate,
        begin: |scene| {
            pcs(&scene.others[0], &["property", "set", "maintenance-mode=true"])?;
            thread::sleep(seconds(2));
            on_all(scene, upgrade_pacemaker)?;
            wait_for("a cluster of three", seconds(60), || scene.bed.check())
        },
        end: |scene| pcs(&scene.others[0], &["property", "set", "maintenance-mode=false"]),
        ..FAULT
    },
];

/// Debian's `save`.
const SNAPSHOTS: &str = "3600 1 300 100 60 10000";

const KEEPER: &str = "rolegate-keeper";

const JOURNALD: &str = "systemd-journald";

const FAILOVER: &[&str] = &["SENTINEL", "FAILOVER", "mymaster"];

/// Works for 3 s.
const BUSY: &str = "local function now() local t = redis.call('TIME') return t[1] + t[2] / 1e6 end \
                    local start = now() while now() < start + 3 do end return 1";

/// Stops Pacemaker and corosync on a node, installs what it runs of both anew as apt would, and starts them.
fn upgrade_pacemaker(node: &Host) -> Result<()> {
    let programs = || Ok::<_, anyhow::Error>(node.sh("stat -c %i /usr/sbin/corosync /usr/sbin/pacemakerd")?.text());
    node.sh_within(seconds(90), "systemctl stop pacemaker corosync")?;
    let before = programs()?;
    let install = "DEBIAN_FRONTEND=noninteractive dpkg --force-confold --force-unsafe-io --install";
    node.sh_within(seconds(90), &format!("{install} {UPGRADE}/*.deb"))?;
    let after = programs()?;
    ensure!(
        before.lines().zip(after.lines()).all(|(before, after)| before != after),
        "{before} and {after}: no upgrade"
    );
    node.sh_within(seconds(90), "systemctl start corosync pacemaker")?;
    Ok(())
}

/// Sentinels' down-after.
fn down_after(scene: &Scene, time: Duration) -> Result<()> {
    let time = time.as_millis().to_string();
    on_all(scene, |node| {
        node.redis(26379, &["SENTINEL", "SET", "mymaster", "down-after-milliseconds", &time]).map(drop)
    })
}

/// A command that keeps a server busy for longer than others may take.
fn takes_long(node: &Host, command: &[&str]) -> Result<()> {
    let done = node.cmd(node.bed().server().cli())?.arg("-e").args(command.iter().copied()).deadline(seconds(30)).run();
    done.with_context(|| format!("on {}", node.name())).map(drop)
}

/// Has a node's Sentinel forget all but its run id and current epoch, and monitor the primary as the bed's configuration has it, but for the hook.
fn monitor_anew(node: &Host, primary: &Host) -> Result<()> {
    let options = node.bed().options();
    node.redis(26379, &["SENTINEL", "REMOVE", "mymaster"])?;
    node.redis(26379, &["SENTINEL", "MONITOR", "mymaster", &primary.address(), "6379", "2"])?;
    for (name, value) in
        [("down-after-milliseconds", options.down_after), ("failover-timeout", options.failover_timeout)]
    {
        node.redis(26379, &["SENTINEL", "SET", "mymaster", name, &value.as_millis().to_string()])?;
    }
    Ok(())
}

/// Gives Sentinel its hook back, where rolegate is installed, and restarts it.
fn hook_anew(node: &Host) -> Result<()> {
    let (unit, config) = (node.bed().server().sentinel(), node.bed().server().sentinel_config());
    let line = format!("sentinel client-reconfig-script mymaster /{HOOK}");
    node.sh_within(
        seconds(30),
        &format!(
            "test -x /{HOOK} || exit 0
             systemctl stop {unit}
             grep -qxF '{line}' {config} || echo '{line}' >> {config}
             systemctl start {unit}"
        ),
    )?;
    thread::sleep(seconds(2));
    Ok(())
}

/// Begins a failover at a node's Sentinel, and resets it between the promotion, when it names the new primary, and the end of that
/// failover. The failover's epoch.
fn reset_in_failover(scene: &Scene, node: &Host) -> Result<u64> {
    let old = scene.primary.address();
    node.bed().in_net(node.name(), || {
        let client = redis::Client::open((Ipv4Addr::LOCALHOST.to_string(), 26379))?;
        let mut connection = client.get_connection_with_timeout(seconds(1))?;
        connection.set_read_timeout(Some(seconds(1)))?;
        let _: () = redis::cmd("SENTINEL").arg("FAILOVER").arg("mymaster").query(&mut connection)?;
        let begun = Instant::now();
        while begun.elapsed() < seconds(10) {
            let mut questions = redis::Pipeline::new();
            questions.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg("mymaster");
            questions.cmd("SENTINEL").arg("MASTER").arg("mymaster");
            let ((named, _port), master): ((String, u16), Vec<String>) = questions.query(&mut connection)?;
            let value = |key: &str| master.chunks(2).find(|pair| pair[0] == key).map_or("", |pair| pair[1].as_str());
            if named != old {
                ensure!(value("flags").contains("failover_in_progress"), "its failover is over: {}", value("flags"));
                let _: u64 = redis::cmd("SENTINEL").arg("RESET").arg("mymaster").query(&mut connection)?;
                return Ok(value("config-epoch").parse()?);
            }
            thread::sleep(Duration::from_millis(5));
        }
        bail!("no promotion in 10 s")
    })?
}

/// What systemctl does with Debian's nftables.service on the primary's node, until the gate is made anew.
fn nftables(scene: &Scene, what: &str) -> Result<()> {
    scene.primary.sh(&format!("systemctl {what} nftables"))?;
    wait_for("the gate to be made anew", seconds(30), || gates::check(scene.bed, 1))
}

/// Fills /run and, on a small file system put over it, rolegate's state directory, until no byte fits any more.
fn fill(node: &Host) -> Result<()> {
    node.sh_within(
        seconds(30),
        "cp -a /var/lib/rolegate /root/state
         mount -t tmpfs -o size=256k,mode=0755 full /var/lib/rolegate
         cp -a /root/state/. /var/lib/rolegate/
         used=$(df -k --output=used /run | tail -n 1)
         mount -o remount,size=$((used + 256))k /run
         for directory in /run /var/lib/rolegate; do
             cat /dev/zero > $directory/filler 2> /dev/null || :
             if echo more > $directory/more; then echo $directory is not full >&2; exit 1; fi 2> /dev/null
             rm -f $directory/more
         done",
    )
    .map(drop)
}

/// Ends [`fill`]; what was written meanwhile stays.
fn empty(node: &Host) -> Result<()> {
    node.sh_within(
        seconds(30),
        "mount -o remount,size=20% /run
         rm -f /run/filler /var/lib/rolegate/filler
         rm -rf /root/state
         cp -a /var/lib/rolegate /root/state
         umount -l /var/lib/rolegate
         rm -rf /var/lib/rolegate/*
         cp -a /root/state/. /var/lib/rolegate/
         rm -rf /root/state",
    )
    .map(drop)
}

/// Pacemaker's processes, first the one that starts the others again.
const PACEMAKER: [&str; 7] = [
    "pacemakerd",
    "pacemaker-controld",
    "pacemaker-execd",
    "pacemaker-attrd",
    "pacemaker-schedulerd",
    "pacemaker-fenced",
    "pacemaker-based",
];

fn kill_redis(scene: &Scene) -> Result<()> {
    scene.primary.signal(scene.bed.server().unit(), Signal::SIGKILL).map(drop)
}

fn kill_for_good(scene: &Scene) -> Result<()> {
    // Masked while it runs, so that systemd does not start it again.
    let unit = scene.bed.server().unit();
    scene.primary.sh(&format!("systemctl mask --runtime {unit}.service 2>/dev/null"))?;
    kill_redis(scene)
}

fn start_redis(scene: &Scene) -> Result<()> {
    let unit = scene.bed.server().unit();
    scene.primary.sh(&format!("systemctl unmask --runtime {unit}.service; systemctl start {unit}.service")).map(drop)
}

/// What systemctl does with a node's Sentinel.
fn sentinel(node: &Host, what: &str) -> Result<()> {
    node.sh(&format!("systemctl {what} {}", node.bed().server().sentinel())).map(drop)
}

fn stop_redis(scene: &Scene) -> Result<()> {
    scene.primary.signal(scene.bed.server().unit(), Signal::SIGSTOP).map(drop)
}

fn continue_redis(scene: &Scene) -> Result<()> {
    scene.primary.signal(scene.bed.server().unit(), Signal::SIGCONT).map(drop)
}

/// What all servers keep on their disks.
fn persist(scene: &Scene, append_only: &str, save: &str) -> Result<()> {
    for node in scene.bed.nodes() {
        node.redis(6379, &["CONFIG", "SET", "appendonly", append_only, "save", save])?;
        node.redis(6379, &["CONFIG", "REWRITE"])?;
        wait_for("the first rewrite of the AOF", seconds(30), || {
            let info = node.redis(6379, &["INFO", "persistence"])?;
            let done = |line| info.contains(line);
            ensure!(done("aof_rewrite_in_progress:0") && done("aof_rewrite_scheduled:0"), "{info}");
            Ok(())
        })?;
    }
    Ok(())
}

fn isolate(scene: &Scene) -> Result<()> {
    scene.bed.isolate(&[scene.primary.name(), BESIDE])
}

fn heal(scene: &Scene) -> Result<()> {
    scene.bed.heal()
}

/// No packet to `port` of `to` passes, from one host or from all.
fn cut(scene: &Scene, from: Option<&Host>, to: &Host, port: u16) -> Result<()> {
    scene.bed.drop_packets(&DropRule {
        from: from.map(|host| host.name().to_owned()),
        to: Some(to.name().to_owned()),
        dport: Some(port),
        ..DropRule::default()
    })
}

/// `signal` to the processes of these programs on the primary's node.
fn signal_all(scene: &Scene, programs: &[&str], signal: Signal) -> Result<()> {
    let mut sent = 0;
    for program in programs {
        // One may have ended with another.
        sent += scene.primary.signal(program, signal).unwrap_or_default();
    }
    ensure!(sent > 0, "none of {programs:?} runs on {}", scene.primary.name());
    Ok(())
}

/// The same on all nodes at once.
fn on_all(scene: &Scene, act: impl Fn(&Host) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let act = &act;
        let acting: Vec<_> = scene.bed.nodes().map(|node| scope.spawn(move || act(&node))).collect();
        let mut done = Ok(());
        for thread in acting {
            done = done.and(thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked"))));
        }
        done
    })
}

fn pcs(on: &Host, args: &[&str]) -> Result<()> {
    on.cmd("pcs")?.args(args.iter().copied()).deadline(seconds(30)).run()?;
    Ok(())
}

/// Changes what keeps the promoted gate off the primary's node.
fn ban(scene: &Scene, what: &str) -> Result<()> {
    let node = scene.primary.name();
    scene.others[0].ask("crm_resource", &[what, "-r", "RedisGate-clone", "--promoted", "-N", node]).map(drop)
}

/// That definitions are whole: a name of its own each, eight chief ones.
///
/// # Errors
/// When they are not.
pub fn are_whole() -> Result<()> {
    let names: std::collections::BTreeSet<&str> = FAULTS.iter().map(|fault| fault.name).collect();
    ensure!(names.len() == FAULTS.len() && !names.contains(""), "{names:?}");
    let chief: Vec<&Fault> = FAULTS.iter().filter(|fault| fault.is_chief).collect();
    // What is expected is judged by what was seen.
    let named = |name: &str| Fault::named(name).map_err(anyhow::Error::msg);
    let untouched = Came::default();
    let (some, moved) = (Came { closed: Duration::from_millis(1), ..untouched }, Came { moved: true, ..untouched });
    let (cut, unanswered) = (Came { cut: 3, ..untouched }, Came { unanswered: 1, ..untouched });
    let refused = Came { refused: 1, ..untouched };
    for (name, wanted) in [
        ("reset", [true, false, false, false]),
        ("client-kill", [true, true, false, false]),
        ("busy-script", [true, false, true, true]),
    ] {
        let fault = named(name)?;
        let met = [untouched, cut, unanswered, refused].map(|came| fault.met(&came));
        ensure!(met == wanted && !fault.met(&some) && !fault.met(&moved), "{name}: {met:?}");
    }
    let two = named("failover-two-reset")?;
    ensure!(two.missed(&[5, 5]).is_none() && named("reset")?.missed(&[]).is_none());
    for epochs in [&[][..], &[5], &[5, 6], &[5, 5, 5]] {
        ensure!(two.missed(epochs).is_some(), "{epochs:?}");
    }
    // Where there is STONITH, with no, one and two nodes' power cut.
    let cut = ["node1", "node2"].map(str::to_owned);
    for (name, came, wanted) in [
        ("kill", moved, [true, false, false]),
        ("isolate", moved, [false, true, false]),
        ("corosync-freeze", moved, [false, true, false]),
        ("corosync-freeze", untouched, [false; 3]),
        ("pacemaker-freeze", untouched, [true, false, false]),
        ("blip", untouched, [true; 3]),
        ("blip", moved, [false, true, true]),
    ] {
        let fault = named(name)?;
        let met = [0, 1, 2].map(|count| fault.met_with_stonith(&came, &cut[..count]));
        let long = Came { closed: FENCED + Duration::from_millis(1), ..came };
        ensure!(met == wanted && !fault.met_with_stonith(&long, &cut[..1]), "{name} with STONITH: {met:?}");
    }
    // Comparison systems have no gate.
    ensure!(chief.len() == 8 && chief.iter().all(|fault| fault.needs == Needs::Sentinel), "{chief:?}");
    Ok(())
}
