-- SPDX-License-Identifier: Apache-2.0
-- kineshim's tables in SQL Server (2016 or newer, or Azure SQL). The program runs the numbered sections that a database has
-- not seen yet, all in one transaction, and notes the number in kineshim_meta. To change the schema add a section; never
-- edit a released one. GO ends a batch, as it does for sqlcmd.
--
-- People may read everything here at any time; only the servers may write. SELECT * FROM kineshim_live shows what
-- etcdctl get would.

-- version 1

-- Whose tables these are: program, schema_version, cluster_id (hexadecimal), created_at.
CREATE TABLE kineshim_meta (
	name varchar(64) NOT NULL,
	value varchar(256) NOT NULL,
	CONSTRAINT kineshim_meta_pk PRIMARY KEY CLUSTERED (name)
);

-- The log: all that is durable. One entry is one applied request; its rows share a position. Rows are inserted once, in
-- order, and deleted by compaction: never updated, so pages are filled to the brim.
CREATE TABLE kineshim_log (
	position bigint NOT NULL,            -- of the entry: 1, 2, 3 ... chosen by the writer; compaction removes old ones
	sub int NOT NULL,                    -- row within the entry: 0, 1, 2 ...
	[rows] int NOT NULL,                 -- how many rows the entry was written with
	kind smallint NOT NULL,              -- 1 put, 2 delete; others: lease grant, lease revoke, compaction ...
	revision bigint NOT NULL,            -- etcd's revision after this entry (a key's mod_revision)
	[key] varbinary(max) NULL,
	value varbinary(max) NULL,
	create_revision bigint NOT NULL,
	version bigint NOT NULL,             -- of the key: 1 when it is created
	lease bigint NOT NULL,               -- 0: none
	payload varbinary(max) NULL,         -- of the other kinds
	writer bigint NOT NULL,              -- which start of which server wrote it
	batch bigint NOT NULL,               -- and in which of its writes
	created_at datetime2(3) NOT NULL CONSTRAINT kineshim_log_created DEFAULT SYSUTCDATETIME(), -- for people
	CONSTRAINT kineshim_log_pk PRIMARY KEY CLUSTERED (position, sub) WITH (FILLFACTOR = 100)
);

-- Deadlines of the leases, in milliseconds since 1970 by the server's UTC clock. That a lease exists is said by the log.
CREATE TABLE kineshim_lease (
	id bigint NOT NULL,
	ttl_ms bigint NOT NULL,
	deadline bigint NOT NULL,
	CONSTRAINT kineshim_lease_pk PRIMARY KEY CLUSTERED (id)
);

-- Which server does the housekeeping (lease expiry, compaction), until when. One row.
CREATE TABLE kineshim_duty (
	one tinyint NOT NULL CONSTRAINT kineshim_duty_one CHECK (one = 1),
	holder bigint NOT NULL,              -- 0: nobody
	term bigint NOT NULL,                -- + 1 with each new holder
	deadline bigint NOT NULL,
	CONSTRAINT kineshim_duty_pk PRIMARY KEY CLUSTERED (one)
);
INSERT INTO kineshim_duty (one, holder, term, deadline) VALUES (1, 0, 1, 0);

-- The servers: alive until their deadline. Texts are UTF-8.
CREATE TABLE kineshim_member (
	id bigint NOT NULL,                  -- an unsigned number, stored as signed
	name varbinary(max) NOT NULL,
	client_urls varbinary(max) NOT NULL, -- separated by commas
	position bigint NOT NULL,            -- of the log, as far as that server has applied it
	deadline bigint NOT NULL,
	CONSTRAINT kineshim_member_pk PRIMARY KEY CLUSTERED (id)
);
GO

-- The live keys for people: a key is live when its newest put or delete is a put. Keys and values that are not printable
-- ASCII are shown as hexadecimal, 0x.... A comparison of varbinary ignores zeros at the end, so the length counts too.
CREATE VIEW kineshim_live AS
SELECT
	CASE
		WHEN CONVERT(varchar(max), [key]) COLLATE Latin1_General_BIN LIKE '%[^ -~]%' THEN CONVERT(varchar(max), [key], 1)
		ELSE CONVERT(varchar(max), [key])
	END AS [key],
	CASE
		WHEN CONVERT(varchar(max), value) COLLATE Latin1_General_BIN LIKE '%[^ -~]%' THEN CONVERT(varchar(max), value, 1)
		ELSE CONVERT(varchar(max), value)
	END AS value,
	create_revision, revision AS mod_revision, version, lease, created_at AS written_at
FROM (
	SELECT *, ROW_NUMBER() OVER (PARTITION BY [key], DATALENGTH([key]) ORDER BY position DESC, sub DESC) AS age
	FROM kineshim_log WHERE kind IN (1, 2)
) AS newest
WHERE age = 1 AND kind = 1;
GO
