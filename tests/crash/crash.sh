#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# kill -9 in the middle of writes from many clients, again and again (TAP):
#   crash.sh            all scenarios
#   crash.sh sqlite …   only these: sqlite, and on PostgreSQL postgres database two rolling, on MariaDB mariadb
#                       mariadb_database mariadb_two mariadb_rolling (all but mariadb_two and mariadb by default)
# KS_CRASH_SECONDS (default 8) is the length of each. KS_TEST_KINESHIM, KS_TEST_TORTURE: the programs.

set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/../lib/servers.sh"
# Writes take as long as they do elsewhere, so that kills meet them on their way.
export KS_TEST_FSYNC=1
builddir=${top_builddir:-$here/../../build}
kineshim=${KS_TEST_KINESHIM:-$builddir/kineshim/kineshim}
torture=${KS_TEST_TORTURE:-$builddir/tests/crash/torture}
seconds=${KS_CRASH_SECONDS:-8}
dir=$(ks_tmpdir crash) || exit 99
# Folders of the databases that were started; kind and database tell which one a scenario uses.
pg='' my=''
pids=()
RANDOM=${KS_TEST_SEED:-42}

cleanup() {
	trap - EXIT INT TERM
	local pid
	for pid in "${pids[@]:-}"; do
		[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null
	done
	[ -z "$pg" ] || pg_kill "$pg"
	[ -z "$my" ] || my_kill "$my"
	rm -rf "$dir" ${pg:+"$pg"} ${my:+"$my"}
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

# need KIND: an empty database of that kind ("pg", "my"); sets kind, database and url.
need() {
	kind=$1
	if [ -z "${!kind}" ]; then
		if ! database=$(ks_tmpdir "$kind" "$("${kind}_user")") || ! "${kind}_init" "$database" >/dev/null; then
			count=$((count + 1))
			failed=$((failed + 1))
			echo "not ok $count - $(ks_title "$kind") does not start"
			return 1
		fi
		printf -v "$kind" %s "$database"
	fi
	database=${!kind}
	url=$(ks_url "$database")
	case $kind in
	pg)
		pg_run "$pg" psql -qc 'drop schema public cascade; create schema public; grant all on schema public to public' \
			-d kineshim >/dev/null 2>&1
		;;
	my) my_run "$my" mariadb -e 'DROP DATABASE kineshim; CREATE DATABASE kineshim' ;;
	esac
}

restart_server() {
	kill_server 0
	start 0 "$url"
}

# server_dies KIND
server_dies() {
	fresh
	need "$1" || return
	start 0 "$url"
	clients "127.0.0.1:${ports[0]}"
	until_done restart_server
	report $? "kill -9 of the server on $(ks_title "$1") loses nothing"
}

# Crash recovery takes seconds; then it gets some time to be written to before the next kill.
restart_database() {
	"${kind}_kill" "$database"
	"${kind}_start" "$database"
	sleep 2
}

# database_dies KIND SECONDS
database_dies() {
	fresh
	need "$1" || return
	start 0 "$url"
	local seconds=$2
	clients "127.0.0.1:${ports[0]}"
	until_done restart_database
	report $? "kill -9 of $(ks_title "$1") loses nothing, and the server goes on by itself"
	kill -0 "${pids[0]}" 2>/dev/null
	report $? "the server is still the same process"
}

two_write() {
	fresh
	need "$1" || return
	start 0 "$url"
	start 1 "$url"
	clients "127.0.0.1:${ports[0]},127.0.0.1:${ports[1]}"
	until_done true
	report $? "two instances on $(ks_title "$1") with writers on both are linearizable, and their watchers agree"
}

restart_one() {
	local n=$((RANDOM % 2))
	kill_server "$n"
	start "$n" "$url"
}

two_die() {
	fresh
	need "$1" || return
	start 0 "$url"
	start 1 "$url"
	clients "127.0.0.1:${ports[0]},127.0.0.1:${ports[1]}"
	until_done restart_one
	report $? "two instances on $(ks_title "$1") that are killed in turn lose nothing"
}

scenario_postgres() { server_dies pg; }
scenario_database() { database_dies pg $((seconds * 3)); }
scenario_two() { two_write pg; }
scenario_rolling() { two_die pg; }
scenario_mariadb() { server_dies my; }
scenario_mariadb_database() { database_dies my $((seconds * 2)); }
scenario_mariadb_two() { two_write my; }
scenario_mariadb_rolling() { two_die my; }

scenarios="sqlite postgres database two rolling"
[[ " $(ks_databases "$kineshim" | tr '\n' ' ') " != *" my "* ]] || scenarios+=" mariadb_database mariadb_rolling"
for scenario in "${@:-$scenarios}"; do
	for name in $scenario; do
		"scenario_$name"
	done
done
echo "1..$count"
exit $((failed > 0))
