-- Rows of the outbox show of their parked events, in one column: what `value` says, an expression over the
-- record (parked) and the row (outbox). Of those that changed lately, for the row may not be visible yet when
-- its event is parked. The record keeps who wrote the row last. What somebody has a lock on is left: a later
-- look finds it.
--   $1 bigint[]: of these records only, null: of all; $2 bigint[]: records that are left out
--   psql -v schema=public -v table=outbox_messages -v relation=16389 -v id=id -v id_schema=pg_catalog
--        -v id_type=uuid -v shown=attempt -v value=parked.attempts -v is_same_table=true -v is_event=true -f parked/show.sql
WITH wanted AS MATERIALIZED (
    SELECT parked.seq, parked.event_id, :value AS value
      FROM pgoutbox.parked AS parked
      JOIN :"schema".:"table" AS outbox ON outbox.:"id":::"id_schema".:"id_type" = parked.event_id:::"id_schema".:"id_type"
     WHERE parked.outbox = :'relation'::oid::regclass
       AND :is_same_table
       AND parked.changed_at > now() - interval '1 minute' AND parked.state NOT IN ('queued', 'delivered')
       AND ($1::bigint[] IS NULL OR parked.seq = ANY ($1::bigint[])) AND parked.seq <> ALL ($2::bigint[])
       -- Not of another row with its id.
       AND :is_event
       AND outbox.:"shown" IS DISTINCT FROM :value
       FOR NO KEY UPDATE SKIP LOCKED
), shown AS (
    UPDATE :"schema".:"table" AS outbox
       SET :"shown" = wanted.value
      FROM wanted
      JOIN pgoutbox.parked AS parked ON parked.seq = wanted.seq
     WHERE outbox.:"id":::"id_schema".:"id_type" = wanted.event_id:::"id_schema".:"id_type"
       AND :is_event
       AND outbox.:"shown" IS DISTINCT FROM wanted.value
    RETURNING wanted.seq
)
UPDATE pgoutbox.parked
   SET shown_xid = pg_current_xact_id()::text::bigint % 4294967296
 WHERE seq IN (SELECT seq FROM shown);
