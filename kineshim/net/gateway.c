/* SPDX-License-Identifier: Apache-2.0 */
/* The JSON gateway: which path is which method, what headers mean, and how errors look. See gateway.h. */
#include <stdio.h>
#include <stdlib.h>

#include "base/panic.h"
#include "net/gateway_priv.h"

struct route {
	struct ks_slice path; /* below /v3/ */
	const struct ks_rpc_method *method;
};

struct gateway_routes {
	size_t count;
	struct route routes[]; /* by path */
};

/* ---- routes ---- */

static int by_path(const void *a, const void *b)
{
	return ks_slice_cmp(((const struct route *)a)->path, ((const struct route *)b)->path);
}

/* The next of the paths that are separated by spaces; empty at the end. */
static struct ks_slice next_path(const char **list)
{
	struct ks_slice path;

	*list += strspn(*list, " ");
	path = ks_slice_of(*list, strcspn(*list, " "));
	*list += path.size;
	return path;
}

struct gateway_routes *ks_gateway_routes_new(struct ks_rpc *rpc)
{
	size_t method_count = 0, most = 0;
	const struct ks_rpc_method *methods = rpc ? ks_rpc_methods(rpc, &method_count) : NULL;
	struct gateway_routes *routes;

	for (size_t i = 0; i < method_count; i++)
		for (const char *c = methods[i].routes ? methods[i].routes : ""; *c; c++)
			most++;
	routes = ks_xcalloc(1, sizeof(*routes) + most * sizeof(routes->routes[0]));
	for (size_t i = 0; i < method_count; i++) {
		const char *list = methods[i].routes ? methods[i].routes : "";
		struct ks_slice path;

		while ((path = next_path(&list)).size)
			routes->routes[routes->count++] = (struct route){.path = path, .method = &methods[i]};
	}
	if (routes->count)
		qsort(routes->routes, routes->count, sizeof(routes->routes[0]), by_path);
	return routes;
}

void ks_gateway_routes_free(struct gateway_routes *routes)
{
	free(routes);
}

static const struct ks_rpc_method *find_method(const struct gateway_routes *routes, const char *path)
{
	struct route wanted = {.path = ks_slice_str(strchr(path + 1, '/') + 1)}, *found;

	found = routes->count ? bsearch(&wanted, routes->routes, routes->count, sizeof(wanted), by_path) : NULL;
	return found ? found->method : NULL;
}

/* "5S" and so on, as gRPC's header; false when it is none of these. */
static bool parse_timeout(struct ks_slice text, int64_t *ms)
{
	uint64_t value = 0;
	size_t digits = 0;

	while (digits < text.size && digits < 8 && text.data[digits] >= '0' && text.data[digits] <= '9')
		value = value * 10 + (uint64_t)(text.data[digits++] - '0');
	if (digits == 0 || digits + 1 != text.size)
		return false;
	switch (text.data[digits]) {
	case 'H':
		*ms = (int64_t)value * 3600000;
		return true;
	case 'M':
		*ms = (int64_t)value * 60000;
		return true;
	case 'S':
		*ms = (int64_t)value * 1000;
		return true;
	case 'm':
		*ms = (int64_t)value;
		return true;
	case 'u':
		*ms = (int64_t)(value / 1000);
		return true;
	case 'n':
		*ms = (int64_t)(value / 1000000);
		return true;
	default:
		return false;
	}
}

static void can(struct ks_http_request *request, int status, const char *json)
{
	request->canned = status;
	request->canned_text = json;
	request->canned_type = "application/json";
}

void ks_gateway_route(struct ks_http_request *request)
{
	const struct ks_rpc_method *method = find_method(request->conn->io->http->routes, request->path);
	struct ks_slice timeout = ks_http_header(request, "grpc-timeout");
	bool upgrade = ks_gateway_websocket_asked(request);
	int64_t timeout_ms;

	if (!method) {
		can(request, 404, "{\"error\":\"Not Found\",\"message\":\"Not Found\",\"code\":5}");
		return;
	}
	if (upgrade && !ks_gateway_websocket_check(request))
		return;
	if (!upgrade && request->method != HTTP_POST) {
		can(request, 501, "{\"error\":\"Method Not Allowed\",\"message\":\"Method Not Allowed\",\"code\":12}");
		return;
	}
	if (timeout.data) {
		if (!parse_timeout(timeout, &timeout_ms)) {
			can(request, 400,
			    "{\"error\":\"invalid grpc-timeout\",\"message\":\"invalid grpc-timeout\",\"code\":3}");
			return;
		}
		/* The clock shows whole milliseconds, and nobody's time is over early. */
		request->deadline_ms = ks_http_now() + timeout_ms + 1;
	}
	if (method->stream)
		ks_gateway_stream_route(request, method);
	else
		ks_gateway_unary_route(request, method);
	if (upgrade)
		ks_gateway_websocket_wrap(request);
}

/* ---- calls ---- */

void ks_gateway_call_init(struct gateway_call *call, const struct ks_call_ops *ops, struct ks_http_request *request,
			  const struct ks_rpc_method *method)
{
	ks_call_init(&call->base, ops, ks_rpc_pick_queue(request->conn->io->http->rpc), method);
	call->request = request;
	ks_mutex_init(&call->lock);
	ks_buf_init(&call->piece, SIZE_MAX);
}

void ks_gateway_call_fini(struct gateway_call *call)
{
	ks_call_fini(&call->base);
	ks_mutex_fini(&call->lock);
	ks_buf_fini(&call->piece);
}

void ks_gateway_set_status(struct gateway_call *call, enum ks_status status, const char *text)
{
	call->status = status;
	(void)snprintf(call->text, sizeof(call->text), "%s", text);
}

static struct gateway_call *call_of(struct ks_call *base)
{
	return ks_container_of(base, struct gateway_call, base);
}

static struct ks_slice without_bearer(struct ks_slice token)
{
	static const char bearer[] = "Bearer ";

	if (token.size >= sizeof(bearer) - 1 &&
	    strncasecmp((const char *)token.data, bearer, sizeof(bearer) - 1) == 0) {
		token.data += sizeof(bearer) - 1;
		token.size -= sizeof(bearer) - 1;
	}
	return token;
}

struct ks_slice ks_gateway_metadata(struct ks_call *base, const char *key)
{
	static const char permanent[] = "grpcgateway-";
	const struct ks_http_request *request = call_of(base)->request;
	struct ks_slice value;
	char name[128];

	if (strcmp(key, "authorization") == 0 || strcmp(key, "token") == 0) {
		if (call_of(base)->websocket) {
			value = ks_gateway_websocket_token(request);
			if (value.data)
				return value;
		}
		value = ks_http_header(request, "authorization");
		if (value.data)
			return without_bearer(value);
	}
	if (strncmp(key, permanent, sizeof(permanent) - 1) == 0)
		return ks_http_header(request, key + sizeof(permanent) - 1);
	(void)snprintf(name, sizeof(name), "grpc-metadata-%s", key);
	return ks_http_header(request, name);
}

const char *ks_gateway_peer(struct ks_call *base)
{
	return ks_http_peer_text(call_of(base)->request);
}

const struct ks_identity *ks_gateway_identity(struct ks_call *base)
{
	return ks_http_identity(call_of(base)->request);
}

/* ---- answers ---- */

int ks_gateway_http_status(enum ks_status status)
{
	switch (status) {
	case KS_OK:
		return 200;
	case KS_CANCELLED:
		return 499;
	case KS_INVALID_ARGUMENT:
	case KS_FAILED_PRECONDITION:
	case KS_OUT_OF_RANGE:
		return 400;
	case KS_DEADLINE_EXCEEDED:
		return 504;
	case KS_NOT_FOUND:
		return 404;
	case KS_ALREADY_EXISTS:
	case KS_ABORTED:
		return 409;
	case KS_PERMISSION_DENIED:
		return 403;
	case KS_RESOURCE_EXHAUSTED:
		return 429;
	case KS_UNIMPLEMENTED:
		return 501;
	case KS_UNAVAILABLE:
		return 503;
	case KS_UNAUTHENTICATED:
		return 401;
	case KS_UNKNOWN:
	case KS_INTERNAL:
	case KS_DATA_LOSS:
		return 500;
	}
	return 500;
}

static void put(struct ks_buf *out, const char *text)
{
	ks_buf_append(out, text, strlen(text));
}

void ks_gateway_write_head(struct gateway_call *call, struct ks_buf *out, int status)
{
	ks_http_write_head(call->request, out, status, "application/json");
	if (status == 200)
		put(out, "Grpc-Metadata-Content-Type: application/grpc\r\n");
	call->head_sent = true;
}

void ks_gateway_write_error_line(struct gateway_call *call, struct ks_buf *line)
{
	int http_status = ks_gateway_http_status(call->status);

	ks_buf_printf(line, "{\"error\":{\"grpc_code\":%d,\"http_code\":%d,\"message\":", (int)call->status,
		      http_status);
	ks_json_string(line, ks_slice_str(call->text));
	ks_buf_printf(line, ",\"http_status\":\"%s\",\"code\":%d}}\n", ks_http_status_text(http_status),
		      (int)call->status);
}

static void write_error_body(struct gateway_call *call, struct ks_buf *body)
{
	put(body, "{\"error\":");
	ks_json_string(body, ks_slice_str(call->text));
	put(body, ",\"message\":");
	ks_json_string(body, ks_slice_str(call->text));
	ks_buf_printf(body, ",\"code\":%d}", (int)call->status);
}

void ks_gateway_write_error(struct gateway_call *call, struct ks_buf *out)
{
	int status = ks_gateway_http_status(call->status);

	ks_buf_reset(&call->piece);
	if (call->base.method->stream)
		ks_gateway_write_error_line(call, &call->piece);
	else
		write_error_body(call, &call->piece);
	if (call->websocket) {
		if (!call->base.method->stream)
			put(&call->piece, "\n");
		ks_gateway_write_chunk(call, out);
		return;
	}
	ks_gateway_write_head(call, out, status);
	if (status == 401 && !strpbrk(call->text, "\r\n"))
		ks_buf_printf(out, "WWW-Authenticate: %s\r\n", call->text);
	ks_buf_printf(out, "Content-Length: %zu\r\n\r\n", call->piece.size);
	ks_buf_append(out, call->piece.data, call->piece.size);
	if (call->piece.failed)
		out->failed = true;
	ks_buf_fini(&call->piece);
}

/* In hexadecimal, as printf would, but a watch has one of these for each event. */
static void put_size_line(struct ks_buf *out, size_t size)
{
	char text[2 * sizeof(size) + 2], *end = text + sizeof(text), *at = end;

	*--at = '\n';
	*--at = '\r';
	do {
		*--at = "0123456789abcdef"[size & 15];
		size >>= 4;
	} while (size);
	ks_buf_append(out, at, (size_t)(end - at));
}

void ks_gateway_write_line(struct gateway_call *call, struct ks_buf *out, struct ks_slice line)
{
	bool chunked = line.size > 0 && !call->request->http10;

	if (call->websocket) {
		ks_gateway_websocket_write(call->websocket, out, line);
		return;
	}
	if (chunked)
		put_size_line(out, line.size);
	ks_buf_append_slice(out, line);
	if (chunked)
		put(out, "\r\n");
}

void ks_gateway_write_chunk(struct gateway_call *call, struct ks_buf *out)
{
	struct ks_buf *piece = &call->piece;

	ks_gateway_write_line(call, out, ks_slice_of(piece->data, piece->size));
	if (piece->failed)
		out->failed = true;
	if (piece->capacity > HTTP_PIECE_BYTES / 8)
		ks_buf_fini(piece);
	else
		ks_buf_reset(piece);
}

void ks_gateway_write_last_chunk(struct gateway_call *call, struct ks_buf *out)
{
	if (!call->request->http10 && !call->websocket)
		put(out, "0\r\n\r\n");
}
