/* SPDX-License-Identifier: Apache-2.0 */
/* Keys and certificates, see x509.h. */
#include "net/x509.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/bn.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/panic.h"

#define SERIAL_BITS 128
#define BACKDATE_S 300

const char *ks_x509_reason(void)
{
	const char *reason = ERR_reason_error_string(ERR_peek_error());

	ERR_clear_error();
	return reason ? reason : "unknown reason";
}

static enum ks_status failed(struct ks_err *err, const char *what)
{
	return ks_fail(err, KS_INTERNAL, "cannot make the certificate: %s: %s", what, ks_x509_reason());
}

EVP_PKEY *ks_x509_new_key(struct ks_err *err)
{
	EVP_PKEY *key;

	ERR_clear_error();
	key = EVP_EC_gen("P-256");
	if (!key)
		(void)ks_fail(err, KS_INTERNAL, "cannot make a key: %s", ks_x509_reason());
	return key;
}

/* ---- subject alternative names ---- */

static GENERAL_NAME *ia5_name(int type, const char *text)
{
	GENERAL_NAME *name = GENERAL_NAME_new();
	ASN1_IA5STRING *string = ASN1_IA5STRING_new();

	if (!name || !string || !ASN1_STRING_set(string, text, -1)) {
		GENERAL_NAME_free(name);
		ASN1_IA5STRING_free(string);
		return NULL;
	}
	GENERAL_NAME_set0_value(name, type, string);
	return name;
}

static GENERAL_NAME *ip_name(const uint8_t *address, int size)
{
	GENERAL_NAME *name = GENERAL_NAME_new();
	ASN1_OCTET_STRING *string = ASN1_OCTET_STRING_new();

	if (!name || !string || !ASN1_OCTET_STRING_set(string, address, size)) {
		GENERAL_NAME_free(name);
		ASN1_OCTET_STRING_free(string);
		return NULL;
	}
	GENERAL_NAME_set0_value(name, GEN_IPADD, string);
	return name;
}

static bool is_dns_name(const char *text)
{
	size_t size = strlen(text), label = 0;

	if (size == 0 || size > 253)
		return false;
	if (strncmp(text, "*.", 2) == 0)
		text += 2;
	for (; *text; text++) {
		bool letter = (*text >= 'a' && *text <= 'z') || (*text >= 'A' && *text <= 'Z') ||
			      (*text >= '0' && *text <= '9') || *text == '_';

		if (*text == '.' ? label == 0 : !letter && (*text != '-' || label == 0))
			return false;
		label = *text == '.' ? 0 : label + 1;
		if (label > 63)
			return false;
	}
	return label > 0;
}

static bool is_uri(const char *text)
{
	if (!strstr(text, "://"))
		return false;
	for (; *text; text++)
		if (*text <= ' ' || *text > '~')
			return false;
	return true;
}

static enum ks_status add_host(GENERAL_NAMES *names, const char *host, struct ks_err *err)
{
	GENERAL_NAME *name;
	uint8_t address[16];

	if (inet_pton(AF_INET, host, address) == 1)
		name = ip_name(address, 4);
	else if (inet_pton(AF_INET6, host, address) == 1)
		name = ip_name(address, 16);
	else if (is_uri(host))
		name = ia5_name(GEN_URI, host);
	else if (is_dns_name(host))
		name = ia5_name(GEN_DNS, host);
	else
		return ks_fail(err, KS_INVALID_ARGUMENT, "\"%.100s\" is neither an IP address, a host name nor a URI",
			       host);
	if (name && sk_GENERAL_NAME_push(names, name))
		return KS_OK;
	GENERAL_NAME_free(name);
	return failed(err, "names");
}

static enum ks_status add_hosts(X509 *cert, const char *hosts, struct ks_err *err)
{
	GENERAL_NAMES *names = sk_GENERAL_NAME_new_null();
	char *copy = ks_xstrdup(hosts), *rest = copy, *host;
	enum ks_status status = names ? KS_OK : failed(err, "names");

	while (status == KS_OK && (host = strsep(&rest, ",")))
		status = add_host(names, host, err);
	if (status == KS_OK && X509_add1_ext_i2d(cert, NID_subject_alt_name, names, 0, X509V3_ADD_DEFAULT) != 1)
		status = failed(err, "names");
	free(copy);
	GENERAL_NAMES_free(names);
	return status;
}

/* ---- the certificate ---- */

static bool add_extension(X509 *cert, X509 *issuer, int nid, const char *value)
{
	X509_EXTENSION *extension;
	X509V3_CTX ctx;
	bool added;

	X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
	extension = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	added = extension && X509_add_ext(cert, extension, -1);
	X509_EXTENSION_free(extension);
	return added;
}

static const char *extended_usage(const struct ks_x509_request *request)
{
	if (request->server)
		return request->client ? "serverAuth,clientAuth" : "serverAuth";
	return "clientAuth";
}

static bool add_extensions(X509 *cert, X509 *issuer, const struct ks_x509_request *request)
{
	bool fine;

	if (request->ca)
		fine = add_extension(cert, issuer, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
		       add_extension(cert, issuer, NID_key_usage, "critical,keyCertSign,cRLSign");
	else
		fine = add_extension(cert, issuer, NID_basic_constraints, "critical,CA:FALSE") &&
		       add_extension(cert, issuer, NID_key_usage, "critical,digitalSignature") &&
		       add_extension(cert, issuer, NID_ext_key_usage, extended_usage(request));
	return fine && add_extension(cert, issuer, NID_subject_key_identifier, "hash") &&
	       add_extension(cert, issuer, NID_authority_key_identifier, "keyid:always");
}

static bool set_serial(X509 *cert)
{
	BIGNUM *number = BN_new();
	bool fine = number && BN_rand(number, SERIAL_BITS, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) &&
		    BN_to_ASN1_INTEGER(number, X509_get_serialNumber(cert));

	BN_free(number);
	return fine;
}

int64_t ks_x509_not_after(const X509 *cert)
{
	struct tm tm = {0};

	if (ASN1_TIME_to_tm(X509_get0_notAfter(cert), &tm) != 1)
		return 0;
	return (int64_t)timegm(&tm);
}

static bool set_times(X509 *cert, X509 *issuer, int64_t seconds)
{
	time_t now = time(NULL), begin = now - BACKDATE_S, end = now + (time_t)seconds;

	if (issuer && ks_x509_not_after(issuer) < (int64_t)end)
		end = (time_t)ks_x509_not_after(issuer);
	return ASN1_TIME_set(X509_getm_notBefore(cert), begin) && ASN1_TIME_set(X509_getm_notAfter(cert), end);
}

static bool set_subject(X509 *cert, const char *common_name)
{
	X509_NAME *subject = X509_get_subject_name(cert);

	return X509_NAME_add_entry_by_NID(subject, NID_commonName, MBSTRING_UTF8, (const unsigned char *)common_name,
					  -1, -1, 0) == 1;
}

X509 *ks_x509_issue(const struct ks_x509_request *request, EVP_PKEY *key, X509 *issuer, EVP_PKEY *issuer_key,
		    struct ks_err *err)
{
	X509 *cert = X509_new(), *signer = issuer ? issuer : cert;

	ERR_clear_error();
	if (!cert || !X509_set_version(cert, X509_VERSION_3) || !set_serial(cert) ||
	    !set_times(cert, issuer, request->seconds) || !X509_set_pubkey(cert, key)) {
		(void)failed(err, "fields");
		goto undo;
	}
	if (!set_subject(cert, request->common_name)) {
		(void)ks_fail(err, KS_INVALID_ARGUMENT, "\"%.100s\" cannot be a common name: %s", request->common_name,
			      ks_x509_reason());
		goto undo;
	}
	if (!X509_set_issuer_name(cert, X509_get_subject_name(signer)) || !add_extensions(cert, signer, request)) {
		(void)failed(err, "extensions");
		goto undo;
	}
	if (*request->hosts && add_hosts(cert, request->hosts, err))
		goto undo;
	if (!X509_sign(cert, issuer ? issuer_key : key, EVP_sha256())) {
		(void)failed(err, "signature");
		goto undo;
	}
	return cert;

undo:
	X509_free(cert);
	return NULL;
}

/* ---- files ---- */

static enum ks_status write_new(const char *path, mode_t mode, const char *what,
				bool (*write)(FILE *file, void *object), void *object, struct ks_err *err)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
	FILE *file = fd < 0 ? NULL : fdopen(fd, "w");
	bool written;

	if (!file)
		return ks_fail(err, errno == EEXIST ? KS_ALREADY_EXISTS : KS_UNAVAILABLE, "cannot write the %s %s: %s",
			       what, path, strerrordesc_np(errno));
	ERR_clear_error();
	written = write(file, object) && fflush(file) == 0 && fsync(fd) == 0;
	if (fclose(file) == 0 && written)
		return KS_OK;
	(void)unlink(path);
	return ks_fail(err, KS_UNAVAILABLE, "cannot write the %s %s", what, path);
}

static bool put_key(FILE *file, void *key)
{
	return PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL) == 1;
}

static bool put_cert(FILE *file, void *cert)
{
	return PEM_write_X509(file, cert) == 1;
}

enum ks_status ks_x509_write_key(const char *path, EVP_PKEY *key, struct ks_err *err)
{
	return write_new(path, 0600, "key", put_key, key, err);
}

enum ks_status ks_x509_write_cert(const char *path, X509 *cert, struct ks_err *err)
{
	return write_new(path, 0644, "certificate", put_cert, cert, err);
}

/* A key with a passphrase is not asked for it at the terminal; it cannot be used. */
static int no_passphrase(char *buffer, int size, int writing, void *ctx)
{
	(void)buffer;
	(void)size;
	(void)writing;
	(void)ctx;
	return -1;
}

static FILE *open_file(const char *path, const char *what, struct ks_err *err)
{
	FILE *file = fopen(path, "re");

	ERR_clear_error();
	if (!file)
		(void)ks_fail(err, KS_UNAVAILABLE, "cannot read the %s %s: %s", what, path, strerrordesc_np(errno));
	return file;
}

EVP_PKEY *ks_x509_read_key(const char *path, struct ks_err *err)
{
	FILE *file = open_file(path, "key", err);
	EVP_PKEY *key = file ? PEM_read_PrivateKey(file, NULL, no_passphrase, NULL) : NULL;

	if (file)
		(void)fclose(file);
	if (file && !key)
		(void)ks_fail(err, KS_INVALID_ARGUMENT, "cannot use the key %s: %s", path, ks_x509_reason());
	return key;
}

X509 *ks_x509_read_cert(const char *path, struct ks_err *err)
{
	FILE *file = open_file(path, "certificate", err);
	X509 *cert = file ? PEM_read_X509(file, NULL, no_passphrase, NULL) : NULL;

	if (file)
		(void)fclose(file);
	if (file && !cert)
		(void)ks_fail(err, KS_INVALID_ARGUMENT, "cannot use the certificate %s: %s", path, ks_x509_reason());
	return cert;
}
