/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Azure Blob Storage, see bucket.h. A request is signed with the account's key (SharedKey), or carries a SAS token in its query, or the
 * token of an identity (azure_identity.c).
 */
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/panic.h"
#include "fallback/azure_identity.h"
#include "fallback/pages.h"
#include "fallback/xml.h"

#define API_VERSION "2021-12-02"
#define MAX_LIST ((size_t)8 << 20)
#define MAX_ERROR ((size_t)1 << 16)
#define MAX_URL 16384

struct azure {
	struct dpa_web *http; /* borrowed */
	char account[256], container[64];
	char base[800]; /* "https://host/container", with the account in between when the endpoint says so */
	/* One of the three. */
	unsigned char *key;
	size_t key_size;
	char *sas; /* "sv=…&sig=…" */
	struct dpa_azure_identity *identity;
	char *shown_key; /* as it was given, so that it can be hidden in texts */
};

/* One query parameter, as it is, not encoded. */
struct parameter {
	const char *name, *value;
};

/* ---- set-up ---- */

static bool decode_key(struct azure *azure, const char *text)
{
	size_t size = strlen(text);
	int decoded;

	if (size == 0 || size % 4 != 0 || size > 1024)
		return false;
	azure->key = ks_xmalloc(size);
	decoded = EVP_DecodeBlock(azure->key, (const unsigned char *)text, (int)size);
	if (decoded < 0)
		return false;
	/* It counts the padding, too. */
	for (size_t i = size; i > size - 2 && text[i - 1] == '='; i--)
		decoded--;
	azure->key_size = (size_t)decoded;
	azure->shown_key = ks_xstrdup(text);
	return decoded > 0;
}

static bool choose(struct azure *azure, dpa_getenv_fn *env, struct ks_err *err)
{
	const char *key = env("AZURE_STORAGE_KEY"), *sas = env("AZURE_STORAGE_SAS_TOKEN");

	if (key && key[0]) {
		if (decode_key(azure, key))
			return true;
		(void)ks_fail(err, KS_INVALID_ARGUMENT, "AZURE_STORAGE_KEY is not the base64 text of a key");
		return false;
	}
	if (!dpa_web_url_private(azure->base)) {
		(void)ks_fail(err, KS_INVALID_ARGUMENT,
			      "without AZURE_STORAGE_KEY the endpoint must begin with https://");
		return false;
	}
	if (sas && sas[0]) {
		sas += *sas == '?';
		for (const char *at = sas; *at; at++) {
			if (*at <= ' ' || *at > '~' || *at == '#') {
				(void)ks_fail(err, KS_INVALID_ARGUMENT,
					      "AZURE_STORAGE_SAS_TOKEN is not the query of a URL");
				return false;
			}
		}
		azure->sas = ks_xstrdup(sas);
		return true;
	}
	azure->identity = dpa_azure_identity_new(azure->http, env, err);
	return azure->identity != NULL;
}

static void azure_free(void *store)
{
	struct azure *azure = store;

	if (azure->key)
		OPENSSL_cleanse(azure->key, azure->key_size);
	if (azure->shown_key)
		OPENSSL_cleanse(azure->shown_key, strlen(azure->shown_key));
	if (azure->sas)
		OPENSSL_cleanse(azure->sas, strlen(azure->sas));
	free(azure->key);
	free(azure->shown_key);
	free(azure->sas);
	dpa_azure_identity_free(azure->identity);
	free(azure);
}

static bool is_name(const char *text, const char *others)
{
	char allowed[64];
	size_t size = strlen(text);

	(void)snprintf(allowed, sizeof(allowed), "abcdefghijklmnopqrstuvwxyz0123456789%s", others);
	return size >= 3 && size <= 63 && text[strspn(text, allowed)] == '\0';
}

void *dpa_azure_new(const struct dpa_bucket_url *url, struct dpa_web *http, dpa_getenv_fn *env, struct ks_err *err)
{
	struct azure *azure;

	if (!is_name(url->place, "") || (!is_name(url->container, "-") && strcmp(url->container, "$root") != 0)) {
		(void)ks_fail(err, KS_INVALID_ARGUMENT, "the URL is azure://ACCOUNT/CONTAINER/NAME, all in lower case");
		return NULL;
	}
	azure = ks_xcalloc(1, sizeof(*azure));
	azure->http = http;
	(void)snprintf(azure->account, sizeof(azure->account), "%s", url->place);
	(void)snprintf(azure->container, sizeof(azure->container), "%s", url->container);
	if (url->endpoint[0])
		(void)snprintf(azure->base, sizeof(azure->base), "%s/%s", url->endpoint, url->container);
	else
		(void)snprintf(azure->base, sizeof(azure->base), "https://%s.blob.core.windows.net/%s", url->place,
			       url->container);
	if (choose(azure, env, err))
		return azure;
	azure_free(azure);
	return NULL;
}

/* ---- errors ---- */

struct azure_error {
	char message[512];
};

static bool take_error(void *ctx, const char *path, const char *text)
{
	struct azure_error *error = ctx;

	/* Only its first line: the others are numbers and times of the request. */
	if (strcmp(path, "Error/Message") == 0)
		(void)snprintf(error->message, sizeof(error->message), "%.*s", (int)strcspn(text, "\r\n"), text);
	return true;
}

static enum ks_status status_of(const struct dpa_web_answer *answer)
{
	if (answer->status == 404)
		return KS_NOT_FOUND;
	if (answer->status == 412 || (answer->status == 409 && strcmp(answer->error_code, "BlobAlreadyExists") == 0))
		return KS_ALREADY_EXISTS;
	/* Who may create but not write is told in this way that it is there. */
	if (answer->status == 403 && strcmp(answer->error_code, "UnauthorizedBlobOverwrite") == 0)
		return KS_ALREADY_EXISTS;
	if (answer->status == 401 || answer->status == 403)
		return KS_PERMISSION_DENIED;
	if (answer->status == 501)
		return KS_UNIMPLEMENTED;
	return KS_UNAVAILABLE;
}

static enum ks_status refused(struct azure *azure, const char *what, const struct dpa_web_answer *answer,
			      struct ks_err *err)
{
	const char *secrets[] = {azure->shown_key, azure->sas};
	struct azure_error error = {0};
	char code[64], message[128];

	if (dpa_xml_read(ks_slice_of(answer->body.data, answer->body.size), take_error, &error, NULL) != KS_OK)
		error = (struct azure_error){0};
	dpa_web_quote(answer->error_code, secrets, 2, code, sizeof(code));
	/* What is said of signatures quotes them. */
	if (answer->status == 403 || answer->status == 401)
		error.message[strcspn(error.message, ".'\"")] = '\0';
	dpa_web_quote(error.message, secrets, 2, message, sizeof(message));
	return ks_fail(err, status_of(answer), "%s: status %d%s%s%s%s", what, answer->status, code[0] ? " " : "", code,
		       message[0] ? ": " : "", message);
}

/* ---- requests ---- */

static void put_url(const struct azure *azure, const char *name, const struct parameter *parameters, struct ks_buf *url)
{
	char between = '?';

	ks_buf_printf(url, "%s", azure->base);
	if (name[0]) {
		ks_buf_append(url, "/", 1);
		dpa_web_encode(url, name, true);
	}
	for (; parameters->name; parameters++) {
		ks_buf_printf(url, "%c%s=", between, parameters->name);
		dpa_web_encode(url, parameters->value, false);
		between = '&';
	}
	if (azure->sas)
		ks_buf_printf(url, "%c%s", between, azure->sas);
	ks_buf_append(url, "", 1);
}

/* "Authorization: SharedKey account:signature", malloc-ed; NULL when it cannot be made. 'parameters' are sorted by name. */
static char *shared_key(const struct azure *azure, const char *method, const char *url,
			const struct parameter *parameters, const char *date, bool put, size_t body_size)
{
	const char *path = strchr(strstr(url, "://") + 3, '/');
	unsigned char digest[EVP_MAX_MD_SIZE], text[2 * EVP_MAX_MD_SIZE];
	unsigned int digest_size = 0;
	char length[32] = "", *header = NULL;
	struct ks_buf line;

	if (body_size > 0)
		(void)snprintf(length, sizeof(length), "%zu", body_size);
	ks_buf_init(&line, 2 * MAX_URL);
	/* Encoding, language, length, MD5, type, date, if-modified-since, if-match, if-none-match, if-unmodified-since, range. */
	ks_buf_printf(&line, "%s\n\n\n%s\n\n%s\n\n\n\n%s\n\n\n", method, length, put ? "application/octet-stream" : "",
		      put ? "*" : "");
	if (put)
		ks_buf_printf(&line, "x-ms-blob-type:BlockBlob\n");
	ks_buf_printf(&line, "x-ms-date:%s\nx-ms-version:%s\n/%s%.*s", date, API_VERSION, azure->account,
		      (int)strcspn(path, "?"), path);
	for (; parameters->name; parameters++)
		ks_buf_printf(&line, "\n%s:%s", parameters->name, parameters->value);
	if (!line.failed &&
	    HMAC(EVP_sha256(), azure->key, (int)azure->key_size, line.data, line.size, digest, &digest_size)) {
		(void)EVP_EncodeBlock(text, digest, (int)digest_size);
		if (asprintf(&header, "Authorization: SharedKey %s:%s", azure->account, (char *)text) < 0)
			header = NULL;
	}
	ks_buf_fini(&line);
	return header;
}

/* One signed request; "" for the container itself. What is not answered with 'good' becomes an error that names 'what'. */
static enum ks_status perform(struct azure *azure, const char *method, const char *name,
			      const struct parameter *parameters, struct dpa_web_request *request, const char *what,
			      int good, struct dpa_web_answer *answer, struct ks_err *err)
{
	static char type[] = "Content-Type: application/octet-stream", new_only[] = "If-None-Match: *";
	static char blob[] = "x-ms-blob-type: BlockBlob", version[] = "x-ms-version: " API_VERSION;
	char date[64], date_header[80], *authorization = NULL;
	time_t now = time(NULL);
	struct ks_buf url;
	enum ks_status status = KS_OK;
	struct tm parts;
	int count = 0;

	*answer = (struct dpa_web_answer){0};
	ks_buf_init(&answer->body, 0);
	ks_buf_init(&url, MAX_URL);
	put_url(azure, name, parameters, &url);
	(void)gmtime_r(&now, &parts);
	(void)strftime(date, sizeof(date), "%a, %d %b %Y %H:%M:%S GMT", &parts);
	(void)snprintf(date_header, sizeof(date_header), "x-ms-date: %s", date);
	if (url.failed)
		status = ks_fail(err, KS_INVALID_ARGUMENT, "%s: its URL is too long", what);
	else if (azure->identity)
		status = dpa_azure_identity_header(azure->identity, &authorization, err);
	else if (azure->key) {
		authorization = shared_key(azure, method, (const char *)url.data, parameters, date, request->has_body,
					   request->body.size);
		if (!authorization)
			status = ks_fail(err, KS_INTERNAL, "HMAC-SHA256 is not available");
	}
	if (status == KS_OK) {
		request->method = method;
		request->url = (const char *)url.data;
		request->headers[count++] = date_header;
		request->headers[count++] = version;
		if (request->has_body) {
			request->headers[count++] = type;
			request->headers[count++] = new_only;
			request->headers[count++] = blob;
		}
		if (authorization)
			request->headers[count++] = authorization;
		request->headers[count] = NULL;
		status = dpa_web_perform(azure->http, request, answer, err);
		if (status == KS_OK && answer->status != good)
			status = refused(azure, what, answer, err);
	}
	if (authorization)
		OPENSSL_cleanse(authorization, strlen(authorization));
	free(authorization);
	if (url.data)
		OPENSSL_cleanse(url.data, url.size);
	ks_buf_fini(&url);
	return status;
}

static enum ks_status azure_get(void *store, const char *name, int64_t size, struct ks_buf *out, struct ks_err *err)
{
	struct dpa_web_request request = {.max_answer = out->max > MAX_ERROR ? out->max : MAX_ERROR,
					  .answer_size = size};
	const struct parameter none = {0};
	struct dpa_web_answer answer;
	enum ks_status status = perform(store, "GET", name, &none, &request, name, 200, &answer, err);

	if (status == KS_OK) {
		ks_buf_fini(out);
		*out = answer.body;
		ks_buf_init(&answer.body, 0);
	}
	dpa_web_answer_fini(&answer);
	return status;
}

static enum ks_status azure_put_new(void *store, const char *name, struct ks_slice bytes, struct ks_err *err)
{
	struct dpa_web_request request = {.body = bytes, .has_body = true, .max_answer = MAX_ERROR};
	const struct parameter none = {0};
	struct dpa_web_answer answer;
	enum ks_status status = perform(store, "PUT", name, &none, &request, name, 201, &answer, err);

	dpa_web_answer_fini(&answer);
	return status;
}

static enum ks_status azure_del(void *store, const char *name, struct ks_err *err)
{
	struct dpa_web_request request = {.max_answer = MAX_ERROR};
	const struct parameter none = {0};
	struct dpa_web_answer answer;
	enum ks_status status = perform(store, "DELETE", name, &none, &request, name, 202, &answer, err);

	if (status == KS_NOT_FOUND && strcmp(answer.error_code, "ContainerNotFound") != 0)
		status = KS_OK;
	dpa_web_answer_fini(&answer);
	return status;
}

/* ---- lists ---- */

static enum ks_status fetch_page(void *store, const char *prefix, const char *token, struct dpa_web_answer *answer,
				 struct ks_err *err)
{
	const struct parameter first[] = {{"comp", "list"}, {"prefix", prefix}, {"restype", "container"}, {NULL, NULL}};
	const struct parameter next[] = {
		{"comp", "list"}, {"marker", token}, {"prefix", prefix}, {"restype", "container"}, {NULL, NULL}};
	struct dpa_web_request request = {.max_answer = MAX_LIST};
	struct azure *azure = store;
	char what[128];

	(void)snprintf(what, sizeof(what), "the list of container %s", azure->container);
	return perform(azure, "GET", "", token[0] ? next : first, &request, what, 200, answer, err);
}

static enum ks_status azure_list(void *store, const char *prefix, dpa_listed_fn *fn, void *ctx, struct ks_err *err)
{
	struct azure *azure = store;
	char what[128];

	(void)snprintf(what, sizeof(what), "the list of container %s", azure->container);
	return dpa_pages_walk(azure, fetch_page, dpa_pages_take_azure, prefix, what, fn, ctx, err);
}

const struct dpa_bucket_ops dpa_azure_ops = {
	.list = azure_list, .get = azure_get, .put_new = azure_put_new, .del = azure_del, .free = azure_free};
