/* SPDX-License-Identifier: Apache-2.0 */
/* The promises of kineshim/secrets.h: what stays of a command line for others to see, and that the program still gets all of it. */
#include "tests/lib/tap.h"

#include <stdlib.h>
#include <string.h>

#include "kineshim/secrets.h"

#define MAX_ARGS 8
#define MEMORY 512

/* Texts one behind the other, as the kernel lays them out; what is behind them belongs to somebody else. */
static char memory[MEMORY];
static size_t used;
static char *argv[MAX_ARGS + 1];
static int argc;
static char **copy;

static void lay_out(const char *const args[])
{
	memset(memory, '#', sizeof(memory));
	used = 0;
	for (argc = 0; args[argc]; argc++) {
		argv[argc] = memory + used;
		memcpy(argv[argc], args[argc], strlen(args[argc]) + 1);
		used += strlen(args[argc]) + 1;
	}
	argv[argc] = NULL;
}

/* The texts that can be seen, with a blank between them, must be 'seen'; the copy must be what was given. */
static void take(const char *seen, const char *const args[])
{
	char text[MEMORY] = "";
	size_t size = 0;

	lay_out(args);
	copy = ks_secrets_take(argc, argv);
	for (int i = 0; i < argc; i++)
		CU_ASSERT_STRING_EQUAL(copy[i], args[i]);
	CU_ASSERT_PTR_NULL(copy[argc]);
	free(copy);
	for (size_t i = 0; i < used; i++)
		text[i] = memory[i] ? memory[i] : ' ';
	size = used;
	while (size > 0 && text[size - 1] == ' ')
		size--;
	text[size] = '\0';
	CU_ASSERT_STRING_EQUAL(text, seen);
	if (strcmp(text, seen) != 0)
		printf("# %s\n", text);
	for (size_t i = used; i < sizeof(memory); i++)
		CU_ASSERT_EQUAL_FATAL(memory[i], '#');
}

#define TAKE(seen, ...) take(seen, (const char *const[]){"kineshim", __VA_ARGS__, NULL})

static void passwords_of_urls_become_stars(void)
{
	TAKE("kineshim import --from kine://postgres:***@h/d", "import", "--from", "kine://postgres://u:hunter2@h/d");
	TAKE("kineshim import --from=kine://mysql:***@tcp(h:3306)/d", "import",
	     "--from=kine://mysql://u:hunter2@tcp(h:3306)/d");
	TAKE("kineshim import --from-user u:***", "import", "--from-user", "u:hunter2");
	TAKE("kineshim --endpoint postgres://u:***@h/d --name n", "--endpoint", "postgres://u:hunter2@h/d", "--name",
	     "n");
	TAKE("kineshim --endpoint=postgres://u:***@h/d --name=n", "--endpoint=postgres://u:hunter2@h/d", "--name=n");
	TAKE("kineshim -endpoint=mysql://u:***@tcp(h:1)/d", "-endpoint=mysql://u:hunt@er2@tcp(h:1)/d");
	TAKE("kineshim --endpoint mssql://h/d?pwd=***;x=y", "--endpoint", "mssql://h/d?pwd={hunt;er2};x=y");
	TAKE("kineshim restore f --endpoint postgres://h/d?password=***", "restore", "f", "--endpoint",
	     "postgres://h/d?password=hunter2");
	TAKE("kineshim import --from kine+mysql://u:***@h/d", "import", "--from", "kine+mysql://u:hunter2@h/d");
	TAKE("kineshim postgres://u:***@h/d", "postgres://u:hunter2@h/d");
}

static void short_passwords_find_room_for_their_stars(void)
{
	TAKE("kineshim --endpoint *** --name n", "--endpoint", "postgres://u:ab@h/d", "--name", "n");
	TAKE("kineshim --endpoint=***", "--endpoint=postgres://u:@h/d");
	TAKE("kineshim --endpoint=postgres://u:***@h/d", "--endpoint=postgres://u:abc@h/d");
}

static void flags_of_users_and_passwords_are_known(void)
{
	TAKE("kineshim --discovery-password *** --user root:*** x", "--discovery-password", "hunter2", "--user",
	     "root:hunter2", "x");
	TAKE("kineshim --password=*** --discovery-user=u:***", "--password=hunter2", "--discovery-user=u:hunter2");
	TAKE("kineshim --user root --password **", "--user", "root", "--password", "ab");
}

static void everything_else_stays(void)
{
	TAKE("kineshim --listen-client-urls http://a:1,http://b:2 --auth-token=jwt,priv-key=f --name=",
	     "--listen-client-urls", "http://a:1,http://b:2", "--auth-token=jwt,priv-key=f", "--name=");
	TAKE("kineshim --endpoint sqlite:///a:b@c.db", "--endpoint", "sqlite:///a:b@c.db");
	take("", (const char *const[]){NULL});
}

/* As when a loader or a library put some elsewhere. */
static void texts_that_lie_elsewhere_stay_where_they_are(void)
{
	char elsewhere[] = "postgres://u:hunter2@h/d";

	lay_out((const char *const[]){"kineshim", "--endpoint", "x", "y", NULL});
	argv[2] = elsewhere;
	copy = ks_secrets_take(argc, argv);
	CU_ASSERT_STRING_EQUAL(copy[2], "postgres://u:hunter2@h/d");
	CU_ASSERT_STRING_EQUAL(elsewhere, "postgres://u:***@h/d");
	CU_ASSERT_STRING_EQUAL(argv[3], "y");
	CU_ASSERT_EQUAL(memcmp(memory, "kineshim\0--endpoint\0x\0y", 24), 0);
	free(copy);
}

int main(void)
{
	return tap_run(
		"secrets",
		(const struct tap_test[]){
			{"passwords_of_urls_become_stars", passwords_of_urls_become_stars},
			{"short_passwords_find_room_for_their_stars", short_passwords_find_room_for_their_stars},
			{"flags_of_users_and_passwords_are_known", flags_of_users_and_passwords_are_known},
			{"everything_else_stays", everything_else_stays},
			{"texts_that_lie_elsewhere_stay_where_they_are", texts_that_lie_elsewhere_stay_where_they_are},
			{NULL, NULL},
		});
}
