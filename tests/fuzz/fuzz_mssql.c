/* SPDX-License-Identifier: Apache-2.0 */
/*
 * URLs of SQL Server, and what becomes of them. Promises beside memory safety: whatever a URL says, the connection string has
 * exactly the keywords that we put there, as each driver's own rules read it.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/panic.h"
#include "sqlbackends/mssql_priv.h"
#include "sqlbackends/sqlb.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const keywords[] = {"DRIVER",
				       "DATABASE",
				       "UID",
				       "PWD",
				       "APP",
				       "SERVER",
				       "SERVERNAME",
				       "PORT",
				       "TDS_Version",
				       "ClientCharset",
				       "Encryption",
				       "Encrypt",
				       "TrustServerCertificate",
				       "HostNameInCertificate",
				       "ServerCertificate",
				       "MultiSubnetFailover",
				       "ConnectRetryCount"};

static void check_keyword(const char *text, size_t size, bool seen[])
{
	for (size_t i = 0; i < sizeof(keywords) / sizeof(keywords[0]); i++)
		if (strlen(keywords[i]) == size && strncasecmp(keywords[i], text, size) == 0) {
			KS_ASSERT(!seen[i]);
			seen[i] = true;
			return;
		}
	KS_ASSERT(false);
}

/* The end of the value at 'text'. FreeTDS ends a braced one at "};", the others at a brace that is not doubled. */
static const char *value_end(const char *text, bool freetds, bool *matches, const char *wanted)
{
	char plain[SQLB_MS_CONNECTION_MAX];
	size_t used = 0;

	if (*text != '{') {
		used = strcspn(text, ";");
		memcpy(plain, text, used);
		text += used;
	} else if (freetds) {
		for (text++; *text && !(text[0] == '}' && text[1] == ';'); text++)
			plain[used++] = *text;
		text += *text == '}';
	} else {
		for (text++; *text && !(text[0] == '}' && text[1] != '}'); text++) {
			plain[used++] = *text;
			text += *text == '}';
		}
		text += *text == '}';
	}
	plain[used] = '\0';
	*matches = strcmp(plain, wanted) == 0;
	return text;
}

static void check_string(const struct sqlb_ms_url *url, const char *driver)
{
	bool seen[sizeof(keywords) / sizeof(keywords[0])] = {false};
	bool freetds = sqlb_ms_driver_kind(driver) == SQLB_MS_FREETDS;
	char out[SQLB_MS_CONNECTION_MAX];
	unsigned found = 0;

	if (sqlb_ms_connection_string(url, driver, out, NULL) != KS_OK) {
		KS_ASSERT(*out == '\0');
		return;
	}
	for (const char *at = out; *at; at++) {
		size_t size = strcspn(at, "=");
		bool matches;

		check_keyword(at, size, seen);
		if (strncmp(at, "PWD=", 4) == 0) {
			at = value_end(at + 4, freetds, &matches, url->password);
			KS_ASSERT(matches);
			found++;
		} else if (strncmp(at, "UID=", 4) == 0) {
			at = value_end(at + 4, freetds, &matches, url->user);
			KS_ASSERT(matches);
			found++;
		} else if (strncmp(at, "DATABASE=", 9) == 0) {
			at = value_end(at + 9, freetds, &matches, url->database);
			KS_ASSERT(matches);
			found++;
		} else {
			at = value_end(at + size + 1, freetds, &matches, "");
		}
		KS_ASSERT(*at == ';');
	}
	KS_ASSERT(found == 3);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = ks_xcalloc(1, size + 1);
	struct sqlb_ms_url url;

	memcpy(text, data, size);
	if (sqlb_ms_parse_url(text, &url, NULL) == KS_OK) {
		check_string(&url, "FreeTDS");
		check_string(&url, "ODBC Driver 18 for SQL Server");
		if (*url.driver)
			check_string(&url, url.driver);
	}
	free(text);
	return 0;
}
