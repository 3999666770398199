/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What wakes a connection that waits for a change: a descriptor to be polled beside the connection's own.
 *
 * Threads: sqlb_cancel_poke any; the rest the connection's. Owner: whoever opened it closes it.
 */
#ifndef SQLB_CANCEL_H
#define SQLB_CANCEL_H

#include "sqlb.h"

struct sqlb_cancel {
	int fd; /* readable once it was poked */
};

/* AWAY: there are no descriptors left. */
enum sqlb_outcome sqlb_cancel_open(struct sqlb_cancel *cancel, struct ks_err *err);
void sqlb_cancel_close(struct sqlb_cancel *cancel);
void sqlb_cancel_poke(struct sqlb_cancel *cancel);
/* Was it poked since the last look? */
bool sqlb_cancel_came(struct sqlb_cancel *cancel);

#endif
