/* SPDX-License-Identifier: Apache-2.0 */
/* kineshim: read the options, start the server, wait for a signal, stop. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/diag.h"
#include "options.h"
#include "server.h"
#include "tools/tools.h"

#define EXIT_USAGE 2

/* Blocked before the first thread starts, so that all inherit it and only sigwait sees the two that end us. */
static void block_signals(sigset_t *ending)
{
	sigset_t blocked;

	(void)sigemptyset(ending);
	(void)sigaddset(ending, SIGINT);
	(void)sigaddset(ending, SIGTERM);
	blocked = *ending;
	(void)sigaddset(&blocked, SIGPIPE);
	(void)sigprocmask(SIG_BLOCK, &blocked, NULL);
}

static int serve(const struct ks_options *options)
{
	struct ks_server *server;
	struct ks_err err = {0};
	sigset_t ending;
	int number = 0;

	block_signals(&ending);
	server = ks_server_start(options, &err);
	if (!server) {
		ks_diag(KS_ERROR, "main", "cannot start error=\"%s\"", err.text);
		return err.status == KS_INVALID_ARGUMENT ? EXIT_USAGE : EXIT_FAILURE;
	}
	while (sigwait(&ending, &number) != 0)
		;
	ks_diag(KS_INFO, "main", "stopping signal=%s", number == SIGINT ? "SIGINT" : "SIGTERM");
	/* A second signal finds its default action: it ends the process at once. */
	(void)sigprocmask(SIG_UNBLOCK, &ending, NULL);
	ks_server_stop(server);
	ks_diag(KS_INFO, "main", "stopped");
	return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
	struct ks_options options;
	const struct ks_tool *tool = argc > 1 ? ks_tool_find(argv[1]) : NULL;
	struct ks_err err = {0};

	if (tool)
		return tool->run(argc - 1, argv + 1);
	if (ks_options_parse(&options, argc, argv, getenv, &err) != KS_OK) {
		(void)fprintf(stderr, "kineshim: %s\n", err.text);
		return EXIT_USAGE;
	}
	if (options.help)
		ks_options_help(stdout);
	else if (options.version)
		ks_options_version(stdout, options.verbose);
	if (options.help || options.version)
		return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;

	ks_diag_setup(options.log_level, options.log_format);
	ks_options_check_environment(environ);
	return serve(&options);
}
