/* SPDX-License-Identifier: Apache-2.0 */
/* The three registries that speak JSON. */
#include "discovery/answers.h"

#include <math.h>
#include <stdlib.h>
#include <strings.h>

#include "base/panic.h"

#define TOKEN_MAX 8192

static enum ks_status not_expected(struct ks_err *err, const char *what)
{
	return ks_fail(err, KS_DATA_LOSS, "the answer is not what was expected: %s", what);
}

static json_t *load(struct ks_slice body, struct ks_err *err)
{
	json_error_t error;
	json_t *root = json_loadb((const char *)body.data, body.size, 0, &error);

	if (!root)
		(void)ks_fail(err, KS_DATA_LOSS, "the answer is not JSON: line %d, column %d", error.line,
			      error.column);
	return root;
}

/* How many nodes an answer had, so that one in which none makes sense is noticed. */
struct tally {
	struct dpa_nodes *nodes;
	size_t seen;
};

static void add(struct tally *tally, const char *host, int64_t port, int64_t weight)
{
	tally->seen++;
	if (host && port > 0)
		(void)dpa_nodes_add(tally->nodes, host, port, weight, 0);
}

static enum ks_status settle(struct tally *tally, struct ks_err *err)
{
	if (tally->seen > DPA_NODES_MAX) {
		dpa_nodes_fini(tally->nodes);
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "the answer has more than %d nodes", DPA_NODES_MAX);
	}
	if (tally->seen && tally->nodes->count == 0)
		return not_expected(err, "no node has a host and a port that make sense");
	dpa_nodes_settle(tally->nodes);
	return KS_OK;
}

static const char *text_in(const json_t *object, const char *name)
{
	const char *text = json_string_value(json_object_get(object, name));

	return text && *text ? text : NULL;
}

/* ---- Consul ---- */

static void add_consul(struct tally *tally, const json_t *entry, int64_t factor)
{
	const json_t *service = json_object_get(entry, "Service");
	const json_t *passing = json_object_get(json_object_get(service, "Weights"), "Passing");
	const char *host = text_in(service, "Address");
	int64_t weight = json_is_integer(passing) ? (int64_t)json_integer_value(passing) : 1;

	if (weight < 0 || weight > DPA_NODE_WEIGHT_MAX)
		weight = weight < 0 ? 0 : DPA_NODE_WEIGHT_MAX;
	if (!host)
		host = text_in(json_object_get(entry, "Node"), "Address");
	add(tally, host, (int64_t)json_integer_value(json_object_get(service, "Port")), weight * factor);
}

enum ks_status dpa_consul_answer(struct ks_slice body, int64_t weight, struct dpa_nodes *nodes, struct ks_err *err)
{
	struct tally tally = {.nodes = nodes};
	json_t *root = load(body, err), *entry;
	enum ks_status status;
	size_t i;

	if (!root)
		return KS_DATA_LOSS;
	if (json_is_array(root)) {
		json_array_foreach(root, i, entry) add_consul(&tally, entry, weight);
		status = settle(&tally, err);
	} else {
		status = not_expected(err, "no list");
	}
	json_decref(root);
	return status;
}

/* ---- Nacos ---- */

static bool is_false(const json_t *object, const char *name)
{
	return json_is_false(json_object_get(object, name));
}

static double weight_of(const json_t *host, int64_t initial)
{
	const json_t *weight = json_object_get(host, "weight");

	if (!json_is_number(weight))
		return (double)initial;
	return json_number_value(weight) > 0 ? json_number_value(weight) : 0;
}

/* Weights are fractions there, and whole numbers here: with a fraction among them all count in hundredths. */
static double scale_of(const json_t *hosts, int64_t initial)
{
	size_t i;
	json_t *host;

	json_array_foreach(hosts, i, host)
	{
		double weight = weight_of(host, initial);

		if (weight > floor(weight))
			return 100;
	}
	return 1;
}

enum ks_status dpa_nacos_answer(struct ks_slice body, int64_t weight, struct dpa_nodes *nodes, struct ks_err *err)
{
	struct tally tally = {.nodes = nodes};
	json_t *root = load(body, err), *hosts = json_object_get(root, "hosts"), *host;
	enum ks_status status;
	double scale;
	size_t i;

	if (!root)
		return KS_DATA_LOSS;
	if (json_is_array(hosts)) {
		scale = scale_of(hosts, weight);
		json_array_foreach(hosts, i, host)
		{
			double scaled = fmin(round(weight_of(host, weight) * scale), DPA_NODE_WEIGHT_MAX);

			if (!is_false(host, "healthy") && !is_false(host, "enabled"))
				add(&tally, text_in(host, "ip"),
				    (int64_t)json_integer_value(json_object_get(host, "port")), (int64_t)scaled);
		}
		status = settle(&tally, err);
	} else {
		status = not_expected(err, "no hosts");
	}
	json_decref(root);
	return status;
}

enum ks_status dpa_nacos_token(struct ks_slice body, char **token, int64_t *ttl_s, struct ks_err *err)
{
	json_t *root = load(body, err);
	const char *text = text_in(root, "accessToken");
	const json_t *ttl = json_object_get(root, "tokenTtl");
	enum ks_status status = KS_OK;

	if (!root)
		return KS_DATA_LOSS;
	if (!text || strlen(text) > TOKEN_MAX) {
		status = not_expected(err, "no access token");
	} else {
		*token = ks_xstrdup(text);
		*ttl_s = json_is_integer(ttl) && json_integer_value(ttl) > 0 ? (int64_t)json_integer_value(ttl) : 0;
	}
	json_decref(root);
	return status;
}

/* ---- Eureka ---- */

enum ks_status dpa_eureka_apps(struct ks_slice body, json_t **apps, struct ks_err *err)
{
	json_t *root = load(body, err);
	json_t *found = json_object_get(json_object_get(root, "applications"), "application");

	if (!root)
		return KS_DATA_LOSS;
	/* Its converter writes a list of one as the element itself in some versions. */
	if (json_is_object(found))
		*apps = json_pack("[O]", found);
	else
		*apps = json_is_array(found) ? json_incref(found) : NULL;
	json_decref(root);
	return *apps ? KS_OK : not_expected(err, "no applications");
}

/* {"$": 8080, "@enabled": "true"}; 0: none. The number may be a text. */
static int64_t port_of(const json_t *instance, const char *name)
{
	const json_t *port = json_object_get(instance, name), *number = json_object_get(port, "$");
	const json_t *enabled = json_object_get(port, "@enabled");
	const char *text = json_string_value(enabled);

	if (text ? strcasecmp(text, "true") != 0 : !json_is_true(enabled))
		return 0;
	if (json_is_integer(number))
		return (int64_t)json_integer_value(number);
	text = json_string_value(number);
	return text ? strtol(text, NULL, 10) : 0;
}

static int64_t eureka_weight(const json_t *instance, int64_t initial)
{
	const json_t *weight = json_object_get(json_object_get(instance, "metadata"), "weight");
	const char *text = json_string_value(weight);
	char *end = NULL;
	long long number;

	if (json_is_integer(weight))
		return json_integer_value(weight) >= 0 ? (int64_t)json_integer_value(weight) : initial;
	if (!text)
		return initial;
	number = strtoll(text, &end, 10);
	return end == text || *end || number < 0 ? initial : number;
}

static void add_instance(struct tally *tally, const json_t *instance, int64_t weight)
{
	const char *status = text_in(instance, "status"), *host = text_in(instance, "ipAddr");
	int64_t port = port_of(instance, "port");

	if (!status || strcmp(status, "UP") != 0)
		return;
	if (!host)
		host = text_in(instance, "hostName");
	add(tally, host, port ? port : port_of(instance, "securePort"), eureka_weight(instance, weight));
}

static void add_app(struct tally *tally, const json_t *app, int64_t weight)
{
	const json_t *instances = json_object_get(app, "instance");
	size_t i;
	json_t *instance;

	if (json_is_object(instances))
		add_instance(tally, instances, weight);
	json_array_foreach(instances, i, instance) add_instance(tally, instance, weight);
}

enum ks_status dpa_eureka_answer(const json_t *apps, const char *name, int64_t weight, struct dpa_nodes *nodes,
				 struct ks_err *err)
{
	struct tally tally = {.nodes = nodes};
	size_t i;
	json_t *app;

	json_array_foreach(apps, i, app)
	{
		const char *app_name = text_in(app, "name");

		if (app_name && strcasecmp(app_name, name) == 0)
			add_app(&tally, app, weight);
	}
	return settle(&tally, err);
}
