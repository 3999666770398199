/* SPDX-License-Identifier: Apache-2.0 */
/* The promises of discovery/answers.h and discovery/nodes.h. */
#include "tests/lib/tap.h"

#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "discovery/answers.h"

static struct ks_err err;

/* Nodes as JSON must be 'wanted'. */
static void shows(struct dpa_nodes *nodes, const char *wanted)
{
	json_t *json = dpa_nodes_json(nodes);
	char *text = json_dumps(json, JSON_COMPACT);

	CU_ASSERT_STRING_EQUAL(text, wanted);
	if (strcmp(text, wanted) != 0)
		printf("# %s\n", text);
	free(text);
	json_decref(json);
	dpa_nodes_fini(nodes);
}

static void consul(const char *body, const char *wanted)
{
	struct dpa_nodes nodes = {0};

	CU_ASSERT_EQUAL(dpa_consul_answer(ks_slice_str(body), 2, &nodes, &err), KS_OK);
	shows(&nodes, wanted);
}

static void consul_gives_addresses_and_weights(void)
{
	consul("[]", "[]");
	consul("[{\"Node\":{\"Address\":\"10.0.0.9\"},\"Service\":{\"Address\":\"\",\"Port\":80,\"Weights\":{"
	       "\"Passing\":3}}},"
	       "{\"Node\":{\"Address\":\"10.0.0.9\"},\"Service\":{\"Address\":\"10.0.0.1\",\"Port\":81}}]",
	       "[{\"host\":\"10.0.0.1\",\"port\":81,\"weight\":2},{\"host\":\"10.0.0.9\",\"port\":80,\"weight\":6}]");
	/* What makes no sense is left out while something does. */
	consul("[{\"Service\":{\"Address\":\"a b\",\"Port\":80}},{\"Service\":{\"Address\":\"a\",\"Port\":65536}},"
	       "{\"Service\":{\"Address\":\"a\",\"Port\":-1}},7,{\"Service\":{\"Address\":\"fd00::1\",\"Port\":1}}]",
	       "[{\"host\":\"[fd00::1]\",\"port\":1,\"weight\":2}]");
}

static void nacos(const char *body, const char *wanted)
{
	struct dpa_nodes nodes = {0};

	CU_ASSERT_EQUAL(dpa_nacos_answer(ks_slice_str(body), 100, &nodes, &err), KS_OK);
	shows(&nodes, wanted);
}

static void nacos_gives_healthy_and_enabled_instances(void)
{
	nacos("{\"hosts\":[]}", "[]");
	nacos("{\"hosts\":[{\"ip\":\"10.0.0.1\",\"port\":80,\"weight\":1.0,\"healthy\":true,\"enabled\":true},"
	      "{\"ip\":\"10.0.0.2\",\"port\":80,\"weight\":1.0,\"healthy\":false,\"enabled\":true},"
	      "{\"ip\":\"10.0.0.3\",\"port\":80,\"weight\":1.0,\"healthy\":true,\"enabled\":false},"
	      "{\"ip\":\"10.0.0.4\",\"port\":80}]}",
	      "[{\"host\":\"10.0.0.1\",\"port\":80,\"weight\":1},{\"host\":\"10.0.0.4\",\"port\":80,\"weight\":100}]");
	/* Fractions: all in hundredths. Numbers without sense are bounded. */
	nacos("{\"hosts\":[{\"ip\":\"10.0.0.1\",\"port\":80,\"weight\":0.5},{\"ip\":\"10.0.0.2\",\"port\":80,"
	      "\"weight\":2},"
	      "{\"ip\":\"10.0.0.3\",\"port\":80,\"weight\":1e300},{\"ip\":\"10.0.0.4\",\"port\":80,\"weight\":-1}]}",
	      "[{\"host\":\"10.0.0.1\",\"port\":80,\"weight\":50},{\"host\":\"10.0.0.2\",\"port\":80,\"weight\":200},"
	      "{\"host\":\"10.0.0.3\",\"port\":80,\"weight\":1000000},{\"host\":\"10.0.0.4\",\"port\":80,\"weight\":0}"
	      "]");
}

static void nacos_tokens_are_read(void)
{
	char *token = NULL;
	int64_t ttl_s = -1;

	CU_ASSERT_EQUAL(
		dpa_nacos_token(ks_slice_str("{\"accessToken\":\"abc\",\"tokenTtl\":18000}"), &token, &ttl_s, &err),
		KS_OK);
	CU_ASSERT_STRING_EQUAL(token, "abc");
	CU_ASSERT_EQUAL(ttl_s, 18000);
	free(token);
	CU_ASSERT_EQUAL(dpa_nacos_token(ks_slice_str("{\"accessToken\":\"\"}"), &token, &ttl_s, &err), KS_DATA_LOSS);
	CU_ASSERT_EQUAL(dpa_nacos_token(ks_slice_str("unknown user!"), &token, &ttl_s, &err), KS_DATA_LOSS);
}

#define INSTANCE(host, status, port, enabled, secure)                                                         \
	"{\"ipAddr\":\"" host "\",\"status\":\"" status "\",\"port\":{\"$\":" port ",\"@enabled\":\"" enabled \
	"\"},\"securePort\":{\"$\":443,\"@enabled\":\"" secure "\"},\"metadata\":{\"weight\":\"7\"}}"

static void eureka(const char *body, const char *name, const char *wanted)
{
	struct dpa_nodes nodes = {0};
	json_t *apps = NULL;

	CU_ASSERT_EQUAL_FATAL(dpa_eureka_apps(ks_slice_str(body), &apps, &err), KS_OK);
	CU_ASSERT_EQUAL(dpa_eureka_answer(apps, name, 100, &nodes, &err), KS_OK);
	shows(&nodes, wanted);
	json_decref(apps);
}

static void eureka_gives_what_is_up(void)
{
	static const char many[] = "{\"applications\":{\"application\":[{\"name\":\"ONE\",\"instance\":[" INSTANCE(
		"10.0.0.1", "UP", "80", "true",
		"false") "," INSTANCE("10.0.0.2", "DOWN", "80", "true",
				      "false") "," INSTANCE("10.0.0.3", "UP", "\"80\"", "false",
							    "true") "]},{\"name\":\"TWO\","
								    "\"instance\":" INSTANCE("10.0.0.4", "UP", "\"81\"",
											     "true", "true") "}]}}";

	eureka(many, "one",
	       "[{\"host\":\"10.0.0.1\",\"port\":80,\"weight\":7},{\"host\":\"10.0.0.3\",\"port\":443,\"weight\":7}]");
	eureka(many, "TWO", "[{\"host\":\"10.0.0.4\",\"port\":81,\"weight\":7}]");
	eureka(many, "THREE", "[]");
	eureka("{\"applications\":{\"application\":{\"name\":\"ONE\"}}}", "ONE", "[]");
}

static void other_answers_are_errors(void)
{
	static const char *const bad[] = {"", "<html>", "{}", "null", "7", "{\"hosts\":7}", "{\"applications\":{}}"};
	struct dpa_nodes nodes = {0};
	json_t *apps = NULL;

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		CU_ASSERT_EQUAL(dpa_consul_answer(ks_slice_str(bad[i]), 1, &nodes, &err), KS_DATA_LOSS);
		CU_ASSERT_EQUAL(dpa_nacos_answer(ks_slice_str(bad[i]), 1, &nodes, &err), KS_DATA_LOSS);
		CU_ASSERT_EQUAL(dpa_eureka_apps(ks_slice_str(bad[i]), &apps, &err), KS_DATA_LOSS);
		CU_ASSERT_EQUAL(nodes.count, 0);
	}
	/* Nodes, but none of them can be one: that must not empty a service. */
	CU_ASSERT_EQUAL(dpa_consul_answer(ks_slice_str("[{\"Service\":{}}]"), 1, &nodes, &err), KS_DATA_LOSS);
	CU_ASSERT_EQUAL(nodes.count, 0);
}

static void too_many_nodes_are_an_error(void)
{
	struct dpa_nodes nodes = {0};
	struct ks_buf body;

	ks_buf_init(&body, DPA_ANSWER_MAX);
	ks_buf_append(&body, "{\"hosts\":[", 10);
	for (int i = 0; i <= DPA_NODES_MAX; i++)
		ks_buf_printf(&body, "%s{\"ip\":\"h%d\",\"port\":1}", i ? "," : "", i);
	ks_buf_append(&body, "]}", 2);
	CU_ASSERT_EQUAL(dpa_nacos_answer(ks_slice_of(body.data, body.size), 1, &nodes, &err), KS_RESOURCE_EXHAUSTED);
	CU_ASSERT_EQUAL(nodes.count, 0);
	ks_buf_fini(&body);
}

static void nodes_have_an_order_of_their_own(void)
{
	struct dpa_nodes a = {0}, b = {0};

	CU_ASSERT(dpa_nodes_add(&a, "b", 1, 1, 0) && dpa_nodes_add(&a, "a", 2, 1, 0) &&
		  dpa_nodes_add(&a, "a", 1, 1, -3) && dpa_nodes_add(&a, "a", 1, 1, 0) &&
		  dpa_nodes_add(&a, "b", 1, 9, 0));
	CU_ASSERT(dpa_nodes_add(&b, "a", 1, 1, 0) && dpa_nodes_add(&b, "b", 1, 9, 0) &&
		  dpa_nodes_add(&b, "a", 2, 1, 0) && dpa_nodes_add(&b, "a", 1, 1, -3));
	dpa_nodes_settle(&a);
	dpa_nodes_settle(&b);
	CU_ASSERT(dpa_nodes_equal(&a, &b));
	shows(&b, "[{\"host\":\"a\",\"port\":1,\"weight\":1},{\"host\":\"a\",\"port\":1,\"weight\":1,\"priority\":-3},"
		  "{\"host\":\"a\",\"port\":2,\"weight\":1},{\"host\":\"b\",\"port\":1,\"weight\":9}]");
	dpa_nodes_fini(&a);
}

static void hosts_are_names_or_addresses(void)
{
	static const char *const good[] = {"a", "a-b.c_d", "10.0.0.1", "fd00::1", "[fd00::1]", "xn--a"};
	static const char *const bad[] = {"",     "a b", "a/b",      "-a",  ".a", "a..b",
					  "a:80", "[a]", "[fd00::1", "a\n", "ä",  "http://a"};

	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++)
		CU_ASSERT(dpa_host_valid(good[i]));
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		CU_ASSERT(!dpa_host_valid(bad[i]));
}

/* ---- DNS ---- */

#define HEADER(answers) "\x12\x34\x81\x80\0\1\0" answers "\0\0\0\0"
#define QUESTION(type) "\1a\4test\0\0" type "\0\1"
#define NAME "\xc0\x0c"
#define BYTES(text) ks_slice_of(text, sizeof(text) - 1)

static void addresses_of_dns_are_read(void)
{
	static const char message[] = HEADER("\3") QUESTION("\1") NAME "\0\5\0\1\0\0\0\x05\0\2" NAME NAME
								       "\0\1\0\1\0\0\0\x07\0\4\x7f\0\0\5" NAME
								       "\0\1\0\1\0\0\0\x0a\0\4\x7f\0\0\6";
	struct dpa_dns_records records;

	CU_ASSERT_EQUAL_FATAL(dpa_dns_answer(BYTES(message), DPA_DNS_TYPE_A, &records, &err), KS_OK);
	CU_ASSERT_EQUAL_FATAL(records.count, 2);
	CU_ASSERT_STRING_EQUAL(records.list[0].host, "127.0.0.5");
	CU_ASSERT_STRING_EQUAL(records.list[1].host, "127.0.0.6");
	CU_ASSERT_EQUAL(records.ttl_s, 5); /* the CNAME's, too */
	free(records.list);
	CU_ASSERT_EQUAL_FATAL(dpa_dns_answer(BYTES(message), DPA_DNS_TYPE_AAAA, &records, &err), KS_OK);
	CU_ASSERT_EQUAL(records.count, 0);
	free(records.list);
}

static void srv_records_are_read(void)
{
	static const char message[] = HEADER("\2") QUESTION("\x21") NAME
		"\0\x21\0\1\0\0\1\0\0\x0a\0\5\0\x14\x1f\x91\1b" NAME NAME "\0\x21\0\1\0\0\1\0\0\7\0\0\0\0\0\0\0";
	struct dpa_dns_records records;

	CU_ASSERT_EQUAL_FATAL(dpa_dns_answer(BYTES(message), DPA_DNS_TYPE_SRV, &records, &err), KS_OK);
	CU_ASSERT_EQUAL_FATAL(records.count, 2);
	CU_ASSERT_STRING_EQUAL(records.list[0].host, "b.a.test");
	CU_ASSERT(records.list[0].priority == 5 && records.list[0].weight == 20 && records.list[0].port == 8081);
	CU_ASSERT_STRING_EQUAL(records.list[1].host, "");
	CU_ASSERT_EQUAL(records.ttl_s, 256);
	free(records.list);
}

static void damaged_messages_are_errors(void)
{
	static const char message[] = HEADER("\1") QUESTION("\1") NAME "\0\1\0\1\0\0\0\x07\0\4\x7f\0\0\5";
	struct dpa_dns_records records;

	for (size_t size = 0; size < sizeof(message) - 1; size++) {
		char *cut = malloc(size ? size : 1); /* exactly as large, for the sanitizer */

		memcpy(cut, message, size);
		CU_ASSERT_NOT_EQUAL(dpa_dns_answer(ks_slice_of(cut, size), DPA_DNS_TYPE_A, &records, &err), KS_OK);
		CU_ASSERT_PTR_NULL(records.list);
		free(cut);
	}
}

int main(void)
{
	return tap_run("dpa_discovery_answers",
		       (const struct tap_test[]){
			       {"consul_gives_addresses_and_weights", consul_gives_addresses_and_weights},
			       {"nacos_gives_healthy_and_enabled_instances", nacos_gives_healthy_and_enabled_instances},
			       {"nacos_tokens_are_read", nacos_tokens_are_read},
			       {"eureka_gives_what_is_up", eureka_gives_what_is_up},
			       {"other_answers_are_errors", other_answers_are_errors},
			       {"too_many_nodes_are_an_error", too_many_nodes_are_an_error},
			       {"nodes_have_an_order_of_their_own", nodes_have_an_order_of_their_own},
			       {"hosts_are_names_or_addresses", hosts_are_names_or_addresses},
			       {"addresses_of_dns_are_read", addresses_of_dns_are_read},
			       {"srv_records_are_read", srv_records_are_read},
			       {"damaged_messages_are_errors", damaged_messages_are_errors},
			       {NULL, NULL},
		       });
}
