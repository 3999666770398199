/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line and the environment: one row for each option, from which the struct, the parser, the environment's names and
 * --help are made. A flag wins over KINESHIM_ + its name in capitals ('-' becomes '_'), which wins over the default.
 * Empty variables count as not set.
 *
 * Owner: texts in a struct ks_options are borrowed from argv and the environment.
 * Errors: KS_INVALID_ARGUMENT with a text for a person.
 */
#ifndef KS_OPTIONS_H
#define KS_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/diag.h"
#include "base/status.h"

/*
 * X(kind, member, flag, default, least, most, help). Kinds: TEXT; NUMBER; BYTES (64MiB, 512k); TIME (10m, 1h30m, 500ms; in ms);
 * LEVEL and FORMAT (of the log); SWITCH (no environment, no value needed).
 */
#define KS_OPTIONS(X)                                                                                             \
	X(TEXT, endpoint, "endpoint", "sqlite://", 0, 0,                                                          \
	  "database: sqlite:// (a file in the data folder), sqlite:///path.db, "                                  \
	  "postgres://user:password@host/database")                                                               \
	X(TEXT, listen_client_urls, "listen-client-urls", "http://localhost:2379", 0, 0,                          \
	  "where clients are served, separated by commas; also unix:///path; port 0: any free one")               \
	X(TEXT, advertise_client_urls, "advertise-client-urls", "", 0, 0,                                         \
	  "what clients are told to connect to (default: the listen URLs)")                                       \
	X(TEXT, name, "name", "default", 0, 0, "name of this instance in the member list")                        \
	X(TEXT, data_dir, "data-dir", "kineshim.data", 0, 0, "folder for the SQLite file")                        \
	X(NUMBER, max_txn_ops, "max-txn-ops", "128", 1, 1000000, "operations in one list of a transaction")       \
	X(BYTES, max_request_bytes, "max-request-bytes", "1572864", 1024, 512 << 20, "size of one write request") \
	X(BYTES, value_cache_bytes, "value-cache-bytes", "256MiB", 0, INT64_MAX,                                  \
	  "values kept in memory; others are read from the database when they are needed")                        \
	X(TIME, watch_progress_notify_interval, "watch-progress-notify-interval", "10m", 100, INT64_MAX / 2,      \
	  "pause between progress notifications of watches that asked for them")                                  \
	X(LEVEL, log_level, "log-level", "info", 0, 0, "least level that is logged: debug, info, warn, error")    \
	X(FORMAT, log_format, "log-format", "json", 0, 0, "form of log lines: json, console")                     \
	X(SWITCH, version, "version", "", 0, 0, "print the version; with --verbose also how it was built")        \
	X(SWITCH, verbose, "verbose", "", 0, 0, "see --version")                                                  \
	X(SWITCH, help, "help", "", 0, 0, "print this text")

#define KS_OPTION_TYPE_TEXT const char *
#define KS_OPTION_TYPE_NUMBER int64_t
#define KS_OPTION_TYPE_BYTES int64_t
#define KS_OPTION_TYPE_TIME int64_t
#define KS_OPTION_TYPE_LEVEL enum ks_diag_level
#define KS_OPTION_TYPE_FORMAT enum ks_diag_format
#define KS_OPTION_TYPE_SWITCH bool

struct ks_options {
#define KS_OPTION_MEMBER(kind, member, flag, value, least, most, help) KS_OPTION_TYPE_##kind member;
	KS_OPTIONS(KS_OPTION_MEMBER)
#undef KS_OPTION_MEMBER
};

/* Reads the environment, then argv. 'getenv_fn' is getenv but for tests. */
enum ks_status ks_options_parse(struct ks_options *options, int argc, char *const argv[],
				char *(*getenv_fn)(const char *name), struct ks_err *err) KS_MUST_CHECK;
void ks_options_help(FILE *out);
void ks_options_version(FILE *out, bool verbose);
/* Warns on the log of variables that look like ours and are not; these are typing errors. */
void ks_options_check_environment(char *const *environment);

/* "64MiB", "512k", "1G", "100": powers of 1024. "1h30m", "500ms", "0": to milliseconds. False when malformed or too large. */
bool ks_parse_bytes(const char *text, int64_t *bytes);
bool ks_parse_time(const char *text, int64_t *ms);

#endif
