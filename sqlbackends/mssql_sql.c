/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The texts of the SQL Server backend's statements whose size depends on what they are for, with the reasons for their
 * form. Values are parameters, always; only counts make texts differ.
 *
 * Every statement goes through sp_executesql, which must end with as many open transactions as it began with (266): a
 * statement has both BEGIN and COMMIT in it, or neither.
 *
 * Lock hints are a help, never a need: Babelfish ignores them. MERGE is not used for the same reason, and for its
 * history of races. VARBINARY compares without regard to zero bytes at the end, so no statement compares keys.
 */
#include <string.h>

#include "base/panic.h"
#include "mssql_priv.h"

static void say(struct ks_buf *text, const char *words)
{
	ks_buf_append(text, words, strlen(words));
}

/* "item, item, item" */
static void say_times(struct ks_buf *text, const char *item, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (i > 0)
			say(text, ", ");
		say(text, item);
	}
}

size_t sqlb_ms_step(size_t count, size_t max)
{
	size_t step = 1;

	if (count == 0)
		return 0;
	while (step < count)
		step *= 2;
	return step < max ? step : max;
}

size_t sqlb_ms_shape_params(const struct sqlb_ms_shape *shape)
{
	return (shape->expired ? shape->expired + 1 : 0) + shape->gone + 3 * shape->fresh +
	       (shape->rows ? SQLB_MS_ROW_PARAMS * shape->rows + 6 : 0);
}

static void say_id_list(struct ks_buf *text, size_t ids)
{
	say(text, "id IN (");
	say_times(text, "?", ids);
	say(text, ")");
}

/*
 * A row with NULL as its position is a filling. The optimizer is not to sort the rows (they are in order), which it
 * does for thousands only.
 */
void sqlb_ms_text_insert(struct ks_buf *text, size_t rows)
{
	KS_ASSERT(rows > 0 && rows <= SQLB_MS_ROWS_MAX);
	say(text, "INSERT INTO kineshim_log (" SQLB_MS_ROW_COLUMNS ") SELECT " SQLB_MS_ROW_COLUMNS " FROM (VALUES ");
	say_times(text, "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows);
	say(text, ") AS v(" SQLB_MS_ROW_COLUMNS ") WHERE position IS NOT NULL");
}

/*
 * The row count is the guard: a lease that a keepalive has moved, or is moving, is not deleted, and one that was deleted
 * stays locked to the commit.
 */
static void say_expire(struct ks_buf *text, size_t ids)
{
	say(text, "DELETE FROM kineshim_lease WHERE ");
	say_id_list(text, ids);
	say(text, " AND deadline < " SQLB_MS_NOW);
}

void sqlb_ms_text_expire(struct ks_buf *text, size_t ids)
{
	say_expire(text, ids);
	say(text, "; SELECT CAST(@@ROWCOUNT AS bigint)");
}

void sqlb_ms_text_lease_drop(struct ks_buf *text, size_t ids)
{
	say(text, "DELETE FROM kineshim_lease WHERE ");
	say_id_list(text, ids);
}

static void say_lease_values(struct ks_buf *text, size_t leases)
{
	KS_ASSERT(leases > 0 && leases <= SQLB_MS_IDS_MAX);
	say(text, "INSERT INTO kineshim_lease (id, ttl_ms, deadline) SELECT v.id, v.ttl_ms, " SQLB_MS_NOW
		  " + v.ttl_ms FROM (VALUES ");
	say_times(text, "(?, ?)", leases);
	say(text, ") AS v(id, ttl_ms) WHERE v.id IS NOT NULL");
}

void sqlb_ms_text_lease_put(struct ks_buf *text, size_t leases)
{
	sqlb_ms_text_lease_drop(text, leases);
	say(text, "; ");
	say_lease_values(text, leases);
}

void sqlb_ms_text_lease_ensure(struct ks_buf *text, size_t leases)
{
	say_lease_values(text, leases);
	say(text, " AND NOT EXISTS (SELECT 1 FROM kineshim_lease AS l WHERE l.id = v.id)");
}

/*
 * The clock of a statement is read when it begins, which may be long before its locks are granted. So the rows are
 * locked first, in the order of the ids, and the clock is taken afterwards.
 */
void sqlb_ms_text_lease_touch(struct ks_buf *text, size_t ids)
{
	say(text, "SET XACT_ABORT ON; DECLARE @found int, @now bigint; BEGIN TRANSACTION; "
		  "SELECT @found = COUNT(*) FROM kineshim_lease WITH (UPDLOCK, ROWLOCK) WHERE ");
	say_id_list(text, ids);
	say(text, "; SET @now = " SQLB_MS_NOW "; UPDATE kineshim_lease SET deadline = @now + ttl_ms "
		  "OUTPUT inserted.id, inserted.ttl_ms, inserted.deadline - @now WHERE ");
	say_id_list(text, ids);
	say(text, " AND deadline >= @now; COMMIT TRANSACTION");
}

void sqlb_ms_text_lease_read(struct ks_buf *text, size_t ids)
{
	say(text, "SELECT id, ttl_ms, deadline - " SQLB_MS_NOW " FROM kineshim_lease WHERE ");
	say_id_list(text, ids);
}

/* From the places to the rows by key, whatever the statistics of a table that was empty an hour ago say. */
static void say_places(struct ks_buf *text, size_t places)
{
	KS_ASSERT(places > 0 && places <= SQLB_MS_IDS_MAX);
	say(text, "(VALUES ");
	say_times(text, "(?, ?)", places);
	say(text,
	    ") AS w(at_position, at_sub) JOIN kineshim_log AS l ON l.position = w.at_position AND l.sub = w.at_sub "
	    "OPTION (LOOP JOIN, FORCE ORDER)");
}

void sqlb_ms_text_read_at(struct ks_buf *text, size_t places)
{
	say(text, "SELECT " SQLB_MS_ROW_COLUMNS " FROM ");
	say_places(text, places);
}

void sqlb_ms_text_trim(struct ks_buf *text, size_t places)
{
	say(text, "DELETE l FROM ");
	say_places(text, places);
}

/*
 * The head is looked at twice. Before the rows are inserted: it must be the entry before the first. That alone would let
 * the append through when its position is taken and trimmed between this look and the moment when the rows meet the
 * index. So once they are in the index, and nobody else can take their positions any more, no row may be beyond them:
 * whoever took the position has left a newer head, which is never trimmed. This needs no lock but those of the rows, no
 * hint, and no other isolation than READ COMMITTED, whether that reads old versions or waits.
 */
void sqlb_ms_text_append(struct ks_buf *text, const struct sqlb_ms_shape *shape)
{
	KS_ASSERT(sqlb_ms_shape_params(shape) <= SQLB_MS_PARAMS_MAX);
	say(text, "SET XACT_ABORT ON; DECLARE @state bigint, @head bigint, @writer bigint, @batch bigint; "
		  "SET @state = 1; BEGIN TRANSACTION; ");
	if (shape->expired) {
		say_expire(text, shape->expired);
		say(text, "; IF @@ROWCOUNT <> ? SET @state = 3; ");
	}
	if (shape->gone) {
		say(text, "IF @state = 1 ");
		sqlb_ms_text_lease_drop(text, shape->gone);
		say(text, "; ");
	}
	if (shape->fresh) {
		say(text, "IF @state = 1 BEGIN ");
		sqlb_ms_text_lease_put(text, shape->fresh);
		say(text, "; END; ");
	}
	if (shape->rows) {
		say(text, "SELECT TOP (1) @head = position, @writer = writer, @batch = batch FROM kineshim_log "
			  "ORDER BY position DESC, sub DESC; IF @state = 1 AND (COALESCE(@head, 0) <> ? OR "
			  "(? <> 0 AND (@writer <> ? OR @batch <> ?))) SET @state = 2; IF @state = 1 BEGIN ");
		sqlb_ms_text_insert(text, shape->rows);
		say(text, "; IF @@ROWCOUNT <> ? SET @state = 4; ELSE IF EXISTS (SELECT 1 FROM kineshim_log "
			  "WHERE position > ?) SET @state = 2; END; ");
	}
	say(text, "IF @state = 1 COMMIT TRANSACTION; ELSE ROLLBACK TRANSACTION; SELECT @state");
}
