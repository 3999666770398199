#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Maintenance through etcdctl: quota and alarms, auto-compaction, who leads, members; on SQLite, and on two instances with
# PostgreSQL. Prints TAP.
set -u

# shellcheck source=tests/lib/program.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/program.sh"
ks_program maintenance etcdctl

ctl() {
	local to=$1

	shift
	timeout 20 etcdctl --endpoints="$to" "$@" 2>&1 | tee why
}

# says TEXT ENDPOINT ARGS…: etcdctl's output has that text.
says() {
	local text=$1

	shift
	ctl "$@" | grep -qF -- "$text"
}

leader_of() { # ENDPOINT: its leader's id, in decimal
	ctl "$1" endpoint status -w json | grep -o '"leader":[0-9]*' | cut -d: -f2
}

member_of() { # ENDPOINT: its own id, in decimal
	ctl "$1" endpoint status -w json | grep -o '"member_id":[0-9]*' | cut -d: -f2
}

term_of() {
	ctl "$1" endpoint status -w json | grep -o '"raftTerm":[0-9]*' | cut -d: -f2
}

fill() { # ENDPOINT: 64 KiB a put until one is refused
	local n

	head -c 65536 /dev/zero | tr '\0' x >value
	for n in $(seq 200); do
		timeout 20 etcdctl --endpoints="$1" put "fill/$n" <value >put.out 2>&1 || { cat put.out >why; return 0; }
	done
	return 1
}

# ---- flags ----

refused 2 '--auto-compaction-mode: "weekly" is none of periodic|revision' --auto-compaction-mode=weekly
check $? "a mode that does not exist ends with 2"
refused 2 'error parsing CompactionRetention: time: unknown unit "x" in duration "5x"' --auto-compaction-retention=5x
check $? "a bad retention ends with 2 and etcd's text"
refused 2 '--quota-backend-bytes: "much" is not a size' --quota-backend-bytes=much
check $? "a bad quota ends with 2"

# quota_and_alarm ENDPOINT OTHER: on one that has a small quota. OTHER is another instance, or the same.
quota_and_alarm() {
	local one=$1 other=$2 id

	id=$(member_of "$one")
	ctl "$one" put before 1 >/dev/null
	fill "$one" && grep -q 'mvcc: database space exceeded' why
	check $? "writes are refused when the quota is used up"
	[ "$(ctl "$one" alarm list)" = "memberID:$id alarm:NOSPACE " ]
	check $? "and the alarm of this member is on"
	[ "$(ctl "$other" alarm list)" = "memberID:$id alarm:NOSPACE " ]
	check $? "which every instance knows"
	says 'database space exceeded' "$other" put small x && says 'database space exceeded' "$other" lease grant 60
	check $? "no instance writes"
	printf 'ver("none") = "1"\n\nput a b\n\nget before\n\n' | timeout 20 etcdctl --endpoints="$other" txn 2>&1 |
		tee why | grep -q 'database space exceeded'
	check $? "nor a transaction whose other branch has a put"
	[ "$(ctl "$other" get before --print-value-only)" = 1 ]
	check $? "reads go on"
	until_true 10 sh -c "etcdctl --endpoints=$other endpoint status -w json | grep -q 'alarm:NOSPACE'"
	check $? "Status tells of it"
	[ "$(ctl "$other" del --prefix fill/)" -gt 5 ] &&
		ctl "$other" compaction --physical "$(ctl "$one" endpoint status -w json | grep -o '"revision":[0-9]*' | cut -d: -f2)" >/dev/null
	check $? "deletes and compactions go on"
	# The other instance looks at the size soon after its own writes. From then on what it knows is old, for room is made elsewhere.
	sleep 0.5
	until_true 20 sh -c "etcdctl --endpoints=$one defrag --command-timeout=30s && test \$(etcdctl --endpoints=$one endpoint status -w json | grep -o '\"dbSize\":[0-9]*' | cut -d: -f2) -lt 1000000"
	check $? "defrag gives the room back"
	says 'database space exceeded' "$one" put small x
	check $? "the alarm stays on until somebody disarms it"
	says "memberID:$id alarm:NOSPACE" "$other" alarm disarm && [ -z "$(ctl "$one" alarm list)" ]
	check $? "disarm takes it off"
	[ "$(ctl "$one" put after 1)" = OK ] && [ "$(ctl "$other" put after 2)" = OK ]
	check $? "and writes go on"
}

# ---- one server on SQLite ----

start_ready one --data-dir=one.data --quota-backend-bytes=4MiB --auto-compaction-retention=1s
check $? "it starts with a quota and auto-compaction"
one=$url one_pid=$started
for i in $(seq 30); do
	ctl "$one" put k "$i" >/dev/null
	ctl "$one" get k --rev=2 >get.out
	grep -q 'required revision has been compacted' get.out && break
	sleep 0.1
done
cp get.out why
grep -q 'required revision has been compacted' get.out
check $? "history is compacted by itself"
quota_and_alarm "$one" "$one"
ctl "$one" endpoint status -w json | grep -q '"leader":'"$(member_of "$one")"
check $? "a single server leads"
says 'Leadership transferred' "$one" move-leader "$(printf %x "$(member_of "$one")")"
check $? "a move to itself is fine"
says 'etcdserver: bad leader transferee' "$one" move-leader abc123
check $? "a move to nobody is a bad leader transferee"
says 'etcdserver: kineshim servers are members while they run' "$one" member add other --peer-urls=http://127.0.0.1:1
check $? "member add says what to do instead"
says 'etcdserver: Peer URLs already exists' "$one" member add other --peer-urls="$one"
check $? "peer URLs that a member has are taken"
says 'not enough started members' "$one" member remove "$(printf %x "$(member_of "$one")")"
check $? "the only member cannot be removed"
says 'etcdserver: member not found' "$one" member remove abc && says 'etcdserver: member not found' "$one" member promote abc &&
	says 'etcdserver: member not found' "$one" member update abc --peer-urls=http://127.0.0.1:1
check $? "members that do not exist are not found"
says 'etcdserver: can only promote a learner member' "$one" member promote "$(printf %x "$(member_of "$one")")"
check $? "nobody is a learner"
kill -TERM "$one_pid"
wait "$one_pid"
start_ready full --data-dir=full.data --quota-backend-bytes=1MiB
full_pid=$started
fill "$url"
kill -KILL "$full_pid"
wait "$full_pid" 2>/dev/null
start_ready full --data-dir=full.data --quota-backend-bytes=-1
says 'alarm:NOSPACE' "$url" alarm list && says 'database space exceeded' "$url" put k v
check $? "an alarm survives a crash, whatever the quota is then"
ctl "$url" alarm disarm >/dev/null
[ "$(ctl "$url" put k v)" = OK ] && ctl "$url" endpoint status -w json >/dev/null
check $? "a negative quota is none"
kill -TERM "$started"
wait "$started"

# ---- two instances on PostgreSQL ----

if ! pg_bin >/dev/null 2>&1; then
	echo "# no PostgreSQL"
	echo "1..$point"
	exit $failed
fi
pg=$(ks_tmpdir pg) && pg_init "$pg" || { echo "Bail out! PostgreSQL does not start"; exit 99; }
database=postgres://kineshim@127.0.0.1:$(pg_port "$pg")/kineshim
start_ready a --endpoint="$database" --quota-backend-bytes=4MiB --auto-compaction-retention=1s
a=$url a_pid=$started
start_ready b --endpoint="$database" --quota-backend-bytes=4MiB --auto-compaction-retention=1s
b=$url b_pid=$started
until_true 20 sh -c "test \$(etcdctl --endpoints=$a member list | wc -l) -eq 2 && test \$(etcdctl --endpoints=$b member list | wc -l) -eq 2"
check $? "two instances are two members"
a_id=$(member_of "$a") b_id=$(member_of "$b")
term=$(term_of "$a")
says "Leadership transferred from $(printf %x "$a_id") to $(printf %x "$b_id")" "$a,$b" move-leader "$(printf %x "$b_id")"
check $? "the leader moves to the other"
[ "$(leader_of "$a")" = "$b_id" ] && [ "$(leader_of "$b")" = "$b_id" ] && [ "$(term_of "$b")" -gt "$term" ]
check $? "both say so at once, and the term has grown"
says 'no leader endpoint given' "$a" move-leader "$(printf %x "$a_id")"
check $? "etcdctl looks for the leader among its endpoints"
quota_and_alarm "$a" "$b"
says 'kineshim servers are members while they run; to remove one, stop it' "$a" member remove "$(printf %x "$b_id")"
check $? "a member is removed by stopping it"
kill -KILL "$b_pid"
wait "$b_pid" 2>/dev/null
ctl "$a" put k 1 >/dev/null
revision=$(ctl "$a" endpoint status -w json | grep -o '"revision":[0-9]*' | cut -d: -f2)
until_true 30 sh -c "etcdctl --endpoints=$a put k more && etcdctl --endpoints=$a get k --rev=$revision 2>&1 | grep -q 'has been compacted'"
check $? "the other compacts when the housekeeper was killed"
[ "$(leader_of "$a")" = "$a_id" ]
check $? "and leads"
kill -TERM "$a_pid"
wait "$a_pid"
check $? "SIGTERM ends it with 0"

echo "1..$point"
exit $failed
