-- SPDX-License-Identifier: Apache-2.0
-- kineshim's tables in SQLite. The program runs the numbered sections that a database has not seen yet, each in one
-- transaction, and notes the number in kineshim_meta. To change the schema add a section; never edit a released one.
--
-- People may read everything here while the server runs (sqlite3 -readonly kineshim.db); only the server may write.
-- SELECT * FROM kineshim_live shows what etcdctl get would.

-- version 1

-- Whose tables these are, as name and value: program, schema_version, cluster_id (hexadecimal), created_at.
CREATE TABLE IF NOT EXISTS kineshim_meta (
	name TEXT PRIMARY KEY NOT NULL,
	value TEXT NOT NULL
) WITHOUT ROWID;

-- The log: all that is durable. One entry is one applied request; its rows share a position.
CREATE TABLE kineshim_log (
	position INTEGER NOT NULL,        -- of the entry: 1, 2, 3 ... chosen by the writer; compaction removes old ones
	sub INTEGER NOT NULL,             -- row within the entry: 0, 1, 2 ...
	rows INTEGER NOT NULL,            -- how many rows the entry was written with
	kind INTEGER NOT NULL,            -- 1 put, 2 delete; others: lease grant, lease revoke, compaction ...
	revision INTEGER NOT NULL,        -- etcd's revision after this entry (a key's mod_revision)
	key BLOB,
	value BLOB,
	create_revision INTEGER NOT NULL,
	version INTEGER NOT NULL,         -- of the key: 1 when it is created
	lease INTEGER NOT NULL,           -- 0: none
	payload BLOB,                     -- of the other kinds
	writer INTEGER NOT NULL,          -- which start of which server wrote it
	batch INTEGER NOT NULL,           -- and in which of its writes
	created_at INTEGER NOT NULL,      -- Unix time in milliseconds, for people
	PRIMARY KEY (position, sub)
);

-- Deadlines are the serving process's own time in milliseconds (it starts as Unix time and then ignores clock changes).
-- A process that opens the file gives every lease its whole ttl again, so they mean nothing after the process ended. Of leases
-- only the first one is here: the process keeps in memory how keepalives moved it.
CREATE TABLE kineshim_lease (
	id INTEGER PRIMARY KEY NOT NULL,
	ttl_ms INTEGER NOT NULL,
	deadline INTEGER NOT NULL
);
CREATE INDEX kineshim_lease_deadline ON kineshim_lease (deadline);

-- Who does the housekeeping (always the serving process). One row.
CREATE TABLE kineshim_duty (
	one INTEGER PRIMARY KEY NOT NULL CHECK (one = 1),
	holder INTEGER NOT NULL,          -- 0: nobody
	term INTEGER NOT NULL,            -- + 1 with each new holder
	deadline INTEGER NOT NULL
);
INSERT INTO kineshim_duty (one, holder, term, deadline) VALUES (1, 0, 1, 0);

-- Which servers are alive.
CREATE TABLE kineshim_member (
	id INTEGER PRIMARY KEY NOT NULL,  -- an unsigned number, stored as signed
	name TEXT NOT NULL,
	client_urls TEXT NOT NULL,        -- separated by commas
	position INTEGER NOT NULL,        -- of the log, as far as that server has applied it
	deadline INTEGER NOT NULL
);

-- The live keys for people: a key is live when its newest put or delete is a put. A key that is not printable ASCII is
-- shown as a blob literal, x'...'.
CREATE VIEW kineshim_live (key, value, create_revision, mod_revision, version, lease, written_at) AS
SELECT
	CASE
		WHEN length(CAST(key AS TEXT)) = length(key) AND CAST(key AS TEXT) NOT GLOB '*[^ -~]*' THEN CAST(key AS TEXT)
		ELSE 'x''' || hex(key) || ''''
	END,
	value, create_revision, revision, version, lease,
	strftime('%Y-%m-%dT%H:%M:%fZ', created_at / 1000.0, 'unixepoch')
FROM (
	SELECT *, row_number() OVER (PARTITION BY key ORDER BY position DESC, sub DESC) AS age
	FROM kineshim_log WHERE kind IN (1, 2)
)
WHERE age = 1 AND kind = 1
ORDER BY key;
