-- What dies, and since when. A tick is a millisecond of the database's own clock: it advances only while a server
-- runs, by elapsed monotonic time, so that neither a step of the wall clock nor downtime ages anything.

-- When the count became 0; NULL while something refers to the blob.
ALTER TABLE blobs ADD COLUMN zero_since bigint;
UPDATE blobs SET zero_since = 0 WHERE ref_count = 0;
CREATE INDEX blobs_unreferenced ON blobs (zero_since) WHERE ref_count = 0;

-- When the object was forgotten; NULL before.
ALTER TABLE objects ADD COLUMN forgotten_since bigint;
UPDATE objects SET forgotten_since = 0 WHERE status = 3;
CREATE INDEX objects_forgotten ON objects (forgotten_since) WHERE status = 3;

-- Places that no blob row names any more, and whose bytes are to be removed. A row goes after its bytes.
CREATE TABLE garbage (
    content_hash  bytea    NOT NULL,
    storage_class smallint NOT NULL,
    place         text     NOT NULL COLLATE "C",
    size_bytes    bigint   NOT NULL,
    PRIMARY KEY (content_hash, storage_class, place)
);

CREATE TABLE clock (
    id    smallint PRIMARY KEY CHECK (id = 1),
    ticks bigint   NOT NULL
);
INSERT INTO clock (id, ticks) VALUES (1, 0);
