#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Bad days of a control plane, a machine and its disk, each with real processes; with an etcd above, then with a kineshim. Certificates are in
program.py, object storage in object.py."""
import json
import os
import shutil
import signal
import socket
import time

import harness
import showpiece
from harness import Watch, request, wait_for

ROUTES = "/apisix/routes/"


def fill(store, count, first=0, text="x"):
    """Routes in transactions of 100."""
    for at in range(first, first + count, 100):
        store.txn([], [{"request_put": {"key": harness.b64(f"{ROUTES}{i:06}"), "value": harness.b64(f"{text}{i}")}}
                       for i in range(at, min(at + 100, first + count))])


def same(agent, store):
    """Is what the agent serves what is above, number by number?"""
    return agent.kvs("/apisix") == store.kvs("/apisix")


def wait_same(agent, store, seconds=20):
    wait_for(lambda: same(agent, store), "the agent to equal its upstream", seconds)


def away_url():
    """Where nobody listens."""
    return f"http://127.0.0.1:{harness.free_port()}"


def the_control_plane_is_killed(s):
    store = s.store()
    fill(store, 50)
    agent = s.agent(store.url)
    watch = Watch(agent.port).created()
    before = agent.kvs("/apisix")
    store.kill()
    agent.wait_connected(False)
    assert agent.kvs("/apisix") == before
    ready, report = agent.ready()
    assert ready and report["source"] == "upstream" and not report["connected"], report
    time.sleep(1.2)
    assert agent.ready()[1]["age_seconds"] >= 1, agent.ready()
    assert not watch.ended and watch.canceled is None
    store.start()
    agent.wait_connected()
    store.put(ROUTES + "new", "1")
    assert watch.wait(1)[0][:3] == ("put", ROUTES + "new", "1")
    assert same(agent, store)
    watch.stop()


def the_database_is_killed(s):
    """Under a kineshim that lives: it accepts connections, and cannot say anything."""
    database = s.keep(showpiece.Postgres())
    store = s.store(kind="kineshim", args=["--endpoint", database.url])
    fill(store, 20)
    agent = s.agent(store.url, start_timeout="500ms")
    agent.wait_saved()
    watch = Watch(agent.port).created()
    before, revision = agent.kvs("/apisix"), agent.revision()
    database.kill()
    status, answer = store.post("/v3/kv/put", {"key": harness.b64(ROUTES + "lost"), "value": harness.b64("1")}, timeout=60)
    assert status != 200, answer
    assert agent.kvs("/apisix") == before and agent.ready()[0]
    agent.wait_connected(False)
    agent.restart(signal.SIGKILL)
    assert agent.kvs("/apisix") == before and agent.revision() == revision
    later = Watch(agent.port, start=revision + 1).created()
    database.start()
    wait_for(lambda: store.post("/v3/kv/put", {"key": harness.b64(ROUTES + "new"), "value": harness.b64("1")}, timeout=60)[0] == 200,
             "the database to be back", 60)
    agent.wait_value(ROUTES + "new", "1", 30)
    assert later.wait(1)[0][:2] == ("put", ROUTES + "new") and later.canceled is None
    wait_same(agent, store)
    watch.stop()
    later.stop()


def the_machine_reboots_without_network(s):
    store = s.store()
    fill(store, 50)
    agent = s.agent(store.url, start_timeout="300ms")
    before, revision = agent.kvs("/apisix"), agent.revision()
    agent.wait_saved()
    agent.kill()
    store.stop()
    agent.start()
    ready, report = agent.ready()
    assert ready and report["source"] == "disk", report
    assert agent.kvs("/apisix") == before and agent.revision() == revision
    # A client that survived it goes on from where it was.
    watch = Watch(agent.port, start=revision + 1).created()
    store.start()
    agent.wait_source("upstream", True)
    written = store.put(ROUTES + "000001", "changed")
    assert watch.wait(1) == [("put", ROUTES + "000001", "changed", written)], watch.events
    assert same(agent, store)
    watch.stop()


def everything_stays_away_for_two_restarts(s):
    store = s.store()
    fill(store, 20)
    agent = s.agent(store.url, start_timeout="200ms")
    before = agent.kvs("/apisix")
    agent.wait_saved()
    store.stop()
    for sig in (signal.SIGTERM, signal.SIGKILL):
        agent.restart(sig)
        assert agent.ready()[1]["source"] == "disk"
        assert agent.kvs("/apisix") == before


def it_is_killed_while_it_saves(s):
    """At whatever moment: what is on disk is whole, and nothing that a client saw is newer than what it gets in the end."""
    store = s.store()
    fill(store, 500)
    agent = s.agent(store.url, start_timeout="100ms")
    writing = harness.threading.Event()

    def write():
        for i in range(1 << 30):
            if writing.is_set():
                return
            store.put(f"{ROUTES}{i % 500:06}", os.urandom(100).hex())

    writer = harness.threading.Thread(target=write)
    writer.start()
    seen = 0
    try:
        for i in range(12):
            wrote = agent.status()["snapshot"]["writes"]
            wait_for(lambda: agent.status()["snapshot"]["writes"] > wrote + i % 4, "images")
            seen = max(seen, agent.revision())
            agent.kill()
            agent.start()
            assert "disk_invalid" not in agent.alarms(), agent.alarms()
            agent.wait_revision(seen)
    finally:
        writing.set()
        writer.join()
    wait_same(agent, store)
    store.stop()
    agent.kill()
    agent.start()
    assert agent.ready()[1]["source"] == "disk" and len(agent.prefix(ROUTES)) == 500 and not agent.alarms()


def the_disk_is_full(s):
    store = s.store()
    agent = s.agent(store.url)
    fill(store, 10)
    wait_same(agent, store)
    agent.wait_saved()
    agent.stop()
    # As a file system that has no room: no file can grow beyond 64 KiB, and what is written does not compress.
    agent.args = ["sh", "-c", 'trap "" XFSZ; ulimit -f 128; exec "$@"', "sh", *agent.args]
    agent.start()
    for i in range(20):
        store.put(f"{ROUTES}big{i}", os.urandom(6000).hex())
    agent.wait_alarm("disk_write")
    assert agent.status()["snapshot"]["failures"] >= 1
    wait_same(agent, store)     # it serves on
    store.delete(ROUTES + "big", ROUTES + "bih")
    agent.wait_alarm("disk_write", on=False, seconds=40)
    agent.wait_saved()
    store.stop()
    agent.restart(signal.SIGKILL)
    assert agent.ready()[1]["source"] == "disk"
    assert len(agent.prefix(ROUTES)) == 10


def snapshots(agent):
    return agent.data / "last-known-good.snap", agent.data / "last-known-good.1.snap"


def two_generations(s):
    """An agent that was stopped after it saved two states; upstream is gone. Only the second has the key 'second'."""
    store = s.store()
    agent = s.agent(store.url, start_timeout="200ms")
    store.put(ROUTES + "first", "1")
    agent.wait_value(ROUTES + "first", "1")
    agent.wait_saved()
    store.put(ROUTES + "second", "2")
    agent.wait_value(ROUTES + "second", "2")
    agent.wait_saved()
    agent.kill()
    store.stop()
    return agent


def a_truncated_image(s):
    agent = two_generations(s)
    newest, _ = snapshots(agent)
    newest.write_bytes(newest.read_bytes()[:-7])
    agent.start()
    assert agent.get(ROUTES + "first") == "1" and agent.get(ROUTES + "second") is None
    assert "disk_invalid" in agent.alarms()
    assert agent.metric('dpagent_alarm{alarm="disk_invalid"}') == 1


def a_tampered_image(s):
    agent = two_generations(s)
    newest, _ = snapshots(agent)
    image = bytearray(newest.read_bytes())
    image[len(image) // 2] ^= 1
    newest.write_bytes(bytes(image))
    agent.start()
    assert agent.get(ROUTES + "first") == "1" and agent.get(ROUTES + "second") is None
    assert "disk_invalid" in agent.alarms()


def both_images_are_damaged(s):
    agent = two_generations(s)
    for file in snapshots(agent):
        file.write_bytes(b"nonsense")
    agent.start(wait="listening")
    assert not agent.ready()[0] and agent.ready()[1]["source"] == "none"
    assert "disk_invalid" in agent.alarms()
    status, answer = agent.post("/v3/kv/range", {"key": harness.b64(ROUTES), "serializable": True})
    assert status == 503, (status, answer)


def the_clock_jumps(s):
    """A day back and a day ahead: ages are never negative, the newest state is served, and watches go on."""
    store = s.store()
    fill(store, 20)
    agent = s.agent(store.url, start_timeout="200ms")
    agent.wait_saved()
    store.stop()
    for offset in (-86_400_000, 86_400_000):
        agent.env["DPAGENT_TEST_CLOCK_OFFSET_MS"] = str(offset)
        agent.restart(signal.SIGKILL)
        report = agent.ready()[1]
        assert report["source"] == "disk" and report["age_seconds"] >= 0, report
    store.start()
    agent.wait_source("upstream", True)
    fill(store, 5, 100)
    wait_same(agent, store)


def the_clock_jumps_while_it_runs(s):
    store = s.store()
    fill(store, 20)
    clock = s.folder / "clock"
    clock.write_text("0")
    agent = s.agent(store.url, env={"DPAGENT_TEST_CLOCK_OFFSET_MS": str(clock)})
    watch = Watch(agent.port).created()
    for round_, offset in enumerate((-86_400_000, 86_400_000, 0)):
        clock.write_text(str(offset))
        report = agent.ready()[1]
        assert report["source"] == "upstream" and report["connected"] and report["age_seconds"] >= 0, report
        store.put(f"{ROUTES}jump{round_}", "1")
        watch.wait(round_ + 1)
        # Confirmed by the new clock, and saved as ever.
        assert agent.ready()[1]["age_seconds"] < 60, agent.ready()
        agent.wait_saved()
    assert watch.canceled is None and not agent.alarms(), agent.alarms()
    assert same(agent, store)
    watch.stop()
    # The newest one is what counts, though its time is not the latest.
    store.stop()
    agent.restart(signal.SIGKILL)
    assert agent.get(ROUTES + "jump2") == "1"


def upstream_compacts_while_we_are_away(s):
    store = s.store()
    fill(store, 100)
    relay = s.keep(Relay(store.port))
    agent = s.agent(f"http://127.0.0.1:{relay.port}")
    watch = Watch(agent.port).created()
    relay.cut()
    agent.wait_connected(False)
    fill(store, 30, 50, "changed")
    store.delete(ROUTES + "000003")
    store.put(ROUTES + "new", "1")
    store.compact(store.revision())
    relay.mend()
    agent.wait_connected()
    wait_same(agent, store)
    # 50 of the 30 were there, and one is gone, one is new: a client that follows has the same, without a full load.
    seen = {(kind, key): value for kind, key, value, _ in watch.wait(32)}
    assert len(watch.events) == 32 and seen[("delete", ROUTES + "000003")] == "" and seen[("put", ROUTES + "new")] == "1"
    assert watch.canceled is None
    watch.stop()


def upstream_is_restored_to_the_past(s):
    store = s.store()
    fill(store, 20)
    store.stop()
    shutil.copytree(store.data, s.folder / "backup")
    store.start()
    agent = s.agent(store.url)
    fill(store, 20, 100, "later")
    store.put(ROUTES + "000001", "later")
    wait_same(agent, store)
    watch = Watch(agent.port).created()
    before = agent.revision()
    store.kill()
    shutil.rmtree(store.data)
    shutil.move(s.folder / "backup", store.data)
    store.start()
    store.put(ROUTES + "after", "1")
    wait_for(lambda: {k: v for k, (v, _) in agent.prefix("/apisix").items()}
             == {k: v for k, (v, _) in store.prefix("/apisix").items()}, "the restored state")
    assert agent.revision() > before, "a revision went back"
    events = watch.wait(22)
    assert all(revision > before for *_, revision in events), events
    assert ("put", ROUTES + "000001", "x1") in [e[:3] for e in events]
    assert sum(e[0] == "delete" for e in events) == 20 and len(events) == 22, events
    assert watch.canceled is None
    watch.stop()


def upstream_comes_back_empty(s):
    store = s.store()
    fill(store, 20)
    agent = s.agent(store.url)
    before = {k: v for k, (v, _) in agent.prefix("/apisix").items()}
    store.kill()
    shutil.rmtree(store.data)
    store.start()
    agent.wait_alarm("held", seconds=20)
    assert {k: v for k, (v, _) in agent.prefix("/apisix").items()} == before
    assert agent.ready()[0]
    store.put("/apisix/routes/", "init_dir")     # APISIX's marker is no configuration
    time.sleep(0.5)
    assert {k: v for k, (v, _) in agent.prefix("/apisix").items()} == before
    fill(store, 3)
    agent.wait_alarm("held", on=False)
    wait_for(lambda: len(agent.prefix(ROUTES)) == 4, "the new configuration")


def ten_thousand_keys_at_once(s):
    store = s.store()
    agent = s.agent(store.url)
    watch = Watch(agent.port).created()
    fill(store, 10_000)
    watch.wait(10_000, 60)
    deleted = store.delete_prefix(ROUTES)
    watch.wait(20_000, 60)
    assert len(watch.events) == 20_000 and watch.canceled is None
    assert watch.events[-1][3] == deleted, watch.events[-1]
    assert agent.prefix("/apisix") == {} and agent.revision() >= deleted
    watch.stop()


def a_client_that_never_reads(s):
    store = s.store()
    agent = s.agent(store.url)
    stuck = []
    for _ in range(5):
        deaf = socket.create_connection(("127.0.0.1", agent.port))
        body = json.dumps({"create_request": {"key": harness.b64("/apisix"), "range_end": harness.b64("/apisiy")}}).encode()
        deaf.sendall(b"POST /v3/watch HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        stuck.append(deaf)
    watch = Watch(agent.port).created()
    value = "v" * 20_000
    for i in range(1500):
        store.put(f"{ROUTES}{i % 50}", value)
    watch.wait(1500, 30)
    # Sanitizers need memory for themselves.
    assert agent.memory() < (660 if os.environ.get("KS_TEST_SLOW") else 220) * 1024 * 1024, agent.memory()
    for deaf in stuck:
        deaf.close()
    watch.stop()


def agents_in_a_chain(s):
    store = s.store()
    fill(store, 10)
    first = s.agent(store.url, start_timeout="300ms")
    second = s.agent(first.url)
    watch = Watch(second.port).created()
    store.put(ROUTES + "000001", "new")
    watch.wait(1)
    assert same(second, store)
    store.kill()
    first.wait_connected(False)
    assert second.status()["connected"]
    first.restart()
    wait_for(lambda: second.status()["connected"], "the second to be connected again")
    assert first.ready()[1]["source"] == "disk"
    store.start()
    first.wait_connected()
    store.put(ROUTES + "000002", "newer")
    assert watch.wait(2)[-1][:3] == ("put", ROUTES + "000002", "newer")
    assert watch.canceled is None and len(watch.events) == 2
    watch.stop()


def many_watch_below_and_one_above(s):
    store = s.store()
    agent = s.agent(store.url)
    watches = [Watch(agent.port).created() for _ in range(40)]
    fill(store, 10)
    for watch in watches:
        watch.wait(10)
    text = request(store.port, "/metrics").body.decode()
    above = [float(line.split()[-1]) for line in text.splitlines() if line.startswith("etcd_debugging_mvcc_watcher_total ")]
    assert above == [1.0], above


class Relay:
    """Between the agent and its upstream: cut() breaks what there is and refuses what comes."""

    def __init__(self, port):
        self.to, self.open, self.pairs = port, True, []
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        harness.threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                here, _ = self.server.accept()
            except OSError:
                return
            if not self.open:
                here.close()
                continue
            there = socket.create_connection(("127.0.0.1", self.to))
            self.pairs += [here, there]
            for a, b in ((here, there), (there, here)):
                harness.threading.Thread(target=self.pump, args=(a, b), daemon=True).start()

    @staticmethod
    def pump(a, b):
        try:
            while data := a.recv(65536):
                b.sendall(data)
        except OSError:
            pass
        for end in (a, b):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        self.open = False
        for end in self.pairs:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.pairs = []

    def mend(self):
        self.open = True

    def stop(self):
        self.cut()
        self.server.close()


# What is between the agent and its upstream is tried with both kinds; what is between it and its disk needs no second time.
UPSTREAM = [the_control_plane_is_killed, the_machine_reboots_without_network, upstream_compacts_while_we_are_away,
            upstream_is_restored_to_the_past, upstream_comes_back_empty, ten_thousand_keys_at_once, agents_in_a_chain,
            many_watch_below_and_one_above]
MACHINE = [everything_stays_away_for_two_restarts, it_is_killed_while_it_saves, the_disk_is_full, a_truncated_image, a_tampered_image,
           both_images_are_damaged, the_clock_jumps, the_clock_jumps_while_it_runs, a_client_that_never_reads]

DATABASE = [the_database_is_killed] if showpiece.Postgres.is_there() else []

if __name__ == "__main__":
    harness.main(UPSTREAM + (MACHINE if harness.dpproxy.STORE == "etcd" else DATABASE), both=True)
