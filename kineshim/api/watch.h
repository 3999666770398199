/* SPDX-License-Identifier: Apache-2.0 */
/* The Watch service (spec/etcd.md section 3): one stream, many watchers. */
#ifndef KS_API_WATCH_H
#define KS_API_WATCH_H

#include "net/rpc.h"

extern const struct ks_stream_ops ks_api_watch_ops;

#endif
