# SPDX-License-Identifier: Apache-2.0
"""Registries for tests of discovery. All have the same face:

    registry.config()                    its section of the agent's file
    registry.kind                        discovery_type
    registry.set(service, [(host, port, weight)])
    registry.nodes(service)              what an upstream is to show for it, as the agent sorts it
    registry.stop(), registry.start()    the process, or the socket

DNS is dnsmasq. Consul, Nacos and Eureka are not in Debian: here are servers that speak their protocols as the real ones were seen
to, and can do what those cannot be asked for (fail, lie, count). tests/interop/discovery.py has the real ones."""
import http.server
import json
import os
import signal
import ssl
import threading
import urllib.parse

from harness import Process, free_port, wait_for


class Dns:
    """dnsmasq. Hosts are read again by themselves; SRV records and TTLs need another start."""
    kind = "dns"

    def __init__(self, folder):
        self.folder, self.port, self.srv, self.hosts, self.process, self.ttl = folder, free_port(), [], {}, None, 1
        (self.folder / "hosts").mkdir()
        self.log = self.folder / "log"
        self.start()

    def config(self):
        return {"dns": {"servers": [f"127.0.0.1:{self.port}"]}}

    def start(self):
        args = ["/usr/sbin/dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", f"--port={self.port}",
                "--listen-address=127.0.0.1", "--bind-interfaces", "--no-resolv", "--no-hosts", "--local=/test/",
                *(["--user=root"] if os.geteuid() == 0 else []),
                f"--hostsdir={self.folder / 'hosts'}", f"--local-ttl={self.ttl}", "--pid-file=", "--log-queries",
                f"--log-facility={self.log}", *[f"--srv-host={line}" for line in self.srv]]
        self.process = Process(args, self.folder / "out")
        wait_for(lambda: "started" in self.text(), "dnsmasq", 20)

    def stop(self, sig=signal.SIGTERM):
        self.process.stop(sig)
        if self.log.exists():
            self.log.unlink()

    def text(self):
        return self.log.read_text() if self.log.exists() else ""

    def write(self):
        lines = [f"{host} {name}" for name, hosts in self.hosts.items() for host in hosts]
        (self.folder / "hosts" / "all").write_text("".join(line + "\n" for line in lines))
        self.process.process.send_signal(signal.SIGHUP)  # what is gone is forgotten only then

    def host(self, name, *hosts):
        self.hosts[name] = hosts
        self.write()

    def set(self, service, nodes):
        self.host(self.name(service), *[host for host, _, _ in nodes])

    def name(self, service):
        return service if "." in service else f"{service}.test"

    def nodes(self, service):
        return [{"host": f"[{host}]" if ":" in host else host, "weight": 1} for host in sorted(self.hosts.get(self.name(service), ()))]

    def asked(self, service):
        return sum(f"] {self.name(service)} from" in line for line in self.text().splitlines())


class Web:
    """A server of ours for one of the three. 'fault' is (status, body) that everything is answered with, or None."""
    kind = None
    section = None

    def __init__(self, folder, user=None, tls=None):
        """tls: a Pki whose certificate "server" is shown"""
        del folder
        self.tls = tls
        self.port, self.services, self.requests, self.fault, self.server = free_port(), {}, [], None, None
        self.user = user
        self.change = threading.Condition()
        self.version = 10
        self.start()

    def start(self):
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def reply(self, status, body, headers=()):
                if not isinstance(body, bytes):
                    body = json.dumps(body).encode()
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                self.handle_one()

            def do_POST(self):
                self.handle_one()

            def handle_one(self):
                url = urllib.parse.urlsplit(self.path)
                arguments = dict(urllib.parse.parse_qsl(url.query))
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                if web.server is None:
                    self.close_connection = True
                    return
                web.requests.append((self.command, url.path, arguments, dict(self.headers)))
                if web.fault:
                    self.reply(*web.fault)
                    return
                try:
                    web.answer(self, url.path, arguments, body)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 512
            connections = []

            def handle_error(self, request, client_address):
                pass  # a client that is gone

            def get_request(self):
                connection = super().get_request()
                self.connections.append(connection[0])
                return connection

        self.server = Server(("127.0.0.1", self.port), Handler)
        self.server.connections = []
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.tls.cert("server"), self.tls.key("server"))
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self, sig=None):
        del sig
        server, self.server = self.server, None
        if not server:
            return
        with self.change:
            self.change.notify_all()
        server.shutdown()
        server.server_close()
        for connection in server.connections:
            try:
                connection.shutdown(2)
            except OSError:
                pass
            connection.close()

    def url(self):
        return f"{'https' if self.tls else 'http'}://{self.user + '@' if self.user else ''}127.0.0.1:{self.port}"

    def set(self, service, nodes):
        with self.change:
            self.services[service] = nodes
            self.version += 1
            self.change.notify_all()

    def name(self, service):
        return service

    def nodes(self, service):
        return [{"host": host, "port": port, "weight": weight} for host, port, weight in sorted(self.services.get(service, []))]


class Consul(Web):
    """/v1/health/service/NAME with blocking queries. 'token': what must be in X-Consul-Token."""
    kind = "consul"
    token = None

    def config(self, **more):
        return {"consul": {"servers": [self.url()], **({"token": self.token} if self.token else {}), **more}}

    def answer(self, request, path, arguments, body):
        del body
        if self.token and request.headers.get("X-Consul-Token") != self.token:
            request.reply(403, b"rpc error making call: Permission denied: token with AccessorID lacks permission")
            return
        service = urllib.parse.unquote(path.rsplit("/", 1)[1])
        before = int(arguments.get("index", 0))
        with self.change:
            if before:
                self.change.wait_for(lambda: self.version != before or not self.server or self.fault,
                                     float(arguments.get("wait", "60s").rstrip("s")))
            version = self.version
        if not self.server:
            request.close_connection = True
            return
        entries = [{"Node": {"Node": "n", "Address": "127.0.0.1"}, "Checks": [],
                    "Service": {"ID": f"{service}-{host}-{port}", "Service": service, "Address": host, "Port": port,
                                "Weights": {"Passing": weight, "Warning": 1}}} for host, port, weight in self.services.get(service, [])]
        request.reply(200, entries, [("X-Consul-Index", str(version)), ("Content-Type", "application/json")])

    def asked(self, service):
        return sum(path == f"/v1/health/service/{service}" for _, path, _, _ in self.requests)


class Nacos(Web):
    """ns/instance/list below /nacos/v1, and auth/login when there is a user. 'tokens': those that are accepted now."""
    kind = "nacos"

    def __init__(self, folder, user=None):
        self.tokens, self.logins = [], 0
        super().__init__(folder, user)

    def config(self, **more):
        return {"nacos": {"host": [self.url()], "fetch_interval": 1, **more}}

    def answer(self, request, path, arguments, body):
        if path == "/nacos/v1/auth/login" and request.command == "POST":
            fields = dict(urllib.parse.parse_qsl(body))
            self.logins += 1
            if f"{fields.get('username')}:{fields.get('password')}" != self.user:
                request.reply(403, b"unknown user!")
                return
            self.tokens = [f"token{self.logins}"]
            request.reply(200, {"accessToken": self.tokens[0], "tokenTtl": 18000, "globalAdmin": False})
        elif path != "/nacos/v1/ns/instance/list":
            request.reply(404, {"error": "no such path"})
        elif self.user and arguments.get("accessToken") not in self.tokens:
            request.reply(403, {"status": 403, "message": "token invalid!"})
        else:
            place = (arguments.get("namespaceId", ""), arguments.get("groupName", ""), arguments["serviceName"])
            name = "/".join(part for part in place if part)
            hosts = [{"ip": host, "port": port, "weight": float(weight), "healthy": True, "enabled": True, "metadata": {}}
                     for host, port, weight in self.services.get(name, [])]
            request.reply(200, {"name": name, "hosts": hosts, "cacheMillis": 10000})

    def asked(self, service):
        return sum(arguments.get("serviceName") == service for _, _, arguments, _ in self.requests)


class Eureka(Web):
    """/eureka/apps. Weights are metadata."""
    kind = "eureka"

    def config(self, **more):
        return {"eureka": {"host": [self.url()], "fetch_interval": 1, **more}}

    def answer(self, request, path, arguments, body):
        del arguments, body
        if path != "/eureka/apps":
            request.reply(404, b"")
            return
        apps = [{"name": name.upper(), "instance": [
            {"instanceId": f"{host}:{port}", "hostName": host, "app": name.upper(), "ipAddr": host, "status": "UP",
             "port": {"$": port, "@enabled": "true"}, "securePort": {"$": 443, "@enabled": "false"},
             "metadata": {"weight": str(weight)}} for host, port, weight in nodes]} for name, nodes in self.services.items() if nodes]
        request.reply(200, {"applications": {"versions__delta": "1", "apps__hashcode": "", "application": apps}})

    def asked(self, service):
        del service
        return len(self.requests)
