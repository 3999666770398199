/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who a client is by its verified certificate. Made once a connection, when the handshake is over; immutable and counted, so calls
 * of any thread may look at it.
 *
 * There is an identity only where the server takes names from certificates (--client-cert-auth): without it, a certificate opens
 * the door and says nothing about who comes in.
 */
#ifndef KS_NET_IDENTITY_H
#define KS_NET_IDENTITY_H

#include <stddef.h>

struct ks_identity {
	/* The subject's common name; "" when it has none, or one that holds a zero byte. */
	const char *common_name;
	/* Subject alternative names: "DNS:db.example", "IP:10.0.0.1", "URI:spiffe://…", "email:…". */
	const char *const *names;
	size_t name_count;
};

/* Copies everything; one reference. */
struct ks_identity *ks_identity_new(const char *common_name, const char *const *names, size_t name_count);
/* NULL is fine for both. */
struct ks_identity *ks_identity_ref(struct ks_identity *identity);
void ks_identity_unref(struct ks_identity *identity);

#endif
