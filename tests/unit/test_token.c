/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens of both kinds: whom they name, when they end, and what happens to them when somebody changes a letter. */
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "api/token.h"
#include "tests/lib/auth_fixture.h"

#define START_MS 1800000000000

static struct ks_clock clock_;
static struct ks_tokens *tokens;
static struct ks_arena arena;
static struct ks_err err;
static char folder[] = "/tmp/ks-token-XXXXXX";

static struct ks_tokens *new_tokens(const char *spec, int64_t ttl_s)
{
	struct ks_tokens_config config = {.spec = spec, .ttl_s = ttl_s, .clock = &clock_};

	err = (struct ks_err){0};
	return ks_tokens_new(&config, &err);
}

static void begin(const char *spec)
{
	ks_clock_init_fake(&clock_, START_MS);
	ks_arena_init(&arena, 1u << 20);
	sf_open();
	af_enable_with_root();
	af_user("alice", "hash");
	tokens = new_tokens(spec, 300);
	if (!tokens)
		printf("# %s\n", err.text);
	CU_ASSERT_PTR_NOT_NULL_FATAL(tokens);
}

static void end(void)
{
	ks_tokens_free(tokens);
	ks_arena_fini(&arena);
	sf_close();
}

/* In a text of its own, valid until the next call. */
static const char *issue(const char *user)
{
	static char text[4096];
	struct ks_auth *auth = ks_store_auth(sf_store);
	struct ks_buf buf;

	ks_buf_init(&buf, sizeof(text) - 1);
	CU_ASSERT_EQUAL(ks_tokens_issue(tokens, auth, ks_auth_find_user(auth, sf_text(user)), &buf, &err), KS_OK);
	CU_ASSERT_FATAL(!buf.failed);
	memcpy(text, buf.data, buf.size);
	text[buf.size] = 0;
	ks_buf_fini(&buf);
	ks_auth_unref(auth);
	return text;
}

static struct ks_caller caller;

static bool verify_with(struct ks_tokens *which, struct ks_slice token)
{
	struct ks_auth *auth = ks_store_auth(sf_store);
	bool ok;

	caller = (struct ks_caller){0};
	ok = ks_tokens_verify(which, auth, token, &arena, &caller);
	ks_auth_unref(auth);
	return ok;
}

static bool valid(const char *token)
{
	return verify_with(tokens, ks_slice_str(token));
}

static void pass(int64_t seconds)
{
	atomic_fetch_add(&clock_.fake_ms, seconds * 1000); /* also back: this is a clock of the wall */
}

/* ---- simple ---- */

static void simple_token_names_its_user(void)
{
	char *token;
	size_t dots = 0;

	begin("simple");
	token = strdup(issue("alice"));
	for (const char *c = token; *c; c++)
		dots += *c == '.';
	CU_ASSERT_EQUAL(dots, 1);
	CU_ASSERT(strspn(token, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") == strcspn(token, "."));
	CU_ASSERT(strspn(strchr(token, '.') + 1, "0123456789") == strlen(strchr(token, '.') + 1));
	CU_ASSERT(valid(token));
	CU_ASSERT(sf_is(caller.user, "alice") && caller.auth_revision == af_revision() && !caller.frozen);
	af_role("r"); /* it always carries the present revision */
	CU_ASSERT(valid(token) && caller.auth_revision == af_revision());
	CU_ASSERT(valid(issue("root")) && sf_is(caller.user, "root"));
	CU_ASSERT(strcmp(issue("alice"), token) != 0);
	free(token);
	end();
}

static void every_instance_knows_it(void)
{
	struct ks_tokens *another;
	const char *token;

	begin("simple");
	token = issue("alice");
	another = new_tokens("simple", 300); /* also the same one after a restart */
	CU_ASSERT(verify_with(another, ks_slice_str(token)));
	pass(299);
	CU_ASSERT(verify_with(another, ks_slice_str(token)));
	ks_tokens_free(another);
	end();
}

static void it_lives_on_while_it_is_used(void)
{
	struct ks_tokens *another;
	const char *token;

	begin("simple");
	another = new_tokens("simple", 300);
	token = issue("alice");
	for (int i = 0; i < 10; i++) {
		pass(200);
		CU_ASSERT(valid(token));
	}
	/* Whoever never saw it goes by the time of its issue. */
	CU_ASSERT_FALSE(verify_with(another, ks_slice_str(token)));
	pass(301);
	CU_ASSERT_FALSE(valid(token));
	token = issue("alice");
	pass(301);
	CU_ASSERT_FALSE(valid(token));
	ks_tokens_free(another);
	end();
}

static void clocks_may_differ_a_little(void)
{
	const char *token;

	begin("simple");
	token = issue("alice");
	pass(-60);
	CU_ASSERT(valid(token));
	pass(-4 * 3600);
	CU_ASSERT_FALSE(valid(token));
	end();
}

static void it_ends_with_password_user_and_auth(void)
{
	char *token;

	begin("simple");
	token = strdup(issue("alice"));
	af_grant("alice", "root");
	CU_ASSERT(valid(token));
	af_password("alice", "other");
	CU_ASSERT_FALSE(valid(token));
	free(token);
	token = strdup(issue("alice"));
	CU_ASSERT(valid(token));
	af_user_delete("alice");
	CU_ASSERT_FALSE(valid(token));
	af_user("alice", "other"); /* another one of that name */
	CU_ASSERT_FALSE(valid(token));
	free(token);
	token = strdup(issue("root"));
	CU_ASSERT(valid(token));
	af_disable();
	CU_ASSERT_FALSE(valid(token));
	CU_ASSERT_EQUAL(
		af_do(&(struct ks_auth_req){.op = KS_AUTH_ENABLE, .secret = S("another secret of thirty-two byt")}),
		KS_OK);
	CU_ASSERT_FALSE(valid(token));
	free(token);
	end();
}

/* Each single letter, and each bit of it. */
static void no_letter_can_be_changed(const char *token)
{
	char *copy = strdup(token);
	size_t size = strlen(copy);

	CU_ASSERT(valid(copy));
	for (size_t i = 0; i < size; i++) {
		char was = copy[i];

		for (int bit = 0; bit < 7; bit++) {
			copy[i] = (char)(was ^ 1 << bit);
			CU_ASSERT_FALSE(verify_with(tokens, ks_slice_of(copy, size)));
		}
		copy[i] = was;
		CU_ASSERT_FALSE(verify_with(tokens, ks_slice_of(copy, i)));
	}
	copy = realloc(copy, size + 2);
	for (const char *more = "0a.=A"; *more; more++) {
		copy[size] = *more;
		CU_ASSERT_FALSE(verify_with(tokens, ks_slice_of(copy, size + 1)));
	}
	free(copy);
}

static void tampered_simple_token_is_refused(void)
{
	begin("simple");
	no_letter_can_be_changed(issue("alice"));
	CU_ASSERT_FALSE(valid(""));
	CU_ASSERT_FALSE(valid("xyz"));
	CU_ASSERT_FALSE(valid("abcdefghijklmnop.12")); /* an etcd's */
	CU_ASSERT_FALSE(valid("."));
	end();
}

static bool ahead(const char *token)
{
	struct ks_auth *auth = ks_store_auth(sf_store);
	bool is = ks_tokens_is_ahead(tokens, auth, ks_slice_str(token));

	ks_auth_unref(auth);
	return is;
}

static void token_of_a_later_state_is_known_as_such(void)
{
	const char *token;

	begin("simple");
	sf_hold = true;
	af_user("bob", "hash");
	ks_store_publish(sf_store);
	token = issue("bob");
	CU_ASSERT_FALSE(ahead(token));
	sf_close(); /* an instance that lags */
	sf_open();
	af_enable_with_root();
	CU_ASSERT(ahead(token));
	CU_ASSERT_FALSE(valid(token));
	CU_ASSERT_FALSE(ahead("xyz"));
	end();
}

/* ---- jwt ---- */

static const char *path(const char *name)
{
	static char text[4][256];
	static unsigned next;
	char *out = text[next++ % 4];

	snprintf(out, sizeof(text[0]), "%s/%s", folder, name);
	return out;
}

static void write_keys(const char *name, EVP_PKEY *key)
{
	char file[64];
	FILE *out;

	KS_ASSERT(key);
	snprintf(file, sizeof(file), "%s.key", name);
	out = fopen(path(file), "w");
	KS_ASSERT(out && PEM_write_PrivateKey(out, key, NULL, NULL, 0, NULL, NULL));
	fclose(out);
	snprintf(file, sizeof(file), "%s.pub", name);
	out = fopen(path(file), "w");
	KS_ASSERT(out && PEM_write_PUBKEY(out, key));
	fclose(out);
	EVP_PKEY_free(key);
}

static void make_keys(void)
{
	FILE *out;

	KS_ASSERT(mkdtemp(folder));
	write_keys("rsa", EVP_PKEY_Q_keygen(NULL, NULL, "RSA", (size_t)2048));
	write_keys("rsa2", EVP_PKEY_Q_keygen(NULL, NULL, "RSA", (size_t)2048));
	write_keys("p256", EVP_PKEY_Q_keygen(NULL, NULL, "EC", "P-256"));
	write_keys("p384", EVP_PKEY_Q_keygen(NULL, NULL, "EC", "P-384"));
	write_keys("p521", EVP_PKEY_Q_keygen(NULL, NULL, "EC", "P-521"));
	write_keys("ed", EVP_PKEY_Q_keygen(NULL, NULL, "ED25519"));
	out = fopen(path("hmac.key"), "w");
	KS_ASSERT(out && fputs("a secret that is long enough for anybody\n", out) > 0);
	fclose(out);
	out = fopen(path("junk.key"), "w");
	KS_ASSERT(out && fputs("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", out) > 0);
	fclose(out);
}

static void remove_keys(void)
{
	static const char *const names[] = {"rsa.key",  "rsa.pub",  "rsa2.key", "rsa2.pub", "p256.key",
					    "p256.pub", "p384.key", "p384.pub", "p521.key", "p521.pub",
					    "ed.key",   "ed.pub",   "hmac.key", "junk.key"};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		(void)unlink(path(names[i]));
	(void)rmdir(folder);
}

static const struct {
	const char *method, *key;
} methods[] = {
	{"HS256", "hmac"}, {"HS384", "hmac"}, {"HS512", "hmac"}, {"RS256", "rsa"}, {"RS384", "rsa"},
	{"RS512", "rsa"},  {"PS256", "rsa"},  {"PS384", "rsa"},  {"PS512", "rsa"}, {"ES256", "p256"},
	{"ES384", "p384"}, {"ES512", "p521"}, {"EdDSA", "ed"},
};

static const char *spec_of(const char *method, const char *private_key, const char *public_key)
{
	static char text[1024];
	char key[64] = "", pub[64] = "";

	if (private_key)
		snprintf(key, sizeof(key), "%s.key", private_key);
	if (public_key)
		snprintf(pub, sizeof(pub), "%s.pub", public_key);
	snprintf(text, sizeof(text), "jwt,sign-method=%s%s%s%s%s", method, private_key ? ",priv-key=" : "",
		 private_key ? path(key) : "", public_key ? ",pub-key=" : "", public_key ? path(pub) : "");
	return text;
}

static void every_method_signs_and_verifies(void)
{
	for (size_t i = 0; i < sizeof(methods) / sizeof(*methods); i++) {
		char *token;

		begin(spec_of(methods[i].method, methods[i].key, NULL));
		token = strdup(issue("alice"));
		CU_ASSERT(valid(token));
		CU_ASSERT(sf_is(caller.user, "alice") && caller.frozen && caller.auth_revision == af_revision());
		af_role("r"); /* the revision is that of its issue */
		CU_ASSERT(valid(token) && caller.auth_revision == af_revision() - 1);
		pass(299);
		CU_ASSERT(valid(token));
		pass(2);
		CU_ASSERT_FALSE(valid(token));
		free(token);
		end();
	}
}

static void tampered_jwt_is_refused(void)
{
	begin(spec_of("HS256", "hmac", NULL));
	no_letter_can_be_changed(issue("alice"));
	end();
	begin(spec_of("ES256", "p256", NULL));
	no_letter_can_be_changed(issue("alice"));
	end();
}

static void tokens_of_other_methods_and_keys_are_refused(void)
{
	for (size_t i = 0; i < sizeof(methods) / sizeof(*methods); i++) {
		char *token;

		begin(spec_of(methods[i].method, methods[i].key, NULL));
		token = strdup(issue("alice"));
		for (size_t j = 0; j < sizeof(methods) / sizeof(*methods); j++) {
			struct ks_tokens *other = new_tokens(spec_of(methods[j].method, methods[j].key, NULL), 0);

			CU_ASSERT_EQUAL(verify_with(other, ks_slice_str(token)), i == j);
			ks_tokens_free(other);
		}
		free(token);
		end();
	}
	begin(spec_of("RS256", "rsa", NULL));
	ks_tokens_free(tokens);
	tokens = new_tokens(spec_of("RS256", "rsa2", NULL), 0);
	{
		char *token = strdup(issue("alice"));
		struct ks_tokens *other = new_tokens(spec_of("RS256", "rsa", NULL), 0);

		CU_ASSERT_FALSE(verify_with(other, ks_slice_str(token)));
		ks_tokens_free(other);
		free(token);
	}
	end();
}

/* The classic: "none", and HMAC with the public key as its secret. */
static void algorithm_of_the_token_is_not_believed(void)
{
	static const char claims[] = "eyJleHAiOjQwMDAwMDAwMDAsInJldmlzaW9uIjo0LCJ1c2VybmFtZSI6InJvb3QifQ";
	char token[4096];
	struct ks_tokens *forger;
	FILE *in, *out;
	char pem[2048];
	size_t size;

	begin(spec_of("RS256", "rsa", "rsa"));
	snprintf(token, sizeof(token), "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.%s.", claims);
	CU_ASSERT_FALSE(valid(token));
	snprintf(token, sizeof(token), "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.%s.", claims);
	CU_ASSERT_FALSE(valid(token));
	in = fopen(path("rsa.pub"), "r");
	size = fread(pem, 1, sizeof(pem), in);
	fclose(in);
	out = fopen(path("junk.key"), "w");
	fwrite(pem, 1, size, out);
	fclose(out);
	forger = new_tokens(spec_of("HS256", "junk", NULL), 0);
	CU_ASSERT_PTR_NOT_NULL_FATAL(forger);
	{
		struct ks_tokens *keep = tokens;

		tokens = forger;
		snprintf(token, sizeof(token), "%s", issue("root"));
		tokens = keep;
	}
	CU_ASSERT_FALSE(valid(token));
	ks_tokens_free(forger);
	end();
}

/* Made with Python's hmac and base64, with the claims in another order, as other programs write them. */
static void foreign_tokens_are_read(void)
{
	/* {"alg":"HS256","typ":"JWT"} . {"username":"alice","revision":4.0,"exp":1800000100} */
	static const char good[] = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9."
				   "eyJ1c2VybmFtZSI6ImFsaWNlIiwicmV2aXNpb24iOjQuMCwiZXhwIjoxODAwMDAwMTAwfQ."
				   "HpZSS0ge37VDvOL2cSkh1Ib1Hzxkrcfd5HbD0C6megs";
	static const char no_user[] =
		"eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJ1c2VybmFtZSI6NywicmV2aXNpb24iOjQsImV4cCI6MTgwMDAwMDEwMH0._CH-"
		"VwYs-6RrYDe49mqxhj5ocyKZD9tjm0WEBIkXFuA";
	static const char expired[] = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9."
				      "eyJ1c2VybmFtZSI6ImFsaWNlIiwicmV2aXNpb24iOjQsImV4cCI6MTgwMDAwMDAwMH0.y-"
				      "E4ehODP5TwvKQanKb14Z9n2qJoUVcNcrkuRoIfZu0";
	static const char twice[] = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9."
				    "eyJ1c2VybmFtZSI6ImFsaWNlIiwidXNlcm5hbWUiOiJyb290IiwicmV2aXNpb24iOjQsImV4cCI6MTgwMD"
				    "AwMDEwMH0.4KVuGHG0UneaJ8DdtsNfrWBnci7XXnV7yQCe3evJs08";
	static const char early[] = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9."
				    "eyJ1c2VybmFtZSI6ImFsaWNlIiwicmV2aXNpb24iOjQsImV4cCI6MTgwMDAwMDEwMCwibmJmIjoxODAwMD"
				    "AwMDUwfQ.BySTBNcRcN2bPd8byXlRxZRaMd-S8qM980hXIJp3a00";
	static const char forever[] =
		"eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJ1c2VybmFtZSI6ImFsaWNlIiwicmV2aXNpb24iOjR9."
		"u1rHU5OFqQPWDFP4gdvK342DnpjzGXRclSmtxpaQgtc";

	begin(spec_of("HS256", "hmac", NULL));
	CU_ASSERT(valid(good));
	CU_ASSERT(sf_is(caller.user, "alice") && caller.auth_revision == 4);
	CU_ASSERT_FALSE(valid(no_user));
	CU_ASSERT_FALSE(valid(expired));
	CU_ASSERT_FALSE(valid(twice));
	CU_ASSERT_FALSE(valid(early));
	CU_ASSERT(valid(forever)); /* etcd does not ask for an end either */
	pass(101);
	CU_ASSERT_FALSE(valid(good));
	end();
}

static void public_key_alone_verifies(void)
{
	struct ks_tokens *signer;
	struct ks_auth *auth;
	struct ks_buf buf;
	char *token;

	begin(spec_of("ES384", "p384", "p384"));
	token = strdup(issue("alice"));
	signer = tokens;
	tokens = new_tokens(spec_of("ES384", NULL, "p384"), 0);
	CU_ASSERT_PTR_NOT_NULL_FATAL(tokens);
	CU_ASSERT(valid(token));
	auth = ks_store_auth(sf_store);
	ks_buf_init(&buf, 4096);
	CU_ASSERT_EQUAL(ks_tokens_issue(tokens, auth, ks_auth_find_user(auth, S("alice")), &buf, &err), KS_UNKNOWN);
	CU_ASSERT_STRING_EQUAL(err.text, "auth: token signing attempted with verify-only key");
	ks_buf_fini(&buf);
	ks_auth_unref(auth);
	ks_tokens_free(signer);
	free(token);
	end();
}

static void refuses(const char *spec, const char *why)
{
	CU_ASSERT_PTR_NULL(new_tokens(spec, 300));
	CU_ASSERT_EQUAL(err.status, KS_INVALID_ARGUMENT);
	if (!strstr(err.text, why))
		printf("# %s: %s\n", spec, err.text);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, why));
}

static void wrong_options_are_named(void)
{
	char spec[1024];

	refuses("jwt", "neither simple nor jwt");
	refuses("simplex", "neither simple nor jwt");
	refuses("jwt,", "not an option");
	refuses("jwt,ttl=5m", "needs sign-method");
	refuses("jwt,sign-method=none", "unknown sign-method");
	refuses("jwt,sign-method=RS256", "needs priv-key");
	refuses("jwt,sign-method=HS256", "needs priv-key");
	refuses("jwt,sign-method=RS256,sign-method=RS256", "not an option");
	refuses("jwt,sign-method=RS256,key=x", "not an option");
	refuses("jwt,sign-method=RS256,ttl=0s", "not a time");
	refuses("jwt,sign-method=RS256,ttl=5x", "not a time");
	refuses("jwt,sign-method=RS256,ttl=", "not an option");
	refuses("jwt,sign-method=RS256,priv-key=/nowhere", "cannot read");
	refuses(spec_of("RS256", "p256", NULL), "not one for RS256");
	refuses(spec_of("ES256", "p384", NULL), "not one for ES256");
	refuses(spec_of("EdDSA", "rsa", NULL), "not one for EdDSA");
	refuses(spec_of("RS256", "hmac", NULL), "no such key");
	refuses(spec_of("RS256", "rsa", "rsa2"), "do not belong together");
	snprintf(spec, sizeof(spec), "%s,ttl=1h30m", spec_of("RS256", "rsa", NULL));
	ks_tokens_free(new_tokens(spec, 0));
	CU_ASSERT_EQUAL(err.status, KS_OK);
}

int main(void)
{
	int failed;

	make_keys();
	failed = tap_run(
		"token",
		(const struct tap_test[]){
			{"simple_token_names_its_user", simple_token_names_its_user},
			{"every_instance_knows_it", every_instance_knows_it},
			{"it_lives_on_while_it_is_used", it_lives_on_while_it_is_used},
			{"clocks_may_differ_a_little", clocks_may_differ_a_little},
			{"it_ends_with_password_user_and_auth", it_ends_with_password_user_and_auth},
			{"tampered_simple_token_is_refused", tampered_simple_token_is_refused},
			{"token_of_a_later_state_is_known_as_such", token_of_a_later_state_is_known_as_such},
			{"every_method_signs_and_verifies", every_method_signs_and_verifies},
			{"tampered_jwt_is_refused", tampered_jwt_is_refused},
			{"tokens_of_other_methods_and_keys_are_refused", tokens_of_other_methods_and_keys_are_refused},
			{"algorithm_of_the_token_is_not_believed", algorithm_of_the_token_is_not_believed},
			{"foreign_tokens_are_read", foreign_tokens_are_read},
			{"public_key_alone_verifies", public_key_alone_verifies},
			{"wrong_options_are_named", wrong_options_are_named},
			{NULL, NULL},
		});
	remove_keys();
	return failed;
}
