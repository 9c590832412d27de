-- Objects, the blobs that their bytes are, and who wrote and owns what.
--
-- Small numbers stand for the words of the interface:
--   status         0 WRITING  1 COMMITTED  2 DELETING  3 DELETED
--   storage_class  0 hot      1 cold
-- Moments (…_at) are milliseconds since 1970 by the wall clock, for people; order is by sequence alone.

CREATE TABLE objects (
    -- Every commit takes the next one. As the row id it ends every index below, so that each of them yields
    -- its objects in the order of their commits.
    sequence      INTEGER PRIMARY KEY,
    id            BLOB    NOT NULL UNIQUE,  -- UUIDv7, 16 bytes
    namespace     TEXT    NOT NULL,
    tenant_id     TEXT    NOT NULL,
    key           TEXT,
    status        INTEGER NOT NULL,
    storage_class INTEGER NOT NULL,
    content_hash  BLOB,                     -- SHA-256, 32 bytes; NULL while WRITING
    size_bytes    INTEGER,                  -- NULL while WRITING
    content_type  TEXT    NOT NULL,
    metadata      TEXT    NOT NULL,         -- JSON object of strings
    writer        INTEGER NOT NULL,         -- instances.id of the process that wrote it
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL
) STRICT;

-- Listings.
CREATE INDEX objects_listed ON objects (namespace, tenant_id, status, storage_class);
-- The versions of a key; the last is the newest.
CREATE INDEX objects_keyed ON objects (namespace, tenant_id, key) WHERE key IS NOT NULL AND status = 1;
-- What dead instances left half done.
CREATE INDEX objects_writing ON objects (writer) WHERE status = 0;

CREATE TABLE blobs (
    content_hash  BLOB    NOT NULL,
    storage_class INTEGER NOT NULL,
    size_bytes    INTEGER NOT NULL,
    ref_count     INTEGER NOT NULL,         -- committed objects that name it
    place         TEXT    NOT NULL,         -- which written copy: the end of the file's name
    PRIMARY KEY (content_hash, storage_class)
) STRICT, WITHOUT ROWID;

-- Runs of the server whose leftovers have not been swept yet, the present run among them.
CREATE TABLE instances (
    id         INTEGER PRIMARY KEY,
    started_at INTEGER NOT NULL
) STRICT;

-- Which directory is which root. A claim is `claimed = 0` until the root holds its identity too.
CREATE TABLE roots (
    storage_class INTEGER PRIMARY KEY,
    identity      BLOB    NOT NULL,         -- UUID, 16 bytes
    claimed       INTEGER NOT NULL
) STRICT;
