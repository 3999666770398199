#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""dpproxy beside a bare nginx that does the least a gateway must do: balancer_by_lua and kept connections to the same upstream.

bench.py [--starts N] [--rounds N] [--seconds S] [--routes N] [--updates N] [--write FILE]: one worker each, on a core of its own; wrk and
the upstream on the other. Rounds are interleaved, figures are medians with their spread. The gateways are started anew before each of N sets of
rounds, as what LuaJIT compiles may differ from start to start. With --write the table goes to the page of figures, between its marks. Figures:
requests/s, and processor time of the gateway's worker per request, which a busy machine disturbs less.
"""

import argparse
import base64
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

TOP = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
DPPROXY = os.environ.get("DPPROXY", os.path.join(TOP, "build", "proxy", "dpproxy"))
MODULES = "/usr/lib/nginx/modules"
TICK = os.sysconf("SC_CLK_TCK")

# name, what, what it is compared with, the least ratio of requests/s
GOALS = [
    ("one", "one route, no plugins", "bare", 0.85),
    ("plugins", "key-auth, limit-count, prometheus", "bare", 0.6),
    ("many", "10,000 routes, no plugins", "one", 0.95),
]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(what, seconds, text):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if what():
                return
        except OSError:
            pass
        time.sleep(0.02)
    raise SystemExit(f"bench: {text}")


def answers(port, path="/", headers=None, status=200):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=2) as answer:
            return answer.status == status
    except urllib.error.HTTPError as error:
        return error.code == status


class Process:
    """Started here, ended here."""

    def __init__(self, argv, cwd, core=None, log=None):
        self.log = open(log or os.path.join(cwd, "log"), "ab")
        argv = (["taskset", "-c", str(core)] if core is not None and os.cpu_count() > 1 else []) + argv
        self.process = subprocess.Popen(argv, cwd=cwd, stdout=self.log, stderr=self.log)

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()

    def below(self):
        """All processes below this one: gateways have masters, and a launcher before them."""
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            try:
                with open(f"/proc/{pid}/task/{pid}/children") as children:
                    below = [int(one) for one in children.read().split()]
            except OSError:
                below = []
            todo += below
            found.append(pid)
        return found

    def worker(self):
        for pid in self.below():
            with open(f"/proc/{pid}/cmdline", "rb") as line:
                if line.read().startswith(b"nginx: worker"):
                    return pid
        raise SystemExit("bench: a gateway without a worker")


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def rss_mib(pid, name="Pss_Anon"):
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        return int(re.search(rf"^{name}:\s+(\d+)", rollup.read(), re.M).group(1)) / 1024


def backend(folder, port):
    with open(os.path.join(folder, "nginx.conf"), "w") as conf:
        conf.write(f"""daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen 127.0.0.1:{port}; location / {{ return 200 "hello from the upstream, sixty-four bytes of text that is all it says\\n"; }} }} }}
""")
    return Process(["nginx", "-p", folder, "-c", os.path.join(folder, "nginx.conf")], folder, core=1)


def bare(folder, port, upstream):
    with open(os.path.join(folder, "nginx.conf"), "w") as conf:
        conf.write(f"""daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
load_module {MODULES}/ndk_http_module.so; load_module {MODULES}/ngx_http_lua_module.so;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 1000000000; lua_package_path "/usr/share/lua/5.1/?.lua;;";
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  init_by_lua_block {{ balancer = require("ngx.balancer") }}
  upstream up {{ server 0.0.0.1; balancer_by_lua_block {{ balancer.set_current_peer("127.0.0.1", {upstream}) }}
    keepalive 320; keepalive_requests 1000; keepalive_timeout 60s; }}
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
    proxy_set_header X-Real-IP $remote_addr; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $host; proxy_set_header X-Forwarded-Port $server_port;
    proxy_pass http://up; }} }} }}
""")
    return Process(["nginx", "-p", folder, "-c", os.path.join(folder, "nginx.conf")], folder, core=0)


class Etcd:
    def __init__(self, folder):
        self.port, peer = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = Process(["etcd", "--data-dir", os.path.join(folder, "data"), "--listen-client-urls", self.url, "--advertise-client-urls",
                                self.url, "--listen-peer-urls", f"http://127.0.0.1:{peer}", "--initial-advertise-peer-urls",
                                f"http://127.0.0.1:{peer}", "--initial-cluster", f"default=http://127.0.0.1:{peer}", "--unsafe-no-fsync",
                                "--quota-backend-bytes=4294967296"], folder, core=1)
        wait_for(lambda: answers(self.port, "/health"), 20, "etcd does not start")

    def call(self, path, body):
        request = urllib.request.Request(f"{self.url}/v3/{path}", data=json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def put(self, key, value):
        self.call("kv/put", put(key, value))

    def put_all(self, pairs):
        for at in range(0, len(pairs), 100):
            self.call("kv/txn", {"success": [{"request_put": put(key, value)} for key, value in pairs[at:at + 100]]})


def put(key, value):
    return {"key": base64.b64encode(key.encode()).decode(), "value": base64.b64encode(json.dumps(value).encode()).decode()}


class Gateway:
    def __init__(self, root, name, etcd):
        self.folder = os.path.join(root, name)
        self.name, self.etcd, self.port, self.status = name, etcd, free_port(), free_port()
        self.process = None

    def start(self):
        """With nothing left of an earlier start -> seconds until it was ready"""
        shutil.rmtree(self.folder, ignore_errors=True)
        os.mkdir(self.folder)
        began = time.monotonic()
        config = os.path.join(self.folder, "config.json")
        with open(config, "w") as out:
            json.dump({
                "apisix": {"node_listen": [{"ip": "127.0.0.1", "port": self.port}], "ssl": {"enable": False},
                           "control": {"ip": "127.0.0.1", "port": free_port()}, "status": {"ip": "127.0.0.1", "port": self.status}},
                "nginx_config": {"worker_processes": 1, "error_log_level": "warn", "event": {"worker_connections": 4096},
                                 "http": {"enable_access_log": False}},
                "plugin_attr": {"prometheus": {"export_addr": {"ip": "127.0.0.1", "port": free_port()}}},
                "deployment": {"role": "data_plane", "role_data_plane": {"config_provider": "etcd"},
                               "etcd": {"host": [self.etcd.url], "prefix": f"/{self.name}"}},
            }, out)
        self.process = Process([DPPROXY, "--config", config, "--runtime-dir", os.path.join(self.folder, "run")], self.folder, core=0)
        wait_for(lambda: answers(self.status, "/status/ready"), 30, f"dpproxy {self.name} does not get ready: see {self.folder}")
        return time.monotonic() - began


def routes(prefix, count, upstream):
    return [(f"{prefix}/routes/{i}", {"uri": f"/{i % 100}/service{i}/*", "methods": ["GET", "POST"], "upstream": {"nodes": {f"127.0.0.1:{upstream}": 1}}})
            for i in range(count)]


def wrk(port, path, seconds, headers):
    argv = ["taskset", "-c", "1"] if os.cpu_count() > 1 else []
    argv += ["wrk", "-t1", "-c50", f"-d{seconds}s", f"http://127.0.0.1:{port}{path}"]
    for name, value in headers.items():
        argv += ["-H", f"{name}: {value}"]
    out = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in out or "Socket errors" in out:
        raise SystemExit(f"bench: requests failed:\n{out}")
    return float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1))


def percentile(values, part):
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def rates(targets, rounds, seconds):
    """(requests/s, microseconds of processor time per request) of each target in each round."""
    found = {name: [] for name in targets}
    for _ in range(rounds):
        for name, (process, port, path, headers) in targets.items():
            worker = process.worker()
            wrk(port, path, 1, headers)
            before = cpu_seconds(worker)
            rate = wrk(port, path, seconds, headers)
            found[name].append((rate, (cpu_seconds(worker) - before) / (rate * seconds) * 1e6))
    return found


def put_to_effect(gateway, upstream, updates):
    """Milliseconds from the answer of a put until a request is answered by it."""
    found = []
    for i in range(updates):
        path = f"/effect/{i}"
        gateway.etcd.put(f"/{gateway.name}/routes/effect", {"uri": path, "upstream": {"nodes": {f"127.0.0.1:{upstream}": 1}}})
        began = time.monotonic()
        while not answers(gateway.port, path):
            if time.monotonic() - began > 5:
                raise SystemExit("bench: a put has no effect")
        found.append((time.monotonic() - began) * 1000)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--routes", type=int, default=10000)
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--write", metavar="FILE")
    options = parser.parse_args()
    options.load = os.getloadavg()[0]
    root = tempfile.mkdtemp(prefix="ks-proxy-bench.")
    os.chmod(root, 0o755)  # workers are another user
    processes = []
    lines = []

    def say(line):
        print(line, flush=True)
        lines.append(line)

    try:
        for name in ("backend", "bare", "etcd"):
            os.mkdir(os.path.join(root, name))
        upstream, bare_port = free_port(), free_port()
        processes.append(backend(os.path.join(root, "backend"), upstream))
        processes.append(bare(os.path.join(root, "bare"), bare_port, upstream))
        bare_process = processes[-1]
        etcd = Etcd(os.path.join(root, "etcd"))
        processes.append(etcd.process)
        gateways = {name: Gateway(root, name, etcd) for name in ("one", "plugins", "many")}
        one = {"uri": "/hello", "upstream": {"nodes": {f"127.0.0.1:{upstream}": 1}}}
        etcd.put("/one/routes/1", one)
        etcd.put("/plugins/routes/1", dict(one, plugins={"key-auth": {}, "prometheus": {}, "limit-count": {
            "count": 2000000000, "time_window": 3600, "key": "remote_addr", "rejected_code": 503}}))
        etcd.put("/plugins/consumers/jack", {"username": "jack", "plugins": {"key-auth": {"key": "secret-of-jack"}}})
        etcd.put_all(routes("/many", options.routes, upstream))
        wait_for(lambda: answers(upstream) and answers(bare_port), 20, "nginx does not start")
        path = f"/77/service{options.routes - 23}/x"
        found, loads, memories = {}, [], []
        for number in range(options.starts):
            for name, gateway in gateways.items():
                if number > 0:
                    gateway.process.stop()
                    processes.remove(gateway.process)
                seconds = gateway.start()
                processes.append(gateway.process)
                if name == "many":
                    loads.append(seconds)
            wait_for(lambda: answers(gateways["one"].port, "/hello") and answers(gateways["many"].port, path) and
                     answers(gateways["plugins"].port, "/hello", {"apikey": "secret-of-jack"}), 10, "a route is not served")
            for name, figures in rates({
                "bare": (bare_process, bare_port, "/hello", {}),
                "one": (gateways["one"].process, gateways["one"].port, "/hello", {}),
                "plugins": (gateways["plugins"].process, gateways["plugins"].port, "/hello", {"apikey": "secret-of-jack"}),
                "many": (gateways["many"].process, gateways["many"].port, path, {}),
            }, options.rounds, options.seconds).items():
                found.setdefault(name, []).extend(figures)
            memories.append(rss_mib(gateways["many"].process.worker()) - rss_mib(gateways["one"].process.worker()))
        effects = put_to_effect(gateways["many"], upstream, options.updates)

        say("| one worker | requests/s | processor time per request | of | ratio of requests/s (least … most) | of processor time | goal |")
        say("|---|---|---|---|---|---|---|")
        say(f"| bare nginx, balancer_by_lua, keepalive | {statistics.median(r for r, _ in found['bare']):,.0f} | "
            f"{statistics.median(c for _, c in found['bare']):.1f} µs | | | | |")
        for name, what, base, goal in GOALS:
            ratios = [r / b for (r, _), (b, _) in zip(found[name], found[base])]
            costs = [b / c for (_, c), (_, b) in zip(found[name], found[base])]
            say(f"| {what} | {statistics.median(r for r, _ in found[name]):,.0f} | {statistics.median(c for _, c in found[name]):.1f} µs | "
                f"{'bare nginx' if base == 'bare' else 'one route'} | {statistics.median(ratios):.2f}× ({min(ratios):.2f} … {max(ratios):.2f}) | "
                f"{statistics.median(costs):.2f}× | ≥ {goal}× |")
        say("")
        say(f"| with {options.routes:,} routes | | goal |")
        say("|---|---|---|")
        say(f"| put to effect, median / p99 of {len(effects)} | {statistics.median(effects):.1f} / {percentile(effects, 0.99):.1f} ms | ≤ 20 ms |")
        say(f"| from the start of dpproxy to ready, longest of {len(loads)} | {max(loads):.2f} s | ≤ 2 s |")
        say(f"| memory of the worker for them, most of {len(memories)} | {max(memories):.0f} MiB | ≤ 60 MiB |")
        if options.write:
            write(options.write, lines, options)
    finally:
        for process in reversed(processes):
            process.stop()
        shutil.rmtree(root, ignore_errors=True)


def version(argv, pattern):
    out = subprocess.run(argv, capture_output=True, text=True, check=False)
    return re.search(pattern, out.stdout + out.stderr).group(1)


INTRO = """## dpproxy

One worker of dpproxy beside one of a bare nginx that does the least a gateway must do: choose the node in Lua, keep connections to it, and
set the same request headers. Each worker has a core of its own; the load (wrk, 50 connections) and the upstream share the other. Processor time is
the worker's, user and system; on a busy machine it says more than requests per second.
"""


def write(page, lines, options):
    with open(page) as old:
        text = old.read()
    begin, end = "<!-- proxy -->\n", "<!-- /proxy -->\n"
    facts = (f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, load average before {options.load:.1f}, nginx {version(['nginx', '-v'], r'nginx/([0-9.]+)')}, "
             f"`./dev bench proxy --starts {options.starts} --rounds {options.rounds} --seconds {options.seconds} --write docs/benchmarks.md`, which writes this section; medians of interleaved rounds.")
    head, rest = text.split(begin)
    with open(page, "w") as new:
        new.write(head + begin + INTRO + "\n" + "\n".join(lines) + "\n\n" + facts + "\n" + end + rest.split(end, 1)[1])


if __name__ == "__main__":
    sys.exit(main())
