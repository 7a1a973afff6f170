-- Makes a database a shard: writes are guarded, and rows are found by their place on the ring.
CREATE INDEX IF NOT EXISTS links_place ON links ((md5(code)::uuid), code, domain);
CREATE INDEX IF NOT EXISTS idempotency_place
    ON idempotency ((encode(substring(key_hash FOR 16), 'hex')::uuid), key_hash, scope);
CREATE OR REPLACE TRIGGER arc_guard BEFORE INSERT OR UPDATE ON links
    FOR EACH ROW EXECUTE FUNCTION arc_guard_link();
CREATE OR REPLACE TRIGGER arc_guard BEFORE INSERT OR UPDATE OR DELETE ON idempotency
    FOR EACH ROW EXECUTE FUNCTION arc_guard_key();
