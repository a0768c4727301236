-- Says how the guard finds the WAL, for `pgoutbox status`.
--   $1 name: slot, $2 text: level, $3 text: verdict as JSON
INSERT INTO pgoutbox.guard AS guard (slot, level, verdict) VALUES ($1, $2, $3::text::jsonb)
ON CONFLICT (slot) DO UPDATE
   SET level = excluded.level, verdict = excluded.verdict, seen_at = now(),
       since = CASE WHEN guard.level = excluded.level THEN guard.since ELSE now() END;
