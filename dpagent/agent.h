/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The whole agent as one object: everything is started in the order of docs/internals/agent.md and stopped the other way round.
 *
 * Threads: the main one. Errors: KS_INVALID_ARGUMENT for bad options, others for what the machine refuses. Options outlive it.
 */
#ifndef DPA_AGENT_H
#define DPA_AGENT_H

#include "base/status.h"
#include "options.h"

struct dpa_agent;

/* Could an agent start with these, as far as that shows without upstream and without writing? */
enum ks_status dpa_agent_check(const struct ks_options *options, struct ks_err *err) KS_MUST_CHECK;
/* Blocks for up to --start-timeout, and as long as object storage takes to answer. */
struct dpa_agent *dpa_agent_start(const struct ks_options *options, struct ks_err *err);
/* The present state is written to disk. NULL is fine. */
void dpa_agent_stop(struct dpa_agent *agent);

#endif
