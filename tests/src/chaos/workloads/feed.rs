//! The feed: writers of single keys and of transactions, and followers that are cut off and come back, at any node.
//!
//! * A follower resumes behind the last id that it was given, until it has seen the round's end.
//! * Each connection must tell exactly what the log holds from its position on, and its ids how far that is: no gap, no
//!   repeat, no other order, over all connections (`checkers::feed`).
//! * Operations are writes and connections.

use super::record::{Asked, Record};
use super::{CAUGHT_UP_WITHIN, Field, PATIENCE, WAIT_SECONDS, Workload, after, pause};
use crate::chaos::book::Slice;
use crate::checkers::feed::{self, FeedConnection, FeedEvent};
use crate::checkers::history::{Counts, Outcome};
use crate::harness::feed::Feed;
use crate::harness::http::{kv, path_of};
use crate::harness::{self, Rng};
use bytes::Bytes;
use duramen_common::{PartitionId, SessionToken};
use serde_json::json;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

const WRITERS: u64 = 3;
const FOLLOWERS: u64 = 3;
/// A connection that is silent for so long is given up: each second there should be a sign.
const SILENCE: Duration = Duration::from_secs(3);
/// A connection that works is given up after at most so long. Unit: milliseconds.
const CONNECTION_MS_MAX: usize = 3_000;

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// A write of these keys in one record.
    Write(Vec<String>),
    /// The feed behind this token.
    Follow(String),
}

/// The workload.
#[derive(Default)]
pub struct Follow {
    pub(super) record: Record<Call, ()>,
    pub(super) connections: Mutex<Vec<FeedConnection>>,
}

impl Workload for Follow {
    fn spawn(self: Arc<Self>, field: &Arc<Field>, askers: &mut JoinSet<()>, followers: &mut JoinSet<()>) {
        for client in 0..WRITERS {
            askers.spawn(write(Arc::clone(&self), Arc::clone(field), client));
        }
        for process in WRITERS..WRITERS + FOLLOWERS {
            followers.spawn(follow(Arc::clone(&self), Arc::clone(field), process));
        }
    }

    fn counts(&self) -> Counts {
        self.record.counts()
    }

    fn story(&self) -> String {
        self.record.story()
    }

    fn check(&self, _field: &Field, slice: &Slice) -> Vec<String> {
        let mut violations = self.record.objections();
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = feed::check(&slice.log, &connections);
        violations.extend(verdict.violations().iter().map(ToString::to_string));
        violations
    }
}

fn prefix(field: &Field) -> String {
    format!("feed/{}/", field.round)
}

async fn write(own: Arc<Follow>, field: Arc<Field>, client: u64) {
    let mut rng = field.rng("feed", client);
    let mut number = 0u64;
    while field.goes_on() {
        number += 1;
        let value = format!("{client}-{number}");
        let tag = rng.below(8);
        let keys: Vec<String> = (0..=rng.below(3)).map(|key| format!("{}{{{tag}}}{key}", prefix(&field))).collect();
        let http = field.serving(&mut rng);
        let (request, expected) = match (keys.as_slice(), rng.below(5)) {
            ([key], 0) => (http.delete(kv(key)), 204),
            ([key], _) => (http.put(kv(key), value), 204),
            (keys, _) => {
                let ops: Vec<_> = keys.iter().map(|key| json!({"put": {"key": key, "value": value}})).collect();
                (http.post("/v1/txn", &json!({"if": [], "ops": ops})), 200)
            }
        };
        let asking = async {
            let answer = request.wait(WAIT_SECONDS).limit(PATIENCE).send().await;
            own.record.judge(Asked::Write, &[expected], answer, |_| ())
        };
        let outcome = own.record.note(client, Call::Write(keys.clone()), asking).await;
        after(&outcome).await;
        pause(&mut rng).await;
    }
}

async fn follow(own: Arc<Follow>, field: Arc<Field>, process: u64) {
    let rng = field.rng("follow", process);
    let token = field.token_of(&field.begin);
    let mut follower = Follower { own, field, process, rng, token };
    let mut deadline: Option<Instant> = None;
    while !follower.has_seen_all() {
        if follower.field.ends().is_some() {
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + CAUGHT_UP_WITHIN);
            if Instant::now() > deadline {
                let what = format!("follower {process} came to {} only within {CAUGHT_UP_WITHIN:?}", follower.token);
                return follower.own.record.object(what);
            }
        }
        follower.connect().await;
    }
}

struct Follower {
    own: Arc<Follow>,
    field: Arc<Field>,
    process: u64,
    rng: Rng,
    /// The last id: behind it, everything is still to come.
    token: SessionToken,
}

impl Follower {
    fn has_seen_all(&self) -> bool {
        let Some(ends) = self.field.ends() else { return false };
        (0..).zip(ends).all(|(partition, end)| {
            let position = self.token.position(PartitionId::new(partition));
            position.map_or(0, |offset| offset.next().get()) >= end
        })
    }

    /// One connection, until it breaks, is silent, or has lasted long enough.
    async fn connect(&mut self) {
        let prefix = prefix(&self.field);
        let query = format!("?prefix={}", path_of(prefix.as_bytes()));
        let asked = self.token.to_string();
        let mut feed = None;
        let asking = async {
            let opened = Feed::open_within(PATIENCE, self.field.serving(&mut self.rng), &query, Some(&asked)).await;
            let head = opened.map(|opened| feed.insert(opened).head.clone());
            self.own.record.judge(Asked::Read, &[200], head, |_| ())
        };
        let outcome = self.own.record.note(self.process, Call::Follow(asked.clone()), asking).await;
        after(&outcome).await;
        let (Some(mut feed), Outcome::Ok(())) = (feed, outcome) else { return };
        let mut connection = FeedConnection {
            reader: format!("follower {}", self.process),
            from: feed.head.timestamp(),
            prefix: Bytes::from(prefix),
            events: Vec::new(),
        };
        let until = Instant::now() + Duration::from_millis(200 + self.rng.below(CONNECTION_MS_MAX) as u64);
        while let Ok(Ok(Some(event))) = timeout_at(until, feed.next(SILENCE)).await {
            match told(&event) {
                Ok(event) => {
                    if let FeedEvent::Change { id: Some(id), .. } | FeedEvent::Progress { id } = &event {
                        self.token = id.clone();
                    }
                    connection.events.push(event);
                }
                Err(why) => self.own.record.object(format!("the feed gave {event:?}: {why}")),
            }
            if self.has_seen_all() {
                break;
            }
        }
        self.own.connections.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}

/// An event, as the checker reads it.
fn told(event: &harness::feed::FeedEvent) -> Result<FeedEvent, String> {
    let token = |text: &str| -> Result<SessionToken, String> { text.parse().map_err(|error| format!("{error}")) };
    let id = event.id.as_deref().map(token).transpose()?;
    if event.kind == "progress" {
        return Ok(FeedEvent::Progress { id: id.ok_or("progress without an id")? });
    }
    let version = token(&event.version())?.single().ok_or("its version is not of one record")?;
    let value = (event.kind == "put").then(|| Bytes::from(event.value()));
    Ok(FeedEvent::Change { version, key: Bytes::from(event.key()), value, id })
}
