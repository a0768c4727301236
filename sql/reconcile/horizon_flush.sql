-- Has the WAL flushed up to here, and the slot come past it at once: where nobody commits, the
-- last records (of a page that a SELECT tidied) may else wait for long. The relay passes it over.
-- Long enough to be told from the echo of what the relay itself wrote (session/reach.rs).
SELECT pg_logical_emit_message(true, 'pgoutbox', repeat('.', 400));
