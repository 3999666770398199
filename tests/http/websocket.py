#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""
The WebSocket bridge of the JSON gateway, from outside. Prints TAP; KINESHIM names the program, by default the one of this build.

 - the same conversations with kineshim and with a real etcd, where both must agree;
 - the handshake, tokens, frames of every kind, hostile ones too, closing codes;
 - clients that leave, that do not read, and the end of the server.

Only Python's standard library is used; servers and plain HTTP are those of gateway.py.
"""

import base64
import hashlib
import json
import os
import re
import signal
import socket
import ssl
import struct
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from gateway import (WAIT, Client, Connection, b64, masked, metric, must, run_all, same,  # noqa: E402
                     start_kineshim, until)

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def handshake(path, headers=(), **changed):
    fields = {"Host": "localhost", "Connection": "keep-alive, Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
              "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    fields.update({name.replace("_", "-"): value for name, value in changed.items()})
    lines = ["GET %s HTTP/1.1" % path, *("%s: %s" % pair for pair in fields.items() if pair[1] is not None), *headers]
    return "\r\n".join(lines) + "\r\n\r\n"


def frame(opcode, payload=b"", final=True, masked_too=True, bits=0, size=None):
    """A frame; 'size' lies about the payload's."""
    size = len(payload) if size is None else size
    head = bytes([final << 7 | bits << 4 | opcode])
    mask = masked_too << 7
    if size < 126:
        head += bytes([mask | size])
    elif size < 65536:
        head += struct.pack(">BH", mask | 126, size)
    else:
        head += struct.pack(">BQ", mask | 127, size)
    if not masked_too:
        return head + payload
    key = os.urandom(4)
    pad = (key * (len(payload) // 4 + 1))[: len(payload)]
    return head + key + (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(len(payload), "big")


class Socket:
    """A WebSocket client."""

    def __init__(self, server, path, headers=(), wait=WAIT, connection=None):
        self.connection = connection or Connection(server.port, wait)
        self.connection.send(handshake(path, headers))
        self.status, self.headers = self.connection.head()
        same(self.status, 101, path)
        same(self.headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        same((self.headers["upgrade"].lower(), self.headers["connection"].lower()), ("websocket", "upgrade"))
        self.pongs = []

    def send(self, message, opcode=TEXT):
        text = message if isinstance(message, (str, bytes)) else json.dumps(message)
        self.raw(frame(opcode, text.encode() if isinstance(text, str) else text))

    def raw(self, data):
        self.connection.send(data)

    def frame(self):
        first, second = self.connection.exactly(2)
        must(not first & 0x70 and not second & 0x80, "reserved bits, or a mask, from the server:", first, second)
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack(">H", self.connection.exactly(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", self.connection.exactly(8))
        return first & 0x0F, bool(first & 0x80), self.connection.exactly(size)

    def message(self):
        """The next message's text, or the close frame's code (None: it has none) as (code,)."""
        text, open_message = b"", False
        while True:
            opcode, final, payload = self.frame()
            if opcode == PONG:
                self.pongs.append(payload)
                continue
            if opcode == CLOSE:
                return (struct.unpack(">H", payload[:2])[0] if payload else None,)
            same(opcode, CONTINUATION if open_message else TEXT, "opcode")
            text, open_message = text + payload, True
            if final:
                must(b"\n" not in text and text, "not one line:", text[:200])
                return text

    def next(self):
        text = self.message()
        must(isinstance(text, bytes), "a close instead of a message:", text)
        return json.loads(text)

    def closed(self, code):
        """The server closes with that code, and then the connection."""
        same(self.message(), (code,))
        self.connection.socket.shutdown(socket.SHUT_WR)
        must(self.connection.ended(), "something behind a close frame")
        self.connection.close()

    def leave(self, code=1000):
        self.raw(frame(CLOSE, struct.pack(">H", code) + b"bye"))
        while isinstance(got := self.message(), bytes):
            pass
        same(got, (code,))
        self.connection.close()


def both(t, conversation):
    """The same with kineshim and etcd; what differs by nature is masked."""
    got, wanted = ([masked(part) for part in conversation(server)] for server in (t.kineshim, t.etcd))
    same(got, wanted)
    return got


def watchers(t):
    return metric(t.kineshim, "etcd_debugging_mvcc_watcher_total")


def watch(server, key, **fields):
    socket_ = Socket(server, "/v3/watch")
    socket_.send({"create_request": {"key": b64(key), **fields}})
    same(socket_.next()["result"].get("created"), True)
    return socket_


# ---- the tests ----


def a_watch_is_a_conversation_as_with_etcd(t):
    def conversation(server):
        client, socket_ = Client(server.port), Socket(server, "/v3/watch")
        socket_.send({"create_request": {"key": b64("talk/a"), "watch_id": "7"}})
        answers = [socket_.next()]
        client.put("talk/a", "1")
        answers.append(socket_.next())
        socket_.send({"create_request": {"key": b64("talk/b"), "watch_id": "8"}})  # later, on the same socket
        answers.append(socket_.next())
        client.put("talk/b", "2")
        answers.append(socket_.next())
        socket_.send({"cancel_request": {"watch_id": "7"}})
        answers.append(socket_.next())
        client.put("talk/a", "3")
        client.ok("/v3/kv/deleterange", {"key": b64("talk/b")})
        answers.append(socket_.next())
        socket_.leave()
        return [{**answer["result"], "header": None, "events": [event.get("type", "PUT") for event in
                                                               answer["result"].get("events", [])]} for answer in answers]

    answers = both(t, conversation)
    same([answer["events"] for answer in answers], [[], ["PUT"], [], ["PUT"], [], ["DELETE"]])


def keepalives_values_and_messages_need_not_agree(t):
    def conversation(server):
        socket_ = Socket(server, "/v3/lease/keepalive")
        socket_.send('{"ID":"7"}')
        socket_.send(b'{"ID":"8"}', BINARY)
        socket_.send('{"ID":')
        socket_.send('"9"}{"ID":10}')
        answers = [socket_.next()["result"]["ID"] for _ in range(4)]
        socket_.leave(4711)
        return answers

    same(both(t, conversation), ["7", "8", "9", "10"])


def calls_of_one_message_have_one_answer(t):
    def conversation(server):
        answers = []
        for path, body in [("kv/put", {"key": b64("one"), "value": b64("1")}), ("kv/range", {"key": b64("one")}),
                           ("lease/timetolive", {"ID": "404"}), ("kv/range", {})]:
            socket_ = Socket(server, "/v3/" + path)
            socket_.send(body)
            answer = socket_.next()
            answer.pop("header", None)
            for kv in answer.get("kvs", []):
                kv["create_revision"] = kv["mod_revision"] = "*"
            answers.append(answer)
            if server is t.kineshim:
                socket_.closed(1000)
            else:  # etcd hangs up without a word
                socket_.connection.close()
        return answers

    answers = both(t, conversation)
    same(answers[1]["kvs"][0]["value"], b64("1"))
    same((answers[3]["error"], answers[3]["code"]), ("etcdserver: key is not provided", 3))


def a_snapshot_comes_whole_and_ends(t):
    socket_ = Socket(t.kineshim, "/v3/maintenance/snapshot")
    socket_.send("{}")
    data = b""
    while isinstance(message := socket_.message(), bytes):
        data += base64.b64decode(json.loads(message)["result"].get("blob", ""))
    same(message, (1000,))
    must(len(data) % 512 == 32 and hashlib.sha256(data[:-32]).digest() == data[-32:], "no snapshot:", len(data))


def large_answers_come_in_fragments_of_one_message(t):
    client = Client(t.kineshim.port)
    for number in range(5):
        client.put("large/%d" % number, os.urandom(200000).hex())
    socket_ = Socket(t.kineshim, "/v3/kv/range")
    socket_.send({"key": b64("large/"), "range_end": b64("large0")})
    socket_.raw(frame(PING, b"between"))
    same([len(base64.b64decode(kv["value"])) for kv in socket_.next()["kvs"]], [400000] * 5)
    socket_.closed(1000)
    client.ok("/v3/kv/deleterange", {"key": b64("large/"), "range_end": b64("large0")})


def bad_handshakes_are_refused(t):
    for status, changed, headers in [(426, {"Sec_WebSocket_Version": "12"}, ()), (426, {"Sec_WebSocket_Version": None}, ()),
                                     (400, {"Sec_WebSocket_Key": None}, ()), (400, {"Sec_WebSocket_Key": "abc"}, ()),
                                     (400, {"Sec_WebSocket_Key": "!" * 22 + "=="}, ()), (400, {}, ["Transfer-Encoding: chunked"]),
                                     (501, {"Connection": "keep-alive"}, ()), (501, {"Upgrade": "h2c"}, ())]:
        connection = Connection(t.kineshim.port)
        connection.send(handshake("/v3/watch", headers, **changed) + ("0\r\n\r\n" if headers else ""))
        answer = connection.answer()
        same(answer.status, status, changed, headers)
        same(answer.headers.get("sec-websocket-version"), "13" if status == 426 else None)
        connection.send("GET /version HTTP/1.1\r\nHost: x\r\n\r\n")  # the connection still speaks HTTP
        same(connection.answer().status, 200)
        connection.close()
    for status, request in [(405, handshake("/v3/watch").replace("GET", "POST", 1)), (404, handshake("/v3/nothing")),
                            (200, handshake("/version"))]:
        connection = Connection(t.kineshim.port)
        connection.send(request)
        same(connection.answer().status, status)
        connection.close()
    Socket(t.kineshim, "/v3beta/watch", ["Origin: http://anywhere"]).leave()


def the_token_is_a_subprotocol(t):
    client = Client(t.kineshim.port)
    client.ok("/v3/auth/user/add", {"name": "root", "password": "secret"})
    client.ok("/v3/auth/user/grant", {"user": "root", "role": "root"})
    client.ok("/v3/auth/enable")
    login = client.ok("/v3/auth/authenticate", {"name": "root", "password": "secret"})
    token = login["token"]
    try:
        for headers, echoed, good in [(["Sec-WebSocket-Protocol: Bearer, " + token], "Bearer", True),
                                      (["Sec-WebSocket-Protocol: Bearer," + token], "Bearer", True),
                                      (["Authorization: " + token], None, True), (["Authorization: Bearer " + token], None, True),
                                      (["Sec-WebSocket-Protocol: Bearer, wrong.1"], "Bearer", False),
                                      (["Sec-WebSocket-Protocol: chat, " + token], None, False), ([], None, False)]:
            socket_ = Socket(t.kineshim, "/v3/kv/put", headers)
            same(socket_.headers.get("sec-websocket-protocol"), echoed)
            socket_.send({"key": b64("token")})
            answer = socket_.next()
            same("error" not in answer, good, headers, answer)
            socket_.closed(1000)
    finally:
        same(client.post("/v3/auth/disable", "{}", ["Authorization: " + token]).status, 200)


def pings_are_answered_and_pongs_ignored(t):
    socket_ = watch(t.kineshim, "ping")
    socket_.raw(frame(PONG, b"unasked") + frame(PING, b"x" * 125))
    opcode, final, payload = socket_.frame()
    same((opcode, final, payload), (PONG, True, b"x" * 125))
    for _ in range(50):  # many at once: the last one has an answer, and nothing is kept
        socket_.raw(frame(PING, b"flood") * 1000)
    socket_.raw(frame(PING, b"last"))
    while socket_.frame() != (PONG, True, b"last"):
        pass
    socket_.leave()


def fragments_with_control_frames_between_are_one_message(t):
    socket_ = Socket(t.kineshim, "/v3/watch")
    text = json.dumps({"create_request": {"key": b64("cut")}}).encode()
    data = frame(TEXT, text[:5], final=False) + frame(PING, b"mid") + frame(CONTINUATION, b"", final=False)
    data += frame(CONTINUATION, text[5:])
    for byte in data:  # and bytes come one at a time
        socket_.raw(bytes([byte]))
    same(socket_.next()["result"]["created"], True)
    same(socket_.pongs, [b"mid"])
    socket_.leave()
    socket_ = Socket(t.kineshim, "/v3/kv/put")
    socket_.raw(frame(TEXT, b'{"key":"Y3', final=False) + frame(CONTINUATION, b'V0"}'))
    must("header" in socket_.next(), "no answer to a put in fragments")
    socket_.closed(1000)


def hostile_frames_end_the_connection_with_the_right_code(t):
    before = watchers(t)
    for code, data in [(1002, frame(TEXT, b"{}", masked_too=False)), (1002, frame(TEXT, b"{}", bits=4)),
                       (1002, frame(TEXT, b"{}", bits=1)), (1002, frame(3, b"{}")), (1002, frame(11)),
                       (1002, frame(CONTINUATION, b"{}")), (1002, frame(PING, b"x", final=False)),
                       (1002, frame(PING, b"x" * 126)), (1002, frame(CLOSE, b"x")), (1002, frame(CLOSE, b"\x03\xed")),
                       (1002, frame(CLOSE, b"\x00\x01")), (1002, frame(TEXT, b"{", final=False) + frame(TEXT, b"}")),
                       (1002, b"\x81\xfe\x00\x01abcdx"), (1002, b"\x81\xff" + b"\xff" * 8 + b"abcdx"),
                       (1009, frame(TEXT, b"x", size=1 << 40)), (1009, frame(BINARY, b" ", size=(1 << 63) - 1)),
                       (None, frame(CLOSE)), (1001, frame(CLOSE, b"\x03\xe9")), (4999, frame(CLOSE, b"\x13\x87why"))]:
        for path in ("/v3/watch", "/v3/maintenance/snapshot", "/v3/kv/range"):
            socket_ = watch(t.kineshim, "hostile") if path == "/v3/watch" else Socket(t.kineshim, path)
            socket_.raw(data)
            socket_.closed(code)
    until(lambda: watchers(t) == before, "the end of their watchers")
    for head in (b"\x81", b"\x81\xfe", b"\x81\x85abc", b""):  # and gone in the middle of a frame
        socket_ = watch(t.kineshim, "hostile")
        socket_.raw(head)
        socket_.connection.reset()
    until(lambda: watchers(t) == before, "the end of their watchers")


def messages_have_the_size_limit_of_bodies(t):
    for path in ("/v3/watch", "/v3/kv/put"):
        socket_ = Socket(t.kineshim, path)
        part = b" " * (1 << 20)
        try:
            socket_.raw(frame(TEXT, part, final=False))
            for _ in range(20):
                socket_.raw(frame(CONTINUATION, part, final=False))
        except OSError:  # the server may have closed meanwhile
            pass
        try:
            same(socket_.message(), (1009,))
        except ConnectionResetError:
            pass
        socket_.connection.close()
    socket_ = Socket(t.kineshim, "/v3/kv/put")
    socket_.send({"key": b64("x"), "value": b64("v" * (3 << 20))})
    same(socket_.next()["code"], 8)
    socket_.closed(1000)
    must(metric(t.kineshim, "kineshim_http_connections") < 50, "connections are left over")


def nonsense_has_an_error_line(t):
    for path in ("/v3/watch", "/v3/kv/range"):
        for text in ("nonsense", "]", '{"key":7}' if "kv" in path else '{"create_request":7}', b"\xff\xfe"):
            socket_ = Socket(t.kineshim, path)
            socket_.send(text)
            error = socket_.next()
            same(error["error"]["code"] if "watch" in path else error["code"], 3, text, error)
            socket_.closed(1000)


def watchers_go_with_their_clients(t):
    before = watchers(t)
    sockets = [watch(t.kineshim, "gone") for _ in range(20)]
    same(watchers(t), before + 20)
    for number, socket_ in enumerate(sockets):
        if number % 3 == 0:
            socket_.leave()
        elif number % 3 == 1:
            socket_.connection.reset()
        else:
            socket_.connection.close()
    until(lambda: watchers(t) == before, "the end of watchers whose clients left", 5)


def a_call_that_waits_goes_with_its_client(t):
    client = Client(t.kineshim.port)
    lease = client.ok("/v3/lease/grant", {"TTL": "60"})["ID"]
    client.ok("/v3/lock/lock", {"name": b64("ws"), "lease": lease})
    waiting = Socket(t.kineshim, "/v3/lock/lock")
    other = client.ok("/v3/lease/grant", {"TTL": "60"})["ID"]
    waiting.send({"name": b64("ws"), "lease": other})

    def keys():
        return int(client.ok("/v3/kv/range", {"key": b64("ws/"), "range_end": b64("ws0"), "count_only": True})["count"])

    until(lambda: keys() == 2, "the second in line")
    waiting.leave()
    until(lambda: keys() == 1, "the end of the second in line", 5)
    client.ok("/v3/lease/revoke", {"ID": lease})


def deadlines_hold(t):
    socket_ = Socket(t.kineshim, "/v3/watch", ["Grpc-Timeout: 300m"])
    socket_.send({"create_request": {"key": b64("late")}})
    same(socket_.next()["result"]["created"], True)
    same(socket_.next()["error"]["code"], 4)
    socket_.closed(1000)
    socket_ = Socket(t.kineshim, "/v3/kv/range", ["Grpc-Timeout: 100m"])  # and never asks
    socket_.closed(1008)


def a_client_that_does_not_read_holds_up_nobody(t):
    client, deaf = Client(t.kineshim.port), watch(t.kineshim, "deaf")
    value = b64("v" * 100000)
    for _ in range(60):
        client.ok("/v3/kv/put", {"key": b64("deaf"), "value": value})
    hearing = watch(t.kineshim, "deaf")
    last = client.put("deaf", "end")
    same(hearing.next()["result"]["events"][0]["kv"]["value"], b64("end"))
    hearing.leave()
    while True:  # it has everything when it reads at last
        events = deaf.next()["result"]["events"]
        if int(events[-1]["kv"]["mod_revision"]) == last:
            break
    deaf.leave()


def the_end_of_the_server_is_told(t):
    server = start_kineshim(t.folder, "ending", "--cors=https://good.example")
    t.servers.append(server)
    connection = Connection(server.port)
    connection.send(handshake("/v3/watch", ["Origin: https://evil.example"]))
    same(connection.answer().status, 403)
    connection.close()
    Socket(server, "/v3/watch", ["Origin: https://good.example"]).leave()
    watching, silent = watch(server, "x"), Socket(server, "/v3/kv/put")
    server.process.send_signal(signal.SIGTERM)
    same(watching.next()["error"]["message"], "etcdserver: server stopped")
    watching.closed(1001)
    silent.closed(1001)
    same(server.process.wait(WAIT), 0)


def tls_changes_nothing(t):
    server = start_kineshim(t.folder, "secure", "--auto-tls", "--listen-client-urls=http://127.0.0.1:0,https://127.0.0.1:0")
    t.servers.append(server)
    port = int(re.search(r"ready to serve.*https://127.0.0.1:(\d+)", open(server.log).read()).group(1))
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = Connection(port)
    connection.socket = context.wrap_socket(connection.socket)
    secure = Socket(server, "/v3/watch", connection=connection)
    secure.send({"create_request": {"key": b64("tls")}})
    same(secure.next()["result"]["created"], True)
    Client(server.port).put("tls", "x")
    same(secure.next()["result"]["events"][0]["kv"]["value"], b64("x"))
    secure.leave()
    until(lambda: metric(server, "etcd_debugging_mvcc_watcher_total") == 0, "the end of the watcher")
    same(server.stop(), 0)


TESTS = [
    a_watch_is_a_conversation_as_with_etcd,
    keepalives_values_and_messages_need_not_agree,
    calls_of_one_message_have_one_answer,
    a_snapshot_comes_whole_and_ends,
    large_answers_come_in_fragments_of_one_message,
    bad_handshakes_are_refused,
    the_token_is_a_subprotocol,
    pings_are_answered_and_pongs_ignored,
    fragments_with_control_frames_between_are_one_message,
    hostile_frames_end_the_connection_with_the_right_code,
    messages_have_the_size_limit_of_bodies,
    nonsense_has_an_error_line,
    watchers_go_with_their_clients,
    a_call_that_waits_goes_with_its_client,
    deadlines_hold,
    a_client_that_does_not_read_holds_up_nobody,
    the_end_of_the_server_is_told,
    tls_changes_nothing,
]


if __name__ == "__main__":
    run_all(TESTS, "websocket", "--bcrypt-cost=4")
