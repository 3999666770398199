/* SPDX-License-Identifier: Apache-2.0 */
/* kineshim: its server in the frame of program.h. */
#include <stdlib.h>

#include "program.h"
#include "secrets.h"
#include "server.h"

static void *start(const struct ks_options *options, struct ks_err *err)
{
	return ks_server_start(options, err);
}

static void stop(void *server)
{
	ks_server_stop(server);
}

int main(int argc, char **argv)
{
	static const struct ks_program program = {.check = ks_server_check, .start = start, .stop = stop};
	char **arguments = ks_secrets_take(argc, argv);
	int code = ks_program_run(&program, argc, arguments);

	free(arguments);
	return code;
}
