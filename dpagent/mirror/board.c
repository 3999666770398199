/* SPDX-License-Identifier: Apache-2.0 */
#include "mirror/board.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/panic.h"
#include "base/thread.h"

struct dpa_board {
	struct ks_mutex lock; /* guards the rest; a leaf */
	struct dpa_status status;
	/* As it was when the last line was written. */
	enum dpa_source said_source;
	bool said_connected;
	bool said[DPA_ALARM_COUNT];
};

static const char *const source_names[] = {"none", "upstream", "disk", "object-storage"};
static const char *const alarm_names[DPA_ALARM_COUNT] = {
	"disk_invalid", "disk_write", "object_invalid", "object_access", "held",
	"overlay",      "discovery",  "registration",   "upstream_tls",
};

const char *dpa_source_name(enum dpa_source source)
{
	return source_names[source];
}

const char *dpa_alarm_name(enum dpa_alarm alarm)
{
	return alarm_names[alarm];
}

/* Of a file, so that a test can change it. */
static int64_t offset_in(const char *path)
{
	char text[32] = "";
	FILE *file = fopen(path, "r");

	if (!file)
		return 0;
	if (!fgets(text, sizeof(text), file))
		text[0] = '\0';
	(void)fclose(file);
	return strtoll(text, NULL, 10);
}

int64_t dpa_wall_ms(void)
{
	static _Atomic(const char *) offset; /* looked for once; threads that race find the same */
	const char *text = offset;
	struct timespec now;

	if (!text) {
		text = getenv("DPAGENT_TEST_CLOCK_OFFSET_MS");
		if (!text)
			text = "0";
		offset = text;
	}
	(void)clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000 +
	       (*text == '/' ? offset_in(text) : strtoll(text, NULL, 10));
}

struct dpa_board *dpa_board_new(void)
{
	struct dpa_board *board = ks_xcalloc(1, sizeof(*board));

	ks_mutex_init(&board->lock);
	board->status.source_since_ms = dpa_wall_ms();
	return board;
}

void dpa_board_free(struct dpa_board *board)
{
	if (!board)
		return;
	ks_mutex_fini(&board->lock);
	free(board);
}

void dpa_board_read(struct dpa_board *board, struct dpa_status *status)
{
	ks_mutex_lock(&board->lock);
	*status = board->status;
	ks_mutex_unlock(&board->lock);
}

json_t *dpa_json_text(const char *text)
{
	json_t *json = json_string(text);
	char copy[512];
	size_t size = 0;

	if (json)
		return json;
	for (; *text && size < sizeof(copy) - 1; text++)
		if ((unsigned char)*text < 0x80)
			copy[size++] = *text;
	copy[size] = '\0';
	return json_string(copy);
}

/* One line, in one write, whatever the log's format: programs read it. Takes the object. */
static void say(json_t *line)
{
	char *text = line ? json_dumps(line, JSON_COMPACT) : NULL;

	if (text) {
		size_t size = strlen(text);

		text[size] = '\n'; /* over the NUL: the length is known */
		(void)!write(STDERR_FILENO, text, size + 1);
	}
	free(text);
	json_decref(line);
}

static json_t *line_of(const struct dpa_status *status, const char *what)
{
	char stamp[40];
	int64_t now = dpa_wall_ms();
	time_t seconds = (time_t)(now / 1000);
	struct tm parts;

	(void)gmtime_r(&seconds, &parts);
	(void)strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &parts);
	return json_pack("{s:o, s:s, s:s, s:s, s:s, s:b, s:o, s:o}", "ts",
			 json_sprintf("%s.%03dZ", stamp, (int)(now % 1000)), "level", "info", "module", "dpagent",
			 "event", what, "source", source_names[status->source], "connected", status->connected,
			 "endpoint", dpa_json_text(status->endpoint), "error",
			 dpa_json_text(status->connected ? "" : status->upstream_error));
}

struct dpa_status *dpa_board_begin(struct dpa_board *board) KS_NO_TSA
{
	ks_mutex_lock(&board->lock);
	return &board->status;
}

void dpa_board_end(struct dpa_board *board) KS_NO_TSA
{
	const struct dpa_status *status = &board->status;

	if (board->said_source != status->source)
		say(line_of(status, "source"));
	else if (board->said_connected != status->connected)
		say(line_of(status, "connection"));
	board->said_source = status->source;
	board->said_connected = status->connected;
	for (int i = 0; i < DPA_ALARM_COUNT; i++) {
		if (board->said[i] != status->alarms[i].on) {
			json_t *line = line_of(status, "alarm");

			if (line) {
				(void)json_object_set_new(line, "alarm", json_string(alarm_names[i]));
				(void)json_object_set_new(line, "on", json_boolean(status->alarms[i].on));
				(void)json_object_set_new(line, "text", dpa_json_text(status->alarms[i].text));
			}
			say(line);
		}
		board->said[i] = status->alarms[i].on;
	}
	ks_mutex_unlock(&board->lock);
}

void dpa_board_source(struct dpa_board *board, enum dpa_source source)
{
	struct dpa_status *status = dpa_board_begin(board);

	if (status->source != source)
		status->source_since_ms = dpa_wall_ms();
	status->source = source;
	dpa_board_end(board);
}

void dpa_board_connected(struct dpa_board *board, bool connected, const char *text)
{
	struct dpa_status *status = dpa_board_begin(board);

	if (status->connected != connected)
		status->connected_since_ms = dpa_wall_ms();
	status->connected = connected;
	(void)snprintf(status->endpoint, sizeof(status->endpoint), "%s", connected ? text : "");
	(void)snprintf(status->upstream_error, sizeof(status->upstream_error), "%s", connected ? "" : text);
	dpa_board_end(board);
}

void dpa_board_alarm(struct dpa_board *board, enum dpa_alarm alarm, const char *text)
{
	struct dpa_status *status = dpa_board_begin(board);

	if (status->alarms[alarm].on != (text != NULL))
		status->alarms[alarm].since_ms = dpa_wall_ms();
	status->alarms[alarm].on = text != NULL;
	(void)snprintf(status->alarms[alarm].text, sizeof(status->alarms[alarm].text), "%s", text ? text : "");
	dpa_board_end(board);
}
