/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every flag, one row each; included several times with its five macros defined as needed (so it has no include guard). From it come
 * struct ks_options, the parser, the names in the environment and in the configuration file, --help and shell completion.
 *
 *	GROUP(title)                                              the rows below, in --help
 *	OPTION(kind, member, flag, initial, least, most, help)    it works; 'help' is cut into lines by --help
 *	ALIAS(flag, of)                                           an older name
 *	IGNORED(kind, flag, why)                                  accepted, checked, without effect; said on the log at start
 *	REFUSED(kind, flag, harmless, advice)                     an error unless it is set to the harmless value
 *
 * Kinds: TEXT; CHOICE ('initial' names all, the default first: "new|existing"); NUMBER; BYTES (64MiB, 512k); TIME (10m, 1.5h; in
 * ms); BOOL (--x, --x=false); LEVEL and FORMAT (of the log); SWITCH (a BOOL of the command line only).
 *
 * A new flag also needs an entry in docs/kineshim.8, docs/configuration.md and etc/kineshim.yml (build-aux/check-options).
 */
/* clang-format off */

#define WHY_RAFT "there is no raft; instances meet in the database"
#define WHY_PEERS "instances do not talk to each other, only to the database"
#define WHY_STORAGE "the database has its own storage"
#define WHY_CHECKS "the database checks its pages, HashKV compares instances"
#define WHY_TRACING "there is no tracing"
#define WHY_V2 "only the v3 API is served"

GROUP("Database and name")
OPTION(TEXT, endpoint, "endpoint", "sqlite://", 0, 0,
       "database: sqlite:// (a file in the data folder), sqlite:///path.db, postgres://user:password@host/database, "
       "mysql://user:password@tcp(host:3306)/database; ${NAME} in it is replaced by that environment variable")
OPTION(TEXT, endpoint_file, "endpoint-file", "", 0, 0,
       "file whose first line is the endpoint, so that a password stands on no command line")
OPTION(TEXT, data_dir, "data-dir", "kineshim.data", 0, 0, "folder for the SQLite file")
OPTION(TEXT, name, "name", "default", 0, 0, "name of this instance in the member list")
OPTION(TEXT, config_file, "config-file", "", 0, 0,
       "YAML or JSON file with flags as keys; as with etcd, all other flags and variables are ignored then")

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

GROUP("TLS")
OPTION(TEXT, cert_file, "cert-file", "", 0, 0,
       "certificate of the server, in PEM, with those between it and its CA behind it; read again when it changes, as are the other files")
OPTION(TEXT, key_file, "key-file", "", 0, 0, "its key, in PEM")
OPTION(TEXT, trusted_ca_file, "trusted-ca-file", "", 0, 0,
       "CA of the clients, in PEM; set, it makes clients' certificates a must")
OPTION(BOOL, client_cert_auth, "client-cert-auth", "false", 0, 0,
       "take the common name of a client's certificate as its user name when it brings no token")
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

GROUP("Users and roles")
OPTION(TEXT, auth_token, "auth-token", "simple", 0, 0,
       "kind of tokens: simple, or jwt,sign-method=RS256,priv-key=FILE,pub-key=FILE,ttl=5m (HS, RS, PS, ES with 256, 384 or 512; "
       "EdDSA)")
OPTION(NUMBER, auth_token_ttl, "auth-token-ttl", "300", 1, INT32_MAX, "seconds after its last use that a simple token lives")
OPTION(NUMBER, bcrypt_cost, "bcrypt-cost", "10", 0, UINT32_MAX, "work that a password hash costs, 4 to 31; others mean 10")

GROUP("HTTP/1.1")
OPTION(BOOL, enable_grpc_gateway, "enable-grpc-gateway", "true", 0, 0, "serve the API as JSON under /v3/")
OPTION(TEXT, listen_client_http_urls, "listen-client-http-urls", "", 0, 0,
       "where HTTP/1.1 is served; the ports of listen-client-urls speak gRPC only then (default: one port for both)")
OPTION(TEXT, listen_metrics_urls, "listen-metrics-urls", "", 0, 0,
       "more ports with nothing but /metrics, /health, /livez and /readyz")
OPTION(TEXT, cors, "cors", "*", 0, 0, "origins that browsers may come from, separated by commas; * is all")
OPTION(TEXT, host_whitelist, "host-whitelist", "*", 0, 0,
       "host names by which the server may be called without TLS, separated by commas; * is all")

GROUP("Limits")
OPTION(NUMBER, max_txn_ops, "max-txn-ops", "128", 1, 1000000, "operations in one list of a transaction")
OPTION(BYTES, max_request_bytes, "max-request-bytes", "1572864", 1024, 512 << 20, "size of one write request")
OPTION(TEXT, quota_backend_bytes, "quota-backend-bytes", "0", 0, 0,
       "size of the tables (or the file) at which writes are refused until somebody makes room; 0: 2 GiB, negative: no limit")
OPTION(BYTES, value_cache_bytes, "value-cache-bytes", "256MiB", 0, INT64_MAX,
       "values kept in memory; others are read from the database when they are needed")

GROUP("Compaction and watches")
OPTION(CHOICE, auto_compaction_mode, "auto-compaction-mode", "periodic|revision", 0, 0,
       "what auto-compaction-retention counts: time, or revisions")
OPTION(TEXT, auto_compaction_retention, "auto-compaction-retention", "0", 0, 0,
       "history that is kept: hours (24) or a duration (30m), or with revision mode a number of revisions; older history is removed by "
       "itself; 0: never")
OPTION(TIME, watch_progress_notify_interval, "watch-progress-notify-interval", "10m", 100, INT64_MAX / 2,
       "pause between progress notifications of watches that asked for them")
ALIAS("experimental-watch-progress-notify-interval", "watch-progress-notify-interval")
OPTION(TIME, watch_cursor_interval, "watch-cursor-interval", "10s", 0, INT64_MAX / 2,
       "after so much silence a watch through JSON is told the present revision, so that its client never resumes from a compacted one; "
       "0: never")

GROUP("Logs and metrics")
OPTION(LEVEL, log_level, "log-level", "info", 0, 0, "least level that is logged: debug, info, warn, error")
OPTION(FORMAT, log_format, "log-format", "json", 0, 0, "form of log lines: json, console")

OPTION(TEXT, log_outputs, "log-outputs", "default", 0, 0,
       "where log lines go, separated by commas: stderr (also as \"default\" and \"systemd/journal\"), stdout, or files, which "
       "SIGHUP opens anew")
OPTION(TIME, warning_unary_request_duration, "warning-unary-request-duration", "300ms", 0, INT64_MAX / 2,
       "requests that take longer are logged, with method and size, without keys and values; 0: none")
ALIAS("experimental-warning-unary-request-duration", "warning-unary-request-duration")
OPTION(CHOICE, metrics, "metrics", "basic|extensive", 0, 0,
       "what /metrics shows; extensive: also histograms of how long each kind of request took")

GROUP("Compatibility with etcd")
OPTION(NUMBER, heartbeat_interval, "heartbeat-interval", "100", 1, 50000,
       "milliseconds; there are no heartbeats, but it rounds the least TTL of a lease, as in etcd")
OPTION(NUMBER, election_timeout, "election-timeout", "1000", 5, 50000,
       "milliseconds; instances do not elect, but after 5 of it without a sign another one is the leader, and after 10 it is no member "
       "any more; the least TTL of a lease is one and a half, and a request waits for the database for 5 s and two of it, as in etcd")
OPTION(TEXT, initial_cluster, "initial-cluster", "", 0, 0,
       "ignored, but refused when it names several members and the endpoint is SQLite: they would not share their data")

GROUP("This program")
OPTION(SWITCH, check_config, "check-config", "", 0, 0, "check flags, variables and configuration file, and end")
OPTION(SWITCH, version, "version", "", 0, 0, "print the version; with --verbose also how it was built")
OPTION(SWITCH, verbose, "verbose", "", 0, 0, "see --version")
OPTION(SWITCH, help, "help", "", 0, 0, "print this text")

/* ---- accepted without effect ---- */

IGNORED(TEXT, "listen-peer-urls", WHY_PEERS)
IGNORED(TEXT, "initial-advertise-peer-urls", WHY_PEERS)
IGNORED(TEXT, "initial-cluster-state", WHY_PEERS)
IGNORED(TEXT, "initial-cluster-token", WHY_PEERS)
IGNORED(BOOL, "strict-reconfig-check", WHY_PEERS)
IGNORED(NUMBER, "max-learners", WHY_PEERS)
IGNORED(NUMBER, "experimental-max-learners", WHY_PEERS)
IGNORED(TEXT, "discovery", WHY_PEERS)
IGNORED(TEXT, "discovery-token", WHY_PEERS)
IGNORED(TEXT, "discovery-endpoints", WHY_PEERS)
IGNORED(TEXT, "discovery-fallback", WHY_PEERS)
IGNORED(TEXT, "discovery-proxy", WHY_PEERS)
IGNORED(TEXT, "discovery-srv", WHY_PEERS)
IGNORED(TEXT, "discovery-srv-name", WHY_PEERS)
IGNORED(TIME, "discovery-dial-timeout", WHY_PEERS)
IGNORED(TIME, "discovery-request-timeout", WHY_PEERS)
IGNORED(TIME, "discovery-keepalive-time", WHY_PEERS)
IGNORED(TIME, "discovery-keepalive-timeout", WHY_PEERS)
IGNORED(BOOL, "discovery-insecure-transport", WHY_PEERS)
IGNORED(BOOL, "discovery-insecure-skip-tls-verify", WHY_PEERS)
IGNORED(TEXT, "discovery-cert", WHY_PEERS)
IGNORED(TEXT, "discovery-key", WHY_PEERS)
IGNORED(TEXT, "discovery-cacert", WHY_PEERS)
IGNORED(TEXT, "discovery-user", WHY_PEERS)
IGNORED(TEXT, "discovery-password", WHY_PEERS)
IGNORED(TEXT, "client-cert-file", WHY_PEERS)
IGNORED(TEXT, "client-key-file", WHY_PEERS)
IGNORED(TEXT, "peer-cert-file", WHY_PEERS)
IGNORED(TEXT, "peer-key-file", WHY_PEERS)
IGNORED(TEXT, "peer-client-cert-file", WHY_PEERS)
IGNORED(TEXT, "peer-client-key-file", WHY_PEERS)
IGNORED(TEXT, "peer-trusted-ca-file", WHY_PEERS)
IGNORED(BOOL, "peer-client-cert-auth", WHY_PEERS)
IGNORED(TEXT, "peer-cert-allowed-cn", WHY_PEERS)
IGNORED(TEXT, "peer-cert-allowed-hostname", WHY_PEERS)
IGNORED(BOOL, "peer-auto-tls", WHY_PEERS)
IGNORED(TEXT, "peer-crl-file", WHY_PEERS)
IGNORED(BOOL, "peer-skip-client-san-verification", WHY_PEERS)
IGNORED(BOOL, "experimental-peer-skip-client-san-verification", WHY_PEERS)
IGNORED(BOOL, "set-member-localaddr", WHY_PEERS)
IGNORED(BOOL, "experimental-set-member-localaddr", WHY_PEERS)

IGNORED(BOOL, "pre-vote", WHY_RAFT)
IGNORED(BOOL, "initial-election-tick-advance", WHY_RAFT)
IGNORED(TIME, "raft-read-timeout", WHY_RAFT)
IGNORED(TIME, "raft-write-timeout", WHY_RAFT)
IGNORED(NUMBER, "snapshot-count", WHY_RAFT)
IGNORED(NUMBER, "snapshot-catchup-entries", WHY_RAFT)
IGNORED(NUMBER, "experimental-snapshot-catchup-entries", WHY_RAFT)

IGNORED(TEXT, "wal-dir", WHY_STORAGE)
IGNORED(NUMBER, "max-wals", WHY_STORAGE)
IGNORED(NUMBER, "max-snapshots", WHY_STORAGE)
IGNORED(TIME, "backend-batch-interval", WHY_STORAGE)
IGNORED(NUMBER, "backend-batch-limit", WHY_STORAGE)
IGNORED(TEXT, "backend-bbolt-freelist-type", WHY_STORAGE)
IGNORED(TEXT, "experimental-backend-bbolt-freelist-type", WHY_STORAGE)
IGNORED(BOOL, "unsafe-no-fsync", WHY_STORAGE)
IGNORED(BOOL, "memory-mlock", WHY_STORAGE)
IGNORED(BOOL, "experimental-memory-mlock", WHY_STORAGE)
IGNORED(NUMBER, "bootstrap-defrag-threshold-megabytes", WHY_STORAGE)
IGNORED(NUMBER, "experimental-bootstrap-defrag-threshold-megabytes", WHY_STORAGE)
IGNORED(BOOL, "experimental-stop-grpc-service-on-defrag", WHY_STORAGE)
IGNORED(NUMBER, "compaction-batch-limit", WHY_STORAGE)
IGNORED(NUMBER, "experimental-compaction-batch-limit", WHY_STORAGE)
IGNORED(TIME, "compaction-sleep-interval", WHY_STORAGE)
IGNORED(TIME, "experimental-compaction-sleep-interval", WHY_STORAGE)
IGNORED(BOOL, "experimental-txn-mode-write-with-shared-buffer", WHY_STORAGE)
IGNORED(BOOL, "experimental-enable-lease-checkpoint", "lease deadlines are always kept in the database")
IGNORED(BOOL, "experimental-enable-lease-checkpoint-persist", "lease deadlines are always kept in the database")

IGNORED(BOOL, "experimental-initial-corrupt-check", WHY_CHECKS)
IGNORED(TIME, "corrupt-check-time", WHY_CHECKS)
IGNORED(TIME, "experimental-corrupt-check-time", WHY_CHECKS)
IGNORED(BOOL, "experimental-compact-hash-check-enabled", WHY_CHECKS)
IGNORED(TIME, "compact-hash-check-time", WHY_CHECKS)
IGNORED(TIME, "experimental-compact-hash-check-time", WHY_CHECKS)
IGNORED(TIME, "downgrade-check-time", "all instances read the same log")
IGNORED(TIME, "experimental-downgrade-check-time", "all instances read the same log")
IGNORED(TEXT, "feature-gates", "no gate has a counterpart here")

IGNORED(BOOL, "enable-distributed-tracing", WHY_TRACING)
IGNORED(TEXT, "distributed-tracing-address", WHY_TRACING)
IGNORED(TEXT, "distributed-tracing-service-name", WHY_TRACING)
IGNORED(TEXT, "distributed-tracing-instance-id", WHY_TRACING)
IGNORED(NUMBER, "distributed-tracing-sampling-rate", WHY_TRACING)
IGNORED(BOOL, "experimental-enable-distributed-tracing", WHY_TRACING)
IGNORED(TEXT, "experimental-distributed-tracing-address", WHY_TRACING)
IGNORED(TEXT, "experimental-distributed-tracing-service-name", WHY_TRACING)
IGNORED(TEXT, "experimental-distributed-tracing-instance-id", WHY_TRACING)
IGNORED(NUMBER, "experimental-distributed-tracing-sampling-rate", WHY_TRACING)

IGNORED(BOOL, "enable-v2", WHY_V2)
IGNORED(TEXT, "experimental-enable-v2v3", WHY_V2)
IGNORED(TEXT, "v2-deprecation", WHY_V2)
IGNORED(NUMBER, "proxy-failure-wait", WHY_V2)
IGNORED(NUMBER, "proxy-refresh-interval", WHY_V2)
IGNORED(NUMBER, "proxy-dial-timeout", WHY_V2)
IGNORED(NUMBER, "proxy-write-timeout", WHY_V2)
IGNORED(NUMBER, "proxy-read-timeout", WHY_V2)

IGNORED(BOOL, "enable-pprof", "this is no Go program; use perf(1)")
IGNORED(TEXT, "logger", "there is one logger")
IGNORED(BOOL, "enable-log-rotation", "logrotate(8) rotates log files, then sends SIGHUP")
IGNORED(TEXT, "log-rotation-config-json", "logrotate(8) rotates log files, then sends SIGHUP")
IGNORED(TIME, "warning-apply-duration", "see warning-unary-request-duration, and the metrics of appends")
IGNORED(TIME, "experimental-warning-apply-duration", "see warning-unary-request-duration, and the metrics of appends")
IGNORED(BOOL, "socket-reuse-address", "always so")
IGNORED(BOOL, "debug", "use --log-level=debug")
IGNORED(TEXT, "log-package-levels", "use --log-level")

/* ---- refused ---- */

REFUSED(TEXT, "proxy", "off", "kineshim is no proxy: point the clients at the server itself")
REFUSED(BOOL, "force-new-cluster", "false", "there are no peers to forget; an etcd's data come over with `kineshim restore`")

#undef WHY_RAFT
#undef WHY_PEERS
#undef WHY_STORAGE
#undef WHY_CHECKS
#undef WHY_TRACING
#undef WHY_V2
#undef GROUP
#undef OPTION
#undef ALIAS
#undef IGNORED
#undef REFUSED
