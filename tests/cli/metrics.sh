#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# What operators see of a running server: metrics that Prometheus can read, that are documented, that the dashboard and the
# alerts draw, and that are like a real etcd's after the same commands; health checks, also without a database. Prints TAP.
set -u

# shellcheck source=tests/lib/program.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/program.sh"
source_dir=$(readlink -f "${top_srcdir:-$here/../..}")
docs=$source_dir/docs/metrics.md
dashboard=$source_dir/dist/grafana/kineshim.json
alerts=$source_dir/dist/prometheus/alerts.yml
read_metrics=$here/../lib/metrics.py
read_metrics=$(readlink -f "$read_metrics")

ks_program metrics python3 curl etcd etcdctl

# start_ready NAME FLAGS…: on free ports, which go to $url and $probes, and waits until it serves.
start_ready() {
	local name=$1 port probe_port try

	shift
	for try in 1 2 3; do
		port=$(ks_free_port)
		probe_port=$(ks_free_port)
		url=http://127.0.0.1:$port
		probes=http://127.0.0.1:$probe_port
		"$kineshim" --log-format=console --name="$name" --listen-client-urls="$url" --advertise-client-urls="$url" \
			--listen-metrics-urls="$probes" "$@" >"$name.log" 2>&1 &
		started=$!
		until_true 20 grep -q 'ready to serve' "$name.log" && return
		kill -KILL "$started" 2>/dev/null
		wait "$started" 2>/dev/null
	done
	cp "$name.log" why
	return 1
}

ctl() {
	local to=$1

	shift
	timeout 20 etcdctl --endpoints="$to" "$@" >>ctl.out 2>>ctl.err
}

# The same commands for a real etcd and for us.
work() {
	local to=$1 lease

	: >ctl.err
	ctl "$to" put a one && ctl "$to" put b two && ctl "$to" get a && ctl "$to" get --consistency=s a && ctl "$to" del a &&
		ctl "$to" del --prefix nothing || return 1
	printf 'ver("b") = "1"\n\nput x 1\nput y 2\nget b\n\nget b\n\n' | ctl "$to" txn || return 1
	lease=$(timeout 20 etcdctl --endpoints="$to" lease grant 100 | awk '{print $2}')
	ctl "$to" lease keep-alive --once "$lease" && ctl "$to" lease revoke "$lease" || return 1
	! ctl "$to" lease revoke 7f && ctl "$to" compaction 3
}

get() {
	curl -sS --max-time 30 "$@" 2>why
}

# answers STATUS BODY CURL-ARGUMENTS…: exactly so (of the body, the end is marked).
answers() {
	local status=$1 body=$2 got

	shift 2
	got=$(get -w '%{http_code}' "$@" && echo .) || return 1
	[ "$got" = "$body$status." ] || { printf 'expected %s%s.\ngot      %s\n' "$body" "$status" "$got" >why; return 1; }
}

metrics() {
	"$read_metrics" "$@" 2>>why
}

# same NAME LABELS…: the value is etcd's.
same() {
	local ours theirs

	ours=$(metrics value ours.txt "$@")
	theirs=$(metrics value etcd.txt "$@")
	[ -n "$ours" ] && [ "$ours" = "$theirs" ] || { echo "$*: ours $ours, etcd's $theirs" >>why; return 1; }
}

# ---- one server on SQLite, beside an etcd ----

start_ready one --data-dir=one.data --metrics=extensive
check $? "a server with --listen-metrics-urls starts"
etcd=$(ks_tmpdir etcd) && KS_TEST_ETCD_FLAGS=--metrics=extensive etcd_start "$etcd" || { echo "Bail out! etcd does not start"; exit 99; }
# shellcheck source=/dev/null
. "$etcd/env"
work "$url" && work "$KS_TEST_ETCD_ENDPOINT"
check $? "etcdctl does the same on both"
cat ctl.err >>why
get "http://$KS_TEST_ETCD_ENDPOINT/metrics" | sed '/^go_/d; /^# [A-Z]* go_/d' >etcd.txt
get "$url/readyz" >ready.txt && get "$url/livez" >>ready.txt
get "$url/metrics" >ours.txt
metrics check ours.txt
check $? "the metrics are well-formed Prometheus text"
get -H 'Accept: application/openmetrics-text; version=1.0.0' "$url/metrics" >open.txt && metrics check open.txt openmetrics
check $? "and well-formed OpenMetrics where that is asked for"
metrics check etcd.txt
check $? "by rules that hold for etcd's metrics, too"
metrics like ours.txt etcd.txt "$docs"
check $? "names, types, labels and buckets are etcd's, but for those that the documentation excepts"
metrics documented ours.txt "$docs"
check $? "each metric is documented, and each documented one exists"
metrics dashboard ours.txt "$dashboard"
check $? "the dashboard draws what exists"
metrics alerts ours.txt "$alerts" "$docs"
check $? "so do the alerts, and the documentation names them"
same etcd_mvcc_put_total && same etcd_mvcc_txn_total && same etcd_mvcc_delete_total &&
	same etcd_debugging_mvcc_total_put_size_in_bytes && same etcd_debugging_mvcc_keys_total &&
	same etcd_debugging_mvcc_current_revision && same etcd_debugging_mvcc_compact_revision &&
	same etcd_debugging_lease_granted_total && same etcd_debugging_lease_revoked_total &&
	same etcd_debugging_lease_renewed_total && same etcd_debugging_lease_ttl_total_count &&
	same etcd_server_has_leader && same etcd_server_is_leader && same etcd_server_quota_backend_bytes
check $? "the store's and the leases' numbers are etcd's"
same grpc_server_started_total grpc_type=unary && same grpc_server_handled_total grpc_code=OK grpc_method=Put &&
	same grpc_server_handled_total grpc_code=OK grpc_method=Txn &&
	same grpc_server_handled_total grpc_code=NotFound grpc_method=LeaseRevoke &&
	same grpc_server_handling_seconds_count grpc_method=DeleteRange &&
	[ "$(metrics value ours.txt etcd_network_client_grpc_received_bytes_total)" -gt 50 ] &&
	[ "$(metrics value ours.txt etcd_network_client_grpc_sent_bytes_total)" -gt 300 ]
check $? "so are those of the calls" # but for bytes: ids of leases and members are not of one length
[ "$(metrics value ours.txt kineshim_log_appends_total outcome=ok)" -ge 7 ] &&
	[ "$(metrics value ours.txt kineshim_log_append_entries_sum)" -eq "$(($(metrics value ours.txt kineshim_log_applied_position) - 1))" ] &&
	[ "$(metrics value ours.txt kineshim_log_reads_proven_total by=exclusive)" -ge 1 ] &&
	[ "$(metrics value ours.txt kineshim_db_connection_state state=ok)" -eq 5 ] &&
	[ "$(metrics value ours.txt kineshim_housekeeper)" -eq 1 ]
check $? "every entry of the log was counted in an append"
grep -qE '^process_resident_memory_bytes [0-9]{7,}$' ours.txt
check $? "etcdctl check datascale finds the memory"
[ "$(get -I "$url/metrics" | tr -d '\r' | grep -i '^content-type')" = 'Content-Type: text/plain; version=0.0.4; charset=utf-8' ]
check $? "the content type is Prometheus'"
get "$url/debug/vars" | python3 -c 'import json,sys; v = json.load(sys.stdin); assert v["cmdline"] == ["kineshim"]
assert v["metrics"]["etcd_mvcc_put_total"] == 4' 2>why
check $? "/debug/vars is JSON, without our arguments"

# ---- health checks ----

all='[+]data_corruption ok
[+]serializable_read ok
[+]linearizable_read ok
[+]non_learner ok
ok
'
answers 200 '{"etcdserver":"3.6.7","etcdcluster":"3.6.0","storage":"3.6.0"}' "$url/version"
check $? "/version"
answers 200 '{"health":"true","reason":""}' "$url/health?exclude=NOSPACE&serializable=true" &&
	answers 200 '{"health":"true","reason":""}' "$probes/health?serializable=false"
check $? "/health, as kubeadm asks for it"
answers 200 'ok
' "$probes/livez" && answers 200 "$all" "$probes/readyz?verbose" && answers 200 'ok
' "$url/livez/serializable_read"
check $? "/livez and /readyz"
answers 405 'Method Not Allowed
' -X POST "$url/health" && answers 404 '404 page not found
' "$url/health/" && answers 404 '404 page not found
' "$probes/version" && answers 404 '404 page not found
' "$probes/nope"
check $? "other methods and paths"
[ "$(get -o /dev/null -w '%{http_code}' "$probes/v3/kv/range" -d '{"key":"Yg=="}')" = 404 ] && ! ctl "$probes" get b &&
	[ "$(get "$probes/metrics" | metrics check /dev/stdin && echo yes)" = yes ]
check $? "the metrics port has the metrics, and neither keys nor gRPC"
[ "$(curl -s "$url/metrics" | metrics value /dev/stdin etcd_server_healthcheck type=readyz)" -eq 4 ]
check $? "the checks are metrics themselves"

alarm() {
	get "$url/v3/maintenance/alarm" -d "{\"action\":\"$1\",\"memberID\":\"123\",\"alarm\":\"$2\"}" >alarm.out
}

alarm ACTIVATE NOSPACE && answers 503 '{"health":"false","reason":"ALARM NOSPACE"}
' "$url/health" && answers 200 '{"health":"true","reason":""}' "$url/health?exclude=NOSPACE" && answers 200 'ok
' "$url/readyz"
check $? "an alarm for want of room is in /health, and not in /readyz"
alarm DEACTIVATE NOSPACE && alarm ACTIVATE CORRUPT && answers 503 '[-]data_corruption failed: alarm activated: CORRUPT
[+]serializable_read ok
[+]linearizable_read ok
[+]non_learner ok

' "$url/readyz" && answers 200 'ok
' "$url/readyz?exclude=data_corruption" && answers 503 '{"health":"false","reason":"ALARM CORRUPT"}
' "$url/health?serializable=true" &&
	[ "$(get "$url/metrics" | metrics value /dev/stdin etcd_debugging_server_alarms server_id=7b alarm_type=CORRUPT)" -eq 1 ]
check $? "one of damage is in both, and a metric"
alarm DEACTIVATE CORRUPT && ctl "$url" user add root:pass && ctl "$url" user grant-role root root && ctl "$url" auth enable &&
	! ctl "$url" get b && answers 200 'ok
' "$url/readyz" && answers 200 '{"health":"true","reason":""}' "$url/health" && get "$url/metrics" >auth.txt && metrics check auth.txt &&
	[ "$(metrics value auth.txt etcd_debugging_auth_revision)" -gt 1 ]
check $? "none of this asks for a password"
# ---- TLS ----

openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 30 -subj /CN=localhost 2>why &&
	start_ready three --data-dir=three.data --listen-client-urls=https://127.0.0.1:0 --cert-file=cert.pem --key-file=key.pem
check $? "a server with a certificate starts"
secure=$(sed -n 's/.* urls=\(https:[^ ,]*\).*/\1/p' three.log | head -n 1)
probe() { "$read_metrics" value three.txt "$@"; }
all_gone() {
	curl -s "$probes/metrics" >three.txt && [ "$(probe kineshim_tls_connections)" = 0 ] &&
		[ "$(probe kineshim_half_open_connections)" = 0 ]
}
answers 200 'ok
' -k "$secure/readyz" && ! get "$secure/readyz" && until_true 10 all_gone
check $? "TLS connections are counted, and gone when they have ended"
: >why
metrics check three.txt && [ "$(probe kineshim_tls_handshakes_total result=ok)" -ge 1 ] &&
	[ "$(probe kineshim_tls_handshakes_total result=failed)" -ge 1 ] &&
	[ "$(probe kineshim_tls_certificate_not_after_seconds)" -gt "$(($(date +%s) + 29 * 86400 - 3600))" ]
check $? "so are handshakes, and when the certificate ends"

# ---- a database that goes away ----

# goes_away KIND
goes_away() {
	local kind=$1 title endpoint password

	title=$(ks_title "$kind")
	database "$kind"
	endpoint=$(ks_url "$database") password=the-test-password
	# PostgreSQL's takes everybody, with any password.
	[ "$kind" != pg ] || endpoint=${endpoint/kineshim@/kineshim:$password@}
	start_ready two --endpoint="$endpoint"
	check $? "a server on $title starts"
	ctl "$url" put a 1 && ctl "$url" get a && answers 200 "$all" "$url/readyz?verbose"
	check $? "$title: it is ready"
	get "$url/metrics" >two.txt && metrics check two.txt && metrics dashboard two.txt "$dashboard" &&
		[ "$(metrics value two.txt kineshim_log_head_probes_total)" -ge 2 ] &&
		[ "$(metrics value two.txt kineshim_log_head_probe_reads_sum)" -ge 2 ] && [ "$(metrics value two.txt kineshim_instances)" -eq 1 ]
	check $? "$title: its metrics count looks at the head"
	"${kind}_kill" "$database"
	is_away() { [ "$(curl -s "$url/metrics" | "$read_metrics" value /dev/stdin etcd_server_has_leader)" = 0 ]; }
	until_true 20 is_away
	check $? "$title: without its database it has no leader"
	answers 503 '{"health":"false","reason":"RAFT NO LEADER"}
' "$url/health" && answers 200 '{"health":"true","reason":""}' "$url/health?serializable=true" &&
		answers 200 'ok
' "$url/livez"
	check $? "$title: it is alive and not healthy"
	answers 503 '[+]data_corruption ok
[+]serializable_read ok
[-]linearizable_read failed: etcdserver: no leader
[+]non_learner ok

' "$url/readyz" || until_true 10 answers 503 '[+]data_corruption ok
[+]serializable_read ok
[-]linearizable_read failed: etcdserver: no leader
[+]non_learner ok

' "$url/readyz"
	check $? "$title: and not ready"
	get "$url/metrics" >away.txt && metrics check away.txt && [ "$(metrics value away.txt kineshim_db_connection_state state=away)" -ge 1 ] &&
		[ "$(metrics value away.txt kineshim_db_failures_total state=away)" -ge 1 ] && ! grep -q "$password" away.txt two.log
	check $? "$title: its metrics say so, and no secret"
	"${kind}_start" "$database" && until_true 30 answers 200 'ok
' "$url/readyz"
	check $? "$title: it is ready again when the database is back"

	kill -TERM "$started"
	wait "$started"
}

for kind in $(ks_databases "$kineshim"); do
	goes_away "$kind"
done

echo "1..$point"
exit $failed
