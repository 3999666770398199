# SPDX-License-Identifier: Apache-2.0
"""Curves of cost over size: which bound each must have, whether it keeps it, and how that looks in tables and plots.

A point is {"curve": …, "x": …, "target": …, "round": …, "values": {name: value}}, as growth.py measures it. A curve keeps its bound when the
exponent of cost / bound(x) over the last two decades, in the log-log plane, is within a tolerance. Costs below a measure's floor
count as the floor: down there a curve shows the machine's moods."""
import dataclasses
import math
import statistics

from pages import Svg

TOLERANCE = 0.15   # of the exponent: 1.4 times as much in each decade
COLOURS = {"etcd": "#d62728", "etcd-new": "#9467bd", "sqlite": "#4c78a8", "postgres": "#f58518", "mariadb": "#54a24b"}
BOUNDS = {"1": lambda x: 1, "log": lambda x: math.log2(max(x, 2)), "x": lambda x: x}


@dataclasses.dataclass
class Measure:
    name: str
    title: str
    unit: str
    growth: str          # of BOUNDS; empty: it is shown, and not judged
    bound: str           # the same for people
    rate: bool = False   # its cost is the time of one, 1 / value
    floor: float = 0     # of the cost, in the unit
    each: bool = False   # tables show it divided by x, too: what one costs

    def cost(self, value):
        return 1 / value if self.rate else max(value, self.floor)


@dataclasses.dataclass
class Curve:
    name: str
    x: str               # what x counts
    title: str
    measures: list
    remark: str = ""    # below its table


CACHE = """kineshim keeps all keys in memory, and values up to `--value-cache-bytes` (256 MiB, which are 1.6 million of these keys); others are read from the
database, 1.8 µs each from SQLite. That is a step where the cache ends, and no growth: with 1,000,000 keys and a cache of 16 MiB a page took 0.9 ms of processor time instead
of 0.09, and a get 28 µs instead of 16. `--value-cache-bytes 4GiB` of this benchmark moves it beyond 10,000,000 keys."""

# Counted with strace: sends of the server with 17 bytes, which are a ping.
PINGS = """The gets take turns over all connections, so with ten times as many each has a tenth of the calls, and shares no wake-up, read or packet with another. And on a connection that
is young and rarely used a get brings a ping with it: so gRPC measures the bandwidth of a connection that was idle. With 2,000 connections the server sent 0.9 pings per get, with 100
connections 0.03. They stay on: without them a put of 100 kB over a line of 20 ms takes twice as long."""

CURVES = [
    Curve("keys", "keys", "Keys", [
        Measure("put64_rate", "put, 64 in flight", "/s", "log", "O(log n) time", rate=True),
        Measure("put64_cpu", "the same: processor time of the server per put", "µs", "log", "O(log n)"),
        Measure("put64_db", "the same: of the database's processes", "µs", "log", "O(log n)"),
        Measure("put1_p50", "put, one client, median", "µs", "log", "O(log n)"),
        Measure("put1_p99", "put, one client, p99", "µs", "log", "O(log n)", floor=2000),
        Measure("get_rate", "linearizable get of a random key, 64 in flight", "/s", "log", "O(log n) time", rate=True),
        Measure("get_cpu", "the same: processor time of the server per get", "µs", "log", "O(log n)"),
        Measure("page_cpu", "page of 500 keys at a random place: processor time of the server", "µs", "log", "O(page + log n)"),
        Measure("page_p50", "the same, 4 in flight: median", "µs", "log", "O(page + log n)"),
        Measure("event_p50", "put to event, median", "µs", "log", "O(log n)"),
        Measure("event_p99", "put to event, p99", "µs", "log", "O(log n)", floor=2000),
        Measure("memory", "resident memory of the server", "MiB", "x", "O(n)", each=True),
        Measure("disk", "bytes of the store on disk", "MiB", "x", "O(n)", each=True),
        Measure("start", "start until the first answer", "s", "x", "O(n)", floor=0.1),
        Measure("compaction", "compaction that removes 10,000 revisions", "s", "log", "O(removed · log n)", floor=0.1),
        Measure("stall", "longest put meanwhile, one client", "ms", "1", "O(1)", floor=30),
    ], remark=CACHE),
    Curve("watched", "watchers", "Watchers of one key", [
        Measure("put_cpu", "processor time of the server per put", "µs", "x", "O(log n + w)"),
        Measure("events", "events", "/s", "1", "O(1) time of each", rate=True),
        Measure("event_p99", "put to event, p99", "µs", "x", "O(log n + w)"),
        Measure("memory", "memory of the watchers", "MiB", "x", "O(w)", floor=1, each=True),
        Measure("created", "until all are created", "s", "x", "O(w)", floor=0.01),
    ]),
    Curve("beside", "watchers", "Watchers of a key each, of which one is written", [
        Measure("put_rate", "put, one client", "/s", "log", "O(log n + log w) time", rate=True),
        Measure("put_cpu", "processor time of the server per put", "µs", "log", "O(log n + log w)"),
        Measure("event_p99", "put to event, p99", "µs", "log", "O(log n + log w)", floor=2000),
        Measure("memory", "memory of the watchers", "MiB", "x", "O(w)", floor=1, each=True),
        Measure("created", "until all are created", "s", "x", "O(w log w)", floor=0.01),
    ]),
    Curve("connections", "connections", "Connections, 64 gets in flight altogether", [
        Measure("get_rate", "linearizable get", "/s", "1", "O(1) time", rate=True),
        Measure("get_cpu", "processor time of the server per get", "µs", "1", "O(1)"),
        Measure("memory", "memory of the connections", "MiB", "x", "O(c)", floor=1, each=True),
        Measure("connect", "until all are connected", "s", "x", "O(c)", floor=0.2),
        Measure("connect_cpu", "processor time of the server per connect", "µs", "1", "O(1)"),
    ], remark=PINGS),
]


# ---- does a curve keep its bound ----

def series(points, curve, measure, target):
    """[(x, median of the rounds)] in the order of x."""
    found = {}
    for point in points:
        value = point["values"].get(measure.name)
        if point["curve"] == curve.name and point["target"] == target and value is not None:
            found.setdefault(point["x"], []).append(value)
    return [(x, statistics.median(values)) for x, values in sorted(found.items())]


def slope(pairs):
    """Of the line through the points in the log-log plane, by least squares."""
    xs, ys = [math.log10(x) for x, _ in pairs], [math.log10(y) for _, y in pairs]
    middle_x, middle_y = statistics.mean(xs), statistics.mean(ys)
    return sum((x - middle_x) * (y - middle_y) for x, y in zip(xs, ys)) / sum((x - middle_x) ** 2 for x in xs)


@dataclasses.dataclass
class Verdict:
    exponent: float   # of the cost over the last two decades
    beyond: float     # what of it the bound does not allow
    kept: bool


def judge(measure, line, tolerance=TOLERANCE):
    """None when there are less than two points in the last two decades, and for what is not judged."""
    if not line or not measure.growth:
        return None
    last = [(x, measure.cost(value)) for x, value in line if x * 100 >= line[-1][0] and (not measure.rate or value > 0)]
    last = [(x, cost) for x, cost in last if cost > 0]
    if len(last) < 2:
        return None
    beyond = slope([(x, cost / BOUNDS[measure.growth](x)) for x, cost in last])
    return Verdict(slope(last), beyond, beyond <= tolerance)


# ---- tables ----

def number(value, unit):
    if value is None:
        return "–"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 else 3
    return f"{value:,.{digits}f}{'' if unit == '/s' else ' '}{unit}"


def each(measure, x, value):
    """What one of x costs, when it is a MiB figure that is large enough to say so."""
    if not measure.each or value < measure.floor:
        return ""
    one = value * 1048576 / x
    return f" ({one / 1024:,.1f} KiB)" if one >= 10240 else f" ({one:,.0f} B)"


def table(points, curve, targets, tolerance=TOLERANCE):
    xs = sorted({point["x"] for point in points if point["curve"] == curve.name})
    lines = ["| | must be | | " + " | ".join(f"{x:,}" for x in xs) + " | a decade | |", "|---" * (len(xs) + 5) + "|"]
    for measure in curve.measures:
        first = True
        for target in targets:
            line = series(points, curve, measure, target)
            if not line:
                continue
            found, verdict = dict(line), judge(measure, line, tolerance)
            cells = [number(found.get(x), measure.unit) + (each(measure, x, found[x]) if x in found else "") for x in xs]
            ends = f"{10 ** verdict.exponent:.2f}× | {'✓' if verdict.kept else '✗'}" if verdict else "– | –"
            lines.append(f"| {measure.title if first else ''} | {measure.bound if first else ''} | {target} | " + " | ".join(cells) + f" | {ends} |")
            first = False
    return lines


def broken(points, targets, tolerance=TOLERANCE):
    """What grows faster than it must, as lines."""
    lines = []
    for curve in CURVES:
        for measure in curve.measures:
            for target in targets:
                verdict = judge(measure, series(points, curve, measure, target), tolerance)
                if verdict and not verdict.kept:
                    lines.append(f"- {target}: {curve.title}: {measure.title}: {10 ** verdict.exponent:.2f}× a decade, {measure.bound} "
                                 f"allows {10 ** (verdict.exponent - verdict.beyond):.2f}×")
    return lines


# ---- plots ----

PANEL_WIDTH, PANEL_HEIGHT, COLUMNS = 270, 205, 4
LEFT, RIGHT, TOP, BOTTOM = 48, 22, 34, 26


class Panel:
    """One measure: a line for each target, and dashed what the bound's growth looks like."""

    def __init__(self, svg, x, y, lines):
        self.svg, self.x, self.y = svg, x, y
        every = [point for line in lines.values() for point in line]
        sizes = [size for size, _ in every]
        low = self._decades(sizes)[0]
        self.decades_x = low, max(math.log10(max(sizes)), low + 1)   # no room on the right
        self.decades_y = self._decades([value for _, value in every])

    @staticmethod
    def _decades(values):
        """The whole decades around them."""
        low, high = math.floor(math.log10(min(values)) + 1e-9), math.ceil(math.log10(max(values)) - 1e-9)
        return low, max(high, low + 1)

    def place(self, size, value):
        def part(decades, number):
            return (math.log10(number) - decades[0]) / (decades[1] - decades[0])
        return (self.x + LEFT + part(self.decades_x, size) * (PANEL_WIDTH - LEFT - RIGHT),
                self.y + PANEL_HEIGHT - BOTTOM - part(self.decades_y, value) * (PANEL_HEIGHT - TOP - BOTTOM))

    def axes(self, title, unit):
        words, at = title.split(), 0
        for row in range(2):   # in two lines at most
            line = ""
            while at < len(words) and (row == 1 or len(line) + len(words[at]) < 44):
                line += words[at] + " "
                at += 1
            self.svg.text(self.x + 8, self.y + 13 + 12 * row, line.strip() + (f" [{unit}]" if at == len(words) and line else ""), font_size=10)
        for exponent in range(self.decades_x[0], math.floor(self.decades_x[1]) + 1):
            x, y = self.place(10 ** exponent, 10 ** self.decades_y[0])
            self.svg.line(x, y, x, self.y + TOP, stroke="#e4e4e4")
            self.svg.text(x, y + 14, power(exponent), text_anchor="middle", font_size=10)
        for exponent in range(self.decades_y[0], self.decades_y[1] + 1):
            x, y = self.place(10 ** self.decades_x[0], 10 ** exponent)
            self.svg.line(x, y, self.x + PANEL_WIDTH - RIGHT, y, stroke="#e4e4e4")
            self.svg.text(x - 5, y + 4, power(exponent), text_anchor="end", font_size=10)

    def bound(self, measure, line):
        """Through the first of the points that are judged; cut off where the panel ends."""
        if not measure.growth:
            return
        start = next(index for index, (x, _) in enumerate(line) if x * 100 >= line[-1][0])
        first_x, first_value = line[start]
        dashed = []
        for step in range(41):
            x = first_x * (line[-1][0] / first_x) ** (step / 40)
            grown = BOUNDS[measure.growth](x) / BOUNDS[measure.growth](first_x)
            value = first_value / grown if measure.rate else first_value * grown
            if self.decades_y[0] <= math.log10(value) + 1e-9 and math.log10(value) - 1e-9 <= self.decades_y[1]:
                dashed.append(self.place(x, value))
        self.svg.polyline(dashed, stroke="#999", stroke_dasharray="4 3")

    def line(self, line, colour, kept):
        self.svg.polyline([self.place(x, value) for x, value in line], stroke=colour, stroke_width=1.8)
        for x, value in line:
            self.svg.circle(*self.place(x, value), 2, fill=colour)
        if not kept:
            x, y = self.place(*line[-1])
            self.svg.text(x + 3, y + 5, "✗", fill=colour, font_size=15, font_weight="bold")


def power(exponent):
    return f"{10 ** exponent:,}" if 0 <= exponent <= 4 else f"{10.0 ** exponent:g}" if -3 <= exponent < 0 else f"1e{exponent}"


def plot(points, curve, targets, tolerance=TOLERANCE):
    shown = []
    for measure in curve.measures:
        lines = {t: [(x, v) for x, v in series(points, curve, measure, t) if v > 0] for t in targets}
        lines = {t: line for t, line in lines.items() if line}
        if lines:
            shown.append((measure, lines))
    rows = math.ceil(len(shown) / COLUMNS) or 1
    svg = Svg(PANEL_WIDTH * min(COLUMNS, max(len(shown), 1)), 26 + rows * PANEL_HEIGHT)
    svg.text(8, 17, f"{curve.title}: over the number of {curve.x}; dashed: as the bound grows", font_weight="bold")
    at = 700
    for target in targets:
        svg.line(at, 13, at + 22, 13, stroke=COLOURS[target], stroke_width=2)
        svg.text(at + 27, 17, target)
        at += 100
    for index, (measure, lines) in enumerate(shown):
        panel = Panel(svg, index % COLUMNS * PANEL_WIDTH, 26 + index // COLUMNS * PANEL_HEIGHT, lines)
        panel.axes(measure.title, measure.unit)
        for line in lines.values():
            panel.bound(measure, line)
        for target, line in lines.items():
            verdict = judge(measure, line, tolerance)
            panel.line(line, COLOURS[target], not verdict or verdict.kept)
    return svg
