/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/tap.h"
int main(void) { return tap_run("base", (const struct tap_test[]){{NULL, NULL}}); }
