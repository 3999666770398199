/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The promises of dpagent/snapshot/disk.h and saver.h: whatever happens to the files, the disk and the process, the newest valid generation is
 * loaded. The program has its own build of disk.c, in which each call that writes can fail.
 */
#undef write
#undef fsync
#undef renameat
#undef linkat
#include "tests/lib/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/panic.h"
#include "snapshot/saver.h"
#include "snapshot/tool.h"
#include "store/store.h"

#define NEWEST "last-known-good.snap"
#define OLDER "last-known-good.1.snap"
#define MARK "last-known-good.final"

/* ---- faults ---- */

ssize_t fault_write(int fd, const void *data, size_t size);
int fault_fsync(int fd);
int fault_renameat(int from_dir, const char *from, int to_dir, const char *to);
int fault_linkat(int from_dir, const char *from, int to_dir, const char *to, int flags);

static _Atomic int calls_left; /* so many are fine, then each fails; negative: all are fine */
static _Atomic int fault_number = ENOSPC;
static _Atomic bool no_links;
static _Atomic unsigned slow_ms; /* what each fsync takes */

static bool fails(void)
{
	int left = atomic_load(&calls_left);

	if (left < 0)
		return false;
	if (left > 0) {
		atomic_store(&calls_left, left - 1);
		return false;
	}
	errno = atomic_load(&fault_number);
	return true;
}

/* Half of it is written first, as on a disk that becomes full. */
ssize_t fault_write(int fd, const void *data, size_t size)
{
	if (!fails())
		return write(fd, data, size);
	if (size > 1)
		(void)!write(fd, data, size / 2);
	errno = atomic_load(&fault_number);
	return -1;
}

int fault_fsync(int fd)
{
	(void)usleep(1000 * atomic_load(&slow_ms));
	return fails() ? -1 : fsync(fd);
}

int fault_renameat(int from_dir, const char *from, int to_dir, const char *to)
{
	return fails() ? -1 : renameat(from_dir, from, to_dir, to);
}

int fault_linkat(int from_dir, const char *from, int to_dir, const char *to, int flags)
{
	if (atomic_load(&no_links)) {
		errno = EPERM;
		return -1;
	}
	return fails() ? -1 : linkat(from_dir, from, to_dir, to, flags);
}

/* ---- a folder, images and what is in it ---- */

static char folder[64];

static const char *in_folder(const char *name)
{
	static char paths[4][128];
	static unsigned next;
	char *path = paths[next++ % 4];

	(void)snprintf(path, sizeof(paths[0]), "%s/%s", folder, name);
	return path;
}

static void clear_folder(void)
{
	static const char *const names[] = {NEWEST,
					    OLDER,
					    MARK,
					    "dpagent.lock",
					    "last-known-good.tmp",
					    "last-known-good.1.tmp",
					    "last-known-good.final.tmp",
					    "key.key",
					    "key.pub",
					    "elsewhere"};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (unlink(in_folder(names[i])) != 0)
			(void)rmdir(in_folder(names[i]));
	(void)rmdir(folder);
}

static struct dpa_disk *open_as(const struct dpa_signer *signer, const struct dpa_verifier *verifier)
{
	struct dpa_disk_config config = {.dir = folder, .signer = signer, .verifier = verifier};
	struct ks_err err = {0};
	struct dpa_disk *disk = dpa_disk_open(&config, &err);

	if (!disk)
		printf("# %s\n", err.text);
	CU_ASSERT_PTR_NOT_NULL_FATAL(disk);
	return disk;
}

static struct dpa_disk *open_disk(void)
{
	return open_as(NULL, NULL);
}

/* One key, whose value is the revision, 'size' times. */
static struct dpa_image image_of(int64_t revision, size_t size)
{
	char *value = ks_xcalloc(1, size * 20 + 1), *at = value;
	struct ks_kv kv = {.key = ks_slice_str("k"), .create_revision = 1, .mod_revision = revision, .version = 1};
	struct dpa_image image = {.revision = revision, .cluster_id = 7, .key_count = 1};

	for (size_t i = 0; i < size; i++)
		at += snprintf(at, 21, "%lld", (long long)(revision * 1000003 + (int64_t)i * 7919));
	kv.value = ks_slice_str(value);
	image.keys = ks_xcalloc(1, sizeof(*image.keys));
	image.keys->kv = ks_kv_encode(&kv);
	KS_ASSERT(image.keys->kv);
	free(value);
	return image;
}

static enum ks_status save_size(struct dpa_disk *disk, int64_t revision, bool final, size_t size)
{
	struct dpa_image image = image_of(revision, size);
	int64_t bytes = 0;
	struct ks_err err = {0};
	enum ks_status status;

	image.final = final;
	status = dpa_disk_save(disk, &image, &bytes, &err);
	CU_ASSERT(status == KS_OK ? bytes > 100 : strstr(err.text, folder) != NULL);
	dpa_image_fini(&image);
	return status;
}

static void save(struct dpa_disk *disk, int64_t revision)
{
	CU_ASSERT_EQUAL(save_size(disk, revision, false, 1), KS_OK);
}

static char fault[256];

/* The revision that is loaded; 0 when there is none. */
static int64_t load(struct dpa_disk *disk, bool *final)
{
	struct dpa_image image = {0};
	struct ks_err err = {0};
	enum ks_status status = dpa_disk_load(disk, &image, fault, sizeof(fault), &err);
	int64_t revision = image.revision;

	CU_ASSERT(status == KS_OK || status == KS_NOT_FOUND);
	CU_ASSERT_EQUAL(status == KS_OK, revision != 0);
	if (final)
		*final = image.final;
	dpa_image_fini(&image);
	return revision;
}

/* What another start would find. */
static int64_t load_anew(void)
{
	struct dpa_disk *disk = open_disk();
	int64_t revision = load(disk, NULL);

	dpa_disk_close(disk);
	return revision;
}

static void flip_byte(const char *name)
{
	int fd = open(in_folder(name), O_RDWR | O_CLOEXEC);
	struct stat state;
	char byte;

	KS_ASSERT(fd >= 0 && fstat(fd, &state) == 0 && pread(fd, &byte, 1, state.st_size / 2) == 1);
	byte ^= 4;
	KS_ASSERT(pwrite(fd, &byte, 1, state.st_size / 2) == 1);
	(void)close(fd);
}

static void cut(const char *name)
{
	struct stat state;

	KS_ASSERT(stat(in_folder(name), &state) == 0 && truncate(in_folder(name), state.st_size - 1) == 0);
}

/* ---- two generations ---- */

static void the_newest_is_loaded_and_the_one_before_kept(void)
{
	struct dpa_disk *disk = open_disk();
	struct stat state;

	CU_ASSERT_EQUAL(load(disk, NULL), 0);
	CU_ASSERT_STRING_EQUAL(fault, "");
	for (int64_t revision = 1; revision <= 3; revision++)
		save(disk, revision);
	CU_ASSERT_EQUAL(load(disk, NULL), 3);
	CU_ASSERT_STRING_EQUAL(fault, "");
	dpa_disk_close(disk);
	CU_ASSERT_EQUAL(stat(folder, &state), 0);
	CU_ASSERT_EQUAL(state.st_mode & 07777, 0700);
	CU_ASSERT_EQUAL(stat(in_folder(NEWEST), &state), 0);
	CU_ASSERT_EQUAL(state.st_mode & 07777, 0600);
	KS_ASSERT(unlink(in_folder(NEWEST)) == 0);
	CU_ASSERT_EQUAL(load_anew(), 2);
	CU_ASSERT_STRING_EQUAL(fault, "");
	clear_folder();
}

static void a_damaged_newest_does_not_push_out_the_older_one(void)
{
	static void (*const damage[])(const char *) = {flip_byte, cut};

	for (size_t how = 0; how < 4; how++) {
		struct dpa_disk *disk = open_disk();

		save(disk, 1);
		save(disk, 2);
		dpa_disk_close(disk);
		damage[how % 2](NEWEST);
		disk = open_disk();
		/* Also for a process that never loaded it. */
		if (how < 2) {
			CU_ASSERT_EQUAL(load(disk, NULL), 1);
			CU_ASSERT_PTR_NOT_NULL(strstr(fault, NEWEST));
		}
		save(disk, 3);
		CU_ASSERT_EQUAL(load(disk, NULL), 3);
		CU_ASSERT_STRING_EQUAL(fault, "");
		/* And when it happens while the process knows it as good. */
		damage[how % 2](NEWEST);
		save(disk, 4);
		dpa_disk_close(disk);
		KS_ASSERT(unlink(in_folder(NEWEST)) == 0);
		CU_ASSERT_EQUAL(load_anew(), 1);
		clear_folder();
	}
}

static void without_a_valid_one_there_is_none(void)
{
	struct dpa_disk *disk = open_disk();

	save(disk, 1);
	save(disk, 2);
	flip_byte(NEWEST);
	cut(OLDER);
	CU_ASSERT_EQUAL(load(disk, NULL), 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(fault, NEWEST));
	KS_ASSERT(unlink(in_folder(NEWEST)) == 0);
	CU_ASSERT_EQUAL(load(disk, NULL), 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(fault, OLDER));
	save(disk, 3);
	CU_ASSERT_EQUAL(load(disk, NULL), 3);
	dpa_disk_close(disk);
	clear_folder();
}

/* A crash between the two renames leaves both names on one file. */
static void both_names_on_one_file_are_no_trouble(void)
{
	struct dpa_disk *disk = open_disk();

	save(disk, 1);
	KS_ASSERT(link(in_folder(NEWEST), in_folder(OLDER)) == 0);
	save(disk, 2);
	save(disk, 3);
	CU_ASSERT_EQUAL(access(in_folder("last-known-good.1.tmp"), F_OK), -1);
	KS_ASSERT(unlink(in_folder(NEWEST)) == 0);
	CU_ASSERT_EQUAL(load(disk, NULL), 2);
	dpa_disk_close(disk);
	clear_folder();
}

static void file_systems_without_links_work_too(void)
{
	struct dpa_disk *disk = open_disk();

	atomic_store(&no_links, true);
	for (int64_t revision = 1; revision <= 3; revision++)
		save(disk, revision);
	atomic_store(&no_links, false);
	CU_ASSERT_EQUAL(load(disk, NULL), 3);
	KS_ASSERT(unlink(in_folder(NEWEST)) == 0);
	CU_ASSERT_EQUAL(load(disk, NULL), 2);
	dpa_disk_close(disk);
	clear_folder();
}

/* ---- whose files ---- */

static void check_not_believed(const char *text)
{
	struct dpa_disk *disk = open_disk();

	CU_ASSERT_EQUAL(load(disk, NULL), 1);
	CU_ASSERT_PTR_NOT_NULL(strstr(fault, text));
	if (!strstr(fault, text))
		printf("# \"%s\" is not \"%s\"\n", fault, text);
	/* Nor does it become the older one. */
	save(disk, 5);
	CU_ASSERT_EQUAL(load(disk, NULL), 5);
	dpa_disk_close(disk);
	KS_ASSERT(unlink(in_folder(NEWEST)) == 0);
	CU_ASSERT_EQUAL(load_anew(), 1);
	clear_folder();
}

static void begin_with_two(void)
{
	struct dpa_disk *disk = open_disk();

	save(disk, 1);
	save(disk, 2);
	dpa_disk_close(disk);
}

static void files_of_others_are_not_believed(void)
{
	begin_with_two();
	KS_ASSERT(chmod(in_folder(NEWEST), 0620) == 0);
	check_not_believed("can be written by others");
	begin_with_two();
	KS_ASSERT(chmod(in_folder(NEWEST), 0602) == 0);
	check_not_believed("can be written by others");
	begin_with_two();
	KS_ASSERT(rename(in_folder(NEWEST), in_folder("elsewhere")) == 0 &&
		  symlink("elsewhere", in_folder(NEWEST)) == 0);
	check_not_believed("is a symbolic link");
	begin_with_two();
	KS_ASSERT(unlink(in_folder(NEWEST)) == 0 && mkfifo(in_folder(NEWEST), 0600) == 0);
	check_not_believed("is not a regular file");
	if (geteuid() == 0) {
		begin_with_two();
		/* Readable, for a root who may not read all. */
		KS_ASSERT(chmod(in_folder(NEWEST), 0644) == 0 && chown(in_folder(NEWEST), 65534, 65534) == 0);
		check_not_believed("belongs to another user");
	}
	begin_with_two();
	KS_ASSERT(truncate(in_folder(NEWEST), (off_t)1 << 40) == 0);
	check_not_believed("is larger than an image can be");
}

static void a_link_in_the_way_of_a_write_is_not_followed(void)
{
	struct dpa_disk *disk = open_disk();
	struct stat state;

	KS_ASSERT(symlink("elsewhere", in_folder("last-known-good.tmp")) == 0);
	save(disk, 1);
	CU_ASSERT_EQUAL(stat(in_folder("elsewhere"), &state), -1);
	CU_ASSERT_EQUAL(lstat(in_folder(NEWEST), &state), 0);
	CU_ASSERT(S_ISREG(state.st_mode));
	dpa_disk_close(disk);
	KS_ASSERT(unlink(in_folder("dpagent.lock")) == 0 && symlink("elsewhere", in_folder("dpagent.lock")) == 0);
	CU_ASSERT_PTR_NULL(dpa_disk_open(&(struct dpa_disk_config){.dir = folder}, NULL));
	clear_folder();
}

static void one_agent_has_the_folder(void)
{
	struct dpa_disk *disk = open_disk();
	struct dpa_disk_config config = {.dir = folder};
	struct ks_err err = {0};
	int leftover = open(in_folder("last-known-good.tmp"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

	CU_ASSERT_PTR_NULL(dpa_disk_open(&config, &err));
	CU_ASSERT_EQUAL(err.status, KS_FAILED_PRECONDITION);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "in use by another dpagent"));
	/* Whoever was refused must not touch what the other is writing. */
	CU_ASSERT_EQUAL(access(in_folder("last-known-good.tmp"), F_OK), 0);
	dpa_disk_close(disk);
	disk = open_disk();
	CU_ASSERT_EQUAL(access(in_folder("last-known-good.tmp"), F_OK), -1);
	dpa_disk_close(disk);
	(void)close(leftover);
	clear_folder();
}

static void a_folder_that_cannot_be_is_said(void)
{
	struct dpa_disk_config config = {.dir = "/dev/null/data"};
	struct ks_err err = {0};

	CU_ASSERT_PTR_NULL(dpa_disk_open(&config, &err));
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "/dev/null"));
	config.dir = "";
	CU_ASSERT_PTR_NULL(dpa_disk_open(&config, &err));
}

/* ---- signatures ---- */

static void with_a_key_only_signed_ones_count(void)
{
	struct dpa_disk *disk;
	struct dpa_signer *signer;
	struct dpa_verifier *verifier;
	char word[] = "keygen", out[160];
	struct ks_err err = {0};
	int saved, null;

	KS_ASSERT(mkdir(folder, 0700) == 0);
	(void)snprintf(out, sizeof(out), "--out=%s", in_folder("key"));
	saved = dup(STDOUT_FILENO);
	null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	(void)fflush(stdout);
	KS_ASSERT(dup2(null, STDOUT_FILENO) >= 0 && dpa_keygen_tool(2, (char *[]){word, out, NULL}) == 0);
	(void)fflush(stdout);
	KS_ASSERT(dup2(saved, STDOUT_FILENO) >= 0 && close(saved) == 0 && close(null) == 0);
	signer = dpa_signer_read(in_folder("key.key"), &err);
	verifier = dpa_verifier_read(in_folder("key.pub"), &err);
	KS_ASSERT(signer && verifier);
	disk = open_as(signer, verifier);
	save(disk, 1);
	dpa_disk_close(disk);
	/* Written by somebody without the key, and twice, so that neither is signed. */
	disk = open_disk();
	save(disk, 2);
	dpa_disk_close(disk);
	disk = open_as(signer, verifier);
	CU_ASSERT_EQUAL(load(disk, NULL), 1);
	CU_ASSERT_PTR_NOT_NULL(strstr(fault, "not signed"));
	save(disk, 3);
	CU_ASSERT_EQUAL(load(disk, NULL), 3);
	dpa_disk_close(disk);
	/* Who cannot sign loads all the same what it saved. */
	disk = open_as(NULL, verifier);
	save(disk, 4);
	CU_ASSERT_EQUAL(load(disk, NULL), 4);
	dpa_disk_close(disk);
	dpa_signer_free(signer);
	dpa_verifier_free(verifier);
	clear_folder();
}

/* ---- clean stops ---- */

static void only_the_first_load_after_a_clean_stop_is_final(void)
{
	struct dpa_disk *disk = open_disk();
	bool final = true;

	save(disk, 1);
	CU_ASSERT_EQUAL(load(disk, &final), 1);
	CU_ASSERT_FALSE(final);
	CU_ASSERT_EQUAL(save_size(disk, 2, true, 1), KS_OK);
	CU_ASSERT_EQUAL(load(disk, &final), 2);
	CU_ASSERT_TRUE(final);
	/* It may have served newer ones since, and crashed. */
	CU_ASSERT_EQUAL(load(disk, &final), 2);
	CU_ASSERT_FALSE(final);
	/* The older one is never final: something newer was there. */
	CU_ASSERT_EQUAL(save_size(disk, 3, true, 1), KS_OK);
	flip_byte(NEWEST);
	CU_ASSERT_EQUAL(load(disk, &final), 2);
	CU_ASSERT_FALSE(final);
	/* A mark beside another image counts for nothing, */
	CU_ASSERT_EQUAL(save_size(disk, 4, true, 1), KS_OK);
	KS_ASSERT(rename(in_folder(MARK), in_folder("elsewhere")) == 0);
	CU_ASSERT_EQUAL(save_size(disk, 5, true, 1), KS_OK);
	KS_ASSERT(rename(in_folder("elsewhere"), in_folder(MARK)) == 0);
	CU_ASSERT_EQUAL(load(disk, &final), 5);
	CU_ASSERT_FALSE(final);
	/* and a save takes it away. */
	CU_ASSERT_EQUAL(save_size(disk, 6, true, 1), KS_OK);
	save(disk, 7);
	CU_ASSERT_EQUAL(access(in_folder(MARK), F_OK), -1);
	dpa_disk_close(disk);
	clear_folder();
}

/* ---- bad disks ---- */

/* The n-th call fails, and all after it; then the disk is well again. */
static void whatever_fails_a_generation_is_left(void)
{
	static const int numbers[] = {ENOSPC, EIO};
	int64_t revision = 2;
	int n = 0;

	for (size_t i = 0; i < 2; i++) {
		struct dpa_disk *disk = open_disk();
		bool failed = true;

		atomic_store(&fault_number, numbers[i]);
		save(disk, revision);
		save(disk, ++revision);
		for (n = 0; failed; n++) {
			int64_t loaded;

			atomic_store(&calls_left, n);
			failed = save_size(disk, revision + 1, n % 2, 1) != KS_OK;
			atomic_store(&calls_left, -1);
			dpa_disk_close(disk);
			disk = open_disk();
			loaded = load(disk, NULL);
			CU_ASSERT_STRING_EQUAL(fault, "");
			CU_ASSERT(loaded == revision + 1 || (failed && loaded == revision));
			revision = loaded;
			/* The older one is sound, too. */
			KS_ASSERT(rename(in_folder(NEWEST), in_folder("elsewhere")) == 0);
			CU_ASSERT(load(disk, NULL) > 0);
			KS_ASSERT(rename(in_folder("elsewhere"), in_folder(NEWEST)) == 0);
		}
		CU_ASSERT(n > 6);
		dpa_disk_close(disk);
		clear_folder();
	}
	atomic_store(&fault_number, ENOSPC);
}

/* In a child: files may not grow beyond 4 KiB, as a quota does it. */
static void a_limit_of_size_leaves_both(void)
{
	int status;
	pid_t child;

	begin_with_two();
	(void)fflush(stdout);
	child = fork();
	if (child == 0) {
		struct rlimit limit = {.rlim_cur = 4096, .rlim_max = 4096};
		struct dpa_disk *disk = dpa_disk_open(&(struct dpa_disk_config){.dir = folder}, NULL);
		struct dpa_image image = image_of(3, 5000);
		int64_t bytes;
		bool fine;

		(void)signal(SIGXFSZ, SIG_IGN);
		fine = disk && setrlimit(RLIMIT_FSIZE, &limit) == 0 &&
		       dpa_disk_save(disk, &image, &bytes, NULL) == KS_RESOURCE_EXHAUSTED;
		dpa_image_fini(&image);
		image = image_of(3, 1);
		fine = fine && dpa_disk_save(disk, &image, &bytes, NULL) == KS_OK;
		_exit(fine ? 0 : 1);
	}
	KS_ASSERT(child > 0 && waitpid(child, &status, 0) == child);
	CU_ASSERT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	CU_ASSERT_EQUAL(load_anew(), 3);
	clear_folder();
}

static bool write_proc(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool fine = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		(void)close(fd);
	return fine;
}

/* Who is not root becomes it, in a namespace of its own. */
static bool become_root(void)
{
	char users[64], groups[64];

	if (geteuid() == 0)
		return true;
	(void)snprintf(users, sizeof(users), "0 %u 1", (unsigned)geteuid());
	(void)snprintf(groups, sizeof(groups), "0 %u 1", (unsigned)getegid());
	return unshare(CLONE_NEWUSER) == 0 && write_proc("/proc/self/setgroups", "deny") &&
	       write_proc("/proc/self/uid_map", users) && write_proc("/proc/self/gid_map", groups);
}

/* On a file system of 256 KiB: images of a growing size, until one finds no room. 0: fine, 1: not, 77: this user may not mount. */
static int fill_disk(void)
{
	struct dpa_disk *disk;
	struct dpa_image image = {0};
	int64_t bytes, revision = 0;
	char why[256];

	if (!become_root() || unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
	    mount("tmpfs", folder, "tmpfs", 0, "size=256k,mode=0700") != 0)
		return 77;
	disk = dpa_disk_open(&(struct dpa_disk_config){.dir = folder}, NULL);
	for (size_t size = 100; disk && revision < 1000; size += size / 4) {
		image = image_of(revision + 1, size);
		if (dpa_disk_save(disk, &image, &bytes, NULL) != KS_OK)
			break;
		revision++;
		dpa_image_fini(&image);
	}
	dpa_image_fini(&image);
	if (!disk || revision < 5 || revision == 1000)
		return 1;
	if (dpa_disk_load(disk, &image, why, sizeof(why), NULL) != KS_OK || image.revision != revision || *why)
		return 1;
	dpa_image_fini(&image);
	/* What it tried to write is not in the way. */
	image = image_of(revision + 1, 100);
	return dpa_disk_save(disk, &image, &bytes, NULL) == KS_OK ? 0 : 1;
}

static void a_full_disk_leaves_both(void)
{
	int status;
	pid_t child;

	KS_ASSERT(mkdir(folder, 0700) == 0);
	(void)fflush(stdout);
	child = fork();
	if (child == 0)
		_exit(fill_disk());
	KS_ASSERT(child > 0 && waitpid(child, &status, 0) == child);
	CU_ASSERT(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		printf("# this user may not mount a small file system; the limit of size above stands for it\n");
	CU_ASSERT(WEXITSTATUS(status) == 77 || WEXITSTATUS(status) == 0);
	clear_folder();
}

/* ---- kill -9 ---- */

#define KILLS 50

/* Saves as fast as it can; says before and after each, which. */
static void save_for_ever(_Atomic int64_t *saved, int64_t revision)
{
	struct dpa_disk *disk = dpa_disk_open(&(struct dpa_disk_config){.dir = folder}, NULL);
	int64_t bytes;

	for (; disk; revision++) {
		struct dpa_image image = image_of(revision, 2000 + (size_t)revision % 7 * 1000);

		if (dpa_disk_save(disk, &image, &bytes, NULL) != KS_OK)
			break;
		atomic_store(saved, revision);
		dpa_image_fini(&image);
	}
	_exit(1);
}

static void a_kill_at_any_point_loses_nothing_that_was_saved(void)
{
	_Atomic int64_t *saved = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	unsigned random = 12345;
	int64_t loaded = 0;
	size_t wrong = 0;

	KS_ASSERT(saved != MAP_FAILED);
	(void)fflush(stdout);
	for (int i = 0; i < KILLS; i++) {
		int64_t begin = atomic_load(saved), at_least;
		pid_t child = fork();
		int status;

		if (child == 0)
			save_for_ever(saved, loaded + 1);
		while (atomic_load(saved) == begin && waitpid(child, &status, WNOHANG) == 0)
			(void)usleep(100);
		random = random * 1103515245u + 12345u;
		(void)usleep((random >> 16) % 12000);
		(void)kill(child, SIGKILL);
		KS_ASSERT(waitpid(child, &status, 0) == child || errno == ECHILD);
		at_least = atomic_load(saved);
		loaded = load_anew();
		wrong += !WIFSIGNALED(status) || loaded < at_least || loaded > at_least + 1 || *fault;
	}
	printf("# %lld saves\n", (long long)loaded);
	CU_ASSERT_EQUAL(wrong, 0);
	(void)munmap((void *)saved, 4096);
	clear_folder();
}

/* ---- the saver ---- */

struct world {
	struct dpa_replica *replica;
	struct dpa_board *board;
	struct dpa_disk *disk;
	_Atomic(struct dpa_saver *) saver;
	int64_t revision;
};

static void signal_saver(void *ctx)
{
	struct dpa_saver *saver = atomic_load(&((struct world *)ctx)->saver);

	if (saver)
		dpa_saver_changed(saver);
}

static void open_world(struct world *world)
{
	struct dpa_replica_config config = {.prefix = "/p/", .changed = signal_saver, .changed_ctx = world};
	struct ks_err err = {0};

	*world = (struct world){.board = dpa_board_new(), .disk = open_disk()};
	world->replica = dpa_replica_new(&config, &err);
	CU_ASSERT_PTR_NOT_NULL_FATAL(world->replica);
}

static void start_saver(struct world *world, int64_t interval_ms, int64_t progress_ms)
{
	struct dpa_saver_config config = {
		.disk = world->disk,
		.replica = world->replica,
		.board = world->board,
		.interval_ms = interval_ms,
		.progress_ms = progress_ms,
	};
	struct ks_err err = {0};

	atomic_store(&world->saver, dpa_saver_start(&config, &err));
	CU_ASSERT_PTR_NOT_NULL_FATAL(atomic_load(&world->saver));
}

static void stop_saver(struct world *world)
{
	dpa_saver_stop(atomic_exchange(&world->saver, NULL));
}

static void close_world(struct world *world)
{
	stop_saver(world);
	dpa_replica_free(world->replica);
	dpa_board_free(world->board);
	dpa_disk_close(world->disk);
}

/* A first, empty state; upstream is at revision 1. */
static void begin_state(struct world *world)
{
	struct dpa_resync_summary summary;
	struct ks_err err = {0};
	struct dpa_resync *resync = dpa_resync_begin(world->replica, 7, 1, false, 0, &err);

	CU_ASSERT_PTR_NOT_NULL_FATAL(resync);
	CU_ASSERT_EQUAL(dpa_resync_end(resync, true, &summary, &err), KS_OK);
	world->revision = 1;
}

static void put(struct world *world, const char *key)
{
	struct dpa_change change = {
		.revision = ++world->revision,
		.key = ks_slice_str(key),
		.value = ks_slice_str("value"),
		.create_revision = world->revision,
		.version = 1,
	};
	struct ks_err err = {0};

	CU_ASSERT_EQUAL(dpa_replica_apply(world->replica, &change, 1, change.revision, &err), KS_OK);
	if (*err.text)
		printf("# %s\n", err.text);
}

static struct dpa_status status_of(struct world *world)
{
	struct dpa_status status;

	dpa_board_read(world->board, &status);
	return status;
}

static int64_t now_ms(void)
{
	return ks_clock_now(ks_clock_system());
}

/* Until so many writes were made; false after 10 s. */
static bool wait_for_writes(struct world *world, uint64_t writes)
{
	int64_t until = now_ms() + 10000;

	while (status_of(world).disk_writes < writes && now_ms() < until)
		(void)usleep(1000);
	return status_of(world).disk_writes >= writes;
}

static void changes_are_gathered_and_written(void)
{
	struct world world;
	struct dpa_status status;
	char key[32];
	int64_t began;

	open_world(&world);
	begin_state(&world);
	start_saver(&world, 300, 0);
	CU_ASSERT(wait_for_writes(&world, 1));
	began = now_ms();
	for (int i = 0; i < 500; i++) {
		(void)snprintf(key, sizeof(key), "/p/%d", i);
		put(&world, key);
	}
	CU_ASSERT(wait_for_writes(&world, 2));
	CU_ASSERT(now_ms() - began >= 300);
	status = status_of(&world);
	CU_ASSERT(status.disk_writes <= 3);
	CU_ASSERT_EQUAL(status.disk_failures, 0);
	CU_ASSERT(status.disk_bytes > 0 && status.disk_saved_ms > 0);
	CU_ASSERT_EQUAL(status.disk_revision, world.revision);
	close_world(&world);
	clear_folder();
}

static void mere_progress_waits_for_its_time(void)
{
	struct world world;
	struct ks_err err = {0};
	int64_t began;

	open_world(&world);
	begin_state(&world);
	start_saver(&world, 10, 600);
	CU_ASSERT(wait_for_writes(&world, 1));
	began = now_ms();
	/* Progress all the time, and still a key is written at once. */
	while (now_ms() < began + 200) {
		CU_ASSERT_EQUAL(dpa_replica_progress(world.replica, ++world.revision, &err), KS_OK);
		(void)usleep(1000);
	}
	CU_ASSERT_EQUAL(status_of(&world).disk_writes, 1);
	put(&world, "/p/a");
	CU_ASSERT(wait_for_writes(&world, 2));
	CU_ASSERT_EQUAL(status_of(&world).disk_revision, world.revision);
	CU_ASSERT_EQUAL(dpa_replica_progress(world.replica, ++world.revision, &err), KS_OK);
	began = now_ms();
	CU_ASSERT(wait_for_writes(&world, 3));
	CU_ASSERT(now_ms() - began >= 400);
	CU_ASSERT_EQUAL(status_of(&world).disk_revision, world.revision);
	close_world(&world);
	clear_folder();
}

/* A write takes more than 200 ms, so there is one each two seconds, whatever changes. */
static void a_slow_disk_is_not_kept_busy(void)
{
	struct world world;
	int64_t began;

	open_world(&world);
	begin_state(&world);
	atomic_store(&slow_ms, 100);
	start_saver(&world, 1, 0);
	CU_ASSERT(wait_for_writes(&world, 1));
	began = now_ms();
	while (now_ms() < began + 1000) {
		put(&world, "/p/a");
		(void)usleep(2000);
	}
	CU_ASSERT_EQUAL(status_of(&world).disk_writes, 1);
	CU_ASSERT(wait_for_writes(&world, 2));
	CU_ASSERT(now_ms() - began >= 1500);
	atomic_store(&slow_ms, 0);
	close_world(&world);
	clear_folder();
}

static void a_full_disk_is_an_alarm_until_it_is_not(void)
{
	struct world world;
	struct dpa_status status;
	int64_t began = now_ms();

	open_world(&world);
	begin_state(&world);
	start_saver(&world, 10, 0);
	CU_ASSERT(wait_for_writes(&world, 1));
	atomic_store(&calls_left, 0);
	put(&world, "/p/a");
	while (!status_of(&world).alarms[DPA_ALARM_DISK_WRITE].on && now_ms() < began + 10000)
		(void)usleep(1000);
	status = status_of(&world);
	CU_ASSERT_TRUE(status.alarms[DPA_ALARM_DISK_WRITE].on);
	CU_ASSERT_PTR_NOT_NULL(strstr(status.alarms[DPA_ALARM_DISK_WRITE].text, "No space left"));
	CU_ASSERT(status.disk_failures > 0);
	CU_ASSERT_EQUAL(status.disk_writes, 1);
	CU_ASSERT_EQUAL(status.disk_revision, 1);
	atomic_store(&calls_left, -1);
	CU_ASSERT(wait_for_writes(&world, 2));
	while (status_of(&world).alarms[DPA_ALARM_DISK_WRITE].on && now_ms() < began + 20000)
		(void)usleep(1000);
	status = status_of(&world);
	CU_ASSERT_FALSE(status.alarms[DPA_ALARM_DISK_WRITE].on);
	CU_ASSERT_EQUAL(status.disk_revision, world.revision);
	close_world(&world);
	clear_folder();
}

/* What is written at the stop is final, what the next start has from the disk need not be written. */
static void a_stop_writes_the_rest_and_says_that_it_is_all(void)
{
	struct world world;
	struct dpa_image image = {0};
	struct dpa_point point;
	struct ks_err err = {0};

	open_world(&world);
	begin_state(&world);
	put(&world, "/p/a");
	start_saver(&world, 60000, 0);
	CU_ASSERT(wait_for_writes(&world, 1));
	put(&world, "/p/b");
	close_world(&world);

	open_world(&world);
	CU_ASSERT_EQUAL(dpa_disk_load(world.disk, &image, fault, sizeof(fault), &err), KS_OK);
	CU_ASSERT_TRUE(image.final);
	CU_ASSERT_EQUAL(image.key_count, 2);
	CU_ASSERT_EQUAL(dpa_replica_load(world.replica, &image, &err), KS_OK);
	dpa_image_fini(&image);
	dpa_replica_point(world.replica, &point);
	CU_ASSERT_EQUAL(point.revision, 3);
	CU_ASSERT_EQUAL(point.keys, 2);
	world.revision = point.up_revision;
	dpa_point_fini(&point);
	start_saver(&world, 10, 0);
	CU_ASSERT_EQUAL(status_of(&world).disk_revision, 3);
	(void)usleep(100000);
	CU_ASSERT_EQUAL(status_of(&world).disk_writes, 0);
	put(&world, "/p/c");
	CU_ASSERT(wait_for_writes(&world, 1));
	CU_ASSERT_EQUAL(status_of(&world).disk_revision, 4);
	close_world(&world);
	clear_folder();
}

static void what_is_not_loaded_is_not_written(void)
{
	struct world world;

	open_world(&world);
	start_saver(&world, 10, 0);
	signal_saver(&world);
	(void)usleep(50000);
	close_world(&world);
	CU_ASSERT_EQUAL(access(in_folder(NEWEST), F_OK), -1);
	clear_folder();
}

static void *change_much(void *arg)
{
	struct world *world = arg;
	char key[32];

	for (int i = 0; i < 3000; i++) {
		(void)snprintf(key, sizeof(key), "/p/%d", i % 700);
		put(world, key);
	}
	return NULL;
}

static void changes_while_it_writes_are_in_the_end_written(void)
{
	struct world world;
	struct dpa_image image = {0};
	struct dpa_status status;
	struct ks_err err = {0};
	pthread_t thread;

	open_world(&world);
	begin_state(&world);
	start_saver(&world, 1, 0);
	KS_ASSERT(pthread_create(&thread, NULL, change_much, &world) == 0);
	KS_ASSERT(pthread_join(thread, NULL) == 0);
	stop_saver(&world);
	status = status_of(&world);
	CU_ASSERT(status.disk_writes >= 2);
	CU_ASSERT_EQUAL(dpa_disk_load(world.disk, &image, fault, sizeof(fault), &err), KS_OK);
	CU_ASSERT_EQUAL(image.revision, world.revision);
	CU_ASSERT_EQUAL(image.key_count, 700);
	dpa_image_fini(&image);
	close_world(&world);
	clear_folder();
}

int main(void)
{
	atomic_store(&calls_left, -1);
	(void)snprintf(folder, sizeof(folder), "/tmp/dpa-disk-XXXXXX");
	KS_ASSERT(mkdtemp(folder));
	(void)rmdir(folder);
	return tap_run(
		"dpa_disk",
		(const struct tap_test[]){
			{"the_newest_is_loaded_and_the_one_before_kept", the_newest_is_loaded_and_the_one_before_kept},
			{"a_damaged_newest_does_not_push_out_the_older_one",
			 a_damaged_newest_does_not_push_out_the_older_one},
			{"without_a_valid_one_there_is_none", without_a_valid_one_there_is_none},
			{"both_names_on_one_file_are_no_trouble", both_names_on_one_file_are_no_trouble},
			{"file_systems_without_links_work_too", file_systems_without_links_work_too},
			{"files_of_others_are_not_believed", files_of_others_are_not_believed},
			{"a_link_in_the_way_of_a_write_is_not_followed", a_link_in_the_way_of_a_write_is_not_followed},
			{"one_agent_has_the_folder", one_agent_has_the_folder},
			{"a_folder_that_cannot_be_is_said", a_folder_that_cannot_be_is_said},
			{"with_a_key_only_signed_ones_count", with_a_key_only_signed_ones_count},
			{"only_the_first_load_after_a_clean_stop_is_final",
			 only_the_first_load_after_a_clean_stop_is_final},
			{"whatever_fails_a_generation_is_left", whatever_fails_a_generation_is_left},
			{"a_limit_of_size_leaves_both", a_limit_of_size_leaves_both},
			{"a_full_disk_leaves_both", a_full_disk_leaves_both},
			{"a_kill_at_any_point_loses_nothing_that_was_saved",
			 a_kill_at_any_point_loses_nothing_that_was_saved},
			{"changes_are_gathered_and_written", changes_are_gathered_and_written},
			{"mere_progress_waits_for_its_time", mere_progress_waits_for_its_time},
			{"a_slow_disk_is_not_kept_busy", a_slow_disk_is_not_kept_busy},
			{"a_full_disk_is_an_alarm_until_it_is_not", a_full_disk_is_an_alarm_until_it_is_not},
			{"a_stop_writes_the_rest_and_says_that_it_is_all",
			 a_stop_writes_the_rest_and_says_that_it_is_all},
			{"what_is_not_loaded_is_not_written", what_is_not_loaded_is_not_written},
			{"changes_while_it_writes_are_in_the_end_written",
			 changes_while_it_writes_are_in_the_end_written},
			{NULL, NULL}});
}
