/* SPDX-License-Identifier: Apache-2.0 */
/* Endpoint URLs: which backend they name, and that no password survives redaction. */
#include "config.h"

#include <stdio.h>
#include <string.h>

#include "sqlbackends/sqlb.h"
#include "sqlbackends/url.h"
#include "tests/lib/tap.h"

static void a_scheme_names_its_backend(void)
{
	struct ks_err err;

	CU_ASSERT_PTR_EQUAL(sqlb_find("memory://x", &err), &sqlb_memory_ops);
	CU_ASSERT_PTR_EQUAL(sqlb_find("MEMORY:", &err), &sqlb_memory_ops);
#ifdef HAVE_SQLITE
	CU_ASSERT_PTR_EQUAL(sqlb_find("sqlite:///a/b", &err), &sqlb_sqlite_ops);
	CU_ASSERT_PTR_EQUAL(sqlb_find("sqlite:", &err), &sqlb_sqlite_ops);
#else
	CU_ASSERT_PTR_NULL(sqlb_find("sqlite://", &err));
	CU_ASSERT_EQUAL(err.status, KS_UNIMPLEMENTED);
#endif
#ifdef HAVE_POSTGRESQL
	CU_ASSERT_PTR_EQUAL(sqlb_find("postgres://h/d", &err), &sqlb_postgres_ops);
	CU_ASSERT_PTR_EQUAL(sqlb_find("postgresql://h/d", &err), &sqlb_postgres_ops);
#else
	CU_ASSERT_PTR_NULL(sqlb_find("postgres://", &err));
	CU_ASSERT_EQUAL(err.status, KS_UNIMPLEMENTED);
#endif
#ifdef HAVE_MYSQL
	CU_ASSERT_PTR_EQUAL(sqlb_find("mysql://u@tcp(h:1)/d", &err), &sqlb_mysql_ops);
	CU_ASSERT_PTR_EQUAL(sqlb_find("mariadb://h/d", &err), &sqlb_mysql_ops);
#else
	CU_ASSERT_PTR_NULL(sqlb_find("mysql://", &err));
	CU_ASSERT_EQUAL(err.status, KS_UNIMPLEMENTED);
#endif
	for (size_t i = 0; sqlb_backends[i]; i++)
		CU_ASSERT_EQUAL(sqlb_backends[i]->version, SQLB_VERSION);
}

static void unknown_schemes_get_a_text_without_the_url(void)
{
	static const char *const urls[] = {"oracle://u:hunter2@h/d",
					   "hunter2",
					   "",
					   "://hunter2",
					   "1a://hunter2",
					   "host=h password=hunter2",
					   "averyveryverylongschemename://hunter2"};
	struct ks_err err;

	for (size_t i = 0; i < sizeof(urls) / sizeof(*urls); i++) {
		CU_ASSERT_PTR_NULL(sqlb_find(urls[i], &err));
		CU_ASSERT_EQUAL(err.status, KS_INVALID_ARGUMENT);
		CU_ASSERT_PTR_NULL(strstr(err.text, "hunter2"));
	}
}

static void escapes_are_decoded_or_refused(void)
{
	char out[16];

	CU_ASSERT_TRUE(sqlb_url_decode("/a%20b%2fC", out, sizeof(out)));
	CU_ASSERT_STRING_EQUAL(out, "/a b/C");
	CU_ASSERT_TRUE(sqlb_url_decode("", out, sizeof(out)));
	CU_ASSERT_STRING_EQUAL(out, "");
	CU_ASSERT_FALSE(sqlb_url_decode("%", out, sizeof(out)));
	CU_ASSERT_FALSE(sqlb_url_decode("%4", out, sizeof(out)));
	CU_ASSERT_FALSE(sqlb_url_decode("%zz", out, sizeof(out)));
	CU_ASSERT_FALSE(sqlb_url_decode("a%00b", out, sizeof(out)));
	CU_ASSERT_FALSE(sqlb_url_decode("0123456789abcdef", out, sizeof(out)));
	CU_ASSERT_TRUE(sqlb_url_decode("0123456789abcde", out, sizeof(out)));
	CU_ASSERT_FALSE(sqlb_url_decode("", out, 0));
}

static void redaction_keeps_all_but_the_password(void)
{
	static const char *const cases[][2] = {
		{"postgres://u:hunter2@h:5432/d?sslmode=require", "postgres://u:***@h:5432/d?sslmode=require"},
		{"postgres://u@h/d", "postgres://u@h/d"},
		{"postgres://h:5432/d", "postgres://h:5432/d"},
		{"postgres://u:@h/d", "postgres://u:***@h/d"},
		{"postgres://u:hun@ter2@h/d", "postgres://u:***@h/d"},
		{"postgres://u:hunter2@h1:1,h2:2/d", "postgres://u:***@h1:1,h2:2/d"},
		{"postgres://u:hunter2?x@h/d", "postgres://u:***@h/d"},
		{"postgres://u:a/hunter2@h/d", "postgres://u:***@h/d"},
		{"postgres://h/d?user=u&password=hunter2&sslmode=x", "postgres://h/d?user=u&password=***&sslmode=x"},
		{"postgres://h/d?PASSWORD=hunter2", "postgres://h/d?PASSWORD=***"},
		{"postgres://h/d?sslpassword=hunter2", "postgres://h/d?sslpassword=***"},
		{"mysql://u:hunter2@tcp(h:3306)/d?tls=true", "mysql://u:***@tcp(h:3306)/d?tls=true"},
		{"mariadb://u:hunter2@h/d", "mariadb://u:***@h/d"},
		{"mysql://u:hun@ter2@tcp(h:3306)/d", "mysql://u:***@tcp(h:3306)/d"},
		{"mysql://u:h@un/hunter2@tcp(h:3306)/d", "mysql://u:***@tcp(h:3306)/d"},
		{"mysql://u:h@un/h?hunter2@unix(/s)/d", "mysql://u:***@unix(/s)/d"},
		{"mysql://u@tcp([::1]:3306)/d", "mysql://u@tcp([::1]:3306)/d"},
		{"mysql://tcp(h:3306)/d", "mysql://tcp(h:3306)/d"},
		{"password='hunter2 hunter2' host=h", "password=*** host=h"},
		{"host=h password=hunter2", "host=h password=***"},
		{"mysql://u:hun@ter2@tcp(h:3306)/d?tls=true", "mysql://u:***@tcp(h:3306)/d?tls=true"},
		{"mysql://u:a/b?hunter2@tcp(h:3306)/d", "mysql://u:***@tcp(h:3306)/d"},
		{"mssql://sa:hunter2@h:1433/d?encrypt=yes", "mssql://sa:***@h:1433/d?encrypt=yes"},
		{"mssql://h/d?Uid=sa;Pwd={hun;t}}er2};x=y", "mssql://h/d?Uid=sa;Pwd=***;x=y"},
		{"sqlite:///var/a:b@c.db", "sqlite:///var/a:b@c.db"},
		{"memory://x", "memory://x"},
		{"", ""},
	};
	char out[200];

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		sqlb_url_redact(cases[i][0], out, sizeof(out));
		CU_ASSERT_STRING_EQUAL(out, cases[i][1]);
		if (strcmp(out, cases[i][1]) != 0)
			printf("# %s -> %s\n", cases[i][0], out);
	}
}

static void redaction_cuts_what_does_not_fit(void)
{
	const char *url = "postgres://user:hunter2@host/database";
	char out[64];

	for (size_t size = 1; size <= sizeof(out); size++) {
		memset(out, 'X', sizeof(out));
		sqlb_url_redact(url, out, size);
		CU_ASSERT_TRUE(strlen(out) < size);
		CU_ASSERT_PTR_NULL(strstr(out, "hun"));
	}
	sqlb_url_redact(url, out, 0);
}

int main(void)
{
	return tap_run(
		"sqlb_url",
		(const struct tap_test[]){
			{"a_scheme_names_its_backend", a_scheme_names_its_backend},
			{"unknown_schemes_get_a_text_without_the_url", unknown_schemes_get_a_text_without_the_url},
			{"escapes_are_decoded_or_refused", escapes_are_decoded_or_refused},
			{"redaction_keeps_all_but_the_password", redaction_keeps_all_but_the_password},
			{"redaction_cuts_what_does_not_fit", redaction_cuts_what_does_not_fit},
			{NULL, NULL},
		});
}
