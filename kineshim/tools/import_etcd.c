/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A running etcd as the source of an import, or whatever else speaks its protocol: kineshim on another database, too.
 *
 * The first part is its own snapshot (Maintenance.Snapshot), which has all that can be had: revisions, leases, users with their
 * passwords. What follows is one watch on everything from the next revision on; each revision becomes one entry with the changes in
 * their order, so that both sides keep the same sub-revisions, which HashKV covers. A watch says nothing of leases: one that a key
 * names and nobody knows is looked up before the key is written; the rest (leases without keys, leases that ended, users, roles,
 * compactions) is compared at the end, when nobody writes any more.
 *
 * A lease that ended between its last key and our look is written as the key had it. Its delete follows.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/backoff.h"
#include "base/clock.h"
#include "base/panic.h"
#include "client/etcdc.h"
#include "store/auth_codec.h"
#include "tools/import_source.h"
#include "tools/restore_source.h"
#include "tools/snapshot_sum.h"

#define ENDPOINTS_MAX 64
#define SNAPSHOT_TRIES 5
#define SNAPSHOT_IDLE_MS 60000
#define FIRST_CONTACT_MS 4000 /* a wrong address should not take long to tell */
#define PEM_MAX (4u << 20)
#define SYSTEM_ROOTS "/etc/ssl/certs/ca-certificates.crt"

struct ks_import_source {
	const struct ks_import_source_config *config;
	struct etcdc *client;
	uint64_t cluster_id;
	char place[KS_IMPORT_SOURCE_MAX]; /* the endpoints */
	/* the first part */
	int fd; /* of the snapshot, a file without name */
	struct ks_restore_source *restore;
	/* what follows */
	struct etcdc_stream *watch; /* NULL: to be opened, at 'retry_at_ms' */
	int64_t retry_at_ms;
	struct ks_backoff backoff;
	bool away; /* and that was said */
	int64_t reached;
	Mvccpb__Event **parts; /* of responses in fragments, before the last one */
	size_t part_count;
};

/* ---- opening ---- */

static int64_t now_ms(void)
{
	return ks_clock_now(ks_clock_system());
}

static enum ks_status read_pem(const char *path, char **text, struct ks_err *err)
{
	FILE *file;
	size_t size;

	*text = NULL;
	if (!path)
		return KS_OK;
	file = fopen(path, "re");
	if (!file)
		return ks_fail(err, KS_INVALID_ARGUMENT, "cannot read %s: %s", path, strerror(errno));
	*text = ks_xmalloc(PEM_MAX + 1);
	size = fread(*text, 1, PEM_MAX, file);
	(*text)[size] = '\0';
	if (ferror(file) || size == PEM_MAX || size == 0) {
		(void)fclose(file);
		return ks_fail(err, KS_INVALID_ARGUMENT, "%s is no PEM file, or cannot be read", path);
	}
	(void)fclose(file);
	return KS_OK;
}

static void forget_secret(char *text)
{
	if (text)
		explicit_bzero(text, strlen(text));
	free(text);
}

/* "etcd://a:1,b:2", "http://a:1,http://b:2", "https://a" → the names that the client takes. False: not like that. */
static bool split_endpoints(const struct ks_import_source_config *config, char *copy, char *names[ENDPOINTS_MAX],
			    size_t *count)
{
	bool plain = strncmp(copy, "etcd://", 7) == 0;
	const char *scheme = config->roots_file || config->cert_file ? "https://" : "http://";
	char *rest = plain ? copy + 7 : copy, *item;

	while ((item = strsep(&rest, ","))) {
		const char *host = item, *slashes = strstr(item, "://");
		const char *bracket;
		size_t size;

		if (*count == ENDPOINTS_MAX || strchr(item, '@'))
			return false;
		if (slashes) {
			if (strncmp(item, "http://", 7) != 0 && strncmp(item, "https://", 8) != 0)
				return false;
			scheme = item[4] == 's' ? "https://" : "http://";
			host = slashes + 3;
		} else if (!plain && *count == 0) {
			return false;
		}
		if (!*host || strchr(host, '/'))
			return false;
		bracket = strrchr(host, ']');
		size = strlen(host) + 32;
		names[*count] = ks_xmalloc(size);
		(void)snprintf(names[*count], size, "%s%s%s", scheme, host,
			       strchr(bracket ? bracket : host, ':') ? "" : ":2379");
		(*count)++;
	}
	return *count > 0;
}

static enum ks_status open_client(struct ks_import_source *source, char *const *names, size_t count, struct ks_err *err)
{
	const struct ks_import_source_config *config = source->config;
	struct etcdc_config client = {
		.endpoints = (const char *const *)names,
		.endpoint_count = count,
		.require_leader =
			true, /* so that a member that was cut off ends the watch instead of keeping it silent */
		.user = config->user,
		.password = config->password,
	};
	char *roots = NULL, *cert = NULL, *key = NULL;
	const char *roots_file = config->roots_file;
	struct etcdc_err failed = {0};
	enum ks_status status;

	if (!roots_file && strncmp(names[0], "https://", 8) == 0 && access(SYSTEM_ROOTS, R_OK) == 0)
		roots_file = SYSTEM_ROOTS;
	status = read_pem(roots_file, &roots, err);
	if (status == KS_OK)
		status = read_pem(config->cert_file, &cert, err);
	if (status == KS_OK)
		status = read_pem(config->key_file, &key, err);
	client.tls_roots = roots;
	client.tls_cert = cert;
	client.tls_key = key;
	if (status == KS_OK) {
		source->client = etcdc_open(&client, &failed);
		if (!source->client)
			status = ks_fail(err, failed.status, "%s", failed.text);
	}
	free(roots);
	free(cert);
	forget_secret(key);
	return status;
}

/* The error of a call on the source, as one of ours. */
static enum ks_status source_failed(const struct ks_import_source *source, const char *what,
				    const struct etcdc_err *failed, struct ks_err *err)
{
	if (failed->status == KS_PERMISSION_DENIED)
		return ks_fail(err, failed->status, "%s: %s: %s; it takes a user with the role root", source->place,
			       what, failed->text);
	return ks_fail(err, failed->status, "%s: %s: %s", source->place, what, failed->text);
}

/* Reads nothing, and so learns who answers and what its newest revision is; logs in on the way. */
static enum ks_status ask_head(struct ks_import_source *source, int timeout_ms, uint64_t *cluster_id, int64_t *revision,
			       struct ks_err *err)
{
	struct etcdc_call_options options = {.timeout_ms = timeout_ms};
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
	const Etcdserverpb__RangeResponse *response;
	struct etcdc_err failed = {0};
	uint8_t first[1] = {0};
	void *answer;
	enum ks_status status;

	request.key = (ProtobufCBinaryData){1, first};
	request.limit = 1;
	request.keys_only = true;
	if (etcdc_unary(source->client, &etcdc_method_range, &request, &options, &answer, &failed) != KS_OK)
		return source_failed(source, "range", &failed, err);
	response = answer;
	status = response->header ? KS_OK : ks_fail(err, KS_INTERNAL, "%s: an answer has no header", source->place);
	if (status == KS_OK) {
		*cluster_id = response->header->cluster_id;
		*revision = response->header->revision;
	}
	etcdc_free(answer);
	return status;
}

static void etcd_close(struct ks_import_source *source);

static enum ks_status etcd_open(const struct ks_import_source_config *config, struct ks_import_source **source,
				struct ks_err *err)
{
	struct ks_import_source *opened = ks_xcalloc(1, sizeof(*opened));
	char *copy = ks_xstrdup(config->url), *names[ENDPOINTS_MAX] = {0};
	enum ks_status status;
	int64_t revision;
	size_t count = 0;

	*source = NULL;
	opened->config = config;
	opened->fd = -1;
	ks_backoff_init(&opened->backoff, 100, 2000, (uint64_t)now_ms());
	if (split_endpoints(config, copy, names, &count)) {
		(void)snprintf(opened->place, sizeof(opened->place) - 40, "%s%s", names[0], count > 1 ? ",…" : "");
		status = open_client(opened, names, count, err);
	} else {
		status = ks_fail(err, KS_INVALID_ARGUMENT,
				 "the source is etcd://HOST:PORT[,HOST:PORT…], or the same with http:// or https://; "
				 "a user's name goes to --from-user");
	}
	if (status == KS_OK)
		status = ask_head(opened, FIRST_CONTACT_MS, &opened->cluster_id, &revision, err);
	for (size_t i = 0; i < count; i++)
		free(names[i]);
	free(copy);
	if (status == KS_OK)
		*source = opened;
	else
		etcd_close(opened);
	return status;
}

static void drop_parts(struct ks_import_source *source)
{
	for (size_t i = 0; i < source->part_count; i++)
		etcdc_free(source->parts[i]);
	free(source->parts);
	source->parts = NULL;
	source->part_count = 0;
}

static void drop_watch(struct ks_import_source *source)
{
	etcdc_stream_close(source->watch);
	source->watch = NULL;
	drop_parts(source);
}

static void drop_snapshot(struct ks_import_source *source)
{
	ks_restore_source_close(source->restore);
	source->restore = NULL;
	if (source->fd >= 0)
		(void)close(source->fd);
	source->fd = -1;
}

static void etcd_close(struct ks_import_source *source)
{
	if (!source)
		return;
	drop_watch(source);
	drop_snapshot(source);
	etcdc_close(source->client);
	free(source);
}

static void etcd_describe(const struct ks_import_source *source, char text[KS_IMPORT_SOURCE_MAX])
{
	(void)snprintf(text, KS_IMPORT_SOURCE_MAX, "etcd:%" PRIx64 " %.90s", source->cluster_id, source->place);
}

/* ---- the snapshot ---- */

/* A file that is gone with its descriptor. */
static int temporary_file(struct ks_err *err)
{
	const char *dir = getenv("TMPDIR");
	int fd;

	if (!dir || !*dir)
		dir = "/var/tmp";
	fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0) {
		char path[256];

		(void)snprintf(path, sizeof(path), "%s/kineshim-import-XXXXXX", dir);
		fd = mkostemp(path, O_CLOEXEC);
		if (fd >= 0)
			(void)unlink(path);
	}
	if (fd < 0)
		(void)ks_fail(err, KS_UNAVAILABLE,
			      "cannot make a file for the snapshot in %s: %s (TMPDIR names another)", dir,
			      strerror(errno));
	return fd;
}

static enum ks_status write_all(int fd, const uint8_t *data, size_t size, struct ks_err *err)
{
	while (size > 0) {
		ssize_t wrote = write(fd, data, size);

		if (wrote < 0 && errno == EINTR)
			continue;
		if (wrote < 0)
			return ks_fail(
				err, KS_RESOURCE_EXHAUSTED,
				"cannot write the snapshot to a temporary file: %s (TMPDIR names another folder)",
				strerror(errno));
		data += wrote;
		size -= (size_t)wrote;
	}
	return KS_OK;
}

/* One attempt. *sent: how much came. */
static enum ks_status stream_snapshot(struct ks_import_source *source, int fd, uint64_t *size, struct ks_err *err)
{
	Etcdserverpb__SnapshotRequest request = ETCDSERVERPB__SNAPSHOT_REQUEST__INIT;
	struct etcdc_stream *stream = etcdc_stream_open(source->client, &etcdc_method_snapshot, NULL);
	struct etcdc_err failed = {0};
	enum ks_status status = KS_OK;
	int64_t heard_ms = now_ms();
	void *message = NULL;

	*size = 0;
	(void)etcdc_stream_send(stream, &request);
	etcdc_stream_half_close(stream);
	while (status == KS_OK) {
		enum ks_status got = etcdc_stream_recv(stream, 200, &message, &failed);
		const Etcdserverpb__SnapshotResponse *part = message;

		if (source->config->give_up()) {
			status = ks_fail(err, KS_CANCELLED, "interrupted");
		} else if (got == KS_OK && !part) {
			break;
		} else if (got == KS_OK) {
			heard_ms = now_ms();
			status = write_all(fd, part->blob.data, part->blob.len, err);
			*size += part->blob.len;
			source->config->progress("snapshot", *size, *size + part->remaining_bytes);
		} else if (got != KS_DEADLINE_EXCEEDED || strcmp(failed.text, "no message yet") != 0) {
			status = source_failed(source, "snapshot", &failed, err);
		} else if (now_ms() - heard_ms > SNAPSHOT_IDLE_MS) {
			status = ks_fail(err, KS_UNAVAILABLE, "%s: snapshot: nothing came for a minute", source->place);
		}
		etcdc_free(message);
		message = NULL;
	}
	etcdc_stream_close(stream);
	return status;
}

static bool worth_another_try(enum ks_status status)
{
	return status == KS_UNAVAILABLE || status == KS_DATA_LOSS || status == KS_UNAUTHENTICATED ||
	       status == KS_UNKNOWN || status == KS_INTERNAL || status == KS_CANCELLED;
}

static enum ks_status take_snapshot(struct ks_import_source *source, int64_t writer, struct ks_err *err)
{
	enum ks_status status = KS_OK;
	uint64_t size = 0, cluster_id;
	int64_t revision;
	bool summed;

	for (int try = 1; try <= SNAPSHOT_TRIES; try++) {
		drop_snapshot(source);
		source->fd = temporary_file(err);
		if (source->fd < 0)
			return err->status;
		status = ask_head(source, 0, &cluster_id, &revision, err);
		if (status == KS_OK)
			status = stream_snapshot(source, source->fd, &size, err);
		if (status == KS_OK)
			status = ks_snapshot_sum_check(source->fd, "the snapshot", false, &size, &summed, err);
		if (status == KS_OK && (!summed || size == 0))
			status = ks_fail(err, KS_DATA_LOSS, "the snapshot is cut off");
		if (status == KS_OK)
			return ks_restore_source_open(source->fd, size, writer, &source->restore, err);
		if (!worth_another_try(status) || source->config->give_up())
			return status;
		source->config->said(err->text);
		(void)poll(NULL, 0, 200 * try);
	}
	return status;
}

static enum ks_status etcd_begin(struct ks_import_source *source, struct ks_import_target *target, struct ks_err *err)
{
	return take_snapshot(source, ks_import_target_writer(target), err);
}

static enum sqlb_next etcd_next(void *ctx, struct sqlb_row *row)
{
	struct ks_import_source *source = ctx;

	return ks_restore_source_next(source->restore, row);
}

static const struct ks_err *etcd_next_err(const struct ks_import_source *source)
{
	return ks_restore_source_error(source->restore);
}

/* ---- what follows ---- */

static enum ks_status etcd_follow(struct ks_import_source *source, struct ks_import_target *target, struct ks_err *err)
{
	const struct ks_import_known *known = ks_import_target_known(target);
	int64_t newest = 0;
	uint64_t cluster_id = 0;
	enum ks_status status;

	drop_snapshot(source);
	source->reached = known->revision;
	status = ask_head(source, 0, &cluster_id, &newest, err);
	if (status == KS_OK && newest < known->revision)
		return ks_fail(
			err, KS_FAILED_PRECONDITION,
			"%s is at revision %" PRId64 ", but revision %" PRId64
			" of it was imported already: it was restored from a backup, or is another one; import it "
			"into a new database",
			source->place, newest, known->revision);
	return status;
}

static struct ks_slice slice_of(const ProtobufCBinaryData *data)
{
	return ks_slice_of(data->data, data->len);
}

static struct ks_slice id_name(const int64_t *id)
{
	return ks_slice_of(id, sizeof(*id));
}

static bool knows_lease(struct ks_import_target *target, int64_t id)
{
	const struct ks_import_thing *thing =
		ks_import_map_find(&ks_import_target_known(target)->map, KS_IMPORT_LEASE, id_name(&id));

	return thing && thing->live;
}

/* Writes the grant of a lease that we do not have, unless the source has not got it either. */
static enum ks_status bring_lease(struct ks_import_source *source, struct ks_import_target *target, int64_t id,
				  struct ks_err *err)
{
	Etcdserverpb__LeaseTimeToLiveRequest request = ETCDSERVERPB__LEASE_TIME_TO_LIVE_REQUEST__INIT;
	Etcdserverpb__LeaseTimeToLiveResponse *response;
	struct sqlb_row row = {.kind = KS_EFFECT_LEASE_GRANT, .lease = id};
	struct etcdc_err failed = {0};
	enum ks_status status;

	request.id = id;
	status = etcdc_lease_time_to_live(source->client, &request, &response, &failed);
	if (status == KS_NOT_FOUND)
		return KS_OK;
	if (status != KS_OK)
		return source_failed(source, "lease", &failed, err);
	row.version = response->grantedttl;
	if (response->ttl >= 0 && response->grantedttl > 0)
		status = ks_import_entry(target, ks_import_target_known(target)->revision, &row, err);
	etcdc_free(response);
	return status;
}

/* The changes of one revision. */
static enum ks_status bring_revision(struct ks_import_source *source, struct ks_import_target *target,
				     Mvccpb__Event *const *events, size_t count, struct ks_err *err)
{
	int64_t revision = events[0]->kv->mod_revision;

	if (revision <= source->reached)
		return KS_OK; /* once more after the stream broke */
	if (revision != source->reached + 1)
		return ks_fail(err, KS_DATA_LOSS,
			       "%s skipped revisions: after %" PRId64 " came %" PRId64
			       "; what lies between is lost, so import it into a new database",
			       source->place, source->reached, revision);
	for (size_t i = 0; i < count; i++) {
		const Mvccpb__KeyValue *kv = events[i]->kv;
		enum ks_status status = KS_OK;

		if (events[i]->type == MVCCPB__EVENT__EVENT_TYPE__PUT && kv->lease && !knows_lease(target, kv->lease))
			status = bring_lease(source, target, kv->lease, err);
		if (status != KS_OK)
			return status;
	}
	ks_import_entry_begin(target, revision);
	for (size_t i = 0; i < count; i++) {
		const Mvccpb__KeyValue *kv = events[i]->kv;
		bool put = events[i]->type == MVCCPB__EVENT__EVENT_TYPE__PUT;
		struct sqlb_row row = {.kind = put ? KS_EFFECT_PUT : KS_EFFECT_DELETE, .key = slice_of(&kv->key)};

		if (put) {
			row.value = slice_of(&kv->value);
			row.create_revision = kv->create_revision;
			row.version = kv->version;
			row.lease = kv->lease;
		}
		ks_import_entry_add(target, &row);
	}
	source->reached = revision;
	return ks_import_entry_end(target, err);
}

/* Whole revisions only: fragments were put together. */
static enum ks_status bring_events(struct ks_import_source *source, struct ks_import_target *target,
				   Mvccpb__Event *const *events, size_t count, struct ks_err *err)
{
	enum ks_status status = KS_OK;

	for (size_t i = 0; i < count; i++)
		if (!events[i]->kv)
			return ks_fail(err, KS_INTERNAL, "%s: an event has no key", source->place);
	for (size_t from = 0, to; status == KS_OK && from < count; from = to) {
		for (to = from + 1; to < count && events[to]->kv->mod_revision == events[from]->kv->mod_revision; to++)
			;
		status = bring_revision(source, target, events + from, to - from, err);
	}
	return status;
}

static enum ks_status refused(struct ks_import_source *source, const Etcdserverpb__WatchResponse *response,
			      struct ks_err *err)
{
	if (response->compact_revision > 0)
		return ks_fail(err, KS_OUT_OF_RANGE,
			       "%s was compacted at revision %" PRId64 " while this import was at %" PRId64
			       ": the changes in between are gone there; import it into a new database",
			       source->place, response->compact_revision, source->reached);
	if (strstr(response->cancel_reason, "permission denied"))
		return ks_fail(err, KS_PERMISSION_DENIED, "%s: watch: %s; it takes a user with the role root",
			       source->place, response->cancel_reason);
	/* A token that has ended, a member that lost its leader. */
	return ks_fail(err, KS_UNAVAILABLE, "%s: watch: %s", source->place,
		       *response->cancel_reason ? response->cancel_reason : "cancelled");
}

/* Takes the message's events. */
static enum ks_status bring_response(struct ks_import_source *source, struct ks_import_target *target,
				     Etcdserverpb__WatchResponse *response, struct ks_err *err)
{
	size_t count = source->part_count + response->n_events;
	Mvccpb__Event **all;
	enum ks_status status = KS_OK;

	if (response->canceled || response->compact_revision > 0)
		return refused(source, response, err);
	if (response->header && response->header->cluster_id != source->cluster_id)
		return ks_fail(err, KS_FAILED_PRECONDITION, "%s: another cluster answers now: %" PRIx64, source->place,
			       response->header->cluster_id);
	if (response->n_events == 0 && source->part_count == 0)
		return KS_OK;
	all = reallocarray(source->parts, count ? count : 1, sizeof(*all));
	if (!all)
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
	source->parts = all;
	for (size_t i = 0; i < response->n_events; i++)
		all[source->part_count++] = response->events[i];
	response->n_events = 0;
	if (response->fragment)
		return KS_OK;
	status = bring_events(source, target, source->parts, source->part_count, err);
	drop_parts(source);
	return status;
}

static enum ks_status open_watch(struct ks_import_source *source, struct ks_err *err)
{
	Etcdserverpb__WatchCreateRequest create = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;
	Etcdserverpb__WatchRequest request = ETCDSERVERPB__WATCH_REQUEST__INIT;
	uint8_t everything[1] = {0};
	uint64_t cluster_id = 0;
	int64_t newest = 0;
	enum ks_status status = ask_head(source, 0, &cluster_id, &newest, err); /* and log in, for the stream */

	if (status != KS_OK)
		return status;
	if (cluster_id != source->cluster_id || newest < source->reached)
		return ks_fail(err, KS_FAILED_PRECONDITION,
			       "%s is not what it was: cluster %" PRIx64 " at revision %" PRId64 ", before %" PRIx64
			       " at %" PRId64 "; import it into a new database",
			       source->place, cluster_id, newest, source->cluster_id, source->reached);
	source->watch = etcdc_stream_open(source->client, &etcdc_method_watch, NULL);
	create.key = create.range_end = (ProtobufCBinaryData){1, everything};
	create.start_revision = source->reached + 1;
	create.fragment = true;
	request.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CREATE_REQUEST;
	request.create_request = &create;
	(void)etcdc_stream_send(source->watch, &request); /* if it fails the stream has ended, and says why */
	return KS_OK;
}

/* Errors that pass: everything but what says that the answer will always be the same. */
static bool passes(enum ks_status status)
{
	switch (status) {
	case KS_OUT_OF_RANGE:
	case KS_FAILED_PRECONDITION:
	case KS_DATA_LOSS:
	case KS_PERMISSION_DENIED:
	case KS_INVALID_ARGUMENT:
	case KS_RESOURCE_EXHAUSTED:
	case KS_UNIMPLEMENTED:
		return false;
	default:
		return true;
	}
}

static enum ks_status retry_later(struct ks_import_source *source, const struct ks_err *err)
{
	char text[KS_ERR_TEXT_MAX + 64];

	drop_watch(source);
	if (!source->away) {
		(void)snprintf(text, sizeof(text), "the source is away, trying again: %s", err->text);
		source->config->said(text);
	}
	source->away = true;
	source->retry_at_ms = now_ms() + ks_backoff_failed(&source->backoff);
	return KS_OK;
}

static enum ks_status poll_watch(struct ks_import_source *source, struct ks_import_target *target, int64_t until_ms,
				 struct ks_err *err)
{
	struct etcdc_err failed = {0};
	void *message = NULL;
	enum ks_status status = KS_OK;
	int64_t left_ms = until_ms - now_ms();

	/* What is there already comes without waiting, but not for ever. */
	status = etcdc_stream_recv(source->watch, left_ms > 0 ? left_ms : 0, &message, &failed);
	if (status == KS_DEADLINE_EXCEEDED && strcmp(failed.text, "no message yet") == 0)
		return KS_OK;
	if (status != KS_OK)
		return source_failed(source, "watch", &failed, err);
	if (!message)
		return ks_fail(err, KS_UNAVAILABLE, "%s ended the watch", source->place);
	status = bring_response(source, target, message, err);
	etcdc_free(message);
	if (status == KS_OK && source->away) {
		source->away = false;
		source->config->said("the source answers again");
	}
	if (status == KS_OK)
		ks_backoff_succeeded(&source->backoff);
	return status;
}

static enum ks_status etcd_poll(struct ks_import_source *source, struct ks_import_target *target, int wait_ms,
				struct ks_err *err)
{
	int64_t until_ms = now_ms() + wait_ms;
	enum ks_status status = KS_OK;

	while (status == KS_OK && now_ms() < until_ms && !source->config->give_up()) {
		if (!source->watch && source->retry_at_ms > now_ms())
			(void)poll(NULL, 0, 10);
		else if (!source->watch)
			status = open_watch(source, err);
		else
			status = poll_watch(source, target, until_ms, err);
	}
	if (status != KS_OK && passes(status))
		status = retry_later(source, err);
	return status;
}

static enum ks_status etcd_head(struct ks_import_source *source, int64_t *newest, struct ks_err *err)
{
	uint64_t cluster_id;

	return ask_head(source, 0, &cluster_id, newest, err);
}

static int64_t etcd_reached(const struct ks_import_source *source)
{
	return source->reached;
}

/* ---- the end ---- */

/* Makes the leases those of the source: at this moment, whose revision we have reached. */
static enum ks_status settle_leases(struct ks_import_source *source, struct ks_import_target *target,
				    struct ks_err *err)
{
	struct ks_import_known *known = ks_import_target_known(target);
	Etcdserverpb__LeaseLeasesRequest request = ETCDSERVERPB__LEASE_LEASES_REQUEST__INIT;
	Etcdserverpb__LeaseLeasesResponse *response;
	struct etcdc_err failed = {0};
	struct ks_import_thing *thing;
	struct ks_slice name;
	enum ks_status status;
	size_t at = 0;

	if (etcdc_lease_leases(source->client, &request, &response, &failed) != KS_OK)
		return source_failed(source, "leases", &failed, err);
	while ((thing = ks_import_map_next(&known->map, KS_IMPORT_LEASE, &at, &name)))
		thing->marked = false;
	status = response->header && response->header->revision == source->reached
			 ? KS_OK
			 : ks_fail(err, KS_ABORTED, "something was written meanwhile");
	for (size_t i = 0; status == KS_OK && i < response->n_leases; i++) {
		int64_t id = response->leases[i]->id;

		if (!knows_lease(target, id))
			status = bring_lease(source, target, id, err);
		thing = ks_import_map_find(&known->map, KS_IMPORT_LEASE, id_name(&id));
		if (thing)
			thing->marked = true;
	}
	at = 0;
	/* Those that ended: the deletes of their keys came with the watch. */
	while (status == KS_OK && (thing = ks_import_map_next(&known->map, KS_IMPORT_LEASE, &at, &name))) {
		struct sqlb_row row = {.kind = KS_EFFECT_LEASE_REVOKE};

		if (thing->marked)
			continue;
		memcpy(&row.lease, name.data, sizeof(row.lease));
		status = ks_import_entry(target, known->revision, &row, err);
	}
	etcdc_free(response);
	return status;
}

static bool has_users(struct ks_import_target *target)
{
	const struct ks_import_map *map = &ks_import_target_known(target)->map;
	struct ks_slice name;
	size_t users = 0, roles = 0;

	return ks_import_map_next(map, KS_IMPORT_USER, &users, &name) ||
	       ks_import_map_next(map, KS_IMPORT_ROLE, &roles, &name);
}

/* Servers before etcd 3.5 do not say their auth revision: are there any users or roles at all? */
static enum ks_status lists_users(struct ks_import_source *source, bool *some, struct ks_err *err)
{
	Etcdserverpb__AuthUserListRequest users = ETCDSERVERPB__AUTH_USER_LIST_REQUEST__INIT;
	Etcdserverpb__AuthRoleListRequest roles = ETCDSERVERPB__AUTH_ROLE_LIST_REQUEST__INIT;
	Etcdserverpb__AuthUserListResponse *user_list = NULL;
	Etcdserverpb__AuthRoleListResponse *role_list = NULL;
	struct etcdc_err failed = {0};
	enum ks_status status = etcdc_user_list(source->client, &users, &user_list, &failed);

	if (status == KS_OK)
		status = etcdc_role_list(source->client, &roles, &role_list, &failed);
	*some = status == KS_OK && (user_list->n_users || role_list->n_roles);
	etcdc_free(user_list);
	etcdc_free(role_list);
	return status == KS_OK ? KS_OK : source_failed(source, "users", &failed, err);
}

/* May users, roles or the switch have changed since we have them? */
static enum ks_status auth_changed(struct ks_import_source *source, struct ks_import_target *target, bool *changed,
				   struct ks_err *err)
{
	Etcdserverpb__AuthStatusRequest request = ETCDSERVERPB__AUTH_STATUS_REQUEST__INIT;
	Etcdserverpb__AuthStatusResponse *response;
	struct etcdc_err failed = {0};
	enum ks_status status = etcdc_auth_status(source->client, &request, &response, &failed);
	int64_t known = ks_import_target_known(target)->auth_revision;

	if (status == KS_UNIMPLEMENTED) {
		*changed = has_users(target);
		return *changed ? KS_OK : lists_users(source, changed, err);
	}
	if (status != KS_OK)
		return source_failed(source, "auth status", &failed, err);
	*changed = (response->authrevision > 1 ? (int64_t)response->authrevision : 1) != (known > 1 ? known : 1);
	etcdc_free(response);
	return KS_OK;
}

static enum ks_status bring_auth_row(struct ks_import_target *target, const struct sqlb_row *row, struct ks_err *err)
{
	struct ks_import_known *known = ks_import_target_known(target);
	struct ks_auth_record record;
	struct ks_import_thing *thing;
	enum ks_status status = ks_import_entry(target, known->revision, row, err);

	if (status != KS_OK || !ks_auth_decode(row->payload, &record) || record.object == KS_AUTH_SWITCH)
		return status;
	thing = ks_import_map_find(&known->map, record.object == KS_AUTH_USER ? KS_IMPORT_USER : KS_IMPORT_ROLE,
				   record.name);
	if (thing)
		thing->marked = true;
	return KS_OK;
}

static enum ks_status drop_unmarked(struct ks_import_target *target, enum ks_import_kind kind, int64_t auth_revision,
				    struct ks_err *err)
{
	struct ks_import_known *known = ks_import_target_known(target);
	struct ks_import_thing *thing;
	struct ks_slice name;
	enum ks_status status = KS_OK;
	size_t at = 0;

	while (status == KS_OK && (thing = ks_import_map_next(&known->map, kind, &at, &name))) {
		struct sqlb_row row = {.kind = KS_EFFECT_AUTH, .version = auth_revision};
		struct ks_bytes *gone;

		if (thing->marked)
			continue;
		gone = ks_auth_encode_gone(kind == KS_IMPORT_USER ? KS_AUTH_USER : KS_AUTH_ROLE, name);
		if (!gone)
			return ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
		row.payload = ks_bytes_slice(gone);
		status = ks_import_entry(target, known->revision, &row, err);
		ks_bytes_unref(gone);
	}
	return status;
}

static void unmark(struct ks_import_target *target, enum ks_import_kind kind)
{
	struct ks_import_thing *thing;
	struct ks_slice name;
	size_t at = 0;

	while ((thing = ks_import_map_next(&ks_import_target_known(target)->map, kind, &at, &name)))
		thing->marked = false;
}

/* No call tells a user's password: only another snapshot does. */
static enum ks_status bring_auth(struct ks_import_source *source, struct ks_import_target *target, struct ks_err *err)
{
	int64_t known_revision = ks_import_target_known(target)->auth_revision, auth_revision = 0;
	enum sqlb_next what = SQLB_NEXT_END;
	struct sqlb_row row;
	enum ks_status status = take_snapshot(source, ks_import_target_writer(target), err);

	unmark(target, KS_IMPORT_USER);
	unmark(target, KS_IMPORT_ROLE);
	while (status == KS_OK && (what = ks_restore_source_next(source->restore, &row)) == SQLB_NEXT_ROW) {
		if (row.kind == KS_EFFECT_PUT || row.kind == KS_EFFECT_DELETE || row.kind == KS_EFFECT_COMPACT)
			break;
		if (row.kind != KS_EFFECT_AUTH)
			continue;
		auth_revision = row.version;
		if (auth_revision == known_revision)
			break;
		status = bring_auth_row(target, &row, err);
	}
	if (status == KS_OK && what == SQLB_NEXT_FAILED) {
		*err = *ks_restore_source_error(source->restore);
		status = err->status;
	}
	drop_snapshot(source);
	if (status != KS_OK || auth_revision == known_revision || auth_revision == 0)
		return status;
	status = drop_unmarked(target, KS_IMPORT_USER, auth_revision, err);
	return status == KS_OK ? drop_unmarked(target, KS_IMPORT_ROLE, auth_revision, err) : status;
}

/* The hash of the source as it is now, if that is where we are. */
static enum ks_status ask_hash(struct ks_import_source *source, uint32_t *hash, int64_t *compact_revision,
			       struct ks_err *err)
{
	/* Not by its revision: newer servers then answer from a cache, with a compact revision of before. */
	Etcdserverpb__HashKVRequest request = ETCDSERVERPB__HASH_KVREQUEST__INIT;
	struct etcdc_call_options options = {.timeout_ms = 600000};
	Etcdserverpb__HashKVResponse *response;
	struct etcdc_err failed = {0};
	void *answer;
	enum ks_status status;

	status = etcdc_unary(source->client, &etcdc_method_hash_kv, &request, &options, &answer, &failed);
	if (status != KS_OK)
		return source_failed(source, "hash", &failed, err);
	response = answer;
	*hash = response->hash;
	*compact_revision = response->compact_revision;
	if (!response->header || response->header->revision != source->reached)
		status = ks_fail(err, KS_ABORTED, "something was written meanwhile");
	etcdc_free(response);
	return status;
}

static enum ks_status etcd_settle(struct ks_import_source *source, struct ks_import_target *target, struct ks_err *err)
{
	struct ks_import_known *known = ks_import_target_known(target);
	struct sqlb_row row = {.kind = KS_EFFECT_COMPACT};
	bool changed = false;
	uint32_t hash;
	enum ks_status status = settle_leases(source, target, err);

	if (status == KS_OK)
		status = auth_changed(source, target, &changed, err);
	if (status == KS_OK && changed)
		status = bring_auth(source, target, err);
	if (status == KS_OK)
		status = ask_hash(source, &hash, &row.version, err);
	if (status == KS_OK && row.version > known->compact_revision)
		status = ks_import_entry(target, known->revision, &row, err);
	return status;
}

static enum ks_status etcd_verify(struct ks_import_source *source, struct ks_import_target *target,
				  const struct ks_hash_result *hash, char proof[128], struct ks_err *err)
{
	int64_t compact_revision;
	uint32_t theirs;
	enum ks_status status = ask_hash(source, &theirs, &compact_revision, err);

	(void)target;
	if (status != KS_OK)
		return status;
	/* Compacted once more: as good as a write, but for the numbers. */
	if (compact_revision > hash->compact_revision)
		return ks_fail(err, KS_ABORTED, "the source was compacted meanwhile");
	if (theirs != hash->hash)
		return ks_fail(err, KS_DATA_LOSS,
			       "the two sides differ: HashKV of %s is %" PRIu32 " at revision %" PRId64
			       ", here it is %" PRIu32 "; the import stays unfinished",
			       source->place, theirs, source->reached, hash->hash);
	(void)snprintf(proof, 128, "HashKV %" PRIu32 " on both sides", theirs);
	return KS_OK;
}

const struct ks_import_source_ops ks_import_etcd = {
	.open = etcd_open,
	.close = etcd_close,
	.describe = etcd_describe,
	.begin = etcd_begin,
	.next = etcd_next,
	.next_err = etcd_next_err,
	.follow = etcd_follow,
	.poll = etcd_poll,
	.head = etcd_head,
	.reached = etcd_reached,
	.settle = etcd_settle,
	.verify = etcd_verify,
};
