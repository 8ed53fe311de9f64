//! The one loop in which HTTP connections are accepted: their places, their times, their end.
//!
//! * In: a listener and a [`Handler`]. Out: a task for each connection; none is left when [`serve`] returns.
//! * Invariant: there are never more connections than places, and one that waits for its place.
//! * A listener that gets no more connections from the operating system goes on: it closes idle ones and tries again.

use super::activity::{Activity, HttpStats, Place, Places, Sign};
use super::body::{BodyLimits, RequestBody};
use super::stop::Stop;
use super::wire::Wire;
use super::{HEAD_BYTES_MAX, HEADERS_PARSED_MAX, HttpLimits};
use bytes::Bytes;
use duramen_common::seldom::Seldom;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, EXPECT, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How long to pause when the operating system gives no more connections.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Answers requests.
pub trait Handler: Clone + Send + Sync + 'static {
    /// The body of its answers.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static;

    /// Answers one request.
    fn answer(&self, request: Request<RequestBody>) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// Accepts until a stop is asked for; then lets requests under way end, for a while.
pub async fn serve<H: Handler>(
    listener: TcpListener,
    handler: H,
    limits: HttpLimits,
    stats: Arc<HttpStats>,
    stop: Stop,
) {
    let places = Places::new(limits.clone(), Arc::clone(&stats));
    let bodies = Arc::new(BodyLimits {
        stats: Arc::clone(&stats),
        bytes_max: limits.bodies_bytes_max,
        time_max: limits.body_timeout,
    });
    let shared = Arc::new(Shared { handler, bodies, head_timeout: limits.head_timeout });
    let mut connections = JoinSet::new();
    let mut sweeping = interval(places.sweep_interval());
    sweeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let failing = Seldom::default();
    let stopped = stop.asked();
    tokio::pin!(stopped);
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            biased;
            () = &mut stopped => break,
            _ = sweeping.tick() => {
                places.sweep();
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let place = tokio::select! {
                    biased;
                    () = &mut stopped => break,
                    place = places.wait() => place,
                };
                let shared = Arc::clone(&shared);
                connections.spawn(attend(shared, stream, place));
            }
            Err(error) => {
                stats.count_accept_failure();
                let closed = places.evict();
                if let Some(unsaid) = failing.is_due(Instant::now()) {
                    tracing::warn!(
                        %error, closed, open = stats.counts().open, unsaid,
                        "cannot accept an HTTP connection; idle ones are closed. Raise the limit of open files (ulimit -n, LimitNOFILE=)"
                    );
                }
                tokio::select! {
                    biased;
                    () = &mut stopped => break,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => places.sweep(),
                }
            }
        }
    }
    drop(listener);
    places.stop();
    let overtime = stop.overtime();
    tokio::pin!(overtime);
    let ending = async {
        let mut is_late = false;
        loop {
            tokio::select! {
                ended = connections.join_next() => if ended.is_none() { break },
                _ = sweeping.tick() => places.sweep(),
                () = &mut overtime, if !is_late => {
                    is_late = true;
                    places.end_grace();
                }
            }
        }
    };
    let _ = tokio::time::timeout(limits.stop_time_max, ending).await;
    connections.shutdown().await;
}

/// What all connections of a listener share.
struct Shared<H> {
    handler: H,
    bodies: Arc<BodyLimits>,
    head_timeout: Duration,
}

/// Serves one connection.
async fn attend<H: Handler>(shared: Arc<Shared<H>>, stream: TcpStream, place: Place) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY is refused");
    }
    let activity = &place.activity;
    let is_unread = AtomicBool::new(false);
    let (here, unread_here) = (&*shared, &is_unread);
    let service = service_fn(move |request| {
        activity.request_began();
        async move {
            let (response, unread) = answer(here, activity, request).await;
            unread_here.fetch_or(unread, Ordering::Relaxed);
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        // The buffer's limit alone lets a head pass that a last large read makes whole.
        .max_header_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_PARSED_MAX)
        .serve_connection(TokioIo::new(Wire::new(stream, Arc::clone(activity))), service);
    let mut is_stopping = false;
    let ended = loop {
        tokio::select! {
            // First what has come: a request that is here when the stop is asked for is answered.
            biased;
            ended = &mut connection => break Ok(ended),
            sign = activity.sign(is_stopping) => match sign {
                Sign::Cut(cut) => break Err(cut),
                Sign::Stop => {
                    is_stopping = true;
                    Pin::new(&mut connection).graceful_shutdown();
                }
            },
        }
    };
    let wire = connection.into_parts().io.into_inner();
    match ended {
        Ok(Ok(())) => wire.end(is_unread.load(Ordering::Relaxed)).await,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a connection broke");
            wire.end(true).await;
        }
        Err(cut) => {
            tracing::debug!(?cut, "a connection's time is over");
            wire.end_cut(cut, shared.head_timeout).await;
        }
    }
}

/// Answers one request; says also whether its body was left unread.
async fn answer<H: Handler>(
    shared: &Shared<H>,
    activity: &Arc<Activity>,
    request: Request<Incoming>,
) -> (Response<Answer<H::Body>>, bool) {
    let (parts, incoming) = request.into_parts();
    let expects_continue = parts.headers.contains_key(EXPECT);
    let (body, kept) = RequestBody::new(incoming, &shared.bodies, activity);
    let mut response = shared.handler.answer(Request::from_parts(parts, body)).await;
    if response.body().size_hint().exact().is_none() {
        activity.stream_began();
    }
    let unread = match kept {
        Some(kept) => !kept.finish(expects_continue).await,
        None => false,
    };
    if unread || activity.is_stopping() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    (response.map(|body| Answer { body, activity: Arc::clone(activity) }), unread)
}

/// The body of an answer; its end is the request's.
struct Answer<B> {
    body: B,
    activity: Arc<Activity>,
}

impl<B: Body + Unpin> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Answer<B> {
    fn drop(&mut self) {
        self.activity.request_ended();
    }
}
