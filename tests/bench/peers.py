#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kineshim beside etcd and kine, each with the same load on the same machine, disk and databases, in turns.

peers.py [--rounds N] [--seconds S] [--only ROW,…] [--targets TARGET,…] [--million N] [--write FILE] [--output FOLDER]

Targets: etcd (Debian's), etcd-new (the newest release), and sqlite, postgres, mariadb both as kineshim and as kine-*. etcd-new and kine are built
from the Go module registry into KS_PEERS (default: build/peers); where that cannot be they are left out with a notice. Each row starts
with fresh stores. Rounds are interleaved; a ratio is the median of the rounds' own ratios, so that a slow moment of the machine meets both sides.
With --write the table goes to the page of figures between its marks, with a chart and the raw numbers beside it; with --output raw numbers go to
FOLDER/peers.jsonl."""
import argparse
import datetime
import json
import math
import pathlib
import re
import statistics
import subprocess
import sys
import time

import h2load
from pages import Svg, command_line, machine, must_know, put_raw, put_section, words
from targets import ALL, BENCH, DATABASES, DELAY, KINES, KINESHIM, NOT_KINE, SYNCED, TOP, Targets, database_of, database_versions, harness, note, version_of

BYTES_PUTS = 100000
# Where nothing is written, or the writer is not what is measured, it makes no difference when kine syncs.
BUT_SYNCED = tuple(t for t in ALL if t != SYNCED)

NO_GOAL = 0   # but compared
# name, title, unit, is more better, goals over etcd and over kine on the same database (None: not compared)
ROWS = [
    ("create-1", "create in Kubernetes' shape, 1 client", "/s", True, 0.9, 2),
    ("update-1", "update in Kubernetes' shape, 1 client", "/s", True, 0.9, 2),
    ("create-512", "create in Kubernetes' shape, 512 in flight", "/s", True, 1.2, 15),
    ("update-512", "update in Kubernetes' shape, 512 in flight", "/s", True, 1.2, 15),
    ("delete-1", "delete in Kubernetes' shape, each after a create, 1 client", "/s", True, NO_GOAL, NO_GOAL),
    ("delete-512", "delete in Kubernetes' shape, each after a create, 512 in flight", "/s", True, NO_GOAL, NO_GOAL),
    ("put-512", "put of 256 bytes, 512 in flight (h2load)", "/s", True, 1.2, None),
    ("get-512", "linearizable get, 512 in flight (h2load)", "/s", True, 2, 10),
    ("list", "list of 10,000 keys, at once", "/s", True, 1.5, 10),
    ("list-500", "list of 10,000 keys, pages of 500", "/s", True, 1.5, 10),
    ("watch-1000", "1 writer, 1,000 watchers: events", "/s", True, 3, 10),
    ("streams", "10,000 watch streams, a key each: put to event, p99", "ms", False, 0.7, 0.1),
    ("leases", "100,000 leases kept alive: processor", "cores", False, 0.5, None),
    ("json-range", "JSON gateway, range of 100 keys", "/s", True, 3, None),
    ("json-watch", "JSON gateway, 100 watchers: events", "/s", True, 3, None),
    ("memory", "resident memory, 1,000,000 keys", "MiB", False, 0.6, None),
    ("start", "start with 1,000,000 keys", "s", False, 1, None),
    ("bytes", "bytes in the database per put of 100 bytes", "B", False, None, 0.5),
]


class Peers(Targets):
    def __init__(self, options):
        super().__init__(options.targets)
        self.options, self.results = options, []

    def end(self):
        for kind in list(self.relays):
            self.through_delay(kind, 0)
        super().end()

    # ---- measuring ----

    def keep(self, name, target, round_number, value):
        self.results.append({"row": name, "target": target, "round": round_number, "value": value})

    def compare(self, name, targets, measure, fresh=True):
        """measure(target) -> the value; on each target in turns."""
        if self.options.only and name not in self.options.only:
            return
        note(name)
        there = [t for t in self.targets if t in targets]
        if fresh:
            for target in there:
                self.fresh(target)
        for round_number in range(self.options.rounds):
            for target in there:
                try:
                    self.keep(name, target, round_number, measure(target))
                except (RuntimeError, subprocess.TimeoutExpired) as e:
                    note(f"{name} on {target} failed: {e}")
        for target in there:
            self.stop(target)

    def rate(self, command, **flags):
        return lambda target: self.bench(target, command, seconds=self.options.seconds, **flags)["per_second"]

    def leases(self, target):
        args = [BENCH, "leases", "--endpoint", f"127.0.0.1:{self.ports[target]}", "--keys", str(self.options.leases), "--ttl", "60",
                "--clients", "4", "--seconds", "10"]
        process = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for line in process.stderr:
            if line.startswith("renewing"):
                break
        before, began = self.cpu(target), time.monotonic()
        out = process.stdout.read()
        seconds, after = time.monotonic() - began, self.cpu(target)
        if process.wait() != 0:
            raise RuntimeError(out + process.stderr.read())
        # Processor time is compared at one rate, that of the clients: a server that cannot keep up would look cheap.
        rate, wanted = json.loads(out)["per_second"], self.options.leases / 20
        if rate < 0.9 * wanted:
            raise RuntimeError(f"only {rate:.0f} of {wanted:.0f} keepalives a second were answered")
        return (after - before) / seconds

    def json_range(self, target):
        client = harness.Client(self.ports[target])
        for i in range(100):
            client.put(f"/json/{i:03}", "v" * 100)
        body = self.folder / "range.json"
        body.write_text(json.dumps({"key": harness.b64("/json/"), "range_end": harness.b64("/json0"), "serializable": True}))
        done = subprocess.run(["h2load", "--h1", "-c", "32", "-t", "1", "-D", f"{self.options.seconds * 1000:.0f}ms", "-d", str(body),
                               f"http://127.0.0.1:{self.ports[target]}/v3/kv/range"], capture_output=True, text=True, timeout=120)
        found = re.search(r"finished in [\d.]+m?s, ([\d.]+) req/s", done.stdout)
        codes = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", done.stdout)
        if not found or not codes or any(int(n) for n in codes.groups()[1:]):
            raise RuntimeError(f"h2load: {done.stdout[-500:]}{done.stderr[-200:]}")
        return float(found.group(1))

    def million(self):
        if self.options.only and not {"memory", "start"} & set(self.options.only):
            return
        for round_number in range(max(1, self.options.rounds // 2)):
            for target in [t for t in self.targets if t in NOT_KINE]:
                note(f"{self.options.million:,} keys on {target}")
                try:
                    self.fresh(target)
                    self.bench(target, "load", keys=self.options.million)
                    time.sleep(5)   # so that freed memory can go back
                    status = pathlib.Path(f"/proc/{self.running[target].pid}/status").read_text()
                    self.keep("memory", target, round_number, int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) / 1024)
                    self.stop(target)
                    began = time.monotonic()
                    self.start(target)
                    self.keep("start", target, round_number, time.monotonic() - began)
                except (RuntimeError, AssertionError, subprocess.TimeoutExpired) as e:
                    note(f"{self.options.million} keys on {target} failed: {e}")
                self.stop(target)

    def through_delay(self, kind, ms):
        """From now on kineshim's way to that database takes so much longer; 0: no longer."""
        old = self.relays.pop(kind, None)
        if old:
            old[1].kill()
            old[1].wait()
        if ms:
            port, target = harness.free_port(), int(re.search(r"127\.0\.0\.1:(\d+)", self.databases[kind].url).group(1))
            relay = subprocess.Popen([DELAY, str(port), str(target), str(ms)])
            self.relays[kind] = (port, relay)

    def delays(self):
        """Puts with and without a delay to the database, as in a cloud; the ratio is to the same without."""
        if self.options.only and "delay" not in self.options.only:
            return
        put = self.rate("put", inflight=512, clients=4, keys=10000, value_size=256)
        for kind in [k for k in ("postgres", "mariadb") if k in self.targets]:
            for round_number in range(self.options.rounds):
                for ms in (0, 1, 5):
                    note(f"puts with {ms} ms to {kind}")
                    self.stop(kind)
                    self.through_delay(kind, ms)
                    try:
                        self.fresh(kind)
                        self.keep(f"delay-{ms}", kind, round_number, put(kind))
                    except (RuntimeError, AssertionError) as e:
                        note(f"with {ms} ms to {kind} failed: {e}")
            self.through_delay(kind, 0)
            self.stop(kind)

    def bytes_per_put(self, target):
        """Of the files, with everything in them; a stop writes SQLite's log back. As many puts as make the steps in which files grow small."""
        before, count = self.size(target), 0
        while count < BYTES_PUTS:
            count += self.bench(target, "kube-update", inflight=64, clients=2, value_size=100, seconds=3)["count"]
        self.stop(target)
        grown = self.size(target) - before
        self.start(target)
        return grown / count

    def run(self):
        for name in ("create", "update", "delete"):
            self.compare(f"{name}-1", ALL, self.rate(f"kube-{name}", inflight=1, clients=1))
            self.compare(f"{name}-512", ALL, self.rate(f"kube-{name}", inflight=512, clients=4))
        for name, targets, request in (("put-512", NOT_KINE, "h2load-put"), ("get-512", BUT_SYNCED, "h2load-range")):
            self.compare(name, targets, lambda target, request=request: h2load.load(self.folder, self.ports[target], request,
                                                                                   self.options.seconds, 8, 64))
        for name, page in (("list", 0), ("list-500", 500)):
            self.compare(name, BUT_SYNCED, self.rate("kube-list", inflight=4, clients=4, keys=10000, page=page))
        self.compare("watch-1000", ALL, self.rate("watch", watchers=1000, clients=3, inflight=4, kube=True))
        # A thousand events and more, so that the p99 is not that of two or three.
        self.compare("streams", BUT_SYNCED, lambda t: self.bench(t, "many", watchers=10000, clients=8, rate=200,
                                                                 seconds=max(5, self.options.seconds))["latency_us"]["p99"] / 1000
                     if not self.fresh(t) else None, fresh=False)
        self.compare("leases", NOT_KINE, lambda t: self.leases(t) if not self.fresh(t) else None, fresh=False)
        self.compare("json-range", NOT_KINE, self.json_range)
        # As many puts at a time as let the server be measured, not the writer: with 8 kineshim waits, with 16 etcd is at its best already.
        self.compare("json-watch", NOT_KINE, self.rate("json-watch", watchers=100, clients=32, inflight=64))
        self.delays()
        # Each time in a new database: where old revisions were compacted, pages are filled again.
        self.compare("bytes", [t for t in BUT_SYNCED if not t.startswith("etcd")], lambda t: self.bytes_per_put(t) if not self.fresh(t) else None, fresh=False)
        self.million()


# ---- what comes of it ----

def ratio(results, row, target, other):
    """The median of the rounds' ratios, with the least and the most; None without both."""
    def by_round(t):
        return {r["round"]: r["value"] for r in results if r["row"] == row and r["target"] == t}
    ours, theirs = by_round(target), by_round(other)
    found = [ours[n] / theirs[n] for n in ours if n in theirs and theirs[n]]
    return (statistics.median(found), min(found), max(found)) if found else None


def median(results, row, target):
    found = [r["value"] for r in results if r["row"] == row and r["target"] == target]
    return statistics.median(found) if found else None


def number(value, unit):
    if value is None:
        return "–"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}{'' if unit == '/s' else ' '}{unit}"


def verdict(found, goal, more):
    if not found:
        return "–"
    text = f"**{found[0]:.2f}×** ({found[1]:.2f}–{found[2]:.2f})"
    return text + (" ✓" if (found[0] >= goal if more else found[0] <= goal) else " ✗") if goal != NO_GOAL else text


def goal_text(goal, more):
    return "–" if goal == NO_GOAL else f"{'≥' if more else '≤'} {goal:g}×"


def tables(results, targets, million):
    ours = [t for t in DATABASES if t in targets]
    lines = ["| | " + " | ".join(targets) + " |", "|---" * (len(targets) + 1) + "|"]
    ratios = ["| | goal | " + " | ".join(f"{t} / etcd" for t in ours) + (" | " + " | ".join(f"{t} / etcd-new" for t in ours)
              if "etcd-new" in targets else "") + " |"]
    columns = len(ours) * (2 if "etcd-new" in targets else 1)
    ratios.append("|---" * (columns + 2) + "|")
    kines = [(t, f"kine-{t}") for t in ours if f"kine-{t}" in targets] + [("sqlite", SYNCED)] * (SYNCED in targets and "sqlite" in ours)
    kine = ["| | goal | " + " | ".join(f"{t} / {other}" for t, other in kines) + " |", "|---" * (len(kines) + 2) + "|"]
    for name, title, unit, more, over_etcd, over_kine in ROWS:
        if not any(r["row"] == name for r in results):
            continue
        title = title.replace("1,000,000", f"{million:,}")
        lines.append(f"| {title} | " + " | ".join(number(median(results, name, t), unit) for t in targets) + " |")
        if over_etcd is not None:
            cells = [verdict(ratio(results, name, t, other), over_etcd, more)
                     for other in ("etcd", "etcd-new") if other == "etcd" or "etcd-new" in targets for t in ours]
            ratios.append(f"| {title} | {goal_text(over_etcd, more)} | " + " | ".join(cells) + " |")
        if over_kine is not None and any(t in KINES for t in targets):
            kine.append(f"| {title} | {goal_text(over_kine, more)} | "
                        + " | ".join(verdict(ratio(results, name, *pair), over_kine, more) for pair in kines) + " |")
    delayed = ["| put of 256 bytes, 512 in flight, a round trip to the database takes longer by | goal | " + " | ".join(
        t for t in ours if t != "sqlite") + " |", "|---" * (len([t for t in ours if t != "sqlite"]) + 2) + "|"]
    for ms in (1, 5):
        cells = []
        for target in [t for t in ours if t != "sqlite"]:
            found = {(r["row"], r["round"]): r["value"] for r in results if r["target"] == target and r["row"].startswith("delay-")}
            pairs = [found[(f"delay-{ms}", n)] / found[("delay-0", n)] for (row, n) in found if row == f"delay-{ms}" and ("delay-0", n) in found]
            cells.append(verdict((statistics.median(pairs), min(pairs), max(pairs)) if pairs else None, 0.7, True))
        delayed.append(f"| {ms} ms | ≥ 0.7× of without | " + " | ".join(cells) + " |")
    if any(r["row"].startswith("delay-") for r in results):
        ratios += [""] + delayed
    return lines, ratios, kine


def chart(results, targets):
    """How many times as good as kine and as etcd, on a logarithmic scale."""
    bars = []
    for name, title, _, more, over_etcd, over_kine in ROWS:
        for other, label in (("etcd", "etcd"), ("kine", "kine")):
            goal = over_etcd if other == "etcd" else over_kine
            for target in DATABASES:
                found = ratio(results, name, target, "etcd" if other == "etcd" else f"kine-{target}") if goal is not None else None
                if found:
                    bars.append((f"{title} · {target} / {label}", found[0] if more else 1 / found[0], other))
    left, scale, bar, top = 470, 90, 13, 40
    height = top + len(bars) * (bar + 3) + 30
    svg = Svg(left + 4 * scale + 80, height)
    svg.text(left, 16, "times as good as etcd (blue) and as kine on the same database (orange)", font_weight="bold")
    for exponent in range(-1, 4):
        x = left + (exponent + 1) * scale * 0.8
        svg.line(x, top - 8, x, height - 24, stroke="#d62728" if exponent == 0 else "#ddd")
        svg.text(x, height - 10, f"{10 ** exponent:g}×", text_anchor="middle")
    for index, (title, good, other) in enumerate(bars):
        y = top + index * (bar + 3)
        zero = left + scale * 0.8
        end = left + (max(-1.0, min(3.2, math.log10(good))) + 1) * scale * 0.8
        svg.text(left - 8, y + bar - 3, title, text_anchor="end")
        svg.rect(min(zero, end), y, abs(end - zero), bar, fill="#4c78a8" if other == "etcd" else "#f58518")
        svg.text(max(zero, end) + 4, y + bar - 3, f"{good:.2f}×")
    return svg


def facts(peers):
    options = peers.options
    etcd_pattern = r"etcd Version: (\S+)"
    versions = ["etcd " + version_of(["etcd", "--version"], etcd_pattern)]
    if peers.programs.get("etcd-new"):
        versions.append("etcd-new " + version_of([peers.programs["etcd-new"], "--version"], etcd_pattern))
    if peers.programs.get("kine"):
        versions.append("kine " + version_of(["go", "version", "-m", peers.programs["kine"]], r"mod\s+github.com/k3s-io/kine\s+(\S+)"))
    versions.append(version_of([KINESHIM, "--version"], r"(kineshim Version: \S+)"))
    versions += database_versions(peers.targets)
    return (f"{datetime.date.today()}, {machine()}; {', '.join(versions)}. Made by `{command_line('peers')}`, {options.rounds} rounds of {options.seconds:g} s; "
            "absolute figures are medians, ratios medians of the rounds' own with the least and the most. The load generator shares "
            "the cores with what it measures.")


def write(page, peers, lines, ratios, kine):
    svg = pathlib.Path(page).with_name("benchmarks-peers.svg")
    chart(peers.results, peers.targets).write(svg)
    raw = put_raw(page, "peers", peers.results)
    put_section(page, "peers", ["## Beside etcd and kine", "", "The columns sqlite, postgres and mariadb are kineshim. kine on SQLite, as it is by default, does not wait for the disk: what it "
                                "has acknowledged last is lost with the power. kine-sqlite-sync is kine told to wait (`_synchronous=FULL`), as kineshim and etcd always do.", "",
                                f"![ratios to etcd and kine]({svg.name})", "", *ratios, "", *(kine + [""] if len(kine) > 2 else []), *lines, "",
                                f"{facts(peers)} {raw}"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--only", type=words, default=[], help="rows: " + ", ".join(row[0] for row in ROWS) + ", delay")
    parser.add_argument("--targets", type=words, default=list(ALL))
    parser.add_argument("--million", type=int, default=1000000, help="keys of the memory and start rows")
    parser.add_argument("--leases", type=int, default=100000)
    parser.add_argument("--write", metavar="FILE")
    parser.add_argument("--output", metavar="FOLDER")
    options = parser.parse_args()
    must_know(parser, "target", options.targets, ALL)
    must_know(parser, "row", options.only, [*(row[0] for row in ROWS), "delay"])
    peers = Peers(options)
    try:
        peers.run()
    finally:
        peers.end()
    lines, ratios, kine = tables(peers.results, peers.targets, options.million)
    print("\n".join([*ratios, "", *(kine + [""] if len(kine) > 2 else []), *lines, "", facts(peers)]))
    if options.output:
        pathlib.Path(options.output).mkdir(parents=True, exist_ok=True)
        pathlib.Path(options.output, "peers.jsonl").write_text("".join(json.dumps(r) + "\n" for r in peers.results))
    if options.write:
        write(options.write, peers, lines, ratios, kine)


if __name__ == "__main__":
    main()
