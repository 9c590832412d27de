-- What becomes of a namespace's objects with time.

-- Set by the operator. NULL: no such rule; a namespace with none has no row.
CREATE TABLE lifecycle_rules (
    namespace         text    PRIMARY KEY COLLATE "C",
    cold_after_days   integer,
    delete_after_days integer,
    keep_versions     integer,
    reads_noted_since bigint                   -- when `cold_after_days` came, by the wall clock
);

-- The last day on which somebody read an object, days since 1970 by the wall clock: of hot objects in namespaces with
-- `cold_after_days`, and no longer than a rule looks at it.
CREATE TABLE object_reads (
    object_id uuid    PRIMARY KEY,             -- objects.id
    day       integer NOT NULL
);
CREATE INDEX object_reads_by_day ON object_reads (day);

-- What the wall clock said when the database's own clock said something, when both were last looked at and trusted; and
-- when the wall clock was first seen to have leapt since, if it has.
CREATE TABLE lifecycle_clock (
    id           smallint PRIMARY KEY CHECK (id = 1),
    trusted_wall bigint   NOT NULL,
    trusted_tick bigint   NOT NULL,
    leapt_wall   bigint,
    leapt_tick   bigint
);
