/* SPDX-License-Identifier: Apache-2.0 */
/* See secret.h. */
#include "fallback/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void dpa_secret_drop(char **secret)
{
	if (*secret)
		explicit_bzero(*secret, strlen(*secret));
	free(*secret);
	*secret = NULL;
}

void dpa_secret_fini(struct ks_buf *buf)
{
	if (buf->data)
		explicit_bzero(buf->data, buf->size);
	ks_buf_fini(buf);
}

bool dpa_secret_clean(const char *text)
{
	for (; text && *text; text++)
		if (*text <= ' ' || *text > '~')
			return false;
	return true;
}

char *dpa_secret_read(const char *path, struct ks_err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *text = fd >= 0 ? malloc(DPA_SECRET_FILE_MAX) : NULL;
	ssize_t size = text ? read(fd, text, DPA_SECRET_FILE_MAX - 1) : -1;

	if (size <= 0)
		(void)ks_fail(err, KS_UNAUTHENTICATED, "%s: %s", path, size == 0 ? "empty" : strerror(errno));
	if (fd >= 0)
		(void)close(fd);
	if (size <= 0) {
		free(text);
		return NULL;
	}
	text[size] = '\0';
	text[strcspn(text, "\r\n")] = '\0';
	return text;
}
