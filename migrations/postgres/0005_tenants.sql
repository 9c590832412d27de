-- What tenants have, and what they may have at most.

-- What the committed objects of a tenant amount to is the sum of its rows, changed in the transaction that changes the
-- objects. A server adds to the row of its shard and reads none, unless the tenant has limits: so servers that write for
-- the same tenant do not wait for each other. A row by itself may be below zero.
CREATE TABLE tenant_usage (
    tenant_id text     NOT NULL COLLATE "C",
    shard     smallint NOT NULL,             -- instances.id modulo 16
    bytes     bigint   NOT NULL,
    objects   bigint   NOT NULL,
    PRIMARY KEY (tenant_id, shard)
) WITH (fillfactor = 50);
INSERT INTO tenant_usage (tenant_id, shard, bytes, objects)
SELECT tenant_id, 0, coalesce(sum(size_bytes), 0)::bigint, count(*) FROM objects WHERE status = 1 GROUP BY tenant_id;

-- Set by the operator. NULL: no limit; a tenant with none has no row.
CREATE TABLE tenant_limits (
    tenant_id   text PRIMARY KEY COLLATE "C",
    bytes_max   bigint,
    objects_max bigint
);
