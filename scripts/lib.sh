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

# need_packages PACKAGE...: installs those that are missing.
need_packages() {
	missing=
	for package in "$@"; do
		status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || status=
		[ "$status" = installed ] || missing="$missing $package"
	done
	[ -n "$missing" ] || return 0
	echo "installing$missing" >&2
	apt-get -qq update
	# shellcheck disable=SC2086  # a list of words
	DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $missing >&2
}

# A cargo that builds us. Debian 12's own is too old; its rustc-web is newer than Debian 13's rustc.
need_cargo() {
	wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$project/Cargo.toml")
	found=$(cargo --version 2>/dev/null | cut -d' ' -f2) || found=
	oldest=$(printf '%s\n%s\n' "$wanted" "${found:-0}" | sort -V | head -n 1)
	if [ "$oldest" != "$wanted" ]; then
		if apt-cache show cargo-web >/dev/null 2>&1; then
			need_packages cargo-web rustc-web gcc libc6-dev
		else
			need_packages cargo rustc gcc libc6-dev
		fi
	fi
}
