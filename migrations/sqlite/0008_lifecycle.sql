-- What becomes of a namespace's objects with time.

-- Set by the operator. NULL: no such rule; a namespace with none has no row.
CREATE TABLE lifecycle_rules (
    namespace         TEXT    PRIMARY KEY,
    cold_after_days   INTEGER,
    delete_after_days INTEGER,
    keep_versions     INTEGER,
    reads_noted_since INTEGER                  -- when `cold_after_days` came, by the wall clock
) STRICT, WITHOUT ROWID;

-- The last day on which somebody read an object, days since 1970 by the wall clock: of hot objects in namespaces with
-- `cold_after_days`, and no longer than a rule looks at it.
CREATE TABLE object_reads (
    object_id BLOB    PRIMARY KEY,             -- objects.id
    day       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX object_reads_by_day ON object_reads (day);

-- What the wall clock said when the database's own clock said something, when both were last looked at and trusted; and
-- when the wall clock was first seen to have leapt since, if it has.
CREATE TABLE lifecycle_clock (
    id           INTEGER PRIMARY KEY CHECK (id = 1),
    trusted_wall INTEGER NOT NULL,
    trusted_tick INTEGER NOT NULL,
    leapt_wall   INTEGER,
    leapt_tick   INTEGER
) STRICT;
