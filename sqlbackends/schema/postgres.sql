-- SPDX-License-Identifier: Apache-2.0
-- kineshim's tables in PostgreSQL (13 or newer). The program runs the numbered sections that a database has not seen
-- yet, all in one transaction, and notes the number in kineshim_meta. To change the schema add a section; never edit a
-- released one.
--
-- People may read everything here at any time; only the servers may write. SELECT * FROM kineshim_live shows what
-- etcdctl get would.

-- version 1

CREATE TABLE kineshim_meta (
	name text PRIMARY KEY,
	value text NOT NULL
);
COMMENT ON TABLE kineshim_meta IS 'Whose tables these are: program, schema_version, cluster_id (hexadecimal), created_at';

-- Rows are inserted once, in order, and deleted by compaction: never updated, so pages are filled to the brim. Large
-- values go out of line uncompressed: reading them is what this table is for, and pglz costs more than the disk.
CREATE TABLE kineshim_log (
	position bigint NOT NULL,
	sub integer NOT NULL,
	rows integer NOT NULL,
	kind smallint NOT NULL,
	revision bigint NOT NULL,
	key bytea,
	value bytea,
	create_revision bigint NOT NULL,
	version bigint NOT NULL,
	lease bigint NOT NULL,
	payload bytea,
	writer bigint NOT NULL,
	batch bigint NOT NULL,
	created_at timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (position, sub) WITH (fillfactor = 100)
) WITH (
	fillfactor = 100,
	autovacuum_vacuum_scale_factor = 0.05,
	autovacuum_analyze_scale_factor = 0.05,
	autovacuum_vacuum_insert_scale_factor = 0.2
);
ALTER TABLE kineshim_log
	ALTER COLUMN key SET STORAGE EXTERNAL,
	ALTER COLUMN value SET STORAGE EXTERNAL,
	ALTER COLUMN payload SET STORAGE EXTERNAL;
COMMENT ON TABLE kineshim_log IS 'All that is durable: one entry is one applied request, its rows share a position';
COMMENT ON COLUMN kineshim_log.position IS 'Of the entry: 1, 2, 3 ... chosen by the writer; compaction removes old ones';
COMMENT ON COLUMN kineshim_log.sub IS 'Row within the entry: 0, 1, 2 ...';
COMMENT ON COLUMN kineshim_log.rows IS 'How many rows the entry was written with';
COMMENT ON COLUMN kineshim_log.kind IS '1 put, 2 delete; others: lease grant, lease revoke, compaction ...';
COMMENT ON COLUMN kineshim_log.revision IS 'etcd''s revision after this entry (a key''s mod_revision)';
COMMENT ON COLUMN kineshim_log.create_revision IS 'Of the key: the revision that created it';
COMMENT ON COLUMN kineshim_log.version IS 'Of the key: 1 when it is created, +1 with every put';
COMMENT ON COLUMN kineshim_log.lease IS 'The lease the key hangs on; 0: none';
COMMENT ON COLUMN kineshim_log.payload IS 'What the other kinds say';
COMMENT ON COLUMN kineshim_log.writer IS 'Which start of which server wrote it';
COMMENT ON COLUMN kineshim_log.batch IS 'In which of the writer''s appends';
COMMENT ON COLUMN kineshim_log.created_at IS 'The database''s clock at the append; for people';

-- Keepalives update this table all the time: room on each page, and no index on the deadline, keep them heap-only
-- updates that leave nothing for VACUUM to do.
CREATE TABLE kineshim_lease (
	id bigint PRIMARY KEY,
	ttl_ms bigint NOT NULL,
	deadline timestamptz NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE kineshim_lease IS 'Deadlines of the leases, judged by the database''s clock. That a lease exists is said by the log';

CREATE TABLE kineshim_duty (
	one boolean PRIMARY KEY DEFAULT true CHECK (one),
	holder bigint NOT NULL,
	term bigint NOT NULL,
	deadline timestamptz NOT NULL
) WITH (fillfactor = 10);
INSERT INTO kineshim_duty (holder, term, deadline) VALUES (0, 1, now());
COMMENT ON TABLE kineshim_duty IS 'Which member does the housekeeping (lease expiry, compaction), until when. One row';
COMMENT ON COLUMN kineshim_duty.holder IS 'Member id; 0: nobody';
COMMENT ON COLUMN kineshim_duty.term IS '+1 with each new holder';

CREATE TABLE kineshim_member (
	id bigint PRIMARY KEY,
	name text NOT NULL,
	client_urls text NOT NULL,
	position bigint NOT NULL,
	deadline timestamptz NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE kineshim_member IS 'The servers: alive until their deadline';
COMMENT ON COLUMN kineshim_member.id IS 'An unsigned number, stored as signed';
COMMENT ON COLUMN kineshim_member.position IS 'Of the log, as far as that server has applied it';

-- Bytes as people want to see them: UTF-8 as text, anything else as bytea is shown, \x.... There is no conversion that
-- gives NULL instead of an error, so the bytes are looked at as LATIN1, where every byte but 0 is a character.
CREATE FUNCTION kineshim_text(bytes bytea) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
	SELECT CASE
		WHEN position('\x00'::bytea IN bytes) > 0 THEN bytes::text
		WHEN getdatabaseencoding() <> 'UTF8' THEN
			CASE WHEN encode(bytes, 'escape') !~ '\\' THEN encode(bytes, 'escape') ELSE bytes::text END
		WHEN convert_from(bytes, 'LATIN1') ~ ('^([\u0001-\u007f]'
			'|[\u00c2-\u00df][\u0080-\u00bf]'
			'|\u00e0[\u00a0-\u00bf][\u0080-\u00bf]'
			'|[\u00e1-\u00ec\u00ee\u00ef][\u0080-\u00bf]{2}'
			'|\u00ed[\u0080-\u009f][\u0080-\u00bf]'
			'|\u00f0[\u0090-\u00bf][\u0080-\u00bf]{2}'
			'|[\u00f1-\u00f3][\u0080-\u00bf]{3}'
			'|\u00f4[\u0080-\u008f][\u0080-\u00bf]{2})*$') THEN convert_from(bytes, 'UTF8')
		ELSE bytes::text
	END
$$;
COMMENT ON FUNCTION kineshim_text(bytea) IS 'A key or value for people: text where it is UTF-8, else \x and hexadecimal digits';

CREATE VIEW kineshim_live (key, value, create_revision, mod_revision, version, lease, written_at) AS
SELECT
	kineshim_text(key), kineshim_text(value), create_revision, revision, version, lease, created_at
FROM (
	SELECT DISTINCT ON (key) * FROM kineshim_log WHERE kind IN (1, 2)
	ORDER BY key, position DESC, sub DESC
) AS newest
WHERE kind = 1
ORDER BY newest.key;
COMMENT ON VIEW kineshim_live IS 'The keys as they are now, for people: a key lives when its newest put or delete is a put';
