//! The checks: what each looks at, what is expected, and why it matters. `docs/doctor.md` has the same list; a test compares them.

/// A check.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// Its name, which stays.
    pub id: &'static str,
    /// What it looks at.
    pub what: &'static str,
    /// What is right.
    pub expected: &'static str,
    /// Why it matters.
    pub why: &'static str,
    /// It sees the node only on which it runs.
    pub here_only: bool,
}

const fn of_cluster(id: &'static str, what: &'static str, expected: &'static str, why: &'static str) -> Check {
    Check { id, what, expected, why, here_only: false }
}

const fn here(id: &'static str, what: &'static str, expected: &'static str, why: &'static str) -> Check {
    Check { here_only: true, ..of_cluster(id, what, expected, why) }
}

/// All of them, in the order in which they are shown.
pub const CHECKS: &[Check] = &[
    here(
        "settings",
        "rolegate's own settings and password files",
        "files that can be read, without unknown keys",
        "keeper, agent and hook read the same files; with broken ones they open nothing",
    ),
    here(
        "pacemaker",
        "Pacemaker on this node",
        "it answers",
        "without it the gate of this node is never promoted, and never closed by the cluster either",
    ),
    of_cluster(
        "gate",
        "the gate resource, its record and its location rules",
        "a gate for each master name, with a record, placed by role and by fence",
        "the record is what every proof stands on; without it nothing opens",
    ),
    of_cluster("quorum", "this partition's quorum", "it has quorum", "a partition without it runs no gate"),
    of_cluster(
        "quorum-policy",
        "the property no-quorum-policy",
        "stop (or suicide, fence)",
        "what a minority still runs or writes can win when the partitions join",
    ),
    of_cluster("maintenance", "maintenance mode", "off", "in it Pacemaker promotes nobody after a failover"),
    of_cluster(
        "stonith",
        "the property stonith-enabled, and fencing devices",
        "true, with a fencing device (or stonith-watchdog-timeout); whether it works, only a try shows",
        "the lease ends a stale primary without it, but not a paused virtual machine, and other resources (a VIP) need it",
    ),
    of_cluster(
        "symmetric",
        "symmetric-cluster and the rule that lets the gate run",
        "true, or a location rule that allows the gate where it has a role",
        "in an opt-in cluster a gate without such a rule runs nowhere",
    ),
    of_cluster("writers", "who takes writes", "the one node that Sentinels name", "this is what all the rest is for"),
    of_cluster("members", "the nodes' membership", "online", "a node that is not cannot take over"),
    of_cluster("fences", "fenced nodes", "none", "a fenced node stays closed until somebody unfences it"),
    of_cluster("bans", "constraints that keep the gate off nodes", "none", "a node that is banned cannot take over"),
    of_cluster(
        "roles",
        "the role attributes, and transient ones that hide lasting ones",
        "primary where Sentinels name it, replica elsewhere, no transient one",
        "Pacemaker promotes by them; a transient one wins, and no program of rolegate writes it",
    ),
    of_cluster(
        "failures",
        "failed actions of the gate",
        "none",
        "five in a row, and the gate is stopped on that node for a time",
    ),
    of_cluster(
        "ports",
        "what clients get on both ports",
        "6380 open where the data can be read, each leading to that node's Redis",
        "clients need no knowledge of Sentinel only as long as the ports tell the truth",
    ),
    of_cluster(
        "keeper",
        "the keepers' lines to the Sentinels",
        "one of each node",
        "a node without a keeper cannot take writes, and is not seen to be closed",
    ),
    here(
        "keeper-unit",
        "rolegate-keeper.service: running, enabled, its priority",
        "active, enabled, SCHED_RR 99, OOM score -1000, memory locked, the program that is installed",
        "it renews a lease of seconds: what pauses it costs writes, and one that does not start at boot leaves the node closed",
    ),
    here(
        "last-proof",
        "how close the lease came to its end",
        "a quarter of it left at the least, on the node that takes writes",
        "a lease that is renewed late runs out under load",
    ),
    here(
        "firewall",
        "rolegate's own rules, and programs on its ports",
        "intact, and nobody listens there",
        "the redirect is the gate",
    ),
    here(
        "firewall-backend",
        "the programs of the firewall that is used",
        "installed",
        "without them the gate cannot be made anew after a flush or a boot",
    ),
    here(
        "foreign-rules",
        "other rules about the ports",
        "none that leave them untracked, send them elsewhere or drop them; redirected connections are let in",
        "without connection tracking there is no redirect; a firewall that drops makes clients hang",
    ),
    here("conntrack", "room for tracked connections", "a fifth free", "when it is full, new connections are dropped"),
    here(
        "direct",
        "access to Redis' own port past the gate",
        "a firewall, or direct in the settings, that lets only nodes and Sentinels reach it",
        "who writes there after a failover writes to a server whose data will be thrown away",
    ),
    of_cluster(
        "sentinel-count",
        "how many Sentinels there are",
        "three or more, an odd number, each on a host of its own, each knowing all others",
        "a majority decides; two cannot lose one, and of two on one host one failure takes both",
    ),
    of_cluster(
        "sentinel-quorum",
        "each Sentinel's quorum for the master name",
        "a majority of the Sentinels",
        "below it one Sentinel's bad line begins failovers; above their number none begins",
    ),
    of_cluster(
        "sentinel-agreement",
        "whom each Sentinel names",
        "all of them the same node, none in TILT",
        "one that goes on naming another node does not come round by itself, and is missing in every majority",
    ),
    of_cluster(
        "sentinel-epochs",
        "the configuration epochs",
        "the same everywhere, not below the one with which a port was opened here",
        "Sentinels believe the higher one: one that was set up anew can be told old things",
    ),
    of_cluster(
        "down-after",
        "down-after-milliseconds",
        "the same everywhere, longer than the lease",
        "where it is shorter, a successor is named while the old primary's lease still runs, and has to wait",
    ),
    here(
        "reboot-down-after",
        "master-reboot-down-after-period of the Sentinel here",
        "0, its default",
        "with it Sentinels depose a primary that has just booted with the others, for one that may have less",
    ),
    of_cluster(
        "scripts",
        "client-reconfig-script of each Sentinel, and scripts that wait",
        "rolegate-hook, and none waits: one that failed to be tried again, another to be started",
        "the hook makes roles follow at once; without it keepers do that alone",
    ),
    here(
        "hook",
        "the hook under Sentinel's restrictions: run as its user, in its groups and mount namespace",
        "it runs, reads its settings, and reaches Pacemaker, Redis and Sentinels",
        "Debian's units forbid Sentinel to run programs, and it says so only in its log",
    ),
    here(
        "cluster-acl",
        "what Sentinel's user may change in the cluster: tried on a copy",
        "the role attributes, and nothing else",
        "group haclient alone may change the whole cluster, which is as good as root on each node",
    ),
    of_cluster("access", "whether servers let us in", "all do", "what cannot be asked cannot be proven"),
    of_cluster(
        "sentinel-rights",
        "what each Sentinel lets our user do",
        "all that keeper and switchover ask for",
        "without CLIENT SETNAME and CLIENT LIST there is no lease",
    ),
    of_cluster(
        "redis-rights",
        "what each Redis lets our user do",
        "INFO, CONFIG GET, SET and REWRITE, REPLICAOF",
        "vetoes and switchovers change settings, and put them back; a promotion that a Sentinel takes back is repeated",
    ),
    of_cluster(
        "redis",
        "each Redis and its replication",
        "all answer and follow the primary",
        "a replica that does not cannot take over",
    ),
    of_cluster(
        "min-replicas",
        "min-replicas-to-write and min-replicas-max-lag",
        "1 or more (below the number of replicas, where there are two or more), and 10 s or less, on every node",
        "with 0 a primary that no replica hears goes on acknowledging writes that only it has",
    ),
    of_cluster(
        "announce",
        "the addresses that replicas announce",
        "those of the record",
        "Sentinels promote a replica by its announced address; one that no record has opens no gate",
    ),
    here(
        "restart-as-primary",
        "what this node's Redis is when it starts",
        "a replica's stored configuration has replicaof",
        "one without it starts as a primary, and takes its clients' writes for ten seconds",
    ),
    of_cluster(
        "persistence",
        "what survives a restart",
        "RDB or AOF, and the last save went well",
        "an empty primary that comes back is an empty cluster where no replica is left; a failed save stops writes",
    ),
    of_cluster(
        "hello",
        "who may publish on __sentinel__:hello",
        "Sentinel's own user alone",
        "whoever may tells Sentinels which server is primary",
    ),
    of_cluster(
        "bind",
        "the addresses on which Redis listens",
        "all of the node's",
        "a redirect leads to the address of the interface by which the client came",
    ),
    of_cluster(
        "protected-mode",
        "protected mode and the default user's password",
        "a password, or no default user",
        "without one all who reach the port may do anything; in protected mode nobody from elsewhere may, not even replicas",
    ),
    here(
        "certificates",
        "the TLS certificates of Redis and Sentinel here",
        "valid for a month or more",
        "when one ends, replicas and Sentinels lose each other all at once",
    ),
    of_cluster(
        "versions",
        "versions of Redis, Sentinel, Pacemaker, rolegate and the kernel",
        "no replica older than its primary, Sentinels of 6.2 or later, the same Pacemaker and the same rolegate everywhere",
        "an older server cannot load a newer one's data; older Sentinels stop running scripts after sixteen failures; what a newer rolegate mends, an older one does not",
    ),
];

/// The check of that name.
pub fn get(id: &str) -> Option<&'static Check> {
    CHECKS.iter().find(|check| check.id == id)
}
