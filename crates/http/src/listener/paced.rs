//! A request body that must keep coming: a sender that trickles is given up.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

/// Fewer bytes than this in a whole window, while we wait for them, is a trickle.
const MIN_PER_WINDOW: u64 = 1_024;

/// How a body is doing, for whoever answers its request.
#[derive(Debug, Default)]
pub struct Pace {
    slow: AtomicBool,
    ended: AtomicBool,
}

impl Pace {
    /// Whether it was given up.
    pub fn too_slow(&self) -> bool {
        self.slow.load(Ordering::Acquire)
    }

    /// Whether all of it came.
    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

/// Wraps a body: in each window of waiting at least a kilobyte must arrive, or its end.
pub struct Paced<B> {
    body: B,
    window: Duration,
    timer: Pin<Box<Sleep>>,
    got: u64,
    pace: Arc<Pace>,
}

/// The body came too slowly.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the request's body came too slowly")]
pub struct TooSlow;

impl<B: Body> Paced<B> {
    /// A body with this pace.
    pub fn new(body: B, window: Duration, pace: Arc<Pace>) -> Self {
        pace.ended.store(body.is_end_stream(), Ordering::Release);
        Self { body, window, timer: Box::pin(tokio::time::sleep(window)), got: 0, pace }
    }
}

impl<B> Body for Paced<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.got += frame.data_ref().map_or(0, |data| data.remaining() as u64);
                if this.got >= MIN_PER_WINDOW {
                    this.got = 0;
                    this.timer.as_mut().reset(Instant::now() + this.window);
                }
                if this.body.is_end_stream() {
                    this.pace.ended.store(true, Ordering::Release);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => {
                this.pace.ended.store(true, Ordering::Release);
                Poll::Ready(None)
            }
            Poll::Pending => match this.timer.as_mut().poll(cx) {
                Poll::Ready(()) => {
                    this.pace.slow.store(true, Ordering::Release);
                    Poll::Ready(Some(Err(TooSlow.into())))
                }
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;
    use http_body_util::{BodyExt, StreamBody};

    fn drip(
        bytes: usize,
        every: Duration,
        times: usize,
    ) -> impl Body<Data = Bytes, Error = std::convert::Infallible> + Unpin {
        let stream = futures_util::stream::iter(0..times).then(move |_| async move {
            tokio::time::sleep(every).await;
            Ok(Frame::data(Bytes::from(vec![b'x'; bytes])))
        });
        StreamBody::new(Box::pin(stream))
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_is_given_up_and_a_steady_body_is_not() {
        let window = Duration::from_secs(10);
        let trickle = Paced::new(drip(1, Duration::from_secs(3), 100), window, Arc::default());
        let started = Instant::now();
        let error = trickle.collect().await.err().map(|e| e.to_string());
        assert_eq!(error.as_deref(), Some("the request's body came too slowly"));
        assert!(started.elapsed() < Duration::from_secs(16));
        let steady = Paced::new(drip(2_000, Duration::from_secs(9), 20), window, Arc::default());
        assert_eq!(steady.collect().await.map(|c| c.to_bytes().len()).ok(), Some(40_000));
    }
}
