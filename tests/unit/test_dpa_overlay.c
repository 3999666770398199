/* SPDX-License-Identifier: Apache-2.0 */
/* The promises of dpagent/overlay_file.h and overlay.h: what a file means, what is refused and where, and that the replica follows the file. */
#include "tests/lib/tap.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/panic.h"
#include "overlay.h"
#include "overlay_file.h"
#include "store/store.h"

/* ---- what a file means ---- */

/* The first key of the file under "/apisix". */
static void check_one(const char *text, const char *key, const char *value)
{
	struct dpa_overlay_set set = {0};
	struct ks_err err = {0};

	CU_ASSERT_EQUAL(dpa_overlay_parse(ks_slice_str(text), "file", "/apisix", &set, &err), KS_OK);
	if (*err.text)
		printf("# %s\n", err.text);
	CU_ASSERT_EQUAL(set.count, 1);
	if (set.count == 1) {
		CU_ASSERT(ks_slice_eq(set.keys[0].key, ks_slice_str(key)));
		CU_ASSERT_EQUAL(set.keys[0].hide, value == NULL);
		CU_ASSERT(ks_slice_eq(set.keys[0].value, ks_slice_str(value ? value : "")));
		if (value && !ks_slice_eq(set.keys[0].value, ks_slice_str(value)))
			printf("# %.*s\n", (int)set.keys[0].value.size, (const char *)set.keys[0].value.data);
	}
	dpa_overlay_set_fini(&set);
}

static void check_value(const char *yaml, const char *value)
{
	char text[1024];

	(void)snprintf(text, sizeof(text), "routes/1: %s\n", yaml);
	check_one(text, "/apisix/routes/1", value);
}

static void check_refused(const char *text, const char *why)
{
	struct dpa_overlay_set set = {0};
	struct ks_err err = {0};

	CU_ASSERT_EQUAL(dpa_overlay_parse(ks_slice_str(text), "file", "/apisix", &set, &err), KS_INVALID_ARGUMENT);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, why));
	if (!strstr(err.text, why))
		printf("# \"%s\" is not \"%s\"\n", err.text, why);
	CU_ASSERT(set.keys == NULL && set.bytes.data == NULL);
}

static void texts_are_taken_as_they_are(void)
{
	check_value("hello", "hello");
	check_value("'{\"a\": 1}'", "{\"a\": 1}");
	check_value("\"\"", "");
	check_value("5", "5");
	check_value("0x1f", "0x1f");
	check_value("true", "true");
	check_value("'null'", "null");
	check_value("|\n  two\n  lines", "two\nlines\n");
	check_value("~", NULL);
	check_value("null", NULL);
	check_value("", NULL);
	check_one("# nothing else\n/apisix/a: b", "/apisix/a", "b");
}

static void mappings_and_lists_become_compact_json(void)
{
	check_value("{}", "{}");
	check_value("[]", "[]");
	check_value("{uri: /a/*, nodes: {\"10.0.0.1:80\": 1}}", "{\"uri\":\"/a/*\",\"nodes\":{\"10.0.0.1:80\":1}}");
	check_value("\n  uri: /a\n  hosts:\n    - a.example\n    - b\n  deep: [[1, [2]], {x: [{}]}]",
		    "{\"uri\":\"/a\",\"hosts\":[\"a.example\",\"b\"],\"deep\":[[1,[2]],{\"x\":[{}]}]}");
	check_value("[1, -2, 1.50, 1e3, -0, 12345678901234567890, 0.1E-5]",
		    "[1,-2,1.50,1e3,-0,12345678901234567890,0.1E-5]");
	check_value("[true, True, FALSE, yes, off, null, ~, \"true\", '1']",
		    "[true,true,false,\"yes\",\"off\",null,null,\"true\",\"1\"]");
	check_value(
		"[1.2.3, 10.0.0.1, 1_000, 12:30, 1e, -, --1, 0xg, +, a1, 0o8, .a, 2026-11-29]",
		"[\"1.2.3\",\"10.0.0.1\",\"1_000\",\"12:30\",\"1e\",\"-\",\"--1\",\"0xg\",\"+\",\"a1\",\"0o8\",\".a\","
		"\"2026-11-29\"]");
	check_value("[\"a\\\"b\\\\\\n\\0\\x01\\u20ac\", \xc3\xa4]",
		    "[\"a\\\"b\\\\\\u000a\\u0000\\u0001\xe2\x82\xac\",\"\xc3\xa4\"]");
	check_value("{\"\": 1, 1: 2, true: 3, \"<<\": 4}", "{\"\":1,\"1\":2,\"true\":3,\"<<\":4}");
	check_one("{\"routes/1\": {\"a\": [1, {\"b\": null}], \"c\": \"\\u00e4\"}}", "/apisix/routes/1",
		  "{\"a\":[1,{\"b\":null}],\"c\":\"\xc3\xa4\"}");
}

static void check_name(const char *prefix, const char *key, const char *whole)
{
	struct dpa_overlay_set set = {0};
	struct ks_err err = {0};
	char text[128];

	(void)snprintf(text, sizeof(text), "\"%s\": v", key);
	CU_ASSERT_EQUAL(dpa_overlay_parse(ks_slice_str(text), "file", prefix, &set, &err),
			whole ? KS_OK : KS_INVALID_ARGUMENT);
	if (whole)
		CU_ASSERT(set.count == 1 && ks_slice_eq(set.keys[0].key, ks_slice_str(whole)));
	dpa_overlay_set_fini(&set);
}

static void keys_are_put_behind_the_prefix(void)
{
	check_name("/apisix", "routes/1", "/apisix/routes/1");
	check_name("/apisix", "/apisix/routes/1", "/apisix/routes/1");
	check_name("/apisix/", "routes/1", "/apisix/routes/1");
	check_name("/apisix/", "/apisix/routes/1", "/apisix/routes/1");
	check_name("/apisix", "/other/routes/1", NULL);
	check_name("/apisix", "/apisi", NULL);
	check_name("conf", "x", "conf/x");
	check_name("conf", "conf/x", "conf/x");
	check_name("", "/a", "/a");
	check_name("", "a", "a");
}

static void an_empty_file_has_no_keys(void)
{
	static const char *const texts[] = {"", "\n# only a comment\n", "---\n", "{}", "~", "---\n...\n"};

	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
		struct dpa_overlay_set set = {0};
		struct ks_err err = {0};

		CU_ASSERT_EQUAL(dpa_overlay_parse(ks_slice_str(texts[i]), "file", "/apisix", &set, &err), KS_OK);
		CU_ASSERT_EQUAL(set.count, 0);
		dpa_overlay_set_fini(&set);
	}
}

static void what_is_no_overlay_is_refused_with_its_line(void)
{
	check_refused("hello", "file:1: keys and values");
	check_refused("- a\n- b", "file:1: keys and values");
	check_refused("a: 1\n---\nb: 2", "file:2: there is a second document");
	check_refused("a: 1\nb: [1, 2", "file:");
	check_refused("a: 1\n\tb: 2", "file:2:");
	check_refused("a: \xff", "file:");
	check_refused("a: 1\nb: 2\na: 3", "file:3: \"/apisix/a\" stands on line 1 already");
	check_refused("a: 1\n/apisix/a: 3", "file:2: \"/apisix/a\" stands on line 1 already");
	check_refused("a:\n  x: {b: 1,\n    c: 2,\n    b: 3}", "file:4: \"b\" stands on line 2 already");
	check_refused("a: &x 1\nb: *x", "file:1: tags and anchors");
	check_refused("a: {x: &x {}}", "file:1: tags and anchors");
	check_refused("a: [&x []]", "file:1: tags and anchors");
	check_refused("a: 1\nb: *x", "file:2: tags and anchors");
	check_refused("a: !!str 1", "file:1: tags and anchors");
	check_refused("a: !!binary aGVsbG8=", "file:1: tags and anchors");
	check_refused("!!map {a: 1}", "file:1: tags and anchors");
	check_refused("a: 1\n? [b]\n: 2", "file:2: a key must be a text");
	check_refused("a: {? {b: 1} : 2}", "file:1: a key must be a text");
	check_refused("a: {<<: {b: 1}}", "merging with <<");
	check_refused("\"\": 1", "the key is empty");
	check_refused("\"a\\0b\": 1", "zero byte");
	check_refused("x: {\"a\\0b\": 1}", "zero byte");
	check_refused("b: 1\n/other: 1", "file:2: \"/other\" does not begin with the prefix /apisix");
}

static void numbers_that_yaml_and_json_read_otherwise_are_refused(void)
{
	static const char *const numbers[] = {"0x1f", "0o17", "017",  "+1",    ".5",   "5.",    "-.5", "00",
					      "-01",  ".inf", ".NaN", "-.Inf", "1.e3", "+.inf", "01.5"};

	for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) {
		char text[64];

		(void)snprintf(text, sizeof(text), "a:\n  - %s\n", numbers[i]);
		check_refused(text, "file:2: this number has no equal in JSON");
	}
	check_refused("a: [11111111111111111111111111111111111111111111111111111111111111111]", "no equal in JSON");
}

/* ---- hostile files ---- */

static enum ks_status parse_buf(struct ks_buf *text, struct dpa_overlay_set *set, struct ks_err *err)
{
	enum ks_status status = dpa_overlay_parse(ks_slice_of(text->data, text->size), "file", "/apisix", set, err);

	ks_buf_fini(text);
	return status;
}

/* 'piece' over and over. */
static struct ks_buf many(const char *begin, const char *piece, size_t count)
{
	struct ks_buf text;

	ks_buf_init(&text, 2 * DPA_OVERLAY_MAX_BYTES);
	ks_buf_append_slice(&text, ks_slice_str(begin));
	for (size_t i = 0; i < count; i++)
		ks_buf_append_slice(&text, ks_slice_str(piece));
	KS_ASSERT(!text.failed);
	return text;
}

static void depth_size_and_counts_are_bounded(void)
{
	static const struct {
		const char *begin, *piece;
		size_t count;
		const char *why;
	} cases[] = {
		{"a: ", "[", 1000000, "too deep"},
		{"a: ", "{a: ", 1000000, "too deep"},
		{"", "- ", 1000000, "keys and values"},
		{"a:\n", " ? ", 100000, "a key must be a text"},
		{"a: ", "x", 16 << 20, "more than 16777216 bytes"},
		{"", "a", 100000, "file:1:"},
		{"\"", "a", 100000, "file:1:"},
		{"a: [", "\"", 2000001, "file:1:"},
		{"a: &a [*a", ", *a", 100000, "tags and anchors"},
		{"%YAML 1.1\n", "%TAG ! tag:a,b:\n", 100000, "file:"},
	};
	struct dpa_overlay_set set = {0};
	struct ks_buf text;
	struct ks_err err;

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		text = many(cases[i].begin, cases[i].piece, cases[i].count);
		err = (struct ks_err){0};
		CU_ASSERT_EQUAL(parse_buf(&text, &set, &err), KS_INVALID_ARGUMENT);
		CU_ASSERT_PTR_NOT_NULL(strstr(err.text, cases[i].why));
		if (!strstr(err.text, cases[i].why))
			printf("# %zu: \"%s\" is not \"%s\"\n", i, err.text, cases[i].why);
		CU_ASSERT_PTR_NULL(set.keys);
	}
	/* One key more than there may be. */
	ks_buf_init(&text, DPA_OVERLAY_MAX_BYTES);
	for (size_t i = 0; i <= DPA_OVERLAY_MAX_KEYS; i++)
		ks_buf_printf(&text, "k%zu: v\n", i);
	CU_ASSERT_EQUAL(parse_buf(&text, &set, &err), KS_INVALID_ARGUMENT);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "file:100001: there are too many keys"));
	/* What is large and right is read: escapes at their worst. */
	text = many("a: [\"", "\\0", 8 << 19);
	ks_buf_append(&text, "\"]", 2);
	CU_ASSERT_EQUAL(parse_buf(&text, &set, &err), KS_OK);
	CU_ASSERT(set.count == 1 && set.keys->value.size == 4 + 6 * ((size_t)8 << 19));
	dpa_overlay_set_fini(&set);
}

static void each_cut_of_a_file_is_read_or_refused(void)
{
	static const char text[] = "routes/1:\n  uri: /a\n  nodes: {\"10.0.0.1:80\": 1, x: [1, ~, \"\\u00e4\\n\"]}\n"
				   "routes/2: |\n  {}\nroutes/3: ~\n? routes/4\n: 'it''s'\n";
	size_t fine = 0;

	for (size_t size = 0; size <= sizeof(text) - 1; size++) {
		struct dpa_overlay_set set = {0};
		struct ks_err err = {0};
		char *exact = ks_xmalloc(size ? size : 1);
		enum ks_status status;

		memcpy(exact, text, size);
		status = dpa_overlay_parse(ks_slice_of(exact, size), "file", "/apisix", &set, &err);
		CU_ASSERT(status == KS_OK || (status == KS_INVALID_ARGUMENT && strncmp(err.text, "file:", 5) == 0));
		fine += status == KS_OK;
		dpa_overlay_set_fini(&set);
		free(exact);
	}
	CU_ASSERT(fine > 10);
}

/* ---- following a file ---- */

struct world {
	struct dpa_replica *replica;
	struct dpa_board *board;
	struct dpa_overlay *overlay;
};

static char folder[64];

static const char *in_folder(const char *name)
{
	static char paths[4][160];
	static unsigned next;
	char *path = paths[next++ % 4];

	(void)snprintf(path, sizeof(paths[0]), "%s/%s", folder, name);
	return path;
}

static void write_file(const char *name, const char *text)
{
	FILE *file = fopen(in_folder(name), "we");

	KS_ASSERT(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

/* As careful programs do it. */
static void replace_file(const char *name, const char *text)
{
	write_file("new", text);
	KS_ASSERT(rename(in_folder("new"), in_folder(name)) == 0);
}

/* Upstream has /a/x and /a/y, both "up". */
static void open_world(struct world *world, const char *path)
{
	static const char *const keys[] = {"/a/x", "/a/y"};
	struct dpa_replica_config config = {.prefix = "/a"};
	struct dpa_resync_summary summary;
	struct dpa_resync *resync;
	struct ks_err err = {0};

	*world = (struct world){.board = dpa_board_new(), .replica = dpa_replica_new(&config, &err)};
	CU_ASSERT_PTR_NOT_NULL_FATAL(world->replica);
	resync = dpa_resync_begin(world->replica, 7, 9, false, 0, &err);
	CU_ASSERT_PTR_NOT_NULL_FATAL(resync);
	for (size_t i = 0; i < 2; i++) {
		struct dpa_change change = {.revision = 8,
					    .key = ks_slice_str(keys[i]),
					    .value = ks_slice_str("up"),
					    .create_revision = 8,
					    .version = 1};

		CU_ASSERT_EQUAL(dpa_resync_key(resync, &change, &err), KS_OK);
	}
	CU_ASSERT_EQUAL(dpa_resync_end(resync, false, &summary, &err), KS_OK);
	world->overlay = dpa_overlay_start(path, world->replica, world->board, &err);
	CU_ASSERT_PTR_NOT_NULL_FATAL(world->overlay);
}

static void close_world(struct world *world)
{
	dpa_overlay_stop(world->overlay);
	dpa_replica_free(world->replica);
	dpa_board_free(world->board);
}

/* What is served, as "key=value key=value". */
static void serve(struct world *world, char *text, size_t room)
{
	struct dpa_image image = {0};
	struct ks_err err;
	size_t size = 0;

	text[0] = '\0';
	KS_ASSERT(dpa_replica_image(world->replica, &image, &err) == KS_OK);
	for (size_t i = 0; i < image.key_count; i++) {
		struct ks_kv kv;

		if (!image.keys[i].kv)
			continue;
		KS_ASSERT(ks_kv_decode(ks_bytes_slice(image.keys[i].kv), &kv));
		size += (size_t)snprintf(text + size, room - size, "%s%.*s=%.*s", size ? " " : "", (int)kv.key.size,
					 (const char *)kv.key.data, (int)kv.value.size, (const char *)kv.value.data);
	}
	dpa_image_fini(&image);
}

static int64_t now_ms(void)
{
	return ks_clock_now(ks_clock_system());
}

static void wait_served(struct world *world, const char *wanted)
{
	int64_t until = now_ms() + 10000;
	char text[512];

	for (serve(world, text, sizeof(text)); strcmp(text, wanted) != 0 && now_ms() < until;
	     serve(world, text, sizeof(text)))
		(void)usleep(2000);
	CU_ASSERT_STRING_EQUAL(text, wanted);
	if (strcmp(text, wanted) != 0)
		printf("# %s\n", text);
}

static void wait_alarm(struct world *world, bool on)
{
	int64_t until = now_ms() + 10000;
	struct dpa_status status;

	do {
		dpa_board_read(world->board, &status);
	} while (status.alarms[DPA_ALARM_OVERLAY].on != on && now_ms() < until && usleep(2000) == 0);
	CU_ASSERT_EQUAL(status.alarms[DPA_ALARM_OVERLAY].on, on);
}

static void check_json(struct world *world, const char *part)
{
	int64_t until = now_ms() + 10000;
	char *json = dpa_overlay_json(world->overlay);

	/* The replica has it a moment before the overlay says so. */
	while (json && !strstr(json, part) && now_ms() < until && usleep(2000) == 0) {
		free(json);
		json = dpa_overlay_json(world->overlay);
	}
	CU_ASSERT_PTR_NOT_NULL_FATAL(json);
	CU_ASSERT_PTR_NOT_NULL(strstr(json, part));
	if (!strstr(json, part))
		printf("# %s has no %s\n", json, part);
	free(json);
}

static void clear_folder(void)
{
	static const char *const names[] = {"overlay.yml",
					    "new",
					    "..data",
					    "one/overlay.yml",
					    "two/overlay.yml",
					    "one",
					    "two",
					    "deep/overlay.yml",
					    "deep",
					    "other/overlay.yml",
					    "other"};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (unlink(in_folder(names[i])) != 0)
			(void)rmdir(in_folder(names[i]));
}

static void the_replica_follows_the_file(void)
{
	struct world world;
	struct dpa_status status;

	write_file("overlay.yml", "x: mine\nz: {a: 1}\n");
	open_world(&world, in_folder("overlay.yml"));
	/* The start waits for it. */
	wait_served(&world, "/a/x=mine /a/y=up /a/z={\"a\":1}");
	dpa_board_read(world.board, &status);
	CU_ASSERT_STRING_EQUAL(status.overlay_file, in_folder("overlay.yml"));
	CU_ASSERT(status.overlay_loaded_ms > 0);
	check_json(&world, "\"error\":null,\"keys\":{\"/a/x\":\"set\",\"/a/z\":\"set\"}");
	/* In place, by rename, removed, back again. */
	write_file("overlay.yml", "y: ~\n");
	wait_served(&world, "/a/x=up");
	check_json(&world, "\"keys\":{\"/a/y\":\"hide\"}");
	replace_file("overlay.yml", "{\"/a/y\": \"mine\"}");
	wait_served(&world, "/a/x=up /a/y=mine");
	KS_ASSERT(unlink(in_folder("overlay.yml")) == 0);
	wait_served(&world, "/a/x=up /a/y=up");
	check_json(&world, "\"loaded_ms\":0,\"error\":null,\"keys\":{}");
	write_file("overlay.yml", "x: again\n");
	wait_served(&world, "/a/x=again /a/y=up");
	close_world(&world);
	clear_folder();
}

static void many_changes_of_one_size_are_all_seen(void)
{
	struct world world;
	char text[32], wanted[64];

	write_file("overlay.yml", "x: v0\n");
	open_world(&world, in_folder("overlay.yml"));
	for (int i = 1; i < 10; i++) {
		(void)snprintf(text, sizeof(text), "x: v%d\n", i);
		(void)snprintf(wanted, sizeof(wanted), "/a/x=v%d /a/y=up", i);
		write_file("overlay.yml", text);
		wait_served(&world, wanted);
	}
	close_world(&world);
	clear_folder();
}

static void a_malformed_file_leaves_what_counted(void)
{
	struct world world;
	struct dpa_status status;

	write_file("overlay.yml", "x: mine\n");
	open_world(&world, in_folder("overlay.yml"));
	replace_file("overlay.yml", "x: other\ny: [1\n");
	wait_alarm(&world, true);
	wait_served(&world, "/a/x=mine /a/y=up");
	dpa_board_read(world.board, &status);
	CU_ASSERT_PTR_NOT_NULL(strstr(status.alarms[DPA_ALARM_OVERLAY].text, "overlay.yml:"));
	check_json(&world, "overlay.yml:");
	check_json(&world, "\"keys\":{\"/a/x\":\"set\"}");
	replace_file("overlay.yml", "/elsewhere: 1\n");
	(void)usleep(200000);
	wait_served(&world, "/a/x=mine /a/y=up");
	replace_file("overlay.yml", "x: better\n");
	wait_alarm(&world, false);
	wait_served(&world, "/a/x=better /a/y=up");
	/* A folder in its place is as wrong. */
	KS_ASSERT(unlink(in_folder("overlay.yml")) == 0 && mkdir(in_folder("overlay.yml"), 0700) == 0);
	wait_alarm(&world, true);
	KS_ASSERT(rmdir(in_folder("overlay.yml")) == 0);
	wait_alarm(&world, false);
	wait_served(&world, "/a/x=up /a/y=up");
	close_world(&world);
	clear_folder();
}

static void a_malformed_file_at_the_start_is_an_error(void)
{
	struct dpa_replica_config config = {.prefix = "/a"};
	struct ks_err err = {0};
	struct dpa_replica *replica = dpa_replica_new(&config, &err);
	struct dpa_board *board = dpa_board_new();

	write_file("overlay.yml", "x: 1\nx: 2\n");
	CU_ASSERT_PTR_NULL(dpa_overlay_start(in_folder("overlay.yml"), replica, board, &err));
	CU_ASSERT_EQUAL(err.status, KS_INVALID_ARGUMENT);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "overlay.yml:2: \"/a/x\" stands on line 1 already"));
	dpa_replica_free(replica);
	dpa_board_free(board);
	clear_folder();
}

/* overlay.yml -> ..data/overlay.yml, ..data -> one; then ..data -> two by a rename, as a ConfigMap changes. */
static void links_that_point_elsewhere_are_seen(void)
{
	struct world world;

	KS_ASSERT(mkdir(in_folder("one"), 0700) == 0 && mkdir(in_folder("two"), 0700) == 0);
	write_file("one/overlay.yml", "x: one\n");
	write_file("two/overlay.yml", "x: two\n");
	KS_ASSERT(symlink("one", in_folder("..data")) == 0 &&
		  symlink("..data/overlay.yml", in_folder("overlay.yml")) == 0);
	open_world(&world, in_folder("overlay.yml"));
	wait_served(&world, "/a/x=one /a/y=up");
	KS_ASSERT(symlink("two", in_folder("new")) == 0 && rename(in_folder("new"), in_folder("..data")) == 0);
	wait_served(&world, "/a/x=two /a/y=up");
	/* No event of the watched folder tells this. */
	write_file("two/overlay.yml", "x: third\n");
	wait_served(&world, "/a/x=third /a/y=up");
	close_world(&world);
	clear_folder();
}

static void a_folder_that_comes_later_or_is_replaced_is_seen(void)
{
	struct world world;

	open_world(&world, in_folder("deep/overlay.yml"));
	wait_served(&world, "/a/x=up /a/y=up");
	KS_ASSERT(mkdir(in_folder("deep"), 0700) == 0);
	write_file("deep/overlay.yml", "x: one\n");
	wait_served(&world, "/a/x=one /a/y=up");
	KS_ASSERT(rename(in_folder("deep"), in_folder("other")) == 0 && mkdir(in_folder("deep"), 0700) == 0);
	write_file("deep/overlay.yml", "x: two\n");
	wait_served(&world, "/a/x=two /a/y=up");
	write_file("deep/overlay.yml", "x: tre\n");
	wait_served(&world, "/a/x=tre /a/y=up");
	close_world(&world);
	clear_folder();
}

static struct dpa_image image_of(struct dpa_replica *replica)
{
	struct dpa_image image = {0};
	struct ks_err err;

	KS_ASSERT(dpa_replica_image(replica, &image, &err) == KS_OK);
	image.final = true;
	return image;
}

/* The overlay first, then what is on disk: what is the same is no news to clients, what is not is one revision. */
static void a_restart_with_the_same_file_changes_nothing(void)
{
	static const struct {
		const char *file, *served;
		int64_t revisions;
	} cases[] = {
		{"x: mine\ny: ~\nz: new\n", "/a/x=mine /a/z=new", 0},
		{"x: mine\n", "/a/x=mine /a/y=up", 1},
		{"", "/a/x=up /a/y=up", 1},
	};
	struct dpa_replica_config config = {.prefix = "/a"};
	struct world world;
	struct dpa_image saved;

	write_file("overlay.yml", "x: mine\ny: ~\nz: new\n");
	open_world(&world, in_folder("overlay.yml"));
	wait_served(&world, "/a/x=mine /a/z=new");
	saved = image_of(world.replica);
	close_world(&world);
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct ks_err err = {0};
		struct dpa_point point;

		write_file("overlay.yml", cases[i].file);
		world = (struct world){.board = dpa_board_new(), .replica = dpa_replica_new(&config, &err)};
		CU_ASSERT_PTR_NOT_NULL_FATAL(world.replica);
		world.overlay = dpa_overlay_start(in_folder("overlay.yml"), world.replica, world.board, &err);
		CU_ASSERT_PTR_NOT_NULL_FATAL(world.overlay);
		CU_ASSERT_EQUAL(dpa_replica_load(world.replica, &saved, &err), KS_OK);
		wait_served(&world, cases[i].served);
		dpa_replica_point(world.replica, &point);
		CU_ASSERT_EQUAL(point.revision, saved.revision + cases[i].revisions);
		dpa_point_fini(&point);
		close_world(&world);
	}
	dpa_image_fini(&saved);
	clear_folder();
}

/* Writes a byte at a time, for more than a second, so that the look each second falls into it. The longest pause between two. */
static int64_t write_slowly(struct world *world, const char *text, size_t *halves)
{
	int fd = open(in_folder("overlay.yml"), O_WRONLY | O_TRUNC | O_CLOEXEC);
	int64_t before = now_ms(), longest = 0;
	char served[512];

	KS_ASSERT(fd >= 0);
	for (const char *at = text; *at; at++) {
		KS_ASSERT(write(fd, at, 1) == 1);
		longest = now_ms() - before > longest ? now_ms() - before : longest;
		before = now_ms();
		(void)usleep(10000);
		serve(world, served, sizeof(served));
		*halves += strcmp(served, "/a/x=one /a/y=one") != 0;
	}
	(void)close(fd);
	return longest;
}

/* While a program writes slowly, no half of the file counts. A machine that stands still meanwhile tells nothing. */
static void a_file_that_is_being_written_is_not_read_yet(void)
{
	int64_t longest = 1000;

	for (int i = 0; i < 5 && longest > 30; i++) {
		struct world world;
		size_t halves = 0;

		write_file("overlay.yml", "x: one\ny: one\n");
		open_world(&world, in_folder("overlay.yml"));
		longest = write_slowly(
			&world,
			"x: two\ny: two\n# a hundred bytes and more, so that it takes longer than a second "
			"to write all of them: 0123456789\nz: two\n",
			&halves);
		CU_ASSERT(halves == 0 || longest > 30);
		wait_served(&world, "/a/x=two /a/y=two /a/z=two");
		close_world(&world);
	}
	clear_folder();
}

int main(void)
{
	int code;

	(void)snprintf(folder, sizeof(folder), "/tmp/dpa-overlay-XXXXXX");
	KS_ASSERT(mkdtemp(folder));
	code = tap_run(
		"dpa_overlay",
		(const struct tap_test[]){
			{"texts_are_taken_as_they_are", texts_are_taken_as_they_are},
			{"mappings_and_lists_become_compact_json", mappings_and_lists_become_compact_json},
			{"keys_are_put_behind_the_prefix", keys_are_put_behind_the_prefix},
			{"an_empty_file_has_no_keys", an_empty_file_has_no_keys},
			{"what_is_no_overlay_is_refused_with_its_line", what_is_no_overlay_is_refused_with_its_line},
			{"numbers_that_yaml_and_json_read_otherwise_are_refused",
			 numbers_that_yaml_and_json_read_otherwise_are_refused},
			{"depth_size_and_counts_are_bounded", depth_size_and_counts_are_bounded},
			{"each_cut_of_a_file_is_read_or_refused", each_cut_of_a_file_is_read_or_refused},
			{"the_replica_follows_the_file", the_replica_follows_the_file},
			{"many_changes_of_one_size_are_all_seen", many_changes_of_one_size_are_all_seen},
			{"a_malformed_file_leaves_what_counted", a_malformed_file_leaves_what_counted},
			{"a_malformed_file_at_the_start_is_an_error", a_malformed_file_at_the_start_is_an_error},
			{"links_that_point_elsewhere_are_seen", links_that_point_elsewhere_are_seen},
			{"a_folder_that_comes_later_or_is_replaced_is_seen",
			 a_folder_that_comes_later_or_is_replaced_is_seen},
			{"a_restart_with_the_same_file_changes_nothing", a_restart_with_the_same_file_changes_nothing},
			{"a_file_that_is_being_written_is_not_read_yet", a_file_that_is_being_written_is_not_read_yet},
			{NULL, NULL}});
	(void)rmdir(folder);
	return code;
}
