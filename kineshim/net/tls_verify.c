/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a client must show: a certificate that the CA has signed, that is valid now, may be used by clients, is not revoked, and
 * is for an allowed name. And what it may speak (ALPN).
 *
 * As with etcd, each certificate in the CA file is an anchor by itself, be it a root or not. A CA without a revocation list
 * in the file has revoked nothing. A list that is older than its own "next update" still counts: turning every client away would be
 * worse than what is known to be revoked being a little old. It is logged.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/diag.h"
#include "base/panic.h"
#include "net/tls_context_priv.h"
#include "net/x509.h"

#define NAMES_MAX 64

/* ---- verification ---- */

static int on_verify(int fine, X509_STORE_CTX *store_ctx)
{
	if (fine)
		return 1;
	switch (X509_STORE_CTX_get_error(store_ctx)) {
	case X509_V_ERR_CRL_HAS_EXPIRED:
		KS_DIAG_LIMITED(KS_WARN, "tls", "the revocation list is out of date, and still used");
		break;
	case X509_V_ERR_UNABLE_TO_GET_CRL:
		break;
	default:
		return 0;
	}
	/* Otherwise it would remain the verdict on the whole chain, and the client, though let in, would have no name. */
	X509_STORE_CTX_set_error(store_ctx, X509_V_OK);
	return 1;
}

/* A certificate's common name, "" when there is none or a zero byte in it. The last one counts, as in Go. Free it. */
static char *common_name(const X509 *cert)
{
	const X509_NAME *subject = X509_get_subject_name(cert);
	unsigned char *utf8 = NULL;
	int last = -1, next, size;
	char *name;

	while ((next = X509_NAME_get_index_by_NID(subject, NID_commonName, last)) >= 0)
		last = next;
	if (last < 0)
		return ks_xstrdup("");
	size = ASN1_STRING_to_UTF8(&utf8, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, last)));
	if (size < 0)
		return ks_xstrdup("");
	name = ks_xstrdup(strlen((const char *)utf8) == (size_t)size ? (const char *)utf8 : "");
	OPENSSL_free(utf8);
	return name;
}

static bool is_for_host(X509 *cert, const char *host)
{
	unsigned flags = X509_CHECK_FLAG_NEVER_CHECK_SUBJECT | X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS;

	return X509_check_ip_asc(cert, host, 0) == 1 || X509_check_host(cert, host, 0, flags, NULL) == 1;
}

static bool has_common_name(X509 *cert, const char *wanted)
{
	char *name = common_name(cert);
	bool has = *name && strcmp(name, wanted) == 0;

	free(name);
	return has;
}

/* Does one of the comma separated texts fit? An empty list allows everybody. */
static bool any_fits(const char *list, X509 *cert, bool (*fits)(X509 *cert, const char *text))
{
	char *copy = ks_xstrdup(list), *rest = copy, *text;
	bool found = !*list;

	while (!found && (text = strsep(&rest, ",")))
		found = *text && fits(cert, text);
	free(copy);
	return found;
}

static int verify(X509_STORE_CTX *store_ctx, void *arg)
{
	const struct ks_tls_context *context = arg;
	X509 *cert = X509_STORE_CTX_get0_cert(store_ctx);

	if (X509_verify_cert(store_ctx) != 1)
		return 0;
	if (any_fits(context->allowed_hostname, cert, is_for_host) &&
	    any_fits(context->allowed_cn, cert, has_common_name))
		return 1;
	X509_STORE_CTX_set_error(store_ctx, X509_V_ERR_HOSTNAME_MISMATCH);
	return 0;
}

/* ---- CA and revocation list ---- */

static enum ks_status load_ca(SSL_CTX *ctx, const char *path, struct ks_err *err)
{
	STACK_OF(X509_NAME) * names;
	X509 *first = ks_x509_read_cert(path, err);

	if (!first)
		return err->status;
	X509_free(first);
	names = SSL_load_client_CA_file(path);
	if (!names || X509_STORE_load_file(SSL_CTX_get_cert_store(ctx), path) != 1) {
		sk_X509_NAME_pop_free(names, X509_NAME_free);
		return ks_fail(err, KS_INVALID_ARGUMENT, "cannot use the CA %.120s: %s", path, ks_x509_reason());
	}
	SSL_CTX_set_client_CA_list(ctx, names);
	return KS_OK;
}

static bool is_end_of_pem(void)
{
	unsigned long code = ERR_peek_last_error();

	return ERR_GET_LIB(code) == ERR_LIB_PEM && ERR_GET_REASON(code) == PEM_R_NO_START_LINE;
}

/* Lists in PEM, one or several; without any, one in DER. */
static int add_lists(X509_STORE *store, FILE *file)
{
	X509_CRL *list;
	int count = 0;

	while ((list = PEM_read_X509_CRL(file, NULL, NULL, NULL))) {
		count = X509_STORE_add_crl(store, list) == 1 && count >= 0 ? count + 1 : -1;
		X509_CRL_free(list);
	}
	if (count != 0)
		return is_end_of_pem() ? count : -1;
	ERR_clear_error();
	rewind(file);
	list = d2i_X509_CRL_fp(file, NULL);
	if (list)
		count = X509_STORE_add_crl(store, list) == 1 ? 1 : -1;
	X509_CRL_free(list);
	return count;
}

static enum ks_status load_crl(SSL_CTX *ctx, const char *path, struct ks_err *err)
{
	X509_STORE *store = SSL_CTX_get_cert_store(ctx);
	FILE *file = fopen(path, "re");
	int count;

	if (!file)
		return ks_fail(err, KS_INVALID_ARGUMENT, "cannot read the revocation list %.160s: %s", path,
			       strerrordesc_np(errno));
	ERR_clear_error();
	count = add_lists(store, file);
	(void)fclose(file);
	if (count <= 0)
		return ks_fail(err, KS_INVALID_ARGUMENT, "cannot use the revocation list %.120s: %s", path,
			       ks_x509_reason());
	ERR_clear_error();
	(void)X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
	return KS_OK;
}

enum ks_status ks_tls_set_verification(SSL_CTX *ctx, const struct ks_tls_context *context, struct ks_err *err)
{
	enum ks_status status = load_ca(ctx, context->files[TLS_CA], err);

	(void)X509_STORE_set_flags(SSL_CTX_get_cert_store(ctx), X509_V_FLAG_PARTIAL_CHAIN);
	if (status == KS_OK && *context->files[TLS_CRL])
		status = load_crl(ctx, context->files[TLS_CRL], err);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, on_verify);
	SSL_CTX_set_cert_verify_callback(ctx, verify, (void *)(uintptr_t)context);
	return status;
}

/* ---- identity ---- */

static char *name_text(const GENERAL_NAME *name)
{
	char *text = NULL, ip[INET6_ADDRSTRLEN];
	int type;
	const ASN1_STRING *string = GENERAL_NAME_get0_value(name, &type);
	const char *kind = type == GEN_DNS ? "DNS" : type == GEN_URI ? "URI" : type == GEN_EMAIL ? "email" : NULL;
	size_t size;

	if (type != GEN_IPADD && !kind)
		return NULL;
	size = (size_t)ASN1_STRING_length(string);
	if (type == GEN_IPADD) {
		if ((size != 4 && size != 16) ||
		    !inet_ntop(size == 4 ? AF_INET : AF_INET6, ASN1_STRING_get0_data(string), ip, sizeof(ip)) ||
		    asprintf(&text, "IP:%s", ip) < 0)
			return NULL;
		return text;
	}
	/* A zero byte would make two names look alike. */
	if (memchr(ASN1_STRING_get0_data(string), '\0', size) ||
	    asprintf(&text, "%s:%.*s", kind, (int)size, (const char *)ASN1_STRING_get0_data(string)) < 0)
		return NULL;
	return text;
}

static size_t alternative_names(const X509 *cert, char *names[NAMES_MAX])
{
	GENERAL_NAMES *all = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
	size_t count = 0;

	for (int i = 0; i < sk_GENERAL_NAME_num(all) && count < NAMES_MAX; i++) {
		names[count] = name_text(sk_GENERAL_NAME_value(all, i));
		count += names[count] != NULL;
	}
	GENERAL_NAMES_free(all);
	return count;
}

struct ks_identity *ks_tls_context_identity(const struct ks_tls_context *context, SSL *ssl)
{
	X509 *cert = context->client_cert_auth ? SSL_get0_peer_certificate(ssl) : NULL;
	struct ks_identity *identity;
	char *names[NAMES_MAX], *name;
	size_t count;

	if (!cert || SSL_get_verify_result(ssl) != X509_V_OK)
		return NULL;
	name = common_name(cert);
	count = alternative_names(cert, names);
	identity = ks_identity_new(name, (const char *const *)names, count);
	while (count > 0)
		free(names[--count]);
	free(name);
	ERR_clear_error();
	return identity;
}

void ks_tls_context_why(SSL *ssl, char *text, size_t size)
{
	long verdict = SSL_get_verify_result(ssl);
	const char *reason = ks_x509_reason();

	if (verdict != X509_V_OK)
		(void)snprintf(text, size, "%s", X509_verify_cert_error_string(verdict));
	else
		(void)snprintf(text, size, "%s", reason);
}

/* ---- ALPN ---- */

static bool offers(const unsigned char *list, unsigned size, const char *name)
{
	for (unsigned at = 0; at < size; at += 1u + list[at])
		if (list[at] == strlen(name) && at + 1u + list[at] <= size &&
		    memcmp(list + at + 1, name, list[at]) == 0)
			return true;
	return false;
}

/*
 * gRPC's clients offer h2 and nothing else. Who offers HTTP/1.1, too, is an HTTP client that wants JSON, which we serve over
 * HTTP/1.1 only; so that comes first where both are served.
 */
static int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_size, const unsigned char *list,
		   unsigned size, void *arg)
{
	struct ks_tls_protocols *protocols = SSL_get_app_data(ssl);
	const char *chosen = NULL;

	(void)arg;
	if (protocols->http1 && offers(list, size, "http/1.1"))
		chosen = "http/1.1";
	else if (protocols->http2 && offers(list, size, "h2"))
		chosen = "h2";
	protocols->chose_http2 = chosen && strcmp(chosen, "h2") == 0;
	if (!chosen)
		return SSL_TLSEXT_ERR_ALERT_FATAL;
	*out = (const unsigned char *)chosen;
	*out_size = (unsigned char)strlen(chosen);
	return SSL_TLSEXT_ERR_OK;
}

void ks_tls_set_alpn(SSL_CTX *ctx)
{
	SSL_CTX_set_alpn_select_cb(ctx, on_alpn, NULL);
}
