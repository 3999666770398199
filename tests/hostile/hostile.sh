#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Starts kineshim on an SQLite database that holds many keys and has little memory for values, and lets bad clients loose on it
# (hostile.c, TAP). KS_HOSTILE_KEYS: how many keys (default 1000000). KS_TEST_KINESHIM, KS_TEST_HOSTILE: the programs.

set -eu
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/../lib/servers.sh"
builddir=${top_builddir:-$here/../../build}
kineshim=${KS_TEST_KINESHIM:-$builddir/kineshim/kineshim}
hostile=${KS_TEST_HOSTILE:-$builddir/tests/hostile/hostile}
keys=${KS_HOSTILE_KEYS:-1000000}
dir=$(ks_tmpdir hostile)
port=$(ks_free_port)
pid=

cleanup() {
	trap - EXIT
	[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true
	rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

start() {
	"$kineshim" --data-dir "$dir" --value-cache-bytes 32MiB --listen-client-urls "http://127.0.0.1:$port" \
		>>"$dir/log" 2>&1 &
	pid=$!
	for _ in $(seq 600); do
		! grep -q 'ready to serve' "$dir/log" || return 0
		kill -0 "$pid" 2>/dev/null || break
		sleep 0.1
	done
	sed 's/^/# /' "$dir/log"
	echo "Bail out! kineshim does not start"
	exit 99
}

# The server makes the schema; the keys are written as it would write them, only faster.
start
kill "$pid" && wait "$pid"
pid=
: >"$dir/log"
sqlite3 "$dir/kineshim.db" "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i <= $keys)
	INSERT INTO kineshim_log (position, sub, rows, kind, revision, key, value, create_revision, version, lease, writer,
		batch, created_at)
	SELECT i, 0, 1, 1, i, CAST(printf('million/%024d', i * 7919 % 1000003) AS BLOB), zeroblob(100), i, 1, 0, 1, i, 0 FROM n"
start
"$hostile" --endpoint "127.0.0.1:$port" --pid "$pid" --keys "$keys" && status=0 || status=$?
[ "$status" -eq 0 ] || sed 's/^/# /' "$dir/log" | tail -n 20
kill "$pid" && wait "$pid" || {
	echo "# kineshim ended with status $?"
	status=1
}
pid=
exit "$status"
