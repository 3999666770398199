#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The showpiece: everything above a gateway is killed, everything beside it is restarted, and no request fails.

    ./dev showpiece [--seconds S] [--clients N] [--store etcd]

PostgreSQL, a kineshim on it, a dpagent that mirrors the kineshim, a dpproxy that watches the dpagent, a backend, and clients that ask
all the time, each request on a connection of its own. Then, one after the other: kineshim and PostgreSQL are killed with SIGKILL, the dpagent is
stopped and started, killed and started, the dpproxy's worker is killed, the dpproxy is stopped and started, and all is brought back; a route that is
put then must take effect. dpproxy's port is held by this program as systemd holds it (dpproxy.socket): clients wait meanwhile.

As a test it ends with TAP; the exit status is 0 when no request failed."""
import argparse
import http.client
import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import harness  # noqa: E402
from harness import Agent, Gateway, Process, Store, wait_for  # noqa: E402

SERVERS = pathlib.Path(__file__).resolve().parents[1] / "lib" / "servers.sh"


class Postgres:
    """Through tests/lib/servers.sh, which knows how to start one as root and not."""

    def __init__(self):
        self.folder = self.shell("ks_tmpdir pg").strip()
        self.shell(f"pg_init {self.folder}")
        self.url = self.shell(f". {self.folder}/env; echo $KS_TEST_POSTGRES_URL").strip()

    @classmethod
    def is_there(cls):
        """On this machine, and for this kineshim."""
        return "pg" in cls.shell(f"ks_databases {shlex.quote(harness.KINESHIM)}").split()

    @staticmethod
    def shell(command):
        done = subprocess.run(["bash", "-c", f"set -e; . {shlex.quote(str(SERVERS))}; {command}"], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=120)
        if done.returncode != 0:
            raise RuntimeError(f"{command}: {done.stderr}")
        return done.stdout

    def kill(self):
        self.shell(f"pg_kill {self.folder} || true")

    def start(self):
        self.shell(f"pg_start {self.folder}")

    def stop(self):
        self.shell(f"pg_stop {self.folder} immediate; rm -rf {self.folder}")


class Backend:
    """nginx with one answer."""

    def __init__(self, folder):
        self.port = harness.free_port()
        folder.mkdir()
        conf = folder / "nginx.conf"
        conf.write_text(f"""daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log; events {{}}
http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
server {{ listen 127.0.0.1:{self.port}; return 200 "backend\\n"; }} }}""")
        self.process = Process(["/usr/sbin/nginx", "-p", str(folder), "-c", str(conf)], folder / "log")
        wait_for(lambda: harness.request(self.port).status == 200, "the backend")

    def stop(self):
        self.process.stop()


class HeldGateway(Gateway):
    """A dpproxy whose port is held open by this program while it is away."""

    def __init__(self, folder, url):
        self.held = None
        super().__init__(folder, url, {}, 1)

    def start(self):
        if self.held is None:
            self.held = socket.create_server(("127.0.0.1", self.port), backlog=1024)
            os.set_inheritable(self.held.fileno(), True)
        given = self.held.fileno()
        # LISTEN_PID is the process itself: a shell that becomes it.
        command = ["sh", "-c", 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"', "sh", *self.args]
        self.process = Process.__new__(Process)
        self.process.out = open(self.log, "ab")
        self.process.process = subprocess.Popen(command, stdout=self.process.out, stderr=subprocess.STDOUT, pass_fds=(3,),
                                                preexec_fn=lambda: os.dup2(given, 3))
        self.wait()

    def stop(self):
        # As the unit does: requests that run may end.
        self.process.stop(signal.SIGQUIT, 30)


class Load:
    """Clients that ask without a pause; what was not 200 from the backend is a failure."""

    def __init__(self, port, clients):
        self.port, self.stopping = port, False
        self.lock = threading.Lock()
        self.good, self.failures, self.slowest = 0, [], 0.0
        self.threads = [threading.Thread(target=self.run, daemon=True) for _ in range(clients)]
        for thread in self.threads:
            thread.start()

    def run(self):
        while not self.stopping:
            began = time.monotonic()
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
                connection.request("GET", "/hello", headers={"Connection": "close"})
                answer = connection.getresponse()
                what = None if (answer.status, answer.read()) == (200, b"backend\n") else f"status {answer.status}"
                connection.close()
            except (OSError, http.client.HTTPException) as e:
                what = repr(e)
            with self.lock:
                if what:
                    self.failures.append((time.monotonic(), what))
                else:
                    self.good += 1
                self.slowest = max(self.slowest, time.monotonic() - began)
            time.sleep(0.002)

    def stop(self):
        self.stopping = True
        for thread in self.threads:
            thread.join(35)


class Show:
    def __init__(self, options):
        self.options = options
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="dpagent-show-"))
        os.chmod(self.folder, 0o755)
        self.running, self.began, self.load = [], time.monotonic(), None

    def keep(self, server):
        self.running.append(server)
        return server

    def say(self, text):
        counts = f"{self.load.good:7d} answered, {len(self.load.failures)} failed" if self.load else ""
        print(f"# {time.monotonic() - self.began:6.1f} s  {text:58} {counts}", flush=True)

    def pause(self):
        """Some traffic between two deeds."""
        wanted = self.load.good + 50
        time.sleep(self.options.seconds)
        wait_for(lambda: self.load.good >= wanted or self.load.failures, "requests", 40)

    def set_up(self):
        self.postgres = None
        if self.options.store == "kineshim":
            self.postgres = self.keep(Postgres())
            self.say("PostgreSQL runs")
            self.store = self.keep(Store(self.folder, "kineshim", "kineshim", ["--endpoint", self.postgres.url]))
        else:
            self.store = self.keep(Store(self.folder, "etcd", "etcd"))
        self.backend = self.keep(Backend(self.folder / "backend"))
        self.route("1", "/hello")
        self.agent = self.keep(Agent(self.folder, self.store.url, start_timeout="1s"))
        self.proxy = self.keep(HeldGateway(self.folder, self.agent.url))
        wait_for(lambda: self.proxy.request("/hello").status == 200, "the route")
        self.load = Load(self.proxy.port, self.options.clients)
        self.say(f"{self.options.store}, dpagent, dpproxy and a backend run, {self.options.clients} clients ask")

    def route(self, name, uri):
        return self.store.put(f"/apisix/routes/{name}", {"uri": uri, "upstream": {"nodes": {f"127.0.0.1:{self.backend.port}": 1}}})

    def deeds(self):
        self.pause()
        self.store.kill()
        self.say("the control plane was killed")
        if self.postgres:
            self.postgres.kill()
            self.say("its database was killed")
        self.pause()
        self.agent.restart()
        assert self.agent.ready()[1]["source"] == "disk", self.agent.ready()
        self.say("dpagent was restarted, and serves from disk")
        self.pause()
        self.agent.restart(signal.SIGKILL)
        self.say("dpagent was killed and started")
        self.pause()
        os.kill(self.proxy.workers()[0], signal.SIGKILL if self.options.rough else signal.SIGQUIT)
        self.say("dpproxy's worker was ended")
        self.pause()
        self.proxy.stop()
        self.say("dpproxy was stopped, its clients wait")
        self.agent.restart()
        self.proxy.start()
        self.say("dpagent was restarted, dpproxy was started")
        self.pause()
        if self.postgres:
            self.postgres.start()
            self.say("the database is back")
        self.store.start()
        self.agent.wait_source("upstream", True, 40)
        self.say("the control plane is back, dpagent follows it again")
        self.route("2", "/new")
        began = time.monotonic()
        wait_for(lambda: self.proxy.request("/new").status == 200, "the new route to take effect", 10)
        self.say(f"a route that was put took effect after {1000 * (time.monotonic() - began):.0f} ms")
        self.pause()

    def run(self):
        try:
            self.set_up()
            self.deeds()
            self.load.stop()
            self.say("done")
            for when, what in self.load.failures[:10]:
                print(f"# failed at {when - self.began:.1f} s: {what}")
            good = not self.load.failures and self.load.good > 300
            print(f"{'ok' if good else 'not ok'} 1 - {self.options.store}: {self.load.good} requests, {len(self.load.failures)} failed, "
                  f"the slowest took {self.load.slowest:.2f} s")
            return 0 if good else 1
        except Exception as e:  # whatever it is, the servers end
            print("not ok 1 - " + repr(e).replace("\n", " ")[:2000])
            return 1
        finally:
            print("1..1")
            if self.load:
                self.load.stopping = True
            for server in reversed(self.running):
                server.stop()
            if os.environ.get("KS_TEST_KEEP"):
                print(f"# kept: {self.folder}")
            else:
                shutil.rmtree(self.folder, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.5, help="between two deeds (default 0.5)")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--store", choices=("kineshim", "etcd"), default="kineshim")
    parser.add_argument("--rough", action="store_true", help="kill dpproxy's worker with SIGKILL: what it was just answering breaks")
    sys.exit(Show(parser.parse_args()).run())


if __name__ == "__main__":
    main()
