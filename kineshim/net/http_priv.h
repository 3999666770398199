/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the http*.c and gateway*.c files share: connections and requests.
 *
 * http.c         the server: I/O threads, adoption, deadlines, the end
 * http_conn.c    a connection's input: parsing (http_parser), bodies, limits
 * http_write.c   a connection's output
 * http_request.c what a request is asked for, and plain answers
 * gateway*.c     requests that are RPCs
 *
 * A connection serves one request at a time:
 *
 *	 ┌──────────────────────────── keep-alive ◄───────────────────────────┐
 *	 ▼                                                                    │
 *	HEADER ──header complete──► BODY ──body complete──► SERVING ──answered┤
 *	 │                           │                                        └─► LINGER ─► closed
 *	 └───────── malformed, too large, too slow: 4xx ─────────────────────────►
 *
 * A request that is an upgrade goes from HEADER to UPGRADED, for the rest of the connection: all bytes are body then, unparsed.
 *
 * Input belongs to the connection's I/O thread. Output belongs to whoever set 'writing' under the connection's lock, on any
 * thread: the request's 'produce' fills a buffer, which is sent without a lock held. What the socket does not take is kept
 * in 'unsent', and the I/O thread goes on when the socket is writable. So an answer costs no switch of threads, a slow reader
 * holds one buffer, and nothing is produced that cannot be sent.
 */
#ifndef KS_NET_HTTP_PRIV_H
#define KS_NET_HTTP_PRIV_H

#include <http_parser.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/list.h"
#include "base/thread.h"
#include "net/http.h"
#include "net/identity.h"

#define HTTP_MAX_HEADERS 100
#define HTTP_MAX_HEADER_BYTES 65536
/* What 'produce' should put into the buffer at a time, about. */
#define HTTP_PIECE_BYTES 65536

struct http_conn;
struct http_io;

enum http_produced {
	HTTP_MORE, /* something was put into the buffer; ask again */
	HTTP_WAIT, /* nothing now; ks_http_flush comes when there is */
	HTTP_DONE, /* the answer ends with what is in the buffer */
	HTTP_ABORT /* cannot go on: close the connection after what is in the buffer */
};

/* What a request is served by. Each is called without a lock held. */
struct http_ops {
	void (*begin)(struct ks_http_request *request); /* with body: before its first piece */
	/* I/O thread: a piece of the body. False: enough for now; 'ks_http_resume' when there is room. NULL: it is collected. */
	bool (*body)(struct ks_http_request *request, struct ks_slice piece);
	/* The request lives off its connection: it is over as soon as the client closed its side. */
	bool stream;
	void (*complete)(struct ks_http_request *request);    /* I/O thread: the body's end */
	void (*body_failed)(struct ks_http_request *request); /* I/O thread; with body: malformed, no more comes */
	enum http_produced (*produce)(struct ks_http_request *request, struct ks_buf *out);
	/* The client has gone, or its time is up: nothing is produced any more. Any thread; optional. */
	void (*gone)(struct ks_http_request *request);
	/* I/O thread: the server ends, or the deadline passed; optional. */
	void (*stop)(struct ks_http_request *request);
	void (*expired)(struct ks_http_request *request);
	void (*fini)(struct ks_http_request *request); /* the last reference has gone; optional */
};

struct http_header {
	size_t name, name_size, value, value_size; /* in text */
};

struct ks_http_request {
	_Atomic int refs; /* the connection's, until answered or gone; whoever serves it */
	struct http_conn *conn;
	const struct http_ops *ops;
	void *serving;      /* of the ops */
	struct ks_buf text; /* target, names and values, one after the other */
	size_t target_size;
	struct http_header headers[HTTP_MAX_HEADERS];
	size_t header_count;
	bool header_open;               /* the last header's value may still grow */
	char *path, *query, *raw_query; /* one allocation */
	size_t path_size, query_size;   /* of the query once decoded: name, 0, value, 0, and so on */
	struct ks_buf body;
	size_t body_counted; /* in http->body_bytes */
	unsigned method;
	bool head, keep_alive, http10;
	bool upgrade_asked;  /* by the headers Connection and Upgrade, to whatever */
	bool upgrade;        /* the routed ops grant it */
	bool started;        /* I/O thread: handed to its ops, which stream the body */
	bool patient;        /* I/O thread: the body may take for ever */
	bool body_complete;  /* under the connection's lock */
	int64_t deadline_ms; /* 0: none; I/O thread */
	int canned;          /* the status that this is answered with, whatever it asks for; 0: none */
	const char *canned_text, *canned_type, *canned_headers; /* the last: NULL, or whole lines */
	bool watch_peer; /* under the connection's lock: over as soon as the client closed its side, like a stream */
	/* a plain answer */
	struct ks_buf answer;
	size_t answer_sent;
	bool answered; /* under the connection's lock */
};

enum http_state { HTTP_HEADER, HTTP_BODY, HTTP_SERVING, HTTP_UPGRADED, HTTP_LINGER };

struct http_conn {
	/* constant */
	struct http_io *io;
	int fd;
	char *peer;
	struct ks_identity *identity;
	bool secure;
	enum ks_http_port port;

	/* I/O thread */
	struct ks_list node; /* io->conns */
	enum http_state state;
	http_parser parser;
	struct ks_http_request *parsing; /* header or body not complete yet */
	uint8_t *input;                  /* read, not yet parsed */
	size_t input_size;
	size_t lingered;
	bool readable;
	bool deaf;   /* refused, or malformed: the parser has seen its last byte, what comes is only thrown away */
	int refusal; /* what a parser call-back wants answered */
	const char *refusal_text;

	/* any thread */
	_Atomic int refs;
	struct ks_mutex lock;
	struct ks_http_request *request; /* guarded: the one whose answer is next; NULL: none */
	bool writing, write_again;       /* guarded */
	bool blocked;                    /* guarded: the socket took no more */
	bool broken;                     /* guarded: close it */
	bool peer_closed;                /* guarded: the client's side; it may still read */
	bool dead;                       /* guarded: shut down; nothing is sent any more */
	bool gone_due;                   /* guarded: the writer tells the request */
	bool close_after;                /* guarded: no further request */
	bool nudged;                     /* guarded: in io->nudges */
	bool wants_input;                /* guarded: nudge when the request is over */
	bool body_paused;                /* guarded: the ops want no more of the body for now */
	int64_t deadline_ms;             /* guarded: of what the connection waits for now; 0: none */
	int64_t stalled_ms;              /* guarded: when the client must have read something; 0: no matter */
	struct ks_list nudge;            /* io->nudges */
	struct ks_buf unsent;            /* the writer's */
	size_t unsent_at;                /* the writer's */
	enum http_produced ended;        /* the writer's: DONE or ABORT, when what is unsent is the answer's last */
};

struct http_io {
	struct ks_http *http;
	pthread_t thread;
	bool running;
	int epoll_fd, event_fd;
	/* I/O thread */
	struct ks_list conns;
	int64_t next_sweep_ms;
	bool stopping;
	uint8_t read_buffer[65536];
	/* any thread */
	struct ks_mutex lock;
	struct ks_list adopted; /* guarded */
	struct ks_list nudges;  /* guarded */
	int stop_stage;         /* guarded: 1 drain, 2 close all */
	bool rung;              /* guarded: event_fd was written */
};

struct ks_http {
	struct ks_http_config config;
	struct ks_rpc *rpc;
	size_t max_connections, max_body_bytes, max_all_bodies;
	int64_t header_ms, body_ms, idle_ms, stall_ms;
	char *cors, *host_whitelist;
	struct gateway_routes *routes;
	struct http_io *ios;
	size_t io_count;
	_Atomic uint32_t next_io;
	atomic_bool stopping;
	_Atomic size_t conn_count; /* until the memory is freed */
	_Atomic size_t body_bytes; /* of all bodies that are being collected or served */
	_Atomic uint64_t requests_started, bad_requests;
	struct ks_mutex lock; /* for 'changed': the last connection has gone */
	struct ks_cond changed;
};

/* http.c */
int64_t ks_http_now(void);
void ks_http_nudge_locked(struct http_conn *conn) KS_REQUIRES(conn->lock);
bool ks_http_on_io_thread(const struct http_io *io);
void ks_http_conn_unref(struct http_conn *conn);

/* http_conn.c; I/O thread */
void ks_http_conn_start(struct http_io *io, struct http_conn *conn);
void ks_http_conn_event(struct http_conn *conn, uint32_t events);
void ks_http_conn_nudged(struct http_conn *conn);
void ks_http_conn_sweep(struct http_conn *conn, int64_t now);
void ks_http_conn_stop(struct http_conn *conn);
void ks_http_conn_close(struct http_conn *conn);
/* Answers an error by itself and closes: no request, or one that was not begun. */
void ks_http_conn_refuse(struct http_conn *conn, int status, const char *text);

/* http_write.c */
void ks_http_flush(struct ks_http_request *request); /* any thread: there is something to produce */
void ks_http_flush_conn(struct http_conn *conn);     /* I/O thread */
/* The status line and what every answer has; the caller adds lines of its own and the empty one. */
void ks_http_write_head(struct ks_http_request *request, struct ks_buf *out, int status, const char *content_type);
const char *ks_http_status_text(int status);
void ks_http_write_date(struct ks_buf *out);

/* http_request.c */
struct ks_http_request *ks_http_request_new(struct http_conn *conn);
void ks_http_request_ref(struct ks_http_request *request);
void ks_http_request_unref(struct ks_http_request *request);
bool ks_http_request_prepare(struct ks_http_request *request); /* target → path and query; false: malformed */
void ks_http_request_route(struct ks_http_request *request);   /* chooses the ops; I/O thread, header complete */
bool ks_http_origin(const struct ks_http_request *request, struct ks_slice *origin); /* false: no CORS headers */
bool ks_http_host_allowed(const struct ks_http_request *request);
/* Any thread: a paused body goes on. */
void ks_http_resume(struct ks_http_request *request);
/* Any thread: from now on the request is over as soon as its client closed its side, as a stream is. */
void ks_http_watch_peer(struct ks_http_request *request);
/* Room for bytes of bodies, of all requests together. False: too many at a time. Any thread. */
bool ks_http_claim(struct ks_http_request *request, size_t size);
void ks_http_unclaim(struct ks_http_request *request, size_t size);
void ks_http_release_body(struct ks_http_request *request); /* the collected body is not needed any more */

#endif
