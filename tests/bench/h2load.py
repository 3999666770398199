# SPDX-License-Identifier: Apache-2.0
"""Load of single calls of gRPC by nghttp2's h2load, on anything that speaks etcd's protocol, kine too.

h2load knows only HTTP's status, which is 200 whatever happened. So each request is sent once by nghttp, whose answer must say grpc-status 0 and have the
right value; then each answer's size must be that one's, and after puts the revision must have grown by as many. The key is made by the transaction with
which Kubernetes creates one, the only way that kine knows."""
import pathlib
import re
import struct
import subprocess
import time

KEY, VALUE = b"/bench/h2load", b"v" * 256


# ---- messages by hand ----

def varint(number):
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out + bytes([number]))


def bytes_field(field, data):
    return varint(field << 3 | 2) + varint(len(data)) + data


def frame(message):
    """As gRPC sends it: not compressed, its length, the message."""
    return struct.pack(">BI", 0, len(message)) + message


CREATE = (bytes_field(1, b"\x10\x02" + bytes_field(3, KEY) + b"\x30\x00") +   # mod_revision of the key = 0
          bytes_field(2, bytes_field(2, bytes_field(1, KEY) + bytes_field(2, VALUE))))
REQUESTS = {
    "create": ("/etcdserverpb.KV/Txn", frame(CREATE)),
    "h2load-put": ("/etcdserverpb.KV/Put", frame(bytes_field(1, KEY) + bytes_field(2, VALUE))),
    "h2load-range": ("/etcdserverpb.KV/Range", frame(bytes_field(1, KEY))),
    "h2load-serializable": ("/etcdserverpb.KV/Range", frame(bytes_field(1, KEY) + varint(7 << 3) + b"\1")),
}
HEADERS = ["-H", "content-type: application/grpc", "-H", "te: trailers"]


def run(command, seconds=120):
    """What it wrote, errors last. Its own messages are the reason when it fails."""
    done = subprocess.run([str(c) for c in command], capture_output=True, timeout=seconds)
    if done.returncode != 0:
        last = [line for line in done.stderr.decode(errors="replace").replace("\r", "\n").splitlines() if line.strip() and " INFO: " not in line]
        raise RuntimeError(f"{pathlib.Path(command[0]).name} ended with {done.returncode}: {' / '.join(last[-5:])}")
    return done.stdout


def read_varint(data, at):
    number = shift = 0
    while True:
        number |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not data[at - 1] & 0x80:
            return number, at


def header_revision(answer):
    """Of a framed response, whose first field is the header."""
    size, at = read_varint(answer, 6)
    end = at + size
    while at < end:
        tag, at = read_varint(answer, at)
        number, at = read_varint(answer, at)
        if tag == 3 << 3:
            return number
    raise RuntimeError(f"no revision in {answer[:100]}")


def ask(folder, port, name):
    """The request once, which must succeed: the file that it is in, its URL, the answer."""
    path, body = REQUESTS[name]
    file = pathlib.Path(folder) / f"{name}.grpc"
    file.write_bytes(body)
    url = f"http://127.0.0.1:{port}{path}"
    log = run(["nghttp", "-nv", *HEADERS, "-d", file, url]).decode(errors="replace")
    status = re.findall(r"grpc-(?:status|message): .*", log)
    if status[:1] != ["grpc-status: 0"]:
        raise RuntimeError(f"{path} answers {', '.join(status) or log[-300:]}")
    answer = run(["nghttp", *HEADERS, "-d", file, url])
    if name in ("h2load-range", "h2load-serializable") and (
            answer[:1] != b"\0" or struct.unpack(">I", answer[1:5])[0] != len(answer) - 5 or VALUE not in answer):
        raise RuntimeError(f"{path} answers {answer[:100]}")
    return file, url, answer


def revision(folder, port):
    return header_revision(ask(folder, port, "h2load-range")[2])


def settled_revision(folder, port):
    """Once the last puts are done."""
    before = revision(folder, port)
    still = 0
    for _ in range(200):
        time.sleep(0.05)
        now = revision(folder, port)
        still = still + 1 if now == before else 0
        if still == 4:   # a busy machine may leave a put for later, but not for so long
            return now
        before = now
    raise RuntimeError("h2load: puts go on after its end")


def load(folder, port, name, seconds, connections, streams):
    """Calls a second, all of which were answered well."""
    ask(folder, port, "create")
    file, url, answer = ask(folder, port, name)
    load_for = ["h2load", "-c", connections, "-m", streams, "-t", "1", *HEADERS, "-d", file, url, "-D"]
    run([*load_for, "500ms"])   # so that pools of connections to the database are full
    before = settled_revision(folder, port)
    out = run([*load_for, f"{seconds * 1000:.0f}ms"]).decode()
    try:
        rate = float(re.search(r"finished in [\d.]+m?s, ([\d.]+) req/s", out).group(1))
        done, good, bad, errors = (int(n) for n in re.search(
            r"(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored", out).groups())
        others = [int(n) for n in re.search(r"status codes: \d+ 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", out).groups()]
        data = int(re.search(r"\((\d+)\) data", out).group(1))
    except AttributeError:
        raise RuntimeError(f"h2load: {out[-500:]}") from None
    if not good or bad or errors or any(others):
        raise RuntimeError(f"h2load: {out[-500:]}")
    # What was under way when the time was over may have been served or not.
    most = done + connections * streams
    if not good * len(answer) <= data <= most * (len(answer) + 16):
        raise RuntimeError(f"h2load: {done} answers of {len(answer)} bytes are {data} bytes")
    grown = settled_revision(folder, port) - before
    if not (good <= grown <= most if name == "h2load-put" else grown == 0):
        raise RuntimeError(f"h2load: the revision has grown by {grown} with {good} to {most} requests")
    return rate
