//! The least of an HTTP/1.1 response parser a load generator needs: status, length, `Location`.
//!
//! It reads from a byte slice and owns nothing. Header values are compared, not checked: what a
//! server may send is judged elsewhere; a response whose end can't be told is [`Malformed`].

/// A whole response; the slices point into the input.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Response<'a> {
    pub(super) status: u16,
    pub(super) location: Option<&'a [u8]>,
    pub(super) body: &'a [u8],
    /// The server will close the connection after this response.
    pub(super) close: bool,
    /// Bytes of the input this response took.
    pub(super) used: usize,
}

/// The bytes are no HTTP/1.x response.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Parses one response from the start of `input`; `None` when more bytes are needed.
///
/// `head` says that the request was a `HEAD`, whose answer has no body whatever its headers say.
/// `ended` says that the peer has closed, which is where a body without a length ends. Interim
/// responses (1xx) are skipped. A chunked body is left chunked in `body`.
pub(super) fn parse(
    input: &[u8],
    head: bool,
    ended: bool,
) -> Result<Option<Response<'_>>, Malformed> {
    let mut start = 0;
    loop {
        let rest = input.get(start..).unwrap_or_default();
        let Some(parsed) = parse_one(rest, head, ended)? else {
            return Ok(None);
        };
        if (100..200).contains(&parsed.status) && parsed.status != 101 {
            start += parsed.used;
            continue;
        }
        return Ok(Some(Response { used: start + parsed.used, ..parsed }));
    }
}

fn parse_one(input: &[u8], head: bool, ended: bool) -> Result<Option<Response<'_>>, Malformed> {
    let Some((line, mut at)) = line(input, 0) else {
        return if input.len() > MAX_LINE { Err(Malformed) } else { Ok(None) };
    };
    let (status, minor) = status_line(line)?;
    let mut location = None;
    let mut length: Option<usize> = None;
    let mut chunked = false;
    let mut close = minor == 0;
    loop {
        let Some((header, next)) = self::line(input, at) else {
            return if input.len() - at > MAX_LINE { Err(Malformed) } else { Ok(None) };
        };
        at = next;
        if header.is_empty() {
            break;
        }
        // The first letter sorts out nearly every header that is of no interest.
        match header.first().map(u8::to_ascii_lowercase) {
            Some(b'l') => {
                if let Some(value) = value(header, b"location") {
                    location = Some(value);
                }
            }
            Some(b'c') => {
                if let Some(value) = value(header, b"content-length") {
                    length = Some(decimal(value)?);
                } else if let Some(value) = value(header, b"connection") {
                    close = value.eq_ignore_ascii_case(b"close")
                        || (close && !value.eq_ignore_ascii_case(b"keep-alive"));
                }
            }
            Some(b't') => {
                if let Some(value) = value(header, b"transfer-encoding") {
                    chunked = value.to_ascii_lowercase().ends_with(b"chunked");
                }
            }
            _ => {}
        }
    }
    let body = input.get(at..).unwrap_or_default();
    let taken = if head || status < 200 || status == 204 || status == 304 {
        Some(0)
    } else if chunked {
        chunks(body)?
    } else if let Some(length) = length {
        (body.len() >= length).then_some(length)
    } else {
        close = true;
        ended.then_some(body.len())
    };
    Ok(taken.map(|taken| Response {
        status,
        location,
        body: body.get(..taken).unwrap_or_default(),
        close,
        used: at + taken,
    }))
}

/// Longest line of a head, in bytes.
const MAX_LINE: usize = 64 * 1024;

/// The line that begins at `at`, without its end, and where the next begins.
fn line(input: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let rest = input.get(at..)?;
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let line = rest.get(..end)?;
    Some((line.strip_suffix(b"\r").unwrap_or(line), at + end + 1))
}

/// Status and minor version of `HTTP/1.x NNN …`.
fn status_line(line: &[u8]) -> Result<(u16, u8), Malformed> {
    let rest = line.strip_prefix(b"HTTP/1.").ok_or(Malformed)?;
    match rest {
        [minor @ (b'0' | b'1'), b' ', a, b, c, tail @ ..]
            if tail.first().is_none_or(|byte| *byte == b' ') =>
        {
            let status = decimal(&[*a, *b, *c])?;
            let status = u16::try_from(status).map_err(|_| Malformed)?;
            if status < 100 {
                return Err(Malformed);
            }
            Ok((status, minor - b'0'))
        }
        _ => Err(Malformed),
    }
}

/// The trimmed value of `header` if its name is `name` (lower case).
fn value<'a>(header: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (found, rest) = header.split_at_checked(name.len())?;
    let value = rest.strip_prefix(b":")?;
    found.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

fn decimal(digits: &[u8]) -> Result<usize, Malformed> {
    if digits.is_empty() || digits.len() > 15 {
        return Err(Malformed);
    }
    digits.iter().try_fold(0_usize, |sum, digit| match digit {
        b'0'..=b'9' => Ok(sum * 10 + usize::from(digit - b'0')),
        _ => Err(Malformed),
    })
}

/// Length of a whole chunked body with its trailers, `None` while it goes on.
fn chunks(body: &[u8]) -> Result<Option<usize>, Malformed> {
    let mut at = 0;
    loop {
        let Some((size, next)) = line(body, at) else {
            return Ok(None);
        };
        let digits = size.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let digits = std::str::from_utf8(digits).map_err(|_| Malformed)?;
        let size = usize::from_str_radix(digits, 16).map_err(|_| Malformed)?;
        if size > MAX_CHUNK {
            return Err(Malformed);
        }
        at = next;
        if size > 0 {
            at += size;
            match body.get(at..at + 2) {
                Some(b"\r\n") => at += 2,
                Some(_) => return Err(Malformed),
                None => return Ok(None),
            }
            continue;
        }
        // Trailers, up to an empty line.
        loop {
            let Some((trailer, next)) = line(body, at) else {
                return Ok(None);
            };
            at = next;
            if trailer.is_empty() {
                return Ok(Some(at));
            }
        }
    }
}

/// Largest chunk, in bytes; larger than any answer the connection would keep.
const MAX_CHUNK: usize = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REDIRECT: &[u8] = b"HTTP/1.1 302 Found\r\nLocation: https://a.example/x,y\r\n\
        Cache-Control: private, max-age=0\r\nContent-Length: 0\r\n\r\n";

    #[test]
    fn a_redirect_gives_status_location_and_length() {
        let response = parse(REDIRECT, false, false).unwrap().unwrap();
        assert_eq!(response.status, 302);
        assert_eq!(response.location, Some(&b"https://a.example/x,y"[..]));
        assert_eq!((response.used, response.close), (REDIRECT.len(), false));
    }

    #[test]
    fn every_prefix_is_partial_and_what_follows_is_left_alone() {
        for end in 0..REDIRECT.len() {
            assert_eq!(parse(&REDIRECT[..end], false, false), Ok(None), "{end}");
        }
        let two = [REDIRECT, REDIRECT].concat();
        assert_eq!(parse(&two, false, false).unwrap().unwrap().used, REDIRECT.len());
    }

    #[test]
    fn bodies_end_where_their_headers_say() {
        type Case = (&'static [u8], bool, bool, usize, &'static [u8]);
        let cases: [Case; 6] = [
            (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcde", false, false, 41, b"abc"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n", true, false, 38, b""),
            (b"HTTP/1.1 204 No Content\r\n\r\nHTTP", false, false, 27, b""),
            (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", false, false, 48, b""),
            (b"HTTP/1.1 200 OK\r\n\r\nall", false, true, 22, b"all"),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=1\r\nabc\r\n0\r\nT: 1\r\n\r\nX",
                false,
                false,
                70,
                b"3;x=1\r\nabc\r\n0\r\nT: 1\r\n\r\n",
            ),
        ];
        for (input, head, ended, used, body) in cases {
            let response = parse(input, head, ended).unwrap().unwrap();
            assert_eq!((response.used, response.body), (used, body), "{response:?}");
        }
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\n\r\nall", false, false), Ok(None));
    }

    #[test]
    fn the_end_of_the_connection_is_announced() {
        for (head, close) in [
            ("HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", true),
            (
                "HTTP/1.1 404 Not Found\r\nconnection: Keep-Alive\r\ncontent-length: 0\r\n\r\n",
                false,
            ),
            ("HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\n\r\n", true),
            (
                "HTTP/1.0 404 Not Found\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
                false,
            ),
        ] {
            assert_eq!(
                parse(head.as_bytes(), false, false).unwrap().unwrap().close,
                close,
                "{head}"
            );
        }
    }

    #[test]
    fn interim_responses_are_skipped() {
        let input = [b"HTTP/1.1 100 Continue\r\n\r\n", REDIRECT].concat();
        let response = parse(&input, false, false).unwrap().unwrap();
        assert_eq!((response.status, response.used), (302, input.len()));
    }

    #[test]
    fn what_is_no_response_is_malformed() {
        for input in [
            "GET / HTTP/1.1\r\n\r\n",
            "HTTP/2 200\r\n\r\n",
            "HTTP/1.1 2000 x\r\n\r\n",
            "HTTP/1.1 099 x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 9999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc",
        ] {
            assert_eq!(parse(input.as_bytes(), false, false), Err(Malformed), "{input:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(input: Vec<u8>, head: bool, ended: bool) {
            let _ = parse(&input, head, ended);
        }

        #[test]
        fn a_response_never_takes_more_than_there_is(
            tail in proptest::collection::vec(any::<u8>(), 0..80),
            length in 0_usize..100,
        ) {
            let mut input = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").into_bytes();
            let start = input.len();
            input.extend_from_slice(&tail);
            match parse(&input, false, false).unwrap() {
                Some(response) => prop_assert_eq!(response.used, start + length),
                None => prop_assert!(tail.len() < length),
            }
        }
    }
}
