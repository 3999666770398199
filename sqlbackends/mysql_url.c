/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The URL of the MySQL and MariaDB backend, as kine's users know it and as anybody would write it:
 *
 *	mysql://user:password@tcp(host:3306)/database?tls=true
 *	mysql://user:password@host:3306/database
 *	mysql://user:password@unix(/run/mysqld/mysqld.sock)/database
 *
 * Nothing of it is ever quoted but the names of parameters, and those only once it is clear that what stands before the
 * question mark is not the beginning of a password.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/duration.h"
#include "base/panic.h"
#include "mysql_priv.h"
#include "url.h"

#define PART_MAX 1024 /* bytes of a host, a user, a path … */
#define DEFAULT_CONNECT_TIMEOUT_S 5

static enum ks_status bad_url(struct ks_err *err, const char *why)
{
	return ks_fail(
		err, KS_INVALID_ARGUMENT,
		"not a MySQL URL: %s: it should look like mysql://user:password@tcp(host:3306)/database?tls=true", why);
}

static enum ks_status bad_password(struct ks_err *err)
{
	return bad_url(err, "special characters in a user name or password are written %XX");
}

/* Decodes 'size' bytes; false when there is a bad escape or too much. */
static bool take_part(const char *text, size_t size, char **out)
{
	char raw[PART_MAX], decoded[PART_MAX];
	bool taken = size < sizeof(raw);

	if (taken) {
		memcpy(raw, text, size);
		raw[size] = '\0';
		taken = sqlb_url_decode(raw, decoded, sizeof(decoded));
		if (taken)
			*out = ks_xstrdup(decoded);
		explicit_bzero(raw, sizeof(raw));
		explicit_bzero(decoded, sizeof(decoded));
	}
	return taken;
}

static enum ks_status parse_userinfo(const char *text, size_t size, struct sqlb_db *db, struct ks_err *err)
{
	const char *colon = memchr(text, ':', size);
	size_t user_size = colon ? (size_t)(colon - text) : size;

	if (!take_part(text, user_size, &db->user))
		return bad_password(err);
	if (colon && !take_part(colon + 1, size - user_size - 1, &db->password))
		return bad_password(err);
	return KS_OK;
}

static bool parse_port(const char *text, size_t size, unsigned *port)
{
	unsigned value = 0;

	if (size == 0 || size > 5)
		return false;
	for (size_t i = 0; i < size; i++) {
		if (text[i] < '0' || text[i] > '9')
			return false;
		value = value * 10 + (unsigned)(text[i] - '0');
	}
	*port = value;
	return value >= 1 && value <= 65535;
}

/* "host", "host:port", "[::1]", "[::1]:port", ":port", or nothing. */
static enum ks_status parse_host(const char *text, size_t size, struct sqlb_db *db, struct ks_err *err)
{
	const char *end = text + size, *after;

	if (size > 0 && *text == '[') {
		after = memchr(text, ']', size);
		if (!after || !take_part(text + 1, (size_t)(after - text) - 1, &db->host))
			return bad_url(err, "the address in brackets has no end");
		after++;
	} else {
		after = memchr(text, ':', size);
		after = after ? after : end;
		if (after > text && !take_part(text, (size_t)(after - text), &db->host))
			return bad_url(err, "the host has a bad %XX");
	}
	if (after < end && (*after != ':' || !parse_port(after + 1, (size_t)(end - after) - 1, &db->port)))
		return bad_url(
			err,
			"the port is not a number (special characters in a password are written %XX, an IPv6 address "
			"stands in brackets)");
	return KS_OK;
}

/* What follows the credentials, up to the slash before the database. *rest: that slash. */
static enum ks_status parse_address(const char *text, const char *end, struct sqlb_db *db, const char **rest,
				    struct ks_err *err)
{
	const char *open = memchr(text, '(', (size_t)(end - text)), *close;
	size_t size;

	if (!open) {
		*rest = memchr(text, '/', (size_t)(end - text));
		if (!*rest)
			*rest = end;
		return parse_host(text, (size_t)(*rest - text), db, err);
	}
	close = memchr(open, ')', (size_t)(end - open));
	if (!close)
		return bad_url(err, "a bracket is not closed");
	size = (size_t)(close - open) - 1;
	*rest = close + 1;
	if (open - text == 3 && strncmp(text, "tcp", 3) == 0)
		return parse_host(open + 1, size, db, err);
	if (open - text == 4 && strncmp(text, "unix", 4) == 0) {
		if (size == 0 || !take_part(open + 1, size, &db->socket_path))
			return bad_url(err, "unix() needs the path of a socket");
		return KS_OK;
	}
	return bad_url(err, "the host stands in tcp(), a socket in unix()");
}

/* ---- parameters ---- */

static enum ks_status set_tls(struct sqlb_db *db, const char *value, struct ks_err *err)
{
	static const struct {
		const char *value;
		enum sqlb_my_tls tls;
	} known[] = {{"false", SQLB_MY_TLS_OFF},
		     {"true", SQLB_MY_TLS_VERIFIED},
		     {"skip-verify", SQLB_MY_TLS_UNVERIFIED},
		     {"preferred", SQLB_MY_TLS_PREFERRED}};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (strcmp(known[i].value, value) == 0) {
			db->tls = known[i].tls;
			return KS_OK;
		}
	return bad_url(err, "tls is true, false, skip-verify or preferred");
}

static enum ks_status set_timeout(struct sqlb_db *db, const char *value, struct ks_err *err)
{
	int64_t ns = 0;

	if (ks_duration_parse(value, &ns, NULL) != KS_OK || ns <= 0 || ns > 3600 * 1000 * KS_NS_PER_MS)
		return bad_url(err, "timeout is a duration like 5s, at most an hour");
	db->connect_timeout_s = (unsigned)((ns + 1000 * KS_NS_PER_MS - 1) / (1000 * KS_NS_PER_MS));
	return KS_OK;
}

static enum ks_status set_parameter(struct sqlb_db *db, const char *name, const char *value, bool *has_tls,
				    struct ks_err *err)
{
	const struct {
		const char *name;
		char **file;
	} files[] = {{"ssl-ca", &db->ca_file}, {"ssl-cert", &db->cert_file}, {"ssl-key", &db->key_file}};
	char text[120];

	if (strcmp(name, "tls") == 0) {
		*has_tls = true;
		return set_tls(db, value, err);
	}
	if (strcmp(name, "timeout") == 0)
		return set_timeout(db, value, err);
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		if (strcmp(name, files[i].name) == 0) {
			free(*files[i].file);
			*files[i].file = ks_xstrdup(value);
			return KS_OK;
		}
	snprintf(text, sizeof(text),
		 "there is no parameter \"%.40s\" (there are tls, ssl-ca, ssl-cert, ssl-key, timeout)", name);
	return bad_url(err, text);
}

static enum ks_status parse_parameters(const char *text, struct sqlb_db *db, struct ks_err *err)
{
	enum ks_status status = KS_OK;
	bool has_tls = false;

	if (strchr(text, '@'))
		return bad_password(err);
	while (*text && status == KS_OK) {
		size_t size = strcspn(text, "&"), name_size = strcspn(text, "=&");
		char *name = NULL, *value = NULL;

		if (!take_part(text, name_size, &name) ||
		    !take_part(text + name_size + (name_size < size), size - name_size - (name_size < size), &value))
			status = bad_url(err, "a parameter has a bad %XX");
		else
			status = set_parameter(db, name, value, &has_tls, err);
		free(name);
		free(value);
		text += size;
		text += *text == '&';
	}
	if (status != KS_OK)
		return status;
	if (!db->cert_file != !db->key_file)
		return bad_url(err, "ssl-cert and ssl-key go together");
	if (!has_tls && (db->ca_file || db->cert_file))
		db->tls = SQLB_MY_TLS_VERIFIED;
	if (db->tls == SQLB_MY_TLS_OFF && (db->ca_file || db->cert_file))
		return bad_url(err, "ssl-ca, ssl-cert and ssl-key mean nothing with tls=false");
	return KS_OK;
}

enum ks_status sqlb_my_parse_url(const char *url, struct sqlb_db *db, struct ks_err *err)
{
	const char *rest, *end, *at = NULL, *path = NULL;
	enum ks_status status = KS_OK;
	char scheme[24];

	db->port = 3306;
	db->connect_timeout_s = DEFAULT_CONNECT_TIMEOUT_S;
	if (!sqlb_url_scheme(url, scheme, sizeof(scheme), &rest))
		return bad_url(err, "it has no scheme");
	end = rest + strcspn(rest, "?");
	/* The last one: a password may have been written as it is. */
	for (const char *p = rest; p < end; p++)
		if (*p == '@')
			at = p;
	if (at)
		status = parse_userinfo(rest, (size_t)(at - rest), db, err);
	if (status == KS_OK)
		status = parse_address(at ? at + 1 : rest, end, db, &path, err);
	if (status != KS_OK)
		return status;
	if (path == end || *path != '/' || path + 1 == end)
		return bad_url(err, "it names no database");
	if (memchr(path + 1, '/', (size_t)(end - path) - 1) ||
	    !take_part(path + 1, (size_t)(end - path) - 1, &db->database))
		return bad_url(err, "the name of the database has a slash or a bad %XX");
	if (!db->host && !db->socket_path)
		db->host = ks_xstrdup("127.0.0.1");
	return parse_parameters(*end ? end + 1 : end, db, err);
}

void sqlb_my_free_db(struct sqlb_db *db)
{
	if (!db)
		return;
	if (db->password)
		explicit_bzero(db->password, strlen(db->password));
	free(db->host);
	free(db->socket_path);
	free(db->user);
	free(db->password);
	free(db->database);
	free(db->ca_file);
	free(db->cert_file);
	free(db->key_file);
	free(db);
}
