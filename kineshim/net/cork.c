/* SPDX-License-Identifier: Apache-2.0 */
#include "net/cork.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "base/metrics.h"

void ks_cork_init(struct ks_cork *cork, int64_t (*now_us)(void))
{
	*cork = (struct ks_cork){.burst = 1, .now_us = now_us};
}

static void begin_burst(struct ks_cork *cork)
{
	cork->writes = 0;
	cork->burst++;
}

static bool set_corked(int fd, int on)
{
	return setsockopt(fd, IPPROTO_TCP, TCP_CORK, &on, sizeof(on)) == 0;
}

/* It may be though its slot has forgotten: another connection had the place meanwhile. */
static bool is_corked(const struct ks_cork *cork, int fd)
{
	for (unsigned i = 0; i < cork->corked_count; i++)
		if (cork->corked[i] == fd)
			return true;
	return false;
}

static bool hold(struct ks_cork *cork, int fd)
{
	if (is_corked(cork, fd))
		return true;
	if (!set_corked(fd, 1))
		return false;
	if (!cork->corked_count)
		cork->since_us = cork->now_us();
	cork->corked[cork->corked_count++] = fd;
	return true;
}

/* One write that takes for ever, as to a client that does not read, leaves no moment at which everything has been written. */
static void rest_when_old(struct ks_cork *cork)
{
	int64_t now_us = cork->now_us();

	if (cork->writes && now_us - cork->since_us >= KS_CORK_MOST_US)
		begin_burst(cork);
	if (!cork->writes)
		cork->since_us = now_us;
}

void ks_cork_write(struct ks_cork *cork, int fd)
{
	struct ks_cork_slot *slot = &cork->slots[(unsigned)fd % KS_CORK_SLOTS];

	if (fd < 0)
		return;
	if (cork->writes >= KS_CORK_MOST_WRITES)
		ks_cork_pull(cork);
	else if (!ks_cork_holds(cork))
		rest_when_old(cork);
	cork->writes++;
	if (slot->fd != fd || slot->burst != cork->burst)
		*slot = (struct ks_cork_slot){.fd = fd, .burst = cork->burst};
	/* Asked once a burst only: what is no TCP socket will be none the next time. */
	if (++slot->writes == KS_CORK_FREE_WRITES + 1)
		slot->waits = hold(cork, fd);
	if (slot->waits)
		KS_COUNT(GATHERED_WRITES, 1);
}

void ks_cork_rest(struct ks_cork *cork)
{
	if (!ks_cork_holds(cork))
		begin_burst(cork);
}

void ks_cork_pull(struct ks_cork *cork)
{
	for (unsigned i = 0; i < cork->corked_count; i++)
		(void)set_corked(cork->corked[i], 0);
	if (cork->corked_count)
		KS_COUNT(GATHERED_PULLS, cork->corked_count);
	cork->corked_count = 0;
	begin_burst(cork);
}

bool ks_cork_is_late(const struct ks_cork *cork)
{
	return ks_cork_holds(cork) && cork->now_us() - cork->since_us >= KS_CORK_MOST_US;
}
