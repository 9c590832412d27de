-- What tenants have, and what they may have at most.

-- What the committed objects of a tenant amount to: changed in the transaction that changes the objects.
CREATE TABLE tenant_usage (
    tenant_id TEXT    PRIMARY KEY,
    bytes     INTEGER NOT NULL,
    objects   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO tenant_usage (tenant_id, bytes, objects)
SELECT tenant_id, coalesce(sum(size_bytes), 0), count(*) FROM objects WHERE status = 1 GROUP BY tenant_id;

-- Set by the operator. NULL: no limit; a tenant with none has no row.
CREATE TABLE tenant_limits (
    tenant_id   TEXT PRIMARY KEY,
    bytes_max   INTEGER,
    objects_max INTEGER
) STRICT, WITHOUT ROWID;
