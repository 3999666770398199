/* SPDX-License-Identifier: Apache-2.0 */
/* The promises of kineshim/options.h: forms of flags, precedence, values with units, the configuration file, and errors that help. */
#include "tests/lib/tap.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kineshim/option_values.h"
#include "kineshim/options.h"

static const char *const *environment; /* pairs of name and value */

static char *fake_getenv(const char *name)
{
	for (const char *const *pair = environment; pair && *pair; pair += 2)
		if (strcmp(pair[0], name) == 0)
			return (char *)(uintptr_t)pair[1];
	return NULL;
}

static struct ks_options options;
static struct ks_err err;

#define MAX_ARGS 8

static enum ks_status parse(const char *const args[])
{
	char *argv[MAX_ARGS + 1] = {(char *)(uintptr_t) "kineshim"};
	int argc = 1;

	for (; args[argc - 1] && argc < MAX_ARGS; argc++)
		argv[argc] = (char *)(uintptr_t)args[argc - 1];
	err = (struct ks_err){0};
	ks_options_fini(&options);
	return ks_options_parse(&options, argc, argv, fake_getenv, &err);
}

#define PARSE(...) parse((const char *const[]){__VA_ARGS__, NULL})

static void defaults_serve_sqlite_on_localhost(void)
{
	CU_ASSERT_EQUAL_FATAL(parse((const char *const[]){NULL}), KS_OK);
	CU_ASSERT_STRING_EQUAL(options.endpoint, "sqlite://");
	CU_ASSERT_STRING_EQUAL(options.listen_client_urls, "http://localhost:2379");
	CU_ASSERT_STRING_EQUAL(options.advertise_client_urls, "http://localhost:2379");
	CU_ASSERT_EQUAL(options.max_txn_ops, 128);
	CU_ASSERT_EQUAL(options.max_request_bytes, 1572864);
	CU_ASSERT_EQUAL(options.watch_progress_notify_interval, 600000);
	CU_ASSERT_EQUAL(options.log_level, KS_INFO);
	CU_ASSERT_FALSE(options.help || options.version || options.verbose);
}

static void flags_take_one_dash_or_two_and_both_forms_of_value(void)
{
	CU_ASSERT_EQUAL(PARSE("--name=a", "-data-dir", "/d", "--max-txn-ops", "9", "-log-level=debug"), KS_OK);
	CU_ASSERT_STRING_EQUAL(options.name, "a");
	CU_ASSERT_STRING_EQUAL(options.data_dir, "/d");
	CU_ASSERT_EQUAL(options.max_txn_ops, 9);
	CU_ASSERT_EQUAL(options.log_level, KS_DEBUG);
	CU_ASSERT_EQUAL(PARSE("--name="), KS_OK);
	CU_ASSERT_STRING_EQUAL(options.name, "");
	CU_ASSERT_EQUAL(PARSE("-h"), KS_OK);
	CU_ASSERT_TRUE(options.help);
	CU_ASSERT_EQUAL(PARSE("--version", "--verbose=true"), KS_OK);
	CU_ASSERT_TRUE(options.version && options.verbose);
}

static void flag_wins_over_environment_and_that_over_the_default(void)
{
	static const char *const pairs[] = {
		"KINESHIM_NAME", "env", "KINESHIM_MAX_TXN_OPS", "7", "KINESHIM_DATA_DIR", "", NULL};

	environment = pairs;
	CU_ASSERT_EQUAL(PARSE("--name", "flag"), KS_OK);
	CU_ASSERT_STRING_EQUAL(options.name, "flag");
	CU_ASSERT_EQUAL(options.max_txn_ops, 7);
	CU_ASSERT_STRING_EQUAL(options.data_dir, "kineshim.data");
	environment = NULL;
}

static void bad_environment_is_named(void)
{
	static const char *const pairs[] = {"KINESHIM_MAX_TXN_OPS", "many", NULL};

	environment = pairs;
	CU_ASSERT_EQUAL(PARSE("--name", "x"), KS_INVALID_ARGUMENT);
	CU_ASSERT_STRING_EQUAL(err.text, "KINESHIM_MAX_TXN_OPS: \"many\" is not a number from 1 to 1000000");
	environment = NULL;
}

static void advertised_urls_follow_the_listen_urls(void)
{
	CU_ASSERT_EQUAL(PARSE("--listen-client-urls=http://10.0.0.1:2379"), KS_OK);
	CU_ASSERT_STRING_EQUAL(options.advertise_client_urls, "http://10.0.0.1:2379");
	CU_ASSERT_EQUAL(PARSE("--listen-client-urls=http://0.0.0.0:1", "--advertise-client-urls=http://a:1"), KS_OK);
	CU_ASSERT_STRING_EQUAL(options.advertise_client_urls, "http://a:1");
}

static void lists_of_urls_may_have_blanks(void)
{
	CU_ASSERT_EQUAL(PARSE("--listen-client-urls", " http://a:1 ,\thttp://b:2,unix:///a b "), KS_OK);
	CU_ASSERT_STRING_EQUAL(options.listen_client_urls, "http://a:1,http://b:2,unix:///a b");
	CU_ASSERT_STRING_EQUAL(options.advertise_client_urls, "http://a:1,http://b:2,unix:///a b");
	CU_ASSERT_EQUAL(PARSE("--listen-client-urls", " , "), KS_OK);
	CU_ASSERT_STRING_EQUAL(options.listen_client_urls, ",");
	CU_ASSERT_EQUAL(PARSE("--listen-metrics-urls", " "), KS_OK);
	CU_ASSERT_STRING_EQUAL(options.listen_metrics_urls, "");
}

static void unknown_flags_get_the_nearest_name(void)
{
	CU_ASSERT_EQUAL(PARSE("--listen-client-url=x"), KS_INVALID_ARGUMENT);
	CU_ASSERT_STRING_EQUAL(err.text, "unknown flag --listen-client-url; did you mean --listen-client-urls?");
	CU_ASSERT_EQUAL(PARSE("--endpoints", "x"), KS_INVALID_ARGUMENT);
	CU_ASSERT_STRING_EQUAL(err.text, "unknown flag --endpoints; did you mean --endpoint?");
	CU_ASSERT_EQUAL(PARSE("--zzzzzz"), KS_INVALID_ARGUMENT);
	CU_ASSERT_STRING_EQUAL(err.text, "unknown flag --zzzzzz; see --help");
	CU_ASSERT_EQUAL(PARSE("--=x"), KS_INVALID_ARGUMENT);
}

static void errors_say_what_would_be_right(void)
{
	char longest[8192];

	CU_ASSERT_EQUAL(PARSE("--name"), KS_INVALID_ARGUMENT);
	CU_ASSERT_STRING_EQUAL(err.text, "--name needs a value");
	CU_ASSERT_EQUAL(PARSE("serve"), KS_INVALID_ARGUMENT);
	CU_ASSERT_STRING_EQUAL(err.text, "\"serve\" is not a flag; see --help");
	CU_ASSERT_EQUAL(PARSE("--"), KS_INVALID_ARGUMENT);
	CU_ASSERT_EQUAL(PARSE("-"), KS_INVALID_ARGUMENT);
	CU_ASSERT_EQUAL(PARSE(""), KS_INVALID_ARGUMENT);
	CU_ASSERT_EQUAL(PARSE("--max-txn-ops=0"), KS_INVALID_ARGUMENT);
	CU_ASSERT_EQUAL(PARSE("--max-txn-ops=5x"), KS_INVALID_ARGUMENT);
	CU_ASSERT_EQUAL(PARSE("--value-cache-bytes=much"), KS_INVALID_ARGUMENT);
	CU_ASSERT_STRING_EQUAL(err.text, "--value-cache-bytes: \"much\" is not a size such as 64MiB");
	CU_ASSERT_EQUAL(PARSE("--watch-progress-notify-interval=5"), KS_INVALID_ARGUMENT);
	CU_ASSERT_EQUAL(PARSE("--watch-progress-notify-interval=5ms"), KS_INVALID_ARGUMENT);
	CU_ASSERT_EQUAL(PARSE("--log-level=loud"), KS_INVALID_ARGUMENT);
	CU_ASSERT_EQUAL(PARSE("--log-format=xml"), KS_INVALID_ARGUMENT);
	CU_ASSERT_EQUAL(PARSE("--help=perhaps"), KS_INVALID_ARGUMENT);
	memset(longest, 'x', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = '\0';
	longest[0] = '-';
	CU_ASSERT_EQUAL(PARSE(longest), KS_INVALID_ARGUMENT);
}

static void sizes_have_binary_units(void)
{
	static const struct {
		const char *text;
		int64_t bytes; /* -1: malformed */
	} cases[] = {{"0", 0},        {"100", 100},        {"1k", 1024},
		     {"2KiB", 2048},  {"64MiB", 64 << 20}, {"64mb", 64 << 20},
		     {"1G", 1 << 30}, {"7B", 7},           {"3TiB", INT64_C(3) << 40},
		     {"", -1},        {"-1", -1},          {"1.5G", -1},
		     {"M", -1},       {"1 M", -1},         {"99999999999999999999", -1}};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		int64_t bytes;
		bool fine = ks_parse_bytes(cases[i].text, &bytes);

		CU_ASSERT_EQUAL(fine, cases[i].bytes >= 0);
		if (fine)
			CU_ASSERT_EQUAL(bytes, cases[i].bytes);
	}
	CU_ASSERT_FALSE(ks_parse_bytes("9000000000TiB", &(int64_t){0}));
}

static void times_are_written_as_in_go(void)
{
	static const struct {
		const char *text;
		int64_t ms; /* -1: malformed */
	} cases[] = {{"10m", 600000},   {"1h30m", 5400000}, {"500ms", 500},
		     {"2s", 2000},      {"0", 0},           {"1m1s1ms", 61001},
		     {"1.5h", 5400000}, {".5s", 500},       {"2.s", 2000},
		     {"250us", 1},      {"1500\u00b5s", 2}, {"3000000ns", 3},
		     {".s", -1},        {"1..5s", -1},      {"", -1},
		     {"5", -1},         {"m", -1},          {"5d", -1},
		     {"-1s", -1},       {"1s ", -1},        {"9999999999999999h", -1}};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		int64_t ms;
		bool fine = ks_parse_time(cases[i].text, &ms);

		CU_ASSERT_EQUAL(fine, cases[i].ms >= 0);
		if (fine)
			CU_ASSERT_EQUAL(ms, cases[i].ms);
	}
}

static char *written(void (*write)(FILE *out))
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	CU_ASSERT_PTR_NOT_NULL_FATAL(out);
	write(out);
	(void)fclose(out);
	return text;
}

static int run_nothing(int argc, char *argv[])
{
	(void)argc;
	(void)argv;
	return 0;
}

static const struct ks_tool tools[] = {{"restore", "a summary", run_nothing}, {NULL, NULL, NULL}};

static void write_help(FILE *out)
{
	ks_options_help(out, tools);
}

static void help_names_every_flag_with_its_default_in_80_columns(void)
{
	char *text = written(write_help);
	size_t longest = 0;

#define GROUP(title)
#define OPTION(kind, member, flag, initial, least, most, help) CU_ASSERT_PTR_NOT_NULL(strstr(text, "  --" flag));
#define ALIAS(flag, of) CU_ASSERT_PTR_NOT_NULL(strstr(text, "--" flag));
#define IGNORED(kind, flag, why) CU_ASSERT_PTR_NOT_NULL(strstr(text, "--" flag));
#define REFUSED(kind, flag, harmless, advice) CU_ASSERT_PTR_NOT_NULL(strstr(text, "--" flag));
#include "kineshim/options_table.h"
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "[http://localhost:2379]"));
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "  restore     a summary\n"));
	for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n')
		longest = strcspn(line, "\n") > longest ? strcspn(line, "\n") : longest;
	CU_ASSERT_TRUE(longest <= 100);
	free(text);
}

static void no_two_flags_have_one_name(void)
{
	static const char *const flags[] = {
#define GROUP(title)
#define OPTION(kind, member, flag, initial, least, most, help) flag,
#define ALIAS(flag, of) flag,
#define IGNORED(kind, flag, why) flag,
#define REFUSED(kind, flag, harmless, advice) flag,
#include "kineshim/options_table.h"
	};

	for (size_t i = 0; i < sizeof(flags) / sizeof(*flags); i++)
		for (size_t j = 0; j < i; j++)
			CU_ASSERT_STRING_NOT_EQUAL(flags[i], flags[j]);
}

/* ---- what etcd has and we have not ---- */

static void flags_of_etcd_are_accepted_without_effect(void)
{
	CU_ASSERT_EQUAL(PARSE("--snapshot-count=10000", "--listen-peer-urls", "http://10.0.0.1:2380",
			      "--experimental-initial-corrupt-check", "-peer-client-cert-auth=true"),
			KS_OK);
	CU_ASSERT_TRUE(ks_options_given(&options, "snapshot-count"));
	CU_ASSERT_TRUE(ks_options_given(&options, "peer-client-cert-auth"));
	CU_ASSERT_FALSE(ks_options_given(&options, "wal-dir"));
	CU_ASSERT_EQUAL(PARSE("--snapshot-count=many"), KS_INVALID_ARGUMENT);
	CU_ASSERT_STRING_EQUAL(err.text, "--snapshot-count: \"many\" is not a number");
	CU_ASSERT_EQUAL(PARSE("--pre-vote=false"), KS_OK);
	CU_ASSERT_FALSE(ks_options_given(&options, "pre-vote"));
}

static void switches_take_their_value_only_behind_an_equals_sign(void)
{
	CU_ASSERT_EQUAL(PARSE("--peer-auto-tls", "true"), KS_INVALID_ARGUMENT);
	CU_ASSERT_STRING_EQUAL(err.text, "\"true\" is not a flag; write --peer-auto-tls=true");
	CU_ASSERT_EQUAL(PARSE("--peer-auto-tls=T", "--name=x"), KS_OK);
	CU_ASSERT_STRING_EQUAL(options.name, "x");
	CU_ASSERT_EQUAL(PARSE("--peer-auto-tls=yes"), KS_INVALID_ARGUMENT);
}

static void older_names_set_the_new_ones(void)
{
	static const char *const pairs[] = {"KINESHIM_EXPERIMENTAL_WATCH_PROGRESS_NOTIFY_INTERVAL", "7s", NULL};

	CU_ASSERT_EQUAL(PARSE("--experimental-watch-progress-notify-interval=5s"), KS_OK);
	CU_ASSERT_EQUAL(options.watch_progress_notify_interval, 5000);
	CU_ASSERT_TRUE(ks_options_given(&options, "watch-progress-notify-interval"));
	environment = pairs;
	CU_ASSERT_EQUAL(PARSE(NULL), KS_OK);
	CU_ASSERT_EQUAL(options.watch_progress_notify_interval, 7000);
	environment = NULL;
}

static void what_would_mislead_is_refused_with_advice(void)
{
	CU_ASSERT_EQUAL(PARSE("--proxy=off", "--force-new-cluster=false"), KS_OK);
	CU_ASSERT_EQUAL(PARSE("--proxy=on"), KS_INVALID_ARGUMENT);
	CU_ASSERT_STRING_EQUAL(err.text, "--proxy: kineshim is no proxy: point the clients at the server itself");
	CU_ASSERT_EQUAL(PARSE("--force-new-cluster"), KS_INVALID_ARGUMENT);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "kineshim restore"));
	CU_ASSERT_EQUAL(PARSE("--initial-cluster=a=http://a:2380"), KS_OK);
	CU_ASSERT_EQUAL(PARSE("--initial-cluster=a=http://a:2380,b=http://b:2380"), KS_INVALID_ARGUMENT);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "initial-cluster names 2 members"));
	CU_ASSERT_EQUAL(PARSE("--initial-cluster=a=http://a:2380,b=http://b:2380", "--endpoint=postgres://h/d"), KS_OK);
}

/* ---- the endpoint's secrets ---- */

static void variables_in_the_endpoint_are_encoded_where_they_are_secrets(void)
{
	static const char *const pairs[] = {
		"PW",         "a/b@c:%d",          "HOST",
		"[::1]:5432", "KINESHIM_ENDPOINT", "postgres://u:${PW}@${HOST}/d?application_name=x",
		NULL};

	environment = pairs;
	CU_ASSERT_EQUAL(PARSE(NULL), KS_OK);
	CU_ASSERT_STRING_EQUAL(options.endpoint, "postgres://u:a%2Fb%40c%3A%25d@[::1]:5432/d?application_name=x");
	CU_ASSERT_EQUAL(PARSE("--endpoint=postgres://${PW}:${PW}@h/d"), KS_OK);
	CU_ASSERT_STRING_EQUAL(options.endpoint, "postgres://a%2Fb%40c%3A%25d:a%2Fb%40c%3A%25d@h/d");
	CU_ASSERT_EQUAL(PARSE("--endpoint=postgres://u:${NONE}@h/d"), KS_INVALID_ARGUMENT);
	CU_ASSERT_STRING_EQUAL(err.text, "endpoint: the environment variable NONE is not set");
	CU_ASSERT_EQUAL(PARSE("--endpoint=postgres://u:${PW@h/d"), KS_INVALID_ARGUMENT);
	CU_ASSERT_EQUAL(PARSE("--endpoint=postgres://u:$PW@h/d"), KS_OK);
	CU_ASSERT_STRING_EQUAL(options.endpoint, "postgres://u:$PW@h/d");
	CU_ASSERT_TRUE(options.password_shown);
	CU_ASSERT_EQUAL(PARSE("--endpoint=postgres://u:${PW}@h/d"), KS_OK);
	CU_ASSERT_FALSE(options.password_shown);
	CU_ASSERT_EQUAL(PARSE("--endpoint=postgres://h/d?x=1&sslpassword=${PW}"), KS_OK);
	CU_ASSERT_FALSE(options.password_shown);
	CU_ASSERT_EQUAL(PARSE("--endpoint=postgres://h/d?x=1&sslpassword=pw"), KS_OK);
	CU_ASSERT_TRUE(options.password_shown);
	CU_ASSERT_EQUAL(PARSE("--endpoint=postgres://u@h:5432/d?x=a:b@c"), KS_OK);
	CU_ASSERT_FALSE(options.password_shown);
	CU_ASSERT_EQUAL(PARSE(NULL), KS_OK);
	CU_ASSERT_FALSE(options.password_shown);
	environment = NULL;
}

static char path[] = "/tmp/ks-test-options.XXXXXX";

/* In a file of its own, which the next call overwrites. */
static const char *file_with(const char *text)
{
	FILE *file = fopen(path, "we");

	CU_ASSERT_PTR_NOT_NULL_FATAL(file);
	CU_ASSERT_TRUE(fputs(text, file) >= 0);
	CU_ASSERT_EQUAL_FATAL(fclose(file), 0);
	return path;
}

static void the_endpoint_comes_from_a_file(void)
{
	CU_ASSERT_EQUAL(PARSE("--endpoint-file", file_with("  postgres://u:${x}@h/d \r\nmore\n")), KS_OK);
	CU_ASSERT_STRING_EQUAL(options.endpoint, "postgres://u:${x}@h/d");
	CU_ASSERT_EQUAL(PARSE("--endpoint-file", path, "--endpoint=sqlite://"), KS_INVALID_ARGUMENT);
	CU_ASSERT_STRING_EQUAL(err.text, "endpoint and endpoint-file exclude each other");
	CU_ASSERT_EQUAL(PARSE("--endpoint-file", file_with("\n")), KS_INVALID_ARGUMENT);
	CU_ASSERT_EQUAL(PARSE("--endpoint-file=/nonexistent/x"), KS_INVALID_ARGUMENT);
	CU_ASSERT_STRING_EQUAL(err.text, "endpoint-file: cannot read /nonexistent/x: No such file or directory");
	CU_ASSERT_EQUAL(PARSE("--endpoint-file=/"), KS_INVALID_ARGUMENT);
}

/* ---- the configuration file ---- */

static enum ks_status configure(const char *text)
{
	return PARSE("--config-file", file_with(text), "--name=flag");
}

static void the_file_alone_counts(void)
{
	static const char *const pairs[] = {"KINESHIM_MAX_TXN_OPS", "7", NULL};

	environment = pairs;
	CU_ASSERT_EQUAL(configure("max-request-bytes: 2MiB\n"), KS_OK);
	CU_ASSERT_STRING_EQUAL(options.name, "default");
	CU_ASSERT_EQUAL(options.max_txn_ops, 128);
	CU_ASSERT_EQUAL(options.max_request_bytes, 2 << 20);
	CU_ASSERT_FALSE(ks_options_given(&options, "name"));
	CU_ASSERT_TRUE(ks_options_given(&options, "max-request-bytes"));
	environment = NULL;
}

static void the_file_is_yaml_or_json(void)
{
	CU_ASSERT_EQUAL(configure("# comment\nname: 'a b'\ndata-dir:\nmax-txn-ops: \"9\"\nenable-pprof: yes\n"
				  "watch-progress-notify-interval: 5000000000\n"
				  "peer-transport-security:\n  cert-file: /x\n  allowed-cn: y\n"),
			KS_OK);
	CU_ASSERT_STRING_EQUAL(options.name, "a b");
	CU_ASSERT_STRING_EQUAL(options.data_dir, "kineshim.data");
	CU_ASSERT_EQUAL(options.max_txn_ops, 9);
	CU_ASSERT_EQUAL(options.watch_progress_notify_interval, 5000);
	CU_ASSERT_TRUE(ks_options_given(&options, "peer-cert-file"));
	CU_ASSERT_TRUE(ks_options_given(&options, "peer-cert-allowed-cn"));
	CU_ASSERT_EQUAL(configure("{\"name\": \"j\", \"listen-client-urls\": [\"http://a:1\", \"http://b:2\"]}"),
			KS_OK);
	CU_ASSERT_STRING_EQUAL(options.name, "j");
	CU_ASSERT_STRING_EQUAL(options.listen_client_urls, "http://a:1,http://b:2");
	CU_ASSERT_EQUAL(configure(""), KS_OK);
	CU_ASSERT_EQUAL(configure("---\n...\n"), KS_OK);
	CU_ASSERT_EQUAL(configure("endpoint: postgres://u:${HOME_}@h/d"), KS_INVALID_ARGUMENT);
}

/* The keys of the sample that comes with etcd, with its values where they are not the defaults. */
static void a_configuration_of_etcd_is_understood(void)
{
	static const char text[] =
		"name: 'node1'\ndata-dir:\nwal-dir:\nsnapshot-count: 10000\nheartbeat-interval: 100\n"
		"election-timeout: 1000\nquota-backend-bytes: 0\n"
		"listen-peer-urls: http://localhost:2380\nlisten-client-urls: http://localhost:2379\n"
		"max-snapshots: 5\nmax-wals: 5\ncors:\n"
		"initial-advertise-peer-urls: http://localhost:2380\n"
		"advertise-client-urls: http://localhost:2379\ndiscovery:\n"
		"discovery-fallback: 'proxy'\ndiscovery-proxy:\ndiscovery-srv:\ninitial-cluster:\n"
		"initial-cluster-token: 'etcd-cluster'\ninitial-cluster-state: 'new'\n"
		"strict-reconfig-check: false\nenable-v2: true\nenable-pprof: true\nproxy: 'off'\n"
		"proxy-failure-wait: 5000\nproxy-refresh-interval: 30000\nproxy-dial-timeout: 1000\n"
		"proxy-write-timeout: 5000\nproxy-read-timeout: 0\n"
		"client-transport-security:\n  cert-file:\n  key-file:\n  client-cert-auth: false\n"
		"  trusted-ca-file:\n  auto-tls: false\n"
		"peer-transport-security:\n  cert-file:\n  key-file:\n  client-cert-auth: false\n"
		"  trusted-ca-file:\n  auto-tls: false\n  allowed-cn:\n  allowed-hostname:\n"
		"self-signed-cert-validity: 1\nlog-level: debug\nlogger: zap\nlog-outputs: [stderr]\n"
		"force-new-cluster: false\nauto-compaction-mode: periodic\n"
		"auto-compaction-retention: \"1\"\ncipher-suites: [\n  TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,\n"
		"  TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384\n]\ntls-min-version: 'TLS1.2'\n"
		"tls-max-version: 'TLS1.3'\n";

	CU_ASSERT_EQUAL(configure(text), KS_OK);
	CU_ASSERT_STRING_EQUAL(err.text, "");
	CU_ASSERT_STRING_EQUAL(options.name, "node1");
	CU_ASSERT_STRING_EQUAL(options.log_outputs, "stderr");
	CU_ASSERT_STRING_EQUAL(options.cipher_suites,
			       "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384");
}

static void errors_in_the_file_name_the_line(void)
{
	static const struct {
		const char *text, *said;
	} cases[] = {
		{"name: x\nlisten-client-url: y\n",
		 ":2: unknown key \"listen-client-url\"; did you mean listen-client-urls?"},
		{"max-txn-ops: many\n", ":1: max-txn-ops: \"many\" is not a number from 1 to 1000000"},
		{"name: x\nname: y\n", ":2: name stands here a second time"},
		{"help: true\n", ":1: unknown key \"help\""},
		{"config-file: x\n", ":1: unknown key \"config-file\""},
		{"other:\n  name: x\n", ":2: unknown section \"other\""},
		{"peer-transport-security:\n  cert:\n    file: x\n", ":3: a mapping has no place here"},
		{"name: [[x]]\n", ":1: a list has no place here"},
		{"- name\n", ":1: a list has no place here"},
		{"name\n", ":1: keys and values are expected"},
		{"name: &a x\n", ":1: tags and anchors have no place here"},
		{"name: *a\n", ""},
		{"name: !!int 5\n", ":1: tags and anchors have no place here"},
		{"name: x\n---\nname: y\n", ":2: there is a second document"},
		{"name: [a, \"b,c\"]\n", ":1: a comma separates the elements of a list"},
		{"name: \"a\\0b\"\n", ":1: the value is too long, or has a zero byte in it"},
		{"name: x: y\n", ":1: "},
		{"\tname: x\n", ":1: "},
		{"proxy: readonly\n", ":1: proxy: kineshim is no proxy"},
		{"? [a, b]\n: x\n", ":1: "},
		{"{name: x", ""},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		CU_ASSERT_EQUAL(configure(cases[i].text), KS_INVALID_ARGUMENT);
		CU_ASSERT_EQUAL(strncmp(err.text, path, strlen(path)), 0);
		CU_ASSERT_PTR_NOT_NULL(strstr(err.text, cases[i].said));
		if (!strstr(err.text, cases[i].said))
			printf("# %zu: %s\n", i, err.text);
	}
	CU_ASSERT_EQUAL(PARSE("--config-file=/nonexistent/x.yml"), KS_INVALID_ARGUMENT);
	CU_ASSERT_STRING_EQUAL(err.text, "config-file: cannot read /nonexistent/x.yml: No such file or directory");
}

static void a_huge_file_is_refused(void)
{
	size_t size = 2 << 20;
	char *text = malloc(size + 1);

	CU_ASSERT_PTR_NOT_NULL_FATAL(text);
	memset(text, '#', size);
	text[size] = '\0';
	CU_ASSERT_EQUAL(configure(text), KS_INVALID_ARGUMENT);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, ": more than 1048576 bytes"));
	memset(text, '[', size / 4);
	text[size / 4] = '\0';
	CU_ASSERT_EQUAL(configure(text), KS_INVALID_ARGUMENT);
	free(text);
}

/* ---- completion ---- */

static void complete_all(FILE *out)
{
	CU_ASSERT_TRUE(ks_options_completion(out, "bash", tools));
	CU_ASSERT_TRUE(ks_options_completion(out, "zsh", tools));
	CU_ASSERT_TRUE(ks_options_completion(out, "fish", tools));
	CU_ASSERT_FALSE(ks_options_completion(out, "sh", tools));
}

static void completion_knows_flags_and_commands(void)
{
	char *text = written(complete_all);

	CU_ASSERT_PTR_NOT_NULL(strstr(text, "complete -c kineshim -l listen-client-urls "));
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "'--log-level=[least level"));
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "--log-format) COMPREPLY=($(compgen -W 'json console'"));
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "__fish_use_subcommand -f -a restore"));
	CU_ASSERT_PTR_NULL(strstr(text, "snapshot-count"));
	free(text);
}

int main(void)
{
	static const struct tap_test tests[] = {
		{"defaults_serve_sqlite_on_localhost", defaults_serve_sqlite_on_localhost},
		{"flags_take_one_dash_or_two_and_both_forms_of_value",
		 flags_take_one_dash_or_two_and_both_forms_of_value},
		{"flag_wins_over_environment_and_that_over_the_default",
		 flag_wins_over_environment_and_that_over_the_default},
		{"bad_environment_is_named", bad_environment_is_named},
		{"advertised_urls_follow_the_listen_urls", advertised_urls_follow_the_listen_urls},
		{"lists_of_urls_may_have_blanks", lists_of_urls_may_have_blanks},
		{"unknown_flags_get_the_nearest_name", unknown_flags_get_the_nearest_name},
		{"errors_say_what_would_be_right", errors_say_what_would_be_right},
		{"sizes_have_binary_units", sizes_have_binary_units},
		{"times_are_written_as_in_go", times_are_written_as_in_go},
		{"help_names_every_flag_with_its_default_in_80_columns",
		 help_names_every_flag_with_its_default_in_80_columns},
		{"no_two_flags_have_one_name", no_two_flags_have_one_name},
		{"flags_of_etcd_are_accepted_without_effect", flags_of_etcd_are_accepted_without_effect},
		{"switches_take_their_value_only_behind_an_equals_sign",
		 switches_take_their_value_only_behind_an_equals_sign},
		{"older_names_set_the_new_ones", older_names_set_the_new_ones},
		{"what_would_mislead_is_refused_with_advice", what_would_mislead_is_refused_with_advice},
		{"variables_in_the_endpoint_are_encoded_where_they_are_secrets",
		 variables_in_the_endpoint_are_encoded_where_they_are_secrets},
		{"the_endpoint_comes_from_a_file", the_endpoint_comes_from_a_file},
		{"the_file_alone_counts", the_file_alone_counts},
		{"the_file_is_yaml_or_json", the_file_is_yaml_or_json},
		{"a_configuration_of_etcd_is_understood", a_configuration_of_etcd_is_understood},
		{"errors_in_the_file_name_the_line", errors_in_the_file_name_the_line},
		{"a_huge_file_is_refused", a_huge_file_is_refused},
		{"completion_knows_flags_and_commands", completion_knows_flags_and_commands},
		{NULL, NULL},
	};

	int fd = mkstemp(path), result;

	if (fd < 0)
		return 99;
	(void)close(fd);
	result = tap_run("options", tests);
	ks_options_fini(&options);
	(void)unlink(path);
	return result;
}
