# SPDX-License-Identifier: Apache-2.0
"""What scenario tests of the agent need: an etcd or kineshim above, a dpagent, clients below, on free ports and in a temporary
folder. Servers are those of tests/proxy/lib/dpproxy.py where there are any. Only Python's standard library, etcd and openssl.

    import harness
    def serves_what_upstream_has(scenario):
        agent = scenario.agent()
        scenario.etcd.put("/apisix/routes/1", {"uri": "/"})
        agent.wait_value("/apisix/routes/1", {"uri": "/"})
    harness.main([serves_what_upstream_has])

KS_TEST_ONLY=text runs some of the tests, KS_TEST_KEEP=1 keeps the files, KS_STORE=etcd or kineshim is what stands above."""
import base64
import functools
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "proxy" / "lib"))
import dpproxy  # noqa: E402
from dpproxy import BUILD, KINESHIM, Etcd, Gateway, Process, Upstream, free_port, request, wait_for  # noqa: E402,F401

# What a process writes that went wrong on its way, whatever it answered.
CRASHES = re.compile(r"ThreadSanitizer|AddressSanitizer|LeakSanitizer|runtime error:|panic at ")

DPAGENT = os.environ.get("DPAGENT", str(BUILD / "dpagent" / "dpagent"))


def b64(text):
    return base64.b64encode(text if isinstance(text, bytes) else text.encode()).decode()


def range_end(prefix):
    """The end of the range of all keys that begin with it."""
    key = bytearray(prefix.encode())
    key[-1] += 1
    return bytes(key)


class Client:
    """The JSON side of an etcd at http://127.0.0.1:PORT: etcd, kineshim or an agent."""

    def __init__(self, port, timeout=10):
        self.port, self.timeout = port, timeout

    def post(self, path, body, timeout=None):
        """-> (status, JSON)"""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout or self.timeout)
        try:
            connection.request("POST", path, json.dumps(body))
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text)
        finally:
            connection.close()

    def call(self, path, body):
        status, answer = self.post(path, body)
        if status != 200:
            raise OSError(f"{path} says {status}: {answer}")
        return answer

    def range(self, key, end=None, **more):
        """All of the answer; key and end are texts. Serializable unless told otherwise."""
        body = {"key": b64(key), "serializable": True, **more}
        if end:
            body["range_end"] = b64(end)
        return self.call("/v3/kv/range", body)

    def prefix(self, prefix, **more):
        """{key: (value text, mod_revision)} of all keys that begin with it."""
        answer = self.range(prefix, range_end(prefix), **more)
        return {base64.b64decode(kv["key"]).decode(): (base64.b64decode(kv.get("value", "")).decode(), int(kv["mod_revision"]))
                for kv in answer.get("kvs", [])}

    def kvs(self, prefix):
        """As they are in JSON, without their lease, with key and value decoded."""
        kvs = self.range(prefix, range_end(prefix)).get("kvs", [])
        return [{**{k: v for k, v in kv.items() if k != "lease"}, "key": base64.b64decode(kv["key"]).decode(),
                 "value": base64.b64decode(kv.get("value", "")).decode()} for kv in kvs]

    def get(self, key):
        """The value's text, None without the key."""
        kvs = self.range(key).get("kvs")
        return base64.b64decode(kvs[0].get("value", "")).decode() if kvs else None

    def revision(self):
        return int(self.range("\0")["header"]["revision"])

    def put(self, key, value, **more):
        text = value if isinstance(value, (str, bytes)) else json.dumps(value)
        return int(self.call("/v3/kv/put", {"key": b64(key), "value": b64(text), **more})["header"]["revision"])

    def delete(self, key, end=None):
        body = {"key": b64(key), **({"range_end": b64(end)} if end else {})}
        return int(self.call("/v3/kv/deleterange", body)["header"]["revision"])

    def delete_prefix(self, prefix):
        return self.delete(prefix, range_end(prefix))

    def compact(self, revision, physical=True):
        self.call("/v3/kv/compaction", {"revision": revision, "physical": physical})

    def txn(self, compare, success, failure=()):
        return self.call("/v3/kv/txn", {"compare": list(compare), "success": list(success), "failure": list(failure)})

    def wait_value(self, key, value, seconds=10):
        text = value if value is None or isinstance(value, str) else json.dumps(value)
        wait_for(lambda: self.get(key) == text, f"{key} to be {text!r}", seconds)

    def wait_revision(self, revision, seconds=10):
        wait_for(lambda: self.revision() >= revision, f"revision {revision}", seconds)


class Watch(threading.Thread):
    """A watch through JSON; events pile up as ("put"|"delete", key, value text, mod_revision)."""

    def __init__(self, port, key="/apisix", end=None, start=0, single=False, path="/v3/watch"):
        super().__init__(daemon=True)
        self.events, self.results, self.ended, self.canceled = [], [], False, None
        create = {"key": b64(key), "start_revision": start}
        if not single:
            create["range_end"] = b64(end or range_end(key))
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        self.connection.request("POST", path, json.dumps({"create_request": create}))
        self.start()

    def run(self):
        try:
            answer = self.connection.getresponse()
            for line in iter(answer.readline, b""):
                result = json.loads(line).get("result")
                if not result:
                    self.canceled = json.loads(line)
                    continue
                self.results.append(result)
                if result.get("canceled"):
                    self.canceled = result
                for event in result.get("events", []):
                    kv = event["kv"]
                    self.events.append(("delete" if event.get("type") == "DELETE" else "put",
                                        base64.b64decode(kv["key"]).decode(),
                                        base64.b64decode(kv.get("value", "")).decode(), int(kv["mod_revision"])))
        except (OSError, ValueError, AttributeError, http.client.HTTPException):
            pass
        self.ended = True

    def created(self):
        wait_for(lambda: any(r.get("created") for r in self.results), "the watch")
        return self

    def wait(self, count, seconds=10):
        wait_for(lambda: len(self.events) >= count, f"{count} events", seconds)
        return self.events

    def stop(self):
        try:
            self.connection.sock.shutdown(socket.SHUT_RDWR)
        except (OSError, AttributeError):
            pass
        self.join(5)
        self.connection.close()


class Store(Etcd, Client):
    """An etcd, or a kineshim (KS_STORE), with the calls of Client, whose data folder survives stop() and start(). 'tls': a Pki whose
    server certificate it shows and whose CA clients must be of; its JSON is then not for Client."""

    def __init__(self, folder, name="etcd", kind=None, args=(), tls=None, cert="server"):
        Client.__init__(self, free_port())
        self.name, self.kind = name, kind or dpproxy.STORE
        self.data, self.log = folder / name, folder / f"{name}.log"
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        peer = f"http://127.0.0.1:{free_port()}"
        security = []
        if tls:
            security = ["--cert-file", str(tls.cert(cert)), "--key-file", str(tls.key(cert)), "--trusted-ca-file",
                        str(tls.ca), "--client-cert-auth"]
        if self.kind == "kineshim":
            self.args = [KINESHIM, "--log-format=console", f"--data-dir={self.data}", f"--listen-client-urls={self.url}",
                         *security, *args]
        else:
            self.args = ["etcd", "--data-dir", str(self.data), "--listen-client-urls", self.url, "--advertise-client-urls",
                         self.url, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster",
                         f"default={peer}", "--log-level", "error", "--unsafe-no-fsync", *security, *args]
        self.env, self.tls, self.process = dict(os.environ, ETCD_UNSUPPORTED_ARCH="arm64"), tls, None
        self.start()

    def start(self):
        self.process = Process(self.args, self.log, self.env)
        if self.tls:
            wait_for(lambda: socket.create_connection(("127.0.0.1", self.port), 1), "etcd").close()
        else:
            wait_for(lambda: self.post("/v3/kv/range", {"key": b64("\0")})[0] == 200, "etcd", 20)

    def kill(self):
        self.process.stop(signal.SIGKILL)

    def call(self, path, body):
        return Client.call(self, path, body)

    def put(self, key, value, **more):
        return Client.put(self, key, value, **more)

    def delete(self, key, end=None):
        return Client.delete(self, key, end)


class Agent(Client):
    """A dpagent. Its data folder survives stop(), kill() and start()."""

    def __init__(self, folder, upstream, name="agent", args=(), env=None, wait=True, start_timeout="5s", defaults=True):
        super().__init__(free_port())
        self.name, self.folder, self.data = name, folder, folder / f"{name}.data"
        self.status_port, self.log = free_port(), folder / f"{name}.log"
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = {**{k: v for k, v in os.environ.items() if not k.startswith("DPAGENT_")}, **(env or {})}
        self.args = [DPAGENT, "--log-format=console", f"--upstream={upstream}", f"--data-dir={self.data}"]
        if defaults:
            self.args += [f"--listen-client-urls={self.url}", f"--listen-metrics-urls=http://127.0.0.1:{self.status_port}",
                          f"--start-timeout={start_timeout}", "--snapshot-interval=50ms", f"--node-id={name}"]
        self.args += args
        self.logs, self.process = "", None
        self.start(wait)

    def start(self, wait=True):
        """wait: until it has a configuration; "listening": until it answers at all; False: not at all."""
        if self.log.exists():
            self.logs += self.log.read_text(errors="replace")
        self.process = Process(self.args, self.log, self.env)
        if wait:
            try:
                self.wait_ready(listening=wait == "listening")
            except BaseException:
                self.process.stop(signal.SIGKILL)
                raise
        return self

    @property
    def pid(self):
        return self.process.process.pid

    def wait_ready(self, seconds=20, listening=False):
        def ready():
            if self.process.process.poll() is not None:
                raise AssertionError(f"{self.name} ended with {self.process.process.returncode}: {self.text()[-3000:]}")
            return request(self.status_port, "/status/ready").status in ((200, 503) if listening else (200,))
        wait_for(ready, f"{self.name} to be ready", seconds)

    def stop(self, sig=signal.SIGTERM, seconds=20):
        return self.process.stop(sig, seconds)

    def kill(self):
        return self.stop(signal.SIGKILL)

    def restart(self, sig=signal.SIGTERM, wait=True):
        self.stop(sig)
        return self.start(wait)

    def text(self):
        """Everything that it wrote since it was first started."""
        return self.logs + self.log.read_text(errors="replace")

    def lines(self):
        """The JSON lines about changes of source, connection and alarms."""
        return [json.loads(line) for line in self.text().splitlines() if line.startswith('{"ts"') and '"dpagent"' in line]

    def status(self):
        return request(self.status_port, "/status").json()

    def ready(self):
        """-> (is it ready, JSON)"""
        answer = request(self.status_port, "/status/ready")
        return answer.status == 200, answer.json()

    def alarms(self):
        """{name: text} of those that are on"""
        return {alarm["name"]: alarm["text"] for alarm in self.status()["alarms"]}

    def wait_alarm(self, name, on=True, seconds=10):
        wait_for(lambda: (name in self.alarms()) == on, f"the alarm {name} to be {'on' if on else 'off'}", seconds)
        return self.alarms().get(name)

    def wait_source(self, source, connected=None, seconds=20):
        def fits():
            status = self.status()
            return status["source"] == source and (connected is None or status["connected"] == connected)
        wait_for(fits, f"source {source}, connected {connected}", seconds)

    def wait_connected(self, connected=True, seconds=20):
        wait_for(lambda: self.status()["connected"] == connected, f"connected to be {connected}", seconds)

    def wait_saved(self, revision=None, seconds=10):
        """Until the image on disk has this local revision (default: the present one)."""
        wanted = revision or self.status()["revision"]
        wait_for(lambda: self.status()["snapshot"]["revision"] >= wanted, f"revision {wanted} to be on disk", seconds)

    def metrics(self):
        answer = request(self.status_port, "/metrics")
        assert answer.status == 200, answer
        return answer.body.decode()

    def metric(self, series):
        """The value of the series, labels included; None when there is none."""
        for line in self.metrics().splitlines():
            if line.rsplit(" ", 1)[0] == series:
                return float(line.rsplit(" ", 1)[1])
        return None

    def memory(self):
        """resident bytes"""
        return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{self.pid}/status").read_text()).group(1)) * 1024


class Pki:
    """A CA, and certificates of it, in a folder; `kineshim pki` makes them."""

    def __init__(self, folder, name="pki"):
        self.folder = folder / name
        self.folder.mkdir()
        self.ca = self.folder / "ca.crt"
        self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
                     f"/CN={name}", "-keyout", "ca.key", "-out", "ca.crt")

    def openssl(self, *args):
        subprocess.run(["openssl", *args], cwd=self.folder, check=True, capture_output=True)

    def cert(self, name):
        return self.folder / f"{name}.crt"

    def key(self, name):
        return self.folder / f"{name}.key"

    def issue(self, name, hosts="IP:127.0.0.1,DNS:localhost", days=2, expired=False):
        (self.folder / f"{name}.ext").write_text(f"subjectAltName={hosts}\nextendedKeyUsage=serverAuth,clientAuth\n")
        self.openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
                     "-keyout", f"{name}.key", "-out", f"{name}.csr")
        if expired:
            # x509 -req has no start date in this OpenSSL; ca has, and wants a database.
            (self.folder / "index.txt").write_text("")
            (self.folder / "ca.cnf").write_text("[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\nnew_certs_dir=.\ndefault_md=sha256\n"
                                                "policy=p\nrand_serial=yes\nunique_subject=no\n[p]\ncommonName=supplied\n")
            self.openssl("ca", "-batch", "-config", "ca.cnf", "-cert", "ca.crt", "-keyfile", "ca.key", "-in", f"{name}.csr",
                         "-out", f"{name}.crt", "-notext", "-extfile", f"{name}.ext", "-startdate", "20200101000000Z", "-enddate",
                         "20200201000000Z")
        else:
            self.openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days",
                         str(days), "-extfile", f"{name}.ext", "-out", f"{name}.crt")
        return self


class Scenario(dpproxy.Scenario):
    """One etcd in scenario.etcd; what a test starts besides with keep(), agent() … ends with it."""

    def start(self):
        self.etcd = self.keep(Store(self.folder))
        self.serial = 0

    def name(self, what):
        self.serial += 1
        return f"{what}{self.serial}"

    def agent(self, upstream=None, args=(), name=None, **more):
        return self.keep(Agent(self.folder, upstream or self.etcd.url, name or self.name("agent"), args, **more))

    def store(self, name=None, **more):
        return self.keep(Store(self.folder, name or self.name("store"), **more))

    def proxy(self, url, config=None, workers=1):
        """A dpproxy in front of an etcd or agent."""
        folder = self.folder / self.name("proxy")
        folder.mkdir(mode=0o755)
        return self.keep(Gateway(folder, url, config, workers))

    def run(self, tests):
        for test in tests:
            self.run_one(self.to_its_end(test))
        print(f"1..{self.count}")

    def to_its_end(self, test):
        """The test, the end of what it started, and what sanitizers had to say until then."""
        def run(scenario):
            before = len(self.running)
            try:
                test(scenario)
            finally:
                started = self.running[before:]
                del self.running[before:]
                for server in reversed(started):
                    server.stop()
            for server in started:
                found = CRASHES.search(server.text()) if isinstance(server, Agent) else None
                assert not found, server.text()[found.start():][:4000]
        return functools.wraps(test)(run)


def run_program(args, env=None, seconds=20, text=None):
    """Runs dpagent with these arguments to its end: -> (exit status, stdout, stderr)"""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("DPAGENT_")}
    done = subprocess.run([DPAGENT, *args], env={**clean, **(env or {})}, input=text, capture_output=True, text=True, timeout=seconds)
    return done.returncode, done.stdout, done.stderr


def main(tests, both=False, needs=("etcd",)):
    """Runs the tests on a new scenario and ends the program; both: with an etcd and with a kineshim above."""
    status = dpproxy.on_each_store() if both else None
    if status is not None:
        sys.exit(status)
    for program in needs:
        if not shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin"):
            print(f"Bail out! {program} is needed")
            sys.exit(99)
    scenario = Scenario()
    code = 99
    try:
        scenario.start()
        scenario.run(tests)
        code = 1 if scenario.failed else 0
    except Exception as e:  # whatever it is, the servers end
        print(f"Bail out! {e!r}".replace("\n", " "))
    finally:
        scenario.finish()
    sys.exit(code)
