/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kineshim pki init|server|client|revoke: an internal CA in a folder, so that mutual TLS takes three commands.
 *
 * The folder holds ca.pem and ca.key, for each name NAME.pem and NAME.key, and crl.pem once something was revoked. Keys have mode
 * 0600. Nothing is overwritten but the revocation list, which is replaced as a whole.
 */
#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/panic.h"
#include "net/x509.h"
#include "option_values.h"
#include "tools/tools.h"

#define DAY_S ((int64_t)86400)
#define CA_DAYS 3650
#define LEAF_DAYS 365
#define CRL_DAYS 3650
#define MAX_DAYS 36500
#define NAME_MAX_BYTES 64 /* of a common name: RFC 5280 */
#define HOSTS_MAX 8192
#define USAGE 2

struct pki {
	const char *dir, *name;
	int64_t days;
	char **arguments; /* hosts, or a name and hosts */
	int argument_count;
	X509 *ca;
	EVP_PKEY *ca_key;
};

static const char usage[] =
	"Usage: kineshim pki init                [--dir=FOLDER] [--days=N] [--name=\"COMMON NAME\"]\n"
	"       kineshim pki server HOST…        [--dir=FOLDER] [--days=N] [--name=server]\n"
	"       kineshim pki client NAME [HOST…] [--dir=FOLDER] [--days=N]\n"
	"       kineshim pki revoke NAME         [--dir=FOLDER]\n"
	"\n"
	"An internal certificate authority (CA) for TLS between servers and clients.\n"
	"  init    makes the CA: ca.pem, which everybody may have, and ca.key, which nobody else may see\n"
	"  server  makes server.pem and server.key for these host names and IP addresses\n"
	"  client  makes NAME.pem and NAME.key; NAME is the user that --client-cert-auth sees\n"
	"  revoke  puts the certificate NAME.pem on the list crl.pem, for --client-crl-file\n"
	"\n"
	"  --dir=FOLDER  where all of this lies [pki]\n"
	"  --days=N      how long it is valid [init: 3650, others: 365]; never longer than the CA\n"
	"  --name=NAME   init: what the CA is called [kineshim CA]; server: what its files are called [server]\n"
	"\n"
	"Keys are EC P-256. Existing files are never overwritten. A server with them:\n"
	"  kineshim --listen-client-urls=https://0.0.0.0:2379 --cert-file=pki/server.pem --key-file=pki/server.key \\\n"
	"           --trusted-ca-file=pki/ca.pem --client-cert-auth\n";

static int complain(const struct ks_err *err)
{
	(void)fprintf(stderr, "kineshim pki: %s\n", err->text);
	return err->status == KS_INVALID_ARGUMENT ? USAGE : EXIT_FAILURE;
}

/* ---- the command line ---- */

static enum ks_status parse_flag(struct pki *pki, const char *argument, struct ks_err *err)
{
	const char *flag = argument + (argument[1] == '-' ? 2 : 1), *value = strchr(flag, '=');

	if (value && strncmp(flag, "dir=", 4) == 0 && value[1])
		pki->dir = value + 1;
	else if (value && strncmp(flag, "name=", 5) == 0 && value[1])
		pki->name = value + 1;
	else if (value && strncmp(flag, "days=", 5) == 0 && ks_parse_number(value + 1, &pki->days) && pki->days > 0 &&
		 pki->days <= MAX_DAYS)
		return KS_OK;
	else
		return ks_fail(err, KS_INVALID_ARGUMENT, "cannot understand \"%.80s\"; see kineshim pki --help",
			       argument);
	return KS_OK;
}

/* Flags may stand anywhere; what is left are the arguments. */
static enum ks_status parse(struct pki *pki, int argc, char *argv[], struct ks_err *err)
{
	enum ks_status status = KS_OK;

	pki->arguments = argv;
	for (int i = 0; i < argc && status == KS_OK; i++) {
		if (argv[i][0] == '-')
			status = parse_flag(pki, argv[i], err);
		else
			pki->arguments[pki->argument_count++] = argv[i];
	}
	return status;
}

static bool asks_for_help(int argc, char *argv[])
{
	for (int i = 1; i < argc; i++)
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-help") == 0 || strcmp(argv[i], "-h") == 0)
			return true;
	return false;
}

/* ---- files ---- */

static enum ks_status file_of(const struct pki *pki, const char *name, const char *suffix, char path[4096],
			      struct ks_err *err)
{
	int size = snprintf(path, 4096, "%s/%s%s", pki->dir, name, suffix);

	return size < 4096 ? KS_OK : ks_fail(err, KS_INVALID_ARGUMENT, "the folder's name is too long");
}

/* It becomes a file's name and a user's. */
static enum ks_status check_name(const char *name, struct ks_err *err)
{
	size_t size = strlen(name);
	bool fine = size > 0 && size <= NAME_MAX_BYTES && *name != '.' && strcmp(name, "ca") != 0 &&
		    strcmp(name, "crl") != 0;

	for (size_t i = 0; i < size && fine; i++)
		fine = (name[i] >= 'a' && name[i] <= 'z') || (name[i] >= 'A' && name[i] <= 'Z') ||
		       (name[i] >= '0' && name[i] <= '9') || strchr("._@-", name[i]);
	if (fine)
		return KS_OK;
	return ks_fail(err, KS_INVALID_ARGUMENT,
		       "\"%.80s\" cannot be a name: letters, digits and . _ @ - (at most %d), and not ca or crl", name,
		       NAME_MAX_BYTES);
}

static enum ks_status write_pair(const struct pki *pki, const char *name, EVP_PKEY *key, X509 *cert, struct ks_err *err)
{
	char key_path[4096], cert_path[4096];
	enum ks_status status = file_of(pki, name, ".key", key_path, err);

	if (status == KS_OK)
		status = file_of(pki, name, ".pem", cert_path, err);
	if (status == KS_OK && access(cert_path, F_OK) == 0)
		status = ks_fail(err, KS_ALREADY_EXISTS, "%.200s is there already, and is not overwritten", cert_path);
	if (status == KS_OK && access(key_path, F_OK) == 0)
		status = ks_fail(err, KS_ALREADY_EXISTS, "%.200s is there already, and is not overwritten", key_path);
	if (status == KS_OK)
		status = ks_x509_write_key(key_path, key, err);
	if (status != KS_OK)
		return status;
	status = ks_x509_write_cert(cert_path, cert, err);
	if (status != KS_OK)
		(void)unlink(key_path);
	else
		(void)printf("%s\n%s\n", cert_path, key_path);
	return status;
}

static enum ks_status load_ca(struct pki *pki, struct ks_err *err)
{
	char path[4096];
	enum ks_status status = file_of(pki, "ca", ".pem", path, err);

	if (status == KS_OK && access(path, F_OK) < 0)
		return ks_fail(err, KS_NOT_FOUND, "there is no CA in %.150s; make one with kineshim pki init",
			       pki->dir);
	if (status == KS_OK)
		pki->ca = ks_x509_read_cert(path, err);
	if (status == KS_OK && pki->ca)
		status = file_of(pki, "ca", ".key", path, err);
	if (status == KS_OK && pki->ca)
		pki->ca_key = ks_x509_read_key(path, err);
	if (status != KS_OK || !pki->ca_key)
		return err->status;
	if (X509_check_private_key(pki->ca, pki->ca_key) != 1 || X509_check_ca(pki->ca) == 0)
		return ks_fail(err, KS_FAILED_PRECONDITION, "ca.pem and ca.key in %.150s do not belong together",
			       pki->dir);
	if (ks_x509_not_after(pki->ca) <= (int64_t)time(NULL))
		return ks_fail(err, KS_FAILED_PRECONDITION, "the CA in %.150s is no longer valid", pki->dir);
	return KS_OK;
}

static enum ks_status issue(struct pki *pki, const char *file, const struct ks_x509_request *request,
			    struct ks_err *err)
{
	EVP_PKEY *key = ks_x509_new_key(err);
	X509 *cert = key ? ks_x509_issue(request, key, pki->ca, pki->ca_key, err) : NULL;
	enum ks_status status = cert ? write_pair(pki, file, key, cert, err) : err->status;

	X509_free(cert);
	EVP_PKEY_free(key);
	return status;
}

/* ---- init, server, client ---- */

static enum ks_status init(struct pki *pki, struct ks_err *err)
{
	const struct ks_x509_request request = {
		.common_name = pki->name ? pki->name : "kineshim CA",
		.hosts = "",
		.ca = true,
		.seconds = (pki->days ? pki->days : CA_DAYS) * DAY_S,
	};

	if (pki->argument_count > 0)
		return ks_fail(err, KS_INVALID_ARGUMENT, "init takes no \"%.80s\"", pki->arguments[0]);
	if (mkdir(pki->dir, 0700) < 0 && errno != EEXIST)
		return ks_fail(err, KS_UNAVAILABLE, "cannot make the folder %.150s: %s", pki->dir,
			       strerrordesc_np(errno));
	return issue(pki, "ca", &request, err);
}

/* Comma separated, from the first-th argument on; free it. */
static char *hosts_of(const struct pki *pki, int first, struct ks_err *err)
{
	struct ks_buf hosts;
	size_t size;

	ks_buf_init(&hosts, HOSTS_MAX);
	for (int i = first; i < pki->argument_count; i++)
		ks_buf_printf(&hosts, "%s%s", hosts.size ? "," : "", pki->arguments[i]);
	ks_buf_append(&hosts, "", 1);
	if (hosts.failed) {
		(void)ks_fail(err, KS_INVALID_ARGUMENT, "too many hosts");
		ks_buf_fini(&hosts);
		return NULL;
	}
	return (char *)ks_buf_take(&hosts, &size);
}

static enum ks_status leaf(struct pki *pki, bool server, struct ks_err *err)
{
	const char *file = server ? pki->name ? pki->name : "server" : pki->arguments[0];
	/* A host's name may be longer than a common name; it stands among the alternative names anyway. */
	const char *common_name = server && strlen(pki->arguments[0]) <= NAME_MAX_BYTES ? pki->arguments[0] : file;
	char *hosts = hosts_of(pki, server ? 0 : 1, err);
	struct ks_x509_request request = {
		.common_name = common_name,
		.hosts = hosts,
		.server = server,
		.client = !server,
		.seconds = (pki->days ? pki->days : LEAF_DAYS) * DAY_S,
	};
	enum ks_status status = hosts ? check_name(file, err) : err->status;

	if (status == KS_OK)
		status = load_ca(pki, err);
	if (status == KS_OK)
		status = issue(pki, file, &request, err);
	free(hosts);
	return status;
}

static enum ks_status server(struct pki *pki, struct ks_err *err)
{
	if (pki->argument_count == 0)
		return ks_fail(err, KS_INVALID_ARGUMENT, "name the hosts by which clients call the server");
	return leaf(pki, true, err);
}

static enum ks_status client(struct pki *pki, struct ks_err *err)
{
	if (pki->argument_count == 0 || pki->name)
		return ks_fail(err, KS_INVALID_ARGUMENT, "name the client: kineshim pki client NAME");
	return leaf(pki, false, err);
}

/* ---- revoke ---- */

static X509_CRL *read_list(const char *path, struct ks_err *err)
{
	FILE *file = fopen(path, "re");
	X509_CRL *list;

	if (!file && errno == ENOENT) {
		list = X509_CRL_new();
		if (list)
			return list;
	}
	list = file ? PEM_read_X509_CRL(file, NULL, NULL, NULL) : NULL;
	if (file)
		(void)fclose(file);
	if (!list)
		(void)ks_fail(err, KS_FAILED_PRECONDITION, "cannot read the list %.150s", path);
	return list;
}

static bool add_revoked(X509_CRL *list, X509 *cert)
{
	X509_REVOKED *revoked = X509_REVOKED_new();
	ASN1_TIME *now = ASN1_TIME_set(NULL, time(NULL));
	bool fine = revoked && now && X509_REVOKED_set_serialNumber(revoked, X509_get_serialNumber(cert)) &&
		    X509_REVOKED_set_revocationDate(revoked, now);

	ASN1_TIME_free(now);
	if (fine && X509_CRL_add0_revoked(list, revoked))
		return true;
	X509_REVOKED_free(revoked);
	return false;
}

static bool sign_list(X509_CRL *list, const struct pki *pki)
{
	ASN1_TIME *from = ASN1_TIME_set(NULL, time(NULL) - 300);
	ASN1_TIME *until = ASN1_TIME_set(NULL, time(NULL) + CRL_DAYS * DAY_S);
	bool fine = from && until && X509_CRL_set_version(list, X509_CRL_VERSION_2) &&
		    X509_CRL_set_issuer_name(list, X509_get_subject_name(pki->ca)) &&
		    X509_CRL_set1_lastUpdate(list, from) && X509_CRL_set1_nextUpdate(list, until) &&
		    X509_CRL_sort(list) && X509_CRL_sign(list, pki->ca_key, EVP_sha256());

	ASN1_TIME_free(from);
	ASN1_TIME_free(until);
	return fine;
}

/* Servers may read it at any moment, so it changes in one step. */
static enum ks_status replace_list(const char *path, X509_CRL *list, struct ks_err *err)
{
	char new_path[4096 + 8];
	FILE *file;
	bool written;

	(void)snprintf(new_path, sizeof(new_path), "%s.new", path);
	file = fopen(new_path, "we");
	written = file && PEM_write_X509_CRL(file, list) == 1 && fflush(file) == 0 && fsync(fileno(file)) == 0;
	if (file && fclose(file) != 0)
		written = false;
	if (written && rename(new_path, path) == 0)
		return KS_OK;
	(void)unlink(new_path);
	return ks_fail(err, KS_UNAVAILABLE, "cannot write the list %.150s: %s", path, strerrordesc_np(errno));
}

static enum ks_status revoke_cert(struct pki *pki, X509 *cert, struct ks_err *err)
{
	char path[4096];
	X509_REVOKED *found;
	X509_CRL *list;
	enum ks_status status = file_of(pki, "crl", ".pem", path, err);

	if (status != KS_OK)
		return status;
	if (X509_verify(cert, X509_get0_pubkey(pki->ca)) != 1)
		return ks_fail(err, KS_FAILED_PRECONDITION, "this CA has not signed that certificate");
	list = read_list(path, err);
	if (!list)
		return err->status;
	if (X509_CRL_get0_by_cert(list, &found, cert) == 1)
		status = ks_fail(err, KS_ALREADY_EXISTS, "it was revoked before");
	else if (!add_revoked(list, cert) || !sign_list(list, pki))
		status = ks_fail(err, KS_INTERNAL, "cannot make the list: %s", ks_x509_reason());
	else
		status = replace_list(path, list, err);
	X509_CRL_free(list);
	if (status == KS_OK)
		(void)printf("%s\n", path);
	return status;
}

static enum ks_status revoke_by_name(struct pki *pki, struct ks_err *err)
{
	char path[4096];
	enum ks_status status;
	X509 *cert;

	if (pki->argument_count != 1)
		return ks_fail(err, KS_INVALID_ARGUMENT, "name what to revoke: kineshim pki revoke NAME");
	status = check_name(pki->arguments[0], err);
	if (status == KS_OK)
		status = load_ca(pki, err);
	if (status == KS_OK)
		status = file_of(pki, pki->arguments[0], ".pem", path, err);
	if (status != KS_OK)
		return status;
	cert = ks_x509_read_cert(path, err);
	if (!cert)
		return err->status;
	status = revoke_cert(pki, cert, err);
	X509_free(cert);
	return status;
}

int ks_tool_pki(int argc, char *argv[])
{
	static const struct {
		const char *name;
		enum ks_status (*run)(struct pki *pki, struct ks_err *err);
	} commands[] = {{"init", init}, {"server", server}, {"client", client}, {"revoke", revoke_by_name}};
	struct pki pki = {.dir = "pki"};
	struct ks_err err = {0};
	enum ks_status status = ks_fail(&err, KS_INVALID_ARGUMENT, "no such command; see kineshim pki --help");

	if (asks_for_help(argc, argv)) {
		(void)fputs(usage, stdout);
		return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
	}
	for (size_t i = 0; argc > 1 && i < sizeof(commands) / sizeof(*commands); i++) {
		if (strcmp(argv[1], commands[i].name) != 0)
			continue;
		status = parse(&pki, argc - 2, argv + 2, &err);
		if (status == KS_OK)
			status = commands[i].run(&pki, &err);
	}
	EVP_PKEY_free(pki.ca_key);
	X509_free(pki.ca);
	if (status != KS_OK)
		return complain(&err);
	return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
