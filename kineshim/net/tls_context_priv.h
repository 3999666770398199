/* SPDX-License-Identifier: Apache-2.0 */
/* What tls_context.c (files) and tls_verify.c (clients' certificates, ALPN) share. */
#ifndef KS_NET_TLS_CONTEXT_PRIV_H
#define KS_NET_TLS_CONTEXT_PRIV_H

#include <stdint.h>

#include "base/thread.h"
#include "net/tls_context.h"

enum { TLS_CERT, TLS_KEY, TLS_CA, TLS_CRL, TLS_FILES };

/* Tells one state of a file from another; all zero: there is none. */
struct tls_stamp {
	uint64_t device, inode, size;
	int64_t changed_ns, moved_ns;
};

struct ks_tls_context {
	/* constant */
	char *files[TLS_FILES]; /* "": none */
	char *allowed_hostname, *allowed_cn, *min_version, *max_version, *auto_hosts;
	char *ciphers12, *ciphers13;
	bool client_cert_auth;
	int auto_years; /* 0: the certificate is somebody else's */

	struct ks_mutex lock;
	SSL_CTX *ctx;                       /* guarded */
	struct tls_stamp stamps[TLS_FILES]; /* guarded: of the last time that the files were read, or tried */
	int64_t look_s;                     /* guarded: when to look whether our own certificate ends */
};

/* Demands certificates of clients. 'context' must outlive 'ctx' and its connections. */
enum ks_status ks_tls_set_verification(SSL_CTX *ctx, const struct ks_tls_context *context,
				       struct ks_err *err) KS_MUST_CHECK;
void ks_tls_set_alpn(SSL_CTX *ctx);

#endif
