/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The suite that all SQL backends share: the database of the running test, and what its files use. Names are short because
 * nothing but the suite includes this.
 */
#ifndef TESTS_SUITES_BACKEND_H
#define TESTS_SUITES_BACKEND_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "sqlbackends/memory.h"
#include "sqlbackends/sqlb.h"
#include "tests/lib/tap.h"

#define SHORT_MS 300 /* a deadline that a test waits for; two calls on a busy machine fit into it */
#define LONG_MS 60000

/* Connections 'a' and 'b' are open, and not migrated. */
struct backend_test {
	const struct sqlb_ops *ops;
	char base[1024]; /* the URL of the slot */
	char url[1200];  /* of this test's own database */
	char raw[1200];  /* of the same for SQL behind the backend's back */
	char name[64];   /* of the memory database or the schema */
	struct ks_clock clock;
	struct sqlb_db *db;
	struct sqlb_conn *a, *b;
	uint64_t cluster_id;
	struct ks_err err;
};

extern struct backend_test t;

#define OK(call)                                     \
	do {                                         \
		CU_ASSERT_TRUE(ok((call), __LINE__)) \
	} while (0)

/* What a read visited: how much, in which order, and whether each row was equal to the expected one. */
struct seen {
	size_t count;
	struct sqlb_loc locs[64]; /* of the first ones */
	const struct sqlb_row *expected;
	size_t expected_count;
	size_t wrong;
	bool unordered;
	size_t stop_after; /* 0: never */
	struct sqlb_loc last;
};

bool is(const char *backend);
bool ok(enum sqlb_outcome outcome, int line);
bool raw(const char *sql);
void connect_two(void);
void disconnect(void);
void migrate(void);
void pass_ms(int ms);
int64_t real_ms(void);
struct sqlb_row row_of(int64_t position, int32_t sub, int32_t rows, const char *key);
bool same_row(const struct sqlb_row *a, const struct sqlb_row *b);
enum sqlb_outcome append_rows(struct sqlb_conn *conn, const struct sqlb_row *rows, size_t count);
enum sqlb_outcome append_entry(struct sqlb_conn *conn, int64_t position, int32_t rows);
int64_t head_position(void);
bool see(void *ctx, const struct sqlb_row *row);
struct seen read_all(struct sqlb_conn *conn, const struct sqlb_row *expected, size_t count);

/* Those that need append_send are named here, so that backend.c leaves them out where there is none. */
#define TESTS_OF_SENDING(X)                                              \
	X(an_append_that_was_sent_is_an_append)                          \
	X(appends_on_their_way_land_in_order)                            \
	X(of_those_on_their_way_none_is_there_when_the_first_is_refused) \
	X(an_append_on_its_way_is_pending_until_it_is_answered)          \
	X(large_appends_can_be_on_their_way)                             \
	X(an_append_with_a_guard_is_not_sent)                            \
	X(a_connection_may_end_with_appends_on_their_way)

#define TESTS(X)                                                    \
	X(migrating_again_changes_nothing)                          \
	X(a_new_process_finds_the_same_log_and_cluster)             \
	X(migrating_from_four_connections_at_once_gives_one_schema) \
	X(a_foreign_log_table_is_broken_and_left_alone)             \
	X(a_newer_schema_is_broken)                                 \
	X(an_empty_log_has_head_zero_and_no_rows)                   \
	X(every_column_comes_back_as_it_went_in)                    \
	X(a_taken_position_conflicts_and_leaves_nothing)            \
	X(the_same_batch_again_conflicts_with_itself)               \
	X(an_append_behind_a_gap_conflicts)                         \
	X(an_append_into_a_trimmed_hole_conflicts)                  \
	X(an_append_onto_another_entry_conflicts)                   \
	X(two_racing_writers_leave_no_gap_and_lose_nothing)         \
	X(large_values_come_back)                                   \
	X(a_batch_of_the_maximum_comes_back)                        \
	X(an_entry_of_100000_rows_is_all_or_nothing)                \
	TESTS_OF_SENDING(X)                                         \
	X(a_load_fills_an_empty_log_and_no_other)                   \
	X(a_load_that_fails_leaves_nothing)                         \
	X(a_load_of_100000_rows_comes_back)                         \
	X(a_row_that_the_database_refuses_undoes_the_batch)         \
	X(reads_stop_between_entries_only)                          \
	X(reads_keep_to_their_bounds)                               \
	X(a_visitor_may_stop_and_the_connection_goes_on)            \
	X(a_read_sees_one_snapshot)                                 \
	X(a_long_read_sees_one_snapshot_and_each_row_as_written)    \
	X(read_at_visits_those_that_exist)                          \
	X(trimming_removes_just_these_rows)                         \
	X(the_head_survives_trimming_of_all_before)                 \
	X(appends_create_overwrite_and_remove_leases)               \
	X(expiry_before_the_deadline_appends_nothing)               \
	X(expiry_past_the_deadline_appends_and_removes)             \
	X(one_lease_that_lives_keeps_all_from_expiring)             \
	X(touching_renews_the_living_only)                          \
	X(touching_moves_the_deadline)                              \
	X(ensuring_adds_the_missing_only)                           \
	X(refreshing_gives_all_their_whole_ttl)                     \
	X(leases_are_listed_soonest_first)                          \
	X(reading_and_dropping_leases)                              \
	X(keepalive_and_expiry_exclude_each_other)                  \
	X(the_duty_has_one_holder_at_a_time)                        \
	X(the_duty_can_be_passed)                                   \
	X(the_time_left_of_the_duty_is_told)                        \
	X(of_two_candidates_one_gets_the_duty)                      \
	X(members_are_listed_by_unsigned_id)                        \
	X(members_that_are_silent_or_leave_are_not_listed)          \
	X(a_wait_ends_when_it_is_behind_or_time_runs_out)           \
	X(a_wait_ends_with_an_append_elsewhere)                     \
	X(cancel_ends_the_running_or_the_next_wait)                 \
	X(sizes_follow_the_data_and_defragment_keeps_it)

#define DECLARE(test) void test(void);
TESTS(DECLARE)
#undef DECLARE

#endif
