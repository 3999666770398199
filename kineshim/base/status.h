/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How functions of this code base report failure.
 *
 * A function that can fail returns enum ks_status (0 is success, the numbers are gRPC's own codes, so that
 * a status reaches a client without translation) and fills a struct ks_err with a text for a person or, where the
 * error goes to an etcd client, with etcd's exact text (clients match on it).
 * Owner: struct ks_err is a plain value of the caller. Threads: any. Texts longer than the field are cut.
 */
#ifndef KS_BASE_STATUS_H
#define KS_BASE_STATUS_H

enum ks_status {
	KS_OK = 0,
	KS_CANCELLED = 1,
	KS_UNKNOWN = 2,
	KS_INVALID_ARGUMENT = 3,
	KS_DEADLINE_EXCEEDED = 4,
	KS_NOT_FOUND = 5,
	KS_ALREADY_EXISTS = 6,
	KS_PERMISSION_DENIED = 7,
	KS_RESOURCE_EXHAUSTED = 8,
	KS_FAILED_PRECONDITION = 9,
	KS_ABORTED = 10,
	KS_OUT_OF_RANGE = 11,
	KS_UNIMPLEMENTED = 12,
	KS_INTERNAL = 13,
	KS_UNAVAILABLE = 14,
	KS_DATA_LOSS = 15,
	KS_UNAUTHENTICATED = 16,
};

#define KS_ERR_TEXT_MAX 256

struct ks_err {
	enum ks_status status;
	char text[KS_ERR_TEXT_MAX];
};

#define KS_MUST_CHECK __attribute__((warn_unused_result))
#define KS_PRINTF(fmt_index, first_arg) __attribute__((format(printf, fmt_index, first_arg)))

/* Fills 'err' (which may be NULL) and returns 'status', so that "return ks_fail(err, …)" reads well. */
enum ks_status ks_fail(struct ks_err *err, enum ks_status status, const char *fmt, ...) KS_PRINTF(3, 4);

/* The gRPC name of a status, e.g. "INVALID_ARGUMENT"; never NULL. */
const char *ks_status_name(enum ks_status status);

#endif
