# SPDX-License-Identifier: Apache-2.0
"""What programs that write pages of figures have in common: names on their command line, the machine, a section between its marks, raw numbers, the frame
of a plot."""
import json
import os
import pathlib
import re
import sys
from xml.sax.saxutils import escape


def words(text):
    """Of an option that is a list."""
    return [word for word in text.split(",") if word]


def must_know(parser, kind, given, known):
    for word in given:
        if word not in known:
            parser.error(f"no {kind} {word}: {', '.join(known)}")


def command_line(name):
    """What was typed, without the place that raw numbers go to besides, or come from."""
    return re.sub(r" --(output|from)[ =]\S+", "", " ".join([f"./dev bench {name}", *sys.argv[1:]]))


def put_raw(page, name, records):
    """Raw numbers beside the page, a line for each; how the page calls them."""
    path = pathlib.Path(page).with_name(f"benchmarks-{name}.jsonl")
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return f"Raw numbers: [{path.name}]({path.name})."


def machine():
    model = next((line.split(":")[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), "unknown")
    return f"{os.cpu_count()} × {model}"


def put_section(page, name, lines):
    """Puts the lines between <!-- name --> and <!-- /name -->: in place of what is there, or at the end of the page."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    section = begin + "\n".join(lines).strip() + "\n" + end
    path = pathlib.Path(page)
    text = path.read_text()
    if begin in text:
        head, rest = text.split(begin, 1)
        text = head + section + rest.split(end, 1)[1]
    else:
        text = text.rstrip() + "\n\n" + section
    path.write_text(text)


class Svg:
    """A white picture of which the parts are added one by one."""

    def __init__(self, width, height):
        self.parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
                      'font-family="sans-serif" font-size="11">', f'<rect width="{width}" height="{height}" fill="white"/>']

    @staticmethod
    def _more(more):
        return "".join(f' {name.replace("_", "-")}="{value}"' for name, value in more.items())

    def text(self, x, y, text, **more):
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}"{self._more(more)}>{escape(text)}</text>')

    def line(self, x1, y1, x2, y2, **more):
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"{self._more(more)}/>')

    def rect(self, x, y, width, height, **more):
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"{self._more(more)}/>')

    def polyline(self, points, **more):
        place = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{place}" fill="none"{self._more(more)}/>')

    def circle(self, x, y, r, **more):
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}"{self._more(more)}/>')

    def write(self, path):
        pathlib.Path(path).write_text("\n".join(self.parts + ["</svg>"]) + "\n")
