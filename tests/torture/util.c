/* SPDX-License-Identifier: Apache-2.0 */
/* Time, chance, the history's file, clients. See torture.h. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/panic.h"
#include "tests/torture/torture.h"

int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void sleep_ms(long ms)
{
	nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

/* SplitMix64. */
unsigned draw(uint64_t *state, unsigned below)
{
	uint64_t mixed = *state += 0x9e3779b97f4a7c15u;

	mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
	mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
	mixed ^= mixed >> 31;
	return (unsigned)(mixed % below);
}

void see_revision(_Atomic int64_t *newest, int64_t revision)
{
	int64_t seen = atomic_load(newest);

	while (revision > seen && !atomic_compare_exchange_weak(newest, &seen, revision))
		;
}

/* The line with its time goes to stdout, which is the run's log. */
static void log_line(const char *format, va_list args)
{
	struct timespec now;
	struct tm parts;
	char line[600];

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &parts);
	vsnprintf(line, sizeof(line), format, args);
	printf("%02d:%02d:%02d.%03ld %10" PRId64 " ms  %s\n", parts.tm_hour, parts.tm_min, parts.tm_sec,
	       now.tv_nsec / 1000000, now_ns() / 1000000, line);
	fflush(stdout);
}

void say(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	log_line(format, args);
	va_end(args);
}

void record_op(struct run *run, const struct op *op)
{
	if (op->outcome == OP_OK)
		see_revision(&run->newest, op->revision);
	pthread_mutex_lock(&run->history_mutex);
	if (!history_write_op(run->history, op))
		run->write_failed = true;
	pthread_mutex_unlock(&run->history_mutex);
}

void record_watch(struct run *run, const struct watch_record *record)
{
	pthread_mutex_lock(&run->history_mutex);
	if (!history_write_watch(run->history, record))
		run->write_failed = true;
	pthread_mutex_unlock(&run->history_mutex);
}

void record_hash(struct run *run, const struct hash_record *record)
{
	pthread_mutex_lock(&run->history_mutex);
	if (!history_write_hash(run->history, record))
		run->write_failed = true;
	pthread_mutex_unlock(&run->history_mutex);
}

void record_fault(struct run *run, const char *kind, const char *format, ...)
{
	struct fault_record record = {.at_ns = now_ns()};
	char text[200];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	snprintf(record.kind, sizeof(record.kind), "%s", kind);
	say("fault %s: %s", kind, text);
	pthread_mutex_lock(&run->history_mutex);
	if (!history_write_fault(run->history, &record, text))
		run->write_failed = true;
	pthread_mutex_unlock(&run->history_mutex);
}

void complain(struct run *run, const char *format, ...)
{
	char text[400];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	for (char *c = text; *c; c++) /* it stands in JSON */
		if (*c == '"' || *c == '\\' || (unsigned char)*c < ' ')
			*c = '\'';
	say("WRONG: %s", text);
	pthread_mutex_lock(&run->history_mutex);
	if (run->complaints++ < 100 && !history_write_complaint(run->history, text))
		run->write_failed = true;
	pthread_mutex_unlock(&run->history_mutex);
}

static struct etcdc *open_endpoints(const char *const *endpoints, size_t count, int64_t timeout_ms)
{
	struct etcdc_config config = {.endpoints = endpoints,
				      .endpoint_count = count,
				      .timeout_ms = timeout_ms,
				      .connect_timeout_ms = 1000,
				      .keepalive_ms = 5000};
	struct etcdc_err err;
	struct etcdc *client = etcdc_open(&config, &err);

	if (!client) {
		say("no client: %s", err.text);
		exit(2);
	}
	return client;
}

struct etcdc *open_client(const struct run *run, unsigned first, bool all, int64_t timeout_ms)
{
	unsigned count = run->options.instances;
	char texts[MAX_INSTANCES][32];
	const char *endpoints[MAX_INSTANCES];

	for (unsigned i = 0; i < count; i++) {
		snprintf(texts[i], sizeof(texts[i]), "127.0.0.1:%d", run->instances[(first + i) % count].client_port);
		endpoints[i] = texts[i];
	}
	return open_endpoints(endpoints, all ? count : 1, timeout_ms);
}

struct etcdc *open_direct(const struct instance *instance, int64_t timeout_ms)
{
	char text[32];
	const char *endpoint = text;

	snprintf(text, sizeof(text), "127.0.0.1:%d", instance->port);
	return open_endpoints(&endpoint, 1, timeout_ms);
}
