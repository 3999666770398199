/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A server that speaks TDS 7.4, as SQL Server does, and knows no SQL: a test's handler looks at each request and says
 * what to answer. With it the real ODBC driver meets what no server does when asked: a deadlock, a lock timeout, a full
 * log, a connection that ends in the middle of a row.
 *
 * Owner: requests belong to the server and are valid inside the handler. Threads: the handler runs on the thread of its
 * connection; tds_server_stop ends them all first. Limits: requests of 64 MiB, 32 connections.
 */
#ifndef TESTS_LIB_TDS_SERVER_H
#define TESTS_LIB_TDS_SERVER_H

#include "base/buf.h"

enum tds_kind {
	TDS_LOGIN,       /* text: the user, declared: the database, secret: the password */
	TDS_BATCH,       /* text without parameters */
	TDS_RPC,         /* sp_executesql: text, declared, params */
	TDS_TRANSACTION, /* a request to begin, commit or roll back that is no SQL */
	TDS_ATTENTION,   /* the client cancels; answered without the handler, which only hears of it */
	TDS_STRANGE,     /* anything else: text says what */
};

struct tds_param {
	char type; /* 'n' a number, 'b' bytes, 't' a text */
	bool null;
	unsigned width; /* of a number, in bytes */
	int64_t number;
	struct ks_slice bytes;
};

struct tds_request {
	enum tds_kind kind;
	unsigned connection; /* 1, 2, … */
	const char *text;
	const char *declared; /* the types of the parameters */
	const char *secret;
	const struct tds_param *params;
	size_t param_count;
};

enum tds_end {
	TDS_ANSWER, /* the whole answer */
	TDS_CUT,    /* the first 'cut_at' bytes of it, packet heads included, and then the connection ends */
	TDS_SILENT, /* nothing; a cancel is acknowledged */
	TDS_DEAF,   /* nothing, not even that */
};

struct tds_reply {
	struct ks_buf tokens;
	enum tds_end end;
	size_t cut_at;
	size_t breaks[8]; /* where a packet ends before it is full */
	size_t break_count;
	bool proc; /* the request was an RPC: its statements end otherwise */
};

/* What an answer is made of. Columns: 'n' for each bigint, 'b' for each varbinary(max). */
void tds_columns(struct tds_reply *reply, const char *types);
void tds_row(struct tds_reply *reply); /* then a value for each column */
void tds_number(struct tds_reply *reply, int64_t value);
void tds_null_number(struct tds_reply *reply);
void tds_bytes(struct tds_reply *reply, struct ks_slice value); /* data NULL: NULL */
/* The end of one statement among several, as SET NOCOUNT ON has it. */
void tds_statement(struct tds_reply *reply);
/* A transaction began, or (began false) ended with a commit. */
void tds_transaction(struct tds_reply *reply, bool began);
void tds_error(struct tds_reply *reply, int number, int severity, const char *text);

/* What follows is in another packet: drivers look at a packet only when they have all of it. */
void tds_packet(struct tds_reply *reply);

typedef void tds_handler_fn(void *ctx, const struct tds_request *request, struct tds_reply *reply);

struct tds_server;

/* Listens on 127.0.0.1:*port. NULL: no port or no thread. */
struct tds_server *tds_server_start(tds_handler_fn *handler, void *ctx, int *port);
/*
 * From the next connection on: TLS 1.2 as TDS 7 has it, its handshake inside of prelogin packets. 'pem' is a file with a key and a
 * certificate. False: it cannot be used.
 */
bool tds_server_encrypt(struct tds_server *server, const char *pem);
/* Ends all connections that there are; new ones may come. */
void tds_server_hang_up(struct tds_server *server);
void tds_server_stop(struct tds_server *server); /* NULL is fine */

#endif
