/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every flag of dpagent; the macros are those of kineshim/options_table.h, where the same flags mean the same.
 *
 * A new flag also needs an entry in docs/dpagent.8, docs/dpagent-configuration.md and etc/dpagent.yml (build-aux/check-options).
 */
/* clang-format off */

GROUP("Upstream")
OPTION(TEXT, upstream, "upstream", "", 0, 0,
       "the etcd to mirror: http://host:2379 or https://host:2379, several of one cluster separated by commas; also another agent")
OPTION(TEXT, upstream_user, "upstream-user", "", 0, 0,
       "user there; name:password only in the environment or the configuration file")
OPTION(TEXT, upstream_password_file, "upstream-password-file", "", 0, 0, "file whose first line is that user's password")
OPTION(TEXT, upstream_cacert, "upstream-cacert", "", 0, 0, "CA of upstream's certificate, in PEM (default: those of the system)")
OPTION(TEXT, upstream_cert, "upstream-cert", "", 0, 0, "our certificate for upstream, in PEM")
OPTION(TEXT, upstream_key, "upstream-key", "", 0, 0, "its key, in PEM")
OPTION(TEXT, prefix, "prefix", "/apisix", 0, 0, "keys that begin with it are mirrored; empty: all")
OPTION(TIME, start_timeout, "start-timeout", "5s", 0, 3600000,
       "how long a start waits for upstream before it serves what is on disk or in object storage")
OPTION(BOOL, forward_writes, "forward-writes", "false", 0, 0, "pass clients' writes under the prefix upstream, else refuse them")
OPTION(BOOL, accept_empty, "accept-empty", "false", 0, 0,
       "an upstream without a single key under the prefix replaces what is here; else that is held")
OPTION(TIME, verify_interval, "verify-interval", "10m", 0, INT64_MAX / 2,
       "pause between comparisons of all keys with upstream's; 0: never")

GROUP("This node")
OPTION(TEXT, data_dir, "data-dir", "dpagent.data", 0, 0, "folder for the last known good configuration; one agent at a time")
OPTION(TEXT, name, "name", "default", 0, 0, "name in the member list")
OPTION(TEXT, node_id, "node-id", "", 0, 0,
       "how control planes know this node (default: made of the machine's id, its name, and data-dir)")
OPTION(CHOICE, role, "role", "traffic|backup", 0, 0,
       "traffic: serves clients, reads from object storage; backup: writes what upstream has to object storage")
OPTION(BOOL, serve, "serve", "false", 0, 0, "serve clients also with role backup")
OPTION(BOOL, register_node, "register", "true", 0, 0, "show this node upstream, under a lease")
OPTION(TEXT, register_prefix, "register-prefix", "/dpagent", 0, 0, "where upstream")
OPTION(TEXT, config_file, "config-file", "", 0, 0,
       "YAML or JSON file with flags as keys; as with etcd, all other flags and variables are ignored then")

GROUP("Last known good")
OPTION(TIME, snapshot_interval, "snapshot-interval", "1s", 10, INT64_MAX / 2, "changes gather for so long before they are written to disk")
OPTION(TEXT, sign_key, "sign-key", "", 0, 0, "Ed25519 private key, in PEM, with which what is saved is signed")
OPTION(TEXT, verify_key, "verify-key", "", 0, 0,
       "Ed25519 public keys, in PEM; set, only what one of them signed is loaded (from disk: with sign-key)")
GROUP("Object storage")
OPTION(TEXT, object_storage, "object-storage", "", 0, 0,
       "where role backup writes, and role traffic reads while upstream is away: s3://bucket/name?region=name or azure://account/container/name")
OPTION(TEXT, object_storage_cacert, "object-storage-cacert", "", 0, 0, "CA of its certificate, in PEM (default: those of the system)")
OPTION(TIME, object_storage_timeout, "object-storage-timeout", "30s", 100, 3600000, "how long one request to it may take; large images may take longer")
OPTION(TIME, export_interval, "export-interval", "10s", 1, INT64_MAX / 2, "least pause between two versions that role backup writes")
OPTION(NUMBER, export_keep, "export-keep", "10", 2, 1000000, "versions that it keeps")
OPTION(TIME, import_interval, "import-interval", "30s", 10, INT64_MAX / 2, "pause between looks of role traffic while upstream is away")
GROUP("Local changes")
OPTION(TEXT, overlay, "overlay", "", 0, 0, "YAML or JSON file of keys that are merged over upstream's; read again when it changes")
OPTION(TEXT, discovery, "discovery", "", 0, 0, "YAML file of service registries: DNS, Consul, Nacos, Eureka")

GROUP("Clients")
OPTION(TEXT, listen_client_urls, "listen-client-urls", "http://localhost:2379", 0, 0,
       "where clients are served, separated by commas; also unix:///path, and https and unixs for TLS; port 0: any free one")
OPTION(TEXT, advertise_client_urls, "advertise-client-urls", "", 0, 0,
       "what clients are told to connect to (default: the listen URLs)")
OPTION(NUMBER, max_concurrent_streams, "max-concurrent-streams", "4294967295", 1, 4294967295,
       "calls and streams at the same time on one connection")
OPTION(TIME, grpc_keepalive_min_time, "grpc-keepalive-min-time", "5s", 0, INT32_MAX,
       "clients that ping more often are disconnected")
OPTION(TIME, grpc_keepalive_interval, "grpc-keepalive-interval", "2h", 0, INT32_MAX,
       "a silent client is pinged after this time; 0: never")
OPTION(TIME, grpc_keepalive_timeout, "grpc-keepalive-timeout", "20s", 1, INT32_MAX,
       "one that does not answer a ping within this time is disconnected")
OPTION(BOOL, socket_reuse_port, "socket-reuse-port", "false", 0, 0,
       "let other processes listen on the same port; the kernel shares connections out")
OPTION(NUMBER, max_txn_ops, "max-txn-ops", "128", 1, 1000000, "operations in one list of a transaction")
OPTION(BYTES, max_request_bytes, "max-request-bytes", "1572864", 1024, 512 << 20, "size of one write request")
OPTION(NUMBER, history_events, "history-events", "100000", 1000, 1000000000,
       "changes that are kept for watches that resume, at most 256 MiB; older ones are compacted away")
OPTION(TIME, watch_progress_notify_interval, "watch-progress-notify-interval", "10m", 100, INT64_MAX / 2,
       "pause between progress notifications of watches that asked for them")
OPTION(TIME, watch_cursor_interval, "watch-cursor-interval", "10s", 0, INT64_MAX / 2,
       "after so much silence a watch through JSON is told the present revision; 0: never")

GROUP("TLS")
OPTION(TEXT, cert_file, "cert-file", "", 0, 0,
       "certificate for clients, in PEM, with those between it and its CA behind it; read again when it changes, as are the other files")
OPTION(TEXT, key_file, "key-file", "", 0, 0, "its key, in PEM")
OPTION(TEXT, trusted_ca_file, "trusted-ca-file", "", 0, 0,
       "CA of the clients, in PEM; set, it makes clients' certificates a must")
OPTION(BOOL, client_cert_auth, "client-cert-auth", "false", 0, 0, "as in etcd; there are no users here, so it only asks for a certificate")
OPTION(TEXT, client_crl_file, "client-crl-file", "", 0, 0, "clients' certificates that were revoked: a CRL in PEM or DER")
OPTION(TEXT, client_cert_allowed_hostname, "client-cert-allowed-hostname", "", 0, 0,
       "host names, separated by commas, one of which a client's certificate must be for")
OPTION(TEXT, client_cert_allowed_cn, "client-cert-allowed-cn", "", 0, 0,
       "common names, separated by commas, one of which a client's certificate must have")
OPTION(BOOL, auto_tls, "auto-tls", "false", 0, 0,
       "without cert-file, make a certificate that is signed by itself, and keep it in the data folder")
OPTION(NUMBER, self_signed_cert_validity, "self-signed-cert-validity", "1", 1, 100, "years that such a certificate is valid")
OPTION(TEXT, cipher_suites, "cipher-suites", "", 0, 0,
       "cipher suites, separated by commas, by IANA's names (default: those with forward secrecy and authenticated encryption)")
OPTION(TEXT, tls_min_version, "tls-min-version", "TLS1.2", 0, 0, "oldest version of TLS: TLS1.2, TLS1.3")
OPTION(TEXT, tls_max_version, "tls-max-version", "", 0, 0, "newest version of TLS (default: the newest there is)")

GROUP("HTTP/1.1")
OPTION(BOOL, enable_grpc_gateway, "enable-grpc-gateway", "true", 0, 0, "serve the API as JSON under /v3/")
OPTION(TEXT, listen_client_http_urls, "listen-client-http-urls", "", 0, 0,
       "where HTTP/1.1 is served; the ports of listen-client-urls speak gRPC only then (default: one port for both)")
OPTION(TEXT, listen_metrics_urls, "listen-metrics-urls", "http://127.0.0.1:7085", 0, 0,
       "ports with /status, /status/ready, /metrics, /health, /livez and /readyz")
OPTION(TEXT, cors, "cors", "*", 0, 0, "origins that browsers may come from, separated by commas; * is all")
OPTION(TEXT, host_whitelist, "host-whitelist", "*", 0, 0,
       "host names by which the agent may be called without TLS, separated by commas; * is all")

GROUP("Logs and metrics")
OPTION(LEVEL, log_level, "log-level", "info", 0, 0, "least level that is logged: debug, info, warn, error")
OPTION(FORMAT, log_format, "log-format", "json", 0, 0, "form of log lines: json, console")
OPTION(TEXT, log_outputs, "log-outputs", "default", 0, 0,
       "where log lines go, separated by commas: stderr (also as \"default\" and \"systemd/journal\"), stdout, or files, which "
       "SIGHUP opens anew")
OPTION(TIME, warning_unary_request_duration, "warning-unary-request-duration", "300ms", 0, INT64_MAX / 2,
       "requests that take longer are logged, with method and size, without keys and values; 0: none")
OPTION(CHOICE, metrics, "metrics", "basic|extensive", 0, 0,
       "what /metrics shows; extensive: also histograms of how long each kind of request took")

GROUP("This program")
OPTION(SWITCH, check_config, "check-config", "", 0, 0, "check flags, variables and configuration file, and end")
OPTION(SWITCH, version, "version", "", 0, 0, "print the version; with --verbose also how it was built")
OPTION(SWITCH, verbose, "verbose", "", 0, 0, "see --version")
OPTION(SWITCH, help, "help", "", 0, 0, "print this text")

#undef GROUP
#undef OPTION
#undef ALIAS
#undef IGNORED
#undef REFUSED
