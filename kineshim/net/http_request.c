/* SPDX-License-Identifier: Apache-2.0 */
/* A request: what it asks for, who may ask it here, and answers that are no RPC's. See http.h and http_priv.h. */
#include <stdlib.h>
#include <strings.h>

#include "base/panic.h"
#include "net/gateway.h"
#include "net/http_priv.h"

#define TEXT_TYPE "text/plain; charset=utf-8"

struct ks_http_request *ks_http_request_new(struct http_conn *conn)
{
	struct ks_http_request *request = calloc(1, sizeof(*request));

	if (!request)
		return NULL;
	request->refs = 1;
	request->conn = conn;
	atomic_fetch_add(&conn->refs, 1);
	/* The parser's limit is on the whole header; this one also holds when a header comes in many messages. */
	ks_buf_init(&request->text, HTTP_MAX_HEADER_BYTES);
	ks_buf_init(&request->body, SIZE_MAX);
	ks_buf_init(&request->answer, SIZE_MAX);
	return request;
}

void ks_http_request_ref(struct ks_http_request *request)
{
	atomic_fetch_add_explicit(&request->refs, 1, memory_order_relaxed);
}

void ks_http_request_unref(struct ks_http_request *request)
{
	struct http_conn *conn = request->conn;

	if (atomic_fetch_sub(&request->refs, 1) > 1)
		return;
	if (request->ops && request->ops->fini)
		request->ops->fini(request);
	ks_http_release_body(request);
	ks_buf_fini(&request->text);
	ks_buf_fini(&request->answer);
	free(request->path);
	free(request);
	ks_http_conn_unref(conn);
}

bool ks_http_claim(struct ks_http_request *request, size_t size)
{
	struct ks_http *http = request->conn->io->http;

	if (atomic_fetch_add(&http->body_bytes, size) + size <= http->max_all_bodies)
		return true;
	atomic_fetch_sub(&http->body_bytes, size);
	return false;
}

void ks_http_unclaim(struct ks_http_request *request, size_t size)
{
	atomic_fetch_sub(&request->conn->io->http->body_bytes, size);
}

void ks_http_release_body(struct ks_http_request *request)
{
	ks_http_unclaim(request, request->body_counted);
	request->body_counted = 0;
	ks_buf_fini(&request->body);
}

/* ---- the target ---- */

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)(c | 0x20);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Decodes in place; -1 when malformed. A zero byte is, too: it would end the text for one reader and not for the next. */
static ssize_t decode(char *text, size_t size, bool plus_is_space)
{
	size_t to = 0;

	for (size_t i = 0; i < size; i++) {
		char c = text[i];

		if (c == '%') {
			int high = i + 2 < size ? hex(text[i + 1]) : -1, low = high < 0 ? -1 : hex(text[i + 2]);

			if (low < 0)
				return -1;
			c = (char)(high << 4 | low);
			if (c == '\0')
				return -1;
			i += 2;
		} else if (c == '+' && plus_is_space) {
			c = ' ';
		}
		text[to++] = c;
	}
	text[to] = '\0';
	return (ssize_t)to;
}

bool ks_http_request_prepare(struct ks_http_request *request)
{
	const char *target = (const char *)request->text.data;
	struct http_parser_url url;
	const char *query;
	size_t query_size;
	ssize_t path_size;

	http_parser_url_init(&url);
	if (request->target_size == 1 && *target == '*') /* "OPTIONS *" */
		url.field_data[UF_PATH].len = 1;
	else if (http_parser_parse_url(target, request->target_size, 0, &url) != 0)
		return false;
	if (!url.field_data[UF_PATH].len)
		return false;
	/*
	 * Path and query side by side in one piece of memory. The query has room to be decoded into: each parameter may grow by
	 * a byte, for bare names get an empty value. Its raw text lies at the end.
	 */
	query_size = url.field_data[UF_QUERY].len;
	request->path = malloc(url.field_data[UF_PATH].len + 1 + query_size * 2 + 4);
	if (!request->path)
		return false;
	memcpy(request->path, target + url.field_data[UF_PATH].off, url.field_data[UF_PATH].len);
	query = target + url.field_data[UF_QUERY].off;
	request->query = request->path + url.field_data[UF_PATH].len + 1;
	request->raw_query = request->query + query_size + 2;
	if (query_size)
		memcpy(request->raw_query, query, query_size);
	request->raw_query[query_size] = '\0';
	path_size = decode(request->path, url.field_data[UF_PATH].len, false);
	if (path_size < 0)
		return false;
	request->path_size = (size_t)path_size;
	return true;
}

struct ks_slice ks_http_method(const struct ks_http_request *request)
{
	return ks_slice_str(http_method_str((enum http_method)request->method));
}

struct ks_slice ks_http_path(const struct ks_http_request *request)
{
	return ks_slice_of(request->path, request->path_size);
}

/* From raw_query to query: name and value of each parameter, a zero behind each. What cannot be decoded is left out. */
static void decode_query(struct ks_http_request *request)
{
	char *from = request->raw_query, *to = request->query, *end = from + strlen(from);

	while (from < end) {
		char *stop = memchr(from, '&', (size_t)(end - from));
		char *equals;
		ssize_t name_size, value_size = 0;

		stop = stop ? stop : end;
		equals = memchr(from, '=', (size_t)(stop - from));
		*stop = '\0';
		name_size = decode(from, (size_t)((equals ? equals : stop) - from), true);
		if (equals)
			value_size = decode(equals + 1, (size_t)(stop - equals - 1), true);
		if (name_size > 0 && value_size >= 0) {
			memmove(to, from, (size_t)name_size);
			to[name_size] = '\0';
			to += name_size + 1;
			if (equals)
				memmove(to, equals + 1, (size_t)value_size);
			to[value_size] = '\0';
			to += value_size + 1;
		}
		from = stop + 1;
	}
	request->query_size = (size_t)(to - request->query);
}

bool ks_http_query(const struct ks_http_request *request, const char *name, size_t index, struct ks_slice *value)
{
	const char *at = request->query, *end = at + request->query_size;

	while (at < end) {
		const char *found = at;

		at += strlen(at) + 1;
		*value = ks_slice_str(at);
		at += value->size + 1;
		if (strcmp(found, name) == 0 && index-- == 0)
			return true;
	}
	return false;
}

struct ks_slice ks_http_header(const struct ks_http_request *request, const char *name)
{
	size_t size = strlen(name);

	for (size_t i = 0; i < request->header_count; i++) {
		const struct http_header *header = &request->headers[i];

		if (header->name_size == size &&
		    strncasecmp((const char *)request->text.data + header->name, name, size) == 0)
			return ks_slice_of(request->text.data + header->value, header->value_size);
	}
	return ks_slice_of(NULL, 0);
}

struct ks_slice ks_http_body(const struct ks_http_request *request)
{
	return ks_slice_of(request->body.data, request->body.size);
}

const char *ks_http_peer_text(const struct ks_http_request *request)
{
	return request->conn->peer;
}

const struct ks_identity *ks_http_identity(const struct ks_http_request *request)
{
	return request->conn->identity;
}

enum ks_http_port ks_http_port(const struct ks_http_request *request)
{
	return request->conn->port;
}

/* ---- who may ask ---- */

/* Is 'item' in a comma separated list? Empty and "*" hold everything. */
static bool listed(const char *list, struct ks_slice item)
{
	if (!*list || strcmp(list, "*") == 0)
		return true;
	while (*list) {
		size_t size = strcspn(list, ",");

		if ((size == 1 && *list == '*') || ks_slice_eq(ks_slice_of(list, size), item))
			return true;
		list += size + (list[size] == ',');
	}
	return false;
}

bool ks_http_origin(const struct ks_http_request *request, struct ks_slice *origin)
{
	const char *cors = request->conn->io->http->cors;

	*origin = ks_slice_str("*");
	if (!*cors)
		return false;
	if (listed(cors, ks_slice_of(NULL, 0)))
		return true;
	*origin = ks_http_header(request, "origin");
	return origin->data && listed(cors, *origin);
}

bool ks_http_host_allowed(const struct ks_http_request *request)
{
	const struct http_conn *conn = request->conn;
	struct ks_slice host = ks_http_header(request, "host");
	const uint8_t *end;

	if (conn->secure)
		return true;
	if (host.size && host.data[0] == '[') { /* an IPv6 address */
		end = memchr(host.data, ']', host.size);
		host = end ? ks_slice_of(host.data + 1, (size_t)(end - host.data) - 1) : host;
	} else if (host.size) {
		end = memchr(host.data, ':', host.size);
		host.size = end ? (size_t)(end - host.data) : host.size;
	}
	return listed(conn->io->http->host_whitelist, host);
}

/* ---- plain requests ---- */

static void answer_canned(struct ks_http_request *request);

static void plain_complete(struct ks_http_request *request)
{
	struct ks_http *http = request->conn->io->http;

	ks_http_request_ref(request); /* until it is answered */
	if (request->canned)
		answer_canned(request);
	else if (http->config.plain)
		http->config.plain(http->config.plain_ctx, request);
	else
		ks_http_answer_text(request, 404, "404 page not found\n");
}

static enum http_produced plain_produce(struct ks_http_request *request, struct ks_buf *out)
{
	size_t left, size;
	bool answered;

	ks_mutex_lock(&request->conn->lock);
	answered = request->answered;
	ks_mutex_unlock(&request->conn->lock);
	if (!answered)
		return HTTP_WAIT;
	left = request->answer.size - request->answer_sent;
	size = left < HTTP_PIECE_BYTES ? left : HTTP_PIECE_BYTES;
	ks_buf_append(out, request->answer.data + request->answer_sent, size);
	request->answer_sent += size;
	return size == left ? HTTP_DONE : HTTP_MORE;
}

static const struct http_ops plain_ops = {.complete = plain_complete, .produce = plain_produce};

void ks_http_answer(struct ks_http_request *request, int status, const char *content_type, const char *headers,
		    struct ks_buf *body)
{
	struct http_conn *conn = request->conn;
	struct ks_buf *out = &request->answer;

	if (body && body->failed) {
		ks_buf_fini(body);
		body = NULL;
		status = 500;
	}
	ks_http_write_head(request, out, status, content_type);
	ks_buf_printf(out, "Content-Length: %zu\r\n", body ? body->size : 0);
	if (headers)
		ks_buf_append(out, headers, strlen(headers));
	ks_buf_append(out, "\r\n", 2);
	if (body && !request->head)
		ks_buf_append(out, body->data, body->size);
	if (body)
		ks_buf_fini(body);
	ks_mutex_lock(&conn->lock);
	KS_ASSERT(!request->answered);
	request->answered = true;
	if (!ks_http_on_io_thread(conn->io)) /* sending is not for whoever happened to have the answer */
		ks_http_nudge_locked(conn);
	ks_mutex_unlock(&conn->lock);
	if (ks_http_on_io_thread(conn->io))
		ks_http_flush(request);
	ks_http_request_unref(request);
}

static void answer_string(struct ks_http_request *request, int status, const char *type, const char *text)
{
	struct ks_buf body;

	ks_buf_init(&body, SIZE_MAX);
	ks_buf_append(&body, text, strlen(text));
	ks_http_answer(request, status, type, type ? "X-Content-Type-Options: nosniff\r\n" : NULL, &body);
}

static void answer_canned(struct ks_http_request *request)
{
	struct ks_buf body;

	if (!request->canned_headers) {
		answer_string(request, request->canned, request->canned_type, request->canned_text);
		return;
	}
	ks_buf_init(&body, SIZE_MAX);
	ks_buf_append(&body, request->canned_text, strlen(request->canned_text));
	ks_http_answer(request, request->canned, request->canned_type, request->canned_headers, &body);
}

void ks_http_answer_text(struct ks_http_request *request, int status, const char *text)
{
	answer_string(request, status, TEXT_TYPE, text);
}

/* ---- the way in (spec 9.2) ---- */

static bool under_v3(const struct ks_http_request *request)
{
	return strncmp(request->path, "/v3/", 4) == 0 || strncmp(request->path, "/v3beta/", 8) == 0;
}

void ks_http_request_route(struct ks_http_request *request)
{
	struct http_conn *conn = request->conn;
	struct ks_http *http = conn->io->http;

	decode_query(request);
	request->ops = &plain_ops;
	if (!ks_http_host_allowed(request)) {
		request->canned = 421;
		request->canned_type = TEXT_TYPE;
		request->canned_text = "the Host header names none of the hosts in --host-whitelist\n";
	} else if (request->method == HTTP_OPTIONS) {
		request->canned = 200;
		request->canned_text = "";
	} else if (http->rpc && conn->port == KS_HTTP_CLIENTS && under_v3(request)) {
		ks_gateway_route(request);
	}
}
