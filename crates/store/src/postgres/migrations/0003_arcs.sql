-- Where this database is one shard of several. Empty otherwise, and then nothing here is used.
CREATE TABLE shard (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    name   text   NOT NULL,     -- what is hashed for the ring
    home   text   NOT NULL,     -- the shard with the small tables
    ring   text   NOT NULL,     -- where arcs belong: names with weights, `a*1,b*1`
    epoch  bigint NOT NULL      -- of the ring; the highest one of all shards counts
);

-- The whole ring in pieces, each from its start to the next one's. A place is the MD5 of a code,
-- or the first half of an idempotency key's hash. Pieces end at least where buckets end.
CREATE TABLE arcs (
    start uuid PRIMARY KEY,
    owner text     NOT NULL,    -- as far as this shard knows: the highest epoch of all shards counts
    state smallint NOT NULL,    -- 0 elsewhere, 1 here, 2 here and being copied to another shard,
                                -- 3 being copied to here, 4 elsewhere, with rows left behind here
    epoch bigint   NOT NULL
);

-- Keys that were written in an arc since its copy began.
CREATE TABLE arc_changes (
    id       bigserial PRIMARY KEY,
    start    uuid NOT NULL,
    code     text COLLATE "C",  -- of a link
    domain   bigint,
    key_hash bytea,             -- of an idempotency row
    scope    bigint
);
CREATE INDEX arc_changes_start ON arc_changes (start, id);

-- Refuses a write whose place is another shard's; answers the arc if its changes are to be noted.
-- Whoever changes an arc's state holds its bucket's lock alone, so it waits for the writes that
-- are under way there and lets none begin. Each statement here sees what was committed before it
-- began, so what is read behind the lock is true until the end of the transaction.
CREATE FUNCTION arc_check(place uuid) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    arc arcs%ROWTYPE;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(1936224868, get_byte(uuid_send(place), 0) / 4);
    SELECT * INTO arc FROM arcs WHERE start <= place ORDER BY start DESC LIMIT 1;
    IF arc.state = 1 THEN
        RETURN NULL;
    ELSIF arc.state = 2 THEN
        RETURN arc.start;
    END IF;
    RAISE EXCEPTION 'another shard has this key' USING ERRCODE = 'SH001';
END $$;

CREATE FUNCTION arc_guard_link() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    arc uuid;
BEGIN
    IF current_setting('shunt.mover', true) = 'on' THEN
        RETURN NEW;
    END IF;
    arc := arc_check(md5(NEW.code)::uuid);
    IF arc IS NOT NULL THEN
        INSERT INTO arc_changes (start, code, domain) VALUES (arc, NEW.code, NEW.domain);
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION arc_guard_key() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed idempotency%ROWTYPE;
    arc uuid;
BEGIN
    IF TG_OP = 'DELETE' THEN
        changed := OLD;
    ELSE
        changed := NEW;
    END IF;
    IF current_setting('shunt.mover', true) = 'on' THEN
        RETURN changed;
    END IF;
    arc := arc_check(encode(substring(changed.key_hash FOR 16), 'hex')::uuid);
    IF arc IS NOT NULL THEN
        INSERT INTO arc_changes (start, key_hash, scope)
        VALUES (arc, changed.key_hash, changed.scope);
    END IF;
    RETURN changed;
END $$;
