//! Names and values of the headers that this API speaks of.
//!
//! * Invariant: a write's `ETag` and `Log-Timestamp` are one text, made once.

use bytes::Bytes;
use duramen_common::{HistoryId, SessionToken, Timestamp};
use hyper::header::{HeaderName, HeaderValue};

/// Position served, or a write's timestamp.
pub(crate) const LOG_TIMESTAMP: HeaderName = HeaderName::from_static("log-timestamp");
/// A token that the read must cover.
pub(crate) const READ_AFTER: HeaderName = HeaderName::from_static("read-after");
/// Names a write, so that a repeat is harmless.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Preferences of RFC 7240; we know `wait`.
pub(crate) const PREFER: HeaderName = HeaderName::from_static("prefer");
/// How long a read was parked.
pub(crate) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// Where a feed resumes.
pub(crate) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Tells a proxy of nginx's kind to pass an answer on as it comes.
pub(crate) const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// `c7f3a1.3:1042` and `"c7f3a1.3:1042"`, sharing their bytes.
pub(crate) fn timestamp_and_etag(history: HistoryId, timestamp: Timestamp) -> (HeaderValue, HeaderValue) {
    let quoted = Bytes::from(format!("\"{history}.{timestamp}\""));
    let plain = quoted.slice(1..quoted.len() - 1);
    (value_of(plain), value_of(quoted))
}

/// The header that names a token.
pub(crate) fn token_value(token: &SessionToken) -> HeaderValue {
    value_of(Bytes::from(token.to_string()))
}

/// A header value of bytes that are known to be visible ASCII.
pub(crate) fn value_of(bytes: Bytes) -> HeaderValue {
    HeaderValue::from_maybe_shared(bytes).expect("tokens and numbers are visible ASCII")
}
