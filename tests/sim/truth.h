/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What really happened, in the simulation: a copy of every entry of the log, taken when it appears and kept when the log is
 * trimmed, with the state of every key and lease at every revision. Keys are "k0" … and values "v<number>", so that
 * the truth knows them as numbers; 0 stands for no value.
 */
#ifndef TESTS_SIM_TRUTH_H
#define TESTS_SIM_TRUTH_H

#include "sqlbackends/sqlb.h"
#include "store/store.h"

#define TRUTH_USERS 4
#define TRUTH_KEYS 8

struct truth_version {
	int64_t revision, value, create_revision, version, lease; /* value 0: deleted */
	size_t entry;
};

struct truth_event {
	int64_t revision;
	int32_t sub;
	int key;
	bool is_delete;
};

struct truth_entry {
	int64_t position, revision, writer, batch, time_ms;
	size_t events; /* how many events there were before it */
};

struct truth_lease {
	int64_t id, ttl;
	size_t granted, revoked; /* entries; revoked SIZE_MAX: not yet */
	int64_t revoked_ms;
};

struct truth {
	struct truth_entry *entries;
	size_t entry_count, entry_room;
	struct truth_event *events;
	size_t event_count, event_room;
	struct truth_version *versions[TRUTH_KEYS];
	size_t version_count[TRUTH_KEYS], version_room[TRUTH_KEYS];
	struct truth_lease *leases;
	size_t lease_count, lease_room;
	int64_t compact_revision; /* newest; -1: never */
	struct truth_compaction {
		int64_t revision;
		size_t entry;
	} * compactions;
	size_t compaction_count, compaction_room;
	/* What happened to users "u0" …: the newest row of a user says whether he is there. */
	struct truth_user {
		int user;
		bool gone;
		int64_t revision; /* of auth */
		size_t entry;
	} * users;
	size_t user_count, user_room;
	char wrong[256]; /* the first thing in the log that cannot be; "" when all is well */
};

void truth_init(struct truth *truth);
void truth_fini(struct truth *truth);
/* The rows of one or more whole entries, in order. */
void truth_row(struct truth *truth, const struct sqlb_row *row, int64_t now_ms);
/* The log lost everything behind 'keep'. */
void truth_cut(struct truth *truth, int64_t keep);
int64_t truth_position(const struct truth *truth);
int64_t truth_revision(const struct truth *truth);
/* The key as of 'revision'; NULL when it did not exist. */
const struct truth_version *truth_at(const struct truth *truth, int key, int64_t revision);
/* How often 'value' was written; *key and *revision tell where last. */
size_t truth_find(const struct truth *truth, int64_t value, int *key, int64_t *revision);
struct truth_lease *truth_lease(const struct truth *truth, int64_t id);
int64_t truth_auth_revision(const struct truth *truth);
/* NULL when there is no such user. */
const struct truth_user *truth_user(const struct truth *truth, int user);
int truth_key(struct ks_slice key); /* -1: not one of ours */
int64_t truth_value(struct ks_slice value);

#endif
