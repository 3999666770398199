/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A test's own odbcinst.ini, so that it does not matter which drivers the machine has registered. unixODBC asks only once where
 * its files are: one for each process, before its first call.
 */
#ifndef TESTS_LIB_ODBC_INI_H
#define TESTS_LIB_ODBC_INI_H

#include <stdbool.h>

/* 'names' ends with NULL; all of them lead to the same library. False: it cannot be written. */
bool odbc_ini_write(const char *const *names, const char *library);
void odbc_ini_remove(void);

#endif
