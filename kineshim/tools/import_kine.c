/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kine's table as the source of an import. One row is one revision, its id; what the rows mean:
 *
 *	name compact_rev_key            kine's own: its prev_revision is the compact revision
 *	name compact_rev_key_apiserver  what clients see as compact_rev_key, its version in front of the value: "3|value"
 *	name gap-N, deleted             nothing: a revision that no write got
 *	created / deleted               a key is born / dies; else it is changed
 *	lease                           a time to live in seconds, which kine also shows as the lease's id
 *
 * Ids may be missing: compacted rows, and writes that failed. So revisions in our log may have gaps here, which nobody can tell
 * from revisions whose rows a compaction took. At the end the log has kine's newest id as its revision, whatever row that is.
 *
 * Versions. Kine has none and shows 0, which no key of etcd can have: they are counted from the rows. A key whose first rows were
 * compacted away counts from 2, so that version 1 is always, and only, that of a key as it was created.
 *
 * Leases. For each time to live one lease with that number as its id, as kine shows it: clients that know the id from kine may go on
 * using it. They get their whole time when a server starts, as kine gives them at each of its own starts.
 *
 * Late rows. On PostgreSQL and MySQL an id is given before the row is committed, so that a row can appear below others. A missing
 * id is believed to be missing for good when it is still missing GRACE_MS after a larger one was seen: kine itself waits 1 s, and
 * then fills it or passes over it. What appears later still is found by verify.
 */
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/backoff.h"
#include "base/clock.h"
#include "base/panic.h"
#include "kine/kine.h"
#include "tools/import_source.h"

#define GRACE_MS 3000
#define POLL_MS 100
#define CHUNK_BYTES (8u << 20)

static const char internal_name[] = "compact_rev_key";
static const char api_name[] = "compact_rev_key_apiserver";

/* What a row of kine is in the log. */
struct change {
	bool any; /* else it is nothing but a revision */
	struct sqlb_row row;
	int64_t lease;
};

struct ks_import_source {
	const struct ks_import_source_config *config;
	struct ks_kine *kine;
	struct ks_import_target *target;
	struct ks_kine_head head; /* of the last snapshot */
	struct ks_err err;
	int64_t reached;
	/* the first part: where it is */
	int64_t position;
	bool compaction_due, tail_due;
	struct sqlb_row pending; /* a key's row that waits behind the grant of its lease */
	bool is_pending;
	bool over; /* there are no more rows */
	uint64_t rows_done;
	/* what follows */
	int64_t hole_ms;     /* when a missing id was first seen; 0: none is */
	int64_t hole_newest; /* the newest id of that moment */
	int64_t settled;     /* up to here what is missing stays missing */
	struct ks_backoff backoff;
	int64_t retry_at_ms;
	bool away;
};

static int64_t now_ms(void)
{
	return ks_clock_now(ks_clock_system());
}

/* ---- what a row means ---- */

static bool is_gap(const struct ks_kine_row *row)
{
	if (!row->deleted || row->name.size < 5 || memcmp(row->name.data, "gap-", 4) != 0)
		return false;
	for (size_t i = 4; i < row->name.size; i++)
		if (row->name.data[i] < '0' || row->name.data[i] > '9')
			return false;
	return true;
}

/* "3|value" is version 3 of "value"; older kines have the version alone, and show "0". */
static struct ks_slice split_version(struct ks_slice value, int64_t *version)
{
	size_t i = 0;

	*version = 0;
	for (; i < value.size && i < 18 && value.data[i] >= '0' && value.data[i] <= '9'; i++)
		*version = *version * 10 + (value.data[i] - '0');
	if (i < value.size && value.data[i] == '|')
		return ks_slice_of(value.data + i + 1, value.size - i - 1);
	return ks_slice_str("0");
}

static void read_change(const struct ks_import_known *known, const struct ks_kine_row *row, struct change *change)
{
	bool is_api = ks_slice_eq(row->name, ks_slice_str(api_name));
	struct ks_slice key = is_api ? ks_slice_str(internal_name) : row->name;
	const struct ks_import_thing *before = ks_import_map_find(&known->map, KS_IMPORT_KEY, key);
	bool live = before && before->live;
	int64_t version;

	*change = (struct change){.row = {.key = key, .revision = row->id}};
	if (ks_slice_eq(row->name, ks_slice_str(internal_name)) || is_gap(row))
		return;
	change->row.kind = row->deleted ? KS_EFFECT_DELETE : KS_EFFECT_PUT;
	/* A delete of what is not there is no change to anybody. */
	change->any = !row->deleted || live;
	if (row->deleted)
		return;
	change->row.value = row->value;
	change->row.create_revision = row->created || !row->create_revision ? row->id : row->create_revision;
	change->row.version = change->row.create_revision == row->id ? 1 : live ? before->version + 1 : 2;
	if (is_api) {
		change->row.value = split_version(row->value, &version);
		if (version > 0)
			change->row.version = version;
	}
	if (row->lease > 0)
		change->lease = change->row.lease = row->lease;
}

static bool knows_lease(const struct ks_import_known *known, int64_t id)
{
	const struct ks_import_thing *thing =
		ks_import_map_find(&known->map, KS_IMPORT_LEASE, ks_slice_of(&id, sizeof(id)));

	return thing && thing->live;
}

/* The store's first revision, 1, is that of no key. */
static enum ks_status check_change(const struct ks_import_source *source, const struct change *change,
				   struct ks_err *err)
{
	if (!change->any || change->row.revision > 1)
		return KS_OK;
	return ks_fail(
		err, KS_FAILED_PRECONDITION,
		"%s: the row with id 1 is a key, but etcd's keys begin with revision 2; write that key once more "
		"through kine, compact, and import again",
		ks_kine_place(source->kine));
}

/* ---- opening ---- */

static void kine_close(struct ks_import_source *source)
{
	if (!source)
		return;
	if (source->kine)
		ks_kine_end(source->kine);
	ks_kine_close(source->kine);
	free(source);
}

/* Is the table there, and what does it say? */
static enum ks_status look(struct ks_import_source *source, struct ks_err *err)
{
	enum ks_status status = ks_kine_begin(source->kine, INT64_MAX / 2, -1, &source->head, err);

	ks_kine_end(source->kine);
	return status;
}

static enum ks_status kine_open(const struct ks_import_source_config *config, struct ks_import_source **source,
				struct ks_err *err)
{
	struct ks_import_source *opened = ks_xcalloc(1, sizeof(*opened));
	enum ks_status status;

	*source = NULL;
	opened->config = config;
	ks_backoff_init(&opened->backoff, 100, 2000, (uint64_t)now_ms());
	status = ks_kine_open(config->url + strlen("kine://"), config->table, &opened->kine, err);
	if (status == KS_OK)
		status = look(opened, err);
	if (status == KS_OK && opened->head.newest == 0)
		status = ks_fail(err, KS_FAILED_PRECONDITION, "%s: the table %s is empty", ks_kine_place(opened->kine),
				 config->table);
	if (status == KS_OK)
		*source = opened;
	else
		kine_close(opened);
	return status;
}

static void kine_describe(const struct ks_import_source *source, char text[KS_IMPORT_SOURCE_MAX])
{
	(void)snprintf(text, KS_IMPORT_SOURCE_MAX, "kine:%.40s %.80s", source->config->table,
		       ks_kine_place(source->kine));
}

/* ---- the first part ---- */

static enum ks_status kine_begin(struct ks_import_source *source, struct ks_import_target *target, struct ks_err *err)
{
	int64_t until;
	enum ks_status status = look(source, err);

	source->target = target;
	until = source->head.newest;
	/* Transactions that are running now are over by then, so that the ids up to here have their rows or never will. */
	for (int64_t wait_ms = ks_kine_ordered(source->kine) ? 0 : GRACE_MS; status == KS_OK && wait_ms > 0;
	     wait_ms -= POLL_MS) {
		if (source->config->give_up())
			return ks_fail(err, KS_CANCELLED, "interrupted");
		(void)poll(NULL, 0, POLL_MS);
	}
	if (status == KS_OK)
		status = ks_kine_begin(source->kine, 0, until, &source->head, err);
	source->reached = until;
	source->settled = until;
	source->tail_due = true;
	source->compaction_due = source->head.compact_revision > 0;
	return status;
}

static void new_entry(struct ks_import_source *source, struct sqlb_row *row, enum ks_effect_kind kind, int64_t revision)
{
	*row = (struct sqlb_row){
		.position = ++source->position, .rows = 1, .kind = (int16_t)kind, .revision = revision};
}

/* A key's row, or the grant of its lease with the row pending. */
static void give_change(struct ks_import_source *source, const struct change *change, struct sqlb_row *row)
{
	const struct ks_import_known *known = ks_import_target_known(source->target);

	if (change->lease && !knows_lease(known, change->lease)) {
		new_entry(source, row, KS_EFFECT_LEASE_GRANT, known->revision);
		row->lease = row->version = change->lease;
		source->pending = change->row;
		source->is_pending = true;
		return;
	}
	*row = change->row;
	row->position = ++source->position;
	row->rows = 1;
}

/* Behind the last row. */
static enum sqlb_next give_end(struct ks_import_source *source, struct sqlb_row *row)
{
	const struct ks_import_known *known = ks_import_target_known(source->target);

	if (source->tail_due && known->revision < source->reached) {
		source->tail_due = false;
		new_entry(source, row, KS_EFFECT_NOOP, source->reached);
		return SQLB_NEXT_ROW;
	}
	/* A compaction behind what was read leaves holes here; they are found when what follows is read. */
	if (source->compaction_due && source->head.compact_revision <= known->revision) {
		source->compaction_due = false;
		new_entry(source, row, KS_EFFECT_COMPACT, known->revision);
		row->version = source->head.compact_revision;
		return SQLB_NEXT_ROW;
	}
	return SQLB_NEXT_END;
}

static enum sqlb_next kine_next(void *ctx, struct sqlb_row *row)
{
	struct ks_import_source *source = ctx;
	struct ks_kine_row read;
	struct change change;

	if (source->position == 0) {
		new_entry(source, row, KS_EFFECT_NOOP, 1);
		return SQLB_NEXT_ROW;
	}
	if (source->is_pending) {
		source->is_pending = false;
		*row = source->pending;
		row->position = ++source->position;
		row->rows = 1;
		return SQLB_NEXT_ROW;
	}
	while (!source->over) {
		bool more;

		if (ks_kine_next(source->kine, &read, &more, &source->err) != KS_OK)
			return SQLB_NEXT_FAILED;
		source->over = !more;
		if (source->over)
			break;
		if (++source->rows_done % 4096 == 0)
			source->config->progress("revisions", (uint64_t)read.id, (uint64_t)source->reached);
		read_change(ks_import_target_known(source->target), &read, &change);
		if (check_change(source, &change, &source->err) != KS_OK)
			return SQLB_NEXT_FAILED;
		if (!change.any)
			continue;
		give_change(source, &change, row);
		return SQLB_NEXT_ROW;
	}
	return give_end(source, row);
}

static const struct ks_err *kine_next_err(const struct ks_import_source *source)
{
	return &source->err;
}

/* ---- what follows ---- */

static enum ks_status lost_rows(const struct ks_import_source *source, struct ks_err *err)
{
	return ks_fail(err, KS_OUT_OF_RANGE,
		       "%s was compacted at revision %" PRId64 " while this import was at %" PRId64
		       ": the changes in between are gone there; import it into a new database",
		       ks_kine_place(source->kine), source->head.compact_revision, source->reached);
}

static enum ks_status check_head(const struct ks_import_source *source, struct ks_err *err)
{
	if (source->head.newest < source->reached)
		return ks_fail(
			err, KS_FAILED_PRECONDITION,
			"%s is at revision %" PRId64 ", but revision %" PRId64
			" of it was imported already: it was restored from a backup, or is another one; import it "
			"into a new database",
			ks_kine_place(source->kine), source->head.newest, source->reached);
	return source->head.compact_revision > source->reached ? lost_rows(source, err) : KS_OK;
}

static enum ks_status kine_follow(struct ks_import_source *source, struct ks_import_target *target, struct ks_err *err)
{
	const struct ks_import_known *known = ks_import_target_known(target);
	enum ks_status status;

	ks_kine_end(source->kine);
	source->target = target;
	if (source->reached < known->revision)
		source->reached = source->settled = known->revision;
	status = look(source, err);
	return status == KS_OK ? check_head(source, err) : status;
}

/* May the row with this id come now? Not while one before it may still appear. */
static bool may_come(struct ks_import_source *source, int64_t id)
{
	if (id == source->reached + 1 || id <= source->settled || ks_kine_ordered(source->kine)) {
		return true;
	}
	if (!source->hole_ms) {
		source->hole_ms = now_ms();
		source->hole_newest = source->head.newest;
	}
	if (now_ms() - source->hole_ms < GRACE_MS)
		return false;
	source->settled = source->hole_newest;
	source->hole_ms = 0;
	return id <= source->settled;
}

static enum ks_status bring_row(struct ks_import_source *source, const struct ks_kine_row *read, struct ks_err *err)
{
	const struct ks_import_known *known = ks_import_target_known(source->target);
	struct change change;
	enum ks_status status;

	read_change(known, read, &change);
	status = check_change(source, &change, err);
	if (status == KS_OK && change.lease && !knows_lease(known, change.lease)) {
		struct sqlb_row grant = {.kind = KS_EFFECT_LEASE_GRANT, .lease = change.lease, .version = change.lease};

		status = ks_import_entry(source->target, known->revision, &grant, err);
	}
	if (status == KS_OK && change.any)
		status = ks_import_entry(source->target, read->id, &change.row, err);
	source->reached = read->id;
	return status;
}

static enum ks_status bring_compaction(struct ks_import_source *source, struct ks_err *err)
{
	const struct ks_import_known *known = ks_import_target_known(source->target);
	struct sqlb_row row = {.kind = KS_EFFECT_COMPACT, .version = source->head.compact_revision};

	if (source->head.compact_revision <= 0 || source->head.compact_revision <= known->compact_revision ||
	    source->head.compact_revision > source->reached)
		return KS_OK;
	return ks_import_entry(source->target, source->reached, &row, err);
}

/* One snapshot of what is new. *quiet: there was nothing. */
static enum ks_status read_new(struct ks_import_source *source, bool *quiet, struct ks_err *err)
{
	struct ks_kine_row read;
	bool more = true, waits = false;
	enum ks_status status = ks_kine_begin(source->kine, source->reached, -1, &source->head, err);

	if (status == KS_OK)
		status = check_head(source, err);
	*quiet = true;
	while (status == KS_OK && !waits) {
		status = ks_kine_next(source->kine, &read, &more, err);
		if (status != KS_OK || !more)
			break;
		waits = !may_come(source, read.id);
		if (!waits) {
			*quiet = false;
			status = bring_row(source, &read, err);
		}
		if (status == KS_OK && source->config->give_up())
			break;
	}
	ks_kine_end(source->kine);
	if (status == KS_OK && !more)
		source->hole_ms = 0; /* there is none any more */
	return status == KS_OK ? bring_compaction(source, err) : status;
}

static bool passes(enum ks_status status)
{
	return status == KS_UNAVAILABLE;
}

static enum ks_status kine_poll(struct ks_import_source *source, struct ks_import_target *target, int wait_ms,
				struct ks_err *err)
{
	int64_t until_ms = now_ms() + wait_ms;
	char text[KS_ERR_TEXT_MAX + 64];
	enum ks_status status = KS_OK;
	bool quiet = true;

	(void)target;
	if (source->retry_at_ms <= now_ms()) {
		status = read_new(source, &quiet, err);
		if (status == KS_OK && source->away) {
			source->away = false;
			ks_backoff_succeeded(&source->backoff);
			source->config->said("the source answers again");
		}
	}
	if (status != KS_OK && passes(status)) {
		if (!source->away) {
			(void)snprintf(text, sizeof(text), "the source is away, trying again: %s", err->text);
			source->config->said(text);
		}
		source->away = true;
		source->retry_at_ms = now_ms() + ks_backoff_failed(&source->backoff);
		status = KS_OK;
	}
	while (status == KS_OK && quiet && now_ms() < until_ms && !source->config->give_up())
		(void)poll(NULL, 0, 10);
	return status;
}

static enum ks_status kine_head(struct ks_import_source *source, int64_t *newest, struct ks_err *err)
{
	enum ks_status status = look(source, err);

	*newest = source->head.newest;
	return status;
}

static int64_t kine_reached(const struct ks_import_source *source)
{
	return source->reached;
}

/* ---- the end ---- */

static enum ks_status kine_settle(struct ks_import_source *source, struct ks_import_target *target, struct ks_err *err)
{
	enum ks_status status = look(source, err);

	(void)target;
	if (status == KS_OK)
		status = check_head(source, err);
	if (status == KS_OK && source->head.newest != source->reached)
		return ks_fail(err, KS_ABORTED, "something was written meanwhile");
	return status == KS_OK ? bring_compaction(source, err) : status;
}

/* The rows of keys in our log, one after the other. */
struct walk {
	struct ks_import_target *target;
	struct sqlb_row *rows;
	size_t count, room, at;
	struct ks_arena copies;
	int64_t after;
	bool more, no_memory;
};

static bool keep(struct walk *walk, struct ks_slice *slice)
{
	uint8_t *copy;

	if (!slice->size)
		return true;
	copy = ks_arena_alloc(&walk->copies, slice->size);
	if (!copy)
		return false;
	memcpy(copy, slice->data, slice->size);
	slice->data = copy;
	return true;
}

static bool visit_walk(void *ctx, const struct sqlb_row *row)
{
	struct walk *walk = ctx;
	struct sqlb_row copy = *row;

	walk->after = row->position;
	if (row->kind != KS_EFFECT_PUT && row->kind != KS_EFFECT_DELETE)
		return true;
	if (walk->count == walk->room) {
		size_t room = walk->room ? 2 * walk->room : 256;
		struct sqlb_row *rows = reallocarray(walk->rows, room, sizeof(*rows));

		walk->no_memory = !rows;
		if (!rows)
			return false;
		walk->rows = rows;
		walk->room = room;
	}
	if (!keep(walk, &copy.key) || !keep(walk, &copy.value)) {
		walk->no_memory = true;
		return false;
	}
	walk->rows[walk->count++] = copy;
	return true;
}

/* *row NULL: there are no more. */
static enum ks_status walk_next(struct walk *walk, const struct sqlb_row **row, struct ks_err *err)
{
	*row = NULL;
	while (walk->at == walk->count && walk->more) {
		enum ks_status status;

		ks_arena_fini(&walk->copies);
		ks_arena_init(&walk->copies, SIZE_MAX);
		walk->at = walk->count = 0;
		status = ks_import_target_read(walk->target, walk->after, CHUNK_BYTES, visit_walk, walk, &walk->more,
					       err);
		if (status == KS_OK && walk->no_memory)
			status = ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
		if (status != KS_OK)
			return status;
	}
	if (walk->at < walk->count)
		*row = &walk->rows[walk->at++];
	return KS_OK;
}

static bool same_change(const struct ks_kine_row *read, const struct sqlb_row *row)
{
	bool is_api = ks_slice_eq(read->name, ks_slice_str(api_name));
	struct ks_slice key = is_api ? ks_slice_str(internal_name) : read->name, value = read->value;
	int64_t version;

	if (!ks_slice_eq(key, row->key) || read->deleted != (row->kind == KS_EFFECT_DELETE))
		return false;
	if (read->deleted)
		return true;
	if (is_api)
		value = split_version(read->value, &version);
	return ks_slice_eq(value, row->value) && row->lease == (read->lease > 0 ? read->lease : 0) &&
	       row->create_revision == (read->created || !read->create_revision ? read->id : read->create_revision);
}

static enum ks_status differs(const struct ks_import_source *source, int64_t revision, const char *how,
			      struct ks_err *err)
{
	return ks_fail(err, KS_DATA_LOSS,
		       "the two sides differ at revision %" PRId64
		       ": %s; import %s into a new database, with kine stopped",
		       revision, how, ks_kine_place(source->kine));
}

/*
 * Every row that the table has must be in our log, the same; every revision that our log has and the table has not must be
 * one that kine's compaction took.
 */
static enum ks_status compare_all(struct ks_import_source *source, struct walk *walk, uint64_t *compared,
				  struct ks_err *err)
{
	int64_t compacted = source->head.compact_revision;
	const struct sqlb_row *row = NULL;
	struct ks_kine_row read;
	bool more = true;
	enum ks_status status = walk_next(walk, &row, err);

	while (status == KS_OK) {
		status = ks_kine_next(source->kine, &read, &more, err);
		if (status != KS_OK || !more)
			break;
		if (ks_slice_eq(read.name, ks_slice_str(internal_name)) || is_gap(&read))
			continue;
		while (status == KS_OK && row && row->revision < read.id) {
			if (row->revision > compacted)
				return differs(source, row->revision, "the source has no such row any more", err);
			status = walk_next(walk, &row, err);
		}
		if (status != KS_OK)
			break;
		if (!row || row->revision != read.id) {
			if (read.deleted)
				continue; /* of what was not there */
			return differs(source, read.id, "its row appeared late, and was not imported", err);
		}
		if (!same_change(&read, row))
			return differs(source, read.id, "its row is another one", err);
		++*compared;
		status = walk_next(walk, &row, err);
	}
	for (; status == KS_OK && row; status = walk_next(walk, &row, err))
		if (row->revision > compacted)
			return differs(source, row->revision, "the source has no such row any more", err);
	return status;
}

static enum ks_status kine_verify(struct ks_import_source *source, struct ks_import_target *target,
				  const struct ks_hash_result *hash, char proof[128], struct ks_err *err)
{
	struct walk walk = {.target = target, .more = true};
	uint64_t compared = 0;
	enum ks_status status = ks_kine_begin(source->kine, 0, source->reached, &source->head, err);

	(void)hash;
	ks_arena_init(&walk.copies, SIZE_MAX);
	if (status == KS_OK && source->head.newest != source->reached)
		status = ks_fail(err, KS_ABORTED, "something was written meanwhile");
	if (status == KS_OK)
		status = compare_all(source, &walk, &compared, err);
	ks_kine_end(source->kine);
	ks_arena_fini(&walk.copies);
	free(walk.rows);
	if (status == KS_OK)
		(void)snprintf(proof, 128, "%" PRIu64 " rows compared with kine's", compared);
	return status;
}

const struct ks_import_source_ops ks_import_kine = {
	.counts_versions = true,
	.open = kine_open,
	.close = kine_close,
	.describe = kine_describe,
	.begin = kine_begin,
	.next = kine_next,
	.next_err = kine_next_err,
	.follow = kine_follow,
	.poll = kine_poll,
	.head = kine_head,
	.reached = kine_reached,
	.settle = kine_settle,
	.verify = kine_verify,
};
