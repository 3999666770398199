/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A TCP relay between one listening port on loopback and another, for one link: client and instance, instance and database. Bytes
 * are never lost inside a connection, as TCP would not lose them; but they can be late, or held for a while, and connections
 * can be cut at any byte, in any way.
 *
 * Threads: the functions may be called from any thread; stop when nobody else uses it any more.
 */
#ifndef TESTS_TORTURE_RELAY_H
#define TESTS_TORTURE_RELAY_H

struct relay;

enum relay_mode {
	RELAY_PASS,
	RELAY_REFUSE,    /* new connections are reset at once */
	RELAY_HOLD_TO,   /* nothing reaches the target */
	RELAY_HOLD_FROM, /* nothing comes from the target: requests arrive, answers do not */
	RELAY_HOLD_BOTH,
	RELAY_MODES
};

enum relay_cut {
	RELAY_CUT_NOT,
	RELAY_CUT_CLOSE,  /* an orderly end to both sides */
	RELAY_CUT_RESET,  /* a reset to both */
	RELAY_CUT_MIDDLE, /* a part of the next bytes in either direction, then reset */
	RELAY_CUT_HALF, /* no more bytes to the target, which sees the end of the stream; the other direction goes on */
	RELAY_CUTS
};

/* NULL: no port. */
struct relay *relay_start(int target_port, unsigned seed, int *port);
void relay_stop(struct relay *relay);
void relay_set_mode(struct relay *relay, enum relay_mode mode);
/* Each piece waits for up to so many milliseconds. */
void relay_set_delay(struct relay *relay, int delay_ms);
/* All connections that there are now; returns their number. */
unsigned relay_cut(struct relay *relay, enum relay_cut how);

#endif
