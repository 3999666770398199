/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Gathers the answers that leave a connection within a moment into few packets. gRPC's core writes each with a system call of its own, and most of
 * what that costs, us and the client, is the packet and the wake-up. While a TCP socket is corked (tcp(7)), the kernel gathers what is written.
 *
 * A *burst* is what is written until everything has been (ks_cork_rest), until a pull, or for KS_CORK_MOST_US. The first writes of a burst to a connection go at once, so a
 * lone answer is never late and a client has something to do meanwhile; the next ones wait for the pull. Who corks must pull, as soon as
 * ks_cork_is_late says so: what is done between two looks is what an answer may wait longer. Should a pull fail to come, the kernel sends after 200 ms.
 *
 * Threads: a cork belongs to one thread at a time. Two corks may hold the same connection; the first to pull lets go what both have written.
 * Owner: none. Sockets are the caller's, open when they are written to. One that is closed before the pull has sent what it had (as
 * close(2) does), and one that has its number meanwhile is only told not to wait. Errors: none, a socket that cannot be corked is left alone.
 */
#ifndef KS_NET_CORK_H
#define KS_NET_CORK_H

#include <stdbool.h>
#include <stdint.h>

#define KS_CORK_SLOTS 64
#define KS_CORK_FREE_WRITES 2  /* of a burst to one connection, that do not wait */
#define KS_CORK_MOST_WRITES 32 /* of a burst; then it is pulled */
#define KS_CORK_MOST_US 200

struct ks_cork {
	struct ks_cork_slot {
		int fd;
		uint32_t burst;  /* the last one in which it was written to, … */
		uint32_t writes; /* … as often as this */
		bool waits;      /* and it is corked, in that burst */
	} slots[KS_CORK_SLOTS];  /* by descriptor, modulo their number; the newest has the place */
	int corked[KS_CORK_MOST_WRITES];
	unsigned corked_count;
	unsigned writes;  /* in this burst */
	uint32_t burst;   /* its number, from 1 on */
	int64_t since_us; /* its first write, or that of the first in 'corked' */
	int64_t (*now_us)(void);
};

/* now_us: ks_clock_us, or what a test has instead. */
void ks_cork_init(struct ks_cork *cork, int64_t (*now_us)(void));
/* Something will be written to this socket now. A negative number, or anything but a TCP socket, is left alone. */
void ks_cork_write(struct ks_cork *cork, int fd);
/* Everything has been written, and nothing else is on its way: if nothing waits, a new burst begins. */
void ks_cork_rest(struct ks_cork *cork);
/* Nothing waits any more, and a new burst begins. */
void ks_cork_pull(struct ks_cork *cork);
/* Something waits, for KS_CORK_MOST_US or longer. */
bool ks_cork_is_late(const struct ks_cork *cork);

/* Something waits, or may. */
static inline bool ks_cork_holds(const struct ks_cork *cork)
{
	return cork->corked_count > 0;
}

#endif
