#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# kineshim import from kine's table, in SQLite, PostgreSQL and MariaDB: rows as kine writes them, by hand, because kine itself needs
# Go (./dev interop kine runs it). While the import follows rows come, also late and never; it is killed; the table is compacted.
# What kineshim then shows is compared with what kine shows of these rows. Prints TAP.
set -u

name=import
# shellcheck source=tests/import/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

for need in etcdctl sqlite3; do
	command -v "$need" >/dev/null || {
		echo "1..0 # SKIP no $need"
		exit 77
	}
done

stop_more() {
	[ ! -d "$top/my" ] || my_kill "$top/my"
}

# ---- kine's table, in one of three databases: $kind, $dir ----

sql() {
	case $kind in
	sqlite) sqlite3 -bail -cmd '.timeout 5000' "$dir/state.db" >/dev/null ;;
	pg) PGUSER=kineshim PGDATABASE=kineshim pg_run "$dir" psql -Xq -v ON_ERROR_STOP=1 >/dev/null ;;
	my) my_run "$dir" mariadb kineshim ;;
	esac
}

table() {
	case $kind in
	sqlite)
		echo "PRAGMA journal_mode = WAL; CREATE TABLE $1 (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, created INTEGER,
			deleted INTEGER, create_revision INTEGER, prev_revision INTEGER, lease INTEGER, value BLOB, old_value BLOB);"
		;;
	pg)
		echo "CREATE TABLE $1 (id BIGSERIAL PRIMARY KEY, name text COLLATE \"C\", created INTEGER, deleted INTEGER,
			create_revision BIGINT, prev_revision BIGINT, lease INTEGER, value bytea, old_value bytea);"
		;;
	my)
		echo "CREATE TABLE $1 (id BIGINT UNSIGNED AUTO_INCREMENT, name VARCHAR(630) CHARACTER SET ascii, created INTEGER,
			deleted INTEGER, create_revision BIGINT UNSIGNED, prev_revision BIGINT UNSIGNED, lease INTEGER, value MEDIUMBLOB,
			old_value MEDIUMBLOB, PRIMARY KEY (id));"
		;;
	esac
	echo "CREATE UNIQUE INDEX $1_uindex ON $1 (name, prev_revision);"
}

# row ID NAME CREATED DELETED CREATE_REVISION PREV_REVISION LEASE VALUE [TABLE]: hexadecimal value, - for NULL.
row() {
	local value=NULL

	case $kind$8 in
	*-) ;;
	pg*) value="'\\x$8'" ;;
	*) value="x'$8'" ;;
	esac
	echo "INSERT INTO ${9:-kine} (id, name, created, deleted, create_revision, prev_revision, lease, value) VALUES ($1, '$2', $3, $4, $5, $6, $7, $value);"
}

hex() {
	printf '%s' "$1" | od -An -v -tx1 | tr -d ' \n'
}

rows_at_first() {
	local id previous=20

	table kine
	row 1 compact_rev_key 1 0 0 5 0 ''
	row 2 /registry/health 1 0 0 0 0 "$(hex '{"health":"true"}')"
	# 3 and 4 are gone with the compaction; 5 was the first of a key that had more
	row 5 /registry/a 0 0 3 4 0 "$(hex a3)"
	row 6 /registry/leased 1 0 0 0 900 "$(hex l1)"
	row 7 gap-7 0 1 0 0 0 -
	row 8 /registry/binary 1 0 0 0 0 00ff0a27
	row 9 /registry/empty 1 0 0 0 0 ''
	row 10 /registry/null 1 0 0 0 0 -
	row 11 /registry/a 0 0 3 5 0 "$(hex a4)"
	row 12 /registry/b 1 0 0 0 900 "$(hex b1)"
	row 13 /registry/b 0 1 0 12 0 -
	row 14 /registry/b 1 0 0 13 1800 "$(hex b2)"
	row 15 compact_rev_key_apiserver 1 0 0 0 0 "$(hex '1|0')"
	row 16 "/registry/o''k and more" 1 0 0 0 0 "$(hex quote)"
	# nobody got 17
	row 18 compact_rev_key_apiserver 0 0 15 15 0 "$(hex '2|5')"
	row 20 /registry/many 1 0 0 0 0 "$(hex m)"
	for id in $(seq 21 120); do
		row "$id" /registry/many 0 0 20 $previous 0 "$(hex "m$id")"
		previous=$id
	done
}

rows_later() {
	row 121 /registry/c 1 0 0 0 0 "$(hex c1)"
	row 122 /registry/a 0 0 3 11 0 "$(hex a5)"
	row 123 /registry/leased 0 1 0 6 0 -
	row 124 compact_rev_key_apiserver 0 0 15 18 0 "$(hex '3|100')"
}

rows_while_killed() {
	row 125 /registry/d 1 0 0 0 30 "$(hex d1)"
	row 126 /registry/null 0 1 0 10 0 -
}

# As kine compacts to 110: what has a successor, and deletes.
compact_table() {
	case $kind in
	my) echo "DELETE kv FROM kine AS kv JOIN (SELECT prev_revision AS id FROM kine WHERE name != 'compact_rev_key' AND prev_revision != 0
		AND id <= 110 UNION SELECT id FROM kine WHERE deleted != 0 AND id <= 110) AS gone ON kv.id = gone.id;" ;;
	*) echo "DELETE FROM kine WHERE id IN (SELECT prev_revision FROM kine WHERE name != 'compact_rev_key' AND prev_revision != 0
		AND id <= 110 UNION SELECT id FROM kine WHERE deleted != 0 AND id <= 110);" ;;
	esac
	echo "UPDATE kine SET prev_revision = 110 WHERE name = 'compact_rev_key';"
}

# 128 becomes visible a second before 127; 129 never comes.
rows_out_of_order() {
	local sleep='SELECT pg_sleep(1.2);'

	[ "$kind" = pg ] || sleep='SELECT SLEEP(1.2);'
	(
		echo 'BEGIN;'
		row 127 /registry/late 1 0 0 0 0 "$(hex late)"
		echo "$sleep COMMIT;"
	) | sql &
	sleep 0.3
	row 128 /registry/early 1 0 0 0 0 "$(hex early)" | sql
	wait $!
	row 130 /registry/last 1 0 0 0 0 "$(hex last)" | sql
}

rows_in_order() {
	(
		row 127 /registry/late 1 0 0 0 0 "$(hex late)"
		row 128 /registry/early 1 0 0 0 0 "$(hex early)"
		row 130 /registry/last 1 0 0 0 0 "$(hex last)"
	) | sql
}

# ---- what must come of it ----

keys() {
	ctl get '' --prefix "$@" -w fields | awk -F ' : ' '
		$1 == "\"Revision\"" { print "revision " $2 }
		$1 == "\"Key\"" { key = $2 }
		$1 == "\"CreateRevision\"" { create = $2 }
		$1 == "\"ModRevision\"" { mod = $2 }
		$1 == "\"Version\"" { version = $2 }
		$1 == "\"Value\"" { value = $2 }
		$1 == "\"Lease\"" { print key, create, mod, version, $2, value }'
}

expected() {
	cat <<-'END'
		revision 130
		"/registry/a" 3 122 4 0 "a5"
		"/registry/b" 14 14 1 1800 "b2"
		"/registry/binary" 8 8 1 0 "\x00\xff\n'"
		"/registry/c" 121 121 1 0 "c1"
		"/registry/d" 125 125 1 30 "d1"
		"/registry/early" 128 128 1 0 "early"
		"/registry/empty" 9 9 1 0 ""
		"/registry/health" 2 2 1 0 "{\"health\":\"true\"}"
		"/registry/last" 130 130 1 0 "last"
		"/registry/late" 127 127 1 0 "late"
		"/registry/many" 20 120 101 0 "m120"
		"/registry/o'k and more" 16 16 1 0 "quote"
		"compact_rev_key" 15 124 3 0 "100"
		at 110
		revision 130
		"/registry/a" 3 11 3 0 "a4"
		"/registry/leased" 6 6 1 900 "l1"
		"/registry/many" 20 110 91 0 "m110"
		"/registry/null" 10 10 1 0 ""
		compacted
		leases
		000000000000001e
		0000000000000384
		0000000000000708
		events
		DELETE /registry/leased
		PUT compact_rev_key
		PUT /registry/d
		DELETE /registry/null
		PUT /registry/late
		PUT /registry/early
		PUT /registry/last
	END
}

shown() {
	local watcher

	keys
	echo "at 110"
	keys --rev 110 | grep -E 'revision|/a"|leased|many|null'
	ctl get '' --prefix --rev 109 2>&1 | grep -o compacted | head -n 1
	echo leases
	ctl lease list | grep -v found | sort
	echo events
	ctl watch --rev 123 '' --prefix >"$top/watch" 2>&1 &
	watcher=$!
	for _ in $(seq 200); do
		grep -q "^/registry/last" "$top/watch" && break
		sleep 0.05
	done
	kill $watcher 2>/dev/null
	wait $watcher 2>/dev/null
	awk '/^(PUT|DELETE)$/ { kind = $0; getline; print kind, $0 }' "$top/watch"
}

shows_it() {
	start_kineshim "$1" "$kind-shown" || return 1
	expected >"$top/expected"
	shown >"$top/shown" 2>&1
	diff "$top/expected" "$top/shown"
}

# A write takes the next revision, and a key of kine's is changed on the revision that kine gave it.
goes_on() {
	printf 'mod("/registry/a") = "122"\n\nput /registry/a a6\n\n\n' | ctl txn >"$top/txn" && grep -q SUCCESS "$top/txn" &&
		keys | grep -q '^revision 131$'
}

suite() {
	local title=$1 from=$2 to=$3

	ok "$title: kine's table is there" eval 'rows_at_first | sql'
	ok "$title: an import begins" begin_import "$kind" --from "$from" --endpoint "$to"
	ok "$title: rows come" eval 'rows_later | sql'
	sleep 0.4
	ok "$title: the import is killed" kill_import
	ok "$title: rows come meanwhile" eval 'rows_while_killed | sql'
	ok "$title: the import goes on" begin_import "$kind" --from "$from" --endpoint "$to"
	ok "$title: kine compacts" eval 'compact_table | sql'
	if [ "$kind" = sqlite ]; then
		ok "$title: rows come" rows_in_order
	else
		ok "$title: rows come late and never" rows_out_of_order
	fi
	ok "$title: it is told to cut over; all rows are the same" cut_over 'revision 130, compacted 110, .* rows compared with kine'
	ok "$title: kineshim shows what kine shows" shows_it "$to"
	ok "$title: clients go on" goes_on
	stop_kineshim
}

# ---- what must be refused ----

refusals() {
	local from="kine://sqlite://$dir/state.db" to="sqlite:///$top/refused.db"

	ok "no such table" refused "no such table" --from "$from" --from-table other --endpoint "$to"
	ok "no such file" refused "unable to open" --from "kine://sqlite://$dir/none.db" --endpoint "$to"
	ok "what is no endpoint of kine's" refused "as kine has it" --from "kine://$dir/state.db" --endpoint "$to"
	ok "a name of a table that is none" refused "letters, digits" --from "$from" --from-table 'kine; DROP' --endpoint "$to"
	table fresh | sql
	ok "an empty table" refused "is empty" --from "$from" --from-table fresh --endpoint "$to"
	row 1 /registry/one 1 0 0 0 0 00 fresh | sql
	ok "a key with revision 1" refused "begin with revision 2" --from "$from" --from-table fresh --endpoint "$to"

	(table gone; row 2 /registry/one 1 0 0 0 0 00 gone) | sql
	ok "an import from another table begins" begin_import gone --from "$from" --from-table gone --endpoint "sqlite:///$top/gone.db"
	kill_import
	(
		row 1 compact_rev_key 1 0 0 4 0 '' gone
		row 5 /registry/one 0 0 2 4 0 00 gone
	) | sql
	ok "what was compacted meanwhile is said" refused "was compacted at revision 4" --from "$from" --from-table gone \
		--endpoint "sqlite:///$top/gone.db"
	ok "another table does not go on with it" refused "another source needs" --from "$from" --endpoint "sqlite:///$top/gone.db"

	(table changed; row 2 /registry/one 1 0 0 0 0 00 changed; row 4 /registry/two 1 0 0 0 0 00 changed) | sql
	ok "an import begins whose source will be changed" begin_import changed --from "$from" --from-table changed \
		--endpoint "sqlite:///$top/changed.db"
	row 3 /registry/late 1 0 0 0 0 00 changed | sql
	kill -USR1 "$import_pid"
	wait "$import_pid"
	ok "both sides differ, and it is not finished" grep -q 'the two sides differ at revision 3: its row appeared late' "$import_log"
}

kind=sqlite
dir=$top/sqlite
mkdir "$dir"
suite SQLite "kine://sqlite://$dir/state.db?_journal=WAL&cache=shared" "sqlite:///$top/sqlite.db"
refusals

databases=$(ks_databases "$kineshim") || exit 99
for kind in $databases; do
	dir=$top/$kind
	mkdir "$dir" || exit 99
	case $kind in
	pg)
		[ "$(id -u)" -ne 0 ] || chown "$(pg_user)" "$dir"
		pg_init "$dir" || exit 99
		;;
	my)
		[ "$(id -u)" -ne 0 ] || chown "$(my_user)" "$dir"
		my_init "$dir" || exit 99
		;;
	esac
	# Into the same database, beside kine's table.
	suite "$(ks_title "$kind")" "kine://$(ks_url "$dir")" "$(ks_url "$dir")"
done
ok "a password is not shown" refused "failed\|cannot\|connect" --from 'kine://postgres://kine:geheim7@127.0.0.1:1/kine' --endpoint "sqlite:///$top/none.db"
ok "nowhere" no_secrets geheim7
done_testing
