#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns the measurements of tests/bench/run into a table of ratios, a page and a bar chart.

report.py RESULTS.jsonl FACTS [PAGE.md CHART.svg]: the table goes to standard output, and with the two files to them.
"""

import json
import re
import statistics
import sys
from xml.sax.saxutils import escape

TARGETS = ["etcd", "sqlite", "postgres", "mariadb"]
OURS = TARGETS[1:]
TITLES = {"etcd": "etcd", "sqlite": "kineshim, SQLite", "postgres": "kineshim, PostgreSQL",
          "mariadb": "kineshim, MariaDB"}

# name, what it is, value in the result, unit, more is better, goals as ratios to etcd (None: none)
ROWS = [
    ("put-512", "put, 512 in flight", "per_second", "/s", True, {"sqlite": 1.0, "postgres": 1.0}),
    ("put-64", "put, 64 in flight", "per_second", "/s", True, {}),
    ("put-1", "put, one client, median latency", "p50", "µs", False, {"postgres": 1.5}),
    ("get-512", "linearizable get of one key, 512 in flight", "per_second", "/s", True, {"sqlite": 2.0, "postgres": 1.5}),
    ("get-serializable-512", "serializable get, 512 in flight", "per_second", "/s", True, {}),
    ("get-1", "linearizable get, one client, median latency", "p50", "µs", False, {}),
    ("range-10000", "range of 10,000 keys, 4 in flight", "per_second", "/s", True, {"sqlite": 1.0, "postgres": 1.0}),
    ("watch-1000", "one writer, 1,000 watchers, events", "per_second", "/s", True, {"sqlite": 2.0, "postgres": 2.0}),
    ("watch-1", "put to event, one watcher, median", "p50", "µs", False, {}),
    ("watch-1", "put to event, one watcher, p99", "p99", "µs", False, {"sqlite": 1.0, "postgres": 1.0}),
    ("watch-1000", "put to event, 1,000 watchers, p99", "p99", "µs", False, {"sqlite": 1.0, "postgres": 1.0}),
    ("keepalive-256", "lease keep-alive, 256 streams", "per_second", "/s", True, {}),
    ("load", "loading 1,000,000 keys, 100 a transaction", "per_second", "keys/s", True, {}),
    ("memory", "resident memory with 1,000,000 keys", "rss_kib", "MiB", False, {"sqlite": 1.0, "postgres": 1.0}),
    ("memory-after-restart", "the same after a restart", "rss_kib", "MiB", False, {"sqlite": 1.0, "postgres": 1.0}),
    ("restart", "restart with 1,000,000 keys", "seconds", "s", False, {"sqlite": "5 s", "postgres": "5 s"}),
]


def values(results, name, target, field):
    found = []
    for one in results:
        if one["name"] != name or one["target"] != target:
            continue
        result = one["result"]
        value = result.get("latency_us", {}).get(field) if field.startswith("p") and field != "per_second" else result.get(field)
        if value is not None:
            found.append(value / 1024 if field == "rss_kib" else value)
    return found


def number(value, unit):
    if unit == "s":
        return f"{value:.2f} s"
    return f"{value:,.0f} {unit}" if unit != "/s" else f"{value:,.0f}/s"


def measure(results):
    """One dictionary for each row that was measured on etcd."""
    rows = []
    for name, title, field, unit, more, goals in ROWS:
        medians, spreads = {}, {}
        for target in TARGETS:
            found = values(results, name, target, field)
            if found:
                medians[target] = statistics.median(found)
                spreads[target] = (min(found), max(found))
        if not medians:
            continue
        row = {"name": name, "title": title, "unit": unit, "more": more, "goals": goals, "medians": medians, "ratios": {}, "met": {}}
        if name.startswith(("load", "memory", "restart")):
            keys = [one["result"].get("keys") for one in results if one["name"] == name]
            if keys and keys[0] != 1000000:
                row["title"] = title.replace("1,000,000", f"{keys[0]:,}")
        row["spreads"] = spreads
        for target in OURS:
            if target not in medians:
                continue
            if medians.get("etcd"):
                row["ratios"][target] = medians[target] / medians["etcd"]
            goal = goals.get(target)
            if isinstance(goal, str):
                row["met"][target] = medians[target] < float(goal.split()[0])
            elif goal is not None and target in row["ratios"]:
                ratio = row["ratios"][target]
                row["met"][target] = ratio >= goal if more else ratio <= goal
        rows.append(row)
    return rows


def goal_text(row):
    goals = {str(goal) for goal in row["goals"].values()}
    if not goals:
        return ""
    sign = "≥" if row["more"] else ("<" if any("s" in goal for goal in goals) else "≤")
    texts = []
    for target, goal in row["goals"].items():
        text = f"{sign} {goal}" if isinstance(goal, str) else f"{sign} {goal:g}×"
        texts.append(text if len(goals) == 1 else f"{text} ({target})")
    return texts[0] if len(goals) == 1 and len(texts) > 1 else ", ".join(texts)


def cell(row, target):
    if target not in row["medians"]:
        return "–"
    text = number(row["medians"][target], row["unit"])
    if target in row["ratios"]:
        text += f" · **{row['ratios'][target]:.2f}×**"
    if target in row["met"]:
        text += " ✓" if row["met"][target] else " ✗"
    return text


def table(rows):
    lines = ["| | " + " | ".join(TITLES[target] for target in TARGETS) + " | goal |", "|---" * (len(TARGETS) + 2) + "|"]
    for row in rows:
        lines.append("| " + " | ".join([row["title"]] + [cell(row, target) for target in TARGETS] + [goal_text(row)]) + " |")
    return "\n".join(lines)


def plain(rows):
    lines = [f"{'':48}{'etcd':>16}{'SQLite':>26}{'PostgreSQL':>26}{'MariaDB':>26}  goal"]
    for row in rows:
        line = f"{row['title']:48}"
        for target, width in zip(TARGETS, (16, 26, 26, 26)):
            line += f"{cell(row, target).replace('**', ''):>{width}}"
        lines.append(line + "  " + goal_text(row))
    return "\n".join(lines)


def chart(rows):
    """Horizontal bars: how many times as good as etcd, whatever 'good' means for the row."""
    bars = [row for row in rows if row["ratios"]]
    colours = {"sqlite": "#4c78a8", "postgres": "#f58518", "mariadb": "#54a24b"}
    ours = [target for target in OURS if any(target in row["ratios"] for row in bars)]
    left, scale, bar, gap, top = 330, 110, 13, 14, 46
    limit = 5.0
    height = top + len(bars) * (len(ours) * bar + gap) + 30
    width = left + int(limit * scale) + 90
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
           'font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{height}" fill="white"/>',
           f'<text x="{left}" y="16" font-weight="bold">times as good as etcd (longer is better)</text>']
    for index, target in enumerate(ours):
        x = left + index * 150
        out.append(f'<rect x="{x}" y="24" width="11" height="11" fill="{colours[target]}"/>')
        out.append(f'<text x="{x + 16}" y="34">{escape(TITLES[target])}</text>')
    y = top
    for row in bars:
        out.append(f'<text x="{left - 8}" y="{y + bar + 4}" text-anchor="end">{escape(row["title"])}</text>')
        for index, target in enumerate(ours):
            ratio = row["ratios"].get(target)
            if not ratio:
                continue
            good = ratio if row["more"] else 1 / ratio
            length = min(good, limit) * scale
            out.append(f'<rect x="{left}" y="{y + index * bar}" width="{length:.1f}" height="{bar - 1}" fill="{colours[target]}"/>')
            out.append(f'<text x="{left + length + 4:.1f}" y="{y + index * bar + bar - 3}" font-size="10">{good:.2f}×'
                       f'{" →" if good > limit else ""}</text>')
        y += len(ours) * bar + gap
    out.append(f'<line x1="{left + scale}" y1="{top - 6}" x2="{left + scale}" y2="{y}" stroke="#d62728" stroke-dasharray="4 3"/>')
    out.append(f'<text x="{left + scale}" y="{y + 14}" text-anchor="middle" fill="#d62728">etcd = 1</text>')
    out.append("</svg>")
    return "\n".join(out) + "\n"


def page(rows, facts, results):
    cpu = [one["result"].get("client_cpu") for one in results if one["result"].get("client_cpu")]
    missed = [f"- {row['title']}, {TITLES[target]}: {cell(row, target).rstrip(' ✗')} (goal {goal_text(row)})"
              for row in rows for target, met in row["met"].items() if not met]
    spread = ["| | " + " | ".join(TITLES[target] for target in TARGETS) + " |", "|---" * (len(TARGETS) + 1) + "|"]
    for row in rows:
        cells = [f"{number(row['spreads'][t][0], row['unit'])} – {number(row['spreads'][t][1], row['unit'])}"
                 if t in row["spreads"] else "–" for t in TARGETS]
        spread.append(f"| {row['title']} | " + " | ".join(cells) + " |")
    return "\n".join([
        "# Benchmarks",
        "",
        "etcd, and kineshim on SQLite, PostgreSQL and MariaDB, side by side: one machine, one disk, one run, the same load, in turns.",
        "Figures are medians of all rounds; what counts is the ratio to etcd (×), because both share the machine and its moods.",
        "Made by `tests/bench/run`; the load is `tests/bench/kineshim-bench`, closed loops with an HTTP/2 client of their own: with many calls in",
        "flight each costs it two to three microseconds, where a gRPC library (`--grpc`) takes about twenty. It shares the cores with",
        "the server it measures" + (f" (it used {min(cpu):.2f} to {max(cpu):.2f} cores)." if cpu else "."),
        "PostgreSQL and MariaDB run on the same cores too, with their default settings (fsync on); their memory is not counted.",
        "",
        "![ratios to etcd](benchmarks.svg)",
        "",
        table(rows),
        "",
        "For rates more is better, for latencies, memory and restart less. ✓ and ✗: the goal is met or missed.",
        "",
        "## Short of the goal",
        "",
        "\n".join(missed) if missed else "Nothing, in this run.",
        "",
        "## Least and most of the rounds",
        "",
        "\n".join(spread),
        "",
        "## Where and how",
        "",
        "\n".join(f"- {line}" for line in facts),
        "",
    ])


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        results = [json.loads(line) for line in file]
    with open(sys.argv[2], encoding="utf-8") as file:
        facts = file.read().splitlines()
    rows = measure(results)
    print(plain(rows))
    print("\n".join(facts))
    if len(sys.argv) > 4:
        # What writers.py and the gateway's bench.py put there stays as it is.
        kept = [m.group(0) for m in re.finditer(r"\n<!-- ([a-z ]+) -->\n.*?<!-- /\1 -->\n",
                                                open(sys.argv[3], encoding="utf-8").read(), re.S)]
        with open(sys.argv[3], "w", encoding="utf-8") as file:
            file.write(page(rows, facts, results) + "".join(kept))
        with open(sys.argv[4], "w", encoding="utf-8") as file:
            file.write(chart(rows))


if __name__ == "__main__":
    main()
