//! One client over one HTTP/1.1 connection, by hand: a request is one write, an answer usually one read.
//!
//! * In: request bytes. Out: a status and a body. hyper would cost more CPU than many of the answers.
//! * Bounded: heads of 16 KiB, bodies of 4 MiB, 10 s a request.
//! * Deliberately absent: chunked bodies, continuation, pipelining: the server under test sends none.

use super::generator::Caller;
use super::tally::{OpKind, Reason};
use super::workload::{Choices, Target};
use duramen_common::Problem;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longest head of an answer. Unit: bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Longest body of an answer. Unit: bytes.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a request that did not succeed, so that errors do not come by the million.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// A client.
pub(super) struct HttpCaller {
    target: Arc<Target>,
    host: String,
    choices: Choices,
    request: Vec<u8>,
    connection: Option<Connection>,
}

impl HttpCaller {
    pub(super) fn new(target: Arc<Target>, client: usize) -> HttpCaller {
        let host = target.hosts[client % target.hosts.len()].clone();
        let choices = target.choices(client);
        HttpCaller { target, host, choices, request: Vec::new(), connection: None }
    }

    async fn exchange(&mut self) -> Result<(), Reason> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.host).await?,
        };
        let status = connection.exchange(&self.request).await?;
        let result = if (200..300).contains(&status) { Ok(()) } else { Err(connection.reason(status)) };
        if connection.stays_open {
            self.connection = Some(connection);
        }
        result
    }
}

impl Caller for HttpCaller {
    async fn call(&mut self) -> (OpKind, Result<(), Reason>) {
        let kind = self.target.next_request(&self.host, &mut self.choices, &mut self.request);
        let result = match tokio::time::timeout(REQUEST_TIMEOUT, self.exchange()).await {
            Ok(result) => result,
            // Its connection went with it: a late answer is nobody's.
            Err(_) => Err(Reason::Borrowed("no answer in time")),
        };
        (kind, result)
    }

    async fn pause(&mut self) {
        tokio::time::sleep(ERROR_PAUSE).await;
    }
}

struct Connection {
    stream: TcpStream,
    /// The answer, head and body; emptied before the next.
    answer: Vec<u8>,
    body_at: usize,
    stays_open: bool,
}

impl Connection {
    async fn open(host: &str) -> Result<Connection, Reason> {
        let reason = |error: std::io::Error| Reason::Owned(format!("cannot connect: {}", error.kind()));
        let stream = TcpStream::connect(host).await.map_err(reason)?;
        stream.set_nodelay(true).map_err(reason)?;
        Ok(Connection { stream, answer: Vec::with_capacity(2048), body_at: 0, stays_open: true })
    }

    /// Sends a request, takes the whole answer, gives its status.
    async fn exchange(&mut self, request: &[u8]) -> Result<u16, Reason> {
        let lost = |error: std::io::Error| Reason::Owned(format!("connection lost: {}", error.kind()));
        self.answer.clear();
        self.stream.write_all(request).await.map_err(lost)?;
        let mut head = None;
        loop {
            if self.stream.read_buf(&mut self.answer).await.map_err(lost)? == 0 {
                return Err(Reason::Borrowed("connection lost: closed by the server"));
            }
            if head.is_none() {
                head = Head::parse(&self.answer).map_err(Reason::Borrowed)?;
            }
            let Some(found) = &head else {
                if self.answer.len() > HEAD_BYTES_MAX {
                    return Err(Reason::Borrowed("not understood: a head without end"));
                }
                continue;
            };
            if self.answer.len() >= found.body_at + found.body_bytes {
                self.body_at = found.body_at;
                self.stays_open = found.stays_open;
                return Ok(found.status);
            }
        }
    }

    /// Why an answer is no success: the type of its problem, where it tells one.
    fn reason(&self, status: u16) -> Reason {
        let body = self.answer.get(self.body_at..).unwrap_or_default();
        match serde_json::from_slice::<Problem>(body) {
            Ok(problem) => Reason::Owned(format!("{status} {}", problem.kind.name())),
            Err(_) => Reason::Owned(format!("{status}")),
        }
    }
}

/// What must be known of an answer's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    body_at: usize,
    body_bytes: usize,
    stays_open: bool,
}

impl Head {
    /// Reads a head; `None` while it is not whole.
    fn parse(bytes: &[u8]) -> Result<Option<Head>, &'static str> {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
        let mut lines = bytes[..end].split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii_end);
        let first = lines.next().unwrap_or_default();
        let status = first.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(number);
        let status = status.ok_or("not understood: no HTTP/1.1 status")? as u16;
        let mut head = Head { status, body_at: end + 4, body_bytes: 0, stays_open: true };
        for line in lines {
            // The first letter tells most headers apart without comparing them.
            match line.first().map(u8::to_ascii_lowercase) {
                Some(b'c') => {}
                Some(b't') if has_name(line, b"transfer-encoding").is_some() => {
                    return Err("not understood: a chunked body");
                }
                _ => continue,
            }
            if let Some(value) = has_name(line, b"content-length") {
                let length = number(value).filter(|&length| length <= BODY_BYTES_MAX);
                head.body_bytes = length.ok_or("not understood: a body's length")?;
            } else if let Some(value) = has_name(line, b"connection") {
                head.stays_open = !value.eq_ignore_ascii_case(b"close");
            }
        }
        Ok(Some(head))
    }
}

/// The value of a header line of this name.
fn has_name<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (have, rest) = line.split_at_checked(name.len())?;
    let value = rest.strip_prefix(b":")?;
    have.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

fn number(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() || digits.len() > 9 {
        return None;
    }
    digits.iter().try_fold(0, |sum, &byte| byte.is_ascii_digit().then(|| sum * 10 + usize::from(byte - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_as_soon_as_they_are_whole() {
        let text = b"HTTP/1.1 200 OK\r\ncache-control: x\r\nCONTENT-LENGTH:  12 \r\netag: \"c\"\r\n\r\nbody of it..";
        for cut in 0..text.len() - 12 {
            assert_eq!(Head::parse(&text[..cut]), Ok(None));
        }
        let wanted = Head { status: 200, body_at: text.len() - 12, body_bytes: 12, stays_open: true };
        assert_eq!(Head::parse(text), Ok(Some(wanted)));
        let closing = Head::parse(b"HTTP/1.1 204 No Content\r\nconnection: Close\r\n\r\n").unwrap().unwrap();
        assert_eq!((closing.status, closing.body_bytes, closing.stays_open), (204, 0, false));
    }

    #[test]
    fn what_is_not_understood_is_said_and_not_guessed() {
        for text in [
            "HTTP/1.0 200 OK\r\n\r\n",
            "HTTP/1.1 2x0 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 9999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\n",
        ] {
            assert!(Head::parse(text.as_bytes()).is_err(), "{text:?} was taken");
        }
    }
}
