//! `Station`: the answering side of a node's place in the network.
//!
//! * Holds calls until there is a service, hands them to it, and gives up those under way when it is closed.
//! * Invariant: the service sees no call whose caller it has not let in, or that was meant for another node.

use super::{Call, Shared};
use bytes::Bytes;
use duramen_transport::{CallError, Hello, Peer, Service, Welcome, check_node, introduce};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

/// Where calls are answered.
pub(super) struct Station {
    state: Mutex<State>,
    handling: Arc<Semaphore>,
    held_max: usize,
    /// Becomes true when it is closed.
    closed: watch::Sender<bool>,
}

enum State {
    /// No service yet.
    Waiting(Vec<Call>),
    Open(Arc<dyn Service>),
    Closed,
}

impl Station {
    pub(super) fn new(calls_max: usize, held_max: usize) -> Station {
        Station {
            state: Mutex::new(State::Waiting(Vec::new())),
            handling: Arc::new(Semaphore::new(calls_max)),
            held_max,
            closed: watch::Sender::new(false),
        }
    }

    /// Answers from now on, what has waited first.
    pub(super) fn open(shared: &Arc<Shared>, service: Arc<dyn Service>) {
        let before = std::mem::replace(&mut *shared.station.state.lock(), State::Open(service));
        if let State::Waiting(held) = before {
            for call in held {
                Station::take(shared, call);
            }
        }
    }

    /// Gives up what is under way, and answers no more.
    pub(super) fn close(&self) {
        *self.state.lock() = State::Closed;
        self.closed.send_replace(true);
    }

    /// Takes a call from another node.
    pub(super) fn take(shared: &Arc<Shared>, call: Call) {
        let refused = match &mut *shared.station.state.lock() {
            State::Open(service) => match Arc::clone(&shared.station.handling).try_acquire_owned() {
                Ok(permit) => {
                    let (shared, service) = (Arc::clone(shared), Arc::clone(service));
                    tokio::spawn(async move { handle(&shared, &*service, call, permit).await });
                    return;
                }
                Err(_) => "too many calls are under way here",
            },
            State::Waiting(held) if held.len() < shared.station.held_max => {
                held.push(call);
                return;
            }
            State::Waiting(_) => "this node is starting",
            State::Closed => "this node is stopping",
        };
        shared.send_refusal(&call.from, call.number, refused, None);
    }

    /// Takes a call from this node itself.
    pub(super) fn handle_here(
        &self,
        to: &Peer,
        service: u8,
        hello: Hello,
        data: Bytes,
    ) -> Result<(Welcome, oneshot::Receiver<Bytes>), CallError> {
        let not_sent = |reason: &str| CallError::NotSent { addr: to.addr.clone(), reason: reason.to_owned() };
        let here = match &*self.state.lock() {
            State::Open(service) => Arc::clone(service),
            State::Waiting(_) => return Err(not_sent("this node is starting")),
            State::Closed => return Err(not_sent("this node is stopping")),
        };
        let welcome = introduce(&*here, &hello, &to.addr)?;
        check_node(&to.addr, to.node, &welcome)?;
        let (sender, answered) = oneshot::channel();
        let mut closed = self.closed.subscribe();
        // As on a network, what was sent is handled although its caller gives up.
        tokio::spawn(async move {
            tokio::select! {
                data = here.handle(&hello, service, data) => { let _ = sender.send(data); }
                _ = closed.wait_for(|&closed| closed) => {}
            }
        });
        Ok((welcome, answered))
    }
}

async fn handle(shared: &Shared, service: &dyn Service, call: Call, _permit: OwnedSemaphorePermit) {
    let Call { from, number, service: kind, node, hello, data } = call;
    let admitted = introduce(service, &hello, &shared.name)
        .and_then(|welcome| check_node(&shared.name, node, &welcome).map(|()| welcome));
    let welcome = match admitted {
        Ok(welcome) => welcome,
        Err(CallError::Refused { reason, history, .. }) => {
            return shared.send_refusal(&from, number, &reason, history);
        }
        Err(error) => return shared.send_refusal(&from, number, &error.to_string(), None),
    };
    let mut closed = shared.station.closed.subscribe();
    tokio::select! {
        data = service.handle(&hello, kind, data) => {
            // Who it is may have been decided meanwhile.
            let welcome = service.greet(&hello).unwrap_or(welcome);
            shared.send_answer(&from, number, &welcome, &data);
        }
        _ = closed.wait_for(|&closed| closed) => {}
    }
}
