//! Every fault, defined once: what it does to a bed that is well, how long it lasts, how it ends, and what
//! rolegate is expected to make of it.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use super::{Bed, CLIENTS, DropRule, Host, wait_for};

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
    /// One of the eight that are run where there is little time.
    pub is_chief: bool,
    /// What a bed must have for it.
    pub needs: Needs,
    /// It ends only when writers have stopped and what they wrote was looked for: nothing comes back.
    pub outlasts_writers: bool,
    /// Sets the bed up for it, without writers. The bed must be well afterwards.
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
    /// The same node is primary in the end, and its gate was open all the time.
    Untouched,
    /// Either way is right.
    Either,
}

/// What a fault cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Redis and Sentinel.
    Sentinel,
    /// A gate, and Pacemaker, which carries it.
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
}

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
        Ok(Scene { bed, primary, others })
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
}

impl Expects {
    /// Whether it came as expected, given who was primary first and last, and for how long no gate was open.
    pub fn met(self, moved: bool, closed: Duration) -> bool {
        match self {
            Expects::Moves => moved,
            Expects::Stays => !moved,
            Expects::Untouched => !moved && closed.is_zero(),
            Expects::Either => true,
        }
    }

    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Expects::Moves => "moves",
            Expects::Stays => "stays",
            Expects::Untouched => "untouched",
            Expects::Either => "either",
        }
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
    lasts: seconds(15),
    expects: Expects::Either,
    is_chief: false,
    needs: Needs::Sentinel,
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
        expects: Expects::Stays,
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
        begin: |scene| scene.primary.redis(6379, &["EVAL", BUSY, "0"]).map(drop),
        ..FAULT
    },
    // The network.
    Fault {
        name: "isolate",
        says: "{primary} and client2 are cut off from the other hosts",
        lasts: seconds(20),
        expects: Expects::Moves,
        is_chief: true,
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
        name: "blip",
        says: "{primary} and client2 are cut off for 3 s",
        lasts: seconds(3),
        expects: Expects::Stays,
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
        name: "cut-redis-half",
        says: "{other} cannot reach port 6379 of {primary}; all others can",
        lasts: seconds(20),
        expects: Expects::Stays,
        begin: |scene| cut(scene, Some(&scene.others[0]), &scene.primary, 6379),
        end: heal,
        ..FAULT
    },
    Fault {
        name: "cut-sentinel",
        says: "{primary} and the other nodes cannot reach each other's port 26379; all else they can",
        lasts: seconds(20),
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
        lasts: seconds(20),
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
        expects: Expects::Stays,
        begin: |scene| on_all(scene, |node| sentinel(node, "restart")),
        ..FAULT
    },
    Fault {
        name: "sentinels-lost",
        says: "two Sentinels are stopped for 20 s",
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
        name: "client-kill",
        says: "CLIENT KILL of all connections to Redis on {primary} and to all Sentinels",
        expects: Expects::Untouched,
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
        expects: Expects::Moves,
        is_chief: true,
        begin: |scene| scene.primary.redis(26379, FAILOVER).map(drop),
        ..FAULT
    },
    Fault {
        name: "failover-two",
        says: "SENTINEL FAILOVER by hand on two Sentinels at once",
        lasts: seconds(20),
        expects: Expects::Moves,
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
        name: "failover-twice",
        says: "SENTINEL FAILOVER by hand, and again as soon as Sentinel allows",
        lasts: seconds(20),
        begin: |scene| {
            scene.primary.redis(26379, FAILOVER)?;
            wait_for("a second failover to begin", seconds(30), || scene.primary.redis(26379, FAILOVER).map(drop))
        },
        ..FAULT
    },
    Fault {
        name: "leader-freeze",
        says: "Redis on {primary} stands still, and so does the first Sentinel that begins a failover, for 40 s",
        lasts: seconds(40),
        expects: Expects::Moves,
        begin: |scene| {
            let count = "grep -c +try-failover /var/log/redis/redis-sentinel.log || :";
            let tries = |node: &Host| node.sh(count).map(|output| output.text());
            let before: Vec<String> = scene.bed.nodes().map(|node| tries(&node)).collect::<Result<_>>()?;
            stop_redis(scene)?;
            wait_for("a Sentinel to begin a failover", seconds(30), || {
                for (node, before) in scene.bed.nodes().zip(&before) {
                    if tries(&node)? != *before {
                        return node.signal("redis-sentinel", Signal::SIGSTOP).map(drop);
                    }
                }
                bail!("none has")
            })
        },
        end: |scene| {
            on_all(scene, |node| node.signal("redis-sentinel", Signal::SIGCONT).map(drop))?;
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
        begin: |scene| scene.primary.freeze(),
        end: |scene| scene.primary.thaw(),
        ..FAULT
    },
    Fault {
        name: "power-cut",
        says: "{primary} loses power, and boots again after 15 s",
        expects: Expects::Moves,
        is_chief: true,
        begin: |scene| scene.primary.power_off(),
        end: |scene| scene.primary.boot(),
        ..FAULT
    },
    Fault {
        name: "reboot",
        says: "{primary} is shut down in good order, and boots again after 15 s",
        expects: Expects::Moves,
        begin: |scene| scene.primary.shutdown(),
        end: |scene| scene.primary.boot(),
        ..FAULT
    },
    Fault {
        name: "power-cut-all",
        says: "all nodes lose power, and boot again after 5 s",
        lasts: seconds(5),
        begin: |scene| on_all(scene, |node| node.power_off()),
        end: |scene| on_all(scene, |node| node.boot()),
        ..FAULT
    },
    // The keeper.
    Fault {
        name: "keeper-kill",
        says: "the keeper on {primary} is killed; systemd restarts it",
        expects: Expects::Untouched,
        needs: Needs::Gate,
        begin: |scene| scene.primary.signal(KEEPER, Signal::SIGKILL).map(drop),
        ..FAULT
    },
    Fault {
        name: "keeper-freeze",
        says: "the keeper on {primary} stands still for 20 s",
        lasts: seconds(20),
        expects: Expects::Stays,
        needs: Needs::Gate,
        begin: |scene| scene.primary.signal(KEEPER, Signal::SIGSTOP).map(drop),
        // Its watchdog may have replaced it.
        end: |scene| scene.primary.signal(KEEPER, Signal::SIGCONT).map(drop),
        ..FAULT
    },
    Fault {
        name: "keeper-stop",
        says: "the keeper on {primary} is stopped for 10 s",
        lasts: seconds(10),
        expects: Expects::Stays,
        needs: Needs::Gate,
        begin: |scene| scene.primary.sh("systemctl stop rolegate-keeper").map(drop),
        end: |scene| scene.primary.sh("systemctl start rolegate-keeper").map(drop),
        ..FAULT
    },
    Fault {
        name: "keepers-kill-failover",
        says: "SENTINEL FAILOVER by hand, and all keepers are killed 0.2 s later",
        expects: Expects::Moves,
        needs: Needs::Gate,
        begin: |scene| {
            scene.primary.redis(26379, FAILOVER)?;
            thread::sleep(Duration::from_millis(200));
            on_all(scene, |node| node.signal(KEEPER, Signal::SIGKILL).map(drop))
        },
        ..FAULT
    },
    // The cluster.
    Fault {
        name: "pacemaker-kill",
        says: "Pacemaker on {primary} is killed",
        expects: Expects::Stays,
        needs: Needs::Gate,
        begin: |scene| signal_all(scene, &PACEMAKER, Signal::SIGKILL),
        end: |scene| scene.primary.sh("systemctl reset-failed pacemaker; systemctl start pacemaker").map(drop),
        ..FAULT
    },
    Fault {
        name: "pacemaker-freeze",
        says: "Pacemaker on {primary} stands still for 20 s",
        lasts: seconds(20),
        needs: Needs::Gate,
        begin: |scene| signal_all(scene, &PACEMAKER, Signal::SIGSTOP),
        end: |scene| signal_all(scene, &PACEMAKER, Signal::SIGCONT),
        ..FAULT
    },
    Fault {
        name: "corosync-kill",
        says: "corosync on {primary} is killed",
        needs: Needs::Gate,
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
        needs: Needs::Gate,
        begin: |scene| signal_all(scene, &["corosync"], Signal::SIGSTOP),
        end: |scene| signal_all(scene, &["corosync"], Signal::SIGCONT),
        ..FAULT
    },
    Fault {
        name: "flush",
        says: "nft flush ruleset on {primary}",
        expects: Expects::Stays,
        needs: Needs::Gate,
        begin: |scene| scene.primary.sh("nft flush ruleset").map(drop),
        ..FAULT
    },
    Fault {
        name: "ruleset-reload",
        says: "the ruleset of {primary} is saved, flushed and loaded again",
        expects: Expects::Stays,
        needs: Needs::Gate,
        begin: |scene| {
            let script = "nft list ruleset > /run/saved.nft; nft flush ruleset; sleep 0.5; nft -f /run/saved.nft";
            scene.primary.sh(script).map(drop)
        },
        ..FAULT
    },
    // Operations.
    Fault {
        name: "standby",
        says: "{primary} is put into standby for 20 s",
        lasts: seconds(20),
        expects: Expects::Moves,
        needs: Needs::Gate,
        begin: |scene| pcs(&scene.others[0], &["node", "standby", scene.primary.name()]),
        end: |scene| pcs(&scene.others[0], &["node", "unstandby", scene.primary.name()]),
        ..FAULT
    },
    Fault {
        name: "cluster-stop",
        says: "pcs cluster stop on {primary}, and start after 20 s",
        lasts: seconds(20),
        expects: Expects::Moves,
        needs: Needs::Gate,
        begin: |scene| scene.primary.sh_within(seconds(60), "pcs cluster stop").map(drop),
        end: |scene| scene.primary.sh_within(seconds(60), "pcs cluster start").map(drop),
        ..FAULT
    },
    Fault {
        name: "ban",
        says: "the promoted gate is banned from {primary} for 20 s",
        lasts: seconds(20),
        expects: Expects::Moves,
        needs: Needs::Gate,
        begin: |scene| ban(scene, "--ban"),
        end: |scene| ban(scene, "--clear"),
        ..FAULT
    },
    Fault {
        name: "disable",
        says: "the gate is disabled for 10 s",
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
        says: "SENTINEL FAILOVER by hand while Pacemaker is in maintenance mode for 20 s",
        lasts: seconds(20),
        expects: Expects::Moves,
        needs: Needs::Gate,
        begin: |scene| {
            pcs(&scene.others[0], &["property", "set", "maintenance-mode=true"])?;
            thread::sleep(seconds(2));
            scene.primary.redis(26379, FAILOVER).map(drop)
        },
        end: |scene| pcs(&scene.others[0], &["property", "set", "maintenance-mode=false"]),
        ..FAULT
    },
];

/// Debian's `save`.
const SNAPSHOTS: &str = "3600 1 300 100 60 10000";

const KEEPER: &str = "rolegate-keeper";

const FAILOVER: &[&str] = &["SENTINEL", "FAILOVER", "mymaster"];

/// Works for 3 s.
const BUSY: &str = "local function now() local t = redis.call('TIME') return t[1] + t[2] / 1e6 end \
                    local start = now() while now() < start + 3 do end return 1";

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
    // Those of comparison systems have no gate.
    ensure!(chief.len() == 8 && chief.iter().all(|fault| fault.needs == Needs::Sentinel), "{chief:?}");
    Ok(())
}
