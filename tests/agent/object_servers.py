# SPDX-License-Identifier: Apache-2.0
"""Object storage for tests/agent/object.py: servers of others, a relay of ours in front of them that delays, denies and loses, and
stand-ins for what exists only in a cloud (STS, the metadata of containers and instances).

  VersityGw  an S3 server that checks signatures and has conditional writes (Go module)
  S3rver     an S3 server that ignores If-None-Match (npm)
  Azurite    Microsoft's Azure Blob Storage (npm)"""
import base64
import datetime
import hashlib
import hmac
import http.client
import http.server
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import BUILD, Process, free_port, wait_for  # noqa: E402

CACHE = pathlib.Path(os.environ.get("KS_INTEROP_CACHE") or BUILD / "interop").resolve()
NODE = CACHE / "object" / "node_modules"
PROGRAMS = {"versitygw": CACHE / "bin" / "versitygw", "s3rver": NODE / "s3rver" / "bin" / "s3rver.js",
            "azurite": NODE / "azurite" / "dist" / "src" / "blob" / "main.js"}
VERSITYGW = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
TOOL = str(BUILD / "tests" / "agent" / "object_tool")
ID, SECRET = "testkeyid0123", "test-secret-0123456789"
# Azurite's, known to everybody.
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def install():
    """Fetches the servers into the cache; -> what could not be had."""
    missing = []
    (CACHE / "object").mkdir(parents=True, exist_ok=True)
    shutil.copy(pathlib.Path(__file__).resolve().parent / "object" / "package.json", CACHE / "object")
    if shutil.which("npm"):
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--silent"], cwd=CACHE / "object", check=False, stdout=sys.stderr)
    else:
        missing.append("there is no npm on this machine")
    if shutil.which("go"):
        subprocess.run(["go", "install", VERSITYGW], env={**os.environ, "GOBIN": str(CACHE / "bin")}, check=False, stdout=sys.stderr)
    else:
        missing.append("there is no go on this machine")
    return missing + [f"{name} is not there" for name in PROGRAMS if not there(name)]


def there(name):
    return PROGRAMS[name].exists() and (name == "versitygw" or shutil.which("node"))


class Tool:
    """The program that drives dpagent's library. Keys come by 'env' alone."""

    def __init__(self, url, env=None, args=()):
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "AZURE_", "http", "HTTP", "DPAGENT_"))}
        self.errors = []
        self.process = subprocess.Popen([TOOL, url, *map(str, args)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True, env={**clean, **(env or {})})
        self.reader = threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True)
        self.reader.start()
        self.said = []

    def ask(self, *words):
        """-> JSON; {"failed": …, "error": …} when it did"""
        try:
            self.process.stdin.write(" ".join(map(str, words)) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self.process.stdout.readline()
        if not line:
            self.stop()
            raise AssertionError(f"object_tool ended with {self.process.returncode}: {self.errors[-20:]}")
        self.said.append(line)
        return json.loads(line)

    def do(self, *words):
        answer = self.ask(*words)
        assert "failed" not in answer, (words, answer)
        return answer

    def fails(self, *words):
        answer = self.ask(*words)
        assert "failed" in answer, (words, answer)
        return answer["failed"], answer["error"]

    def status(self):
        return self.do("status")

    def alarm(self, name):
        return self.status()["alarms"].get(name)

    def wait(self, what, condition, seconds=10):
        """Until the condition holds of the status -> the status"""
        def holds():
            status = self.status()
            return status if condition(status) else None
        try:
            return wait_for(holds, what, seconds)
        except AssertionError as e:
            raise AssertionError(f"{e}: {self.status()}") from None

    def wait_writes(self, count, seconds=10):
        return self.wait(f"{count} exports", lambda s: s["writes"] >= count, seconds)

    def wait_alarm(self, name, text="", seconds=10):
        return self.wait(f"alarm {name}", lambda s: name in s["alarms"] and text in s["alarms"][name], seconds)["alarms"][name]

    def text(self):
        return "".join(self.said) + "".join(self.errors)

    def stop(self, seconds=20):
        """-> how it ended: 0, or something is wrong."""
        if self.process.stdin and not self.process.stdin.closed:
            try:
                self.process.stdin.close()
            except BrokenPipeError:
                pass
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.reader.join(5)
        self.process.stdout.close()
        return self.process.returncode


class VersityGw:
    """Buckets are folders, and objects files: put() and names() go around the server."""

    def __init__(self, folder, name="versitygw", tls=None, cert="server", users=False):
        self.port, self.root, self.log = free_port(), folder / name, folder / f"{name}.log"
        self.root.mkdir()
        args = [str(PROGRAMS["versitygw"]), "--access", ID, "--secret", SECRET, "--port", f"127.0.0.1:{self.port}", "--region",
                "us-east-1", "--quiet"]
        if tls:
            args += ["--cert", str(tls.cert(cert)), "--key", str(tls.key(cert))]
        if users:
            (folder / f"{name}.users").mkdir()
            args += ["--iam-dir", str(folder / f"{name}.users")]
        self.process = Process([*args, "posix", str(self.root)], self.log)
        self.endpoint = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        started(self, "versitygw")

    env = {"AWS_ACCESS_KEY_ID": ID, "AWS_SECRET_ACCESS_KEY": SECRET}

    def bucket(self, name):
        (self.root / name).mkdir()
        return name

    def url(self, bucket, name="fb/prod", endpoint=None, **more):
        return f"s3://{bucket}/{name}?" + urllib.parse.urlencode({"endpoint": endpoint or self.endpoint, **more})

    def add_user(self, user, secret):
        subprocess.run([str(PROGRAMS["versitygw"]), "admin", "--access", ID, "--secret", SECRET, "--region", "us-east-1",
                        "--endpoint-url", self.endpoint, "create-user", "--access", user, "--secret", secret, "--role", "user"],
                       check=True, capture_output=True)

    def put(self, bucket, name, data):
        path = self.root / bucket / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def data(self, bucket, name):
        return (self.root / bucket / name).read_bytes()

    def names(self, bucket, name="fb/prod"):
        folder = self.root / bucket / name
        return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) if folder.exists() else []

    def stop(self):
        self.process.stop()


class S3rver:
    def __init__(self, folder):
        self.port = free_port()
        self.process = Process(["node", str(PROGRAMS["s3rver"]), "-d", str(folder / "s3rver"), "-a", "127.0.0.1", "-p",
                                str(self.port), "--no-vhost-buckets", "--configure-bucket", "bkt"], folder / "s3rver.log")
        self.endpoint = f"http://127.0.0.1:{self.port}"
        started(self, "s3rver")

    env = {"AWS_ACCESS_KEY_ID": "S3RVER", "AWS_SECRET_ACCESS_KEY": "S3RVER"}

    def url(self, bucket, name="fb/prod"):
        return f"s3://{bucket}/{name}?endpoint={self.endpoint}&path_style=true"

    def stop(self):
        self.process.stop()


class Azurite:
    def __init__(self, folder):
        self.port = free_port()
        self.process = Process(["node", str(PROGRAMS["azurite"]), "--inMemoryPersistence", "--blobHost", "127.0.0.1", "--blobPort",
                                str(self.port), "--disableTelemetry"], folder / "azurite.log")
        self.endpoint = f"http://127.0.0.1:{self.port}/{ACCOUNT}"
        started(self, "azurite")

    env = {"AZURE_STORAGE_KEY": ACCOUNT_KEY}

    def url(self, container, name="fb/prod", endpoint=None):
        return f"azure://{ACCOUNT}/{container}/{name}?endpoint={endpoint or self.endpoint}"

    def bucket(self, name):
        """A request of Python's own, signed with the account's key."""
        date = datetime.datetime.now(datetime.timezone.utc).strftime("%a, %d %b %Y %H:%M:%S GMT")
        line = "PUT\n" + 11 * "\n" + f"x-ms-date:{date}\nx-ms-version:2021-12-02\n/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
        sign = base64.b64encode(hmac.new(base64.b64decode(ACCOUNT_KEY), line.encode(), hashlib.sha256).digest()).decode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("PUT", f"/{ACCOUNT}/{name}?restype=container", headers={
            "x-ms-date": date, "x-ms-version": "2021-12-02", "Authorization": f"SharedKey {ACCOUNT}:{sign}", "Content-Length": "0"})
        answer = connection.getresponse()
        assert answer.status == 201, (answer.status, answer.read())
        connection.close()
        return name

    @staticmethod
    def sas(container, rights="rcwdl", hours=1):
        """A token for one container."""
        end = (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")
        version = "2020-12-06"
        fields = [rights, "", end, f"/blob/{ACCOUNT}/{container}", "", "", "", version, "c", "", "", "", "", "", "", ""]
        sign = hmac.new(base64.b64decode(ACCOUNT_KEY), "\n".join(fields).encode(), hashlib.sha256).digest()
        return urllib.parse.urlencode({"sv": version, "sr": "c", "sp": rights, "se": end, "sig": base64.b64encode(sign).decode()})

    def stop(self):
        self.process.stop()


def started(server, what):
    """node reads hundreds of files first."""
    try:
        wait_for(lambda: connects(server.port), what, 120)
    except BaseException:
        server.process.stop()
        raise


def connects(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.connect()
        return True
    finally:
        connection.close()


class Answers:
    """An HTTP server whose answers a function gives: rule(request) -> (status, headers, body) | None to close the connection without an
    answer. request: .method .path .headers .body."""

    def __init__(self, rule):
        self.rule, self.requests, self.stopping = rule, [], threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self):
                self.method = self.command
                self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.requests.append((self.method, self.path))
                answer = outer.rule(self)
                if answer is None:
                    self.close_connection = True
                    return
                status, headers, body = answer
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if status != 204:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

            def handle_one_request(self):
                try:
                    super().handle_one_request()
                except OSError:        # the other side was tired of waiting
                    self.close_connection = True

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self):
        self.stopping.set()
        self.server.shutdown()
        self.server.server_close()


class Relay(Answers):
    """In front of a server. relay.before(request) may sleep, or give an answer instead of the server's; relay.after(request, answer)
    gives the answer that is passed on, None to lose it; relay.rewrite(path) the path that the server sees."""

    def __init__(self, port, path=""):
        super().__init__(self.pass_on)
        self.target = port
        self.endpoint += path
        self.before, self.after, self.rewrite = (lambda r: None), (lambda r, a: a), (lambda p: p)

    def sleep(self, seconds):
        self.stopping.wait(seconds)

    def pass_on(self, request):
        instead = self.before(request)
        if instead is not None:
            return instead
        connection = http.client.HTTPConnection("127.0.0.1", self.target, timeout=30)
        try:
            connection.putrequest(request.method, self.rewrite(request.path), skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name.lower() not in ("expect", "connection"):
                    connection.putheader(name, value)
            connection.endheaders(request.body or None)
            answer = connection.getresponse()
            body = answer.read()
            headers = {k: v for k, v in answer.getheaders() if k.lower() not in ("content-length", "transfer-encoding", "connection", "keep-alive")}
            return self.after(request, (answer.status, headers, body))
        finally:
            connection.close()


def later(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
