#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# kineshim import from a running etcd, and from a running kineshim, into SQLite and PostgreSQL: what was there, what comes while it
# follows, interruptions of all sorts, and what must be refused. At the end of each both sides must show the same, hashes
# included. Prints TAP.
set -u

name=import
# shellcheck source=tests/import/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

for need in etcd etcdctl openssl; do
	command -v "$need" >/dev/null || {
		echo "1..0 # SKIP no $need"
		exit 77
	}
done

export KINESHIM_FROM_PASSWORD=geheim7
export KS_TEST_ETCD_FLAGS="--bcrypt-cost 4"
root=(--user root:geheim7)

# new_etcd NAME: sets url and source.
new_etcd() {
	local dir=$top/etcd-$1

	mkdir "$dir" || return 1
	[ "$(id -u)" -ne 0 ] || chmod 0777 "$dir"
	etcd_start "$dir" || return 1
	source=127.0.0.1:$(sed -n 's/^export KS_TEST_ETCD_PORT=//p' "$dir/env")
	url=$source
}

fill() {
	local i

	ctl put binary "$(printf '\001\377\200x')" && ctl put "$(printf 'k\377\001')" binary || return 1
	ctl put empty ''
	lease=$(ctl lease grant 5000 | cut -d' ' -f2)
	gone=$(ctl lease grant 7000 | cut -d' ' -f2)
	ctl put --lease="$lease" leased/1 a && ctl put --lease="$gone" leased/2 b || return 1
	head -c 30000 /dev/zero | tr '\0' 'V' | ctl put big >/dev/null
	for i in 1 2 3 4 5 6; do
		ctl put "k$((i % 3))" "v$i"
	done
	printf '\nput t1 a\nput t2 b\ndel k1\nput t3 c\n\n\n' | ctl txn
	ctl compact 9
	ctl user add root:geheim7 && ctl user add alice:pw && ctl user add bob:pw && ctl role add reader && ctl role add old || return 1
	ctl role grant-permission reader read k l && ctl user grant-role alice reader && ctl user grant-role root root || return 1
	ctl auth enable
}

# What comes while an import follows; all that a watch does not tell is among it.
change() {
	local late

	ctl "${root[@]}" put k0 new || return 1
	late=$(ctl "${root[@]}" lease grant 6000 | cut -d' ' -f2)
	ctl "${root[@]}" put --lease="$late" late/1 x && ctl "${root[@]}" put --lease="$late" late/2 '' || return 1
	ctl "${root[@]}" lease grant 8000
	ctl "${root[@]}" lease revoke "$gone"
	printf '\nput t1 aa\nput t4 d\ndel t2\n\n\n' | ctl "${root[@]}" txn
	ctl "${root[@]}" put k1 back && ctl "${root[@]}" del t --prefix && ctl "${root[@]}" del binary
}

change_more() {
	ctl "${root[@]}" put k2 again || return 1
	ctl "${root[@]}" compact 20 >/dev/null
	ctl "${root[@]}" user delete bob && ctl "${root[@]}" user add carol:pw2 && ctl "${root[@]}" role delete old || return 1
	echo newpw | ctl "${root[@]}" user passwd alice --interactive=false
	ctl "${root[@]}" put zz-end 1
}

# Everything that must not change, as text.
dump() {
	local rev

	# The newest revision, and the one before: hashes of all that is retained.
	ctl "${root[@]}" get zz-end -w json | sed -n 's/.*"revision":\([0-9]*\).*/revision \1/p'
	ctl "${root[@]}" endpoint hashkv -w json | sed 's/.*"hash":\([0-9]*\).*"compact_revision":\([0-9-]*\).*/hash \1 \2/'
	for rev in 0 20 22; do
		ctl "${root[@]}" get '' --prefix --rev $rev -w json | sed 's/"header":{[^}]*}//'
	done
	ctl "${root[@]}" get k --prefix --rev 19 2>&1 | grep -o 'required revision has been compacted' | head -n 1
	ctl "${root[@]}" lease list | sort
	ctl "${root[@]}" lease timetolive --keys "$lease" | sed 's/remaining([0-9]*s)//'
	ctl "${root[@]}" user list
	ctl "${root[@]}" role list
	ctl --user alice:newpw get k0 -w json | sed 's/"header":{[^}]*}//'
	ctl --user alice:pw get k0 2>&1 | grep -o 'authentication failed' | head -n 1
	ctl --user alice:newpw put k0 x 2>&1 | grep -o 'permission denied' | head -n 1
	ctl --user carol:pw2 get k0 2>&1 | grep -o 'permission denied' | head -n 1
	history
}

# Events up to the key that was put last; etcdctl would wait for ever.
history() {
	local watcher

	: >"$top/watch"
	timeout 60 etcdctl --endpoints="$url" "${root[@]}" watch --rev 20 '' --prefix --prev-kv >"$top/watch" 2>&1 &
	watcher=$!
	for _ in $(seq 200); do
		grep -q "^zz-end" "$top/watch" && break
		sleep 0.05
	done
	kill "$watcher" 2>/dev/null
	wait "$watcher" 2>/dev/null
	cat "$top/watch"
}

dump_to() {
	dump >"$top/$1.txt" 2>&1
	grep -q '^hash [1-9]' "$top/$1.txt" && grep -q '^permission denied' "$top/$1.txt" && grep -q '^zz-end' "$top/$1.txt" && return
	cat "$top/$1.txt"
	return 1
}

# A server on a database whose import is not finished: it must say so and serve nothing.
waits_on() {
	local log=$top/waiting.log

	"$kineshim" --endpoint "$1" --listen-client-urls http://127.0.0.1:0 --log-format console >"$log" 2>&1 </dev/null &
	ks_pid=$!
	pids+=("$ks_pid")
	for _ in $(seq 600); do
		grep -q 'is not finished: run kineshim import again' "$log" && break
		sleep 0.05
	done
	grep -q 'is not finished: run kineshim import again' "$log" && ! grep -q 'ready to serve' "$log" && return
	cat "$log"
	return 1
}

etcd_crashes() {
	etcd_kill "$top/etcd-main"
	sleep 0.4
	etcd_start "$top/etcd-main"
}

source_revision() {
	ctl get a -w json | sed -n 's/.*"header":{[^}]*"revision":\([0-9]*\).*/\1/p'
}

# What the benchmark's clients wrote last must be there, though the import was told to cut over while they were at it.
cut_over_while_written() {
	local writer before

	before=$(source_revision)
	"$build/tests/bench/kineshim-bench" put --endpoint "$source" --warmup 0 --seconds 2 --clients 8 >"$top/bench" 2>&1 &
	writer=$!
	pids+=("$writer")
	for _ in $(seq 200); do
		[ "$(source_revision)" -le $((before + 20)) ] || break
		sleep 0.02
	done
	kill -USR1 "$import_pid"
	wait "$writer" || return 1
	wait "$import_pid" && grep -q "^imported .*: revision $(source_revision), .*HashKV [0-9]* on both sides" "$import_log" &&
		! grep -q WARNING "$import_log" && return
	source_revision
	cat "$import_log"
	return 1
}

into_sqlite() {
	local endpoint=sqlite:///$top/there.db

	ok "etcd is filled" fill
	ok "an import into SQLite begins" begin_import sqlite --from "etcd://$source" --from-user root --endpoint "$endpoint"
	ok "etcd changes" change
	sleep 0.3
	ok "the import is killed" kill_import
	ok "a server does not serve what is unfinished" waits_on "$endpoint"
	stop_kineshim
	ok "etcd changes more" change_more
	ok "the import goes on" begin_import sqlite --from "http://$source" --from-user root --endpoint "$endpoint"
	ok "it says from where" grep -q 'goes on behind revision' "$import_log"
	ok "etcd crashes and comes back" etcd_crashes
	ok "it is told to cut over, and both sides are the same" cut_over 'HashKV [0-9]* on both sides'
	ok "the source of all answers" dump_to etcd
	ok "a server starts on what was imported" start_kineshim "$endpoint" sqlite
	ok "it answers" dump_to sqlite
	ok "it shows what etcd shows" diff "$top/etcd.txt" "$top/sqlite.txt"
	stop_kineshim
	ok "a finished import is not begun again" refused "holds an import that is finished" --from "etcd://$source" --from-user root \
		--endpoint "$endpoint"
}

# Killed at any moment, again and again: in the end both sides are the same.
killed_at_any_moment() {
	local endpoint=$1 try i

	for try in 1 2 3 4 5; do
		import_log=$top/kills.import
		start_import --from "etcd://$source" --endpoint "$endpoint"
		for i in 1 2 3; do
			ctl put "k$i" "$try" >/dev/null 2>&1
		done
		sleep "0.$((RANDOM % 6))$((RANDOM % 10))"
		kill_import
	done
	timeout 60 "$kineshim" import --from "etcd://$source" --endpoint "$endpoint" --cut-over-when-idle 0s >"$import_log" 2>&1
	grep -q '^imported .*HashKV' "$import_log" && return
	cat "$import_log"
	return 1
}

refusals() {
	url=$source
	ok "an import that will be lost begins" begin_import lost --from "etcd://$source" --endpoint "sqlite:///$top/lost.db"
	ok "it is interrupted in order" interrupt_import
	for i in 1 2 3 4; do ctl put gone "$i" >/dev/null; done
	ctl compact "$(ctl get gone -w json | sed -n 's/.*"revision":\([0-9]*\).*/\1/p')" >/dev/null
	ok "what the source has compacted meanwhile is said" refused "was compacted at revision" --from "etcd://$source" \
		--endpoint "sqlite:///$top/lost.db"
	new_etcd other || exit 99
	ok "another etcd does not go on with it" refused "another source needs a new database" --from "etcd://$source" \
		--endpoint "sqlite:///$top/lost.db"
	ok "no source answers" refused "UNAVAILABLE\|failed to connect" --from "etcd://127.0.0.1:1" --endpoint "sqlite:///$top/none.db"
	ok "a name and password in the URL are refused" refused "goes to --from-user" --from "etcd://root:geheim7@$source" \
		--endpoint "sqlite:///$top/none.db"
}

into_postgres() {
	local db=$KS_TEST_POSTGRES_URL

	new_etcd plain || exit 99
	ctl put a 1 >/dev/null
	ok "SQLite: killed at any moment, it goes on or begins again" killed_at_any_moment "sqlite:///$top/kills.db"
	ok "an import into PostgreSQL begins" begin_import postgres --from "etcd://$source" --endpoint "$db"
	ok "a server waits beside it" waits_on "$db"
	url=$source
	ctl put b 2 >/dev/null
	pg_restart "$top/pg" immediate
	ctl put c 3 >/dev/null
	ok "PostgreSQL crashed meanwhile; the cut-over succeeds" cut_over 'HashKV [0-9]* on both sides'
	ok "an import begins while somebody writes" begin_import busy --from "etcd://$source" --endpoint "sqlite:///$top/busy.db"
	ok "as long as somebody writes there is no cut-over" cut_over_while_written
	refusals
	ok "the server that waited serves by itself" await_served "$top/waiting.log"
	ok "it has everything" has_keys "a b c k1 k2 k3"
	stop_kineshim
}

has_keys() {
	[ "$(ctl get '' --prefix --keys-only | xargs)" = "$1" ]
}

# From one database to another: kineshim is an etcd, here with TLS and users.
from_kineshim() {
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$top/key.pem" -out "$top/cert.pem" -days 2 \
		-subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 >/dev/null 2>&1
	KS_SCHEME=https start_kineshim "sqlite:///$top/there.db" secure --cert-file "$top/cert.pem" --key-file "$top/key.pem" || return 1
	echo geheim7 >"$top/password"
	import_log=$top/move.import
	timeout 60 "$kineshim" import --from "https://$url" --from-cacert "$top/cert.pem" --from-user root --from-password-file "$top/password" \
		--endpoint "sqlite:///$top/moved.db" --cut-over-when-idle 200ms >"$import_log" 2>&1
	grep -q '^imported .*HashKV' "$import_log" && return
	cat "$import_log" "$top/secure.log"
	return 1
}

moved_shows_all() {
	start_kineshim "sqlite:///$top/moved.db" moved && dump_to moved && diff "$top/etcd.txt" "$top/moved.txt"
}

new_etcd main || exit 99
into_sqlite
ok "a wrong password is said" refused "authentication failed" --from "etcd://$source" --from-user root:falsch \
	--endpoint "sqlite:///$top/none.db"
ok "a user who is not root is told" refused "role root" --from "etcd://$source" --from-user alice:newpw --endpoint "sqlite:///$top/none.db"
ok "a kineshim moves to another database, over TLS" from_kineshim
stop_kineshim
ok "which shows the same again" moved_shows_all
stop_kineshim
if pg_bin >/dev/null 2>&1; then
	mkdir "$top/pg" || exit 99
	[ "$(id -u)" -ne 0 ] || chown "$(pg_user)" "$top/pg"
	pg_init "$top/pg" || exit 99
	eval "$(with_env "$top/pg")"
	into_postgres
else
	ok "PostgreSQL can be started" pg_bin
fi
ok "no secret is shown" no_secrets 'geheim7\|falsch'
done_testing
