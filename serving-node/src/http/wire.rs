//! A connection's bytes. What hyper itself refuses (a head that is too long, or no HTTP at all) it answers with an empty
//! body; here that answer becomes a problem like all others.
//!
//! * Invariant: only a head that hyper wrote by itself is replaced. It is a 4xx without a body, which handlers never write.
//! * Deliberately absent: anything about requests.

use duramen_common::{Problem, ProblemKind};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Most bytes that are read and thrown away after a refusal, so that it reaches a caller that is still sending.
const DRAIN_BYTES_MAX: usize = 8 * 1024 * 1024;
/// And for how long.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(1);

/// A TCP stream whose refusals are problems.
pub(super) struct Wire {
    stream: TcpStream,
    /// What stands in for hyper's refusal, and how much of it is written.
    refusal: Option<(Vec<u8>, usize)>,
}

impl Wire {
    pub(super) fn new(stream: TcpStream) -> Wire {
        Wire { stream, refusal: None }
    }

    /// After a refusal: reads what still comes. A socket that is closed with unread bytes resets the connection.
    pub(super) async fn drain(mut self) {
        if self.refusal.is_none() {
            return;
        }
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

/// The problem that stands in for a head that hyper wrote by itself; `None` for every other write.
fn refusal_of(head: &[u8]) -> Option<Vec<u8>> {
    let status = head.strip_prefix(b"HTTP/1.1 4")?.get(..2)?;
    let (line, kind, detail) = match status {
        b"00" => ("400 Bad Request", ProblemKind::BadRequest, "this is no HTTP/1.1 request"),
        b"14" => {
            ("413 Content Too Large", ProblemKind::TooLarge, "the path and query are over the limit of 65534 bytes")
        }
        b"31" => (
            "413 Content Too Large",
            ProblemKind::TooLarge,
            "the headers are over the limit of 131072 bytes or 256 headers",
        ),
        _ => return None,
    };
    let is_whole = head.ends_with(b"\r\n\r\n");
    let has_no_body = head.windows(19).any(|part| part.eq_ignore_ascii_case(b"content-length: 0\r\n"));
    if !is_whole || !has_no_body {
        return None;
    }
    let limit = match status {
        b"14" => Some(65_534),
        b"31" => Some(super::accept::HEAD_BYTES_MAX),
        _ => None,
    };
    let problem = Problem::new(kind, detail);
    let problem = limit.map_or(problem.clone(), |limit| problem.with("limit", limit));
    let body = serde_json::to_string(&problem).expect("a problem is plain JSON");
    let answer = format!(
        "HTTP/1.1 {line}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    Some(answer.into_bytes())
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(refusal) = refusal_of(bytes) {
            self.refusal = Some((refusal, 0));
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match slices.first().and_then(|first| refusal_of(first)) {
            Some(refusal) => {
                self.refusal = Some((refusal, 0));
                Poll::Ready(Ok(slices.first().map_or(0, |first| first.len())))
            }
            None => Pin::new(&mut self.stream).poll_write_vectored(context, slices),
        }
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
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
