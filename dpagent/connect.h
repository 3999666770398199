/* SPDX-License-Identifier: Apache-2.0 */
/* From the --upstream flags to a client; files are read once, here. */
#ifndef DPA_CONNECT_H
#define DPA_CONNECT_H

#include "client/etcdc.h"
#include "options.h"

/* NULL with KS_INVALID_ARGUMENT for what cannot be read or used. */
struct etcdc *dpa_connect(const struct ks_options *options, struct ks_err *err);

#endif
