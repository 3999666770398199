#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""
dpagent as a program: flags, exit status, status page, metrics, registration, TLS upstream, sockets, signals. With a real etcd above.
Prints TAP. Only Python's standard library, etcd and openssl are used.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import harness  # noqa: E402
from harness import Agent, Client, Watch, free_port, request, run_program, wait_for  # noqa: E402

URL = "--upstream=http://127.0.0.1:1"


def refused(args, wanted, env=None):
    code, out, err = run_program(args, env)
    assert code == 2, (args, code, out, err)
    assert wanted in err, (args, err)
    assert "secret" not in out + err, (out, err)
    return err


# ---- flags ----

def help_and_version_are_told_without_an_upstream(_):
    code, out, _ = run_program(["--help"])
    assert code == 0 and "Usage: dpagent --upstream" in out and "--start-timeout" in out, out
    assert not [line for line in out.splitlines() if len(line) > 90]
    code, out, _ = run_program(["--version", "--verbose"])
    assert code == 0 and out.startswith("dpagent Version: ") and "compiler:" in out, out
    for shell in ("bash", "zsh", "fish"):
        code, out, _ = run_program(["completion", shell])
        assert code == 0 and "dpagent" in out and "kineshim" not in out and "forward-writes" in out, out[:300]
    for command in ("status", "nodes", "snapshot", "keygen", "completion"):
        code, out, _ = run_program(["help", command])
        assert code == 0 and f"Usage: dpagent {command}" in out, (command, out)
    code, _, err = run_program(["help", "nothing"])
    assert code == 2 and "see dpagent --help" in err, err


def wrong_flags_are_told_with_advice(s):
    refused([], "--upstream is missing")
    refused([URL, "--upstrem-user=a"], "did you mean --upstream-user?")
    refused([URL, "--start-timeout=soon"], "is not a duration")
    refused([URL, "--role=boss"], "none of traffic|backup")
    refused(["--upstream=http://a:secret@h:1"], "--upstream-password-file")
    refused([URL, "--upstream-user=a:secret"], "DPAGENT_UPSTREAM_USER=name:password")
    refused([URL, "--upstream-user=a"], "needs a password")
    refused([URL, "--upstream-password-file=/dev/null"], "goes with an upstream-user")
    refused([URL, "--upstream-cert=a"], "go together")
    refused([URL, "--node-id=a/b"], "node-id")
    refused([URL, "--register-prefix="], "--register=false")
    refused([URL, "--data-dir="], "data-dir is empty")
    (s.folder / "text").write_text("text\n")
    for flag in ("cacert", f"cert={s.folder}/text --upstream-key", "user=a --upstream-password-file"):
        refused([URL, *f"--upstream-{flag}={s.folder}/none".split(), f"--data-dir={s.folder}/unused"], "No such file")
    refused(["--upstream=nonsense", "--check-config"], "--upstream:")
    refused([URL, "--listen-client-urls=ftp://a", "--check-config"], "ftp://a")
    refused([URL, f"--verify-key={s.folder}/none", "--check-config"], "none")
    refused([URL, "--listen-client-urls=https://127.0.0.1:0", f"--data-dir={s.folder}/unused2", "--listen-metrics-urls=",
             "--start-timeout=0s"], "--cert-file")


def the_configuration_file_counts_alone(s):
    file = s.folder / "dpagent.yml"
    file.write_text("upstream: http://127.0.0.1:1\nprefix: /a/\nupstream-user: name:secret\n")
    code, out, err = run_program(["--config-file", str(file), "--prefix=/b/", "--check-config"], {"DPAGENT_ROLE": "traffic"})
    assert code == 0 and "dpagent: these options are fine" in out, err
    assert "--prefix" in err and "--role" in err, err
    file.write_text("upstream: http://127.0.0.1:1\nprefx: /a/\n")
    refused(["--config-file", str(file)], "did you mean prefix?")
    sample = harness.dpproxy.TOP / "etc" / "dpagent.yml"
    code, out, err = run_program(["--config-file", str(sample), "--check-config"])
    assert code == 0, err
    code, _, err = run_program([URL, "--check-config"], {"DPAGENT_UPSTREM": "x"})
    assert code == 0 and "DPAGENT_UPSTREM" in err, err


# ---- what it tells ----

def status_before_and_after_upstream_answers(s):
    port = free_port()
    agent = s.agent(f"http://127.0.0.1:{port}", start_timeout="100ms", wait="listening")
    ready, report = agent.ready()
    assert not ready and report["source"] == "none" and report["age_seconds"] is None, report
    code, answer = agent.post("/v3/kv/range", {"key": harness.b64("/apisix/a"), "serializable": True})
    assert code == 503 and "no leader" in answer["message"], answer
    url = f"--url=http://127.0.0.1:{agent.status_port}"
    code, out, _ = run_program(["status", url])
    assert code == 1 and re.search(r"Configuration: +none yet", out) and "not connected" in out, out
    assert agent.metric("dpagent_ready") == 0 and agent.metric('dpagent_source{source="none"}') == 1

    s.etcd.put("/apisix/routes/1", {"uri": "/"})
    agent.stop()
    agent = s.agent()
    ready, report = agent.ready()
    assert ready and report["source"] == "upstream" and report["connected"] and report["age_seconds"] < 60, report
    code, out, _ = run_program(["status", f"--url=http://127.0.0.1:{agent.status_port}"])
    assert code == 0 and re.search(r"Configuration: +from upstream, confirmed .* ago", out) and "under /apisix" in out, out
    code, out, _ = run_program(["status", f"--url=http://127.0.0.1:{agent.status_port}", "-w", "json"])
    assert code == 0 and json.loads(out)["id"] == agent.name
    for at in (agent.port, agent.status_port):
        report = request(at, "/status").json()
        assert report["id"] == agent.name and report["pid"] == agent.pid and report["prefix"] == "/apisix", report
        assert request(at, "/status/ready").status == 200
        assert request(at, "/health").status == 200
        assert request(at, "/status", "POST").status == 405
    assert request(agent.status_port, "/v3/kv/range", "POST", body="{}").status == 404
    code, out, err = run_program(["status", f"--url=http://127.0.0.1:{port}"])
    assert code == 2 and "no agent answers" in err, (code, out, err)
    code, _, err = run_program(["status", "--nonsense"])
    assert code == 2 and "Usage" in err
    code, out, err = run_program(["status", f"--url=http://127.0.0.1:{s.etcd.port}"])
    assert code == 2, (out, err)


def metrics_are_documented_and_move(s):
    agent = s.agent()
    text = agent.metrics()
    page = (harness.dpproxy.TOP / "docs" / "dpagent.md").read_text()
    kinds = dict(re.findall(r"^# TYPE (dpagent_\w+) (\w+)$", text, re.M))
    rows = dict(re.findall(r"^\| `(dpagent_\w+)` \| (\w+) \|", page, re.M))
    # Those of a last object or image show once there is one.
    sometimes = {name for name in rows if re.match(r"dpagent_(object|snapshot)_(revision|saved_seconds|bytes)$", name)}
    assert kinds, text[:500]
    assert {n: k for n, k in rows.items() if n in kinds} == kinds, (set(kinds) - set(rows), set(rows) - set(kinds))
    assert set(rows) - set(kinds) <= sometimes, set(rows) - set(kinds)
    assert not re.search(r"^(kineshim_(log|db|trim)_|etcd_disk_)", text, re.M)
    alarms = set(re.findall(r'^dpagent_alarm\{alarm="(\w+)"\} 0$', text, re.M))
    assert len(alarms) == 9 and all(f"| `{name}` |" in page for name in alarms), alarms
    before = agent.metric("dpagent_keys")
    revision = s.etcd.put("/apisix/routes/metrics", {"uri": "/"})
    agent.wait_revision(revision)
    assert agent.metric("dpagent_keys") == before + 1
    wait_for(lambda: (agent.metric("dpagent_snapshot_revision") or 0) >= revision, "the image to be counted")
    assert agent.metric("dpagent_upstream_revision") >= revision and agent.metric("dpagent_revision_offset") == 0
    assert agent.metric("dpagent_connected") == 1 and agent.metric('dpagent_source{source="upstream"}') == 1


def verification_runs_and_finds_nothing(s):
    s.etcd.put("/apisix/routes/verified", {"uri": "/"})
    agent = s.agent(args=["--verify-interval=100ms"])
    wait_for(lambda: agent.status()["upstream"]["verifications"] >= 3, "three verifications")
    status = agent.status()
    assert status["upstream"]["repairs"] == 0 and status["upstream"]["resyncs"] == 1 and status["connected"], status


def a_hold_is_released_only_by_the_machine_itself(s):
    store = s.store()
    store.put("/apisix/routes/1", {"uri": "/"})
    agent = s.agent(store.url)
    agent.wait_saved()
    assert request(agent.status_port, "/accept-empty", "POST").status == 409
    store.stop()
    other = s.store("emptied")
    agent.stop()
    agent.args[2] = f"--upstream={other.url}"
    agent.start()
    agent.wait_alarm("held")
    assert agent.get("/apisix/routes/1")
    for port, headers in ((agent.port, {}), (agent.status_port, {"Origin": "http://evil.example"})):
        assert request(port, "/accept-empty", "POST", headers).status == 403
    assert request(agent.status_port, "/accept-empty").status == 405
    assert agent.get("/apisix/routes/1")
    assert request(agent.status_port, "/accept-empty", "POST").status == 202
    agent.wait_value("/apisix/routes/1", None)
    agent.wait_alarm("held", on=False)
    assert agent.ready()[0]


# ---- registration ----

def nodes(store, *args):
    code, out, err = run_program(["nodes", f"--upstream={store.url}", "-w", "json", *args])
    assert code == 0, err
    return {node["id"]: node for node in json.loads(out)}


def nodes_are_seen_and_lost(s):
    store = s.store()
    store.put("/apisix/routes/1", {"uri": "/"})
    code, out, _ = run_program(["nodes", f"--upstream={store.url}"])
    assert code == 0 and out.split()[0] == "ID" and len(out.splitlines()) == 1, out
    stays, dies = s.agent(store.url), s.agent(store.url)
    quiet = s.agent(store.url, ["--register=false"])
    wait_for(lambda: len(nodes(store)) == 2, "two nodes")
    node = nodes(store)[stays.name]
    assert node["state"] == "healthy" and node["role"] == "traffic" and node["source"] == "upstream", node
    assert node["hostname"] == socket.gethostname() and node["behind"] == 0 and node["keys"] == 1, node
    assert stays.status()["registered"] and not quiet.status()["registered"]
    # Reports do not answer each other: nobody writes when only reports were written.
    before = store.revision()
    time.sleep(0.6)
    assert store.revision() == before
    dies.stop()
    wait_for(lambda: nodes(store)[dies.name]["state"] == "lost", "the node that stopped to be lost")
    assert nodes(store)[stays.name]["state"] == "healthy"
    code, out, _ = run_program(["nodes"], {"DPAGENT_UPSTREAM": store.url})
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert rows[dies.name].endswith("lost") and " ago " in rows[dies.name] and rows[stays.name].endswith("healthy"), out
    assert len({line.index(word) for line, word in ((rows["ID"], "STATE"), (rows[dies.name], "lost"), (rows[stays.name], "healthy"))}) == 1
    store.put("/dpagent/nodes/evil", "\x1b[2J{not json")
    store.put("/dpagent/nodes/evil2", json.dumps({"hostname": "\x1b[2J", "version": "é", "updated_at": 7, "upstream_revision": "x"}))
    code, out, _ = run_program(["nodes", f"--upstream={store.url}"])
    assert code == 0 and "\x1b" not in out and "evil" in out, out
    code, _, err = run_program(["nodes", "--upstream=http://127.0.0.1:1"])
    assert code == 1 and err.startswith("dpagent nodes: "), err


def nodes_are_stale_while_they_hold_and_lost_when_they_die(s):
    store = s.store()
    store.put("/apisix/routes/1", {"uri": "/"})
    agent = s.agent(store.url)
    wait_for(lambda: nodes(store).get(agent.name, {}).get("state") == "healthy", "the node")
    store.stop()
    shutil.rmtree(store.data)
    store.start()
    agent.wait_alarm("held", seconds=20)
    wait_for(lambda: nodes(store).get(agent.name, {}).get("state") == "stale", "the node to be stale", 20)
    agent.kill()
    wait_for(lambda: nodes(store)[agent.name]["state"] == "lost", "the node's lease to end", 30)


def nodes_do_not_answer_reports_that_they_mirror(s):
    """A short prefix mirrors the nodes' keys, too."""
    store = s.store()
    store.put("/apisix/routes/1", {"uri": "/"})
    agents = [s.agent(store.url, [f"--prefix={prefix}"]) for prefix in ("", "/")]
    wait_for(lambda: len(nodes(store)) == 2, "two nodes")
    time.sleep(6)     # each may tell of the other once
    before = store.revision()
    time.sleep(6)
    assert store.revision() == before, (before, store.revision())
    store.put("/apisix/routes/2", {"uri": "/"})
    wait_for(lambda: all(node["keys"] >= 2 and node["state"] == "healthy" for node in nodes(store).values()), "both to tell", 15)
    assert len(agents) == 2


def a_backup_node_serves_nobody_unless_asked(s):
    s.etcd.put("/apisix/routes/1", {"uri": "/"})
    args = ["--role=backup", "--object-storage=s3://bkt/x?endpoint=http://127.0.0.1:1"]
    env = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
    agent = s.agent(None, args, env=env)
    assert agent.ready()[0] and agent.status()["role"] == "backup"
    try:
        agent.get("/apisix/routes/1")
        raise AssertionError("a backup node serves clients")
    except ConnectionRefusedError:
        pass
    agent.stop()
    agent = s.agent(None, [*args, "--serve"], env=env)
    assert agent.get("/apisix/routes/1") == '{"uri": "/"}'


def a_refused_registration_is_an_alarm_and_nothing_else_suffers(s):
    store = s.store()
    for path, body in (("user/add", {"name": "root", "password": "r"}), ("role/add", {"name": "root"}),
                       ("user/grant", {"user": "root", "role": "root"}),
                       ("user/add", {"name": "reader", "password": "p w:d"}), ("role/add", {"name": "read"}),
                       ("role/grant", {"name": "read", "perm": {"permType": "READ", "key": harness.b64("/apisix"),
                                                                "range_end": harness.b64("/apisiy")}}),
                       ("user/grant", {"user": "reader", "role": "read"})):
        store.call("/v3/auth/" + path, body)
    store.put("/apisix/routes/1", {"uri": "/"})
    store.call("/v3/auth/enable", {})
    password = s.folder / "password"
    password.write_text("p w:d\n")
    password.chmod(0o600)
    agent = s.agent(store.url, ["--upstream-user=reader", f"--upstream-password-file={password}"])
    text = agent.wait_alarm("registration")
    assert "permission denied" in text, text
    assert agent.get("/apisix/routes/1") and not agent.status()["registered"]
    agent = s.agent(store.url, env={"DPAGENT_UPSTREAM_USER": "reader:p w:d"})
    assert agent.get("/apisix/routes/1")
    assert "p w:d" not in agent.text() and "p w:d" not in json.dumps(agent.status())
    wrong = s.agent(store.url, env={"DPAGENT_UPSTREAM_USER": "reader:wrong"}, wait="listening", start_timeout="300ms")
    wait_for(lambda: wrong.status()["upstream"]["error"], "the error")
    assert not wrong.ready()[0] and "wrong" not in wrong.text().replace("invalid", ""), wrong.text()


# ---- TLS ----

def certificates_upstream_must_be_right(s):
    pki, foreign = harness.Pki(s.folder), harness.Pki(s.folder, "foreign")
    for name in ("server", "agent"):
        pki.issue(name)
    pki.issue("old", expired=True)
    pki.issue("elsewhere", hosts="DNS:elsewhere.example")
    foreign.issue("agent")
    store = s.store("tls", tls=pki)
    subprocess.run(["etcdctl", "--endpoints", store.url, "--cacert", pki.ca, "--cert", pki.cert("agent"), "--key", pki.key("agent"),
                    "put", "/apisix/routes/1", "1"], check=True, capture_output=True)

    def flags(ca, of=None, cert="agent"):
        more = [f"--upstream-cert={of.cert(cert)}", f"--upstream-key={of.key(cert)}"] if of else []
        return [f"--upstream-cacert={ca}", *more]

    good = s.agent(store.url, flags(pki.ca, pki), start_timeout="200ms")
    assert good.get("/apisix/routes/1") == "1" and not good.alarms()
    bad = [s.agent(store.url, args, wait="listening", start_timeout="0s", name=name) for name, args in (
        ("no-certificate", flags(pki.ca)), ("foreign-ca", flags(foreign.ca, pki)), ("foreign-certificate", flags(pki.ca, foreign)),
        ("expired-certificate", flags(pki.ca, pki, "old")))]
    for agent in bad:
        wait_for(lambda: agent.status()["upstream"]["error"], f"{agent.name}: the error", 15)
        assert not agent.ready()[0], agent.name
    foreign_ca = next(agent for agent in bad if agent.name == "foreign-ca")
    assert foreign_ca.wait_alarm("upstream_tls", seconds=15)
    # What was good before is served on when upstream shows a certificate that is expired, or another host's; and is noticed when it is mended.
    good.wait_saved()
    for cert in ("old", "elsewhere"):
        store.stop()
        store.args[store.args.index("--cert-file") + 1:store.args.index("--cert-file") + 4:2] = [str(pki.cert(cert)), str(pki.key(cert))]
        store.start()
        good.wait_connected(False)
        good.restart(wait="listening")
        good.wait_source("disk", connected=False)
        assert good.wait_alarm("upstream_tls", seconds=15), cert
        assert good.get("/apisix/routes/1") == "1"
    store.stop()
    store.args[store.args.index("--cert-file") + 1:store.args.index("--cert-file") + 4:2] = [str(pki.cert("server")), str(pki.key("server"))]
    store.start()
    good.wait_source("upstream", connected=True, seconds=30)
    good.wait_alarm("upstream_tls", on=False)


def clients_may_need_certificates(s):
    pki = harness.Pki(s.folder, "below").issue("server").issue("client")
    s.etcd.put("/apisix/routes/1", {"uri": "/"})
    port = free_port()
    agent = s.agent(args=[f"--listen-client-urls=https://127.0.0.1:{port}", f"--cert-file={pki.cert('server')}",
                          f"--key-file={pki.key('server')}", f"--trusted-ca-file={pki.ca}"])
    ctl = ["etcdctl", "--endpoints", f"https://127.0.0.1:{port}", "--cacert", str(pki.ca), "--dial-timeout=1s", "--command-timeout=1s", "get",
           "/apisix/routes/1", "--print-value-only"]
    known = subprocess.run([*ctl, "--cert", pki.cert("client"), "--key", pki.key("client")], capture_output=True, text=True)
    assert known.stdout.strip() == '{"uri": "/"}', known
    assert subprocess.run(ctl, capture_output=True).returncode != 0
    # An agent is a client like any other.
    below = s.agent(f"https://127.0.0.1:{port}", [f"--upstream-cacert={pki.ca}", f"--upstream-cert={pki.cert('client')}",
                                                 f"--upstream-key={pki.key('client')}", "--register=false"])
    assert below.kvs("/apisix") == s.etcd.kvs("/apisix")
    assert agent.alarms() == {}


# ---- the machine ----

def a_unix_socket_serves(s):
    path = s.folder / "agent.sock"
    agent = s.agent(args=[f"--listen-client-urls=unix://{path}"])
    revision = s.etcd.put("/apisix/routes/unix", {"uri": "/"})
    wait_for(lambda: agent.status()["revision"] >= revision, "the revision")
    out = subprocess.run(["etcdctl", "--endpoints", f"unix://{path}", "get", "/apisix/routes/unix", "--print-value-only"],
                         capture_output=True, text=True, timeout=10)
    assert out.stdout.strip() == '{"uri": "/"}', out
    code, out, err = run_program(["status", f"--url=unix://{path}"])
    assert code == 0 and agent.name in out, err


def the_data_folder_is_one_agents(s):
    agent = s.agent()
    agent.wait_saved()
    second = Agent(s.folder, s.etcd.url, "second", [f"--data-dir={agent.data}"], wait=False)
    assert second.process.process.wait(10) == 1, second.text()
    second.stop()
    assert "cannot start" in second.text() and str(agent.data) in second.text(), second.text()
    assert agent.ready()[0]
    assert stat.S_IMODE(os.stat(agent.data).st_mode) == 0o700
    for file in agent.data.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    blocked = s.folder / "file"
    blocked.write_text("")
    code, _, err = run_program([f"--upstream={s.etcd.url}", f"--data-dir={blocked}/below", "--log-format=console"])
    assert code == 1 and "cannot start" in err, err
    code, _, err = run_program([f"--upstream={s.etcd.url}", f"--data-dir={s.folder}/third", "--log-format=console", "--start-timeout=1s",
                                f"--listen-client-urls={agent.url}", "--listen-metrics-urls="])
    assert code == 1 and "in use" in err, err


def sigterm_saves_what_was_not_saved_yet(s):
    agent = s.agent(args=["--snapshot-interval=10m"])
    revision = s.etcd.put("/apisix/routes/late", {"uri": "/late"})
    agent.wait_revision(revision)
    assert agent.stop() == 0
    assert "stopped" in agent.text()
    port = free_port()
    agent.args[2] = f"--upstream=http://127.0.0.1:{port}"
    agent.args.append("--start-timeout=100ms")
    agent.start()
    assert agent.status()["source"] == "disk" and agent.get("/apisix/routes/late") == '{"uri": "/late"}'
    assert agent.revision() == revision
    lines = agent.lines()
    assert [line["source"] for line in lines if line["event"] == "source"] == ["upstream", "disk"], lines
    assert agent.stop(signal.SIGINT) == 0


def log_files_are_opened_anew(s):
    file = s.folder / "agent-own.log"
    agent = s.agent(args=[f"--log-outputs={file}"])
    file.rename(s.folder / "agent-own.log.1")
    os.kill(agent.pid, signal.SIGHUP)
    wait_for(lambda: file.exists() and "opened anew" in file.read_text(), "the new log file")


def a_client_that_never_reads_harms_nobody(s):
    s.etcd.put("/apisix/big", "x" * 1000)
    agent = s.agent()
    deaf = []
    for _ in range(3):
        connection = socket.create_connection(("127.0.0.1", agent.port))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = json.dumps({"create_request": {"key": harness.b64("/apisix"), "range_end": harness.b64("/apisiy")}}).encode()
        connection.sendall(b"POST /v3/watch HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        deaf.append(connection)
    hears = Watch(agent.port).created()
    value = "y" * 200000
    revision = 0
    for i in range(60):
        revision = s.etcd.put("/apisix/big", value + str(i))
    agent.wait_revision(revision)
    assert len({event[2] for event in hears.wait(60)}) == 60
    took = time.monotonic()
    assert agent.get("/apisix/big") == value + "59"
    assert time.monotonic() - took < 2
    assert agent.memory() < 300 << 20, agent.memory()
    hears.stop()
    for connection in deaf:
        connection.close()


def etcdctl_and_dpproxy_take_it_for_an_etcd(s):
    backend = s.keep(harness.Upstream())
    agent = s.agent()
    s.etcd.put("/apisix/routes/gateway", {"uri": "/*", "upstream": {"nodes": backend.node}})
    proxy = s.proxy(agent.url)
    wait_for(lambda: proxy.request("/hello").status == 200, "the route")
    revision = s.etcd.put("/apisix/routes/gateway", {"uri": "/new", "upstream": {"nodes": backend.node}})
    proxy.reached(revision)
    assert proxy.request("/new").status == 200 and proxy.request("/hello").status == 404
    out = subprocess.run(["etcdctl", "--endpoints", agent.url, "endpoint", "health"], capture_output=True, text=True, timeout=10)
    assert out.returncode == 0 and "is healthy" in out.stdout + out.stderr, out
    out = subprocess.run(["etcdctl", "--endpoints", agent.url, "put", "/apisix/a", "b"], capture_output=True, text=True, timeout=10)
    assert out.returncode != 0 and "dpagent is read-only" in out.stderr, out
    members = Client(agent.port).call("/v3/cluster/member/list", {})["members"]
    assert len(members) == 1 and members[0]["clientURLs"] == [agent.url], members


TESTS = [
    help_and_version_are_told_without_an_upstream, wrong_flags_are_told_with_advice, the_configuration_file_counts_alone,
    status_before_and_after_upstream_answers, metrics_are_documented_and_move,
    verification_runs_and_finds_nothing, a_hold_is_released_only_by_the_machine_itself,
    nodes_are_seen_and_lost, nodes_are_stale_while_they_hold_and_lost_when_they_die, a_backup_node_serves_nobody_unless_asked,
    nodes_do_not_answer_reports_that_they_mirror, a_refused_registration_is_an_alarm_and_nothing_else_suffers, certificates_upstream_must_be_right,
    clients_may_need_certificates, a_unix_socket_serves, the_data_folder_is_one_agents, sigterm_saves_what_was_not_saved_yet,
    log_files_are_opened_anew, a_client_that_never_reads_harms_nobody, etcdctl_and_dpproxy_take_it_for_an_etcd,
]

if __name__ == "__main__":
    harness.main(TESTS, needs=("etcd", "etcdctl", "openssl", "nginx"))
