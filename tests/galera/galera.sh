#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# kineshim on a Galera cluster of three, one server for each node, with writers on all of them (TAP): first starts at the same
# instant, the backend suite on a node, linearizable histories, reads on one node of what another has acknowledged, leases, a
# node that is killed, a node that is cut off from the others.
#   galera.sh             all scenarios
#   galera.sh writers …   only these (after the starts): writers suite causal leases killed cut
# KS_GALERA_SECONDS (default 5) is the length of those with writers. KS_GALERA_ROUNDS (default 10000): reads of what another wrote.
# KS_GALERA_STARTS (default 4): first starts.
set -u

# shellcheck source=tests/lib/program.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/program.sh"
if [ -z "${KS_TEST_GALERA_DIR:-}" ]; then
	exec "$here/../lib/with-galera" "$here/galera.sh" "$@"
fi
build=$(readlink -f "${top_builddir:-.}")
torture=${KS_TEST_TORTURE:-$build/tests/crash/torture}
causal=${KS_TEST_CAUSAL:-$build/tests/galera/causal}
seconds=${KS_GALERA_SECONDS:-5}
cluster=$KS_TEST_GALERA_DIR
read_metrics=$here/../lib/metrics.py
ks_program galera etcdctl curl python3
RANDOM=${KS_TEST_SEED:-42}

# Servers 1 to 3, on the nodes of these numbers.
server=('' '' '' '') urls=('' '' '' '')

ctl() { # NUMBER ARGS…
	local to=${urls[$1]}

	shift
	timeout 20 etcdctl --endpoints="$to" "$@" 2>&1 | tee -a why
}

all() {
	local IFS=,

	echo "${urls[*]:1}"
}

# hosts: the same without the scheme, which torture and causal want.
hosts() {
	all | sed 's,http://,,g'
}

start_all() {
	local n node_url

	for n in 1 2 3; do
		node_url=KS_TEST_GALERA_URL_$n
		start_ready "server$n" --endpoint="${!node_url}" --data-dir="$dir/data$n" || return 1
		server[n]=$started urls[n]=$url
	done
}

all_say() { # TEXT FILE…
	local text=$1

	shift
	[ "$(grep -lF -- "$text" "$@" 2>/dev/null | wc -l)" -eq $# ]
}

# On all nodes there is nothing any more.
empty_database() {
	local n

	my_run "$cluster/1" mariadb -e 'DROP DATABASE kineshim; CREATE DATABASE kineshim' || return
	for n in 2 3; do
		[ "$(my_run "$cluster/$n" mariadb -N -e 'SET SESSION wsrep_sync_wait = 1; SELECT COUNT(*)
			FROM information_schema.tables WHERE table_schema = "kineshim"')" = 0 ] || return
	done
}

# What one start has made is there on all nodes, once, and no node was sent anything twice that it then had to refuse.
tables_are_whole() {
	local n

	for n in 1 2 3; do
		[ "$(my_run "$cluster/$n" mariadb -N -e "SET SESSION wsrep_sync_wait = 1; SELECT COUNT(*) FROM
			information_schema.tables WHERE table_schema = 'kineshim'")" = 6 ] || return
		[ "$(my_run "$cluster/$n" mariadb -N -e 'SELECT COUNT(*) FROM kineshim.kineshim_live')" = 0 ] || return
		! grep -F 'already exists' "$cluster/$n/log" | head -n 3 | grep . || return
	done
}

# Three servers, each on its own node, start at the same instant; and what they then have is one cluster.
start_together() { # ROUND
	local n node_url flags=() logs=() pids=() ports=() status=0

	for n in 1 2 3; do
		node_url=KS_TEST_GALERA_URL_$n
		ports+=("$(ks_free_port)")
		logs+=("together$1.$n.log")
		flags[n]="--name=together$n --endpoint=${!node_url} --data-dir=$dir/together$n --listen-client-urls=http://127.0.0.1:${ports[n - 1]}"
	done
	for n in 1 2 3; do
		# shellcheck disable=SC2086 # flags are words
		start "together$1.$n" ${flags[n]}
		pids+=("$started")
	done
	until_true 20 all_say 'ready to serve' "${logs[@]}" && tables_are_whole >>why 2>&1 || status=1
	[ $status -ne 0 ] || for n in 0 1 2; do
		timeout 5 etcdctl --endpoints="http://127.0.0.1:${ports[n]}" get x -w json 2>>why | grep -o '"cluster_id":[0-9]*'
	done | sort | uniq -c | grep -q '^ *3 ' || status=1
	kill -TERM "${pids[@]}"
	wait "${pids[@]}" || status=1
	[ $status -eq 0 ] || { tail -n 5 "${logs[@]}"; nodes_say; } >>why
	return $status
}

scenario_together() {
	local round status=0

	for round in $(seq "${KS_GALERA_STARTS:-4}"); do
		empty_database >>why 2>&1 && start_together "$round" || { status=1 && break; }
	done
	check $status "three servers start at the same instant on an empty cluster, again and again"
}

# A metric of all servers together: NAME LABEL=VALUE…
metric() {
	local n sum=0 value

	for n in 1 2 3; do
		curl -s "${urls[n]}/metrics" >metrics.txt || return 1
		value=$("$read_metrics" value metrics.txt "$@") || return 1
		sum=$((sum + ${value%.*}))
	done
	echo "$sum"
}

# Every server has the same hash at the same revision; and so has one that starts now.
all_equal() {
	local n=$((RANDOM % 3 + 1)) node_url fresh status

	node_url=KS_TEST_GALERA_URL_$n
	start_ready fresh --endpoint="${!node_url}" --data-dir="$dir/fresh" || return 1
	fresh=$started
	timeout 30 etcdctl --endpoints="$(all),$url" endpoint hashkv >hashes 2>>why
	sed 's/^/# /' hashes
	[ "$(wc -l <hashes)" -eq 4 ] && [ "$(cut -d, -f2 hashes | sort -u | wc -l)" -eq 1 ]
	status=$?
	[ $status -eq 0 ] || cat hashes >>why
	kill -TERM "$fresh"
	wait "$fresh"
	return $status
}

# torture_all SECONDS MIN-ACKS: in the background; its process goes to $clients. It begins without keys, and knows every
# revision, so nobody else may put meanwhile.
torture_all() {
	ctl 1 del torture/ --prefix >/dev/null
	"$torture" --endpoints "$(hosts)" --seconds "$1" --clients 24 --keys 60 --min-acks "$2" --seed $((RANDOM + 1)) \
		>torture.log 2>&1 &
	clients=$!
}

torture_ends() {
	local status

	wait "$clients"
	status=$?
	sed -n 's/^# /# /p' torture.log | head -n 20
	[ $status -eq 0 ] || { tail -n 20 torture.log; tail -n 10 server?.log; nodes_say; } >>why
	return $status
}

nodes_say() {
	local n

	for n in 1 2 3; do
		echo "node $n:"
		grep -vE 'evs::proto|gcomm|^ ' "$cluster/$n/log" | tail -n 12
	done
}

# Whether server NUMBER writes: a lease is written too, and makes no revision.
can_write() {
	timeout 4 etcdctl --endpoints="${urls[$1]}" --command-timeout=3s lease grant 1000 >out 2>&1
}

# The revision of a linearizable read of server NUMBER.
revision_of() {
	timeout 4 etcdctl --endpoints="${urls[$1]}" --command-timeout=3s get x -w json 2>out | grep -o '"revision":[0-9]*' | cut -d: -f2 | grep .
}

cannot_read() {
	! revision_of "$1"
}

# In the background, because most of it waits; its process goes to $suite.
suite_starts() {
	KS_TEST_MARIADB_URL=$KS_TEST_GALERA_URL_1 KS_TEST_MARIADB_SUPER_URL=$KS_TEST_GALERA_SUPER_URL_1 \
		KS_TEST_MARIADB_DIR=$cluster/1 KS_TEST_MARIADB_PORT=$KS_TEST_GALERA_PORT_1 \
		KS_TEST_MARIADB_SOCKET=$KS_TEST_GALERA_SOCKET_1 \
		timeout 300 "$build/tests/suites/backend" "$KS_TEST_GALERA_URL_1" >suite.log 2>&1 &
	suite=$!
}

suite_ends() {
	local status

	wait "$suite"
	status=$?
	grep -c '^ok' suite.log | sed 's/^/# cases that passed: /'
	grep -A 4 '^not ok' suite.log | head -n 40 >>why
	check $status "the backend suite passes on a node"
}

# status_of NUMBER…: how many write sets the nodes have sent, and their bytes.
status_of() {
	local n

	for n in "$@"; do
		my_run "$cluster/$n" mariadb -N -e "SELECT SUM(IF(variable_name = 'WSREP_REPLICATED', variable_value, 0)),
			SUM(IF(variable_name = 'WSREP_REPLICATED_BYTES', variable_value, 0)) FROM information_schema.global_status"
	done
}

scenario_writers() {
	local conflicts before

	before=$(metric kineshim_log_appends_total outcome=conflict)
	torture_all "$seconds" 500
	torture_ends
	check $? "writers on all nodes: linearizable, no acknowledged write lost, no gap, watchers saw all once"
	conflicts=$(($(metric kineshim_log_appends_total outcome=conflict) - before))
	echo "# conflicts: $conflicts, appends: $(metric kineshim_log_appends_total outcome=ok), away: $(metric kineshim_log_appends_total outcome=away), doubt: $(metric kineshim_log_appends_total outcome=doubt)"
	status_of 1 2 3 | awk '{sets += $1; bytes += $2} END {printf "# %d write sets of %d bytes\n", sets, sets ? bytes / sets : 0}'
	[ "$(metric kineshim_log_appends_total outcome=broken)" -eq 0 ] && [ "$(metric kineshim_log_appends_total outcome=away)" -eq 0 ] &&
		[ "$(metric kineshim_log_appends_total outcome=doubt)" -eq 0 ]
	check $? "that some were faster than others is a conflict and nothing else"
	all_equal
	check $? "all servers and a fresh one have the same hash"
}

scenario_suite() {
	suite_starts
	suite_ends
}

# With the suite's changes of schema in between, when both are wanted.
scenario_causal_and_suite() {
	suite_starts
	scenario_causal
	suite_ends
}

scenario_causal() {
	"$causal" --endpoints "$(hosts)" --rounds "${KS_GALERA_ROUNDS:-10000}" >causal.log 2>&1
	check $? "what one node has acknowledged the others show at once"
	cat causal.log
}

# Granted on one, kept alive on another, gone once on all.
scenario_leases() {
	local n lease count=12 leases=()

	timeout 60 etcdctl --endpoints="${urls[3]}" watch --prefix lease/ >watch.out 2>&1 &
	local watcher=$!
	until_true 10 sh -c "etcdctl --endpoints=${urls[1]} put lease/start x && sleep 0.1 && grep -q lease/start watch.out"
	for n in $(seq "$count"); do
		lease=$(ctl $((n % 3 + 1)) lease grant 4 | sed -n 's/^lease \([0-9a-f]*\) granted.*/\1/p')
		ctl $(((n + 1) % 3 + 1)) put "lease/$n" x --lease="$lease" >/dev/null
		leases+=("$lease")
	done
	# One stays: its keepalives go through a server that did not grant it.
	timeout 60 etcdctl --endpoints="${urls[2]}" lease keep-alive "${leases[0]}" >keepalive.out 2>&1 &
	local keeper=$!
	until_true 20 sh -c "test \$(etcdctl --endpoints=${urls[2]} get lease/ --prefix --keys-only --consistency=s | grep -c '/[0-9]') -eq 1"
	check $? "leases of three servers end without keepalives"
	ctl 1 get lease/1 --print-value-only | grep -qx x
	check $? "and one that is kept alive elsewhere does not"
	kill -TERM "$keeper"
	wait "$keeper" 2>/dev/null
	until_true 20 sh -c "! etcdctl --endpoints=${urls[1]} get lease/1 | grep -q x"
	check $? "until its keepalives stop"
	sleep 1
	kill -TERM "$watcher"
	wait "$watcher" 2>/dev/null
	[ "$(grep -c '^DELETE' watch.out)" -eq "$count" ]
	check $? "each has ended once"
}

# The other two go on at once, the third's server serves what it knows, and everything is there in the end.
scenario_killed() {
	torture_all "$((seconds * 3))" 500
	sleep 2
	galera_kill "$cluster" 2
	until_true 20 can_write 1 && until_true 20 can_write 3
	check $? "a node is killed: the others' servers write on"
	! can_write 2
	check $? "its own server does not"
	timeout 10 etcdctl --endpoints="${urls[2]}" get torture/1 --consistency=s >out 2>&1
	check $? "but serves serializable reads"
	galera_start "$cluster" 2 2>>why
	check $? "the node comes back"
	until_true 30 can_write 2
	check $? "and its server writes"
	torture_ends
	check $? "linearizable, no acknowledged write lost, no gap, watchers saw all once"
	all_equal
	check $? "all servers and a fresh one have the same hash"
}

state_of() { # NUMBER
	my_run "$cluster/$1" mariadb -N -e "SHOW STATUS LIKE 'wsrep_cluster_status'" | cut -f2
}

not_primary() {
	[ "$(state_of "$1")" = non-Primary ]
}

scenario_cut() {
	local before known

	ctl 3 put seen before >/dev/null
	torture_all "$((seconds * 3))" 500
	sleep 1
	galera_isolate "$cluster" 3
	until_true 20 not_primary 3 && until_true 10 cannot_read 3
	check $? "a node is cut off: linearizable reads of its server fail"
	! can_write 3
	check $? "so do writes"
	[ "$(timeout 10 etcdctl --endpoints="${urls[3]}" get seen --consistency=s --print-value-only 2>>why)" = before ]
	check $? "serializable reads go on"
	before=$(revision_of 1)
	sleep 1
	until_true 20 can_write 1 && until_true 20 can_write 2 && known=$(revision_of 2) && [ "$known" -gt "$before" ]
	check $? "the others' servers write on"
	galera_rejoin "$cluster" 3
	until_true 60 eval 'revision_of 3 >back'
	echo "# others were at $known, the first read is at $(cat back)"
	[ "$(cat back)" -ge "$known" ]
	check $? "the node is back, and the first read shows what was written meanwhile"
	until_true 30 can_write 3
	check $? "and its server writes"
	torture_ends
	check $? "linearizable, no acknowledged write lost, no gap, watchers saw all once"
	all_equal
	check $? "all servers and a fresh one have the same hash"
}

scenario_together
if ! start_all; then
	nodes_say >>why
	check 1 "a server for each node"
	echo "1..$point"
	exit 1
fi
check 0 "a server for each node"
for scenario in ${*:-writers causal_and_suite leases killed cut}; do
	"scenario_$scenario"
done
# Instances take turns, so there are few; that there are none would mean that nothing met.
[ "$(metric kineshim_log_appends_total outcome=conflict)" -gt 0 ]
check $? "instances have met in conflicts"
for n in 1 2 3; do
	kill -TERM "${server[n]}" && wait "${server[n]}"
	check $? "SIGTERM ends server $n with 0"
done
echo "1..$point"
exit $failed
