//! Refuses what a log node's handlers would not look at and a caller may rely on: conditions, encodings, parameters, bodies.
//!
//! * In: a request whose path is known. Out: a problem that names the header or the parameter.
//! * The rules are `duramen_common::understood`, the same as a serving node's.
//! * Source: DESIGN §4.

use super::read::PARAMETERS;
use axum::body::HttpBody as _;
use axum::extract::Request;
use axum::http::Method;
use duramen_common::Problem;
use duramen_common::understood::{self, Takes};

/// Checks one request. A path that is not there is left to whoever answers for it.
pub(super) fn check(request: &Request) -> Result<(), Problem> {
    let (method, path) = (request.method(), request.uri().path());
    let is_log = path.starts_with("/v1/log/");
    let is_known = is_log || matches!(path, "/v1/cluster" | "/healthz" | "/readyz" | "/metrics");
    let is_append = is_log && *method == Method::POST;
    if !is_known || !(is_append || matches!(*method, Method::GET | Method::HEAD)) {
        return Ok(());
    }
    let takes = Takes { is_write: is_append, ..Takes::default() };
    let headers = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    understood::check_headers(takes, headers)?;
    let known: &[&str] = if is_log && !is_append && !path.ends_with("/tail") { &PARAMETERS } else { &[] };
    for pair in request.uri().query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name);
        if !known.contains(&name) {
            return Err(understood::unknown_parameter(name.as_bytes(), known));
        }
    }
    if !is_append && !request.body().is_end_stream() {
        return Err(understood::unexpected_body(method.as_str()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn check_of(method: &str, target: &str, headers: &[(&str, &str)], body: &'static str) -> Result<(), Problem> {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = if body.is_empty() { Body::empty() } else { Body::from(body) };
        check(&request.body(body).unwrap())
    }

    #[test]
    fn what_a_log_node_does_not_understand_is_refused() {
        for (method, target, headers, body) in [
            ("GET", "/v1/log/0?form=7", &[][..], ""),
            ("GET", "/v1/log/0/tail?from=7", &[], ""),
            ("POST", "/v1/log/0?wait=2", &[], "x"),
            ("GET", "/v1/cluster?verbose", &[], ""),
            ("GET", "/metrics?x=1", &[], ""),
            ("GET", "/v1/log/0", &[], "a body"),
            ("GET", "/v1/log/0", &[("if-match", "*")], ""),
            ("POST", "/v1/log/0", &[("if-none-match", "*")], "x"),
            ("POST", "/v1/log/0", &[("content-encoding", "gzip")], "x"),
            ("POST", "/v1/log/0", &[("content-range", "bytes 1-2/3")], "x"),
            ("POST", "/v1/log/0", &[("idempotency-key", "a"), ("idempotency-key", "b")], "x"),
        ] {
            assert!(check_of(method, target, headers, body).is_err(), "{method} {target} {headers:?} was taken");
        }
        for (method, target, headers, body) in [
            ("GET", "/v1/log/0?from=7&limit=3&wait=1", &[][..], ""),
            ("HEAD", "/healthz", &[], ""),
            ("POST", "/v1/log/0", &[("idempotency-key", "a"), ("content-type", "application/x-ndjson")], "x"),
            ("GET", "/nothing?x=1", &[], ""),
        ] {
            assert_eq!(check_of(method, target, headers, body), Ok(()), "{method} {target}");
        }
    }
}
