/* SPDX-License-Identifier: Apache-2.0 */
/* CRC-32 with Castagnoli's polynomial (reflected), as HashKV uses it: by the processor where it can, by a table elsewhere. */
#ifndef KS_STORE_CRC32C_H
#define KS_STORE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Continues a finished checksum; 0 begins one. Threads: any. */
uint32_t ks_crc32c(uint32_t crc, const void *data, size_t size);
/* The portable way alone, for tests. */
uint32_t ks_crc32c_portable(uint32_t crc, const void *data, size_t size);

#endif
