#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The closed loops of kineshim-bench, with its own client and with libetcdc, on kineshim: no call fails, what is counted was done, and a
# server that refuses, limits or is killed is told from one that serves. Prints TAP.
set -u

# shellcheck source=tests/lib/program.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/program.sh"
# Before the test has a folder of its own.
bench=$(readlink -f "${top_builddir:-.}/tests/bench/kineshim-bench")
ks_program loops etcdctl

# load SECONDS-AT-MOST COMMAND FLAGS…: its result is in ./result, what it complains of in ./why
load() {
	local most=$1 command=$2

	shift 2
	timeout "$most" "$bench" "$command" --endpoint "$url" --warmup 0 --seconds 0.3 "$@" >result 2>why
}

# A number of the result.
field() {
	grep -o "\"$1\":[0-9]*" result | tail -n 1 | cut -d: -f2
}

served() {
	load 60 "$@" && [ "$(field errors)" = 0 ] && [ "$(field count)" -gt 0 ]
}

revision() {
	etcdctl --endpoints="$url" get none -w json | grep -o '"revision":[0-9]*' | cut -d: -f2
}

# What is under way when counting begins and ends is not counted, nor what is done until a busy machine begins with it.
counted_puts() {
	local before count growth

	before=$(revision)
	served put "$@" || return
	count=$(field count)
	growth=$(($(revision) - before))
	echo "$count puts, $growth revisions" >>why
	[ "$growth" -ge "$count" ] && [ "$growth" -le $((count * 5 / 4 + 200)) ]
}

start_ready one --data-dir=one.data
check $? "a server"
one=$started
for by in '' --grpc; do
	with=${by:-its own client}
	counted_puts --inflight 16 ${by:+"$by"}
	check $? "as many puts as revisions, with $with"
	served put --inflight 4 --value-size 200000 ${by:+"$by"}
	check $? "values larger than a frame and a window, with $with"
	served get --inflight 1 --clients 1 ${by:+"$by"}
	check $? "one call at a time, with $with"
	served get --inflight 128 --clients 4 ${by:+"$by"}
	check $? "many calls on a few connections, with $with"
	served get --inflight 20 --clients 50 --rotate ${by:+"$by"}
	check $? "connections in turns, with $with"
	served page --inflight 8 --page 100 --filled ${by:+"$by"}
	check $? "pages, with $with"
	for command in kube-create kube-update kube-delete; do
		served "$command" --inflight 64 ${by:+"$by"}
		check $? "$command, with $with"
	done
	served kube-list --inflight 4 --keys 2000 ${by:+"$by"} && [ "$(field bytes_per_second)" -gt 200000 ]
	check $? "lists of many frames, with $with"
	served kube-list --inflight 4 --keys 2000 --page 300 ${by:+"$by"}
	check $? "lists by pages, with $with"
done

# ---- one writer and its watchers ----

# Events of a write, and the writes before those that are counted. All that were counted came, and were written.
watched() {
	local each=$1 first=$2 before count

	shift 2
	before=$(revision)
	load 60 "$@" || return
	count=$(field count)
	echo "$count events, $(($(revision) - before)) revisions" >>why
	[ "$count" -gt 0 ] && [ $((count % each)) = 0 ] && [ "$(revision)" = $((before + first + count / each)) ]
}

watched 50 20 watch --watchers 50 --clients 3 --inflight 4
check $? "one writer and 50 watchers"
watched 50 20 watch --watchers 50 --clients 3 --inflight 4 --kube
check $? "the same in Kubernetes' shape"
watched 1 20 watch --watchers 50 --clients 3 --inflight 4 --own-keys
check $? "a key for each watcher"
watched 1 0 many --watchers 200 --clients 4 --rate 300
check $? "a stream for each watcher"

start_ready narrow --data-dir=narrow.data --max-concurrent-streams=10 --max-request-bytes=65536
check $? "a server that allows little"
for by in '' --grpc; do
	with=${by:-its own client}
	served put --inflight 64 --clients 1 ${by:+"$by"}
	check $? "more calls than streams, with $with"
	served get --inflight 64 --clients 2 ${by:+"$by"}
	check $? "more calls than streams on each of two connections, with $with"
	! load 60 put --inflight 16 --value-size 1000000 ${by:+"$by"} && [ "$(field errors)" -gt 0 ]
	check $? "what is refused before it is all sent fails, with $with"
done
! load 60 put --inflight 1 --value-size 100000 && grep -q 'an answer without a message; --grpc tells why' why
check $? "it says how to find out why"
! load 60 put --inflight 1 --value-size 100000 --grpc && grep -q 'request is too large' why
check $? "and that way says why"
served get --inflight 16
check $? "the server goes on"

# ---- a server that is killed in the middle ----

url=$(sed -n 's/.*ready to serve client requests urls=\([^ ]*\).*/\1/p' one.log)
timeout 30 "$bench" put --endpoint "$url" --seconds 60 --inflight 64 --clients 4 >result 2>killed.err &
killed=$!
timeout 30 "$bench" get --endpoint "$url" --seconds 60 --inflight 1 --filled >result.lone 2>lone.err &
lone=$!
timeout 30 "$bench" watch --endpoint "$url" --seconds 60 --watchers 100 --inflight 4 >result.watch 2>watch.err &
watch=$!
sleep 0.7
kill -KILL "$one"
wait "$one" 2>/dev/null
wait "$killed"
[ $? -eq 1 ] && grep -q 'kineshim-bench: UNAVAILABLE' killed.err && [ "$(field errors)" -eq 64 ]
check $? "calls on several connections to a server that is killed end with a failure"
wait "$lone"
[ $? -eq 1 ] && grep -q 'kineshim-bench: UNAVAILABLE' lone.err
check $? "so does one call"
wait "$watch"
[ $? -eq 1 ] && [ ! -s result.watch ] && grep -q 'events are missing' watch.err
check $? "so do a writer and its watchers"
! load 10 get --filled && grep -q 'cannot connect to' why
check $? "and then it says that there is no server"

echo "1..$point"
exit "$failed"
