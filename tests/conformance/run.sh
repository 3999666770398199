#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# run.sh [TARGET…]: runs every block of scenarios against Debian's etcd and against each TARGET (sqlite, postgres, mariadb;
# default: what was built in and can be started), each on a fresh server, and compares the transcripts field by field.
# Prints TAP, one point for each scenario and target.
# Environment: top_builddir (where kineshim and conformance were built), KS_SEEDS (how many random runs; default 2),
# KS_SEED (the first one; default 1), KS_BLOCKS (names; default: all), KS_NO_EXPECTED=1 (compare all blocks with the
# etcd, a newer one, and none with the files of what is expected), KS_TEST_ETCD_BIN, KS_TEST_KEEP=1 (keeps transcripts and logs).
# Exit status 77 when there is no etcd to compare with.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/lib/servers.sh
. "$here/../lib/servers.sh"

build=$(cd "${top_builddir:-.}" && pwd)
kineshim=${KS_KINESHIM:-$build/kineshim/kineshim}
conformance=${KS_CONFORMANCE:-$build/tests/conformance/conformance}
seeds=${KS_SEEDS:-2}
first_seed=${KS_SEED:-1}
etcd=${KS_TEST_ETCD_BIN:-etcd}
version=$("$kineshim" --version --verbose 2>/dev/null)

command -v "$etcd" >/dev/null || { echo "1..0 # SKIP no etcd (Debian: etcd-server)"; exit 77; }
[ -x "$kineshim" ] && [ -x "$conformance" ] || { echo "Bail out! $kineshim or $conformance was not built"; exit 99; }
if [ $# -gt 0 ]; then
	targets=("$@")
else
	targets=()
	[[ $version == *sqlite* ]] && targets+=(sqlite)
	for kind in $(ks_databases "$kineshim"); do
		case $kind in pg) targets+=(postgres) ;; my) targets+=(mariadb) ;; esac
	done
fi
if [[ " ${targets[*]} " == *" postgres "* ]] && [ -z "${KS_TEST_POSTGRES_URL:-}" ]; then
	exec "$here/../lib/with-postgres" "$here/run.sh" "${targets[@]}"
fi
if [[ " ${targets[*]} " == *" mariadb "* ]] && [ -z "${KS_TEST_MARIADB_URL:-}" ]; then
	exec "$here/../lib/with-mariadb" "$here/run.sh" "${targets[@]}"
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/ks-conf.XXXXXX") || exit 99
chmod 0755 "$work"
pids=()
finish() {
	trap - EXIT
	[ ${#pids[@]} -eq 0 ] || kill -KILL "${pids[@]}" 2>/dev/null
	[ -n "${KS_TEST_KEEP:-}" ] && echo "# transcripts and logs are in $work" && return
	rm -rf "$work"
}
trap finish EXIT
trap 'exit 143' TERM INT HUP

start_kineshim() { # NAME ENDPOINT: sets port and pid
	local name=$1 endpoint=$2 try

	for try in 1 2 3; do
		port=$(ks_free_port) || return 1
		: >"$work/$name.log"
		"$kineshim" --endpoint "$endpoint" --data-dir "$work/$name.data" --listen-client-urls "http://127.0.0.1:$port" \
			--bcrypt-cost 4 --watch-progress-notify-interval "$interval" $quota >"$work/$name.log" 2>&1 </dev/null &
		pid=$!
		for _ in $(seq 200); do
			grep -q "ready to serve" "$work/$name.log" && return 0
			kill -0 "$pid" 2>/dev/null || break
			sleep 0.05
		done
		kill -KILL "$pid" 2>/dev/null
		wait "$pid" 2>/dev/null
	done
	sed 's/^/# /' "$work/$name.log"
	return 1
}

start_etcd() { # NAME
	local name=$1

	mkdir -p "$work/$name"
	KS_TEST_ETCD_FLAGS="--bcrypt-cost=4 --experimental-watch-progress-notify-interval=$interval $quota" etcd_start "$work/$name" 2>"$work/$name.log" || return 1
	port=$(sed -n 's/^export KS_TEST_ETCD_PORT=//p' "$work/$name/env")
	pid=$(cat "$work/$name/pid")
}

database_of() { # NAME
	echo "conf_${1//[^a-z0-9]/_}"
}

make_database() { # TARGET DATABASE
	case $1 in
	postgres) pg_run "$KS_TEST_POSTGRES_DIR" psql -qX -c "CREATE DATABASE $2 OWNER kineshim" ;;
	mariadb) my_database "$KS_TEST_MARIADB_DIR" "$2" ;;
	esac
}

endpoint_of() { # TARGET NAME
	case $1 in
	postgres) echo "${KS_TEST_POSTGRES_URL%/*}/$(database_of "$2")" ;;
	mariadb) echo "${KS_TEST_MARIADB_URL%/*}/$(database_of "$2")" ;;
	esac
}

start() { # TARGET NAME: again with the same data when it has been started before
	case $1 in
	etcd) start_etcd "$2" ;;
	sqlite) start_kineshim "$2" "sqlite://$work/$2.db" ;;
	postgres | mariadb)
		[ -e "$work/$2.database" ] || make_database "$1" "$(database_of "$2")" &&
			touch "$work/$2.database" && start_kineshim "$2" "$(endpoint_of "$1" "$2")"
		;;
	esac
}

stop() { # TARGET
	local status=0

	kill -TERM "$pid" 2>/dev/null
	pids=()
	if [ "$1" = etcd ]; then
		ks_await_gone "$pid"
	else
		wait "$pid" || status=$?
	fi
	[ $status -eq 0 ] || { echo "not ok - $1: the server ended with status $status"; failed=1 count=$((count + 1)); }
}

# NAME BLOCK SEED ARGS…: appends to the transcript.
converse() {
	local name=$1 block=$2 seed=$3 status

	shift 3
	timeout 240 "$conformance" --endpoint "127.0.0.1:$port" --block "$block" --seed "$seed" --out "$work/part" "$@" 2>"$work/$name.err"
	status=$?
	cat "$work/part" >>"$work/$name.transcript"
	[ $status -eq 0 ] || { echo "# $name: conformance ended with status $status"; sed 's/^/# /' "$work/$name.err"; }
}

# TARGET BLOCK SEED: a fresh server, the block, a transcript in $work/TARGET.BLOCK.SEED.transcript.
run() {
	local target=$1 block=$2 seed=$3 name=$1.$2.$3 scenario

	interval=10m
	[ "$block" = progress ] && interval=1s
	quota=
	[ "$block" = quota ] && quota=--quota-backend-bytes=16777216
	start "$target" "$name" || return 1
	pids+=("$pid")
	if [ "$block" = lock ] && [ "$target" != etcd ] && [ "$target" != sqlite ]; then
		# Two servers on one database: who waits is at the second one.
		local first_port=$port first_pid=$pid other_port

		start_kineshim "$name.other" "$(endpoint_of "$target" "$name")" || return 1
		pids+=("$pid")
		other_port=$port port=$first_port
		converse "$name" "$block" "$seed" --other "127.0.0.1:$other_port"
		stop "$target"
		pid=$first_pid
	elif [ "$block" = restart ]; then
		for scenario in before after after_all_was_deleted; do
			converse "$name" "$block" "$seed" --scenario "restart/$scenario"
			stop "$target"
			start "$target" "$name" || return 1
			pids+=("$pid")
		done
	else
		converse "$name" "$block" "$seed"
	fi
	stop "$target"
}

count=0 failed=0
compare() { # REFERENCE TESTED PREFIX
	"$conformance" --compare "$1" "$2" "$here/differences.txt" "$3" >"$work/tap" || failed=1
	cat "$work/tap"
	count=$((count + $(grep -cE '^(not )?ok ' "$work/tap")))
}

echo "# $("$etcd" --version | head -n 1); $(head -n 1 <<<"$version"); targets: ${targets[*]}"
for block in ${KS_BLOCKS:-$("$conformance" --list)}; do
	last=$first_seed
	[ "$block" = random ] && last=$((first_seed + seeds - 1))
	for seed in $(seq "$first_seed" "$last"); do
		if [ -e "$here/$block.expected" ] && [ -z "${KS_NO_EXPECTED:-}" ]; then
			# What etcd 3.4 does not have: the transcript that the spec demands.
			reference=$here/$block.expected
		else
			run etcd "$block" "$seed" || { echo "Bail out! etcd did not start"; exit 99; }
			reference=$work/etcd.$block.$seed.transcript
		fi
		for target in "${targets[@]}"; do
			prefix=$target
			[ "$block" = random ] && prefix="$target, seed $seed"
			run "$target" "$block" "$seed" || echo "# $target did not start"
			compare "$reference" "$work/$target.$block.$seed.transcript" "$prefix"
		done
	done
done
echo "1..$count"
exit $failed
