-- What tenants have by its content, and leases on that.

-- An object that refers to the blob, where no index tells of that: the one that came when nothing else did. Most contents
-- have one object, and an index by hashes, which come in no order, would cost each small upload about as much as its row.
ALTER TABLE blobs ADD COLUMN first_object bigint NOT NULL DEFAULT 0;  -- objects.sequence; 0: none

-- false: the object's blob names it as its first. What was stored before this is in the index, all of it.
ALTER TABLE objects ADD COLUMN indexed boolean NOT NULL DEFAULT true;
CREATE INDEX objects_by_content ON objects (content_hash, tenant_id, storage_class, namespace)
    WHERE status = 1 AND indexed;

-- Until which tick some tenant's lease is good. It stands in the row that the collector removes, so that a lease that is
-- taken at the same moment is seen, or finds the row gone.
ALTER TABLE blobs ADD COLUMN leased_until bigint NOT NULL DEFAULT 0;

-- Which tenants may still count on a content, whatever becomes of the object by which they had it.
CREATE TABLE leases (
    content_hash  bytea    NOT NULL,
    tenant_id     text     NOT NULL COLLATE "C",
    storage_class smallint NOT NULL,
    expires_at    bigint   NOT NULL,         -- a tick
    object_id     uuid     NOT NULL,         -- of the object that it was taken by: its id,
    namespace     text     NOT NULL COLLATE "C",  -- where it was filed,
    updated_at    bigint   NOT NULL,         -- and when it was last changed
    PRIMARY KEY (content_hash, tenant_id, storage_class)
);
CREATE INDEX leases_expiring ON leases (expires_at);
