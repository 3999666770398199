#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The compatibility sheets of the specification (5.6), sentence by sentence where auth.py, plugins.py and limits.py do not show one through a
running gateway. Prints TAP."""
import base64
import hashlib
import hmac
import json
import pathlib
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "lib"))
from dpproxy import Upstream, main, request, wait_for  # noqa: E402
from engine import same, to  # noqa: E402

UP = Upstream()
OTHER = Upstream()


def route(t, route_id, plugins, **more):
    t.put(f"routes/{route_id}", {"uris": [f"/{route_id}", f"/{route_id}/*"], "upstream": to(UP), "plugins": plugins, **more})
    return f"/{route_id}"


def refused(t, plugins, **more):
    """Is an object with these plugins rejected?"""
    t.put("routes/check", {"uri": "/check", "upstream": to(UP), "plugins": plugins, **more})
    keys = [e["key"] for e in request(t.gateway.control, "/v1/rejected").json()]
    t.delete("routes/check")
    return "/apisix/routes/check" in keys


def consumer(t, name, plugins, **more):
    t.put(f"consumers/{name}", {"username": name, "plugins": plugins, **more})


def token(payload, secret=b"secret"):
    def b64(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    text = b64(b'{"alg":"HS256","typ":"JWT"}') + "." + b64(json.dumps(payload).encode())
    return text + "." + b64(hmac.new(secret, text.encode(), hashlib.sha256).digest())


def key_auth(t):
    consumer(t, "jack", {"key-auth": {"key": "jack-key"}})
    consumer(t, "anon", {})
    path = route(t, "ka", {"key-auth": {"realm": "here", "header": "X-K", "query": "k", "hide_credentials": True}})
    # The header goes first: a wrong one is not made good by the query.
    same(401, t.gateway.request(path + "?k=jack-key", headers={"X-K": "wrong"}).status)
    same('apikey realm="here"', t.gateway.request(path).headers["www-authenticate"])
    path = route(t, "ka", {"key-auth": {"anonymous_consumer": "anon", "hide_credentials": True}})
    seen = t.gateway.request(path + "?apikey=wrong&a=1", headers={"apikey": "wrong"}).json()
    same((path + "?a=1", None, "anon"), (seen["path"], seen["headers"].get("apikey"), seen["headers"]["x-consumer-username"]))
    # encrypt_fields: what the Admin API wrote with a key of the ring.
    path = route(t, "ka", {"key-auth": {}})
    hexed = b"qeddd145sfvddff3".hex()
    sealed = subprocess.run(["openssl", "enc", "-aes-128-cbc", "-K", hexed, "-iv", hexed], input=b"sealed-key", check=True, capture_output=True).stdout
    consumer(t, "sealed", {"key-auth": {"key": base64.b64encode(sealed).decode()}})
    same("sealed", t.gateway.request(path, headers={"apikey": "sealed-key"}).json()["headers"]["x-consumer-username"])


def basic_auth(t):
    consumer(t, "foo", {"basic-auth": {"username": "foo", "password": "bar"}})
    path = route(t, "ba", {"basic-auth": {}})

    def ask(text):
        return t.gateway.request(path, headers={"Authorization": "Basic " + base64.b64encode(text).decode()}).status
    same([200, 200, 200, 401], [ask(text) for text in (b"foo:bar", b" fo o : b ar ", b"foo:bar:more", b"foo:ba")])
    same('Basic realm="basic"', t.gateway.request(path).headers["www-authenticate"])


def jwt_auth(t):
    consumer(t, "jw", {"jwt-auth": {"key": "user", "secret": "secret", "lifetime_grace_period": 30}})
    good, path = token({"key": "user"}), route(t, "jw", {"jwt-auth": {"hide_credentials": True}})
    same('Bearer realm="jwt"', t.gateway.request(path).headers["www-authenticate"])
    for query, headers, hidden in (("", {"Authorization": good}, "authorization"), ("", {"Authorization": "bearer " + good}, "authorization"),
                                   ("", {"Cookie": f"a=1; jwt={good}; b=2"}, None), (f"?a=1&jwt={good}", {}, None)):
        answer = t.gateway.request(path + query, headers=headers)
        same((query[:5], 200), (query[:5], answer.status))
        seen = answer.json()
        assert hidden not in seen["headers"] and good not in json.dumps(seen), seen
    now = int(time.time())
    same([200, 401], [t.gateway.request(path, headers={"Authorization": token({"key": "user", "exp": now - age})}).status for age in (10, 60)])
    path = route(t, "jw", {"jwt-auth": {"key_claim_name": "sub", "header": "X-Token", "store_in_ctx": True}, "serverless-post-function": {
        "phase": "access", "functions": ["return function(_, ctx) ngx.req.set_header('X-Role', ctx.jwt_auth_payload.role) end"]}})
    same("boss", t.gateway.request(path, headers={"X-Token": token({"sub": "user", "role": "boss"})}).json()["headers"]["x-role"])
    for wrong in ({"algorithm": "RS256"}, {"algorithm": "HS1"}, {"secret": "!", "base64_secret": True}):
        t.put("consumers/bad", {"username": "bad", "plugins": {"jwt-auth": {"key": "bad", **wrong}}})
        assert "/apisix/consumers/bad" in [e["key"] for e in request(t.gateway.control, "/v1/rejected").json()], wrong
    t.delete("consumers/bad")


def limit_count(t):
    t.put("plugin_metadata/limit-count", {"limit_header": "X-L", "remaining_header": "X-M", "reset_header": "X-T"})
    path = route(t, "lc", {"limit-count": {"count": 2, "time_window": 60, "key_type": "var_combination", "key": "$http_a $http_b"}})
    answer = t.gateway.request(path, headers={"a": "1"})
    same(("2", "1", True), (answer.headers["x-l"], answer.headers["x-m"], 0 < float(answer.headers["x-t"]) <= 60))
    t.delete("plugin_metadata/limit-count")
    path = route(t, "lc2", {"limit-count": {"count": 1, "time_window": 60, "key": "http_nobody", "rejected_code": 429, "show_limit_quota_header": False}})
    answers = [t.gateway.request(path) for _ in range(2)]     # by the client's address
    same([200, 429], [a.status for a in answers])
    assert "x-ratelimit-limit" not in answers[0].headers and answers[1].body != b'{"error_msg"', answers
    group = {"count": 2, "time_window": 60, "group": "together", "key_type": "constant", "key": "k"}
    first, second = route(t, "g1", {"limit-count": group}), route(t, "g2", {"limit-count": group})
    same([200, 200, 503], [t.gateway.request(path).status for path in (first, second, first)])
    assert refused(t, {"limit-count": dict(group, count=3)})
    for wrong in ({"count": 1}, {"count": 1, "time_window": 1, "rejected_code": 199}, {"count": 1, "time_window": 1, "policy": "redis"},
                  {"count": 0, "time_window": 1}, {"rules": [{"count": 1, "time_window": 1}]}):
        assert refused(t, {"limit-count": wrong}), wrong


def limit_conn_delays(t):
    """The second at a time sleeps default_conn_delay * floor((2-1)/1)."""
    path = route(t, "lcd", {"limit-conn": {"conn": 1, "burst": 1, "default_conn_delay": 0.4, "only_use_default_delay": True, "key": "remote_addr",
                                           "rejected_code": 429, "rejected_msg": "busy"}})
    seen = len(UP.requests)
    slow = threading.Thread(target=lambda: t.gateway.request(path + "?sleep=1.5"))
    slow.start()
    wait_for(lambda: len(UP.requests) > seen, "the first request")
    began = time.monotonic()
    got = []
    second = threading.Thread(target=lambda: got.append((t.gateway.request(path).status, time.monotonic() - began)))
    second.start()
    time.sleep(0.15)
    answer = t.gateway.request(path)
    same((429, b'{"error_msg":"busy"}\n'), (answer.status, answer.body))
    second.join()
    slow.join()
    assert got[0][0] == 200 and 0.4 <= got[0][1] < 1.2, got


def proxy_rewrite(t):
    path = route(t, "pr", {"proxy-rewrite": {"uri": "/to/$arg_who", "regex_uri": ["^/pr/(.*)", "/never"], "headers": {"X-Flat": "$remote_addr", "X-N": 7}}})
    seen = t.gateway.request(path + "/x?who=me&b=2").json()
    same(("/to/me?who=me&b=2", "127.0.0.1", "7"), (seen["path"], seen["headers"]["x-flat"], seen["headers"]["x-n"]))
    path = route(t, "pr", {"proxy-rewrite": {"regex_uri": ["^/pr/a/(.*)$", "/a-$1", "^/pr/(.*)/(.*)$", "/$2/$1"], "headers": {
        "add": {"X-A": ["added", "$1"]}, "set": {"X-B": "${1}!", "X-A2": "x"}, "remove": ["X-C", "X-A2"]}}})
    seen = t.gateway.request(path + "/one/two", headers={"X-A": "client", "X-B": "client", "X-C": "client"}).json()
    same(("/two/one", ["client", "added", "one"], "one!"), (seen["path"], [v for k, v in seen["pairs"] if k == "x-a"], seen["headers"]["x-b"]))
    assert "x-c" not in seen["headers"] and "x-a2" not in seen["headers"], seen
    same("/a-b", t.gateway.request(path + "/a/b").json()["path"])
    same(path + "/none", t.gateway.request(path + "/none").json()["path"])
    path = route(t, "pr", {"proxy-rewrite": {"use_real_request_uri_unsafe": True}})
    same("/pr/a%2Fb?c", t.gateway.request("/pr/a%2Fb?c").json()["path"])
    for wrong in ({"method": "FLY"}, {"regex_uri": ["^/a"]}, {"regex_uri": ["(", "/b"]}, {"headers": {}}, {"uri": "no/slash"}, {"host": "a b"}):
        assert refused(t, {"proxy-rewrite": wrong}), wrong


def response_rewrite(t):
    path = route(t, "rr", {"response-rewrite": {"body": "mine", "headers": {"add": ["X-A: one", "X-A: $status"], "set": {"X-B": "b"}, "remove": ["X-C"]},
                                                "vars": [["status", "==", 404]]}})
    query = "?h=ETag:e|Last-Modified:Mon, 01 Jan 2024 00:00:00 GMT|X-A:up|X-C:up".replace(" ", "%20")
    answer = t.gateway.request(path + query)
    assert answer.status == 200 and answer.body != b"mine" and answer.headers["etag"] == "e", answer     # its vars do not hold
    answer = t.gateway.request(path + query + "&status=404&gzip")
    same((404, b"mine", ["up", "one", "404"], "b"), (answer.status, answer.body, answer.all("x-a"), answer.headers["x-b"]))
    for name in ("etag", "last-modified", "x-c", "content-encoding", "content-length"):
        assert name not in answer.headers, (name, answer)
    path = route(t, "rr", {"response-rewrite": {"headers": {"X-Flat": "$request_method"}, "filters": [
        {"regex": "a", "replace": "b"}, {"regex": "B", "replace": "<$0>", "scope": "global", "options": "ijo"}]}})
    answer = t.gateway.request(path + "?body=aab")
    same((b"<b>a<b>", "GET"), (answer.body, answer.headers["x-flat"]))
    for wrong in ({"status_code": 599}, {"body": "a", "filters": [{"regex": "a", "replace": "b"}]}, {"body": "?", "body_base64": True},
                  {"filters": [{"regex": "("}]}, {"filters": [{"regex": "a", "replace": "", "scope": "twice"}]}):
        assert refused(t, {"response-rewrite": wrong}), wrong


def cors(t):
    path = route(t, "co", {"cors": {}})
    answer = t.gateway.request(path, headers={"Origin": "http://a.com"})
    same(("*", "*", "*", "5", None, None), tuple(answer.headers.get("access-control-" + n) for n in (
        "allow-origin", "allow-methods", "allow-headers", "max-age", "expose-headers", "allow-credentials")))
    assert "vary" not in answer.headers, answer
    before = len(UP.requests)
    same((200, before), (t.gateway.request(path, "OPTIONS").status, len(UP.requests)))
    t.put("plugin_metadata/cors", {"allow_origins": {"mine": "http://m.com"}})
    path = route(t, "co", {"cors": {"allow_origins": "**", "allow_methods": "**", "allow_headers": "**", "expose_headers": "X-E",
                                    "timing_allow_origins": "http://t.com"}})
    answer = t.gateway.request(path, headers={"Origin": "http://t.com", "Access-Control-Request-Headers": "X-1, X-2"})
    same(("http://t.com", "X-1, X-2", "X-E", "http://t.com", "Origin"), tuple(answer.headers.get(n) for n in (
        "access-control-allow-origin", "access-control-allow-headers", "access-control-expose-headers", "timing-allow-origin", "vary")))
    assert "PATCH" in answer.headers["access-control-allow-methods"], answer
    for conf, good, bad in (({"allow_origins_by_regex": [r".*\.r\.com$"]}, "http://x.r.com", "http://r.com"),
                            ({"allow_origins_by_metadata": ["mine"]}, "http://m.com", "http://n.com")):
        path = route(t, "co", {"cors": conf})
        same([good, None], [t.gateway.request(path, headers={"Origin": o}).headers.get("access-control-allow-origin") for o in (good, bad)])
        same(200, t.gateway.request(path, headers={"Origin": bad}).status)     # and is proxied all the same
    t.delete("plugin_metadata/cors")


def ip_restriction(t):
    path = route(t, "ip", {"ip-restriction": {"blacklist": ["10.0.0.0/8", "2001:db8::/32"], "message": "out", "response_code": 404}})
    same([(200, None), (404, "out"), (404, "out")], [(a.status, a.json().get("message")) for a in (
        t.gateway.request(path, headers={"X-Real-IP": address}) for address in ("11.0.0.1", "10.1.1.1", "2001:db8::5"))])
    for wrong in ({}, {"whitelist": ["1.1.1.1"], "blacklist": ["1.1.1.1"]}, {"whitelist": ["1.1.1.1/99"]}, {"whitelist": ["1.1.1.1"], "response_code": 500}):
        assert refused(t, {"ip-restriction": wrong}), wrong


def request_id(t):
    for algorithm, length in (("uuid", 36), ("uuidv7", 36), ("nanoid", 21), ("ksuid", 27), ("range_id", 16)):
        path = route(t, "ri", {"request-id": {"algorithm": algorithm, "header_name": "X-Id"}})
        answer = t.gateway.request(path)
        same((algorithm, length), (algorithm, len(answer.headers["x-id"])))
    same("up", t.gateway.request(path + "?h=X-Id:up").headers["x-id"])
    path = route(t, "ri", {"request-id": {"include_in_response": False, "algorithm": "range_id", "range_id": {"length": 8, "char_set": "abcdef"}}})
    answer = t.gateway.request(path)
    assert "x-request-id" not in answer.headers and set(answer.json()["headers"]["x-request-id"]) <= set("abcdef"), answer


def redirect(t):
    path = route(t, "re", {"redirect": {"uri": "/to${uri}?x=$arg_a", "ret_code": 301, "append_query_string": True}})
    answer = t.gateway.request(path + "/b?a=1")
    same((301, "/to/re/b?x=1&a=1"), (answer.status, answer.headers["location"]))
    path = route(t, "re", {"redirect": {"regex_uri": ["^/re/only/(.*)$", "/new/$1"], "encode_uri": True}})
    same([(302, "/new/a%20b"), (200, None)], [(a.status, a.headers.get("location")) for a in (
        t.gateway.request(path + tail) for tail in ("/only/a%20b", "/other"))])
    path = route(t, "re", {"redirect": {"http_to_https": True}})
    same([301, 301, 308, 308], [t.gateway.request(path, method).status for method in ("GET", "HEAD", "PUT", "DELETE")])
    for wrong in ({}, {"uri": "/a", "http_to_https": True}, {"regex_uri": ["a"]}, {"regex_uri": ["(", "b"]}):
        assert refused(t, {"redirect": wrong}), wrong


def consumer_restriction(t):
    t.put("consumer_groups/cg", {"plugins": {}})
    consumer(t, "ann", {"key-auth": {"key": "ann"}}, group_id="cg")
    consumer(t, "bob", {"key-auth": {"key": "bob"}})
    t.put("services/cs", {"upstream": to(UP)})

    def ask(conf, key, method="GET", **more):
        path = route(t, "cr", {"key-auth": {}, "consumer-restriction": conf}, **more)
        answer = t.gateway.request(path, method, headers={"apikey": key})
        return answer.status, None if answer.status == 200 else answer.json()["message"]
    forbidden = "The consumer_name is forbidden."
    same([(200, None), (403, forbidden)], [ask({"whitelist": ["ann"]}, key) for key in ("ann", "bob")])
    same((403, forbidden), ask({"blacklist": ["ann"], "whitelist": ["ann"]}, "ann"))      # the blacklist goes first
    methods = {"allowed_by_methods": [{"user": "ann", "methods": ["POST"]}]}
    same([(403, forbidden), (200, None), (200, None)], [ask(methods, "ann"), ask(methods, "ann", "POST"), ask(methods, "bob")])
    same((200, None), ask({"whitelist": ["ann"], **methods}, "ann"))      # a hit there skips the methods
    same((418, "no"), ask({"blacklist": ["bob"], "rejected_code": 418, "rejected_msg": "no"}, "bob"))
    group = {"type": "consumer_group_id", "whitelist": ["cg"]}
    same([(200, None), (401, "The request is rejected, please check the consumer_group_id for this request")], [ask(group, key) for key in ("ann", "bob")])
    same((403, "The route_id is forbidden."), ask({"type": "route_id", "blacklist": ["cr"]}, "ann"))
    same((200, None), ask({"type": "service_id", "whitelist": ["cs"]}, "ann", service_id="cs"))
    same((401, "The request is rejected, please check the service_id for this request"), ask({"type": "service_id", "whitelist": ["cs"]}, "ann"))


def traffic_split(t):
    rules = {"rules": [{"weighted_upstreams": [{"upstream_id": "gone"}]}]}
    same(500, t.gateway.request(route(t, "ts", {"traffic-split": rules})).status)
    inline = {"type": "roundrobin", "nodes": OTHER.node, "pass_host": "rewrite", "upstream_host": "split.test", "timeout": {"connect": 1, "send": 1, "read": 0.3}}
    path = route(t, "ts", {"traffic-split": {"rules": [
        {"match": [{"vars": [["arg_a", "==", "1"]]}, {"vars": [["arg_b", "==", "1"]]}], "weighted_upstreams": [{"upstream": inline, "weight": 3}, {"weight": 1}]},
        {"weighted_upstreams": [{"weight": 1}]}]}})
    for query in ("?a=1", "?b=1"):
        ports = [t.gateway.request(path + query).json() for _ in range(40)]
        others = [a for a in ports if a["port"] == OTHER.port]
        assert 28 <= len(others) <= 32 and {a["headers"]["host"] for a in others} == {"split.test"}, len(others)
    same({UP.port}, {t.gateway.request(path).json()["port"] for _ in range(5)})
    path = route(t, "ts", {"traffic-split": {"rules": [{"weighted_upstreams": [{"upstream": inline}]}]}})
    same(504, t.gateway.request(path + "?sleep=1").status)


def fault_injection(t):
    began = time.monotonic()
    path = route(t, "fi", {"fault-injection": {"delay": {"duration": 0.3}, "abort": {"http_status": 599, "body": "no $arg_a", "headers": {"X-Why": "$arg_a", "X-N": 1},
                                                                                    "vars": [[["arg_a", "==", "1"]], [["arg_a", "==", "2"]]]}}})
    answer = t.gateway.request(path + "?a=2")
    same((599, b"no 2", "2", "1", True), (answer.status, answer.body, answer.headers["x-why"], answer.headers["x-n"], time.monotonic() - began >= 0.3))
    same(200, t.gateway.request(path + "?a=3").status)
    path = route(t, "fi", {"fault-injection": {"abort": {"http_status": 500, "percentage": 0}}})
    same([200] * 10, [t.gateway.request(path).status for _ in range(10)])
    assert refused(t, {"fault-injection": {}}) and refused(t, {"fault-injection": {"abort": {"http_status": 199}}})


def proxy_cache(t):
    for strategy, zone in (("memory", "memory_cache"), ("disk", "disk_cache_one")):
        conf = {"cache_strategy": strategy, "cache_zone": zone}

        def ask(path, method="GET", **headers):
            answer = t.gateway.request(path, method, headers=headers)
            return answer.headers.get("apisix-cache-status"), answer

        def hits(path, **headers):
            """Is it kept, when it is asked for a second time?"""
            ask(path, **headers)
            try:
                wait_for(lambda: ask(path, **headers)[0] == "HIT", "a hit", 1)
            except AssertionError:
                return False
            return True
        path = route(t, "pc" + strategy, {"proxy-cache": dict(conf, no_cache=["$arg_no"], cache_http_status=[200, 404])})
        same((strategy, [True, True, False, False]), (strategy, [hits(path + q) for q in ("?a", "?b&status=404", "?c&status=500", "?d&no=1")]))
        same((strategy, True), (strategy, hits(path + "?keys")))
        same("MISS", ask(path + "?keys", Host="other.test")[0])     # the key has the host
        path = route(t, "pc2" + strategy, {"key-auth": {}, "proxy-cache": dict(conf, hide_cache_headers=True)})
        consumer(t, "ann", {"key-auth": {"key": "ann"}})
        consumer(t, "bob", {"key-auth": {"key": "bob"}})
        mine = path + "?mine&h=Expires:Mon,%2001%20Jan%202035%2000:00:00%20GMT|Cache-Control:max-age=100"
        same((strategy, True), (strategy, hits(mine, apikey="ann")))
        status, answer = ask(mine, apikey="bob")
        same((strategy, "MISS", False, False), (strategy, status, "expires" in answer.headers, "cache-control" in answer.headers))
        assert refused(t, {"proxy-cache": dict(conf, cache_zone="nowhere")}) and refused(t, {"proxy-cache": dict(conf, cache_key=["$request_method"])})
    path = route(t, "pc3", {"proxy-cache": {"cache_strategy": "memory", "cache_zone": "memory_cache", "cache_ttl": 1}})
    same("MISS", ask(path)[0])
    wait_for(lambda: ask(path)[0] == "HIT", "a hit", 2)
    wait_for(lambda: ask(path)[0] in ("EXPIRED", "MISS"), "its end", 3)


def http_logger(t):
    log = t.keep(Upstream())
    t.put("services/ls", {"upstream": to(UP)})
    consumer(t, "ann", {"key-auth": {"key": "ann"}})
    path = route(t, "hl", {"key-auth": {}, "http-logger": {"uri": f"http://127.0.0.1:{log.port}/log", "batch_max_size": 1}}, service_id="ls")
    t.gateway.request(path + "?q=1", headers={"apikey": "ann"})
    entry = wait_for(lambda: log.requests and json.loads(log.requests[0]["body"]), "the record", 5)
    same({"request", "response", "server", "upstream", "service_id", "route_id", "consumer", "client_ip", "start_time", "latency", "upstream_latency",
          "apisix_latency"}, set(entry))
    same([{"url", "uri", "method", "headers", "querystring", "size"}, {"status", "headers", "size"}, {"hostname", "version"}],
         [set(entry[part]) for part in ("request", "response", "server")])
    same(("ls", "hl", "ann", {"q": "1"}), (entry["service_id"], entry["route_id"], entry["consumer"]["username"], entry["request"]["querystring"]))
    assert abs(entry["start_time"] / 1000 - time.time()) < 10 and entry["request"]["url"].endswith("/hl?q=1"), entry


def serverless(t):
    calls = {"rewrite": "ngx.req.set_header('X-Phase-Rewrite', '1')", "access": "ngx.req.set_header('X-Phase-Access', '1')",
             "before_proxy": "ngx.req.set_header('X-Phase-Before', '1')", "header_filter": "ngx.header['X-Phase'] = 'h'",
             "body_filter": "ngx.arg[1] = ngx.arg[1]:upper()", "log": "ngx.log(ngx.ERR, 'logged by a function')"}
    for phase, code in calls.items():
        path = route(t, "sl", {"serverless-pre-function": {"phase": phase, "functions": [f"return function(conf, ctx) {code} end"]}})
        answer = t.gateway.request(path + "?body=x" if phase == "body_filter" else path)
        same((phase, 200), (phase, answer.status))
        if phase in ("rewrite", "access", "before_proxy"):
            same((phase, "1"), (phase, answer.json()["headers"].get("x-phase-" + phase.split("_")[0])))
        elif phase == "header_filter":
            same("h", answer.headers["x-phase"])
        elif phase == "body_filter":
            same(b"X", answer.body)
    wait_for(lambda: "logged by a function" in t.gateway.error_log(), "the log phase", 3)
    path = route(t, "sl", {"serverless-post-function": {"functions": ["return function() end", "return function() return 418, 'second' end", "return function() return 419 end"]}})
    answer = t.gateway.request(path)
    same((418, b"second"), (answer.status, answer.body))


def prometheus(t):
    t.put("services/ps", {"name": "service-name", "upstream": to(UP)})
    path = route(t, "pm", {"prometheus": {"prefer_name": True}}, name="route-name", service_id="ps")
    t.gateway.request(path)
    wait_for(lambda: t.gateway.metric('apisix_http_status{code="200",route="route-name",matched_uri="/pm",matched_host="",service="service-name",'), "names", 5)
    t.put("plugin_metadata/prometheus", {"disabled_labels": {"http_status": ["matched_uri"]}})
    path = route(t, "pm2", {"prometheus": {}})
    t.gateway.request(path)
    wait_for(lambda: t.gateway.metric('apisix_http_status{code="200",route="pm2",matched_uri="",'), "a label that is empty", 5)
    t.delete("plugin_metadata/prometheus")


TESTS = [
    key_auth, basic_auth, jwt_auth, limit_count, limit_conn_delays, proxy_rewrite, response_rewrite, cors, ip_restriction, request_id, redirect,
    consumer_restriction, traffic_split, fault_injection, proxy_cache, http_logger, serverless, prometheus,
]

if __name__ == "__main__":
    main(TESTS, both=False)
