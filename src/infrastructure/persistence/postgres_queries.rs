//! The statements on PostgreSQL. Every one takes its rows as arrays, one a column, so that its text, and the number
//! of statements of a batch, are the same for one row and for a thousand.

macro_rules! object_columns {
    () => {
        "o.sequence, o.id, o.namespace, o.tenant_id, o.key, o.status, o.storage_class, o.content_hash, \
         o.size_bytes, o.content_type, o.metadata::text, o.created_at, o.updated_at"
    };
}

macro_rules! held_columns {
    () => {
        "o.sequence, o.id, o.namespace, o.tenant_id, o.key, o.status, o.storage_class, o.content_hash, o.updated_at, \
         o.size_bytes"
    };
}

macro_rules! within {
    () => {
        "($2::text IS NULL OR o.tenant_id = $2) AND ($3::text[] IS NULL OR o.namespace = ANY ($3))"
    };
}

/// The newest objects of a class, by the index that lists them and by no other.
///
/// The class stands between two bounds and in the order, so that the planner does not know it for one value: only the
/// index has the objects in that order. With an equation it takes the primary key wherever one tenant has most of the
/// objects: in its statistics the next ones are nearly always among the last, and the page of a small tenant then reads
/// the whole table. All other columns have equations, since at those a scan of the index ends.
macro_rules! newest_of_class {
    ($class:literal) => {
        concat!(
            "(SELECT ",
            object_columns!(),
            " FROM objects AS o WHERE o.namespace = $1 AND o.tenant_id = $2 AND o.status = $3 \
             AND o.storage_class >= ",
            $class,
            " AND (o.storage_class, o.sequence) < (",
            $class,
            ", $4) ORDER BY o.storage_class DESC, o.sequence DESC LIMIT $5)"
        )
    };
}

/// Where the first delimiter of a key stands behind the prefix, counted from there: 0 or NULL if there is none.
macro_rules! delimited {
    ($key:literal) => {
        concat!("strpos(substr(", $key, ", $5 + 1), $6)")
    };
}

/// The first key of the scope from the bound of the walk on.
macro_rules! next_key {
    () => {
        "CROSS JOIN LATERAL (SELECT f.key FROM objects AS f \
         WHERE f.namespace = $1 AND f.tenant_id = $2 AND f.status = 1 AND f.key >= w.bound AND f.key <= $4 \
         ORDER BY f.key, f.sequence LIMIT 1) AS n "
    };
}

/// From where on the walk goes behind a key; behind all that have something in common with it, where that is shown in
/// their place. No key has a character that is less than `chr(2)`.
macro_rules! next_bound {
    ($is_shown:literal) => {
        concat!(
            "CASE WHEN ",
            $is_shown,
            delimited!("n.key"),
            " > 0 THEN left(n.key, $5 + ",
            delimited!("n.key"),
            " + length($6) - 1) || $7 ELSE n.key || chr(1) END"
        )
    };
}

/// What the `$2` objects behind the sequence `$1` amount to.
pub(super) const COUNT_OBJECTS: &str = "
    SELECT namespace, tenant_id, status, storage_class, count(*), coalesce(sum(size_bytes), 0)::bigint, max(sequence)
    FROM (SELECT namespace, tenant_id, status, storage_class, size_bytes, sequence FROM objects
          WHERE sequence > $1 ORDER BY sequence LIMIT $2) AS page
    GROUP BY 1, 2, 3, 4";

/// `$1`: the instance, `$2`: its tick. Gives the batch its first sequence, a tick that is not before what any server
/// has stored, and the name of its transaction; gives no row if another server goes by this one's name.
pub(super) const BEGIN_BATCH: &str = "
    UPDATE instances SET last_sequence = nextval('objects_sequence') WHERE id = $1 AND NOT ended
    RETURNING last_sequence, greatest($2::bigint, (SELECT ticks FROM clock WHERE id = 1)),
              pg_current_xact_id()::text";

/// `$1`: ids.
pub(super) const HELD_BY_ID: &str =
    concat!("SELECT ", held_columns!(), " FROM objects AS o WHERE o.id = ANY ($1::uuid[])");

/// `$1` to `$3`: namespaces, tenants and keys, `$4`: how many versions of each, newest first; `NULL` for all. The key stands
/// between two bounds as the class does in `newest_of_class`: a few keys with many versions lead the planner away too.
pub(super) const HELD_VERSIONS: &str = concat!(
    "SELECT ",
    held_columns!(),
    " FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) AS n (namespace, tenant_id, key, versions)
      CROSS JOIN LATERAL (
        SELECT * FROM objects AS v
        WHERE v.namespace = n.namespace AND v.tenant_id = n.tenant_id AND v.key >= n.key AND v.key <= n.key
          AND v.status = 1
        ORDER BY v.key DESC, v.sequence DESC LIMIT n.versions) AS o"
);

/// `$1`: hashes, `$2`: classes. Locked, since a row that the collector takes away meanwhile would be put back by
/// [`PUT_BLOBS`], and name bytes that are garbage.
pub(super) const HELD_BLOBS: &str = "
    SELECT b.content_hash, b.storage_class, b.size_bytes, b.ref_count, b.place, b.damaged, b.first_object
    FROM unnest($1::bytea[], $2::smallint[]) AS n (content_hash, storage_class)
    JOIN blobs AS b ON b.content_hash = n.content_hash AND b.storage_class = n.storage_class
    FOR UPDATE OF b";

/// What of a tenant's usage each server has counted, together.
macro_rules! usage_of {
    ($tenant:literal) => {
        concat!(
            "CROSS JOIN LATERAL (SELECT sum(s.bytes)::bigint AS bytes, sum(s.objects)::bigint AS objects \
             FROM tenant_usage AS s WHERE s.tenant_id = ",
            $tenant,
            ") AS u"
        )
    };
}

/// `$1`: tenants: the limits and the usage of those that have limits. Nobody's usage is read that has none: batches that
/// add to it on several servers then have nothing to do with each other.
pub(super) const HELD_QUOTAS: &str = concat!(
    "SELECT l.tenant_id, l.bytes_max, l.objects_max, u.bytes, u.objects FROM tenant_limits AS l ",
    usage_of!("l.tenant_id"),
    " WHERE l.tenant_id = ANY ($1::text[])"
);

/// The limits and the usage of every tenant that has limits.
pub(super) const QUOTAS: &str = concat!(
    "SELECT l.tenant_id, l.bytes_max, l.objects_max, u.bytes, u.objects FROM tenant_limits AS l ",
    usage_of!("l.tenant_id"),
    " ORDER BY l.tenant_id"
);

/// `$1`: tenants: of each the limits, which may be none, and the usage.
pub(super) const QUOTAS_OF: &str = concat!(
    "SELECT n.tenant_id, l.bytes_max, l.objects_max, u.bytes, u.objects FROM unnest($1::text[]) AS n (tenant_id) \
     LEFT JOIN tenant_limits AS l ON l.tenant_id = n.tenant_id ",
    usage_of!("n.tenant_id")
);

/// `$1`: tenants, `$2`: bytes more, `$3`: objects more, `$4`: the shard to add them to.
pub(super) const PUT_USAGE: &str = "
    INSERT INTO tenant_usage (tenant_id, shard, bytes, objects)
    SELECT n.tenant_id, $4, n.bytes, n.objects
    FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS n (tenant_id, bytes, objects)
    ON CONFLICT (tenant_id, shard) DO UPDATE SET
        bytes = tenant_usage.bytes + excluded.bytes, objects = tenant_usage.objects + excluded.objects";

/// `$1`: the tenant, `$2`: the most bytes, `$3`: the most objects; NULL for no limit.
pub(super) const SET_LIMITS: &str = "
    INSERT INTO tenant_limits (tenant_id, bytes_max, objects_max) VALUES ($1, $2, $3)
    ON CONFLICT (tenant_id) DO UPDATE SET bytes_max = excluded.bytes_max, objects_max = excluded.objects_max";

/// Forgets limits that are none. `$1`: the tenant.
pub(super) const DROP_LIMITS: &str =
    "DELETE FROM tenant_limits WHERE tenant_id = $1 AND bytes_max IS NULL AND objects_max IS NULL";

/// Tells servers that a tool has changed something.
pub(super) const NOTE_OUTSIDE_CHANGE: &str =
    "UPDATE clock SET outside_changes = outside_changes + 1 WHERE id = 1";

/// `$1` to `$14` and `$16`: the columns of the rows, `$15`: their writer.
pub(super) const PUT_OBJECTS: &str = "
    INSERT INTO objects (sequence, id, namespace, tenant_id, key, status, storage_class, content_hash, size_bytes,
                         content_type, metadata, created_at, updated_at, forgotten_since, writer, indexed)
    SELECT n.sequence, n.id, n.namespace, n.tenant_id, n.key, n.status, n.storage_class, n.content_hash,
           n.size_bytes, n.content_type, n.metadata::jsonb, n.created_at, n.updated_at,
           n.forgotten_since, $15, n.indexed
    FROM unnest($1::bigint[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::smallint[], $7::smallint[],
                $8::bytea[], $9::bigint[], $10::text[], $11::text[], $12::bigint[], $13::bigint[],
                $14::bigint[], $16::boolean[])
      AS n (sequence, id, namespace, tenant_id, key, status, storage_class, content_hash, size_bytes,
            content_type, metadata, created_at, updated_at, forgotten_since, indexed)
    ON CONFLICT (id) DO UPDATE SET
        sequence = excluded.sequence, key = excluded.key, status = excluded.status,
        storage_class = excluded.storage_class, content_hash = excluded.content_hash,
        size_bytes = excluded.size_bytes, metadata = excluded.metadata, updated_at = excluded.updated_at,
        forgotten_since = excluded.forgotten_since, indexed = excluded.indexed";

/// `$1`: ids, `$2`: the moment, `$3`: the tick. A sum is found in no index: on tables that are still small the planner
/// would otherwise read the one that has the status in it, and keep the plan while they grow.
pub(super) const DELETE_OBJECTS: &str = "
    UPDATE objects SET status = 3, updated_at = $2, forgotten_since = $3
    WHERE id = ANY ($1::uuid[]) AND status + 0 = 1";

/// `$1`: ids. For the sum see [`DELETE_OBJECTS`].
pub(super) const ABANDON_OBJECTS: &str = "DELETE FROM objects WHERE id = ANY ($1::uuid[]) AND status + 0 = 0";

/// `$1` to `$8`: the columns of the rows.
pub(super) const PUT_BLOBS: &str = "
    INSERT INTO blobs (content_hash, storage_class, size_bytes, ref_count, place, damaged, zero_since, first_object)
    SELECT * FROM unnest($1::bytea[], $2::smallint[], $3::bigint[], $4::bigint[], $5::text[], $6::boolean[],
                         $7::bigint[], $8::bigint[])
    ON CONFLICT (content_hash, storage_class) DO UPDATE SET
        size_bytes = excluded.size_bytes, ref_count = excluded.ref_count, place = excluded.place,
        damaged = excluded.damaged, zero_since = excluded.zero_since, first_object = excluded.first_object";

/// `$1`: hashes, `$2`: classes, `$3`: places, `$4`: sizes.
pub(super) const PUT_GARBAGE: &str = "
    INSERT INTO garbage (content_hash, storage_class, place, size_bytes)
    SELECT * FROM unnest($1::bytea[], $2::smallint[], $3::text[], $4::bigint[])";

/// A committed object and its place, by id.
pub(super) const FIND_BY_ID: &str = concat!(
    "SELECT ",
    object_columns!(),
    ", b.place, b.damaged FROM objects AS o
      JOIN blobs AS b ON b.content_hash = o.content_hash AND b.storage_class = o.storage_class
     WHERE o.id = $1 AND o.status = 1"
);

/// The newest committed version of a key and its place.
pub(super) const FIND_BY_KEY: &str = concat!(
    "SELECT ",
    object_columns!(),
    ", b.place, b.damaged FROM objects AS o
      JOIN blobs AS b ON b.content_hash = o.content_hash AND b.storage_class = o.storage_class
     WHERE o.namespace = $1 AND o.tenant_id = $2 AND o.key >= $3 AND o.key <= $3 AND o.status = 1
     ORDER BY o.key DESC, o.sequence DESC LIMIT 1"
);

/// An object in any state but `DELETED`, by id.
pub(super) const INSPECT_BY_ID: &str =
    concat!("SELECT ", object_columns!(), " FROM objects AS o WHERE o.id = $1 AND o.status <> 3");

/// The same by id, if it is of the tenant `$2` and in one of the namespaces `$3`; `NULL` for all of either.
pub(super) const FIND_BY_ID_WITHIN: &str = concat!(
    "SELECT ",
    object_columns!(),
    ", b.place, b.damaged FROM objects AS o
      JOIN blobs AS b ON b.content_hash = o.content_hash AND b.storage_class = o.storage_class
     WHERE o.id = $1 AND o.status = 1 AND ",
    within!()
);

/// As [`FIND_BY_ID_WITHIN`], of `$1`: ids.
pub(super) const FIND_EACH_BY_ID: &str = concat!(
    "SELECT ",
    object_columns!(),
    ", b.place, b.damaged FROM unnest($1::uuid[]) AS n (id)
      CROSS JOIN LATERAL (
        SELECT * FROM objects AS v WHERE v.id = n.id AND v.status = 1 LIMIT 1) AS o
      CROSS JOIN LATERAL (
        SELECT * FROM blobs AS c
        WHERE c.content_hash = o.content_hash AND c.storage_class = o.storage_class LIMIT 1) AS b
     WHERE ",
    within!()
);

/// As [`FIND_BY_KEY`], of `$3`: keys.
pub(super) const FIND_EACH_BY_KEY: &str = concat!(
    "SELECT ",
    object_columns!(),
    ", b.place, b.damaged FROM unnest($3::text[]) AS n (key)
      CROSS JOIN LATERAL (
        SELECT * FROM objects AS v
        WHERE v.namespace = $1 AND v.tenant_id = $2 AND v.key >= n.key AND v.key <= n.key AND v.status = 1
        ORDER BY v.key DESC, v.sequence DESC LIMIT 1) AS o
      CROSS JOIN LATERAL (
        SELECT * FROM blobs AS c
        WHERE c.content_hash = o.content_hash AND c.storage_class = o.storage_class LIMIT 1) AS b"
);

/// As [`INSPECT_BY_ID`], within the reach of [`FIND_BY_ID_WITHIN`].
pub(super) const INSPECT_BY_ID_WITHIN: &str = concat!(
    "SELECT ",
    object_columns!(),
    " FROM objects AS o WHERE o.id = $1 AND o.status <> 3 AND ",
    within!()
);

/// One page of both classes: each is read in its index's order, and the two are merged.
pub(super) const LIST_BOTH: &str =
    concat!(newest_of_class!("0"), " UNION ALL ", newest_of_class!("1"), " ORDER BY 1 DESC LIMIT $5");

/// One page of one class.
pub(super) const LIST_CLASS: &str = newest_of_class!("$6");

/// A walk through the keys of the scope `$1`, `$2` from `$3` up to `$4`: `$5` characters of each are the prefix, `$6` is the
/// delimiter or NULL, `$7` comes behind everything, and `$8` keys are wanted. Each step is one search in the index of keys,
/// and a key that is shown by itself one more, for its newest version; for its two bounds see [`HELD_VERSIONS`].
pub(super) const LIST_KEYS: &str = concat!(
    "WITH RECURSIVE walk (number, key, bound) AS (
        SELECT 0, NULL::text COLLATE \"C\", $3::text COLLATE \"C\"
        UNION ALL
        SELECT w.number + 1, n.key, ",
    next_bound!(""),
    " FROM walk AS w ",
    next_key!(),
    "WHERE w.number < $8)
     SELECT ",
    object_columns!(),
    ", w.key, true FROM walk AS w LEFT JOIN LATERAL (
        SELECT * FROM objects AS v
        WHERE v.namespace = $1 AND v.tenant_id = $2 AND v.key >= w.key AND v.key <= w.key AND v.status = 1
          AND (",
    delimited!("w.key"),
    " > 0) IS NOT TRUE
        ORDER BY v.key DESC, v.sequence DESC LIMIT 1) AS o ON true
     WHERE w.key IS NOT NULL"
);

/// The same for keys whose newest version is in the class `$9`, and at most `$10` keys in all.
pub(super) const LIST_KEYS_OF_CLASS: &str = concat!(
    "WITH RECURSIVE walk (number, key, bound, newest, taken) AS (
        SELECT 0, NULL::text COLLATE \"C\", $3::text COLLATE \"C\", NULL::bigint, 0
        UNION ALL
        SELECT w.number + 1, n.key, ",
    next_bound!("v.newest IS NOT NULL AND "),
    ", v.newest, w.taken + (v.newest IS NOT NULL)::int FROM walk AS w ",
    next_key!(),
    "CROSS JOIN LATERAL (
            SELECT CASE WHEN s.storage_class = $9 THEN s.sequence END AS newest FROM objects AS s
            WHERE s.namespace = $1 AND s.tenant_id = $2 AND s.key >= n.key AND s.key <= n.key AND s.status = 1
            ORDER BY s.key DESC, s.sequence DESC LIMIT 1) AS v
        WHERE w.number < $10 AND w.taken < $8)
     SELECT ",
    object_columns!(),
    ", w.key, w.newest IS NOT NULL FROM walk AS w LEFT JOIN objects AS o
        ON o.sequence = w.newest AND (",
    delimited!("w.key"),
    " > 0) IS NOT TRUE
     WHERE w.key IS NOT NULL"
);

/// One page of the versions of a key. For the bounds see [`HELD_VERSIONS`].
pub(super) const LIST_VERSIONS: &str = concat!(
    "SELECT ",
    object_columns!(),
    " FROM objects AS o WHERE o.namespace = $1 AND o.tenant_id = $2 AND o.status = 1 \
     AND o.key >= $3 AND (o.key, o.sequence) < ($3, $4) ORDER BY o.key DESC, o.sequence DESC LIMIT $5"
);

/// `$1`: hashes, `$2`: classes: the places that serve, and those that are the collector's to remove.
pub(super) const PLACES_NAMED: &str = "
    SELECT b.content_hash, b.storage_class, b.place
    FROM unnest($1::bytea[], $2::smallint[]) AS n (content_hash, storage_class)
    JOIN blobs AS b ON b.content_hash = n.content_hash AND b.storage_class = n.storage_class
    UNION ALL
    SELECT g.content_hash, g.storage_class, g.place
    FROM unnest($1::bytea[], $2::smallint[]) AS n (content_hash, storage_class)
    JOIN garbage AS g ON g.content_hash = n.content_hash AND g.storage_class = n.storage_class";

/// Takes the name for this instance, whoever has it. `$1`: the name, `$2`: the instance.
pub(super) const CLAIM_NODE: &str = "
    INSERT INTO nodes (name, instance, heartbeat_at) VALUES ($1, $2, now())
    ON CONFLICT (name) DO UPDATE SET instance = excluded.instance, heartbeat_at = excluded.heartbeat_at";

/// Ends all instances of a name. From its commit on, none of them commits any more.
pub(super) const END_INSTANCES_OF_NODE: &str =
    "UPDATE instances SET ended = true WHERE node = $1 AND NOT ended";

/// `$1`: the instance, `$2`: its node's name, `$3`: the moment.
pub(super) const BEGIN_INSTANCE: &str = "INSERT INTO instances (id, node, started_at) VALUES ($1, $2, $3)";

/// What ended instances of a name left half done.
pub(super) const CLEAR_WRITING: &str = "
    DELETE FROM objects
    WHERE status = 0 AND writer = ANY (ARRAY (SELECT id FROM instances WHERE node = $1 AND ended))";

/// Ended instances of a name whose leftovers have not been swept.
pub(super) const DEAD_INSTANCES: &str = "SELECT id FROM instances WHERE node = $1 AND ended";

/// `$1`: instances.
pub(super) const FORGET_INSTANCES: &str = "DELETE FROM instances WHERE id = ANY ($1::bigint[])";

/// `$1`: the name, `$2`: the instance. Gives no row if the name belongs to another one, and otherwise how often tools have
/// changed something that caches must not outlive.
pub(super) const HEARTBEAT: &str = "
    UPDATE nodes SET heartbeat_at = now() WHERE name = $1 AND instance = $2
    RETURNING (SELECT outside_changes FROM clock WHERE id = 1)";

/// `$1`: the class.
pub(super) const ROOT: &str = "SELECT identity, claimed FROM roots WHERE storage_class = $1";

/// `$1`: the class, `$2`: an identity, `$3`: whether the root holds it. Gives what stands there now: of two servers
/// that claim a root at the same time, both get the identity of the first.
pub(super) const PUT_ROOT: &str = "
    INSERT INTO roots (storage_class, identity, claimed) VALUES ($1, $2, $3)
    ON CONFLICT (storage_class) DO UPDATE SET claimed = roots.claimed OR excluded.claimed
    RETURNING identity, claimed";

/// Whether a transaction still runs. `$1`: its name.
pub(super) const TRANSACTION_STATUS: &str = "SELECT pg_xact_status($1::text::xid8)";

/// `$1`: the instance.
pub(super) const LAST_SEQUENCE: &str = "SELECT last_sequence FROM instances WHERE id = $1";

/// The database's own clock: as it was stored last, or as somebody has seen it since.
pub(super) const TICKS: &str = "
    SELECT greatest(ticks, (SELECT max(zero_since) FROM blobs WHERE ref_count = 0),
                    (SELECT max(forgotten_since) FROM objects WHERE status = 3))
    FROM clock WHERE id = 1";

/// `$1`: the tick. The clock never goes back.
pub(super) const STORE_TICKS: &str = "UPDATE clock SET ticks = greatest(ticks, $1) WHERE id = 1";

/// Turns blobs that have been without a reference, and without a lease, since before the tick `$1`, at most `$2` of them,
/// into garbage. What
/// a batch is just working on is passed over. A new upload of the same content makes a new row, at a new place. For the
/// sum see [`DELETE_OBJECTS`].
pub(super) const COLLECT_BLOBS: &str = "
    WITH dead AS (
        SELECT content_hash, storage_class FROM blobs
        WHERE ref_count = 0 AND zero_since <= $1 AND leased_until <= $1
        ORDER BY zero_since LIMIT $2 FOR UPDATE SKIP LOCKED),
    forgotten AS (
        DELETE FROM blobs AS b USING dead AS d
        WHERE b.content_hash = d.content_hash AND b.storage_class = d.storage_class AND b.ref_count + 0 = 0
          AND b.leased_until <= $1
        RETURNING b.content_hash, b.storage_class, b.place, b.size_bytes)
    INSERT INTO garbage (content_hash, storage_class, place, size_bytes) SELECT * FROM forgotten";

/// Rows of objects that have been forgotten since before the tick `$1`, at most `$2` of them.
pub(super) const PURGE_OBJECTS: &str = "
    DELETE FROM objects WHERE sequence = ANY (ARRAY (
        SELECT sequence FROM objects WHERE status = 3 AND forgotten_since <= $1
        ORDER BY forgotten_since LIMIT $2 FOR UPDATE SKIP LOCKED))";

/// Leases that ended before the tick `$1`, at most `$2` of them.
pub(super) const FORGET_LEASES: &str = "
    DELETE FROM leases AS l USING (
        SELECT content_hash, tenant_id, storage_class FROM leases WHERE expires_at <= $1
        ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED) AS e
    WHERE l.content_hash = e.content_hash AND l.tenant_id = e.tenant_id AND l.storage_class = e.storage_class";

/// An object by which the tenant `$2` has the blob `b` of the hash `n`: it is the blob's first, or it is found by its content. In the
/// namespaces `$3`; `NULL` for all.
macro_rules! had_by {
    () => {
        "(SELECT f.id, f.namespace, f.updated_at FROM objects AS f
          WHERE f.sequence = coalesce(b.first_object, 0) AND f.status = 1 AND f.content_hash = b.content_hash
            AND f.storage_class = b.storage_class AND f.tenant_id = $2
            AND ($3::text[] IS NULL OR f.namespace = ANY ($3))
          UNION ALL
          (SELECT s.id, s.namespace, s.updated_at FROM objects AS s
           WHERE s.content_hash = n.content_hash AND s.tenant_id = $2
             AND s.storage_class = coalesce(b.storage_class, 0::smallint) AND s.status = 1 AND s.indexed AND ($3::text[] IS NULL OR s.namespace = ANY ($3)) LIMIT 1)
          LIMIT 1) AS o"
    };
}

/// Which of the contents `$1` the tenant `$2` has, in which classes and how, if they are in one of the namespaces `$3`;
/// `NULL` for all. One that others have costs the same searches as one that nobody has.
pub(super) const CONTENTS: &str = concat!(
    "SELECT b.content_hash, b.storage_class, b.place, b.size_bytes, b.damaged, o.id IS NOT NULL,
            coalesce(l.expires_at, 0), coalesce(o.id, l.object_id), coalesce(o.namespace, l.namespace),
            coalesce(o.updated_at, l.updated_at)
     FROM unnest($1::bytea[]) AS n (content_hash)
     LEFT JOIN blobs AS b ON b.content_hash = n.content_hash
     LEFT JOIN LATERAL (
        SELECT * FROM leases AS s WHERE s.content_hash = n.content_hash AND s.tenant_id = $2
          AND s.storage_class = coalesce(b.storage_class, 0::smallint)
          AND s.expires_at > (SELECT ticks FROM clock WHERE id = 1) LIMIT 1) AS l ON true
     LEFT JOIN LATERAL ",
    had_by!(),
    " ON true WHERE CASE WHEN o.id IS NOT NULL OR l.expires_at IS NOT NULL THEN b.place IS NOT NULL END"
);

/// Leases the contents that [`CONTENTS`] finds by an object, from the tick `$4` on for `$5` ticks, and lets their blobs say
/// so first: a collector that comes at the same moment looks at the row as it is then, or has removed it by then.
pub(super) const LEASE_CONTENTS: &str = concat!(
    "WITH had AS (
        SELECT b.content_hash, b.storage_class, o.id, o.namespace, o.updated_at
        FROM unnest($1::bytea[]) AS n (content_hash)
        JOIN blobs AS b ON b.content_hash = n.content_hash
        CROSS JOIN LATERAL ",
    had_by!(),
    " WHERE NOT b.damaged),
    term AS (SELECT greatest($4::bigint, ticks) + $5::bigint AS ends_at FROM clock WHERE id = 1),
    kept AS (
        UPDATE blobs AS b SET leased_until = greatest(b.leased_until, t.ends_at) FROM had AS h, term AS t
        WHERE b.content_hash = h.content_hash AND b.storage_class = h.storage_class
        RETURNING b.content_hash, b.storage_class, t.ends_at, h.id, h.namespace, h.updated_at)
    INSERT INTO leases (content_hash, tenant_id, storage_class, expires_at, object_id, namespace, updated_at)
    SELECT content_hash, $2, storage_class, ends_at, id, namespace, updated_at FROM kept
    ON CONFLICT (content_hash, tenant_id, storage_class) DO UPDATE SET
        expires_at = greatest(leases.expires_at, excluded.expires_at), object_id = excluded.object_id,
        namespace = excluded.namespace, updated_at = excluded.updated_at"
);

/// What waits to be removed, at most `$1` places; nothing while there is a hold other than those in `$2`. One
/// statement, so that whoever takes a hold first and a snapshot then finds all of its bytes.
pub(super) const GARBAGE: &str = "
    SELECT content_hash, storage_class, place, size_bytes FROM garbage
    WHERE NOT EXISTS (SELECT 1 FROM holds WHERE id <> ALL ($2::bigint[]))
    ORDER BY content_hash, storage_class, place LIMIT $1";

/// `$1`: hashes, `$2`: classes, `$3`: places.
pub(super) const FORGET_GARBAGE: &str = "
    DELETE FROM garbage AS g
    USING unnest($1::bytea[], $2::smallint[], $3::text[]) AS n (content_hash, storage_class, place)
    WHERE g.content_hash = n.content_hash AND g.storage_class = n.storage_class AND g.place = n.place";

/// Everything that was ever committed, in the order of its commits. For the sum see [`DELETE_OBJECTS`].
pub(super) const EXPORT_OBJECTS: &str = concat!(
    "SELECT ",
    object_columns!(),
    " FROM objects AS o WHERE o.status + 0 IN (1, 3) ORDER BY o.sequence"
);

macro_rules! api_key_columns {
    () => {
        "id, secret_hash, tenant_id, namespaces, scopes, label, created_at, expires_at, revoked_at"
    };
}

/// An API key. `$1`: its id.
pub(super) const API_KEY: &str = concat!("SELECT ", api_key_columns!(), " FROM api_keys WHERE id = $1");

/// Every API key, for people who look after them.
pub(super) const API_KEYS: &str =
    concat!("SELECT ", api_key_columns!(), " FROM api_keys ORDER BY created_at, id");

/// Keeps a new API key.
pub(super) const PUT_API_KEY: &str = "
    INSERT INTO api_keys (id, secret_hash, tenant_id, namespaces, scopes, label, created_at, expires_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";

/// Takes an API key back. `$1`: its id, `$2`: the moment, unless that has been done before.
pub(super) const REVOKE_API_KEY: &str =
    "UPDATE api_keys SET revoked_at = coalesce(revoked_at, $2) WHERE id = $1";

macro_rules! rule_columns {
    () => {
        "namespace, cold_after_days, delete_after_days, keep_versions, reads_noted_since"
    };
}

/// The rule of the namespace `$1`.
pub(super) const LIFECYCLE_RULE: &str =
    concat!("SELECT ", rule_columns!(), " FROM lifecycle_rules WHERE namespace = $1");

/// At most `$2` rules, in the order of their namespaces behind `$1`.
pub(super) const LIFECYCLE_RULES_AFTER: &str = concat!(
    "SELECT ",
    rule_columns!(),
    " FROM lifecycle_rules WHERE namespace > $1 ORDER BY namespace LIMIT $2"
);

/// `$1`: the namespace, `$2` to `$4`: the rule, `$5`: the moment from which reads are noted, unless they are already.
pub(super) const SET_LIFECYCLE_RULE: &str = "
    INSERT INTO lifecycle_rules (namespace, cold_after_days, delete_after_days, keep_versions, reads_noted_since)
    VALUES ($1, $2, $3, $4, CASE WHEN $2::integer IS NOT NULL THEN $5::bigint END)
    ON CONFLICT (namespace) DO UPDATE SET
        cold_after_days = excluded.cold_after_days, delete_after_days = excluded.delete_after_days,
        keep_versions = excluded.keep_versions,
        reads_noted_since = CASE WHEN excluded.cold_after_days IS NOT NULL
            THEN coalesce(lifecycle_rules.reads_noted_since, excluded.reads_noted_since) END";

/// Forgets the rule of the namespace `$1`.
pub(super) const DROP_LIFECYCLE_RULE: &str = "DELETE FROM lifecycle_rules WHERE namespace = $1";

/// The first tenant behind `$2` that has an object in the namespace `$1`.
pub(super) const NEXT_TENANT: &str = "
    SELECT tenant_id FROM objects WHERE namespace = $1 AND tenant_id > $2 ORDER BY tenant_id LIMIT 1";

/// The last of the `$5` committed objects of the class `$3` behind the sequence `$4`; NULL at the end. The class stands
/// between two bounds and in the order as in `newest_of_class`.
pub(super) const AGES_END: &str = "
    SELECT max(sequence) FROM (
        SELECT o.sequence FROM objects AS o
        WHERE o.namespace = $1 AND o.tenant_id = $2 AND o.status = 1 AND o.storage_class <= $3
          AND (o.storage_class, o.sequence) > ($3, $4)
        ORDER BY o.storage_class, o.sequence LIMIT $5) AS page";

/// The committed objects of the class `$3` behind the sequence `$4`, up to `$5`, that were made by `$6`, and when they
/// were read.
pub(super) const AGES: &str = "
    SELECT o.id, o.created_at, r.day FROM objects AS o LEFT JOIN object_reads AS r ON r.object_id = o.id
    WHERE o.namespace = $1 AND o.tenant_id = $2 AND o.status = 1
      AND (o.storage_class, o.sequence) > ($3, $4) AND (o.storage_class, o.sequence) <= ($3, $5) AND o.created_at <= $6";

/// At most `$5` versions of keys, from the last key to the first, and of each the newest first, behind the version `$4` of
/// the key `$3`.
pub(super) const VERSIONS_BEFORE: &str = "
    SELECT key, sequence, id FROM objects
    WHERE namespace = $1 AND tenant_id = $2 AND key IS NOT NULL AND status = 1 AND (key, sequence) < ($3, $4)
    ORDER BY key DESC, sequence DESC LIMIT $5";

/// The committed object `$1`, when it was read, how many versions of its key are newer, counted up to `$2`, and the rule of
/// its namespace.
pub(super) const LIFECYCLE_FACTS: &str = concat!(
    "SELECT ",
    object_columns!(),
    ", r.day, n.newer, l.cold_after_days, l.delete_after_days, l.keep_versions, l.reads_noted_since
     FROM objects AS o JOIN lifecycle_rules AS l ON l.namespace = o.namespace
     LEFT JOIN object_reads AS r ON r.object_id = o.id
     CROSS JOIN LATERAL (SELECT count(*) AS newer FROM (
        SELECT FROM objects AS v
        WHERE v.namespace = o.namespace AND v.tenant_id = o.tenant_id AND v.key >= o.key AND v.key <= o.key
          AND v.status = 1 AND v.sequence > o.sequence LIMIT $2) AS newer_versions) AS n
     WHERE o.id = $1 AND o.status = 1"
);

/// `$1`: ids, each once and in their order, `$2`: the day on which they were read.
pub(super) const NOTE_READS: &str = "
    INSERT INTO object_reads (object_id, day) SELECT n.id, $2 FROM unnest($1::uuid[]) AS n (id)
    ON CONFLICT (object_id) DO UPDATE SET day = excluded.day WHERE excluded.day > object_reads.day";

/// Forgets reads before the day `$1`, at most `$2`.
pub(super) const FORGET_READS: &str = "
    DELETE FROM object_reads WHERE object_id = ANY (ARRAY (
        SELECT object_id FROM object_reads WHERE day < $1 ORDER BY day LIMIT $2 FOR UPDATE SKIP LOCKED))";

/// What the wall clock and the database's own said when they were looked at.
pub(super) const LIFECYCLE_CLOCK: &str =
    "SELECT trusted_wall, trusted_tick, leapt_wall, leapt_tick FROM lifecycle_clock WHERE id = 1";

/// `$1` to `$4`: the columns.
pub(super) const SET_LIFECYCLE_CLOCK: &str = "
    INSERT INTO lifecycle_clock (id, trusted_wall, trusted_tick, leapt_wall, leapt_tick) VALUES (1, $1, $2, $3, $4)
    ON CONFLICT (id) DO UPDATE SET
        trusted_wall = excluded.trusted_wall, trusted_tick = excluded.trusted_tick,
        leapt_wall = excluded.leapt_wall, leapt_tick = excluded.leapt_tick";

/// How far the scrub is.
pub(super) const SCRUB_STATE: &str = "
    SELECT beats, running, started_at, finished_at, after_hash, after_class, blobs, bytes, damaged FROM scrub WHERE id = 1";

/// `$1`: the beats that were seen, NULL where there was no row; `$2` to `$10`: the columns.
pub(super) const PUT_SCRUB_STATE: &str = "
    INSERT INTO scrub (id, beats, running, started_at, finished_at, after_hash, after_class, blobs, bytes, damaged)
    VALUES (1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
    ON CONFLICT (id) DO UPDATE SET
        beats = excluded.beats, running = excluded.running, started_at = excluded.started_at,
        finished_at = excluded.finished_at, after_hash = excluded.after_hash, after_class = excluded.after_class,
        blobs = excluded.blobs, bytes = excluded.bytes, damaged = excluded.damaged
    WHERE scrub.beats = $1";

/// How many copies are known to be lost or altered.
pub(super) const DAMAGED_BLOBS: &str = "SELECT count(*) FROM blobs WHERE damaged";
