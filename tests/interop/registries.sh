#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# registries.sh [PART…]: dpagent's discovery with the registries themselves, which Debian does not have: consul (HashiCorp's, from the Go
# module registry), nacos (r-nacos, from the registry of crates), eureka (Netflix', as Spring starts it, from Maven). ./dev interop registries calls it. They are
# built once, which takes half an hour, and kept in KS_INTEROP_CACHE. What cannot be had is said loudly, and fails.
# Environment: top_builddir, KS_CONSUL, KS_NACOS (programs to use instead), KS_TEST_KEEP.

# shellcheck source=tests/interop/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cache=${KS_INTEROP_CACHE:-$build/interop}
consul_version=1.22.0
nacos_version=0.8.8
mkdir -p "$cache/bin" || exit 99
export KS_CONSUL=${KS_CONSUL:-$cache/bin/consul} KS_NACOS=${KS_NACOS:-$cache/rnacos/bin/rnacos} KS_EUREKA=$cache/eureka

# Some of Consul's parts are modules of their own, in versions that the checksum database does not have.
build_consul() {
	[ ! -x "$KS_CONSUL" ] || return 0
	mkdir -p "$cache/consul-source" && cd "$cache/consul-source" || return 1
	printf 'module interop\n\ngo 1.25.0\n\nrequire github.com/hashicorp/consul v%s\n' "$consul_version" >go.mod
	printf '//go:build tools\n\npackage interop\n\nimport _ "github.com/hashicorp/consul"\n' >tools.go
	export GONOSUMDB='github.com/hashicorp/consul/*'
	go mod tidy -e && go build -o "$KS_CONSUL" github.com/hashicorp/consul
}

build_nacos() {
	[ -x "$KS_NACOS" ] || cargo install --quiet --locked --root "$cache/rnacos" --version "$nacos_version" rnacos
}

build_eureka() {
	[ -f "$KS_EUREKA/classes/EurekaServer.class" ] && return
	mkdir -p "$KS_EUREKA" && mvn -q -B -f "$here/eureka/pom.xml" dependency:copy-dependencies -DoutputDirectory="$KS_EUREKA/lib" &&
		javac -cp "$KS_EUREKA/lib/*" -d "$KS_EUREKA/classes" "$here/eureka/EurekaServer.java"
}

had=()
for part in ${*:-consul nacos eureka}; do
	if ("build_$part") >"$work/$part.log" 2>&1; then
		had+=("$part")
	else
		echo "# ==== $part CANNOT BE HAD: NOT TESTED ===="
		tail -n 5 "$work/$part.log" | sed 's/^/# /'
		point false "$part can be had"
	fi
done
[ ${#had[@]} -eq 0 ] || KS_TAP_SECONDS=900 tap "discovery: ${had[*]}" "$here/discovery.py" "${had[@]}"
done_testing
