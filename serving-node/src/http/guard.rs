//! The one place where a request is authorised: which `Host` and which `Origin` may come in.
//!
//! * A web page must not reach a developer's database: bound to loopback, only loopback hosts are taken (so that a name
//!   that was rebound to 127.0.0.1 does not help), and no foreign origin at all unless it is configured.
//! * Source: DESIGN §4; the Fetch standard (CORS).

use super::body::ResponseBody;
use super::errors::Failure;
use duramen_common::ProblemKind;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HOST, HeaderValue, ORIGIN,
    VARY,
};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode, Version};
use std::net::{IpAddr, SocketAddr};

/// Who may come in.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    is_loopback: bool,
    advertised_addr: String,
    allowed_origins: Vec<String>,
}

/// What the guard said of a request that may come in.
pub(crate) enum Admitted {
    /// Of no origin, or of our own.
    Plain,
    /// Of a configured origin: the answer must say so.
    CrossOrigin(HeaderValue),
}

impl Guard {
    /// The guard of a listener.
    pub(crate) fn new(bound: SocketAddr, advertised_addr: String, allowed_origins: Vec<String>) -> Guard {
        Guard { is_loopback: bound.ip().is_loopback(), advertised_addr, allowed_origins }
    }

    /// Lets a request in, or says why not.
    pub(crate) fn admit(&self, parts: &Parts) -> Result<Admitted, Failure> {
        let host = self.check_host(parts)?;
        let mut origins = parts.headers.get_all(ORIGIN).iter();
        let Some(origin) = origins.next() else { return Ok(Admitted::Plain) };
        let refused = || {
            Failure::new(
                ProblemKind::Forbidden,
                "requests from web pages of this origin are not taken: configure it as an allowed origin",
            )
        };
        if origins.next().is_some() {
            return Err(refused());
        }
        let text = origin.to_str().map_err(|_| refused())?;
        if self.allowed_origins.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(text)) {
            return Ok(Admitted::CrossOrigin(origin.clone()));
        }
        let is_known_host = self.is_loopback || host.eq_ignore_ascii_case(&self.advertised_addr);
        let is_own = text.strip_prefix("http://").is_some_and(|authority| authority.eq_ignore_ascii_case(host));
        if is_own && is_known_host { Ok(Admitted::Plain) } else { Err(refused()) }
    }

    /// The request's authority, where it may come in under that.
    fn check_host<'p>(&self, parts: &'p Parts) -> Result<&'p str, Failure> {
        let bad = |detail: &str| Failure::new(ProblemKind::BadRequest, detail);
        let mut hosts = parts.headers.get_all(HOST).iter();
        let host = match hosts.next() {
            Some(host) => host.to_str().map_err(|_| bad("the Host header is not text"))?,
            None if parts.version < Version::HTTP_11 => "localhost",
            None => return Err(bad("the Host header is missing")),
        };
        if hosts.next().is_some() {
            return Err(bad("the Host header stands more than once"));
        }
        let authority = parts.uri.authority().map_or(host, |authority| authority.as_str());
        if self.is_loopback && !(is_loopback(host) && is_loopback(authority)) {
            return Err(Failure::new(
                ProblemKind::Forbidden,
                "this node listens on loopback and takes requests to localhost only: use http://localhost or 127.0.0.1",
            ));
        }
        Ok(authority)
    }
}

/// Whether a `Host` names this machine: `localhost`, 127.0.0.0/8, `[::1]`, each with any port.
fn is_loopback(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((name, port)) => (name, port),
            None => return false,
        },
        None => host.find(':').map_or((host, ""), |at| host.split_at(at)),
    };
    let is_port = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(digits) => digits.len() <= 5 && digits.bytes().all(|byte| byte.is_ascii_digit()),
    };
    let is_address =
        name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback() && address.is_ipv6() == host.starts_with('['));
    is_port && (is_address || name.eq_ignore_ascii_case("localhost"))
}

/// Answers a preflight of a configured origin; `None` where the request is none.
pub(crate) fn preflight(parts: &Parts, admitted: &Admitted) -> Option<Response<ResponseBody>> {
    let is_preflight = parts.method == Method::OPTIONS && parts.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let Admitted::CrossOrigin(_) = admitted else { return None };
    if !is_preflight {
        return None;
    }
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, PUT, DELETE, POST"));
    headers.insert(
        ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static(
            "content-type, if-match, if-none-match, idempotency-key, last-event-id, prefer, read-after",
        ),
    );
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    Some(response)
}

/// Adds what a configured origin needs to read the answer.
pub(crate) fn mark(response: &mut Response<ResponseBody>, admitted: Admitted) {
    let Admitted::CrossOrigin(origin) = admitted else { return };
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(VARY, HeaderValue::from_static("origin"));
    headers.insert(
        ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static("etag, log-timestamp, server-timing, retry-after, idempotency-key"),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for host in ["localhost", "LOCALHOST:7001", "127.0.0.1", "127.0.0.1:7001", "127.8.9.1:1", "[::1]", "[::1]:7001"]
        {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "evil.example:7001",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "[::2]",
            "::1",
            "[::1",
            "[127.0.0.1]",
            "localhost:port",
            "localhost:1:2",
            "0.0.0.0",
            "[::1]x",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
