#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Two servers on a PostgreSQL behind a pgbouncer in transaction mode: watches, leases, restarts; and the poolers that are
# refused. Prints TAP.
set -u

# shellcheck source=tests/lib/program.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/program.sh"
ks_program pooler curl etcdctl psql
bouncer_bin >/dev/null || { echo "1..0 # SKIP no pgbouncer"; exit 77; }
pg=$(ks_tmpdir pooler-pg) || exit 99
trap 'bouncer_stop "$pg"; finish' EXIT
# As in production, of which no log may complain.
export KS_TEST_FSYNC=1
export KS_TEST_POSTGRES_FLAGS="-c log_statement=all -c log_parameter_max_length=0"
pg_init "$pg" && bouncer_start "$pg" transaction || { echo "Bail out! no PostgreSQL"; exit 99; }
. "$pg/env"

ctl() {
	local to=$1

	shift
	timeout 20 etcdctl --endpoints="$to" "$@" 2>&1 | tee why
}

puts() { [ "$(ctl "$1" put "$2" "$3")" = OK ]; }
gets() { [ "$(ctl "$1" get "$2" --print-value-only)" = "$3" ]; }

start_ready one --endpoint="$KS_TEST_BOUNCER_URL"
check $? "a server starts behind a pooler"
one=$url
start_ready two --endpoint="$KS_TEST_BOUNCER_URL"
check $? "and another one"
two=$url
cp one.log why
grep -q 'a pooler stands before the server' one.log && grep -q 'a pooler stands before the server' two.log
check $? "both notice it"
until_true 10 sh -c "test \$(etcdctl --endpoints=$one member list | wc -l) -eq 2"
check $? "they are members of one cluster"

# Not with etcdctl, which gives up when a server is without its database for a while.
curl -sN "$one/v3/watch" -d '{"create_request":{"key":"dy8=","range_end":"dzA="}}' >watched &
until_true 10 sh -c "etcdctl --endpoints=$two put w/first x && grep -q '\"events\"' watched"
check $? "a watch on one sees a put on the other"
sleep 1
began=$(date +%s%N)
for i in 1 2 3 4 5 6 7 8 9 10; do
	puts "$two" "w/$i" "$i" || break
	until_true 5 grep -q "$(printf 'w/%d' "$i" | base64)" watched || break
done
took=$((($(date +%s%N) - began) / 10000000))
cp watched why
grep -q "$(printf w/10 | base64)" watched && [ "$took" -lt 400 ]
check $? "and ten more, each within 400 ms of the start of its put"
echo "# $took ms for each, with the client's start"

id=$(ctl "$one" lease grant 3 | grep -o '[0-9a-f]\{16\}')
puts "$one" leased x && ctl "$one" put leased y --lease="$id" >/dev/null
for i in 1 2 3 4 5; do
	ctl "$two" lease keep-alive --once "$id" >/dev/null
	sleep 0.8
done
gets "$two" leased y
check $? "a lease of one is kept alive on the other"
until_true 12 sh -c "test -z \"\$(etcdctl --endpoints=$one get leased)\""
check $? "and ends when nobody does"
[ "$(ctl "$one" get w/ --prefix --print-value-only | wc -l)" -eq 11 ]
check $? "a range has all keys"
ctl "$one" compaction "$(ctl "$two" endpoint status -w json | grep -o '"revision":[0-9]*' | cut -d: -f2)" >/dev/null &&
	ctl "$two" defrag | grep -q 'Finished defragmenting'
check $? "compaction and defragmentation work"
cat one.log two.log >why
! grep -E ' (warn|error) ' one.log two.log >/dev/null
check $? "and no log has a warning or an error"

pg_restart "$pg"
until_true 20 sh -c "etcdctl --endpoints=$one put after restart && etcdctl --endpoints=$two put after restart"
check $? "the database may be restarted"
bouncer_stop "$pg"
bouncer_start "$pg" transaction 'server_reset_query_always = 1' 'server_lifetime = 1'
until_true 20 sh -c "etcdctl --endpoints=$one put after bouncer && etcdctl --endpoints=$two get after | grep -q bouncer"
check $? "the pooler may be restarted, and reset its sessions each time"
puts "$two" w/last z && until_true 10 grep -q "$(printf w/last | base64)" watched
check $? "the watch lives on"
[ "$(ctl "$one" endpoint hashkv -w json | grep -o '"hash":[0-9]*')" = "$(ctl "$two" endpoint hashkv -w json | grep -o '"hash":[0-9]*')" ]
check $? "both hold the same"

! grep -q 'statement: LISTEN' "$pg/log"
check $? "nobody ever said LISTEN"

bouncer_stop "$pg"
bouncer_start "$pg" statement
start statement --endpoint="$KS_TEST_BOUNCER_URL" --listen-client-urls="http://127.0.0.1:$(ks_free_port)"
until_true 10 grep -q 'error .*the pooler works in statement mode' statement.log
result=$?
cp statement.log why
check "$result" "a pooler in statement mode is refused, and the log says why"
kill "$started" 2>/dev/null
start options --endpoint="$KS_TEST_BOUNCER_URL?options=-cjit%3Doff" --listen-client-urls="http://127.0.0.1:$(ks_free_port)"
until_true 10 grep -q 'a pooler that takes no options: name the tables. schema with schema=' options.log
result=$?
cp options.log why
check "$result" "so are options that it does not let through"
kill "$started" 2>/dev/null

bouncer_stop "$pg"
bouncer_start "$pg" session
start_ready session --endpoint="$KS_TEST_BOUNCER_URL?pool_mode=session"
result=$?
! grep -q 'a pooler stands' session.log && until_true 5 grep -q 'statement: LISTEN' "$pg/log"
check "$((result + $?))" "with pool_mode=session one is used like the server itself"

echo "1..$point"
exit "$failed"
