#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""
The gateway's configuration store in a real nginx, against a real etcd and against kineshim. Prints TAP; KINESHIM names the program.

nginx.conf is this test's own: the store and nothing else of the gateway, two workers, each of which says what it has. Between it and
the server stands a relay that can be cut.
"""

import base64
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

WAIT = int(os.environ.get("KS_WAIT", "30"))  # seconds, for anything that must happen
HERE = os.path.dirname(os.path.realpath(__file__))
LUA = os.path.realpath(os.path.join(HERE, "../../proxy/lua"))
TOP = os.environ.get("top_builddir", ".")
PROGRAM = os.path.realpath(os.environ.get("KINESHIM", os.path.join(TOP, "kineshim", "kineshim")))
FOLDER = tempfile.mkdtemp(prefix="ks-config.", dir="/tmp")
ROUTES = 10000
running = []


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
        time.sleep(0.01)
    raise Failed("in vain: " + what)


def b64(text):
    return base64.b64encode(text.encode()).decode()


def free_port():
    """Below the ports that the kernel gives to whoever connects: a server that is stopped for a while must get its own again."""
    while True:
        port = random.randrange(10000, 32000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


def cpu_seconds(pid):
    with open(f"/proc/{int(pid)}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def connects(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


class Process:
    def spawn(self, command, log):
        with open(log, "ab") as out:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=FOLDER)
        running.append(self.process)

    def stop(self, how=signal.SIGKILL):
        if self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(WAIT)


class Store(Process):
    """The server that holds the configuration."""

    def __init__(self, kind, name, *flags, scheme="http", urls=()):
        self.kind, self.name, self.flags, self.port, self.scheme, self.urls = kind, name, flags, free_port(), scheme, urls
        self.peer = free_port()
        self.data = os.path.join(FOLDER, name)
        self.start()

    def start(self):
        url = f"{self.scheme}://127.0.0.1:{self.port}"
        if self.kind == "etcd":
            command = ["etcd", "--data-dir", self.data, "--listen-client-urls", url, "--advertise-client-urls", url,
                       "--listen-peer-urls", f"http://127.0.0.1:{self.peer}", "--unsafe-no-fsync",
                       "--initial-advertise-peer-urls", f"http://127.0.0.1:{self.peer}",
                       "--initial-cluster", f"default=http://127.0.0.1:{self.peer}", *self.flags]
        else:
            command = [PROGRAM, "--log-format=console", f"--data-dir={self.data}",
                       "--listen-client-urls=" + ",".join((url, *self.urls)), *self.flags]
        self.spawn(command, self.data + ".log")
        until(lambda: connects(self.port), f"{self.kind} listens")
        if self.scheme == "http":
            until(lambda: self.try_put(), f"{self.kind} writes")

    def try_put(self):
        try:
            self.call("/v3/kv/put", {"key": b64("/elsewhere"), "value": b64("x")})
            return True
        except (OSError, Failed, http.client.HTTPException):
            return False

    def call(self, path, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)
        connection.request("POST", path, json.dumps(body))
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        must(answer.status == 200, path, answer.status, text)
        return json.loads(text)

    def put(self, path, value, prefix="/apisix/"):
        text = value if isinstance(value, str) else json.dumps(value)
        return int(self.call("/v3/kv/put", {"key": b64(prefix + path), "value": b64(text)})["header"]["revision"])

    def delete(self, path):
        self.call("/v3/kv/deleterange", {"key": b64("/apisix/" + path)})

    def fill(self, count):
        for first in range(0, count, 100):
            self.call("/v3/kv/txn", {"success": [
                {"requestPut": {"key": b64(f"/apisix/routes/r{i}"), "value": b64(json.dumps({
                    "uri": f"/r/{i}/*", "name": f"route {i}", "methods": ["GET", "POST"], "hosts": [f"h{i % 100}.example.com"],
                    "plugins": {"limit-count": {"count": 10, "time_window": 60, "key": "remote_addr"}},
                    "upstream": {"type": "roundrobin", "nodes": {"10.0.0.1:80": 1, "10.0.0.2:80": 2}},
                }))}} for i in range(first, first + 100)]})


class Relay:
    """Between the gateway and its store; refuses and ends connections while it is cut."""

    def __init__(self, port):
        self.to, self.open, self.pairs = port, True, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client = self.listener.accept()[0]
            try:
                server = socket.create_connection(("127.0.0.1", self.to), 1) if self.open else None
            except OSError:
                server = None
            if not server:
                client.close()
                continue
            server.settimeout(None)
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.pairs += [client, server]
            for a, b in ((client, server), (server, client)):
                threading.Thread(target=self.copy, args=(a, b), daemon=True).start()

    @staticmethod
    def copy(a, b):
        try:
            while data := a.recv(65536):
                b.sendall(data)
        except OSError:
            pass
        for one in (a, b):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        self.open = False
        for one in self.pairs:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.pairs = []

    def mend(self):
        self.open = True


CONF = """
load_module /usr/lib/nginx/modules/ndk_http_module.so;
load_module /usr/lib/nginx/modules/ngx_http_lua_module.so;
%(user)s
daemon off;
worker_processes 2;
pid %(folder)s/nginx.pid;
error_log %(folder)s/error.log info;
events { worker_connections 256; }
http {
    access_log off;
    client_body_temp_path %(folder)s/body;
    proxy_temp_path %(folder)s/proxy;
    fastcgi_temp_path %(folder)s/fastcgi;
    uwsgi_temp_path %(folder)s/uwsgi;
    scgi_temp_path %(folder)s/scgi;
    lua_package_path "%(lua)s/?.lua;%(lua)s/?/init.lua;/usr/share/lua/5.1/?.lua;;";
    lua_socket_log_errors off;
    lua_shared_dict dpproxy_config 64m;
    lua_shared_dict dpproxy_state 1m;
    %(tls)s
    init_by_lua_block {
        require("resty.core")
        local store = require("dpproxy.config.store")
        store.set_check(function(kind, value)
            if value.bad then
                return false, "it is bad"
            end
            return true
        end)
        local file = io.open("%(folder)s/node.json")
        node = require("cjson").decode(file:read("*a"))
        file:close()
        store.init(node)
    }
    init_worker_by_lua_block {
        local store = require("dpproxy.config.store")
        local cjson = require("cjson")
        store.init_worker(node)
        -- What a request would do, often: take in what is new, and say what is there.
        local function say()
            store.refresh()
            local lat = store.get("routes", "lat")
            local probe = store.get("routes", "probe")
            ngx.shared.dpproxy_state:set("say:" .. ngx.worker.id(), cjson.encode({
                pid = ngx.worker.pid(), routes = #store.list("routes"), lat = lat and lat.value.n, probe = probe and probe.value.n,
                rejected = #store.rejected(), memory = collectgarbage("count"),
            }))
        end
        say()
        ngx.timer.every(0.02, say)
    }
    server {
        listen 127.0.0.1:%(port)d;
        location = /workers { content_by_lua_block {
            local all = {}
            for id = 0, 1 do
                local text = ngx.shared.dpproxy_state:get("say:" .. id)
                all[#all + 1] = text and require("cjson").decode(text)
            end
            ngx.say(require("cjson").encode(all))
        } }
        location = /status { content_by_lua_block {
            local store = require("dpproxy.config.store")
            local status = store.status()
            status.owner = ngx.shared.dpproxy_state:get("config-owner")
            ngx.say(require("cjson").encode(status))
        } }
        location = /n { content_by_lua_block {
            local store = require("dpproxy.config.store")
            store.refresh()
            local item = store.get("routes", "lat")
            ngx.print(item and item.value.n or "none")
        } }
    }
}
"""


class Gateway(Process):
    def __init__(self, name, hosts, tls_conf="", **etcd):
        self.folder = os.path.join(FOLDER, name)
        self.snapshots = os.path.join(self.folder, "snapshots")
        os.makedirs(self.snapshots)
        self.port = free_port()
        with open(os.path.join(self.folder, "nginx.conf"), "w") as conf:
            conf.write(CONF % {"folder": self.folder, "lua": LUA, "port": self.port, "tls": tls_conf,
                               "user": "user root;" if os.geteuid() == 0 else ""})
        with open(os.path.join(self.folder, "node.json"), "w") as node:
            json.dump({"deployment": {"etcd": {"host": hosts, **etcd}}, "dpproxy": {"snapshot_dir": self.snapshots}}, node)
        self.start()

    def start(self):
        self.began = time.monotonic()
        self.spawn(["nginx", "-p", self.folder, "-c", os.path.join(self.folder, "nginx.conf")],
                   os.path.join(self.folder, "out.log"))
        self.connection = None
        until(lambda: connects(self.port), "nginx listens")

    def get(self, path):
        for _ in range(3):  # a worker that is killed takes its connections with it
            try:
                if not self.connection:
                    self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)
                self.connection.request("GET", path)
                return self.connection.getresponse().read().decode()
            except (OSError, http.client.HTTPException):
                self.connection = None
        raise Failed("nginx does not answer")

    def status(self):
        return json.loads(self.get("/status"))

    def workers(self):
        return json.loads(self.get("/workers"))

    def all(self, what, value, but=()):
        def look():
            found = self.workers()
            return len(found) == 2 and all(w.get(what) == value and w["pid"] not in but for w in found) and found
        return until(look, f"{what} = {value} in all workers of {os.path.basename(self.folder)}")

    def quit(self):
        self.stop(signal.SIGQUIT)

    def kill_worker(self, owner):
        """-> pid of the worker that was killed"""
        mine = self.status()["owner"]
        pid = mine if owner else next(w["pid"] for w in self.workers() if w["pid"] != mine)
        os.kill(int(pid), signal.SIGKILL)
        return pid

    def log(self):
        with open(os.path.join(self.folder, "error.log")) as log:
            return log.read()


count = 0
failed = 0


def case(name, fn, *args):
    global count, failed
    count += 1
    begun = time.monotonic()
    try:
        note = fn(*args)
        print(f"ok {count} - {name}" + (f" # {note}" if note else ""), flush=True)
    except Exception as problem:
        failed += 1
        print(f"not ok {count} - {name}", flush=True)
        for line in (str(problem) if isinstance(problem, Failed) else traceback.format_exc()).splitlines():
            print("# " + line, flush=True)
    if os.environ.get("KS_TIMES"):
        print(f"# {time.monotonic() - begun:.2f} s", flush=True)


# ---- cases ----


def load(world):
    store = world["store"]
    store.put("routes/", "init_dir")
    store.fill(ROUTES)
    store.put("routes/probe", {"n": 1})
    store.put("routes/x", {"n": 1}, prefix="/apisix-other/")
    world["relay"] = Relay(store.port)
    gateway = world["gateway"] = Gateway(store.kind + "-gateway", [f"http://127.0.0.1:{world['relay'].port}"])
    workers = gateway.all("routes", ROUTES + 1)
    took = time.monotonic() - gateway.began
    # Processor time, since the machine may have other things to do.
    busy = max(cpu_seconds(w["pid"]) for w in workers)
    must(busy < 2, "the first load took a worker", busy, "s of processor time")
    status = gateway.status()
    must(status["loaded"] and status["source"] == "etcd" and status["etcd_reachable"], status)
    memory = max(w["memory"] for w in workers)
    used = status["shared_bytes"] - status["shared_free_bytes"]
    return f"{took:.2f} s from start, {busy:.2f} s of processor time and {memory / 1024:.0f} MiB of Lua in the busiest worker, {used / 1048576:.0f} MiB shared"


def latency(world):
    store, gateway = world["store"], world["gateway"]
    connection = http.client.HTTPConnection("127.0.0.1", store.port, timeout=WAIT)
    times = []
    for n in range(200):
        connection.request("POST", "/v3/kv/put", json.dumps({"key": b64("/apisix/routes/lat"), "value": b64(json.dumps({"n": n}))}))
        must(connection.getresponse().read(), "put")
        begun = time.monotonic()
        until(lambda: gateway.get("/n") == str(n), f"lat = {n}")
        times.append((time.monotonic() - begun) * 1000)
    times.sort()
    must(times[197] < 1000, "p99 of put to visible in ms", times[197])
    gateway.all("lat", 199)
    return f"put to visible: p50 {times[100]:.1f} ms, p99 {times[197]:.1f} ms, most {times[199]:.1f} ms"


def invalid(world):
    store, gateway = world["store"], world["gateway"]
    store.put("routes/probe", {"n": 2, "bad": True})
    store.put("routes/lat", {"n": 1000})
    gateway.all("lat", 1000)
    gateway.all("rejected", 1)
    must(all(w["probe"] == 1 for w in gateway.workers()), gateway.workers())
    store.put("routes/probe", {"n": 3})
    gateway.all("probe", 3)
    gateway.all("rejected", 0)


def owner_killed(world):
    store, gateway = world["store"], world["gateway"]
    pid = gateway.kill_worker(True)
    begun = time.monotonic()
    store.put("routes/probe", {"n": 4})
    gateway.all("probe", 4, but=(pid,))
    return f"{time.monotonic() - begun:.2f} s"


def compacted(world):
    store, gateway, relay = world["store"], world["gateway"], world["relay"]
    before = gateway.status()["resyncs"]
    relay.cut()
    until(lambda: not gateway.status()["etcd_reachable"], "etcd is away")
    store.put("routes/gone", {"n": 5})
    store.delete("routes/gone")
    store.delete("routes/r0")
    revision = store.put("routes/probe", {"n": 5})
    store.call("/v3/kv/compaction", {"revision": revision, "physical": True})
    relay.mend()
    gateway.all("probe", 5)
    must(gateway.workers()[0]["routes"] == ROUTES + 1, gateway.workers())
    must(gateway.status()["resyncs"] == before + 1, gateway.status())


def restarted(world):
    store, gateway = world["store"], world["gateway"]
    store.stop()
    store.start()
    store.put("routes/probe", {"n": 6})
    gateway.all("probe", 6)
    must(gateway.status()["etcd_reachable"], gateway.status())


def killed_while_away(world):
    store, gateway = world["store"], world["gateway"]
    store.put("routes/probe", {"n": 7})
    gateway.all("probe", 7)
    store.stop()
    killed = []
    for owner in (True, False):
        killed.append(gateway.kill_worker(owner))
        found = gateway.all("probe", 7, but=killed)
        must(all(w["routes"] == ROUTES + 1 for w in found), found)
        until(lambda: gateway.status().get("owner"), "somebody owns the watch")


def reload_while_away(world):
    gateway = world["gateway"]
    old = [w["pid"] for w in gateway.workers()]
    gateway.process.send_signal(signal.SIGHUP)
    found = gateway.all("probe", 7, but=old)
    must(all(w["routes"] == ROUTES + 1 for w in found), found)


def back_after_reload(world):
    store, gateway = world["store"], world["gateway"]
    store.start()
    store.put("routes/probe", {"n": 8})
    gateway.all("probe", 8)
    path = os.path.join(gateway.snapshots, "config.snapshot")

    def on_disk(n):
        with open(path, "rb") as file:
            return b'{"n": %d}' % n in file.read()

    until(lambda: on_disk(8), "the latest is on disk")
    for worker in gateway.workers():
        must(len(os.listdir(f"/proc/{worker['pid']}/task")) == 1, "a worker with a second thread")
    away = gateway.snapshots + ".away"
    failures = gateway.status()["snapshot_errors"]
    os.rename(gateway.snapshots, away)
    store.put("routes/probe", {"n": 8, "unwritten": True})
    until(lambda: gateway.status()["snapshot_errors"] > failures, "a snapshot that cannot be written is counted")
    must("cannot write the snapshot into" in gateway.log(), "no error in the log")
    os.rename(away, gateway.snapshots)
    store.put("routes/probe", {"n": 8})
    until(lambda: on_disk(8), "the latest is on disk again")
    store.put("routes/probe", {"n": 9})
    gateway.all("probe", 9)
    gateway.quit()
    must(on_disk(9), "a clean end leaves the latest on disk")
    must(os.stat(path).st_mode & 0o777 == 0o600, oct(os.stat(path).st_mode))


def from_disk(world):
    store, gateway = world["store"], world["gateway"]
    store.stop()
    gateway.start()
    gateway.all("probe", 9)
    took = time.monotonic() - gateway.began
    status = gateway.status()
    must(status["source"] == "disk" and status["loaded"] and not status["etcd_reachable"], status)
    gateway.quit()
    return f"{took:.2f} s from start"


def corrupted(world):
    gateway = world["gateway"]
    path = os.path.join(gateway.snapshots, "config.snapshot")
    with open(path, "r+b") as file:
        file.seek(100000)
        byte = file.read(1)
        file.seek(100000)
        file.write(bytes([byte[0] ^ 1]))
    gateway.start()
    found = gateway.all("routes", ROUTES + 1)
    must(found[0]["probe"] == 8, found)
    must(gateway.status()["snapshot_corrupt"] >= 1, gateway.status())
    must("[error]" in gateway.log() and "is damaged" in gateway.log(), "no error in the log")
    world["store"].start()
    gateway.all("probe", 9)
    until(lambda: gateway.status()["source"] == "etcd", "etcd is the source again")


def emptied(world):
    store, gateway = world["store"], world["gateway"]
    store.stop()
    shutil.rmtree(store.data)
    store.start()
    until(lambda: "the last configuration stays" in gateway.status().get("last_error", ""), "the empty etcd is not believed")
    must(all(w["probe"] == 9 and w["routes"] == ROUTES + 1 for w in gateway.workers()), gateway.workers())
    store.put("routes/probe", {"n": 10})
    gateway.all("probe", 10)
    gateway.all("routes", 1)
    gateway.quit()
    must("traceback" not in gateway.log() and "lua entry thread aborted" not in gateway.log(), gateway.log()[-3000:])


def secured(kind):
    """Password, TLS with a client's certificate, a server name, and for kineshim a unix socket."""
    folder = os.path.join(FOLDER, kind + "-pki")
    os.makedirs(folder)

    def openssl(*args):
        subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)

    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "ca.key",
            "-out", "ca.pem", "-days", "2", "-subj", "/CN=test CA")
    for name, extension in (("server", "subjectAltName=DNS:etcd.test,DNS:localhost"), ("client", "extendedKeyUsage=clientAuth")):
        with open(os.path.join(folder, name + ".ext"), "w") as file:
            file.write(extension + "\n")
        subject = "/CN=etcd.test" if name == "server" else "/O=gateway"
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", name + ".key",
                "-out", name + ".csr", "-subj", subject)
        openssl("x509", "-req", "-in", name + ".csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
                "-extfile", name + ".ext", "-out", name + ".pem")
    path = {name: os.path.join(folder, name) for name in ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")}
    store = Store(kind, kind + "-tls", f"--cert-file={path['server.pem']}", f"--key-file={path['server.key']}",
                  f"--trusted-ca-file={path['ca.pem']}", *(["--client-cert-auth"] if kind == "etcd" else []), scheme="https",
                  urls=[f"unix://{FOLDER}/{kind}.sock"] if kind == "kineshim" else [])

    def etcdctl(*args):
        return subprocess.run(["etcdctl", f"--endpoints=https://localhost:{store.port}", f"--cacert={path['ca.pem']}",
                               f"--cert={path['client.pem']}", f"--key={path['client.key']}", *args],
                              env={**os.environ, "ETCDCTL_API": "3"}, capture_output=True, text=True, timeout=WAIT)

    until(lambda: etcdctl("put", "/apisix/routes/probe", '{"n":1}').returncode == 0, "etcdctl writes")
    for args in (("user", "add", "root:secret"), ("user", "grant-role", "root", "root"), ("auth", "enable")):
        if args[1] == "grant-role":
            etcdctl("role", "add", "root")
        done = etcdctl(*args)
        must(done.returncode == 0, args, done.stderr)
    trusted = f"lua_ssl_trusted_certificate {path['ca.pem']}; lua_ssl_verify_depth 3;"
    hosts = [f"https://localhost:{store.port}"]
    tls = {"cert": path["client.pem"], "key": path["client.key"], "sni": "etcd.test"}
    gateways = [Gateway(kind + "-mtls", hosts, trusted, user="root", password="secret", tls=tls)]
    if kind == "kineshim":
        gateways.append(Gateway(kind + "-unix", [f"unix:{FOLDER}/{kind}.sock"], user="root", password="secret"))
    strangers = [Gateway(kind + "-wrong-name", hosts, trusted, user="root", password="secret", tls={**tls, "sni": "other.test"}),
                 Gateway(kind + "-wrong-password", hosts, trusted, user="root", password="wrong", tls=tls)]
    for gateway in gateways:
        gateway.all("probe", 1)
    done = etcdctl("--user=root:secret", "put", "/apisix/routes/probe", '{"n":2}')
    must(done.returncode == 0, done.stderr)
    for gateway in gateways:
        gateway.all("probe", 2)
    for gateway, reason in zip(strangers, ("TLS: ", "cannot authenticate: ")):
        until(lambda: reason in gateway.status().get("last_error", ""), f"{reason!r} is the error: {gateway.status()}")
        must(not gateway.status()["loaded"], gateway.status())
        must("secret" not in gateway.log() and "wrong" not in gateway.log().replace(gateway.folder, ""), "a password in the log")
    for one in (*gateways, *strangers, store):
        one.stop(signal.SIGTERM)


def main():
    for program in ("nginx", "etcd", "etcdctl", "openssl"):
        if not shutil.which(program):
            print(f"Bail out! {program} is needed")
            sys.exit(99)
    kinds = sys.argv[1:] or ["etcd", "kineshim"]
    for kind in kinds:
        world = {}

        def start_store():
            world["store"] = Store(kind, kind)

        case(f"{kind}: the server starts", start_store)
        for name, fn in (
                ("10,000 routes are loaded by every worker", load),
                ("a put is visible soon", latency),
                ("an invalid object keeps its last valid version and blocks nothing", invalid),
                ("the owner of the watch is killed: another takes over", owner_killed),
                ("history is compacted while the gateway is cut off", compacted),
                ("the server restarts", restarted),
                ("workers killed while the server is away: the new ones have the latest", killed_while_away),
                ("reload while the server is away", reload_while_away),
                ("the server comes back; a clean end writes the snapshot", back_after_reload),
                ("start without the server, from disk", from_disk),
                ("a damaged snapshot: the older generation", corrupted),
                ("an emptied server is not believed until it has something", emptied)):
            case(f"{kind}: {name}", fn, world)
        case(f"{kind}: password, TLS both ways, strangers", secured, kind)
    print(f"1..{count}")


try:
    main()
finally:
    for process in running:
        if process.poll() is None:
            process.terminate()
    for process in running:
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
    if os.environ.get("KS_TEST_KEEP"):
        print("# " + FOLDER)
    else:
        shutil.rmtree(FOLDER, ignore_errors=True)
sys.exit(1 if failed else 0)
