-- Packs: files of many small blobs, which are the log of all changes too. The database is an index behind that log.

CREATE TABLE packs (
    id            INTEGER PRIMARY KEY,        -- a random number; the file's name
    storage_class INTEGER NOT NULL,
    -- What blob rows and garbage name of it, each blob with its record's header. 0: nothing in it is needed.
    live_bytes    INTEGER NOT NULL,
    -- Its log has been applied up to here.
    applied_end   INTEGER NOT NULL DEFAULT 0,
    -- The last change that it holds; a copy of the database that has that change can do without the pack.
    last_sequence INTEGER NOT NULL DEFAULT 0,
    -- Where its log ends, if it could not be written any more: what lies behind does not count.
    ended_at      INTEGER
) STRICT;

-- The last change of the log that is in here: stored in the transaction that brings the change.
ALTER TABLE clock ADD COLUMN applied_sequence INTEGER NOT NULL DEFAULT 0;
