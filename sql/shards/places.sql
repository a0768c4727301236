-- Where slots stand, and how far the events of each are settled: every commit before the place is.
--   psql -v slots='["pgoutbox_0of2", "pgoutbox_1of2"]' -v system_identifier=7300000000000000000 -v timeline=1
--        -f shards/places.sql
SELECT asked.slot,
       slot.slot_name IS NOT NULL AS is_there,
       slot.active_pid,
       slot.wal_status = 'lost' AS is_lost,
       slot.confirmed_flush_lsn::text AS confirmed,
       greatest(slot.confirmed_flush_lsn, coalesce(progress.commit_lsn, progress.end_lsn))::text AS place,
       EXISTS (SELECT FROM pgoutbox.catch_up WHERE catch_up.slot = asked.slot) AS is_catching_up,
       EXISTS (SELECT FROM pgoutbox.pause WHERE pause.slot = asked.slot) AS is_paused,
       (SELECT count(*) FROM pgoutbox.parked
         WHERE parked.slot = asked.slot AND parked.state IN ('parked', 'queued', 'failed')) AS parked
  FROM jsonb_array_elements_text(:'slots'::jsonb) WITH ORDINALITY AS asked (slot, number)
  LEFT JOIN pg_replication_slots AS slot
    ON slot.slot_name = asked.slot AND slot.database = current_database() AND slot.plugin = 'pgoutput'
  LEFT JOIN pgoutbox.progress
    ON progress.slot = asked.slot AND progress.system_identifier = :'system_identifier'
   AND progress.timeline = :'timeline'::integer
 ORDER BY asked.number;
