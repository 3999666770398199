#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# kill -9 in the middle of writes from many clients, again and again (TAP):
#   crash.sh            all scenarios
#   crash.sh sqlite …   only these: sqlite postgres database two rolling
# KS_CRASH_SECONDS (default 8) is the length of each. KS_TEST_KINESHIM, KS_TEST_TORTURE: the programs.

set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/../lib/servers.sh"
builddir=${top_builddir:-$here/../../build}
kineshim=${KS_TEST_KINESHIM:-$builddir/kineshim/kineshim}
torture=${KS_TEST_TORTURE:-$builddir/tests/crash/torture}
seconds=${KS_CRASH_SECONDS:-8}
dir=$(ks_tmpdir crash) || exit 99
pg=
pids=()
RANDOM=${KS_TEST_SEED:-42}

cleanup() {
	trap - EXIT INT TERM
	local pid
	for pid in "${pids[@]:-}"; do
		[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null
	done
	[ -z "$pg" ] || pg_kill "$pg"
	rm -rf "$dir" ${pg:+"$pg"}
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# start N ENDPOINT: server number N on its port; returns when it serves.
start() {
	local n=$1 endpoint=$2 try
	"$kineshim" --endpoint "$endpoint" --data-dir "$dir" --name "node$n" \
		--listen-client-urls "http://127.0.0.1:${ports[$n]}" \
		--advertise-client-urls "http://127.0.0.1:${ports[$n]}" >>"$dir/server$n.log" 2>&1 &
	pids[n]=$!
	disown "${pids[n]}"
}

kill_server() {
	kill -9 "${pids[$1]}" 2>/dev/null
	ks_await_gone "${pids[$1]}"
}

pause() {
	sleep "0.$((RANDOM % 700 + 300))"
}

# run NAME ENDPOINTS VICTIM…: the clients in the background, victims killed and started again until they are done.
count=0
failed=0
report() {
	count=$((count + 1))
	if [ "$1" -eq 0 ]; then
		echo "ok $count - $2"
	else
		echo "not ok $count - $2"
		failed=$((failed + 1))
		sed 's/^/# /' "$dir/torture.log" | tail -n 30
		for log in "$dir"/server*.log; do
			echo "# $log"
			tail -n 15 "$log" | sed 's/^/#   /'
		done
	fi
}

# clients ENDPOINTS: starts them; sets $clients to their pid.
clients() {
	"$torture" --endpoints "$1" --seconds "$seconds" --clients 24 --min-acks 200 --seed $((RANDOM + 1)) \
		>"$dir/torture.log" 2>&1 &
	clients=$!
}

running() {
	kill -0 "$clients" 2>/dev/null
}

# Kills while the clients work: the last kill comes early enough for them to settle.
until_done() {
	local end=$((SECONDS + seconds)) kills=0
	while running && [ $SECONDS -lt $end ]; do
		pause
		"$@"
		kills=$((kills + 1))
	done
	wait "$clients"
	local status=$?
	sed -n 's/^# /# /p' "$dir/torture.log"
	echo "# $kills kills"
	return $status
}

fresh() {
	local n
	rm -f "$dir"/server*.log "$dir"/*.db*
	for n in "${!pids[@]}"; do kill_server "$n"; done
	pids=()
	ports=("$(ks_free_port)" "$(ks_free_port)")
}

restart_sqlite() {
	kill_server 0
	start 0 "sqlite://$dir/crash.db"
}

scenario_sqlite() {
	fresh
	start 0 "sqlite://$dir/crash.db"
	clients "127.0.0.1:${ports[0]}"
	until_done restart_sqlite
	report $? "kill -9 of the server on SQLite loses nothing"
}

need_postgres() {
	if [ -z "$pg" ]; then
		pg=$(ks_tmpdir pg) && pg_init "$pg" >/dev/null || {
			count=$((count + 1))
			failed=$((failed + 1))
			echo "not ok $count - PostgreSQL does not start"
			return 1
		}
	fi
	. "$pg/env"
	pg_run "$pg" psql -qc 'drop schema public cascade; create schema public; grant all on schema public to public' \
		-d kineshim >/dev/null 2>&1
	url=$KS_TEST_POSTGRES_URL
}

restart_on_postgres() {
	kill_server 0
	start 0 "$url"
}

scenario_postgres() {
	fresh
	need_postgres || return
	start 0 "$url"
	clients "127.0.0.1:${ports[0]}"
	until_done restart_on_postgres
	report $? "kill -9 of the server on PostgreSQL loses nothing"
}

# Crash recovery takes seconds; then it gets some time to be written to before the next kill.
restart_database() {
	pg_kill "$pg"
	pg_start "$pg"
	sleep 2
}

scenario_database() {
	fresh
	need_postgres || return
	start 0 "$url"
	local seconds=$((seconds * 3))
	clients "127.0.0.1:${ports[0]}"
	until_done restart_database
	report $? "kill -9 of PostgreSQL loses nothing, and the server goes on by itself"
	kill -0 "${pids[0]}" 2>/dev/null
	report $? "the server is still the same process"
}

scenario_two() {
	fresh
	need_postgres || return
	start 0 "$url"
	start 1 "$url"
	clients "127.0.0.1:${ports[0]},127.0.0.1:${ports[1]}"
	until_done true
	report $? "two instances with writers on both are linearizable, and their watchers agree"
}

restart_one() {
	local n=$((RANDOM % 2))
	kill_server "$n"
	start "$n" "$url"
}

scenario_rolling() {
	fresh
	need_postgres || return
	start 0 "$url"
	start 1 "$url"
	clients "127.0.0.1:${ports[0]},127.0.0.1:${ports[1]}"
	until_done restart_one
	report $? "two instances that are killed in turn lose nothing"
}

for scenario in "${@:-sqlite postgres database two rolling}"; do
	for name in $scenario; do
		"scenario_$name"
	done
done
echo "1..$count"
exit $((failed > 0))
