/* SPDX-License-Identifier: Apache-2.0 */
/* Who this node is: the same after a restart, another one than every other node of a fleet. */
#ifndef DPA_NODE_H
#define DPA_NODE_H

#include <stddef.h>
#include <stdint.h>

#include "options.h"

#define DPA_NODE_ID_MAX 160

/* --node-id, or a digest of the machine's id, its name and the data folder's path. */
void dpa_node_id(const struct ks_options *options, char id[DPA_NODE_ID_MAX]);
/* The same as etcd's member id; not 0. */
uint64_t dpa_node_member(const char *id);

#endif
