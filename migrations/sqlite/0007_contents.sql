-- What tenants have by its content, and leases on that.

-- An object that refers to the blob, where no index tells of that: the one that came when nothing else did. Most contents
-- have one object, and an index by hashes, which come in no order, would cost each small upload about as much as its row.
ALTER TABLE blobs ADD COLUMN first_object INTEGER NOT NULL DEFAULT 0;  -- objects.sequence; 0: none

-- 0: the object's blob names it as its first. What was stored before this is in the index, all of it.
ALTER TABLE objects ADD COLUMN indexed INTEGER NOT NULL DEFAULT 1;
CREATE INDEX objects_by_content ON objects (content_hash, tenant_id, storage_class, namespace)
    WHERE status = 1 AND indexed = 1;

-- Until which tick some tenant's lease is good. The collector's statement looks at this, in the row that it removes.
ALTER TABLE blobs ADD COLUMN leased_until INTEGER NOT NULL DEFAULT 0;

-- Which tenants may still count on a content, whatever becomes of the object by which they had it.
CREATE TABLE leases (
    content_hash  BLOB    NOT NULL,
    tenant_id     TEXT    NOT NULL,
    storage_class INTEGER NOT NULL,
    expires_at    INTEGER NOT NULL,         -- a tick
    object_id     BLOB    NOT NULL,         -- of the object that it was taken by: its id,
    namespace     TEXT    NOT NULL,         -- where it was filed,
    updated_at    INTEGER NOT NULL,         -- and when it was last changed
    PRIMARY KEY (content_hash, tenant_id, storage_class)
) STRICT, WITHOUT ROWID;
CREATE INDEX leases_expiring ON leases (expires_at);
