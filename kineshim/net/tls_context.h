/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a TLS server presents and demands, read from files: certificate, key, the clients' CA, revocation list. Changed files are
 * picked up at the next handshake, as etcd does it; connections that are open are not touched. A new file that is broken, or a key
 * that does not fit (yet), leaves the old ones in use and is logged once.
 *
 * Sessions are never resumed, neither by ticket nor by id. So whoever connects is verified against the files of that moment:
 * a CA that was taken away or a certificate that was revoked finds no old session to slip in by.
 *
 * Threads: any for ks_tls_context_take, which stats the files under a lock; the rest before and after.
 */
#ifndef KS_NET_TLS_CONTEXT_H
#define KS_NET_TLS_CONTEXT_H

#include <openssl/ssl.h>
#include <stdbool.h>

#include "base/status.h"
#include "net/identity.h"

/* Texts are copied; NULL is "". */
struct ks_tls_settings {
	const char *cert_file, *key_file;
	const char *ca_file;  /* "": clients need no certificate; otherwise they do */
	const char *crl_file; /* PEM or DER */
	/* Comma separated; the client's certificate must be for one of the host names, must have one of the common names. */
	const char *allowed_hostname, *allowed_cn;
	bool client_cert_auth; /* its common name is the user */
	const char *
		cipher_suites; /* comma separated, IANA's names as in Go; "": only those with forward secrecy and AEAD */
	const char *min_version, *max_version; /* "TLS1.2", "TLS1.3", "" */
	/* Without cert_file: a certificate signed by itself, kept in this folder, for these hosts. */
	const char *auto_dir, *auto_hosts;
	int auto_years;
};

struct ks_tls_context;

/* What a connection of ours may speak; ALPN is answered by it. Set with SSL_set_app_data before the handshake. */
struct ks_tls_protocols {
	bool http2, http1;
	bool chose_http2; /* by the handshake */
};

/* KS_INVALID_ARGUMENT for settings and files that cannot be used, with a text that names them. */
struct ks_tls_context *ks_tls_context_new(const struct ks_tls_settings *settings, struct ks_err *err);
/* The context of this moment; give it back with SSL_CTX_free. */
SSL_CTX *ks_tls_context_take(struct ks_tls_context *context);
void ks_tls_context_free(struct ks_tls_context *context);

/* After a handshake: who the client's verified certificate says it is. NULL without one, or without client_cert_auth. */
struct ks_identity *ks_tls_context_identity(const struct ks_tls_context *context, SSL *ssl);
/* After a failed one: why, for the log. Empties the thread's error queue. */
void ks_tls_context_why(SSL *ssl, char *text, size_t size);

/*
 * OpenSSL's cipher lists from --cipher-suites: those up to TLS 1.2, and those of TLS 1.3, which have no other names ("": none was
 * named). Both are the caller's.
 */
enum ks_status ks_tls_ciphers(const char *suites, char **tls12, char **tls13, struct ks_err *err) KS_MUST_CHECK;

#endif
