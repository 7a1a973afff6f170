//! The fast loop: answers plain `GET`s and `HEAD`s of links, and hands everything else to hyper.
//!
//! "Plain" is strict on purpose, because a second parser is a second thing to attack (ADR 0002):
//! HTTP/1.1, one `Host`, a path of one segment of code bytes, no body, nothing that touches framing
//! or the connection. Any doubt, parse errors included, makes the connection hyper's, with all
//! bytes from the first one of that request, for the rest of its life.
//!
//! Per connection there is no buffer while it is idle: bytes are read into the core's scratch
//! space, and only the rest of a cut request or of an unfinished write is kept.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use http_body_util::BodyExt;
use httparse::{Header, Request, Status};
use shunt_domain::click::ClickKind;
use shunt_domain::code::is_code_byte;
use shunt_domain::reserved::is_reserved;
use shunt_domain::{Code, DomainId, LinkKey, RedirectStatus};
use shunt_engine::l1::Kind;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::core::Core;
use super::facts::{Facts, visitor};
use super::guard::{Guarded, Prefixed};
use super::misses::Visitor;
use super::redirect::{Verdict, location, look_up};
use super::service::is_host;
use crate::metrics::Answer;

/// A browser sends about 15 headers; a request with more than this is hyper's.
const MAX_HEADERS: usize = 48;

/// A plain look-up, borrowed from the bytes read.
struct Ask<'b> {
    head: bool,
    code: &'b str,
    query: Option<&'b str>,
    facts: Facts<'b>,
    domain: DomainId,
    /// L1's hash of domain and code.
    hash: u64,
    address: IpAddr,
}

/// What the next request in a buffer is.
enum Parsed<'b> {
    /// Not all there yet.
    Partial,
    /// Not for this loop.
    Other,
    /// A look-up whose bytes are this many.
    Plain(Ask<'b>, usize),
}

/// Why the loop left its poll.
enum Step {
    /// The peer is gone, late, or was told to go.
    Done,
    /// The connection is hyper's, beginning with these bytes.
    HandOver(Vec<u8>),
    /// A look-up that L1 can't answer; all bytes of its request.
    Look(Vec<u8>),
    /// Between two requests, and the process that follows wants the connection.
    PassOn,
}

/// One connection in the fast loop.
pub struct Fast<IO> {
    io: Guarded<IO>,
    core: Rc<Core>,
    peer: IpAddr,
    /// The beginning of a request whose end has not come, or requests not looked at yet.
    kept: Vec<u8>,
    /// Whether `kept` should be looked at before anything is read.
    fresh: bool,
    /// Answers not yet written.
    pending: Vec<u8>,
    written: usize,
    /// Whether the connection can go to another process.
    movable: bool,
    /// Whether the last answer said that the connection closes. The flag behind it may turn at any
    /// moment, so it is asked once per answer: a connection closes only if its client was told.
    closing: bool,
}

/// How the fast loop ended.
pub enum End<IO> {
    /// The connection is over.
    Closed,
    /// Go on in hyper.
    HandOver(Prefixed<Guarded<IO>>),
    /// Go on in the process that follows.
    PassOn(Guarded<IO>),
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Fast<IO> {
    /// Takes a connection whose next byte is the first of a request. `peer` is who is at the other
    /// end as far as sockets and PROXY protocol know.
    /// `movable` says that nothing but the socket is needed to go on with it elsewhere.
    pub const fn new(io: Guarded<IO>, core: Rc<Core>, peer: IpAddr, movable: bool) -> Self {
        Self {
            io,
            core,
            peer,
            kept: Vec::new(),
            fresh: false,
            pending: Vec::new(),
            written: 0,
            movable,
            closing: false,
        }
    }

    /// Serves until the connection ends or needs hyper.
    pub async fn run(mut self) -> End<IO> {
        loop {
            match poll_fn(|cx| self.poll_step(cx)).await {
                Step::Done => return End::Closed,
                Step::PassOn => return End::PassOn(self.io),
                Step::HandOver(bytes) => {
                    self.core.metrics.handed_over();
                    return End::HandOver(Prefixed::new(bytes, self.io));
                }
                Step::Look(request) => {
                    if self.look(&request).await.is_err() {
                        return End::Closed;
                    }
                }
            }
        }
    }

    /// Whether the next answer is the connection's last one here and anywhere.
    fn closes(&self) -> bool {
        self.core.draining() && !(self.movable && self.core.passing_on())
    }

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        loop {
            if !self.pending.is_empty() {
                match ready!(self.poll_pending(cx)) {
                    Ok(()) if self.closing => return Poll::Ready(Step::Done),
                    Ok(()) => {}
                    Err(_) => return Poll::Ready(Step::Done),
                }
            }
            if std::mem::take(&mut self.fresh) {
                let bytes = std::mem::take(&mut self.kept);
                let core = Rc::clone(&self.core);
                if let Some(step) = self.work(cx, &core, &bytes) {
                    return Poll::Ready(step);
                }
                continue;
            }
            if self.movable && self.kept.is_empty() && self.core.passing_on() {
                return Poll::Ready(Step::PassOn);
            }
            let core = Rc::clone(&self.core);
            let mut scratch = core.scratch.borrow_mut();
            let kept = self.kept.len();
            if kept >= scratch.len() {
                // A head that fills the buffer: hyper says 431 in its own words.
                return Poll::Ready(Step::HandOver(std::mem::take(&mut self.kept)));
            }
            scratch[..kept].copy_from_slice(&self.kept);
            let mut buf = ReadBuf::new(&mut scratch[kept..]);
            match ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf)) {
                Ok(()) if buf.filled().is_empty() => return Poll::Ready(Step::Done),
                Ok(()) => {}
                Err(_) => return Poll::Ready(Step::Done),
            }
            let len = kept + buf.filled().len();
            self.kept.clear();
            if let Some(step) = self.work(cx, &core, &scratch[..len]) {
                return Poll::Ready(step);
            }
        }
    }

    /// Answers what can be answered of `bytes`, writes it, and keeps the rest.
    fn work(&mut self, cx: &mut Context<'_>, core: &Rc<Core>, bytes: &[u8]) -> Option<Step> {
        let began = Instant::now();
        let mut out = core.out.borrow_mut();
        out.clear();
        let mut at = 0;
        let mut hits = 0;
        let mut next = None;
        let close = self.closes();
        while at < bytes.len() {
            let rest = &bytes[at..];
            match parse(core, self.peer, rest) {
                Parsed::Partial => {
                    self.kept.extend_from_slice(rest);
                    break;
                }
                Parsed::Other => {
                    next = Some(Step::HandOver(rest.to_vec()));
                    break;
                }
                Parsed::Plain(ask, len) => {
                    if answer_hit(core, &ask, began, close, &mut out) {
                        hits += 1;
                        at += len;
                    } else if is_reserved(ask.code) {
                        next = Some(Step::HandOver(rest.to_vec()));
                        break;
                    } else {
                        self.kept.extend_from_slice(&rest[len..]);
                        self.fresh = !self.kept.is_empty();
                        next = Some(Step::Look(rest[..len].to_vec()));
                        break;
                    }
                }
            }
        }
        if hits > 0 {
            self.closing = close;
            // Phase first: the write that follows renews the deadline it sets.
            self.io.state().idle();
            core.metrics.answered(Answer::RedirectL1, hits);
            core.time_hits(began, hits);
            self.write_now(cx, &out);
        }
        if !self.pending.is_empty() {
            // The peer reads slowly: finish the write before anything else is looked at.
            match next.take() {
                Some(Step::HandOver(rest)) => {
                    self.kept = rest;
                    self.fresh = true;
                }
                Some(Step::Look(mut request)) => {
                    request.append(&mut self.kept);
                    self.kept = request;
                    self.fresh = true;
                }
                Some(Step::Done | Step::PassOn) | None => {}
            }
            return None;
        }
        if self.closing {
            return Some(Step::Done);
        }
        next
    }

    /// Writes as much as goes at once and keeps the rest as pending.
    fn write_now(&mut self, cx: &mut Context<'_>, out: &[u8]) {
        let mut at = 0;
        while at < out.len() {
            match Pin::new(&mut self.io).poll_write(cx, &out[at..]) {
                Poll::Ready(Ok(n)) if n > 0 => at += n,
                Poll::Pending => break,
                // A broken pipe shows again at the next read or write.
                Poll::Ready(_) => break,
            }
        }
        self.pending.clear();
        self.pending.extend_from_slice(&out[at..]);
        self.written = 0;
    }

    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.pending.get(self.written..).filter(|rest| !rest.is_empty()) {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, rest))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
        }
        self.pending = Vec::new();
        self.written = 0;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Answers a look-up that L1 can't: loads, decides, writes.
    async fn look(&mut self, request: &[u8]) -> io::Result<()> {
        let began = Instant::now();
        let core = Rc::clone(&self.core);
        let Parsed::Plain(ask, _) = parse(&core, self.peer, request) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let Ok(code) = Code::parse(ask.code) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        self.io.state().busy();
        let key = LinkKey::new(ask.domain, code);
        let shared = &core.shared;
        let visitor = Visitor { peer: self.peer, address: ask.address };
        let verdict = look_up(shared, &key, visitor, ask.head, &ask.facts, ask.query).await;
        core.metrics.answered(verdict.answer(), 1);
        let mut out = Vec::with_capacity(512);
        let close = self.closes();
        if let Verdict::Redirect { status, location, .. } = &verdict {
            let kind = if ask.head { ClickKind::Head } else { ClickKind::Served };
            let (now, code) = (core.wall(began), key.code.as_str());
            let visitor = core.visitor(&ask.facts, ask.address);
            core.record(&ask.facts, ask.domain, code, now, kind, visitor, ask.address, ask.query);
            write_redirect(&mut out, *status, location.as_bytes(), close, &core);
        } else {
            let response = verdict.into_response(shared, &key, ask.facts.accept).await;
            write_response(&mut out, response, ask.head, close, &core).await;
        }
        core.metrics.miss.observe(began.elapsed(), 1);
        self.io.state().idle();
        self.pending = out;
        self.written = 0;
        self.closing = close;
        Ok(())
    }
}

/// Answers from L1 into `out`; `false` when L1 has no redirect to answer with.
fn answer_hit(
    core: &Rc<Core>,
    ask: &Ask<'_>,
    began: Instant,
    close: bool,
    out: &mut Vec<u8>,
) -> bool {
    let (now, mono) = core.clocks(began);
    let l1 = core.shared.app.resolver.l1();
    let mut target = core.target.borrow_mut();
    // While L1's entry is on its way.
    let visitor = core.visitor(&ask.facts, ask.address);
    let code = ask.code.as_bytes();
    let Some(found) = l1.get(ask.hash, ask.domain, code, now, mono, &mut target) else {
        return false;
    };
    let Kind::Redirect(status) = found.kind else {
        return false;
    };
    // Numbered before its bytes are written.
    let kind = if ask.head { ClickKind::Head } else { ClickKind::Served };
    core.record(&ask.facts, ask.domain, ask.code, now, kind, visitor, ask.address, ask.query);
    if ask.query.is_some() && found.forward_query {
        let target = std::str::from_utf8(&target).unwrap_or_default();
        write_redirect(out, status, location(&found, target, ask.query).as_bytes(), close, core);
    } else {
        write_redirect(out, status, &target, close, core);
    }
    true
}

/// The bytes of a redirect. Kept in step with [`super::redirect::redirect`] by a test.
fn write_redirect(
    out: &mut Vec<u8>,
    status: RedirectStatus,
    location: &[u8],
    close: bool,
    core: &Core,
) {
    let line: &[u8] = match status {
        RedirectStatus::MovedPermanently => b"HTTP/1.1 301 Moved Permanently\r\nlocation: ",
        RedirectStatus::Found => b"HTTP/1.1 302 Found\r\nlocation: ",
        RedirectStatus::Temporary => b"HTTP/1.1 307 Temporary Redirect\r\nlocation: ",
        RedirectStatus::Permanent => b"HTTP/1.1 308 Permanent Redirect\r\nlocation: ",
    };
    out.extend_from_slice(line);
    out.extend_from_slice(location);
    core.put_tail(out, status);
    end_of_head(out, close);
}

fn end_of_head(out: &mut Vec<u8>, close: bool) {
    if close {
        out.extend_from_slice(b"\r\nconnection: close\r\n\r\n");
    } else {
        out.extend_from_slice(b"\r\n\r\n");
    }
}

/// Any response with a whole body, as bytes.
async fn write_response(
    out: &mut Vec<u8>,
    response: axum::response::Response,
    head: bool,
    close: bool,
    core: &Core,
) {
    let (parts, body) = response.into_parts();
    // Pages are made whole; there is nothing to wait for.
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let reason = parts.status.canonical_reason().unwrap_or("Unknown");
    out.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", parts.status.as_u16()).as_bytes());
    for (name, value) in &parts.headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(format!("content-length: {}\r\ndate: ", body.len()).as_bytes());
    out.extend_from_slice(&core.date());
    end_of_head(out, close);
    if !head {
        out.extend_from_slice(&body);
    }
}

fn parse<'b>(core: &Core, peer: IpAddr, bytes: &'b [u8]) -> Parsed<'b> {
    // Most other traffic is told apart by its first bytes.
    let (head, target) = match bytes {
        [b'G', b'E', b'T', b' ', b'/', target @ ..] => (false, target),
        [b'H', b'E', b'A', b'D', b' ', b'/', target @ ..] => (true, target),
        _ if b"GET /".starts_with(bytes) || b"HEAD /".starts_with(bytes) => return Parsed::Partial,
        _ => return Parsed::Other,
    };
    let shared = &*core.shared;
    let l1 = shared.app.resolver.l1();
    // Where every host means the same domain, the hash is known before the headers are, and L1's
    // line is on its way while they are parsed.
    let expected = (core.base_path().is_empty() && !shared.domains.any()).then(|| {
        let len = code_len(target);
        let hash = l1.hash(DomainId::DEFAULT, &target[..len.min(Code::MAX_LEN)]);
        l1.expect(hash);
        (hash, len)
    });
    let mut headers = [const { MaybeUninit::<Header<'_>>::uninit() }; MAX_HEADERS];
    let mut request = Request::new(&mut []);
    let len = match request.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(Status::Complete(len)) => len,
        Ok(Status::Partial) => return Parsed::Partial,
        Err(_) => return Parsed::Other,
    };
    let (Some(path), Some(1)) = (request.path, request.version) else {
        return Parsed::Other;
    };
    let rest = match core.base_path() {
        [] => path.as_bytes(),
        base => path.as_bytes().strip_prefix(base).unwrap_or_default(),
    };
    let Some(rest) = rest.strip_prefix(b"/") else {
        return Parsed::Other;
    };
    // Without a base path the path is what was looked at above.
    let end = expected.map_or_else(|| code_len(rest), |(_, len)| len);
    let query = match rest.get(end) {
        None => None,
        Some(b'?') => path.get(path.len() - rest.len() + end + 1..),
        Some(_) => return Parsed::Other,
    };
    let begin = path.len() - rest.len();
    let code = path.get(begin..begin + end).unwrap_or_default();
    if code.is_empty() || code.len() > Code::MAX_LEN {
        return Parsed::Other;
    }
    if let Some((hash, _)) = expected {
        l1.expect_entry(hash);
    }
    let pairs = request.headers.iter().map(|header| (header.name.as_bytes(), header.value));
    let facts = Facts::of(pairs.clone());
    if facts.special || facts.hosts != 1 || !is_host(facts.host) {
        return Parsed::Other;
    }
    let (domain, hash) = match expected {
        Some((hash, _)) => (DomainId::DEFAULT, hash),
        None => {
            let domain = shared.domains.of_host(facts.host);
            (domain, l1.hash(domain, code.as_bytes()))
        }
    };
    let address = visitor(&shared.options.proxies, peer, &pairs);
    Parsed::Plain(Ask { head, code, query, domain, hash, address, facts }, len)
}

/// How many bytes of a path's segment can stand in a code.
fn code_len(segment: &[u8]) -> usize {
    segment.iter().position(|b| !is_code_byte(*b)).unwrap_or(segment.len())
}
