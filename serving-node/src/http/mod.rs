//! The HTTP API of a serving node: the contract of DESIGN §4, written out in docs/http-api.md.
//!
//! * In: connections. Out: answers, each naming the logical time that it speaks of.
//! * `accept` hands the port to the one loop that accepts connections (`duramen_transport::http`), `guard` the one where a request is authorised, `router` finds
//!   the handler; `extract` reads requests, `errors` writes refusals; `reads` is consistency.
//! * Built on hyper itself: keys are raw path bytes, and a general router would decode them.
//! * Invariant: nothing here decides an order; the log does.

mod accept;
mod batch;
mod body;
mod cursor;
mod errors;
mod extract;
mod feed;
mod feed_line;
mod feed_reader;
mod feeding;
mod guard;
mod headers;
mod key_places;
mod kv;
mod metrics;
mod ops;
mod page;
mod reads;
mod router;
mod scan;
mod status;
mod txn;

pub(crate) use accept::run;
pub(crate) use status::watch_leaders;

use crate::index::IndexHealth;
use crate::node::ServingNodeConfig;
use crate::partitions::Partitions;
use crate::registration::NameProblem;
pub use body::ResponseBody;

use crate::stoppable_log::StoppableLog;
use body::RequestBody;
use bytes::Bytes;
use duramen_common::ProblemKind;
use duramen_common::budget::{Budget, Exhausted, Room};
use duramen_common::log::Log;
use duramen_common::seams::Seams;
use duramen_transport::http::{HttpLimits, HttpStats, Stop};
use errors::Failure;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response};
use parking_lot::Mutex;
use serde::Serialize;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use tokio::sync::{Semaphore, watch};

/// Digests that are computed at once; each reads a whole partition.
const DIGESTS_MAX: usize = 1;
/// Scans that read at once. Each holds up to a page, its JSON, and what it is just reading.
const SCANS_MAX: usize = 4;

/// What all handlers share.
pub(crate) struct Api {
    config: ServingNodeConfig,
    log: Arc<dyn Log>,
    seams: Seams,
    guard: guard::Guard,
    /// There once the log has said what the cluster is.
    partitions: OnceLock<Partitions>,
    metrics: metrics::Metrics,
    feeds: Arc<Semaphore>,
    digests: Semaphore,
    scans: Semaphore,
    /// What answers hold until they are taken.
    answers: Budget,
    feeding: Arc<feeding::Feeding>,
    leaders: Mutex<Option<status::Leaders>>,
    /// Why this node does not have its name.
    pub(crate) name_problem: NameProblem,
    key_places: key_places::KeyPlaces,
    stop: Stop,
    stopping: watch::Receiver<bool>,
    /// What the listener counts; zeros without a port.
    listener: Arc<HttpStats>,
    health: Arc<IndexHealth>,
}

impl Api {
    pub(crate) fn new(
        config: ServingNodeConfig,
        bound: SocketAddr,
        log: Arc<dyn Log>,
        seams: Seams,
        stop: Stop,
        health: Arc<IndexHealth>,
    ) -> Api {
        let lines_dropped = Arc::clone(&config.log_lines_dropped);
        let advertised_addr = config.advertised_addr.clone().unwrap_or_else(|| bound.to_string());
        let listener: Arc<HttpStats> = Arc::default();
        Api {
            guard: guard::Guard::new(bound, advertised_addr, config.allowed_origins.clone()),
            feeds: Arc::new(Semaphore::new(config.feeds_max)),
            digests: Semaphore::new(DIGESTS_MAX),
            scans: Semaphore::new(SCANS_MAX),
            answers: Budget::new(config.answer_bytes_max),
            feeding: Arc::new(feeding::Feeding::new(config.feed_bytes_max)),
            config,
            log: Arc::new(StoppableLog::new(log, stop.clone())),
            seams,
            partitions: OnceLock::new(),
            metrics: metrics::Metrics::new(Arc::clone(&listener), lines_dropped),
            leaders: Mutex::new(None),
            name_problem: NameProblem::default(),
            key_places: key_places::KeyPlaces::default(),
            stopping: stop.asked_channel(),
            stop,
            listener,
            health,
        }
    }

    /// Answers a request that came by another way than a connection.
    pub(crate) async fn answer(&self, request: Request<Bytes>) -> Response<ResponseBody> {
        let whole = |body: Bytes| RequestBody::Full((!body.is_empty()).then_some(body));
        router::answer(self, request.map(whole)).await
    }

    /// From now on the API serves.
    pub(crate) fn open(&self, partitions: Partitions) {
        let _ = self.partitions.set(partitions);
    }

    /// The partitions, once they are there.
    fn partitions(&self) -> Result<&Partitions, Failure> {
        if let Some(why) = self.health.cannot_open() {
            return self.partitions.get().ok_or_else(|| Failure::starting(format!("this node is starting: {why}")));
        }
        self.partitions.get().ok_or_else(|| match self.health.check.entries() {
            (0, _) => Failure::starting("this node is starting: it has not reached the log yet"),
            (entries, expected) => Failure::starting(format!(
                "this node is starting: it has checked {entries} of {expected} entries of its index"
            )),
        })
    }

    /// The partitions, for a write: while they are not there, nothing can have been appended.
    fn partitions_to_write(&self) -> Result<&Partitions, Failure> {
        let starting = "this node is starting and has not reached the log yet: nothing was appended, ask another node";
        self.partitions.get().ok_or_else(|| Failure::new(ProblemKind::NoLeader, starting))
    }

    /// As [`Api::partitions`], for those who do without.
    pub(crate) fn served(&self) -> Option<&Partitions> {
        self.partitions.get()
    }

    /// The body of an answer that was made without asking for room: 429 where there is none.
    fn whole(&self, bytes: Bytes) -> Result<ResponseBody, Failure> {
        let mut room = Room::default();
        if !room.try_cover(&self.answers, bytes.len()) {
            return Err(Failure::exhausted(&Exhausted { limit: self.answers.bytes_max() }));
        }
        Ok(ResponseBody::full(room.keep(bytes)))
    }

    /// Limits of the port.
    pub(crate) fn http_limits(&self) -> &HttpLimits {
        &self.config.http
    }

    fn open_feeds(&self) -> usize {
        self.config.feeds_max - self.feeds.available_permits()
    }
}

/// Resolves when the node stops.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// An answer of JSON.
fn json<T: Serialize>(body: &T) -> Response<ResponseBody> {
    let body = serde_json::to_vec(body).expect("answers are plain JSON");
    of_json(ResponseBody::full(Bytes::from(body)))
}

/// An answer of JSON that is written.
fn of_json(body: ResponseBody) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests;
