#!/bin/sh
# A fence agent as Pacemaker wants it (options as name=value lines on stdin, or -o ACTION): cuts a bed's node's power. It asks
# who runs the bed, over files on this node's disk, as a real one asks a power switch beside the cluster's network.
set -u

directory=/var/lib/fence-bed
action=off plug=

if [ "${1:-}" = -o ]; then
	action=${2:-}
else
	while IFS='=' read -r name value; do
		case $name in
		action | option) action=$value ;;
		plug | port) plug=$value ;;
		nodename) plug=${plug:-$value} ;;
		esac
	done
fi

metadata() {
	cat <<'XML'
<?xml version="1.0" ?>
<resource-agent name="fence_bed" shortdesc="Fence agent of rolegate's tests">
<longdesc>Cuts the power of a node of the bed on which this cluster runs.</longdesc>
<vendor-url></vendor-url>
<parameters>
	<parameter name="action" unique="0" required="1">
		<getopt mixed="-o, --action=[action]" />
		<content type="string" default="off" />
		<shortdesc lang="en">Fencing action</shortdesc>
	</parameter>
	<parameter name="plug" unique="0" required="0" obsoletes="port">
		<getopt mixed="-n, --plug=[id]" />
		<content type="string" />
		<shortdesc lang="en">The node's name</shortdesc>
	</parameter>
</parameters>
<actions>
	<action name="on" automatic="0" />
	<action name="off" />
	<action name="reboot" />
	<action name="status" />
	<action name="monitor" />
	<action name="metadata" />
</actions>
</resource-agent>
XML
}

# What the bed answers: 0 done or on, 2 off, 1 could not.
ask() {
	request=$directory/$(date +%s)-$$
	echo "$action $plug" >"$request.new" && mv "$request.new" "$request.ask" || exit 1
	tries=300
	while [ "$tries" -gt 0 ]; do
		if [ -e "$request.answer" ]; then
			code=$(cat "$request.answer")
			rm -f "$request.answer"
			exit "$code"
		fi
		tries=$((tries - 1))
		sleep 0.1
	done
	rm -f "$request.ask"
	echo "nobody answers for the bed's power" >&2
	exit 1
}

case $action in
metadata) metadata ;;
monitor) [ -d "$directory" ] ;;
on | off | reboot | status) ask ;;
*)
	echo "unknown action $action" >&2
	exit 1
	;;
esac
