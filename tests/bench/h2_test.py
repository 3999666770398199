#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kineshim-bench's own HTTP/2 (h2_call.h) before a server that does what real ones seldom do: it splits answers where it hurts, is sparing with
windows, streams and memory, ends what it began, and looks at whether each frame was allowed."""
import json
import os
import pathlib
import socket
import struct
import subprocess
import threading
import time

BUILD = pathlib.Path(os.environ.get("top_builddir", pathlib.Path(__file__).resolve().parents[2] / "build"))
BENCH = str(BUILD / "tests" / "bench" / "kineshim-bench")
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
TABLE_SIZE, MAX_STREAMS, FIRST_WINDOW = 1, 3, 4
LARGEST = (1 << 31) - 1
MESSAGE = b"\0" + struct.pack(">I", 300) + b"m" * 300


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def settings(**values):
    names = {"table": TABLE_SIZE, "streams": MAX_STREAMS, "window": FIRST_WINDOW}
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", names[name], value) for name, value in values.items()))


def update(stream, size):
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", size))


def trailers(stream):
    return frame(HEADERS, END_STREAM | END_HEADERS, stream, b"\x00\x0bgrpc-status\x010")


def whole(stream):
    return frame(HEADERS, END_HEADERS, stream, b"\x88") + frame(DATA, 0, stream, MESSAGE) + trailers(stream)


class Server:
    """Answers each whole request with what 'answer' sends; 'wrong' has what the client must not do."""

    def __init__(self, answer, allowed=None, pause=0, grant=None):
        self.answer, self.allowed, self.pause, self.grant = answer, dict(allowed or {}), pause, grant
        self.wrong, self.requests, self.most, self.resets = [], [], 0, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def send(self, *parts):
        for part in parts:
            self.client.sendall(part)

    def serve(self):
        self.client, _ = self.listener.accept()
        self.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = self.client.makefile("rb", buffering=1 << 16)
        self.window, self.streams, self.settled = 65535, {}, False
        try:
            if self.reader.read(len(PREFACE)) != PREFACE:
                self.wrong.append("no preface")
            self.send(settings(**self.allowed))
            if self.allowed.get("window") == LARGEST:
                self.window = 1 << 62
                self.send(update(0, LARGEST - 65535))
            time.sleep(self.pause)
            while self.take():
                pass
        except OSError:
            pass
        self.client.close()

    def first_window(self):
        return self.allowed.get("window", 65535)

    def take(self):
        head = self.reader.read(9)
        if len(head) < 9:
            return False
        size, kind, flags, stream = int.from_bytes(head[:3], "big"), head[3], head[4], int.from_bytes(head[5:], "big")
        payload = self.reader.read(size)
        if kind == SETTINGS and flags & ACK:
            self.settled = True
        elif kind == HEADERS:
            self.open(stream, payload)
        elif kind == DATA:
            self.data(stream, flags, payload)
        elif kind == RST_STREAM:
            self.streams.pop(stream, None)
            self.resets += 1
        return True

    def open(self, stream, payload):
        if "table" in self.allowed and (payload[0] == 0x20) != (stream == 1):
            self.wrong.append("the table was not given up, once")
        if "table" in self.allowed and any(byte & 0xc0 == 0x40 or byte > 0xbd for byte in payload[:4]):
            self.wrong.append("an entry of a table that is not there")
        self.streams[stream] = [self.first_window(), b""]
        self.most = max(self.most, len(self.streams))
        if len(self.streams) > self.allowed.get("streams", 1 << 32) or not self.settled:
            self.wrong.append("more streams than allowed")
        if self.grant:
            self.grant(self, stream)

    def data(self, stream, flags, payload):
        self.window -= len(payload)
        if stream not in self.streams: # reset
            return
        mine = self.streams[stream]
        mine[0] -= len(payload)
        mine[1] += payload
        if self.window < 0 or mine[0] < 0 or len(payload) > 16384:
            self.wrong.append("more than the window")
        if flags & END_STREAM:
            if len(mine[1]) != 5 + int.from_bytes(mine[1][1:5], "big"):
                self.wrong.append("the request is not whole")
            self.requests.append(len(mine[1]))
            del self.streams[stream]
            self.answer(self, stream)
        elif mine[0] <= 0 or self.window <= 0:
            # Little by little, and the connection's after the stream's.
            mine[0] += 5000
            self.send(update(stream, 5000))
        if self.window < 5000:
            self.window += 40000
            self.send(update(0, 40000))


def run(server, command, *flags):
    """Exit status, result, what it complained of, seconds."""
    begin = time.monotonic()
    done = subprocess.run([BENCH, command, "--endpoint", f"127.0.0.1:{server.port}", "--clients", "1", "--filled", "--warmup", "0",
                           "--seconds", "0.2", *flags], capture_output=True, text=True, timeout=40)
    assert not server.wrong, server.wrong[:3]
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr, time.monotonic() - begin


def serves(server, command, *flags):
    status, result, why, _ = run(server, command, *flags)
    assert status == 0 and result["errors"] == 0 and result["count"] > 0, (status, result, why)
    return result


def fails(server, text, command="get", *flags):
    status, result, why, seconds = run(server, command, "--inflight", "4", *flags)
    assert status == 1 and result["errors"] > 0 and text in why and seconds < 10, (status, result, why, seconds)
    return result


def an_answer_may_come_in_any_pieces():
    def by_pieces(server, stream):
        text, begin = whole(stream), 0
        # Within heads, within the message, between the message and its end.
        for cut in (4, 15, 20, 100, len(text) - len(trailers(stream)), len(text)):
            server.send(text[begin:cut])
            begin = cut
            time.sleep(0.002)
    serves(Server(by_pieces), "get", "--inflight", "3")


def an_answer_that_waits_for_its_end_is_kept():
    begun = []

    def later(server, stream):
        # The message, then others' answers over it, and its end at last.
        begun.append(stream)
        server.send(frame(HEADERS, END_HEADERS, stream, b"\x88") + frame(DATA, 0, stream, MESSAGE))
        if len(begun) == 4:
            time.sleep(0.01)
            server.send(*(trailers(one) for one in begun))
            begun.clear()
    serves(Server(later), "get", "--inflight", "4")


def a_message_may_have_many_frames_and_end_without_trailers():
    def long(server, stream):
        message = b"\0" + struct.pack(">I", 100000) + b"m" * 100000
        parts = [message[at:at + 9000] for at in range(0, len(message), 9000)]
        server.send(frame(HEADERS, END_HEADERS, stream, b"\x88"), *(frame(DATA, 0, stream, part) for part in parts))
        server.send(frame(DATA, END_STREAM, stream))
    result = serves(Server(long), "get", "--inflight", "4")
    assert result["bytes_per_second"] * 0.2 > 50000


def windows_are_kept():
    server = Server(lambda server, stream: server.send(whole(stream)), {"window": 7000})
    serves(server, "put", "--inflight", "5", "--value-size", "100000")
    assert min(server.requests) > 100000
    # The connection's, with streams that have more.
    serves(Server(lambda server, stream: server.send(whole(stream)), {"window": 1 << 20}), "put", "--inflight", "5", "--value-size", "100000")


def a_window_may_open_by_a_setting():
    def open_later(server, stream):
        if server.allowed["window"] == 0:
            server.allowed["window"] = 20000
            time.sleep(0.01)
            server.send(settings(window=20000))
            for one in server.streams.values():
                one[0] += 20000
    serves(Server(lambda server, stream: server.send(whole(stream)), {"window": 0}, grant=open_later), "put", "--inflight", "1",
           "--value-size", "50000")


def streams_are_kept():
    server = Server(lambda server, stream: server.send(whole(stream)), {"streams": 3})
    serves(server, "get", "--inflight", "20")
    assert server.most == 3, server.most


def a_server_need_not_remember_headers():
    serves(Server(lambda server, stream: server.send(whole(stream)), {"table": 0}), "get", "--inflight", "4")


def a_server_that_reads_late_does_not_stop_it():
    serves(Server(lambda server, stream: server.send(whole(stream)), {"window": LARGEST}, pause=0.2), "put", "--inflight", "12",
           "--value-size", "1000000")


def what_fails_is_told():
    fails(Server(lambda server, stream: server.send(trailers(stream))), "an answer without a message; --grpc tells why")
    fails(Server(lambda server, stream: server.send(frame(DATA, 0, stream, MESSAGE * 2), trailers(stream))), "an answer without a message")
    fails(Server(lambda server, stream: server.send(frame(DATA, 0, stream, MESSAGE), frame(DATA, 0, stream, MESSAGE), trailers(stream))),
          "an answer without a message")
    fails(Server(lambda server, stream: server.send(frame(RST_STREAM, 0, stream, struct.pack(">I", 7)))), "the server reset the call, reason 7")


def a_connection_that_ends_ends_the_run():
    for end, why in ((frame(GOAWAY, 0, 0, bytes(8)), "the server goes away"), (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is not to be understood"),
                     (frame(RST_STREAM, 0, 1, b"x"), "is not to be understood")):
        result = fails(Server(lambda server, stream, end=end: server.send(end)), "UNAVAILABLE 127.0.0.1:", "get", "--seconds", "30")
        assert result["errors"] == 4, result
        fails(Server(lambda server, stream, end=end: server.send(end)), why)

    def hang_up(server, stream):
        server.client.shutdown(socket.SHUT_RDWR)
    fails(Server(hang_up), "UNAVAILABLE 127.0.0.1:", "get", "--seconds", "30")


def a_call_that_is_refused_early_does_not_hold_the_others():
    def refuse(server, stream):
        # Before its request is whole: it is not to be sent on.
        if stream % 4 == 1:
            server.send(trailers(stream))
    server = Server(lambda server, stream: server.send(whole(stream)), {"window": 3000}, grant=refuse)
    result = fails(server, "an answer without a message", "put", "--value-size", "30000")
    assert result["count"] > result["errors"] and server.resets > 0, (result, server.resets)


TESTS = (an_answer_may_come_in_any_pieces, an_answer_that_waits_for_its_end_is_kept, a_message_may_have_many_frames_and_end_without_trailers,
         windows_are_kept, a_window_may_open_by_a_setting, streams_are_kept, a_server_need_not_remember_headers,
         a_server_that_reads_late_does_not_stop_it, what_fails_is_told, a_connection_that_ends_ends_the_run,
         a_call_that_is_refused_early_does_not_hold_the_others)


def main():
    print(f"1..{len(TESTS)}")
    bad = 0
    for number, test in enumerate(TESTS, 1):
        try:
            test()
            print(f"ok {number} - {test.__name__.replace('_', ' ')}", flush=True)
        except Exception as error:  # noqa: BLE001: a test that fails in any way has failed
            bad = 1
            print(f"not ok {number} - {test.__name__.replace('_', ' ')}\n#   {type(error).__name__} {error}", flush=True)
    return bad


if __name__ == "__main__":
    raise SystemExit(main())
