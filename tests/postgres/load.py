#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""
load.py write FILE URL…: puts acked/0, acked/1, … one after the other through the JSON gateway, at any of the servers, until
there is a file FILE.stop, or for two minutes. A line "number revision" for each put that was acknowledged goes to FILE.
load.py check FILE URL: all of them are there, with these revisions, and no two have the same. Prints what is wrong.
"""
import base64
import json
import os
import sys
import time
import urllib.error
import urllib.request


def call(url, path, body, seconds):
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=seconds) as answer:
        return json.load(answer)


def b64(text):
    return base64.b64encode(text.encode()).decode()


def write(name, urls):
    with open(name, "w", buffering=1) as acked:
        number = 0
        end = time.monotonic() + 120
        while not os.path.exists(name + ".stop") and time.monotonic() < end:
            body = {"key": b64("acked/%d" % number), "value": b64(str(number))}
            try:
                answer = call(urls[number % len(urls)], "/v3/kv/put", body, 3)
                acked.write("%d %s\n" % (number, answer["header"]["revision"]))
            except (OSError, urllib.error.URLError, ValueError):
                pass  # whether it was done is not known: it may be there or not
            number += 1


def check(name, url):
    found = {}
    answer = call(url, "/v3/kv/range", {"key": b64("acked/"), "range_end": b64("acked0")}, 20)
    for kv in answer.get("kvs", []):
        found[base64.b64decode(kv["key"]).decode()] = (base64.b64decode(kv["value"]).decode(), kv["mod_revision"])
    wrong, revisions, count = [], set(), 0
    for line in open(name):
        number, revision = line.split()
        count += 1
        if found.get("acked/" + number) != (number, revision):
            wrong.append("put %s was acknowledged at %s, and is %s" % (number, revision, found.get("acked/" + number)))
        if revision in revisions:
            wrong.append("revision %s was given twice" % revision)
        revisions.add(revision)
    print("%d acknowledged, %d found, %d wrong" % (count, len(found), len(wrong)))
    print("\n".join(wrong[:5]))
    return 1 if wrong or count == 0 else 0


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2], sys.argv[3:])
    else:
        sys.exit(check(sys.argv[2], sys.argv[3]))
