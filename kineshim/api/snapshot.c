/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Maintenance.Snapshot (spec 6.6): a thread of its own writes the database file, then reads it piece by piece into a small
 * ring; the call's thread sends from there as fast as the client takes it. So the call's thread never touches a disk, and a
 * slow client holds the ring and a file without a name, nothing more.
 *
 *	message ─► PROVING ─► worker: file ─► pieces ─► SHA-256 ─► end
 *	                               │ ring full: waits      ▲
 *	                               ▼                       │ taken
 *	                      call's thread: sends while the stream's queue has room
 *
 * Few snapshots at a time: each takes a thread and the disk space of a whole database. One whose client takes nothing for long
 * is ended.
 */
#include <errno.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <unistd.h>

#include "api/api.h"
#include "api/handlers.h"
#include "api/snapshot_file.h"
#include "base/diag.h"

#define SNAPSHOTS_MAX 4
#define PIECE_BYTES (32u << 10)
#define RING_PIECES 32
#define QUEUE_BYTES (1u << 20)
#define STALL_MS 120000
#define SHA256_BYTES 32

enum { REMAINING_BYTES = 2, BLOB = 3, VERSION = 4 };

struct ks_snapshots {
	const char *dir;
	struct ks_mutex mutex;
	struct slot { /* under the mutex */
		pthread_t thread;
		bool used;  /* the thread is to be joined */
		bool ended; /* it has nothing left to do but that */
	} slots[SNAPSHOTS_MAX];
};

struct piece {
	struct ks_bytes *bytes;
	uint64_t remaining;
};

struct snapshot {
	struct ks_guard guard; /* first */
	struct ks_api *api;
	struct ks_api_stream stream;
	struct ks_read_proof proof;
	enum { IDLE, PROVING, SENDING, ENDED } state; /* the call's thread only */
	struct slot *slot;
	_Atomic bool cancelled;
	struct ks_mutex mutex; /* guards the rest */
	struct ks_cond cond;   /* the ring has room, or nobody wants it any more */
	struct piece ring[RING_PIECES];
	unsigned first, count;
	bool whole; /* nothing more comes into the ring, because 'err' says so or all is in it */
	struct ks_err err;
};

/* ---- the worker ---- */

/* False when the client is gone, or takes nothing for too long. Takes 'bytes'. */
static bool give(struct snapshot *snapshot, struct ks_bytes *bytes, uint64_t remaining)
{
	bool given = false;

	ks_mutex_lock(&snapshot->mutex);
	while (snapshot->count == RING_PIECES && !atomic_load(&snapshot->cancelled)) {
		if (!ks_cond_wait(&snapshot->cond, &snapshot->mutex, STALL_MS) && snapshot->count == RING_PIECES)
			break;
	}
	if (snapshot->count < RING_PIECES && !atomic_load(&snapshot->cancelled)) {
		snapshot->ring[(snapshot->first + snapshot->count++) % RING_PIECES] =
			(struct piece){.bytes = bytes, .remaining = remaining};
		given = true;
	}
	ks_mutex_unlock(&snapshot->mutex);
	if (given)
		ks_guard_post(&snapshot->guard);
	else
		ks_bytes_unref(bytes);
	return given;
}

static enum ks_status read_piece(int fd, uint64_t offset, struct ks_bytes *bytes, struct ks_err *err)
{
	size_t done = 0;

	while (done < bytes->size) {
		ssize_t got = pread(fd, bytes->data + done, bytes->size - done, (off_t)(offset + done));

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return ks_fail(err, KS_UNAVAILABLE, "etcdserver: cannot read the snapshot's file: %s",
				       got < 0 ? strerror(errno) : "it is too short");
		done += (size_t)got;
	}
	return KS_OK;
}

static enum ks_status send_file(struct snapshot *snapshot, int fd, uint64_t size, EVP_MD_CTX *sha, struct ks_err *err)
{
	enum ks_status status = KS_OK;
	struct ks_bytes *bytes;
	unsigned sum_size = 0;

	for (uint64_t sent = 0; sent < size;) {
		bytes = ks_bytes_new(size - sent < PIECE_BYTES ? (size_t)(size - sent) : PIECE_BYTES);
		if (!bytes)
			return ks_etcd_fail(err, KS_E_NO_MEMORY);
		status = read_piece(fd, sent, bytes, err);
		if (status == KS_OK && EVP_DigestUpdate(sha, bytes->data, bytes->size) != 1)
			status = ks_fail(err, KS_INTERNAL, "etcdserver: SHA-256 failed");
		if (status != KS_OK) {
			ks_bytes_unref(bytes);
			return status;
		}
		sent += bytes->size;
		if (!give(snapshot, bytes, size - sent))
			return ks_fail(err, KS_DEADLINE_EXCEEDED, "etcdserver: the client took nothing for too long");
	}
	bytes = ks_bytes_new(SHA256_BYTES);
	if (!bytes)
		return ks_etcd_fail(err, KS_E_NO_MEMORY);
	if (EVP_DigestFinal_ex(sha, bytes->data, &sum_size) != 1 || sum_size != SHA256_BYTES) {
		ks_bytes_unref(bytes);
		return ks_fail(err, KS_INTERNAL, "etcdserver: SHA-256 failed");
	}
	if (!give(snapshot, bytes, 0))
		return ks_fail(err, KS_DEADLINE_EXCEEDED, "etcdserver: the client took nothing for too long");
	return KS_OK;
}

static enum ks_status make(struct snapshot *snapshot, struct ks_err *err)
{
	int fd = ks_snapshot_file_open(snapshot->api->snapshots->dir, err);
	EVP_MD_CTX *sha = EVP_MD_CTX_new();
	enum ks_status status = fd >= 0 ? KS_OK : err->status;
	uint64_t size = 0;
	int64_t revision = 0, began = ks_metrics_now();

	if (status == KS_OK && (!sha || EVP_DigestInit_ex(sha, EVP_sha256(), NULL) != 1))
		status = ks_etcd_fail(err, KS_E_NO_MEMORY);
	if (status == KS_OK)
		status = ks_snapshot_file_write(snapshot->api, fd, &snapshot->cancelled, &size, &revision, err);
	if (status == KS_OK)
		status = send_file(snapshot, fd, size, sha, err);
	if (status == KS_OK)
		KS_OBSERVE(SNAPSHOT_DURATION, ks_metrics_now() - began);
	if (status == KS_OK)
		ks_diag(KS_INFO, "snapshot", "read by a client revision=%" PRId64 " bytes=%" PRIu64, revision, size);
	else if (!atomic_load(&snapshot->cancelled))
		ks_diag(KS_WARN, "snapshot", "failed error=\"%s\"", err->text);
	EVP_MD_CTX_free(sha);
	if (fd >= 0)
		(void)close(fd);
	return status;
}

static void *work(void *ctx)
{
	struct snapshot *snapshot = ctx;
	struct ks_snapshots *snapshots = snapshot->api->snapshots;
	struct slot *slot = snapshot->slot;
	struct ks_err err = {0};

	err.status = make(snapshot, &err);
	ks_mutex_lock(&snapshot->mutex);
	snapshot->whole = true;
	snapshot->err = err;
	ks_mutex_unlock(&snapshot->mutex);
	ks_guard_done(&snapshot->guard);
	ks_mutex_lock(&snapshots->mutex);
	slot->ended = true;
	ks_mutex_unlock(&snapshots->mutex);
	return NULL;
}

/* ---- slots ---- */

static enum ks_status start_worker(struct snapshot *snapshot, struct ks_err *err)
{
	struct ks_snapshots *snapshots = snapshot->api->snapshots;
	struct slot *slot = NULL;
	enum ks_status status;

	ks_mutex_lock(&snapshots->mutex);
	for (unsigned i = 0; !slot && i < SNAPSHOTS_MAX; i++)
		if (!snapshots->slots[i].used || snapshots->slots[i].ended)
			slot = &snapshots->slots[i];
	if (!slot) {
		status = ks_fail(err, KS_RESOURCE_EXHAUSTED, "etcdserver: too many snapshots at the same time");
	} else {
		if (slot->used)
			ks_thread_join(slot->thread); /* at its last instruction */
		*slot = (struct slot){0};
		snapshot->slot = slot;
		ks_guard_begin(&snapshot->guard);
		status = ks_thread_start(&slot->thread, "snapshot", work, snapshot, err);
		slot->used = status == KS_OK;
	}
	ks_mutex_unlock(&snapshots->mutex);
	if (slot && status != KS_OK)
		ks_guard_done(&snapshot->guard);
	return status;
}

struct ks_snapshots *ks_snapshots_new(const char *dir)
{
	struct ks_snapshots *snapshots = calloc(1, sizeof(*snapshots));

	if (!snapshots)
		return NULL;
	snapshots->dir = dir;
	ks_mutex_init(&snapshots->mutex);
	return snapshots;
}

void ks_snapshots_free(struct ks_snapshots *snapshots)
{
	if (!snapshots)
		return;
	for (unsigned i = 0; i < SNAPSHOTS_MAX; i++)
		if (snapshots->slots[i].used)
			ks_thread_join(snapshots->slots[i].thread);
	ks_mutex_fini(&snapshots->mutex);
	free(snapshots);
}

/* ---- the call ---- */

static void end(struct snapshot *snapshot, enum ks_status status, const char *text)
{
	snapshot->state = ENDED;
	ks_stream_finish(snapshot->guard.call, status, text);
}

static void free_snapshot(struct ks_guard *guard)
{
	struct snapshot *snapshot = ks_container_of(guard, struct snapshot, guard);

	for (; snapshot->count > 0; snapshot->count--)
		ks_bytes_unref(snapshot->ring[snapshot->first++ % RING_PIECES].bytes);
	ks_cond_fini(&snapshot->cond);
	ks_mutex_fini(&snapshot->mutex);
	free(snapshot);
}

static void send_piece(struct snapshot *snapshot, const struct piece *piece)
{
	struct ks_out out;

	ks_out_init(&out, KS_ETCD_MAX_SEND_BYTES);
	ks_wire_uint(&out.buf, REMAINING_BYTES, piece->remaining);
	ks_wire_nested(&out.buf, BLOB, piece->bytes->size);
	ks_out_bytes(&out, piece->bytes);
	ks_wire_bytes(&out.buf, VERSION, ks_slice_str(KS_ETCD_STORAGE_VERSION));
	if (ks_out_failed(&out)) {
		ks_out_fini(&out);
		end(snapshot, ks_etcd_status(KS_E_NO_MEMORY), ks_etcd_text(KS_E_NO_MEMORY));
		return;
	}
	ks_stream_send(snapshot->guard.call, &out);
}

/* The next piece, if there is one; 'err' tells how it ended when there will be no more. */
static bool take_piece(struct snapshot *snapshot, struct piece *piece, bool *whole, struct ks_err *err)
{
	bool some;

	ks_mutex_lock(&snapshot->mutex);
	some = snapshot->count > 0;
	if (some) {
		*piece = snapshot->ring[snapshot->first];
		snapshot->first = (snapshot->first + 1) % RING_PIECES;
		snapshot->count--;
		ks_cond_signal(&snapshot->cond);
	}
	*whole = snapshot->whole;
	*err = snapshot->err;
	ks_mutex_unlock(&snapshot->mutex);
	return some;
}

static void pump(struct snapshot *snapshot)
{
	struct piece piece;
	struct ks_err err;
	size_t bytes;
	bool whole;

	while (snapshot->state == SENDING) {
		/* What is queued runs empty some time: 'writable'. */
		if (ks_stream_queued(snapshot->guard.call, &bytes) > 0 && bytes >= QUEUE_BYTES)
			return;
		if (take_piece(snapshot, &piece, &whole, &err)) {
			send_piece(snapshot, &piece);
			ks_bytes_unref(piece.bytes);
		} else if (whole) {
			end(snapshot, err.status, err.status == KS_OK ? "" : err.text);
		} else {
			return;
		}
	}
}

/*
 * With the proof the snapshot has everything that was acknowledged before it was asked for. Without one, because the
 * database is away, it has what this instance knows: etcd gives snapshots without a quorum, too.
 */
static void begin(struct snapshot *snapshot)
{
	struct ks_err err = {0};

	if (snapshot->proof.err.status != KS_OK)
		ks_diag(KS_WARN, "snapshot", "may lack the newest writes reason=\"%s\"", snapshot->proof.err.text);
	if (!ks_api_loaded(snapshot->api)) {
		end(snapshot, ks_etcd_status(KS_E_NO_LEADER), ks_etcd_text(KS_E_NO_LEADER));
		return;
	}
	snapshot->state = SENDING;
	if (start_worker(snapshot, &err) != KS_OK)
		end(snapshot, err.status, err.text);
}

static void run(struct ks_guard *guard)
{
	struct snapshot *snapshot = ks_container_of(guard, struct snapshot, guard);

	if (snapshot->state == PROVING)
		begin(snapshot);
	else if (snapshot->state == SENDING)
		pump(snapshot);
}

static void proof_done(struct ks_read_proof *proof)
{
	ks_guard_done(&ks_container_of(proof, struct snapshot, proof)->guard);
}

static void stream_message(struct ks_call *call, struct ks_slice message)
{
	struct snapshot *snapshot = ks_call_context(call);
	struct ks_committer *committer;

	(void)message; /* it has no fields */
	if (!snapshot || snapshot->state != IDLE)
		return;
	committer = snapshot->api->committer;
	snapshot->state = PROVING;
	snapshot->proof.done = proof_done;
	ks_guard_begin(&snapshot->guard);
	committer->ops->prove_read(committer, &snapshot->proof);
}

static void stream_open(struct ks_call *call)
{
	struct ks_api *api = ks_api_of(call);
	struct snapshot *snapshot = calloc(1, sizeof(*snapshot));

	ks_call_set_context(call, snapshot);
	if (!snapshot) {
		ks_stream_finish(call, ks_etcd_status(KS_E_NO_MEMORY), ks_etcd_text(KS_E_NO_MEMORY));
		return;
	}
	snapshot->api = api;
	ks_mutex_init(&snapshot->mutex);
	ks_cond_init(&snapshot->cond);
	ks_guard_init(&snapshot->guard, call, run, free_snapshot);
	if (!ks_api_stream_open(api, call, &snapshot->stream))
		snapshot->state = ENDED;
}

static void stream_half_closed(struct ks_call *call)
{
	struct snapshot *snapshot = ks_call_context(call);

	if (snapshot && snapshot->state == IDLE)
		end(snapshot, ks_etcd_status(KS_E_NO_REQUEST), ks_etcd_text(KS_E_NO_REQUEST));
}

static void stream_writable(struct ks_call *call)
{
	struct snapshot *snapshot = ks_call_context(call);

	if (snapshot)
		pump(snapshot);
}

static void stream_closed(struct ks_call *call)
{
	struct snapshot *snapshot = ks_call_context(call);

	if (!snapshot)
		return;
	snapshot->state = ENDED;
	ks_mutex_lock(&snapshot->mutex);
	atomic_store(&snapshot->cancelled, true);
	ks_cond_signal(&snapshot->cond);
	ks_mutex_unlock(&snapshot->mutex);
	ks_api_stream_closed(snapshot->api, &snapshot->stream);
	ks_guard_close(&snapshot->guard);
}

const struct ks_stream_ops ks_api_snapshot_ops = {
	.open = stream_open,
	.message = stream_message,
	.half_closed = stream_half_closed,
	.writable = stream_writable,
	.closed = stream_closed,
};
