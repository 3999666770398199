/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Appends that the "server" still has to try: deep copies, of which those whose answer was lost are tried after so many calls more.
 */
#include <stdlib.h>

#include "memory_priv.h"

struct mem_waiting *sqlb_mem_waiting_new(const struct sqlb_append *append, struct mem_row **rows)
{
	struct mem_waiting *waiting = ks_xcalloc(1, sizeof(*waiting));
	struct sqlb_append *copy = &waiting->append;

	*copy = *append;
	copy->leases_new =
		sqlb_mem_array_copy(append->leases_new, append->leases_new_count, sizeof(*append->leases_new));
	copy->leases_gone =
		sqlb_mem_array_copy(append->leases_gone, append->leases_gone_count, sizeof(*append->leases_gone));
	copy->leases_expired = sqlb_mem_array_copy(append->leases_expired, append->leases_expired_count,
						   sizeof(*append->leases_expired));
	copy->rows = append->row_count ? &rows[0]->row : NULL; /* only its first position is looked at */
	waiting->rows = rows;
	return waiting;
}

void sqlb_mem_waiting_free(struct mem_waiting *waiting)
{
	sqlb_mem_rows_free(waiting->rows, waiting->append.row_count);
	free((void *)waiting->append.leases_new);
	free((void *)waiting->append.leases_gone);
	free((void *)waiting->append.leases_expired);
	free(waiting);
}

void sqlb_mem_late_add_locked(struct mem_database *database, struct mem_waiting *late)
{
	if (database->late_calls < 0) {
		sqlb_mem_waiting_free(late);
		return;
	}
	late->calls_left = database->late_calls;
	if (!ks_list_empty(&database->late)) {
		const struct mem_waiting *last = ks_container_of(database->late.prev, struct mem_waiting, link);

		late->calls_left = last->calls_left > late->calls_left ? last->calls_left : late->calls_left;
	}
	ks_list_append(&database->late, &late->link);
}

void sqlb_mem_late_step_locked(struct mem_database *database)
{
	struct ks_list *link = database->late.next;

	while (link != &database->late) {
		struct mem_waiting *late = ks_container_of(link, struct mem_waiting, link);
		bool appended;

		link = link->next;
		if (late->calls_left-- > 0)
			continue;
		ks_list_remove(&late->link);
		sqlb_mem_append_locked(database, &late->append, late->rows, &appended);
		sqlb_mem_waiting_free(late);
	}
}
