/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Cluster service (spec 6.10). Members are the live instances on the database; they come and go by themselves, so the
 * calls that change membership are not implemented.
 */
#include <stdlib.h>

#include "api/api.h"
#include "api/handlers.h"
#include "proto/rpc.pb-c.h"

enum { MEMBER_ID = 1, MEMBER_NAME = 2, MEMBER_CLIENT_URLS = 4 };

/* Calls 'visit' for each of the comma separated URLs. */
static void each_url(const char *urls, void (*visit)(void *ctx, struct ks_slice url), void *ctx)
{
	while (*urls) {
		size_t size = strcspn(urls, ",");

		if (size)
			visit(ctx, ks_slice_of(urls, size));
		urls += size;
		urls += *urls == ',';
	}
}

static void add_url_size(void *ctx, struct ks_slice url)
{
	*(size_t *)ctx += ks_wire_bytes_size(MEMBER_CLIENT_URLS, url.size);
}

static void write_url(void *ctx, struct ks_slice url)
{
	ks_wire_bytes(ctx, MEMBER_CLIENT_URLS, url);
}

static void write_member(struct ks_buf *buf, const struct ks_member *member)
{
	struct ks_slice name = ks_slice_str(member->name);
	size_t size = ks_wire_uint_size(MEMBER_ID, member->id) + ks_wire_bytes_size(MEMBER_NAME, name.size);

	each_url(member->client_urls, add_url_size, &size);
	ks_wire_nested(buf, 2, size);
	ks_wire_uint(buf, MEMBER_ID, member->id);
	ks_wire_bytes(buf, MEMBER_NAME, name);
	each_url(member->client_urls, write_url, buf);
}

static void reply_members(struct ks_api *api, struct ks_call *call)
{
	size_t count = 0;
	struct ks_member *members = api->committer->ops->members(api->committer, &count);
	struct ks_out out;

	if (!members) {
		ks_api_fail(call, KS_E_NO_MEMORY);
		return;
	}
	ks_out_init(&out, KS_ETCD_MAX_SEND_BYTES);
	ks_api_write_header(api, &out.buf, 1, 0);
	for (size_t i = 0; i < count; i++)
		write_member(&out.buf, &members[i]);
	free(members);
	ks_call_reply(call, &out);
}

struct member_list {
	struct ks_api *api;
	struct ks_call *call;
	struct ks_await await;
	struct ks_read_proof proof;
};

static void proved(struct ks_await *await)
{
	struct member_list *list = ks_container_of(await, struct member_list, await);

	if (list->proof.err.status == KS_OK)
		reply_members(list->api, list->call);
	else
		ks_api_fail_err(list->call, &list->proof.err);
}

static void proof_done(struct ks_read_proof *proof)
{
	ks_await_done(&ks_container_of(proof, struct member_list, proof)->await);
}

void ks_api_member_list(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	const Etcdserverpb__MemberListRequest *request = (const Etcdserverpb__MemberListRequest *)message;
	struct member_list *list;

	(void)size;
	if (!request->linearizable) {
		reply_members(api, call);
		return;
	}
	list = ks_arena_zalloc(ks_call_arena(call), sizeof(*list));
	if (!list) {
		ks_api_fail(call, KS_E_NO_MEMORY);
		return;
	}
	list->api = api;
	list->call = call;
	list->proof.done = proof_done;
	ks_await_init(&list->await, call, proved);
	api->committer->ops->prove_read(api->committer, &list->proof);
	ks_await_go(&list->await);
}
