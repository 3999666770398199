/* SPDX-License-Identifier: Apache-2.0 */
/* Which database it is, and the name of the table; see kine.h. */
#include "config.h"

#include "kine/kine.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "kine/kine_priv.h"
#include "sqlbackends/sqlb.h"
#include "sqlbackends/url.h"

struct ks_kine {
	const struct ks_kine_ops *ops;
	void *state;
	bool reading;
	char table[KS_KINE_TABLE_MAX]; /* quoted */
	char place[512];
};

static const struct ks_kine_ops *const kinds[] = {
#ifdef HAVE_SQLITE
	&ks_kine_sqlite,
#endif
#ifdef HAVE_POSTGRESQL
	&ks_kine_postgres,
#endif
#ifdef HAVE_MYSQL
	&ks_kine_mysql,
#endif
	NULL,
};

static const struct ks_kine_ops *find(const char *scheme)
{
	for (size_t i = 0; kinds[i]; i++)
		for (const char *const *known = kinds[i]->schemes; *known; known++)
			if (strcmp(*known, scheme) == 0)
				return kinds[i];
	return NULL;
}

/* "kine" or "schema.kine", each part in quotes. Letters, digits and _ need no escapes, and nobody calls it otherwise. */
static bool quote_table(const char *name, char quote, char out[KS_KINE_TABLE_MAX])
{
	size_t used = 0, dots = 0;

	if (strlen(name) > 120 || !isalpha((unsigned char)name[0]))
		return false;
	out[used++] = quote;
	for (; *name; name++) {
		if (*name == '.' && dots++ == 0 && isalpha((unsigned char)name[1])) {
			out[used++] = quote;
			out[used++] = '.';
			out[used++] = quote;
		} else if (isalnum((unsigned char)*name) || *name == '_') {
			out[used++] = *name;
		} else {
			return false;
		}
	}
	out[used++] = quote;
	out[used] = '\0';
	return true;
}

enum ks_status ks_kine_open(const char *endpoint, const char *table, struct ks_kine **kine, struct ks_err *err)
{
	struct ks_kine *opened;
	const struct ks_kine_ops *ops;
	const char *rest;
	char scheme[24];
	enum ks_status status;

	*kine = NULL;
	if (!sqlb_url_scheme(endpoint, scheme, sizeof(scheme), &rest) || strstr(endpoint, "://") != rest - 3)
		return ks_fail(
			err, KS_INVALID_ARGUMENT,
			"after kine:// comes the endpoint as kine has it: sqlite://PATH, postgres://… or mysql://…");
	ops = find(scheme);
	if (!ops)
		return ks_fail(err, KS_UNIMPLEMENTED, "kine's table cannot be read from %s:// by this build", scheme);
	opened = ks_xcalloc(1, sizeof(*opened));
	opened->ops = ops;
	sqlb_url_redact(endpoint, opened->place, sizeof(opened->place));
	if (quote_table(table, ops->quote, opened->table))
		status = ops->open(endpoint, rest, &opened->state, err);
	else
		status = ks_fail(err, KS_INVALID_ARGUMENT,
				 "the name of a table has letters, digits and _, and a schema in front if need be");
	if (status == KS_OK)
		*kine = opened;
	else
		ks_kine_close(opened);
	return status;
}

void ks_kine_close(struct ks_kine *kine)
{
	if (!kine)
		return;
	if (kine->state)
		kine->ops->close(kine->state);
	free(kine);
}

bool ks_kine_ordered(const struct ks_kine *kine)
{
	return kine->ops->ordered;
}

const char *ks_kine_place(const struct ks_kine *kine)
{
	return kine->place;
}

enum ks_status ks_kine_begin(struct ks_kine *kine, int64_t after, int64_t to, struct ks_kine_head *head,
			     struct ks_err *err)
{
	KS_ASSERT(!kine->reading);
	kine->reading = true;
	*head = (struct ks_kine_head){0};
	return kine->ops->begin(kine->state, kine->table, after, to < 0 ? INT64_MAX : to, head, err);
}

enum ks_status ks_kine_next(struct ks_kine *kine, struct ks_kine_row *row, bool *more, struct ks_err *err)
{
	enum ks_status status = kine->ops->next(kine->state, row, more, err);

	if (status != KS_OK || !*more)
		return status;
	if (row->id < 1 || row->id > INT64_MAX / 2 || !row->name.size || row->create_revision < 0 ||
	    row->create_revision > row->id)
		return ks_fail(err, KS_DATA_LOSS, "%s: the row with id %lld is none of kine's", kine->place,
			       (long long)row->id);
	return KS_OK;
}

void ks_kine_end(struct ks_kine *kine)
{
	if (kine->reading)
		kine->ops->end(kine->state);
	kine->reading = false;
}
