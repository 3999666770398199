/* SPDX-License-Identifier: Apache-2.0 */
/* Tells protocols apart by the first bytes of a connection. Pure functions on borrowed bytes; threads: any. */
#ifndef KS_NET_PREFACE_H
#define KS_NET_PREFACE_H

#include "base/bytes.h"

/* More than enough to decide: what is longer and still undecided is foreign. */
#define KS_PREFACE_MAX 32

enum ks_preface {
	KS_PREFACE_MORE,    /* not enough bytes yet */
	KS_PREFACE_HTTP2,   /* "PRI * HTTP/2.0" */
	KS_PREFACE_HTTP1,   /* a method and a space */
	KS_PREFACE_TLS,     /* a handshake record */
	KS_PREFACE_FOREIGN, /* garbage, anything else */
};

enum ks_preface ks_preface_classify(struct ks_slice start);

#endif
