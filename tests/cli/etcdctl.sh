#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# etcdctl against kineshim, on SQLite and on PostgreSQL: every KV, watch, lease, compaction, endpoint, member, auth, user, role, alarm
# and snapshot command, and what is built from them (lock, elect, make-mirror). The same steps run against a real etcd first, and what etcdctl
# prints must be the same, but for ids, ports and times. Prints TAP: one point for each step on each database.
#
#   etcdctl.sh                 all of it; without a real etcd (or PostgreSQL) that part is skipped
#   etcdctl.sh --transcript URL DIR      only runs the steps against a server and leaves what they print in DIR
#
# KINESHIM names the program under test, by default the one of this build. KS_TEST_KEEP=1 keeps the transcripts.
set -u

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
lib=$here/../lib
# shellcheck source=tests/lib/servers.sh
. "$lib/servers.sh"
export ETCDCTL_API=3

ctl() {
	timeout 30 etcdctl --endpoints="$url" "$@"
}

# For the background: $! is timeout itself, which passes a kill on to etcdctl.
exec_ctl() {
	exec timeout 30 etcdctl --endpoints="$url" "$@"
}

# Runs a command line and shows it with what it printed and its exit status.
say() {
	echo "\$ $*"
	"$@" 2>&1
	echo "status $?"
}

# until_true SECONDS COMMAND…
until_true() {
	local try limit=$(($1 * 20))

	shift
	for try in $(seq "$limit"); do
		"$@" >/dev/null 2>&1 && return
		sleep 0.05
	done
	echo "waited in vain for: $*"
	return 1
}

lines() {
	[ "$(wc -l <"$1")" -ge "$2" ]
}

# Ends a background job of this shell, with its children.
end_job() {
	kill "$1" 2>/dev/null
	wait "$1" 2>/dev/null
}

# ---- the steps: they build on each other, so revisions can be compared ----

step_put() {
	say ctl put foo bar
	say ctl put foo bar2 --prev-kv
	say ctl put empty ''
	say ctl put '' x
	say ctl put foo --ignore-value
	say ctl put nothing --ignore-value
	say ctl put foo x --lease=123
	say ctl put foo x --ignore-lease
	echo from-stdin | say ctl put piped
	say ctl put -w json foo json
	say ctl put -w fields foo fields --prev-kv
}

# Before anything is compacted the hash is the same on all versions.
step_hashkv() {
	say ctl endpoint hashkv
	say ctl endpoint hashkv --rev=3 -w json
	say ctl endpoint hashkv --rev=99
}

step_get() {
	say ctl get foo
	say ctl get missing
	say ctl get foo --print-value-only
	say ctl get foo -w json
	say ctl get foo -w fields
	say ctl get foo --hex
	say ctl get foo --consistency=s
	say ctl get foo --rev=2
	say ctl get foo --rev=999
	say ctl get ''
}

step_get_ranges() {
	local i

	for i in 5 3 1 4 2; do ctl put "k/$i" "v$((9 - i))" >/dev/null; done
	ctl put k/3 again >/dev/null
	say ctl get --prefix k/
	say ctl get --prefix k/ --keys-only
	say ctl get --prefix k/ --limit=2
	say ctl get --prefix k/ --limit=2 -w json
	say ctl get --prefix k/ --order=DESCEND --sort-by=KEY
	say ctl get --prefix k/ --order=ASCEND --sort-by=VALUE
	say ctl get --prefix k/ --order=DESCEND --sort-by=MODIFY
	say ctl get --prefix k/ --order=ASCEND --sort-by=CREATE
	say ctl get --prefix k/ --order=DESCEND --sort-by=VERSION --limit=1
	say ctl get --prefix k/ --keys-only -w fields --limit=1
	say ctl get --from-key k/4
	say ctl get k/2 k/4
	say ctl get k/4 k/2
	say ctl get --prefix ''
	say ctl get --prefix k/ --rev=10 --keys-only
}

step_binary_keys() {
	say ctl put $'\x01\xff' $'\xff\xfe'
	say ctl get $'\x01\xff' --hex
	say ctl get --prefix $'\x01\xff' -w json
	say ctl del $'\x01\xff'
}

step_del() {
	say ctl del missing
	say ctl del empty
	say ctl del piped --prev-kv
	say ctl del k/1 k/3
	say ctl del --prefix k/ --prev-kv
	say ctl del -w json --from-key zzz
	say ctl get --prefix k/
}

step_txn() {
	say ctl txn <<-'END'
		mod("new") = "0"
		ver("foo") > "1"

		put new 1
		get new

		get foo

	END
	say ctl txn <<-'END'
		mod("new") = "0"

		put new 2

		get new
		del missing

	END
	say ctl txn -w json <<-'END'
		value("new") = "1"
		create("new") > "0"

		del new --prev-kv
		put other a
		get --prefix o


	END
	say ctl txn -i <<-'END'
		val("other") < "b"

		put other c

		get other

	END
	say ctl txn <<-'END'

		put twice 1
		put twice 2


	END
	say ctl txn <<-'END'

		put twice 1
		del --prefix tw


	END
	{
		echo
		for i in $(seq 129); do echo "put many/$i $i"; done
		echo
		echo
	} | say ctl txn
	{
		echo
		for i in $(seq 128); do echo "put many/$i $i"; done
		echo
		echo
	} | say ctl txn | tail -n 3
	ctl get --prefix many/ --keys-only | grep -c many
	say ctl del --prefix many/
}

step_watch() {
	exec_ctl watch w >"$out/watch" 2>&1 &
	local one=$!
	exec_ctl watch --prefix w --prev-kv -w fields >"$out/watch.prev" 2>&1 &
	local prev=$!
	exec_ctl watch w -- sh -c 'echo "$ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE"' >"$out/watch.exec" 2>&1 &
	local run=$!
	# A watch that has begun sees this key; then the others have begun too, or will be given time.
	until_true 10 sh -c "etcdctl --endpoints=$url put w begin >/dev/null; sleep 0.2; test -s $out/watch &&
		test -s $out/watch.prev && test -s $out/watch.exec"
	ctl put w 1 >/dev/null
	ctl put w 2 >/dev/null
	ctl put wx 3 >/dev/null
	ctl del w >/dev/null
	until_true 10 grep -q DELETE "$out/watch"
	until_true 10 grep -q '"Type" : "DELETE"\|"Type" : 1\|DELETE' "$out/watch.prev"
	until_true 10 grep -q DELETE "$out/watch.exec"
	end_job $one
	end_job $prev
	end_job $run
	sed -n '/^1$/,$p' "$out/watch"
	grep -c PUT "$out/watch.exec" | sed 's/[0-9][0-9]*/some/'
	grep DELETE "$out/watch.exec"
	ctl put w rebase >/dev/null
}

# History: the revisions are the same on every server only when the puts above were; so this starts from a new key.
step_watch_history() {
	local first

	first=$(ctl put h 1 -w json | sed 's/.*"revision":\([0-9]*\).*/\1/')
	ctl put h 2 >/dev/null
	ctl put hh 3 >/dev/null
	ctl del h >/dev/null
	exec_ctl watch --prefix h --rev="$first" >"$out/watch.old" 2>&1 &
	local old=$!
	until_true 10 lines "$out/watch.old" 11
	ctl put h 4 >/dev/null
	until_true 10 lines "$out/watch.old" 14
	end_job $old
	cat "$out/watch.old"
	printf 'watch h --rev=%s\n' "$first" >"$out/commands"
	{ cat "$out/commands"; sleep 2; } | timeout 3 etcdctl --endpoints="$url" watch -i 2>&1 | head -n 6
	ctl del --prefix h >/dev/null
}

lease_of() {
	sed -n 's/^lease \([0-9a-f]*\) granted.*/\1/p'
}

step_lease() {
	local id

	id=$(ctl lease grant 100 | lease_of)
	say ctl lease grant 1
	say ctl lease timetolive "$id"
	say ctl put leased 1 --lease="$id"
	say ctl put leased2 2 --lease="$id"
	say ctl get leased -w json
	ctl lease timetolive "$id" --keys | sed 's/\[leased2 leased\]/[leased leased2]/'
	say ctl put leased 1 --ignore-lease --ignore-value
	say ctl put leased2 3
	ctl lease timetolive "$id" --keys
	say ctl lease keep-alive --once "$id"
	ctl lease list | sed 1d | grep -c .
	say ctl lease revoke "$id"
	say ctl get --prefix leased
	say ctl lease revoke "$id"
	say ctl lease timetolive "$id"
	say ctl lease keep-alive --once "$id"
	say ctl del leased2
}

step_lease_expires() {
	local id

	id=$(ctl lease grant 2 | lease_of)
	ctl put dying 1 --lease="$id" >/dev/null
	say ctl get dying
	until_true 15 sh -c "! etcdctl --endpoints=$url get dying | grep -q ."
	say ctl get dying
	id=$(ctl lease grant 2 | lease_of)
	exec_ctl lease keep-alive "$id" >"$out/keepalive" 2>&1 &
	local job=$!
	ctl put kept 1 --lease="$id" >/dev/null
	until_true 15 lines "$out/keepalive" 5
	say ctl get kept
	end_job $job
	ctl lease revoke "$id" >/dev/null
	sed -n 1p "$out/keepalive"
}

step_compaction() {
	local now

	now=$(ctl put c 1 -w json | sed 's/.*"revision":\([0-9]*\).*/\1/')
	ctl put c 2 >/dev/null
	ctl put c 3 >/dev/null
	say ctl compaction $((now + 1)) | sed "s/\b$((now + 1))\b/REV/g"
	say ctl compaction $((now + 1)) | sed "s/\b$((now + 1))\b/REV/g"
	say ctl compaction $((now + 99)) | sed "s/\b$((now + 99))\b/FUTURE/g"
	say ctl get c --rev="$now" | sed "s/\b$now\b/OLD/g"
	say ctl get c --rev=$((now + 1)) | sed "s/\b$((now + 1))\b/REV/g"
	say ctl get c
	say timeout 10 etcdctl --endpoints="$url" watch c --rev="$now" |
		sed "s#$url#ENDPOINT#; s/=$now\\b/=OLD/g; s/\\b$((now + 1))\\b/REV/g"
	say ctl compaction --physical $((now + 2)) | sed "s/\b$((now + 2))\b/REV/g"
	say ctl get c
}

step_endpoint() {
	say ctl endpoint health
	say ctl endpoint health --cluster
	say ctl endpoint status -w json
	ctl endpoint status | awk -F', ' '{ print NF, $5, $6, $10 }'
	say ctl endpoint hashkv | sed 's/[0-9]*$/HASH/'
	say ctl endpoint hashkv -w json | sed 's/"hash":[0-9]*/"hash":HASH/'
}

step_member() {
	ctl member list | awk -F', ' '{ print NF, $2, $5, $6 }'
	ctl member list -w json | grep -o '"ID":\|"clientURLs":\["[^"]*"\]\|"name"'
	say ctl member list -w fields | grep -c ClientURL
}

step_alarm_and_defrag() {
	say ctl alarm list
	say ctl alarm disarm
	say ctl defrag
}

step_lock() {
	say ctl lock guarded echo locked
	exec_ctl lock guarded >"$out/lock.one" 2>&1 &
	local one=$!
	until_true 10 test -s "$out/lock.one"
	exec_ctl lock guarded >"$out/lock.two" 2>&1 &
	local two=$!
	until_true 10 sh -c "test \$(etcdctl --endpoints=$url get --prefix guarded/ --keys-only | grep -c guarded) -eq 2"
	wc -c <"$out/lock.two"
	kill -INT "$(pgrep -P $one -f 'lock guarded' || echo $one)" 2>/dev/null
	wait $one 2>/dev/null
	until_true 15 test -s "$out/lock.two"
	sed 's#/.*#/LEASE#' "$out/lock.one" "$out/lock.two"
	kill -INT "$(pgrep -P $two -f 'lock guarded' || echo $two)" 2>/dev/null
	wait $two 2>/dev/null
	until_true 15 sh -c "! etcdctl --endpoints=$url get --prefix guarded/ | grep -q ."
	say ctl get --prefix guarded/
}

step_elect() {
	exec_ctl elect seat one >"$out/elect.one" 2>&1 &
	local one=$!
	until_true 10 lines "$out/elect.one" 2
	exec_ctl elect -l seat >"$out/elect.listen" 2>&1 &
	local listen=$!
	until_true 10 lines "$out/elect.listen" 2
	exec_ctl elect seat two >"$out/elect.two" 2>&1 &
	local two=$!
	until_true 10 sh -c "test \$(etcdctl --endpoints=$url get --prefix seat/ --keys-only | grep -c seat) -eq 2"
	wc -c <"$out/elect.two"
	kill -INT "$(pgrep -P $one -f 'elect seat' || echo $one)" 2>/dev/null
	wait $one 2>/dev/null
	until_true 15 lines "$out/elect.two" 2
	until_true 10 lines "$out/elect.listen" 4
	end_job $listen
	kill -INT "$(pgrep -P $two -f 'elect seat' || echo $two)" 2>/dev/null
	wait $two 2>/dev/null
	sed 's#seat/.*#seat/LEASE#' "$out/elect.one" "$out/elect.two" "$out/elect.listen"
}

step_make_mirror() {
	local i

	for i in $(seq 20); do echo "put from/$i $i"; done >"$out/puts"
	{ echo; cat "$out/puts"; echo; echo; } | ctl txn >/dev/null
	timeout 60 etcdctl --endpoints="$url" make-mirror --prefix from/ --dest-prefix to/ "${url#http://}" >"$out/mirror" 2>&1 &
	local mirror=$!
	until_true 20 sh -c "etcdctl --endpoints=$url get to/9 | grep -q ."
	ctl put from/new x >/dev/null
	ctl del from/1 >/dev/null
	until_true 20 sh -c "etcdctl --endpoints=$url get to/new | grep -q x && ! etcdctl --endpoints=$url get to/1 | grep -q ."
	end_job $mirror
	say ctl get --prefix to/
	ctl del --prefix from/ >/dev/null
	ctl del --prefix to/ >/dev/null
}

step_large_values() {
	head -c 1500000 /dev/zero | tr '\0' v >"$out/large"
	head -c 1624000 /dev/zero | tr '\0' v >"$out/larger"
	say ctl put large <"$out/large"
	ctl get large --print-value-only | wc -c
	say ctl put larger <"$out/larger"
	say ctl del large
}

step_watch_interactive() {
	ctl put typed 1 >"$out/typed"
	(
		echo 'watch typed'
		until_true 10 grep -q PUT "$out/interactive"
		ctl put typed 3 >"$out/typed"
		until_true 10 grep -q '^3$' "$out/interactive"
	) | timeout 30 etcdctl --endpoints="$url" watch -i >"$out/interactive" 2>&1 &
	local job=$!
	until_true 10 sh -c "etcdctl --endpoints=$url put typed 2 >$out/typed; sleep 0.2; grep -q PUT $out/interactive"
	wait $job
	grep -c '^3$' "$out/interactive"
	ctl del typed >"$out/typed"
}

# Users and roles, with auth on, and off again.
step_auth() {
	local root="--user=root:secret" alice="--user=alice:wonder"

	say ctl auth enable
	say ctl user add root:secret
	say ctl user add root:again
	say ctl user add alice:first
	say ctl user add carl --no-password
	say ctl user list
	say ctl user passwd alice --interactive=false <<<wonder
	say ctl role add reader
	say ctl role add reader
	say ctl role grant-permission reader read pub/ --prefix
	say ctl role grant-permission reader readwrite own
	say ctl role grant-permission nobody read x
	say ctl role get reader
	say ctl role get nobody
	say ctl user grant-role alice reader
	say ctl user grant-role alice nobody
	say ctl user get alice
	say ctl user get alice --detail
	say ctl user get nobody
	say ctl auth enable
	say ctl get own
	say ctl "$root" auth enable
	say ctl --user=root:wrong get own
	say ctl --user=carl:x get own
	say ctl "$root" put pub/x 1
	say ctl "$alice" get pub/x
	say ctl "$alice" get pub/ --prefix
	say ctl "$alice" get pub/ --from-key
	say ctl "$alice" put pub/x 2
	say ctl "$alice" put own 1
	say ctl "$alice" put own 2 --prev-kv
	say ctl "$alice" del pub/x
	say ctl "$alice" txn <<<$'value("own") = "2"\n\nget pub/x\n\nput pub/x 3\n\n'
	say ctl "$alice" watch pub/x --rev=1000000 --user=alice:wrong
	say ctl "$alice" user list
	say ctl "$alice" user get alice
	say ctl "$alice" role get reader
	say ctl "$alice" endpoint health
	say ctl "$alice" lock pub/lock echo no
	say ctl "$alice" elect pub/seat me
	say ctl "$root" role revoke-permission reader own
	say ctl "$root" role revoke-permission reader own
	say ctl "$alice" get own
	say ctl "$root" user revoke-role alice reader
	say ctl "$root" user revoke-role alice reader
	say ctl "$alice" get pub/x
	say ctl "$root" user delete root
	say ctl "$root" role delete root
	say ctl "$root" role delete reader
	say ctl "$root" user delete alice
	say ctl "$root" role list
	say ctl "$root" auth disable
	say ctl user delete root
	say ctl user delete carl
	say ctl role delete root
	say ctl user list
	say ctl del own
	say ctl del pub/ --prefix
}

# What etcd itself makes of a snapshot; hash and size are those of the file.
step_snapshot() {
	local now

	rm -rf "$out/db" "$out/restored"
	now=$(ctl get missing -w json | sed 's/.*"revision":\([0-9]*\).*/\1/')
	ctl snapshot save "$out/db" >"$out/save" 2>&1
	echo "status $?"
	tail -n 1 "$out/save" | sed "s#$out#OUT#"
	etcdctl snapshot status "$out/db" -w json |
		sed "s/\"\(hash\|totalKey\|totalSize\)\":[0-9]*/\"\1\":N/g; s/\"revision\":$now,/\"revision\":NOW,/"
	etcdctl snapshot restore "$out/db" --data-dir "$out/restored" >"$out/restore" 2>&1
	echo "status $?"
	test -d "$out/restored/member/snap" && echo restored
	rm -rf "$out/restored" "$out/db"
}

step_move_leader() {
	local leader

	leader=$(ctl endpoint status -w json | sed 's/.*"leader":\([0-9]*\).*/\1/')
	say ctl move-leader "$(printf '%x' "$leader")"
	say ctl move-leader 1234
	say ctl move-leader
}

steps="put hashkv get get_ranges binary_keys del txn lease lease_expires compaction endpoint member alarm_and_defrag
	watch watch_history watch_interactive lock elect make_mirror large_values auth snapshot move_leader"

# What differs between any two servers.
normalise() {
	sed -E -e "s#${url#http://}#HOST#g" \
		-e 's/"(cluster_id|member_id|leader)":[0-9]+/"\1":ID/g' \
		-e 's/"(ClusterID|MemberID)" : [0-9]+/"\1" : ID/g' \
		-e 's/"(raft_term|raftIndex|raftTerm|raftAppliedIndex|dbSize|dbSizeInUse)":[0-9]+/"\1":N/g' \
		-e 's/"(RaftTerm)" : [0-9]+/"\1" : N/g' \
		-e 's/"version":"[0-9.]+"/"version":V/g' \
		-e 's/,"(storageVersion|dbSizeQuota|downgradeInfo)":("[^"]*"|[0-9]+|\{[^}]*\})//g' \
		-e 's/"lease":[0-9]+/"lease":ID/g' \
		-e 's/\b[0-9a-f]{12,16}\b/LEASE/g' \
		-e 's/remaining\((99|98|100)s\)/remaining(Ts)/' \
		-e 's/took = [0-9.]+[mnµs]+/took = T/' \
		-e 's/^\{"level":.*"error":"(.*)"\}$/log: \1/' \
		-e 's#"(target|ts|attempt|caller|logger)":("[^"]*"|[0-9.]+),?##g'
}

transcript() {
	url=$1
	out=$2
	mkdir -p "$out"
	for step in $steps; do
		"step_$step" 2>&1 | normalise >"$out/$step.txt"
	done
}

if [ "${1:-}" = --transcript ]; then
	transcript "$2" "$3"
	exit 0
fi

# ---- the servers ----

# Many steps log in; a hash that costs more would be most of the work.
cost=--bcrypt-cost=4
export KS_TEST_ETCD_FLAGS=$cost
kineshim=${KINESHIM:-${top_builddir:-.}/kineshim/kineshim}
command -v etcdctl >/dev/null || { echo "1..0 # SKIP no etcdctl (Debian: etcd-client)"; exit 0; }
[ -x "$kineshim" ] || { echo "Bail out! no $kineshim"; exit 99; }
dir=$(ks_tmpdir etcdctl) || exit 99
server=

finish() {
	trap - EXIT
	[ -z "$server" ] || { kill "$server" 2>/dev/null; wait "$server" 2>/dev/null; }
	if [ -n "${KS_TEST_KEEP:-}" ]; then echo "# transcripts: $dir"; else rm -rf "$dir"; fi
}
trap finish EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

# Starts kineshim on the database and runs the steps against it.
run_kineshim() {
	local name=$1 endpoint=$2 port try

	for try in 1 2 3; do
		port=$(ks_free_port)
		"$kineshim" --endpoint="$endpoint" --data-dir="$dir/$name.data" --listen-client-urls="http://127.0.0.1:$port" \
			"$cost" >"$dir/$name.log" 2>&1 &
		server=$!
		until_true 20 grep -q 'ready to serve' "$dir/$name.log" && break
		kill $server 2>/dev/null
		wait $server 2>/dev/null
		server=
	done
	if [ -z "$server" ]; then
		sed 's/^/# /' "$dir/$name.log"
		return 1
	fi
	transcript "http://127.0.0.1:$port" "$dir/$name"
	check_refusals "http://127.0.0.1:$port" "$name" >"$dir/refusals" 2>&1
	local refusals=$?
	[ $refusals -eq 0 ] || sed 's/^/#   /' "$dir/refusals"
	result $refusals "$name: changes of membership are refused"
	kill -TERM $server
	wait $server
	local status=$?
	server=
	return $status
}

# The members are the servers that share the database: nobody adds or removes one by command.
check_refusals() {
	local url=$1 name=$2 command

	for command in "member add m --peer-urls=http://127.0.0.1:1" "member remove 1" "member promote 1"; do
		# shellcheck disable=SC2086 # words
		ctl $command >"$dir/refused" 2>&1 && { cat "$dir/refused"; echo "accepted: $command"; return 1; }
		grep -q 'etcdserver: ' "$dir/refused" || { cat "$dir/refused"; echo "unclear: $command"; return 1; }
	done
}

point=0
failed=0
result() {
	point=$((point + 1))
	if [ "$1" -eq 0 ]; then
		echo "ok $point - $2"
	else
		echo "not ok $point - $2"
		failed=1
	fi
}

compare() {
	local name=$1 step

	for step in $steps; do
		if [ -d "$dir/etcd" ]; then
			diff -u "$dir/etcd/$step.txt" "$dir/$name/$step.txt" >"$dir/diff" 2>&1
			local status=$?
			[ $status -eq 0 ] || sed 's/^/#   /' "$dir/diff"
			result $status "$name: etcdctl prints the same as with etcd: $step"
		else
			grep -q 'waited in vain' "$dir/$name/$step.txt"
			result $((1 - $?)) "$name: $step (no etcd to compare with)"
		fi
	done
}

echo "TAP version 13"
"$lib/with-etcd" bash -c '"$0" --transcript "http://$KS_TEST_ETCD_ENDPOINT" "$1"' "$here/etcdctl.sh" "$dir/etcd" ||
	echo "# no etcd to compare with"
run_kineshim sqlite sqlite://
result $? "sqlite: starts, and ends with status 0 on SIGTERM"
[ -d "$dir/sqlite" ] && compare sqlite
for kind in $(ks_databases "$kineshim"); do
	title=$(ks_title "$kind")
	database=$(ks_tmpdir "$kind" "$("${kind}_user")")
	if "${kind}_init" "$database"; then
		run_kineshim "$kind" "$(ks_url "$database")"
		result $? "$title: starts, and ends with status 0 on SIGTERM"
		[ -d "$dir/$kind" ] && compare "$kind"
	else
		result 1 "$title starts"
	fi
	"${kind}_end" "$database"
	rm -rf "$database"
done
echo "1..$point"
exit $failed
