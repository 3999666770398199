#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""curves.py and pages.py on curves whose growth is known: what is marked, and that tables, plots and the page are whole."""
import math
import pathlib
import sys
import tempfile
import xml.dom.minidom

import curves
import pages

SIZES = (1000, 10000, 100000, 1000000)


def measure(growth, **more):
    return curves.Measure("it", "it", "µs", growth, "its bound", **more)


def kept(growth, cost, **more):
    return curves.judge(measure(growth, **more), [(x, cost(x)) for x in SIZES]).kept


def what_grows_as_its_bound_is_kept():
    assert kept("1", lambda x: 20)
    assert kept("log", lambda x: 3 * math.log2(x))
    assert kept("x", lambda x: 0.5 * x)
    assert kept("x", lambda x: 70000 + 0.5 * x)


def what_grows_faster_is_marked():
    assert not kept("1", lambda x: x ** 0.2)
    assert not kept("log", lambda x: x ** 0.3)
    assert not kept("log", lambda x: x)
    assert not kept("x", lambda x: x * x)
    assert not kept("x", lambda x: x ** 1.2)


def only_the_last_two_decades_count():
    line = [(1000, 1), (10000, 50), (100000, 50), (1000000, 50)]
    assert curves.judge(measure("1"), line).kept
    assert abs(curves.judge(measure("1"), line).exponent) < 1e-9


def a_rate_is_judged_by_the_time_of_one():
    assert kept("1", lambda x: 5000, rate=True)
    assert kept("1", lambda x: 5000 * x, rate=True)
    assert not kept("1", lambda x: 1e6 / x, rate=True)
    assert kept("x", lambda x: 1e6 / x, rate=True)


def below_the_floor_nothing_grows():
    assert kept("1", lambda x: x / 1e6, floor=2)
    assert not kept("1", lambda x: x / 1e6, floor=0.001)


def one_point_is_no_curve():
    assert curves.judge(measure("1"), [(10, 1)]) is None
    assert curves.judge(measure("1"), []) is None


def points():
    """All measures as their bounds have it, but for one."""
    found = []
    for curve in curves.CURVES:
        for x in (1, 10, 100, 1000):
            for target in ("etcd", "sqlite"):
                values = {}
                for one in curve.measures:
                    cost = 1000 * curves.BOUNDS[one.growth or "1"](x)
                    values[one.name] = 1e6 / cost if one.rate else cost
                if target == "etcd" and curve.name == "keys":
                    values["page_cpu"] = 7.0 * x
                found.append({"curve": curve.name, "x": x, "target": target, "round": 0, "values": values})
    return found


def tables_and_plots_are_whole():
    every = points()
    assert curves.broken(every, ["etcd", "sqlite"]) == [
        "- etcd: Keys: page of 500 keys at a random place: processor time of the server: 10.00× a decade, O(page + log n) allows 1.73×"]
    for curve in curves.CURVES:
        lines = curves.table(every, curve, ["etcd", "sqlite"])
        assert len(lines) == 2 + 2 * len(curve.measures), lines
        assert len({line.count("|") for line in lines}) == 1, lines
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "plot.svg")
            curves.plot(every, curve, ["etcd", "sqlite"]).write(path)
            text = path.read_text()
        xml.dom.minidom.parseString(text)
        assert "nan" not in text and "inf" not in text
        assert ("✗" in text) == (curve.name == "keys")


def a_section_takes_the_place_of_the_one_before():
    with tempfile.TemporaryDirectory() as folder:
        page = pathlib.Path(folder, "page.md")
        page.write_text("# A page\n\n<!-- other -->\nkept\n<!-- /other -->\n")
        pages.put_section(page, "growth", ["first"])
        pages.put_section(page, "growth", ["second", ""])
        assert page.read_text() == "# A page\n\n<!-- other -->\nkept\n<!-- /other -->\n\n<!-- growth -->\nsecond\n<!-- /growth -->\n"


TESTS = [what_grows_as_its_bound_is_kept, what_grows_faster_is_marked, only_the_last_two_decades_count, a_rate_is_judged_by_the_time_of_one,
         below_the_floor_nothing_grows, one_point_is_no_curve, tables_and_plots_are_whole, a_section_takes_the_place_of_the_one_before]


def main():
    failed = False
    print(f"1..{len(TESTS)}")
    for at, test in enumerate(TESTS, 1):
        try:
            test()
            print(f"ok {at} - {test.__name__}")
        except AssertionError as e:
            failed = True
            print(f"not ok {at} - {test.__name__}: line {e.__traceback__.tb_next.tb_lineno if e.__traceback__.tb_next else '?'}: {e}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
