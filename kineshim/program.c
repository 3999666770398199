/* SPDX-License-Identifier: Apache-2.0 */
/* Reads the options, starts what the program is, waits for a signal, stops; see program.h. */
#include "program.h"

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/diag.h"
#include "notify.h"
#include "options.h"

#define EXIT_USAGE 2

/* Blocked before the first thread starts, so that all inherit it and only sigwait sees those that mean something. */
static void block_signals(sigset_t *waited)
{
	sigset_t blocked;

	(void)sigemptyset(waited);
	(void)sigaddset(waited, SIGINT);
	(void)sigaddset(waited, SIGTERM);
	(void)sigaddset(waited, SIGHUP);
	blocked = *waited;
	(void)sigaddset(&blocked, SIGPIPE);
	(void)sigprocmask(SIG_BLOCK, &blocked, NULL);
	(void)signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error like others */
}

/* The signal that ends us. */
static int wait_for_end(const sigset_t *waited)
{
	int number;

	for (;;) {
		if (sigwait(waited, &number) != 0)
			continue;
		if (number != SIGHUP)
			return number;
		ks_diag_reopen();
		ks_diag(KS_INFO, "main", "log files opened anew signal=SIGHUP");
	}
}

static int serve(const struct ks_program *program, const struct ks_options *options)
{
	void *server;
	struct ks_err err = {0};
	sigset_t waited;
	int number;

	block_signals(&waited);
	server = program->start(options, &err);
	if (!server) {
		ks_diag(KS_ERROR, "main", "cannot start error=\"%s\"", err.text);
		return err.status == KS_INVALID_ARGUMENT ? EXIT_USAGE : EXIT_FAILURE;
	}
	number = wait_for_end(&waited);
	ks_diag(KS_INFO, "main", "stopping signal=%s", number == SIGINT ? "SIGINT" : "SIGTERM");
	ks_notify_stopping();
	/* A second signal finds its default action: it ends the process at once. */
	(void)sigprocmask(SIG_UNBLOCK, &waited, NULL);
	program->stop(server);
	ks_diag(KS_INFO, "main", "stopped");
	return EXIT_SUCCESS;
}

/* True when the command line asked for no server; then *code is the exit status. */
static bool tell(const struct ks_program *program, const struct ks_options *options, int *code)
{
	struct ks_err err = {0};

	*code = EXIT_SUCCESS;
	if (options->help) {
		ks_options_help(stdout, ks_tools);
	} else if (options->version) {
		ks_options_version(stdout, options->verbose);
	} else if (options->check_config) {
		ks_options_report(options, environ);
		if (program->check(options, &err) == KS_OK) {
			(void)puts(KS_PROGRAM ": these options are fine");
		} else {
			(void)fprintf(stderr, KS_PROGRAM ": %s\n", err.text);
			*code = EXIT_USAGE;
		}
	} else {
		return false;
	}
	if (fflush(stdout) != 0)
		*code = EXIT_FAILURE;
	return true;
}

int ks_program_run(const struct ks_program *program, int argc, char **argv)
{
	struct ks_options options;
	const struct ks_tool *tool = argc > 1 ? ks_tool_find(argv[1]) : NULL;
	struct ks_err err = {0};
	int code = EXIT_USAGE;

	if (tool)
		return tool->run(argc - 1, argv + 1);
	if (ks_options_parse(&options, argc, argv, getenv, &err) != KS_OK) {
		(void)fprintf(stderr, KS_PROGRAM ": %s\n", err.text);
	} else {
		ks_diag_setup(options.log_level, options.log_format);
		if (!tell(program, &options, &code)) {
			if (ks_diag_open(options.log_outputs, &err) != KS_OK) {
				(void)fprintf(stderr, KS_PROGRAM ": %s\n", err.text);
				code = EXIT_USAGE;
			} else {
				ks_options_report(&options, environ);
				code = serve(program, &options);
			}
		}
	}
	ks_options_fini(&options);
	return code;
}
