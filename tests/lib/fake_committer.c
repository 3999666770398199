/* SPDX-License-Identifier: Apache-2.0 */
/* A committer without a log, see fake_committer.h. */
#include "tests/lib/fake_committer.h"

#include <stdlib.h>
#include <string.h>

#include "base/panic.h"

/* An operation that waits: what to do, and on what. */
struct pending {
	struct ks_list link;
	void (*finish)(struct fake_committer *fake, void *operation);
	void *operation;
};

static struct fake_committer *of(struct ks_committer *committer)
{
	return ks_container_of(committer, struct fake_committer, base);
}

static void take(struct fake_committer *fake, void (*finish)(struct fake_committer *fake, void *operation),
		 void *operation)
{
	struct pending *pending;

	if (!fake->later) {
		finish(fake, operation);
		return;
	}
	pending = ks_xcalloc(1, sizeof(*pending));
	pending->finish = finish;
	pending->operation = operation;
	ks_list_append(&fake->waiting, &pending->link);
}

bool fake_committer_step(struct fake_committer *fake)
{
	struct ks_list *item = ks_list_pop(&fake->waiting);
	struct pending *pending;

	if (!item)
		return false;
	pending = ks_container_of(item, struct pending, link);
	pending->finish(fake, pending->operation);
	free(pending);
	return true;
}

static bool reachable(struct fake_committer *fake, struct ks_err *err)
{
	*err = (struct ks_err){.status = KS_OK};
	if (fake->away)
		ks_fail(err, KS_UNAVAILABLE, "etcdserver: no leader");
	return !fake->away;
}

/* ---- "the database" ---- */

struct fake_row {
	struct ks_loc loc;
	struct ks_bytes *encoded;
};

void fake_committer_trim(struct fake_committer *fake, size_t count)
{
	for (size_t i = 0; i < count && i < fake->row_count; i++)
		fake->rows[i].loc.position = -1;
}

static void keep_rows(struct fake_committer *fake, const struct ks_entry *entry)
{
	for (size_t i = 0; i < entry->effect_count; i++) {
		const struct ks_effect *effect = &entry->effects[i];
		const struct ks_kv kv = {
			.key = effect->key,
			.value = effect->value,
			.create_revision = effect->create_revision,
			.mod_revision = entry->revision,
			.version = effect->version,
			.lease = effect->lease,
		};

		if (effect->kind != KS_EFFECT_PUT)
			continue;
		fake->rows = ks_xrealloc(fake->rows, (fake->row_count + 1) * sizeof(*fake->rows));
		fake->rows[fake->row_count].loc = (struct ks_loc){.position = entry->position, .sub = (int32_t)i};
		fake->rows[fake->row_count].encoded = ks_kv_encode(&kv);
		KS_ASSERT(fake->rows[fake->row_count++].encoded);
	}
}

struct ks_bytes *fake_committer_find(void *ctx, struct ks_loc loc)
{
	const struct fake_committer *fake = ctx;

	for (size_t i = 0; i < fake->row_count; i++)
		if (fake->rows[i].loc.position == loc.position && fake->rows[i].loc.sub == loc.sub)
			return ks_bytes_ref(fake->rows[i].encoded);
	return NULL;
}

/* ---- operations ---- */

static void finish_submit(struct fake_committer *fake, void *operation)
{
	struct ks_submit *submit = operation;
	struct ks_effects effects = {0};

	fake->submits++;
	if (reachable(fake, &submit->err)) {
		submit->err.status =
			ks_store_eval(fake->store, &submit->request, &submit->result, &effects, &submit->err);
		if (submit->err.status == KS_OK) {
			keep_rows(fake, &effects.entry);
			ks_store_publish(fake->store);
		}
		ks_effects_fini(&effects);
	}
	submit->done(submit);
}

static void finish_proof(struct fake_committer *fake, void *operation)
{
	struct ks_read_proof *proof = operation;

	fake->proofs++;
	(void)reachable(fake, &proof->err);
	proof->done(proof);
}

static void finish_fetch(struct fake_committer *fake, void *operation)
{
	struct ks_fetch *fetch = operation;

	fake->fetches++;
	if (reachable(fake, &fetch->err)) {
		for (size_t i = 0; i < fetch->count && fetch->err.status == KS_OK; i++) {
			fetch->refs[i]->encoded = fake_committer_find(fake, fetch->refs[i]->loc);
			if (!fetch->refs[i]->encoded)
				ks_fail(&fetch->err, KS_OUT_OF_RANGE,
					"etcdserver: mvcc: required revision has been compacted");
		}
	}
	fetch->done(fetch);
}

static void finish_keepalive(struct fake_committer *fake, void *operation)
{
	struct ks_keepalive *keepalive = operation;
	struct ks_lease_info info = {0};

	fake->keepalives++;
	if (reachable(fake, &keepalive->err) && ks_store_lease(fake->store, keepalive->id, false, &info)) {
		keepalive->ttl = info.ttl;
		ks_lease_info_fini(&info);
	}
	keepalive->done(keepalive);
}

static void add_time(struct ks_lease_times *times, int64_t id, bool found, int64_t ttl)
{
	times->leases[times->lease_count++] = (struct ks_lease_time){
		.id = id,
		.found = found,
		.remaining_ms = ttl * 1000 - 1,
	};
}

static int by_remaining(const void *a, const void *b)
{
	int64_t left = ((const struct ks_lease_time *)a)->remaining_ms;
	int64_t right = ((const struct ks_lease_time *)b)->remaining_ms;

	return (left > right) - (left < right);
}

static void finish_times(struct fake_committer *fake, void *operation)
{
	struct ks_lease_times *times = operation;
	struct ks_lease_info *infos = NULL;
	size_t count = 0;

	if (reachable(fake, &times->err) && !times->ids) {
		times->err.status = ks_store_leases(fake->store, &infos, &count);
		times->leases = ks_xcalloc(count + 1, sizeof(*times->leases));
		for (size_t i = 0; i < count; i++)
			add_time(times, infos[i].id, true, infos[i].ttl);
		qsort(times->leases, times->lease_count, sizeof(*times->leases), by_remaining);
		free(infos);
	} else if (times->err.status == KS_OK) {
		times->leases = ks_xcalloc(times->id_count + 1, sizeof(*times->leases));
		for (size_t i = 0; i < times->id_count; i++) {
			struct ks_lease_info info = {0};
			bool found = ks_store_lease(fake->store, times->ids[i], false, &info);

			add_time(times, times->ids[i], found, info.ttl);
			ks_lease_info_fini(&info);
		}
	}
	times->done(times);
}

static bool find_all(void *ctx, const struct ks_loc *locs, struct ks_bytes **out, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		out[i] = fake_committer_find(ctx, locs[i]);
		if (!out[i])
			return false;
	}
	return true;
}

static void finish_chore(struct fake_committer *fake, void *operation)
{
	struct ks_chore *chore = operation;

	if (reachable(fake, &chore->err)) {
		switch (chore->kind) {
		case KS_CHORE_DEFRAGMENT:
		case KS_CHORE_MOVE_LEADER:
		case KS_CHORE_SIZE:
			break;
		case KS_CHORE_COMPACT_PHYSICAL:
			while (ks_store_compact_step(fake->store, 1000, NULL, NULL))
				;
			break;
		case KS_CHORE_HASH_KV:
			chore->err.status = ks_store_hash_kv(fake->store, chore->revision, find_all, fake, &chore->hash,
							     &chore->err);
			break;
		}
	}
	chore->done(chore);
}

static void fake_submit(struct ks_committer *committer, struct ks_submit *submit)
{
	take(of(committer), finish_submit, submit);
}

static void fake_prove_read(struct ks_committer *committer, struct ks_read_proof *proof)
{
	take(of(committer), finish_proof, proof);
}

static void fake_fetch(struct ks_committer *committer, struct ks_fetch *fetch)
{
	take(of(committer), finish_fetch, fetch);
}

static void fake_keepalive(struct ks_committer *committer, struct ks_keepalive *keepalive)
{
	take(of(committer), finish_keepalive, keepalive);
}

static void fake_lease_times(struct ks_committer *committer, struct ks_lease_times *times)
{
	take(of(committer), finish_times, times);
}

static void fake_chore(struct ks_committer *committer, struct ks_chore *chore)
{
	take(of(committer), finish_chore, chore);
}

static void fake_status(struct ks_committer *committer, struct ks_cluster_status *status)
{
	struct fake_committer *fake = of(committer);

	*status = fake->status;
	status->available = !fake->away;
}

static struct ks_member *fake_members(struct ks_committer *committer, size_t *count)
{
	struct fake_committer *fake = of(committer);
	size_t name_size = strlen(fake->name) + 1;
	size_t urls_size = strlen(fake->client_urls) + 1;
	struct ks_member *member = ks_xcalloc(1, sizeof(*member) + name_size + urls_size);

	member->id = fake->status.member_id;
	member->name = (char *)(member + 1);
	member->client_urls = member->name + name_size;
	memcpy(member->name, fake->name, name_size);
	memcpy(member->client_urls, fake->client_urls, urls_size);
	*count = 1;
	return member;
}

static int64_t fake_db_size(struct ks_committer *committer)
{
	return ks_container_of(committer, struct fake_committer, base)->status.db_size;
}

void fake_committer_init(struct fake_committer *fake, struct ks_store *store)
{
	static const struct ks_committer_ops ops = {
		.submit = fake_submit,
		.prove_read = fake_prove_read,
		.fetch = fake_fetch,
		.keepalive = fake_keepalive,
		.lease_times = fake_lease_times,
		.chore = fake_chore,
		.status = fake_status,
		.members = fake_members,
		.db_size = fake_db_size,
	};

	*fake = (struct fake_committer){
		.base.ops = &ops,
		.store = store,
		.status = {.cluster_id = 0xc1, .member_id = 0x3e, .leader_id = 0x3e, .raft_term = 2, .available = true},
		.name = "fake",
		.client_urls = "http://127.0.0.1:1,http://[::1]:1",
	};
	ks_list_init(&fake->waiting);
}

void fake_committer_fini(struct fake_committer *fake)
{
	KS_ASSERT(ks_list_empty(&fake->waiting));
	for (size_t i = 0; i < fake->row_count; i++)
		ks_bytes_unref(fake->rows[i].encoded);
	free(fake->rows);
}
