//! A service whose answers the tests steer, and hellos.

#![allow(dead_code, reason = "each test file uses its part")]

use bytes::Bytes;
use duramen_common::{HistoryId, NodeId, StoreId};
use duramen_transport::{Hello, HelloRefusal, Peer, Role, Service, Welcome};
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Answers at once with service number and body.
pub const ECHO: u8 = 1;
/// Answers when the test adds a permit to `gate`.
pub const GATED: u8 = 2;
/// Answers with as many bytes as the body's little-endian u32 says.
pub const SIZED: u8 = 3;
/// Answers when as many are under way as the body's little-endian u32 says.
pub const MEET: u8 = 4;

pub const LONG: Duration = Duration::from_secs(30);

pub fn history(bits: u32) -> HistoryId {
    HistoryId::from_bits(bits)
}

pub struct Scripted {
    pub welcome: Welcome,
    pub gate: Arc<Semaphore>,
    /// Requests that have begun and ended.
    pub begun: Arc<AtomicUsize>,
    pub ended: Arc<AtomicUsize>,
    meeting: Arc<tokio::sync::watch::Sender<u32>>,
}

impl Scripted {
    pub fn new(node: u64, history: Option<HistoryId>) -> Arc<Scripted> {
        Arc::new(Scripted {
            welcome: Welcome { node: NodeId::new(node), store: StoreId::from_bits(9), history },
            gate: Arc::new(Semaphore::new(0)),
            begun: Arc::default(),
            ended: Arc::default(),
            meeting: Arc::new(tokio::sync::watch::Sender::new(0)),
        })
    }
}

impl Service for Scripted {
    fn greet(&self, hello: &Hello) -> Result<Welcome, HelloRefusal> {
        match &hello.role {
            Role::Client { name } if name == "unwanted" => {
                Err(HelloRefusal { reason: "you are not wanted: change your name".to_owned() })
            }
            Role::Client { name } if name == "judged" && hello.history != self.welcome.history => match hello.history {
                None => Ok(self.welcome.clone()),
                Some(_) => Err(HelloRefusal { reason: "another history".to_owned() }),
            },
            _ => Ok(self.welcome.clone()),
        }
    }

    fn handle(&self, _caller: &Hello, service: u8, body: Bytes) -> BoxFuture<'static, Bytes> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let (gate, ended, meeting) = (Arc::clone(&self.gate), Arc::clone(&self.ended), Arc::clone(&self.meeting));
        Box::pin(async move {
            let number = body.first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
            let answer = match service {
                GATED => {
                    gate.acquire().await.unwrap().forget();
                    body
                }
                SIZED => Bytes::from(vec![7; number as usize]),
                MEET => {
                    meeting.send_modify(|count| *count += 1);
                    meeting.subscribe().wait_for(|&count| count >= number).await.unwrap();
                    body
                }
                _ => Bytes::from([&[service][..], &body].concat()),
            };
            ended.fetch_add(1, Ordering::SeqCst);
            answer
        })
    }
}

pub fn hello(name: &str, history: Option<HistoryId>) -> Box<dyn Fn() -> Hello + Send + Sync> {
    let hello = Hello { role: Role::Client { name: name.to_owned() }, history };
    Box::new(move || hello.clone())
}

pub fn peer(addr: &str) -> Peer {
    Peer { addr: addr.to_owned(), node: None }
}

/// Waits until a condition holds; fails after half a minute.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + LONG;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
