#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kineshim beside etcd under load from tools that others wrote: nghttp2's h2load for single calls of gRPC, etcd's own benchmark for the rest.

tools.py [--rounds N] [--seconds S] [--scale X] [--only ROW,…] [--targets TARGET,…] [--write FILE] [--output FOLDER]

Targets: etcd (Debian's), etcd-new (the newest release), and kineshim on sqlite, postgres and mariadb. etcd-new and etcd's benchmark are built from the
Go module registry into KS_PEERS (default: build/peers); where that cannot be they are left out with a notice. --seconds is for h2load; --scale
multiplies how much etcd's benchmark does, which knows numbers and no time. Rounds are interleaved; a ratio is the median of the rounds' own.
A command that fails on any target, or answers that are wrong, are told, and the program ends with status 1.
"""
import argparse
import datetime
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

import h2load
from h2load import run
from pages import command_line, machine, must_know, put_raw, put_section, words
from targets import BUILD, DATABASES, KINESHIM, NOT_KINE, Targets, database_versions, go_build, harness, note, version_of

CONNECTIONS, STREAMS = 8, 16

# Of a table: row, title, unit, is more better
H2LOAD = [
    ("h2load-put", "Put of 256 bytes", "/s", True),
    ("h2load-range", "Range of a key, linearizable", "/s", True),
    ("h2load-serializable", "Range of a key, serializable", "/s", True),
]


def benchmark_rows(scale):
    """Name, title, arguments, and of which of the reports which figures count. Sizes are such that etcd needs some seconds."""
    def n(count):
        return str(max(200, int(count * scale)))   # of fewer it knows no p99
    many, few = ["--clients", "64", "--conns", "4"], ["--clients", "8", "--conns", "4"]
    rate, latency = ("rate", "p50", "p99"), ("p50", "p99")
    return [
        ("put", "put, 256 bytes, 64 clients", ["put", *many, "--total", n(20000), "--key-size", "16", "--val-size", "256",
                                               "--key-space-size", "10000"], {0: ("", rate)}),
        ("range", "range of a key, 64 clients", ["range", "foo", *many, "--total", n(20000)], {0: ("", rate)}),
        ("range-100", "range of 100 keys, serializable, 64 clients", ["range", "/hundred/", "/hundred0", *many, "--total", n(10000), "--limit", "100",
                                                                      "--consistency", "s"], {0: ("", rate)}),
        ("txn-mixed", "txn-mixed, half of them reads of 100 keys, 64 clients", ["txn-mixed", *many, "--total", n(5000), "--key-space-size", "1000",
                                                                              "--val-size", "256", "--limit", "100"],
         {0: (": reads", rate), 1: (": writes", rate)}),
        ("watch", "watch, 1,000 watchers of a key, 8 clients put", ["watch", *few, "--streams", "50", "--watch-per-stream", "20", "--put-total", n(250)],
         {0: (": watches created", ("rate",)), 1: (": events", ("rate",))}),
        ("watch-latency", "watch-latency, 100 watchers of a key, 100 puts a second", ["watch-latency", "--streams", "10", "--watchers-per-stream", "10",
                                                                                     "--put-total", n(300), "--put-rate", "100"],
         {0: (": put", latency), 1: (": from the put's answer to the event", latency)}),
        ("watch-get", "watch-get, gets while 10,000 watchers read old events", ["watch-get", "--streams", "10", "--watchers", n(10000), "--events", "8"],
         {0: ("", ("rate", "p99", "total"))}),
        ("lease-keepalive", "lease-keepalive, a stream each, 64 clients", ["lease-keepalive", *many, "--total", n(20000)], {0: ("", rate)}),
        ("stm", "stm, 2 of 100 keys, 16 clients", ["stm", "--clients", "16", "--conns", "4", "--total", n(4000), "--keys", "100", "--keys-per-txn", "2"],
         {0: ("", rate)}),
        ("stm-lock", "stm behind a lock (lock-rpc), 8 clients", ["stm", *few, "--total", n(200), "--keys", "100", "--keys-per-txn", "2",
                                                                 "--stm-locker", "lock-rpc"], {0: ("", rate)}),
    ]


FIGURES = {"rate": ("", "/s", True), "p50": (", p50", "ms", False), "p99": (", p99", "ms", False), "total": (": until all events were read", "s", False)}


class Tools(Targets):
    def __init__(self, options):
        super().__init__(options.targets)
        self.options = options
        self.results, self.failed = [], []
        self.benchmark = go_build(pathlib.Path(os.environ.get("KS_PEERS", BUILD / "peers")), "etcd-benchmark", "go.etcd.io/etcd/v3/tools/benchmark")
        if not self.benchmark:
            note("left out: all that is not h2load (no Go, or etcd's benchmark cannot be built)")

    def keep(self, row, target, round_number, value):
        self.results.append({"row": row, "target": target, "round": round_number, "value": value})

    def compare(self, name, measure):
        """measure(target) -> {row: value}; on each target in turns."""
        if self.options.only and name not in self.options.only:
            return
        note(name)
        for round_number in range(self.options.rounds):
            for target in self.targets:
                try:
                    for row, value in measure(target).items():
                        self.keep(row, target, round_number, value)
                except (RuntimeError, OSError, subprocess.TimeoutExpired) as e:
                    self.failed.append(f"{name} on {target}: " + " ".join(str(e).split())[:300])
                    note(f"failed: {self.failed[-1]}")

    def wanted(self, names):
        return not self.options.only or any(name in self.options.only for name in names)

    def all_fresh(self):
        for target in self.targets:
            self.fresh(target)

    # ---- h2load ----

    def run_h2load(self):
        names = [row[0] for row in H2LOAD]
        if not self.wanted(names):
            return
        self.all_fresh()
        for name in names:
            self.compare(name, lambda target, name=name: {name: h2load.load(self.folder, self.ports[target], name, self.options.seconds,
                                                                            CONNECTIONS, STREAMS)})

    # ---- etcd's benchmark ----

    def report(self, text):
        """The figures of one of its reports; the distribution of errors, which it takes for a result, is a failure."""
        errors = re.search(r"Error distribution:\n(.*)", text, re.S)
        if errors:
            raise RuntimeError(f"etcd's benchmark: {errors.group(1).strip()[:500]}")

        def figure(pattern, scale=1):
            found = re.search(pattern, text)
            if not found:
                raise RuntimeError(f"etcd's benchmark: no {pattern} in {text[:500]}")
            return float(found.group(1)) * scale
        return {"rate": figure(r"Requests/sec:\s+(\S+)"), "p50": figure(r"50% in (\S+) secs", 1000), "p99": figure(r"99% in (\S+) secs", 1000),
                "total": figure(r"Total:\s+(\S+) secs")}

    def etcds(self, target, name, args, figures):
        out = run([self.benchmark, "--endpoints", f"127.0.0.1:{self.ports[target]}", "--precise", *args]).decode(errors="replace")
        reports = out.split("\nSummary:\n")[1:]
        if len(reports) != len(figures):
            raise RuntimeError(f"etcd's benchmark: {len(reports)} reports: {out[-500:]}")
        found = {}
        for number, (_, wanted) in figures.items():
            report = self.report(reports[number])
            found.update({row_of(name, number, figure): report[figure] for figure in wanted})
        return found

    def run_benchmark(self):
        rows = benchmark_rows(self.options.scale)
        if not self.benchmark or not self.wanted([row[0] for row in rows]):
            return
        self.all_fresh()
        # What range-100 reads.
        for target in self.targets:
            client = harness.Client(self.ports[target])
            for i in range(100):
                client.put(f"/hundred/{i:02}", "v" * 256)
        for name, _, args, figures in rows:
            self.compare(name, lambda target, n=name, a=args, f=figures: self.etcds(target, n, a, f))

    def run(self):
        self.run_h2load()
        self.run_benchmark()


def row_of(name, number, figure):
    return f"{name}/{number}/{figure}"


# ---- what comes of it ----

def values(results, row, target):
    return {r["round"]: r["value"] for r in results if r["row"] == row and r["target"] == target}


def number(value, unit):
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}{'' if unit == '/s' else ' '}{unit}"


def absolute(results, row, target, unit):
    found = values(results, row, target).values()
    return number(statistics.median(found), unit) if found else "–"


def ratio(results, row, target, other):
    ours, theirs = values(results, row, target), values(results, row, other)
    found = [ours[n] / theirs[n] for n in ours if theirs.get(n)]
    return f"**{statistics.median(found):.2f}×** ({min(found):.2f}–{max(found):.2f})" if found else "–"


def all_rows(scale):
    """(row, title, unit, is more better) of the figures of etcd's benchmark."""
    for name, title, _, figures in benchmark_rows(scale):
        for report, (part, wanted) in figures.items():
            for figure in wanted:
                suffix, unit, more = FIGURES[figure]
                yield row_of(name, report, figure), title + part + suffix, unit, more


def table(results, rows, targets):
    """Ratios, then absolute figures."""
    rows = [row for row in rows if any(r["row"] == row[0] for r in results)]
    ours = [t for t in DATABASES if t in targets]
    pairs = [(t, other) for other in ("etcd", "etcd-new") if other in targets for t in ours]
    lines = []
    if rows and pairs:
        lines += ["| | better is | " + " | ".join(f"{t} / {other}" for t, other in pairs) + " |", "|---" * (len(pairs) + 2) + "|"]
        lines += [f"| {title} | {'more' if more else 'less'} | " + " | ".join(ratio(results, row, t, other) for t, other in pairs) + " |"
                  for row, title, _, more in rows]
        lines.append("")
    if rows:
        lines += ["| | " + " | ".join(targets) + " |", "|---" * (len(targets) + 1) + "|"]
        lines += [f"| {title} | " + " | ".join(absolute(results, row, t, unit) for t in targets) + " |" for row, title, unit, _ in rows]
        lines.append("")
    return lines


def facts(tools):
    options = tools.options
    versions = ["etcd " + version_of(["etcd", "--version"], r"etcd Version: (\S+)")]
    if tools.programs.get("etcd-new"):
        versions.append("etcd-new " + version_of([tools.programs["etcd-new"], "--version"], r"etcd Version: (\S+)"))
    versions.append(version_of([KINESHIM, "--version"], r"(kineshim Version: \S+)"))
    versions.append("h2load " + version_of(["h2load", "--version"], r"nghttp2/(\S+)"))
    if tools.benchmark:
        versions.append("etcd's benchmark " + version_of(["go", "version", "-m", tools.benchmark], r"mod\s+go.etcd.io/etcd/v3\s+(\S+)"))
    versions += database_versions(tools.targets)
    return (f"{datetime.date.today()}, {machine()}; {', '.join(versions)}. Made by `{command_line('tools')}`, {options.rounds} rounds; absolute "
            "figures are medians, ratios medians of the rounds' own with the least and the most. Tools, servers and databases share the cores: the "
            "faster a server is, the more of them its client takes.")


def section(tools):
    results, targets = tools.results, tools.targets
    lines = ["## Under others' tools", "", "The columns sqlite, postgres and mariadb are kineshim.", ""]
    single = table(results, H2LOAD, targets)
    if single:
        lines += [f"Single calls of gRPC by nghttp2's h2load, {CONNECTIONS} connections of {STREAMS} streams each. All answers were good ones (checked by "
                  "their sizes, and by the revision after puts).", "", *single]
    rest = table(results, list(all_rows(tools.options.scale)), targets)
    if rest:
        lines += ["etcd's own `benchmark`. Its lease-keepalive opens a stream for each renewal and cancels it then, for which gRPC's C core writes twice to the "
                  "socket, and Go's gathers. Its watch-latency begins when the put was answered.", "", *rest]
    lines += [f"- failed: {text}" for text in tools.failed]
    return lines + ([""] if tools.failed else []) + [facts(tools)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [row[0] for row in (*H2LOAD, *benchmark_rows(1))]
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2, help="of h2load")
    parser.add_argument("--scale", type=float, default=1, help="of how much etcd's benchmark does")
    parser.add_argument("--only", type=words, default=[], help="rows: " + ", ".join(names))
    parser.add_argument("--targets", type=words, default=list(NOT_KINE))
    parser.add_argument("--write", metavar="FILE")
    parser.add_argument("--output", metavar="FOLDER")
    options = parser.parse_args()
    must_know(parser, "target", options.targets, NOT_KINE)
    must_know(parser, "row", options.only, names)
    tools = Tools(options)
    try:
        tools.run()
    finally:
        tools.end()
    lines = section(tools)
    print("\n".join(lines))
    if options.output:
        pathlib.Path(options.output).mkdir(parents=True, exist_ok=True)
        pathlib.Path(options.output, "tools.jsonl").write_text("".join(json.dumps(r) + "\n" for r in tools.results))
    if options.write:
        lines[-1] += " " + put_raw(options.write, "tools", tools.results)
        put_section(options.write, "tools", lines)
    return 1 if tools.failed else 0


if __name__ == "__main__":
    sys.exit(main())
