CREATE TABLE runs (
    no INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    parent TEXT,
    root TEXT NOT NULL,
    about TEXT NOT NULL,
    work_dir TEXT NOT NULL,
    guards INTEGER NOT NULL,
    status TEXT NOT NULL,
    usage TEXT NOT NULL,
    created REAL NOT NULL,
    updated REAL NOT NULL,
    epoch INTEGER NOT NULL,
    owner TEXT,
    heartbeat REAL NOT NULL
);
CREATE INDEX runs_by_work_dir ON runs (work_dir);
CREATE TABLE events (
    run INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    -- Of all of the above: a damaged record is never taken for what was recorded.
    seal INTEGER NOT NULL,
    PRIMARY KEY (run, seq)
) WITHOUT ROWID;
CREATE TABLE texts (
    run INTEGER NOT NULL,
    hash BLOB NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (run, hash)
);
CREATE TABLE demands (
    no INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    demand TEXT NOT NULL,
    at REAL NOT NULL
);
CREATE TABLE questions (
    run INTEGER NOT NULL,
    id TEXT NOT NULL,
    asked REAL NOT NULL,
    question TEXT NOT NULL,
    answer TEXT,
    settled INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (run, id)
) WITHOUT ROWID;
