-- How far the scrub of servers is, and how many copies are known to be lost or altered.

-- One row, once a pass has begun. Moments are milliseconds since 1970 by the wall clock.
CREATE TABLE scrub (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    beats       INTEGER NOT NULL,              -- goes up with each change: whoever goes on has seen the last one
    running     INTEGER NOT NULL,              -- 1: a pass has begun and not come to its end
    started_at  INTEGER NOT NULL,              -- that pass, or the last one
    finished_at INTEGER,                       -- the last pass that came to its end
    after_hash  BLOB,                          -- the last blob that the pass has checked
    after_class INTEGER,
    blobs       INTEGER NOT NULL,              -- what it has checked
    bytes       INTEGER NOT NULL,
    damaged     INTEGER NOT NULL               -- how many of them were lost or altered
) STRICT;

CREATE INDEX blobs_damaged ON blobs (damaged) WHERE damaged = 1;
