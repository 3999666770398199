/* SPDX-License-Identifier: Apache-2.0 */
/* Keys and tokens in memory: read, judged, and wiped before the memory is given back. Threads: any. */
#ifndef DPA_SECRET_H
#define DPA_SECRET_H

#include <stdbool.h>

#include "base/buf.h"
#include "base/status.h"

#define DPA_SECRET_FILE_MAX ((size_t)1 << 16)

/* Wipes and frees; leaves NULL, which is fine, too. */
void dpa_secret_drop(char **secret);
void dpa_secret_fini(struct ks_buf *buf);
/* Can it stand in a header: printable, no blanks? NULL can. */
bool dpa_secret_clean(const char *text);
/* The first line of a small file, malloc-ed. NULL: KS_UNAUTHENTICATED with the file's name. */
char *dpa_secret_read(const char *path, struct ks_err *err);

#endif
