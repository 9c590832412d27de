-- API keys: credentials that the store itself gives out.

CREATE TABLE api_keys (
    id          INTEGER PRIMARY KEY,        -- the public part, 64 bits
    secret_hash BLOB    NOT NULL,           -- SHA-256 of the secret part, 32 bytes; the secret itself is kept nowhere
    tenant_id   TEXT    NOT NULL,           -- whose objects it reaches; '*' for everybody's
    namespaces  TEXT,                       -- JSON array of those that it reaches; NULL for all
    scopes      TEXT    NOT NULL,           -- what it may do: words with spaces between
    label       TEXT,
    created_at  INTEGER NOT NULL,
    expires_at  INTEGER,                    -- NULL: never
    revoked_at  INTEGER                     -- NULL: it has not been
) STRICT;
