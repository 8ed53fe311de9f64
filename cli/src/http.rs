//! One HTTP request, one answer: what the operating commands need that [`duramen_client::kv::Client`] does not offer (log
//! nodes' API, loading, status of a named node).
//!
//! * Invariant: an error says whether the request may have been handled.
//! * Deliberately absent: retries, sessions, TLS.

use bytes::Bytes;
use duramen_common::{Problem, ProblemKind};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::time::Duration;

/// Largest answer that is taken. Unit: bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A pool of connections.
#[derive(Clone)]
pub struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
    timeout: Duration,
}

/// An answer, of any status.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// The request was not sent: it has certainly not been handled.
    #[error("cannot reach {url}: {reason}")]
    NotSent {
        /// Where.
        url: String,
        /// Why.
        reason: String,
    },
    /// The request was sent, and no whole answer came: it may have been handled.
    #[error("no answer from {url}: {reason}")]
    Lost {
        /// Where.
        url: String,
        /// Why.
        reason: String,
    },
}

impl Http {
    /// A pool; each request, its answer included, may take `timeout`.
    #[must_use]
    pub fn new(timeout: Duration) -> Http {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(3)));
        Http { client: Client::builder(TokioExecutor::new()).build(connector), timeout }
    }

    /// Sends a request and reads its answer.
    pub async fn send(
        &self,
        method: Method,
        url: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<Answer, HttpError> {
        let not_sent = |reason: String| HttpError::NotSent { url: url.to_owned(), reason };
        let lost = |reason: String| HttpError::Lost { url: url.to_owned(), reason };
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(body)).map_err(|error| not_sent(error.to_string()))?;
        let whole = async {
            let answer = self.client.request(request).await.map_err(|error| {
                let reason = innermost(&error);
                if error.is_connect() { not_sent(reason) } else { lost(reason) }
            })?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| lost(error.to_string()))?;
            Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes() })
        };
        match tokio::time::timeout(self.timeout, whole).await {
            Ok(answered) => answered,
            Err(_) => Err(lost(format!("nothing came within {} ms", self.timeout.as_millis()))),
        }
    }

    /// GET, without headers.
    pub async fn get(&self, url: &str) -> Result<Answer, HttpError> {
        self.send(Method::GET, url, &[], Bytes::new()).await
    }
}

impl Answer {
    /// The body when the status is 200 to 299, else the problem that it tells.
    pub fn success(self) -> Result<Answer, Problem> {
        if (200..300).contains(&self.status) { Ok(self) } else { Err(self.problem()) }
    }

    /// The problem that an error answer tells; one made up from its status when it tells none.
    #[must_use]
    pub fn problem(&self) -> Problem {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| {
            let text: String = String::from_utf8_lossy(&self.body).chars().take(200).collect();
            let mut problem = Problem::new(
                ProblemKind::BadRequest,
                format!("HTTP status {} without a problem document: {text}", self.status),
            );
            problem.status = self.status;
            problem
        })
    }
}

/// hyper says "client error (Connect)"; the reason stands behind it.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Checks a base address and takes the slash off its end.
pub fn parse_base_url(text: &str) -> Result<String, String> {
    let wanted = "expected an address such as http://127.0.0.1:7001";
    let uri: hyper::Uri = text.parse().map_err(|error| format!("{error}; {wanted}"))?;
    match (uri.scheme_str(), uri.authority(), uri.path(), uri.query()) {
        (Some("http"), Some(_), "/" | "", None) => Ok(text.trim_end_matches('/').to_owned()),
        (Some("https"), ..) => Err(format!("https is not spoken; {wanted}")),
        _ => Err(wanted.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_address_has_a_scheme_a_host_and_no_path() {
        assert_eq!(parse_base_url("http://127.0.0.1:7001/").as_deref(), Ok("http://127.0.0.1:7001"));
        for text in ["127.0.0.1:7001", "localhost", "https://x", "http://x/v1", "http://x?y=1", "", "http://"] {
            assert!(parse_base_url(text).is_err(), "{text:?} was taken");
        }
    }

    /// Goal: a command can tell "certainly not done" from "perhaps done". Method: a port that nobody listens on; one that
    /// takes the request and closes.
    #[tokio::test]
    async fn a_request_that_was_not_sent_is_told_from_one_without_answer() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let http = Http::new(Duration::from_secs(5));
        let server = tokio::spawn(async move {
            use tokio::io::AsyncReadExt as _;
            let (mut connection, _) = listener.accept().await.unwrap();
            let _ = connection.read(&mut [0u8; 16]).await;
        });
        let lost = http.get(&url).await;
        assert!(matches!(lost, Err(HttpError::Lost { .. })), "{lost:?}");
        server.await.unwrap();
        let not_sent = http.get(&url).await;
        assert!(matches!(not_sent, Err(HttpError::NotSent { .. })), "{not_sent:?}");
    }
}
