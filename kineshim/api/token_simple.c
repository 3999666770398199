/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Simple tokens: sixty letters, a dot, and the position of the newest auth entry at the issue.
 *
 *	version 1 | credential 8 | seconds of the issue 8 | random 4 | MAC 16      bytes, big endian; five bits a letter
 *
 * The MAC is HMAC-SHA-256, cut, over what is before it and the position; its key is the secret that came with AuthEnable. A password
 * change or a user's end ends the credential, AuthDisable ends the secret.
 *
 * A token lives for the ttl after its issue, on every instance. Each instance also remembers when it saw a token last and
 * lets it live for the ttl after that, as etcd's members do, each by itself. The memory is a fixed table: when it forgets, the
 * token is back to the ttl after its issue.
 */
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/token_priv.h"
#include "base/list.h"
#include "base/panic.h"
#include "base/thread.h"

#define VERSION 1
#define HEAD_BYTES (1 + 8 + 8 + 4)
#define MAC_BYTES 16
#define BLOB_BYTES (HEAD_BYTES + MAC_BYTES)
#define LETTERS ((BLOB_BYTES * 8 + 4) / 5)
/* Instances whose clocks differ by more are not of one cluster. */
#define AHEAD_S 3600

static const char alphabet[33] = "abcdefghijklmnopqrstuvwxyzABCDEF";

/* When tokens were seen last: 4 places for each hash, the oldest gives way. */
#define SETS 8192u
#define WAYS 4u

struct use {
	uint64_t mac[2]; /* zero: free */
	int64_t used_s;
};

struct simple {
	struct ks_tokens tokens;
	int64_t ttl_s;
	EVP_MAC *mac;
	struct ks_mutex lock; /* guards the table; a leaf */
	struct use *uses;     /* made with the first token */
};

struct parsed {
	uint8_t blob[BLOB_BYTES];
	uint64_t credential;
	int64_t issued_s;
	int64_t position;
};

static struct simple *simple_of(struct ks_tokens *tokens)
{
	return ks_container_of(tokens, struct simple, tokens);
}

/* ---- letters and numbers ---- */

static void put_number(uint8_t *out, uint64_t value, int bytes)
{
	for (int i = 0; i < bytes; i++)
		out[i] = (uint8_t)(value >> 8 * (bytes - 1 - i));
}

static uint64_t get_number(const uint8_t *in, int bytes)
{
	uint64_t value = 0;

	for (int i = 0; i < bytes; i++)
		value = value << 8 | in[i];
	return value;
}

static void to_letters(const uint8_t *blob, char *letters)
{
	uint32_t bits = 0;
	int have = 0, out = 0;

	for (int i = 0; i < BLOB_BYTES; i++) {
		bits = bits << 8 | blob[i];
		for (have += 8; have >= 5; have -= 5)
			letters[out++] = alphabet[bits >> (have - 5) & 31];
	}
	if (have)
		letters[out++] = alphabet[bits << (5 - have) & 31];
	KS_ASSERT(out == LETTERS);
}

static bool from_letters(const uint8_t *letters, uint8_t *blob)
{
	uint32_t bits = 0;
	int have = 0, out = 0;

	for (int i = 0; i < LETTERS; i++) {
		const char *letter = letters[i] ? strchr(alphabet, letters[i]) : NULL;

		if (!letter)
			return false;
		bits = bits << 5 | (uint32_t)(letter - alphabet);
		have += 5;
		if (have >= 8) {
			blob[out++] = (uint8_t)(bits >> (have - 8));
			have -= 8;
		}
	}
	/* One way to write each token: the bits that are left over are zero. */
	return out == BLOB_BYTES && (bits & ((1u << have) - 1)) == 0;
}

/* As it is printed: no sign, no zero in front. */
static bool get_decimal(struct ks_slice text, int64_t *value)
{
	*value = 0;
	if (text.size == 0 || text.size > 18 || (text.data[0] == '0' && text.size > 1))
		return false;
	for (size_t i = 0; i < text.size; i++) {
		if (text.data[i] < '0' || text.data[i] > '9')
			return false;
		*value = *value * 10 + (text.data[i] - '0');
	}
	return true;
}

static bool parse(struct ks_slice token, struct parsed *parsed)
{
	if (token.size < LETTERS + 2 || token.data[LETTERS] != '.')
		return false;
	if (!get_decimal(ks_slice_of(token.data + LETTERS + 1, token.size - LETTERS - 1), &parsed->position) ||
	    !from_letters(token.data, parsed->blob) || parsed->blob[0] != VERSION)
		return false;
	parsed->credential = get_number(parsed->blob + 1, 8);
	parsed->issued_s = (int64_t)(get_number(parsed->blob + 9, 8) & INT64_MAX);
	return true;
}

static bool compute_mac(const struct simple *simple, const struct ks_auth *auth, const uint8_t *head, int64_t position,
			uint8_t *mac)
{
	struct ks_slice secret = ks_auth_secret(auth);
	uint8_t message[HEAD_BYTES + 8], full[32];
	char digest[] = "SHA256";
	OSSL_PARAM params[] = {OSSL_PARAM_utf8_string("digest", digest, sizeof(digest) - 1), OSSL_PARAM_END};
	EVP_MAC_CTX *ctx = EVP_MAC_CTX_new(simple->mac);
	size_t size = 0;
	bool ok;

	memcpy(message, head, HEAD_BYTES);
	put_number(message + HEAD_BYTES, (uint64_t)position, 8);
	ok = ctx && secret.size == KS_AUTH_SECRET_BYTES && EVP_MAC_init(ctx, secret.data, secret.size, params) &&
	     EVP_MAC_update(ctx, message, sizeof(message)) && EVP_MAC_final(ctx, full, &size, sizeof(full)) &&
	     size == sizeof(full);
	EVP_MAC_CTX_free(ctx);
	if (ok)
		memcpy(mac, full, MAC_BYTES);
	return ok;
}

/* ---- when tokens were used ---- */

/* May the token live on after its ttl? Notes the use in any case when it may. */
static bool still_in_use(struct simple *simple, const uint8_t *mac, int64_t now_s, bool young)
{
	uint64_t key[2] = {get_number(mac, 8), get_number(mac + 8, 8)};
	struct use *set, *place = NULL;
	bool alive = young;

	ks_mutex_lock(&simple->lock);
	if (!simple->uses)
		simple->uses = calloc((size_t)SETS * WAYS, sizeof(*simple->uses));
	set = simple->uses ? &simple->uses[key[0] % SETS * WAYS] : NULL;
	for (unsigned i = 0; set && i < WAYS; i++) {
		if (set[i].mac[0] == key[0] && set[i].mac[1] == key[1]) {
			place = &set[i];
			alive = alive || now_s - place->used_s <= simple->ttl_s;
			break;
		}
		if (!place || set[i].used_s < place->used_s)
			place = &set[i];
	}
	if (alive && place)
		*place = (struct use){.mac = {key[0], key[1]}, .used_s = now_s};
	ks_mutex_unlock(&simple->lock);
	return alive;
}

/* ---- the table ---- */

static void simple_free(struct ks_tokens *tokens)
{
	struct simple *simple = simple_of(tokens);

	EVP_MAC_free(simple->mac);
	ks_mutex_fini(&simple->lock);
	free(simple->uses);
	free(simple);
}

static enum ks_status simple_issue(struct ks_tokens *tokens, const struct ks_auth *auth,
				   const struct ks_auth_user *user, struct ks_buf *out, struct ks_err *err)
{
	struct simple *simple = simple_of(tokens);
	uint8_t blob[BLOB_BYTES] = {VERSION};
	int64_t position = ks_auth_position(auth);
	char letters[LETTERS];

	put_number(blob + 1, user->credential, 8);
	put_number(blob + 9, (uint64_t)(ks_clock_now(tokens->clock) / 1000), 8);
	if (RAND_bytes(blob + 17, 4) != 1 || !compute_mac(simple, auth, blob, position, blob + HEAD_BYTES))
		return ks_fail(err, KS_UNAVAILABLE, "kineshim: no token can be made now");
	to_letters(blob, letters);
	ks_buf_append(out, letters, sizeof(letters));
	ks_buf_printf(out, ".%lld", (long long)position);
	return KS_OK;
}

static bool simple_verify(struct ks_tokens *tokens, const struct ks_auth *auth, struct ks_slice token,
			  struct ks_arena *arena, struct ks_caller *caller)
{
	struct simple *simple = simple_of(tokens);
	const struct ks_auth_user *user;
	uint8_t mac[MAC_BYTES];
	struct parsed parsed;
	int64_t now_s = ks_clock_now(tokens->clock) / 1000, age_s;

	if (!parse(token, &parsed) || !compute_mac(simple, auth, parsed.blob, parsed.position, mac) ||
	    CRYPTO_memcmp(mac, parsed.blob + HEAD_BYTES, MAC_BYTES) != 0)
		return false;
	user = ks_auth_find_credential(auth, parsed.credential);
	age_s = now_s - parsed.issued_s;
	if (!user || age_s < -AHEAD_S || !still_in_use(simple, mac, now_s, age_s <= simple->ttl_s))
		return false;
	caller->auth_revision = ks_auth_revision(auth);
	return ks_token_set_user(arena, user->name, caller);
}

/* Whoever makes a number up costs us one look at the head, which he could have by asking for a key as well. */
static bool simple_is_ahead(const struct ks_tokens *tokens, const struct ks_auth *auth, struct ks_slice token)
{
	struct parsed parsed;

	(void)tokens;
	return parse(token, &parsed) && parsed.position > ks_auth_position(auth);
}

static const struct ks_tokens_ops simple_ops = {
	.free = simple_free,
	.issue = simple_issue,
	.verify = simple_verify,
	.is_ahead = simple_is_ahead,
};

struct ks_tokens *ks_tokens_simple(const struct ks_tokens_config *config, struct ks_err *err)
{
	struct simple *simple = calloc(1, sizeof(*simple));

	if (simple)
		simple->mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
	if (!simple || !simple->mac) {
		free(simple);
		ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory for tokens");
		return NULL;
	}
	simple->tokens.ops = &simple_ops;
	simple->ttl_s = config->ttl_s > 0 ? config->ttl_s : 300;
	ks_mutex_init(&simple->lock);
	return &simple->tokens;
}
