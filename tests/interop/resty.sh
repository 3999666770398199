#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The requests of APISIX's etcd client (resty.py) on SQLite, and on PostgreSQL with two servers: what one writes the other reads.

# shellcheck source=tests/interop/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

if pg_bin >/dev/null && [ -z "${KS_TEST_POSTGRES_URL:-}" ] && [[ $("$kineshim" --version --verbose) == *postgresql* ]]; then
	exec "$here/../lib/with-postgres" "$here/resty.sh"
fi

start_kineshim sqlite "sqlite://$work/sqlite.db" && tap SQLite python3 "$here/resty.py" "127.0.0.1:$port"
stop_servers
if [ -n "${KS_TEST_POSTGRES_URL:-}" ]; then
	start_kineshim first "$KS_TEST_POSTGRES_URL" && first=$port &&
		start_kineshim second "$KS_TEST_POSTGRES_URL" &&
		tap PostgreSQL python3 "$here/resty.py" "127.0.0.1:$first" "127.0.0.1:$port"
fi
done_testing
