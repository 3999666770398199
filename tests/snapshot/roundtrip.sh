#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Moving from etcd to SQL and back, on SQLite and on PostgreSQL, with a real etcd on both ends: etcd is filled with all that
# a snapshot can hold, its snapshot is restored into kineshim, changed there, and the snapshot that kineshim gives is restored
# into a new etcd. On the way every pair must show the same keys, revisions, histories, leases, users and hashes. Then files
# and databases that must be refused, restores that are killed, and full disks. Prints TAP.
#
# KINESHIM names the program under test, by default the one of this build. KS_TEST_KEEP=1 keeps the folder.
set -u

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
lib=$here/../lib
# shellcheck source=tests/lib/servers.sh
. "$lib/servers.sh"
export ETCDCTL_API=3
# Nearly every command logs in; a hash that costs more would be most of the work.
cost=--bcrypt-cost=4
export KS_TEST_ETCD_FLAGS=$cost
build=$(cd "${top_builddir:-.}" && pwd)
kineshim=${KINESHIM:-$build/kineshim/kineshim}
make_db=$build/tests/snapshot/make_db

for need in etcd etcdctl; do
	command -v "$need" >/dev/null || {
		echo "1..0 # SKIP no $need"
		exit 77
	}
done

top=$(ks_tmpdir snapshot) || exit 99
point=0
failed=0
pids=()

finish() {
	trap - EXIT INT TERM HUP
	for pid in "${pids[@]}"; do
		kill -KILL "$pid" 2>/dev/null
	done
	for dir in "$top"/etcd-*; do
		etcd_kill "$dir"
	done
	[ ! -d "$top/pg" ] || pg_end "$top/pg"
	[ ! -d "$top/my" ] || my_end "$top/my"
	[ -n "${KS_TEST_KEEP:-}" ] || rm -rf "$top"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# ok NAME COMMAND…: one point.
ok() {
	local name=$1

	shift
	point=$((point + 1))
	if "$@" >"$top/out" 2>&1; then
		echo "ok $point - $name"
	else
		echo "not ok $point - $name"
		tail -n 30 "$top/out" | sed 's/^/# /'
		failed=1
	fi
}

ctl() {
	timeout 60 etcdctl --endpoints="$url" "$@"
}

# With auth on.
root() {
	ctl --user root:secret "$@"
}

# ---- kineshim ----

# start_kineshim ENDPOINT NAME: sets url and ks_pid.
start_kineshim() {
	local log=$top/$2.log try

	"$kineshim" --endpoint "$1" --listen-client-urls http://127.0.0.1:0 --log-format console "$cost" >"$log" 2>&1 </dev/null &
	ks_pid=$!
	pids+=("$ks_pid")
	for try in $(seq 1200); do
		url=$(sed -n 's|.*ready to serve client requests urls=http://\([^ ,]*\).*|\1|p' "$log")
		[ -z "$url" ] || return 0
		kill -0 "$ks_pid" 2>/dev/null || break
		sleep 0.05
	done
	cat "$log"
	return 1
}

stop_kineshim() {
	kill "$ks_pid" 2>/dev/null
	wait "$ks_pid"
}

restore() {
	timeout 300 "$kineshim" restore "$@"
}

# start_etcd NAME FROM: an etcd on the data that a snapshot was restored to. Sets url.
start_etcd() {
	local dir=$top/etcd-$1

	mkdir "$dir" || return 1
	timeout 60 etcdctl snapshot restore "$2" --data-dir "$dir/data" --name test \
		--initial-cluster test=http://127.0.0.1:1 --initial-advertise-peer-urls http://127.0.0.1:1 >"$top/out.restore" 2>&1 || {
		cat "$top/out.restore"
		return 1
	}
	[ "$(id -u)" -ne 0 ] || chmod -R go+rwX "$dir"
	KS_TEST_ETCD_FLAGS="$cost --initial-cluster-state existing" etcd_start "$dir" || return 1
	url=127.0.0.1:$(sed -n 's/^export KS_TEST_ETCD_PORT=//p' "$dir/env")
}

# ---- what is moved ----

fill() {
	local i

	ctl put binary "$(printf '\001\377\200x')" && ctl put "$(printf 'k\377\001')" binary || return 1
	ctl put empty ''
	lease=$(ctl lease grant 5000 | cut -d' ' -f2)
	ctl lease grant 6000 >/dev/null
	gone=$(ctl lease grant 7000 | cut -d' ' -f2)
	ctl put --lease="$lease" leased/1 a && ctl put --lease="$lease" leased/2 b && ctl put --lease="$gone" gone c
	ctl lease revoke "$gone"
	head -c 700000 /dev/zero | tr '\0' 'V' | ctl put big >/dev/null
	for i in 1 2 3 4 5 6 7 8; do
		ctl put "k$((i % 3))" "v$i"
	done
	printf '\nput t1 a\nput t2 b\ndel k1\nput t3 c\n\n\n' | ctl txn
	ctl del k0
	ctl compact 18
	printf '\nput t1 aa\nput t4 d\n\n\n' | ctl txn
	ctl del t2
	ctl put k0 again
	ctl del leased/2
	ctl user add root:secret && ctl user add alice:pw && ctl user add nobody --no-password
	ctl role add reader && ctl role add writer
	ctl role grant-permission reader read k l && ctl role grant-permission writer --prefix=true readwrite t
	ctl role grant-permission writer readwrite "$(printf 'a\001')"
	ctl user grant-role alice reader && ctl user grant-role alice writer && ctl user grant-role root root
	ctl put zz-end 1
	ctl auth enable
}

change() {
	root put k5 new && root put t1 aaa && root del binary && root compact 25 && root put k5 newer
	root role grant-permission reader read t t5 && root user add carol:pw
	root put --lease="$lease" leased/3 c
	root del k5
	root put zz-end 2
}

revision() {
	root get zz-end -w json | sed -n 's/.*"revision":\([0-9]*\).*/\1/p'
}

# Events up to the key that was put last; etcdctl would wait for ever.
history() {
	local from=$1 file=$top/watch try watcher

	: >"$file"
	timeout 60 etcdctl --endpoints="$url" --user root:secret watch --rev "$from" '' --prefix --prev-kv >"$file" 2>&1 &
	watcher=$!
	for try in $(seq 600); do
		grep -q "^zz-end" "$file" && break
		sleep 0.05
	done
	kill "$watcher" 2>/dev/null
	wait "$watcher" 2>/dev/null
	cat "$file"
}

# Everything that must not change, as text. $1: the compact revision.
dump() {
	local compacted=$1 newest rev

	newest=$(revision)
	# At the compacted revision itself etcd 3.4 gives no hash.
	for rev in $((compacted + 1)) $((compacted + 2)) "$newest"; do
		root endpoint hashkv --rev "$rev" -w json | sed 's/.*"revision":\([0-9]*\).*"hash":\([0-9]*\).*"compact_revision":\([0-9-]*\).*/hash \1 \2 \3/'
		root get '' --prefix --rev "$rev" -w json | sed 's/"header":{[^}]*}//'
	done
	root get '' --prefix --rev "$compacted" -w json | sed 's/"header":{[^}]*}//'
	root get k --prefix --rev $((compacted - 1)) 2>&1 | grep -o 'required revision has been compacted'
	history "$compacted"
	root lease list | sort
	root lease timetolive --keys "$lease" | sed 's/remaining([0-9]*s)//' | tr '[] ' '\n' | sort
	root user list
	root user get alice
	root user get nobody
	root role get reader
	root role get writer
	ctl --user alice:pw get k0 -w json | sed 's/"header":{[^}]*}//'
	ctl --user alice:pw put k0 x 2>&1 | grep -o 'permission denied'
	ctl --user alice:wrong get k0 2>&1 | grep -o 'authentication failed'
	ctl --user alice:pw snapshot save "$top/none.snap" 2>&1 | grep -o 'permission denied' | head -n 1
}

dump_to() {
	dump "$2" >"$top/$1.txt" 2>&1
	[ "$(grep -c '^hash' "$top/$1.txt")" -eq 3 ] || {
		cat "$top/$1.txt"
		return 1
	}
}

save() {
	root snapshot save "$1" >/dev/null 2>&1 && ctl snapshot status "$1" -w json
}

# A key more, so that whatever is restored also goes on.
goes_on() {
	local before

	before=$(revision)
	root put after 1 && root del after && [ "$(revision)" -eq $((before + 2)) ]
}

# A client that asks for its lease before the first server looked after the deadlines must find it.
has_deadlines() {
	[ "$(sqlite3 -readonly "${1#sqlite://}" 'select count(*) from kineshim_lease where ttl_ms in (5000000, 6000000)')" -eq 2 ]
}

# From etcd to SQL.
there() {
	local endpoint=$1 name=$2

	ok "$name: an etcd snapshot is restored" restore "$top/etcd.snap" --endpoint "$endpoint"
	ok "$name: a database that is not empty is refused" refused "$top/etcd.snap" "is not empty" --endpoint "$endpoint"
	case $endpoint in
	sqlite:*) ok "$name: the leases have deadlines" has_deadlines "$endpoint" ;;
	esac
	ok "$name: kineshim starts on it" start_kineshim "$endpoint" "$name"
	ok "$name: it answers" dump_to "$name" 18
	ok "$name: it shows what etcd shows" diff "$top/etcd.txt" "$top/$name.txt"
}

# And back into a new etcd.
back() {
	local name=$1

	ok "$name: it takes changes" change
	ok "$name: it shows them" dump_to "$name-changed" 25
	ok "$name: it gives a snapshot that etcdctl accepts" save "$top/$name.snap"
	ok "$name: kineshim stops" stop_kineshim
	ok "$name: etcd starts on the snapshot" start_etcd "$name" "$top/$name.snap"
	ok "$name: that etcd answers" dump_to "$name-back" 25
	ok "$name: it shows what kineshim showed" diff "$top/$name-changed.txt" "$top/$name-back.txt"
	ok "$name: that etcd goes on" goes_on
	etcd_stop "$top/etcd-$name"
}

# ---- what must be refused ----

# refused FILE TEXT FLAGS…: fails, and says so.
refused() {
	local file=$1 text=$2

	shift 2
	restore "$file" "$@" >"$top/refused" 2>&1
	[ $? -eq 1 ] && grep -q "$text" "$top/refused" && return 0
	cat "$top/refused"
	return 1
}

bad_files() {
	local good=$top/etcd.snap size fresh=(--data-dir "$top/fresh")

	size=$(stat -c %s "$good")
	cp "$good" "$top/bad"
	printf 'X' | dd of="$top/bad" bs=1 seek=$((size / 2)) conv=notrunc 2>/dev/null
	ok "a damaged file is refused" refused "$top/bad" "is damaged" "${fresh[@]}"
	head -c $((size - 100)) "$good" >"$top/cut"
	ok "a file that is cut off is refused" refused "$top/cut" "cut off" "${fresh[@]}"
	head -c 8192 "$good" >"$top/cut"
	ok "one whose pages are missing is refused" refused "$top/cut" "cut off" "${fresh[@]}"
	head -c 65536 /dev/urandom >"$top/noise"
	ok "what is no database is refused" refused "$top/noise" "not a bbolt file" "${fresh[@]}"
	ok "a file that is not there is refused" refused "$top/none" "No such file" "${fresh[@]}"
	head -c $((size - 32)) "$good" >"$top/member.db"
	ok "a member's own file, without checksum, is taken" restore "$top/member.db" "${fresh[@]}"
	head -c $((size - 1)) "$good" >"$top/etcd.sum" && printf 'X' >>"$top/etcd.sum"
	ok "--skip-hash-check takes one with a wrong checksum" restore --skip-hash-check "$top/etcd.sum" --data-dir "$top/skip"
}

# ---- kill -9 and full disks ----

# Ends a restore in its middle, when CONDITION… becomes true. Fails when it was over first. It stands still while it is looked at:
# a look may take longer than all of it.
kill_in_the_middle() {
	local endpoint=$1 try pid

	shift
	"$kineshim" restore "$top/large.snap" --endpoint "$endpoint" >"$top/killed" 2>&1 &
	pid=$!
	pids+=("$pid")
	for try in $(seq 2000); do
		kill -STOP "$pid" 2>/dev/null || break
		if "$@" 2>/dev/null; then
			kill -KILL "$pid" 2>/dev/null
			wait "$pid" 2>/dev/null
			! grep -q '^restored' "$top/killed"
			return
		fi
		kill -CONT "$pid" 2>/dev/null
		sleep 0.02
	done
	cat "$top/killed"
	return 1
}

# Beyond the 10 MB that it has from the start.
wal_grows() {
	[ "$(stat -c %s "$top/killed.db-wal" 2>/dev/null || echo 0)" -gt 15000000 ]
}

# load_runs KIND: rows of a restore have come to the database, and it has not ended.
load_runs() {
	case $1 in
	pg)
		[ "$(pg_run "$top/pg" psql -XAtq -d kineshim -c 'SELECT coalesce(max(tuples_processed), 0) FROM pg_stat_progress_copy')" -gt 5000 ]
		;;
	my)
		sleep 0.12 # InnoDB shows an old picture to those who ask again within 0.1 s
		[ "$(my_run "$top/my" mariadb -N -e 'SELECT coalesce(max(trx_rows_modified), 0) FROM information_schema.innodb_trx')" -gt 5000 ]
		;;
	esac
}

make_empty() { # KIND
	case $1 in
	pg) pg_run "$top/pg" psql -Xq -d kineshim -c 'DROP OWNED BY kineshim' >/dev/null 2>&1 ;;
	my) my_run "$top/my" mariadb -e 'DROP DATABASE kineshim; CREATE DATABASE kineshim' ;;
	esac
}

# on_server KIND: there from etcd, and back into SQLite.
on_server() {
	local kind=$1 name endpoint

	name=$(ks_title "$kind")
	mkdir "$top/$kind" || exit 99
	[ "$(id -u)" -ne 0 ] || chown "$("${kind}_user")" "$top/$kind"
	"${kind}_init" "$top/$kind" || exit 99
	endpoint=$(ks_url "$top/$kind")
	there "$endpoint" "$kind"
	ok "$name: it gives a snapshot that etcdctl accepts" save "$top/$kind.snap"
	ok "$name: it goes on" goes_on
	ok "$name: kineshim stops" stop_kineshim
	rm -f "$top"/back.db*
	ok "$name: its snapshot is restored into SQLite" restore "$top/$kind.snap" --endpoint "sqlite:///$top/back.db"
	ok "$name: kineshim starts on that" start_kineshim "sqlite:///$top/back.db" sqlite-back
	ok "$name: SQLite answers" dump_to sqlite-back 18
	ok "$name: SQLite shows what etcd showed first" diff "$top/etcd.txt" "$top/sqlite-back.txt"
	stop_kineshim
	make_empty "$kind"
	killed "$endpoint" "$name" load_runs "$kind"
}

# holds COUNT REVISION: so many keys at that revision.
holds() {
	ctl get '' --prefix --limit 1 -w fields >"$top/holds"
	grep -qx "\"Count\" : $1" "$top/holds" && grep -qx "\"Revision\" : $2" "$top/holds" && return
	cat "$top/holds"
	return 1
}

# Nothing of the killed restore is there: the server has an empty store, at its first revision.
nothing_is_there() {
	start_kineshim "$1" "$2" && holds 0 1
}

all_is_there() {
	start_kineshim "$1" "$2" && holds 40000 40001
}

killed() {
	local endpoint=$1 name=$2

	shift 2
	ok "$name: a restore is killed in its middle" kill_in_the_middle "$endpoint" "$@"
	ok "$name: it is restored again as if nothing had been" restore "$top/large.snap" --endpoint "$endpoint"
	ok "$name: then all is there" all_is_there "$endpoint" "$name-all"
	stop_kineshim
}

full_disk() {
	(ulimit -f 20000 && refused "$top/large.snap" "kineshim restore: ." --endpoint "sqlite:///$top/full.db")
}

main() {
	local source=$top/etcd-source

	mkdir "$source" || exit 99
	[ "$(id -u)" -ne 0 ] || chmod 0777 "$source"
	etcd_start "$source" || exit 99
	url=127.0.0.1:$(sed -n 's/^export KS_TEST_ETCD_PORT=//p' "$source/env")
	ok "etcd is filled" fill
	ok "etcd answers" dump_to etcd 18
	ok "etcd gives a snapshot" save "$top/etcd.snap"
	etcd_stop "$source"

	there "sqlite:///$top/trip.db" sqlite
	back sqlite
	bad_files
	"$make_db" "$top/large.snap" 40000 1000 || exit 99
	ok "a full disk is said" full_disk
	killed "sqlite:///$top/full.db" "sqlite after the full disk" test -e "$top/full.db-wal"
	ok "sqlite: a restore is killed once more" kill_in_the_middle "sqlite:///$top/killed.db" wal_grows
	ok "sqlite: a server finds nothing of it" nothing_is_there "sqlite:///$top/killed.db" sqlite-empty
	stop_kineshim

	for kind in $(ks_databases "$kineshim"); do
		on_server "$kind"
	done
	echo "1..$point"
	exit $failed
}

main
