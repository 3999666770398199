/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When to compact by itself, and to which revision: etcd's two compactors (spec 5.4) as a state machine that is told the time,
 * the revision and how a compaction ended. It knows no log and no store; compactor.c drives it.
 *
 * periodic, period P: every S = min(P, 1h)/10 a sample of the current revision, P/S + 1 of them kept, so that the oldest is
 *     P old, or P + S. Nothing for the first P, then every min(P, 1h) a compaction to the oldest sample. One that failed is tried again
 *     at the next sample, one that changes nothing is left out.
 * revision, N: every five minutes a compaction to N revisions before the current one.
 *
 * All instances sample; only the housekeeper compacts. So an instance that takes the duty over goes on at its next step with a
 * window of its own, and at most one interval is lost, when it has been up for shorter than P.
 *
 * Owner: the samples are the machine's own. One thread. Limits: memory for P/S + 1 samples, ten an hour when P is long.
 */
#ifndef KS_LOG_AUTOCOMPACT_H
#define KS_LOG_AUTOCOMPACT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum ks_autocompact_mode { KS_AUTOCOMPACT_OFF, KS_AUTOCOMPACT_PERIODIC, KS_AUTOCOMPACT_REVISION };

struct ks_autocompact_config {
	enum ks_autocompact_mode mode;
	int64_t retention; /* > 0; PERIODIC: nanoseconds, REVISION: revisions */
};

/*
 * The values of --auto-compaction-mode and --auto-compaction-retention. A retention is an integer, of hours or revisions, or
 * a Go duration; 0 is off. KS_INVALID_ARGUMENT with etcd's text. As with etcd the revision mode takes a duration for a
 * number of nanoseconds; *odd tells that somebody wrote that.
 */
enum ks_status ks_autocompact_parse(const char *mode, const char *retention, struct ks_autocompact_config *config,
				    bool *odd, struct ks_err *err) KS_MUST_CHECK;

struct ks_autocompact {
	struct ks_autocompact_config config;
	int64_t interval_ms; /* between compactions */
	int64_t step_ms;     /* between samples */
	size_t window;       /* samples kept */
	int64_t base_ms; /* least time since last_success_ms: the period until the first compaction, then the interval */
	int64_t next_ms; /* when the step after the sample is due */
	int64_t last_success_ms;
	int64_t last_revision; /* compacted to; 0: none */
	int64_t trying;        /* the compaction on its way; 0: none */
	bool tried;            /* it came back: the next step takes a sample */
	bool started;
	int64_t *samples; /* a ring */
	size_t first, count, room;
};

void ks_autocompact_init(struct ks_autocompact *ac, const struct ks_autocompact_config *config);
void ks_autocompact_fini(struct ks_autocompact *ac);

/*
 * To be called whenever ks_autocompact_due_ms says so, or more often. 'active': this instance is the housekeeper. Returns the
 * revision to compact to, and then waits for ks_autocompact_done; 0: nothing to do.
 */
int64_t ks_autocompact_step(struct ks_autocompact *ac, int64_t now_ms, int64_t revision, bool active);
/* How the compaction that a step asked for ended; 'succeeded' also when somebody else had done it already. */
void ks_autocompact_done(struct ks_autocompact *ac, int64_t now_ms, bool succeeded);
/* When the next step has something to do; INT64_MAX: not before ks_autocompact_done, or never. */
int64_t ks_autocompact_due_ms(const struct ks_autocompact *ac);
/* Revisions mean something else now: the database has lost its newest entries. The window begins again, and what is on its
 * way counts for nothing. */
void ks_autocompact_forget(struct ks_autocompact *ac);

#endif
