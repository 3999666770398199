/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The contract of sqlb.h in RAM, with faults and a clock that tests control. The state machine is tested and simulated
 * on it, so it is as strict as the strictest database and does nothing by itself: no thread, no random number, and time
 * moves only when somebody asks for it.
 *
 * A named database is one mutex, one sorted array of immutable counted rows, and three small sorted arrays. Reads
 * collect references under the mutex (the snapshot) and call visitors without it. An append whose answer comes "late"
 * waits as a deep copy in 'late' until enough other calls have passed, and is then tried like any other.
 *
 * An append that was sent waits as a deep copy in its connection, and is tried when it is received. When the connection is
 * lost before that, its session may live on without it: then what was sent goes to 'late', in that order.
 */
#include "memory.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/list.h"
#include "base/panic.h"
#include "base/thread.h"
#include "url.h"

#define MEMBER_LINGER_MS (3600 * 1000)

struct mem_row {
	_Atomic uint32_t refs;
	struct sqlb_row row; /* its slices point into data[] */
	uint8_t data[];
};

struct mem_lease {
	int64_t id;
	int64_t ttl_ms;
	int64_t deadline_ms;
};

struct mem_member {
	struct sqlb_member member; /* its slices are malloc-ed */
	int64_t deadline_ms;
};

/* An append that the "server" still has to try. */
struct waiting_append {
	struct ks_list link;
	struct sqlb_append append;
	struct mem_row **rows;
	int calls_left; /* of a late one */
	bool looked_at; /* of a sent one: append_receive said pending, or might have */
	bool told;      /* of a sent one: its outcome is known to the caller, so that it is not received */
};

struct database {
	struct database *next;
	char *name;
	unsigned refs; /* opens, plus one until it is forgotten; under 'all.mutex' */

	struct ks_mutex mutex; /* guards the rest */
	struct ks_cond changed;
	struct ks_clock *clock;
	sqlb_memory_fault_fn *fault;
	void *fault_ctx;
	int late_calls;
	struct ks_list late;
	uint64_t cuts;   /* how often all connections were cut */
	uint64_t behind; /* how many appends lost their connection while they were on their way */

	struct mem_row **rows;
	size_t row_count, row_room;
	int64_t bytes_in_use, bytes_allocated;
	struct mem_lease *leases; /* by id */
	size_t lease_count, lease_room;
	struct mem_member *members; /* by id */
	size_t member_count;
	int64_t duty_holder, duty_term, duty_deadline_ms;
};

struct sqlb_db {
	struct database *database;
};

struct sqlb_conn {
	struct database *database;
	bool connected;
	uint64_t cuts_seen;
	bool cancelled;      /* under database->mutex */
	struct ks_list sent; /* appends on their way, oldest first */
	bool sent_are_lost;  /* with the connection: each is received with DOUBT, and only then is there a new one */
};

static struct {
	pthread_mutex_t mutex;
	struct database *first;
} all = {.mutex = PTHREAD_MUTEX_INITIALIZER};

/* ---- databases by name ---- */

static struct database *database_new(const char *name)
{
	struct database *database = ks_xcalloc(1, sizeof(*database));

	database->name = ks_xstrdup(name);
	database->refs = 1;
	ks_mutex_init(&database->mutex);
	ks_cond_init(&database->changed);
	database->clock = ks_clock_system();
	ks_list_init(&database->late);
	database->duty_term = 1;
	return database;
}

static struct database *database_get(const char *name, bool count)
{
	struct database *database;

	pthread_mutex_lock(&all.mutex);
	for (database = all.first; database && strcmp(database->name, name) != 0; database = database->next)
		;
	if (!database) {
		database = database_new(name);
		database->next = all.first;
		all.first = database;
	}
	database->refs += count;
	pthread_mutex_unlock(&all.mutex);
	return database;
}

static void row_unref(struct mem_row *row)
{
	if (row && atomic_fetch_sub_explicit(&row->refs, 1, memory_order_acq_rel) == 1)
		free(row);
}

static struct mem_row *row_ref(struct mem_row *row)
{
	atomic_fetch_add_explicit(&row->refs, 1, memory_order_relaxed);
	return row;
}

static void rows_free(struct mem_row **rows, size_t count)
{
	for (size_t i = 0; i < count; i++)
		row_unref(rows[i]);
	free(rows);
}

static void waiting_free(struct waiting_append *waiting)
{
	rows_free(waiting->rows, waiting->append.row_count);
	free((void *)waiting->append.leases_new);
	free((void *)waiting->append.leases_gone);
	free((void *)waiting->append.leases_expired);
	free(waiting);
}

static void member_clear(struct mem_member *member)
{
	free((void *)member->member.name.data);
	free((void *)member->member.client_urls.data);
}

static void database_unref(struct database *database)
{
	unsigned refs;
	struct ks_list *link;

	pthread_mutex_lock(&all.mutex);
	refs = --database->refs;
	pthread_mutex_unlock(&all.mutex);
	if (refs)
		return;
	while ((link = ks_list_pop(&database->late)))
		waiting_free(ks_container_of(link, struct waiting_append, link));
	rows_free(database->rows, database->row_count);
	for (size_t i = 0; i < database->member_count; i++)
		member_clear(&database->members[i]);
	free(database->members);
	free(database->leases);
	ks_cond_fini(&database->changed);
	ks_mutex_fini(&database->mutex);
	free(database->name);
	free(database);
}

static int64_t now_ms(struct database *database)
{
	return ks_clock_now(database->clock);
}

/* ---- the table ---- */

static struct ks_slice copy_into(uint8_t **at, struct ks_slice from)
{
	struct ks_slice copy = {.data = from.data ? *at : NULL, .size = from.data ? from.size : 0};

	if (copy.size)
		memcpy(*at, from.data, copy.size);
	*at += copy.size;
	return copy;
}

static size_t row_bytes(const struct sqlb_row *row)
{
	return row->key.size + row->value.size + row->payload.size;
}

static struct mem_row *row_copy(const struct sqlb_row *from)
{
	/* One byte more, so that an empty slice at the end still points into the row. */
	struct mem_row *row = malloc(sizeof(*row) + row_bytes(from) + 1);
	uint8_t *at;

	if (!row)
		return NULL;
	at = row->data;
	atomic_init(&row->refs, 1);
	row->row = *from;
	row->row.key = copy_into(&at, from->key);
	row->row.value = copy_into(&at, from->value);
	row->row.payload = copy_into(&at, from->payload);
	return row;
}

static struct mem_row **rows_copy(const struct sqlb_row *rows, size_t count)
{
	struct mem_row **copies = calloc(count ? count : 1, sizeof(struct mem_row *));

	for (size_t i = 0; copies && i < count; i++) {
		copies[i] = row_copy(&rows[i]);
		if (!copies[i]) {
			rows_free(copies, i);
			return NULL;
		}
	}
	return copies;
}

static int64_t head_position(const struct database *database)
{
	return database->row_count ? database->rows[database->row_count - 1]->row.position : 0;
}

/* The index of the first row at or behind (position, sub). */
static size_t row_find(const struct database *database, int64_t position, int32_t sub)
{
	size_t low = 0, high = database->row_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct sqlb_row *row = &database->rows[middle]->row;

		if (row->position < position || (row->position == position && row->sub < sub))
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool row_at(const struct database *database, size_t index, const struct sqlb_loc *loc)
{
	return index < database->row_count && database->rows[index]->row.position == loc->position &&
	       database->rows[index]->row.sub == loc->sub;
}

/* ---- leases ---- */

static size_t lease_slot(const struct database *database, int64_t id)
{
	size_t low = 0, high = database->lease_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (database->leases[middle].id < id)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static struct mem_lease *lease_get(const struct database *database, int64_t id)
{
	size_t slot = lease_slot(database, id);

	return slot < database->lease_count && database->leases[slot].id == id ? &database->leases[slot] : NULL;
}

static void lease_put(struct database *database, int64_t id, int64_t ttl_ms, int64_t now)
{
	struct mem_lease *lease = lease_get(database, id);
	size_t slot = lease_slot(database, id);

	if (!lease) {
		if (database->lease_count == database->lease_room) {
			database->lease_room = database->lease_room ? 2 * database->lease_room : 16;
			database->leases =
				ks_xrealloc(database->leases, database->lease_room * sizeof(*database->leases));
		}
		lease = &database->leases[slot];
		memmove(lease + 1, lease, (database->lease_count - slot) * sizeof(*lease));
		database->lease_count++;
	}
	*lease = (struct mem_lease){.id = id, .ttl_ms = ttl_ms, .deadline_ms = now + ttl_ms};
}

static void lease_remove(struct database *database, int64_t id)
{
	struct mem_lease *lease = lease_get(database, id);

	if (!lease)
		return;
	database->lease_count--;
	memmove(lease, lease + 1, (size_t)(&database->leases[database->lease_count] - lease) * sizeof(*lease));
}

/* ---- append ---- */

static bool all_expired(const struct database *database, const int64_t *ids, size_t count, int64_t now)
{
	for (size_t i = 0; i < count; i++) {
		const struct mem_lease *lease = lease_get(database, ids[i]);

		if (!lease || lease->deadline_ms >= now)
			return false;
	}
	return true;
}

static bool follows_head(const struct database *database, const struct sqlb_append *append)
{
	const struct sqlb_row *head;

	if (append->rows[0].position != head_position(database) + 1)
		return false;
	if (append->after_writer == 0 || database->row_count == 0)
		return true;
	head = &database->rows[database->row_count - 1]->row;
	return head->writer == append->after_writer && head->batch == append->after_batch;
}

/* The transaction. Takes the references in 'rows' when it is OK and appended. */
static enum sqlb_outcome append_locked(struct database *database, const struct sqlb_append *append,
				       struct mem_row **rows, bool *appended)
{
	int64_t now = now_ms(database);

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
		database->bytes_in_use += (int64_t)row_bytes(&rows[i]->row);
		rows[i] = NULL;
	}
	if (database->bytes_allocated < database->bytes_in_use)
		database->bytes_allocated = database->bytes_in_use;
	for (size_t i = 0; i < append->leases_gone_count; i++)
		lease_remove(database, append->leases_gone[i]);
	for (size_t i = 0; i < append->leases_expired_count; i++)
		lease_remove(database, append->leases_expired[i]);
	for (size_t i = 0; i < append->leases_new_count; i++)
		lease_put(database, append->leases_new[i].id, append->leases_new[i].ttl_ms, now);
	*appended = true;
	ks_cond_broadcast(&database->changed);
	return SQLB_OK;
}

static void *array_copy(const void *from, size_t count, size_t size)
{
	void *copy = ks_xcalloc(count ? count : 1, size);

	if (count)
		memcpy(copy, from, count * size);
	return copy;
}

/* Takes 'rows'. */
static struct waiting_append *waiting_new(const struct sqlb_append *append, struct mem_row **rows)
{
	struct waiting_append *waiting = ks_xcalloc(1, sizeof(*waiting));
	struct sqlb_append *copy = &waiting->append;

	*copy = *append;
	copy->leases_new = array_copy(append->leases_new, append->leases_new_count, sizeof(*append->leases_new));
	copy->leases_gone = array_copy(append->leases_gone, append->leases_gone_count, sizeof(*append->leases_gone));
	copy->leases_expired =
		array_copy(append->leases_expired, append->leases_expired_count, sizeof(*append->leases_expired));
	copy->rows = append->row_count ? &rows[0]->row : NULL; /* only its first position is looked at */
	waiting->rows = rows;
	return waiting;
}

/* Takes 'late'; a server that is no more does not try it. Never before those that are late already: they may be of the same session. */
static void late_add_locked(struct database *database, struct waiting_append *late)
{
	if (database->late_calls < 0) {
		waiting_free(late);
		return;
	}
	late->calls_left = database->late_calls;
	if (!ks_list_empty(&database->late)) {
		const struct waiting_append *last = ks_container_of(database->late.prev, struct waiting_append, link);

		late->calls_left = last->calls_left > late->calls_left ? last->calls_left : late->calls_left;
	}
	ks_list_append(&database->late, &late->link);
}

/* A call goes by: late appends come nearer, and those that are due are tried. */
static void late_step_locked(struct database *database)
{
	struct ks_list *link = database->late.next;

	while (link != &database->late) {
		struct waiting_append *late = ks_container_of(link, struct waiting_append, link);
		bool appended;

		link = link->next;
		if (late->calls_left-- > 0)
			continue;
		ks_list_remove(&late->link);
		append_locked(database, &late->append, late->rows, &appended);
		waiting_free(late);
	}
}

/* ---- how every call begins ---- */

static enum sqlb_memory_fault ask(struct sqlb_conn *conn, const char *op)
{
	struct database *database = conn->database;
	sqlb_memory_fault_fn *fault;
	void *ctx;

	ks_mutex_lock(&database->mutex);
	fault = database->fault;
	ctx = database->fault_ctx;
	ks_mutex_unlock(&database->mutex);
	return fault ? fault(ctx, op, conn) : SQLB_FAULT_NONE;
}

static bool is_cut_locked(const struct sqlb_conn *conn)
{
	return conn->connected && conn->cuts_seen != conn->database->cuts;
}

/*
 * Locks the database and lets a call begin, or leaves it unlocked and says why not. Calls that cannot do what a fault
 * asks for do what comes nearest: those other than append may be done or not before their AWAY. (Clang's analysis cannot
 * follow a lock that depends on the result, hence KS_NO_TSA here and in those who unlock themselves.)
 */
KS_NO_TSA static enum sqlb_outcome begin(struct sqlb_conn *conn, const char *op, enum sqlb_memory_fault *fault,
					 struct ks_err *err)
{
	struct database *database = conn->database;
	bool cut;

	*fault = ask(conn, op);
	ks_mutex_lock(&database->mutex);
	late_step_locked(database);
	cut = is_cut_locked(conn);
	conn->connected = true;
	if (ks_list_empty(&conn->sent)) /* else append_receive has yet to see it */
		conn->cuts_seen = database->cuts;
	if (!cut && *fault != SQLB_FAULT_AWAY && *fault != SQLB_FAULT_BROKEN)
		return SQLB_OK;
	ks_mutex_unlock(&database->mutex);
	if (!cut && *fault == SQLB_FAULT_BROKEN) {
		ks_fail(err, KS_DATA_LOSS, "memory://%s: %s: injected: broken", database->name, op);
		return SQLB_BROKEN;
	}
	ks_fail(err, KS_UNAVAILABLE, "memory://%s: %s: %s", database->name, op,
		cut ? "connection cut" : "injected: away");
	return SQLB_AWAY;
}

/* For the writing calls other than append: true when the fault says that nothing shall happen. */
static bool lost_before(enum sqlb_memory_fault fault)
{
	return fault == SQLB_FAULT_DOUBT_LOST || fault == SQLB_FAULT_DOUBT_LATE || fault == SQLB_FAULT_CUT;
}

KS_NO_TSA static enum sqlb_outcome end(struct sqlb_conn *conn, const char *op, enum sqlb_memory_fault fault,
				       struct ks_err *err)
{
	ks_mutex_unlock(&conn->database->mutex);
	if (fault == SQLB_FAULT_NONE)
		return SQLB_OK;
	ks_fail(err, KS_UNAVAILABLE, "memory://%s: %s: injected: connection lost", conn->database->name, op);
	return SQLB_AWAY;
}

static enum sqlb_outcome no_memory(struct ks_err *err)
{
	ks_fail(err, KS_RESOURCE_EXHAUSTED, "memory backend: out of memory");
	return SQLB_AWAY;
}

/* ---- how appends end, and those on their way ---- */

/* Tries 'waiting', or not, as the fault says, and takes it. */
static enum sqlb_outcome append_end_locked(struct database *database, struct waiting_append *waiting,
					   enum sqlb_memory_fault fault, bool *appended)
{
	enum sqlb_outcome outcome = SQLB_DOUBT;

	*appended = false;
	switch (fault) {
	case SQLB_FAULT_DOUBT_LATE:
		late_add_locked(database, waiting);
		return SQLB_DOUBT;
	case SQLB_FAULT_DOUBT_DONE:
		append_locked(database, &waiting->append, waiting->rows, appended);
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
		outcome = append_locked(database, &waiting->append, waiting->rows, appended);
		break;
	}
	waiting_free(waiting);
	return outcome;
}

static enum sqlb_outcome append_outcome(const struct sqlb_conn *conn, enum sqlb_outcome outcome, const char *why,
					struct ks_err *err)
{
	if (outcome != SQLB_OK && outcome != SQLB_CONFLICT)
		ks_fail(err, outcome == SQLB_BROKEN ? KS_DATA_LOSS : KS_UNAVAILABLE, "memory://%s: append: %s",
			conn->database->name, why);
	return outcome;
}

static const char *why_of(enum sqlb_memory_fault fault)
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

static bool loses_connection(enum sqlb_memory_fault fault)
{
	return fault != SQLB_FAULT_NONE && fault != SQLB_FAULT_AWAY && fault != SQLB_FAULT_BROKEN;
}

static struct waiting_append *sent_oldest(const struct sqlb_conn *conn)
{
	return ks_list_empty(&conn->sent) ? NULL : ks_container_of(conn->sent.next, struct waiting_append, link);
}

static int sent_count(const struct sqlb_conn *conn)
{
	int count = 0;

	for (const struct ks_list *link = conn->sent.next; link != &conn->sent; link = link->next)
		count++;
	return count;
}

/*
 * What becomes of the oldest one on its way when its connection was lost: by turns nothing, and a late try, if 'fault' does
 * not choose. A cut connection led to a server whose log is not this one any more.
 */
static void sent_lose_locked(struct sqlb_conn *conn, enum sqlb_memory_fault fault)
{
	struct waiting_append *sent = sent_oldest(conn);
	bool late = fault == SQLB_FAULT_NONE ? conn->database->behind++ % 2 == 1
					     : fault == SQLB_FAULT_DOUBT_LATE || fault == SQLB_FAULT_DOUBT_DONE;

	ks_list_remove(&sent->link);
	if (late && !is_cut_locked(conn))
		late_add_locked(conn->database, sent);
	else
		waiting_free(sent);
}

/* The connection is lost; there is a new one when nothing is left to be received from this one. */
static void sent_lost_locked(struct sqlb_conn *conn)
{
	struct waiting_append *oldest = sent_oldest(conn);

	if (oldest && oldest->told) { /* it was the last one */
		sent_lose_locked(conn, SQLB_FAULT_DOUBT_LATE);
		oldest = NULL;
	}
	conn->sent_are_lost = oldest != NULL;
	if (!oldest)
		conn->cuts_seen = conn->database->cuts;
}

/* ---- sqlb_ops, in the order of the vtable ---- */

static enum ks_status memory_open(const char *url, const char *data_dir, struct sqlb_db **db, struct ks_err *err)
{
	char scheme[16];
	const char *name;

	(void)data_dir;
	*db = NULL;
	if (!sqlb_url_scheme(url, scheme, sizeof(scheme), &name) || strcmp(scheme, "memory") != 0)
		return ks_fail(err, KS_INVALID_ARGUMENT, "this endpoint must look like memory://NAME");
	*db = ks_xcalloc(1, sizeof(**db));
	(*db)->database = database_get(name, true);
	return KS_OK;
}

static void memory_close(struct sqlb_db *db)
{
	if (!db)
		return;
	database_unref(db->database);
	free(db);
}

static enum sqlb_outcome memory_connect(struct sqlb_db *db, struct sqlb_conn **conn, struct ks_err *err)
{
	*conn = calloc(1, sizeof(**conn));
	if (!*conn)
		return no_memory(err);
	(*conn)->database = db->database;
	ks_list_init(&(*conn)->sent);
	return SQLB_OK;
}

static void memory_disconnect(struct sqlb_conn *conn)
{
	if (!conn)
		return;
	ks_mutex_lock(&conn->database->mutex);
	while (!ks_list_empty(&conn->sent))
		sent_lose_locked(conn, SQLB_FAULT_NONE);
	ks_mutex_unlock(&conn->database->mutex);
	free(conn);
}

static enum sqlb_outcome memory_migrate(struct sqlb_conn *conn, uint64_t *cluster_id, struct ks_err *err)
{
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = begin(conn, "migrate", &fault, err);
	uint64_t hash = 14695981039346656037u; /* FNV-1a of the name: the same in every run */

	if (outcome != SQLB_OK)
		return outcome;
	for (const char *p = conn->database->name; *p; p++)
		hash = (hash ^ (uint8_t)*p) * 1099511628211u;
	*cluster_id = hash ? hash : 1;
	return end(conn, "migrate", fault, err);
}

/* Rows come in order, in whole entries, and positions without a gap: anything else is a bug of the caller's. */
static void check_rows(const struct sqlb_append *append)
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

KS_NO_TSA static enum sqlb_outcome memory_append(struct sqlb_conn *conn, const struct sqlb_append *append,
						 bool *appended, struct ks_err *err)
{
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome;
	struct mem_row **rows = rows_copy(append->rows, append->row_count);

	*appended = false;
	check_rows(append);
	KS_ASSERT(!sent_oldest(conn));
	if (!rows)
		return no_memory(err);
	outcome = begin(conn, "append", &fault, err);
	if (outcome != SQLB_OK) {
		rows_free(rows, append->row_count);
		return outcome;
	}
	outcome = append_end_locked(conn->database, waiting_new(append, rows), fault, appended);
	ks_mutex_unlock(&conn->database->mutex);
	return append_outcome(conn, outcome, why_of(fault), err);
}

/* Takes 'sent'. A fault that loses the connection leaves what is before it in doubt, and itself behind that. */
static enum sqlb_outcome send_locked(struct sqlb_conn *conn, struct waiting_append *sent, enum sqlb_memory_fault fault)
{
	bool appended;

	if (!loses_connection(fault)) {
		ks_list_append(&conn->sent, &sent->link);
		return SQLB_OK;
	}
	if (!sent_oldest(conn))
		return append_end_locked(conn->database, sent, fault, &appended);
	conn->sent_are_lost = true;
	if (fault == SQLB_FAULT_DOUBT_LOST || fault == SQLB_FAULT_CUT) {
		waiting_free(sent);
	} else {
		sent->told = true;
		ks_list_append(&conn->sent, &sent->link);
	}
	return fault == SQLB_FAULT_CUT ? SQLB_AWAY : SQLB_DOUBT;
}

KS_NO_TSA static enum sqlb_outcome memory_append_send(struct sqlb_conn *conn, const struct sqlb_append *append,
						      struct ks_err *err)
{
	struct database *database = conn->database;
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome;
	struct mem_row **rows;

	if (append->leases_expired_count) {
		ks_fail(err, KS_UNIMPLEMENTED, "memory://%s: a guarded append is not sent ahead", database->name);
		return SQLB_AWAY;
	}
	check_rows(append);
	if (conn->sent_are_lost)
		return append_outcome(conn, SQLB_AWAY, "connection lost", err);
	KS_ASSERT(sent_count(conn) < SQLB_SENT_MAX);
	rows = rows_copy(append->rows, append->row_count);
	if (!rows)
		return no_memory(err);
	outcome = begin(conn, "append_send", &fault, err);
	if (outcome != SQLB_OK) {
		rows_free(rows, append->row_count);
		return outcome;
	}
	outcome = send_locked(conn, waiting_new(append, rows), fault);
	ks_mutex_unlock(&database->mutex);
	return append_outcome(conn, outcome, why_of(fault), err);
}

KS_NO_TSA static enum sqlb_outcome memory_append_receive(struct sqlb_conn *conn, int wait_ms, bool *pending,
							 bool *appended, struct ks_err *err)
{
	struct database *database = conn->database;
	struct waiting_append *sent = sent_oldest(conn);
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = SQLB_DOUBT;
	const char *why = "connection lost";

	KS_ASSERT(sent);
	*appended = false;
	*pending = wait_ms >= 0 && !sent->looked_at && (wait_ms == 0 || ask(conn, "append_receive") != SQLB_FAULT_NONE);
	sent->looked_at = true;
	if (*pending)
		return SQLB_OK;
	fault = ask(conn, "append");
	ks_mutex_lock(&database->mutex);
	late_step_locked(database);
	if (conn->sent_are_lost || is_cut_locked(conn)) {
		sent_lose_locked(conn, fault);
		sent_lost_locked(conn);
	} else {
		ks_list_remove(&sent->link);
		outcome = append_end_locked(database, sent, fault, appended);
		if (loses_connection(fault))
			sent_lost_locked(conn);
		why = why_of(fault);
	}
	ks_mutex_unlock(&database->mutex);
	return append_outcome(conn, outcome, why, err);
}

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

static enum sqlb_outcome memory_load(struct sqlb_conn *conn, sqlb_next_fn *next, void *ctx, struct ks_err *err)
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

		outcome = memory_append(conn, &append, &appended, err);
	}
	ks_arena_fini(&load.copies);
	free(load.rows);
	return outcome;
}

static enum sqlb_outcome memory_read_head(struct sqlb_conn *conn, struct sqlb_head *head, struct ks_err *err)
{
	const struct database *database = conn->database;
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = begin(conn, "read_head", &fault, err);

	if (outcome != SQLB_OK)
		return outcome;
	*head = (struct sqlb_head){0};
	if (database->row_count) {
		const struct sqlb_row *row = &database->rows[database->row_count - 1]->row;

		*head = (struct sqlb_head){.position = row->position,
					   .revision = row->revision,
					   .writer = row->writer,
					   .batch = row->batch};
	}
	return end(conn, "read_head", fault, err);
}

/* Visits without the mutex and drops the references. A cut connection shows the first half of the rows. */
static enum sqlb_outcome visit_rows(struct sqlb_conn *conn, const char *op, struct mem_row **rows, size_t count,
				    enum sqlb_memory_fault fault, sqlb_row_fn *visit, void *ctx, bool *stopped,
				    struct ks_err *err)
{
	size_t shown = fault == SQLB_FAULT_NONE ? count : count / 2;
	bool go_on = true;

	for (size_t i = 0; i < shown && go_on; i++)
		go_on = visit(ctx, &rows[i]->row);
	rows_free(rows, count);
	*stopped = !go_on;
	if (fault == SQLB_FAULT_NONE || !go_on)
		return SQLB_OK;
	ks_fail(err, KS_UNAVAILABLE, "memory://%s: %s: injected: connection lost", conn->database->name, op);
	return SQLB_AWAY;
}

KS_NO_TSA static enum sqlb_outcome memory_read_rows(struct sqlb_conn *conn, int64_t after, int64_t to, size_t max_bytes,
						    sqlb_row_fn *visit, void *ctx, bool *more, struct ks_err *err)
{
	struct database *database = conn->database;
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = begin(conn, "read_rows", &fault, err);
	size_t first, limit, past, bytes = 0;
	struct mem_row **rows;
	bool left, stopped;

	if (outcome != SQLB_OK)
		return outcome;
	first = after == INT64_MAX ? database->row_count : row_find(database, after + 1, INT32_MIN);
	limit = to < 0 || to == INT64_MAX ? database->row_count : row_find(database, to + 1, INT32_MIN);
	for (past = first; past < limit; past++) {
		const struct sqlb_row *row = &database->rows[past]->row;

		if (past > first && bytes >= max_bytes && database->rows[past - 1]->row.position != row->position)
			break;
		bytes += row_bytes(row);
	}
	left = past < limit;
	rows = calloc(past > first ? past - first : 1, sizeof(struct mem_row *));
	for (size_t i = first; rows && i < past; i++)
		rows[i - first] = row_ref(database->rows[i]);
	ks_mutex_unlock(&database->mutex);
	if (!rows)
		return no_memory(err);
	outcome =
		visit_rows(conn, "read_rows", rows, past > first ? past - first : 0, fault, visit, ctx, &stopped, err);
	*more = left || stopped;
	return outcome;
}

KS_NO_TSA static enum sqlb_outcome memory_read_at(struct sqlb_conn *conn, const struct sqlb_loc *locs, size_t count,
						  sqlb_row_fn *visit, void *ctx, struct ks_err *err)
{
	struct database *database = conn->database;
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = begin(conn, "read_at", &fault, err);
	struct mem_row **rows;
	size_t found = 0;
	bool stopped;

	if (outcome != SQLB_OK)
		return outcome;
	rows = calloc(count ? count : 1, sizeof(struct mem_row *));
	for (size_t i = 0; rows && i < count; i++) {
		size_t index = row_find(database, locs[i].position, locs[i].sub);

		if (row_at(database, index, &locs[i]))
			rows[found++] = row_ref(database->rows[index]);
	}
	ks_mutex_unlock(&database->mutex);
	if (!rows)
		return no_memory(err);
	return visit_rows(conn, "read_at", rows, found, fault, visit, ctx, &stopped, err);
}

static enum sqlb_outcome memory_trim(struct sqlb_conn *conn, const struct sqlb_loc *locs, size_t count,
				     struct ks_err *err)
{
	struct database *database = conn->database;
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = begin(conn, "trim", &fault, err);
	size_t kept, lowest;
	char *gone;

	if (outcome != SQLB_OK)
		return outcome;
	lowest = database->row_count;
	gone = ks_xcalloc(database->row_count + 1, 1); /* first all are found by a search in the whole array */
	for (size_t i = 0; i < count && !lost_before(fault); i++) {
		size_t index = row_find(database, locs[i].position, locs[i].sub);

		if (!row_at(database, index, &locs[i]))
			continue;
		gone[index] = 1;
		lowest = index < lowest ? index : lowest;
	}
	kept = lowest;
	for (size_t i = lowest; i < database->row_count; i++) {
		if (!gone[i]) {
			database->rows[kept++] = database->rows[i];
			continue;
		}
		database->bytes_in_use -= (int64_t)row_bytes(&database->rows[i]->row);
		row_unref(database->rows[i]);
	}
	database->row_count = kept;
	free(gone);
	return end(conn, "trim", fault, err);
}

KS_NO_TSA static enum sqlb_outcome memory_wait_for_change(struct sqlb_conn *conn, int64_t after, int wait_ms,
							  struct ks_err *err)
{
	struct database *database = conn->database;
	struct ks_clock *clock = ks_clock_system(); /* patience is real even where the database's time is not */
	int64_t until = ks_clock_now(clock) + wait_ms;
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = begin(conn, "wait_for_change", &fault, err);
	int64_t left;

	if (outcome != SQLB_OK)
		return outcome;
	while (fault == SQLB_FAULT_NONE && !conn->cancelled && head_position(database) <= after &&
	       conn->cuts_seen == database->cuts && (left = until - ks_clock_now(clock)) > 0)
		ks_cond_wait(&database->changed, &database->mutex, left);
	conn->cancelled = false;
	return end(conn, "wait_for_change", fault, err);
}

static void memory_cancel(struct sqlb_conn *conn)
{
	ks_mutex_lock(&conn->database->mutex);
	conn->cancelled = true;
	ks_cond_broadcast(&conn->database->changed);
	ks_mutex_unlock(&conn->database->mutex);
}

static enum sqlb_outcome memory_lease_touch(struct sqlb_conn *conn, struct sqlb_lease *leases, size_t count,
					    struct ks_err *err)
{
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = begin(conn, "lease_touch", &fault, err);
	int64_t now;

	if (outcome != SQLB_OK)
		return outcome;
	now = now_ms(conn->database);
	for (size_t i = 0; i < count && !lost_before(fault); i++) {
		struct mem_lease *lease = lease_get(conn->database, leases[i].id);

		leases[i].found = lease && lease->deadline_ms >= now;
		if (!leases[i].found)
			continue;
		lease->deadline_ms = now + lease->ttl_ms;
		leases[i].ttl_ms = lease->ttl_ms;
		leases[i].remaining_ms = lease->ttl_ms;
	}
	return end(conn, "lease_touch", fault, err);
}

static enum sqlb_outcome memory_lease_ensure(struct sqlb_conn *conn, const struct sqlb_lease *leases, size_t count,
					     struct ks_err *err)
{
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = begin(conn, "lease_ensure", &fault, err);

	if (outcome != SQLB_OK)
		return outcome;
	for (size_t i = 0; i < count && !lost_before(fault); i++)
		if (!lease_get(conn->database, leases[i].id))
			lease_put(conn->database, leases[i].id, leases[i].ttl_ms, now_ms(conn->database));
	return end(conn, "lease_ensure", fault, err);
}

static enum sqlb_outcome memory_lease_refresh_all(struct sqlb_conn *conn, struct ks_err *err)
{
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = begin(conn, "lease_refresh_all", &fault, err);

	if (outcome != SQLB_OK)
		return outcome;
	for (size_t i = 0; i < conn->database->lease_count && !lost_before(fault); i++)
		conn->database->leases[i].deadline_ms = now_ms(conn->database) + conn->database->leases[i].ttl_ms;
	return end(conn, "lease_refresh_all", fault, err);
}

static int by_deadline(const void *a, const void *b)
{
	const struct mem_lease *left = a, *right = b;

	if (left->deadline_ms != right->deadline_ms)
		return left->deadline_ms < right->deadline_ms ? -1 : 1;
	return (left->id > right->id) - (left->id < right->id);
}

static enum sqlb_outcome memory_lease_list(struct sqlb_conn *conn, size_t limit, sqlb_lease_fn *visit, void *ctx,
					   struct ks_err *err)
{
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = begin(conn, "lease_list", &fault, err);
	struct mem_lease *leases;
	size_t count;
	int64_t now;

	if (outcome != SQLB_OK)
		return outcome;
	now = now_ms(conn->database);
	count = conn->database->lease_count;
	leases = array_copy(conn->database->leases, count, sizeof(*leases));
	outcome = end(conn, "lease_list", fault, err);
	qsort(leases, count, sizeof(*leases), by_deadline);
	if (limit && count > limit)
		count = limit;
	if (outcome != SQLB_OK)
		count /= 2;
	for (size_t i = 0; i < count; i++) {
		struct sqlb_lease lease = {.id = leases[i].id,
					   .ttl_ms = leases[i].ttl_ms,
					   .remaining_ms = leases[i].deadline_ms - now,
					   .found = true};

		if (!visit(ctx, &lease)) {
			outcome = SQLB_OK;
			break;
		}
	}
	free(leases);
	return outcome;
}

static enum sqlb_outcome memory_lease_read(struct sqlb_conn *conn, struct sqlb_lease *leases, size_t count,
					   struct ks_err *err)
{
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = begin(conn, "lease_read", &fault, err);
	int64_t now;

	if (outcome != SQLB_OK)
		return outcome;
	now = now_ms(conn->database);
	for (size_t i = 0; i < count; i++) {
		const struct mem_lease *lease = lease_get(conn->database, leases[i].id);

		leases[i].found = lease != NULL;
		if (!lease)
			continue;
		leases[i].ttl_ms = lease->ttl_ms;
		leases[i].remaining_ms = lease->deadline_ms - now;
	}
	return end(conn, "lease_read", fault, err);
}

static enum sqlb_outcome memory_lease_drop(struct sqlb_conn *conn, const int64_t *ids, size_t count, struct ks_err *err)
{
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = begin(conn, "lease_drop", &fault, err);

	if (outcome != SQLB_OK)
		return outcome;
	for (size_t i = 0; i < count && !lost_before(fault); i++)
		lease_remove(conn->database, ids[i]);
	return end(conn, "lease_drop", fault, err);
}

static enum sqlb_outcome memory_duty_take(struct sqlb_conn *conn, int64_t self, int ttl_ms, struct sqlb_duty *duty,
					  struct ks_err *err)
{
	struct database *database = conn->database;
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = begin(conn, "duty_take", &fault, err);
	int64_t now;

	if (outcome != SQLB_OK)
		return outcome;
	now = now_ms(database);
	*duty = (struct sqlb_duty){0};
	if (!lost_before(fault)) {
		if (database->duty_holder != self && (database->duty_holder == 0 || database->duty_deadline_ms < now)) {
			database->duty_holder = self;
			database->duty_term++;
			duty->taken_now = true;
		}
		if (database->duty_holder == self)
			database->duty_deadline_ms = now + ttl_ms;
		duty->holder = database->duty_holder;
		duty->term = database->duty_term;
		duty->remaining_ms = database->duty_deadline_ms - now;
	}
	return end(conn, "duty_take", fault, err);
}

static enum sqlb_outcome memory_duty_pass(struct sqlb_conn *conn, int64_t self, int64_t to, int ttl_ms,
					  struct ks_err *err)
{
	struct database *database = conn->database;
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = begin(conn, "duty_pass", &fault, err);

	if (outcome != SQLB_OK)
		return outcome;
	if (!lost_before(fault) && database->duty_holder == self) {
		database->duty_holder = to;
		database->duty_term += to != 0 && to != self;
		database->duty_deadline_ms = now_ms(database) + ttl_ms;
	}
	return end(conn, "duty_pass", fault, err);
}

static struct ks_slice text_copy(struct ks_slice from)
{
	return ks_slice_of(array_copy(from.data, from.size, 1), from.size);
}

static void member_remove(struct database *database, size_t slot)
{
	member_clear(&database->members[slot]);
	database->member_count--;
	memmove(&database->members[slot], &database->members[slot + 1],
		(database->member_count - slot) * sizeof(*database->members));
}

static enum sqlb_outcome memory_member_beat(struct sqlb_conn *conn, const struct sqlb_member *self, int ttl_ms,
					    struct ks_err *err)
{
	struct database *database = conn->database;
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = begin(conn, "member_beat", &fault, err);
	size_t slot = 0;
	int64_t now;

	if (outcome != SQLB_OK)
		return outcome;
	if (lost_before(fault))
		return end(conn, "member_beat", fault, err);
	now = now_ms(database);
	for (size_t i = database->member_count; i-- > 0;)
		if (database->members[i].member.id == self->id ||
		    database->members[i].deadline_ms + MEMBER_LINGER_MS < now)
			member_remove(database, i);
	if (ttl_ms > 0) {
		database->members =
			ks_xrealloc(database->members, (database->member_count + 1) * sizeof(*database->members));
		while (slot < database->member_count && database->members[slot].member.id < self->id)
			slot++;
		memmove(&database->members[slot + 1], &database->members[slot],
			(database->member_count - slot) * sizeof(*database->members));
		database->members[slot] = (struct mem_member){.member = *self, .deadline_ms = now + ttl_ms};
		database->members[slot].member.name = text_copy(self->name);
		database->members[slot].member.client_urls = text_copy(self->client_urls);
		database->member_count++;
	}
	return end(conn, "member_beat", fault, err);
}

static enum sqlb_outcome memory_member_list(struct sqlb_conn *conn, sqlb_member_fn *visit, void *ctx,
					    struct ks_err *err)
{
	struct database *database = conn->database;
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = begin(conn, "member_list", &fault, err);
	struct mem_member *alive;
	size_t count = 0;
	bool go_on = true;

	if (outcome != SQLB_OK)
		return outcome;
	alive = ks_xcalloc(database->member_count + 1, sizeof(*alive));
	for (size_t i = 0; i < database->member_count; i++) {
		if (database->members[i].deadline_ms < now_ms(database))
			continue;
		alive[count] = database->members[i];
		alive[count].member.name = text_copy(alive[count].member.name);
		alive[count].member.client_urls = text_copy(alive[count].member.client_urls);
		count++;
	}
	outcome = end(conn, "member_list", fault, err);
	for (size_t i = 0; i < count; i++) {
		if (go_on && (outcome == SQLB_OK || i < count / 2))
			go_on = visit(ctx, &alive[i].member);
		member_clear(&alive[i]);
	}
	free(alive);
	return go_on ? outcome : SQLB_OK;
}

static enum sqlb_outcome memory_size(struct sqlb_conn *conn, struct sqlb_size *size, struct ks_err *err)
{
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = begin(conn, "size", &fault, err);

	if (outcome != SQLB_OK)
		return outcome;
	size->allocated = conn->database->bytes_allocated;
	size->in_use = conn->database->bytes_in_use;
	return end(conn, "size", fault, err);
}

static enum sqlb_outcome memory_defragment(struct sqlb_conn *conn, bool full, struct ks_err *err)
{
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = begin(conn, "defragment", &fault, err);

	(void)full;
	if (outcome != SQLB_OK)
		return outcome;
	conn->database->bytes_allocated = conn->database->bytes_in_use;
	return end(conn, "defragment", fault, err);
}

const struct sqlb_ops sqlb_memory_ops = {
	.version = SQLB_VERSION,
	.name = "memory",
	.schemes = {"memory"},
	.features = SQLB_NOTIFIES,
	.open = memory_open,
	.close = memory_close,
	.connect = memory_connect,
	.disconnect = memory_disconnect,
	.migrate = memory_migrate,
	.append = memory_append,
	.append_send = memory_append_send,
	.append_receive = memory_append_receive,
	.load = memory_load,
	.read_head = memory_read_head,
	.read_rows = memory_read_rows,
	.read_at = memory_read_at,
	.trim = memory_trim,
	.wait_for_change = memory_wait_for_change,
	.cancel = memory_cancel,
	.lease_touch = memory_lease_touch,
	.lease_ensure = memory_lease_ensure,
	.lease_refresh_all = memory_lease_refresh_all,
	.lease_list = memory_lease_list,
	.lease_read = memory_lease_read,
	.lease_drop = memory_lease_drop,
	.duty_take = memory_duty_take,
	.duty_pass = memory_duty_pass,
	.member_beat = memory_member_beat,
	.member_list = memory_member_list,
	.size = memory_size,
	.defragment = memory_defragment,
};

/* ---- what tests can do ---- */

void sqlb_memory_set_clock(const char *name, struct ks_clock *clock)
{
	struct database *database = database_get(name, false);

	ks_mutex_lock(&database->mutex);
	database->clock = clock ? clock : ks_clock_system();
	ks_mutex_unlock(&database->mutex);
}

void sqlb_memory_set_faults(const char *name, sqlb_memory_fault_fn *fault, void *ctx, int late_calls)
{
	struct database *database = database_get(name, false);

	ks_mutex_lock(&database->mutex);
	database->fault = fault;
	database->fault_ctx = ctx;
	database->late_calls = late_calls;
	ks_mutex_unlock(&database->mutex);
}

static void lose_tail(const char *name, int64_t keep, bool cut)
{
	struct database *database = database_get(name, false);

	ks_mutex_lock(&database->mutex);
	while (database->row_count && database->rows[database->row_count - 1]->row.position > keep) {
		struct mem_row *row = database->rows[--database->row_count];

		database->bytes_in_use -= (int64_t)row_bytes(&row->row);
		row_unref(row);
	}
	database->cuts += cut;
	ks_cond_broadcast(&database->changed);
	ks_mutex_unlock(&database->mutex);
}

void sqlb_memory_lose_tail(const char *name, int64_t keep)
{
	lose_tail(name, keep, true);
}

void sqlb_memory_lose_tail_quietly(const char *name, int64_t keep)
{
	lose_tail(name, keep, false);
}

void sqlb_memory_visit(const char *name, sqlb_row_fn *visit, void *ctx)
{
	struct database *database = database_get(name, false);
	struct mem_row **rows;
	size_t count;
	bool go_on = true;

	ks_mutex_lock(&database->mutex);
	count = database->row_count;
	rows = ks_xcalloc(count + 1, sizeof(struct mem_row *));
	for (size_t i = 0; i < count; i++)
		rows[i] = row_ref(database->rows[i]);
	ks_mutex_unlock(&database->mutex);
	for (size_t i = 0; i < count && go_on; i++)
		go_on = visit(ctx, &rows[i]->row);
	rows_free(rows, count);
}

void sqlb_memory_forget(const char *name)
{
	struct database **at;
	struct database *database;

	pthread_mutex_lock(&all.mutex);
	for (at = &all.first; *at && strcmp((*at)->name, name) != 0; at = &(*at)->next)
		;
	database = *at;
	if (database)
		*at = database->next;
	pthread_mutex_unlock(&all.mutex);
	if (database)
		database_unref(database);
}
