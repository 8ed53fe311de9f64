//! Builds requests: percent-encoding, headers, JSON bodies. Pure.
//!
//! * Invariant: what is built here is sent unchanged on every attempt (but for `Prefer`), so that a repeat is a repeat.
//! * Every byte but unreserved ones is percent-encoded, dots too: `..` and `%2F` are keys like others.
//! * Source: DESIGN §4.

use super::error::Error;
use super::options::{Condition, ReadOptions, WriteOptions};
use bytes::Bytes;
use duramen_common::SessionToken;
use duramen_common::limits::{BODY_BYTES_MAX, IDEMPOTENCY_KEY_BYTES_MAX, KEY_BYTES_MAX, OPS_MAX};
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde::Serialize;
use std::fmt::Display;
use std::fmt::Write as _;
use std::time::Duration;

/// Bytes that are encoded: all but ASCII letters, digits, `-`, `_` and `~`.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~');

pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub(super) const LOG_TIMESTAMP: HeaderName = HeaderName::from_static("log-timestamp");
pub(super) const PREFER: HeaderName = HeaderName::from_static("prefer");
pub(super) const READ_AFTER: HeaderName = HeaderName::from_static("read-after");
pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// What makes a request a write: under which key and condition every attempt of it goes.
#[derive(Clone, Debug)]
pub(super) struct Writing {
    pub idempotency_key: String,
    pub condition: Option<Condition>,
}

/// One call's request, the same on every attempt.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub method: Method,
    /// Path and query, behind the base URL.
    pub target: String,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
    /// `None` for reads.
    pub writing: Option<Writing>,
    /// For the whole call; `None`: the client's.
    pub deadline: Option<Duration>,
}

impl Request {
    /// A request without effect.
    pub(super) fn read(target: String) -> Request {
        Request { method: Method::GET, target, headers: Vec::new(), body: Bytes::new(), writing: None, deadline: None }
    }

    /// A read of data, with its options.
    pub(super) fn read_with(target: String, options: &ReadOptions) -> Result<Request, Error> {
        let mut request = Request::read(target);
        if let Some(consistency) = options.consistency {
            let separator = if request.target.contains('?') { '&' } else { '?' };
            let _ = write!(request.target, "{separator}consistency={}", consistency.name());
        }
        if let Some(token) = &options.after {
            request.add(READ_AFTER, "token", token)?;
        }
        request.deadline = options.deadline;
        Ok(request)
    }

    /// A write; `minted` is its idempotency key unless the options bring one.
    pub(super) fn write(
        method: Method,
        target: String,
        body: Bytes,
        options: &WriteOptions,
        minted: impl FnOnce() -> String,
    ) -> Result<Request, Error> {
        let idempotency_key = options.idempotency_key.clone().unwrap_or_else(minted);
        if idempotency_key.is_empty() || idempotency_key.len() > IDEMPOTENCY_KEY_BYTES_MAX {
            let reason = format!("of {} bytes; 1 to {IDEMPOTENCY_KEY_BYTES_MAX} are allowed", idempotency_key.len());
            return Err(Error::Invalid { what: "idempotency key", reason });
        }
        let writing = Writing { idempotency_key, condition: options.condition };
        let mut request = Request { method, body, writing: None, deadline: options.deadline, ..Request::read(target) };
        request.add(IDEMPOTENCY_KEY, "idempotency key", &writing.idempotency_key)?;
        match options.condition {
            None => {}
            Some(Condition::Version(version)) => request.add(IF_MATCH, "version", format_args!("\"{version}\""))?,
            Some(Condition::Exists) => request.headers.push((IF_MATCH, HeaderValue::from_static("*"))),
            Some(Condition::Absent) => request.headers.push((IF_NONE_MATCH, HeaderValue::from_static("*"))),
        }
        request.writing = Some(writing);
        Ok(request)
    }

    /// A write with a JSON body of `ops` ops.
    pub(super) fn write_json(
        target: &str,
        body: &impl Serialize,
        ops: usize,
        options: &WriteOptions,
        minted: impl FnOnce() -> String,
    ) -> Result<Request, Error> {
        if options.condition.is_some() {
            let reason = "batches have none; a transaction's are its guards".to_owned();
            return Err(Error::Invalid { what: "condition", reason });
        }
        let invalid = |reason: String| Error::Invalid { what: "request", reason };
        if ops > OPS_MAX {
            return Err(invalid(format!("{ops} ops; at most {OPS_MAX} are allowed")));
        }
        let body = serde_json::to_vec(body).map_err(|error| invalid(error.to_string()))?;
        if body.len() > BODY_BYTES_MAX {
            return Err(invalid(format!("{} bytes; at most {BODY_BYTES_MAX} are allowed", body.len())));
        }
        let mut request = Request::write(Method::POST, target.to_owned(), Bytes::from(body), options, minted)?;
        request.headers.push((CONTENT_TYPE, HeaderValue::from_static("application/json")));
        Ok(request)
    }

    fn add(&mut self, name: HeaderName, what: &'static str, value: impl Display) -> Result<(), Error> {
        let value = HeaderValue::try_from(value.to_string())
            .map_err(|_| Error::Invalid { what, reason: "only visible ASCII is allowed".to_owned() })?;
        self.headers.push((name, value));
        Ok(())
    }
}

/// The path of a key, or why there is none.
pub(super) fn key_path(key: &[u8]) -> Result<String, Error> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        let reason = format!("of {} bytes; 1 to {KEY_BYTES_MAX} are allowed", key.len());
        return Err(Error::Invalid { what: "key", reason });
    }
    Ok(format!("/v1/kv/{}", percent_encode(key, ENCODED)))
}

/// `path?name=value&…` of those parameters that are not empty.
pub(super) fn with_query(path: &str, parameters: &[(&str, &[u8])]) -> String {
    let mut target = path.to_owned();
    let mut separator = '?';
    for (name, value) in parameters.iter().filter(|(_, value)| !value.is_empty()) {
        let _ = write!(target, "{separator}{name}={}", percent_encode(value, ENCODED));
        separator = '&';
    }
    target
}

/// The target and headers of a feed beyond `position`. The query says it for the first connection, the header for a
/// resumed one; they agree, so that it does not matter which the server heeds.
pub(super) fn feed(prefix: &[u8], position: &SessionToken) -> Request {
    let position = position.to_string();
    let mut request = Request::read(with_query("/v1/feed", &[("prefix", prefix), ("from", position.as_bytes())]));
    if let Ok(value) = HeaderValue::try_from(position) {
        request.headers.push((LAST_EVENT_ID, value));
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;
    use percent_encoding::percent_decode_str;
    use proptest::prelude::*;

    proptest! {
        /// Goal: any key's bytes come back from its path, and nothing in the path means anything to a URL parser.
        #[test]
        fn any_key_survives_its_path(key in proptest::collection::vec(any::<u8>(), 1..KEY_BYTES_MAX)) {
            let path = key_path(&key).unwrap();
            let encoded = path.strip_prefix("/v1/kv/").unwrap();
            prop_assert_eq!(percent_decode_str(encoded).collect::<Vec<u8>>(), key);
            prop_assert!(encoded.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_~%".contains(&byte)));
            prop_assert!(path.parse::<hyper::Uri>().is_ok());
        }
    }

    #[test]
    fn keys_that_look_like_paths_are_keys() {
        assert_eq!(key_path(b"..").unwrap(), "/v1/kv/%2E%2E");
        assert_eq!(key_path(b"a/b%2Fc d").unwrap(), "/v1/kv/a%2Fb%252Fc%20d");
        assert_eq!(key_path(b"\0?#+").unwrap(), "/v1/kv/%00%3F%23%2B");
        assert!(key_path(b"").is_err());
        assert!(key_path(&[b'x'; KEY_BYTES_MAX + 1]).is_err());
        assert!(key_path(&[b'x'; KEY_BYTES_MAX]).is_ok());
    }

    #[test]
    fn only_parameters_that_say_something_are_in_the_query() {
        assert_eq!(
            with_query("/v1/kv", &[("prefix", b""), ("limit", b"7"), ("end", b"a&b")]),
            "/v1/kv?limit=7&end=a%26b"
        );
        assert_eq!(with_query("/v1/kv", &[]), "/v1/kv");
    }

    #[test]
    fn a_hostile_idempotency_key_is_refused_and_not_sent() {
        for key in ["", "a\r\nIf-Match: *", &"x".repeat(256)] {
            let options = WriteOptions::under_key(key);
            let request = Request::write(Method::PUT, "/v1/kv/a".to_owned(), Bytes::new(), &options, String::new);
            assert!(matches!(request, Err(Error::Invalid { .. })), "{key:?} was taken");
        }
    }
}
