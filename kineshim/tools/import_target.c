/* SPDX-License-Identifier: Apache-2.0 */
/* The log that an import writes, see import_target.h. */
#include "tools/import_target.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "base/backoff.h"
#include "base/panic.h"
#include "log/entry.h"
#include "store/auth_codec.h"

#define BATCH_ROWS 4096u
#define BATCH_BYTES (4u << 20)
#define READ_BYTES (8u << 20)
#define WHOLE_LOG (SIZE_MAX / 4)
#define VALUE_CACHE_BYTES (128u << 20)
#define LEASE_CHUNK 256u
#define RETRY_MIN_MS 50
#define RETRY_MAX_MS 2000

struct ks_import_target {
	struct ks_import_target_config config;
	char name[1024];
	const struct sqlb_ops *ops;
	struct sqlb_db *db;
	struct sqlb_conn *conn;
	struct ks_import_known known; /* with what is in the batch */
	int64_t writer;
	/* the batch: entries that are not yet durable */
	struct sqlb_row *rows;
	size_t row_count, row_room;
	size_t entry_start; /* of the entry that is open */
	size_t last_start;  /* of the last one that was ended */
	size_t bytes;
	int64_t number;                    /* of the batch */
	int64_t after_writer, after_batch; /* whose the newest entry of the log is */
	struct ks_arena copies;
	bool no_memory;
	/* load */
	sqlb_next_fn *next;
	void *next_ctx;
	struct ks_err err;
};

static enum ks_status no_memory(struct ks_err *err)
{
	return ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
}

/* ---- what the log says ---- */

static struct ks_slice lease_name(const int64_t *id)
{
	return ks_slice_of(id, sizeof(*id));
}

static bool learn_key(struct ks_import_target *target, const struct sqlb_row *row)
{
	struct ks_import_thing *thing;

	if (!target->config.want_keys)
		return true;
	thing = ks_import_map_put(&target->known.map, KS_IMPORT_KEY, row->key);
	if (!thing)
		return false;
	thing->live = row->kind == KS_EFFECT_PUT;
	thing->create_revision = row->create_revision;
	thing->version = row->version;
	return true;
}

static bool learn_auth(struct ks_import_known *known, const struct sqlb_row *row)
{
	struct ks_auth_record record;
	struct ks_import_thing *thing;

	if (row->version > known->auth_revision)
		known->auth_revision = row->version;
	if (!ks_auth_decode(row->payload, &record) || record.object == KS_AUTH_SWITCH)
		return true;
	thing = ks_import_map_put(&known->map, record.object == KS_AUTH_USER ? KS_IMPORT_USER : KS_IMPORT_ROLE,
				  record.name);
	if (thing)
		thing->live = !record.gone;
	return thing != NULL;
}

static void learn_mark(struct ks_import_known *known, const struct sqlb_row *row)
{
	size_t size = row->payload.size < sizeof(known->source) ? row->payload.size : sizeof(known->source) - 1;

	known->begun = true;
	known->finished = row->version == KS_IMPORT_FINISHED;
	memcpy(known->source, row->payload.data, size);
	known->source[size] = '\0';
}

/* False without memory. */
static bool learn(struct ks_import_target *target, const struct sqlb_row *row)
{
	struct ks_import_known *known = &target->known;
	struct ks_import_thing *thing;

	known->position = row->position;
	known->revision = row->revision;
	known->bytes += row->key.size + row->value.size;
	switch ((enum ks_effect_kind)row->kind) {
	case KS_EFFECT_PUT:
		known->puts++;
		return learn_key(target, row);
	case KS_EFFECT_DELETE:
		known->deletes++;
		return learn_key(target, row);
	case KS_EFFECT_LEASE_GRANT:
	case KS_EFFECT_LEASE_REVOKE:
		thing = ks_import_map_put(&known->map, KS_IMPORT_LEASE, lease_name(&row->lease));
		if (!thing)
			return false;
		thing->live = row->kind == KS_EFFECT_LEASE_GRANT;
		thing->version = row->version;
		return true;
	case KS_EFFECT_COMPACT:
		if (row->version > known->compact_revision)
			known->compact_revision = row->version;
		return true;
	case KS_EFFECT_AUTH:
		return learn_auth(known, row);
	case KS_EFFECT_IMPORT:
		learn_mark(known, row);
		return true;
	case KS_EFFECT_NOOP:
	case KS_EFFECT_ALARM:
		return true;
	}
	return true;
}

static bool visit_learn(void *ctx, const struct sqlb_row *row)
{
	struct ks_import_target *target = ctx;

	if (ks_log_row_check(row, &target->err) != KS_OK)
		return false;
	if (!learn(target, row)) {
		(void)no_memory(&target->err);
		return false;
	}
	return true;
}

/* ---- waiting for the database ---- */

static bool given_up(const struct ks_import_target *target)
{
	return target->config.give_up && target->config.give_up();
}

/* Waits a little, and says so the first time. False: given up. */
static bool wait_for_it(const struct ks_import_target *target, struct ks_backoff *backoff, const struct ks_err *err)
{
	bool first = backoff->current_ms == 0;
	int64_t wait_ms = ks_backoff_failed(backoff);
	char text[KS_ERR_TEXT_MAX + 64];

	if (first) {
		(void)snprintf(text, sizeof(text), "the database is away, trying again: %s", err->text);
		target->config.said(text);
	}
	(void)poll(NULL, 0, (int)wait_ms);
	return !given_up(target);
}

static enum ks_status status_of(enum sqlb_outcome outcome, struct ks_err *err)
{
	if (outcome == SQLB_OK)
		return KS_OK;
	return err->status != KS_OK ? err->status : ks_fail(err, KS_UNAVAILABLE, "the database failed");
}

enum ks_status ks_import_target_read(struct ks_import_target *target, int64_t after, size_t max_bytes,
				     sqlb_row_fn *visit, void *ctx, bool *more, struct ks_err *err)
{
	return status_of(target->ops->read_rows(target->conn, after, -1, max_bytes, visit, ctx, more, err), err);
}

/* ---- opening ---- */

static enum ks_status not_empty(const struct ks_import_target *target, const struct sqlb_head *head, struct ks_err *err)
{
	return ks_fail(err, KS_FAILED_PRECONDITION,
		       "%s is not empty: its log has position %" PRId64 " and revision %" PRId64
		       "; an import needs a new database",
		       target->name, head->position, head->revision);
}

static bool visit_mark(void *ctx, const struct sqlb_row *row)
{
	bool *is_mark = ctx;

	*is_mark = row->kind == KS_EFFECT_IMPORT;
	return true;
}

/* Of a log that is not empty: is it an import, and how far did it come? */
static enum ks_status read_log(struct ks_import_target *target, const struct sqlb_head *head, struct ks_err *err)
{
	struct sqlb_loc first = {.position = 1};
	bool is_mark = false, more = true;
	enum ks_status status =
		status_of(target->ops->read_at(target->conn, &first, 1, visit_mark, &is_mark, err), err);

	if (status == KS_OK && !is_mark)
		return not_empty(target, head, err);
	while (status == KS_OK && more) {
		status = ks_import_target_read(target, target->known.position, READ_BYTES, visit_learn, target, &more,
					       err);
		if (status == KS_OK && target->err.status != KS_OK) {
			*err = target->err;
			return err->status;
		}
		if (status == KS_OK && given_up(target))
			return ks_fail(err, KS_CANCELLED, "interrupted");
	}
	if (status == KS_OK && target->known.finished)
		return ks_fail(err, KS_FAILED_PRECONDITION,
			       "%s holds an import that is finished, up to revision %" PRId64
			       "; another one needs a new database",
			       target->name, target->known.revision);
	return status;
}

static enum ks_status connect_to(struct ks_import_target *target, struct ks_err *err)
{
	const char *endpoint = target->config.options->endpoint;
	struct sqlb_head head = {0};
	uint64_t cluster_id;
	enum sqlb_outcome outcome;
	enum ks_status status;

	sqlb_url_redact(endpoint, target->name, sizeof(target->name));
	target->ops = sqlb_find(endpoint, err);
	if (!target->ops)
		return err->status;
	status = target->ops->open(endpoint, target->config.options->data_dir, &target->db, err);
	if (status != KS_OK)
		return status;
	outcome = target->ops->connect(target->db, &target->conn, err);
	if (outcome == SQLB_OK)
		outcome = target->ops->migrate(target->conn, &cluster_id, err);
	if (outcome == SQLB_OK)
		outcome = target->ops->read_head(target->conn, &head, err);
	if (outcome != SQLB_OK)
		return status_of(outcome, err);
	target->after_writer = head.writer;
	target->after_batch = head.batch;
	return head.position ? read_log(target, &head, err) : KS_OK;
}

enum ks_status ks_import_target_open(const struct ks_import_target_config *config, struct ks_import_target **target,
				     struct ks_err *err)
{
	struct ks_import_target *opened = ks_xcalloc(1, sizeof(*opened));
	enum ks_status status;

	*target = NULL;
	opened->config = *config;
	opened->known.compact_revision = -1;
	ks_import_map_init(&opened->known.map);
	ks_arena_init(&opened->copies, SIZE_MAX);
	if (getrandom(&opened->writer, sizeof(opened->writer), 0) != sizeof(opened->writer))
		status = ks_fail(err, KS_UNAVAILABLE, "the system has no random numbers");
	else
		status = connect_to(opened, err);
	if (status == KS_OK)
		*target = opened;
	else
		ks_import_target_close(opened);
	return status;
}

void ks_import_target_close(struct ks_import_target *target)
{
	if (!target)
		return;
	if (target->ops) {
		target->ops->disconnect(target->conn);
		target->ops->close(target->db);
	}
	ks_import_map_fini(&target->known.map);
	ks_arena_fini(&target->copies);
	free(target->rows);
	free(target);
}

struct ks_import_known *ks_import_target_known(struct ks_import_target *target)
{
	return &target->known;
}

const char *ks_import_target_name(const struct ks_import_target *target)
{
	return target->name;
}

int64_t ks_import_target_writer(const struct ks_import_target *target)
{
	return target->writer;
}

/* ---- the first part ---- */

static enum sqlb_next next_row(void *ctx, struct sqlb_row *row)
{
	struct ks_import_target *target = ctx;
	enum sqlb_next what;

	if (given_up(target)) {
		(void)ks_fail(&target->err, KS_CANCELLED, "interrupted");
		return SQLB_NEXT_FAILED;
	}
	what = target->next(target->next_ctx, row);
	if (what != SQLB_NEXT_ROW)
		return what;
	row->writer = target->writer;
	row->batch = 1;
	if (row->position == 1) {
		row->kind = KS_EFFECT_IMPORT;
		row->version = KS_IMPORT_BEGUN;
		row->payload = ks_slice_str(target->known.source);
	}
	if (ks_log_row_check(row, &target->err) != KS_OK)
		return SQLB_NEXT_FAILED;
	if (!learn(target, row)) {
		(void)no_memory(&target->err);
		return SQLB_NEXT_FAILED;
	}
	return SQLB_NEXT_ROW;
}

enum ks_status ks_import_target_load(struct ks_import_target *target, const char *source, sqlb_next_fn *next, void *ctx,
				     const struct ks_err *next_err, struct ks_err *err)
{
	struct sqlb_head head = {0};
	enum sqlb_outcome outcome;

	(void)snprintf(target->known.source, sizeof(target->known.source), "%s", source);
	target->next = next;
	target->next_ctx = ctx;
	outcome = target->ops->load(target->conn, next_row, target, err);
	target->number = target->after_batch = 1;
	target->after_writer = target->writer;
	if (outcome == SQLB_OK)
		return KS_OK;
	if (target->err.status != KS_OK || next_err->status != KS_OK) {
		*err = target->err.status != KS_OK ? target->err : *next_err;
		return err->status;
	}
	if (outcome == SQLB_CONFLICT && target->ops->read_head(target->conn, &head, err) == SQLB_OK)
		return not_empty(target, &head, err);
	if (outcome == SQLB_DOUBT)
		return ks_fail(err, KS_UNAVAILABLE,
			       "the database's last answer was lost; run it again, which goes on if all is there");
	return status_of(outcome, err);
}

/* ---- the parts behind it ---- */

static bool keep(struct ks_import_target *target, struct ks_slice *slice)
{
	uint8_t *copy;

	if (!slice->size)
		return true;
	copy = ks_arena_alloc(&target->copies, slice->size);
	if (!copy)
		return false;
	memcpy(copy, slice->data, slice->size);
	slice->data = copy;
	target->bytes += slice->size;
	return true;
}

void ks_import_entry_begin(struct ks_import_target *target, int64_t revision)
{
	target->entry_start = target->row_count;
	target->known.position++;
	target->known.revision = revision;
}

void ks_import_entry_add(struct ks_import_target *target, const struct sqlb_row *given)
{
	struct sqlb_row row = *given;

	if (target->row_count == target->row_room) {
		size_t room = target->row_room ? 2 * target->row_room : 256;
		struct sqlb_row *rows = reallocarray(target->rows, room, sizeof(*rows));

		if (!rows) {
			target->no_memory = true;
			return;
		}
		target->rows = rows;
		target->row_room = room;
	}
	row.position = target->known.position;
	row.revision = target->known.revision;
	row.sub = (int32_t)(target->row_count - target->entry_start);
	row.writer = target->writer;
	if (row.kind == KS_EFFECT_PUT && !row.value.size)
		row.value = ks_slice_of("", 0); /* not NULL */
	if (!keep(target, &row.key) || !keep(target, &row.value) || !keep(target, &row.payload))
		target->no_memory = true;
	target->rows[target->row_count++] = row;
}

enum ks_status ks_import_entry_end(struct ks_import_target *target, struct ks_err *err)
{
	size_t count = target->row_count - target->entry_start;

	if (target->no_memory)
		return no_memory(err);
	KS_ASSERT(count > 0);
	if (count > INT32_MAX)
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "a revision has too many changes");
	for (size_t i = target->entry_start; i < target->row_count; i++) {
		enum ks_status status;

		target->rows[i].rows = (int32_t)count;
		status = ks_log_row_check(&target->rows[i], err);
		if (status != KS_OK)
			return status;
		if (!learn(target, &target->rows[i]))
			return no_memory(err);
	}
	target->last_start = target->entry_start;
	target->entry_start = target->row_count;
	if (target->row_count >= BATCH_ROWS || target->bytes >= BATCH_BYTES)
		return ks_import_flush(target, err);
	return KS_OK;
}

enum ks_status ks_import_entry(struct ks_import_target *target, int64_t revision, const struct sqlb_row *row,
			       struct ks_err *err)
{
	ks_import_entry_begin(target, revision);
	ks_import_entry_add(target, row);
	return ks_import_entry_end(target, err);
}

/*
 * A conflict is ours when the newest entry is: an append whose answer was lost had landed, and whoever repeats it finds it there.
 * *again: nothing is there, the database preferred another transaction. Anything else was written by somebody who should not
 * be there.
 */
static enum ks_status settle(struct ks_import_target *target, const struct sqlb_append *request,
			     struct ks_backoff *backoff, bool *again, struct ks_err *err)
{
	const struct sqlb_row *first = request->rows, *last = first + request->row_count - 1;
	struct sqlb_head head;

	while (target->ops->read_head(target->conn, &head, err) != SQLB_OK)
		if (!wait_for_it(target, backoff, err))
			return ks_fail(err, KS_UNAVAILABLE, "interrupted while the database was away");
	if (head.position == last->position && head.writer == last->writer && head.batch == last->batch)
		return KS_OK;
	*again = head.position == first->position - 1 && head.writer == request->after_writer &&
		 head.batch == request->after_batch;
	if (*again)
		return KS_OK;
	if (head.position < first->position - 1)
		return ks_fail(err, KS_DATA_LOSS,
			       "%s has lost what was written: its log ends at position %" PRId64 ", not at %" PRId64
			       "; run it again to go on from there",
			       target->name, head.position, first->position - 1);
	return ks_fail(err, KS_FAILED_PRECONDITION,
		       "somebody else writes into %s: its log is at position %" PRId64 " already", target->name,
		       head.position);
}

/* Appends rows[from … to - 1], whole entries. */
static enum ks_status append(struct ks_import_target *target, size_t from, size_t to, struct ks_err *err)
{
	struct sqlb_append request = {
		.after_writer = target->after_writer,
		.after_batch = target->after_batch,
		.rows = target->rows + from,
		.row_count = to - from,
	};
	struct ks_backoff backoff;
	enum ks_status status = KS_OK;
	bool appended, again = true;

	if (from == to)
		return KS_OK;
	target->number++;
	for (size_t i = from; i < to; i++)
		target->rows[i].batch = target->number;
	ks_backoff_init(&backoff, RETRY_MIN_MS, RETRY_MAX_MS, (uint64_t)target->writer);
	while (status == KS_OK && again) {
		switch (target->ops->append(target->conn, &request, &appended, err)) {
		case SQLB_OK:
			again = false;
			break;
		case SQLB_CONFLICT:
			again = false;
			status = settle(target, &request, &backoff, &again, err);
			break;
		case SQLB_BROKEN:
			return status_of(SQLB_BROKEN, err);
		case SQLB_DOUBT: /* the same again at the same place settles it */
		case SQLB_AWAY:
			if (!wait_for_it(target, &backoff, err))
				status = ks_fail(err, KS_UNAVAILABLE, "interrupted while the database was away");
			break;
		}
	}
	target->after_writer = target->writer;
	target->after_batch = target->number;
	return status;
}

enum ks_status ks_import_flush(struct ks_import_target *target, struct ks_err *err)
{
	/* An entry of any size is fine for the databases, as long as it is alone. */
	size_t split = target->row_count > SQLB_MAX_ROWS || target->bytes > SQLB_MAX_BYTES ? target->last_start : 0;
	enum ks_status status;

	if (target->no_memory)
		return no_memory(err);
	status = append(target, 0, split, err);
	if (status == KS_OK)
		status = append(target, split, target->row_count, err);
	target->row_count = target->entry_start = target->last_start = 0;
	target->bytes = 0;
	ks_arena_fini(&target->copies);
	ks_arena_init(&target->copies, SIZE_MAX);
	return status;
}

static enum ks_status ensure(struct ks_import_target *target, const struct sqlb_lease *leases, size_t count,
			     struct ks_err *err)
{
	struct ks_backoff backoff;
	enum sqlb_outcome outcome;

	ks_backoff_init(&backoff, RETRY_MIN_MS, RETRY_MAX_MS, (uint64_t)target->writer);
	while ((outcome = target->ops->lease_ensure(target->conn, leases, count, err)) == SQLB_AWAY)
		if (!wait_for_it(target, &backoff, err))
			return ks_fail(err, KS_UNAVAILABLE, "interrupted while the database was away");
	return status_of(outcome, err);
}

/* A server makes the deadlines that are missing, but not before it serves its first clients, who may ask for their leases. */
static enum ks_status ensure_leases(struct ks_import_target *target, struct ks_err *err)
{
	struct sqlb_lease leases[LEASE_CHUNK];
	struct ks_import_thing *thing;
	struct ks_slice name;
	size_t at = 0, count = 0;
	enum ks_status status = KS_OK;

	while (status == KS_OK && (thing = ks_import_map_next(&target->known.map, KS_IMPORT_LEASE, &at, &name))) {
		leases[count] = (struct sqlb_lease){.ttl_ms = ks_log_ttl_ms(thing->version)};
		memcpy(&leases[count++].id, name.data, sizeof(leases[0].id));
		if (count == LEASE_CHUNK) {
			status = ensure(target, leases, count, err);
			count = 0;
		}
	}
	return status == KS_OK && count > 0 ? ensure(target, leases, count, err) : status;
}

enum ks_status ks_import_target_finish(struct ks_import_target *target, int64_t revision, struct ks_err *err)
{
	char source[KS_IMPORT_SOURCE_MAX];
	struct sqlb_row row = {.kind = KS_EFFECT_IMPORT, .version = KS_IMPORT_FINISHED};
	enum ks_status status;

	memcpy(source, target->known.source, sizeof(source));
	row.payload = ks_slice_str(source);
	status = ensure_leases(target, err);
	if (status == KS_OK)
		status = ks_import_entry(target, revision, &row, err);
	return status == KS_OK ? ks_import_flush(target, err) : status;
}

/* ---- the check ---- */

struct check {
	struct ks_import_target *target;
	struct ks_store *store;
	struct ks_log_builder builder;
	struct ks_err err;
};

static bool visit_check(void *ctx, const struct sqlb_row *row)
{
	struct check *check = ctx;
	struct ks_log_builder *builder = &check->builder;

	if (ks_log_row_check(row, &check->err) != KS_OK)
		return false;
	if (ks_log_builder_open(builder) && row->position != builder->entry.position &&
	    ks_store_apply(check->store, &builder->entry, &check->err) != KS_OK)
		return false;
	if (ks_log_builder_open(builder) && row->position != builder->entry.position)
		ks_log_builder_reset(builder);
	if (ks_log_builder_add(builder, row, &check->err) != KS_OK)
		return false;
	if (!ks_log_builder_ended(builder))
		return true;
	if (ks_store_apply(check->store, &builder->entry, &check->err) != KS_OK)
		return false;
	ks_log_builder_reset(builder);
	return !given_up(check->target) || ks_fail(&check->err, KS_CANCELLED, "interrupted") == KS_OK;
}

struct fetching {
	const struct ks_loc *locs;
	struct ks_bytes **out;
	size_t count;
};

static bool visit_fetch(void *ctx, const struct sqlb_row *row)
{
	struct fetching *fetching = ctx;

	for (size_t i = 0; i < fetching->count; i++)
		if (fetching->locs[i].position == row->position && fetching->locs[i].sub == row->sub &&
		    !fetching->out[i])
			fetching->out[i] = ks_log_row_encode(row);
	return true;
}

static bool fetch(void *ctx, const struct ks_loc *locs, struct ks_bytes **out, size_t count)
{
	struct ks_import_target *target = ctx;
	struct fetching fetching = {locs, out, count};
	struct sqlb_loc *wanted = calloc(count, sizeof(*wanted));
	struct ks_err err;
	bool ok = wanted != NULL;

	for (size_t i = 0; ok && i < count; i++)
		wanted[i] = (struct sqlb_loc){locs[i].position, locs[i].sub};
	ok = ok && target->ops->read_at(target->conn, wanted, count, visit_fetch, &fetching, &err) == SQLB_OK;
	free(wanted);
	return ok;
}

enum ks_status ks_import_target_check(struct ks_import_target *target, struct ks_store_stats *stats,
				      struct ks_hash_result *hash, struct ks_err *err)
{
	struct ks_store_config config = {.value_cache_bytes = VALUE_CACHE_BYTES};
	struct check check = {.target = target};
	bool more = false;
	enum ks_status status;

	check.store = ks_store_new(&config, err);
	if (!check.store)
		return err->status;
	ks_log_builder_init(&check.builder);
	ks_store_load_begin(check.store);
	status = ks_import_target_read(target, 0, WHOLE_LOG, visit_check, &check, &more, err);
	ks_log_builder_fini(&check.builder);
	if (status == KS_OK && check.err.status != KS_OK) {
		*err = check.err;
		status = err->status;
	}
	if (status == KS_OK) {
		ks_store_load_end(check.store);
		ks_store_stats(check.store, stats);
		status = ks_store_hash_kv(check.store, 0, fetch, target, hash, err);
	}
	ks_store_free(check.store);
	return status;
}
