/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The source's snapshot, in a temporary file: streamed, checked against its sum, and opened; again if it breaks off.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/import_etcd.h"
#include "tools/snapshot_sum.h"

#define SNAPSHOT_TRIES 5
#define SNAPSHOT_IDLE_MS 60000

/* A file that is gone with its descriptor. */
static int temporary_file(struct ks_err *err)
{
	const char *dir = getenv("TMPDIR");
	int fd;

	if (!dir || !*dir)
		dir = "/var/tmp";
	fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0) {
		char path[256];

		(void)snprintf(path, sizeof(path), "%s/kineshim-import-XXXXXX", dir);
		fd = mkostemp(path, O_CLOEXEC);
		if (fd >= 0)
			(void)unlink(path);
	}
	if (fd < 0)
		(void)ks_fail(err, KS_UNAVAILABLE,
			      "cannot make a file for the snapshot in %s: %s (TMPDIR names another)", dir,
			      strerror(errno));
	return fd;
}

static enum ks_status write_all(int fd, const uint8_t *data, size_t size, struct ks_err *err)
{
	while (size > 0) {
		ssize_t wrote = write(fd, data, size);

		if (wrote < 0 && errno == EINTR)
			continue;
		if (wrote < 0)
			return ks_fail(
				err, KS_RESOURCE_EXHAUSTED,
				"cannot write the snapshot to a temporary file: %s (TMPDIR names another folder)",
				strerror(errno));
		data += wrote;
		size -= (size_t)wrote;
	}
	return KS_OK;
}

/* One attempt. *sent: how much came. */
static enum ks_status stream_snapshot(struct ks_import_source *source, int fd, uint64_t *size, struct ks_err *err)
{
	Etcdserverpb__SnapshotRequest request = ETCDSERVERPB__SNAPSHOT_REQUEST__INIT;
	struct etcdc_stream *stream = etcdc_stream_open(source->client, &etcdc_method_snapshot, NULL);
	struct etcdc_err failed = {0};
	enum ks_status status = KS_OK;
	int64_t heard_ms = ks_import_etcd_now_ms();
	void *message = NULL;

	*size = 0;
	(void)etcdc_stream_send(stream, &request);
	etcdc_stream_half_close(stream);
	while (status == KS_OK) {
		enum ks_status got = etcdc_stream_recv(stream, 200, &message, &failed);
		const Etcdserverpb__SnapshotResponse *part = message;

		if (source->config->give_up()) {
			status = ks_fail(err, KS_CANCELLED, "interrupted");
		} else if (got == KS_OK && !part) {
			break;
		} else if (got == KS_OK) {
			heard_ms = ks_import_etcd_now_ms();
			status = write_all(fd, part->blob.data, part->blob.len, err);
			*size += part->blob.len;
			source->config->progress("snapshot", *size, *size + part->remaining_bytes);
		} else if (got != KS_DEADLINE_EXCEEDED || strcmp(failed.text, "no message yet") != 0) {
			status = ks_import_etcd_failed(source, "snapshot", &failed, err);
		} else if (ks_import_etcd_now_ms() - heard_ms > SNAPSHOT_IDLE_MS) {
			status = ks_fail(err, KS_UNAVAILABLE, "%s: snapshot: nothing came for a minute", source->place);
		}
		etcdc_free(message);
		message = NULL;
	}
	etcdc_stream_close(stream);
	return status;
}

static bool worth_another_try(enum ks_status status)
{
	return status == KS_UNAVAILABLE || status == KS_DATA_LOSS || status == KS_UNAUTHENTICATED ||
	       status == KS_UNKNOWN || status == KS_INTERNAL || status == KS_CANCELLED;
}

void ks_import_etcd_drop_snapshot(struct ks_import_source *source)
{
	ks_restore_source_close(source->restore);
	source->restore = NULL;
	if (source->fd >= 0)
		(void)close(source->fd);
	source->fd = -1;
}

enum ks_status ks_import_etcd_take_snapshot(struct ks_import_source *source, int64_t writer, struct ks_err *err)
{
	enum ks_status status = KS_OK;
	uint64_t size = 0, cluster_id;
	int64_t revision;
	bool summed;

	for (int try = 1; try <= SNAPSHOT_TRIES; try++) {
		ks_import_etcd_drop_snapshot(source);
		source->fd = temporary_file(err);
		if (source->fd < 0)
			return err->status;
		status = ks_import_etcd_ask_head(source, 0, &cluster_id, &revision, err);
		if (status == KS_OK)
			status = stream_snapshot(source, source->fd, &size, err);
		if (status == KS_OK)
			status = ks_snapshot_sum_check(source->fd, "the snapshot", false, &size, &summed, err);
		if (status == KS_OK && (!summed || size == 0))
			status = ks_fail(err, KS_DATA_LOSS, "the snapshot is cut off");
		if (status == KS_OK)
			return ks_restore_source_open(source->fd, size, writer, &source->restore, err);
		if (!worth_another_try(status) || source->config->give_up())
			return status;
		source->config->said(err->text);
		(void)poll(NULL, 0, 200 * try);
	}
	return status;
}
