#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""
The gateway's upstreams: algorithms, retries, DNS and health checks, with an etcd, and servers and a DNS server of our own. Prints TAP.
Only Python's standard library is used.
"""

import collections
import concurrent.futures
import functools
import http.client
import itertools
import math
import os
import pathlib
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "lib"))
import dpproxy  # noqa: E402
from dpproxy import free_port  # noqa: E402

WAIT = float(os.environ.get("KS_WAIT", "10"))  # seconds, for anything that must happen


class Failed(Exception):
    pass


def must(condition, *why):
    if not condition:
        raise Failed(" ".join(str(part) for part in why))


def until(condition, what, limit=WAIT):
    end = time.monotonic() + limit
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.03)
    raise Failed("in vain: " + what)


class Server:
    """An HTTP server that does as it is told: mode "ok", a status, "hang", "reset", "garbage"; down() refuses connections."""

    def __init__(self, name, ip="127.0.0.1", port=None, tls=None):
        self.name, self.ip, self.port, self.mode, self.delay = name, ip, port or 0, "ok", 0
        self.requests, self.probes, self.open = [], [], set()
        self.tls, self.names = tls, set()
        if tls:
            tls.sni_callback = lambda _, name, __: self.names.add(name)
        self.lock = threading.Lock()
        self.listener = None
        self.up()

    def up(self):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.ip, self.port))
        listener.listen(128)
        self.listener, self.port = listener, listener.getsockname()[1]
        threading.Thread(target=self.accept, args=(listener,), daemon=True).start()

    def down(self):
        # shutdown wakes accept(); close alone would leave the port open until the next connection
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.listener = None
        with self.lock:
            for conn in list(self.open):
                try:
                    conn.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def accept(self, listener):
        while True:
            try:
                conn, _ = listener.accept()
            except OSError:
                return
            with self.lock:
                self.open.add(conn)
            threading.Thread(target=self.serve, args=(conn,), daemon=True).start()

    def serve(self, conn):
        plain = conn
        try:
            if self.tls:
                conn = self.tls.wrap_socket(conn, server_side=True)
            file = conn.makefile("rb")
            while True:
                line = file.readline(65536)
                if not line:
                    return
                headers = {}
                while True:
                    header = file.readline(65536).decode("latin-1").strip()
                    if not header:
                        break
                    name, _, value = header.partition(":")
                    headers[name.lower()] = value.strip()
                length = int(headers.get("content-length", "0"))
                body = file.read(length) if length else b""
                if not self.answer(conn, line.decode("latin-1").split(), headers, body):
                    return
        except (OSError, ValueError):
            pass
        finally:
            with self.lock:
                self.open.discard(plain)
            conn.close()
            plain.close()

    def answer(self, conn, line, headers, body):
        mode = self.mode
        probe = "probe" in line[1]
        with self.lock:
            (self.probes if probe else self.requests).append((line[0], line[1], headers, body))
        if mode == "hang":
            time.sleep(3)
            return False
        if mode == "reset":
            conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        if mode == "garbage":
            conn.sendall(b"\x00\xff garbage\r\n\r\n")
            return False
        if self.delay and not probe:
            time.sleep(self.delay)
        status = 200 if mode == "ok" else mode
        text = self.name.encode()
        conn.sendall(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(text), text))
        return True


class Dns:
    """A DNS server: records {name: [addresses]}, ttl 1; a name that is not there does not exist. Names in
    `silent` get no answer at all."""

    def __init__(self):
        self.srv = {}  # name: [(priority, weight, port, target)]
        self.records, self.silent, self.queries, self.tcp_only, self.ids = {}, set(), [], set(), set()
        self.port = free_port()
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", self.port))
        self.tcp = socket.socket()
        self.tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.tcp.bind(("127.0.0.1", self.port))
        self.tcp.listen(16)
        threading.Thread(target=self.serve_udp, daemon=True).start()
        threading.Thread(target=self.serve_tcp, daemon=True).start()

    def respond(self, query, over_tcp):
        at, labels = 12, []
        while query[at]:
            labels.append(query[at + 1:at + 1 + query[at]].decode())
            at += query[at] + 1
        name, kind = ".".join(labels).lower(), struct.unpack(">H", query[at + 1:at + 3])[0]
        self.queries.append((name, kind, over_tcp))
        self.ids.add(query[:2])
        question = query[12:at + 5]
        if kind == 33 and name in self.srv:
            def data(priority, weight, port, target):
                labels = b"".join(bytes([len(label)]) + label.encode() for label in target.split("."))
                return struct.pack(">HHH", priority, weight, port) + labels + b"\0"
            answers = [b"\xc0\x0c" + struct.pack(">HHIH", 33, 1, 1, len(data(*r))) + data(*r) for r in self.srv[name]]
            return query[:2] + struct.pack(">HHHHH", 0x8180, 1, len(answers), 0, 0) + question + b"".join(answers)
        found = self.records.get(name)
        if found is None:
            return query[:2] + struct.pack(">HHHHH", 0x8183, 1, 0, 0, 0) + question
        if name in self.tcp_only and not over_tcp:
            return query[:2] + struct.pack(">HHHHH", 0x8380, 1, 0, 0, 0) + question
        answers = [b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 1, 4) + socket.inet_aton(a) for a in found] if kind == 1 else []
        return query[:2] + struct.pack(">HHHHH", 0x8180, 1, len(answers), 0, 0) + question + b"".join(answers)

    def serve_udp(self):
        while True:
            query, peer = self.udp.recvfrom(4096)
            answer = self.respond(query, False)
            if self.queries[-1][0] not in self.silent:
                self.udp.sendto(b"\0\0" + query[2:], peer)  # a forger's try comes first
                self.udp.sendto(answer, peer)

    def serve_tcp(self):
        while True:
            conn, _ = self.tcp.accept()
            size = struct.unpack(">H", conn.recv(2, socket.MSG_WAITALL))[0]
            answer = self.respond(conn.recv(size, socket.MSG_WAITALL), True)
            conn.sendall(struct.pack(">H", len(answer)) + answer)
            conn.close()


class Gateway:
    """An etcd and a dpproxy with two workers. put() makes an upstream and a route /<name>/* to it."""

    def __init__(self, dns):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="dpproxy-upstream-"))
        self.dir.chmod(0o755)  # the workers are another user when started as root
        servers = ["127.0.0.1:%d" % dns.port]
        settings = {"apisix": {"dns_resolver": servers, "resolver_timeout": 1}, "discovery": {"dns": {"servers": servers}}}
        self.etcd, self.dpproxy = dpproxy.Etcd(self.dir), None
        try:
            self.start(settings)
        except BaseException:
            self.etcd.stop()
            shutil.rmtree(self.dir, ignore_errors=True)
            raise

    def start(self, settings):
        # Which worker, and which servers were asked: told in each answer.
        tell = "return function() ngx.header['X-Worker'] = ngx.worker.pid() ngx.header['X-Tries'] = ngx.var.upstream_addr end"
        self.etcd.put("/apisix/global_rules/tell", {"id": "tell", "plugins": {
            "serverless-post-function": {"phase": "header_filter", "functions": [tell]}}})
        self.etcd.put("/apisix/consumers/jack", {"username": "jack", "plugins": {"key-auth": {"key": "jack-key"}}})
        self.dpproxy = dpproxy.Gateway(self.dir, self.etcd.url, settings)

    def stop(self):
        if self.dpproxy:
            self.dpproxy.stop()
        self.etcd.stop()

    def log(self):
        return "".join(path.read_text(errors="replace") for path in (self.dir / "dpproxy.log", self.dir / "gateway" / "logs" / "error.log")
                       if path.exists())

    def request(self, method, path, body=None, headers=None):
        return self.dpproxy.request(path, method, headers, body)

    def get(self, path, headers=None):
        return self.dpproxy.request(path, headers=headers)

    def put(self, name, plugins=None, **upstream):
        self.etcd.put("/apisix/upstreams/" + name, upstream)
        self.dpproxy.reached(self.etcd.put("/apisix/routes/" + name, {
            "uri": "/%s/*" % name, "upstream_id": name, "plugins": plugins or {}}))

    def put_service(self, name, **upstream):
        """And two routes, /<name>1/* and /<name>2/*."""
        self.etcd.put("/apisix/services/" + name, {"upstream": upstream})
        for i in ("1", "2"):
            revision = self.etcd.put("/apisix/routes/" + name + i, {"uri": "/%s%s/*" % (name, i), "service_id": name})
        self.dpproxy.reached(revision)

    def health(self, name, kind="upstreams"):
        """Port -> status, from the control API."""
        answer = dpproxy.request(self.dpproxy.control, "/v1/healthcheck/%s/%s" % (kind, name))
        must(answer.status in (200, 404), answer)
        return {node["port"]: node["status"] for node in answer.json()["nodes"]} if answer.status == 200 else {}

    def many(self, path, count, at_once=1):
        """How often each server answered, and the workers that took part."""
        with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
            answers = list(pool.map(lambda _: self.get(path), range(count)))
        seen = collections.Counter(text(a) if a.status == 200 else a.status for a in answers)
        seen.workers = {a.headers["x-worker"] for a in answers}
        return seen


def text(answer):
    return answer.body.decode("latin-1")


def tries(answer):
    return answer.headers["x-tries"].split(", ")


def nodes(*servers):
    return {"%s:%d" % (s.ip, s.port): 1 for s in servers}


def ring_of(weights):
    """Ketama as the specification describes it, by zlib and bisection over a sorted list: independent of the Lua one."""
    divisor = functools.reduce(math.gcd, weights.values())
    points = []
    for name, weight in weights.items():
        base, last = name.replace(":", "\0").encode(), 0
        for _ in range(weight // divisor * 160):
            last = zlib.crc32(base + struct.pack("<I", last))
            points.append((last, name))
    return sorted(points)


def on_ring(points, key, without=()):
    start = zlib.crc32(key.encode())
    behind = [p for p in points if p[0] >= start] + points
    return next(name for _, name in behind if name not in without)


class Cases:
    def __init__(self, gateway, dns):
        self.gateway, self.dns = gateway, dns
        self.a, self.b, self.c = (Server(name) for name in "abc")

    def c1_weights(self):
        g = self.gateway
        g.put("c1", nodes={"127.0.0.1:%d" % self.a.port: 5, "127.0.0.1:%d" % self.b.port: 1, "127.0.0.1:%d" % self.c.port: 0})
        seen = g.many("/c1/x", 600, at_once=4)
        must(set(seen) == {"a", "b"} and abs(seen["a"] - 500) <= 6, seen)
        must(len(seen.workers) == 2, "only one worker took part")

    def c2_consistent_hash(self):
        g = self.gateway
        weights = {"127.0.0.1:%d" % s.port: w for s, w in ((self.a, 20), (self.b, 10), (self.c, 10))}
        names = {"127.0.0.1:%d" % s.port: s.name for s in (self.a, self.b, self.c)}
        g.put("c2", nodes=weights, type="chash", key="arg_k")
        ring = ring_of(weights)
        for i in range(150):
            key = "key-%d" % i
            response = g.get("/c2/x?k=" + key)
            must(text(response) == names[on_ring(ring, key)], key, text(response))
        seen = g.many("/c2/x?k=same", 40, at_once=4)
        must(seen == {names[on_ring(ring, "same")]: 40} and len(seen.workers) == 2, "workers differ", seen)
        # one node refuses: only its keys go on, to the ring's next
        self.b.down()
        try:
            gone = "127.0.0.1:%d" % self.b.port
            for i in range(60):
                key = "key-%d" % i
                response = g.get("/c2/x?k=" + key)
                must(text(response) == names[on_ring(ring, key, (gone,))], key, text(response))
        finally:
            self.b.up()

    def c3_hash_falls_back_to_remote_addr(self):
        g = self.gateway
        g.put("c3", nodes=nodes(self.a, self.b, self.c), type="chash", hash_on="header", key="X-User")
        names = {"127.0.0.1:%d" % s.port: s.name for s in (self.a, self.b, self.c)}
        ring = ring_of(nodes(self.a, self.b, self.c))
        must(text(g.get("/c3/x")) == names[on_ring(ring, "127.0.0.1")])
        for user in ("jack", "jill", "joe"):
            must(text(g.get("/c3/x", headers={"X-User": user})) == names[on_ring(ring, user)], user)
        g.put("c3b", nodes=nodes(self.a, self.b, self.c), type="chash", hash_on="vars_combinations", key="$arg_a-${arg_b}")
        must(text(g.get("/c3b/x?a=1&b=2")) == names[on_ring(ring, "1-2")])
        g.put("c3c", nodes=nodes(self.a, self.b, self.c), type="chash", hash_on="cookie", key="sid")
        must(text(g.get("/c3c/x", headers={"Cookie": "x=1; sid=s7"})) == names[on_ring(ring, "s7")])
        g.put("c3d", nodes=nodes(self.a, self.b, self.c), type="chash", hash_on="consumer", plugins={"key-auth": {}})
        must(text(g.get("/c3d/x", headers={"apikey": "jack-key"})) == names[on_ring(ring, "jack")])

    def c4_least_conn_spares_the_slow(self):
        g = self.gateway
        g.put("c4", nodes=nodes(self.a, self.b), type="least_conn")
        self.a.delay = 0.2
        try:
            seen = g.many("/c4/x", 150, at_once=6)
        finally:
            self.a.delay = 0
        must(seen["a"] + seen["b"] == 150 and seen["b"] > 3 * seen["a"], seen)

    def ewma_prefers_the_fast(self):
        g = self.gateway
        g.put("ewma", nodes=nodes(self.a, self.b), type="ewma")
        self.a.delay = 0.1
        try:
            seen = g.many("/ewma/x", 60, at_once=2)
        finally:
            self.a.delay = 0
        must(seen["a"] + seen["b"] == 60 and seen["b"] > 3 * seen["a"], seen)

    def c5_priorities(self):
        g = self.gateway
        def node(server, priority):
            return {"host": server.ip, "port": server.port, "weight": 1, "priority": priority}
        g.put("c5", nodes=[node(self.a, 0), node(self.b, 0), node(self.c, -1)])
        must(g.many("/c5/x", 20)["c"] == 0)
        self.a.down()
        try:
            must(g.many("/c5/x", 10) == {"b": 10})
            self.b.down()
            try:
                response = g.get("/c5/x")
                must(text(response) == "c" and len(tries(response)) == 3, tries(response))
            finally:
                self.b.up()
        finally:
            self.a.up()

    def c6_second_node_after_a_refusal(self):
        g = self.gateway
        g.put("c6", nodes=nodes(self.a, self.b))
        self.a.down()
        try:
            must(g.many("/c6/x", 20) == {"b": 20})
            # a POST that could not be sent goes on as well
            must(all(text(g.request("POST", "/c6/x", "body")) == "b" for _ in range(4)))
        finally:
            self.a.up()

    def c7_retries_and_their_deadline(self):
        g = self.gateway
        self.a.down()
        try:
            g.put("c7", nodes=nodes(self.a, self.b), retries=0)
            must(set(g.many("/c7/x", 10)) == {"b", 502})
            g.put("c7b", nodes=nodes(self.a), retries=2)
            response = g.get("/c7b/x")
            must(response.status == 502 and len(tries(response)) == 3, tries(response))
        finally:
            self.a.up()
        self.a.mode = self.b.mode = self.c.mode = "hang"
        try:
            timeout = {"connect": 1, "send": 1, "read": 0.4}
            g.put("c7c", nodes=nodes(self.a, self.b, self.c), retries=9, retry_timeout=0.6, timeout=timeout)
            start = time.monotonic()
            response = g.get("/c7c/x")
            took = time.monotonic() - start
            must(response.status == 502 and 0.7 < took < 1.6, response.status, took)
        finally:
            self.a.mode = self.b.mode = self.c.mode = "ok"

    def c9_pass_host(self):
        g, a, dns = self.gateway, self.a, self.dns
        dns.records["host.example"] = ["127.0.0.1"]
        def host():
            return a.requests[-1][2]["host"]
        g.put("c9", nodes=nodes(a))
        g.get("/c9/x", headers={"Host": "client.example"})
        must(host() == "client.example", host())
        g.put("c9b", nodes={"host.example:%d" % a.port: 1}, pass_host="node")
        g.get("/c9b/x", headers={"Host": "client.example"})
        must(host() == "host.example:%d" % a.port, host())
        g.put("c9c", nodes=nodes(a), pass_host="rewrite", upstream_host="other.example")
        g.get("/c9c/x", headers={"Host": "client.example"})
        must(host() == "other.example", host())
        # a retry to another domain asks for that one
        dns.records["gone.example"] = ["127.0.0.1"]
        g.put("c9d", nodes=[{"host": "gone.example", "port": free_port(), "weight": 1, "priority": 1},
                            {"host": "host.example", "port": a.port, "weight": 1}], pass_host="node")
        must(text(g.get("/c9d/x")) == "a" and host() == "host.example:%d" % a.port, host())

    def c12_active_checks(self):
        g = self.gateway
        fast = {"interval": 1, "successes": 2}
        for name, active in (("c12", {"type": "http", "http_path": "/probe", "healthy": fast}),
                             ("c12t", {"type": "tcp", "healthy": fast})):
            g.put(name, nodes=nodes(self.a, self.b), checks={"active": active}, pass_host="rewrite", upstream_host="up.example")
            g.get("/%s/x" % name)
        until(lambda: self.a.probes and self.b.probes, "both are probed")
        must(self.a.probes[-1][2]["host"] == "up.example", self.a.probes[-1])
        self.a.down()
        try:
            for name in ("c12", "c12t"):
                until(lambda: g.health(name).get(self.a.port) == "unhealthy", name + ": a is unhealthy")
                until(lambda: all(tries(g.get("/%s/x" % name)) == ["127.0.0.1:%d" % self.b.port] for _ in range(8)),
                      name + ": only b is asked, and first")
            self.b.down()
            try:
                until(lambda: g.health("c12t").get(self.b.port) == "unhealthy", "b is unhealthy too")
                asked = tries(g.get("/c12t/x"))
                must(len(set(asked)) == 2, "all unhealthy: all are used", asked)
            finally:
                self.b.up()
        finally:
            self.a.up()
        for name in ("c12", "c12t"):
            until(lambda: set(g.health(name).values()) == {"healthy"}, name + ": both are healthy again")
            until(lambda: set(g.many("/%s/x" % name, 8)) == {"a", "b"}, name + ": both are asked again")

    def one_worker_probes(self):
        # Two workers, one interval: two workers probing would make twice as many.
        before = len(self.c.probes)
        g = self.gateway
        g.put("rate", nodes=nodes(self.c), checks={"active": {"http_path": "/probe"}})
        for _ in range(12):
            g.get("/rate/x")
        time.sleep(2.5)
        must(2 <= len(self.c.probes) - before <= 4, len(self.c.probes) - before)

    def https_checks(self):
        g, folder = self.gateway, self.gateway.dir
        key, cert = str(folder / "key.pem"), str(folder / "cert.pem")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                        "-subj", "/CN=up.example", "-keyout", key, "-out", cert], check=True, capture_output=True)
        def context():
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(cert, key)
            return tls
        server = Server("tls", tls=context())
        for name, verify in (("https", False), ("httpsv", True)):
            g.put(name, nodes=nodes(server), scheme="https", pass_host="rewrite", upstream_host="up.example", checks={"active": {
                "type": "https", "http_path": "/probe", "https_verify_certificate": verify, "unhealthy": {"tcp_failures": 1}}})
            must(text(g.get("/%s/x" % name)) == "tls")
        until(lambda: server.probes, "it is probed")
        until(lambda: g.health("httpsv")[server.port] == "unhealthy", "a certificate of nobody's is not believed")
        must(g.health("https")[server.port] == "healthy" and server.names == {"up.example"}, server.names)
        server.down()

    def c13_passive_checks(self):
        g = self.gateway
        active = {"type": "tcp", "healthy": {"interval": 100}, "unhealthy": {"interval": 1}}
        g.put("c13", nodes=nodes(self.a, self.b), checks={"active": active, "passive": {}})
        self.a.mode = 500
        try:
            seen = g.many("/c13/x", 40)
            must(seen[500] <= 8 and g.health("c13")[self.a.port] in ("unhealthy", "mostly_unhealthy", "healthy"), seen)
            must(seen[500] >= 5, seen)
        finally:
            self.a.mode = "ok"
        # active probes bring it back
        until(lambda: g.many("/c13/x", 8)["a"], "a is back")
        # refused connections count too
        g.put("c13b", nodes=nodes(self.a, self.b), checks={"active": {"type": "tcp", "healthy": {"interval": 100},
              "unhealthy": {"interval": 100}}, "passive": {"unhealthy": {"tcp_failures": 2}}})
        self.a.down()
        try:
            g.many("/c13b/x", 12)
            must(g.health("c13b")[self.a.port] == "unhealthy", g.health("c13b"))
        finally:
            self.a.up()
        # without an active part there are no checks: such an upstream is refused
        g.put("c13c", nodes=nodes(self.a, self.b), checks={"passive": {}})
        must(g.get("/c13c/x").status == 502 and g.health("c13c") == {})
        rejected = [e["key"] for e in dpproxy.request(g.dpproxy.control, "/v1/rejected").json()]
        must("/apisix/upstreams/c13c" in rejected, rejected)

    def asked(self, name):
        return sum(1 for query in self.dns.queries if query[0] == name)

    def c14_dns(self):
        g, dns = self.gateway, self.dns
        port = free_port()
        one, two = Server("one", "127.0.0.2", port), Server("two", "127.0.0.3", port)
        dns.records["moving.example"] = ["127.0.0.2"]
        g.put("c14", nodes={"moving.example:%d" % port: 1})
        must(text(g.get("/c14/x")) == "one")
        dns.records["moving.example"] = ["127.0.0.3"]
        start = time.monotonic()
        until(lambda: g.many("/c14/x", 8, at_once=4) == {"two": 8}, "the record is followed")
        must(time.monotonic() - start < 4, "it took longer than the TTL of one second by far")
        time.sleep(1.1)  # the eight may all have gone to one worker; another that asked before the change may wait for its TTL
        count = self.asked("moving.example")
        g.many("/c14/x", 50, at_once=4)
        must(self.asked("moving.example") - count <= 4, "queries for 50 requests:", self.asked("moving.example") - count)
        # no such domain: the other node goes on; alone it is 503
        g.put("c14b", nodes={"none.example:%d" % port: 1, "moving.example:%d" % port: 1})
        seen = g.many("/c14b/x", 10)
        must(seen == {"two": 10}, seen)
        g.put("c14c", nodes={"none.example:%d" % port: 1})
        must(g.get("/c14c/x").status == 503)
        # no answers: the last address is kept
        dns.silent = {"moving.example", "unheard.example"}
        time.sleep(1.2)
        must(g.many("/c14/x", 8, at_once=4) == {"two": 8})
        start = time.monotonic()
        g.put("c14d", nodes={"unheard.example:%d" % port: 1})
        must(g.get("/c14d/x").status == 503 and time.monotonic() - start < 3)
        # too long for UDP
        dns.records["long.example"] = ["127.0.0.2"] * 40
        dns.tcp_only.add("long.example")
        g.put("c14e", nodes={"long.example:%d" % port: 1})
        must(text(g.get("/c14e/x")) == "one" and ("long.example", 1, True) in dns.queries)
        must(len(dns.ids) > len(dns.queries) / 2, "ids repeat:", len(dns.ids), len(dns.queries))
        one.down()
        two.down()

    def dns_discovery(self):
        g, dns = self.gateway, self.dns
        dns.records["n.example"] = ["127.0.0.1"]
        dns.srv["_web._tcp.example"] = [(1, 5, self.a.port, "n.example"), (1, 1, self.b.port, "n.example"),
                                        (2, 1, self.c.port, "n.example")]
        g.put("srv", service_name="_web._tcp.example", discovery_type="dns")
        seen = g.many("/srv/x", 60)
        must(set(seen) == {"a", "b"} and abs(seen["a"] - 50) <= 6, seen)
        dns.srv["_web._tcp.example"] = [(1, 1, self.c.port, "n.example")]
        until(lambda: g.many("/srv/x", 6) == {"c": 6}, "the records are followed")
        g.put("srv2", service_name="n.example:%d" % self.b.port, discovery_type="dns")
        must(text(g.get("/srv2/x")) == "b")
        for name, kind in (("none.example", "dns"), ("n.example", "consul")):
            g.put("srv3", service_name=name, discovery_type=kind)
            must(g.get("/srv3/x").status == 503, name, kind)

    def ipv6_nodes(self):
        if not os.path.exists("/proc/net/if_inet6"):
            return  # a container without IPv6
        listener = socket.socket(socket.AF_INET6)
        listener.bind(("::1", 0))
        listener.listen(8)
        server = Server("six")
        threading.Thread(target=server.accept, args=(listener,), daemon=True).start()
        port = listener.getsockname()[1]
        g = self.gateway
        g.put("six", nodes={"[::1]:%d" % port: 1}, checks={"active": {"http_path": "/probe"}})
        must(text(g.get("/six/x")) == "six")
        until(lambda: server.probes, "it is probed")
        g.put("six2", nodes=[{"host": "::1", "port": port, "weight": 1}, {"host": "::1", "port": free_port(), "weight": 1}])
        must(all(text(g.get("/six2/x")) == "six" for _ in range(4)))
        listener.close()
        server.down()

    def bad_servers_harm_nobody(self):
        g = self.gateway
        g.put("bad", nodes=nodes(self.a, self.b), checks={"active": {"http_path": "/probe", "timeout": 0.3,
              "unhealthy": {"http_failures": 1, "tcp_failures": 1, "timeouts": 1}}})
        g.get("/bad/x")
        for mode in ("garbage", "reset", "hang"):
            self.a.mode = mode
            try:
                until(lambda: g.health("bad").get(self.a.port) == "unhealthy", mode + " is unhealthy")
                until(lambda: g.many("/bad/x", 6) == {"b": 6}, mode + ": only b is asked")
            finally:
                self.a.mode = "ok"
            until(lambda: g.health("bad").get(self.a.port) == "healthy", "a is healthy again")

    def a_deleted_upstream_is_not_probed(self):
        g = self.gateway
        server = Server("gone")
        g.put("del", nodes=nodes(server), checks={"active": {"http_path": "/probe"}})
        g.get("/del/x")
        until(lambda: server.probes, "it is probed")
        g.put("del", nodes=nodes(server))
        until(lambda: g.health("del") == {}, "it is no longer listed")
        time.sleep(0.5)
        count = len(server.probes)
        time.sleep(1.5)
        must(len(server.probes) == count, "it is probed still")
        server.down()

    def nodes_are_followed_without_traffic(self):
        g, new = self.gateway, Server("new")
        checks = {"active": {"http_path": "/probe"}}
        g.put("quiet", nodes=nodes(self.a, self.b), checks=checks)
        g.get("/quiet/x")
        until(lambda: self.a.probes, "a is probed")
        self.b.down()
        until(lambda: g.health("quiet").get(self.b.port) == "unhealthy", "b is unhealthy")
        g.put("quiet", nodes=nodes(self.b, new), checks=checks)
        until(lambda: new.probes, "the new node is probed")
        must(g.health("quiet") == {self.b.port: "unhealthy", new.port: "healthy"}, g.health("quiet"))
        time.sleep(0.3)
        count = len(self.a.probes)
        time.sleep(1.2)
        must(len(self.a.probes) == count, "a is probed still")
        must(g.many("/quiet/x", 6) == {"new": 6})
        self.b.up()

    def last_reload_and_dead_workers(self):
        """Not beside the others: workers go."""
        g = self.gateway
        slow = {"type": "http", "http_path": "/probe", "healthy": {"interval": 1}, "unhealthy": {"interval": 1, "http_failures": 1}}
        g.put("last", nodes=nodes(self.a, self.b), checks={"active": slow})
        self.a.mode = 500
        g.get("/last/x")
        until(lambda: g.health("last").get(self.a.port) == "unhealthy", "a is unhealthy")
        before = g.many("/last/x", 30, at_once=4).workers
        g.dpproxy.process.process.send_signal(signal.SIGHUP)
        until(lambda: not before & g.many("/last/x", 30, at_once=4).workers, "the workers are new")
        must(g.health("last") == {self.a.port: "unhealthy", self.b.port: "healthy"}, g.health("last"))
        must(g.many("/last/x", 8) == {"b": 8})
        count = len(self.b.probes)
        until(lambda: len(self.b.probes) > count, "the new workers probe")
        # kill them all: whoever probed is gone without a word
        for worker in g.many("/last/x", 30, at_once=4).workers:
            os.kill(int(worker), signal.SIGKILL)
        until(self.answers, "new workers answer")
        must(g.many("/last/x", 8) == {"b": 8})
        count, start = len(self.b.probes), time.monotonic()
        until(lambda: len(self.b.probes) > count, "the new workers probe")
        must(time.monotonic() - start < 5, "it took too long")
        self.a.mode = "ok"
        until(lambda: g.health("last").get(self.a.port) == "healthy", "a is healthy again")

    def answers(self):
        try:
            return self.gateway.get("/last/x").status == 200
        except (OSError, http.client.HTTPException):
            return False

    def a_service_has_one_check_for_its_routes(self):
        g = self.gateway
        g.put_service("svc", nodes=nodes(self.a, self.b), checks={"active": {"http_path": "/probe"}})
        self.a.down()
        must(text(g.get("/svc1/x")) == text(g.get("/svc2/x")) == "b")
        until(lambda: g.health("svc", "services").get(self.a.port) == "unhealthy", "a is unhealthy")
        names = [each["name"] for each in dpproxy.request(g.dpproxy.control, "/v1/healthcheck").json() if "svc" in each["name"]]
        must(names == ["/apisix/services/svc"], names)
        series = 'apisix_upstream_status{name="/apisix/services/svc",ip="127.0.0.1",port="%d"}'
        for server, value in ((self.a, 0), (self.b, 1)):
            must(g.dpproxy.metric(series % server.port) == value, series % server.port, "is not", value)
        self.a.up()


def run(name, gateway, dns):
    start, trouble = time.monotonic(), None
    try:
        getattr(Cases(gateway, dns), name)()
    except Exception:
        trouble = traceback.format_exc()
    return name, trouble, time.monotonic() - start


def ours(line):
    return any(word in line for word in ("attempt to", "traceback", "lua entry", "health check: ")) and "[error]" in line


def main():
    names = [name for name in Cases.__dict__ if not name.startswith(("_", "asked", "answers"))]
    names.sort(key=lambda name: name.startswith("last_"))
    only = os.environ.get("KS_TEST_ONLY")
    if only:
        names = [name for name in names if only in name]
    print("1..%d" % (len(names) + 1), flush=True)
    dns = Dns()
    gateway, bad = Gateway(dns), 0
    try:
        # They mostly wait for time to pass; each has servers of its own.
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            together = [name for name in names if not name.startswith("last_")]
            results = itertools.chain(pool.map(lambda n: run(n, gateway, dns), together),
                                      (run(name, gateway, dns) for name in names[len(together):]))
            for number, (name, trouble, seconds) in enumerate(results, 1):
                print("%sok %d - %s # %.1f s" % ("not " if trouble else "", number, name, seconds), flush=True)
                if trouble:
                    bad += 1
                    print("# " + trouble.replace("\n", "\n# "), flush=True)
    finally:
        gateway.stop()
    thrown = [line for line in gateway.log().split("\n") if ours(line)]
    print("%sok %d - nothing is thrown" % ("not " if thrown else "", len(names) + 1), flush=True)
    print("".join("# " + line + "\n" for line in thrown[:20]), end="")
    if bad or thrown:
        print("# " + "\n# ".join(gateway.log().split("\n")[-40:]))
    if os.environ.get("KS_TEST_KEEP"):
        print("# kept %s" % gateway.dir)
    else:
        shutil.rmtree(gateway.dir, ignore_errors=True)
    return 1 if bad or thrown else 0


if __name__ == "__main__":
    status = dpproxy.on_each_store()
    sys.exit(main() if status is None else status)
