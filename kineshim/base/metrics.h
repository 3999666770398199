/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counters, gauges and histograms of the whole process, and their text for Prometheus. One static table, metrics_table.h, has
 * them all; adding one is a row there and one line where it happens:
 *
 *	KS_COUNT(PUTS, 1);                        a counter, or a gauge that goes up and down (negative numbers are fine)
 *	KS_COUNT_AT(APPENDS, outcome, 1);         one series of a row with a label, by the label's index in the table
 *	KS_OBSERVE(APPEND_TIME, ks_metrics_now() - began);        a histogram; times are nanoseconds
 *	KS_SET(QUOTA, bytes);                     a gauge that is told its value; mixes with KS_COUNT
 *
 * Values that somebody else keeps anyway are better asked for than told: a *source* is called whenever the metrics are read
 * and does KS_SET, or ks_metrics_sample for series whose label is not in the table.
 *
 * Cost: each thread counts in memory of its own (a shard), with plain loads and stores of its own cache lines; readers add the
 * shards up. A count is about one nanosecond, an observation about ten. More threads than shards share the last one, with
 * atomic additions. A thread's shard goes to the next thread when it ends, and keeps its counts.
 *
 * Threads: any, at any time, also before anything was started. Sources run on the thread that reads, one reader at a time; they
 * must not block and must not call ks_metrics_*source. Errors: only the text can fail, when its buffer is full.
 */
#ifndef KS_BASE_METRICS_H
#define KS_BASE_METRICS_H

#include <stdalign.h>
#include <stdatomic.h>
#include <time.h>

#include "base/buf.h"
#include "base/metrics_table.h"
#include "base/panic.h"
#include "base/status.h"

/* KS_METRIC_LABEL_SIZE_ROLE: how many values a label has. */
enum ks_metrics_label {
#define KS_METRICS_X(name, size, ...) KS_METRIC_LABEL_##name,
	KS_METRIC_LABELS(KS_METRICS_X)
#undef KS_METRICS_X
		KS_METRIC_LABEL_COUNT
};
enum {
#define KS_METRICS_X(name, size, ...) KS_METRIC_LABEL_SIZE_##name = size,
	KS_METRIC_LABELS(KS_METRICS_X)
#undef KS_METRICS_X
};

/* A histogram's series takes a cell for each bucket, one for +Inf, and one for the sum. */
enum ks_metrics_buckets {
	KS_METRIC_BUCKETS_NONE,
#define KS_METRICS_X(name, scale, count, ...) KS_METRIC_BUCKETS_##name,
	KS_METRIC_BUCKETS(KS_METRICS_X)
#undef KS_METRICS_X
		KS_METRIC_BUCKETS_COUNT
};
enum {
	KS_METRIC_CELLS_NONE = 1,
#define KS_METRICS_X(name, scale, count, ...) KS_METRIC_CELLS_##name = count + 2,
	KS_METRIC_BUCKETS(KS_METRICS_X)
#undef KS_METRICS_X
};

/* KS_METRIC_PUTS: the row's number. */
enum ks_metric {
#define KS_METRICS_X(id, ...) KS_METRIC_##id,
	KS_METRICS(KS_METRICS_X)
#undef KS_METRICS_X
		KS_METRIC_ROWS
};

/* KS_METRIC_CELL_PUTS: the first cell of the row; the next row follows its last one. */
enum {
#define KS_METRICS_X(id, type, show, label, more, buckets, name, help) \
	KS_METRIC_CELL_##id,                                           \
		KS_METRIC_CELL_LAST_##id =                             \
			KS_METRIC_CELL_##id +                          \
			KS_METRIC_LABEL_SIZE_##label * KS_METRIC_LABEL_SIZE_##more * KS_METRIC_CELLS_##buckets - 1,
	KS_METRICS(KS_METRICS_X)
#undef KS_METRICS_X
		KS_METRIC_CELLS
};
/* KS_METRIC_STEP_PUTS: cells of one series; KS_METRIC_USES_PUTS: its buckets. */
enum {
#define KS_METRICS_X(id, type, show, label, more, buckets, name, help) \
	KS_METRIC_STEP_##id = KS_METRIC_CELLS_##buckets, KS_METRIC_USES_##id = KS_METRIC_BUCKETS_##buckets,
	KS_METRICS(KS_METRICS_X)
#undef KS_METRICS_X
};

#define KS_COUNT(ID, number) ks_metrics_add__(KS_METRIC_CELL_##ID, (uint64_t)(number))
#define KS_COUNT_AT(ID, index, number)                                                                         \
	ks_metrics_add__(ks_metrics_cell__(KS_METRIC_CELL_##ID, KS_METRIC_CELL_LAST_##ID, 1, (size_t)(index)), \
			 (uint64_t)(number))
#define KS_SET(ID, value) ks_metrics_set__(KS_METRIC_CELL_##ID, (double)(value))
#define KS_SET_AT(ID, index, value)                                                                            \
	ks_metrics_set__(ks_metrics_cell__(KS_METRIC_CELL_##ID, KS_METRIC_CELL_LAST_##ID, 1, (size_t)(index)), \
			 (double)(value))
#define KS_OBSERVE(ID, value) KS_OBSERVE_AT(ID, 0, value)
#define KS_OBSERVE_AT(ID, index, value)                                                                            \
	ks_metrics_observe__(ks_metrics_cell__(KS_METRIC_CELL_##ID, KS_METRIC_CELL_LAST_##ID, KS_METRIC_STEP_##ID, \
					       (size_t)(index)),                                                   \
			     (enum ks_metrics_buckets)KS_METRIC_USES_##ID, (int64_t)(value))

/* Nanoseconds since an arbitrary start, for KS_OBSERVE. */
static inline int64_t ks_metrics_now(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---- reading ---- */

enum ks_metrics_format {
	KS_METRICS_PROMETHEUS,  /* text 0.0.4 */
	KS_METRICS_OPENMETRICS, /* 1.0.0 */
	KS_METRICS_JSON,        /* an object of numbers by series, for /debug/vars */
};
/* What the Accept header of a request asks for; NULL or empty: Prometheus' text. */
enum ks_metrics_format ks_metrics_negotiate(const char *accept);
const char *ks_metrics_content_type(enum ks_metrics_format format);
/* Asks the sources, then appends everything to 'buf'. */
void ks_metrics_render(struct ks_buf *buf, enum ks_metrics_format format);
/* The value of one series, all shards together: a histogram's is its count. For tests and the program's own decisions. */
double ks_metrics_value(enum ks_metric metric, size_t index);

struct ks_metrics_sink;
struct ks_metrics_source {
	void (*ask)(struct ks_metrics_source *source, struct ks_metrics_sink *sink);
	struct ks_metrics_source *next;
};
/* The source is its owner's, who removes it before it goes; after that no call is running or will come. */
void ks_metrics_add_source(struct ks_metrics_source *source);
void ks_metrics_remove_source(struct ks_metrics_source *source);
/*
 * In a source: one series of a SAMPLED row. 'labels' is a format that gives what stands between the braces, for instance
 * "server_id=\"%llx\""; foreign text must go through ks_metrics_quote. At most 128 bytes; a few dozen samples.
 */
void ks_metrics_sample(struct ks_metrics_sink *sink, enum ks_metric metric, double value, const char *labels, ...)
	KS_PRINTF(4, 5);
/* Copies a label's value with backslash, quote and newline escaped; cut where 'size' ends. */
void ks_metrics_quote(const char *text, char *out, size_t size);

/* ---- settings, before anything counts ---- */

struct ks_metrics_method {
	const char *path; /* "/etcdserverpb.KV/Range" */
	const char *type; /* "unary", "server_stream", "bidi_stream" */
};
/* Gives the values of the label METHOD, by index. Borrowed for the call; the last call counts. At most its size. */
void ks_metrics_name_methods(const struct ks_metrics_method *methods, size_t count);
/* --metrics=extensive. */
void ks_metrics_set_extensive(bool extensive);
bool ks_metrics_extensive(void);
/* Rows whose name begins with one of these (a list that ends with NULL, and lives on) are not shown: they are of what this program lacks. */
void ks_metrics_leave_out(const char *const *prefixes);

/* ---- inside: what the macros stand on ---- */

#define KS_METRICS_SHARDS 33 /* the last one is shared */

struct ks_metrics_shard {
	alignas(64) _Atomic uint64_t cells[KS_METRIC_CELLS];
	bool shared;
};
extern _Thread_local struct ks_metrics_shard *ks_metrics_shard__;
struct ks_metrics_shard *ks_metrics_attach__(void);
void ks_metrics_set__(size_t cell, double value);
void ks_metrics_observe__(size_t cell, enum ks_metrics_buckets buckets, int64_t value);

static inline size_t ks_metrics_cell__(size_t first, size_t last, size_t step, size_t index)
{
	KS_ASSERT(first + step * index <= last);
	return first + step * index;
}

/* Relaxed: a reader wants the number, not an order. Only the owner stores into a shard that is not shared. */
static inline void ks_metrics_add__(size_t cell, uint64_t number)
{
	struct ks_metrics_shard *shard = ks_metrics_shard__;
	_Atomic uint64_t *at;

	if (!shard)
		shard = ks_metrics_attach__();
	at = &shard->cells[cell];
	if (shard->shared)
		atomic_fetch_add_explicit(at, number, memory_order_relaxed);
	else
		atomic_store_explicit(at, atomic_load_explicit(at, memory_order_relaxed) + number,
				      memory_order_relaxed);
}

#endif
