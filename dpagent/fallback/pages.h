/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lists of object storage, page by page: what S3 and Azure have in common of them, and the two forms of a page.
 *
 * Threads: any. Errors: KS_DATA_LOSS for pages that make no sense or do not end, and those of 'fetch'.
 */
#ifndef DPA_PAGES_H
#define DPA_PAGES_H

#include "fallback/bucket.h"
#include "fallback/xml.h"

#define DPA_PAGE_TOKEN_MAX 2048

/* One page: 'token' is "" for the first one. 'answer' is given back by the caller in every case. */
typedef enum ks_status dpa_fetch_page_fn(void *store, const char *prefix, const char *token,
					 struct dpa_web_answer *answer, struct ks_err *err);
/* 'take' is one of the two below; 'what' names the list in errors. */
enum ks_status dpa_pages_walk(void *store, dpa_fetch_page_fn *fetch, dpa_xml_fn *take, const char *prefix,
			      const char *what, dpa_listed_fn *fn, void *ctx, struct ks_err *err) KS_MUST_CHECK;
dpa_xml_fn dpa_pages_take_s3;
dpa_xml_fn dpa_pages_take_azure;

#endif
