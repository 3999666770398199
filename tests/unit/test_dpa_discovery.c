/* SPDX-License-Identifier: Apache-2.0 */
/* The promises of discovery/discovery.h that need no registry: what is added to objects, what is taken out, what is kept on disk. */
#include "tests/lib/tap.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/panic.h"
#include "discovery/discovery_priv.h"

#define NODES "[{\"host\":\"127.0.0.5\",\"port\":80,\"weight\":1}]"
#define NAMED "\"service_name\":\"db\",\"discovery_type\":\"dns\""
#define WITH_NODES NAMED ",\"nodes\":" NODES

static struct dpa_discovery *discovery;
static struct dpa_board *board;
static char folder[64], config[80], saved[80];

/* Never called: nothing is started here. */
enum ks_status dpa_replica_refresh(struct dpa_replica *replica, const struct ks_slice *keys, size_t count,
				   struct ks_err *err)
{
	(void)replica, (void)keys, (void)count;
	return ks_fail(err, KS_INTERNAL, "no replica");
}

static void write_file(const char *path, const char *text)
{
	FILE *file = fopen(path, "we");

	KS_ASSERT(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

static void set_up(const char *saved_text)
{
	struct ks_err err;

	(void)snprintf(folder, sizeof(folder), "/tmp/ks-discovery.XXXXXX");
	KS_ASSERT(mkdtemp(folder));
	(void)snprintf(config, sizeof(config), "%s/d.yml", folder);
	(void)snprintf(saved, sizeof(saved), "%s/discovery.json", folder);
	write_file(config, "discovery: {dns: {servers: [127.0.0.1:1]}, nacos: {host: ['http://127.0.0.1:1']}}");
	if (saved_text)
		write_file(saved, saved_text);
	board = dpa_board_new();
	discovery = dpa_discovery_new(config, folder, board, &err);
	KS_ASSERT(discovery);
}

static void tear_down(void)
{
	dpa_discovery_stop(discovery);
	dpa_discovery_free(discovery);
	dpa_board_free(board);
	(void)unlink(config);
	(void)unlink(saved);
	KS_ASSERT(rmdir(folder) == 0);
}

#define SAVED(nodes) "{\"format\":1,\"services\":[{\"type\":\"dns\",\"service_name\":\"db\",\"nodes\":" nodes "}]}"

/* The value that is served for 'raw' must be 'wanted'; NULL: raw itself. */
static void serves(const char *key, const char *raw, const char *wanted)
{
	struct ks_slice value = ks_slice_str(raw);
	struct ks_buf out;
	bool other;

	ks_buf_init(&out, 1 << 20);
	other = dpa_discovery_transform(discovery, ks_slice_str(key), &value, &out);
	CU_ASSERT_EQUAL(other, wanted != NULL);
	if (other && wanted) {
		CU_ASSERT(ks_slice_eq(ks_slice_of(out.data, out.size), ks_slice_str(wanted)));
		if (!ks_slice_eq(ks_slice_of(out.data, out.size), ks_slice_str(wanted)))
			printf("# %.*s\n", (int)out.size, (const char *)out.data);
	}
	ks_buf_fini(&out);
}

static void nodes_are_added_and_all_else_stays(void)
{
	set_up(SAVED(NODES));
	serves("/apisix/upstreams/1", "{\"z\":1,\"type\":\"chash\"," NAMED ",\"a\":{\"c\":1.5,\"b\":[]}}",
	       "{\"z\":1,\"type\":\"chash\"," NAMED ",\"a\":{\"c\":1.5,\"b\":[]},\"nodes\":" NODES "}");
	serves("/apisix/routes/1", "{\"uri\":\"/\",\"upstream\":{" NAMED "},\"id\":\"1\"}",
	       "{\"uri\":\"/\",\"upstream\":{" WITH_NODES "},\"id\":\"1\"}");
	serves("/apisix/services/1", "{\"upstream\":{" NAMED "}}", "{\"upstream\":{" WITH_NODES "}}");
	serves("/apisix/stream_routes/1", "{\"upstream\":{" NAMED "}}", "{\"upstream\":{" WITH_NODES "}}");
	serves("/apisix/routes/2",
	       "{\"plugins\":{\"traffic-split\":{\"rules\":[{\"weighted_upstreams\":[{\"upstream\":{" NAMED
	       "},\"weight\":1},{\"weight\":1}]}]}}}",
	       "{\"plugins\":{\"traffic-split\":{\"rules\":[{\"weighted_upstreams\":[{\"upstream\":{" WITH_NODES
	       "},\"weight\":1},{\"weight\":1}]}]}}}");
	tear_down();
}

static void a_service_without_nodes_has_an_empty_list(void)
{
	set_up(SAVED("[]"));
	serves("/apisix/upstreams/1", "{" NAMED "}", "{" NAMED ",\"nodes\":[]}");
	tear_down();
}

static void what_is_not_known_stays_as_it_is(void)
{
	set_up(SAVED(NODES));
	serves("/apisix/upstreams/1", "{\"service_name\":\"other\",\"discovery_type\":\"dns\"}", NULL);
	serves("/apisix/upstreams/2", "{\"service_name\":\"db\",\"discovery_type\":\"eureka\"}",
	       NULL); /* not configured */
	serves("/apisix/upstreams/3", "{\"service_name\":\"db\",\"discovery_type\":\"kubernetes\"}", NULL);
	serves("/apisix/upstreams/4", "{\"service_name\":\"db\"}", NULL);
	serves("/apisix/upstreams/5", "{\"service_name\":7,\"discovery_type\":\"dns\"}", NULL);
	serves("/apisix/upstreams/6", "{" NAMED, NULL);
	serves("/apisix/upstreams/7", "[{" NAMED "}]", NULL);
	serves("/apisix/upstreams/8", "", NULL);
	serves("/apisix/plugin_metadata/x", "{" NAMED "}", NULL);
	serves("x", "{" NAMED "}", NULL);
	tear_down();
}

static size_t uses_of(const char *name)
{
	char *text = dpa_discovery_json(discovery);
	json_t *services = json_loads(text, 0, NULL), *service;
	size_t i, uses = 0;

	json_array_foreach(services, i, service)
	{
		if (strcmp(json_string_value(json_object_get(service, "service_name")), name) == 0)
			uses += (size_t)json_integer_value(json_object_get(service, "uses"));
	}
	json_decref(services);
	free(text);
	return uses;
}

static void a_service_is_wanted_while_a_key_names_it(void)
{
	set_up(NULL);
	serves("/apisix/upstreams/1", "{" NAMED "}", NULL);
	serves("/apisix/upstreams/2", "{" NAMED "}", NULL);
	CU_ASSERT_EQUAL(uses_of("db"), 2);
	CU_ASSERT_EQUAL(discovery->service_count, 1);
	serves("/apisix/upstreams/1", "{\"service_name\":\"web\",\"discovery_type\":\"dns\"}", NULL);
	CU_ASSERT(uses_of("db") == 1 && uses_of("web") == 1);
	serves("/apisix/upstreams/1", "{\"nodes\":[]}", NULL);
	CU_ASSERT(uses_of("db") == 1 && uses_of("web") == 0);
	CU_ASSERT_FALSE(dpa_discovery_transform(discovery, ks_slice_str("/apisix/upstreams/2"), NULL, NULL));
	CU_ASSERT_EQUAL(uses_of("db"), 0);
	CU_ASSERT_PTR_NULL(discovery->keys);
	tear_down();
}

static void arguments_make_another_service_for_nacos_only(void)
{
	set_up(NULL);
	serves("/apisix/upstreams/1", "{\"service_name\":\"db\",\"discovery_type\":\"nacos\"}", NULL);
	serves("/apisix/upstreams/2",
	       "{\"service_name\":\"db\",\"discovery_type\":\"nacos\",\"discovery_args\":{\"namespace_id\":\"n\","
	       "\"group_name\":\"g\"}}",
	       NULL);
	serves("/apisix/upstreams/3", "{" NAMED "}", NULL);
	serves("/apisix/upstreams/4", "{" NAMED ",\"discovery_args\":{\"namespace_id\":\"n\"}}", NULL);
	CU_ASSERT_EQUAL(discovery->service_count, 3);
	tear_down();
}

static void services_have_a_limit(void)
{
	char key[64], value[128], name[DPA_SERVICE_NAME_MAX + 2];

	set_up(NULL);
	for (int i = 0; i < DPA_SERVICES_MAX + 10; i++) {
		(void)snprintf(key, sizeof(key), "/apisix/upstreams/%d", i);
		(void)snprintf(value, sizeof(value), "{\"service_name\":\"s%d\",\"discovery_type\":\"dns\"}", i);
		serves(key, value, NULL);
	}
	CU_ASSERT_EQUAL(discovery->service_count, DPA_SERVICES_MAX);
	CU_ASSERT(discovery->full);
	tear_down();
	set_up(NULL);
	memset(name, 'a', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	ks_mutex_lock(&discovery->lock);
	CU_ASSERT_PTR_NULL(dpa_service_get(discovery, DPA_DNS, name, "", ""));
	CU_ASSERT_PTR_NULL(dpa_service_get(discovery, DPA_DNS, "", "", ""));
	ks_mutex_unlock(&discovery->lock);
	tear_down();
}

static void strips(const char *value, const char *wanted)
{
	struct ks_buf out;
	bool other;

	ks_buf_init(&out, 1 << 20);
	other = dpa_discovery_strip(ks_slice_str(value), &out);
	CU_ASSERT_EQUAL(other, wanted != NULL);
	if (other && wanted)
		CU_ASSERT(ks_slice_eq(ks_slice_of(out.data, out.size), ks_slice_str(wanted)));
	ks_buf_fini(&out);
}

static void nodes_are_taken_out_again(void)
{
	strips("{\"a\":1," WITH_NODES "}", "{\"a\":1," NAMED "}");
	strips("{\"upstream\":{" WITH_NODES "},\"b\":[]}", "{\"upstream\":{" NAMED "},\"b\":[]}");
	strips("{" NAMED "}", NULL);
	strips("{\"nodes\":[],\"type\":\"x\"}", NULL);
	strips("{\"service_name\":\"db\",\"nodes\":[]}", NULL);
	strips("no JSON with \"service_name\"", NULL);
}

static void what_was_found_is_kept_for_the_owner_only(void)
{
	struct dpa_nodes nodes = {0};
	struct dpa_service *service;
	struct stat file;
	struct ks_err err;

	set_up(NULL);
	ks_mutex_lock(&discovery->lock);
	service = dpa_service_get(discovery, DPA_NACOS, "db", "n", "g");
	ks_mutex_unlock(&discovery->lock);
	CU_ASSERT(dpa_nodes_add(&nodes, "b", 2, 3, -4) && dpa_nodes_add(&nodes, "a", 0, 1, 0));
	dpa_nodes_settle(&nodes);
	dpa_service_answered(service, &nodes);
	CU_ASSERT_EQUAL(dpa_saved_write(discovery, &err), KS_OK);
	CU_ASSERT_FATAL(stat(saved, &file) == 0);
	CU_ASSERT_EQUAL(file.st_mode & 07777, 0600);
	dpa_discovery_free(discovery);
	discovery = dpa_discovery_new(config, folder, board, &err);
	KS_ASSERT(discovery);
	CU_ASSERT_EQUAL_FATAL(discovery->service_count, 1);
	service = discovery->services[0];
	CU_ASSERT(service->known && service->nodes.count == 2 && service->refs == 0);
	CU_ASSERT_STRING_EQUAL(service->nodes.list[1].host, "b");
	CU_ASSERT(service->nodes.list[1].priority == -4 && service->nodes.list[0].port == 0);
	CU_ASSERT_STRING_EQUAL(service->group_name, "g");
	tear_down();
}

static void damaged_files_are_no_nodes(void)
{
	static const char *const bad[] = {"",
					  "{",
					  "[]",
					  "{\"format\":2,\"services\":[]}",
					  SAVED("7"),
					  SAVED("[{\"host\":\"a b\",\"port\":1}]"),
					  SAVED("[{\"host\":\"a\",\"port\":\"1\"}]"),
					  SAVED("[{\"port\":1}]")};

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		set_up(bad[i]);
		CU_ASSERT_EQUAL(discovery->service_count, 0);
		tear_down();
	}
}

static void a_file_that_cannot_be_written_is_an_error(void)
{
	struct ks_err err;

	set_up(NULL);
	free(discovery->path);
	KS_ASSERT(asprintf(&discovery->path, "%s/none/discovery.json", folder) > 0);
	CU_ASSERT_EQUAL(dpa_saved_write(discovery, &err), KS_UNAVAILABLE);
	tear_down();
}

int main(void)
{
	return tap_run("dpa_discovery",
		       (const struct tap_test[]){
			       {"nodes_are_added_and_all_else_stays", nodes_are_added_and_all_else_stays},
			       {"a_service_without_nodes_has_an_empty_list", a_service_without_nodes_has_an_empty_list},
			       {"what_is_not_known_stays_as_it_is", what_is_not_known_stays_as_it_is},
			       {"a_service_is_wanted_while_a_key_names_it", a_service_is_wanted_while_a_key_names_it},
			       {"arguments_make_another_service_for_nacos_only",
				arguments_make_another_service_for_nacos_only},
			       {"services_have_a_limit", services_have_a_limit},
			       {"nodes_are_taken_out_again", nodes_are_taken_out_again},
			       {"what_was_found_is_kept_for_the_owner_only", what_was_found_is_kept_for_the_owner_only},
			       {"damaged_files_are_no_nodes", damaged_files_are_no_nodes},
			       {"a_file_that_cannot_be_written_is_an_error", a_file_that_cannot_be_written_is_an_error},
			       {NULL, NULL},
		       });
}
