/* SPDX-License-Identifier: Apache-2.0 */
#include "mirror/prefix.h"

#include "base/panic.h"

static bool is_everything_behind(struct ks_slice end)
{
	return end.size == 1 && end.data[0] == 0;
}

struct ks_interval dpa_prefix_interval(const char *prefix, uint8_t **memory)
{
	size_t size = strlen(prefix), end = size;
	uint8_t *bytes = ks_xcalloc(1, 2 * (size + 1));
	uint8_t *behind = bytes + size + 1;

	memcpy(bytes, prefix, size);
	memcpy(behind, prefix, size);
	/* The first key behind them; when there is none, a zero byte is the end of all keys. */
	while (end > 0 && behind[end - 1] == 0xff)
		end--;
	if (end > 0)
		behind[end - 1]++;
	else
		behind[0] = 0;
	*memory = bytes;
	return (struct ks_interval){.key = ks_slice_of(bytes, size ? size : 1),
				    .end = ks_slice_of(behind, end ? end : 1)};
}

bool dpa_prefix_covers(const struct ks_interval *prefix, const struct ks_interval *interval)
{
	bool is_open = is_everything_behind(prefix->end);

	if (!ks_interval_contains(prefix, interval->key))
		return false;
	if (interval->end.size == 0 || is_open)
		return true;
	return !is_everything_behind(interval->end) && ks_slice_cmp(interval->end, prefix->end) <= 0;
}
