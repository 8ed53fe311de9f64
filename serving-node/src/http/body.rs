//! Bodies: of requests, read up to a limit; of answers, whole or streamed.
//!
//! * Invariant: no more of a request is held than its limit says. What is over is the listener's: it reads it and throws it
//!   away, so that the answer reaches a caller that is still sending.

use super::errors::Failure;
use bytes::{Bytes, BytesMut};
use duramen_common::ProblemKind;
use duramen_transport::http::{BodyError, Overtime};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// The body of a request.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// As it comes from a connection.
    Incoming(duramen_transport::http::RequestBody),
    /// All of it, or nothing (any more).
    Full(Option<Bytes>),
}

impl RequestBody {
    /// What the request hears of a stop through its connection, if it came by one. Handed out once.
    pub(crate) fn take_overtime(&mut self) -> Option<Overtime> {
        match self {
            RequestBody::Incoming(body) => body.take_overtime(),
            RequestBody::Full(_) => None,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
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

/// Reads a body of at most `limit` bytes. `what` names it where it is over.
pub(crate) async fn read(body: &mut RequestBody, limit: usize, what: &str) -> Result<Bytes, Failure> {
    if body.size_hint().lower() > limit as u64 {
        return Err(Failure::too_large(what, limit));
    }
    let mut first: Option<Bytes> = None;
    let mut rest: Option<BytesMut> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| of_body(&error))?;
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

/// Why there is no more of a body, as an answer. Nothing was done with it.
fn of_body(error: &BodyError) -> Failure {
    let kind = match error {
        BodyError::Broken { .. } | BodyError::CutOff | BodyError::TooSlow { .. } => ProblemKind::BadRequest,
        BodyError::NoRoom { .. } => ProblemKind::Overloaded,
        BodyError::Stopping => ProblemKind::NoLeader,
    };
    let failure = Failure::new(kind, error.to_string());
    match error {
        BodyError::NoRoom { limit } => failure.with("limit", *limit),
        _ => failure,
    }
}
