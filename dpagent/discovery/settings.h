/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registries, from a YAML file with APISIX's own keys below "discovery:" (so APISIX's config.yaml itself will do): dns, consul,
 * nacos, eureka. In texts ${{NAME}} and ${{NAME:=default}} stand for environment variables. Keys of other top-level sections are not
 * looked at; a kind of discovery that is not known here is named in a warning; an unknown key in one that is known is an error.
 *
 * Owner: the struct owns its texts until fini. Threads: any; it does not change once it was read. Errors: "FILE:LINE: …"; they never
 * show a token or a password.
 */
#ifndef DPA_DISCOVERY_SETTINGS_H
#define DPA_DISCOVERY_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/status.h"

enum dpa_discovery_type { DPA_DNS, DPA_CONSUL, DPA_NACOS, DPA_EUREKA };
#define DPA_DISCOVERY_TYPES 4
const char *dpa_discovery_type_name(enum dpa_discovery_type type); /* "dns" … */
/* False when the name is none of them. */
bool dpa_discovery_type_of(const char *name, enum dpa_discovery_type *type);

/* One HTTP server: user and password do not stand in the URL any more. */
struct dpa_server {
	char *url;             /* "http://host:8500", without a slash at its end */
	char *label;           /* "host:8500", for people */
	char *user, *password; /* NULL: none */
};
#define DPA_SERVERS_MAX 32

/* What all that speak HTTP have. */
struct dpa_http_config {
	struct dpa_server *servers;
	size_t server_count;
	char *prefix;  /* "/nacos/v1/", begins and ends with a slash; NULL for consul */
	char *ca_file; /* NULL: the system's */
	int64_t connect_ms, read_ms, interval_ms;
	int64_t weight; /* of nodes that say none; consul: a factor */
};

enum dpa_dns_kind { DPA_DNS_LAST, DPA_DNS_SRV, DPA_DNS_A, DPA_DNS_AAAA, DPA_DNS_CNAME };
#define DPA_DNS_KINDS 5

struct dpa_dns_config {
	char *servers;     /* "127.0.0.1:53,[::1]:53"; NULL: those of resolv_conf */
	char *resolv_conf; /* NULL: the system's */
	enum dpa_dns_kind order[DPA_DNS_KINDS];
	size_t order_count;
};

struct dpa_consul_config {
	struct dpa_http_config http;
	char *token;    /* NULL: none */
	bool keepalive; /* blocking queries */
	int64_t wait_ms;
	/* A node for services without any; host NULL: none. */
	char *default_host;
	int64_t default_port, default_weight;
};

struct dpa_nacos_config {
	struct dpa_http_config http;
	char *user, *password; /* NULL: those of the server's URL */
};

struct dpa_discovery_config {
	bool has[DPA_DISCOVERY_TYPES];
	struct dpa_dns_config dns;
	struct dpa_consul_config consul;
	struct dpa_nacos_config nacos;
	struct dpa_http_config eureka;
};

/* 'config' is to be zeroed; it is to be given to fini after errors, too. */
enum ks_status dpa_discovery_config_parse(struct ks_slice text, const char *name, char *(*getenv_fn)(const char *name),
					  struct dpa_discovery_config *config, struct ks_err *err) KS_MUST_CHECK;
enum ks_status dpa_discovery_config_read(const char *path, struct dpa_discovery_config *config,
					 struct ks_err *err) KS_MUST_CHECK;
void dpa_discovery_config_fini(struct dpa_discovery_config *config);
const struct dpa_http_config *dpa_http_config_of(const struct dpa_discovery_config *config,
						 enum dpa_discovery_type type);

#endif
