#!/bin/sh
# Optional: an address that follows the promoted gate. Put your own in ip and cidr_netmask.
#
# It wants STONITH. A gate on a node that the cluster has lost closes by itself, because the kernel
# ends what nobody renews; an address stays where it is. Without STONITH the cluster starts it on a
# second node beside it, and clients reach one or the other: writes fail at the closed gate until
# the lost node is dealt with. A load balancer that tries every node's port has no such gap.
#
# Sentinels must never monitor this address: an answer that names it opens no gate.
set -eu

# The address is stopped and started in fractions of a second; the rest is for a node under load.
pcs "$@" resource create RedisVIP ocf:heartbeat:IPaddr2 ip=192.0.2.10 cidr_netmask=24 \
	op start interval=0s timeout=20s stop interval=0s timeout=20s monitor interval=10s timeout=20s \
	--no-default-ops

pcs "$@" constraint colocation add RedisVIP with Promoted RedisGate-clone INFINITY \
	id=RedisVIP-with-gate

# Not symmetrical: a demotion must not wait for the address, whose stop may hang or fail.
pcs "$@" constraint order promote RedisGate-clone "then" start RedisVIP symmetrical=false \
	id=RedisVIP-after-gate

# Needed with symmetric-cluster=false; changes nothing else.
pcs "$@" constraint location RedisVIP rule id=RedisVIP-allowed-rule \
	constraint-id=RedisVIP-allowed score=0 defined redis_role
