/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens of Entra ID, see azure_identity.h. */
#include "fallback/azure_identity.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/panic.h"
#include "fallback/secret.h"

#define MAX_ANSWER ((size_t)1 << 17)
#define LOCAL_TIMEOUT_MS 5000
#define MARGIN_S 300
#define DEFAULT_LIFE_S 600

struct dpa_azure_identity {
	struct dpa_web *http;
	char *token_file; /* the workload's; NULL: the machine's */
	char *client_id;  /* NULL: not said */
	char *url;
	char *token; /* NULL: none yet */
	time_t renew, expires;
};

static char *copy_of(dpa_getenv_fn *env, const char *name)
{
	const char *value = env(name);

	return value && value[0] ? ks_xstrdup(value) : NULL;
}

struct dpa_azure_identity *dpa_azure_identity_new(struct dpa_web *http, dpa_getenv_fn *env, struct ks_err *err)
{
	struct dpa_azure_identity *identity = ks_xcalloc(1, sizeof(*identity));
	const char *tenant = env("AZURE_TENANT_ID"), *authority = env("AZURE_AUTHORITY_HOST");
	const char *metadata = env("AZURE_POD_IDENTITY_AUTHORITY_HOST");
	struct ks_buf url;

	identity->http = http;
	identity->token_file = copy_of(env, "AZURE_FEDERATED_TOKEN_FILE");
	identity->client_id = copy_of(env, "AZURE_CLIENT_ID");
	ks_buf_init(&url, 2048);
	if (identity->token_file && tenant && identity->client_id) {
		authority = authority && authority[0] ? authority : "https://login.microsoftonline.com/";
		ks_buf_printf(&url, "%s%s", authority, authority[strlen(authority) - 1] == '/' ? "" : "/");
		dpa_web_encode(&url, tenant, false);
		ks_buf_printf(&url, "/oauth2/v2.0/token");
	} else {
		free(identity->token_file);
		identity->token_file = NULL;
		ks_buf_printf(&url, "%s/metadata/identity/oauth2/token?api-version=2018-02-01&resource=",
			      metadata && metadata[0] ? metadata : "http://169.254.169.254");
		dpa_web_encode(&url, "https://storage.azure.com/", false);
		if (identity->client_id) {
			ks_buf_printf(&url, "&client_id=");
			dpa_web_encode(&url, identity->client_id, false);
		}
	}
	ks_buf_append(&url, "", 1);
	if (!url.failed)
		identity->url = ks_xstrdup((const char *)url.data);
	ks_buf_fini(&url);
	if (identity->url && (!identity->token_file || dpa_web_url_private(identity->url)))
		return identity;
	(void)ks_fail(err, KS_INVALID_ARGUMENT, "AZURE_AUTHORITY_HOST must be a URL that begins with https://");
	dpa_azure_identity_free(identity);
	return NULL;
}

void dpa_azure_identity_free(struct dpa_azure_identity *identity)
{
	if (!identity)
		return;
	dpa_secret_drop(&identity->token);
	free(identity->token_file);
	free(identity->client_id);
	free(identity->url);
	free(identity);
}

/* A number, or a text that is one: the machine's service writes these. */
static int64_t seconds_of(const json_t *value)
{
	return json_is_string(value) ? strtoll(json_string_value(value), NULL, 10) : json_integer_value(value);
}

static enum ks_status take_token(struct dpa_azure_identity *identity, const struct dpa_web_answer *answer,
				 struct ks_err *err)
{
	json_t *root = json_loadb((const char *)answer->body.data, answer->body.size, 0, NULL);
	const char *token = json_string_value(json_object_get(root, "access_token"));
	int64_t life = seconds_of(json_object_get(root, "expires_in"));
	char code[64];
	const char *error = json_string_value(json_object_get(root, "error"));
	enum ks_status status = KS_OK;

	if (answer->status == 200 && token && token[0] && dpa_secret_clean(token)) {
		dpa_secret_drop(&identity->token);
		identity->token = ks_xstrdup(token);
		life = life > 0 && life < 7 * 24 * 3600 ? life : DEFAULT_LIFE_S;
		identity->expires = time(NULL) + (time_t)life;
		identity->renew = identity->expires - (life > 2 * MARGIN_S ? MARGIN_S : life / 2);
	} else {
		dpa_web_quote(error ? error : "", NULL, 0, code, sizeof(code));
		status = ks_fail(err, KS_UNAUTHENTICATED,
				 "no Azure credentials: the identity's service answers with status %d %s",
				 answer->status, code);
	}
	json_decref(root);
	return status;
}

static void put_form(const struct dpa_azure_identity *identity, const char *assertion, struct ks_buf *form)
{
	ks_buf_printf(form, "grant_type=client_credentials&client_id=");
	dpa_web_encode(form, identity->client_id, false);
	ks_buf_printf(form, "&scope=");
	dpa_web_encode(form, "https://storage.azure.com/.default", false);
	ks_buf_printf(form, "&client_assertion_type=");
	dpa_web_encode(form, "urn:ietf:params:oauth:client-assertion-type:jwt-bearer", false);
	ks_buf_printf(form, "&client_assertion=");
	dpa_web_encode(form, assertion, false);
}

static enum ks_status ask(struct dpa_azure_identity *identity, struct ks_err *err)
{
	static char type[] = "Content-Type: application/x-www-form-urlencoded", metadata[] = "Metadata: true";
	struct dpa_web_request request = {.method = "GET", .url = identity->url, .max_answer = MAX_ANSWER};
	struct dpa_web_answer answer;
	enum ks_status status;
	struct ks_buf form;

	ks_buf_init(&form, (size_t)1 << 18);
	if (identity->token_file) {
		char *assertion = dpa_secret_read(identity->token_file, err);

		if (!assertion)
			return KS_UNAUTHENTICATED;
		put_form(identity, assertion, &form);
		dpa_secret_drop(&assertion);
		request.method = "POST";
		request.has_body = true;
		request.body = ks_slice_of(form.data, form.size);
		request.headers[0] = type;
	} else {
		request.local = true;
		request.timeout_ms = LOCAL_TIMEOUT_MS;
		request.headers[0] = metadata;
	}
	status = form.failed ? ks_fail(err, KS_UNAUTHENTICATED, "%s: too large", identity->token_file) : KS_OK;
	if (status == KS_OK) {
		status = dpa_web_perform(identity->http, &request, &answer, err);
		if (status == KS_OK)
			status = take_token(identity, &answer, err);
		else if (!identity->token_file)
			status = ks_fail(
				err, KS_UNAUTHENTICATED,
				"no Azure credentials: neither in the environment nor from the machine's identity");
		dpa_secret_fini(&answer.body);
	}
	dpa_secret_fini(&form);
	return status;
}

enum ks_status dpa_azure_identity_header(struct dpa_azure_identity *identity, char **header, struct ks_err *err)
{
	time_t now = time(NULL);

	if (!identity->token || now >= identity->renew) {
		enum ks_status status = ask(identity, err);

		if (status != KS_OK && (!identity->token || now >= identity->expires))
			return status;
	}
	if (asprintf(header, "Authorization: Bearer %s", identity->token) < 0) {
		*header = NULL;
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
	}
	return KS_OK;
}
