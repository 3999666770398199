#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# A PostgreSQL with a hot standby that takes over: synchronous, no acknowledged write is lost; asynchronous, what was lost is
# noticed by everybody, also behind a pooler where no connection breaks. Prints TAP.
set -u

# shellcheck source=tests/lib/program.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/program.sh"
load=$(readlink -f "$here/load.py")
ks_program standby etcdctl psql python3 curl
bouncer_bin >/dev/null || { echo "1..0 # SKIP no pgbouncer"; exit 77; }
export KS_TEST_POSTGRES_FLAGS="-c synchronous_standby_names="
primary='' standby=''
trap 'clear_servers; finish' EXIT

clear_servers() {
	local server

	for server in "$primary" "$standby"; do
		[ -n "$server" ] || continue
		bouncer_stop "$server"
		pg_stop "$server" immediate 2>/dev/null || pg_kill "$server"
		rm -rf "$server"
	done
	primary='' standby=''
}

two_servers() {
	primary=$(ks_tmpdir primary) && standby=$(ks_tmpdir standby) && pg_init "$primary" && pg_standby "$standby" "$primary" ||
		{ echo "Bail out! no PostgreSQL with a standby"; exit 99; }
	a=$(pg_port "$primary") b=$(pg_port "$standby")
}

ctl() {
	local to=$1

	shift
	timeout 20 etcdctl --endpoints="$to" "$@" 2>&1 | tee why
}

puts() { [ "$(ctl "$1" put "$2" "$3")" = OK ]; }
gets() { [ "$(ctl "$1" get "$2" --print-value-only)" = "$3" ]; }
hash() { ctl "$1" endpoint hashkv -w json | grep -o '"hash":[0-9]*'; }
status() { ctl "$1" endpoint status -w json | grep -o '"revision":[0-9]*' | cut -d: -f2; }
reloads() { curl -s "$1/metrics" | sed -n 's/^kineshim_log_reloads_total //p'; }
in_sync() {
	[ "$(pg_run "$primary" psql -X -t -A -c "SELECT count(*) FROM pg_stat_replication WHERE sync_state = '$1' AND replay_lsn = pg_current_wal_lsn()")" = 1 ]
}
quit() { kill -KILL "$@" 2>/dev/null; wait "$@" 2>/dev/null; }

# ---- synchronous ----

two_servers
pg_run "$primary" psql -qX -c "SELECT 1" >/dev/null
KS_TEST_POSTGRES_FLAGS="-c synchronous_standby_names=standby" pg_restart "$primary"
until_true 20 in_sync sync
check $? "the standby is synchronous"
start_ready one --endpoint="postgres://kineshim@127.0.0.1:$b,127.0.0.1:$a/kineshim"
check $? "of two hosts the primary is found, whichever comes first"
one=$url one_pid=$started
start_ready two --endpoint="postgres://kineshim@127.0.0.1:$a,127.0.0.1:$b/kineshim?target_session_attrs=read-write"
check $? "and with target_session_attrs"
two=$url two_pid=$started

start lonely --endpoint="postgres://kineshim@127.0.0.1:$b/kineshim" --listen-client-urls="http://127.0.0.1:$(ks_free_port)"
until_true 10 grep -q 'warn .*the server is a standby (in recovery)' lonely.log
result=$?
cp lonely.log why
check "$result" "a server that knows the standby only says so"
start any --endpoint="postgres://kineshim@127.0.0.1:$b/kineshim?target_session_attrs=any" --listen-client-urls="http://127.0.0.1:$(ks_free_port)"
until_true 10 grep -q 'warn .*the server is a standby (in recovery)' any.log
result=$?
cp any.log why
! grep -q 'ready to serve' any.log lonely.log
check "$((result + $?))" "and does not serve from it, even when any host is allowed"
any_pid=$started

python3 "$load" write acked "$one" "$two" &
load_pid=$!
id=$(ctl "$one" lease grant 60 | grep -o '[0-9a-f]\{16\}')
ctl "$one" put leased x --lease="$id" >/dev/null
etcdctl --endpoints="$two" watch w --write-out=json >watched 2>&1 &
watch_pid=$!
until_true 10 sh -c 'test $(wc -l <acked) -gt 200'
check $? "writes are acknowledged"
pg_kill "$primary"
before=$(wc -l <acked)
pg_promote "$standby"
until_true 20 sh -c "test \$(wc -l <acked) -gt $((before + 200))"
check $? "after the promotion writes go on"
touch acked.stop
wait "$load_pid"
python3 "$load" check acked "$one" >why && sed -n 's/^/# /p' why | head -n 1
check "${PIPESTATUS[0]}" "no acknowledged write is lost, and no revision was given twice"
[ "$(reloads "$one")$(reloads "$two")" = 00 ]
check $? "nobody had to load again"
puts "$one" w seen && until_true 10 grep -q '"type"\|Events' watched
check $? "a watch goes on"
ctl "$two" lease timetolive "$id" | grep -q 'remaining([1-9]'
check $? "a lease lives on"
until_true 10 grep -q 'ready to serve' any.log
check $? "who waited for a primary serves now"
[ -n "$(hash "$one")" ] && [ "$(hash "$one")" = "$(hash "$two")" ]
check $? "all hold the same"
quit "$one_pid" "$two_pid" "$any_pid" "$watch_pid"
clear_servers

# ---- asynchronous: rows are lost ----

two_servers
until_true 20 in_sync async
check $? "the standby is asynchronous"
hosts="postgres://kineshim@127.0.0.1:$a,127.0.0.1:$b/kineshim"
start_ready one --endpoint="$hosts" && one=$url one_pid=$started
start_ready two --endpoint="$hosts" && two=$url two_pid=$started
start_ready three --endpoint="$hosts" && three=$url three_pid=$started
until_true 10 sh -c "test \$(etcdctl --endpoints=$one member list | wc -l) -eq 3"
check $? "three servers share it"
for i in 1 2 3; do puts "$one" kept "$i"; done
kept_lease=$(ctl "$one" lease grant 60 | grep -o '[0-9a-f]\{16\}')
until_true 20 in_sync async
pg_stop "$standby" fast
kill -STOP "$two_pid"
etcdctl --endpoints="$one" watch --prefix l >watched 2>&1 &
watch_pid=$!
curl -sN "$three/v3/watch" -d '{"create_request":{"key":"bA==","range_end":"bQ=="}}' >watched.json &
curl_pid=$!
until_true 10 sh -c "etcdctl --endpoints=$three put lost/0 0 && grep -q lost/0 watched && grep -q events watched.json"
lost_lease=$(ctl "$one" lease grant 60 | grep -o '[0-9a-f]\{16\}')
for i in 1 2 3 4 5; do puts "$one" "lost/$i" "$i"; done
ctl "$one" put kept lost --lease="$lost_lease" >/dev/null
until_true 10 sh -c "etcdctl --endpoints=$three get kept | grep -q lost && grep -q lost/5 watched"
check $? "one server writes what the standby does not get, another one sees it, the third one sleeps"
high=$(status "$one")
# The writer sleeps, so that its position is taken by another entry before it looks.
kill -STOP "$one_pid"
pg_kill "$primary"
pg_start "$standby" && pg_promote "$standby"
kill -CONT "$two_pid"
until_true 20 sh -c "etcdctl --endpoints=$two put grown 0"
check $? "the one that slept goes on with the new primary"
cp two.log why
! grep -q 'no longer holds' two.log && [ "$(status "$two")" -lt "$high" ]
check $? "without loading again: it had seen nothing of what is lost"
while [ "$(status "$two")" -lt "$high" ]; do puts "$two" "grown/$(status "$two")" x || break; done
[ "$(status "$two")" -eq "$high" ]
check $? "and the log is as long as it was"
kill -CONT "$one_pid"
until_true 20 sh -c "etcdctl --endpoints=$one put mine x"
check $? "the writer writes again"
for name in one three; do
	until_true 15 grep -q 'warn log: the log no longer holds the entry at position' "$name.log"
	result=$?
	cp "$name.log" why
	check "$result" "server $name says that its log lost its end"
done
[ "$(reloads "$one") $(reloads "$two") $(reloads "$three")" = "1 0 1" ]
check $? "and counts it"
until_true 20 sh -c "etcdctl --endpoints=$one get --prefix lost | wc -l | grep -qx 0 && etcdctl --endpoints=$three get --prefix lost | wc -l | grep -qx 0" &&
	gets "$one" kept 3 && gets "$three" kept 3 && gets "$one" grown 0 && gets "$three" mine x
check $? "what was lost is served by nobody, what grew since by all"
[ "$(ctl "$three" get mine -w json | grep -o '"mod_revision":[0-9]*' | cut -d: -f2)" -eq "$((high + 1))" ]
check $? "revisions go on from there"
until_true 10 grep -q '"canceled":true,"compact_revision":"1"' watched.json
result=$?
cp watched.json why
check "$result" "a watch of JSON is cancelled as compacted"
until_true 10 ks_gone "$watch_pid"
result=$?
cp watched why
grep -qi 'compacted' watched
check "$((result + $?))" "so is one of etcdctl"
ctl "$three" lease timetolive "$kept_lease" | grep -q 'remaining([1-9]' && ctl "$three" lease timetolive "$lost_lease" | grep -q 'already expired'
check $? "a lease from before lives, a lost one is gone"
ctl "$one" lease keep-alive --once "$kept_lease" | grep -q 'keepalived' && ctl "$one" put after lease --lease="$kept_lease" | grep -q OK
check $? "and can be used"
[ -n "$(hash "$one")" ] && [ "$(hash "$one")" = "$(hash "$two")" ] && [ "$(hash "$one")" = "$(hash "$three")" ]
check $? "all hold the same"
quit "$one_pid" "$two_pid" "$three_pid" "$curl_pid"
clear_servers

# ---- behind a pooler that is told of the new primary: no connection of ours breaks ----

two_servers
bouncer_start "$primary" transaction || { echo "Bail out! no pgbouncer"; exit 99; }
bouncer=$(sed -n 's/^export KS_TEST_BOUNCER_PORT=//p' "$primary/env")
start_ready one --endpoint="postgres://kineshim@127.0.0.1:$bouncer/kineshim" && one=$url one_pid=$started
start_ready two --endpoint="postgres://kineshim@127.0.0.1:$bouncer/kineshim" && two=$url two_pid=$started
puts "$one" kept 1 && until_true 20 in_sync async
check $? "two servers behind a pooler"
pg_stop "$standby" fast
for i in 1 2 3; do puts "$one" "lost/$i" "$i"; done
until_true 10 sh -c "etcdctl --endpoints=$two get lost/3 | grep -q 3"
high=$(status "$one")
kill -STOP "$one_pid"
pg_kill "$primary"
pg_start "$standby" && pg_promote "$standby"
sed -i "s/port=$a/port=$b/" "$primary/bouncer/ini"
pg_run "$standby" psql -qX -h 127.0.0.1 -p "$bouncer" -U kineshim -d pgbouncer -c RELOAD
until_true 20 sh -c "etcdctl --endpoints=$two put grown 0"
while [ "$(status "$two")" -lt "$high" ]; do puts "$two" "grown/$(status "$two")" x || break; done
[ "$(status "$two")" -eq "$high" ]
check $? "the log lost its end and grew again"
kill -CONT "$one_pid"
until_true 20 sh -c "etcdctl --endpoints=$one put mine x"
cat one.log two.log >why
gets "$two" mine x && gets "$one" grown 0 && [ -z "$(ctl "$one" get lost --prefix)" ] && [ "$(status "$two")" -eq "$((high + 1))" ]
check $? "nobody wrote onto another's entry"
[ "$(reloads "$one") $(reloads "$two")" = "1 1" ] && [ -n "$(hash "$one")" ] && [ "$(hash "$one")" = "$(hash "$two")" ]
check $? "both loaded again and hold the same"
quit "$one_pid" "$two_pid"
clear_servers

echo "1..$point"
exit "$failed"
