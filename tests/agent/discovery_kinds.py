#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What only one kind of registry has: service discovery of dpagent (tests/agent/registries.py). Prints TAP."""
import json
import os
import time

import registries
import harness
from discovery_lib import ONE, TWO, UPSTREAM, agent_with, begin, folder, nodes_of, value, wait_nodes, write_config
from harness import wait_for

# ---- DNS ----


def srv_records_give_ports_weights_and_priorities(scenario):
    dns = begin(scenario, registries.Dns)
    dns.stop()
    dns.srv = ["_http._tcp.test,one.test,8001,10,60", "_http._tcp.test,two.test,8002,20,0", "_gone.test,,0,0,0"]
    dns.start()
    dns.host("one.test", "127.0.0.5", "127.0.0.6", "127.0.0.7")
    dns.host("two.test", "127.0.0.8")
    scenario.etcd.put(UPSTREAM, value(dns, "_http._tcp.test"))
    scenario.etcd.put("/apisix/upstreams/2", value(dns, "_http._tcp.test:99"))
    agent = agent_with(scenario, dns.config())
    wait_nodes(agent, [*({"host": f"127.0.0.{i}", "port": 8001, "weight": 20, "priority": -10} for i in (5, 6, 7)),
                       {"host": "127.0.0.8", "port": 8002, "weight": 1, "priority": -20}])
    wait_for(lambda: [n["port"] for n in nodes_of(agent, "/apisix/upstreams/2") or []] == [99] * 4, "the port of the name")
    # The targets' addresses change, and one of them has none any more.
    dns.host("one.test", "127.0.0.9")
    dns.host("two.test")
    wait_nodes(agent, [{"host": "127.0.0.9", "port": 8001, "weight": 60, "priority": -10}])


def addresses_of_both_families(scenario):
    dns = begin(scenario, registries.Dns)
    dns.host("six.test", "fd00::1", "fd00::2")
    dns.host("both.test", "fd00::1", "127.0.0.5")
    for i, name in enumerate(("six.test:80", "both.test")):
        scenario.etcd.put(f"/apisix/upstreams/{i}", value(dns, name))
    section = dns.config()
    agent = agent_with(scenario, section)
    wait_nodes(agent, [{"host": f"[fd00::{i}]", "port": 80, "weight": 1} for i in (1, 2)], "/apisix/upstreams/0")
    wait_nodes(agent, [{"host": "127.0.0.5", "weight": 1}], "/apisix/upstreams/1")
    agent.stop()
    section["dns"]["order"] = ["AAAA", "A"]
    wait_nodes(agent_with(scenario, section), [{"host": "[fd00::1]", "weight": 1}], "/apisix/upstreams/1")


def names_are_asked_for_again_when_their_ttl_is_over(scenario):
    dns = begin(scenario, registries.Dns)
    dns.stop()
    dns.ttl = 3
    dns.start()
    dns.host("web.test", "127.0.0.5")
    scenario.etcd.put(UPSTREAM, value(dns, "web.test"))
    agent = agent_with(scenario, dns.config())
    wait_nodes(agent, dns.nodes("web.test"))
    begun, before = time.monotonic(), dns.asked("web.test")
    wait_for(lambda: dns.asked("web.test") > before, "the next question", 10)
    took = time.monotonic() - begun  # a busy machine sees the nodes late
    assert 1.2 < took < 8, took


def servers_that_refuse_are_failures(scenario):
    dns = begin(scenario, registries.Dns)
    scenario.etcd.put(UPSTREAM, value(dns, "web.other"))  # not below test.: dnsmasq refuses
    agent = agent_with(scenario, dns.config())
    assert "web.other" in agent.wait_alarm("discovery")
    assert nodes_of(agent) is None


# ---- Consul ----


def consul_tells_of_changes_at_once(scenario):
    consul = begin(scenario, registries.Consul)
    consul.set("web", ONE)
    scenario.etcd.put(UPSTREAM, value(consul, "web"))
    agent = agent_with(scenario, consul.config(fetch_interval=60))
    wait_nodes(agent, consul.nodes("web"))
    took = []
    for i in range(20):
        wait_for(lambda: consul.requests[-1][2].get("index") == str(consul.version), "a query that waits")
        begun = time.monotonic()
        consul.set("web", [("127.0.0.5", 9000 + i, 1)])
        wait_nodes(agent, consul.nodes("web"))
        took.append(time.monotonic() - begun)
    print(f"# from the registry to clients: median {sorted(took)[10] * 1000:.1f} ms, worst {max(took) * 1000:.1f} ms")
    assert sorted(took)[10] < 0.5, took
    # An index that goes back, as that of a restored cluster: it is asked without one.
    count = len(consul.requests)
    with consul.change:
        consul.version = 3
        consul.services["web"] = TWO
        consul.change.notify_all()
    wait_nodes(agent, consul.nodes("web"))
    wait_for(lambda: any("index" not in request[2] for request in consul.requests[count:]), "a query without an index")


def consul_shows_its_token_and_nobody_else_does(scenario):
    consul = begin(scenario, registries.Consul)
    consul.token = "s3cr3t-token"
    consul.set("web", ONE)
    scenario.etcd.put(UPSTREAM, value(consul, "web"))
    path = write_config(scenario, {"consul": {**consul.config()["consul"], "token": "${{CONSUL_TOKEN}}"}})
    agent = scenario.agent(args=[f"--discovery={path}"], env={"CONSUL_TOKEN": consul.token})
    wait_nodes(agent, consul.nodes("web"))
    agent.stop()
    wrong = scenario.agent(args=[f"--discovery={path}"], env={"CONSUL_TOKEN": "wr0ng-token"})
    assert "403" in wrong.wait_alarm("discovery")
    assert nodes_of(wrong) is None
    shown = agent.text() + wrong.text() + json.dumps(wrong.status()) + wrong.metrics()
    assert "s3cr3t" not in shown and "wr0ng" not in shown


def certificates_are_verified(scenario):
    pki = harness.Pki(folder(scenario)).issue("server")
    consul = begin(scenario, registries.Consul, tls=pki)
    consul.set("web", ONE)
    scenario.etcd.put(UPSTREAM, value(consul, "web"))
    wrong = agent_with(scenario, consul.config())
    assert "certificate" in wrong.wait_alarm("discovery").lower(), wrong.alarms()
    assert nodes_of(wrong) is None
    wrong.stop()
    wait_nodes(agent_with(scenario, consul.config(ca_file=str(pki.ca))), consul.nodes("web"))


def consul_has_other_servers(scenario):
    first, second = begin(scenario, registries.Consul), scenario.keep(registries.Consul(folder(scenario)))
    first.set("web", ONE)
    second.set("web", TWO)
    first.stop()
    scenario.etcd.put(UPSTREAM, value(first, "web"))
    agent = agent_with(scenario, {"consul": {"servers": [first.url(), second.url()]}})
    wait_nodes(agent, second.nodes("web"))
    assert "discovery" not in agent.alarms()
    second.stop()
    first.start()
    wait_nodes(agent, first.nodes("web"))
    assert "discovery" not in agent.alarms()


def consul_has_a_default_service(scenario):
    consul = begin(scenario, registries.Consul)
    scenario.etcd.put(UPSTREAM, value(consul, "none"))
    agent = agent_with(scenario, consul.config(default_service={"host": "127.0.0.9", "port": 80, "metadata": {"weight": 4}}))
    wait_nodes(agent, [{"host": "127.0.0.9", "port": 80, "weight": 4}])


def many_services_do_not_take_all_connections(scenario):
    consul = begin(scenario, registries.Consul)
    for i in range(150):
        consul.services[f"web{i}"] = [("127.0.0.5", 1000 + i, 1)]
    for i in range(150):
        scenario.etcd.put(f"/apisix/upstreams/{i}", value(consul, f"web{i}"))
    agent = agent_with(scenario, consul.config(fetch_interval=1))
    for i in range(150):
        wait_nodes(agent, consul.nodes(f"web{i}"), f"/apisix/upstreams/{i}")
    with consul.change:
        for i in range(150):
            consul.services[f"web{i}"] = [("127.0.0.6", 1000 + i, 1)]
        consul.version += 1
        consul.change.notify_all()
    for i in range(150):
        wait_nodes(agent, consul.nodes(f"web{i}"), f"/apisix/upstreams/{i}")
    descriptors = len(os.listdir(f"/proc/{agent.pid}/fd"))
    assert descriptors < 200, descriptors


# ---- Nacos, Eureka ----


def nacos_logs_in_and_again(scenario):
    nacos = begin(scenario, registries.Nacos, user="nacos:p4ss")
    nacos.set("web", ONE)
    nacos.set("n1/g1/web", TWO)
    scenario.etcd.put(UPSTREAM, value(nacos, "web"))
    scenario.etcd.put("/apisix/upstreams/2", value(nacos, "web", discovery_args={"namespace_id": "n1", "group_name": "g1"}))
    agent = agent_with(scenario, nacos.config())
    wait_nodes(agent, nacos.nodes("web"))
    wait_nodes(agent, nacos.nodes("n1/g1/web"), "/apisix/upstreams/2")
    assert nacos.logins == 1, nacos.logins
    nacos.tokens = []  # a restart of the server: what it gave out counts no more
    nacos.set("web", TWO)
    wait_nodes(agent, nacos.nodes("web"))
    assert nacos.logins == 2 and "discovery" not in agent.alarms(), nacos.logins
    nacos.user, nacos.tokens = "nacos:other", []
    assert "login" in agent.wait_alarm("discovery", seconds=20)
    assert nodes_of(agent) == nacos.nodes("web")
    shown = agent.text() + json.dumps(agent.status())
    assert "p4ss" not in shown and "token1" not in shown


def eureka_takes_user_and_password_from_the_url(scenario):
    eureka = begin(scenario, registries.Eureka, user="us%40er:p4ss")
    eureka.set("web", ONE)
    scenario.etcd.put(UPSTREAM, value(eureka, "WEB"))
    agent = agent_with(scenario, eureka.config())
    wait_nodes(agent, eureka.nodes("web"))
    assert eureka.requests[-1][3]["Authorization"] == "Basic dXNAZXI6cDRzcw==", eureka.requests[-1]
    assert "p4ss" not in agent.text() + json.dumps(agent.status())


if __name__ == "__main__":
    harness.main([srv_records_give_ports_weights_and_priorities, addresses_of_both_families,
                  names_are_asked_for_again_when_their_ttl_is_over, servers_that_refuse_are_failures,
                  consul_tells_of_changes_at_once, consul_shows_its_token_and_nobody_else_does, certificates_are_verified, consul_has_other_servers,
                  consul_has_a_default_service, many_services_do_not_take_all_connections, nacos_logs_in_and_again,
                  eureka_takes_user_and_password_from_the_url], needs=("etcd", "dnsmasq"))
