/* SPDX-License-Identifier: Apache-2.0 */
/* The promises of kineshim/options.h: forms of flags, precedence, values with units, and errors that help. */
#include "tests/lib/tap.h"

#include <stdlib.h>
#include <string.h>

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
	} cases[] = {{"10m", 600000},
		     {"1h30m", 5400000},
		     {"500ms", 500},
		     {"2s", 2000},
		     {"0", 0},
		     {"1m1s1ms", 61001},
		     {"", -1},
		     {"5", -1},
		     {"m", -1},
		     {"5d", -1},
		     {"-1s", -1},
		     {"1s ", -1},
		     {"9999999999999999h", -1}};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		int64_t ms;
		bool fine = ks_parse_time(cases[i].text, &ms);

		CU_ASSERT_EQUAL(fine, cases[i].ms >= 0);
		if (fine)
			CU_ASSERT_EQUAL(ms, cases[i].ms);
	}
}

static void help_names_every_flag_with_its_default(void)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	CU_ASSERT_PTR_NOT_NULL_FATAL(out);
	ks_options_help(out);
	(void)fclose(out);
#define CHECK(kind, member, flag, initial, least, most, help) CU_ASSERT_PTR_NOT_NULL(strstr(text, "--" flag "\n"));
	KS_OPTIONS(CHECK)
#undef CHECK
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "[http://localhost:2379]"));
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
		{"unknown_flags_get_the_nearest_name", unknown_flags_get_the_nearest_name},
		{"errors_say_what_would_be_right", errors_say_what_would_be_right},
		{"sizes_have_binary_units", sizes_have_binary_units},
		{"times_are_written_as_in_go", times_are_written_as_in_go},
		{"help_names_every_flag_with_its_default", help_names_every_flag_with_its_default},
		{NULL, NULL},
	};

	return tap_run("options", tests);
}
