#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Consumers, auth plugins, merging, and plugins of other people, in a running gateway with a real etcd. Prints TAP."""
import base64
import hashlib
import hmac
import http.client
import http.server
import json
import os
import pathlib
import re
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "lib"))
from dpproxy import TOP, Upstream, main, request, wait_for  # noqa: E402

UP = Upstream()
OTHER = Upstream()
EXTRA = TOP / "tests" / "proxy" / "extra"
MORE = None     # a folder for plugins that are written while the gateway runs


def same(wanted, got):
    assert wanted == got, f"wanted {wanted!r}, got {got!r}"


def route(t, route_id, plugins, **more):
    """A route for /<route_id> and below; returns the path."""
    value = {"uris": [f"/{route_id}", f"/{route_id}/*"], "upstream": {"type": "roundrobin", "nodes": UP.node}, "plugins": plugins}
    value.update(more)
    t.put(f"routes/{route_id}", value)
    return f"/{route_id}"


def consumer(t, name, plugins=None, **more):
    t.put(f"consumers/{name}", {"username": name, "plugins": plugins or {}, **more})


def status(t, path, **headers):
    return t.gateway.request(path, headers=headers).status


def seen(t, path, **headers):
    """The request as the upstream saw it."""
    answer = t.gateway.request(path, headers=headers)
    same(200, answer.status)
    return answer.json()


def refused(answer, code, message):
    same((code, message), (answer.status, answer.json()["message"]))


def key_auth(t):
    consumer(t, "jack", {"key-auth": {"key": "jack-key"}}, labels={"custom_id": "77"})
    path = route(t, "ka", {"key-auth": {}})
    same("jack", seen(t, path, apikey="jack-key")["headers"]["x-consumer-username"])
    same(path + "?apikey=jack-key&a=1", t.gateway.request(path + "?apikey=jack-key&a=1").json()["path"])
    missing = t.gateway.request(path)
    refused(missing, 401, "Missing API key in request")
    same('apikey realm="key"', missing.headers["www-authenticate"])
    refused(t.gateway.request(path, headers={"apikey": "nobody"}), 401, "Invalid API key in request")
    path = route(t, "ka", {"key-auth": {"hide_credentials": True, "header": "X-Key", "query": "k"}})
    got = seen(t, path, **{"X-Key": "jack-key"})
    assert "x-key" not in got["headers"], got
    same(path + "?a=1", t.gateway.request(path + "?k=jack-key&a=1").json()["path"])


def anonymous_consumers_and_what_clients_claim(t):
    consumer(t, "anon", {"response-rewrite": {"headers": {"set": {"X-Policy": "anonymous"}}}})
    path = route(t, "anon", {"key-auth": {"anonymous_consumer": "anon", "hide_credentials": True}})
    answer = t.gateway.request(path, headers={"apikey": "wrong", "X-Consumer-Username": "root", "X-Consumer-Custom-ID": "0",
                                              "X-Credential-Identifier": "c"})
    headers = answer.json()["headers"]
    same(("anon", "anonymous"), (headers["x-consumer-username"], answer.headers["x-policy"]))
    for name in ("apikey", "x-consumer-custom-id", "x-credential-identifier"):
        assert name not in headers, headers
    headers = seen(t, path, apikey="jack-key")["headers"]
    same(("jack", "77"), (headers["x-consumer-username"], headers["x-consumer-custom-id"]))


def a_consumer_wins_over_its_group_over_the_route(t):
    def mark(who):
        return {"headers": {"set": {"X-Who": who}}}
    t.put("consumer_groups/g", {"plugins": {"proxy-rewrite": mark("group"), "response-rewrite": mark("group")}})
    consumer(t, "ann", {"key-auth": {"key": "ann-key"}, "proxy-rewrite": mark("consumer")}, group_id="g")
    consumer(t, "bob", {"key-auth": {"key": "bob-key"}})
    path = route(t, "prec", {"key-auth": {}, "proxy-rewrite": mark("route")})
    answer = t.gateway.request(path, headers={"apikey": "ann-key"})
    # The route's proxy-rewrite was run before the consumer was known; only plugins that the route lacks are rewritten again.
    same(("route", "group"), (answer.json()["headers"]["x-who"], answer.headers["x-who"]))
    same("route", seen(t, path, apikey="bob-key")["headers"]["x-who"])
    path = route(t, "prec2", {"key-auth": {}})
    answer = t.gateway.request(path, headers={"apikey": "ann-key"})
    same(("consumer", "group"), (answer.json()["headers"]["x-who"], answer.headers["x-who"]))
    assert "x-who" not in seen(t, path, apikey="bob-key")["headers"]
    t.delete("consumer_groups/g")
    same(503, status(t, path, apikey="ann-key"))
    same(200, status(t, path, apikey="bob-key"))


def an_auth_plugin_in_a_consumer_is_no_policy(t):
    consumer(t, "cat", {"key-auth": {"key": "cat-key"}, "basic-auth": {"username": "cat", "password": "c"}})
    path = route(t, "noauth", {"key-auth": {}})
    same(200, status(t, path, apikey="cat-key"))


def credentials_change_without_a_gap(t):
    consumer(t, "rot")
    t.put("consumers/rot/credentials/one", {"plugins": {"key-auth": {"key": "k1"}}})
    path = route(t, "rot", {"key-auth": {}})
    same(("rot", "one"), tuple(seen(t, path, apikey="k1")["headers"][h] for h in ("x-consumer-username", "x-credential-identifier")))
    bad, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            code = status(t, path, apikey="k1")
            if code != 200:
                bad.append(code)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for i in range(10):
            t.etcd.put("/apisix/consumers/rot/credentials/two", {"plugins": {"key-auth": {"key": f"n{i}"}}})
            began = time.monotonic()
            wait_for(lambda: status(t, path, apikey=f"n{i}") == 200, "the new key")
            assert time.monotonic() - began < 1, "a new key takes too long"
            if i:
                wait_for(lambda: status(t, path, apikey=f"n{i - 1}") == 401, "the end of the old key", 1)
    finally:
        stop.set()
        asking.join()
    same([], bad)
    t.delete("consumers/rot/credentials/one")
    same((401, 200), (status(t, path, apikey="k1"), status(t, path, apikey="n9")))
    t.delete("consumers/rot")
    same(401, status(t, path, apikey="n9"))


def a_route_wins_over_its_plugin_config_over_its_service(t):
    def mark(who):
        return {"response-rewrite": {"headers": {"set": {"X-Who": who}}}}
    t.put("services/s", {"upstream": {"nodes": UP.node}, "plugins": {**mark("service"), "proxy-rewrite": {"headers": {"set": {"X-S": "s"}}}}})
    t.put("plugin_configs/p", {"plugins": mark("plugin config")})

    def who(**more):
        value = {"uri": "/merge", "service_id": "s", **more}
        t.put("routes/merge", value)
        answer = t.gateway.request("/merge")
        same("s", answer.json()["headers"]["x-s"])
        return answer.headers["x-who"]
    same("service", who())
    same("plugin config", who(plugin_config_id="p"))
    same("route", who(plugin_config_id="p", plugins=mark("route")))
    t.put("plugin_configs/p", {"plugins": mark("edited")})
    same("edited", who(plugin_config_id="p"))
    t.delete("plugin_configs/p")
    same(503, t.gateway.request("/merge").status)
    t.put("routes/merge", {"uri": "/merge", "service_id": "gone"})
    same(404, t.gateway.request("/merge").status)


def a_plugin_in_two_global_rules_runs_in_none(t):
    rule = {"plugins": {"response-rewrite": {"headers": {"set": {"X-G": "1"}}}}}
    path = route(t, "glob", {})
    t.put("global_rules/1", rule)
    same("1", t.gateway.request(path).headers["x-g"])
    t.put("global_rules/2", rule)
    assert "x-g" not in t.gateway.request(path).headers
    assert "Found response-rewrite configured across different global rules" in t.gateway.error_log()
    t.delete("global_rules/1")
    same("1", t.gateway.request(path).headers["x-g"])
    t.put("global_rules/3", {"plugins": {"key-auth": {}}})
    refused(t.gateway.request("/no/such/route"), 401, "Missing API key in request")
    same(404, t.gateway.request("/no/such/route", headers={"apikey": "jack-key"}).status)
    t.delete("global_rules/2")
    t.delete("global_rules/3")


def basic_auth(t):
    consumer(t, "foo", {"basic-auth": {"username": "foo", "password": "bar"}})
    path = route(t, "ba", {"basic-auth": {"hide_credentials": True}})

    def header(text):
        return {"Authorization": "Basic " + base64.b64encode(text.encode()).decode()}
    got = seen(t, path, **header("foo:bar"))
    assert "authorization" not in got["headers"], got
    refused(t.gateway.request(path), 401, "Missing authorization in request")
    refused(t.gateway.request(path, headers=header("foo:baz")), 401, "Invalid user authorization")
    refused(t.gateway.request(path, headers={"Authorization": "Basic ?"}), 401, "Invalid authorization in request")


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(payload, secret, alg="HS256", digest=hashlib.sha256):
    text = b64(json.dumps({"alg": alg, "typ": "JWT"}).encode()) + "." + b64(json.dumps(payload).encode())
    return text + "." + b64(hmac.new(secret, text.encode(), digest).digest())


def lua_vectors():
    """tests/proxy/lib/jws_vectors.lua, whose tokens were signed elsewhere: algorithm -> (token, key)"""
    text = (TOP / "tests/proxy/lib/jws_vectors.lua").read_text()
    found = {}
    for name, signed, key in re.findall(r"(\w+) = \{\n        token = (.*?),\n        key = \[\[\n(.*?)\]\]", text, re.S):
        found[name] = "".join(re.findall(r'"([^"]*)"', signed)), key
    return found


def jwt_auth(t):
    consumer(t, "jwt", {"jwt-auth": {"key": "k-hs", "secret": "s3cret"}})
    consumer(t, "jwt64", {"jwt-auth": {"key": "k64", "secret": base64.b64encode(b"raw\0secret").decode(), "base64_secret": True}})
    path, now = route(t, "jwt", {"jwt-auth": {}}), int(time.time())

    def ask(text):
        return t.gateway.request(path, headers={"Authorization": "Bearer " + text})
    same("jwt", ask(token({"key": "k-hs", "exp": now + 60, "nbf": now - 60}, b"s3cret")).json()["headers"]["x-consumer-username"])
    same("jwt64", ask(token({"key": "k64"}, b"raw\0secret")).json()["headers"]["x-consumer-username"])
    refused(t.gateway.request(path), 401, "Missing JWT token in request")
    refused(ask("no.token"), 401, "JWT token invalid")
    refused(ask(token({}, b"s3cret")), 401, "missing user key in JWT token")
    refused(ask(token({"key": "nobody"}, b"s3cret")), 401, "Invalid user key in JWT token")
    for bad in (token({"key": "k-hs"}, b"wrong"), token({"key": "k-hs"}, b"s3cret", "HS512", hashlib.sha512),
                token({"key": "k-hs", "exp": now - 1}, b"s3cret"), token({"key": "k-hs", "nbf": now + 60}, b"s3cret"),
                token({"key": "k-hs"}, b"s3cret", "none")):
        refused(ask(bad), 401, "failed to verify jwt")
    route(t, "jwt", {"jwt-auth": {"claims_to_verify": ["exp"]}})
    refused(ask(token({"key": "k-hs"}, b"s3cret")), 401, "failed to verify jwt")
    same(200, ask(token({"key": "k-hs", "exp": now + 60}, b"s3cret")).status)
    vectors = lua_vectors()
    for algorithm in ("RS512", "PS256", "ES384", "ES512"):
        signed, key = vectors[algorithm]
        consumer(t, "jwt_rs", {"jwt-auth": {"key": "k", "algorithm": algorithm, "public_key": key}})
        route(t, "jwt", {"jwt-auth": {}})
        same((algorithm, 200), (algorithm, ask(signed).status))
        refused(ask(token({"key": "k"}, key.encode())), 401, "failed to verify jwt")
        refused(ask(token({"key": "k"}, key.encode(), algorithm)), 401, "failed to verify jwt")


def hmac_auth(t):
    consumer(t, "hm", {"hmac-auth": {"key_id": "kid", "secret_key": "sk"}})
    path = route(t, "hm", {"hmac-auth": {}})

    def ask(secret=b"sk", age=0):
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() - age))
        text = f"kid\nGET {path}?a=1\ndate: {date}\n"
        signature = base64.b64encode(hmac.new(secret, text.encode(), hashlib.sha256).digest()).decode()
        return t.gateway.request(path + "?a=1", headers={"Date": date, "Authorization":
            f'Signature keyId="kid",algorithm="hmac-sha256",headers="@request-target date",signature="{signature}"'})
    same("hm", ask().json()["headers"]["x-consumer-username"])
    refused(ask(b"other"), 401, "client request can't be validated")
    refused(ask(age=400), 401, "client request can't be validated")


def consumer_restriction(t):
    path = route(t, "cr", {"key-auth": {}, "consumer-restriction": {"whitelist": ["jack"]}})
    same(200, status(t, path, apikey="jack-key"))
    refused(t.gateway.request(path, headers={"apikey": "bob-key"}), 403, "The consumer_name is forbidden.")
    path = route(t, "cr", {"consumer-restriction": {"blacklist": ["jack"]}})
    refused(t.gateway.request(path), 401, "The request is rejected, please check the consumer_name for this request")


def meta(t):
    path = route(t, "meta", {"key-auth": {"_meta": {"disable": True}}})
    same(200, status(t, path))
    path = route(t, "meta", {"key-auth": {"_meta": {"filter": [["arg_open", "~=", "1"]]}}})
    same((401, 200), (status(t, path), status(t, path + "?open=1")))
    path = route(t, "meta", {"key-auth": {"_meta": {"error_response": {"told": "nothing"}}}})
    same({"told": "nothing"}, t.gateway.request(path).json())
    # By itself ip-restriction (3000) refuses with 403 before consumer-restriction (2400) does with 401.
    plugins = {"ip-restriction": {"blacklist": ["127.0.0.1"]}, "consumer-restriction": {"blacklist": ["x"]}}
    path = route(t, "meta", plugins)
    same(403, status(t, path))
    plugins["consumer-restriction"]["_meta"] = {"priority": 9999}
    path = route(t, "meta", plugins)
    same(401, status(t, path))
    plugins = {"fault-injection": {"abort": {"http_status": 418}}, "serverless-pre-function": {
        "phase": "rewrite", "functions": ["return function() return 419 end"]}}
    path = route(t, "meta", plugins)
    same(418, status(t, path))
    plugins["serverless-pre-function"]["_meta"] = {"priority": 99999}
    path = route(t, "meta", plugins)
    same(419, status(t, path))


def unknown_plugins_are_skipped(t):
    path = route(t, "unk", {"no-such-plugin": {"a": 1}, "response-rewrite": {"headers": {"set": {"X-A": "1"}}}})
    same("1", t.gateway.request(path).headers["x-a"])
    assert "no-such-plugin" in t.gateway.error_log()


def secrets(t):
    consumer(t, "env", {"key-auth": {"key": "$env://DPPROXY_TEST_KEY"}})
    consumer(t, "open", {"key-auth": {"key": "$ENV://DPPROXY_TEST_NOT_THERE"}})
    path = route(t, "sec", {"key-auth": {}, "proxy-rewrite": {"headers": {"set": {"X-Env": "$env://DPPROXY_TEST_JSON/field"}}}})
    got = seen(t, path, apikey="from-the-environment")
    same(("env", "deep"), (got["headers"]["x-consumer-username"], got["headers"]["x-env"]))
    for key in ("$ENV://DPPROXY_TEST_NOT_THERE", "$env://DPPROXY_TEST_KEY"):
        refused(t.gateway.request(path, headers={"apikey": key}), 401, "Invalid API key in request")


class Vault(http.server.BaseHTTPRequestHandler):
    """A vault with key-value engines of version 1 (kv) and 2 (kv2), as far as reading goes."""
    secrets = {"/v1/kv/apisix/jack": {"data": {"key": "vault-key"}},
               "/v1/kv2/data/apisix/jack": {"data": {"data": {"key": "vault-key-2"}, "metadata": {"version": 1}}}}
    asked = 0

    def do_GET(self):
        Vault.asked += 1
        found = self.secrets.get(self.path) if self.headers.get("X-Vault-Token") == "root" else None
        body = json.dumps(found or {"errors": []}).encode()
        self.send_response(200 if found else 403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def secrets_of_a_vault(t):
    vault = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Vault)
    threading.Thread(target=vault.serve_forever, daemon=True).start()
    try:
        uri = f"http://127.0.0.1:{vault.server_address[1]}"
        path = route(t, "vault", {"key-auth": {}})
        consumer(t, "vaulted", {"key-auth": {"key": "$secret://vault/one/apisix/jack/key"}})
        consumer(t, "vaulted2", {"key-auth": {"key": "$secret://vault/two/apisix/jack/key"}})
        same((401, 401), (status(t, path, apikey="vault-key"), status(t, path, apikey="$secret://vault/one/apisix/jack/key")))
        t.put("secrets/vault/one", {"uri": uri, "prefix": "kv", "token": "root"})
        t.put("secrets/vault/two", {"uri": uri, "prefix": "kv2/data", "token": "$env://DPPROXY_TEST_TOKEN"})
        same("vaulted", seen(t, path, apikey="vault-key")["headers"]["x-consumer-username"])
        same("vaulted2", seen(t, path, apikey="vault-key-2")["headers"]["x-consumer-username"])
        asked = Vault.asked
        same([200] * 20, [status(t, path, apikey="vault-key") for _ in range(20)])
        assert Vault.asked - asked <= 2, "the vault is asked too often"     # the other worker may not have asked before
        t.put("secrets/vault/one", {"uri": uri, "prefix": "kv", "token": "wrong"})
        same((401, 200), (status(t, path, apikey="vault-key"), status(t, path, apikey="vault-key-2")))
    finally:
        vault.shutdown()
        vault.server_close()


def somebody_elses_plugin(t):
    path = route(t, "ex", {"t-example": {"i": 1}})
    answer = t.gateway.request(path)
    got = answer.json()
    same({"type": "route", "id": "ex", "greeting": "hello", "attr": "from config"}, json.loads(got["headers"]["x-conf"]))
    same((UP.port, "200", "upstream"), (got["port"], answer.headers["x-upstream"], answer.headers["x-source"]))
    t.put("plugin_metadata/t-example", {"ikey": 1, "skey": "told"})
    same("told", seen(t, path)["headers"]["x-metadata"])
    route(t, "ex", {"t-example": {"i": 1, "ip": "127.0.0.1", "port": OTHER.port}})
    same(OTHER.port, seen(t, path)["port"])
    assert wait_for(lambda: "t-example logs ex 200" in t.gateway.error_log(), "the log phase")
    same(b"world\n", request(t.gateway.control, "/v1/plugin/t-example/hello").body)
    same({"msg": "world"}, request(t.gateway.control, "/v1/plugin/t-example/hello?json=1").json())
    t.put("plugin_metadata/t-example", {"ikey": "wrong"})
    same("told", seen(t, path)["headers"]["x-metadata"])


def somebody_elses_templates_and_caches(t):
    headers = [{"name": "X-Tpl", "value": "$request_method ${uri} $arg_a ${nobody ?? none} $t_zone"}]
    path = route(t, "tpl", {"t-template": {"headers": headers, "drop_arg": "gone"}}, labels={"zone": "eu"})
    answer = t.gateway.request(path + "?a=1&gone=2")
    same(("GET /tpl 1 none eu", "/tpl?a=1"), (answer.json()["headers"]["x-tpl"], answer.json()["path"]))
    same("X-Tpl", answer.headers["x-names"])
    route(t, "tpl", {"t-template": {"headers": headers, "allowed": ["10.0.0.0/8"]}})
    refused(t.gateway.request(path), 403, "not here")
    route(t, "tpl", {"t-template": {"headers": headers, "allowed": ["127.0.0.0/8"]}})
    same(200, status(t, path))


def somebody_elses_body_filter(t):
    path = route(t, "body", {"t-body": {"field": "added", "text": "x" * 100000}})
    answer = t.gateway.request(path + "?h=" + "ETag:1")
    same(("x" * 100000, "yes"), (answer.json()["added"], answer.headers["x-changed"]))
    assert "etag" not in answer.headers and "content-length" not in answer.headers, answer


def somebody_elses_auth(t):
    consumer(t, "tok", {"t-token": {"token": "secret"}})
    path = route(t, "tok", {"t-token": {}})
    same("tok", seen(t, path, **{"X-Token": "secret"})["headers"]["x-consumer-username"])
    refused(t.gateway.request(path), 401, "no token")
    refused(t.gateway.request(path, headers={"X-Token": "x"}), 401, "wrong token")


def a_plugin_that_throws_harms_only_its_own_request(t):
    good = route(t, "good", {})
    for phase in ("rewrite", "access", "before_proxy", "header_filter"):
        path = route(t, "bad", {"t-bad": {"phase": phase}})
        same((phase, 500), (phase, status(t, path)))
        same(200, status(t, good))
        wait_for(lambda: f"plugin [t-bad] failed in {phase}" in t.gateway.error_log(), "the traceback")
    route(t, "bad", {"t-bad": {"phase": "body_filter"}})
    try:
        whole = t.gateway.request("/bad")
    except (OSError, http.client.HTTPException):
        whole = None    # the connection was closed
    same(None, whole)
    route(t, "bad", {"t-bad": {"phase": "log"}})
    same((200, 200), (status(t, "/bad"), status(t, good)))
    assert "stack traceback" in t.gateway.error_log()


def plugins_are_loaded_anew(t):
    folder = MORE / "apisix" / "plugins"
    source = (EXTRA / "apisix/plugins/t-bad.lua").read_text()
    path = route(t, "reload", {"t-new": {}})
    same(200, status(t, path))
    (folder / "t-new.lua").write_text(source.replace("t-bad", "t-new").replace(
        "return _M", "_M.access = function() return 299, 'one' end\nreturn _M"))
    same(200, reload(t))
    began = time.monotonic()
    wait_for(lambda: all(status(t, path) == 299 for _ in range(20)), "the new plugin in all workers")
    assert time.monotonic() - began < 3, "a reload takes too long"
    (folder / "t-new.lua").write_text("error('this cannot be loaded')")
    same(200, reload(t))
    wait_for(lambda: all(status(t, path) == 200 for _ in range(20)), "the end of the broken plugin")
    assert "failed to load plugin [t-new]" in t.gateway.error_log()
    (folder / "t-new.lua").write_text(source.replace("t-bad", "t-new").replace(
        "return _M", "_M.access = function() return 298, 'mended' end\nreturn _M"))
    same(200, reload(t))
    wait_for(lambda: all(status(t, path) == 298 for _ in range(20)), "the mended plugin")
    same(200, status(t, route(t, "ka", {"key-auth": {}}), apikey="jack-key"))


def etcd_names_the_plugins(t):
    path = route(t, "named", {"t-body": {"field": "a", "text": "b"}})
    same("yes", t.gateway.request(path).headers.get("x-changed"))
    t.put("plugins", [{"name": "key-auth"}, {"name": "prometheus"}, {"name": "mqtt-proxy", "stream": True}])
    wait_for(lambda: all("x-changed" not in t.gateway.request(path).headers for _ in range(8)), "the end of t-body", 3)
    same(401, status(t, route(t, "ka", {"key-auth": {}})))
    t.delete("plugins")
    wait_for(lambda: all("x-changed" in t.gateway.request(path).headers for _ in range(8)), "t-body again", 3)


def reload(t):
    return request(t.gateway.control, "/v1/plugins/reload", "PUT").status


def config():
    names = re.findall(r'\{"([\w-]+)", -?\d+\}', (TOP / "proxy/lua/dpproxy/plugin/defaults.lua").read_text())
    return {
        "apisix": {"extra_lua_path": f"{EXTRA}/?.lua;{MORE}/?.lua"},
        "plugins": names + ["t-example", "t-template", "t-body", "t-token", "t-bad", "t-new"],
        "plugin_attr": {"t-example": {"val": "from config"}},
    }


TESTS = [
    key_auth, anonymous_consumers_and_what_clients_claim, a_consumer_wins_over_its_group_over_the_route,
    an_auth_plugin_in_a_consumer_is_no_policy, credentials_change_without_a_gap,
    a_route_wins_over_its_plugin_config_over_its_service, a_plugin_in_two_global_rules_runs_in_none, basic_auth, jwt_auth,
    hmac_auth, consumer_restriction, meta, unknown_plugins_are_skipped, secrets, secrets_of_a_vault, somebody_elses_plugin,
    somebody_elses_templates_and_caches, somebody_elses_body_filter, somebody_elses_auth,
    a_plugin_that_throws_harms_only_its_own_request, plugins_are_loaded_anew,
    etcd_names_the_plugins,
]

if __name__ == "__main__":
    os.environ["DPPROXY_TEST_KEY"] = "from-the-environment"
    os.environ["DPPROXY_TEST_TOKEN"] = "root"
    os.environ["DPPROXY_TEST_JSON"] = '{"field":"deep"}'
    with tempfile.TemporaryDirectory(prefix="dpproxy-test-") as folder:
        os.chmod(folder, 0o755)     # the workers are another user when started as root
        MORE = pathlib.Path(folder)
        (MORE / "apisix" / "plugins").mkdir(parents=True)
        main(TESTS, config())
