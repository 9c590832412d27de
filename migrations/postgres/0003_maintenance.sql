-- What tools leave beside a running server: marks of damage, holds on the collector, and word that something changed.

-- The copy at `place` was found lost or altered. It is not served, and the next upload of its content replaces it.
ALTER TABLE blobs ADD COLUMN damaged boolean NOT NULL DEFAULT false;

-- While there is a row that somebody still renews, no bytes are removed: a backup is copying them. `beats` goes up
-- with each renewal; whoever has seen it stand still for long enough may remove the row.
CREATE TABLE holds (
    id         bigint PRIMARY KEY,
    purpose    text   NOT NULL,
    started_at bigint NOT NULL,
    beats      bigint NOT NULL DEFAULT 0
);

-- Goes up with each change by a tool that a server's caches must not outlive.
ALTER TABLE clock ADD COLUMN outside_changes bigint NOT NULL DEFAULT 0;
