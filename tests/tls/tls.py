#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""TLS as clients meet it: etcdctl, curl, and Python's own TLS where those are too well-behaved. Prints TAP.

KINESHIM names the program, by default the one of this build. KS_TEST_KEEP=1 keeps the folder.
"""

import base64
import json
import os
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings

WAIT_S = 60
program = os.path.realpath(os.environ.get("KINESHIM") or
                           os.path.join(os.environ.get("top_builddir", "."), "kineshim/kineshim"))
folder = tempfile.mkdtemp(prefix="ks-tls.", dir="/tmp")
os.chdir(folder)
for name in list(os.environ):
    if name.startswith(("KINESHIM", "ETCDCTL", "http_proxy", "https_proxy", "HTTP", "ALL_PROXY")):
        del os.environ[name]
os.environ["ETCDCTL_API"] = "3"


def run(*command, check=True, timeout=WAIT_S, stdin=None):
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, input=stdin)
    if check and done.returncode != 0:
        raise AssertionError(f"{command} gave {done.returncode}: {done.stdout}{done.stderr}")
    return done


def until(condition, what):
    end = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"never: {what}")
        time.sleep(0.02)


class Server:
    """On a free port, which it is asked for; ready when it says so."""
    all = []

    def __init__(self, name, *flags, urls="https://127.0.0.1:0"):
        self.log = f"{name}.log"
        self.file = open(self.log, "w")
        self.process = subprocess.Popen([program, "--log-format=console", f"--data-dir={name}.data", f"--name={name}",
                                         f"--listen-client-urls={urls}", *flags],
                                        stdout=self.file, stderr=self.file, stdin=subprocess.DEVNULL)
        Server.all.append(self)
        until(lambda: self.process.poll() is not None or "ready to serve" in self.text(), f"{name} is ready")
        if self.process.poll() is not None:
            raise AssertionError(self.text())
        self.urls = re.search(r"ready to serve client requests urls=(\S+)", self.text()).group(1).split(",")
        port = re.search(r":(\d+)$", self.urls[0])
        self.port = int(port.group(1)) if port else 0

    def text(self):
        with open(self.log) as file:
            return file.read()

    def says(self, text):
        until(lambda: text in self.text(), f"{self.log} says {text}")

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def memory_kib(self):
        with open(f"/proc/{self.process.pid}/status") as file:
            return int(re.search(r"VmRSS:\s+(\d+)", file.read()).group(1))

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(WAIT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.file.close()
        Server.all.remove(self)
        return self.process.returncode


# ---- certificates ----

def pki(*arguments, **how):
    return run(program, "pki", *arguments, **how)


def make_certificates():
    for authority in ("pki", "other"):
        pki("init", f"--dir={authority}", f"--name={authority} CA")
        pki("server", "localhost", "127.0.0.1", f"--dir={authority}")
        for client in ("alice", "mallory"):
            pki("client", client, f"--dir={authority}")
    pki("client", "hosted", "dp.example.com", "--dir=pki")
    pki("client", "root", "--dir=pki")
    pki("revoke", "mallory", "--dir=pki")
    dated("expired", "20200101000000Z", "20210101000000Z")
    dated("early", "20980101000000Z", "20990101000000Z")


def dated(name, begin, end):
    """Only `openssl ca` takes both ends of a certificate's life."""
    os.mkdir("ca")
    open("ca/index.txt", "w").close()
    with open("ca/serial", "w") as file:
        file.write("01\n")
    with open("ca/conf", "w") as file:
        file.write("[ca]\ndefault_ca=d\n[d]\ndatabase=ca/index.txt\nserial=ca/serial\nnew_certs_dir=ca\n"
                   "default_md=sha256\npolicy=p\nrand_serial=yes\n[p]\ncommonName=supplied\n")
    run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"pki/{name}.key",
        "-out", "ca/csr", "-subj", f"/CN={name}")
    run("openssl", "ca", "-batch", "-config", "ca/conf", "-cert", "pki/ca.pem", "-keyfile", "pki/ca.key", "-in", "ca/csr",
        "-out", f"pki/{name}.pem", "-startdate", begin, "-enddate", end, "-notext")
    shutil.rmtree("ca")


OWN = ("--cert-file=pki/server.pem", "--key-file=pki/server.key")


# ---- clients ----

def ctl(server, *arguments, cert=None, ca="pki/ca.pem", scheme="https", check=True, timeout="3s"):
    tls = [f"--cacert={ca}"] if scheme == "https" else []
    if cert:
        tls += [f"--cert={cert}.pem", f"--key={cert}.key"]
    return run("etcdctl", f"--endpoints={scheme}://127.0.0.1:{server.port}", f"--dial-timeout={timeout}",
               f"--command-timeout={timeout}", *tls, *arguments, check=check)


def curl(server, path, *arguments, cert=None, ca="pki/ca.pem", scheme="https", check=True):
    tls = ["--cacert", ca] + (["--cert", f"{cert}.pem", "--key", f"{cert}.key"] if cert else [])
    return run("curl", "-sS", "-m", "20", *tls, *arguments, f"{scheme}://127.0.0.1:{server.port}{path}", check=check)


def context(cert=None, ca="pki/ca.pem", alpn=None, version=None):
    made = ssl.create_default_context(cafile=ca)
    if cert:
        made.load_cert_chain(f"{cert}.pem", f"{cert}.key")
    if alpn:
        made.set_alpn_protocols(alpn)
    if version:
        made.minimum_version = made.maximum_version = version
    return made


def dial(server):
    made = socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def connect(server, **how):
    raw = dial(server)
    try:
        return context(**how).wrap_socket(raw, server_hostname="localhost")
    except BaseException:
        raw.close()
        raise


def ask(connection, path="/version", close=False):
    ending = "Connection: close\r\n" if close else ""
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{ending}\r\n".encode())
    return answer_of(connection)


def answer_of(connection):
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        assert piece, f"cut off after {data!r}"
        data += piece
    head, body = data.split(b"\r\n\r\n", 1)
    size = int(re.search(rb"(?i)content-length: *(\d+)", head).group(1))
    while len(body) < size:
        piece = connection.recv(65536)
        assert piece, "cut off in the body"
        body += piece
    return head.split(b"\r\n")[0].decode(), body


def serves(server, **how):
    """A whole exchange; with TLS 1.3 a client hears of its refusal only when it reads."""
    with connect(server, **how) as connection:
        return ask(connection)[0] == "HTTP/1.1 200 OK"


def refused(server, expected, **how):
    try:
        serves(server, **how)
    except ssl.SSLError as error:
        assert re.search(expected, str(error)), f"{error} is not {expected}"
        return
    raise AssertionError("it was let in")


def serial_of(server, **how):
    with connect(server, **how) as connection:
        return connection.getpeercert()["serialNumber"]


def post(server, path, body, cert=None):
    return json.loads(curl(server, path, "-d", json.dumps(body), cert=cert).stdout)


# ---- cases: server certificates ----

def both_protocols_on_one_port_with_and_without_tls(server):
    ctl(server, "put", "a", "1")
    assert ctl(server, "get", "a", "--print-value-only").stdout == "1\n"
    assert ctl(server, "get", "a", "--print-value-only", scheme="http").stdout == "1\n"
    for scheme in ("https", "http"):
        assert "etcdserver" in curl(server, "/version", scheme=scheme).stdout
    assert post(server, "/v3/kv/range", {"key": "YQ=="})["kvs"][0]["value"] == "MQ=="
    assert server.urls == [f"https://127.0.0.1:{server.port}", f"http://127.0.0.1:{server.port}"]


def alpn_chooses_what_the_client_can_use(server):
    for offer, chosen in ((["h2"], "h2"), (["http/1.1"], "http/1.1"), (["h2", "http/1.1"], "http/1.1"),
                          (["spdy/3", "h2"], "h2"), (None, None)):
        with connect(server, alpn=offer) as connection:
            assert connection.selected_alpn_protocol() == chosen, (offer, connection.selected_alpn_protocol())
    for offer in (["spdy/3"], ["h3", "http/1.0"], ["h2c"]):
        try:
            connect(server, alpn=offer).close()
        except ssl.SSLError as error:
            assert "NO_APPLICATION_PROTOCOL" in str(error).upper().replace(" ", "_"), error
        else:
            raise AssertionError(f"{offer} was accepted")


def only_tls_12_and_newer(server):
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        assert serves(server, version=version)
    warnings.simplefilter("ignore", DeprecationWarning)
    old = context()
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    with dial(server) as raw:
        try:
            old.wrap_socket(raw, server_hostname="localhost").close()
        except ssl.SSLError as error:
            assert "PROTOCOL_VERSION" in str(error).upper().replace(" ", "_"), error
        else:
            raise AssertionError("TLS 1.1 was accepted")


def no_session_is_resumed(server):
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        made = context(version=version)
        with made.wrap_socket(dial(server), server_hostname="localhost") as first:
            ask(first)
            session = first.session
        assert session is None or not session.has_ticket
        with made.wrap_socket(dial(server), server_hostname="localhost", session=session) as second:
            ask(second)
            assert not second.session_reused


def clients_with_another_ca_see_a_wrong_server(server):
    assert curl(server, "/version", ca="other/ca.pem", check=False).returncode == 60
    assert ctl(server, "get", "a", ca="other/ca.pem", check=False, timeout="1s").returncode != 0


def plaintext_on_a_tls_port_is_told_and_closed(server):
    with dial(server) as raw:
        raw.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
        data = b""
        while piece := raw.recv(4096):
            data += piece
    assert data.startswith(b"HTTP/1.0 400 ") and b"HTTPS" in data
    for garbage in (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x00\x01\x02\x03" * 50, b"SSH-2.0-x\r\n"):
        with dial(server) as raw:
            raw.sendall(garbage)
            assert closed(raw)
    assert serves(server)


def closed(raw):
    try:
        while raw.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True


def send_and_end(raw, data):
    try:
        raw.sendall(data)
        raw.shutdown(socket.SHUT_WR)
    except OSError: # the server may have had enough
        pass


def garbage_inside_tls_records_harms_nobody(server):
    good = client_hello()
    with connect(server) as other:
        for at in range(0, len(good), 7):
            with dial(server) as raw:
                send_and_end(raw, good[:at] + bytes([good[at] ^ 0xff]) + good[at + 1:] + b"\x17\x03\x03\xff\xff" + bytes(300))
                assert closed(raw)
        for bad in (b"\x16", b"\x16\x03\x01\xff\xff" + bytes(70000), b"\x16\x03\x03\x00\x00" * 1000):
            with dial(server) as raw:
                send_and_end(raw, bad)
                assert closed(raw)
        assert ask(other)[0] == "HTTP/1.1 200 OK"


def client_hello(**how):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context(**how).wrap_bio(incoming, outgoing, server_hostname="localhost")
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def settled_descriptors(server):
    """How many there are when those of earlier connections are closed."""
    seen = []

    def unchanged():
        seen.append(server.descriptors())
        time.sleep(0.02)
        return len(seen) >= 10 and len(set(seen[-10:])) == 1

    until(unchanged, "descriptors settle")
    return seen[-1]


def half_handshakes_do_not_hold_up_others(server):
    hello = client_hello()
    before = settled_descriptors(server)
    idle = [dial(server) for _ in range(300)]
    try:
        for i, raw in enumerate(idle):
            raw.sendall(hello[:1 + i % (len(hello) - 1)] if i % 3 else hello)
        until(lambda: server.descriptors() >= before + 300, "all are accepted")
        began = time.monotonic()
        for _ in range(10):
            assert serves(server)
        ctl(server, "put", "half", "1")
        assert time.monotonic() - began < WAIT_S / 2
    finally:
        for raw in idle:
            raw.close()
    until(lambda: server.descriptors() <= before + 5, "the half ones are gone")


def clients_that_leave_in_the_middle_leave_nothing(server):
    hello = client_hello()
    assert serves(server)
    before = server.descriptors()
    for i in range(200):
        raw = dial(server)
        raw.sendall(hello if i % 2 else hello[:100])
        if i % 3 == 0: # a reset
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.close()
    until(lambda: server.descriptors() <= before + 5, "descriptors are given back")


def churn_leaks_nothing(server):
    def rounds(number):
        for i in range(number):
            with connect(server, alpn=["h2"] if i % 5 == 0 else None) as connection:
                if i % 5:
                    ask(connection, close=i % 2 == 0)
                if i % 7 == 0:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    rounds(300)
    until(lambda: server.descriptors() < 100, "warm")
    before, memory = server.descriptors(), server.memory_kib()
    rounds(700)
    until(lambda: server.descriptors() <= before + 5, "descriptors are given back")
    # An SSL object is about 20 KiB: 700 of them would show. Sanitizers keep what was freed.
    if not os.environ.get("KS_TEST_SANITIZED") and "asan" not in run("nm", "-D", program, check=False).stdout:
        assert server.memory_kib() < memory + 8000, (memory, server.memory_kib())


def large_answers_and_slow_readers(server):
    value = "v" * 60000
    for i in range(60):
        post(server, "/v3/kv/put", {"key": encode(f"big/{i:03}"), "value": encode(value)})
    body = json.dumps({"key": encode("big/"), "range_end": encode("big0")})
    expected = curl(server, "/v3/kv/range", "-d", body, scheme="http").stdout
    assert len(expected) > 4_000_000
    assert len(curl(server, "/v3/kv/range", "-d", body).stdout) == len(expected)
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.settimeout(WAIT_S)
    raw.connect(("127.0.0.1", server.port))
    with context().wrap_socket(raw, server_hostname="localhost") as slow:
        slow.sendall(f"POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}"
                     .encode())
        # It reads nothing for now; the others do not mind.
        for _ in range(5):
            assert serves(server)
        got = bytearray()
        while piece := slow.recv(4000):
            got += piece
    assert expected[-100:].encode() in bytes(got[-2000:]), got[-200:]
    assert len(got) > len(expected)
    keys = ctl(server, "get", "big/", "--prefix", "--print-value-only").stdout
    assert keys == (value + "\n") * 60


def encode(text):
    return base64.b64encode(text.encode()).decode()


def large_requests_arrive_whole(server):
    value = "".join(chr(97 + i % 26) for i in range(1_300_000))
    with open("large", "w") as file:
        file.write(value)
    with open("large") as file:
        subprocess.run(["etcdctl", f"--endpoints=https://127.0.0.1:{server.port}", "--cacert=pki/ca.pem", "put", "large"],
                       stdin=file, check=True, timeout=WAIT_S, stdout=subprocess.DEVNULL)
    assert ctl(server, "get", "large", "--print-value-only").stdout == value + "\n"


def half_close_passes_in_both_directions(server):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with dial(server) as raw:
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                raw.sendall(outgoing.read())
                incoming.write(raw.recv(65536))
        client.write(b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        try:
            client.unwrap() # our close_notify
        except (ssl.SSLWantReadError, ssl.SSLError):
            pass
        raw.sendall(outgoing.read())
        raw.shutdown(socket.SHUT_WR)
        records = b""
        while piece := raw.recv(65536):
            records += piece
    # Encrypted, so only the shape shows: the answer, then an alert (which TLS 1.3 dresses as data) of 19 bytes or so.
    sizes = []
    while records:
        size = struct.unpack(">H", records[3:5])[0]
        sizes.append(size)
        records = records[5 + size:]
    assert sizes and sizes[-1] <= 40 and max(sizes) > 100, sizes


def the_server_says_goodbye(server):
    with connect(server) as connection:
        ask(connection, close=True)
        connection.suppress_ragged_eofs = False
        assert connection.recv(10) == b"" # an end without close_notify would raise


def a_watch_is_freed_when_its_client_goes(server):
    body = json.dumps({"create_request": {"key": encode("w")}})
    with connect(server) as connection:
        connection.sendall(f"POST /v3/watch HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        got = b""
        while b"created" not in got:
            got += connection.recv(4096)
        ctl(server, "put", "w", "event")
        while b"events" not in got:
            got += connection.recv(4096)
        assert watchers(server) == 1
    until(lambda: watchers(server) == 0, "the watcher is gone")


def watchers(server):
    found = re.search(r"^etcd_debugging_mvcc_watcher_total (\d+)", curl(server, "/metrics").stdout, re.M)
    return int(found.group(1))


# ---- cases: clients' certificates ----

def only_good_certificates_get_in(server):
    assert serves(server, cert="pki/alice")
    assert serves(server, cert="pki/alice", version=ssl.TLSVersion.TLSv1_2)
    ctl(server, "put", "m", "tls", cert="pki/alice")
    assert "etcdserver" in curl(server, "/version", cert="pki/alice").stdout
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        refused(server, "(?i)certificate.required|handshake.failure", version=version)
        refused(server, "(?i)unknown.ca", cert="other/alice", version=version)
        refused(server, "(?i)certificate.expired", cert="pki/expired", version=version)
        refused(server, "(?i)bad.certificate|certificate.expired", cert="pki/early", version=version)
        refused(server, "(?i)certificate.revoked", cert="pki/mallory", version=version)
        refused(server, "(?i)unsupported.certificate", cert="pki/server", version=version)
    server.says("handshake failed: ") # which, is up to the limit of one a second
    for cert in (None, "other/alice", "pki/expired", "pki/early", "pki/mallory", "pki/server"):
        assert curl(server, "/version", cert=cert, check=False).returncode in (35, 56), cert
        assert ctl(server, "get", "m", cert=cert, check=False, timeout="1s").returncode != 0, cert


def the_revocation_list_is_read_again(server):
    pki("client", "bob", "--dir=pki")
    assert serves(server, cert="pki/bob")
    with connect(server, cert="pki/bob") as before:
        ask(before)
        pki("revoke", "bob", "--dir=pki")
        refused(server, "(?i)certificate.revoked", cert="pki/bob")
        assert ask(before)[0] == "HTTP/1.1 200 OK"
    assert serves(server, cert="pki/alice")


def a_tolerated_revocation_list_costs_nobody_his_name():
    """One that is out of date, and one of another CA: the client is verified, so it is a user, too."""
    with open("crl.cnf", "w", encoding="ascii") as file:
        file.write("[ca]\ndefault_ca=own\n[own]\ndatabase=crl.index\ndefault_md=sha256\n")
    open("crl.index", "w", encoding="ascii").close()
    for name, folder, ends in (("old", "pki", "20200201000000Z"), ("foreign", "other", "20990101000000Z")):
        subprocess.run(["openssl", "ca", "-config", "crl.cnf", "-gencrl", "-keyfile", f"{folder}/ca.key",
                        "-cert", f"{folder}/ca.pem", "-crl_lastupdate", "20200101000000Z", "-crl_nextupdate", ends,
                        "-out", f"{name}-crl.pem"], check=True, capture_output=True)
        server = Server(f"{name}-crl", *OWN, "--trusted-ca-file=pki/ca.pem", "--client-cert-auth",
                        f"--client-crl-file={name}-crl.pem")
        for arguments in (("user", "add", "root", "--no-password"), ("user", "grant-role", "root", "root"), ("auth", "enable"),
                          ("put", "a", "b"), ("user", "list")):
            ctl(server, *arguments, cert="pki/root")
        assert server.stop() == 0


class Load:
    """Clients that must not notice anything: one that stays, one that comes anew all the time, one watch."""

    def __init__(self, server, cert):
        self.server, self.cert = server, cert
        self.failures, self.asked, self.ended = [], 0, False
        self.lasting = connect(server, cert=cert)
        self.watch = subprocess.Popen(["etcdctl", f"--endpoints=https://127.0.0.1:{server.port}", "--cacert=pki/ca.pem",
                                       f"--cert={cert}.pem", f"--key={cert}.key", "watch", "load"],
                                      stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        try:
            while not self.ended:
                assert ask(self.lasting)[0] == "HTTP/1.1 200 OK"
                self.asked += 1
        except Exception as error: # pylint: disable=broad-except
            self.failures.append(error)

    def went_on(self):
        before = self.asked
        until(lambda: self.failures or self.asked > before + 5, "the lasting client goes on")
        assert not self.failures, self.failures

    def end(self):
        self.ended = True
        self.thread.join()
        self.lasting.close()
        self.watch.terminate()
        self.watch.communicate()


def replace(source, target):
    shutil.copy(source, target + ".new")
    os.rename(target + ".new", target)


def files_are_swapped_under_load():
    os.mkdir("swap")
    for name in ("server.pem", "server.key", "ca.pem"):
        shutil.copy(f"pki/{name}", f"swap/{name}")
    pki("server", "localhost", "127.0.0.1", "--dir=pki", "--name=next")
    server = Server("swap", "--cert-file=swap/server.pem", "--key-file=swap/server.key", "--trusted-ca-file=swap/ca.pem",
                    "--client-cert-auth")
    load = Load(server, "pki/alice")
    try:
        first = serial_of(server, cert="pki/alice")
        # The certificate before its key: for a moment they do not fit, and the old pair serves.
        replace("pki/next.pem", "swap/server.pem")
        assert serial_of(server, cert="pki/alice") == first
        replace("pki/next.key", "swap/server.key")
        second = serial_of(server, cert="pki/alice")
        assert second != first
        assert server.text().count("the changed files cannot be used") == 1
        load.went_on()
        # In place, as an editor does it.
        with open("swap/ca.pem", "w") as file:
            file.write("broken")
        assert serves(server, cert="pki/alice")
        refused(server, "(?i)unknown.ca", cert="other/alice")
        assert server.text().count("the changed files cannot be used") == 2
        replace("other/ca.pem", "swap/ca.pem")
        refused(server, "(?i)unknown.ca", cert="pki/alice")
        assert serves(server, cert="other/alice")
        load.went_on()
        # Whoever was in stays in: the watch, too.
        ctl(server, "put", "load", "seen", cert="other/alice")
        assert [load.watch.stdout.readline() for _ in range(3)] == ["PUT\n", "load\n", "seen\n"]
        with open("both.pem", "w") as file:
            for name in ("pki", "other"):
                with open(f"{name}/ca.pem") as part:
                    file.write(part.read())
        replace("both.pem", "swap/ca.pem")
        assert serves(server, cert="pki/alice") and serves(server, cert="other/alice")
        load.went_on()
    finally:
        load.end()
    assert server.stop() == 0


def names_can_be_demanded():
    server = Server("hosts", *OWN, "--trusted-ca-file=pki/ca.pem", "--client-cert-allowed-hostname=x.example.com,dp.example.com")
    assert serves(server, cert="pki/hosted")
    refused(server, "(?i)bad.certificate|certificate.unknown", cert="pki/alice")
    server.stop()
    server = Server("names", *OWN, "--trusted-ca-file=pki/ca.pem", "--client-cert-allowed-cn=alice")
    assert serves(server, cert="pki/alice")
    refused(server, "(?i)bad.certificate|certificate.unknown", cert="pki/hosted")
    server.stop()


def data_planes_may_read_and_nothing_else():
    """The recipe of docs/tls.md, on gRPC and on JSON."""
    for name in ("dp", "stranger"):
        pki("client", name, "--dir=pki")
    server = Server("manager", *OWN, "--trusted-ca-file=pki/ca.pem", "--client-cert-auth", "--client-crl-file=pki/crl.pem")

    def root(*arguments):
        return ctl(server, *arguments, cert="pki/root")

    root("put", "/apisix/routes/1", "{}")
    for arguments in (("user", "add", "root", "--no-password"), ("role", "add", "root"), ("user", "grant-role", "root", "root"),
                      ("role", "add", "dataplane"),
                      ("role", "grant-permission", "dataplane", "read", "/apisix", "--prefix=true"),
                      ("user", "add", "dp", "--no-password"), ("user", "grant-role", "dp", "dataplane"), ("auth", "enable")):
        root(*arguments)
    root("put", "/apisix/routes/2", "{}")
    assert ctl(server, "get", "/apisix/", "--prefix", "--keys-only", cert="pki/dp").stdout.split() == ["/apisix/routes/1",
                                                                                                        "/apisix/routes/2"]
    denied = ctl(server, "put", "/apisix/routes/1", "x", cert="pki/dp", check=False)
    assert denied.returncode != 0 and "permission denied" in denied.stderr
    everything = {"key": encode("/apisix"), "range_end": encode("/apisiy")}  # what APISIX reads when it starts
    assert post(server, "/v3/kv/range", everything, cert="pki/dp")["count"] == "2"
    for path, body, who in (("/v3/kv/put", {"key": encode("/apisix/routes/1"), "value": ""}, "dp"),
                            ("/v3/kv/range", {"key": encode("/other")}, "dp"),
                            ("/v3/kv/range", everything, "stranger"),
                            ("/v3/auth/user/list", {}, "dp")):
        assert post(server, path, body, cert=f"pki/{who}")["code"] in (7, 9), (path, who)
    # A user who is gone has no rights, on a connection that was open before, too.
    with connect(server, cert="pki/dp") as connection:
        text = json.dumps(everything)
        request = f"POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()
        connection.sendall(request)
        assert answer_of(connection)[0].startswith("HTTP/1.1 200")
        root("user", "delete", "dp")
        connection.sendall(request)
        assert not answer_of(connection)[0].startswith("HTTP/1.1 200")
    assert server.stop() == 0


# ---- cases: the program ----

def a_unix_socket_can_speak_tls():
    server = Server("unixs", *OWN, urls="unixs://unixs.sock")
    raw = socket.socket(socket.AF_UNIX)
    raw.settimeout(WAIT_S)
    raw.connect("unixs.sock")
    with context().wrap_socket(raw, server_hostname="localhost") as connection:
        assert ask(connection)[0] == "HTTP/1.1 200 OK"
    assert server.stop() == 0
    assert not os.path.exists("unixs.sock")


def auto_tls_keeps_its_certificate():
    for _ in range(2):
        server = Server("auto", "--auto-tls", "--self-signed-cert-validity=3")
        made = context(ca="auto.data/auto-tls/cert.pem")
        with made.wrap_socket(dial(server), server_hostname="localhost") as connection:
            assert ask(connection)[0] == "HTTP/1.1 200 OK"
            serial = connection.getpeercert()["serialNumber"]
        assert server.stop() == 0
    assert "making a certificate" not in server.text()
    text = run("openssl", "x509", "-in", "auto.data/auto-tls/cert.pem", "-noout", "-serial").stdout
    assert serial in text
    assert os.stat("auto.data/auto-tls/key.pem").st_mode & 0o777 == 0o600


def ports_speak_what_they_are_for():
    server = Server("split", *OWN, "--listen-client-http-urls=https://127.0.0.1:0", "--listen-metrics-urls=https://127.0.0.1:0")
    ports = {kind: int(port) for kind, port in re.findall(r"for=(\S+) url=https://127.0.0.1:(\d+)", server.text())}
    ctl(server, "put", "s", "1")
    try:
        connect(server, alpn=["http/1.1"]).close()
    except ssl.SSLError as error:
        assert "NO_APPLICATION_PROTOCOL" in str(error).upper().replace(" ", "_"), error
    else:
        raise AssertionError("HTTP/1.1 on a gRPC port")
    server.port = ports["HTTP/1.1"]
    assert serves(server, alpn=["h2", "http/1.1"])
    server.port = ports["metrics"]
    assert "etcd_server_has_leader" in curl(server, "/metrics").stdout
    assert curl(server, "/v3/kv/range", "-d", "{}", "-o", "/dev/null", "-w", "%{http_code}").stdout == "404"
    assert server.stop() == 0


def flags_that_do_not_fit_are_refused():
    url = "--listen-client-urls=https://127.0.0.1:0"
    for flags, says in (((url,), "TLS key/cert (--cert-file, --key-file) must be provided"),
                        ((url, "--cert-file=pki/server.pem"), "go together"),
                        ((url, *OWN, "--cipher-suites=TLS_NONE"), 'unexpected TLS cipher suite "TLS_NONE"'),
                        ((url, *OWN, "--tls-min-version=TLS1.1"), "--tls-min-version"),
                        ((url, *OWN, "--client-cert-auth"), "--trusted-ca-file"),
                        ((url, "--cert-file=pki/alice.pem", "--key-file=pki/server.key"), "key values mismatch"),
                        ((url, "--cert-file=missing", "--key-file=pki/server.key"), "cannot read the certificate")):
        done = run(program, "--data-dir=bad.data", *flags, check=False)
        assert done.returncode == 2 and says in (done.stdout + done.stderr).replace("\\", ""), (flags, done)


def a_stop_ends_open_connections_properly(server):
    with connect(server) as idle:
        ask(idle)
        watch = subprocess.Popen(["etcdctl", f"--endpoints=https://127.0.0.1:{server.port}", "--cacert=pki/ca.pem", "watch", "x"],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            until(lambda: watchers(server) == 1, "the watch is there")
            assert server.stop() == 0
        finally:
            watch.terminate()
            watch.wait()
        idle.suppress_ragged_eofs = False
        assert idle.recv(10) == b""


def pki_says_what_it_will_not_do():
    for arguments, status, says in ((("client", "alice", "--dir=pki"), 1, "not overwritten"),
                                    (("init", "--dir=pki"), 1, "not overwritten"),
                                    (("client", "x", "--dir=nowhere"), 1, "kineshim pki init"),
                                    (("client", "../x", "--dir=pki"), 2, "cannot be a name"),
                                    (("client", "ca", "--dir=pki"), 2, "cannot be a name"),
                                    (("server", "--dir=pki"), 2, "name the hosts"),
                                    (("server", "a b", "--dir=pki", "--name=s"), 2, "neither an IP address"),
                                    (("client", "y", "--dir=pki", "--days=0"), 2, "--days=0"),
                                    (("revoke", "mallory", "--dir=pki"), 1, "revoked before"),
                                    (("nothing",), 2, "no such command")):
        done = pki(*arguments, check=False)
        assert done.returncode == status and says in done.stderr, (arguments, done)
    assert "Usage" in pki("--help").stdout and "Usage" in pki("client", "--help").stdout
    for name in os.listdir("pki"):
        if name.endswith(".key") and name not in ("expired.key", "early.key"):
            assert os.stat(f"pki/{name}").st_mode & 0o777 == 0o600, name


def main():
    cases = []

    def plan(name, *body):
        cases.append((name, body))

    make_certificates()
    both = Server("both", *OWN, urls="https://127.0.0.1:0")
    both.stop()
    both = Server("both", *OWN, urls=f"https://127.0.0.1:{both.port},http://127.0.0.1:{both.port}")
    secure = Server("secure", *OWN)
    mutual = Server("mutual", *OWN, "--trusted-ca-file=pki/ca.pem", "--client-cert-auth", "--client-crl-file=pki/crl.pem")
    plan("one port speaks gRPC and HTTP/1.1, with TLS and without", both_protocols_on_one_port_with_and_without_tls, both)
    for case in (alpn_chooses_what_the_client_can_use, only_tls_12_and_newer, no_session_is_resumed,
                 clients_with_another_ca_see_a_wrong_server, plaintext_on_a_tls_port_is_told_and_closed,
                 garbage_inside_tls_records_harms_nobody, half_handshakes_do_not_hold_up_others,
                 clients_that_leave_in_the_middle_leave_nothing, large_requests_arrive_whole,
                 half_close_passes_in_both_directions, the_server_says_goodbye, a_watch_is_freed_when_its_client_goes,
                 churn_leaks_nothing):
        plan(case.__name__.replace("_", " "), case, secure)
    plan("large answers and slow readers", large_answers_and_slow_readers, both)
    for case in (only_good_certificates_get_in, the_revocation_list_is_read_again):
        plan(case.__name__.replace("_", " "), case, mutual)
    for case in (a_tolerated_revocation_list_costs_nobody_his_name, files_are_swapped_under_load, data_planes_may_read_and_nothing_else, names_can_be_demanded, a_unix_socket_can_speak_tls, auto_tls_keeps_its_certificate,
                 ports_speak_what_they_are_for, flags_that_do_not_fit_are_refused, pki_says_what_it_will_not_do):
        plan(case.__name__.replace("_", " "), case)
    plan("a stop ends open connections properly", a_stop_ends_open_connections_properly, secure)

    wanted = os.environ.get("KS_TEST_ONLY", "")
    cases = [case for case in cases if wanted in case[0]]
    print(f"1..{len(cases)}")
    failed = 0
    for number, (name, (body, *arguments)) in enumerate(cases, 1):
        try:
            body(*arguments)
            print(f"ok {number} - {name}", flush=True)
        except Exception: # pylint: disable=broad-except
            failed = 1
            print(f"not ok {number} - {name}")
            print("".join(f"# {line}\n" for line in traceback.format_exc().splitlines()), end="", flush=True)
    for server in list(Server.all):
        if server.stop() != 0:
            print(f"# {server.log}: ended with {server.process.returncode}\n" +
                  "".join(f"# {line}\n" for line in server.text().splitlines()[-40:]))
            failed = 1
    return failed


def ended(number, frame):
    raise SystemExit(128 + number)


signal.signal(signal.SIGTERM, ended)
code = 99
try:
    code = main()
finally:
    for left in list(Server.all):
        left.process.kill()
        left.process.wait()
    if not os.environ.get("KS_TEST_KEEP"):
        shutil.rmtree(folder, ignore_errors=True)
sys.exit(code)
