-- SPDX-License-Identifier: Apache-2.0
-- kineshim's tables in MariaDB (10.6 or newer) and MySQL (8.0 or newer). The program makes kineshim_meta, runs the numbered
-- sections that a database has not seen yet, statement by statement (each ends with a semicolon at the end of a line), and then
-- notes the number in kineshim_meta. A CREATE TABLE cannot be rolled back here, and a server may be killed or stand still
-- between two statements: so every statement must do no harm when it is run again, or by two. That a table is ours is told by
-- its comment, which comes into being with it. To change the schema add a section; never edit a released one.
--
-- People may read everything here at any time; only the servers may write. SELECT * FROM kineshim_live shows what
-- etcdctl get would.

-- meta

CREATE TABLE IF NOT EXISTS kineshim_meta (
	name VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
	value VARCHAR(1000) NOT NULL
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
COMMENT='kineshim: whose tables these are; program, schema_version, cluster_id (hexadecimal), created_at';

-- version 1

-- Rows are inserted once, in order, and deleted by compaction. One row is special, the gate: position 0 says in revision, writer
-- and batch which entry is the newest. An append changes it from the entry before its own to its own last one.
CREATE TABLE IF NOT EXISTS kineshim_log (
	`position` BIGINT NOT NULL COMMENT 'Of the entry: 1, 2, 3 ... chosen by the writer; compaction removes old ones. 0: the gate',
	`sub` INT NOT NULL COMMENT 'Row within the entry: 0, 1, 2 ...',
	`rows` INT NOT NULL COMMENT 'How many rows the entry was written with',
	`kind` SMALLINT NOT NULL COMMENT '1 put, 2 delete; others: lease grant, lease revoke, compaction ...',
	`revision` BIGINT NOT NULL COMMENT 'etcd''s revision after this entry (a key''s mod_revision). Of the gate: the newest position',
	`key` LONGBLOB,
	`value` LONGBLOB,
	`create_revision` BIGINT NOT NULL COMMENT 'Of the key: the revision that created it',
	`version` BIGINT NOT NULL COMMENT 'Of the key: 1 when it is created, +1 with every put',
	`lease` BIGINT NOT NULL COMMENT 'The lease the key hangs on; 0: none',
	`payload` LONGBLOB COMMENT 'What the other kinds say',
	`writer` BIGINT NOT NULL COMMENT 'Which start of which server wrote it',
	`batch` BIGINT NOT NULL COMMENT 'In which of the writer''s appends',
	`created_at` DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3) COMMENT 'The database''s clock at the append, UTC; for people',
	PRIMARY KEY (`position`, `sub`)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
COMMENT='kineshim: all that is durable; one entry is one applied request, its rows share a position';

INSERT INTO kineshim_log (`position`, `sub`, `rows`, `kind`, `revision`, `create_revision`, `version`, `lease`, `writer`, `batch`)
VALUES (0, 0, 0, 0, 0, 0, 0, 0, 0, 0) ON DUPLICATE KEY UPDATE `position` = 0;

-- No index on the deadline: it would make every keepalive dearer, to save the housekeeper's look at a small table.
CREATE TABLE IF NOT EXISTS kineshim_lease (
	`id` BIGINT NOT NULL PRIMARY KEY,
	`ttl_ms` BIGINT NOT NULL,
	`deadline` BIGINT NOT NULL COMMENT 'Milliseconds since 1970, UTC, by the database''s clock'
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
COMMENT='kineshim: deadlines of the leases. That a lease exists is said by the log';

CREATE TABLE IF NOT EXISTS kineshim_duty (
	`one` INT NOT NULL PRIMARY KEY,
	`holder` BIGINT NOT NULL COMMENT 'Member id; 0: nobody',
	`term` BIGINT NOT NULL COMMENT '+1 with each new holder',
	`deadline` BIGINT NOT NULL
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
COMMENT='kineshim: which member does the housekeeping (lease expiry, compaction), until when. One row';

INSERT INTO kineshim_duty (`one`, `holder`, `term`, `deadline`) VALUES (1, 0, 1, 0) ON DUPLICATE KEY UPDATE `one` = 1;

CREATE TABLE IF NOT EXISTS kineshim_member (
	`id` BIGINT NOT NULL PRIMARY KEY COMMENT 'An unsigned number, stored as signed',
	`name` BLOB NOT NULL COMMENT 'Text',
	`client_urls` BLOB NOT NULL COMMENT 'Text, separated by commas',
	`position` BIGINT NOT NULL COMMENT 'Of the log, as far as that server has applied it',
	`deadline` BIGINT NOT NULL
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
COMMENT='kineshim: the servers; alive until their deadline';

-- view

-- The live keys for people: a key lives when its newest put or delete is a put. UTF-8 is shown as text, anything else as
-- 0x and hexadecimal digits. A user who may not create views has none; nothing else depends on it. Two nodes of a Galera cluster
-- must never do this at once: MariaDB locks the names before the statement gets its place in the cluster's order, and a node
-- that holds the lock then waits for the other's statement, which waits for the lock, for good.
CREATE SQL SECURITY INVOKER VIEW kineshim_live (`key`, `value`, `create_revision`, `mod_revision`, `version`, `lease`, `written_at`) AS
SELECT
	CASE WHEN CAST(CONVERT(`key` USING utf8mb4) AS BINARY) = `key` THEN CONVERT(`key` USING utf8mb4)
		ELSE CONCAT('0x', HEX(`key`)) END,
	CASE WHEN CAST(CONVERT(`value` USING utf8mb4) AS BINARY) = `value` THEN CONVERT(`value` USING utf8mb4)
		ELSE CONCAT('0x', HEX(`value`)) END,
	`create_revision`, `revision`, `version`, `lease`, `created_at`
FROM (
	SELECT kineshim_log.*, ROW_NUMBER() OVER (PARTITION BY `key` ORDER BY `position` DESC, `sub` DESC) AS age
	FROM kineshim_log WHERE `kind` IN (1, 2)
) AS newest
WHERE age = 1 AND `kind` = 1
ORDER BY newest.`key`;
