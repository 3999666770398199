/* SPDX-License-Identifier: Apache-2.0 */
/* Which backends this program was built with, and which one a URL asks for. */
#include "config.h"

#include <string.h>
#include <sys/random.h>

#include "sqlb.h"
#include "url.h"

const struct sqlb_ops *const sqlb_backends[] = {
	&sqlb_memory_ops,
#ifdef HAVE_SQLITE
	&sqlb_sqlite_ops,
#endif
#ifdef HAVE_POSTGRESQL
	&sqlb_postgres_ops,
#endif
#ifdef HAVE_MYSQL
	&sqlb_mysql_ops,
#endif
#ifdef HAVE_ODBC
	&sqlb_mssql_ops,
#endif
	NULL,
};

/* Every scheme we know of, so that a program built without one says so instead of calling it unknown. */
static const struct {
	const char *scheme;
	const char *option;
} known[] = {
	{"sqlite", "--with-sqlite"},  {"postgres", "--with-postgresql"}, {"postgresql", "--with-postgresql"},
	{"mysql", "--with-mysql"},    {"mariadb", "--with-mysql"},       {"mssql", "--with-odbc"},
	{"sqlserver", "--with-odbc"},
};

const struct sqlb_ops *sqlb_find(const char *url, struct ks_err *err)
{
	char scheme[24];
	const char *rest;

	if (!sqlb_url_scheme(url, scheme, sizeof(scheme), &rest)) {
		ks_fail(err, KS_INVALID_ARGUMENT,
			"an endpoint looks like sqlite:///var/lib/kineshim/kineshim.db, "
			"postgres://user@host/database, mysql://user@tcp(host:3306)/database or "
			"mssql://user@host/database");
		return NULL;
	}
	for (size_t b = 0; sqlb_backends[b]; b++)
		for (size_t s = 0; s < 4 && sqlb_backends[b]->schemes[s]; s++)
			if (strcmp(sqlb_backends[b]->schemes[s], scheme) == 0)
				return sqlb_backends[b];
	for (size_t k = 0; k < sizeof(known) / sizeof(*known); k++) {
		if (strcmp(known[k].scheme, scheme) == 0) {
			ks_fail(err, KS_UNIMPLEMENTED, "this program was built without %s:// (configure %s)", scheme,
				known[k].option);
			return NULL;
		}
	}
	ks_fail(err, KS_INVALID_ARGUMENT,
		"no backend is called \"%s\"; use sqlite://, postgres://, mysql:// or mssql://", scheme);
	return NULL;
}

const char *sqlb_outcome_name(enum sqlb_outcome outcome)
{
	switch (outcome) {
	case SQLB_OK:
		return "OK";
	case SQLB_CONFLICT:
		return "CONFLICT";
	case SQLB_DOUBT:
		return "DOUBT";
	case SQLB_AWAY:
		return "AWAY";
	case SQLB_BROKEN:
		return "BROKEN";
	}
	return "?";
}

uint64_t sqlb_random_id(void)
{
	uint64_t id = 0;

	while (id == 0)
		if (getrandom(&id, sizeof(id), 0) != (ssize_t)sizeof(id))
			id = 0;
	return id;
}
