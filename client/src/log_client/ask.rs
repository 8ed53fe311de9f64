//! One question to one node: sent, answered, decoded; and what its failure lets one conclude.
//!
//! * Invariant: nothing is asked of a node that has not shown to be of our history, but what cluster it belongs to.
//! * Deliberately absent: whom to ask, retries.

use super::LogClientConfig;
use super::directory::{Directory, OtherHistory};
use super::health::Health;
use bytes::Bytes;
use duramen_common::planted::{Plant, is_planted};
use duramen_common::protocol::{ClusterInfo, ClusterRequest, LogRefusal, service};
use duramen_common::seams::Seams;
use duramen_common::{HistoryId, codec};
use duramen_transport::{CallError, Peer, Transport};
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What all tasks of one client share.
pub(super) struct Shared {
    pub(super) config: LogClientConfig,
    pub(super) directory: Directory,
    pub(super) health: Health,
    /// Names this process among those that register under one name.
    pub(super) incarnation: u64,
    transport: Arc<dyn Transport>,
    seams: Seams,
    /// When the cluster was last asked for; held while it is.
    pub(super) refreshed_at: tokio::sync::Mutex<Option<Instant>>,
}

/// Why one node did not answer one question as wanted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Refusal(#[from] LogRefusal),
    #[error("{addr} gave an answer that does not decode: {reason}")]
    Garbled { addr: String, reason: String },
    #[error("{addr} is of history {theirs}, this client of {ours}", ours = other.ours, theirs = other.theirs)]
    OtherHistory { addr: String, other: OtherHistory },
}

impl AskError {
    /// Whether the question has certainly had no effect.
    pub(super) fn is_definite(&self) -> bool {
        match self {
            Self::Call(error) => error.is_definite() || is_planted(Plant::LostAsNotSent),
            Self::Refusal(refusal) => refusal.is_definite(),
            Self::Garbled { .. } => false,
            Self::OtherHistory { .. } => true,
        }
    }
}

impl Shared {
    pub(super) fn new(
        config: LogClientConfig,
        transport: Arc<dyn Transport>,
        seams: Seams,
        directory: Directory,
    ) -> Shared {
        let incarnation = seams.entropy.bits() as u64;
        let refreshed_at = tokio::sync::Mutex::new(None);
        Shared { config, directory, health: Health::default(), incarnation, transport, seams, refreshed_at }
    }

    pub(super) fn attempt_timeout(&self, deadline: Instant) -> Duration {
        let left = deadline.saturating_duration_since(Instant::now());
        left.min(Duration::from_millis(self.config.attempt_timeout_ms))
    }

    /// A pause before round number `round`: doubling, jittered to between half and whole.
    pub(super) fn backoff(&self, round: u32) -> Duration {
        let doubled = self.config.backoff_ms_min.saturating_mul(1 << round.saturating_sub(1).min(16));
        let whole_us = doubled.min(self.config.backoff_ms_max).max(1) * 1_000;
        let jitter_us = (self.seams.entropy.bits() % u128::from(whole_us / 2 + 1)) as u64;
        Duration::from_micros(whole_us - jitter_us)
    }

    /// A number below `count`, by chance.
    pub(super) fn any_below(&self, count: usize) -> usize {
        (self.seams.entropy.bits() % (count.max(1) as u128)) as usize
    }

    /// Asks; the answer has raw bytes behind it.
    pub(super) async fn ask_with_payload<T: DeserializeOwned>(
        &self,
        peer: &Peer,
        service: u8,
        body: Bytes,
        timeout: Duration,
    ) -> Result<(T, Bytes), AskError> {
        let answer = self.call(peer, service, body, timeout).await?;
        match codec::decode_with_payload::<Result<T, LogRefusal>>(&answer) {
            Ok((Ok(answer), payload)) => Ok((answer, payload)),
            Ok((Err(refusal), _)) => Err(refusal.into()),
            Err(error) => Err(AskError::Garbled { addr: peer.addr.clone(), reason: error.to_string() }),
        }
    }

    /// Asks.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        peer: &Peer,
        service: u8,
        body: Bytes,
        timeout: Duration,
    ) -> Result<T, AskError> {
        let answer = self.call(peer, service, body, timeout).await?;
        decode(peer, &answer)
    }

    /// Asks what cluster a node belongs to, and takes it over when it is ours.
    pub(super) async fn ask_cluster(&self, peer: &Peer, timeout: Duration) -> Result<ClusterInfo, AskError> {
        let body = codec::encode(&ClusterRequest {});
        let answer = self.send(peer, service::CLUSTER, body, timeout).await?;
        let info: ClusterInfo = decode(peer, &answer)?;
        match self.directory.adopt(peer, &info) {
            Ok(()) => {
                self.health.well(&peer.addr);
                Ok(info)
            }
            Err(other) => {
                self.health.foreign(&peer.addr, other);
                Err(AskError::OtherHistory { addr: peer.addr.clone(), other })
            }
        }
    }

    /// Which history a node is of, whatever ours is.
    pub(super) async fn history_of(&self, peer: &Peer, timeout: Duration) -> Result<HistoryId, String> {
        let asked = self.transport.call(peer, service::CLUSTER, codec::encode(&ClusterRequest {}), timeout).await;
        let error = match asked.map_err(AskError::from).and_then(|answer| decode::<ClusterInfo>(peer, &answer)) {
            Ok(info) => return Ok(info.history),
            Err(AskError::Call(CallError::Refused { history: Some(history), .. })) => return Ok(history),
            Err(error) => error,
        };
        // A node whose groups are starting does not describe its cluster yet; it has said which that is.
        self.transport.welcome(peer).and_then(|welcome| welcome.history).ok_or_else(|| error.to_string())
    }

    async fn call(&self, peer: &Peer, service: u8, body: Bytes, timeout: Duration) -> Result<Bytes, AskError> {
        let deadline = Instant::now() + timeout;
        if !self.is_of_our_history(peer) {
            self.ask_cluster(peer, timeout).await.map_err(|error| unverified(peer, error))?;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        self.send(peer, service, body, left).await
    }

    async fn send(&self, peer: &Peer, service: u8, body: Bytes, timeout: Duration) -> Result<Bytes, AskError> {
        let error = match self.transport.call(peer, service, body, timeout).await {
            Ok(answer) => {
                if service != service::CLUSTER {
                    self.health.well(&peer.addr);
                }
                return Ok(answer);
            }
            Err(error) => error,
        };
        match (&error, self.directory.pin().get()) {
            (CallError::Refused { addr, history: Some(theirs), .. }, Some(ours)) if ours != *theirs => {
                let other = OtherHistory { ours, theirs: *theirs };
                self.health.foreign(addr, other);
                Err(AskError::OtherHistory { addr: addr.clone(), other })
            }
            _ => {
                self.health.failed(&peer.addr, &error.to_string());
                Err(error.into())
            }
        }
    }

    fn is_of_our_history(&self, peer: &Peer) -> bool {
        let theirs = self.transport.welcome(peer).and_then(|welcome| welcome.history);
        match (self.directory.pin().get(), theirs) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => self.directory.is_verified(&peer.addr),
        }
    }
}

/// The question itself was not asked, whatever became of the one about the cluster.
fn unverified(peer: &Peer, error: AskError) -> AskError {
    match error {
        AskError::OtherHistory { .. } => error,
        _ => CallError::NotSent { addr: peer.addr.clone(), reason: format!("asking for its cluster: {error}") }.into(),
    }
}

fn decode<T: DeserializeOwned>(peer: &Peer, answer: &[u8]) -> Result<T, AskError> {
    match codec::decode::<Result<T, LogRefusal>>(answer) {
        Ok(result) => Ok(result?),
        Err(error) => Err(AskError::Garbled { addr: peer.addr.clone(), reason: error.to_string() }),
    }
}
