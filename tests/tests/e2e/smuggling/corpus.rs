//! The corpus: heads and bodies that two parsers might read differently.

/// What must come of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Refused with a 4xx, 501 or 505, and the connection closed.
    Refused,
    /// One request, and what follows it is the next one.
    One,
    /// Either of these: what the standard leaves open.
    Either,
}
use Verdict::{Either, One, Refused};

/// Bytes, and what must come of them.
pub(super) struct Vector {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
    pub(super) verdict: Verdict,
}

/// The request that must never be seen as one.
const HIDDEN: &str = "GET /canary HTTP/1.1\r\nHost: x\r\n\r\n";

/// All vectors for a path.
pub(super) fn corpus(path: &str) -> Vec<Vector> {
    let mut vectors = Vec::new();
    let mut add = |name: &str, verdict: Verdict, text: String| {
        vectors.push(Vector { name: name.to_owned(), bytes: text.into_bytes(), verdict });
    };
    let len = HIDDEN.len();
    let get = |headers: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    let post = |headers: &str, body: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n{body}")
    };
    let chunked = format!("0\r\n\r\n{HIDDEN}");

    // Two lengths.
    add(
        "CL and TE",
        Refused,
        post(&format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", 5 + len), &chunked),
    );
    add(
        "TE and CL",
        Refused,
        post(&format!("Transfer-Encoding: chunked\r\nContent-Length: {}\r\n", 5 + len), &chunked),
    );
    add(
        "CL and CL, different",
        Refused,
        post(&format!("Content-Length: 0\r\nContent-Length: {len}\r\n"), HIDDEN),
    );
    add("CL list, different", Refused, post(&format!("Content-Length: 0, {len}\r\n"), HIDDEN));
    add(
        "GET with CL and TE",
        Either,
        get(&format!("Content-Length: {len}\r\nTransfer-Encoding: chunked\r\n")) + &chunked,
    );
    // A length that is none.
    for value in
        ["+5", "-1", "0x5", "5 5", "5,", "", "٥", "1e1", "99999999999999999999999", "\u{b}5", "5;"]
    {
        add(
            &format!("CL {value:?}"),
            Refused,
            post(&format!("Content-Length: {value}\r\n"), HIDDEN),
        );
    }
    // A transfer coding that is not just `chunked`.
    for value in [
        "xchunked",
        "chunked, identity",
        "identity",
        "chunked chunked",
        "\"chunked\"",
        "chunked;x",
        "chunked, chunked",
        "gzip",
        "cow",
        "",
        ",chunked,x",
        "\u{b}chunked",
    ] {
        add(
            &format!("TE {value:?}"),
            Refused,
            post(&format!("Transfer-Encoding: {value}\r\n"), &chunked),
        );
    }
    for value in ["gzip, chunked", "CHUNKED", " chunked", "chunked\t", "\tchunked"] {
        add(
            &format!("TE {value:?}"),
            Either,
            post(&format!("Transfer-Encoding: {value}\r\n"), "0\r\n\r\n"),
        );
    }
    add(
        "two TE",
        Refused,
        post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", &chunked),
    );
    add(
        "two TE, hidden first",
        Refused,
        post("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", &chunked),
    );
    add(
        "TE in HTTP/1.0",
        Refused,
        format!("POST {path} HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}"),
    );
    // Names that are not quite names.
    for name in [
        "Transfer-Encoding ",
        "Transfer-Encoding\t",
        " Transfer-Encoding",
        "Transfer\u{0}Encoding",
        "Transfer Encoding",
        "Content-Length ",
        "Content\rLength",
        "Content-Length\u{b}",
        "",
        "Transfer-Encöding",
        "Content-Length(",
        "[x]",
    ] {
        add(&format!("name {name:?}"), Refused, post(&format!("{name}: chunked\r\n"), HIDDEN));
    }
    add("no colon", Refused, get("Content-Length\r\n"));
    add("obs-fold", Either, get("X: a\r\n b\r\n"));
    add("obs-fold on TE", Refused, post("Transfer-Encoding:\r\n chunked\r\n", &chunked));
    add("obs-fold, first line", Refused, format!("GET {path} HTTP/1.1\r\n Host: x\r\n\r\n"));
    // Values with control characters: those that end lines elsewhere, and others.
    for (name, value, verdict) in [
        ("NUL", "a\0b", Refused),
        ("CR", "a\rb", Refused),
        ("DEL", "a\u{7f}b", Either),
        ("BEL", "a\u{7}b", Either),
    ] {
        add(&format!("{name} in a value"), verdict, get(&format!("X: {value}\r\n")));
    }
    // Line ends.
    add("bare LF everywhere", Either, format!("GET {path} HTTP/1.1\nHost: x\n\n"));
    add("bare LF in the head", Either, format!("GET {path} HTTP/1.1\r\nHost: x\nX: y\r\n\r\n"));
    add("bare LF at the end", Either, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\n"));
    add("bare CR as line end", Refused, format!("GET {path} HTTP/1.1\rHost: x\r\r"));
    add("CR CR LF", Refused, format!("GET {path} HTTP/1.1\r\r\nHost: x\r\n\r\n"));
    // Before the first line.
    add("one empty line first", Either, format!("\r\n{}", get("")));
    add("blank first", Refused, format!(" {}", get("")));
    add("NUL first", Refused, format!("\0{}", get("")));
    // The request line.
    for (name, line) in [
        ("no version", format!("GET {path}")),
        ("two blanks", format!("GET  {path} HTTP/1.1")),
        ("tab for a blank", format!("GET\t{path}\tHTTP/1.1")),
        ("blank in the target", format!("GET {path} x HTTP/1.1")),
        ("NUL in the target", format!("GET {path}\0 HTTP/1.1")),
        ("DEL in the target", format!("GET {path}\u{7f} HTTP/1.1")),
        ("no target", "GET  HTTP/1.1".to_owned()),
        ("relative target", "GET hot HTTP/1.1".to_owned()),
        ("HTTP/1.2", format!("GET {path} HTTP/1.2")),
        ("HTTP/0.9", format!("GET {path} HTTP/0.9")),
        ("HTTP/2.0", format!("GET {path} HTTP/2.0")),
        ("HTTP/1.10", format!("GET {path} HTTP/1.10")),
        ("http/1.1", format!("GET {path} http/1.1")),
        ("HTTP/1.1 and more", format!("GET {path} HTTP/1.1 x")),
        ("method with a bracket", format!("G(T {path} HTTP/1.1")),
        ("no method", format!(" {path} HTTP/1.1")),
        ("CONNECT", "CONNECT x:80 HTTP/1.1".to_owned()),
        ("authority of another scheme", "GET ftp://x/hot HTTP/1.1".to_owned()),
    ] {
        // What the standard lets a server be lenient about, as long as it is one request.
        let lenient = [
            "two blanks",
            "tab for a blank",
            "HTTP/1.2",
            "authority of another scheme",
            "relative target",
        ];
        let verdict = if lenient.contains(&name) { Either } else { Refused };
        add(name, verdict, format!("{line}\r\nHost: x\r\n\r\n"));
    }
    // Which host?
    add("no Host", Refused, format!("GET {path} HTTP/1.1\r\n\r\n"));
    add("two Hosts", Refused, format!("GET {path} HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n"));
    add("Host with a path", Refused, format!("GET {path} HTTP/1.1\r\nHost: x/y\r\n\r\n"));
    add("Host with userinfo", Refused, format!("GET {path} HTTP/1.1\r\nHost: a@x\r\n\r\n"));
    add("Host with a blank", Refused, format!("GET {path} HTTP/1.1\r\nHost: x y\r\n\r\n"));
    add("absolute form", Either, format!("GET http://x{path} HTTP/1.1\r\nHost: x\r\n\r\n"));
    add(
        "absolute form, other Host",
        Either,
        format!("GET http://y{path} HTTP/1.1\r\nHost: x\r\n\r\n"),
    );
    // Chunks.
    let chunk = |body: &str| post("Transfer-Encoding: chunked\r\n", body);
    for (name, body) in [
        ("chunk size with a sign", "+0\r\n\r\n"),
        ("chunk size with 0x", "0x0\r\n\r\n"),
        ("empty chunk size", "\r\n\r\n"),
        ("chunk size, letters", "g\r\n\r\n"),
        ("chunk size, blank first", " 0\r\n\r\n"),
        ("chunk size, overflow", "10000000000000000\r\nx\r\n0\r\n\r\n"),
        ("chunk size, negative", "-1\r\n\r\n"),
        ("chunk longer than said", "1\r\nxx\r\n0\r\n\r\n"),
        ("bare LF after a chunk size", "1\nx\r\n0\r\n\r\n"),
        ("bare CR in an extension", "1;a\rb\r\nx\r\n0\r\n\r\n"),
        ("bare LF in an extension", "1;a\nb\r\nx\r\n0\r\n\r\n"),
    ] {
        add(name, Refused, chunk(&format!("{body}{HIDDEN}")));
    }
    for (name, body) in [
        ("chunk size, blank behind", "0 \r\n\r\n"),
        ("chunk extension", "1;a=b\r\nx\r\n0\r\n\r\n"),
        ("NUL in an extension", "1;\0\r\nx\r\n0\r\n\r\n"),
        ("chunk size, many zeros", "0000000000\r\n\r\n"),
        ("trailer", "0\r\nX: y\r\n\r\n"),
        ("trailer that is a length", "0\r\nContent-Length: 5\r\n\r\n"),
    ] {
        add(name, Either, chunk(body));
    }
    // Honest requests that a careless parser would split.
    add("GET with a body", Either, get(&format!("Content-Length: {len}\r\n")) + HIDDEN);
    add(
        "GET with a chunked body",
        Either,
        get("Transfer-Encoding: chunked\r\n") + &format!("{len:x}\r\n{HIDDEN}\r\n0\r\n\r\n"),
    );
    add(
        "HEAD with a body",
        Either,
        format!("HEAD {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n\r\n{HIDDEN}"),
    );
    add(
        "DELETE with a body",
        Either,
        format!("DELETE {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n\r\n{HIDDEN}"),
    );
    add(
        "the same CL twice",
        Either,
        post(&format!("Content-Length: {len}\r\nContent-Length: {len}\r\n"), HIDDEN),
    );
    add(
        "Upgrade: h2c",
        Either,
        get(
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        ),
    );
    add("Upgrade: websocket", Either, get("Connection: Upgrade\r\nUpgrade: websocket\r\n"));
    add("Content_Length", Either, get("Content_Length: 5\r\nTransfer_Encoding: chunked\r\n"));
    add(
        "Connection names a length",
        Either,
        post(&format!("Connection: Content-Length\r\nContent-Length: {len}\r\n"), HIDDEN),
    );
    add(
        "Expect",
        Either,
        post(&format!("Expect: 100-continue\r\nContent-Length: {len}\r\n"), HIDDEN),
    );
    add("Expect something else", Either, get("Expect: 200-ok\r\n"));
    add("plain GET", One, get(""));
    add(
        "plain GET, odd case",
        One,
        format!("GET {path} HTTP/1.1\r\nhOsT:x\r\nX:  \t y \t\r\n\r\n"),
    );
    vectors
}
