/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How long keepalives are gathered before they go to the database together. A transaction costs nearly the same for one and for a hundred,
 * and so does waking everybody who takes part; so where many come, each waits up to KS_GATHER_MS for others.
 *
 * Whether waiting brings anything is measured, not guessed. Now and then, if enough keepalives came lately, one wait lasts its full
 * time. Three quarters of what it brought are what later ones wait for: of clients that send the next one behind the answer so many are
 * there soon, though some may be late (their streams may rest, net/rest.h), and then nobody waits for nobody. When it brought little there is
 * no waiting until the next such trial.
 *
 * A pure state machine that is told the time. Owner: none inside. Threads: whoever embeds it locks.
 */
#ifndef KS_LOG_GATHER_H
#define KS_LOG_GATHER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KS_GATHER_MS 10
#define KS_GATHER_WORTH 8    /* fewer are not waited for */
#define KS_GATHER_TRY_MS 250 /* so often there is a trial */

struct ks_gather {
	size_t wanted;    /* by this wait */
	size_t enough;    /* as the last trial has it; SIZE_MAX: it still has to; 0: not worth it */
	int64_t until_ms; /* the end of this wait; 0: nobody waits */
	int64_t since_ms; /* the last trial */
	size_t lately;    /* taken since then */
};

/* A wait begins, if it is worth it: everything that had come was taken. */
void ks_gather_begin(struct ks_gather *gather, int64_t now_ms);
/* Of 'arrived' since the last ks_gather_take: shall they wait for more? */
bool ks_gather_waits(const struct ks_gather *gather, size_t arrived, int64_t now_ms);
/* Ends the wait, if there is one: 'arrived' are taken. */
void ks_gather_take(struct ks_gather *gather, size_t arrived, int64_t now_ms);
/* Ends it and learns nothing. */
void ks_gather_stop(struct ks_gather *gather);

#endif
