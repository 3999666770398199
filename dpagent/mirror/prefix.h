/* SPDX-License-Identifier: Apache-2.0 */
/* The keys that begin with a prefix, as an interval of etcd's. Threads: any. */
#ifndef DPA_PREFIX_H
#define DPA_PREFIX_H

#include "store/store.h"

/* "" is every key. '*memory' holds the interval's bytes; free() it after its last use. */
struct ks_interval dpa_prefix_interval(const char *prefix, uint8_t **memory);
/* Does it lie inside of that of a prefix? */
bool dpa_prefix_covers(const struct ks_interval *prefix, const struct ks_interval *interval);

#endif
