#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""./dev soak: traffic that never stops, while routes change, workers are killed, dpproxy reloads, and etcd is killed, restarted and compacted.
Every request that fails must be explained by what was done to its connection. Now and then all is left alone for a moment, and each worker
must then serve exactly what etcd has. See docs/dpproxy.md."""
import argparse
import base64
import http.client
import json
import os
import pathlib
import random
import re
import signal
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "lib"))


def arguments():
    parser = argparse.ArgumentParser(prog="./dev soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10 ** 6))
    parser.add_argument("--etcd", choices=("etcd", "kineshim"), default="etcd")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--routes", type=int, default=200, help="that come and go")
    return parser.parse_args()


ARGS = arguments()
os.environ["KS_STORE"] = ARGS.etcd     # the library reads it when it is loaded

from dpproxy import Etcd, Gateway, Scenario, Upstream, request, wait_for  # noqa: E402

STABLE = 20                            # routes that are changed all the time, and always there
BROKEN = (http.client.HTTPException, ConnectionError)


def b64(text):
    return base64.b64encode(text.encode()).decode()


class Events:
    """What was done when; who finds a broken connection asks here."""

    def __init__(self):
        self.lock = threading.Lock()
        self.times = {}

    def add(self, kind):
        with self.lock:
            self.times.setdefault(kind, []).append(time.monotonic())

    def between(self, kind, start, end):
        with self.lock:
            return any(start <= t <= end for t in self.times.get(kind, ()))

    def last(self, now):
        with self.lock:
            return ", ".join(f"{kind} {now - times[-1]:.2f} s ago" for kind, times in self.times.items()) or "nothing was done yet"

    def count(self, kind):
        return len(self.times.get(kind, ()))


class World:
    def __init__(self, scenario):
        self.rng = random.Random(ARGS.seed)
        self.folder, self.events = scenario.folder, Events()
        self.upstreams = [scenario.keep(Upstream()) for _ in range(2)]
        self.etcd = scenario.keep(Etcd(self.folder))
        self.gateway = scenario.keep(Gateway(self.folder, self.etcd.url, {"plugins": ["response-rewrite"]}, ARGS.workers))
        self.calm, self.end = threading.Event(), threading.Event()
        self.version, self.problems, self.refused_writes, self.reloading = 0, [], 0, False

    def problem(self, text):
        self.problems.append(text)
        print(f"PROBLEM: {text}\n", end="", flush=True)

    def route(self, name):
        self.version += 1
        return {"uri": f"/{name}", "upstream": {"nodes": self.rng.choice(self.upstreams).node},
                "plugins": {"response-rewrite": {"headers": {"set": {"X-Version": str(self.version)}}}}}

    def put(self, name):
        return self.etcd.put(f"/apisix/routes/{name}", self.route(name))


class Client(threading.Thread):
    """Asks over a connection that stays, until somebody breaks it."""

    def __init__(self, world, number):
        super().__init__(daemon=True)
        self.world, self.rng = world, random.Random(ARGS.seed * 1000 + number)
        self.connection, self.opened, self.used = None, 0, 0
        self.counts = {"200": 0, "404": 0, "broken by a kill": 0, "closed by a reload": 0}
        self.latencies = []

    def run(self):
        while not self.world.end.is_set():
            name = f"s{self.rng.randrange(STABLE)}" if self.rng.random() < 0.7 else f"v{self.rng.randrange(ARGS.routes)}"
            body = self.rng.randbytes(self.rng.choice((10, 1000, 7000, 7000, 50000))).hex() if self.rng.random() < 0.2 else None
            for attempt in range(5):
                if self.ask(name, body):
                    break
            else:
                self.world.problem(f"/{name}: five attempts, all broken")
            time.sleep(self.rng.random() * 0.01)

    # -> True unless the connection was broken by what this program did: then it is asked again
    def ask(self, name, body):
        started = time.monotonic()
        try:
            if self.connection is None:
                self.connection = http.client.HTTPConnection("127.0.0.1", self.world.gateway.port, timeout=30)
                self.opened, self.used = started, 0
            self.connection.request("POST" if body else "GET", "/" + name, body)
            answer = self.connection.getresponse()
            text = answer.read()
        except BROKEN as e:
            self.connection.close()
            self.connection = None
            return self.explained(name, e)
        except OSError as e:
            self.connection.close()
            self.connection = None
            self.world.problem(f"/{name}: {e!r} after {time.monotonic() - started:.1f} s")
            return True
        self.used += 1
        self.latencies.append(time.monotonic() - started)
        self.judge(name, body, answer.status, text)
        if self.rng.random() < 0.02:
            self.connection.close()
            self.connection = None
        return True

    def explained(self, name, e):
        events, now = self.world.events, time.monotonic()
        if events.between("worker killed", self.opened, now):
            self.counts["broken by a kill"] += 1
            return False
        # A worker that goes closes the connections on which nobody is asking; a request may be on its way. Clients ask again then.
        reloaded = self.world.reloading or events.between("reload", self.opened, now)
        if self.used > 0 and reloaded and isinstance(e, ConnectionError):
            self.counts["closed by a reload"] += 1
            return False
        self.world.problem(f"/{name}: {e!r} on a connection of {now - self.opened:.2f} s, request {self.used + 1}; {events.last(now)}")
        return True

    def judge(self, name, body, status, text):
        key = str(status)
        self.counts[key] = self.counts.get(key, 0) + 1
        if status == 404 and name.startswith("v") and b"404 Route Not Found" in text:
            return
        try:
            seen = json.loads(text)
            right = status == 200 and seen["path"] == "/" + name and seen["body"] == (body or "")
        except (ValueError, KeyError):
            right = False
        if not right:
            self.world.problem(f"/{name}: {status} {text[:200]!r}")


class Churn(threading.Thread):
    """Changes routes as fast as etcd takes it, with pauses."""

    def __init__(self, world):
        super().__init__(daemon=True)
        self.world, self.rng, self.writes, self.idle = world, random.Random(ARGS.seed + 1), 0, threading.Event()

    def run(self):
        while not self.world.end.is_set():
            if self.world.calm.is_set():
                self.idle.set()
                time.sleep(0.05)
                continue
            self.idle.clear()
            try:
                self.write()
                self.writes += 1
            except (OSError, http.client.HTTPException):   # etcd is away: nobody knows whether it was written
                self.world.refused_writes += 1
                time.sleep(0.1)
            time.sleep(self.rng.choice((0, 0, 0.002, 0.02)))

    def write(self):
        dice = self.rng.random()
        if dice < 0.3:
            self.world.put(f"s{self.rng.randrange(STABLE)}")
        elif dice < 0.7:
            self.world.put(f"v{self.rng.randrange(ARGS.routes)}")
        elif dice < 0.97:
            self.world.etcd.delete(f"/apisix/routes/v{self.rng.randrange(ARGS.routes)}")
        elif dice < 0.98:       # many at once
            names = [f"v{i}" for i in range(ARGS.routes)][:100]
            self.world.etcd.call("/v3/kv/txn", {"success": [{"requestPut": {
                "key": b64(f"/apisix/routes/{n}"), "value": b64(json.dumps(self.world.route(n)))}} for n in names]})
        else:                   # and objects that are none: the last valid ones stay
            self.world.etcd.put(f"/apisix/routes/bad{self.rng.randrange(3)}", {"uri": 5})


class Chaos:
    """One thing after the other, by the main thread."""

    def __init__(self, world):
        self.world, self.rng = world, random.Random(ARGS.seed + 2)

    def step(self):
        what = self.rng.choices((self.kill_worker, self.reload, self.restart_etcd, self.compact), (4, 2, 2, 2))[0]
        what()
        time.sleep(self.rng.uniform(0.2, 2.5))

    def kill_worker(self):
        workers = self.world.gateway.workers()
        if len(workers) >= ARGS.workers:
            # Noted on both sides: a client may see the end before we come to note it.
            self.world.events.add("worker killed")
            try:
                os.kill(self.rng.choice(workers), signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.world.events.add("worker killed")

    def reload(self):
        old = set(self.world.gateway.workers())

        def replaced():
            now = set(self.world.gateway.workers())
            return len(now - old) >= ARGS.workers and all(is_going(pid) for pid in now & old)
        self.world.reloading = True
        self.world.events.add("reload")
        self.world.gateway.process.process.send_signal(signal.SIGHUP)
        try:
            wait_for(replaced, "new workers", 30)
        except AssertionError as e:
            self.world.problem(str(e))
        time.sleep(0.5)     # they say that they go before they close
        self.world.events.add("reload")
        self.world.reloading = False

    def restart_etcd(self):
        self.world.events.add("etcd killed")
        self.world.etcd.process.stop(signal.SIGKILL)
        time.sleep(self.rng.choice((0, 0.5, 3)))
        self.world.etcd.start()

    def compact(self):
        answer = self.world.etcd.call("/v3/kv/range", {"key": b64("x"), "count_only": True})
        self.world.etcd.call("/v3/kv/compaction", {"revision": answer["header"]["revision"]})
        self.world.events.add("compaction")


def is_going(pid):
    """Takes no connections any more."""
    try:
        return b"shutting down" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True


def memory(pid):
    try:
        return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text()).group(1)) / 1024
    except (OSError, AttributeError):
        return 0


class Quiet:
    """Nothing changes for a moment: what is served must be what etcd has, and memory what it was."""

    def __init__(self, world):
        self.world, self.points, self.slowest, self.sizes = world, 0, 0, []

    def check(self, churn):
        world = self.world
        world.calm.set()
        churn.idle.wait(30)
        answer = world.etcd.call("/v3/kv/range", {"key": b64("/apisix/"), "range_end": b64("/apisix0"), "limit": 0})
        revision = int(answer["header"]["revision"])
        wanted = {}
        for kv in answer.get("kvs", []):
            name = base64.b64decode(kv["key"]).decode().rsplit("/", 1)[1]
            if not name.startswith("bad"):
                wanted[name] = json.loads(base64.b64decode(kv["value"]))["plugins"]["response-rewrite"]["headers"]["set"]["X-Version"]
        started = time.monotonic()
        try:
            wait_for(lambda: (world.gateway.metric("apisix_config_revision ") or 0) >= revision, f"revision {revision}", 30)
        except AssertionError as e:
            world.problem(f"after a quiet point: {e}")
        self.slowest = max(self.slowest, time.monotonic() - started)
        self.compare(wanted)
        self.points += 1
        self.sizes.append(max(memory(pid) for pid in world.gateway.workers()))
        if self.sizes[-1] > self.sizes[0] * 1.5 + 64:
            world.problem(f"a worker has grown from {self.sizes[0]:.0f} to {self.sizes[-1]:.0f} MiB")
        for upstream in world.upstreams:
            with upstream.lock:
                upstream.requests.clear()
        world.calm.clear()

    def compare(self, wanted):
        world, wrong = self.world, []
        shown = {r["value"]["id"] for r in request(world.gateway.control, "/v1/routes", timeout=30).json()} - {"bad0", "bad1", "bad2"}
        if shown != set(wanted):
            world.problem(f"the control API shows {len(shown)} routes, etcd has {len(wanted)}: {sorted(shown ^ set(wanted))[:5]}")
        names = [f"s{i}" for i in range(STABLE)] + [f"v{i}" for i in range(ARGS.routes)]
        for _ in range(3):      # connections of their own: by chance they come to all workers
            connection = http.client.HTTPConnection("127.0.0.1", world.gateway.port, timeout=30)
            for name in names:
                connection.request("GET", "/" + name)
                response = connection.getresponse()
                response.read()
                if (response.status, response.headers.get("X-Version")) != ((200, wanted[name]) if name in wanted else (404, None)):
                    wrong.append((name, response.status, response.headers.get("X-Version"), wanted.get(name)))
            connection.close()
        if wrong:
            world.problem(f"{len(wrong)} routes are not as etcd has them, e.g. {wrong[:3]}")


# Lines of the error level and above that are the scenario's own doing.
EXPECTED = (
    r"exited on signal 9",
    r"routes/bad\d is invalid",
    r"config: .*(etcd|watch|endpoint|history)",
    r"open socket #\d+ left in connection",      # of a worker that goes while its watch is open
)


def unexpected_lines(log):
    lines = re.findall(r"^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \[(?:error|crit|alert|emerg)\].*", log, re.M)
    return [line for line in lines if not any(re.search(e, line) for e in EXPECTED)]


def soak(world):
    for i in range(STABLE):
        world.put(f"s{i}")
    world.gateway.reached(world.put("v0"))
    clients, churn, chaos, quiet = [Client(world, i) for i in range(ARGS.clients)], Churn(world), Chaos(world), Quiet(world)
    started = time.monotonic()
    quiet_at = started + 10
    for thread in clients + [churn]:
        thread.start()
    try:
        while time.monotonic() < started + ARGS.minutes * 60:
            chaos.step()
            if time.monotonic() > quiet_at:
                quiet.check(churn)
                quiet_at = time.monotonic() + 15
        quiet.check(churn)
    finally:
        world.end.set()
        for thread in clients + [churn]:
            thread.join(60)
    for line in unexpected_lines(world.gateway.error_log())[:20]:
        world.problem("in the log: " + line[:400])
    report(world, clients, churn, quiet, time.monotonic() - started)


def report(world, clients, churn, quiet, seconds):
    counts, latencies = {}, sorted(x for client in clients for x in client.latencies)
    for client in clients:
        for key, n in client.counts.items():
            counts[key] = counts.get(key, 0) + n
    print(f"seed {ARGS.seed}, {ARGS.etcd}, {seconds:.0f} s, {ARGS.clients} clients, {ARGS.workers} workers")
    print("requests: " + ", ".join(f"{n} {key}" for key, n in sorted(counts.items())))
    print("time of a request: " + ", ".join(f"p{p} {latencies[int(len(latencies) * p / 100)] * 1000:.0f} ms" for p in (50, 99))
          + f", longest {latencies[-1] * 1000:.0f} ms")
    print(f"routes: {churn.writes} changes, {world.refused_writes} while etcd was away")
    print(f"done: {world.events.count('worker killed') // 2} workers killed, {world.events.count('reload') // 2} reloads, "
          f"{world.events.count('etcd killed')} kills of etcd, {world.events.count('compaction')} compactions")
    print(f"quiet points: {quiet.points}, in step after at most {quiet.slowest:.2f} s; "
          f"MiB of the largest worker: first {quiet.sizes[0]:.0f}, last {quiet.sizes[-1]:.0f}, most {max(quiet.sizes):.0f}")
    print(f"{len(world.problems)} problems", flush=True)


def main():
    print(f"seed {ARGS.seed}", flush=True)
    scenario, code = Scenario(), 1
    try:
        world = World(scenario)
        soak(world)
        code = scenario.failed = 1 if world.problems else 0
    except BaseException:
        scenario.failed = 1
        raise
    finally:
        scenario.finish()
    sys.exit(code)


if __name__ == "__main__":
    main()
