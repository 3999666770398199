/* SPDX-License-Identifier: Apache-2.0 */
/* See cancel.h. */
#include "cancel.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/panic.h"

enum sqlb_outcome sqlb_cancel_open(struct sqlb_cancel *cancel, struct ks_err *err)
{
	cancel->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (cancel->fd >= 0)
		return SQLB_OK;
	ks_fail(err, KS_RESOURCE_EXHAUSTED, "eventfd: %s", strerror(errno));
	return SQLB_AWAY;
}

void sqlb_cancel_close(struct sqlb_cancel *cancel)
{
	close(cancel->fd);
}

void sqlb_cancel_poke(struct sqlb_cancel *cancel)
{
	static const uint64_t one = 1;

	/* EAGAIN: the counter is full, so it is readable, which is all that is wanted. */
	if (write(cancel->fd, &one, sizeof(one)) < 0)
		KS_ASSERT(errno == EAGAIN);
}

bool sqlb_cancel_came(struct sqlb_cancel *cancel)
{
	uint64_t count;

	return read(cancel->fd, &count, sizeof(count)) == (ssize_t)sizeof(count);
}
