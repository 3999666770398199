/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the error numbers of SQL Server mean for us. Only the number decides: drivers make different SQLSTATEs of it (to
 * FreeTDS a deadlock is 42000), and texts are translated.
 *
 * "Nothing was done" holds because each append runs with XACT_ABORT: whatever error comes up before its COMMIT undoes the
 * transaction. A number that is not here may have come up in the COMMIT itself, or have ended the session.
 */
#include "mssql_priv.h"

static const struct known {
	int number;
	enum sqlb_ms_class class;
	const char *text; /* NULL: the server's own, which quotes nothing but names */
} known[] = {
	/* Conflicts with others. */
	{2601, SQLB_MS_TAKEN, "a unique index has the row already"},
	{2627, SQLB_MS_TAKEN, "a unique key has the row already"},
	{1205, SQLB_MS_AGAIN, "chosen as the victim of a deadlock"},
	{3960, SQLB_MS_AGAIN, "a snapshot was overtaken by another transaction"},
	{1222, SQLB_MS_BUSY,
	 "a lock was not granted in time: another transaction holds it (READ_COMMITTED_SNAPSHOT "
	 "keeps readers from waiting)"},
	{3961, SQLB_MS_BUSY, "a snapshot was overtaken by a change of the schema"},

	/* Short of something. */
	{701, SQLB_MS_BUSY, "the server is short of memory"},
	{802, SQLB_MS_BUSY, "the server is short of memory"},
	{1101, SQLB_MS_BUSY, "the database is full"},
	{1105, SQLB_MS_BUSY, "the database is full"},
	{1204, SQLB_MS_BUSY, "the server is out of locks"},
	{8628, SQLB_MS_BUSY, "the server is too busy"},
	{8645, SQLB_MS_BUSY, "the server is short of memory"},
	{8651, SQLB_MS_BUSY, "the server is short of memory"},
	{9002, SQLB_MS_BUSY, "the transaction log of the database is full"},
	{10928, SQLB_MS_BUSY, "a limit of the service was reached"},
	{10929, SQLB_MS_BUSY, "the service is too busy"},
	{40544, SQLB_MS_BUSY, "the database has reached the size that was bought"},
	{40549, SQLB_MS_BUSY, "the transaction took too long"},
	{49918, SQLB_MS_ELSEWHERE, "the service is too busy"},
	{49919, SQLB_MS_ELSEWHERE, "the service is too busy"},
	{49920, SQLB_MS_ELSEWHERE, "the service is too busy"},
	{40501, SQLB_MS_ELSEWHERE, "the service is too busy"},
	{40613, SQLB_MS_ELSEWHERE, "the database is not available at the moment"},

	/* The wrong server, or no way in. */
	{3906, SQLB_MS_ELSEWHERE, "the database is read-only"},
	{3908, SQLB_MS_ELSEWHERE, "the database is in recovery"},
	{911, SQLB_MS_ELSEWHERE, "the database does not exist"},
	{916, SQLB_MS_ELSEWHERE, "the user may not use the database"},
	{924, SQLB_MS_ELSEWHERE, "the database is in single-user mode"},
	{945, SQLB_MS_ELSEWHERE, "the database cannot be opened"},
	{976, SQLB_MS_ELSEWHERE, "the database is a secondary replica that is not to be read"},
	{978, SQLB_MS_ELSEWHERE, "the database is a secondary replica for readers only"},
	{979, SQLB_MS_ELSEWHERE, "the database is a secondary replica that is not to be read"},
	{982, SQLB_MS_ELSEWHERE, "the database is a secondary replica that is not to be read"},
	{983, SQLB_MS_ELSEWHERE, "the database is a replica without a role at the moment"},
	{4060, SQLB_MS_ELSEWHERE, "the database cannot be opened: is it there, and may the user of the URL use it?"},
	{18401, SQLB_MS_ELSEWHERE, "the server is still starting"},
	{18452, SQLB_MS_ELSEWHERE, "the login failed: the server takes no SQL Server logins"},
	{18456, SQLB_MS_ELSEWHERE, "the login failed: are user and password of the URL right?"},
	{18470, SQLB_MS_ELSEWHERE, "the login failed: the account is disabled"},
	{18486, SQLB_MS_ELSEWHERE, "the login failed: the account is locked"},
	{18487, SQLB_MS_ELSEWHERE, "the login failed: the password has expired"},
	{18488, SQLB_MS_ELSEWHERE, "the login failed: the password must be changed"},

	/* Statements that this server or this schema does not take. */
	{102, SQLB_MS_WRONG, NULL},
	{137, SQLB_MS_WRONG, NULL},
	{156, SQLB_MS_WRONG, NULL},
	{170, SQLB_MS_WRONG, NULL},
	{195, SQLB_MS_WRONG, "the server lacks a function: SQL Server 2016 or newer is needed"},
	{201, SQLB_MS_WRONG, NULL},
	{206, SQLB_MS_WRONG, NULL},
	{207, SQLB_MS_WRONG, NULL},
	{208, SQLB_MS_WRONG, NULL},
	{213, SQLB_MS_WRONG, NULL},
	{229, SQLB_MS_WRONG, NULL},
	{230, SQLB_MS_WRONG, NULL},
	{257, SQLB_MS_WRONG, NULL},
	{262, SQLB_MS_WRONG, NULL},
	{297, SQLB_MS_WRONG, NULL},
	{300, SQLB_MS_WRONG, NULL},
	{334, SQLB_MS_WRONG, "a table of kineshim has a trigger"},
	{1088, SQLB_MS_WRONG, NULL},
	{1919, SQLB_MS_WRONG, NULL},
	{1946, SQLB_MS_WRONG, NULL},
	{2706, SQLB_MS_WRONG, NULL},
	{2714, SQLB_MS_WRONG, NULL},
	{2760, SQLB_MS_WRONG, NULL},
	{2812, SQLB_MS_WRONG, NULL},
	{3701, SQLB_MS_WRONG, NULL},
	{3952, SQLB_MS_WRONG, NULL},
	{4902, SQLB_MS_WRONG, NULL},
	{8003, SQLB_MS_WRONG, "too many parameters"},
	{8623, SQLB_MS_WRONG, NULL},
	{8632, SQLB_MS_WRONG, NULL},
	{10738, SQLB_MS_WRONG, "too many rows in one VALUES"},
	{15151, SQLB_MS_WRONG, NULL},
	{15247, SQLB_MS_WRONG, NULL},

	/* Values that somebody's column, constraint or trigger refuses. The server's texts quote them. */
	{245, SQLB_MS_WRONG, "a value does not go into its column"},
	{248, SQLB_MS_WRONG, "a value does not go into its column"},
	{515, SQLB_MS_WRONG, "a column takes no NULL"},
	{547, SQLB_MS_WRONG, "a constraint refuses the row"},
	{2628, SQLB_MS_WRONG, "a value is too long for its column"},
	{3609, SQLB_MS_WRONG, "a trigger has ended the transaction"},
	{8114, SQLB_MS_WRONG, "a value does not go into its column"},
	{8115, SQLB_MS_WRONG, "a number does not go into its column"},
	{8152, SQLB_MS_WRONG, "a value is too long for its column"},

	/* Pages that cannot be read, or are not what they should be. */
	{605, SQLB_MS_DAMAGED, NULL},
	{823, SQLB_MS_DAMAGED, NULL},
	{824, SQLB_MS_DAMAGED, NULL},
	{5242, SQLB_MS_DAMAGED, NULL},
	{5243, SQLB_MS_DAMAGED, NULL},
};

static const struct known *find(int number)
{
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (known[i].number == number)
			return &known[i];
	return NULL;
}

enum sqlb_ms_class sqlb_ms_classify(int number)
{
	const struct known *found = find(number);

	return found ? found->class : SQLB_MS_UNSURE;
}

const char *sqlb_ms_explain(int number)
{
	const struct known *found = find(number);

	if (found)
		return found->text;
	/* What RAISERROR and THROW say is somebody else's, and may have anything in it. */
	return number >= 50000 ? "an error of a trigger or rule" : NULL;
}
