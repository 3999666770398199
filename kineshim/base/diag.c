/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Diagnostics, see diag.h. A line is put together on the stack and leaves in one write(2); what does not fit is
 * cut. Messages may quote bytes from clients and servers, so control characters are escaped in both formats and
 * bytes that are no UTF-8 become U+FFFD: one message is always one line, and a JSON line is always JSON.
 */
#include "base/diag.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mask.h"
#include "base/metrics.h"
#include "base/panic.h"

#define MESSAGE_MAX 1024
#define LINE_MAX_SIZE (MESSAGE_MAX * 6 + 256) /* every byte of a message may become \u00xx */
#define LIMIT_INTERVAL_MS 1000
#define MAX_OUTPUTS 8

static _Atomic int least_level = KS_INFO;
static _Atomic int line_format = KS_DIAG_TEXT;

/* Set up once, before threads. A file that is opened anew keeps its descriptor, so writers need no lock. */
static struct {
	int fd;
	char *path; /* NULL: not ours to open */
} outputs[MAX_OUTPUTS] = {{.fd = STDERR_FILENO}};
static size_t output_count = 1;

static const char *const level_names[] = {
	[KS_DEBUG] = "debug",
	[KS_INFO] = "info",
	[KS_WARN] = "warn",
	[KS_ERROR] = "error",
};

struct line {
	size_t size;
	char text[LINE_MAX_SIZE];
};

void ks_diag_setup(enum ks_diag_level least, enum ks_diag_format format)
{
	atomic_store_explicit(&least_level, (int)least, memory_order_relaxed);
	atomic_store_explicit(&line_format, (int)format, memory_order_relaxed);
}

static int open_file(const char *path)
{
	return open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
}

static enum ks_status add_output(const char *name, struct ks_err *err)
{
	int fd;

	if (output_count == MAX_OUTPUTS)
		return ks_fail(err, KS_INVALID_ARGUMENT, "log-outputs: more than %d", MAX_OUTPUTS);
	if (strcmp(name, "default") == 0 || strcmp(name, "stderr") == 0 || strcmp(name, "systemd/journal") == 0) {
		outputs[output_count++].fd = STDERR_FILENO;
		return KS_OK;
	}
	if (strcmp(name, "stdout") == 0) {
		outputs[output_count++].fd = STDOUT_FILENO;
		return KS_OK;
	}
	fd = *name ? open_file(name) : -1;
	if (fd < 0)
		return ks_fail(err, KS_INVALID_ARGUMENT, "log-outputs: cannot write to \"%.80s\": %s", name,
			       *name ? strerrordesc_np(errno) : "it has no name");
	outputs[output_count].path = ks_xstrdup(name);
	outputs[output_count++].fd = fd;
	return KS_OK;
}

static void close_outputs(void)
{
	for (size_t i = 0; i < output_count; i++) {
		if (outputs[i].path)
			(void)close(outputs[i].fd);
		free(outputs[i].path);
		outputs[i].path = NULL;
	}
	output_count = 0;
}

enum ks_status ks_diag_open(const char *names, struct ks_err *err)
{
	char *copy = ks_xstrdup(names), *rest = copy, *name;
	enum ks_status status = KS_OK;

	close_outputs();
	while (status == KS_OK && (name = strsep(&rest, ",")))
		status = add_output(name, err);
	free(copy);
	if (status != KS_OK) {
		close_outputs();
		outputs[output_count++].fd = STDERR_FILENO;
	}
	return status;
}

void ks_diag_reopen(void)
{
	for (size_t i = 0; i < output_count; i++) {
		int fd = outputs[i].path ? open_file(outputs[i].path) : -1;

		if (fd >= 0) {
			(void)dup3(fd, outputs[i].fd, O_CLOEXEC);
			(void)close(fd);
		} else if (outputs[i].path) {
			ks_diag(KS_ERROR, "diag",
				"cannot open the log file anew, writing to the old one path=%s error=\"%s\"",
				outputs[i].path, strerrordesc_np(errno));
		}
	}
}

bool ks_diag_parse_level(const char *text, enum ks_diag_level *level)
{
	for (int i = KS_DEBUG; i <= KS_ERROR; i++) {
		if (strcmp(text, level_names[i]) == 0) {
			*level = (enum ks_diag_level)i;
			return true;
		}
	}
	/* Above error there is nothing here. */
	*level = KS_ERROR;
	return strcmp(text, "dpanic") == 0 || strcmp(text, "panic") == 0 || strcmp(text, "fatal") == 0;
}

bool ks_diag_parse_format(const char *text, enum ks_diag_format *format)
{
	if (strcmp(text, "json") == 0)
		*format = KS_DIAG_JSON;
	else if (strcmp(text, "text") == 0 || strcmp(text, "console") == 0)
		*format = KS_DIAG_TEXT;
	else
		return false;
	return true;
}

bool ks_diag_wants(enum ks_diag_level level)
{
	return (int)level >= atomic_load_explicit(&least_level, memory_order_relaxed);
}

static void add(struct line *line, const char *text, size_t size)
{
	size_t room = sizeof(line->text) - 1 - line->size; /* one byte stays for the newline */

	if (size > room)
		size = room;
	memcpy(line->text + line->size, text, size);
	line->size += size;
}

static void add_str(struct line *line, const char *text)
{
	add(line, text, strlen(text));
}

static void add_time(struct line *line)
{
	char text[40];
	struct timespec now = {0};
	struct tm parts = {0};
	size_t size;
	int more;

	(void)clock_gettime(CLOCK_REALTIME, &now);
	(void)gmtime_r(&now.tv_sec, &parts);
	size = strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts);
	more = snprintf(text + size, sizeof(text) - size, ".%03ldZ", now.tv_nsec / 1000000);
	add(line, text, size + (more > 0 ? (size_t)more : 0));
}

/* Size of the UTF-8 sequence at 'at', 0 when there is none (RFC 3629: no surrogates, nothing overlong). */
static size_t utf8_size(const unsigned char *at)
{
	size_t size;

	if (at[0] < 0x80)
		return 1;
	if (at[0] >= 0xc2 && at[0] <= 0xdf)
		size = 2;
	else if (at[0] >= 0xe0 && at[0] <= 0xef)
		size = 3;
	else if (at[0] >= 0xf0 && at[0] <= 0xf4)
		size = 4;
	else
		return 0;
	for (size_t i = 1; i < size; i++) {
		if ((at[i] & 0xc0) != 0x80) /* the terminating NUL ends a cut sequence, too */
			return 0;
	}
	if ((at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] > 0x9f) || (at[0] == 0xf0 && at[1] < 0x90) ||
	    (at[0] == 0xf4 && at[1] > 0x8f))
		return 0;
	return size;
}

static void add_escaped(struct line *line, const char *text, bool json)
{
	const unsigned char *at = (const unsigned char *)text;

	while (*at) {
		size_t size = utf8_size(at);

		if (size == 0) {
			add_str(line, "\xef\xbf\xbd");
			at++;
			continue;
		}
		if (*at < 0x20 || *at == 0x7f) {
			char code[8];

			(void)snprintf(code, sizeof(code), "\\u%04x", *at);
			add_str(line, code);
		} else {
			if (json && (*at == '"' || *at == '\\'))
				add_str(line, "\\");
			add(line, (const char *)at, size);
		}
		at += size;
	}
}

static void build_json(struct line *line, enum ks_diag_level level, const char *module, const char *message)
{
	add_str(line, "{\"ts\":\"");
	add_time(line);
	add_str(line, "\",\"level\":\"");
	add_str(line, level_names[level]);
	add_str(line, "\",\"module\":\"");
	add_escaped(line, module, true);
	add_str(line, "\",\"msg\":\"");
	add_escaped(line, message, true);
	add_str(line, "\"}");
}

static void build_text(struct line *line, enum ks_diag_level level, const char *module, const char *message)
{
	add_time(line);
	add_str(line, " ");
	add_str(line, level_names[level]);
	add_str(line, " ");
	add_escaped(line, module, false);
	add_str(line, ": ");
	add_escaped(line, message, false);
}

void ks_diag(enum ks_diag_level level, const char *module, const char *fmt, ...)
{
	char message[MESSAGE_MAX];
	struct line line;
	va_list args;
	int wanted, saved = errno;

	if (!ks_diag_wants(level))
		return;
	KS_COUNT_AT(LOG_LINES, level, 1);
	va_start(args, fmt);
	wanted = vsnprintf(message, sizeof(message), fmt, args);
	va_end(args);
	if (wanted < 0)
		message[0] = '\0';
	ks_mask(message, wanted >= (int)sizeof(message));

	line.size = 0;
	if (atomic_load_explicit(&line_format, memory_order_relaxed) == KS_DIAG_JSON)
		build_json(&line, level, module, message);
	else
		build_text(&line, level, module, message);
	line.text[line.size++] = '\n';
	for (size_t i = 0; i < output_count; i++)
		while (write(outputs[i].fd, line.text, line.size) < 0 && errno == EINTR)
			;
	errno = saved;
}

bool ks_diag_pass(struct ks_diag_limit *limit, uint32_t *swallowed)
{
	int64_t now_ms = ks_clock_now(ks_clock_system());
	int64_t next_ms = atomic_load_explicit(&limit->next_ms, memory_order_relaxed);

	if (now_ms >= next_ms &&
	    atomic_compare_exchange_strong_explicit(&limit->next_ms, &next_ms, now_ms + LIMIT_INTERVAL_MS,
						    memory_order_relaxed, memory_order_relaxed)) {
		*swallowed = atomic_exchange_explicit(&limit->swallowed, 0, memory_order_relaxed);
		return true;
	}
	atomic_fetch_add_explicit(&limit->swallowed, 1, memory_order_relaxed);
	return false;
}
