/* SPDX-License-Identifier: Apache-2.0 */
/* Contexts from files, and when to read these again; see tls_context.h. tls_verify.c has what clients must show. */
#include "net/tls_context.h"

#include <errno.h>
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/diag.h"
#include "base/metrics.h"
#include "base/panic.h"
#include "net/tls_context_priv.h"
#include "net/x509.h"

/* Forward secrecy and authenticated encryption only; those of TLS 1.3 are all of that kind. */
#define DEFAULT_CIPHERS "ECDHE+AESGCM:ECDHE+CHACHA20"
#define READ_BUFFER_BYTES 65536
#define NEAR_END_S (14 * 86400)
#define YEAR_S ((int64_t)365 * 86400)
#define RENEW_LOOK_S 3600

/* ---- reading the files ---- */

static enum ks_status unusable(struct ks_err *err, const char *what, const char *path)
{
	return ks_fail(err, KS_INVALID_ARGUMENT, "cannot use the %s %.120s: %s", what, path, ks_x509_reason());
}

/* OpenSSL's own words about a missing file help nobody. */
static enum ks_status check_readable(const char *what, const char *path, struct ks_err *err)
{
	FILE *file = fopen(path, "re");

	if (!file)
		return ks_fail(err, KS_INVALID_ARGUMENT, "cannot read the %s %.160s: %s", what, path,
			       strerrordesc_np(errno));
	(void)fclose(file);
	ERR_clear_error();
	return KS_OK;
}

static enum ks_status load_own(SSL_CTX *ctx, const struct ks_tls_context *context, struct ks_err *err)
{
	const char *cert = context->files[TLS_CERT], *key = context->files[TLS_KEY];
	enum ks_status status = check_readable("certificate", cert, err);

	if (status == KS_OK && SSL_CTX_use_certificate_chain_file(ctx, cert) != 1)
		status = unusable(err, "certificate", cert);
	if (status == KS_OK)
		status = check_readable("key", key, err);
	if (status == KS_OK && SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1)
		status = unusable(err, "key", key);
	if (status == KS_OK && SSL_CTX_check_private_key(ctx) != 1)
		status = unusable(err, "key", key);
	return status;
}

static int no_passphrase(char *buffer, int size, int writing, void *ctx)
{
	(void)buffer;
	(void)size;
	(void)writing;
	(void)ctx;
	return 0;
}

static int version_of(const char *text)
{
	if (strcmp(text, "TLS1.3") == 0)
		return TLS1_3_VERSION;
	return strcmp(text, "TLS1.2") == 0 ? TLS1_2_VERSION : 0;
}

static int least_version(const struct ks_tls_context *context)
{
	/* Only suites of 1.3 were named. */
	if (!*context->ciphers12 && *context->ciphers13)
		return TLS1_3_VERSION;
	return *context->min_version ? version_of(context->min_version) : TLS1_2_VERSION;
}

static enum ks_status configure(SSL_CTX *ctx, const struct ks_tls_context *context, struct ks_err *err)
{
	const char *ciphers = *context->ciphers12 ? context->ciphers12 : DEFAULT_CIPHERS;

	SSL_CTX_set_default_passwd_cb(ctx, no_passphrase);
	(void)SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
					       SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA |
					       SSL_OP_IGNORE_UNEXPECTED_EOF);
	(void)SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	(void)SSL_CTX_set_num_tickets(ctx, 0);
	(void)SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_read_ahead(ctx, 1);
	SSL_CTX_set_default_read_buffer_len(ctx, READ_BUFFER_BYTES);
	ks_tls_set_alpn(ctx);
	if (SSL_CTX_set_min_proto_version(ctx, least_version(context)) != 1 ||
	    SSL_CTX_set_max_proto_version(ctx, version_of(context->max_version)) != 1 ||
	    SSL_CTX_set_cipher_list(ctx, ciphers) != 1 ||
	    (*context->ciphers13 && SSL_CTX_set_ciphersuites(ctx, context->ciphers13) != 1))
		return ks_fail(err, KS_INTERNAL, "cannot set TLS up: %s", ks_x509_reason());
	return KS_OK;
}

static SSL_CTX *load(const struct ks_tls_context *context, struct ks_err *err)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
	enum ks_status status =
		ctx ? configure(ctx, context, err) : ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");

	if (status == KS_OK)
		status = load_own(ctx, context, err);
	if (status == KS_OK && *context->files[TLS_CA])
		status = ks_tls_set_verification(ctx, context, err);
	if (status == KS_OK)
		return ctx;
	SSL_CTX_free(ctx);
	return NULL;
}

/* ---- the certificate that we make ourselves ---- */

static enum ks_status make_own(struct ks_tls_context *context, struct ks_err *err)
{
	const struct ks_x509_request request = {
		.common_name = "kineshim",
		.hosts = context->auto_hosts,
		.server = true,
		.client = true,
		.seconds = context->auto_years * YEAR_S,
	};
	EVP_PKEY *key = ks_x509_new_key(err);
	X509 *cert = key ? ks_x509_issue(&request, key, NULL, NULL, err) : NULL;
	enum ks_status status = cert ? KS_OK : err->status;

	(void)unlink(context->files[TLS_CERT]);
	(void)unlink(context->files[TLS_KEY]);
	if (status == KS_OK)
		status = ks_x509_write_key(context->files[TLS_KEY], key, err);
	if (status == KS_OK)
		status = ks_x509_write_cert(context->files[TLS_CERT], cert, err);
	X509_free(cert);
	EVP_PKEY_free(key);
	return status;
}

/* Made anew when a tenth of its time is left, or when the old one cannot be read. */
static enum ks_status keep_own(struct ks_tls_context *context, struct ks_err *err)
{
	int64_t least = (int64_t)time(NULL) + context->auto_years * YEAR_S / 10;
	X509 *cert = ks_x509_read_cert(context->files[TLS_CERT], NULL);
	EVP_PKEY *key = ks_x509_read_key(context->files[TLS_KEY], NULL);
	bool good = cert && key && ks_x509_not_after(cert) > least && X509_check_private_key(cert, key) == 1;

	X509_free(cert);
	EVP_PKEY_free(key);
	ERR_clear_error();
	context->look_s = (int64_t)time(NULL) + RENEW_LOOK_S;
	if (good)
		return KS_OK;
	ks_diag(KS_INFO, "tls", "making a certificate signed by itself path=%s years=%d", context->files[TLS_CERT],
		context->auto_years);
	return make_own(context, err);
}

static enum ks_status set_own(struct ks_tls_context *context, const char *folder, struct ks_err *err)
{
	char path[4096];

	(void)snprintf(path, sizeof(path), "%s/auto-tls", folder);
	if ((mkdir(folder, 0700) < 0 && errno != EEXIST) || (mkdir(path, 0700) < 0 && errno != EEXIST))
		return ks_fail(err, KS_UNAVAILABLE, "cannot make the folder %.160s: %s", path, strerrordesc_np(errno));
	for (int i = TLS_CERT; i <= TLS_KEY; i++) {
		free(context->files[i]);
		(void)snprintf(path, sizeof(path), "%s/auto-tls/%s.pem", folder, i == TLS_CERT ? "cert" : "key");
		context->files[i] = ks_xstrdup(path);
	}
	return keep_own(context, err);
}

/* ---- noticing changes ---- */

static struct tls_stamp stamp_of(const char *path)
{
	struct stat stat_buf;

	if (!*path || stat(path, &stat_buf) < 0)
		return (struct tls_stamp){0};
	return (struct tls_stamp){
		.device = (uint64_t)stat_buf.st_dev,
		.inode = (uint64_t)stat_buf.st_ino,
		.size = (uint64_t)stat_buf.st_size,
		.changed_ns = (int64_t)stat_buf.st_mtim.tv_sec * 1000000000 + stat_buf.st_mtim.tv_nsec,
		.moved_ns = (int64_t)stat_buf.st_ctim.tv_sec * 1000000000 + stat_buf.st_ctim.tv_nsec,
	};
}

static bool same_stamp(const struct tls_stamp *a, const struct tls_stamp *b)
{
	return a->device == b->device && a->inode == b->inode && a->size == b->size && a->changed_ns == b->changed_ns &&
	       a->moved_ns == b->moved_ns;
}

/* Takes the stamps; true when they are not those of the last time. */
static bool files_changed(struct ks_tls_context *context)
{
	bool changed = false;

	for (int i = 0; i < TLS_FILES; i++) {
		struct tls_stamp stamp = stamp_of(context->files[i]);

		changed = changed || !same_stamp(&stamp, &context->stamps[i]);
		context->stamps[i] = stamp;
	}
	return changed;
}

static void report_own(const struct ks_tls_context *context, SSL_CTX *ctx)
{
	int64_t end_s = ks_x509_not_after(SSL_CTX_get0_certificate(ctx)), left_s = end_s - (int64_t)time(NULL);
	struct stat stat_buf;

	KS_SET(TLS_EXPIRY, end_s);
	if (left_s <= 0)
		ks_diag(KS_ERROR, "tls",
			"the server's certificate has ended, clients refuse it; put a new one in its place path=%s",
			context->files[TLS_CERT]);
	else if (left_s < NEAR_END_S)
		ks_diag(KS_WARN, "tls", "the server's certificate ends soon path=%s days_left=%lld",
			context->files[TLS_CERT], (long long)(left_s / 86400));
	if (stat(context->files[TLS_KEY], &stat_buf) == 0 && stat_buf.st_mode & S_IROTH)
		ks_diag(KS_WARN, "tls", "everybody may read the server's key; chmod it to 0600 path=%s",
			context->files[TLS_KEY]);
}

static void reload(struct ks_tls_context *context)
{
	struct ks_err err = {0};
	SSL_CTX *ctx = load(context, &err);

	KS_COUNT_AT(TLS_RELOADS, ctx ? 0 : 1, 1);
	if (!ctx) {
		/* Once for each change: the stamps are the broken files' now. */
		ks_diag(KS_WARN, "tls", "the changed files cannot be used, the old ones stay in use: %s", err.text);
		return;
	}
	SSL_CTX_free(context->ctx);
	context->ctx = ctx;
	ks_diag(KS_INFO, "tls", "certificates read again path=%s", context->files[TLS_CERT]);
	report_own(context, ctx);
}

SSL_CTX *ks_tls_context_take(struct ks_tls_context *context)
{
	SSL_CTX *ctx;

	ks_mutex_lock(&context->lock);
	if (context->auto_years && (int64_t)time(NULL) >= context->look_s) {
		struct ks_err err = {0};

		if (keep_own(context, &err))
			ks_diag(KS_WARN, "tls", "cannot renew the certificate: %s", err.text);
	}
	if (files_changed(context))
		reload(context);
	ctx = context->ctx;
	(void)SSL_CTX_up_ref(ctx);
	ks_mutex_unlock(&context->lock);
	return ctx;
}

/* ---- life ---- */

static char *copy_of(const char *text)
{
	return ks_xstrdup(text ? text : "");
}

static enum ks_status check_version(const char *flag, const char *text, struct ks_err *err)
{
	if (!*text || version_of(text))
		return KS_OK;
	return ks_fail(err, KS_INVALID_ARGUMENT, "--%s: \"%.40s\" is not TLS1.2 or TLS1.3", flag, text);
}

static enum ks_status check(const struct ks_tls_context *context, struct ks_err *err)
{
	enum ks_status status = check_version("tls-min-version", context->min_version, err);

	if (status == KS_OK)
		status = check_version("tls-max-version", context->max_version, err);
	if (status != KS_OK)
		return status;
	if (*context->max_version && version_of(context->max_version) < least_version(context))
		return ks_fail(err, KS_INVALID_ARGUMENT,
			       "--tls-max-version is below --tls-min-version, or has no cipher suite");
	if (!*context->files[TLS_CA] && (*context->files[TLS_CRL] || context->client_cert_auth ||
					 *context->allowed_hostname || *context->allowed_cn))
		return ks_fail(err, KS_INVALID_ARGUMENT, "clients' certificates are verified with --trusted-ca-file");
	return KS_OK;
}

static enum ks_status open_context(struct ks_tls_context *context, const struct ks_tls_settings *settings,
				   struct ks_err *err)
{
	enum ks_status status = ks_tls_ciphers(settings->cipher_suites ? settings->cipher_suites : "",
					       &context->ciphers12, &context->ciphers13, err);

	if (status == KS_OK)
		status = check(context, err);
	if (status == KS_OK && context->auto_years)
		status = set_own(context, settings->auto_dir, err);
	if (status != KS_OK)
		return status;
	(void)files_changed(context);
	context->ctx = load(context, err);
	if (!context->ctx)
		return err->status;
	report_own(context, context->ctx);
	return KS_OK;
}

struct ks_tls_context *ks_tls_context_new(const struct ks_tls_settings *settings, struct ks_err *err)
{
	struct ks_tls_context *context = ks_xcalloc(1, sizeof(*context));

	ks_mutex_init(&context->lock);
	context->files[TLS_CERT] = copy_of(settings->cert_file);
	context->files[TLS_KEY] = copy_of(settings->key_file);
	context->files[TLS_CA] = copy_of(settings->ca_file);
	context->files[TLS_CRL] = copy_of(settings->crl_file);
	context->allowed_hostname = copy_of(settings->allowed_hostname);
	context->allowed_cn = copy_of(settings->allowed_cn);
	context->min_version = copy_of(settings->min_version);
	context->max_version = copy_of(settings->max_version);
	context->auto_hosts = copy_of(settings->auto_hosts);
	context->client_cert_auth = settings->client_cert_auth;
	context->auto_years = *context->files[TLS_CERT] ? 0 : settings->auto_years;
	if (open_context(context, settings, err) == KS_OK)
		return context;
	ks_tls_context_free(context);
	return NULL;
}

void ks_tls_context_free(struct ks_tls_context *context)
{
	if (!context)
		return;
	SSL_CTX_free(context->ctx);
	for (int i = 0; i < TLS_FILES; i++)
		free(context->files[i]);
	free(context->allowed_hostname);
	free(context->allowed_cn);
	free(context->min_version);
	free(context->max_version);
	free(context->auto_hosts);
	free(context->ciphers12);
	free(context->ciphers13);
	ks_mutex_fini(&context->lock);
	free(context);
}
