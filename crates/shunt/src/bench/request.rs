//! The bytes of requests: a fixed frame around the key, written straight into the send buffer.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};

use super::Args;
use super::keys::{Keys, write_number};

/// Builds requests for one run.
#[derive(Debug)]
pub(super) struct Requests {
    /// `GET /prefix` or `HEAD /prefix`, without the slash of the path.
    read_start: Vec<u8>,
    /// ` HTTP/1.1`, `Host` and the caller's headers, with the empty line.
    read_end: Vec<u8>,
    /// The head of a create up to the value of its idempotency key or content length.
    create_head: Vec<u8>,
    target_prefix: String,
    /// Makes the targets and idempotency keys of this run differ from those of any other.
    run: String,
    idempotency: bool,
}

impl Requests {
    pub(super) fn new(args: &Args, uri: &http::Uri) -> anyhow::Result<Self> {
        let prefix = uri.path().trim_end_matches('/');
        let authority = uri.authority().map_or("localhost", http::uri::Authority::as_str);
        let mut headers = String::new();
        let mut own_host = false;
        for header in &args.header {
            let (name, value) = header
                .split_once(':')
                .with_context(|| format!("--header {header}: write Name: value"))?;
            http::HeaderName::from_bytes(name.as_bytes())
                .with_context(|| format!("--header {header}: the name is not allowed"))?;
            http::HeaderValue::from_str(value.trim())
                .with_context(|| format!("--header {header}: the value is not allowed"))?;
            own_host |= name.eq_ignore_ascii_case("host");
            headers.push_str(&format!("{name}: {}\r\n", value.trim()));
        }
        if !own_host {
            headers.insert_str(0, &format!("Host: {authority}\r\n"));
        }
        let key = match (&args.api_key, &args.api_key_file) {
            (Some(key), _) => Some(key.clone()),
            (None, Some(path)) => Some(
                std::fs::read_to_string(path)
                    .with_context(|| format!("--api-key-file {}", path.display()))?,
            ),
            (None, None) => None,
        };
        let authorization = match key.as_deref().map(str::trim) {
            Some(key) => {
                ensure!(
                    !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic()),
                    "the API key holds characters no key has; check --api-key"
                );
                format!("Authorization: Bearer {key}\r\n")
            }
            None => String::new(),
        };
        // JSON would need escapes for these, and no target may hold them.
        ensure!(
            args.target_prefix.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\')),
            "--target-prefix {}: it must be a plain ASCII URL",
            args.target_prefix
        );
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let run = format!("{:x}-{:x}", now.as_micros(), std::process::id());
        let method = if args.head { "HEAD" } else { "GET" };
        Ok(Self {
            read_start: format!("{method} {prefix}").into_bytes(),
            read_end: format!(" HTTP/1.1\r\n{headers}\r\n").into_bytes(),
            create_head: format!(
                "POST {prefix}/api/v1/links HTTP/1.1\r\n{headers}{authorization}\
                 Content-Type: application/json\r\n"
            )
            .into_bytes(),
            target_prefix: args.target_prefix.clone(),
            run,
            idempotency: !args.no_idempotency_key,
        })
    }

    /// Appends the read of one key.
    pub(super) fn read(&self, keys: &Keys, index: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.read_start);
        keys.write_path(index, out);
        out.extend_from_slice(&self.read_end);
    }

    /// Appends the create number `sequence` of the run.
    pub(super) fn create(&self, sequence: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.create_head);
        if self.idempotency {
            out.extend_from_slice(b"Idempotency-Key: ");
            self.idempotency_key(sequence, out);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"Content-Length: ");
        let target_len = self.target_len(sequence);
        write_number(BODY_START.len() as u64 + target_len + BODY_END.len() as u64, 0, out);
        out.extend_from_slice(b"\r\n\r\n");
        out.extend_from_slice(BODY_START);
        self.target(sequence, out);
        out.extend_from_slice(BODY_END);
    }

    /// Appends the target of the create number `sequence`.
    pub(super) fn target(&self, sequence: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(self.target_prefix.as_bytes());
        out.extend_from_slice(self.run.as_bytes());
        out.push(b'/');
        write_number(sequence, 0, out);
    }

    /// Appends the idempotency key of the create number `sequence`: 22 characters or more, as
    /// anonymous clients need.
    pub(super) fn idempotency_key(&self, sequence: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"bench-");
        out.extend_from_slice(self.run.as_bytes());
        out.push(b'-');
        write_number(sequence, 10, out);
    }

    fn target_len(&self, sequence: u64) -> u64 {
        let digits = sequence.checked_ilog10().unwrap_or(0) as usize + 1;
        (self.target_prefix.len() + self.run.len() + 1 + digits) as u64
    }
}

const BODY_START: &[u8] = b"{\"target\":\"";
const BODY_END: &[u8] = b"\"}";
