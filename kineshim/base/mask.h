/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hides passwords in texts for people. Whoever writes a text leaves secrets out of it; this is the net below, for what users
 * write where nobody expects it (a URL as the name of a file) and for what libraries quote. ks_fail and ks_diag use it.
 *
 * Threads: any. Errors: none; what looks like a secret is hidden, even when it is none.
 */
#ifndef KS_BASE_MASK_H
#define KS_BASE_MASK_H

#include <stdbool.h>
#include <stddef.h>

/*
 * In 'text', what stands between ':' and '@' behind a "scheme://", and the values of parameters of URLs that are secrets, become
 * "***", or fewer stars when they were shorter. 'cut': the text's end is missing, and with it perhaps the '@'.
 */
void ks_mask(char *text, bool cut);

/*
 * The size of "name=" when 'text' begins with a parameter whose name says that it is a secret ("password=", "sslpassword=", "PWD="), else
 * 0; then *value_size is that of the value, with its quotes or braces.
 */
size_t ks_mask_parameter(const char *text, size_t *value_size);

#endif
