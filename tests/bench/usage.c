/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the server under load and its database use: processor time to the nanosecond, of all their threads, and resident memory.
 */
#include <inttypes.h>
#include <unistd.h>

#include "tests/bench/bench.h"

static int64_t cpu_ns_of(int pid)
{
	struct timespec used;
	clockid_t clock;

	if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &used) != 0)
		return -1;
	return (int64_t)used.tv_sec * 1000000000 + used.tv_nsec;
}

/* 0 when it cannot be read. */
static int64_t rss_kib_of(int pid)
{
	long long pages = 0;
	char path[64];
	FILE *file;

	(void)snprintf(path, sizeof(path), "/proc/%d/statm", pid);
	file = fopen(path, "r");
	if (!file)
		return 0;
	if (fscanf(file, "%*s %lld", &pages) != 1)
		pages = 0;
	(void)fclose(file);
	return pages * sysconf(_SC_PAGESIZE) / 1024;
}

void usage_take(const struct bench *bench, struct bench_usage *usage)
{
	for (int i = 0; i < bench->pid_count; i++)
		usage->cpu_ns[i] = cpu_ns_of(bench->pids[i]);
	usage->rss_kib = bench->pid_count ? rss_kib_of(bench->pids[0]) : 0;
}

void usage_print_cpu(const struct bench *bench, const char *name, const struct bench_usage *before,
		     const struct bench_usage *after, double count)
{
	int64_t server_ns = 0, database_ns = 0;

	if (!bench->pid_count || count <= 0)
		return;
	for (int i = 0; i < bench->pid_count; i++) {
		/* A process of the database that came or went between has nothing to do with the load. */
		if (before->cpu_ns[i] < 0 || after->cpu_ns[i] < 0)
			continue;
		*(i ? &database_ns : &server_ns) += after->cpu_ns[i] - before->cpu_ns[i];
	}
	printf(",\"%sserver_cpu_us\":%.3f,\"%sdatabase_cpu_us\":%.3f", name, (double)server_ns / 1000 / count, name,
	       (double)database_ns / 1000 / count);
}

void usage_print_rss(const struct bench *bench, const char *name, const struct bench_usage *before,
		     const struct bench_usage *after)
{
	if (bench->pid_count)
		printf(",\"%srss_kib\":[%" PRId64 ",%" PRId64 "]", name, before->rss_kib, after->rss_kib);
}
