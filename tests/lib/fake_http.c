/* SPDX-License-Identifier: Apache-2.0 */
/* Plain requests without a network, see fake_http.h. */
#include "tests/lib/fake_http.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/panic.h"

struct ks_slice ks_http_method(const struct ks_http_request *request)
{
	return ks_slice_str(request->method ? request->method : "GET");
}

struct ks_slice ks_http_path(const struct ks_http_request *request)
{
	return ks_slice_str(request->path);
}

bool ks_http_query(const struct ks_http_request *request, const char *name, size_t index, struct ks_slice *value)
{
	const char *at = request->query ? request->query : "";
	size_t name_size = strlen(name);

	while (*at) {
		size_t size = strcspn(at, "&");
		bool same = size >= name_size && strncmp(at, name, name_size) == 0 &&
			    (size == name_size || at[name_size] == '=');

		if (same && index-- == 0) {
			*value = size == name_size ? ks_slice_str("")
						   : ks_slice_of(at + name_size + 1, size - name_size - 1);
			return true;
		}
		at += size + (at[size] == '&');
	}
	return false;
}

struct ks_slice ks_http_header(const struct ks_http_request *request, const char *name)
{
	if (request->accept && strcmp(name, "accept") == 0)
		return ks_slice_str(request->accept);
	return ks_slice_of(NULL, 0);
}

enum ks_http_port ks_http_port(const struct ks_http_request *request)
{
	return request->port;
}

void ks_http_answer(struct ks_http_request *request, int status, const char *content_type, const char *headers,
		    struct ks_buf *body)
{
	KS_ASSERT(request->answers++ == 0);
	request->status = body && body->failed ? 500 : status;
	(void)snprintf(request->content_type, sizeof(request->content_type), "%s", content_type ? content_type : "");
	(void)snprintf(request->headers, sizeof(request->headers), "%s", headers ? headers : "");
	request->body = ks_xcalloc(1, (body && !body->failed ? body->size : 0) + 1);
	if (body && !body->failed && body->size)
		memcpy(request->body, body->data, body->size);
	if (body)
		ks_buf_fini(body);
}

void ks_http_answer_text(struct ks_http_request *request, int status, const char *text)
{
	struct ks_buf body;

	ks_buf_init(&body, SIZE_MAX);
	ks_buf_append(&body, text, strlen(text));
	ks_http_answer(request, status, "text/plain; charset=utf-8", "X-Content-Type-Options: nosniff\r\n", &body);
}

void fake_http_fini(struct ks_http_request *request)
{
	free(request->body);
	request->body = NULL;
	request->answers = 0;
}
