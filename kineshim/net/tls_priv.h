/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What tls.c (threads, life) and tls_conn.c (one connection) share.
 *
 * A connection's life:
 *
 *	           handshake thread              │              pump thread
 *	HANDSHAKE ──done──► handed to gRPC/HTTP ─┼─► OPEN ──server closed, all is sent──► LINGER ─► freed
 *	    └──failed: the alert is sent──► LINGER ─► freed
 *
 * LINGER: we have sent our last; what still comes is read and thrown away for a moment, because closing a socket with unread bytes
 * resets it, and the client would not see what was sent.
 *
 * Both descriptors are watched edge-triggered; 'readable' and 'writable' remember what the last look said. A connection that could
 * go on and has had its share waits in io->ready for the next turn.
 */
#ifndef KS_NET_TLS_PRIV_H
#define KS_NET_TLS_PRIV_H

#include <openssl/ssl.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/list.h"
#include "base/thread.h"
#include "net/address.h"
#include "net/tls.h"

/* Plaintext that is moved at a time, and what that may become as records, with room for a few alerts and key updates. */
#define TLS_PLAIN_BYTES 65536
#define TLS_RECORDS_BYTES 81920

struct tls_io;

struct tls_chunk {
	size_t start, end, capacity;
	uint8_t data[];
};

enum tls_state { TLS_HANDSHAKE, TLS_OPEN, TLS_LINGER }; /* closing is OPEN */

struct tls_end {
	struct tls_conn *conn;
	int fd; /* -1: none, or closed */
	bool readable, writable;
	bool closed;  /* app: the server has closed it altogether */
	bool hung_up; /* an end of the other side was announced: only reading to 0 tells where it is */
};

struct tls_conn {
	struct ks_list node;  /* one of io's lists */
	struct ks_list ready; /* io->ready */
	struct ks_tls *tls;
	struct tls_io *io;
	enum tls_state state;
	int64_t deadline_ms; /* INT64_MAX: none */
	SSL *ssl;
	struct tls_end net, app;
	struct tls_chunk *records; /* for the client, not sent yet */
	struct tls_chunk *plain;   /* for the server, not written yet */
	bool in_ended;             /* the client has said its last … */
	bool in_closed;            /* … and the server was told, or does not listen any more */
	bool out_ended;            /* the server has said its last, and so has our close_notify */
	struct ks_tls_protocols protocols;
	enum ks_http_port port;
	char peer[KS_ADDRESS_TEXT_MAX];
};

struct tls_io {
	struct ks_tls *tls;
	pthread_t thread;
	bool running;
	int epoll_fd, event_fd;
	/* the thread's */
	struct ks_list half, open, closing, linger; /* all but open by deadline */
	struct ks_list ready;
	struct tls_chunk *records, *plain; /* spare ones; NULL: a connection has taken it along */
	struct ks_list dead; /* freed at the end of the turn: events of it may still wait in this very turn */
	bool stopping;
	uint8_t from_server[TLS_PLAIN_BYTES];
	/* any thread */
	_Atomic size_t half_count, open_count;
	struct ks_mutex lock;
	struct ks_list adopted; /* guarded */
	int stage;              /* guarded: 1 end when all is closed, 2 close all and end */
};

struct ks_tls {
	struct ks_tls_context *context;
	struct ks_rpc *rpc;
	struct ks_http *http;
	BIO_METHOD *bio;
	int64_t handshake_ms;
	size_t max_half_open; /* of one thread */
	struct tls_io *shakers, *pumps;
	size_t shaker_count, pump_count;
	_Atomic uint32_t next_shaker, next_pump;
};

/* tls.c */
int64_t ks_tls_now(void);
void ks_tls_pass_on(struct tls_conn *conn);     /* to a pump; off its thread's lists and epoll */
void ks_tls_set_closing(struct tls_conn *conn); /* the server has gone: what is left must be taken soon */
void ks_tls_set_linger(struct tls_conn *conn);
void ks_tls_close(struct tls_conn *conn);

/* tls_conn.c; the connection's thread */
BIO_METHOD *ks_tls_new_bio(void);
void ks_tls_conn_event(struct tls_end *end, uint32_t events);
void ks_tls_conn_run(struct tls_conn *conn); /* does what can be done now, up to a share */
struct tls_chunk *ks_tls_new_chunk(size_t capacity);

#endif
