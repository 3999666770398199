/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Discovery by itself, for tests/agent/discovery.py: keys come in on stdin, what is served for them goes out on stdout, as a replica
 * would do it: the transform runs under one lock, and so do refreshes.
 *
 *	discovery_driver CONFIG DIR
 *	in:   put KEY VALUE | del KEY | status | board | strip VALUE
 *	out:  KEY VALUE (whenever it is another one) | status JSON | board SERVICES FAILURES TEXT | strip VALUE
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "base/thread.h"
#include "discovery/discovery.h"

#define KEYS_MAX 20000
#define VALUE_MAX ((size_t)1 << 24)

struct key {
	char *name, *raw, *served;
};

struct dpa_replica {
	struct ks_mutex lock; /* guards the rest */
	struct dpa_discovery *discovery;
	struct key keys[KEYS_MAX];
	size_t count;
};

static struct dpa_replica replica;

static void say(const char *what, const char *value)
{
	(void)printf("%s %s\n", what, value);
	(void)fflush(stdout);
}

static char *text_of(const struct ks_buf *buf)
{
	char *text = ks_xmalloc(buf->size + 1);

	memcpy(text, buf->data, buf->size);
	text[buf->size] = '\0';
	return text;
}

static void recompute(struct key *key) KS_REQUIRES(replica.lock)
{
	struct ks_slice raw = ks_slice_str(key->raw);
	struct ks_buf out;
	char *served;

	ks_buf_init(&out, VALUE_MAX);
	served = dpa_discovery_transform(replica.discovery, ks_slice_str(key->name), &raw, &out) ? text_of(&out)
												 : ks_xstrdup(key->raw);
	ks_buf_fini(&out);
	if (!key->served || strcmp(key->served, served) != 0)
		say(key->name, served);
	free(key->served);
	key->served = served;
}

static struct key *find(struct ks_slice name) KS_REQUIRES(replica.lock)
{
	for (size_t i = 0; i < replica.count; i++) {
		if (ks_slice_eq(ks_slice_str(replica.keys[i].name), name))
			return &replica.keys[i];
	}
	return NULL;
}

/* The agent's is not linked: only this is asked of it. */
enum ks_status dpa_replica_refresh(struct dpa_replica *of, const struct ks_slice *keys, size_t count,
				   struct ks_err *err)
{
	(void)err;
	ks_mutex_lock(&of->lock);
	for (size_t i = 0; i < count; i++) {
		struct key *key = find(keys[i]);

		if (key)
			recompute(key);
	}
	ks_mutex_unlock(&of->lock);
	return KS_OK;
}

static void put(const char *name, const char *value)
{
	struct key *key;

	ks_mutex_lock(&replica.lock);
	key = find(ks_slice_str(name));
	if (!key) {
		KS_ASSERT(replica.count < KEYS_MAX);
		key = &replica.keys[replica.count++];
		*key = (struct key){.name = ks_xstrdup(name)};
	}
	free(key->raw);
	key->raw = ks_xstrdup(value);
	recompute(key);
	ks_mutex_unlock(&replica.lock);
}

static void del(const char *name)
{
	struct key *key;

	ks_mutex_lock(&replica.lock);
	key = find(ks_slice_str(name));
	if (key) {
		(void)dpa_discovery_transform(replica.discovery, ks_slice_str(name), NULL, NULL);
		free(key->name);
		free(key->raw);
		free(key->served);
		*key = replica.keys[--replica.count];
	}
	ks_mutex_unlock(&replica.lock);
	say("deleted", name);
}

static void strip(const char *value)
{
	struct ks_buf out;
	char *text;

	ks_buf_init(&out, VALUE_MAX);
	text = dpa_discovery_strip(ks_slice_str(value), &out) ? text_of(&out) : ks_xstrdup(value);
	say("strip", text);
	free(text);
	ks_buf_fini(&out);
}

static void show_board(struct dpa_board *board)
{
	struct dpa_status status;
	char text[512];

	dpa_board_read(board, &status);
	(void)snprintf(text, sizeof(text), "%llu %llu %s", (unsigned long long)status.discovery_services,
		       (unsigned long long)status.discovery_failures, status.alarms[DPA_ALARM_DISCOVERY].text);
	say("board", text);
}

static void obey(char *line, struct dpa_board *board)
{
	char *rest = line, *command = strsep(&rest, " "), *json;

	if (strcmp(command, "put") == 0) {
		const char *name = strsep(&rest, " ");

		KS_ASSERT(rest);
		put(name, rest);
	} else if (strcmp(command, "del") == 0) {
		del(rest);
	} else if (strcmp(command, "strip") == 0) {
		strip(rest);
	} else if (strcmp(command, "board") == 0) {
		show_board(board);
	} else if (strcmp(command, "status") == 0) {
		json = dpa_discovery_json(replica.discovery);
		KS_ASSERT(json);
		say("status", json);
		free(json);
	}
}

/* Keys that are there before the start, as those of a disk image are: up to the line "start". */
static bool next_line(char **line, size_t *room)
{
	ssize_t size = getline(line, room, stdin);

	if (size <= 0)
		return false;
	if ((*line)[size - 1] == '\n')
		(*line)[size - 1] = '\0';
	return true;
}

int main(int argc, char **argv)
{
	struct dpa_board *board = dpa_board_new();
	struct ks_err err;
	char *line = NULL;
	size_t room = 0;
	int code = 1;

	ks_mutex_init(&replica.lock);
	replica.discovery = argc == 3 ? dpa_discovery_new(argv[1], argv[2], board, &err) : NULL;
	if (!replica.discovery) {
		(void)fprintf(stderr, "%s\n", argc == 3 ? err.text : "discovery_driver CONFIG DIR");
		goto out;
	}
	while (next_line(&line, &room) && strcmp(line, "start") != 0)
		obey(line, board);
	if (dpa_discovery_start(replica.discovery, &replica, &err) != KS_OK) {
		(void)fprintf(stderr, "%s\n", err.text);
		goto out;
	}
	say("started", "");
	while (next_line(&line, &room))
		obey(line, board);
	dpa_discovery_stop(replica.discovery);
	code = 0;
out:
	dpa_discovery_free(replica.discovery);
	for (size_t i = 0; i < replica.count; i++) {
		free(replica.keys[i].name);
		free(replica.keys[i].raw);
		free(replica.keys[i].served);
	}
	ks_mutex_fini(&replica.lock);
	dpa_board_free(board);
	free(line);
	return code;
}
