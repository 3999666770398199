#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""
Streams through the gateway: TCP and UDP by port, address and server name, weights, and what a change of them costs others.
An etcd, a gateway, and servers of our own that say who they are. Prints TAP. Only Python's standard library is used.
"""

import collections
import pathlib
import re
import socket
import ssl
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "lib"))
import dpproxy  # noqa: E402
from dpproxy import free_port, wait_for  # noqa: E402


class Server:
    """Says its name to each connection (or datagram), then sends back what comes; tls: with that certificate."""

    def __init__(self, name, udp=False, tls=None):
        self.name, self.names = name.encode(), []
        self.context = None
        if tls:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(*tls)
            self.context.sni_callback = lambda _, asked, __: self.names.append(asked)
        self.socket = socket.socket(type=socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        if not udp:
            self.socket.listen(128)
        threading.Thread(target=self.datagrams if udp else self.accept, daemon=True).start()

    def datagrams(self):
        while True:
            data, peer = self.socket.recvfrom(2048)
            self.socket.sendto(self.name + b" " + data, peer)

    def accept(self):
        while True:
            connection, _ = self.socket.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        try:
            if self.context:
                connection = self.context.wrap_socket(connection, server_side=True)
            connection.sendall(self.name)
            while True:
                data = connection.recv(2048)
                if not data:
                    break
                connection.sendall(data)
        except OSError:
            pass
        finally:
            connection.close()

    @property
    def upstream(self):
        return {"type": "roundrobin", "nodes": {f"127.0.0.1:{self.port}": 1}}


def connect(port, source="127.0.0.1", host="127.0.0.1"):
    return socket.create_connection((host, port), 5, (source, 0))


def tcp(port, **more):
    """What the server behind a port says; empty when the gateway closes."""
    try:
        with connect(port, **more) as connection:
            return connection.recv(100).decode()
    except ConnectionResetError:
        return ""


def tls(port, name):
    context = ssl._create_unverified_context()
    try:
        with connect(port) as plain, context.wrap_socket(plain, server_hostname=name) as connection:
            cert = connection.getpeercert(True)
            return connection.recv(100).decode(), cert
    except (ssl.SSLError, ConnectionResetError):
        return "", None


def udp(port, text=b"x", source="127.0.0.1"):
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.bind((source, 0))
        client.settimeout(0.5)
        client.sendto(text, ("127.0.0.1", port))
        try:
            return client.recv(100).decode()
        except (TimeoutError, ConnectionRefusedError):
            return ""


def certificate(folder, name):
    cert, key = folder / f"{name}.crt", folder / f"{name}.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
                    f"/CN={name}", "-keyout", key, "-out", cert, "-days", "2"], check=True, capture_output=True)
    return cert, key


def der(cert):
    return ssl.PEM_cert_to_DER_cert(cert.read_text())


P = {name: free_port() for name in ("a", "b", "c", "none", "tls", "pass", "weight", "priority", "hash")}
U = {name: free_port() for name in ("a", "none")}
CONFIG = {"apisix": {"proxy_mode": "http&stream", "stream_proxy": {
    "tcp": [f"127.0.0.1:{P['a']}", f"127.0.0.1:{P['b']}", P["c"], f"127.0.0.1:{P['none']}",
            *(f"127.0.0.1:{P[name]}" for name in ("weight", "priority", "hash")),
            {"addr": f"127.0.0.1:{P['tls']}", "tls": True}, {"addr": f"127.0.0.1:{P['pass']}"}],
    "udp": [f"127.0.0.1:{U['a']}", f"127.0.0.1:{U['none']}"]}}}


def workers(s):
    """Those that take connections, not those that end."""
    master = int((s.gateway.folder / "nginx.pid").read_text())
    found = set()
    for pid in pathlib.Path(f"/proc/{master}/task/{master}/children").read_text().split():
        try:
            title = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"worker process" in title and b"shutting down" not in title:
                found.add(pid)
        except OSError:
            pass
    return found


def calm(s):
    """Waits until what was put is in force, and old workers take no connections any more -> the workers."""
    folder, since = s.gateway.folder, [None, 0]
    plan = folder / "stream" / "plan.json"
    # Changes come in order: a plan that has this route, which nobody meets, has everything that was put before.
    marker = f"192.0.2.{100 + s.calms % 100}"
    s.calms += 1
    put(s, "stream_routes/calm", {"remote_addr": marker, "server_port": 1, "upstream": s.one.upstream})
    wait_for(lambda: f'"{marker}' in plan.read_text(), "the plan")

    def settled():
        now = workers(s)
        if now != since[0]:
            since[:] = now, time.monotonic()
        # Newer than the plan is not enough: it may tell of the plan before, whose test took a while.
        result, applied = folder / "stream-result.json", folder / "stream-plan.json"
        return (len(now) == s.workers and result.exists() and applied.exists() and applied.read_text() == plan.read_text()
                and time.time() > result.stat().st_mtime + 0.3 and time.monotonic() > since[1] + 0.2)
    wait_for(settled, "quiet")
    return since[0]


def put(s, key, value):
    return s.etcd.put("/apisix/" + key, value)


def rejected(s):
    return {entry["key"]: entry["reason"] for entry in dpproxy.request(s.gateway.control, "/v1/rejected").json()}


def is_soon(call, expected, what, seconds=10):
    last = []

    def good():
        last[:] = [call()]
        return last[0] == expected
    try:
        wait_for(good, what, seconds)
    except AssertionError as e:
        raise AssertionError(f"{e}: {expected!r} expected, got {last[0]!r}") from None


def fill(s):
    """The routes of the tests that follow, in one go: each change costs a reload."""
    put(s, "upstreams/two", {"nodes": {f"localhost:{s.two.port}": 1}})
    put(s, "services/two", {"upstream_id": "two"})
    put(s, "stream_routes/a", {"server_port": P["a"], "upstream": s.one.upstream})
    put(s, "stream_routes/b", {"server_port": P["b"], "service_id": "two"})
    put(s, "stream_routes/w", {"server_port": P["weight"], "upstream": {"nodes": [
        {"host": "127.0.0.1", "port": s.one.port, "weight": 3}, {"host": "127.0.0.1", "port": s.two.port, "weight": 1},
        {"host": "127.0.0.1", "port": s.three.port, "weight": 0},
        {"host": "127.0.0.1", "port": s.datagrams.port, "weight": 1, "priority": -1}]}})
    put(s, "stream_routes/d", {"server_port": P["priority"], "upstream": {"nodes": [
        {"host": "127.0.0.1", "port": free_port(), "weight": 1, "priority": 1},
        {"host": "127.0.0.1", "port": s.three.port, "weight": 1}]}})
    put(s, "stream_routes/k", {"server_port": P["hash"], "upstream": {
        "type": "chash", "key": "remote_addr", "nodes": {f"127.0.0.1:{server.port}": 1 for server in (s.one, s.two, s.three)}}})
    put(s, "stream_routes/u", {"server_port": U["a"], "upstream": {"scheme": "udp", **s.datagrams.upstream}})

    def route(key, server, **conditions):
        put(s, "stream_routes/" + key, {"server_port": P["c"], "upstream": server.upstream, **conditions})
    route("c1", s.one, remote_addr="127.0.0.2")
    route("c2", s.two, remote_addr="127.0.0.0/30")
    route("c3", s.three, remote_addr="127.0.0.2/31")     # never: c2 has all of it
    route("c4", s.three, remote_addr="127.1.0.0/16", server_addr="127.0.0.9")
    one, two = ({"cert": cert.read_text(), "key": key.read_text()} for cert, key in (s.certs["one.test"], s.certs["two.test"]))
    put(s, "ssls/1", {"snis": ["one.test", "*.wild.test"], **one})
    put(s, "ssls/2", {"sni": "two.test", **two})
    put(s, "stream_routes/s1", {"server_port": P["tls"], "sni": "*.test", "upstream": s.three.upstream})
    put(s, "stream_routes/s2", {"server_port": P["tls"], "sni": "two.test", "upstream": s.two.upstream})
    put(s, "stream_routes/s3", {"server_port": P["tls"], "sni": "a.wild.test", "upstream": s.one.upstream})
    put(s, "stream_routes/p1", {"server_port": P["pass"], "sni": "one.test", "upstream": s.secure.upstream})
    put(s, "stream_routes/p2", {"server_port": P["pass"], "sni": "two.test", "upstream": {
        "scheme": "tcp", "nodes": {f"127.0.0.1:{s.secure2.port}": 1}}})
    s.put("routes/http", {"uri": "/http", "upstream": {"nodes": s.web.node}})
    is_soon(lambda: tls(P["pass"], "two.test")[0], "secure2", "the routes")
    calm(s)


def tcp_by_port(s):
    assert tcp(P["a"]) == "one"
    assert tcp(P["b"]) == "two", "through a service, by a name"
    with connect(P["a"]) as connection:
        data = bytes(range(256)) * 2000
        threading.Thread(target=connection.sendall, args=(data,), daemon=True).start()
        got = b""
        while len(got) < len(data) + 3:
            got += connection.recv(65536)
        assert got == b"one" + data


def no_match_closes(s):
    assert tcp(P["none"]) == ""
    assert udp(U["none"]) == ""


def udp_by_port(s):
    assert udp(U["a"], b"hello") == "udp hello"


def by_address_and_first_match_wins(s):
    assert tcp(P["c"], source="127.1.0.1", host="127.0.0.9") == "three", "both addresses"
    assert tcp(P["c"], source="127.0.0.2") == "one"
    assert tcp(P["c"], source="127.0.0.1") == "two"
    assert tcp(P["c"], source="127.0.0.3") == "two"
    assert tcp(P["c"], source="127.0.0.4") == "", "no route for this address"
    assert tcp(P["c"], source="127.1.0.1") == "", "another server_addr"


def weights_priorities_and_retries(s):
    seen = collections.Counter(tcp(P["weight"]) for _ in range(80))
    assert set(seen) == {"one", "two"} and 50 <= seen["one"] <= 70, seen
    assert {tcp(P["priority"]) for _ in range(4)} == {"three"}, "the node of the lower priority, the other one is dead"
    by_client = {i: {tcp(P["hash"], source=f"127.0.1.{i}") for _ in range(3)} for i in range(1, 20)}
    assert all(len(names) == 1 for names in by_client.values()) and len(set.union(*by_client.values())) == 3, by_client


def certificates_and_routes_by_sni(s):
    assert tls(P["tls"], "a.wild.test") == ("one", der(s.certs["one.test"][0])), "a wildcard's certificate"
    assert tls(P["tls"], "TWO.test") == ("two", der(s.certs["two.test"][0])), "the longest name wins, not the first"
    assert tls(P["tls"], "one.test")[0] == "three"
    assert tls(P["tls"], "b.wild.test")[0] == "three", "a route's wildcard is for any depth"
    assert tls(P["tls"], "a.b.wild.test") == ("", None), "a certificate's is for one label"
    assert tls(P["tls"], "elsewhere") == ("", None)
    keys = list((s.gateway.folder / "stream").iterdir())
    assert len(keys) == 3 and all(key.stat().st_mode & 0o077 == 0 for key in keys), keys


def a_certificate_changes_without_a_reload(s):
    before = calm(s)
    put(s, "ssls/2", {"sni": "two.test", "cert": s.certs["new.test"][0].read_text(), "key": s.certs["new.test"][1].read_text()})
    is_soon(lambda: tls(P["tls"], "two.test"), ("two", der(s.certs["new.test"][0])), "the new certificate")
    assert workers(s) == before


def tls_is_passed_through_by_its_name(s):
    assert tls(P["pass"], "two.test") == ("secure2", der(s.certs["two.test"][0]))
    assert tls(P["pass"], "one.test") == ("secure", der(s.certs["one.test"][0]))
    assert tls(P["pass"], "elsewhere") == ("", None)


def tls_to_the_upstream(s):
    put(s, "stream_routes/a", {"server_port": P["a"], "upstream": {
        "scheme": "tls", "pass_host": "rewrite", "upstream_host": "asked.test", **s.secure.upstream}})
    s.secure.names.clear()
    is_soon(lambda: tcp(P["a"]), "secure", "TLS made by the gateway")
    assert "asked.test" in s.secure.names, s.secure.names


class Traffic:
    """Requests that do not end; every failure is kept."""

    def __init__(self, port):
        self.port, self.failures, self.count, self.going = port, [], 0, True
        self.threads = [threading.Thread(target=self.run) for _ in range(2)]
        for thread in self.threads:
            thread.start()

    def run(self):
        while self.going:
            try:
                answer = dpproxy.request(self.port, "/http")
                if answer.status != 200:
                    self.failures.append(answer.status)
            except OSError as e:
                self.failures.append(repr(e))
            self.count += 1
            time.sleep(0.005)

    def end(self):
        self.going = False
        for thread in self.threads:
            thread.join()


def changes_are_quick_and_http_goes_on(s):
    traffic, took = Traffic(s.gateway.port), []
    with connect(P["b"]) as old:
        old.recv(100)
        for server in (s.one, s.two, s.three):
            put(s, "stream_routes/a", {"server_port": P["a"], "upstream": server.upstream})
            started = time.monotonic()
            is_soon(lambda: tcp(P["a"]), server.name.decode(), "a change")
            took.append(time.monotonic() - started)
        old.sendall(b"still here")
        assert old.recv(100) == b"still here", "a reload leaves connections alone"
    traffic.end()
    print(f"# changes took {', '.join(f'{seconds:.2f}' for seconds in took)} s, {traffic.count} requests meanwhile")
    assert not traffic.failures and traffic.count > 20, (traffic.count, traffic.failures[:5])
    assert min(took) < 2, took     # the others say how busy the machine is


def unrelated_changes_do_not_reload(s):
    before = calm(s)
    for i in range(3):
        s.put(f"routes/other{i}", {"uri": f"/other{i}", "upstream": {"nodes": s.web.node}})
    s.put("upstreams/unused", {"nodes": s.web.node})
    s.put("stream_routes/a", {"server_port": P["a"], "upstream": s.three.upstream, "desc": "the same, but for this"})
    time.sleep(1.2)     # longer than a worker and the launcher take to see a change
    assert workers(s) == before, (before, workers(s))


def many_changes_are_one_reload_each_second(s):
    seen, current, end, i = 0, calm(s), time.monotonic() + 1.5, 0
    while time.monotonic() < end:
        i += 1
        put(s, "stream_routes/a", {"server_port": P["a"], "upstream": (s.one, s.two)[i % 2].upstream})
        now = workers(s)
        if len(now) == s.workers and not now & current:
            seen, current = seen + 1, now
    assert i > 20 and seen <= 3, (i, seen)
    put(s, "stream_routes/a", {"server_port": P["a"], "upstream": s.one.upstream})
    is_soon(lambda: tcp(P["a"]), "one", "the last change")


def hostile_values_stay_values(s):
    evil = '127.0.0.1:1; } server { listen 1; return "x'
    for i, value in enumerate((
            {"sni": 'x" "dpproxy_u1"; } geo $x $y {'}, {"remote_addr": "127.0.0.1; include /etc/passwd"},
            {"server_port": "80; x"}, {"sni": "$hostname"}, {"sni": "default"})):
        put(s, f"stream_routes/e{i}", {"upstream": s.two.upstream, **value})
    for i, upstream in enumerate((
            {"nodes": {evil: 1}}, {"nodes": [{"host": "a b", "port": 1, "weight": 1}]}, {"nodes": {"127.0.0.1": 1}},
            {"nodes": {"127.0.0.1:1": 1}, "type": "least_conn; x"}, {"scheme": "tls", "pass_host": "rewrite",
                                                                    "upstream_host": "a;b", "nodes": {"127.0.0.1:1": 1}},
            {"type": "chash", "key": "remote_addr", "nodes": {"127.0.0.1:1": 2000000000, "127.0.0.1:2": 1}})):
        put(s, f"stream_routes/f{i}", {"server_port": P["none"], "remote_addr": f"127.0.3.{i}", "upstream": upstream})
    put(s, "stream_routes/g", {"server_port": P["none"], "remote_addr": "127.0.4.1", "upstream": s.two.upstream,
                               "plugins": {"ip-restriction": {"whitelist": ["10.0.0.1"]}}})
    put(s, "stream_routes/h", {"server_port": P["none"], "upstream": s.two.upstream})
    is_soon(lambda: tcp(P["none"]), "two", "the good route among bad ones")
    assert tcp(P["none"], source="127.0.4.1") == "", "a plugin that is not there must not be passed over"
    found = rejected(s)
    for key in ("e0", "e1", "e2", "e3", "f0", "f1", "f2", "f3", "f4", "g"):
        assert "/apisix/stream_routes/" + key in found, (key, found)
    assert "ip-restriction" in found["/apisix/stream_routes/g"], found
    assert "stream.conf" not in found, found
    for text in (file.read_text() for file in s.gateway.folder.glob("*.conf")):
        assert not re.search(r"passwd|listen 1;|hostname", text)


def streams_alone_and_over_ipv6(s):
    """A second gateway on the same etcd, without HTTP."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
            port = probe.getsockname()[1]
    except OSError:
        print("# no IPv6 here: over IPv4")
        port = None
    folder, plain = s.folder / "alone", free_port()
    folder.mkdir()
    folder.chmod(0o755)
    where = [f"127.0.0.1:{plain}"] + ([f"[::1]:{port}"] if port else [])
    if port:
        put(s, "stream_routes/v6a", {"server_port": port, "remote_addr": "2001:db8::/32", "upstream": s.one.upstream})
        put(s, "stream_routes/v6b", {"server_port": port, "remote_addr": "::/127", "upstream": s.two.upstream})
    put(s, "stream_routes/plain", {"server_port": plain, "upstream": s.three.upstream})
    gateway = dpproxy.Gateway(folder, s.etcd.url, {"apisix": {"proxy_mode": "stream", "stream_proxy": {"tcp": where}}}, workers=1)
    try:
        is_soon(lambda: tcp(plain), "three", "a route over IPv4")
        if port:
            is_soon(lambda: tcp(port, source="::1", host="::1"), "two", "a route over IPv6")
        try:
            gateway.request("/")
            raise AssertionError("HTTP answers")
        except ConnectionRefusedError:
            pass
    finally:
        gateway.stop()
    for key in ("v6a", "v6b", "plain"):
        s.delete("stream_routes/" + key)


def what_was_refused_is_kept_out_and_a_restart_keeps_the_rest(s):
    """A plan that nobody checked, as a worker that was taken over might leave one."""
    calm(s)
    folder = s.gateway.folder
    good = (folder / "stream.conf").read_text()
    plan = folder / "stream" / "plan.json"
    saved = plan.read_text()
    for text in ('{"routes":[],"upstreams":[{"method":"roundrobin","servers":[{"address":"127.0.0.1;","port":1,"weight":1}]}],'
                 '"certificates":[]}', '{"routes":[],"upstreams":[],"certificates":[{"names":["x"],"file":"../../x"}]}'):
        def refused():
            if plan.read_text() != text:    # its owner, another one after a reload, may have put it right
                plan.write_text(text)
            return "stream.conf" in rejected(s)
        is_soon(refused, True, "the refused plan is told of")
        assert (folder / "stream.conf").read_text() == good
        plan.write_text(saved)
        is_soon(lambda: "stream.conf" in rejected(s), False, "the good plan again")
    put(s, "ssls/3", {"sni": "three.test", "cert": s.certs["new.test"][0].read_text(), "key": s.certs["new.test"][1].read_text()})
    s.etcd.delete("/apisix/stream_routes/h")
    s.etcd.delete("/apisix/ssls/1")
    is_soon(lambda: tls(P["tls"], "one.test"), ("", None), "the deleted certificate")
    is_soon(lambda: tcp(P["none"]), "", "the deleted route")
    s.etcd.stop()
    s.gateway.stop()
    s.gateway.start()
    assert tcp(P["a"]) == "one"
    assert tls(P["tls"], "two.test") == ("two", der(s.certs["new.test"][0]))
    assert len(list((folder / "stream").glob("?" * 40))) <= 3


def before_all(s):
    s.calms = 0
    s.certs = {name: certificate(s.folder, name) for name in ("one.test", "two.test", "new.test")}
    s.one, s.two, s.three = Server("one"), Server("two"), Server("three")
    s.datagrams = Server("udp", udp=True)
    s.secure, s.secure2 = Server("secure", tls=s.certs["one.test"]), Server("secure2", tls=s.certs["two.test"])
    s.web = s.keep(dpproxy.Upstream())


if __name__ == "__main__":
    dpproxy.main([before_all, fill, tcp_by_port, no_match_closes, udp_by_port, by_address_and_first_match_wins,
                  weights_priorities_and_retries, certificates_and_routes_by_sni, a_certificate_changes_without_a_reload,
                  tls_is_passed_through_by_its_name, tls_to_the_upstream, changes_are_quick_and_http_goes_on,
                  unrelated_changes_do_not_reload, many_changes_are_one_reload_each_second, hostile_values_stay_values,
                  streams_alone_and_over_ipv6,
                  what_was_refused_is_kept_out_and_a_restart_keeps_the_rest], CONFIG)
