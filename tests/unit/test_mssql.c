/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The SQL Server backend without an SQL Server: what can be told from its texts, which are URLs, statements and error
 * numbers. test_mssql_tds.c has what it makes of answers.
 */
#include "tests/lib/tap.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sqlbackends/mssql_priv.h"
#include "sqlbackends/sqlb.h"
#include "tests/lib/odbc_ini.h"

static const struct sqlb_ops *const ops = &sqlb_mssql_ops;
static struct ks_err err;

/* ---- URLs ---- */

static void a_url_says_all_that_a_driver_wants_to_know(void)
{
	struct sqlb_ms_url url;

	CU_ASSERT_EQUAL(sqlb_ms_parse_url("mssql://sa:p%40ss%3aw@db.example:14330/kine%20db?driver=FreeTDS&encrypt=no&"
					  "TrustServerCertificate=yes&applicationname=test&servername=prod",
					  &url, &err),
			KS_OK);
	CU_ASSERT_STRING_EQUAL(url.user, "sa");
	CU_ASSERT_STRING_EQUAL(url.password, "p@ss:w");
	CU_ASSERT_STRING_EQUAL(url.host, "db.example");
	CU_ASSERT_EQUAL(url.port, 14330);
	CU_ASSERT_STRING_EQUAL(url.database, "kine db");
	CU_ASSERT_STRING_EQUAL(url.driver, "FreeTDS");
	CU_ASSERT_STRING_EQUAL(url.application, "test");
	CU_ASSERT_STRING_EQUAL(url.servername, "prod");
	CU_ASSERT_EQUAL(url.encrypt, SQLB_MS_ENCRYPT_NO);
	CU_ASSERT_TRUE(url.trust_certificate);

	CU_ASSERT_EQUAL(sqlb_ms_parse_url("sqlserver://u@[::1]/d?encrypt=strict&hostnameincertificate=h&"
					  "servercertificate=/a/b.pem&multisubnetfailover=true",
					  &url, &err),
			KS_OK);
	CU_ASSERT_STRING_EQUAL(url.host, "::1");
	CU_ASSERT_STRING_EQUAL(url.password, "");
	CU_ASSERT_EQUAL(url.port, 1433);
	CU_ASSERT_STRING_EQUAL(url.driver, "");
	CU_ASSERT_STRING_EQUAL(url.application, "kineshim");
	CU_ASSERT_STRING_EQUAL(url.certificate_host, "h");
	CU_ASSERT_STRING_EQUAL(url.certificate_file, "/a/b.pem");
	CU_ASSERT_EQUAL(url.encrypt, SQLB_MS_ENCRYPT_STRICT);
	CU_ASSERT_TRUE(url.multi_subnet);
	CU_ASSERT_FALSE(url.trust_certificate);

	/* The password ends at the last @ before the first slash. */
	CU_ASSERT_EQUAL(sqlb_ms_parse_url("mssql://u:a@b?c@h/d", &url, &err), KS_OK);
	CU_ASSERT_STRING_EQUAL(url.password, "a@b?c");
	CU_ASSERT_STRING_EQUAL(url.host, "h");
	/* Encrypted, and with a look at the certificate, unless it says otherwise. */
	CU_ASSERT_EQUAL(url.encrypt, SQLB_MS_ENCRYPT_YES);
	CU_ASSERT_FALSE(url.trust_certificate);
}

static void a_wrong_url_is_refused_without_quoting_secrets(void)
{
	static const char *const urls[] = {
		"mssql:",
		"mssql://",
		"mssql:u:hunter2@h/d",
		"mysql://u:hunter2@h/d",
		"mssql://u:hunter2@/d",
		"mssql://u:hunter2@h",
		"mssql://u:hunter2@h/",
		"mssql://:hunter2@h/d",
		"mssql://h/d",
		"mssql://u:hunter2@h:0/d",
		"mssql://u:hunter2@h:65536/d",
		"mssql://u:hunter2@h:x/d",
		"mssql://u:hunter2@h:/d",
		"mssql://u:hunter2@h,1433/d",
		"mssql://u:hunter2@h\\instance/d",
		"mssql://u:hunter2@h;UID=x/d",
		"mssql://u:hunter2@[::1/d",
		"mssql://u:hunter2@[::1]x/d",
		"mssql://u:hunter2%@h/d",
		"mssql://u:hunter2%00@h/d",
		"mssql://u:hunter2%0a@h/d",
		"mssql://u:1/hunter2@h/d",
		"mssql://u:12/x?hunter2@h/d",
		"mssql://u:x@h/d/hunter2",
		"mssql://u:hunter2@h/d?nonsense=1",
		"mssql://u:x@h/d?hunter2",
		"mssql://u:x@h/d?hunter2=1",
		"mssql://u:hunter2@h/d?driver=",
		"mssql://u:hunter2@h/d?encrypt=maybe",
		"mssql://u:hunter2@h/d?trustservercertificate=hunter2",
		"mssql://u:hunter2@h/d?encrypt=no&Encrypt=no",
		"mssql://u:hunter2@h/d?dsn=x",
		"mssql://u:hunter2@h/d?filedsn=x",
		"mssql://u:hunter2@h/d?driver=FreeTDS%01",
	};
	struct sqlb_ms_url url;
	struct sqlb_db *db;

	for (size_t i = 0; i < sizeof(urls) / sizeof(urls[0]); i++) {
		CU_ASSERT_EQUAL(sqlb_ms_parse_url(urls[i], &url, &err), KS_INVALID_ARGUMENT);
		if (strstr(err.text, "hunter2"))
			printf("# %s: %s\n", urls[i], err.text);
		CU_ASSERT_PTR_NULL(strstr(err.text, "hunter2"));
		CU_ASSERT_NOT_EQUAL(ops->open(urls[i], "", &db, &err), KS_OK);
		CU_ASSERT_PTR_NULL(db);
	}
	(void)sqlb_ms_parse_url("mssql://u:hunter2@h/d?nonsense=1", &url, &err);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "unknown parameter \"nonsense\""));
}

static void every_length_of_url_is_survived(void)
{
	char text[3000];
	struct sqlb_ms_url url;

	for (size_t size = 0; size < sizeof(text) - 40; size++) {
		snprintf(text, sizeof(text), "mssql://u:%.*s@h/d", (int)size, "");
		memset(text + strlen("mssql://u:"), 'p', size);
		snprintf(text + strlen("mssql://u:") + size, 20, "@h/d");
		CU_ASSERT_EQUAL(sqlb_ms_parse_url(text, &url, &err) == KS_OK, size <= 256);
	}
}

static const char *connection_of(const char *url, const char *driver)
{
	static char out[SQLB_MS_CONNECTION_MAX];
	struct sqlb_ms_url parsed;

	if (sqlb_ms_parse_url(url, &parsed, &err) != KS_OK)
		return "bad URL";
	if (sqlb_ms_connection_string(&parsed, driver, out, &err) != KS_OK) {
		CU_ASSERT_STRING_EQUAL(out, "");
		return "refused";
	}
	return out;
}

static void microsofts_driver_is_told_in_braces(void)
{
	CU_ASSERT_STRING_EQUAL(
		connection_of("mssql://sa:pw@h:1434/kine", "ODBC Driver 18 for SQL Server"),
		"DRIVER={ODBC Driver 18 for SQL Server};DATABASE={kine};UID={sa};PWD={pw};APP={kineshim};"
		"SERVER={tcp:h,1434};Encrypt={yes};TrustServerCertificate={no};ConnectRetryCount={0};");
	CU_ASSERT_STRING_EQUAL(
		connection_of("mssql://sa:a%7D%3BUID=x%3B%7B@h/d?encrypt=strict&trustservercertificate=yes&"
			      "hostnameincertificate=c&servercertificate=/f&multisubnetfailover=yes",
			      "/opt/x/libmsodbcsql-18.so"),
		"DRIVER={/opt/x/libmsodbcsql-18.so};DATABASE={d};UID={sa};PWD={a}};UID=x;{};APP={kineshim};"
		"SERVER={tcp:h,1433};Encrypt={strict};TrustServerCertificate={yes};HostNameInCertificate={c};"
		"ServerCertificate={/f};MultiSubnetFailover={yes};ConnectRetryCount={0};");
	CU_ASSERT_STRING_EQUAL(connection_of("mssql://u:p@h/d?servername=s", "ODBC Driver 18 for SQL Server"),
			       "refused");
	CU_ASSERT_STRING_EQUAL(connection_of("mssql://u:p@h/d", "x};UID=y;{"), "refused");
}

static void freetds_is_told_as_it_understands(void)
{
	CU_ASSERT_STRING_EQUAL(
		connection_of("mssql://sa:pw@h:1434/kine?encrypt=no", "FreeTDS"),
		"DRIVER={FreeTDS};DATABASE=kine;UID=sa;PWD=pw;APP=kineshim;SERVER=h;PORT=1434;TDS_Version=7.4;"
		"ClientCharset=UTF-8;Encryption=request;");
	CU_ASSERT_STRING_EQUAL(connection_of("mssql://sa:a%3BUID=x@h/d?trustservercertificate=yes", "libtdsodbc.so"),
			       "DRIVER={libtdsodbc.so};DATABASE=d;UID=sa;PWD={a;UID=x};APP=kineshim;SERVER=h;PORT=1433;"
			       "TDS_Version=7.4;ClientCharset=UTF-8;Encryption=require;");
	CU_ASSERT_STRING_EQUAL(connection_of("mssql://sa:pw@h/d?servername=prod", "FreeTDS"),
			       "DRIVER={FreeTDS};DATABASE=d;UID=sa;PWD=pw;APP=kineshim;SERVERNAME=prod;"
			       "TDS_Version=7.4;ClientCharset=UTF-8;Encryption=require;");
	/* What it cannot take it is not given. */
	CU_ASSERT_STRING_EQUAL(connection_of("mssql://u:a%7D%3Bb@h/d?encrypt=no", "FreeTDS"), "refused");
	CU_ASSERT_STRING_EQUAL(connection_of("mssql://u:%7Ba%7D@h/d?encrypt=no", "FreeTDS"), "refused");
	CU_ASSERT_STRING_EQUAL(connection_of("mssql://u:p@h/d?encrypt=strict", "FreeTDS"), "refused");
	CU_ASSERT_STRING_EQUAL(connection_of("mssql://u:p@h/d?servercertificate=x", "FreeTDS"), "refused");
	/* It would encrypt, and believe any certificate. */
	CU_ASSERT_STRING_EQUAL(connection_of("mssql://u:p@h/d", "FreeTDS"), "refused");
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "trustservercertificate=yes"));
}

static void a_connection_string_that_no_driver_takes_is_refused(void)
{
	char url[2600], part[257];

	memset(part, '}', 256);
	part[256] = '\0';
	snprintf(url, sizeof(url), "mssql://%s:%s@h/%s", part, part, part);
	CU_ASSERT_STRING_EQUAL(connection_of(url, "ODBC Driver 18 for SQL Server"), "refused");
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "too long"));
}

/* ---- drivers ---- */

/* In a process of its own: unixODBC asks only once where its files are. */
static bool finds(const char *const *names, const char *driver)
{
	char name[257];
	pid_t child = fork();
	int status = 1;

	if (child == 0) {
		bool found = odbc_ini_write(names, "x.so") && sqlb_ms_find_driver(name, sizeof(name), &err) == KS_OK;

		odbc_ini_remove();
		_exit(found ? strcmp(name, driver) != 0 : driver || !strstr(err.text, "tdsodbc"));
	}
	CU_ASSERT_TRUE_FATAL(child > 0);
	CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
	return status == 0;
}

static void the_best_driver_is_found(void)
{
	CU_ASSERT_TRUE(
		finds((const char *const[]){"SQLite3", "ODBC Driver 17 for SQL Server", "FreeTDS",
					    "ODBC Driver 18 for SQL Server", "ODBC Driver 99 for Something", NULL},
		      "ODBC Driver 18 for SQL Server"));
	CU_ASSERT_TRUE(finds((const char *const[]){"FreeTDS", "SQLite3", NULL}, "FreeTDS"));
	CU_ASSERT_TRUE(finds((const char *const[]){"SQLite3", NULL}, NULL));
	CU_ASSERT_EQUAL(sqlb_ms_driver_kind("/usr/lib/odbc/libtdsodbc.so.0"), SQLB_MS_FREETDS);
	CU_ASSERT_EQUAL(sqlb_ms_driver_kind("freetds"), SQLB_MS_FREETDS);
	CU_ASSERT_EQUAL(sqlb_ms_driver_kind("ODBC Driver 18 for SQL Server"), SQLB_MS_MICROSOFT);
}

/* ---- error numbers ---- */

static void error_numbers_mean_what_they_should(void)
{
	static const struct {
		int number;
		enum sqlb_ms_class class;
	} cases[] = {
		{2627, SQLB_MS_TAKEN},
		{2601, SQLB_MS_TAKEN},
		{1205, SQLB_MS_AGAIN},
		{3960, SQLB_MS_AGAIN},
		{1222, SQLB_MS_BUSY},
		{9002, SQLB_MS_BUSY},
		{1105, SQLB_MS_BUSY},
		{3906, SQLB_MS_ELSEWHERE},
		{4060, SQLB_MS_ELSEWHERE},
		{18456, SQLB_MS_ELSEWHERE},
		{40613, SQLB_MS_ELSEWHERE},
		{40501, SQLB_MS_ELSEWHERE},
		{49918, SQLB_MS_ELSEWHERE},
		{207, SQLB_MS_WRONG},
		{208, SQLB_MS_WRONG},
		{229, SQLB_MS_WRONG},
		{515, SQLB_MS_WRONG},
		{547, SQLB_MS_WRONG},
		{8003, SQLB_MS_WRONG},
		{10738, SQLB_MS_WRONG},
		{824, SQLB_MS_DAMAGED},
		/* The commit may have been what failed, or the session. */
		{40197, SQLB_MS_UNSURE},
		{596, SQLB_MS_UNSURE},
		{6005, SQLB_MS_UNSURE},
		{3902, SQLB_MS_UNSURE},
		{0, SQLB_MS_UNSURE},
		{20003, SQLB_MS_UNSURE},
		{50000, SQLB_MS_UNSURE},
		{-1, SQLB_MS_UNSURE},
		{999999, SQLB_MS_UNSURE},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (sqlb_ms_classify(cases[i].number) != cases[i].class)
			printf("# %d\n", cases[i].number);
		CU_ASSERT_EQUAL(sqlb_ms_classify(cases[i].number), cases[i].class);
	}
	/* Texts that quote values are never passed on. */
	CU_ASSERT_PTR_NOT_NULL(sqlb_ms_explain(2627));
	CU_ASSERT_PTR_NOT_NULL(sqlb_ms_explain(245));
	CU_ASSERT_PTR_NOT_NULL(sqlb_ms_explain(2628));
	CU_ASSERT_PTR_NOT_NULL(sqlb_ms_explain(50000));
	CU_ASSERT_PTR_NULL(sqlb_ms_explain(208));
}

/* ---- statements ---- */

static size_t marks(const struct ks_buf *text)
{
	size_t count = 0;

	for (size_t i = 0; i < text->size; i++)
		count += text->data[i] == '?';
	return count;
}

/* Also that no quote, comment or semicolon is left open in it, as far as one can see without a parser. */
static void check_text(struct ks_buf *text, size_t params)
{
	int depth = 0;
	size_t quotes = 0;

	CU_ASSERT_FALSE(text->failed);
	CU_ASSERT_EQUAL(marks(text), params);
	CU_ASSERT_TRUE(params <= 2098);
	for (size_t i = 0; i < text->size; i++) {
		depth += (text->data[i] == '(') - (text->data[i] == ')');
		quotes += text->data[i] == '\'';
		if (depth < 0)
			break;
	}
	CU_ASSERT_EQUAL(depth, 0);
	CU_ASSERT_EQUAL(quotes % 2, 0);
	ks_buf_reset(text);
}

static void statements_are_of_few_sizes(void)
{
	CU_ASSERT_EQUAL(sqlb_ms_step(0, 160), 0);
	CU_ASSERT_EQUAL(sqlb_ms_step(1, 160), 1);
	CU_ASSERT_EQUAL(sqlb_ms_step(3, 160), 4);
	CU_ASSERT_EQUAL(sqlb_ms_step(128, 160), 128);
	CU_ASSERT_EQUAL(sqlb_ms_step(129, 160), 160);
	CU_ASSERT_EQUAL(sqlb_ms_step(160, 160), 160);
}

static void statements_of_all_sizes_keep_the_limits(void)
{
	static const size_t small[] = {0, 1, 2, 4, 8, 16, 32, 64};
	static const size_t row_steps[] = {0, 1, 2, 4, 8, 16, 32, 64, 128, 160};
	struct ks_buf text;
	size_t shapes = 0;

	ks_buf_init(&text, 1 << 20);
	for (size_t ids = 1; ids <= SQLB_MS_IDS_MAX; ids = ids < 9 ? ids + 1 : ids * 2) {
		size_t n = ids > SQLB_MS_IDS_MAX ? SQLB_MS_IDS_MAX : ids;

		sqlb_ms_text_expire(&text, n);
		check_text(&text, n);
		sqlb_ms_text_lease_drop(&text, n);
		check_text(&text, n);
		sqlb_ms_text_lease_put(&text, n);
		check_text(&text, 3 * n);
		sqlb_ms_text_lease_ensure(&text, n);
		check_text(&text, 2 * n);
		sqlb_ms_text_lease_touch(&text, n);
		check_text(&text, 2 * n);
		sqlb_ms_text_lease_read(&text, n);
		check_text(&text, n);
		sqlb_ms_text_read_at(&text, n);
		check_text(&text, 2 * n);
		sqlb_ms_text_trim(&text, n);
		check_text(&text, 2 * n);
	}
	for (size_t rows = 1; rows <= SQLB_MS_ROWS_MAX; rows++) {
		sqlb_ms_text_insert(&text, rows);
		check_text(&text, 13 * rows);
	}
	for (size_t e = 0; e < 8; e++)
		for (size_t g = 0; g < 8; g++)
			for (size_t f = 0; f < 8; f++)
				for (size_t r = 0; r < 10; r++) {
					struct sqlb_ms_shape shape = {small[e], small[g], small[f], row_steps[r]};

					if (sqlb_ms_shape_params(&shape) > SQLB_MS_PARAMS_MAX)
						continue;
					sqlb_ms_text_append(&text, &shape);
					check_text(&text, sqlb_ms_shape_params(&shape));
					shapes++;
				}
	CU_ASSERT_TRUE(shapes > 4000);
	ks_buf_fini(&text);
}

static void ids_are_sorted_without_doubles(void)
{
	int64_t ids[] = {5, -1, 5, INT64_MIN, INT64_MAX, -1, 0};

	CU_ASSERT_EQUAL(sqlb_ms_sort_ids(ids, 7), 5);
	CU_ASSERT_TRUE(ids[0] == INT64_MIN && ids[1] == -1 && ids[2] == 0 && ids[3] == 5 && ids[4] == INT64_MAX);
	CU_ASSERT_EQUAL(sqlb_ms_sort_ids(NULL, 0), 0);
	CU_ASSERT_EQUAL(sqlb_ms_ttl(-5), 0);
	CU_ASSERT_EQUAL(sqlb_ms_ttl(INT64_MAX), SQLB_MS_TTL_MAX);
}

int main(void)
{
	static const struct tap_test tests[] = {
#define T(test) {#test, test}
		T(a_url_says_all_that_a_driver_wants_to_know),
		T(a_wrong_url_is_refused_without_quoting_secrets),
		T(every_length_of_url_is_survived),
		T(microsofts_driver_is_told_in_braces),
		T(freetds_is_told_as_it_understands),
		T(a_connection_string_that_no_driver_takes_is_refused),
		T(the_best_driver_is_found),
		T(error_numbers_mean_what_they_should),
		T(statements_are_of_few_sizes),
		T(statements_of_all_sizes_keep_the_limits),
		T(ids_are_sorted_without_doubles),
#undef T
		{NULL, NULL},
	};

	return tap_run("mssql", tests);
}
