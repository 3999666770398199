/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The replica beside a plain model of an etcd: random changes upstream come as events, after a gap as a listing, from another history, or
 * through an image; an overlay comes and goes. A client that lists once and then follows the events must always know what the replica
 * serves, revisions only grow, and without anything local all numbers are upstream's.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "mirror/board.h"
#include "mirror/replica.h"
#include "store/watch_hub.h"
#include "tests/lib/tap.h"

#define PREFIX "/a/"
#define KEYS 24
#define OPS 400
#define FEW_OPS 40
#define LOG_MAX 1000

/* The number in a key's name, which has no NUL behind it. */
static unsigned number_of(struct ks_slice key)
{
	CU_ASSERT_EQUAL_FATAL(key.size, strlen(PREFIX "k00"));
	return (unsigned)(key.data[key.size - 2] - '0') * 10 + (unsigned)(key.data[key.size - 1] - '0');
}

/* ---- the model of upstream ---- */

struct model_key {
	bool live;
	char value[32];
	int64_t create, mod, version;
};

struct model {
	uint64_t cluster;
	int64_t revision;
	struct model_key keys[KEYS];
};

static unsigned random_state;

static unsigned pick(unsigned below)
{
	random_state = random_state * 1103515245u + 12345u;
	return (random_state >> 16) % below;
}

static struct ks_slice key_name(unsigned i, char name[16])
{
	(void)snprintf(name, 16, PREFIX "k%02u", i);
	return ks_slice_str(name);
}

static struct ks_slice text(const char *value)
{
	return ks_slice_str(value);
}

static void model_put(struct model *model, unsigned i, const char *value)
{
	struct model_key *key = &model->keys[i];

	if (!key->live)
		*key = (struct model_key){.live = true, .create = model->revision};
	(void)snprintf(key->value, sizeof(key->value), "%s", value);
	key->mod = model->revision;
	key->version++;
}

static struct dpa_change change_of(const struct model *model, unsigned i, char name[16])
{
	const struct model_key *key = &model->keys[i];

	return (struct dpa_change){.revision = key->live ? key->mod : model->revision,
				   .is_delete = !key->live,
				   .key = key_name(i, name),
				   .value = text(key->value),
				   .create_revision = key->create,
				   .version = key->version};
}

/* ---- the replica, and an overlay beside it ---- */

struct world {
	struct model up;
	struct dpa_replica *replica;
	struct overlaid {
		bool on, hide;
		char value[32];
	} overlay[KEYS];
	bool altered;   /* something local happened: numbers are ours */
	bool own;       /* an overlay or a transform may alter keys */
	bool histories; /* upstream may become another one */
	/* what a crash falls back to: an image, and upstream's changes since */
	struct dpa_image saved;
	struct overlaid saved_overlay[KEYS];
	int64_t saved_age_ms; /* of the clock that a machine would have */
	bool saved_cut;       /* they are not all in the log */
	struct logged {
		unsigned key;
		int64_t revision;
		struct model_key state; /* not live: deleted */
	} log[LOG_MAX];
	size_t log_count;
	/* a client: what it knows after the revision up to which it read */
	int64_t seen;
	struct {
		bool live;
		char value[40];
		int64_t mod;
	} known[KEYS];
	uint64_t epoch;
};

static struct ks_err err;

static const char *transform_mark = "T"; /* what the transform puts before a value */

static bool transform(void *ctx, struct ks_slice key, const struct ks_slice *raw, struct ks_buf *out)
{
	(void)ctx;
	(void)key;
	if (!raw || raw->size == 0 || raw->data[0] != '9')
		return false;
	ks_buf_printf(out, "%s%.*s", transform_mark, (int)raw->size, (const char *)raw->data);
	return true;
}

static void open_replica(struct world *world, bool transforms)
{
	const struct dpa_replica_config config = {.prefix = PREFIX,
						  .history_events = 60,
						  .transform = transforms ? transform : NULL,
						  .own_changes = world->own};

	world->replica = dpa_replica_new(&config, &err);
	CU_ASSERT_PTR_NOT_NULL_FATAL(world->replica);
}

/* What the key must show: false for nothing. */
static bool expected(const struct world *world, unsigned i, bool transforms, char shown[48])
{
	const struct model_key *key = &world->up.keys[i];
	const char *value = key->live ? key->value : NULL;

	if (world->overlay[i].on)
		value = world->overlay[i].hide ? NULL : world->overlay[i].value;
	if (!value)
		return false;
	(void)snprintf(shown, 48, "%s%s", transforms && value[0] == '9' ? transform_mark : "", value);
	return true;
}

static void check_served(const struct world *world, bool transforms)
{
	struct ks_store *store = dpa_replica_store(world->replica);
	unsigned count = 0;
	int64_t revision;

	for (unsigned i = 0; i < KEYS; i++) {
		char name[16], shown[48];
		const struct ks_range_req req = {.interval.key = key_name(i, name)};
		struct ks_range_result result = {0};
		bool there = expected(world, i, transforms, shown);
		struct ks_kv kv;

		CU_ASSERT_EQUAL_FATAL(ks_store_range(store, &req, &result, &revision, &err), KS_OK);
		CU_ASSERT_EQUAL_FATAL(result.kv_count, there);
		if (there) {
			count++;
			CU_ASSERT_FATAL(ks_kv_decode(ks_bytes_slice(result.kvs[0].encoded), &kv));
			CU_ASSERT_FATAL(ks_slice_eq(kv.value, text(shown)));
			CU_ASSERT(kv.mod_revision <= revision && kv.create_revision <= kv.mod_revision &&
				  kv.lease == 0);
			if (!world->altered)
				CU_ASSERT(kv.mod_revision == world->up.keys[i].mod &&
					  kv.create_revision == world->up.keys[i].create &&
					  kv.version == world->up.keys[i].version);
		}
		ks_range_result_fini(&result);
	}
	if (!world->altered)
		CU_ASSERT_EQUAL(revision, world->up.revision);
	(void)count;
}

static void check_numbers(const struct world *world)
{
	for (unsigned i = 0; i < KEYS; i++) {
		const struct model_key *key = &world->up.keys[i];
		struct dpa_numbers numbers;
		char name[16];

		CU_ASSERT_EQUAL_FATAL(dpa_replica_numbers(world->replica, key_name(i, name), &numbers), key->live);
		if (key->live)
			CU_ASSERT(numbers.up_mod == key->mod && numbers.up_create == key->create &&
				  numbers.up_version == key->version);
	}
}

static void check_point(const struct world *world)
{
	struct dpa_point point;
	size_t live = 0;

	dpa_replica_point(world->replica, &point);
	for (unsigned i = 0; i < KEYS; i++)
		live += world->up.keys[i].live;
	CU_ASSERT(point.loaded && point.up_revision == world->up.revision && point.keys == live);
	CU_ASSERT_EQUAL(point.cluster_id, world->up.cluster);
	if (point.witness) {
		unsigned i = number_of(ks_bytes_slice(point.witness));

		CU_ASSERT(i < KEYS && world->up.keys[i].live && world->up.keys[i].mod == point.witness_mod);
	}
	dpa_point_fini(&point);
}

/* ---- the client ---- */

static void client_list(struct world *world)
{
	struct ks_store *store = dpa_replica_store(world->replica);

	for (unsigned i = 0; i < KEYS; i++) {
		char name[16];
		const struct ks_range_req req = {.interval.key = key_name(i, name)};
		struct ks_range_result result = {0};
		struct ks_kv kv = {0};

		CU_ASSERT_EQUAL_FATAL(ks_store_range(store, &req, &result, &world->seen, &err), KS_OK);
		world->known[i].live = result.kv_count > 0;
		if (result.kv_count > 0)
			CU_ASSERT(ks_kv_decode(ks_bytes_slice(result.kvs[0].encoded), &kv));
		(void)snprintf(world->known[i].value, sizeof(world->known[i].value), "%.*s", (int)kv.value.size,
			       (const char *)kv.value.data);
		world->known[i].mod = kv.mod_revision;
		ks_range_result_fini(&result);
	}
}

static void client_event(void *ctx, const struct ks_event *event)
{
	struct world *world = ctx;
	unsigned i = number_of(event->key);
	struct ks_kv kv = {0};

	CU_ASSERT_FATAL(i < KEYS);
	CU_ASSERT(event->revision > world->known[i].mod);
	if (event->is_delete)
		CU_ASSERT(world->known[i].live);
	CU_ASSERT(ks_kv_decode(ks_bytes_slice(event->kv.encoded), &kv));
	world->known[i].live = !event->is_delete;
	world->known[i].mod = event->revision;
	(void)snprintf(world->known[i].value, sizeof(world->known[i].value), "%.*s", (int)kv.value.size,
		       (const char *)kv.value.data);
}

/* Follows to the end; lists anew when it was compacted or cancelled, as a client must. */
static void client_follow(struct world *world, bool transforms)
{
	struct ks_store *store = dpa_replica_store(world->replica);
	const struct ks_event_scan scan = {.interval = {.key = text(PREFIX), .end = text("/a0")},
					   .from = world->seen + 1,
					   .to = INT64_MAX,
					   .max_revisions = SIZE_MAX,
					   .max_events = SIZE_MAX,
					   .max_bytes = SIZE_MAX,
					   .max_scanned = SIZE_MAX};
	struct ks_event_scanned scanned = {0};
	uint64_t epoch = ks_watch_hub_epoch(ks_store_hub(store));
	int64_t compact_revision = 0, before = world->seen;

	if (epoch != world->epoch ||
	    ks_store_scan_events(store, &scan, client_event, world, &scanned, &compact_revision) != KS_OK) {
		world->epoch = epoch;
		client_list(world);
	} else {
		world->seen = scanned.current;
	}
	CU_ASSERT(world->seen >= before);
	for (unsigned i = 0; i < KEYS; i++) {
		char shown[48];

		CU_ASSERT_EQUAL_FATAL(world->known[i].live, expected(world, i, transforms, shown));
		if (world->known[i].live)
			CU_ASSERT_STRING_EQUAL_FATAL(world->known[i].value, shown);
	}
}

/* ---- what happens ---- */

static void log_change(struct world *world, unsigned i)
{
	if (world->log_count == LOG_MAX) {
		world->saved_cut = true;
		return;
	}
	world->log[world->log_count++] = (struct logged){i, world->up.revision, world->up.keys[i]};
}

/* A few changes upstream; given to the replica as events unless it is cut off. */
static void upstream_changes(struct world *world, bool cut_off)
{
	char names[8][16], value[32];
	struct dpa_change changes[8];
	size_t count = 0;
	unsigned revisions = 1 + pick(3);

	for (unsigned r = 0; r < revisions; r++) {
		unsigned many = 1 + pick(2), first = pick(KEYS);

		world->up.revision++;
		for (unsigned k = 0; k < many; k++) {
			unsigned i = (first + k * 7) % KEYS;
			struct model_key *key = &world->up.keys[i];

			if (key->live && pick(4) == 0) {
				*key = (struct model_key){0};
			} else if (pick(8) == 0 && key->live) {
				(void)snprintf(value, sizeof(value), "%s", key->value);
				model_put(&world->up, i, value);
			} else {
				(void)snprintf(value, sizeof(value), "%u", pick(1000));
				model_put(&world->up, i, value);
			}
			changes[count] = change_of(&world->up, i, names[count]);
			log_change(world, i);
			changes[count].value =
				ks_slice_of(strdup(world->up.keys[i].value), strlen(world->up.keys[i].value));
			count++;
		}
	}
	if (!cut_off)
		CU_ASSERT_EQUAL_FATAL(dpa_replica_apply(world->replica, changes, count, world->up.revision, &err),
				      KS_OK);
	for (size_t i = 0; i < count; i++)
		free((void *)(uintptr_t)changes[i].value.data);
}

static struct dpa_resync_summary resync(struct world *world, bool same_history, bool accept_empty)
{
	struct dpa_resync_summary summary;
	struct dpa_resync *listing =
		dpa_resync_begin(world->replica, world->up.cluster, world->up.revision, same_history, 0, &err);

	CU_ASSERT_PTR_NOT_NULL_FATAL(listing);
	for (unsigned i = 0; i < KEYS; i++) {
		char name[16];
		struct dpa_change change = change_of(&world->up, i, name);

		if (world->up.keys[i].live)
			CU_ASSERT_EQUAL_FATAL(dpa_resync_key(listing, &change, &err), KS_OK);
	}
	CU_ASSERT_EQUAL_FATAL(dpa_resync_end(listing, accept_empty, &summary, &err), KS_OK);
	return summary;
}

/* Upstream comes back as another one: some keys as before, others not, and its revisions begin elsewhere. */
static void other_history(struct world *world)
{
	struct model old = world->up;

	world->up = (struct model){.cluster = old.cluster + 1, .revision = 1 + pick(2000)};
	for (unsigned i = 0; i < KEYS; i++) {
		char value[32];

		if (!old.keys[i].live || pick(5) == 0)
			continue;
		(void)snprintf(value, sizeof(value), "%s", old.keys[i].value);
		world->up.revision++;
		model_put(&world->up, i, value);
		if (pick(6) == 0) {
			world->up.revision++;
			model_put(&world->up, i, "9other");
		}
	}
	world->up.revision++;
	model_put(&world->up, 0, "solid"); /* an empty one would not count */
}

static void overlay_changes(struct world *world)
{
	struct dpa_overlay_key keys[KEYS];
	char names[KEYS][16];
	size_t count = 0;

	for (unsigned i = 0; i < KEYS; i++) {
		if (pick(6) == 0) {
			world->overlay[i].on = !world->overlay[i].on;
			world->overlay[i].hide = pick(3) == 0;
			(void)snprintf(world->overlay[i].value, sizeof(world->overlay[i].value), "%u", pick(1000));
		}
		if (world->overlay[i].on)
			keys[count++] = (struct dpa_overlay_key){.key = key_name(i, names[i]),
								 .value = text(world->overlay[i].value),
								 .hide = world->overlay[i].hide};
	}
	CU_ASSERT_EQUAL_FATAL(dpa_replica_set_overlay(world->replica, keys, count, &err), KS_OK);
}

/* Through an image into a new replica, as a restart does; clients keep what they know. */
static void restart(struct world *world, bool transforms, bool final)
{
	struct dpa_image image = {0};
	struct dpa_overlay_key keys[KEYS];
	char names[KEYS][16];
	size_t count = 0;

	CU_ASSERT_EQUAL_FATAL(dpa_replica_image(world->replica, &image, &err), KS_OK);
	image.final = final;
	dpa_replica_free(world->replica);
	open_replica(world, transforms);
	for (unsigned i = 0; i < KEYS; i++)
		if (world->overlay[i].on)
			keys[count++] = (struct dpa_overlay_key){.key = key_name(i, names[i]),
								 .value = text(world->overlay[i].value),
								 .hide = world->overlay[i].hide};
	CU_ASSERT_EQUAL_FATAL(dpa_replica_set_overlay(world->replica, keys, count, &err), KS_OK);
	CU_ASSERT_EQUAL_FATAL(dpa_replica_load(world->replica, &image, &err), KS_OK);
	CU_ASSERT_EQUAL_FATAL(dpa_replica_load(world->replica, &image, &err), KS_FAILED_PRECONDITION);
	dpa_image_fini(&image);
	world->epoch = ks_watch_hub_epoch(ks_store_hub(dpa_replica_store(world->replica)));
}

static void save(struct world *world)
{
	dpa_image_fini(&world->saved);
	CU_ASSERT_EQUAL_FATAL(dpa_replica_image(world->replica, &world->saved, &err), KS_OK);
	memcpy(world->saved_overlay, world->overlay, sizeof(world->overlay));
	world->saved_cut = false;
	world->saved_age_ms = 0;
	world->log_count = 0;
}

/* Upstream's changes come again, with changes of our own in between; or only some of them, and then it is another one. */
static void replay(struct world *world)
{
	size_t most = world->histories && pick(3) == 0 ? pick(6) : LOG_MAX;

	for (size_t i = 0, end; i < world->log_count; i = end) {
		struct dpa_change changes[LOG_MAX];
		char names[LOG_MAX][16];

		for (end = i; end < world->log_count && world->log[end].revision == world->log[i].revision; end++) {
			const struct logged *logged = &world->log[end];
			const struct model_key *key = &logged->state;

			changes[end - i] = (struct dpa_change){.revision = logged->revision,
							       .is_delete = !key->live,
							       .key = key_name(logged->key, names[end - i]),
							       .value = text(key->value),
							       .create_revision = key->create,
							       .version = key->version};
		}
		CU_ASSERT_EQUAL_FATAL(dpa_replica_apply(world->replica, changes, end - i, world->log[i].revision, &err),
				      KS_OK);
		if (world->own && pick(10) == 0)
			overlay_changes(world);
		if (i >= most) {
			other_history(world);
			(void)resync(world, false, false);
			return;
		}
	}
	CU_ASSERT_EQUAL_FATAL(dpa_replica_progress(world->replica, world->up.revision, &err), KS_OK);
}

/* What was not saved is lost, clients know it all the same, and the overlay's file may be again what it was. */
static void crash(struct world *world, bool transforms)
{
	struct dpa_overlay_key keys[KEYS];
	char names[KEYS][16];
	size_t count = 0;

	world->saved_age_ms += 1000;
	world->saved.saved_ms = dpa_wall_ms() - world->saved_age_ms;
	dpa_replica_free(world->replica);
	open_replica(world, transforms);
	if (pick(2))
		memcpy(world->overlay, world->saved_overlay, sizeof(world->overlay));
	for (unsigned i = 0; i < KEYS; i++) {
		if (world->overlay[i].on)
			keys[count++] = (struct dpa_overlay_key){.key = key_name(i, names[i]),
								 .value = text(world->overlay[i].value),
								 .hide = world->overlay[i].hide};
	}
	CU_ASSERT_EQUAL_FATAL(dpa_replica_set_overlay(world->replica, keys, count, &err), KS_OK);
	CU_ASSERT_EQUAL_FATAL(dpa_replica_load(world->replica, &world->saved, &err), KS_OK);
	world->epoch = ks_watch_hub_epoch(ks_store_hub(dpa_replica_store(world->replica)));
	/* As the api looks at the start of a new watch. */
	if (world->seen + 1 < ks_store_committed(dpa_replica_store(world->replica)).compact_revision)
		world->epoch--;
	if (world->saved.cluster_id != world->up.cluster || world->saved_cut) {
		(void)resync(world, world->saved.cluster_id == world->up.cluster, false);
	} else {
		dpa_replica_expect(world->replica, world->up.revision);
		replay(world);
	}
	if (pick(3))
		save(world);
}

/* What may happen: a transform, overlays, other histories. */
struct may {
	bool transform, overlay, histories;
};

static void run_world(unsigned seed, unsigned ops, struct may may)
{
	struct world world = {.up = {.cluster = 7, .revision = 1},
			      .altered = may.transform,
			      .own = may.transform || may.overlay,
			      .histories = may.histories};
	bool transforms = may.transform;
	bool cut_off = false;

	random_state = seed;
	open_replica(&world, transforms);
	for (unsigned i = 0; i < KEYS; i += 2) {
		world.up.revision++;
		model_put(&world.up, i, "first");
	}
	(void)resync(&world, false, false);
	client_list(&world);
	save(&world);
	for (unsigned op = 0; op < ops; op++) {
		unsigned what = pick(20);

		if (what < 12) {
			upstream_changes(&world, cut_off);
		} else if (what < 14) {
			cut_off = true;
		} else if (what < 15 && may.overlay) {
			overlay_changes(&world);
			world.altered = true;
		} else if (what < 16 && may.histories) {
			other_history(&world);
			(void)resync(&world, false, false);
			cut_off = false;
			world.altered = true;
		} else if (what < 17 && !cut_off) {
			bool final = pick(2) == 0;

			restart(&world, transforms, final);
			save(&world);
			world.altered = world.altered || (!final && world.own);
		} else if (what < 18 && !cut_off) {
			world.up.revision++;
			CU_ASSERT_EQUAL(dpa_replica_progress(world.replica, world.up.revision, &err), KS_OK);
		} else if (cut_off) {
			(void)resync(&world, true, true);
			cut_off = false;
		} else if (what < 19) {
			save(&world);
		} else {
			crash(&world, transforms);
			world.altered = world.altered || world.own || world.histories;
		}
		if (cut_off)
			continue;
		check_served(&world, transforms);
		check_numbers(&world);
		check_point(&world);
		client_follow(&world, transforms);
	}
	dpa_image_fini(&world.saved);
	dpa_replica_free(world.replica);
}

static void follows_upstream_number_by_number(void)
{
	for (unsigned seed = 1; seed <= 40; seed++)
		run_world(seed, OPS, (struct may){0});
}

static void survives_overlays_and_other_histories(void)
{
	for (unsigned seed = 100; seed <= 140; seed++)
		run_world(seed, OPS, (struct may){.overlay = true, .histories = true});
}

static void survives_all_that_with_a_transform(void)
{
	for (unsigned seed = 200; seed <= 240; seed++)
		run_world(seed, OPS, (struct may){.transform = true, .overlay = true, .histories = true});
}

/* The first change that is not upstream's is the one that an image may not tell of. */
static void survives_crashes_soon_after_the_start(void)
{
	for (unsigned seed = 1000; seed < 7000; seed++)
		run_world(seed, FEW_OPS, (struct may){.overlay = seed % 2, .histories = seed / 2 % 2});
}

/* ---- single rules ---- */

static void an_empty_listing_changes_nothing(void)
{
	struct world world = {.up = {.cluster = 7, .revision = 5}};
	struct dpa_resync_summary summary;

	open_replica(&world, false);
	model_put(&world.up, 3, "config");
	(void)resync(&world, false, false);
	world.up = (struct model){.cluster = 8, .revision = 9};
	summary = resync(&world, false, false);
	CU_ASSERT(summary.held && summary.deleted == 0);
	/* APISIX's markers are no configuration. */
	model_put(&world.up, 1, "init_dir");
	CU_ASSERT(resync(&world, false, false).held);
	world.up.keys[3] = (struct model_key){0};
	summary = resync(&world, false, true);
	CU_ASSERT(!summary.held && summary.deleted == 1 && summary.put == 1);
	dpa_replica_free(world.replica);
}

/* After a crash clients may know revisions that the image has not: another history starts far above, and watches are told. */
static void another_history_after_a_crash_jumps(void)
{
	struct world world = {.up = {.cluster = 7, .revision = 5}};
	struct dpa_resync_summary summary;
	uint64_t epoch;

	open_replica(&world, false);
	model_put(&world.up, 3, "config");
	(void)resync(&world, false, false);
	restart(&world, false, false);
	epoch = world.epoch;
	world.up.cluster = 8;
	world.up.revision = 6;
	model_put(&world.up, 3, "other");
	summary = resync(&world, false, false);
	CU_ASSERT(summary.jumped && summary.revision > 1 << 20);
	CU_ASSERT(ks_watch_hub_epoch(ks_store_hub(dpa_replica_store(world.replica))) > epoch);
	CU_ASSERT_EQUAL(ks_store_committed(dpa_replica_store(world.replica)).compact_revision, summary.revision);
	dpa_replica_free(world.replica);
}

/* Clients know more than the image, and what they know is not of the history that there is now, which is as the image is. */
static void another_history_that_equals_the_image_is_told_to_clients(void)
{
	struct world world = {.up = {.cluster = 7, .revision = 5}};
	struct dpa_change change;
	char name[16];

	open_replica(&world, false);
	model_put(&world.up, 3, "config");
	(void)resync(&world, false, false);
	save(&world);
	world.up.revision++;
	model_put(&world.up, 3, "newer");
	change = change_of(&world.up, 3, name);
	CU_ASSERT_EQUAL_FATAL(dpa_replica_apply(world.replica, &change, 1, world.up.revision, &err), KS_OK);
	client_list(&world);
	world.up = (struct model){.cluster = 8, .revision = 50};
	model_put(&world.up, 3, "config");
	world.altered = true;
	crash(&world, false);
	client_follow(&world, false);
	dpa_image_fini(&world.saved);
	dpa_replica_free(world.replica);
}

static void a_clean_stop_does_not_jump(void)
{
	struct world world = {.up = {.cluster = 7, .revision = 5}};
	struct dpa_resync_summary summary;

	open_replica(&world, false);
	model_put(&world.up, 3, "config");
	(void)resync(&world, false, false);
	restart(&world, false, true);
	world.up.cluster = 8;
	world.up.revision = 6;
	model_put(&world.up, 3, "other");
	summary = resync(&world, false, false);
	CU_ASSERT(!summary.jumped && summary.revision == 6 && summary.put == 1 && summary.same == 0);
	dpa_replica_free(world.replica);
}

/* Discovery has other nodes by now, and its refresh is still to come, when upstream is another one with the same values. */
static void what_a_transform_changed_meanwhile_is_an_event(void)
{
	struct world world = {.up = {.cluster = 7, .revision = 5}, .altered = true, .own = true};
	struct ks_slice key;
	char name[16];

	open_replica(&world, true);
	model_put(&world.up, 3, "9service");
	(void)resync(&world, false, false);
	client_list(&world);
	transform_mark = "U";
	world.up.cluster = 8;
	world.up.revision = 9;
	model_put(&world.up, 3, "9service");
	(void)resync(&world, false, false);
	key = key_name(3, name);
	CU_ASSERT_EQUAL_FATAL(dpa_replica_refresh(world.replica, &key, 1, &err), KS_OK);
	client_follow(&world, true);
	check_served(&world, true);
	transform_mark = "T";
	dpa_replica_free(world.replica);
}

static void hostile_upstream_is_refused(void)
{
	struct world world = {.up = {.cluster = 7, .revision = 5}};
	struct dpa_change change;
	char name[16];

	open_replica(&world, false);
	CU_ASSERT_EQUAL(dpa_replica_progress(world.replica, 5, &err), KS_FAILED_PRECONDITION);
	model_put(&world.up, 3, "config");
	(void)resync(&world, false, false);
	world.up.revision = 6;
	model_put(&world.up, 3, "x");
	change = change_of(&world.up, 3, name);
	change.key = text("/b/k03");
	CU_ASSERT_EQUAL(dpa_replica_apply(world.replica, &change, 1, 6, &err), KS_INVALID_ARGUMENT);
	change = change_of(&world.up, 3, name);
	CU_ASSERT_EQUAL(dpa_replica_apply(world.replica, &change, 1, 5, &err), KS_INVALID_ARGUMENT);
	change.create_revision = 7;
	CU_ASSERT_EQUAL(dpa_replica_apply(world.replica, &change, 1, 6, &err), KS_INVALID_ARGUMENT);
	change.create_revision = 5;
	change.version = 0;
	CU_ASSERT_EQUAL(dpa_replica_apply(world.replica, &change, 1, 6, &err), KS_INVALID_ARGUMENT);
	/* No number overflows, and what is saved can be loaded. */
	change = change_of(&world.up, 3, name);
	change.revision = INT64_MAX - 1;
	CU_ASSERT_EQUAL(dpa_replica_apply(world.replica, &change, 1, change.revision, &err), KS_INVALID_ARGUMENT);
	CU_ASSERT_EQUAL(dpa_replica_progress(world.replica, INT64_MAX - 1, &err), KS_INVALID_ARGUMENT);
	world.up.revision = 5;
	dpa_replica_free(world.replica);
}

static int reached_count;

static void reached(struct dpa_wait *wait)
{
	(void)wait;
	reached_count++;
}

static void waits_end_when_upstreams_revision_is_there(void)
{
	struct world world = {.up = {.cluster = 7, .revision = 5}};
	struct dpa_wait now = {.reached = reached, .up_revision = 5}, later = now, never = now;

	reached_count = 0;
	open_replica(&world, false);
	model_put(&world.up, 3, "config");
	(void)resync(&world, false, false);
	later.up_revision = 7;
	never.up_revision = 99;
	dpa_replica_wait(world.replica, &now);
	CU_ASSERT_EQUAL(reached_count, 1);
	dpa_replica_wait(world.replica, &later);
	dpa_replica_wait(world.replica, &never);
	CU_ASSERT_EQUAL(dpa_replica_progress(world.replica, 6, &err), KS_OK);
	CU_ASSERT_EQUAL(reached_count, 1);
	CU_ASSERT_EQUAL(dpa_replica_progress(world.replica, 8, &err), KS_OK);
	CU_ASSERT_EQUAL(reached_count, 2);
	CU_ASSERT(dpa_replica_unwait(world.replica, &never) && !dpa_replica_unwait(world.replica, &never));
	dpa_replica_free(world.replica);
}

/* Old events go, what is live stays, and a client that is too far behind is told. */
static void history_is_bounded(void)
{
	struct world world = {.up = {.cluster = 7, .revision = 1}};
	struct ks_store_stats stats;

	random_state = 3;
	open_replica(&world, false);
	world.up.revision++;
	model_put(&world.up, 0, "first");
	(void)resync(&world, false, false);
	for (int i = 0; i < 5000; i++)
		upstream_changes(&world, false);
	ks_store_stats(dpa_replica_store(world.replica), &stats);
	CU_ASSERT(stats.records < 60 * 2 + 2 * KEYS);
	CU_ASSERT(ks_store_committed(dpa_replica_store(world.replica)).compact_revision > world.up.revision - 200);
	check_served(&world, false);
	dpa_replica_free(world.replica);
}

/* 'count' keys of 'size' bytes in one revision, given at once. */
static void change_many(struct world *world, size_t count, size_t size)
{
	struct dpa_change *changes = ks_xcalloc(count, sizeof(*changes));
	char(*names)[32] = ks_xcalloc(count, sizeof(*names));
	char *value = ks_xcalloc(1, size);

	world->up.revision++;
	for (size_t i = 0; i < count; i++) {
		(void)snprintf(names[i], sizeof(names[i]), PREFIX "many%05zu", i);
		changes[i] = (struct dpa_change){.revision = world->up.revision,
						 .key = ks_slice_str(names[i]),
						 .value = ks_slice_of(value, size),
						 .create_revision = world->up.revision,
						 .version = 1};
	}
	CU_ASSERT_EQUAL_FATAL(dpa_replica_apply(world->replica, changes, count, world->up.revision, &err), KS_OK);
	free(value);
	free(names);
	free(changes);
}

/* What nodes report is no news of the configuration, where it is mirrored, too. */
static void reports_of_nodes_are_no_news(void)
{
	const struct dpa_replica_config config = {.prefix = PREFIX, .reports_prefix = PREFIX "agents"};
	static const struct {
		const char *key;
		bool news;
	} cases[] = {{PREFIX "agents/nodes/1", false}, {PREFIX "agents/live/1", false}, {PREFIX "agents/nodes", true},
		     {PREFIX "agents/other/1", true},  {PREFIX "agentsnodes/1", true},  {PREFIX "k01", true}};
	struct world world = {.up = {.cluster = 7, .revision = 5}};
	struct dpa_point before, after;

	world.replica = dpa_replica_new(&config, &err);
	CU_ASSERT_PTR_NOT_NULL_FATAL(world.replica);
	model_put(&world.up, 3, "config");
	(void)resync(&world, false, false);
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct dpa_change change = {.revision = ++world.up.revision,
					    .key = text(cases[i].key),
					    .value = text("x"),
					    .create_revision = world.up.revision,
					    .version = 1};

		dpa_replica_point(world.replica, &before);
		CU_ASSERT_EQUAL(dpa_replica_apply(world.replica, &change, 1, change.revision, &err), KS_OK);
		dpa_replica_point(world.replica, &after);
		CU_ASSERT(after.changes > before.changes);
		CU_ASSERT_EQUAL(after.key_changes > before.key_changes, cases[i].news);
		dpa_point_fini(&before);
		dpa_point_fini(&after);
	}
	dpa_replica_free(world.replica);
}

/* Few events with large values are as much as many small ones. */
static void history_is_bounded_in_bytes(void)
{
	const struct dpa_replica_config config = {.prefix = PREFIX, .history_bytes = 1 << 20};
	struct world world = {.up = {.cluster = 7, .revision = 1}};
	struct ks_store_stats stats;

	world.replica = dpa_replica_new(&config, &err);
	CU_ASSERT_PTR_NOT_NULL_FATAL(world.replica);
	world.up.revision++;
	model_put(&world.up, 0, "first");
	(void)resync(&world, false, false);
	for (int i = 0; i < 500; i++)
		change_many(&world, 1, 100000);
	ks_store_stats(dpa_replica_store(world.replica), &stats);
	CU_ASSERT(stats.cached_bytes < 2 << 20);
	/* What is wanted is there. */
	CU_ASSERT(ks_store_committed(dpa_replica_store(world.replica)).compact_revision < world.up.revision - 8);
	dpa_replica_free(world.replica);
}

/* Removing what is old keeps up with thousands of events at a time. */
static void history_is_bounded_when_much_comes_at_once(void)
{
	struct world world = {.up = {.cluster = 7, .revision = 1}};
	struct ks_store_stats stats;

	open_replica(&world, false);
	world.up.revision++;
	model_put(&world.up, 0, "first");
	(void)resync(&world, false, false);
	for (int i = 0; i < 100; i++)
		change_many(&world, 2000, 1);
	ks_store_stats(dpa_replica_store(world.replica), &stats);
	CU_ASSERT(stats.records < 4 * 2000);
	dpa_replica_free(world.replica);
}

/* Another prefix's image would remove what it knows nothing of. */
static void an_image_of_another_prefix_is_refused(void)
{
	struct world world = {.up = {.cluster = 7, .revision = 5}};
	struct dpa_resync_summary summary;
	struct dpa_image image = {.cluster_id = 7, .up_revision = 9, .revision = 9};

	open_replica(&world, false);
	model_put(&world.up, 3, "config");
	(void)resync(&world, false, false);
	image.prefix = ks_bytes_copy(text(PREFIX "deeper/"));
	CU_ASSERT_EQUAL(dpa_replica_resync_image(world.replica, &image, &summary, &err), KS_DATA_LOSS);
	check_served(&world, false);
	check_point(&world);
	dpa_image_fini(&image);
	dpa_replica_free(world.replica);
}

/* An image from object storage is not all that clients may know: what is ours alone still has to go beyond that. */
static void an_image_from_elsewhere_does_not_end_the_doubt(void)
{
	struct world world = {.up = {.cluster = 7, .revision = 5}};
	struct dpa_resync_summary summary;
	struct dpa_image image = {0};

	open_replica(&world, false);
	model_put(&world.up, 3, "config");
	(void)resync(&world, false, false);
	save(&world);
	world.up.revision++;
	model_put(&world.up, 4, "newer");
	(void)resync(&world, true, false);
	CU_ASSERT_EQUAL_FATAL(dpa_replica_image(world.replica, &image, &err), KS_OK);
	dpa_replica_free(world.replica);
	open_replica(&world, false);
	CU_ASSERT_EQUAL_FATAL(dpa_replica_load(world.replica, &world.saved, &err), KS_OK);
	CU_ASSERT_EQUAL_FATAL(dpa_replica_resync_image(world.replica, &image, &summary, &err), KS_OK);
	world.up.cluster = 8;
	world.up.revision = 6;
	model_put(&world.up, 4, "other");
	CU_ASSERT(resync(&world, false, false).revision > 1 << 20);
	dpa_image_fini(&image);
	dpa_image_fini(&world.saved);
	dpa_replica_free(world.replica);
}

/* Upstream was back before an image from object storage was compared to its end: it must not undo what came. */
static void an_image_that_was_overtaken_is_not_applied(void)
{
	struct world world = {.up = {.cluster = 7, .revision = 1}};
	struct dpa_resync_summary summary;
	struct dpa_image image = {0};

	random_state = 5;
	open_replica(&world, false);
	world.up.revision++;
	model_put(&world.up, 0, "first");
	(void)resync(&world, false, false);
	CU_ASSERT_EQUAL_FATAL(dpa_replica_image(world.replica, &image, &err), KS_OK);
	for (int i = 0; i < 10; i++)
		upstream_changes(&world, false);
	CU_ASSERT_EQUAL(dpa_replica_resync_image(world.replica, &image, &summary, &err), KS_ABORTED);
	check_served(&world, false);
	dpa_image_fini(&image);
	dpa_replica_free(world.replica);
}

/* ---- an image while everything changes ---- */

#define MANY 5000
#define ROUNDS 40

struct writer {
	struct dpa_replica *replica;
	int64_t revision;
	_Atomic bool stop;
};

/* Each revision writes the same number into two keys far apart: an image in between two states would show it. */
static void *write_pairs(void *arg)
{
	struct writer *writer = arg;

	while (!writer->stop) {
		char value[32], low[32], high[32];
		unsigned i = (unsigned)(writer->revision % (MANY / 2));
		struct dpa_change changes[2];

		writer->revision++;
		(void)snprintf(value, sizeof(value), "%lld", (long long)writer->revision);
		(void)snprintf(low, sizeof(low), PREFIX "%06u", i);
		(void)snprintf(high, sizeof(high), PREFIX "%06u", i + MANY / 2);
		for (int k = 0; k < 2; k++)
			changes[k] = (struct dpa_change){.revision = writer->revision,
							 .key = text(k ? high : low),
							 .value = text(value),
							 .create_revision = 2,
							 .version = 2};
		CU_ASSERT_EQUAL_FATAL(dpa_replica_apply(writer->replica, changes, 2, writer->revision, NULL), KS_OK);
	}
	return NULL;
}

static void check_image(const struct dpa_image *image)
{
	struct ks_kv low, high;

	CU_ASSERT_EQUAL_FATAL(image->key_count, MANY);
	for (size_t i = 0; i < MANY / 2; i++) {
		CU_ASSERT_FATAL(ks_kv_decode(ks_bytes_slice(image->keys[i].kv), &low) &&
				ks_kv_decode(ks_bytes_slice(image->keys[i + MANY / 2].kv), &high));
		CU_ASSERT_FATAL(ks_slice_eq(low.value, high.value) && low.mod_revision == high.mod_revision &&
				low.mod_revision <= image->revision);
	}
}

static void an_image_is_of_one_instant(void)
{
	const struct dpa_replica_config config = {.prefix = PREFIX};
	struct writer writer = {.replica = dpa_replica_new(&config, &err), .revision = 2};
	struct dpa_resync *listing = dpa_resync_begin(writer.replica, 7, 2, false, 0, &err);
	struct dpa_resync_summary summary;
	pthread_t thread;

	for (unsigned i = 0; i < MANY; i++) {
		char name[32];

		(void)snprintf(name, sizeof(name), PREFIX "%06u", i);
		CU_ASSERT_EQUAL_FATAL(dpa_resync_key(listing,
						     &(struct dpa_change){.revision = 2,
									  .key = text(name),
									  .value = text("0"),
									  .create_revision = 2,
									  .version = 1},
						     &err),
				      KS_OK);
	}
	CU_ASSERT_EQUAL_FATAL(dpa_resync_end(listing, false, &summary, &err), KS_OK);
	CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, write_pairs, &writer), 0);
	for (int round = 0; round < ROUNDS; round++) {
		struct dpa_image image = {0};

		CU_ASSERT_EQUAL_FATAL(dpa_replica_image(writer.replica, &image, &err), KS_OK);
		check_image(&image);
		dpa_image_fini(&image);
	}
	writer.stop = true;
	(void)pthread_join(thread, NULL);
	CU_ASSERT(writer.revision > 2);
	dpa_replica_free(writer.replica);
}

int main(void)
{
	return tap_run(
		"dpa_replica",
		(const struct tap_test[]){
			{"follows_upstream_number_by_number", follows_upstream_number_by_number},
			{"survives_overlays_and_other_histories", survives_overlays_and_other_histories},
			{"survives_all_that_with_a_transform", survives_all_that_with_a_transform},
			{"survives_crashes_soon_after_the_start", survives_crashes_soon_after_the_start},
			{"an_empty_listing_changes_nothing", an_empty_listing_changes_nothing},
			{"another_history_after_a_crash_jumps", another_history_after_a_crash_jumps},
			{"another_history_that_equals_the_image_is_told_to_clients",
			 another_history_that_equals_the_image_is_told_to_clients},
			{"a_clean_stop_does_not_jump", a_clean_stop_does_not_jump},
			{"what_a_transform_changed_meanwhile_is_an_event",
			 what_a_transform_changed_meanwhile_is_an_event},
			{"hostile_upstream_is_refused", hostile_upstream_is_refused},
			{"waits_end_when_upstreams_revision_is_there", waits_end_when_upstreams_revision_is_there},
			{"history_is_bounded", history_is_bounded},
			{"reports_of_nodes_are_no_news", reports_of_nodes_are_no_news},
			{"history_is_bounded_in_bytes", history_is_bounded_in_bytes},
			{"history_is_bounded_when_much_comes_at_once", history_is_bounded_when_much_comes_at_once},
			{"an_image_of_another_prefix_is_refused", an_image_of_another_prefix_is_refused},
			{"an_image_from_elsewhere_does_not_end_the_doubt",
			 an_image_from_elsewhere_does_not_end_the_doubt},
			{"an_image_that_was_overtaken_is_not_applied", an_image_that_was_overtaken_is_not_applied},
			{"an_image_is_of_one_instant", an_image_is_of_one_instant},
			{NULL, NULL},
		});
}
