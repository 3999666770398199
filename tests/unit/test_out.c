/* SPDX-License-Identifier: Apache-2.0 */
/* base/out.h: what is shared, what is copied, and that the maximum counts both. */
#include "base/out.h"
#include "base/panic.h"
#include "tests/lib/tap.h"

static struct ks_bytes *filled(size_t size, int value)
{
	struct ks_bytes *bytes = ks_bytes_new(size);

	KS_ASSERT(bytes);
	memset(bytes->data, value, size);
	return bytes;
}

static void small_bytes_are_copied_and_large_ones_shared(void)
{
	struct ks_bytes *small = filled(KS_OUT_SHARE_SIZE - 1, 's'), *large = filled(KS_OUT_SHARE_SIZE, 'l');
	struct ks_out out;

	ks_out_init(&out, 1 << 20);
	ks_out_bytes(&out, small);
	ks_out_bytes(&out, large);
	ks_out_bytes(&out, NULL);
	CU_ASSERT_EQUAL(out.insert_count, 1);
	CU_ASSERT_EQUAL(atomic_load(&small->refs), 1);
	CU_ASSERT_EQUAL(atomic_load(&large->refs), 2);
	CU_ASSERT_EQUAL(ks_out_size(&out), 2 * KS_OUT_SHARE_SIZE - 1);
	CU_ASSERT_FALSE(ks_out_failed(&out));
	ks_out_fini(&out);
	CU_ASSERT_EQUAL(atomic_load(&large->refs), 1);
	ks_bytes_unref(small);
	ks_bytes_unref(large);
}

static void the_maximum_counts_shared_bytes(void)
{
	struct ks_bytes *large = filled(4000, 'l');
	struct ks_out out;

	ks_out_init(&out, 10000);
	ks_out_bytes(&out, large);
	ks_out_bytes(&out, large);
	ks_buf_append(&out.buf, large->data, 2000);
	CU_ASSERT_FALSE(ks_out_failed(&out));
	CU_ASSERT_EQUAL(ks_out_size(&out), 10000);
	ks_buf_append(&out.buf, "x", 1);
	CU_ASSERT_TRUE(ks_out_failed(&out));
	ks_out_bytes(&out, large); /* stays failed, takes nothing */
	CU_ASSERT_EQUAL(atomic_load(&large->refs), 3);
	ks_out_fini(&out);
	CU_ASSERT_EQUAL(atomic_load(&large->refs), 1);

	ks_out_init(&out, 7999);
	ks_out_bytes(&out, large);
	ks_out_bytes(&out, large);
	CU_ASSERT_TRUE(ks_out_failed(&out));
	ks_out_fini(&out);
	CU_ASSERT_EQUAL(out.insert_count, 0);
	CU_ASSERT_EQUAL(atomic_load(&large->refs), 1);
	ks_bytes_unref(large);
}

int main(void)
{
	return tap_run("out",
		       (const struct tap_test[]){{"small_bytes_are_copied_and_large_ones_shared",
						  small_bytes_are_copied_and_large_ones_shared},
						 {"the_maximum_counts_shared_bytes", the_maximum_counts_shared_bytes},
						 {NULL, NULL}});
}
