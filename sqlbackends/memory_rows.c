/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows: one block each, immutable and counted, so that a snapshot is an array of references.
 */
#include <stdlib.h>

#include "memory_priv.h"

struct mem_row *sqlb_mem_row_ref(struct mem_row *row)
{
	atomic_fetch_add_explicit(&row->refs, 1, memory_order_relaxed);
	return row;
}

void sqlb_mem_row_unref(struct mem_row *row)
{
	if (row && atomic_fetch_sub_explicit(&row->refs, 1, memory_order_acq_rel) == 1)
		free(row);
}

void sqlb_mem_rows_free(struct mem_row **rows, size_t count)
{
	for (size_t i = 0; i < count; i++)
		sqlb_mem_row_unref(rows[i]);
	free(rows);
}

size_t sqlb_mem_row_bytes(const struct sqlb_row *row)
{
	return row->key.size + row->value.size + row->payload.size;
}

static struct ks_slice copy_into(uint8_t **at, struct ks_slice from)
{
	struct ks_slice copy = {.data = from.data ? *at : NULL, .size = from.data ? from.size : 0};

	if (copy.size)
		memcpy(*at, from.data, copy.size);
	*at += copy.size;
	return copy;
}

static struct mem_row *row_copy(const struct sqlb_row *from)
{
	/* One byte more, so that an empty slice at the end still points into the row. */
	struct mem_row *row = malloc(sizeof(*row) + sqlb_mem_row_bytes(from) + 1);
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

struct mem_row **sqlb_mem_rows_copy(const struct sqlb_row *rows, size_t count)
{
	struct mem_row **copies = calloc(count ? count : 1, sizeof(struct mem_row *));

	for (size_t i = 0; copies && i < count; i++) {
		copies[i] = row_copy(&rows[i]);
		if (!copies[i]) {
			sqlb_mem_rows_free(copies, i);
			return NULL;
		}
	}
	return copies;
}
