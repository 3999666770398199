/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The overlay file's watcher. Events of its folder say at once that something happened, a look each second finds the rest: a link that points
 * elsewhere now, a folder that was replaced, a file system without events.
 */
#include "overlay.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <libgen.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/panic.h"
#include "base/thread.h"
#include "overlay_file.h"

#define LOOK_MS 1000
#define BATCH_MS 20 /* between two looks, however much happens in the folder */
/* So long a file must stay as it is before it is read, as whoever writes it in place may not be done; or absent, as some editors remove
 * it first. At the latest it is read after the third. */
#define SETTLE_MS 50
#define ABSENT_MS 200
#define SETTLE_MAX_MS 2000
#define FOLDER_EVENTS                                                                                        \
	(IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE | IN_DELETE | IN_ATTRIB | IN_DELETE_SELF | \
	 IN_MOVE_SELF | IN_ONLYDIR)

struct dpa_overlay {
	struct dpa_replica *replica;
	struct dpa_board *board;
	char *path, *folder;
	const char *name; /* the path's last part */
	pthread_t thread;
	int stop;   /* eventfd: readable when it is to end */
	int events; /* inotify, or -1 */
	int watch;
	/* The thread's own (and of the start, before there is one). */
	bool present, again;
	struct stat seen;
	struct ks_mutex lock; /* a leaf; guards what people are told: */
	json_t *keys;
	int64_t loaded_ms;
	char error[KS_ERR_TEXT_MAX];
};

/* ---- reading ---- */

static enum ks_status read_text(struct dpa_overlay *overlay, int fd, struct ks_buf *text, struct ks_err *err)
{
	struct stat state;

	if (fstat(fd, &state) != 0)
		return ks_fail(err, KS_UNAVAILABLE, "cannot read %s: %s", overlay->path, strerrordesc_np(errno));
	if (!S_ISREG(state.st_mode))
		return ks_fail(err, KS_INVALID_ARGUMENT, "%s is not a file", overlay->path);
	for (;;) {
		ssize_t got;

		if (!ks_buf_reserve(text, 65536))
			return ks_fail(err, KS_INVALID_ARGUMENT, "%s: more than %zu bytes", overlay->path,
				       DPA_OVERLAY_MAX_BYTES);
		got = read(fd, text->data + text->size, 65536);
		if (got == 0)
			return KS_OK;
		if (got < 0 && errno != EINTR)
			return ks_fail(err, KS_UNAVAILABLE, "cannot read %s: %s", overlay->path,
				       strerrordesc_np(errno));
		text->size += got > 0 ? (size_t)got : 0;
	}
}

static bool is_absent(int number)
{
	return number == ENOENT || number == ENOTDIR;
}

/* An absent file is an empty set. */
static enum ks_status read_set(struct dpa_overlay *overlay, struct dpa_overlay_set *set, bool *present,
			       struct ks_err *err)
{
	int fd = open(overlay->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	enum ks_status status;
	struct ks_buf text;

	*present = fd >= 0;
	if (fd < 0 && is_absent(errno))
		return KS_OK;
	if (fd < 0)
		return ks_fail(err, KS_UNAVAILABLE, "cannot open %s: %s", overlay->path, strerrordesc_np(errno));
	ks_buf_init(&text, DPA_OVERLAY_MAX_BYTES + 2 * 65536);
	status = read_text(overlay, fd, &text, err);
	(void)close(fd);
	if (status == KS_OK)
		status = dpa_overlay_parse(ks_slice_of(text.data, text.size), overlay->path,
					   dpa_replica_prefix(overlay->replica), set, err);
	ks_buf_fini(&text);
	return status;
}

/* What /status lists; NULL without memory. */
static json_t *list_keys(const struct dpa_overlay_set *set)
{
	json_t *list = json_object();

	for (size_t i = 0; list && i < set->count; i++) {
		char name[DPA_OVERLAY_MAX_KEY + 1];

		memcpy(name, set->keys[i].key.data, set->keys[i].key.size);
		name[set->keys[i].key.size] = '\0';
		if (json_object_set_new(list, name, json_string(set->keys[i].hide ? "hide" : "set")) != 0) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

/* Takes 'keys'. */
static void say_loaded(struct dpa_overlay *overlay, json_t *keys, bool present)
{
	int64_t now = present ? dpa_wall_ms() : 0;
	struct dpa_status *status;

	ks_mutex_lock(&overlay->lock);
	json_decref(overlay->keys);
	overlay->keys = keys;
	overlay->loaded_ms = now;
	overlay->error[0] = '\0';
	ks_mutex_unlock(&overlay->lock);
	status = dpa_board_begin(overlay->board);
	(void)snprintf(status->overlay_file, sizeof(status->overlay_file), "%s", overlay->path);
	status->overlay_loaded_ms = now;
	dpa_board_end(overlay->board);
	dpa_board_alarm(overlay->board, DPA_ALARM_OVERLAY, NULL);
}

static void say_failed(struct dpa_overlay *overlay, const struct ks_err *err)
{
	ks_mutex_lock(&overlay->lock);
	memcpy(overlay->error, err->text, sizeof(overlay->error));
	ks_mutex_unlock(&overlay->lock);
	dpa_board_alarm(overlay->board, DPA_ALARM_OVERLAY, err->text);
}

/* Either all of the file counts, or what counted before. */
static enum ks_status load(struct dpa_overlay *overlay, struct ks_err *err)
{
	struct dpa_overlay_set set = {0};
	bool present;
	enum ks_status status = read_set(overlay, &set, &present, err);
	json_t *keys = NULL;

	if (status == KS_OK && !(keys = list_keys(&set)))
		status = ks_fail(err, KS_RESOURCE_EXHAUSTED, "%s: out of memory", overlay->path);
	if (status == KS_OK)
		status = dpa_replica_set_overlay(overlay->replica, set.keys, set.count, err);
	dpa_overlay_set_fini(&set);
	if (status == KS_OK)
		say_loaded(overlay, keys, present);
	else
		json_decref(keys);
	return status;
}

/* ---- watching ---- */

/* False when there is no file, or it cannot be reached. */
static bool look(const struct dpa_overlay *overlay, struct stat *state)
{
	*state = (struct stat){0};
	return stat(overlay->path, state) == 0;
}

static bool same(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
	       a->st_mode == b->st_mode && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
	       a->st_mtim.tv_nsec == b->st_mtim.tv_nsec && a->st_ctim.tv_sec == b->st_ctim.tv_sec &&
	       a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

/* False at the stop. */
static bool pause_for(const struct dpa_overlay *overlay, int ms)
{
	struct pollfd stop = {.fd = overlay->stop, .events = POLLIN};

	return poll(&stop, 1, ms) <= 0;
}

/* Waits until the file stays as it is. False at the stop. */
static bool settle(struct dpa_overlay *overlay)
{
	for (int waited = 0; waited < SETTLE_MAX_MS;) {
		struct stat now;
		int ms = overlay->present ? SETTLE_MS : ABSENT_MS;
		bool present;

		if (!pause_for(overlay, ms))
			return false;
		waited += ms;
		present = look(overlay, &now);
		if (present == overlay->present && same(&now, &overlay->seen))
			return true;
		overlay->present = present;
		overlay->seen = now;
	}
	return true;
}

/* 'told': an event named the file. */
static void check(struct dpa_overlay *overlay, bool told)
{
	struct stat now;
	bool present = look(overlay, &now);
	struct ks_err err = {0};
	enum ks_status status;

	if (!told && !overlay->again && present == overlay->present && same(&now, &overlay->seen))
		return;
	overlay->present = present;
	overlay->seen = now;
	if (!settle(overlay))
		return;
	status = load(overlay, &err);
	if (status != KS_OK)
		say_failed(overlay, &err);
	/* What is wrong with the file stays wrong until it changes; the rest may go by itself. */
	overlay->again = status != KS_OK && status != KS_INVALID_ARGUMENT;
}

/* The folder may be another one by now: watching the same one again changes nothing. */
static void watch_folder(struct dpa_overlay *overlay)
{
	int watch = overlay->events >= 0 ? inotify_add_watch(overlay->events, overlay->folder, FOLDER_EVENTS) : -1;

	if (overlay->watch >= 0 && watch != overlay->watch)
		(void)inotify_rm_watch(overlay->events, overlay->watch);
	overlay->watch = watch;
}

/* Reads all events; true when one names the file. */
static bool take_events(const struct dpa_overlay *overlay)
{
	_Alignas(struct inotify_event) char bytes[4096];
	bool told = false;
	ssize_t size;

	while ((size = read(overlay->events, bytes, sizeof(bytes))) > 0) {
		for (char *at = bytes; at < bytes + size;) {
			const struct inotify_event *event = (const struct inotify_event *)(const void *)at;

			told = told || (event->len && strcmp(event->name, overlay->name) == 0);
			at += sizeof(*event) + event->len;
		}
	}
	return told;
}

static void *run(void *arg)
{
	struct dpa_overlay *overlay = arg;
	struct pollfd polled[2] = {{.fd = overlay->stop, .events = POLLIN}, {.fd = overlay->events, .events = POLLIN}};

	watch_folder(overlay);
	check(overlay, false); /* it may have changed before it was watched */
	for (;;) {
		(void)poll(polled, 2, LOOK_MS);
		if (polled[0].revents)
			return NULL;
		check(overlay, overlay->events >= 0 && take_events(overlay));
		watch_folder(overlay);
		/* A folder in which much happens costs no more than this. */
		if (!pause_for(overlay, BATCH_MS))
			return NULL;
	}
}

/* ---- start and stop ---- */

static char *folder_of(const char *path)
{
	char *copy = ks_xstrdup(path), *folder = ks_xstrdup(dirname(copy));

	free(copy);
	return folder;
}

static void release(struct dpa_overlay *overlay)
{
	if (overlay->stop >= 0)
		(void)close(overlay->stop);
	if (overlay->events >= 0)
		(void)close(overlay->events);
	json_decref(overlay->keys);
	ks_mutex_fini(&overlay->lock);
	free(overlay->path);
	free(overlay->folder);
	free(overlay);
}

struct dpa_overlay *dpa_overlay_start(const char *path, struct dpa_replica *replica, struct dpa_board *board,
				      struct ks_err *err)
{
	struct dpa_overlay *overlay = ks_xcalloc(1, sizeof(*overlay));
	const char *slash = strrchr(path, '/');
	enum ks_status status;

	overlay->replica = replica;
	overlay->board = board;
	overlay->path = ks_xstrdup(path);
	overlay->folder = folder_of(path);
	overlay->name = slash ? overlay->path + (slash - path) + 1 : overlay->path;
	overlay->watch = -1;
	overlay->events = inotify_init1(IN_CLOEXEC | IN_NONBLOCK); /* without it there is the look each second */
	overlay->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ks_mutex_init(&overlay->lock);
	overlay->present = look(overlay, &overlay->seen);
	if (overlay->stop < 0)
		status = ks_fail(err, KS_RESOURCE_EXHAUSTED, "cannot make an eventfd: %s", strerrordesc_np(errno));
	else
		status = load(overlay, err);
	if (status == KS_OK)
		status = ks_thread_start(&overlay->thread, "overlay", run, overlay, err);
	if (status == KS_OK)
		return overlay;
	release(overlay);
	return NULL;
}

void dpa_overlay_stop(struct dpa_overlay *overlay)
{
	if (!overlay)
		return;
	KS_ASSERT(eventfd_write(overlay->stop, 1) == 0);
	ks_thread_join(overlay->thread);
	release(overlay);
}

char *dpa_overlay_json(struct dpa_overlay *overlay)
{
	json_t *status;
	char *text;

	ks_mutex_lock(&overlay->lock);
	status = json_pack("{s:o, s:I, s:o, s:O}", "file", dpa_json_text(overlay->path), "loaded_ms",
			   (json_int_t)overlay->loaded_ms, "error",
			   *overlay->error ? dpa_json_text(overlay->error) : json_null(), "keys", overlay->keys);
	text = status ? json_dumps(status, JSON_COMPACT) : NULL;
	json_decref(status);
	ks_mutex_unlock(&overlay->lock);
	return text;
}
