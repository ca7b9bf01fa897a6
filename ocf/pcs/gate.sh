#!/bin/sh
# The gate of one Redis or Valkey group, for pcs. The same cluster as ocf/crmsh/gate.crm and
# ocf/xml/gate.xml; a test compares them.
#
#   pcs cluster cib rolegate.xml
#   sh gate.sh -f rolegate.xml
#   sh acl.sh -f rolegate.xml            # lets Sentinel's hook in, and nothing more
#   sh vip.sh -f rolegate.xml            # optional: an address that follows the primary
#   pcs cluster cib-push rolegate.xml
#   rolegate init                        # finds the Sentinels, writes the record and the roles
#
# The arguments are given to each pcs. Work on a file, as above, so that the cluster gets the
# resource and its rules in one step.
set -eu

# Why these values:
#   Promoted monitor 5s     tells Pacemaker what the keeper and the firewall do. It opens nothing
#                           for writing: the keeper's lease of 2 s does.
#   Unpromoted monitor 6s   Pacemaker tells recurring monitors apart by their interval.
#   monitor timeout 20s     for a node under load: a monitor that fails stops writes.
#   start, stop, demote     a firewall transaction and the cutting of connections: milliseconds,
#                           a second or two with ten thousand clients. The rest is for a node under
#                           load, because a stop or demote that fails costs most of all.
#   promote 30s             waits until the keeper has the lease: 2 s after a failover as a rule,
#                           3 s more where a lease of a lost node must run out. Longer would hold
#                           up the cluster's other work.
#   on-fail=demote          of promote and the Promoted monitor: writes stop, and readers keep
#                           their port, where a restart would cut them too.
#   stop, without on-fail   Pacemaker's default is right: STONITH where it is enabled, and else
#                           the gate is left alone until somebody looks.
#   failure-timeout=15s     after this time failures are forgotten, and what they stopped comes
#                           back by itself. It is also how long a failed promote waits for its
#                           next try unless anything else happens in the cluster (on-fail=restart
#                           would not change that). So it is short, as nobody takes writes
#                           meanwhile, but longer than two monitors are apart: failures that
#                           follow each other are counted together.
#   migration-threshold=5   of these, and the gate is stopped on that node, both ports, until
#                           failure-timeout is over: no endless recovery without a pause.
pcs "$@" resource create RedisGate ocf:rolegate:gate \
	op start interval=0s timeout=20s on-fail=restart \
	stop interval=0s timeout=30s \
	promote interval=0s timeout=30s on-fail=demote \
	demote interval=0s timeout=30s on-fail=restart \
	monitor interval=5s timeout=20s role=Promoted on-fail=demote \
	monitor interval=6s timeout=20s role=Unpromoted on-fail=restart \
	meta migration-threshold=5 failure-timeout=15s \
	--no-default-ops

# promoted-max=1    one node takes writes.
# interleave=true   what depends on the gate waits for the gate of its own node only.
# notify=false      the agent needs no notifications; they would add 12 actions to a failover.
pcs "$@" resource promotable RedisGate RedisGate-clone
pcs "$@" resource meta RedisGate-clone promoted-max=1 interleave=true notify=false

# Promoted where Sentinel's hook says primary. No promotion scores: this rule alone decides, and
# where nobody is primary nobody is promoted.
pcs "$@" constraint location RedisGate-clone rule id=RedisGate-primary-rule \
	constraint-id=RedisGate-primary role=Promoted score=INFINITY redis_role eq primary

# Stopped, both ports closed, where the role is fail or an operator has fenced the node.
pcs "$@" constraint location RedisGate-clone rule id=RedisGate-closed-rule \
	constraint-id=RedisGate-closed score=-INFINITY redis_role eq fail or defined redis_fence

# Allowed to run where there is a role. Needed with symmetric-cluster=false; changes nothing else.
pcs "$@" constraint location RedisGate-clone rule id=RedisGate-allowed-rule \
	constraint-id=RedisGate-allowed score=0 defined redis_role
