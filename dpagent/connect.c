/* SPDX-License-Identifier: Apache-2.0 */
/* Upstream's client, see connect.h. Secrets are wiped when libetcdc has its copy. */
#include "connect.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"

#define FILE_MAX_BYTES (1 << 20)
#define ENDPOINTS_MAX 64

struct texts {
	char *urls, *user, *password, *roots, *cert, *key;
};

static void wipe(char *text)
{
	if (text)
		explicit_bzero(text, strlen(text));
	free(text);
}

static void texts_fini(struct texts *texts)
{
	free(texts->urls);
	free(texts->roots);
	free(texts->cert);
	wipe(texts->user);
	wipe(texts->password);
	wipe(texts->key);
}

/* The whole file as a text. KS_OK with *text NULL when no file is named. */
static enum ks_status read_text(const char *flag, const char *path, char **text, struct ks_err *err)
{
	FILE *file;
	size_t size;

	if (!*path)
		return KS_OK;
	file = fopen(path, "re");
	if (!file)
		return ks_fail(err, KS_INVALID_ARGUMENT, "--%s: %s: %s", flag, path, strerror(errno));
	*text = ks_xcalloc(1, FILE_MAX_BYTES + 1);
	size = fread(*text, 1, FILE_MAX_BYTES, file);
	if (ferror(file) || size == FILE_MAX_BYTES || strlen(*text) != size || size == 0) {
		(void)fclose(file);
		return ks_fail(err, KS_INVALID_ARGUMENT, "--%s: %s is empty, too large or no text", flag, path);
	}
	(void)fclose(file);
	return KS_OK;
}

static enum ks_status read_user(const struct ks_options *options, struct texts *texts, struct ks_err *err)
{
	char *colon;
	enum ks_status status;

	if (!*options->upstream_user)
		return KS_OK;
	texts->user = ks_xstrdup(options->upstream_user);
	colon = strchr(texts->user, ':');
	if (colon) {
		*colon = '\0';
		texts->password = ks_xstrdup(colon + 1);
		explicit_bzero(colon + 1, strlen(colon + 1));
		return KS_OK;
	}
	status = read_text("upstream-password-file", options->upstream_password_file, &texts->password, err);
	if (status == KS_OK)
		texts->password[strcspn(texts->password, "\r\n")] = '\0';
	return status;
}

static enum ks_status read_files(const struct ks_options *options, struct texts *texts, struct ks_err *err)
{
	enum ks_status status = read_user(options, texts, err);

	if (status == KS_OK)
		status = read_text("upstream-cacert", options->upstream_cacert, &texts->roots, err);
	if (status == KS_OK)
		status = read_text("upstream-cert", options->upstream_cert, &texts->cert, err);
	if (status == KS_OK)
		status = read_text("upstream-key", options->upstream_key, &texts->key, err);
	return status;
}

static struct etcdc *open_client(const struct ks_options *options, struct texts *texts, struct ks_err *err)
{
	const char *endpoints[ENDPOINTS_MAX];
	struct etcdc_config config = {
		.endpoints = endpoints,
		.require_leader = true, /* a member that lost the others is no upstream */
		.user = texts->user,
		.password = texts->password,
		.tls_roots = texts->roots,
		.tls_cert = texts->cert,
		.tls_key = texts->key,
	};
	struct etcdc_err client_err = {0};
	struct etcdc *client;
	char *rest;

	texts->urls = rest = ks_xstrdup(options->upstream);
	for (char *url; (url = strsep(&rest, ","));) {
		if (config.endpoint_count == ENDPOINTS_MAX) {
			(void)ks_fail(err, KS_INVALID_ARGUMENT, "--upstream: more than %d endpoints", ENDPOINTS_MAX);
			return NULL;
		}
		endpoints[config.endpoint_count++] = url;
	}
	client = etcdc_open(&config, &client_err);
	if (!client)
		(void)ks_fail(err, KS_INVALID_ARGUMENT, "--upstream: %s", client_err.text);
	return client;
}

struct etcdc *dpa_connect(const struct ks_options *options, struct ks_err *err)
{
	struct texts texts = {0};
	struct etcdc *client = NULL;

	if (read_files(options, &texts, err) == KS_OK)
		client = open_client(options, &texts, err);
	texts_fini(&texts);
	return client;
}
