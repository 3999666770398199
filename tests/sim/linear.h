/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is the history of one register linearizable? A search over all orders that real time allows, with memory of what was
 * tried (after Wing and Gong, and Lowe). Values are numbers; 0 means absent.
 */
#ifndef TESTS_SIM_LINEAR_H
#define TESTS_SIM_LINEAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LINEAR_UNKNOWN INT64_MAX

struct linear_op {
	int64_t call, ret; /* ret LINEAR_UNKNOWN: no answer; it may have happened at any time after 'call', or never */
	enum { LINEAR_READ, LINEAR_WRITE, LINEAR_CAS } kind;
	int64_t value;    /* written; or what a read saw */
	int64_t expected; /* CAS */
	bool succeeded;   /* CAS; when it is false 'seen' is what was there instead */
	int64_t seen;
};

enum linear_verdict { LINEAR_YES, LINEAR_NO, LINEAR_TOO_LARGE };

/* Gives up as TOO_LARGE after 'budget' steps. The register starts absent. */
enum linear_verdict linear_check(const struct linear_op *ops, size_t count, size_t budget);

#endif
