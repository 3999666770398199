#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The program as its users meet it: flags and errors, start, signals, a database that is away or belongs to somebody else,
# two instances on one database. Prints TAP.
set -u

# shellcheck source=tests/lib/program.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/program.sh"
ks_program server

ctl() {
	local to=$1

	shift
	timeout 20 etcdctl --endpoints="$to" "$@" 2>why
}

# ---- flags ----

"$kineshim" --help >help 2>why && grep -q -- --listen-client-urls help
check $? "--help prints the flags and ends with 0"
"$kineshim" --version >version 2>why && grep -q '^kineshim Version: [0-9]' version && grep -q '^etcd API: 3\.' version
check $? "--version prints both versions"
"$kineshim" --version --verbose | grep -q backends
check $? "--version --verbose says how it was built"
"$kineshim" --help >/dev/full 2>why
[ $? -eq 1 ]
check $? "a full disk makes --help fail"
refused 2 'unknown flag --listen-client-url; did you mean --listen-client-urls?' --listen-client-url x
check $? "an unknown flag ends with 2 and the nearest name"
refused 2 'is not a flag' start
check $? "an argument that is no flag ends with 2"
refused 2 '--max-request-bytes: "lots" is not a size' --max-request-bytes=lots
check $? "a bad value ends with 2 and says what is expected"
KINESHIM_MAX_TXN_OPS=none refused 2 'KINESHIM_MAX_TXN_OPS: "none" is not a number'
check $? "a bad variable is named"
refused 2 'no backend is called' --endpoint=nosql://x
check $? "an unknown kind of database ends with 2"
refused 2 'ftp://x' --listen-client-urls=ftp://x
check $? "a listen URL that cannot be ends with 2 and is named"

# Whatever the installed etcd lists must be known here; --help names also what is without effect.
etcd --help 2>&1 | grep -oE -- "^ +'?--[a-z][a-z0-9-]+" | grep -oE -- '--.*' | sort -u >etcd.flags
tr -s ' [],' '\n' <help | grep -oE -- '^--[a-z][-a-z0-9]+' | sort -u >our.flags
comm -23 etcd.flags our.flags >why
[ "$(wc -l <etcd.flags)" -gt 50 ] && [ ! -s why ]
check $? "every flag of the installed etcd is accepted"

# ---- one server on SQLite ----

start_ready one --data-dir=one.data
check $? "it serves on SQLite by default"
one=$started
one_url=$url
grep -q "ready to serve client requests urls=$url " one.log
check $? "the line says where"
refused 1 "${one_url#http://}" --data-dir=other.data --listen-client-urls="$one_url"
check $? "a port in use ends with 1 and names the URL"
refused 1 'ss -ltnp tells which' --data-dir=other.data --listen-client-urls="$one_url"
check $? "and says how to find out who has it"
: >a-file
refused 1 'a-file/kineshim.db.lock: Not a directory; --data-dir' --data-dir=a-file
check $? "a data folder that cannot be ends with 1 and says what to change"
refused 1 'this machine has no such address' --data-dir=other.data --listen-client-urls=http://192.0.2.1:2379
check $? "an address of another machine ends with 1 and says so"
refused 1 'one.data/kineshim.db' --data-dir=one.data --listen-client-urls=http://127.0.0.1:0
check $? "a second server on the same file ends with 1 and names the file"
ctl "$one_url" put k v >/dev/null && [ "$(ctl "$one_url" get k --print-value-only)" = v ]
check $? "it serves all the same"
timeout 10 etcdctl --endpoints="$one_url" watch k >watch.out 2>&1 &
sleep 0.3
kill -TERM "$one"
wait "$one"
check $? "SIGTERM ends it with 0, also with a watch open"
grep -q 'main: stopped' one.log
check $? "its last line says so"
start_ready again --data-dir=one.data && [ "$(ctl "$url" get k --print-value-only)" = v ]
check $? "a restart finds the data"
kill -INT "$started"
wait "$started"
check $? "SIGINT ends it with 0"
KINESHIM_DATA_DIR=one.data KINESHIM_LOG_LEVEL=warn KINESHIM_TYPO=1 KINESHIM_SERVICE_PORT=1 "$kineshim" --log-format=json \
	--listen-client-urls="http://127.0.0.1:$(ks_free_port)" >env.log 2>&1 &
started=$!
until_true 10 grep -q 'KINESHIM_TYPO' env.log
check $? "unknown variables are warned of"
kill -TERM $started
wait $started
[ "$(grep -c . env.log)" -eq 1 ]
check $? "variables set flags: only the warning is logged"
start_ready logs --data-dir=one.data --log-outputs=logs.file,stderr --warning-unary-request-duration=1ms \
	--election-timeout=5000 --snapshot-count=5 --socket-reuse-port
until_true 10 grep -q 'ready to serve' logs.file && [ "$(sort logs.file)" = "$(sort logs.log)" ]
check $? "--log-outputs writes to all of them"
grep -q 'warn main: accepted without effect here .*: --snapshot-count$' logs.file
check $? "flags of etcd without effect are named once"
mv logs.file logs.old
kill -HUP "$started"
until_true 10 grep -q SIGHUP logs.file
check $? "SIGHUP opens log files anew"
[ "$(ctl "$url" lease grant 1 | sed 's/.*TTL(\(.*\)).*/\1/')" = 8s ]
check $? "the least TTL of a lease follows --election-timeout"
head -c 1000000 /dev/zero | tr '\0' v >large
until_true 30 sh -c "ETCDCTL_API=3 etcdctl --endpoints=$url put large <large && grep -q 'slow request method=/etcdserverpb.KV/Put ' logs.file"
check $? "slow requests are logged with their method"
! grep -q vvvv logs.file
check $? "and without what they carry"
first=$started
start second --data-dir=second.data --listen-client-urls="$url" --socket-reuse-port
until_true 10 grep -q 'ready to serve' second.log
check $? "--socket-reuse-port lets two servers share a port"
kill -TERM "$started" "$first"
wait "$started" "$first"
start_ready nojson --data-dir=one.data --enable-grpc-gateway=false
[ "$(timeout 10 curl -s -o why -w '%{http_code}' "$url/v3/kv/range" -d '{"key":"aw=="}')" = 404 ] &&
	timeout 10 curl -sf "$url/version" | grep -q etcdserver
check $? "--enable-grpc-gateway=false leaves /version and takes /v3"
kill -TERM "$started"
wait "$started"
cat >file.yml <<END
# as etcd's sample
name: from-file
data-dir: file.data
listen-client-urls: http://127.0.0.1:0
log-format: console
log-outputs: [file.out]
wal-dir:
END
"$kineshim" --config-file=file.yml --name=ignored >file.log 2>&1 &
started=$!
until_true 10 grep -q 'ready to serve' file.out && [ -e file.data/kineshim.db ] && [ ! -s file.log ]
check $? "--config-file configures"
grep -q 'the configuration file counts, ignored are the flags and variables: --name$' file.out
check $? "what it overrides is said"
kill -TERM "$started"
wait "$started"
check $? "and SIGTERM ends it with 0"
"$kineshim" --config-file=file.yml --check-config >why 2>&1 && grep -q fine why
check $? "--check-config accepts it"
refused 2 'ftp://x' --check-config --listen-client-urls=http://127.0.0.1:1,ftp://x
check $? "--check-config looks at the URLs"
refused 2 'cannot write to "none/such"' --log-outputs=none/such
check $? "a log file that cannot be opened ends with 2"
refused 2 'initial-cluster names 2 members' --initial-cluster=a=http://a:2380,b=http://b:2380
check $? "members with a SQLite file each are refused"
refused 2 '--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[300ms]' \
	--heartbeat-interval=300
check $? "the timeouts of elections are checked as etcd does"
"$kineshim" completion bash >completion && bash -n completion && grep -q -- --listen-client-urls completion
check $? "completion bash is a script"
"$kineshim" help completion 2>why | grep -q 'bash|zsh|fish'
check $? "help COMMAND explains a command"
rm -rf broken.data && mkdir broken.data && head -c 8192 /dev/urandom >broken.data/kineshim.db
start broken --data-dir=broken.data --listen-client-urls="http://127.0.0.1:$(ks_free_port)"
until_true 10 grep -q ' error ' broken.log && kill -0 "$started"
check $? "a file that is no database is an error on the log, not the end of the process"
kill -TERM "$started"
wait "$started"
check $? "and SIGTERM still ends it with 0"

# ---- Databases that are servers ----

# on_database KIND
on_database() {
	local kind=$1 title endpoint password port i a b a_url b_url lease

	title=$(ks_title "$kind")
	database "$kind"
	endpoint=$(ks_url "$database") password=the-test-password
	# PostgreSQL's takes everybody, with any password.
	[ "$kind" != pg ] || endpoint=${endpoint/kineshim@/kineshim:$password@}
	"${kind}_stop" "$database"
	port=$(ks_free_port)
	start away --endpoint="$endpoint" --listen-client-urls="http://127.0.0.1:$port"
	until_true 10 grep -q 'will retry' away.log && kill -0 "$started"
	check $? "$title: a database that is away at the start is waited for"
	timeout 5 etcdctl --endpoints="127.0.0.1:$port" --command-timeout=2s get k >away.out 2>&1
	grep -q 'etcdserver: no leader' away.out
	check $? "$title: until then a read answers no leader"
	"${kind}_start" "$database"
	until_true 30 grep -q 'ready to serve' away.log
	check $? "$title: it serves when the database comes"
	grep -q 'the password in --endpoint is hidden now' away.log
	check $? "$title: a password on the command line is warned of"
	! grep -q "$password" away.log && grep -q 'kineshim:\*\*\*@' away.log
	check $? "$title: the password is nowhere on the log"
	kill -TERM "$started"
	wait "$started"
	check $? "$title: SIGTERM ends it with 0"

	start_ready a --endpoint="$endpoint"
	a=$started
	a_url=$url
	start_ready b --endpoint="$endpoint"
	check $? "$title: two instances serve one database"
	b=$started
	b_url=$url
	ctl "$a_url" put shared 1 >/dev/null && [ "$(ctl "$b_url" get shared --print-value-only)" = 1 ]
	check $? "$title: what one has written the other reads at once"
	timeout 60 etcdctl --endpoints="$b_url" watch --prefix seen/ >watch.b 2>&1 &
	until_true 10 sh -c "etcdctl --endpoints=$a_url put seen/start x && sleep 0.1 && grep -q seen/start watch.b"
	for i in 1 2 3; do
		ctl "$a_url" put seen/$i a >/dev/null
		ctl "$b_url" put seen/$i b >/dev/null
	done
	until_true 10 sh -c 'test $(grep -c "seen/[123]" watch.b) -eq 6'
	grep -A1 'seen/[123]' watch.b | grep '^[ab]$' | tr -d '\n' >order
	cp watch.b why
	[ "$(cat order)" = ababab ]
	check $? "$title: a watch on one sees the writes of both in order"
	until_true 20 sh -c "test \$(etcdctl --endpoints=$a_url member list | wc -l) -eq 2" &&
		[ "$(ctl "$a_url" member list | cut -d, -f1,3,5)" = "$(ctl "$b_url" member list | cut -d, -f1,3,5)" ]
	check $? "$title: both list both members before long"
	lease=$(ctl "$a_url" lease grant 60 | sed -n 's/^lease \([0-9a-f]*\) granted.*/\1/p')
	ctl "$b_url" put leased x --lease="$lease" >/dev/null && ctl "$b_url" lease keep-alive --once "$lease" >/dev/null &&
		ctl "$b_url" lease revoke "$lease" >/dev/null && [ -z "$(ctl "$a_url" get leased)" ]
	check $? "$title: a lease of one is known to the other"
	kill -KILL "$a"
	wait "$a" 2>/dev/null
	lease=$(ctl "$b_url" lease grant 2 | sed -n 's/^lease \([0-9a-f]*\) granted.*/\1/p')
	ctl "$b_url" put dying x --lease="$lease" >/dev/null
	until_true 30 sh -c "! etcdctl --endpoints=$b_url get dying | grep -q ."
	check $? "$title: leases expire although the instance that did the housekeeping was killed"
	"${kind}_kill" "$database"
	timeout 10 etcdctl --endpoints="$b_url" get shared --consistency=s --print-value-only >serializable.out 2>why
	[ "$(cat serializable.out)" = 1 ]
	check $? "$title: a serializable read is served while the database is down"
	"${kind}_start" "$database"
	until_true 30 sh -c "etcdctl --endpoints=$b_url --command-timeout=2s put shared 2"
	check $? "$title: writes go on when it is back"
	kill -TERM "$b"
	wait "$b"
	check $? "$title: SIGTERM ends it with 0"
}

for kind in $(ks_databases "$kineshim"); do
	on_database "$kind"
done

echo "1..$point"
exit $failed
