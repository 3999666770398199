/* SPDX-License-Identifier: Apache-2.0 */
/* See store_fixture.h. */
#include "tests/lib/store_fixture.h"

#include <stdio.h>
#include <stdlib.h>

struct ks_store *sf_store;
struct ks_err sf_err;
bool sf_hold;
struct ks_result sf_result;
struct ks_effects sf_effects;
struct ks_range_result sf_range_result;

static char text_out[8192];

/* The log to fetch from: encodings by place. */
static struct logged {
	struct ks_loc loc;
	struct ks_bytes *encoded;
} * logged;
static size_t logged_count;
static unsigned fetches;
static bool fail_fetches;

void sf_open(void)
{
	struct ks_store_config config = {.values_kept = true};

	sf_hold = false;
	sf_store = ks_store_new(&config, &sf_err);
	CU_ASSERT_PTR_NOT_NULL_FATAL(sf_store);
}

void sf_open_cached(size_t bytes)
{
	struct ks_store_config config = {.value_cache_bytes = bytes, .fetch = sf_fetch};

	sf_hold = false;
	fetches = 0;
	fail_fetches = false;
	sf_store = ks_store_new(&config, &sf_err);
	CU_ASSERT_PTR_NOT_NULL_FATAL(sf_store);
}

void sf_close(void)
{
	ks_result_fini(&sf_result);
	ks_effects_fini(&sf_effects);
	ks_range_result_fini(&sf_range_result);
	ks_store_free(sf_store);
	sf_store = NULL;
	while (logged_count > 0)
		ks_bytes_unref(logged[--logged_count].encoded);
	free(logged);
	logged = NULL;
}

unsigned sf_fetches(void)
{
	return fetches;
}

void sf_fail_fetches(bool fail)
{
	fail_fetches = fail;
}

struct ks_bytes *sf_fetch(void *ctx, struct ks_loc loc)
{
	(void)ctx;
	fetches++;
	for (size_t i = 0; i < logged_count && !fail_fetches; i++) {
		if (logged[i].loc.position == loc.position && logged[i].loc.sub == loc.sub)
			return ks_bytes_ref(logged[i].encoded);
	}
	return NULL;
}

void sf_fill(void *ctx, struct ks_kvref *ref)
{
	ref->encoded = sf_fetch(ctx, ref->loc);
	CU_ASSERT_PTR_NOT_NULL(ref->encoded);
}

static void log_entry(const struct ks_entry *entry)
{
	logged = ks_xrealloc(logged, (logged_count + entry->effect_count) * sizeof(*logged));
	for (size_t i = 0; i < entry->effect_count; i++) {
		const struct ks_effect *effect = &entry->effects[i];

		logged[logged_count].loc = (struct ks_loc){.position = entry->position, .sub = (int32_t)i};
		logged[logged_count++].encoded = ks_kv_encode(&(struct ks_kv){
			.key = effect->key,
			.value = effect->value,
			.create_revision = effect->create_revision,
			.mod_revision = entry->revision,
			.version = effect->version,
			.lease = effect->lease,
		});
	}
}

struct ks_slice sf_text(const char *text)
{
	return text ? ks_slice_str(text) : ks_slice_of(NULL, 0);
}

struct ks_interval sf_interval(const char *key, const char *end)
{
	struct ks_interval interval = {.key = sf_text(key), .end = sf_text(end)};

	if (key && strcmp(key, SF_ALL) == 0)
		interval.key = ks_slice_of("", 1);
	if (end && strcmp(end, SF_ALL) == 0)
		interval.end = ks_slice_of("", 1);
	return interval;
}

enum ks_status sf_eval(const struct ks_request *req)
{
	enum ks_status status;

	ks_result_fini(&sf_result);
	ks_effects_fini(&sf_effects);
	sf_err = (struct ks_err){0};
	status = ks_store_eval(sf_store, req, &sf_result, &sf_effects, &sf_err);
	CU_ASSERT(status == sf_err.status);
	if (status == KS_OK && sf_effects.entry.effect_count > 0)
		log_entry(&sf_effects.entry);
	if (!sf_hold)
		ks_store_publish(sf_store);
	return status;
}

enum ks_status sf_put_lease(const char *key, const char *value, int64_t lease)
{
	return sf_eval(&(struct ks_request){
		.kind = KS_REQ_PUT,
		.put = {.key = sf_text(key), .value = sf_text(value), .lease = lease, .prev_kv = true},
	});
}

enum ks_status sf_put(const char *key, const char *value)
{
	return sf_put_lease(key, value, 0);
}

enum ks_status sf_delete(const char *key, const char *end)
{
	return sf_eval(&(struct ks_request){
		.kind = KS_REQ_DELETE,
		.del = {.interval = sf_interval(key, end), .prev_kv = true},
	});
}

enum ks_status sf_compact(int64_t revision)
{
	return sf_eval(&(struct ks_request){.kind = KS_REQ_COMPACT, .compact_revision = revision});
}

enum ks_status sf_grant(int64_t id)
{
	return sf_eval(&(struct ks_request){.kind = KS_REQ_LEASE_GRANT, .grant = {.id = id, .ttl = 60}});
}

enum ks_status sf_revoke(int64_t id)
{
	return sf_eval(&(struct ks_request){.kind = KS_REQ_LEASE_REVOKE, .revoke = {.id = id}});
}

enum ks_status sf_txn(const struct ks_txn_req *txn)
{
	return sf_eval(&(struct ks_request){.kind = KS_REQ_TXN, .txn = *txn});
}

void sf_compact_all(void)
{
	while (ks_store_compact_step(sf_store, 0, NULL, NULL))
		;
}

int64_t sf_revision(void)
{
	return ks_store_committed(sf_store).revision;
}

enum ks_status sf_range(const struct ks_range_req *req)
{
	enum ks_status status;
	int64_t revision;

	ks_range_result_fini(&sf_range_result);
	sf_err = (struct ks_err){0};
	status = ks_store_range(sf_store, req, &sf_range_result, &revision, &sf_err);
	CU_ASSERT(status == sf_err.status);
	CU_ASSERT(revision == sf_revision());
	ks_range_result_each_missing(&sf_range_result, sf_fill, NULL);
	CU_ASSERT(ks_range_result_finish(&sf_range_result, &sf_err) == KS_OK);
	return status;
}

struct ks_kv sf_kv(size_t i)
{
	struct ks_kv kv = {0};

	CU_ASSERT_FATAL(i < sf_range_result.kv_count);
	CU_ASSERT(ks_kv_decode(ks_bytes_slice(sf_range_result.kvs[i].encoded), &kv));
	return kv;
}

static size_t append(size_t size, struct ks_slice slice, const char *after)
{
	return size + (size_t)snprintf(text_out + size, sizeof(text_out) - size, "%.*s%s", (int)slice.size,
				       (const char *)slice.data, after);
}

const char *sf_keys(void)
{
	size_t size = 0;

	text_out[0] = 0;
	for (size_t i = 0; i < sf_range_result.kv_count; i++)
		size = append(size, sf_kv(i).key, i + 1 < sf_range_result.kv_count ? " " : "");
	return text_out;
}

const char *sf_value(const char *key, int64_t revision)
{
	CU_ASSERT(sf_range(&(struct ks_range_req){.interval = sf_interval(key, NULL), .revision = revision}) == KS_OK);
	if (sf_range_result.kv_count == 0)
		return "-";
	append(0, sf_kv(0).value, "");
	return text_out;
}

bool sf_is(struct ks_slice slice, const char *text)
{
	return ks_slice_eq(slice, ks_slice_str(text));
}

static void write_event(void *ctx, const struct ks_event *event)
{
	size_t *size = ctx;
	char rest[64];

	snprintf(rest, sizeof(rest), "%s %lld;", ks_kvref_present(&event->prev) ? "(prev)" : "",
		 (long long)event->revision);
	*size = append(*size, event->is_delete ? S("del ") : S("put "), "");
	*size = append(*size, event->key, rest);
}

const char *sf_events(const char *key, const char *end, int64_t from, bool prev_kv)
{
	struct ks_event_scan scan = {
		.interval = sf_interval(key, end),
		.from = from,
		.to = INT64_MAX,
		.prev_kv = prev_kv,
		.max_revisions = SIZE_MAX,
		.max_events = SIZE_MAX,
		.max_bytes = SIZE_MAX,
		.max_scanned = SIZE_MAX,
	};
	struct ks_event_scanned scanned;
	int64_t compact_revision;
	size_t size = 0;

	text_out[0] = 0;
	if (ks_store_scan_events(sf_store, &scan, write_event, &size, &scanned, &compact_revision) != KS_OK)
		return "compacted";
	CU_ASSERT(scanned.next >= from);
	return text_out;
}

uint32_t sf_hash(struct ks_store *store, int64_t revision)
{
	struct ks_hash_result result;

	CU_ASSERT(ks_store_hash_kv(store, revision, NULL, NULL, &result, &sf_err) == KS_OK);
	return result.hash;
}

static int cmp_bytes(const void *a, const void *b)
{
	return ks_slice_cmp(ks_bytes_slice(*(struct ks_bytes *const *)a), ks_bytes_slice(*(struct ks_bytes *const *)b));
}

const char *sf_lease_keys(int64_t id)
{
	struct ks_lease_info info;
	size_t size = 0;

	text_out[0] = 0;
	if (!ks_store_lease(sf_store, id, true, &info))
		return "-";
	if (info.key_count)
		qsort(info.keys, info.key_count, sizeof(struct ks_bytes *), cmp_bytes);
	for (size_t i = 0; i < info.key_count; i++)
		size = append(size, ks_bytes_slice(info.keys[i]), i + 1 < info.key_count ? " " : "");
	ks_lease_info_fini(&info);
	return text_out;
}
