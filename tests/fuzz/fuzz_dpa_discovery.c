/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What registries answer. The first byte says which: Consul, Nacos, its token, Eureka, DNS with A, AAAA or SRV, nodes as the saved file has
 * them, the configuration. Promises beside memory safety: nodes keep to their limits, errors leave none, and the same answer gives the
 * same bytes.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/diag.h"
#include "base/panic.h"
#include "discovery/answers.h"
#include "discovery/settings.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What is added to an object, read again, is the same. */
static void check_nodes(enum ks_status status, struct dpa_nodes *nodes)
{
	struct dpa_nodes again = {0};
	json_t *json;

	KS_ASSERT(status == KS_OK || nodes->count == 0);
	KS_ASSERT(nodes->count <= DPA_NODES_MAX);
	for (size_t i = 0; i < nodes->count; i++) {
		const struct dpa_node *node = &nodes->list[i];

		KS_ASSERT(dpa_host_valid(node->host) && node->port >= 0 && node->port <= 65535);
		KS_ASSERT(node->weight >= 0 && node->weight <= DPA_NODE_WEIGHT_MAX);
	}
	json = dpa_nodes_json(nodes);
	KS_ASSERT(json && dpa_nodes_read(json, &again) && dpa_nodes_equal(nodes, &again));
	json_decref(json);
	dpa_nodes_fini(&again);
	dpa_nodes_fini(nodes);
}

static void check_eureka(struct ks_slice body, struct ks_err *err)
{
	struct dpa_nodes nodes = {0};
	json_t *apps = NULL;

	if (dpa_eureka_apps(body, &apps, err) != KS_OK)
		return;
	check_nodes(dpa_eureka_answer(apps, "APP", 100, &nodes, err), &nodes);
	json_decref(apps);
}

static void check_dns(struct ks_slice body, enum dpa_dns_type type, struct ks_err *err)
{
	struct dpa_dns_records records;

	if (dpa_dns_answer(body, type, &records, err) == KS_OK) {
		KS_ASSERT(records.count <= DPA_DNS_RECORDS_MAX && records.ttl_s >= 0);
		for (size_t i = 0; i < records.count; i++)
			KS_ASSERT(type == DPA_DNS_TYPE_SRV
					  ? !*records.list[i].host || dpa_host_valid(records.list[i].host)
					  : dpa_host_valid(records.list[i].host));
	} else {
		KS_ASSERT(!records.list);
	}
	free(records.list);
}

static void check_saved(struct ks_slice body)
{
	json_t *array = json_loadb((const char *)body.data, body.size, 0, NULL);
	struct dpa_nodes nodes = {0};

	if (dpa_nodes_read(array, &nodes))
		check_nodes(KS_OK, &nodes);
	dpa_nodes_fini(&nodes);
	json_decref(array);
}

static char *no_variable(const char *name)
{
	(void)name;
	return NULL;
}

static void check_settings(struct ks_slice body, struct ks_err *err)
{
	struct dpa_discovery_config config = {0};

	if (dpa_discovery_config_parse(body, "fuzz", no_variable, &config, err) != KS_OK)
		KS_ASSERT(strncmp(err->text, "fuzz:", 5) == 0);
	dpa_discovery_config_fini(&config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct dpa_nodes nodes = {0};
	struct ks_slice body = ks_slice_of(data + 1, size ? size - 1 : 0);
	struct ks_err err = {0};
	char *token = NULL;
	int64_t ttl_s;

	if (size == 0)
		return 0;
	ks_diag_setup(KS_ERROR, KS_DIAG_TEXT); /* warnings would be most of the output */
	switch (data[0]) {
	case 'c':
		check_nodes(dpa_consul_answer(body, 10000, &nodes, &err), &nodes);
		break;
	case 'n':
		check_nodes(dpa_nacos_answer(body, 100, &nodes, &err), &nodes);
		break;
	case 't':
		if (dpa_nacos_token(body, &token, &ttl_s, &err) == KS_OK)
			KS_ASSERT(*token && ttl_s >= 0);
		free(token);
		break;
	case 'e':
		check_eureka(body, &err);
		break;
	case 'A':
		check_dns(body, DPA_DNS_TYPE_A, &err);
		break;
	case '6':
		check_dns(body, DPA_DNS_TYPE_AAAA, &err);
		break;
	case 'S':
		check_dns(body, DPA_DNS_TYPE_SRV, &err);
		break;
	case 's':
		check_saved(body);
		break;
	case 'y':
		check_settings(body, &err);
		break;
	default:
		break;
	}
	return 0;
}
