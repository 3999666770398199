/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of discovery/ share.
 *
 *	transform.c ──► services.c ◄── discovery.c (thread) ──► dns.c consul.c nacos.c eureka.c ──► http.c, c-ares
 *	(replica's lock)   the lock                                 └──────── answers ────────┘
 *
 * A service is wanted while a key names it. The thread asks for what is wanted and due; an answer replaces the nodes, marks the service, and the keys
 * that name it are refreshed. A service that nobody names is not asked; what is known of it is kept for a while.
 *
 * Lock order: replica's lock, then this one. The thread calls the replica without it.
 */
#ifndef DPA_DISCOVERY_PRIV_H
#define DPA_DISCOVERY_PRIV_H

#include <jansson.h>

#include "base/backoff.h"
#include "base/thread.h"
#include "discovery/discovery.h"
#include "discovery/http.h"
#include "discovery/nodes.h"
#include "discovery/settings.h"

#define DPA_SERVICES_MAX 4096
#define DPA_SERVICE_NAME_MAX 256
#define DPA_DISCOVERY_MODULE "discovery"

/* Asking, again and again; the thread's. */
struct dpa_poll {
	bool busy;      /* asked, not answered */
	int64_t due_ms; /* monotonic; when it is not busy */
	size_t server;  /* which of the registry's */
	size_t tried;   /* servers that failed in a row */
	struct ks_backoff backoff;
	struct dpa_transfer *transfer;
};

struct dpa_lookup;

struct dpa_service {
	/* Which it is; never changes. */
	enum dpa_discovery_type type;
	char *name, *namespace_id, *group_name; /* "" where none was given */

	/* Under the lock. */
	size_t refs;         /* keys that name it (each as often as it does) */
	int64_t unwanted_ms; /* monotonic; since when refs is 0 */
	bool known;          /* 'nodes' is what a registry said, now or before a restart */
	bool dirty;          /* its keys are to be refreshed */
	bool failing;
	struct dpa_nodes nodes; /* settled */
	int64_t answered_ms;    /* wall clock; 0: not since the start */
	char error[200];

	/* The thread's. */
	struct dpa_discovery *discovery;
	struct dpa_poll poll;
	uint64_t index;            /* consul.c's */
	bool blocking;             /* consul.c's: its query waits for a change */
	struct dpa_lookup *lookup; /* dns.c's */
	int dns_last;              /* the kind of record that was found last, dns.c's; 0: none */
	bool waits_for_login;      /* nacos.c's */
	bool logged_in_again;      /* nacos.c's: its token was refused */
	uint64_t login;            /* nacos.c's: the login whose token it was asked with */
};

struct dpa_dns;
struct dpa_nacos;

struct dpa_discovery {
	/* Never change after the start. */
	struct dpa_discovery_config config;
	struct dpa_board *board;
	char *path; /* DIR/discovery.json */
	struct dpa_http *http;
	struct dpa_replica *replica;

	struct ks_mutex lock;
	/* Under the lock. */
	struct dpa_service **services; /* sorted */
	size_t service_count, service_capacity;
	void *keys; /* tsearch(3): keys with the services that they name */
	bool full;  /* a service was refused */
	bool stopping;

	/* The thread's. */
	pthread_t thread;
	bool running;
	struct dpa_dns *dns;
	struct dpa_nacos *nacos;
	struct dpa_poll eureka;
	size_t blocking;    /* queries of consul.c that wait for a change */
	int64_t save_ms;    /* when to save; 0: nothing to save */
	int64_t refresh_ms; /* not before */
	bool board_stale;
	uint64_t failures; /* not yet on the board */
};

/* ---- services.c; the lock is held ---- */

/* NULL: there are too many, or the name is too long. A new one is nobody's yet. */
struct dpa_service *dpa_service_get(struct dpa_discovery *discovery, enum dpa_discovery_type type, const char *name,
				    const char *namespace_id, const char *group_name) KS_REQUIRES(discovery->lock);
/* 'key' names these services now, and no others; none: it is forgotten. True when there is something new to ask for. */
bool dpa_keys_set(struct dpa_discovery *discovery, struct ks_slice key, struct dpa_service *const *services,
		  size_t count) KS_REQUIRES(discovery->lock);
/* Copies of the keys that name a dirty service; no service is dirty afterwards. Free each, and the array. */
struct ks_bytes **dpa_keys_dirty(struct dpa_discovery *discovery, size_t *count) KS_REQUIRES(discovery->lock);
void dpa_services_free(struct dpa_discovery *discovery); /* at the end, without the lock */
void dpa_service_free(struct dpa_service *service);

/* ---- discovery.c; the thread ---- */

int64_t dpa_discovery_now(void);
/* The wanted services of one type; free() the array. */
struct dpa_service **dpa_services_wanted(struct dpa_discovery *discovery, enum dpa_discovery_type type, size_t *count);
/* Takes the nodes. */
void dpa_service_answered(struct dpa_service *service, struct dpa_nodes *nodes);
void dpa_service_failed(struct dpa_service *service, const char *where, const char *what);
/* After a failure: the next server at once, or, when all have failed (true), any after a pause. */
bool dpa_poll_failed(struct dpa_poll *poll, size_t servers);
void dpa_poll_succeeded(struct dpa_poll *poll, int64_t next_ms);
/* "HTTP 503", or why there is no answer. NULL: the answer has status 200. */
const char *dpa_http_fault(const struct dpa_http_answer *answer, char *room, size_t size);

/* ---- One file each; the thread ---- */

struct dpa_dns *dpa_dns_new(const struct dpa_dns_config *config, struct ks_err *err);
void dpa_dns_free(struct dpa_dns *dns);
void dpa_dns_ask(struct dpa_service *service);
void dpa_dns_stop(struct dpa_service *service);
/* Sockets to wait for, at most DPA_DNS_SOCKETS; and what to do afterwards. */
#define DPA_DNS_SOCKETS 16
unsigned dpa_dns_sockets(struct dpa_dns *dns, struct curl_waitfd *sockets, int64_t *wait_ms);
void dpa_dns_process(struct dpa_dns *dns, const struct curl_waitfd *sockets, unsigned count);

void dpa_consul_ask(struct dpa_service *service);
void dpa_consul_stop(struct dpa_service *service);

struct dpa_nacos *dpa_nacos_new(void);
void dpa_nacos_free(struct dpa_discovery *discovery);
void dpa_nacos_ask(struct dpa_service *service);
void dpa_nacos_stop(struct dpa_service *service);

void dpa_eureka_ask(struct dpa_discovery *discovery);
void dpa_eureka_stop(struct dpa_discovery *discovery);

/* ---- saved.c ---- */

/* What a file has of services: known, wanted by nobody. A file that is not there is none; one that is damaged is said so, and is none. */
void dpa_saved_load(struct dpa_discovery *discovery);
enum ks_status dpa_saved_write(struct dpa_discovery *discovery, struct ks_err *err) KS_MUST_CHECK;

#endif
