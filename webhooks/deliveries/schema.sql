-- Version 5, of server version 0.1.0. Later versions are steps in database.py.
CREATE TABLE deliveries (
    number        INTEGER PRIMARY KEY,  -- the id as a number
    id            TEXT AS (printf('%016x', number)),
    endpoint      TEXT NOT NULL,
    repo          TEXT,                 -- type/name, such as dataset/username/my-dataset
    event         TEXT,                 -- scope and action, such as repo.content update
    received_at   REAL NOT NULL,        -- this and all other times: seconds since 1970, UTC
    replay_of     INTEGER,
    status        TEXT NOT NULL,
    due_at        REAL,                 -- when a scheduled delivery runs
    subject       TEXT,                 -- the debounce key; a newer delivery with the same one supersedes this one
    burst_at      REAL,                 -- when the burst of debounced events began
    superseded_by INTEGER,
    attempts      INTEGER NOT NULL DEFAULT 0,
    failures      INTEGER NOT NULL DEFAULT 0,
    interruptions INTEGER NOT NULL DEFAULT 0,  -- attempts during which the process ended
    started_at    REAL,                 -- of the attempt that runs, or that succeeded
    finished_at   REAL,
    answer_status INTEGER,
    skipped       INTEGER NOT NULL DEFAULT 0,  -- 1 if the handler returned {"skipped": reason}
    query         BLOB NOT NULL,
    headers       TEXT NOT NULL,        -- JSON: [[name, value], ...]; the value of a credential is null
    answer        BLOB,
    body          BLOB NOT NULL
);
-- The columns of the dashboard's filters, so that SQLite reads no bodies for them.
CREATE INDEX overview ON deliveries (status, skipped, endpoint, repo, event);
CREATE INDEX bursts ON deliveries (subject) WHERE status = 'scheduled' AND subject IS NOT NULL;
CREATE INDEX replays ON deliveries (replay_of) WHERE replay_of IS NOT NULL;
CREATE INDEX superseded ON deliveries (superseded_by) WHERE superseded_by IS NOT NULL;
CREATE TABLE attempts (                 -- the failed ones
    delivery   INTEGER NOT NULL REFERENCES deliveries ON DELETE CASCADE,
    attempt    INTEGER NOT NULL,
    started_at REAL NOT NULL,
    ended_at   REAL NOT NULL,
    error      TEXT NOT NULL,
    PRIMARY KEY (delivery, attempt)
);                                      -- with a rowid: WITHOUT ROWID would give each error of 1 KB its own page
CREATE TABLE jobs (
    id        TEXT NOT NULL PRIMARY KEY,
    delivery  INTEGER NOT NULL REFERENCES deliveries ON DELETE CASCADE,
    namespace TEXT NOT NULL,
    url       TEXT NOT NULL,
    flavor    TEXT NOT NULL,
    stage     TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX jobs_by_delivery ON jobs (delivery);
