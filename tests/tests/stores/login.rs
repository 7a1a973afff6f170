//! How a store gets into a server: passwords of every kind, TLS.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use shunt_cluster::Postgres;
use shunt_store::postgres::{
    PostgresError, PostgresOptions, PostgresStore, Secret, TlsMode, migrate,
};

use crate::kit::options;

fn check(options: &PostgresOptions) -> Result<(), PostgresError> {
    PostgresStore::open(options.clone())?.check()
}

/// SCRAM is what the kit's servers ask for anyway.
#[test]
fn md5_passwords_work_too() {
    let server = Postgres::setup().fast().rule("host all old 127.0.0.1/32 md5").start().unwrap();
    server
        .psql("SET password_encryption = 'md5'; CREATE ROLE old SUPERUSER LOGIN PASSWORD 'secret'")
        .unwrap();
    let password = |text: &str| Some(Secret::new(text));
    let mut options = options(server.config(), "postgres");
    options.user = "old".to_owned();
    options.password = password("secret");
    migrate(&options).unwrap();
    check(&options).unwrap();
    options.password = password("canary");
    let denied = check(&options).unwrap_err();
    assert!(matches!(denied, PostgresError::Denied { .. }), "{denied}");
    assert!(!denied.to_string().contains("canary"));
}

/// A certificate authority and what it signed for a name: PEM of the authority, the certificate,
/// the certificate's key.
fn certificate(name: &str) -> (String, String, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let signed = params.signed_by(&key, &issuer).unwrap().pem();
    (authority, signed, key.serialize_pem())
}

#[test]
fn tls_is_verified_against_the_named_authorities_and_the_name() {
    let (authority, certificate_text, key) = certificate("127.0.0.1");
    let server = Postgres::setup()
        .fast()
        .file("server.crt", certificate_text)
        .file("server.key", key)
        .setting("ssl", "on")
        .rule("hostnossl all plain 127.0.0.1/32 reject")
        .start()
        .unwrap();
    let config = server.config();
    server
        .psql(&format!("CREATE ROLE plain SUPERUSER LOGIN PASSWORD '{}'", config.password))
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let mut options = options(config, "postgres");
    options.user = "plain".to_owned();
    let denied = check(&options).unwrap_err();
    assert!(matches!(denied, PostgresError::Denied { .. }), "without TLS: {denied}");

    options.tls = TlsMode::Verified { authorities: write("ca.pem", &authority) };
    migrate(&options).unwrap();
    check(&options).unwrap();
    let sql = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
               WHERE usename = 'plain' AND NOT ssl";
    assert_eq!(server.psql(sql).unwrap(), "0");

    // The certificate is for another name.
    let named =
        PostgresOptions { hosts: vec![("localhost".to_owned(), config.port)], ..options.clone() };
    let other = check(&named).unwrap_err();
    assert!(matches!(other, PostgresError::Unreachable { .. }), "{other}");
    // Somebody else signed it.
    let (stranger, _, _) = certificate("127.0.0.1");
    options.tls = TlsMode::Verified { authorities: write("stranger.pem", &stranger) };
    let stranger = check(&options).unwrap_err();
    assert!(matches!(stranger, PostgresError::Unreachable { .. }), "{stranger}");
    for (name, text) in [("empty.pem", ""), ("noise.pem", "-----BEGIN CERTIFICATE-----\nx\n")] {
        options.tls = TlsMode::Verified { authorities: write(name, text) };
        let wrong = check(&options).unwrap_err();
        assert!(matches!(wrong, PostgresError::Options(_)), "{wrong}");
    }
}
