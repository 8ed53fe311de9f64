//! A connection's bytes. What hyper itself refuses (a head that is too long, or no HTTP at all) it answers with an empty
//! body, and HTTP/2 not at all; here such an answer becomes a problem like all others.
//!
//! * Invariant: only a head that hyper wrote by itself is replaced. It is a 4xx without a body, which handlers never write.
//! * A caller that closes its side after a whole request still gets its answer: hyper hears of the end afterwards.
//! * Reports to [`Activity`] when bytes come and when the socket takes none.
//! * Deliberately absent: anything about requests.

use super::HEAD_BYTES_MAX;
use super::activity::{Activity, Cut};
use duramen_common::{Problem, ProblemKind};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

/// Most bytes that are read and thrown away after a refusal, so that it reaches a caller that is still sending.
const DRAIN_BYTES_MAX: usize = 8 * 1024 * 1024;
/// And for how long.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(1);
/// What a caller sends first that knows beforehand that HTTP/2 is spoken here.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// A TCP stream whose refusals are problems.
pub(super) struct Wire {
    stream: TcpStream,
    activity: Arc<Activity>,
    /// What stands in for hyper's refusal, and how much of it is written.
    refusal: Option<(Vec<u8>, usize)>,
    /// How many of the connection's first bytes are those of [`HTTP2_PREFACE`]; `None` once one is not.
    preface: Option<usize>,
}

impl Wire {
    pub(super) fn new(stream: TcpStream, activity: Arc<Activity>) -> Wire {
        Wire { stream, activity, refusal: None, preface: Some(0) }
    }

    /// After hyper has let the connection go: says what hyper could not, and reads what still comes. A socket that is closed with
    /// unread bytes resets the connection, and the answer is lost.
    pub(super) async fn end(mut self, is_unread: bool) {
        if self.is_http2() {
            let detail = "this port speaks HTTP/1.1; HTTP/2 is not offered, nor is an upgrade to it";
            let answer = problem_answer("400 Bad Request", &Problem::new(ProblemKind::BadRequest, detail));
            self.farewell(&answer).await;
        } else if self.refusal.is_some() || is_unread {
            self.drain().await;
        }
    }

    /// Ends a connection whose time is over.
    pub(super) async fn end_cut(mut self, cut: Cut, head_timeout: Duration) {
        match cut {
            Cut::Idle => {}
            Cut::SlowHead => {
                let detail = format!("the request's head did not come whole within {} s", head_timeout.as_secs_f32());
                let answer = problem_answer("400 Bad Request", &Problem::new(ProblemKind::BadRequest, detail));
                self.farewell(&answer).await;
            }
            // What the caller does not take would stay in the kernel for minutes.
            Cut::NotRead => {
                if let Err(error) = self.stream.set_zero_linger() {
                    tracing::debug!(%error, "SO_LINGER is refused");
                }
            }
        }
    }

    async fn farewell(&mut self, answer: &[u8]) {
        let saying = async {
            self.stream.write_all(answer).await?;
            self.stream.shutdown().await
        };
        if matches!(tokio::time::timeout(DRAIN_TIME_MAX, saying).await, Ok(Ok(()))) {
            self.drain().await;
        }
    }

    async fn drain(&mut self) {
        let reading = async {
            let mut bytes = vec![0; 16 * 1024];
            let mut drained = 0;
            while let Ok(length @ 1..) = self.stream.read(&mut bytes).await {
                drained += length;
                if drained > DRAIN_BYTES_MAX {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(DRAIN_TIME_MAX, reading).await;
    }

    fn is_http2(&self) -> bool {
        self.preface == Some(HTTP2_PREFACE.len())
    }

    /// Notes the first bytes; says whether they are HTTP/2's.
    fn note_preface(&mut self, came: &[u8]) -> bool {
        let Some(before) = self.preface else { return false };
        let wanted = HTTP2_PREFACE.get(before..).unwrap_or_default();
        let count = wanted.len().min(came.len());
        self.preface = (came.get(..count) == wanted.get(..count)).then_some(before + count);
        self.is_http2()
    }

    fn poll_refusal(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some((bytes, written)) = &mut self.refusal {
            let rest = bytes.get(*written..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            match ready!(Pin::new(&mut self.stream).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                length => *written += length,
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// A whole answer that closes the connection.
fn problem_answer(line: &str, problem: &Problem) -> Vec<u8> {
    let body = serde_json::to_string(problem).expect("a problem is plain JSON");
    let head = format!(
        "HTTP/1.1 {line}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    (head + &body).into_bytes()
}

/// The problem that stands in for a head that hyper wrote by itself; `None` for every other write.
fn refusal_of(head: &[u8]) -> Option<Vec<u8>> {
    let status = head.strip_prefix(b"HTTP/1.1 4")?.get(..2)?;
    let (line, kind, detail, limit) = match status {
        b"00" => ("400 Bad Request", ProblemKind::BadRequest, "this is not an HTTP/1.1 request", None),
        b"14" => (
            "413 Content Too Large",
            ProblemKind::TooLarge,
            "the path and query are over the limit of 65534 bytes",
            Some(65_534),
        ),
        b"31" => (
            "413 Content Too Large",
            ProblemKind::TooLarge,
            "the headers are over the limit of 131072 bytes or 256 headers",
            Some(HEAD_BYTES_MAX),
        ),
        _ => return None,
    };
    let is_whole = head.ends_with(b"\r\n\r\n");
    let has_no_body = head.windows(19).any(|part| part.eq_ignore_ascii_case(b"content-length: 0\r\n"));
    if !is_whole || !has_no_body {
        return None;
    }
    let problem = Problem::new(kind, detail);
    let problem = limit.map_or(problem.clone(), |limit| problem.with("limit", limit));
    Some(problem_answer(line, &problem))
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let has_room = buffer.remaining() > 0;
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let came = buffer.filled().get(before..).unwrap_or_default();
        if came.is_empty() {
            return match has_room && self.activity.keeps_end(context.waker()) {
                true => Poll::Pending,
                false => Poll::Ready(Ok(())),
            };
        }
        self.activity.bytes_came();
        if self.note_preface(came) {
            // hyper gets an end instead, and says nothing.
            buffer.set_filled(before);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(refusal) = refusal_of(bytes) {
            self.refusal = Some((refusal, 0));
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.activity.wrote(written.is_pending());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(refusal) = slices.first().and_then(|first| refusal_of(first)) {
            self.refusal = Some((refusal, 0));
            return Poll::Ready(Ok(slices.first().map_or(0, |first| first.len())));
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.activity.wrote(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_refusal(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_refusal(context))?;
        // Whoever sent HTTP/2 is answered when hyper has let go.
        if self.is_http2() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
