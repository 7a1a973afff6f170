-- Changes of links, each noted by its own transaction, for nodes that did not hear of them
-- otherwise. Distributed as links are. Rows are forgotten after some hours.
CREATE TABLE changes (
    code    text COLLATE "C" NOT NULL,
    domain  bigint      NOT NULL,
    version bigint      NOT NULL,
    xid     bigint      NOT NULL,       -- of the transaction, as the server that is asked counts
    at      timestamptz NOT NULL,
    PRIMARY KEY (code, domain, version)
);
CREATE INDEX changes_xid ON changes (xid);
CREATE INDEX changes_at ON changes (at);
