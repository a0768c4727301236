-- What the captures of this directory hold; run by record.sh.
SET datestyle = 'ISO'; SET timezone = 'UTC'; SET bytea_output = 'hex';

CREATE TYPE mood AS ENUM ('glad', 'sad');
CREATE TABLE outbox (id uuid PRIMARY KEY, payload jsonb, raw bytea, at timestamptz, feels mood, note text);
ALTER TABLE outbox ALTER COLUMN note SET STORAGE EXTERNAL;
CREATE TABLE by_leaf (id bigint, day int, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE by_leaf_1 PARTITION OF by_leaf FOR VALUES FROM (0) TO (10);
CREATE TABLE by_root (id bigint, day int, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE by_root_1 (day int NOT NULL, id bigint NOT NULL, PRIMARY KEY (id, day));
ALTER TABLE by_root ATTACH PARTITION by_root_1 FOR VALUES FROM (0) TO (10);
CREATE PUBLICATION "p" FOR TABLE outbox, by_leaf;
CREATE PUBLICATION "Root" FOR TABLE by_root WITH (publish_via_partition_root = true);
SELECT pg_create_logical_replication_slot('golden', 'pgoutput');

-- Every type, and NULL.
INSERT INTO outbox VALUES ('00000000-0000-0000-0000-000000000001', '{"a": [1, "ä"], "b": null}', '\x00ff41', '2026-01-02 03:04:05.678+00', 'glad', 'plain');
INSERT INTO outbox (id) VALUES ('00000000-0000-0000-0000-000000000002');
-- Several rows, a savepoint that is kept, one that is not, a whole transaction that is not.
BEGIN;
INSERT INTO outbox (id, note) VALUES ('00000000-0000-0000-0000-000000000003', 'before');
SAVEPOINT kept;
INSERT INTO outbox (id, note) VALUES ('00000000-0000-0000-0000-000000000004', 'kept');
RELEASE SAVEPOINT kept;
SAVEPOINT dropped;
INSERT INTO outbox (id, note) VALUES ('00000000-0000-0000-0000-000000000005', 'never seen');
ROLLBACK TO SAVEPOINT dropped;
INSERT INTO outbox (id, note) VALUES ('00000000-0000-0000-0000-000000000006', 'after'), ('00000000-0000-0000-0000-000000000007', 'after');
COMMIT;
BEGIN;
INSERT INTO outbox (id, note) VALUES ('00000000-0000-0000-0000-000000000008', 'never seen');
ROLLBACK;
-- A TOASTed value comes whole with its insert, and not at all with an update of the rest.
INSERT INTO outbox (id, note) VALUES ('00000000-0000-0000-0000-000000000009', repeat('t', 2500));
UPDATE outbox SET feels = 'sad' WHERE id = '00000000-0000-0000-0000-000000000009';
-- The shape changes inside of a transaction.
BEGIN;
INSERT INTO outbox (id, note) VALUES ('00000000-0000-0000-0000-00000000000a', 'old shape');
ALTER TABLE outbox ADD COLUMN extra int DEFAULT 7;
INSERT INTO outbox (id, note) VALUES ('00000000-0000-0000-0000-00000000000b', 'new shape');
ALTER TABLE outbox DROP COLUMN raw;
ALTER TABLE outbox RENAME COLUMN note TO remark;
INSERT INTO outbox (id, remark) VALUES ('00000000-0000-0000-0000-00000000000c', 'newest shape');
COMMIT;
DELETE FROM outbox WHERE id = '00000000-0000-0000-0000-000000000002';
-- Partitions, published as themselves and as their root.
INSERT INTO by_leaf VALUES (1, 5);
INSERT INTO by_root VALUES (2, 6);
-- Messages of anybody, in a transaction and outside of one.
BEGIN;
SELECT pg_logical_emit_message(true, 'somebody', 'in a transaction');
INSERT INTO outbox (id) VALUES ('00000000-0000-0000-0000-00000000000d');
COMMIT;
SELECT pg_logical_emit_message(false, 'somebody', 'outside');
-- A transaction that came from elsewhere.
SELECT pg_replication_origin_create('elsewhere');
SELECT pg_replication_origin_session_setup('elsewhere');
BEGIN;
SELECT pg_replication_origin_xact_setup('0/ABC', '2026-01-01');
INSERT INTO outbox (id) VALUES ('00000000-0000-0000-0000-00000000000e');
COMMIT;
SELECT pg_replication_origin_session_reset();
TRUNCATE outbox;
TRUNCATE by_leaf, outbox RESTART IDENTITY CASCADE;
