-- What is kept of a slot that begins where one of those before stood: up to where each of them had settled its share
-- (former), in their order.
--   psql -v slot=pgoutbox_0of3 -v system_identifier=7300000000000000000 -v timeline=1 -v end_lsn=0/1A2B3C8
--        -v coverage=1 -v former='["0/1A2B3C8", "0/1A2B4D0"]' -f shards/settled.sql
INSERT INTO pgoutbox.progress (slot, system_identifier, timeline, end_lsn, coverage, former)
VALUES (:'slot', :'system_identifier', :'timeline'::integer, :'end_lsn'::pg_lsn, :'coverage'::bigint, :'former'::jsonb)
    -- A relay that waits for its turn has said so there.
    ON CONFLICT (slot) DO UPDATE
       SET system_identifier = excluded.system_identifier, timeline = excluded.timeline, end_lsn = excluded.end_lsn,
           commit_lsn = NULL, settled = 0, change_lsn = NULL, change_number = NULL,
           coverage = excluded.coverage, former = excluded.former, session = NULL,
           publishing_id = 0, publishing_epoch = NULL, updated_at = now(), fault = NULL, fault_at = NULL;
