/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows from etcd's buckets, see restore_source.h. An entry's rows say how many they are, which only its last record tells: so
 * a second cursor runs through bucket "key" one revision ahead, and nothing has to be kept.
 */
#include "tools/restore_source.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/buf.h"
#include "bbolt/bbolt.h"
#include "log/entry.h"
#include "store/auth_codec.h"
#include "store/wire.h"

#define REVISION_BYTES 17 /* "main_sub" */
#define SMALL_BYTES 64    /* of values that are numbers */
#define USER_CREDENTIAL 15

enum phase { BEGIN, LEASES, ROLES, USERS, SWITCH, KEYS, END };

/* A cursor of bucket "key" and the record it stands on. */
struct records {
	struct ks_bbolt_cursor *cursor;
	bool some; /* there is one */
	int64_t main, sub;
	bool is_delete;
	struct ks_kv kv;
};

struct ks_restore_source {
	struct ks_bbolt *db;
	int64_t writer;
	struct ks_restore_totals totals;  /* of the whole file */
	struct ks_restore_totals running; /* of the rows given so far */
	struct ks_err err;
	/* from buckets "meta" and "auth" */
	int64_t compact_revision;
	int64_t auth_revision;
	bool auth_enabled;
	struct ks_bytes *auth_switch;
	/* where it is */
	enum phase phase;
	struct ks_bbolt_cursor *cursor; /* of the phase's bucket; NULL: there is none */
	int64_t position, revision;     /* of the last row */
	bool switch_due, compaction_due;
	struct records now, ahead;
	bool now_given;     /* the record under 'now' has had its row */
	int64_t entry_main; /* the revision of the entry that 'now' is in; 0: none yet */
	int64_t last_sub;   /* of that entry */
	bool entry_holes;   /* its records so far were not 0, 1, 2 … */
	struct ks_buf payload;
};

/* ---- small things ---- */

static int64_t get_be64(const uint8_t *from)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < 8; i++)
		value = value << 8 | from[i];
	return (int64_t)value;
}

static enum ks_status damaged(struct ks_restore_source *source, const char *what)
{
	return ks_fail(&source->err, KS_DATA_LOSS, "this is no sound database of etcd: %s", what);
}

/* *found: whether bucket and key are there; a value that is larger than 'out' is not sound. */
static enum ks_status get_small(struct ks_restore_source *source, const char *bucket, const char *key,
				uint8_t out[SMALL_BYTES], size_t *size, bool *found)
{
	struct ks_bbolt_cursor *cursor;
	struct ks_slice name, value;
	bool more = true;
	enum ks_status status = ks_bbolt_cursor_open(source->db, ks_slice_str(bucket), &cursor, &source->err);

	*found = false;
	while (status == KS_OK && more && !*found) {
		status = ks_bbolt_cursor_next(cursor, &name, &value, &more, &source->err);
		*found = status == KS_OK && more && ks_slice_eq(name, ks_slice_str(key));
	}
	if (*found && value.size > SMALL_BYTES)
		status = damaged(source, "a number is too large");
	if (*found && status == KS_OK) {
		*size = value.size;
		if (value.size)
			memcpy(out, value.data, value.size);
	}
	ks_bbolt_cursor_close(cursor);
	return status == KS_NOT_FOUND ? KS_OK : status;
}

static enum ks_status read_compaction(struct ks_restore_source *source, const char *key)
{
	uint8_t bytes[SMALL_BYTES];
	size_t size = 0;
	bool found;
	enum ks_status status = get_small(source, "meta", key, bytes, &size, &found);

	if (status != KS_OK || !found)
		return status;
	if (size < REVISION_BYTES || get_be64(bytes) < 0 || get_be64(bytes) > INT64_MAX / 2)
		return damaged(source, "its compaction has no revision");
	if (get_be64(bytes) > source->compact_revision)
		source->compact_revision = get_be64(bytes);
	return KS_OK;
}

static enum ks_status read_auth(struct ks_restore_source *source)
{
	uint8_t secret[KS_AUTH_SECRET_BYTES], bytes[SMALL_BYTES];
	size_t size = 0;
	bool found;
	enum ks_status status = get_small(source, "auth", "authEnabled", bytes, &size, &found);

	source->auth_revision = 1;
	source->auth_enabled = status == KS_OK && found && size == 1 && bytes[0] == 1;
	if (status == KS_OK)
		status = get_small(source, "auth", "authRevision", bytes, &size, &found);
	if (status != KS_OK)
		return status;
	if (found && (size != 8 || get_be64(bytes) < 0 || get_be64(bytes) > INT64_MAX / 2))
		return damaged(source, "its auth revision is no number");
	if (found && get_be64(bytes) > 1)
		source->auth_revision = get_be64(bytes);
	if (getrandom(secret, sizeof(secret), 0) != sizeof(secret))
		return ks_fail(&source->err, KS_UNAVAILABLE, "the system has no random numbers");
	source->auth_switch = ks_auth_encode_switch(source->auth_enabled, ks_slice_of(secret, sizeof(secret)));
	return source->auth_switch ? KS_OK : ks_fail(&source->err, KS_RESOURCE_EXHAUSTED, "out of memory");
}

/* ---- records ---- */

static enum ks_status records_next(struct ks_restore_source *source, struct records *records)
{
	struct ks_slice key, value;
	enum ks_status status = ks_bbolt_cursor_next(records->cursor, &key, &value, &records->some, &source->err);

	if (status != KS_OK || !records->some)
		return status;
	records->is_delete = key.size == REVISION_BYTES + 1 && key.data[REVISION_BYTES] == 't';
	if ((key.size != REVISION_BYTES && !records->is_delete) || key.data[8] != '_')
		return damaged(source, "a record has no revision");
	records->main = get_be64(key.data);
	records->sub = get_be64(key.data + 9);
	if (records->main < 2 || records->main > INT64_MAX / 2 || records->sub < 0 || records->sub >= INT32_MAX)
		return damaged(source, "the revision of a record is out of range");
	if (!ks_kv_decode(value, &records->kv) || records->kv.key.size == 0)
		return damaged(source, "a record has no key");
	if (!records->is_delete && records->kv.mod_revision != records->main)
		return damaged(source, "a record is of another revision than it says");
	return KS_OK;
}

static enum ks_status records_open(struct ks_restore_source *source, struct records *records)
{
	enum ks_status status = ks_bbolt_cursor_open(source->db, ks_slice_str("key"), &records->cursor, &source->err);

	if (status == KS_NOT_FOUND)
		return damaged(source, "it has no keys");
	return status == KS_OK ? records_next(source, records) : status;
}

/* ---- rows, by phase ---- */

static void new_entry(struct ks_restore_source *source, struct sqlb_row *row, enum ks_effect_kind kind)
{
	*row = (struct sqlb_row){
		.position = ++source->position,
		.rows = 1,
		.kind = (int16_t)kind,
		.revision = source->revision,
		.writer = source->writer,
		.batch = 1,
	};
}

static enum ks_status lease_row(struct ks_restore_source *source, struct ks_slice key, struct ks_slice value,
				struct sqlb_row *row)
{
	uint64_t id = 0, ttl = 0, number;
	unsigned field, wire;

	while (value.size) {
		if (!ks_wire_get_tag(&value, &field, &wire))
			return damaged(source, "a lease is malformed");
		if (wire == KS_WIRE_VARINT && (field == 1 || field == 2)) {
			if (!ks_wire_get_varint(&value, &number))
				return damaged(source, "a lease is malformed");
			*(field == 1 ? &id : &ttl) = number;
		} else if (!ks_wire_skip(&value, wire)) {
			return damaged(source, "a lease is malformed");
		}
	}
	if (key.size != 8 || id == 0 || get_be64(key.data) != (int64_t)id)
		return damaged(source, "a lease has another id than it says");
	new_entry(source, row, KS_EFFECT_LEASE_GRANT);
	row->lease = (int64_t)id;
	row->version = (int64_t)ttl > 0 ? (int64_t)ttl : 1;
	source->running.leases++;
	return KS_OK;
}

/* etcd's message, with a letter in front, and behind a user's what tells it from a later user of that name. */
static enum ks_status auth_row(struct ks_restore_source *source, struct ks_slice key, struct ks_slice value,
			       struct sqlb_row *row)
{
	bool is_user = source->phase == USERS;
	struct ks_auth_record record;

	ks_buf_reset(&source->payload);
	ks_buf_append(&source->payload, is_user ? "U" : "R", 1);
	ks_buf_append_slice(&source->payload, value);
	if (is_user)
		ks_wire_uint(&source->payload, USER_CREDENTIAL, source->running.users + 1);
	if (source->payload.failed)
		return ks_fail(&source->err, KS_RESOURCE_EXHAUSTED, "out of memory for a user or role");
	new_entry(source, row, KS_EFFECT_AUTH);
	row->version = source->auth_revision;
	row->payload = ks_slice_of(source->payload.data, source->payload.size);
	if (!ks_auth_decode(row->payload, &record) || !ks_slice_eq(record.name, key))
		return damaged(source, is_user ? "a user is malformed" : "a role is malformed");
	*(is_user ? &source->running.users : &source->running.roles) += 1;
	/* Each user took a change to make. */
	if (source->running.users >= (uint64_t)source->auth_revision)
		return damaged(source, "its auth revision is older than its users");
	return KS_OK;
}

static void compaction_row(struct ks_restore_source *source, struct sqlb_row *row)
{
	source->compaction_due = false;
	if (source->revision < source->compact_revision)
		source->revision = source->compact_revision;
	new_entry(source, row, KS_EFFECT_COMPACT);
	row->version = source->compact_revision;
}

/* 'now' stands on the first record of an entry: how many rows will it have? */
static enum ks_status begin_entry(struct ks_restore_source *source)
{
	enum ks_status status = KS_OK;

	source->entry_main = source->revision = source->now.main;
	source->position++;
	source->last_sub = -1;
	source->entry_holes = false;
	while (status == KS_OK && source->ahead.some && source->ahead.main == source->now.main) {
		if (source->ahead.sub <= source->last_sub)
			return damaged(source, "two records are of the same revision");
		source->entry_holes = source->entry_holes || source->ahead.sub != source->last_sub + 1;
		source->last_sub = source->ahead.sub;
		status = records_next(source, &source->ahead);
	}
	/* Only what a compaction covers may be missing. */
	if (status == KS_OK && source->entry_holes && source->now.main > source->compact_revision)
		return damaged(source, "records are missing that no compaction removed");
	return status;
}

/* The row of the record under 'now', which stays there: the row points into it. */
static void record_row(const struct ks_restore_source *source, struct sqlb_row *row)
{
	const struct ks_kv *kv = &source->now.kv;

	*row = (struct sqlb_row){
		.position = source->position,
		.sub = (int32_t)source->now.sub,
		.rows = (int32_t)source->last_sub + 1,
		.kind = source->now.is_delete ? KS_EFFECT_DELETE : KS_EFFECT_PUT,
		.revision = source->revision,
		.key = kv->key,
		.writer = source->writer,
		.batch = 1,
	};
	if (source->now.is_delete)
		return;
	row->value = kv->value.size ? kv->value : ks_slice_of("", 0);
	row->create_revision = kv->create_revision;
	row->version = kv->version;
	row->lease = kv->lease;
}

static enum ks_status key_row(struct ks_restore_source *source, struct sqlb_row *row, bool *given)
{
	enum ks_status status = KS_OK;

	if (!source->now.cursor) {
		status = records_open(source, &source->ahead);
		if (status == KS_OK)
			status = records_open(source, &source->now);
	} else if (source->now_given) {
		status = records_next(source, &source->now);
	}
	source->now_given = false;
	if (status != KS_OK)
		return status;
	if (source->compaction_due && (!source->now.some || source->now.main > source->compact_revision)) {
		compaction_row(source, row);
		*given = true;
		return KS_OK;
	}
	*given = source->now.some;
	if (!*given)
		return KS_OK;
	if (source->now.main != source->entry_main)
		status = begin_entry(source);
	record_row(source, row);
	source->now_given = true;
	source->running.records++;
	return status;
}

/* ---- the phases one after the other ---- */

static const char *const phase_buckets[] = {[LEASES] = "lease", [ROLES] = "authRoles", [USERS] = "authUsers"};

static enum ks_status next_phase(struct ks_restore_source *source)
{
	enum ks_status status = KS_OK;

	ks_bbolt_cursor_close(source->cursor);
	source->cursor = NULL;
	source->phase++;
	if (source->phase == LEASES || source->phase == ROLES || source->phase == USERS)
		status = ks_bbolt_cursor_open(source->db, ks_slice_str(phase_buckets[source->phase]), &source->cursor,
					      &source->err);
	return status == KS_NOT_FOUND ? KS_OK : status;
}

static enum ks_status bucket_row(struct ks_restore_source *source, struct sqlb_row *row, bool *given)
{
	struct ks_slice key, value;
	enum ks_status status;

	*given = false;
	if (!source->cursor)
		return KS_OK;
	status = ks_bbolt_cursor_next(source->cursor, &key, &value, given, &source->err);
	if (status != KS_OK || !*given)
		return status;
	return source->phase == LEASES ? lease_row(source, key, value, row) : auth_row(source, key, value, row);
}

/* One row of the phase that runs; *given false: it has none left. */
static enum ks_status phase_row(struct ks_restore_source *source, struct sqlb_row *row, bool *given)
{
	*given = true;
	switch (source->phase) {
	case BEGIN:
		*given = source->position == 0;
		if (*given)
			new_entry(source, row, KS_EFFECT_NOOP);
		return KS_OK;
	case LEASES:
	case ROLES:
	case USERS:
		return bucket_row(source, row, given);
	case SWITCH:
		/* Always, for the auth revision; once. */
		*given = source->switch_due;
		source->switch_due = false;
		if (*given) {
			new_entry(source, row, KS_EFFECT_AUTH);
			row->version = source->auth_revision;
			row->payload = ks_bytes_slice(source->auth_switch);
		}
		return KS_OK;
	case KEYS:
		return key_row(source, row, given);
	case END:
		break;
	}
	return KS_OK;
}

enum sqlb_next ks_restore_source_next(void *ctx, struct sqlb_row *row)
{
	struct ks_restore_source *source = ctx;
	enum ks_status status = KS_OK;
	bool given = false;

	while (status == KS_OK && source->phase != END) {
		status = phase_row(source, row, &given);
		if (status == KS_OK && given)
			status = ks_log_row_check(row, &source->err);
		if (status == KS_OK && given) {
			source->running.rows++;
			return SQLB_NEXT_ROW;
		}
		if (status == KS_OK)
			status = next_phase(source);
	}
	return status == KS_OK ? SQLB_NEXT_END : SQLB_NEXT_FAILED;
}

const struct ks_err *ks_restore_source_error(const struct ks_restore_source *source)
{
	return &source->err;
}

const struct ks_restore_totals *ks_restore_source_totals(const struct ks_restore_source *source)
{
	return &source->totals;
}

/* ---- life ---- */

static void rewind_source(struct ks_restore_source *source)
{
	ks_bbolt_cursor_close(source->cursor);
	ks_bbolt_cursor_close(source->now.cursor);
	ks_bbolt_cursor_close(source->ahead.cursor);
	source->cursor = NULL;
	source->now = source->ahead = (struct records){0};
	source->phase = BEGIN;
	source->position = 0;
	source->revision = 1;
	source->switch_due = true;
	source->compaction_due = source->compact_revision >= 0;
	source->now_given = false;
	source->entry_main = 0;
	source->running = (struct ks_restore_totals){0};
}

/* All of it once, for what it says and for its totals. */
static enum ks_status rehearse(struct ks_restore_source *source)
{
	enum sqlb_next what;
	struct sqlb_row row;

	rewind_source(source);
	while ((what = ks_restore_source_next(source, &row)) == SQLB_NEXT_ROW)
		;
	if (what == SQLB_NEXT_FAILED)
		return source->err.status;
	source->totals = source->running;
	source->totals.revision = source->revision;
	source->totals.compact_revision = source->compact_revision;
	source->totals.auth_enabled = source->auth_enabled;
	rewind_source(source);
	return KS_OK;
}

enum ks_status ks_restore_source_open(int fd, uint64_t size, int64_t writer, struct ks_restore_source **source,
				      struct ks_err *err)
{
	struct ks_restore_source *opened = calloc(1, sizeof(*opened));
	enum ks_status status;

	*source = NULL;
	if (!opened)
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
	opened->writer = writer;
	opened->compact_revision = -1;
	ks_buf_init(&opened->payload, UINT32_MAX / 4);
	status = ks_bbolt_open(fd, size, &opened->db, &opened->err);
	if (status == KS_OK)
		status = read_compaction(opened, "finishedCompactRev");
	if (status == KS_OK)
		status = read_compaction(opened, "scheduledCompactRev");
	if (status == KS_OK)
		status = read_auth(opened);
	if (status == KS_OK)
		status = rehearse(opened);
	if (status == KS_OK) {
		*source = opened;
		return KS_OK;
	}
	*err = opened->err;
	ks_restore_source_close(opened);
	return status;
}

void ks_restore_source_close(struct ks_restore_source *source)
{
	if (!source)
		return;
	ks_bbolt_cursor_close(source->cursor);
	ks_bbolt_cursor_close(source->now.cursor);
	ks_bbolt_cursor_close(source->ahead.cursor);
	ks_bbolt_close(source->db);
	ks_bytes_unref(source->auth_switch);
	ks_buf_fini(&source->payload);
	free(source);
}
