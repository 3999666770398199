#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What comes from outside and is bad: clients, upstreams, plugins, objects in etcd. Each gets its answer, and a client that asks all the
time for something good never notices. Prints TAP."""
import base64
import http.client
import json
import os
import pathlib
import re
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "lib"))
from dpproxy import TOP, Scenario, Upstream, free_port, main, request, wait_for  # noqa: E402

UP = Upstream()


def same(wanted, got):
    assert wanted == got, f"wanted {wanted!r}, got {got!r}"


class RawServer:
    """Listens, and gives each connection to serve(client)."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.port = self.socket.getsockname()[1]
        self.node = {f"127.0.0.1:{self.port}": 1}
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            client.settimeout(10)
            threading.Thread(target=self.guarded, args=(client,), daemon=True).start()

    def guarded(self, client):
        try:
            with client:
                self.serve(client)
        except OSError:
            pass

    def stop(self):
        self.socket.close()


class Recorder(RawServer):
    """Keeps the bytes of each request as it parses them, and answers 200 to each. It believes Transfer-Encoding before Content-Length,
    as many do: what the two ends could understand differently shows as another request."""

    def __init__(self):
        super().__init__()
        self.heads, self.bodies, self.broken = [], [], []

    def serve(self, client):
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                piece = client.recv(65536)
                if not piece:
                    if data:
                        self.broken.append(data)
                    return
                data += piece
            head, data = data.split(b"\r\n\r\n", 1)
            body, data = self.body(client, head, data)
            self.bodies.append(body)
            self.heads.append(head)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    @staticmethod
    def body(client, head, data):
        def more(data):
            piece = client.recv(65536)
            if not piece:
                raise OSError("half a body")
            return data + piece
        if re.search(rb"(?im)^transfer-encoding:.*chunked", head):
            body = b""
            while True:
                while b"\r\n" not in data:
                    data = more(data)
                size, data = data.split(b"\r\n", 1)
                size = int(size.split(b";")[0], 16)
                while len(data) < size + 2:
                    data = more(data)
                body, data = body + data[:size], data[size + 2:]
                if size == 0:
                    return body, data
        found = re.search(rb"(?im)^content-length: *(\d+)", head)
        length = int(found.group(1)) if found else 0
        while len(data) < length:
            data = more(data)
        return data[:length], data[length:]


LAST = b"GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


def send(t, data, port=None, seconds=5):
    """Bytes to the gateway, and behind them a request whose answer (404) is the last one; what comes back until it closes."""
    with socket.create_connection(("127.0.0.1", port or t.gateway.port), timeout=seconds) as s:
        out = b""
        try:
            s.sendall(data if port else data + LAST)
            while piece := s.recv(65536):
                out += piece
        except (TimeoutError, ConnectionError):
            pass
        return out


def statuses(answer):
    return [int(code) for code in re.findall(rb"HTTP/1\.[01] (\d{3}) [A-Z]", answer)]


class Bystander:
    """Asks for good things all the time, over connections that stay. Whatever it does not get is a failure."""

    def __init__(self, t):
        self.t, self.asked, self.failures, self.stopped = t, 0, [], False
        self.slowest = 0
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.t.gateway.port, timeout=60)
        while not self.stopped:
            started = time.monotonic()
            try:
                connection.request("POST" if self.asked % 5 == 0 else "GET", f"/good?n={self.asked}", b"x" * (self.asked % 7 * 1000))
                answer = connection.getresponse()
                body = json.loads(answer.read())
                if answer.status != 200 or body["path"] != f"/good?n={self.asked}":
                    self.failures.append((self.asked, answer.status, body))
            except Exception as e:  # whatever it is
                self.failures.append((self.asked, repr(e)))
                connection.close()
            self.asked += 1
            self.slowest = max(self.slowest, time.monotonic() - started)
            if self.asked % 50 == 0:
                connection.close()
            time.sleep(0.002)

    def stop(self):
        self.stopped = True
        self.thread.join()


def nobody_else_notices(test):
    """A test during which the bystander goes on."""
    def run(t):
        before = t.bystander.asked
        t.bystander.slowest = 0
        test(t)
        print(f"# the slowest good request took {t.bystander.slowest:.2f} s")
        wait_for(lambda: t.bystander.asked > before + 2, "the bystander")
        same([], t.bystander.failures[:3])
    run.__name__ = test.__name__
    return run


# ---- Clients ----

HOST = b"Host: h\r\n"
LONG = b"a" * 40000


@nobody_else_notices
def malformed_requests_get_an_error_and_go_nowhere(t):
    t.put("routes/raw", {"uris": ["/raw", "/raw/*"], "upstream": {"nodes": t.recorder.node}})
    seen = len(t.recorder.heads)
    for data, wanted in (
        (b"GARBAGE\r\n\r\n", 400), (b"\0\1\2\3\4\r\n\r\n", 400), (b"GET\r\n\r\n", 400), (b"GET /raw\x00x HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET /raw HTTP/9.1\r\n" + HOST + b"\r\n", 505), (b"GET /raw HTTP/1.x\r\n" + HOST + b"\r\n", 400),
        (b"get /raw HTTP/1.1\r\n" + HOST + b"\r\n", 400), (b"G@T /raw HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET raw HTTP/1.1\r\n" + HOST + b"\r\n", 400), (b"GET /raw/../../etc HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET /raw/%zz HTTP/1.1\r\n" + HOST + b"\r\n", 400), (b"GET /raw%00 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET /raw HTTP/1.1\r\n\r\n", 400), (b"GET /raw HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
        (b"GET /raw HTTP/1.1\r\nHost: a/b\r\n\r\n", 400), (b"GET /raw HTTP/1.1\r\nHost: a\0b\r\n\r\n", 400),
        (b"GET /raw HTTP/1.1\r\n" + HOST + b"X: a\0b\r\n\r\n", 400), (b"GET /raw HTTP/1.1\r\n" + HOST + b"X y: 1\r\n\r\n", 400),
        (b"GET /raw HTTP/1.1\r\n" + HOST + b"X: 1\r\n folded\r\n\r\n", 400), (b"GET /raw HTTP/1.1\r\n" + HOST + b"X : 1\r\n\r\n", 400),
        (b"GET /raw HTTP/1.1\r\n X: 1\r\n" + HOST + b"\r\n", 400), (b"GET /raw HTTP/1.1\r\n" + HOST + b"\x01X: 1\r\n\r\n", 400),
        (b"GET /raw?" + LONG + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
        (b"GET /raw HTTP/1.1\r\n" + HOST + b"X: " + LONG + b"\r\n\r\n", 400),
        (b"GET /raw HTTP/1.1\r\n" + HOST + b"".join(b"X-%d: %s\r\n" % (i, LONG[:4000]) for i in range(20)) + b"\r\n", 400),
        (b"CONNECT h:80 HTTP/1.1\r\n" + HOST + b"\r\n", (400, 405)), (b"TRACE /raw HTTP/1.1\r\n" + HOST + b"\r\n", 405),
        (b"POST /raw HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n", 400),
        (b"POST /raw HTTP/1.1\r\n" + HOST + b"Content-Length: 1x\r\n\r\n", 400),
        (b"POST /raw HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999999999999999\r\n\r\n", 400),
        (b"POST /raw HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST /raw HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n", 400),
        (b"POST /raw HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400), (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, 505)),
    ):
        answer = send(t, data)
        found = re.search(rb"(?:^|<title>)(?:HTTP/1.1 )?(\d{3})", answer)
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        assert found and int(found.group(1)) in wanted, (data[:80], wanted, answer[:200])
    same(([], []), (t.recorder.heads[seen:], t.recorder.broken))


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"


@nobody_else_notices
def no_request_hides_in_another_one(t):
    post = b"POST /raw HTTP/1.1\r\n" + HOST
    chunked = b"0\r\n\r\n" + SMUGGLED
    for data in [
        post + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % len(chunked) + chunked,
        post + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + chunked,
        post + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
        post + b"Content-Length: %d\r\nContent-Length: 0\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
        post + b"Content-Length: 0, %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
        post + b"Content-Length: +%d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
        post + b"Content-Length : %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
        post.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + chunked,
    ] + [post + b"Content-Length: %d\r\n%s\r\n\r\n" % (len(chunked), te) + chunked for te in (
        b"Transfer-Encoding: xchunked", b"Transfer-Encoding : chunked", b"Transfer-Encoding: chunked, identity",
        b"Transfer-Encoding: identity, chunked", b"Transfer-Encoding:\x0bchunked", b"Transfer-Encoding: \"chunked\"",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x", b"X: y\rTransfer-Encoding: chunked", b"X: y\nTransfer-Encoding: chunked",
        b"transfer-encoding:\tchunked", b"Transfer-Encoding:\r\n chunked", b"Transfer\\-Encoding: chunked",
    )]:
        # The body is the second request's bytes, or the first is refused: never two requests, and never one on its own.
        seen = len(t.recorder.heads)
        answer = send(t, data)
        heads = t.recorder.heads[seen:]
        first = (statuses(answer) or [None])[0]
        assert first in (400, 501) and not heads or first == 200 and len(heads) == 1, (data, answer, heads)
        if heads:
            length = re.search(rb"(?i)content-length: *(\d+)", heads[0])
            assert not re.search(rb"(?im)^transfer-encoding:", heads[0]), heads
            assert length and t.recorder.bodies[-1] == chunked, (data, heads, t.recorder.bodies[-1])
    same([], [h for h in t.recorder.heads if b"/smuggled" in h.split(b"\r\n")[0]])


@nobody_else_notices
def what_may_be_said_in_two_ways_goes_on_in_one(t):
    post = b"POST /raw HTTP/1.1\r\n" + HOST
    for data, body in (
        (post + b"Transfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0;x\r\nTrailer: 1\r\n\r\n", b"abc"),
        (post + b"Transfer-Encoding: CHUNKED\r\n\r\n003\r\nabc\r\n0\r\n\r\n", b"abc"),
        (post + b"Transfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n", b"abc"),
        (b"POST /raw HTTP/1.1\nHost: h\nContent-Length: 3\n\nabc", b"abc"),
        (b"\r\n" + post + b"Content-Length: 3\r\n\r\nabc", b"abc"),
        (b"POST http://h/raw HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc", b"abc"),
        (b"GET /raw HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc", b"abc"),
    ):
        seen = len(t.recorder.heads)
        same([200, 404], statuses(send(t, data)))
        heads = t.recorder.heads[seen:]
        same((1, body), (len(heads), t.recorder.bodies[-1]))
        assert re.search(rb"(?im)^content-length: 3\r?$", heads[0]) and b"\n" not in heads[0].replace(b"\r\n", b""), heads
        assert not re.search(rb"(?im)^(transfer-encoding|trailer):", heads[0]), heads
    # Two requests behind each other are two, and get two answers.
    seen = len(t.recorder.heads)
    same([200, 200, 404], statuses(send(t, (post + b"Content-Length: 3\r\n\r\nabc") * 2)))
    same(2, len(t.recorder.heads) - seen)


def h2_frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


@nobody_else_notices
def http2_brings_no_lines_into_http1(t):
    def literal(name, value):
        return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value
    for method, path, extra in (
        (b"GET", b"/raw", (b"x", b"a\r\nevil: 1")), (b"GET", b"/raw", (b"x", b"a\nevil: 1")), (b"GET", b"/raw", (b"x\r\nevil", b"1")),
        (b"GET", b"/raw", (b"x: y", b"1")), (b"GET", b"/raw HTTP/1.1\r\nevil: 1\r\nx:", None), (b"GET /raw HTTP/1.1\r\nevil:", b"/raw", None),
        (b"GET", b"/raw", (b"transfer-encoding", b"chunked")), (b"GET", b"/raw", (b"content-length", b"1000")),
        (b"GET", b"/raw", (b"host", b"a\r\nevil: 1")), (b"GET", b"/raw\nevil: 1", None),
    ):
        fields = literal(b":method", method) + literal(b":scheme", b"http") + literal(b":path", path) + literal(b":authority", b"h")
        if extra:
            fields += literal(*extra)
        send(t, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + h2_frame(4, 0, 0, b"") + h2_frame(1, 5, 1, fields), t.h2c, 0.3)
        for head in t.recorder.heads:
            assert not re.search(rb"(?im)^(evil|transfer-encoding)\s*:", head) and b"\n" not in head.replace(b"\r\n", b""), (extra, head)
    same([], t.recorder.broken)


@nobody_else_notices
def slow_clients_keep_nobody_waiting(t):
    slow = [socket.create_connection(("127.0.0.1", t.gateway.port), timeout=10) for _ in range(100)]
    started = time.monotonic()
    for i, s in enumerate(slow):
        s.sendall((b"GET /good HTTP/1.1\r\nHost: h\r\nX: ", b"POST /good HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nabc")[i % 2])
    same([200] * 20, [t.gateway.request("/good").status for _ in range(20)])
    for s in slow:      # the time for a header and for a body is over (1 s each in this configuration)
        try:
            assert statuses(s.recv(65536)) in ([], [408])
        except ConnectionError:
            pass
        s.close()
    assert time.monotonic() - started < 9, "they were not sent away"


@nobody_else_notices
def logs_have_a_line_for_each_request(t):
    t.put("consumers/forged", {"username": "forged", "plugins": {"key-auth": {"key": "forged-key"}, "jwt-auth": {
        "key": "forged-jwt", "secret": "x" * 32}, "basic-auth": {"username": "forged", "password": "p"}}})
    for name in ("key-auth", "jwt-auth", "basic-auth"):
        t.put(f"routes/log-{name}", {"uri": f"/log/{name}/*", "plugins": {name: {}}, "upstream": {"nodes": UP.node}})
    t.put("routes/log-vars", {"uri": "/log/vars/*", "filter_func": "function(vars) error('no: ' .. vars.uri) end", "upstream": {
        "nodes": UP.node}})
    line = "\n2026/01/01 00:00:00 [emerg] 1#1: FORGED"
    quoted = "%0A2026/01/01%2000:00:00%20[emerg]%201%231:%20FORGED"
    basic = base64.b64encode(f"forged{line}:p{line}".encode()).decode()
    broken = ".".join(base64.urlsafe_b64encode(x.encode()).decode().rstrip("=") for x in (
        json.dumps({"alg": f"HS256{line}", "typ": line}), json.dumps({"key": f"k{line}", "exp": line}), line))
    for path, headers in ((f"/log/key-auth/{quoted}?apikey={quoted}", {"apikey": "k\x1b[31m\""}), (f"/log/jwt-auth/{quoted}?jwt={quoted}", {}),
                          (f"/log/jwt-auth/a?jwt={broken}", {}), (f"/log/basic-auth/{quoted}", {"Authorization": "Basic " + basic}),
                          (f"/log/vars/{quoted}", {"User-Agent": 'x" 200 "y\x1b[2J', "Referer": "\x07\\x0a\""}), (f"/{quoted}", {})):
        assert t.gateway.request(path, headers=headers).status in (401, 404), path
    log = t.gateway.folder / "logs" / "access.log"
    wait_for(lambda: b"/log/vars/" in log.read_bytes(), "the access log", 5)
    text = log.read_bytes()
    same([], re.findall(rb"[\x00-\x09\x0b-\x1f\x7f]", text))
    same([], [x for x in text.split(b"\n") if x and not re.match(rb'127\.0\.0\.1 - ', x)])
    assert b'"x\\x22 200 \\x22y\\x1B[2J"' in text
    same([], [x for x in t.gateway.error_log().split("\n") if "FORGED" in x and x.startswith("2026/01/01")])


# ---- Upstreams ----

class Bad(RawServer):
    """Does what the path says."""

    def serve(self, client):
        while True:
            text = b""
            while b"\r\n\r\n" not in text:
                piece = client.recv(65536)
                if not piece:
                    return
                text += piece
            how = text.split()[1].split(b"/")[-1].decode()
            if not getattr(self, how)(client):
                return

    def reset(self, client):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def close(self, client):
        pass

    def hang(self, client):
        client.recv(1)

    def garbage(self, client):
        client.sendall(b"\x00\xff\xfe garbage\r\n\r\nmore of it")

    def half_header(self, client):
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-")

    def endless_header(self, client):
        client.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            client.sendall(b"x" * 10000)

    def many_headers(self, client):
        client.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            client.sendall(b"X: y\r\n" * 1000)

    def bad_header(self, client):
        client.sendall(b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n")

    def bad_status(self, client):
        client.sendall(b"HTTP/1.1 xyz OK\r\nContent-Length: 0\r\n\r\n")

    def early_end(self, client):
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")

    def early_reset(self, client):
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
        time.sleep(0.05)
        self.reset(client)

    def bad_chunk(self, client):
        client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n")

    def no_last_chunk(self, client):
        client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")

    def stalled_body(self, client):
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
        client.recv(1)

    def two_answers(self, client):
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\noneHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen")
        return True

    def good(self, client):
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood")
        return True


@nobody_else_notices
def bad_upstreams_get_the_right_status(t):
    for how, wanted in (("reset", 502), ("close", 502), ("hang", 504), ("half_header", 502), ("endless_header", 502), ("many_headers", 502),
                        ("bad_header", 502)):
        for method in ("GET", "POST"):
            answer = t.gateway.request(f"/bad/{how}", method)
            same((how, wanted, str(wanted)), (how, answer.status, answer.headers.get("x-apisix-upstream-status")))
    for how in ("early_end", "early_reset", "bad_chunk", "no_last_chunk", "stalled_body"):     # what is sent is sent; but it must not look whole
        try:
            answer = t.gateway.request(f"/bad/{how}")
        except (http.client.IncompleteRead, ConnectionError):
            pass
        else:
            raise AssertionError(f"{how}: {answer}")


@nobody_else_notices
def what_is_no_http_never_reaches_a_client(t):
    for how in ("garbage", "bad_status"):
        answer = send(t, f"GET /bad/{how} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        assert b"garbage" not in answer and statuses(answer)[:1] in ([], [502]), (how, answer)


@nobody_else_notices
def an_answer_too_much_is_given_to_nobody(t):
    connection = http.client.HTTPConnection("127.0.0.1", t.gateway.port, timeout=5)
    for _ in range(10):
        for how, wanted in (("two_answers", b"one"), ("good", b"good")):
            connection.request("GET", f"/bad/{how}")
            same(wanted, connection.getresponse().read())
    connection.close()


# ---- Plugins ----

def hostile(t, phase, how, name="t-hostile"):
    conf = {"phase": phase, "how": how} if name == "t-hostile" else {"phase": phase}
    t.put("routes/hostile", {"uri": "/hostile", "plugins": {name: conf}, "upstream": {"nodes": UP.node}})
    return t.gateway.request("/hostile?body=0123456789")


@nobody_else_notices
def a_plugin_that_throws_fails_its_own_request(t):
    for phase in ("rewrite", "access", "before_proxy", "header_filter"):
        for how in ("text", "table", "none", "index", "deep"):
            answer = hostile(t, phase, how)
            same((phase, how, 500), (phase, how, answer.status))
            assert b"0123456789" not in answer.body and b"on purpose" not in answer.body, answer
            if phase == "header_filter" and how == "text":   # nothing may follow the answer: it would be the next one's
                raw = send(t, b"GET /hostile?body=0123456789 HTTP/1.1\r\nHost: h\r\n\r\n" * 2)
                assert statuses(raw) == [500] and b"0123456789" not in raw, raw
    t.put("routes/hostile", {"uri": "/hostile", "plugins": {"t-hostile": {"phase": "header_filter", "how": "text"}, "redirect": {"uri": "/x"}}})
    raw = send(t, b"GET /hostile HTTP/1.1\r\nHost: h\r\n\r\n" * 2)     # an answer of the gateway itself
    assert statuses(raw) in ([], [500]), raw
    for how in ("text", "table", "deep"):
        answer = hostile(t, "log", how)
        same((200, b"0123456789"), (answer.status, answer.body))
    assert "on purpose" in t.gateway.error_log()


@nobody_else_notices
def a_plugin_that_throws_in_a_body_lets_no_half_look_whole(t):
    same(500, hostile(t, "header_filter", "", "t-hostile-body").status)
    for phase in ("body_filter", "delayed_body_filter"):
        try:
            answer = hostile(t, phase, "", "t-hostile-body")
        except (http.client.HTTPException, ConnectionError):
            pass
        else:
            raise AssertionError(f"{phase}: {answer}")


@nobody_else_notices
def a_plugin_that_returns_nonsense_has_an_answer_all_the_same(t):
    for phase in ("rewrite", "access", "before_proxy"):
        for how in ("code_text", "code_true", "code_low", "code_high", "code_fraction", "code_table", "code_function", "body_cycle"):
            answer = hostile(t, phase, how)
            same((phase, how, 500), (phase, how, answer.status))
    for how in ("code_text", "code_table", "code_low"):
        same(200, hostile(t, "header_filter", how).status)      # there, what is returned says nothing


# ---- Objects ----

@nobody_else_notices
def bad_patterns_are_refused_or_do_not_match(t):
    t.put("routes/pattern", {"uri": "/pattern", "upstream": {"nodes": UP.node}})
    t.put("routes/never", {"uri": "/never", "vars": [["uri", "~~", "("]], "upstream": {"nodes": UP.node}})
    same([404, 404], [t.gateway.request("/never").status for _ in range(2)])
    for more in (
        {"vars": [["uri", "nonsense", "x"]]}, {"vars": "x"}, {"vars": [["uri", "ipmatch", "x"]]}, {"vars": [[]]},
        {"filter_func": "function(vars) return 1 +"}, {"filter_func": "return 5"}, {"filter_func": "os.exit(1)"}, {"filter_func": 7},
        {"remote_addrs": ["300.1.1.1"]}, {"plugins": {"proxy-rewrite": {"regex_uri": ["(", "/x"]}}},
        {"plugins": {"proxy-rewrite": {"headers": {"x": "a\r\nevil: 1"}}}}, {"plugins": {"proxy-rewrite": {"host": "a\r\nevil: 1"}}},
        {"plugins": {"proxy-rewrite": {"headers": {"x\r\nevil": "1"}}}},
    ):
        t.put("routes/pattern", dict({"uri": "/pattern", "upstream": {"nodes": UP.node}}, **more))
        same((more, ["/apisix/routes/pattern"]), (more, [r["key"] for r in request(t.gateway.control, "/v1/rejected").json()]))
        same(200, t.gateway.request("/pattern").status)
    t.delete("routes/pattern")
    for func in ("function(vars) error('no') end", "function(vars) return nil .. 1 end", "function(vars) return vars.x.y.z end",
                 "function() local function f() return 1 + f() end return f() end", "function(vars) error({}) end"):
        t.put("routes/func", {"uri": "/func", "filter_func": func, "upstream": {"nodes": UP.node}})
        same(404, t.gateway.request("/func").status)
    # Patterns that take for ever have a limit, and do not match then.
    t.put("routes/evil", {"uri": "/evil/*", "vars": [["arg_a", "~~", "^(a+)+$"]], "upstream": {"nodes": UP.node}})
    started = time.monotonic()
    same(404, t.gateway.request("/evil/x?a=" + "a" * 60 + "b").status)
    assert time.monotonic() - started < 2


@nobody_else_notices
def values_make_no_lines_of_their_own(t):
    node = {"nodes": t.recorder.node}
    t.put("routes/crlf1", {"uri": "/crlf1/*", "upstream": node, "plugins": {"proxy-rewrite": {
        "regex_uri": ["^/crlf1/(.*)", "/to/$1"], "headers": {"set": {"X-Got": "$1", "X-Uri": "$uri", "X-Arg": "$arg_a"}}}}})
    t.put("routes/crlf2", {"uri": "/crlf2/*", "upstream": node, "plugins": {"proxy-rewrite": {"uri": "/to$uri"}}})
    t.put("routes/crlf3", {"uri": "/crlf3/*", "upstream": node, "plugins": {"proxy-rewrite": {"uri": "/to x\r\nevil: 1"}}})
    t.put("routes/crlf4", {"uri": "/crlf4/*", "upstream": dict(node, pass_host="rewrite", upstream_host="a\r\nevil: 1")})
    t.put("routes/crlf5", {"uri": "/crlf5/*", "upstream": node, "plugins": {"redirect": {"uri": "/to$uri"}, "response-rewrite": {
        "headers": {"set": {"X-Uri": "$uri"}}}}})
    t.put("routes/crlf6", {"uri": "/crlf6/*", "upstream": node, "plugins": {"proxy-rewrite": {"headers": {
        "set": {"x": "a\r\nevil: 1"}, "add": {"y\r\nevil": "1", "z": "b\nevil: 1"}}}}})
    t.put("routes/crlf7", {"uri": "/crlf7/*", "upstream": node, "plugins": {"proxy-rewrite": {"host": "a.test\n"}}})
    for i in range(1, 8):
        for path in ("%0d%0aevil:%201", "x%20HTTP/1.1%0d%0aevil:1%0d%0a%0d%0aGET%20/smuggled", "%0aevil:1?a=%0d%0aevil:1"):
            seen = len(t.recorder.heads)
            raw = send(t, f"GET /crlf{i}/{path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
            heads = t.recorder.heads[seen:]
            assert len(heads) <= 1 and len(statuses(raw)) == 2, (i, path, heads, raw)
            for text in [raw.split(b"\r\n\r\n")[0]] + heads:
                assert not re.search(rb"(?im)^evil", text) and b"\n" not in text.replace(b"\r\n", b""), (i, path, text)
                if text in heads:
                    same(3, len(text.split(b"\r\n")[0].split(b" ")))
    same([], t.recorder.broken)
    same([], [r["key"] for r in request(t.gateway.control, "/v1/rejected").json() if not r["key"].endswith(("crlf4", "crlf7"))])


def raw_put(t, key, value):
    answer = t.etcd.call("/v3/kv/put", {"key": base64.b64encode(key).decode(), "value": base64.b64encode(value).decode()})
    return int(answer["header"]["revision"])


@nobody_else_notices
def bad_objects_stay_alone(t):
    route = {"uri": "/alone", "upstream": {"nodes": UP.node}}
    t.put("routes/alone", route)
    good = json.dumps(route).encode()
    deep = b"[" * 10000 + b"]" * 10000
    texts = [
        b"{", b"\xff\xfe\0", b"null", b"true", b"5", b"[]", b"\"x\"", b"[1,2]", good[:-1], good + b"x", good.replace(b"/alone", b"/al\x00ne"), deep,
        b'{"uri":"/alone","upstream":' + deep + b"}", b'{"a":' * 10000 + b"1" + b"}" * 10000, b'{"uri":"/alone","plugins":' + b'{"a":' * 90
        + b"1" + b"}" * 92, b"9" * 100000, b"1e999999", b" " * 1400000, b'"' + b"x" * 1400000 + b'"', b"[" + b"[]," * 450000 + b"1]",
        b'{"uri":["/alone"]}', b'{"uri":5}', b'{"uris":{"a":1}}', b'{"uri":"/alone","upstream":[]}', b'{"uri":"/alone","upstream":{"nodes":"x"}}',
        b'{"uri":"/alone","upstream":{"nodes":{"127.0.0.1:99999":1}}}',
        b'{"uri":"/alone","plugins":[1]}', b'{"uri":"/alone","plugins":{"key-auth":5}}', b'{"uri":"/alone","methods":"GET"}',
        b'{"uri":"/alone","priority":"x"}', b'{"uri":"/alone","status":-1}', b'{"uri":"/alone","timeout":1}',
    ]
    for text in texts:
        revision = raw_put(t, b"/apisix/routes/alone", text)
    t.gateway.reached(revision)
    same(200, t.gateway.request("/alone").status)
    for kind in (b"services", b"upstreams", b"consumers", b"consumer_groups", b"plugin_configs", b"global_rules", b"plugin_metadata", b"ssls",
                 b"secrets", b"protos", b"stream_routes", b"plugins", b"no_kind", b""):
        for i, text in enumerate((b"{", b"null", b"[]", b"5", deep, b'{"plugins":5,"nodes":5,"cert":5,"username":5}', b"\xff" * 1000)):
            revision = raw_put(t, b"/apisix/%s%s" % (kind, b"/bad%d" % i if kind != b"plugins" or i % 2 else b""), text)
    for key in (b"/apisix/routes/", b"/apisix/routes/a/b/c", b"/apisix//", b"/apisix", b"/apisix/routes/\xff\0\n", b"/apisix/routes/" + b"k" * 5000,
                b"/apisix/consumers/x/credentials/", b"/apisix/consumers/x/y/z"):
        revision = raw_put(t, key, good)
    t.gateway.reached(revision)
    same([200, 200], [t.gateway.request(p).status for p in ("/alone", "/good")])
    answer = request(t.gateway.control, "/v1/rejected")
    count = len(json.loads(answer.body.decode()))
    assert count > 30 and len(answer.body) < 1000000, (count, len(answer.body))
    t.gateway.metrics()
    # And all of it at once, at the start of a worker
    same(True, t.gateway.process.process.poll() is None)
    for kind in (b"global_rules", b"plugins", b"consumers"):
        t.etcd.call("/v3/kv/deleterange", {"key": base64.b64encode(b"/apisix/" + kind).decode(),
                                           "range_end": base64.b64encode(b"/apisix/" + kind + b"0").decode()})


@nobody_else_notices
def a_big_object_works(t):
    body = "0123456789" * 140000
    t.put("routes/big", {"uri": "/big", "plugins": {"response-rewrite": {"body": body}}, "upstream": {"nodes": UP.node}})
    answer = t.gateway.request("/big")
    same((200, len(body), True), (answer.status, len(answer.body), answer.body == body.encode()))


def memory(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text()).group(1)) / 1024


def seconds_of(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@nobody_else_notices
def ten_thousand_routes_are_replaced_while_traffic_goes_on(t):
    def replace(generation):
        for start in range(0, 10000, 100):
            answer = t.etcd.call("/v3/kv/txn", {"success": [{"requestPut": {
                "key": base64.b64encode(f"/apisix/routes/many-{i}".encode()).decode(),
                "value": base64.b64encode(json.dumps({"uri": f"/many/{i}/{generation}", "upstream": {"nodes": UP.node}}).encode()).decode(),
            }} for i in range(start, start + 100)]})
        t.gateway.reached(int(answer["header"]["revision"]))
    sizes, used = [], []
    for generation in range(2):
        before = [seconds_of(pid) for pid in t.gateway.workers()]
        replace(generation)
        used.append(max(seconds_of(pid) - x for pid, x in zip(t.gateway.workers(), before)))
        for i in (0, 4999, 9999):
            same([404, 200], [t.gateway.request(f"/many/{i}/{g}").status for g in (generation - 1, generation)])
        for _ in range(8):      # every worker takes it in
            t.gateway.request("/good")
        sizes.append(max(memory(pid) for pid in t.gateway.workers()))
    print("# after each replacement: MiB of the largest worker " + ", ".join(f"{x:.0f}" for x in sizes)
          + "; seconds of processor time of one worker " + ", ".join(f"{x:.2f}" for x in used))
    assert sizes[-1] < 300 and sizes[-1] < sizes[0] * 1.5 + 20, sizes
    t.etcd.call("/v3/kv/deleterange", {"key": base64.b64encode(b"/apisix/routes/many-").decode(),
                                       "range_end": base64.b64encode(b"/apisix/routes/many.").decode()})
    wait_for(lambda: t.gateway.request("/many/9999/1").status == 404, "the deletion", 30)


def nothing_died(t):
    """No worker ended through all of this."""
    same([], re.findall(r".*exited on signal.*|.*worker process \d+ exited.*", t.gateway.error_log()))
    same(t.first_workers, t.gateway.workers())


def begin(t):
    t.recorder = t.keep(Recorder())
    t.put("routes/good", {"uri": "/good", "upstream": {"nodes": UP.node}})
    t.put("routes/bad-up", {"uri": "/bad/*", "timeout": {"connect": 1, "send": 1, "read": 0.4}, "upstream": {"nodes": t.keep(Bad()).node}})
    t.first_workers = t.gateway.workers()
    t.bystander = t.keep(Bystander(t))
    wait_for(lambda: t.bystander.asked > 10, "the bystander")
    same([], t.bystander.failures)


TESTS = [
    begin, malformed_requests_get_an_error_and_go_nowhere, no_request_hides_in_another_one, what_may_be_said_in_two_ways_goes_on_in_one,
    http2_brings_no_lines_into_http1, slow_clients_keep_nobody_waiting, logs_have_a_line_for_each_request, bad_upstreams_get_the_right_status,
    what_is_no_http_never_reaches_a_client, an_answer_too_much_is_given_to_nobody, a_plugin_that_throws_fails_its_own_request,
    a_plugin_that_throws_in_a_body_lets_no_half_look_whole, a_plugin_that_returns_nonsense_has_an_answer_all_the_same,
    bad_patterns_are_refused_or_do_not_match, values_make_no_lines_of_their_own, bad_objects_stay_alone, a_big_object_works,
    ten_thousand_routes_are_replaced_while_traffic_goes_on, nothing_died,
]

if __name__ == "__main__":
    H2C = free_port()
    Scenario.h2c = H2C
    main(TESTS, {
        "apisix": {"h2c_listen": [{"ip": "127.0.0.1", "port": H2C}], "extra_lua_path": str(TOP / "tests" / "proxy" / "extra" / "?.lua")},
        "plugins": ["key-auth", "jwt-auth", "basic-auth", "proxy-rewrite", "response-rewrite", "redirect", "t-hostile", "t-hostile-body"],
        "nginx_config": {"http": {"client_header_timeout": "1s", "client_body_timeout": "1s"}},
    }, both=False)      # requests and answers are what is bad here
