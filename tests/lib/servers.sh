#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Starts, stops and kills the servers that tests need: PostgreSQL and etcd, each in a folder of its own and on free
# ports. Source it for the functions, or run it as a command: servers.sh pg_restart DIR (what C tests do). Every
# function takes the server's folder; what one call must tell the next lies in DIR/env. Works as root (the server then
# runs as "postgres" or "nobody") and as anybody else.
#
#   ks_tmpdir NAME            makes a folder that the server's user can reach, prints it
#   pg_init DIR               initdb; superuser "postgres", role and database "kineshim", trust on socket and 127.0.0.1
#   pg_start DIR              starts it and waits until it answers; the port stays the same over restarts
#   pg_stop DIR [MODE]        fast by default; smart, immediate
#   pg_kill DIR               kill -9 of every process of it, as a crash does
#   pg_restart DIR [MODE]     stop, start
#   pg_run DIR PROGRAM ARGS…  runs psql, pgbench … of the server's version against it as superuser
#   etcd_start DIR / etcd_stop DIR / etcd_kill DIR
#   with_env DIR              prints the "export …" lines of DIR/env
#
# KS_TEST_POSTGRES_FLAGS    more flags for the server, e.g. "-c fsync=off -c log_statement=all"
# KS_TEST_POSTGRES_INITDB   more flags for initdb, e.g. "--locale=de_DE.UTF-8"
# KS_TEST_POSTGRES_BIN      folder of the programs; by default the newest of /usr/lib/postgresql
# KS_TEST_ETCD_BIN          the etcd program
# KS_TEST_ETCD_FLAGS        more flags for etcd

ks_fail() {
	echo "servers.sh: $*" >&2
	return 1
}

# The programs of a PostgreSQL server: Debian keeps them out of PATH.
pg_bin() {
	local dir

	if [ -n "${KS_TEST_POSTGRES_BIN:-}" ]; then
		echo "$KS_TEST_POSTGRES_BIN"
		return
	fi
	dir=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
	if [ -z "$dir" ] && command -v initdb >/dev/null; then
		dir=$(dirname "$(command -v initdb)")
	fi
	[ -n "$dir" ] || ks_fail "no PostgreSQL server programs (Debian: postgresql)" || return 1
	echo "$dir"
}

# PostgreSQL refuses to run as root.
pg_user() {
	if [ "$(id -u)" -ne 0 ]; then
		id -un
	elif id postgres >/dev/null 2>&1; then
		echo postgres
	else
		echo nobody
	fi
}

pg_as_user() {
	if [ "$(id -u)" -ne 0 ]; then
		(cd / && exec "$@")
	else
		(cd / && exec setpriv --reuid="$(pg_user)" --regid="$(id -gn "$(pg_user)")" --clear-groups "$@")
	fi
}

ks_tmpdir() {
	local base=${TMPDIR:-/tmp} dir

	# A private TMPDIR of root is no place for the server's user, and a socket's path has at most 107 bytes.
	if ! pg_as_user test -x "$base" 2>/dev/null || [ ${#base} -gt 50 ]; then
		base=/tmp
	fi
	dir=$(mktemp -d "$base/ks-$1.XXXXXX") || return 1
	chmod 0755 "$dir" || return 1
	if [ "$(id -u)" -eq 0 ]; then
		chown "$(pg_user)" "$dir" || return 1
	fi
	echo "$dir"
}

# A port nobody listens on, below the range that the kernel gives to clients. Somebody may still be faster: the caller
# tries again with another one when its server does not start.
ks_free_port() {
	local port try

	for try in $(seq 100); do
		port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
		if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
			echo "$port"
			return
		fi
	done
	ks_fail "no free port after $try tries"
}

# True when none of the processes is alive; a zombie that nobody waits for is as good as gone.
ks_gone() {
	local pid

	for pid in "$@"; do
		case $(ps -o stat= -p "$pid") in
		"" | Z*) ;;
		*) return 1 ;;
		esac
	done
}

ks_await_gone() {
	local try

	for try in $(seq 1000); do
		ks_gone "$@" && return
		sleep 0.01
	done
	ks_fail "still there after $try looks: $*"
}

with_env() {
	cat "$1/env"
}

pg_write_env() {
	local dir=$1 port=$2

	cat >"$dir/env" <<END
export KS_TEST_POSTGRES_DIR=$dir
export KS_TEST_POSTGRES_PORT=$port
export KS_TEST_POSTGRES_SOCKET=$dir/socket
export KS_TEST_POSTGRES_PIDFILE=$dir/data/postmaster.pid
export KS_TEST_POSTGRES_LOG=$dir/log
export KS_TEST_POSTGRES_URL=postgres://kineshim@127.0.0.1:$port/kineshim
export KS_TEST_POSTGRES_SOCKET_URL='postgres://kineshim@/kineshim?host=$dir/socket&port=$port'
export KS_TEST_POSTGRES_SUPER_URL=postgres://postgres@127.0.0.1:$port/postgres
END
}

pg_port() {
	sed -n 's/^export KS_TEST_POSTGRES_PORT=//p' "$1/env"
}

pg_init() {
	local dir=$1 bin try

	bin=$(pg_bin) || return 1
	# shellcheck disable=SC2086 # flags are words
	pg_as_user "$bin/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync \
		${KS_TEST_POSTGRES_INITDB:-} >"$dir/initdb.log" 2>&1 ||
		{ cat "$dir/initdb.log" >&2; return 1; }
	pg_as_user mkdir -m 0777 -p "$dir/socket" || return 1
	for try in 1 2 3 4 5; do
		pg_write_env "$dir" "$(ks_free_port)" || return 1
		if pg_start "$dir" 2>"$dir/start.err"; then
			pg_run "$dir" psql -qX -v ON_ERROR_STOP=1 -c 'CREATE ROLE kineshim LOGIN' \
				-c 'CREATE DATABASE kineshim OWNER kineshim' || return 1
			return 0
		fi
	done
	cat "$dir/start.err" "$dir/log" >&2
	ks_fail "PostgreSQL did not start after $try tries"
}

pg_start() {
	local dir=$1 bin port

	bin=$(pg_bin) || return 1
	port=$(pg_port "$dir") || return 1
	# pg_ctl -w asks the server itself; the log is appended to, so that crashes can be read after a restart.
	pg_as_user "$bin/pg_ctl" -D "$dir/data" -l "$dir/log" -w -t 60 -s start \
		-o "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories=$dir/socket -c max_connections=200 ${KS_TEST_POSTGRES_FLAGS:-}" \
		</dev/null >/dev/null
}

pg_stop() {
	local dir=$1 bin

	bin=$(pg_bin) || return 1
	[ -f "$dir/data/postmaster.pid" ] || return 0
	pg_as_user "$bin/pg_ctl" -D "$dir/data" -w -t 60 -s -m "${2:-fast}" stop >/dev/null
}

# SIGKILL of the postmaster and of all its children at once: the nearest to a crash of the machine without one.
pg_kill() {
	local dir=$1 pid group

	[ -f "$dir/data/postmaster.pid" ] || return 0
	pid=$(head -n 1 "$dir/data/postmaster.pid")
	group=$(ps -o pid= --ppid "$pid")
	# shellcheck disable=SC2086 # a list of numbers
	kill -KILL "$pid" $group 2>/dev/null
	# Its shared memory and its socket must be let go before the next start.
	# shellcheck disable=SC2086
	ks_await_gone "$pid" $group
	# Its lock files name a process id that a slow init may keep as a zombie for a while, which the next start takes
	# for a living server.
	rm -f "$dir/data/postmaster.pid" "$dir"/socket/.s.PGSQL.*
}

# What a SIGQUIT does: no checkpoint, recovery at the next start.
pg_restart_immediately() {
	pg_restart "$1" immediate
}

pg_restart() {
	pg_stop "$1" "${2:-fast}" && pg_start "$1"
}

pg_run() {
	local dir=$1 program=$2 bin

	shift 2
	bin=$(pg_bin) || return 1
	PGHOST=$dir/socket PGPORT=$(pg_port "$dir") PGUSER=${PGUSER:-postgres} PGDATABASE=${PGDATABASE:-postgres} \
		"$bin/$program" "$@"
}

etcd_start() {
	local dir=$1 bin=${KS_TEST_ETCD_BIN:-etcd} port peer pid try

	command -v "$bin" >/dev/null || ks_fail "no etcd (Debian: etcd-server)" || return 1
	for try in 1 2 3 4 5; do
		if [ -f "$dir/env" ]; then
			port=$(sed -n 's/^export KS_TEST_ETCD_PORT=//p' "$dir/env")
			peer=$(sed -n 's/^export KS_TEST_ETCD_PEER_PORT=//p' "$dir/env")
		else
			port=$(ks_free_port) && peer=$(ks_free_port) || return 1
		fi
		# shellcheck disable=SC2086 # flags are words
		"$bin" --name test --data-dir "$dir/data" --listen-client-urls "http://127.0.0.1:$port" \
			--advertise-client-urls "http://127.0.0.1:$port" --listen-peer-urls "http://127.0.0.1:$peer" \
			--initial-advertise-peer-urls "http://127.0.0.1:$peer" \
			--initial-cluster "test=http://127.0.0.1:$peer" ${KS_TEST_ETCD_FLAGS:-} \
			</dev/null >>"$dir/log" 2>&1 &
		pid=$!
		disown "$pid"
		for _ in $(seq 600); do
			kill -0 "$pid" 2>/dev/null || break
			if etcd_answers "$port"; then
				echo "$pid" >"$dir/pid"
				cat >"$dir/env" <<END
export KS_TEST_ETCD_DIR=$dir
export KS_TEST_ETCD_PORT=$port
export KS_TEST_ETCD_PEER_PORT=$peer
export KS_TEST_ETCD_PIDFILE=$dir/pid
export KS_TEST_ETCD_LOG=$dir/log
export KS_TEST_ETCD_ENDPOINT=127.0.0.1:$port
END
				return 0
			fi
			sleep 0.05
		done
		kill -KILL "$pid" 2>/dev/null
		ks_await_gone "$pid"
	done
	cat "$dir/log" >&2
	ks_fail "etcd did not start after $try tries"
}

# Its /health is true once there is a leader, that is, when a write would succeed.
etcd_answers() {
	local reply

	exec 3<>"/dev/tcp/127.0.0.1/$1" || return 1
	printf 'GET /health HTTP/1.0\r\n\r\n' >&3
	reply=$(timeout 5 cat <&3)
	exec 3>&-
	[[ $reply == *'"health":"true"'* ]]
} 2>/dev/null

etcd_end() {
	local dir=$1 signal=$2 pid

	[ -f "$dir/pid" ] || return 0
	pid=$(cat "$dir/pid")
	kill "-$signal" "$pid" 2>/dev/null
	ks_await_gone "$pid"
	rm -f "$dir/pid"
}

etcd_stop() {
	etcd_end "$1" TERM
}

etcd_kill() {
	etcd_end "$1" KILL
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
	case ${1:-} in
	pg_init | pg_start | pg_stop | pg_kill | pg_restart | pg_restart_immediately | pg_run | etcd_start | etcd_stop | etcd_kill | with_env) "$@" ;;
	*) ks_fail "usage: servers.sh pg_init|pg_start|pg_stop|pg_kill|pg_restart|pg_run|etcd_start|etcd_stop|etcd_kill DIR [ARGS]" ;;
	esac
fi
