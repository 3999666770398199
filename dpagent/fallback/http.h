/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One HTTP request at a time to object storage or whoever gives credentials for it, over libcurl: bounded in time and size, certificates verified,
 * no redirect followed, repeated with back-off when the server is busy or the connection breaks.
 *
 * A request that is repeated may have been carried out before: callers only send what may happen twice, or settle the doubt (exporter.c).
 * Owner: answers own their body; everything in a request is borrowed. Threads: any; requests of one dpa_web wait for each other.
 * Errors: KS_UNAVAILABLE (no connection, TLS), KS_DEADLINE_EXCEEDED, KS_RESOURCE_EXHAUSTED (the body is too large), KS_CANCELLED. An
 * answer of any HTTP status is KS_OK here. Texts of errors name the host, never a query or a header.
 */
#ifndef DPA_WEB_H
#define DPA_WEB_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/status.h"

struct dpa_web;

#define DPA_WEB_HEADERS 8

struct dpa_web_request {
	const char *method;
	const char *
		url; /* encoded; in the canonical form of SigV4 when it is signed: libcurl 7.88 signs path and query as they stand */
	char *headers
		[DPA_WEB_HEADERS]; /* "Name: value"; NULL ends. None may be empty: libcurl would sign what it does not send */
	struct ks_slice body;
	bool has_body;       /* sends one, be it empty */
	size_t max_answer;   /* bytes of the answer's body */
	int64_t answer_size; /* about; large bodies may take longer. 0: small */
	int64_t timeout_ms;  /* 0: that of the dpa_web */
	const char *sigv4;   /* "aws:amz:REGION:s3": libcurl signs with user and password. NULL: not */
	const char *user, *password;
	bool local; /* metadata services: no proxy, one attempt */
};

struct dpa_web_answer {
	int status;
	struct ks_buf body;
	char region[64];      /* x-amz-bucket-region, "" */
	char error_code[128]; /* x-ms-error-code, "" */
	int64_t retry_ms;     /* Retry-After, 0 */
};

struct dpa_web *dpa_web_new(const char *ca_file, int64_t timeout_ms, struct ks_err *err);
void dpa_web_free(struct dpa_web *http); /* NULL is fine */
/* 'answer' is initialised here, and to be given back with dpa_web_answer_fini in every case. */
enum ks_status dpa_web_perform(struct dpa_web *http, const struct dpa_web_request *request,
			       struct dpa_web_answer *answer, struct ks_err *err) KS_MUST_CHECK;
void dpa_web_answer_fini(struct dpa_web_answer *answer);
/* Ends the request that is under way, and lets later ones fail with KS_CANCELLED until it is called with false. */
void dpa_web_cancel(struct dpa_web *http, bool cancel);

/* Appends 'text' with all but A-Z a-z 0-9 - . _ ~ as %XX; slashes stay when 'path'. That is SigV4's canonical form. */
void dpa_web_encode(struct ks_buf *out, const char *text, bool path);
/* Is it a URL that secrets may be sent to: https, or http to this very machine? */
bool dpa_web_url_private(const char *url);
/*
 * Copies what a server wrote so that it may be shown: printable, one line, and each of the 'secrets' (NULL ends; "" and NULL entries are skipped by
 * 'count') as "***".
 */
void dpa_web_quote(const char *text, const char *const *secrets, size_t count, char *out, size_t room);

#endif
