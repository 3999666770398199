/* SPDX-License-Identifier: Apache-2.0 */
/* What must fit together in dpagent's options, and what is said about them; see kineshim/options_priv.h. */
#include "options_priv.h"

#include <string.h>
#include <sys/stat.h>

static enum ks_status check_upstream(const struct ks_options *options, struct ks_err *err)
{
	const char *colon = strchr(options->upstream_user, ':');

	if (!*options->upstream)
		return ks_fail(err, KS_INVALID_ARGUMENT,
			       "--upstream is missing: the etcd to mirror, for instance https://etcd.example:2379");
	if (strchr(options->upstream, '@'))
		return ks_fail(err, KS_INVALID_ARGUMENT,
			       "upstream: a URL has no place for users; there are --upstream-user and "
			       "--upstream-password-file");
	if (colon && ks_option_given_as(options, "upstream-user") == FROM_FLAG)
		return ks_fail(
			err, KS_INVALID_ARGUMENT,
			"--upstream-user: everybody on this machine can read a password on the command line; use "
			"--upstream-password-file, or " KS_ENV_PREFIX "UPSTREAM_USER=name:password");
	if (*options->upstream_password_file && (colon || !*options->upstream_user))
		return ks_fail(err, KS_INVALID_ARGUMENT,
			       "upstream-password-file goes with an upstream-user without a password");
	if (*options->upstream_user && !colon && !*options->upstream_password_file)
		return ks_fail(err, KS_INVALID_ARGUMENT, "upstream-user needs a password: upstream-password-file");
	if (!*options->upstream_cert != !*options->upstream_key)
		return ks_fail(err, KS_INVALID_ARGUMENT, "upstream-cert and upstream-key go together");
	return KS_OK;
}

static enum ks_status check_role(const struct ks_options *options, struct ks_err *err)
{
	if (options->register_node && !*options->register_prefix)
		return ks_fail(err, KS_INVALID_ARGUMENT, "register-prefix is empty; --register=false switches it off");
	if (strlen(options->node_id) > 128 || strchr(options->node_id, '/'))
		return ks_fail(err, KS_INVALID_ARGUMENT, "node-id: at most 128 bytes without a slash");
	if (!*options->data_dir)
		return ks_fail(err, KS_INVALID_ARGUMENT, "data-dir is empty");
	return KS_OK;
}

enum ks_status ks_options_settle(struct ks_options *options, char *(*getenv_fn)(const char *name), struct ks_err *err)
{
	enum ks_status status = check_upstream(options, err);

	(void)getenv_fn;
	if (status == KS_OK)
		status = check_role(options, err);
	options->upstream = ks_option_list(options, options->upstream);
	options->listen_client_urls = ks_option_list(options, options->listen_client_urls);
	options->advertise_client_urls = ks_option_list(options, options->advertise_client_urls);
	options->listen_client_http_urls = ks_option_list(options, options->listen_client_http_urls);
	options->listen_metrics_urls = ks_option_list(options, options->listen_metrics_urls);
	if (!*options->advertise_client_urls)
		options->advertise_client_urls = options->listen_client_urls;
	return status;
}

static void warn_readable(const char *path, const char *what)
{
	struct stat stat_buf;

	if (*path && stat(path, &stat_buf) == 0 && stat_buf.st_mode & S_IROTH)
		ks_diag(KS_WARN, "main", "everybody may read the %s; chmod it to 0600 path=%s", what, path);
}

void ks_options_report_own(const struct ks_options *options)
{
	warn_readable(options->upstream_password_file, "password file");
	warn_readable(options->upstream_key, "key for upstream");
	warn_readable(options->sign_key, "signing key");
}
