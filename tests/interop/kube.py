# SPDX-License-Identifier: Apache-2.0
"""kube.py URL TOKEN NAMESPACE: what clients of Kubernetes do, with everything checked. Run by kube-apiserver.sh."""
import collections
import json
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request

URL, TOKEN, NAMESPACE = sys.argv[1:]
CONTEXT = ssl._create_unverified_context()  # the API server signs its own certificate
OBJECTS = 300
MAPS = f"/api/v1/namespaces/{NAMESPACE}/configmaps"


def request(method, path, body=None):
    data = json.dumps(body).encode() if body is not None else None
    headers = {"Authorization": "Bearer " + TOKEN, "Content-Type": "application/json"}
    return urllib.request.Request(URL + path, method=method, data=data, headers=headers)


def call(method, path, body=None):
    try:
        with urllib.request.urlopen(request(method, path, body), context=CONTEXT, timeout=60) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return json.load(error)


def check(good, what):
    if not good:
        print(f"# {NAMESPACE}: {what}")
        sys.exit(1)


def wait_until_ready():
    for _ in range(120):
        try:
            with urllib.request.urlopen(request("GET", "/readyz"), context=CONTEXT, timeout=5) as answer:
                if answer.read() == b"ok":
                    return
        except OSError:
            pass
        time.sleep(0.5)
    check(False, "the API server is not ready after a minute")


def watch(revision, events):
    path = f"{MAPS}?watch=1&timeoutSeconds=120&resourceVersion={revision}"
    with urllib.request.urlopen(request("GET", path), context=CONTEXT, timeout=120) as stream:
        for line in stream:
            events.append(json.loads(line))
            if events[-1]["type"] == "DELETED" and sum(e["type"] == "DELETED" for e in events) == OBJECTS:
                return


def page_through(limit):
    names, token = [], ""
    while True:
        path = f"{MAPS}?limit={limit}" + (f"&continue={token}" if token else "")
        answer = call("GET", path)
        check("items" in answer, f"list: {answer}")
        names += [item["metadata"]["name"] for item in answer["items"]]
        remaining = answer["metadata"].get("remainingItemCount", 0)
        check(remaining == OBJECTS - len(names), f"remaining is {remaining} after {len(names)}")
        token = answer["metadata"].get("continue")
        if not token:
            return names


def main():
    wait_until_ready()
    created = call("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    check(created.get("kind") == "Namespace", f"namespace: {created}")
    revision = call("GET", MAPS)["metadata"]["resourceVersion"]
    events = []
    watcher = threading.Thread(target=watch, args=(revision, events), daemon=True)
    watcher.start()
    for i in range(OBJECTS):
        made = call("POST", MAPS, {"metadata": {"name": f"map-{i:03}"}, "data": {"text": "x" * 200}})
        check(made.get("kind") == "ConfigMap", f"create: {made}")
    again = call("POST", MAPS, {"metadata": {"name": "map-000"}})
    check(again.get("reason") == "AlreadyExists", f"second create: {again}")
    names = page_through(70)
    check(names == [f"map-{i:03}" for i in range(OBJECTS)], f"pages: {len(names)} names")
    stale = call("GET", MAPS + "/map-005")
    fresh = call("PUT", MAPS + "/map-005", {**stale, "data": {"text": "new"}})
    check(fresh.get("data") == {"text": "new"}, f"update: {fresh}")
    conflict = call("PUT", MAPS + "/map-005", stale)
    check(conflict.get("reason") == "Conflict", f"stale update: {conflict}")
    check(call("DELETE", MAPS + "/map-006").get("status") == "Success", "delete")
    check(call("DELETE", MAPS).get("kind") == "ConfigMapList", "delete all")
    watcher.join(60)
    seen = collections.Counter(event["type"] for event in events)
    check(seen == {"ADDED": OBJECTS, "MODIFIED": 1, "DELETED": OBJECTS}, f"events: {seen}")
    revisions = [int(event["object"]["metadata"]["resourceVersion"]) for event in events]
    check(revisions == sorted(revisions), "events out of order")


main()
