/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CUnit that prints TAP: one line for each test, with the failed assertions as comments under it, so that make check
 * counts single cases. A test program is a table and a main():
 *
 *	int main(void) { return tap_run("buf", (const struct tap_test[]){{"grows_to_its_maximum", grows}, {NULL, NULL}}); }
 *
 * The result is the exit status: 0 when every test passed. With KS_TEST_ONLY=text only tests whose name contains it run.
 */
#ifndef TESTS_LIB_TAP_H
#define TESTS_LIB_TAP_H

#include <CUnit/CUnit.h>

struct tap_test {
	const char *name;
	void (*run)(void);
};

/* 'tests' ends with {NULL, NULL}. */
int tap_run(const char *suite, const struct tap_test *tests);
/* Several suites in one program: tap_add for each, then tap_finish gives the exit status. */
void tap_add(const char *suite, const struct tap_test *tests);
int tap_finish(void);
/* Inside a test: it cannot run here, and why. Required tests must not use it. */
void tap_skip(const char *why);

#endif
