#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# What `make install` brings, in a folder of its own: files, the sample configuration, completion, the unit; and the service
# manager's side of the program, sockets that are handed over and notifications. Prints TAP.
set -u

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/lib/servers.sh
. "$here/../lib/servers.sh"
builddir=$(cd "${top_builddir:-.}" && pwd)
dir=$(ks_tmpdir install "$(id -un)") || exit 99
root=$dir/root
unset "${!KINESHIM_@}" MAKEFLAGS MFLAGS MAKELEVEL LISTEN_FDS LISTEN_PID LISTEN_FDNAMES NOTIFY_SOCKET

finish() {
	local pid

	trap - EXIT
	for pid in $(jobs -p); do kill -TERM "$pid" 2>/dev/null; done
	wait
	[ -n "${KS_TEST_KEEP:-}" ] || rm -rf "$dir"
}
trap finish EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

point=0
failed=0
check() {
	point=$((point + 1))
	if [ "$1" -eq 0 ]; then
		echo "ok $point - $2"
	else
		echo "not ok $point - $2"
		sed 's/^/#   /' "$dir/why" 2>/dev/null
		failed=1
	fi
	: >"$dir/why"
}

variable() {
	make -C "$builddir" -s --no-print-directory -f - print 2>/dev/null <<END
include Makefile
print:
	@echo '\$($1)'
END
}

in_make() {
	make -C "$builddir" -s DESTDIR="$root" "$@" >"$dir/why" 2>&1 </dev/null
}

# ---- files ----

in_make install
check $? "make install"
bindir=$root$(variable bindir)
config=$root$(variable sysconfdir)/kineshim/kineshim.yml
unit=$root$(variable systemdsystemunitdir)/kineshim.service
kineshim=$bindir/kineshim
for file in "$kineshim" "$config" "$root$(variable man8dir)/kineshim.8" "$root$(variable man5dir)/kineshim-config.5" \
	"$unit" "${unit%.service}.socket" "$root$(variable sysusersdir)/kineshim.conf" \
	"$root$(variable bashcompletiondir)/kineshim" "$root$(variable zshcompletiondir)/_kineshim" \
	"$root$(variable fishcompletiondir)/kineshim.fish" "$root$(variable docdir)/configuration.md"; do
	[ -s "$file" ] || echo "missing: $file" >>"$dir/why"
done
[ ! -s "$dir/why" ]
check $? "program, manual, units, completion and configuration are there"
find "$root" -type f ! -perm -444 >"$dir/why"
[ ! -s "$dir/why" ]
check $? "everybody may read them"
"$kineshim" --version >"$dir/why" 2>&1
check $? "the program runs"
"$kineshim" --config-file="$config" --check-config >"$dir/why" 2>&1
check $? "the sample configuration is fine"
sed 's/^#\([a-z][-a-z]*:\)/\1/' "$config" >"$dir/all.yml"
"$kineshim" --config-file="$dir/all.yml" --check-config >"$dir/why" 2>&1 && ! grep -q 'without effect' "$dir/why"
check $? "so it is with every default set"
bash -c '. "$1"; COMP_WORDS=(kineshim --log-le); COMP_CWORD=1; _kineshim; [ "${COMPREPLY[*]}" = --log-level ] &&
	COMP_WORDS=(kineshim --log-level wa); COMP_CWORD=2; _kineshim; [ "${COMPREPLY[*]}" = warn ]' \
	bash "$root$(variable bashcompletiondir)/kineshim" >"$dir/why" 2>&1
check $? "bash completes flags and values"
grep -q "^ExecStart=$(variable bindir)/kineshim --config-file=$(variable sysconfdir)/kineshim/kineshim.yml$" "$unit" &&
	! grep -q '@[a-z]*dir@' "$unit"
check $? "the unit starts what was installed"
if command -v systemd-analyze >/dev/null; then
	# It looks for the program itself and for the user; neither is there in this root.
	sed -e "s|^ExecStart=.*|ExecStart=/bin/true|" -e '/^User=/d' -e '/^Group=/d' "$unit" >"$dir/kineshim.service"
	cp "${unit%.service}.socket" "$dir/"
	systemd-analyze verify "$dir/kineshim.service" "$dir/kineshim.socket" 2>&1 | grep -F "$dir/" >"$dir/why"
	[ ! -s "$dir/why" ]
	check $? "systemd understands the units"
fi
echo '# mine' >>"$config"
in_make install && grep -q '^# mine$' "$config"
check $? "a configuration that was changed is kept by the next make install"
in_make uninstall && find "$root" ! -type d ! -path "$config" >"$dir/why" && [ ! -s "$dir/why" ] && [ -e "$config" ]
check $? "make uninstall takes everything away but that"

# ---- the service manager ----

kineshim=$builddir/kineshim/kineshim
if "$kineshim" --version --verbose | grep -q '^systemd: *yes'; then
	cd "$dir" || exit 99
	# Opens the sockets, tells of them in the environment, and becomes the program, as systemd does.
	cat >activate.py <<'END'
import os, socket, sys
where, names = sys.argv[1], sys.argv[2]
sockets = []
with open(where, "w") as file:
    for name in names.split(":"):
        s = socket.socket()
        s.bind(("127.0.0.1", 0))
        s.listen(16)
        sockets.append(s)
        file.write("%d\n" % s.getsockname()[1])
kept = [os.dup(s.fileno()) for s in sockets]
kept = [fd if fd > 100 else os.dup2(fd, 200 + i) for i, fd in enumerate(kept)]
for i, fd in enumerate(kept):
    os.dup2(fd, 3 + i)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(kept)), LISTEN_FDNAMES=names)
os.execv(sys.argv[3], sys.argv[3:])
END
	cat >notified.py <<'END'
import os, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
open(sys.argv[2] + ".bound", "w").close()
with open(sys.argv[2], "w") as file:
    while True:
        text = s.recv(4096).decode()
        file.write(text + "\n")
        file.flush()
        if "STOPPING=1" in text:
            break
END
	python3 notified.py "$dir/notify" heard &
	listener=$!
	until_file() {
		local try

		for try in $(seq 400); do
			grep -qs -- "$2" "$1" && return
			sleep 0.05
		done
		cp server.log why 2>/dev/null
		return 1
	}
	for try in $(seq 200); do [ -e heard.bound ] && break || sleep 0.05; done
	NOTIFY_SOCKET=$dir/notify python3 activate.py ports http:metrics:https "$kineshim" --data-dir=data --auto-tls \
		--log-format=console --listen-client-urls=http://127.0.0.1:1 >server.log 2>&1 &
	server=$!
	until_file heard '^READY=1'
	check $? "the service manager hears when the server is ready"
	grep -q '^STATUS=Serving clients at http://127.0.0.1:' heard
	check $? "and where it serves"
	port=$(sed -n 1p ports)
	ETCDCTL_API=3 timeout 20 etcdctl --endpoints="127.0.0.1:$port" put k v >why 2>&1
	check $? "the socket handed over serves clients, in place of the URLs"
	timeout 20 curl -s -o why "http://127.0.0.1:$(sed -n 2p ports)/v3/kv/range" -d '{"key":"aw=="}' -w '%{http_code}' >code
	[ "$(cat code)" = 404 ]
	check $? "the one called metrics does not serve keys"
	timeout 20 curl -sk "https://127.0.0.1:$(sed -n 3p ports)/version" >why 2>&1 && grep -q etcdserver why
	check $? "the one called https expects TLS"
	kill -TERM $server
	wait $server
	check $? "it ends with 0"
	wait $listener
	grep -q '^STOPPING=1' heard
	check $? "the service manager heard that it stops"
	if command -v systemd-socket-activate >/dev/null; then
		port=$(ks_free_port)
		systemd-socket-activate -l "127.0.0.1:$port" --fdname=http "$kineshim" --data-dir=data2 \
			--log-format=console >server.log 2>&1 &
		server=$!
		until_file server.log Listening
		ETCDCTL_API=3 timeout 30 etcdctl --endpoints="127.0.0.1:$port" put k v >why 2>&1
		check $? "systemd-socket-activate starts it at the first connection"
		kill -TERM $server
		wait $server
	fi
fi

echo "1..$point"
exit $failed
