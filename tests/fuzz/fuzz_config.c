/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The configuration file, and the values in it. Promises beside memory safety: what is given on keeps to its limits, a refusal says
 * where, and reading twice gives the same.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "config_file.h"
#include "endpoint.h"
#include "option_values.h"
#include "options_priv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define NAME "fuzz.yml"

static char *no_variable(const char *name)
{
	(void)name;
	return NULL;
}

static void check_values(const char *text)
{
	char endpoint[KS_ENDPOINT_MAX];
	int64_t number;
	bool truth;

	if (ks_parse_time(text, &number))
		KS_ASSERT(number >= 0);
	if (ks_parse_bytes(text, &number))
		KS_ASSERT(number >= 0);
	(void)ks_parse_bool(text, &truth);
	if (ks_endpoint_expand(text, no_variable, endpoint, NULL) == KS_OK)
		KS_ASSERT(strcmp(endpoint, text) == 0);
}

static enum ks_status check_entry(void *ctx, const struct ks_config_entry *entry, struct ks_err *err)
{
	size_t *count = ctx;

	(void)err;
	KS_ASSERT(*entry->key && strlen(entry->key) < 128 && strlen(entry->section) < 128);
	KS_ASSERT(strlen(entry->value) < KS_CONFIG_MAX_VALUE && entry->line > 0);
	KS_ASSERT(++*count <= KS_CONFIG_MAX_KEYS);
	check_values(entry->value);
	return KS_OK;
}

static enum ks_status read_options(struct ks_slice text, struct ks_err *err)
{
	struct ks_options options = {0};
	enum ks_status status;

	ks_options_set_initial(&options);
	status = ks_options_read_text(&options, text, NAME, err);
	if (status == KS_OK) {
		KS_ASSERT(options.max_txn_ops >= 1 && options.max_txn_ops <= 1000000);
		KS_ASSERT(options.watch_progress_notify_interval >= 100);
		KS_ASSERT(!options.help && !options.version && !*options.config_file);
	}
	ks_options_fini(&options);
	return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ks_slice text = ks_slice_of(data, size);
	struct ks_err err = {0}, again = {0};
	size_t count = 0;

	if (ks_config_parse(text, NAME, check_entry, &count, &err) != KS_OK)
		KS_ASSERT(strncmp(err.text, NAME ":", sizeof(NAME)) == 0);
	err = (struct ks_err){0};
	KS_ASSERT(read_options(text, &err) == read_options(text, &again) && strcmp(err.text, again.text) == 0);
	return 0;
}
