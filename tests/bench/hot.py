#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Instructions of the hot paths, counted by callgrind, beside what they were: a slowdown is noticed on a machine of any mood.

hot.py [--update]      TAP; a point fails when a path takes 10 % more instructions than tests/bench/hot.baseline says, or 3 % less: then the baseline is
                       stale, and a slowdown would be noticed late. --update writes it anew, for the commit that changed the path.

The numbers are the same in each run. One request's instructions are the difference of two runs with different counts, so that the start costs nothing. The compiler has its say, so
the baseline names it; with another one, or with sanitizers, the points are skipped, and say so."""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("top_builddir") or TOP / "build").resolve()
PROGRAM = BUILD / "tests" / "bench" / "hot"
BASELINE = TOP / "tests" / "bench" / "hot.baseline"
# Of each a run with few and one with many.
PATHS = {"put": (500, 1500), "update": (500, 1500), "get": (500, 1500), "range": (500, 1500), "event": (500, 1500), "batch": (50, 150),
         "json": (100, 300)}
LEAST, MOST = 0.97, 1.10


def count(path, number):
    with tempfile.NamedTemporaryFile(prefix="callgrind-") as out:
        done = subprocess.run(["valgrind", "--tool=callgrind", f"--callgrind-out-file={out.name}", str(PROGRAM), path, str(number)],
                              capture_output=True, text=True, timeout=300)
        found = re.search(r"Collected\s*:\s*(\d+)", done.stderr)
        if done.returncode != 0 or not found:
            raise RuntimeError(f"{path}: {done.stderr[-500:]}")
        return int(found.group(1))


def compiler():
    """What the program was built with: the line of the build's summary, without sanitizers."""
    text = subprocess.run([str(BUILD / "kineshim" / "kineshim"), "--version", "--verbose"], capture_output=True, text=True).stdout
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    if fields.get("build", "").split() not in (["plain"], ["werror"]):
        return None
    flags = [flag for flag in fields.get("flags", "").split() if flag.startswith("-O")]
    return f"{fields.get('compiler', '').strip()} {' '.join(flags)}"


def main():
    ours = compiler()
    counts = {}
    baseline = {}
    if BASELINE.exists():
        for line in BASELINE.read_text().splitlines():
            name, value = line.split("\t", 1)
            baseline[name] = value
    if "--update" not in sys.argv:
        print(f"1..{len(PATHS)}")
        if ours != baseline.get("compiler"):
            for at, path in enumerate(PATHS, 1):
                print(f"ok {at} - {path} # SKIP built with {ours or 'sanitizers'}, the baseline is of {baseline.get('compiler')}")
            return 0
    failed = False
    for at, (path, (few, many)) in enumerate(PATHS.items(), 1):
        counts[path] = (count(path, many) - count(path, few)) / (many - few)
        if "--update" in sys.argv:
            continue
        before = float(baseline.get(path, "nan"))   # which fails, too
        good = before * LEAST <= counts[path] <= before * MOST
        failed = failed or not good
        print(f"{'ok' if good else 'not ok'} {at} - {path}: {counts[path]:,.0f} instructions, {counts[path] / before:.2f} of the baseline", flush=True)
        if counts[path] < before * LEAST:
            print(f"# {path} has become cheaper: top_builddir=build tests/bench/hot.py --update keeps it so")
    if "--update" in sys.argv:
        BASELINE.write_text(f"compiler\t{ours}\n" + "".join(f"{path}\t{counts[path]:.0f}\n" for path in PATHS))
        print(BASELINE.read_text(), end="")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
