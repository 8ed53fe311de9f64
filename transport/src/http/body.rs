//! The body of a request: counted against what the listener may hold, timed, and read to its end where that helps.
//!
//! * In: hyper's body. Out: the same bytes, or why there are no more.
//! * Invariant: what a handler has read counts until it has answered.
//! * Invariant: a connection goes on only after a body that was read to its end. A caller that is still sending is read from
//!   for a while after a refusal, because a socket that is closed with unread bytes is reset, and the answer is lost.

use super::activity::{Activity, HttpStats, Overtime};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use parking_lot::Mutex;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

/// Most bytes of a refused request that are read and thrown away.
const DRAIN_BYTES_MAX: usize = 32 * 1024 * 1024;
/// And while no longer than this nothing comes.
const DRAIN_PAUSE_MAX: Duration = Duration::from_millis(200);
/// And for how long.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);

/// Why a body has no more bytes.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The caller broke off, or what it sends is not a body.
    #[error("the body did not come whole: {source}")]
    Broken {
        /// What came instead.
        #[from]
        source: hyper::Error,
    },
    /// The caller sends nothing more.
    #[error("the body did not come whole: the caller has closed its side")]
    CutOff,
    /// It took too long.
    #[error("the body did not come whole within {seconds} s: nothing was done")]
    TooSlow {
        /// The limit.
        seconds: f32,
    },
    /// All requests together hold as much as they may.
    #[error("this node holds {limit} bytes of request bodies, its limit: nothing was done, try again")]
    NoRoom {
        /// The limit. Unit: bytes.
        limit: usize,
    },
    /// The node stops.
    #[error("this node is stopping and the body did not come whole: nothing was done, ask another node")]
    Stopping,
}

/// What a body may take.
pub(super) struct BodyLimits {
    pub(super) stats: Arc<HttpStats>,
    pub(super) bytes_max: usize,
    pub(super) time_max: Duration,
}

/// What the listener keeps of a body while its handler has it.
pub(super) struct Kept {
    limits: Arc<BodyLimits>,
    activity: Arc<Activity>,
    /// The body, once the handler has let it go.
    returned: Mutex<Option<Incoming>>,
    bytes: AtomicU64,
    is_polled: AtomicBool,
}

/// The body of a request, as a handler gets it.
pub struct RequestBody {
    incoming: Option<Incoming>,
    kept: Option<Arc<Kept>>,
    /// Handed out once.
    overtime: Option<Overtime>,
    /// Resolves when the body has taken too long. Made when the body is waited for.
    overdue: Option<BoxFuture<'static, BodyError>>,
}

impl std::fmt::Debug for RequestBody {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("RequestBody").field("incoming", &self.incoming).finish_non_exhaustive()
    }
}

impl RequestBody {
    /// Takes a body over; a body that is empty costs nothing.
    pub(super) fn new(
        incoming: Incoming,
        limits: &Arc<BodyLimits>,
        activity: &Arc<Activity>,
    ) -> (RequestBody, Option<Arc<Kept>>) {
        let kept = (!incoming.is_end_stream()).then(|| {
            let (returned, bytes, is_polled) = (Mutex::new(None), AtomicU64::new(0), AtomicBool::new(false));
            let activity = Arc::clone(activity);
            Arc::new(Kept { limits: Arc::clone(limits), activity, returned, bytes, is_polled })
        });
        let overtime = Some(Overtime::of(activity));
        (RequestBody { incoming: Some(incoming), kept: kept.clone(), overtime, overdue: None }, kept)
    }

    /// What this request hears of a stop of its listener; `None` when it was taken before.
    pub fn take_overtime(&mut self) -> Option<Overtime> {
        self.overtime.take()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Some(incoming) = &mut this.incoming else { return Poll::Ready(None) };
        let Some(kept) = &this.kept else { return Pin::new(incoming).poll_frame(context).map_err(BodyError::from) };
        kept.is_polled.store(true, Ordering::Relaxed);
        match Pin::new(incoming).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                let limit = kept.limits.bytes_max;
                if !kept.limits.stats.take_body_bytes(bytes, limit as u64) {
                    return Poll::Ready(Some(Err(BodyError::NoRoom { limit })));
                }
                kept.bytes.fetch_add(bytes, Ordering::Relaxed);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(other) => Poll::Ready(other.map(|result| result.map_err(BodyError::from))),
            Poll::Pending if kept.activity.has_ended() => Poll::Ready(Some(Err(BodyError::CutOff))),
            Poll::Pending => {
                let overdue = this.overdue.get_or_insert_with(|| kept.overdue());
                overdue.as_mut().poll(context).map(|error| Some(Err(error)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(kept) = &self.kept {
            *kept.returned.lock() = self.incoming.take();
        }
    }
}

impl Kept {
    /// Resolves when a body that begins now has taken too long.
    fn overdue(&self) -> BoxFuture<'static, BodyError> {
        let (time_max, activity) = (self.limits.time_max, Arc::clone(&self.activity));
        Box::pin(async move {
            tokio::select! {
                () = tokio::time::sleep(time_max) => BodyError::TooSlow { seconds: time_max.as_secs_f32() },
                () = activity.overtime() => BodyError::Stopping,
            }
        })
    }

    /// Once the handler has answered: gives the room back and reads what still comes, unless the caller waits for
    /// `100 Continue` before it sends. Says whether the body was read to its end.
    pub(super) async fn finish(&self, expects_continue: bool) -> bool {
        self.give_back();
        let Some(mut body) = self.returned.lock().take() else { return false };
        if body.is_end_stream() {
            return true;
        }
        if expects_continue && !self.is_polled.load(Ordering::Relaxed) {
            return false;
        }
        let reading = async {
            let mut drained = 0;
            while drained <= DRAIN_BYTES_MAX && !self.activity.has_ended() {
                // Who sends nothing now may wait for the answer first.
                match tokio::time::timeout(DRAIN_PAUSE_MAX, body.frame()).await {
                    Ok(Some(Ok(frame))) => drained += frame.data_ref().map_or(0, Bytes::len),
                    Ok(Some(Err(_))) | Err(_) => return false,
                    Ok(None) => return true,
                }
            }
            false
        };
        tokio::select! {
            read = tokio::time::timeout(DRAIN_TIME_MAX, reading) => read.unwrap_or(false),
            () = self.activity.overtime() => false,
        }
    }

    fn give_back(&self) {
        let bytes = self.bytes.swap(0, Ordering::Relaxed);
        if bytes > 0 {
            self.limits.stats.give_body_bytes(bytes);
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.give_back();
    }
}
