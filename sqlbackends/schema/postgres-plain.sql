-- SPDX-License-Identifier: Apache-2.0
-- kineshim's tables on engines that speak PostgreSQL's protocol over another storage (CockroachDB, YugabyteDB). The same
-- columns as in postgres.sql, without what only PostgreSQL has. The program runs one statement after the other, each by
-- itself, and may run them again: others may be doing the same. What the columns mean is written in docs/backends.md.
--
-- The keys as they are now:
--   SELECT key, value, revision FROM (SELECT DISTINCT ON (key) * FROM kineshim_log WHERE kind IN (1, 2)
--   ORDER BY key, position DESC, sub DESC) AS newest WHERE kind = 1;

-- version 1

CREATE TABLE IF NOT EXISTS kineshim_meta (
	name text PRIMARY KEY,
	value text NOT NULL
);

CREATE TABLE IF NOT EXISTS kineshim_log (
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
	PRIMARY KEY (position, sub)
);

CREATE TABLE IF NOT EXISTS kineshim_lease (
	id bigint PRIMARY KEY,
	ttl_ms bigint NOT NULL,
	deadline timestamptz NOT NULL
);

CREATE TABLE IF NOT EXISTS kineshim_duty (
	one boolean PRIMARY KEY,
	holder bigint NOT NULL,
	term bigint NOT NULL,
	deadline timestamptz NOT NULL
);

CREATE TABLE IF NOT EXISTS kineshim_member (
	id bigint PRIMARY KEY,
	name text NOT NULL,
	client_urls text NOT NULL,
	position bigint NOT NULL,
	deadline timestamptz NOT NULL
);

INSERT INTO kineshim_duty (one, holder, term, deadline) VALUES (true, 0, 1, now()) ON CONFLICT (one) DO NOTHING;
