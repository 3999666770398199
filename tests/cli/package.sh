#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# package.sh FILE.deb: installs the package on this machine, tries it as its service would run, and removes it. Needs root, and a
# machine that may be changed (a container); so it is no part of make check, but of ./dev deb install. Prints TAP.
set -u

deb=$(readlink -f "$1")
point=0
failed=0
server=
work=$(mktemp -d)
chmod 0755 "$work"

check() {
	point=$((point + 1))
	if [ "$1" -eq 0 ]; then
		echo "ok $point - $2"
	else
		echo "not ok $point - $2"
		sed 's/^/#   /' "$work/why" 2>/dev/null
		failed=1
	fi
}

finish() {
	[ -z "$server" ] || kill -TERM "$server" 2>/dev/null
	rm -rf "$work"
}
trap finish EXIT

policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
	trap 'finish; rm -f "$policy"' EXIT
fi
apt-get update -qq >/dev/null 2>&1
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$deb" >"$work/why" 2>&1
check $? "the package installs"
id kineshim >"$work/why" 2>&1
check $? "there is a user for it"
kineshim --version --verbose >"$work/why" 2>&1 && grep -q 'sqlite.*postgresql' "$work/why" && grep -q '^systemd: *yes' "$work/why"
check $? "the program has both databases and systemd"
for file in /etc/kineshim/kineshim.yml /lib/systemd/system/kineshim.service /lib/systemd/system/kineshim.socket \
	/usr/share/bash-completion/completions/kineshim /usr/share/zsh/vendor-completions/_kineshim \
	/usr/share/fish/vendor_completions.d/kineshim.fish /etc/logrotate.d/kineshim; do
	[ -s "$file" ] || echo "missing: $file"
done >"$work/why"
[ ! -s "$work/why" ]
check $? "units, completion and configuration are there"
dpkg-query -W -f '${Conffiles}' kineshim | grep -q /etc/kineshim/kineshim.yml
check $? "the configuration is the administrator's to change"

# As the unit starts it, but on a free port.
install -d -o kineshim -g kineshim -m 0750 /var/lib/kineshim
sed -e '$ a listen-client-urls: http://127.0.0.1:0' /etc/kineshim/kineshim.yml >"$work/kineshim.yml"
setpriv --reuid=kineshim --regid=kineshim --clear-groups kineshim --config-file="$work/kineshim.yml" >"$work/why" 2>&1 &
server=$!
for _ in $(seq 200); do grep -q 'ready to serve' "$work/why" && break || sleep 0.1; done
url=$(sed -n 's/.*ready to serve client requests urls=\([^ ]*\) .*/\1/p' "$work/why")
[ -n "$url" ]
check $? "it serves as its own user"
curl -sf "$url/v3/kv/put" -d '{"key":"aw==","value":"dg=="}' >"$work/why" 2>&1 &&
	curl -sf "$url/v3/kv/range" -d '{"key":"aw=="}' 2>&1 | tee "$work/why" | grep -q '"value":"dg=="'
check $? "a key is put and read"
kill -TERM "$server"
wait "$server"
check $? "it ends with 0"
server=
DEBIAN_FRONTEND=noninteractive apt-get purge -y -qq kineshim >"$work/why" 2>&1 && [ ! -e /etc/kineshim/kineshim.yml ] &&
	[ ! -e /usr/bin/kineshim ]
check $? "it can be purged"
[ -e /var/lib/kineshim/kineshim.db ]
check $? "which leaves the data"
echo "1..$point"
exit $failed
