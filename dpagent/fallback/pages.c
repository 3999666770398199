/* SPDX-License-Identifier: Apache-2.0 */
/* See pages.h. */
#include "fallback/pages.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* More than that is more objects than versions are kept in mind. */
#define MAX_PAGES 200

struct page {
	dpa_listed_fn *fn;
	void *ctx;
	/* The object that is being read. */
	char name[DPA_OBJECT_NAME_MAX + 1], etag[128];
	int64_t size;
	bool truncated; /* S3 says so beside the token */
	bool enough;
	char token[DPA_PAGE_TOKEN_MAX]; /* of the next page */
};

static bool take_token(struct page *page, const char *text)
{
	if (strlen(text) >= sizeof(page->token))
		return false;
	(void)snprintf(page->token, sizeof(page->token), "%s", text);
	return true;
}

static bool take_name(struct page *page, const char *text)
{
	if (strlen(text) >= sizeof(page->name))
		return false;
	(void)snprintf(page->name, sizeof(page->name), "%s", text);
	return true;
}

static void end_object(struct page *page)
{
	if (page->name[0])
		page->enough = page->enough || !page->fn(page->ctx, page->name, page->size, page->etag);
	page->name[0] = page->etag[0] = '\0';
	page->size = 0;
}

bool dpa_pages_take_s3(void *ctx, const char *path, const char *text)
{
	static const char contents[] = "ListBucketResult/Contents";
	struct page *page = ctx;

	if (strcmp(path, "ListBucketResult/IsTruncated") == 0)
		page->truncated = strcmp(text, "true") == 0;
	if (strcmp(path, "ListBucketResult/NextContinuationToken") == 0)
		return take_token(page, text);
	if (strncmp(path, contents, sizeof(contents) - 1) != 0)
		return true;
	path += sizeof(contents) - 1;
	if (strcmp(path, "/Key") == 0)
		return take_name(page, text);
	if (strcmp(path, "/ETag") == 0)
		(void)snprintf(page->etag, sizeof(page->etag), "%s", text);
	if (strcmp(path, "/Size") == 0)
		page->size = strtoll(text, NULL, 10);
	if (path[0] == '\0')
		end_object(page);
	return true;
}

bool dpa_pages_take_azure(void *ctx, const char *path, const char *text)
{
	static const char blobs[] = "EnumerationResults/Blobs/Blob";
	struct page *page = ctx;

	if (strcmp(path, "EnumerationResults/NextMarker") == 0) {
		page->truncated = text[0] != '\0';
		return take_token(page, text);
	}
	if (strncmp(path, blobs, sizeof(blobs) - 1) != 0)
		return true;
	path += sizeof(blobs) - 1;
	if (strcmp(path, "/Name") == 0)
		return take_name(page, text);
	if (strcmp(path, "/Properties/Etag") == 0)
		(void)snprintf(page->etag, sizeof(page->etag), "%s", text);
	if (strcmp(path, "/Properties/Content-Length") == 0)
		page->size = strtoll(text, NULL, 10);
	if (path[0] == '\0')
		end_object(page);
	return true;
}

static enum ks_status read_page(void *store, dpa_fetch_page_fn *fetch, dpa_xml_fn *take, const char *prefix,
				const char *what, struct page *page, struct ks_err *err)
{
	char token[DPA_PAGE_TOKEN_MAX];
	struct dpa_web_answer answer;
	enum ks_status status;

	(void)snprintf(token, sizeof(token), "%s", page->token);
	page->token[0] = '\0';
	page->truncated = false;
	status = fetch(store, prefix, token, &answer, err);
	if (status == KS_OK && dpa_xml_read(ks_slice_of(answer.body.data, answer.body.size), take, page, NULL) != KS_OK)
		status = ks_fail(err, KS_DATA_LOSS, "%s is not the XML that was expected", what);
	dpa_web_answer_fini(&answer);
	/* The same page again, or the first one, would go on for ever. */
	if (status == KS_OK && page->truncated && (!page->token[0] || strcmp(page->token, token) == 0))
		status = ks_fail(err, KS_DATA_LOSS, "%s does not end", what);
	return status;
}

enum ks_status dpa_pages_walk(void *store, dpa_fetch_page_fn *fetch, dpa_xml_fn *take, const char *prefix,
			      const char *what, dpa_listed_fn *fn, void *ctx, struct ks_err *err)
{
	struct page *page = calloc(1, sizeof(*page));
	enum ks_status status = KS_OK;
	int pages = 0;

	if (!page)
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
	page->fn = fn;
	page->ctx = ctx;
	do {
		status = read_page(store, fetch, take, prefix, what, page, err);
	} while (status == KS_OK && page->truncated && !page->enough && ++pages < MAX_PAGES);
	if (pages == MAX_PAGES)
		status = ks_fail(err, KS_DATA_LOSS, "%s does not end", what);
	free(page);
	return status;
}
