#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Starts, stops and kills the servers that tests need: PostgreSQL, MariaDB and etcd, each in a folder of its own and on
# free ports. Source it for the functions, or run it as a command: servers.sh pg_restart DIR (what C tests do). Every
# function takes the server's folder; what one call must tell the next lies in DIR/env. Works as root (the server then
# runs as "postgres", "mysql" or "nobody") and as anybody else.
#
#   ks_tmpdir NAME [USER]     makes a folder that the server's user can reach, prints it; PostgreSQL's user by default
#   pg_init DIR               initdb; superuser "postgres", role and database "kineshim", trust on socket and 127.0.0.1
#   pg_start DIR              starts it and waits until it answers; the port stays the same over restarts
#   pg_stop DIR [MODE]        fast by default; smart, immediate
#   pg_kill DIR               kill -9 of every process of it, as a crash does
#   pg_restart DIR [MODE]     stop, start
#   pg_run DIR PROGRAM ARGS…  runs psql, pgbench … of the server's version against it as superuser
#   my_init DIR               makes the data folder; superuser "root", user and database "kineshim", which may do all
#                             in that database and nothing elsewhere; listens on 127.0.0.1 and a socket
#   my_start DIR [FLAG…]      starts it and waits until it answers; the port stays the same over restarts
#   my_stop DIR / my_kill DIR / my_restart DIR
#   my_run DIR PROGRAM ARGS…  runs mariadb, mariadb-dump … against it as superuser
#   my_database DIR NAME      makes another database that is kineshim's
#   galera_init DIR           three MariaDBs as a Galera cluster, in DIR/1 … DIR/3; each is a folder for my_run too
#   galera_start DIR [NODE]   lets a node join those that run; without NODE all that do not run, and when none does, the
#                             one that knows most makes the cluster anew
#   galera_stop DIR [NODE] / galera_kill DIR [NODE] / galera_restart DIR NODE
#   galera_isolate DIR NODE   the node hears no other and no other hears it, until galera_rejoin DIR NODE
#   pg_standby DIR PRIMARY    a hot standby of the server in PRIMARY, which streams; its application_name is "standby"
#   pg_promote DIR            makes it the primary
#   bouncer_start DIR MODE [LINE…]   a pgbouncer before DIR's PostgreSQL: transaction, session, statement; LINEs of its
#                             configuration. Its port stays the same; it is killed with the server
#   bouncer_stop DIR
#   etcd_start DIR / etcd_stop DIR / etcd_kill DIR
#   with_env DIR              prints the "export …" lines of DIR/env
#   ks_databases PROGRAM      those of "pg" and "my" that can be started here and were built into that kineshim
#   ks_url DIR                kineshim's own endpoint for the database in that folder
#   ks_title KIND             what people call "pg" or "my"
#
# KS_TEST_FSYNC=1           servers wait for the disk. Else they do not: tests kill processes, never the machine, and what a
#                           killed process wrote is with the kernel; waiting would be a good part of all the time
# KS_TEST_TEMPLATES         a folder where pg_init and my_init keep new data folders for the next time; make check's is in
#                           the build folder
# KS_TEST_POSTGRES_FLAGS    more flags for the server, e.g. "-c fsync=off -c log_statement=all"
# KS_TEST_POSTGRES_INITDB   more flags for initdb, e.g. "--locale=de_DE.UTF-8"
# KS_TEST_POSTGRES_BIN      folder of the programs; by default the newest of /usr/lib/postgresql
# KS_TEST_MARIADB_FLAGS     more flags for the server, e.g. "--innodb-flush-log-at-trx-commit=0 --general-log=1"
# KS_TEST_GALERA_PROVIDER   the wsrep library; by default /usr/lib/galera/libgalera_smm.so
# KS_TEST_GALERA_FLAGS      more flags for each node of a cluster
# KS_TEST_MYSQL_BIN         folder of another MySQL or MariaDB (with bin/mysqld or bin/mariadbd in it), which my_* then use
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

# ks_as USER CMD…: as that user when root, else as who we are.
ks_as() {
	local user=$1

	shift
	if [ "$(id -u)" -ne 0 ]; then
		(cd / && exec "$@")
	else
		(cd / && exec setpriv --reuid="$user" --regid="$(id -gn "$user")" --clear-groups "$@")
	fi
}

pg_as_user() {
	ks_as "$(pg_user)" "$@"
}

ks_tmpdir() {
	local base=${TMPDIR:-/tmp} user=${2:-$(pg_user)} dir

	# A private TMPDIR of root is no place for the server's user, and a socket's path has at most 107 bytes.
	if ! ks_as "$user" test -x "$base" 2>/dev/null || [ ${#base} -gt 50 ]; then
		base=/tmp
	fi
	dir=$(mktemp -d "$base/ks-$1.XXXXXX") || return 1
	chmod 0755 "$dir" || return 1
	if [ "$(id -u)" -eq 0 ]; then
		chown "$user" "$dir" || return 1
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

# ks_template WHAT: the file for a new data folder that was made by WHAT (program, version, flags); nothing when none is kept.
ks_template() {
	[ -z "${KS_TEST_TEMPLATES:-}" ] || echo "$KS_TEST_TEMPLATES/$(printf %s "$1" | cksum | tr ' ' -).tar"
}

# ks_from_template FILE DIR USER: makes DIR, with what is in FILE, as that user.
ks_from_template() {
	[ -n "$1" ] && [ -f "$1" ] && ks_as "$3" mkdir -m 0700 "$2" && ks_as "$3" tar -C "$2" -xSf - <"$1"
}

# ks_to_template FILE DIR USER: whoever comes at the same time finds a whole file or none.
ks_to_template() {
	[ -n "$1" ] || return 0
	mkdir -p "$(dirname "$1")" && ks_as "$3" tar -C "$2" -cSf - . >"$1.$$" && mv -f "$1.$$" "$1" && return
	rm -f "$1.$$"
}

ks_databases() {
	local version

	version=$("$1" --version --verbose | grep '^backends:')
	[[ $version == *postgresql* ]] && pg_bin >/dev/null && echo pg
	[[ $version == *mysql* ]] && my_server >/dev/null && echo my
	return 0
}

ks_url() {
	sed -n 's/^export KS_TEST_[A-Z]*_URL=//p' "$1/env" | head -n 1 | tr -d "'"
}

ks_title() {
	case $1 in
	pg) echo PostgreSQL ;;
	my) echo MariaDB ;;
	esac
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

pg_make_data() {
	local dir=$1 bin template

	bin=$(pg_bin) || return 1
	template=$(ks_template "$("$bin/postgres" --version) ${KS_TEST_POSTGRES_INITDB:-}")
	ks_from_template "$template" "$dir/data" "$(pg_user)" && return
	# shellcheck disable=SC2086 # flags are words
	pg_as_user "$bin/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync \
		${KS_TEST_POSTGRES_INITDB:-} >"$dir/initdb.log" 2>&1 ||
		{ cat "$dir/initdb.log" >&2; return 1; }
	ks_to_template "$template" "$dir/data" "$(pg_user)"
}

pg_init() {
	local dir=$1 try

	pg_make_data "$dir" || return 1
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
	local dir=$1 bin port fsync=

	[ -n "${KS_TEST_FSYNC:-}" ] || fsync='-c fsync=off'
	bin=$(pg_bin) || return 1
	port=$(pg_port "$dir") || return 1
	# pg_ctl -w asks the server itself; the log is appended to, so that crashes can be read after a restart.
	pg_as_user "$bin/pg_ctl" -D "$dir/data" -l "$dir/log" -w -t 60 -s start \
		-o "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories=$dir/socket -c max_connections=200 $fsync ${KS_TEST_POSTGRES_FLAGS:-}" \
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

# What ends a server whose data nobody needs any more.
pg_end() {
	pg_stop "$1" immediate 2>/dev/null || pg_kill "$1"
}

my_end() {
	my_kill "$1"
}

# The server program: Debian keeps it out of the PATH of others than root.
my_server() {
	local program

	for program in ${KS_TEST_MYSQL_BIN:+"$KS_TEST_MYSQL_BIN/bin/mariadbd" "$KS_TEST_MYSQL_BIN/bin/mysqld"} \
		"$(command -v mariadbd)" /usr/sbin/mariadbd; do
		[ -x "$program" ] || continue
		echo "$program"
		return
	done
	ks_fail "no MariaDB server (Debian: mariadb-server)"
}

# MariaDB refuses to run as root.
my_user() {
	if [ "$(id -u)" -ne 0 ]; then
		id -un
	elif id mysql >/dev/null 2>&1; then
		echo mysql
	else
		echo nobody
	fi
}

my_as_user() {
	ks_as "$(my_user)" "$@"
}

my_port() {
	sed -n 's/^export KS_TEST_MARIADB_PORT=//p' "$1/env"
}

# Small, so that it starts at once; what decides whether a crash of the server loses something stays as its authors chose it.
# "loose": MySQL and MariaDB do not know all of each other's.
my_write_config() {
	local dir=$1 port=$2 flush=

	[ -n "${KS_TEST_FSYNC:-}" ] || flush=innodb-flush-method=nosync
	cat >"$dir/my.cnf" <<END
[mysqld]
datadir=$dir/data
socket=$dir/server.sock
pid-file=$dir/server.pid
tmpdir=$dir/tmp
bind-address=127.0.0.1
port=$port
skip-name-resolve
max-connections=300
innodb-buffer-pool-size=64M
innodb-log-file-size=32M
key-buffer-size=1M
performance-schema=OFF
loose-aria-pagecache-buffer-size=8M
loose-mysqlx=OFF
loose-disable-log-bin
$flush
${KS_TEST_MYSQL_BIN:+basedir=$KS_TEST_MYSQL_BIN}
[client]
socket=$dir/server.sock
user=root
END
}

my_write_env() {
	local dir=$1 port=$2

	cat >"$dir/env" <<END
export KS_TEST_MARIADB_DIR=$dir
export KS_TEST_MARIADB_PORT=$port
export KS_TEST_MARIADB_SOCKET=$dir/server.sock
export KS_TEST_MARIADB_PIDFILE=$dir/pid
export KS_TEST_MARIADB_LOG=$dir/log
export KS_TEST_MARIADB_URL='mysql://kineshim:the-test-password@tcp(127.0.0.1:$port)/kineshim'
export KS_TEST_MARIADB_SOCKET_URL='mysql://kineshim:the-test-password@unix($dir/server.sock)/kineshim'
export KS_TEST_MARIADB_SUPER_URL='mysql://root:the-root-password@tcp(127.0.0.1:$port)/mysql'
END
}

# my_make_data DIR: the data folder, as it is before the server's first start.
my_make_data() {
	local dir=$1 server template install=(mariadb-install-db)

	server=$(my_server) || return 1
	my_as_user mkdir -p "$dir/tmp" || return 1
	my_write_config "$dir" 0 || return 1
	template=$(ks_template "$("$server" --version)")
	ks_from_template "$template" "$dir/data" "$(my_user)" && return
	if [ "${server##*/}" = mysqld ]; then
		my_as_user "$server" --defaults-file="$dir/my.cnf" --initialize-insecure </dev/null
	else
		[ -z "${KS_TEST_MYSQL_BIN:-}" ] || install=("$KS_TEST_MYSQL_BIN/scripts/mariadb-install-db")
		my_as_user "${install[@]}" --defaults-file="$dir/my.cnf" --auth-root-authentication-method=normal \
			--skip-test-db --skip-name-resolve ${KS_TEST_MYSQL_BIN:+--basedir="$KS_TEST_MYSQL_BIN"} </dev/null
	fi >"$dir/install.log" 2>&1 || { cat "$dir/install.log" >&2; return 1; }
	ks_to_template "$template" "$dir/data" "$(my_user)"
}

# my_make_users DIR: root may come in by TCP too, kineshim has its own database and nothing else.
my_make_users() {
	my_run "$1" mariadb <<-END || return 1
		DROP USER IF EXISTS ''@localhost;
		DROP USER IF EXISTS root@'127.0.0.1';
		CREATE USER root@'127.0.0.1' IDENTIFIED BY 'the-root-password';
		GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;
		CREATE USER kineshim@'%' IDENTIFIED BY 'the-test-password';
	END
	my_database "$1" kineshim
}

my_init() {
	local dir=$1 port try

	my_make_data "$dir" || return 1
	for try in 1 2 3 4 5; do
		port=$(ks_free_port) || return 1
		my_write_config "$dir" "$port" && my_write_env "$dir" "$port" || return 1
		if my_start "$dir" 2>"$dir/start.err"; then
			my_make_users "$dir"
			return
		fi
	done
	cat "$dir/start.err" "$dir/log" >&2
	ks_fail "MariaDB did not start after $try tries"
}

my_start() {
	local dir=$1 server pid user try said

	shift
	server=$(my_server) && user=$(my_user) || return 1
	said=$(stat -c %s "$dir/log" 2>/dev/null || echo 0)
	# A pid file whose process has gone is of a crash.
	rm -f "$dir/pid" "$dir/server.pid" "$dir/server.sock"
	local -a as=()
	[ "$(id -u)" -ne 0 ] || as=(setpriv --reuid="$user" --regid="$(id -gn "$user")" --clear-groups)
	# Not by ks_as: $! must be the server itself. The log is appended to, so that crashes can be read after a restart.
	# shellcheck disable=SC2086 # flags are words
	(cd / && exec "${as[@]}" "$server" --defaults-file="$dir/my.cnf" ${KS_TEST_MARIADB_FLAGS:-} "$@") \
		</dev/null >>"$dir/log" 2>&1 &
	pid=$!
	disown "$pid"
	echo "$pid" >"$dir/pid"
	for try in $(seq 1200); do
		if ks_gone "$pid"; then
			rm -f "$dir/pid"
			ks_fail "MariaDB ended by itself, see $dir/log"
			return 1
		fi
		if [ -S "$dir/server.sock" ] && my_answers "$dir"; then
			return 0
		fi
		# A node that could not get what it missed from another one stays there for nothing.
		if [ $((try % 20)) -eq 0 ] && tail -c "+$((said + 1))" "$dir/log" | grep -qF 'node restart required'; then
			break
		fi
		sleep 0.05
	done
	my_kill "$dir"
	ks_fail "MariaDB does not answer after $try tries"
}

# A node of a cluster that may not be asked for data does not answer yet.
my_answers() {
	my_run "$1" mariadb -e 'SELECT 1 FROM mysql.user LIMIT 1'
} >/dev/null 2>&1

# ks_family PID: it and all its descendants.
ks_family() {
	local child

	echo "$1"
	for child in $(ps -o pid= --ppid "$1"); do
		ks_family "$child"
	done
}

my_stop() {
	local dir=$1 pid

	[ -f "$dir/pid" ] || return 0
	pid=$(cat "$dir/pid")
	kill -TERM "$pid" 2>/dev/null
	ks_await_gone "$pid" 2>/dev/null || ks_await_gone "$pid" 2>/dev/null || ks_await_gone "$pid" || return 1
	rm -f "$dir/pid"
}

my_kill() {
	local dir=$1 family

	[ -f "$dir/pid" ] || return 0
	family=$(ks_family "$(cat "$dir/pid")")
	# shellcheck disable=SC2086 # a list of numbers
	kill -KILL $family 2>/dev/null
	# Its ports, its locks and its socket must be let go before the next start.
	# shellcheck disable=SC2086
	ks_await_gone $family
	rm -f "$dir/pid" "$dir/server.pid" "$dir/server.sock"
}

my_restart() {
	my_stop "$1" && my_start "$1"
}

my_run() {
	local dir=$1 program=$2

	shift 2
	"$program" --defaults-file="$dir/my.cnf" "$@"
}

my_database() {
	my_run "$1" mariadb -e "CREATE DATABASE \`$2\`; GRANT ALL ON \`$2\`.* TO kineshim@'%'"
}

galera_provider() {
	local library=${KS_TEST_GALERA_PROVIDER:-/usr/lib/galera/libgalera_smm.so}

	[ -e "$library" ] || ks_fail "no Galera library $library (Debian: galera-4)" || return 1
	command -v rsync >/dev/null || ks_fail "no rsync, which brings a node the data of another" || return 1
	my_server >/dev/null || return 1
	echo "$library"
}

# galera_write_config DIR NODE PORT GROUP-PORT IST-PORT SST-PORT ADDRESSES: the members' timeouts are a little
# shorter than the defaults, so that the others notice within a few seconds that a node was killed.
galera_write_config() {
	local dir=$1 node=$2 port=$3 group=$4 ist=$5 sst=$6 addresses=$7 provider options

	provider=$(galera_provider) || return 1
	options="base_host=127.0.0.1;base_port=$group;gmcast.listen_addr=tcp://127.0.0.1:$group;ist.recv_addr=127.0.0.1:$ist"
	options+=";gcache.size=32M;evs.suspect_timeout=PT3S;evs.inactive_timeout=PT12S;evs.install_timeout=PT8S"
	my_write_config "$dir/$node" "$port" && my_write_env "$dir/$node" "$port" || return 1
	cat >>"$dir/$node/my.cnf" <<END
[mysqld]
binlog-format=ROW
innodb-autoinc-lock-mode=2
wsrep-on=ON
wsrep-provider=$provider
wsrep-cluster-name=kineshim-test
wsrep-cluster-address=gcomm://$addresses
wsrep-node-name=node$node
wsrep-node-address=127.0.0.1
wsrep-node-incoming-address=127.0.0.1:$port
wsrep-sst-method=rsync
wsrep-sst-receive-address=127.0.0.1:$sst
wsrep-provider-options="$options"
END
}

galera_write_configs() {
	local dir=$1 node addresses= try
	local -a ports=()

	for try in $(seq 12); do
		ports+=("$(ks_free_port)") || return 1
	done
	[ "$(printf '%s\n' "${ports[@]}" | sort -u | wc -l)" -eq "$try" ] || return 1
	for node in 1 2 3; do
		addresses+=${addresses:+,}127.0.0.1:${ports[node + 2]}
	done
	echo "export KS_TEST_GALERA_DIR=$dir" >"$dir/env"
	for node in 1 2 3; do
		galera_write_config "$dir" "$node" "${ports[node - 1]}" "${ports[node + 2]}" "${ports[node + 5]}" \
			"${ports[node + 8]}" "$addresses" || return 1
		sed "s/MARIADB_\([A-Z_]*\)=/GALERA_\1_$node=/" "$dir/$node/env" >>"$dir/env"
	done
}

galera_init() {
	local dir=$1 node try

	galera_provider >/dev/null || return 1
	for node in 1 2 3; do
		my_as_user mkdir -p "$dir/$node" || return 1
	done
	my_make_data "$dir/1" || return 1
	for node in 2 3; do
		my_as_user mkdir "$dir/$node/tmp" || return 1
	done
	for try in 1 2 3; do
		# The others get all their data from the first.
		my_as_user rm -rf "$dir/2/data" "$dir/3/data"
		my_as_user mkdir "$dir/2/data" "$dir/3/data" || return 1
		galera_write_configs "$dir" || continue
		if my_start "$dir/1" --wsrep-new-cluster 2>"$dir/start.err" && { [ -e "$dir/users" ] || my_make_users "$dir/1"; } &&
			touch "$dir/users" && galera_start "$dir" 2>"$dir/start.err"; then
			return 0
		fi
		galera_kill "$dir"
		rm -f "$dir/1/data/grastate.dat" "$dir/1/data/gvwstate.dat"
	done
	tail -n 30 "$dir/start.err" "$dir"/?/log >&2
	ks_fail "Galera did not start after $try tries"
}

# galera_nodes DIR up|down: which nodes have a process.
galera_nodes() {
	local dir=$1 node

	for node in 1 2 3; do
		if [ -f "$dir/$node/pid" ] && ! ks_gone "$(cat "$dir/$node/pid")"; then
			[ "$2" = up ] && echo "$node"
		else
			[ "$2" = down ] && echo "$node"
		fi
	done
	return 0
}

# galera_position DIR NODE: how far a node that does not run has come, as UUID:NUMBER. InnoDB knows it after a crash too.
galera_position() {
	local dir=$1 node=$2 server

	server=$(my_server) || return 1
	rm -f "$dir/$node/server.pid"
	my_as_user "$server" --defaults-file="$dir/$node/my.cnf" --wsrep-recover --disable-log-error </dev/null 2>&1 |
		tee -a "$dir/$node/log" | sed -n 's/.*WSREP: Recovered position: *//p' | tail -n 1
}

# What the service of Debian's package does too: a node that says where it stands needs only what it missed.
galera_join() {
	local dir=$1 node=$2 position

	shift 2
	position=$(galera_position "$dir" "$node") || return 1
	# shellcheck disable=SC2086 # flags are words
	my_start "$dir/$node" ${position:+--wsrep-start-position="$position"} ${KS_TEST_GALERA_FLAGS:-} "$@"
}

galera_start() {
	local dir=$1 node best= position seqno most=-2 pids=() pid status=0

	if [ $# -gt 1 ]; then
		[ -n "$(galera_nodes "$dir" up)" ] || ks_fail "no node of $dir runs that could be joined" || return 1
		galera_join "$dir" "$2"
		return
	fi
	if [ -z "$(galera_nodes "$dir" up)" ]; then
		for node in 1 2 3; do
			position=$(galera_position "$dir" "$node") || return 1
			seqno=${position##*:}
			[ "${seqno:--1}" -gt "$most" ] || continue
			best=$node most=${seqno:--1}
		done
		# Who knows most must not wait for its old fellows.
		rm -f "$dir/$best/data/gvwstate.dat"
		sed -i 's/^safe_to_bootstrap:.*/safe_to_bootstrap: 1/' "$dir/$best/data/grastate.dat"
		galera_join "$dir" "$best" --wsrep-new-cluster || return 1
	fi
	for node in $(galera_nodes "$dir" down); do
		galera_join "$dir" "$node" &
		pids+=($!)
	done
	for pid in "${pids[@]}"; do
		wait "$pid" || status=1
	done
	[ $status -eq 0 ] && galera_whole "$dir"
}

# Every node sees all three, and takes statements.
galera_whole() {
	local dir=$1 node try sees

	for try in $(seq 300); do
		sees=
		for node in 1 2 3; do
			sees+=$(my_run "$dir/$node" mariadb -N -e \
				"SHOW STATUS WHERE variable_name IN ('wsrep_ready', 'wsrep_cluster_size', 'wsrep_local_state_comment')" 2>/dev/null |
				cut -f2 | sort | tr '\n' ' ')
		done
		[ "$sees" != "3 ON Synced 3 ON Synced 3 ON Synced " ] || return 0
		sleep 0.1
	done
	ks_fail "the cluster is not whole after $try looks: $sees"
}

galera_stop() {
	local dir=$1 node

	for node in ${2:-3 2 1}; do
		my_stop "$dir/$node" || return 1
	done
}

galera_kill() {
	local dir=$1 node

	for node in ${2:-1 2 3}; do
		my_kill "$dir/$node" || return 1
	done
}

galera_restart() {
	galera_stop "$1" "$2" && galera_start "$1" "$2"
}

galera_isolate() {
	my_run "$1/$2" mariadb -e "SET GLOBAL wsrep_provider_options='gmcast.isolate=1'"
}

galera_rejoin() {
	my_run "$1/$2" mariadb -e "SET GLOBAL wsrep_provider_options='gmcast.isolate=0'"
}

pg_standby() {
	local dir=$1 primary=$2 bin try

	bin=$(pg_bin) || return 1
	pg_as_user "$bin/pg_basebackup" -D "$dir/data" -X stream -c fast -R --no-sync \
		-d "host=$primary/socket port=$(pg_port "$primary") user=postgres application_name=standby" \
		>"$dir/basebackup.log" 2>&1 || { cat "$dir/basebackup.log" >&2; return 1; }
	pg_as_user mkdir -m 0777 -p "$dir/socket" || return 1
	for try in 1 2 3 4 5; do
		pg_write_env "$dir" "$(ks_free_port)" || return 1
		pg_start "$dir" 2>"$dir/start.err" && return
	done
	cat "$dir/start.err" "$dir/log" >&2
	ks_fail "the standby did not start after $try tries"
}

pg_promote() {
	pg_run "$1" psql -qX -v ON_ERROR_STOP=1 -t -c 'SELECT pg_promote()' >/dev/null
}

bouncer_bin() {
	PATH=$PATH:/usr/sbin command -v pgbouncer || ks_fail "no pgbouncer (Debian: pgbouncer)"
}

bouncer_answers() {
	PGCONNECT_TIMEOUT=2 pg_run "$1" psql -X -q -h 127.0.0.1 -p "$2" -U kineshim -d pgbouncer -c 'SHOW VERSION'
} >/dev/null 2>&1

bouncer_start() {
	local dir=$1 mode=$2 bin port try

	shift 2
	bin=$(bouncer_bin) || return 1
	mkdir -p "$dir/bouncer" && [ "$(id -u)" -ne 0 ] || chown "$(pg_user)" "$dir/bouncer" || return 1
	printf '"kineshim" ""\n"postgres" ""\n' >"$dir/bouncer/users"
	for try in 1 2 3; do
		port=$(sed -n 's/^export KS_TEST_BOUNCER_PORT=//p' "$dir/env")
		[ -n "$port" ] || port=$(ks_free_port) || return 1
		cat >"$dir/bouncer/ini" <<END
[databases]
* = host=127.0.0.1 port=$(pg_port "$dir")
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $port
unix_socket_dir =
auth_type = trust
auth_file = $dir/bouncer/users
admin_users = kineshim
pool_mode = $mode
pidfile = $dir/bouncer/pid
logfile = $dir/bouncer/log
max_client_conn = 500
default_pool_size = 20
server_login_retry = 1
$(printf '%s\n' "$@")
END
		pg_as_user "$bin" -q -d "$dir/bouncer/ini" </dev/null >/dev/null 2>"$dir/bouncer/err"
		for _ in $(seq 100); do
			if bouncer_answers "$dir" "$port"; then
				sed -i '/KS_TEST_BOUNCER/d' "$dir/env"
				cat >>"$dir/env" <<END
export KS_TEST_BOUNCER_PORT=$port
export KS_TEST_BOUNCER_URL=postgres://kineshim@127.0.0.1:$port/kineshim
export KS_TEST_BOUNCER_LOG=$dir/bouncer/log
END
				return 0
			fi
			sleep 0.05
		done
		sed -i '/KS_TEST_BOUNCER/d' "$dir/env"
	done
	cat "$dir/bouncer/err" "$dir/bouncer/log" >&2
	ks_fail "pgbouncer did not start after $try tries"
}

bouncer_stop() {
	local pid

	[ -f "$1/bouncer/pid" ] || return 0
	pid=$(cat "$1/bouncer/pid")
	kill -INT "$pid" 2>/dev/null
	ks_await_gone "$pid"
	rm -f "$1/bouncer/pid"
}

etcd_start() {
	local dir=$1 bin=${KS_TEST_ETCD_BIN:-etcd} port peer pid try fsync=

	command -v "$bin" >/dev/null || ks_fail "no etcd (Debian: etcd-server)" || return 1
	# Old ones do not know the flag.
	[ -n "${KS_TEST_FSYNC:-}" ] || ! "$bin" --unsafe-no-fsync --version >/dev/null 2>&1 || fsync=--unsafe-no-fsync
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
			--initial-cluster "test=http://127.0.0.1:$peer" $fsync ${KS_TEST_ETCD_FLAGS:-} \
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

etcd_signal() {
	local dir=$1 signal=$2 pid

	[ -f "$dir/pid" ] || return 0
	pid=$(cat "$dir/pid")
	kill "-$signal" "$pid" 2>/dev/null
	ks_await_gone "$pid"
	rm -f "$dir/pid"
}

etcd_stop() {
	etcd_signal "$1" TERM
}

etcd_kill() {
	etcd_signal "$1" KILL
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
	case ${1:-} in
	pg_init | pg_start | pg_stop | pg_kill | pg_restart | pg_restart_immediately | pg_run | pg_standby | pg_promote | bouncer_start | bouncer_stop | with_env) "$@" ;;
	my_init | my_start | my_stop | my_kill | my_restart | my_run | my_database) "$@" ;;
	galera_init | galera_start | galera_stop | galera_kill | galera_restart | galera_isolate | galera_rejoin) "$@" ;;
	etcd_start | etcd_stop | etcd_kill) "$@" ;;
	*) ks_fail "usage: servers.sh FUNCTION DIR [ARGS], with a pg_, my_, galera_ or etcd_ function of the list at its begin" ;;
	esac
fi
