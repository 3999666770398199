/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The order of a save, so that at each moment a valid generation has its name, and the newer one if there were two:
 *
 *	write NEW, fsync      link NEWEST as OLDER.tmp, rename to OLDER      rename NEW to NEWEST      fsync of the folder
 */
#include "snapshot/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/diag.h"
#include "mirror/board.h"

#define NEWEST "last-known-good.snap"
#define OLDER "last-known-good.1.snap"
#define NEW "last-known-good.tmp"
#define OLDER_TMP "last-known-good.1.tmp"
#define MARK "last-known-good.final"
#define MARK_TMP "last-known-good.final.tmp"
#define LOCK "dpagent.lock"

struct dpa_disk {
	char *dir;
	const struct dpa_signer *signer;
	const struct dpa_verifier *verifier;
	int fd, lock;
	bool known; /* NEWEST is valid, it is what 'seen' and 'newest' say */
	struct stat seen;
	struct dpa_disk_newest newest;
};

static enum ks_status fail(const struct dpa_disk *disk, const char *name, const char *what, int number,
			   struct ks_err *err)
{
	bool full = number == ENOSPC || number == EDQUOT || number == EFBIG;

	return ks_fail(err, full ? KS_RESOURCE_EXHAUSTED : KS_UNAVAILABLE, "cannot %s %s/%s: %s", what, disk->dir, name,
		       strerrordesc_np(number));
}

/* ---- the folder ---- */

static enum ks_status make_folder(const char *dir, struct ks_err *err)
{
	char *path = strdup(dir);
	enum ks_status status = KS_OK;

	if (!path)
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
	for (char *at = path + 1; status == KS_OK && *dir; at++) {
		bool last = *at == '\0';

		if (*at != '/' && !last)
			continue;
		*at = '\0';
		if (mkdir(path, 0700) != 0 && errno != EEXIST)
			status = ks_fail(err, KS_UNAVAILABLE, "cannot make the folder %s: %s", path,
					 strerrordesc_np(errno));
		if (last)
			break;
		*at = '/';
	}
	free(path);
	return status;
}

static enum ks_status open_folder(struct dpa_disk *disk, struct ks_err *err)
{
	struct stat state;

	disk->fd = open(disk->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (disk->fd < 0 || fstat(disk->fd, &state) != 0)
		return ks_fail(err, KS_UNAVAILABLE, "cannot open the folder %s: %s", disk->dir, strerrordesc_np(errno));
	/* The files are checked one by one, so that this is no danger to what is believed; but others can remove them. */
	if (state.st_mode & 022 && !(state.st_mode & S_ISVTX))
		ks_diag(KS_WARN, "disk", "others may write in the folder of the images dir=%s mode=%04o", disk->dir,
			(unsigned)state.st_mode & 07777);
	return KS_OK;
}

/* What makes a file not ours; NULL when it is. */
static const char *foreign(const struct stat *state)
{
	if (!S_ISREG(state->st_mode))
		return "is not a regular file";
	if (state->st_uid != geteuid())
		return "belongs to another user";
	if (state->st_mode & 022)
		return "can be written by others (chmod 600 it, if it can be trusted)";
	return NULL;
}

static enum ks_status take_lock(struct dpa_disk *disk, struct ks_err *err)
{
	struct stat state;
	const char *wrong;

	disk->lock = openat(disk->fd, LOCK, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600);
	if (disk->lock < 0 || fstat(disk->lock, &state) != 0)
		return fail(disk, LOCK, "open", errno, err);
	wrong = foreign(&state);
	if (wrong)
		return ks_fail(err, KS_PERMISSION_DENIED, "%s/" LOCK " %s", disk->dir, wrong);
	if (flock(disk->lock, LOCK_EX | LOCK_NB) == 0)
		return KS_OK;
	if (errno == EWOULDBLOCK)
		return ks_fail(err, KS_FAILED_PRECONDITION, "the folder %s is in use by another dpagent", disk->dir);
	return fail(disk, LOCK, "lock", errno, err);
}

static void remove_leftovers(struct dpa_disk *disk)
{
	static const char *const names[] = {NEW, OLDER_TMP, MARK_TMP};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		(void)unlinkat(disk->fd, names[i], 0);
}

struct dpa_disk *dpa_disk_open(const struct dpa_disk_config *config, struct ks_err *err)
{
	struct dpa_disk *disk;
	enum ks_status status;

	if (config->signer && config->verifier && !dpa_verifier_trusts(config->verifier, config->signer)) {
		(void)ks_fail(err, KS_INVALID_ARGUMENT,
			      "images are signed with a key that is not trusted when they are loaded");
		return NULL;
	}
	disk = calloc(1, sizeof(*disk));
	if (!disk || !(disk->dir = strdup(config->dir))) {
		(void)ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
		free(disk);
		return NULL;
	}
	disk->signer = config->signer;
	disk->verifier = config->signer ? config->verifier : NULL;
	disk->fd = disk->lock = -1;
	status = make_folder(disk->dir, err);
	if (status == KS_OK)
		status = open_folder(disk, err);
	if (status == KS_OK)
		status = take_lock(disk, err);
	if (status != KS_OK) {
		dpa_disk_close(disk);
		return NULL;
	}
	remove_leftovers(disk);
	return disk;
}

void dpa_disk_close(struct dpa_disk *disk)
{
	if (!disk)
		return;
	if (disk->lock >= 0)
		(void)close(disk->lock);
	if (disk->fd >= 0)
		(void)close(disk->fd);
	free(disk->dir);
	free(disk);
}

bool dpa_disk_newest(const struct dpa_disk *disk, struct dpa_disk_newest *newest)
{
	*newest = disk->newest;
	return disk->known;
}

/* ---- reading ---- */

/* The whole of an open file of 'size' bytes, which must not change meanwhile. NULL with errno; EIO when it became shorter. */
static uint8_t *read_whole(int fd, size_t size)
{
	uint8_t *data = malloc(size ? size : 1);
	size_t have = 0;

	while (data && have < size) {
		ssize_t got = pread(fd, data + have, size - have, (off_t)have);

		if (got > 0) {
			have += (size_t)got;
		} else if (got == 0 || errno != EINTR) {
			int number = got == 0 ? EIO : errno;

			free(data);
			errno = number;
			return NULL;
		}
	}
	return data;
}

/* KS_NOT_FOUND only when there is no such file. */
static uint8_t *read_ours(const struct dpa_disk *disk, const char *name, struct stat *state, struct ks_err *err)
{
	int fd = openat(disk->fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	const char *wrong = NULL;
	uint8_t *data = NULL;

	if (fd < 0 && errno == ENOENT)
		(void)ks_fail(err, KS_NOT_FOUND, "%s/%s is not there", disk->dir, name);
	else if (fd < 0 && errno != ELOOP)
		(void)fail(disk, name, "open", errno, err);
	else if (fd < 0)
		wrong = "is a symbolic link";
	else if (fstat(fd, state) != 0)
		(void)fail(disk, name, "read", errno, err);
	else if (!(wrong = foreign(state)) && (uint64_t)state->st_size > DPA_FORMAT_MAX)
		wrong = "is larger than an image can be";
	else if (!wrong && !(data = read_whole(fd, (size_t)state->st_size)))
		(void)fail(disk, name, "read", errno, err);
	if (wrong)
		(void)ks_fail(err, KS_PERMISSION_DENIED, "%s/%s %s", disk->dir, name, wrong);
	if (fd >= 0)
		(void)close(fd);
	return data;
}

/* 'digest' gets the file's last bytes. */
static enum ks_status load_one(const struct dpa_disk *disk, const char *name, struct dpa_image *image,
			       struct stat *state, uint8_t digest[DPA_FORMAT_DIGEST], struct ks_err *err)
{
	uint8_t *data = read_ours(disk, name, state, err);
	struct ks_err why = {0};
	enum ks_status status;

	if (!data)
		return err->status;
	status = dpa_format_read(ks_slice_of(data, (size_t)state->st_size), disk->verifier, image, &why);
	if (status == KS_OK)
		memcpy(digest, data + (size_t)state->st_size - DPA_FORMAT_DIGEST, DPA_FORMAT_DIGEST);
	else
		(void)ks_fail(err, status, "%s/%s: %s", disk->dir, name, why.text);
	free(data);
	return status;
}

static void know(struct dpa_disk *disk, const struct dpa_image *image, int64_t saved_ms, const struct stat *state)
{
	disk->known = true;
	disk->seen = *state;
	disk->newest = (struct dpa_disk_newest){
		.cluster_id = image->cluster_id,
		.up_revision = image->up_revision,
		.revision = image->revision,
		.saved_ms = saved_ms,
		.bytes = state->st_size,
	};
}

static void digest_text(const uint8_t digest[DPA_FORMAT_DIGEST], char text[2 * DPA_FORMAT_DIGEST + 2])
{
	for (size_t i = 0; i < DPA_FORMAT_DIGEST; i++)
		(void)snprintf(text + 2 * i, 3, "%02x", digest[i]);
	text[2 * DPA_FORMAT_DIGEST] = '\n';
	text[2 * DPA_FORMAT_DIGEST + 1] = '\0';
}

/* Was the image with this digest the last thing that a clean stop wrote? True once: the mark is gone for good then. */
static bool take_mark(struct dpa_disk *disk, const uint8_t digest[DPA_FORMAT_DIGEST])
{
	char text[2 * DPA_FORMAT_DIGEST + 2];
	struct ks_err err;
	struct stat state;
	uint8_t *data = read_ours(disk, MARK, &state, &err);
	bool same;

	digest_text(digest, text);
	same = data && (size_t)state.st_size == strlen(text) && memcmp(data, text, strlen(text)) == 0;
	free(data);
	if (unlinkat(disk->fd, MARK, 0) != 0 || fsync(disk->fd) != 0)
		return false;
	return same;
}

enum ks_status dpa_disk_load(struct dpa_disk *disk, struct dpa_image *image, char *fault, size_t room,
			     struct ks_err *err)
{
	uint8_t digest[DPA_FORMAT_DIGEST] = {0};
	struct ks_err why = {0};
	struct stat state;
	enum ks_status status = load_one(disk, NEWEST, image, &state, digest, &why);
	bool marked = take_mark(disk, digest);

	(void)snprintf(fault, room, "%s", status == KS_OK || status == KS_NOT_FOUND ? "" : why.text);
	disk->known = false;
	if (status == KS_OK) {
		know(disk, image, image->saved_ms, &state);
		image->final = image->final && marked;
		return KS_OK;
	}
	status = load_one(disk, OLDER, image, &state, digest, &why);
	image->final = false;
	if (status == KS_OK)
		return KS_OK;
	if (status != KS_NOT_FOUND && !*fault)
		(void)snprintf(fault, room, "%s", why.text);
	return ks_fail(err, KS_NOT_FOUND, "there is no valid image in %s", disk->dir);
}

uint8_t *dpa_disk_read_file(const char *path, size_t *size, struct ks_err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat state;
	uint8_t *data = NULL;

	if (fd < 0 || fstat(fd, &state) != 0)
		(void)ks_fail(err, KS_NOT_FOUND, "cannot open %s: %s", path, strerrordesc_np(errno));
	else if (!S_ISREG(state.st_mode) || (uint64_t)state.st_size > DPA_FORMAT_MAX)
		(void)ks_fail(err, KS_INVALID_ARGUMENT, "%s is not a file, or larger than an image can be", path);
	else if (!(data = read_whole(fd, (size_t)state.st_size)))
		(void)ks_fail(err, KS_UNAVAILABLE, "cannot read %s: %s", path, strerrordesc_np(errno));
	else
		*size = (size_t)state.st_size;
	if (fd >= 0)
		(void)close(fd);
	return data;
}

/* ---- writing ---- */

static int write_whole(int fd, struct ks_slice bytes)
{
	while (bytes.size) {
		ssize_t wrote = write(fd, bytes.data, bytes.size);

		if (wrote < 0 && errno == EINTR)
			continue;
		if (wrote <= 0)
			return wrote < 0 ? errno : ENOSPC;
		bytes.data += wrote;
		bytes.size -= (size_t)wrote;
	}
	return 0;
}

/* A new file, on the disk when this returns KS_OK; else there is none. */
static enum ks_status write_new(struct dpa_disk *disk, const char *name, struct ks_slice bytes, struct stat *state,
				struct ks_err *err)
{
	int fd, number;

	(void)unlinkat(disk->fd, name, 0);
	fd = openat(disk->fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return fail(disk, name, "make", errno, err);
	number = write_whole(fd, bytes);
	if (!number && fsync(fd) != 0)
		number = errno;
	if (!number && fstat(fd, state) != 0)
		number = errno;
	if (close(fd) != 0 && !number)
		number = errno;
	if (!number)
		return KS_OK;
	(void)unlinkat(disk->fd, name, 0);
	return fail(disk, name, "write", number, err);
}

static bool same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
	       a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
	       a->st_uid == b->st_uid && a->st_mode == b->st_mode;
}

/* Is what lies there as the newest generation worth being the older one? Somebody may have changed it since we saw it. */
static bool newest_is_good(struct dpa_disk *disk)
{
	uint8_t digest[DPA_FORMAT_DIGEST];
	struct dpa_image image = {0};
	struct ks_err err;
	struct stat state;

	if (disk->known && fstatat(disk->fd, NEWEST, &state, AT_SYMLINK_NOFOLLOW) == 0 &&
	    same_file(&state, &disk->seen))
		return true;
	disk->known = false;
	if (load_one(disk, NEWEST, &image, &state, digest, &err) != KS_OK)
		return false;
	dpa_image_fini(&image);
	return true;
}

static enum ks_status keep_newest(struct dpa_disk *disk, struct ks_err *err)
{
	(void)unlinkat(disk->fd, OLDER_TMP, 0);
	/* Some file systems have no links: then the older one takes the name, and for a moment there is only it. */
	if (linkat(disk->fd, NEWEST, disk->fd, OLDER_TMP, 0) != 0)
		return renameat(disk->fd, NEWEST, disk->fd, OLDER) == 0 ? KS_OK
									: fail(disk, NEWEST, "rename", errno, err);
	if (renameat(disk->fd, OLDER_TMP, disk->fd, OLDER) != 0)
		return fail(disk, OLDER, "write", errno, err);
	/* When both were the same file already, the rename did nothing. */
	(void)unlinkat(disk->fd, OLDER_TMP, 0);
	return KS_OK;
}

static enum ks_status put_mark(struct dpa_disk *disk, const uint8_t digest[DPA_FORMAT_DIGEST], struct ks_err *err)
{
	char text[2 * DPA_FORMAT_DIGEST + 2];
	struct stat state;
	enum ks_status status;

	digest_text(digest, text);
	status = write_new(disk, MARK_TMP, ks_slice_str(text), &state, err);
	if (status == KS_OK && (renameat(disk->fd, MARK_TMP, disk->fd, MARK) != 0 || fsync(disk->fd) != 0))
		status = fail(disk, MARK, "write", errno, err);
	return status;
}

static enum ks_status put_newest(struct dpa_disk *disk, struct ks_slice bytes, struct stat *state, struct ks_err *err)
{
	enum ks_status status = write_new(disk, NEW, bytes, state, err);

	if (status != KS_OK)
		return status;
	if (newest_is_good(disk))
		status = keep_newest(disk, err);
	if (status == KS_OK && renameat(disk->fd, NEW, disk->fd, NEWEST) != 0)
		status = fail(disk, NEWEST, "write", errno, err);
	if (status != KS_OK)
		(void)unlinkat(disk->fd, NEW, 0);
	else if (fsync(disk->fd) != 0)
		status = fail(disk, NEWEST, "write", errno, err);
	return status;
}

enum ks_status dpa_disk_save(struct dpa_disk *disk, const struct dpa_image *image, int64_t *bytes, struct ks_err *err)
{
	int64_t saved_ms = dpa_wall_ms();
	struct ks_buf out;
	struct stat state;
	enum ks_status status;

	ks_buf_init(&out, DPA_FORMAT_MAX);
	if (saved_ms < 0)
		saved_ms = 0;
	status = dpa_format_write(image, disk->signer, saved_ms, &out, err);
	/* Whatever was marked final, something newer is there now. */
	if (status == KS_OK && unlinkat(disk->fd, MARK, 0) != 0 && errno != ENOENT)
		status = fail(disk, MARK, "remove", errno, err);
	if (status == KS_OK)
		status = put_newest(disk, ks_slice_of(out.data, out.size), &state, err);
	if (status == KS_OK) {
		know(disk, image, saved_ms, &state);
		*bytes = state.st_size;
		if (image->final)
			status = put_mark(disk, out.data + out.size - DPA_FORMAT_DIGEST, err);
	}
	ks_buf_fini(&out);
	return status;
}
