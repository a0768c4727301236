-- The next ids of the rows to replay.
FETCH 200 FROM replay;
