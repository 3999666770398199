/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where an import reads from: a running etcd, or kine's table. First everything that there is, as the rows of a new log, from one
 * snapshot; then what comes after it, again and again, until somebody says that it is enough; then what only the end can tell
 * (settle), and whether both sides are the same (verify).
 *
 * Owner: the configuration is borrowed as long as the source is open. One thread. Errors: KS_UNAVAILABLE when it cannot be
 * reached; poll deals with that itself, and returns only what trying again does not mend.
 */
#ifndef KS_TOOLS_IMPORT_SOURCE_H
#define KS_TOOLS_IMPORT_SOURCE_H

#include "tools/import_target.h"

struct ks_import_source_config {
	const char *url;
	const char *user, *password;                   /* etcd; NULL: none */
	const char *roots_file, *cert_file, *key_file; /* etcd; NULL: none */
	const char *table;                             /* kine */
	bool (*give_up)(void);
	void (*said)(const char *text);
	void (*progress)(const char *what, uint64_t done,
			 uint64_t total); /* of the first part, in bytes; total 0: unknown */
};

struct ks_import_source;

struct ks_import_source_ops {
	bool counts_versions; /* it needs to know the keys that the log has */
	enum ks_status (*open)(const struct ks_import_source_config *config, struct ks_import_source **source,
			       struct ks_err *err);
	void (*close)(struct ks_import_source *source); /* NULL is fine */
	/* Two words: what it is, which must be the same when an import goes on; and where, for people, without a password. */
	void (*describe)(const struct ks_import_source *source, char text[KS_IMPORT_SOURCE_MAX]);
	/* Takes a snapshot; then 'next' gives its rows, and 'next_err' says why it failed. */
	enum ks_status (*begin)(struct ks_import_source *source, struct ks_import_target *target, struct ks_err *err);
	sqlb_next_fn *next;
	const struct ks_err *(*next_err)(const struct ks_import_source *source);
	/* Behind what the target knows from now on. KS_OUT_OF_RANGE: what comes next is not there any more. */
	enum ks_status (*follow)(struct ks_import_source *source, struct ks_import_target *target, struct ks_err *err);
	/* Hands over what there is, after 'wait_ms' at most. */
	enum ks_status (*poll)(struct ks_import_source *source, struct ks_import_target *target, int wait_ms,
			       struct ks_err *err);
	/* The newest revision there, and the one that has been handed over (which need not be in the log, if nothing has it). */
	enum ks_status (*head)(struct ks_import_source *source, int64_t *newest, struct ks_err *err);
	int64_t (*reached)(const struct ks_import_source *source);
	/* KS_ABORTED: something was written meanwhile: poll, and try again. */
	enum ks_status (*settle)(struct ks_import_source *source, struct ks_import_target *target, struct ks_err *err);
	/* *proof: what was compared, in a few words. KS_DATA_LOSS: the two differ. */
	enum ks_status (*verify)(struct ks_import_source *source, struct ks_import_target *target,
				 const struct ks_hash_result *hash, char proof[128], struct ks_err *err);
};

extern const struct ks_import_source_ops ks_import_etcd;
extern const struct ks_import_source_ops ks_import_kine;

#endif
