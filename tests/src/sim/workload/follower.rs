//! A follower of the feed: cut off again and again, it goes on behind the last id that it was given, at any node.
//!
//! * Invariant: it ends only once it was told everything that anybody knows of.

use super::super::packet::HttpLoss;
use super::super::wire::Stream;
use super::Stage;
use super::caller::{Answer, Call, is_definite_refusal};
use crate::checkers::Outcome;
use crate::checkers::feed::{FeedConnection, FeedEvent};
use crate::harness::{Rng, feed};
use bytes::Bytes;
use duramen_common::{Offset, SessionToken};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// Prefixes of what followers ask for: all keys, and some.
const PREFIXES: [&str; 3] = ["", "", "k1"];
/// A connection that is silent for so long is given up: each second there should be a sign.
const SILENCE: Duration = Duration::from_millis(2_500);
/// Shortest and longest time of a connection that works. Unit: milliseconds.
const CONNECTION_MS: (u64, u64) = (50, 4_000);

/// A follower.
pub struct Follower {
    /// Its number.
    pub number: u64,
    stage: Stage,
    rng: Rng,
    prefix: &'static str,
    /// The last id: behind it, everything is still to come.
    token: Option<SessionToken>,
}

impl Follower {
    /// A follower that has been told nothing.
    #[must_use]
    pub fn new(number: u64, stage: Stage, mut rng: Rng) -> Follower {
        let prefix = *rng.pick(&PREFIXES);
        Follower { number, stage, rng, prefix, token: None }
    }

    /// Follows until the stage has ended and there is nothing more.
    pub async fn run(mut self) {
        while !(self.stage.has_ended() && self.has_seen_all()) {
            self.connect().await;
            let pause = Duration::from_millis(self.rng.within(1, 300));
            sleep(pause).await;
        }
    }

    fn has_seen_all(&self) -> bool {
        let Some(token) = &self.token else { return false };
        let known = self.stage.witness.lock().known();
        known.iter().all(|(partition, end)| token.position(*partition).map_or(Offset::ZERO, Offset::next) >= *end)
    }

    /// One connection, until it breaks, is silent, or has lasted long enough.
    async fn connect(&mut self) {
        let (node, _) = *self.rng.pick(&self.stage.serving);
        let mut target = format!("/v1/feed?prefix={}", self.prefix);
        let mut last_event_id = None;
        match &self.token {
            Some(token) if self.rng.in_thousand(700) => last_event_id = Some(token.to_string()),
            Some(token) => target += &format!("&from={token}"),
            None => {}
        }
        let mut call = Call::new("GET", target).header("prefer", "wait=2").within(Duration::from_secs(3));
        if let Some(id) = last_event_id {
            call = call.header("last-event-id", id);
        }
        let opened = call.open(&self.stage.wire, node).await;
        let opened = self.accept(opened);
        let outcome = if opened.is_some() { Outcome::Ok(()) } else { Outcome::Failed };
        self.stage.witness.lock().count(&outcome);
        let Some((from, stream)) = opened else { return };
        self.token.get_or_insert_with(|| from.clone());
        let events = self.listen(stream).await;
        let (reader, prefix) = (self.number.to_string(), Bytes::from(self.prefix));
        self.stage.witness.lock().note_connection(FeedConnection { reader, from, prefix, events });
    }

    /// A stream, and where it begins.
    fn accept(&self, opened: Result<(Answer, Option<Stream>), HttpLoss>) -> Option<(SessionToken, Stream)> {
        let (answer, stream) = opened.ok()?;
        match (answer.status.as_u16(), answer.position(), stream) {
            (200, Some(from), Some(stream)) => Some((from, stream)),
            (503, ..) => None,
            (429, ..) if answer.problem().is_some_and(|problem| is_definite_refusal(&problem)) => None,
            (status, ..) => {
                let (token, problem) = (&self.token, answer.problem());
                let what = format!("a feed behind {token:?} was answered {status} {problem:?}");
                self.stage.witness.lock().see(super::super::seen::Seen::Wrong { invariant: 5, what });
                None
            }
        }
    }

    async fn listen(&mut self, mut stream: Stream) -> Vec<FeedEvent> {
        let until = Instant::now() + Duration::from_millis(self.rng.within(CONNECTION_MS.0, CONNECTION_MS.1));
        let (mut text, mut events) = (Vec::new(), Vec::new());
        while let Ok(Some(piece)) = timeout_at(until.min(Instant::now() + SILENCE), stream.next()).await {
            text.extend_from_slice(&piece);
            while let Some(event) = feed::next_event(&mut text) {
                let event = event.told();
                if let FeedEvent::Change { id: Some(id), .. } | FeedEvent::Progress { id } = &event {
                    self.token = Some(id.clone());
                }
                if let FeedEvent::Change { version, .. } = &event {
                    self.stage.witness.lock().know(version.partition, version.offset.next());
                }
                events.push(event);
            }
            if self.stage.has_ended() && self.has_seen_all() {
                break;
            }
        }
        events
    }
}
