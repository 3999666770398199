#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# commands.sh ETCDCTL ETCDUTL URL FOLDER [FLAG…]: every command of etcdctl 3.6 and newer once, and etcdutl on the snapshot, against one
# server without users. FLAGs go to etcdctl. Prints TAP: a point is the command's exit status and a pattern that its output must match.

etcdctl=$1 etcdutl=$2 url=$3 folder=$4
shift 4
flags=("$@")
unset ETCDCTL_API # of older ones; newer ones warn of it
n=0 failed=0

ctl() { timeout 60 "$etcdctl" --endpoints="$url" "${flags[@]}" "$@"; }

# STATUS PATTERN COMMAND…: the output, newlines as spaces, matches the extended regular expression.
t() {
	local want=$1 pattern=$2 out status

	shift 2
	out=$("$@" 2>&1)
	status=$?
	n=$((n + 1))
	if [ "$status" -eq "$want" ] && tr -s '\n' ' ' <<<"$out" | grep -qE -- "$pattern"; then
		echo "ok $n - ${*/#*etcdctl/etcdctl}"
	else
		failed=$((failed + 1))
		echo "not ok $n - $*"
		echo "# status $status, wanted $want and: $pattern"
		head -n 10 <<<"$out" | sed 's/^/# /'
	fi
}

until_true() {
	local _

	for _ in $(seq 200); do
		"$@" && return
		sleep 0.05
	done
	return 1
}

t 0 'etcdctl version' ctl version
t 0 '^OK' ctl put a 1
t 0 '^OK a? ?1' ctl put a 2 --prev-kv
t 0 '^a 2' ctl get a
t 0 '"mod_revision":3' ctl get a -w json
t 0 '"Revision" : 3|Revision.* : 3' ctl get a -w fields
t 0 '^1$|^1 $' ctl get a --rev=2 --print-value-only
t 0 '^OK' ctl put b 1
t 0 '^a 2 b 1' ctl get '' --prefix
t 0 '^b 1' ctl get a --from-key --min-mod-rev=4
t 1 'required revision is a future revision' ctl get a --rev=1000
t 0 '^b' ctl get a c --keys-only --order=DESCEND --sort-by=CREATE --limit=1
t 0 '^SUCCESS OK' ctl txn <<<$'value("a") = "2"\nmod("b") > "0"\n\nput c 1\n\nput c 2\n\n'
t 0 '^FAILURE c 1' ctl txn <<<$'ver("a") = "9"\n\nput c 3\n\nget c\n\n'
t 0 '^1' ctl del c
t 0 'compacted revision 5' ctl compaction 5
t 1 'required revision has been compacted' ctl compaction 5

( ctl watch a --rev=6 --prev-kv >"$folder/watch" 2>&1 & echo $! >"$folder/watch.pid"; wait )&
ctl put a 3 >/dev/null
t 0 '' until_true grep -q 3 "$folder/watch"
kill "$(cat "$folder/watch.pid")" 2>/dev/null
(printf 'watch a --rev=6\nprogress\n'; sleep 2) | timeout 5 "$etcdctl" --endpoints="$url" "${flags[@]}" watch -i >"$folder/watch.i" 2>&1
t 0 'PUT' cat "$folder/watch.i"
t 143 'woken' ctl watch a --rev=6 -- sh -c 'echo woken; kill $PPID' # etcdctl itself

lease=$(ctl lease grant 300 | awk '{print $2}')
t 0 '^[0-9a-f]+' echo "$lease"
t 0 '^OK' ctl put leased x --lease="$lease"
t 0 'granted with TTL\(300s\).*attached keys\(\[leased\]\)' ctl lease timetolive "$lease" --keys
t 0 "$lease" ctl lease list
t 0 'keepalived with TTL\(300\)' ctl lease keep-alive --once "$lease"
t 0 'revoked' ctl lease revoke "$lease"
t 1 'requested lease not found' ctl lease revoke "$lease"

t 0 'is healthy' ctl endpoint health
t 0 'is healthy' ctl endpoint health --cluster
t 0 "$url" ctl endpoint status
t 0 '"version":"3' ctl endpoint status -w json
t 0 "$url" ctl endpoint hashkv
t 0 'started' ctl member list
t 0 '"members":\[' ctl member list -w json
t 0 '^ *$' ctl alarm list
t 0 '' ctl alarm disarm
t 0 'Finished defragmenting' ctl defrag
t 0 'Finished defragmenting' ctl defrag --cluster
leader=$(ctl endpoint status -w json | grep -o '"leader":[0-9]*' | cut -d: -f2)
t 1 'bad leader transferee|no leader endpoint|failed to find' ctl move-leader 1234
t 0 '[0-9]+' echo "$leader"
t 0 'Downgrade validate success' ctl downgrade validate 3.5

t 0 'locked' ctl lock l echo locked
t 0 '^e/[0-9a-f]+ v' timeout 60 sh -c '"$@" & pid=$!; sleep 1; kill -INT $pid; wait $pid; true' sh "$etcdctl" --endpoints="$url" "${flags[@]}" elect e v
( exec "$etcdctl" --endpoints="$url" "${flags[@]}" elect e leader >/dev/null 2>&1 ) &
candidate=$!
until_true ctl get e/ --prefix >/dev/null
t 0 'leader' timeout 3 sh -c '"$@" & pid=$!; sleep 1; kill $pid; wait $pid; true' sh "$etcdctl" --endpoints="$url" "${flags[@]}" elect -l e
kill "$candidate" 2>/dev/null
wait "$candidate" 2>/dev/null

t 0 'saved' ctl snapshot save "$folder/snapshot.db"
if [ -x "$etcdutl" ]; then
	t 0 '"totalKey"' "$etcdutl" snapshot status "$folder/snapshot.db" -w json
	t 0 'restored snapshot' "$etcdutl" snapshot restore "$folder/snapshot.db" --data-dir "$folder/restored"
	t 0 '' "$etcdutl" hashkv "$folder/snapshot.db"
fi

t 1 'root user does not exist' ctl auth enable
t 0 'Authentication Status: false' ctl auth status
t 0 'User root created' ctl user add root:secret
t 0 'User alice created' ctl user add alice:wonder
t 0 'User carl created' ctl user add carl --no-password
t 0 '^alice carl root' ctl user list
t 0 'Role reader created' ctl role add reader
t 0 'Role reader updated' ctl role grant-permission reader --prefix=true read pub/
t 0 'Role reader updated' ctl role grant-permission reader readwrite own
t 0 'KV Read:.*own.*pub/.*KV Write:.*own' ctl role get reader
t 0 'Role reader is granted to user alice' ctl user grant-role alice reader
t 0 'Roles: reader' ctl user get alice
t 0 'Role reader.*KV Read' ctl user get alice --detail
t 0 'Password updated' ctl user passwd alice --interactive=false <<<'new'
t 0 'Authentication Enabled' ctl auth enable
as() { local user=$1; shift; timeout 60 "$etcdctl" --endpoints="$url" "${flags[@]}" --user "$user" "$@"; }
t 1 'user name is empty' ctl get a
t 0 'AuthRevision: [0-9]+' as root:secret auth status
t 2 'invalid user ID or password' as root:wrong get a
t 0 '^OK' as root:secret put pub/x 1
t 0 '^pub/x 1' as alice:new get pub/x
t 1 'permission denied' as alice:new put pub/x 2
t 0 '^OK' as alice:new put own 2
t 1 'permission denied' as alice:new get pub/ --from-key
t 0 'is healthy' as alice:new endpoint health
t 1 'permission denied' as alice:new user list
t 1 'permission denied' as alice:new lock pub/l echo no
t 0 'Role reader updated|revoked' as root:secret role revoke-permission reader own
t 0 'revoked from user alice' as root:secret user revoke-role alice reader
t 0 'Role reader deleted' as root:secret role delete reader
t 0 'User alice deleted' as root:secret user delete alice
t 0 '^root' as root:secret role list
t 0 'Authentication Disabled' as root:secret auth disable
t 0 'User root deleted' ctl user delete root
t 0 'User carl deleted' ctl user delete carl
t 0 'bash|completion' ctl completion bash
echo "1..$n"
[ "$failed" -eq 0 ]
