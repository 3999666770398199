/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SQLite: the deadlines of leases, in memory. The file belongs to one process, and deadlines of an earlier one mean nothing (sqlite.c):
 * so nothing that a keepalive changes has to survive it, and a keepalive writes nothing. The table kineshim_lease says which leases there
 * are, and changes with the log's rows in one transaction; what is known here follows when that is committed.
 *
 *	unknown ─► known       by reading the table: whoever is new here gets its whole time
 *	known   ─► unknown     when a commit is in doubt: what it was about is forgotten, the next use reads the table again
 *
 * Changes of which leases there are need the turn, as all writing does. A keepalive needs no turn: a lease that is past its
 * deadline stays so, and thus the guard of expiry holds while its revoke is being committed.
 *
 * The hash table has open addressing with linear probing, at most half full; a lease that goes away closes the gap.
 */
#include "sqlite_priv.h"

#include <stdlib.h>

#define FIRST_SLOTS 64u

struct sqlb_lite_lease {
	int64_t id, ttl_ms, deadline;
	bool used;
};

void sqlb_lite_leases_init(struct sqlb_lite_leases *leases)
{
	*leases = (struct sqlb_lite_leases){0};
	ks_mutex_init(&leases->mutex);
}

void sqlb_lite_leases_fini(struct sqlb_lite_leases *leases)
{
	free(leases->slots);
	ks_mutex_fini(&leases->mutex);
}

/* ---- the table, under its mutex ---- */

static size_t home_of(const struct sqlb_lite_leases *leases, int64_t id)
{
	uint64_t x = (uint64_t)id;

	x ^= x >> 32;
	x *= 0xe9846af9b1a615d5u;
	x ^= x >> 29;
	return x & (leases->room - 1);
}

/* Where it is, or would be. There is always a free slot. */
static struct sqlb_lite_lease *slot_of(const struct sqlb_lite_leases *leases, int64_t id)
{
	size_t i = home_of(leases, id);

	while (leases->slots[i].used && leases->slots[i].id != id)
		i = (i + 1) & (leases->room - 1);
	return &leases->slots[i];
}

static struct sqlb_lite_lease *find(const struct sqlb_lite_leases *leases, int64_t id)
{
	struct sqlb_lite_lease *lease = leases->room ? slot_of(leases, id) : NULL;

	return lease && lease->used ? lease : NULL;
}

/* Room for so many more. */
static bool reserve(struct sqlb_lite_leases *leases, size_t more)
{
	struct sqlb_lite_leases grown = {.room = leases->room ? leases->room : FIRST_SLOTS, .count = leases->count};

	while (grown.room / 2 < leases->count + more) {
		if (grown.room > SIZE_MAX / 4 / sizeof(*grown.slots))
			return false;
		grown.room *= 2;
	}
	if (grown.room == leases->room)
		return true;
	grown.slots = calloc(grown.room, sizeof(*grown.slots));
	if (!grown.slots)
		return false;
	for (size_t i = 0; i < leases->room; i++) {
		if (leases->slots[i].used)
			*slot_of(&grown, leases->slots[i].id) = leases->slots[i];
	}
	free(leases->slots);
	leases->slots = grown.slots;
	leases->room = grown.room;
	return true;
}

/* There must be room. */
static void put(struct sqlb_lite_leases *leases, int64_t id, int64_t ttl_ms, int64_t deadline)
{
	struct sqlb_lite_lease *lease = slot_of(leases, id);

	leases->count += !lease->used;
	*lease = (struct sqlb_lite_lease){.id = id, .ttl_ms = ttl_ms, .deadline = deadline, .used = true};
}

static void take_out(struct sqlb_lite_leases *leases, int64_t id)
{
	struct sqlb_lite_lease *lease = find(leases, id);
	size_t mask = leases->room - 1, gap, i;

	if (!lease)
		return;
	leases->count--;
	gap = (size_t)(lease - leases->slots);
	for (i = (gap + 1) & mask; leases->slots[i].used; i = (i + 1) & mask) {
		/* Who would not be found over the gap moves into it. */
		if (((i - home_of(leases, leases->slots[i].id)) & mask) < ((i - gap) & mask))
			continue;
		leases->slots[gap] = leases->slots[i];
		gap = i;
	}
	leases->slots[gap].used = false;
}

/* ---- what the file says ---- */

/* Copies the table; who was known here keeps its deadline. */
static int read_table(sqlite3_stmt *statement, const struct sqlb_lite_leases *old, struct sqlb_lite_leases *read,
		      int64_t now)
{
	int rc;

	while ((rc = sqlite3_step(statement)) == SQLITE_ROW) {
		int64_t id = sqlite3_column_int64(statement, 0), ttl_ms = sqlite3_column_int64(statement, 1);
		const struct sqlb_lite_lease *known = find(old, id);

		if (!reserve(read, 1))
			return SQLITE_NOMEM;
		put(read, id, ttl_ms, known ? known->deadline : now + ttl_ms);
	}
	return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

bool sqlb_lite_leases_known(struct sqlb_db *db)
{
	bool known;

	ks_mutex_lock(&db->leases.mutex);
	known = db->leases.known;
	ks_mutex_unlock(&db->leases.mutex);
	return known;
}

int sqlb_lite_leases_know(struct sqlb_conn *conn)
{
	struct sqlb_lite_leases *leases = &conn->db->leases, read = {0};
	sqlite3_stmt *statement;
	int rc;

	if (sqlb_lite_leases_known(conn->db))
		return SQLITE_OK;
	rc = sqlb_lite_prepare(conn, LITE_LEASE_IDS, &statement);
	if (rc != SQLITE_OK)
		return rc;
	ks_mutex_lock(&leases->mutex);
	rc = read_table(statement, leases, &read, sqlb_lite_now(conn->db));
	if (rc == SQLITE_OK) {
		free(leases->slots);
		leases->slots = read.slots;
		leases->room = read.room;
		leases->count = read.count;
		leases->known = true;
	} else {
		free(read.slots);
	}
	ks_mutex_unlock(&leases->mutex);
	sqlite3_reset(statement);
	return rc;
}

/* ---- with the turn ---- */

bool sqlb_lite_leases_reserve(struct sqlb_db *db, size_t more)
{
	bool ok;

	ks_mutex_lock(&db->leases.mutex);
	ok = reserve(&db->leases, more);
	ks_mutex_unlock(&db->leases.mutex);
	return ok;
}

bool sqlb_lite_leases_past(struct sqlb_db *db, const int64_t *ids, size_t count, int64_t now)
{
	bool past = true;

	ks_mutex_lock(&db->leases.mutex);
	for (size_t i = 0; i < count && past; i++) {
		const struct sqlb_lite_lease *lease = find(&db->leases, ids[i]);

		past = lease && lease->deadline < now;
	}
	ks_mutex_unlock(&db->leases.mutex);
	return past;
}

void sqlb_lite_leases_put(struct sqlb_db *db, const struct sqlb_lease *added, size_t count, int64_t now)
{
	ks_mutex_lock(&db->leases.mutex);
	for (size_t i = 0; i < count; i++)
		put(&db->leases, added[i].id, added[i].ttl_ms, now + added[i].ttl_ms);
	ks_mutex_unlock(&db->leases.mutex);
}

void sqlb_lite_leases_ensure(struct sqlb_db *db, const struct sqlb_lease *added, size_t count, int64_t now)
{
	ks_mutex_lock(&db->leases.mutex);
	for (size_t i = 0; i < count; i++) {
		if (!find(&db->leases, added[i].id))
			put(&db->leases, added[i].id, added[i].ttl_ms, now + added[i].ttl_ms);
	}
	ks_mutex_unlock(&db->leases.mutex);
}

void sqlb_lite_leases_drop(struct sqlb_db *db, const int64_t *ids, size_t count)
{
	ks_mutex_lock(&db->leases.mutex);
	for (size_t i = 0; i < count; i++)
		take_out(&db->leases, ids[i]);
	ks_mutex_unlock(&db->leases.mutex);
}

void sqlb_lite_leases_doubt(struct sqlb_db *db)
{
	ks_mutex_lock(&db->leases.mutex);
	db->leases.known = false;
	ks_mutex_unlock(&db->leases.mutex);
}

void sqlb_lite_leases_refresh(struct sqlb_db *db)
{
	int64_t now;

	ks_mutex_lock(&db->leases.mutex);
	now = sqlb_lite_now(db);
	for (size_t i = 0; i < db->leases.room; i++)
		db->leases.slots[i].deadline = now + db->leases.slots[i].ttl_ms;
	ks_mutex_unlock(&db->leases.mutex);
}

/* ---- without it ---- */

static void fill(const struct sqlb_lite_lease *lease, int64_t now, struct sqlb_lease *out)
{
	out->found = true;
	out->ttl_ms = lease->ttl_ms;
	out->remaining_ms = lease->deadline - now;
}

void sqlb_lite_leases_touch(struct sqlb_db *db, struct sqlb_lease *touched, size_t count)
{
	int64_t now;

	ks_mutex_lock(&db->leases.mutex);
	now = sqlb_lite_now(db);
	for (size_t i = 0; i < count; i++) {
		struct sqlb_lite_lease *lease = find(&db->leases, touched[i].id);

		touched[i].found = false;
		if (!lease || lease->deadline < now)
			continue;
		lease->deadline = now + lease->ttl_ms;
		fill(lease, now, &touched[i]);
	}
	ks_mutex_unlock(&db->leases.mutex);
}

void sqlb_lite_leases_read(struct sqlb_db *db, struct sqlb_lease *wanted, size_t count)
{
	int64_t now;

	ks_mutex_lock(&db->leases.mutex);
	now = sqlb_lite_now(db);
	for (size_t i = 0; i < count; i++) {
		const struct sqlb_lite_lease *lease = find(&db->leases, wanted[i].id);

		wanted[i].found = false;
		if (lease)
			fill(lease, now, &wanted[i]);
	}
	ks_mutex_unlock(&db->leases.mutex);
}

/* ---- the soonest ---- */

static bool later(const struct sqlb_lease *a, const struct sqlb_lease *b)
{
	return a->remaining_ms > b->remaining_ms || (a->remaining_ms == b->remaining_ms && a->id > b->id);
}

static int by_deadline(const void *a, const void *b)
{
	return later(a, b) - later(b, a);
}

/* 'heap' has its latest on top; the top is replaced. */
static void replace_top(struct sqlb_lease *heap, size_t count, const struct sqlb_lease *lease)
{
	size_t i = 0, child;

	while ((child = 2 * i + 1) < count) {
		if (child + 1 < count && later(&heap[child + 1], &heap[child]))
			child++;
		if (!later(&heap[child], lease))
			break;
		heap[i] = heap[child];
		i = child;
	}
	heap[i] = *lease;
}

/* Into 'soonest', which has room for 'room', those whose deadline is soonest. Sorted down to up they are a heap. */
static size_t pick(const struct sqlb_lite_leases *leases, struct sqlb_lease *soonest, size_t room, int64_t now)
{
	size_t count = 0;

	for (size_t i = 0; i < leases->room; i++) {
		struct sqlb_lease lease = {.id = leases->slots[i].id};

		if (!leases->slots[i].used)
			continue;
		fill(&leases->slots[i], now, &lease);
		if (count == room && !later(&soonest[0], &lease))
			continue;
		if (count == room) {
			replace_top(soonest, room, &lease);
			continue;
		}
		soonest[count++] = lease;
		/* Full: from now on a heap. From the latest to the soonest is one. */
		if (count == room && room < leases->count) {
			qsort(soonest, count, sizeof(*soonest), by_deadline);
			for (size_t low = 0, high = count - 1; low < high; low++, high--) {
				lease = soonest[low];
				soonest[low] = soonest[high];
				soonest[high] = lease;
			}
		}
	}
	return count;
}

bool sqlb_lite_leases_soonest(struct sqlb_db *db, size_t limit, struct sqlb_lease **soonest, size_t *count)
{
	struct sqlb_lite_leases *leases = &db->leases;
	size_t room;

	ks_mutex_lock(&leases->mutex);
	room = limit && limit < leases->count ? limit : leases->count;
	*soonest = calloc(room ? room : 1, sizeof(**soonest));
	*count = *soonest ? pick(leases, *soonest, room, sqlb_lite_now(db)) : 0;
	ks_mutex_unlock(&leases->mutex);
	if (*count)
		qsort(*soonest, *count, sizeof(**soonest), by_deadline);
	return *soonest != NULL;
}
