#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Moving in from the newest kine: it runs on SQLite, PostgreSQL and MariaDB, is written to in the shapes of Kubernetes' transactions
# while kineshim imports its table, and is compacted by its own API. At the end every key and revision is compared through
# both APIs. Prints TAP; KS_KINE names the program. tests/import/kine.sh has the cases that kine makes too rarely.
set -u

# shellcheck source=tests/interop/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
export ETCDCTL_API=3
kine=${KS_KINE:?}

finish_databases() {
	[ ! -d "$work/pg" ] || pg_stop "$work/pg" immediate 2>/dev/null || pg_kill "$work/pg"
	[ ! -d "$work/my" ] || my_kill "$work/my"
	finish
}
trap finish_databases EXIT

# NAME ENDPOINT: sets old, the address of a kine, and kine_pid.
start_kine() {
	for _ in 1 2 3; do
		old=127.0.0.1:$(ks_free_port) || return 1
		"$kine" --endpoint "$2" --listen-address "$old" --metrics-bind-address 0 --compact-min-retain 10 \
			>"$work/$1.kine.log" 2>&1 </dev/null &
		kine_pid=$!
		pids+=("$kine_pid")
		for _ in $(seq 200); do
			get "$old" /registry/health >/dev/null 2>&1 && return
			kill -0 "$kine_pid" 2>/dev/null || break
			sleep 0.1
		done
	done
	tail -n 20 "$work/$1.kine.log" | sed 's/^/# /'
	return 1
}

get() {
	timeout 20 etcdctl --endpoints "$1" get "${@:2}" -w json
}

mod_of() {
	get "$old" "$1" | sed -n 's/.*"mod_revision":\([0-9]*\).*/\1/p'
}

create() { # KEY VALUE [LEASE]
	printf 'mod("%s") = "0"\n\nput %s %s %s\n\n\n' "$1" "${3:+--lease=$3}" "$1" "$2" |
		timeout 20 etcdctl --endpoints "$old" txn | grep -q SUCCESS
}

update() { # KEY VALUE
	printf 'mod("%s") = "%s"\n\nput %s %s\n\nget %s\n\n' "$1" "$(mod_of "$1")" "$1" "$2" "$1" |
		timeout 20 etcdctl --endpoints "$old" txn | grep -q SUCCESS
}

remove() { # KEY
	printf 'mod("%s") = "%s"\n\ndel %s\n\nget %s\n\n' "$1" "$(mod_of "$1")" "$1" "$1" |
		timeout 20 etcdctl --endpoints "$old" txn | grep -q SUCCESS
}

# What a kube-apiserver's compactor writes.
note_compaction() { # VERSION VALUE
	printf 'ver("compact_rev_key") = "%s"\n\nput compact_rev_key %s\n\nget compact_rev_key\n\n' "$1" "$2" |
		timeout 20 etcdctl --endpoints "$old" txn | grep -q SUCCESS
}

write_some() { # PREFIX COUNT
	local i

	for i in $(seq "$2"); do
		create "/registry/$1/$i" "created$i" && update "/registry/$1/$i" "updated$i" || return 1
		[ $((i % 4)) -ne 0 ] || remove "/registry/$1/$i" || return 1
		[ $((i % 8)) -ne 0 ] || create "/registry/$1/$i" again || return 1
		[ $((i % 5)) -ne 0 ] || create "/registry/leased/$1$i" x 3600 || return 1
	done
}

# Without versions, which kine has not; the header's other numbers are each one's own.
shown() { # ENDPOINT COMPACTED NEWEST
	local rev

	for rev in 0 "$2" $((($2 + $3) / 2)) "$3"; do
		get "$1" /registry/ --prefix --rev "$rev" | sed 's/"header":{[^}]*\("revision":[0-9]*\)[^}]*}/\1/; s/"version":[0-9]*,//g'
	done
	get "$1" /registry/ --prefix --rev $(($2 - 1)) 2>&1 | grep -o 'required revision has been compacted' | head -n 1
	# Each event on a line; kine always adds what was before.
	timeout 3 etcdctl --endpoints "$1" watch /registry/ --prefix --rev $(($2 + 1)) -w json 2>&1 | python3 -c '
import json, sys
for line in sys.stdin:
    for event in json.loads(line).get("Events") or []:
        kv = event["kv"]
        print(event.get("type", 0), kv["key"], kv["mod_revision"], kv.get("value"), kv.get("lease") if "type" not in event else "")
'
}

newest() {
	get "$old" /registry/health | sed -n 's/.*"header":{[^}]*"revision":\([0-9]*\).*/\1/p'
}

imports() { # NAME TITLE KINE'S-ENDPOINT
	local log=$work/$1.import import_pid newest compacted

	start_kine "$1" "$3" || { point false "$2: kine starts"; return; }
	write_some before 16 && note_compaction 0 5 && write_some more 8
	point $? "$2: kine takes what Kubernetes writes"
	"$kineshim" import --from "kine://$3" --endpoint "sqlite://$work/$1.imported.db" >"$log" 2>&1 </dev/null &
	import_pid=$!
	pids+=("$import_pid")
	write_some during 8
	timeout 20 etcdctl --endpoints "$old" compact 20 >/dev/null
	note_compaction 1 20 && write_some last 4
	point $? "$2: it does so while it is imported"
	kill -USR1 "$import_pid"
	wait "$import_pid"
	point $? "$2: the import is finished, every row compared"
	sed 's/^/# /' "$log"
	newest=$(newest)
	compacted=$(sed -n 's/^imported .* compacted \([0-9-]*\),.*/\1/p' "$log")
	[ "${compacted:-0}" -gt 0 ] || compacted=20
	start_kineshim "$1" "sqlite://$work/$1.imported.db" || { point false "$2: kineshim starts"; return; }
	shown "$old" "$compacted" "$newest" >"$work/$1.old"
	shown "$url" "$compacted" "$newest" >"$work/$1.new"
	[ "$(wc -l <"$work/$1.old")" -gt 60 ] && diff "$work/$1.old" "$work/$1.new" >"$work/diff" 2>&1
	point $? "$2: all keys and revisions are the same on both sides"
	cut -c 1-300 "$work/diff" | head -n 20 | sed 's/^/# /'
	[ "$(get "$url" compact_rev_key | grep -o '"version":2')" = '"version":2' ]
	point $? "$2: the key of Kubernetes' compactor has its version"
	old=${url#http://}
	update /registry/before/1 onward && create /registry/new x
	point $? "$2: Kubernetes goes on where it was"
	stop_servers
}

mkdir "$work/sqlite"
imports sqlite SQLite "sqlite://$work/sqlite/state.db?_journal=WAL&cache=shared&_busy_timeout=30000"
for kind in $(ks_databases "$kineshim"); do
	mkdir "$work/$kind" || exit 99
	if [ "$kind" = pg ]; then
		[ "$(id -u)" -ne 0 ] || chown "$(pg_user)" "$work/pg"
		pg_init "$work/pg" || exit 99
		imports pg PostgreSQL "$(ks_url "$work/pg")?sslmode=disable"
	else
		[ "$(id -u)" -ne 0 ] || chown "$(my_user)" "$work/my"
		my_init "$work/my" || exit 99
		imports my MariaDB "$(ks_url "$work/my")"
	fi
done
done_testing
