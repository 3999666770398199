/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What object storage answers, and its URLs. The first byte chooses: pages of an S3 list, of an Azure list, a URL. Promises beside memory
 * safety: lists end, names are bounded, an error has a text, and a URL that is taken has a name without dots and doubled slashes.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "fallback/pages.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Each page is the same bytes: a token that does not change must not keep the walk going. */
struct source {
	struct ks_slice bytes;
	int pages;
};

static enum ks_status fetch(void *store, const char *prefix, const char *token, struct dpa_web_answer *answer,
			    struct ks_err *err)
{
	struct source *source = store;

	(void)prefix, (void)err;
	KS_ASSERT(strlen(token) < DPA_PAGE_TOKEN_MAX && ++source->pages <= 2);
	*answer = (struct dpa_web_answer){.status = 200};
	ks_buf_init(&answer->body, source->bytes.size);
	ks_buf_append_slice(&answer->body, source->bytes);
	return KS_OK;
}

static bool listed(void *ctx, const char *name, int64_t size, const char *etag)
{
	(void)ctx, (void)size;
	KS_ASSERT(name[0] && strlen(name) <= DPA_OBJECT_NAME_MAX && strlen(etag) < 128);
	return true;
}

static char *environment(const char *name)
{
	static char key[] = "a2V5", secret[] = "secret";

	if (strcmp(name, "AZURE_STORAGE_KEY") == 0)
		return key;
	return strncmp(name, "AWS_ACCESS_KEY_ID", 17) == 0 || strncmp(name, "AWS_SECRET", 10) == 0 ? secret : NULL;
}

static void check_url(struct ks_slice bytes)
{
	struct dpa_bucket_config config = {.getenv_fn = environment};
	struct ks_err err = {0};
	struct dpa_bucket *bucket;
	char name[700];
	char *url = strndup((const char *)bytes.data, bytes.size);

	KS_ASSERT(url);
	config.url = url;
	bucket = dpa_bucket_open(&config, &err);
	KS_ASSERT(bucket || err.text[0]);
	if (bucket) {
		dpa_bucket_name(bucket, 1, name, sizeof(name));
		KS_ASSERT(!strstr(name, "//") && !strstr(name, "/../") && strncmp(name, "../", 3) != 0 &&
			  name[0] != '/');
	}
	dpa_bucket_close(bucket);
	free(url);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct source source;
	struct ks_err err = {0};
	enum ks_status status;

	if (size == 0)
		return 0;
	source = (struct source){.bytes = ks_slice_of(data + 1, size - 1)};
	if (data[0] == 'u') {
		check_url(source.bytes);
		return 0;
	}
	status = dpa_pages_walk(&source, fetch, data[0] == 'a' ? dpa_pages_take_azure : dpa_pages_take_s3, "",
				"the list", listed, NULL, &err);
	KS_ASSERT(status == KS_OK || err.text[0]);
	return 0;
}
