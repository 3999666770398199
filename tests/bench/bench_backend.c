/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How fast a SQL backend appends and reads, without a server around it:
 *
 *	bench_backend URL
 *
 * The database is left as it is: give it one of its own. The numbers of docs/backends.md come from here.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "sqlbackends/sqlb.h"

static const struct sqlb_ops *ops;
static struct sqlb_conn *conn;
static int64_t position;

static void must(const char *what, enum sqlb_outcome outcome, const struct ks_err *err)
{
	if (outcome == SQLB_OK)
		return;
	fprintf(stderr, "%s: %s: %s\n", what, sqlb_outcome_name(outcome), err->text);
	exit(1);
}

static double now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static int by_size(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;

	return (left > right) - (left < right);
}

static void append(size_t rows, size_t times, size_t value_size)
{
	struct sqlb_row *batch = calloc(rows, sizeof(*batch));
	char(*keys)[48] = calloc(rows, sizeof(*keys));
	double *took = calloc(times, sizeof(*took));
	uint8_t *value = calloc(1, value_size);
	double total = 0;

	if (!batch || !keys || !took || !value)
		abort();
	memset(value, 'v', value_size);
	for (size_t i = 0; i < times; i++) {
		struct sqlb_append what = {.rows = batch, .row_count = rows};
		struct ks_err err;
		bool appended;

		for (size_t r = 0; r < rows; r++) {
			position++;
			snprintf(keys[r], sizeof(keys[r]), "/registry/pods/default/%08lld", (long long)position);
			batch[r] = (struct sqlb_row){.position = position,
						     .rows = 1,
						     .kind = 1,
						     .revision = position + 1,
						     .key = ks_slice_str(keys[r]),
						     .value = ks_slice_of(value, value_size),
						     .create_revision = position + 1,
						     .version = 1,
						     .writer = 0x123456789abcdef,
						     .batch = (int64_t)i};
		}
		took[i] = now_us();
		must("append", ops->append(conn, &what, &appended, &err), &err);
		took[i] = now_us() - took[i];
		total += took[i];
	}
	qsort(took, times, sizeof(*took), by_size);
	printf("append %5zu x %7zu bytes: mean %9.1f  p50 %9.1f  p99 %9.1f  max %9.1f us, %9.0f rows/s\n", rows,
	       value_size, total / (double)times, took[times / 2], took[times * 99 / 100], took[times - 1],
	       (double)(rows * times) / total * 1e6);
	fflush(stdout);
	free(batch);
	free(keys);
	free(took);
	free(value);
}

static bool count(void *ctx, const struct sqlb_row *row)
{
	(void)row;
	++*(size_t *)ctx;
	return true;
}

static void read_back(void)
{
	struct sqlb_head head;
	struct ks_err err;
	size_t rows = 0;
	double took = now_us();
	bool more;

	must("read_rows", ops->read_rows(conn, 0, -1, SIZE_MAX, count, &rows, &more, &err), &err);
	took = now_us() - took;
	printf("read_rows %zu rows: %.2f us a row\n", rows, took / (double)rows);
	took = now_us();
	for (int i = 0; i < 2000; i++)
		must("read_head", ops->read_head(conn, &head, &err), &err);
	printf("read_head: %.2f us\n", (now_us() - took) / 2000);
	took = now_us();
	for (int i = 0; i < 2000; i++) {
		struct sqlb_loc loc = {(int64_t)i * 7919 % position + 1, 0};

		must("read_at", ops->read_at(conn, &loc, 1, count, &rows, &err), &err);
	}
	printf("read_at of one row: %.2f us\n", (now_us() - took) / 2000);
}

int main(int argc, char **argv)
{
	struct sqlb_head head;
	struct sqlb_db *db;
	struct ks_err err;
	uint64_t cluster_id;

	if (argc != 2) {
		fprintf(stderr, "usage: bench_backend URL\n");
		return 2;
	}
	ops = sqlb_find(argv[1], &err);
	if (!ops || ops->open(argv[1], ".", &db, &err) != KS_OK) {
		fprintf(stderr, "%s\n", err.text);
		return 1;
	}
	must("connect", ops->connect(db, &conn, &err), &err);
	must("migrate", ops->migrate(conn, &cluster_id, &err), &err);
	must("read_head", ops->read_head(conn, &head, &err), &err);
	position = head.position;
	append(1, 3000, 100);
	append(100, 1000, 100);
	append(1000, 600, 100);
	append(16384, 10, 100);
	append(1, 2000, 2000);
	append(100, 300, 2000);
	append(1, 60, 1500000);
	read_back();
	ops->disconnect(conn);
	ops->close(db);
	return 0;
}
