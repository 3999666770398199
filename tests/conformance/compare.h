/* SPDX-License-Identifier: Apache-2.0 */
/* Compares two transcripts, field by field. */
#ifndef CONFORMANCE_COMPARE_H
#define CONFORMANCE_COMPARE_H

/*
 * Prints a TAP line "ok - PREFIX: scenario" or "not ok …" for each scenario of the reference, with the differences as comments
 * under it. Returns the exit status: 0 when all are equal but for what the file of known differences allows.
 */
int compare(const char *reference, const char *tested, const char *differences, const char *prefix);

#endif
