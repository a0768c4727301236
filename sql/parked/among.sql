-- Which of some places have a record in the parking, of whatever state: the events there are not
-- to be marked.
--   $1 name: slot, $2 pg_lsn[], $3 bigint[]: the places
SELECT DISTINCT parked.commit_lsn, parked.index
  FROM unnest($2::pg_lsn[], $3::bigint[]) AS wanted (commit_lsn, index)
  JOIN pgoutbox.parked AS parked
    ON parked.slot = $1 AND parked.commit_lsn = wanted.commit_lsn AND parked.index = wanted.index;
