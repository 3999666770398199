/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every error etcd's v3 API knows, with its gRPC code and its exact text: clients match on the text (spec 10).
 * No state; any thread.
 */
#ifndef KS_API_ERRORS_H
#define KS_API_ERRORS_H

#include "base/status.h"

/* The texts that are needed as such. */
#define KS_TEXT_NO_LEADER "etcdserver: no leader"
#define KS_TEXT_COMPACTED "etcdserver: mvcc: required revision has been compacted"
#define KS_TEXT_UNMARSHAL "grpc: error unmarshalling request: unexpected EOF"

/* X(name, code, text). Two of them go out as UNKNOWN, not as documented: see spec 0.5. */
#define KS_ETCD_ERRORS(X)                                                                                              \
	X(EMPTY_KEY, INVALID_ARGUMENT, "etcdserver: key is not provided")                                              \
	X(KEY_NOT_FOUND, INVALID_ARGUMENT, "etcdserver: key not found")                                                \
	X(VALUE_PROVIDED, INVALID_ARGUMENT, "etcdserver: value is provided")                                           \
	X(LEASE_PROVIDED, INVALID_ARGUMENT, "etcdserver: lease is provided")                                           \
	X(TOO_MANY_OPS, INVALID_ARGUMENT, "etcdserver: too many operations in txn request")                            \
	X(DUPLICATE_KEY, INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request")                           \
	X(INVALID_CLIENT_API_VERSION, INVALID_ARGUMENT, "etcdserver: invalid client api version")                      \
	X(INVALID_SORT_OPTION, INVALID_ARGUMENT, "etcdserver: invalid sort option")                                    \
	X(COMPACTED, OUT_OF_RANGE, KS_TEXT_COMPACTED)                                                                  \
	X(FUTURE_REVISION, OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision")                   \
	X(NO_SPACE, RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")                                   \
	X(LEASE_NOT_FOUND, NOT_FOUND, "etcdserver: requested lease not found")                                         \
	X(LEASE_EXISTS, FAILED_PRECONDITION, "etcdserver: lease already exists")                                       \
	X(LEASE_TTL_TOO_LARGE, OUT_OF_RANGE, "etcdserver: too large lease TTL")                                        \
	X(WATCH_CANCELED, CANCELLED, "etcdserver: watch canceled")                                                     \
	X(MEMBER_EXISTS, FAILED_PRECONDITION, "etcdserver: member ID already exist")                                   \
	X(PEER_URL_EXISTS, FAILED_PRECONDITION, "etcdserver: Peer URLs already exists")                                \
	X(MEMBER_NOT_ENOUGH_STARTED, UNKNOWN, "etcdserver: re-configuration failed due to not enough started members") \
	X(MEMBER_BAD_URLS, INVALID_ARGUMENT, "etcdserver: given member URLs are invalid")                              \
	X(MEMBER_NOT_FOUND, NOT_FOUND, "etcdserver: member not found")                                                 \
	X(MEMBER_NOT_LEARNER, FAILED_PRECONDITION, "etcdserver: can only promote a learner member")                    \
	X(LEARNER_NOT_READY, FAILED_PRECONDITION,                                                                      \
	  "etcdserver: can only promote a learner member which is in sync with leader")                                \
	X(TOO_MANY_LEARNERS, FAILED_PRECONDITION, "etcdserver: too many learner members in cluster")                   \
	X(CLUSTER_ID_MISMATCH, FAILED_PRECONDITION, "etcdserver: cluster ID mismatch")                                 \
	X(REQUEST_TOO_LARGE, INVALID_ARGUMENT, "etcdserver: request is too large")                                     \
	X(TOO_MANY_REQUESTS, UNKNOWN, "etcdserver: too many requests")                                                 \
	X(ROOT_USER_NOT_EXIST, FAILED_PRECONDITION, "etcdserver: root user does not exist")                            \
	X(ROOT_ROLE_NOT_EXIST, FAILED_PRECONDITION, "etcdserver: root user does not have root role")                   \
	X(USER_EXISTS, FAILED_PRECONDITION, "etcdserver: user name already exists")                                    \
	X(USER_EMPTY, INVALID_ARGUMENT, "etcdserver: user name is empty")                                              \
	X(USER_NOT_FOUND, FAILED_PRECONDITION, "etcdserver: user name not found")                                      \
	X(ROLE_EXISTS, FAILED_PRECONDITION, "etcdserver: role name already exists")                                    \
	X(ROLE_NOT_FOUND, FAILED_PRECONDITION, "etcdserver: role name not found")                                      \
	X(ROLE_EMPTY, INVALID_ARGUMENT, "etcdserver: role name is empty")                                              \
	X(AUTH_FAILED, INVALID_ARGUMENT, "etcdserver: authentication failed, invalid user ID or password")             \
	X(PERMISSION_NOT_GIVEN, INVALID_ARGUMENT, "etcdserver: permission not given")                                  \
	X(PERMISSION_DENIED, PERMISSION_DENIED, "etcdserver: permission denied")                                       \
	X(ROLE_NOT_GRANTED, FAILED_PRECONDITION, "etcdserver: role is not granted to the user")                        \
	X(PERMISSION_NOT_GRANTED, FAILED_PRECONDITION, "etcdserver: permission is not granted to the role")            \
	X(AUTH_NOT_ENABLED, FAILED_PRECONDITION, "etcdserver: authentication is not enabled")                          \
	X(INVALID_AUTH_TOKEN, UNAUTHENTICATED, "etcdserver: invalid auth token")                                       \
	X(INVALID_AUTH_MANAGEMENT, INVALID_ARGUMENT, "etcdserver: invalid auth management")                            \
	X(AUTH_OLD_REVISION, INVALID_ARGUMENT, "etcdserver: revision of auth store is old")                            \
	X(NO_LEADER, UNAVAILABLE, KS_TEXT_NO_LEADER)                                                                   \
	X(NOT_LEADER, FAILED_PRECONDITION, "etcdserver: not leader")                                                   \
	X(LEADER_CHANGED, UNAVAILABLE, "etcdserver: leader changed")                                                   \
	X(NOT_CAPABLE, FAILED_PRECONDITION, "etcdserver: not capable")                                                 \
	X(STOPPED, UNAVAILABLE, "etcdserver: server stopped")                                                          \
	X(TIMEOUT, UNAVAILABLE, "etcdserver: request timed out")                                                       \
	X(TIMEOUT_LEADER_FAILED, UNAVAILABLE,                                                                          \
	  "etcdserver: request timed out, possibly due to previous leader failure")                                    \
	X(TIMEOUT_CONNECTION_LOST, UNAVAILABLE, "etcdserver: request timed out, possibly due to connection lost")      \
	X(TIMEOUT_APPLIED_INDEX, UNAVAILABLE,                                                                          \
	  "etcdserver: request timed out, waiting for the applied index took too long")                                \
	X(UNHEALTHY, UNAVAILABLE, "etcdserver: unhealthy cluster")                                                     \
	X(CORRUPT, DATA_LOSS, "etcdserver: corrupt cluster")                                                           \
	X(NOT_SUPPORTED_FOR_LEARNER, FAILED_PRECONDITION, "etcdserver: rpc not supported for learner")                 \
	X(BAD_LEADER_TRANSFEREE, FAILED_PRECONDITION, "etcdserver: bad leader transferee")                             \
	X(WRONG_DOWNGRADE_VERSION_FORMAT, INVALID_ARGUMENT, "etcdserver: wrong downgrade target version format")       \
	X(INVALID_DOWNGRADE_VERSION, INVALID_ARGUMENT, "etcdserver: invalid downgrade target version")                 \
	X(CLUSTER_VERSION_UNAVAILABLE, FAILED_PRECONDITION, "etcdserver: cluster version not found during downgrade")  \
	X(DOWNGRADE_IN_PROCESS, FAILED_PRECONDITION, "etcdserver: cluster has a downgrade job in progress")            \
	X(NO_INFLIGHT_DOWNGRADE, FAILED_PRECONDITION, "etcdserver: no inflight downgrade job")                         \
	X(CANCELED, CANCELLED, "etcdserver: request canceled")                                                         \
	X(DEADLINE_EXCEEDED, DEADLINE_EXCEEDED, "etcdserver: context deadline exceeded")                               \
	X(NO_PASSWORD_USER, UNKNOWN, "auth: authentication failed, password was given for no password user")           \
	X(PASSWORD_TOO_LONG, UNKNOWN, "bcrypt: password length exceeds 72 bytes")                                      \
	X(BAD_BASE64, UNKNOWN, "illegal base64 data at input byte 0")                                                  \
	/* not of etcd's table, but what its gRPC library or its services answer */                                    \
	X(STREAM_SORT, UNIMPLEMENTED, "RangeStream does not support custom sort orders")                               \
	X(STREAM_FILTER, UNIMPLEMENTED, "RangeStream does not support revision filters")                               \
	X(MALFORMED, INTERNAL, KS_TEXT_UNMARSHAL)                                                                      \
	X(NO_REQUEST, INTERNAL, "unexpected EOF")                                                                      \
	X(UNKNOWN_ALARM, INVALID_ARGUMENT, "etcdserver: unknown alarm action or type")                                 \
	X(UNKNOWN_METHOD, UNKNOWN, "etcdserver: unknown method")                                                       \
	/* ours, where an etcd on SQL cannot do what is asked: see docs/maintenance.md */                              \
	X(MEMBER_ADD, FAILED_PRECONDITION,                                                                             \
	  "etcdserver: kineshim servers are members while they run; to add one, start it on the same database")        \
	X(MEMBER_REMOVE, FAILED_PRECONDITION,                                                                          \
	  "etcdserver: kineshim servers are members while they run; to remove one, stop it")                           \
	X(MEMBER_UPDATE, FAILED_PRECONDITION,                                                                          \
	  "etcdserver: kineshim servers have no peer URLs of their own; restart it with other client URLs")            \
	X(NO_DOWNGRADE, FAILED_PRECONDITION,                                                                           \
	  "etcdserver: kineshim has no storage version that could be downgraded; start the other version")             \
	X(NO_MEMORY, RESOURCE_EXHAUSTED, "kineshim: not enough memory for this request")                               \
	X(UNKNOWN_HEALTH_SERVICE, NOT_FOUND, "unknown service")

enum ks_etcd_error {
#define KS_ETCD_ERROR_NAME(name, code, text) KS_E_##name,
	KS_ETCD_ERRORS(KS_ETCD_ERROR_NAME)
#undef KS_ETCD_ERROR_NAME
};

enum ks_status ks_etcd_status(enum ks_etcd_error error);
const char *ks_etcd_text(enum ks_etcd_error error);
/* Fills 'err' (which may be NULL) and returns the status, like ks_fail. */
enum ks_status ks_etcd_fail(struct ks_err *err, enum ks_etcd_error error);

#endif
