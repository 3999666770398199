#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The limiters' counting in Redis: one server (password, database, TLS, away), a cluster whose slots move, and sentinels that
choose another master. All servers are real. Prints TAP."""
import concurrent.futures
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "lib"))
from dpproxy import Gateway, Process, Scenario, Upstream, free_port, main, wait_for  # noqa: E402
from engine import Authority, same  # noqa: E402

UP = Upstream()


class Redis(Process):
    def __init__(self, folder, *args, port=None, sentinel=False):
        self.port = port or free_port()
        self.folder = folder / f"redis-{self.port}"
        self.folder.mkdir(exist_ok=True)
        command = ["redis-server"]
        if sentinel:
            file = self.folder / "sentinel.conf"
            file.write_text("\n".join(sentinel) + "\n")
            command += [str(file), "--sentinel"]
        self.args = [*command, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "", *args]
        self.start()

    def start(self):
        super().__init__(self.args, self.folder / "log")
        wait_for(lambda: "PONG" in self.cli("PING") or "NOAUTH" in self.cli("PING"), "redis")

    def cli(self, *args, password=None):
        env = dict(os.environ, REDISCLI_AUTH=password) if password else os.environ
        done = subprocess.run(["redis-cli", "-p", str(self.port), *args], capture_output=True, text=True, timeout=10, env=env)
        return done.stdout.strip() + done.stderr.strip()


def limited(t, name, plugin, conf):
    t.put("routes/" + name, {"uri": f"/{name}", "upstream": {"nodes": UP.node}, "plugins": {plugin: conf}})
    return f"/{name}"


def redis(server, **more):
    return {"policy": "redis", "redis_host": "127.0.0.1", "redis_port": server.port, **more}


def statuses(t, path, n, gateways=None, **headers):
    gateways = gateways or [t.gateway]
    return [gateways[i % len(gateways)].request(path, headers=headers).status for i in range(n)]


def two_gateways_count_together(t):
    t.redis = t.keep(Redis(t.folder))
    folder = t.folder / "other"
    folder.mkdir()
    os.chmod(folder, 0o755)
    t.other = t.keep(Gateway(folder, t.etcd.url, t.config, 1))
    path = limited(t, "lc", "limit-count", {"count": 5, "time_window": 60, "rejected_msg": "enough", **redis(t.redis)})
    wait_for(lambda: t.other.request("/lc").status == 200, "the other gateway")
    same([200] * 4 + [503], statuses(t, path, 5, [t.gateway, t.other]))
    answer = t.other.request(path)
    same((503, b'{"error_msg":"enough"}\n', "5", "0"), (answer.status, answer.body, answer.headers["x-ratelimit-limit"],
                                                         answer.headers["x-ratelimit-remaining"]))
    assert 50 < float(answer.headers["x-ratelimit-reset"]) <= 60, answer
    # An edit of the route goes on counting, one of the plugin begins anew.
    t.put("routes/lc", {"uri": "/lc", "desc": "edited", "upstream": {"nodes": UP.node}, "plugins": {"limit-count": {
        "count": 5, "time_window": 60, "rejected_msg": "enough", **redis(t.redis)}}})
    same([503], statuses(t, path, 1))
    limited(t, "lc", "limit-count", {"count": 1, "time_window": 60, **redis(t.redis)})
    same([200, 503], statuses(t, path, 2))


def many_at_once_are_counted_exactly(t):
    path = limited(t, "exact", "limit-count", {"count": 100, "time_window": 60, "key": "http_host", **redis(t.redis)})
    t.gateway.request(path)
    wait_for(lambda: t.other.request(path).status == 200, "the other gateway")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda i: (t.gateway, t.other)[i % 2].request(path, headers={"Host": "one"}).status, range(150)))
    same((100, 50), (got.count(200), got.count(503)))


def windows_end_and_slide(t):
    path = limited(t, "short", "limit-count", {"count": 1, "time_window": 1, **redis(t.redis)})
    same([200, 503], statuses(t, path, 2))
    wait_for(lambda: t.gateway.request(path).status == 200, "the next window", 3)
    path = limited(t, "slide", "limit-count", {"count": 4, "time_window": 2, "window_type": "sliding", **redis(t.redis)})
    now = time.time()
    time.sleep(2 - now % 2 + 0.1)       # Redis runs on this machine's clock
    same([200] * 4 + [503], statuses(t, path, 5))
    reset = float(t.gateway.request(path).headers["x-ratelimit-reset"])
    assert 0 < reset <= 2, reset
    time.sleep(2)       # a little into the next window, the one before still counts nearly whole
    same([200, 503], statuses(t, path, 2))
    path = limited(t, "rules", "limit-count", {"rules": [
        {"count": 1, "time_window": 60, "key": "$http_user", "header_prefix": "User"}, {"count": 3, "time_window": 60, "key": "$remote_addr"},
    ], **redis(t.redis)})
    same([200, 503], statuses(t, path, 2, user="u"))
    same([200, 200, 503], statuses(t, path, 3))     # the second rule saw the first request, not the one that the first rule ended


def limit_req(t):
    path = limited(t, "lr", "limit-req", {"rate": 0.1, "burst": 2, "key": "remote_addr", "nodelay": True, **redis(t.redis)})
    wait_for(lambda: t.other.request(path).status == 200, "the other gateway")
    same([200, 200, 503, 503], statuses(t, path, 4, [t.gateway, t.other]))
    path = limited(t, "lr2", "limit-req", {"rate": 5, "burst": 2, "key": "http_who", **redis(t.redis)})
    began = time.monotonic()
    same([200, 200], statuses(t, path, 2, who="a"))
    assert 0.15 < time.monotonic() - began < 2, time.monotonic() - began


def nobody_is_in(t):
    """Places are given back a moment after the answer."""
    wait_for(lambda: "limit-conn" not in t.redis.cli("KEYS", "limit-conn*"), "no trace of those who left", 5)


def limit_conn(t):
    path = limited(t, "lconn", "limit-conn", {"conn": 1, "burst": 0, "default_conn_delay": 0.1, "key": "remote_addr", "key_ttl": 100,
                                              **redis(t.redis)})
    wait_for(lambda: t.other.request(path).status == 200, "the other gateway")
    nobody_is_in(t)
    seen = len(UP.requests)
    with socket.create_connection(("127.0.0.1", t.gateway.port), timeout=10) as client:
        client.sendall(f"GET {path}?sleep=3 HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        wait_for(lambda: len(UP.requests) > seen, "the first request")
        same(503, t.other.request(path).status)
    wait_for(lambda: t.other.request(path).status == 200, "the place of a client that left", 5)
    nobody_is_in(t)


def a_gateway_that_dies_gives_back_by_time(t):
    path = limited(t, "ldie", "limit-conn", {"conn": 1, "burst": 0, "default_conn_delay": 0.1, "key": "remote_addr", "key_ttl": 2, **redis(t.redis)})
    wait_for(lambda: t.other.request(path).status == 200, "the other gateway")
    nobody_is_in(t)
    seen, before = len(UP.requests), t.other.workers()
    with socket.create_connection(("127.0.0.1", t.other.port)) as client:
        client.sendall(f"GET {path}?sleep=5 HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        wait_for(lambda: len(UP.requests) > seen, "the first request")
        same(503, t.gateway.request(path).status)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: t.gateway.request(path).status == 200, "the place", 5)


def a_reload_gives_places_back(t):
    """The request ends in a worker that is about to end, too."""
    nobody_is_in(t)
    path = limited(t, "lrel", "limit-conn", {"conn": 1, "burst": 0, "default_conn_delay": 0.1, "key": "remote_addr", **redis(t.redis)})
    seen, old = len(UP.requests), set(t.gateway.workers())
    with socket.create_connection(("127.0.0.1", t.gateway.port), timeout=10) as client:
        client.sendall(f"GET {path}?sleep=4 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        wait_for(lambda: len(UP.requests) > seen, "the first request")
        t.gateway.process.process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(set(t.gateway.workers()) - old) == len(old), "new workers")
        same(503, t.gateway.request(path).status)
        assert client.recv(65536).startswith(b"HTTP/1.1 200"), "the request of before"
    nobody_is_in(t)
    wait_for(lambda: not set(t.gateway.workers()) & old, "the end of the old workers")
    same(200, t.gateway.request(path).status)


def away_and_back(t):
    strict = limited(t, "strict", "limit-count", {"count": 2, "time_window": 60, **redis(t.redis, redis_timeout=300)})
    lenient = limited(t, "lenient", "limit-count", {"count": 2, "time_window": 60, "allow_degradation": True, **redis(t.redis)})
    nobody_is_in(t)
    conn = limited(t, "connd", "limit-conn", {"conn": 1, "burst": 0, "default_conn_delay": 1, "key": "remote_addr", "allow_degradation": True,
                                              **redis(t.redis)})
    same([200, 200, 200], [t.gateway.request(path).status for path in (strict, lenient, conn)])
    t.redis.stop()
    same([500, 200, 200], [t.gateway.request(path).status for path in (strict, lenient, conn)])
    same({"error_msg": "failed to limit count"}, t.gateway.request(strict).json())
    t.redis.start()
    # Connections of before in nginx' pools are dead, the scripts forgotten, the counters gone: none of it fails a request.
    same([200, 200, 503], statuses(t, strict, 3))
    t.redis.process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        same(500, t.gateway.request(strict).status)
        assert 0.25 < time.monotonic() - began < 1.5, time.monotonic() - began
    finally:
        t.redis.process.send_signal(signal.SIGCONT)
    # An answer that comes too late is nobody else's.
    same([503, 503], [t.gateway.request(path).status for path in (strict, strict)])
    wait_for(lambda: t.gateway.request(conn).status == 200, "the place")
    assert "secret" not in t.gateway.error_log()


def passwords_and_databases(t):
    t.secure = t.keep(Redis(t.folder, "--requirepass", "secret-one"))
    t.secure.cli("ACL", "SETUSER", "limiter", "on", ">secret-two", "~limit-*", "+@all", password="secret-one")

    def conf(**more):
        return {"count": 1, "time_window": 60, "rejected_code": 429, **redis(t.secure, **more)}
    path = limited(t, "pw", "limit-count", conf(redis_password="secret-one", redis_database=3))
    same([200, 429], statuses(t, path, 2))
    assert "limit-count:" in t.secure.cli("-n", "3", "KEYS", "*", password="secret-one"), "the database"
    assert "limit-count:" not in t.secure.cli("KEYS", "*", password="secret-one"), "the database"
    path = limited(t, "acl", "limit-count", conf(redis_username="limiter", redis_password="secret-two"))
    same([200, 429], statuses(t, path, 2))
    for i, wrong in enumerate(({}, {"redis_password": "secret-three"}, {"redis_username": "limiter", "redis_password": "secret-one"},
                               {"redis_password": "secret-one", "redis_database": 99})):
        path = limited(t, f"wrong{i}", "limit-count", conf(**wrong))
        same((i, [500, 500, 500]), (i, statuses(t, path, 3)))
    log = t.gateway.error_log()
    assert "AUTH: WRONGPASS" in log and "NOAUTH" in log and "SELECT: ERR" in log, "the reasons"
    assert "secret-" not in log, "a password is in the log"


def tls(t):
    cert, key = t.ca.issue("redis.test", "localhost")
    server = t.keep(Redis(t.folder, "--tls-port", str(free_port()), "--tls-cert-file", str(cert), "--tls-key-file", str(key),
                          "--tls-ca-cert-file", str(t.ca.folder / "ca.pem"), "--tls-auth-clients", "no"))
    port = int(server.args[server.args.index("--tls-port") + 1])

    def conf(host, **more):
        return {"count": 1, "time_window": 60, "policy": "redis", "redis_host": host, "redis_port": port, "redis_ssl": True, **more}
    same([200, 503], statuses(t, limited(t, "tls1", "limit-count", conf("127.0.0.1")), 2))
    same([200, 503], statuses(t, limited(t, "tls2", "limit-count", conf("localhost", redis_ssl_verify=True)), 2))
    same([500], statuses(t, limited(t, "tls3", "limit-count", conf("127.0.0.1", redis_ssl_verify=True)), 1))     # another name
    same([500], statuses(t, limited(t, "tls4", "limit-count", dict(conf("127.0.0.1"), redis_ssl=False, redis_timeout=300)), 1))
    assert "TLS: " in t.gateway.error_log()


def a_cluster_whose_slots_move(t):
    nodes = [t.keep(Redis(t.folder, "--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-config-file", "nodes.conf",
                          "--cluster-port", str(free_port()))) for _ in range(3)]
    addresses = [f"127.0.0.1:{node.port}" for node in nodes]
    done = subprocess.run(["redis-cli", "--cluster", "create", *addresses, "--cluster-yes"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    wait_for(lambda: all("cluster_state:ok" in node.cli("CLUSTER", "INFO") for node in nodes), "the cluster")
    path = limited(t, "cl", "limit-count", {"count": 2, "time_window": 600, "key": "http_who", "policy": "redis-cluster",
                                            "redis_cluster_name": "one", "redis_cluster_nodes": ["127.0.0.1:1", addresses[0]]})
    for i in range(12):     # keys on all nodes
        same((i, [200, 200, 503]), (i, statuses(t, path, 3, who=f"who{i}")))
    keys = [node.cli("KEYS", "*").split() for node in nodes]
    assert all(keys), keys
    # A slot moves: while it does, its old node says ASK for keys that are not there any more, then MOVED.
    moving = keys[1][0]
    who = moving.rsplit(":", 1)[1]
    slot = nodes[1].cli("CLUSTER", "KEYSLOT", moving)
    ids = [node.cli("CLUSTER", "MYID") for node in nodes]
    nodes[2].cli("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[1])
    nodes[1].cli("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[2])
    same([503], statuses(t, path, 1, who=who))
    for key in nodes[1].cli("CLUSTER", "GETKEYSINSLOT", slot, "10").split():
        moved = nodes[1].cli("MIGRATE", "127.0.0.1", str(nodes[2].port), key, "0", "1000")
        assert "OK" in moved, moved
    same([503, 503], statuses(t, path, 2, who=who))
    for node in (nodes[2], nodes[1], nodes[0]):
        node.cli("CLUSTER", "SETSLOT", slot, "NODE", ids[2])
    same([503, 503], statuses(t, path, 2, who=who))
    # limit-req and limit-conn by the same way.
    cluster = {"policy": "redis-cluster", "redis_cluster_name": "one", "redis_cluster_nodes": [addresses[0]]}
    same([200, 503], statuses(t, limited(t, "clr", "limit-req", {"rate": 0.01, "burst": 0, "key": "remote_addr", **cluster}), 2))
    path2 = limited(t, "clc", "limit-conn", {"conn": 1, "burst": 0, "default_conn_delay": 1, "key": "remote_addr", **cluster})
    for _ in range(3):
        wait_for(lambda: t.gateway.request(path2).status == 200, "the place")
    # A node away: its keys fail, the others go on.
    gone = keys[2][0].rsplit(":", 1)[1]
    stays = next(k.rsplit(":", 1)[1] for k in keys[0] if k.startswith("limit-count:"))
    for node in nodes:
        node.cli("CONFIG", "SET", "cluster-require-full-coverage", "no")
    nodes[2].stop()
    same(([500], [503]), (statuses(t, path, 1, who=gone), statuses(t, path, 1, who=stays)))
    nodes[2].start()
    wait_for(lambda: t.gateway.request(path, headers={"who": gone}).status == 200, "the node", 10)


def sentinels_choose_another_master(t):
    first = t.keep(Redis(t.folder, "--repl-diskless-sync-delay", "0"))
    second = t.keep(Redis(t.folder, "--replicaof", "127.0.0.1", str(first.port)))
    # Before the sentinel, which looks for replicas at its start and then only every ten seconds.
    wait_for(lambda: "master_link_status:up" in second.cli("INFO", "replication"), "the replica", 20)
    watch = t.keep(Redis(t.folder, sentinel=[
        f"sentinel monitor main 127.0.0.1 {first.port} 1", "sentinel down-after-milliseconds main 1000",
        "sentinel failover-timeout main 5000", "requirepass sentinel-secret"]))
    wait_for(lambda: "slave0" in watch.cli("INFO", "sentinel", password="sentinel-secret") or "slaves=1" in watch.cli(
        "INFO", "sentinel", password="sentinel-secret"), "the replica to be known", 20)
    path = limited(t, "sen", "limit-count", {"count": 3, "time_window": 600, "policy": "redis-sentinel", "redis_master_name": "main",
                                             "sentinel_password": "sentinel-secret",
                                             "redis_sentinels": [{"host": "127.0.0.1", "port": 1}, {"host": "127.0.0.1", "port": watch.port}]})
    same([200, 200], statuses(t, path, 2))
    key = first.cli("KEYS", "limit-count:*")
    wait_for(lambda: second.cli("GET", key) == "2", "the replica to have the count")
    wait_for(lambda: watch.cli("SENTINEL", "FAILOVER", "main", password="sentinel-secret") == "OK", "the sentinel to believe in the replica", 20)
    wait_for(lambda: str(second.port) in watch.cli("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main", password="sentinel-secret"), "the other master", 20)
    same("OK", first.cli("REPLICAOF", "127.0.0.1", str(second.port)))      # as the sentinel does, some seconds later
    same([200, 503], statuses(t, path, 2))     # it goes on counting there
    wrong = limited(t, "sen2", "limit-count", {"count": 3, "time_window": 600, "policy": "redis-sentinel", "redis_master_name": "nobody",
                                               "sentinel_password": "sentinel-secret",
                                               "redis_sentinels": [{"host": "127.0.0.1", "port": watch.port}]})
    same([500], statuses(t, wrong, 1))
    assert "no sentinel knows the master nobody" in t.gateway.error_log()


def what_is_no_redis(t):
    """An HTTP server in its place: an error, not a wait, and nothing is thrown."""
    path = limited(t, "http", "limit-count", {"count": 1, "time_window": 60, "policy": "redis", "redis_host": "127.0.0.1", "redis_port": UP.port,
                                              "redis_timeout": 1000})
    same([500, 500], statuses(t, path, 2))
    bad = [line for line in t.gateway.error_log().splitlines() if re.search("failed to run|attempt to|traceback|lua entry thread", line)]
    same([], bad)


TESTS = [
    two_gateways_count_together, many_at_once_are_counted_exactly, windows_end_and_slide, limit_req, limit_conn,
    a_gateway_that_dies_gives_back_by_time, a_reload_gives_places_back, away_and_back, passwords_and_databases, tls, a_cluster_whose_slots_move,
    sentinels_choose_another_master, what_is_no_redis,
]


if __name__ == "__main__":
    if not shutil.which("redis-server") or not shutil.which("redis-cli"):
        print("Bail out! redis-server and redis-cli are needed")
        sys.exit(99)
    # The authority must be there before the gateway.
    with tempfile.TemporaryDirectory(prefix="dpproxy-test-") as FOLDER:
        os.chmod(FOLDER, 0o755)
        Scenario.ca = Authority(pathlib.Path(FOLDER), "ca")
        main(TESTS, {"apisix": {"ssl": {"ssl_trusted_certificate": f"{FOLDER}/ca.pem"}}}, both=False)
