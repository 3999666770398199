# SPDX-License-Identifier: Apache-2.0
#
# What scripts share that run the kineshim program: where it is, a folder to work in, TAP, waiting, and an end that leaves nothing
# behind. Source it, then call ks_program NAME. KINESHIM names the program, by default the one of this build; KS_TEST_KEEP=1 keeps
# the folder.

here=$(cd "$(dirname "${BASH_SOURCE[1]}")" && pwd)
# shellcheck source=tests/lib/servers.sh
. "$here/../lib/servers.sh"
export ETCDCTL_API=3

point=0
failed=0
# Folders of servers that were started, for the end.
pg='' my='' etcd=''

# ks_program NAME PROGRAM…: sets kineshim and dir, goes there, and sees to the end. What is needed besides must be there.
ks_program() {
	local name=$1 needed

	shift
	kineshim=$(readlink -f "${KINESHIM:-${top_builddir:-.}/kineshim/kineshim}")
	[ -x "$kineshim" ] || { echo "Bail out! no kineshim program"; exit 99; }
	for needed in "$@"; do
		command -v "$needed" >/dev/null || { echo "1..0 # SKIP no $needed"; exit 77; }
	done
	dir=$(ks_tmpdir "$name") || exit 99
	cd "$dir" || exit 99
	unset "${!KINESHIM_@}"
	trap finish EXIT
	trap 'exit 143' TERM
	trap 'exit 130' INT
}

finish() {
	local pid

	trap - EXIT
	# First TERM: timeout passes it on to what it runs, which a KILL would leave behind.
	for pid in $(jobs -p); do kill -TERM "$pid" 2>/dev/null; done
	sleep 0.3
	for pid in $(jobs -p); do kill -KILL "$pid" 2>/dev/null; done
	[ -z "$etcd" ] || { etcd_kill "$etcd"; rm -rf "$etcd"; }
	[ -z "$pg" ] || { pg_end "$pg"; rm -rf "$pg"; }
	[ -z "$my" ] || { my_end "$my"; rm -rf "$my"; }
	[ -n "${KS_TEST_KEEP:-}" ] || rm -rf "$dir"
}

# database KIND: starts one ("pg", "my"), or says why the test cannot go on; its folder goes to $database.
database() {
	database=$(ks_tmpdir "$1" "$("$1_user")") && "$1_init" "$database" && printf -v "$1" %s "$database" && return
	echo "Bail out! $(ks_title "$1") does not start"
	exit 99
}

# check STATUS NAME: one point, with what stands in ./why when it failed.
check() {
	point=$((point + 1))
	if [ "$1" -eq 0 ]; then
		echo "ok $point - $2"
	else
		echo "not ok $point - $2"
		sed 's/^/#   /' why 2>/dev/null
		failed=1
	fi
	: >why
}

# until_true SECONDS COMMAND…
until_true() {
	local try limit=$(($1 * 20))

	shift
	for try in $(seq "$limit"); do
		"$@" >/dev/null 2>&1 && return
		sleep 0.05
	done
	return 1
}

# start NAME FLAGS…: its process id goes to $started, its log to NAME.log
start() {
	local name=$1

	shift
	"$kineshim" --log-format=console "$@" >"$name.log" 2>&1 &
	started=$!
}

# start_ready NAME FLAGS…: on a free port, which goes to $url, and waits until it serves.
start_ready() {
	local name=$1 try

	shift
	for try in 1 2 3; do
		url=http://127.0.0.1:$(ks_free_port)
		start "$name" --listen-client-urls="$url" --name="$name" "$@"
		until_true 20 grep -q 'ready to serve' "$name.log" && return
		kill -KILL "$started" 2>/dev/null
		wait "$started" 2>/dev/null
	done
	cp "$name.log" why
	return 1
}

# refused STATUS TEXT FLAGS…: it must not start, end with that status, and say that.
refused() {
	local status=$1 text=$2

	shift 2
	timeout 10 "$kineshim" --log-format=console "$@" >why 2>&1
	[ $? -eq "$status" ] && grep -qF -- "$text" why
}
