/* SPDX-License-Identifier: Apache-2.0 */
/* Where AWS keys come from, see aws_identity.h. */
#include "fallback/aws_identity.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/panic.h"
#include "fallback/secret.h"
#include "fallback/xml.h"

#define MAX_ANSWER ((size_t)1 << 16)
#define LOCAL_TIMEOUT_MS 2000
/* Renewed so long before the end. */
#define MARGIN_S 300
/* After a renewal that failed while the old keys still hold. */
#define PAUSE_S 30

enum kind { KEYS, WEB_IDENTITY, CONTAINER, INSTANCE };

struct dpa_aws_identity {
	enum kind kind;
	struct dpa_web *http;
	struct dpa_aws_keys keys;
	bool known;
	time_t expires, renew; /* 0: never */
	/* Of the kinds; NULL where it does not matter. */
	char *url;        /* of STS, the container's or the instance's service */
	char *token_file; /* read anew each time: it is rotated */
	char *token;      /* the container's */
	char *role_arn, *session;
};

static void drop_keys(struct dpa_aws_keys *keys)
{
	dpa_secret_drop(&keys->id);
	dpa_secret_drop(&keys->secret);
	dpa_secret_drop(&keys->token);
}

/* Takes what came in 'keys', which is left empty. */
static enum ks_status set_keys(struct dpa_aws_identity *identity, struct dpa_aws_keys *keys, time_t expires,
			       struct ks_err *err)
{
	if (!dpa_secret_clean(keys->id) || !dpa_secret_clean(keys->secret) || !dpa_secret_clean(keys->token)) {
		drop_keys(keys);
		return ks_fail(err, KS_UNAUTHENTICATED, "AWS credentials with blanks or control characters");
	}
	drop_keys(&identity->keys);
	identity->keys = *keys;
	*keys = (struct dpa_aws_keys){0};
	if (!identity->keys.token)
		identity->keys.token = ks_xstrdup("");
	identity->expires = expires;
	identity->renew = expires ? expires - MARGIN_S : 0;
	identity->known = true;
	return KS_OK;
}

/* ---- set-up ---- */

static const char *value_of(dpa_getenv_fn *env, const char *name)
{
	const char *value = env(name);

	return value && value[0] ? value : NULL;
}

static char *copy_of(dpa_getenv_fn *env, const char *name)
{
	const char *value = value_of(env, name);

	return value ? ks_xstrdup(value) : NULL;
}

static char *sts_url(const char *region)
{
	char text[160];

	(void)snprintf(text, sizeof(text), "https://sts.%s.amazonaws.com%s/", region,
		       strncmp(region, "cn-", 3) == 0 ? ".cn" : "");
	return ks_xstrdup(text);
}

/* Tokens go to these only: https, this machine, and the addresses that ECS and EKS have for it. */
static bool is_container_url(const char *url)
{
	static const char *const hosts[] = {"http://169.254.170.2", "http://169.254.170.23", "http://[fd00:ec2::23]"};

	for (size_t i = 0; i < sizeof(hosts) / sizeof(*hosts); i++) {
		size_t size = strlen(hosts[i]);

		if (strncmp(url, hosts[i], size) == 0 && (!url[size] || strchr(":/", url[size])))
			return true;
	}
	return dpa_web_url_private(url);
}

static bool choose(struct dpa_aws_identity *identity, const char *region, dpa_getenv_fn *env, struct ks_err *err)
{
	const char *id = value_of(env, "AWS_ACCESS_KEY_ID"), *secret = value_of(env, "AWS_SECRET_ACCESS_KEY");
	const char *disabled = value_of(env, "AWS_EC2_METADATA_DISABLED");

	if (id || secret) {
		struct dpa_aws_keys keys = {0};

		if (!id || !secret) {
			(void)ks_fail(err, KS_INVALID_ARGUMENT,
				      "of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY only one is set");
			return false;
		}
		keys = (struct dpa_aws_keys){ks_xstrdup(id), ks_xstrdup(secret), copy_of(env, "AWS_SESSION_TOKEN")};
		identity->kind = KEYS;
		return set_keys(identity, &keys, 0, err) == KS_OK;
	}
	identity->token_file = copy_of(env, "AWS_WEB_IDENTITY_TOKEN_FILE");
	identity->role_arn = copy_of(env, "AWS_ROLE_ARN");
	if (identity->token_file && identity->role_arn) {
		identity->kind = WEB_IDENTITY;
		identity->session = copy_of(env, "AWS_ROLE_SESSION_NAME");
		identity->url = copy_of(env, "AWS_ENDPOINT_URL_STS");
		if (!identity->url)
			identity->url = sts_url(region);
		if (dpa_web_url_private(identity->url))
			return true;
		(void)ks_fail(err, KS_INVALID_ARGUMENT, "AWS_ENDPOINT_URL_STS must begin with https://");
		return false;
	}
	dpa_secret_drop(&identity->token_file);
	if (value_of(env, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")) {
		char url[512];

		(void)snprintf(url, sizeof(url), "http://169.254.170.2%s",
			       value_of(env, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"));
		identity->kind = CONTAINER;
		identity->url = ks_xstrdup(url);
	} else if (value_of(env, "AWS_CONTAINER_CREDENTIALS_FULL_URI")) {
		identity->kind = CONTAINER;
		identity->url = copy_of(env, "AWS_CONTAINER_CREDENTIALS_FULL_URI");
	}
	if (identity->url) {
		identity->token_file = copy_of(env, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
		identity->token = copy_of(env, "AWS_CONTAINER_AUTHORIZATION_TOKEN");
		if (is_container_url(identity->url))
			return true;
		(void)ks_fail(err, KS_INVALID_ARGUMENT,
			      "AWS_CONTAINER_CREDENTIALS_FULL_URI names neither https nor an address of this machine");
		return false;
	}
	if (disabled && strcasecmp(disabled, "true") == 0) {
		(void)ks_fail(err, KS_UNAUTHENTICATED,
			      "no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the "
			      "machine a role");
		return false;
	}
	identity->kind = INSTANCE;
	identity->url = copy_of(env, "AWS_EC2_METADATA_SERVICE_ENDPOINT");
	if (!identity->url)
		identity->url = ks_xstrdup("http://169.254.169.254");
	if (identity->url[strlen(identity->url) - 1] == '/')
		identity->url[strlen(identity->url) - 1] = '\0';
	return true;
}

struct dpa_aws_identity *dpa_aws_identity_new(const char *region, struct dpa_web *http, dpa_getenv_fn *env,
					      struct ks_err *err)
{
	struct dpa_aws_identity *identity = ks_xcalloc(1, sizeof(*identity));

	identity->http = http;
	if (choose(identity, region, env, err))
		return identity;
	dpa_aws_identity_free(identity);
	return NULL;
}

void dpa_aws_identity_free(struct dpa_aws_identity *identity)
{
	if (!identity)
		return;
	drop_keys(&identity->keys);
	dpa_secret_drop(&identity->token);
	free(identity->url);
	free(identity->token_file);
	free(identity->role_arn);
	free(identity->session);
	free(identity);
}

/* ---- asking ---- */

/* "2026-11-29T21:00:00Z", perhaps with a fraction; 0 when it is no such time. */
static time_t time_of(const char *text)
{
	struct tm parts = {0};
	const char *end = text ? strptime(text, "%Y-%m-%dT%H:%M:%S", &parts) : NULL;

	return end ? timegm(&parts) : 0;
}

static enum ks_status refused(const char *who, const struct dpa_web_answer *answer, struct ks_err *err)
{
	return ks_fail(err, KS_UNAUTHENTICATED, "no AWS credentials: %s answers with status %d", who, answer->status);
}

/* {"AccessKeyId", "SecretAccessKey", "Token", "Expiration"} of containers and instances. */
static enum ks_status take_json(struct dpa_aws_identity *identity, const struct dpa_web_answer *answer,
				struct ks_err *err)
{
	json_t *root = json_loadb((const char *)answer->body.data, answer->body.size, 0, NULL);
	const char *id = json_string_value(json_object_get(root, "AccessKeyId"));
	const char *secret = json_string_value(json_object_get(root, "SecretAccessKey"));
	const char *token = json_string_value(json_object_get(root, "Token"));
	const char *until = json_string_value(json_object_get(root, "Expiration"));
	enum ks_status status = KS_OK;

	if (id && secret && token && id[0] && secret[0]) {
		struct dpa_aws_keys keys = {ks_xstrdup(id), ks_xstrdup(secret), ks_xstrdup(token)};

		status = set_keys(identity, &keys, time_of(until), err);
	} else {
		status = ks_fail(err, KS_UNAUTHENTICATED, "no AWS credentials: the answer of the %s has none",
				 identity->kind == CONTAINER ? "container's service" : "instance's metadata");
	}
	json_decref(root);
	return status;
}

static enum ks_status ask_container(struct dpa_aws_identity *identity, struct ks_err *err)
{
	struct dpa_web_request request = {.method = "GET",
					  .url = identity->url,
					  .max_answer = MAX_ANSWER,
					  .timeout_ms = LOCAL_TIMEOUT_MS,
					  .local = true};
	char *read = identity->token_file ? dpa_secret_read(identity->token_file, err) : NULL;
	const char *token = read ? read : identity->token;
	struct dpa_web_answer answer;
	enum ks_status status;
	char *header = NULL;

	if (identity->token_file && !read)
		return KS_UNAUTHENTICATED;
	if (token && asprintf(&header, "Authorization: %s", token) < 0)
		header = NULL;
	request.headers[0] = header;
	status = dpa_web_perform(identity->http, &request, &answer, err);
	if (status == KS_OK)
		status = answer.status == 200 ? take_json(identity, &answer, err)
					      : refused("the container's service", &answer, err);
	dpa_secret_fini(&answer.body);
	dpa_secret_drop(&header);
	dpa_secret_drop(&read);
	return status;
}

/* One step of IMDSv2; 'header' goes along. The answer is a malloc-ed line, or with 'json' the keys are taken. */
static enum ks_status ask_instance_step(struct dpa_aws_identity *identity, const char *method, const char *path,
					char *header, char **line, struct ks_err *err)
{
	char url[512];
	struct dpa_web_request request = {.method = method,
					  .url = url,
					  .headers = {header},
					  .has_body = strcmp(method, "PUT") == 0,
					  .max_answer = MAX_ANSWER,
					  .timeout_ms = LOCAL_TIMEOUT_MS,
					  .local = true};
	struct dpa_web_answer answer;
	enum ks_status status;

	(void)snprintf(url, sizeof(url), "%s/latest/%s", identity->url, path);
	status = dpa_web_perform(identity->http, &request, &answer, err);
	if (status != KS_OK)
		status = ks_fail(err, KS_UNAUTHENTICATED,
				 "no AWS credentials: neither in the environment nor from the instance");
	else if (answer.status != 200)
		status = refused("the instance's metadata", &answer, err);
	else if (line)
		*line = strndup((const char *)answer.body.data, answer.body.size);
	else
		status = take_json(identity, &answer, err);
	dpa_secret_fini(&answer.body);
	if (status == KS_OK && line && *line)
		(*line)[strcspn(*line, "\r\n")] = '\0';
	if (status == KS_OK && line && (!*line || !**line))
		status = ks_fail(err, KS_UNAUTHENTICATED, "no AWS credentials: the instance has no role");
	return status;
}

static enum ks_status ask_instance(struct dpa_aws_identity *identity, struct ks_err *err)
{
	static const char folder[] = "meta-data/iam/security-credentials/";
	static char ttl[] = "X-aws-ec2-metadata-token-ttl-seconds: 300";
	char *token = NULL, *role = NULL, *header = NULL;
	struct ks_buf path;
	enum ks_status status = ask_instance_step(identity, "PUT", "api/token", ttl, &token, err);

	ks_buf_init(&path, 256);
	if (status == KS_OK && asprintf(&header, "X-aws-ec2-metadata-token: %s", token) < 0)
		header = NULL;
	if (status == KS_OK)
		status = ask_instance_step(identity, "GET", folder, header, &role, err);
	if (status == KS_OK) {
		ks_buf_printf(&path, "%s", folder);
		dpa_web_encode(&path, role, false);
		ks_buf_append(&path, "", 1);
		status = path.failed
				 ? ks_fail(err, KS_UNAUTHENTICATED, "no AWS credentials: the role's name is too long")
				 : ask_instance_step(identity, "GET", (const char *)path.data, header, NULL, err);
	}
	ks_buf_fini(&path);
	dpa_secret_drop(&header);
	dpa_secret_drop(&token);
	free(role);
	return status;
}

struct sts_answer {
	struct dpa_aws_keys keys;
	time_t expires;
	char code[64];
};

static bool take_sts(void *ctx, const char *path, const char *text)
{
	static const char folder[] = "AssumeRoleWithWebIdentityResponse/AssumeRoleWithWebIdentityResult/Credentials/";
	struct sts_answer *answer = ctx;

	if (strcmp(path, "ErrorResponse/Error/Code") == 0)
		dpa_web_quote(text, NULL, 0, answer->code, sizeof(answer->code));
	if (strncmp(path, folder, sizeof(folder) - 1) != 0)
		return true;
	path += sizeof(folder) - 1;
	if (strcmp(path, "AccessKeyId") == 0 && !answer->keys.id)
		answer->keys.id = ks_xstrdup(text);
	if (strcmp(path, "SecretAccessKey") == 0 && !answer->keys.secret)
		answer->keys.secret = ks_xstrdup(text);
	if (strcmp(path, "SessionToken") == 0 && !answer->keys.token)
		answer->keys.token = ks_xstrdup(text);
	if (strcmp(path, "Expiration") == 0)
		answer->expires = time_of(text);
	return true;
}

static enum ks_status ask_sts(struct dpa_aws_identity *identity, struct ks_err *err)
{
	struct dpa_web_request request = {.method = "POST",
					  .url = identity->url,
					  .headers = {(char[]){"Content-Type: application/x-www-form-urlencoded"}},
					  .has_body = true,
					  .max_answer = MAX_ANSWER};
	char *token = dpa_secret_read(identity->token_file, err);
	struct sts_answer found = {0};
	struct dpa_web_answer answer;
	enum ks_status status;
	struct ks_buf body;

	if (!token)
		return KS_UNAUTHENTICATED;
	ks_buf_init(&body, 4 * DPA_SECRET_FILE_MAX);
	ks_buf_printf(&body, "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=");
	dpa_web_encode(&body, identity->role_arn, false);
	ks_buf_printf(&body, "&RoleSessionName=");
	dpa_web_encode(&body, identity->session ? identity->session : "dpagent", false);
	ks_buf_printf(&body, "&WebIdentityToken=");
	dpa_web_encode(&body, token, false);
	request.body = ks_slice_of(body.data, body.size);
	status = body.failed ? ks_fail(err, KS_UNAUTHENTICATED, "%s: too large", identity->token_file) : KS_OK;
	if (status == KS_OK) {
		status = dpa_web_perform(identity->http, &request, &answer, err);
		if (status == KS_OK)
			status = dpa_xml_read(ks_slice_of(answer.body.data, answer.body.size), take_sts, &found, err);
		if (status == KS_OK && answer.status == 200 && found.keys.id && found.keys.secret && found.keys.token)
			status = set_keys(identity, &found.keys, found.expires, err);
		else if (status == KS_OK || answer.status >= 400)
			status = ks_fail(err, KS_UNAUTHENTICATED, "no AWS credentials: STS answers with status %d %s",
					 answer.status, found.code);
		dpa_secret_fini(&answer.body);
	}
	drop_keys(&found.keys);
	dpa_secret_fini(&body);
	dpa_secret_drop(&token);
	return status;
}

enum ks_status dpa_aws_identity_keys(struct dpa_aws_identity *identity, const struct dpa_aws_keys **keys,
				     struct ks_err *err)
{
	time_t now = time(NULL);
	enum ks_status status = KS_OK;

	if (!identity->known || (identity->renew && now >= identity->renew)) {
		if (identity->kind == WEB_IDENTITY)
			status = ask_sts(identity, err);
		else if (identity->kind == CONTAINER)
			status = ask_container(identity, err);
		else if (identity->kind == INSTANCE)
			status = ask_instance(identity, err);
	}
	if (status != KS_OK && identity->known && now < identity->expires) {
		identity->renew = now + PAUSE_S;
		status = KS_OK;
	}
	*keys = &identity->keys;
	return status;
}

bool dpa_aws_identity_forget(struct dpa_aws_identity *identity)
{
	if (identity->kind == KEYS)
		return false;
	identity->known = false;
	return true;
}
