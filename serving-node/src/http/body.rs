//! Bodies: of requests, read up to a limit; of answers, whole or streamed.
//!
//! * Invariant: no more of a request is held than its limit says; what is over is read and thrown away, within bounds,
//!   so that the answer reaches a caller that is still sending.

use super::errors::Failure;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;

/// Most bytes of a refused request that are read and thrown away.
const DRAIN_BYTES_MAX: usize = 32 * 1024 * 1024;
/// And for how long.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);

/// The body of a request.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// As it comes from a connection.
    Incoming(Incoming),
    /// All of it, or nothing (any more).
    Full(Option<Bytes>),
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            RequestBody::Incoming(body) => Pin::new(body).poll_frame(context),
            RequestBody::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Incoming(body) => body.is_end_stream(),
            RequestBody::Full(bytes) => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Incoming(body) => body.size_hint(),
            RequestBody::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
        }
    }
}

/// The body of an answer.
#[derive(Debug)]
pub enum ResponseBody {
    /// All of it, or nothing (any more).
    Full(Option<Bytes>),
    /// Pieces as they come; ends when the sender is dropped.
    Stream(mpsc::Receiver<Bytes>),
}

impl ResponseBody {
    /// A body that is known.
    pub(crate) fn full(bytes: Bytes) -> ResponseBody {
        ResponseBody::Full((!bytes.is_empty()).then_some(bytes))
    }

    /// No body.
    pub(crate) const fn empty() -> ResponseBody {
        ResponseBody::Full(None)
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            ResponseBody::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            ResponseBody::Stream(pieces) => {
                pieces.poll_recv(context).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, ResponseBody::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            ResponseBody::Stream(_) => SizeHint::default(),
        }
    }
}

/// Reads a body of at most `limit` bytes, within `time_max`: a caller that stalls must not keep its connection for ever.
/// `what` names it where it is over.
pub(crate) async fn read(
    body: &mut RequestBody,
    limit: usize,
    what: &str,
    time_max: Duration,
) -> Result<Bytes, Failure> {
    tokio::time::timeout(time_max, read_all(body, limit, what)).await.unwrap_or_else(|_| {
        let detail = format!("{what} did not come whole within {} s: nothing was done", time_max.as_secs_f32());
        Err(Failure::new(duramen_common::ProblemKind::BadRequest, detail))
    })
}

async fn read_all(body: &mut RequestBody, limit: usize, what: &str) -> Result<Bytes, Failure> {
    if body.size_hint().lower() > limit as u64 {
        return Err(Failure::too_large(what, limit));
    }
    let mut first: Option<Bytes> = None;
    let mut rest: Option<BytesMut> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Failure::new(duramen_common::ProblemKind::BadRequest, format!("the body did not come whole: {error}"))
        })?;
        let Ok(data) = frame.into_data() else { continue };
        let length = first.as_ref().map_or(0, Bytes::len).max(rest.as_ref().map_or(0, BytesMut::len));
        if length + data.len() > limit {
            return Err(Failure::too_large(what, limit));
        }
        match (&first, &mut rest) {
            (_, Some(rest)) => rest.extend_from_slice(&data),
            (Some(before), None) => {
                let expected = usize::try_from(body.size_hint().lower()).unwrap_or(limit).min(limit);
                let mut joined = BytesMut::with_capacity((length + data.len() + expected).min(limit));
                joined.extend_from_slice(before);
                joined.extend_from_slice(&data);
                rest = Some(joined);
            }
            (None, None) => first = Some(data),
        }
    }
    Ok(rest.map(BytesMut::freeze).or(first).unwrap_or_default())
}

/// Reads what is left of a body and throws it away: a connection that is closed with unread bytes is reset, and the
/// caller never sees the answer.
pub(crate) async fn drain(body: &mut RequestBody) {
    let reading = async {
        let mut drained = 0;
        while let Some(Ok(frame)) = body.frame().await {
            drained += frame.data_ref().map_or(0, Bytes::len);
            if drained > DRAIN_BYTES_MAX {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(DRAIN_TIME_MAX, reading).await;
}
