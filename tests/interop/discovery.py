#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""discovery.py consul|nacos|eureka…: the scenarios of tests/agent/discovery.py that need no server of ours, with real registries.
tests/interop/registries.sh builds them and sets KS_CONSUL, KS_NACOS and KS_EUREKA. Prints TAP."""
import http.client
import json
import os
import pathlib
import signal
import sys
import threading
import time
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "agent"))
import discovery  # noqa: E402
import harness  # noqa: E402
from discovery_lib import ONE, agent_with, begin, value, wait_nodes  # noqa: E402
from harness import Process, free_port, wait_for  # noqa: E402


class Real:
    """A registry's process; what it is to know survives its restarts here."""
    kind = None

    def __init__(self, folder):
        self.folder, self.port, self.services, self.process = folder, free_port(), {}, None
        self.start()

    def call(self, method, path, body=None, headers=(), fine=(200, 204)):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json", **dict(headers)})
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status not in fine:
            raise OSError(f"{method} {path} says {answer.status}: {text[:200]}")
        return text

    def start(self):
        args, env = self.command()
        self.process = Process(args, self.folder / "log", {**os.environ, **env})
        wait_for(self.ready, f"{self.kind} to be ready", 180)
        for service, nodes in self.services.items():
            for node in nodes:
                self.register(service, *node)

    def stop(self, sig=signal.SIGTERM):
        if self.process:
            self.process.stop(sig)

    def set(self, service, nodes):
        for node in self.services.get(service, []):
            if node not in nodes:
                self.deregister(service, *node)
        for node in nodes:
            self.register(service, *node)
        self.services[service] = nodes

    def name(self, service):
        return service

    def nodes(self, service):
        return [{"host": host, "port": port, "weight": weight} for host, port, weight in sorted(self.services.get(service, []))]


class Consul(Real):
    # Its agent needs the token, too: what is deregistered is told to the others with that.
    kind, token = "consul", "11111111-2222-3333-4444-555555555555"

    def config(self):
        return {"consul": {"servers": [f"http://127.0.0.1:{self.port}"], "token": self.token, "fetch_interval": 60}}

    def command(self):
        ports = [f"-{name}-port={free_port()}" for name in ("serf-lan", "serf-wan", "server")]
        acl = f'acl {{ enabled = true default_policy = "deny" tokens {{ initial_management = "{self.token}" agent = "{self.token}" }} }}'
        return [os.environ["KS_CONSUL"], "agent", "-dev", "-bind=127.0.0.1", "-client=127.0.0.1", f"-http-port={self.port}", "-dns-port=-1",
                "-grpc-port=-1", "-grpc-tls-port=-1", *ports, f"-hcl={acl}"], {}

    def put(self, path, body=None):
        return self.call("PUT", path, body, {"X-Consul-Token": self.token}.items())

    def ready(self):
        return self.call("GET", "/v1/health/service/consul", headers={"X-Consul-Token": self.token}.items()) != b"[]"

    def register(self, service, host, port, weight):
        self.put("/v1/agent/service/register", json.dumps({"ID": f"{service}-{host}-{port}", "Name": service, "Address": host, "Port": port,
                                                           "Weights": {"Passing": weight, "Warning": 1}}))

    def deregister(self, service, host, port, weight):
        del weight
        self.put(f"/v1/agent/service/deregister/{service}-{host}-{port}")


class Nacos(Real):
    """r-nacos, with its login. Instances live as long as they say so."""
    kind, user, password = "nacos", "tester", "p4ss-w0rd"

    def __init__(self, folder):
        self.stopping = False
        super().__init__(folder)
        threading.Thread(target=self.beat, daemon=True).start()

    def config(self):
        return {"nacos": {"host": [f"http://{self.user}:{self.password}@127.0.0.1:{self.port}"], "fetch_interval": 1}}

    def command(self):
        return [os.environ["KS_NACOS"]], {
            "RNACOS_HTTP_PORT": str(self.port), "RNACOS_GRPC_PORT": str(free_port()), "RNACOS_HTTP_CONSOLE_PORT": str(free_port()),
            "RNACOS_CONFIG_DB_DIR": str(self.folder / "db"), "RNACOS_DATA_DIR": str(self.folder / "db"), "RNACOS_ENABLE_OPEN_API_AUTH": "true",
            "RNACOS_INIT_ADMIN_USERNAME": self.user, "RNACOS_INIT_ADMIN_PASSWORD": self.password}

    def arguments(self, **more):
        form = urllib.parse.urlencode({"username": self.user, "password": self.password})
        text = self.call("POST", "/nacos/v1/auth/login", form, {"Content-Type": "application/x-www-form-urlencoded"}.items())
        return urllib.parse.urlencode({**more, "accessToken": json.loads(text)["accessToken"]})

    def ready(self):
        return self.arguments()

    def register(self, service, host, port, weight):
        self.call("POST", "/nacos/v1/ns/instance?" + self.arguments(serviceName=service, ip=host, port=port, weight=float(weight),
                                                                   ephemeral="true"))

    def deregister(self, service, host, port, weight):
        del weight
        self.call("DELETE", "/nacos/v1/ns/instance?" + self.arguments(serviceName=service, ip=host, port=port, ephemeral="true"))

    def beat(self):
        while not self.stopping:
            time.sleep(3)
            for service, nodes in list(self.services.items()):
                for node in list(nodes):
                    try:
                        self.register(service, *node)
                    except OSError:
                        pass

    def stop(self, sig=signal.SIGTERM):
        super().stop(sig)


class Eureka(Real):
    kind = "eureka"

    def config(self):
        return {"eureka": {"host": [f"http://127.0.0.1:{self.port}"], "fetch_interval": 1}}

    def command(self):
        folder = os.environ["KS_EUREKA"]
        return ["java", "-XX:TieredStopAtLevel=1", "-Xmx256m", "-cp", f"{folder}/classes:{folder}/lib/*", "EurekaServer",
                f"--server.port={self.port}", "--server.address=127.0.0.1", "--eureka.client.register-with-eureka=false",
                "--eureka.client.fetch-registry=false", "--eureka.server.enable-self-preservation=false",
                "--eureka.server.response-cache-update-interval-ms=500", "--eureka.server.wait-time-in-ms-when-sync-empty=0",
                f"--eureka.client.service-url.defaultZone=http://127.0.0.1:{self.port}/eureka/"], {}

    def ready(self):
        return self.call("GET", "/eureka/apps", headers={"Accept": "application/json"}.items())

    def register(self, service, host, port, weight):
        self.call("POST", f"/eureka/apps/{service.upper()}", json.dumps({"instance": {
            "instanceId": f"{host}:{port}", "app": service.upper(), "hostName": host, "ipAddr": host, "status": "UP",
            "port": {"$": port, "@enabled": "true"}, "securePort": {"$": 443, "@enabled": "false"}, "metadata": {"weight": str(weight)},
            "leaseInfo": {"renewalIntervalInSecs": 100, "durationInSecs": 600},
            "dataCenterInfo": {"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"}}}))

    def deregister(self, service, host, port, weight):
        del weight
        self.call("DELETE", f"/eureka/apps/{service.upper()}/{host}:{port}")


def consul_tells_of_changes_at_once(scenario):
    consul = begin(scenario, Consul)
    consul.set("web", ONE)
    scenario.etcd.put("/apisix/upstreams/1", value(consul, "web"))
    agent = agent_with(scenario, consul.config())
    wait_nodes(agent, consul.nodes("web"))
    took = []
    for i in range(20):
        time.sleep(0.2)
        begun = time.monotonic()
        consul.set("web", [("127.0.0.5", 9000 + i, 1)])
        wait_nodes(agent, consul.nodes("web"))
        took.append(time.monotonic() - begun)
    print(f"# from Consul to clients: median {sorted(took)[10] * 1000:.1f} ms, worst {max(took) * 1000:.1f} ms")
    assert sorted(took)[10] < 2, took  # with fetch_interval it would be a minute


REAL = {"consul": Consul, "nacos": Nacos, "eureka": Eureka}

if __name__ == "__main__":
    kinds = sys.argv[1:] or list(REAL)
    discovery.KINDS = tuple(REAL[kind] for kind in kinds)
    harness.main([discovery.nodes_and_their_changes_are_shown, discovery.what_is_unknown_has_no_nodes,
                  discovery.the_last_known_nodes_are_served, *([consul_tells_of_changes_at_once] if "consul" in kinds else [])])
