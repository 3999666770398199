#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What clients of the agent see while the control plane changes under it: never a step back, never an event for nothing; and what a person is told
when certificates or rights are wrong."""
import json
import shutil

import harness
from harness import Pki, Watch, b64, wait_for


def same_bytes(scenario, agent):
    """Key by key, with revisions and versions, what the control plane has; leases are not shown."""
    ours, theirs = agent.kvs("/apisix"), scenario.etcd.kvs("/apisix")
    assert ours == theirs, (ours[:5], theirs[:5])


def new_data(scenario):
    scenario.etcd.kill()
    shutil.rmtree(scenario.etcd.data)
    scenario.etcd.start()


def load_and_events_are_the_same_to_the_byte(scenario):
    etcd = scenario.etcd
    lease = etcd.call("/v3/lease/grant", {"TTL": 600})["ID"]
    for i in range(300):
        etcd.put(f"/apisix/routes/{i}", {"uri": f"/{i}"})
    etcd.put("/apisix/leased", "x", lease=lease)
    etcd.put("/apisix/routes/7", "again")
    agent = scenario.agent()
    same_bytes(scenario, agent)
    watch = Watch(agent.port, start=1 + agent.revision()).created()
    direct = Watch(etcd.port, start=1 + agent.revision()).created()
    etcd.put("/apisix/routes/7", "once more")
    etcd.txn([], [{"request_put": {"key": b64("/apisix/a"), "value": b64("1")}},
                  {"request_delete_range": {"key": b64("/apisix/routes/1"), "range_end": b64("/apisix/routes/2")}},
                  {"request_put": {"key": b64("/apisix/b"), "value": b64("2")}}])
    etcd.delete("/apisix/leased")
    last = etcd.put("/apisix/end", "x")
    agent.wait_revision(last)
    same_bytes(scenario, agent)
    wait_for(lambda: watch.events and watch.events[-1][1] == "/apisix/end", "the events")
    wait_for(lambda: direct.events and direct.events[-1][1] == "/apisix/end", "the events")
    assert watch.events == direct.events, (watch.events, direct.events)
    assert last <= agent.revision() <= etcd.revision()
    watch.stop()
    direct.stop()
    etcd.delete_prefix("/apisix")


def a_watcher_never_sees_a_step_back(scenario):
    etcd = scenario.etcd
    etcd.put("/apisix/kept", "1")
    etcd.put("/apisix/old", "1")
    etcd.stop()
    shutil.copytree(etcd.data, scenario.folder / "past")
    etcd.start()
    agent = scenario.agent()
    watch = Watch(agent.port).created()
    for i in range(20):
        etcd.put("/apisix/new", str(i))
    watch.wait(20)
    before = agent.revision()
    etcd.stop()
    shutil.rmtree(etcd.data)
    (scenario.folder / "past").rename(etcd.data)
    etcd.start()
    agent.wait_value("/apisix/new", None, 20)
    etcd.put("/apisix/old", "2")
    agent.wait_value("/apisix/old", "2", 20)
    wait_for(lambda: watch.events[-1][:3] == ("put", "/apisix/old", "2"), "the last event")
    revisions = [event[3] for event in watch.events]
    assert revisions == sorted(revisions) and len(set(revisions)) == len(revisions), revisions
    assert [event[:2] for event in watch.events[20:]] == [("delete", "/apisix/new"), ("put", "/apisix/old")], watch.events
    assert revisions[20] == before + 1 and agent.revision() >= revisions[-1]
    assert not watch.canceled and not watch.ended
    watch.stop()


def another_control_plane_with_the_same_keys_makes_no_event(scenario):
    etcd = scenario.etcd
    etcd.delete_prefix("/apisix")
    keys = {f"/apisix/routes/{i}": json.dumps({"uri": f"/{i}"}) for i in range(50)}
    for key, value in keys.items():
        etcd.put(key, value)
    agent = scenario.agent()
    watch = Watch(agent.port).created()
    shown = agent.prefix("/apisix")
    new_data(scenario)
    # The whole at once, so that the agent never finds half of it.
    etcd.txn([], [{"request_put": {"key": b64(key), "value": b64(value)}} for key, value in keys.items()])
    agent.wait_connected()
    wait_for(lambda: not agent.alarms().get("held"), "the configuration to be there again", 20)
    etcd.put("/apisix/end", "x")
    agent.wait_value("/apisix/end", "x", 20)
    watch.wait(1)
    assert [event[1] for event in watch.events] == ["/apisix/end"], watch.events
    assert {key: value for key, value in agent.prefix("/apisix").items() if key != "/apisix/end"} == shown
    watch.stop()


def certificates_that_are_refused_are_said(scenario):
    pki, other = Pki(scenario.folder, "good"), Pki(scenario.folder, "bad")
    pki.issue("server").issue("client")
    other.issue("client")
    etcd = scenario.store("secure", kind="etcd", tls=pki)
    right = ["--upstream-cert", str(pki.cert("client")), "--upstream-key", str(pki.key("client"))]
    agent = scenario.agent(etcd.url, [*right, "--upstream-cacert", str(other.ca)], wait="listening", start_timeout="1s")
    assert "certificate" in agent.wait_alarm("upstream_tls").lower()
    assert not agent.ready()[0] and agent.status()["source"] == "none"
    agent.stop()
    agent = scenario.agent(etcd.url, [*right, "--upstream-cacert", str(pki.ca)])
    agent.wait_connected()
    assert "upstream_tls" not in agent.alarms()


def missing_rights_are_said(scenario):
    etcd = scenario.store("guarded")
    etcd.put("/apisix/a", "1")
    for name in ("root", "agent"):
        etcd.call("/v3/auth/user/add", {"name": name, "password": "secret"})
    etcd.call("/v3/auth/role/add", {"name": "root"})
    etcd.call("/v3/auth/role/add", {"name": "mirror"})
    etcd.call("/v3/auth/user/grant", {"user": "root", "role": "root"})
    etcd.call("/v3/auth/user/grant", {"user": "agent", "role": "mirror"})
    etcd.call("/v3/auth/enable", {})
    password = scenario.folder / "password"
    password.write_text("secret\n")
    password.chmod(0o600)
    agent = scenario.agent(etcd.url, ["--upstream-user", "agent", "--upstream-password-file", str(password), "--register=false"],
                           wait="listening", start_timeout="1s")
    wait_for(lambda: "does not let us read" in agent.status().get("upstream_error", agent.text()), "the reason")
    assert "secret" not in agent.text()


harness.main([load_and_events_are_the_same_to_the_byte, a_watcher_never_sees_a_step_back,
              another_control_plane_with_the_same_keys_makes_no_event, certificates_that_are_refused_are_said, missing_rights_are_said],
             both=True, needs=("etcd", "openssl"))
