#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""dpagent's fallback storage against S3 and Azure Blob servers of others. ./dev interop agent fetches them (--install); without it what
is in the cache is used, and what is not there is skipped, which is said for each test."""
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import harness  # noqa: E402
import object_servers  # noqa: E402
from harness import Pki, wait_for  # noqa: E402
from object_servers import ID, SECRET, Answers, Azurite, Relay, S3rver, Tool, VersityGw, later  # noqa: E402


class Scenario(harness.Scenario):
    def start(self):
        self.serial, self.servers = 0, {}

    def server(self, kind):
        """One of each for all tests."""
        if kind not in self.servers:
            self.servers[kind] = {"versitygw": VersityGw, "s3rver": S3rver, "azurite": Azurite}[kind](self.folder)
        return self.servers[kind]

    def run_one(self, test):
        only = os.environ.get("KS_TEST_ONLY")
        missing = [kind for kind in getattr(test, "kinds", ()) if not object_servers.there(kind)]
        if not missing or (only and only not in test.__name__):
            super().run_one(self.checked(test))
            return
        self.count += 1
        print(f"ok {self.count} - {test.__name__} # SKIP {' and '.join(missing)} not installed: run ./dev interop agent once")

    @staticmethod
    def checked(test):
        """Also the end of each tool counts: sanitizers speak then."""
        def run(scenario):
            test(scenario)
            for tool in [server for server in scenario.running if isinstance(server, Tool)]:
                status = tool.stop()
                assert status == 0, (status, tool.errors[-40:])
        run.__name__ = test.__name__
        return run

    def finish(self):
        for server in self.servers.values():
            server.stop()
        super().finish()

    def tool(self, url, env, args=(), cluster=7, revision=10):
        """With a state of that history: one key."""
        tool = self.keep(Tool(url, env, args))
        if cluster:
            tool.do("load", cluster, revision)
        return tool


def needs(*kinds):
    def mark(test):
        test.kinds = kinds
        return test
    return mark


def on_both(test):
    """The same on S3 and on Azure: two tests, 'test' gets the server, and its environment and a URL of a new bucket."""
    tests = []
    for kind, name in (("versitygw", "s3"), ("azurite", "azure")):
        def run(scenario, kind=kind):
            server = scenario.server(kind)
            test(scenario, server, server.bucket(scenario.name("bucket")))
        run.__name__, run.kinds = f"{name}_{test.__name__}", (kind,)
        tests.append(run)
    return tests


def snap(sequence):
    return f"{sequence:020}.snap"


def apply_all(tool, revisions):
    for revision in revisions:
        tool.do("apply", revision, "/apisix/routes/1", f"value{revision}")


def export_one(scenario, server, bucket, revision=11, args=(), env=None):
    """One version by an exporter of its own."""
    tool = scenario.tool(server.url(bucket), {**server.env, **(env or {})}, args)
    apply_all(tool, [revision])
    tool.do("export", 1, 10)
    tool.wait_writes(1)
    assert tool.stop() == 0
    return tool


# ---- exporting ----

def changes_are_exported_with_an_interval(scenario, server, bucket):
    tool = scenario.tool(server.url(bucket), server.env)
    started = time.monotonic()
    tool.do("export", 1500, 10)
    tool.wait_writes(1)
    apply_all(tool, range(11, 31))
    status = tool.wait_writes(2)
    took = time.monotonic() - started
    assert status["writes"] == 2 and took >= 1.4, (status, took)
    assert status["object"] == f"fb/prod/{snap(2)}" and status["object_revision"] == 30 and status["bytes"] > 0, status
    newest = tool.do("newest")
    assert (newest["revision"], newest["keys"], newest["cluster"], newest["fault"]) == (30, 2, 7, ""), newest
    assert tool.do("list")["versions"] == [1, 2]
    assert not tool.status()["alarms"], tool.status()


def the_last_change_is_exported_at_the_stop(scenario, server, bucket):
    tool = scenario.tool(server.url(bucket), server.env)
    tool.do("export", 60000, 10)
    tool.wait_writes(1)
    apply_all(tool, [11])
    tool.do("stop")
    assert tool.do("newest")["revision"] == 11
    assert tool.status()["writes"] == 2


def two_exporters_never_interleave(scenario, server, bucket):
    """A hundred revisions, seen by both at once."""
    tools = [scenario.tool(server.url(bucket), server.env) for _ in range(2)]
    for tool in tools:
        tool.do("export", 1, 1000)
        tool.wait(f"a first look of {tool}", lambda s: s["writes"] or s["object"])
    barrier = threading.Barrier(2)

    def feed(tool):
        for revision in range(11, 111):
            barrier.wait(20)
            tool.do("apply", revision, "/apisix/routes/1", f"value{revision}")
            time.sleep(0.01)

    threads = [threading.Thread(target=feed, args=(tool,)) for tool in tools]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    wait_for(lambda: tools[0].do("newest")["revision"] == 110, "the last revision")
    for tool in tools:
        tool.do("stop")
    statuses = [tool.status() for tool in tools]
    versions = tools[0].do("list")["versions"]
    assert versions == list(range(1, len(versions) + 1)), versions
    revisions = [tools[0].do("read", version)["revision"] for version in versions]
    assert revisions == sorted(set(revisions)) and revisions[-1] == 110, revisions
    # Both may call one theirs that they wrote alike, byte for byte, within the same millisecond.
    assert sum(s["writes"] for s in statuses) >= len(versions), (statuses, len(versions))
    assert sum(s["fenced"] for s in statuses) > 0, statuses
    assert not any(s["alarms"] for s in statuses), statuses
    print(f"# {len(versions)} versions, by {[s['writes'] for s in statuses]}, fenced {[s['fenced'] for s in statuses]}")


def old_versions_are_deleted(scenario, server, bucket):
    tool = scenario.tool(server.url(bucket), server.env)
    tool.do("export", 1, 3)
    for revision in range(11, 18):
        before = tool.status()["writes"]
        apply_all(tool, [revision])
        tool.wait_writes(before + 1)
    wait_for(lambda: tool.do("newest")["revision"] == 17, "the last revision")
    tool.do("stop")
    versions = tool.do("list")["versions"]
    assert len(versions) == 3 and versions == list(range(versions[0], versions[0] + 3)) and versions[-1] >= 7, versions


def a_missing_bucket_is_an_alarm(scenario, server, bucket):
    tool = scenario.tool(server.url("absent" + bucket), server.env)
    tool.do("export", 1, 10)
    text = tool.wait_alarm("object_access")
    assert "404" in text and "does not exist" in text, text
    assert tool.status()["failures"] >= 1
    reader = scenario.tool(server.url("absent" + bucket), server.env)
    reader.do("import", 60000)
    assert reader.do("once")["applied"] is False
    assert "404" in reader.alarm("object_access"), reader.status()


def a_wrong_key_is_refused(scenario, server, bucket):
    wrong = {k: v[:-6] + ("AAAA==" if v.endswith("==") else "wrong!") if k != "AWS_ACCESS_KEY_ID" else v for k, v in server.env.items()}
    tool = scenario.tool(server.url(bucket), wrong)
    tool.do("export", 1, 10)
    text = tool.wait_alarm("object_access")
    assert "403" in text, text
    assert "Signature" in text or "AuthorizationFailure" in text or "AuthenticationFailed" in text, text
    tool.stop()
    for secret in wrong.values():
        assert secret not in tool.text() and secret[:12] not in tool.text(), tool.text()


def a_slow_server_is_an_alarm_until_it_is_fast(scenario, server, bucket):
    relay = scenario.keep(Relay(server.port, "/devstoreaccount1" if isinstance(server, Azurite) else ""))
    relay.before = lambda request: relay.sleep(3)
    tool = scenario.tool(server.url(bucket, endpoint=relay.endpoint), server.env, ["--timeout", 400])
    tool.do("export", 1, 10)
    tool.wait_alarm("object_access", "does not answer in time")
    relay.before = lambda request: None
    tool.wait_writes(1)
    assert not tool.status()["alarms"], tool.status()


def a_lost_answer_is_no_second_version(scenario, server, bucket):
    relay = scenario.keep(Relay(server.port, "/devstoreaccount1" if isinstance(server, Azurite) else ""))
    lost = []

    def lose(request, answer):
        if request.method == "PUT" and ".snap" in request.path and not lost:
            lost.append(answer[0])
            return None
        return answer

    relay.after = lose
    tool = scenario.tool(server.url(bucket, endpoint=relay.endpoint), server.env)
    tool.do("export", 1, 10)
    status = tool.wait_writes(1)
    assert lost and lost[0] in (200, 201), lost
    assert status["fenced"] == 0 and tool.do("list")["versions"] == [1], status


def a_busy_server_is_asked_again(scenario, server, bucket):
    relay = scenario.keep(Relay(server.port, "/devstoreaccount1" if isinstance(server, Azurite) else ""))
    turn = []

    def busy(request):
        turn.append(request.method)
        return (503, {}, b"<Error><Code>SlowDown</Code></Error>") if len(turn) % 2 else None

    relay.before = busy
    tool = scenario.tool(server.url(bucket, endpoint=relay.endpoint), server.env)
    tool.do("export", 1, 10)
    status = tool.wait_writes(1)
    assert status["failures"] == 0, status


def a_damaged_newest_object_is_passed_over(scenario, server, bucket):
    export_one(scenario, server, bucket)
    bad = scenario.folder / "bad"
    bad.write_bytes(b"no image at all")
    tool = scenario.tool(server.url(bucket), server.env, cluster=0)
    tool.do("put", 2, bad)
    tool.do("connected", "no")
    tool.do("import", 60000)
    assert tool.do("once")["applied"] is True
    status = tool.status()
    assert (status["source"], status["up_revision"], status["keys"]) == ("object-storage", 11, 2), status
    assert snap(2) in status["alarms"]["object_invalid"], status
    assert status["object"] == f"fb/prod/{snap(1)}" and status["reads"] == 1, status
    # It is still there, and nothing newer is behind it.
    assert tool.do("once")["applied"] is False
    # The backup goes on with the next number, and that ends the alarm.
    other = scenario.tool(server.url(bucket), server.env)
    apply_all(other, [20])
    other.do("export", 1, 10)
    other.wait_writes(1)
    assert other.do("list")["versions"] == [1, 2, 3]
    assert tool.do("once")["applied"] is True
    status = tool.status()
    assert status["up_revision"] == 20 and not status["alarms"], status


def the_newest_deleted_is_a_way_back(scenario, server, bucket):
    tool = scenario.tool(server.url(bucket), server.env)
    tool.do("export", 1, 10)
    for count, revision in enumerate((11, 12), 1):
        apply_all(tool, [revision])
        tool.wait(f"revision {revision}", lambda s, r=revision: s["object_revision"] == r)
    tool.do("stop")
    newest = tool.do("list")["versions"][-1]
    tool.do("delete", newest)
    tool.do("delete", newest)   # gone is gone
    reader = scenario.tool(server.url(bucket), server.env, cluster=0)
    reader.do("import", 60000)
    assert reader.do("once")["applied"] is True
    assert reader.status()["up_revision"] == 11, reader.status()


# ---- reading ----

@needs("versitygw")
def only_what_is_newer_is_applied(scenario):
    server = scenario.server("versitygw")
    bucket = server.bucket(scenario.name("bucket"))
    export_one(scenario, server, bucket, 30)
    reader = scenario.tool(server.url(bucket), server.env)
    apply_all(reader, [40])
    reader.do("import", 60000)
    assert reader.do("once")["applied"] is False
    status = reader.status()
    assert status["up_revision"] == 40 and status["source"] == "none" and status["reads"] == 1, status
    # What was read is not read again.
    assert reader.do("once")["applied"] is False and reader.status()["reads"] == 1
    export_one(scenario, server, bucket, 50)
    assert reader.do("once")["applied"] is True and reader.status()["up_revision"] == 50


@needs("versitygw")
def a_listing_under_way_only_puts_it_off(scenario):
    server = scenario.server("versitygw")
    bucket = server.bucket(scenario.name("bucket"))
    export_one(scenario, server, bucket, 30)
    reader = scenario.tool(server.url(bucket), server.env)
    # Upstream began to answer, and hangs in the middle.
    reader.do("listing", 40)
    reader.do("import", 60000)
    assert reader.do("once")["applied"] is False
    reader.do("unlisted")
    assert reader.do("once")["applied"] is True and reader.status()["up_revision"] == 30


@needs("versitygw")
def it_is_asked_again_only_while_upstream_is_away(scenario):
    server = scenario.server("versitygw")
    bucket = server.bucket(scenario.name("bucket"))
    relay = scenario.keep(Relay(server.port))
    export_one(scenario, server, bucket, 30)
    reader = scenario.tool(server.url(bucket, endpoint=relay.endpoint), server.env)
    reader.do("connected", "yes")
    reader.do("import", 50)
    time.sleep(0.4)
    assert not relay.requests, relay.requests
    reader.do("connected", "no")
    reader.wait("the import", lambda s: s["up_revision"] == 30)
    assert reader.status()["source"] == "object-storage"


@needs("versitygw")
def signatures_decide(scenario):
    server = scenario.server("versitygw")
    bucket = server.bucket(scenario.name("bucket"))
    keys = {}
    for name in ("ours", "theirs"):
        keys[name] = scenario.folder / f"{name}.pem", scenario.folder / f"{name}.pub"
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", keys[name][0]], check=True, capture_output=True)
        os.chmod(keys[name][0], 0o600)
        subprocess.run(["openssl", "pkey", "-in", keys[name][0], "-pubout", "-out", keys[name][1]], check=True, capture_output=True)
    export_one(scenario, server, bucket, 11, ["--sign", keys["ours"][0], "--verify", keys["ours"][1]])
    export_one(scenario, server, bucket, 12, ["--sign", keys["theirs"][0], "--verify", keys["theirs"][1]])
    export_one(scenario, server, bucket, 13)
    reader = scenario.tool(server.url(bucket), server.env, ["--verify", keys["ours"][1]], cluster=0)
    reader.do("import", 60000)
    assert reader.do("once")["applied"] is True
    status = reader.status()
    assert status["up_revision"] == 11 and snap(3) in status["alarms"]["object_invalid"], status
    stranger = scenario.tool(server.url(bucket), server.env, ["--verify", keys["theirs"][1]], cluster=0)
    assert stranger.do("newest")["revision"] == 12
    nobody = scenario.folder / "nobody.pub"
    nobody.write_text(keys["ours"][1].read_text())
    lone = server.bucket(scenario.name("bucket"))
    export_one(scenario, server, lone, 13)
    refused = scenario.tool(server.url(lone), server.env, ["--verify", nobody], cluster=0)
    refused.do("import", 60000)
    assert refused.do("once")["applied"] is False
    assert refused.status()["keys"] == 0 and "object_invalid" in refused.status()["alarms"], refused.status()


@needs("versitygw")
def truncated_or_changed_objects_are_refused(scenario):
    server = scenario.server("versitygw")
    bucket = server.bucket(scenario.name("bucket"))
    export_one(scenario, server, bucket)
    good = server.data(bucket, f"fb/prod/{snap(1)}")
    reader = scenario.tool(server.url(bucket), server.env, cluster=0)
    for sequence, bad in enumerate((good[:-1], good[:40], b"", good + b"x", bytes([good[0] ^ 1]) + good[1:], good[:-1] + bytes([good[-1] ^ 1])), 2):
        server.put(bucket, f"fb/prod/{snap(sequence)}", bad)
        newest = reader.do("newest")
        assert newest["revision"] == 11 and snap(sequence) in newest["fault"], (sequence, newest)


@needs("versitygw")
def foreign_objects_are_left_alone(scenario):
    server = scenario.server("versitygw")
    bucket = server.bucket(scenario.name("bucket"))
    foreign = ["notes.txt", "1.snap", snap(1) + ".bak", snap(0), "99999999999999999999.snap", "sub/" + snap(9)]
    for name in foreign:
        server.put(bucket, "fb/prod/" + name, b"x")
    server.put(bucket, "fb/prod2/" + snap(7), b"x")
    tool = scenario.tool(server.url(bucket), server.env)
    tool.do("export", 1, 2)
    for count in range(4):
        apply_all(tool, [11 + count])
        tool.wait(f"revision {11 + count}", lambda s, c=count: s["object_revision"] == 11 + c)
    tool.do("stop")
    names = server.names(bucket)
    assert all(name.split("/")[0] in names for name in foreign), names
    assert server.names(bucket, "fb/prod2") == [snap(7)]
    assert len(tool.do("list")["versions"]) == 2, tool.do("list")


@needs("versitygw")
def lists_of_more_than_a_page(scenario):
    server = scenario.server("versitygw")
    bucket = server.bucket(scenario.name("bucket"))
    for sequence in range(1, 2106):
        server.put(bucket, f"fb/a b+c/{snap(sequence)}", b"x")
    tool = scenario.tool(server.url(bucket, "fb/a b+c".replace(" ", "%20")), server.env)
    assert tool.do("list")["versions"] == list(range(1, 2106))


@needs("azurite")
def azure_lists_of_more_than_a_page(scenario):
    """The relay asks for small pages: with a SAS token the query is not signed."""
    server = scenario.server("azurite")
    container = server.bucket(scenario.name("bucket"))
    relay = scenario.keep(Relay(server.port, "/devstoreaccount1"))
    relay.rewrite = lambda path: path + "&maxresults=2" if "comp=list" in path else path
    env = {"AZURE_STORAGE_SAS_TOKEN": "?" + server.sas(container)}
    tool = scenario.tool(server.url(container, endpoint=relay.endpoint), env)
    tool.do("export", 1, 100)
    for count in range(7):
        apply_all(tool, [11 + count])
        tool.wait(f"revision {11 + count}", lambda s, c=count: s["object_revision"] == 11 + c)
    tool.do("stop")
    versions = tool.do("list")["versions"]
    assert len(versions) >= 7 and versions == list(range(1, len(versions) + 1)), versions
    assert any("marker=" in path for _, path in relay.requests), relay.requests[-5:]
    assert "sig=" in relay.requests[0][1]
    tool.stop()
    assert env["AZURE_STORAGE_SAS_TOKEN"][-20:] not in tool.text()


# ---- fencing ----

@needs("s3rver")
def storage_without_conditional_writes_is_refused(scenario):
    server = scenario.server("s3rver")
    tool = scenario.tool(server.url("bkt"), server.env)
    apply_all(tool, [11])
    tool.do("export", 1, 10)
    text = tool.wait_alarm("object_access", "If-None-Match")
    assert "overwrite each other" in text, text
    assert tool.do("list")["versions"] == [] and tool.status()["writes"] == 0


@needs("versitygw")
def a_second_exporter_leaves_what_is_newer(scenario):
    server = scenario.server("versitygw")
    bucket = server.bucket(scenario.name("bucket"))
    export_one(scenario, server, bucket, 50)
    tool = scenario.tool(server.url(bucket), server.env)
    apply_all(tool, [20])
    tool.do("export", 1, 10)
    status = tool.wait("the other's version", lambda s: s["fenced"] == 1)
    assert status["object_revision"] == 50 and status["writes"] == 0 and not status["alarms"], status
    apply_all(tool, [51])
    tool.wait_writes(1)
    assert tool.do("list")["versions"] == [1, 2]
    # The same revision once more is nothing new.
    again = scenario.tool(server.url(bucket), server.env)
    apply_all(again, [51])
    again.do("export", 1, 10)
    status = again.wait("a look", lambda s: s["object"])
    assert status["writes"] == 0 and status["fenced"] == 0 and again.do("list")["versions"] == [1, 2], status


@needs("versitygw")
def an_upstream_that_was_set_back_is_an_alarm(scenario):
    server = scenario.server("versitygw")
    bucket = server.bucket(scenario.name("bucket"))
    export_one(scenario, server, bucket, 50)
    tool = scenario.tool(server.url(bucket), {**server.env, "DPAGENT_TEST_CLOCK_OFFSET_MS": "120000"})
    apply_all(tool, [20])
    tool.do("export", 1, 10)
    text = tool.wait_alarm("object_access", "set back")
    assert snap(1) in text and "50" in text and "20" in text, text
    assert server.names(bucket) == [snap(1)]
    tool.do("delete", 1)
    tool.wait_writes(1)
    assert not tool.status()["alarms"] and tool.do("newest")["revision"] == 20


@needs("versitygw")
def the_only_writer_follows_an_upstream_that_was_set_back(scenario):
    server = scenario.server("versitygw")
    bucket = server.bucket(scenario.name("bucket"))
    tool = scenario.tool(server.url(bucket), server.env)
    apply_all(tool, [50])
    tool.do("export", 1, 10)
    tool.wait_writes(1)
    tool.do("load", 7, 20)      # a listing of upstream, at a lower revision and with less
    tool.wait("the export", lambda s: s["object_revision"] == 20)
    assert tool.do("newest")["keys"] == 1 and not tool.status()["alarms"]


@needs("versitygw")
def an_empty_upstream_is_not_exported(scenario):
    server = scenario.server("versitygw")
    bucket = server.bucket(scenario.name("bucket"))
    tool = scenario.tool(server.url(bucket), server.env)
    tool.do("export", 1, 10)
    tool.wait_writes(1)
    tool.do("empty", 8, 20)
    tool.do("apply", 21, "/apisix/routes", "init_dir")
    tool.do("stop")
    assert tool.status()["writes"] == 1 and tool.do("newest")["keys"] == 1
    tool.do("export", 1, 10)
    tool.do("apply", 22, "/apisix/routes/1", "{}")
    tool.wait("the export", lambda s: s["object_revision"] == 22)


# ---- access ----

@needs("versitygw")
def a_user_without_rights_is_denied(scenario):
    server = scenario.keep(VersityGw(scenario.folder, "users", users=True))
    server.bucket("bkt")
    server.add_user("readerkey0123", "reader-secret-0123")
    tool = scenario.tool(server.url("bkt"), {"AWS_ACCESS_KEY_ID": "readerkey0123", "AWS_SECRET_ACCESS_KEY": "reader-secret-0123"})
    tool.do("export", 1, 10)
    text = tool.wait_alarm("object_access", "AccessDenied")
    assert "403" in text, text
    assert server.names("bkt") == []


@needs("versitygw")
def who_may_not_delete_still_exports(scenario):
    server = scenario.server("versitygw")
    bucket = server.bucket(scenario.name("bucket"))
    relay = scenario.keep(Relay(server.port))
    relay.before = lambda r: (403, {}, b"<Error><Code>AccessDenied</Code></Error>") if r.method == "DELETE" else None
    tool = scenario.tool(server.url(bucket, endpoint=relay.endpoint), server.env)
    tool.do("export", 1, 2)
    for revision in range(11, 16):
        apply_all(tool, [revision])
        tool.wait(f"revision {revision}", lambda s, r=revision: s["object_revision"] == r)
    tool.do("stop")
    assert len(tool.do("list")["versions"]) >= 5 and not tool.status()["alarms"], tool.status()
    tool.stop()
    assert tool.text().count("old versions are not deleted") == 1, tool.text()


def what_servers_say_is_masked(scenario):
    keys = {"AWS_ACCESS_KEY_ID": "AKIDMASKED0123", "AWS_SECRET_ACCESS_KEY": "masked-secret-0123", "AWS_SESSION_TOKEN": "masked-token-0123"}
    said = " ".join(keys.values())
    answers = scenario.keep(Answers(lambda r: (403, {}, f"<Error><Code>InvalidAccessKeyId {said}</Code><Message>{said}\x1f no\nsuch key</Message></Error>"
                                               .replace("\x1f", "\x7f").encode())))
    tool = scenario.tool(f"s3://bkt/x?endpoint={answers.endpoint}", keys)
    tool.do("export", 1, 10)
    text = tool.wait_alarm("object_access", "InvalidAccessKeyId")
    assert "***" in text, text
    tool.stop()
    for secret in keys.values():
        assert secret not in tool.text(), tool.text()


@needs("versitygw")
def certificates_are_verified(scenario):
    pki, other = Pki(scenario.folder, "pki").issue("server").issue("elsewhere", "DNS:elsewhere.test"), Pki(scenario.folder, "other")
    server = scenario.keep(VersityGw(scenario.folder, "tls", tls=pki))
    server.bucket("bkt")
    tool = scenario.tool(server.url("bkt"), server.env, ["--ca", pki.ca])
    tool.do("export", 1, 10)
    tool.wait_writes(1)
    for ca in (["--ca", other.ca], []):
        wrong = scenario.tool(server.url("bkt"), server.env, ca)
        wrong.do("export", 1, 10)
        assert "certificate" in wrong.wait_alarm("object_access"), wrong.status()
    elsewhere = scenario.keep(VersityGw(scenario.folder, "tls2", tls=pki, cert="elsewhere"))
    elsewhere.bucket("bkt")
    name = scenario.tool(elsewhere.url("bkt"), server.env, ["--ca", pki.ca])
    name.do("export", 1, 10)
    name.wait_alarm("object_access", "subject name")
    assert elsewhere.names("bkt") == []


def redirects_are_not_followed(scenario):
    other = scenario.keep(Answers(lambda r: (200, {}, b"")))
    first = scenario.keep(Answers(lambda r: (307, {"Location": f"{other.endpoint}/bkt", "x-amz-bucket-region": "eu-north-1"}, b"")))
    tool = scenario.tool(f"s3://bkt/x?endpoint={first.endpoint}", {"AWS_ACCESS_KEY_ID": ID, "AWS_SECRET_ACCESS_KEY": SECRET})
    status, text = tool.fails("list")
    assert "eu-north-1" in text, text
    assert not other.requests and first.requests


def hostile_answers_do_no_harm(scenario):
    bomb = ('<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">'
            '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]><ListBucketResult><Contents><Key>&c;</Key></Contents></ListBucketResult>')
    endless = "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>again</NextContinuationToken></ListBucketResult>"
    bodies = [bomb, "", "no XML", "<ListBucketResult>", "<a>" * 5000 + "</a>" * 5000, "<" + "a" * 100000 + "/>",
              "<ListBucketResult><Contents><Key>" + "k" * 100000 + "</Key></Contents></ListBucketResult>", "\0" * 100, "\xff\xfe<a/>",
              "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>", endless,
              "<ListBucketResult>" + "<Contents><Key>x</Key></Contents>" * 400000 + "</ListBucketResult>"]
    body = [None]
    answers = scenario.keep(Answers(lambda r: (200, {}, body[0])))
    env = {"AWS_ACCESS_KEY_ID": ID, "AWS_SECRET_ACCESS_KEY": SECRET, "AZURE_STORAGE_KEY": object_servers.ACCOUNT_KEY}
    s3 = scenario.tool(f"s3://bkt/x?endpoint={answers.endpoint}", env)
    azure = scenario.tool(f"azure://account/bkt/x?endpoint={answers.endpoint}", env)
    for text in bodies:
        body[0] = text.encode("latin-1")
        status, error = s3.fails("list")
        assert status in ("DATA_LOSS", "RESOURCE_EXHAUSTED"), (text[:50], status, error)
        body[0] = text.replace("ListBucketResult", "EnumerationResults").encode("latin-1")
        if text == endless:
            body[0] = b"<EnumerationResults><NextMarker>again</NextMarker></EnumerationResults>"
        if text == endless or "IsTruncated" not in text:
            status, error = azure.fails("list")
            assert status in ("DATA_LOSS", "RESOURCE_EXHAUSTED"), (text[:50], status, error)
    # Names and sizes that lie.
    lies = "".join(f"<Contents><Key>x/{name}</Key><Size>{size}</Size></Contents>" for name, size in (
        ("../../etc/passwd", 1), (snap(3), -1), ("18446744073709551616.snap", 1), (snap(4), 99999999999999)))
    body[0] = f"<ListBucketResult>{lies}</ListBucketResult>".encode()
    assert s3.do("list")["versions"] == [3, 4]
    status, error = s3.fails("newest")
    assert status == "NOT_FOUND", (status, error)


def urls_are_judged_at_the_start(scenario):
    env = {"AWS_ACCESS_KEY_ID": ID, "AWS_SECRET_ACCESS_KEY": SECRET, "AZURE_STORAGE_KEY": object_servers.ACCOUNT_KEY}
    for url, says in (("http://bkt/x", "neither s3:// nor azure://"), ("s3://b/x?region=r", "no name of a bucket"), ("s3://bkt/x", "no region"),
                      ("s3://bkt/x?region=a:b", "no name of a region"), ("s3://id:s3cr3t@bkt/x?region=r", "credentials do not belong"),
                      ("s3://bkt/x?region=r&secret_key=s3cr3t", "\"secret_key\", which is unknown"), ("s3://bkt/a//b?region=r", "malformed"),
                      ("s3://bkt/../b?region=r", "malformed"), ("s3://bkt/x?region=r&endpoint=ftp://h", "endpoint"), ("s3://bkt/%zz?region=r", "malformed"),
                      ("s3://bkt/x?region=r&endpoint=http://id:s3cr3t@h", "endpoint"), ("azure://Account/c/x", "lower case"),
                      ("azure://account/x?", "azure://ACCOUNT"), ("s3://bkt/" + "n" * 600 + "?region=r", "malformed")):
        tool = Tool(url, env)
        assert tool.stop() == 1, url
        assert says in tool.text() and "s3cr3t" not in tool.text(), (url, tool.text())
    for url, extra, says in (("azure://account/container/x", {"AZURE_STORAGE_KEY": "not base64"}, "AZURE_STORAGE_KEY"),
                             ("s3://bkt/x?region=r", {"AWS_ACCESS_KEY_ID": ""}, "only one is set"),
                             ("azure://account/container/x?endpoint=http://10.0.0.1", {"AZURE_STORAGE_KEY": "", "AZURE_STORAGE_SAS_TOKEN": "sig=s3cr3t"}, "https://"),
                             ("s3://bkt/x?region=r", {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://10.0.0.1/"}, "neither https")):
        tool = Tool(url, {**env, **extra})
        assert tool.stop() == 1 and says in tool.text() and "s3cr3t" not in tool.text(), (url, tool.text())


# ---- identities ----

def keys_json(seconds, **more):
    return json.dumps({"Code": "Success", "AccessKeyId": ID, "SecretAccessKey": SECRET, "Token": "session-token-0123", "Expiration": later(seconds), **more}).encode()


def without_token(scenario, server):
    """Takes the session token away, after it was seen and found in the signature: the server knows no temporary keys."""
    relay = scenario.keep(Answers(None))
    seen = []

    def judge(request):
        seen.append((request.headers.get("x-amz-security-token"), "x-amz-security-token" in request.headers.get("Authorization", "")))
        return (200, {}, b"<ListBucketResult></ListBucketResult>")

    relay.rule, relay.seen = judge, seen
    return relay


def a_container_has_its_own_keys(scenario):
    asked = []

    def credentials(request):
        asked.append(request.headers.get("Authorization"))
        return (200, {}, keys_json(301 if len(asked) == 1 else 3600))

    service, storage = scenario.keep(Answers(credentials)), without_token(scenario, None)
    token = scenario.folder / "container.token"
    token.write_text("container-token-0123\n")
    tool = scenario.tool(f"s3://bkt/x?endpoint={storage.endpoint}", {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": service.endpoint + "/keys", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token)})
    tool.do("list")
    time.sleep(1.5)             # within five minutes of their end they are renewed
    tool.do("list")
    tool.do("list")
    assert asked == 2 * ["container-token-0123"], asked
    assert storage.seen == 3 * [("session-token-0123", True)], storage.seen


def an_instance_has_its_role(scenario):
    def metadata(request):
        if request.method == "PUT" and request.path == "/latest/api/token" and request.headers["X-aws-ec2-metadata-token-ttl-seconds"]:
            return (200, {}, b"imds-token-0123")
        if request.headers["X-aws-ec2-metadata-token"] != "imds-token-0123":
            return (401, {}, b"")
        folder = "/latest/meta-data/iam/security-credentials/"
        return (200, {}, {folder: b"the-role", folder + "the-role": keys_json(3600)}.get(request.path, b""))

    service, storage = scenario.keep(Answers(metadata)), without_token(scenario, None)
    env = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": service.endpoint + "/"}
    tool = scenario.tool(f"s3://bkt/x?endpoint={storage.endpoint}", env)
    tool.do("list")
    tool.do("list")
    assert len(service.requests) == 3 and storage.seen == 2 * [("session-token-0123", True)], (service.requests, storage.seen)
    nobody = scenario.tool(f"s3://bkt/x?endpoint={storage.endpoint}", {"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:1"})
    status, text = nobody.fails("list")
    assert status == "UNAUTHENTICATED" and "no AWS credentials" in text, (status, text)


def a_web_identity_becomes_keys(scenario):
    asked, expired = [], []

    def sts(request):
        asked.append(request.body.decode())
        if "WebIdentityToken=web-token-2" in asked[-1]:
            return (400, {}, b"<ErrorResponse><Error><Code>ExpiredTokenException</Code><Message>web-token-2 expired</Message></Error></ErrorResponse>")
        return (200, {}, (f'<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult>'
                          f"<Credentials><AccessKeyId>{ID}</AccessKeyId><SecretAccessKey>{SECRET}</SecretAccessKey><SessionToken>sts-token-{len(asked)}</SessionToken>"
                          f"<Expiration>{later(3600)}</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>").encode())

    def storage_rule(request):
        token = request.headers["x-amz-security-token"]
        if token in expired:
            return (400, {}, b"<Error><Code>ExpiredToken</Code></Error>")
        return (200, {}, b"<ListBucketResult></ListBucketResult>")

    service, storage = scenario.keep(Answers(sts)), scenario.keep(Answers(storage_rule))
    token = scenario.folder / "web.token"
    token.write_text("web-token-1")
    tool = scenario.tool(f"s3://bkt/x?endpoint={storage.endpoint}", {
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(token), "AWS_ROLE_ARN": "arn:aws:iam::1:role/dp agent", "AWS_ENDPOINT_URL_STS": service.endpoint + "/"})
    tool.do("list")
    assert "RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fdp%20agent" in asked[0] and "Action=AssumeRoleWithWebIdentity" in asked[0], asked
    expired.append("sts-token-1")
    tool.do("list")             # new keys, at once
    assert len(asked) == 2, asked
    expired.append("sts-token-2")
    token.write_text("web-token-2")
    status, text = tool.fails("list")
    assert status == "UNAUTHENTICATED" and "ExpiredTokenException" in text, (status, text)
    tool.stop()
    for secret in (SECRET, "sts-token", "web-token"):
        assert secret not in tool.text(), tool.text()


def azure_identities_become_tokens(scenario):
    asked = []

    def tokens(request):
        asked.append((request.method, request.path, request.headers.get("Metadata"), request.body.decode()))
        return (200, {}, json.dumps({"access_token": f"bearer-token-{len(asked)}", "expires_in": "3600"}).encode())

    seen = []

    def storage_rule(request):
        seen.append(request.headers["Authorization"])
        return (200, {}, b"<EnumerationResults></EnumerationResults>")

    service, storage = scenario.keep(Answers(tokens)), scenario.keep(Answers(storage_rule))
    url = f"azure://account/container/x?endpoint={storage.endpoint}"
    machine = scenario.tool(url, {"AZURE_POD_IDENTITY_AUTHORITY_HOST": service.endpoint})
    machine.do("list")
    machine.do("list")
    assert len(asked) == 1 and asked[0][2] == "true" and "resource=https%3A%2F%2Fstorage.azure.com%2F" in asked[0][1], asked
    token = scenario.folder / "azure.token"
    token.write_text("federated-token-0123\n")
    workload = scenario.tool(url, {"AZURE_FEDERATED_TOKEN_FILE": str(token), "AZURE_TENANT_ID": "tenant", "AZURE_CLIENT_ID": "client",
                                   "AZURE_AUTHORITY_HOST": service.endpoint})
    workload.do("list")
    assert asked[1][:2] == ("POST", "/tenant/oauth2/v2.0/token") and "client_assertion=federated-token-0123" in asked[1][3], asked
    assert seen == 2 * ["Bearer bearer-token-1"] + ["Bearer bearer-token-2"], seen
    for tool in (machine, workload):
        tool.stop()
        assert "-token-" not in tool.text(), tool.text()


# ---- the program ----

@needs("versitygw")
def a_new_machine_starts_from_object_storage(scenario):
    server = scenario.server("versitygw")
    bucket = server.bucket(scenario.name("bucket"))
    etcd = scenario.store()
    storage = ["--object-storage", server.url(bucket), "--export-interval=50ms", "--import-interval=200ms"]
    backup = scenario.agent(etcd.url, ["--role=backup", *storage], env=server.env)
    revision = etcd.put("/apisix/routes/1", {"uri": "/one"})
    wait_for(lambda: backup.status()["object_storage"]["upstream_revision"] >= revision, "the export")
    etcd.kill()
    backup.kill()
    agent = scenario.agent(etcd.url, storage, env=server.env, start_timeout="500ms")
    agent.wait_source("object-storage", connected=False)
    assert agent.get("/apisix/routes/1") == '{"uri": "/one"}' and agent.revision() == revision
    assert agent.ready()[0]
    # A newer version comes while upstream is away: by a machine that still reaches it.
    etcd.start()
    agent.wait_source("upstream", connected=True)
    newer = etcd.put("/apisix/routes/1", {"uri": "/two"})
    agent.wait_value("/apisix/routes/1", {"uri": "/two"})
    assert agent.revision() >= newer
    assert not agent.alarms(), agent.alarms()
    for secret in server.env.values():
        assert secret not in agent.text() + backup.text()


@needs("versitygw")
def an_agent_passes_over_what_is_invalid_and_lives_with_a_denial(scenario):
    server = scenario.server("versitygw")
    bucket = server.bucket(scenario.name("bucket"))
    etcd = scenario.store()
    storage = ["--object-storage", server.url(bucket), "--export-interval=50ms", "--import-interval=200ms"]
    revision = etcd.put("/apisix/routes/1", {"uri": "/one"})
    backup = scenario.agent(etcd.url, ["--role=backup", *storage], env=server.env)
    wait_for(lambda: backup.status()["object_storage"]["upstream_revision"] >= revision, "the export")
    etcd.stop()
    backup.stop()
    nonsense = scenario.folder / "nonsense"
    nonsense.write_bytes(b"dpagent-image 1\n" + bytes(200))
    tool = scenario.tool(server.url(bucket), server.env)
    tool.do("put", tool.do("list")["versions"][-1] + 1, nonsense)
    agent = scenario.agent(etcd.url, storage, env=server.env, start_timeout="500ms")
    assert agent.ready()[1]["source"] == "object-storage" and agent.get("/apisix/routes/1") == '{"uri": "/one"}'
    assert "00000000000000000002.snap" in agent.wait_alarm("object_invalid"), agent.alarms()
    agent.wait_saved()
    agent.stop()
    # With keys that the server does not know it is the disk's turn.
    agent.env["AWS_SECRET_ACCESS_KEY"] = "not-the-secret-0123456789"
    agent.start()
    assert agent.ready()[1]["source"] == "disk" and agent.get("/apisix/routes/1") == '{"uri": "/one"}'
    assert "403" in agent.wait_alarm("object_access"), agent.alarms()
    assert "not-the-secret" not in agent.text() + json.dumps(agent.status())


def a_start_does_not_wait_for_storage_that_hangs(scenario):
    storage = scenario.keep(Answers(lambda request: storage.stopping.wait(20) and None))
    started = time.monotonic()
    agent = scenario.agent("http://127.0.0.1:1", ["--object-storage", f"s3://bkt/x?endpoint={storage.endpoint}"],
                           env={"AWS_ACCESS_KEY_ID": ID, "AWS_SECRET_ACCESS_KEY": SECRET}, start_timeout="300ms", wait="listening")
    assert time.monotonic() - started < 10
    assert not agent.ready()[0] and storage.requests
    status = agent.stop()
    assert status == 0, status
    # Nor does it start with a URL or role that make no sense.
    for args, says in ((["--object-storage", "s3://bkt"], "no region"), (["--role=backup"], "--object-storage")):
        status, _, err = harness.run_program([f"--data-dir={scenario.folder / 'none'}", "--upstream=http://127.0.0.1:1", *args],
                                             env={"AWS_REGION": "", "AWS_DEFAULT_REGION": ""})
        assert status == 2 and says in err, (status, err)


TESTS = [urls_are_judged_at_the_start, redirects_are_not_followed, hostile_answers_do_no_harm, a_container_has_its_own_keys, an_instance_has_its_role,
         a_web_identity_becomes_keys, azure_identities_become_tokens]
for both in (changes_are_exported_with_an_interval, the_last_change_is_exported_at_the_stop, two_exporters_never_interleave, old_versions_are_deleted,
             a_missing_bucket_is_an_alarm, a_wrong_key_is_refused, a_slow_server_is_an_alarm_until_it_is_fast, a_lost_answer_is_no_second_version,
             a_busy_server_is_asked_again, a_damaged_newest_object_is_passed_over, the_newest_deleted_is_a_way_back):
    TESTS += on_both(both)
TESTS += [only_what_is_newer_is_applied, a_listing_under_way_only_puts_it_off, it_is_asked_again_only_while_upstream_is_away, signatures_decide,
          truncated_or_changed_objects_are_refused, foreign_objects_are_left_alone, lists_of_more_than_a_page,
          azure_lists_of_more_than_a_page, storage_without_conditional_writes_is_refused,
          a_second_exporter_leaves_what_is_newer, an_upstream_that_was_set_back_is_an_alarm,
          the_only_writer_follows_an_upstream_that_was_set_back, an_empty_upstream_is_not_exported,
          a_user_without_rights_is_denied, who_may_not_delete_still_exports, what_servers_say_is_masked,
          certificates_are_verified, a_new_machine_starts_from_object_storage,
          an_agent_passes_over_what_is_invalid_and_lives_with_a_denial, a_start_does_not_wait_for_storage_that_hangs]


def main():
    if "--install" in sys.argv:
        missing = object_servers.install()
        if missing:
            print("Bail out! " + "; ".join(missing))
            return 99
    scenario = Scenario()
    code = 99
    try:
        scenario.start()
        scenario.run(TESTS)
        code = 1 if scenario.failed else 0
    except Exception as e:  # whatever it is, the servers end
        print(f"Bail out! {e!r}".replace("\n", " "))
    finally:
        scenario.finish()
    return code


sys.exit(main())
