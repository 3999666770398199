/* SPDX-License-Identifier: Apache-2.0 */
/* dpagent: its agent in the frame of kineshim/program.h. */
#include "agent.h"
#include "program.h"

static void *start(const struct ks_options *options, struct ks_err *err)
{
	return dpa_agent_start(options, err);
}

static void stop(void *agent)
{
	dpa_agent_stop(agent);
}

int main(int argc, char **argv)
{
	static const struct ks_program program = {.check = dpa_agent_check, .start = start, .stop = stop};

	return ks_program_run(&program, argc, argv);
}
