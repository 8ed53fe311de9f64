//! The HTTP API of a log node: append, read, tail, cluster, health, metrics.
//!
//! * In: HTTP/1.1 on one port. Out: JSON, NDJSON, `application/problem+json`.
//! * Connections are accepted, bounded and ended in `duramen_transport::http`, as at a serving node.
//! * One place where a request is let in (`admit`): host and origin are checked there, and reads that still wait when the
//!   node stops are answered there.
//! * Deliberately absent: keys and values as an API (the serving node has it).
//! * Source: DESIGN §4 "Log node".

mod answer;
mod append;
mod forward;
mod read;
mod records;
mod understood;

use self::answer::{Refused, json};
use super::problems::partitions_named;
use super::shared::Shared;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, CONTENT_TYPE, HOST, ORIGIN, VARY,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use duramen_common::budget::Budget;
use duramen_common::guard::HostGuard;
use duramen_common::{Problem, ProblemKind};
use duramen_transport::http::{Handler, HttpCollector, HttpStats, RequestBody, Stop, Stopper, serve};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tower_service::Service as _;

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
    stop: Stop,
}

/// The HTTP server of a node.
pub(super) struct HttpServer {
    addr: SocketAddr,
    stopper: Stopper,
    grace: Duration,
    task: JoinHandle<()>,
}

/// Answers by axum's routes.
#[derive(Clone)]
struct ByRoutes(Router);

impl Handler for ByRoutes {
    type Body = Body;

    async fn answer(&self, request: axum::http::Request<RequestBody>) -> Response {
        match self.0.clone().call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

impl HttpServer {
    /// Serves on a bound listener. Panics when the listener has no address.
    pub(super) fn start(listener: TcpListener, shared: Arc<Shared>) -> HttpServer {
        let addr = listener.local_addr().expect("a bound listener has an address");
        let guard = Arc::new(HostGuard::listening_on(addr, shared.config.http_origins.clone()));
        let stopper = Stopper::default();
        let mut limits = shared.config.http.clone();
        let stats = Arc::new(HttpStats::default());
        let collector = Box::new(HttpCollector(Arc::clone(&stats)));
        shared.registry.lock().sub_registry_with_prefix("duramen").register_collector(collector);
        let answers = Budget::new(shared.config.limits.answer_bytes_max);
        limits.budgets = vec![answers.clone()];
        let pages = Arc::new(Semaphore::new(PAGES_MAX));
        let routes = ByRoutes(router(Api { shared, guard, answers, pages, stop: stopper.stop() }));
        let grace = limits.stop_grace;
        let task = tokio::spawn(serve(listener, routes, limits, stats, stopper.stop()));
        HttpServer { addr, stopper, grace, task }
    }

    /// Where it listens.
    pub(super) fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops listening. What is under way ends by itself, or is answered a little later that the node stops.
    pub(super) async fn shutdown(self) {
        self.stopper.ask();
        let mut task = self.task;
        if timeout(self.grace, &mut task).await.is_err() {
            self.stopper.end_grace();
            let _ = task.await;
        }
    }
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
        // An append ends by itself, in words that say what may have happened.
        let is_append = method == Method::POST;
        tokio::select! {
            biased;
            response = next.run(request) => response,
            () = api.stop.overtime(), if !is_append => Refused::from(cut_off()).into_response(),
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

/// What a read is answered that still waits when the node stops.
fn cut_off() -> Problem {
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
    match unready(&api.shared) {
        None => json(StatusCode::OK, &serde_json::json!({"status": "ready"})),
        Some(why) => {
            let problem = Problem::new(ProblemKind::NoLeader, format!("this node is not ready: {why}"));
            Refused::from(problem.with("stage", api.shared.stage())).into_response()
        }
    }
}

/// Why a node is not ready now; `None` when it is.
fn unready(shared: &Shared) -> Option<String> {
    let running = match shared.running() {
        Some(running) if shared.failure.borrow().is_none() && running.meta_view.is_created() => running,
        _ => return Some(shared.stage()),
    };
    let leaderless = shared.leaderless(&running);
    if leaderless.is_empty() {
        return None;
    }
    let silence_ms = shared.config.limits.leader_silence_ms_max;
    Some(format!(
        "no leader of {} was confirmed within {silence_ms} ms: writes and linearizable reads fail until a majority of the \
         log nodes reach each other",
        partitions_named(&leaderless)
    ))
}

async fn metrics(State(api): State<Api>) -> Response {
    if let Some(running) = api.shared.running() {
        for partition in running.all() {
            api.shared.metrics.set_leader(partition.id, api.shared.leader_now(partition));
        }
    }
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &api.shared.registry.lock()) {
        Ok(()) => {
            let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
            ([(CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
