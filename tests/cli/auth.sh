#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Users, roles and tokens between programs: two instances on one PostgreSQL (a token of one is good on the other and after a kill -9,
# changes hold at once everywhere), a flood of logins, and JSON web tokens that a real etcd and kineshim take from each
# other. Prints TAP.
set -u

# shellcheck source=tests/lib/program.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/program.sh"
ks_program auth curl etcdctl etcd openssl

# start_ready NAME PORT FLAGS…: PORT 0 is a free one. The address goes to $url, the process id to $started.
start_ready() {
	local name=$1 wanted=$2 port try

	shift 2
	for try in 1 2 3; do
		port=$wanted
		[ "$port" != 0 ] || port=$(ks_free_port)
		url=http://127.0.0.1:$port
		"$kineshim" --listen-client-urls="$url" --name="$name" --bcrypt-cost=6 "$@" >>"$name.log" 2>&1 &
		started=$!
		until_true 20 eval "grep -q 'ready to serve.*pid=$started' '$name.log' || grep -q '\"msg\":\"ready to serve.*pid=$started' '$name.log'" && return
		kill -KILL "$started" 2>/dev/null
		wait "$started" 2>/dev/null
	done
	cp "$name.log" why
	return 1
}

b64() { printf %s "$1" | base64 -w0; }
# post URL TOKEN PATH BODY: the answer on stdout and in ./why.
post() {
	timeout 20 curl -s ${2:+-H "Authorization: $2"} "$1/v3/$3" -d "$4" | tee -a why
}
token_of() { # URL USER PASSWORD
	post "$1" '' auth/authenticate "{\"name\":\"$2\",\"password\":\"$3\"}" | sed -n 's/.*"token":"\([^"]*\)".*/\1/p'
}
get() { post "$1" "$2" kv/range "{\"key\":\"$(b64 "$3")\"}"; }      # URL TOKEN KEY
put() { post "$1" "$2" kv/put "{\"key\":\"$(b64 "$3")\",\"value\":\"$(b64 v)\"}"; }
root() { timeout 20 etcdctl --endpoints="$a" --user=root:rootpw "$@" >>why 2>&1; }
plain() { timeout 20 etcdctl --endpoints="$a" "$@" >>why 2>&1; }

two_instances() {
	local pid_a pid_b token admin i started_at name

	pg=$(ks_tmpdir authpg) || exit 99
	pg_init "$pg" || exit 99
	endpoint=$(sed -n 's/^export KS_TEST_POSTGRES_URL=//p' "$pg/env" | tr -d "'\"")
	start_ready a 0 --endpoint="$endpoint" || { check 1 "instance a starts"; return; }
	a=$url pid_a=$started
	start_ready b 0 --endpoint="$endpoint" || { check 1 "instance b starts"; return; }
	b=$url pid_b=$started

	plain user add root:rootpw && plain user add alice:secret-of-alice && plain role add r &&
		plain role grant-permission r readwrite k && plain user grant-role alice r && plain user grant-role root root &&
		plain put k v && plain auth enable
	check $? "etcdctl makes users and roles, and enables auth"
	get "$b" '' k | grep -q 'user name is empty'
	check $? "auth is on at the other instance with its next read"
	token=$(token_of "$a" alice secret-of-alice)
	[[ $token =~ ^[a-zA-Z]{16,}\.[0-9]+$ ]] && get "$b" "$token" k | grep -q '"kvs"' && put "$b" "$token" k | grep -q '"revision"'
	check $? "a token of one instance is good on the other"
	get "$b" "Bearer $token" k | grep -q '"kvs"'
	check $? "also behind Bearer"

	kill -KILL "$pid_a"; wait "$pid_a" 2>/dev/null
	start_ready a "${a##*:}" --endpoint="$endpoint"
	pid_a=$started
	get "$a" "$token" k | grep -q '"kvs"'
	check $? "and after a kill -9"

	# Each user is new to the other instance, which learns of him from his token.
	admin=$(token_of "$a" root rootpw)
	for i in $(seq 10); do
		post "$a" "$admin" auth/user/add "{\"name\":\"u$i\",\"password\":\"pw\"}" >/dev/null
		post "$a" "$admin" auth/user/grant "{\"user\":\"u$i\",\"role\":\"r\"}" >/dev/null
		name=$(token_of "$a" "u$i" pw)
		get "$b" "$name" k | grep -q '"kvs"' || break
		post "$a" "$admin" auth/user/revoke "{\"name\":\"u$i\",\"role\":\"r\"}" >/dev/null
		get "$b" "$name" k | grep -q 'permission denied' || break
		put "$b" "$name" k | grep -q 'permission denied' || break
		post "$a" "$admin" auth/user/delete "{\"name\":\"u$i\"}" >/dev/null
		get "$b" "$name" k | grep -q 'invalid auth token' || break
		: >why
		i=done
	done
	[ "$i" = done ]
	check $? "what changes at one instance holds at the other with its next request"

	# A stopped instance wakes up to a stream with a token that it has not heard of.
	for i in $(seq 8); do
		kill -STOP "$pid_b"
		post "$a" "$admin" auth/user/add "{\"name\":\"w$i\",\"password\":\"pw\"}" >/dev/null
		post "$a" "$admin" auth/user/grant "{\"user\":\"w$i\",\"role\":\"r\"}" >/dev/null
		name=$(token_of "$a" "w$i" pw)
		timeout 20 curl -sN -m 2 -H "Authorization: $name" "$b/v3/watch" -d "{\"create_request\":{\"key\":\"$(b64 k)\"}}" >watched &
		sleep 0.1
		kill -CONT "$pid_b"
		until_true 10 test -s watched
		kill $! 2>/dev/null
		wait $! 2>/dev/null
		post "$a" "$admin" auth/user/delete "{\"name\":\"w$i\"}" >/dev/null
		cp watched why
		grep -q '"created":true' watched && ! grep -q '"canceled"\|error' watched || break
		i=done
	done
	[ "$i" = done ]
	check $? "a stream waits until its token is known"

	root user passwd alice --interactive=false <<<other-secret
	get "$b" "$token" k | grep -q 'invalid auth token'
	check $? "a new password ends the tokens of the old one everywhere"

	# Wrong passwords, each of which takes its time, and a write in the middle.
	for i in $(seq 40); do
		token_of "$a" alice wrong >/dev/null &
		flood[i]=$!
	done
	started_at=$(date +%s%N)
	put "$a" "$admin" k | grep -q '"revision"'
	check $? "a write goes on during a flood of logins"
	echo "# it took $((($(date +%s%N) - started_at) / 1000000)) ms"
	wait "${flood[@]}"

	root compaction "$(post "$a" "$admin" kv/range "{\"key\":\"aw==\"}" | sed -n 's/.*"revision":"\([0-9]*\)".*/\1/p')" --physical
	until_true 20 eval '[ "$(pg_run "$pg" psql -qtAX kineshim -c "SELECT count(*) FROM kineshim_log WHERE kind = 7")" -lt 20 ]'
	check $? "rows of users who are gone are trimmed"
	kill -TERM "$pid_a" "$pid_b"; wait "$pid_a" "$pid_b"
	start_ready a "${a##*:}" --endpoint="$endpoint"
	pid_a=$started
	token=$(token_of "$a" alice other-secret)
	get "$a" "$token" k | grep -q '"kvs"' && [ "$(timeout 20 etcdctl --endpoints="$a" --user=root:rootpw user list | tr '\n' ' ')" = "alice root " ]
	check $? "and everybody else is still there after a restart"
	root auth disable && plain auth enable
	get "$a" "$token" k | grep -q 'invalid auth token'
	check $? "switching auth off ends all tokens"

	! grep -E "rootpw|secret-of-alice|other-secret|wrong|\\\$2a\\\$|${token%%.*}|${admin%%.*}" a.log b.log >why
	check $? "nothing secret stands on the log"
	kill -TERM "$pid_a"; wait "$pid_a"
}

# The same steps at both, so that both are at the same auth revision.
populate() { # URL
	a=$1
	plain user add root:rootpw && plain user add alice:pw && plain role add r && plain role grant-permission r readwrite k &&
		plain user grant-role alice r && plain user grant-role root root && plain auth enable
}

jwt_with_etcd() {
	local method=$1 spec token ours theirs pid

	etcd=$dir/etcd.$method
	mkdir -p "$etcd"
	chmod 0755 . "$etcd"
	spec="jwt,pub-key=$dir/$method.pub,priv-key=$dir/$method.key,sign-method=$method,ttl=10m"
	KS_TEST_ETCD_FLAGS="--auth-token=$spec" etcd_start "$etcd" 2>why || { check 1 "$method: etcd starts"; return; }
	theirs=http://$(sed -n 's/^export KS_TEST_ETCD_ENDPOINT=//p' "$etcd/env")
	start_ready "jwt.$method" 0 --data-dir="$dir/jwt.$method" --auth-token="$spec" || { check 1 "$method: kineshim starts"; return; }
	ours=$url pid=$started
	populate "$theirs" && populate "$ours"
	check $? "$method: both are set up alike"
	token=$(token_of "$theirs" alice pw)
	[ -n "$token" ] && put "$ours" "$token" k | grep -q '"revision"'
	check $? "$method: kineshim takes a token of etcd"
	token=$(token_of "$ours" alice pw)
	[ -n "$token" ] && put "$theirs" "$token" k | grep -q '"revision"'
	check $? "$method: etcd takes a token of kineshim"
	token=$(token_of "$ours" root rootpw)
	a=$ours
	root role add another
	get "$ours" "$token" k | grep -q 'revision of auth store is old' &&
		post "$ours" "$token" auth/user/list '{}' | grep -q alice
	check $? "$method: a change makes it stale, but for administration"
	kill -TERM "$pid"; wait "$pid"
	etcd_stop "$etcd"
	etcd=''
}

flood=()
: >why
two_instances
openssl genrsa -out RS256.key 2048 2>/dev/null && openssl rsa -in RS256.key -pubout -out RS256.pub 2>/dev/null
openssl ecparam -name prime256v1 -genkey -noout -out ES256.key 2>/dev/null && openssl ec -in ES256.key -pubout -out ES256.pub 2>/dev/null
cp RS256.key PS384.key && cp RS256.pub PS384.pub
chmod 0644 ./*.key ./*.pub
for method in RS256 PS384 ES256; do
	jwt_with_etcd "$method"
done
echo "1..$point"
exit $failed
