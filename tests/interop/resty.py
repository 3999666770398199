#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Replays what APISIX's etcd client (lua-resty-etcd) sends, byte for byte in form, and checks what that client relies on.

usage: resty.py HOST:PORT [HOST:PORT]     prints TAP; with a second server of the same database, reads happen there too

The client speaks JSON over HTTP/1.1 without a Content-Type, sends every field of a range with its default, writes
requests in two spellings, and takes an empty list or a "0" for something that is there.
"""
import base64
import http.client
import json
import socket
import sys
import time

servers = sys.argv[1:]
if not servers:
    sys.exit(__doc__)

AGENT = "lua-resty-http/0.17.1 (Lua) ngx_lua/10023"
count = failed = 0


def b64(text):
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def text(value):
    return base64.b64decode(value).decode()


def post(path, body, server=0, token=None):
    """Status and raw body of one call, as the client sends it."""
    connection = http.client.HTTPConnection(servers[server % len(servers)], timeout=30)
    connection.putrequest("POST", "/v3" + path, skip_accept_encoding=True)
    data = body.encode() if isinstance(body, str) else json.dumps(body, separators=(",", ":")).encode()
    connection.putheader("User-Agent", AGENT)
    connection.putheader("Content-Length", str(len(data)))
    if token:
        connection.putheader("Authorization", token)
    connection.endheaders(data)
    response = connection.getresponse()
    raw = response.read().decode()
    connection.close()
    lint(raw)
    return response.status, json.loads(raw) if raw.strip() else None


def lint(raw):
    """What the client would misread, in any response."""
    for wrong in ('"kvs":[]', '"deleted":"0"', '"compact_revision":"0"', '"count":"0"', '"more":false', '"events":[]'):
        assert wrong not in raw, f"{wrong} in {raw[:200]}"


def ok(path, body, server=0, token=None):
    status, answer = post(path, body, server, token)
    assert status == 200, f"{path}: {status} {answer}"
    return answer


def put(key, value, **more):
    return ok("/kv/put", {"value": b64(value), "key": b64(key), **more})


def range_body(key, range_end=None, **more):
    body = {"key": b64(key)}
    if range_end is not None:
        body["range_end"] = b64(range_end)
    body.update({"limit": 0, "revision": 0, "sort_order": 0, "sort_target": 0, "serializable": False,
                 "keys_only": False, "count_only": False, "min_mod_revision": 0, "max_mod_revision": 0,
                 "min_create_revision": 0, "max_create_revision": 0})
    body.update(more)
    return body


def read_dir(prefix, server=1):
    end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    return ok("/kv/range", range_body(prefix, end), server)


def keys(answer):
    return [text(kv["key"]) for kv in answer.get("kvs", [])]


def revision(answer):
    return int(answer["header"]["revision"])


class Watch:
    """A stream as the client holds it: one POST, then lines of a chunked response."""

    def __init__(self, create, server=1):
        host, port = servers[server % len(servers)].rsplit(":", 1)
        body = json.dumps({"create_request": create}).encode()
        self.socket = socket.create_connection((host, int(port)), timeout=30)
        self.socket.sendall(b"POST /v3/watch HTTP/1.1\r\nHost: %s\r\nUser-Agent: %s\r\nContent-Length: %d\r\n\r\n" % (
            servers[server % len(servers)].encode(), AGENT.encode(), len(body)) + body)
        self.file = self.socket.makefile("rb")
        status = self.file.readline().split()
        assert status[1] == b"200", status
        headers = {}
        while (line := self.file.readline().strip()):
            name, value = line.split(b":", 1)
            headers[name.lower()] = value.strip()
        assert headers.get(b"transfer-encoding") == b"chunked", headers
        self.pending = b""

    def line(self):
        while b"\n" not in self.pending:
            size = int(self.file.readline(), 16)
            if size == 0:
                return None
            self.pending += self.file.read(size)
            self.file.readline()
        line, self.pending = self.pending.split(b"\n", 1)
        lint(line.decode())
        assert line.strip(), "an empty line"
        return json.loads(line)

    def events(self, wanted):
        """Lines with events, until there are as many events; the revisions of lines must rise."""
        lines, seen = [], 0
        while seen < wanted:
            result = self.line()["result"]
            if "events" in result:
                assert not lines or revision(result) > revision(lines[-1]), "revisions of lines must rise"
                lines.append(result)
                seen += len(result["events"])
        return lines

    def close(self):
        self.file.close()
        self.socket.close()


def version():
    connection = http.client.HTTPConnection(servers[0], timeout=10)
    connection.request("GET", "/version", headers={"Connection": "close, TE", "TE": "trailers"})
    body = json.loads(connection.getresponse().read())
    for field in ("etcdserver", "etcdcluster"):
        parts = body[field].split("-")
        assert len(parts) <= 2 and len(parts[0].split(".")) == 3, body
    assert tuple(map(int, body["etcdcluster"].split("-")[0].split("."))) >= (3, 4, 0), body


DIRS = ["routes", "upstreams", "services", "plugins", "consumers", "ssls", "protos", "global_rules", "plugin_metadata",
        "plugin_configs", "consumer_groups", "secrets", "stream_routes"]


def empty_directory():
    answer = read_dir("/apisix")
    assert set(answer) == {"header"}, answer
    assert answer["header"]["revision"].isdigit() and "raft_term" in answer["header"], answer


def placeholders():
    for name in DIRS:
        status, answer = post("/kv/put", '{"value":"%s", "key":"%s"}' % (b64("init_dir"), b64(f"/apisix/{name}/")))
        assert status == 200 and "error" not in json.dumps(answer), answer
        assert "prev_kv" not in answer, answer
    for number in ("1", "10", "11"):
        put(f"/apisix/routes/{number}", json.dumps({"uri": "/" + number}))
    answer = read_dir("/apisix")
    assert keys(answer) == sorted(keys(answer)), "ascending by key"
    at = keys(answer).index("/apisix/routes/")
    assert keys(answer)[at + 1] == "/apisix/routes/1"
    assert answer["count"] == str(len(DIRS) + 3), answer["count"]
    kv = answer["kvs"][at]
    assert kv["create_revision"].isdigit() and kv["mod_revision"].isdigit(), kv


def one_resource():
    answer = ok("/kv/range", range_body("/apisix/routes/1", "/apisix/routes/2"), 1)
    assert keys(answer)[0] == "/apisix/routes/1" and len(keys(answer)) == 3, keys(answer)
    assert set(ok("/kv/range", range_body("/apisix/routes/missing"), 1)) == {"header"}


def put_with_previous():
    assert "prev_kv" not in put("/apisix/routes/2", "{}", prev_kv=True)
    answer = put("/apisix/routes/2", '{"a":1}', prev_kv=True)
    assert text(answer["prev_kv"]["value"]) == "{}", answer


def compare_and_swap():
    mod = revision(put("/apisix/routes/3", "old"))

    def swap(spelling, mod_revision):
        return ok("/kv/txn", {"compare": [{"key": b64("/apisix/routes/3"), "target": "MOD", "result": "EQUAL",
                                           "mod_revision": mod_revision}],
                              "success": [{spelling: {"key": b64("/apisix/routes/3"), "value": b64("new")}}]})

    answer = swap("requestPut", mod)
    assert answer["succeeded"] is True, answer
    mod = revision(answer)
    stale = swap("requestPut", mod - 1)
    assert not stale.get("succeeded"), stale
    assert swap("request_put", str(mod))["succeeded"] is True
    now = revision(swap("request_put", mod))  # stale again
    # setnx: no result means EQUAL; nothing is written, so no revision is used.
    answer = ok("/kv/txn", {"compare": [{"key": b64("/apisix/routes/3"), "target": "CREATE", "createRevision": 0}],
                            "success": [{"requestPut": {"key": b64("/apisix/routes/3"), "value": b64("x")}}]})
    assert not answer.get("succeeded") and revision(answer) == now, answer
    answer = ok("/kv/txn", {"compare": [{"key": b64("/apisix/routes/4"), "target": "CREATE", "createRevision": 0}],
                            "success": [{"requestPut": {"key": b64("/apisix/routes/4"), "value": b64("x")}}]})
    assert answer["succeeded"] is True, answer
    # setx writes into the other branch.
    answer = ok("/kv/txn", {"compare": [{"key": b64("/apisix/routes/4"), "target": "CREATE", "createRevision": 0}],
                            "failure": [{"requestPut": {"key": b64("/apisix/routes/4"), "value": b64("y")}}]})
    assert not answer.get("succeeded") and "responses" in answer, answer


def deletes():
    answer = ok("/kv/deleterange", {"key": b64("/apisix/routes/missing")})
    assert "deleted" not in answer, answer
    put("/apisix/consumers/jack/credentials/1", "{}")
    put("/apisix/consumers/jack/credentials/2", "{}")
    put("/apisix/consumers/jack/credentialsX", "{}")
    before = revision(put("/apisix/consumers/jack", "{}"))
    answer = ok("/kv/deleterange", {"key": b64("/apisix/consumers/jack/credentials/"),
                                    "range_end": b64("/apisix/consumers/jack/credentials0"), "prev_kv": True})
    assert answer["deleted"] == "2" and len(answer["prev_kvs"]) == 2 and revision(answer) == before + 1, answer
    answer = ok("/kv/deleterange", {"key": b64("/apisix/consumers/jack")})
    assert answer["deleted"] == "1" and "prev_kvs" not in answer, answer


def numbers():
    for written in ("1", '"1"'):
        status, answer = post("/kv/range", '{"key":"%s","limit":%s}' % (b64("/apisix/"), written))
        assert status == 200, answer
    # As cjson writes a large one. It is a revision of the future.
    status, answer = post("/kv/range", '{"key":"%s","revision":1e+15}' % b64("/apisix/"))
    assert status == 400 and answer["error"] == "etcdserver: mvcc: required revision is a future revision", answer
    assert isinstance(answer["code"], int) and answer["message"] == answer["error"], answer


def special_keys():
    for key in ("/apisix/x/a.b-c+d%e", "/apisix/x/ключ"):
        start = revision(put(key, "1"))
        assert keys(ok("/kv/range", range_body(key), 1)) == [key]
        watch = Watch({"key": b64(key), "start_revision": start})
        assert text(watch.events(1)[0]["events"][0]["kv"]["key"]) == key
        watch.close()


def leases():
    answer = ok("/lease/grant", {"TTL": 2, "ID": 0})
    lease = answer["ID"]
    assert lease.isdigit(), answer
    start = revision(put("/data_plane/server_info/1", "{}", lease=lease))
    began = time.monotonic()
    alive = ok("/lease/keepalive", {"ID": lease})
    assert alive["result"]["TTL"] == "2" and alive["result"]["ID"] == lease, alive
    assert time.monotonic() - began < 5, "a keepalive is one answer, and then the end"
    watch = Watch({"key": b64("/data_plane/"), "range_end": b64("/data_plane0"), "start_revision": start + 1})
    event = watch.events(1)[0]["events"][0]
    assert event["type"] == "DELETE" and "value" not in event["kv"], event
    watch.close()
    # Unknown: an answer without a TTL.
    gone = ok("/lease/keepalive", {"ID": "404"})
    assert "TTL" not in gone["result"], gone
    for path in ("/kv/lease/timetolive", "/lease/timetolive"):
        assert ok(path, {"ID": "404"})["TTL"] == "-1"
    status, answer = post("/kv/lease/revoke", {"ID": "404"})
    assert status == 404 and answer["error"] == "etcdserver: requested lease not found", answer
    ok("/lease/leases", {})


def watch_stream():
    start = revision(put("/apisix/w", "0"))
    began = time.monotonic()
    watch = Watch({"key": b64("/apisix/"), "range_end": b64("/apisix0"), "start_revision": start + 1})
    first = watch.line()
    assert first["result"]["created"] is True and "events" not in first["result"], first
    assert time.monotonic() - began < 5, "the first line comes though there are no events"
    for number in range(50):
        put("/apisix/routes/w", str(number))
    seen = [text(event["kv"]["value"]) for line in watch.events(50) for event in line["events"]]
    assert seen == [str(number) for number in range(50)], seen
    # Three puts in one transaction: one line.
    answer = ok("/kv/txn", {"success": [{"requestPut": {"key": b64(f"/apisix/t/{n}"), "value": b64("x")}}
                                        for n in range(3)]})
    line = watch.events(1)[0]
    assert len(line["events"]) == 3 and revision(line) == revision(answer), line
    assert all("type" not in event for event in line["events"]), "a put has no type"
    ok("/kv/deleterange", {"key": b64("/apisix/t/0")})
    event = watch.events(1)[0]["events"][0]
    assert event["type"] == "DELETE" and set(event["kv"]) == {"key", "mod_revision"}, event
    watch.close()


def watch_history_and_compaction():
    start = revision(put("/apisix/h", "0"))
    for number in range(200):
        put("/apisix/h", str(number))
    watch = Watch({"key": b64("/apisix/"), "range_end": b64("/apisix0"), "start_revision": start + 1})
    assert watch.line()["result"]["created"] is True
    seen = [text(event["kv"]["value"]) for line in watch.events(200) for event in line["events"]]
    assert seen == [str(number) for number in range(200)], "all of the past, once, in order"
    watch.close()
    compacted = start + 100
    ok("/kv/compaction", {"revision": str(compacted)})
    read_dir("/apisix", 1)  # the other server has heard of it
    watch = Watch({"key": b64("/apisix/"), "range_end": b64("/apisix0"), "start_revision": start})
    while "compact_revision" not in (result := watch.line()["result"]):
        assert result.get("created"), result
    assert result["canceled"] is True and int(result["compact_revision"]) == compacted, result
    watch.close()
    # The client goes on at exactly that revision.
    watch = Watch({"key": b64("/apisix/"), "range_end": b64("/apisix0"), "start_revision": compacted})
    assert watch.line()["result"]["created"] is True
    assert len(watch.events(101)) > 0
    watch.close()


def generated_ids():
    before = 0
    for _ in range(3):
        now = revision(put("/apisix/gen_id", "1"))
        assert now > before
        before = now


def large_directory():
    """More than 16 MiB of JSON in one answer."""
    value = "v" * 8000
    for start in range(0, 2000, 100):
        ok("/kv/txn", {"success": [{"requestPut": {"key": b64(f"/big/{n:05d}"), "value": b64(value)}}
                                   for n in range(start, start + 100)]})
    answer = read_dir("/big")
    assert len(answer["kvs"]) == 2000 and text(answer["kvs"][-1]["value"]) == value
    ok("/kv/deleterange", {"key": b64("/big/"), "range_end": b64("/big0")})


def reads_follow_writes():
    for number in range(50):
        written = revision(put("/apisix/r", str(number)))
        answer = ok("/kv/range", range_body("/apisix/r"), number)
        assert revision(answer) >= written and text(answer["kvs"][0]["value"]) == str(number), answer


def pooled_connection():
    """Requests one after the other on one connection."""
    connection = http.client.HTTPConnection(servers[0], timeout=10)
    for number in range(20):
        connection.request("POST", "/v3/kv/range", json.dumps(range_body("/apisix/r")))
        response = connection.getresponse()
        assert response.status == 200 and response.read()
    connection.close()


TESTS = [version, empty_directory, placeholders, one_resource, put_with_previous, compare_and_swap, deletes, numbers,
         special_keys, leases, watch_stream, watch_history_and_compaction, generated_ids, large_directory,
         reads_follow_writes, pooled_connection]

for test in TESTS:
    count += 1
    try:
        test()
        print(f"ok {count} - {test.__name__}", flush=True)
    except Exception as error:  # a failed assertion, a broken connection, JSON that is none
        failed += 1
        print(f"not ok {count} - {test.__name__}\n# {type(error).__name__}: {error}"[:2000], flush=True)
print(f"1..{count}")
sys.exit(1 if failed else 0)
