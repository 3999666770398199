/* SPDX-License-Identifier: Apache-2.0 */
/* See rest.h. */
#include "net/rest.h"

bool ks_rest_begins(struct ks_rest *rest, int64_t waited_us)
{
	if (waited_us <= KS_REST_SOON_US) {
		rest->found++;
		return false;
	}
	if (rest->pays) {
		rest->pays = rest->found >= KS_REST_WORTH;
		rest->tries = 0;
	} else if (++rest->tries == KS_REST_TRY) {
		rest->pays = true; /* until the next one tells */
	}
	rest->found = 0;
	return rest->pays;
}
