/* SPDX-License-Identifier: Apache-2.0 */
/* Filling struct ks_err, and the names of gRPC's status codes. */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mask.h"

#define FORMATTED_MAX 1024

enum ks_status ks_fail(struct ks_err *err, enum ks_status status, const char *fmt, ...)
{
	char text[FORMATTED_MAX];
	size_t size;
	int wanted;
	va_list args;

	if (!err)
		return status;
	/* Formatted apart, because an argument may well be err->text itself ("while opening: %s"). */
	va_start(args, fmt);
	wanted = vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (wanted < 0)
		text[0] = '\0';
	/* Before it is cut: without its end a password may not look like one. */
	ks_mask(text, wanted >= (int)sizeof(text));
	size = strnlen(text, sizeof(err->text) - 1);
	err->status = status;
	memcpy(err->text, text, size);
	err->text[size] = '\0';
	return status;
}

const char *ks_status_name(enum ks_status status)
{
	switch (status) {
	case KS_OK:
		return "OK";
	case KS_CANCELLED:
		return "CANCELLED";
	case KS_UNKNOWN:
		return "UNKNOWN";
	case KS_INVALID_ARGUMENT:
		return "INVALID_ARGUMENT";
	case KS_DEADLINE_EXCEEDED:
		return "DEADLINE_EXCEEDED";
	case KS_NOT_FOUND:
		return "NOT_FOUND";
	case KS_ALREADY_EXISTS:
		return "ALREADY_EXISTS";
	case KS_PERMISSION_DENIED:
		return "PERMISSION_DENIED";
	case KS_RESOURCE_EXHAUSTED:
		return "RESOURCE_EXHAUSTED";
	case KS_FAILED_PRECONDITION:
		return "FAILED_PRECONDITION";
	case KS_ABORTED:
		return "ABORTED";
	case KS_OUT_OF_RANGE:
		return "OUT_OF_RANGE";
	case KS_UNIMPLEMENTED:
		return "UNIMPLEMENTED";
	case KS_INTERNAL:
		return "INTERNAL";
	case KS_UNAVAILABLE:
		return "UNAVAILABLE";
	case KS_DATA_LOSS:
		return "DATA_LOSS";
	case KS_UNAUTHENTICATED:
		return "UNAUTHENTICATED";
	}
	return "UNKNOWN"; /* a number that came over the wire */
}
