-- Objects, the blobs that their bytes are, and who wrote and owns what. Several servers may share it.
--
-- Small numbers stand for the words of the interface:
--   status         0 WRITING  1 COMMITTED  2 DELETING  3 DELETED
--   storage_class  0 hot      1 cold
-- Moments (…_at) are milliseconds since 1970 by the wall clock, for people; order is by sequence alone.
-- Names are compared byte by byte ("C"), as everywhere in the program, whatever the database's own collation is.

-- Each batch takes one value, which stands for itself and the 1,023 behind it: as many as a batch has writes at most.
-- It is taken behind the batch's snapshot, so that who sees another's commit also comes after it.
CREATE SEQUENCE objects_sequence AS bigint INCREMENT BY 1024;

CREATE TABLE objects (
    sequence      bigint   PRIMARY KEY,
    id            uuid     NOT NULL UNIQUE,  -- UUIDv7
    namespace     text     NOT NULL COLLATE "C",
    tenant_id     text     NOT NULL COLLATE "C",
    key           text     COLLATE "C",
    status        smallint NOT NULL,
    storage_class smallint NOT NULL,
    content_hash  bytea,                     -- SHA-256, 32 bytes; NULL while WRITING
    size_bytes    bigint,                    -- NULL while WRITING
    content_type  text     NOT NULL,
    metadata      jsonb    NOT NULL,         -- object of strings
    writer        bigint   NOT NULL,         -- instances.id of the process that wrote it
    created_at    bigint   NOT NULL,
    updated_at    bigint   NOT NULL
);

-- Listings.
CREATE INDEX objects_listed ON objects (namespace, tenant_id, status, storage_class, sequence);
-- The versions of a key; the last is the newest.
CREATE INDEX objects_keyed ON objects (namespace, tenant_id, key, sequence) WHERE key IS NOT NULL AND status = 1;
-- What dead instances left half done.
CREATE INDEX objects_writing ON objects (writer) WHERE status = 0;

CREATE TABLE blobs (
    content_hash  bytea    NOT NULL,
    storage_class smallint NOT NULL,
    size_bytes    bigint   NOT NULL,
    ref_count     bigint   NOT NULL,         -- committed objects that name it
    place         text     NOT NULL,         -- which written copy: the end of the file's name
    PRIMARY KEY (content_hash, storage_class)
);

-- Which run of a server goes by a name. A later start takes the name over, and the earlier run notices.
CREATE TABLE nodes (
    name         text   PRIMARY KEY COLLATE "C",
    instance     bigint NOT NULL,            -- instances.id
    heartbeat_at timestamptz NOT NULL        -- by the database's clock, for people
);

-- Runs of servers whose leftovers have not been swept yet, the present runs among them. Every batch writes its
-- instance's row: so none of an instance that has ended can commit, and after a lost connection the row tells
-- whether the last one did.
CREATE TABLE instances (
    id            bigint  PRIMARY KEY,
    node          text    NOT NULL COLLATE "C",
    started_at    bigint  NOT NULL,
    ended         boolean NOT NULL DEFAULT false,
    last_sequence bigint  NOT NULL DEFAULT 0  -- what the last committed batch took of objects_sequence
) WITH (fillfactor = 50);
CREATE INDEX instances_of_node ON instances (node);

-- Which directory is which root. A claim is `NOT claimed` until the root holds its identity too.
CREATE TABLE roots (
    storage_class smallint PRIMARY KEY,
    identity      uuid     NOT NULL,
    claimed       boolean  NOT NULL
);
