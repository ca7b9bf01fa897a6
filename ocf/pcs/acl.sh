#!/bin/sh
# What Sentinel's user may do, for its hook, which runs as that user in group haclient: redis, and
# valkey with Debian's Valkey. One that a node does not have does nothing there. Without enable-acl,
# membership in haclient is full control of the cluster.
#
#   read    the nodes with their attributes: who is primary, who is fenced. crm_attribute looks up
#           the node's id here.
#   read    the gates and their parameters: the record, on which every decision stands. A gate made
#           from a template is there too. Other resources, with their passwords, stay hidden.
#   write   the attribute redis_role of every node: its own, and `primary` of an old one.
#
# A second master name needs another write permission, for its attribute (redis_role-NAME). The write
# path is spelled out from the root on purpose: //nvpair[@name='redis_role'] would let the user make
# such an nvpair anywhere, among the cluster's properties or a resource's parameters, and rename it.
#
# WHAT THIS CANNOT PREVENT. Pacemaker judges a change by the element as it was before. So the user can
# rename its own nvpair, for example to standby, maintenance or terminate, and the cluster obeys; and
# it can write any value. No deny rule closes that. Also, group haclient reaches what has no ACL
# at all: stonith_admin, the history of resources, crm_node. So whoever takes over Sentinel's account can
# stop nodes, and with STONITH have them fenced. Opening the read-write port of another node takes a
# majority of Sentinels as well.
set -eu

pcs "$@" acl role create redis-sentinel \
	read xpath "/cib/configuration/nodes" \
	read xpath "/cib/configuration/resources//*[(@class='ocf' and @provider='rolegate') or @template=/cib/configuration/resources/template[@class='ocf'][@provider='rolegate']/@id]" \
	write xpath "/cib/configuration/nodes/node/instance_attributes/nvpair[@name='redis_role']"
for user in redis valkey; do
	pcs "$@" acl user create "$user" redis-sentinel
done
pcs "$@" property set enable-acl=true
