# SPDX-License-Identifier: Apache-2.0
"""What the tests of discovery share."""
import json

from harness import wait_for

UPSTREAM = "/apisix/upstreams/1"


def value(registry, service, **more):
    return {"type": "roundrobin", "service_name": registry.name(service), "discovery_type": registry.kind, **more}


def write_config(scenario, *sections):
    """-> the path of a file with these sections; JSON is YAML, too."""
    path = scenario.folder / f"{scenario.name('discovery')}.yml"
    path.write_text(json.dumps({"discovery": {name: body for section in sections for name, body in section.items()}}))
    return path


def agent_with(scenario, *sections, **more):
    return scenario.agent(args=[f"--discovery={write_config(scenario, *sections)}"], **more)


def nodes_of(agent, key=UPSTREAM):
    text = agent.get(key)
    found = json.loads(text) if text else {}
    return found.get("upstream", found).get("nodes")


def wait_nodes(agent, nodes, key=UPSTREAM, seconds=15):
    wait_for(lambda: nodes_of(agent, key) == nodes, f"{key} to have {nodes}, not {nodes_of(agent, key)}", seconds)



def folder(scenario):
    path = scenario.folder / scenario.name("registry")
    path.mkdir()
    return path


def begin(scenario, kind, **more):
    """A new registry of this kind, and an etcd without keys."""
    scenario.etcd.delete_prefix("/apisix")
    scenario.etcd.put("/apisix/routes/", "init_dir")
    return scenario.keep(kind(folder(scenario), **more))


ONE, TWO = [("127.0.0.5", 8001, 1)], [("127.0.0.5", 8001, 1), ("127.0.0.6", 8002, 3)]
