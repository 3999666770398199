/* SPDX-License-Identifier: Apache-2.0 */
/* See history.h. */
#include "tests/torture/history.h"

#include <stdlib.h>
#include <string.h>

#include "base/panic.h"

void history_init(struct history *history)
{
	memset(history, 0, sizeof(*history));
}

void history_fini(struct history *history)
{
	for (size_t i = 0; i < history->op_count; i++)
		for (size_t a = 0; a < HISTORY_ACTIONS; a++)
			free(history->ops[i].results[a].kvs);
	for (size_t i = 0; i < history->watch_count; i++)
		free(history->watches[i].events);
	for (size_t i = 0; i < history->complaint_count; i++)
		free(history->complaints[i]);
	free(history->ops);
	free(history->watches);
	free(history->hashes);
	free(history->faults);
	free(history->complaints);
	history_init(history);
}

/* Room for one more of 'size' bytes. */
static void *grow(void *items, size_t count, size_t *room, size_t size)
{
	if (count < *room)
		return items;
	*room = *room ? 2 * *room : 1024;
	return ks_xrealloc(items, *room * size);
}

void history_add_op(struct history *history, const struct op *op)
{
	history->ops = grow(history->ops, history->op_count, &history->op_room, sizeof(*op));
	history->ops[history->op_count++] = *op;
}

void history_add_watch(struct history *history, const struct watch_record *record)
{
	history->watches = grow(history->watches, history->watch_count, &history->watch_room, sizeof(*record));
	history->watches[history->watch_count++] = *record;
}

void history_add_hash(struct history *history, const struct hash_record *record)
{
	history->hashes = grow(history->hashes, history->hash_count, &history->hash_room, sizeof(*record));
	history->hashes[history->hash_count++] = *record;
}

void history_add_fault(struct history *history, const struct fault_record *record)
{
	history->faults = grow(history->faults, history->fault_count, &history->fault_room, sizeof(*record));
	history->faults[history->fault_count++] = *record;
}

void history_add_complaint(struct history *history, const char *text)
{
	history->complaints =
		grow(history->complaints, history->complaint_count, &history->complaint_room, sizeof(char *));
	history->complaints[history->complaint_count++] = ks_xstrdup(text);
}
