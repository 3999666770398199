/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check [--min-writes N] [--faults KIND,…] FILE: is the history in FILE (a run of torture wrote it) one that etcd could have
 * produced? Also fails when too little happened: fewer acknowledged writes, or not each of these faults at least once.
 * Exit status: 0 fine, 1 violations, 2 usage or not a history.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/torture/check.h"

static size_t writes_of(const struct history *history)
{
	size_t count = 0;

	for (size_t i = 0; i < history->op_count; i++)
		count += history->ops[i].kind == OP_TXN && history->ops[i].outcome == OP_OK &&
			 (history->ops[i].thens[0].kind == ACTION_PUT);
	return count;
}

static unsigned missing_faults(const struct history *history, char *kinds)
{
	unsigned missing = 0;
	char *rest = NULL;

	for (char *kind = strtok_r(kinds, ",", &rest); kind; kind = strtok_r(NULL, ",", &rest)) {
		size_t i = 0;

		while (i < history->fault_count && strcmp(history->faults[i].kind, kind))
			i++;
		if (i < history->fault_count)
			continue;
		printf("# too little happened: there was no fault of the kind %s\n", kind);
		missing++;
	}
	return missing;
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {{"min-writes", required_argument, NULL, 'w'},
					      {"faults", required_argument, NULL, 'f'},
					      {NULL, 0, NULL, 0}};
	struct history history;
	size_t min_writes = 0;
	char *faults = NULL;
	unsigned violations;
	int option;

	while ((option = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		if (option == 'w')
			min_writes = strtoul(optarg, NULL, 10);
		else if (option == 'f')
			faults = optarg;
		else
			return 2;
	}
	if (optind + 1 != argc) {
		fprintf(stderr, "usage: check [--min-writes N] [--faults KIND,…] FILE\n");
		return 2;
	}
	history_init(&history);
	if (!history_read(&history, argv[optind])) {
		history_fini(&history);
		return 2;
	}
	history_statistics(&history, stdout);
	violations = history_check(&history, stdout);
	printf("# %u violations\n", violations);
	if (writes_of(&history) < min_writes) {
		printf("# too little happened: %zu acknowledged writes, expected are at least %zu\n",
		       writes_of(&history), min_writes);
		violations++;
	}
	violations += faults ? missing_faults(&history, faults) : 0;
	history_fini(&history);
	return violations ? 1 : 0;
}
