#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Service discovery of dpagent: an etcd above, registries of all kinds beside it (tests/agent/registries.py). Prints TAP."""
import json
import os
import stat
import time

import harness
import registries
from discovery_lib import ONE, TWO, agent_with, begin, nodes_of, value, wait_nodes, write_config
from harness import Upstream, request, wait_for

WEB = (registries.Consul, registries.Nacos, registries.Eureka)
KINDS = (registries.Dns, *WEB)


def key_of(registry):
    return f"/apisix/upstreams/{registry.kind}"


def all_of(scenario, kinds, service="web", nodes=()):
    """Registries of these kinds; each has an upstream for the service."""
    made = [begin(scenario, kind) for kind in kinds]
    for registry in made:
        if nodes:
            registry.set(service, nodes)
        scenario.etcd.put(key_of(registry), value(registry, service))
    return made


def wait_all(agent, made, service="web", seconds=15):
    for registry in made:
        wait_nodes(agent, registry.nodes(service), key_of(registry), seconds)


# ---- What holds for each registry; all are asked by one agent ----


def nodes_and_their_changes_are_shown(scenario):
    made = all_of(scenario, KINDS, nodes=ONE)
    agent = agent_with(scenario, *(registry.config() for registry in made))
    wait_all(agent, made)
    # Beside the nodes the object is the one from above, in its order.
    for registry in made:
        assert len(nodes_of(agent, key_of(registry))) == 1
        assert list(json.loads(agent.get(key_of(registry)))) == [*json.loads(scenario.etcd.get(key_of(registry))), "nodes"]
    watch = harness.Watch(agent.port).created()
    revision = agent.revision()
    for registry in made:
        registry.set("web", TWO)
    wait_all(agent, made)
    events = watch.wait(len(made))
    assert sorted(event[1] for event in events) == sorted(map(key_of, made)), events
    assert [event[3] for event in events] == sorted(event[3] for event in events) and events[0][3] == revision + 1, events
    # Above nothing has changed, and its new numbers go on from ours.
    assert not any("nodes" in json.loads(scenario.etcd.get(key_of(registry))) for registry in made)
    scenario.etcd.put("/apisix/routes/1", {"uri": "/"})
    agent.wait_value("/apisix/routes/1", {"uri": "/"})
    assert agent.revision() > revision + len(made)
    for registry in made:
        registry.set("web", [])
    for registry in made:
        wait_nodes(agent, [], key_of(registry))
    watch.stop()


def what_is_unknown_has_no_nodes(scenario):
    made = all_of(scenario, KINDS, service="none")
    for registry in made:
        registry.set("web", ONE)
    agent = agent_with(scenario, *(registry.config() for registry in made))
    for registry in made:
        wait_nodes(agent, [], key_of(registry))
        scenario.etcd.put(key_of(registry), value(registry, "web"))
    wait_all(agent, made)


def the_last_known_nodes_are_served(scenario):
    made = all_of(scenario, KINDS, nodes=TWO)
    agent = agent_with(scenario, *(registry.config() for registry in made))
    wait_all(agent, made)
    saved = agent.data / "discovery.json"
    wait_for(lambda: saved.exists() and len(json.loads(saved.read_text())["services"]) == len(made), "the file of nodes")
    mode = stat.S_IMODE(os.stat(saved).st_mode)
    assert mode == 0o600, oct(mode)
    for registry in made:
        registry.stop()

    def failing():
        wait_for(lambda: [s["state"] for s in agent.status()["discovery"]["found"]] == ["failing"] * len(made), "all to fail", 30)
        assert f"({len(made)} of {len(made)} services)" in agent.wait_alarm("discovery"), agent.alarms()
        wait_all(agent, made)
    failing()
    assert agent.ready()[0]
    # Also after a restart meanwhile, clean or not.
    for sig in (harness.signal.SIGKILL, harness.signal.SIGTERM):
        agent.restart(sig)
        for registry in made:
            assert nodes_of(agent, key_of(registry)) == registry.nodes("web"), nodes_of(agent, key_of(registry))
    failing()
    for registry in made:
        registry.start()
        registry.set("web", ONE)
    wait_all(agent, made, seconds=40)
    agent.wait_alarm("discovery", on=False)
    services = agent.status()["discovery"]["found"]
    assert [s["state"] for s in services] == ["ok"] * len(made), services


def a_service_is_asked_for_once_and_only_while_it_is_wanted(scenario):
    made = [begin(scenario, kind) for kind in KINDS]
    agent = agent_with(scenario, *(registry.config() for registry in made))
    for registry in made:
        registry.set("web", ONE)
    time.sleep(0.3)
    assert not any(registry.asked("web") for registry in made)
    begun = time.monotonic()
    for registry in made:
        for i in range(5):
            scenario.etcd.put(f"/apisix/routes/{registry.kind}{i}", {"uri": "/", "upstream": value(registry, "web")})
    for registry in made:
        for i in range(5):
            wait_nodes(agent, registry.nodes("web"), f"/apisix/routes/{registry.kind}{i}")
    services = agent.status()["discovery"]["found"]
    assert [s["uses"] for s in services] == [5] * len(made), services
    time.sleep(2)
    # SRV and A at first, then one each second; or a query and one that waits; or one for each second.
    counts, most = [registry.asked("web") for registry in made], 4 + 1.2 * (time.monotonic() - begun)
    assert all(count <= most for count in counts), (counts, most)
    scenario.etcd.delete_prefix("/apisix/routes/")
    wait_for(lambda: not agent.status()["discovery"]["found"], "no service to be wanted")
    time.sleep(0.3)
    before = [registry.asked("web") for registry in made]
    for registry in made:
        registry.set("web", TWO)
    time.sleep(1.5)
    assert [registry.asked("web") for registry in made] == before, before
    assert "discovery" not in agent.alarms()


def nonsense_from_a_registry_changes_nothing(scenario):
    made = all_of(scenario, WEB, nodes=ONE)
    agent = agent_with(scenario, *(registry.config() for registry in made))
    wait_all(agent, made)
    bad = {"consul": [{"Service": {"Address": "a b", "Port": 99999999}}],
           "nacos": {"hosts": [{"ip": "../..", "port": 0}]},
           "eureka": {"applications": {"application": [{"name": "WEB", "instance": [
               {"status": "UP", "ipAddr": "", "port": {"$": -1, "@enabled": "true"}}]}]}}}
    for what in ((404, b""), (301, b"", [("Location", "http://127.0.0.1:1/")]), (200, None), (200, b" " * (33 << 20))):
        for registry in made:
            with registry.change:
                registry.fault = what if what[1] is not None else (200, bad[registry.kind])
                registry.change.notify_all()
        wait_for(lambda: [s["state"] for s in agent.status()["discovery"]["found"]] == ["failing"] * len(made), f"{what[0]} to be a failure", 20)
        wait_all(agent, made, seconds=0)
        for registry in made:
            registry.fault = None
        agent.wait_alarm("discovery", on=False, seconds=20)
    assert agent.memory() < 400 << 20, agent.memory()


# ---- The agent ----


def all_places_of_upstreams_have_nodes(scenario):
    consul = begin(scenario, registries.Consul)
    consul.set("web", ONE)
    inline = {"upstream": value(consul, "web")}
    split = {"uri": "/", "plugins": {"traffic-split": {"rules": [{"weighted_upstreams": [{**inline, "weight": 1}]}]}}}
    for key, body in (("upstreams/1", value(consul, "web")), ("routes/1", {"uri": "/", **inline}), ("services/1", inline),
                      ("stream_routes/1", {"server_port": 1, **inline}), ("routes/2", split)):
        scenario.etcd.put(f"/apisix/{key}", body)
    agent = agent_with(scenario, consul.config())
    for key in ("upstreams/1", "routes/1", "services/1", "stream_routes/1"):
        wait_nodes(agent, consul.nodes("web"), f"/apisix/{key}")
    found = json.loads(agent.get("/apisix/routes/2"))["plugins"]["traffic-split"]["rules"][0]["weighted_upstreams"][0]["upstream"]
    assert found["nodes"] == consul.nodes("web"), found


def nodes_are_not_written_upstream(scenario):
    consul = begin(scenario, registries.Consul)
    consul.set("web", ONE)
    scenario.etcd.put("/apisix/upstreams/1", value(consul, "web"))
    path = write_config(scenario, consul.config())
    agent = scenario.agent(args=[f"--discovery={path}", "--forward-writes"])
    wait_nodes(agent, consul.nodes("web"))
    # As an Admin API does it: read, change, write.
    found = json.loads(agent.get("/apisix/upstreams/1"))
    agent.put("/apisix/upstreams/1", {**found, "desc": "changed"})
    assert json.loads(scenario.etcd.get("/apisix/upstreams/1")) == value(consul, "web", desc="changed")
    served = json.loads(agent.get("/apisix/upstreams/1"))
    assert served["desc"] == "changed" and served["nodes"] == consul.nodes("web"), served


def a_damaged_file_of_nodes_is_no_obstacle(scenario):
    consul = begin(scenario, registries.Consul)
    consul.set("web", ONE)
    scenario.etcd.put("/apisix/upstreams/1", value(consul, "web"))
    agent = agent_with(scenario, consul.config())
    wait_nodes(agent, consul.nodes("web"))
    agent.stop()
    (agent.data / "discovery.json").write_text('{"format":1,"services":[{"type":"consul","service_name":"web","nodes":[{"host":"a b"}]}]}')
    agent.start()
    wait_nodes(agent, consul.nodes("web"))
    assert "last known nodes cannot be read" in agent.text()


def mistakes_in_the_file_end_the_start(scenario):
    path = scenario.folder / "bad.yml"
    path.write_text("discovery:\n  consul:\n    servers: ['http://u:hunter2@127.0.0.1:8500']\n    tokne: x\n")
    code, _, errors = harness.run_program([f"--upstream={scenario.etcd.url}", f"--data-dir={scenario.folder / 'bad.data'}",
                                           f"--discovery={path}", "--listen-client-urls=http://127.0.0.1:0"])
    assert code != 0 and "bad.yml:4: consul: there is no key" in errors and "hunter2" not in errors, errors


def the_gateway_follows_the_registry(scenario):
    consul = begin(scenario, registries.Consul)
    first, second = scenario.keep(Upstream()), scenario.keep(Upstream())
    consul.set("web", [("127.0.0.1", first.port, 1)])
    scenario.etcd.put("/apisix/routes/1", {"uri": "/*", "upstream": value(consul, "web")})
    agent = agent_with(scenario, consul.config())
    wait_nodes(agent, consul.nodes("web"), "/apisix/routes/1")
    proxy = scenario.proxy(agent.url)

    def says(status, upstream=None):
        wait_for(lambda: (answer := request(proxy.port, "/x")).status == status and (not upstream or answer.json()["port"] == upstream.port),
                 f"{status} of {upstream and upstream.port}")
    says(200, first)
    consul.set("web", [("127.0.0.1", second.port, 1)])
    says(200, second)
    consul.set("web", [])
    says(503)
    consul.set("web", [("127.0.0.1", first.port, 1)])
    says(200, first)
    consul.stop()
    agent.restart(harness.signal.SIGKILL)
    says(200, first)


if __name__ == "__main__":
    harness.main([nodes_and_their_changes_are_shown, what_is_unknown_has_no_nodes, the_last_known_nodes_are_served,
                  a_service_is_asked_for_once_and_only_while_it_is_wanted, nonsense_from_a_registry_changes_nothing,
                  all_places_of_upstreams_have_nodes, nodes_are_not_written_upstream, a_damaged_file_of_nodes_is_no_obstacle, mistakes_in_the_file_end_the_start,
                  the_gateway_follows_the_registry], needs=("etcd", "dnsmasq", "nginx"))
