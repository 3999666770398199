#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How costs grow: with keys, watchers and connections, as curves, on etcd and on kineshim, in turns; and what grows faster than it must.

growth.py [--targets TARGET,…] [--only CURVE,…] [--seconds S] [--rounds N] [--most-keys N] [--most-watchers N] [--most-connections N]
          [--value-cache-bytes SIZE] [--tolerance T] [--write PAGE] [--output FOLDER] [--from FILE]

Each point is a measurement of --seconds on one target, its server started for it alone; then comes the next target. Processor time is
that of all threads of the server, by the kernel's clock of the process, and of the database's processes apart. curves.py has the bounds and judges.
--write puts tables into the page, and plots and raw numbers beside it; --output writes the raw numbers to FOLDER/growth.jsonl; --from FILE
makes tables and plots of such numbers again, without measuring. Exit status 1: a measurement failed."""
import argparse
import datetime
import json
import pathlib
import re
import resource
import subprocess
import sys
import threading
import time

import curves
from pages import command_line, machine, must_know, put_raw, put_section, words
from targets import KINESHIM, NOT_KINE, Targets, database_of, database_versions, harness, note, version_of

INFLIGHT = 64
PAGE = 500
REMOVED = 10000         # revisions, of a compaction
KEYS_BESIDE = 1000      # in the store while watchers or connections are counted
FILES_PER_CONNECTION = 5
WARMUP = 0.3


class Growth(Targets):
    def __init__(self, options):
        super().__init__(options.targets)
        self.options, self.points, self.failed = options, [], False
        self.patience = 3600
        if options.value_cache_bytes:
            self.kineshim_flags = ["--value-cache-bytes", options.value_cache_bytes]

    # ---- the load, and what the server uses meanwhile ----

    def pids(self, target):
        database = self.databases.get(target)
        return ",".join(str(pid) for pid in [self.running[target].pid] + (database.pids() if database else []))

    def load(self, target, command, **flags):
        return self.bench(target, command, seconds=self.options.seconds, warmup=WARMUP, server=self.pids(target), **flags)

    def memory(self, target):
        status = pathlib.Path(f"/proc/{self.running[target].pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) / 1024

    def timed_start(self, target):
        began = time.monotonic()
        self.start(target, 600)
        return time.monotonic() - began

    # ---- keys ----

    def keys(self, target, count, before):
        """Up to 'before' keys are there. Ends with the server stopped."""
        if before:
            self.start(target, 600)
        else:
            self.fresh(target)
        self.bench(target, "load", keys=count, **({"from": before} if before else {}))
        time.sleep(1)   # so that freed memory can go back
        values = {"memory": self.memory(target), "disk": self.size(target, written=False) / 1048576}   # a checkpoint would make the next puts dearer
        # Calls meet a server that was started with its keys: after such a load each read of etcd 3.4 copies a buffer as large as the load's bursts.
        self.stop(target)
        if target in self.databases:
            self.databases[target].settle(database_of(target))
        values["start"] = self.timed_start(target)
        self.calls(target, count, values)
        self.compaction(target, count, values)
        self.stop(target)
        return values

    def calls(self, target, count, values):
        many = self.load(target, "put", inflight=INFLIGHT, clients=2, keys=count)
        values.update(put64_rate=many["per_second"], put64_cpu=many["server_cpu_us"])
        if target in self.databases:
            values["put64_db"] = many["database_cpu_us"]
        one = self.load(target, "put", inflight=1, clients=1, keys=count)["latency_us"]
        values.update(put1_p50=one["p50"], put1_p99=one["p99"])
        get = self.load(target, "get", filled=True, inflight=INFLIGHT, clients=2, keys=count)
        values.update(get_rate=get["per_second"], get_cpu=get["server_cpu_us"])
        page = self.load(target, "page", filled=True, inflight=4, clients=2, keys=count, page=PAGE)
        values.update(page_cpu=page["server_cpu_us"], page_p50=page["latency_us"]["p50"])
        event = self.load(target, "watch", watchers=1, clients=2, inflight=1)["latency_us"]
        values.update(event_p50=event["p50"], event_p99=event["p99"])

    def compaction(self, target, count, values):
        """Of so many revisions that were overwritten, whatever came before them; one client goes on putting."""
        client = harness.Client(self.ports[target], timeout=600)

        def compact():
            revision = client.range("bench/")["header"]["revision"]
            began = time.monotonic()
            client.call("/v3/kv/compaction", {"revision": revision, "physical": True})
            return time.monotonic() - began
        compact()
        for _ in range(max(1, REMOVED // count)):
            self.bench(target, "load", keys=min(count, REMOVED))
        stalls, over = [], threading.Event()

        def put():
            while not over.is_set():
                stalls.append(self.bench(target, "put", inflight=1, clients=1, keys=count, seconds=0.5, warmup=0.1)["latency_us"]["max"] / 1000)
        writer = threading.Thread(target=put)
        writer.start()
        try:
            time.sleep(0.25)   # it has connected
            values["compaction"] = compact()
        finally:
            over.set()
            writer.join()
        values["stall"] = max(stalls)

    # ---- watchers, connections: each point on a server that was just started, so that all memory is theirs ----

    def again(self, target, first):
        if first:
            self.fresh(target)
            self.bench(target, "load", keys=KEYS_BESIDE)
        else:
            self.start(target)

    def watch(self, target, count, before, **flags):
        self.again(target, not before)
        found = self.load(target, "watch", watchers=count, clients=3, inflight=1, **flags)
        self.stop(target)
        return {"put_cpu": found["server_cpu_us"], "put_rate": found["puts_per_second"], "events": found["per_second"],
                "event_p99": found["latency_us"]["p99"], "memory": mib(found["rss_kib"]), "created": found["created_seconds"]}

    def watched(self, target, count, before):
        return self.watch(target, count, before)

    def beside(self, target, count, before):
        return self.watch(target, count, before, own_keys=True)

    def connections(self, target, count, before):
        self.again(target, not before)
        found = self.load(target, "get", filled=True, rotate=True, clients=count, inflight=INFLIGHT, keys=KEYS_BESIDE)
        self.stop(target)
        return {"get_rate": found["per_second"], "get_cpu": found["server_cpu_us"], "memory": mib(found["rss_kib"]),
                "connect": found["connect_seconds"], "connect_cpu": found["connect_server_cpu_us"]}

    # ---- all of them ----

    def run(self):
        sizes = {"keys": decades(1000, self.options.most_keys), "watched": decades(1, self.options.most_watchers),
                 "beside": decades(1, self.options.most_watchers),
                 "connections": [n for n in (1, 10, 100, 500, 1000, 2000, 4000) if n <= self.options.most_connections]}
        for round_number in range(self.options.rounds):
            for curve in curves.CURVES:
                if not self.options.only or curve.name in self.options.only:
                    self.curve(curve, sizes[curve.name], round_number)

    def curve(self, curve, sizes, round_number):
        out = set()   # targets that failed
        for before, size in zip([0] + sizes, sizes):
            for target in [t for t in self.targets if t not in out]:
                note(f"{size:,} {curve.x} ({curve.name}) on {target}")
                try:
                    values = getattr(self, curve.name)(target, size, before)
                    self.points.append({"curve": curve.name, "x": size, "target": target, "round": round_number, "values": values})
                except (RuntimeError, OSError, AssertionError, subprocess.TimeoutExpired) as e:
                    note(f"{size} {curve.x} on {target} failed: {e}")
                    self.failed = True
                    out.add(target)
                    self.stop(target)


def mib(kib):
    return max(0, kib[1] - kib[0]) / 1024


def decades(first, most):
    found = []
    while first <= most:
        found.append(first)
        first *= 10
    return found


def allow_files(options):
    """Raises the limit of open files, which all programs inherit; has less connections where that is not enough."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < options.most_connections * FILES_PER_CONNECTION + 200:
        options.most_connections = max(1, (hard - 200) // FILES_PER_CONNECTION)
        note(f"ulimit -Hn {hard} is enough for {options.most_connections} connections only")


# ---- what comes of it ----

INTRO = """What a thing costs when there is more of it. *A decade* is how many times as much it costs with ten times as many, over the last two decades;
✗ where that is more than its bound allows, by a factor of {factor:.2f} a decade or more. n: keys, w: watchers, c: connections. sqlite and postgres are
kineshim; processor time is the server's alone, that of PostgreSQL has a line of its own. Rates and latencies are those of
closed loops that share the cores with the server. In parentheses what one key, watcher or connection costs. Keys are of 32 bytes, with values of
100; etcd's size on disk has its write-ahead log (64 MB at a time), SQLite's has too (10 MB), PostgreSQL's has not. Between the load of the keys and the calls
PostgreSQL vacuums and makes a checkpoint, which it would else do beside the calls: its autovacuum made a put of 10,000,000 keys look twice as dear."""


def facts(options, targets):
    versions = ["etcd " + version_of(["etcd", "--version"], r"etcd Version: (\S+)"), version_of([KINESHIM, "--version"], r"(kineshim Version: \S+)"),
                *database_versions(targets)]
    return f"{datetime.date.today()}, {machine()}; {', '.join(versions)}. Made by `{options.line}`."


def section(points, targets, options):
    lines = ["## Growth", "", INTRO.format(factor=10 ** options.tolerance), ""]
    for curve in curves.CURVES:
        if any(point["curve"] == curve.name for point in points):
            lines += [f"### {curve.title}", "", f"![{curve.title}: costs as curves]({svg_name(curve)})", "",
                      *curves.table(points, curve, targets, options.tolerance), "", *([curve.remark, ""] if curve.remark else [])]
    broken = curves.broken(points, targets, options.tolerance)
    return lines + ["### What grows faster than it must", "", *(broken or ["Nothing, in this run."]), ""]


def svg_name(curve):
    return f"benchmarks-growth-{curve.name}.svg"


def raw(points, facts_line):
    """What --from takes."""
    return [{"facts": facts_line}, *points]


def report(points, targets, options, facts_line):
    lines = section(points, targets, options) + [facts_line]
    print("\n".join(lines))
    if options.write:
        lines[-1] += " " + put_raw(options.write, "growth", raw(points, facts_line))
        put_section(options.write, "growth", lines)
        for curve in curves.CURVES:
            if any(point["curve"] == curve.name for point in points):
                curves.plot(points, curve, targets, options.tolerance).write(pathlib.Path(options.write).with_name(svg_name(curve)))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=words, default=["etcd", "sqlite", "postgres"])
    parser.add_argument("--only", type=words, default=[], help="curves: " + ", ".join(curve.name for curve in curves.CURVES))
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--most-keys", type=int, default=10 ** 6, help="10000000 takes minutes and gigabytes more")
    parser.add_argument("--most-watchers", type=int, default=10 ** 4)
    parser.add_argument("--most-connections", type=int, default=2000)
    parser.add_argument("--value-cache-bytes", metavar="SIZE", help="of kineshim")
    parser.add_argument("--tolerance", type=float, default=curves.TOLERANCE, help="of an exponent")
    parser.add_argument("--write", metavar="PAGE")
    parser.add_argument("--output", metavar="FOLDER")
    parser.add_argument("--from", dest="source", metavar="FILE")
    options = parser.parse_args()
    must_know(parser, "target", options.targets, NOT_KINE)
    must_know(parser, "curve", options.only, [curve.name for curve in curves.CURVES])
    options.line = command_line("growth")
    return options


def keep(points, facts_line, folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "growth.jsonl").write_text("".join(json.dumps(record) + "\n" for record in raw(points, facts_line)))


def main():
    options = arguments()
    if options.source:
        first, *points = [json.loads(line) for line in pathlib.Path(options.source).read_text().splitlines()]
        report(points, list(dict.fromkeys(point["target"] for point in points)), options, first["facts"])
        return
    allow_files(options)
    began = time.monotonic()
    growth = Growth(options)
    try:
        growth.run()
    finally:
        growth.end()
    facts_line = facts(options, growth.targets) + f" It took {(time.monotonic() - began) / 60:.0f} minutes."
    if options.output:
        keep(growth.points, facts_line, options.output)
    report(growth.points, growth.targets, options, facts_line)
    if growth.failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
