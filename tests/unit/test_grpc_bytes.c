/* SPDX-License-Identifier: Apache-2.0 */
/* net/grpc_bytes.h: messages with shared parts through gRPC's byte buffers and back. */
#include <grpc/byte_buffer.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "net/grpc_bytes.h"
#include "tests/lib/tap.h"

static struct ks_bytes *filled(size_t size, int value)
{
	struct ks_bytes *bytes = ks_bytes_new(size);

	KS_ASSERT(bytes);
	memset(bytes->data, value, size);
	return bytes;
}

static void a_failed_message_gives_nothing_and_keeps_nothing(void)
{
	struct ks_bytes *large = filled(4000, 'l');
	struct ks_out out;

	ks_out_init(&out, 7999);
	ks_out_bytes(&out, large);
	ks_out_bytes(&out, large);
	CU_ASSERT_TRUE(ks_out_failed(&out));
	CU_ASSERT_PTR_NULL(ks_grpc_bytes_from_out(&out));
	CU_ASSERT_EQUAL(out.insert_count, 0);
	CU_ASSERT_EQUAL(atomic_load(&large->refs), 1);
	ks_bytes_unref(large);
}

/* 'size' bytes through a byte buffer in 'pieces' shared inserts with text between them; are they the same? */
static void round_trip(size_t text_size, int inserts)
{
	struct ks_bytes *shared = filled(3000, 'S');
	size_t total = text_size * (size_t)(inserts + 1) + 3000 * (size_t)inserts, at = 0;
	uint8_t *expected = malloc(total + 1);
	struct ks_grpc_message message;
	grpc_byte_buffer *buffer;
	struct ks_out out;

	ks_out_init(&out, 1 << 24);
	for (int i = 0; i <= inserts; i++) {
		memset(expected + at, 'a' + i % 26, text_size);
		ks_buf_append(&out.buf, expected + at, text_size);
		at += text_size;
		if (i < inserts) {
			ks_out_bytes(&out, shared);
			memset(expected + at, 'S', 3000);
			at += 3000;
		}
	}
	buffer = ks_grpc_bytes_from_out(&out);
	CU_ASSERT_PTR_NOT_NULL_FATAL(buffer);
	CU_ASSERT_EQUAL(grpc_byte_buffer_length(buffer), total);
	CU_ASSERT_EQUAL(atomic_load(&shared->refs), 1 + (uint32_t)inserts);
	CU_ASSERT_EQUAL(out.buf.size, 0);
	CU_ASSERT_TRUE(ks_grpc_message_open(&message, buffer));
	CU_ASSERT_EQUAL(message.slice.size, total);
	CU_ASSERT_TRUE(total == 0 || memcmp(message.slice.data, expected, total) == 0);
	CU_ASSERT_EQUAL(message.joined != NULL, inserts > 1 || (inserts == 1 && text_size > 0));
	ks_grpc_message_close(&message);
	ks_grpc_message_close(&message);
	CU_ASSERT_EQUAL(atomic_load(&shared->refs), 1);
	ks_bytes_unref(shared);
	free(expected);
	ks_out_fini(&out);
}

static void messages_survive_grpcs_byte_buffers(void)
{
	static const size_t sizes[] = {0, 1, 22, 23, 24, 255, 256, 257, 5000, 1 << 20};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		round_trip(sizes[i], 0);
		round_trip(sizes[i], 1);
		round_trip(sizes[i], 2);
	}
	round_trip(10, 1000);
}

static void an_empty_message_is_a_message(void)
{
	grpc_byte_buffer *buffer = ks_grpc_bytes_from_slice(ks_slice_of(NULL, 0));
	struct ks_grpc_message message;

	CU_ASSERT_PTR_NOT_NULL_FATAL(buffer);
	CU_ASSERT_PTR_NULL(ks_grpc_bytes_encoding(buffer));
	CU_ASSERT_TRUE(ks_grpc_message_open(&message, buffer));
	CU_ASSERT_EQUAL(message.slice.size, 0);
	ks_grpc_message_close(&message);
}

int main(void)
{
	int result;

	grpc_init();
	result = tap_run("grpc_bytes", (const struct tap_test[]){
#define T(name) {#name, name}
					       T(a_failed_message_gives_nothing_and_keeps_nothing),
					       T(messages_survive_grpcs_byte_buffers),
					       T(an_empty_message_is_a_message),
#undef T
					       {NULL, NULL}});
	grpc_shutdown();
	return result;
}
