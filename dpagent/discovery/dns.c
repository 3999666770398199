/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DNS, with c-ares. A service is one lookup after the other:
 *
 *	name, SRV ─records─► each target, A ─none─► AAAA ─► nodes
 *	   │none
 *	name, A ─records─► nodes     and so on, in the order that the configuration has
 *
 * The first kind that has records counts. No records of any kind: no nodes. A server that fails, or none that answers: a failure.
 */
#include <ares.h>
#include <arpa/nameser.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/panic.h"
#include "discovery/answers.h"
#include "discovery/discovery_priv.h"

#define TIMEOUT_MS 2000
#define TRIES 2
#define TTL_MIN_S 1
#define TTL_MAX_S 300
#define TTL_NONE_S 5 /* of "there is no such name" */
#define TARGETS_MAX 256
#define NAME_MAX_SIZE 256
_Static_assert(DPA_DNS_SOCKETS == ARES_GETSOCK_MAXNUM, "all of c-ares' sockets");
#define RESOLV_CONF "/etc/resolv.conf"

struct dpa_dns {
	const struct dpa_dns_config *config;
	ares_channel channel;
	size_t pending;              /* questions */
	struct timespec resolv_conf; /* when it was changed */
	bool stale;                  /* it was changed since; read anew when nothing is pending */
};

struct dpa_lookup {
	struct dpa_dns *dns;
	struct dpa_service *service; /* NULL: nobody waits any more */
	char name[NAME_MAX_SIZE];
	int64_t port; /* 0: none was given */
	enum dpa_dns_kind kinds[DPA_DNS_KINDS];
	size_t kind_count, step;
	size_t outstanding; /* questions; it ends with the last */
	bool found;         /* records of a kind */
	bool denied;        /* somebody said "none" */
	bool failed;
	char error[160];
	struct dpa_nodes nodes;
	int64_t ttl_s;
};

/* One question, to be answered once. */
struct question {
	struct dpa_lookup *lookup;
	enum dpa_dns_type type;
	bool is_target;
	struct dpa_dns_record target;
};

static const char *resolv_conf_of(const struct dpa_dns *dns)
{
	return dns->config->resolv_conf ? dns->config->resolv_conf : RESOLV_CONF;
}

static int open_channel(struct dpa_dns *dns)
{
	struct ares_options options = {.timeout = TIMEOUT_MS, .tries = TRIES};
	int mask = ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES;
	struct stat file;
	int code;

	if (dns->config->resolv_conf) {
		options.resolvconf_path = dns->config->resolv_conf;
		mask |= ARES_OPT_RESOLVCONF;
	}
	if (stat(resolv_conf_of(dns), &file) == 0)
		dns->resolv_conf = file.st_mtim;
	dns->stale = false;
	code = ares_init_options(&dns->channel, &options, mask);
	if (code == ARES_SUCCESS && dns->config->servers) {
		code = ares_set_servers_ports_csv(dns->channel, dns->config->servers);
		if (code != ARES_SUCCESS)
			ares_destroy(dns->channel);
	}
	if (code != ARES_SUCCESS)
		dns->channel = NULL;
	return code;
}

struct dpa_dns *dpa_dns_new(const struct dpa_dns_config *config, struct ks_err *err)
{
	struct dpa_dns *dns = ks_xcalloc(1, sizeof(*dns));
	int code = ares_library_init(ARES_LIB_INIT_ALL);

	dns->config = config;
	if (code == ARES_SUCCESS) {
		code = open_channel(dns);
		if (code == ARES_SUCCESS)
			return dns;
		ares_library_cleanup();
	}
	free(dns);
	(void)ks_fail(err, KS_INTERNAL, "discovery: DNS cannot be set up: %s", ares_strerror(code));
	return NULL;
}

void dpa_dns_free(struct dpa_dns *dns)
{
	if (!dns)
		return;
	if (dns->channel)
		ares_destroy(dns->channel); /* ends all questions, and with them their lookups */
	ares_library_cleanup();
	free(dns);
}

/* ---- A lookup ---- */

static void fail(struct dpa_lookup *lookup, const char *name, const char *what)
{
	if (!lookup->failed)
		(void)snprintf(lookup->error, sizeof(lookup->error), "%.50s: %.100s", name, what);
	lookup->failed = true;
}

static void conclude(struct dpa_lookup *lookup)
{
	struct dpa_service *service = lookup->service;
	struct stat file;

	if (service) {
		service->lookup = NULL;
		service->poll.busy = false;
		if (!lookup->failed) {
			int64_t ttl_s = lookup->found ? lookup->ttl_s : TTL_NONE_S;

			dpa_nodes_settle(&lookup->nodes);
			dpa_poll_succeeded(&service->poll, 1000 * (ttl_s < TTL_MIN_S   ? TTL_MIN_S
								   : ttl_s > TTL_MAX_S ? TTL_MAX_S
										       : ttl_s));
			dpa_service_answered(service, &lookup->nodes);
		} else if (dpa_poll_failed(&service->poll, 1)) {
			dpa_service_failed(service, "DNS", lookup->error);
			if (!lookup->dns->config->servers && stat(resolv_conf_of(lookup->dns), &file) == 0)
				lookup->dns->stale = file.st_mtim.tv_sec != lookup->dns->resolv_conf.tv_sec ||
						     file.st_mtim.tv_nsec != lookup->dns->resolv_conf.tv_nsec;
		}
	}
	dpa_nodes_fini(&lookup->nodes);
	free(lookup);
}

/* A question is answered, or the start is over; nothing may look at the lookup afterwards. */
static void release(struct dpa_lookup *lookup)
{
	if (--lookup->outstanding == 0)
		conclude(lookup);
}

static void answered(void *arg, int status, int timeouts, unsigned char *message, int size);

static void ask(struct dpa_lookup *lookup, const char *name, enum dpa_dns_type type,
		const struct dpa_dns_record *target)
{
	struct question *question = ks_xcalloc(1, sizeof(*question));

	question->lookup = lookup;
	question->type = type;
	question->is_target = target != NULL;
	if (target)
		question->target = *target;
	lookup->outstanding++;
	lookup->dns->pending++;
	/* The search list belongs to the system's servers. */
	if (target || lookup->dns->config->servers)
		ares_query(lookup->dns->channel, name, ns_c_in, (int)type, answered, question);
	else
		ares_search(lookup->dns->channel, name, ns_c_in, (int)type, answered, question);
}

static void ask_next_kind(struct dpa_lookup *lookup)
{
	static const enum dpa_dns_type types[DPA_DNS_KINDS] = {
		[DPA_DNS_SRV] = DPA_DNS_TYPE_SRV,
		[DPA_DNS_A] = DPA_DNS_TYPE_A,
		[DPA_DNS_AAAA] = DPA_DNS_TYPE_AAAA,
	};

	if (lookup->step < lookup->kind_count)
		ask(lookup, lookup->name, types[lookup->kinds[lookup->step++]], NULL);
	else if (!lookup->denied)
		fail(lookup, lookup->name, "the server knows none of the kinds of records");
}

static void take_ttl(struct dpa_lookup *lookup, const struct dpa_dns_records *records)
{
	if (records->ttl_s < lookup->ttl_s)
		lookup->ttl_s = records->ttl_s;
}

static void add(struct dpa_lookup *lookup, const char *host, int64_t port, int64_t weight, int64_t priority)
{
	if (!dpa_nodes_add(&lookup->nodes, host, port, weight, priority) && dpa_nodes_full(&lookup->nodes))
		fail(lookup, lookup->name, "too many nodes");
}

/* Of the targets, addresses: what an SRV record weighs is shared by them. A lower priority number is better; in nodes a higher. */
static void take_target(struct dpa_lookup *lookup, const struct dpa_dns_record *target,
			const struct dpa_dns_records *records)
{
	int64_t weight = target->weight ? target->weight : 1;
	int64_t share = weight / (int64_t)records->count;

	for (size_t i = 0; i < records->count; i++)
		add(lookup, records->list[i].host, lookup->port ? lookup->port : target->port, share ? share : 1,
		    -(int64_t)target->priority);
}

static void take_srv(struct dpa_lookup *lookup, const struct dpa_dns_records *records)
{
	if (records->count > TARGETS_MAX) {
		fail(lookup, lookup->name, "too many SRV records");
		return;
	}
	/* The root as target says: not here. */
	for (size_t i = 0; i < records->count && !lookup->failed; i++) {
		if (records->list[i].host[0])
			ask(lookup, records->list[i].host, DPA_DNS_TYPE_A, &records->list[i]);
	}
}

/* There are records of this type; they are not those of another. */
static void take_records(struct question *question, const struct dpa_dns_records *records)
{
	struct dpa_lookup *lookup = question->lookup;

	take_ttl(lookup, records);
	if (question->is_target) {
		take_target(lookup, &question->target, records);
		return;
	}
	lookup->found = true;
	lookup->service->dns_last = lookup->kinds[lookup->step - 1];
	if (question->type == DPA_DNS_TYPE_SRV) {
		take_srv(lookup, records);
		return;
	}
	for (size_t i = 0; i < records->count; i++)
		add(lookup, records->list[i].host, lookup->port, 1, 0);
}

static void take_none(struct question *question, bool denied)
{
	struct dpa_lookup *lookup = question->lookup;

	if (question->is_target) {
		if (question->type == DPA_DNS_TYPE_A)
			ask(lookup, question->target.host, DPA_DNS_TYPE_AAAA, &question->target);
		return;
	}
	lookup->denied |= denied;
	ask_next_kind(lookup);
}

static void take_message(struct question *question, struct ks_slice message)
{
	struct dpa_dns_records records;
	struct ks_err err;

	if (dpa_dns_answer(message, question->type, &records, &err) != KS_OK) {
		fail(question->lookup, question->lookup->name, err.text);
		return;
	}
	if (records.count)
		take_records(question, &records);
	else
		take_none(question, true);
	free(records.list);
}

static void answered(void *arg, int status, int timeouts, unsigned char *message, int size)
{
	struct question *question = arg;
	struct dpa_lookup *lookup = question->lookup;

	(void)timeouts;
	lookup->dns->pending--;
	if (lookup->service && !lookup->failed) {
		switch (status) {
		case ARES_SUCCESS:
			take_message(question, ks_slice_of(message, size > 0 ? (size_t)size : 0));
			break;
		case ARES_ENODATA:
		case ARES_ENOTFOUND:
		case ARES_EBADNAME:
			take_none(question, true);
			break;
		case ARES_EFORMERR:
		case ARES_ENOTIMP: /* servers that do not know SRV */
			take_none(question, false);
			break;
		default:
			fail(lookup, question->is_target ? question->target.host : lookup->name, ares_strerror(status));
			break;
		}
	}
	free(question);
	release(lookup);
}

/* "name" or "name:port"; false: neither. */
static bool split_name(struct dpa_lookup *lookup, const char *text)
{
	const char *colon = strrchr(text, ':');
	size_t size = colon ? (size_t)(colon - text) : strlen(text);
	char *end;

	if (size == 0 || size >= sizeof(lookup->name))
		return false;
	memcpy(lookup->name, text, size);
	lookup->name[size] = '\0';
	if (colon) {
		lookup->port = strtol(colon + 1, &end, 10);
		if (end == colon + 1 || *end || lookup->port < 1 || lookup->port > 65535)
			return false;
	}
	return dpa_host_valid(lookup->name) && !strpbrk(lookup->name, ":[");
}

static void add_kind(struct dpa_lookup *lookup, enum dpa_dns_kind kind)
{
	for (size_t i = 0; i < lookup->kind_count; i++) {
		if (lookup->kinds[i] == kind)
			return;
	}
	lookup->kinds[lookup->kind_count++] = kind;
}

/* Names behind a CNAME are in the answer for addresses. */
static void choose_kinds(struct dpa_lookup *lookup, const struct dpa_dns_config *config, int last)
{
	for (size_t i = 0; i < config->order_count; i++) {
		switch (config->order[i]) {
		case DPA_DNS_LAST:
			if (last)
				add_kind(lookup, (enum dpa_dns_kind)last);
			break;
		case DPA_DNS_CNAME:
			add_kind(lookup, DPA_DNS_A);
			break;
		case DPA_DNS_SRV:
		case DPA_DNS_A:
		case DPA_DNS_AAAA:
			add_kind(lookup, config->order[i]);
			break;
		}
	}
}

void dpa_dns_ask(struct dpa_service *service)
{
	struct dpa_dns *dns = service->discovery->dns;
	struct dpa_lookup *lookup = ks_xcalloc(1, sizeof(*lookup));

	lookup->dns = dns;
	lookup->service = service;
	lookup->ttl_s = TTL_MAX_S;
	lookup->outstanding = 1; /* until this function ends: answers may come at once */
	service->lookup = lookup;
	service->poll.busy = true;
	choose_kinds(lookup, dns->config, service->dns_last);
	if (!dns->channel)
		fail(lookup, service->name, "no resolver");
	else if (split_name(lookup, service->name))
		ask_next_kind(lookup);
	else
		lookup->found = true; /* no name, so no nodes, now and later */
	release(lookup);
}

void dpa_dns_stop(struct dpa_service *service)
{
	if (service->lookup)
		service->lookup->service = NULL;
	service->lookup = NULL;
	service->poll.busy = false;
}

/* ---- Sockets ---- */

unsigned dpa_dns_sockets(struct dpa_dns *dns, struct curl_waitfd *sockets, int64_t *wait_ms)
{
	ares_socket_t list[DPA_DNS_SOCKETS];
	struct timeval most, room;
	const struct timeval *wait;
	unsigned count = 0;
	unsigned wanted;

	if ((dns->stale || !dns->channel) && dns->pending == 0) {
		if (dns->channel)
			ares_destroy(dns->channel);
		(void)open_channel(dns);
	}
	if (!dns->channel)
		return 0;
	wanted = (unsigned)ares_getsock(dns->channel, list, DPA_DNS_SOCKETS);
	for (int i = 0; i < DPA_DNS_SOCKETS; i++) {
		/* As c-ares' own macros, which shift a bit into the sign. */
		bool readable = wanted >> i & 1, writable = wanted >> (i + ARES_GETSOCK_MAXNUM) & 1;

		if (readable || writable)
			sockets[count++] = (struct curl_waitfd){
				.fd = list[i],
				.events =
					(short)((readable ? CURL_WAIT_POLLIN : 0) | (writable ? CURL_WAIT_POLLOUT : 0)),
			};
	}
	most.tv_sec = *wait_ms / 1000;
	most.tv_usec = *wait_ms % 1000 * 1000;
	wait = ares_timeout(dns->channel, &most, &room);
	*wait_ms = (int64_t)wait->tv_sec * 1000 + (wait->tv_usec + 999) / 1000;
	return count;
}

void dpa_dns_process(struct dpa_dns *dns, const struct curl_waitfd *sockets, unsigned count)
{
	if (!dns->channel)
		return;
	/* All are read: an error of a socket (nobody listens there) wakes us, and libcurl does not pass it on. */
	for (unsigned i = 0; i < count; i++)
		ares_process_fd(dns->channel, sockets[i].fd,
				sockets[i].revents & CURL_WAIT_POLLOUT ? sockets[i].fd : ARES_SOCKET_BAD);
	ares_process_fd(dns->channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD); /* what ran out of time */
}
