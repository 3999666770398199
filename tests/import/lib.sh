# SPDX-License-Identifier: Apache-2.0
#
# What the tests of `kineshim import` share: TAP, servers, imports that run in the background. Source it after setting 'name'.
# KINESHIM names the program under test, by default the one of this build. KS_TEST_KEEP=1 keeps the folder.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/lib/servers.sh
. "$here/../lib/servers.sh"
export ETCDCTL_API=3
build=$(cd "${top_builddir:-.}" && pwd)
kineshim=${KINESHIM:-$build/kineshim/kineshim}

top=$(ks_tmpdir "$name") || exit 99
export TMPDIR=$top
point=0
failed=0
pids=()

finish() {
	trap - EXIT INT TERM HUP
	for pid in "${pids[@]}"; do
		kill -KILL "$pid" 2>/dev/null
	done
	for dir in "$top"/etcd-*; do
		etcd_kill "$dir"
	done
	[ ! -d "$top/pg" ] || pg_stop "$top/pg" immediate 2>/dev/null || pg_kill "$top/pg"
	type stop_more >/dev/null 2>&1 && stop_more
	[ -n "${KS_TEST_KEEP:-}" ] || rm -rf "$top"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# ok NAME COMMAND…: one point.
ok() {
	local name=$1

	shift
	point=$((point + 1))
	if "$@" >"$top/out" 2>&1; then
		echo "ok $point - $name"
	else
		echo "not ok $point - $name"
		tail -n 40 "$top/out" | cut -c 1-300 | sed 's/^/# /'
		failed=1
	fi
}

done_testing() {
	echo "1..$point"
	exit $failed
}

ctl() {
	timeout 30 etcdctl --endpoints="$url" "$@"
}

# ---- kineshim ----

# start_kineshim ENDPOINT NAME [FLAG…]: sets url and ks_pid.
start_kineshim() {
	local endpoint=$1 log=$top/$2.log

	shift 2
	"$kineshim" --endpoint "$endpoint" --listen-client-urls "${KS_SCHEME:-http}://127.0.0.1:0" --log-format console "$@" \
		>"$log" 2>&1 </dev/null &
	ks_pid=$!
	pids+=("$ks_pid")
	await_served "$log"
}

# The URL of the server with that log, without its scheme.
await_served() {
	local log=$1 try

	for try in $(seq 600); do
		url=$(sed -n 's|.*ready to serve client requests urls=[a-z]*://\([^ ,]*\).*|\1|p' "$log")
		[ -z "$url" ] || return 0
		kill -0 "$ks_pid" 2>/dev/null || break
		sleep 0.05
	done
	cat "$log"
	return 1
}

stop_kineshim() {
	kill "$ks_pid" 2>/dev/null
	wait "$ks_pid"
}

# ---- imports ----

# begin_import NAME FLAG…: starts one in the background, and waits until it follows. Sets import_pid, import_log.
begin_import() {
	import_log=$top/$1.import

	shift
	start_import "$@" && await_import 'following; kill'
}

start_import() {
	"$kineshim" import "$@" >"$import_log" 2>&1 </dev/null &
	import_pid=$!
	pids+=("$import_pid")
}

await_import() {
	local try

	for try in $(seq 600); do
		grep -q "$1" "$import_log" && return
		kill -0 "$import_pid" 2>/dev/null || break
		sleep 0.05
	done
	grep -q "$1" "$import_log" && return
	cat "$import_log"
	return 1
}

kill_import() {
	kill -KILL "$import_pid"
	wait "$import_pid" 2>/dev/null
	true
}

# As Ctrl-C does: it ends in order, and says that it can go on.
interrupt_import() {
	kill -INT "$import_pid"
	wait "$import_pid"
	[ $? -eq 1 ] && grep -q 'interrupted at revision [0-9]*; run it again to go on' "$import_log" && return
	cat "$import_log"
	return 1
}

# cut_over [TEXT]: tells it to, waits for its end, and looks for what it says.
cut_over() {
	kill -USR1 "$import_pid" && wait "$import_pid" && grep -q "${1:-^imported }" "$import_log" && return
	cat "$import_log"
	return 1
}

# refused TEXT FLAG…: an import fails, and says so.
refused() {
	local text=$1

	shift
	timeout 60 "$kineshim" import "$@" >"$top/refused" 2>&1
	[ $? -eq 1 ] && grep -q -- "$text" "$top/refused" && return
	cat "$top/refused"
	return 1
}

# Nobody may read a secret anywhere.
no_secrets() {
	! grep -l "$1" "$top"/*.import "$top"/*.log "$top/refused" 2>/dev/null
}
