-- The next rows to replay.
FETCH 200 FROM replay;
