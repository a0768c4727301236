-- What park/park.sql has the server work out, of an event that came by park/large.sql. A unique violation
-- where the event is there already: the stream brought it again.
--   $1 name: slot, $2 oid: outbox, $3 pg_lsn, $4 bigint: its place, $5 bigint: milliseconds to its next try
UPDATE pgoutbox.parked AS parked
   SET next_attempt_at = now() + $5::bigint * interval '1 millisecond',
       -- As in init/schema.sql.
       digest = (SELECT sha256(string_agg(coalesce(sha256(cell), '\x00'), ''::bytea ORDER BY number))
                   FROM unnest(parked.cells) WITH ORDINALITY AS one (cell, number)),
       xid_end = pg_snapshot_xmax(pg_current_snapshot())::text::bigint % 4294967296,
       filenode = pg_relation_filenode(parked.outbox),
       tries = pgoutbox.with_try('[]', parked.reason, parked.last_error)
 WHERE parked.slot = $1 AND parked.outbox = $2::oid::regclass AND parked.commit_lsn = $3 AND parked.index = $4
   AND parked.digest IS NULL;
