/* SPDX-License-Identifier: Apache-2.0 */
/* See crc32c.h. The portable way takes 8 bytes at a time through 8 tables ("slicing"). */
#include "store/crc32c.h"

#include <pthread.h>
#include <string.h>

#define POLYNOMIAL 0x82f63b78u /* 0x1edc6f41 with its bits reversed */

static uint32_t tables[8][256];
static pthread_once_t tables_once = PTHREAD_ONCE_INIT;

static void make_tables(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t crc = i;

		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
		tables[0][i] = crc;
	}
	for (uint32_t i = 0; i < 256; i++) {
		for (int t = 1; t < 8; t++)
			tables[t][i] = tables[t - 1][i] >> 8 ^ tables[0][tables[t - 1][i] & 0xff];
	}
}

uint32_t ks_crc32c_portable(uint32_t crc, const void *data, size_t size)
{
	const uint8_t *in = data;

	pthread_once(&tables_once, make_tables);
	crc = ~crc;
	for (; size >= 8; size -= 8, in += 8) {
		uint32_t low =
			crc ^ ((uint32_t)in[0] | (uint32_t)in[1] << 8 | (uint32_t)in[2] << 16 | (uint32_t)in[3] << 24);

		crc = tables[7][low & 0xff] ^ tables[6][low >> 8 & 0xff] ^ tables[5][low >> 16 & 0xff] ^
		      tables[4][low >> 24] ^ tables[3][in[4]] ^ tables[2][in[5]] ^ tables[1][in[6]] ^ tables[0][in[7]];
	}
	for (; size > 0; size--)
		crc = crc >> 8 ^ tables[0][(crc ^ *in++) & 0xff];
	return ~crc;
}

#if defined(__x86_64__)

__attribute__((target("sse4.2"))) static uint32_t by_processor(uint32_t crc, const void *data, size_t size)
{
	const uint8_t *in = data;
	uint64_t wide = ~crc;

	for (; size >= 8; size -= 8, in += 8) {
		uint64_t word;

		memcpy(&word, in, 8);
		wide = __builtin_ia32_crc32di(wide, word);
	}
	crc = (uint32_t)wide;
	for (; size > 0; size--)
		crc = __builtin_ia32_crc32qi(crc, *in++);
	return ~crc;
}

uint32_t ks_crc32c(uint32_t crc, const void *data, size_t size)
{
	return __builtin_cpu_supports("sse4.2") ? by_processor(crc, data, size) : ks_crc32c_portable(crc, data, size);
}

#else

uint32_t ks_crc32c(uint32_t crc, const void *data, size_t size)
{
	return ks_crc32c_portable(crc, data, size);
}

#endif
