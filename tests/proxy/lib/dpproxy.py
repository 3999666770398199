# SPDX-License-Identifier: Apache-2.0
"""What scenario tests of the gateway need: an etcd, a dpproxy in front of it, an upstream that tells what it got, and TAP.
A program runs once in front of etcd and once in front of kineshim; KS_STORE=etcd, or kineshim, takes one of them, KS_TEST_ONLY=text
runs some of the tests, KS_TEST_KEEP=1 keeps the files."""
import base64
import gzip
import http.client
import http.server
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.parse

TOP = pathlib.Path(__file__).resolve().parents[3]
BUILD = pathlib.Path(os.environ.get("top_builddir", TOP / "build")).resolve()
DPPROXY = os.environ.get("DPPROXY", str(BUILD / "proxy" / "dpproxy"))
KINESHIM = os.environ.get("KINESHIM", str(BUILD / "kineshim" / "kineshim"))
STORE = os.environ.get("KS_STORE") or "etcd"  # or kineshim: what keeps the configuration


def free_port():
    """Below the ports that the kernel gives to connections: such a one could be taken before the server has it."""
    while True:
        port = random.SystemRandom().randrange(10000, 32000)
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def wait_for(condition, what, seconds=10):
    """Calls condition() until it is true; its result."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            result = condition()
        except (OSError, http.client.HTTPException) as e:
            result, what_failed = None, f" ({e})"
        else:
            what_failed = ""
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s for {what}{what_failed}")
        time.sleep(0.01)


class Process:
    """A server that was started, and ends with the test."""

    def __init__(self, args, log, env=None):
        self.out = open(log, "wb")
        self.process = subprocess.Popen(args, stdout=self.out, stderr=subprocess.STDOUT, env=env)

    def stop(self, sig=signal.SIGTERM, seconds=10):
        if self.process.poll() is None:
            self.process.send_signal(sig)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.out.close()
        return self.process.returncode


class Etcd:
    def __init__(self, folder):
        self.port, peer = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        peer_url = f"http://127.0.0.1:{peer}"
        self.args = ["etcd", "--data-dir", str(folder / "etcd"), "--listen-client-urls", self.url,
                     "--advertise-client-urls", self.url, "--listen-peer-urls", peer_url,
                     "--initial-advertise-peer-urls", peer_url, "--initial-cluster", f"default={peer_url}",
                     "--log-level", "error", "--unsafe-no-fsync"]
        if STORE == "kineshim":
            self.args = [KINESHIM, "--log-format=console", f"--data-dir={folder / 'kineshim'}",
                         f"--listen-client-urls={self.url}"]
        self.env, self.log = dict(os.environ, ETCD_UNSUPPORTED_ARCH="arm64"), folder / "etcd.log"
        self.start()

    def start(self):
        self.process = Process(self.args, self.log, self.env)
        wait_for(lambda: self.put("started", ""), STORE)       # it may answer before it takes writes

    def stop(self):
        self.process.stop()

    def call(self, path, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("POST", path, json.dumps(body))
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise OSError(f"etcd says {answer.status}: {text!r}")
            return json.loads(text)
        finally:
            connection.close()

    def put(self, key, value):
        """-> the revision"""
        answer = self.call("/v3/kv/put", {"key": base64.b64encode(key.encode()).decode(),
                                          "value": base64.b64encode(json.dumps(value).encode()).decode()})
        return int(answer["header"]["revision"])

    def delete(self, key):
        answer = self.call("/v3/kv/deleterange", {"key": base64.b64encode(key.encode()).decode()})
        return int(answer["header"]["revision"])


class Answer:
    def __init__(self, response, body):
        self.status, self.body = response.status, body
        self.pairs = response.getheaders()
        self.headers = {name.lower(): value for name, value in self.pairs}

    def all(self, name):
        return [value for n, value in self.pairs if n.lower() == name.lower()]

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"<{self.status} {self.headers} {self.body[:300]!r}>"


def request(port, path="/", method="GET", headers=None, body=None, timeout=10, tls=False):
    if tls:
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=timeout, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return Answer(response, response.read())
    finally:
        connection.close()


def is_bound_root():
    """Root that may not open everybody's files (./dev dist): nginx's master could not open again what its workers own."""
    capabilities = int(re.search(r"^CapEff:\s*(\w+)", pathlib.Path("/proc/self/status").read_text(), re.M).group(1), 16)
    return os.geteuid() == 0 and not capabilities & 1 << 1     # CAP_DAC_OVERRIDE


class Gateway:
    def __init__(self, folder, etcd_url, config=None, workers=2):
        self.folder = folder / "gateway"
        self.port, self.tls, self.control, self.metrics_port, self.status = (free_port() for _ in range(5))
        file = folder / "config.json"
        file.write_text(json.dumps(config or {}))
        self.args = [DPPROXY, "--config", str(file), "--etcd", etcd_url, "--listen", f"127.0.0.1:{self.port}",
                     "--tls-listen", f"127.0.0.1:{self.tls}", "--control", f"127.0.0.1:{self.control}",
                     "--metrics", f"127.0.0.1:{self.metrics_port}", "--status", f"127.0.0.1:{self.status}",
                     "--workers", str(workers), "--runtime-dir", str(self.folder)]
        if is_bound_root():
            self.args += ["--user", "root"]
        self.log = folder / "dpproxy.log"
        self.start()

    def start(self):
        self.process = Process(self.args, self.log)
        try:
            self.wait()
        except BaseException:
            self.process.stop()
            raise

    def wait(self):
        def ready():
            if self.process.process.poll() is not None:
                raise AssertionError("dpproxy ended: " + self.log.read_text(errors="replace")[-3000:])
            return request(self.status, "/status/ready").status == 200
        wait_for(ready, "dpproxy", 20)

    def stop(self):
        return self.process.stop()

    def request(self, path="/", method="GET", headers=None, body=None, timeout=10, tls=False):
        return request(self.tls if tls else self.port, path, method, headers, body, timeout, tls)

    def metrics(self):
        answer = request(self.metrics_port, "/apisix/prometheus/metrics")
        assert answer.status == 200, answer
        return answer.body.decode()

    def metric(self, line_start):
        """The value of the series whose line begins so."""
        for line in self.metrics().splitlines():
            if line.startswith(line_start):
                return float(line.rsplit(" ", 1)[1])
        return None

    def reached(self, revision):
        wait_for(lambda: (self.metric("apisix_config_revision ") or 0) >= revision, f"revision {revision}")

    def workers(self):
        """pids of the workers"""
        master = (self.folder / "nginx.pid").read_text().strip()
        children = pathlib.Path(f"/proc/{master}/task/{master}/children").read_text().split()
        return [int(pid) for pid in children if b"worker process" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()]

    def error_log(self):
        """What nginx wrote: into a file, or on standard error, which is the default."""
        files = [self.log, self.folder / "logs" / "error.log"]
        return "".join(file.read_text(errors="replace") for file in files if file.exists())


class Upstream:
    """An HTTP server that answers with what it got, as JSON. The path and query may ask for more: see do()."""

    def __init__(self):
        self.requests, self.lines = [], []
        self.lock = threading.Lock()
        upstream = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def do(self):
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                seen = {"method": self.command, "path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()},
                        "pairs": [[k.lower(), v] for k, v in self.headers.items()],
                        "body": body.decode(errors="replace"), "port": upstream.port}
                with upstream.lock:
                    upstream.requests.append(seen)
                url = urllib.parse.urlsplit(self.path)
                query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
                if "sleep" in query:
                    time.sleep(float(query["sleep"]))
                data = query["body"].encode() if "body" in query else json.dumps(seen).encode()
                if "x-echo" in seen["headers"]:
                    data = body
                headers = [("Content-Type", query.get("type", "application/json"))]
                headers += [tuple(h.split(":", 1)) for h in query.get("h", "").split("|") if h]
                if "gzip" in query:
                    data = gzip.compress(data)
                    headers.append(("Content-Encoding", "gzip"))
                self.send_response(int(query.get("status", 200)))
                for name, value in headers:
                    self.send_header(name, value)
                chunked = "x-echo" in seen["headers"]
                self.send_header(*(("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(len(data)))))
                self.end_headers()
                if chunked:
                    for i in range(0, len(data), 30000):
                        piece = data[i:i + 30000]
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                    self.wfile.write(b"0\r\n\r\n")
                elif self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = do_OPTIONS = do

            def parse_request(self):
                upstream.lines.append(self.raw_requestline.decode("latin-1"))
                return super().parse_request()

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def node(self):
        return {f"127.0.0.1:{self.port}": 1}

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Scenario:
    """One etcd, one gateway; `test` functions run one after the other, each a line of TAP."""

    def __init__(self, config=None, workers=2):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="dpproxy-test-"))
        os.chmod(self.folder, 0o755)     # the workers are another user when started as root
        self.running = []
        self.count = self.failed = 0
        self.config, self.workers = config, workers

    def start(self):
        self.etcd = self.keep(Etcd(self.folder))
        self.gateway = self.keep(Gateway(self.folder, self.etcd.url, self.config, self.workers))

    def keep(self, server):
        self.running.append(server)
        return server

    def put(self, path, value):
        """Puts an object (path as in "routes/1"), and waits until the gateway has it."""
        self.gateway.reached(self.etcd.put("/apisix/" + path, value))

    def delete(self, path):
        self.gateway.reached(self.etcd.delete("/apisix/" + path))

    def run_one(self, test):
        only = os.environ.get("KS_TEST_ONLY")
        if only and only not in test.__name__:
            return
        self.count += 1
        started = time.monotonic()
        try:
            test(self)
        except Exception:  # a failure is a line of TAP, and the others run
            self.failed += 1
            print(f"not ok {self.count} - {test.__name__}")
            for line in traceback.format_exc().splitlines():
                print("# " + line)
        else:
            print(f"ok {self.count} - {test.__name__} # {time.monotonic() - started:.2f} s")
        sys.stdout.flush()

    def run(self, tests):
        for test in tests:
            self.run_one(test)
        print(f"1..{self.count}")

    def finish(self):
        for server in reversed(self.running):
            server.stop()
        if self.failed:
            for file in sorted(self.folder.glob("*.log")) + sorted(self.folder.glob("gateway/logs/error.log")):
                print(f"# {file.name}:")
                for line in file.read_text(errors="replace").splitlines()[-40:]:
                    print("# | " + line[:400])
        if os.environ.get("KS_TEST_KEEP"):
            print(f"# kept {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)


def on_each_store():
    """Runs this program once for each store, and numbers the tests of all: -> the exit status | None when we are one of these."""
    if os.environ.get("KS_STORE"):
        return None
    count = worst = 0
    for store in ("etcd", "kineshim"):
        child = subprocess.Popen([sys.executable, *sys.argv], stdout=subprocess.PIPE, text=True, env=dict(os.environ, KS_STORE=store))
        for line in child.stdout:
            result = re.match(r"(not ok|ok) \d+ - (.*)", line)
            if result:
                count += 1
                line = f"{result.group(1)} {count} - {store}: {result.group(2)}\n"
            if not re.match(r"1\.\.\d+$", line):
                print(line, end="", flush=True)
        worst = max(worst, child.wait())
    print(f"1..{count}")
    return worst


def main(tests, config=None, workers=2, both=True):
    """Runs tests(scenario) on a new scenario and ends the program; both: on each store."""
    status = on_each_store() if both else None
    if status is not None:
        sys.exit(status)
    for program in ("etcd", "nginx"):
        if not shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin"):
            print(f"Bail out! {program} is needed")
            sys.exit(99)
    scenario = Scenario(config, workers)
    code = 99
    try:
        scenario.start()
        scenario.run(tests)
        code = 1 if scenario.failed else 0
    except Exception:
        print("Bail out! " + traceback.format_exc().replace("\n", "\n# "))
    finally:
        scenario.finish()
    sys.exit(code)
