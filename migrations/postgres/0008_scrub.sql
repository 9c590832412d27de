-- How far the scrub of servers is, and how many copies are known to be lost or altered.

-- One row, once a pass has begun. Moments are milliseconds since 1970 by the wall clock.
CREATE TABLE scrub (
    id          smallint PRIMARY KEY CHECK (id = 1),
    beats       bigint   NOT NULL,             -- goes up with each change: whoever goes on has seen the last one
    running     boolean  NOT NULL,             -- a pass has begun and not come to its end
    started_at  bigint   NOT NULL,             -- that pass, or the last one
    finished_at bigint,                        -- the last pass that came to its end
    after_hash  bytea,                         -- the last blob that the pass has checked
    after_class smallint,
    blobs       bigint   NOT NULL,             -- what it has checked
    bytes       bigint   NOT NULL,
    damaged     bigint   NOT NULL              -- how many of them were lost or altered
);

CREATE INDEX blobs_damaged ON blobs (content_hash) WHERE damaged;
