/* SPDX-License-Identifier: Apache-2.0 */
/* The promises of base/: buffers and their limits, the wire writers, arenas, clocks, timers, diagnostics. */
#include "tests/lib/tap.h"

#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/backoff.h"
#include "base/buf.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/diag.h"
#include "base/list.h"
#include "base/mask.h"
#include "base/out.h"
#include "base/panic.h"
#include "base/status.h"
#include "base/thread.h"
#include "base/timer.h"

/* ---- status ---- */

static void fail_fills_and_returns(void)
{
	struct ks_err err;

	CU_ASSERT_EQUAL(ks_fail(&err, KS_NOT_FOUND, "lease %d", 7), KS_NOT_FOUND);
	CU_ASSERT_EQUAL(err.status, KS_NOT_FOUND);
	CU_ASSERT_STRING_EQUAL(err.text, "lease 7");
	CU_ASSERT_EQUAL(ks_fail(NULL, KS_ABORTED, "nobody listens"), KS_ABORTED);
}

static void fail_may_quote_its_own_text(void)
{
	struct ks_err err;

	(void)ks_fail(&err, KS_INTERNAL, "disk");
	(void)ks_fail(&err, KS_INTERNAL, "%s, while writing", err.text);
	CU_ASSERT_STRING_EQUAL(err.text, "disk, while writing");
}

static void fail_cuts_long_texts(void)
{
	struct ks_err err;
	char text[KS_ERR_TEXT_MAX * 2];

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	(void)ks_fail(&err, KS_INTERNAL, "%s", text);
	CU_ASSERT_EQUAL(strlen(err.text), KS_ERR_TEXT_MAX - 1);
}

static void fail_hides_passwords_also_those_that_are_cut(void)
{
	struct ks_err err;
	char text[KS_ERR_TEXT_MAX * 8];

	(void)ks_fail(&err, KS_INTERNAL, "cannot read postgres://u:hunter2@h/d: no such file");
	CU_ASSERT_STRING_EQUAL(err.text, "cannot read postgres://u:***@h/d: no such file");
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	(void)ks_fail(&err, KS_INTERNAL, "cannot read postgres://u:hunter2%s@h/d", text);
	CU_ASSERT_STRING_EQUAL(err.text, "cannot read postgres://u:***");
	(void)ks_fail(&err, KS_INTERNAL, "http://host:2379 %s", text);
	CU_ASSERT_EQUAL(strncmp(err.text, "http://host:2379 xxx", 20), 0);
}

static void masking_takes_passwords_and_little_else(void)
{
	static const char *const cases[][2] = {
		{"", ""},
		{"a: b@c", "a: b@c"},
		{"urls=http://10.0.0.1:2379,http://10.0.0.2:2379", "urls=http://10.0.0.1:2379,http://10.0.0.2:2379"},
		{"http://u@h:1 and x@y", "http://u@h:1 and x@y"},
		{"\"mysql://u:hun@ter2@tcp(h:1)/d\" is", "\"mysql://u:***@tcp(h:1)/d\" is"},
		{"mysql://u:hun/ter2@tcp(h:1)/d?a=b", "mysql://u:***@tcp(h:1)/d?a=b"},
		{"mssql://sa:x@h a://b:hunter2@c", "mssql://sa:*@h a://b:***@c"},
		{"mssql://h?database=d;PWD={hun;ter2};x=y", "mssql://h?database=d;PWD=***;x=y"},
		{"mssql://h?pwd={a}}b};x=y", "mssql://h?pwd=***;x=y"},
		{"postgres://h/d?sslpassword='a\\'b c'&x=1", "postgres://h/d?sslpassword=***&x=1"},
		{"postgres://h/d?password=a&sslpassword=bcde", "postgres://h/d?password=*&sslpassword=***"},
		{"postgres://u:@h", "postgres://u:@h"},
		{"postgres://user:password@h?pwd=hunter2", "postgres://user:password@h?pwd=***"},
		{"://", "://"},
	};
	char text[200];

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		(void)snprintf(text, sizeof(text), "%s", cases[i][0]);
		ks_mask(text, false);
		CU_ASSERT_STRING_EQUAL(text, cases[i][1]);
		if (strcmp(text, cases[i][1]) != 0)
			printf("# %s -> %s\n", cases[i][0], text);
	}
}

static void every_status_has_its_grpc_name(void)
{
	CU_ASSERT_STRING_EQUAL(ks_status_name(KS_OK), "OK");
	CU_ASSERT_STRING_EQUAL(ks_status_name(KS_OUT_OF_RANGE), "OUT_OF_RANGE");
	CU_ASSERT_STRING_EQUAL(ks_status_name(KS_UNAUTHENTICATED), "UNAUTHENTICATED");
	for (int i = 0; i <= KS_UNAUTHENTICATED; i++)
		CU_ASSERT_PTR_NOT_NULL(ks_status_name((enum ks_status)i));
}

/* ---- bytes ---- */

static void slices_order_bytewise_and_prefix_first(void)
{
	CU_ASSERT(ks_slice_cmp(ks_slice_str("a"), ks_slice_str("ab")) < 0);
	CU_ASSERT(ks_slice_cmp(ks_slice_of("a\0", 2), ks_slice_str("a")) > 0);
	CU_ASSERT(ks_slice_cmp(ks_slice_of("\xff", 1), ks_slice_of("\x01\x01", 2)) > 0);
	CU_ASSERT(ks_slice_cmp(ks_slice_of(NULL, 0), ks_slice_of(NULL, 0)) == 0);
	CU_ASSERT(ks_slice_cmp(ks_slice_of(NULL, 0), ks_slice_str("a")) < 0);
	CU_ASSERT_TRUE(ks_slice_eq(ks_slice_of(NULL, 0), ks_slice_str("")));
	CU_ASSERT_FALSE(ks_slice_eq(ks_slice_str("a"), ks_slice_str("b")));
}

static void bytes_copy_and_count(void)
{
	struct ks_bytes *bytes = ks_bytes_copy(ks_slice_of("k\0v", 3));
	struct ks_bytes *again;

	CU_ASSERT_PTR_NOT_NULL_FATAL(bytes);
	again = ks_bytes_ref(bytes);
	ks_bytes_unref(bytes);
	CU_ASSERT_TRUE(ks_slice_eq(ks_bytes_slice(again), ks_slice_of("k\0v", 3)));
	ks_bytes_unref(again);
	ks_bytes_unref(NULL);
	CU_ASSERT_PTR_NULL(ks_bytes_new((size_t)UINT32_MAX + 1));
	CU_ASSERT_EQUAL(ks_bytes_slice(NULL).size, 0);
	CU_ASSERT_PTR_NULL(ks_bytes_ref(NULL));
}

/* ---- buf ---- */

static void buf_grows_to_its_maximum_and_no_further(void)
{
	struct ks_buf buf;

	ks_buf_init(&buf, 1000);
	for (int i = 0; i < 1000; i++)
		ks_buf_append(&buf, "x", 1);
	CU_ASSERT_FALSE(buf.failed);
	CU_ASSERT_EQUAL(buf.size, 1000);
	CU_ASSERT(buf.capacity <= 1000);
	ks_buf_append(&buf, "x", 1);
	CU_ASSERT_TRUE(buf.failed);
	ks_buf_fini(&buf);
}

static void buf_failure_sticks_until_reset(void)
{
	struct ks_buf buf;

	ks_buf_init(&buf, 4);
	CU_ASSERT_FALSE(ks_buf_reserve(&buf, 5));
	ks_buf_append(&buf, "a", 1);
	CU_ASSERT_EQUAL(buf.size, 0);
	ks_buf_reset(&buf);
	ks_buf_append(&buf, "abcd", 4);
	CU_ASSERT_FALSE(buf.failed);
	CU_ASSERT_FALSE(ks_buf_reserve(&buf, SIZE_MAX));
	ks_buf_fini(&buf);
}

static void buf_without_room_takes_nothing_but_nothing(void)
{
	struct ks_buf buf;

	ks_buf_init(&buf, 0);
	ks_buf_append(&buf, NULL, 0);
	CU_ASSERT_FALSE(buf.failed);
	ks_buf_append(&buf, "x", 1);
	CU_ASSERT_TRUE(buf.failed);
	ks_buf_fini(&buf);
}

static void buf_printf_takes_short_and_long_texts(void)
{
	struct ks_buf buf;
	char text[1000];

	memset(text, 'y', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	ks_buf_init(&buf, SIZE_MAX);
	ks_buf_printf(&buf, "%d-", 42);
	ks_buf_printf(&buf, "%s", text);
	CU_ASSERT_EQUAL(buf.size, 3 + sizeof(text) - 1);
	CU_ASSERT(memcmp(buf.data, "42-yyy", 6) == 0);
	ks_buf_fini(&buf);
}

static void buf_take_moves_the_memory_out(void)
{
	struct ks_buf buf;
	uint8_t *data;
	size_t size;

	ks_buf_init(&buf, 100);
	ks_buf_append_slice(&buf, ks_slice_str("abc"));
	data = ks_buf_take(&buf, &size);
	CU_ASSERT_EQUAL(size, 3);
	CU_ASSERT(memcmp(data, "abc", 3) == 0);
	CU_ASSERT_EQUAL(buf.size, 0);
	ks_buf_append(&buf, "d", 1);
	CU_ASSERT_EQUAL(buf.size, 1);
	free(data);
	ks_buf_fini(&buf);
}

static void expect_bytes(struct ks_buf *buf, const char *expected, size_t size)
{
	CU_ASSERT_FALSE(buf->failed);
	CU_ASSERT_EQUAL(buf->size, size);
	CU_ASSERT(buf->size == size && memcmp(buf->data, expected, size) == 0);
	ks_buf_reset(buf);
}

static void wire_writers_match_the_protobuf_encoding(void)
{
	struct ks_buf buf;

	ks_buf_init(&buf, 1000);
	ks_wire_uint(&buf, 1, 150);
	expect_bytes(&buf, "\x08\x96\x01", 3);
	ks_wire_uint(&buf, 3, (uint64_t)INT64_C(-1)); /* negative int64: ten bytes */
	expect_bytes(&buf, "\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11);
	ks_wire_uint(&buf, 5, 0);
	ks_wire_bytes(&buf, 5, ks_slice_str(""));
	expect_bytes(&buf, "", 0);
	ks_wire_bytes(&buf, 2, ks_slice_str("testing"));
	expect_bytes(&buf, "\x12\x07testing", 9);
	ks_wire_nested(&buf, 11, 0);
	expect_bytes(&buf, "\x5a\x00", 2);
	ks_wire_bytes(&buf, 64, ks_slice_str("z")); /* a tag of two bytes */
	expect_bytes(&buf, "\x82\x04\x01z", 4);
	ks_buf_fini(&buf);
}

static void wire_sizes_are_those_of_the_writers(void)
{
	static const uint64_t values[] = {0, 1, 127, 128, 16383, 16384, UINT32_MAX, UINT64_MAX / 2, UINT64_MAX};
	static const uint32_t fields[] = {1, 15, 16, 64, 2047, 2048, 536870911};
	struct ks_buf buf;

	ks_buf_init(&buf, 100000);
	for (size_t f = 0; f < sizeof(fields) / sizeof(fields[0]); f++) {
		for (size_t v = 0; v < sizeof(values) / sizeof(values[0]); v++) {
			size_t size = (size_t)(values[v] % 300);
			char text[300] = {0};

			ks_wire_uint(&buf, fields[f], values[v]);
			CU_ASSERT_EQUAL(buf.size, ks_wire_uint_size(fields[f], values[v]));
			ks_buf_reset(&buf);
			ks_wire_bytes(&buf, fields[f], ks_slice_of(text, size));
			CU_ASSERT_EQUAL(buf.size, ks_wire_bytes_size(fields[f], size));
			ks_buf_reset(&buf);
			ks_wire_nested(&buf, fields[f], size);
			CU_ASSERT_EQUAL(buf.size + size, ks_wire_nested_size(fields[f], size));
			ks_buf_reset(&buf);
		}
	}
	ks_buf_fini(&buf);
}

/* ---- out ---- */

static struct ks_bytes *bytes_of(size_t size)
{
	struct ks_bytes *bytes = ks_bytes_new(size);

	CU_ASSERT_PTR_NOT_NULL_FATAL(bytes);
	memset(bytes->data, 'b', size);
	return bytes;
}

static void out_copies_small_bytes_and_shares_large_ones(void)
{
	struct ks_bytes *small = bytes_of(KS_OUT_SHARE_SIZE - 1);
	struct ks_bytes *large = bytes_of(KS_OUT_SHARE_SIZE);
	struct ks_out out;

	ks_out_init(&out, 100000);
	ks_wire_uint(&out.buf, 1, 1);
	ks_out_bytes(&out, small);
	CU_ASSERT_EQUAL(atomic_load(&small->refs), 1);
	ks_out_bytes(&out, large);
	CU_ASSERT_EQUAL(atomic_load(&large->refs), 2);
	CU_ASSERT_EQUAL(out.insert_count, 1);
	CU_ASSERT_EQUAL(out.inserts[0].at, 2 + KS_OUT_SHARE_SIZE - 1);
	CU_ASSERT_EQUAL(ks_out_size(&out), 2 + 2 * KS_OUT_SHARE_SIZE - 1);
	CU_ASSERT_FALSE(ks_out_failed(&out));
	ks_out_fini(&out);
	CU_ASSERT_EQUAL(atomic_load(&large->refs), 1);
	ks_bytes_unref(small);
	ks_bytes_unref(large);
}

static void out_counts_shared_bytes_in_its_maximum(void)
{
	struct ks_bytes *large = bytes_of(5000);
	struct ks_out out;

	ks_out_init(&out, 10001);
	ks_out_bytes(&out, large);
	ks_out_bytes(&out, large);
	CU_ASSERT_FALSE(ks_out_failed(&out));
	ks_buf_append(&out.buf, "x", 1);
	CU_ASSERT_FALSE(ks_out_failed(&out));
	ks_buf_append(&out.buf, "x", 1);
	CU_ASSERT_TRUE(ks_out_failed(&out));
	ks_out_fini(&out);

	ks_out_init(&out, 10000);
	ks_buf_append(&out.buf, "x", 1);
	ks_out_bytes(&out, large);
	ks_out_bytes(&out, large);
	CU_ASSERT_TRUE(ks_out_failed(&out));
	ks_out_fini(&out);
	CU_ASSERT_EQUAL(atomic_load(&large->refs), 1);
	ks_bytes_unref(large);
}

static void out_keeps_many_inserts(void)
{
	struct ks_bytes *large = bytes_of(KS_OUT_SHARE_SIZE);
	struct ks_out out;

	ks_out_init(&out, SIZE_MAX);
	for (size_t i = 0; i < 1000; i++) {
		ks_buf_append(&out.buf, "h", 1);
		ks_out_bytes(&out, large);
	}
	CU_ASSERT_EQUAL(out.insert_count, 1000);
	CU_ASSERT_EQUAL(out.inserts[999].at, 1000);
	CU_ASSERT_EQUAL(ks_out_size(&out), 1000 * (KS_OUT_SHARE_SIZE + 1));
	ks_out_fini(&out);
	ks_bytes_unref(large);
}

/* ---- arena ---- */

static void arena_memory_is_aligned_and_apart(void)
{
	struct ks_arena arena;
	char *blocks[200];

	ks_arena_init(&arena, SIZE_MAX);
	for (size_t i = 0; i < 200; i++) {
		blocks[i] = ks_arena_alloc(&arena, i * 7);
		CU_ASSERT_PTR_NOT_NULL_FATAL(blocks[i]);
		CU_ASSERT_EQUAL((uintptr_t)blocks[i] % 16, 0);
		memset(blocks[i], (int)i, i * 7);
	}
	for (size_t i = 0; i < 200; i++) {
		for (size_t j = 0; j < i * 7; j++)
			CU_ASSERT_FATAL((unsigned char)blocks[i][j] == i);
	}
	ks_arena_fini(&arena);
}

static void arena_takes_blocks_larger_than_a_chunk(void)
{
	struct ks_arena arena;
	char *large;

	ks_arena_init(&arena, SIZE_MAX);
	(void)ks_arena_alloc(&arena, 10);
	large = ks_arena_zalloc(&arena, 1000000);
	CU_ASSERT_PTR_NOT_NULL_FATAL(large);
	CU_ASSERT(large[0] == 0 && large[999999] == 0);
	ks_arena_fini(&arena);
}

static void arena_refuses_to_pass_its_limit(void)
{
	struct ks_arena arena;

	ks_arena_init(&arena, 100);
	CU_ASSERT_PTR_NOT_NULL(ks_arena_alloc(&arena, 64));
	CU_ASSERT_PTR_NULL(ks_arena_alloc(&arena, 64));
	CU_ASSERT_PTR_NOT_NULL(ks_arena_alloc(&arena, 16));
	CU_ASSERT_PTR_NULL(ks_arena_alloc(&arena, SIZE_MAX));
	CU_ASSERT_PTR_NULL(ks_arena_array(&arena, SIZE_MAX / 2, 16));
	ks_arena_fini(&arena);

	ks_arena_init(&arena, SIZE_MAX);
	CU_ASSERT_PTR_NULL(ks_arena_alloc(&arena, SIZE_MAX));
	CU_ASSERT_PTR_NULL(ks_arena_array(&arena, SIZE_MAX / 2, 16));
	CU_ASSERT_PTR_NOT_NULL(ks_arena_array(&arena, 0, 16));
	ks_arena_fini(&arena);
}

/* ---- list ---- */

struct item {
	int number;
	struct ks_list link;
};

static void list_keeps_order_and_removes_twice(void)
{
	struct ks_list list, other;
	struct item items[4];

	ks_list_init(&list);
	ks_list_init(&other);
	CU_ASSERT_PTR_NULL(ks_list_pop(&list));
	for (int i = 0; i < 4; i++) {
		items[i].number = i;
		ks_list_append(i < 2 ? &list : &other, &items[i].link);
	}
	ks_list_splice(&list, &other);
	CU_ASSERT_TRUE(ks_list_empty(&other));
	ks_list_remove(&items[1].link);
	ks_list_remove(&items[1].link);
	for (int expected = 0; expected < 4; expected++) {
		if (expected != 1)
			CU_ASSERT_EQUAL(ks_container_of(ks_list_pop(&list), struct item, link)->number, expected);
	}
	CU_ASSERT_TRUE(ks_list_empty(&list));
}

/* ---- clock, backoff ---- */

static void fake_clock_moves_only_when_told(void)
{
	struct ks_clock clock;

	ks_clock_init_fake(&clock, 500);
	CU_ASSERT_EQUAL(ks_clock_now(&clock), 500);
	ks_clock_advance(&clock, 20);
	CU_ASSERT_EQUAL(ks_clock_now(&clock), 520);
}

static void system_clock_never_goes_back(void)
{
	int64_t before = ks_clock_now(ks_clock_system());

	for (int i = 0; i < 1000; i++) {
		int64_t now = ks_clock_now(ks_clock_system());

		CU_ASSERT_FATAL(now >= before);
		before = now;
	}
}

static void backoff_doubles_with_jitter_up_to_its_maximum(void)
{
	for (uint64_t seed = 0; seed < 100; seed++) {
		struct ks_backoff backoff;
		int64_t current = 10;

		ks_backoff_init(&backoff, 10, 1000, seed);
		for (int i = 0; i < 12; i++) {
			int64_t wait = ks_backoff_failed(&backoff);

			CU_ASSERT(wait >= current / 2 && wait <= current);
			current = current * 2 > 1000 ? 1000 : current * 2;
		}
		ks_backoff_succeeded(&backoff);
		CU_ASSERT(ks_backoff_failed(&backoff) <= 10);
	}
}

static void backoff_waits_differ(void)
{
	struct ks_backoff backoff;
	int64_t first, different = 0;

	ks_backoff_init(&backoff, 1000, 1000, 1);
	first = ks_backoff_failed(&backoff);
	for (int i = 0; i < 20; i++)
		different += ks_backoff_failed(&backoff) != first;
	CU_ASSERT(different > 0);
}

static void backoff_survives_the_largest_numbers(void)
{
	struct ks_backoff backoff;

	ks_backoff_init(&backoff, INT64_MAX / 2 + 1, INT64_MAX, 3);
	for (int i = 0; i < 3; i++)
		CU_ASSERT(ks_backoff_failed(&backoff) > 0);
}

/* ---- threads ---- */

static void cond_wait_ends_when_its_time_is_over(void)
{
	struct ks_mutex mutex;
	struct ks_cond cond;
	int64_t start_ms = ks_clock_now(ks_clock_system());

	ks_mutex_init(&mutex);
	ks_cond_init(&cond);
	ks_mutex_lock(&mutex);
	while (ks_cond_wait(&cond, &mutex, 20))
		;
	ks_mutex_unlock(&mutex);
	CU_ASSERT(ks_clock_now(ks_clock_system()) - start_ms >= 19);
	ks_cond_fini(&cond);
	ks_mutex_fini(&mutex);
}

static void *report_mask_and_name(void *arg)
{
	char *name = arg;
	sigset_t mask;

	(void)pthread_sigmask(SIG_SETMASK, NULL, &mask);
	if (!sigismember(&mask, SIGTERM) || sigismember(&mask, SIGSEGV))
		return NULL;
	/* The starter names us after we began. */
	for (int i = 0; i < 10000; i++) {
		if (pthread_getname_np(pthread_self(), name, 16) == 0 && strncmp(name, "a-long-name", 11) == 0)
			break;
		usleep(500);
	}
	return name;
}

static void threads_are_named_and_leave_signals_to_main(void)
{
	char name[16] = "";
	pthread_t thread;
	sigset_t mask;

	CU_ASSERT_EQUAL_FATAL(ks_thread_start(&thread, "a-long-name-that-is-cut", report_mask_and_name, name, NULL),
			      KS_OK);
	ks_thread_join(thread);
	CU_ASSERT_STRING_EQUAL(name, "a-long-name-tha");
	(void)pthread_sigmask(SIG_SETMASK, NULL, &mask);
	CU_ASSERT_FALSE(sigismember(&mask, SIGTERM));
}

/* ---- timers ---- */

struct probe {
	struct ks_timer timer;
	struct ks_timers *timers;
	struct ks_mutex mutex;
	struct ks_cond fired;
	int count;
	int rearm; /* how often to arm again */
};

static void probe_fire(struct ks_timer *timer)
{
	struct probe *probe = ks_container_of(timer, struct probe, timer);

	ks_mutex_lock(&probe->mutex);
	probe->count++;
	if (probe->rearm > 0) {
		probe->rearm--;
		ks_timer_arm(probe->timers, timer, 1);
	}
	ks_cond_broadcast(&probe->fired);
	ks_mutex_unlock(&probe->mutex);
}

static void probe_init(struct probe *probe, struct ks_timers *timers, int rearm)
{
	*probe = (struct probe){.timers = timers, .rearm = rearm};
	ks_timer_init(&probe->timer, probe_fire);
	ks_mutex_init(&probe->mutex);
	ks_cond_init(&probe->fired);
}

static void probe_await(struct probe *probe, int count)
{
	ks_mutex_lock(&probe->mutex);
	while (probe->count < count)
		(void)ks_cond_wait(&probe->fired, &probe->mutex, -1);
	ks_mutex_unlock(&probe->mutex);
}

static void probe_fini(struct probe *probe)
{
	ks_timer_cancel(probe->timers, &probe->timer);
	ks_cond_fini(&probe->fired);
	ks_mutex_fini(&probe->mutex);
}

static void timer_fires_not_before_its_time_and_may_rearm_itself(void)
{
	struct ks_timers *timers = ks_timers_start(NULL);
	int64_t start_ms = ks_clock_now(ks_clock_system());
	struct probe probe;

	CU_ASSERT_PTR_NOT_NULL_FATAL(timers);
	probe_init(&probe, timers, 3);
	ks_timer_arm(timers, &probe.timer, 10);
	probe_await(&probe, 4);
	CU_ASSERT(ks_clock_now(ks_clock_system()) - start_ms >= 13);
	probe_fini(&probe);
	ks_timers_stop(timers);
}

static void timer_cancelled_or_stopped_never_fires(void)
{
	struct ks_timers *timers = ks_timers_start(NULL);
	struct probe gone, later, soon;

	CU_ASSERT_PTR_NOT_NULL_FATAL(timers);
	probe_init(&gone, timers, 0);
	probe_init(&later, timers, 0);
	probe_init(&soon, timers, 0);
	ks_timer_arm(timers, &gone.timer, 5);
	ks_timer_arm(timers, &later.timer, INT64_MAX);
	ks_timer_cancel(timers, &gone.timer);
	ks_timer_cancel(timers, &gone.timer);
	ks_timer_arm(timers, &soon.timer, 20);
	probe_await(&soon, 1);
	ks_timers_stop(timers);
	CU_ASSERT_EQUAL(gone.count, 0);
	CU_ASSERT_EQUAL(later.count, 0);
	ks_timers_stop(NULL);
}

static void timer_cancel_beats_a_callback_that_rearms(void)
{
	struct ks_timers *timers = ks_timers_start(NULL);

	CU_ASSERT_PTR_NOT_NULL_FATAL(timers);
	for (int i = 0; i < 50; i++) {
		struct probe probe;
		int count;

		probe_init(&probe, timers, INT32_MAX);
		ks_timer_arm(timers, &probe.timer, 0);
		probe_await(&probe, 2);
		ks_timer_cancel(timers, &probe.timer);
		count = probe.count; /* nobody writes it any more: TSan agrees */
		CU_ASSERT_EQUAL(probe.timer.slot, 0);
		CU_ASSERT(count >= 2);
		probe_fini(&probe);
	}
	ks_timers_stop(timers);
}

struct ordered {
	struct ks_timer timer;
	int64_t delay_ms;
};

static struct ordered ordered[300];
static int64_t fired_order[300];
static _Atomic int fired_count;

static void ordered_fire(struct ks_timer *timer)
{
	int index = atomic_load(&fired_count);

	fired_order[index] = ks_container_of(timer, struct ordered, timer)->timer.deadline_ms;
	atomic_store(&fired_count, index + 1);
}

static void many_timers_fire_in_order_with_every_third_cancelled(void)
{
	struct ks_timers *timers = ks_timers_start(NULL);
	struct probe last;
	uint64_t random = 12345;

	CU_ASSERT_PTR_NOT_NULL_FATAL(timers);
	atomic_store(&fired_count, 0);
	for (int i = 0; i < 300; i++) {
		random = random * 6364136223846793005u + 1442695040888963407u;
		ordered[i].delay_ms = 100 + (int64_t)(random >> 33) % 50;
		ks_timer_init(&ordered[i].timer, ordered_fire);
		ks_timer_arm(timers, &ordered[i].timer, 1000); /* and moved: */
		ks_timer_arm(timers, &ordered[i].timer, ordered[i].delay_ms);
	}
	for (int i = 0; i < 300; i += 3)
		ks_timer_cancel(timers, &ordered[i].timer);
	probe_init(&last, timers, 0);
	ks_timer_arm(timers, &last.timer, 400);
	probe_await(&last, 1);
	CU_ASSERT_EQUAL(atomic_load(&fired_count), 200);
	for (int i = 1; i < atomic_load(&fired_count); i++)
		CU_ASSERT(fired_order[i - 1] <= fired_order[i]);
	probe_fini(&last);
	ks_timers_stop(timers);
}

/* ---- diagnostics ---- */

/* What one message looks like on stderr. */
static void capture(enum ks_diag_format format, const char *message, char *out, size_t size)
{
	int saved = dup(STDERR_FILENO);
	int pipe_fds[2];
	ssize_t got;

	CU_ASSERT_FATAL(saved >= 0 && pipe(pipe_fds) == 0);
	(void)fflush(stderr);
	(void)dup2(pipe_fds[1], STDERR_FILENO);
	ks_diag_setup(KS_INFO, format);
	ks_diag(KS_DEBUG, "base", "too low to be seen");
	ks_diag(KS_WARN, "base", "%s", message);
	(void)dup2(saved, STDERR_FILENO);
	(void)close(saved);
	(void)close(pipe_fds[1]);
	got = read(pipe_fds[0], out, size - 1);
	(void)close(pipe_fds[0]);
	out[got > 0 ? got : 0] = '\0';
}

static void diag_json_escapes_what_would_break_it(void)
{
	char line[20000];

	capture(KS_DIAG_JSON, "a\"b\\c\nd\x01 \xc3\xa4 \xff\xed\xa0\x80", line, sizeof(line));
	CU_ASSERT_PTR_NOT_NULL(strstr(line,
				      "\"level\":\"warn\",\"module\":\"base\",\"msg\":\"a\\\"b\\\\c\\u000ad\\u0001 "
				      "\xc3\xa4 \xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"}\n"));
	CU_ASSERT_PTR_NULL(strstr(line, "too low"));
	CU_ASSERT(strncmp(line, "{\"ts\":\"20", 9) == 0);
}

static void diag_text_is_one_line(void)
{
	char line[20000];

	capture(KS_DIAG_TEXT, "first\nsecond \"quoted\"", line, sizeof(line));
	CU_ASSERT_PTR_NOT_NULL(strstr(line, " warn base: first\\u000asecond \"quoted\"\n"));
	CU_ASSERT_PTR_EQUAL(strchr(line, '\n'), line + strlen(line) - 1);
}

static void diag_hides_passwords(void)
{
	char out[20000];

	capture(KS_DIAG_TEXT, "cannot reach mysql://u:hunter2@tcp(h:1)/d", out, sizeof(out));
	CU_ASSERT_PTR_NULL(strstr(out, "hunter2"));
	CU_ASSERT_PTR_NOT_NULL(strstr(out, "mysql://u:***@tcp(h:1)/d"));
}

static void diag_cuts_long_messages_but_ends_the_line(void)
{
	static char message[5000], line[20000];

	memset(message, 1, sizeof(message) - 1); /* each becomes six bytes */
	capture(KS_DIAG_JSON, message, line, sizeof(line));
	CU_ASSERT(strlen(line) > 6000);
	CU_ASSERT_STRING_EQUAL(line + strlen(line) - 3, "\"}\n");
}

static void diag_parses_its_options(void)
{
	enum ks_diag_level level;
	enum ks_diag_format format;

	CU_ASSERT_TRUE(ks_diag_parse_level("debug", &level) && level == KS_DEBUG);
	CU_ASSERT_TRUE(ks_diag_parse_level("error", &level) && level == KS_ERROR);
	CU_ASSERT_FALSE(ks_diag_parse_level("loud", &level));
	CU_ASSERT_TRUE(ks_diag_parse_format("console", &format) && format == KS_DIAG_TEXT);
	CU_ASSERT_TRUE(ks_diag_parse_format("json", &format) && format == KS_DIAG_JSON);
	CU_ASSERT_FALSE(ks_diag_parse_format("", &format));
}

static void diag_limit_passes_one_and_counts_the_rest(void)
{
	struct ks_diag_limit limit = {0};
	uint32_t swallowed = 99;

	CU_ASSERT_TRUE(ks_diag_pass(&limit, &swallowed));
	CU_ASSERT_EQUAL(swallowed, 0);
	for (int i = 0; i < 5; i++)
		CU_ASSERT_FALSE(ks_diag_pass(&limit, &swallowed));
	atomic_store(&limit.next_ms, 0); /* a second later */
	CU_ASSERT_TRUE(ks_diag_pass(&limit, &swallowed));
	CU_ASSERT_EQUAL(swallowed, 5);
}

/* ---- panic ---- */

static void failed_assertion_ends_the_process(void)
{
	int status = 0;
	pid_t child;

	(void)fflush(stdout);
	child = fork();
	CU_ASSERT_FATAL(child >= 0);
	if (child == 0) {
		int null = open("/dev/null", O_WRONLY);

		(void)dup2(null, STDERR_FILENO);
		(void)signal(SIGABRT, SIG_DFL);
		KS_ASSERT(1 + 1 == 3);
		_exit(0);
	}
	CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
	CU_ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

int main(void)
{
	static const struct tap_test tests[] = {
		{"fail_fills_and_returns", fail_fills_and_returns},
		{"fail_may_quote_its_own_text", fail_may_quote_its_own_text},
		{"fail_cuts_long_texts", fail_cuts_long_texts},
		{"fail_hides_passwords_also_those_that_are_cut", fail_hides_passwords_also_those_that_are_cut},
		{"masking_takes_passwords_and_little_else", masking_takes_passwords_and_little_else},
		{"every_status_has_its_grpc_name", every_status_has_its_grpc_name},
		{"slices_order_bytewise_and_prefix_first", slices_order_bytewise_and_prefix_first},
		{"bytes_copy_and_count", bytes_copy_and_count},
		{"buf_grows_to_its_maximum_and_no_further", buf_grows_to_its_maximum_and_no_further},
		{"buf_failure_sticks_until_reset", buf_failure_sticks_until_reset},
		{"buf_without_room_takes_nothing_but_nothing", buf_without_room_takes_nothing_but_nothing},
		{"buf_printf_takes_short_and_long_texts", buf_printf_takes_short_and_long_texts},
		{"buf_take_moves_the_memory_out", buf_take_moves_the_memory_out},
		{"wire_writers_match_the_protobuf_encoding", wire_writers_match_the_protobuf_encoding},
		{"wire_sizes_are_those_of_the_writers", wire_sizes_are_those_of_the_writers},
		{"out_copies_small_bytes_and_shares_large_ones", out_copies_small_bytes_and_shares_large_ones},
		{"out_counts_shared_bytes_in_its_maximum", out_counts_shared_bytes_in_its_maximum},
		{"out_keeps_many_inserts", out_keeps_many_inserts},
		{"arena_memory_is_aligned_and_apart", arena_memory_is_aligned_and_apart},
		{"arena_takes_blocks_larger_than_a_chunk", arena_takes_blocks_larger_than_a_chunk},
		{"arena_refuses_to_pass_its_limit", arena_refuses_to_pass_its_limit},
		{"list_keeps_order_and_removes_twice", list_keeps_order_and_removes_twice},
		{"fake_clock_moves_only_when_told", fake_clock_moves_only_when_told},
		{"system_clock_never_goes_back", system_clock_never_goes_back},
		{"backoff_doubles_with_jitter_up_to_its_maximum", backoff_doubles_with_jitter_up_to_its_maximum},
		{"backoff_waits_differ", backoff_waits_differ},
		{"backoff_survives_the_largest_numbers", backoff_survives_the_largest_numbers},
		{"cond_wait_ends_when_its_time_is_over", cond_wait_ends_when_its_time_is_over},
		{"threads_are_named_and_leave_signals_to_main", threads_are_named_and_leave_signals_to_main},
		{"timer_fires_not_before_its_time_and_may_rearm_itself",
		 timer_fires_not_before_its_time_and_may_rearm_itself},
		{"timer_cancelled_or_stopped_never_fires", timer_cancelled_or_stopped_never_fires},
		{"timer_cancel_beats_a_callback_that_rearms", timer_cancel_beats_a_callback_that_rearms},
		{"many_timers_fire_in_order_with_every_third_cancelled",
		 many_timers_fire_in_order_with_every_third_cancelled},
		{"diag_json_escapes_what_would_break_it", diag_json_escapes_what_would_break_it},
		{"diag_text_is_one_line", diag_text_is_one_line},
		{"diag_hides_passwords", diag_hides_passwords},
		{"diag_cuts_long_messages_but_ends_the_line", diag_cuts_long_messages_but_ends_the_line},
		{"diag_parses_its_options", diag_parses_its_options},
		{"diag_limit_passes_one_and_counts_the_rest", diag_limit_passes_one_and_counts_the_rest},
		{"failed_assertion_ends_the_process", failed_assertion_ends_the_process},
		{NULL, NULL},
	};

	return tap_run("base", tests);
}
