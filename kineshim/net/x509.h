/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes keys and certificates: for --auto-tls and for `kineshim pki`. Keys are EC P-256, signatures SHA-256, serial numbers 128
 * random bits. Certificates begin five minutes ago, for clocks that are a little late.
 *
 * Owner: what is returned is the caller's, to be freed by OpenSSL's own functions. Threads: any. Errors have texts for a person.
 */
#ifndef KS_NET_X509_H
#define KS_NET_X509_H

#include <openssl/evp.h>
#include <openssl/x509.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

struct ks_x509_request {
	const char *common_name;
	/* Comma separated IP addresses, DNS names (with * as the first label if need be) and URIs; "" for none. */
	const char *hosts;
	bool ca, server, client; /* what it may be used as */
	int64_t seconds;         /* from now */
};

EVP_PKEY *ks_x509_new_key(struct ks_err *err);
/* Without 'issuer' it is signed by its own key. An end is never after the issuer's. */
X509 *ks_x509_issue(const struct ks_x509_request *request, EVP_PKEY *key, X509 *issuer, EVP_PKEY *issuer_key,
		    struct ks_err *err);
/* PEM. New files only: KS_ALREADY_EXISTS. Keys are written with mode 0600. A file that cannot be written whole is removed. */
enum ks_status ks_x509_write_key(const char *path, EVP_PKEY *key, struct ks_err *err) KS_MUST_CHECK;
enum ks_status ks_x509_write_cert(const char *path, X509 *cert, struct ks_err *err) KS_MUST_CHECK;
EVP_PKEY *ks_x509_read_key(const char *path, struct ks_err *err);
X509 *ks_x509_read_cert(const char *path, struct ks_err *err);
/* Unix time of the end of its validity. */
int64_t ks_x509_not_after(const X509 *cert);
/* The first reason on this thread's error queue, which is emptied; "unknown reason" when there is none. */
const char *ks_x509_reason(void);

#endif
