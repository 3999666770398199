/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kineshim restore FILE: an etcd snapshot into an empty database, all of it or nothing: the file is checked to its end before
 * the database is touched, and then everything goes in as one transaction. A restore that was killed leaves an empty log.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/panic.h"
#include "log/entry.h"
#include "options.h"
#include "tools/restore_source.h"
#include "tools/snapshot_sum.h"
#include "tools/tools.h"

#define EXIT_USAGE 2
#define PROGRESS_MS 2000
#define PROGRESS_ROWS 4096
#define LEASES_AT_ONCE 256

static const char usage[] =
	"Usage: kineshim restore FILE [--skip-hash-check] [--endpoint URL] [--data-dir FOLDER]\n"
	"\n"
	"Fills an empty database with an etcd snapshot: keys with all their revisions, leases, users and roles. FILE "
	"is what\n"
	"`etcdctl snapshot save` wrote, of etcd or of kineshim, or the file member/snap/db of an etcd that is "
	"stopped.\n"
	"\n"
	"  --skip-hash-check  do not compare FILE with the checksum at its end\n"
	"\n"
	"--endpoint, --endpoint-file, --data-dir, --config-file and the KINESHIM_ variables are those of the server.\n"
	"No server may use the database meanwhile. Nothing is changed when something fails.\n";

struct restore {
	const char *path;
	bool skip_hash_check;
	struct ks_options options;
	char endpoint[1024]; /* without its password */
	int fd;
	uint64_t size; /* of the database in the file */
	struct ks_restore_source *source;
	uint64_t rows;
	struct sqlb_lease *leases; /* those that were restored */
	size_t lease_count, lease_room;
	int64_t began_ms, said_ms;
};

static int64_t now_ms(void)
{
	return ks_clock_now(ks_clock_system());
}

static int fail(const char *text)
{
	(void)fprintf(stderr, "kineshim restore: %s\n", text);
	return EXIT_FAILURE;
}

/* ---- the command line ---- */

/* Takes our own arguments out; what is left is the server's. False: wrong. */
static bool take_own(struct restore *restore, int *argc, char *argv[])
{
	int kept = 1;

	for (int i = 1; i < *argc; i++) {
		if (strcmp(argv[i], "--skip-hash-check") == 0 || strcmp(argv[i], "--skip-hash-check=true") == 0)
			restore->skip_hash_check = true;
		else if (strcmp(argv[i], "--skip-hash-check=false") == 0)
			restore->skip_hash_check = false;
		else if (!restore->path && kept == 1 && argv[i][0] != '-')
			restore->path = argv[i];
		else
			argv[kept++] = argv[i];
	}
	*argc = kept;
	argv[kept] = NULL;
	return restore->path != NULL;
}

static bool asks_for_help(int argc, char *const argv[])
{
	for (int i = 1; i < argc; i++)
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
			return true;
	return false;
}

/* ---- the file ---- */

static enum ks_status check_sum(struct restore *restore, uint64_t size, struct ks_err *err)
{
	bool summed;
	enum ks_status status =
		ks_snapshot_sum_check(restore->fd, restore->path, restore->skip_hash_check, &size, &summed, err);

	restore->size = size;
	if (status == KS_DATA_LOSS && size % 512 == 0) { /* the sum alone is wrong */
		size_t used = strlen(err->text);

		(void)snprintf(err->text + used, sizeof(err->text) - used,
			       " (--skip-hash-check takes it all the same)");
	}
	if (status == KS_OK && !summed)
		(void)fprintf(stderr, "kineshim restore: %s has no checksum at its end: taken as a member's own file\n",
			      restore->path);
	return status;
}

static enum ks_status open_file(struct restore *restore, struct ks_err *err)
{
	struct stat info;
	int64_t writer;
	enum ks_status status;

	restore->fd = open(restore->path, O_RDONLY | O_CLOEXEC);
	if (restore->fd < 0 || fstat(restore->fd, &info) != 0)
		return ks_fail(err, KS_NOT_FOUND, "cannot open %s: %s", restore->path, strerror(errno));
	if (!S_ISREG(info.st_mode))
		return ks_fail(err, KS_INVALID_ARGUMENT, "%s is not a file", restore->path);
	if (getrandom(&writer, sizeof(writer), 0) != sizeof(writer))
		return ks_fail(err, KS_UNAVAILABLE, "the system has no random numbers");
	status = check_sum(restore, (uint64_t)info.st_size, err);
	return status == KS_OK ? ks_restore_source_open(restore->fd, restore->size, writer, &restore->source, err)
			       : status;
}

/* ---- the database ---- */

static void say_progress(struct restore *restore)
{
	const struct ks_restore_totals *totals = ks_restore_source_totals(restore->source);
	int64_t now = now_ms();

	if (now - restore->said_ms < PROGRESS_MS)
		return;
	restore->said_ms = now;
	(void)fprintf(stderr, "kineshim restore: %" PRIu64 " of %" PRIu64 " rows, %" PRIu64 "%%, after %" PRId64 " s\n",
		      restore->rows, totals->rows, restore->rows * 100 / totals->rows,
		      (now - restore->began_ms) / 1000);
}

static void keep_lease(struct restore *restore, const struct sqlb_row *row)
{
	if (restore->lease_count == restore->lease_room) {
		restore->lease_room = restore->lease_room ? 2 * restore->lease_room : LEASES_AT_ONCE;
		restore->leases = ks_xrealloc(restore->leases, restore->lease_room * sizeof(*restore->leases));
	}
	restore->leases[restore->lease_count++] =
		(struct sqlb_lease){.id = row->lease, .ttl_ms = ks_log_ttl_ms(row->version)};
}

static enum sqlb_next next_row(void *ctx, struct sqlb_row *row)
{
	struct restore *restore = ctx;
	enum sqlb_next next = ks_restore_source_next(restore->source, row);

	if (++restore->rows % PROGRESS_ROWS == 0)
		say_progress(restore);
	if (next == SQLB_NEXT_ROW && row->kind == KS_EFFECT_LEASE_GRANT)
		keep_lease(restore, row);
	return next;
}

/*
 * A server makes the deadlines that are missing, but not before it serves its first clients, who may ask for their leases. So
 * it is no failure when this does not work.
 */
static void make_deadlines(const struct restore *restore, const struct sqlb_ops *ops, struct sqlb_conn *conn)
{
	enum sqlb_outcome outcome = SQLB_OK;
	struct ks_err err = {0};

	for (size_t done = 0, some; done < restore->lease_count && outcome == SQLB_OK; done += some) {
		some = restore->lease_count - done;
		some = some < LEASES_AT_ONCE ? some : LEASES_AT_ONCE;
		outcome = ops->lease_ensure(conn, &restore->leases[done], some, &err);
	}
	if (outcome != SQLB_OK)
		(void)fprintf(stderr,
			      "kineshim restore: the leases have no deadlines yet, the first server makes them: %s\n",
			      err.text);
}

static enum ks_status refuse(const struct restore *restore, const struct sqlb_head *head, struct ks_err *err)
{
	return ks_fail(err, KS_FAILED_PRECONDITION,
		       "%s is not empty: its log has position %" PRId64 " and revision %" PRId64
		       "; a snapshot is restored into a new database",
		       restore->endpoint, head->position, head->revision);
}

static enum ks_status fill(struct restore *restore, const struct sqlb_ops *ops, struct sqlb_conn *conn,
			   struct ks_err *err)
{
	const struct ks_err *source_err = ks_restore_source_error(restore->source);
	struct sqlb_head head = {0};
	uint64_t cluster_id;
	enum sqlb_outcome outcome = ops->migrate(conn, &cluster_id, err);

	if (outcome == SQLB_OK)
		outcome = ops->read_head(conn, &head, err);
	if (outcome == SQLB_OK && head.position != 0)
		return refuse(restore, &head, err);
	if (outcome == SQLB_OK)
		outcome = ops->load(conn, next_row, restore, err);
	if (outcome == SQLB_CONFLICT) {
		(void)ops->read_head(conn, &head, err);
		return refuse(restore, &head, err);
	}
	if (outcome == SQLB_DOUBT)
		return ks_fail(err, KS_UNKNOWN,
			       "the database's last answer was lost; run it again: if it says that the database is not "
			       "empty, everything is there");
	if (outcome == SQLB_OK) {
		make_deadlines(restore, ops, conn);
		return KS_OK;
	}
	if (source_err->status != KS_OK)
		*err = *source_err; /* the file changed since it was checked */
	return err->status != KS_OK ? err->status : ks_fail(err, KS_UNAVAILABLE, "the database failed");
}

static enum ks_status fill_database(struct restore *restore, struct ks_err *err)
{
	const char *endpoint = restore->options.endpoint;
	const struct sqlb_ops *ops = sqlb_find(endpoint, err);
	struct sqlb_db *db = NULL;
	struct sqlb_conn *conn = NULL;
	enum ks_status status;

	sqlb_url_redact(endpoint, restore->endpoint, sizeof(restore->endpoint));
	if (!ops)
		return err->status;
	status = ops->open(endpoint, restore->options.data_dir, &db, err);
	if (status != KS_OK)
		return status;
	if (ops->connect(db, &conn, err) != SQLB_OK)
		status = err->status;
	else
		status = fill(restore, ops, conn, err);
	ops->disconnect(conn);
	ops->close(db);
	return status;
}

/* ---- the command ---- */

static int run(struct restore *restore)
{
	const struct ks_restore_totals *totals;
	struct ks_err err = {0};

	restore->began_ms = restore->said_ms = now_ms();
	if (open_file(restore, &err) != KS_OK || fill_database(restore, &err) != KS_OK)
		return fail(err.text);
	totals = ks_restore_source_totals(restore->source);
	(void)printf("restored %s into %s: revision %" PRId64 ", compacted %" PRId64 ", %" PRIu64 " records, %" PRIu64
		     " leases, %" PRIu64 " users, %" PRIu64 " roles, auth %s, in %" PRId64 ".%03d s\n",
		     restore->path, restore->endpoint, totals->revision, totals->compact_revision, totals->records,
		     totals->leases, totals->users, totals->roles, totals->auth_enabled ? "on" : "off",
		     (now_ms() - restore->began_ms) / 1000, (int)((now_ms() - restore->began_ms) % 1000));
	return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

int ks_tool_restore(int argc, char *argv[])
{
	struct restore *restore = ks_xcalloc(1, sizeof(*restore));
	struct ks_err err = {0};
	int code;

	restore->fd = -1;
	if (asks_for_help(argc, argv)) {
		(void)fputs(usage, stdout);
		code = fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
	} else if (!take_own(restore, &argc, argv)) {
		(void)fputs(usage, stderr);
		code = EXIT_USAGE;
	} else if (ks_options_parse(&restore->options, argc, argv, getenv, &err) != KS_OK) {
		(void)fail(err.text);
		code = EXIT_USAGE;
	} else {
		(void)signal(SIGXFSZ, SIG_IGN);        /* a file that may not grow is an error like others */
		ks_diag_setup(KS_ERROR, KS_DIAG_TEXT); /* what fails is said once, by us */
		code = run(restore);
	}
	ks_options_fini(&restore->options);
	ks_restore_source_close(restore->source);
	if (restore->fd >= 0)
		(void)close(restore->fd);
	free(restore->leases);
	free(restore);
	return code;
}
