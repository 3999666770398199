/* SPDX-License-Identifier: Apache-2.0 */
/* XML as a walk over its elements, see xml.h. */
#include "fallback/xml.h"

#include <ctype.h>
#include <expat.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define MAX_LEVELS 16
#define MAX_PATH 512
/* Tokens of lists are the longest texts. */
#define MAX_TEXT 8192
#define CHUNK (1 << 20)

struct walk {
	XML_Parser parser;
	dpa_xml_fn *fn;
	void *ctx;
	int level;
	size_t ends[MAX_LEVELS + 1]; /* the path's size at each level */
	char path[MAX_PATH];
	size_t text_size;
	char text[MAX_TEXT];
	bool refused;
};

static void refuse(struct walk *walk)
{
	walk->refused = true;
	(void)XML_StopParser(walk->parser, XML_FALSE);
}

static void XMLCALL on_start(void *ctx, const XML_Char *name, const XML_Char **attributes)
{
	struct walk *walk = ctx;
	const char *colon = strrchr(name, ':');
	size_t used = walk->ends[walk->level], size;

	(void)attributes;
	/* expat may go on for a moment after it was stopped. */
	if (walk->refused)
		return;
	name = colon ? colon + 1 : name;
	size = strlen(name);
	if (walk->level == MAX_LEVELS || used + size + 2 > sizeof(walk->path)) {
		refuse(walk);
		return;
	}
	if (used > 0)
		walk->path[used++] = '/';
	memcpy(walk->path + used, name, size + 1);
	walk->ends[++walk->level] = used + size;
	walk->text_size = 0;
}

static void XMLCALL on_text(void *ctx, const XML_Char *text, int size)
{
	struct walk *walk = ctx;

	if (walk->refused)
		return;
	if (walk->text_size + (size_t)size >= sizeof(walk->text)) {
		refuse(walk);
		return;
	}
	memcpy(walk->text + walk->text_size, text, (size_t)size);
	walk->text_size += (size_t)size;
}

static void XMLCALL on_end(void *ctx, const XML_Char *name)
{
	struct walk *walk = ctx;
	char *text = walk->text;

	(void)name;
	if (walk->refused)
		return;
	while (walk->text_size > 0 && isspace((unsigned char)walk->text[walk->text_size - 1]))
		walk->text_size--;
	walk->text[walk->text_size] = '\0';
	while (isspace((unsigned char)*text))
		text++;
	if (!walk->fn(walk->ctx, walk->path, text))
		refuse(walk);
	walk->level--;
	walk->path[walk->ends[walk->level]] = '\0';
	walk->text_size = 0;
}

static void XMLCALL on_doctype(void *ctx, const XML_Char *name, const XML_Char *system, const XML_Char *public,
			       int internal)
{
	(void)name, (void)system, (void)public, (void)internal;
	refuse(ctx);
}

enum ks_status dpa_xml_read(struct ks_slice bytes, dpa_xml_fn *fn, void *ctx, struct ks_err *err)
{
	struct walk *walk = calloc(1, sizeof(*walk));
	bool fine = true, last;

	if (walk)
		walk->parser = XML_ParserCreate("UTF-8");
	if (!walk || !walk->parser) {
		free(walk);
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
	}
	walk->fn = fn;
	walk->ctx = ctx;
	XML_SetUserData(walk->parser, walk);
	XML_SetElementHandler(walk->parser, on_start, on_end);
	XML_SetCharacterDataHandler(walk->parser, on_text);
	XML_SetStartDoctypeDeclHandler(walk->parser, on_doctype);
	do {
		size_t part = bytes.size < CHUNK ? bytes.size : CHUNK;

		last = part == bytes.size;
		fine = XML_Parse(walk->parser, (const char *)bytes.data, (int)part, last) == XML_STATUS_OK;
		if (!last) /* an empty answer has no address to go on from */
			bytes = ks_slice_of(bytes.data + part, bytes.size - part);
	} while (fine && !last);
	fine = fine && !walk->refused;
	XML_ParserFree(walk->parser);
	free(walk);
	return fine ? KS_OK : ks_fail(err, KS_DATA_LOSS, "the answer is not the XML that was expected");
}
