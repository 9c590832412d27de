//! The statements on SQLite. Those that every upload passes through have places for a fixed number of rows
//! ([`ByRows`]): measured, taking values out of JSON cost more than all the rest of a batch. The others take their rows
//! as one JSON array, so that their text is the same for one row and for a thousand.

/// How many rows a statement for few rows takes.
pub(super) const FEW_ROWS: usize = 8;
/// How many rows a statement for many rows takes. More at once are not faster: the program of the statement and its
/// values then outgrow the processor's caches.
pub(super) const MANY_ROWS: usize = 64;

/// A statement in two lengths. Places for rows that are left empty are NULL, and count for nothing.
pub(super) struct ByRows {
    pub(super) few: &'static str,
    pub(super) many: &'static str,
}

macro_rules! eight_times {
    ($row:literal) => {
        concat!($row, ", ", $row, ", ", $row, ", ", $row, ", ", $row, ", ", $row, ", ", $row, ", ", $row)
    };
}

macro_rules! sixty_four_times {
    ($row:literal) => {
        concat!(
            eight_times!($row),
            ", ",
            eight_times!($row),
            ", ",
            eight_times!($row),
            ", ",
            eight_times!($row),
            ", ",
            eight_times!($row),
            ", ",
            eight_times!($row),
            ", ",
            eight_times!($row),
            ", ",
            eight_times!($row)
        )
    };
}

macro_rules! by_rows {
    ($before:expr, $row:literal, $after:expr) => {
        ByRows {
            few: concat!($before, eight_times!($row), $after),
            many: concat!($before, sixty_four_times!($row), $after),
        }
    };
}

macro_rules! object_columns {
    () => {
        "o.sequence, o.id, o.namespace, o.tenant_id, o.key, o.status, o.storage_class, o.content_hash, \
         o.size_bytes, o.content_type, o.metadata, o.created_at, o.updated_at"
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
        "(?2 IS NULL OR o.tenant_id = ?2) \
         AND (?3 IS NULL OR o.namespace IN (SELECT value FROM json_each(?3)))"
    };
}

/// Objects as one value: what names each of them in the question or the page, and what is not said by the question.
macro_rules! objects_text {
    ($number:literal, $more:literal) => {
        concat!(
            "SELECT json_group_array(json_array(",
            $number,
            ", hex(o.id), o.storage_class, hex(o.content_hash), o.size_bytes, o.content_type, o.metadata, o.created_at, \
             o.updated_at",
            $more,
            "))"
        )
    };
}

macro_rules! newest_of_class {
    ($class:literal) => {
        concat!(
            "SELECT * FROM (SELECT n.sequence FROM objects AS n WHERE n.namespace = ?1 AND n.tenant_id = ?2 \
             AND n.status = ?3 AND n.storage_class = ",
            $class,
            " AND n.sequence < ?4 ORDER BY n.sequence DESC LIMIT ?5)"
        )
    };
}

/// The objects whose sequences are given, as one text, in no certain order. These come out of an index alone: of what does not
/// get on the page nothing else is read.
macro_rules! page {
    ($more:literal, $sequences:expr) => {
        concat!(
            objects_text!("o.sequence", $more),
            " FROM (",
            $sequences,
            ") AS page CROSS JOIN objects AS o ON o.sequence = page.sequence"
        )
    };
}

/// Where the first delimiter of a key stands behind the prefix, counted from there: 0 or NULL if there is none.
macro_rules! delimited {
    () => {
        "instr(substr(w.key, ?5 + 1), ?6)"
    };
}

/// The first key of a scope within bounds.
macro_rules! first_key {
    ($bounds:expr) => {
        concat!(
            "(SELECT n.key FROM objects AS n WHERE n.namespace = ?1 AND n.tenant_id = ?2 AND n.status = 1 AND ",
            $bounds,
            " AND n.key <= ?4 ORDER BY n.key LIMIT 1)"
        )
    };
}

/// The first key behind the one that the walk has come to; behind all that have something in common with it, where
/// that is shown in their place.
macro_rules! next_key {
    ($is_shown:literal) => {
        first_key!(concat!(
            "n.key > CASE WHEN ",
            $is_shown,
            delimited!(),
            " > 0 THEN substr(w.key, 1, ?5 + ",
            delimited!(),
            " + length(?6) - 1) || ?7 ELSE w.key END"
        ))
    };
}

/// Something of the newest version of the key that the walk has come to.
macro_rules! of_newest {
    ($column:literal) => {
        concat!(
            "(SELECT ",
            $column,
            " FROM objects AS v WHERE v.namespace = ?1 AND v.tenant_id = ?2 AND v.key = w.key AND v.status = 1 \
             ORDER BY v.sequence DESC LIMIT 1)"
        )
    };
}

/// What a walk has come to as two texts, both in no certain order: the newest versions of keys that are shown by themselves, and all
/// keys, with whether they are asked for.
macro_rules! walked_texts {
    ($is_shown:literal, $newest:expr, $judged:literal) => {
        concat!(
            objects_text!("o.sequence", ", w.key"),
            " FILTER (WHERE o.sequence IS NOT NULL), json_group_array(json_array(w.key, ",
            $is_shown,
            ")) FROM walk AS w LEFT JOIN objects AS o ON o.sequence = CASE WHEN ",
            delimited!(),
            " > 0 THEN NULL ELSE ",
            $newest,
            " END WHERE ",
            $judged,
            "w.key IS NOT NULL"
        )
    };
}

/// `?1`: `["<id>", …]`
pub(super) const HELD_BY_ID: &str = concat!(
    "SELECT ",
    held_columns!(),
    " FROM json_each(?1) AS j CROSS JOIN objects AS o WHERE o.id = unhex(j.value)"
);

/// Rows of namespace, tenant and key; behind them all, how many versions of each, newest first; -1 for all.
pub(super) const HELD_VERSIONS: ByRows = by_rows!(
    concat!("SELECT ", held_columns!(), " FROM (VALUES "),
    "(?, ?, ?)",
    ") AS j CROSS JOIN objects AS o WHERE o.sequence IN (
        SELECT n.sequence FROM objects AS n
        WHERE n.namespace = j.column1 AND n.tenant_id = j.column2 AND n.key = j.column3 AND n.status = 1
        ORDER BY n.sequence DESC LIMIT ?)"
);

/// Rows of hash and class.
pub(super) const HELD_BLOBS: ByRows = by_rows!(
    "SELECT b.content_hash, b.storage_class, b.size_bytes, b.ref_count, b.place, b.damaged, b.first_object FROM (VALUES ",
    "(?, ?)",
    ") AS j CROSS JOIN blobs AS b WHERE b.content_hash = j.column1 AND b.storage_class = j.column2"
);

/// `?1`: `["<tenant>", …]`: of each the limits, which may be none, and the usage.
pub(super) const QUOTAS_OF: &str = "
    SELECT j.value, l.bytes_max, l.objects_max, u.bytes, u.objects
    FROM json_each(?1) AS j LEFT JOIN tenant_limits AS l ON l.tenant_id = j.value
    LEFT JOIN tenant_usage AS u ON u.tenant_id = j.value";

/// The limits and the usage of every tenant that has limits.
pub(super) const QUOTAS: &str = "
    SELECT tenant_limits.tenant_id, bytes_max, objects_max, u.bytes, u.objects
    FROM tenant_limits LEFT JOIN tenant_usage AS u ON u.tenant_id = tenant_limits.tenant_id";

/// `?1`: `[["<tenant>", bytes more, objects more], …]`
pub(super) const PUT_USAGE: &str = "
    INSERT INTO tenant_usage (tenant_id, bytes, objects)
    SELECT j.value ->> 0, j.value ->> 1, j.value ->> 2 FROM json_each(?1) AS j WHERE true
    ON CONFLICT (tenant_id) DO UPDATE SET bytes = bytes + excluded.bytes, objects = objects + excluded.objects";

/// `?1`: the tenant, `?2`: the most bytes, `?3`: the most objects; NULL for no limit.
pub(super) const SET_LIMITS: &str = "
    INSERT INTO tenant_limits (tenant_id, bytes_max, objects_max) VALUES (?1, ?2, ?3)
    ON CONFLICT (tenant_id) DO UPDATE SET bytes_max = excluded.bytes_max, objects_max = excluded.objects_max";

/// Forgets limits that are none. `?1`: the tenant.
pub(super) const DROP_LIMITS: &str =
    "DELETE FROM tenant_limits WHERE tenant_id = ?1 AND bytes_max IS NULL AND objects_max IS NULL";

/// Tells servers that a tool has changed something.
pub(super) const NOTE_OUTSIDE_CHANGE: &str = "UPDATE clock SET outside_changes = outside_changes + 1";

/// Rows in the order of the columns.
pub(super) const PUT_OBJECTS: ByRows = by_rows!(
    "INSERT INTO objects (sequence, id, namespace, tenant_id, key, status, storage_class, content_hash, size_bytes,
                          content_type, metadata, writer, created_at, updated_at, forgotten_since, indexed)
     SELECT * FROM (VALUES ",
    "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    ") WHERE column1 IS NOT NULL
     ON CONFLICT (id) DO UPDATE SET
        sequence = excluded.sequence, key = excluded.key, status = excluded.status,
        storage_class = excluded.storage_class, content_hash = excluded.content_hash,
        size_bytes = excluded.size_bytes, metadata = excluded.metadata, updated_at = excluded.updated_at,
        forgotten_since = excluded.forgotten_since, indexed = excluded.indexed"
);

/// `?1`: `["<id>", …]`, `?2`: the moment, `?3`: the tick.
pub(super) const DELETE_OBJECTS: &str = "
    UPDATE objects SET status = 3, updated_at = ?2, forgotten_since = ?3
    WHERE id IN (SELECT unhex(value) FROM json_each(?1)) AND status = 1";

/// `?1`: `["<id>", …]`
pub(super) const ABANDON_OBJECTS: &str =
    "DELETE FROM objects WHERE id IN (SELECT unhex(value) FROM json_each(?1)) AND status = 0";

/// Rows in the order of the columns.
pub(super) const PUT_BLOBS: ByRows = by_rows!(
    "INSERT INTO blobs (content_hash, storage_class, size_bytes, ref_count, place, damaged, zero_since, first_object)
     SELECT * FROM (VALUES ",
    "(?, ?, ?, ?, ?, ?, ?, ?)",
    ") WHERE column1 IS NOT NULL
     ON CONFLICT (content_hash, storage_class) DO UPDATE SET
        size_bytes = excluded.size_bytes, ref_count = excluded.ref_count, place = excluded.place,
        damaged = excluded.damaged, zero_since = excluded.zero_since, first_object = excluded.first_object"
);

/// `?1`: `[["<hash>", class, "<place>", size], …]`
pub(super) const PUT_GARBAGE: &str = "
    INSERT INTO garbage (content_hash, storage_class, place, size_bytes)
    SELECT unhex(j.value ->> 0), j.value ->> 1, j.value ->> 2, j.value ->> 3 FROM json_each(?1) AS j";

/// A committed object and its place, by id.
pub(super) const FIND_BY_ID: &str = concat!(
    "SELECT ",
    object_columns!(),
    ", b.place, b.damaged FROM objects AS o CROSS JOIN blobs AS b
      ON b.content_hash = o.content_hash AND b.storage_class = o.storage_class
     WHERE o.id = ?1 AND o.status = 1"
);

/// The newest committed version of a key and its place.
pub(super) const FIND_BY_KEY: &str = concat!(
    "SELECT ",
    object_columns!(),
    ", b.place, b.damaged FROM objects AS o CROSS JOIN blobs AS b
      ON b.content_hash = o.content_hash AND b.storage_class = o.storage_class
     WHERE o.namespace = ?1 AND o.tenant_id = ?2 AND o.key = ?3 AND o.status = 1
     ORDER BY o.sequence DESC LIMIT 1"
);

/// An object in any state but `DELETED`, by id.
pub(super) const INSPECT_BY_ID: &str =
    concat!("SELECT ", object_columns!(), " FROM objects AS o WHERE o.id = ?1 AND o.status <> 3");

/// The same by id, if it is of the tenant `?2` and in one of the namespaces `?3` (`["<namespace>", …]`); `NULL` for all
/// of either.
pub(super) const FIND_BY_ID_WITHIN: &str = concat!(
    "SELECT ",
    object_columns!(),
    ", b.place, b.damaged FROM objects AS o CROSS JOIN blobs AS b
      ON b.content_hash = o.content_hash AND b.storage_class = o.storage_class
     WHERE o.id = ?1 AND o.status = 1 AND ",
    within!()
);

/// As [`FIND_BY_ID_WITHIN`], of `?1`: `["<id>", …]`. One text for all of them.
pub(super) const FIND_EACH_BY_ID: &str = concat!(
    objects_text!("j.key", ", o.key, b.place, b.damaged, o.namespace, o.tenant_id"),
    " FROM json_each(?1) AS j CROSS JOIN objects AS o CROSS JOIN blobs AS b
      ON b.content_hash = o.content_hash AND b.storage_class = o.storage_class
     WHERE o.id = unhex(j.value) AND o.status = 1 AND ",
    within!()
);

/// As [`FIND_BY_KEY`], of `?3`: `["<key>", …]`. One text for all of them.
pub(super) const FIND_EACH_BY_KEY: &str = concat!(
    objects_text!("j.key", ", NULL, b.place, b.damaged"),
    " FROM json_each(?3) AS j CROSS JOIN objects AS o CROSS JOIN blobs AS b
      ON b.content_hash = o.content_hash AND b.storage_class = o.storage_class
     WHERE o.sequence = (
        SELECT n.sequence FROM objects AS n
        WHERE n.namespace = ?1 AND n.tenant_id = ?2 AND n.key = j.value AND n.status = 1
        ORDER BY n.sequence DESC LIMIT 1)"
);

/// As [`INSPECT_BY_ID`], within the reach of [`FIND_BY_ID_WITHIN`].
pub(super) const INSPECT_BY_ID_WITHIN: &str = concat!(
    "SELECT ",
    object_columns!(),
    " FROM objects AS o WHERE o.id = ?1 AND o.status <> 3 AND ",
    within!()
);

/// What the `?2` objects behind the sequence `?1` amount to.
pub(super) const COUNT_OBJECTS: &str = "
    SELECT namespace, tenant_id, status, storage_class, count(*), coalesce(sum(size_bytes), 0), max(sequence)
    FROM (SELECT namespace, tenant_id, status, storage_class, size_bytes, sequence FROM objects
          WHERE sequence > ?1 ORDER BY sequence LIMIT ?2)
    GROUP BY 1, 2, 3, 4";

/// One page of both classes: each is read in its index's order, and the two are merged.
pub(super) const LIST_BOTH: &str = page!(
    ", o.key",
    concat!(newest_of_class!("0"), " UNION ALL ", newest_of_class!("1"), " ORDER BY 1 DESC LIMIT ?5")
);

/// One page of one class.
pub(super) const LIST_CLASS: &str = page!(", o.key", newest_of_class!("?6"));

/// A walk through the keys of the scope `?1`, `?2` from `?3` up to `?4`: `?5` characters of each are the prefix, `?6` is the
/// delimiter or NULL, `?7` comes behind everything, and `?8` keys are wanted. Each step is one search in the index of keys,
/// and a key that is shown by itself one more, for its newest version.
pub(super) const LIST_KEYS: &str = concat!(
    "WITH RECURSIVE walk (key) AS (SELECT ",
    first_key!("n.key >= ?3"),
    " UNION ALL SELECT ",
    next_key!(""),
    " FROM walk AS w WHERE w.key IS NOT NULL LIMIT ?8) ",
    walked_texts!("true", of_newest!("v.sequence"), "")
);

/// The same for keys whose newest version is in the class `?9`, and at most `?10` keys in all. Here every key takes two steps:
/// it is found, and then it is judged. A value that a later step is made from has to be that of a row, since SQLite would
/// search for it once more wherever it is named.
pub(super) const LIST_KEYS_OF_CLASS: &str = concat!(
    "WITH RECURSIVE walk (key, newest, is_judged, taken) AS (SELECT ",
    first_key!("n.key >= ?3"),
    ", NULL, false, 0 UNION ALL SELECT CASE WHEN w.is_judged THEN ",
    next_key!("w.newest IS NOT NULL AND "),
    " ELSE w.key END, CASE WHEN NOT w.is_judged THEN ",
    of_newest!("CASE v.storage_class WHEN ?9 THEN v.sequence END"),
    " END, NOT w.is_judged, w.taken + (w.newest IS NOT NULL) \
      FROM walk AS w WHERE w.key IS NOT NULL AND w.taken < ?8 LIMIT 2 * ?10) ",
    walked_texts!("w.newest IS NOT NULL", "w.newest", "w.is_judged AND ")
);

/// One page of the versions of a key.
pub(super) const LIST_VERSIONS: &str = page!(
    "",
    "SELECT n.sequence FROM objects AS n WHERE n.namespace = ?1 AND n.tenant_id = ?2 AND n.key = ?3 AND n.status = 1 \
     AND n.sequence < ?4 ORDER BY n.sequence DESC LIMIT ?5"
);

/// `?1`: `[["<hash>", class], …]`: the places that serve, and those that are the collector's to remove.
pub(super) const PLACES_NAMED: &str = "
    SELECT b.content_hash, b.storage_class, b.place FROM json_each(?1) AS j CROSS JOIN blobs AS b
    WHERE b.content_hash = unhex(j.value ->> 0) AND b.storage_class = j.value ->> 1
    UNION ALL
    SELECT g.content_hash, g.storage_class, g.place FROM json_each(?1) AS j CROSS JOIN garbage AS g
    WHERE g.content_hash = unhex(j.value ->> 0) AND g.storage_class = j.value ->> 1";

/// The blobs that have been without a reference, and without a lease, since before the tick `?1`, at most `?2` of them, oldest first. The
/// two statements below name the same ones: nothing comes between them in a transaction of the one writer.
macro_rules! dead_blobs {
    ($columns:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM blobs WHERE ref_count = 0 AND zero_since <= ?1 AND leased_until <= ?1 \
              ORDER BY zero_since, content_hash, storage_class LIMIT ?2"
        )
    };
}

/// First half of a collection: their places become garbage.
pub(super) const MOVE_TO_GARBAGE: &str = concat!(
    "INSERT INTO garbage (content_hash, storage_class, place, size_bytes) ",
    dead_blobs!("content_hash, storage_class, place, size_bytes")
);

/// Second half: they are no blobs any more. A new upload of the same content makes a new row, at a new place.
pub(super) const FORGET_BLOBS: &str = concat!(
    "DELETE FROM blobs WHERE (content_hash, storage_class) IN (",
    dead_blobs!("content_hash, storage_class"),
    ")"
);

/// Rows of objects that have been forgotten since before the tick `?1`, at most `?2` of them.
pub(super) const PURGE_OBJECTS: &str = "
    DELETE FROM objects WHERE sequence IN (
        SELECT sequence FROM objects WHERE status = 3 AND forgotten_since <= ?1 ORDER BY forgotten_since LIMIT ?2)";

/// Leases that ended before the tick `?1`, at most `?2` of them.
pub(super) const FORGET_LEASES: &str = "
    DELETE FROM leases WHERE (content_hash, tenant_id, storage_class) IN (
        SELECT content_hash, tenant_id, storage_class FROM leases WHERE expires_at <= ?1
        ORDER BY expires_at LIMIT ?2)";

/// The sequence of an object by which the tenant `?2` has the blob `b` of the hash `j`: it is the blob's first, or it is found by its
/// content. Both are looked for whether or not there is a blob.
macro_rules! had_by {
    ($namespaces:literal) => {
        concat!(
            "coalesce(
                (SELECT h.sequence FROM objects AS h
                 WHERE h.sequence = coalesce(b.first_object, 0) AND h.status = 1 AND h.content_hash = b.content_hash
                   AND h.storage_class = b.storage_class AND h.tenant_id = ?2",
            $namespaces,
            "), (SELECT h.sequence FROM objects AS h
                 WHERE h.content_hash = unhex(j.value) AND h.tenant_id = ?2
                   AND h.storage_class = coalesce(b.storage_class, 0) AND h.status = 1 AND h.indexed = 1",
            $namespaces,
            " LIMIT 1))"
        )
    };
}

macro_rules! contents {
    ($had_by:expr) => {
        concat!(
            "SELECT b.content_hash, b.storage_class, b.place, b.size_bytes, b.damaged, o.id IS NOT NULL,
                    coalesce(l.expires_at, 0), coalesce(o.id, l.object_id), coalesce(o.namespace, l.namespace),
                    coalesce(o.updated_at, l.updated_at)
             FROM json_each(?1) AS j LEFT JOIN blobs AS b ON b.content_hash = unhex(j.value)
             LEFT JOIN leases AS l ON l.content_hash = unhex(j.value) AND l.tenant_id = ?2
               AND l.storage_class = coalesce(b.storage_class, 0) AND l.expires_at > (SELECT ticks FROM clock)
             LEFT JOIN objects AS o ON o.sequence = ",
            $had_by,
            " WHERE CASE WHEN o.sequence IS NOT NULL OR l.expires_at IS NOT NULL THEN b.place IS NOT NULL END"
        )
    };
}

/// Which of the contents `?1` (`["<hash>", …]`) the tenant `?2` has, in which classes and how. One that others have costs the same
/// searches as one that nobody has: so nothing is asked of the blob by itself, which would end the search early.
pub(super) const CONTENTS: &str = contents!(had_by!(""));

/// The same, if they are in one of the namespaces `?3` (`["<namespace>", …]`).
pub(super) const CONTENTS_WITHIN: &str =
    contents!(had_by!(" AND h.namespace IN (SELECT value FROM json_each(?3))"));

macro_rules! lease_contents {
    ($had_by:expr) => {
        concat!(
            "INSERT INTO leases (content_hash, tenant_id, storage_class, expires_at, object_id, namespace, updated_at)
             SELECT b.content_hash, ?2, b.storage_class, ?4, o.id, o.namespace, o.updated_at
             FROM json_each(?1) AS j CROSS JOIN blobs AS b CROSS JOIN objects AS o
             WHERE b.content_hash = unhex(j.value) AND b.damaged = 0 AND o.sequence = ",
            $had_by,
            " ON CONFLICT (content_hash, tenant_id, storage_class) DO UPDATE SET
                expires_at = max(expires_at, excluded.expires_at), object_id = excluded.object_id,
                namespace = excluded.namespace, updated_at = excluded.updated_at"
        )
    };
}

/// Leases the contents that [`CONTENTS`] finds by an object until the tick `?4`.
pub(super) const LEASE_CONTENTS: &str = lease_contents!(had_by!(""));

/// The same of [`CONTENTS_WITHIN`].
pub(super) const LEASE_CONTENTS_WITHIN: &str =
    lease_contents!(had_by!(" AND h.namespace IN (SELECT value FROM json_each(?3))"));

/// Lets the blobs `?1` (`["<hash>", …]`) say how long the tenant `?2` has leased them.
pub(super) const NOTE_LEASES: &str = "
    UPDATE blobs SET leased_until = max(leased_until, coalesce((
        SELECT l.expires_at FROM leases AS l WHERE l.content_hash = blobs.content_hash AND l.tenant_id = ?2
          AND l.storage_class = blobs.storage_class), 0))
    WHERE content_hash IN (SELECT unhex(value) FROM json_each(?1))";

/// What waits to be removed, at most `?1` places; nothing while there is a hold other than those in `?2`
/// (`[<id>, …]`). One statement, so that whoever takes a hold first and a snapshot then finds all of its bytes.
pub(super) const GARBAGE: &str = "
    SELECT content_hash, storage_class, place, size_bytes FROM garbage
    WHERE NOT EXISTS (SELECT 1 FROM holds WHERE id NOT IN (SELECT value FROM json_each(?2))) LIMIT ?1";

/// `?1`: `[["<hash>", class, "<place>"], …]`
pub(super) const FORGET_GARBAGE: &str = "
    DELETE FROM garbage WHERE (content_hash, storage_class, place) IN (
        SELECT unhex(value ->> 0), value ->> 1, value ->> 2 FROM json_each(?1))";

/// Everything that was ever committed, in the order of its commits.
pub(super) const EXPORT_OBJECTS: &str =
    concat!("SELECT ", object_columns!(), " FROM objects AS o WHERE o.status IN (1, 3) ORDER BY o.sequence");

/// The database's own clock: as it was stored last, or as somebody has seen it since.
pub(super) const TICKS: &str = "
    SELECT max(ticks, coalesce((SELECT max(zero_since) FROM blobs WHERE ref_count = 0), 0),
               coalesce((SELECT max(forgotten_since) FROM objects WHERE status = 3), 0)) FROM clock";
/// Stores the database's own clock, which never goes back.
pub(super) const SET_CLOCK: &str = "UPDATE clock SET ticks = max(ticks, ?1)";

/// `?1`: `[[id, class, live bytes more, applied end, last sequence, ended at], …]`
pub(super) const PUT_PACKS: &str = "
    INSERT INTO packs (id, storage_class, live_bytes, applied_end, last_sequence, ended_at)
    SELECT j.value ->> 0, j.value ->> 1, j.value ->> 2, j.value ->> 3, j.value ->> 4, j.value ->> 5
    FROM json_each(?1) AS j WHERE true
    ON CONFLICT (id) DO UPDATE SET
        live_bytes = live_bytes + excluded.live_bytes, applied_end = max(applied_end, excluded.applied_end),
        last_sequence = max(last_sequence, excluded.last_sequence),
        ended_at = coalesce(ended_at, excluded.ended_at)";

/// Every pack that anything is known of.
pub(super) const PACKS: &str =
    "SELECT id, storage_class, live_bytes, applied_end, last_sequence, ended_at FROM packs ORDER BY id";

/// Forgets a pack whose file is gone.
pub(super) const FORGET_PACK: &str = "DELETE FROM packs WHERE id = ?1 AND live_bytes = 0";

/// The last change of the log that is in the database.
pub(super) const APPLIED_SEQUENCE: &str = "SELECT applied_sequence FROM clock";
/// Stores how far the log has been applied, which never goes back.
pub(super) const SET_APPLIED_SEQUENCE: &str = "UPDATE clock SET applied_sequence = max(applied_sequence, ?1)";

/// `?1`: `[["<hash>", class, "<old place>", "<new place>"], …]`: blobs that are served from another place from now on.
pub(super) const MOVE_BLOBS: &str = "
    UPDATE blobs SET place = j.value ->> 3 FROM json_each(?1) AS j
    WHERE content_hash = unhex(j.value ->> 0) AND storage_class = j.value ->> 1 AND place = j.value ->> 2
    RETURNING content_hash, storage_class, size_bytes";

/// `?1`: `[["<hash>", class], …]`: the places that serve.
pub(super) const PLACES_SERVING: &str = "
    SELECT b.content_hash, b.storage_class, b.place FROM json_each(?1) AS j CROSS JOIN blobs AS b
    WHERE b.content_hash = unhex(j.value ->> 0) AND b.storage_class = j.value ->> 1";

/// Up to `?4` keys that have a version, in their order behind `?1`, `?2`, `?3`; one with many versions many times.
pub(super) const KEYS_AFTER: &str = "
    SELECT namespace, tenant_id, key FROM objects
     WHERE key IS NOT NULL AND status = 1 AND (namespace, tenant_id, key) > (?1, ?2, ?3)
     ORDER BY namespace, tenant_id, key LIMIT ?4";

macro_rules! api_key_columns {
    () => {
        "id, secret_hash, tenant_id, namespaces, scopes, label, created_at, expires_at, revoked_at"
    };
}

/// An API key, by its id.
pub(super) const API_KEY: &str = concat!("SELECT ", api_key_columns!(), " FROM api_keys WHERE id = ?1");

/// Every API key, for people who look after them.
pub(super) const API_KEYS: &str =
    concat!("SELECT ", api_key_columns!(), " FROM api_keys ORDER BY created_at, id");

/// Keeps a new API key.
pub(super) const PUT_API_KEY: &str = "
    INSERT INTO api_keys (id, secret_hash, tenant_id, namespaces, scopes, label, created_at, expires_at)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";

/// Takes an API key back, at the moment `?2` unless that has been done before.
pub(super) const REVOKE_API_KEY: &str =
    "UPDATE api_keys SET revoked_at = coalesce(revoked_at, ?2) WHERE id = ?1";

macro_rules! rule_columns {
    () => {
        "namespace, cold_after_days, delete_after_days, keep_versions, reads_noted_since"
    };
}

/// The rule of the namespace `?1`.
pub(super) const LIFECYCLE_RULE: &str =
    concat!("SELECT ", rule_columns!(), " FROM lifecycle_rules WHERE namespace = ?1");

/// At most `?2` rules, in the order of their namespaces behind `?1`.
pub(super) const LIFECYCLE_RULES_AFTER: &str = concat!(
    "SELECT ",
    rule_columns!(),
    " FROM lifecycle_rules WHERE namespace > ?1 ORDER BY namespace LIMIT ?2"
);

/// `?1`: the namespace, `?2` to `?4`: the rule, `?5`: the moment from which reads are noted, unless they are already.
pub(super) const SET_LIFECYCLE_RULE: &str = "
    INSERT INTO lifecycle_rules (namespace, cold_after_days, delete_after_days, keep_versions, reads_noted_since)
    VALUES (?1, ?2, ?3, ?4, CASE WHEN ?2 IS NOT NULL THEN ?5 END)
    ON CONFLICT (namespace) DO UPDATE SET
        cold_after_days = excluded.cold_after_days, delete_after_days = excluded.delete_after_days,
        keep_versions = excluded.keep_versions,
        reads_noted_since = CASE WHEN excluded.cold_after_days IS NOT NULL
            THEN coalesce(reads_noted_since, excluded.reads_noted_since) END";

/// Forgets the rule of the namespace `?1`.
pub(super) const DROP_LIFECYCLE_RULE: &str = "DELETE FROM lifecycle_rules WHERE namespace = ?1";

/// The first tenant behind `?2` that has an object in the namespace `?1`.
pub(super) const NEXT_TENANT: &str = "
    SELECT tenant_id FROM objects WHERE namespace = ?1 AND tenant_id > ?2 ORDER BY tenant_id LIMIT 1";

/// The last of the `?5` committed objects of the class `?3` behind the sequence `?4`; NULL at the end.
pub(super) const AGES_END: &str = "
    SELECT max(sequence) FROM (
        SELECT sequence FROM objects
        WHERE namespace = ?1 AND tenant_id = ?2 AND status = 1 AND storage_class = ?3 AND sequence > ?4
        ORDER BY sequence LIMIT ?5)";

/// The committed objects of the class `?3` behind the sequence `?4`, up to `?5`, that were made by `?6`, and when they
/// were read.
pub(super) const AGES: &str = "
    SELECT o.id, o.created_at, r.day FROM objects AS o LEFT JOIN object_reads AS r ON r.object_id = o.id
    WHERE o.namespace = ?1 AND o.tenant_id = ?2 AND o.status = 1 AND o.storage_class = ?3
      AND o.sequence > ?4 AND o.sequence <= ?5 AND o.created_at <= ?6";

/// Older versions of the key `?3` than the sequence `?4`, at most `?5`, newest first.
pub(super) const OLDER_VERSIONS: &str = "
    SELECT key, sequence, id FROM objects
    WHERE namespace = ?1 AND tenant_id = ?2 AND key = ?3 AND status = 1 AND sequence < ?4
    ORDER BY sequence DESC LIMIT ?5";

/// Versions of the keys before `?3`, at most `?4`, from the last key to the first, and of each the newest first.
pub(super) const VERSIONS_OF_KEYS_BEFORE: &str = "
    SELECT key, sequence, id FROM objects
    WHERE namespace = ?1 AND tenant_id = ?2 AND key IS NOT NULL AND key < ?3 AND status = 1
    ORDER BY key DESC, sequence DESC LIMIT ?4";

/// The committed object `?1`, when it was read, how many versions of its key are newer, counted up to `?2`, and the rule of
/// its namespace.
pub(super) const LIFECYCLE_FACTS: &str = concat!(
    "SELECT ",
    object_columns!(),
    ", r.day, (SELECT count(*) FROM (
        SELECT 1 FROM objects AS n
        WHERE n.namespace = o.namespace AND n.tenant_id = o.tenant_id AND n.key = o.key AND n.status = 1
          AND n.sequence > o.sequence LIMIT ?2)),
      l.cold_after_days, l.delete_after_days, l.keep_versions, l.reads_noted_since
     FROM objects AS o JOIN lifecycle_rules AS l ON l.namespace = o.namespace
     LEFT JOIN object_reads AS r ON r.object_id = o.id
     WHERE o.id = ?1 AND o.status = 1"
);

/// `?1`: `["<id>", …]`, `?2`: the day on which they were read.
pub(super) const NOTE_READS: &str = "
    INSERT INTO object_reads (object_id, day) SELECT unhex(j.value), ?2 FROM json_each(?1) AS j WHERE true
    ON CONFLICT (object_id) DO UPDATE SET day = excluded.day WHERE excluded.day > day";

/// Forgets reads before the day `?1`, at most `?2`.
pub(super) const FORGET_READS: &str = "
    DELETE FROM object_reads WHERE object_id IN (
        SELECT object_id FROM object_reads WHERE day < ?1 ORDER BY day LIMIT ?2)";

/// What the wall clock and the database's own said when they were looked at.
pub(super) const LIFECYCLE_CLOCK: &str =
    "SELECT trusted_wall, trusted_tick, leapt_wall, leapt_tick FROM lifecycle_clock WHERE id = 1";

/// `?1` to `?4`: the columns.
pub(super) const SET_LIFECYCLE_CLOCK: &str = "
    INSERT INTO lifecycle_clock (id, trusted_wall, trusted_tick, leapt_wall, leapt_tick) VALUES (1, ?1, ?2, ?3, ?4)
    ON CONFLICT (id) DO UPDATE SET
        trusted_wall = excluded.trusted_wall, trusted_tick = excluded.trusted_tick,
        leapt_wall = excluded.leapt_wall, leapt_tick = excluded.leapt_tick";

/// How far the scrub is.
pub(super) const SCRUB_STATE: &str = "
    SELECT beats, running, started_at, finished_at, after_hash, after_class, blobs, bytes, damaged FROM scrub WHERE id = 1";

/// `?1`: the beats that were seen, NULL where there was no row; `?2` to `?10`: the columns.
pub(super) const PUT_SCRUB_STATE: &str = "
    INSERT INTO scrub (id, beats, running, started_at, finished_at, after_hash, after_class, blobs, bytes, damaged)
    VALUES (1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
    ON CONFLICT (id) DO UPDATE SET
        beats = excluded.beats, running = excluded.running, started_at = excluded.started_at,
        finished_at = excluded.finished_at, after_hash = excluded.after_hash, after_class = excluded.after_class,
        blobs = excluded.blobs, bytes = excluded.bytes, damaged = excluded.damaged
    WHERE scrub.beats = ?1";

/// How many copies are known to be lost or altered.
pub(super) const DAMAGED_BLOBS: &str = "SELECT count(*) FROM blobs WHERE damaged = 1";
