/* SPDX-License-Identifier: Apache-2.0 */
/* From texts to values, as Go's flags write them. No state; malformed or too large is false. */
#ifndef KS_OPTION_VALUES_H
#define KS_OPTION_VALUES_H

#include <stdbool.h>
#include <stdint.h>

bool ks_parse_number(const char *text, int64_t *number);
/* "64MiB", "512k", "1G", "100": powers of 1024. */
bool ks_parse_bytes(const char *text, int64_t *bytes);
/* "1h30m", "500ms", "1.5h", "250us", "0": to milliseconds, rounded up, so that nothing becomes 0 that is not. */
bool ks_parse_time(const char *text, int64_t *ms);
/* 1, t, T, TRUE, true, True, 0, f, F, FALSE, false, False. */
bool ks_parse_bool(const char *text, bool *value);
/* 'choices' is "one|two|three"; gives the text itself. */
bool ks_parse_choice(const char *text, const char *choices);

#endif
