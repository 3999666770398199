/* SPDX-License-Identifier: Apache-2.0 */
/* The histogram of bench.h: values below 64 exactly, above that 64 buckets for each power of two. */
#include <inttypes.h>
#include <sys/resource.h>

#include "tests/bench/bench.h"

static size_t bucket_of(uint64_t us)
{
	int shift;
	size_t bucket;

	if (us < HIST_SUB)
		return (size_t)us;
	shift = 63 - __builtin_clzll(us) - 6;
	bucket = (size_t)(shift + 1) * HIST_SUB + (size_t)((us >> shift) - HIST_SUB);
	return bucket < HIST_BUCKETS ? bucket : HIST_BUCKETS - 1;
}

/* The middle of a bucket. */
static uint64_t value_of(size_t bucket)
{
	size_t shift;

	if (bucket < HIST_SUB)
		return bucket;
	shift = bucket / HIST_SUB - 1;
	return ((bucket % HIST_SUB + HIST_SUB) << shift) + ((1ull << shift) >> 1);
}

void hist_add(struct hist *hist, uint64_t us)
{
	hist_add_many(hist, us, 1);
}

void hist_add_many(struct hist *hist, uint64_t us, uint64_t count)
{
	uint64_t max = atomic_load_explicit(&hist->max_us, memory_order_relaxed);

	atomic_fetch_add_explicit(&hist->count[bucket_of(us)], count, memory_order_relaxed);
	atomic_fetch_add_explicit(&hist->total, count, memory_order_relaxed);
	atomic_fetch_add_explicit(&hist->sum_us, us * count, memory_order_relaxed);
	while (us > max && !atomic_compare_exchange_weak_explicit(&hist->max_us, &max, us, memory_order_relaxed,
								  memory_order_relaxed))
		;
}

uint64_t hist_percentile(const struct hist *hist, double percent)
{
	uint64_t total = atomic_load(&hist->total), seen = 0;
	uint64_t rank = (uint64_t)((double)total * percent / 100.0);

	for (size_t bucket = 0; bucket < HIST_BUCKETS; bucket++) {
		seen += atomic_load(&hist->count[bucket]);
		if (seen > rank)
			return value_of(bucket);
	}
	return atomic_load(&hist->max_us);
}

void hist_print(const struct hist *hist)
{
	uint64_t total = atomic_load(&hist->total);

	printf(",\"latency_us\":{\"mean\":%.1f,\"p50\":%" PRIu64 ",\"p90\":%" PRIu64 ",\"p99\":%" PRIu64
	       ",\"p999\":%" PRIu64 ",\"max\":%" PRIu64 "}",
	       total ? (double)atomic_load(&hist->sum_us) / (double)total : 0.0, hist_percentile(hist, 50),
	       hist_percentile(hist, 90), hist_percentile(hist, 99), hist_percentile(hist, 99.9),
	       atomic_load(&hist->max_us));
}

double cpu_seconds(void)
{
	struct rusage usage;

	(void)getrusage(RUSAGE_SELF, &usage);
	return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
	       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

void cpu_print(double cpu_s, double seconds)
{
	printf(",\"client_cpu\":%.2f", cpu_s / seconds);
}
