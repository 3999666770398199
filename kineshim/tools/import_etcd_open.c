/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening an etcd: its endpoints, TLS, and who it is.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/panic.h"
#include "tools/import_etcd.h"

#define ENDPOINTS_MAX 64
#define FIRST_CONTACT_MS 4000 /* a wrong address should not take long to tell */
#define PEM_MAX (4u << 20)
#define SYSTEM_ROOTS "/etc/ssl/certs/ca-certificates.crt"

static enum ks_status read_pem(const char *path, char **text, struct ks_err *err)
{
	FILE *file;
	size_t size;

	*text = NULL;
	if (!path)
		return KS_OK;
	file = fopen(path, "re");
	if (!file)
		return ks_fail(err, KS_INVALID_ARGUMENT, "cannot read %s: %s", path, strerror(errno));
	*text = ks_xmalloc(PEM_MAX + 1);
	size = fread(*text, 1, PEM_MAX, file);
	(*text)[size] = '\0';
	if (ferror(file) || size == PEM_MAX || size == 0) {
		(void)fclose(file);
		return ks_fail(err, KS_INVALID_ARGUMENT, "%s is no PEM file, or cannot be read", path);
	}
	(void)fclose(file);
	return KS_OK;
}

static void forget_secret(char *text)
{
	if (text)
		explicit_bzero(text, strlen(text));
	free(text);
}

/* "etcd://a:1,b:2", "http://a:1,http://b:2", "https://a" → the names that the client takes. False: not like that. */
static bool split_endpoints(const struct ks_import_source_config *config, char *copy, char *names[ENDPOINTS_MAX],
			    size_t *count)
{
	bool plain = strncmp(copy, "etcd://", 7) == 0;
	const char *scheme = config->roots_file || config->cert_file ? "https://" : "http://";
	char *rest = plain ? copy + 7 : copy, *item;

	while ((item = strsep(&rest, ","))) {
		const char *host = item, *slashes = strstr(item, "://");
		const char *bracket;
		size_t size;

		if (*count == ENDPOINTS_MAX || strchr(item, '@'))
			return false;
		if (slashes) {
			if (strncmp(item, "http://", 7) != 0 && strncmp(item, "https://", 8) != 0)
				return false;
			scheme = item[4] == 's' ? "https://" : "http://";
			host = slashes + 3;
		} else if (!plain && *count == 0) {
			return false;
		}
		if (!*host || strchr(host, '/'))
			return false;
		bracket = strrchr(host, ']');
		size = strlen(host) + 32;
		names[*count] = ks_xmalloc(size);
		(void)snprintf(names[*count], size, "%s%s%s", scheme, host,
			       strchr(bracket ? bracket : host, ':') ? "" : ":2379");
		(*count)++;
	}
	return *count > 0;
}

static enum ks_status open_client(struct ks_import_source *source, char *const *names, size_t count, struct ks_err *err)
{
	const struct ks_import_source_config *config = source->config;
	struct etcdc_config client = {
		.endpoints = (const char *const *)names,
		.endpoint_count = count,
		.require_leader =
			true, /* so that a member that was cut off ends the watch instead of keeping it silent */
		.user = config->user,
		.password = config->password,
	};
	char *roots = NULL, *cert = NULL, *key = NULL;
	const char *roots_file = config->roots_file;
	struct etcdc_err failed = {0};
	enum ks_status status;

	if (!roots_file && strncmp(names[0], "https://", 8) == 0 && access(SYSTEM_ROOTS, R_OK) == 0)
		roots_file = SYSTEM_ROOTS;
	status = read_pem(roots_file, &roots, err);
	if (status == KS_OK)
		status = read_pem(config->cert_file, &cert, err);
	if (status == KS_OK)
		status = read_pem(config->key_file, &key, err);
	client.tls_roots = roots;
	client.tls_cert = cert;
	client.tls_key = key;
	if (status == KS_OK) {
		source->client = etcdc_open(&client, &failed);
		if (!source->client)
			status = ks_fail(err, failed.status, "%s", failed.text);
	}
	free(roots);
	free(cert);
	forget_secret(key);
	return status;
}

/* ---- calls on it ---- */

enum ks_status ks_import_etcd_failed(const struct ks_import_source *source, const char *what,
				     const struct etcdc_err *failed, struct ks_err *err)
{
	if (failed->status == KS_PERMISSION_DENIED)
		return ks_fail(err, failed->status, "%s: %s: %s; it takes a user with the role root", source->place,
			       what, failed->text);
	return ks_fail(err, failed->status, "%s: %s: %s", source->place, what, failed->text);
}

enum ks_status ks_import_etcd_ask_head(struct ks_import_source *source, int timeout_ms, uint64_t *cluster_id,
				       int64_t *revision, struct ks_err *err)
{
	struct etcdc_call_options options = {.timeout_ms = timeout_ms};
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
	const Etcdserverpb__RangeResponse *response;
	struct etcdc_err failed = {0};
	uint8_t first[1] = {0};
	void *answer;
	enum ks_status status;

	request.key = (ProtobufCBinaryData){1, first};
	request.limit = 1;
	request.keys_only = true;
	if (etcdc_unary(source->client, &etcdc_method_range, &request, &options, &answer, &failed) != KS_OK)
		return ks_import_etcd_failed(source, "range", &failed, err);
	response = answer;
	status = response->header ? KS_OK : ks_fail(err, KS_INTERNAL, "%s: an answer has no header", source->place);
	if (status == KS_OK) {
		*cluster_id = response->header->cluster_id;
		*revision = response->header->revision;
	}
	etcdc_free(answer);
	return status;
}

/* ---- open and close ---- */

enum ks_status ks_import_etcd_open(const struct ks_import_source_config *config, struct ks_import_source **source,
				   struct ks_err *err)
{
	struct ks_import_source *opened = ks_xcalloc(1, sizeof(*opened));
	char *copy = ks_xstrdup(config->url), *names[ENDPOINTS_MAX] = {0};
	enum ks_status status;
	int64_t revision;
	size_t count = 0;

	*source = NULL;
	opened->config = config;
	opened->fd = -1;
	ks_backoff_init(&opened->backoff, 100, 2000, (uint64_t)ks_import_etcd_now_ms());
	if (split_endpoints(config, copy, names, &count)) {
		(void)snprintf(opened->place, sizeof(opened->place) - 40, "%s%s", names[0], count > 1 ? ",…" : "");
		status = open_client(opened, names, count, err);
	} else {
		status = ks_fail(err, KS_INVALID_ARGUMENT,
				 "the source is etcd://HOST:PORT[,HOST:PORT…], or the same with http:// or https://; "
				 "a user's name goes to --from-user");
	}
	if (status == KS_OK)
		status = ks_import_etcd_ask_head(opened, FIRST_CONTACT_MS, &opened->cluster_id, &revision, err);
	for (size_t i = 0; i < count; i++)
		free(names[i]);
	free(copy);
	if (status == KS_OK)
		*source = opened;
	else
		ks_import_etcd_close(opened);
	return status;
}

void ks_import_etcd_close(struct ks_import_source *source)
{
	if (!source)
		return;
	ks_import_etcd_drop_watch(source);
	ks_import_etcd_drop_snapshot(source);
	etcdc_close(source->client);
	free(source);
}
