//! Reads an answer line by line as it comes.

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;

use crate::cli::exit::{Code, Failure};

/// The longest line that is read, in bytes: far above any row of an export.
const MAX_LINE: usize = 1 << 20;

/// The lines of a body, without their ends; empty ones are left out.
pub(crate) struct Lines {
    body: Body,
    buffer: BytesMut,
    ended: bool,
}

impl Lines {
    /// The lines of this body.
    pub(crate) fn of(body: Body) -> Self {
        Self { body, buffer: BytesMut::new(), ended: false }
    }

    /// The next line, `None` at the end.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        let mut searched = 0;
        loop {
            let fresh = self.buffer.get(searched..).unwrap_or_default();
            if let Some(at) = fresh.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(searched + at + 1).freeze();
                searched = 0;
                let line = line.slice(..line.len() - 1);
                if !line.is_empty() {
                    return Ok(Some(line));
                }
                continue;
            }
            searched = self.buffer.len();
            if self.ended {
                let rest = self.buffer.split().freeze();
                return Ok((!rest.is_empty()).then_some(rest));
            }
            if self.buffer.len() > MAX_LINE {
                return Err(Failure::error(Code::Failure, "the server sent a line without end"));
            }
            match self.body.frame().await {
                None => self.ended = true,
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => {
                    let text = format!("the answer broke off: {error}; try again");
                    return Err(Failure::error(Code::Unavailable, text));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However the bytes are cut into frames, the lines are the same.
        #[test]
        fn lines_do_not_depend_on_frames(text in "[a\n]{0,40}", cuts in proptest::collection::vec(0_usize..5, 0..20)) {
            let expected: Vec<&str> = text.split('\n').filter(|line| !line.is_empty()).collect();
            let mut rest = text.as_bytes();
            let mut frames = Vec::new();
            for cut in cuts {
                let (frame, after) = rest.split_at(cut.min(rest.len()));
                frames.push(Ok::<_, Infallible>(Bytes::copy_from_slice(frame)));
                rest = after;
            }
            frames.push(Ok(Bytes::copy_from_slice(rest)));
            let body = Body::from_stream(futures_util::stream::iter(frames));
            let lines = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
                let mut lines = Lines::of(body);
                let mut all = Vec::new();
                while let Some(line) = lines.next().await.unwrap() {
                    all.push(String::from_utf8(line.to_vec()).unwrap());
                }
                all
            });
            prop_assert_eq!(lines, expected);
        }
    }
}
