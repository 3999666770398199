#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Three kineshims on one PostgreSQL, as real processes: fail-over, membership, leases, locks, trimming, and one that stands still.

Prints TAP. instances.py [NAME…] runs only these cases. KINESHIM names the program, by default the one of this build. KS_STALL_SECONDS=60
lets the stalled instance stand still for so long (default: longer than all times to live here). KS_TEST_KEEP=1 keeps the folder.
"""

import base64
import collections
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

HERE = os.path.dirname(os.path.realpath(__file__))
if "KS_TEST_POSTGRES_URL" not in os.environ:
    wrapper = os.path.join(HERE, "../lib/with-postgres")
    os.execv(wrapper, [wrapper, os.path.realpath(__file__), *sys.argv[1:]])

SLOW = float(os.environ.get("KS_TEST_SLOW", "1"))
WAIT_S = 30 * SLOW
STALL_S = float(os.environ.get("KS_STALL_SECONDS", "3"))
# Election timeouts in ms: of the first two everything runs out after 2 s, of the third after 10 s.
TIMEOUTS = {"a": 200, "b": 200, "c": 1000}
MEMBER_S = {name: max(2.0, timeout / 100) for name, timeout in TIMEOUTS.items()}
program = os.path.realpath(os.environ.get("KINESHIM") or
                           os.path.join(os.environ.get("top_builddir", "."), "kineshim/kineshim"))
for variable in list(os.environ):
    if variable.startswith(("KINESHIM", "ETCDCTL", "http_proxy", "https_proxy", "HTTP", "ALL_PROXY")):
        del os.environ[variable]
os.environ["ETCDCTL_API"] = "3"
folder = tempfile.TemporaryDirectory(prefix="ks-instances.", dir="/tmp")
os.chdir(folder.name)
children = []


def b64(text):
    return base64.b64encode(text.encode()).decode()


def text_of(encoded):
    return base64.b64decode(encoded or "").decode()


def until(condition, what, seconds=WAIT_S):
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"never: {what}")
        time.sleep(0.03)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def spawn(*command, **more):
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **more)
    children.append(process)
    return process


class Instance:
    """Keeps its name, and so its id, over restarts."""

    def __init__(self, name):
        self.name, self.port, self.process = name, free_port(), None
        self.at = f"127.0.0.1:{self.port}"

    def start(self):
        self.log = open(f"{self.name}.log", "a", encoding="utf-8")
        timeout = TIMEOUTS[self.name]
        self.process = spawn(program, "--endpoint", os.environ["KS_TEST_POSTGRES_URL"], "--name", self.name, "--log-format", "console",
                             "--listen-client-urls", f"http://{self.at}", "--data-dir", f"{self.name}.data",
                             "--election-timeout", str(timeout), "--heartbeat-interval", str(timeout // 5),
                             stdout=self.log, stderr=self.log)
        until(self.answers, f"{self.name} serves")

    def answers(self):
        try:
            return self.get("/dev/null", timeout=1) is not None
        except (OSError, http.client.HTTPException, AssertionError):
            return False

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stand_still(self):
        os.kill(self.process.pid, signal.SIGSTOP)

    def go_on(self):
        os.kill(self.process.pid, signal.SIGCONT)

    def said(self, what):
        return what in open(f"{self.name}.log", encoding="utf-8").read()

    def post(self, path, body, timeout=WAIT_S):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("POST", path, json.dumps(body))
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        if answer.status != 200:
            raise AssertionError(f"{path} on {self.name}: {answer.status} {text}")
        return json.loads(text)

    def put(self, key, value, lease=0, timeout=WAIT_S):
        answer = self.post("/v3/kv/put", {"key": b64(key), "value": b64(value), "lease": str(lease)}, timeout)
        return int(answer["header"]["revision"])

    def get(self, key, timeout=WAIT_S):
        answer = self.post("/v3/kv/range", {"key": b64(key)}, timeout)
        kvs = answer.get("kvs", [])
        return text_of(kvs[0].get("value")) if kvs else ""

    def get_served(self, key):
        """It may say for a while that it cannot (it loads the log), but whatever it answers must be right."""
        end = time.monotonic() + WAIT_S
        while True:
            try:
                return self.get(key)
            except AssertionError as error:
                if ": 503 " not in str(error) or time.monotonic() > end:
                    raise
            time.sleep(0.01)

    def members(self):
        return {one["name"]: one["ID"] for one in self.post("/v3/cluster/member/list", {})["members"]}

    def status(self):
        return self.post("/v3/maintenance/status", {})

    def grant(self, ttl):
        return int(self.post("/v3/lease/grant", {"TTL": str(ttl)})["ID"])

    def hash_at(self, revision):
        answer = self.post("/v3/maintenance/hash", {"revision": str(revision)})
        return answer["hash"], answer.get("compact_revision")


class Watch:
    """A watch through one instance: all its events as (type, key, value), and how it ended."""

    def __init__(self, instance, key, revision=0):
        self.events, self.ended = [], None
        self.connection = http.client.HTTPConnection("127.0.0.1", instance.port, timeout=max(120, 3 * STALL_S))
        self.connection.request("POST", "/v3/watch", json.dumps({"create_request": {
            "key": b64(key), "range_end": b64(key[:-1] + chr(ord(key[-1]) + 1)), "start_revision": str(revision)}}))
        self.answer = self.connection.getresponse()
        first = json.loads(self.answer.readline())["result"]
        assert first.get("created"), first
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        try:
            for line in self.answer:
                result = json.loads(line).get("result", {})
                for event in result.get("events", []):
                    self.events.append((event.get("type", "PUT"), text_of(event["kv"]["key"]), text_of(event["kv"].get("value"))))
                if result.get("canceled"):
                    self.ended = result
        except (OSError, ValueError, http.client.HTTPException) as error:
            self.ended = self.ended or str(error)

    def deleted(self):
        return [key for kind, key, _ in self.events if kind == "DELETE"]


def ctl(instances, *words, timeout=WAIT_S):
    done = subprocess.run(["etcdctl", "--endpoints", ",".join(one.at for one in instances), *words], capture_output=True, text=True,
                          timeout=timeout, check=False)
    if done.returncode != 0:
        raise AssertionError(f"etcdctl {words} gave {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def rows_before(position):
    out = subprocess.run([os.environ["KS_TEST_SERVERS"], "pg_run", os.environ["KS_TEST_POSTGRES_DIR"], "psql", "-qXAt", "-d", "kineshim",
                          "-c", f"SELECT count(*) FROM kineshim_log WHERE position < {position}"], capture_output=True, text=True, check=True)
    return int(out.stdout)


def make_leader(instance):
    """The duty goes to this instance."""
    def moved():
        status = instance.status()
        if status["leader"] == status["header"]["member_id"]:
            return True
        for one in instances:
            own = one.status()
            if own["leader"] == own["header"]["member_id"]:
                subprocess.run(["etcdctl", "--endpoints", one.at, "move-leader", f"{int(status['header']['member_id']):x}"],
                               capture_output=True, timeout=WAIT_S, check=False)
        return False
    until(moved, f"{instance.name} is the leader")


def all_agree():
    """No instance differs from another."""
    revision = max(int(one.status()["header"]["revision"]) for one in instances)
    until(lambda: all(int(one.status()["header"]["revision"]) >= revision for one in instances), "all reach the same revision")
    hashes = {one.hash_at(revision)[0] for one in instances}
    assert len(hashes) == 1, hashes


instances = [Instance("a"), Instance("b"), Instance("c")]
a, b, c = instances


def members_are_those_that_live():
    expected = set("abc")
    for one in instances:
        until(lambda one=one: set(one.members()) == expected, f"{one.name} lists all three")
    lists = [one.members() for one in instances]
    assert lists[0] == lists[1] == lists[2] and len(set(lists[0].values())) == 3, lists
    until(lambda: len({one.status()["leader"] for one in instances}) == 1, "all name the same leader")
    assert a.status()["leader"] in lists[0].values()


def clients_of_all_three_go_on_when_one_is_killed():
    make_leader(a)
    until(lambda: set(a.members()) == set("abc"), "all are members")
    before, term = a.members(), int(a.status()["raftTerm"])
    outs = [open(f"watch-{i}.out", "w+", encoding="utf-8") for i in range(3)]
    endpoints = ",".join(one.at for one in instances)
    watches = [spawn("etcdctl", "--endpoints", endpoints, "watch", "--prefix", "over", stdout=out) for out in outs]

    def seen(i, prefix="over/"):
        return [line.strip() for line in open(f"watch-{i}.out", encoding="utf-8") if line.startswith(prefix)]
    until(lambda: (ctl(instances, "put", "over0", "x"), all(seen(i, "over0") for i in range(3)))[1], "the watches stand")
    for i in range(10):
        ctl(instances, "put", f"over/{i:02}", "x")
    a.kill()
    killed = time.monotonic()
    for i in range(10, 20):
        ctl(instances, "put", f"over/{i:02}", "x")
    names = [f"over/{i:02}" for i in range(20)]
    for i in range(3):
        until(lambda i=i: len(seen(i)) >= 20, f"watch {i} goes on")
        assert seen(i) == names, seen(i)
    for one in watches:
        one.kill()
        one.wait()
    for one in (b, c):
        until(lambda one=one: set(one.members()) == {"b", "c"}, f"{one.name} lists the two that live")
    assert time.monotonic() - killed < MEMBER_S["a"] + 10 * SLOW
    living = [one.members() for one in (b, c)]
    until(lambda: b.status()["leader"] in living[0].values() and b.status()["leader"] == c.status()["leader"], "one of them is the leader")
    assert b.status()["leader"] != before["a"] and int(b.status()["raftTerm"]) > term
    a.start()
    for one in instances:
        until(lambda one=one: one.members() == before, f"{one.name} lists a again, with its old id")
    all_agree()


def a_lease_lives_as_long_as_any_instance_keeps_it_and_ends_once():
    lease = a.grant(2)
    watches = {one.name: Watch(one, "lease/") for one in (b, c)}
    a.put("lease/1", "x", lease)
    c.put("lease/2", "x", lease)
    keeper = spawn("etcdctl", "--endpoints", b.at, "lease", "keep-alive", f"{lease:x}", stdout=subprocess.DEVNULL)
    a.kill()
    time.sleep(4.5)
    assert c.get("lease/1") == "x" and b.get("lease/2") == "x"
    a.start()
    watches["a"] = Watch(a, "lease/")
    time.sleep(2.5)
    assert a.get("lease/1") == "x" and keeper.poll() is None
    keeper.kill()
    keeper.wait()
    until(lambda: c.get("lease/1") == "" and c.get("lease/2") == "", "the lease ends")
    time.sleep(1)
    for name, watch in watches.items():
        until(lambda watch=watch: len(watch.deleted()) >= 2, f"the watch on {name} sees the keys go")
        assert sorted(watch.deleted()) == ["lease/1", "lease/2"], (name, watch.deleted())
    assert str(lease) not in [one["ID"] for one in b.post("/v3/lease/leases", {}).get("leases", [])]


def a_lock_and_an_election_are_held_across_instances():
    out = open("lock.out", "w+", encoding="utf-8")
    with open("work", "w", encoding="utf-8") as script:
        script.write('echo "$1 in" >>lock.out\nsleep "$2"\necho "$1 out" >>lock.out\n')
    first = spawn("etcdctl", "--endpoints", a.at, "lock", "--ttl", "2", "l", "sh", "work", "first", "1")
    until(lambda: "first in" in open("lock.out", encoding="utf-8").read(), "the first has the lock")
    second = spawn("etcdctl", "--endpoints", b.at, "lock", "--ttl", "2", "l", "sh", "work", "second", "0")
    assert first.wait(WAIT_S) == 0 and second.wait(WAIT_S) == 0
    assert out.read().split("\n") == ["first in", "first out", "second in", "second out", ""]
    # The one who leads is killed; the lease that it leaves behind ends, and the next one leads.
    heard = open("elect.out", "w+", encoding="utf-8")
    listener = spawn("etcdctl", "--endpoints", c.at, "elect", "-l", "e", stdout=heard)
    first = spawn("etcdctl", "--endpoints", a.at, "elect", "e", "one", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: "one" in open("elect.out", encoding="utf-8").read(), "one leads")
    second = spawn("etcdctl", "--endpoints", b.at, "elect", "e", "two", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: len(b.post("/v3/kv/range", {"key": b64("e/"), "range_end": b64("e0")}).get("kvs", [])) == 2, "two waits")
    assert "two" not in open("elect.out", encoding="utf-8").read()
    key = b.post("/v3/kv/range", {"key": b64("e/"), "range_end": b64("e0"), "sort_target": "CREATE", "sort_order": "ASCEND"})["kvs"][0]
    first.kill()
    first.wait()
    b.post("/v3/lease/revoke", {"ID": key["lease"]})  # etcdctl's own lease has 60 s to live
    until(lambda: "two" in open("elect.out", encoding="utf-8").read(), "two leads")
    for one in (listener, second):
        one.kill()
        one.wait()


def history(instance, key, count):
    for i in range(count):
        revision = instance.put(key, f"{i:04}")
    return revision


def position(instance):
    return int(instance.status()["raftAppliedIndex"])


def rows_stay_while_a_live_member_is_behind():
    make_leader(a)
    watch = Watch(c, "trim/")
    history(a, "trim/1", 100)
    until(lambda: len(watch.events) == 100, "the watch has seen all")
    c.stand_still()
    try:
        revision = history(a, "trim/1", 100)
        a.post("/v3/kv/compaction", {"revision": str(revision)})
        before = position(a)
        kept = rows_before(before)
        time.sleep(3)
        assert rows_before(before) == kept, (rows_before(before), kept)
        assert set(a.members()) == set("abc"), "it has lived all the time"
    finally:
        c.go_on()
    until(lambda: rows_before(before) <= kept - 190, "the rows go when it has applied the compaction")
    until(lambda: len(watch.events) >= 200, "its watch has missed nothing")
    assert [value for _, _, value in watch.events] == [f"{i:04}" for i in range(100)] * 2
    assert not c.said("read the log again")
    all_agree()


def who_slept_for_longer_than_it_lives_reads_the_log_again():
    make_leader(a)
    watch, fresh = Watch(b, "hole/"), Watch(b, "other/")
    history(a, "hole/1", 5)
    until(lambda: len(watch.events) == 5, "the watch has seen all")
    b.stand_still()
    try:
        until(lambda: "b" not in a.members(), "it is no member any more")
        revision = history(a, "hole/1", 100)
        a.post("/v3/kv/compaction", {"revision": str(revision), "physical": True})
        before = position(a)
        until(lambda: rows_before(before) < 100, "rows go without it")
        a.put("hole/2", "newest")
    finally:
        b.go_on()
    assert b.get_served("hole/2") == "newest" and b.get_served("hole/1") == "0099"
    until(lambda: b.said("overtaken by a compaction, read the log again") or b.said("loading again, watches end"), "it says so")
    until(lambda: watch.ended, "the watch that missed events is ended")
    # Also the entry that it had applied last is gone: it cannot tell an overtaken log from a lost one, and names the least revision.
    assert int(watch.ended.get("compact_revision", 0)) >= 1 and len(watch.events) == 5, (watch.ended, watch.events)
    until(lambda: fresh.ended or a.put("other/1", "x") and fresh.events, "the other watch ends, or goes on")
    until(lambda: set(a.members()) == set("abc"), "it is a member again")
    all_agree()


class Asker(threading.Thread):
    """Linearizable reads of one key through one connection that stays open, each with what was acknowledged before it was sent."""

    def __init__(self, instance, newest):
        super().__init__(daemon=True)
        self.instance, self.newest, self.wrong, self.count, self.ending = instance, newest, [], 0, False
        self.start()

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.instance.port, timeout=WAIT_S + 2 * STALL_S)
        while not self.ending:
            least = self.newest[0]
            try:
                connection.request("POST", "/v3/kv/range", json.dumps({"key": b64("stall/n")}))
                answer = connection.getresponse()
                text = answer.read().decode()
            except (OSError, http.client.HTTPException):
                connection.close()
                continue
            if answer.status != 200:
                continue  # it may say that it cannot, never something old
            kvs = json.loads(text).get("kvs", [])
            if int(text_of(kvs[0]["value"]) if kvs else 0) < least:
                self.wrong.append((least, text))
            self.count += 1


class Putter(threading.Thread):
    """Puts through one instance: each acknowledged one must be there afterwards."""

    def __init__(self, instance, name):
        super().__init__(daemon=True)
        self.instance, self.name_, self.acknowledged, self.ending = instance, name, [], False
        self.start()

    def run(self):
        number = 0
        while not self.ending:
            number += 1
            try:
                self.instance.put(f"stall/{self.name_}/{number:06}", "x", timeout=WAIT_S + 2 * STALL_S)
                self.acknowledged.append(number)
            except (OSError, AssertionError, http.client.HTTPException):
                time.sleep(0.01)


def one_that_stood_still_is_neither_stale_nor_in_the_way():
    make_leader(a)
    term = int(a.status()["raftTerm"])
    lease = b.grant(2)
    b.put("stall/lease", "x", lease)
    keeper = spawn("etcdctl", "--endpoints", b.at, "lease", "keep-alive", f"{lease:x}", stdout=subprocess.DEVNULL)
    newest = [b.put("stall/n", "0") * 0]
    watch = Watch(a, "stall/lease")
    askers = [Asker(a, newest) for _ in range(8)]
    putters = [Putter(a, f"a{i}") for i in range(4)]
    time.sleep(0.5)
    a.stand_still()
    stopped = time.monotonic()
    queued = []
    try:
        while time.monotonic() - stopped < STALL_S:
            began = time.monotonic()
            b.put("stall/n", str(newest[0] + 1))
            newest[0] += 1
            assert time.monotonic() - began < 5 * SLOW, "the others are not held up"
            # Requests that wait in sockets which nobody reads.
            if len(queued) < 40:
                connection = http.client.HTTPConnection("127.0.0.1", a.port, timeout=WAIT_S)
                connection.request("POST", "/v3/kv/range", json.dumps({"key": b64("stall/n")}))
                queued.append((newest[0], connection))
            time.sleep(0.02)
        until(lambda: b.status()["leader"] == c.status()["leader"] and int(c.status()["raftTerm"]) > term, "another one is the leader")
    finally:
        a.go_on()
    # At once, while everything that was due for so long happens at the same time.
    for i in range(50):
        least = newest[0]
        value = int(a.get_served("stall/n"))
        assert value >= least, f"read {i} after it went on: {value} < {least}"
        if i % 5 == 0:
            b.put("stall/n", str(newest[0] + 1))
            newest[0] += 1
    answered = 0
    for least, connection in queued:
        answer = connection.getresponse()
        text = answer.read().decode()
        if answer.status == 200:
            answered += 1
            assert int(text_of(json.loads(text)["kvs"][0]["value"])) >= least, (least, text)
    assert answered >= len(queued) // 2, (answered, len(queued))
    time.sleep(1)
    for one in askers + putters:
        one.ending = True
    for one in askers + putters:
        one.join(WAIT_S)
        assert not one.is_alive()
    for one in askers:
        assert not one.wrong and one.count > 10, (one.wrong[:3], one.count)
    # It has lost the duty: the lease that was kept alive elsewhere is there, with its key, and nobody saw it go.
    until(lambda: a.status()["leader"] == b.status()["leader"] == c.status()["leader"], "all agree on the leader")
    assert int(a.status()["raftTerm"]) == int(b.status()["raftTerm"]) == term + 1, "the leader changed once"
    assert a.get("stall/lease") == "x" and b.get("stall/lease") == "x" and not watch.deleted()
    keeper.kill()
    keeper.wait()
    for one in putters:
        for instance in (a, b):
            kvs = instance.post("/v3/kv/range", {"key": b64(f"stall/{one.name_}/"), "range_end": b64(f"stall/{one.name_}0")}).get("kvs", [])
            there = collections.Counter(int(text_of(kv["key"]).rsplit("/", 1)[1]) for kv in kvs)
            missing = [number for number in one.acknowledged if there[number] != 1]
            assert not missing and all(kv["version"] == "1" for kv in kvs), (instance.name, missing[:5])
        assert len(one.acknowledged) > 5
    until(lambda: set(b.members()) == set("abc"), "it is a member again")
    all_agree()


CASES = [members_are_those_that_live, clients_of_all_three_go_on_when_one_is_killed,
         a_lease_lives_as_long_as_any_instance_keeps_it_and_ends_once, a_lock_and_an_election_are_held_across_instances,
         rows_stay_while_a_live_member_is_behind, who_slept_for_longer_than_it_lives_reads_the_log_again,
         one_that_stood_still_is_neither_stale_nor_in_the_way]


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    wanted = [case for case in CASES if not sys.argv[1:] or case.__name__ in sys.argv[1:]]
    failed = 0
    try:
        for one in instances:
            one.start()
        print(f"1..{len(wanted)}", flush=True)
        for number, case in enumerate(wanted, 1):
            began = time.monotonic()
            try:
                case()
                print(f"ok {number} - {case.__name__}", flush=True)
            except Exception:  # pylint: disable=broad-except # whatever it was, the others are tried as well
                failed += 1
                print(f"not ok {number} - {case.__name__}")
                print(re.sub("^", "#   ", traceback.format_exc().rstrip(), flags=re.M), flush=True)
                for one in instances:
                    if one.process.poll() is not None:
                        one.start()
            print(f"# took {time.monotonic() - began:.1f} s", flush=True)
    finally:
        for process in children:
            if process.poll() is None:
                process.kill()
                process.wait()
        if failed:
            for one in instances:
                print(f"# ---- {one.name}.log")
                print(re.sub("^", "# ", "".join(open(f"{one.name}.log", encoding="utf-8").readlines()[-60:]), flags=re.M))
        if os.environ.get("KS_TEST_KEEP"):
            folder._finalizer.detach()  # pylint: disable=protected-access
    sys.exit(1 if failed else 0)


main()
