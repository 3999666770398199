/* SPDX-License-Identifier: Apache-2.0 */
/* The Maintenance service (spec 6), but for Snapshot. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/api.h"
#include "api/handlers.h"
#include "base/panic.h"
#include "proto/rpc.pb-c.h"
#include "store/alarm.h"

/* ---- Status ---- */

enum {
	STATUS_VERSION = 2,
	STATUS_DB_SIZE = 3,
	STATUS_LEADER = 4,
	STATUS_RAFT_INDEX = 5,
	STATUS_RAFT_TERM = 6,
	STATUS_RAFT_APPLIED_INDEX = 7,
	STATUS_ERRORS = 8,
	STATUS_DB_SIZE_IN_USE = 9,
	STATUS_STORAGE_VERSION = 11,
	STATUS_DB_SIZE_QUOTA = 12,
	STATUS_DOWNGRADE_INFO = 13,
};

/* A line for each alarm, as etcd's protobuf library prints an AlarmMember, the blank at the end too. */
static void write_alarm_errors(struct ks_api *api, struct ks_buf *buf)
{
	struct ks_alarm *alarms;
	size_t count;
	char text[64];

	if (ks_store_alarms(api->store, &alarms, &count) != KS_OK)
		return;
	for (size_t i = 0; i < count; i++) {
		char member[40] = "";

		if (alarms[i].member)
			(void)snprintf(member, sizeof(member), "memberID:%" PRIu64 " ", alarms[i].member);
		(void)snprintf(text, sizeof(text), "%salarm:%s ", member, ks_alarm_name(alarms[i].type));
		ks_wire_bytes(buf, STATUS_ERRORS, ks_slice_str(text));
	}
	free(alarms);
}

void ks_api_status(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	struct ks_cluster_status status;
	struct ks_out out;

	(void)message;
	(void)size;
	api->committer->ops->status(api->committer, &status);
	if (!status.available)
		status.leader_id = 0;
	ks_out_init(&out, KS_ETCD_MAX_SEND_BYTES);
	ks_api_write_header(api, &out.buf, 1, ks_store_committed(api->store).revision);
	ks_wire_bytes(&out.buf, STATUS_VERSION, ks_slice_str(KS_ETCD_VERSION));
	ks_wire_uint(&out.buf, STATUS_DB_SIZE, (uint64_t)status.db_size);
	ks_wire_uint(&out.buf, STATUS_LEADER, status.leader_id);
	ks_wire_uint(&out.buf, STATUS_RAFT_INDEX, status.raft_index);
	ks_wire_uint(&out.buf, STATUS_RAFT_TERM, status.raft_term);
	ks_wire_uint(&out.buf, STATUS_RAFT_APPLIED_INDEX, status.raft_applied_index);
	if (status.leader_id == 0)
		ks_wire_bytes(&out.buf, STATUS_ERRORS, ks_slice_str(KS_TEXT_NO_LEADER));
	write_alarm_errors(api, &out.buf);
	ks_wire_uint(&out.buf, STATUS_DB_SIZE_IN_USE, (uint64_t)status.db_size_in_use);
	ks_wire_bytes(&out.buf, STATUS_STORAGE_VERSION, ks_slice_str(KS_ETCD_STORAGE_VERSION));
	ks_wire_uint(&out.buf, STATUS_DB_SIZE_QUOTA, (uint64_t)api->quota_bytes);
	ks_wire_nested(&out.buf, STATUS_DOWNGRADE_INFO, 0);
	ks_call_reply(call, &out);
}

/* ---- Alarm ---- */

unsigned ks_api_alarms(const struct ks_api *api)
{
	return ks_store_alarm_types(api->store);
}

enum { ALARM_MEMBER_ID = 1, ALARM_TYPE = 2 };

static void write_alarm(struct ks_buf *buf, uint64_t member, enum ks_alarm_type type)
{
	ks_wire_nested(buf, 2, ks_wire_uint_size(ALARM_MEMBER_ID, member) + ks_wire_uint_size(ALARM_TYPE, type));
	ks_wire_uint(buf, ALARM_MEMBER_ID, member);
	ks_wire_uint(buf, ALARM_TYPE, type);
}

static void list_alarms(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message)
{
	const Etcdserverpb__AlarmRequest *request = (const Etcdserverpb__AlarmRequest *)message;
	struct ks_alarm *alarms;
	size_t count;
	struct ks_out out;

	if (ks_store_alarms(api->store, &alarms, &count) != KS_OK) {
		ks_api_fail(call, KS_E_NO_MEMORY);
		return;
	}
	ks_out_init(&out, KS_ETCD_MAX_SEND_BYTES);
	ks_api_write_header(api, &out.buf, 1, ks_store_committed(api->store).revision);
	for (size_t i = 0; i < count; i++)
		if (request->alarm == ETCDSERVERPB__ALARM_TYPE__NONE || (int)request->alarm == (int)alarms[i].type)
			write_alarm(&out.buf, alarms[i].member, alarms[i].type);
	free(alarms);
	ks_call_reply(call, &out);
}

/* What was raised, also when it was before; what was lifted, only when it was raised. */
static void encode_alarm(struct ks_write *write, struct ks_out *out)
{
	const struct ks_alarm_req *alarm = &write->submit.request.alarm;

	ks_api_write_header(write->api, &out->buf, 1, write->submit.result.revision);
	if (alarm->type != KS_ALARM_NONE && (alarm->activate || write->submit.result.alarm_was_active))
		write_alarm(&out->buf, alarm->member, (enum ks_alarm_type)alarm->type);
}

void ks_api_alarm(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	const Etcdserverpb__AlarmRequest *request = (const Etcdserverpb__AlarmRequest *)message;
	bool activate = request->action == ETCDSERVERPB__ALARM_REQUEST__ALARM_ACTION__ACTIVATE;
	bool known = (int)request->alarm >= KS_ALARM_NONE && (int)request->alarm <= KS_ALARM_CORRUPT;
	struct ks_write *write;

	if (request->action == ETCDSERVERPB__ALARM_REQUEST__ALARM_ACTION__GET) {
		ks_api_prove(api, call, message, list_alarms);
		return;
	}
	/* An etcd does not survive these (spec 15). */
	if ((!activate && request->action != ETCDSERVERPB__ALARM_REQUEST__ALARM_ACTION__DEACTIVATE) ||
	    (activate && !known)) {
		ks_api_fail(call, KS_E_UNKNOWN_ALARM);
		return;
	}
	write = ks_write_new(api, call, size, encode_alarm);
	if (!write)
		return;
	write->submit.request.kind = KS_REQ_ALARM;
	write->submit.request.alarm =
		(struct ks_alarm_req){.activate = activate, .member = request->memberid, .type = (int)request->alarm};
	ks_write_go(write);
}

/* ---- Defragment, Hash, HashKV: chores ---- */

struct chore {
	struct ks_api *api;
	struct ks_call *call;
	void (*encode)(const struct chore *chore, struct ks_out *out);
	struct ks_await await;
	struct ks_chore chore;
};

static void chore_done(struct ks_chore *chore)
{
	ks_await_done(&ks_container_of(chore, struct chore, chore)->await);
}

static void chore_over(struct ks_await *await)
{
	struct chore *chore = ks_container_of(await, struct chore, await);
	struct ks_call *call = chore->call;
	struct ks_out out;

	if (chore->chore.err.status != KS_OK) {
		ks_api_fail_err(call, &chore->chore.err);
		return;
	}
	ks_out_init(&out, KS_ETCD_MAX_SEND_BYTES);
	chore->encode(chore, &out);
	ks_call_reply(call, &out);
}

static void start_chore(struct ks_api *api, struct ks_call *call, struct ks_chore what,
			void (*encode)(const struct chore *chore, struct ks_out *out))
{
	struct chore *chore = ks_arena_zalloc(ks_call_arena(call), sizeof(*chore));

	if (!chore) {
		ks_api_fail(call, KS_E_NO_MEMORY);
		return;
	}
	chore->api = api;
	chore->call = call;
	chore->encode = encode;
	chore->chore = what;
	chore->chore.done = chore_done;
	ks_await_init(&chore->await, call, chore_over);
	api->committer->ops->chore(api->committer, &chore->chore);
	ks_await_go(&chore->await);
}

/* Spec 0.3: this answer has no header. */
static void encode_nothing(const struct chore *chore, struct ks_out *out)
{
	(void)chore;
	(void)out;
}

void ks_api_defragment(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	(void)message;
	(void)size;
	start_chore(api, call, (struct ks_chore){.kind = KS_CHORE_DEFRAGMENT}, encode_nothing);
}

static void encode_hash(const struct chore *chore, struct ks_out *out)
{
	ks_api_write_header(chore->api, &out->buf, 1, chore->chore.hash.revision);
	ks_wire_uint(&out->buf, 2, chore->chore.hash.hash);
}

/* Spec 6.4: hashes of whole backends cannot be compared between implementations; ours is the one of the keys. */
void ks_api_hash(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	(void)message;
	(void)size;
	start_chore(api, call, (struct ks_chore){.kind = KS_CHORE_HASH_KV}, encode_hash);
}

static void encode_hash_kv(const struct chore *chore, struct ks_out *out)
{
	encode_hash(chore, out);
	ks_wire_uint(&out->buf, 3, (uint64_t)chore->chore.hash.compact_revision);
	ks_wire_uint(&out->buf, 4, (uint64_t)chore->chore.hash.hash_revision);
}

void ks_api_hash_kv(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	const Etcdserverpb__HashKVRequest *request = (const Etcdserverpb__HashKVRequest *)message;

	(void)size;
	start_chore(api, call, (struct ks_chore){.kind = KS_CHORE_HASH_KV, .revision = request->revision},
		    encode_hash_kv);
}

void ks_api_move_leader(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	const Etcdserverpb__MoveLeaderRequest *request = (const Etcdserverpb__MoveLeaderRequest *)message;

	(void)size;
	start_chore(api, call, (struct ks_chore){.kind = KS_CHORE_MOVE_LEADER, .member_id = request->targetid},
		    encode_nothing);
}

/* ---- Downgrade (spec 6.8) ---- */

/* "major.minor", with or without ".patch", "-pre-release", "+build"; these do not count. */
static bool parse_version(const char *text, unsigned long *major, unsigned long *minor)
{
	unsigned long *const parts[] = {major, minor, &(unsigned long){0}};
	size_t count = 0;

	for (;;) {
		char *end;

		if (*text < '0' || *text > '9')
			return false;
		errno = 0;
		*parts[count++] = strtoul(text, &end, 10);
		if (errno != 0)
			return false;
		text = end;
		if (*text != '.' || count == 3)
			break;
		text++;
	}
	return count >= 2 && (*text == '\0' || (count == 3 && (*text == '-' || *text == '+') && text[1]));
}

static void downgraded(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message)
{
	const Etcdserverpb__DowngradeRequest *request = (const Etcdserverpb__DowngradeRequest *)message;
	unsigned long major, minor, own_major = 0, own_minor = 0;
	char version[48];
	struct ks_out out;

	KS_ASSERT(parse_version(KS_ETCD_VERSION, &own_major, &own_minor));
	if (request->action != ETCDSERVERPB__DOWNGRADE_REQUEST__DOWNGRADE_ACTION__CANCEL) {
		if (!parse_version(request->version, &major, &minor)) {
			ks_api_fail(call, KS_E_WRONG_DOWNGRADE_VERSION_FORMAT);
			return;
		}
		if (major != own_major || minor + 1 != own_minor) {
			ks_api_fail(call, KS_E_INVALID_DOWNGRADE_VERSION);
			return;
		}
	}
	if (request->action == ETCDSERVERPB__DOWNGRADE_REQUEST__DOWNGRADE_ACTION__ENABLE) {
		ks_api_fail(call, KS_E_NO_DOWNGRADE);
		return;
	}
	(void)snprintf(version, sizeof(version), "%lu.%lu", own_major, own_minor);
	ks_out_init(&out, KS_ETCD_MAX_SEND_BYTES);
	ks_api_write_header(api, &out.buf, 1, ks_store_committed(api->store).revision);
	ks_wire_bytes(&out.buf, 2, ks_slice_str(version));
	ks_call_reply(call, &out);
}

/* Nothing is ever being downgraded: so what CANCEL wants is the case, and ENABLE is refused once it is valid. */
void ks_api_downgrade(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	const Etcdserverpb__DowngradeRequest *request = (const Etcdserverpb__DowngradeRequest *)message;

	(void)size;
	if (request->action < ETCDSERVERPB__DOWNGRADE_REQUEST__DOWNGRADE_ACTION__VALIDATE ||
	    request->action > ETCDSERVERPB__DOWNGRADE_REQUEST__DOWNGRADE_ACTION__CANCEL)
		ks_api_fail(call, KS_E_UNKNOWN_METHOD);
	else
		ks_api_prove(api, call, message, downgraded);
}
