-- Trigrams, for searches. Part of PostgreSQL's contrib; a database's owner may make it.
CREATE EXTENSION IF NOT EXISTS pg_trgm;

-- Links and tombstones. A tombstone keeps key, owner, times and version; what it meant is gone.
-- Texts sort by their bytes. Numbers that are unsigned with us are stored as their bits.
CREATE TABLE links (
    code       text COLLATE "C" NOT NULL,
    domain     bigint      NOT NULL,
    created_at timestamptz NOT NULL,    -- milliseconds; the microseconds keep the order within one
    owner      bigint      NOT NULL,
    version    bigint      NOT NULL,
    state      smallint    NOT NULL,    -- 0 link, 1 tombstone
    flags      smallint    NOT NULL,    -- 1 enabled, 2 forward query, 4 mixed script
    status     smallint    NOT NULL,    -- 301, 302, 307, 308; 0 in a tombstone
    updated_at timestamptz,             -- NULL: never changed
    valid_from timestamptz,
    expires_at timestamptz,
    max_clicks bigint,
    used       bigint      NOT NULL,
    target     text COLLATE "C",
    title      text COLLATE "C",
    tags       text[] COLLATE "C",      -- sorted; NULL: none
    folded     text COLLATE "C",        -- code, title and target in lower case, unless all is ASCII
    PRIMARY KEY (code, domain)
);
-- The order of lists and exports.
CREATE INDEX links_created ON links (created_at DESC, code DESC, domain DESC);
CREATE INDEX links_owner ON links (owner, created_at DESC, code DESC, domain DESC)
    WHERE state = 0;
CREATE INDEX links_domain ON links (domain, created_at DESC, code DESC)
    WHERE state = 0 AND domain <> 0;
CREATE INDEX links_tags ON links USING gin (tags) WHERE tags IS NOT NULL;
CREATE INDEX links_words ON links USING gin (
    (coalesce(folded, lower(code || E'\n' || coalesce(title, '') || E'\n' || target))) gin_trgm_ops
) WHERE state = 0;

CREATE TABLE domains (
    id   bigint PRIMARY KEY,
    host text COLLATE "C" NOT NULL UNIQUE
);
CREATE SEQUENCE domain_numbers;

-- The process of each node that started last: leases of earlier ones are void.
CREATE TABLE nodes (
    node bigint PRIMARY KEY,
    boot bigint NOT NULL
);

CREATE TABLE idempotency (
    key_hash     bytea       NOT NULL,  -- SHA-256
    scope        bigint      NOT NULL,  -- the API key's number; the lowest number: anonymous
    request_hash bytea       NOT NULL,  -- SHA-256
    choice       text        NOT NULL,
    began_at     timestamptz NOT NULL,
    node         bigint      NOT NULL,  -- whose lease it is
    boot         bigint      NOT NULL,
    lease_until  timestamptz NOT NULL,
    status       smallint,              -- NULL: not completed
    response     bytea,
    PRIMARY KEY (key_hash, scope)
);
CREATE INDEX idempotency_began ON idempotency (began_at);

CREATE TABLE api_keys (
    id         bigint PRIMARY KEY,
    name       text        NOT NULL,
    hash       bytea       NOT NULL UNIQUE,     -- SHA-256 of the secret
    scopes     smallint    NOT NULL,
    owner      bigint      NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz
);
CREATE SEQUENCE key_numbers;

-- Codes made in advance, up to 1,000 in a row. Claims go to one bucket each, so that they seldom
-- meet, and on a cluster to one node.
CREATE SEQUENCE pool_numbers;
CREATE TABLE code_pool (
    bucket smallint NOT NULL,
    id     bigint   NOT NULL DEFAULT nextval('pool_numbers'),
    amount integer  NOT NULL,
    codes  text     NOT NULL,           -- space-separated
    PRIMARY KEY (bucket, id)
);

CREATE TABLE counters (
    name  text PRIMARY KEY,
    value bigint NOT NULL
);
INSERT INTO counters (name, value) VALUES ('range_high', 0);
CREATE TABLE range_rests (
    start bigint PRIMARY KEY,
    stop  bigint NOT NULL               -- one past the last value
);

CREATE TABLE meta (
    name  text PRIMARY KEY,
    value bytea NOT NULL
);
CREATE TABLE visitor_secrets (
    day    bigint PRIMARY KEY,
    secret bytea NOT NULL
);

-- Clicks. A lane and everything in it is in one place.
CREATE TABLE hours (
    lane   smallint NOT NULL,
    code   text COLLATE "C" NOT NULL,
    domain bigint   NOT NULL,
    hour   bigint   NOT NULL,           -- since 1970
    clicks bigint   NOT NULL,
    humans bigint   NOT NULL,
    heads  bigint   NOT NULL,
    PRIMARY KEY (lane, code, domain, hour)
);
CREATE TABLE totals (
    lane   smallint NOT NULL,
    code   text COLLATE "C" NOT NULL,
    domain bigint   NOT NULL,
    clicks bigint   NOT NULL,
    humans bigint   NOT NULL,
    heads  bigint   NOT NULL,
    PRIMARY KEY (lane, code, domain)
);
-- What was counted of each stream of events: runs of numbers, first and last one after the other.
CREATE TABLE marks (
    lane    smallint NOT NULL,
    node    bigint   NOT NULL,
    boot    bigint   NOT NULL,
    runs    bigint[] NOT NULL DEFAULT '{}',
    counted bigint   NOT NULL DEFAULT 0,
    PRIMARY KEY (lane, node, boot)
);
CREATE TABLE ledger (
    node    bigint      NOT NULL,
    boot    bigint      NOT NULL,
    served  bigint      NOT NULL,
    lost    bigint      NOT NULL,
    at      timestamptz NOT NULL,
    closed  boolean     NOT NULL,
    unknown boolean     NOT NULL,
    PRIMARY KEY (node, boot)
);
