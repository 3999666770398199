/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Buckets of etcd's database, in their order by name. Numbers in keys are big endian; a record of bucket "key" is named by its
 * revision, "main_sub", with a 't' behind it for a delete.
 */
#include "api/snapshot_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/diag.h"
#include "bbolt/bbolt.h"
#include "store/alarm.h"
#include "store/auth_codec.h"

#define RECORDS 256    /* copied, fetched and written at a time */
#define ATTEMPTS_MAX 5 /* of copies that were overtaken */
#define COMPACTION_MS 10000
#define COMPACTION_POLL_MS 20
#define REVISION_BYTES 17 /* "main_sub" */

struct writing {
	struct ks_api *api;
	struct ks_bbolt_writer *file;
	const _Atomic bool *cancelled;
	struct ks_store_copy copy;
	struct ks_cluster_status status;
	struct ks_err *err;
	struct ks_store_record records[RECORDS];
};

/* ---- the file ---- */

static int open_in(const char *dir)
{
	char path[4096];
	int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	/* Not every file system has files without a name. */
	if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL))
		return fd;
	if (snprintf(path, sizeof(path), "%s/.kineshim-snapshot-XXXXXX", dir) >= (int)sizeof(path))
		return -1;
	fd = mkostemp(path, O_CLOEXEC);
	if (fd >= 0)
		(void)unlink(path);
	return fd;
}

int ks_snapshot_file_open(const char *dir, struct ks_err *err)
{
	/* Nobody in this program changes the environment. */
	const char *places[] = {dir, getenv("TMPDIR"), "/tmp"}; /* NOLINT(concurrency-mt-unsafe) */

	for (size_t i = 0; i < sizeof(places) / sizeof(*places); i++) {
		int fd = places[i] && *places[i] ? open_in(places[i]) : -1;

		if (fd >= 0)
			return fd;
	}
	(void)ks_fail(err, KS_UNAVAILABLE, "etcdserver: no place for the snapshot's file: %s", strerror(errno));
	return -1;
}

/* ---- small things ---- */

static void put_be64(uint8_t *to, uint64_t value)
{
	for (unsigned i = 0; i < 8; i++)
		to[i] = (uint8_t)(value >> (56 - 8 * i));
}

static void put_revision(uint8_t to[REVISION_BYTES], int64_t revision, int64_t sub)
{
	put_be64(to, (uint64_t)revision);
	to[8] = '_';
	put_be64(to + 9, (uint64_t)sub);
}

static enum ks_status bucket(struct writing *w, const char *name)
{
	return ks_bbolt_writer_bucket(w->file, ks_slice_str(name), w->err);
}

static enum ks_status put(struct writing *w, const char *key, struct ks_slice value)
{
	return ks_bbolt_writer_put(w->file, ks_slice_str(key), value, w->err);
}

static enum ks_status put_number(struct writing *w, const char *key, uint64_t number)
{
	uint8_t bytes[8];

	put_be64(bytes, number);
	return put(w, key, ks_slice_of(bytes, sizeof(bytes)));
}

static enum ks_status put_compaction(struct writing *w, const char *key, int64_t revision)
{
	uint8_t bytes[REVISION_BYTES];

	if (revision < 0)
		return KS_OK;
	put_revision(bytes, revision, 0);
	return put(w, key, ks_slice_of(bytes, sizeof(bytes)));
}

/* ---- alarm, auth, cluster ---- */

struct alarm_key {
	uint8_t bytes[16]; /* etcdserverpb.AlarmMember */
	size_t size;
};

static int by_bytes(const void *a, const void *b)
{
	const struct alarm_key *left = a, *right = b;

	return ks_slice_cmp(ks_slice_of(left->bytes, left->size), ks_slice_of(right->bytes, right->size));
}

static struct alarm_key alarm_key(const struct ks_alarm *alarm)
{
	struct alarm_key key = {0};
	struct ks_buf buf;

	ks_buf_init(&buf, sizeof(key.bytes));
	ks_wire_uint(&buf, 1, alarm->member);
	ks_wire_uint(&buf, 2, (uint64_t)alarm->type);
	if (!buf.failed && buf.size) {
		memcpy(key.bytes, buf.data, buf.size);
		key.size = buf.size;
	}
	ks_buf_fini(&buf);
	return key;
}

/* The bytes are all of it: there are no values. */
static enum ks_status write_alarms(struct writing *w)
{
	struct ks_alarm *alarms = NULL;
	struct alarm_key *keys = NULL;
	size_t count = 0;
	enum ks_status status = ks_store_alarms(w->api->store, &alarms, &count);

	if (status == KS_OK && count > 0 && !(keys = calloc(count, sizeof(*keys))))
		status = KS_RESOURCE_EXHAUSTED;
	if (status != KS_OK)
		status = ks_fail(w->err, status, "etcdserver: out of memory");
	else
		status = bucket(w, "alarm");
	for (size_t i = 0; keys && i < count; i++)
		keys[i] = alarm_key(&alarms[i]);
	if (keys)
		qsort(keys, count, sizeof(*keys), by_bytes);
	for (size_t i = 0; keys && status == KS_OK && i < count; i++)
		status = ks_bbolt_writer_put(w->file, ks_slice_of(keys[i].bytes, keys[i].size), ks_slice_of(NULL, 0),
					     w->err);
	free(keys);
	free(alarms);
	return status;
}

/* Payloads of our log are a letter and etcd's own message. Takes 'payload'. */
static enum ks_status put_auth(struct writing *w, struct ks_slice name, struct ks_bytes *payload)
{
	enum ks_status status;

	if (!payload)
		return ks_fail(w->err, KS_RESOURCE_EXHAUSTED, "etcdserver: out of memory");
	status = ks_bbolt_writer_put(w->file, name, ks_slice_of(payload->data + 1, payload->size - 1), w->err);
	ks_bytes_unref(payload);
	return status;
}

static enum ks_status write_auth(struct writing *w)
{
	const struct ks_auth *auth = w->copy.auth;
	enum ks_status status = bucket(w, "auth");

	if (status == KS_OK)
		status = put(w, "authEnabled", ks_slice_of(ks_auth_enabled(auth) ? "\1" : "\0", 1));
	if (status == KS_OK)
		status = put_number(w, "authRevision", ks_auth_revision(auth));
	if (status == KS_OK)
		status = bucket(w, "authRoles");
	for (size_t i = 0; status == KS_OK && i < ks_auth_role_count(auth); i++) {
		const struct ks_auth_role *role = ks_auth_role_at(auth, i);

		status = put_auth(w, role->name, ks_auth_encode_role(role));
	}
	if (status == KS_OK)
		status = bucket(w, "authUsers");
	for (size_t i = 0; status == KS_OK && i < ks_auth_user_count(auth); i++) {
		struct ks_auth_user user = *ks_auth_user_at(auth, i);

		user.credential = 0; /* ours alone */
		status = put_auth(w, user.name, ks_auth_encode_user(&user));
	}
	return status;
}

/* Without a cluster version: an etcd 3.4 or 3.5 would refuse to start on one that is newer than itself. */
static enum ks_status write_cluster(struct writing *w)
{
	return bucket(w, "cluster");
}

/* ---- key ---- */

struct fetching {
	struct ks_fetch fetch;
	struct ks_mutex mutex;
	struct ks_cond cond;
	bool done;
};

static void fetch_done(struct ks_fetch *fetch)
{
	struct fetching *fetching = ks_container_of(fetch, struct fetching, fetch);

	ks_mutex_lock(&fetching->mutex);
	fetching->done = true;
	ks_cond_signal(&fetching->cond);
	ks_mutex_unlock(&fetching->mutex);
}

/* Waits for the values that the cache let go. KS_OUT_OF_RANGE: the rows of one were trimmed. */
static enum ks_status fetch_missing(struct writing *w, size_t count)
{
	struct ks_kvref *refs[RECORDS];
	struct fetching fetching = {.fetch = {.refs = refs, .done = fetch_done}};
	struct ks_committer *committer = w->api->committer;

	for (size_t i = 0; i < count; i++)
		if (ks_kvref_missing(&w->records[i].ref))
			refs[fetching.fetch.count++] = &w->records[i].ref;
	if (fetching.fetch.count == 0)
		return KS_OK;
	ks_mutex_init(&fetching.mutex);
	ks_cond_init(&fetching.cond);
	committer->ops->fetch(committer, &fetching.fetch);
	ks_mutex_lock(&fetching.mutex);
	while (!fetching.done)
		(void)ks_cond_wait(&fetching.cond, &fetching.mutex, -1);
	ks_mutex_unlock(&fetching.mutex);
	ks_cond_fini(&fetching.cond);
	ks_mutex_fini(&fetching.mutex);
	if (fetching.fetch.err.status != KS_OK)
		*w->err = fetching.fetch.err;
	return fetching.fetch.err.status;
}

static enum ks_status write_record(struct writing *w, const struct ks_store_record *record)
{
	uint8_t key[REVISION_BYTES + 1];
	struct ks_slice value = ks_bytes_slice(record->ref.encoded);
	size_t key_size = REVISION_BYTES;
	struct ks_kv kv;

	put_revision(key, record->revision, record->sub);
	if (record->is_delete) {
		key[key_size++] = 't';
		/* Ours has the mod revision behind the key, etcd's has the key alone. */
		if (ks_kv_decode(value, &kv))
			value.size = (size_t)(kv.key.data + kv.key.size - value.data);
	}
	return ks_bbolt_writer_put(w->file, ks_slice_of(key, key_size), value, w->err);
}

static enum ks_status write_keys(struct writing *w)
{
	enum ks_status status = bucket(w, "key");
	size_t count = 1;

	while (status == KS_OK && count > 0) {
		if (atomic_load_explicit(w->cancelled, memory_order_relaxed))
			return ks_fail(w->err, KS_CANCELLED, "etcdserver: the client is gone");
		status = ks_store_copy_next(w->api->store, &w->copy, w->records, RECORDS, &count, w->err);
		if (status == KS_OK)
			status = fetch_missing(w, count);
		for (size_t i = 0; i < count; i++) {
			if (status == KS_OK)
				status = write_record(w, &w->records[i]);
			ks_bytes_unref(w->records[i].ref.encoded);
		}
	}
	return status;
}

/* ---- lease ---- */

static int by_id(const void *a, const void *b)
{
	uint64_t left = (uint64_t)((const struct ks_lease_info *)a)->id;
	uint64_t right = (uint64_t)((const struct ks_lease_info *)b)->id;

	return (left > right) - (left < right);
}

/* Without the remaining time: etcd gives each lease its whole time again, too. */
static enum ks_status write_leases(struct writing *w)
{
	enum ks_status status = bucket(w, "lease");

	if (w->copy.lease_count)
		qsort(w->copy.leases, w->copy.lease_count, sizeof(*w->copy.leases), by_id);
	for (size_t i = 0; status == KS_OK && i < w->copy.lease_count; i++) {
		const struct ks_lease_info *lease = &w->copy.leases[i];
		uint8_t key[8];
		struct ks_buf value;

		ks_buf_init(&value, 64);
		ks_wire_uint(&value, 1, (uint64_t)lease->id);
		ks_wire_uint(&value, 2, (uint64_t)lease->ttl);
		put_be64(key, (uint64_t)lease->id);
		status = value.failed ? ks_fail(w->err, KS_RESOURCE_EXHAUSTED, "etcdserver: out of memory")
				      : ks_bbolt_writer_put(w->file, ks_slice_of(key, sizeof(key)),
							    ks_slice_of(value.data, value.size), w->err);
		ks_buf_fini(&value);
	}
	return status;
}

/* ---- members ---- */

/* As JSON; what is no ASCII stays, for names and URLs are UTF-8. */
static void json_text(struct ks_buf *json, struct ks_slice text)
{
	ks_buf_append(json, "\"", 1);
	for (size_t i = 0; i < text.size; i++) {
		uint8_t c = text.data[i];

		if (c == '"' || c == '\\')
			ks_buf_printf(json, "\\%c", c);
		else if (c < 0x20)
			ks_buf_printf(json, "\\u%04x", c);
		else
			ks_buf_append(json, &c, 1);
	}
	ks_buf_append(json, "\"", 1);
}

static void json_urls(struct ks_buf *json, const char *urls)
{
	ks_buf_append(json, "[", 1);
	while (*urls) {
		size_t size = strcspn(urls, ",");

		json_text(json, ks_slice_of(urls, size));
		urls += size;
		if (*urls == ',') {
			ks_buf_append(json, ",", 1);
			urls++;
		}
	}
	ks_buf_append(json, "]", 1);
}

static enum ks_status write_member(struct writing *w, const struct ks_member *member, const char *key)
{
	struct ks_buf json;
	enum ks_status status;

	ks_buf_init(&json, 1u << 20);
	ks_buf_printf(&json, "{\"id\":%" PRIu64 ",\"peerURLs\":[],\"name\":", member->id);
	json_text(&json, ks_slice_str(member->name));
	ks_buf_printf(&json, ",\"clientURLs\":");
	json_urls(&json, member->client_urls);
	ks_buf_append(&json, "}", 1);
	status = json.failed ? ks_fail(w->err, KS_RESOURCE_EXHAUSTED, "etcdserver: out of memory")
			     : put(w, key, ks_slice_of(json.data, json.size));
	ks_buf_fini(&json);
	return status;
}

static int by_hex(const void *a, const void *b)
{
	char left[20], right[20];

	(void)snprintf(left, sizeof(left), "%" PRIx64, ((const struct ks_member *)a)->id);
	(void)snprintf(right, sizeof(right), "%" PRIx64, ((const struct ks_member *)b)->id);
	return strcmp(left, right);
}

/* Restoring a snapshot replaces the members: these tell people where it came from. */
static enum ks_status write_members(struct writing *w)
{
	struct ks_committer *committer = w->api->committer;
	size_t count = 0;
	struct ks_member *members = committer->ops->members(committer, &count);
	enum ks_status status = bucket(w, "members");

	if (members)
		qsort(members, count, sizeof(*members), by_hex);
	for (size_t i = 0; members && status == KS_OK && i < count; i++) {
		char key[20];

		(void)snprintf(key, sizeof(key), "%" PRIx64, members[i].id);
		status = write_member(w, &members[i], key);
	}
	free(members);
	return status == KS_OK ? bucket(w, "members_removed") : status;
}

/* ---- meta ---- */

static enum ks_status write_meta(struct writing *w)
{
	char conf_state[64];
	enum ks_status status = bucket(w, "meta");
	int size = snprintf(conf_state, sizeof(conf_state), "{\"voters\":[%" PRIu64 "],\"auto_leave\":false}",
			    w->status.member_id);

	if (status == KS_OK)
		status = put(w, "confState", ks_slice_of(conf_state, (size_t)size));
	if (status == KS_OK)
		status = put_number(w, "consistent_index", (uint64_t)w->copy.point.position);
	if (status == KS_OK)
		status = put_compaction(w, "finishedCompactRev", w->copy.compact_done);
	if (status == KS_OK)
		status = put_compaction(w, "scheduledCompactRev", w->copy.point.compact_revision);
	if (status == KS_OK)
		status = put(w, "storageVersion", ks_slice_str(KS_ETCD_STORAGE_VERSION));
	return status == KS_OK ? put_number(w, "term", w->status.raft_term) : status;
}

/* ---- the whole ---- */

static enum ks_status write_buckets(struct writing *w, int64_t *revision)
{
	enum ks_status status = ks_store_copy_begin(w->api->store, &w->copy, w->err);

	if (status != KS_OK)
		return status;
	*revision = w->copy.point.revision;
	w->api->committer->ops->status(w->api->committer, &w->status);
	status = write_alarms(w);
	if (status == KS_OK)
		status = write_auth(w);
	if (status == KS_OK)
		status = write_cluster(w);
	if (status == KS_OK)
		status = write_keys(w);
	if (status == KS_OK)
		status = write_leases(w);
	if (status == KS_OK)
		status = write_members(w);
	if (status == KS_OK)
		status = write_meta(w);
	ks_store_copy_end(w->api->store, &w->copy);
	return status;
}

static enum ks_status write_once(struct writing *w, int fd, uint64_t *size, int64_t *revision)
{
	enum ks_status status;

	if (ftruncate(fd, 0) != 0)
		return ks_fail(w->err, KS_UNAVAILABLE, "cannot write a bbolt file: %s", strerror(errno));
	w->file = ks_bbolt_writer_new(fd, KS_BBOLT_PAGE_SIZE, w->err);
	if (!w->file)
		return w->err->status;
	status = write_buckets(w, revision);
	if (status == KS_OK)
		status = ks_bbolt_writer_finish(w->file, size, w->err);
	ks_bbolt_writer_free(w->file);
	return status;
}

/*
 * After a row was found trimmed: what it belonged to must have left the store, too, or the next attempt finds it again. The
 * compaction could not go on while we copied, and now has nothing to wait for.
 */
static void await_compaction(struct writing *w)
{
	const struct timespec pause = {.tv_nsec = 1000000L * COMPACTION_POLL_MS};
	bool done = false;

	for (int waited = 0; !done && waited < COMPACTION_MS; waited += COMPACTION_POLL_MS) {
		if (atomic_load_explicit(w->cancelled, memory_order_relaxed))
			return;
		if (ks_store_copy_begin(w->api->store, &w->copy, w->err) != KS_OK)
			return;
		done = w->copy.compact_done >= w->copy.point.compact_revision;
		ks_store_copy_end(w->api->store, &w->copy);
		if (!done)
			(void)nanosleep(&pause, NULL);
	}
}

enum ks_status ks_snapshot_file_write(struct ks_api *api, int fd, const _Atomic bool *cancelled, uint64_t *size,
				      int64_t *revision, struct ks_err *err)
{
	struct writing *w = calloc(1, sizeof(*w));
	enum ks_status status = KS_ABORTED;

	if (!w)
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "etcdserver: out of memory");
	w->api = api;
	w->cancelled = cancelled;
	w->err = err;
	/* Overtaken: the log was loaded anew, or another instance trimmed the row of a value that we still had to fetch. */
	for (int i = 0; i < ATTEMPTS_MAX && (status == KS_ABORTED || status == KS_OUT_OF_RANGE); i++) {
		if (i > 0) {
			ks_diag(KS_INFO, "snapshot", "begins again reason=\"%s\"", err->text);
			await_compaction(w);
		}
		status = write_once(w, fd, size, revision);
	}
	free(w);
	if (status == KS_ABORTED || status == KS_OUT_OF_RANGE)
		return ks_fail(err, KS_UNAVAILABLE, "etcdserver: the snapshot was overtaken too often, try again");
	return status;
}
