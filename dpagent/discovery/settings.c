/* SPDX-License-Identifier: Apache-2.0 */
/* The tree of libyaml against tables of what may stand where. */
#include "discovery/settings.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <yaml.h>

#include "base/buf.h"
#include "base/diag.h"
#include "base/panic.h"
#include "discovery/nodes.h"

#define MODULE "discovery"
#define FILE_MAX ((size_t)1 << 20)
#define TEXT_MAX 4096

static const char *const type_names[DPA_DISCOVERY_TYPES] = {"dns", "consul", "nacos", "eureka"};

const char *dpa_discovery_type_name(enum dpa_discovery_type type)
{
	return type_names[type];
}

bool dpa_discovery_type_of(const char *name, enum dpa_discovery_type *type)
{
	for (int i = 0; i < DPA_DISCOVERY_TYPES; i++) {
		if (strcmp(name, type_names[i]) == 0) {
			*type = (enum dpa_discovery_type)i;
			return true;
		}
	}
	return false;
}

struct reader {
	yaml_document_t document;
	const char *name;
	char *(*getenv_fn)(const char *name);
	struct dpa_discovery_config *config;
	struct ks_err *err;
};

/* ---- Scalars ---- */

static enum ks_status refuse(struct reader *reader, const yaml_node_t *node, const char *key, const char *what)
{
	return ks_fail(reader->err, KS_INVALID_ARGUMENT, "%s:%zu: %s: %s", reader->name, node->start_mark.line + 1, key,
		       what);
}

/* Behind "${{" up to "}}": NAME or NAME:=default. Where it ends, or NULL: no such end. */
static const char *expand_one(struct reader *reader, const char *text, struct ks_buf *out, bool *unset)
{
	const char *end = strstr(text, "}}"), *initial;
	const char *value;
	char name[128];
	size_t size;

	if (!end)
		return NULL;
	initial = memmem(text, (size_t)(end - text), ":=", 2);
	size = (size_t)((initial ? initial : end) - text);
	if (size == 0 || size >= sizeof(name))
		return NULL;
	memcpy(name, text, size);
	name[size] = '\0';
	value = reader->getenv_fn(name);
	if (value)
		ks_buf_append(out, value, strlen(value));
	else if (initial)
		ks_buf_append(out, initial + 2, (size_t)(end - initial - 2));
	else
		*unset = true;
	return end + 2;
}

/* A scalar with its variables expanded, malloc-ed. */
static enum ks_status text_of(struct reader *reader, const yaml_node_t *node, const char *key, char **text)
{
	struct ks_buf out;
	const char *at, *next;
	bool unset = false;

	if (node->type != YAML_SCALAR_NODE)
		return refuse(reader, node, key, "a text is expected here");
	at = (const char *)node->data.scalar.value;
	if (strlen(at) != node->data.scalar.length)
		return refuse(reader, node, key, "there is a zero byte in it");
	ks_buf_init(&out, TEXT_MAX);
	while ((next = strstr(at, "${{"))) {
		ks_buf_append(&out, at, (size_t)(next - at));
		at = expand_one(reader, next + 3, &out, &unset);
		if (!at || unset) {
			ks_buf_fini(&out);
			return refuse(reader, node, key,
				      at ? "an environment variable that it names is not set"
					 : "${{ without a name and }}");
		}
	}
	ks_buf_append(&out, at, strlen(at) + 1);
	if (out.failed) {
		ks_buf_fini(&out);
		return refuse(reader, node, key, "the text is too long");
	}
	free(*text);
	*text = (char *)ks_buf_take(&out, &(size_t){0});
	return KS_OK;
}

static enum ks_status number_of(struct reader *reader, const yaml_node_t *node, const char *key, int64_t min,
				int64_t max, int64_t *number)
{
	char *text = NULL, *end;
	char what[80];
	enum ks_status status = text_of(reader, node, key, &text);

	if (status != KS_OK)
		return status;
	errno = 0;
	*number = strtoll(text, &end, 10);
	if (errno || end == text || *end || *number < min || *number > max) {
		(void)snprintf(what, sizeof(what), "a number from %lld to %lld is expected here", (long long)min,
			       (long long)max);
		status = refuse(reader, node, key, what);
	}
	free(text);
	return status;
}

static enum ks_status bool_of(struct reader *reader, const yaml_node_t *node, const char *key, bool *truth)
{
	char *text = NULL;
	enum ks_status status = text_of(reader, node, key, &text);

	if (status != KS_OK)
		return status;
	*truth = strcmp(text, "true") == 0;
	if (!*truth && strcmp(text, "false") != 0)
		status = refuse(reader, node, key, "true or false is expected here");
	free(text);
	return status;
}

/* ---- Lists ---- */

typedef enum ks_status element_fn(struct reader *reader, const yaml_node_t *node, const char *key, void *into);

static enum ks_status each(struct reader *reader, const yaml_node_t *node, const char *key, element_fn *take,
			   void *into)
{
	enum ks_status status = KS_OK;

	if (node->type == YAML_SCALAR_NODE)
		return take(reader, node, key, into);
	if (node->type != YAML_SEQUENCE_NODE)
		return refuse(reader, node, key, "a list is expected here");
	for (yaml_node_item_t *item = node->data.sequence.items.start;
	     status == KS_OK && item < node->data.sequence.items.top; item++)
		status = take(reader, yaml_document_get_node(&reader->document, *item), key, into);
	return status;
}

static bool part_of(CURLU *url, CURLUPart part, unsigned flags, char **text)
{
	char *found = NULL;

	if (curl_url_get(url, part, &found, flags) != CURLUE_OK)
		return false;
	free(*text);
	*text = ks_xstrdup(found);
	curl_free(found);
	return true;
}

/* Takes user and password out; false for what is no URL of a server. */
static bool split_url(CURLU *url, struct dpa_server *server)
{
	char *scheme = NULL, *host = NULL, *port = NULL, *path = NULL, *extra = NULL;
	bool fine;

	(void)part_of(url, CURLUPART_USER, CURLU_URLDECODE, &server->user);
	(void)part_of(url, CURLUPART_PASSWORD, CURLU_URLDECODE, &server->password);
	fine = part_of(url, CURLUPART_SCHEME, 0, &scheme) && part_of(url, CURLUPART_HOST, 0, &host) &&
	       part_of(url, CURLUPART_PORT, CURLU_DEFAULT_PORT, &port) && part_of(url, CURLUPART_PATH, 0, &path);
	fine = fine && (strcmp(scheme, "http") == 0 || strcmp(scheme, "https") == 0);
	fine = fine && !part_of(url, CURLUPART_QUERY, 0, &extra) && !part_of(url, CURLUPART_FRAGMENT, 0, &extra);
	if (fine) {
		while (*path && path[strlen(path) - 1] == '/')
			path[strlen(path) - 1] = '\0';
		KS_ASSERT(asprintf(&server->label, "%s:%s", host, port) > 0);
		KS_ASSERT(asprintf(&server->url, "%s://%s:%s%s", scheme, host, port, path) > 0);
	}
	free(scheme);
	free(host);
	free(port);
	free(path);
	free(extra);
	return fine;
}

static enum ks_status take_server(struct reader *reader, const yaml_node_t *node, const char *key, void *into)
{
	struct dpa_http_config *http = into;
	char *text = NULL;
	CURLU *url;
	bool fine;

	if (http->server_count == DPA_SERVERS_MAX)
		return refuse(reader, node, key, "too many servers");
	if (text_of(reader, node, key, &text) != KS_OK)
		return KS_INVALID_ARGUMENT;
	url = curl_url();
	http->servers = ks_xrealloc(http->servers, (http->server_count + 1) * sizeof(*http->servers));
	http->servers[http->server_count] = (struct dpa_server){0};
	fine = url && curl_url_set(url, CURLUPART_URL, text, 0) == CURLUE_OK &&
	       split_url(url, &http->servers[http->server_count]);
	http->server_count++;
	curl_url_cleanup(url);
	free(text);
	return fine ? KS_OK : refuse(reader, node, key, "not a URL of the form http://host:port");
}

/* "192.0.2.1", "192.0.2.1:5353", "2001:db8::1", "[2001:db8::1]:53" -> with a port. */
static bool dns_address(char *text, char *out, size_t room)
{
	struct in6_addr v6;
	struct in_addr v4;
	char *port = NULL, *end;
	long number = 53;
	bool is_v6 = inet_pton(AF_INET6, text, &v6) == 1;

	if (!is_v6 && text[0] == '[') {
		end = strchr(text, ']');
		if (!end || (end[1] && end[1] != ':'))
			return false;
		port = end[1] ? end + 2 : NULL;
		*end = '\0';
		text++;
		is_v6 = inet_pton(AF_INET6, text, &v6) == 1;
		if (!is_v6)
			return false;
	} else if (!is_v6) {
		port = strchr(text, ':');
		if (port)
			*port++ = '\0';
		if (inet_pton(AF_INET, text, &v4) != 1)
			return false;
	}
	if (port) {
		number = strtol(port, &end, 10);
		if (end == port || *end || number < 1 || number > 65535)
			return false;
	}
	(void)snprintf(out, room, is_v6 ? "[%s]:%ld" : "%s:%ld", text, number);
	return true;
}

static enum ks_status take_dns_server(struct reader *reader, const yaml_node_t *node, const char *key, void *into)
{
	struct dpa_dns_config *dns = into;
	char *text = NULL, *all = NULL;
	char address[INET6_ADDRSTRLEN + 16];
	enum ks_status status = text_of(reader, node, key, &text);

	if (status == KS_OK && dns->servers && strlen(dns->servers) > 2048)
		status = refuse(reader, node, key, "too many servers");
	else if (status == KS_OK && !dns_address(text, address, sizeof(address)))
		status = refuse(reader, node, key, "not an address with or without a port");
	if (status == KS_OK) {
		KS_ASSERT(asprintf(&all, "%s%s%s", dns->servers ? dns->servers : "", dns->servers ? "," : "", address) >
			  0);
		free(dns->servers);
		dns->servers = all;
	}
	free(text);
	return status;
}

static enum ks_status take_order(struct reader *reader, const yaml_node_t *node, const char *key, void *into)
{
	static const char *const names[DPA_DNS_KINDS] = {"last", "SRV", "A", "AAAA", "CNAME"};
	struct dpa_dns_config *dns = into;
	char *text = NULL;
	enum ks_status status = text_of(reader, node, key, &text);
	int found = -1;

	for (int i = 0; status == KS_OK && i < DPA_DNS_KINDS; i++) {
		if (strcmp(text, names[i]) == 0)
			found = i;
	}
	if (status == KS_OK && (found < 0 || dns->order_count == DPA_DNS_KINDS))
		status = refuse(reader, node, key, "a list of last, SRV, A, AAAA and CNAME is expected here");
	else if (status == KS_OK)
		dns->order[dns->order_count++] = (enum dpa_dns_kind)found;
	free(text);
	return status;
}

/* ---- Mappings ---- */

enum field_kind {
	F_IGNORED,
	F_TEXT,
	F_PREFIX,
	F_NUMBER,
	F_SECONDS,
	F_MS,
	F_BOOL,
	F_SERVERS,
	F_DNS_SERVERS,
	F_ORDER,
	F_MAPPING
};

struct field {
	const char *key;
	enum field_kind kind;
	size_t offset; /* in what the table is for */
	int64_t min, max;
	const struct field *fields; /* of F_MAPPING; offsets go on from the same struct */
};

#define HTTP(member) offsetof(struct dpa_http_config, member)
#define CONSUL(member) offsetof(struct dpa_consul_config, member)
#define NACOS(member) offsetof(struct dpa_nacos_config, member)
#define DNS(member) offsetof(struct dpa_dns_config, member)
#define HOUR_MS 3600000

static const struct field dns_fields[] = {
	{.key = "servers", .kind = F_DNS_SERVERS},
	{.key = "resolv_conf", .kind = F_TEXT, .offset = DNS(resolv_conf)},
	{.key = "order", .kind = F_ORDER},
	{0},
};

static const struct field http_timeout_fields[] = {
	{.key = "connect", .kind = F_MS, .offset = HTTP(connect_ms), .min = 1, .max = HOUR_MS},
	{.key = "send", .kind = F_IGNORED},
	{.key = "read", .kind = F_MS, .offset = HTTP(read_ms), .min = 1, .max = HOUR_MS},
	{0},
};

static const struct field consul_timeout_fields[] = {
	{.key = "connect", .kind = F_MS, .offset = CONSUL(http.connect_ms), .min = 1, .max = HOUR_MS},
	{.key = "read", .kind = F_MS, .offset = CONSUL(http.read_ms), .min = 1, .max = HOUR_MS},
	{.key = "wait", .kind = F_SECONDS, .offset = CONSUL(wait_ms), .min = 1, .max = 600},
	{0},
};

static const struct field consul_metadata_fields[] = {
	{.key = "weight", .kind = F_NUMBER, .offset = CONSUL(default_weight), .min = 0, .max = 10000},
	{.key = "fail_timeout", .kind = F_IGNORED},
	{.key = "max_fails", .kind = F_IGNORED},
	{0},
};

static const struct field consul_default_fields[] = {
	{.key = "host", .kind = F_TEXT, .offset = CONSUL(default_host)},
	{.key = "port", .kind = F_NUMBER, .offset = CONSUL(default_port), .min = 1, .max = 65535},
	{.key = "metadata", .kind = F_MAPPING, .fields = consul_metadata_fields},
	{0},
};

static const struct field consul_fields[] = {
	{.key = "servers", .kind = F_SERVERS, .offset = CONSUL(http)},
	{.key = "token", .kind = F_TEXT, .offset = CONSUL(token)},
	{.key = "keepalive", .kind = F_BOOL, .offset = CONSUL(keepalive)},
	{.key = "fetch_interval", .kind = F_SECONDS, .offset = CONSUL(http.interval_ms), .min = 1, .max = 3600},
	{.key = "weight", .kind = F_NUMBER, .offset = CONSUL(http.weight), .min = 0, .max = 10000},
	{.key = "timeout", .kind = F_MAPPING, .fields = consul_timeout_fields},
	{.key = "default_service", .kind = F_MAPPING, .fields = consul_default_fields},
	{.key = "ca_file", .kind = F_TEXT, .offset = CONSUL(http.ca_file)},
	{.key = "skip_services", .kind = F_IGNORED},
	{.key = "sort_type", .kind = F_IGNORED},
	{.key = "dump", .kind = F_IGNORED},
	{.key = "shared_size", .kind = F_IGNORED},
	{0},
};

static const struct field nacos_fields[] = {
	{.key = "host", .kind = F_SERVERS, .offset = NACOS(http)},
	{.key = "prefix", .kind = F_PREFIX, .offset = HTTP(prefix)},
	{.key = "fetch_interval", .kind = F_SECONDS, .offset = HTTP(interval_ms), .min = 1, .max = 3600},
	{.key = "weight", .kind = F_NUMBER, .offset = HTTP(weight), .min = 0, .max = 10000},
	{.key = "timeout", .kind = F_MAPPING, .fields = http_timeout_fields},
	{.key = "ca_file", .kind = F_TEXT, .offset = HTTP(ca_file)},
	{.key = "username", .kind = F_TEXT, .offset = NACOS(user)},
	{.key = "password", .kind = F_TEXT, .offset = NACOS(password)},
	{0},
};

static const struct field eureka_fields[] = {
	{.key = "host", .kind = F_SERVERS},
	{.key = "prefix", .kind = F_PREFIX, .offset = HTTP(prefix)},
	{.key = "fetch_interval", .kind = F_SECONDS, .offset = HTTP(interval_ms), .min = 1, .max = 3600},
	{.key = "weight", .kind = F_NUMBER, .offset = HTTP(weight), .min = 0, .max = 10000},
	{.key = "timeout", .kind = F_MAPPING, .fields = http_timeout_fields},
	{.key = "ca_file", .kind = F_TEXT, .offset = HTTP(ca_file)},
	{0},
};

_Static_assert(CONSUL(http) == 0 && NACOS(http) == 0,
	       "tables of what all HTTP registries have count from the same place");

static enum ks_status take_mapping(struct reader *reader, const yaml_node_t *node, const char *where,
				   const struct field *fields, void *into);

static enum ks_status take_prefix(struct reader *reader, const yaml_node_t *node, const char *key, char **prefix)
{
	char *text = NULL;
	enum ks_status status = text_of(reader, node, key, &text);
	size_t size = text ? strlen(text) : 0;

	if (status != KS_OK)
		return status;
	while (size > 0 && text[size - 1] == '/')
		text[--size] = '\0';
	if (strpbrk(text, "?#% \t\r\n")) {
		free(text);
		return refuse(reader, node, key, "a path is expected here");
	}
	free(*prefix);
	KS_ASSERT(asprintf(prefix, "%s%s/", text[0] == '/' ? "" : "/", text) > 0);
	free(text);
	return KS_OK;
}

static enum ks_status take_field(struct reader *reader, const yaml_node_t *node, const struct field *field, void *into)
{
	void *member = (char *)into + field->offset;
	enum ks_status status;

	switch (field->kind) {
	case F_IGNORED:
		return KS_OK;
	case F_TEXT:
		return text_of(reader, node, field->key, member);
	case F_PREFIX:
		return take_prefix(reader, node, field->key, member);
	case F_NUMBER:
	case F_MS:
		return number_of(reader, node, field->key, field->min, field->max, member);
	case F_SECONDS:
		status = number_of(reader, node, field->key, field->min, field->max, member);
		if (status == KS_OK)
			*(int64_t *)member *= 1000;
		return status;
	case F_BOOL:
		return bool_of(reader, node, field->key, member);
	case F_SERVERS:
		return each(reader, node, field->key, take_server, member);
	case F_DNS_SERVERS:
		return each(reader, node, field->key, take_dns_server, into);
	case F_ORDER:
		((struct dpa_dns_config *)into)->order_count = 0;
		return each(reader, node, field->key, take_order, into);
	case F_MAPPING:
		return take_mapping(reader, node, field->key, field->fields, into);
	}
	return KS_OK;
}

static const struct field *field_named(const struct field *fields, const char *key)
{
	for (; fields->key; fields++) {
		if (strcmp(fields->key, key) == 0)
			return fields;
	}
	return NULL;
}

static bool is_null(const yaml_node_t *node)
{
	const char *text;

	if (node->type != YAML_SCALAR_NODE || node->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
		return false;
	text = (const char *)node->data.scalar.value;
	return !*text || strcmp(text, "~") == 0 || strcmp(text, "null") == 0;
}

/* The key as a text; NULL when it is none. */
static const char *key_of(struct reader *reader, const yaml_node_pair_t *pair)
{
	const yaml_node_t *node = yaml_document_get_node(&reader->document, pair->key);

	return node->type == YAML_SCALAR_NODE ? (const char *)node->data.scalar.value : NULL;
}

static enum ks_status take_mapping(struct reader *reader, const yaml_node_t *node, const char *where,
				   const struct field *fields, void *into)
{
	enum ks_status status = KS_OK;

	if (is_null(node))
		return KS_OK;
	if (node->type != YAML_MAPPING_NODE)
		return refuse(reader, node, where, "a mapping is expected here");
	for (yaml_node_pair_t *pair = node->data.mapping.pairs.start;
	     status == KS_OK && pair < node->data.mapping.pairs.top; pair++) {
		const char *key = key_of(reader, pair);
		const yaml_node_t *value = yaml_document_get_node(&reader->document, pair->value);
		const struct field *field = key ? field_named(fields, key) : NULL;

		if (!field)
			return ks_fail(reader->err, KS_INVALID_ARGUMENT, "%s:%zu: %s: there is no key \"%.40s\" here",
				       reader->name, value->start_mark.line + 1, where, key ? key : "?");
		if (!is_null(value))
			status = take_field(reader, value, field, into);
	}
	return status;
}

/* ---- The whole ---- */

static void set_initial(struct dpa_discovery_config *config)
{
	static const enum dpa_dns_kind order[] = {DPA_DNS_LAST, DPA_DNS_SRV, DPA_DNS_A, DPA_DNS_AAAA, DPA_DNS_CNAME};

	memcpy(config->dns.order, order, sizeof(order));
	config->dns.order_count = DPA_DNS_KINDS;
	config->consul.http =
		(struct dpa_http_config){.connect_ms = 2000, .read_ms = 2000, .interval_ms = 3000, .weight = 1};
	config->consul.keepalive = true;
	config->consul.wait_ms = 60000;
	config->consul.default_weight = 1;
	config->nacos.http =
		(struct dpa_http_config){.connect_ms = 2000, .read_ms = 5000, .interval_ms = 30000, .weight = 100};
	config->nacos.http.prefix = ks_xstrdup("/nacos/v1/");
	config->eureka =
		(struct dpa_http_config){.connect_ms = 2000, .read_ms = 5000, .interval_ms = 30000, .weight = 100};
	config->eureka.prefix = ks_xstrdup("/eureka/");
}

const struct dpa_http_config *dpa_http_config_of(const struct dpa_discovery_config *config,
						 enum dpa_discovery_type type)
{
	switch (type) {
	case DPA_DNS:
		return NULL;
	case DPA_CONSUL:
		return &config->consul.http;
	case DPA_NACOS:
		return &config->nacos.http;
	case DPA_EUREKA:
		return &config->eureka;
	}
	return NULL;
}

static enum ks_status check_section(struct reader *reader, const yaml_node_t *node, enum dpa_discovery_type type)
{
	const struct dpa_discovery_config *config = reader->config;
	const struct dpa_http_config *http = dpa_http_config_of(config, type);

	if (http && http->server_count == 0)
		return refuse(reader, node, type_names[type],
			      type == DPA_CONSUL ? "servers is missing" : "host is missing");
	if (type == DPA_CONSUL && (config->consul.default_host != NULL) != (config->consul.default_port != 0))
		return refuse(reader, node, "default_service", "host and port go together");
	if (type == DPA_CONSUL && config->consul.default_host && !dpa_host_valid(config->consul.default_host))
		return refuse(reader, node, "default_service", "host is neither a name nor an address");
	if (type == DPA_CONSUL && config->consul.token && strpbrk(config->consul.token, "\r\n"))
		return refuse(reader, node, "token", "there is a line break in it");
	if (type == DPA_NACOS && (config->nacos.user != NULL) != (config->nacos.password != NULL))
		return refuse(reader, node, "nacos", "username and password go together");
	return KS_OK;
}

static enum ks_status take_section(struct reader *reader, const yaml_node_t *node, const char *key)
{
	struct dpa_discovery_config *config = reader->config;
	const struct {
		const struct field *fields;
		void *into;
	} sections[DPA_DISCOVERY_TYPES] = {
		[DPA_DNS] = {dns_fields, &config->dns},
		[DPA_CONSUL] = {consul_fields, &config->consul},
		[DPA_NACOS] = {nacos_fields, &config->nacos},
		[DPA_EUREKA] = {eureka_fields, &config->eureka},
	};
	enum dpa_discovery_type type;
	enum ks_status status;

	if (!dpa_discovery_type_of(key, &type)) {
		ks_diag(KS_WARN, MODULE,
			"%s:%zu: there is no discovery of the kind \"%.40s\": upstreams that name it stay as they are",
			reader->name, node->start_mark.line + 1, key);
		return KS_OK;
	}
	if (config->has[type])
		return refuse(reader, node, key, "stands here a second time");
	status = take_mapping(reader, node, key, sections[type].fields, sections[type].into);
	config->has[type] = true;
	return status == KS_OK ? check_section(reader, node, type) : status;
}

static enum ks_status take_discovery(struct reader *reader, const yaml_node_t *node)
{
	enum ks_status status = KS_OK;

	if (node->type != YAML_MAPPING_NODE)
		return refuse(reader, node, "discovery", "a mapping is expected here");
	for (yaml_node_pair_t *pair = node->data.mapping.pairs.start;
	     status == KS_OK && pair < node->data.mapping.pairs.top; pair++) {
		const char *key = key_of(reader, pair);

		status = key ? take_section(reader, yaml_document_get_node(&reader->document, pair->value), key)
			     : refuse(reader, node, "discovery", "this is not a key");
	}
	return status;
}

static enum ks_status take_document(struct reader *reader)
{
	const yaml_node_t *root = yaml_document_get_root_node(&reader->document);

	if (!root || root->type != YAML_MAPPING_NODE)
		return ks_fail(reader->err, KS_INVALID_ARGUMENT,
			       "%s:1: a mapping with the key \"discovery\" is expected", reader->name);
	for (yaml_node_pair_t *pair = root->data.mapping.pairs.start; pair < root->data.mapping.pairs.top; pair++) {
		const char *key = key_of(reader, pair);

		if (key && strcmp(key, "discovery") == 0)
			return take_discovery(reader, yaml_document_get_node(&reader->document, pair->value));
	}
	return refuse(reader, root, "discovery", "this key is missing");
}

enum ks_status dpa_discovery_config_parse(struct ks_slice text, const char *name, char *(*getenv_fn)(const char *name),
					  struct dpa_discovery_config *config, struct ks_err *err)
{
	struct reader reader = {.name = name, .getenv_fn = getenv_fn, .config = config, .err = err};
	yaml_parser_t parser;
	enum ks_status status;

	set_initial(config);
	if (text.size > FILE_MAX)
		return ks_fail(err, KS_INVALID_ARGUMENT, "%s: more than %zu bytes", name, FILE_MAX);
	if (!yaml_parser_initialize(&parser))
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "%s: out of memory", name);
	yaml_parser_set_input_string(&parser, text.data, text.size);
	if (!yaml_parser_load(&parser, &reader.document)) {
		status = ks_fail(err, KS_INVALID_ARGUMENT, "%s:%zu: %s", name, parser.problem_mark.line + 1,
				 parser.problem ? parser.problem : "not YAML");
	} else {
		status = take_document(&reader);
		yaml_document_delete(&reader.document);
	}
	yaml_parser_delete(&parser);
	return status;
}

enum ks_status dpa_discovery_config_read(const char *path, struct dpa_discovery_config *config, struct ks_err *err)
{
	FILE *file = fopen(path, "re");
	enum ks_status status;
	char *text;
	size_t size;

	if (!file)
		return ks_fail(err, KS_INVALID_ARGUMENT, "cannot read %s: %s", path, strerrordesc_np(errno));
	text = ks_xmalloc(FILE_MAX + 1);
	errno = 0;
	size = fread(text, 1, FILE_MAX + 1, file);
	if (ferror(file))
		status = ks_fail(err, KS_INVALID_ARGUMENT, "cannot read %s: %s", path, strerrordesc_np(errno));
	else
		status = dpa_discovery_config_parse(ks_slice_of(text, size), path, getenv, config, err);
	explicit_bzero(text, size);
	free(text);
	(void)fclose(file);
	return status;
}

static void free_http(struct dpa_http_config *http)
{
	for (size_t i = 0; i < http->server_count; i++) {
		free(http->servers[i].url);
		free(http->servers[i].label);
		free(http->servers[i].user);
		free(http->servers[i].password);
	}
	free(http->servers);
	free(http->prefix);
	free(http->ca_file);
}

void dpa_discovery_config_fini(struct dpa_discovery_config *config)
{
	free(config->dns.servers);
	free(config->dns.resolv_conf);
	free_http(&config->consul.http);
	free(config->consul.token);
	free(config->consul.default_host);
	free_http(&config->nacos.http);
	free(config->nacos.user);
	free(config->nacos.password);
	free_http(&config->eureka);
	*config = (struct dpa_discovery_config){0};
}
