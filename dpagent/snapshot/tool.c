/* SPDX-License-Identifier: Apache-2.0 */
/* `dpagent snapshot`: what an image says, whether it is sound and signed, and which keys it has. */
#include "snapshot/tool.h"

#include <inttypes.h>
#include <jansson.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/panic.h"
#include "snapshot/disk.h"
#include "store/store.h"

#define USAGE 2

static const char usage[] =
	"Usage: dpagent snapshot status FILE [--public-key=FILE]\n"
	"       dpagent snapshot verify FILE [--public-key=FILE]\n"
	"       dpagent snapshot keys   FILE [--public-key=FILE] [--dump]\n"
	"\n"
	"Looks into an image of the last known good configuration, as it lies in the data folder and in object "
	"storage.\n"
	"  status  what it says about itself, and whether it is sound\n"
	"  verify  nothing but whether it is sound: exit status 0, else 1 and why\n"
	"  keys    the names of its keys; with --dump one JSON object a line, with values and revisions\n"
	"\n"
	"  --public-key=FILE  a valid signature by one of the Ed25519 keys in this PEM file is required\n";

struct look {
	const char *command, *file, *public_key;
	bool dump;
};

static int complain(const struct ks_err *err)
{
	(void)fprintf(stderr, "dpagent snapshot: %s\n", err->text);
	return err->status == KS_INVALID_ARGUMENT ? USAGE : EXIT_FAILURE;
}

/* ---- the command line ---- */

/* The flag's value, in the same word or the next one; NULL when this is another word. */
static const char *value_of(int argc, char *argv[], int *i, const char *name)
{
	const char *word = argv[*i] + (strncmp(argv[*i], "--", 2) == 0 ? 2 : 0);
	size_t size = strlen(name);

	if (word == argv[*i] || strncmp(word, name, size) != 0)
		return NULL;
	if (word[size] == '=')
		return word + size + 1;
	return word[size] == '\0' && *i + 1 < argc ? argv[++*i] : NULL;
}

static bool parse(struct look *look, int argc, char *argv[])
{
	for (int i = 1; i < argc; i++) {
		const char *value = value_of(argc, argv, &i, "public-key");

		if (value)
			look->public_key = value;
		else if (strcmp(argv[i], "--dump") == 0)
			look->dump = true;
		else if (*argv[i] == '-')
			return false;
		else if (!look->command)
			look->command = argv[i];
		else if (!look->file)
			look->file = argv[i];
		else
			return false;
	}
	return look->command && look->file &&
	       (strcmp(look->command, "status") == 0 || strcmp(look->command, "verify") == 0 ||
		strcmp(look->command, "keys") == 0);
}

/* ---- what it says ---- */

static void print_time(const char *name, int64_t ms)
{
	time_t seconds = (time_t)(ms / 1000);
	struct tm parts;
	char text[40];

	if (ms == 0 || !gmtime_r(&seconds, &parts) || strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts) == 0)
		(void)printf("%s never\n", name);
	else
		(void)printf("%s %s.%03dZ\n", name, text, (int)(ms % 1000));
}

/* What a file holds may contain what a terminal obeys. */
static void print_text(struct ks_slice text)
{
	for (size_t i = 0; i < text.size; i++) {
		if (text.data[i] < 0x20 || text.data[i] == 0x7f || text.data[i] == '\\')
			(void)printf("\\x%02x", text.data[i]);
		else
			(void)putchar(text.data[i]);
	}
	(void)putchar('\n');
}

static void print_signature(const struct dpa_format_head *head, bool checked)
{
	if (!head->is_signed) {
		(void)puts("signature:      none");
		return;
	}
	(void)fputs("signature:      key ", stdout);
	for (size_t i = 0; i < DPA_KEY_ID; i++)
		(void)printf("%02x", head->key_id[i]);
	(void)puts(checked ? ", valid" : ", not checked (--public-key)");
}

static void print_head(const struct dpa_format_head *head, struct ks_slice bytes, const struct dpa_image *image,
		       bool checked)
{
	(void)printf("bytes:          %zu (%" PRIu64 " before compression)\n", bytes.size, head->body_size);
	(void)printf("cluster:        %" PRIx64 "\n", head->cluster_id);
	(void)printf("up revision:    %" PRId64 "\n", head->up_revision);
	(void)printf("revision:       %" PRId64 "\n", head->revision);
	(void)fputs("prefix:         ", stdout);
	print_text(ks_bytes_slice(image->prefix));
	(void)printf("keys:           %zu\n", image->key_count);
	print_time("confirmed:     ", head->confirmed_ms);
	print_time("saved:         ", head->saved_ms);
	(void)printf("clean stop:     %s\n", head->final ? "yes" : "no");
	print_signature(head, checked);
}

/* ---- its keys ---- */

/* As text when it is UTF-8, else in base64 under "name_base64". False without memory. */
static bool set_bytes(json_t *object, const char *name, struct ks_slice bytes)
{
	json_t *text = json_stringn((const char *)bytes.data, bytes.size);
	char longer[32], *coded;
	bool fine;

	if (text)
		return json_object_set_new(object, name, text) == 0;
	coded = malloc(bytes.size / 3 * 4 + 5);
	if (!coded || bytes.size > INT32_MAX) {
		free(coded);
		return false;
	}
	(void)EVP_EncodeBlock((unsigned char *)coded, bytes.data, (int)bytes.size);
	(void)snprintf(longer, sizeof(longer), "%s_base64", name);
	fine = json_object_set_new(object, longer, json_string(coded)) == 0;
	free(coded);
	return fine;
}

static bool describe(json_t *line, const struct dpa_image_key *key, const struct ks_kv *kv)
{
	bool fine = set_bytes(line, "key", kv->key);

	if (key->kv) {
		fine = fine && set_bytes(line, "value", kv->value);
		fine = fine && json_object_set_new(line, "create_revision", json_integer(kv->create_revision)) == 0;
		fine = fine && json_object_set_new(line, "mod_revision", json_integer(kv->mod_revision)) == 0;
		fine = fine && json_object_set_new(line, "version", json_integer(kv->version)) == 0;
	} else {
		fine = fine && json_object_set_new(line, "hidden", json_true()) == 0;
	}
	if (key->up_mod)
		fine = fine &&
		       json_object_set_new(line, "upstream",
					   json_pack("{s:I, s:I, s:I}", "create_revision", (json_int_t)key->up_create,
						     "mod_revision", (json_int_t)key->up_mod, "version",
						     (json_int_t)key->up_version)) == 0;
	if (key->raw)
		fine = fine && set_bytes(line, "upstream_value", ks_bytes_slice(key->raw));
	return fine;
}

static bool dump_key(const struct dpa_image_key *key)
{
	struct ks_kv kv = {.key = ks_bytes_slice(key->hidden)};
	json_t *line = json_object();
	bool fine = line && (!key->kv || ks_kv_decode(ks_bytes_slice(key->kv), &kv)) && describe(line, key, &kv) &&
		    json_dumpf(line, stdout, JSON_COMPACT) == 0;

	json_decref(line);
	(void)putchar('\n');
	return fine;
}

static bool print_keys(const struct dpa_image *image, bool dump)
{
	for (size_t i = 0; i < image->key_count; i++) {
		struct ks_slice name;

		if (dump ? !dump_key(&image->keys[i]) : !dpa_image_key_name(&image->keys[i], &name))
			return false;
		if (!dump)
			print_text(name);
	}
	return true;
}

/* ---- the whole ---- */

static int show(const struct look *look, struct ks_slice bytes, const struct dpa_verifier *verifier)
{
	struct dpa_image image = {0};
	struct dpa_format_head head;
	struct ks_err err, why;
	enum ks_status status = dpa_format_head(bytes, bytes.size, &head, &why);
	bool fine = true;

	if (status == KS_OK)
		status = dpa_format_read(bytes, verifier, &image, &why);
	if (status != KS_OK) {
		(void)ks_fail(&err, status, "%s: %s", look->file, why.text);
		return complain(&err);
	}
	if (strcmp(look->command, "status") == 0)
		print_head(&head, bytes, &image, verifier != NULL);
	else if (strcmp(look->command, "keys") == 0)
		fine = print_keys(&image, look->dump);
	dpa_image_fini(&image);
	if (fflush(stdout) == 0 && fine)
		return EXIT_SUCCESS;
	(void)ks_fail(&err, KS_UNAVAILABLE, "cannot write all of the output");
	return complain(&err);
}

int dpa_snapshot_tool(int argc, char *argv[])
{
	struct dpa_verifier *verifier = NULL;
	struct look look = {0};
	struct ks_err err;
	uint8_t *data;
	size_t size;
	int code;

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
			(void)fputs(usage, stdout);
			return EXIT_SUCCESS;
		}
	}
	if (!parse(&look, argc, argv)) {
		(void)fputs(usage, stderr);
		return USAGE;
	}
	if (look.public_key && !(verifier = dpa_verifier_read(look.public_key, &err)))
		return complain(&err);
	data = dpa_disk_read_file(look.file, &size, &err);
	code = data ? show(&look, ks_slice_of(data, size), verifier) : complain(&err);
	free(data);
	dpa_verifier_free(verifier);
	return code;
}
