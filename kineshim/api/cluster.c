/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Cluster service (spec 6.10). Members are the live instances on the database. They come and go by themselves, so the calls that
 * change membership are checked as etcd checks them and then refused with a text that says what to do instead.
 *
 * Instances have no peers: nothing goes from one to the other. But clients take it for granted that a member has a peer URL
 * (kubeadm looks members up by the first one), so these are the client URLs again.
 */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/api.h"
#include "api/handlers.h"
#include "proto/rpc.pb-c.h"

enum { MEMBER_ID = 1, MEMBER_NAME = 2, MEMBER_PEER_URLS = 3, MEMBER_CLIENT_URLS = 4 };

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
	*(size_t *)ctx +=
		ks_wire_bytes_size(MEMBER_PEER_URLS, url.size) + ks_wire_bytes_size(MEMBER_CLIENT_URLS, url.size);
}

static void write_peer_url(void *ctx, struct ks_slice url)
{
	ks_wire_bytes(ctx, MEMBER_PEER_URLS, url);
}

static void write_client_url(void *ctx, struct ks_slice url)
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
	each_url(member->client_urls, write_peer_url, buf);
	each_url(member->client_urls, write_client_url, buf);
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

static void member_list(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message)
{
	(void)message;
	reply_members(api, call);
}

void ks_api_member_list(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	const Etcdserverpb__MemberListRequest *request = (const Etcdserverpb__MemberListRequest *)message;

	(void)size;
	if (request->linearizable)
		ks_api_prove(api, call, message, member_list);
	else
		reply_members(api, call);
}

/* ---- changes ---- */

/* "host:port", "[address]:port"; either part may be empty, as for Go's net.SplitHostPort. */
static bool is_host_port(struct ks_slice text)
{
	const uint8_t *end = text.data + text.size, *at = text.data, *port;

	if (text.size && *at == '[') {
		at = memchr(at, ']', text.size);
		if (!at)
			return false;
		at++;
	} else {
		while (at < end && *at != ':')
			at++;
	}
	if (at == end || *at != ':')
		return false;
	for (port = at + 1; port < end; port++)
		if (*port < '0' || *port > '9')
			return false;
	for (const uint8_t *c = text.data; c < at; c++)
		if (*c <= ' ' || *c == 0x7f)
			return false;
	return true;
}

/* What etcd takes for a peer's URL. */
static bool is_peer_url(const char *text)
{
	static const char *const schemes[] = {"http://", "https://", "unix:", "unixs:"};
	struct ks_slice authority;
	const char *rest = NULL;
	size_t scheme = 0;

	text += strspn(text, " \t\r\n");
	for (; scheme < 4 && !rest; scheme++)
		if (strncasecmp(text, schemes[scheme], strlen(schemes[scheme])) == 0)
			rest = text + strlen(schemes[scheme]);
	if (!rest || scheme > 2)
		return rest != NULL;
	authority = ks_slice_of(rest, strcspn(rest, "/?# \t\r\n"));
	if (rest[authority.size] == '/')
		return false;
	for (size_t i = authority.size; i > 0; i--) {
		if (rest[i - 1] == '@') {
			authority = ks_slice_of(rest + i, authority.size - i);
			break;
		}
	}
	return is_host_port(authority);
}

struct url_search {
	const char *url;
	bool found;
};

static void look_at_url(void *ctx, struct ks_slice url)
{
	struct url_search *search = ctx;

	search->found = search->found || ks_slice_eq(url, ks_slice_str(search->url));
}

static bool has_url(const struct ks_member *member, const char *url)
{
	struct url_search search = {.url = url};

	each_url(member->client_urls, look_at_url, &search);
	return search.found;
}

static const struct ks_member *find_member(const struct ks_member *members, size_t count, uint64_t id)
{
	for (size_t i = 0; i < count; i++)
		if (members[i].id == id)
			return &members[i];
	return NULL;
}

/* Does a member other than 'self' (which may be NULL) have one of these URLs? */
static bool any_url_taken(const struct ks_member *members, size_t count, const struct ks_member *self,
			  char *const *urls, size_t url_count)
{
	for (size_t i = 0; i < count; i++)
		for (size_t j = 0; &members[i] != self && j < url_count; j++)
			if (has_url(&members[i], urls[j]))
				return true;
	return false;
}

static bool all_urls_are_its_own(const struct ks_member *member, char *const *urls, size_t url_count)
{
	size_t own = 0, all = 0;

	for (const char *c = member->client_urls; *c; c += strcspn(c, ","), c += *c == ',')
		all++;
	for (size_t i = 0; i < url_count; i++)
		own += has_url(member, urls[i]);
	return own == url_count && own == all;
}

/* The members that are alive; NULL: the call was ended. */
static struct ks_member *members_for(struct ks_api *api, struct ks_call *call, size_t *count)
{
	struct ks_member *members = api->committer->ops->members(api->committer, count);

	if (!members)
		ks_api_fail(call, KS_E_NO_MEMORY);
	return members;
}

static void member_add(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message)
{
	const Etcdserverpb__MemberAddRequest *request = (const Etcdserverpb__MemberAddRequest *)message;
	size_t count;
	struct ks_member *members = members_for(api, call, &count);

	if (!members)
		return;
	ks_api_fail(call, any_url_taken(members, count, NULL, request->peerurls, request->n_peerurls)
				  ? KS_E_PEER_URL_EXISTS
				  : KS_E_MEMBER_ADD);
	free(members);
}

void ks_api_member_add(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	const Etcdserverpb__MemberAddRequest *request = (const Etcdserverpb__MemberAddRequest *)message;
	bool ok = request->n_peerurls > 0;

	(void)size;
	for (size_t i = 0; i < request->n_peerurls && ok; i++)
		ok = is_peer_url(request->peerurls[i]);
	if (ok)
		ks_api_prove(api, call, message, member_add);
	else
		ks_api_fail(call, KS_E_MEMBER_BAD_URLS);
}

static void member_remove(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message)
{
	const Etcdserverpb__MemberRemoveRequest *request = (const Etcdserverpb__MemberRemoveRequest *)message;
	enum ks_etcd_error error = KS_E_MEMBER_REMOVE;
	size_t count;
	struct ks_member *members = members_for(api, call, &count);

	if (!members)
		return;
	if (!find_member(members, count, request->id))
		error = KS_E_MEMBER_NOT_FOUND;
	else if (count == 1)
		error = KS_E_MEMBER_NOT_ENOUGH_STARTED; /* as etcd says of the last one */
	free(members);
	ks_api_fail(call, error);
}

void ks_api_member_remove(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	(void)size;
	ks_api_prove(api, call, message, member_remove);
}

static void member_update(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message)
{
	const Etcdserverpb__MemberUpdateRequest *request = (const Etcdserverpb__MemberUpdateRequest *)message;
	enum ks_etcd_error error = KS_E_MEMBER_UPDATE;
	const struct ks_member *member;
	bool unchanged = false;
	size_t count;
	struct ks_member *members = members_for(api, call, &count);

	if (!members)
		return;
	member = find_member(members, count, request->id);
	if (!member)
		error = KS_E_MEMBER_NOT_FOUND;
	else if (any_url_taken(members, count, member, request->peerurls, request->n_peerurls))
		error = KS_E_PEER_URL_EXISTS;
	else
		unchanged = all_urls_are_its_own(member, request->peerurls, request->n_peerurls);
	free(members);
	if (unchanged)
		reply_members(api, call);
	else
		ks_api_fail(call, error);
}

void ks_api_member_update(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	(void)size;
	ks_api_prove(api, call, message, member_update);
}

/* There are no learners. */
static void member_promote(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message)
{
	const Etcdserverpb__MemberPromoteRequest *request = (const Etcdserverpb__MemberPromoteRequest *)message;
	size_t count;
	struct ks_member *members = members_for(api, call, &count);

	if (!members)
		return;
	ks_api_fail(call, find_member(members, count, request->id) ? KS_E_MEMBER_NOT_LEARNER : KS_E_MEMBER_NOT_FOUND);
	free(members);
}

void ks_api_member_promote(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	(void)size;
	ks_api_prove(api, call, message, member_promote);
}
