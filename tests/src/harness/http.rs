//! A small HTTP/1.1 client over raw TCP, independent of `duramen-client` and of hyper.
//!
//! * Keeps connections, reads `Content-Length` and chunked bodies, streams when asked to.
//! * An error says whether the request may have been handled: nothing is retried here.
//! * Deliberately absent: TLS, redirects, compression.

use bytes::Bytes;
use duramen_common::SessionToken;
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

const IDLE_MAX: usize = 512;
const HEAD_BYTES_MAX: usize = 256 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Nothing was sent.
    #[error("cannot connect to {addr}: {reason}")]
    NotSent {
        /// Where.
        addr: SocketAddr,
        /// Why.
        reason: String,
    },
    /// It may have been handled.
    #[error("no whole answer from {addr}: {reason}")]
    Lost {
        /// Where.
        addr: SocketAddr,
        /// Why.
        reason: String,
    },
}

/// A client of one server.
#[derive(Clone, Debug)]
pub struct Http {
    addr: SocketAddr,
    idle: Arc<Mutex<Vec<BufReader<TcpStream>>>>,
}

/// A request that is being put together.
#[derive(Clone, Debug)]
pub struct Call {
    http: Http,
    method: &'static str,
    target: String,
    headers: Vec<(String, String)>,
    body: Option<Bytes>,
    limit: Duration,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What was asked, for messages.
    pub asked: String,
    /// Status code.
    pub status: u16,
    /// Headers as they came, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

/// A body that goes on.
pub struct Streaming {
    /// Status and headers; the body of a refusal.
    pub head: Answer,
    stream: BufReader<TcpStream>,
    addr: SocketAddr,
}

/// The percent-encoded path segment of a key: everything but unreserved characters is encoded.
#[must_use]
pub fn path_of(key: &[u8]) -> String {
    key.iter()
        .map(|&byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// The address of a key.
#[must_use]
pub fn kv(key: impl AsRef<[u8]>) -> String {
    format!("/v1/kv/{}", path_of(key.as_ref()))
}

impl Http {
    /// A client of the server at `addr`; connects when needed.
    #[must_use]
    pub fn new(addr: SocketAddr) -> Http {
        Http { addr, idle: Arc::default() }
    }

    /// Where the server is.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// A request by method and target.
    #[must_use]
    pub fn call(&self, method: &'static str, target: impl Into<String>) -> Call {
        Call {
            http: self.clone(),
            method,
            target: target.into(),
            headers: Vec::new(),
            body: None,
            limit: Duration::from_secs(40),
        }
    }

    /// GET.
    #[must_use]
    pub fn get(&self, target: impl Into<String>) -> Call {
        self.call("GET", target)
    }

    /// PUT with a body.
    #[must_use]
    pub fn put(&self, target: impl Into<String>, body: impl Into<Bytes>) -> Call {
        self.call("PUT", target).body(body)
    }

    /// DELETE.
    #[must_use]
    pub fn delete(&self, target: impl Into<String>) -> Call {
        self.call("DELETE", target)
    }

    /// POST of a JSON value with its content type.
    #[must_use]
    pub fn post(&self, target: impl Into<String>, body: &Value) -> Call {
        self.call("POST", target).header("content-type", "application/json").body(body.to_string())
    }

    async fn connect(&self) -> Result<BufReader<TcpStream>, HttpError> {
        let not_sent = |reason: String| HttpError::NotSent { addr: self.addr, reason };
        let stream = timeout(Duration::from_secs(5), TcpStream::connect(self.addr))
            .await
            .map_err(|_| not_sent("no connection within 5 s".to_owned()))?
            .map_err(|error| not_sent(error.to_string()))?;
        stream.set_nodelay(true).map_err(|error| not_sent(error.to_string()))?;
        Ok(BufReader::new(stream))
    }

    fn pooled(&self) -> Option<BufReader<TcpStream>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(connection) = idle.pop() {
            // A connection that has something to read is closed or confused.
            let mut byte = [0u8; 1];
            let quiet = connection.get_ref().try_read(&mut byte);
            if quiet.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock) {
                return Some(connection);
            }
        }
        None
    }

    fn keep(&self, connection: BufReader<TcpStream>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
    }
}

impl Call {
    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl ToString) -> Call {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Call {
        self.body = Some(body.into());
        self
    }

    /// How long to wait for the whole answer.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Call {
        self.limit = limit;
        self
    }

    /// `Prefer: wait=SECONDS`.
    #[must_use]
    pub fn wait(self, seconds: u32) -> Call {
        self.header("prefer", format!("wait={seconds}"))
    }

    /// `Read-After: TOKEN`.
    #[must_use]
    pub fn after(self, token: impl ToString) -> Call {
        self.header("read-after", token)
    }

    fn head_bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head.push_str(&format!("host: {}\r\n", self.http.addr));
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = &self.body {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// Sends it and reads the whole answer.
    pub async fn send(self) -> Result<Answer, HttpError> {
        let addr = self.http.addr;
        let limit = self.limit;
        match timeout(limit, self.exchange()).await {
            Ok(answer) => answer,
            Err(_) => Err(HttpError::Lost { addr, reason: format!("no answer within {limit:?}") }),
        }
    }

    /// Sends it; a missing answer is a failed test.
    pub async fn ok(self) -> Answer {
        let asked = format!("{} {}", self.method, self.target);
        self.send().await.unwrap_or_else(|error| panic!("{asked}: {error}"))
    }

    /// Sends it and expects this status.
    pub async fn expect(self, status: u16) -> Answer {
        self.ok().await.expect_status(status)
    }

    async fn exchange(self) -> Result<Answer, HttpError> {
        let mut stream = match self.http.pooled() {
            Some(stream) => stream,
            None => self.http.connect().await?,
        };
        let addr = self.http.addr;
        let lost = |error: std::io::Error| HttpError::Lost { addr, reason: error.to_string() };
        let written = self.write(&mut stream).await;
        // A server may refuse before it has read everything: what it said counts.
        let mut answer = match (read_head(&mut stream, &self).await, written) {
            (Ok(answer), _) => answer,
            (Err(_), Err(error)) | (Err(error), Ok(())) => return Err(lost(error)),
        };
        let whole = self.read_body(&mut stream, &mut answer).await.map_err(lost)?;
        let closing = answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if whole && !closing {
            self.http.keep(stream);
        }
        Ok(answer)
    }

    async fn write(&self, stream: &mut BufReader<TcpStream>) -> std::io::Result<()> {
        let mut bytes = self.head_bytes();
        let body = self.body.clone().unwrap_or_default();
        if body.len() < 16 * 1024 {
            bytes.extend_from_slice(&body);
            return stream.get_mut().write_all(&bytes).await;
        }
        stream.get_mut().write_all(&bytes).await?;
        stream.get_mut().write_all(&body).await
    }

    /// Whether the body had an end of its own, so that the connection can go on.
    async fn read_body(&self, stream: &mut BufReader<TcpStream>, answer: &mut Answer) -> std::io::Result<bool> {
        if self.method == "HEAD" || answer.status == 204 || answer.status == 304 || answer.status < 200 {
            return Ok(true);
        }
        let mut body = Vec::new();
        let mut whole = true;
        if let Some(length) = answer.header("content-length") {
            body = vec![0u8; length.parse().map_err(std::io::Error::other)?];
            stream.read_exact(&mut body).await?;
        } else if answer.header("transfer-encoding").is_some() {
            while let Some(chunk) = read_chunk(stream).await? {
                body.extend_from_slice(&chunk);
            }
        } else {
            stream.read_to_end(&mut body).await?;
            whole = false;
        }
        answer.body = Bytes::from(body);
        Ok(whole)
    }

    /// Sends it on a connection of its own and leaves the body to be read piece by piece, but that of a refusal.
    pub async fn stream(self) -> Result<Streaming, HttpError> {
        let addr = self.http.addr;
        let lost = |error: std::io::Error| HttpError::Lost { addr, reason: error.to_string() };
        let mut stream = self.http.connect().await?;
        self.write(&mut stream).await.map_err(lost)?;
        let mut head = timeout(self.limit, read_head(&mut stream, &self))
            .await
            .map_err(|_| HttpError::Lost { addr, reason: format!("no answer within {:?}", self.limit) })?
            .map_err(lost)?;
        if head.status >= 400 {
            self.read_body(&mut stream, &mut head).await.map_err(lost)?;
        }
        Ok(Streaming { head, stream, addr })
    }
}

impl Streaming {
    /// The next piece of a chunked body; `None` at its end.
    pub async fn next(&mut self, limit: Duration) -> Result<Option<Bytes>, HttpError> {
        let addr = self.addr;
        match timeout(limit, read_chunk(&mut self.stream)).await {
            Ok(Ok(chunk)) => Ok(chunk.map(Bytes::from)),
            Ok(Err(error)) => Err(HttpError::Lost { addr, reason: error.to_string() }),
            Err(_) => Err(HttpError::Lost { addr, reason: format!("nothing came within {limit:?}") }),
        }
    }
}

async fn read_line(stream: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut line = Vec::new();
    let limited = &mut stream.take(HEAD_BYTES_MAX as u64);
    limited.read_until(b'\n', &mut line).await?;
    if line.pop() != Some(b'\n') {
        return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "connection closed within the answer"));
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line).map_err(std::io::Error::other)
}

async fn read_head(stream: &mut BufReader<TcpStream>, call: &Call) -> std::io::Result<Answer> {
    let status_line = read_line(stream).await?;
    let status = status_line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other(format!("not HTTP: {status_line:?}")))?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(stream).await?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| std::io::Error::other("header without a colon"))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let asked = format!("{} http://{}{}", call.method, call.http.addr, call.target);
    Ok(Answer { asked, status, headers, body: Bytes::new() })
}

async fn read_chunk(stream: &mut BufReader<TcpStream>) -> std::io::Result<Option<Vec<u8>>> {
    let line = read_line(stream).await?;
    let length = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16);
    let length = length.map_err(|_| std::io::Error::other(format!("not a chunk length: {line:?}")))?;
    let mut chunk = vec![0u8; length];
    stream.read_exact(&mut chunk).await?;
    read_line(stream).await?;
    Ok((length > 0).then_some(chunk))
}

impl Answer {
    /// The first header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Panics unless the status is this one.
    #[must_use]
    pub fn expect_status(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{self}");
        self
    }

    /// Panics unless this is the problem of this type, with its status, media type and a sentence.
    #[must_use]
    pub fn expect_problem(self, status: u16, kind: &str) -> Answer {
        assert_eq!((self.status, self.problem()), (status, kind.to_owned()), "{self}");
        assert!(
            self.header("content-type").is_some_and(|media| media.starts_with("application/problem+json")),
            "a problem is application/problem+json: {self}"
        );
        let body = self.json();
        assert_eq!(body["status"], status, "{self}");
        assert!(body["detail"].as_str().is_some_and(|detail| detail.len() > 5), "a problem has a sentence: {self}");
        self
    }

    /// The problem's `type`; empty when the body is no problem.
    #[must_use]
    pub fn problem(&self) -> String {
        let body: Option<Value> = serde_json::from_slice(&self.body).ok();
        body.and_then(|body| body["type"].as_str().map(str::to_owned)).unwrap_or_default()
    }

    /// The body as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("not JSON ({error}): {self}"))
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// `Log-Timestamp`, parsed.
    #[must_use]
    pub fn timestamp(&self) -> SessionToken {
        let text = self.header("log-timestamp").unwrap_or_else(|| panic!("no Log-Timestamp: {self}"));
        text.parse().unwrap_or_else(|error| panic!("Log-Timestamp {text:?} ({error}): {self}"))
    }

    /// `ETag` without its quotes, parsed.
    #[must_use]
    pub fn version(&self) -> SessionToken {
        let text = self.header("etag").unwrap_or_else(|| panic!("no ETag: {self}"));
        let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        let inner = inner.unwrap_or_else(|| panic!("an ETag is quoted: {self}"));
        inner.parse().unwrap_or_else(|error| panic!("ETag {text} ({error}): {self}"))
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} → {}", self.asked, self.status)?;
        for (name, value) in &self.headers {
            write!(f, "\n  {name}: {value}")?;
        }
        let shown: String = self.text().chars().take(2000).collect();
        write!(f, "\n  {shown}")
    }
}
