#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a dpagent adds, beside what is above it, in one run.

bench.py [--rounds N] [--seconds S] [--keys N] [--agents N] [--watchers N] [--write FILE]: the delay from upstream's event to the agent's, events to many
watchers beside kineshim's own, memory and start with many keys, and a tree of agents. Rounds are interleaved, figures are
medians with their spread. With --write the table goes to the page of figures, between its marks. Load: kineshim-bench."""
import argparse
import datetime
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import harness  # noqa: E402
from harness import BUILD, KINESHIM, Agent, Store, wait_for  # noqa: E402

BENCH = str(BUILD / "tests" / "bench" / "kineshim-bench")
INTRO = """## dpagent

The agent beside the etcd that it mirrors, on one machine with the load. *Added delay* is between the arrival of the same event at a watcher of
upstream and at a watcher of the agent, both in the load generator. *Of its own* is the same load on kineshim itself.
"""


def load(command, endpoints, **flags):
    """Runs kineshim-bench; its JSON."""
    args = [BENCH, command, "--endpoint", ",".join(f"127.0.0.1:{port}" for port in endpoints)]
    for name, value in flags.items():
        args += [f"--{name.replace('_', '-')}", str(value)]
    done = subprocess.run(args, capture_output=True, text=True, timeout=900)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(args)}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def spread(values, unit="", digits=0):
    text = f"{statistics.median(values):,.{digits}f}{unit}"
    if len(values) > 1:
        text += f" ({min(values):,.{digits}f}–{max(values):,.{digits}f})"
    return text


class Bench:
    def __init__(self, options):
        self.options, self.running = options, []
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="dpagent-bench-", dir=os.environ.get("KS_BENCH_DIR")))
        self.rows = []
        self.serial = 0

    def keep(self, server):
        self.running.append(server)
        return server

    def store(self, kind):
        self.serial += 1
        return self.keep(Store(self.folder, f"{kind}{self.serial}", kind))

    def agent(self, upstream):
        self.serial += 1
        # All keys; saved as in a default installation.
        return self.keep(Agent(self.folder, upstream.url, f"agent{self.serial}",
                               ["--prefix=", "--register=false", "--snapshot-interval=1s"]))

    def end(self, servers=None):
        for server in reversed(servers or list(self.running)):
            server.stop()
            self.running.remove(server)

    def row(self, what, value, goal, reached):
        self.rows.append((what, value, goal, "yes" if reached else "**no**"))
        print(f"{what}: {value} (goal {goal}: {'reached' if reached else 'not reached'})", flush=True)

    def delay(self):
        for kind in ("etcd", "kineshim"):
            store = self.store(kind)
            store.put("bench/seed", "x")
            agent = self.agent(store)
            p50, p99 = [], []
            for _ in range(self.options.rounds):
                result = load("relay", [store.port, agent.port], rate=500, watchers=1, keys=100, seconds=self.options.seconds)
                p50.append(result["latency_us"]["p50"] / 1000)
                p99.append(result["latency_us"]["p99"] / 1000)
            self.row(f"added delay below {kind}, 500 puts/s, median", spread(p50, " ms", 2), "–", True)
            self.row(f"added delay below {kind}, 500 puts/s, p99", spread(p99, " ms", 2), "≤ 2 ms", statistics.median(p99) <= 2)
            self.end()

    def fan_out(self):
        store = self.store("kineshim")
        store.put("bench/seed", "x")
        agent = self.agent(store)
        own, ours = [], []
        flags = {"watchers": 1000, "clients": 2, "inflight": 64, "seconds": self.options.seconds}
        for _ in range(self.options.rounds):
            own.append(load("watch", [store.port, store.port], **flags)["per_second"])
            ours.append(load("watch", [store.port, agent.port], **flags)["per_second"])
        ratio = statistics.median([a / b for a, b in zip(ours, own)])
        self.row("events to 1,000 watchers of the agent", spread(ours, "/s"), "–", True)
        self.row("the same of its own", spread(own, "/s"), "–", True)
        self.row("ratio", f"{ratio:.2f}", "≥ 1", ratio >= 1)
        self.end()

    def many_keys(self):
        store = self.store("kineshim")
        load("load", [store.port], keys=self.options.keys, value_size=256, clients=1)
        agent = self.agent(store)
        wait_for(lambda: agent.status()["keys"] >= self.options.keys, "the keys", 60)
        memory, starts, restarted = [agent.memory()], [], []
        agent.wait_saved(seconds=60)
        agent.stop()
        store.stop()
        for _ in range(self.options.rounds):
            agent.args = [a if not a.startswith("--start-timeout") else "--start-timeout=1ms" for a in agent.args]
            began = time.monotonic()
            agent.start(wait=False)
            wait_for(lambda: agent.ready()[0], "the agent", 30)
            starts.append(time.monotonic() - began)
            assert agent.status()["keys"] == self.options.keys
            restarted.append(agent.memory())
            agent.stop()
        title = f"{self.options.keys:,} keys of 256 bytes"
        mib = 1024 * 1024
        self.row(f"{title}: resident, listed from upstream", spread([m / mib for m in memory], " MiB"), "≤ 100 MiB",
                 statistics.median(memory) <= 100 * mib)
        self.row(f"{title}: resident, started from disk", spread([m / mib for m in restarted], " MiB"), "≤ 100 MiB",
                 statistics.median(restarted) <= 100 * mib)
        self.row(f"{title}: start from disk, until ready", spread(starts, " s", 2), "≤ 1 s", statistics.median(starts) <= 1)
        self.end()

    def tree(self):
        store = self.store("kineshim")
        store.put("bench/seed", "x")
        agents = [self.agent(store) for _ in range(self.options.agents)]
        # Everything goes to every watcher; or each watches one of twelve kinds of objects, as an APISIX worker does.
        for kinds in (1, 12):
            rates, p99, events = [], [], []
            for _ in range(self.options.rounds):
                result = load("relay", [store.port] + [agent.port for agent in agents], rate=500, watchers=self.options.watchers,
                              keys=600, kinds=kinds, seconds=self.options.seconds)
                rates.append(result["puts_per_second"])
                p99.append(result["latency_us"]["p99"] / 1000)
                events.append(result["per_second"])
            title = (f"1 kineshim, {self.options.agents} agents, {result['watchers']:,} watchers of "
                     + ("everything" if kinds == 1 else f"one of {kinds} kinds"))
            self.row(f"{title}: puts", spread(rates, "/s"), "≥ 500/s (0.98 of it)", statistics.median(rates) >= 490)
            self.row(f"{title}: events", spread(events, "/s"), "–", True)
            self.row(f"{title}: added delay, p99", spread(p99, " ms", 1), "–", True)
        self.end()


def write(page, rows, options):
    begin, end = "<!-- agent -->\n", "<!-- /agent -->\n"
    text = pathlib.Path(page).read_text()
    cpu = next((line.split(":")[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), "unknown")
    table = ["| what | median (least–most) | goal | reached |", "|---|---|---|---|"]
    table += ["| " + " | ".join(row) + " |" for row in rows]
    facts = (f"{datetime.date.today()}, {os.cpu_count()} cores ({cpu}), "
             f"{subprocess.run([KINESHIM, '--version'], capture_output=True, text=True).stdout.splitlines()[0]}. "
             f"`./dev bench agent --rounds {options.rounds} --seconds {options.seconds:g} --write docs/benchmarks.md` writes this section.")
    section = begin + INTRO + "\n" + "\n".join(table) + "\n\n" + facts + "\n" + end
    if begin in text:
        head, rest = text.split(begin, 1)
        text = head + section + rest.split(end, 1)[1]
    else:
        text = text.rstrip() + "\n\n" + section
    pathlib.Path(page).write_text(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--keys", type=int, default=100000)
    parser.add_argument("--agents", type=int, default=20)
    parser.add_argument("--watchers", type=int, default=2000)
    parser.add_argument("--only", default="delay,fan_out,many_keys,tree", help="parts, separated by commas")
    parser.add_argument("--write", metavar="FILE")
    options = parser.parse_args()
    bench = Bench(options)
    try:
        for part in options.only.split(","):
            getattr(bench, part)()
    finally:
        bench.end()
        shutil.rmtree(bench.folder, ignore_errors=True)
    if options.write:
        write(options.write, bench.rows, options)


if __name__ == "__main__":
    main()
