-- What tools leave beside a running server: marks of damage, holds on the collector, and word that something changed.

-- 1: the copy at `place` was found lost or altered. It is not served, and the next upload of its content replaces it.
ALTER TABLE blobs ADD COLUMN damaged INTEGER NOT NULL DEFAULT 0;

-- 1: the run is over: whatever carries its id and is not named can go.
ALTER TABLE instances ADD COLUMN ended INTEGER NOT NULL DEFAULT 0;

-- While there is a row that somebody still renews, no bytes are removed: a backup is copying them. `beats` goes up
-- with each renewal; whoever has seen it stand still for long enough may remove the row.
CREATE TABLE holds (
    id         INTEGER PRIMARY KEY,
    purpose    TEXT    NOT NULL,
    started_at INTEGER NOT NULL,
    beats      INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Goes up with each change by a tool that a server's caches must not outlive.
ALTER TABLE clock ADD COLUMN outside_changes INTEGER NOT NULL DEFAULT 0;
