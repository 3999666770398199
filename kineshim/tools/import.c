/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kineshim import: moves in from kine or from a running etcd, revisions kept, while those go on working. First everything that is
 * there, in one transaction; then what comes after it, until the cut-over; at the end both sides are compared, and only then a
 * server serves the database.
 *
 *	 new ──snapshot──► following ──SIGUSR1, or idle──► cutting over ──nothing new, both sides the same──► finished
 *	  ▲ killed           ▲    │ killed, or the source or the database is away: goes on from what the log says
 *	  └── nothing there  └────┘
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/duration.h"
#include "base/panic.h"
#include "endpoint.h"
#include "options.h"
#include "tools/import_source.h"
#include "tools/tools.h"

#define EXIT_USAGE 2
#define POLL_MS 200
#define PASSWORD_MAX 1024
#define BUSY_SAID_MS 5000
/* A cut-over does not fall between two writes of a client that goes on writing. */
#define QUIET_MS 1000

static const char usage[] =
	"Usage: kineshim import --from URL [--cut-over-when-idle TIME] [flags] [--endpoint URL] [--data-dir FOLDER]\n"
	"\n"
	"Fills an empty database from kine's table or from a running etcd, with their revisions, and then follows what "
	"they\n"
	"write until the cut-over. Nothing is changed there. An import that was interrupted goes on when it is run "
	"again.\n"
	"\n"
	"  --from URL          etcd://HOST:PORT[,HOST:PORT...]  an etcd, or a kineshim; also with http:// or https://\n"
	"                      kine://ENDPOINT  kine's endpoint: kine://sqlite:///var/lib/.../state.db,\n"
	"                      kine://postgres://USER:PASSWORD@HOST:PORT/DATABASE\n"
	"                      ${NAME} in it stands for that variable; KINESHIM_FROM is another way to give it\n"
	"  --from-file FILE    the URL is the first line of FILE\n"
	"  --from-table NAME   kine's table (default kine)\n"
	"  --from-user NAME    etcd with auth on: a user with the role root\n"
	"  --from-password-file FILE  his password is the first line of FILE; KINESHIM_FROM_PASSWORD is another way\n"
	"  --from-cacert, --from-cert, --from-key FILE  TLS to etcd, as etcdctl's flags without \"from-\"\n"
	"  --cut-over-when-idle TIME  cut over when the source wrote nothing for so long (\"10s\"; \"0s\": when all is "
	"there)\n"
	"\n"
	"SIGUSR1 tells it to cut over: when nothing was written on the other side for a second, both sides are "
	"compared, the\n"
	"import is finished, and servers may use the database. SIGINT and SIGTERM interrupt it. Exit status: 0 "
	"finished,\n"
	"1 not, 2 wrong usage.\n"
	"--endpoint, --endpoint-file, --data-dir, --config-file and the KINESHIM_ variables are those of the server.\n";

static atomic_bool interrupted, cut_over;

struct import {
	struct ks_options options;
	const char *from, *from_file, *from_user, *password_file, *idle;
	char url[KS_ENDPOINT_MAX], password[PASSWORD_MAX], user[256];
	struct ks_import_source_config source_config;
	const struct ks_import_source_ops *ops;
	struct ks_import_source *source;
	struct ks_import_target *target;
	int64_t idle_ms; /* -1: only when told */
	int64_t began_ms;
	bool resumed;
};

static int64_t said_ms; /* the last line of progress */

static int64_t now_ms(void)
{
	return ks_clock_now(ks_clock_system());
}

static int fail(const char *text)
{
	(void)fprintf(stderr, "kineshim import: %s\n", text);
	return EXIT_FAILURE;
}

/* ---- signals ---- */

static void on_signal(int number)
{
	if (number == SIGUSR1)
		atomic_store(&cut_over, true);
	else
		atomic_store(&interrupted, true);
}

static void catch_signals(void)
{
	struct sigaction action = {.sa_handler = on_signal};

	(void)sigemptyset(&action.sa_mask);
	(void)sigaction(SIGUSR1, &action, NULL);
	(void)sigaction(SIGINT, &action, NULL);
	(void)sigaction(SIGTERM, &action, NULL);
	(void)signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error like others */
	(void)signal(SIGPIPE, SIG_IGN);
}

static bool give_up(void)
{
	return atomic_load(&interrupted);
}

/* ---- the command line ---- */

static bool is_help(const char *argument)
{
	return strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0;
}

/* Takes our own flags out; what is left is the server's. False: a value is missing. */
static bool take_own(struct import *import, int *argc, char *argv[])
{
	struct ks_import_source_config *config = &import->source_config;
	const struct {
		const char *flag;
		const char **value;
	} flags[] = {
		{"--from", &import->from},
		{"--from-file", &import->from_file},
		{"--from-table", &config->table},
		{"--from-user", &import->from_user},
		{"--from-password-file", &import->password_file},
		{"--from-cacert", &config->roots_file},
		{"--from-cert", &config->cert_file},
		{"--from-key", &config->key_file},
		{"--cut-over-when-idle", &import->idle},
	};
	int kept = 1;

	for (int i = 1; i < *argc; i++) {
		size_t size = strcspn(argv[i], "="), f = 0;

		while (f < sizeof(flags) / sizeof(flags[0]) &&
		       (strlen(flags[f].flag) != size || strncmp(argv[i], flags[f].flag, size) != 0))
			f++;
		if (f == sizeof(flags) / sizeof(flags[0]))
			argv[kept++] = argv[i];
		else if (argv[i][size] == '=')
			*flags[f].value = argv[i] + size + 1;
		else if (i + 1 < *argc)
			*flags[f].value = argv[++i];
		else
			return false;
	}
	*argc = kept;
	argv[kept] = NULL;
	return true;
}

static enum ks_status read_password(struct import *import, struct ks_err *err)
{
	const char *variable = getenv("KINESHIM_FROM_PASSWORD"), *colon;
	char line[KS_ENDPOINT_MAX];
	enum ks_status status = KS_OK;

	if (!import->from_user)
		return KS_OK;
	/* As with etcdctl, a password may stand behind the name; main.c has hidden it from others. */
	colon = strchr(import->from_user, ':');
	(void)snprintf(import->user, sizeof(import->user), "%.*s",
		       colon ? (int)(colon - import->from_user) : (int)strlen(import->from_user), import->from_user);
	if (import->password_file) {
		status = ks_endpoint_read(import->password_file, line, err);
		if (status == KS_OK && strlen(line) >= sizeof(import->password))
			status = ks_fail(err, KS_INVALID_ARGUMENT, "the password is too long");
		else if (status == KS_OK)
			memcpy(import->password, line, strlen(line) + 1);
		else
			(void)ks_fail(err, status, "from-password-file: cannot read %s", import->password_file);
		explicit_bzero(line, sizeof(line));
	} else if (colon) {
		(void)snprintf(import->password, sizeof(import->password), "%s", colon + 1);
	} else if (variable) {
		(void)snprintf(import->password, sizeof(import->password), "%s", variable);
	}
	import->source_config.user = import->user;
	import->source_config.password = import->password;
	return status;
}

static enum ks_status read_url(struct import *import, struct ks_err *err)
{
	if (import->from && import->from_file)
		return ks_fail(err, KS_INVALID_ARGUMENT, "from and from-file exclude each other");
	if (!import->from && !import->from_file)
		import->from = getenv("KINESHIM_FROM");
	if (import->from_file)
		return ks_endpoint_read(import->from_file, import->url, err);
	if (!import->from || !*import->from)
		return ks_fail(err, KS_INVALID_ARGUMENT, "from where? --from is missing; see kineshim import --help");
	return ks_endpoint_expand(import->from, getenv, import->url, err);
}

static enum ks_status settle_flags(struct import *import, struct ks_err *err)
{
	struct ks_import_source_config *config = &import->source_config;
	enum ks_status status = read_url(import, err);
	int64_t ns;

	if (status == KS_OK)
		status = read_password(import, err);
	if (status != KS_OK)
		return status;
	config->url = import->url;
	if (!config->table)
		config->table = "kine";
	if (!config->cert_file != !config->key_file)
		return ks_fail(err, KS_INVALID_ARGUMENT, "from-cert and from-key go together");
	import->idle_ms = -1;
	if (import->idle) {
		if (ks_duration_parse(import->idle, &ns, err) != KS_OK || ns < 0)
			return ks_fail(err, KS_INVALID_ARGUMENT,
				       "cut-over-when-idle: \"%.40s\" is no time like \"10s\"", import->idle);
		import->idle_ms = ns / KS_NS_PER_MS;
	}
	import->ops = strncmp(import->url, "kine://", 7) == 0 ? &ks_import_kine : &ks_import_etcd;
	return KS_OK;
}

/* ---- what is said ---- */

static void said(const char *text)
{
	(void)fprintf(stderr, "kineshim import: %s\n", text);
}

/* On a terminal every second, else every ten. */
static bool may_say(void)
{
	int64_t now = now_ms();

	if (now - said_ms < (isatty(STDERR_FILENO) ? 1000 : 10000))
		return false;
	said_ms = now;
	return true;
}

static void say_part(const char *what, uint64_t done, uint64_t total)
{
	if (may_say())
		(void)fprintf(stderr, "kineshim import: %s: %" PRIu64 " of %" PRIu64 ", %" PRIu64 "%%\n", what, done,
			      total, total ? done * 100 / total : 0);
}

static void say_following(struct import *import, int64_t newest)
{
	const struct ks_import_known *known = ks_import_target_known(import->target);
	int64_t reached = import->ops->reached(import->source);

	(void)fprintf(stderr,
		      "kineshim import: %s: %" PRIu64 " puts, %" PRIu64 " deletes, %.1f MB, revision %" PRId64
		      ", %" PRId64 " behind\n",
		      atomic_load(&cut_over) ? "cutting over" : "following", known->puts, known->deletes,
		      (double)known->bytes / 1e6, reached, newest > reached ? newest - reached : 0);
}

/* ---- the parts ---- */

/* Where, behind what it is: see describe. The mark comes from a database that people can edit. */
static const char *place_of(const char *source)
{
	const char *blank = strchr(source, ' ');

	return blank ? blank + 1 : source;
}

/* The same source as before? The first word of the mark says what it was. */
static enum ks_status check_source(const struct import *import, const char *now, struct ks_err *err)
{
	const char *before = ks_import_target_known(import->target)->source;
	size_t size = strcspn(before, " ");

	if (strncmp(before, now, size) == 0 && (now[size] == ' ' || !now[size]))
		return KS_OK;
	return ks_fail(
		err, KS_FAILED_PRECONDITION,
		"%s holds an unfinished import from \"%s\", and this is \"%s\"; another source needs a new database",
		ks_import_target_name(import->target), before, now);
}

static enum ks_status first_part(struct import *import, const char *source, struct ks_err *err)
{
	const struct ks_import_known *known = ks_import_target_known(import->target);
	int64_t began_ms = now_ms();
	enum ks_status status = import->ops->begin(import->source, import->target, err);

	if (status == KS_OK)
		status = ks_import_target_load(import->target, source, import->ops->next, import->source,
					       import->ops->next_err(import->source), err);
	if (status == KS_OK)
		(void)fprintf(stderr,
			      "kineshim import: snapshot taken over: revision %" PRId64 ", %" PRIu64 " puts, %" PRIu64
			      " deletes, %.1f MB, in %.1f s\n",
			      known->revision, known->puts, known->deletes, (double)known->bytes / 1e6,
			      (double)(now_ms() - began_ms) / 1000);
	return status;
}

static enum ks_status open_both(struct import *import, struct ks_err *err)
{
	struct ks_import_target_config config = {
		.options = &import->options,
		.want_keys = import->ops->counts_versions,
		.give_up = give_up,
		.said = said,
	};
	char source[KS_IMPORT_SOURCE_MAX];
	enum ks_status status = ks_import_target_open(&config, &import->target, err);

	if (status == KS_OK)
		status = import->ops->open(&import->source_config, &import->source, err);
	if (status != KS_OK)
		return status;
	import->ops->describe(import->source, source);
	import->resumed = ks_import_target_known(import->target)->begun;
	if (!import->resumed) {
		status = first_part(import, source, err);
	} else {
		status = check_source(import, source, err);
		if (status == KS_OK)
			(void)fprintf(stderr, "kineshim import: goes on behind revision %" PRId64 "\n",
				      ks_import_target_known(import->target)->revision);
	}
	return status == KS_OK ? import->ops->follow(import->source, import->target, err) : status;
}

/* The last part, with nobody writing. KS_ABORTED: somebody does. */
static enum ks_status finish(struct import *import, struct ks_err *err)
{
	const struct ks_import_source_ops *ops = import->ops;
	struct ks_import_known *known = ks_import_target_known(import->target);
	struct ks_hash_result hash = {0};
	struct ks_store_stats stats = {0};
	char proof[128];
	int64_t newest = 0;
	enum ks_status status = ops->settle(import->source, import->target, err);

	if (status == KS_OK)
		status = ks_import_flush(import->target, err);
	if (status == KS_OK)
		status = ks_import_target_check(import->target, &stats, &hash, err);
	if (status == KS_OK)
		status = ops->verify(import->source, import->target, &hash, proof, err);
	if (status == KS_OK)
		status = ks_import_target_finish(import->target, ops->reached(import->source), err);
	if (status != KS_OK)
		return status;
	(void)printf("imported %s into %s: revision %" PRId64 ", compacted %" PRId64
		     ", %zu keys, %zu records, %zu leases, "
		     "%s, in %" PRId64 ".%03d s\n"
		     "Now start kineshim with this --endpoint, and give the clients its URL instead of the other.\n",
		     place_of(known->source), ks_import_target_name(import->target), known->revision,
		     known->compact_revision, stats.keys, stats.records, stats.leases, proof,
		     (now_ms() - import->began_ms) / 1000, (int)((now_ms() - import->began_ms) % 1000));
	/* What was written since then would be missed by nobody but its writer. */
	if (ops->head(import->source, &newest, err) == KS_OK && newest > ops->reached(import->source))
		(void)fprintf(stderr,
			      "kineshim import: WARNING: the source is written to: its revisions %" PRId64
			      " to %" PRId64 " came after the cut-over and are not here\n",
			      ops->reached(import->source) + 1, newest);
	return fflush(stdout) == 0 ? KS_OK : ks_fail(err, KS_UNKNOWN, "cannot write: %s", strerror(errno));
}

static bool quiet_enough(const struct import *import, int64_t quiet_ms)
{
	return (atomic_load(&cut_over) && quiet_ms >= QUIET_MS) ||
	       (import->idle_ms >= 0 && quiet_ms >= import->idle_ms);
}

static enum ks_status follow(struct import *import, struct ks_err *err)
{
	const struct ks_import_source_ops *ops = import->ops;
	int64_t newest = 0, looked_ms = 0, busy_ms = 0, moved_ms = now_ms(), last = -1;
	enum ks_status status = KS_OK;

	(void)fprintf(stderr, "kineshim import: following; kill -USR1 %ld cuts over\n", (long)getpid());
	while (status == KS_OK) {
		bool there;

		status = ops->poll(import->source, import->target, POLL_MS, err);
		if (status == KS_OK)
			status = ks_import_flush(import->target, err);
		if (status != KS_OK)
			break;
		if (give_up())
			return ks_fail(err, KS_CANCELLED, "interrupted at revision %" PRId64 "; run it again to go on",
				       ops->reached(import->source));
		if (ops->reached(import->source) != last) {
			last = ops->reached(import->source);
			moved_ms = now_ms();
		}
		/* The head is asked for once a second, and always before the end. */
		there = false;
		if (now_ms() - looked_ms >= 1000 || atomic_load(&cut_over) || import->idle_ms >= 0) {
			looked_ms = now_ms();
			there = ops->head(import->source, &newest, err) == KS_OK && newest == last;
		}
		if (may_say())
			say_following(import, newest);
		if (!there || !quiet_enough(import, now_ms() - moved_ms))
			continue;
		status = finish(import, err);
		if (status == KS_OK)
			return KS_OK;
		if (status != KS_ABORTED && status != KS_UNAVAILABLE)
			break;
		if (now_ms() - busy_ms >= BUSY_SAID_MS) {
			busy_ms = now_ms();
			(void)fprintf(stderr, "kineshim import: cannot cut over yet: %s\n", err->text);
		}
		status = KS_OK;
	}
	return status;
}

static int run(struct import *import)
{
	struct ks_err err = {0};
	enum ks_status status;

	import->began_ms = said_ms = now_ms();
	catch_signals();
	status = open_both(import, &err);
	if (status == KS_OK)
		status = follow(import, &err);
	import->ops->close(import->source);
	ks_import_target_close(import->target);
	return status == KS_OK ? EXIT_SUCCESS : fail(err.text);
}

int ks_tool_import(int argc, char *argv[])
{
	struct import *import = ks_xcalloc(1, sizeof(*import));
	struct ks_err err = {0};
	bool help = false;
	int code = EXIT_USAGE;

	import->source_config.give_up = give_up;
	import->source_config.said = said;
	import->source_config.progress = say_part;
	for (int i = 1; i < argc; i++)
		help = help || is_help(argv[i]);
	if (help) {
		(void)fputs(usage, stdout);
		code = fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
	} else if (!take_own(import, &argc, argv)) {
		(void)fputs(usage, stderr);
	} else if (ks_options_parse(&import->options, argc, argv, getenv, &err) != KS_OK ||
		   settle_flags(import, &err) != KS_OK) {
		(void)fail(err.text);
	} else {
		ks_diag_setup(KS_ERROR, KS_DIAG_TEXT); /* what fails is said once, by us */
		code = run(import);
	}
	ks_options_fini(&import->options);
	explicit_bzero(import->password, sizeof(import->password));
	explicit_bzero(import->url, sizeof(import->url));
	free(import);
	return code;
}
