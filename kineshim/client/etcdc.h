/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libetcdc: a client for the etcd v3 API.
 *
 * What: a client holds one connection to each of its endpoints and uses one of them until that fails, then the next. It
 * offers unary calls (blocking and asynchronous), plain streams, watches that resume by themselves, and lease keep-alive.
 * Requests and responses are the protobuf-c structs of proto/rpc.proto.
 *
 * Fail-over: an attempt that ends with UNAVAILABLE moves the client to its next endpoint. Calls that only read are tried
 * again until their deadline. A call that writes is tried again only as long as it provably never reached a connection;
 * once it may have been sent, its failure is final, and the caller alone can find out what became of it (struct etcdc_err's
 * 'sent'). Between attempts that went round all endpoints there is a back-off with jitter.
 *
 * Threads: each client has one thread of its own, the client's thread. All call-backs run there, one at a time, with no lock
 * held; they must not block, and may call everything in this header except the blocking functions, which say so below.
 * Everything else may be called from any thread.
 *
 * Owner: requests are borrowed for the call. A response handed out through a ** is the caller's, to be given to etcdc_free.
 * What a call-back gets is valid until it returns. Close watches, keep-alives and streams before their client.
 *
 * Errors: enum ks_status (gRPC's codes) with the server's own text in struct etcdc_err, which may be NULL everywhere.
 */
#ifndef ETCDC_H
#define ETCDC_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/status.h"
#include "proto/rpc.pb-c.h"

struct etcdc;

struct etcdc_err {
	enum ks_status status;
	/* The request may have reached a server. False proves that it was never sent, so that it had no effect. */
	bool sent;
	char text[KS_ERR_TEXT_MAX];
};

/* ---- The client ---- */

struct etcdc_config {
	const char *const *endpoints; /* "host:port", "http://host:port", "https://host:port", "unix:///path"; copied */
	size_t endpoint_count;
	int64_t timeout_ms;         /* of calls that give none; 0: 10 s */
	int64_t connect_timeout_ms; /* after which an endpoint that does not answer counts as failed; 0: 3 s */
	int64_t keepalive_ms; /* HTTP/2 pings while a call is open; 0: 30 s; etcd refuses less than 5 s; < 0: none */
	bool require_leader;  /* streams ask the server to end them when there is no leader */
	/*
	 * NULL: none. With a user the client fetches a token by itself when a server asks for one, and again when it has ended; calls,
	 * watches and keep-alives go on. Plain streams take the token that there is. Copied.
	 */
	const char *user, *password;
	/*
	 * TLS of endpoints that begin with https://, as PEM texts; copied. Without roots: those of the system. A certificate and its
	 * key go together; without them the client shows none.
	 */
	const char *tls_roots, *tls_cert, *tls_key;
};

/* Connects lazily: an endpoint that cannot be reached shows in the first call. NULL on bad configuration. */
struct etcdc *etcdc_open(const struct etcdc_config *config, struct etcdc_err *err);
/* One endpoint, or several separated by commas; defaults for the rest. */
struct etcdc *etcdc_open_url(const char *endpoints, struct etcdc_err *err);
/* Blocking. Cancels calls in flight (their call-backs run, with CANCELLED) and waits for them. NULL is fine. */
void etcdc_close(struct etcdc *client);
/* The token that Authenticate gave, sent with all later calls and streams; NULL: none. Copied. */
void etcdc_set_token(struct etcdc *client, const char *token);
/* The endpoint in use at this moment, as given in the configuration; valid as long as the client. */
const char *etcdc_endpoint(struct etcdc *client);

/* ---- Methods ---- */

/* One RPC: made of static data, so tests can describe methods that no server has. */
struct etcdc_method {
	const char *path; /* "/etcdserverpb.KV/Range" */
	const ProtobufCMessageDescriptor *request;
	const ProtobufCMessageDescriptor *response;
	bool repeatable; /* may be sent twice: it only reads, or its effect is the same */
};

/*
 * X(function, MethodName, Service, request type, request_descriptor, response type, response_descriptor, repeatable).
 * Repeatable is what clientv3 repeats: reads, and what sets a state that is the same when set twice.
 */
#define ETCDC_UNARY_METHODS(X)                                                                                         \
	X(range, Range, KV, RangeRequest, range_request, RangeResponse, range_response, true)                          \
	X(put, Put, KV, PutRequest, put_request, PutResponse, put_response, false)                                     \
	X(delete_range, DeleteRange, KV, DeleteRangeRequest, delete_range_request, DeleteRangeResponse,                \
	  delete_range_response, false)                                                                                \
	X(txn, Txn, KV, TxnRequest, txn_request, TxnResponse, txn_response, false)                                     \
	X(compact, Compact, KV, CompactionRequest, compaction_request, CompactionResponse, compaction_response, false) \
	X(lease_grant, LeaseGrant, Lease, LeaseGrantRequest, lease_grant_request, LeaseGrantResponse,                  \
	  lease_grant_response, true)                                                                                  \
	X(lease_revoke, LeaseRevoke, Lease, LeaseRevokeRequest, lease_revoke_request, LeaseRevokeResponse,             \
	  lease_revoke_response, true)                                                                                 \
	X(lease_time_to_live, LeaseTimeToLive, Lease, LeaseTimeToLiveRequest, lease_time_to_live_request,              \
	  LeaseTimeToLiveResponse, lease_time_to_live_response, true)                                                  \
	X(lease_leases, LeaseLeases, Lease, LeaseLeasesRequest, lease_leases_request, LeaseLeasesResponse,             \
	  lease_leases_response, true)                                                                                 \
	X(member_list, MemberList, Cluster, MemberListRequest, member_list_request, MemberListResponse,                \
	  member_list_response, true)                                                                                  \
	X(member_add, MemberAdd, Cluster, MemberAddRequest, member_add_request, MemberAddResponse,                     \
	  member_add_response, false)                                                                                  \
	X(member_remove, MemberRemove, Cluster, MemberRemoveRequest, member_remove_request, MemberRemoveResponse,      \
	  member_remove_response, false)                                                                               \
	X(member_update, MemberUpdate, Cluster, MemberUpdateRequest, member_update_request, MemberUpdateResponse,      \
	  member_update_response, false)                                                                               \
	X(member_promote, MemberPromote, Cluster, MemberPromoteRequest, member_promote_request, MemberPromoteResponse, \
	  member_promote_response, false)                                                                              \
	X(alarm, Alarm, Maintenance, AlarmRequest, alarm_request, AlarmResponse, alarm_response, false)                \
	X(status, Status, Maintenance, StatusRequest, status_request, StatusResponse, status_response, true)           \
	X(defragment, Defragment, Maintenance, DefragmentRequest, defragment_request, DefragmentResponse,              \
	  defragment_response, false)                                                                                  \
	X(hash, Hash, Maintenance, HashRequest, hash_request, HashResponse, hash_response, true)                       \
	X(hash_kv, HashKV, Maintenance, HashKVRequest, hash_kvrequest, HashKVResponse, hash_kvresponse, true)          \
	X(move_leader, MoveLeader, Maintenance, MoveLeaderRequest, move_leader_request, MoveLeaderResponse,            \
	  move_leader_response, true)                                                                                  \
	X(downgrade, Downgrade, Maintenance, DowngradeRequest, downgrade_request, DowngradeResponse,                   \
	  downgrade_response, false)                                                                                   \
	X(authenticate, Authenticate, Auth, AuthenticateRequest, authenticate_request, AuthenticateResponse,           \
	  authenticate_response, true)                                                                                 \
	X(auth_enable, AuthEnable, Auth, AuthEnableRequest, auth_enable_request, AuthEnableResponse,                   \
	  auth_enable_response, false)                                                                                 \
	X(auth_disable, AuthDisable, Auth, AuthDisableRequest, auth_disable_request, AuthDisableResponse,              \
	  auth_disable_response, false)                                                                                \
	X(auth_status, AuthStatus, Auth, AuthStatusRequest, auth_status_request, AuthStatusResponse,                   \
	  auth_status_response, true)                                                                                  \
	X(user_add, UserAdd, Auth, AuthUserAddRequest, auth_user_add_request, AuthUserAddResponse,                     \
	  auth_user_add_response, false)                                                                               \
	X(user_get, UserGet, Auth, AuthUserGetRequest, auth_user_get_request, AuthUserGetResponse,                     \
	  auth_user_get_response, true)                                                                                \
	X(user_list, UserList, Auth, AuthUserListRequest, auth_user_list_request, AuthUserListResponse,                \
	  auth_user_list_response, true)                                                                               \
	X(user_delete, UserDelete, Auth, AuthUserDeleteRequest, auth_user_delete_request, AuthUserDeleteResponse,      \
	  auth_user_delete_response, false)                                                                            \
	X(user_change_password, UserChangePassword, Auth, AuthUserChangePasswordRequest,                               \
	  auth_user_change_password_request, AuthUserChangePasswordResponse, auth_user_change_password_response,       \
	  false)                                                                                                       \
	X(user_grant_role, UserGrantRole, Auth, AuthUserGrantRoleRequest, auth_user_grant_role_request,                \
	  AuthUserGrantRoleResponse, auth_user_grant_role_response, false)                                             \
	X(user_revoke_role, UserRevokeRole, Auth, AuthUserRevokeRoleRequest, auth_user_revoke_role_request,            \
	  AuthUserRevokeRoleResponse, auth_user_revoke_role_response, false)                                           \
	X(role_add, RoleAdd, Auth, AuthRoleAddRequest, auth_role_add_request, AuthRoleAddResponse,                     \
	  auth_role_add_response, false)                                                                               \
	X(role_get, RoleGet, Auth, AuthRoleGetRequest, auth_role_get_request, AuthRoleGetResponse,                     \
	  auth_role_get_response, true)                                                                                \
	X(role_list, RoleList, Auth, AuthRoleListRequest, auth_role_list_request, AuthRoleListResponse,                \
	  auth_role_list_response, true)                                                                               \
	X(role_delete, RoleDelete, Auth, AuthRoleDeleteRequest, auth_role_delete_request, AuthRoleDeleteResponse,      \
	  auth_role_delete_response, false)                                                                            \
	X(role_grant_permission, RoleGrantPermission, Auth, AuthRoleGrantPermissionRequest,                            \
	  auth_role_grant_permission_request, AuthRoleGrantPermissionResponse, auth_role_grant_permission_response,    \
	  false)                                                                                                       \
	X(role_revoke_permission, RoleRevokePermission, Auth, AuthRoleRevokePermissionRequest,                         \
	  auth_role_revoke_permission_request, AuthRoleRevokePermissionResponse, auth_role_revoke_permission_response, \
	  false)

/* The descriptor of each method, e.g. etcdc_method_range, and its blocking call with the client's time-out, e.g.
 * etcdc_range(client, request, &response, &err). */
#define ETCDC_DECLARE(name, Method, Service, Request, request, Response, response, repeatable) \
	extern const struct etcdc_method etcdc_method_##name;                                  \
	enum ks_status etcdc_##name(struct etcdc *client, const Etcdserverpb__##Request *req,  \
				    Etcdserverpb__##Response **resp, struct etcdc_err *err);
ETCDC_UNARY_METHODS(ETCDC_DECLARE)
#undef ETCDC_DECLARE

extern const struct etcdc_method etcdc_method_watch, etcdc_method_lease_keep_alive, etcdc_method_range_stream,
	etcdc_method_snapshot;

/* Gives back a response of any type; NULL is fine. */
void etcdc_free(void *response);

/* ---- Unary calls ---- */

struct etcdc_call_options {
	int64_t timeout_ms; /* 0: the client's; < 0: none */
	bool once;          /* a single attempt on the current endpoint, whatever the method allows */
	bool raw;           /* asynchronous calls: no decoding, the call-back gets the bytes */
};

/* Blocking. 'request' and '*response' are structs of the types that 'method' names; options NULL: defaults. */
enum ks_status etcdc_unary(struct etcdc *client, const struct etcdc_method *method, const void *request,
			   const struct etcdc_call_options *options, void **response, struct etcdc_err *err);
/* Blocking. The same with bytes that need not be valid protobuf; '*response' is malloc-ed, for free(). */
enum ks_status etcdc_unary_raw(struct etcdc *client, const char *path, struct ks_slice request,
			       const struct etcdc_call_options *options, uint8_t **response, size_t *size,
			       struct etcdc_err *err);

struct etcdc_result {
	const struct etcdc_err *err; /* err->status is the result */
	const void *response;        /* decoded; NULL on failure and for raw calls */
	struct ks_slice bytes;       /* raw calls that succeeded */
};

/* Client's thread. */
typedef void etcdc_done_fn(void *arg, const struct etcdc_result *result);

/* Starts a call and returns; 'done' is called exactly once, possibly before this returns to another thread. */
void etcdc_async(struct etcdc *client, const struct etcdc_method *method, const void *request,
		 const struct etcdc_call_options *options, etcdc_done_fn *done, void *arg);

/*
 * Blocking. KV.RangeStream (etcd 3.7): 'each' gets each part in order, on the calling thread; when it returns false the rest is
 * cancelled and the call ends with CANCELLED. UNIMPLEMENTED means that the server is older.
 */
enum ks_status etcdc_range_stream(struct etcdc *client, const Etcdserverpb__RangeRequest *request,
				  bool (*each)(void *arg, const Etcdserverpb__RangeResponse *part), void *arg,
				  struct etcdc_err *err);

/* ---- Streams, without any intelligence: one stream on the endpoint in use, no retry ---- */

struct etcdc_stream;

struct etcdc_stream_ops {
	/* Client's thread. 'message' is of the method's response type. The next one is read after this returned. */
	void (*message)(void *arg, const void *message);
	/* Instead of 'message', when set: the bytes, not decoded. */
	void (*bytes)(void *arg, struct ks_slice bytes);
	/* Client's thread, last call-back, unless etcdc_stream_close was first. err->status KS_OK: the server ended it. */
	void (*ended)(void *arg, const struct etcdc_err *err);
};

struct etcdc_stream_options {
	const struct etcdc_stream_ops *ops; /* NULL: the stream is read with etcdc_stream_recv, one message at a time */
	void *arg;
	int64_t timeout_ms; /* <= 0: none */
};

/* Bytes that may wait to be sent; more is refused. */
#define ETCDC_STREAM_QUEUE_MAX (64u << 20)

/* Never fails at once: what goes wrong is reported as the stream's end. */
struct etcdc_stream *etcdc_stream_open(struct etcdc *client, const struct etcdc_method *method,
				       const struct etcdc_stream_options *options);
/* Queues a message. False when the stream has ended, is half-closed, or ETCDC_STREAM_QUEUE_MAX bytes wait. */
bool etcdc_stream_send(struct etcdc_stream *stream, const void *message);
bool etcdc_stream_send_raw(struct etcdc_stream *stream, struct ks_slice message);
/* After what is queued: no more messages from here. */
void etcdc_stream_half_close(struct etcdc_stream *stream);
/* Ends the stream at once; it is still to be closed. */
void etcdc_stream_cancel(struct etcdc_stream *stream);
/*
 * Blocking; only for streams without ops, one thread at a time. KS_OK with the next message, or with *message NULL at the
 * stream's regular end; DEADLINE_EXCEEDED "no message yet" after wait_ms (< 0: for ever), the stream being as before; otherwise
 * the status the stream ended with. A message is read from the network only when somebody asks for it here.
 */
enum ks_status etcdc_stream_recv(struct etcdc_stream *stream, int64_t wait_ms, void **message, struct etcdc_err *err);
/*
 * Cancels it if need be and frees it: no call-back runs afterwards. Blocks while a call-back of this stream runs, unless called
 * from that thread. NULL is fine.
 */
void etcdc_stream_close(struct etcdc_stream *stream);

/* ---- Watches ---- */

/*
 * A watcher lives until it is closed, across as many connections as that takes: after its stream broke it is created again from
 * the revision after the last one it handed out (after the last progress; without either, from its start revision, or from the
 * revision of its creation), so nothing is missed and nothing comes twice. All watchers of a client share one stream; a client
 * that wants more throughput opens a second client.
 */
struct etcdc_watcher;

enum etcdc_watch_kind {
	ETCDC_WATCH_CREATED,   /* once, before anything else: revision */
	ETCDC_WATCH_EVENTS,    /* revision, events: whole revisions only, ascending */
	ETCDC_WATCH_PROGRESS,  /* everything up to revision has been handed out */
	ETCDC_WATCH_LOST,      /* the stream broke (text); goes on by itself, and says so with RESUMED */
	ETCDC_WATCH_RESUMED,   /* created again: revision */
	ETCDC_WATCH_COMPACTED, /* last: what is next to hand out was compacted; compact_revision */
	ETCDC_WATCH_CANCELLED, /* last: the server refused or ended it; text */
};

struct etcdc_watch_event {
	enum etcdc_watch_kind kind;
	int64_t revision;    /* of the response's header */
	uint64_t cluster_id; /* of the same; 0: there is none (LOST, or an old server) */
	int64_t compact_revision;
	size_t event_count;
	Mvccpb__Event *const *events;
	const char *text; /* never NULL */
};

/* Client's thread. */
typedef void etcdc_watch_fn(void *arg, const struct etcdc_watch_event *event);

struct etcdc_watch_options {
	struct ks_slice key, range_end; /* copied */
	int64_t start_revision;
	bool prev_kv, progress_notify, no_put, no_delete;
	bool fragment; /* the server may split large responses; they are put together again here */
	etcdc_watch_fn *on_event;
	void *arg;
};

struct etcdc_watcher *etcdc_watch(struct etcdc *client, const struct etcdc_watch_options *options);
/* No call-back runs afterwards; blocks as etcdc_stream_close does. May be called from the watcher's own call-back. */
void etcdc_watch_close(struct etcdc_watcher *watcher);
/* Asks the server for the progress of all watchers; the answer, if it can give one, comes as ETCDC_WATCH_PROGRESS to each. */
void etcdc_watch_request_progress(struct etcdc *client);
/*
 * The server in use is silent, though its connection stands: calls go on with the next endpoint, and all watchers are LOST and then
 * created again on a new stream.
 */
void etcdc_watch_suspect(struct etcdc *client);

/* ---- Lease keep-alive ---- */

struct etcdc_keepalive;

struct etcdc_keepalive_event {
	int64_t lease;
	int64_t ttl;      /* seconds, as the server said; 0: the lease is gone and this is the last call-back */
	int64_t revision; /* of the response's header; 0 when the deadline passed without any answer */
};

/* Client's thread. */
typedef void etcdc_keepalive_fn(void *arg, const struct etcdc_keepalive_event *event);

/*
 * Renews 'lease' every third of its TTL until closed or gone, through reconnects. 'ttl' is what the grant said: when no answer
 * came for that long the lease counts as gone. on_event may be NULL.
 */
struct etcdc_keepalive *etcdc_keepalive(struct etcdc *client, int64_t lease, int64_t ttl, etcdc_keepalive_fn *on_event,
					void *arg);
/* Stops renewing; the lease itself stays until its TTL is over. Blocks as etcdc_stream_close does. */
void etcdc_keepalive_close(struct etcdc_keepalive *keepalive);

#endif
