/* SPDX-License-Identifier: Apache-2.0 */
/*
 * S3 and what speaks like it, see bucket.h. libcurl signs. Debian 12's libcurl (7.88) takes path, query and headers as they stand, so they are made
 * in SigV4's canonical form here: everything but the unreserved characters encoded, parameters sorted and each with its '=', no empty headers,
 * and the body's digest in x-amz-content-sha256, which it then uses. Newer ones bring them into that form themselves, which changes nothing.
 */
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "fallback/aws_identity.h"
#include "fallback/pages.h"
#include "fallback/xml.h"

#define MAX_LIST ((size_t)4 << 20)
#define MAX_ERROR ((size_t)1 << 16)
#define CONFLICTS 4

struct s3 {
	struct dpa_web *http; /* borrowed */
	struct dpa_aws_identity *identity;
	char bucket[256];
	char base[1024]; /* "https://host" or, in path style, "https://host/bucket" */
	char sigv4[96];
};

/* ---- set-up ---- */

static bool is_region(const char *text)
{
	return text[0] &&
	       text[strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")] == '\0';
}

static bool is_bucket(const char *text)
{
	return strlen(text) >= 3 && strlen(text) <= 255 && text[0] != '.' && !strstr(text, "..") &&
	       text[strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")] == '\0';
}

static const char *default_region(const struct dpa_bucket_url *url, dpa_getenv_fn *env)
{
	static const char *const names[] = {"AWS_REGION", "AWS_DEFAULT_REGION"};

	if (url->region[0])
		return url->region;
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		const char *value = env(names[i]);

		if (value && value[0])
			return value;
	}
	/* What is not AWS mostly knows but this one. */
	return url->endpoint[0] ? "us-east-1" : "";
}

static void set_base(struct s3 *s3, const struct dpa_bucket_url *url, const char *region)
{
	bool dots = strchr(url->place, '.') != NULL; /* the wildcard certificate does not cover them */
	bool path_style = url->path_style >= 0 ? url->path_style : url->endpoint[0] || dots;
	char endpoint[700];
	const char *host;

	if (url->endpoint[0])
		(void)snprintf(endpoint, sizeof(endpoint), "%s", url->endpoint);
	else
		(void)snprintf(endpoint, sizeof(endpoint), "https://s3.%s.amazonaws.com%s", region,
			       strncmp(region, "cn-", 3) == 0 ? ".cn" : "");
	host = strstr(endpoint, "://") + 3;
	if (path_style)
		(void)snprintf(s3->base, sizeof(s3->base), "%s/%s", endpoint, url->place);
	else
		(void)snprintf(s3->base, sizeof(s3->base), "%.*s%s.%s", (int)(host - endpoint), endpoint, url->place,
			       host);
}

void *dpa_s3_new(const struct dpa_bucket_url *url, struct dpa_web *http, dpa_getenv_fn *env, struct ks_err *err)
{
	const char *region = default_region(url, env);
	struct s3 *s3;

	if (!is_bucket(url->place)) {
		(void)ks_fail(err, KS_INVALID_ARGUMENT, "\"%s\" is no name of a bucket", url->place);
		return NULL;
	}
	if (!region[0]) {
		(void)ks_fail(err, KS_INVALID_ARGUMENT, "no region: add ?region=… to the URL, or set AWS_REGION");
		return NULL;
	}
	if (!is_region(region) || strlen(region) > 63) {
		(void)ks_fail(err, KS_INVALID_ARGUMENT, "\"%s\" is no name of a region", region);
		return NULL;
	}
	s3 = ks_xcalloc(1, sizeof(*s3));
	s3->http = http;
	(void)snprintf(s3->bucket, sizeof(s3->bucket), "%s", url->place);
	(void)snprintf(s3->sigv4, sizeof(s3->sigv4), "aws:amz:%s:s3", region);
	set_base(s3, url, region);
	s3->identity = dpa_aws_identity_new(region, http, env, err);
	if (s3->identity)
		return s3;
	free(s3);
	return NULL;
}

static void s3_free(void *store)
{
	struct s3 *s3 = store;

	dpa_aws_identity_free(s3->identity);
	free(s3);
}

/* ---- errors ---- */

struct s3_error {
	char code[64], message[512];
};

static bool take_error(void *ctx, const char *path, const char *text)
{
	struct s3_error *error = ctx;

	if (strcmp(path, "Error/Code") == 0)
		(void)snprintf(error->code, sizeof(error->code), "%s", text);
	if (strcmp(path, "Error/Message") == 0)
		(void)snprintf(error->message, sizeof(error->message), "%s", text);
	return true;
}

static enum ks_status status_of(const struct dpa_web_answer *answer, const struct s3_error *error)
{
	if (answer->status == 404)
		return KS_NOT_FOUND;
	if (answer->status == 412)
		return KS_ALREADY_EXISTS;
	if (answer->status == 501)
		return KS_UNIMPLEMENTED;
	if (answer->status == 401 || answer->status == 403 || strcmp(error->code, "ExpiredToken") == 0 ||
	    strcmp(error->code, "InvalidToken") == 0)
		return KS_PERMISSION_DENIED;
	return KS_UNAVAILABLE;
}

/* What the server says, without the keys that it may repeat. */
static enum ks_status refused(struct s3 *s3, const char *what, const struct dpa_web_answer *answer,
			      struct s3_error *error, struct ks_err *err)
{
	const struct dpa_aws_keys *keys;
	const char *secrets[3] = {0};
	char code[64], message[128];
	enum ks_status status;

	*error = (struct s3_error){0};
	/* Not all answers have a body that says more. */
	if (dpa_xml_read(ks_slice_of(answer->body.data, answer->body.size), take_error, error, NULL) != KS_OK)
		*error = (struct s3_error){0};
	status = status_of(answer, error);
	if (answer->status == 301 || answer->status == 307 || answer->status == 400) {
		if (answer->region[0] && !strstr(s3->sigv4, answer->region))
			return ks_fail(err, KS_UNAVAILABLE, "%s: the bucket is in region \"%.40s\"", what,
				       answer->region);
	}
	/* They are there: something was signed with them. */
	if (dpa_aws_identity_keys(s3->identity, &keys, NULL) == KS_OK) {
		secrets[0] = keys->id;
		secrets[1] = keys->secret;
		secrets[2] = keys->token;
	}
	dpa_web_quote(error->code, secrets, 3, code, sizeof(code));
	dpa_web_quote(error->message, secrets, 3, message, sizeof(message));
	return ks_fail(err, status, "%s: status %d%s%s%s%s", what, answer->status, code[0] ? " " : "", code,
		       message[0] ? ": " : "", message);
}

/* ---- requests ---- */

static bool digest_of(struct ks_slice body, char *hex)
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned int size = 0;

	if (EVP_Digest(body.data ? body.data : (const unsigned char *)"", body.size, digest, &size, EVP_sha256(),
		       NULL) != 1)
		return false;
	for (unsigned int i = 0; i < size; i++)
		(void)snprintf(hex + 2 * i, 3, "%02x", digest[i]);
	return true;
}

/* Keys, digest, one request. 'request' has url, method and body; the headers are made here. A body is always written only where nothing is. */
static enum ks_status perform_signed(struct s3 *s3, struct dpa_web_request *request, struct dpa_web_answer *answer,
				     struct ks_err *err)
{
	static char type[] = "content-type: application/octet-stream", new_only[] = "if-none-match: *";
	const struct dpa_aws_keys *keys;
	char digest[64 + 40] = "x-amz-content-sha256: ";
	char *token = NULL;
	enum ks_status status = dpa_aws_identity_keys(s3->identity, &keys, err);
	int count = 0;

	*answer = (struct dpa_web_answer){0};
	ks_buf_init(&answer->body, 0);
	if (status != KS_OK)
		return status;
	if (!digest_of(request->body, digest + strlen(digest)))
		return ks_fail(err, KS_INTERNAL, "SHA-256 is not available");
	request->headers[count++] = digest;
	if (keys->token[0] && asprintf(&token, "x-amz-security-token: %s", keys->token) < 0)
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
	if (token)
		request->headers[count++] = token;
	if (request->has_body) {
		request->headers[count++] = type;
		request->headers[count++] = new_only;
	}
	request->headers[count] = NULL; /* four at most: there is room */
	request->sigv4 = s3->sigv4;
	request->user = keys->id;
	request->password = keys->secret;
	status = dpa_web_perform(s3->http, request, answer, err);
	if (token)
		explicit_bzero(token, strlen(token));
	free(token);
	return status;
}

/* The same, again with new keys when the server finds these expired. An answer that is not 'good' (nor 'good2') becomes an error. */
static enum ks_status perform(struct s3 *s3, struct dpa_web_request *request, const char *what, int good, int good2,
			      struct dpa_web_answer *answer, struct s3_error *error, struct ks_err *err)
{
	for (bool again = true;; again = false) {
		enum ks_status status = perform_signed(s3, request, answer, err);

		if (status != KS_OK || answer->status == good || answer->status == good2)
			return status;
		status = refused(s3, what, answer, error, err);
		if (!again || status != KS_PERMISSION_DENIED || !dpa_aws_identity_forget(s3->identity))
			return status;
		dpa_web_answer_fini(answer);
	}
}

static char *object_url(struct s3 *s3, const char *name)
{
	struct ks_buf url;
	size_t size;

	ks_buf_init(&url, 8192);
	ks_buf_printf(&url, "%s/", s3->base);
	dpa_web_encode(&url, name, true);
	ks_buf_append(&url, "", 1);
	if (url.failed)
		ks_panic(__FILE__, __LINE__, "an object's URL is bounded");
	return (char *)ks_buf_take(&url, &size);
}

static enum ks_status s3_get(void *store, const char *name, int64_t size, struct ks_buf *out, struct ks_err *err)
{
	struct s3 *s3 = store;
	char *url = object_url(s3, name);
	struct dpa_web_request request = {.method = "GET",
					  .url = url,
					  .max_answer = out->max > MAX_ERROR ? out->max : MAX_ERROR,
					  .answer_size = size};
	struct dpa_web_answer answer;
	struct s3_error error;
	enum ks_status status = perform(s3, &request, name, 200, 200, &answer, &error, err);

	if (status == KS_OK) {
		ks_buf_fini(out);
		*out = answer.body;
		ks_buf_init(&answer.body, 0);
	}
	dpa_web_answer_fini(&answer);
	free(url);
	return status;
}

static enum ks_status s3_put_new(void *store, const char *name, struct ks_slice bytes, struct ks_err *err)
{
	struct s3 *s3 = store;
	char *url = object_url(s3, name);
	enum ks_status status = KS_ABORTED;

	for (int i = 0; i < CONFLICTS && status == KS_ABORTED; i++) {
		struct dpa_web_request request = {
			.method = "PUT", .url = url, .body = bytes, .has_body = true, .max_answer = MAX_ERROR};
		struct dpa_web_answer answer;
		struct s3_error error;

		status = perform(s3, &request, name, 200, 201, &answer, &error, err);
		/* AWS: another conditional write or a deletion of this name is under way; ask again. */
		if (status == KS_UNAVAILABLE && answer.status == 409)
			status = KS_ABORTED;
		dpa_web_answer_fini(&answer);
	}
	free(url);
	return status == KS_ABORTED ? KS_UNAVAILABLE : status;
}

static enum ks_status s3_del(void *store, const char *name, struct ks_err *err)
{
	struct s3 *s3 = store;
	char *url = object_url(s3, name);
	struct dpa_web_request request = {.method = "DELETE", .url = url, .max_answer = MAX_ERROR};
	struct dpa_web_answer answer;
	struct s3_error error;
	enum ks_status status = perform(s3, &request, name, 204, 200, &answer, &error, err);

	if (status == KS_NOT_FOUND && strcmp(error.code, "NoSuchBucket") != 0)
		status = KS_OK;
	dpa_web_answer_fini(&answer);
	free(url);
	return status;
}

/* ---- lists ---- */

static void put_parameter(struct ks_buf *url, const char *name, const char *value)
{
	ks_buf_printf(url, "%s=", name);
	dpa_web_encode(url, value, false);
}

/* Parameters in the order that SigV4 wants. */
static void put_list_url(struct s3 *s3, const char *token, const char *prefix, struct ks_buf *url)
{
	ks_buf_printf(url, "%s%s?", s3->base, strchr(strstr(s3->base, "://") + 3, '/') ? "" : "/");
	if (token[0]) {
		put_parameter(url, "continuation-token", token);
		ks_buf_append(url, "&", 1);
	}
	put_parameter(url, "list-type", "2");
	put_parameter(url, "&prefix", prefix);
	ks_buf_append(url, "", 1);
}

static enum ks_status fetch_page(void *store, const char *prefix, const char *token, struct dpa_web_answer *answer,
				 struct ks_err *err)
{
	struct dpa_web_request request = {.method = "GET", .max_answer = MAX_LIST};
	struct s3 *s3 = store;
	struct s3_error error;
	enum ks_status status;
	struct ks_buf url;
	char what[300];

	(void)snprintf(what, sizeof(what), "the list of bucket %s", s3->bucket);
	ks_buf_init(&url, 16384);
	put_list_url(s3, token, prefix, &url);
	KS_ASSERT(!url.failed);
	request.url = (const char *)url.data;
	status = perform(s3, &request, what, 200, 200, answer, &error, err);
	ks_buf_fini(&url);
	return status;
}

static enum ks_status s3_list(void *store, const char *prefix, dpa_listed_fn *fn, void *ctx, struct ks_err *err)
{
	struct s3 *s3 = store;
	char what[300];

	(void)snprintf(what, sizeof(what), "the list of bucket %s", s3->bucket);
	return dpa_pages_walk(s3, fetch_page, dpa_pages_take_s3, prefix, what, fn, ctx, err);
}

const struct dpa_bucket_ops dpa_s3_ops = {
	.list = s3_list, .get = s3_get, .put_new = s3_put_new, .del = s3_del, .free = s3_free};
