//! From a request to its handler and back: authorise, route, answer, count.
//!
//! * Paths are matched on their raw bytes, so that a key's bytes are never touched by a router.
//! * Invariant: every answer that is not a success is a problem.

use super::Api;
use super::body::{RequestBody, ResponseBody};
use super::errors::Failure;
use super::extract::Query;
use super::{batch, feed, guard, kv, scan, status, txn};
use duramen_common::ProblemKind;
use duramen_common::understood::{self, Takes};
use duramen_transport::http::Overtime;
use hyper::body::Body as _;
use hyper::header::{ALLOW, CONTENT_LENGTH, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response};
use std::pin::Pin;
use std::time::Duration;
use tokio::time::Instant;

/// Most headers of a request, and most bytes of them.
const HEADERS_MAX: usize = 100;
const HEADER_BYTES_MAX: usize = 32 * 1024;
/// After the grace of a stop, a read has this long to say by itself why it is not answered.
const STOP_MARGIN: Duration = Duration::from_millis(250);

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Key,
    Scan,
    Batch,
    Txn,
    Feed,
    Status,
    Digest,
    Healthz,
    Readyz,
    Metrics,
    Unknown,
}

const KEY_PREFIX: &str = "/v1/kv/";
const DIGEST_PREFIX: &str = "/v1/partitions/";
const DIGEST_SUFFIX: &str = "/digest";

impl Route {
    /// Names in metrics, in the order of the variants.
    pub(crate) const NAMES: [&'static str; 11] =
        ["key", "scan", "batch", "txn", "feed", "status", "digest", "healthz", "readyz", "metrics", "unknown"];

    /// Its name in metrics.
    pub(crate) fn name(self) -> &'static str {
        Route::NAMES.get(self as usize).copied().unwrap_or("unknown")
    }

    /// What a path names, and the part of it that varies.
    fn of(path: &str) -> (Route, &str) {
        if let Some(raw_key) = path.strip_prefix(KEY_PREFIX) {
            return (Route::Key, raw_key);
        }
        let route = match path {
            "/v1/kv" => Route::Scan,
            "/v1/batch" => Route::Batch,
            "/v1/txn" => Route::Txn,
            "/v1/feed" => Route::Feed,
            "/v1/status" => Route::Status,
            "/healthz" => Route::Healthz,
            "/readyz" => Route::Readyz,
            "/metrics" => Route::Metrics,
            _ => {
                let partition = path.strip_prefix(DIGEST_PREFIX).and_then(|rest| rest.strip_suffix(DIGEST_SUFFIX));
                return partition.map_or((Route::Unknown, ""), |partition| (Route::Digest, partition));
            }
        };
        (route, "")
    }

    const fn allow(self) -> &'static str {
        match self {
            Route::Key => "GET, HEAD, PUT, DELETE",
            Route::Batch | Route::Txn => "POST",
            Route::Feed => "GET",
            _ => "GET, HEAD",
        }
    }

    /// Whether this path is there and takes the method.
    fn takes_method(self, method: &Method) -> bool {
        self != Route::Unknown && self.allow().split(", ").any(|allowed| allowed == method.as_str())
    }
}

/// Answers one request.
pub(crate) async fn answer(api: &Api, request: Request<RequestBody>) -> Response<ResponseBody> {
    let started = Instant::now();
    let (parts, mut body) = request.into_parts();
    let (route, rest) = Route::of(parts.uri.path());
    let mut response = match api.guard.admit(&parts) {
        Err(failure) => failure.into_response(),
        Ok(admitted) => {
            let mut response = match guard::preflight(&parts, &admitted) {
                Some(response) => response,
                None => {
                    let overtime = body.take_overtime();
                    // Boxed: it is some KiB, and each future that held it by value would be moved with it.
                    let handling = Box::pin(handle(api, &parts, &mut body, route, rest));
                    in_time(api, overtime, &parts, handling).await.unwrap_or_else(Failure::into_response)
                }
            };
            guard::mark(&mut response, admitted);
            response
        }
    };
    if parts.method == Method::HEAD {
        strip_body(&mut response);
    }
    api.metrics.answered(route, response.status().as_u16(), started.elapsed());
    response
}

/// Ends what still reads when the node stops. Writes end by themselves, in words that say what may have happened.
async fn in_time(
    api: &Api,
    overtime: Option<Overtime>,
    parts: &Parts,
    handling: Pin<Box<impl Future<Output = Result<Response<ResponseBody>, Failure>>>>,
) -> Result<Response<ResponseBody>, Failure> {
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        return handling.await;
    }
    let late = async {
        match overtime {
            Some(overtime) => overtime.passed().await,
            None => api.stop.overtime().await,
        }
        tokio::time::sleep(STOP_MARGIN).await;
    };
    tokio::select! {
        biased;
        handled = handling => handled,
        () = late => {
            Err(Failure::new(ProblemKind::NoLeader, "this node is stopping: nothing was read, ask another node"))
        }
    }
}

async fn handle(
    api: &Api,
    parts: &Parts,
    body: &mut RequestBody,
    route: Route,
    rest: &str,
) -> Result<Response<ResponseBody>, Failure> {
    check_headers(parts)?;
    let method = &parts.method;
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    if route.takes_method(method) {
        check_understood(parts, body, route)?;
    }
    match route {
        Route::Key if is_read => kv::get(api, api.partitions()?, parts, rest).await,
        Route::Key if *method == Method::PUT => kv::put(api, api.partitions_to_write()?, parts, body, rest).await,
        Route::Key if *method == Method::DELETE => kv::delete(api, api.partitions_to_write()?, parts, rest).await,
        Route::Scan if is_read => scan::get(api, api.partitions()?, parts).await,
        Route::Batch if *method == Method::POST => batch::post(api, api.partitions_to_write()?, parts, body).await,
        Route::Txn if *method == Method::POST => txn::post(api, api.partitions_to_write()?, parts, body).await,
        Route::Feed if *method == Method::GET => feed::get(api, api.partitions()?, parts).await,
        Route::Status if is_read => status::status(api, api.partitions()?).await,
        Route::Digest if is_read => status::digest(api, api.partitions()?, parts, rest).await,
        Route::Healthz if is_read => Ok(status::healthz()),
        Route::Readyz if is_read => status::readyz(api),
        Route::Metrics if is_read => status::metrics(api),
        Route::Unknown => {
            Err(Failure::new(ProblemKind::NotFound, "no such path: docs/http-api.md lists what there is"))
        }
        _ => Err(Failure::new(
            ProblemKind::MethodNotAllowed,
            format!("{method} is not for this path: it takes {}", route.allow()),
        )
        .header(ALLOW, HeaderValue::from_static(route.allow()))),
    }
}

/// Refuses what the handler would not look at and the caller may rely on: conditions, encodings, parameters, a body.
fn check_understood(parts: &Parts, body: &RequestBody, route: Route) -> Result<(), Failure> {
    let method = &parts.method;
    let is_key = route == Route::Key;
    let takes = Takes {
        is_write: matches!(*method, Method::PUT | Method::POST | Method::DELETE),
        if_match: is_key && matches!(*method, Method::PUT | Method::DELETE),
        if_none_match: is_key && *method != Method::DELETE,
    };
    let headers = parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    understood::check_headers(takes, headers)?;
    if takes.is_write && parts.uri.query() == Some("") {
        let detail = "the path ends in '?': in a key it is written %3F, and a write takes no query";
        return Err(Failure::new(ProblemKind::BadRequest, detail));
    }
    // Reads of keys say themselves what they take.
    let is_read_of_keys = matches!(route, Route::Key | Route::Scan | Route::Feed | Route::Digest);
    if takes.is_write || !is_read_of_keys {
        Query::parse(parts.uri.query(), &[])?;
    }
    if !matches!(*method, Method::PUT | Method::POST) && !body.is_end_stream() {
        return Err(understood::unexpected_body(method.as_str()).into());
    }
    Ok(())
}

/// hyper bounds what it reads at all; this says which limit was passed, in our own words.
fn check_headers(parts: &Parts) -> Result<(), Failure> {
    if parts.headers.len() > HEADERS_MAX {
        return Err(Failure::too_large("the number of headers", HEADERS_MAX));
    }
    let bytes: usize = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if bytes > HEADER_BYTES_MAX {
        return Err(Failure::too_large("the headers' length", HEADER_BYTES_MAX));
    }
    Ok(())
}

/// HEAD: the same head as GET, the length included.
fn strip_body(response: &mut Response<ResponseBody>) {
    let length = response.body().size_hint().exact().unwrap_or(0);
    *response.body_mut() = ResponseBody::empty();
    if response.status() != hyper::StatusCode::NOT_MODIFIED && response.status() != hyper::StatusCode::NO_CONTENT {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}
