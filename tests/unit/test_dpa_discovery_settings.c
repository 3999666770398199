/* SPDX-License-Identifier: Apache-2.0 */
/* The promises of discovery/settings.h. */
#include "tests/lib/tap.h"

#include <stdlib.h>
#include <string.h>

#include "discovery/settings.h"

static struct dpa_discovery_config config;
static struct ks_err err;

static char *variable(const char *name)
{
	static char token[] = "t0ken";

	return strcmp(name, "TOKEN") == 0 ? token : NULL;
}

static enum ks_status parse(const char *text)
{
	dpa_discovery_config_fini(&config);
	err = (struct ks_err){0};
	return dpa_discovery_config_parse(ks_slice_str(text), "d.yml", variable, &config, &err);
}

static void refused(const char *text, const char *with)
{
	CU_ASSERT_EQUAL(parse(text), KS_INVALID_ARGUMENT);
	CU_ASSERT_STRING_EQUAL(err.text, with);
	if (strcmp(err.text, with) != 0)
		printf("# %s\n", err.text);
	dpa_discovery_config_fini(&config);
}

static void apisix_keys_are_read(void)
{
	CU_ASSERT_EQUAL(
		parse("apisix:\n  node_listen: 9080\n"
		      "discovery:\n"
		      "  dns:\n    servers: [\"127.0.0.1:8600\", \"::1\"]\n    order: [A, SRV]\n"
		      "  consul:\n    servers:\n      - http://127.0.0.1:8500/\n      - https://[::1]:8501\n"
		      "    token: secret\n    keepalive: false\n    fetch_interval: 7\n    weight: 2\n"
		      "    timeout: {connect: 100, read: 200, wait: 30}\n    skip_services: [a]\n    dump: {path: x}\n"
		      "    default_service: {host: 127.0.0.9, port: 80, metadata: {weight: 5, fail_timeout: 1}}\n"
		      "  nacos:\n    host: [\"http://127.0.0.1:8848\"]\n    prefix: /n/v1\n    username: u\n    "
		      "password: p\n"
		      "  eureka:\n    host: [\"http://127.0.0.1:8761\"]\n    timeout: {connect: 1, send: 2, read: "
		      "3}\n"),
		KS_OK);
	CU_ASSERT_STRING_EQUAL(config.dns.servers, "127.0.0.1:8600,[::1]:53");
	CU_ASSERT(config.dns.order_count == 2 && config.dns.order[0] == DPA_DNS_A &&
		  config.dns.order[1] == DPA_DNS_SRV);
	CU_ASSERT_EQUAL(config.consul.http.server_count, 2);
	CU_ASSERT_STRING_EQUAL(config.consul.http.servers[0].url, "http://127.0.0.1:8500");
	CU_ASSERT_STRING_EQUAL(config.consul.http.servers[1].label, "[::1]:8501");
	CU_ASSERT_STRING_EQUAL(config.consul.token, "secret");
	CU_ASSERT(!config.consul.keepalive && config.consul.http.interval_ms == 7000 && config.consul.http.weight == 2);
	CU_ASSERT(config.consul.http.connect_ms == 100 && config.consul.http.read_ms == 200 &&
		  config.consul.wait_ms == 30000);
	CU_ASSERT_STRING_EQUAL(config.consul.default_host, "127.0.0.9");
	CU_ASSERT(config.consul.default_port == 80 && config.consul.default_weight == 5);
	CU_ASSERT_STRING_EQUAL(config.nacos.http.prefix, "/n/v1/");
	CU_ASSERT_STRING_EQUAL(config.nacos.user, "u");
	CU_ASSERT_STRING_EQUAL(config.eureka.prefix, "/eureka/");
	CU_ASSERT(config.eureka.connect_ms == 1 && config.eureka.read_ms == 3 && config.eureka.interval_ms == 30000);
	for (int i = 0; i < DPA_DISCOVERY_TYPES; i++)
		CU_ASSERT(config.has[i]);
	dpa_discovery_config_fini(&config);
}

static void user_and_password_leave_the_url(void)
{
	CU_ASSERT_EQUAL(parse("discovery: {eureka: {host: ['http://us%40er:pa%2Fss@h:1/base/']}}"), KS_OK);
	CU_ASSERT_STRING_EQUAL(config.eureka.servers[0].url, "http://h:1/base");
	CU_ASSERT_STRING_EQUAL(config.eureka.servers[0].user, "us@er");
	CU_ASSERT_STRING_EQUAL(config.eureka.servers[0].password, "pa/ss");
	dpa_discovery_config_fini(&config);
}

static void variables_are_put_in(void)
{
	CU_ASSERT_EQUAL(parse("discovery: {consul: {servers: 'http://${{HOST:=h}}:1', token: 'a${{TOKEN}}b'}}"), KS_OK);
	CU_ASSERT_STRING_EQUAL(config.consul.token, "at0kenb");
	CU_ASSERT_STRING_EQUAL(config.consul.http.servers[0].url, "http://h:1");
	refused("discovery: {consul: {servers: 'http://h:1', token: '${{NONE}}'}}",
		"d.yml:1: token: an environment variable that it names is not set");
	refused("discovery: {consul: {servers: 'http://h:1', token: '${{TOKEN'}}",
		"d.yml:1: token: ${{ without a name and }}");
}

static void mistakes_are_named_with_their_line(void)
{
	refused("a: 1", "d.yml:1: discovery: this key is missing");
	refused("", "d.yml:1: a mapping with the key \"discovery\" is expected");
	refused("discovery:\n  dns:\n    serves: [127.0.0.1]\n", "d.yml:3: dns: there is no key \"serves\" here");
	refused("discovery:\n  dns:\n    servers: [host]\n", "d.yml:3: servers: not an address with or without a port");
	refused("discovery:\n  dns:\n    servers: ['127.0.0.1:0']\n",
		"d.yml:3: servers: not an address with or without a port");
	refused("discovery: {dns: {order: [MX]}}",
		"d.yml:1: order: a list of last, SRV, A, AAAA and CNAME is expected here");
	refused("discovery: {consul: {token: x}}", "d.yml:1: consul: servers is missing");
	refused("discovery: {consul: {servers: [ftp://h]}}",
		"d.yml:1: servers: not a URL of the form http://host:port");
	refused("discovery: {consul: {servers: ['http://h:1?x=1']}}",
		"d.yml:1: servers: not a URL of the form http://host:port");
	refused("discovery: {consul: {servers: ['http://h:1'], weight: -1}}",
		"d.yml:1: weight: a number from 0 to 10000 is expected here");
	refused("discovery: {consul: {servers: ['http://h:1'], keepalive: 1}}",
		"d.yml:1: keepalive: true or false is expected here");
	refused("discovery: {consul: {servers: ['http://h:1'], default_service: {host: a}}}",
		"d.yml:1: default_service: host and port go together");
	refused("discovery: {consul: {servers: ['http://h:1'], token: \"a\\r\\nb\"}}",
		"d.yml:1: token: there is a line break in it");
	refused("discovery: {nacos: {host: ['http://h:1'], username: u}}",
		"d.yml:1: nacos: username and password go together");
	refused("discovery: {eureka: {host: ['http://h:1']}, eureka: {host: ['http://h:1']}}",
		"d.yml:1: eureka: stands here a second time");
	refused("discovery: [", "d.yml:2: did not find expected node content");
}

static void secrets_stay_out_of_errors(void)
{
	CU_ASSERT_EQUAL(parse("discovery: {nacos: {host: ['http://u:hunter2@h:x1']}}"), KS_INVALID_ARGUMENT);
	CU_ASSERT_PTR_NULL(strstr(err.text, "hunter2"));
	CU_ASSERT_EQUAL(parse("discovery: {consul: {servers: ['http://h:1'], token: {hunter2: 1}}}"),
			KS_INVALID_ARGUMENT);
	CU_ASSERT_PTR_NULL(strstr(err.text, "hunter2"));
	dpa_discovery_config_fini(&config);
}

static void other_kinds_are_left_out(void)
{
	CU_ASSERT_EQUAL(parse("discovery: {kubernetes: {service: {}}, dns: {}}"), KS_OK);
	CU_ASSERT(config.has[DPA_DNS] && !config.has[DPA_CONSUL]);
	CU_ASSERT_PTR_NULL(config.dns.servers);
	dpa_discovery_config_fini(&config);
}

static void aliases_in_circles_end(void)
{
	(void)parse("discovery: &a {dns: *a}");
	(void)parse("discovery: {dns: {servers: &a [*a]}}");
	dpa_discovery_config_fini(&config);
}

int main(void)
{
	return tap_run("dpa_discovery_settings",
		       (const struct tap_test[]){
			       {"apisix_keys_are_read", apisix_keys_are_read},
			       {"user_and_password_leave_the_url", user_and_password_leave_the_url},
			       {"variables_are_put_in", variables_are_put_in},
			       {"mistakes_are_named_with_their_line", mistakes_are_named_with_their_line},
			       {"secrets_stay_out_of_errors", secrets_stay_out_of_errors},
			       {"other_kinds_are_left_out", other_kinds_are_left_out},
			       {"aliases_in_circles_end", aliases_in_circles_end},
			       {NULL, NULL},
		       });
}
