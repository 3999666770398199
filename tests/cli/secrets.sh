#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Passwords of databases and users show up nowhere: not in ps, not on the log at any level, not in what errors say, not in what
# the program tells about itself. Prints TAP.
set -u

# shellcheck source=tests/lib/program.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/program.sh"
ks_program secrets curl

# Never anything else's text, so that one grep tells.
secret=hUnter2secret
closed=$(ks_free_port)

clean() { ! grep -aF -- "$secret" "$@" >why 2>&1; }

# What others see of process $1: its title, its arguments, the names of its threads.
seen_of() {
	ps -ww -p "$1" -o args=
	tr '\0' '\n' <"/proc/$1/cmdline"
	cat "/proc/$1/comm" "/proc/$1/task/"*/comm
}

# What it tells about itself on its port.
told_by() {
	local path

	for path in metrics debug/vars version health 'health?serializable=true' 'readyz?verbose' livez; do
		curl -s --max-time 5 "$1/$path"
	done
}

# hidden NAME URL SHOWN FLAGS…: a server that cannot reach its database, started with FLAGS, which hold URL; SHOWN is what ps has of it,
# '' for nothing.
hidden() {
	local name=$1 shown=$2

	shift 2
	url=http://127.0.0.1:$(ks_free_port)
	start "$name" --listen-client-urls="$url" --name=behind --log-level=debug "$@"
	: >"$name.told"
	until_true 10 grep -qE 'will retry|cannot start' "$name.log" && case $name in *-one | refused) told_by "$url" >"$name.told" ;; esac
	seen_of "$started" >"$name.seen" 2>why
	# A crash says no more: no handler of ours prints anything, and cores are the system's (docs/operations.md).
	kill -ABRT "$started"
	wait "$started" 2>/dev/null
	[ -s "$name.seen" ] && grep -q -- '--name=behind' "$name.seen" && clean "$name.seen" "$name.told" "$name.log" &&
		{ [ -z "$shown" ] || grep -qF -- "$shown" "$name.seen"; }
}
ulimit -c 0

at=127.0.0.1:$closed
for backend in postgres mysql mssql; do
	"$kineshim" --check-config --endpoint="$backend://h/d" >why 2>&1 || { echo "# built without $backend"; continue; }
	case $backend in
	postgres) forms="postgres://u:$secret@$at/d postgres://u@$at/d?sslpassword=$secret" ;;
	mysql) forms="mysql://u:$secret@tcp($at)/d mysql://u:$secret@$at/d" ;;
	mssql) forms="mssql://u:$secret@$at/d?trustservercertificate=yes" ;; # else FreeTDS wants to know a CA
	esac
	for form in $forms; do
		masked=${form//$secret/***}
		hidden "$backend-one" "--endpoint=$masked" --endpoint="$form"
		check $? "$masked as --endpoint=URL"
		grep -q 'use --endpoint-file' "$backend-one.log"
		check $? "and there is a warning"
	done
	hidden "$backend-two" "$masked" --endpoint "$form"
	check $? "$masked as --endpoint URL"
	form=${forms%% *}
	KINESHIM_ENDPOINT=$form hidden "$backend-variable" ''
	check $? "the same in KINESHIM_ENDPOINT"
	PASSWORD=$secret hidden "$backend-inner" '' --endpoint="${form/$secret/\$\{PASSWORD\}}"
	check $? "and in a variable that --endpoint names"
	! grep -q 'use --endpoint-file' "$backend-inner.log"
	check $? "of which there is no warning"
	(umask 077 && echo "$form" >endpoint)
	hidden "$backend-file" --endpoint-file=endpoint --endpoint-file=endpoint
	check $? "and in a file"
	printf 'endpoint: "%s"\nname: behind\nlog-level: debug\nlog-format: console\nlisten-client-urls: http://127.0.0.1:0\n' "$form" >conf.yml
	"$kineshim" --config-file=conf.yml >conf.log 2>&1 &
	started=$!
	until_true 10 grep -q 'will retry' conf.log
	seen_of $started >conf.seen
	kill -TERM $started
	wait $started
	clean conf.seen conf.log
	check $? "and in the configuration file"
	"$kineshim" --check-config --endpoint="$form" >check.out 2>&1
	clean check.out
	check $? "--check-config tells nothing"
	# Long enough to look at: what it reads never ends.
	mkfifo pipe 2>/dev/null
	"$kineshim" restore pipe --endpoint "$form" >restore.out 2>&1 &
	started=$!
	until_true 5 sh -c "tr '\\0' ' ' </proc/$started/cmdline | grep -qF 'restore pipe --endpoint ${form//$secret/***}'"
	check $? "a subcommand hides it, too"
	kill -KILL $started
	wait $started 2>/dev/null
	clean restore.out
	check $? "and does not tell it"
done

# ---- what is written in the wrong place ----

for wrong in "postgres://u:$secret@h/d" "--endpoint-file=postgres://u:$secret@h/d" "--config-file=mysql://u:$secret@tcp(h:1)/d" \
	"--max-txn-ops=mssql://u:$secret@h/d" "--listen-client-urls=postgres://u:$secret@h/d" "--log-outputs=/x/postgres://u:$secret@h/d" \
	"--endpoint=nosql://u:$secret@h/d" "--endpoint=u:$secret@h/d" "--endpoint=postgres://u:a@$secret@h/d" \
	"--endpoint=postgres://u:12/$secret@h/d" "--endpoint=postgres://u:a?b/$secret@h/d" "--endpoint=postgres://u:$secret@h:x/d" \
	"--cert-file=postgres://u:$secret@h/d" "--endpoint=postgres://u:$secret@h/d true"; do
	# shellcheck disable=SC2086
	timeout 5 "$kineshim" --data-dir=wrong.data $wrong >wrong.out 2>&1
	[ $? -ne 124 ] && [ -s wrong.out ] && clean wrong.out
	check $? "refused without the password: ${wrong//$secret/***}"
done

# ---- passwords of users, and one that PostgreSQL refuses ----

start_ready users --data-dir=users.data --log-level=debug
if command -v etcdctl >/dev/null; then
	etcdctl --endpoints="$url" user add root --new-user-password="$secret" >/dev/null 2>&1 ||
		printf '%s\n%s\n' "$secret" "$secret" | etcdctl --endpoints="$url" user add root >/dev/null 2>&1 ||
		etcdctl --endpoints="$url" user add "root:$secret" >/dev/null
	etcdctl --endpoints="$url" user grant-role root root >/dev/null && etcdctl --endpoints="$url" auth enable >/dev/null
	etcdctl --endpoints="$url" --user="root:$secret" get k >/dev/null
	etcdctl --endpoints="$url" --user="root:${secret}x" get k >/dev/null 2>&1
fi
curl -s "$url/v3/auth/authenticate" -d "{\"name\":\"root\",\"password\":\"$secret\"}" >token
curl -s "$url/v3/auth/authenticate" -d "{\"name\":\"root\",\"password\":\"$secret\",}" >refused.out
token=$(sed -n 's/.*"token":"\([^"]*\)".*/\1/p' token)
curl -s -H "Authorization: $token" "$url/v3/kv/put" -d '{"key":"aw==","value":"c2VjcmV0VmFsdWU="}' >/dev/null
curl -s -H "Authorization: ${token}x" "$url/v3/kv/range" -d '{"key":"aw=="}' >>refused.out
told_by "$url" >users.told
kill -TERM "$started"
wait "$started"
clean users.log users.told refused.out && [ -n "$token" ] && ! grep -aF "${token%%.*}" users.log users.told >why && ! grep -aE 'secretValue|c2VjcmV0' users.log >why
check $? "passwords and tokens of users, and values of keys, are not on the log"

if pg_bin >/dev/null 2>&1 && "$kineshim" --check-config --endpoint=postgres://h/d >why 2>&1; then
	pg=$(ks_tmpdir pg) && pg_init "$pg" || { echo "Bail out! PostgreSQL does not start"; exit 99; }
	printf 'local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n' >"$pg/data/pg_hba.conf"
	pg_restart "$pg"
	hidden refused '' --endpoint="postgres://kineshim:$secret@127.0.0.1:$(pg_port "$pg")/kineshim"
	check $? "a password that the database refuses is not told"
	grep -q 'password authentication failed' refused.log
	check $? "only that it was refused"
fi

echo "1..$point"
exit $failed
