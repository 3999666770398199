/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the endpoint of the database comes from, so that its password need not stand on a command line: a file, or
 * environment variables named in it. No state; texts of errors never quote a secret.
 */
#ifndef KS_ENDPOINT_H
#define KS_ENDPOINT_H

#include <stdbool.h>

#include "base/status.h"

#define KS_ENDPOINT_MAX 4096

/*
 * Copies 'text' with each ${NAME} replaced by that variable. In the user and password part of a URL the value is percent-encoded, so
 * a password may have any characters; elsewhere it is taken as it is. A variable that is not set is an error.
 */
enum ks_status ks_endpoint_expand(const char *text, char *(*getenv_fn)(const char *name), char out[KS_ENDPOINT_MAX],
				  struct ks_err *err) KS_MUST_CHECK;
/* Does a password stand in it, other than as a ${NAME}? */
bool ks_endpoint_has_password(const char *text);
/* The first line of a file, taken as it is but for blanks around it. */
enum ks_status ks_endpoint_read(const char *path, char out[KS_ENDPOINT_MAX], struct ks_err *err) KS_MUST_CHECK;

#endif
