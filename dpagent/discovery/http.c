/* SPDX-License-Identifier: Apache-2.0 */
#include "discovery/http.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "base/buf.h"
#include "base/list.h"
#include "base/panic.h"
#include "discovery/answers.h"

struct dpa_http {
	CURLM *multi;
};

struct dpa_transfer {
	CURL *easy;
	struct curl_slist *headers;
	struct ks_buf body;
	uint64_t consul_index;
	dpa_http_done_fn *done;
	void *ctx;
	bool too_large;
	char error[CURL_ERROR_SIZE];
};

static void init_curl(void)
{
	KS_ASSERT(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK);
}

struct dpa_http *dpa_fetch_new(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct dpa_http *http = ks_xcalloc(1, sizeof(*http));

	(void)pthread_once(&once, init_curl);
	http->multi = curl_multi_init();
	if (http->multi)
		return http;
	free(http);
	return NULL;
}

void dpa_fetch_free(struct dpa_http *http)
{
	if (!http)
		return;
	(void)curl_multi_cleanup(http->multi);
	free(http);
}

static void free_transfer(struct dpa_transfer *transfer)
{
	curl_easy_cleanup(transfer->easy);
	curl_slist_free_all(transfer->headers);
	ks_buf_fini(&transfer->body);
	free(transfer);
}

static size_t take_body(char *data, size_t size, size_t count, void *ctx)
{
	struct dpa_transfer *transfer = ctx;

	ks_buf_append(&transfer->body, data, size * count);
	transfer->too_large = transfer->body.failed;
	return transfer->too_large ? 0 : size * count;
}

static size_t take_header(char *data, size_t size, size_t count, void *ctx)
{
	static const char name[] = "X-Consul-Index:";
	struct dpa_transfer *transfer = ctx;
	size_t total = size * count;
	char number[32];

	if (total > sizeof(name) - 1 && total - sizeof(name) < sizeof(number) &&
	    strncasecmp(data, name, sizeof(name) - 1) == 0) {
		memcpy(number, data + sizeof(name) - 1, total - (sizeof(name) - 1));
		number[total - (sizeof(name) - 1)] = '\0';
		transfer->consul_index = strtoull(number, NULL, 10);
	}
	return total;
}

/* Sticky: one refusal of an option is a refusal of the whole. */
#define SET(option, value) (fine = fine && curl_easy_setopt(easy, option, value) == CURLE_OK)

static bool set_up(struct dpa_transfer *transfer, const struct dpa_http_request *request)
{
	CURL *easy = transfer->easy;
	const struct dpa_server *server = request->server;
	int64_t total_ms = request->config->connect_ms + request->config->read_ms + request->wait_ms;
	char *url = NULL;
	bool fine = asprintf(&url, "%s%s", server->url, request->path) > 0;

	SET(CURLOPT_URL, url);
	free(url);
	SET(CURLOPT_PROTOCOLS_STR, "http,https");
	SET(CURLOPT_PROXY, "");
	SET(CURLOPT_NOSIGNAL, 1L);
	SET(CURLOPT_QUICK_EXIT, 1L); /* a host name that takes long to look up does not hold up the end */
	SET(CURLOPT_USERAGENT, "dpagent");
	SET(CURLOPT_ERRORBUFFER, transfer->error);
	SET(CURLOPT_PRIVATE, transfer);
	SET(CURLOPT_WRITEFUNCTION, take_body);
	SET(CURLOPT_WRITEDATA, transfer);
	SET(CURLOPT_HEADERFUNCTION, take_header);
	SET(CURLOPT_HEADERDATA, transfer);
	SET(CURLOPT_ACCEPT_ENCODING, "");
	SET(CURLOPT_CONNECTTIMEOUT_MS, (long)request->config->connect_ms);
	SET(CURLOPT_TIMEOUT_MS, (long)total_ms);
	SET(CURLOPT_TCP_KEEPALIVE, 1L);
	SET(CURLOPT_HTTPHEADER, transfer->headers);
	if (request->config->ca_file)
		SET(CURLOPT_CAINFO, request->config->ca_file);
	if (request->basic && server->user) {
		SET(CURLOPT_HTTPAUTH, (long)CURLAUTH_BASIC);
		SET(CURLOPT_USERNAME, server->user);
		SET(CURLOPT_PASSWORD, server->password ? server->password : "");
	}
	if (request->form)
		SET(CURLOPT_COPYPOSTFIELDS, request->form);
	return fine;
}

static bool add_header(struct dpa_transfer *transfer, const char *line)
{
	struct curl_slist *longer = curl_slist_append(transfer->headers, line);

	if (!longer)
		return false;
	transfer->headers = longer;
	return true;
}

struct dpa_transfer *dpa_fetch_start(struct dpa_http *http, const struct dpa_http_request *request,
				     dpa_http_done_fn *done, void *ctx)
{
	struct dpa_transfer *transfer = ks_xcalloc(1, sizeof(*transfer));

	ks_buf_init(&transfer->body, DPA_ANSWER_MAX);
	transfer->done = done;
	transfer->ctx = ctx;
	transfer->easy = curl_easy_init();
	if (transfer->easy && add_header(transfer, "Accept: application/json") &&
	    (!request->header || add_header(transfer, request->header)) && set_up(transfer, request) &&
	    curl_multi_add_handle(http->multi, transfer->easy) == CURLM_OK)
		return transfer;
	free_transfer(transfer);
	return NULL;
}

void dpa_fetch_cancel(struct dpa_http *http, struct dpa_transfer *transfer)
{
	if (!transfer)
		return;
	(void)curl_multi_remove_handle(http->multi, transfer->easy);
	free_transfer(transfer);
}

static void finish(struct dpa_http *http, CURL *easy, CURLcode code)
{
	struct dpa_transfer *transfer = NULL;
	struct dpa_http_answer answer = {.ok = code == CURLE_OK};

	(void)curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&transfer);
	(void)curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &answer.status);
	(void)curl_multi_remove_handle(http->multi, easy);
	if (transfer->too_large)
		answer.error = "the answer is too large";
	else if (!answer.ok)
		answer.error = transfer->error[0] ? transfer->error : curl_easy_strerror(code);
	answer.body = ks_slice_of(transfer->body.data, transfer->body.size);
	answer.consul_index = transfer->consul_index;
	transfer->done(transfer->ctx, &answer);
	free_transfer(transfer);
}

void dpa_fetch_run(struct dpa_http *http, struct curl_waitfd *extra, unsigned extra_count, int64_t wait_ms)
{
	CURLMsg *message;
	int left;

	(void)curl_multi_poll(http->multi, extra, extra_count, (int)wait_ms, NULL);
	(void)curl_multi_perform(http->multi, &left);
	while ((message = curl_multi_info_read(http->multi, &left))) {
		if (message->msg == CURLMSG_DONE)
			finish(http, message->easy_handle, message->data.result);
	}
}

void dpa_fetch_wake(struct dpa_http *http)
{
	(void)curl_multi_wakeup(http->multi);
}

char *dpa_http_escape(const char *text)
{
	char *escaped = curl_easy_escape(NULL, text, (int)strlen(text));
	char *copy;

	KS_ASSERT(escaped);
	copy = ks_xstrdup(escaped);
	curl_free(escaped);
	return copy;
}
