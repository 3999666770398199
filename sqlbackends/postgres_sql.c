/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every statement of the PostgreSQL backend that is prepared, with the reasons for its form. All go by primary
 * key, and none needs to be planned twice.
 */
#include "postgres_priv.h"

/*
 * Deadlines are made and judged with clock_timestamp(): now() is when the transaction began, which may be long
 * before the row's lock was granted. A ttl of ages is cut to what a timestamp can hold.
 */
#define DEADLINE(ttl) "clock_timestamp() + greatest(least(" ttl ", 9000000000000000), 0) * interval '1 millisecond'"
#define REMAINING(deadline) "floor(extract(epoch FROM " deadline " - clock_timestamp()) * 1000)::int8"

/*
 * Rows that several transactions may want are locked in the order of their ids first: two keepalives of the same
 * leases cannot deadlock. A row that was changed while its lock was waited for is looked at again in its new form
 * (READ COMMITTED), with the clock of that moment.
 */
#define LOCKED_LEASES "SELECT id FROM kineshim_lease WHERE id = ANY($1::int8[]) ORDER BY id FOR UPDATE"

/*
 * The primary key refuses a position that is taken, but not one that was taken and then trimmed, nor one behind
 * a gap (a log that lost its tail). So an append also says which entry the head must be, and it must not be possible
 * that its position is taken and trimmed after its snapshot of the head was made and before its rows meet the
 * index: trimming waits for the appends that run. They hold a weak lock on kineshim_meta (the gate), which
 * costs next to nothing (5 us, head included) and is granted before the snapshot is made. Nothing else waits
 * for it: pg_dump and VACUUM take locks that go together with both.
 */
/* It would tear the statements apart. */
/* clang-format off */
#define HEAD_IS_PLAIN(at, by, in)                                                                                      \
	"coalesce((SELECT position FROM (SELECT position, writer, batch FROM kineshim_log "                            \
	"ORDER BY position DESC, sub DESC LIMIT 1) AS head WHERE " by " = 0 OR (writer = " by " AND batch = " in ")), " \
	"0) = " at
#define HEAD_IS(at, by, in)                                                                                            \
	HEAD_IS_PLAIN(at, by, in)                                                                                      \
	" AND NOT EXISTS (SELECT FROM (SELECT FROM kineshim_meta WHERE name = '' FOR KEY SHARE) AS gate)"

#define INSERT_PARAMETERS                                                                                              \
	"INSERT INTO kineshim_log (" SQLB_PG_ROW_COLUMNS ") SELECT $1::int8, $2::int4, $3::int4, $4::int2, $5::int8, " \
	"$6::bytea, $7::bytea, $8::int8, $9::int8, $10::int8, $11::bytea, $12::int8, $13::int8"

#define INSERT_ARRAYS                                                                                                  \
	"INSERT INTO kineshim_log (" SQLB_PG_ROW_COLUMNS ") SELECT unnest($1::int8[]), unnest($2::int4[]), "           \
	"unnest($3::int4[]), unnest($4::int2[]), unnest($5::int8[]), unnest($6::bytea[]), unnest($7::bytea[]), "       \
	"unnest($8::int8[]), unnest($9::int8[]), unnest($10::int8[]), unnest($11::bytea[]), "
#define ONE_WRITER "$12::int8, $13::int8"

/* "was" is the row after its lock was granted; RETURNING cannot tell what it was before. */
#define DUTY_TAKE(lock)                                                                                                \
	"WITH was AS (SELECT holder, term, deadline FROM kineshim_duty WHERE one" lock "), "                           \
	"taken AS (UPDATE kineshim_duty AS d SET holder = $1::int8, "                                                  \
	"term = was.term + (was.holder <> $1::int8)::int, deadline = " DEADLINE("$2::int8") " "                        \
	"FROM was WHERE d.one AND (was.holder IN ($1::int8, 0) OR was.deadline <= clock_timestamp()) "                 \
	"RETURNING d.holder, d.term, d.deadline) "                                                                     \
	"SELECT coalesce(taken.holder, was.holder), coalesce(taken.term, was.term), "                                  \
	REMAINING("coalesce(taken.deadline, was.deadline)") ", "                                                       \
	"taken.holder IS NOT NULL AND was.holder <> $1::int8 FROM was LEFT JOIN taken ON true"

const char *const sqlb_pg_statement_texts[SQLB_PG_STATEMENTS] = {
	/*
	 * One plan for any number of rows. Measured for 500 rows of 32+100 bytes: unnest() in the SELECT list
	 * 1.5 ms (it streams), COPY in binary 1.6 ms, unnest() in FROM 2.2 ms (it fills a tuplestore for each
	 * array). For one row plain parameters take 160 us, arrays 200 us.
	 */
	[SQLB_PG_INSERT_ONE] = INSERT_PARAMETERS " WHERE " HEAD_IS("$14::int8", "$15::int8", "$16::int8"),
	[SQLB_PG_INSERT_MANY] = INSERT_ARRAYS ONE_WRITER " WHERE " HEAD_IS("$14::int8", "$15::int8", "$16::int8"),
	[SQLB_PG_INSERT_MORE] = INSERT_ARRAYS ONE_WRITER,
	/*
	 * Raises 22P02 with a text for the server's log: what else is in the transaction must not be committed.
	 * The clock keeps the planner, where it knows the parameters, from raising it beforehand.
	 */
	[SQLB_PG_CHECK_HEAD] = "SELECT CASE WHEN " HEAD_IS("$1::int8", "$2::int8", "$3::int8") " THEN 0 ELSE "
			       "('kineshim: the position after ' || $1::int8 || ' is taken, ' || clock_timestamp())::int8 END",
	[SQLB_PG_NOTIFY] = "SELECT pg_notify('" SQLB_PG_CHANNEL "', $1::text)",
	/* FOR UPDATE waits for a keepalive that came first and then judges the deadline that it made. */
	[SQLB_PG_GUARD] = "SELECT count(*) = (SELECT count(DISTINCT id) FROM unnest($1::int8[]) AS wanted(id)) FROM ("
			  "SELECT 1 FROM kineshim_lease WHERE id = ANY($1::int8[]) AND deadline <= clock_timestamp() "
			  "ORDER BY id FOR UPDATE) AS due",
	[SQLB_PG_HEAD] = "SELECT position, revision, writer, batch FROM kineshim_log "
			 "ORDER BY position DESC, sub DESC LIMIT 1",
	[SQLB_PG_ROWS] = "SELECT " SQLB_PG_ROW_COLUMNS " FROM kineshim_log WHERE position > $1::int8 "
			 "AND position <= $2::int8 ORDER BY position, sub LIMIT $3::int8",
	[SQLB_PG_ROW_AT] = "SELECT " SQLB_PG_ROW_COLUMNS " FROM kineshim_log WHERE position = $1::int8 AND sub = $2::int4",
	[SQLB_PG_ROWS_AT] = "SELECT " SQLB_PG_ROW_COLUMNS " FROM unnest($1::int8[], $2::int4[]) AS wanted(p, s) "
			    "JOIN kineshim_log ON position = p AND sub = s",
	[SQLB_PG_TRIM] = "DELETE FROM kineshim_log USING unnest($1::int8[], $2::int4[]) AS gone(p, s) "
			 "WHERE position = p AND sub = s",
	[SQLB_PG_LEASE_PUT] = "INSERT INTO kineshim_lease (id, ttl_ms, deadline) SELECT DISTINCT ON (id) id, ttl, "
			      DEADLINE("ttl") " FROM unnest($1::int8[], $2::int8[]) WITH ORDINALITY AS new(id, ttl, nth) "
			      "ORDER BY id, nth DESC "
			      "ON CONFLICT (id) DO UPDATE SET ttl_ms = excluded.ttl_ms, deadline = excluded.deadline",
	[SQLB_PG_LEASE_DROP] = "WITH locked AS (" LOCKED_LEASES ") DELETE FROM kineshim_lease AS l USING locked "
			       "WHERE l.id = locked.id",
	[SQLB_PG_LEASE_TOUCH] = "WITH locked AS (" LOCKED_LEASES ") UPDATE kineshim_lease AS l "
				"SET deadline = " DEADLINE("l.ttl_ms") " FROM locked "
				"WHERE l.id = locked.id AND l.deadline > clock_timestamp() "
				"RETURNING l.id, l.ttl_ms, " REMAINING("l.deadline"),
	[SQLB_PG_LEASE_ENSURE] = "INSERT INTO kineshim_lease (id, ttl_ms, deadline) SELECT DISTINCT ON (id) id, ttl, "
				 DEADLINE("ttl") " FROM unnest($1::int8[], $2::int8[]) AS new(id, ttl) ORDER BY id "
				 "ON CONFLICT (id) DO NOTHING",
	[SQLB_PG_LEASE_REFRESH] = "WITH locked AS (SELECT id FROM kineshim_lease ORDER BY id FOR UPDATE) "
				  "UPDATE kineshim_lease AS l SET deadline = " DEADLINE("l.ttl_ms") " FROM locked "
				  "WHERE l.id = locked.id",
	[SQLB_PG_LEASE_LIST] = "SELECT id, ttl_ms, " REMAINING("deadline") " FROM kineshim_lease "
			       "ORDER BY deadline, id LIMIT nullif($1::int8, 0)",
	[SQLB_PG_LEASE_READ] = "SELECT id, ttl_ms, " REMAINING("deadline") " FROM kineshim_lease "
			       "WHERE id = ANY($1::int8[])",
	/* Who has no duty asks often and mostly in vain: without a lock that costs no commit. */
	[SQLB_PG_DUTY_SEE] = "SELECT holder, term, " REMAINING("deadline") " FROM kineshim_duty WHERE one",
	[SQLB_PG_DUTY_TAKE] = DUTY_TAKE(" FOR UPDATE"),
	[SQLB_PG_DUTY_PASS] = "UPDATE kineshim_duty SET holder = $2::int8, "
			      "term = term + ($2::int8 NOT IN ($1::int8, 0))::int, deadline = " DEADLINE("$3::int8") " "
			      "WHERE one AND holder = $1::int8",
	/* The SELECT at the end sees the table as it was before the statement: was 'self' alive, who else is? */
	[SQLB_PG_MEMBER_BEAT] = "WITH gone AS (DELETE FROM kineshim_member WHERE id IN (SELECT id FROM kineshim_member "
				"WHERE deadline < clock_timestamp() - interval '1 hour' AND id <> $1::int8 "
				"ORDER BY id FOR UPDATE SKIP LOCKED)), "
				"self AS (INSERT INTO kineshim_member (id, name, client_urls, position, deadline) "
				"VALUES ($1::int8, kineshim_text($2::bytea), kineshim_text($3::bytea), $4::int8, "
				DEADLINE("$5::int8") ") "
				"ON CONFLICT (id) DO UPDATE SET name = excluded.name, client_urls = excluded.client_urls, "
				"position = excluded.position, deadline = excluded.deadline) "
				"SELECT count(*) FILTER (WHERE id = $1::int8) = 0, "
				"(count(*) FILTER (WHERE id <> $1::int8))::int4 "
				"FROM kineshim_member WHERE deadline > clock_timestamp()",
	[SQLB_PG_MEMBER_REMOVE] = "DELETE FROM kineshim_member WHERE id = $1::int8",
	[SQLB_PG_MEMBER_LIST] = "SELECT id, name, client_urls, position FROM kineshim_member "
				"WHERE deadline > clock_timestamp() ORDER BY id < 0, id",
	/*
	 * What is free inside the table cannot be asked without an extension. Rows times their average width,
	 * as the last ANALYZE saw it, over the heap's size is the share in use; without statistics, live over
	 * all rows. Large values lie in the TOAST table in chunks of 2 KB.
	 */
	[SQLB_PG_SIZE] = "SELECT total, total - floor((heap + indexes) * (1 - least(1, CASE "
			 "WHEN live + dead = 0 OR heap = 0 THEN 1 WHEN width IS NULL THEN live / (live + dead) "
			 "ELSE live * (width + 32) / heap END)) "
			 "+ toast * (1 - least(1, CASE WHEN toast = 0 OR toast_live + toast_dead = 0 THEN 1 "
			 "ELSE toast_live * 2050 / toast END)))::int8 "
			 "FROM (SELECT pg_total_relation_size(c.oid) AS total, pg_relation_size(c.oid)::float8 AS heap, "
			 "pg_indexes_size(c.oid) AS indexes, "
			 "coalesce(pg_relation_size(nullif(c.reltoastrelid, 0)), 0)::float8 AS toast, "
			 "coalesce(s.n_live_tup, 0)::float8 AS live, coalesce(s.n_dead_tup, 0)::float8 AS dead, "
			 "coalesce(t.n_live_tup, 0)::float8 AS toast_live, coalesce(t.n_dead_tup, 0)::float8 AS toast_dead, "
			 "(SELECT sum(avg_width * (1 - null_frac)) FROM pg_stats WHERE schemaname = n.nspname "
			 "AND tablename = c.relname) AS width "
			 "FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace "
			 "LEFT JOIN pg_stat_all_tables AS s ON s.relid = c.oid "
			 "LEFT JOIN pg_stat_all_tables AS t ON t.relid = c.reltoastrelid "
			 "WHERE c.oid = 'kineshim_log'::regclass) AS sizes",
};

/*
 * For engines that resemble PostgreSQL: nothing that locks (the transactions are SERIALIZABLE and one of two in each other's
 * way is undone), no notification, no function of ours, no two changes of one table in a statement.
 */
const char *const sqlb_pg_plain_texts[SQLB_PG_STATEMENTS] = {
	[SQLB_PG_INSERT_ONE] = INSERT_PARAMETERS " WHERE " HEAD_IS_PLAIN("$14::int8", "$15::int8", "$16::int8"),
	[SQLB_PG_INSERT_MANY] = INSERT_ARRAYS ONE_WRITER " WHERE " HEAD_IS_PLAIN("$14::int8", "$15::int8", "$16::int8"),
	[SQLB_PG_INSERT_LOAD] = INSERT_ARRAYS "unnest($12::int8[]), unnest($13::int8[])",
	[SQLB_PG_CHECK_HEAD] = "SELECT CASE WHEN " HEAD_IS_PLAIN("$1::int8", "$2::int8", "$3::int8") " THEN 0 ELSE "
			       "('kineshim: the position after ' || $1::int8::text || ' is taken, ' || "
			       "clock_timestamp()::text)::int8 END",
	[SQLB_PG_GUARD] = "SELECT count(*) = (SELECT count(DISTINCT id) FROM unnest($1::int8[]) AS wanted(id)) FROM ("
			  "SELECT 1 FROM kineshim_lease WHERE id = ANY($1::int8[]) AND deadline <= clock_timestamp()) AS due",
	[SQLB_PG_TRIM] = "DELETE FROM kineshim_log WHERE (position, sub) IN "
			 "(SELECT unnest($1::int8[]), unnest($2::int4[]))",
	[SQLB_PG_LEASE_DROP] = "DELETE FROM kineshim_lease WHERE id = ANY($1::int8[])",
	[SQLB_PG_LEASE_TOUCH] = "UPDATE kineshim_lease SET deadline = " DEADLINE("ttl_ms") " WHERE id = ANY($1::int8[]) "
				"AND deadline > clock_timestamp() RETURNING id, ttl_ms, " REMAINING("deadline"),
	[SQLB_PG_LEASE_REFRESH] = "UPDATE kineshim_lease SET deadline = " DEADLINE("ttl_ms"),
	[SQLB_PG_DUTY_TAKE] = DUTY_TAKE(""),
	[SQLB_PG_MEMBER_SILENT] = "DELETE FROM kineshim_member WHERE deadline < clock_timestamp() - interval '1 hour' "
				  "AND id <> $1::int8",
	[SQLB_PG_MEMBER_PUT] = "INSERT INTO kineshim_member (id, name, client_urls, position, deadline) "
			       "VALUES ($1::int8, $2::text, $3::text, $4::int8, " DEADLINE("$5::int8") ") "
			       "ON CONFLICT (id) DO UPDATE SET name = excluded.name, client_urls = excluded.client_urls, "
			       "position = excluded.position, deadline = excluded.deadline",
	[SQLB_PG_MEMBER_OTHERS] = "SELECT (count(*))::int4 FROM kineshim_member "
				  "WHERE id <> $1::int8 AND deadline > clock_timestamp()",
	/* What such an engine needs on its disks is its own business: what was written, and a little for each row. */
	[SQLB_PG_SIZE] = "SELECT coalesce(sum(coalesce(length(key), 0) + coalesce(length(value), 0) + "
			 "coalesce(length(payload), 0) + 100), 0)::int8 FROM kineshim_log",
};
