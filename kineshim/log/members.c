/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The member table, on the side thread: this instance's row, refreshed with how far it has applied the log, and a copy of the
 * list of those that are alive, which calls read without asking the database.
 */
#include <stdlib.h>
#include <string.h>

#include "log/log_priv.h"

struct roster {
	struct ks_log *log;
	struct ks_member *members; /* strings are malloc-ed one by one */
	size_t count, room;
	int64_t least;
	bool self_seen, no_memory;
};

static void roster_fini(struct roster *roster)
{
	for (size_t i = 0; i < roster->count; i++) {
		free(roster->members[i].name);
		free(roster->members[i].client_urls);
	}
	free(roster->members);
}

static char *text_copy(struct ks_slice text)
{
	char *copy = malloc(text.size + 1);

	if (copy) {
		if (text.size)
			memcpy(copy, text.data, text.size);
		copy[text.size] = 0;
	}
	return copy;
}

static bool roster_add(struct roster *roster, size_t at, uint64_t id, struct ks_slice name, struct ks_slice urls)
{
	struct ks_member member = {.id = id, .name = text_copy(name), .client_urls = text_copy(urls)};

	if (roster->count == roster->room) {
		size_t room = roster->room ? 2 * roster->room : 8;
		struct ks_member *members = realloc(roster->members, room * sizeof(*members));

		if (members) {
			roster->members = members;
			roster->room = room;
		}
	}
	if (!member.name || !member.client_urls || roster->count == roster->room) {
		free(member.name);
		free(member.client_urls);
		roster->no_memory = true;
		return false;
	}
	memmove(&roster->members[at + 1], &roster->members[at], (roster->count - at) * sizeof(member));
	roster->members[at] = member;
	roster->count++;
	return true;
}

static void roster_add_self(struct roster *roster)
{
	const struct ks_log *log = roster->log;
	size_t at = 0;

	while (at < roster->count && roster->members[at].id < log->config.member_id)
		at++;
	roster_add(roster, at, log->config.member_id, ks_slice_str(log->name), ks_slice_str(log->client_urls));
}

static bool visit_member(void *ctx, const struct sqlb_member *member)
{
	struct roster *roster = ctx;

	if (member->id == roster->log->config.member_id)
		roster->self_seen = true;
	if (member->position < roster->least)
		roster->least = member->position;
	return roster_add(roster, roster->count, member->id, member->name, member->client_urls);
}

/* One block: the array, then the texts. */
static struct ks_member *block_of(const struct ks_member *members, size_t count, size_t *size)
{
	struct ks_member *block;
	char *text;

	*size = count * sizeof(*block);
	for (size_t i = 0; i < count; i++)
		*size += strlen(members[i].name) + strlen(members[i].client_urls) + 2;
	block = malloc(*size ? *size : 1);
	if (!block)
		return NULL;
	text = (char *)&block[count];
	for (size_t i = 0; i < count; i++) {
		size_t name_size = strlen(members[i].name) + 1, urls_size = strlen(members[i].client_urls) + 1;

		block[i].id = members[i].id;
		block[i].name = memcpy(text, members[i].name, name_size);
		text += name_size;
		block[i].client_urls = memcpy(text, members[i].client_urls, urls_size);
		text += urls_size;
	}
	return block;
}

struct ks_member *ks_log_members(struct ks_committer *committer, size_t *count)
{
	struct ks_log_side *s = &ks_log_of(committer)->side;
	struct ks_member *copy;
	size_t size;

	ks_mutex_lock(&s->role.mutex);
	copy = block_of(s->members, s->member_count, &size);
	*count = copy ? s->member_count : 0;
	ks_mutex_unlock(&s->role.mutex);
	return copy;
}

/* Makes the roster what ks_log_members copies. */
static void show_roster(struct ks_log *log, struct roster *roster)
{
	struct ks_log_side *s = &log->side;
	size_t size;
	struct ks_member *block = roster->no_memory ? NULL : block_of(roster->members, roster->count, &size), *old;

	if (!block)
		return;
	ks_mutex_lock(&s->role.mutex);
	old = s->members;
	s->members = block;
	s->member_count = roster->count;
	ks_mutex_unlock(&s->role.mutex);
	atomic_store(&log->live_members, roster->count);
	free(old);
}

enum sqlb_outcome ks_log_members_list(struct ks_log *log, struct ks_err *err)
{
	struct roster roster = {.log = log, .least = ks_store_committed(log->store).position};
	enum sqlb_outcome outcome = log->ops->member_list(log->side.role.conn, visit_member, &roster, err);

	if (outcome == SQLB_OK && !roster.self_seen)
		roster_add_self(&roster);
	if (outcome == SQLB_OK && !roster.no_memory) {
		log->side.least_applied = roster.least;
		show_roster(log, &roster);
	}
	roster_fini(&roster);
	return outcome;
}

enum sqlb_outcome ks_log_members_beat(struct ks_log *log, struct ks_err *err)
{
	struct ks_log_side *s = &log->side;
	struct sqlb_member self = {
		.id = log->config.member_id,
		.name = ks_slice_str(log->name),
		.client_urls = ks_slice_str(log->client_urls),
		.position = ks_store_committed(log->store).position,
	};
	enum sqlb_outcome outcome = log->ops->member_beat(s->role.conn, &self, log->config.member_ttl_ms, err);

	if (outcome != SQLB_OK) {
		KS_COUNT(HEARTBEAT_FAILURES, 1);
		return outcome;
	}
	s->beaten = true;
	return ks_log_members_list(log, err);
}

void ks_log_members_init(struct ks_log *log)
{
	struct roster roster = {.log = log};

	roster_add_self(&roster);
	show_roster(log, &roster);
	roster_fini(&roster);
}
