/* SPDX-License-Identifier: Apache-2.0 */
/* Cipher suites by the names that Go (and so etcd) gives them, which are IANA's but for two. */
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/panic.h"
#include "net/tls_context.h"

#define LIST_MAX 8192

/* Go named these before IANA did; it takes the long names, too. */
static const char *iana_name(const char *name)
{
	if (strcmp(name, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305") == 0)
		return "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256";
	if (strcmp(name, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305") == 0)
		return "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256";
	return name;
}

/* What OpenSSL calls it; NULL when this OpenSSL does not have it (RC4, 3DES) or nobody does. */
static const char *openssl_name(const char *name)
{
	const char *own = strncmp(name, "TLS_", 4) == 0 ? OPENSSL_cipher_name(iana_name(name)) : "(NONE)";

	return strcmp(own, "(NONE)") == 0 ? NULL : own;
}

static bool usable(SSL_CTX *ctx, const char *name, bool is_tls13)
{
	return (is_tls13 ? SSL_CTX_set_ciphersuites(ctx, name) : SSL_CTX_set_cipher_list(ctx, name)) == 1;
}

static enum ks_status add(struct ks_buf lists[2], SSL_CTX *ctx, const char *suite, struct ks_err *err)
{
	const char *name = openssl_name(suite);
	bool is_tls13 = name && strncmp(name, "TLS_", 4) == 0;

	if (!name || !usable(ctx, name, is_tls13))
		return ks_fail(err, KS_INVALID_ARGUMENT, "unexpected TLS cipher suite \"%.80s\"", suite);
	ks_buf_printf(&lists[is_tls13], "%s%s", lists[is_tls13].size ? ":" : "", name);
	return KS_OK;
}

enum ks_status ks_tls_ciphers(const char *suites, char **tls12, char **tls13, struct ks_err *err)
{
	char *copy = ks_xstrdup(suites), *rest = copy, *suite;
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
	enum ks_status status = ctx ? KS_OK : ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
	struct ks_buf lists[2];
	size_t size;

	ks_buf_init(&lists[0], LIST_MAX);
	ks_buf_init(&lists[1], LIST_MAX);
	while (status == KS_OK && *suites && (suite = strsep(&rest, ",")))
		status = add(lists, ctx, suite, err);
	for (int i = 0; i < 2; i++)
		ks_buf_append(&lists[i], "", 1);
	if (status == KS_OK && (lists[0].failed || lists[1].failed))
		status = ks_fail(err, KS_INVALID_ARGUMENT, "too many TLS cipher suites");
	if (status == KS_OK) {
		*tls12 = (char *)ks_buf_take(&lists[0], &size);
		*tls13 = (char *)ks_buf_take(&lists[1], &size);
	}
	ks_buf_fini(&lists[0]);
	ks_buf_fini(&lists[1]);
	SSL_CTX_free(ctx);
	free(copy);
	return status;
}
