/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages that go to many, see json.h: the last few are kept, each as its wire bytes and its JSON. A message with the same wire bytes has the
 * same JSON, so nothing needs to be known of what it says. Large values are the store's own counted bytes, and told apart by their address,
 * which stays theirs while an entry holds a reference.
 *
 * A few, not one: the watchers of a key may have asked for different things, and come in any order.
 */
#include <stdlib.h>

#include "base/panic.h"
#include "net/json.h"

#define ENTRIES 4
#define PIECE_BYTES 65536

struct entry {
	const ProtobufCMessageDescriptor *type; /* NULL: unused */
	struct ks_out wire;
	struct ks_bytes *text;
};

struct ks_json_shared {
	struct entry entries[ENTRIES];
	size_t oldest;
};

struct ks_json_shared *ks_json_shared_new(void)
{
	return ks_xcalloc(1, sizeof(struct ks_json_shared));
}

static void forget(struct entry *entry)
{
	if (entry->type)
		ks_out_fini(&entry->wire);
	ks_bytes_unref(entry->text);
	*entry = (struct entry){.type = NULL};
}

void ks_json_shared_free(struct ks_json_shared *shared)
{
	for (size_t i = 0; shared && i < ENTRIES; i++)
		forget(&shared->entries[i]);
	free(shared);
}

static bool same_wire(const struct ks_out *a, const struct ks_out *b)
{
	if (a->buf.size != b->buf.size || a->insert_count != b->insert_count ||
	    (a->buf.size > 0 && memcmp(a->buf.data, b->buf.data, a->buf.size) != 0))
		return false;
	for (size_t i = 0; i < a->insert_count; i++)
		if (a->inserts[i].at != b->inserts[i].at || a->inserts[i].bytes != b->inserts[i].bytes)
			return false;
	return true;
}

static struct entry *find(struct ks_json_shared *shared, const ProtobufCMessageDescriptor *type,
			  const struct ks_out *wire)
{
	for (size_t i = 0; i < ENTRIES; i++)
		if (shared->entries[i].type == type && same_wire(&shared->entries[i].wire, wire))
			return &shared->entries[i];
	return NULL;
}

/* Leaves 'wire' alone: the writer reads a copy that shares its values. */
static struct ks_bytes *write_line(const ProtobufCMessageDescriptor *type, const struct ks_out *wire)
{
	enum ks_json_written written = KS_JSON_FAILED;
	struct ks_json_writer *writer;
	struct ks_bytes *line = NULL;
	struct ks_buf text;
	size_t expected = ks_out_size(wire) * 2 + 64;

	ks_buf_init(&text, SIZE_MAX);
	ks_buf_reserve(&text, expected);
	ks_buf_append(&text, "{\"result\":", 10);
	writer = ks_json_writer_borrow(type, wire);
	if (writer) {
		do {
			written = ks_json_write(writer, &text, text.size + PIECE_BYTES);
		} while (written == KS_JSON_MORE);
	}
	ks_json_writer_free(writer);
	ks_buf_append(&text, "}\n", 2);
	if (written == KS_JSON_DONE && !text.failed)
		line = ks_bytes_copy(ks_slice_of(text.data, text.size));
	ks_buf_fini(&text);
	return line;
}

struct ks_bytes *ks_json_shared_line(struct ks_json_shared *shared, const ProtobufCMessageDescriptor *type,
				     struct ks_out *wire)
{
	struct entry *entry = find(shared, type, wire);
	struct ks_bytes *line;

	KS_ASSERT(!ks_out_failed(wire));
	if (entry) {
		ks_out_fini(wire);
		return ks_bytes_ref(entry->text);
	}
	line = write_line(type, wire);
	if (!line) {
		ks_out_fini(wire);
		return NULL;
	}
	entry = &shared->entries[shared->oldest];
	shared->oldest = (shared->oldest + 1) % ENTRIES;
	forget(entry);
	*entry = (struct entry){.type = type, .wire = *wire, .text = ks_bytes_ref(line)};
	ks_out_init(wire, wire->max);
	return line;
}
