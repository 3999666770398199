/* SPDX-License-Identifier: Apache-2.0 */
/* Ages as people say them. */
#ifndef DPA_WORDS_H
#define DPA_WORDS_H

#include <stddef.h>

/* "0.3 s", "42 s", "12 min", "5 h", "3 days". */
void dpa_words_age(double seconds, char *text, size_t room);

#endif
