# Shared by the scripts here: what a fresh Debian lacks. Sourced, not run; $project is the project's
# directory.
# shellcheck shell=sh
: "${project:?}"

need_root() {
	if [ "$(id -u)" -ne 0 ]; then
		echo "$0 needs root: it boots machines in namespaces and installs missing packages" >&2
		exit 1
	fi
}

# What apt knows is to be of today, once.
need_lists() {
	[ -n "${updated:-}" ] || apt-get -q update >&2
	updated=yes
}

# need_packages PACKAGE...: installs those that are missing.
need_packages() {
	missing=
	for package in "$@"; do
		status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || status=
		[ "$status" = installed ] || missing="$missing $package"
	done
	[ -n "$missing" ] || return 0
	echo "installing$missing" >&2
	need_lists
	# shellcheck disable=SC2086  # a list of words
	DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install $missing >&2
}

# A cargo that builds us. Debian 12's own is too old; its rustc-web is newer than Debian 13's rustc.
need_cargo() {
	wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$project/Cargo.toml")
	found=$(cargo --version 2>/dev/null | cut -d' ' -f2) || found=
	oldest=$(printf '%s\n%s\n' "$wanted" "${found:-0}" | sort -V | head -n 1)
	if [ "$oldest" != "$wanted" ]; then
		need_lists
		if apt-cache show cargo-web >/dev/null 2>&1; then
			need_packages cargo-web rustc-web gcc libc6-dev
		else
			need_packages cargo rustc gcc libc6-dev
		fi
	fi
}

# What makes a Debian package of a Cargo project. A debug build: it does the same.
need_cargo_deb() {
	export PATH="$PATH:$project/target/tools/bin"
	if ! command -v cargo-deb >/dev/null; then
		need_packages gcc libc6-dev pkgconf liblzma-dev
		mkdir -p "$project/target"
		# Two beds that are raised at once want it at once.
		(
			flock 9
			command -v cargo-deb >/dev/null && exit
			echo "installing cargo-deb" >&2
			cargo install --quiet --locked --debug --root "$project/target/tools" --target-dir "$project/target/tools/build" cargo-deb@3.8.0 >&2
		) 9>"$project/target/tools.lock"
	fi
	need_packages dpkg-dev binutils
}

# What the bed itself runs with on this machine.
need_bed_packages() {
	need_packages mmdebstrap systemd-container iproute2 nftables util-linux mount procps ca-certificates
}

# What the tests use on this machine beside the bed: firewalls, a Redis, Pacemaker's tools and
# validators. No service of theirs is to run here.
need_test_packages() {
	policy=/usr/sbin/policy-rc.d
	if [ -e "$policy" ]; then
		policy=
	else
		trap 'rm -f "$policy"' EXIT
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod +x "$policy"
	fi
	need_packages shellcheck iptables ipset redis-server redis-tools resource-agents libxml2-utils \
		pacemaker pacemaker-cli-utils pcs crmsh
	[ -z "$policy" ] || rm -f "$policy"
}

# promtool alone, out of Debian's package: installed, that starts a server.
need_promtool() {
	tools=$project/target/tools/bin
	export PATH="$PATH:$tools"
	! command -v promtool >/dev/null || return 0
	need_lists
	echo "fetching promtool" >&2
	fetched=$(mktemp -d)
	# Where apt's own user may write.
	chmod 777 "$fetched"
	(cd "$fetched" && apt-get -q download prometheus >&2)
	mkdir -p "$tools"
	dpkg-deb --fsys-tarfile "$fetched"/prometheus_*.deb | tar -x -C "$tools" --strip-components=3 ./usr/bin/promtool
	rm -r "$fetched"
}

# cargo fmt and cargo clippy, from where cargo comes from.
need_rust_checkers() {
	cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 && return 0
	if apt-cache show rustfmt-web >/dev/null 2>&1; then
		need_packages rustfmt-web rust-web-clippy
	else
		need_packages rustfmt rust-clippy
	fi
}

# build_bed PROFILE: builds the bed and the programs that it installs on its hosts. Profile `dev` builds in half the time; figures want
# `release`. $bed is then its program.
build_bed() {
	need_root
	need_bed_packages
	need_cargo
	# Its hosts install the package.
	need_cargo_deb
	(cd "$project" && cargo build --locked --profile "$1" --features bed --bins)
	# A heap arena for each thread: one that watches a firewall each 5 ms must not wait for a lock whose holder has no
	# processor just now.
	export GLIBC_TUNABLES=glibc.malloc.arena_max=64
	case $1 in
	dev) bed=$project/target/debug/bed ;;
	*) bed=$project/target/$1/bed ;;
	esac
}

# run_bed PROFILE ARGUMENT...: the same, and becomes it.
run_bed() {
	build_bed "$1"
	shift
	exec "$bed" "$@"
}
