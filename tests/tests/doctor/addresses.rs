//! Addresses that lead to the wrong place, or in no way.

use shunt_cluster::PgBouncer;

use crate::kit::{DATABASE, Deployment, NOTHING, app, create, finds, migrate, node};

#[test]
fn every_wrong_address_is_explained() {
    let deployment = Deployment::start("none");
    let Deployment { primary, standby, pooler, .. } = &deployment;
    let direct = app(primary).url(DATABASE);
    let pooled = pooler.url(DATABASE);
    let password = &primary.config().password;
    let sound = |store: &str, direct: &str| finds(&deployment.with(store, direct), &[], NOTHING);
    let finds = |store: &str, direct: &str, id: &str, verdict: &str| {
        finds(&deployment.with(store, direct), &[], &[(id, verdict)]);
    };
    sound(&pooled, &direct);
    sound(&direct, "");

    for url in [&direct, &pooled] {
        finds(&url.replace(password.as_str(), "canary"), &direct, "postgres-password", "wrong");
        finds(&url.replace("/links", "/nothing"), &direct, "postgres-database", "wrong");
    }
    primary.psql(&format!("CREATE ROLE barred LOGIN PASSWORD '{password}'")).unwrap();
    finds(&direct.replace("app:", "barred:"), "", "postgres-denied", "wrong");
    let full = format!("CREATE ROLE crowd LOGIN PASSWORD '{password}' CONNECTION LIMIT 0");
    primary.psql(&full).unwrap();
    finds(&direct.replace("app:", "crowd:"), "", "postgres-full", "wrong");
    finds(&app(standby).url(DATABASE), "", "postgres-standby", "wrong");
    // Nobody listens there any more.
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let address = primary.socket().to_string();
    finds(&direct.replace(&address, &nobody), "", "postgres-unreachable", "wrong");
    let file = format!("{direct}?sslmode=verify-full&sslrootcert=/nowhere.pem");
    finds(&file, "", "postgres-options", "wrong");

    finds(&pooled, "", "migrate-pooled", "warning");
    finds(&pooled, &pooled, "migrate-pooled", "warning");
    let stranger = direct.replace(password.as_str(), "canary");
    finds(&pooled, &stranger, "migrate-unreachable", "warning");
    finds(&pooled, &app(standby).url(DATABASE), "migrate-elsewhere", "wrong");

    create(primary, "other", "");
    let other = app(primary).url("other");
    finds(&pooled, &other, "migrate-elsewhere", "wrong");
    finds(&other, "", "postgres-schema", "wrong");
    migrate(&node(&other, ""));
    sound(&other, "");
    let sql = |sql: &str| {
        primary.config().psql("other", sql).unwrap();
    };
    // No node works on this one, so nobody clears it away.
    sql("INSERT INTO idempotency (key_hash, scope, request_hash, choice, began_at, node, boot,
             lease_until)
         VALUES ('\\x00', 1, '\\x00', 'x', now() - interval '3 days', 1, 1, now())");
    finds(&other, "", "postgres-idempotency", "warning");
    sql("DELETE FROM idempotency");
    sql("CREATE TABLE kept AS SELECT * FROM shunt_migrations ORDER BY version DESC LIMIT 1");
    sql("DELETE FROM shunt_migrations WHERE version = (SELECT version FROM kept)");
    finds(&other, "", "postgres-schema", "wrong");
    sql("INSERT INTO shunt_migrations SELECT * FROM kept");
    sql("UPDATE shunt_migrations SET version = 999 WHERE version = (SELECT version FROM kept)");
    finds(&other, "", "postgres-schema-foreign", "wrong");
    sql("UPDATE shunt_migrations SET version = (SELECT version FROM kept) WHERE version = 999");
    sound(&other, "");
    sql("ALTER TABLE range_rests RENAME TO rests");
    finds(&other, "", "postgres-tables", "wrong");

    create(primary, "ascii", "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
    let ascii = app(primary).url("ascii");
    migrate(&node(&ascii, ""));
    finds(&ascii, "", "postgres-encoding", "wrong");

    a_pooler_that_hides(&deployment);
}

/// A pooler that does not know us as one who may look is judged by what it does.
fn a_pooler_that_hides(deployment: &Deployment) {
    let app = app(&deployment.primary);
    let direct = app.url(DATABASE);
    let session = [("pooler-session-mode", "warning")];
    for (mode, found) in [("transaction", NOTHING), ("session", &session)] {
        let pooler = PgBouncer::setup()
            // The first one's user may use the console.
            .database("others", deployment.primary.config())
            .database(DATABASE, &app)
            .setting("pool_mode", mode)
            .start()
            .unwrap();
        let store = pooler.url(DATABASE).replace("//postgres:", &format!("//{}:", app.user));
        finds(&deployment.with(&store, &direct), &[], found);
    }
}
