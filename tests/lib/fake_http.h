/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net/http.h without a network: tests ask plain handlers and see what they answer. Link it instead of libks-net. A request is the
 * test's; it is answered once, at once or later.
 */
#ifndef TESTS_LIB_FAKE_HTTP_H
#define TESTS_LIB_FAKE_HTTP_H

#include "net/http.h"

struct ks_http_request {
	const char *method, *path;
	const char *query;  /* "exclude=NOSPACE&verbose": nothing is decoded */
	const char *accept; /* the only header */
	enum ks_http_port port;
	/* the answer */
	int answers;
	int status;
	char content_type[128], headers[256];
	char *body; /* malloc-ed, ends with a zero byte */
};

void fake_http_fini(struct ks_http_request *request);

#endif
