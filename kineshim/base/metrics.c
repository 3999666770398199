/* SPDX-License-Identifier: Apache-2.0 */
/* Where the metrics are kept: shards, gauges that were set, sources, and the numbers of the process itself. */
#include "base/metrics.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/metrics_priv.h"
#include "base/thread.h"

_Thread_local struct ks_metrics_shard *ks_metrics_shard__;

static struct ks_metrics_shard shards[KS_METRICS_SHARDS] = {[KS_METRICS_SHARDS - 1].shared = true};
/* Of gauges: the bits of a double; all 0 for one that was never set. */
static _Atomic uint64_t set_cells[KS_METRIC_CELLS];
static _Atomic bool extensive_wanted;

/* Guards who has which shard. An ended thread's counts are seen by the next owner because both pass through here. */
static pthread_mutex_t shards_lock = PTHREAD_MUTEX_INITIALIZER;
static bool taken[KS_METRICS_SHARDS - 1];
static pthread_key_t shard_key;
static bool key_made;

/* Guards the sources, and is held while they are asked. */
static pthread_mutex_t sources_lock = PTHREAD_MUTEX_INITIALIZER;
static struct ks_metrics_source *sources;

/* ---- shards ---- */

static void give_back(void *value)
{
	struct ks_metrics_shard *shard = value;

	/* Other destructors of this thread may still count: they get a shard again, or the shared one. */
	ks_metrics_shard__ = NULL;
	(void)pthread_mutex_lock(&shards_lock);
	taken[shard - shards] = false;
	(void)pthread_mutex_unlock(&shards_lock);
}

struct ks_metrics_shard *ks_metrics_attach__(void)
{
	struct ks_metrics_shard *shard = &shards[KS_METRICS_SHARDS - 1];

	(void)pthread_mutex_lock(&shards_lock);
	if (!key_made)
		key_made = pthread_key_create(&shard_key, give_back) == 0;
	for (size_t i = 0; key_made && i < KS_METRICS_SHARDS - 1; i++) {
		if (taken[i])
			continue;
		if (pthread_setspecific(shard_key, &shards[i]) == 0) {
			taken[i] = true;
			shard = &shards[i];
		}
		break;
	}
	(void)pthread_mutex_unlock(&shards_lock);
	ks_metrics_shard__ = shard;
	return shard;
}

uint64_t ks_metrics_sum(size_t cell)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < KS_METRICS_SHARDS; i++)
		sum += atomic_load_explicit(&shards[i].cells[cell], memory_order_relaxed);
	return sum;
}

/* ---- gauges, histograms ---- */

void ks_metrics_set__(size_t cell, double value)
{
	uint64_t bits;

	if (value == 0)
		value = -0.0; /* whose bits are not all 0 */
	memcpy(&bits, &value, sizeof(bits));
	atomic_store_explicit(&set_cells[cell], bits, memory_order_relaxed);
}

bool ks_metrics_used(size_t cell)
{
	return atomic_load_explicit(&set_cells[cell], memory_order_relaxed) || ks_metrics_sum(cell);
}

double ks_metrics_gauge(size_t cell)
{
	uint64_t bits = atomic_load_explicit(&set_cells[cell], memory_order_relaxed);
	double value;

	memcpy(&value, &bits, sizeof(value));
	return value + (double)(int64_t)ks_metrics_sum(cell);
}

void ks_metrics_observe__(size_t cell, enum ks_metrics_buckets buckets, int64_t value)
{
	const struct ks_metrics_bounds *shape = &ks_metrics_bounds[buckets];
	size_t low = 0, high = shape->count;

	if (value < 0)
		value = 0;
	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (shape->bounds[middle] < (uint64_t)value)
			low = middle + 1;
		else
			high = middle;
	}
	ks_metrics_add__(cell + low, 1); /* behind the last bound: +Inf */
	ks_metrics_add__(cell + shape->count + 1, (uint64_t)value);
}

double ks_metrics_value(enum ks_metric metric, size_t index)
{
	const struct ks_metrics_row *row = &ks_metrics_rows[metric];
	uint64_t count = 0;

	KS_ASSERT(index < ks_metrics_series(row));
	if (row->type == KS_METRIC_COUNTER)
		return (double)ks_metrics_sum(row->cell + index);
	if (row->type == KS_METRIC_GAUGE)
		return ks_metrics_gauge(row->cell + index);
	for (size_t i = 0; i <= ks_metrics_bounds[row->buckets].count; i++)
		count += ks_metrics_sum(row->cell + index * row->step + i);
	return (double)count;
}

/* ---- sources ---- */

void ks_metrics_add_source(struct ks_metrics_source *source)
{
	(void)pthread_mutex_lock(&sources_lock);
	source->next = sources;
	sources = source;
	(void)pthread_mutex_unlock(&sources_lock);
}

void ks_metrics_remove_source(struct ks_metrics_source *source)
{
	struct ks_metrics_source **at = &sources;

	(void)pthread_mutex_lock(&sources_lock);
	while (*at && *at != source)
		at = &(*at)->next;
	if (*at)
		*at = source->next;
	(void)pthread_mutex_unlock(&sources_lock);
}

/* ---- the process ---- */

/* Above this many, they are counted once a second: it takes a while, and anybody may ask for the metrics all the time. */
#define MANY_DESCRIPTORS 1000

static size_t count_descriptors(void)
{
	DIR *folder = opendir("/proc/self/fd");
	size_t count = 0;

	if (!folder)
		return 0;
	for (const struct dirent *entry; (entry = readdir(folder));)
		count += entry->d_name[0] != '.';
	(void)closedir(folder);
	return count > 0 ? count - 1 : 0; /* less the folder itself */
}

static size_t descriptors_lately(void)
{
	static _Atomic uint64_t counted_ns; /* 0: not yet */
	static _Atomic size_t counted;
	uint64_t now = (uint64_t)ks_metrics_now();

	if (!counted_ns || counted < MANY_DESCRIPTORS || now - counted_ns > 1000000000) {
		counted = count_descriptors();
		counted_ns = now;
	}
	return counted;
}

/* The numbers of /proc/self/stat behind the program's name, which may hold anything but a last parenthesis. */
static size_t read_stat(unsigned long long *numbers, size_t most)
{
	char text[1024];
	FILE *file = fopen("/proc/self/stat", "re");
	size_t size = file ? fread(text, 1, sizeof(text) - 1, file) : 0, count = 0;
	char *at;

	if (file)
		(void)fclose(file);
	text[size] = '\0';
	at = strrchr(text, ')');
	if (!at || strlen(at) < 4)
		return 0;
	at += 3; /* ") S": the state is no number */
	while (count < most && *at) {
		char *end;

		numbers[count] = strtoull(at, &end, 10);
		if (end == at)
			break;
		count++;
		at = end;
	}
	return count;
}

static double boot_time(void)
{
	FILE *file = fopen("/proc/stat", "re");
	unsigned long long seconds = 0;
	char line[256];

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "btime %llu", &seconds) == 1)
			break;
	if (file)
		(void)fclose(file);
	return (double)seconds;
}

/* Fields of proc(5), counted from the fourth, the parent's id. */
enum { UTIME = 10, STIME = 11, NUM_THREADS = 16, STARTTIME = 18, VSIZE = 19, RSS = 20, STAT_NUMBERS };

static void set_limit(size_t cell, const struct rlimit *limit)
{
	ks_metrics_set__(cell, limit->rlim_cur == RLIM_INFINITY ? (double)UINT64_MAX : (double)limit->rlim_cur);
}

static void ask_process(struct ks_metrics_sink *sink)
{
	static _Atomic int64_t started; /* does not change, and is not read twice */
	unsigned long long stat[STAT_NUMBERS];
	double ticks = (double)sysconf(_SC_CLK_TCK);
	size_t descriptors = descriptors_lately();
	struct rlimit limit;

	KS_SET(OPEN_FDS, descriptors);
	KS_SET(FD_USED, descriptors);
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		set_limit(KS_METRIC_CELL_MAX_FDS, &limit);
		set_limit(KS_METRIC_CELL_FD_LIMIT, &limit);
	}
	if (getrlimit(RLIMIT_AS, &limit) == 0)
		set_limit(KS_METRIC_CELL_VIRTUAL_MAX, &limit);
	if (read_stat(stat, STAT_NUMBERS) != STAT_NUMBERS)
		return;
	if (!atomic_load(&started))
		atomic_store(&started, (int64_t)(100 * (boot_time() + (double)stat[STARTTIME] / ticks)));
	KS_SET(START_TIME, (double)atomic_load(&started) / 100);
	KS_SET(VIRTUAL, stat[VSIZE]);
	KS_SET(RESIDENT, (double)stat[RSS] * (double)sysconf(_SC_PAGESIZE));
	KS_SET(THREADS, stat[NUM_THREADS]);
	ks_metrics_sample(sink, KS_METRIC_CPU_SECONDS, (double)(stat[UTIME] + stat[STIME]) / ticks, "%s", "");
}

void ks_metrics_ask(struct ks_metrics_sink *sink)
{
	(void)pthread_mutex_lock(&sources_lock);
	ask_process(sink);
	for (struct ks_metrics_source *source = sources; source; source = source->next)
		source->ask(source, sink);
	(void)pthread_mutex_unlock(&sources_lock);
}

/* ---- settings ---- */

void ks_metrics_set_extensive(bool extensive)
{
	atomic_store_explicit(&extensive_wanted, extensive, memory_order_relaxed);
}

bool ks_metrics_extensive(void)
{
	return atomic_load_explicit(&extensive_wanted, memory_order_relaxed);
}
