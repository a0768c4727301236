-- Whether pgoutbox.enqueue is there with this body, in which {outbox} stands for the table.
--   psql -v schema=public -v table=outbox_messages -v body='...' -f init/enqueue_known.sql
SELECT EXISTS (
    SELECT FROM pg_proc AS own
      JOIN pg_namespace AS namespace ON namespace.oid = own.pronamespace
     WHERE namespace.nspname = 'pgoutbox' AND own.proname = 'enqueue'
       AND own.prosrc = replace(:'body', '{outbox}', format('%I.%I', :'schema'::text, :'table'::text))
) AS is_same;
