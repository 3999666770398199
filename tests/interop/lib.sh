# SPDX-License-Identifier: Apache-2.0
#
# What the interop scripts share: kineshim servers on free ports, which end with the script, and TAP with running numbers.
# Source it; sets work (a folder), url and port after start_kineshim. KINESHIM names the program, KS_TEST_KEEP=1 keeps the folder.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/lib/servers.sh
. "$here/../lib/servers.sh"
build=$(cd "${top_builddir:-.}" && pwd)
kineshim=${KINESHIM:-$build/kineshim/kineshim}
[ -x "$kineshim" ] || { echo "Bail out! $kineshim was not built"; exit 99; }

work=$(mktemp -d "${TMPDIR:-/tmp}/ks-interop.XXXXXX") || exit 99
chmod 0755 "$work"
pids=()
points=0 failed=0

stop_servers() {
	local pid

	for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null; done
	for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null; done
	pids=()
}

finish() {
	trap - EXIT
	stop_servers
	if [ -n "${KS_TEST_KEEP:-}" ]; then echo "# logs are in $work"; else rm -rf "$work"; fi
}
trap finish EXIT
trap 'exit 143' TERM INT HUP

# NAME ENDPOINT [FLAG…]: sets port and url.
start_kineshim() {
	local name=$1 endpoint=$2 pid scheme=${KS_SCHEME:-http}

	shift 2
	for _ in 1 2 3; do
		port=$(ks_free_port) || return 1
		url=$scheme://127.0.0.1:$port
		: >"$work/$name.log"
		"$kineshim" --name "$name" --endpoint "$endpoint" --data-dir "$work/$name.data" --listen-client-urls "$url" \
			"$@" >"$work/$name.log" 2>&1 </dev/null &
		pid=$!
		for _ in $(seq 400); do
			grep -q "ready to serve" "$work/$name.log" && pids+=("$pid") && return
			kill -0 "$pid" 2>/dev/null || break
			sleep 0.05
		done
		kill -KILL "$pid" 2>/dev/null
		wait "$pid" 2>/dev/null
	done
	sed 's/^/# /' "$work/$name.log"
	return 1
}

# LABEL COMMAND…: runs a command that prints TAP and adds its points, with new numbers and the label, to ours. What fails and is
# marked TODO, or matches the regular expression in KS_TAP_KNOWN, is shown as such and is no failure.
tap() {
	local label=$1 status line

	shift
	timeout "${KS_TAP_SECONDS:-300}" "$@" >"$work/tap" 2>"$work/tap.err" </dev/null
	status=$?
	while IFS= read -r line; do
		case $line in
		"ok "*)
			points=$((points + 1))
			echo "ok $points - $label: ${line#ok * - }"
			;;
		"not ok "*"# TODO"*)
			points=$((points + 1))
			echo "not ok $points - $label: ${line#not ok * - }"
			;;
		"not ok "*)
			points=$((points + 1))
			if [ -n "${KS_TAP_KNOWN:-}" ] && [[ $line =~ $KS_TAP_KNOWN ]]; then
				echo "not ok $points - $label: ${line#not ok * - } # TODO known"
			else
				failed=$((failed + 1))
				echo "not ok $points - $label: ${line#not ok * - }"
			fi
			;;
		"#"*) echo "$line" ;;
		"Bail"*) echo "# $line" ;;
		esac
	done <"$work/tap"
	if [ $status -ne 0 ] && ! grep -q '^not ok' "$work/tap" || ! grep -qE '^1\.\.[1-9]' "$work/tap"; then
		point false "$label: ended with status $status"
		tail -n 20 "$work/tap.err" | sed 's/^/# /'
	fi
}

# STATUS-OR-false NAME: one point.
point() {
	points=$((points + 1))
	if [ "$1" = true ] || [ "$1" = 0 ]; then
		echo "ok $points - $2"
	else
		failed=$((failed + 1))
		echo "not ok $points - $2"
	fi
}

done_testing() {
	echo "1..$points"
	[ "$failed" -eq 0 ]
	exit
}
