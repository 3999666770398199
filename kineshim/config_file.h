/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads a configuration file: YAML, or JSON, which is YAML too. One document, a mapping from keys to scalars, lists of scalars, or
 * one more level of such mappings (sections). What a key means is not known here.
 *
 * Hostile input ends with an error that names the line: bytes, depth, keys and lengths are bounded, keys may not repeat, anchors,
 * aliases and tags are refused. No recursion. Threads: any; no state.
 */
#ifndef KS_CONFIG_FILE_H
#define KS_CONFIG_FILE_H

#include <stdbool.h>

#include "base/bytes.h"
#include "base/status.h"

#define KS_CONFIG_MAX_BYTES (1 << 20)
#define KS_CONFIG_MAX_KEYS 1024
#define KS_CONFIG_MAX_VALUE 65536

struct ks_config_entry {
	const char *section; /* "" at the top */
	const char *key;
	const char *value; /* a list is joined with commas; "" for null */
	bool quoted;       /* so it is a text even when it looks like a number */
	unsigned line;
};

/* Texts are valid during the call. Anything but KS_OK ends the reading. */
typedef enum ks_status ks_config_fn(void *ctx, const struct ks_config_entry *entry, struct ks_err *err);

/* 'name' is for errors: "name:12: …". */
enum ks_status ks_config_parse(struct ks_slice text, const char *name, ks_config_fn *visit, void *ctx,
			       struct ks_err *err) KS_MUST_CHECK;
enum ks_status ks_config_read(const char *path, ks_config_fn *visit, void *ctx, struct ks_err *err) KS_MUST_CHECK;

#endif
