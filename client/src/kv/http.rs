//! One attempt over HTTP/1.1: a pool of kept-alive connections, one request, one whole answer.
//!
//! * Invariant: [`FailureCause::NotSent`] only where no byte of the request can have left.
//! * Bounded: an answer's length, a connection's opening, an attempt's time.
//! * Deliberately absent: retries, what answers mean.

use super::config::ClientConfig;
use super::error::FailureCause;
use super::request::{PREFER, Request};
use super::retry::Share;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

/// A whole answer.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// A header's text, when it is there and is text.
    pub(super) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// The pool.
pub(super) struct Wire {
    http: legacy::Client<HttpConnector, Full<Bytes>>,
    answer_bytes_max: usize,
}

impl Wire {
    pub(super) fn new(config: &ClientConfig) -> Wire {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(config.connect_timeout));
        let http = legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(config.pool_idle_timeout)
            .pool_max_idle_per_host(config.pool_idle_max)
            .build(connector);
        Wire { http, answer_bytes_max: config.answer_bytes_max }
    }

    /// Sends once and takes the whole answer, within the share.
    pub(super) async fn attempt(&self, base: &str, request: &Request, share: Share) -> Result<Answer, FailureCause> {
        let whole = async {
            let response = self.open(base, request, Some(share.wait_seconds)).await?;
            self.take(response).await
        };
        match tokio::time::timeout(share.timeout, whole).await {
            Ok(result) => result,
            Err(_) => Err(FailureCause::TimedOut(share.timeout.as_millis() as u64)),
        }
    }

    /// Sends once and gives the answer as soon as its head is there.
    pub(super) async fn open(
        &self,
        base: &str,
        request: &Request,
        wait_seconds: Option<u64>,
    ) -> Result<Response<Incoming>, FailureCause> {
        let unsent = |error: &dyn std::fmt::Display| FailureCause::NotSent(error.to_string());
        let mut builder = hyper::Request::builder().method(&request.method).uri(format!("{base}{}", request.target));
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        if let Some(seconds) = wait_seconds {
            let value = HeaderValue::try_from(format!("wait={seconds}")).map_err(|error| unsent(&error))?;
            builder = builder.header(PREFER, value);
        }
        let message = builder.body(Full::new(request.body.clone())).map_err(|error| unsent(&error))?;
        self.http.request(message).await.map_err(|error| {
            let reason = with_causes(&error);
            if error.is_connect() { FailureCause::NotSent(reason) } else { FailureCause::Lost(reason) }
        })
    }

    /// The rest of an answer.
    pub(super) async fn take(&self, response: Response<Incoming>) -> Result<Answer, FailureCause> {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, self.answer_bytes_max).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                FailureCause::Unexpected(format!("longer than {} bytes", self.answer_bytes_max))
            } else {
                FailureCause::Lost(error.to_string())
            }
        })?;
        Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
    }
}

/// An error with what caused it: hyper's own texts leave the cause out.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
