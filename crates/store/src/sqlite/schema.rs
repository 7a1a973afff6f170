//! The schema of `links.db`. Why it is so: docs/adr/ on the embedded store.

use super::db::DbSpec;

/// `links.db`.
pub static LINKS_DB: DbSpec = DbSpec {
    file_name: "links.db",
    // "shnL"
    application_id: 0x7368_6e4c,
    migrations: &[V1],
    tables: &[
        "links",
        "link_tags",
        "links_fts",
        "domains",
        "idempotency",
        "api_keys",
        "code_pool",
        "range_rests",
        "meta",
        "visitor_secrets",
        "counters",
    ],
};

/// `links.id` is the creation time in milliseconds times 65,536 plus a tie-break, so that the
/// table's own order is the order of lists and a page needs no second index. Tombstones keep key,
/// owner, times and version; what they meant (target, title, tags) is gone. The text index is made
/// of trigrams without positions: a third of the size, and a hit is compared with the row anyway.
const V1: &str = "
CREATE TABLE links (
    id         INTEGER PRIMARY KEY,
    code       TEXT    NOT NULL,
    domain     INTEGER NOT NULL,
    owner      INTEGER NOT NULL,
    version    INTEGER NOT NULL,
    state      INTEGER NOT NULL,            -- 0 link, 1 tombstone
    flags      INTEGER NOT NULL,            -- 1 enabled, 2 forward query, 4 mixed script
    status     INTEGER NOT NULL,            -- 301, 302, 307, 308; 0 in a tombstone
    updated_at INTEGER,                     -- ms; NULL: never changed
    valid_from INTEGER,                     -- ms
    expires_at INTEGER,                     -- ms
    max_clicks INTEGER,                     -- unsigned, as its bits
    used       INTEGER NOT NULL,
    target     TEXT,
    title      TEXT,
    tags       TEXT                         -- comma-separated, sorted
) STRICT;
CREATE UNIQUE INDEX links_code ON links (code, domain);
CREATE INDEX links_owner ON links (owner) WHERE state = 0;
CREATE INDEX links_domain ON links (domain) WHERE state = 0 AND domain <> 0;
CREATE TABLE link_tags (
    tag  TEXT    NOT NULL,
    link INTEGER NOT NULL,
    PRIMARY KEY (tag, link)
) STRICT, WITHOUT ROWID;
CREATE VIEW link_texts AS SELECT id, code, title, target FROM links WHERE state = 0;
CREATE VIRTUAL TABLE links_fts USING fts5 (
    code, title, target,
    content = 'link_texts', content_rowid = 'id', columnsize = 0, detail = 'none',
    tokenize = 'trigram case_sensitive 0'
);
INSERT INTO links_fts (links_fts, rank) VALUES ('hashsize', 8388608);
CREATE TABLE domains (
    id   INTEGER PRIMARY KEY AUTOINCREMENT,
    host TEXT    NOT NULL UNIQUE
) STRICT;
CREATE TABLE idempotency (
    scope        INTEGER NOT NULL,
    key_hash     BLOB    NOT NULL,
    request_hash BLOB    NOT NULL,
    choice       TEXT    NOT NULL,
    began_at     INTEGER NOT NULL,          -- ms
    boot         INTEGER NOT NULL,          -- whose lease it is
    lease_until  INTEGER NOT NULL,          -- ms
    status       INTEGER,                   -- NULL: not completed
    response     BLOB,
    PRIMARY KEY (scope, key_hash)
) STRICT;
CREATE INDEX idempotency_began ON idempotency (began_at);
CREATE TABLE api_keys (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT    NOT NULL,
    hash       BLOB    NOT NULL UNIQUE,     -- SHA-256 of the secret
    scopes     INTEGER NOT NULL,
    owner      INTEGER NOT NULL,
    created_at INTEGER NOT NULL,            -- ms
    expires_at INTEGER,                     -- ms
    revoked_at INTEGER                      -- ms
) STRICT;
CREATE TABLE code_pool (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    amount INTEGER NOT NULL,
    codes  TEXT    NOT NULL                 -- space-separated
) STRICT;
CREATE TABLE range_rests (
    start INTEGER PRIMARY KEY,
    stop  INTEGER NOT NULL                  -- one past the last value
) STRICT;
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE visitor_secrets (
    day    INTEGER PRIMARY KEY,
    secret BLOB NOT NULL
) STRICT;
CREATE TABLE counters (
    name  TEXT    PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO counters (name, value) VALUES ('live', 0), ('boot', 0), ('range_high', 0);
";

/// Bits of `links.flags`.
pub(super) mod flag {
    /// The link is enabled.
    pub(crate) const ENABLED: i64 = 1;
    /// The visitor's query is forwarded.
    pub(crate) const FORWARD_QUERY: i64 = 2;
    /// The target's host mixes scripts.
    pub(crate) const MIXED_SCRIPT: i64 = 4;
}
