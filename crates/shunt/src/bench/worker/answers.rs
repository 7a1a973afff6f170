//! What a load thread does with what it reads: takes whole answers, judges them, counts them.

use std::io::{self, Read};

use serde::Deserialize;

use super::{MAX_ANSWER, Worker};
use crate::bench::acks;
use crate::bench::conn::{Inflight, Kind, Phase};
use crate::bench::response::{self, Response};
use crate::bench::tally::Failure;

impl Worker<'_> {
    /// Reads what there is; `ending` says that the peer has closed its side behind it.
    pub(super) fn on_readable(&mut self, index: usize, ending: bool) {
        let mut scratch = std::mem::take(&mut self.scratch);
        while let Some(conn) = self.conns.get_mut(index).filter(|c| c.phase == Phase::Up) {
            let Some(stream) = conn.stream.as_mut() else {
                break;
            };
            match stream.read(&mut scratch) {
                Ok(0) => {
                    self.on_end(index);
                    break;
                }
                Ok(count) => {
                    self.tally.bytes_read += count as u64;
                    let input = scratch.get(..count).unwrap_or_default();
                    self.on_bytes(index, input);
                    // A short read has emptied the socket; more bytes are a new edge. An end that
                    // came in the same edge is not.
                    if count < scratch.len() && !ending {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    let now = self.now();
                    self.drop_connection(index, Some(Failure::Reset), now);
                    break;
                }
            }
        }
        self.scratch = scratch;
    }

    fn on_bytes(&mut self, index: usize, input: &[u8]) {
        let Some(conn) = self.conns.get_mut(index) else {
            return;
        };
        if conn.rest.is_empty() {
            let used = self.answers(index, input, false);
            let left = input.get(used..).unwrap_or_default();
            if let Some(conn) = self.conns.get_mut(index)
                && conn.phase == Phase::Up
                && !left.is_empty()
            {
                conn.rest.extend_from_slice(left);
            }
        } else {
            let mut rest = std::mem::take(&mut conn.rest);
            rest.extend_from_slice(input);
            let used = self.answers(index, &rest, false);
            rest.drain(..used);
            let too_large = rest.len() > MAX_ANSWER;
            if let Some(conn) = self.conns.get_mut(index)
                && conn.phase == Phase::Up
            {
                conn.rest = rest;
            }
            if too_large {
                let now = self.now();
                self.drop_connection(index, Some(Failure::Malformed), now);
            }
        }
    }

    /// The server has closed its side.
    fn on_end(&mut self, index: usize) {
        let Some(conn) = self.conns.get_mut(index) else {
            return;
        };
        let rest = std::mem::take(&mut conn.rest);
        if !rest.is_empty() {
            // A body without a length ends here.
            self.answers(index, &rest, true);
        }
        let now = self.now();
        if self.conns.get(index).is_some_and(|conn| conn.phase == Phase::Up) {
            self.drop_connection(index, Some(Failure::Closed), now);
        }
    }

    /// Takes every whole answer from `input` and returns the bytes used.
    fn answers(&mut self, index: usize, input: &[u8], ended: bool) -> usize {
        let mut used = 0;
        let now = self.now();
        while let Some(left) = input.get(used..).filter(|left| !left.is_empty()) {
            let Some(conn) = self.conns.get_mut(index) else {
                break;
            };
            let Some(request) = conn.inflight.front().copied() else {
                // Nothing was asked, as with a 408 on an idle connection: it is of no more use.
                self.drop_connection(index, None, now);
                break;
            };
            let head = self.plan.head && request.kind == Kind::Read;
            match response::parse(left, head, ended) {
                Ok(None) => break,
                Ok(Some(answer)) => {
                    used += answer.used;
                    conn.inflight.pop_front();
                    self.inflight -= 1;
                    let slot = (index, conn.generation);
                    self.complete(request, &answer, now);
                    if answer.close {
                        self.drop_connection(index, Some(Failure::Closed), now);
                        break;
                    }
                    self.free.push_back(slot);
                }
                Err(response::Malformed) => {
                    self.drop_connection(index, Some(Failure::Malformed), now);
                    break;
                }
            }
        }
        used
    }

    /// Judges and counts one answer.
    fn complete(&mut self, request: Inflight, answer: &Response<'_>, now: u64) {
        let verdict = self.judge(request, answer);
        let latency = now - request.intended;
        self.tally.all_answered += 1;
        self.roll_second(now);
        self.share.answered += 1;
        self.share.latency.saturating_record(latency);
        match verdict {
            Ok(()) => self.share.good += 1,
            Err(_) => self.share.failed += 1,
        }
        if request.intended < self.measure_from {
            return;
        }
        self.last_answer = now;
        self.tally.answered += 1;
        *self.tally.statuses.entry(answer.status).or_default() += 1;
        self.tally.latency.saturating_record(latency);
        self.tally.service.saturating_record(now - request.sent);
        if request.kind == Kind::Create {
            self.tally.create_latency.saturating_record(latency);
        }
        match verdict {
            Ok(()) => {
                self.tally.good += 1;
                self.tally.good_creates += u64::from(request.kind == Kind::Create);
            }
            Err(failure) => self.tally.fail(failure),
        }
    }

    fn judge(&mut self, request: Inflight, answer: &Response<'_>) -> Result<(), Failure> {
        let plan = self.plan;
        match request.kind {
            Kind::Create => {
                if answer.status != 201 {
                    self.tally.example(|| {
                        let body = String::from_utf8_lossy(answer.body);
                        let body: String = body.chars().take(200).collect();
                        format!("a create was answered {}: {body}", answer.status)
                    });
                    return Err(Failure::Status);
                }
                if plan.acks.is_some() { self.acknowledge(request, answer) } else { Ok(()) }
            }
            Kind::Read => {
                let path = || {
                    let mut path = Vec::new();
                    plan.keys.write_path(request.subject, &mut path);
                    String::from_utf8_lossy(&path).into_owned()
                };
                if !(200..400).contains(&answer.status) {
                    self.tally.example(|| format!("{} was answered {}", path(), answer.status));
                    return Err(Failure::Status);
                }
                if plan.expect_location
                    && let Some(target) = plan.keys.target(request.subject)
                    && answer.location != Some(target)
                {
                    self.tally.example(|| {
                        let found = answer.location.map(String::from_utf8_lossy);
                        format!(
                            "{} leads to {}, expected {}",
                            path(),
                            found.as_deref().unwrap_or("nowhere"),
                            String::from_utf8_lossy(target)
                        )
                    });
                    return Err(Failure::WrongLocation);
                }
                Ok(())
            }
        }
    }

    /// Notes an acknowledged create. A 201 whose code can't be read is no acknowledgement.
    fn acknowledge(&mut self, request: Inflight, answer: &Response<'_>) -> Result<(), Failure> {
        #[derive(Deserialize)]
        struct Created<'a> {
            code: &'a str,
        }
        let created: Created<'_> =
            serde_json::from_slice(answer.body).map_err(|_| Failure::Malformed)?;
        let (mut target, mut key) = (Vec::new(), Vec::new());
        self.plan.requests.target(request.subject, &mut target);
        self.plan.requests.idempotency_key(request.subject, &mut key);
        let target = String::from_utf8_lossy(&target);
        acks::line(created.code, &target, &String::from_utf8_lossy(&key), &mut self.acks);
        Ok(())
    }
}
