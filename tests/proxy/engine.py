#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The gateway as a program: from etcdctl to an answer, reloads, crashes, etcd away, TLS, HTTP/2, gRPC, WebSocket. Prints TAP."""
import base64
import hashlib
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "lib"))
from dpproxy import DPPROXY, TOP, Gateway, Process, Scenario, Upstream, free_port, main, request, wait_for  # noqa: E402

UP = Upstream()


def same(wanted, got):
    assert wanted == got, f"wanted {wanted!r}, got {got!r}"


def to(node, **more):
    return dict({"nodes": node.node if isinstance(node, Upstream) else node}, **more)


def children(pid):
    return [int(p) for p in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def master(gateway):
    return children(gateway.process.process.pid)[0]


def workers(gateway):
    found = []
    for pid in children(master(gateway)):
        try:
            if b"worker process" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except OSError:
            pass
    return found


def runs(pid):
    """Not when it is a zombie: who inherits it may take its time."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def etcdctl(url, *args):
    subprocess.run(["etcdctl", "--endpoints", url, *args], check=True, stdout=subprocess.DEVNULL, timeout=10,
                   env=dict(os.environ, ETCDCTL_API="3"))


# ---- Configuration in, answers out ----

def a_put_is_in_effect_within_a_second(t):
    etcdctl(t.etcd.url, "put", "/apisix/routes/1", json.dumps({"uri": "/hello", "upstream": to(UP)}))
    started = time.monotonic()
    wait_for(lambda: t.gateway.request("/hello").status == 200, "the route", 1)
    t.effect = time.monotonic() - started
    answer = t.gateway.request("/hello", headers={"X-Forwarded-Proto": "https", "Forwarded": "for=1.2.3.4", "X-Forwarded-For": "9.9.9.9"})
    same("APISIX/3.18.0", answer.headers["server"])
    seen = answer.json()["headers"]
    same(("http", "127.0.0.1", str(t.gateway.port), "127.0.0.1", "9.9.9.9, 127.0.0.1", None),
         tuple(seen.get(k) for k in ("x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-real-ip", "x-forwarded-for",
                                     "forwarded")))
    same(f"127.0.0.1:{t.gateway.port}", seen["host"])


def no_route_is_404_with_apisix_body(t):
    answer = t.gateway.request("/nothing")
    same((404, b'{"error_msg":"404 Route Not Found"}\n'), (answer.status, answer.body))


def an_update_and_a_deletion_take_effect(t):
    other = t.keep(Upstream())
    t.put("routes/1", {"uri": "/hello", "upstream": to(other)})
    same(other.port, t.gateway.request("/hello").json()["port"])
    t.put("routes/1", {"uri": "/hello", "upstream": to(other), "status": 0})
    same(404, t.gateway.request("/hello").status)
    t.put("routes/1", {"uri": "/hello", "upstream": to(UP)})
    same(UP.port, t.gateway.request("/hello").json()["port"])
    t.delete("routes/1")
    same(404, t.gateway.request("/hello").status)
    t.put("routes/1", {"uri": "/hello", "upstream": to(UP)})


def a_bad_object_keeps_its_last_good_version_and_is_listed(t):
    t.put("routes/bad", {"uri": "/bad", "upstream": to(UP)})
    t.put("routes/bad", {"uri": "/bad", "upstream": to(UP), "vars": [["a", "nonsense", "b"]]})
    t.put("routes/after", {"uri": "/after", "upstream": to(UP)})
    same([200, 200], [t.gateway.request(p).status for p in ("/bad", "/after")])
    rejected = request(t.gateway.control, "/v1/rejected").json()
    same(["/apisix/routes/bad"], [r["key"] for r in rejected])
    t.delete("routes/bad")
    same([], request(t.gateway.control, "/v1/rejected").json())


def the_control_api_shows_what_is_there(t):
    t.put("routes/1", {"uri": "/hello", "upstream": to(UP)})
    t.put("services/s", {"upstream": to(UP)})
    t.put("upstreams/u", to(UP))
    route = request(t.gateway.control, "/v1/route/1").json()
    same(("/apisix/routes/1", "/hello", "1"), (route["key"], route["value"]["uri"], route["value"]["id"]))
    assert "1" in [r["value"]["id"] for r in request(t.gateway.control, "/v1/routes").json()]
    for path in ("/v1/services", "/v1/service/s", "/v1/upstreams", "/v1/upstream/u", "/v1/schema", "/v1/healthcheck", "/v1/plugin_metadatas"):
        same(200, request(t.gateway.control, path).status)
    missing = request(t.gateway.control, "/v1/route/none")
    same((404, {"error_msg": "route id: none not found"}), (missing.status, missing.json()))
    same(200, request(t.gateway.control, "/v1/gc", "POST").status)
    reloaded = request(t.gateway.control, "/v1/plugins/reload", "PUT")
    same((200, b"done"), (reloaded.status, reloaded.body.strip()))
    same({"status": "ok"}, request(t.gateway.status, "/status").json())


# ---- Upstreams, as far as nginx is asked ----

def references_that_lead_nowhere(t):
    t.put("routes/r1", {"uri": "/r1", "upstream_id": "none"})
    t.put("routes/r2", {"uri": "/r2", "service_id": "none"})
    t.put("routes/r3", {"uri": "/r3", "plugin_config_id": "none", "upstream": to(UP)})
    t.put("services/empty", {})
    t.put("routes/r4", {"uri": "/r4", "service_id": "empty"})
    same([502, 404, 503, 503], [t.gateway.request(f"/r{i}").status for i in range(1, 5)])


def closed_port():
    return f"127.0.0.1:{free_port()}"


def a_refused_node_is_passed_over(t):
    t.put("routes/retry", {"uri": "/retry", "upstream": {"nodes": [
        {"host": "127.0.0.1", "port": free_port(), "weight": 1, "priority": 1},
        {"host": "127.0.0.1", "port": UP.port, "weight": 1}]}})
    for method in ("GET", "POST"):
        answer = t.gateway.request("/retry", method)
        same((200, None), (answer.status, answer.headers.get("x-apisix-upstream-status")))


def no_node_answers(t):
    t.put("routes/refused", {"uri": "/refused", "upstream": {"nodes": {closed_port(): 1, closed_port(): 1}}})
    answer = t.gateway.request("/refused")
    same((502, "502, 502"), (answer.status, answer.headers.get("x-apisix-upstream-status")))
    t.put("routes/refused", {"uri": "/refused", "upstream": {"retries": 0, "nodes": {closed_port(): 1, closed_port(): 1}}})
    same("502", t.gateway.request("/refused").headers.get("x-apisix-upstream-status"))


def timeouts_of_the_route_win(t):
    upstream = to(UP, timeout={"connect": 5, "send": 5, "read": 5})
    t.put("routes/slow", {"uri": "/slow", "upstream": upstream, "timeout": {"connect": 1, "send": 1, "read": 0.2}})
    seen = len(UP.requests)
    started = time.monotonic()
    answer = t.gateway.request("/slow?sleep=1", "POST")
    same((504, True, 1), (answer.status, time.monotonic() - started < 0.9, len(UP.requests) - seen))


def statuses_of_the_upstream_are_its_own(t):
    answer = t.gateway.request("/hello?status=503")
    same((503, "503"), (answer.status, answer.headers["x-apisix-upstream-status"]))
    answer = t.gateway.request("/hello?status=404")
    same((404, None), (answer.status, answer.headers.get("x-apisix-upstream-status")))


def the_host_that_upstreams_see(t):
    def host(**upstream):
        t.put("routes/host", {"uri": "/host", "upstream": to(UP, **upstream)})
        return t.gateway.request("/host", headers={"Host": "client.test"}).json()["headers"]["host"]
    same("client.test", host())
    same(f"127.0.0.1:{UP.port}", host(pass_host="node"))
    same("other.test", host(pass_host="rewrite", upstream_host="other.test"))


# Without plugins a request goes a shorter way (http/plain.lua): until something asks for the whole one.
def a_plain_route_and_what_is_put_around_it(t):
    def get(**headers):
        answer = t.gateway.request("/plain", headers=headers)
        same(200, answer.status)
        return answer
    t.put("upstreams/plain", to(UP))
    t.put("services/plain", {"upstream_id": "plain"})
    t.put("routes/plain", {"uri": "/plain", "service_id": "plain"})
    for _ in range(2):
        same(("APISIX", None), (get().headers["server"].split("/")[0], get().headers.get("x-rule")))
    set_header = {"response-rewrite": {"headers": {"set": {"x-rule": "1"}}}}
    for path in ("global_rules/plain", "plugin_configs/plain", "services/plain"):
        t.put(path, {"plugins": set_header, **({"upstream_id": "plain"} if path.startswith("services") else {})})
        if path.startswith("plugin_configs"):
            t.put("routes/plain", {"uri": "/plain", "service_id": "plain", "plugin_config_id": "plain"})
        same("1", get().headers.get("x-rule"))
        t.put("routes/plain", {"uri": "/plain", "service_id": "plain"})
        if path.startswith("services"):
            t.put(path, {"upstream_id": "plain"})
        else:
            t.delete(path)
        same(None, get().headers.get("x-rule"))
    t.put("routes/by-header", {"uri": "/plain", "priority": 1, "vars": [["http_x_other", "==", "1"]], "plugins": set_header,
                               "upstream": to(UP)})
    same(("1", None), (get(**{"X-Other": "1"}).headers.get("x-rule"), get().headers.get("x-rule")))
    t.delete("routes/by-header")
    same(None, get(**{"X-Other": "1"}).headers.get("x-rule"))
    t.put("upstreams/plain", to(UP, pass_host="rewrite", upstream_host="plain.test"))
    same("plain.test", get().json()["headers"]["host"])
    t.put("upstreams/plain", {"nodes": {closed_port(): 1, f"127.0.0.1:{UP.port}": 1}, "pass_host": "rewrite",
                              "upstream_host": "plain.test"})
    same({"plain.test"}, {get().json()["headers"]["host"] for _ in range(4)})
    answer = t.gateway.request("/plain", "POST", body=b"x" * 1000000)
    same((200, 1000000), (answer.status, len(answer.json()["body"])))
    for path in ("routes/plain", "services/plain", "upstreams/plain"):
        t.delete(path)


def connections_to_upstreams_are_kept(t):
    counted = t.keep(CountingServer())
    t.put("routes/keep", {"uri": "/keep", "upstream": to({f"127.0.0.1:{counted.port}": 1})})
    connection = http.client.HTTPConnection("127.0.0.1", t.gateway.port, timeout=5)   # one worker
    for _ in range(20):
        connection.request("GET", "/keep")
        same(b"ok", connection.getresponse().read())
    connection.close()
    same(1, counted.connections)


class CountingServer:
    """Answers "ok" to everything on connections that it counts; with TLS, tells the server name that was asked for."""

    def __init__(self, context=None):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port, self.connections, self.context = self.socket.getsockname()[1], 0, context
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        names = []
        try:
            body = b"ok"
            if self.context:
                context = self.context()
                context.sni_callback = lambda _s, name, _c: names.append(name)
                client = context.wrap_socket(client, server_side=True)
                cert = client.getpeercert()
                subject = dict(x[0] for x in cert["subject"])["commonName"] if cert else "-"
                body = f"{names[0] if names else '-'} {subject}".encode()
            buffer = b""
            while True:
                while b"\r\n\r\n" not in buffer:
                    piece = client.recv(65536)
                    if not piece:
                        return
                    buffer += piece
                buffer = buffer.split(b"\r\n\r\n", 1)[1]
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        except OSError:
            pass
        finally:
            client.close()

    def stop(self):
        self.socket.close()


# ---- TLS ----

class Authority:
    def __init__(self, folder, name):
        self.folder, self.name = folder, name
        self.make(["req", "-x509", "-days", "2", "-nodes", "-subj", f"/CN={name}", *self.new_key(name), "-out", f"{name}.pem"])

    @staticmethod
    def new_key(name):
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-keyout", f"{name}.key"]

    def make(self, args):
        subprocess.run(["openssl", *args], cwd=self.folder, check=True, capture_output=True)

    def issue(self, name, *names):
        file = f"{self.name}-{name}"
        (self.folder / f"{file}.ext").write_text("subjectAltName=" + ",".join("DNS:" + n for n in names or (name,)))
        self.make(["req", "-new", "-nodes", "-subj", f"/CN={name}", *self.new_key(file), "-out", f"{file}.csr"])
        self.make(["x509", "-req", "-days", "2", "-in", f"{file}.csr", "-CA", f"{self.name}.pem", "-CAkey", f"{self.name}.key",
                   "-CAcreateserial", "-extfile", f"{file}.ext", "-out", f"{file}.pem"])
        return self.folder / f"{file}.pem", self.folder / f"{file}.key"

    @property
    def pem(self):
        return (self.folder / f"{self.name}.pem").read_text()


def pair(files):
    return {"cert": files[0].read_text(), "key": files[1].read_text()}


def tls(t, name, host=None, path="/hello", client=None, version=None, alpn=None, session=None):
    """-> status, names in the certificate that was shown, version, the session"""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=t.ca.pem)
    context.check_hostname = False
    if client:
        context.load_cert_chain(*client)
    if version:
        context.minimum_version = context.maximum_version = version
    with socket.create_connection(("127.0.0.1", t.gateway.tls), timeout=5) as raw:
        with context.wrap_socket(raw, server_hostname=name, session=session) as s:
            s.sendall(f"GET {path} HTTP/1.1\r\nHost: {host or name}\r\nConnection: close\r\n\r\n".encode())
            text = b""
            try:
                while piece := s.recv(65536):
                    text += piece
            except ssl.SSLEOFError:
                pass
            names = {n for _, n in s.getpeercert().get("subjectAltName", ())}
            return int(text.split()[1]), names, s.version(), text


def refused(fn):
    try:
        fn()
    except (ssl.SSLError, ConnectionError):
        return True
    return False


def certificates_go_by_server_name(t):
    t.ca = Authority(t.folder, "ca")
    t.put("ssls/a", dict(pair(t.ca.issue("a.test")), sni="a.test"))
    t.put("ssls/wild", dict(pair(t.ca.issue("wild", "*.w.test")), snis=["*.w.test"]))
    same({"a.test"}, tls(t, "a.test")[1])
    same({"*.w.test"}, tls(t, "x.w.test")[1])
    for name in ("b.test", "x.y.w.test", "w.test"):
        assert refused(lambda: tls(t, name)), name
    same(200, tls(t, "a.test")[0])
    assert b'"x-forwarded-proto": "https"' in tls(t, "a.test")[3]


def a_certificate_is_replaced_without_a_reload(t):
    t.put("ssls/a", dict(pair(t.ca.issue("a2", "a.test", "two.test")), sni="a.test"))
    same({"a.test", "two.test"}, tls(t, "a.test")[1])


def versions_of_tls_go_by_server_name(t):
    t.put("ssls/old", dict(pair(t.ca.issue("old.test")), sni="old.test", ssl_protocols=["TLSv1.2"]))
    same("TLSv1.2", tls(t, "old.test")[2])
    same("TLSv1.3", tls(t, "a.test")[2])
    assert refused(lambda: tls(t, "old.test", version=ssl.TLSVersion.TLSv1_3))


def encrypted_keys_are_read(t):
    plain = pair(t.ca.issue("sealed.test"))
    for key in ("edd1c9f0985e76a2", "qeddd145sfvddff3"):
        hexed = key.encode().hex()
        sealed = subprocess.run(["openssl", "enc", "-aes-128-cbc", "-K", hexed, "-iv", hexed], input=plain["key"].encode(),
                                check=True, capture_output=True).stdout
        t.put("ssls/sealed", {"cert": plain["cert"], "key": base64.b64encode(sealed).decode(), "sni": "sealed.test"})
        same(200, tls(t, "sealed.test")[0])


def clients_must_show_a_certificate_where_asked(t):
    clients, others = Authority(t.folder, "clients"), Authority(t.folder, "others")
    good, bad = clients.issue("good"), others.issue("bad")
    t.put("ssls/m", dict(pair(t.ca.issue("m.test")), sni="m.test",
                         client={"ca": clients.pem, "depth": 2, "skip_mtls_uri_regex": ["/after.*"]}))
    same(200, tls(t, "m.test", client=good)[0])
    same(400, tls(t, "m.test")[0])
    same(400, tls(t, "m.test", client=bad)[0])
    same(200, tls(t, "m.test", path="/after")[0])
    same(400, tls(t, "a.test", host="m.test", client=good)[0])     # another name's connection
    same(200, tls(t, "a.test")[0])
    t.delete("ssls/m")
    same(200, tls(t, "a.test")[0])


def sessions_open_no_other_name(t):
    clients = Authority(t.folder, "clients2")
    t.put("ssls/m2", dict(pair(t.ca.issue("m2.test")), sni="m2.test", client={"ca": clients.pem}))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def reused(name, session=None):
        with socket.create_connection(("127.0.0.1", t.gateway.tls), timeout=5) as raw:
            with context.wrap_socket(raw, server_hostname=name, session=session) as s:
                return s.session_reused, s.session
    again, other = [], []
    for _ in range(5):
        session = reused("a.test")[1]
        again.append(reused("a.test", session)[0])
        other.append(reused("m2.test", session)[0])
    same(([True] * 5, [False] * 5), (again, other))
    t.delete("ssls/m2")


def upstreams_with_tls_share_no_connection_between_names(t):
    chain = t.ca.issue("upstream", "up1.test", "up2.test")
    clients = Authority(t.folder, "upclients")
    client = clients.issue("gateway")

    def context():
        c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        c.load_cert_chain(*chain)
        c.load_verify_locations(cadata=clients.pem)
        c.verify_mode = ssl.CERT_OPTIONAL
        return c
    server = t.keep(CountingServer(context))
    node = {f"127.0.0.1:{server.port}": 1}
    for i in (1, 2):
        t.put(f"routes/tls{i}", {"uri": f"/tls{i}", "upstream": to(node, scheme="https", pass_host="rewrite", upstream_host=f"up{i}.test")})
    t.put("routes/tls3", {"uri": "/tls3", "upstream": to(node, scheme="https", pass_host="rewrite", upstream_host="up1.test", tls={
        "client_cert": client[0].read_text(), "client_key": client[1].read_text()})})
    connection = http.client.HTTPConnection("127.0.0.1", t.gateway.port, timeout=5)
    for _ in range(3):
        for path, wanted in (("/tls1", b"up1.test -"), ("/tls2", b"up2.test -"), ("/tls3", b"up1.test gateway")):
            connection.request("GET", path)
            same(wanted, connection.getresponse().read())
    connection.close()
    same(3, server.connections)


# ---- HTTP/2, gRPC, WebSocket ----

def curl(*args, body=None):
    done = subprocess.run(["curl", "-sS", "-i", "--max-time", "5", *args], input=body, capture_output=True, check=True)
    return done.stdout


def http2_with_and_without_tls(t):
    for args in (["--http2-prior-knowledge", f"http://127.0.0.1:{t.h2c}/hello"],
                 ["--http2", "-k", "--resolve", f"a.test:{t.gateway.tls}:127.0.0.1", f"https://a.test:{t.gateway.tls}/hello"]):
        text = curl(*args)
        assert text.startswith(b"HTTP/2 200"), text
        assert b"server: APISIX/" in text.lower().replace(b"apisix/", b"APISIX/"), text


def grpc_passes_with_its_trailers(t):
    t.put("routes/grpc", {"uris": ["/etcdserverpb.*"], "upstream": to({f"127.0.0.1:{t.etcd.port}": 1}, scheme="grpc")})
    frame = b"\0\0\0\0\x03\x0a\x01a"     # RangeRequest{key: "a"}
    text = curl("--http2-prior-knowledge", "-H", "content-type: application/grpc", "-H", "te: trailers", "--data-binary", "@-",
                f"http://127.0.0.1:{t.h2c}/etcdserverpb.KV/Range", body=frame)
    assert text.startswith(b"HTTP/2 200") and b"grpc-status: 0" in text, text
    def unknown_method():
        try:
            return b"grpc-status: 12" in curl(
                "--http2-prior-knowledge", "-H", "content-type: application/grpc", "-H", "te: trailers", "--data-binary", "@-",
                f"http://127.0.0.1:{t.h2c}/etcdserverpb.KV/Nothing", body=frame)
        except subprocess.CalledProcessError:   # etcd may reset the stream behind its answer, before nginx has passed that on
            return False
    wait_for(unknown_method, "the status of an unknown method", 5)
    env = dict(os.environ, ETCDCTL_API="3")
    watch = subprocess.Popen(["etcdctl", "--endpoints", f"127.0.0.1:{t.h2c}", "watch", "stream"], stdout=subprocess.PIPE, env=env)
    try:
        for i in range(50):     # the watch needs a moment to be there
            etcdctl(t.etcd.url, "put", "stream", str(i))
            if select_readable(watch.stdout, 0.1):
                break
        same(b"PUT\n", watch.stdout.readline())
    finally:
        watch.kill()
        watch.wait()


def select_readable(stream, seconds):
    import select
    return bool(select.select([stream], [], [], seconds)[0])


def grpc_over_tls_on_both_sides(t):
    t.put("routes/grpcs", {"uris": ["/etcdserverpb.*"], "host": "outer.test", "upstream": to(
        {f"127.0.0.1:{t.gateway.tls}": 1}, scheme="grpcs", pass_host="rewrite", upstream_host="a.test")})
    t.put("ssls/outer", dict(pair(t.ca.issue("outer.test")), sni="outer.test"))
    text = curl("--http2", "-k", "--resolve", f"outer.test:{t.gateway.tls}:127.0.0.1", "-H", "content-type: application/grpc",
                "-H", "te: trailers", "--data-binary", "@-", f"https://outer.test:{t.gateway.tls}/etcdserverpb.KV/Range",
                body=b"\0\0\0\0\x03\x0a\x01a")
    assert text.startswith(b"HTTP/2 200") and b"grpc-status: 0" in text, text


class WebSocketEcho(CountingServer):
    def serve(self, client):
        text = b""
        while b"\r\n\r\n" not in text:
            text += client.recv(65536)
        key = re.search(rb"(?i)sec-websocket-key: *(\S+)", text)
        if b"upgrade: websocket" not in text.lower() or not key:
            client.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        else:
            accept = base64.b64encode(hashlib.sha1(key.group(1) + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
            client.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                           b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
            while piece := client.recv(65536):
                client.sendall(piece)
        client.close()


def websockets_only_where_they_are_enabled(t):
    echo = t.keep(WebSocketEcho())
    node = {f"127.0.0.1:{echo.port}": 1}
    t.put("routes/ws", {"uri": "/ws", "upstream": to(node), "enable_websocket": True})
    t.put("routes/nows", {"uri": "/nows", "upstream": to(node)})
    for path, wanted in (("/ws", b"101"), ("/nows", b"400")):
        with socket.create_connection(("127.0.0.1", t.gateway.port), timeout=5) as s:
            s.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode())
            answer = s.recv(65536)
            same(wanted, answer.split()[1])
            if wanted == b"101":
                s.sendall(b"\x81\x02hi")
                same(b"\x81\x02hi", s.recv(100))


# ---- Bad input ----

class OneAnswer(CountingServer):
    """Answers every connection's first bytes with the same bytes, and closes it."""

    def __init__(self, answer):
        self.answer = answer
        super().__init__()

    def serve(self, client):
        client.recv(65536)
        client.sendall(self.answer)
        client.close()


def upstreams_that_send_nonsense_harm_one_request_each(t):
    wanted = {b"": 502, b"\0\1\2\3": None, b"HTTP/1.1 banana\r\n\r\n": None, b"HTTP/1.1 200 OK\r\n": 502,
              b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70000 + b"\r\n\r\n": 502}
    for i, (answer, status) in enumerate(wanted.items()):
        node = {f"127.0.0.1:{t.keep(OneAnswer(answer)).port}": 1}
        t.put(f"routes/bad{i}", {"uri": f"/bad{i}", "upstream": to(node)})
        try:
            got = t.gateway.request(f"/bad{i}").status
        except http.client.RemoteDisconnected:
            got = None
        same((answer[:20], status), (answer[:20], got))
    node = {f"127.0.0.1:{t.keep(OneAnswer(b'HTTP/1.1 200 OK' + 2 * bytes([13, 10]) + b'abc')).port}": 1}
    t.put("routes/short", {"uri": "/short", "upstream": to(node)})
    same(b"abc", t.gateway.request("/short").body)
    node = {f"127.0.0.1:{t.keep(OneAnswer(b'HTTP/1.1 200 OK' + bytes([13, 10]) + b'Content-Length: 9' + 2 * bytes([13, 10]) + b'abc')).port}": 1}
    t.put("routes/cut", {"uri": "/cut", "upstream": to(node)})
    try:
        same("an incomplete body", t.gateway.request("/cut").body)
    except http.client.IncompleteRead as e:
        same(b"abc", e.partial)
    same(200, t.gateway.request("/hello").status)


def malformed_requests_are_refused(t):
    def raw(*lines, body=b""):
        with socket.create_connection(("127.0.0.1", t.gateway.port), timeout=5) as s:
            s.sendall("\r\n".join((*lines, "", "")).encode("latin-1") + body)
            s.shutdown(socket.SHUT_WR)
            text = b""
            while piece := s.recv(65536):
                text += piece
        return [int(status) for status in re.findall(rb"^HTTP/1\.[01] (\d+)", text, re.M)]
    t.put("routes/any", {"uri": "/any/*", "upstream": to(UP)})
    seen = len(UP.requests)
    post, host = "POST /any/x HTTP/1.1", "Host: a"
    smuggled = b"0\r\n\r\nGET /any/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    same([400], raw(post, host, "Content-Length: 6", "Transfer-Encoding: chunked", body=smuggled))
    same([400], raw(post, host, "Content-Length: 1", "Content-Length: 2", body=b"ab"))
    same([400], raw(post, host, "Content-Length: +1", body=b"a"))
    same([501], raw(post, host, "Transfer-Encoding: xchunked", body=smuggled))
    same([400], raw("GET /any/\0 HTTP/1.1", host))
    same([400], raw("GET /any/x HTTP/1.1"))
    same([400], raw("GET /any/../../x HTTP/1.1", host))
    same([414], raw("GET /any/" + "a" * 40000 + " HTTP/1.1", host))
    same([400], raw("GET /any/x HTTP/1.1", host, "X: " + "a" * 40000))
    same(seen, len(UP.requests))
    same([404, 200], [t.gateway.request(path).status for path in ("/any/%2e%2e/hi", "/nothing/%2e%2e/any/x")])


def a_slow_client_holds_nobody_up(t):
    slow = []
    for _ in range(50):
        s = socket.create_connection(("127.0.0.1", t.gateway.port), timeout=5)
        s.sendall(b"POST /any/slow HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\na")
        slow.append(s)
    started = time.monotonic()
    same([200] * 20, [t.gateway.request("/hello").status for _ in range(20)])
    assert time.monotonic() - started < 2
    for s in slow:
        s.close()


# ---- The configuration file ----

def settings_of_the_file_take_effect(t):
    folder = t.folder / "settings"
    folder.mkdir()
    os.chmod(folder, 0o755)
    gateway = t.keep(Gateway(folder, t.etcd.url, {"apisix": {
        "trusted_addresses": ["127.0.0.1"], "enable_server_tokens": False, "show_upstream_status_in_response_header": True,
        "router": {"http": "radixtree_uri_with_parameter"}, "delete_uri_tail_slash": True, "normalize_uri_like_servlet": True,
        "match_uri_encoded_slash": True}, "nginx_config": {"http": {"real_ip_from": ["127.0.0.1"]}}, "plugins": ["cors"]}, workers=1))
    t.put("routes/user", {"uri": "/user/:name/end", "upstream": to(UP)})
    t.put("routes/plain", {"uri": "/plain", "plugins": {"limit-count": {"count": 1, "time_window": 60}, "cors": {}}, "upstream": to(UP)})
    t.put("routes/one", {"uri": "/from", "remote_addrs": ["10.1.0.0/16"], "upstream": to(UP)})
    wait_for(lambda: gateway.request("/from", headers={"X-Real-IP": "10.1.2.3"}).status == 200, "the routes")
    statuses = [gateway.request(path).status for path in ("/user/jack/end", "/user/a/b/end", "/plain/", "/plain;a=1", "/plain%2F", "/from")]
    same([200, 404, 200, 200, 404, 404], statuses)     # and limit-count is not loaded
    answer = gateway.request("/plain", headers={"X-Forwarded-Proto": "https", "X-Forwarded-Host": "outer.test", "X-Forwarded-Port": "443",
                                                "X-Forwarded-For": "10.9.9.9", "Forwarded": "for=10.9.9.9"})
    same(("APISIX", "200", "*"), tuple(answer.headers.get(k) for k in ("server", "x-apisix-upstream-status", "access-control-allow-origin")))
    seen = answer.json()["headers"]
    same(["https", "outer.test", "443", "10.9.9.9, 127.0.0.1", "for=10.9.9.9"],
         [seen.get(k) for k in ("x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-forwarded-for", "forwarded")])
    for name in ("user", "plain", "one"):
        t.delete(f"routes/{name}")


# ---- The program ----

def a_killed_worker_is_replaced_by_one_that_knows_everything(t):
    t.put("routes/late", {"uri": "/late", "upstream": to(UP)})
    t.etcd.stop()
    try:
        old = workers(t.gateway)
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: len(workers(t.gateway)) == len(old) and not set(workers(t.gateway)) & set(old), "new workers")
        same([200] * 20, [t.gateway.request("/late").status for _ in range(20)])
    finally:
        t.etcd.start()


def a_reload_drops_nothing(t):
    stop, statuses = threading.Event(), []

    def ask():
        while not stop.is_set():
            statuses.append(t.gateway.request("/hello").status)
    thread = threading.Thread(target=ask)
    thread.start()
    old = set(workers(t.gateway))
    t.gateway.process.process.send_signal(signal.SIGHUP)
    wait_for(lambda: len(set(workers(t.gateway)) - old) == len(old), "new workers")
    time.sleep(0.3)
    stop.set()
    thread.join()
    same({200}, set(statuses))


def a_reload_while_nginx_starts_waits_for_it(t):
    """nginx without its handlers yet would be ended by the signal."""
    gateway = t.gateway
    for _ in range(3):
        gateway.stop()
        gateway.process = Process(gateway.args, gateway.log)
        pid = gateway.process.process.pid
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
        # What nginx -t runs as is gone before nginx itself is there.
        wait_for(lambda: any(b"-t" not in of(child).split(b"\0") for child in children.read_text().split()), "nginx")
        gateway.process.process.send_signal(signal.SIGHUP)
        gateway.wait()
        same(200, gateway.request("/hello").status)


def of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b"-t"


def a_folder_that_the_workers_cannot_get_to_is_refused(t):
    """Else the last configuration would be missing when it is needed."""
    if os.getuid() != 0:
        print("# not root: the workers are who we are, and the folder is ours")
        return
    folder = t.gateway.folder.parent / "closed"
    folder.mkdir(mode=0o700)
    done = subprocess.run([DPPROXY, "--runtime-dir", str(folder / "run"), "--user", "nobody", "--test"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1 and "--runtime-dir" in done.stderr, done
    folder.chmod(0o755)
    done = subprocess.run([DPPROXY, "--runtime-dir", str(folder / "run"), "--user", "nobody", "--test"], capture_output=True, text=True, timeout=30)
    same(0, done.returncode)


def calm(t):
    """Until no reload of before is under way: -> the workers."""
    def unchanged():
        before = set(workers(t.gateway))
        time.sleep(2)
        return before == set(workers(t.gateway)) and before
    return wait_for(unchanged, "no more new workers", 60)


def a_bad_configuration_is_not_reloaded(t):
    file = t.gateway.folder.parent / "config.json"
    good = file.read_text()
    old = calm(t)
    try:
        file.write_text(json.dumps({"apisix": {"node_listen": "nowhere"}}))
        t.gateway.process.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "not reloaded" in t.gateway.log.read_text(), "the refusal")
        file.write_text(json.dumps({"nginx_config": {"http_configuration_snippet": "nonsense on;"}}))
        t.gateway.process.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "nginx refuses its configuration" in t.gateway.log.read_text(), "nginx' refusal")
        assert old & set(workers(t.gateway)), "workers were replaced"
        same(200, t.gateway.request("/hello").status)
    finally:
        file.write_text(good)


def without_etcd_it_starts_from_the_snapshot(t):
    snapshot = t.gateway.folder / "snapshot"
    wait_for(lambda: list(snapshot.iterdir()), "a snapshot")
    t.gateway.stop()
    t.etcd.stop()
    try:
        t.gateway.start()
        same(200, t.gateway.request("/late").status)
        same("disk", request(t.gateway.control, "/v1/config_status").json()["source"])
    finally:
        t.etcd.start()
    t.put("routes/again", {"uri": "/again", "upstream": to(UP)})
    same(200, t.gateway.request("/again").status)


def nginx_ends_with_its_launcher(t):
    folder = t.folder / "two"
    folder.mkdir()
    os.chmod(folder, 0o755)
    gateway = Gateway(folder, t.etcd.url, workers=1)
    all_of_it = [master(gateway)] + children(master(gateway))
    gateway.process.process.kill()
    gateway.process.process.wait()
    wait_for(lambda: not any(map(runs, all_of_it)), "the end of nginx")
    gateway.process.stop()
    gateway.start()
    pid = master(gateway)
    others = children(pid)
    os.kill(pid, signal.SIGKILL)     # and the other way round: workers without a master would hold the ports
    same(128 + 9, gateway.process.process.wait(5))
    wait_for(lambda: not any(map(runs, others)), "the end of the workers")
    gateway.process.stop()


def signals_are_passed_on(t):
    log = t.gateway.folder / "logs" / "access.log"
    log.rename(log.with_suffix(".1"))
    t.gateway.process.process.send_signal(signal.SIGUSR1)
    wait_for(log.exists, "a new access log")
    t.gateway.process.process.send_signal(signal.SIGQUIT)
    same(0, t.gateway.process.process.wait(10))
    t.gateway.process.stop()
    t.gateway.start()


def bad_arguments_say_what_is_wrong(t):
    def run(*args, **env):
        done = subprocess.run([DPPROXY, *args], capture_output=True, text=True, timeout=20, env=dict(os.environ, **env))
        return done.returncode, done.stdout + done.stderr
    for args, text in ((["--nonsense"], "unknown argument: --nonsense"), (["--etcd", "nowhere"], "--etcd: entry 1: must be"),
                       (["--config", "/nonexistent"], "/nonexistent: No such file")):
        code, out = run(*args)
        same((1, True), (code, text in out))
    code, out = run("--version")
    same((0, True), (code, "APISIX 3.18.0" in out))
    code, out = run("--help")
    same((0, True), (code, "--etcd URL" in out and "--tls-listen" in out))
    code, out = run("--print-config", "--listen", "7", "--runtime-dir", str(t.folder / "none"))
    same((0, True, False), (code, "listen 7 default_server" in out, (t.folder / "none").exists()))
    manual = (TOP / "docs" / "dpproxy.8").read_text().replace("\\-", "-")
    flags = re.findall(r"^  (--[a-z0-9-]+)", run("--help")[1], re.M)
    same((True, []), (len(flags) > 15, [flag for flag in flags if flag not in manual]))
    same(run("--print-config")[1], run("--print-config", "--config", str(TOP / "etc" / "dpproxy.yaml"))[1])
    code, out = run("--workers", "2", DPPROXY_LUA_DIR="/nonexistent")
    same((1, True), (code, "scripts are not there" in out))


def every_rendered_configuration_is_good_for_nginx(t):
    folder = t.folder / "render"
    folder.mkdir()
    zones = [{"name": "big", "memory_size": "1m", "disk_size": "10m", "disk_path": "cache/big", "cache_levels": "1:2"}]
    for i, config in enumerate((
        {}, {"apisix": {"node_listen": [{"ip": "127.0.0.1", "port": free_port()}, free_port()], "enable_ipv6": False}},
        {"apisix": {"ssl": {"enable": False}, "enable_control": False, "enable_reuseport": False, "proxy_cache": {"zones": zones}}},
        {"apisix": {"h2c_listen": [free_port()], "proxy_protocol": {"listen_http_port": free_port(), "listen_https_port": free_port()},
                    "dns_resolver": ["127.0.0.1", "::1", "127.0.0.1:5353"], "dns_resolver_valid": 5,
                    "ssl": {"ssl_protocols": "TLSv1.3", "ssl_session_tickets": True}}},
        {"nginx_config": {"http": {"access_log_format": '{"a":"$uri; \\"x\\" {}"}', "access_log_format_escape": "json", "access_log_buffer": 0,
                                   "upstream": {"keepalive": 0}, "lua_shared_dict": {"prometheus-metrics": "20m"},
                                   "custom_lua_shared_dict": {"mine": "1m"}, "real_ip_from": ["10.0.0.0/8"],
                                   "large_client_header_buffers": "4 16k", "client_max_body_size": "1m"},
                          "enable_cpu_affinity": True, "envs": ["A", "B=c d"],
                          "http_configuration_snippet": "map $uri $mine {\n  default 1;\n}", "http_server_configuration_snippet": "set $x 1;",
                          "http_server_location_configuration_snippet": "proxy_buffering off;", "main_configuration_snippet": "timer_resolution 100ms;"}},
        {"plugin_attr": {"prometheus": {"export_uri": "/m", "export_addr": {"ip": "127.0.0.1", "port": free_port()}}}},
    )):
        file = folder / f"{i}.json"
        file.write_text(json.dumps(config))
        done = subprocess.run([DPPROXY, "--test", "--config", str(file), "--runtime-dir", str(folder / str(i))], capture_output=True, text=True,
                              timeout=20)
        same((0, []), (done.returncode, [line for line in done.stderr.splitlines() if "warn" in line or "emerg" in line]))


TESTS = [
    a_put_is_in_effect_within_a_second, no_route_is_404_with_apisix_body, an_update_and_a_deletion_take_effect,
    a_bad_object_keeps_its_last_good_version_and_is_listed, the_control_api_shows_what_is_there, references_that_lead_nowhere,
    a_refused_node_is_passed_over, no_node_answers, timeouts_of_the_route_win, statuses_of_the_upstream_are_its_own,
    the_host_that_upstreams_see, a_plain_route_and_what_is_put_around_it, connections_to_upstreams_are_kept, certificates_go_by_server_name,
    a_certificate_is_replaced_without_a_reload, versions_of_tls_go_by_server_name, encrypted_keys_are_read,
    clients_must_show_a_certificate_where_asked, sessions_open_no_other_name, upstreams_with_tls_share_no_connection_between_names,
    http2_with_and_without_tls, grpc_passes_with_its_trailers, grpc_over_tls_on_both_sides, websockets_only_where_they_are_enabled,
    upstreams_that_send_nonsense_harm_one_request_each, malformed_requests_are_refused, a_slow_client_holds_nobody_up,
    settings_of_the_file_take_effect, a_killed_worker_is_replaced_by_one_that_knows_everything, a_reload_drops_nothing, a_reload_while_nginx_starts_waits_for_it, a_folder_that_the_workers_cannot_get_to_is_refused, a_bad_configuration_is_not_reloaded,
    without_etcd_it_starts_from_the_snapshot, nginx_ends_with_its_launcher, signals_are_passed_on, bad_arguments_say_what_is_wrong,
    every_rendered_configuration_is_good_for_nginx,
]

if __name__ == "__main__":
    H2C = free_port()
    Scenario.h2c = H2C
    main(TESTS, {"apisix": {"h2c_listen": [{"ip": "127.0.0.1", "port": H2C}]}})
