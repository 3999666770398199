/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every metric, once: the rows from which metrics.h makes the names that code uses and metrics_render.c the text of /metrics.
 *
 * To add one: write a row here (at the end of its group), count it where it happens (metrics.h), and describe it in
 * docs/metrics.md, which a test compares with the output of a running server.
 *
 * M(ID, type, show, labels, more labels, buckets, name, help)
 *	type	COUNTER, GAUGE, HISTOGRAM
 *	show	ALWAYS; USED: only series that were counted or set (as etcd's, which come to life with their first use);
 *		EXTENSIVE: with --metrics=extensive; SAMPLED: only what sources hand in when /metrics is read (ks_metrics_sample)
 *	labels	two of KS_METRIC_LABELS; the series of a row are all combinations, the second label running fastest
 *	buckets	one of KS_METRIC_BUCKETS, NONE but for histograms
 *
 * Labels have few, fixed values: a value that a client can choose would let it fill our memory.
 */
#ifndef KS_BASE_METRICS_TABLE_H
#define KS_BASE_METRICS_TABLE_H

/* clang-format off */

/* L(NAME, values, "text" …): the text is what stands between the braces. METHOD's texts come from ks_metrics_name_methods. */
#define KS_METRIC_LABELS(L) \
	L(NONE, 1, "") \
	L(METHOD, 80, "") \
	L(CODE, 17, "grpc_code=\"OK\"", "grpc_code=\"Canceled\"", "grpc_code=\"Unknown\"", \
	  "grpc_code=\"InvalidArgument\"", "grpc_code=\"DeadlineExceeded\"", "grpc_code=\"NotFound\"", \
	  "grpc_code=\"AlreadyExists\"", "grpc_code=\"PermissionDenied\"", "grpc_code=\"ResourceExhausted\"", \
	  "grpc_code=\"FailedPrecondition\"", "grpc_code=\"Aborted\"", "grpc_code=\"OutOfRange\"", \
	  "grpc_code=\"Unimplemented\"", "grpc_code=\"Internal\"", "grpc_code=\"Unavailable\"", "grpc_code=\"DataLoss\"", \
	  "grpc_code=\"Unauthenticated\"") \
	L(CALL, 2, "type=\"unary\"", "type=\"stream\"") \
	L(CLIENT, 9, "client_api_version=\"unknown\"", "client_api_version=\"3.0\"", "client_api_version=\"3.1\"", \
	  "client_api_version=\"3.2\"", "client_api_version=\"3.3\"", "client_api_version=\"3.4\"", \
	  "client_api_version=\"3.5\"", "client_api_version=\"3.6\"", "client_api_version=\"3.7\"") \
	L(OP, 8, "version=\"v3\",op=\"Put\"", "version=\"v3\",op=\"DeleteRange\"", "version=\"v3\",op=\"Txn\"", \
	  "version=\"v3\",op=\"Compaction\"", "version=\"v3\",op=\"LeaseGrant\"", "version=\"v3\",op=\"LeaseRevoke\"", \
	  "version=\"v3\",op=\"Auth\"", "version=\"v3\",op=\"Alarm\"") \
	L(SUCCESS, 2, "success=\"false\"", "success=\"true\"") \
	L(CHECK, 5, "type=\"livez\",name=\"serializable_read\"", "type=\"readyz\",name=\"data_corruption\"", \
	  "type=\"readyz\",name=\"serializable_read\"", "type=\"readyz\",name=\"linearizable_read\"", \
	  "type=\"readyz\",name=\"non_learner\"") \
	L(CHECK_STATUS, 2, "status=\"success\"", "status=\"error\"") \
	L(OUTCOME, 6, "outcome=\"ok\"", "outcome=\"conflict\"", "outcome=\"doubt\"", "outcome=\"away\"", \
	  "outcome=\"broken\"", "outcome=\"guarded\"") \
	L(ROLE, 5, "role=\"writer\"", "role=\"tail\"", "role=\"reader\"", "role=\"side\"", "role=\"chores\"") \
	L(DB_STATE, 3, "state=\"ok\"", "state=\"away\"", "state=\"broken\"") \
	L(PROOF, 3, "by=\"probe\"", "by=\"append\"", "by=\"exclusive\"") \
	L(LATE, 4, "queue=\"write\"", "queue=\"read\"", "queue=\"value\"", "queue=\"lease\"") \
	L(PROTOCOL, 4, "protocol=\"grpc\"", "protocol=\"http\"", "protocol=\"tls\"", "protocol=\"unknown\"") \
	L(HTTP_STATUS, 5, "status=\"1xx\"", "status=\"2xx\"", "status=\"3xx\"", "status=\"4xx\"", "status=\"5xx\"") \
	L(RESULT, 2, "result=\"ok\"", "result=\"failed\"") \
	L(LOG_LEVEL, 4, "level=\"debug\"", "level=\"info\"", "level=\"warn\"", "level=\"error\"") \
	L(AGENT_SOURCE, 4, "source=\"none\"", "source=\"upstream\"", "source=\"disk\"", "source=\"object-storage\"") \
	L(AGENT_ALARM, 9, "alarm=\"disk_invalid\"", "alarm=\"disk_write\"", "alarm=\"object_invalid\"", \
	  "alarm=\"object_access\"", "alarm=\"held\"", "alarm=\"overlay\"", "alarm=\"discovery\"", \
	  "alarm=\"registration\"", "alarm=\"upstream_tls\"")

/* B(NAME, scale, count, bound …): bounds and observed values are integers; times 'scale' is what /metrics shows. */
#define KS_METRIC_BUCKETS(B) \
	B(MS1, 1e-9, 14, 1000000, 2000000, 4000000, 8000000, 16000000, 32000000, 64000000, 128000000, 256000000, 512000000, \
	  1024000000, 2048000000, 4096000000, 8192000000) \
	B(US100, 1e-9, 20, 100000, 200000, 400000, 800000, 1600000, 3200000, 6400000, 12800000, 25600000, 51200000, \
	  102400000, 204800000, 409600000, 819200000, 1638400000, 3276800000, 6553600000, 13107200000, 26214400000, \
	  52428800000) \
	B(MS10, 1e-9, 15, 10000000, 20000000, 40000000, 80000000, 160000000, 320000000, 640000000, 1280000000, 2560000000, \
	  5120000000, 10240000000, 20480000000, 40960000000, 81920000000, 163840000000) \
	B(MS10_LONG, 1e-9, 17, 10000000, 20000000, 40000000, 80000000, 160000000, 320000000, 640000000, 1280000000, \
	  2560000000, 5120000000, 10240000000, 20480000000, 40960000000, 81920000000, 163840000000, 327680000000, \
	  655360000000) \
	B(MS100, 1e-9, 13, 100000000, 200000000, 400000000, 800000000, 1600000000, 3200000000, 6400000000, 12800000000, \
	  25600000000, 51200000000, 102400000000, 204800000000, 409600000000) \
	B(MS100_SHORT, 1e-9, 10, 100000000, 200000000, 400000000, 800000000, 1600000000, 3200000000, 6400000000, \
	  12800000000, 25600000000, 51200000000) \
	B(IN_MS, 1e-6, 13, 1000000, 2000000, 4000000, 8000000, 16000000, 32000000, 64000000, 128000000, 256000000, \
	  512000000, 1024000000, 2048000000, 4096000000) \
	B(IN_MS_LONG, 1e-6, 14, 100000000, 200000000, 400000000, 800000000, 1600000000, 3200000000, 6400000000, \
	  12800000000, 25600000000, 51200000000, 102400000000, 204800000000, 409600000000, 819200000000) \
	B(IN_MS_HALF, 1e-6, 14, 500000, 1000000, 2000000, 4000000, 8000000, 16000000, 32000000, 64000000, 128000000, \
	  256000000, 512000000, 1024000000, 2048000000, 4096000000) \
	B(TTL, 1, 24, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144, \
	  524288, 1048576, 2097152, 4194304, 8388608) \
	B(HANDLING, 1e-9, 11, 5000000, 10000000, 25000000, 50000000, 100000000, 250000000, 500000000, 1000000000, \
	  2500000000, 5000000000, 10000000000) \
	B(COUNTS, 1, 15, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384) \
	B(SIZES, 1, 9, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216)

#define KS_METRICS(M) \
	/* etcd's names (spec/etcd.md 9.8): what they mean here is in docs/metrics.md. */ \
	M(CLUSTER_VERSION, GAUGE, SAMPLED, NONE, NONE, NONE, "etcd_cluster_version", \
	  "Which version is running. 1 for 'cluster_version' label with current cluster version") \
	M(AUTH_REVISION, GAUGE, ALWAYS, NONE, NONE, NONE, "etcd_debugging_auth_revision", \
	  "The current revision of auth store.") \
	M(COMMIT_REBALANCE, HISTOGRAM, ALWAYS, NONE, NONE, MS1, \
	  "etcd_debugging_disk_backend_commit_rebalance_duration_seconds", "Always empty: there is no B+ tree of ours.") \
	M(COMMIT_SPILL, HISTOGRAM, ALWAYS, NONE, NONE, MS1, "etcd_debugging_disk_backend_commit_spill_duration_seconds", \
	  "Always empty: there is no B+ tree of ours.") \
	M(COMMIT_WRITE, HISTOGRAM, ALWAYS, NONE, NONE, MS1, "etcd_debugging_disk_backend_commit_write_duration_seconds", \
	  "Always empty: the database writes, see kineshim_log_append_duration_seconds.") \
	M(LEASE_GRANTED, COUNTER, ALWAYS, NONE, NONE, NONE, "etcd_debugging_lease_granted_total", \
	  "The total number of granted leases.") \
	M(LEASE_RENEWED, COUNTER, ALWAYS, NONE, NONE, NONE, "etcd_debugging_lease_renewed_total", \
	  "The number of leases renewed through this instance.") \
	M(LEASE_REVOKED, COUNTER, ALWAYS, NONE, NONE, NONE, "etcd_debugging_lease_revoked_total", \
	  "The total number of revoked leases.") \
	M(LEASE_TTL, HISTOGRAM, ALWAYS, NONE, NONE, TTL, "etcd_debugging_lease_ttl_total", \
	  "Bucketed histogram of lease TTLs.") \
	M(COMPACT_REVISION, GAUGE, ALWAYS, NONE, NONE, NONE, "etcd_debugging_mvcc_compact_revision", \
	  "The revision of the last compaction in store.") \
	M(CURRENT_REVISION, GAUGE, ALWAYS, NONE, NONE, NONE, "etcd_debugging_mvcc_current_revision", \
	  "The current revision of store.") \
	M(COMPACTED_KEYS, COUNTER, ALWAYS, NONE, NONE, NONE, "etcd_debugging_mvcc_db_compaction_keys_total", \
	  "Total number of db keys compacted.") \
	M(COMPACTION_LAST, GAUGE, ALWAYS, NONE, NONE, NONE, "etcd_debugging_mvcc_db_compaction_last", \
	  "The unix time of the last db compaction. Resets to 0 on start.") \
	M(COMPACTION_PAUSE, HISTOGRAM, ALWAYS, NONE, NONE, IN_MS, \
	  "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds", \
	  "How long one step of a compaction kept others from the store.") \
	M(COMPACTION_TOTAL, HISTOGRAM, ALWAYS, NONE, NONE, IN_MS_LONG, \
	  "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds", \
	  "Bucketed histogram of db compaction total duration.") \
	M(EVENTS, COUNTER, ALWAYS, NONE, NONE, NONE, "etcd_debugging_mvcc_events_total", \
	  "Total number of events sent by this member.") \
	M(INDEX_COMPACTION_PAUSE, HISTOGRAM, ALWAYS, NONE, NONE, IN_MS_HALF, \
	  "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds", \
	  "Always empty: index and records are compacted in the same steps.") \
	M(KEYS, GAUGE, ALWAYS, NONE, NONE, NONE, "etcd_debugging_mvcc_keys_total", "Total number of keys.") \
	M(PENDING_EVENTS, GAUGE, ALWAYS, NONE, NONE, NONE, "etcd_debugging_mvcc_pending_events_total", \
	  "Total number of watch responses that are queued to be sent.") \
	M(SLOW_WATCHERS, GAUGE, ALWAYS, NONE, NONE, NONE, "etcd_debugging_mvcc_slow_watcher_total", \
	  "Total number of watchers that are behind the current revision.") \
	M(PUT_BYTES, GAUGE, ALWAYS, NONE, NONE, NONE, "etcd_debugging_mvcc_total_put_size_in_bytes", \
	  "The total size of put kv pairs seen by this member.") \
	M(WATCH_STREAMS, GAUGE, ALWAYS, NONE, NONE, NONE, "etcd_debugging_mvcc_watch_stream_total", \
	  "Total number of watch streams.") \
	M(WATCHERS, GAUGE, ALWAYS, NONE, NONE, NONE, "etcd_debugging_mvcc_watcher_total", "Total number of watchers.") \
	M(ALARMS, GAUGE, SAMPLED, NONE, NONE, NONE, "etcd_debugging_server_alarms", \
	  "Alarms for every member in cluster. 1 for 'server_id' label with current ID. 2 for 'alarm_type' label with " \
	  "type of this alarm") \
	M(LEASE_EXPIRED, COUNTER, ALWAYS, NONE, NONE, NONE, "etcd_debugging_server_lease_expired_total", \
	  "The total number of expired leases.") \
	M(SNAP_MARSHALLING, HISTOGRAM, ALWAYS, NONE, NONE, MS1, \
	  "etcd_debugging_snap_save_marshalling_duration_seconds", "Always empty: there are no raft snapshots.") \
	M(SNAP_SAVE, HISTOGRAM, ALWAYS, NONE, NONE, MS1, "etcd_debugging_snap_save_total_duration_seconds", \
	  "Always empty: there are no raft snapshots.") \
	M(V2_EXPIRES, COUNTER, ALWAYS, NONE, NONE, NONE, "etcd_debugging_store_expires_total", \
	  "Always 0: there is no v2 store.") \
	M(V2_WATCH_REQUESTS, COUNTER, ALWAYS, NONE, NONE, NONE, "etcd_debugging_store_watch_requests_total", \
	  "Always 0: there is no v2 store.") \
	M(V2_WATCHERS, GAUGE, ALWAYS, NONE, NONE, NONE, "etcd_debugging_store_watchers", \
	  "Always 0: there is no v2 store.") \
	M(BACKEND_COMMIT, HISTOGRAM, ALWAYS, NONE, NONE, MS1, "etcd_disk_backend_commit_duration_seconds", \
	  "The latency distributions of appends to the log, which are the database's commits.") \
	M(DEFRAG_DURATION, HISTOGRAM, ALWAYS, NONE, NONE, MS100, "etcd_disk_backend_defrag_duration_seconds", \
	  "The latency distribution of backend defragmentation.") \
	M(SNAPSHOT_DURATION, HISTOGRAM, ALWAYS, NONE, NONE, MS10_LONG, "etcd_disk_backend_snapshot_duration_seconds", \
	  "The latency distribution of backend snapshots.") \
	M(DEFRAG_INFLIGHT, GAUGE, ALWAYS, NONE, NONE, NONE, "etcd_disk_defrag_inflight", \
	  "Whether or not defrag is active on the member. 1 means active, 0 means not.") \
	M(WAL_FSYNC, HISTOGRAM, ALWAYS, NONE, NONE, MS1, "etcd_disk_wal_fsync_duration_seconds", \
	  "The latency distributions of appends to the log, which the database makes durable.") \
	M(WAL_BYTES, GAUGE, ALWAYS, NONE, NONE, NONE, "etcd_disk_wal_write_bytes_total", \
	  "Total number of bytes of keys and values appended to the log.") \
	M(WAL_WRITE, HISTOGRAM, ALWAYS, NONE, NONE, MS1, "etcd_disk_wal_write_duration_seconds", \
	  "Always empty: writing and making durable is one statement here.") \
	M(OPEN_READS, GAUGE, ALWAYS, NONE, NONE, NONE, "etcd_mvcc_db_open_read_transactions", \
	  "The number of value reads that wait for the database.") \
	M(DB_SIZE, GAUGE, ALWAYS, NONE, NONE, NONE, "etcd_mvcc_db_total_size_in_bytes", \
	  "Total size of the underlying database physically allocated in bytes.") \
	M(DB_IN_USE, GAUGE, ALWAYS, NONE, NONE, NONE, "etcd_mvcc_db_total_size_in_use_in_bytes", \
	  "Total size of the underlying database logically in use in bytes.") \
	M(DELETES, COUNTER, ALWAYS, NONE, NONE, NONE, "etcd_mvcc_delete_total", \
	  "Total number of deletes seen by this member.") \
	M(HASH_DURATION, HISTOGRAM, ALWAYS, NONE, NONE, MS10, "etcd_mvcc_hash_duration_seconds", \
	  "Always empty: Hash is counted with HashKV.") \
	M(HASH_REV_DURATION, HISTOGRAM, ALWAYS, NONE, NONE, MS10, "etcd_mvcc_hash_rev_duration_seconds", \
	  "The latency distribution of storage hash by revision operation.") \
	M(PUTS, COUNTER, ALWAYS, NONE, NONE, NONE, "etcd_mvcc_put_total", "Total number of puts seen by this member.") \
	M(RANGES, COUNTER, ALWAYS, NONE, NONE, NONE, "etcd_mvcc_range_total", \
	  "Total number of ranges seen by this member.") \
	M(TXNS, COUNTER, ALWAYS, NONE, NONE, NONE, "etcd_mvcc_txn_total", "Total number of txns seen by this member.") \
	M(RECEIVED_BYTES, COUNTER, ALWAYS, NONE, NONE, NONE, "etcd_network_client_grpc_received_bytes_total", \
	  "The total number of bytes received from grpc clients.") \
	M(SENT_BYTES, COUNTER, ALWAYS, NONE, NONE, NONE, "etcd_network_client_grpc_sent_bytes_total", \
	  "The total number of bytes sent to grpc clients.") \
	M(APPLY, HISTOGRAM, USED, OP, SUCCESS, US100, "etcd_server_apply_duration_seconds", \
	  "The latency distributions of evaluating a request.") \
	M(CLIENT_REQUESTS, COUNTER, USED, CALL, CLIENT, NONE, "etcd_server_client_requests_total", \
	  "The total number of client requests per client version.") \
	M(HAS_LEADER, GAUGE, ALWAYS, NONE, NONE, NONE, "etcd_server_has_leader", \
	  "Whether or not a leader exists. 1 is existence, 0 is not.") \
	M(HEALTH_FAILURES, COUNTER, ALWAYS, NONE, NONE, NONE, "etcd_server_health_failures", \
	  "The total number of failed health checks") \
	M(HEALTH_SUCCESS, COUNTER, ALWAYS, NONE, NONE, NONE, "etcd_server_health_success", \
	  "The total number of successful health checks") \
	M(HEALTHCHECK, GAUGE, USED, CHECK, NONE, NONE, "etcd_server_healthcheck", \
	  "The result of each kind of healthcheck.") \
	M(HEALTHCHECKS, COUNTER, USED, CHECK, CHECK_STATUS, NONE, "etcd_server_healthchecks_total", \
	  "The total number of each kind of healthcheck.") \
	M(HEARTBEAT_FAILURES, COUNTER, ALWAYS, NONE, NONE, NONE, "etcd_server_heartbeat_send_failures_total", \
	  "The total number of refreshes of the housekeeper's duty and of the member row that failed.") \
	M(SERVER_ID, GAUGE, SAMPLED, NONE, NONE, NONE, "etcd_server_id", \
	  "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.") \
	M(IS_LEADER, GAUGE, ALWAYS, NONE, NONE, NONE, "etcd_server_is_leader", \
	  "Whether or not this member is a leader. 1 if is, 0 otherwise.") \
	M(IS_LEARNER, GAUGE, ALWAYS, NONE, NONE, NONE, "etcd_server_is_learner", \
	  "Whether or not this member is a learner. 1 if is, 0 otherwise.") \
	M(LEADER_CHANGES, COUNTER, ALWAYS, NONE, NONE, NONE, "etcd_server_leader_changes_seen_total", \
	  "The number of leader changes seen.") \
	M(LEARNER_PROMOTIONS, COUNTER, ALWAYS, NONE, NONE, NONE, "etcd_server_learner_promote_successes", \
	  "Always 0: there are no learners.") \
	M(PROPOSALS_APPLIED, GAUGE, ALWAYS, NONE, NONE, NONE, "etcd_server_proposals_applied_total", \
	  "The position of the log up to which entries are applied.") \
	M(PROPOSALS_COMMITTED, GAUGE, ALWAYS, NONE, NONE, NONE, "etcd_server_proposals_committed_total", \
	  "The newest position of the log that is known.") \
	M(PROPOSALS_FAILED, COUNTER, ALWAYS, NONE, NONE, NONE, "etcd_server_proposals_failed_total", \
	  "The total number of writes that failed because of the database or the server, not of the request.") \
	M(PROPOSALS_PENDING, GAUGE, ALWAYS, NONE, NONE, NONE, "etcd_server_proposals_pending", \
	  "The current number of pending proposals to commit.") \
	M(QUOTA, GAUGE, ALWAYS, NONE, NONE, NONE, "etcd_server_quota_backend_bytes", \
	  "Current backend storage quota size in bytes.") \
	M(RANGE_TIME, HISTOGRAM, USED, SUCCESS, NONE, US100, "etcd_server_range_duration_seconds", \
	  "How long a range took, with the proof that it misses nothing and values that had to be fetched.") \
	M(READ_INDEXES_FAILED, COUNTER, ALWAYS, NONE, NONE, NONE, "etcd_server_read_indexes_failed_total", \
	  "The total number of failed read indexes seen.") \
	M(SLOW_APPLY, COUNTER, ALWAYS, NONE, NONE, NONE, "etcd_server_slow_apply_total", \
	  "The total number of evaluations that took longer than --warning-apply-duration.") \
	M(SLOW_READ_INDEXES, COUNTER, ALWAYS, NONE, NONE, NONE, "etcd_server_slow_read_indexes_total", \
	  "The total number of read proofs that timed out.") \
	M(SNAPSHOT_APPLY, GAUGE, ALWAYS, NONE, NONE, NONE, "etcd_server_snapshot_apply_in_progress_total", \
	  "1 if the server is loading the log. 0 if none.") \
	M(SERVER_VERSION, GAUGE, SAMPLED, NONE, NONE, NONE, "etcd_server_version", \
	  "Which version is running. 1 for 'server_version' label with current version.") \
	M(SNAP_DB_FSYNC, HISTOGRAM, ALWAYS, NONE, NONE, MS1, "etcd_snap_db_fsync_duration_seconds", \
	  "Always empty: there are no raft snapshots.") \
	M(SNAP_DB_SAVE, HISTOGRAM, ALWAYS, NONE, NONE, MS100_SHORT, "etcd_snap_db_save_total_duration_seconds", \
	  "Always empty: there are no raft snapshots.") \
	M(SNAP_FSYNC, HISTOGRAM, ALWAYS, NONE, NONE, MS1, "etcd_snap_fsync_duration_seconds", \
	  "Always empty: there are no raft snapshots.") \
	\
	/* As go-grpc-prometheus. */ \
	M(GRPC_HANDLED, COUNTER, ALWAYS, METHOD, CODE, NONE, "grpc_server_handled_total", \
	  "Total number of RPCs completed on the server, regardless of success or failure.") \
	M(GRPC_HANDLING, HISTOGRAM, EXTENSIVE, METHOD, NONE, HANDLING, "grpc_server_handling_seconds", \
	  "Histogram of response latency (seconds) of gRPC that had been application-level handled by the server.") \
	M(GRPC_RECEIVED, COUNTER, ALWAYS, METHOD, NONE, NONE, "grpc_server_msg_received_total", \
	  "Total number of RPC stream messages received on the server.") \
	M(GRPC_SENT, COUNTER, ALWAYS, METHOD, NONE, NONE, "grpc_server_msg_sent_total", \
	  "Total number of gRPC stream messages sent by the server.") \
	M(GRPC_STARTED, COUNTER, ALWAYS, METHOD, NONE, NONE, "grpc_server_started_total", \
	  "Total number of RPCs started on the server.") \
	\
	/* The database. */ \
	M(BUILD_INFO, GAUGE, SAMPLED, NONE, NONE, NONE, "kineshim_build_info", \
	  "1 for the version of the program, the version of etcd that it shows, and the kind of database.") \
	M(APPENDS, COUNTER, ALWAYS, OUTCOME, NONE, NONE, "kineshim_log_appends_total", \
	  "Appends to the log by outcome.") \
	M(APPENDS_AHEAD, COUNTER, ALWAYS, NONE, NONE, NONE, "kineshim_log_appends_ahead_total", \
	  "Appends that were sent before the one in front of them was answered.") \
	M(APPEND_TIME, HISTOGRAM, ALWAYS, NONE, NONE, US100, "kineshim_log_append_duration_seconds", \
	  "How long an append took that succeeded.") \
	M(APPEND_ENTRIES, HISTOGRAM, ALWAYS, NONE, NONE, COUNTS, "kineshim_log_append_entries", \
	  "Entries in one append: the size of a group commit.") \
	M(APPEND_BYTES, HISTOGRAM, ALWAYS, NONE, NONE, SIZES, "kineshim_log_append_bytes", \
	  "Bytes of keys and values in one append.") \
	M(WRITE_WAIT, HISTOGRAM, ALWAYS, NONE, NONE, US100, "kineshim_log_write_wait_seconds", \
	  "How long the oldest request of a batch had waited when the batch was made.") \
	M(LOG_QUEUE, GAUGE, ALWAYS, NONE, NONE, NONE, "kineshim_log_queue_requests", "Writes that wait for a batch.") \
	M(LOG_QUEUE_BYTES, GAUGE, ALWAYS, NONE, NONE, NONE, "kineshim_log_queue_bytes", \
	  "Size of the writes that wait for a batch.") \
	M(LOG_REFUSED, COUNTER, ALWAYS, NONE, NONE, NONE, "kineshim_log_queue_refused_total", \
	  "Writes refused because the queue was full (too many requests).") \
	M(LOG_LATE, COUNTER, ALWAYS, LATE, NONE, NONE, "kineshim_log_timeouts_total", \
	  "Requests that waited for the database for too long.") \
	M(PROBES, COUNTER, ALWAYS, NONE, NONE, NONE, "kineshim_log_head_probes_total", \
	  "Looks at the head of the log for linearizable reads.") \
	M(PROBE_TIME, HISTOGRAM, ALWAYS, NONE, NONE, US100, "kineshim_log_head_probe_duration_seconds", \
	  "How long a look at the head took.") \
	M(PROBE_READS, HISTOGRAM, ALWAYS, NONE, NONE, COUNTS, "kineshim_log_head_probe_reads", \
	  "Linearizable reads that one look at the head served.") \
	M(PROOFS, COUNTER, ALWAYS, PROOF, NONE, NONE, "kineshim_log_reads_proven_total", \
	  "Linearizable reads by what proved that they miss nothing.") \
	M(FETCHED, COUNTER, ALWAYS, NONE, NONE, NONE, "kineshim_log_values_fetched_total", \
	  "Values read from the database because the cache had let them go.") \
	M(FETCH_TIME, HISTOGRAM, ALWAYS, NONE, NONE, US100, "kineshim_log_value_fetch_duration_seconds", \
	  "How long a query for such values took.") \
	M(LOG_APPLIED, GAUGE, ALWAYS, NONE, NONE, NONE, "kineshim_log_applied_position", \
	  "Position up to which this instance has applied the log.") \
	M(LOG_LAG, GAUGE, ALWAYS, NONE, NONE, NONE, "kineshim_log_tail_lag_positions", \
	  "Positions between the newest one known and the applied one.") \
	M(LOG_LAG_TIME, GAUGE, ALWAYS, NONE, NONE, NONE, "kineshim_log_tail_lag_seconds", \
	  "For how long this instance has been behind a position that it knows.") \
	M(FOREIGN, COUNTER, ALWAYS, NONE, NONE, NONE, "kineshim_log_foreign_entries_total", \
	  "Entries applied that other instances appended.") \
	M(RELOADS, COUNTER, ALWAYS, NONE, NONE, NONE, "kineshim_log_reloads_total", \
	  "How often the log was loaded anew because it had lost its end or was overtaken by a compaction.") \
	M(LOAD_TIME, GAUGE, ALWAYS, NONE, NONE, NONE, "kineshim_log_load_duration_seconds", \
	  "How long the last load of the log took.") \
	M(LOADED, GAUGE, ALWAYS, NONE, NONE, NONE, "kineshim_log_loaded", "1 when the log is loaded.") \
	M(DB_STATES, GAUGE, ALWAYS, ROLE, DB_STATE, NONE, "kineshim_db_connection_state", \
	  "1 for the state that the connection of each thread is in.") \
	M(DB_FAILURES, COUNTER, ALWAYS, ROLE, DB_STATE, NONE, "kineshim_db_failures_total", \
	  "Calls of the database that failed; state ok: the database answers again.") \
	M(DB_CONNECTS, COUNTER, ALWAYS, NONE, NONE, NONE, "kineshim_db_connects_total", \
	  "Connections made to the database, first ones and new ones.") \
	M(TRIMMED, COUNTER, ALWAYS, NONE, NONE, NONE, "kineshim_trim_rows_total", \
	  "Rows that this instance deleted from the log after compactions.") \
	M(TRIM_PENDING, GAUGE, ALWAYS, NONE, NONE, NONE, "kineshim_trim_pending_rows", \
	  "Rows known to be superfluous that wait to be deleted.") \
	M(TRIM_BLOCKED, GAUGE, ALWAYS, NONE, NONE, NONE, "kineshim_trim_blocked_seconds", \
	  "For how long trimming has waited for an instance that is behind.") \
	M(HOUSEKEEPER, GAUGE, ALWAYS, NONE, NONE, NONE, "kineshim_housekeeper", \
	  "1 when this instance is the housekeeper.") \
	M(HOUSEKEEPER_TERM, GAUGE, ALWAYS, NONE, NONE, NONE, "kineshim_housekeeper_term", \
	  "How often the duty changed hands: raft_term.") \
	M(INSTANCES, GAUGE, ALWAYS, NONE, NONE, NONE, "kineshim_instances", "Instances alive on this database.") \
	\
	/* The store. */ \
	M(CACHE_BYTES, GAUGE, ALWAYS, NONE, NONE, NONE, "kineshim_value_cache_bytes", \
	  "Bytes of keys and values in memory.") \
	M(CACHE_LIMIT, GAUGE, ALWAYS, NONE, NONE, NONE, "kineshim_value_cache_limit_bytes", \
	  "The limit of that: --value-cache-bytes.") \
	M(CACHE_HITS, COUNTER, ALWAYS, NONE, NONE, NONE, "kineshim_value_cache_hits_total", \
	  "Values that reads found in memory.") \
	M(CACHE_MISSES, COUNTER, ALWAYS, NONE, NONE, NONE, "kineshim_value_cache_misses_total", \
	  "Values that reads did not find in memory.") \
	M(RECORDS, GAUGE, ALWAYS, NONE, NONE, NONE, "kineshim_store_records", \
	  "Revisions of keys that are kept, tombstones included.") \
	M(LEASES, GAUGE, ALWAYS, NONE, NONE, NONE, "kineshim_store_leases", "Leases that are not revoked.") \
	M(WATCH_GROUPS, GAUGE, ALWAYS, NONE, NONE, NONE, "kineshim_watch_groups", \
	  "Different intervals that are watched.") \
	M(CURSOR_LINES, COUNTER, ALWAYS, NONE, NONE, NONE, "kineshim_watch_cursor_lines_total", \
	  "Lines sent to idle watches of the JSON gateway that only move their revision.") \
	\
	/* The network. */ \
	M(CALLS_OPEN, GAUGE, ALWAYS, CALL, NONE, NONE, "kineshim_rpc_calls_open", "Calls and streams being served.") \
	M(REPLY_BYTES, GAUGE, ALWAYS, NONE, NONE, NONE, "kineshim_rpc_large_reply_bytes", \
	  "Large responses that clients have not taken yet.") \
	M(GATHERED_WRITES, COUNTER, ALWAYS, NONE, NONE, NONE, "kineshim_rpc_gathered_writes_total", \
	  "Answers that waited for others to the same connection.") \
	M(GATHERED_PULLS, COUNTER, ALWAYS, NONE, NONE, NONE, "kineshim_rpc_gathered_pulls_total", \
	  "Times that what had been gathered for a connection was sent.") \
	M(ACCEPTED, COUNTER, ALWAYS, PROTOCOL, NONE, NONE, "kineshim_connections_total", \
	  "Connections accepted, by what their first bytes were.") \
	M(HALF_OPEN, GAUGE, ALWAYS, NONE, NONE, NONE, "kineshim_half_open_connections", \
	  "Connections whose first bytes have not come yet, or whose TLS handshake goes on.") \
	M(HTTP_CONNECTIONS, GAUGE, ALWAYS, NONE, NONE, NONE, "kineshim_http_connections", \
	  "HTTP/1.1 connections open.") \
	M(HTTP_REQUESTS, COUNTER, ALWAYS, HTTP_STATUS, NONE, NONE, "kineshim_http_requests_total", \
	  "HTTP/1.1 requests by class of status.") \
	M(HTTP_STREAMS, GAUGE, ALWAYS, NONE, NONE, NONE, "kineshim_http_streams", "Streaming HTTP responses under way.") \
	M(TLS_CONNECTIONS, GAUGE, ALWAYS, NONE, NONE, NONE, "kineshim_tls_connections", \
	  "TLS connections open, with the handshake behind them.") \
	M(TLS_HANDSHAKES, COUNTER, ALWAYS, RESULT, NONE, NONE, "kineshim_tls_handshakes_total", "TLS handshakes.") \
	M(TLS_RELOADS, COUNTER, ALWAYS, RESULT, NONE, NONE, "kineshim_tls_reloads_total", \
	  "Reloads of certificates, keys and revocation lists.") \
	M(TLS_EXPIRY, GAUGE, USED, NONE, NONE, NONE, "kineshim_tls_certificate_not_after_seconds", \
	  "Unix time at which the server's certificate ends.") \
	M(AUTH_LOGINS, COUNTER, ALWAYS, RESULT, NONE, NONE, "kineshim_auth_logins_total", \
	  "Authenticate calls by result.") \
	M(LOG_LINES, COUNTER, ALWAYS, LOG_LEVEL, NONE, NONE, "kineshim_diagnostics_total", \
	  "Messages written to stderr by level.") \
	\
	/* dpagent's own (dpagent/status/gauges.c); kineshim never sets them. docs/dpagent.md has them. */ \
	M(AGENT_BUILD, GAUGE, SAMPLED, NONE, NONE, NONE, "dpagent_build_info", \
	  "1; version is the agent's.") \
	M(AGENT_READY, GAUGE, USED, NONE, NONE, NONE, "dpagent_ready", \
	  "1 when there is a configuration to serve.") \
	M(AGENT_CONNECTED, GAUGE, USED, NONE, NONE, NONE, "dpagent_connected", \
	  "1 while upstream is watched.") \
	M(AGENT_SOURCE, GAUGE, USED, AGENT_SOURCE, NONE, NONE, "dpagent_source", \
	  "1 for where the present configuration came from.") \
	M(AGENT_AGE, GAUGE, USED, NONE, NONE, NONE, "dpagent_configuration_age_seconds", \
	  "Seconds since upstream last confirmed the configuration that is served.") \
	M(AGENT_REVISION, GAUGE, USED, NONE, NONE, NONE, "dpagent_revision", \
	  "Revision that clients see.") \
	M(AGENT_UP_REVISION, GAUGE, USED, NONE, NONE, NONE, "dpagent_upstream_revision", \
	  "Revision of upstream that is reached.") \
	M(AGENT_OFFSET, GAUGE, USED, NONE, NONE, NONE, "dpagent_revision_offset", \
	  "How far the revision that clients see is ahead of upstream's.") \
	M(AGENT_KEYS, GAUGE, USED, NONE, NONE, NONE, "dpagent_keys", \
	  "Keys that upstream has under the prefix.") \
	M(AGENT_OVERLAID, GAUGE, USED, NONE, NONE, NONE, "dpagent_overlaid_keys", \
	  "Keys that the overlay sets or hides.") \
	M(AGENT_TRANSFORMED, GAUGE, USED, NONE, NONE, NONE, "dpagent_discovered_keys", \
	  "Keys whose nodes come from service discovery.") \
	M(AGENT_ALARM, GAUGE, USED, AGENT_ALARM, NONE, NONE, "dpagent_alarm", \
	  "1 for a condition that somebody must see to.") \
	M(AGENT_REGISTERED, GAUGE, USED, NONE, NONE, NONE, "dpagent_registered", \
	  "1 while this node is shown upstream.") \
	M(AGENT_RECONNECTS, COUNTER, SAMPLED, NONE, NONE, NONE, "dpagent_reconnects_total", \
	  "Times that upstream was lost and found again.") \
	M(AGENT_RESYNCS, COUNTER, SAMPLED, NONE, NONE, NONE, "dpagent_resyncs_total", \
	  "Full listings of upstream.") \
	M(AGENT_VERIFICATIONS, COUNTER, SAMPLED, NONE, NONE, NONE, "dpagent_verifications_total", \
	  "Comparisons of all keys with upstream's.") \
	M(AGENT_REPAIRS, COUNTER, SAMPLED, NONE, NONE, NONE, "dpagent_repairs_total", \
	  "Differences that a comparison found and mended.") \
	M(AGENT_DISK_WRITES, COUNTER, SAMPLED, NONE, NONE, NONE, "dpagent_snapshot_writes_total", \
	  "Images written to disk.") \
	M(AGENT_DISK_FAILURES, COUNTER, SAMPLED, NONE, NONE, NONE, "dpagent_snapshot_failures_total", \
	  "Images that could not be written.") \
	M(AGENT_DISK_REVISION, GAUGE, USED, NONE, NONE, NONE, "dpagent_snapshot_revision", \
	  "Revision of the last image on disk.") \
	M(AGENT_DISK_SAVED, GAUGE, USED, NONE, NONE, NONE, "dpagent_snapshot_saved_seconds", \
	  "Unix time at which it was written.") \
	M(AGENT_DISK_BYTES, GAUGE, USED, NONE, NONE, NONE, "dpagent_snapshot_bytes", \
	  "Its size.") \
	M(AGENT_OBJECT_WRITES, COUNTER, SAMPLED, NONE, NONE, NONE, "dpagent_object_writes_total", \
	  "Objects written to object storage.") \
	M(AGENT_OBJECT_READS, COUNTER, SAMPLED, NONE, NONE, NONE, "dpagent_object_reads_total", \
	  "Objects read from object storage.") \
	M(AGENT_OBJECT_FAILURES, COUNTER, SAMPLED, NONE, NONE, NONE, "dpagent_object_failures_total", \
	  "Requests to object storage that failed.") \
	M(AGENT_OBJECT_FENCED, COUNTER, SAMPLED, NONE, NONE, NONE, "dpagent_object_fenced_total", \
	  "Exports that another backup node was faster with.") \
	M(AGENT_OBJECT_REVISION, GAUGE, USED, NONE, NONE, NONE, "dpagent_object_revision", \
	  "Upstream revision of the last object.") \
	M(AGENT_OBJECT_SAVED, GAUGE, USED, NONE, NONE, NONE, "dpagent_object_saved_seconds", \
	  "Unix time at which it was written.") \
	M(AGENT_OBJECT_BYTES, GAUGE, USED, NONE, NONE, NONE, "dpagent_object_bytes", \
	  "Its size.") \
	M(AGENT_DISCOVERY_SERVICES, GAUGE, USED, NONE, NONE, NONE, "dpagent_discovery_services", \
	  "Services that upstream objects name.") \
	M(AGENT_DISCOVERY_FAILURES, COUNTER, SAMPLED, NONE, NONE, NONE, "dpagent_discovery_failures_total", \
	  "Questions that a registry did not answer.") \
	M(AGENT_FORWARDED, COUNTER, SAMPLED, NONE, NONE, NONE, "dpagent_forwarded_total", \
	  "Writes of clients that were passed upstream.") \
	M(AGENT_FORWARD_FAILURES, COUNTER, SAMPLED, NONE, NONE, NONE, "dpagent_forward_failures_total", \
	  "Writes that upstream refused or did not answer.") \
	\
	/* The process, as client_golang and etcd. */ \
	M(FD_LIMIT, GAUGE, ALWAYS, NONE, NONE, NONE, "os_fd_limit", "The file descriptor limit.") \
	M(FD_USED, GAUGE, ALWAYS, NONE, NONE, NONE, "os_fd_used", "The number of used file descriptors.") \
	M(CPU_SECONDS, COUNTER, SAMPLED, NONE, NONE, NONE, "process_cpu_seconds_total", \
	  "Total user and system CPU time spent in seconds.") \
	M(MAX_FDS, GAUGE, ALWAYS, NONE, NONE, NONE, "process_max_fds", "Maximum number of open file descriptors.") \
	M(OPEN_FDS, GAUGE, ALWAYS, NONE, NONE, NONE, "process_open_fds", "Number of open file descriptors.") \
	M(RESIDENT, GAUGE, ALWAYS, NONE, NONE, NONE, "process_resident_memory_bytes", "Resident memory size in bytes.") \
	M(START_TIME, GAUGE, ALWAYS, NONE, NONE, NONE, "process_start_time_seconds", \
	  "Start time of the process since unix epoch in seconds.") \
	M(VIRTUAL, GAUGE, ALWAYS, NONE, NONE, NONE, "process_virtual_memory_bytes", "Virtual memory size in bytes.") \
	M(VIRTUAL_MAX, GAUGE, ALWAYS, NONE, NONE, NONE, "process_virtual_memory_max_bytes", \
	  "Maximum amount of virtual memory available in bytes.") \
	M(THREADS, GAUGE, ALWAYS, NONE, NONE, NONE, "process_threads", "Number of threads of the process.")

/* clang-format on */

#endif
