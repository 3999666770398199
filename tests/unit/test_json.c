/* SPDX-License-Identifier: Apache-2.0 */
/* The promises of net/json.h: what JSON means, what messages look like as JSON, and that pieces of any size change nothing. */
#include <stdio.h>
#include <stdlib.h>

#include "base/panic.h"
#include "net/json.h"
#include "proto/lock.pb-c.h"
#include "proto/rpc.pb-c.h"
#include "tests/lib/tap.h"

#define RANGE &etcdserverpb__range_request__descriptor
#define PUT &etcdserverpb__put_request__descriptor
#define TXN &etcdserverpb__txn_request__descriptor
#define WATCH &etcdserverpb__watch_request__descriptor
#define ALARM &etcdserverpb__alarm_request__descriptor

/* JSON in → wire → JSON out; 'out' NULL: refused. */
struct trip {
	const ProtobufCMessageDescriptor *type;
	const char *in, *out;
};

static char *to_text(const ProtobufCMessageDescriptor *type, struct ks_out *wire, size_t step)
{
	struct ks_json_writer *writer = ks_json_writer_new(type, wire);
	enum ks_json_written written;
	struct ks_buf text;
	size_t size;

	ks_buf_init(&text, SIZE_MAX);
	do {
		written = ks_json_write(writer, &text, text.size + step);
	} while (written == KS_JSON_MORE);
	ks_json_writer_free(writer);
	ks_buf_append(&text, "", 1);
	if (written == KS_JSON_FAILED)
		ks_buf_fini(&text);
	return (char *)ks_buf_take(&text, &size);
}

/* NULL when refused. */
static char *round_trip(const ProtobufCMessageDescriptor *type, struct ks_slice in, struct ks_err *err)
{
	struct ks_out wire;
	enum ks_status status;

	ks_out_init(&wire, 1 << 24);
	status = ks_json_to_wire(type, in, &wire.buf, err);
	if (status != KS_OK) {
		ks_out_fini(&wire);
		return NULL;
	}
	return to_text(type, &wire, 1);
}

static void check(const struct trip *trips, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		const struct trip *trip = &trips[i];
		struct ks_err err = {.text = ""};
		char *got = round_trip(trip->type, ks_slice_str(trip->in), &err);
		bool same = trip->out ? got && strcmp(got, trip->out) == 0 : !got && err.status == KS_INVALID_ARGUMENT;

		if (!same)
			printf("# %s\n# wanted %s\n# got    %s %s\n", trip->in, trip->out ? trip->out : "an error",
			       got ? got : "an error:", err.text);
		CU_ASSERT_TRUE(same);
		free(got);
	}
}
#define CHECK(...)                                            \
	do {                                                  \
		const struct trip trips[] = {__VA_ARGS__};    \
		check(trips, sizeof(trips) / sizeof(*trips)); \
	} while (0)

static void names_come_in_both_styles(void)
{
	CHECK({RANGE, "{\"key\":\"Zm9v\",\"range_end\":\"Zm9w\"}", "{\"key\":\"Zm9v\",\"range_end\":\"Zm9w\"}"},
	      {RANGE, "{\"key\":\"Zm9v\",\"rangeEnd\":\"Zm9w\"}", "{\"key\":\"Zm9v\",\"range_end\":\"Zm9w\"}"},
	      {RANGE, "{\"minModRevision\":\"5\",\"max_create_revision\":6}",
	       "{\"min_mod_revision\":\"5\",\"max_create_revision\":\"6\"}"},
	      {&etcdserverpb__lease_grant_request__descriptor, "{\"TTL\":10,\"ID\":\"-3\"}",
	       "{\"TTL\":\"10\",\"ID\":\"-3\"}"},
	      {&etcdserverpb__lease_checkpoint__descriptor, "{\"remainingTTL\":1}", "{\"remaining_TTL\":\"1\"}"},
	      {&etcdserverpb__member_add_request__descriptor, "{\"peerURLs\":[\"a\",\"b\"],\"isLearner\":true}",
	       "{\"peerURLs\":[\"a\",\"b\"],\"isLearner\":true}"},
	      {RANGE, "{\"Key\":\"Zm9v\",\"range_End\":\"Zm9v\",\"bogus\":[1,{\"a\":null}]}", "{}"});
}

static void empty_and_null_are_absent(void)
{
	CHECK({RANGE, "", "{}"}, {RANGE, " \r\n\t", "{}"}, {RANGE, "{}", "{}"}, {RANGE, "null", "{}"},
	      {RANGE, "{\"key\":null,\"limit\":null}", "{}"},
	      {RANGE, "{\"key\":\"\",\"limit\":0,\"sort_order\":0,\"serializable\":false}", "{}"},
	      {RANGE, "{\"limit\":1,\"limit\":2}", NULL}, {TXN, "{\"compare\":[],\"success\":null}", "{}"},
	      {RANGE, "{} {\"limit\":1}", "{}"}, {RANGE, "{\"limit\":1} trailing", "{\"limit\":\"1\"}"});
}

static void integers_come_in_many_forms(void)
{
	CHECK({RANGE, "{\"limit\":7}", "{\"limit\":\"7\"}"}, {RANGE, "{\"limit\":\"7\"}", "{\"limit\":\"7\"}"},
	      {RANGE, "{\"limit\":1e3}", "{\"limit\":\"1000\"}"},
	      {RANGE, "{\"limit\":\"1e3\"}", "{\"limit\":\"1000\"}"},
	      {RANGE, "{\"limit\":1e+15}", "{\"limit\":\"1000000000000000\"}"},
	      {RANGE, "{\"limit\":3.0}", "{\"limit\":\"3\"}"}, {RANGE, "{\"limit\":-0}", "{}"},
	      {RANGE, "{\"limit\":9223372036854775807}", "{\"limit\":\"9223372036854775807\"}"},
	      {RANGE, "{\"limit\":\"-9223372036854775808\"}", "{\"limit\":\"-9223372036854775808\"}"},
	      {RANGE, "{\"limit\":9223372036854775808}", NULL}, {RANGE, "{\"limit\":\"9223372036854775808\"}", NULL},
	      {RANGE, "{\"limit\":1.5}", NULL}, {RANGE, "{\"limit\":\"\"}", NULL}, {RANGE, "{\"limit\":\" 7\"}", NULL},
	      {RANGE, "{\"limit\":\"07\"}", NULL}, {RANGE, "{\"limit\":\"-07\"}", NULL},
	      {RANGE, "{\"limit\":\"7.\"}", NULL}, {RANGE, "{\"limit\":\"7.e1\"}", NULL},
	      {RANGE, "{\"limit\":\"0\"}", "{}"}, {RANGE, "{\"limit\":\"7.0\"}", "{\"limit\":\"7\"}"},
	      {RANGE, "{\"limit\":\"7x\"}", NULL}, {RANGE, "{\"limit\":\"0x7\"}", NULL},
	      {RANGE, "{\"limit\":true}", NULL}, {RANGE, "{\"limit\":[7]}", NULL},
	      {RANGE, "{\"limit\":\"7\\u0000\"}", NULL}, {RANGE, "{\"limit\":1e400}", NULL},
	      {ALARM, "{\"memberID\":14841639068965178418}", "{\"memberID\":\"14841639068965178418\"}"},
	      {ALARM, "{\"memberID\":\"18446744073709551615\"}", "{\"memberID\":\"18446744073709551615\"}"},
	      {ALARM, "{\"memberID\":18446744073709551616}", NULL}, {ALARM, "{\"memberID\":-1}", NULL},
	      {PUT, "{\"key\":\"\\\\\\\"12345678901234567890\"}", NULL});
}

static void enums_come_by_name_or_number(void)
{
	CHECK({RANGE, "{\"sort_order\":\"DESCEND\",\"sort_target\":2}",
	       "{\"sort_order\":\"DESCEND\",\"sort_target\":\"CREATE\"}"},
	      {RANGE, "{\"sort_order\":\"2\",\"limit\":3}", "{\"limit\":\"3\"}"},
	      {RANGE, "{\"sort_order\":\"NONE\"}", "{}"}, {RANGE, "{\"sort_order\":77}", "{\"sort_order\":77}"},
	      {RANGE, "{\"sort_order\":\"descend\"}", "{}"},
	      {WATCH, "{\"create_request\":{\"filters\":[\"NOPUT\",\"NOPE\",1]}}",
	       "{\"create_request\":{\"filters\":[\"NOPUT\",\"NODELETE\"]}}"},
	      {RANGE, "{\"sort_order\":true}", NULL}, {RANGE, "{\"sort_order\":{}}", NULL},
	      {RANGE, "{\"sort_order\":9999999999}", NULL},
	      {ALARM, "{\"action\":\"ACTIVATE\",\"alarm\":\"NOSPACE\"}",
	       "{\"action\":\"ACTIVATE\",\"alarm\":\"NOSPACE\"}"},
	      {WATCH, "{\"create_request\":{\"filters\":[\"NODELETE\",0]}}",
	       "{\"create_request\":{\"filters\":[\"NODELETE\",\"NOPUT\"]}}"});
}

static void base64_comes_in_both_alphabets(void)
{
	CHECK({PUT, "{\"value\":\"+/+/\"}", "{\"value\":\"+/+/\"}"},
	      {PUT, "{\"value\":\"-_-_\"}", "{\"value\":\"+/+/\"}"},
	      {PUT, "{\"value\":\"Zg==\"}", "{\"value\":\"Zg==\"}"},
	      {PUT, "{\"value\":\"Zg\"}", "{\"value\":\"Zg==\"}"}, {PUT, "{\"value\":\"Zm8\"}", "{\"value\":\"Zm8=\"}"},
	      {PUT, "{\"value\":\"Zm9v\\n\"}", "{\"value\":\"Zm9v\"}"}, {PUT, "{\"value\":\"Z\"}", NULL},
	      {PUT, "{\"value\":\"Zm9v=\"}", NULL}, {PUT, "{\"value\":\"Zg=\"}", NULL},
	      {PUT, "{\"value\":\"Zg===\"}", NULL}, {PUT, "{\"value\":\"Z*==\"}", NULL},
	      {PUT, "{\"value\":\"Zg=v\"}", NULL}, {PUT, "{\"value\":1}", NULL},
	      {PUT, "{\"value\":\"Zm9v Zm9v\"}", NULL});
}

static void oneofs_keep_their_zero_and_have_one_arm(void)
{
	CHECK({TXN, "{\"compare\":[{\"key\":\"YQ==\",\"target\":\"CREATE\",\"createRevision\":0}]}",
	       "{\"compare\":[{\"key\":\"YQ==\",\"target\":\"CREATE\",\"create_revision\":\"0\"}]}"},
	      {TXN, "{\"compare\":[{\"target\":3,\"value\":\"\",\"result\":\"NOT_EQUAL\"}]}",
	       "{\"compare\":[{\"target\":\"VALUE\",\"value\":\"\",\"result\":\"NOT_EQUAL\"}]}"},
	      {TXN, "{\"success\":[{\"requestPut\":{\"key\":\"YQ\"}},{\"request_range\":{}}]}",
	       "{\"success\":[{\"request_put\":{\"key\":\"YQ==\"}},{\"request_range\":{}}]}"},
	      {WATCH, "{\"create_request\":{},\"cancel_request\":null}", "{\"create_request\":{}}"},
	      {WATCH, "{\"create_request\":{},\"cancel_request\":{}}", NULL},
	      {TXN, "{\"compare\":[{\"version\":1,\"lease\":1}]}", NULL});
}

static void what_is_no_json_or_another_shape_is_refused(void)
{
	CHECK({RANGE, "{", NULL}, {RANGE, "{\"key\"}", NULL}, {RANGE, "[]", NULL}, {RANGE, "7", NULL},
	      {RANGE, "\"x\"", NULL}, {RANGE, "}", NULL}, {RANGE, "{\"key\":{}}", NULL},
	      {RANGE, "{\"serializable\":1}", NULL}, {TXN, "{\"compare\":{}}", NULL}, {TXN, "{\"compare\":[1]}", NULL},
	      {TXN, "{\"compare\":[null]}", NULL}, {RANGE, "{\"key\":\"\xff\"}", NULL},
	      {RANGE, "\xef\xbb\xbf{}", NULL});
}

static void depth_and_count_are_bounded(void)
{
	struct ks_err err;
	struct ks_buf text;
	char *got;

	for (int deep = 0; deep < 2; deep++) {
		ks_buf_init(&text, 1 << 22);
		ks_buf_printf(&text, "{\"x\":");
		for (int i = 0; i < (deep ? KS_JSON_MAX_DEPTH : KS_JSON_MAX_DEPTH - 1); i++)
			ks_buf_printf(&text, "[");
		for (int i = 0; i < (deep ? KS_JSON_MAX_DEPTH : KS_JSON_MAX_DEPTH - 1); i++)
			ks_buf_printf(&text, "]");
		ks_buf_printf(&text, "}");
		got = round_trip(RANGE, ks_slice_of(text.data, text.size), &err);
		CU_ASSERT_EQUAL(got == NULL, deep);
		free(got);
		ks_buf_fini(&text);
	}
	ks_buf_init(&text, 1 << 22);
	ks_buf_printf(&text, "{\"x\":[");
	for (int i = 0; i <= KS_JSON_MAX_VALUES; i++)
		ks_buf_append(&text, "1,", 2);
	ks_buf_printf(&text, "1]}");
	got = round_trip(RANGE, ks_slice_of(text.data, text.size), &err);
	CU_ASSERT_PTR_NULL(got);
	free(got);
	ks_buf_fini(&text);
}

static void a_full_buffer_is_told(void)
{
	struct ks_buf out;
	struct ks_err err;

	for (size_t max = 0; max < 40; max++) {
		ks_buf_init(&out, max);
		CU_ASSERT_EQUAL(
			ks_json_to_wire(TXN,
					ks_slice_str("{\"success\":[{\"request_put\":{\"key\":\"Zm9vZm9vZm9vZm9vZm9v"
						     "Zm9vZm9vZm9v\",\"value\":\"Zm9vZm9vZm9v\"}}]}"),
					&out, &err),
			KS_RESOURCE_EXHAUSTED);
		ks_buf_fini(&out);
	}
}

/* ---- out ---- */

static void pack(const ProtobufCMessage *message, struct ks_out *wire)
{
	size_t size = protobuf_c_message_get_packed_size(message);

	ks_out_init(wire, SIZE_MAX);
	KS_ASSERT(ks_buf_reserve(&wire->buf, size + 1));
	wire->buf.size = protobuf_c_message_pack(message, wire->buf.data);
}

static void sixty_four_bits_are_strings_and_thirty_two_numbers(void)
{
	Etcdserverpb__HashKVResponse response = ETCDSERVERPB__HASH_KVRESPONSE__INIT;
	Etcdserverpb__ResponseHeader header = ETCDSERVERPB__RESPONSE_HEADER__INIT;
	struct ks_out wire;
	char *text;

	header.cluster_id = 14841639068965178418u;
	header.revision = -1;
	response.header = &header;
	response.hash = 4294967295u;
	pack(&response.base, &wire);
	text = to_text(&etcdserverpb__hash_kvresponse__descriptor, &wire, 1);
	CU_ASSERT_STRING_EQUAL_FATAL(text, "{\"header\":{\"cluster_id\":\"14841639068965178418\",\"revision\":\"-1\"},"
					   "\"hash\":4294967295}");
	free(text);
}

static void an_empty_list_can_be_said(void)
{
	static const char *const wanted[] = {"{\"events\":[]}", "{\"watch_id\":\"7\",\"events\":[]}"};
	char text[64];

	for (uint64_t id = 0; id < 2; id++) {
		struct ks_json_writer *writer;
		struct ks_out wire;
		struct ks_buf out;

		ks_out_init(&wire, 100);
		ks_wire_uint(&wire.buf, 2, id * 7);
		writer = ks_json_writer_new(&etcdserverpb__watch_response__descriptor, &wire);
		ks_json_writer_empty_list(writer, "events");
		ks_buf_init(&out, 100);
		CU_ASSERT_EQUAL(ks_json_write(writer, &out, 100), KS_JSON_DONE);
		(void)snprintf(text, sizeof(text), "%.*s", (int)out.size, (const char *)out.data);
		CU_ASSERT_STRING_EQUAL(text, wanted[id]);
		ks_json_writer_free(writer);
		ks_buf_fini(&out);
	}
}

static void texts_are_escaped(void)
{
	struct ks_buf out;

	ks_buf_init(&out, 1000);
	ks_json_string(
		&out,
		ks_slice_of("a\"\\\n\t\x01\0\x7f\xc3\xa4\xff\xc0\x80\xed\xa0\x80\xe2\x82\xac\xf0\x9f\x98\x80\xf0\x9f",
			    25));
	ks_buf_append(&out, "", 1);
	CU_ASSERT_STRING_EQUAL((char *)out.data,
			       "\"a\\\"\\\\\\n\\t\\u0001\\u0000\x7f\xc3\xa4\\ufffd\\ufffd\\ufffd\\ufffd\\ufffd\\ufffd"
			       "\xe2\x82\xac\xf0\x9f\x98\x80\\ufffd\\ufffd\"");
	ks_buf_fini(&out);
}

/* A range answer with shared values, as api/range.c writes it. */
static void write_kvs(struct ks_out *wire, size_t count, size_t value_size)
{
	ks_out_init(wire, SIZE_MAX);
	ks_wire_nested(&wire->buf, 1, 2);
	ks_wire_uint(&wire->buf, 3, 7);
	for (size_t i = 0; i < count; i++) {
		struct ks_buf kv;
		struct ks_bytes *bytes, *value = ks_bytes_new(value_size);

		memset(value->data, 'v', value_size);
		ks_buf_init(&kv, SIZE_MAX);
		ks_wire_bytes(&kv, 1, ks_slice_str("key"));
		ks_wire_uint(&kv, 2, i + 1);
		ks_wire_bytes(&kv, 5, ks_bytes_slice(value));
		bytes = ks_bytes_copy(ks_slice_of(kv.data, kv.size));
		ks_wire_nested(&wire->buf, 2, kv.size);
		ks_out_bytes(wire, bytes);
		ks_bytes_unref(bytes);
		ks_bytes_unref(value);
		ks_buf_fini(&kv);
	}
	ks_wire_uint(&wire->buf, 4, count);
}

static void pieces_of_any_size_change_nothing(void)
{
	static const size_t steps[] = {1, 2, 3, 7, 100, 4096, 1 << 20};
	struct ks_out wire;
	char *whole, *text;

	/* Values around the size from which they are shared, and of each remainder of base64. */
	for (size_t size = KS_OUT_SHARE_SIZE - 40; size < KS_OUT_SHARE_SIZE + 3; size += 7) {
		write_kvs(&wire, 5, size);
		whole = to_text(&etcdserverpb__range_response__descriptor, &wire, SIZE_MAX / 2);
		CU_ASSERT_PTR_NOT_NULL_FATAL(whole);
		CU_ASSERT_EQUAL(strncmp(whole, "{\"header\":{\"revision\":\"7\"},\"kvs\":[{\"key\":\"a2V5\",", 47), 0);
		CU_ASSERT_STRING_EQUAL(whole + strlen(whole) - 14, "],\"count\":\"5\"}");
		for (size_t i = 0; i < sizeof(steps) / sizeof(*steps); i++) {
			write_kvs(&wire, 5, size);
			text = to_text(&etcdserverpb__range_response__descriptor, &wire, steps[i]);
			CU_ASSERT_STRING_EQUAL(text, whole);
			free(text);
		}
		free(whole);
	}
}

static struct ks_bytes *line_of(struct ks_json_shared *shared, size_t count, size_t size)
{
	struct ks_out wire;

	write_kvs(&wire, count, size);
	return ks_json_shared_line(shared, &etcdserverpb__range_response__descriptor, &wire);
}

/* A line for many is the text that each would have got, and one for all of them. */
static void the_same_message_is_written_once(void)
{
	struct ks_json_shared *shared = ks_json_shared_new();
	struct ks_bytes *first = line_of(shared, 2, 100), *other = line_of(shared, 3, 100), *again;
	struct ks_out wire;
	char *text, *wanted;

	write_kvs(&wire, 2, 100);
	text = to_text(&etcdserverpb__range_response__descriptor, &wire, 1);
	CU_ASSERT_FATAL(asprintf(&wanted, "{\"result\":%s}\n", text) > 0);
	CU_ASSERT_TRUE(ks_slice_eq(ks_bytes_slice(first), ks_slice_str(wanted)));
	free(wanted);
	free(text);
	again = line_of(shared, 2, 100);
	CU_ASSERT_PTR_EQUAL(again, first);
	CU_ASSERT_FALSE(ks_slice_eq(ks_bytes_slice(other), ks_bytes_slice(first)));
	ks_bytes_unref(again);
	ks_bytes_unref(other);
	/* A line lives on when others have taken its place. */
	for (size_t count = 4; count < 20; count++)
		ks_bytes_unref(line_of(shared, count, 100));
	again = line_of(shared, 2, 100);
	CU_ASSERT_PTR_NOT_EQUAL(again, first);
	CU_ASSERT_TRUE(ks_slice_eq(ks_bytes_slice(again), ks_bytes_slice(first)));
	ks_bytes_unref(again);
	ks_bytes_unref(first);
	ks_json_shared_free(shared);
}

/* Of values that are not copied their address counts, and where they are. */
static void messages_with_shared_values_are_told_apart(void)
{
	struct ks_json_shared *shared = ks_json_shared_new();
	struct ks_bytes *value = ks_bytes_new(KS_OUT_SHARE_SIZE), *lines[3];

	memset(value->data, 'v', value->size);
	for (int i = 0; i < 3; i++) {
		struct ks_bytes *sent = i < 2 ? ks_bytes_ref(value) : ks_bytes_copy(ks_bytes_slice(value));
		struct ks_out wire;

		ks_out_init(&wire, SIZE_MAX);
		ks_wire_nested(&wire.buf, 1, sent->size); /* PutRequest.key */
		ks_out_bytes(&wire, sent);
		ks_bytes_unref(sent);
		lines[i] = ks_json_shared_line(shared, PUT, &wire);
		CU_ASSERT_PTR_NOT_NULL_FATAL(lines[i]);
	}
	CU_ASSERT_PTR_EQUAL(lines[0], lines[1]);
	CU_ASSERT_PTR_NOT_EQUAL(lines[0], lines[2]);
	CU_ASSERT_TRUE(ks_slice_eq(ks_bytes_slice(lines[0]), ks_bytes_slice(lines[2])));
	for (int i = 0; i < 3; i++)
		ks_bytes_unref(lines[i]);
	ks_bytes_unref(value);
	ks_json_shared_free(shared);
}

static void what_cannot_be_written_is_not_kept(void)
{
	struct ks_json_shared *shared = ks_json_shared_new();
	struct ks_bytes *line;
	struct ks_out wire;

	for (int i = 0; i < 2; i++) {
		ks_out_init(&wire, 100);
		ks_buf_append(&wire.buf, "\x0a\x05", 2);
		CU_ASSERT_PTR_NULL(ks_json_shared_line(shared, &etcdserverpb__range_response__descriptor, &wire));
		CU_ASSERT_EQUAL(ks_out_size(&wire), 0);
	}
	/* An empty message has a line, too, and it is its type's. */
	for (int i = 0; i < 2; i++) {
		ks_out_init(&wire, 100);
		line = ks_json_shared_line(shared, i ? PUT : RANGE, &wire);
		CU_ASSERT_PTR_NOT_NULL_FATAL(line);
		CU_ASSERT_TRUE(ks_slice_eq(ks_bytes_slice(line), ks_slice_str("{\"result\":{}}\n")));
		ks_bytes_unref(line);
	}
	ks_json_shared_free(shared);
}

static void foreign_bytes_fail_and_do_not_crash(void)
{
	static const char *const bad[] = {"\x0a", "\x0a\x05", "\x0a\x02\x0a\x7f", "\x12\x02\x0a\x05\x00\x00\x00",
					  "\x0b", "\xff\xff", "\x08\x01",         "\x20"};
	struct ks_out wire;
	char *text;

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		ks_out_init(&wire, 100);
		ks_buf_append(&wire.buf, bad[i], strlen(bad[i]));
		text = to_text(&etcdserverpb__range_response__descriptor, &wire, 1);
		CU_ASSERT_PTR_NULL(text);
		free(text);
	}
	/* An unknown field is passed over. */
	ks_out_init(&wire, 100);
	ks_buf_append(&wire.buf, "\xf8\x07\x05\x20\x03", 5);
	text = to_text(&etcdserverpb__range_response__descriptor, &wire, 1);
	CU_ASSERT_STRING_EQUAL_FATAL(text, "{\"count\":\"3\"}");
	free(text);
}

/* ---- sequences ---- */

static void the_ends_of_values_are_found_in_any_pieces(void)
{
	static const char text[] = " {\"a\":\"}\\\"{\"}\n[1,[2]]{} \"s\\\\\" 12 true {\"x\":{}}";
	static const char *const wanted[] = {" {\"a\":\"}\\\"{\"}", "\n[1,[2]]", "{}", " \"s\\\\\"", " 12", " true",
					     " {\"x\":{}}"};

	for (size_t step = 1; step < sizeof(text); step++) {
		struct ks_json_split state = {.depth = 0};
		size_t from = 0, at = 0, found = 0;

		while (at < sizeof(text) - 1) {
			size_t left = sizeof(text) - 1 - at, taken;
			enum ks_json_found result =
				ks_json_split(&state, ks_slice_of(text + at, left < step ? left : step), &taken);

			at += taken;
			CU_ASSERT_NOT_EQUAL(result, KS_JSON_BAD);
			if (result != KS_JSON_WHOLE)
				continue;
			CU_ASSERT_TRUE_FATAL(found < 7);
			CU_ASSERT_TRUE(ks_slice_eq(ks_slice_of(text + from, at - from), ks_slice_str(wanted[found])));
			from = at;
			found++;
		}
		CU_ASSERT_EQUAL(found, 7);
	}
}

int main(void)
{
	return tap_run("json", (const struct tap_test[]){
#define T(name) {#name, name}
				       T(names_come_in_both_styles),
				       T(empty_and_null_are_absent),
				       T(integers_come_in_many_forms),
				       T(enums_come_by_name_or_number),
				       T(base64_comes_in_both_alphabets),
				       T(oneofs_keep_their_zero_and_have_one_arm),
				       T(what_is_no_json_or_another_shape_is_refused),
				       T(depth_and_count_are_bounded),
				       T(a_full_buffer_is_told),
				       T(sixty_four_bits_are_strings_and_thirty_two_numbers),
				       T(an_empty_list_can_be_said),
				       T(texts_are_escaped),
				       T(pieces_of_any_size_change_nothing),
				       T(the_same_message_is_written_once),
				       T(messages_with_shared_values_are_told_apart),
				       T(what_cannot_be_written_is_not_kept),
				       T(foreign_bytes_fail_and_do_not_crash),
				       T(the_ends_of_values_are_found_in_any_pieces),
#undef T
				       {NULL, NULL}});
}
