//! Who a client is: believed only from proxies that are trusted.

use serde_json::json;
use shunt_cluster::{Request, Response, Shunt};

use crate::kit;

fn wish() -> Request {
    Request::post_json("/api/v1/links", &json!({"target": "https://example.com/"}))
}

/// The header of PROXY protocol version 2 for a TCP connection over IPv4.
fn proxy_v2(source: [u8; 4]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    bytes.extend_from_slice(&source);
    bytes.extend_from_slice(&[127, 0, 0, 1, 0x30, 0x39, 0x1f, 0x90]);
    bytes
}

/// Sends a create behind raw bytes.
fn behind(shunt: &Shunt, first: &[u8]) -> Result<Response, anyhow::Error> {
    let mut connection = shunt.connect()?;
    let mut bytes = first.to_vec();
    bytes.extend_from_slice(&wish().to_bytes("127.0.0.1"));
    connection.send_raw(&bytes)?;
    connection.read(false)
}

#[test]
fn proxy_protocol_says_who_the_client_is_and_nobody_else_may() {
    let config = "[proxy_protocol]\nlisten = true\n[proxies]\ntrusted = [\"127.0.0.1\"]\n";
    let mut shunt = Shunt::new().unwrap().config(config).unwrap();
    // The health check of the value itself would need the header: ready is when it says so.
    let spec = shunt.serve_spec().unwrap();
    let mut process = spec.spawn(shunt.files()).unwrap();
    process
        .wait_ready(kit::SOON, |_| behind(&shunt, &proxy_v2([127, 0, 0, 1])).ok().map(|_| ()))
        .unwrap();

    // Somebody on this machine may create without a key, somebody elsewhere may not.
    assert_eq!(behind(&shunt, &proxy_v2([127, 0, 0, 1])).unwrap().status, 201);
    assert_eq!(behind(&shunt, &proxy_v2([203, 0, 113, 9])).unwrap().status, 401);
    // The proxy's own health check (LOCAL).
    let mut local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec();
    assert!(behind(&shunt, &local).is_ok());
    // Without the header, with version 1, cut short, with a wrong length: closed without a word.
    local.truncate(14);
    let mut long = proxy_v2([127, 0, 0, 1]);
    long[14] = 0xff;
    long[15] = 0xff;
    let mut version = proxy_v2([127, 0, 0, 1]);
    version[12] = 0x31;
    for (name, first) in [
        ("nothing", Vec::new()),
        ("version 1", b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n".to_vec()),
        ("a wrong length", long),
        ("version 3", version),
    ] {
        let answer = behind(&shunt, &first);
        assert!(answer.is_err(), "{name}: {answer:?}");
    }
    assert_eq!(behind(&shunt, &proxy_v2([127, 0, 0, 1])).unwrap().status, 201);
    process.kill();
    let _ = shunt.process();
}

/// Forwarding headers of strangers change nothing; those of a trusted proxy are believed.
#[test]
fn forwarding_headers_are_believed_of_trusted_proxies_only() {
    // The cap per address tells whom the server takes a client for: the proxy is exempt, a
    // visitor behind it is not.
    let config =
        "[proxies]\ntrusted = [\"127.0.0.1\"]\n[limits]\nmax_connections_per_address = 8\n";
    let mut trusted = Shunt::new().unwrap().config(config).unwrap();
    trusted.start().unwrap();
    let held: Vec<_> = (0..40)
        .map(|_| {
            let mut connection = trusted.connect().unwrap();
            assert_eq!(connection.ask(&Request::get("/health")).unwrap().status, 200);
            connection
        })
        .collect();
    drop(held);

    let config = "[limits]\nmax_connections_per_address = 8\n";
    let mut strict = Shunt::new().unwrap().config(config).unwrap();
    strict.start().unwrap();
    let mut refused = 0;
    let held: Vec<_> = (0..40)
        .filter_map(|i| {
            let mut connection = strict.connect().ok()?;
            let forged = Request::get("/health").header("X-Forwarded-For", format!("10.9.8.{i}"));
            match connection.ask(&forged) {
                Ok(answer) if answer.status == 200 => Some(connection),
                _ => {
                    refused += 1;
                    None
                }
            }
        })
        .collect();
    assert!(held.len() <= 8, "{} connections with forged addresses", held.len());
    assert!(refused >= 32);
    drop(held);
    // A forwarding header never makes a stranger local, trusted proxy or not.
    for (name, value) in [("X-Forwarded-For", "127.0.0.1"), ("Forwarded", "for=127.0.0.1")] {
        let answer = trusted.ask(&wish().header(name, value)).unwrap();
        assert_eq!(answer.status, 401, "{name}: {answer:?}");
    }
}
