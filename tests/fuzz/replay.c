/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The main() of fuzz targets in a build without libFuzzer, so that make check runs them too: it feeds every file of the
 * target's corpus, and then mutations of them from a fixed seed. A crash, or a sanitizer's report, is the failure.
 *
 *	fuzz_request [FILE…]     default: $top_srcdir/tests/fuzz/corpus/request/ followed by KS_FUZZ_RUNS mutations
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INPUT_MAX (1u << 20)
#define FILES_MAX 4096
#define DEFAULT_RUNS 20000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
	uint8_t *data;
	size_t size;
};

static struct input inputs[FILES_MAX];
static size_t input_count;

static void die(const char *what, const char *name)
{
	printf("Bail out! %s %s\n", what, name);
	exit(99);
}

static void load(const char *path)
{
	FILE *file = fopen(path, "rb");
	uint8_t *data = malloc(INPUT_MAX);
	size_t size;

	if (!file || !data || input_count == FILES_MAX)
		die("cannot read", path);
	size = fread(data, 1, INPUT_MAX, file);
	if (ferror(file))
		die("cannot read", path);
	(void)fclose(file);
	/* Exactly as large as it is: AddressSanitizer then sees one byte too many. */
	inputs[input_count].data = size ? realloc(data, size) : data;
	inputs[input_count].size = size;
	if (!inputs[input_count++].data)
		die("no memory for", path);
}

static void load_corpus(const char *program)
{
	const char *top = getenv("top_srcdir");
	const char *base = strrchr(program, '/') ? strrchr(program, '/') + 1 : program;
	const char *name = strncmp(base, "fuzz_", 5) == 0 ? base + 5 : base;
	char folder[2048], path[4096];
	struct dirent *entry;
	DIR *dir;

	(void)snprintf(folder, sizeof(folder), "%s/tests/fuzz/corpus/%s", top ? top : ".", name);
	dir = opendir(folder);
	if (!dir)
		return;
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		(void)snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
		load(path);
	}
	(void)closedir(dir);
}

static uint64_t next_random(void)
{
	static uint64_t state = 0x9e3779b97f4a7c15u;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static size_t below(size_t limit)
{
	return limit ? (size_t)(next_random() % limit) : 0;
}

/* A copy of one input with a few bytes changed, removed, doubled, or taken from another input. */
static void run_mutation(void)
{
	static const uint8_t telling[] = {0x00, 0x01, 0x7f, 0x80, 0xff, 0x08, 0x12, 0x0a, 0x10, 0x1a, 0x22};
	const struct input *from = &inputs[below(input_count)];
	const struct input *other = &inputs[below(input_count)];
	size_t size = from->size;
	uint8_t *data = malloc(from->size + other->size + 64);
	uint8_t *exact;

	if (!data)
		die("no memory for", "a mutation");
	if (size)
		memcpy(data, from->data, size);
	for (size_t change = below(6) + 1; change > 0; change--) {
		size_t at = below(size);

		switch (below(5)) {
		case 0:
			if (size)
				data[at] ^= (uint8_t)(1u << below(8));
			break;
		case 1:
			if (size)
				data[at] = telling[below(sizeof(telling))];
			break;
		case 2:
			size = at;
			break;
		case 3: {
			size_t take = below(other->size);

			if (at + take > from->size + other->size + 64)
				break;
			if (take)
				memcpy(data + at, other->data + (other->size - take), take);
			size = at + take > size ? at + take : size;
			break;
		}
		case 4:
			if (size < from->size + other->size + 64)
				data[size++] = (uint8_t)next_random();
			break;
		}
	}
	exact = malloc(size ? size : 1);
	if (!exact)
		die("no memory for", "a mutation");
	memcpy(exact, data, size);
	free(data);
	(void)LLVMFuzzerTestOneInput(exact, size);
	free(exact);
}

int main(int argc, char **argv)
{
	const char *text = getenv("KS_FUZZ_RUNS");
	unsigned long runs = text ? strtoul(text, NULL, 10) : DEFAULT_RUNS;

	(void)setvbuf(stdout, NULL, _IOLBF, 0);
	puts("1..2");
	for (int i = 1; i < argc; i++)
		load(argv[i]);
	if (argc == 1)
		load_corpus(argv[0]);
	if (input_count == 0)
		die("no corpus for", argv[0]);
	for (size_t i = 0; i < input_count; i++)
		(void)LLVMFuzzerTestOneInput(inputs[i].data, inputs[i].size);
	printf("ok 1 - %zu files of the corpus\n", input_count);
	for (unsigned long i = 0; i < runs; i++)
		run_mutation();
	printf("ok 2 - %lu mutations\n", runs);
	for (size_t i = 0; i < input_count; i++)
		free(inputs[i].data);
	return EXIT_SUCCESS;
}
