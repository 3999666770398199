/* SPDX-License-Identifier: Apache-2.0 */
/* The TLS flags, see server_tls.h. Texts are etcd's where it has any. */
#include "server_tls.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/diag.h"
#include "base/panic.h"
#include "net/address.h"

#define HOSTS_MAX 8192

/* The first URL with TLS of the lists that are listened on; NULL without one. Free it. */
static char *secure_url(const struct ks_options *options)
{
	const char *const lists[] = {options->listen_client_urls, options->listen_client_http_urls,
				     options->listen_metrics_urls};
	char *found = NULL;

	for (size_t i = 0; i < sizeof(lists) / sizeof(*lists) && !found; i++) {
		char *copy = ks_xstrdup(lists[i]), *rest = copy, *url;

		while (!found && (url = strsep(&rest, ",")))
			if (ks_address_is_secure(url))
				found = ks_xstrdup(url);
		free(copy);
	}
	return found;
}

static bool has_files(const struct ks_options *options)
{
	return *options->cert_file || *options->key_file;
}

static enum ks_status check_pair(const struct ks_options *options, const char *url, struct ks_err *err)
{
	if (!*options->cert_file != !*options->key_file)
		return ks_fail(err, KS_INVALID_ARGUMENT, "--cert-file and --key-file go together");
	if (url && !has_files(options) && !options->auto_tls)
		return ks_fail(err, KS_INVALID_ARGUMENT,
			       "TLS key/cert (--cert-file, --key-file) must be provided for client url %.100s with "
			       "HTTPS scheme (or --auto-tls)",
			       url);
	return KS_OK;
}

enum ks_status ks_server_tls_check(const struct ks_options *options, struct ks_err *err)
{
	char *url = secure_url(options), *tls12 = NULL, *tls13 = NULL;
	enum ks_status status = check_pair(options, url, err);

	if (status == KS_OK)
		status = ks_tls_ciphers(options->cipher_suites, &tls12, &tls13, err);
	free(tls12);
	free(tls13);
	free(url);
	return status;
}

/* ---- whom a certificate of our own is for ---- */

static void add_host(struct ks_buf *hosts, const char *host, size_t size)
{
	if (size == 0 || memchr(host, '%', size))
		return;
	ks_buf_printf(hosts, ",%.*s", (int)size, host);
}

/* The hosts of a list of URLs; what is listened on everywhere is no host. */
static void add_hosts(struct ks_buf *hosts, const char *urls)
{
	char *copy = ks_xstrdup(urls), *rest = copy, *url;

	while ((url = strsep(&rest, ","))) {
		const char *host = strstr(url, "://");
		size_t size;

		if (!host || strncmp(url, "unix", 4) == 0)
			continue;
		host += 3;
		if (*host == '[') {
			host++;
			size = strcspn(host, "]");
		} else {
			size = strcspn(host, ":/");
		}
		if (!(size == 7 && strncmp(host, "0.0.0.0", 7) == 0) && !(size == 2 && strncmp(host, "::", 2) == 0))
			add_host(hosts, host, size);
	}
	free(copy);
}

static char *own_hosts(const struct ks_options *options)
{
	char name[256] = "";
	struct ks_buf hosts;
	size_t size;

	ks_buf_init(&hosts, HOSTS_MAX);
	ks_buf_printf(&hosts, "localhost,127.0.0.1,::1");
	if (gethostname(name, sizeof(name) - 1) == 0)
		add_host(&hosts, name, strlen(name));
	add_hosts(&hosts, options->listen_client_urls);
	add_hosts(&hosts, options->advertise_client_urls);
	ks_buf_append(&hosts, "", 1);
	if (hosts.failed) {
		ks_buf_fini(&hosts);
		return ks_xstrdup("localhost,127.0.0.1,::1");
	}
	return (char *)ks_buf_take(&hosts, &size);
}

static struct ks_tls *start(const struct ks_options *options, struct ks_rpc *rpc, struct ks_http *http,
			    struct ks_err *err)
{
	char *hosts = own_hosts(options);
	const struct ks_tls_config config = {
		.settings =
			{
				.cert_file = options->cert_file,
				.key_file = options->key_file,
				.ca_file = options->trusted_ca_file,
				.crl_file = options->client_crl_file,
				.allowed_hostname = options->client_cert_allowed_hostname,
				.allowed_cn = options->client_cert_allowed_cn,
				.client_cert_auth = options->client_cert_auth,
				.cipher_suites = options->cipher_suites,
				.min_version = options->tls_min_version,
				.max_version = options->tls_max_version,
				.auto_dir = options->data_dir,
				.auto_hosts = hosts,
				.auto_years = options->auto_tls ? (int)options->self_signed_cert_validity : 0,
			},
		.rpc = rpc,
		.http = http,
	};
	struct ks_tls *tls = ks_tls_start(&config, err);

	free(hosts);
	return tls;
}

enum ks_status ks_server_tls_start(const struct ks_options *options, bool handed_over, struct ks_rpc *rpc,
				   struct ks_http *http, struct ks_tls **tls, struct ks_err *err)
{
	char *url = secure_url(options);
	enum ks_status status = check_pair(options, handed_over ? NULL : url, err);

	*tls = NULL;
	if (status == KS_OK && (url || handed_over) && (has_files(options) || options->auto_tls)) {
		*tls = start(options, rpc, http, err);
		status = *tls ? KS_OK : err->status;
	} else if (status == KS_OK && has_files(options)) {
		ks_diag(KS_WARN, "main", "no URL begins with https: the certificate and key files are not used");
	}
	if (status == KS_OK && *tls && options->auto_tls && has_files(options))
		ks_diag(KS_WARN, "main", "--auto-tls has no effect beside --cert-file");
	free(url);
	return status;
}
