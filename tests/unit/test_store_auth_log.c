/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Users and roles as effects of the log: whatever is trimmed, in whatever order the store allows, and wherever it is interrupted,
 * what is left gives the same state again. And rows that no server wrote.
 */
#include <stdio.h>
#include <stdlib.h>

#include "store/auth_codec.h"
#include "tests/lib/auth_fixture.h"

#define ENTRIES 220
#define ROUNDS 12

/* The log: each effect with a copy of its payload. */
static struct row {
	int64_t position, revision;
	int32_t sub;
	struct ks_effect effect;
	struct ks_bytes *payload;
	bool trimmed;
} rows[4 * ENTRIES];
static size_t row_count;

static void keep_entry(const struct ks_entry *entry)
{
	for (size_t i = 0; i < entry->effect_count; i++) {
		struct row *row = &rows[row_count++];

		CU_ASSERT_FATAL(row_count <= sizeof(rows) / sizeof(*rows));
		*row = (struct row){.position = entry->position,
				    .revision = entry->revision,
				    .sub = (int32_t)i,
				    .effect = entry->effects[i],
				    .payload = ks_bytes_copy(entry->effects[i].payload)};
		row->effect.payload = ks_bytes_slice(row->payload);
		row->effect.key = row->effect.value = ks_slice_of(NULL, 0);
	}
}

static void forget_rows(void)
{
	while (row_count > 0)
		ks_bytes_unref(rows[--row_count].payload);
}

static void apply_rows(struct ks_store *store)
{
	for (size_t i = 0; i < row_count;) {
		struct ks_effect effects[64];
		int32_t subs[64];
		struct ks_entry entry = {
			.position = rows[i].position, .revision = rows[i].revision, .effects = effects, .subs = subs};

		for (; i < row_count && rows[i].position == entry.position; i++) {
			if (rows[i].trimmed)
				continue;
			effects[entry.effect_count] = rows[i].effect;
			subs[entry.effect_count++] = rows[i].sub;
		}
		if (entry.effect_count)
			CU_ASSERT_EQUAL(ks_store_apply(store, &entry, &sf_err), KS_OK);
	}
}

static struct ks_store *load(void)
{
	struct ks_store_config config = {.values_kept = true};
	struct ks_store *store = ks_store_new(&config, &sf_err);

	CU_ASSERT_PTR_NOT_NULL_FATAL(store);
	ks_store_load_begin(store);
	CU_ASSERT_FALSE(ks_store_auth_enabled(store));
	apply_rows(store);
	ks_store_load_end(store);
	return store;
}

static bool loads_the_same(const char *expected)
{
	struct ks_store *store = load();
	bool same = strcmp(af_state(store), expected) == 0;

	if (!same)
		printf("# expected %s\n# loaded %s\n", expected, af_state(store));
	ks_store_free(store);
	return same;
}

static struct row *row_at(struct ks_loc loc)
{
	for (size_t i = 0; i < row_count; i++)
		if (rows[i].position == loc.position && rows[i].sub == loc.sub)
			return &rows[i];
	return NULL;
}

/* ---- random histories ---- */

static uint64_t seed;

static unsigned below(unsigned limit)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (unsigned)(seed >> 33) % limit;
}

static const char *const names[] = {"root", "alice", "bob", "carol"};
static const char *const role_names[] = {"root", "r1", "r2", "r3"};
static const char *const keys[] = {"a", "b", "c", "d"};

static enum ks_status random_request(void)
{
	const char *user = names[below(4)], *role = role_names[below(4)], *key = keys[below(4)];

	switch (below(14)) {
	case 0:
	case 1:
		return af_user(user, below(4) ? "hash" : NULL);
	case 2:
		return af_user_delete(user);
	case 3:
		return af_password(user, "other");
	case 4:
	case 5:
		return af_grant(user, role);
	case 6:
		return af_revoke(user, role);
	case 7:
		return af_role(role);
	case 8:
		return af_role_delete(role);
	case 9:
		return af_perm(role, (int)below(3), key, below(2) ? "x" : NULL);
	case 10:
		return af_perm_revoke(role, key, below(2) ? "x" : NULL);
	case 11:
		return below(3) ? af_enable() : af_disable();
	case 12:
		return sf_eval(&(struct ks_request){.kind = KS_REQ_PUT,
						    .caller = {.internal = true},
						    .put = {.key = ks_slice_str(key), .value = ks_slice_str("v")}});
	default:
		return sf_eval(&(struct ks_request){
			.kind = KS_REQ_COMPACT, .caller = {.internal = true}, .compact_revision = sf_revision()});
	}
}

static void only_auth_rows(void)
{
	/* Keys have their own tests; a put without its key would not load. */
	size_t kept = 0;

	for (size_t i = 0; i < row_count; i++) {
		if (rows[i].effect.kind == KS_EFFECT_PUT)
			rows[i].effect.kind = KS_EFFECT_NOOP;
		rows[kept++] = rows[i];
	}
	row_count = kept;
}

static const char *expected_state;

static void note_dropped(void *ctx, const struct ks_loc *locs, size_t count)
{
	size_t *auth_rows = ctx;

	for (size_t i = 0; i < count; i++) {
		struct row *row = row_at(locs[i]);

		CU_ASSERT_FALSE(ks_store_row_needed(sf_store, &row->effect, locs[i]));
		if (row->trimmed)
			CU_FAIL("a row was reported twice");
		row->trimmed = true;
		if (row->effect.kind != KS_EFFECT_AUTH)
			continue;
		(*auth_rows)++;
		CU_ASSERT(loads_the_same(expected_state)); /* interrupted here */
	}
}

static size_t history(bool by_scan)
{
	size_t auth_rows = 0;
	char *expected;

	sf_open();
	while (ks_store_committed(sf_store).position < ENTRIES) {
		sf_hold = below(3) == 0;
		if (random_request() == KS_OK && sf_effects.entry.effect_count)
			keep_entry(&sf_effects.entry);
		if (below(40) == 0) {
			/* Lost to another instance: the tail goes, and so do its rows. */
			ks_store_rollback(sf_store);
			while (row_count && rows[row_count - 1].position > ks_store_committed(sf_store).position)
				ks_bytes_unref(rows[--row_count].payload);
		}
	}
	ks_store_publish(sf_store);
	only_auth_rows();
	expected = strdup(af_state(sf_store));
	expected_state = expected;
	CU_ASSERT(loads_the_same(expected));
	if (by_scan) {
		for (size_t i = 0; i < row_count; i++) {
			struct ks_loc loc = {.position = rows[i].position, .sub = rows[i].sub};

			if (ks_store_row_needed(sf_store, &rows[i].effect, loc))
				continue;
			rows[i].trimmed = true;
			auth_rows += rows[i].effect.kind == KS_EFFECT_AUTH;
			CU_ASSERT(loads_the_same(expected));
		}
	} else {
		while (ks_store_compact_step(sf_store, 1 + below(5), note_dropped, &auth_rows))
			;
	}
	free(expected);
	forget_rows();
	sf_close();
	return auth_rows;
}

static void trimmed_logs_load_the_same(void)
{
	size_t reported = 0, scanned = 0;

	for (uint64_t round = 1; round <= ROUNDS; round++) {
		seed = round;
		printf("# seed %llu\n", (unsigned long long)seed);
		reported += history(false);
		seed = round;
		scanned += history(true);
	}
	CU_ASSERT(reported > 20 * ROUNDS);
	/* What waits behind a row that is newer than the compaction is reported with the next one. */
	CU_ASSERT(reported <= scanned);
	CU_ASSERT(reported > scanned * 9 / 10);
}

/* ---- single promises ---- */

static void one(enum ks_status status)
{
	CU_ASSERT_EQUAL(status, KS_OK);
	keep_entry(&sf_effects.entry);
}

/* The last thing that happened is that somebody went: the revision must not go with the row. */
static void revision_survives_when_everything_is_gone(void)
{
	size_t auth_rows = 0;

	sf_open();
	one(af_user("alice", "h"));
	one(af_user_delete("alice"));
	one(sf_compact(1));
	expected_state = "rev 3 off";
	while (ks_store_compact_step(sf_store, 0, note_dropped, &auth_rows))
		;
	CU_ASSERT_EQUAL(auth_rows, 1);
	CU_ASSERT(loads_the_same("rev 3 off"));
	one(af_role("r"));
	one(sf_eval(&(struct ks_request){.kind = KS_REQ_PUT, .put = {.key = S("a")}}));
	one(sf_compact(2));
	only_auth_rows();
	expected_state = "rev 4 off r{}";
	while (ks_store_compact_step(sf_store, 0, note_dropped, &auth_rows))
		;
	CU_ASSERT_EQUAL(auth_rows, 2); /* now it went */
	CU_ASSERT(loads_the_same("rev 4 off r{}"));
	forget_rows();
	sf_close();
}

static void jump_brings_the_newest_state(void)
{
	struct ks_store *behind;

	sf_open();
	one(af_user("root", "h"));
	one(af_grant("root", "root"));
	one(af_enable());
	behind = load();
	CU_ASSERT(ks_store_auth_enabled(behind));
	one(af_disable());
	one(af_user("alice", "h"));
	CU_ASSERT_EQUAL(ks_store_jump_begin(behind, &sf_err), KS_OK);
	apply_rows(behind);
	CU_ASSERT(ks_store_auth_enabled(behind)); /* readers see the old state until the end */
	CU_ASSERT_EQUAL(ks_store_jump_end(behind, &sf_err), KS_OK);
	CU_ASSERT_FALSE(ks_store_auth_enabled(behind));
	CU_ASSERT_STRING_EQUAL(af_state(behind), "rev 5 off alice:h#5 root:h#2=root");
	ks_store_reset(behind);
	CU_ASSERT_STRING_EQUAL(af_state(behind), "rev 1 off");
	ks_store_free(behind);
	forget_rows();
	sf_close();
}

static void readers_keep_what_they_took(void)
{
	struct ks_auth *before;

	sf_open();
	af_user("alice", "h");
	before = ks_store_auth(sf_store);
	af_user_delete("alice");
	ks_store_reset(sf_store);
	CU_ASSERT_PTR_NOT_NULL(ks_auth_find_user(before, S("alice")));
	CU_ASSERT_EQUAL(ks_auth_revision(before), 2);
	ks_auth_unref(before);
	sf_close();
}

static void hash_and_revision_of_keys_are_untouched(void)
{
	uint32_t hash;

	sf_open();
	sf_put("a", "1");
	hash = sf_hash(sf_store, 0);
	af_user("alice", "h");
	CU_ASSERT_EQUAL(sf_hash(sf_store, 0), hash);
	CU_ASSERT_EQUAL(sf_revision(), 2);
	CU_ASSERT_EQUAL(sf_effects.entry.revision, 2);
	sf_close();
}

/* ---- payloads that people wrote ---- */

static void payload_is(const char *payload, size_t size, bool good)
{
	struct ks_effect effect = {.kind = KS_EFFECT_AUTH, .version = 9, .payload = ks_slice_of(payload, size)};
	struct ks_entry entry = {.position = 1, .revision = 1, .effects = &effect, .effect_count = 1};

	sf_open();
	CU_ASSERT_EQUAL(ks_store_apply(sf_store, &entry, &sf_err), good ? KS_OK : KS_DATA_LOSS);
	ks_store_publish(sf_store);
	CU_ASSERT_EQUAL(af_revision(), good ? 9 : 1);
	sf_close();
}

#define GOOD(text) payload_is(text, sizeof(text) - 1, true)
#define BAD(text) payload_is(text, sizeof(text) - 1, false)

static void malformed_payloads_are_refused(void)
{
	GOOD("U\x0a\x01"
	     "a");
	GOOD("U\x0a\x01"
	     "a\x1a\x01r\x1a\x01s");
	GOOD("U\x0a\x01"
	     "a\xfa\x06\x01x"); /* a field of a later version */
	GOOD("R\x0a\x01r\x12\x03\x12\x01k");
	GOOD("u\x0a\x01"
	     "a");
	GOOD("D");
	GOOD("E\x0a\x20" AF_SECRET);
	BAD("");
	BAD("X");
	BAD("U");
	BAD("R");
	BAD("u");
	BAD("E");
	BAD("E\x0a\x01s");
	BAD("U\x0a\x02"
	    "a"); /* cut off */
	BAD("U\x0a\x01"
	    "a\x1a\x01s\x1a\x01r"); /* roles out of order */
	BAD("U\x0a\x01"
	    "a\x1a\x01r\x1a\x01r");
	BAD("U\x0a\x01"
	    "a\x22\x01\xff");          /* options */
	BAD("R\x0a\x01r\x12\x01\x12"); /* permission */
	BAD("U\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01");
	BAD("U\x07");
}

/* What is well-formed and makes no sense must not end the process either. */
static void odd_permissions_permit_nothing(void)
{
	static const char role[] = "R\x0a\x01r"
				   "\x12\x06\x12\x01z\x1a\x01"
				   "a"
				   "\x12\x00"
				   "\x12\x05\x08\xff\x01\x12\x00";
	static const char user[] = "U\x0a\x01u\x1a\x01r";
	static const char on[] = "E\x0a\x20" AF_SECRET;
	struct ks_effect effects[] = {
		{.kind = KS_EFFECT_AUTH, .version = 2, .payload = ks_slice_of(role, sizeof(role) - 1)},
		{.kind = KS_EFFECT_AUTH, .version = 2, .payload = ks_slice_of(user, sizeof(user) - 1)},
		{.kind = KS_EFFECT_AUTH, .version = 2, .payload = ks_slice_of(on, sizeof(on) - 1)},
	};
	struct ks_entry entry = {.position = 1, .revision = 1, .effects = effects, .effect_count = 3};
	struct ks_interval key = {.key = S("b")}, all = {.key = S("\0"), .end = S("\0")};
	struct ks_caller caller;
	struct ks_auth *auth;

	sf_open();
	CU_ASSERT_EQUAL(ks_store_apply(sf_store, &entry, &sf_err), KS_OK);
	ks_store_publish(sf_store);
	caller = af_as("u");
	auth = ks_store_auth(sf_store);
	CU_ASSERT_EQUAL(ks_auth_role_at(auth, 0)->perm_count, 3);
	CU_ASSERT_EQUAL(ks_auth_check(auth, &caller, &key, KS_PERM_READ, NULL), KS_PERMISSION_DENIED);
	CU_ASSERT_EQUAL(ks_auth_check(auth, &caller, &all, KS_PERM_READ, NULL), KS_PERMISSION_DENIED);
	CU_ASSERT_PTR_NULL(ks_auth_find_credential(auth, 0));
	ks_auth_unref(auth);
	sf_close();
}

int main(void)
{
	return tap_run("store_auth_log",
		       (const struct tap_test[]){
			       {"trimmed_logs_load_the_same", trimmed_logs_load_the_same},
			       {"revision_survives_when_everything_is_gone", revision_survives_when_everything_is_gone},
			       {"jump_brings_the_newest_state", jump_brings_the_newest_state},
			       {"readers_keep_what_they_took", readers_keep_what_they_took},
			       {"hash_and_revision_of_keys_are_untouched", hash_and_revision_of_keys_are_untouched},
			       {"malformed_payloads_are_refused", malformed_payloads_are_refused},
			       {"odd_permissions_permit_nothing", odd_permissions_permit_nothing},
			       {NULL, NULL},
		       });
}
