/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leases: an array in the order of their ids.
 */
#include <stdlib.h>

#include "memory_priv.h"

static size_t lease_slot(const struct mem_database *database, int64_t id)
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

struct mem_lease *sqlb_mem_lease_get(const struct mem_database *database, int64_t id)
{
	size_t slot = lease_slot(database, id);

	return slot < database->lease_count && database->leases[slot].id == id ? &database->leases[slot] : NULL;
}

void sqlb_mem_lease_put(struct mem_database *database, int64_t id, int64_t ttl_ms, int64_t now)
{
	struct mem_lease *lease = sqlb_mem_lease_get(database, id);
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

void sqlb_mem_lease_remove(struct mem_database *database, int64_t id)
{
	struct mem_lease *lease = sqlb_mem_lease_get(database, id);

	if (!lease)
		return;
	database->lease_count--;
	memmove(lease, lease + 1, (size_t)(&database->leases[database->lease_count] - lease) * sizeof(*lease));
}

/* ---- the calls ---- */

enum sqlb_outcome sqlb_mem_lease_touch(struct sqlb_conn *conn, struct sqlb_lease *leases, size_t count,
				       struct ks_err *err)
{
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = sqlb_mem_begin(conn, "lease_touch", &fault, err);
	int64_t now;

	if (outcome != SQLB_OK)
		return outcome;
	now = sqlb_mem_now_ms(conn->database);
	for (size_t i = 0; i < count && !sqlb_mem_lost_before(fault); i++) {
		struct mem_lease *lease = sqlb_mem_lease_get(conn->database, leases[i].id);

		leases[i].found = lease && lease->deadline_ms >= now;
		if (!leases[i].found)
			continue;
		lease->deadline_ms = now + lease->ttl_ms;
		leases[i].ttl_ms = lease->ttl_ms;
		leases[i].remaining_ms = lease->ttl_ms;
	}
	return sqlb_mem_end(conn, "lease_touch", fault, err);
}

enum sqlb_outcome sqlb_mem_lease_ensure(struct sqlb_conn *conn, const struct sqlb_lease *leases, size_t count,
					struct ks_err *err)
{
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = sqlb_mem_begin(conn, "lease_ensure", &fault, err);

	if (outcome != SQLB_OK)
		return outcome;
	for (size_t i = 0; i < count && !sqlb_mem_lost_before(fault); i++)
		if (!sqlb_mem_lease_get(conn->database, leases[i].id))
			sqlb_mem_lease_put(conn->database, leases[i].id, leases[i].ttl_ms,
					   sqlb_mem_now_ms(conn->database));
	return sqlb_mem_end(conn, "lease_ensure", fault, err);
}

enum sqlb_outcome sqlb_mem_lease_refresh_all(struct sqlb_conn *conn, struct ks_err *err)
{
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = sqlb_mem_begin(conn, "lease_refresh_all", &fault, err);

	if (outcome != SQLB_OK)
		return outcome;
	for (size_t i = 0; i < conn->database->lease_count && !sqlb_mem_lost_before(fault); i++)
		conn->database->leases[i].deadline_ms =
			sqlb_mem_now_ms(conn->database) + conn->database->leases[i].ttl_ms;
	return sqlb_mem_end(conn, "lease_refresh_all", fault, err);
}

static int by_deadline(const void *a, const void *b)
{
	const struct mem_lease *left = a, *right = b;

	if (left->deadline_ms != right->deadline_ms)
		return left->deadline_ms < right->deadline_ms ? -1 : 1;
	return (left->id > right->id) - (left->id < right->id);
}

enum sqlb_outcome sqlb_mem_lease_list(struct sqlb_conn *conn, size_t limit, sqlb_lease_fn *visit, void *ctx,
				      struct ks_err *err)
{
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = sqlb_mem_begin(conn, "lease_list", &fault, err);
	struct mem_lease *leases;
	size_t count;
	int64_t now;

	if (outcome != SQLB_OK)
		return outcome;
	now = sqlb_mem_now_ms(conn->database);
	count = conn->database->lease_count;
	leases = sqlb_mem_array_copy(conn->database->leases, count, sizeof(*leases));
	outcome = sqlb_mem_end(conn, "lease_list", fault, err);
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

enum sqlb_outcome sqlb_mem_lease_read(struct sqlb_conn *conn, struct sqlb_lease *leases, size_t count,
				      struct ks_err *err)
{
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = sqlb_mem_begin(conn, "lease_read", &fault, err);
	int64_t now;

	if (outcome != SQLB_OK)
		return outcome;
	now = sqlb_mem_now_ms(conn->database);
	for (size_t i = 0; i < count; i++) {
		const struct mem_lease *lease = sqlb_mem_lease_get(conn->database, leases[i].id);

		leases[i].found = lease != NULL;
		if (!lease)
			continue;
		leases[i].ttl_ms = lease->ttl_ms;
		leases[i].remaining_ms = lease->deadline_ms - now;
	}
	return sqlb_mem_end(conn, "lease_read", fault, err);
}

enum sqlb_outcome sqlb_mem_lease_drop(struct sqlb_conn *conn, const int64_t *ids, size_t count, struct ks_err *err)
{
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = sqlb_mem_begin(conn, "lease_drop", &fault, err);

	if (outcome != SQLB_OK)
		return outcome;
	for (size_t i = 0; i < count && !sqlb_mem_lost_before(fault); i++)
		sqlb_mem_lease_remove(conn->database, ids[i]);
	return sqlb_mem_end(conn, "lease_drop", fault, err);
}
