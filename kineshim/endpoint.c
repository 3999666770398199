/* SPDX-License-Identifier: Apache-2.0 */
/* Endpoints from files and variables, see endpoint.h. */
#include "endpoint.h"

#include <ctype.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/mask.h"

#define VARIABLE_MAX 128

struct text {
	char *to;
	size_t size;
};

/* False when the endpoint gets too long. */
static bool add(struct text *text, const char *from, size_t size)
{
	if (size >= KS_ENDPOINT_MAX - text->size)
		return false;
	memcpy(text->to + text->size, from, size);
	text->size += size;
	text->to[text->size] = '\0';
	return true;
}

static bool add_encoded(struct text *text, const char *value)
{
	for (; *value; value++) {
		char code[4];
		bool plain = isalnum((unsigned char)*value) || strchr("-._~", *value);

		if (!plain)
			(void)snprintf(code, sizeof(code), "%%%02X", (unsigned char)*value);
		if (!add(text, plain ? value : code, plain ? 1 : 3))
			return false;
	}
	return true;
}

/* Does an '@' follow before the part with user, password and host ends? Braces of further variables do not end it. */
static bool in_user_part(const char *rest)
{
	rest += strcspn(rest, "@/?#");
	return *rest == '@';
}

enum ks_status ks_endpoint_expand(const char *text, char *(*getenv_fn)(const char *name), char out[KS_ENDPOINT_MAX],
				  struct ks_err *err)
{
	struct text result = {.to = out};

	out[0] = '\0';
	while (*text) {
		const char *start = strstr(text, "${");
		size_t plain = start ? (size_t)(start - text) : strlen(text);
		char name[VARIABLE_MAX];
		size_t size;
		const char *value;

		if (!add(&result, text, plain))
			goto too_long;
		text += plain;
		if (!start)
			break;
		text += 2;
		size = strcspn(text, "}");
		if (text[size] != '}' || size == 0 || size >= sizeof(name))
			return ks_fail(err, KS_INVALID_ARGUMENT,
				       "endpoint: after \"${\" comes the name of a variable and \"}\"");
		memcpy(name, text, size);
		name[size] = '\0';
		text += size + 1;
		value = getenv_fn(name);
		if (!value)
			return ks_fail(err, KS_INVALID_ARGUMENT, "endpoint: the environment variable %s is not set",
				       name);
		if (in_user_part(text) ? !add_encoded(&result, value) : !add(&result, value, strlen(value)))
			goto too_long;
	}
	return KS_OK;

too_long:
	return ks_fail(err, KS_INVALID_ARGUMENT, "endpoint: more than %d bytes", KS_ENDPOINT_MAX - 1);
}

/* "?sslpassword=…" and the like. */
static bool has_secret_parameter(const char *text)
{
	for (text += strcspn(text, "?"); *text; text++) {
		size_t size, name = strchr("?&;", *text) ? ks_mask_parameter(text + 1, &size) : 0;

		if (name && size > 0 && strncmp(text + 1 + name, "${", 2) != 0)
			return true;
	}
	return false;
}

bool ks_endpoint_has_password(const char *text)
{
	const char *start = strstr(text, "://"), *colon;

	if (!start)
		return false;
	start += 3;
	colon = start + strcspn(start, ":@/?#");
	return (*colon == ':' && in_user_part(colon) && strncmp(colon, ":${", 3) != 0 && colon[1] != '@') ||
	       has_secret_parameter(start);
}

enum ks_status ks_endpoint_read(const char *path, char out[KS_ENDPOINT_MAX], struct ks_err *err)
{
	FILE *file = fopen(path, "re");
	enum ks_status status = KS_OK;
	size_t size, start;

	if (!file)
		return ks_fail(err, KS_INVALID_ARGUMENT, "endpoint-file: cannot read %s: %s", path,
			       strerrordesc_np(errno));
	errno = 0;
	size = fread(out, 1, KS_ENDPOINT_MAX, file);
	if (ferror(file)) {
		status = ks_fail(err, KS_INVALID_ARGUMENT, "endpoint-file: cannot read %s: %s", path,
				 strerrordesc_np(errno));
		goto out;
	}
	if (size == KS_ENDPOINT_MAX && !memchr(out, '\n', size)) {
		status = ks_fail(err, KS_INVALID_ARGUMENT, "endpoint-file: the first line of %s has more than %d bytes",
				 path, KS_ENDPOINT_MAX - 1);
		goto out;
	}
	if (size == KS_ENDPOINT_MAX)
		size--;
	out[size] = '\0';
	out[strcspn(out, "\n")] = '\0';
	start = strspn(out, " \t\r");
	size = strlen(out + start);
	while (size > 0 && strchr(" \t\r", out[start + size - 1]))
		size--;
	memmove(out, out + start, size);
	out[size] = '\0';
	if (size == 0)
		status = ks_fail(err, KS_INVALID_ARGUMENT, "endpoint-file: the first line of %s is empty", path);

out:
	(void)fclose(file);
	return status;
}
