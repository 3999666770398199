/* SPDX-License-Identifier: Apache-2.0 */
/* What happened in a run, in numbers. See check.h. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "tests/torture/check.h"

#define NAMES 32

static int by_size(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

static void print_op(const struct history *history, const char *name, int64_t *latencies, FILE *out)
{
	size_t counts[OP_OUTCOMES] = {0};
	size_t count;

	for (size_t i = 0; i < history->op_count; i++) {
		const struct op *op = &history->ops[i];

		if (strcmp(op->name, name))
			continue;
		if (op->outcome == OP_OK)
			latencies[counts[OP_OK]] = op->end_ns - op->start_ns;
		counts[op->outcome]++;
	}
	count = counts[OP_OK];
	qsort(latencies, count, sizeof(*latencies), by_size);
	fprintf(out, "#   %-12s %8zu ok %7zu failed %7zu unknown", name, count, counts[OP_FAILED], counts[OP_UNKNOWN]);
	if (count)
		fprintf(out, "   p50 %6.1f ms  p99 %8.1f ms  max %8.1f ms", (double)latencies[count / 2] / 1e6,
			(double)latencies[count * 99 / 100] / 1e6, (double)latencies[count - 1] / 1e6);
	putc('\n', out);
}

/* Adds 'name' to the names unless it is there. */
static void note(const char *names[NAMES], const char *name)
{
	for (size_t i = 0; i < NAMES; i++) {
		if (!names[i])
			names[i] = name;
		if (!strcmp(names[i], name))
			return;
	}
}

void history_statistics(const struct history *history, FILE *out)
{
	int64_t *latencies = ks_xcalloc(history->op_count + 1, sizeof(*latencies));
	const char *ops[NAMES] = {NULL}, *faults[NAMES] = {NULL};
	size_t kinds[WATCH_CANCELLED + 1] = {0}, events = 0;

	for (size_t i = 0; i < history->op_count; i++)
		note(ops, history->ops[i].name);
	fprintf(out, "# revisions %" PRId64 " to %" PRId64 ", %zu operations:\n", history->first, history->last,
		history->op_count);
	for (size_t i = 0; i < NAMES && ops[i]; i++)
		print_op(history, ops[i], latencies, out);
	for (size_t i = 0; i < history->watch_count; i++) {
		kinds[history->watches[i].kind]++;
		events += history->watches[i].event_count;
	}
	fprintf(out, "# watches: %zu started, %zu resumed, %zu compacted; %zu events, %zu times progress\n",
		kinds[WATCH_STARTED], kinds[WATCH_RESUMED], kinds[WATCH_COMPACTED], events, kinds[WATCH_PROGRESS]);
	for (size_t i = 0; i < history->fault_count; i++)
		note(faults, history->faults[i].kind);
	fprintf(out, "# faults:");
	for (size_t i = 0; i < NAMES && faults[i]; i++) {
		size_t count = 0;

		for (size_t f = 0; f < history->fault_count; f++)
			count += !strcmp(history->faults[f].kind, faults[i]);
		fprintf(out, " %s %zu", faults[i], count);
	}
	fprintf(out, "\n");
	free(latencies);
}
