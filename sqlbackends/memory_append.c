/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Appending: the transaction, what a fault makes of it, and loading a whole log.
 */
#include <stdlib.h>

#include "base/arena.h"
#include "memory_priv.h"

static bool all_expired(const struct mem_database *database, const int64_t *ids, size_t count, int64_t now)
{
	for (size_t i = 0; i < count; i++) {
		const struct mem_lease *lease = sqlb_mem_lease_get(database, ids[i]);

		if (!lease || lease->deadline_ms >= now)
			return false;
	}
	return true;
}

static bool follows_head(const struct mem_database *database, const struct sqlb_append *append)
{
	const struct sqlb_row *head;

	if (append->rows[0].position != sqlb_mem_head_position(database) + 1)
		return false;
	if (append->after_writer == 0 || database->row_count == 0)
		return true;
	head = &database->rows[database->row_count - 1]->row;
	return head->writer == append->after_writer && head->batch == append->after_batch;
}

enum sqlb_outcome sqlb_mem_append_locked(struct mem_database *database, const struct sqlb_append *append,
					 struct mem_row **rows, bool *appended)
{
	int64_t now = sqlb_mem_now_ms(database);

	*appended = false;
	if (append->row_count && !follows_head(database, append))
		return SQLB_CONFLICT;
	if (!all_expired(database, append->leases_expired, append->leases_expired_count, now))
		return SQLB_OK;
	if (database->row_count + append->row_count > database->row_room) {
		size_t room = 2 * database->row_room + append->row_count;
		struct mem_row **bigger = realloc(database->rows, room * sizeof(struct mem_row *));

		if (!bigger)
			return SQLB_AWAY;
		database->rows = bigger;
		database->row_room = room;
	}
	for (size_t i = 0; i < append->row_count; i++) {
		database->rows[database->row_count++] = rows[i];
		database->bytes_in_use += (int64_t)sqlb_mem_row_bytes(&rows[i]->row);
		rows[i] = NULL;
	}
	if (database->bytes_allocated < database->bytes_in_use)
		database->bytes_allocated = database->bytes_in_use;
	for (size_t i = 0; i < append->leases_gone_count; i++)
		sqlb_mem_lease_remove(database, append->leases_gone[i]);
	for (size_t i = 0; i < append->leases_expired_count; i++)
		sqlb_mem_lease_remove(database, append->leases_expired[i]);
	for (size_t i = 0; i < append->leases_new_count; i++)
		sqlb_mem_lease_put(database, append->leases_new[i].id, append->leases_new[i].ttl_ms, now);
	*appended = true;
	ks_cond_broadcast(&database->changed);
	return SQLB_OK;
}

/* ---- how appends end ---- */

enum sqlb_outcome sqlb_mem_append_end_locked(struct mem_database *database, struct mem_waiting *waiting,
					     enum sqlb_memory_fault fault, bool *appended)
{
	enum sqlb_outcome outcome = SQLB_DOUBT;

	*appended = false;
	switch (fault) {
	case SQLB_FAULT_DOUBT_LATE:
		sqlb_mem_late_add_locked(database, waiting);
		return SQLB_DOUBT;
	case SQLB_FAULT_DOUBT_DONE:
		sqlb_mem_append_locked(database, &waiting->append, waiting->rows, appended);
		*appended = false;
		break;
	case SQLB_FAULT_DOUBT_LOST:
		break;
	case SQLB_FAULT_BROKEN:
		outcome = SQLB_BROKEN;
		break;
	case SQLB_FAULT_CUT:
	case SQLB_FAULT_AWAY:
		outcome = SQLB_AWAY;
		break;
	case SQLB_FAULT_NONE:
		outcome = sqlb_mem_append_locked(database, &waiting->append, waiting->rows, appended);
		break;
	}
	sqlb_mem_waiting_free(waiting);
	return outcome;
}

enum sqlb_outcome sqlb_mem_append_outcome(const struct sqlb_conn *conn, enum sqlb_outcome outcome, const char *why,
					  struct ks_err *err)
{
	if (outcome != SQLB_OK && outcome != SQLB_CONFLICT)
		ks_fail(err, outcome == SQLB_BROKEN ? KS_DATA_LOSS : KS_UNAVAILABLE, "memory://%s: append: %s",
			conn->database->name, why);
	return outcome;
}

const char *sqlb_mem_why_of(enum sqlb_memory_fault fault)
{
	switch (fault) {
	case SQLB_FAULT_NONE:
		return "out of memory";
	case SQLB_FAULT_AWAY:
		return "injected: away";
	case SQLB_FAULT_BROKEN:
		return "injected: broken";
	default:
		return "injected: connection lost";
	}
}

/* ---- append ---- */

void sqlb_mem_check_rows(const struct sqlb_append *append)
{
	for (size_t i = 0; i < append->row_count; i++) {
		const struct sqlb_row *row = &append->rows[i];
		const struct sqlb_row *before = i ? row - 1 : NULL;
		bool begins = !before || before->sub + 1 == before->rows;

		KS_ASSERT(row->position >= 1 && row->sub < row->rows);
		KS_ASSERT(begins ? row->sub == 0 && (!before || row->position == before->position + 1)
				 : row->sub == before->sub + 1 && row->position == before->position);
	}
	KS_ASSERT(!append->row_count ||
		  append->rows[append->row_count - 1].sub + 1 == append->rows[append->row_count - 1].rows);
}

KS_NO_TSA enum sqlb_outcome sqlb_mem_append(struct sqlb_conn *conn, const struct sqlb_append *append, bool *appended,
					    struct ks_err *err)
{
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome;
	struct mem_row **rows = sqlb_mem_rows_copy(append->rows, append->row_count);

	*appended = false;
	sqlb_mem_check_rows(append);
	KS_ASSERT(!sqlb_mem_sent_oldest(conn));
	if (!rows)
		return sqlb_mem_no_memory(err);
	outcome = sqlb_mem_begin(conn, "append", &fault, err);
	if (outcome != SQLB_OK) {
		sqlb_mem_rows_free(rows, append->row_count);
		return outcome;
	}
	outcome = sqlb_mem_append_end_locked(conn->database, sqlb_mem_waiting_new(append, rows), fault, appended);
	ks_mutex_unlock(&conn->database->mutex);
	return sqlb_mem_append_outcome(conn, outcome, sqlb_mem_why_of(fault), err);
}

/* ---- load ---- */

/* All the rows at once: whoever needs bounded memory has another database. */
struct load {
	struct sqlb_row *rows;
	size_t count, room;
	struct ks_arena copies;
};

static void load_slice(struct load *load, struct ks_slice *slice)
{
	uint8_t *copy;

	if (!slice->data)
		return;
	copy = ks_arena_alloc(&load->copies, slice->size + 1);
	KS_ASSERT(copy);
	if (slice->size)
		memcpy(copy, slice->data, slice->size);
	slice->data = copy;
}

static enum sqlb_next load_rows(struct load *load, sqlb_next_fn *next, void *ctx)
{
	enum sqlb_next what;
	struct sqlb_row row;

	while ((what = next(ctx, &row)) == SQLB_NEXT_ROW) {
		load_slice(load, &row.key);
		load_slice(load, &row.value);
		load_slice(load, &row.payload);
		if (load->count == load->room) {
			struct sqlb_row *bigger = ks_xcalloc(2 * load->room + 16, sizeof(*bigger));

			if (load->count)
				memcpy(bigger, load->rows, load->count * sizeof(*bigger));
			free(load->rows);
			load->rows = bigger;
			load->room = 2 * load->room + 16;
		}
		load->rows[load->count++] = row;
	}
	return what;
}

enum sqlb_outcome sqlb_mem_load(struct sqlb_conn *conn, sqlb_next_fn *next, void *ctx, struct ks_err *err)
{
	struct load load = {0};
	enum sqlb_outcome outcome = SQLB_AWAY;
	struct sqlb_head head = {0};
	bool appended;

	ks_arena_init(&load.copies, SIZE_MAX);
	if (sqlb_memory_ops.read_head(conn, &head, err) == SQLB_OK)
		outcome = head.position ? SQLB_CONFLICT : SQLB_OK;
	if (outcome == SQLB_OK && load_rows(&load, next, ctx) == SQLB_NEXT_FAILED)
		outcome = SQLB_AWAY;
	if (outcome == SQLB_OK) {
		const struct sqlb_append append = {.rows = load.rows, .row_count = load.count};

		outcome = sqlb_mem_append(conn, &append, &appended, err);
	}
	ks_arena_fini(&load.copies);
	free(load.rows);
	return outcome;
}
