/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What exporter and importer see of object storage: the versions of one NAME, and four verbs. Behind it s3.c or azure.c.
 *
 * Threads: any; requests of one bucket wait for each other. Errors: KS_NOT_FOUND, KS_ALREADY_EXISTS (put_new: the name is taken),
 * KS_PERMISSION_DENIED, KS_UNAVAILABLE, KS_DEADLINE_EXCEEDED, KS_RESOURCE_EXHAUSTED, KS_UNIMPLEMENTED, KS_DATA_LOSS (an answer that
 * makes no sense), KS_CANCELLED; texts name the object, and hold no secrets.
 */
#ifndef DPA_BUCKET_H
#define DPA_BUCKET_H

#include "base/buf.h"
#include "fallback/fallback.h"
#include "fallback/http.h"

/* Lists are bounded: who cannot delete old versions must not fill our memory. */
#define DPA_MAX_VERSIONS ((size_t)1 << 17)
#define DPA_OBJECT_NAME_MAX 1024

/* An object under the prefix, as a page of a list shows it; the strings live for the call. False: enough, the rest is not asked for. */
typedef bool dpa_listed_fn(void *ctx, const char *name, int64_t size, const char *etag);

struct dpa_bucket_ops {
	/* Whole names (with NAME/) that begin with 'prefix', ascending. A bucket that is not there is KS_NOT_FOUND. */
	enum ks_status (*list)(void *store, const char *prefix, dpa_listed_fn *fn, void *ctx, struct ks_err *err);
	/* 'out' is initialised; its maximum counts. */
	enum ks_status (*get)(void *store, const char *name, int64_t size, struct ks_buf *out, struct ks_err *err);
	/* Only when there is no such object. Its being repeated inside may make KS_ALREADY_EXISTS of one's own object. */
	enum ks_status (*put_new)(void *store, const char *name, struct ks_slice bytes, struct ks_err *err);
	/* What is gone already is KS_OK. */
	enum ks_status (*del)(void *store, const char *name, struct ks_err *err);
	void (*free)(void *store);
};

/* What a URL says, for s3.c and azure.c; borrowed for the call. "" where it says nothing. */
struct dpa_bucket_url {
	char place[256];                /* S3: the bucket; Azure: the account */
	char container[64];             /* Azure */
	char name[512];                 /* NAME, without slashes around; may be "" */
	char region[64], endpoint[512]; /* endpoint: without a slash at its end */
	int path_style;                 /* 1, 0; -1: not said */
};

typedef char *dpa_getenv_fn(const char *name);

void *dpa_s3_new(const struct dpa_bucket_url *url, struct dpa_web *http, dpa_getenv_fn *env, struct ks_err *err);
extern const struct dpa_bucket_ops dpa_s3_ops;
void *dpa_azure_new(const struct dpa_bucket_url *url, struct dpa_web *http, dpa_getenv_fn *env, struct ks_err *err);
extern const struct dpa_bucket_ops dpa_azure_ops;

struct dpa_version {
	uint64_t sequence;
	int64_t size;
	uint64_t tag; /* of the ETag: another one when the object was replaced */
};
struct dpa_versions {
	struct dpa_version *versions; /* ascending; the newest ones when there are more than DPA_MAX_VERSIONS */
	size_t count;
};

/* 'versions' is to be zeroed; dpa_versions_fini in every case. */
enum ks_status dpa_bucket_versions(struct dpa_bucket *bucket, struct dpa_versions *versions,
				   struct ks_err *err) KS_MUST_CHECK;
void dpa_versions_fini(struct dpa_versions *versions);
/* The image in one version. KS_DATA_LOSS and KS_PERMISSION_DENIED with *invalid: the object is at fault, not the access to it. */
enum ks_status dpa_bucket_read(struct dpa_bucket *bucket, const struct dpa_version *version,
			       const struct dpa_verifier *verifier, struct dpa_image *image, bool *invalid,
			       struct ks_err *err) KS_MUST_CHECK;
/* The newest valid one of a list; see dpa_bucket_newest. *index is its place in the list. */
enum ks_status dpa_bucket_newest_of(struct dpa_bucket *bucket, const struct dpa_versions *versions,
				    const struct dpa_verifier *verifier, struct dpa_image *image, size_t *index,
				    char *fault, size_t fault_room, struct ks_err *err) KS_MUST_CHECK;
/* KS_ALREADY_EXISTS: the name is taken, by other bytes than these. */
enum ks_status dpa_bucket_put_version(struct dpa_bucket *bucket, uint64_t sequence, struct ks_slice bytes,
				      struct ks_err *err) KS_MUST_CHECK;
enum ks_status dpa_bucket_delete_version(struct dpa_bucket *bucket, uint64_t sequence,
					 struct ks_err *err) KS_MUST_CHECK;
/* Does storage refuse to write over an object? KS_UNIMPLEMENTED when not. Makes and deletes an object NAME/probe-…. */
enum ks_status dpa_bucket_probe(struct dpa_bucket *bucket, struct ks_err *err) KS_MUST_CHECK;
void dpa_bucket_name(const struct dpa_bucket *bucket, uint64_t sequence, char *out, size_t room);
/* See dpa_web_cancel. */
void dpa_bucket_cancel(struct dpa_bucket *bucket, bool cancel);

#endif
