/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP over libcurl's easy interface, see http.h. */
#include "fallback/http.h"

#include <ctype.h>
#include <curl/curl.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/backoff.h"
#include "base/clock.h"
#include "base/panic.h"
#include "base/thread.h"

#define DEFAULT_TIMEOUT_MS 30000
#define CONNECT_TIMEOUT_MS 10000
#define ATTEMPTS 3
#define MIN_BACKOFF_MS 200
#define MAX_BACKOFF_MS 2000
#define MAX_RETRY_AFTER_MS 10000
/* A request has its time-out and what its body takes at this rate: slower lines are as good as none. */
#define SLOWEST_BYTES_PER_MS 64

struct dpa_web {
	struct ks_mutex busy; /* guards curl: held during a request */
	CURL *curl;
	char *ca_file;
	int64_t timeout_ms;
	_Atomic bool cancelled;
	struct ks_mutex lock; /* with changed: wakes who waits between two attempts */
	struct ks_cond changed;
};

/* What the call-backs of one attempt need. */
struct attempt {
	struct dpa_web *http;
	const struct dpa_web_request *request;
	struct dpa_web_answer *answer;
	size_t sent;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static CURLcode global_code;

static void init_curl(void)
{
	global_code = curl_global_init(CURL_GLOBAL_DEFAULT);
}

struct dpa_web *dpa_web_new(const char *ca_file, int64_t timeout_ms, struct ks_err *err)
{
	struct dpa_web *http;
	CURL *curl = NULL;

	if (pthread_once(&once, init_curl) == 0 && global_code == CURLE_OK)
		curl = curl_easy_init();
	if (!curl) {
		(void)ks_fail(err, KS_INTERNAL, "libcurl cannot be set up");
		return NULL;
	}
	http = ks_xcalloc(1, sizeof(*http));
	http->curl = curl;
	http->ca_file = ca_file ? ks_xstrdup(ca_file) : NULL;
	http->timeout_ms = timeout_ms > 0 ? timeout_ms : DEFAULT_TIMEOUT_MS;
	ks_mutex_init(&http->busy);
	ks_mutex_init(&http->lock);
	ks_cond_init(&http->changed);
	return http;
}

void dpa_web_free(struct dpa_web *http)
{
	if (!http)
		return;
	curl_easy_cleanup(http->curl);
	free(http->ca_file);
	ks_cond_fini(&http->changed);
	ks_mutex_fini(&http->lock);
	ks_mutex_fini(&http->busy);
	free(http);
}

void dpa_web_cancel(struct dpa_web *http, bool cancel)
{
	ks_mutex_lock(&http->lock);
	atomic_store(&http->cancelled, cancel);
	ks_cond_broadcast(&http->changed);
	ks_mutex_unlock(&http->lock);
}

void dpa_web_answer_fini(struct dpa_web_answer *answer)
{
	ks_buf_fini(&answer->body);
}

/* ---- call-backs of libcurl ---- */

static size_t take_body(char *data, size_t size, size_t count, void *ctx)
{
	struct attempt *attempt = ctx;

	ks_buf_append(&attempt->answer->body, data, size * count);
	return attempt->answer->body.failed ? 0 : size * count;
}

static size_t give_body(char *out, size_t size, size_t count, void *ctx)
{
	struct attempt *attempt = ctx;
	size_t left = attempt->request->body.size - attempt->sent;
	size_t part = size * count < left ? size * count : left;

	if (part > 0)
		memcpy(out, attempt->request->body.data + attempt->sent, part);
	attempt->sent += part;
	return part;
}

/* libcurl sends the body again when a connection that was kept turns out to be dead. */
static int rewind_body(void *ctx, curl_off_t offset, int origin)
{
	struct attempt *attempt = ctx;

	if (origin != SEEK_SET || offset < 0 || (size_t)offset > attempt->request->body.size)
		return CURL_SEEKFUNC_CANTSEEK;
	attempt->sent = (size_t)offset;
	return CURL_SEEKFUNC_OK;
}

/* Copies the value when the line is that header. */
static bool header_value(const char *line, size_t size, const char *name, char *out, size_t room)
{
	size_t name_size = strlen(name);

	if (size <= name_size || line[name_size] != ':' || strncasecmp(line, name, name_size) != 0)
		return false;
	line += name_size + 1;
	size -= name_size + 1;
	while (size > 0 && (*line == ' ' || *line == '\t')) {
		line++;
		size--;
	}
	while (size > 0 && isspace((unsigned char)line[size - 1]))
		size--;
	(void)snprintf(out, room, "%.*s", (int)(size < room ? size : room), line);
	return true;
}

static size_t take_header(char *line, size_t size, size_t count, void *ctx)
{
	struct attempt *attempt = ctx;
	struct dpa_web_answer *answer = attempt->answer;
	char seconds[16];

	(void)header_value(line, size * count, "x-amz-bucket-region", answer->region, sizeof(answer->region));
	(void)header_value(line, size * count, "x-ms-error-code", answer->error_code, sizeof(answer->error_code));
	if (header_value(line, size * count, "Retry-After", seconds, sizeof(seconds))) {
		long value = strtol(seconds, NULL, 10);

		answer->retry_ms = value > 0 && value < MAX_RETRY_AFTER_MS / 1000 ? value * 1000 : 0;
	}
	return size * count;
}

static int is_cancelled(void *ctx, curl_off_t all_in, curl_off_t in, curl_off_t all_out, curl_off_t out)
{
	struct attempt *attempt = ctx;

	(void)all_in, (void)in, (void)all_out, (void)out;
	return atomic_load(&attempt->http->cancelled);
}

/* ---- one attempt ---- */

/* The scheme, host and port of a URL: what may be shown of it. */
static void show_host(const char *url, char *out, size_t room)
{
	const char *host = strstr(url, "://");
	size_t size = host ? (size_t)(host - url) + 3 + strcspn(host + 3, "/?#") : 0;

	(void)snprintf(out, room, "%.*s", (int)size, url);
}

static bool set_options(CURL *curl, struct attempt *attempt, struct curl_slist *headers, char *text)
{
	const struct dpa_web_request *request = attempt->request;
	struct dpa_web *http = attempt->http;
	int64_t limit = request->timeout_ms ? request->timeout_ms : http->timeout_ms;
	int64_t bytes = (int64_t)request->body.size + request->answer_size;
	CURLcode bad = CURLE_OK;

#define SET(option, value)                                             \
	do {                                                           \
		CURLcode code = curl_easy_setopt(curl, option, value); \
		bad = bad ? bad : code;                                \
	} while (0)
	SET(CURLOPT_URL, request->url);
	SET(CURLOPT_PATH_AS_IS, 1L);
	SET(CURLOPT_PROTOCOLS_STR, "http,https");
	SET(CURLOPT_FOLLOWLOCATION, 0L);
	SET(CURLOPT_NOSIGNAL, 1L);
	SET(CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
	SET(CURLOPT_ERRORBUFFER, text);
	SET(CURLOPT_CONNECTTIMEOUT_MS, (long)(limit < CONNECT_TIMEOUT_MS ? limit : CONNECT_TIMEOUT_MS));
	SET(CURLOPT_TIMEOUT_MS, (long)(limit + bytes / SLOWEST_BYTES_PER_MS));
	SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	SET(CURLOPT_SSL_VERIFYPEER, 1L);
	SET(CURLOPT_SSL_VERIFYHOST, 2L);
	if (http->ca_file) {
		SET(CURLOPT_CAINFO, http->ca_file);
		SET(CURLOPT_CAPATH, NULL);
	}
	if (request->local)
		SET(CURLOPT_NOPROXY, "*");
	SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	SET(CURLOPT_HTTPHEADER, headers);
	SET(CURLOPT_WRITEFUNCTION, take_body);
	SET(CURLOPT_WRITEDATA, attempt);
	SET(CURLOPT_HEADERFUNCTION, take_header);
	SET(CURLOPT_HEADERDATA, attempt);
	SET(CURLOPT_NOPROGRESS, 0L);
	SET(CURLOPT_XFERINFOFUNCTION, is_cancelled);
	SET(CURLOPT_XFERINFODATA, attempt);
	if (request->has_body) {
		SET(CURLOPT_UPLOAD, 1L);
		SET(CURLOPT_READFUNCTION, give_body);
		SET(CURLOPT_READDATA, attempt);
		SET(CURLOPT_SEEKFUNCTION, rewind_body);
		SET(CURLOPT_SEEKDATA, attempt);
		SET(CURLOPT_INFILESIZE_LARGE, (curl_off_t)request->body.size);
	}
	SET(CURLOPT_CUSTOMREQUEST, request->method);
	if (request->sigv4) {
		SET(CURLOPT_AWS_SIGV4, request->sigv4);
		SET(CURLOPT_USERNAME, request->user);
		SET(CURLOPT_PASSWORD, request->password);
	}
#undef SET
	return bad == CURLE_OK;
}

static enum ks_status failed(struct attempt *attempt, CURLcode code, const char *text, struct ks_err *err)
{
	char host[160];

	show_host(attempt->request->url, host, sizeof(host));
	if (code == CURLE_ABORTED_BY_CALLBACK)
		return ks_fail(err, KS_CANCELLED, "%s: cancelled", host);
	if (code == CURLE_WRITE_ERROR && attempt->answer->body.failed)
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "%s: the answer is larger than %zu bytes", host,
			       attempt->request->max_answer);
	if (code == CURLE_OPERATION_TIMEDOUT)
		return ks_fail(err, KS_DEADLINE_EXCEEDED, "%s does not answer in time", host);
	return ks_fail(err, KS_UNAVAILABLE, "%s: %s", host, text[0] ? text : curl_easy_strerror(code));
}

static enum ks_status try_once(struct attempt *attempt, struct ks_err *err)
{
	CURL *curl = attempt->http->curl;
	struct curl_slist *headers = NULL;
	char text[CURL_ERROR_SIZE] = "";
	CURLcode code = CURLE_OUT_OF_MEMORY;
	long status = 0;
	bool fine = true;

	attempt->sent = 0;
	attempt->answer->status = 0;
	attempt->answer->region[0] = attempt->answer->error_code[0] = '\0';
	attempt->answer->retry_ms = 0;
	ks_buf_reset(&attempt->answer->body);
	for (int i = 0; fine && i < DPA_WEB_HEADERS && attempt->request->headers[i]; i++) {
		struct curl_slist *longer = curl_slist_append(headers, attempt->request->headers[i]);

		fine = longer != NULL;
		headers = longer ? longer : headers;
	}
	if (fine && set_options(curl, attempt, headers, text))
		code = curl_easy_perform(curl);
	if (code == CURLE_OK)
		(void)curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
	/* Connections are kept; options, among them pointers to what is ours and the password, are not. */
	curl_easy_reset(curl);
	curl_slist_free_all(headers);
	attempt->answer->status = (int)status;
	return code == CURLE_OK ? KS_OK : failed(attempt, code, text, err);
}

/* ---- several attempts ---- */

static bool is_worth_another(enum ks_status status, int http_status)
{
	if (status == KS_OK)
		return http_status == 429 || http_status == 500 || http_status == 502 || http_status == 503 ||
		       http_status == 504;
	return status == KS_UNAVAILABLE;
}

/* False when it was cancelled meanwhile. */
static bool pause_for(struct dpa_web *http, int64_t wait_ms)
{
	int64_t until = ks_clock_now(ks_clock_system()) + wait_ms;
	bool cancelled;

	ks_mutex_lock(&http->lock);
	while (!(cancelled = atomic_load(&http->cancelled))) {
		int64_t left = until - ks_clock_now(ks_clock_system());

		if (left <= 0)
			break;
		(void)ks_cond_wait(&http->changed, &http->lock, left);
	}
	ks_mutex_unlock(&http->lock);
	return !cancelled;
}

enum ks_status dpa_web_perform(struct dpa_web *http, const struct dpa_web_request *request,
			       struct dpa_web_answer *answer, struct ks_err *err)
{
	struct attempt attempt = {.http = http, .request = request, .answer = answer};
	int attempts = request->local ? 1 : ATTEMPTS;
	struct ks_backoff backoff;
	enum ks_status status;

	*answer = (struct dpa_web_answer){0};
	ks_buf_init(&answer->body, request->max_answer);
	ks_backoff_init(&backoff, MIN_BACKOFF_MS, MAX_BACKOFF_MS, (uint64_t)ks_clock_now(ks_clock_system()) | 1);
	ks_mutex_lock(&http->busy);
	for (;;) {
		int64_t wait_ms;

		if (atomic_load(&http->cancelled)) {
			status = ks_fail(err, KS_CANCELLED, "cancelled");
			break;
		}
		status = try_once(&attempt, err);
		if (--attempts == 0 || !is_worth_another(status, answer->status))
			break;
		wait_ms = ks_backoff_failed(&backoff);
		(void)pause_for(http, answer->retry_ms > wait_ms ? answer->retry_ms : wait_ms);
	}
	ks_mutex_unlock(&http->busy);
	return status;
}

/* ---- texts ---- */

void dpa_web_encode(struct ks_buf *out, const char *text, bool path)
{
	for (; *text; text++) {
		unsigned char byte = (unsigned char)*text;
		bool plain = (byte >= 'A' && byte <= 'Z') || (byte >= 'a' && byte <= 'z') ||
			     (byte >= '0' && byte <= '9') || strchr("-._~", byte) || (path && byte == '/');

		if (plain)
			ks_buf_append(out, text, 1);
		else
			ks_buf_printf(out, "%%%02X", byte);
	}
}

bool dpa_web_url_private(const char *url)
{
	static const char *const local[] = {"127.0.0.1", "localhost", "[::1]"};

	if (strncmp(url, "https://", 8) == 0)
		return true;
	if (strncmp(url, "http://", 7) != 0)
		return false;
	for (size_t i = 0; i < sizeof(local) / sizeof(*local); i++) {
		size_t size = strlen(local[i]);

		if (strncmp(url + 7, local[i], size) == 0 && (!url[7 + size] || strchr(":/", url[7 + size])))
			return true;
	}
	return false;
}

void dpa_web_quote(const char *text, const char *const *secrets, size_t count, char *out, size_t room)
{
	size_t used = 0;

	while (*text && used + 4 < room) {
		size_t hidden = 0;

		for (size_t i = 0; i < count && !hidden; i++) {
			size_t size = secrets[i] ? strlen(secrets[i]) : 0;

			/* Shorter ones are no secrets, and would tear holes into any text. */
			hidden = size >= 4 && strncmp(text, secrets[i], size) == 0 ? size : 0;
		}
		if (hidden) {
			memcpy(out + used, "***", 3);
			used += 3;
			text += hidden;
		} else {
			out[used++] = isprint((unsigned char)*text) ? *text : ' ';
			text++;
		}
	}
	out[used] = '\0';
}
