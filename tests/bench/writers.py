#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Several instances on one database, all written to: what they do together, and what one of them does alone.

./dev bench writers [--database NAME,…] [--rounds N] [--seconds S] [--inflight N,…] [--write]

One database server; on it a database with one instance, one with two and one with three. Everything is on one machine, also the
client, so that processor time is what all share. 1, 2 and 3 instances are measured in turns, 'rounds' times; a ratio is that of one
round, and the median of the ratios is what counts. Two curves: the same number of calls in flight altogether, and the same for each
instance. Then the latency of single puts on one instance while another one is under load, and what a lone writer loses by the
presence of two idle instances. Databases: postgres, mariadb; by default both. --write puts the result into docs/benchmarks.md,
draws docs/benchmarks-instances-NAME.svg, and leaves the raw numbers in docs/benchmarks-instances.jsonl.
"""
import argparse
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

from pages import must_know, put_raw, words

HERE = os.path.dirname(os.path.realpath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
BUILD = os.environ.get("KS_BUILD", os.path.join(TOP, "build"))
VALUE_SIZE = 256
CLIENTS = 6  # connections, a multiple of each number of instances


class Instance:
    def __init__(self, folder, name, url):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.at = f"127.0.0.1:{self.port}"
        self.log = os.path.join(folder, f"{name}.log")
        self.process = subprocess.Popen(
            [os.path.join(BUILD, "kineshim/kineshim"), "--endpoint", url, "--name", name, "--listen-client-urls", f"http://{self.at}",
             "--data-dir", os.path.join(folder, name), "--log-format", "console", "--quota-backend-bytes", "-1"],
            stdout=open(self.log, "w"), stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)

    def counters(self):
        text = urllib.request.urlopen(f"http://{self.at}/metrics", timeout=20).read().decode()

        def one(name):
            return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.M).group(1))
        return {"appends": one('kineshim_log_appends_total{outcome="ok"}'),
                "conflicts": one('kineshim_log_appends_total{outcome="conflict"}'),
                "append_s": one("kineshim_log_append_duration_seconds_sum"),
                "entries": one("kineshim_log_append_entries_sum")}

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def bench_start(instances, inflight, seconds, warmup=0.5, clients=CLIENTS):
    return subprocess.Popen(
        [os.path.join(BUILD, "tests/bench/kineshim-bench"), "put", "--endpoint", ",".join(one.at for one in instances),
         "--inflight", str(inflight), "--clients", str(clients), "--keys", "10000", "--value-size", str(VALUE_SIZE),
         "--seconds", str(seconds), "--warmup", str(warmup)], stdout=subprocess.PIPE, text=True)


def bench_end(process):
    out, _ = process.communicate(timeout=300)
    if process.returncode != 0:
        sys.exit(f"writers: the load ended with {process.returncode}")
    return json.loads(out)


def cpu_of(pids):
    """Seconds of processor time; of a database server that of its children too."""
    tick, total = os.sysconf("SC_CLK_TCK"), 0
    for pid in pids:
        try:
            words = open(f"/proc/{pid}/stat", encoding="utf-8").read().rsplit(")", 1)[1].split()
            total += int(words[11]) + int(words[12])
        except OSError:
            pass
    return total / tick


def idle_s():
    return int(open("/proc/stat", encoding="utf-8").readline().split()[4]) / os.sysconf("SC_CLK_TCK")


def database_pids():
    path = os.environ.get("KS_TEST_POSTGRES_PIDFILE") or os.environ["KS_TEST_MARIADB_PIDFILE"]
    pid = open(path, encoding="utf-8").readline().strip()
    return [pid] + subprocess.run(["ps", "-o", "pid=", "--ppid", pid], capture_output=True, text=True, check=False).stdout.split()


def measure(instances, inflight, seconds):
    pids, server_pids = [one.process.pid for one in instances], database_pids()
    before = [one.counters() for one in instances]
    cpu, server_cpu, idle, began = cpu_of(pids), cpu_of(server_pids), idle_s(), time.monotonic()
    result = bench_end(bench_start(instances, inflight, seconds))
    took = time.monotonic() - began
    cpu, server_cpu, idle = cpu_of(pids) - cpu, cpu_of(server_pids) - server_cpu, idle_s() - idle
    after = [one.counters() for one in instances]
    moved = {key: sum(b[key] - a[key] for a, b in zip(before, after)) for key in before[0]}
    appends = max(moved["appends"], 1)
    return {"rate": result["per_second"], "p50": result["latency_us"]["p50"] / 1000, "p99": result["latency_us"]["p99"] / 1000,
            "cpu": cpu / took, "server_cpu": server_cpu / took, "client_cpu": result["client_cpu"], "idle": idle / took,
            "least_share": min(result.get("shares", [1])), "conflicts": moved["conflicts"] / appends,
            "append_ms": moved["append_s"] / appends * 1000, "batch": moved["entries"] / appends}


def measure_guest(busy, guest, inflight, seconds):
    """Single puts on one instance while another one is under load."""
    load = bench_start([busy], inflight, seconds + 1, 0.3)
    time.sleep(0.6)
    before = busy.counters()
    single = bench_end(bench_start([guest], 1, seconds, 0.2, 1))
    after = busy.counters()
    busy_result = bench_end(load)
    appends = max(after["appends"] - before["appends"], 1)
    return {"rate": busy_result["per_second"], "p50": busy_result["latency_us"]["p50"] / 1000,
            "p99": busy_result["latency_us"]["p99"] / 1000, "guest_rate": single["per_second"], "guest_p50": single["latency_us"]["p50"] / 1000,
            "guest_p99": single["latency_us"]["p99"] / 1000, "append_ms": (after["append_s"] - before["append_s"]) / appends * 1000}


def middle(values):
    return statistics.median(values)


def spread(values, form):
    return f"{form(middle(values))} ({form(min(values))} – {form(max(values))})"


def whole(value):
    return f"{value:,.0f}"


def tenth(value):
    return f"{value:.1f}"


def hundredth(value):
    return f"{value:.2f}"


class Table:
    def __init__(self, found, inflights):
        self.found, self.inflights = found, inflights

    def of(self, key, what):
        return [one[what] for one in self.found[key]]

    def ratios(self, key, base):
        return [a / b for a, b in zip(self.of(key, "rate"), self.of(base, "rate"))]

    def rows(self):
        for inflight in self.inflights:
            base = ("each", 1, inflight)
            for mode in ("total", "each"):
                for count in (1, 2, 3):
                    key = (mode, count, inflight) if count > 1 else base
                    if count > 1 or mode == "total":
                        yield inflight, mode, count, key, base

    def markdown(self):
        out = ["| in flight | instances | puts/s, least – most | ratio to one | p50 ms | p99 ms | entries an append | conflicts an append | least share |",
               "|---|---|---|---|---|---|---|---|---|"]
        for inflight, mode, count, key, base in self.rows():
            title = f"{inflight} " + ("" if count == 1 else "altogether" if mode == "total" else "each")
            out.append(f"| {title.strip()} | {count} | {spread(self.of(key, 'rate'), whole)} | " +
                       ("1" if count == 1 else f"**{middle(self.ratios(key, base)):.2f}×** ({spread(self.ratios(key, base), hundredth)[6:-1]})") +
                       f" | {tenth(middle(self.of(key, 'p50')))} | {tenth(middle(self.of(key, 'p99')))} | {whole(middle(self.of(key, 'batch')))}"
                       f" | {hundredth(middle(self.of(key, 'conflicts')))} | {hundredth(min(self.of(key, 'least_share')))} |")
        return "\n".join(out)


def svg(table):
    """Ratios to one instance: a line for each number of calls in flight, full for "each", dashed for "altogether"."""
    colours = ["#4c78a8", "#f58518", "#54a24b", "#b279a2"]
    left, top, step, scale = 60, 40, 160, 200
    width, height = left + 2 * step + 190, top + int(1.3 * scale) + 40

    def y(ratio):
        return top + (1.3 - ratio) * scale
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
           'font-family="sans-serif" font-size="12">', f'<rect width="{width}" height="{height}" fill="white"/>',
           f'<text x="{left}" y="18" font-weight="bold">puts per second of all instances together; one alone = 1</text>']
    for mark in (0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2):
        goal = mark == 0.8
        out.append(f'<line x1="{left}" x2="{left + 2 * step}" y1="{y(mark):.1f}" y2="{y(mark):.1f}" stroke="{"#d62728" if goal else "#ddd"}"'
                   f'{" stroke-dasharray=%s" % chr(34) + "4 3" + chr(34) if goal else ""}/>')
        out.append(f'<text x="{left - 8}" y="{y(mark) + 4:.1f}" text-anchor="end">{mark:.1f}</text>')
    for count in (1, 2, 3):
        out.append(f'<text x="{left + (count - 1) * step}" y="{y(0) + 20:.1f}" text-anchor="middle">{count} instance{"s" if count > 1 else ""}</text>')
    line = 0
    for number, inflight in enumerate(table.inflights):
        for mode in ("each", "total"):
            points = [1.0] + [middle(table.ratios((mode, count, inflight), ("each", 1, inflight))) for count in (2, 3)]
            dash = ' stroke-dasharray="5 4"' if mode == "total" else ""
            place = " ".join(f"{left + i * step},{y(point):.1f}" for i, point in enumerate(points))
            out.append(f'<polyline points="{place}" fill="none" stroke="{colours[number % 4]}" stroke-width="2"{dash}/>')
            at = top + 14 + line * 18
            out.append(f'<line x1="{left + 2 * step + 20}" x2="{left + 2 * step + 48}" y1="{at}" y2="{at}" stroke="{colours[number % 4]}" stroke-width="2"{dash}/>')
            out.append(f'<text x="{left + 2 * step + 54}" y="{at + 4}">{inflight} {"each" if mode == "each" else "altogether"}: {points[2]:.2f}×</text>')
            line += 1
    out.append("</svg>")
    return "\n".join(out) + "\n"


def part(database, found, inflights, version):
    table = Table(found, inflights)
    lines = [f"### {TITLES[database]}", "", f"![several instances on {TITLES[database]}](benchmarks-instances-{database}.svg)", "", table.markdown(),
             "", "Few clients, each with one put at a time:", "", "| | puts/s | p50 ms | p99 ms, least – most |", "|---|---|---|---|"]
    for key, title in GUESTS:
        rows = found[("guest", key)]
        lines.append(f"| {title} | {whole(middle([one['rate'] for one in rows]))} | {hundredth(middle([one['p50'] for one in rows]))} | "
                     f"{spread([one['p99'] for one in rows], hundredth)} |")
    busy = found[("guest", "busy")]
    lines += ["", f"An append of the busy instance took {tenth(middle([one['append_ms'] for one in busy]))} ms. {version}."]
    return "\n".join(lines)


def section(parts, facts):
    return "\n".join([
        "## Several instances", "",
        "One, two and three instances on one database, all of them written to equally, on one machine together with the database and",
        f"the client: puts of {VALUE_SIZE} bytes, medians of all rounds; see [instances.md](instances.md). A ratio is that of one round. Made by",
        f"`{facts['command']}`, which writes this section. {facts['machine']}; {facts['date']}; {facts['rounds']}.", "",
        "\n\n".join(parts)])


def write_docs(tables, text):
    path = os.path.join(TOP, "docs/benchmarks.md")
    begin, end = "<!-- several instances -->\n", "<!-- /several instances -->\n"
    page = open(path, encoding="utf-8").read()
    kept = re.sub(f"\n?{re.escape(begin)}.*?{re.escape(end)}", "", page, flags=re.S)
    with open(path, "w", encoding="utf-8") as file:
        file.write(kept.rstrip("\n") + f"\n\n{begin}{text}\n{end}")
    for database, table in tables.items():
        with open(os.path.join(TOP, f"docs/benchmarks-instances-{database}.svg"), "w", encoding="utf-8") as file:
            file.write(svg(table))


def machine():
    model = re.search(r"^model name\s*: (.*)", open("/proc/cpuinfo", encoding="utf-8").read(), re.M)
    return f"{os.cpu_count()} × {model.group(1) if model else 'processors'}"


def server(*words):
    return subprocess.run([os.environ["KS_TEST_SERVERS"], *words], check=True, capture_output=True, text=True).stdout


def postgres(count):
    folder, url = os.environ["KS_TEST_POSTGRES_DIR"], os.environ["KS_TEST_POSTGRES_URL"]
    for i in range(1, count + 1):
        server("pg_run", folder, "psql", "-qX", "-c", f"CREATE DATABASE writers{i} OWNER kineshim")
    version = server("pg_run", folder, "psql", "-qXAt", "-c", "SHOW server_version").split()[0]
    return [url.rsplit("/", 1)[0] + f"/writers{i}" for i in range(1, count + 1)], f"PostgreSQL {version}, fsync on"


def mariadb(count):
    folder, url = os.environ["KS_TEST_MARIADB_DIR"], os.environ["KS_TEST_MARIADB_URL"]
    for i in range(1, count + 1):
        server("my_database", folder, f"writers{i}")
    version = server("my_run", folder, "mariadb", "-Ne", "SELECT version()").strip()
    flushed = server("my_run", folder, "mariadb", "-Ne", "SELECT @@innodb_flush_log_at_trx_commit").strip()
    return [url.rsplit("/", 1)[0] + f"/writers{i}" for i in range(1, count + 1)], f"MariaDB {version}, innodb_flush_log_at_trx_commit={flushed}"


DATABASES = {"postgres": postgres, "mariadb": mariadb}
TITLES = {"postgres": "PostgreSQL", "mariadb": "MariaDB"}


def child(database, options):
    """Inside of with-DATABASE: measures, and leaves what it found in a file."""
    inflights = [int(word) for word in options.inflight.split(",")]
    modes, counts = options.modes.split(","), [int(word) for word in options.counts.split(",")]
    load = " ".join(open("/proc/loadavg", encoding="utf-8").read().split()[:2])
    with tempfile.TemporaryDirectory(prefix="ks-writers.") as folder:
        urls, version = DATABASES[database](3)
        groups = [[] for _ in urls]
        try:
            for group, url in enumerate(urls):
                for i in range(group + 1):
                    groups[group].append(Instance(folder, f"w{group + 1}-{i + 1}", url))
                    subprocess.run([os.path.join(BUILD, "tests/bench/kineshim-bench"), "ready", "--endpoint", groups[group][-1].at],
                                   check=True, stdout=subprocess.DEVNULL, timeout=60)
            time.sleep(4)  # so that all have heard of each other
            found = run(groups, inflights, modes, counts, options)
        finally:
            for group in groups:
                for one in group:
                    one.stop()
    with open(options.child, "w", encoding="utf-8") as file:
        json.dump({"version": f"{version}; load average before: {load}", "found": [[key, value] for key, value in found.items()]}, file)


def main():
    parser = options = argparse.ArgumentParser(usage=__doc__)
    options.add_argument("--database", default="postgres,mariadb")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=float, default=2)
    options.add_argument("--inflight", default="64,256,512")
    options.add_argument("--modes", default="total,each")
    options.add_argument("--counts", default="1,2,3")
    options.add_argument("--write", action="store_true")
    options.add_argument("--child", help=argparse.SUPPRESS)
    options = options.parse_args()
    must_know(parser, "database", words(options.database), DATABASES)
    if options.child:
        child(options.database, options)
        return
    inflights = [int(word) for word in options.inflight.split(",")]
    facts = {"command": f"./dev bench writers {' '.join(sys.argv[1:])}".strip(), "machine": machine(), "date": time.strftime("%Y-%m-%d"),
             "rounds": f"{options.rounds} rounds of {options.seconds:g} s"}
    whole_run = options.modes == "total,each" and options.counts == "1,2,3"
    tables, parts, records = {}, [], []
    for database in words(options.database):
        with tempfile.NamedTemporaryFile(prefix="ks-writers.") as result:
            subprocess.run([os.path.join(TOP, "tests/lib/with-server"), database, os.path.realpath(__file__), *sys.argv[1:], "--database", database,
                            "--child", result.name], check=True)
            answer = json.load(result)
        found = {tuple(key): value for key, value in answer["found"]}
        records += [{"database": database, "what": key, "round": number, **one} for key, value in answer["found"] for number, one in enumerate(value)]
        if whole_run:
            tables[database] = Table(found, inflights)
            parts.append(part(database, found, inflights, answer["version"]))
    if whole_run:
        text = section(parts, facts)
        print(text)
        if options.write:
            raw = put_raw(os.path.join(TOP, "docs/benchmarks.md"), "instances", records)
            write_docs(tables, f"{text}\n\n{raw}")


# The key of a measurement with few clients, and what it is.
GUESTS = [("alone", "one client, one instance"), ("with idle", "one client, two idle instances beside it"),
          ("three", "one client on each of three"), ("busy", "one client, while another instance has 512 in flight"),
          ("busy self", "that other instance"), ("busy alone", "it without the one client")]


def run(groups, inflights, modes, counts, options):
    found = {}

    def note(key, result):
        found.setdefault(key, []).append(result)
        print(" ".join(str(part) for part in key) + ": " + " ".join(f"{name}={value:.2f}" for name, value in result.items()), file=sys.stderr, flush=True)

    for _ in range(options.rounds):
        for inflight in inflights:
            for count in counts:
                for mode in modes if count > 1 else ["each"]:
                    calls = inflight * (count if mode == "each" else 1)
                    note((mode, count, inflight), measure(groups[count - 1], calls, options.seconds))
        if "guest" in modes or options.modes == "total,each":
            three = groups[2]
            note(("guest", "alone"), single([groups[0][0]], options))
            note(("guest", "with idle"), single([three[0]], options))
            note(("guest", "three"), single(three, options))
            both = measure_guest(three[0], three[1], 512, options.seconds)
            note(("guest", "busy"), {"rate": both["guest_rate"], "p50": both["guest_p50"], "p99": both["guest_p99"], "append_ms": both["append_ms"]})
            lone = measure([three[0]], 512, options.seconds)
            note(("guest", "busy alone"), lone)
            note(("guest", "busy self"), {"rate": both["rate"], "p50": both["p50"], "p99": both["p99"]})
    return found


def single(instances, options):
    result = bench_end(bench_start(instances, len(instances), options.seconds, 0.3, len(instances)))
    return {"rate": result["per_second"], "p50": result["latency_us"]["p50"] / 1000, "p99": result["latency_us"]["p99"] / 1000}


if __name__ == "__main__":
    main()
