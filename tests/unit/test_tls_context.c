/* SPDX-License-Identifier: Apache-2.0 */
/* x509.h and tls_context.h without a network: names of ciphers, what is refused, and when files are read again. */
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/panic.h"
#include "net/tls_context.h"
#include "net/x509.h"
#include "tests/lib/tap.h"

#define DAY_S 86400

static char folder[64];
static struct ks_err err;

static const char *in_folder(const char *name)
{
	static char paths[8][160];
	static unsigned next;
	char *path = paths[next++ % 8];

	(void)snprintf(path, sizeof(paths[0]), "%s/%s", folder, name);
	return path;
}

static void set_up(void)
{
	(void)snprintf(folder, sizeof(folder), "/tmp/ks-tls-context.XXXXXX");
	KS_ASSERT(mkdtemp(folder));
	err = (struct ks_err){0};
}

static void tear_down(void)
{
	char command[128];

	(void)snprintf(command, sizeof(command), "rm -rf '%s'", folder);
	KS_ASSERT(system(command) == 0);
}

static void write_text(const char *path, const char *text)
{
	FILE *file = fopen(path, "w");

	KS_ASSERT(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

/* name.pem and name.key, in place of older ones. Signed by itself. */
static void make_pair(const char *name, const char *common_name)
{
	const struct ks_x509_request request = {
		.common_name = common_name,
		.hosts = "localhost,127.0.0.1,::1,*.example.com,spiffe://x/y",
		.server = true,
		.seconds = 30 * DAY_S,
	};
	EVP_PKEY *key = ks_x509_new_key(&err);
	X509 *cert = ks_x509_issue(&request, key, NULL, NULL, &err);
	char file[64];

	KS_ASSERT(key && cert);
	(void)snprintf(file, sizeof(file), "%s.key", name);
	(void)unlink(in_folder(file));
	KS_ASSERT(ks_x509_write_key(in_folder(file), key, &err) == KS_OK);
	(void)snprintf(file, sizeof(file), "%s.pem", name);
	(void)unlink(in_folder(file));
	KS_ASSERT(ks_x509_write_cert(in_folder(file), cert, &err) == KS_OK);
	X509_free(cert);
	EVP_PKEY_free(key);
}

static struct ks_tls_settings pair(const char *name)
{
	static char cert[160], key[160];

	(void)snprintf(cert, sizeof(cert), "%s/%s.pem", folder, name);
	(void)snprintf(key, sizeof(key), "%s/%s.key", folder, name);
	return (struct ks_tls_settings){.cert_file = cert, .key_file = key};
}

static bool presents(struct ks_tls_context *context, const char *common_name)
{
	SSL_CTX *ctx = ks_tls_context_take(context);
	char name[64] = "";

	X509_NAME_get_text_by_NID(X509_get_subject_name(SSL_CTX_get0_certificate(ctx)), NID_commonName, name,
				  sizeof(name));
	SSL_CTX_free(ctx);
	return strcmp(name, common_name) == 0;
}

static void ciphers_have_the_names_of_go(void)
{
	static const char *const good[] = {
		"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
		"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
		"TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
		"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
		"TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
		"TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
		"TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
		"TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
		"TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
		"TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
		"TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
		"TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
		"TLS_RSA_WITH_AES_128_GCM_SHA256",
		"TLS_RSA_WITH_AES_256_GCM_SHA384",
		"TLS_RSA_WITH_AES_128_CBC_SHA",
		"TLS_AES_128_GCM_SHA256",
		"TLS_AES_256_GCM_SHA384",
		"TLS_CHACHA20_POLY1305_SHA256",
	};
	static const char *const bad[] = {
		"ECDHE-RSA-AES128-GCM-SHA256",
		"TLS_ECDHE_RSA_WITH_RC4_128_SHA",
		"TLS_NOTHING",
		"ALL",
		" ",
		",",
		"TLS_AES_128_GCM_SHA256,",
		"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256:ALL",
		"TLS_",
	};
	char *tls12, *tls13;

	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
		CU_ASSERT_EQUAL(ks_tls_ciphers(good[i], &tls12, &tls13, &err), KS_OK);
		CU_ASSERT_EQUAL(*tls13 != '\0', strchr(good[i], 'W') == NULL);
		CU_ASSERT_EQUAL(*tls12 != '\0', strchr(good[i], 'W') != NULL);
		free(tls12);
		free(tls13);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		CU_ASSERT_EQUAL(ks_tls_ciphers(bad[i], &tls12, &tls13, &err), KS_INVALID_ARGUMENT);
		CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "unexpected TLS cipher suite"));
	}
	CU_ASSERT_EQUAL(ks_tls_ciphers("TLS_RSA_WITH_AES_128_GCM_SHA256,TLS_AES_256_GCM_SHA384,"
				       "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
				       &tls12, &tls13, &err),
			KS_OK);
	CU_ASSERT_STRING_EQUAL(tls12, "AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256");
	CU_ASSERT_STRING_EQUAL(tls13, "TLS_AES_256_GCM_SHA384");
	free(tls12);
	free(tls13);
	CU_ASSERT_EQUAL(ks_tls_ciphers("", &tls12, &tls13, &err), KS_OK);
	CU_ASSERT_STRING_EQUAL(tls12, "");
	free(tls12);
	free(tls13);
}

static void changed_files_are_read_again(void)
{
	struct ks_tls_settings settings;
	struct ks_tls_context *context;

	set_up();
	make_pair("a", "first");
	settings = pair("a");
	context = ks_tls_context_new(&settings, &err);
	CU_ASSERT_PTR_NOT_NULL_FATAL(context);
	CU_ASSERT_TRUE(presents(context, "first"));
	make_pair("a", "second");
	CU_ASSERT_TRUE(presents(context, "second"));
	/* By name over the old one, as careful programs do it. */
	make_pair("b", "third");
	KS_ASSERT(rename(in_folder("b.pem"), in_folder("a.pem")) == 0);
	CU_ASSERT_TRUE(presents(context, "second")); /* the key is still another one's */
	KS_ASSERT(rename(in_folder("b.key"), in_folder("a.key")) == 0);
	CU_ASSERT_TRUE(presents(context, "third"));
	ks_tls_context_free(context);
	tear_down();
}

static void broken_files_leave_the_old_ones_in_use(void)
{
	struct ks_tls_settings settings;
	struct ks_tls_context *context;

	set_up();
	make_pair("a", "first");
	settings = pair("a");
	context = ks_tls_context_new(&settings, &err);
	CU_ASSERT_PTR_NOT_NULL_FATAL(context);
	write_text(in_folder("a.pem"), "-----BEGIN CERTIFICATE-----\nnonsense\n");
	CU_ASSERT_TRUE(presents(context, "first"));
	KS_ASSERT(truncate(in_folder("a.pem"), 0) == 0);
	CU_ASSERT_TRUE(presents(context, "first"));
	KS_ASSERT(unlink(in_folder("a.pem")) == 0 && unlink(in_folder("a.key")) == 0);
	CU_ASSERT_TRUE(presents(context, "first"));
	make_pair("a", "second");
	CU_ASSERT_TRUE(presents(context, "second"));
	ks_tls_context_free(context);
	tear_down();
}

static void refused(struct ks_tls_settings settings, const char *says)
{
	struct ks_tls_context *context = ks_tls_context_new(&settings, &err);

	CU_ASSERT_PTR_NULL(context);
	CU_ASSERT_EQUAL(err.status, KS_INVALID_ARGUMENT);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, says));
	if (!strstr(err.text, says))
		printf("# %s\n", err.text);
	ks_tls_context_free(context);
	CU_ASSERT_EQUAL(ERR_peek_error(), 0);
}

static void what_cannot_be_used_is_said(void)
{
	struct ks_tls_settings good, other, settings;
	char missing[160], text[160];

	set_up();
	make_pair("a", "a");
	make_pair("b", "b");
	(void)snprintf(missing, sizeof(missing), "%s/missing", folder);
	(void)snprintf(text, sizeof(text), "%s/text", folder);
	write_text(text, "no PEM at all");
	good = pair("a");
	settings = good;
	settings.cert_file = missing;
	refused(settings, "cannot read the certificate");
	settings = good;
	settings.key_file = missing;
	refused(settings, "cannot read the key");
	settings.key_file = text;
	refused(settings, "cannot use the key");
	other = (struct ks_tls_settings){.cert_file = good.cert_file, .key_file = in_folder("b.key")};
	refused(other, "key values mismatch");
	settings = good;
	settings.ca_file = text;
	refused(settings, "cannot use the certificate");
	settings.ca_file = good.cert_file;
	settings.crl_file = text;
	refused(settings, "cannot use the revocation list");
	settings.crl_file = missing;
	refused(settings, "cannot read the revocation list");
	settings = good;
	settings.client_cert_auth = true;
	refused(settings, "--trusted-ca-file");
	settings = good;
	settings.min_version = "TLS1.1";
	refused(settings, "--tls-min-version");
	settings.min_version = "TLS1.3";
	settings.max_version = "TLS1.2";
	refused(settings, "below");
	settings = good;
	settings.cipher_suites = "TLS_AES_128_GCM_SHA256";
	settings.max_version = "TLS1.2";
	refused(settings, "below");
	tear_down();
}

static void a_certificate_of_our_own_is_kept(void)
{
	struct ks_tls_settings settings = {
		.auto_dir = in_folder("data"), .auto_hosts = "localhost,::1", .auto_years = 2};
	struct ks_tls_context *context;
	struct stat key, before, after;
	X509 *cert;

	set_up();
	settings.auto_dir = in_folder("data");
	context = ks_tls_context_new(&settings, &err);
	CU_ASSERT_PTR_NOT_NULL_FATAL(context);
	CU_ASSERT_TRUE(presents(context, "kineshim"));
	ks_tls_context_free(context);
	KS_ASSERT(stat(in_folder("data/auto-tls/key.pem"), &key) == 0);
	CU_ASSERT_EQUAL(key.st_mode & 0777, 0600);
	KS_ASSERT(stat(in_folder("data/auto-tls/cert.pem"), &before) == 0);
	context = ks_tls_context_new(&settings, &err);
	ks_tls_context_free(context);
	KS_ASSERT(stat(in_folder("data/auto-tls/cert.pem"), &after) == 0);
	CU_ASSERT_EQUAL(before.st_ino, after.st_ino);
	cert = ks_x509_read_cert(in_folder("data/auto-tls/cert.pem"), &err);
	CU_ASSERT_PTR_NOT_NULL_FATAL(cert);
	CU_ASSERT_EQUAL(X509_check_host(cert, "localhost", 0, 0, NULL), 1);
	CU_ASSERT_EQUAL(X509_check_ip_asc(cert, "::1", 0), 1);
	CU_ASSERT_TRUE(ks_x509_not_after(cert) > time(NULL) + 729 * DAY_S);
	X509_free(cert);
	/* Half a pair is no pair. */
	KS_ASSERT(unlink(in_folder("data/auto-tls/key.pem")) == 0);
	context = ks_tls_context_new(&settings, &err);
	CU_ASSERT_PTR_NOT_NULL(context);
	ks_tls_context_free(context);
	tear_down();
}

static void odd_names_are_refused(void)
{
	static const char *const hosts[] = {"a b",   "a,,b", "-a",   "a..b",       "x:y",     "*",
					    "a.*.b", ".a",   "a\nb", "http://a b", "1.2.3.4,"};
	EVP_PKEY *key = ks_x509_new_key(&err);
	struct ks_x509_request request = {.common_name = "x", .server = true, .seconds = DAY_S};
	char long_name[200];

	for (size_t i = 0; i < sizeof(hosts) / sizeof(*hosts); i++) {
		request.hosts = hosts[i];
		CU_ASSERT_PTR_NULL(ks_x509_issue(&request, key, NULL, NULL, &err));
		CU_ASSERT_EQUAL(err.status, KS_INVALID_ARGUMENT);
	}
	request.hosts = "";
	memset(long_name, 'n', sizeof(long_name) - 1);
	long_name[sizeof(long_name) - 1] = '\0';
	request.common_name = long_name;
	CU_ASSERT_PTR_NULL(ks_x509_issue(&request, key, NULL, NULL, &err));
	CU_ASSERT_EQUAL(err.status, KS_INVALID_ARGUMENT);
	EVP_PKEY_free(key);
}

static void files_are_never_overwritten(void)
{
	EVP_PKEY *key = ks_x509_new_key(&err);

	set_up();
	CU_ASSERT_EQUAL(ks_x509_write_key(in_folder("k"), key, &err), KS_OK);
	CU_ASSERT_EQUAL(ks_x509_write_key(in_folder("k"), key, &err), KS_ALREADY_EXISTS);
	KS_ASSERT(symlink(in_folder("elsewhere"), in_folder("link")) == 0);
	CU_ASSERT_NOT_EQUAL(ks_x509_write_key(in_folder("link"), key, &err), KS_OK);
	CU_ASSERT_EQUAL(access(in_folder("elsewhere"), F_OK), -1);
	EVP_PKEY_free(key);
	tear_down();
}

int main(void)
{
	return tap_run("tls_context", (const struct tap_test[]){
#define T(name) {#name, name}
					      T(ciphers_have_the_names_of_go),
					      T(changed_files_are_read_again),
					      T(broken_files_leave_the_old_ones_in_use),
					      T(what_cannot_be_used_is_said),
					      T(a_certificate_of_our_own_is_kept),
					      T(odd_names_are_refused),
					      T(files_are_never_overwritten),
#undef T
					      {NULL, NULL}});
}
