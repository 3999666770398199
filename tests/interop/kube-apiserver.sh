#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# kube-apiserver.sh [ENDPOINT]: runs a real kube-apiserver on kineshim (default: SQLite in a temporary folder) and works with it:
# creates, pages, stale updates, watches, deletes, and a restart of kineshim under it. Prints TAP. Needs Go: the API server is
# built once from the Go module registry, which takes ten minutes, and kept in KS_INTEROP_CACHE.
# Environment: top_builddir, KS_KUBE_VERSION (default 1.34.4), KS_KUBE_APISERVER (a program to use instead), KS_TEST_KEEP.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/lib/servers.sh
. "$here/../lib/servers.sh"

build=$(cd "${top_builddir:-.}" && pwd)
kineshim=${KS_KINESHIM:-$build/kineshim/kineshim}
version=${KS_KUBE_VERSION:-1.34.4}
cache=${KS_INTEROP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kineshim-interop}/kube-$version
server=${KS_KUBE_APISERVER:-$cache/kube-apiserver}

# Kubernetes' own go.mod replaces its parts by folders of its source tree; outside of it they are modules of their own.
build_server() {
	local source

	mkdir -p "$cache" && cd "$cache" || return 1
	printf 'module interop\ngo 1.24.0\n' >go.mod
	source=$(go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
	[ -d "$source" ] || return 1
	{
		printf 'module interop\n'
		grep -E '^go [0-9.]+$' "$source/go.mod"
		printf 'require k8s.io/kubernetes v%s\nreplace (\n' "$version"
		sed -nE "s|^\t(k8s\.io/[^ ]+) => \./staging/.*|\t\1 => \1 v0.${version#*.}|p" "$source/go.mod"
		printf ')\n'
	} >go.mod
	printf '//go:build tools\npackage interop\nimport _ "k8s.io/kubernetes/cmd/kube-apiserver/app"\n' >tools.go
	go mod tidy && go build -o kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver
}

if [ ! -x "$server" ]; then
	command -v go >/dev/null || { echo "1..0 # SKIP no Go, and no kube-apiserver in KS_KUBE_APISERVER"; exit 77; }
	echo "# building kube-apiserver $version from the Go module registry"
	(build_server) >&2 || { echo "Bail out! kube-apiserver $version cannot be built"; exit 99; }
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/ks-kube.XXXXXX") || exit 99
pids=()
finish() {
	trap - EXIT
	[ ${#pids[@]} -eq 0 ] || kill -KILL "${pids[@]}" 2>/dev/null
	[ -n "${KS_TEST_KEEP:-}" ] && echo "# logs are in $work" && return
	rm -rf "$work"
}
trap finish EXIT
trap 'exit 143' TERM INT HUP

start_kineshim() {
	: >"$work/kineshim.log"
	"$kineshim" --endpoint "$endpoint" --data-dir "$work/data" --listen-client-urls "http://127.0.0.1:$port" \
		>"$work/kineshim.log" 2>&1 </dev/null &
	kineshim_pid=$!
	pids+=("$kineshim_pid")
	for _ in $(seq 200); do
		grep -q "ready to serve" "$work/kineshim.log" && return 0
		sleep 0.1
	done
	cat "$work/kineshim.log"
	return 1
}

endpoint=${1:-sqlite://$work/kube.db}
port=$(ks_free_port) && secure=$(ks_free_port) || exit 99
start_kineshim || { echo "Bail out! kineshim does not start"; exit 99; }
openssl genrsa -out "$work/sa.key" 2048 2>/dev/null
token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
echo "$token,admin,1,system:masters" >"$work/tokens.csv"
"$server" --etcd-servers="http://127.0.0.1:$port" --bind-address=127.0.0.1 --secure-port="$secure" --cert-dir="$work/certs" \
	--service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$work/sa.key" \
	--service-account-signing-key-file="$work/sa.key" --token-auth-file="$work/tokens.csv" --authorization-mode=RBAC \
	--service-cluster-ip-range=10.0.0.0/24 --disable-admission-plugins=ServiceAccount >"$work/apiserver.log" 2>&1 </dev/null &
pids+=("$!")

echo "1..2"
status=0
python3 "$here/kube.py" "https://127.0.0.1:$secure" "$token" first || status=1
[ $status -eq 0 ] && echo "ok 1 - kube-apiserver creates, pages, updates, watches and deletes" ||
	echo "not ok 1 - kube-apiserver creates, pages, updates, watches and deletes"
kill "$kineshim_pid" && ks_await_gone "$kineshim_pid" && start_kineshim || status=1
if python3 "$here/kube.py" "https://127.0.0.1:$secure" "$token" second; then
	echo "ok 2 - and goes on when kineshim was restarted under it"
else
	echo "not ok 2 - and goes on when kineshim was restarted under it"
	status=1
fi
[ $status -eq 0 ] || tail -n 20 "$work/apiserver.log" | sed 's/^/# /'
exit $status
