#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writes through the agent: refused, or passed to the control plane; with an etcd and with a kineshim above."""
import base64
import http.client
import json
import shutil
import signal
import threading
import time

import harness
from harness import b64, range_end, wait_for


def text(value):
    return base64.b64decode(value).decode()


def compare(key, target, value, result="EQUAL", end=None):
    field = {"VERSION": "version", "CREATE": "create_revision", "MOD": "mod_revision", "VALUE": "value", "LEASE": "lease"}[target]
    return {"key": b64(key), "target": target, "result": result, field: b64(value) if target == "VALUE" else value,
            **({"range_end": b64(end)} if end else {})}


def put_op(key, value, **more):
    return {"request_put": {"key": b64(key), "value": b64(value), **more}}


def range_op(key, **more):
    return {"request_range": {"key": b64(key), **more}}


def refused(client, path, body, code, part):
    status, answer = client.post(path, body)
    assert status != 200, answer
    assert answer["code"] == code and part in answer["message"], answer


def numbers(client, key):
    """(create_revision, mod_revision, version) of the key, as served"""
    kv = client.range(key)["kvs"][0]
    return int(kv["create_revision"]), int(kv["mod_revision"]), int(kv["version"])


def new_history(scenario, agent, keys):
    """The control plane is another one, with other revisions: from now on the agent's own differ from its."""
    scenario.etcd.kill()
    shutil.rmtree(scenario.etcd.data)
    scenario.etcd.start()
    for i in range(7):
        scenario.etcd.put("/other", str(i))
    for key, value in keys.items():
        scenario.etcd.put(key, value)
    agent.wait_connected()
    for key, value in keys.items():
        agent.wait_value(key, value, 20)
    wait_for(lambda: agent.status()["upstream_revision"] != agent.status()["revision"], "another offset")


def writes_are_refused_unless_told_otherwise(scenario):
    scenario.etcd.put("/apisix/a", "1")
    agent = scenario.agent()
    key = b64("/apisix/a")
    advice = "--forward-writes"
    refused(agent, "/v3/kv/put", {"key": key, "value": key}, 9, advice)
    refused(agent, "/v3/kv/deleterange", {"key": key}, 9, advice)
    refused(agent, "/v3/kv/txn", {"success": [put_op("/apisix/a", "2")]}, 9, advice)
    refused(agent, "/v3/kv/compaction", {"revision": 1}, 9, advice)
    refused(agent, "/v3/lease/grant", {"TTL": 60}, 9, advice)
    refused(agent, "/v3/lease/revoke", {"ID": 1}, 9, advice)
    refused(agent, "/v3/auth/user/add", {"name": "u", "password": "p"}, 9, advice)
    refused(agent, "/v3/maintenance/alarm", {"action": "ACTIVATE", "alarm": "NOSPACE"}, 9, advice)
    assert agent.get("/apisix/a") == "1"
    assert agent.call("/v3/kv/txn", {"success": [range_op("/apisix/a")]})["succeeded"]
    assert not agent.call("/v3/lease/leases", {}).get("leases")


def written_is_read_at_once(scenario):
    scenario.etcd.put("/apisix/a", "1")
    agent = scenario.agent(args=["--forward-writes"])
    for i in range(50):
        revision = agent.put("/apisix/a", f"v{i}")
        assert agent.get("/apisix/a") == f"v{i}", i
        assert scenario.etcd.get("/apisix/a") == f"v{i}"
        assert numbers(agent, "/apisix/a") == numbers(scenario.etcd, "/apisix/a")
        assert numbers(agent, "/apisix/a")[1] == revision
    answer = agent.call("/v3/kv/put", {"key": b64("/apisix/a"), "value": b64("w"), "prev_kv": True})
    assert text(answer["prev_kv"]["value"]) == "v49" and int(answer["prev_kv"]["mod_revision"]) == revision, answer
    answer = agent.call("/v3/kv/deleterange", {"key": b64("/apisix/"), "range_end": b64("/apisix0"), "prev_kv": True})
    assert answer["deleted"] == "1" and text(answer["prev_kvs"][0]["value"]) == "w", answer
    assert agent.get("/apisix/a") is None
    assert "deleted" not in agent.call("/v3/kv/deleterange", {"key": b64("/apisix/a")})
    assert agent.status()["forwarded"] == 53, agent.status()


def keys_outside_of_the_prefix_are_not_passed(scenario):
    agent = scenario.agent(args=["--forward-writes"], wait="listening")
    scenario.etcd.put("/other", "1")
    part = "only writes to keys under"
    refused(agent, "/v3/kv/put", {"key": b64("/other"), "value": b64("2")}, 7, part)
    refused(agent, "/v3/kv/deleterange", {"key": b64("/"), "range_end": b64("0")}, 7, part)
    refused(agent, "/v3/kv/deleterange", {"key": b64("/apisix"), "range_end": b64("\0")}, 7, part)
    refused(agent, "/v3/kv/txn", {"success": [put_op("/apisix/a", "1"), put_op("/other", "2")]}, 7, part)
    refused(agent, "/v3/kv/txn", {"compare": [compare("/other", "VERSION", 1)], "success": [put_op("/apisix/a", "1")]}, 7, part)
    refused(agent, "/v3/kv/txn", {"success": [put_op("/apisix/a", "1")],
                                  "failure": [range_op("/", range_end=b64("0"))]}, 7, part)
    refused(agent, "/v3/kv/txn", {"success": [{"request_txn": {"success": [put_op("/other", "2")]}}]}, 7, part)
    assert scenario.etcd.get("/other") == "1" and scenario.etcd.get("/apisix/a") is None
    refused(agent, "/v3/auth/role/add", {"name": "r"}, 9, "control plane")


def transactions_come_back_whole(scenario):
    agent = scenario.agent(args=["--forward-writes"])
    agent.put("/apisix/a", "1")
    body = {"compare": [compare("/apisix/a", "VERSION", 1), compare("/apisix/none", "CREATE", 0)],
            "success": [put_op("/apisix/b", "x", prev_kv=True), range_op("/apisix/a"), range_op("/apisix/a", keys_only=True),
                        {"request_txn": {"compare": [compare("/apisix/a", "VALUE", "2")],
                                         "success": [put_op("/apisix/c", "no")],
                                         "failure": [put_op("/apisix/c", "yes"), range_op("/apisix/c")]}},
                        {"request_delete_range": {"key": b64("/apisix/a"), "prev_kv": True}}]}
    answer = agent.call("/v3/kv/txn", body)
    revision = int(answer["header"]["revision"])
    responses = answer["responses"]
    assert answer["succeeded"] and len(responses) == 5, answer
    assert responses[0]["response_put"]["header"]["revision"] == str(revision), answer
    assert text(responses[1]["response_range"]["kvs"][0]["value"]) == "1", answer
    assert "value" not in responses[2]["response_range"]["kvs"][0], answer
    inner = responses[3]["response_txn"]
    assert not inner.get("succeeded") and text(inner["responses"][1]["response_range"]["kvs"][0]["value"]) == "yes", answer
    assert responses[4]["response_delete_range"]["deleted"] == "1", answer
    assert agent.get("/apisix/a") is None and agent.get("/apisix/c") == "yes" and agent.revision() == revision
    answer = agent.call("/v3/kv/txn", body)
    assert not answer.get("succeeded") and not answer.get("responses"), answer
    refused(agent, "/v3/kv/txn", {"success": [put_op("/apisix/d", "", ignore_value=True)]}, 3, "key not found")


def leases_are_the_control_planes(scenario):
    agent = scenario.agent(args=["--forward-writes"])
    granted = agent.call("/v3/lease/grant", {"TTL": 60})
    assert granted["TTL"] == "60", granted
    agent.put("/apisix/live", "1", lease=granted["ID"])
    assert agent.get("/apisix/live") == "1"
    lives = agent.call("/v3/lease/timetolive", {"ID": granted["ID"], "keys": True})
    assert lives["grantedTTL"] == "60" and 50 <= int(lives["TTL"]) <= 60, lives
    assert [text(key) for key in lives["keys"]] == ["/apisix/live"], lives
    assert granted["ID"] in [lease["ID"] for lease in agent.call("/v3/lease/leases", {})["leases"]]
    assert scenario.etcd.call("/v3/lease/timetolive", {"ID": granted["ID"]})["grantedTTL"] == "60"
    for _ in range(3):
        kept = agent.call("/v3/lease/keepalive", {"ID": granted["ID"]})["result"]
        assert kept["TTL"] == "60" and kept["ID"] == granted["ID"], kept
    assert agent.call("/v3/lease/keepalive", {"ID": "12345"})["result"].get("TTL", "0") == "0"
    assert agent.call("/v3/lease/timetolive", {"ID": "12345"})["TTL"] == "-1"
    refused(agent, "/v3/lease/grant", {"TTL": 60, "ID": granted["ID"]}, 9, "lease already exists")
    agent.call("/v3/lease/revoke", {"ID": granted["ID"]})
    assert agent.get("/apisix/live") is None
    refused(agent, "/v3/lease/revoke", {"ID": granted["ID"]}, 5, "lease not found")
    refused(agent, "/v3/kv/put", {"key": b64("/apisix/live"), "value": "", "lease": granted["ID"]}, 5, "lease not found")
    short = agent.call("/v3/lease/grant", {"TTL": 2})
    agent.put("/apisix/short", "1", lease=short["ID"])
    agent.wait_value("/apisix/short", None, 15)


def compares_keep_their_meaning_under_an_offset(scenario):
    scenario.etcd.put("/apisix/a", "1")
    scenario.etcd.put("/apisix/a", "2")
    agent = scenario.agent(args=["--forward-writes"])
    new_history(scenario, agent, {"/apisix/a": "2", "/apisix/b": "1"})
    create, mod, version = numbers(agent, "/apisix/a")
    assert (create, mod, version) != numbers(scenario.etcd, "/apisix/a")

    def holds(*compares):
        answer = agent.txn(compares, [put_op("/apisix/seen", "yes")], [put_op("/apisix/seen", "no")])
        return answer.get("succeeded", False)

    for target, number in (("MOD", mod), ("CREATE", create), ("VERSION", version)):
        for result, wanted in (("EQUAL", (True, False, False)), ("NOT_EQUAL", (False, True, True)),
                               ("GREATER", (False, True, False)), ("LESS", (False, False, True))):
            got = holds(compare("/apisix/a", target, number, result)), \
                holds(compare("/apisix/a", target, number - 1, result)), \
                holds(compare("/apisix/a", target, number + 1, result))
            assert got == wanted or number == 1, (target, number, result, got)
    assert holds(compare("/apisix/none", "CREATE", 0), compare("/apisix/none", "MOD", 0), compare("/apisix/none", "VERSION", 0))
    assert not holds(compare("/apisix/none", "MOD", mod))
    assert holds(compare("/apisix/a", "VALUE", "2")) and not holds(compare("/apisix/a", "VALUE", "3"))
    # What an answer says of revisions can be compared with.
    revision = agent.put("/apisix/a", "3")
    assert numbers(agent, "/apisix/a") == (create, revision, version + 1)
    answer = agent.txn([compare("/apisix/a", "MOD", revision)], [put_op("/apisix/a", "4", prev_kv=True), range_op("/apisix/a")])
    assert answer["succeeded"], answer
    after = int(answer["header"]["revision"])
    shown = answer["responses"][1]["response_range"]["kvs"][0]
    assert (int(shown["create_revision"]), int(shown["mod_revision"]), int(shown["version"])) == (create, after, version + 2)
    assert int(answer["responses"][0]["response_put"]["prev_kv"]["mod_revision"]) == revision, answer
    assert numbers(agent, "/apisix/a") == (create, after, version + 2)
    assert not agent.txn([compare("/apisix/a", "MOD", revision)], [put_op("/apisix/a", "5")]).get("succeeded")
    refused(agent, "/v3/kv/txn", {"compare": [compare("/apisix/", "MOD", revision, "LESS", "/apisix0")],
                                  "success": [put_op("/apisix/a", "5")]}, 9, "revisions of a range")
    # One that is only asked about zero is fine.
    assert agent.txn([compare("/apisix/none/", "CREATE", 0, "EQUAL", "/apisix/none0")], [put_op("/apisix/a", "6")])["succeeded"]
    assert agent.get("/apisix/a") == "6"
    agent.compact(agent.revision())


def keys_that_are_served_otherwise_are_compared_as_served(scenario):
    scenario.etcd.put("/apisix/a", "theirs")
    overlay = scenario.folder / "overlay.json"
    overlay.write_text(json.dumps({"/apisix/a": "mine", "/apisix/only": "mine"}))
    agent = scenario.agent(args=["--forward-writes", f"--overlay={overlay}"])
    assert agent.get("/apisix/a") == "mine"

    def holds(*compares):
        return agent.txn(compares, [put_op("/apisix/seen", "yes")]).get("succeeded", False)

    assert holds(compare("/apisix/a", "VALUE", "mine")) and not holds(compare("/apisix/a", "VALUE", "theirs"))
    assert holds(compare("/apisix/a", "VALUE", "theirs", "NOT_EQUAL")) and not holds(compare("/apisix/a", "VALUE", "mine", "NOT_EQUAL"))
    assert holds(compare("/apisix/a", "MOD", numbers(agent, "/apisix/a")[1]))
    # What is written goes up, and is still served as the overlay has it.
    answer = agent.txn([], [put_op("/apisix/a", "new"), range_op("/apisix/a")])
    assert scenario.etcd.get("/apisix/a") == "new" and agent.get("/apisix/a") == "mine"
    assert text(answer["responses"][1]["response_range"]["kvs"][0]["value"]) == "mine", answer
    assert holds(compare("/apisix/a", "VALUE", "mine"))
    assert agent.put("/apisix/only", "theirs") <= agent.revision()
    assert scenario.etcd.get("/apisix/only") == "theirs" and agent.get("/apisix/only") == "mine"
    overlay.write_text("{}")
    agent.wait_value("/apisix/only", "theirs")
    agent.wait_value("/apisix/a", "new")
    scenario.etcd.delete_prefix("/apisix")


def counters_lose_nothing(scenario):
    scenario.etcd.put("/apisix/count", "0")
    agent = scenario.agent(args=["--forward-writes"])
    new_history(scenario, agent, {"/apisix/count": "0"})
    failures = []

    def work():
        try:
            client, done = harness.Client(agent.port), 0
            while done < 25:
                kv = client.range("/apisix/count")["kvs"][0]
                value = str(int(text(kv["value"])) + 1)
                done += client.txn([compare("/apisix/count", "MOD", int(kv["mod_revision"]))],
                                   [put_op("/apisix/count", value)]).get("succeeded", False)
        except Exception as e:
            failures.append(e)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    assert agent.get("/apisix/count") == "100" == scenario.etcd.get("/apisix/count")


def locks_and_elections_work(scenario):
    agent = scenario.agent(args=["--forward-writes"])
    new_history(scenario, agent, {"/apisix/a": "1"})
    leases = [agent.call("/v3/lease/grant", {"TTL": 60})["ID"] for _ in range(3)]
    name = b64("/apisix/lock")
    first = agent.call("/v3/lock/lock", {"name": name, "lease": leases[0]})
    got = []
    thread = threading.Thread(target=lambda: got.append(agent.post("/v3/lock/lock", {"name": name, "lease": leases[1]}, 20)))
    thread.start()
    time.sleep(0.5)
    assert not got
    agent.call("/v3/lock/unlock", {"key": first["key"]})
    thread.join(10)
    assert got and got[0][0] == 200, got
    won = agent.call("/v3/election/campaign", {"name": b64("/apisix/vote"), "lease": leases[2], "value": b64("me")})
    leader = agent.call("/v3/election/leader", {"name": b64("/apisix/vote")})
    assert text(leader["kv"]["value"]) == "me" and won["leader"]["rev"] == leader["kv"]["create_revision"], (won, leader)
    agent.call("/v3/election/proclaim", {"leader": won["leader"], "value": b64("still me")})
    assert text(agent.call("/v3/election/leader", {"name": b64("/apisix/vote")})["kv"]["value"]) == "still me"
    agent.call("/v3/election/resign", {"leader": won["leader"]})
    refused(agent, "/v3/election/leader", {"name": b64("/apisix/vote")}, 2, "no leader")
    refused(agent, "/v3/lock/lock", {"name": b64("/other/lock"), "lease": leases[0]}, 7, "only writes to keys under")


def control_plane_that_is_gone_is_said_clearly(scenario):
    scenario.etcd.put("/apisix/a", "1")
    agent = scenario.agent(args=["--forward-writes"])
    agent.put("/apisix/a", "2")
    scenario.etcd.process.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    status, answer = agent.post("/v3/kv/put", {"key": b64("/apisix/a"), "value": b64("3")}, 30)
    scenario.etcd.process.process.send_signal(signal.SIGCONT)
    assert status != 200 and answer["code"] == 14 and "request timed out" in answer["message"], answer
    assert time.monotonic() - began < 15
    wait_for(lambda: agent.status()["connected"] and agent.get("/apisix/a") == scenario.etcd.get("/apisix/a"), "the same value", 20)
    last = agent.get("/apisix/a")
    assert last in ("2", "3"), last  # nobody knows which, and the answer said so
    scenario.etcd.kill()
    agent.wait_connected(False)
    refused(agent, "/v3/kv/put", {"key": b64("/apisix/a"), "value": b64("4")}, 14, "not connected to the control plane")
    refused(agent, "/v3/lease/grant", {"TTL": 60}, 14, "not connected to the control plane")
    refused(agent, "/v3/lease/timetolive", {"ID": 1}, 14, "not connected to the control plane")
    assert agent.get("/apisix/a") == last
    scenario.etcd.start()
    agent.wait_connected()
    agent.put("/apisix/a", "5")
    assert agent.get("/apisix/a") == "5"


harness.main([writes_are_refused_unless_told_otherwise, written_is_read_at_once, keys_outside_of_the_prefix_are_not_passed,
              transactions_come_back_whole, leases_are_the_control_planes, compares_keep_their_meaning_under_an_offset,
              keys_that_are_served_otherwise_are_compared_as_served, counters_lose_nothing, locks_and_elections_work,
              control_plane_that_is_gone_is_said_clearly], both=True)
