/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Comparison of transcripts. A transcript is scenarios (=== name) of steps (> request) of lines; a line "  path=value" is a field,
 * every other line a field by its place. Fields of a step are matched by path, so that a missing one is one difference.
 *
 * Known differences: scenario | request | path | value of the reference | value of the tested one | why, where all but the last are
 * shell patterns, and "-" stands for no value.
 */
#include "tests/conformance/compare.h"

#include <fnmatch.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"

#define SHOWN_MAX 12 /* differences of one scenario that are printed */

struct field {
	char *path, *value;
	bool matched;
};

struct step {
	char *request;
	struct field *fields;
	size_t count;
};

struct part { /* a scenario's transcript */
	char *name;
	struct step *steps;
	size_t count;
};

struct transcript {
	struct part *parts;
	size_t count;
};

struct known {
	char *columns[6];
	size_t used;
};

static struct known *known;
static size_t known_count;

/* Grows an array of 'size'-byte items by one zeroed item. */
static void *grow(void **array, size_t *count, size_t size)
{
	char *grown = ks_xrealloc(*array, (*count + 1) * size);

	memset(grown + *count * size, 0, size);
	*array = grown;
	(*count)++;
	return grown + (*count - 1) * size;
}

static void add_line(struct step *step, const char *line)
{
	const char *equals = strchr(line, '=');
	struct field *field = grow((void **)&step->fields, &step->count, sizeof(*field));
	char place[32];
	size_t notes = 0;

	if (strncmp(line, "  ", 2) == 0 && equals) {
		field->path = ks_xstrdup(line + 2);
		field->path[equals - line - 2] = '\0';
		field->value = ks_xstrdup(equals + 1);
		return;
	}
	for (size_t i = 0; i + 1 < step->count; i++)
		notes += strncmp(step->fields[i].path, "note", 4) == 0;
	(void)snprintf(place, sizeof(place), "note%zu", notes);
	field->path = ks_xstrdup(line[0] == '#' ? place : "status");
	field->value = ks_xstrdup(line);
}

static bool read_transcript(struct transcript *transcript, const char *path)
{
	FILE *file = fopen(path, "r");
	char *line = NULL;
	size_t capacity = 0;
	ssize_t size;
	struct part *part = NULL;

	*transcript = (struct transcript){.count = 0};
	if (!file) {
		printf("# %s cannot be read\n", path);
		return false;
	}
	while ((size = getline(&line, &capacity, file)) > 0) {
		line[size - 1] = line[size - 1] == '\n' ? '\0' : line[size - 1];
		if (strncmp(line, "=== ", 4) == 0) {
			part = grow((void **)&transcript->parts, &transcript->count, sizeof(*part));
			part->name = ks_xstrdup(line + 4);
			((struct step *)grow((void **)&part->steps, &part->count, sizeof(struct step)))->request =
				ks_xstrdup("(start)");
		} else if (part && line[0] == '>') {
			((struct step *)grow((void **)&part->steps, &part->count, sizeof(struct step)))->request =
				ks_xstrdup(line + 1);
		} else if (part) {
			add_line(&part->steps[part->count - 1], line);
		}
	}
	free(line);
	(void)fclose(file);
	return true;
}

static void free_transcript(struct transcript *transcript)
{
	for (size_t i = 0; i < transcript->count; i++) {
		struct part *part = &transcript->parts[i];

		for (size_t j = 0; j < part->count; j++) {
			struct step *step = &part->steps[j];

			for (size_t k = 0; k < step->count; k++) {
				free(step->fields[k].path);
				free(step->fields[k].value);
			}
			free(step->fields);
			free(step->request);
		}
		free(part->steps);
		free(part->name);
	}
	free(transcript->parts);
}

static char *trim(char *text)
{
	size_t size;

	while (*text == ' ')
		text++;
	size = strlen(text);
	while (size > 0 && (text[size - 1] == ' ' || text[size - 1] == '\n'))
		text[--size] = '\0';
	return ks_xstrdup(text);
}

static bool read_known(const char *path)
{
	FILE *file = fopen(path, "r");
	char *line = NULL;
	size_t capacity = 0;

	if (!file) {
		printf("# %s cannot be read\n", path);
		return false;
	}
	while (getline(&line, &capacity, file) > 0) {
		struct known *row;
		char *rest = line;

		if (line[0] == '#' || line[0] == '\n')
			continue;
		row = grow((void **)&known, &known_count, sizeof(*row));
		for (int i = 0; i < 6; i++) {
			char *column = strsep(&rest, "|");

			row->columns[i] = trim(column ? column : line + strlen(line));
		}
	}
	free(line);
	(void)fclose(file);
	return true;
}

static bool is_known(const char *scenario, const char *request, const char *path, const char *reference,
		     const char *tested)
{
	const char *values[5] = {scenario, request, path, reference, tested};

	for (size_t row = 0; row < known_count; row++) {
		bool all = true;

		for (int i = 0; i < 5 && all; i++)
			all = fnmatch(known[row].columns[i], values[i], 0) == 0;
		if (all) {
			known[row].used++;
			return true;
		}
	}
	return false;
}

struct report {
	const char *scenario;
	const struct step *step;
	char *text;
	size_t size, differences;
	FILE *out;
};

static void differ(struct report *report, const char *path, const char *reference, const char *tested)
{
	if (is_known(report->scenario, report->step->request, path, reference, tested))
		return;
	if (report->differences++ < SHOWN_MAX)
		(void)fprintf(report->out, "#   >%.200s\n#     %s: expected %s, got %s\n", report->step->request, path,
			      reference, tested);
}

static struct field *find(struct step *step, const char *path, size_t near)
{
	/* Both transcripts mostly have the same order. */
	for (size_t i = near; i < step->count; i++) {
		if (!step->fields[i].matched && strcmp(step->fields[i].path, path) == 0)
			return &step->fields[i];
	}
	for (size_t i = 0; i < near && i < step->count; i++) {
		if (!step->fields[i].matched && strcmp(step->fields[i].path, path) == 0)
			return &step->fields[i];
	}
	return NULL;
}

static void compare_step(struct report *report, struct step *reference, struct step *tested)
{
	size_t near = 0;

	report->step = reference;
	if (strcmp(reference->request, tested->request) != 0)
		differ(report, "request", reference->request, tested->request);
	for (size_t i = 0; i < reference->count; i++) {
		struct field *field = &reference->fields[i], *other = find(tested, field->path, near);

		if (other) {
			other->matched = true;
			near = (size_t)(other - tested->fields) + 1;
		}
		if (!other || strcmp(field->value, other->value) != 0)
			differ(report, field->path, field->value, other ? other->value : "-");
		else if (strstr(field->value, ": FAILED"))
			differ(report, field->path, "ok", field->value);
	}
	for (size_t i = 0; i < tested->count; i++) {
		if (!tested->fields[i].matched)
			differ(report, tested->fields[i].path, "-", tested->fields[i].value);
	}
}

static bool compare_part(struct part *reference, struct part *tested, const char *prefix)
{
	struct report report = {.scenario = reference->name, .step = &reference->steps[0]};

	report.out = open_memstream(&report.text, &report.size);
	KS_ASSERT(report.out);
	if (!tested) {
		differ(&report, "scenario", reference->name, "-");
	} else {
		for (size_t i = 0; i < reference->count && i < tested->count; i++)
			compare_step(&report, &reference->steps[i], &tested->steps[i]);
		if (reference->count != tested->count) {
			char counts[2][32];

			(void)snprintf(counts[0], sizeof(counts[0]), "%zu", reference->count);
			(void)snprintf(counts[1], sizeof(counts[1]), "%zu", tested->count);
			differ(&report, "steps", counts[0], counts[1]);
		}
	}
	(void)fclose(report.out);
	printf("%s - %s: %s\n%s", report.differences ? "not ok" : "ok", prefix, reference->name, report.text);
	if (report.differences > SHOWN_MAX)
		printf("#   and %zu more\n", report.differences - SHOWN_MAX);
	free(report.text);
	return report.differences == 0;
}

int compare(const char *reference_path, const char *tested_path, const char *differences, const char *prefix)
{
	struct transcript reference = {.count = 0}, tested = {.count = 0};
	bool ok = true;

	if (!read_known(differences) || !read_transcript(&reference, reference_path) ||
	    !read_transcript(&tested, tested_path)) {
		printf("not ok - %s: transcripts\n", prefix);
		ok = false;
	}
	for (size_t i = 0; i < reference.count; i++) {
		struct part *part = NULL;

		for (size_t j = 0; j < tested.count && !part; j++) {
			if (strcmp(tested.parts[j].name, reference.parts[i].name) == 0)
				part = &tested.parts[j];
		}
		ok &= compare_part(&reference.parts[i], part, prefix);
	}
	free_transcript(&reference);
	free_transcript(&tested);
	return ok ? 0 : 1;
}
