/* SPDX-License-Identifier: Apache-2.0 */
/* What backends need to know of endpoint URLs: the scheme, the part after it, and percent-encoding. No state. */
#ifndef SQLB_URL_H
#define SQLB_URL_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Copies the scheme in lower case ("postgres" of "Postgres://…") and points *rest behind "scheme:" and, when they are
 * there, the two slashes. False when 'url' does not begin with a scheme or when that does not fit.
 */
bool sqlb_url_scheme(const char *url, char *scheme, size_t scheme_size, const char **rest);

/* Decodes %XX from 'text' into 'out'. False for a bad escape, an encoded NUL, or too little room. */
bool sqlb_url_decode(const char *text, char *out, size_t out_size);

#endif
