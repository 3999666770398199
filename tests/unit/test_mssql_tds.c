/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the SQL Server backend makes of answers that no server gives when asked: deadlocks, a full log, silence,
 * connections that end in the middle of a row. FreeTDS' driver talks through unixODBC to a scripted server
 * (tests/lib/tds_server.h).
 *
 * tests/suites/backend runs on a real server when KINESHIM_TEST_MSSQL names one.
 */
#include "tests/lib/tap.h"

#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/panic.h"
#include "sqlbackends/mssql_priv.h"
#include "sqlbackends/sqlb.h"
#include "tests/lib/odbc_ini.h"
#include "tests/lib/tds_server.h"

static const struct sqlb_ops *const ops = &sqlb_mssql_ops;
static struct ks_err err;

static int64_t now_ms(void)
{
	return ks_clock_now(ks_clock_system());
}

/* ---- the scripted server ---- */

typedef void step_fn(const struct tds_request *request, struct tds_reply *reply);

enum { SEEN_MAX = 64 };

struct seen {
	enum tds_kind kind;
	unsigned connection;
	char *text;
	char *declared;
	struct tds_param *params; /* their bytes are copies too */
	size_t param_count;
};

/* What the test wants to be answered, in order, and what was asked. Session settings and ROLLBACKs are answered here. */
static struct {
	pthread_mutex_t lock;
	step_fn *steps[SEEN_MAX + 1];
	size_t next_step;
	struct seen seen[SEEN_MAX];
	size_t seen_count;
	unsigned logins, sessions, pings, undos, attentions, strangers;
	char user[100], password[200], database[100];
	int refuse_login; /* error number */
} script = {.lock = PTHREAD_MUTEX_INITIALIZER};

static struct tds_server *server;
static int port;
static struct sqlb_db *db;
static struct sqlb_conn *conn;

static void remember(const struct tds_request *request)
{
	struct seen *seen = &script.seen[script.seen_count];

	if (script.seen_count == SEEN_MAX) {
		script.strangers++;
		return;
	}
	script.seen_count++;
	*seen = (struct seen){.kind = request->kind,
			      .connection = request->connection,
			      .text = ks_xstrdup(request->text ? request->text : ""),
			      .declared = ks_xstrdup(request->declared ? request->declared : ""),
			      .params = ks_xcalloc(request->param_count + 1, sizeof(struct tds_param)),
			      .param_count = request->param_count};
	for (size_t i = 0; i < request->param_count; i++) {
		struct ks_slice bytes = request->params[i].bytes;
		uint8_t *copy = bytes.data ? ks_xcalloc(1, bytes.size + 1) : NULL;

		if (copy && bytes.size > 0)
			memcpy(copy, bytes.data, bytes.size);
		seen->params[i] = request->params[i];
		seen->params[i].bytes = ks_slice_of(copy, bytes.size);
	}
}

static void forget_seen(void)
{
	for (size_t i = 0; i < script.seen_count; i++) {
		struct seen *seen = &script.seen[i];

		for (size_t k = 0; k < seen->param_count; k++)
			free((void *)(uintptr_t)seen->params[k].bytes.data);
		free(seen->params);
		free(seen->text);
		free(seen->declared);
	}
	script.seen_count = 0;
}

static void answer(void *ctx, const struct tds_request *request, struct tds_reply *reply)
{
	(void)ctx;
	pthread_mutex_lock(&script.lock);
	if (request->kind == TDS_LOGIN) {
		script.logins++;
		snprintf(script.user, sizeof(script.user), "%s", request->text);
		snprintf(script.password, sizeof(script.password), "%s", request->secret);
		snprintf(script.database, sizeof(script.database), "%s", request->declared);
		if (script.refuse_login)
			tds_error(reply, script.refuse_login, 14, "Login failed for user 'sa'.");
	} else if (request->kind == TDS_ATTENTION) {
		script.attentions++;
	} else if (request->kind == TDS_BATCH && strncmp(request->text, "SET NOCOUNT ON; SET", 19) == 0) {
		script.sessions++;
	} else if (request->kind == TDS_BATCH && strcmp(request->text, "SET NOCOUNT ON") == 0) {
		script.pings++;
	} else if (request->kind == TDS_BATCH && strncmp(request->text, "IF @@TRANCOUNT > 0 ROLLBACK", 27) == 0) {
		script.undos++;
	} else if ((request->kind == TDS_RPC || request->kind == TDS_BATCH) && script.steps[script.next_step]) {
		remember(request);
		script.steps[script.next_step++](request, reply);
	} else {
		printf("# not in the script: %d %s\n", request->kind, request->text ? request->text : "");
		script.strangers++;
	}
	pthread_mutex_unlock(&script.lock);
}

static void play(step_fn *const *steps)
{
	pthread_mutex_lock(&script.lock);
	forget_seen();
	memset(script.steps, 0, sizeof(script.steps));
	script.next_step = 0;
	for (size_t i = 0; steps && steps[i]; i++)
		script.steps[i] = steps[i];
	pthread_mutex_unlock(&script.lock);
}

/* What the handler has written before the answer was sent is there to be read now. */
static enum sqlb_outcome settled(enum sqlb_outcome outcome)
{
	pthread_mutex_lock(&script.lock);
	pthread_mutex_unlock(&script.lock);
	return outcome;
}

#define GIVES(call, outcome) CU_ASSERT_EQUAL(settled(call), outcome)

static void refuse_login(int number)
{
	pthread_mutex_lock(&script.lock);
	script.refuse_login = number;
	pthread_mutex_unlock(&script.lock);
}

#define PLAY(...) play((step_fn *const[]){__VA_ARGS__, NULL})

static void begin_with(const char *password, const char *parameters)
{
	char url[600];

	script.logins = script.sessions = script.pings = script.undos = script.attentions = script.strangers = 0;
	script.refuse_login = 0;
	play(NULL);
	server = tds_server_start(answer, NULL, &port);
	CU_ASSERT_PTR_NOT_NULL_FATAL(server);
	snprintf(url, sizeof(url), "mssql://sa:%s@127.0.0.1:%d/kine?%s", password, port, parameters);
	CU_ASSERT_EQUAL_FATAL(ops->open(url, "", &db, &err), KS_OK);
	CU_ASSERT_EQUAL_FATAL(ops->connect(db, &conn, &err), SQLB_OK);
}

static void begin(void)
{
	begin_with("hunter2", "encrypt=no");
}

/* Every step was asked for, and nothing else. */
static void end(void)
{
	ops->disconnect(conn);
	ops->close(db);
	tds_server_stop(server);
	server = NULL;
	CU_ASSERT_PTR_NULL(script.steps[script.next_step]);
	CU_ASSERT_EQUAL(script.strangers, 0);
	forget_seen();
}

/* ---- steps ---- */

static void number(struct tds_reply *reply, int64_t value)
{
	tds_transaction(reply, true);
	tds_statement(reply); /* the INSERT: what comes before the SELECT */
	tds_transaction(reply, false);
	tds_columns(reply, "n");
	tds_packet(reply);
	tds_row(reply);
	tds_number(reply, value);
	tds_packet(reply);
	tds_statement(reply);
	tds_packet(reply);
}

#define STEP_NUMBER(name, value)                                                     \
	static void name(const struct tds_request *request, struct tds_reply *reply) \
	{                                                                            \
		(void)request;                                                       \
		number(reply, value);                                                \
	}
STEP_NUMBER(committed, SQLB_MS_COMMITTED)
STEP_NUMBER(head_elsewhere, SQLB_MS_HEAD_ELSEWHERE)
STEP_NUMBER(not_expired, SQLB_MS_NOT_EXPIRED)
STEP_NUMBER(rows_missing, SQLB_MS_ROWS_MISSING)
STEP_NUMBER(number_160, 160)
STEP_NUMBER(number_40, 40)
STEP_NUMBER(number_0, 0)

static void done(const struct tds_request *request, struct tds_reply *reply)
{
	if (strstr(request->text, "BEGIN TRANSACTION"))
		tds_transaction(reply, true);
	if (strstr(request->text, "COMMIT TRANSACTION"))
		tds_transaction(reply, false);
}

static int error_number; /* what 'fails' answers */

static void fails(const struct tds_request *request, struct tds_reply *reply)
{
	(void)request;
	tds_statement(reply);
	tds_error(reply, error_number, error_number == 1205 ? 13 : 14, "the text quotes a secret: hunter2");
	if (error_number == 2627)
		tds_error(reply, 3621, 0, "The statement has been terminated.");
}

static size_t cut_at; /* of what 'cut_committed' answers */

static void cut_committed(const struct tds_request *request, struct tds_reply *reply)
{
	committed(request, reply);
	reply->end = TDS_CUT;
	reply->cut_at = cut_at;
}

static void cut_at_once(const struct tds_request *request, struct tds_reply *reply)
{
	(void)request;
	reply->end = TDS_CUT;
}

static void silent(const struct tds_request *request, struct tds_reply *reply)
{
	(void)request;
	reply->end = TDS_SILENT;
}

static void deaf(const struct tds_request *request, struct tds_reply *reply)
{
	(void)request;
	reply->end = TDS_DEAF;
}

/* ---- appends ---- */

static struct sqlb_row row_of(int64_t position)
{
	return (struct sqlb_row){.position = position,
				 .rows = 1,
				 .kind = 1,
				 .revision = position + 1,
				 .key = ks_slice_str("key"),
				 .value = ks_slice_str("value"),
				 .create_revision = 2,
				 .version = 3,
				 .lease = -4,
				 .writer = 77,
				 .batch = INT64_MAX};
}

static enum sqlb_outcome append_one(bool *appended)
{
	struct sqlb_row row = row_of(8);
	struct sqlb_append append = {.rows = &row, .row_count = 1, .after_writer = 55, .after_batch = 66};

	return settled(ops->append(conn, &append, appended, &err));
}

static void an_append_is_one_statement(void)
{
	static const char text[] =
		"SET XACT_ABORT ON; DECLARE @state bigint, @head bigint, @writer bigint, @batch bigint; SET @state = "
		"1; "
		"BEGIN TRANSACTION; SELECT TOP (1) @head = position, @writer = writer, @batch = batch FROM "
		"kineshim_log "
		"ORDER BY position DESC, sub DESC; IF @state = 1 AND (COALESCE(@head, 0) <> @P1 OR "
		"(@P2 <> 0 AND (@writer <> @P3 OR @batch <> @P4))) SET @state = 2; IF @state = 1 BEGIN "
		"INSERT INTO kineshim_log (position, sub, [rows], kind, revision, create_revision, version, lease, "
		"writer, "
		"batch, [key], value, payload) SELECT position, sub, [rows], kind, revision, create_revision, version, "
		"lease, writer, batch, [key], value, payload FROM (VALUES (@P5, @P6, @P7, @P8, @P9, @P10, @P11, @P12, "
		"@P13, @P14, @P15, @P16, @P17)) AS v(position, sub, [rows], kind, revision, create_revision, version, "
		"lease, writer, batch, [key], value, payload) WHERE position IS NOT NULL; "
		"IF @@ROWCOUNT <> @P18 SET @state = 4; "
		"ELSE IF EXISTS (SELECT 1 FROM kineshim_log WHERE position > @P19) SET @state = 2; END; "
		"IF @state = 1 COMMIT TRANSACTION; ELSE ROLLBACK TRANSACTION; SELECT @state";
	static const int64_t numbers[] = {7, 55, 55, 66, 8, 0, 1, 1, 9, 2, 3, -4, 77, INT64_MAX};
	bool appended = false;
	const struct seen *seen;

	begin();
	PLAY(committed);
	CU_ASSERT_EQUAL(append_one(&appended), SQLB_OK);
	CU_ASSERT_TRUE(appended);
	CU_ASSERT_EQUAL_FATAL(script.seen_count, 1);
	seen = &script.seen[0];
	CU_ASSERT_STRING_EQUAL(seen->text, text);
	CU_ASSERT_EQUAL_FATAL(seen->param_count, 19);
	for (size_t i = 0; i < 14; i++)
		CU_ASSERT_TRUE(seen->params[i].type == 'n' && seen->params[i].width == 8 &&
			       seen->params[i].number == numbers[i]);
	CU_ASSERT_TRUE(ks_slice_eq(seen->params[14].bytes, ks_slice_str("key")));
	CU_ASSERT_TRUE(ks_slice_eq(seen->params[15].bytes, ks_slice_str("value")));
	CU_ASSERT_TRUE(seen->params[16].type == 'b' && seen->params[16].null);
	CU_ASSERT_EQUAL(seen->params[17].number, 1);
	CU_ASSERT_EQUAL(seen->params[18].number, 8);
	CU_ASSERT_PTR_NOT_NULL(strstr(seen->declared, "@P1 BIGINT,"));
	CU_ASSERT_PTR_NOT_NULL(strstr(seen->declared, "@P15 VARBINARY(MAX),@P16 VARBINARY(MAX),@P17 VARBINARY(MAX)"));
	CU_ASSERT_EQUAL(script.logins, 1);
	CU_ASSERT_EQUAL(script.sessions, 1);
	CU_ASSERT_STRING_EQUAL(script.user, "sa");
	CU_ASSERT_STRING_EQUAL(script.password, "hunter2");
	CU_ASSERT_STRING_EQUAL(script.database, "kine");
	end();
}

static void rows_that_are_fewer_than_the_step_are_filled_up(void)
{
	struct sqlb_row rows[3] = {row_of(8), row_of(9), row_of(10)};
	struct sqlb_append append = {.rows = rows, .row_count = 3};
	const struct tds_param *params;
	bool appended = false;

	begin();
	PLAY(committed);
	GIVES(ops->append(conn, &append, &appended, &err), SQLB_OK);
	CU_ASSERT_EQUAL_FATAL(script.seen_count, 1);
	CU_ASSERT_EQUAL_FATAL(script.seen[0].param_count, 4 + 4 * 13 + 2);
	params = script.seen[0].params;
	CU_ASSERT_EQUAL(params[4 + 2 * 13].number, 10);
	for (size_t i = 4 + 3 * 13; i < 4 + 4 * 13; i++)
		CU_ASSERT_TRUE(params[i].null);
	CU_ASSERT_EQUAL(params[4 + 4 * 13].number, 3);
	CU_ASSERT_EQUAL(params[4 + 4 * 13 + 1].number, 10);
	end();
}

static void bytes_go_out_as_they_are(void)
{
	enum { LARGE = 3 << 20 };
	uint8_t *large = ks_xcalloc(1, LARGE);
	struct sqlb_row row = row_of(8);
	struct sqlb_append append = {.rows = &row, .row_count = 1};
	const struct tds_param *params;
	bool appended = false;

	for (size_t i = 0; i < LARGE; i++)
		large[i] = (uint8_t)(i * 7 + (i >> 8));
	row.key = ks_slice_of("a\0b\0", 4);
	row.value = ks_slice_of(large, LARGE);
	row.payload = ks_slice_of("", 0);
	begin();
	PLAY(committed);
	GIVES(ops->append(conn, &append, &appended, &err), SQLB_OK);
	CU_ASSERT_EQUAL_FATAL(script.seen_count, 1);
	params = script.seen[0].params + 4 + 10;
	CU_ASSERT_TRUE(ks_slice_eq(params[0].bytes, row.key));
	CU_ASSERT_TRUE(ks_slice_eq(params[1].bytes, row.value));
	CU_ASSERT_TRUE(!params[2].null && params[2].bytes.size == 0);
	end();
	free(large);
}

static void what_the_batch_says_is_the_outcome(void)
{
	bool appended = true;

	begin();
	PLAY(head_elsewhere);
	CU_ASSERT_EQUAL(append_one(&appended), SQLB_CONFLICT);
	CU_ASSERT_FALSE(appended);
	PLAY(not_expired);
	appended = true;
	CU_ASSERT_EQUAL(append_one(&appended), SQLB_OK);
	CU_ASSERT_FALSE(appended);
	PLAY(rows_missing);
	CU_ASSERT_EQUAL(append_one(&appended), SQLB_BROKEN);
	CU_ASSERT_EQUAL(script.undos, 0); /* it says itself what became of the transaction */
	end();
}

static void errors_of_an_append_have_their_outcomes(void)
{
	static const struct {
		int number;
		enum sqlb_outcome outcome;
		bool keeps; /* the connection goes on */
	} cases[] = {
		{2627, SQLB_CONFLICT, true}, {2601, SQLB_CONFLICT, true}, {1205, SQLB_CONFLICT, true},
		{3960, SQLB_CONFLICT, true}, {1222, SQLB_AWAY, true},     {9002, SQLB_AWAY, true},
		{1105, SQLB_AWAY, true},     {3906, SQLB_AWAY, false},    {40613, SQLB_AWAY, false},
		{208, SQLB_BROKEN, false},   {547, SQLB_BROKEN, false},   {8003, SQLB_BROKEN, false},
		{229, SQLB_BROKEN, false},   {824, SQLB_DOUBT, false},    {40197, SQLB_DOUBT, false},
		{596, SQLB_DOUBT, false},    {50000, SQLB_DOUBT, false},  {3902, SQLB_DOUBT, false},
	};

	begin();
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		unsigned logins, undos;
		enum sqlb_outcome outcome;
		bool appended = true;

		error_number = cases[i].number;
		PLAY(committed, fails, committed);
		CU_ASSERT_EQUAL(append_one(&appended), SQLB_OK);
		logins = script.logins;
		undos = script.undos;
		err.text[0] = '\0';
		outcome = append_one(&appended);
		if (outcome != cases[i].outcome)
			printf("# %d: %s %s\n", cases[i].number, sqlb_outcome_name(outcome), err.text);
		CU_ASSERT_EQUAL(outcome, cases[i].outcome);
		CU_ASSERT_FALSE(appended);
		if (outcome != SQLB_CONFLICT)
			CU_ASSERT_TRUE(err.text[0] != '\0');
		if (cases[i].number == 2627 || cases[i].number == 547 || cases[i].number == 50000)
			CU_ASSERT_PTR_NULL(strstr(err.text, "hunter2"));
		CU_ASSERT_EQUAL(script.undos - undos, cases[i].keeps);
		CU_ASSERT_EQUAL(append_one(&appended), SQLB_OK);
		CU_ASSERT_EQUAL(script.logins - logins, !cases[i].keeps);
	}
	end();
}

/* The answer ends after each of its bytes: an append counts as done from the moment that the number has come, no sooner. */
static void an_answer_cut_anywhere_is_doubt_or_done(void)
{
	/* In packets: what comes before the row, the row, and the end in two. */
	enum { BEFORE = 8 + 14 + 13 + 14 + 13, ROW = 8 + 10, END = 2 * (8 + 13) + 5 };
	unsigned done_count = 0;
	bool appended;

	for (cut_at = 0; cut_at < BEFORE + ROW + END; cut_at++) {
		enum sqlb_outcome outcome;

		begin();
		PLAY(cut_committed);
		outcome = append_one(&appended);
		/* With the row alone the driver may tell of the row or of the end. */
		if (outcome != SQLB_OK || cut_at < BEFORE + ROW)
			CU_ASSERT_EQUAL(outcome, SQLB_DOUBT);
		CU_ASSERT_EQUAL(appended, outcome == SQLB_OK);
		done_count += appended;
		PLAY(committed);
		CU_ASSERT_EQUAL(append_one(&appended), SQLB_OK);
		CU_ASSERT_EQUAL(script.logins, 2);
		end();
	}
	CU_ASSERT_TRUE(done_count > 0);
}

static void a_connection_that_ended_is_found_before_an_append_is_sent(void)
{
	bool appended = false;

	begin();
	PLAY(committed, committed);
	CU_ASSERT_EQUAL(append_one(&appended), SQLB_OK);
	tds_server_hang_up(server);
	conn->used_at_ms -= SQLB_MS_PING_AFTER_MS;
	CU_ASSERT_EQUAL(append_one(&appended), SQLB_OK);
	CU_ASSERT_EQUAL(script.logins, 2);
	CU_ASSERT_EQUAL_FATAL(script.seen_count, 2);
	CU_ASSERT_EQUAL(script.seen[1].connection, 2);
	/* One that lives is asked and kept. */
	conn->used_at_ms -= SQLB_MS_PING_AFTER_MS;
	PLAY(committed);
	CU_ASSERT_EQUAL(append_one(&appended), SQLB_OK);
	CU_ASSERT_EQUAL(script.logins, 2);
	CU_ASSERT_EQUAL(script.pings, 1);
	/* Without that look nobody knows whether it was sent. */
	tds_server_hang_up(server);
	CU_ASSERT_EQUAL(append_one(&appended), SQLB_DOUBT);
	end();
}

static void nobody_to_connect_to_is_away(void)
{
	bool appended = true;

	begin();
	tds_server_stop(server);
	server = NULL;
	CU_ASSERT_EQUAL(append_one(&appended), SQLB_AWAY);
	CU_ASSERT_FALSE(appended);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "cannot connect"));
	CU_ASSERT_PTR_NULL(strstr(err.text, "hunter2"));
	end();
}

static void a_driver_that_is_not_there_is_named(void)
{
	struct sqlb_head head;

	CU_ASSERT_EQUAL_FATAL(
		ops->open("mssql://sa:hunter2@127.0.0.1:1/d?driver=/nowhere/libtdsodbc.so&encrypt=no", "", &db, &err),
		KS_OK);
	CU_ASSERT_EQUAL_FATAL(ops->connect(db, &conn, &err), SQLB_OK);
	GIVES(ops->read_head(conn, &head, &err), SQLB_AWAY);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "/nowhere/libtdsodbc.so"));
	ops->disconnect(conn);
	ops->close(db);
}

static void a_refused_login_is_away_with_advice(void)
{
	bool appended = true;

	begin();
	refuse_login(18456);
	CU_ASSERT_EQUAL(append_one(&appended), SQLB_AWAY);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "user and password"));
	refuse_login(4060);
	CU_ASSERT_EQUAL(append_one(&appended), SQLB_AWAY);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "the database cannot be opened"));
	CU_ASSERT_PTR_NULL(strstr(err.text, "hunter2"));
	refuse_login(0);
	PLAY(committed);
	CU_ASSERT_EQUAL(append_one(&appended), SQLB_OK);
	end();
}

static void passwords_arrive_as_they_are(void)
{
	static const struct {
		const char *encoded, *plain;
	} cases[] = {
		{"a%3Bb", "a;b"},       {"%7Dx", "}x"},
		{"x%7D", "x}"},         {"%7D%7D", "}}"},
		{"%7Bx", "{x"},         {"a%20b", "a b"},
		{"p=w%25", "p=w%"},     {"%3BUID=x%3BPWD=y", ";UID=x;PWD=y"},
		{"%22q%27", "\"q'"},    {"a%5Cb%23%3F", "a\\b#?"},
		{"a%7Bb%7Dc", "a{b}c"},
	};
	bool appended;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		begin_with(cases[i].encoded, "driver=FreeTDS&encrypt=no");
		PLAY(committed);
		CU_ASSERT_EQUAL(append_one(&appended), SQLB_OK);
		CU_ASSERT_STRING_EQUAL(script.password, cases[i].plain);
		CU_ASSERT_STRING_EQUAL(script.user, "sa");
		CU_ASSERT_STRING_EQUAL(script.database, "kine");
		end();
	}
}

static void a_password_that_freetds_cannot_take_is_refused(void)
{
	CU_ASSERT_EQUAL(ops->open("mssql://sa:a%3Bb%7D@h/d?encrypt=no", "", &db, &err), KS_INVALID_ARGUMENT);
	CU_ASSERT_PTR_NULL(db);
}

static void no_encryption_where_it_is_wanted_is_away(void)
{
	bool appended;

	begin_with("hunter2", "trustservercertificate=yes");
	CU_ASSERT_EQUAL(append_one(&appended), SQLB_AWAY);
	CU_ASSERT_EQUAL(script.logins, 0); /* the password never left */
	end();
}

/* ---- TLS ---- */

static char pem_path[2][40], conf_path[40];

/* A key and a certificate for "localhost" that it signs itself. */
static void make_certificate(char path[40])
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *certificate = X509_new();
	X509_NAME *name = X509_get_subject_name(certificate);
	X509_EXTENSION *names;
	X509V3_CTX ctx;
	FILE *file;
	int fd;

	snprintf(path, 40, "/tmp/ks-mssql-XXXXXX");
	fd = mkstemp(path);
	CU_ASSERT_TRUE_FATAL(fd >= 0);
	X509_set_version(certificate, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
	X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
	X509_gmtime_adj(X509_getm_notAfter(certificate), 86400);
	X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"localhost", -1, -1, 0);
	X509_set_issuer_name(certificate, name);
	X509_set_pubkey(certificate, key);
	X509V3_set_ctx(&ctx, certificate, certificate, NULL, NULL, 0);
	names = X509V3_EXT_conf_nid(NULL, &ctx, NID_subject_alt_name, "DNS:localhost");
	X509_add_ext(certificate, names, -1);
	X509_EXTENSION_free(names);
	CU_ASSERT_TRUE(X509_sign(certificate, key, EVP_sha256()) > 0);
	file = fdopen(fd, "w");
	CU_ASSERT_PTR_NOT_NULL_FATAL(file);
	CU_ASSERT_EQUAL(PEM_write_X509(file, certificate), 1);
	CU_ASSERT_EQUAL(PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL), 1);
	CU_ASSERT_EQUAL(fclose(file), 0);
	X509_free(certificate);
	EVP_PKEY_free(key);
}

/* A section "kine" of a freetds.conf of our own. */
static void write_conf(const char *host, const char *ca_file)
{
	FILE *file = fopen(conf_path, "w");

	CU_ASSERT_PTR_NOT_NULL_FATAL(file);
	fprintf(file, "[kine]\nhost = %s\nport = %d\ntds version = 7.4\nca file = %s\n", host, port, ca_file);
	CU_ASSERT_EQUAL(fclose(file), 0);
	setenv("FREETDSCONF", conf_path, 1);
}

static enum sqlb_outcome append_through(const char *host, const char *ca_file)
{
	bool appended;

	ops->disconnect(conn);
	ops->close(db);
	write_conf(host, ca_file);
	CU_ASSERT_EQUAL_FATAL(ops->open("mssql://sa:hunter2@/kine?driver=FreeTDS&servername=kine", "", &db, &err),
			      KS_OK);
	CU_ASSERT_EQUAL_FATAL(ops->connect(db, &conn, &err), SQLB_OK);
	return append_one(&appended);
}

static void certificates_are_checked_unless_the_url_says_otherwise(void)
{
	bool appended;
	int fd;

	make_certificate(pem_path[0]);
	make_certificate(pem_path[1]);
	snprintf(conf_path, sizeof(conf_path), "/tmp/ks-mssql-XXXXXX");
	fd = mkstemp(conf_path);
	CU_ASSERT_TRUE_FATAL(fd >= 0);
	close(fd);

	begin_with("hunter2", "driver=FreeTDS&trustservercertificate=yes");
	CU_ASSERT_TRUE(tds_server_encrypt(server, pem_path[0]));
	PLAY(committed, committed, committed);
	GIVES(append_one(&appended), SQLB_OK);
	CU_ASSERT_STRING_EQUAL(script.password, "hunter2");
	CU_ASSERT_EQUAL(script.logins, 1);
	GIVES(append_through("localhost", pem_path[0]), SQLB_OK);
	CU_ASSERT_EQUAL(script.logins, 2);
	/* Another authority; another name. The password stays here. */
	GIVES(append_through("localhost", pem_path[1]), SQLB_AWAY);
	GIVES(append_through("127.0.0.1", pem_path[0]), SQLB_AWAY);
	CU_ASSERT_EQUAL(script.logins, 2);
	GIVES(append_through("localhost", pem_path[0]), SQLB_OK);
	end();
	unlink(pem_path[0]);
	unlink(pem_path[1]);
	unlink(conf_path);
}

/* ---- leases beside an append ---- */

static void leases_of_an_append_are_in_its_statement(void)
{
	static const int64_t gone[] = {9, 3, 9}, expired[] = {7, 5};
	const struct sqlb_lease fresh[] = {{.id = 4, .ttl_ms = 1000}, {.id = 2, .ttl_ms = 5}, {.id = 4, .ttl_ms = -1}};
	struct sqlb_row row = row_of(8);
	struct sqlb_append append = {.rows = &row,
				     .row_count = 1,
				     .leases_gone = gone,
				     .leases_gone_count = 3,
				     .leases_expired = expired,
				     .leases_expired_count = 2,
				     .leases_new = fresh,
				     .leases_new_count = 3};
	/* expired and how many, gone, new, new with ttl */
	static const int64_t numbers[] = {5, 7, 2, 3, 9, 2, 4, 2, 5, 4, 0};
	bool appended = false;

	begin();
	PLAY(committed);
	GIVES(ops->append(conn, &append, &appended, &err), SQLB_OK);
	CU_ASSERT_TRUE(appended);
	CU_ASSERT_EQUAL_FATAL(script.seen_count, 1);
	CU_ASSERT_EQUAL_FATAL(script.seen[0].param_count, 11 + 4 + 13 + 2);
	for (size_t i = 0; i < 11; i++)
		CU_ASSERT_EQUAL(script.seen[0].params[i].number, numbers[i]);
	CU_ASSERT_PTR_NOT_NULL(strstr(
		script.seen[0].text, "DELETE FROM kineshim_lease WHERE id IN (@P1, @P2) AND deadline < DATEDIFF_BIG("));
	CU_ASSERT_PTR_NOT_NULL(strstr(script.seen[0].text, "IF @@ROWCOUNT <> @P3 SET @state = 3; "));
	end();
}

/* ---- an append in pieces ---- */

static void empty_head(const struct tds_request *request, struct tds_reply *reply)
{
	(void)request;
	tds_columns(reply, "nnnn");
	tds_statement(reply);
}

static void head_at_200(const struct tds_request *request, struct tds_reply *reply)
{
	(void)request;
	tds_columns(reply, "nnnn");
	tds_row(reply);
	for (int i = 0; i < 4; i++)
		tds_number(reply, 200);
	tds_statement(reply);
}

static void head_at_201(const struct tds_request *request, struct tds_reply *reply)
{
	(void)request;
	tds_columns(reply, "nnnn");
	tds_row(reply);
	for (int i = 0; i < 4; i++)
		tds_number(reply, 201);
	tds_statement(reply);
}

static enum sqlb_outcome append_200(bool *appended)
{
	static struct sqlb_row rows[200];
	struct sqlb_append append = {.rows = rows, .row_count = 200};

	for (int i = 0; i < 200; i++)
		rows[i] = row_of(i + 1);
	return settled(ops->append(conn, &append, appended, &err));
}

static void a_large_append_is_one_transaction(void)
{
	static const char *const texts[] = {"SET XACT_ABORT ON; BEGIN TRANSACTION",
					    "SELECT TOP (1) position",
					    "INSERT INTO kineshim_log",
					    "INSERT INTO kineshim_log",
					    "SELECT TOP (1) position",
					    "COMMIT TRANSACTION"};
	bool appended = false;

	begin();
	PLAY(done, empty_head, number_160, number_40, head_at_200, done);
	CU_ASSERT_EQUAL(append_200(&appended), SQLB_OK);
	CU_ASSERT_TRUE(appended);
	CU_ASSERT_EQUAL_FATAL(script.seen_count, 6);
	for (size_t i = 0; i < 6; i++) {
		CU_ASSERT_EQUAL(strncmp(script.seen[i].text, texts[i], strlen(texts[i])), 0);
		CU_ASSERT_EQUAL(script.seen[i].connection, 1);
	}
	CU_ASSERT_EQUAL(script.seen[2].param_count, 160 * 13);
	CU_ASSERT_EQUAL(script.seen[3].param_count, 64 * 13);
	CU_ASSERT_EQUAL(script.undos, 0);
	end();
}

static void a_large_append_cut_before_its_commit_is_away(void)
{
	step_fn *const good[] = {done, empty_head, number_160, number_40, head_at_200, done};
	bool appended = true;

	for (size_t cut = 0; cut < 6; cut++) {
		step_fn *steps[8] = {0};

		memcpy(steps, good, sizeof(good));
		steps[cut] = cut_at_once;
		steps[cut + 1] = NULL;
		begin();
		play(steps);
		CU_ASSERT_EQUAL(append_200(&appended), cut < 5 ? SQLB_AWAY : SQLB_DOUBT);
		CU_ASSERT_FALSE(appended);
		end();
	}
}

static void errors_of_a_large_append_undo_it(void)
{
	static const struct {
		int number;
		enum sqlb_outcome outcome;
	} cases[] = {
		{2627, SQLB_CONFLICT}, {1205, SQLB_CONFLICT}, {1222, SQLB_AWAY}, {547, SQLB_BROKEN}, {596, SQLB_AWAY},
	};
	bool appended = true;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		begin();
		error_number = cases[i].number;
		PLAY(done, empty_head, number_160, fails);
		CU_ASSERT_EQUAL(append_200(&appended), cases[i].outcome);
		CU_ASSERT_FALSE(appended);
		/* Undone with words, or with the connection. */
		CU_ASSERT_TRUE(script.undos > 0 || !conn->dbc);
		end();
	}
	begin();
	PLAY(done, head_at_200);
	CU_ASSERT_EQUAL(append_200(&appended), SQLB_CONFLICT);
	CU_ASSERT_EQUAL(script.undos, 1);
	/* Somebody has appended and trimmed between the two looks at the head. */
	PLAY(done, empty_head, number_160, number_40, head_at_201);
	CU_ASSERT_EQUAL(append_200(&appended), SQLB_CONFLICT);
	CU_ASSERT_EQUAL(script.undos, 2);
	PLAY(done, empty_head, number_40);
	CU_ASSERT_EQUAL(append_200(&appended), SQLB_BROKEN);
	end();
}

/* ---- reads ---- */

struct visited {
	size_t count;
	int64_t first, last;
	size_t stop_after;
	struct sqlb_row row; /* the last one; its slices are copies */
	uint8_t bytes[3][70000];
};

static struct visited visited;

static bool visit(void *ctx, const struct sqlb_row *row)
{
	struct ks_slice *slices[] = {&visited.row.key, &visited.row.value, &visited.row.payload};

	(void)ctx;
	visited.row = *row;
	for (int i = 0; i < 3; i++)
		if (slices[i]->data) {
			CU_ASSERT_TRUE_FATAL(slices[i]->size <= sizeof(visited.bytes[i]));
			memcpy(visited.bytes[i], slices[i]->data, slices[i]->size);
			slices[i]->data = visited.bytes[i];
		}
	if (visited.count++ == 0)
		visited.first = row->position;
	visited.last = row->position;
	return visited.count != visited.stop_after;
}

static void put_row(struct tds_reply *reply, int64_t position, int64_t sub, struct ks_slice key, struct ks_slice value,
		    struct ks_slice payload)
{
	const int64_t numbers[] = {position, sub, 1, 2, 3, 4, 5, 6, 7, 8};

	for (size_t i = 0; i < 10; i++)
		tds_number(reply, numbers[i]);
	tds_bytes(reply, key);
	tds_bytes(reply, value);
	tds_bytes(reply, payload);
}

static void row_with_head(struct tds_reply *reply, int64_t head, int64_t position, int64_t sub)
{
	tds_row(reply);
	tds_number(reply, head);
	put_row(reply, position, sub, ks_slice_str("key"), ks_slice_str("value"), ks_slice_of(NULL, 0));
}

static uint8_t long_value[65537];

static void three_rows(const struct tds_request *request, struct tds_reply *reply)
{
	(void)request;
	tds_statement(reply);
	tds_columns(reply, "nnnnnnnnnnnbbb");
	row_with_head(reply, 3, 1, 0);
	row_with_head(reply, 3, 2, 0);
	tds_row(reply);
	tds_number(reply, 3);
	put_row(reply, 3, 0, ks_slice_of("", 0), ks_slice_of(long_value, sizeof(long_value)), ks_slice_of("a\0", 2));
	tds_statement(reply);
}

static enum sqlb_outcome read_all(bool *more)
{
	visited.count = 0;
	return settled(ops->read_rows(conn, 0, -1, SIZE_MAX, visit, NULL, more, &err));
}

static void rows_come_back_with_all_their_bytes(void)
{
	const struct sqlb_row *row = &visited.row;
	bool more = true;

	for (size_t i = 0; i < sizeof(long_value); i++)
		long_value[i] = (uint8_t)(i * 31 + (i >> 7));
	begin();
	PLAY(three_rows);
	CU_ASSERT_EQUAL(read_all(&more), SQLB_OK);
	CU_ASSERT_FALSE(more);
	CU_ASSERT_EQUAL(visited.count, 3);
	CU_ASSERT_TRUE(row->position == 3 && row->sub == 0 && row->rows == 1 && row->kind == 2 && row->revision == 3 &&
		       row->create_revision == 4 && row->version == 5 && row->lease == 6 && row->writer == 7 &&
		       row->batch == 8);
	CU_ASSERT_TRUE(row->key.data && row->key.size == 0);
	CU_ASSERT_TRUE(ks_slice_eq(row->value, ks_slice_of(long_value, sizeof(long_value))));
	CU_ASSERT_TRUE(ks_slice_eq(row->payload, ks_slice_of("a\0", 2)));
	CU_ASSERT_TRUE(conn->slices[1].capacity <= 1 << 20);
	CU_ASSERT_EQUAL_FATAL(script.seen[0].param_count, 3);
	CU_ASSERT_EQUAL(script.seen[0].params[1].number, 0);
	CU_ASSERT_EQUAL(script.seen[0].params[2].number, INT64_MAX);
	end();
}

static int64_t long_read_limit;

static void as_many_as_wanted(const struct tds_request *request, struct tds_reply *reply)
{
	long_read_limit = request->params[0].number;
	tds_columns(reply, "nnnnnnnnnnnbbb");
	for (int64_t i = 0; i < long_read_limit; i++)
		row_with_head(reply, 100000, 1 + i / 2, i % 2);
	tds_statement(reply);
}

static void two_more(const struct tds_request *request, struct tds_reply *reply)
{
	(void)request;
	tds_columns(reply, "nnnnnnnnnnbbb");
	for (int i = 0; i < 2; i++) {
		tds_row(reply);
		put_row(reply, 100000, i, ks_slice_str("key"), ks_slice_str("value"), ks_slice_of(NULL, 0));
	}
	tds_statement(reply);
}

/* From where the first one ended, in the middle of an entry, and up to the head as it was then. */
static void a_long_read_goes_on_where_it_was(void)
{
	const struct tds_param *params;
	int64_t first, other;
	bool more = true;

	begin();
	PLAY(as_many_as_wanted, two_more);
	CU_ASSERT_EQUAL(read_all(&more), SQLB_OK);
	CU_ASSERT_FALSE(more);
	CU_ASSERT_TRUE(long_read_limit >= 64 && long_read_limit <= 16384);
	CU_ASSERT_EQUAL(visited.count, (size_t)long_read_limit + 2);
	CU_ASSERT_EQUAL_FATAL(script.seen_count, 2);
	params = script.seen[1].params;
	CU_ASSERT_EQUAL_FATAL(script.seen[1].param_count, 5);
	first = 1 + (long_read_limit - 1) / 2;
	other = (long_read_limit - 1) % 2;
	CU_ASSERT_EQUAL(params[1].number, first);
	CU_ASSERT_EQUAL(params[2].number, 100000);
	CU_ASSERT_EQUAL(params[3].number, first);
	CU_ASSERT_EQUAL(params[4].number, other);
	end();
}

static void cut_three_rows(const struct tds_request *request, struct tds_reply *reply)
{
	three_rows(request, reply);
	reply->end = TDS_CUT;
	reply->cut_at = cut_at;
}

static void small_rows(const struct tds_request *request, struct tds_reply *reply)
{
	(void)request;
	tds_columns(reply, "nnnnnnnnnnnbbb");
	tds_packet(reply);
	row_with_head(reply, 2, 1, 0);
	tds_packet(reply);
	row_with_head(reply, 2, 2, 0);
	tds_packet(reply);
	tds_statement(reply);
	tds_packet(reply);
}

static void cut_small_rows(const struct tds_request *request, struct tds_reply *reply)
{
	small_rows(request, reply);
	reply->end = TDS_CUT;
	reply->cut_at = cut_at;
}

static void a_read_cut_anywhere_is_away(void)
{
	bool more;

	/* Everything but the end has come: 13 bytes of DONEINPROC, 13 of DONEPROC. */
	for (cut_at = 1; cut_at < 500; cut_at += 1 + cut_at / 13) {
		begin();
		PLAY(cut_small_rows);
		CU_ASSERT_EQUAL(read_all(&more), SQLB_AWAY);
		end();
	}
	for (cut_at = 600; cut_at < sizeof(long_value); cut_at += 9973) {
		begin();
		PLAY(cut_three_rows, small_rows);
		CU_ASSERT_EQUAL(read_all(&more), SQLB_AWAY);
		CU_ASSERT_TRUE(visited.count < 3);
		CU_ASSERT_EQUAL(read_all(&more), SQLB_OK);
		CU_ASSERT_EQUAL(visited.count, 2);
		end();
	}
}

static void rows_and_then_an_error(const struct tds_request *request, struct tds_reply *reply)
{
	three_rows(request, reply);
	tds_error(reply, 1205, 13, "chosen as the victim");
}

static void a_read_that_ends_with_an_error_is_away(void)
{
	bool more;

	begin();
	PLAY(rows_and_then_an_error, three_rows);
	CU_ASSERT_EQUAL(read_all(&more), SQLB_AWAY);
	CU_ASSERT_EQUAL(read_all(&more), SQLB_OK);
	CU_ASSERT_EQUAL(script.logins, 1);
	end();
}

static void null_position(const struct tds_request *request, struct tds_reply *reply)
{
	(void)request;
	tds_columns(reply, "nnnn");
	tds_row(reply);
	for (int i = 0; i < 3; i++)
		tds_number(reply, 1);
	tds_null_number(reply);
	tds_statement(reply);
}

static void a_null_that_cannot_be_ours_is_broken(void)
{
	struct sqlb_head head;

	begin();
	PLAY(null_position, empty_head, head_at_200);
	GIVES(ops->read_head(conn, &head, &err), SQLB_BROKEN);
	GIVES(ops->read_head(conn, &head, &err), SQLB_OK);
	CU_ASSERT_EQUAL(head.position, 0);
	GIVES(ops->read_head(conn, &head, &err), SQLB_OK);
	CU_ASSERT_TRUE(head.position == 200 && head.batch == 200);
	end();
}

/* Much is still on its way when the visitor has enough. */
static void a_visitor_that_stops_cancels_the_rest(void)
{
	bool more = false;

	begin();
	PLAY(as_many_as_wanted, small_rows);
	visited.stop_after = 3;
	CU_ASSERT_EQUAL(read_all(&more), SQLB_OK);
	CU_ASSERT_TRUE(more);
	CU_ASSERT_EQUAL(visited.count, 3);
	visited.stop_after = 0;
	CU_ASSERT_EQUAL(read_all(&more), SQLB_OK);
	CU_ASSERT_EQUAL(visited.count, 2);
	CU_ASSERT_EQUAL(script.attentions, 1);
	CU_ASSERT_EQUAL(script.logins, 1);
	end();
}

static void reads_stop_between_entries(void)
{
	bool more = false;

	begin();
	PLAY(as_many_as_wanted);
	visited.count = 0;
	GIVES(ops->read_rows(conn, 0, -1, 1, visit, NULL, &more, &err), SQLB_OK);
	CU_ASSERT_TRUE(more);
	CU_ASSERT_EQUAL(visited.count, 2); /* the rows of entry 1 */
	end();
}

/* ---- silence ---- */

static void silence_ends_with_a_deadline(void)
{
	step_fn *const steps[] = {silent, deaf};

	for (int i = 0; i < 2; i++) {
		int64_t began_ms = now_ms();

		begin();
		play((step_fn *const[]){steps[i], NULL});
		CU_ASSERT_EQUAL(sqlb_ms_begin(conn, 1, &err), SQLB_OK);
		sqlb_ms_start(conn);
		sqlb_ms_say(conn, "SELECT 1");
		GIVES(sqlb_ms_done(conn, &err), SQLB_AWAY);
		CU_ASSERT_TRUE(conn->error.link);
		CU_ASSERT_EQUAL(sqlb_ms_class_of(conn), SQLB_MS_UNSURE); /* to an append: doubt */
		CU_ASSERT_PTR_NULL(conn->dbc);
		CU_ASSERT_TRUE(now_ms() - began_ms < 5000);
		end();
	}
}

/* ---- waiting ---- */

static void *cancel_soon(void *arg)
{
	struct timespec pause = {.tv_nsec = 100000000};

	nanosleep(&pause, NULL);
	ops->cancel(arg);
	return NULL;
}

static void a_wait_ends_when_it_should(void)
{
	step_fn *many[SEEN_MAX + 1] = {0};
	pthread_t thread;
	int64_t began_ms;

	for (int i = 0; i < SEEN_MAX; i++)
		many[i] = head_at_200;
	begin();
	PLAY(head_at_200, head_at_200, head_at_201);
	GIVES(ops->wait_for_change(conn, 199, 10000, &err), SQLB_OK); /* behind */
	GIVES(ops->wait_for_change(conn, 200, 10000, &err), SQLB_OK); /* somebody appends */
	play(many);
	began_ms = now_ms();
	GIVES(ops->wait_for_change(conn, 200, 150, &err), SQLB_OK); /* time runs out */
	CU_ASSERT_TRUE(now_ms() - began_ms >= 150);
	play(many);
	began_ms = now_ms();
	CU_ASSERT_EQUAL(pthread_create(&thread, NULL, cancel_soon, conn), 0);
	GIVES(ops->wait_for_change(conn, 200, 20000, &err), SQLB_OK); /* cancelled */
	CU_ASSERT_TRUE(now_ms() - began_ms < 10000);
	pthread_join(thread, NULL);
	ops->cancel(conn);
	GIVES(ops->wait_for_change(conn, 200, 20000, &err), SQLB_OK); /* and the next one */
	play(NULL);
	end();
}

/* ---- side tables ---- */

static void two_leases(const struct tds_request *request, struct tds_reply *reply)
{
	(void)request;
	tds_statement(reply);
	tds_columns(reply, "nnn");
	for (int64_t id = 2; id <= 4; id += 2) {
		tds_row(reply);
		tds_number(reply, id);
		tds_number(reply, 10 * id);
		tds_number(reply, id == 4 ? -1 : 9);
	}
	tds_statement(reply);
}

static void leases_but_no_commit(const struct tds_request *request, struct tds_reply *reply)
{
	two_leases(request, reply);
	tds_error(reply, 1205, 13, "chosen as the victim");
}

static void leases_find_their_rows(void)
{
	struct sqlb_lease leases[] = {{.id = 4}, {.id = 3, .found = true}, {.id = 2}, {.id = 4}};

	begin();
	PLAY(two_leases, leases_but_no_commit);
	GIVES(ops->lease_touch(conn, leases, 4, &err), SQLB_OK);
	CU_ASSERT_TRUE(leases[0].found && leases[0].ttl_ms == 40 && leases[0].remaining_ms == -1);
	CU_ASSERT_FALSE(leases[1].found);
	CU_ASSERT_TRUE(leases[2].found && leases[2].ttl_ms == 20 && leases[2].remaining_ms == 9);
	CU_ASSERT_TRUE(leases[3].found && leases[3].ttl_ms == 40);
	/* 2, 3, 4 and a filling, twice */
	CU_ASSERT_EQUAL_FATAL(script.seen[0].param_count, 8);
	CU_ASSERT_TRUE(script.seen[0].params[3].null && script.seen[0].params[6].number == 4);
	/* What was not committed was not kept alive. */
	GIVES(ops->lease_touch(conn, leases, 4, &err), SQLB_AWAY);
	end();
}

static void a_lease_that_another_one_ensured_is_fine(void)
{
	const struct sqlb_lease lease = {.id = 4, .ttl_ms = 1000};

	begin();
	error_number = 2627;
	PLAY(fails, done);
	GIVES(ops->lease_ensure(conn, &lease, 1, &err), SQLB_OK);
	end();
}

static bool end_list(void *ctx, const struct sqlb_lease *lease)
{
	CU_ASSERT_EQUAL(lease->id, 2);
	++*(int *)ctx;
	return false;
}

static void leases_are_listed(void)
{
	int count = 0;

	begin();
	PLAY(two_leases);
	GIVES(ops->lease_list(conn, 0, end_list, &count, &err), SQLB_OK);
	CU_ASSERT_EQUAL(count, 1);
	CU_ASSERT_EQUAL(script.seen[0].params[0].number, INT64_MAX);
	end();
}

static void duty_of_9(const struct tds_request *request, struct tds_reply *reply)
{
	(void)request;
	tds_columns(reply, "nnn");
	tds_row(reply);
	tds_number(reply, 9);
	tds_number(reply, 5);
	tds_number(reply, 100);
	tds_statement(reply);
}

static void duty_of_nobody(const struct tds_request *request, struct tds_reply *reply)
{
	(void)request;
	tds_columns(reply, "nnn");
	tds_row(reply);
	tds_number(reply, 0);
	tds_number(reply, 1);
	tds_number(reply, -100);
	tds_statement(reply);
}

static void duty_taken(const struct tds_request *request, struct tds_reply *reply)
{
	tds_columns(reply, "nnnn");
	tds_row(reply);
	tds_number(reply, request->params[0].number);
	tds_number(reply, 2);
	tds_number(reply, 1000);
	tds_number(reply, 1);
	tds_statement(reply);
}

static void the_duty_is_taken_where_it_is_free(void)
{
	struct sqlb_duty duty;

	begin();
	PLAY(duty_of_9);
	GIVES(ops->duty_take(conn, 7, 1000, &duty, &err), SQLB_OK);
	CU_ASSERT_TRUE(duty.holder == 9 && duty.term == 5 && duty.remaining_ms == 100 && !duty.taken_now);
	PLAY(duty_of_nobody, duty_taken);
	GIVES(ops->duty_take(conn, 7, 1000, &duty, &err), SQLB_OK);
	CU_ASSERT_TRUE(duty.holder == 7 && duty.term == 2 && duty.remaining_ms == 1000 && duty.taken_now);
	/* Somebody was faster. */
	PLAY(duty_of_nobody, empty_head, duty_of_9);
	GIVES(ops->duty_take(conn, 7, 1000, &duty, &err), SQLB_OK);
	CU_ASSERT_TRUE(duty.holder == 9 && !duty.taken_now);
	end();
}

static void two_members(const struct tds_request *request, struct tds_reply *reply)
{
	(void)request;
	tds_columns(reply, "nnbb");
	for (int i = 0; i < 2; i++) {
		tds_row(reply);
		tds_number(reply, i ? -1 : 1);
		tds_number(reply, 10);
		tds_bytes(reply, ks_slice_str(i ? "b" : "a"));
		tds_bytes(reply, ks_slice_str("http://x"));
	}
	tds_statement(reply);
}

static bool see_member(void *ctx, const struct sqlb_member *member)
{
	int *count = ctx;

	CU_ASSERT_EQUAL(member->id, *count ? UINT64_MAX : 1);
	CU_ASSERT_TRUE(ks_slice_eq(member->name, ks_slice_str(*count ? "b" : "a")));
	CU_ASSERT_TRUE(ks_slice_eq(member->client_urls, ks_slice_str("http://x")));
	CU_ASSERT_EQUAL(member->position, 10);
	++*count;
	return true;
}

static void members_beat_and_are_listed(void)
{
	const struct sqlb_member self = {.id = UINT64_MAX, .name = ks_slice_str("b"), .position = 3};
	int count = 0;

	begin();
	PLAY(done, done, two_members);
	GIVES(ops->member_beat(conn, &self, 1000, &err), SQLB_OK);
	CU_ASSERT_EQUAL(script.seen[0].params[0].number, -1);
	CU_ASSERT_TRUE(!script.seen[0].params[2].null && script.seen[0].params[2].bytes.size == 0);
	GIVES(ops->member_beat(conn, &self, 0, &err), SQLB_OK);
	CU_ASSERT_EQUAL(strncmp(script.seen[1].text, "DELETE FROM kineshim_member", 27), 0);
	GIVES(ops->member_list(conn, see_member, &count, &err), SQLB_OK);
	CU_ASSERT_EQUAL(count, 2);
	end();
}

static void places_are_read_and_trimmed_in_parts(void)
{
	static struct sqlb_loc locs[1000];

	for (int i = 0; i < 1000; i++)
		locs[i] = (struct sqlb_loc){i + 1, i % 3};
	begin();
	PLAY(done, done, two_more, two_more);
	GIVES(ops->trim(conn, locs, 1000, &err), SQLB_OK);
	CU_ASSERT_EQUAL(script.seen[0].param_count, 1024);
	CU_ASSERT_EQUAL(script.seen[1].params[0].number, 513);
	CU_ASSERT_EQUAL(script.seen[1].params[2 * 487].number, 1000);
	CU_ASSERT_TRUE(script.seen[1].params[2 * 488].null);
	visited.count = 0;
	GIVES(ops->read_at(conn, locs, 1000, visit, NULL, &err), SQLB_OK);
	CU_ASSERT_EQUAL(visited.count, 4);
	end();
}

/* ---- loads ---- */

static struct sqlb_row load_row;
static char load_key[40];
static int64_t load_to, load_fails_at;

static enum sqlb_next next_row(void *ctx, struct sqlb_row *row)
{
	int64_t *position = ctx;

	if (++*position == load_fails_at)
		return SQLB_NEXT_FAILED;
	if (*position > load_to)
		return SQLB_NEXT_END;
	load_row = row_of(*position);
	snprintf(load_key, sizeof(load_key), "key %d", (int)*position);
	load_row.key = ks_slice_str(load_key);
	load_row.value = *position % 2 ? ks_slice_of("", 0) : ks_slice_of(NULL, 0);
	*row = load_row;
	return SQLB_NEXT_ROW;
}

static void a_load_is_one_transaction(void)
{
	int64_t position = 0;
	const struct tds_param *params;

	load_to = 200;
	load_fails_at = 0;
	begin();
	PLAY(number_0, number_160, number_40, done);
	GIVES(ops->load(conn, next_row, &position, &err), SQLB_OK);
	CU_ASSERT_EQUAL_FATAL(script.seen_count, 4);
	params = script.seen[1].params;
	CU_ASSERT_EQUAL_FATAL(script.seen[1].param_count, 160 * 13);
	CU_ASSERT_TRUE(ks_slice_eq(params[10].bytes, ks_slice_str("key 1")));
	CU_ASSERT_TRUE(!params[11].null && params[11].bytes.size == 0);
	CU_ASSERT_TRUE(ks_slice_eq(params[13 * 159 + 10].bytes, ks_slice_str("key 160")));
	CU_ASSERT_TRUE(params[13 * 159 + 11].null);
	CU_ASSERT_STRING_EQUAL(script.seen[3].text, "COMMIT TRANSACTION");
	/* With the settings of the load no other call is made. */
	CU_ASSERT_PTR_NULL(conn->dbc);
	end();
}

static void a_load_has_its_outcomes(void)
{
	int64_t position = 0;

	load_to = 200;
	load_fails_at = 0;
	begin();
	PLAY(committed);
	GIVES(ops->load(conn, next_row, &position, &err), SQLB_CONFLICT); /* not empty */
	load_fails_at = 170;
	ks_fail(&err, KS_INVALID_ARGUMENT, "the file ends");
	position = 0;
	PLAY(number_0, number_160);
	GIVES(ops->load(conn, next_row, &position, &err), SQLB_AWAY);
	CU_ASSERT_STRING_EQUAL(err.text, "the file ends");
	load_fails_at = 0;
	position = 0;
	PLAY(number_0, number_160, cut_at_once);
	GIVES(ops->load(conn, next_row, &position, &err), SQLB_AWAY);
	position = 0;
	PLAY(number_0, number_160, number_40, cut_at_once);
	GIVES(ops->load(conn, next_row, &position, &err), SQLB_DOUBT);
	error_number = 2627;
	position = 0;
	PLAY(number_0, fails);
	GIVES(ops->load(conn, next_row, &position, &err), SQLB_CONFLICT);
	end();
}

/* ---- the schema ---- */

static void settings(const struct tds_request *request, struct tds_reply *reply)
{
	(void)request;
	tds_columns(reply, "nn");
	tds_row(reply);
	tds_number(reply, 1);
	tds_number(reply, 0);
	tds_statement(reply);
}

static void no_text(const struct tds_request *request, struct tds_reply *reply)
{
	(void)request;
	tds_columns(reply, "b");
	tds_statement(reply);
}

static void text(struct tds_reply *reply, const char *value)
{
	tds_columns(reply, "b");
	tds_row(reply);
	tds_bytes(reply, ks_slice_str(value));
	tds_statement(reply);
}

#define STEP_TEXT(name, value)                                                       \
	static void name(const struct tds_request *request, struct tds_reply *reply) \
	{                                                                            \
		(void)request;                                                       \
		text(reply, value);                                                  \
	}
STEP_TEXT(text_yes, "yes")
STEP_TEXT(text_kineshim, "kineshim")
STEP_TEXT(text_other, "other")
STEP_TEXT(text_1, "1")
STEP_TEXT(text_2, "2")
STEP_TEXT(text_id, "00000000000000ff")
STEP_TEXT(text_log, "kineshim_log")

static void the_schema_is_made_in_one_transaction(void)
{
	uint64_t cluster_id = 0;

	begin();
	/* look; is it there; under the lock again; two batches; the meta rows; commit; cluster id; the columns */
	PLAY(settings, no_text, no_text, number_0, no_text, no_text, done, done, done, done, text_id, done);
	GIVES(ops->migrate(conn, &cluster_id, &err), SQLB_OK);
	CU_ASSERT_EQUAL(cluster_id, 255);
	CU_ASSERT_EQUAL_FATAL(script.seen_count, 12);
	CU_ASSERT_PTR_NOT_NULL(strstr(script.seen[3].text, "sp_getapplock"));
	CU_ASSERT_PTR_NOT_NULL(strstr(script.seen[6].text, "CREATE TABLE kineshim_log ("));
	CU_ASSERT_PTR_NULL(strstr(script.seen[6].text, "CREATE VIEW"));
	CU_ASSERT_PTR_NOT_NULL(strstr(script.seen[7].text, "CREATE VIEW kineshim_live"));
	CU_ASSERT_PTR_NULL(strstr(script.seen[7].text, "\nGO"));
	CU_ASSERT_PTR_NOT_NULL(strstr(script.seen[8].text, "INSERT INTO kineshim_meta"));
	CU_ASSERT_STRING_EQUAL(script.seen[9].text, "COMMIT TRANSACTION");
	end();
}

static void a_schema_that_is_there_is_only_looked_at(void)
{
	uint64_t cluster_id = 0;

	begin();
	PLAY(settings, text_yes, text_kineshim, text_1, text_id, done);
	GIVES(ops->migrate(conn, &cluster_id, &err), SQLB_OK);
	CU_ASSERT_EQUAL(cluster_id, 255);
	end();
}

static void foreign_and_newer_schemas_are_broken(void)
{
	uint64_t cluster_id;

	begin();
	PLAY(settings, no_text, text_log);
	GIVES(ops->migrate(conn, &cluster_id, &err), SQLB_BROKEN);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "kineshim_log"));
	PLAY(settings, text_yes, text_other);
	GIVES(ops->migrate(conn, &cluster_id, &err), SQLB_BROKEN);
	PLAY(settings, text_yes, text_kineshim, text_2);
	GIVES(ops->migrate(conn, &cluster_id, &err), SQLB_BROKEN);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "newer"));
	/* A server without those settings is looked at all the same; one without the right to make tables is broken. */
	error_number = 207;
	PLAY(fails, text_yes, text_kineshim, text_1, text_id, done);
	GIVES(ops->migrate(conn, &cluster_id, &err), SQLB_OK);
	error_number = 262;
	PLAY(settings, no_text, no_text, number_0, no_text, no_text, fails);
	GIVES(ops->migrate(conn, &cluster_id, &err), SQLB_BROKEN);
	end();
}

static void sizes_and_defragmenting(void)
{
	struct sqlb_size size;

	begin();
	PLAY(settings, done, done);
	GIVES(ops->size(conn, &size, &err), SQLB_OK);
	CU_ASSERT_TRUE(size.allocated == 1 && size.in_use == 0);
	GIVES(ops->defragment(conn, false, &err), SQLB_OK);
	CU_ASSERT_PTR_NOT_NULL(strstr(script.seen[1].text, "REORGANIZE"));
	GIVES(ops->defragment(conn, true, &err), SQLB_OK);
	CU_ASSERT_PTR_NOT_NULL(strstr(script.seen[2].text, "REBUILD"));
	end();
}

int main(void)
{
	static const struct tap_test tests[] = {
#define T(test) {#test, test}
		T(an_append_is_one_statement),
		T(rows_that_are_fewer_than_the_step_are_filled_up),
		T(bytes_go_out_as_they_are),
		T(what_the_batch_says_is_the_outcome),
		T(errors_of_an_append_have_their_outcomes),
		T(an_answer_cut_anywhere_is_doubt_or_done),
		T(a_connection_that_ended_is_found_before_an_append_is_sent),
		T(nobody_to_connect_to_is_away),
		T(a_driver_that_is_not_there_is_named),
		T(a_refused_login_is_away_with_advice),
		T(passwords_arrive_as_they_are),
		T(a_password_that_freetds_cannot_take_is_refused),
		T(no_encryption_where_it_is_wanted_is_away),
		T(certificates_are_checked_unless_the_url_says_otherwise),
		T(leases_of_an_append_are_in_its_statement),
		T(a_large_append_is_one_transaction),
		T(a_large_append_cut_before_its_commit_is_away),
		T(errors_of_a_large_append_undo_it),
		T(rows_come_back_with_all_their_bytes),
		T(a_long_read_goes_on_where_it_was),
		T(a_read_cut_anywhere_is_away),
		T(a_read_that_ends_with_an_error_is_away),
		T(a_null_that_cannot_be_ours_is_broken),
		T(a_visitor_that_stops_cancels_the_rest),
		T(reads_stop_between_entries),
		T(silence_ends_with_a_deadline),
		T(a_wait_ends_when_it_should),
		T(leases_find_their_rows),
		T(a_lease_that_another_one_ensured_is_fine),
		T(leases_are_listed),
		T(the_duty_is_taken_where_it_is_free),
		T(members_beat_and_are_listed),
		T(places_are_read_and_trimmed_in_parts),
		T(a_load_is_one_transaction),
		T(a_load_has_its_outcomes),
		T(the_schema_is_made_in_one_transaction),
		T(a_schema_that_is_there_is_only_looked_at),
		T(foreign_and_newer_schemas_are_broken),
		T(sizes_and_defragmenting),
#undef T
		{NULL, NULL},
	};
	int status = 99;

	if (odbc_ini_write((const char *const[]){"FreeTDS", NULL}, "libtdsodbc.so"))
		status = tap_run("mssql tds", tests);
	else
		printf("Bail out! no odbcinst.ini can be written\n");
	odbc_ini_remove();
	/* As in the server: a peer that hung up is an error of the call. */
	(void)signal(SIGPIPE, SIG_IGN);
	return status;
}
