/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mssql://user:password@host:1433/database?encrypt=yes&… and what becomes of it: the connection string of an ODBC driver.
 *
 * Nothing that a URL says can add a keyword of its own to that string. The two drivers quote differently: Microsoft's
 * takes {…} with } doubled inside. FreeTDS' (before 1.4.11) does not undouble, and ends a braced value at the first "};", so
 * it gets values as they are wherever a value without braces can be told from what follows, and those that no form carries
 * are refused.
 *
 * TLS is the default, and so is that the server's certificate is checked. FreeTDS' driver reads what to check it
 * with from a section of freetds.conf and from nowhere else: without one it would check nothing, and that must be asked
 * for.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "mssql_priv.h"
#include "url.h"

static enum ks_status bad_url(struct ks_err *err, const char *why)
{
	return ks_fail(err, KS_INVALID_ARGUMENT,
		       "not an SQL Server URL: %s: it should look like "
		       "mssql://user:password@host:1433/database?encrypt=yes",
		       why);
}

/* ---- parsing ---- */

/* A piece of the URL, decoded. False: too long, a bad escape, or a control character. */
static bool take_text(const char *from, size_t size, char *out, size_t out_size)
{
	char piece[1024];

	if (size >= sizeof(piece))
		return false;
	memcpy(piece, from, size);
	piece[size] = '\0';
	if (!sqlb_url_decode(piece, out, out_size))
		return false;
	for (const char *p = out; *p; p++)
		if (iscntrl((unsigned char)*p))
			return false;
	return true;
}

static bool take_port(const char *from, size_t size, unsigned *port)
{
	unsigned value = 0;

	if (size == 0 || size > 5)
		return false;
	for (size_t i = 0; i < size; i++) {
		if (!isdigit((unsigned char)from[i]))
			return false;
		value = value * 10 + (unsigned)(from[i] - '0');
	}
	*port = value;
	return value > 0 && value < 65536;
}

/* A name or an address: no character that a driver would take for the end of it, for a port or an instance. */
static bool is_host(const char *host, bool address)
{
	for (; *host; host++)
		if (!isalnum((unsigned char)*host) && !strchr(address ? ":.%" : ".-_", *host))
			return false;
	return true;
}

static enum ks_status parse_host(const char *from, size_t size, struct sqlb_ms_url *url, struct ks_err *err)
{
	bool address = size > 0 && *from == '[';
	const char *end = from + size;
	const char *host_end = memchr(from, address ? ']' : ':', size);

	if (address && !host_end)
		return bad_url(err, "the address has no ]");
	if (!host_end)
		host_end = end;
	from += address;
	if (!take_text(from, (size_t)(host_end - from), url->host, sizeof(url->host)) || !is_host(url->host, address))
		return bad_url(err, "the host is no name or address");
	host_end += address;
	if (host_end == end)
		return KS_OK;
	if (*host_end != ':' || !take_port(host_end + 1, (size_t)(end - host_end - 1), &url->port))
		return bad_url(err, "the port is not a number (special characters in a password are written %XX)");
	return KS_OK;
}

static enum ks_status parse_user(const char *from, size_t size, struct sqlb_ms_url *url, struct ks_err *err)
{
	const char *colon = memchr(from, ':', size);
	size_t user_size = colon ? (size_t)(colon - from) : size;

	if (!take_text(from, user_size, url->user, sizeof(url->user)))
		return bad_url(err, "the user is too long or has a bad %XX");
	if (colon && !take_text(colon + 1, size - user_size - 1, url->password, sizeof(url->password)))
		return bad_url(err, "the password is too long or has a bad %XX");
	return KS_OK;
}

/* ---- parameters ---- */

static bool yes_or_no(const char *value, bool *out)
{
	*out = strcasecmp(value, "yes") == 0 || strcasecmp(value, "true") == 0;
	return *out || strcasecmp(value, "no") == 0 || strcasecmp(value, "false") == 0;
}

static bool encryption(const char *value, enum sqlb_ms_encrypt *out)
{
	bool yes;

	if (strcasecmp(value, "strict") == 0)
		*out = SQLB_MS_ENCRYPT_STRICT;
	else if (strcasecmp(value, "mandatory") == 0)
		*out = SQLB_MS_ENCRYPT_YES;
	else if (strcasecmp(value, "optional") == 0)
		*out = SQLB_MS_ENCRYPT_NO;
	else if (yes_or_no(value, &yes))
		*out = yes ? SQLB_MS_ENCRYPT_YES : SQLB_MS_ENCRYPT_NO;
	else
		return false;
	return true;
}

static bool copy_text(const char *value, char *out, size_t out_size)
{
	return *value && (size_t)snprintf(out, out_size, "%s", value) < out_size;
}

enum parameter {
	P_DRIVER,
	P_ENCRYPT,
	P_TRUST,
	P_CERTIFICATE_HOST,
	P_CERTIFICATE_FILE,
	P_SERVERNAME,
	P_MULTI_SUBNET,
	P_APPLICATION,
	PARAMETERS,
};

static const char *const parameter_names[PARAMETERS] = {
	[P_DRIVER] = "driver",
	[P_ENCRYPT] = "encrypt",
	[P_TRUST] = "trustservercertificate",
	[P_CERTIFICATE_HOST] = "hostnameincertificate",
	[P_CERTIFICATE_FILE] = "servercertificate",
	[P_SERVERNAME] = "servername",
	[P_MULTI_SUBNET] = "multisubnetfailover",
	[P_APPLICATION] = "applicationname",
};

static bool set_parameter(struct sqlb_ms_url *url, enum parameter which, const char *value)
{
	switch (which) {
	case P_DRIVER:
		return copy_text(value, url->driver, sizeof(url->driver));
	case P_ENCRYPT:
		return encryption(value, &url->encrypt);
	case P_TRUST:
		return yes_or_no(value, &url->trust_certificate);
	case P_CERTIFICATE_HOST:
		return copy_text(value, url->certificate_host, sizeof(url->certificate_host));
	case P_CERTIFICATE_FILE:
		return copy_text(value, url->certificate_file, sizeof(url->certificate_file));
	case P_SERVERNAME:
		return copy_text(value, url->servername, sizeof(url->servername));
	case P_MULTI_SUBNET:
		return yes_or_no(value, &url->multi_subnet);
	case P_APPLICATION:
		return copy_text(value, url->application, sizeof(url->application));
	case PARAMETERS:
		break;
	}
	return false;
}

/* A name may be said again in an error only when it cannot be a piece of a password that was not encoded. */
static bool is_name(const char *name)
{
	size_t size = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_");

	return size > 0 && name[size] == '\0';
}

static enum ks_status parse_parameter(const char *from, size_t size, struct sqlb_ms_url *url, bool seen[PARAMETERS],
				      struct ks_err *err)
{
	const char *equals = memchr(from, '=', size);
	char name[32], value[257], why[300];

	if (!equals || !take_text(from, (size_t)(equals - from), name, sizeof(name)) ||
	    !take_text(equals + 1, size - (size_t)(equals - from) - 1, value, sizeof(value)) || !is_name(name))
		return bad_url(err, "a parameter is not name=value");
	for (int i = 0; i < PARAMETERS; i++) {
		if (strcasecmp(name, parameter_names[i]) != 0)
			continue;
		snprintf(why, sizeof(why), "the parameter \"%s\" is there twice", name);
		if (seen[i])
			return bad_url(err, why);
		seen[i] = true;
		snprintf(why, sizeof(why), "the parameter \"%s\" has a value that it cannot have", name);
		return set_parameter(url, (enum parameter)i, value) ? KS_OK : bad_url(err, why);
	}
	snprintf(why, sizeof(why), "unknown parameter \"%s\"", name);
	return bad_url(err, why);
}

static enum ks_status parse_parameters(const char *query, struct sqlb_ms_url *url, struct ks_err *err)
{
	bool seen[PARAMETERS] = {false};

	while (*query) {
		size_t size = strcspn(query, "&");

		if (size > 0) {
			enum ks_status status = parse_parameter(query, size, url, seen, err);

			if (status != KS_OK)
				return status;
		}
		query += size + (query[size] == '&');
	}
	return KS_OK;
}

enum ks_status sqlb_ms_parse_url(const char *url, struct sqlb_ms_url *parsed, struct ks_err *err)
{
	enum ks_status status = KS_OK;
	const char *rest, *end, *path, *at = NULL;
	char scheme[24];

	*parsed = (struct sqlb_ms_url){.port = 1433, .encrypt = SQLB_MS_ENCRYPT_YES, .application = "kineshim"};
	if (!sqlb_url_scheme(url, scheme, sizeof(scheme), &rest) || rest[-1] != '/' ||
	    (strcmp(scheme, "mssql") != 0 && strcmp(scheme, "sqlserver") != 0))
		return bad_url(err, "it does not begin with mssql://");
	end = rest + strcspn(rest, "/");
	for (const char *p = rest; p < end; p++)
		if (*p == '@')
			at = p;
	if (strchr(end, '@'))
		return bad_url(err, "there is an @ behind the host (special characters are written %XX)");
	if (at)
		status = parse_user(rest, (size_t)(at - rest), parsed, err);
	if (at)
		rest = at + 1;
	if (status == KS_OK)
		status = parse_host(rest, (size_t)(end - rest), parsed, err);
	if (status != KS_OK)
		return status;
	path = *end ? end + 1 : end;
	end = path + strcspn(path, "?");
	if (!take_text(path, (size_t)(end - path), parsed->database, sizeof(parsed->database)) ||
	    strchr(parsed->database, '/') || !*parsed->database)
		return bad_url(err, "it names no database");
	status = parse_parameters(*end ? end + 1 : end, parsed, err);
	if (status != KS_OK)
		return status;
	if (!*parsed->user)
		return bad_url(err, "it names no user");
	if (!*parsed->host && !*parsed->servername)
		return bad_url(err, "it names no host");
	return KS_OK;
}

/* ---- drivers ---- */

static bool contains(const char *text, const char *word)
{
	for (; *text; text++)
		if (strncasecmp(text, word, strlen(word)) == 0)
			return true;
	return false;
}

enum sqlb_ms_driver sqlb_ms_driver_kind(const char *driver)
{
	return contains(driver, "tds") ? SQLB_MS_FREETDS : SQLB_MS_MICROSOFT;
}

/* 18 of "ODBC Driver 18 for SQL Server", 1 of FreeTDS, 0 of others. */
static int driver_rank(const char *name)
{
	static const char prefix[] = "ODBC Driver ";
	char *end;
	long version;

	if (strcasecmp(name, "FreeTDS") == 0)
		return 1;
	if (strncmp(name, prefix, sizeof(prefix) - 1) != 0)
		return 0;
	version = strtol(name + sizeof(prefix) - 1, &end, 10);
	return strcmp(end, " for SQL Server") == 0 && version > 1 && version < 1000 ? (int)version : 0;
}

enum ks_status sqlb_ms_find_driver(char *out, size_t out_size, struct ks_err *err)
{
	SQLUSMALLINT direction = SQL_FETCH_FIRST;
	SQLHENV env = NULL;
	int best = 0;

	*out = '\0';
	if (SQLAllocHandle(SQL_HANDLE_ENV, SQL_NULL_HANDLE, &env) != SQL_SUCCESS)
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "the ODBC driver manager is out of memory");
	/* NOLINTNEXTLINE(performance-no-int-to-ptr): this is how ODBC passes numbers */
	if (SQLSetEnvAttr(env, SQL_ATTR_ODBC_VERSION, (SQLPOINTER)SQL_OV_ODBC3, 0) == SQL_SUCCESS)
		for (;;) {
			char name[257], attributes[257];
			SQLSMALLINT name_size, attributes_size;
			SQLRETURN result = SQLDrivers(env, direction, (SQLCHAR *)name, sizeof(name), &name_size,
						      (SQLCHAR *)attributes, sizeof(attributes), &attributes_size);

			if (!SQL_SUCCEEDED(result))
				break;
			direction = SQL_FETCH_NEXT;
			if (driver_rank(name) <= best || (size_t)snprintf(out, out_size, "%s", name) >= out_size)
				continue;
			best = driver_rank(name);
		}
	SQLFreeHandle(SQL_HANDLE_ENV, env);
	if (best > 0)
		return KS_OK;
	return ks_fail(err, KS_FAILED_PRECONDITION,
		       "no ODBC driver for SQL Server is installed (Debian: tdsodbc; or Microsoft's msodbcsql18); one "
		       "that is in no odbcinst.ini can be named by its path: driver=/usr/lib/…/libtdsodbc.so");
}

/* ---- the connection string ---- */

/* Where 'failed' is set the rest is left out, and said what for. */
struct writer {
	enum sqlb_ms_driver driver;
	char *out;
	size_t used;
	const char *failed;
};

static void put(struct writer *writer, const char *text, size_t size)
{
	if (writer->used + size >= SQLB_MS_CONNECTION_MAX) {
		writer->failed = "it is too long for an ODBC driver";
		return;
	}
	memcpy(writer->out + writer->used, text, size);
	writer->used += size;
	writer->out[writer->used] = '\0';
}

static void put_text(struct writer *writer, const char *text)
{
	put(writer, text, strlen(text));
}

/* FreeTDS takes a value without braces up to the next semicolon, whatever else is in it; unixODBC reads it the same way. */
static bool goes_bare(const char *value)
{
	return *value != '{' && *value != ' ' && !strchr(value, ';');
}

static void put_value(struct writer *writer, const char *value)
{
	if (writer->driver == SQLB_MS_FREETDS && goes_bare(value)) {
		put_text(writer, value);
		return;
	}
	if (writer->driver == SQLB_MS_FREETDS && strchr(value, '}')) {
		writer->failed =
			"FreeTDS' driver takes no value that has a } and also a ; or a { or blank at its beginning";
		return;
	}
	put_text(writer, "{");
	for (; *value; value++) {
		put(writer, value, 1);
		if (*value == '}')
			put(writer, value, 1);
	}
	put_text(writer, "}");
}

static void put_pair(struct writer *writer, const char *keyword, const char *value)
{
	put_text(writer, keyword);
	put_text(writer, "=");
	put_value(writer, value);
	put_text(writer, ";");
}

static void put_microsoft(struct writer *writer, const struct sqlb_ms_url *url)
{
	static const char *const encrypt[] = {"no", "yes", "strict"};
	char server[300];

	snprintf(server, sizeof(server), "tcp:%s,%u", url->host, url->port);
	put_pair(writer, "SERVER", server);
	put_pair(writer, "Encrypt", encrypt[url->encrypt]);
	put_pair(writer, "TrustServerCertificate", url->trust_certificate ? "yes" : "no");
	if (*url->certificate_host)
		put_pair(writer, "HostNameInCertificate", url->certificate_host);
	if (*url->certificate_file)
		put_pair(writer, "ServerCertificate", url->certificate_file);
	if (url->multi_subnet)
		put_pair(writer, "MultiSubnetFailover", "yes");
	/* We reconnect ourselves, and must know of it. */
	put_pair(writer, "ConnectRetryCount", "0");
}

static void put_freetds(struct writer *writer, const struct sqlb_ms_url *url)
{
	char port[12];

	if (*url->servername) {
		put_pair(writer, "SERVERNAME", url->servername);
	} else {
		snprintf(port, sizeof(port), "%u", url->port);
		put_pair(writer, "SERVER", url->host);
		put_pair(writer, "PORT", port);
	}
	put_pair(writer, "TDS_Version", "7.4");
	put_pair(writer, "ClientCharset", "UTF-8");
	/* "request" still encrypts the login where the server can. */
	put_pair(writer, "Encryption", url->encrypt == SQLB_MS_ENCRYPT_NO ? "request" : "require");
}

static const char *freetds_lacks(const struct sqlb_ms_url *url)
{
	if (url->encrypt == SQLB_MS_ENCRYPT_STRICT)
		return "FreeTDS' driver knows no encrypt=strict";
	if (*url->certificate_host || *url->certificate_file || url->multi_subnet)
		return "hostnameincertificate, servercertificate and multisubnetfailover are for Microsoft's driver";
	if (url->encrypt == SQLB_MS_ENCRYPT_YES && !url->trust_certificate && !*url->servername)
		return "FreeTDS' driver checks the server's certificate only with a \"ca file\" of freetds.conf: name "
		       "its "
		       "section (servername=…), or say trustservercertificate=yes";
	return NULL;
}

enum ks_status sqlb_ms_connection_string(const struct sqlb_ms_url *url, const char *driver,
					 char out[SQLB_MS_CONNECTION_MAX], struct ks_err *err)
{
	struct writer writer = {.driver = sqlb_ms_driver_kind(driver), .out = out};

	*out = '\0';
	/* The driver manager reads this one; no name of a driver has one of these. */
	if (strpbrk(driver, "{};"))
		return bad_url(err, "a driver's name has no { } or ;");
	put_text(&writer, "DRIVER={");
	put_text(&writer, driver);
	put_text(&writer, "};");
	put_pair(&writer, "DATABASE", url->database);
	put_pair(&writer, "UID", url->user);
	put_pair(&writer, "PWD", url->password);
	put_pair(&writer, "APP", url->application);
	if (writer.driver == SQLB_MS_FREETDS) {
		const char *lacks = freetds_lacks(url);

		if (lacks)
			writer.failed = lacks;
		put_freetds(&writer, url);
	} else {
		if (*url->servername)
			writer.failed = "servername is for FreeTDS' driver";
		put_microsoft(&writer, url);
	}
	if (!writer.failed)
		return KS_OK;
	explicit_bzero(out, SQLB_MS_CONNECTION_MAX);
	return ks_fail(err, KS_INVALID_ARGUMENT, "SQL Server URL: %s", writer.failed);
}
