/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON web tokens as etcd makes and reads them: claims username, revision and exp. The server keeps nothing of them; the auth
 * revision in them makes them stale with the next change of users or roles (spec 7.3).
 *
 * Strict where a token could be read in two ways: three parts, base64url without padding, one value for each name, the
 * configured algorithm and no other.
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/jwt_key.h"
#include "api/token_priv.h"
#include "base/list.h"

#define DEFAULT_TTL_S 300
#define TOKEN_MAX 16384 /* no header is longer */

struct jwt {
	struct ks_tokens tokens;
	struct ks_jwt_key *key;
	int64_t ttl_s;
};

static struct jwt *jwt_of(struct ks_tokens *tokens)
{
	return ks_container_of(tokens, struct jwt, tokens);
}

/* ---- base64url ---- */

static const char digits[65] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static void append_base64(struct ks_buf *out, struct ks_slice bytes)
{
	for (size_t i = 0; i < bytes.size; i += 3) {
		size_t have = bytes.size - i < 3 ? bytes.size - i : 3;
		uint32_t bits = (uint32_t)bytes.data[i] << 16;
		char group[4];

		if (have > 1)
			bits |= (uint32_t)bytes.data[i + 1] << 8;
		if (have > 2)
			bits |= bytes.data[i + 2];
		for (int d = 0; d < 4; d++)
			group[d] = digits[bits >> (18 - 6 * d) & 63];
		ks_buf_append(out, group, have + 1);
	}
}

static int digit_value(uint8_t c)
{
	const char *digit = c ? strchr(digits, c) : NULL;

	return digit ? (int)(digit - digits) : -1;
}

/* In the arena. False: not base64url, or no memory. */
static bool decode_base64(struct ks_arena *arena, struct ks_slice text, struct ks_slice *bytes)
{
	uint8_t *out = ks_arena_alloc(arena, text.size / 4 * 3 + 3);
	size_t size = 0;
	uint32_t bits = 0;
	int have = 0;

	if (!out || text.size % 4 == 1)
		return false;
	for (size_t i = 0; i < text.size; i++) {
		int value = digit_value(text.data[i]);

		if (value < 0)
			return false;
		bits = bits << 6 | (uint32_t)value;
		have += 6;
		if (have >= 8) {
			have -= 8;
			out[size++] = (uint8_t)(bits >> have);
		}
	}
	*bytes = ks_slice_of(out, size);
	return (bits & ((1u << have) - 1)) == 0;
}

/* ---- issue ---- */

static void append_json(struct ks_buf *out, json_t *json)
{
	char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;

	if (text)
		append_base64(out, ks_slice_str(text));
	else
		out->failed = true;
	free(text);
	json_decref(json);
}

static enum ks_status jwt_issue(struct ks_tokens *tokens, const struct ks_auth *auth, const struct ks_auth_user *user,
				struct ks_buf *out, struct ks_err *err)
{
	struct jwt *jwt = jwt_of(tokens);
	int64_t expiry_s = ks_clock_now(tokens->clock) / 1000 + jwt->ttl_s;
	uint8_t signature[KS_JWT_SIGNATURE_MAX];
	size_t size = sizeof(signature), before = out->size;

	if (!ks_jwt_key_can_sign(jwt->key))
		return ks_fail(err, KS_UNKNOWN, "auth: token signing attempted with verify-only key");
	append_json(out, json_pack("{s:s, s:s}", "alg", ks_jwt_key_method(jwt->key), "typ", "JWT"));
	ks_buf_append(out, ".", 1);
	append_json(out, json_pack("{s:I, s:I, s:s%}", "exp", (json_int_t)expiry_s, "revision",
				   (json_int_t)ks_auth_revision(auth), "username", (const char *)user->name.data,
				   user->name.size));
	if (out->failed ||
	    !ks_jwt_sign(jwt->key, ks_slice_of(out->data + before, out->size - before), signature, &size))
		return ks_fail(err, KS_UNAVAILABLE, "kineshim: no token can be made now");
	ks_buf_append(out, ".", 1);
	append_base64(out, ks_slice_of(signature, size));
	return KS_OK;
}

/* ---- verify ---- */

/* The text up to the next dot; 'rest' goes behind it. */
static bool next_part(struct ks_slice *rest, struct ks_slice *part)
{
	const uint8_t *dot = rest->size ? memchr(rest->data, '.', rest->size) : NULL;

	if (!dot)
		return false;
	*part = ks_slice_of(rest->data, (size_t)(dot - rest->data));
	*rest = ks_slice_of(dot + 1, rest->size - part->size - 1);
	return true;
}

static json_t *decode_object(struct ks_arena *arena, struct ks_slice part)
{
	struct ks_slice bytes;
	json_t *json = NULL;

	if (decode_base64(arena, part, &bytes))
		json = json_loadb((const char *)bytes.data, bytes.size,
				  JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, NULL);
	if (json_is_object(json))
		return json;
	json_decref(json);
	return NULL;
}

static bool header_fits(const struct jwt *jwt, const json_t *header)
{
	const char *method = json_string_value(json_object_get(header, "alg"));

	/* What "crit" names must be understood, and we understand nothing (RFC 7515, 4.1.11). */
	return method && strcmp(method, ks_jwt_key_method(jwt->key)) == 0 && !json_object_get(header, "crit");
}

/* Is a time that may be given, and then must be a number, in the past or not? */
static bool time_holds(const json_t *claims, const char *name, double now_s, bool must_be_past)
{
	const json_t *value = json_object_get(claims, name);

	if (!value)
		return true;
	if (!json_is_number(value))
		return false;
	return must_be_past ? json_number_value(value) <= now_s : json_number_value(value) > now_s;
}

static bool read_claims(const json_t *claims, double now_s, struct ks_arena *arena, struct ks_caller *caller)
{
	const json_t *user = json_object_get(claims, "username"), *revision = json_object_get(claims, "revision");

	if (!json_is_string(user) || !json_is_number(revision) || !time_holds(claims, "exp", now_s, false) ||
	    !time_holds(claims, "nbf", now_s, true))
		return false;
	if (!(json_number_value(revision) >= 0 && json_number_value(revision) < 9007199254740992.0))
		return false;
	caller->auth_revision = (uint64_t)json_number_value(revision);
	caller->frozen = true;
	return ks_token_set_user(arena, ks_slice_of(json_string_value(user), json_string_length(user)), caller);
}

static bool jwt_verify(struct ks_tokens *tokens, const struct ks_auth *auth, struct ks_slice token,
		       struct ks_arena *arena, struct ks_caller *caller)
{
	struct jwt *jwt = jwt_of(tokens);
	struct ks_slice rest = token, parts[2], signature, message;
	json_t *header, *claims = NULL;
	bool ok;

	(void)auth;
	if (token.size > TOKEN_MAX || !next_part(&rest, &parts[0]) || !next_part(&rest, &parts[1]) ||
	    !decode_base64(arena, rest, &signature))
		return false;
	message = ks_slice_of(token.data, token.size - rest.size - 1);
	header = decode_object(arena, parts[0]);
	ok = header && header_fits(jwt, header) && ks_jwt_verify(jwt->key, message, signature);
	json_decref(header);
	if (ok)
		claims = decode_object(arena, parts[1]);
	ok = claims && read_claims(claims, (double)ks_clock_now(tokens->clock) / 1000, arena, caller);
	json_decref(claims);
	return ok;
}

static bool jwt_is_ahead(const struct ks_tokens *tokens, const struct ks_auth *auth, struct ks_slice token)
{
	(void)tokens;
	(void)auth;
	(void)token;
	return false;
}

/* ---- options ---- */

static void jwt_free(struct ks_tokens *tokens)
{
	struct jwt *jwt = jwt_of(tokens);

	ks_jwt_key_free(jwt->key);
	free(jwt);
}

static const struct ks_tokens_ops jwt_ops = {
	.free = jwt_free,
	.issue = jwt_issue,
	.verify = jwt_verify,
	.is_ahead = jwt_is_ahead,
};

/* Go's durations in whole seconds: "300s", "1h30m". False: not one, or less than a second. */
static bool parse_ttl(const char *text, int64_t *seconds)
{
	int64_t total_ms = 0;

	do {
		static const struct {
			const char *unit;
			int64_t ms;
		} units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}};
		int64_t number = 0, ms = 0;
		size_t length = 0;

		for (; *text >= '0' && *text <= '9' && length < 9; text++, length++)
			number = number * 10 + (*text - '0');
		for (size_t i = 0; i < 4 && length && !ms; i++) {
			size_t unit = strlen(units[i].unit);

			if (strncmp(text, units[i].unit, unit) == 0) {
				ms = units[i].ms;
				text += unit;
			}
		}
		if (!ms || total_ms > INT64_MAX / 4)
			return false;
		total_ms += number * ms;
	} while (*text);
	*seconds = total_ms / 1000;
	return total_ms >= 1000;
}

struct options {
	const char *method, *private_file, *public_file, *ttl;
};

static bool set_option(struct options *options, char *option)
{
	char *value = strchr(option, '=');
	const char **place;

	if (!value)
		return false;
	*value++ = 0;
	if (strcmp(option, "sign-method") == 0)
		place = &options->method;
	else if (strcmp(option, "priv-key") == 0)
		place = &options->private_file;
	else if (strcmp(option, "pub-key") == 0)
		place = &options->public_file;
	else if (strcmp(option, "ttl") == 0)
		place = &options->ttl;
	else
		return false;
	if (*place || !*value)
		return false;
	*place = value;
	return true;
}

static bool configure(struct jwt *jwt, char *text, struct ks_err *err)
{
	struct options options = {0};
	char *option;

	while ((option = strsep(&text, ","))) {
		if (!set_option(&options, option)) {
			ks_fail(err, KS_INVALID_ARGUMENT,
				"--auth-token: not an option of jwt: %s (there are sign-method, priv-key, pub-key, "
				"ttl)",
				option);
			return false;
		}
	}
	if (!options.method) {
		ks_fail(err, KS_INVALID_ARGUMENT, "--auth-token: jwt needs sign-method=…");
		return false;
	}
	jwt->ttl_s = DEFAULT_TTL_S;
	if (options.ttl && !parse_ttl(options.ttl, &jwt->ttl_s)) {
		ks_fail(err, KS_INVALID_ARGUMENT, "--auth-token: not a time of at least a second: ttl=%s", options.ttl);
		return false;
	}
	jwt->key = ks_jwt_key_load(options.method, options.private_file, options.public_file, err);
	return jwt->key != NULL;
}

struct ks_tokens *ks_tokens_jwt(const char *options, struct ks_err *err)
{
	struct jwt *jwt = calloc(1, sizeof(*jwt));
	char *text = strdup(options);
	bool ok = false;

	if (!jwt || !text)
		ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory for tokens");
	else
		ok = configure(jwt, text, err);
	free(text);
	if (!ok) {
		free(jwt);
		return NULL;
	}
	jwt->tokens.ops = &jwt_ops;
	return &jwt->tokens;
}
