#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Plugins that shape traffic, in a running gateway with a real etcd and a real upstream. Prints TAP."""
import gzip
import json
import os
import pathlib
import re
import signal
import socket
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "lib"))
from dpproxy import TOP, Gateway, Upstream, main, wait_for  # noqa: E402

UP = Upstream()
OTHER = Upstream()
MIRROR = Upstream()


def same(wanted, got):
    assert wanted == got, f"wanted {wanted!r}, got {got!r}"


def route(t, route_id, plugins, **more):
    """A route for /<route_id> and below; returns the path."""
    value = {"uris": [f"/{route_id}", f"/{route_id}/*"], "upstream": {"type": "roundrobin", "nodes": UP.node}, "plugins": plugins}
    value.update(more)
    t.put(f"routes/{route_id}", value)
    return f"/{route_id}"


def limit_count_counts_and_says_so(t):
    limit = {"count": 2, "time_window": 30, "rejected_code": 503}
    path = route(t, "lc", {"limit-count": limit})
    first = t.gateway.request(path)
    same((200, "2", "1"), (first.status, first.headers["x-ratelimit-limit"], first.headers["x-ratelimit-remaining"]))
    assert 29 <= float(first.headers["x-ratelimit-reset"]) <= 30, first
    same(200, t.gateway.request(path).status)
    third = t.gateway.request(path)
    same((503, "2", "0"), (third.status, third.headers["x-ratelimit-limit"], third.headers["x-ratelimit-remaining"]))
    assert float(third.headers["x-ratelimit-reset"]) <= 30, third


def limit_count_survives_an_edit_of_the_route_not_of_the_plugin(t):
    limit = {"count": 1, "time_window": 60}
    path = route(t, "lc2", {"limit-count": limit})
    same(200, t.gateway.request(path).status)
    same(503, t.gateway.request(path).status)
    route(t, "lc2", {"limit-count": limit}, desc="something else")
    same(503, t.gateway.request(path).status)
    route(t, "lc2", {"limit-count": dict(limit, count=2)})
    same([200, 200, 503], [t.gateway.request(path).status for _ in range(3)])


def limit_count_begins_anew(t):
    path = route(t, "lc3", {"limit-count": {"count": 1, "time_window": 1, "rejected_code": 429, "rejected_msg": "later"}})
    same(200, t.gateway.request(path).status)
    answer = t.gateway.request(path)
    same((429, b'{"error_msg":"later"}\n'), (answer.status, answer.body))
    wait_for(lambda: t.gateway.request(path).status == 200, "the next window", 3)


def limit_count_slides(t):
    path = route(t, "ls", {"limit-count": {"count": 5, "time_window": 3600, "window_type": "sliding"}})
    same([200] * 5 + [503], [t.gateway.request(path).status for _ in range(6)])


def limit_req_lets_the_rate_through(t):
    path = route(t, "lr", {"limit-req": {"rate": 0.1, "burst": 2, "key": "remote_addr", "nodelay": True}})
    same([200, 200, 200, 503], [t.gateway.request(path).status for _ in range(4)])
    path = route(t, "lr2", {"limit-req": {"rate": 5, "burst": 2, "key": "http_who", "rejected_msg": "slow down"}})
    started = time.monotonic()
    same([200, 200], [t.gateway.request(path, headers={"who": "a"}).status for _ in range(2)])
    assert time.monotonic() - started >= 0.15, time.monotonic() - started
    same(200, t.gateway.request(path, headers={"who": "b"}).status)
    path = route(t, "lr3", {"limit-req": {"rate": 0.1, "burst": 0, "key": "remote_addr", "rejected_msg": "slow down"}})
    t.gateway.request(path)
    same(b'{"error_msg":"slow down"}\n', t.gateway.request(path).body)


def limit_conn_frees_the_place_of_a_client_that_left(t):
    path = route(t, "lconn", {"limit-conn": {"conn": 1, "burst": 0, "default_conn_delay": 0.1, "key": "remote_addr"}})
    client = socket.create_connection(("127.0.0.1", t.gateway.port))
    client.sendall(f"GET {path}?sleep=1 HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    wait_for(lambda: any("sleep=1" in r["path"] for r in UP.requests), "the first request")
    same(503, t.gateway.request(path).status)
    client.close()
    wait_for(lambda: t.gateway.request(path).status == 200, "the place", 5)


def limit_conn_frees_the_places_of_a_killed_worker(t):
    path = route(t, "lkill", {"limit-conn": {"conn": 1, "burst": 0, "default_conn_delay": 0.1, "key": "remote_addr"}})
    with socket.create_connection(("127.0.0.1", t.gateway.port)) as client:
        client.sendall(f"GET {path}?sleep=2 HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        # Not before: a request of ours could take the place, and this one be refused.
        wait_for(lambda: any("sleep=2" in r["path"] for r in UP.requests), "the first request")
        wait_for(lambda: t.gateway.request(path).status == 503, "the place to be taken", 5)
        before = t.gateway.workers()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: len(set(t.gateway.workers()) - set(before)) == len(before), "other workers", 10)
        wait_for(lambda: t.gateway.request(path).status == 200, "the place", 5)


def proxy_rewrite_cannot_be_used_for_injection(t):
    path = route(t, "pr", {"proxy-rewrite": {"regex_uri": ["(?s)^/pr/(.*)", "/new/$1"],
                                             "host": "other.example",
                                             "headers": {"set": {"X-Path": "$1"}, "add": {"X-Add": ["a", "b"]},
                                                         "remove": ["X-Gone"]}}})
    seen = t.gateway.request(path + "/a?b=1", headers={"X-Gone": "1"}).json()
    same(("/new/a?b=1", "a", "other.example"), (seen["path"], seen["headers"]["x-path"], seen["headers"]["host"]))
    same(["a", "b"], [v for k, v in seen["pairs"] if k == "x-add"])
    assert "x-gone" not in seen["headers"], seen
    answer = t.gateway.request(path + "/a%0d%0aEvil:%201?q=%0d%0a")
    same(200, answer.status)
    seen = answer.json()
    same("/new/a%0D%0AEvil:%201?q=%0d%0a", seen["path"])
    assert "evil" not in seen["headers"], seen


def proxy_rewrite_merges_queries_and_changes_the_method(t):
    path = route(t, "pr2", {"proxy-rewrite": {"uri": "/x?c=3", "method": "POST"}})
    seen = t.gateway.request(path + "?a=1&b=2").json()
    same(("/x?c=3&a=1&b=2", "POST"), (seen["path"], seen["method"]))


def cors_answers_preflight_by_itself(t):
    path = route(t, "cors", {"cors": {"allow_origins": "http://a.com,http://b.com", "allow_methods": "GET,POST",
                                      "allow_headers": "X-A", "allow_credential": True, "max_age": 60}})
    before = len(UP.requests)
    answer = t.gateway.request(path, "OPTIONS", {"Origin": "http://b.com", "Access-Control-Request-Method": "GET"})
    same(200, answer.status)
    same(before, len(UP.requests))
    same(("http://b.com", "GET,POST", "X-A", "60", "true", "Origin"), tuple(answer.headers.get(h) for h in (
        "access-control-allow-origin", "access-control-allow-methods", "access-control-allow-headers", "access-control-max-age",
        "access-control-allow-credentials", "vary")))
    answer = t.gateway.request(path, headers={"Origin": "http://evil.com"})
    same((200, None), (answer.status, answer.headers.get("access-control-allow-origin")))


def cors_with_credentials_for_all_is_refused(t):
    path = route(t, "cors2", {"cors": {"allow_origins": "http://a.com", "allow_methods": "**", "allow_headers": "**"}})
    revision = t.etcd.put("/apisix/routes/cors2", {
        "uris": [path], "upstream": {"type": "roundrobin", "nodes": UP.node}, "plugins": {"cors": {"allow_credential": True}}})
    t.gateway.reached(revision)
    # The last valid version goes on.
    answer = t.gateway.request(path, headers={"Origin": "http://a.com"})
    same("http://a.com", answer.headers.get("access-control-allow-origin"))
    assert t.gateway.metric("apisix_config_rejected_objects ") >= 1
    t.delete("routes/cors2")


def redirect_goes_to_https(t):
    path = route(t, "red", {"redirect": {"http_to_https": True}})
    answer = t.gateway.request(path + "?a=1", headers={"Host": "x.com"})
    same((301, f"https://x.com:{t.gateway.tls}/red?a=1"), (answer.status, answer.headers["location"]))
    same(308, t.gateway.request(path, "POST", {"Host": "x.com"}).status)
    same(200, t.gateway.request(path, headers={"X-Forwarded-Proto": "https"}).status)
    path = route(t, "red2", {"redirect": {"regex_uri": ["^/red2/(.*)", "/to/$1"], "ret_code": 307}})
    answer = t.gateway.request(path + "/x")
    same((307, "/to/x"), (answer.status, answer.headers["location"]))


def response_rewrite_filters_what_was_packed(t):
    path = route(t, "rr", {"response-rewrite": {"filters": [{"regex": "hello", "replace": "bye", "scope": "global"}],
                                                "headers": {"set": {"X-S": "$remote_addr"}, "remove": ["X-R"]}}})
    answer = t.gateway.request(path + "?gzip&body=hello+hello&h=ETag:e1|X-R:r")
    same((b"bye bye", None, None, "127.0.0.1", None), (answer.body, answer.headers.get("content-encoding"),
         answer.headers.get("etag"), answer.headers.get("x-s"), answer.headers.get("x-r")))
    path = route(t, "rr2", {"response-rewrite": {"status_code": 202, "body": "bmV3", "body_base64": True}})
    answer = t.gateway.request(path + "?h=ETag:e1")
    same((202, b"new", None), (answer.status, answer.body, answer.headers.get("etag")))


def response_rewrite_takes_long_and_chunked_bodies(t):
    path = route(t, "rr3", {"response-rewrite": {"filters": [{"regex": "x+$", "replace": "end"}]}})
    same(b"y" * 200000 + b"end", t.gateway.request(path, "POST", headers={"X-Echo": "1"}, body=b"y" * 200000 + b"x" * 10).body)


def gzip_packs_what_other_plugins_made(t):
    path = route(t, "gz", {"gzip": {"types": ["application/json", "text/plain"], "vary": True},
                           "response-rewrite": {"filters": [{"regex": "hello", "replace": "bye", "scope": "global"}]}})
    body = "hello+" * 1000
    answer = t.gateway.request(f"{path}?type=text/plain&body={body}", headers={"Accept-Encoding": "gzip"})
    same(("gzip", "Accept-Encoding"), (answer.headers.get("content-encoding"), answer.headers.get("vary")))
    same(b"bye " * 1000, gzip.decompress(answer.body))
    # What the upstream packed is unpacked, changed, packed.
    answer = t.gateway.request(f"{path}?type=text/plain&gzip&body={body}", headers={"Accept-Encoding": "gzip"})
    same(b"bye " * 1000, gzip.decompress(answer.body))
    answer = t.gateway.request(f"{path}?type=text/plain&body={body}")
    same((None, b"bye " * 1000), (answer.headers.get("content-encoding"), answer.body))


def headers_of_responses_cannot_be_injected(t):
    path = route(t, "inj", {"redirect": {"regex_uri": ["(?s)^/inj/(.*)", "/to/$1"]}, "cors": {"allow_origins": "**"}})
    answer = t.gateway.request(path + "/a%0d%0aEvil:%201", headers={"Origin": "http://a.com"})
    same((302, None), (answer.status, answer.headers.get("evil")))
    assert "\n" not in answer.headers["location"] and "\r" not in answer.headers["location"], answer
    path = route(t, "inj2", {"response-rewrite": {"headers": {"set": {"X-Uri": "$uri"}, "add": ["X-Add: $uri"]}}})
    answer = t.gateway.request(path + "/a%0d%0aEvil:%201")
    same(None, answer.headers.get("evil"))
    assert "x-uri" in answer.headers, answer


def real_ip_tells_the_upstream(t):
    path = route(t, "rip", {"real-ip": {"source": "http_x_forwarded_for", "trusted_addresses": ["127.0.0.0/8"]},
                            "ip-restriction": {"blacklist": ["9.9.9.9"]}})
    seen = t.gateway.request(path, headers={"X-Forwarded-For": "1.1.1.1, 2.2.2.2"}).json()["headers"]
    same(("2.2.2.2", "1.1.1.1, 2.2.2.2, 2.2.2.2"), (seen["x-real-ip"], seen["x-forwarded-for"]))
    same(403, t.gateway.request(path, headers={"X-Forwarded-For": "9.9.9.9"}).status)


def request_id_ip_restriction_and_fault_injection(t):
    path = route(t, "id", {"request-id": {}})
    answer = t.gateway.request(path)
    same(answer.headers["x-request-id"], answer.json()["headers"]["x-request-id"])
    same("mine", t.gateway.request(path, headers={"X-Request-Id": "mine"}).headers["x-request-id"])
    path = route(t, "ip", {"ip-restriction": {"whitelist": ["10.0.0.0/8"]}})
    answer = t.gateway.request(path)
    same((403, b'{"message":"Your IP address is not allowed"}\n'), (answer.status, answer.body))
    path = route(t, "fault", {"fault-injection": {"abort": {"http_status": 418, "body": "from $remote_addr"}}})
    answer = t.gateway.request(path)
    same((418, b"from 127.0.0.1"), (answer.status, answer.body))


def serverless_functions_run(t):
    path = route(t, "sl", {
        "serverless-pre-function": {"phase": "rewrite", "functions": [
            "return function(conf, ctx) require('apisix.core').request.set_header(ctx, 'X-Pre', 'yes') end"]},
        "serverless-post-function": {"phase": "access", "functions": [
            "return function(conf, ctx) if ctx.var.arg_stop then return 418, {stopped = true} end end"]}})
    same("yes", t.gateway.request(path).json()["headers"]["x-pre"])
    answer = t.gateway.request(path + "?stop=1")
    same((418, b'{"stopped":true}\n'), (answer.status, answer.body))


def plugins_may_use_other_modules_of_apisix(t):
    path = route(t, "mods", {"serverless-pre-function": {"phase": "rewrite", "functions": ["""
        return function(conf, ctx)
            local http, expr, ip = require("resty.http"), require("resty.expr.v1"), require("resty.ipmatcher")
            local answer, err = http.new():request_uri("http://127.0.0.1:%d/asked?x=1", {
                method = "POST", body = ("z"):rep(100000), headers = {["X-Echo"] = "1"}})
            if not answer then
                return 500, err
            end
            local ok = expr.new({{"arg_a", "==", "1"}}):eval(ctx.var) and ip.new({"127.0.0.0/8"}):match(ctx.var.remote_addr)
            return 200, {status = answer.status, size = #answer.body, type = answer.headers["content-type"], ok = ok}
        end""" % UP.port]}})
    for _ in range(3):
        same({"status": 200, "size": 100000, "type": "application/json", "ok": True}, t.gateway.request(path + "?a=1").json())


def forward_auth_asks_somebody_else(t):
    judge = t.keep(Upstream())
    conf = {"uri": f"http://127.0.0.1:{judge.port}/judge", "request_headers": ["Authorization"], "upstream_headers": ["X-User", "X-Gone"],
            "client_headers": ["Location"], "extra_headers": {"X-Extra": "$request_method"}}
    path = route(t, "fa", {"forward-auth": dict(conf, uri=conf["uri"] + "?h=X-User:jack")})
    seen = t.gateway.request(path + "?a=1", headers={"Authorization": "x", "X-Gone": "said by the client"}).json()["headers"]
    same(("jack", None), (seen.get("x-user"), seen.get("x-gone")))
    asked = judge.requests[-1]
    same(("GET", "x", "GET", "/fa?a=1", "http", "GET", "127.0.0.1"), (asked["method"], *(asked["headers"].get(h) for h in (
        "authorization", "x-forwarded-method", "x-forwarded-uri", "x-forwarded-proto", "x-extra", "x-forwarded-for"))))
    route(t, "fa", {"forward-auth": dict(conf, uri=conf["uri"] + "?status=302&body=go&h=Location:/login")})
    answer = t.gateway.request(path)
    same((302, b"go", "/login"), (answer.status, answer.body, answer.headers.get("location")))
    route(t, "fa", {"forward-auth": dict(conf, request_method="POST", uri=conf["uri"] + "?status=403")})
    same(403, t.gateway.request(path, "POST", body="sent").status)
    same(("POST", "sent"), (judge.requests[-1]["method"], judge.requests[-1]["body"]))
    for more, wanted in (({}, 403), ({"status_on_error": 503}, 503), ({"allow_degradation": True}, 200)):
        route(t, "fa", {"forward-auth": {"uri": "http://127.0.0.1:1/", **more}})
        same((more, wanted), (more, t.gateway.request(path).status))


def public_api_workflow_and_breaker(t):
    path = route(t, "pa", {"public-api": {}})
    same(404, t.gateway.request(path).status)
    path = route(t, "wf", {"workflow": {"rules": [
        {"case": [["arg_x", "==", "1"]], "actions": [["return", {"code": 418}]]},
        {"case": [["arg_x", "==", "2"]], "actions": [["limit-count", {"count": 1, "time_window": 60, "rejected_code": 429}]]}]}})
    same([200, 418, 200, 429, 200], [t.gateway.request(path + query).status for query in ("", "?x=1", "?x=2", "?x=2", "")])
    path = route(t, "ab", {"api-breaker": {"break_response_code": 599, "break_response_body": "open", "unhealthy": {"failures": 2}}})
    same([500, 500], [t.gateway.request(path + "?status=500").status for _ in range(2)])
    wait_for(lambda: t.gateway.request(path).status == 599, "the breaker", 2)
    same(b"open", t.gateway.request(path).body)
    wait_for(lambda: t.gateway.request(path).status == 200, "its end", 5)


def public_api_shows_the_metrics(t):
    folder = t.folder / "public"
    folder.mkdir()
    os.chmod(folder, 0o755)
    gateway = t.keep(Gateway(folder, t.etcd.url, {"plugin_attr": {"prometheus": {"enable_export_server": False}}}, 1))
    route(t, "mine", {"public-api": {"uri": "/apisix/prometheus/metrics"}})
    answer = wait_for(lambda: (lambda a: a.status == 200 and a)(gateway.request("/mine")), "the metrics")
    assert b"# TYPE apisix_etcd_reachable gauge" in answer.body, answer
    check_exposition(answer.body.decode())
    same(404, gateway.request("/mine", "POST").status)
    gateway.stop()


def traffic_split_divides(t):
    t.put("upstreams/other", {"type": "roundrobin", "nodes": OTHER.node})
    path = route(t, "ts", {"traffic-split": {"rules": [
        {"match": [{"vars": [["http_v", "==", "2"]]}], "weighted_upstreams": [{"upstream_id": "other"}]},
        {"match": [{"vars": [["http_v", "==", "3"]]}], "weighted_upstreams": [
            {"upstream": {"type": "roundrobin", "nodes": OTHER.node}, "weight": 1}, {"weight": 1}]}]}})
    same(UP.port, t.gateway.request(path).json()["port"])
    same(OTHER.port, t.gateway.request(path, headers={"v": "2"}).json()["port"])
    ports = [t.gateway.request(path, headers={"v": "3"}).json()["port"] for _ in range(20)]
    assert 8 <= ports.count(OTHER.port) <= 12, ports


def proxy_cache_on_disk(t):
    path = route(t, "pcd", {"proxy-cache": {"cache_strategy": "disk", "cache_bypass": ["$arg_bypass"]}})
    def status(query):
        return t.gateway.request(path + query).headers["apisix-cache-status"]

    same("MISS", status("?a=1"))
    # nginx gives the file its name after the client has got the response.
    wait_for(lambda: status("?a=1") == "HIT", "a hit", 5)
    before = len(UP.requests)
    same(("HIT", before), (status("?a=1"), len(UP.requests)))
    same("BYPASS", status("?a=1&bypass=1"))
    same([200, 404], [t.gateway.request(path + "?a=1", "PURGE").status for _ in range(2)])
    same("MISS", status("?a=1"))
    same(["MISS", "MISS"], [status("?status=500") for _ in range(2)])


def proxy_cache_in_memory(t):
    path = route(t, "pcm", {"proxy-cache": {"cache_strategy": "memory", "cache_zone": "memory_cache", "cache_ttl": 60}})
    first = t.gateway.request(path + "?x=1")
    same("MISS", first.headers["apisix-cache-status"])
    # The client may have the last byte before the end of the response is seen.
    wait_for(lambda: t.gateway.request(path + "?x=1").headers["apisix-cache-status"] == "HIT", "a hit", 5)
    second = t.gateway.request(path + "?x=1")
    same(("HIT", first.body, "application/json"),
         (second.headers["apisix-cache-status"], second.body, second.headers["content-type"]))
    same(("HIT", b""), (lambda a: (a.headers["apisix-cache-status"], a.body))(t.gateway.request(path + "?x=1", "HEAD")))
    varies = path + "?h=Vary:Accept-Language"
    for language in ("de", "en"):
        same("MISS", t.gateway.request(varies, headers={"Accept-Language": language}).headers["apisix-cache-status"])
        wait_for(lambda: t.gateway.request(varies, headers={"Accept-Language": language}).headers["apisix-cache-status"] == "HIT",
                 "a hit", 5)
    for language in ("de", "en"):
        answer = t.gateway.request(varies, headers={"Accept-Language": language})
        same(("HIT", language), (answer.headers["apisix-cache-status"], answer.json()["headers"]["accept-language"]))
    for value in ("Cache-Control:private", "Set-Cookie:a=b"):
        same(["MISS", "MISS"], [t.gateway.request(path + "?h=" + value).headers["apisix-cache-status"] for _ in range(2)])
    same([200, 404], [t.gateway.request(path + "?x=1", "PURGE").status for _ in range(2)])


def http_logger_sends_batches(t):
    log = t.keep(Upstream())
    t.put("services/svc", {})
    path = route(t, "hl", {"http-logger": {"uri": f"http://127.0.0.1:{log.port}/log", "batch_max_size": 2, "inactive_timeout": 1,
                                           "include_req_body": True, "include_resp_body": True, "auth_header": "Basic x"}},
                 service_id="svc")
    t.gateway.request(path + "?a=1", "POST", body="sent")

    def entries():
        return [e for r in list(log.requests) for e in json.loads(r["body"])]
    wait_for(lambda: len(entries()) == 1, "the record", 5)
    entry = entries()[0]
    same("Basic x", log.requests[0]["headers"]["authorization"])
    same(("/hl?a=1", "POST", "sent", 200, "hl", "127.0.0.1"), (entry["request"]["uri"], entry["request"]["method"],
         entry["request"]["body"], entry["response"]["status"], entry["route_id"], entry["client_ip"]))
    assert '"method": "POST"' in entry["response"]["body"], entry
    assert entry["latency"] >= entry["upstream_latency"] >= 0 or entry["apisix_latency"] == 0, entry
    same(f"127.0.0.1:{UP.port}", entry["upstream"])


def http_logger_has_formats_and_tries_again(t):
    log = t.keep(Upstream())
    uri = f"http://127.0.0.1:{log.port}/log"
    t.put("plugin_metadata/http-logger", {"log_format": {"from": "metadata"}})
    path = route(t, "hl2", {"http-logger": {"uri": uri, "inactive_timeout": 1, "concat_method": "new_line"}})
    own = {"host": "$host", "what": {"agent": "$http_user_agent", "fixed": "x"}, "body": "$request_body"}
    other = route(t, "hl3", {"http-logger": {"uri": uri + "?status=500", "batch_max_size": 1, "log_format": own,
                                             "include_req_body": True, "max_retry_count": 1, "retry_delay": 0}})
    t.gateway.request(path)
    t.gateway.request(path)
    t.gateway.request(other, "POST", headers={"User-Agent": "me", "Host": "h.example"}, body="sent")

    def batches():
        return [r for r in list(log.requests) if "status" not in r["path"]]

    def lines():
        # Each worker has batches of its own.
        return [json.loads(line) for r in batches() for line in r["body"].splitlines()]

    def tries():
        return [json.loads(r["body"]) for r in list(log.requests) if "status" in r["path"]]
    wait_for(lambda: len(lines()) >= 2 and len(tries()) >= 2, "two records and two tries", 5)
    same([{"from": "metadata", "route_id": "hl2"}] * 2, lines())
    same("text/plain", batches()[0]["headers"]["content-type"])
    same([{"host": "h.example", "what": {"agent": "me", "fixed": "x"}, "body": "sent", "route_id": "hl3"}] * 2, tries())
    t.delete("plugin_metadata/http-logger")


def proxy_mirror_copies(t):
    path = route(t, "pm", {"proxy-mirror": {"host": f"http://127.0.0.1:{MIRROR.port}"}})
    same(200, t.gateway.request(path + "/x?y=1", "POST", body="copy").status)
    wait_for(lambda: MIRROR.requests, "the copy", 5)
    same(("/pm/x?y=1", "POST", "copy"), tuple(MIRROR.requests[0][k] for k in ("path", "method", "body")))


SAMPLE = re.compile(r'^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\.)*",?)*)\})? (\S+)$')


def check_exposition(text):
    """What promtool would complain about: -> {name: {labels}} of the samples."""
    assert text.endswith("\n")
    types, names, seen = {}, {}, set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in types, line
            types[name] = kind
        elif not line.startswith("# HELP "):
            match = SAMPLE.match(line)
            assert match, line
            name, labels, value = match.groups()
            float(value)
            assert (name, labels) not in seen, line
            seen.add((name, labels))
            base = re.sub("_(bucket|count|sum)$", "", name)
            family = base if types.get(base) == "histogram" else name
            assert family in types, line
            names.setdefault(name, []).append(dict(re.findall(r'([a-zA-Z0-9_]+)="((?:[^"\\]|\\.)*)"', labels or "")))
    return names


def metrics_have_apisix_names(t):
    path = route(t, "prom", {"prometheus": {}}, host="prom.example", name="named")
    for _ in range(3):
        same(200, t.gateway.request(path, headers={"Host": "prom.example"}).status)
    same(404, t.gateway.request("/nowhere").status)
    start = 'apisix_http_status{code="200",route="prom",'
    wait_for(lambda: t.gateway.metric(start) == 3, "the counter", 5)
    names = check_exposition(t.gateway.metrics())
    same({"code", "route", "matched_uri", "matched_host", "service", "consumer", "node", "request_type", "request_llm_model",
          "llm_model", "response_source"}, set(names["apisix_http_status"][0]))
    status = [s for s in names["apisix_http_status"] if s["route"] == "prom"][0]
    same(("/prom", "prom.example", "127.0.0.1", "upstream"),
         (status["matched_uri"], status["matched_host"], status["node"], status["response_source"]))
    same({"type", "route", "service", "consumer", "node", "request_type", "request_llm_model", "llm_model", "le"},
         set(names["apisix_http_latency_bucket"][0]))
    same(["1", "2", "5", "10", "20", "50", "100", "200", "500", "1000", "2000", "5000", "10000", "30000", "60000", "+Inf"],
         [s["le"] for s in names["apisix_http_latency_bucket"] if s["route"] == "prom" and s["type"] == "request"])
    same({"request", "upstream", "apisix"}, {s["type"] for s in names["apisix_http_latency_sum"] if s["route"] == "prom"})
    same({"ingress", "egress"}, {s["type"] for s in names["apisix_bandwidth"]})
    same({"active", "accepted", "handled", "reading", "writing", "waiting"},
         {s["state"] for s in names["apisix_nginx_http_current_connections"]})
    assert {"routes", "services", "ssls", "consumers", "global_rules", "upstreams", "stream_routes", "protos", "prev_index",
            "max_modify_index", "x_etcd_index"} <= {s["key"] for s in names["apisix_etcd_modify_indexes"]}
    for name in ("http_requests_total", "etcd_reachable", "node_info", "shared_dict_capacity_bytes",
                 "shared_dict_free_space_bytes", "config_revision", "config_age_seconds", "config_source"):
        assert "apisix_" + name in names, name
    same(1.0, t.gateway.metric('apisix_config_source{source="etcd"}'))
    before = t.gateway.metric('apisix_etcd_modify_indexes{key="x_etcd_index"}')
    route(t, "prom2", {})
    assert t.gateway.metric('apisix_etcd_modify_indexes{key="x_etcd_index"}') > before


def metrics_of_a_global_rule_count_once(t):
    path = route(t, "once", {"prometheus": {}})
    t.put("global_rules/prom", {"id": "prom", "plugins": {"prometheus": {}}})
    for _ in range(3):
        t.gateway.request(path)
        t.gateway.request("/no/such/route")
    start = 'apisix_http_status{code="404",route="",matched_uri="",matched_host="",service="",consumer="",node="",'
    wait_for(lambda: t.gateway.metric(start) == 3, "the 404s", 5)
    assert [line for line in t.gateway.metrics().splitlines() if line.startswith(start) and 'response_source="apisix"' in line]
    wait_for(lambda: t.gateway.metric('apisix_http_status{code="200",route="once",') == 3, "the 200s", 5)
    t.delete("global_rules/prom")


def the_dashboard_and_the_alerts_use_metrics_that_exist(t):
    path = route(t, "dash", {"prometheus": {}})
    t.gateway.request(path)
    wait_for(lambda: t.gateway.metric('apisix_http_status{code="200",route="dash",') == 1, "the counter", 5)
    names = set(check_exposition(t.gateway.metrics()))
    wanted = set()
    for file in ("grafana/dpproxy.json", "prometheus/dpproxy-alerts.yml"):
        wanted |= set(re.findall(r"\bapisix_\w+", (TOP / "dist" / file).read_text()))
    # Only there with health checks, and with loggers.
    same(set(), wanted - names - {"apisix_upstream_status", "apisix_batch_process_entries"})


def metrics_beyond_the_memory_for_them_are_left_out(t):
    folder = t.folder / "small"
    folder.mkdir()
    os.chmod(folder, 0o755)
    gateway = t.keep(Gateway(folder, t.etcd.url, {"nginx_config": {"meta": {"lua_shared_dict": {"prometheus-metrics": "128k"}}}}))
    same(131072.0, gateway.metric('apisix_shared_dict_capacity_bytes{name="prometheus-metrics"}'))
    first = 'apisix_http_status{code="200",route="small0",'
    for i in range(60):
        path = route(t, f"small{i}", {"prometheus": {}})
        wait_for(lambda: gateway.request(path).status == 200, "the route")
        if i == 0:
            wait_for(lambda: gateway.metric(first), "the first series", 5)
    same([200] * 60, [gateway.request(f"/small{i}").status for i in range(60)])
    wait_for(lambda: gateway.metric("apisix_nginx_metric_errors_total ") > 0, "an error that is counted", 5)
    before = gateway.metric(first)
    for _ in range(10):
        same(200, gateway.request("/small0").status)
    wait_for(lambda: gateway.metric(first) >= before + 10, "a series that was there before", 5)
    check_exposition(gateway.metrics())
    assert gateway.error_log().count("prometheus-metrics is full") <= 2, "a line for each worker"
    gateway.stop()
    for i in range(60):
        t.etcd.delete(f"/apisix/routes/small{i}")


def metrics_lose_nothing_of_several_workers(t):
    path = route(t, "many", {"prometheus": {}})
    threads = [threading.Thread(target=lambda: [t.gateway.request(path) for _ in range(25)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_for(lambda: t.gateway.metric('apisix_http_status{code="200",route="many",') == 200, "200 requests", 5)
    same(200.0, t.gateway.metric('apisix_http_latency_count{type="request",route="many",'))


def metrics_say_that_etcd_is_away(t):
    same(1.0, t.gateway.metric("apisix_etcd_reachable "))
    t.etcd.stop()
    wait_for(lambda: t.gateway.metric("apisix_etcd_reachable ") == 0, "etcd_reachable 0", 15)
    same(200, t.gateway.request("/prom2").status)
    t.etcd.start()
    wait_for(lambda: t.gateway.metric("apisix_etcd_reachable ") == 1, "etcd_reachable 1", 15)


TESTS = [
    limit_count_counts_and_says_so, limit_count_survives_an_edit_of_the_route_not_of_the_plugin,
    limit_count_begins_anew, limit_count_slides, limit_req_lets_the_rate_through,
    limit_conn_frees_the_place_of_a_client_that_left, limit_conn_frees_the_places_of_a_killed_worker,
    proxy_rewrite_cannot_be_used_for_injection, proxy_rewrite_merges_queries_and_changes_the_method,
    cors_answers_preflight_by_itself, cors_with_credentials_for_all_is_refused, redirect_goes_to_https,
    response_rewrite_filters_what_was_packed, response_rewrite_takes_long_and_chunked_bodies,
    gzip_packs_what_other_plugins_made, headers_of_responses_cannot_be_injected, real_ip_tells_the_upstream,
    request_id_ip_restriction_and_fault_injection, serverless_functions_run, plugins_may_use_other_modules_of_apisix,
    forward_auth_asks_somebody_else, public_api_workflow_and_breaker, public_api_shows_the_metrics,
    traffic_split_divides, proxy_cache_on_disk, proxy_cache_in_memory, http_logger_sends_batches,
    http_logger_has_formats_and_tries_again, proxy_mirror_copies, metrics_have_apisix_names,
    metrics_of_a_global_rule_count_once, the_dashboard_and_the_alerts_use_metrics_that_exist,
    metrics_beyond_the_memory_for_them_are_left_out, metrics_lose_nothing_of_several_workers, metrics_say_that_etcd_is_away,
]

if __name__ == "__main__":
    # Whose X-Forwarded-Proto counts.
    main(TESTS, {"apisix": {"trusted_addresses": ["127.0.0.1"]}})
