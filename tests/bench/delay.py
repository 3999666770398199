#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""delay.py LISTEN_PORT TARGET_PORT MS: a relay on 127.0.0.1 that holds each byte from the client for so long, as a network would. One direction
only, so a round trip takes MS longer. Order is kept; what is on its way is not limited."""
import collections
import socket
import sys
import threading
import time


def send_later(source, target, delay):
    pieces, changed = collections.deque(), threading.Condition()

    def send():
        while True:
            with changed:
                while not pieces:
                    changed.wait()
                due, data = pieces.popleft()
            time.sleep(max(0, due - time.monotonic()))
            try:
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    return
                target.sendall(data)
            except OSError:
                return
    threading.Thread(target=send, daemon=True).start()
    data = b"x"
    while data:
        try:
            data = source.recv(1 << 18)
        except OSError:
            data = b""
        with changed:
            pieces.append((time.monotonic() + delay, data))
            changed.notify()


def serve(client, target_port, delay):
    server = socket.create_connection(("127.0.0.1", target_port))
    for end in (client, server):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threading.Thread(target=send_later, args=(server, client, 0), daemon=True).start()
    send_later(client, server, delay)


def main():
    listen, target, ms = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    listener = socket.create_server(("127.0.0.1", listen))
    while True:
        client, _ = listener.accept()
        threading.Thread(target=serve, args=(client, target, ms / 1000), daemon=True).start()


if __name__ == "__main__":
    main()
