//! A welcomed caller's requests and answers, on one connection, until either side ends it.
//!
//! * In: frames of requests. Out: frames of answers, many to a write; requests begin in the order in which they came and end
//!   in any.
//! * Invariant: what a connection holds is bounded: requests by number and bytes, answers by bytes, each wait by a time.
//! * Source: DESIGN D10; docs/formats.md "Frames between processes".

use crate::callers::Caller;
use crate::frame::{FrameBuffer, FrameError, FrameKind};
use crate::outgoing::Outgoing;
use crate::server::{Shared, sent_away};
use crate::times::Times;
use crate::{Hello, Role};
use bytes::Bytes;
use duramen_common::HistoryId;
use futures_util::FutureExt as _;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Stop reading from a caller while this much waits to be written to it. Unit: bytes.
const OUTGOING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// While clients hold more than they may, whoever has a further request looks again after this long.
const PRESSED_PAUSE: Duration = Duration::from_millis(20);

/// Why a connection ends before its caller closes it.
pub(crate) enum Cut {
    /// The caller is told why, and the history it has met when that is another one than its own.
    Refuse(String, Option<HistoryId>),
    /// The caller speaks HTTP and is told so in HTTP.
    Http,
    /// Nobody is there to be told, or nothing is wrong.
    Closed,
}

impl Cut {
    pub(crate) fn told(reason: String) -> Cut {
        Cut::Refuse(reason, None)
    }

    pub(crate) fn of(error: FrameError) -> Cut {
        Cut::told(error.to_string())
    }
}

/// Reads requests, runs them, writes answers, until either side ends it.
pub(crate) async fn run(
    stream: &mut TcpStream,
    incoming: &mut FrameBuffer,
    outgoing: &mut Outgoing,
    hello: &Hello,
    caller: Option<&Caller>,
    shared: &Shared,
) -> Cut {
    let (mut reader, mut writer) = stream.split();
    let mut under_way = FuturesUnordered::new();
    let (requests_max, bytes_max) = (shared.config.requests_in_flight_max, shared.config.frame_bytes_max);
    let is_client = matches!(hello.role, Role::Client { .. });
    let mut asked_bytes = 0;
    let mut times = Times::new(&shared.config, Instant::now());
    let watch = tokio::time::sleep_until(times.look_at());
    let leave = sent_away(caller);
    tokio::pin!(watch, leave);
    loop {
        let may_ask = |asked_bytes: usize, is_asking: bool| {
            asked_bytes < shared.config.in_flight_bytes_max && !(is_client && is_asking && shared.callers.is_pressed())
        };
        while under_way.len() < requests_max && may_ask(asked_bytes, !under_way.is_empty()) {
            let frame = match incoming.take_frame(bytes_max) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => return Cut::of(error),
            };
            if frame.kind != FrameKind::Request {
                return Cut::told(format!("a frame out of order ({:?}): only requests are expected", frame.kind));
            }
            times.frame_came();
            shared.requests.fetch_add(1, Ordering::Relaxed);
            let (request, bytes) = (frame.request, frame.body.len());
            let answer = shared.service.handle(hello, frame.service, frame.body);
            asked_bytes += bytes;
            under_way.push(async move { (request, bytes, answer.await) });
        }
        // Whatever is ready leaves in one write.
        while outgoing.len() < OUTGOING_BYTES_MAX
            && let Some(Some((request, bytes, body))) = under_way.next().now_or_never()
        {
            asked_bytes -= bytes;
            push_answer(outgoing, request, body, bytes_max);
        }
        let now = Instant::now();
        let is_asking = !under_way.is_empty() || !outgoing.is_empty();
        if let Some(caller) = caller {
            caller.note(is_asking, asked_bytes + outgoing.len(), now);
        }
        let may_ask = may_ask(asked_bytes, !under_way.is_empty());
        let may_read = may_ask && under_way.len() < requests_max && outgoing.len() < OUTGOING_BYTES_MAX;
        times.note(is_asking, !outgoing.is_empty(), may_read && !incoming.pending().is_empty(), now);
        tokio::select! {
            Some((request, bytes, body)) = under_way.next(), if outgoing.len() < OUTGOING_BYTES_MAX => {
                asked_bytes -= bytes;
                push_answer(outgoing, request, body, bytes_max);
            }
            read = reader.read_buf(incoming.room()), if may_read => match read {
                Ok(0) | Err(_) => return Cut::Closed,
                Ok(_) => times.heard = Instant::now(),
            },
            written = outgoing.write_to(&mut writer), if !outgoing.is_empty() => match written {
                Ok(()) => times.took = Instant::now(),
                Err(_) => return Cut::Closed,
            },
            () = &mut leave => {
                return Cut::told("another caller needs this place: come back when there is something to ask".to_owned());
            }
            () = async { tokio::time::sleep(PRESSED_PAUSE).await }, if !may_ask => {}
            () = &mut watch => {
                match times.over(is_client && shared.callers.is_pressed(), Instant::now()) {
                    None => {}
                    Some(reason) if outgoing.is_empty() => return Cut::told(reason),
                    Some(reason) => {
                        tracing::debug!(%reason, "cut off a caller");
                        // What it does not take would stay in the kernel for minutes.
                        let _ = writer.as_ref().set_zero_linger();
                        return Cut::Closed;
                    }
                }
                watch.as_mut().reset(times.look_at());
            }
        }
    }
}

fn push_answer(outgoing: &mut Outgoing, request: u64, body: Bytes, bytes_max: usize) {
    if body.len() <= bytes_max {
        outgoing.push(FrameKind::Answer, 0, request, body);
        return;
    }
    let reason = format!("the answer has {} bytes, the limit is {bytes_max}", body.len());
    tracing::warn!(%reason, "an answer was not given");
    outgoing.push(FrameKind::Failed, 0, request, Bytes::from(reason));
}
