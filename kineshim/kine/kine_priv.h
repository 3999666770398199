/* SPDX-License-Identifier: Apache-2.0 */
/* What the readers for the three databases share with kine.c. */
#ifndef KS_KINE_KINE_PRIV_H
#define KS_KINE_KINE_PRIV_H

#include "kine/kine.h"

#define KS_KINE_COLUMNS "id, name, created, deleted, create_revision, prev_revision, lease, value"
#define KS_KINE_TABLE_MAX 256

/* A connection to one kind of database; 'state' is its own. Drop ends it, whatever it is doing: the next begin connects. */
struct ks_kine_ops {
	const char *schemes[4]; /* NULL at the end */
	char quote;             /* around names */
	bool ordered;
	enum ks_status (*open)(const char *endpoint, const char *rest, void **state, struct ks_err *err);
	void (*close)(void *state);
	enum ks_status (*begin)(void *state, const char *table, int64_t after, int64_t to, struct ks_kine_head *head,
				struct ks_err *err);
	enum ks_status (*next)(void *state, struct ks_kine_row *row, bool *more, struct ks_err *err);
	void (*end)(void *state);
};

extern const struct ks_kine_ops ks_kine_sqlite;   /* only with --with-sqlite */
extern const struct ks_kine_ops ks_kine_mysql;    /* only with --with-mysql */
extern const struct ks_kine_ops ks_kine_postgres; /* only with --with-postgresql */

#endif
