/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What writing and reading have in common: the layout (docs/dpagent-format.md), and what is true of each key. Both sides ask the same
 * dpa_key_check, so that nothing is written that will not be read.
 */
#ifndef DPA_FORMAT_PRIV_H
#define DPA_FORMAT_PRIV_H

#include "snapshot/format.h"
#include "store/store.h"

#define DPA_MAGIC "dpagent-image 1\n"
#define DPA_MAGIC_SIZE ((size_t)16)
#define DPA_SIGNATURE ((size_t)64)

#define DPA_FLAG_FINAL 1u
#define DPA_FLAG_SIGNED 2u
#define DPA_FLAG_STORED 4u

/* A record's first byte. */
#define DPA_TAG_HIDDEN 1u
#define DPA_TAG_RAW 2u
#define DPA_TAG_SAME 4u /* the numbers upstream are the served ones */
#define DPA_TAG_OWN 8u  /* they follow */

#define DPA_LEAST_RECORD 3 /* tag, size, one byte of a hidden key's name */

/* How much a body may shrink; what shrinks more is stored. A reader so knows what memory a file can ask for. */
static inline bool dpa_ratio_is_sane(uint64_t body_size, uint64_t packed_size)
{
	return body_size <= ((uint64_t)1 << 20) + packed_size * 256;
}

struct dpa_key_check {
	struct ks_slice prefix, last; /* last: the name before, empty at the first */
	int64_t revision, up_revision;
};
/* NULL when the key may stand here (then it is 'last'), else what is wrong. 'kv' is the decoded key->kv, or NULL when it is hidden. */
const char *dpa_key_wrong(struct dpa_key_check *check, const struct dpa_image_key *key, const struct ks_kv *kv);
/* The same for an image's own numbers. */
const char *dpa_numbers_wrong(const struct dpa_format_head *head);

enum ks_status dpa_digest(const void *data, size_t size, uint8_t digest[DPA_FORMAT_DIGEST],
			  struct ks_err *err) KS_MUST_CHECK;
void dpa_signer_id(const struct dpa_signer *signer, uint8_t id[DPA_KEY_ID]);
enum ks_status dpa_sign(const struct dpa_signer *signer, const uint8_t digest[DPA_FORMAT_DIGEST],
			uint8_t signature[DPA_SIGNATURE], struct ks_err *err) KS_MUST_CHECK;
enum ks_status dpa_signature_check(const struct dpa_verifier *verifier, const uint8_t id[DPA_KEY_ID],
				   const uint8_t digest[DPA_FORMAT_DIGEST], const uint8_t signature[DPA_SIGNATURE],
				   struct ks_err *err) KS_MUST_CHECK;

/* Big-endian numbers. */
static inline void dpa_put_number(uint8_t *at, size_t size, uint64_t value)
{
	for (size_t i = size; i > 0; i--, value >>= 8)
		at[i - 1] = (uint8_t)value;
}

static inline uint64_t dpa_get_number(const uint8_t *at, size_t size)
{
	uint64_t value = 0;

	for (size_t i = 0; i < size; i++)
		value = value << 8 | at[i];
	return value;
}

#endif
