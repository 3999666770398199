#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What is this machine's alone, with real processes: the overlay file, signed images on disk, and the commands that look into them."""
import json
import os

import harness
from harness import Watch, wait_for

ROUTES = "/apisix/routes/"


def write(path, text):
    """As careful programs do it."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    os.replace(new, path)


def overlaid(s, text, **more):
    """An agent with this overlay, above it routes 1 and 2 -> (agent, store, the file)"""
    store = s.store()
    store.put(ROUTES + "1", "up1")
    store.put(ROUTES + "2", "up2")
    file = s.folder / s.name("overlay.yml")
    file.write_text(text)
    return s.agent(store.url, [f"--overlay={file}"], **more), store, file


def values(agent):
    return {key: value for key, (value, _) in agent.prefix(ROUTES).items()}


def the_overlay_wins_and_is_followed(s):
    agent, store, file = overlaid(s, "routes/1: {uri: /mine, n: [1, 1.50]}\nroutes/2: null\nroutes/3: text\n")
    assert values(agent) == {ROUTES + "1": '{"uri":"/mine","n":[1,1.50]}', ROUTES + "3": "text"}, values(agent)
    status = agent.status()["overlay"]
    assert status["file"] == str(file) and status["loaded_at"], status
    assert status["found"] == {ROUTES + "1": "set", ROUTES + "2": "hide", ROUTES + "3": "set"}, status
    watch = Watch(agent.port).created()
    # All changes of the file are one revision.
    write(file, "routes/1: other\nroutes/2: seen\n")
    events = watch.wait(3)
    assert sorted(e[:3] for e in events) == [("delete", ROUTES + "3", ""), ("put", ROUTES + "1", "other"),
                                             ("put", ROUTES + "2", "seen")], events
    assert len({e[3] for e in events}) == 1, events
    # What changes upstream beneath it is no event, and is there when the file is gone.
    store.put(ROUTES + "1", "newer")
    revision = store.put(ROUTES + "4", "up4")
    assert watch.wait(4)[3][:3] == ("put", ROUTES + "4", "up4")
    assert agent.status()["upstream_revision"] == revision
    file.unlink()
    assert sorted(e[:3] for e in watch.wait(6)[4:]) == [("put", ROUTES + "1", "newer"), ("put", ROUTES + "2", "up2")]
    assert agent.status()["overlay"]["found"] == {}, agent.status()
    file.write_text("routes/4: ~\n")
    assert watch.wait(7)[6][:2] == ("delete", ROUTES + "4")
    watch.stop()


def a_malformed_overlay_changes_nothing_but_the_alarm(s):
    agent, _, file = overlaid(s, "routes/1: mine\n")
    before = agent.kvs("/apisix")
    write(file, "routes/1: other\nroutes/2: [1,\n")
    text = agent.wait_alarm("overlay")
    assert f"{file}:" in text, text
    assert agent.metric('dpagent_alarm{alarm="overlay"}') == 1
    assert agent.kvs("/apisix") == before
    write(file, "routes/1: 1\nroutes/2: 2\n/apisix/routes/1: 3\n")
    wait_for(lambda: "stands on line 1 already" in agent.alarms()["overlay"], "the second fault")
    assert agent.kvs("/apisix") == before
    write(file, "routes/1: better\n")
    agent.wait_alarm("overlay", on=False)
    agent.wait_value(ROUTES + "1", "better")


def odd_bytes_in_a_name_cost_no_line(s):
    path = s.folder / os.fsdecode(b"overlay-\xff\xc3.yml")
    path.write_text("/apisix/a: 1\n")
    agent = s.agent(None, [f"--overlay={path}"])
    path.write_text("/apisix/a: [\n")
    assert "overlay-" in agent.wait_alarm("overlay")
    wait_for(lambda: [line for line in agent.lines() if line.get("alarm") == "overlay" and "overlay-" in line["text"]], "the line")


def a_malformed_overlay_at_the_start_is_an_error(s):
    file = s.folder / "bad.yml"
    file.write_text("routes/1: a\n/other/2: b\n")
    code, _, text = harness.run_program([f"--upstream={s.etcd.url}", f"--data-dir={s.folder / 'bad'}", f"--overlay={file}",
                                         f"--listen-client-urls=http://127.0.0.1:{harness.free_port()}",
                                         f"--listen-metrics-urls=http://127.0.0.1:{harness.free_port()}"])
    assert code == 2 and f"{file}:2:" in text and "does not begin with the prefix" in text, (code, text)


def a_restart_is_no_news_to_clients(s):
    """The same overlay after a clean stop, with the control plane away: not one number changes."""
    agent, store, _ = overlaid(s, "routes/1: mine\nroutes/2: ~\nroutes/3: new\n", start_timeout="200ms")
    agent.wait_saved()
    before, revision = agent.kvs("/apisix"), agent.revision()
    store.stop()
    agent.restart()
    assert agent.kvs("/apisix") == before and agent.revision() == revision, (agent.revision(), revision)
    watch = Watch(agent.port, start=revision + 1).created()
    store.start()
    agent.wait_connected()
    store.put(ROUTES + "5", "up5")
    assert [e[:3] for e in watch.wait(1)] == [("put", ROUTES + "5", "up5")]
    watch.stop()


def keys(s, name):
    """-> the path without its end, as keygen made it"""
    out = s.folder / name
    code, text, error = harness.run_program(["keygen", f"--out={out}"])
    assert code == 0 and text.split() == [f"{out}.key", f"{out}.pub"], (code, text, error)
    assert os.stat(f"{out}.key").st_mode & 0o777 == 0o600
    assert harness.run_program(["keygen", f"--out={out}"])[0] == 1, "it overwrote a key"
    return out


def an_image_with_another_signature_is_not_believed(s):
    ours, theirs = keys(s, "ours"), keys(s, "theirs")
    store = s.store()
    store.put(ROUTES + "1", "ours")
    agent = s.agent(store.url, [f"--sign-key={ours}.key", f"--verify-key={ours}.pub"], start_timeout="200ms")
    other = s.agent(store.url, [f"--sign-key={theirs}.key", f"--verify-key={theirs}.pub"])
    agent.wait_saved()
    agent.stop()
    store.put(ROUTES + "1", "theirs")
    other.wait_value(ROUTES + "1", "theirs")
    other.stop()
    store.stop()
    newest = agent.data / "last-known-good.snap"
    newest.write_bytes((other.data / newest.name).read_bytes())
    code, text, _ = harness.run_program(["snapshot", "status", str(newest), f"--public-key={theirs}.pub"])
    assert code == 0 and ", valid" in text, text
    code, _, text = harness.run_program(["snapshot", "verify", str(newest), f"--public-key={ours}.pub"])
    assert code == 1 and "not trusted" in text, text
    agent.start()
    assert agent.get(ROUTES + "1") == "ours", agent.get(ROUTES + "1")
    assert "not trusted" in agent.alarms()["disk_invalid"], agent.alarms()


def a_machine_that_has_only_the_public_key_loads_what_it_saved(s):
    ours, theirs = keys(s, "signer"), keys(s, "stranger")
    store = s.store()
    store.put(ROUTES + "1", "saved")
    agent = s.agent(store.url, [f"--verify-key={ours}.pub"], start_timeout="200ms")
    agent.wait_saved()
    store.stop()
    agent.restart()
    assert agent.get(ROUTES + "1") == "saved" and not agent.alarms(), agent.alarms()
    # What would not be loaded again is not even begun.
    code, _, text = harness.run_program([f"--upstream={store.url}", f"--data-dir={s.folder / 'both'}", f"--sign-key={theirs}.key",
                                         f"--verify-key={ours}.pub"])
    assert code == 2 and "not trusted when they are loaded" in text, (code, text)


def people_can_look_into_an_image(s):
    store = s.store()
    revision = store.put(ROUTES + "1", "\u00e4\n")
    store.put(ROUTES + "2", b"\xff\x00")
    agent = s.agent(store.url)
    agent.wait_saved()
    agent.stop()
    image = str(agent.data / "last-known-good.snap")
    code, text, _ = harness.run_program(["snapshot", "keys", image, "--dump"])
    lines = [json.loads(line) for line in text.splitlines()]
    assert code == 0 and lines[0] == {"key": ROUTES + "1", "value": "\u00e4\n", "create_revision": revision,
                                      "mod_revision": revision, "version": 1,
                                      "upstream": {"create_revision": revision, "mod_revision": revision, "version": 1}}, lines
    assert lines[1]["value_base64"] == "/wA=", lines
    code, text, _ = harness.run_program(["snapshot", "status", image])
    assert code == 0 and "clean stop:     yes" in text and "keys:           2" in text, text
    with open(image, "r+b") as file:
        file.truncate(os.path.getsize(image) - 1)
    code, text, error = harness.run_program(["snapshot", "status", image])
    assert code == 1 and not text and "cut off" in error, (text, error)
    assert harness.run_program(["snapshot", "nonsense", image])[0] == 2


harness.main([the_overlay_wins_and_is_followed, a_malformed_overlay_changes_nothing_but_the_alarm,
              odd_bytes_in_a_name_cost_no_line, a_malformed_overlay_at_the_start_is_an_error, a_restart_is_no_news_to_clients,
              an_image_with_another_signature_is_not_believed,
              a_machine_that_has_only_the_public_key_loads_what_it_saved, people_can_look_into_an_image])
