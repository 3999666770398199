/* SPDX-License-Identifier: Apache-2.0 */
/* Versions of one NAME in S3 or Azure, see bucket.h and fallback.h. */
#include "fallback/bucket.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/panic.h"
#include "base/thread.h"

#define SUFFIX ".snap"
#define DIGITS 20
/* Tries at older versions when newer ones are damaged. */
#define MAX_LOOKS 32
/* An object may have grown by so much since it was listed. */
#define SLACK ((size_t)1 << 20)

struct dpa_bucket {
	struct ks_mutex lock; /* guards store: one request at a time */
	struct dpa_web *http;
	const struct dpa_bucket_ops *ops;
	void *store;
	char prefix[600]; /* "NAME/", or "" */
};

/* ---- URLs ---- */

static int hex_of(char digit)
{
	if (digit >= '0' && digit <= '9')
		return digit - '0';
	digit = (char)tolower((unsigned char)digit);
	return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* Copies a part of the URL without its %XX; false when it is too long or malformed. */
static bool copy_part(const char *part, size_t size, char *out, size_t room)
{
	size_t used = 0;

	for (size_t i = 0; i < size; i++) {
		int byte = (unsigned char)part[i];

		if (byte == '%') {
			int high = i + 2 < size ? hex_of(part[i + 1]) : -1, low = high >= 0 ? hex_of(part[i + 2]) : -1;

			if (low < 0)
				return false;
			byte = high * 16 + low;
			i += 2;
		}
		if (byte < ' ' || byte > '~' || used + 1 >= room)
			return false;
		out[used++] = (char)byte;
	}
	out[used] = '\0';
	return true;
}

/* Names without parts that proxies or servers might take for something else. */
static bool is_name(const char *name)
{
	for (const char *part = name; *part;) {
		size_t size = strcspn(part, "/");

		if (size == 0 || (size == 1 && part[0] == '.') || (size == 2 && part[0] == '.' && part[1] == '.'))
			return false;
		part += size;
		if (*part == '/' && part[1] == '\0')
			return false;
		part += *part == '/';
	}
	return !strpbrk(name, "\\?#%");
}

static bool is_endpoint(char *endpoint)
{
	size_t size = strlen(endpoint);
	const char *host = strstr(endpoint, "://");

	if (size > 0 && endpoint[size - 1] == '/')
		endpoint[size - 1] = '\0';
	return (strncmp(endpoint, "http://", 7) == 0 || strncmp(endpoint, "https://", 8) == 0) && host[3] &&
	       !strpbrk(endpoint, " ?#@\\%");
}

static bool take_parameter(struct dpa_bucket_url *url, const char *text, size_t size, struct ks_err *err)
{
	size_t name_size = 0;
	char value[512];

	while (name_size < size && text[name_size] != '=')
		name_size++;
	if (name_size == size || !copy_part(text + name_size + 1, size - name_size - 1, value, sizeof(value))) {
		(void)ks_fail(err, KS_INVALID_ARGUMENT, "the object storage's URL has a malformed parameter");
		return false;
	}
	if (name_size == 6 && memcmp(text, "region", 6) == 0 && strlen(value) < sizeof(url->region))
		(void)snprintf(url->region, sizeof(url->region), "%s", value);
	else if (name_size == 8 && memcmp(text, "endpoint", 8) == 0) {
		(void)snprintf(url->endpoint, sizeof(url->endpoint), "%s", value);
		if (is_endpoint(url->endpoint))
			return true;
		(void)ks_fail(err, KS_INVALID_ARGUMENT,
			      "the endpoint in the object storage's URL must be https://HOST or http://HOST");
		return false;
	} else if (name_size == 10 && memcmp(text, "path_style", 10) == 0 && strcmp(value, "true") == 0)
		url->path_style = 1;
	else if (name_size == 10 && memcmp(text, "path_style", 10) == 0 && strcmp(value, "false") == 0)
		url->path_style = 0;
	else {
		/* Not what it says: that might be a secret. */
		(void)ks_fail(err, KS_INVALID_ARGUMENT,
			      "the object storage's URL has the parameter \"%.*s\", which is unknown or wrong",
			      (int)(name_size < 40 ? name_size : 40), text);
		return false;
	}
	return true;
}

static bool parse(const char *text, bool azure, struct dpa_bucket_url *url, struct ks_err *err)
{
	const char *part = strstr(text, "://") + 3;
	size_t path_size = strcspn(part, "?"), size = strcspn(part, "/?");
	char name[640];

	*url = (struct dpa_bucket_url){.path_style = -1};
	if (memchr(part, '@', path_size)) {
		(void)ks_fail(err, KS_INVALID_ARGUMENT,
			      "credentials do not belong into the object storage's URL, see docs/dpagent-fallback.md");
		return false;
	}
	if (!copy_part(part, size, url->place, sizeof(url->place)))
		goto malformed;
	path_size -= size;
	part += size;
	if (path_size > 0) {
		part++;
		path_size--;
	}
	if (azure) {
		size = strcspn(part, "/?");
		if (!copy_part(part, size, url->container, sizeof(url->container)))
			goto malformed;
		path_size -= size;
		part += size;
		if (path_size > 0) {
			part++;
			path_size--;
		}
	}
	if (path_size > 0 && part[path_size - 1] == '/')
		path_size--;
	if (!copy_part(part, path_size, name, sizeof(name)) || strlen(name) >= sizeof(url->name) || !is_name(name))
		goto malformed;
	(void)snprintf(url->name, sizeof(url->name), "%s", name);
	part = strchr(part, '?');
	while (part && *part) {
		part++;
		size = strcspn(part, "&");
		if (size > 0 && !take_parameter(url, part, size, err))
			return false;
		part += size;
	}
	return true;
malformed:
	(void)ks_fail(err, KS_INVALID_ARGUMENT,
		      "the object storage's URL is malformed: s3://BUCKET/NAME or azure://ACCOUNT/CONTAINER/NAME");
	return false;
}

/* ---- opening ---- */

struct dpa_bucket *dpa_bucket_open(const struct dpa_bucket_config *config, struct ks_err *err)
{
	bool azure = strncmp(config->url, "azure://", 8) == 0;
	struct dpa_bucket *bucket;
	struct dpa_bucket_url url;

	if (!azure && strncmp(config->url, "s3://", 5) != 0) {
		(void)ks_fail(err, KS_INVALID_ARGUMENT,
			      "the object storage's URL begins with neither s3:// nor azure://");
		return NULL;
	}
	if (!parse(config->url, azure, &url, err))
		return NULL;
	bucket = ks_xcalloc(1, sizeof(*bucket));
	ks_mutex_init(&bucket->lock);
	(void)snprintf(bucket->prefix, sizeof(bucket->prefix), "%s%s", url.name, url.name[0] ? "/" : "");
	bucket->ops = azure ? &dpa_azure_ops : &dpa_s3_ops;
	bucket->http = dpa_web_new(config->ca_file, config->timeout_ms, err);
	if (bucket->http)
		bucket->store = (azure ? dpa_azure_new : dpa_s3_new)(
			&url, bucket->http, config->getenv_fn ? config->getenv_fn : getenv, err);
	if (bucket->store)
		return bucket;
	dpa_bucket_close(bucket);
	return NULL;
}

void dpa_bucket_close(struct dpa_bucket *bucket)
{
	if (!bucket)
		return;
	if (bucket->store)
		bucket->ops->free(bucket->store);
	dpa_web_free(bucket->http);
	ks_mutex_fini(&bucket->lock);
	free(bucket);
}

void dpa_bucket_cancel(struct dpa_bucket *bucket, bool cancel)
{
	dpa_web_cancel(bucket->http, cancel);
}

/* ---- versions ---- */

void dpa_bucket_name(const struct dpa_bucket *bucket, uint64_t sequence, char *out, size_t room)
{
	(void)snprintf(out, room, "%s%0*llu%s", bucket->prefix, DIGITS, (unsigned long long)sequence, SUFFIX);
}

/* 20 digits and the suffix behind the prefix; 0 for what others put there. Numbers start with 1. */
static uint64_t sequence_of(const struct dpa_bucket *bucket, const char *name)
{
	size_t skip = strlen(bucket->prefix);
	uint64_t sequence = 0;

	if (strncmp(name, bucket->prefix, skip) != 0 || strlen(name + skip) != DIGITS + strlen(SUFFIX) ||
	    strcmp(name + skip + DIGITS, SUFFIX) != 0)
		return 0;
	for (int i = 0; i < DIGITS; i++) {
		if (!isdigit((unsigned char)name[skip + (size_t)i]) || sequence > INT64_MAX / 10 - 1)
			return 0;
		sequence = sequence * 10 + (uint64_t)(name[skip + (size_t)i] - '0');
	}
	return sequence;
}

struct listing {
	const struct dpa_bucket *bucket;
	struct dpa_versions *versions;
	size_t room;
	bool failed;
};

static uint64_t tag_of(const char *etag)
{
	uint64_t tag = UINT64_C(0xcbf29ce484222325);

	for (; *etag; etag++)
		tag = (tag ^ (unsigned char)*etag) * UINT64_C(0x100000001b3);
	return tag;
}

static bool take_listed(void *ctx, const char *name, int64_t size, const char *etag)
{
	struct listing *listing = ctx;
	struct dpa_versions *versions = listing->versions;
	uint64_t sequence = sequence_of(listing->bucket, name);

	if (sequence == 0)
		return true;
	if (versions->count == DPA_MAX_VERSIONS) {
		memmove(versions->versions, versions->versions + DPA_MAX_VERSIONS / 2,
			DPA_MAX_VERSIONS / 2 * sizeof(*versions->versions));
		versions->count = DPA_MAX_VERSIONS / 2;
	}
	if (versions->count == listing->room) {
		size_t room = listing->room ? 2 * listing->room : 64;
		struct dpa_version *more = realloc(versions->versions, room * sizeof(*more));

		if (!more) {
			listing->failed = true;
			return false;
		}
		versions->versions = more;
		listing->room = room;
	}
	versions->versions[versions->count++] = (struct dpa_version){sequence, size > 0 ? size : 0, tag_of(etag)};
	return true;
}

static int by_sequence(const void *a, const void *b)
{
	const struct dpa_version *left = a, *right = b;

	return (left->sequence > right->sequence) - (left->sequence < right->sequence);
}

enum ks_status dpa_bucket_versions(struct dpa_bucket *bucket, struct dpa_versions *versions, struct ks_err *err)
{
	struct listing listing = {.bucket = bucket, .versions = versions};
	enum ks_status status;

	ks_mutex_lock(&bucket->lock);
	status = bucket->ops->list(bucket->store, bucket->prefix, take_listed, &listing, err);
	ks_mutex_unlock(&bucket->lock);
	if (status == KS_OK && listing.failed)
		status = ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
	/* Storage that is not AWS may not sort. */
	if (status == KS_OK && versions->count > 1)
		qsort(versions->versions, versions->count, sizeof(*versions->versions), by_sequence);
	return status;
}

void dpa_versions_fini(struct dpa_versions *versions)
{
	free(versions->versions);
	*versions = (struct dpa_versions){0};
}

static enum ks_status get(struct dpa_bucket *bucket, const char *name, int64_t size, struct ks_buf *out,
			  struct ks_err *err)
{
	enum ks_status status;

	ks_mutex_lock(&bucket->lock);
	status = bucket->ops->get(bucket->store, name, size, out, err);
	ks_mutex_unlock(&bucket->lock);
	return status;
}

static enum ks_status put_new(struct dpa_bucket *bucket, const char *name, struct ks_slice bytes, struct ks_err *err)
{
	enum ks_status status;

	ks_mutex_lock(&bucket->lock);
	status = bucket->ops->put_new(bucket->store, name, bytes, err);
	ks_mutex_unlock(&bucket->lock);
	return status;
}

static enum ks_status del(struct dpa_bucket *bucket, const char *name, struct ks_err *err)
{
	enum ks_status status;

	ks_mutex_lock(&bucket->lock);
	status = bucket->ops->del(bucket->store, name, err);
	ks_mutex_unlock(&bucket->lock);
	return status;
}

/* Puts the object's name before an error's text. */
static enum ks_status at_fault(const char *name, struct ks_err *inner, struct ks_err *err)
{
	return ks_fail(err, inner->status, "%.120s: %.120s", name, inner->text);
}

enum ks_status dpa_bucket_read(struct dpa_bucket *bucket, const struct dpa_version *version,
			       const struct dpa_verifier *verifier, struct dpa_image *image, bool *invalid,
			       struct ks_err *err)
{
	size_t max = (size_t)version->size + SLACK;
	struct ks_err inner = {0};
	enum ks_status status;
	struct ks_buf bytes;
	char name[700];

	*invalid = false;
	dpa_bucket_name(bucket, version->sequence, name, sizeof(name));
	if ((uint64_t)version->size > DPA_FORMAT_MAX) {
		*invalid = true;
		return ks_fail(err, KS_DATA_LOSS, "%.120s: larger than any image", name);
	}
	ks_buf_init(&bytes, max < DPA_FORMAT_MAX ? max : DPA_FORMAT_MAX);
	status = get(bucket, name, version->size, &bytes, err);
	if (status == KS_OK) {
		status = dpa_format_read(ks_slice_of(bytes.data, bytes.size), verifier, image, &inner);
		*invalid = status == KS_DATA_LOSS || status == KS_PERMISSION_DENIED;
		if (status != KS_OK)
			status = at_fault(name, &inner, err);
	}
	ks_buf_fini(&bytes);
	return status;
}

enum ks_status dpa_bucket_newest_of(struct dpa_bucket *bucket, const struct dpa_versions *versions,
				    const struct dpa_verifier *verifier, struct dpa_image *image, size_t *index,
				    char *fault, size_t fault_room, struct ks_err *err)
{
	struct ks_err inner = {0};

	(void)snprintf(fault, fault_room, "%s", "");
	for (size_t i = versions->count, looks = 0; i > 0 && looks < MAX_LOOKS; i--, looks++) {
		bool invalid;
		enum ks_status status =
			dpa_bucket_read(bucket, &versions->versions[i - 1], verifier, image, &invalid, &inner);

		*index = i - 1;
		if (status == KS_OK)
			return KS_OK;
		if (invalid && fault[0] == '\0')
			(void)snprintf(fault, fault_room, "%s", inner.text);
		/* Deleted since it was listed is as good as older. */
		if (!invalid && status != KS_NOT_FOUND)
			return ks_fail(err, status, "%s", inner.text);
	}
	return ks_fail(err, KS_NOT_FOUND, "object storage has no valid version");
}

enum ks_status dpa_bucket_newest(struct dpa_bucket *bucket, const struct dpa_verifier *verifier,
				 struct dpa_image *image, char *name, size_t name_room, char *fault, size_t fault_room,
				 struct ks_err *err)
{
	struct dpa_versions versions = {0};
	size_t index = 0;
	enum ks_status status = dpa_bucket_versions(bucket, &versions, err);

	(void)snprintf(name, name_room, "%s", "");
	(void)snprintf(fault, fault_room, "%s", "");
	if (status == KS_NOT_FOUND)
		status = KS_UNAVAILABLE; /* the bucket itself is missing */
	if (status == KS_OK)
		status = dpa_bucket_newest_of(bucket, &versions, verifier, image, &index, fault, fault_room, err);
	if (status == KS_OK)
		dpa_bucket_name(bucket, versions.versions[index].sequence, name, name_room);
	dpa_versions_fini(&versions);
	return status;
}

/* Did an earlier attempt, whose answer was lost, write it? */
static bool is_ours(struct dpa_bucket *bucket, const char *name, struct ks_slice bytes)
{
	struct ks_buf there;
	bool same;

	ks_buf_init(&there, bytes.size);
	same = get(bucket, name, (int64_t)bytes.size, &there, NULL) == KS_OK &&
	       ks_slice_eq(ks_slice_of(there.data, there.size), bytes);
	ks_buf_fini(&there);
	return same;
}

enum ks_status dpa_bucket_put_version(struct dpa_bucket *bucket, uint64_t sequence, struct ks_slice bytes,
				      struct ks_err *err)
{
	char name[700];
	enum ks_status status;

	dpa_bucket_name(bucket, sequence, name, sizeof(name));
	status = put_new(bucket, name, bytes, err);
	if (status == KS_ALREADY_EXISTS && is_ours(bucket, name, bytes))
		status = KS_OK;
	return status;
}

enum ks_status dpa_bucket_delete_version(struct dpa_bucket *bucket, uint64_t sequence, struct ks_err *err)
{
	char name[700];

	dpa_bucket_name(bucket, sequence, name, sizeof(name));
	return del(bucket, name, err);
}

enum ks_status dpa_bucket_probe(struct dpa_bucket *bucket, struct ks_err *err)
{
	struct ks_err inner = {0};
	enum ks_status status;
	uint64_t number = 0;
	char name[700];

	if (getrandom(&number, sizeof(number), 0) != (ssize_t)sizeof(number))
		return ks_fail(err, KS_INTERNAL, "no random numbers");
	(void)snprintf(name, sizeof(name), "%sprobe-%016llx", bucket->prefix, (unsigned long long)number);
	status = put_new(bucket, name, ks_slice_str("first"), err);
	if (status == KS_UNIMPLEMENTED)
		return ks_fail(err, status,
			       "object storage knows no conditional writes (If-None-Match), without which backup nodes "
			       "would overwrite each other");
	/* Nobody else has this name: it is ours, from an attempt whose answer was lost. */
	if (status != KS_OK && status != KS_ALREADY_EXISTS)
		return status;
	status = put_new(bucket, name, ks_slice_str("second"), &inner);
	/* Who may not delete leaves a few bytes behind. */
	(void)del(bucket, name, NULL);
	if (status == KS_ALREADY_EXISTS)
		return KS_OK;
	if (status == KS_OK)
		return ks_fail(err, KS_UNIMPLEMENTED,
			       "object storage ignores If-None-Match: backup nodes would overwrite each other");
	return ks_fail(err, status, "%s", inner.text);
}

/* ---- which is newer ---- */

bool dpa_image_newer(const struct dpa_image *image, const struct dpa_point *point)
{
	if (!point->loaded)
		return true;
	if (image->cluster_id != 0 && image->cluster_id == point->cluster_id)
		return image->up_revision > point->up_revision;
	return image->confirmed_ms > point->confirmed_ms;
}
