#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# patroni.sh [ENDPOINT]: two PostgreSQL servers under Patroni, which keeps its state in kineshim through the JSON gateway (its
# "etcd3"): bootstrap, a restart of kineshim, a dead leader, a switchover. Prints TAP; takes two minutes. Needs Patroni with its
# etcd3 support (Debian: patroni, or PYTHONPATH with the one from PyPI). Environment: top_builddir, KS_TEST_KEEP.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/lib/servers.sh
. "$here/../lib/servers.sh"

build=$(cd "${top_builddir:-.}" && pwd)
kineshim=${KS_KINESHIM:-$build/kineshim/kineshim}
bin=$(pg_bin) || { echo "1..0 # SKIP no PostgreSQL (Debian: postgresql)"; exit 77; }
python=/usr/bin/python3
$python -c 'import patroni.dcs.etcd3' 2>/dev/null || { echo "1..0 # SKIP no Patroni with etcd3 (Debian: patroni, python3-etcd)"; exit 77; }

work=$(ks_tmpdir patroni) || exit 99
pids=()
finish() {
	trap - EXIT
	[ ${#pids[@]} -eq 0 ] || kill -KILL "${pids[@]}" 2>/dev/null
	for i in 1 2; do
		[ -s "$work/data$i/postmaster.pid" ] && kill -QUIT "$(head -n 1 "$work/data$i/postmaster.pid")" 2>/dev/null
	done
	[ -n "${KS_TEST_KEEP:-}" ] && echo "# logs are in $work" && return
	rm -rf "$work"
}
trap finish EXIT
trap 'exit 143' TERM INT HUP

start_kineshim() {
	: >"$work/kineshim.log"
	"$kineshim" --endpoint "$endpoint" --data-dir "$work/kineshim" --listen-client-urls "http://127.0.0.1:$port" \
		>"$work/kineshim.log" 2>&1 </dev/null &
	kineshim_pid=$!
	pids+=("$kineshim_pid")
	for _ in $(seq 200); do
		grep -q "ready to serve" "$work/kineshim.log" && return 0
		sleep 0.1
	done
	return 1
}

write_config() { # NUMBER
	local rest sql

	rest=$(ks_free_port) && sql=$(ks_free_port) || return 1
	cat >"$work/$1.yml" <<END
scope: demo
name: pg$1
restapi: {listen: "127.0.0.1:$rest", connect_address: "127.0.0.1:$rest"}
etcd3: {hosts: ["127.0.0.1:$port"]}
bootstrap:
  dcs: {ttl: 20, loop_wait: 2, retry_timeout: 5, postgresql: {use_pg_rewind: true}}
  initdb: [{encoding: UTF8}]
  pg_hba: ["host replication all 127.0.0.1/32 trust", "host all all 127.0.0.1/32 trust"]
postgresql:
  listen: "127.0.0.1:$sql"
  connect_address: "127.0.0.1:$sql"
  data_dir: $work/data$1
  bin_dir: $bin
  pgpass: $work/pgpass$1
  parameters: {unix_socket_directories: $work}
  authentication: {superuser: {username: postgres, password: unused}, replication: {username: replicator, password: unused}}
END
}

start_patroni() { # NUMBER
	rm -f "$work/pid$1"
	pg_as_user env HOME="$work" PYTHONPATH="${PYTHONPATH:-}" sh -c "echo \$\$ >$work/pid$1"'; exec "$@"' sh "$python" \
		-c 'from patroni.__main__ import main; main()' "$work/$1.yml" >>"$work/patroni$1.log" 2>&1 </dev/null &
	for _ in $(seq 100); do
		[ -s "$work/pid$1" ] && break
		sleep 0.1
	done
	pids+=("$(cat "$work/pid$1")")
}

ctl() {
	"$python" -c 'from patroni.ctl import ctl; ctl()' -c "$work/1.yml" "$@"
}

# await DESCRIPTION LEADER REPLICA: LEADER leads, and REPLICA ("-": any) follows it. Prints the test's point.
point=0
status=0
await() {
	point=$((point + 1))
	for _ in $(seq 90); do
		ctl list -f json demo 2>/dev/null | "$python" -c '
import json, sys
leader, replica = sys.argv[1:]
roles = {m["Member"]: (m["Role"], m["State"]) for m in json.load(sys.stdin)}
good = roles.get(leader) == ("Leader", "running")
if replica != "-":
    good = good and roles.get(replica, ("", ""))[0] != "Leader" and roles.get(replica, ("", ""))[1] in ("running", "streaming")
sys.exit(not good)' "$2" "$3" 2>/dev/null && echo "ok $point - $1" && return
		sleep 1
	done
	echo "not ok $point - $1"
	ctl list demo 2>&1 | sed 's/^/# /'
	tail -n 5 "$work"/patroni*.log 2>/dev/null | sed 's/^/# /'
	status=1
}

port=$(ks_free_port) || exit 99
endpoint=${1:-sqlite://$work/patroni.db}
write_config 1 && write_config 2 && start_kineshim || { echo "Bail out! kineshim does not start"; exit 99; }
echo "1..5"
start_patroni 1
await "the first server is bootstrapped and leads" pg1 -
start_patroni 2
await "the second one follows" pg1 pg2
kill "$kineshim_pid" && ks_await_gone "$kineshim_pid"
start_kineshim || status=1
await "both go on when kineshim was restarted" pg1 pg2
kill -KILL "$(cat "$work/pid1")"
kill -QUIT "$(head -n 1 "$work/data1/postmaster.pid")"
await "the second one takes over when the leader died" pg2 -
start_patroni 1
for _ in $(seq 60); do
	ctl list demo 2>/dev/null | grep -q 'pg1.*\(streaming\|running\)' && break
	sleep 1
done
ctl switchover demo --leader pg2 --candidate pg1 --force >/dev/null 2>&1 ||
	ctl switchover demo --master pg2 --candidate pg1 --force >/dev/null 2>&1
await "and hands back in a switchover" pg1 pg2
exit $status
