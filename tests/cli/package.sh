#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# package.sh FILE.deb…: installs the packages on this machine, tries each program as its service would run, and removes them. Needs
# root, and a machine that may be changed (a container); so it is no part of make check, but of ./dev deb install. Prints TAP.
set -u

debs=()
for deb in "$@"; do debs+=("$(readlink -f "$deb")"); done
export DEBIAN_FRONTEND=noninteractive
point=0
failed=0
kineshim_pid=
dpproxy_pid=
dpagent_pid=
nginx_started=
policy_made=
new_users=()
url=
work=$(mktemp -d)
chmod 0755 "$work"
cd "$work" || exit 99

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

finish() {
	[ -z "$nginx_started" ] || nginx -s stop 2>/dev/null
	[ -z "$dpagent_pid" ] || kill -TERM "$dpagent_pid" 2>/dev/null
	[ -z "$dpproxy_pid" ] || kill -TERM "$dpproxy_pid" 2>/dev/null
	[ -z "$kineshim_pid" ] || kill -TERM "$kineshim_pid" 2>/dev/null
	wait
	# Packages leave their users behind; they were none of this machine's.
	for user in "${new_users[@]}"; do userdel "$user" 2>/dev/null; done
	[ -z "$policy_made" ] || rm -f /usr/sbin/policy-rc.d
	rm -rf "$work"
}
trap finish EXIT

# Nothing starts by itself: systemd may not even run here.
no_services() {
	[ ! -e /usr/sbin/policy-rc.d ] || return
	printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
	chmod 755 /usr/sbin/policy-rc.d
	policy_made=1
}

# until_true SECONDS COMMAND…
until_true() {
	local try limit=$(($1 * 10))

	shift
	for try in $(seq "$limit"); do
		"$@" >/dev/null 2>&1 && return
		sleep 0.1
	done
	return 1
}

free_port() {
	python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

all_there() {
	local file

	for file in "$@"; do
		[ -s "$file" ] || echo "missing: $file"
	done >why
	[ ! -s why ]
}

# conffile PACKAGE FILE
conffile() {
	dpkg-query -W -f '${Conffiles}\n' "$1" >why
	grep -q "^ $2 " why
}

# service UNIT: what the unit starts goes to $command, and its user to $user; systemd must find nothing to say about it.
service() {
	local unit=/lib/systemd/system/$1

	read -ra command < <(sed -n 's/^ExecStart=//p' "$unit")
	user=$(sed -n 's/^User=//p' "$unit")
	[ ${#command[@]} -gt 0 ] && [ -n "$user" ] || return
	command -v systemd-analyze >/dev/null || return 0
	systemd-analyze verify "$unit" 2>&1 | grep -F "$1" >why
	[ ! -s why ]
}

# as_service FOLDER FLAG…: runs $command as $user, with the folder that systemd would make.
as_service() {
	local folder=$1

	shift
	install -d -o "$user" -g "$user" -m 0750 "$folder"
	exec setpriv --reuid="$user" --regid="$user" --clear-groups --inh-caps=-all --no-new-privs "${command[@]}" "$@"
}

purge() {
	apt-get purge -y -qq "$1" >why 2>&1
}

# ---- kineshim ----

try_kineshim() {
	id kineshim >why 2>&1
	check $? "kineshim: there is a user for it"
	kineshim --version --verbose >why 2>&1 && grep -q 'sqlite.*postgresql.*mysql.*mssql' why && grep -q '^systemd: *yes' why
	check $? "kineshim: the program has all databases and systemd"
	all_there /etc/kineshim/kineshim.yml /lib/systemd/system/kineshim.service /lib/systemd/system/kineshim.socket \
		/usr/share/bash-completion/completions/kineshim /usr/share/zsh/vendor-completions/_kineshim \
		/usr/share/fish/vendor_completions.d/kineshim.fish /etc/logrotate.d/kineshim /usr/share/kineshim/grafana/kineshim.json \
		/usr/share/kineshim/prometheus/alerts.yml /usr/share/man/man8/kineshim.8.gz
	check $? "kineshim: units, completion, configuration, manual and dashboard are there"
	conffile kineshim /etc/kineshim/kineshim.yml
	check $? "kineshim: the configuration is the administrator's to change"
	service kineshim.service
	check $? "kineshim: systemd understands the unit"
	(as_service /var/lib/kineshim --listen-client-urls=http://127.0.0.1:0) >kineshim.log 2>&1 &
	kineshim_pid=$!
	until_true 20 grep -q 'ready to serve' kineshim.log
	url=$(sed -n 's/.*ready to serve client requests urls=\([^ ]*\) .*/\1/p' kineshim.log)
	cp kineshim.log why
	[ -n "$url" ]
	check $? "kineshim: it serves as its own user"
	put k v && curl -sf "$url/v3/kv/range" -d '{"key":"aw=="}' 2>&1 | tee why | grep -q '"value":"dg=="'
	check $? "kineshim: a key is put and read"
}

# put KEY VALUE
put() {
	curl -sf "$url/v3/kv/put" -d "{\"key\":\"$(printf %s "$1" | base64 -w0)\",\"value\":\"$(printf %s "$2" | base64 -w0)\"}" >why 2>&1
}

end_kineshim() {
	kill -TERM "$kineshim_pid"
	wait "$kineshim_pid"
	check $? "kineshim: it ends with 0"
	kineshim_pid=
	purge kineshim && [ ! -e /etc/kineshim ] && [ ! -e /usr/bin/kineshim ]
	check $? "kineshim: it can be purged"
	[ -e /var/lib/kineshim/kineshim.db ]
	check $? "kineshim: which leaves the data"
	rm -rf /var/lib/kineshim
}

# ---- dpproxy ----

start_dpproxy() {
	service dpproxy.service || return
	(as_service /var/lib/dpproxy --etcd="$url" --listen="127.0.0.1:${ports[0]}" --tls-listen="127.0.0.1:${ports[1]}" \
		--control="127.0.0.1:${ports[2]}" --metrics="127.0.0.1:${ports[3]}" --status="127.0.0.1:${ports[4]}" --workers=1) \
		>dpproxy.log 2>&1 &
	dpproxy_pid=$!
	until_true 20 curl -sf "http://127.0.0.1:${ports[4]}/status/ready"
	cp dpproxy.log why
}

answers() {
	curl -sf "http://127.0.0.1:${ports[0]}$1" | grep -q "$2"
}

try_dpproxy() {
	local _

	id dpproxy >why 2>&1
	check $? "dpproxy: there is a user for it"
	all_there /etc/dpproxy/dpproxy.yaml /lib/systemd/system/dpproxy.service /usr/share/man/man8/dpproxy.8.gz \
		/usr/share/kineshim/proxy/lua/dpproxy/cli/main.lua /usr/share/doc/dpproxy/examples/dpproxy.json \
		/usr/share/doc/dpproxy/examples/dpproxy-alerts.yml /usr/share/doc/dpproxy/dpproxy.md*
	check $? "dpproxy: scripts, unit, configuration, manual and dashboard are there"
	conffile dpproxy /etc/dpproxy/dpproxy.yaml
	check $? "dpproxy: the configuration is the administrator's to change"
	service dpproxy.service
	check $? "dpproxy: systemd understands the unit"
	for _ in 1 2 3 4 5; do ports+=("$(free_port)"); done
	start_dpproxy
	check $? "dpproxy: it starts as its own user, and reads the configuration from kineshim"
	put /apisix/routes/1 "{\"uri\":\"/hello\",\"plugins\":{\"proxy-rewrite\":{\"uri\":\"/version\"}},
		\"upstream\":{\"nodes\":{\"${url#http://}\":1}}}" && until_true 10 answers /hello etcdserver
	check $? "dpproxy: a route that is put is served"
	put /apisix/routes/2 '{"uri":"/still","plugins":{"fault-injection":{"abort":{"http_status":200,"body":"here"}}}}' &&
		until_true 10 answers /still here
	check $? "dpproxy: one without an upstream, too"
	beside_nginx
}

# Debian's nginx is a service on port 80: it and ours know nothing of each other.
beside_nginx() {
	if ! curl -s -o /dev/null http://127.0.0.1:80/; then
		nginx >why 2>&1
		check $? "dpproxy: nginx' own service can start beside it"
		nginx_started=1
	fi
	curl -s http://127.0.0.1:80/ >why 2>&1 && answers /still here
	check $? "dpproxy: both serve"
	[ -z "$nginx_started" ] || nginx -s stop >why 2>&1
	nginx_started=
	dpkg -V nginx-common >why 2>&1
	! grep -q . why
	check $? "dpproxy: the files of nginx' own service are as they were"
}

# After kineshim's end: what is on disk is enough.
end_dpproxy() {
	kill -QUIT "$dpproxy_pid"
	wait "$dpproxy_pid"
	check $? "dpproxy: it ends with 0"
	start_dpproxy && answers /still here
	check $? "dpproxy: it starts and serves while nothing is there to read from"
	kill -QUIT "$dpproxy_pid"
	wait "$dpproxy_pid"
	dpproxy_pid=
	purge dpproxy && [ ! -e /etc/dpproxy ] && [ ! -e /usr/bin/dpproxy ] && [ ! -e /usr/share/kineshim ] && [ ! -e /var/lib/dpproxy ]
	check $? "dpproxy: it can be purged, which takes away the certificates' keys that came from etcd"
}

# ---- dpagent ----

start_dpagent() {
	service dpagent.service || return
	(as_service /var/lib/dpagent --config-file="$work/dpagent.yml") >dpagent.log 2>&1 &
	dpagent_pid=$!
	until_true 20 curl -sf "http://127.0.0.1:${agent_ports[1]}/status/ready"
	cp dpagent.log why
}

has_route() {
	curl -sf "http://127.0.0.1:${agent_ports[0]}/v3/kv/range" -d "{\"key\":\"$(printf %s /apisix/routes/2 | base64 -w0)\"}" |
		grep -q '"count": *"1"'
}

is_healthy() {
	dpagent nodes --upstream="$url" 2>&1 | tee why | grep -q healthy
}

# Between the others: it mirrors kineshim, and has what dpproxy was given.
try_dpagent() {
	agent_ports=("$(free_port)" "$(free_port)")
	id dpagent >why 2>&1
	check $? "dpagent: there is a user for it"
	all_there /etc/dpagent/dpagent.yml /lib/systemd/system/dpagent.service /usr/share/man/man8/dpagent.8.gz \
		/usr/share/bash-completion/completions/dpagent /usr/share/zsh/vendor-completions/_dpagent \
		/usr/share/fish/vendor_completions.d/dpagent.fish /usr/share/doc/dpagent/dpagent.md*
	check $? "dpagent: unit, completion, configuration and manual are there"
	conffile dpagent /etc/dpagent/dpagent.yml
	check $? "dpagent: the configuration is the administrator's to change"
	service dpagent.service
	check $? "dpagent: systemd understands the unit"
	sed -e "s|^upstream:.*|upstream: $url|" -e "s|^listen-metrics-urls:.*|listen-metrics-urls: http://127.0.0.1:${agent_ports[1]}|" \
		-e "s|^#listen-client-urls:.*|listen-client-urls: http://127.0.0.1:${agent_ports[0]}|" /etc/dpagent/dpagent.yml >dpagent.yml
	# Its --config-file comes after the unit's, and counts: the installed one with free ports.
	start_dpagent && has_route
	check $? "dpagent: it starts as its own user, and mirrors kineshim"
	dpagent status --url="http://127.0.0.1:${agent_ports[1]}" >why 2>&1 && until_true 10 is_healthy
	check $? "dpagent: it is seen, here and in kineshim"
}

# After kineshim's end.
end_dpagent() {
	kill -KILL "$dpagent_pid"
	wait "$dpagent_pid" 2>/dev/null
	start_dpagent && has_route
	check $? "dpagent: killed, it starts and serves while nothing is there to read from"
	kill -TERM "$dpagent_pid"
	wait "$dpagent_pid"
	check $? "dpagent: it ends with 0"
	dpagent_pid=
	purge dpagent && [ ! -e /etc/dpagent ] && [ ! -e /usr/bin/dpagent ] && [ ! -e /var/lib/dpagent ]
	check $? "dpagent: it can be purged, which takes away what came from the control plane"
}

ports=()
no_services
for user in kineshim dpagent dpproxy; do id "$user" >/dev/null 2>&1 || new_users+=("$user"); done
apt-get update -qq >/dev/null 2>&1
apt-get install -y -qq --no-install-recommends "${debs[@]}" >why 2>&1
check $? "the packages install"
try_kineshim
try_dpproxy
try_dpagent
end_kineshim
end_dpagent
end_dpproxy
echo "1..$point"
exit $failed
