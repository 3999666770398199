/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every statement of the MySQL and MariaDB backend that is prepared, with the reasons for its form. All go by primary
 * key. FORCE INDEX: statistics of a table that grew from nothing mislead the optimizer, and a scan or a sort of the log
 * would never do.
 */
#include "mysql_priv.h"

/* It would tear the statements apart. */
/* clang-format off */

const uint16_t sqlb_my_buckets[SQLB_MY_BUCKETS] = {1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024};

/*
 * Deadlines are made and judged with SYSDATE, the time at which it is evaluated: NOW is when the statement began, which
 * may be long before the row's lock was granted. (A server started with --sysdate-is-now judges earlier, so it never calls
 * a lease expired that is not.) The session's time zone is UTC. A ttl of ages is cut.
 */
#define CLOCK "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', SYSDATE(6)) DIV 1000)"
#define DEADLINE(ttl) CLOCK " + GREATEST(LEAST(" ttl ", 9000000000000000), 0)"

#define ROW_COLUMNS \
	"`position`, `sub`, `rows`, `kind`, `revision`, `key`, `value`, `create_revision`, `version`, `lease`, " \
	"`payload`, `writer`, `batch`"
#define INSERT_ROWS "INSERT INTO kineshim_log (" ROW_COLUMNS ") VALUES "
#define ONE_ROW "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

#define HEAD "SELECT `position`, `revision`, `writer`, `batch` FROM kineshim_log ORDER BY `position` DESC, `sub` DESC LIMIT 1"

const struct sqlb_my_text sqlb_my_texts[SQLB_MY_STATEMENTS] = {
	/*
	 * The primary key refuses a position that is taken, but not one that was taken and then trimmed, nor one behind a
	 * gap (a log that lost its tail). A look at the newest row cannot close this without locks that last from the look to
	 * the commit, and in a Galera cluster locks are known on their own node only. So one row, the gate, tells which entry
	 * is the newest, and an append changes it from the entry it goes behind to its own last one, in the statement that
	 * inserts its rows: one round trip, one transaction.
	 *
	 * Two appends want to change the same row, and one of them from a value that it no longer has: InnoDB makes the
	 * second wait for its lock and then look at the new value, at any isolation level. On two nodes of a Galera cluster
	 * both change the row, and certification lets the first of the total order pass and undoes the other; so it
	 * does an append that is halfway when the other's write set arrives (1213 in both cases). A trim does not come into it:
	 * no row that it takes is looked at. Hence it needs no lock and waits for nobody.
	 *
	 * The gate is the first tuple of the INSERT: always a duplicate, so that ON DUPLICATE KEY UPDATE does the comparing
	 * and changing. It brings the entry that is expected in columns which stay 0 in the row: position in create_revision,
	 * writer and batch in version and lease. Where the comparison fails, and where any other row is a duplicate, the
	 * number becomes too large for its column's arithmetic: error 1690 in every sql_mode, on every server, and the statement
	 * is undone. It needs a column in it, or it would be an error while the statement is prepared.
	 */
	[SQLB_MY_INSERT] = {INSERT_ROWS, ONE_ROW, ", ",
		" ON DUPLICATE KEY UPDATE `create_revision` = IF(`position` = 0 AND `revision` = VALUES(`create_revision`) "
		"AND (VALUES(`version`) = 0 OR (`writer` = VALUES(`version`) AND `batch` = VALUES(`lease`))), 0, "
		"9223372036854775807 - `sub` + (`sub` + 1)), "
		"`revision` = VALUES(`revision`), `writer` = VALUES(`writer`), `batch` = VALUES(`batch`)"},
	[SQLB_MY_INSERT_MORE] = {INSERT_ROWS, ONE_ROW, ", ", ""},
	[SQLB_MY_GATE_LOCK] = {"SELECT `revision`, `writer`, `batch` FROM kineshim_log WHERE `position` = 0 AND `sub` = 0 FOR UPDATE",
		NULL, NULL, "", 3},
	[SQLB_MY_GATE_SET] = {"UPDATE kineshim_log SET `revision` = ?, `writer` = ?, `batch` = ? WHERE `position` = 0 AND `sub` = 0",
		NULL, NULL, ""},
	[SQLB_MY_HEAD] = {HEAD, NULL, NULL, "", 4},
	[SQLB_MY_POLL] = {"SET STATEMENT wsrep_sync_wait = 0 FOR " HEAD, NULL, NULL, "", 4},
	[SQLB_MY_ROWS] = {"SELECT " ROW_COLUMNS " FROM kineshim_log FORCE INDEX (PRIMARY) WHERE `position` > ? AND `position` <= ? "
		"ORDER BY `position`, `sub` LIMIT ?", NULL, NULL, "", SQLB_MY_ROW_COLUMNS},
	/* Goes on behind a row. Written as two ranges: neither server makes one of "(position, sub) > (?, ?)". */
	[SQLB_MY_PAGE] = {"SELECT " ROW_COLUMNS " FROM kineshim_log FORCE INDEX (PRIMARY) WHERE (`position` = ? AND `sub` > ?) "
		"OR (`position` > ? AND `position` <= ?) ORDER BY `position`, `sub` LIMIT ?", NULL, NULL, "", SQLB_MY_ROW_COLUMNS},
	[SQLB_MY_ROWS_AT] = {"SELECT " ROW_COLUMNS " FROM kineshim_log FORCE INDEX (PRIMARY) WHERE ", "(`position` = ? AND `sub` = ?)",
		" OR ", "", SQLB_MY_ROW_COLUMNS},
	/* As a DELETE of several tables: only there is an index forced. */
	[SQLB_MY_TRIM] = {"DELETE l FROM kineshim_log AS l FORCE INDEX (PRIMARY) WHERE ", "(l.`position` = ? AND l.`sub` = ?)", " OR ", ""},
	[SQLB_MY_LEASE_PUT] = {"INSERT INTO kineshim_lease (`id`, `ttl_ms`, `deadline`) VALUES ", "(?, ?, " DEADLINE("?") ")", ", ",
		" ON DUPLICATE KEY UPDATE `ttl_ms` = VALUES(`ttl_ms`), `deadline` = VALUES(`deadline`)"},
	[SQLB_MY_LEASE_DROP] = {"DELETE FROM kineshim_lease WHERE `id` IN (", "?", ", ", ")"},
	/* The guard: waits for a keepalive that came first and then judges the deadline that it made. */
	[SQLB_MY_LEASE_EXPIRE] = {"DELETE FROM kineshim_lease WHERE `id` IN (", "?", ", ", ") AND `deadline` < " CLOCK},
	/* One round trip: LAST_INSERT_ID() brings the ttl back in the answer to an UPDATE. */
	[SQLB_MY_LEASE_TOUCH_ONE] = {"UPDATE kineshim_lease SET `deadline` = " DEADLINE("LAST_INSERT_ID(`ttl_ms`)")
		" WHERE `id` = ? AND `deadline` >= " CLOCK, NULL, NULL, ""},
	[SQLB_MY_LEASE_LOCK] = {"SELECT `id`, `ttl_ms`, GREATEST(LEAST(`ttl_ms`, 9000000000000000), 0) FROM kineshim_lease WHERE `id` IN (",
		"?", ", ", ") AND `deadline` >= " CLOCK " ORDER BY `id` FOR UPDATE", 3},
	[SQLB_MY_LEASE_TOUCH] = {"UPDATE kineshim_lease SET `deadline` = " DEADLINE("`ttl_ms`") " WHERE `id` IN (", "?", ", ", ")"},
	[SQLB_MY_LEASE_ENSURE] = {"INSERT INTO kineshim_lease (`id`, `ttl_ms`, `deadline`) VALUES ", "(?, ?, " DEADLINE("?") ")", ", ",
		" ON DUPLICATE KEY UPDATE `id` = VALUES(`id`)"},
	[SQLB_MY_LEASE_REFRESH] = {"UPDATE kineshim_lease SET `deadline` = " DEADLINE("`ttl_ms`"), NULL, NULL, ""},
	[SQLB_MY_LEASE_LIST] = {"SELECT `id`, `ttl_ms`, `deadline` - " CLOCK " FROM kineshim_lease ORDER BY `deadline`, `id` LIMIT ?",
		NULL, NULL, "", 3},
	[SQLB_MY_LEASE_READ] = {"SELECT `id`, `ttl_ms`, `deadline` - " CLOCK " FROM kineshim_lease WHERE `id` IN (", "?", ", ", ")", 3},
	[SQLB_MY_DUTY_SEE] = {"SELECT `holder`, `term`, `deadline` - " CLOCK " FROM kineshim_duty WHERE `one` = 1", NULL, NULL, "", 3},
	/* From what was seen: who comes second matches no row. */
	[SQLB_MY_DUTY_TAKE] = {"UPDATE kineshim_duty SET `holder` = ?, `term` = ?, `deadline` = " DEADLINE("?")
		" WHERE `one` = 1 AND `holder` = ? AND `term` = ? AND (`holder` IN (?, 0) OR `deadline` < " CLOCK ")", NULL, NULL, ""},
	[SQLB_MY_DUTY_PASS] = {"UPDATE kineshim_duty SET `holder` = ?, `term` = `term` + ?, `deadline` = " DEADLINE("?")
		" WHERE `one` = 1 AND `holder` = ?", NULL, NULL, ""},
	[SQLB_MY_MEMBER_BEAT] = {"INSERT INTO kineshim_member (`id`, `name`, `client_urls`, `position`, `deadline`) VALUES (?, ?, ?, ?, "
		DEADLINE("?") ") ON DUPLICATE KEY UPDATE `name` = VALUES(`name`), `client_urls` = VALUES(`client_urls`), "
		"`position` = VALUES(`position`), `deadline` = VALUES(`deadline`)", NULL, NULL, ""},
	/* Asked first: a DELETE that finds nothing still waits for others' beats. */
	[SQLB_MY_MEMBER_STALE] = {"SELECT `id` FROM kineshim_member WHERE `deadline` < " CLOCK " - 3600000 LIMIT 1", NULL, NULL, "", 1},
	[SQLB_MY_MEMBER_SWEEP] = {"DELETE FROM kineshim_member WHERE `deadline` < " CLOCK " - 3600000 AND `id` <> ?", NULL, NULL, ""},
	[SQLB_MY_MEMBER_REMOVE] = {"DELETE FROM kineshim_member WHERE `id` = ?", NULL, NULL, ""},
	[SQLB_MY_MEMBER_LIST] = {"SELECT `id`, `position`, `name`, `client_urls` FROM kineshim_member WHERE `deadline` >= " CLOCK
		" ORDER BY `id` < 0, `id`", NULL, NULL, "", 4},
	[SQLB_MY_SIZE] = {"SELECT CAST(data_length + index_length AS SIGNED), CAST(data_free AS SIGNED) FROM information_schema.tables "
		"WHERE table_schema = DATABASE() AND table_name = 'kineshim_log'", NULL, NULL, "", 2},
};
