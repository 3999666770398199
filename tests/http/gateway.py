#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""
The JSON gateway from outside. Prints TAP; KINESHIM names the program, by default the one of this build.

 - the same requests to kineshim and to a real etcd, where both must agree, compared field by field;
 - what lua-resty-etcd (Apache APISIX) sends and reads, exactly;
 - streams: watches, keepalives, snapshots, idle cursor lines, slow and leaving clients;
 - bad HTTP: pipelined, cut into pieces, malformed, too large, too slow.

Every answer of kineshim is checked for what the client of APISIX cannot bear (see lint). Only Python's standard library is used.
"""

import base64
import json
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback

WAIT = int(os.environ.get("KS_WAIT", "30"))  # seconds, for anything that must happen
TOP = os.environ.get("top_builddir", ".")
PROGRAM = os.path.realpath(os.environ.get("KINESHIM", os.path.join(TOP, "kineshim", "kineshim")))
BENCH = os.path.realpath(os.path.join(TOP, "tests", "bench", "kineshim-bench"))


class Failed(Exception):
    pass


def must(condition, *why):
    if not condition:
        raise Failed(" ".join(str(part) for part in why))


def same(got, wanted, *where):
    must(got == wanted, *where, "\n  got   ", repr(got)[:2000], "\n  wanted", repr(wanted)[:2000])


def b64(text):
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def until(condition, what, limit=WAIT):
    end = time.monotonic() + limit
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise Failed("in vain: " + what)


# ---- servers ----


class Server:
    """A process that ends with the test, and its port."""

    def __init__(self, name, folder):
        self.name, self.folder = name, folder
        self.log = os.path.join(folder, name + ".log")

    def spawn(self, command):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def stop(self, how=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(WAIT)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode


def start_kineshim(folder, name, *flags):
    server = Server(name, folder)
    server.spawn([PROGRAM, "--log-format=console", "--data-dir=" + os.path.join(folder, name),
                  "--listen-client-urls=http://127.0.0.1:0", *flags])

    def ready():
        must(server.process.poll() is None, "kineshim did not start:", open(server.log).read())
        return re.search(r"ready to serve.*urls=http://127.0.0.1:(\d+)", open(server.log).read())

    server.port = int(until(ready, "kineshim's start").group(1))
    return server


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_etcd(folder):
    program = os.environ.get("KS_TEST_ETCD_BIN", "etcd")
    must(shutil.which(program), "no etcd (Debian: etcd-server)")
    for _ in range(5):  # somebody may be faster to take a port
        server = Server("etcd", tempfile.mkdtemp(dir=folder))
        server.port, peer = free_port(), free_port()
        client, peer = "http://127.0.0.1:%d" % server.port, "http://127.0.0.1:%d" % peer
        server.spawn([program, "--name=test", "--data-dir=" + os.path.join(server.folder, "data"),
                      "--listen-client-urls=" + client, "--advertise-client-urls=" + client,
                      "--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
                      "--initial-cluster=test=" + peer])
        end = time.monotonic() + WAIT
        while server.process.poll() is None and time.monotonic() < end:
            try:
                if Client(server.port).get("/health").status == 200:
                    return server
            except OSError:
                pass
            time.sleep(0.05)
        server.stop(signal.SIGKILL)
    raise Failed("etcd did not start")


# ---- HTTP by hand: what is tested here is also the framing ----


class Answer:
    def __init__(self, status, headers, body, chunks):
        self.status, self.headers, self.body, self.chunks = status, headers, body, chunks

    def json(self):
        return json.loads(self.body)


class Connection:
    def __init__(self, port, wait=WAIT):
        self.socket = socket.create_connection(("127.0.0.1", port), wait)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def send(self, data):
        self.socket.sendall(data.encode() if isinstance(data, str) else data)

    def more(self):
        data = self.socket.recv(1 << 18)
        self.buffer += data
        return bool(data)

    def line(self):
        while b"\r\n" not in self.buffer:
            must(self.more(), "the connection ended in the middle of", self.buffer[:200])
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        return line.decode("latin-1")

    def exactly(self, size):
        while len(self.buffer) < size:
            must(self.more(), "the connection ended in the middle of a body")
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def head(self):
        parts = self.line().split(" ", 2)
        must(len(parts) == 3 and parts[0] == "HTTP/1.1", "no status line:", parts)
        headers = {}
        while True:
            line = self.line()
            if not line:
                return int(parts[1]), headers
            name, value = line.split(":", 1)
            headers[name.lower()] = value.strip()

    def chunk(self):
        """The next chunk's data; empty: the last one."""
        size = int(self.line().split(";")[0], 16)
        data = self.exactly(size)
        if size == 0:
            while self.line():  # trailers
                pass
        else:
            same(self.exactly(2), b"\r\n", "the end of a chunk")
        return data

    def answer(self, head_only=False):
        status, headers = self.head()
        chunks, body = [], b""
        if status == 100:
            return self.answer()
        if head_only:
            pass
        elif headers.get("transfer-encoding") == "chunked":
            while True:
                data = self.chunk()
                if not data:
                    break
                chunks.append(data)
            body = b"".join(chunks)
        elif "content-length" in headers:
            body = self.exactly(int(headers["content-length"]))
        else:
            while self.more():
                pass
            body, self.buffer = self.buffer, b""
        return Answer(status, headers, body, chunks)

    def ended(self):
        """True when the server closes, and sends nothing any more."""
        try:
            return not self.socket.recv(1)
        except ConnectionResetError:
            return True

    def reset(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self):
        self.socket.close()


def request(path, body="", method="POST", headers=()):
    data = body.encode() if isinstance(body, str) else body
    lines = ["%s %s HTTP/1.1" % (method, path), "Host: localhost", "Content-Length: %d" % len(data), *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + data


FORBIDDEN = [b'"kvs":[]', b'"deleted":"0"', b'"compact_revision":"0"', b'"count":"0"', b'"succeeded":false', b'"more":false']


def lint(answer):
    for text in FORBIDDEN:
        must(text not in answer.body, "never to be sent:", text, "in", answer.body[:500])
    if 200 <= answer.status < 300 and answer.headers.get("content-type") == "application/json":
        for line in answer.body.split(b"\n"):
            if line:
                json.loads(line)


class Client:
    """Sends requests over one connection; 'checked' for answers of kineshim."""

    def __init__(self, port, checked=False):
        self.port, self.checked, self.connection = port, checked, None

    def ask(self, data, head_only=False):
        if not self.connection:
            self.connection = Connection(self.port)
        self.connection.send(data)
        answer = self.connection.answer(head_only)
        if answer.headers.get("connection") == "close":
            self.connection.close()
            self.connection = None
        if self.checked:
            lint(answer)
        return answer

    def post(self, path, body="", headers=()):
        return self.ask(request(path, body if isinstance(body, (str, bytes)) else json.dumps(body), "POST", headers))

    def get(self, path, method="GET", headers=()):
        return self.ask(request(path, "", method, headers), method == "HEAD")

    def ok(self, path, body=""):
        answer = self.post(path, body)
        same(answer.status, 200, path, body, answer.body)
        return answer.json()

    def put(self, key, value=""):
        return int(self.ok("/v3/kv/put", {"key": b64(key), "value": b64(value)})["header"]["revision"])


class Stream:
    """A streaming request; each line is checked to be one chunk of its own."""

    def __init__(self, port, path, body, headers=()):
        self.connection = Connection(port)
        self.connection.send(request(path, body if isinstance(body, str) else json.dumps(body), "POST", headers))
        self.status, self.headers = self.connection.head()

    def next(self, wait=WAIT):
        """The next line's JSON; None at the end of the stream."""
        self.connection.socket.settimeout(wait)
        line = b""
        while not line.endswith(b"\n"):
            data = self.connection.chunk()
            if not data:
                same(line, b"", "a line without end")
                return None
            line += data
        same(line.count(b"\n"), 1, "lines in", line[:200])
        must(line.strip(), "an empty line")
        return json.loads(line)

    def silent(self, seconds):
        try:
            got = self.next(seconds)
        except (TimeoutError, socket.timeout):
            return True
        raise Failed("not silent: %r" % got)

    def close(self):
        self.connection.close()


def watch(server, key, **fields):
    stream = Stream(server.port, "/v3/watch", {"create_request": {"key": b64(key), **fields}})
    same(stream.status, 200)
    first = stream.next()["result"]
    same(first.get("created"), True, first)
    stream.created = first
    return stream


def metric(server, name):
    for line in Client(server.port).get("/metrics").body.decode().splitlines():
        if line.startswith(name + " "):
            return float(line.split()[1])
    return None


# ---- the oracle ----

# Identities differ by nature, and terms count other things.
MASKED = {"cluster_id", "member_id", "raft_term", "memberID"}


def masked(value):
    if isinstance(value, dict):
        return {key: "*" if key in MASKED else masked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [masked(item) for item in value]
    return value


FOO, FOP, ALL = b64("foo"), b64("fop"), b64(b"\0")

# Each in this order, on both; (path, body) or (path, body, what of the answer differs).
AGREED = [
    ("/v3/kv/range", {"key": FOO}),
    ("/v3/kv/put", {"key": FOO, "value": b64("bar")}),
    ("/v3/kv/put", '{"value":"%s", "key":"%s"}' % (b64("bar2"), FOO)),
    ("/v3/kv/put", {"key": FOO, "value": "", "prev_kv": True}),
    ("/v3/kv/put", {"key": FOO, "value": b64(bytes(range(256))), "prevKv": True}),
    ("/v3/kv/put", {"key": b64("foo/b"), "value": b64("x" * 5000)}),
    ("/v3/kv/put", {"key": b64(b"\xff\xfe\x00"), "value": b64(b"\x00")}),
    ("/v3/kv/range", {"key": FOO}),
    ("/v3/kv/range", {"key": FOO, "range_end": FOP}),
    ("/v3/kv/range", {"key": FOO, "rangeEnd": FOP, "limit": 1}),
    ("/v3/kv/range", {"key": FOO, "range_end": FOP, "limit": "1", "sort_order": "DESCEND", "sort_target": "KEY"}),
    ("/v3/kv/range", {"key": FOO, "range_end": FOP, "sort_order": 2, "sort_target": 3, "keys_only": True}),
    ("/v3/kv/range", {"key": ALL, "range_end": ALL, "count_only": True}),
    ("/v3/kv/range", {"key": ALL, "range_end": ALL}),
    ("/v3/kv/range", {"key": FOO, "revision": "2"}),
    ("/v3/kv/range", {"key": FOO, "revision": 99}),
    ("/v3/kv/range", {"key": FOO, "serializable": True, "unknown_field": {"a": [1, None]}}),
    ("/v3/kv/range", {}),
    ("/v3/kv/range", ""),
    ("/v3beta/kv/range", {"key": FOO}),
    ("/v3/kv/txn", {"compare": [{"key": FOO, "target": "MOD", "result": "EQUAL", "mod_revision": 5}],
                    "success": [{"requestPut": {"key": FOO, "value": b64("1")}}],
                    "failure": [{"request_range": {"key": FOO}}]}),
    ("/v3/kv/txn", {"compare": [{"key": FOO, "target": "MOD", "result": "EQUAL", "mod_revision": 5}],
                    "success": [{"requestPut": {"key": FOO, "value": b64("1")}}],
                    "failure": [{"request_range": {"key": FOO}}]}),
    ("/v3/kv/txn", {"compare": [{"key": b64("new"), "target": "CREATE", "createRevision": 0}],
                    "success": [{"requestPut": {"key": b64("new"), "value": b64("1")}},
                                {"request_delete_range": {"key": b64("foo/b"), "prev_kv": True}}]}),
    ("/v3/kv/txn", {"compare": [{"key": b64("new"), "target": "VALUE", "value": b64("1")},
                                {"key": FOO, "target": "VERSION", "result": "GREATER", "version": "0"}],
                    "success": [{"request_txn": {"success": [{"request_put": {"key": b64("deep")}}]}}]}),
    ("/v3/kv/txn", {}),
    ("/v3/kv/txn", {"success": [{"request_put": {"key": FOO}}, {"request_put": {"key": FOO}}]}),
    ("/v3/kv/deleterange", {"key": b64("missing")}),
    ("/v3/kv/deleterange", {"key": b64("deep"), "prev_kv": True}),
    ("/v3/kv/deleterange", {"key": b64("new"), "range_end": b64("nez")}),
    ("/v3/kv/compaction", {"revision": "99"}),
    ("/v3/kv/compaction", {"revision": 4}),
    ("/v3/kv/range", {"key": FOO, "revision": 2}),
    ("/v3/lease/revoke", {"ID": "404"}),
    ("/v3/kv/lease/revoke", {"ID": 404}),
    ("/v3/lease/grant", {"ID": 77, "TTL": 100}),
    ("/v3/lease/grant", {"ID": "77", "TTL": "100"}),
    ("/v3/kv/put", {"key": b64("leased"), "lease": "77"}),
    ("/v3/kv/put", {"key": b64("leased"), "lease": "78"}),
    ("/v3/kv/put", {"key": b64("leased"), "ignore_value": True, "value": b64("x")}),
    ("/v3/kv/put", {"key": b64("absent"), "ignore_lease": True}),
    ("/v3/lease/leases", ""),
    ("/v3/kv/lease/leases", {}),
    ("/v3/lease/keepalive", {"ID": "77"}),
    ("/v3/lease/keepalive", {"ID": 404}),
    ("/v3/lease/timetolive", {"ID": "404"}),
    ("/v3/lease/revoke", {"ID": 77}),
    ("/v3/kv/range", {"key": b64("leased")}),
    ("/v3/auth/user/list", {}),
    ("/v3/auth/authenticate", {"name": "a", "password": "b"}),
    ("/v3/auth/user/add", {"name": ""}),
    ("/v3/auth/role/add", {"name": "reader"}),
    ("/v3/auth/role/grant", {"name": "reader", "perm": {"permType": "READ", "key": FOO, "range_end": FOP}}),
    ("/v3/auth/role/grant", {"name": "reader", "perm": {"permType": 2, "key": FOO}}),
    ("/v3/auth/role/get", {"role": "reader"}),
    ("/v3/auth/role/list", ""),
    ("/v3/auth/role/get", {"role": "nobody"}),
    ("/v3/auth/role/revoke", {"role": "reader", "key": FOO}),
    ("/v3/auth/role/delete", {"role": "reader"}),
    # etcd 3.4 leaves the header out.
    ("/v3/maintenance/alarm", {}, "header"),
    ("/v3/maintenance/alarm", {"action": "GET", "alarm": "NOSPACE"}, "header"),
    # Refused by both, each in its own words.
    ("/v3/kv/range", '{"key":"***"}', "text"),
    ("/v3/kv/range", '{"key":', "text"),
    ("/v3/kv/range", '{"key":7}', "text"),
    ("/v3/kv/range", "[]", "text"),
    ("/v3/kv/range", '{"limit":"x"}', "text"),
    ("/v3/kv/range", '{"sort_order":true}', "text"),
]


def compare(path, body, ours, theirs, differs):
    where = (path, body)
    # Of a failed precondition etcd 3.4 makes a 412, and etcd 3.6 a 400, as we do.
    same(ours.status, 400 if theirs.status == 412 else theirs.status, *where, ours.body, theirs.body)
    same(ours.headers.get("content-type"), theirs.headers.get("content-type"), *where)
    for name in ("access-control-allow-origin", "access-control-allow-methods", "access-control-allow-headers"):
        same(ours.headers.get(name), theirs.headers.get(name), *where)
    if differs == "text":
        mine, their = ours.json(), theirs.json()
        same(sorted(mine), sorted(their), *where)
        same(mine["code"], their["code"], *where)
        same(mine["error"], mine["message"], *where)
        return
    mine, their = [[masked(json.loads(line)) for line in answer.body.split(b"\n") if line] for answer in (ours, theirs)]
    for line in mine + their if differs == "header" else []:
        line.pop("header", None)
    same(mine, their, *where)
    # The order of fields, too: some clients print what they get.
    same(json.dumps(mine), json.dumps(their), *where)


def requests_are_answered_as_etcd_answers_them(t):
    ours, theirs = Client(t.kineshim.port, True), Client(t.etcd.port)
    for item in AGREED:
        path, body = item[0], item[1]
        compare(path, body, ours.post(path, body), theirs.post(path, body), item[2] if len(item) > 2 else None)


def streams_end_and_fail_as_etcds_do(t):
    for path, body in [("/v3/lease/keepalive", '{"ID":"1"}{"ID":2}\n{"ID":3}'), ("/v3/lease/keepalive", "")]:
        ours, theirs = Client(t.kineshim.port, True).post(path, body), Client(t.etcd.port).post(path, body)
        same(ours.status, theirs.status, path)
        mine, their = [[masked(json.loads(line)) for line in answer.body.split(b"\n") if line] for answer in (ours, theirs)]
        for line in mine + their:
            line["result"]["header"].pop("revision", None)
        same(mine, their, path, body)


def watches_show_what_etcds_show(t):
    """The same changes, seen by a watch of each."""
    lines = []
    for server in (t.kineshim, t.etcd):
        client = Client(server.port)
        base = client.put("w/base")
        seen, stream = [], watch(server, "w/", range_end=b64("w0"), prev_kv=True)
        client.put("w/a", "1")
        client.put("w/a", "2")
        client.ok("/v3/kv/txn", {"success": [{"request_put": {"key": b64("w/b")}}, {"request_put": {"key": b64("w/c")}},
                                             {"request_delete_range": {"key": b64("w/a")}}]})
        client.ok("/v3/kv/deleterange", {"key": b64("w/"), "range_end": b64("w0")})
        while sum(len(line["events"]) for line in seen) < 8:
            seen.append(stream.next()["result"])
        stream.close()
        for line in seen:
            line["header"] = {"revision": int(line["header"]["revision"]) - base}
            for event in line["events"]:
                for kv in (event["kv"], event.get("prev_kv", {})):
                    for name in ("create_revision", "mod_revision"):
                        if name in kv:
                            kv[name] = int(kv[name]) - base
        lines.append(seen)
    same(lines[0], lines[1])


# ---- what a gateway of etcd 3.6 says, and everybody reads ----


def errors_carry_both_generations_of_fields(t):
    client = Client(t.kineshim.port, True)
    same(client.post("/v3/kv/range", {}).json(),
         {"error": "etcdserver: key is not provided", "message": "etcdserver: key is not provided", "code": 3})
    answer = client.post("/v3/watch", '{"create_request":{"key":"*"}}')
    same(answer.status, 400)
    error = answer.json()["error"]
    same({key: error[key] for key in ("grpc_code", "http_code", "http_status", "code")},
         {"grpc_code": 3, "http_code": 400, "http_status": "Bad Request", "code": 3})
    must(answer.body.endswith(b"}\n"), answer.body)


def enum_names_that_are_none_are_ignored(t):
    """Like fields that are none. etcd 3.4 and 3.5 refuse them."""
    client = Client(t.kineshim.port, True)
    for order in ("SIDEWAYS", "descend", "2", ""):
        answer = client.post("/v3/kv/range", {"key": FOO, "sort_order": order})
        same((answer.status, "header" in answer.json()), (200, True), order)
    for order in (True, {}, [], 1.5, 1 << 40):
        same(client.post("/v3/kv/range", {"key": FOO, "sort_order": order}).status, 400, order)


def paths_methods_and_origins(t):
    client = Client(t.kineshim.port, True)
    answer = client.get("/v3/kv/range")
    same((answer.status, answer.json()["code"]), (501, 12))
    answer = client.post("/v3/nope", "{}")
    same((answer.status, answer.json()["code"]), (404, 5))
    for path in ("/v3/", "/v3beta/", "/v3/kv/range/", "/v3/KV/range", "/v3beta/kv/nope"):
        same(client.post(path, "{}").status, 404, path)
    for path in ("/nope", "/v3", "/v3alpha/kv/range", "/v2/keys"):
        answer = client.get(path)
        same((answer.status, answer.body), (404, b"404 page not found\n"), path)
    answer = client.get("/v3/kv/put", "OPTIONS", ["Origin: http://example.com"])
    same((answer.status, answer.body), (200, b""))
    same(answer.headers["access-control-allow-origin"], "*")
    same(answer.headers["access-control-allow-methods"], "POST, GET, OPTIONS, PUT, DELETE")
    same(answer.headers["access-control-allow-headers"], "accept, content-type, authorization")
    same(client.post("/v3/kv/%72ange?x=1", {"key": FOO}).status, 200)
    answer = client.post("/v3/kv/range", {"key": FOO})
    same(answer.headers["grpc-metadata-content-type"], "application/grpc")


def whitelists_of_hosts_and_origins(t):
    server = start_kineshim(t.folder, "listed", "--cors=http://a.example,http://b.example", "--host-whitelist=good.example")
    t.servers.append(server)
    ask = lambda *headers: Client(server.port).ask(("\r\n".join(["GET /nope HTTP/1.1", *headers]) + "\r\n\r\n").encode())
    same(ask("Host: good.example:2379").status, 404)
    same(ask("Host: bad.example").status, 421)
    answer = ask("Host: good.example", "Origin: http://b.example")
    same(answer.headers["access-control-allow-origin"], "http://b.example")
    must("access-control-allow-origin" not in ask("Host: good.example", "Origin: http://c.example").headers)
    server.stop()


def timeouts_of_clients_are_kept(t):
    client = Client(t.kineshim.port, True)
    same(client.post("/v3/kv/range", {"key": FOO}, ["Grpc-Timeout: 5S"]).status, 200)
    same(client.post("/v3/kv/range", {"key": FOO}, ["Grpc-Timeout: 5x"]).status, 400)
    begun = time.monotonic()
    stream = Stream(t.kineshim.port, "/v3/watch", {"create_request": {"key": FOO}}, ["Grpc-Timeout: 300m"])
    same(stream.next()["result"]["created"], True)
    error = stream.next()["error"]
    same((error["grpc_code"], error["http_code"], error["message"]), (4, 504, "context deadline exceeded"))
    same(stream.next(), None)
    must(time.monotonic() - begun >= 0.3, "before its time")
    stream.close()


def metadata_reaches_the_call(t):
    client = Client(t.kineshim.port, True)
    answer = client.post("/v3/kv/range", {"key": FOO}, ["Grpc-Metadata-Client-Api-Version: \xff"])
    same((answer.status, answer.json()["error"]), (400, "etcdserver: invalid client api version"))


# ---- lua-resty-etcd ----


def apisix_requests_are_understood(t):
    """The bodies as that client builds them: all fields, numbers for enums, no Content-Type."""
    client = Client(t.kineshim.port, True)
    prefix, end = "/apisix", "/apisiy"
    zeros = {"limit": 0, "revision": 0, "sort_order": 0, "sort_target": 0, "serializable": False, "keys_only": False,
             "count_only": False, "min_mod_revision": 0, "max_mod_revision": 0, "min_create_revision": 0,
             "max_create_revision": 0}
    answer = client.ok("/v3/kv/range", {"key": b64(prefix), "range_end": b64(end), **zeros})
    must(set(answer) == {"header"}, answer)
    for folder in ("routes", "upstreams", "services"):
        body = '{"value":"%s", "key":"%s"}' % (b64("init_dir"), b64(prefix + "/" + folder + "/"))
        answer = client.post("/v3/kv/put", body)
        must(b"error" not in answer.body, answer.body)
    answer = client.ok("/v3/kv/put", {"key": b64("/apisix/routes/1"), "value": b64('{"a":1}'), "prev_kv": True})
    must("prev_kv" not in answer, answer)
    answer = client.ok("/v3/kv/put", {"key": b64("/apisix/routes/1"), "value": b64('{"a":2}'), "prev_kv": True})
    same(answer["prev_kv"]["value"], b64('{"a":1}'))
    answer = client.ok("/v3/kv/range", {"key": b64(prefix), "range_end": b64(end), **zeros})
    same([base64.b64decode(kv["key"]).decode() for kv in answer["kvs"]],
         ["/apisix/routes/", "/apisix/routes/1", "/apisix/services/", "/apisix/upstreams/"])
    revision = answer["kvs"][1]["mod_revision"]
    must(isinstance(revision, str) and isinstance(answer["header"]["revision"], str) and answer["header"]["raft_term"])
    swap = {"compare": [{"key": b64("/apisix/routes/1"), "target": "MOD", "result": "EQUAL",
                         "mod_revision": int(revision)}],
            "success": [{"requestPut": {"key": b64("/apisix/routes/1"), "value": b64("{}")}}]}
    same(client.ok("/v3/kv/txn", swap)["succeeded"], True)
    must("succeeded" not in client.ok("/v3/kv/txn", swap))
    once = {"compare": [{"key": b64("/apisix/routes/1"), "target": "CREATE", "createRevision": 0}],
            "success": [{"requestPut": {"key": b64("/apisix/routes/1"), "value": b64("x")}}]}
    must("succeeded" not in client.ok("/v3/kv/txn", once))
    must("deleted" not in client.ok("/v3/kv/deleterange", {"key": b64("/apisix/routes/9")}))
    same(client.ok("/v3/kv/deleterange", {"key": b64("/apisix/routes/1")})["deleted"], "1")
    lease = client.ok("/v3/lease/grant", {"TTL": 5, "ID": 0})["ID"]
    answer = client.post("/v3/lease/keepalive", {"ID": lease})
    same(json.loads(answer.body)["result"]["ID"], lease)
    same(client.ok("/v3/kv/range", '{"key":"%s","limit":1e+15}' % FOO)["header"]["revision"].isdigit(), True)


class LuaCursor:
    """What lua-resty-etcd and APISIX make of the lines of a watch: the revision they resume from, and full reloads."""

    def __init__(self, start):
        self.next, self.reloads, self.events = start, 0, []

    def take(self, line):
        result = line["result"]
        if result.get("canceled"):
            raise Failed("canceled: %r" % result)
        if result.get("created"):
            return
        must("events" in result, "a bare header line:", line)
        revision = int(result["header"]["revision"])
        if revision < self.next:
            self.reloads += 1
        elif revision > self.next:
            self.next = revision + 1
        self.events += result["events"]


def apisix_catches_up_without_a_reload(t):
    """More revisions than fit in one response: the revisions of the lines grow strictly."""
    client = Client(t.kineshim.port, True)
    start = client.put("up/0") + 1
    for i in range(2500):
        client.connection.send(request("/v3/kv/put", '{"key":"%s"}' % b64("up/%d" % i)))
        if i % 50 == 49:
            for _ in range(50):
                same(client.connection.answer().status, 200)
    stream = watch(t.kineshim, "up/", range_end=b64("up0"), start_revision=start)
    cursor, last, lines = LuaCursor(start), 0, 0
    while len(cursor.events) < 2500:
        line = stream.next()
        must(int(line["result"]["header"]["revision"]) > last, "revisions do not grow:", last)
        last = int(line["result"]["header"]["revision"])
        cursor.take(line)
        lines += 1
    same(cursor.reloads, 0)
    must(lines > 1, "all in one line; nothing was tested")
    same([int(event["kv"]["mod_revision"]) for event in cursor.events], list(range(start, start + 2500)))
    stream.close()


def idle_watches_are_told_the_revision(t):
    """Writes elsewhere, then a compaction: a client that resumes from its last line is not too late."""
    client = Client(t.kineshim.port, True)
    begun = time.monotonic()
    stream = watch(t.kineshim, "idle/", range_end=b64("idle0"))
    cursor = LuaCursor(int(stream.created["header"]["revision"]) + 1)
    start = cursor.next
    for i in range(50):
        current = client.put("elsewhere", str(i))
    while cursor.next <= current:
        line = stream.next()
        same(line["result"].get("events"), [], line)
        cursor.take(line)
    must(time.monotonic() - begun >= 0.5, "a cursor line without silence before it")
    must(stream.silent(1.5), "the same revision again")
    current = client.put("idle/a")
    line = stream.next()
    same(len(line["result"]["events"]), 1)
    cursor.take(line)
    same(cursor.reloads, 0)
    client.ok("/v3/kv/compaction", {"revision": current})
    stream.close()
    again = Stream(t.kineshim.port, "/v3/watch",
                   {"create_request": {"key": b64("idle/"), "range_end": b64("idle0"), "start_revision": cursor.next}})
    same(again.next()["result"]["created"], True)
    client.put("idle/b")
    cursor.take(again.next())
    same(cursor.reloads, 0)
    again.close()
    late = Stream(t.kineshim.port, "/v3/watch", {"create_request": {"key": b64("idle/"), "start_revision": start}})
    same(late.next()["result"]["created"], True)
    result = late.next()["result"]
    same((result["canceled"], result["compact_revision"]), (True, str(current)), result)
    late.close()


def two_watches_on_a_stream_get_no_cursor(t):
    client = Client(t.kineshim.port)
    stream = Stream(t.kineshim.port, "/v3/watch",
                    '{"create_request":{"key":"%s"}}{"create_request":{"key":"%s"}}' % (b64("two/a"), b64("two/b")))
    same([stream.next()["result"].get("watch_id") for _ in range(2)], [None, "1"])
    client.put("elsewhere")
    must(stream.silent(2))
    client.put("two/b")
    same(stream.next()["result"]["watch_id"], "1")
    stream.close()


# ---- streams ----


def watchers_share_lines_and_each_has_its_own(t):
    """Watchers in several shapes, many of each, and values on both sides of the size up to which lines are shared: each sees what a
    watcher alone would."""
    client = Client(t.kineshim.port)
    client.put("shared/a", "before")
    shapes = [{}, {"prev_kv": True}, {"watch_id": "7"}, {"filters": ["NODELETE"]}, {"range_end": b64("shared/b")},
              {"range_end": b64("shared/b"), "prev_kv": True}]
    watchers = [(shape, watch(t.kineshim, "shared/a", **shape)) for _ in range(5) for shape in shapes]
    values = ["x", "y" * 3000, "z" * 24000, "w" * 40000, "v" * 200000, "end"]
    previous = "before"
    for value in values:
        client.put("shared/a", value)
        for shape, stream in watchers:
            result = stream.next()["result"]
            same(result.get("watch_id", "0"), shape.get("watch_id", "0"), shape)
            (event,) = result["events"]
            same(event["kv"]["value"], b64(value), shape)
            same(event["kv"]["mod_revision"], result["header"]["revision"])
            same(event.get("prev_kv", {}).get("value"), b64(previous) if shape.get("prev_kv") else None, shape)
        previous = value
    client.ok("/v3/kv/deleterange", {"key": b64("shared/a")})
    for shape, stream in watchers:
        if "filters" not in shape:
            same(stream.next()["result"]["events"][0]["type"], "DELETE", shape)
        stream.close()


def a_flood_of_events_reaches_each_watcher_once(t):
    """The load generator of the benches counts: it fails when a watcher misses an event, or has one twice. On etcd it must come to the same."""
    for server in (t.kineshim, t.etcd):
        done = subprocess.run([BENCH, "json-watch", "--endpoint", "127.0.0.1:%d" % server.port, "--watchers", "20", "--clients", "4",
                               "--inflight", "16", "--seconds", "0.5"], capture_output=True, text=True, timeout=WAIT * 4)
        same(done.returncode, 0, server.name, done.stderr)
        result = json.loads(done.stdout)
        must(result["count"] > 0 and result["count"] % 20 == 0, result)


def requests_and_responses_flow_both_ways(t):
    """The body goes on while the answer has begun: each value is taken as it comes, cut anywhere."""
    client = Client(t.kineshim.port)
    connection = Connection(t.kineshim.port)
    connection.send("POST /v3/watch HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")

    def send(text):
        connection.send("%x\r\n%s\r\n" % (len(text), text))

    stream = Stream.__new__(Stream)
    stream.connection = connection
    text = '{"create_request":{"key":"%s","progress_notify":false}}' % b64("both")
    for i in range(0, len(text), 7):
        send(text[i:i + 7])
    same(connection.head()[0], 200)
    same(stream.next()["result"]["created"], True)
    send('{"create_request":{"key":"%s","watch_id":"9"}}  {"progress_request":{}}' % b64("both2"))
    result = stream.next()["result"]
    same((result["created"], result["watch_id"]), (True, "9"))
    result = stream.next()["result"]
    same(result["watch_id"], "-1")
    must("events" not in result, result)
    client.put("both2", "x")
    same(stream.next()["result"]["watch_id"], "9")
    send('{"cancel_request":{"watch_id":9}}')
    same(stream.next()["result"]["canceled"], True)
    connection.send("0\r\n\r\n")
    client.put("both", "y")
    same(stream.next()["result"]["events"][0]["kv"]["value"], b64("y"))
    stream.close()


def a_value_cut_off_ends_the_stream(t):
    client = Client(t.kineshim.port, True)
    same(client.post("/v3/watch", '{"create_request":{"key":"').status, 400)
    same(client.post("/v3/lease/keepalive", "}").status, 400)
    same(client.post("/v3/lease/keepalive", "[" * 1000).status, 400)
    same(client.post("/v3/lease/keepalive", "7").status, 400)
    # What came before it may still be answered, or not.
    answer = client.post("/v3/lease/keepalive", '{"ID":1} {"ID":}')
    same(json.loads(answer.body.split(b"\n")[-2])["error"]["grpc_code"], 3)


def an_old_client_reads_lines_to_the_end(t):
    """HTTP/1.0: no chunks."""
    connection = Connection(t.kineshim.port)
    body = '{"ID":1}{"ID":2}'
    connection.send("POST /v3/lease/keepalive HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    answer = connection.answer()
    must("transfer-encoding" not in answer.headers)
    same(len(answer.body.strip().split(b"\n")), 2)
    connection.close()


def a_large_answer_streams(t):
    """More than gRPC's 4 MiB of a client, and more than the buffers of a connection."""
    client = Client(t.kineshim.port, True)
    value = b64(os.urandom(900000))
    keys = ["large/%02d" % i for i in range(20)]
    for key in keys:
        client.ok("/v3/kv/put", {"key": b64(key), "value": value})
    answer = client.post("/v3/kv/range", {"key": b64("large/"), "range_end": b64("large0")})
    same(answer.status, 200)
    kvs = answer.json()["kvs"]
    same([kv["key"] for kv in kvs], [b64(key) for key in keys])
    must(all(kv["value"] == value for kv in kvs), "values differ")
    must(len(answer.chunks) > 10 and max(len(chunk) for chunk in answer.chunks) < 1 << 20, "it came in one piece")
    # Not read by its client: the next answers wait for nobody.
    lazy = Connection(t.kineshim.port)
    lazy.send(request("/v3/kv/range", json.dumps({"key": b64("large/"), "range_end": b64("large0")})))
    same(client.ok("/v3/kv/range", {"key": FOO}).get("header") is not None, True)
    lazy.close()
    client.ok("/v3/kv/deleterange", {"key": b64("large/"), "range_end": b64("large0")})


def a_slow_watcher_is_bounded_and_loses_nothing(t):
    client = Client(t.kineshim.port)
    stream = watch(t.kineshim, "slow/", range_end=b64("slow0"))
    value = b64("v" * 200000)
    last = 0
    for i in range(100):  # 20 MB, unread
        last = int(client.ok("/v3/kv/put", {"key": b64("slow/a"), "value": value})["header"]["revision"])
    seen = []
    while not seen or seen[-1] < last:
        seen += [int(event["kv"]["mod_revision"]) for event in stream.next()["result"]["events"]]
    same(seen, list(range(last - 99, last + 1)))
    stream.close()


def watchers_go_with_their_clients(t):
    server = t.kineshim
    base = until(lambda: metric(server, "etcd_debugging_mvcc_watcher_total") is not None, "the metric") and \
        metric(server, "etcd_debugging_mvcc_watcher_total")
    for how in ("close", "reset"):
        streams = [watch(server, "gone") for _ in range(50)]
        same(metric(server, "etcd_debugging_mvcc_watcher_total"), base + 50)
        for stream in streams:
            stream.connection.close() if how == "close" else stream.connection.reset()
        until(lambda: metric(server, "etcd_debugging_mvcc_watcher_total") == base, "the watchers' end", 2)
    for _ in range(500):
        connection = Connection(server.port)
        connection.send(request("/v3/watch", '{"create_request":{"key":"%s"}}' % b64("gone")))
        connection.reset()
    until(lambda: metric(server, "etcd_debugging_mvcc_watcher_total") == base, "the end of watchers that were reset", 5)


def a_call_that_waits_goes_with_its_client(t):
    """A lock that somebody holds: whoever waits for it leaves nothing behind when it leaves, or its time is up."""
    client = Client(t.kineshim.port, True)
    held, other = [client.ok("/v3/lease/grant", {"TTL": 600})["ID"] for _ in range(2)]
    client.ok("/v3/lock/lock", {"name": b64("lock"), "lease": held})
    waiting = lambda: len(client.ok("/v3/kv/range", {"key": b64("lock/"), "range_end": b64("lock0")})["kvs"]) - 1
    wish = json.dumps({"name": b64("lock"), "lease": other})
    for how in ("close", "reset"):
        connection = Connection(t.kineshim.port)
        connection.send(request("/v3/lock/lock", wish))
        until(lambda: waiting() == 1, "the wish for the lock")
        connection.close() if how == "close" else connection.reset()
        until(lambda: waiting() == 0, "the end of the wish")
    answer = client.post("/v3/lock/lock", wish, ["Grpc-Timeout: 200m"])
    same((answer.status, answer.json()["message"]), (504, "context deadline exceeded"))
    until(lambda: waiting() == 0, "the end of the wish whose time was up")


def the_end_of_the_server_ends_streams_cleanly(t):
    server = start_kineshim(t.folder, "ending")
    t.servers.append(server)
    stream = watch(server, "x")
    idle = Client(server.port)
    same(idle.get("/version").status, 200)
    server.process.send_signal(signal.SIGTERM)
    error = stream.next()["error"]
    same((error["grpc_code"], error["http_code"], error["http_status"]), (14, 503, "Service Unavailable"))
    same(stream.next(), None)
    must(stream.connection.ended() and idle.connection.ended())
    same(server.process.wait(WAIT), 0)


# ---- bad HTTP ----


def pipelined_requests_are_answered_in_order(t):
    connection = Connection(t.kineshim.port)
    data = b"".join(request("/v3/kv/put", json.dumps({"key": b64("pipe"), "value": b64(str(i))})) +
                    request("/v3/kv/range", json.dumps({"key": b64("pipe")})) +
                    request("/nope", "", "GET") for i in range(300))
    connection.send(data)
    for i in range(300):
        same(connection.answer().status, 200)
        same(connection.answer().json()["kvs"][0]["value"], b64(str(i)))
        same(connection.answer().status, 404)
    connection.close()


def many_connections_at_once_are_all_served(t):
    """Each sends its next request as soon as it has the answer to the last one, and some without waiting for it."""
    connections = [Connection(t.kineshim.port) for _ in range(48)]
    get = request("/v3/kv/range", json.dumps({"key": FOO}))
    rounds, left, poll = 150, {}, select.poll()
    for number, connection in enumerate(connections):
        connection.burst = 1 + number % 3
        left[connection] = rounds
        connection.send(get * connection.burst)
        poll.register(connection.socket, select.POLLIN)
    by_fd = {connection.socket.fileno(): connection for connection in connections}
    while left:
        ready = poll.poll(WAIT * 1000)
        must(ready, "requests without an answer on", len(left), "connections")
        for fd, _ in ready:
            connection = by_fd[fd]
            for _ in range(connection.burst):
                same(connection.answer().status, 200)
            left[connection] -= 1
            if left[connection]:
                connection.send(get * connection.burst)
            else:
                del left[connection]
                poll.unregister(fd)
    for connection in connections:
        connection.close()


def pieces_of_any_size_change_nothing(t):
    body = json.dumps({"key": b64("cut"), "value": b64("x" * 50)})
    whole = request("/v3/kv/put", body) + \
        ("POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n%s\r\n%X;ext=1\r\n%s\r\n0\r\nTrailer: 1\r\n\r\n"
         % (body[:5], len(body) - 5, body[5:])).encode()
    for size in (1, 2, 3, 17, 100, len(whole)):
        connection = Connection(t.kineshim.port)
        for i in range(0, len(whole), size):
            connection.send(whole[i:i + size])
        same(connection.answer().status, 200)
        same(connection.answer().json()["kvs"][0]["value"], b64("x" * 50))
        connection.close()


MALFORMED = [
    (400, "GET / HTTP/1.1\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: x\r\nhost: y\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: x\r\nBad Header: 1\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: x\r\n: 1\r\n\r\n"),
    (400, "GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, "GET /a%00b HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, "GET  HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n"),
    (400, "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n"),
    (400, "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
    (400, "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n"),
    (400, "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (400, "POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n"),
    (400, "POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"),
    (400, "POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n"),
    (400, "POST /v3/watch HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"),
    (431, "GET / HTTP/1.1\r\nHost: x\r\n" + "A: b\r\n" * 200 + "\r\n"),
    (431, "GET / HTTP/1.1\r\nHost: x\r\nA: " + "b" * 100000 + "\r\n\r\n"),
    (431, "GET /" + "a" * 100000 + " HTTP/1.1\r\nHost: x\r\n\r\n"),
    (413, "POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 900000000\r\n\r\n"),
    (413, "POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 900000000\r\n\r\n"),
    (417, "POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nExpect: miracles\r\nContent-Length: 2\r\n\r\n{}"),
    (405, "CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n"),
    (505, "GET / HTTP/2.0\r\nHost: x\r\n\r\n"),
]


def malformed_requests_get_their_4xx(t):
    neighbour = watch(t.kineshim, "neighbour")
    for status, text in MALFORMED:
        connection = Connection(t.kineshim.port)
        connection.send(text)
        answer = connection.answer()
        same(answer.status, status, text[:100], answer.body)
        same(answer.headers.get("connection"), "close", text[:100])
        must(connection.ended(), "still open after", text[:100])
        connection.close()
    Client(t.kineshim.port).put("neighbour")
    same(len(neighbour.next()["result"]["events"]), 1)
    neighbour.close()


def a_large_body_is_refused_and_the_refusal_arrives(t):
    connection = Connection(t.kineshim.port)
    connection.send("POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    try:
        for _ in range(400):
            connection.send("10000\r\n" + "x" * 65536 + "\r\n")
    except OSError:
        pass
    same(connection.answer().status, 413)
    connection.close()


def large_messages_are_refused_in_grpcs_words(t):
    client = Client(t.kineshim.port, True)
    answer = client.post("/v3/kv/put", {"key": FOO, "value": b64("x" * 2097153)})
    same(answer.status, 429)
    must(re.fullmatch(r"grpc: received message larger than max \(\d+ vs. 2097152\)", answer.json()["error"]), answer.body)
    answer = client.post("/v3/kv/put", {"key": FOO, "value": b64("x" * 1600000)})
    same((answer.status, answer.json()["error"]), (400, "etcdserver: request is too large"))
    same(client.post("/v3/kv/put", {"key": FOO, "value": b64("x" * 1500000)}).status, 200)


def expectations_are_met(t):
    connection = Connection(t.kineshim.port)
    connection.send("POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    same(connection.head()[0], 100)
    connection.send("{}")
    same(connection.answer().status, 400)
    connection.close()


def connections_are_kept_or_closed_as_asked(t):
    connection = Connection(t.kineshim.port)
    connection.send("GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    same(connection.answer().headers["connection"], "close")
    must(connection.ended())
    connection = Connection(t.kineshim.port)
    connection.send("GET /version HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    same(connection.answer().headers["connection"], "keep-alive")
    connection.send("GET /version HTTP/1.0\r\n\r\n")
    same(connection.answer().status, 200)
    must(connection.ended())
    # A client that closed its side still gets its answer.
    connection = Connection(t.kineshim.port)
    connection.send(request("/v3/kv/range", json.dumps({"key": FOO})))
    connection.socket.shutdown(socket.SHUT_WR)
    same(connection.answer().status, 200)
    must(connection.ended())
    answer = Client(t.kineshim.port).get("/version", "HEAD")
    same(answer.body, b"")
    must(int(answer.headers["content-length"]) > 0)


TESTS = [
    requests_are_answered_as_etcd_answers_them,
    streams_end_and_fail_as_etcds_do,
    watches_show_what_etcds_show,
    errors_carry_both_generations_of_fields,
    enum_names_that_are_none_are_ignored,
    paths_methods_and_origins,
    whitelists_of_hosts_and_origins,
    timeouts_of_clients_are_kept,
    metadata_reaches_the_call,
    apisix_requests_are_understood,
    apisix_catches_up_without_a_reload,
    idle_watches_are_told_the_revision,
    two_watches_on_a_stream_get_no_cursor,
    watchers_share_lines_and_each_has_its_own,
    a_flood_of_events_reaches_each_watcher_once,
    requests_and_responses_flow_both_ways,
    a_value_cut_off_ends_the_stream,
    an_old_client_reads_lines_to_the_end,
    a_large_answer_streams,
    a_slow_watcher_is_bounded_and_loses_nothing,
    watchers_go_with_their_clients,
    a_call_that_waits_goes_with_its_client,
    the_end_of_the_server_ends_streams_cleanly,
    pipelined_requests_are_answered_in_order,
    many_connections_at_once_are_all_served,
    pieces_of_any_size_change_nothing,
    malformed_requests_get_their_4xx,
    a_large_body_is_refused_and_the_refusal_arrives,
    large_messages_are_refused_in_grpcs_words,
    expectations_are_met,
    connections_are_kept_or_closed_as_asked,
]


class Context:
    def __init__(self, folder):
        self.folder, self.servers = folder, []


def run_all(tests, name, *flags):
    """Runs the tests on one kineshim, started with the flags, and one etcd beside it; prints TAP and ends the program."""
    only = os.environ.get("KS_TEST_ONLY", "")
    tests = [test for test in tests if only in test.__name__]
    t = Context(tempfile.mkdtemp(prefix="ks-%s-" % name))
    failed = False

    def end(*_):
        sys.exit(143)

    signal.signal(signal.SIGTERM, end)
    try:
        t.kineshim = start_kineshim(t.folder, "kineshim", *flags)
        t.servers.append(t.kineshim)
        t.etcd = start_etcd(t.folder)
        t.servers.append(t.etcd)
        print("1..%d" % (len(tests) + 1))
        for number, test in enumerate(tests, 1):
            try:
                test(t)
                must(t.kineshim.process.poll() is None, "the server died:", open(t.kineshim.log).read()[-2000:])
                print("ok %d - %s" % (number, test.__name__), flush=True)
            except Exception as error:  # whatever went wrong is this test's failure
                failed = True
                text = str(error) if isinstance(error, Failed) else traceback.format_exc()
                print("not ok %d - %s" % (number, test.__name__))
                print("".join("# %s\n" % line for line in text.splitlines()), end="", flush=True)
        status = t.kineshim.stop()
        print("%sok %d - the server stops by itself" % ("" if status == 0 else "not ", len(tests) + 1))
        if status != 0:
            failed = True
            print("".join("# %s\n" % line for line in open(t.kineshim.log).read()[-6000:].splitlines()), end="")
    finally:
        for server in t.servers:
            server.stop()
        if not os.environ.get("KS_TEST_KEEP"):
            shutil.rmtree(t.folder, ignore_errors=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    run_all(TESTS, "gateway", "--watch-cursor-interval=500ms")
