/* SPDX-License-Identifier: Apache-2.0 */
/* The Lease service (spec 4) but for LeaseKeepAlive, which is in keepalive.c. */
#include <stdlib.h>
#include <time.h>

#include "api/access.h"
#include "api/api.h"
#include "api/handlers.h"
#include "proto/rpc.pb-c.h"

#define MAX_TTL_S 9000000000
/* Attempts to find a free id for a client that left the choice to us. */
#define ID_ROUNDS 4

/* ---- LeaseGrant ---- */

/* As etcd: 16 bits of the member, 40 bits of milliseconds, 8 bits that count, sign bit cleared; never 0 (spec 4.1). */
int64_t ks_api_choose_lease_id(struct ks_api *api)
{
	struct ks_cluster_status status;
	struct timespec now;
	uint64_t millis, count, id;

	api->committer->ops->status(api->committer, &status);
	clock_gettime(CLOCK_REALTIME, &now);
	millis = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
	count = atomic_fetch_add_explicit(&api->lease_counter, 1, memory_order_relaxed);
	/* The counter runs over into the milliseconds, so that a burst of grants does not repeat itself. */
	id = status.member_id << 48 | ((((millis << 8) & 0xffffffffffu) + count) & 0xffffffffffffu);
	id &= INT64_MAX;
	return id ? (int64_t)id : 1;
}

static void encode_grant(struct ks_write *write, struct ks_out *out)
{
	const struct ks_lease_grant_req *grant = &write->submit.request.grant;

	ks_api_write_header(write->api, &out->buf, 1, write->submit.result.revision);
	ks_wire_uint(&out->buf, 2, (uint64_t)grant->id);
	ks_wire_uint(&out->buf, 3, (uint64_t)grant->ttl);
}

/* Somebody else has the id that we chose: choose another. */
static bool grant_again(struct ks_write *write)
{
	if (write->submit.err.status != KS_FAILED_PRECONDITION || write->attempts == ID_ROUNDS)
		return false;
	write->attempts++;
	write->submit.request.grant.id = ks_api_choose_lease_id(write->api);
	ks_write_go(write);
	return true;
}

void ks_api_lease_grant(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	const Etcdserverpb__LeaseGrantRequest *request = (const Etcdserverpb__LeaseGrantRequest *)message;
	struct ks_write *write;

	if (request->ttl > MAX_TTL_S) {
		ks_api_fail(call, KS_E_LEASE_TTL_TOO_LARGE);
		return;
	}
	write = ks_write_new(api, call, size, encode_grant);
	if (!write)
		return;
	write->submit.request.kind = KS_REQ_LEASE_GRANT;
	write->submit.request.grant.ttl = request->ttl < api->min_lease_ttl_s ? api->min_lease_ttl_s : request->ttl;
	write->submit.request.grant.id = request->id ? request->id : ks_api_choose_lease_id(api);
	write->failed = request->id ? NULL : grant_again;
	ks_write_go(write);
}

/* ---- LeaseRevoke ---- */

static void encode_header(struct ks_write *write, struct ks_out *out)
{
	ks_api_write_header(write->api, &out->buf, 1, write->submit.result.revision);
}

void ks_api_lease_revoke(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	const Etcdserverpb__LeaseRevokeRequest *request = (const Etcdserverpb__LeaseRevokeRequest *)message;
	struct ks_write *write = ks_write_new(api, call, size, encode_header);

	if (!write)
		return;
	write->submit.request.kind = KS_REQ_LEASE_REVOKE;
	write->submit.request.revoke.id = request->id;
	ks_write_go(write);
}

/* ---- LeaseTimeToLive, LeaseLeases ---- */

/*
 * Both ask what exists and how long it will: a read proof first, so that a lease granted on another instance is known,
 * then the deadlines, which only the database knows.
 */
struct lease_read {
	struct ks_api *api;
	struct ks_call *call;
	int64_t id;
	bool keys;
	struct ks_await await;
	struct ks_read_proof proof;
	struct ks_lease_times times;
	struct ks_lease_info info;
};

static void encode_time_to_live(struct lease_read *read, const struct ks_lease_time *time, struct ks_out *out)
{
	int64_t revision = ks_store_committed(read->api->store).revision;

	ks_api_write_header(read->api, &out->buf, 1, revision);
	ks_wire_uint(&out->buf, 2, (uint64_t)read->id);
	if (!time || !time->found) {
		ks_wire_uint(&out->buf, 3, (uint64_t)(int64_t)-1);
		return;
	}
	ks_wire_uint(&out->buf, 3, (uint64_t)(time->remaining_ms / 1000));
	ks_wire_uint(&out->buf, 4, (uint64_t)read->info.ttl);
	for (size_t i = 0; i < read->info.key_count; i++) {
		ks_wire_nested(&out->buf, 5, read->info.keys[i]->size);
		ks_out_bytes(out, read->info.keys[i]);
	}
}

static void reply_time_to_live(struct lease_read *read, const struct ks_lease_time *time)
{
	struct ks_call *call = read->call;
	struct ks_out out;

	ks_out_init(&out, KS_ETCD_MAX_SEND_BYTES);
	encode_time_to_live(read, time, &out);
	ks_lease_info_fini(&read->info);
	ks_call_reply(call, &out);
}

static void times_done(struct ks_lease_times *times)
{
	ks_await_done(&ks_container_of(times, struct lease_read, times)->await);
}

static void start_times(struct lease_read *read, void (*then)(struct ks_await *await))
{
	struct ks_committer *committer = read->api->committer;

	read->times.done = times_done;
	ks_await_init(&read->await, read->call, then);
	committer->ops->lease_times(committer, &read->times);
	ks_await_go(&read->await);
}

static void time_to_live_known(struct ks_await *await)
{
	struct lease_read *read = ks_container_of(await, struct lease_read, await);
	struct ks_lease_time *times = read->times.leases;

	if (read->times.err.status == KS_OK) {
		reply_time_to_live(read, read->times.lease_count ? times : NULL);
	} else {
		ks_lease_info_fini(&read->info);
		ks_api_fail_err(read->call, &read->times.err);
	}
	free(times);
}

/*
 * Any user; whoever wants to see the keys must be allowed to read them. They are read once, for the judgement and for the answer: a key
 * that comes in between would be shown to whom it is not for. *found: there is such a lease, then read->info is filled.
 */
static enum ks_status look(struct lease_read *read, bool *found, struct ks_err *err)
{
	struct ks_access access;
	enum ks_status status = ks_access_open(read->api, read->call, ks_call_arena(read->call), &access, err);

	*found = false;
	if (status != KS_OK)
		return status;
	status = ks_access_check_user(&access, err);
	if (status == KS_OK)
		*found = ks_store_lease(read->api->store, read->id, read->keys, &read->info);
	if (*found)
		status = ks_access_check_keys(&access, &read->info, KS_PERM_READ, err);
	ks_access_close(&access);
	return status;
}

static void time_to_live_proved(struct ks_await *await)
{
	struct lease_read *read = ks_container_of(await, struct lease_read, await);
	struct ks_err err = read->proof.err;
	bool found = false;

	if (err.status == KS_OK && read->api->committer->ops->leases_elsewhere) {
		read->times.want_keys = read->keys;
		read->times.info = &read->info;
		found = true;
	} else if (err.status == KS_OK) {
		err.status = look(read, &found, &err);
	}
	if (err.status != KS_OK) {
		ks_lease_info_fini(&read->info);
		ks_api_fail_err(read->call, &err);
	} else if (!found) {
		reply_time_to_live(read, NULL);
	} else {
		read->times.ids = &read->id;
		read->times.id_count = 1;
		start_times(read, time_to_live_known);
	}
}

static void proof_done(struct ks_read_proof *proof)
{
	ks_await_done(&ks_container_of(proof, struct lease_read, proof)->await);
}

static struct lease_read *new_lease_read(struct ks_api *api, struct ks_call *call)
{
	struct lease_read *read = ks_arena_zalloc(ks_call_arena(call), sizeof(*read));

	if (!read) {
		ks_api_fail(call, KS_E_NO_MEMORY);
		return NULL;
	}
	read->api = api;
	read->call = call;
	return read;
}

void ks_api_lease_time_to_live(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	const Etcdserverpb__LeaseTimeToLiveRequest *request = (const Etcdserverpb__LeaseTimeToLiveRequest *)message;
	struct lease_read *read = new_lease_read(api, call);

	(void)size;
	if (!read)
		return;
	read->id = request->id;
	read->keys = request->keys;
	read->proof.done = proof_done;
	ks_await_init(&read->await, call, time_to_live_proved);
	api->committer->ops->prove_read(api->committer, &read->proof);
	ks_await_go(&read->await);
}

static void leases_known(struct ks_await *await)
{
	struct lease_read *read = ks_container_of(await, struct lease_read, await);
	struct ks_call *call = read->call;
	struct ks_lease_time *times = read->times.leases;
	struct ks_out out;

	if (read->times.err.status != KS_OK) {
		free(times);
		ks_api_fail_err(call, &read->times.err);
		return;
	}
	ks_out_init(&out, KS_ETCD_MAX_SEND_BYTES);
	ks_api_write_header(read->api, &out.buf, 1, ks_store_committed(read->api->store).revision);
	for (size_t i = 0; i < read->times.lease_count; i++) {
		ks_wire_nested(&out.buf, 2, ks_wire_uint_size(1, (uint64_t)times[i].id));
		ks_wire_uint(&out.buf, 1, (uint64_t)times[i].id);
	}
	free(times);
	ks_call_reply(call, &out);
}

/* Whoever sees all leases must be allowed to read whatever hangs on them (spec 4.5). */
static enum ks_status may_look_at_all(struct ks_api *api, const struct ks_access *access, struct ks_err *err)
{
	struct ks_lease_info *infos;
	enum ks_status status;
	size_t count;

	if (!access->auth || ks_access_check_admin(access, err) == KS_OK)
		return KS_OK;
	status = ks_access_check_user(access, err);
	if (status != KS_OK)
		return status;
	if (ks_store_leases(api->store, &infos, &count) != KS_OK)
		return ks_etcd_fail(err, KS_E_NO_MEMORY);
	for (size_t i = 0; i < count && status == KS_OK; i++)
		status = ks_access_check_lease(api, access, infos[i].id, KS_PERM_READ, err);
	free(infos);
	return status;
}

void ks_api_lease_leases(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	struct lease_read *read = new_lease_read(api, call);
	struct ks_access access;
	enum ks_status status;
	struct ks_err err;

	(void)message;
	(void)size;
	if (!read)
		return;
	status = ks_access_open(api, call, ks_call_arena(call), &access, &err);
	if (status == KS_OK) {
		status = may_look_at_all(api, &access, &err);
		ks_access_close(&access);
	}
	if (status == KS_OK)
		start_times(read, leases_known);
	else
		ks_api_fail_err(call, &err);
}
