//! What runs on hosts: log nodes and serving nodes, the real ones, started and looked at from outside.
//!
//! * In: a life that has begun. Out: a node, once it has started; why it ended, when it did by itself.
//! * HTTP requests come as packets; an answer's pieces go back as they come, and a client that goes away ends its request.
//! * Deliberately absent: what happens to hosts (`cluster`, `faults`).

use super::disk::SimDisk;
use super::host::Life;
use super::network::HostId;
use super::packet::{Load, Place};
use super::wire::{SimEndpoint, Wire};
use bytes::Bytes;
use duramen_client::log_client::{HistoryPin, LogClient, LogClientConfig};
use duramen_common::seams::Seams;
use duramen_log_service::node::{LogNode, LogNodeConfig};
use duramen_serving_node::http::ResponseBody;
use duramen_serving_node::{ServingNode, ServingNodeConfig};
use http_body_util::BodyExt as _;
use hyper::Request;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// A node of either kind, from its start to its end.
pub struct Process<N> {
    node: Arc<Mutex<Option<Arc<N>>>>,
    ended: Arc<Mutex<Option<String>>>,
    stop: Arc<Notify>,
}

impl<N> Default for Process<N> {
    fn default() -> Process<N> {
        Process { node: Arc::default(), ended: Arc::default(), stop: Arc::default() }
    }
}

impl<N> Process<N> {
    /// The node, once it has started.
    #[must_use]
    pub fn node(&self) -> Option<Arc<N>> {
        self.node.lock().clone()
    }

    /// Why it cannot go on, when it cannot.
    #[must_use]
    pub fn ended(&self) -> Option<String> {
        self.ended.lock().clone()
    }

    /// Asks it to stop cleanly; [`Process::ended`] says when it has.
    pub fn stop(&self) {
        self.stop.notify_one();
    }

    /// Lets go of the node, for its own stop or the end of its runtime.
    pub fn take(&self) -> Option<Arc<N>> {
        self.node.lock().take()
    }
}

/// Starts a log node in a life.
#[must_use]
pub fn start_log_node(life: &Life, name: &str, config: LogNodeConfig, seams: Seams, disk: SimDisk) -> Process<LogNode> {
    let process = Process::default();
    let Process { node: slot, ended, stop } = &process;
    let (slot, ended, stop) = (Arc::clone(slot), Arc::clone(ended), Arc::clone(stop));
    let endpoint = Box::new(SimEndpoint { wire: life.wire.clone(), name: name.to_owned() });
    life.runtime.spawn(async move {
        match LogNode::start_at(config, seams, Arc::new(disk), endpoint).await {
            Err(error) => *ended.lock() = Some(error.to_string()),
            Ok(node) => {
                let node = Arc::new(node);
                *slot.lock() = Some(Arc::clone(&node));
                tokio::select! {
                    error = node.failed() => *ended.lock() = Some(error.to_string()),
                    () = stop.notified() => {
                        drop(slot.lock().take());
                        // From outside it is looked at only between the steps of its host.
                        let node = Arc::into_inner(node).expect("nobody else holds it");
                        node.shutdown().await;
                        *ended.lock() = Some("stopped cleanly".to_owned());
                    }
                }
            }
        }
    });
    process
}

/// Starts a serving node in a life.
#[must_use]
pub fn start_serving_node(
    life: &Life,
    config: ServingNodeConfig,
    log_config: LogClientConfig,
    seams: Seams,
) -> Process<ServingNode> {
    let process = Process::default();
    let (slot, ended) = (Arc::clone(&process.node), Arc::clone(&process.ended));
    let log = log_client(&life.wire, log_config, &config.name, seams.clone(), &life.runtime);
    life.runtime.spawn(async move {
        match ServingNode::start_without_port(config, Arc::new(log), seams).await {
            Err(error) => *ended.lock() = Some(error.to_string()),
            Ok(node) => {
                let node = Arc::new(node);
                *slot.lock() = Some(Arc::clone(&node));
                *ended.lock() = Some(node.failed().await);
            }
        }
    });
    process
}

/// A client of the log on a host.
#[must_use]
pub fn log_client(
    wire: &Wire,
    mut config: LogClientConfig,
    name: &str,
    seams: Seams,
    runtime: &tokio::runtime::Runtime,
) -> LogClient {
    config.history = HistoryPin::default();
    let transport = wire.transport(config.history.hello(name));
    let _within = runtime.enter();
    LogClient::new(config, transport, seams)
}

/// HTTP requests under way at a serving node.
#[derive(Clone, Default)]
pub struct Front {
    under_way: Arc<Mutex<BTreeMap<(HostId, u64), AbortHandle>>>,
}

impl Front {
    /// Answers a request. Within the host's runtime.
    pub fn answer(&self, wire: &Wire, node: Option<Arc<ServingNode>>, from: Place, call: u64, request: Request<Bytes>) {
        let (wire, front) = (wire.clone(), self.clone());
        let task = tokio::spawn(async move {
            match node {
                None => {
                    let answer = Err(super::packet::HttpLoss::Refused);
                    wire.send(from.host, Some(from.life), Load::HttpAnswer { call, answer, streams: false });
                }
                Some(node) => respond(&wire, &node, from, call, request).await,
            }
            front.under_way.lock().remove(&(from.host, call));
        });
        self.under_way.lock().insert((from.host, call), task.abort_handle());
    }

    /// Ends a request whose client has gone.
    pub fn gone(&self, from: HostId, call: u64) {
        if let Some(task) = self.under_way.lock().remove(&(from, call)) {
            task.abort();
        }
    }
}

async fn respond(wire: &Wire, node: &ServingNode, from: Place, call: u64, request: Request<Bytes>) {
    let (head, body) = node.answer(request).await.into_parts();
    let to_life = Some(from.life);
    let streams = matches!(body, ResponseBody::Stream(_));
    let mut body = body;
    let whole = if streams { Bytes::new() } else { next_piece(&mut body).await.unwrap_or_default() };
    let answer = Ok(Box::new(hyper::Response::from_parts(head, whole)));
    wire.send(from.host, to_life, Load::HttpAnswer { call, answer, streams });
    if streams {
        while let Some(bytes) = next_piece(&mut body).await {
            wire.send(from.host, to_life, Load::Piece { call, bytes: Some(bytes) });
        }
        wire.send(from.host, to_life, Load::Piece { call, bytes: None });
    }
}

async fn next_piece(body: &mut ResponseBody) -> Option<Bytes> {
    body.frame().await?.ok()?.into_data().ok()
}
