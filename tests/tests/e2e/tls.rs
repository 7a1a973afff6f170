//! TLS, HTTP/2 and certificates that change under a running server.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use shunt_cluster::ports::Port;
use shunt_cluster::{Shunt, Spec, until};

use crate::kit::{self, SOON};

/// A certificate authority for one test.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "an authority for one test");
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Writes a certificate for `name` and its key over those in `directory`, each in one step, as
    /// renewing programs do.
    pub(crate) fn renew(&self, directory: &Path, name: &str) {
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        for (file, text) in [("key.pem", key.serialize_pem()), ("cert.pem", certificate.pem())] {
            let fresh = directory.join(format!("{file}.new"));
            fs::write(&fresh, text).unwrap();
            fs::rename(&fresh, directory.join(file)).unwrap();
        }
    }
}

struct Served {
    shunt: Shunt,
    authority: Authority,
    tls: Port,
}

fn served(name: &str) -> Served {
    let authority = Authority::new();
    let tls = Port::lease().unwrap();
    let shunt = Shunt::new().unwrap();
    authority.renew(shunt.files(), name);
    fs::write(shunt.files().join("ca.pem"), &authority.pem).unwrap();
    let config = format!(
        "[tls]\nlisten = \"{}\"\ncert = {:?}\nkey = {:?}\n",
        tls.address(),
        shunt.files().join("cert.pem"),
        shunt.files().join("key.pem"),
    );
    let mut shunt = shunt.config(&config).unwrap();
    shunt.start().unwrap();
    kit::link(&shunt, "safe", "https://example.com/safe");
    Served { shunt, authority, tls }
}

impl Served {
    /// `version status location` of a request made by curl, or curl's complaint.
    fn curl(&self, name: &str, path: &str, more: &[&str]) -> Result<String, String> {
        let port = self.tls.number();
        let spec = Spec::new("curl", "curl")
            .args(["-sS", "--max-time", "10", "-o", "/dev/null", "--cacert"])
            .arg(self.shunt.files().join("ca.pem"))
            .args(["--resolve", &format!("{name}:{port}:127.0.0.1")])
            .args(["-w", "%{http_version} %{http_code} %{redirect_url}"])
            .args(more)
            .arg(format!("https://{name}:{port}{path}"));
        let finished = spec.run(self.shunt.files(), SOON).unwrap();
        let (out, err) = (finished.stdout.clone(), finished.stderr.clone());
        if finished.code() == 0 { Ok(out) } else { Err(err) }
    }
}

#[test]
fn both_versions_of_http_are_served_over_tls() {
    let served = served("go.example");
    for _ in 0..2 {
        let two = served.curl("go.example", "/safe", &["--http2"]).unwrap();
        assert_eq!(two, "2 302 https://example.com/safe");
        let one = served.curl("go.example", "/safe", &["--http1.1"]).unwrap();
        assert_eq!(one, "1.1 302 https://example.com/safe");
    }
    assert!(served.curl("go.example", "/nothing", &["--http2"]).unwrap().starts_with("2 404"));
    // Neither old versions of TLS nor plain text.
    assert!(served.curl("go.example", "/safe", &["--tls-max", "1.1"]).is_err());
    let mut plain = shunt_cluster::Connection::open(&served.tls.address().into()).unwrap();
    plain.send_raw(b"GET /safe HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    plain.read_timeout(Duration::from_secs(10)).unwrap();
    let (said, closed) = plain.drain(1 << 16);
    assert!(closed && !String::from_utf8_lossy(&said).contains("302"));
}

#[test]
fn a_new_certificate_is_used_without_a_restart_and_a_broken_one_is_not() {
    let mut served = served("old.example");
    assert!(served.curl("old.example", "/safe", &[]).is_ok());
    assert!(served.curl("new.example", "/safe", &[]).is_err());

    served.authority.renew(served.shunt.files(), "new.example");
    until(Duration::from_secs(60), "the new certificate", || {
        served.curl("new.example", "/safe", &[]).ok()
    })
    .unwrap();

    // Half a file, as a careless copy leaves for a moment; and a key that does not fit.
    let cert = served.shunt.files().join("cert.pem");
    let good = fs::read_to_string(&cert).unwrap();
    fs::write(&cert, &good[..good.len() / 2]).unwrap();
    until(SOON, "the complaint about the broken certificate", || {
        served.shunt.said().to_lowercase().contains("cert").then_some(())
    })
    .unwrap();
    assert!(served.curl("new.example", "/safe", &[]).is_ok(), "the last good one stays");
    assert!(served.shunt.process().unwrap().running());
}

#[test]
fn a_certificate_that_cannot_be_used_stops_the_start() {
    let shunt = Shunt::new().unwrap();
    let port = Port::lease().unwrap();
    let config = format!(
        "[tls]\nlisten = \"{}\"\ncert = \"/nonexistent.pem\"\nkey = \"/nonexistent.key\"\n",
        port.address()
    );
    let shunt = shunt.config(&config).unwrap();
    let finished = shunt.serve_spec().unwrap().run(shunt.files(), SOON).unwrap();
    assert_ne!(finished.code(), 0);
    assert!(finished.stderr.contains("/nonexistent.pem"), "{finished:?}");
}
