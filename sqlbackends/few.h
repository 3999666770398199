/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How many rows the first SELECT of a read may bring. When there are more, all of them are read again, in one snapshot, which takes
 * several round trips: nothing for a log that is loaded, but much for an instance that follows others who append hundreds
 * of entries at a time. So it follows what reads bring. The answer stands in memory as a whole, and rows may suddenly be a thousand
 * times larger than before; it is a limit all the same, because whoever has not read for a while (a load, a pause) begins with the
 * least, and what others can append meanwhile is limited by their databases.
 */
#ifndef SQLB_FEW_H
#define SQLB_FEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SQLB_FEW_LEAST = 100, SQLB_FEW_MOST = 4096, SQLB_FEW_PAUSE_MS = 1000 };

struct sqlb_few {
	size_t rows;
	int64_t read_at_ms;
};

static inline size_t sqlb_few_rows(struct sqlb_few *few, int64_t now_ms)
{
	if (few->rows == 0 || now_ms - few->read_at_ms > SQLB_FEW_PAUSE_MS)
		few->rows = SQLB_FEW_LEAST;
	few->read_at_ms = now_ms;
	return few->rows;
}

/* 'rows' came, and were all or not. Grows quickly and shrinks slowly. */
static inline void sqlb_few_learn(struct sqlb_few *few, size_t rows, bool all)
{
	if (!all)
		few->rows = 2 * few->rows < SQLB_FEW_MOST ? 2 * few->rows : SQLB_FEW_MOST;
	else if (rows < few->rows / 4)
		few->rows -= (few->rows - SQLB_FEW_LEAST) / 32;
}

#endif
