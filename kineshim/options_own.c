/* SPDX-License-Identifier: Apache-2.0 */
/* What must fit together in kineshim's options, and what is said about them; see options_priv.h. */
#include "options_priv.h"

#include <string.h>
#include <sys/stat.h>

#include "endpoint.h"

static enum ks_status settle_endpoint(struct ks_options *options, char *(*getenv_fn)(const char *name),
				      struct ks_err *err)
{
	char endpoint[KS_ENDPOINT_MAX];
	enum ks_status status;

	if (*options->endpoint_file) {
		if (ks_options_given(options, "endpoint"))
			return ks_fail(err, KS_INVALID_ARGUMENT, "endpoint and endpoint-file exclude each other");
		status = ks_endpoint_read(options->endpoint_file, endpoint, err);
	} else {
		options->password_shown = ks_option_given_as(options, "endpoint") == FROM_FLAG &&
					  ks_endpoint_has_password(options->endpoint);
		status = ks_endpoint_expand(options->endpoint, getenv_fn, endpoint, err);
	}
	if (status == KS_OK)
		options->endpoint = ks_options_keep(options, endpoint);
	return status;
}

/*
 * Three servers that are started with an etcd cluster's flags, each on a SQLite file of its own, would answer their clients from
 * three different stores. That must not pass as a cluster.
 */
static enum ks_status check_cluster(const struct ks_options *options, struct ks_err *err)
{
	unsigned members = 1;

	for (const char *c = options->initial_cluster; *c; c++)
		members += *c == ',';
	if (members == 1 || strncasecmp(options->endpoint, "sqlite:", 7) != 0)
		return KS_OK;
	return ks_fail(
		err, KS_INVALID_ARGUMENT,
		"initial-cluster names %u members, but a SQLite file serves one instance; give all of them the same "
		"database with --endpoint postgres://… or mysql://…",
		members);
}

/* etcd's own rule and words: their election timeout decides what our leases may be. */
static enum ks_status check_election(const struct ks_options *options, struct ks_err *err)
{
	if (options->heartbeat_interval * 5 <= options->election_timeout)
		return KS_OK;
	return ks_fail(err, KS_INVALID_ARGUMENT,
		       "--election-timeout[%lldms] should be at least as 5 times as --heartbeat-interval[%lldms]",
		       (long long)options->election_timeout, (long long)options->heartbeat_interval);
}

enum ks_status ks_options_settle(struct ks_options *options, char *(*getenv_fn)(const char *name), struct ks_err *err)
{
	enum ks_status status = settle_endpoint(options, getenv_fn, err);

	if (status == KS_OK)
		status = check_cluster(options, err);
	if (status == KS_OK)
		status = check_election(options, err);
	options->listen_client_urls = ks_option_list(options, options->listen_client_urls);
	options->advertise_client_urls = ks_option_list(options, options->advertise_client_urls);
	options->listen_client_http_urls = ks_option_list(options, options->listen_client_http_urls);
	options->listen_metrics_urls = ks_option_list(options, options->listen_metrics_urls);
	if (!*options->advertise_client_urls)
		options->advertise_client_urls = options->listen_client_urls;
	return status;
}

void ks_options_report_own(const struct ks_options *options)
{
	struct stat stat_buf;

	if (options->password_shown)
		ks_diag(KS_WARN, "main",
			"the password in --endpoint is hidden now, but every user of this machine could read it at the "
			"start; use --endpoint-file or ${NAME} in it");
	if (*options->endpoint_file && stat(options->endpoint_file, &stat_buf) == 0 && stat_buf.st_mode & S_IROTH)
		ks_diag(KS_WARN, "main",
			"everybody may read the endpoint file, and a password in it; chmod it to 0600 path=%s",
			options->endpoint_file);
}
