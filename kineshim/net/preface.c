/* SPDX-License-Identifier: Apache-2.0 */
/* First bytes, see preface.h. "P" may become PRI, PUT or POST, so the answer is MORE until it is certain. */
#include "net/preface.h"

#define HTTP2_PREFACE "PRI * HTTP/2.0"
#define LONGEST_METHOD 20
#define TLS_HANDSHAKE 0x16

static enum ks_preface classify_method(struct ks_slice start)
{
	for (size_t i = 0; i < start.size; i++) {
		uint8_t c = start.data[i];

		if (c == ' ' && i > 0)
			return KS_PREFACE_HTTP1;
		if (i == LONGEST_METHOD || ((c < 'A' || c > 'Z') && c != '-'))
			return KS_PREFACE_FOREIGN;
	}
	return KS_PREFACE_MORE;
}

enum ks_preface ks_preface_classify(struct ks_slice start)
{
	const size_t full = sizeof(HTTP2_PREFACE) - 1;
	size_t common = start.size < full ? start.size : full;

	if (start.size == 0)
		return KS_PREFACE_MORE;
	if (start.data[0] == TLS_HANDSHAKE)
		return KS_PREFACE_TLS;
	if (memcmp(start.data, HTTP2_PREFACE, common) == 0)
		return common == full ? KS_PREFACE_HTTP2 : KS_PREFACE_MORE;
	return classify_method(start);
}
