/* SPDX-License-Identifier: Apache-2.0 */
#include "status/words.h"

#include <stdio.h>

void dpa_words_age(double seconds, char *text, size_t room)
{
	if (seconds < 10)
		(void)snprintf(text, room, "%.1f s", seconds < 0 ? 0 : seconds);
	else if (seconds < 120)
		(void)snprintf(text, room, "%.0f s", seconds);
	else if (seconds < 7200)
		(void)snprintf(text, room, "%.0f min", seconds / 60);
	else if (seconds < 2 * 86400.0)
		(void)snprintf(text, room, "%.0f h", seconds / 3600);
	else
		(void)snprintf(text, room, "%.0f days", seconds / 86400);
}
