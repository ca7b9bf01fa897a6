#!/bin/sh
# The classic layout of one Redis or Valkey group, for pcs: what runs on a node blocks a port there.
# The same cluster as ocf/crmsh/block.crm and ocf/xml/block.xml; a test compares them. Use this or
# gate.sh, not both.
#
#   pcs cluster cib rolegate.xml
#   sh block.sh -f rolegate.xml
#   sh acl.sh -f rolegate.xml            # lets Sentinel's hook in, and nothing more
#   pcs cluster cib-push rolegate.xml
#   rolegate init                        # finds the Sentinels, writes the record and the roles
#
# The arguments are given to each pcs. Work on a file, as above, so that the cluster gets the
# resources and their rules in one step.
set -eu

# Why these values:
#   monitor 10s             says whether the port is closed for real. It opens nothing.
#   timeouts 20s            a firewall transaction and the cutting of connections: milliseconds, a
#                           second or two with ten thousand clients. The rest is for a node under load.
#   stop, without on-fail   Pacemaker's default is right: STONITH where it is enabled, and else the
#                           block is left alone, closed, until somebody looks.
#   failure-timeout=15s     after this time failures are forgotten and a block that could not start
#                           is tried again.
#   no migration-threshold  a block that gave up would block no more.
pcs "$@" resource create RedisLBReadBlock ocf:rolegate:block port=ro \
	op start interval=0s timeout=20s on-fail=restart \
	stop interval=0s timeout=20s \
	monitor interval=10s timeout=20s on-fail=restart \
	meta failure-timeout=15s \
	--no-default-ops
pcs "$@" resource create RedisLBWriteBlock ocf:rolegate:block port=rw \
	op start interval=0s timeout=20s on-fail=restart \
	stop interval=0s timeout=20s \
	monitor interval=10s timeout=20s on-fail=restart \
	meta failure-timeout=15s \
	--no-default-ops

pcs "$@" resource clone RedisLBReadBlock RedisLBReadBlock-clone interleave=true
pcs "$@" resource clone RedisLBWriteBlock RedisLBWriteBlock-clone interleave=true

# Both ports blocked where the role is fail or an operator has fenced the node, 6381 where it is
# replica, too.
pcs "$@" constraint location RedisLBReadBlock-clone rule id=RedisLBReadBlock-closed-rule \
	constraint-id=RedisLBReadBlock-closed score=INFINITY redis_role eq fail or defined redis_fence
pcs "$@" constraint location RedisLBWriteBlock-clone rule id=RedisLBWriteBlock-closed-rule \
	constraint-id=RedisLBWriteBlock-closed score=INFINITY \
	redis_role eq fail or redis_role eq replica or defined redis_fence

# Nowhere else. Needed with symmetric-cluster=true; changes nothing else.
pcs "$@" constraint location RedisLBReadBlock-clone rule id=RedisLBReadBlock-primary-rule \
	constraint-id=RedisLBReadBlock-primary score=-INFINITY redis_role eq primary and not_defined redis_fence
pcs "$@" constraint location RedisLBReadBlock-clone rule id=RedisLBReadBlock-replica-rule \
	constraint-id=RedisLBReadBlock-replica score=-INFINITY redis_role eq replica and not_defined redis_fence
pcs "$@" constraint location RedisLBWriteBlock-clone rule id=RedisLBWriteBlock-primary-rule \
	constraint-id=RedisLBWriteBlock-primary score=-INFINITY redis_role eq primary and not_defined redis_fence
