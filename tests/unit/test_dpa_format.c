/* SPDX-License-Identifier: Apache-2.0 */
/* The promises of dpagent/snapshot/format.h: what is written is read, and nothing else is, whoever made it. */
#undef malloc
#undef calloc
#undef realloc
#include "tests/lib/tap.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <zstd.h>

#include "base/panic.h"
#include "snapshot/format_priv.h"
#include "snapshot/tool.h"

#define SAVED 1700000000123

/* ---- allocations that fail: in this program's own build of format.c, format_read.c, buf.c, bytes.c and kv.c ---- */

void *fault_malloc(size_t size);
void *fault_calloc(size_t count, size_t size);
void *fault_realloc(void *old, size_t size);

static long countdown; /* 0: never; 1: the next one fails */
static bool hit;

static bool fails(void)
{
	if (countdown == 0 || --countdown > 0)
		return false;
	hit = true;
	return true;
}

void *fault_malloc(size_t size)
{
	return fails() ? NULL : malloc(size);
}

void *fault_calloc(size_t count, size_t size)
{
	return fails() ? NULL : calloc(count, size);
}

void *fault_realloc(void *old, size_t size)
{
	return fails() ? NULL : realloc(old, size);
}

/* ---- images ---- */

static void add(struct dpa_image *image, struct dpa_image_key key)
{
	/* Twice as much at each power of two: some allocators copy at each step. */
	if ((image->key_count & (image->key_count - 1)) == 0)
		image->keys = ks_xrealloc(image->keys, (image->key_count ? 2 * image->key_count : 1) * sizeof(key));
	image->keys[image->key_count++] = key;
}

static struct ks_bytes *kv_of(const char *key, const char *value, int64_t create, int64_t mod, int64_t version)
{
	struct ks_kv kv = {
		.key = ks_slice_str(key),
		.value = ks_slice_str(value),
		.create_revision = create,
		.mod_revision = mod,
		.version = version,
	};
	struct ks_bytes *bytes = ks_kv_encode(&kv);

	KS_ASSERT(bytes);
	return bytes;
}

static struct ks_bytes *text_of(const char *text)
{
	return ks_bytes_copy(ks_slice_str(text));
}

/* One key of each kind. */
static struct dpa_image sample(void)
{
	struct dpa_image image = {
		.cluster_id = 0xcdf818194e3a8c32,
		.up_revision = 40,
		.revision = 1050,
		.confirmed_ms = 1699999999000,
		.final = true,
		.prefix = text_of("/apisix"),
	};

	add(&image, (struct dpa_image_key){
			    .kv = kv_of("/apisix/a", "same", 7, 9, 2), .up_create = 7, .up_mod = 9, .up_version = 2});
	add(&image, (struct dpa_image_key){.kv = kv_of("/apisix/b", "served", 7, 1050, 3),
					   .raw = text_of("upstream's"),
					   .up_create = 7,
					   .up_mod = 40,
					   .up_version = 3});
	add(&image, (struct dpa_image_key){.kv = kv_of("/apisix/c", "", 1049, 1049, 1)});
	add(&image,
	    (struct dpa_image_key){
		    .hidden = text_of("/apisix/d"), .raw = text_of(""), .up_create = 3, .up_mod = 3, .up_version = 1});
	add(&image,
	    (struct dpa_image_key){.hidden = text_of("/apisix/e"), .up_create = 1, .up_mod = 2, .up_version = 2});
	return image;
}

static bool same_bytes(const struct ks_bytes *a, const struct ks_bytes *b)
{
	return (a == NULL) == (b == NULL) && ks_slice_eq(ks_bytes_slice(a), ks_bytes_slice(b));
}

static void check_same(const struct dpa_image *a, const struct dpa_image *b)
{
	CU_ASSERT_EQUAL(a->cluster_id, b->cluster_id);
	CU_ASSERT_EQUAL(a->up_revision, b->up_revision);
	CU_ASSERT_EQUAL(a->revision, b->revision);
	CU_ASSERT_EQUAL(a->confirmed_ms, b->confirmed_ms);
	CU_ASSERT_EQUAL(a->final, b->final);
	CU_ASSERT(ks_slice_eq(ks_bytes_slice(a->prefix), ks_bytes_slice(b->prefix)));
	CU_ASSERT_EQUAL(a->key_count, b->key_count);
	for (size_t i = 0; i < a->key_count && i < b->key_count; i++) {
		CU_ASSERT(same_bytes(a->keys[i].kv, b->keys[i].kv));
		CU_ASSERT(same_bytes(a->keys[i].hidden, b->keys[i].hidden));
		CU_ASSERT(same_bytes(a->keys[i].raw, b->keys[i].raw));
		CU_ASSERT_EQUAL(a->keys[i].up_create, b->keys[i].up_create);
		CU_ASSERT_EQUAL(a->keys[i].up_mod, b->keys[i].up_mod);
		CU_ASSERT_EQUAL(a->keys[i].up_version, b->keys[i].up_version);
	}
}

static struct ks_buf written(const struct dpa_image *image, const struct dpa_signer *signer)
{
	struct ks_buf out;
	struct ks_err err = {0};

	ks_buf_init(&out, DPA_FORMAT_MAX);
	CU_ASSERT_EQUAL(dpa_format_write(image, signer, SAVED, &out, &err), KS_OK);
	if (*err.text)
		printf("# %s\n", err.text);
	return out;
}

static enum ks_status read_status(const void *data, size_t size, const struct dpa_verifier *verifier,
				  struct ks_err *err)
{
	/* Exactly as large as it is, so that a sanitizer sees one byte too many. */
	uint8_t *exact = ks_xmalloc(size ? size : 1);
	struct dpa_image image = {0};
	enum ks_status status;

	memcpy(exact, data, size);
	*err = (struct ks_err){0};
	status = dpa_format_read(ks_slice_of(exact, size), verifier, &image, err);
	if (status != KS_OK) {
		CU_ASSERT(image.keys == NULL && image.prefix == NULL && image.key_count == 0);
		CU_ASSERT(*err->text != '\0');
	}
	dpa_image_fini(&image);
	free(exact);
	return status;
}

/* Refused, with this text in it. */
static void check_refused(struct ks_slice bytes, const char *text)
{
	struct ks_err err;

	CU_ASSERT_EQUAL(read_status(bytes.data, bytes.size, NULL, &err), KS_DATA_LOSS);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, text));
	if (!strstr(err.text, text))
		printf("# \"%s\" is not \"%s\"\n", err.text, text);
}

/* ---- keys in files ---- */

static char folder[64];

static const char *in_folder(const char *name)
{
	static char path[128];

	(void)snprintf(path, sizeof(path), "%s/%s", folder, name);
	return path;
}

static void make_pair(const char *name)
{
	char out[160];
	char word[] = "keygen";
	int saved = dup(STDOUT_FILENO), null = open("/dev/null", O_WRONLY | O_CLOEXEC);

	(void)snprintf(out, sizeof(out), "--out=%s", in_folder(name));
	(void)fflush(stdout);
	KS_ASSERT(dup2(null, STDOUT_FILENO) >= 0);
	KS_ASSERT(dpa_keygen_tool(2, (char *[]){word, out, NULL}) == 0);
	(void)fflush(stdout);
	KS_ASSERT(dup2(saved, STDOUT_FILENO) >= 0);
	(void)close(saved);
	(void)close(null);
}

static void write_text(const char *name, const void *text, size_t size)
{
	FILE *file = fopen(in_folder(name), "we");

	KS_ASSERT(file && fwrite(text, 1, size, file) == size && fclose(file) == 0);
}

static size_t read_text(const char *name, char *text, size_t room)
{
	FILE *file = fopen(in_folder(name), "re");
	size_t size;

	KS_ASSERT(file);
	size = fread(text, 1, room - 1, file);
	text[size] = '\0';
	(void)fclose(file);
	return size;
}

static struct dpa_signer *signer_of(const char *name)
{
	struct ks_err err = {0};
	struct dpa_signer *signer = dpa_signer_read(in_folder(name), &err);

	if (!signer)
		printf("# %s\n", err.text);
	KS_ASSERT(signer);
	return signer;
}

static struct dpa_verifier *verifier_of(const char *name)
{
	struct ks_err err = {0};
	struct dpa_verifier *verifier = dpa_verifier_read(in_folder(name), &err);

	if (!verifier)
		printf("# %s\n", err.text);
	KS_ASSERT(verifier);
	return verifier;
}

/* ---- hand-made images ---- */

struct made {
	struct dpa_format_head head;
	uint32_t more_flags;
	const char *prefix;
	const void *packed;
	bool wrong_sizes; /* the head says what it says */
};

static struct ks_buf make(const struct made *made)
{
	struct ks_buf out;
	uint8_t head[DPA_FORMAT_HEAD], digest[DPA_FORMAT_DIGEST];
	struct ks_err err;

	memcpy(head, DPA_MAGIC, DPA_MAGIC_SIZE);
	dpa_put_number(head + 16, 8, made->head.cluster_id);
	dpa_put_number(head + 24, 8, (uint64_t)made->head.up_revision);
	dpa_put_number(head + 32, 8, (uint64_t)made->head.revision);
	dpa_put_number(head + 40, 8, (uint64_t)made->head.confirmed_ms);
	dpa_put_number(head + 48, 8, (uint64_t)made->head.saved_ms);
	dpa_put_number(head + 56, 4, (made->head.stored ? DPA_FLAG_STORED : 0) | made->more_flags);
	dpa_put_number(head + 60, 4, made->head.prefix_size ? made->head.prefix_size : strlen(made->prefix));
	dpa_put_number(head + 64, 8, made->head.key_count);
	dpa_put_number(head + 72, 8, made->head.body_size);
	dpa_put_number(head + 80, 8, made->head.packed_size);
	memcpy(head + 88, made->head.key_id, DPA_KEY_ID);
	ks_buf_init(&out, DPA_FORMAT_MAX);
	ks_buf_append(&out, head, sizeof(head));
	ks_buf_append(&out, made->prefix, strlen(made->prefix));
	if (!made->wrong_sizes)
		ks_buf_append(&out, made->packed, made->head.packed_size);
	KS_ASSERT(!out.failed && dpa_digest(out.data, out.size, digest, &err) == KS_OK);
	ks_buf_append(&out, digest, sizeof(digest));
	return out;
}

static void check_made(const struct made *made, const char *text)
{
	struct ks_buf out = make(made);

	check_refused(ks_slice_of(out.data, out.size), text);
	ks_buf_fini(&out);
}

/* A body that is not compressed, of 'count' keys, under "/p", with revision 9 here and 7 upstream. */
static void check_body(const void *body, size_t size, size_t count, const char *text)
{
	struct made made = {
		.head = {.up_revision = 7,
			 .revision = 9,
			 .stored = true,
			 .key_count = count,
			 .body_size = size,
			 .packed_size = size},
		.prefix = "/p",
		.packed = body,
	};
	struct ks_buf out;
	struct ks_err err;

	if (*text) {
		check_made(&made, text);
		return;
	}
	out = make(&made);
	CU_ASSERT_EQUAL(read_status(out.data, out.size, NULL, &err), KS_OK);
	if (*err.text)
		printf("# %s\n", err.text);
	ks_buf_fini(&out);
}

#define BODY(count, text, bytes) check_body(bytes, sizeof(bytes) - 1, count, text)

/* ---- tests ---- */

static void what_was_written_is_read(void)
{
	struct dpa_signer *signers[] = {NULL, signer_of("one.key")};
	struct dpa_verifier *verifier = verifier_of("one.pub");
	struct dpa_image image = sample(), back = {0};
	struct dpa_format_head head;
	struct ks_err err = {0};

	for (size_t i = 0; i < 2; i++) {
		struct ks_buf out = written(&image, signers[i]);

		CU_ASSERT_EQUAL(dpa_format_head(ks_slice_of(out.data, DPA_FORMAT_HEAD), out.size, &head, &err), KS_OK);
		CU_ASSERT_EQUAL(head.cluster_id, image.cluster_id);
		CU_ASSERT_EQUAL(head.up_revision, image.up_revision);
		CU_ASSERT_EQUAL(head.saved_ms, SAVED);
		CU_ASSERT_EQUAL(head.key_count, image.key_count);
		CU_ASSERT_EQUAL(head.is_signed, i == 1);
		CU_ASSERT_EQUAL(dpa_format_read(ks_slice_of(out.data, out.size), i ? verifier : NULL, &back, &err),
				KS_OK);
		CU_ASSERT_EQUAL(back.saved_ms, SAVED);
		check_same(&image, &back);
		dpa_image_fini(&back);
		ks_buf_fini(&out);
	}
	dpa_image_fini(&image);
	dpa_signer_free(signers[1]);
	dpa_verifier_free(verifier);
}

static void an_empty_image_is_one(void)
{
	struct dpa_image image = {0}, back = {0};
	struct ks_buf out = written(&image, NULL);
	struct ks_err err;

	CU_ASSERT_EQUAL(dpa_format_read(ks_slice_of(out.data, out.size), NULL, &back, &err), KS_OK);
	check_same(&image, &back);
	CU_ASSERT_PTR_NOT_NULL(back.prefix);
	dpa_image_fini(&back);
	ks_buf_fini(&out);
}

static void it_is_appended_to_what_is_there(void)
{
	struct dpa_image image = sample(), back = {0};
	struct ks_err err;
	struct ks_buf out;

	ks_buf_init(&out, DPA_FORMAT_MAX);
	ks_buf_append(&out, "abc", 3);
	CU_ASSERT_EQUAL(dpa_format_write(&image, NULL, SAVED, &out, &err), KS_OK);
	CU_ASSERT_EQUAL(dpa_format_read(ks_slice_of(out.data + 3, out.size - 3), NULL, &back, &err), KS_OK);
	check_same(&image, &back);
	dpa_image_fini(&back);
	dpa_image_fini(&image);
	ks_buf_fini(&out);
}

static void each_cut_and_each_flipped_bit_is_refused(void)
{
	struct dpa_signer *signers[] = {NULL, signer_of("one.key")};
	struct dpa_verifier *verifier = verifier_of("one.pub");
	struct dpa_image image = sample();
	struct ks_err err;
	size_t read = 0;

	for (size_t i = 0; i < 2; i++) {
		struct ks_buf out = written(&image, signers[i]);

		for (size_t size = 0; size < out.size; size++)
			read += read_status(out.data, size, NULL, &err) == KS_OK;
		for (size_t bit = 0; bit < out.size * 8; bit++) {
			out.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
			read += read_status(out.data, out.size, NULL, &err) == KS_OK;
			read += i && read_status(out.data, out.size, verifier, &err) == KS_OK;
			out.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
		}
		ks_buf_append(&out, "", 1);
		read += read_status(out.data, out.size, NULL, &err) == KS_OK;
		ks_buf_fini(&out);
	}
	CU_ASSERT_EQUAL(read, 0);
	dpa_image_fini(&image);
	dpa_signer_free(signers[1]);
	dpa_verifier_free(verifier);
}

static void a_head_is_not_believed(void)
{
	static const struct made fine = {.head = {.stored = true}, .prefix = "", .packed = ""};
	struct made made;

	BODY(0, "", "");
	for (uint32_t flag = 8; flag; flag <<= 1) {
		made = fine;
		made.more_flags = flag;
		check_made(&made, "flags");
	}
	made = fine, made.head.revision = -1, check_made(&made, "negative");
	made = fine, made.head.up_revision = INT64_MIN, check_made(&made, "negative");
	made = fine, made.head.saved_ms = -1, check_made(&made, "1970");
	made = fine, made.head.confirmed_ms = -1, check_made(&made, "1970");
	made = fine, made.head.key_id[7] = 1, check_made(&made, "names a key");
	made = fine, made.more_flags = DPA_FLAG_SIGNED, check_made(&made, "cut off");
	made = fine, made.head.prefix_size = 4097, check_made(&made, "prefix is too long");
	made = fine, made.head.prefix_size = UINT32_MAX, check_made(&made, "prefix is too long");
	made = fine, made.head.prefix_size = 4, check_made(&made, "cut off");
	made = fine, made.head.key_count = UINT64_MAX, check_made(&made, "too many keys");
	made = fine, made.head.key_count = 1, check_made(&made, "more keys than");
	made = fine, made.head.body_size = 1, check_made(&made, "not credible");
	made = fine, made.head.body_size = UINT64_MAX, check_made(&made, "larger than");
	made = fine, made.wrong_sizes = true, made.head.packed_size = UINT64_MAX, check_made(&made, "larger than");
	made = fine, made.wrong_sizes = true, made.head.packed_size = 1, check_made(&made, "cut off");
	check_refused(ks_slice_str(""), "not an image");
	check_refused(ks_slice_str("something else that is long enough to be a head"), "not an image");
	check_refused(ks_slice_str("dpagent-image 2\n and what comes then"), "does not know");
}

/* KeyValue: key "/pX", create, mod, version; 11 bytes. */
#define KV(x, create, mod, version) "\x0b\x0a\x03/p" x "\x10" create "\x18" mod "\x20" version
#define KEY(x) "\x00" KV(x, "\1", "\2", "\1")

static void a_body_is_not_believed(void)
{
	BODY(1, "", KEY("a"));
	BODY(2, "", KEY("a") KEY("b"));
	BODY(1, "", "\x9\3/pa\1\1\1");
	BODY(1, "", "\xb\3/pa\1r\1\1\1");
	BODY(1, "", "\4" KV("a", "\1", "\2", "\1"));
	BODY(1, "", "\x0a" KV("a", "\1", "\2", "\1") "\1r\1\1\1");
	/* Order and names. */
	BODY(2, "do not ascend", KEY("b") KEY("a"));
	BODY(2, "do not ascend", KEY("a") KEY("a"));
	BODY(2, "do not ascend", KEY("a") "\x9\3/pa\1\1\1");
	BODY(1, "outside of the prefix", "\1\3/qa");
	BODY(1, "outside of the prefix", "\1\1/");
	BODY(1, "without a name", "\1\0\0");
	BODY(1, "without a name", "\0\6\x10\1\x18\1\x20\1");
	/* Revisions. */
	BODY(1, "", "\0" KV("a", "\1", "\x9", "\1"));
	BODY(1, "revisions that contradict", "\0" KV("a", "\1", "\xa", "\1"));
	BODY(1, "revisions that contradict", "\0" KV("a", "\3", "\2", "\1"));
	BODY(1, "revisions that contradict", "\0\x09\x0a\3/pa\x18\2\x20\1");
	BODY(1, "a version below 1", "\0\x09\x0a\3/pa\x10\2\x18\2");
	BODY(1, "a version below 1", "\0\x14\x0a\3/pa\x10\2\x18\2\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\1");
	BODY(1, "a lease", "\0\x0d\x0a\3/pa\x10\1\x18\2\x20\1\x30\1");
	BODY(1, "", "\x8" KV("a", "\1", "\2", "\1") "\1\7\1");
	BODY(1, "upstream that contradict", "\x8" KV("a", "\1", "\2", "\1") "\1\x8\1");
	BODY(1, "upstream that contradict", "\x8" KV("a", "\1", "\2", "\1") "\3\2\1");
	BODY(1, "upstream that contradict", "\x8" KV("a", "\1", "\2", "\1") "\0\2\1");
	BODY(1, "version upstream", "\x8" KV("a", "\1", "\2", "\1") "\1\1\0");
	BODY(1, "upstream that contradict", "\4" KV("a", "\x8", "\x9", "\1"));
	BODY(1, "value upstream without", "\1\3/pa");
	BODY(1, "value upstream without", "\2" KV("a", "\1", "\2", "\1") "\1r");
	/* Another form than the one. */
	BODY(1, "another form", "\x8" KV("a", "\1", "\2", "\1") "\0\0\0");
	BODY(1, "another form", "\x8" KV("a", "\1", "\2", "\1") "\1\2\1");
	BODY(1, "malformed key", "\x10" KV("a", "\1", "\2", "\1"));
	BODY(1, "malformed key", "\xc" KV("a", "\1", "\2", "\1"));
	BODY(1, "malformed key", "\5\3/pa");
	BODY(1, "another length", "\1\x83\0/pa");
	BODY(1, "malformed number", "\1\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f");
	BODY(1, "malformed number", "\1\xff\xff");
	BODY(1, "too large", "\x9\3/pa\xff\xff\xff\xff\xff\xff\xff\xff\xff\1\1\1");
	BODY(1, "not canonical", "\0\x0b\x10\1\x0a\3/pa\x18\2\x20\1");
	BODY(1, "not canonical", "\0\x0d\x0a\3/pa\x10\1\x18\2\x20\1\x38\1");
	BODY(1, "not canonical", "\0\x0d\x0a\3/pa\x10\1\x18\2\x20\1\x2a\0");
	BODY(1, "not canonical", "\0\x0c\x0a\3/pa\x10\x81\0\x18\2\x20\1");
	BODY(1, "malformed KeyValue", "\0\2\x0a\3");
	/* Ends. */
	BODY(1, "go on behind", KEY("a") "\0");
	BODY(0, "go on behind", "\0");
	BODY(2, "in the middle", KEY("a"));
	BODY(1, "in the middle", "\1\4/pa");
	BODY(1, "in the middle", "\1\xff\xff\xff\xff\xf");
	BODY(1, "in the middle", "\1\xff\xff\xff\xff\xff\xff\xff\xff\xff\1");
}

/* 'size' zeros, compressed: 'frame' is to be freed. */
static size_t zeros(size_t size, int window_log, void **frame)
{
	ZSTD_CCtx *zstd = ZSTD_createCCtx();
	void *data = ks_xcalloc(1, size);
	size_t room = ZSTD_compressBound(size), result;

	*frame = ks_xmalloc(room);
	if (window_log)
		(void)ZSTD_CCtx_setParameter(zstd, ZSTD_c_windowLog, window_log);
	result = ZSTD_compress2(zstd, *frame, room, data, size);
	KS_ASSERT(!ZSTD_isError(result));
	(void)ZSTD_freeCCtx(zstd);
	free(data);
	return result;
}

static void check_frame(const void *frame, size_t size, uint64_t body_size, size_t count, const char *text)
{
	struct made made = {
		.head = {.up_revision = 9,
			 .revision = 9,
			 .key_count = count,
			 .body_size = body_size,
			 .packed_size = size},
		.prefix = "",
		.packed = frame,
	};

	check_made(&made, text);
}

static void frames_that_lie_are_refused(void)
{
	static const char body[] = "\x9\1a\1\1\1\x9\1b\1\1\1";
	uint8_t frame[512], twice[1024];
	size_t size = ZSTD_compress(frame, sizeof(frame), body, 12, 3), bomb;
	void *zeroed;

	check_frame(frame, size, 11, 1, "go on behind");
	check_frame(frame, size, 13, 2, "shorter than it says");
	check_frame(frame, size, 6, 1, "not as long as it says");
	check_frame(frame, size - 1, 12, 2, "shorter than it says");
	check_frame(frame, 5, 12, 2, "shorter than it says");
	check_frame(body, 12, 12, 2, "cannot be decompressed");
	memcpy(twice, frame, size);
	memcpy(twice + size, frame, size);
	check_frame(twice, 2 * size, 12, 2, "something follows");
	check_frame(twice, 2 * size, 24, 4, "shorter than it says");
	/* A skippable frame in front, and one behind. */
	memcpy(twice, "\x50\x2a\x4d\x18\0\0\0\0", 8);
	memcpy(twice + 8, frame, size);
	check_frame(twice, size + 8, 12, 2, "shorter than it says");
	memcpy(twice, frame, size);
	memcpy(twice + size, "\x50\x2a\x4d\x18\0\0\0\0", 8);
	check_frame(twice, size + 8, 12, 2, "something follows");
	/* Bombs: what they declare is not credible, or they do not declare it. */
	bomb = zeros((size_t)64 << 20, 0, &zeroed);
	check_frame(zeroed, bomb, (uint64_t)64 << 20, 0, "not credible");
	check_frame(zeroed, bomb, 0, 0, "not as long as it says");
	check_frame(zeroed, bomb, 100, 1, "without a name");
	free(zeroed);
	bomb = zeros((size_t)16 << 20, 24, &zeroed);
	check_frame(zeroed, bomb, 1 << 20, 1, "cannot be decompressed");
	free(zeroed);
}

static void large_values_and_many_keys_come_back(void)
{
	struct dpa_image image = {.revision = 1000000, .up_revision = 1000000}, back = {0};
	char name[32], *value = ks_xmalloc((5 << 20) + 1);
	uint64_t random = 88172645463325252u;
	struct ks_buf out;
	struct ks_err err = {0};

	for (size_t i = 0; i < 5 << 20; i++) {
		random ^= random << 13;
		random ^= random >> 7;
		random ^= random << 17;
		value[i] = (char)(random % 255 + 1);
	}
	value[5 << 20] = '\0';
	for (int i = 0; i < 3000; i++) {
		int64_t up = i % 3 ? i + 1 : 0;

		(void)snprintf(name, sizeof(name), "k%05d", i);
		add(&image, (struct dpa_image_key){.kv = kv_of(name, i % 1000 == 7 ? value : value + (5 << 20) - i,
							       i + 1, 900000 + i, i + 1),
						   .up_create = up,
						   .up_mod = up,
						   .up_version = up});
	}
	out = written(&image, NULL);
	CU_ASSERT_EQUAL(dpa_format_read(ks_slice_of(out.data, out.size), NULL, &back, &err), KS_OK);
	check_same(&image, &back);
	dpa_image_fini(&back);
	dpa_image_fini(&image);
	ks_buf_fini(&out);
	free(value);
}

/* What compresses better than a reader believes is not compressed. */
static void what_repeats_too_much_is_stored(void)
{
	struct dpa_image image = {.revision = 3}, back = {0};
	char *value = ks_xmalloc((8 << 20) + 1);
	struct dpa_format_head head;
	struct ks_buf out;
	struct ks_err err = {0};

	memset(value, 'x', 8 << 20);
	value[8 << 20] = '\0';
	add(&image, (struct dpa_image_key){.kv = kv_of("k", value, 1, 2, 1)});
	out = written(&image, NULL);
	CU_ASSERT_EQUAL(dpa_format_head(ks_slice_of(out.data, out.size), out.size, &head, &err), KS_OK);
	CU_ASSERT(head.stored && head.body_size == head.packed_size);
	CU_ASSERT_EQUAL(dpa_format_read(ks_slice_of(out.data, out.size), NULL, &back, &err), KS_OK);
	check_same(&image, &back);
	dpa_image_fini(&back);
	dpa_image_fini(&image);
	ks_buf_fini(&out);
	free(value);
}

static void nothing_is_written_that_would_not_be_read(void)
{
	struct dpa_image image = sample();
	struct ks_buf out;
	struct ks_err err = {0};

	ks_buf_init(&out, DPA_FORMAT_MAX);
	image.keys[1].kv->data[2]++; /* "0apisix/b" */
	CU_ASSERT_EQUAL(dpa_format_write(&image, NULL, SAVED, &out, &err), KS_INVALID_ARGUMENT);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "outside of the prefix (key 2 of 5)"));
	image.keys[1].kv->data[2]--;
	ks_buf_reset(&out);
	image.revision = 1000;
	CU_ASSERT_EQUAL(dpa_format_write(&image, NULL, SAVED, &out, &err), KS_INVALID_ARGUMENT);
	image.revision = 1050;
	ks_buf_reset(&out);
	CU_ASSERT_EQUAL(dpa_format_write(&image, NULL, -1, &out, &err), KS_INVALID_ARGUMENT);
	ks_buf_reset(&out);
	image.keys[4].hidden->data[8] = 'a'; /* again */
	CU_ASSERT_EQUAL(dpa_format_write(&image, NULL, SAVED, &out, &err), KS_INVALID_ARGUMENT);
	ks_buf_fini(&out);
	dpa_image_fini(&image);
}

static void a_buffer_that_is_too_small_says_so(void)
{
	struct dpa_image image = sample();
	struct dpa_signer *signer = signer_of("one.key");
	struct ks_buf whole = written(&image, signer);
	struct ks_err err;

	for (size_t max = 0; max <= whole.size; max++) {
		struct ks_buf out;

		ks_buf_init(&out, max);
		CU_ASSERT_EQUAL(dpa_format_write(&image, signer, SAVED, &out, &err),
				max < whole.size ? KS_RESOURCE_EXHAUSTED : KS_OK);
		ks_buf_fini(&out);
	}
	ks_buf_fini(&whole);
	dpa_signer_free(signer);
	dpa_image_fini(&image);
}

/* The n-th allocation fails, for all n, in writing and in reading. */
static void without_memory_it_says_so_and_leaves_nothing(void)
{
	struct dpa_image image = sample();
	struct ks_buf whole = written(&image, NULL);
	struct ks_err err;
	long n;

	for (n = 1, hit = true; hit; n++) {
		struct ks_buf out;
		enum ks_status status;

		ks_buf_init(&out, DPA_FORMAT_MAX);
		hit = false;
		countdown = n;
		status = dpa_format_write(&image, NULL, SAVED, &out, &err);
		countdown = 0;
		CU_ASSERT_EQUAL(status, hit ? KS_RESOURCE_EXHAUSTED : KS_OK);
		ks_buf_fini(&out);
	}
	CU_ASSERT(n > 3);
	for (n = 1, hit = true; hit; n++) {
		struct dpa_image back = {0};
		enum ks_status status;

		hit = false;
		countdown = n;
		status = dpa_format_read(ks_slice_of(whole.data, whole.size), NULL, &back, &err);
		countdown = 0;
		CU_ASSERT_EQUAL(status, hit ? KS_RESOURCE_EXHAUSTED : KS_OK);
		CU_ASSERT(!hit || (back.keys == NULL && back.prefix == NULL));
		dpa_image_fini(&back);
	}
	CU_ASSERT(n > 8);
	ks_buf_fini(&whole);
	dpa_image_fini(&image);
}

static void only_a_trusted_signature_counts(void)
{
	struct dpa_signer *one = signer_of("one.key"), *two = signer_of("two.key");
	struct dpa_verifier *only_one = verifier_of("one.pub"), *both = verifier_of("both.pub");
	struct dpa_image image = sample();
	struct ks_buf unsigned_one = written(&image, NULL), by_one = written(&image, one),
		      by_two = written(&image, two);
	uint8_t digest[DPA_FORMAT_DIGEST];
	struct ks_err err;
	size_t signature = by_one.size - DPA_FORMAT_DIGEST - DPA_SIGNATURE;

	CU_ASSERT_EQUAL(read_status(unsigned_one.data, unsigned_one.size, only_one, &err), KS_PERMISSION_DENIED);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "not signed"));
	CU_ASSERT_EQUAL(read_status(by_one.data, by_one.size, only_one, &err), KS_OK);
	CU_ASSERT_EQUAL(read_status(by_one.data, by_one.size, both, &err), KS_OK);
	CU_ASSERT_EQUAL(read_status(by_two.data, by_two.size, both, &err), KS_OK);
	CU_ASSERT_EQUAL(read_status(by_two.data, by_two.size, NULL, &err), KS_OK);
	CU_ASSERT_EQUAL(read_status(by_two.data, by_two.size, only_one, &err), KS_PERMISSION_DENIED);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "not trusted"));
	/* With the other's key id it is a wrong signature; the checksum is mended, as whoever forges does. */
	memcpy(by_two.data + 88, by_one.data + 88, DPA_KEY_ID);
	CU_ASSERT_EQUAL(dpa_digest(by_two.data, by_two.size - DPA_FORMAT_DIGEST, digest, &err), KS_OK);
	memcpy(by_two.data + by_two.size - DPA_FORMAT_DIGEST, digest, sizeof(digest));
	CU_ASSERT_EQUAL(read_status(by_two.data, by_two.size, both, &err), KS_PERMISSION_DENIED);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "signature is wrong"));
	/* So is a right one under a changed number. */
	by_one.data[55]++;
	CU_ASSERT_EQUAL(dpa_digest(by_one.data, by_one.size - DPA_FORMAT_DIGEST, digest, &err), KS_OK);
	memcpy(by_one.data + signature + DPA_SIGNATURE, digest, sizeof(digest));
	CU_ASSERT_EQUAL(read_status(by_one.data, by_one.size, NULL, &err), KS_OK);
	CU_ASSERT_EQUAL(read_status(by_one.data, by_one.size, only_one, &err), KS_PERMISSION_DENIED);
	ks_buf_fini(&unsigned_one);
	ks_buf_fini(&by_one);
	ks_buf_fini(&by_two);
	dpa_image_fini(&image);
	dpa_signer_free(one);
	dpa_signer_free(two);
	dpa_verifier_free(only_one);
	dpa_verifier_free(both);
}

static void write_other_key(const char *name, EVP_PKEY *key, const char *passphrase)
{
	FILE *file = fopen(in_folder(name), "we");

	KS_ASSERT(key && file);
	KS_ASSERT(PEM_write_PKCS8PrivateKey(file, key, passphrase ? EVP_aes_128_cbc() : NULL, passphrase,
					    passphrase ? (int)strlen(passphrase) : 0, NULL, NULL) == 1);
	KS_ASSERT(fclose(file) == 0);
	EVP_PKEY_free(key);
}

static void files_without_the_right_keys_are_refused(void)
{
	struct ks_err err;
	static const char *const not_private[] = {"none",   "one.pub",    "garbage", "empty",
						  "ec.key", "secret.key", "large",   "."};
	static const char *const not_public[] = {"none", "one.key", "garbage", "empty", "mixed", "cut", "large", "."};
	char text[1024];
	static char large[70000];
	size_t size;

	write_text("garbage", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", 56);
	write_text("empty", "", 0);
	memset(large, '\n', sizeof(large));
	write_text("large", large, sizeof(large));
	write_other_key("ec.key", EVP_PKEY_Q_keygen(NULL, NULL, "EC", "P-256"), NULL);
	write_other_key("secret.key", EVP_PKEY_Q_keygen(NULL, NULL, "ED25519"), "passphrase");
	size = read_text("one.pub", text, sizeof(text));
	write_text("cut", text, size - 10);
	size += read_text("one.key", text + size, sizeof(text) - size);
	write_text("mixed", text, size);
	for (size_t i = 0; i < sizeof(not_private) / sizeof(*not_private); i++) {
		err = (struct ks_err){0};
		CU_ASSERT_PTR_NULL(dpa_signer_read(in_folder(not_private[i]), &err));
		CU_ASSERT(err.status == KS_INVALID_ARGUMENT && strstr(err.text, folder));
	}
	for (size_t i = 0; i < sizeof(not_public) / sizeof(*not_public); i++) {
		err = (struct ks_err){0};
		CU_ASSERT_PTR_NULL(dpa_verifier_read(in_folder(not_public[i]), &err));
		CU_ASSERT(err.status == KS_INVALID_ARGUMENT && strstr(err.text, folder));
		/* Keys never get into texts. */
		CU_ASSERT_PTR_NULL(strstr(err.text, "MC4C"));
	}
}

static void a_private_key_is_its_owners(void)
{
	struct stat state;

	CU_ASSERT_EQUAL(stat(in_folder("one.key"), &state), 0);
	CU_ASSERT_EQUAL(state.st_mode & 07777, 0600);
}

/* 100,000 keys with values of 256 bytes; the figures are for people. */
static void a_large_configuration_is_quick(void)
{
	struct dpa_image image = {.revision = 1000000, .up_revision = 1000000, .prefix = text_of("/apisix")},
			 back = {0};
	struct timespec begin, middle, end;
	char name[64], value[257] = "";
	uint64_t random = 88172645463325252u;
	struct ks_err err = {0};
	struct ks_buf out;
	double wrote, read;

	for (int i = 0; i < 100000; i++) {
		int size = snprintf(name, sizeof(name), "/apisix/routes/%08d", i);

		KS_ASSERT(size > 0);
		size = snprintf(
			value, sizeof(value),
			"{\"uri\":\"/service/%d/"
			"*\",\"upstream\":{\"nodes\":{\"10.0.%d.%d:8080\":1},\"type\":\"roundrobin\"},\"token\":\"",
			i, i / 250 % 250, i % 250);
		for (; size < 254; size++) {
			random ^= random << 13;
			random ^= random >> 7;
			random ^= random << 17;
			value[size] = "0123456789abcdef"[random % 16];
		}
		memcpy(value + 254, "\"}", 3);
		add(&image, (struct dpa_image_key){.kv = kv_of(name, value, i + 1, 2 * i + 1, i % 9 + 1),
						   .up_create = i + 1,
						   .up_mod = 2 * i + 1,
						   .up_version = i % 9 + 1});
	}
	(void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begin);
	out = written(&image, NULL);
	(void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &middle);
	CU_ASSERT_EQUAL(dpa_format_read(ks_slice_of(out.data, out.size), NULL, &back, &err), KS_OK);
	(void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
	wrote = (double)(middle.tv_sec - begin.tv_sec) + (double)(middle.tv_nsec - begin.tv_nsec) / 1e9;
	read = (double)(end.tv_sec - middle.tv_sec) + (double)(end.tv_nsec - middle.tv_nsec) / 1e9;
	printf("# 100,000 keys: %zu bytes, written in %.3f s, read in %.3f s of processor time\n", out.size, wrote,
	       read);
	CU_ASSERT_EQUAL(back.key_count, 100000);
	CU_ASSERT(read < 3); /* ten times what it must be: sanitizers run this, too */
	dpa_image_fini(&back);
	dpa_image_fini(&image);
	ks_buf_fini(&out);
}

static void remove_folder(void)
{
	static const char *const names[] = {"one.key", "one.pub", "two.key", "two.pub",    "both.pub", "garbage",
					    "empty",   "large",   "ec.key",  "secret.key", "cut",      "mixed"};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		(void)unlink(in_folder(names[i]));
	(void)rmdir(folder);
}

int main(void)
{
	char text[1024];
	size_t size;
	int code;

	(void)snprintf(folder, sizeof(folder), "/tmp/dpa-format-XXXXXX");
	KS_ASSERT(mkdtemp(folder));
	make_pair("one");
	make_pair("two");
	size = read_text("one.pub", text, sizeof(text));
	size += read_text("two.pub", text + size, sizeof(text) - size);
	write_text("both.pub", text, size);
	code = tap_run(
		"dpa_format",
		(const struct tap_test[]){
			{"what_was_written_is_read", what_was_written_is_read},
			{"an_empty_image_is_one", an_empty_image_is_one},
			{"it_is_appended_to_what_is_there", it_is_appended_to_what_is_there},
			{"each_cut_and_each_flipped_bit_is_refused", each_cut_and_each_flipped_bit_is_refused},
			{"a_head_is_not_believed", a_head_is_not_believed},
			{"a_body_is_not_believed", a_body_is_not_believed},
			{"frames_that_lie_are_refused", frames_that_lie_are_refused},
			{"large_values_and_many_keys_come_back", large_values_and_many_keys_come_back},
			{"what_repeats_too_much_is_stored", what_repeats_too_much_is_stored},
			{"nothing_is_written_that_would_not_be_read", nothing_is_written_that_would_not_be_read},
			{"a_buffer_that_is_too_small_says_so", a_buffer_that_is_too_small_says_so},
			{"without_memory_it_says_so_and_leaves_nothing", without_memory_it_says_so_and_leaves_nothing},
			{"only_a_trusted_signature_counts", only_a_trusted_signature_counts},
			{"files_without_the_right_keys_are_refused", files_without_the_right_keys_are_refused},
			{"a_private_key_is_its_owners", a_private_key_is_its_owners},
			{"a_large_configuration_is_quick", a_large_configuration_is_quick},
			{NULL, NULL}});
	remove_folder();
	return code;
}
