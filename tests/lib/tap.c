/* SPDX-License-Identifier: Apache-2.0 */
/* The TAP side of CUnit: everything happens in the handlers that CUnit calls around each test. */
#include "tests/lib/tap.h"

#include <CUnit/TestRun.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned done;
static const char *skipped_because;

static void must(CU_ErrorCode code, const char *what)
{
	if (code == CUE_SUCCESS)
		return;
	printf("Bail out! %s: %s\n", what, CU_get_error_msg());
	exit(99);
}

static void comment(const CU_FailureRecord *failure)
{
	printf("# %s:%u: %s\n", failure->strFileName ? failure->strFileName : "?", failure->uiLineNumber,
	       failure->strCondition ? failure->strCondition : "?");
}

static void test_complete(const CU_pTest test, const CU_pSuite suite, const CU_pFailureRecord failures)
{
	printf("%s %u - %s: %s%s%s\n", failures ? "not ok" : "ok", ++done, suite->pName, test->pName,
	       skipped_because ? " # SKIP " : "", skipped_because ? skipped_because : "");
	for (CU_pFailureRecord failure = failures; failure; failure = failure->pNext)
		comment(failure);
	skipped_because = NULL;
	(void)fflush(stdout);
}

static void initialise(void)
{
	if (CU_registry_initialized())
		return;
	(void)setvbuf(stdout, NULL, _IOLBF, 0);
	must(CU_initialize_registry(), "CUnit");
	CU_set_error_action(CUEA_IGNORE);
	CU_set_test_complete_handler(test_complete);
}

void tap_add(const char *suite, const struct tap_test *tests)
{
	const char *only = getenv("KS_TEST_ONLY");
	CU_pSuite added;

	initialise();
	added = CU_add_suite(suite, NULL, NULL);
	must(CU_get_error(), suite);
	for (; tests->name; tests++) {
		if (only && !strstr(tests->name, only))
			continue;
		if (!CU_add_test(added, tests->name, tests->run))
			must(CU_get_error(), tests->name);
	}
}

void tap_skip(const char *why)
{
	skipped_because = why;
}

int tap_finish(void)
{
	unsigned failed;

	initialise();
	printf("1..%u\n", CU_get_registry()->uiNumberOfTests);
	(void)CU_run_all_tests();
	failed = CU_get_number_of_tests_failed();
	if (done != CU_get_registry()->uiNumberOfTests) {
		printf("Bail out! %u of %u tests ran\n", done, CU_get_registry()->uiNumberOfTests);
		failed = 1;
	}
	CU_cleanup_registry();
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

int tap_run(const char *suite, const struct tap_test *tests)
{
	tap_add(suite, tests);
	return tap_finish();
}
