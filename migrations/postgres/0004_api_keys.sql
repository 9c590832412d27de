-- API keys: credentials that the store itself gives out.

CREATE TABLE api_keys (
    id          bigint PRIMARY KEY,         -- the public part, 64 bits
    secret_hash bytea  NOT NULL,            -- SHA-256 of the secret part, 32 bytes; the secret itself is kept nowhere
    tenant_id   text   NOT NULL,            -- whose objects it reaches; '*' for everybody's
    namespaces  text[],                     -- those that it reaches; NULL for all
    scopes      text   NOT NULL,            -- what it may do: words with spaces between
    label       text,
    created_at  bigint NOT NULL,
    expires_at  bigint,                     -- NULL: never
    revoked_at  bigint                      -- NULL: it has not been
);
