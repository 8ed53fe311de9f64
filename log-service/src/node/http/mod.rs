//! The HTTP API of a log node: append, read, tail, cluster, health, metrics.
//!
//! * In: HTTP/1.1 on one port. Out: JSON, NDJSON, `application/problem+json`.
//! * One place where a request is let in (`admit`): host and origin are checked there, and what still runs when the node
//!   stops is answered there.
//! * Deliberately absent: keys and values as an API (the serving node has it).
//! * Source: DESIGN §4 "Log node".

mod answer;
mod append;
mod forward;
mod read;
mod records;
mod understood;

use self::answer::{Refused, json};
use super::shared::Shared;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, CONTENT_TYPE, HOST, ORIGIN, VARY,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use duramen_common::budget::Budget;
use duramen_common::guard::HostGuard;
use duramen_common::{Problem, ProblemKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long requests under way may take once the node stops.
const FAREWELL: Duration = Duration::from_secs(1);

/// Pages of records that are read at once; each holds up to a page, and what one fetch gave.
const PAGES_MAX: usize = 4;

/// What handlers need.
#[derive(Clone)]
struct Api {
    shared: Arc<Shared>,
    guard: Arc<HostGuard>,
    /// What answers hold until they are taken.
    answers: Budget,
    /// Turns to read a page.
    pages: Arc<Semaphore>,
    stopped: watch::Receiver<bool>,
}

/// The HTTP server of a node.
pub(super) struct HttpServer {
    addr: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl HttpServer {
    /// Serves on a bound listener. Panics when the listener has no address.
    pub(super) fn start(listener: TcpListener, shared: Arc<Shared>) -> HttpServer {
        let addr = listener.local_addr().expect("a bound listener has an address");
        let guard = Arc::new(HostGuard::listening_on(addr, shared.config.http_origins.clone()));
        let (stop, stopped) = watch::channel(false);
        let answers = Budget::new(shared.config.limits.answer_bytes_max);
        let pages = Arc::new(Semaphore::new(PAGES_MAX));
        let router = router(Api { shared, guard, answers, pages, stopped: stopped.clone() });
        let listener = listener.tap_io(|stream| {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY is not set");
            }
        });
        let task = tokio::spawn(async move {
            let serving = axum::serve(listener, router).with_graceful_shutdown(until(stopped));
            if let Err(error) = serving.await {
                tracing::warn!(%error, "the HTTP server ended");
            }
        });
        HttpServer { addr, stop, task }
    }

    /// Where it listens.
    pub(super) fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops listening; what is under way is answered, or cut off a little later.
    pub(super) async fn shutdown(self) {
        self.stop.send_replace(true);
        let task = self.task;
        let aborter = task.abort_handle();
        if timeout(FAREWELL, task).await.is_err() {
            aborter.abort();
        }
    }
}

/// Returns when the node stops.
async fn until(mut stopped: watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = stopped.wait_for(|&stopped| stopped).await;
}

fn router(api: Api) -> Router {
    Router::new()
        .route("/v1/log/{partition}", post(append::append).get(read::records))
        .route("/v1/log/{partition}/tail", get(read::tail))
        .route("/v1/cluster", get(read::cluster))
        .route("/healthz", get(health))
        .route("/readyz", get(readiness))
        .route("/metrics", get(metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(api.clone(), admit))
        .with_state(api)
}

/// Lets a request in, or not.
async fn admit(State(api): State<Api>, request: Request, next: Next) -> Response {
    let origin = text(request.headers(), &ORIGIN).map(str::to_owned);
    if let Err(problem) = api.guard.check(text(request.headers(), &HOST), origin.as_deref()) {
        return Refused::from(problem).into_response();
    }
    let method = request.method().clone();
    let is_preflight = origin.is_some() && method == Method::OPTIONS;
    let mut response = if is_preflight {
        StatusCode::NO_CONTENT.into_response()
    } else if let Err(problem) = understood::check(&request) {
        Refused::from(problem).into_response()
    } else {
        tokio::select! {
            response = next.run(request) => response,
            () = until(api.stopped.clone()) => Refused::from(cut_off(&method)).into_response(),
        }
    };
    if let Some(origin) = origin.and_then(|origin| HeaderValue::from_str(&origin).ok()) {
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(VARY, HeaderValue::from_static("Origin"));
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("Content-Type, Idempotency-Key, Prefer"));
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Log-Timestamp, Retry-After"));
    }
    response
}

/// What a request is answered that still runs when the node stops.
fn cut_off(method: &Method) -> Problem {
    if *method == Method::POST {
        let detail = "this node is stopping; what was sent may or may not be appended";
        return Problem::new(ProblemKind::OutcomeUnknown, detail);
    }
    Problem::new(ProblemKind::NoLeader, "this node is stopping: nothing was read, ask another node")
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

async fn not_found() -> Refused {
    Problem::new(ProblemKind::NotFound, "there is nothing at this path").into()
}

async fn method_not_allowed() -> Refused {
    Problem::new(ProblemKind::MethodNotAllowed, "this path does not take this method").into()
}

async fn health(State(api): State<Api>) -> Response {
    let failure = api.shared.failure.borrow().as_ref().map(ToString::to_string);
    match failure {
        None => json(StatusCode::OK, &serde_json::json!({"status": "ok"})),
        Some(reason) => {
            let detail = format!("this node cannot go on: {reason}; restart it");
            let problem = Problem::new(ProblemKind::NoLeader, detail);
            Refused::from(problem.with("reason", reason)).into_response()
        }
    }
}

async fn readiness(State(api): State<Api>) -> Response {
    let node = api.shared.config.node;
    let is_ready =
        api.shared.failure.borrow().is_none() && api.shared.running().is_some_and(|running| running.is_ready(node));
    if is_ready {
        return json(StatusCode::OK, &serde_json::json!({"status": "ready"}));
    }
    let stage = api.shared.stage();
    let problem = Problem::new(ProblemKind::NoLeader, format!("this node is not ready: {stage}"));
    Refused::from(problem.with("stage", stage)).into_response()
}

async fn metrics(State(api): State<Api>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &api.shared.registry.lock()) {
        Ok(()) => {
            let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
            ([(CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_append_that_is_cut_off_has_an_unknown_outcome() {
        assert_eq!(cut_off(&Method::POST).kind, ProblemKind::OutcomeUnknown);
        for method in [Method::GET, Method::HEAD] {
            assert_eq!(cut_off(&method).kind, ProblemKind::NoLeader);
        }
    }
}
