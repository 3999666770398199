# SPDX-License-Identifier: Apache-2.0
"""The servers that benchmarks have side by side, each with its own store on the same disk: etcd, the newest etcd, kineshim and kine on each database.

peers.py and growth.py measure them with kineshim-bench, tools.py with the tools of others."""
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("KS_BUILD", TOP / "build"))
sys.path.insert(0, str(TOP / "tests" / "agent"))
os.environ.setdefault("top_builddir", str(BUILD))
import harness  # noqa: E402

BENCH = str(BUILD / "tests" / "bench" / "kineshim-bench")
DELAY = str(BUILD / "tests" / "bench" / "delay")
KINESHIM = str(BUILD / "kineshim" / "kineshim")
SERVERS = TOP / "tests" / "lib" / "servers.sh"
DATABASES = ("sqlite", "postgres", "mariadb")
# kine on SQLite does not wait for the disk (synchronous=NORMAL): what it has acknowledged last is lost with the power. The second one is told to wait.
SYNCED = "kine-sqlite-sync"
KINES = (*(f"kine-{d}" for d in DATABASES), SYNCED)
ALL = ("etcd", "etcd-new", *DATABASES, *KINES)
# As kine has them by default.
KINE_SQLITE = "?_journal_mode=WAL&_busy_timeout=30000&_synchronous=NORMAL&_txlock=immediate&_stmt_cache_size=20&cache=shared"
NOT_KINE = ("etcd", "etcd-new", *DATABASES)


def note(text):
    print(f"{pathlib.Path(sys.argv[0]).stem}: {text}", file=sys.stderr, flush=True)


def shell(command, seconds=180):
    done = subprocess.run(["bash", "-c", f"set -e; . {shlex.quote(str(SERVERS))}; {command}"], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=seconds)
    if done.returncode != 0:
        raise RuntimeError(f"{command}: {done.stderr[-2000:]}")
    return done.stdout


def go_build(folder, program, package):
    """The newest release of the program, built if need be; None when it cannot be. In a module of its own, since etcd's cannot be installed directly."""
    path = folder / program
    if path.exists():
        return path
    if not shutil.which("go"):
        return None
    note(f"building {package}, which takes some minutes")
    module = folder / f"{program}.module"
    shutil.rmtree(module, ignore_errors=True)
    module.mkdir(parents=True)
    for command in (["mod", "init", "peers"], ["get", f"{package}@latest"], ["build", "-o", str(path), package]):
        done = subprocess.run(["go", *command], cwd=module, capture_output=True, text=True)
        if done.returncode != 0:
            note(f"{package} cannot be built: {done.stderr.strip().splitlines()[-1:]}")
            return None
    return path


class Database:
    """PostgreSQL or MariaDB as installed: what the tests make smaller is as by default, and fsync is on."""

    def __init__(self, kind, folder):
        self.kind = kind
        os.environ["TMPDIR"] = str(folder)
        # As etcd does, and kineshim and kine on SQLite: the databases wait for the disk, which those of other tests do not.
        os.environ["KS_TEST_FSYNC"] = "1"
        # kine opens a connection for each request that waits.
        os.environ["KS_TEST_POSTGRES_FLAGS"] = "-c max_connections=1000"
        if kind == "mariadb":
            os.environ["KS_TEST_MARIADB_FLAGS"] = ("--max-connections=1000 --innodb-buffer-pool-size=128M --innodb-log-file-size=96M --key-buffer-size=128M "
                                                   + os.environ.get("KS_TEST_MARIADB_FLAGS", ""))
        self.short = {"postgres": "pg", "mariadb": "my"}[kind]
        self.folder = shell(f"ks_tmpdir {self.short}" + (' "$(my_user)"' if self.short == "my" else "")).strip()
        shell(f"{self.short}_init {self.folder}")
        env = shell(f"cat {self.folder}/env")
        self.url = re.search(r"^export KS_TEST_[A-Z]*_URL='?([^'\n]*)'?$", env, re.M).group(1)

    def sql(self, text, database=None):
        if self.short == "pg":
            return shell(f"PGDATABASE={database or 'postgres'} pg_run {self.folder} psql -qXAt -c {shlex.quote(text)}")
        return shell(f"my_run {self.folder} mariadb -N -B -e {shlex.quote(text)}")

    def fresh(self, name):
        self.sql(f"DROP DATABASE IF EXISTS {name}")
        self.sql(f"CREATE DATABASE {name}" + (" OWNER kineshim" if self.short == "pg" else ""))
        if self.short == "my":
            user = self.sql("SELECT CONCAT(QUOTE(user), '@', QUOTE(host)) FROM mysql.user WHERE user = 'kineshim'").split()[0]
            self.sql(f"GRANT ALL ON {name}.* TO {user}")

    def bytes(self, name, written=True):
        """Of its files; 'written': with what the database still has in memory."""
        if self.short == "pg":
            if written:
                self.sql("CHECKPOINT")
            return int(self.sql(f"SELECT pg_database_size('{name}')"))
        return sum(file.stat().st_size for file in pathlib.Path(self.folder, "data", name).glob("*.ibd"))

    def settle(self, name):
        """Does now what a load of many rows leaves for later, and what would else be counted with the calls that follow."""
        if self.short == "pg":
            self.sql("VACUUM (ANALYZE) kineshim_log", name)
            self.sql("CHECKPOINT")

    def pids(self):
        """The server and the processes that it has now, which for PostgreSQL are those of its connections too."""
        files = {"pg": "data/postmaster.pid", "my": "server.pid"}
        server = pathlib.Path(self.folder, files[self.short]).read_text().split()[0]
        children = subprocess.run(["ps", "-o", "pid=", "--ppid", server], capture_output=True, text=True, check=False).stdout.split()
        return [int(pid) for pid in [server, *children]]

    def stop(self):
        shell(f"{self.short}_stop {self.folder} || true; rm -rf {self.folder}")


def database_of(target):
    return "bench_" + target.replace("-", "_")


class Targets:
    """Those of the wanted targets that can be had here, in one temporary folder; none runs before fresh() or start()."""

    def __init__(self, wanted):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="ks-bench-", dir=os.environ.get("KS_BENCH_DIR", "/tmp")))
        os.chmod(self.folder, 0o755)
        self.running, self.databases = {}, {}
        self.patience = 600   # seconds, with a load
        self.kineshim_flags = []
        self.relays = {}   # kind of database: the port of a longer way to it, and its process
        self.ports = {target: harness.free_port() for target in ALL}
        self.targets = list(wanted)
        peers = pathlib.Path(os.environ.get("KS_PEERS", BUILD / "peers"))
        self.programs = {"etcd": shutil.which("etcd")}
        if "etcd-new" in self.targets:
            self.programs["etcd-new"] = go_build(peers, "etcd-new", "go.etcd.io/etcd/server/v3")
        if any(t in KINES for t in self.targets):
            self.programs["kine"] = go_build(peers, "kine", "github.com/k3s-io/kine")
        for target, program in (("etcd", "etcd"), ("etcd-new", "etcd-new"), *((k, "kine") for k in KINES)):
            if target in self.targets and not self.programs.get(program):
                note(f"left out: {target} (no Go, or it cannot be built)")
                self.targets.remove(target)
        for kind in ("postgres", "mariadb"):
            if kind in self.targets or f"kine-{kind}" in self.targets:
                self.databases[kind] = Database(kind, self.folder)

    # ---- servers ----

    def endpoint(self, target):
        kine = target.startswith("kine-")
        kind = target.removeprefix("kine-")
        if target == SYNCED:
            return f"sqlite://{self.folder}/{target}.db" + KINE_SQLITE.replace("NORMAL", "FULL")
        if kind == "sqlite":
            return f"sqlite://{self.folder}/{target}.db" + (KINE_SQLITE if kine else "")
        url = self.databases[kind].url
        name = database_of(target)
        base = re.sub(r"/kineshim($|\?)", rf"/{name}\1", url)
        if not kine and kind in self.relays:
            base = re.sub(r"(127\.0\.0\.1:)\d+", rf"\g<1>{self.relays[kind][0]}", base)
        if kine and kind == "postgres":
            return base + ("&" if "?" in base else "?") + "sslmode=disable"
        return base

    def command(self, target):
        url = f"http://127.0.0.1:{self.ports[target]}"
        quota = ["--quota-backend-bytes", str(8 << 30)]
        if target in ("etcd", "etcd-new"):
            return [self.programs[target], "--name", "bench", "--data-dir", str(self.folder / target), "--listen-client-urls", url,
                    "--advertise-client-urls", url, "--listen-peer-urls", "http://127.0.0.1:0", *quota, "--log-level", "error"]
        if target.startswith("kine-"):
            return [str(self.programs["kine"]), "--endpoint", self.endpoint(target), "--listen-address",
                    f"127.0.0.1:{self.ports[target]}", "--metrics-bind-address", "0"]
        return [KINESHIM, "--endpoint", self.endpoint(target), "--listen-client-urls", url, "--data-dir", str(self.folder / target), *quota, *self.kineshim_flags]

    def start(self, target, seconds=60):
        log = open(self.folder / f"{target}.log", "ab")
        process = subprocess.Popen(self.command(target), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                   env=dict(os.environ, ETCD_UNSUPPORTED_ARCH="arm64"))
        log.close()
        self.running[target] = process
        harness.wait_for(lambda: self.ready(target), f"{target} ({self.folder}/{target}.log)", seconds)

    def listening(self, target):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.ports[target])) == 0

    def ready(self, target):
        if self.running[target].poll() is not None:
            raise AssertionError(f"{target} ended: " + (self.folder / f"{target}.log").read_text(errors="replace")[-2000:])
        # A client that comes too early waits for long before it tries again, which would count as the start's.
        if not self.listening(target):
            return False
        done = subprocess.run([BENCH, "ready", "--endpoint", f"127.0.0.1:{self.ports[target]}"] if not target.startswith("kine-") else
                              ["bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{self.ports[target]}"], capture_output=True)
        return done.returncode == 0

    def stop(self, target):
        process = self.running.pop(target, None)
        if not process:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def fresh(self, target):
        self.stop(target)
        shutil.rmtree(self.folder / target, ignore_errors=True)
        for file in self.folder.glob(f"{target}.db*"):
            file.unlink()
        kind = target.removeprefix("kine-")
        if kind in self.databases:
            self.databases[kind].fresh(database_of(target))
        self.start(target)

    def end(self):
        for target in list(self.running):
            self.stop(target)
        for database in self.databases.values():
            database.stop()
        if not os.environ.get("KS_TEST_KEEP"):
            shutil.rmtree(self.folder, ignore_errors=True)

    # ---- what is measured on them ----

    def bench(self, target, command, **flags):
        args = [BENCH, command, "--endpoint", f"127.0.0.1:{self.ports[target]}"]
        for name, value in flags.items():
            args += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
        done = subprocess.run(args, capture_output=True, text=True, timeout=self.patience)
        if done.returncode != 0:
            raise RuntimeError(f"{command}: {done.stderr.strip()[-300:]}")
        return json.loads(done.stdout.splitlines()[-1])

    def cpu(self, target):
        fields = pathlib.Path(f"/proc/{self.running[target].pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def size(self, target, written=True):
        kind = target.removeprefix("kine-")
        if kind in self.databases:
            return self.databases[kind].bytes(database_of(target), written)
        if target.startswith("etcd"):
            return sum(file.stat().st_blocks * 512 for file in (self.folder / target).rglob("*") if file.is_file())
        return sum(file.stat().st_size for file in self.folder.glob(f"{target}.db*") if not file.name.endswith("-shm"))


def version_of(args, pattern):
    try:
        text = subprocess.run([str(a) for a in args], capture_output=True, text=True, timeout=20)
        return re.search(pattern, text.stdout + text.stderr).group(1)
    except (OSError, AttributeError, subprocess.TimeoutExpired):
        return "unknown"


def database_versions(targets):
    """Of the databases that these targets have."""
    def has(kind):
        return any(target in (kind, f"kine-{kind}") for target in targets)
    found = [("SQLite " + version_of([KINESHIM, "--version", "--verbose"], r"sqlite (\d[\d.]*)")) if has("sqlite") else None,
             ("PostgreSQL " + version_of(["psql", "--version"], r"(\d+\.\d+)")) if has("postgres") else None,
             ("MariaDB " + version_of(["mariadb", "--version"], r"(\d+\.\d+\.\d+)-MariaDB")) if has("mariadb") else None]
    return [version for version in found if version]
